//! A host's files, read with bounds.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

/// Where a host says what it can count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// `/sys`.
    pub sysfs: PathBuf,
    /// `/sys/kernel/tracing`.
    pub tracefs: PathBuf,
}

/// Largest file that is read, in bytes: sysfs has no larger ones.
const MAX_FILE: u64 = 64 << 10;

/// Most names in a folder that are looked at. Kernels have some 2,500 tracepoints
/// in 150 folders; nothing has this many.
const MAX_NAMES: usize = 16 << 10;

impl Host {
    /// This machine. The tracing file system is where it is mounted: in its own
    /// place or, on old systems, below debugfs.
    pub fn here() -> Self {
        let tracefs: PathBuf = "/sys/kernel/tracing".into();
        let below_debugfs: PathBuf = "/sys/kernel/debug/tracing".into();
        let is_there = |p: &Path| p.join("events").exists();
        let tracefs = match !is_there(&tracefs) && is_there(&below_debugfs) {
            true => below_debugfs,
            false => tracefs,
        };
        Self { sysfs: "/sys".into(), tracefs }
    }

    /// The PMUs' folders.
    pub(crate) fn pmus(&self) -> PathBuf {
        self.sysfs.join("bus/event_source/devices")
    }
}

/// A small text file without whitespace at its end; `None` if it is not there.
pub(crate) fn read(path: &Path) -> io::Result<Option<String>> {
    // Looked at before it is opened: to open a FIFO would wait.
    match fs::metadata(path) {
        Ok(is) if is.is_file() => {}
        Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "not a file")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    }
    let mut text = String::new();
    if File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)? as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than any such file is"));
    }
    text.truncate(text.trim_end().len());
    Ok(Some(text))
}

/// Names in a folder, sorted; those that are no UTF-8 are left out, since nobody
/// could say them. `None` if the folder is not there.
pub(crate) fn names(folder: &Path) -> io::Result<Option<Vec<String>>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
        if names.len() > MAX_NAMES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many names"));
        }
    }
    names.sort_unstable();
    Ok(Some(names))
}

/// Whether a name stays in its folder.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}
