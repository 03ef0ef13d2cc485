//! Names that were found before, kept on disk, a file for each module.
//!
//! What is kept belongs to a file as it is: device, inode, size and times, of which
//! nobody can set the last change. A build id alone is what a file says of itself, and
//! another's file may say the same. Only names with lines are kept, as DWARF gives them: no
//! debug file that is installed later says more, and all others are found as fast as
//! they are read here.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;

use prof_model::stacks::Function;
use serde::Deserialize;
use serde::Serialize;

use crate::Named;
use crate::Options;

/// Largest file that is read or written: half a million names.
const MAX_BYTES: u64 = 64 << 20;

/// Modules that are kept; then the ones go that were written longest ago.
const MAX_FILES: usize = 512;

/// Changes with what is kept and how.
const FORMAT: u32 = 1;

const PREFIX: &str = "names-";

/// What the names are of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    format: u32,
    version: String,
    numbers: [i64; 7],
    build_id: Vec<u8>,
    inlines: bool,
    demangle: bool,
}

impl Key {
    /// Of this file, taken for the one of this build id, named with these options.
    pub fn new(file: BorrowedFd<'_>, build_id: &[u8], options: &Options) -> io::Result<Self> {
        let s = rustix::fs::fstat(file.as_fd())?;
        Ok(Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            numbers: [
                s.st_dev as i64,
                s.st_ino as i64,
                s.st_size,
                s.st_mtime,
                s.st_mtime_nsec as i64,
                s.st_ctime,
                s.st_ctime_nsec as i64,
            ],
            build_id: build_id.to_vec(),
            inlines: options.inlines,
            demangle: options.demangle,
        })
    }

    fn path(&self, dir: &Path) -> PathBuf {
        // A file of another key under the same name is seen to be one.
        let hash = prof_cache::hash(&postcard::to_allocvec(self).unwrap_or_default());
        dir.join(format!("{PREFIX}{hash:016x}"))
    }
}

/// Functions by the offset of the instruction.
pub(crate) type Kept = BTreeMap<u64, Named>;

/// Name, source file, line.
type KeptFunction = (String, Option<Vec<u8>>, Option<u32>);

#[derive(Serialize, Deserialize)]
struct Content {
    key: Key,
    names: Vec<(u64, Vec<KeptFunction>)>,
}

/// What is kept; nothing if there is nothing that can be trusted.
pub(crate) fn load(dir: &Path, key: &Key) -> Kept {
    read(dir, key).unwrap_or_default()
}

fn read(dir: &Path, key: &Key) -> Option<Kept> {
    let bytes = prof_cache::read(&key.path(dir), MAX_BYTES)?;
    let content: Content = postcard::from_bytes(&bytes).ok()?;
    if content.key != *key {
        return None;
    }
    let named = |functions: Vec<KeptFunction>| {
        let functions = functions.into_iter().map(|(name, file, line)| {
            let file = file.map(|f| PathBuf::from(OsStr::from_bytes(&f)));
            Function { name, file, line }
        });
        Named { functions: functions.collect(), unnamed: None }
    };
    Some(content.names.into_iter().map(|(at, functions)| (at, named(functions))).collect())
}

/// Whether a name is worth keeping.
pub(crate) fn is_for_good(named: &Named) -> bool {
    named.functions.iter().any(|f| f.line.is_some())
}

/// Keeps the names, whole or not at all. A failure is nobody's loss but time.
pub(crate) fn save(dir: &Path, key: &Key, kept: &Kept) {
    let _ = write(dir, key, kept);
}

fn write(dir: &Path, key: &Key, kept: &Kept) -> io::Result<()> {
    let functions = |named: &Named| {
        let of = named.functions.iter().map(|f| {
            let file = f.file.as_ref().map(|p| p.as_os_str().as_bytes().to_vec());
            (f.name.clone(), file, f.line)
        });
        of.collect()
    };
    let names = kept.iter().map(|(at, named)| (*at, functions(named))).collect();
    let bytes =
        postcard::to_allocvec(&Content { key: key.clone(), names }).map_err(io::Error::other)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Ok(());
    }
    make_room(dir);
    prof_cache::write(&key.path(dir), &bytes)
}

fn make_room(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut files: Vec<_> = entries
        .flatten()
        .filter(|e| e.file_name().as_bytes().starts_with(PREFIX.as_bytes()))
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    if files.len() < MAX_FILES {
        return;
    }
    files.sort();
    for (_, path) in &files[..files.len() - MAX_FILES * 3 / 4] {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    fn key(file: &File) -> Key {
        Key::new(file.as_fd(), b"id", &Options::default()).unwrap()
    }

    fn some() -> Kept {
        let function = Function {
            name: "work".into(),
            file: Some(OsStr::from_bytes(b"/src/\xff.c").into()),
            line: Some(7),
        };
        Kept::from([(0x1234, Named { functions: vec![function], unnamed: None })])
    }

    #[test]
    fn what_is_kept_comes_back_for_the_same_file_only() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let of = key(&file);
        save(dir.path(), &of, &some());
        assert_eq!(load(dir.path(), &of), some());
        file.write_all(b"another").unwrap();
        assert_ne!(key(&file), of);
        assert!(load(dir.path(), &key(&file)).is_empty());
    }

    #[test]
    fn a_file_that_others_can_write_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let of = key(&tempfile::tempfile().unwrap());
        save(dir.path(), &of, &some());
        fs::set_permissions(of.path(dir.path()), fs::Permissions::from_mode(0o622)).unwrap();
        assert!(load(dir.path(), &of).is_empty());
    }

    #[test]
    fn damage_at_any_byte_is_no_panic() {
        let dir = tempfile::tempdir().unwrap();
        let of = key(&tempfile::tempfile().unwrap());
        save(dir.path(), &of, &some());
        let whole = fs::read(of.path(dir.path())).unwrap();
        for i in 0..whole.len() {
            let mut bad = whole.clone();
            bad[i] ^= 0x55;
            fs::write(of.path(dir.path()), &bad).unwrap();
            load(dir.path(), &of);
            fs::write(of.path(dir.path()), &whole[..i]).unwrap();
            assert!(load(dir.path(), &of).is_empty(), "cut at {i}");
        }
    }

    #[test]
    fn old_ones_make_room() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..MAX_FILES {
            fs::write(dir.path().join(format!("{PREFIX}{i}")), b"").unwrap();
        }
        fs::write(dir.path().join("programs-1"), b"").unwrap();
        save(dir.path(), &key(&tempfile::tempfile().unwrap()), &some());
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, MAX_FILES * 3 / 4 + 2);
    }
}
