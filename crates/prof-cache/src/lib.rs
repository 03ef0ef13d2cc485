//! Files that are kept from one run to the next: believed only if they belong to this user
//! and nobody else can have written them, and written whole or not at all. What is in them,
//! and whether that fits, is for whoever keeps them.

use std::fs;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// What a file has; nothing if it cannot be trusted or is larger than `most`.
pub fn read(path: &Path, most: u64) -> Option<Vec<u8>> {
    let file = fs::OpenOptions::new()
        .read(true)
        // Whatever it is, it must not stop us.
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    let meta = file.metadata().ok()?;
    let mine = meta.uid() == rustix::process::geteuid().as_raw();
    if !meta.is_file() || !mine || meta.mode() & 0o022 != 0 || meta.len() > most {
        return None;
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    // It may grow meanwhile.
    file.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Writes a file, and its folder if that is not there. Who reads it meanwhile reads what was
/// there before, or all of it.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    let temporary = path.with_extension(format!("{}", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Half a file under a temporary name helps nobody.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// FNV-1a, for names of files: what is found under a name says itself what it is of.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_written_is_read_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/names-1");
        write(&path, b"some").unwrap();
        assert_eq!(read(&path, 4).as_deref(), Some(&b"some"[..]));
        assert_eq!(read(&path, 3), None);
        write(&path, b"other").unwrap();
        assert_eq!(read(&path, 9).as_deref(), Some(&b"other"[..]));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_others_can_have_written_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kept");
        write(&path, b"some").unwrap();
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path, 9), None, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&path, 9).is_some());
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(read(&link, 9), None);
        assert_eq!(read(dir.path(), 9), None);
        // Only root can give a file to somebody else.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
            assert_eq!(read(&path, 9), None);
        }
    }

    #[test]
    fn names_are_those_of_fnv() {
        // From the table of its authors.
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
