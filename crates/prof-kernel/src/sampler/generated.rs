//! What processes tell of the code that they make: perf maps, which lie in the `/tmp` that
//! the process sees under the pid that it sees, and jitdumps, which they map. Both are
//! opened while the process lives, and held: container and process may be gone when the
//! names are wanted.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;

/// Most perf maps and jitdumps that are held open: a quarter of the descriptors that a
/// process usually may have. Perf maps of further processes are opened at the end, if they
/// are still there.
const MAX_HELD: usize = 256;

/// A perf map that is not there is looked for again after this, in time for a process
/// that makes code and soon ends.
const AGAIN_NS: u64 = 100_000_000;

/// Whether a file that is mapped is a jitdump, by its name: `jit-PID.dump`, in whatever
/// folder. It is mapped for nothing else but to be found.
pub fn is_jitdump(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    name.starts_with(b"jit-") && name.ends_with(b".dump")
}

/// Whether a file is memory that has no other name than the one its maker gave it.
pub fn is_memory(path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(b"/memfd:")
}

/// Code that a process has made, and what there is to name it.
#[derive(Debug)]
pub struct Generated {
    pid: u32,
    /// The process's pid in its own namespace.
    own_pid: u32,
    tmp: Option<Arc<OwnedFd>>,
    perf_map: Option<File>,
    jitdump: Option<File>,
    epoch_ns: u64,
    looked_ns: Option<u64>,
}

impl Generated {
    /// Of a process; `epoch_ns` is the monotonic time at which the profile began.
    pub(super) fn new(pid: u32, epoch_ns: u64) -> Self {
        Self {
            pid,
            own_pid: own_pid(pid).unwrap_or(pid),
            tmp: None,
            perf_map: None,
            jitdump: None,
            epoch_ns,
            looked_ns: None,
        }
    }

    /// The process, on the host.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// `perf-PID.map`, a regular file of whatever user.
    pub fn perf_map(&self) -> Option<&File> {
        self.perf_map.as_ref()
    }

    /// The jitdump that the process mapped last.
    pub fn jitdump(&self) -> Option<&File> {
        self.jitdump.as_ref()
    }

    /// Monotonic time at which the profile began.
    pub fn epoch_ns(&self) -> u64 {
        self.epoch_ns
    }

    fn open_map(&self) -> io::Result<File> {
        let tmp = self.tmp.as_ref().ok_or(io::ErrorKind::NotFound)?;
        open_in(tmp.as_fd(), &format!("perf-{}.map", self.own_pid))
    }
}

/// What is held of all processes.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By pid, until it is known that the process makes code.
    jitdumps: HashMap<u32, File>,
    /// By device and inode: most processes have the same one.
    folders: HashMap<(u64, u64), Arc<OwnedFd>>,
    held: usize,
}

impl Told {
    /// A process has mapped a jitdump.
    pub fn jitdump(&mut self, pid: u32, file: File) {
        if self.jitdumps.contains_key(&pid) {
            self.jitdumps.insert(pid, file);
        } else if self.held < MAX_HELD {
            self.held += 1;
            self.jitdumps.insert(pid, file);
        }
    }

    /// Opens what is there by now, if that was not tried a moment ago.
    pub fn look(&mut self, code: &mut Generated, now_ns: u64) {
        if code.perf_map.is_some()
            || code.looked_ns.is_some_and(|t| now_ns.saturating_sub(t) < AGAIN_NS)
        {
            return;
        }
        code.looked_ns = Some(now_ns);
        if code.tmp.is_none() {
            code.tmp = self.folder(&format!("/proc/{}/root", code.pid)).ok();
        }
        if self.held < MAX_HELD
            && let Ok(map) = code.open_map()
        {
            self.held += 1;
            code.perf_map = Some(map);
        }
    }

    /// At the end: what has the name by now is the newest. Of a process that was gone
    /// before it was looked at, what lies in the host's `/tmp`.
    pub fn complete(&mut self, code: &mut Generated) {
        if code.tmp.is_none() {
            code.tmp = self.folder("/").ok();
        }
        if let Ok(map) = code.open_map() {
            code.perf_map = Some(map);
        }
        code.jitdump = self.jitdumps.remove(&code.pid);
    }

    /// `/tmp` under a root; links in it lead no further than to that root.
    fn folder(&mut self, root: &str) -> io::Result<Arc<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let tmp = rustix::fs::openat2(root, "tmp", flags, Mode::empty(), inside)?;
        let stat = rustix::fs::fstat(&tmp)?;
        let known = self.folders.entry((stat.st_dev, stat.st_ino));
        Ok(Arc::clone(known.or_insert_with(|| Arc::new(tmp))))
    }
}

/// Opens a regular file in a folder, never through a link. What is no such file is only
/// looked at: opening a device may do something, and a pipe waits.
fn open_in(folder: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    if !FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode).is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

/// The pid of a process in the innermost namespace that it is in.
fn own_pid(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    innermost(&status)
}

fn innermost(status: &str) -> Option<u32> {
    let pids = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
    pids.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn jitdumps_are_known_by_name() {
        let is = |p: &str| is_jitdump(Path::new(p));
        assert!(is("/tmp/jit-1.dump") && is("/root/.debug/jit/x.1/jit-12.dump"));
        assert!(!is("/tmp/jit-1.dump/x") && !is("/usr/lib/jit-1.so") && !is("/") && !is(""));
    }

    #[test]
    fn the_own_pid_is_the_innermost() {
        assert_eq!(innermost("Name:\tx\nNSpid:\t120\t7\nNSpgid:\t1\t2\n"), Some(7));
        assert_eq!(innermost("Name:\tNSpid: 5\nNSpid:\t120\n"), Some(120));
        assert_eq!(innermost("NSpid:\n"), None);
        assert_eq!(own_pid(std::process::id()), Some(std::process::id()));
    }

    #[test]
    fn only_regular_files_are_opened_and_no_links() {
        let dir = tempfile::tempdir().unwrap();
        let folder = File::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("map"), "1 1 a\n").unwrap();
        std::os::unix::fs::symlink("map", dir.path().join("link")).unwrap();
        let (fifo, mode) = (dir.path().join("fifo"), Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
        let mut text = String::new();
        open_in(folder.as_fd(), "map").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "1 1 a\n");
        for name in ["link", "fifo", ".", "nothing"] {
            assert!(open_in(folder.as_fd(), name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_link_in_place_of_tmp_stays_below_its_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/mine"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("tmp")).unwrap();
        let tmp = Told::default().folder(dir.path().to_str().unwrap()).unwrap();
        assert!(open_in(tmp.as_fd(), "mine").is_ok());
        assert!(open_in(tmp.as_fd(), "passwd").is_err());
    }

    #[test]
    fn a_perf_map_is_held_when_its_name_is_gone() {
        let me = std::process::id();
        let path = format!("/tmp/perf-{me}.map");
        let (mut told, mut code) = (Told::default(), Generated::new(me, 0));
        told.look(&mut code, 5);
        assert!(code.perf_map().is_none());
        std::fs::write(&path, "1 1 a\n").unwrap();
        // Not again at once.
        told.look(&mut code, 6);
        assert!(code.perf_map().is_none());
        told.look(&mut code, 6 + AGAIN_NS);
        assert!(code.perf_map().is_some());
        std::fs::remove_file(&path).unwrap();
        told.complete(&mut code);
        let mut text = String::new();
        code.perf_map().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "1 1 a\n");
    }
}
