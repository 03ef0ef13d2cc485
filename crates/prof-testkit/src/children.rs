//! Child processes: orphans, zombies, and two with the same pid.

use std::fs;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, pid_t};

use crate::args::Args;
use crate::error::{Error, Result};
use crate::report::Facts;
use crate::sys::{self, Program};

const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
const REUSE_ATTEMPTS: u32 = 50;

/// `zombie MS`
pub fn zombie(mut args: Args) -> Result<()> {
    let ms = args.number("MS")?;
    args.finish()?;
    let child = sys::fork_child(|| 0)?;
    let mut facts = Facts::with_pid();
    facts.add("child_pid", child);
    facts.print()?;
    sys::sleep_ns(ms.saturating_mul(sys::NS_PER_MS));
    let status = sys::wait_for(child)?;
    let mut facts = Facts::new();
    facts.add_status("", status);
    facts.print()
}

/// `linger-fd MS`
pub fn linger_fd(mut args: Args) -> Result<()> {
    let ms = args.number("MS")?;
    args.finish()?;
    let child = sys::fork_child(|| {
        sys::sleep_ns(ms.saturating_mul(sys::NS_PER_MS));
        0
    })?;
    let mut facts = Facts::with_pid();
    facts.add("child_pid", child);
    facts.print()
}

/// `orphan [--outlive] CMD…`
pub fn orphan(mut args: Args) -> Result<()> {
    let outlive = args.leading_flag("--outlive");
    let program = Program::from_command(&args.command()?)?;
    let own_pidfd = open_pidfd(sys::pid())?;
    let (mut reader, mut writer) = io::pipe().map_err(|e| Error::io("pipe", &e))?;

    let middle = sys::fork_child(|| {
        let middle = sys::pid();
        let grandchild = sys::fork_child(|| {
            if outlive && let Err(error) = wait_for_exit(&own_pidfd) {
                eprintln!("prof-target: {error}");
                return 2;
            }
            while sys::parent_pid() == middle {
                sys::sleep_ns(sys::NS_PER_MS);
            }
            program.exec_in_child()
        });
        let sent = grandchild.and_then(|pid| {
            writer.write_all(&pid.to_ne_bytes()).map_err(|e| Error::io("pipe", &e))
        });
        match sent {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("prof-target: {error}");
                2
            }
        }
    })?;

    let status = sys::wait_for(middle)?;
    if status != 0 {
        return Err(Error::new("the process in between failed"));
    }
    let mut grandchild = [0; mem::size_of::<pid_t>()];
    reader.read_exact(&mut grandchild).map_err(|e| Error::io("pipe", &e))?;
    let mut facts = Facts::with_pid();
    facts.add("middle_pid", middle);
    facts.add("grandchild_pid", pid_t::from_ne_bytes(grandchild));
    facts.print()
}

fn open_pidfd(pid: pid_t) -> Result<OwnedFd> {
    // SAFETY: no preconditions.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).map_err(|_| Error::new("pidfd_open: bad descriptor"))?;
    let fd = sys::check("pidfd_open", fd)?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn wait_for_exit(pidfd: &OwnedFd) -> Result<()> {
    let mut entry = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `entry` is one valid entry.
    sys::check("poll", unsafe { libc::poll(&raw mut entry, 1, -1) }).map(drop)
}

/// `pid-reuse [CMD…]`
pub fn pid_reuse(args: Args) -> Result<()> {
    let command = args.optional_command();
    let program = |code| {
        if command.is_empty() {
            Program::own(&["exit", code])
        } else {
            Program::from_command(&command)
        }
    };
    let first = program("7")?;
    let second = program("8")?;

    let pid = first.fork()?;
    let first_status = sys::wait_for(pid)?;

    let by_last_pid = fs::exists(LAST_PID).unwrap_or(false);
    for attempt in 1..=REUSE_ATTEMPTS {
        let got = if by_last_pid {
            fork_after(pid, &second).map(Some)
        } else {
            clone_with_pid(pid, &second)
        }?;
        let Some(got) = got else { continue };
        let status = sys::wait_for(got)?;
        if got != pid {
            continue;
        }
        let mut facts = Facts::with_pid();
        facts.add("method", if by_last_pid { "ns_last_pid" } else { "clone3" });
        facts.add("attempts", attempt);
        facts.add("first_child_pid", pid);
        facts.add_status("first_", first_status);
        facts.add("second_child_pid", got);
        facts.add_status("second_", status);
        return facts.print();
    }
    Err(Error::new(format!("pid {pid} was not given again in {REUSE_ATTEMPTS} attempts")))
}

/// Forks with the last pid set to the one before `pid`; a child with another pid executes nothing.
fn fork_after(pid: pid_t, program: &Program) -> Result<pid_t> {
    fs::write(LAST_PID, (pid - 1).to_string()).map_err(|e| Error::io(LAST_PID, &e))?;
    sys::fork_child(|| if sys::pid() == pid { program.exec_in_child() } else { 0 })
}

/// Creates a child that has `pid`, or none if that is taken.
fn clone_with_pid(pid: pid_t, program: &Program) -> Result<Option<pid_t>> {
    let wanted = [pid];
    // SAFETY: all zeros is a valid value of this plain structure.
    let mut clone: libc::clone_args = unsafe { mem::zeroed() };
    clone.exit_signal = libc::SIGCHLD as u64;
    clone.set_tid = wanted.as_ptr() as u64;
    clone.set_tid_size = wanted.len() as u64;
    let size = mem::size_of::<libc::clone_args>();
    // SAFETY: without flags this is a fork of a process with a single thread.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut clone, size) };
    match result {
        0 => sys::exit_now(program.exec_in_child()),
        -1 => {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EEXIST) => Ok(None),
                _ => Err(Error::io("clone3", &error)),
            }
        }
        child => c_int::try_from(child).map(Some).map_err(|_| Error::new("clone3: bad pid")),
    }
}
