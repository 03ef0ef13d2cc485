//! What the kernel keeps per task, how it groups processes, and the files of prof.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use prof_model::figures::Keeps;

use super::Findings;
use super::ProbeOptions;
use super::errors;
use super::privileges;
use super::privileges::Privileges;
use super::report::Check;
use super::report::State;
use crate::host;
use crate::host::CgroupMount;
use crate::sys;

const FIGURES: &str = "Figures";
const HOST: &str = "Host";

/// Checks the figures and the host; returns the hierarchy that cgroups are told by.
pub(super) fn check(found: &mut Findings, options: &ProbeOptions, p: &Privileges) -> String {
    if Path::new("/proc/self/status").exists() {
        accounting(found, &host::keeps());
    } else {
        found.limit("without /proc nothing is known of what the kernel keeps");
        let what = (FIGURES, "proc", "/proc");
        let detail = "is not mounted: run-queue wait and bytes count as not kept, and rules with \
                      names of users and cgroups cannot be resolved";
        found.add(Check::new(what, State::Missing, detail).cure("mount -t proc proc /proc"));
    }
    privileges::executables(found, p);
    let mounts = host::cgroup_mounts();
    let controller = host::cgroup_identity(&mounts).and_then(controller_name);
    found.add(cgroups(&mounts, controller.as_deref()));
    cache(found, &options.cache, p);
    controller.unwrap_or_else(|| "v2".into())
}

/// Where tracefs is mounted, of those places where it is looked for.
pub(super) fn tracefs() -> Option<&'static str> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    TRACEFS.into_iter().find(|place| is_mounted(&table, "tracefs", place))
}

const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

fn is_mounted(mountinfo: &str, kind: &str, place: &str) -> bool {
    mountinfo.lines().any(|l| {
        l.split_once(" - ").is_some_and(|(left, right)| {
            left.split(' ').nth(4) == Some(place) && right.split(' ').next() == Some(kind)
        })
    })
}

/// What stands between this process and the ids of tracepoints, and the cure.
pub(super) fn tracefs_refusal(e: String, p: &Privileges) -> (String, String) {
    match tracefs() {
        Some(place) => {
            let file = format!("{place}/events/sched/sched_process_exec/id");
            let told = match fs::read_to_string(&file) {
                Err(e) => errors::told(&e),
                Ok(_) => e,
            };
            (format!("{file}: {told}"), privileges::cure_for_files(p))
        }
        None => {
            let mount = "sudo mount -t tracefs tracefs /sys/kernel/tracing".to_owned();
            let cure = match p.has("CAP_DAC_READ_SEARCH") {
                true => mount,
                false => format!("{mount}; then {}", privileges::cure_for_files(p)),
            };
            (e, cure)
        }
    }
}

/// A file of a file system that may not be mounted: read from a mount of our own,
/// which nobody else sees. With what to say about that.
pub(super) fn read_kernel_file(
    kind: &str,
    mounted_at: &str,
    file: &str,
) -> Result<(String, &'static str), String> {
    let path = Path::new(mounted_at).join(file);
    if let Ok(text) = fs::read_to_string(&path) {
        return Ok((text, ""));
    }
    let cure = format!("mount -t {kind} {kind} {mounted_at}");
    let not_mounted = fs::read_dir(mounted_at).is_ok_and(|mut d| d.next().is_none());
    if !not_mounted {
        let e = fs::metadata(&path).err().unwrap_or_else(|| io::ErrorKind::PermissionDenied.into());
        return Err(format!("{}: {}", path.display(), errors::told(&e)));
    }
    match read_from_private_mount(kind, file) {
        Ok(text) => Ok((text, ", read from a mount of prof's own")),
        Err(e) => Err(format!("{kind} is not mounted ({cure}): {}", errors::told(&e))),
    }
}

fn read_from_private_mount(kind: &str, file: &str) -> io::Result<String> {
    use rustix::mount::FsMountFlags;
    use rustix::mount::FsOpenFlags;
    use rustix::mount::MountAttrFlags;
    let fs = rustix::mount::fsopen(CString::new(kind)?, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let root = rustix::mount::fsmount(
        fs.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(&root, file, flags, rustix::fs::Mode::empty())?;
    Ok(String::from_utf8_lossy(&sys::read_all(file)?).into_owned())
}

/// What the kernel was built to account, and which figures need it.
fn accounting(found: &mut Findings, keeps: &Keeps) {
    let rows = [
        (
            "sched_info",
            "run-queue wait (CONFIG_SCHED_INFO)",
            keeps.run_delay,
            "run-queue-wait",
            "CONFIG_SCHED_INFO=y (selected by CONFIG_SCHEDSTATS or CONFIG_TASK_DELAY_ACCT)",
        ),
        (
            "task_xacct",
            "bytes by system calls (CONFIG_TASK_XACCT)",
            keeps.io_chars,
            "read-bytes, written-bytes",
            "CONFIG_TASK_XACCT=y",
        ),
        (
            "task_io_accounting",
            "bytes by storage (CONFIG_TASK_IO_ACCOUNTING)",
            keeps.io_bytes,
            "storage-read-bytes, storage-written-bytes",
            "CONFIG_TASK_IO_ACCOUNTING=y",
        ),
    ];
    for (id, title, kept, figures, config) in rows {
        let check = if kept {
            Check::new((FIGURES, id, title), State::Works, figures)
        } else {
            found.limit(format!("this kernel does not keep {figures}"));
            Check::new((FIGURES, id, title), State::Missing, format!("no {figures}"))
                .cure(format!("a kernel with {config}"))
        };
        found.add(check);
    }
}

/// Name of the controller with this index in the kernel's table.
fn controller_name(index: u32) -> Option<String> {
    name_in_table(&fs::read_to_string("/proc/cgroups").ok()?, index)
}

fn name_in_table(table: &str, index: u32) -> Option<String> {
    let row = table.lines().filter(|l| !l.starts_with('#')).nth(index as usize)?;
    Some(row.split_whitespace().next()?.to_owned())
}

fn cgroups(mounts: &[CgroupMount], controller: Option<&str>) -> Check {
    let what = (HOST, "cgroups", "control groups");
    let v1 = mounts.iter().any(|m| !m.v2);
    let v2 = mounts.iter().any(|m| m.v2);
    let layout = match (v1, v2) {
        (false, false) => {
            return Check::new(
                what,
                State::Limited,
                "none is mounted: the rule cgroup= names no path; cgroup ids are those of v2",
            )
            .cure("mount -t cgroup2 cgroup2 /sys/fs/cgroup");
        }
        (false, true) => "v2",
        (true, false) => "v1",
        (true, true) => "v1, with v2 beside it (hybrid)",
    };
    let by = match controller {
        Some(name) => format!("v1 hierarchy of {name}"),
        None => "v2 hierarchy".to_owned(),
    };
    Check::new(what, State::Works, format!("{layout}; processes are told by the {by}"))
}

fn cache(found: &mut Findings, dir: &Path, p: &Privileges) {
    let what = (HOST, "cache", "directory for prepared programs");
    if !p.suffice() {
        let detail = format!("{}: of no use without hooks", dir.display());
        found.add(Check::new(what, State::NotNeeded, detail));
        return;
    }
    let place = dir.display();
    found.add(match try_to_write(dir) {
        Ok(()) => {
            let kept = fs::read_dir(dir).map_or(0, |d| {
                d.flatten().filter(|e| is_prepared(&e.file_name().to_string_lossy())).count()
            });
            Check::new(what, State::Works, format!("{place}: writable, {kept} kept there"))
        }
        Err(e) => {
            let detail = format!("{place}: {}; each start is a whole one", errors::told(&e));
            let check = Check::new(what, State::Limited, detail);
            if p.from_file {
                // What a user puts there must not be loaded with rights he has not.
                check
            } else {
                check.cure(
                    "set PROF_CACHE_DIR to a directory that prof can write to, or run it as root",
                )
            }
        }
    });
}

fn is_prepared(file_name: &str) -> bool {
    file_name.starts_with("programs-")
}

/// Whether prof could put a file there, making the directory if need be.
fn try_to_write(dir: &Path) -> io::Result<()> {
    let Some(there) = dir.ancestors().find(|d| d.exists()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    if there == dir {
        let probe = dir.join(format!(".doctor-{}", std::process::id()));
        fs::OpenOptions::new().write(true).create_new(true).open(&probe)?;
        return fs::remove_file(&probe);
    }
    use rustix::fs::Access;
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(rustix::fs::CWD, there, access, rustix::fs::AtFlags::EACCESS)?;
    Ok(())
}

/// Whether a command can be waited for: `prof run` needs it in any case.
pub(super) fn can_wait(found: &mut Findings) -> bool {
    let what = (HOST, "pidfd", "waiting for a command (pidfd_open)");
    let me = rustix::process::getpid();
    match rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty()) {
        Ok(_) => {
            found.add(Check::new(what, State::Works, "tried on prof itself"));
            true
        }
        Err(e) => {
            let detail = errors::told(&e.into());
            found.add(
                Check::new(what, State::Missing, detail)
                    .cure("a kernel of 5.3 or newer, and no seccomp filter on pidfd_open"),
            );
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(v2: bool) -> CgroupMount {
        CgroupMount { path: "/sys/fs/cgroup".into(), v2, controllers: Vec::new() }
    }

    #[test]
    fn the_layout_of_cgroups_is_named() {
        let detail = |m: &[CgroupMount], c| cgroups(m, c).detail;
        assert_eq!(detail(&[mount(true)], None), "v2; processes are told by the v2 hierarchy");
        assert!(detail(&[mount(false), mount(true)], Some("memory")).contains("hybrid"));
        assert!(detail(&[mount(false)], Some("memory")).contains("v1 hierarchy of memory"));
        assert_eq!(cgroups(&[], None).state, State::Limited);
    }

    #[test]
    fn controllers_are_counted_without_the_heading() {
        let table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\n\
                     cpu\t1\t1\t1\n";
        assert_eq!(name_in_table(table, 1).as_deref(), Some("cpu"));
        assert_eq!(name_in_table(table, 2), None);
    }

    #[test]
    fn a_mount_is_told_by_its_place_and_kind() {
        let table = "20 1 0:8 / /sys/kernel/tracing rw shared:3 - tracefs tracefs rw\n\
                     21 1 0:9 / /sys/kernel/debug rw - debugfs debugfs rw\nodd\n";
        assert!(is_mounted(table, "tracefs", "/sys/kernel/tracing"));
        assert!(!is_mounted(table, "tracefs", "/sys/kernel/debug"));
        assert!(!is_mounted("", "tracefs", "/sys/kernel/tracing"));
    }

    #[test]
    fn what_is_not_kept_names_its_figures_and_is_a_limit() {
        let mut found = Findings::default();
        accounting(&mut found, &Keeps { run_delay: true, io_chars: true, io_bytes: false });
        let missing: Vec<_> =
            found.checks.iter().filter(|c| c.state == State::Missing).map(|c| c.id).collect();
        assert_eq!(missing, ["task_io_accounting"]);
        assert_eq!(found.limits.len(), 1);
        assert!(found.limits[0].contains("storage-read-bytes"));
    }

    #[test]
    fn a_directory_is_tried_without_leaving_anything() {
        let dir = tempfile::tempdir().unwrap();
        try_to_write(dir.path()).unwrap();
        try_to_write(&dir.path().join("a/b")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(try_to_write(Path::new("/proc/self/nothing")).is_err());
    }
}
