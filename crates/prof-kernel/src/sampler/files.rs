//! From what the kernel half says of a file to the file. It is opened at once and held,
//! so that it can be read after the process, its name or its mount is gone.

use std::ffi::OsStr;
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

/// Opens the file that a record tells of; an error if it is not there any more or is
/// another by now. One that `grows` may have become longer.
pub fn find(rec: &RecFile, path: &[u8], grows: bool) -> io::Result<File> {
    let path = Path::new(OsStr::from_bytes(path));
    // The mapping itself: right whatever became of the name.
    let mapped = format!("/proc/{}/map_files/{:x}-{:x}", rec.pid, rec.start, rec.end);
    if let Ok(file) = open(Path::new(&mapped))
        && is(&file, rec, false, grows)
    {
        return Ok(file);
    }
    let inside = PathBuf::from(format!("/proc/{}/root", rec.pid))
        .join(path.strip_prefix("/").unwrap_or(path));
    let mut error = None;
    for candidate in [inside.as_path(), path] {
        match open(candidate) {
            Ok(file) if is(&file, rec, true, grows) => return Ok(file),
            Ok(_) => error = Some(io::Error::other("another file has its name by now")),
            Err(e) => error = error.or(Some(e)),
        }
    }
    Err(error.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
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
