//! What /proc, /sys and the cgroup file system say about this machine.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use prof_model::figures::Keeps;

pub use crate::sys::as_the_user;

/// CPUs that are online.
pub fn online_cpus() -> io::Result<Vec<u32>> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online")?;
    parse_cpu_list(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "cpu/online is no list of CPUs"))
}

/// A number that a CPU has from when it comes until it goes: the kernel makes this folder
/// anew each time. `None` if it is not there.
pub fn cpu_came(cpu: u32) -> Option<u64> {
    let meta = fs::metadata(format!("/sys/devices/system/cpu/cpu{cpu}/topology"));
    meta.ok().map(|m| m.ino())
}

/// Whether it is online, and has been ever since [`cpu_came`] said this.
pub(crate) fn cpu_is_still_there(cpu: u32, came: Option<u64>) -> bool {
    cpu_came(cpu) == came && online_cpus().is_ok_and(|online| online.contains(&cpu))
}

/// CPUs that are online and were not set apart from interruptions: neither isolated
/// nor without a tick.
pub fn interruptible_cpus() -> Vec<u32> {
    let list = |name: &str| -> Vec<u32> {
        let text = fs::read_to_string(format!("/sys/devices/system/cpu/{name}"));
        text.ok().and_then(|t| parse_cpu_list(&t)).unwrap_or_default()
    };
    let (isolated, no_tick) = (list("isolated"), list("nohz_full"));
    let mut cpus = online_cpus().unwrap_or_default();
    cpus.retain(|c| !isolated.contains(c) && !no_tick.contains(c));
    cpus
}

/// CPUs that may ever be there, which is how long per-CPU values are.
pub fn possible_cpus() -> io::Result<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    parse_cpu_list(&text).and_then(|l| l.last().map(|c| *c as usize + 1)).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "cpu/possible is no list of CPUs")
    })
}

/// `0-3,8` as a list.
fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        let (a, b): (u32, u32) = (a.parse().ok()?, b.parse().ok()?);
        if b < a || b > 1 << 16 {
            return None;
        }
        cpus.extend(a..=b);
    }
    Some(cpus)
}

/// What this kernel keeps per task: each file is there if the accounting is.
pub fn keeps() -> Keeps {
    let has = |p: &str| Path::new(p).exists();
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    Keeps {
        run_delay: has("/proc/self/schedstat"),
        io_chars: io.contains("rchar") && xacct(&io),
        io_bytes: io.contains("read_bytes"),
    }
}

/// Without CONFIG_TASK_XACCT the file is there with zeroes: this process has read
/// something by now.
fn xacct(io: &str) -> bool {
    io.lines().any(|l| l.strip_prefix("rchar: ").is_some_and(|v| v.trim() != "0"))
}

/// Host name, kernel release and machine.
pub fn uname() -> (String, String, String) {
    let u = rustix::system::uname();
    let text = |c: &std::ffi::CStr| c.to_string_lossy().into_owned();
    (text(u.nodename()), text(u.release()), text(u.machine()))
}

/// A mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMount {
    /// Where.
    pub path: PathBuf,
    /// Whether it is the v2 hierarchy.
    pub v2: bool,
    /// Controllers of a v1 hierarchy.
    pub controllers: Vec<String>,
}

/// The cgroup hierarchies that are mounted.
pub fn cgroup_mounts() -> Vec<CgroupMount> {
    parse_cgroup_mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

fn parse_cgroup_mounts(mountinfo: &str) -> Vec<CgroupMount> {
    let mut mounts = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(path) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        let v2 = match right.next() {
            Some("cgroup2") => true,
            Some("cgroup") => false,
            _ => continue,
        };
        let options = right.nth(1).unwrap_or_default();
        let controllers = if v2 {
            Vec::new()
        } else {
            options
                .split(',')
                .filter(|o| !matches!(*o, "rw" | "ro" | "clone_children" | "noprefix" | "xattr"))
                .filter(|o| !o.contains('='))
                .map(str::to_owned)
                .collect()
        };
        mounts.push(CgroupMount { path: PathBuf::from(path), v2, controllers });
    }
    mounts
}

/// Index of a v1 controller in the kernel's table: the order of /proc/cgroups.
pub fn controller_index(name: &str) -> Option<u32> {
    let text = fs::read_to_string("/proc/cgroups").ok()?;
    let rows = text.lines().filter(|l| !l.starts_with('#'));
    rows.enumerate().find(|(_, l)| l.split_whitespace().next() == Some(name)).map(|(i, _)| i as u32)
}

/// The hierarchy by which processes are told apart: v2 where processes are
/// managed by it, else the v1 hierarchy of a controller that every manager uses.
/// `None` stands for v2.
pub fn cgroup_identity(mounts: &[CgroupMount]) -> Option<u32> {
    // On a hybrid host v2 is there, below `unified`, without controllers.
    let v2_root = mounts.iter().any(|m| m.v2 && m.path == Path::new("/sys/fs/cgroup"));
    if v2_root || mounts.iter().all(|m| m.v2) {
        return None;
    }
    ["memory", "pids", "cpu", "devices"]
        .iter()
        .find(|c| mounts.iter().any(|m| m.controllers.iter().any(|x| x == *c)))
        .and_then(|c| controller_index(c))
}

/// Parses field 22 of /proc/PID/stat, the start in ticks; the name in field 2
/// may hold anything, so fields count from its last parenthesis.
pub fn parse_stat(stat: &str) -> Option<(u32, u64)> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace();
    let ppid = fields.nth(1)?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    Some((ppid, start))
}

/// The process of this thread: the same id, if it is the thread's that leads it. `None` if
/// no thread has the id.
pub fn process_of(tid: u32) -> Option<u32> {
    let status = fs::read(format!("/proc/{tid}/status")).ok()?;
    // The name, in the first line, may hold anything but an end of line.
    String::from_utf8_lossy(&status)
        .lines()
        .find_map(|l| l.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// Whether its last thread has exited, and only its parent has not taken notice.
pub fn is_zombie(pid: u32) -> bool {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let behind_name = stat.iter().rposition(|b| *b == b')').map_or(&[][..], |at| &stat[at + 1..]);
    // The leader alone may have gone: then others are there.
    matches!(behind_name.trim_ascii_start().first(), Some(b'Z' | b'X'))
        && fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1
}

/// Whether a process has this id.
pub fn exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// (pid, parent) of every process.
pub fn processes() -> Vec<(u32, u32)> {
    let Ok(dir) = fs::read_dir("/proc") else { return Vec::new() };
    dir.flatten()
        .filter_map(|e| {
            let pid: u32 = e.file_name().to_str()?.parse().ok()?;
            let stat = fs::read(e.path().join("stat")).ok()?;
            let (ppid, _) = parse_stat(&String::from_utf8_lossy(&stat))?;
            Some((pid, ppid))
        })
        .collect()
}

/// Start of a process, ns since boot, to the tick.
pub fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let (_, ticks) = parse_stat(&String::from_utf8_lossy(&stat))?;
    Some(ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second())
}

/// Whether this process sees the host's process ids. In a pid namespace of its own
/// it knows others only by numbers that mean something else to the kernel half.
pub fn sees_host_pids() -> bool {
    // PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h.
    matches!(namespace("pid"), 0 | 0xEFFF_FFFC)
}

/// Inode of a namespace of this process; 0 if it cannot be told.
pub fn namespace(kind: &str) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(format!("/proc/self/ns/{kind}")).map_or(0, |m| m.ino() as u32)
}

/// Whether the kernel is of this version or a later one.
pub fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let (_, release, _) = uname();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    matches!(
        (numbers.next(), numbers.next()),
        (Some(Ok(a)), Some(Ok(b))) if (a, b) >= (major, minor)
    )
}

/// Path of the executable of a running process, as it is now.
pub fn exe_of(pid: u32) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt as _;
    Some(fs::read_link(format!("/proc/{pid}/exe")).ok()?.into_os_string().into_vec())
}

/// Arguments of a running process, as they are now.
pub fn args_of(pid: u32) -> Option<Vec<Vec<u8>>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(split_args(&bytes))
}

/// NUL-terminated arguments as a list.
pub fn split_args(bytes: &[u8]) -> Vec<Vec<u8>> {
    let body = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if body.is_empty() && bytes.is_empty() {
        return Vec::new();
    }
    body.split(|b| *b == 0).map(<[u8]>::to_vec).collect()
}

/// Path of the cgroup of this id below the root of its hierarchy, if it is found among the
/// first so many.
pub fn cgroup_path(id: u64) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt as _;
    const MOST: usize = 1 << 14;
    let mut seen = 0;
    for mount in cgroup_mounts() {
        let mut dirs = vec![mount.path.clone()];
        while let Some(dir) = dirs.pop() {
            seen += 1;
            if seen > MOST {
                return None;
            }
            if cgroup_id(&dir).is_ok_and(|i| i == id) {
                let path = dir.strip_prefix(&mount.path).ok()?;
                return Some([b"/", path.as_os_str().as_bytes()].concat());
            }
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            let is_dir = |e: &fs::DirEntry| e.file_type().is_ok_and(|t| t.is_dir());
            dirs.extend(entries.flatten().filter(is_dir).map(|e| e.path()));
        }
    }
    None
}

/// Id of a cgroup directory: its inode.
pub fn cgroup_id(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata(path)?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_cpu_list("0"), Some(vec![0]));
        assert_eq!(parse_cpu_list("3-1"), None);
        assert_eq!(parse_cpu_list(""), None);
    }

    #[test]
    fn stat_with_a_hostile_name() {
        let fields: Vec<String> = (3..=30).map(|i| i.to_string()).collect();
        let stat = format!("12 (a) S 9 (b) {}", fields.join(" "));
        assert_eq!(parse_stat(&stat), Some((4, 22)));
        assert_eq!(parse_stat("no parenthesis"), None);
    }

    #[test]
    fn cgroup_mounts_of_a_hybrid_host() {
        let info = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
                    31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                    32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                    33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let m = parse_cgroup_mounts(info);
        assert_eq!(m.len(), 3);
        assert!(m[0].v2);
        assert_eq!(m[1].controllers, ["cpu", "cpuacct"]);
        assert!(m[2].controllers.is_empty());
    }

    #[test]
    fn arguments_keep_empty_ones() {
        assert_eq!(split_args(b"a\0\0b\0"), vec![b"a".to_vec(), b"".to_vec(), b"b".to_vec()]);
        assert_eq!(split_args(b"cut"), vec![b"cut".to_vec()]);
        assert!(split_args(b"").is_empty());
    }
}
