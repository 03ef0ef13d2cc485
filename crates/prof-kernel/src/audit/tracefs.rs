//! What is switched on through the tracing file system: who writes to its files is told by
//! fanotify, which costs nobody anything who does not.

use std::ffi::CString;
use std::fs;
use std::io;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;

use prof_model::record::Ident;

use crate::audit_list::tracefs::OF_KERNEL;
use crate::host;

/// Bytes of a file that are read: to know whether it is on, and to show.
const MAX_TEXT: u64 = 4096;
/// Of these, bytes that are shown.
const SHOWN: usize = 200;
/// Bytes of `set_event`, which has 80 KiB with everything on.
const MAX_SET: u64 = 1 << 20;
/// Instances that are looked at.
const MAX_INSTANCES: usize = 256;

/// A file was written, by whom, and what it says now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Who; little more than the pid if it has ended.
    pub by: Ident,
    /// Below the root of the file system.
    pub file: Vec<u8>,
    /// Whether something is on by it.
    pub on: bool,
    /// The beginning of what it says.
    pub text: Vec<u8>,
}

/// Hears of writes.
#[derive(Debug)]
pub struct Tracefs {
    fd: OwnedFd,
    root: PathBuf,
}

/// Whether something is on, by a file's last name and what it says; `None` of a file that
/// switches nothing.
fn is_on(file: &Path, text: &[u8]) -> Option<bool> {
    let text = text.trim_ascii();
    match file.file_name()?.to_str()? {
        "current_tracer" => Some(text != b"nop"),
        // A * means that something is attached besides, an X some of several.
        "enable" if file.starts_with("events") || file.starts_with("instances") => {
            Some(text.first().is_some_and(|c| matches!(c, b'1' | b'X')))
        }
        "function_profile_enabled" => Some(text == b"1"),
        "kprobe_events" | "uprobe_events" | "dynamic_events" | "set_event" => {
            Some(!text.is_empty())
        }
        _ => None,
    }
}

impl Tracefs {
    /// From now on.
    pub fn open() -> io::Result<Self> {
        let root = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
            .into_iter()
            .map(Path::new)
            .find(|p| p.join("events").is_dir())
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it is not mounted"))?;
        let init = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
        let how = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: takes numbers only.
        let fd = unsafe { libc::fanotify_init(init, how as u32) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = CString::new(root.as_os_str().as_bytes())?;
        let mark = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        // SAFETY: the descriptor is fanotify's and the path ends in NUL.
        let marked = unsafe {
            libc::fanotify_mark(
                fd.as_raw_fd(),
                mark,
                libc::FAN_MODIFY,
                libc::AT_FDCWD,
                path.as_ptr(),
            )
        };
        if marked < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, root: root.into() })
    }

    /// Readable when something was written.
    pub fn as_poll_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What was written since the last time, by others.
    pub fn read(&self) -> Vec<Written> {
        /// `struct fanotify_event_metadata`.
        const SIZE: usize = size_of::<libc::fanotify_event_metadata>();
        let mut all = Vec::new();
        let mut buf = [0u8; 64 * SIZE];
        while let Ok(n @ 1..) = rustix::io::read(&self.fd, &mut buf[..]) {
            let mut rest = &buf[..n];
            while let Some(event) = rest.get(..SIZE) {
                let u32_at = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| event[at + i]));
                let (len, fd, pid) = (u32_at(0) as usize, u32_at(16) as i32, u32_at(20));
                if fd >= 0 {
                    // SAFETY: the kernel has just given it with this event.
                    let file = unsafe { OwnedFd::from_raw_fd(fd) };
                    if pid != std::process::id() {
                        all.extend(self.written(file, pid));
                    }
                }
                rest = rest.get(len.max(SIZE)..).unwrap_or_default();
            }
        }
        all
    }

    /// What is on, of nobody that is known: tracefs does not keep who wrote.
    pub fn now(&self) -> Vec<Written> {
        let mut all = Vec::new();
        let instances = fs::read_dir(self.root.join("instances")).into_iter().flatten().flatten();
        let instances = instances.map(|e| Path::new("instances").join(e.file_name()));
        for below in [PathBuf::new()].into_iter().chain(instances.take(MAX_INSTANCES)) {
            for file in
                ["current_tracer", "function_profile_enabled", "kprobe_events", "uprobe_events"]
            {
                all.extend(self.look(below.join(file)));
            }
            // To look at each of some thousand events takes too long: this file names those
            // that are on.
            let set = self.text(&below.join("set_event"), MAX_SET).unwrap_or_default();
            for (system, event) in String::from_utf8_lossy(&set).lines().filter_map(event_of) {
                let file = below.join("events").join(system).join(event).join("enable");
                all.extend(self.look(file));
            }
        }
        all
    }

    fn look(&self, file: PathBuf) -> Option<Written> {
        let text = self.text(&file, MAX_TEXT)?;
        said(Ident::default(), &file, text).filter(|w| w.on)
    }

    fn text(&self, file: &Path, most: u64) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        let file = fs::File::open(self.root.join(file)).ok()?;
        file.take(most).read_to_end(&mut text).ok()?;
        Some(text)
    }

    fn written(&self, file: OwnedFd, pid: u32) -> Option<Written> {
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        // The same files are below /sys/kernel/debug, too.
        let below = path.strip_prefix(&self.root).or_else(|_| {
            let at = path.components().position(|c| c.as_os_str() == "tracing");
            at.map_or(Err(()), |at| {
                let prefix: PathBuf = path.components().take(at + 1).collect();
                path.strip_prefix(prefix).map_err(drop)
            })
        });
        let below = below.ok()?;
        // Files that switch nothing are not read: to some that means something.
        is_on(below, b"")?;
        let mut text = Vec::new();
        fs::File::from(file).take(MAX_TEXT).read_to_end(&mut text).ok()?;
        said(host::ident_of(pid), below, text)
    }
}

/// What a file says.
fn said(by: Ident, file: &Path, mut text: Vec<u8>) -> Option<Written> {
    let on = is_on(file, &text)?;
    text.truncate(SHOWN);
    Some(Written { by, file: file.as_os_str().as_bytes().into(), on, text })
}

/// A line of `set_event`: `SYSTEM:EVENT`, each a name of a folder.
fn event_of(line: &str) -> Option<(&str, &str)> {
    let line = Some(line.trim()).filter(|l| *l != OF_KERNEL)?;
    let (system, event) = line.split_once(':')?;
    let plain = |name: &str| !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    (plain(system) && plain(event)).then_some((system, event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_are_on_have_folders_of_their_own() {
        assert_eq!(event_of("sched:sched_wakeup\n"), Some(("sched", "sched_wakeup")));
        for line in ["", OF_KERNEL, "sched", "sched:", ":x", "..:..", "a/b:c", "a:../c"] {
            assert_eq!(event_of(line), None, "{line}");
        }
    }

    #[test]
    fn files_say_whether_something_is_on() {
        for (file, text, want) in [
            ("current_tracer", "nop\n", Some(false)),
            ("current_tracer", "function\n", Some(true)),
            ("events/sched/sched_wakeup/enable", "1\n", Some(true)),
            ("events/sched/sched_wakeup/enable", "0\n", Some(false)),
            ("events/sched/enable", "X\n", Some(true)),
            ("events/sched/sched_wakeup/enable", "0*\n", Some(false)),
            ("uprobe_events", "", Some(false)),
            ("uprobe_events", "p:uprobes/x /bin/true:0x10\n", Some(true)),
            ("trace_marker", "x", None),
            ("free_buffer", "", None),
            ("", "", None),
        ] {
            assert_eq!(is_on(Path::new(file), text.as_bytes()), want, "{file} {text:?}");
        }
    }
}
