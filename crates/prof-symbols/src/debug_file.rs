//! The file that has the names of another: its debug file.
//!
//! Looked for by build id, in the debug folders; under the file's own path in a file tree
//! that was given; among what was fetched; then by `.gnu_debuglink`. Both the file and its path come from
//! whoever was profiled. So a link is a name in known folders, never a path; only
//! regular files are opened, as opening a device can have effects; and what is found
//! is taken only if build id or checksum are right.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::Options;
use crate::elf;
use crate::elf::Elf;

/// A debug file.
#[derive(Debug)]
pub(crate) struct DebugFile {
    /// Held open.
    pub file: File,
    /// What is in it.
    pub elf: Elf,
    /// Where it is, if only root or this user can have written it: from there its own
    /// link may be followed.
    pub path: Option<PathBuf>,
}

/// Finds the debug file of `elf`.
pub(crate) fn find(
    file: &File,
    elf: &Elf,
    path: Option<&Path>,
    options: &Options,
) -> Option<DebugFile> {
    let in_trees = folders(options);
    if let Some(name) = by_id(&elf.build_id) {
        let by_id = in_trees.iter().map(|dir| dir.join(&name));
        let fetched = options.fetched.get(&elf.build_id).cloned();
        let in_tree = options.symfs.iter().zip(path).map(|(tree, path)| below(tree, path));
        for place in by_id.chain(in_tree).chain(fetched) {
            if let Some(found) = open(&place)
                && found.elf.build_id == elf.build_id
            {
                return Some(found);
            }
        }
    }

    let (name, sum) = elf.debug_link(file)?;
    let folder = path?.parent()?;
    let beside = [folder.join(&name), folder.join(".debug").join(&name)];
    let apart = in_trees.iter().map(|dir| below(dir, folder).join(&name));
    for place in beside.into_iter().chain(apart) {
        let Some(found) = open(&place) else { continue };
        let same_id = !elf.build_id.is_empty() && found.elf.build_id == elf.build_id;
        // The link of a file may lead to itself, by its name.
        if !same_file(file, &found.file)
            && (same_id || checksum(&found.file, options.memory) == Some(sum))
        {
            return Some(found);
        }
    }
    None
}

/// Finds what a file shares with others. Where it says a path, it is believed only if it
/// is trusted.
pub(crate) fn shared(
    file: &File,
    elf: &Elf,
    path: Option<&Path>,
    options: &Options,
) -> Option<(File, Elf)> {
    let (link, id) = elf.shared_link(file)?;
    let name = by_id(&id)?;
    let beside = path.and_then(Path::parent).map(|folder| folder.join(link));
    folders(options).into_iter().map(|dir| dir.join(&name)).chain(beside).find_map(|place| {
        let found = open(&place)?;
        (found.elf.build_id == id).then_some((found.file, found.elf))
    })
}

/// Folders of debug files, those of the other tree first.
fn folders(options: &Options) -> Vec<PathBuf> {
    let there =
        options.symfs.iter().flat_map(|tree| options.debug_dirs.iter().map(|dir| below(tree, dir)));
    there.chain(options.debug_dirs.iter().cloned()).collect()
}

/// Where a file of this build id is, in such a folder.
pub(crate) fn by_id(id: &[u8]) -> Option<PathBuf> {
    // Go's is no name of a file.
    if id.len() > elf::MAX_BUILD_ID {
        return None;
    }
    let (first, rest) = id.split_first()?;
    let rest: String = rest.iter().map(|b| format!("{b:02x}")).collect();
    Some(format!(".build-id/{first:02x}/{rest}.debug").into())
}

/// A path in another tree.
fn below(tree: &Path, path: &Path) -> PathBuf {
    let inside = path.components().filter(|c| matches!(c, std::path::Component::Normal(_)));
    tree.join(inside.collect::<PathBuf>())
}

fn open(path: &Path) -> Option<DebugFile> {
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let file = elf::reopen(place.as_fd()).ok()?;
    let meta = file.metadata().ok()?;
    let elf = Elf::read(&file).ok()?;
    let ours = meta.uid() == 0 || meta.uid() == rustix::process::geteuid().as_raw();
    let trusted = ours && meta.mode() & 0o022 == 0;
    // The name by build id may be a link to where it is.
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
    Some(DebugFile { file, elf, path: path.filter(|_| trusted) })
}

fn same_file(a: &File, b: &File) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// The checksum of a debug link, over the whole file.
fn checksum(file: &File, most: u64) -> Option<u32> {
    if file.metadata().ok()?.len() > most {
        return None;
    }
    let mut sum = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    let mut at = 0;
    loop {
        let n = file.read_at(&mut buffer, at).ok()?;
        if n == 0 {
            return Some(sum.finalize());
        }
        sum.update(&buffer[..n]);
        at += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::FileType;

    #[test]
    fn a_path_cannot_leave_its_tree() {
        assert_eq!(below(Path::new("/t"), Path::new("/usr/bin/x")), Path::new("/t/usr/bin/x"));
        assert_eq!(below(Path::new("/t"), Path::new("/../../etc/x")), Path::new("/t/etc/x"));
    }

    #[test]
    fn only_regular_elf_files_are_opened() {
        assert!(open(Path::new("/dev/null")).is_none());
        assert!(open(Path::new("/etc/passwd")).is_none());
        assert!(open(&std::env::current_exe().unwrap()).is_some());
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, mode, 0).unwrap();
        assert!(open(&path).is_none());
    }
}
