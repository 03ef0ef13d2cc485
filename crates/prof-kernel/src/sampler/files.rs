//! From what the kernel half says of a file to the file. It is opened at once and held,
//! so that it can be read after the process, its name or its mount is gone.

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use crate::abi::stacks::RecFile;
use crate::sys;

/// Opens what may be anything.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        // What a hostile process has mapped may be anything: a pipe must not stop us.
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Most namespaces of mounts that a file is looked for in when its process is gone.
const MAX_NAMESPACES: usize = 8;

/// Opens the file that a record tells of; an error if it is not there any more or is
/// another by now. One that `grows` may have become longer. Where the process is gone, one of
/// `others` may see the file under the same path.
pub fn find(
    rec: &RecFile,
    path: &[u8],
    grows: bool,
    others: impl Iterator<Item = u32>,
) -> io::Result<File> {
    let path = Path::new(OsStr::from_bytes(path));
    // The mapping itself: right whatever became of the name.
    let mapped = format!("/proc/{}/map_files/{:x}-{:x}", rec.pid, rec.start, rec.end);
    if let Ok(file) = open(Path::new(&mapped))
        && is(&file, rec, false, grows)
    {
        return Ok(file);
    }
    let mut error = None;
    for candidate in [below(rec.pid, path).as_path(), path] {
        match open(candidate) {
            Ok(file) if is(&file, rec, true, grows) => return Ok(file),
            Ok(_) => error = Some(io::Error::other("another file has its name by now")),
            Err(e) => error = error.or(Some(e)),
        }
    }
    let mut elsewhere = namesakes(others, path).chain(mounted(rec, path));
    if let Some(file) =
        elsewhere.find_map(|p| open(&p).ok().filter(|file| is(file, rec, true, grows)))
    {
        return Ok(file);
    }
    if !Path::new(&format!("/proc/{}", rec.pid)).exists() {
        return Err(io::Error::other(
            "its process was gone before it was opened, and no other one that was sampled sees it",
        ));
    }
    Err(error.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

/// The path as a process sees it.
fn below(pid: u32, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root")).join(path.strip_prefix("/").unwrap_or(path))
}

/// The path in each namespace of mounts that these have and prof has not.
fn namesakes<'a>(
    others: impl Iterator<Item = u32> + 'a,
    path: &'a Path,
) -> impl Iterator<Item = PathBuf> + 'a {
    let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/mnt")).ok();
    let mut seen: Vec<_> = of("self").into_iter().collect();
    let other = move |pid: u32| {
        let namespace = of(&pid.to_string()).filter(|ns| !seen.contains(ns))?;
        seen.push(namespace);
        Some(below(pid, path))
    };
    others.filter_map(other).take(MAX_NAMESPACES)
}

/// Where its file system is mounted here: of a layer of an overlay the path is known within
/// that only.
fn mounted<'a>(rec: &RecFile, path: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    let device = format!("{}:{}", rec.key.dev >> 20, rec.key.dev & 0xf_ffff);
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let place = |line: &[u8]| {
        let mut words = line.split(|b| *b == b' ').skip(2);
        let is_it = words.next()? == device.as_bytes();
        let [root, at] = [words.next()?, words.next()?].map(unescaped);
        let rest = path.strip_prefix(OsStr::from_bytes(&root)).ok()?;
        is_it.then(|| Path::new(OsStr::from_bytes(&at)).join(rest))
    };
    let places: Vec<_> = mounts.split(|b| *b == b'\n').filter_map(place).collect();
    places.into_iter()
}

/// A word of mountinfo: what would end it is written as three octal digits.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, behind @ ..] = rest {
        let digits = behind.get(..3).filter(|_| *first == b'\\');
        let byte =
            digits.and_then(|d| str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &behind[3..] } else { behind };
    }
    out
}

/// Whether it is the one: by what an overlay or a subvolume does not change.
fn is(file: &File, rec: &RecFile, by_inode: bool, grows: bool) -> bool {
    let Ok(meta) = file.metadata() else { return false };
    let mtime = (meta.mtime() as u64).wrapping_mul(1_000_000_000) + meta.mtime_nsec() as u64;
    meta.is_file()
        && (meta.len() == rec.size || grows && meta.len() > rec.size)
        && (rec.key.mtime_ns == 0 || rec.key.mtime_ns == mtime)
        && (!by_inode || meta.ino() == rec.key.ino)
}

/// A file mapped executable by this process, so that the kernel half meets it.
#[derive(Debug)]
pub struct Mapped {
    _map: sys::Mapping,
}

impl Mapped {
    /// Maps its first page.
    pub fn new(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        Ok(Self { _map: sys::Mapping::executable(&file)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Plain as _;

    fn record() -> RecFile {
        RecFile::from_bytes(&[0; size_of::<RecFile>()]).unwrap()
    }

    #[test]
    fn words_of_mounts_are_what_they_were() {
        assert_eq!(unescaped(b"/a\\040b\\134"), b"/a b\\");
        assert_eq!(unescaped(b"/a\\04"), b"/a\\04");
        assert_eq!(unescaped(b""), b"");
    }

    #[test]
    fn a_file_is_found_where_its_file_system_is_mounted() {
        let line_of = |p: &Path| {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let line = mounts.lines().find(|l| l.split(' ').nth(4) == p.to_str())?;
            let device = line.split(' ').nth(2)?.split_once(':')?;
            Some((device.0.parse::<u32>().ok()?, device.1.parse::<u32>().ok()?))
        };
        // Some file system that is not the root's.
        let Some((major, minor)) = line_of(Path::new("/proc")) else { return };
        let path = Path::new("/version");
        let meta = fs::metadata("/proc/version").unwrap();
        let mut rec = record();
        rec.key.ino = meta.ino();
        rec.key.dev = major << 20 | minor;
        assert!(mounted(&rec, path).any(|p| p == Path::new("/proc/version")));
    }

    #[test]
    fn what_is_nowhere_says_that_its_process_was_gone() {
        let mut rec = record();
        rec.pid = u32::MAX;
        let e = find(&rec, b"/no/such/file", false, std::iter::once(std::process::id()));
        assert!(e.unwrap_err().to_string().contains("was gone before"));
    }
}
