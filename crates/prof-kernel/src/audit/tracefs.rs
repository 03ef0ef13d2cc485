//! What is switched on through the tracing file system: who writes to its files is told by
//! fanotify, which costs nobody anything who does not.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
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
use prof_model::record::Process;

use crate::audit_list::processes;
use crate::audit_list::tracefs::OF_KERNEL;

/// Bytes of a file that are read: to know whether it is on, and to show.
const MAX_TEXT: u64 = 4096;
/// Of these, bytes that are shown.
const SHOWN: usize = 200;
/// Bytes of `set_event`, which has 80 KiB with everything on.
const MAX_SET: u64 = 1 << 20;
/// Instances that are looked at.
const MAX_INSTANCES: usize = 256;

/// Something was switched, or is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Who; little more than the pid if it has ended, and nothing if nobody knows.
    pub by: Process,
    /// What says so, below the root of the file system.
    pub file: Vec<u8>,
    /// Tells it from all else that this file says.
    pub line: Vec<u8>,
    /// Whether it is on.
    pub on: bool,
    /// The beginning of what the file says of it.
    pub text: Vec<u8>,
    /// Whether somebody was seen to write.
    pub seen: bool,
}

/// Something that is on: the file that says so, and its line there. An event has a file of its
/// own.
type Thing = (PathBuf, Vec<u8>);

/// Hears of writes, and compares what is on with what was.
///
/// One event can be switched by four files, and a group's are gone with the group. So what a
/// file says when it is written means little: after each write all is compared that its
/// instance has on.
#[derive(Debug)]
pub struct Tracefs {
    fd: OwnedFd,
    root: PathBuf,
    /// By instance: the first is below the root itself.
    on: BTreeMap<PathBuf, BTreeSet<Thing>>,
}

/// What an instance has of its own, and what only the first has.
const OF_INSTANCE: [&str; 2] = ["current_tracer", "function_profile_enabled"];
const PROBES: [&str; 3] = ["kprobe_events", "uprobe_events", "dynamic_events"];

/// The instance of a file that switches something; `None` of all others.
fn instance_of(file: &Path) -> Option<PathBuf> {
    let mut parts = file.components();
    let instance = match parts.next()?.as_os_str() {
        first if first == "instances" => Path::new("instances").join(parts.next()?),
        _ => PathBuf::new(),
    };
    let below = file.strip_prefix(&instance).ok()?;
    let name = below.file_name()?.to_str()?;
    let is = match below.parent() {
        Some(folder) if folder.as_os_str().is_empty() => {
            name == "set_event" || OF_INSTANCE.contains(&name) || PROBES.contains(&name)
        }
        _ => name == "enable" && below.starts_with("events"),
    };
    is.then_some(instance)
}

/// Whether a write to a file may have switched what another says.
fn may_switch(written: &Path, says: &Path) -> bool {
    if instance_of(written) != instance_of(says) {
        return false;
    }
    let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
    match (name(written).as_deref(), name(says).as_deref()) {
        (Some("set_event"), Some("enable")) => true,
        (Some("enable"), Some("enable")) => written.parent().is_some_and(|g| says.starts_with(g)),
        (Some("dynamic_events"), Some(probes)) => PROBES.contains(&probes),
        (a, b) => a == b,
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
                // That a file is emptied when it is opened only its close tells.
                libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE,
                libc::AT_FDCWD,
                path.as_ptr(),
            )
        };
        if marked < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, root: root.into(), on: BTreeMap::new() })
    }

    /// Readable when something was written.
    pub fn as_poll_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What was switched since the last time, and by whom of those who wrote.
    pub fn read(&mut self) -> Vec<Written> {
        /// `struct fanotify_event_metadata`.
        const SIZE: usize = size_of::<libc::fanotify_event_metadata>();
        let mut writers: Vec<(PathBuf, u32)> = Vec::new();
        let mut overflow = false;
        let mut buf = [0u8; 64 * SIZE];
        while let Ok(n @ 1..) = rustix::io::read(&self.fd, &mut buf[..]) {
            let mut rest = &buf[..n];
            while let Some(event) = rest.get(..SIZE) {
                let u32_at = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| event[at + i]));
                let (len, fd, pid) = (u32_at(0) as usize, u32_at(16) as i32, u32_at(20));
                if fd >= 0 {
                    // SAFETY: the kernel has just given it with this event.
                    let file = unsafe { OwnedFd::from_raw_fd(fd) };
                    if pid != std::process::id()
                        && let Some(file) = self.switch(&file)
                    {
                        writers.push((file, pid));
                    }
                } else {
                    // Of more than it keeps the kernel only says so.
                    overflow = true;
                }
                rest = rest.get(len.max(SIZE)..).unwrap_or_default();
            }
        }
        let instances = match overflow {
            true => self.instances(),
            false => writers.iter().filter_map(|(f, _)| instance_of(f)).collect(),
        };
        self.compare(&instances, &writers)
    }

    /// What has gone with an instance: that is a folder, which nobody writes. A new one has
    /// nothing on until somebody does.
    pub fn look(&mut self) -> Vec<Written> {
        let now = self.instances();
        let gone = self.on.keys().filter(|i| !now.contains(*i)).cloned().collect();
        for instance in now {
            self.on.entry(instance).or_default();
        }
        self.compare(&gone, &[])
    }

    /// What is on, of nobody that is known: tracefs does not keep who wrote.
    pub fn now(&mut self) -> Vec<Written> {
        self.compare(&self.instances(), &[])
    }

    fn instances(&self) -> BTreeSet<PathBuf> {
        let all = fs::read_dir(self.root.join("instances")).into_iter().flatten().flatten();
        let all = all.map(|e| Path::new("instances").join(e.file_name())).take(MAX_INSTANCES);
        all.chain([PathBuf::new()]).collect()
    }

    /// What these instances have on now and had not, or had and have not.
    fn compare(
        &mut self,
        instances: &BTreeSet<PathBuf>,
        writers: &[(PathBuf, u32)],
    ) -> Vec<Written> {
        let mut all = Vec::new();
        for instance in instances {
            let is_there = self.root.join(instance).is_dir();
            let now = if is_there { self.on_in(instance) } else { BTreeSet::new() };
            let before = self.on.remove(instance).unwrap_or_default();
            let told = |(file, line): &Thing, on| {
                let pid = writers.iter().rev().find(|(w, _)| may_switch(w, file)).map(|w| w.1);
                let by = pid.map(|pid| {
                    let gone = Ident { pid, tid: pid, ..Ident::default() };
                    processes::of_pid(pid, pid)
                        .unwrap_or_else(|| Process { ident: gone, ..Process::default() })
                });
                let mut text = line.clone();
                if text.is_empty() {
                    text = self.text(file, MAX_TEXT).unwrap_or_default();
                }
                text.truncate(SHOWN);
                let file = file.as_os_str().as_bytes().to_vec();
                let seen = pid.is_some();
                Written { by: by.unwrap_or_default(), file, line: line.clone(), on, text, seen }
            };
            all.extend(before.difference(&now).map(|t| told(t, false)));
            all.extend(now.difference(&before).map(|t| told(t, true)));
            if is_there {
                self.on.insert(instance.clone(), now);
            }
        }
        all
    }

    fn on_in(&self, instance: &Path) -> BTreeSet<Thing> {
        let read = |file: &str| {
            let text = self.text(&instance.join(file), MAX_SET).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        let mut on = BTreeSet::new();
        for file in OF_INSTANCE {
            let text = read(file);
            if !matches!(text.trim(), "" | "nop" | "0") {
                on.insert((instance.join(file), text.into_bytes()));
            }
        }
        // To look at each of some thousand events takes too long: this file names those that
        // are on, by whatever they were switched.
        for (system, event) in read("set_event").lines().filter_map(event_of) {
            let file = instance.join("events").join(system).join(event).join("enable");
            on.insert((file, Vec::new()));
        }
        if !instance.as_os_str().is_empty() {
            return on;
        }
        for file in PROBES {
            for line in read(file).lines() {
                // This one has those of the others, too, and events made of others.
                let other = file == "dynamic_events" && !line.starts_with(['e', 'f', 't']);
                if !other {
                    on.insert((file.into(), format!("{line}\n").into_bytes()));
                }
            }
        }
        on
    }

    fn text(&self, file: &Path, most: u64) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        let file = fs::File::open(self.root.join(file)).ok()?;
        file.take(most).read_to_end(&mut text).ok()?;
        Some(text)
    }

    /// The file below the root, if it is one that switches something.
    fn switch(&self, file: &OwnedFd) -> Option<PathBuf> {
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
        instance_of(below).map(|_| below.to_owned())
    }
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
    fn files_that_switch_something_are_of_an_instance() {
        for (file, want) in [
            ("current_tracer", Some("")),
            ("set_event", Some("")),
            ("uprobe_events", Some("")),
            ("events/enable", Some("")),
            ("events/sched/sched_wakeup/enable", Some("")),
            ("instances/x/events/sched/enable", Some("instances/x")),
            ("instances/x/set_event", Some("instances/x")),
            ("events/sched/sched_wakeup/filter", None),
            ("trace_marker", None),
            ("free_buffer", None),
            ("instances/x", None),
            ("", None),
        ] {
            assert_eq!(instance_of(Path::new(file)), want.map(PathBuf::from), "{file}");
        }
    }

    #[test]
    fn who_wrote_may_have_switched_what_is_below() {
        let event = "events/sched/sched_wakeup/enable";
        for (written, says, want) in [
            ("set_event", event, true),
            ("events/sched/enable", event, true),
            ("events/enable", event, true),
            (event, event, true),
            ("events/irq/enable", event, false),
            ("instances/x/set_event", event, false),
            ("dynamic_events", "uprobe_events", true),
            ("kprobe_events", "uprobe_events", false),
            ("current_tracer", "current_tracer", true),
        ] {
            assert_eq!(may_switch(Path::new(written), Path::new(says)), want, "{written} {says}");
        }
    }

    #[test]
    fn what_an_instance_has_on_is_compared_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let put = |file: &str, text: &str| {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let fd = fs::File::open("/dev/null").unwrap().into();
        let mut tracefs = Tracefs { fd, root: root.into(), on: BTreeMap::new() };
        let told = |all: Vec<Written>| -> Vec<String> {
            let one = |w: &Written| {
                let (file, line) = (String::from_utf8_lossy(&w.file), &w.line);
                format!("{} {file} {}", w.on, String::from_utf8_lossy(line).trim())
            };
            all.iter().map(one).collect()
        };
        put("set_event", "a:b\n");
        put("current_tracer", "nop\n");
        put("instances/x/set_event", "a:b\n");
        let on = |file: &str| format!("true {file} ");
        let b = "events/a/b/enable";
        let in_x = "instances/x/events/a/b/enable";
        assert_eq!(told(tracefs.now()), [on(b), on(in_x)]);
        // A second event, and a second probe.
        put("set_event", "a:b\na:c\n");
        put("uprobe_events", "p:u/one /bin/sh:0x1\n");
        let uprobe = |on: bool, line: &str| format!("{on} uprobe_events {line}");
        let now = told(tracefs.now());
        assert_eq!(now, [on("events/a/c/enable"), uprobe(true, "p:u/one /bin/sh:0x1")]);
        put("uprobe_events", "p:u/two /bin/sh:0x2\n");
        put("current_tracer", "function\n");
        assert_eq!(
            told(tracefs.now()),
            [
                uprobe(false, "p:u/one /bin/sh:0x1"),
                "true current_tracer function".to_owned(),
                uprobe(true, "p:u/two /bin/sh:0x2"),
            ]
        );
        assert!(tracefs.look().is_empty());
        fs::remove_dir_all(root.join("instances/x")).unwrap();
        assert_eq!(told(tracefs.look()), [format!("false {in_x} ")]);
    }
}
