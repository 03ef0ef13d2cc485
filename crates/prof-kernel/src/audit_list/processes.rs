//! Who a number is: what /proc says of a process beyond what the kernel half read.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

use prof_model::record::Ident;
use prof_model::record::Process;

use crate::abi::AbiIdent;
use crate::host;

/// Most folders of a cgroup hierarchy that are looked through.
const MAX_CGROUPS: usize = 1 << 16;

/// The process that the kernel half saw, with its path if it is still there.
pub fn of_kernel(id: &AbiIdent) -> Process {
    let end = id.comm.iter().position(|b| *b == 0).unwrap_or(id.comm.len());
    let ident = Ident {
        pid: id.pid,
        tid: id.tid,
        ppid: id.ppid,
        start_ns: id.start_ns,
        exec: id.exec,
        comm: id.comm[..end].to_vec(),
        uid: id.uid,
        gid: id.gid,
        cgroup_id: id.cgroup_id,
        mntns: id.mntns,
        pidns: id.pidns,
    };
    with_files(ident)
}

/// The process of a pid, as /proc has it; `None` if there is none.
pub fn of_pid(pid: u32, tid: u32) -> Option<Process> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    let number = |name: &str| field(name).and_then(|v| v.parse().ok()).unwrap_or(0);
    let mut comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    comm.pop();
    let namespace = |kind: &str| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(format!("/proc/{pid}/ns/{kind}")).map_or(0, |m| m.ino() as u32)
    };
    Some(with_files(Ident {
        pid,
        tid,
        ppid: number("PPid"),
        start_ns: host::start_of(pid)?,
        exec: 0,
        comm,
        uid: number("Uid"),
        gid: number("Gid"),
        cgroup_id: own_cgroup(pid).unwrap_or(0),
        mntns: namespace("mnt"),
        pidns: namespace("pid"),
    }))
}

/// Its cgroup, in the hierarchy by which the kernel half tells cgroups apart.
fn own_cgroup(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mount = identity_mount()?;
    let path = path_in(&text, &mount)?;
    host::cgroup_id(&mount.path.join(path.trim_start_matches('/'))).ok()
}

/// Where the hierarchy is by which processes are told apart.
fn identity_mount() -> Option<host::CgroupMount> {
    let mounts = host::cgroup_mounts();
    let identity = host::cgroup_identity(&mounts);
    let is = |m: &host::CgroupMount| match identity {
        None => m.v2,
        some => m.controllers.iter().any(|c| host::controller_index(c) == some),
    };
    mounts.into_iter().find(is)
}

/// The path in one hierarchy, of /proc/PID/cgroup: `NUMBER:CONTROLLERS:PATH` each.
fn path_in<'a>(cgroups: &'a str, mount: &host::CgroupMount) -> Option<&'a str> {
    cgroups.lines().find_map(|l| {
        let (controllers, path) = l.split_once(':')?.1.split_once(':')?;
        let is = match mount.v2 {
            true => controllers.is_empty(),
            false => controllers.split(',').any(|c| mount.controllers.iter().any(|m| m == c)),
        };
        is.then_some(path)
    })
}

/// The containers of cgroups, by their ids, which are never used twice: known also when who
/// was in it has ended.
#[derive(Debug)]
pub struct Containers {
    root: Option<(PathBuf, Option<fs::File>)>,
    met: HashMap<u64, Option<String>>,
}

impl Default for Containers {
    fn default() -> Self {
        let root = identity_mount().map(|m| {
            let opened = fs::File::open(&m.path).ok();
            (m.path, opened)
        });
        Self { root, met: HashMap::new() }
    }
}

impl Containers {
    /// The container of a cgroup; `told` if somebody knows already.
    pub fn of(&mut self, cgroup: u64, told: Option<String>) -> Option<String> {
        /// Most that are remembered.
        const MAX: usize = 1 << 16;
        if cgroup == 0 {
            return told;
        }
        if self.met.len() >= MAX {
            self.met.clear();
        }
        if told.is_some() {
            self.met.insert(cgroup, told.clone());
            return told;
        }
        let root = &self.root;
        let found = || {
            let (path, opened) = root.as_ref()?;
            let by_id = opened.as_ref().map(|root| path_of_id(root, cgroup));
            let dir = match by_id {
                Some(Ok(dir)) => dir,
                // It is gone.
                Some(Err(e)) if e.raw_os_error() == Some(libc::ESTALE) => return None,
                _ => find_below(path, cgroup)?,
            };
            container_in(&dir.to_string_lossy())
        };
        self.met.entry(cgroup).or_insert_with(found).clone()
    }
}

/// The folder of a cgroup by its id, which is a handle of kernfs.
fn path_of_id(root: &fs::File, id: u64) -> io::Result<PathBuf> {
    /// `FILEID_KERNFS`.
    const KERNFS: i32 = 0xfe;
    /// `struct file_handle`, with what is behind it.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        id: [u8; 8],
    }
    let mut handle = Handle { bytes: 8, kind: KERNFS, id: id.to_ne_bytes() };
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the handle says how many bytes are behind its head.
    let fd = unsafe { libc::open_by_handle_at(root.as_raw_fd(), (&raw mut handle).cast(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Whether two that have the same pid are the same process: /proc has the start to the tick.
pub fn is_same_start(a: &Ident, b: &Ident) -> bool {
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    a.start_ns.abs_diff(b.start_ns) <= tick
}

fn with_files(ident: Ident) -> Process {
    // The pid may be another's by now.
    let now = |start_ns| Ident { start_ns, ..Ident::default() };
    let is_same = host::start_of(ident.pid).is_some_and(|s| is_same_start(&now(s), &ident));
    let exe = host::exe_of(ident.pid).filter(|_| is_same);
    let container_id = container_of(ident.pid).filter(|_| is_same);
    Process { ident, exe, container_id, ..Process::default() }
}

/// 64 hex digits in the path of its cgroup.
fn container_of(pid: u32) -> Option<String> {
    container_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

fn container_in(cgroups: &str) -> Option<String> {
    let mut parts = cgroups.split(|c: char| !c.is_ascii_hexdigit());
    parts.rfind(|p| p.len() == 64).map(str::to_owned)
}

/// Path of a cgroup below the root of its hierarchy. Perf's are those of the
/// hierarchy that its controller is in: v2, unless a v1 one has it.
pub fn cgroup_path(id: u64) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt as _;
    let mounts = host::cgroup_mounts();
    let v1 = |m: &&host::CgroupMount| m.controllers.iter().any(|c| c == "perf_event");
    let root = mounts.iter().find(v1).or_else(|| mounts.iter().find(|m| m.v2))?;
    let found = find_below(&root.path, id)?;
    let below = found.strip_prefix(&root.path).ok()?;
    Some([b"/", below.as_os_str().as_bytes()].concat())
}

fn find_below(root: &Path, id: u64) -> Option<PathBuf> {
    let mut waiting = vec![root.to_owned()];
    let mut seen = 0;
    while let Some(folder) = waiting.pop() {
        if host::cgroup_id(&folder).is_ok_and(|i| i == id) {
            return Some(folder);
        }
        seen += 1;
        if seen > MAX_CGROUPS {
            return None;
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let folders = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        waiting.extend(folders.map(|e| e.path()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_in_the_path_of_its_cgroup() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(container_in(&format!("0::/docker/{id}\n")), Some(id.clone()));
        let scope = format!("1:name=systemd:/x\n0::/system.slice/docker-{id}.scope\n");
        assert_eq!(container_in(&scope), Some(id.clone()));
        assert_eq!(container_in(&format!("0::/docker/{id}f\n")), None);
        assert_eq!(container_in("0::/user.slice\n"), None);
    }

    #[test]
    fn a_cgroup_s_path_is_that_of_its_hierarchy() {
        let text = "5:cpu,cpuacct:/one\n3:memory:/two:x\n0::/three\n";
        let mount = |controllers: &[&str]| host::CgroupMount {
            path: "/".into(),
            v2: controllers.is_empty(),
            controllers: controllers.iter().map(|c| (*c).to_owned()).collect(),
        };
        assert_eq!(path_in(text, &mount(&["memory"])), Some("/two:x"));
        assert_eq!(path_in(text, &mount(&["cpuacct", "cpu"])), Some("/one"));
        assert_eq!(path_in(text, &mount(&[])), Some("/three"));
        assert_eq!(path_in(text, &mount(&["pids"])), None);
    }

    #[test]
    fn what_was_told_of_a_cgroup_is_kept() {
        let mut containers = Containers { root: None, met: HashMap::new() };
        assert_eq!(containers.of(7, None), None);
        assert_eq!(containers.of(8, Some("x".into())).as_deref(), Some("x"));
        assert_eq!(containers.of(8, None).as_deref(), Some("x"));
        assert_eq!(containers.of(0, None), None);
    }

    #[test]
    fn a_folder_is_found_by_its_inode() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir_all(dir.path().join("z/y")).unwrap();
        let id = host::cgroup_id(&deep).unwrap();
        assert_eq!(find_below(dir.path(), id), Some(deep));
        assert_eq!(find_below(&dir.path().join("z"), id), None);
    }

    #[test]
    fn this_process_is_told_as_the_kernel_has_it() {
        let me = of_pid(std::process::id(), 1).unwrap();
        assert_eq!(me.ident.ppid, std::os::unix::process::parent_id());
        assert_eq!(me.ident.uid, rustix::process::getuid().as_raw());
        assert!(me.exe.is_some() && me.ident.mntns != 0);
        assert_eq!(of_pid(u32::MAX, 1), None);
    }
}
