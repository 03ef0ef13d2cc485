//! What `prof record` keeps and `prof report` reads: a profile whose frames have no
//! names yet. A head in plain text, then postcard, gzipped.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Write;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use prof_model::stacks::StackProfile;

/// Names the format and its version: what is behind it changes with the version.
const HEAD: &[u8] = b"prof stacks 4\n";

/// Largest profile that is read, bytes unpacked: a file may say anything.
const MAX_BYTES: u64 = 4 << 30;

/// Writes it.
pub fn write(profile: &StackProfile, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(HEAD)?;
    let bytes = postcard::to_allocvec(profile).map_err(io::Error::other)?;
    let mut gz = GzEncoder::new(out, Compression::fast());
    gz.write_all(&bytes)?;
    gz.finish()?.flush()
}

/// Reads it; an error says what is wrong with the file.
pub fn read(path: &Path) -> Result<StackProfile> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut head = [0u8; HEAD.len()];
    let got = file.read(&mut head).with_context(|| path.display().to_string())?;
    if head.get(..got) != Some(HEAD) {
        let kind = if head.starts_with(b"prof stacks ") {
            "it was written by another version of prof"
        } else {
            "it was not written by `prof record`"
        };
        bail!("{}: {kind}", path.display());
    }
    let mut bytes = Vec::new();
    let mut unpacked = GzDecoder::new(file).take(MAX_BYTES + 1);
    unpacked
        .read_to_end(&mut bytes)
        .with_context(|| format!("{}: it is damaged or cut", path.display()))?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("{}: more than {} GiB unpacked", path.display(), MAX_BYTES >> 30);
    }
    let profile: StackProfile = postcard::from_bytes(&bytes)
        .with_context(|| format!("{}: it is damaged", path.display()))?;
    if let Err(what) = profile.check() {
        bail!("{}: it is damaged: {what}", path.display());
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prof_model::stacks::FrameKind;
    use prof_model::stacks::Identity;
    use prof_model::stacks::Interner;
    use prof_model::stacks::Module;
    use prof_model::stacks::ModuleId;
    use prof_model::stacks::Part;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    fn profile() -> StackProfile {
        let path = OsStr::from_bytes(b"/tmp/not\xfftext").into();
        let identity = Identity { size: 4096, mtime: (-1, 999_999_999), ino: u64::MAX };
        let code = vec![Part { offset: 0x1000, address: 0x40_1000, size: 0x500 }];
        let mut p = StackProfile {
            command: vec!["a".into()],
            modules: vec![Module { path, build_id: vec![1, 2, 3], identity: Some(identity), code }],
            ..StackProfile::default()
        };
        let mut interner = Interner::default();
        let frames =
            [5, 6].map(|at| interner.frame(&mut p, FrameKind::User, Some(ModuleId(0)), at));
        interner.stack(&mut p, frames);
        p
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.prof");
        write(&profile(), &mut File::create(&path).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), profile());
    }

    #[test]
    fn another_file_and_a_cut_one_are_errors_that_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.prof");
        let told = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            format!("{:#}", read(&path).unwrap_err())
        };
        assert!(told(b"PERFILE2").contains("not written by `prof record`"));
        assert!(told(b"").contains("not written by `prof record`"));
        assert!(told(b"prof stacks 9\n...").contains("another version"));
        let mut whole = Vec::new();
        write(&profile(), &mut whole).unwrap();
        for n in HEAD.len()..whole.len() {
            assert!(told(&whole[..n]).contains("damaged"), "{n} of {} bytes", whole.len());
        }
        let mut broken = profile();
        broken.stacks[0].caller = Some(prof_model::stacks::StackId(9));
        whole.clear();
        write(&broken, &mut whole).unwrap();
        assert!(told(&whole).contains("damaged"));
    }
}
