//! A profiler of itself: perf events opened, switched and closed in each of the ways.

use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd};

use crate::args::Args;
use crate::compat;
use crate::error::{Error, Result};
use crate::link;
use crate::report::Facts;
use crate::sys;

const SOFTWARE: u32 = 1;
/// `PERF_COUNT_SW_CPU_CLOCK`, `_PAGE_FAULTS`, `_CONTEXT_SWITCHES`.
const CPU_CLOCK: u64 = 0;
const PAGE_FAULTS: u64 = 2;
const CONTEXT_SWITCHES: u64 = 3;
const DISABLED: u64 = 1;
const INHERIT: u64 = 1 << 1;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const ENABLE_ON_EXEC: u64 = 1 << 12;

/// `PERF_EVENT_IOC_*`.
const ENABLE: u64 = 0x2400;
const DISABLE: u64 = 0x2401;
const RESET: u64 = 0x2403;
const SET_BPF: u64 = 0x4004_2408;
/// `PERF_IOC_FLAG_GROUP`.
const GROUP: u64 = 1;

/// `PR_TASK_PERF_EVENTS_*`.
const PRCTL_DISABLE: i32 = 31;
const PRCTL_ENABLE: i32 = 32;

/// `perf_event_attr` as of its first version: 64 bytes.
#[repr(C)]
#[derive(Default)]
pub struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample_type: u64,
    read_format: u64,
    bits: u64,
    wakeup: u32,
    bp_type: u32,
    config1: u64,
}

impl Attr {
    fn of(config: u64, bits: u64) -> Self {
        Self { kind: SOFTWARE, size: 64, config, bits, ..Self::default() }
    }
}

/// Opens an event on this thread.
fn open(config: u64, bits: u64, leader: Option<&OwnedFd>) -> Result<OwnedFd> {
    open_on(0, -1, config, bits, leader)
}

fn open_on(
    pid: i32,
    cpu: i32,
    config: u64,
    bits: u64,
    leader: Option<&OwnedFd>,
) -> Result<OwnedFd> {
    open_attr(&Attr::of(config, bits), pid, cpu, leader)
}

fn open_attr(attr: &Attr, pid: i32, cpu: i32, leader: Option<&OwnedFd>) -> Result<OwnedFd> {
    let attr = std::ptr::from_ref(attr);
    let leader = leader.map_or(-1, |fd| fd.as_raw_fd());
    // SAFETY: the attr says its own size; the rest are numbers.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr, pid, cpu, leader, 0) };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor that nobody else has.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Error::last_os("perf_event_open")),
    }
}

/// A clock that samples this thread.
fn open_sampling() -> Result<OwnedFd> {
    let attr = Attr { period: 1_000_000, ..Attr::of(CPU_CLOCK, EXCLUDE_KERNEL) };
    open_attr(&attr, 0, -1, None)
}

fn ioctl(fd: &OwnedFd, request: u64, arg: u64) -> Result<()> {
    // SAFETY: these take a number.
    sys::check("ioctl", unsafe { libc::ioctl(fd.as_raw_fd(), request, arg) }).map(drop)
}

/// One that the kernel need not know.
fn any_ioctl(fd: &OwnedFd, request: u64) {
    // SAFETY: those that are tried here take a number, or fail.
    unsafe { libc::ioctl(fd.as_raw_fd(), request, 1) };
}

/// With bits set that the kernel does not look at: it takes an int.
fn wide_prctl(option: i32) -> Result<()> {
    let option = i64::from(option) | 1 << 32;
    // SAFETY: these take no argument.
    sys::check("prctl", unsafe { libc::syscall(libc::SYS_prctl, option, 0, 0, 0, 0) } as i32)
        .map(drop)
}

fn prctl(option: i32) -> Result<()> {
    // SAFETY: these take no argument.
    sys::check("prctl", unsafe { libc::prctl(option, 0, 0, 0, 0) }).map(drop)
}

/// `perf STEP...`
pub fn perf(args: Args) -> Result<()> {
    let mut open_ones: Vec<OwnedFd> = Vec::new();
    Facts::with_pid().print()?;
    let mut steps = args.optional_command().into_iter();
    while let Some(step) = steps.next() {
        let last = open_ones.last().ok_or_else(|| Error::new("no event is open"));
        match step.to_string_lossy().as_ref() {
            "open" => open_ones.push(open(PAGE_FAULTS, EXCLUDE_KERNEL, None)?),
            "open-off" => open_ones.push(open(PAGE_FAULTS, EXCLUDE_KERNEL | DISABLED, None)?),
            "sampling" => open_ones.push(open_sampling()?),
            "set-bpf" => {
                let prog = link::for_samples()?;
                ioctl(last?, SET_BPF, prog.as_raw_fd() as u64)?;
            }
            "member" => {
                let member = open(CONTEXT_SWITCHES, 0, Some(last?))?;
                open_ones.push(member);
            }
            "open-of" => {
                let pid = steps.next().and_then(|pid| pid.to_string_lossy().parse().ok());
                let pid = pid.ok_or_else(|| Error::new("open-of PID"))?;
                open_ones.push(open_on(pid, -1, PAGE_FAULTS, EXCLUDE_KERNEL, None)?);
            }
            "open-at-exec" => {
                let bits = EXCLUDE_KERNEL | DISABLED | INHERIT | ENABLE_ON_EXEC;
                open_ones.push(open(PAGE_FAULTS, bits, None)?);
            }
            "child" => {
                let time = steps.next().ok_or_else(|| Error::new("child SECONDS"))?;
                let status = std::process::Command::new("sleep").arg(time).status();
                status.map_err(|e| Error::io("sleep", &e))?;
            }
            "enable" => ioctl(last?, ENABLE, 0)?,
            "ioctl" => {
                let request = steps.next().and_then(|n| n.to_string_lossy().parse::<u64>().ok());
                any_ioctl(last?, request.ok_or_else(|| Error::new("ioctl REQUEST"))?);
            }
            "wide-prctl-off" => wide_prctl(PRCTL_DISABLE)?,
            "wide-prctl-on" => wide_prctl(PRCTL_ENABLE)?,
            "disable" => ioctl(last?, DISABLE, 0)?,
            "reset" => ioctl(last?, RESET, 0)?,
            "enable-group" => ioctl(last?, ENABLE, GROUP)?,
            "disable-group" => ioctl(last?, DISABLE, GROUP)?,
            "prctl-off" => prctl(PRCTL_DISABLE)?,
            "prctl-on" => prctl(PRCTL_ENABLE)?,
            // The event lives on in a copy of its descriptor.
            "dup" => {
                let copy = last?.try_clone().map_err(|e| Error::io("dup", &e))?;
                open_ones.pop();
                open_ones.push(copy);
            }
            "close" => drop(open_ones.pop()),
            "close-range" => {
                let fd = open_ones.pop().map_or(-1, OwnedFd::into_raw_fd);
                // SAFETY: takes numbers only; nobody else has this descriptor.
                let ret = unsafe { libc::syscall(libc::SYS_close_range, fd, fd, 0) };
                sys::check("close_range", ret as i32)?;
            }
            "open32" => open_ones.push(compat::open(Attr::of(PAGE_FAULTS, EXCLUDE_KERNEL))?),
            "enable32" => compat::ioctl(last?, ENABLE)?,
            "disable32" => compat::ioctl(last?, DISABLE)?,
            "close32" => open_ones.pop().map_or(Ok(()), compat::close)?,
            "sleep" => {
                let ms = steps.next().and_then(|ms| ms.to_string_lossy().parse::<u64>().ok());
                sys::sleep_ns(ms.ok_or_else(|| Error::new("sleep MS"))? * sys::NS_PER_MS);
            }
            other => return Err(Error::new(format!("unknown step {other}"))),
        }
    }
    // What is still open ends with the process.
    open_ones.into_iter().for_each(std::mem::forget);
    Ok(())
}

/// `perf-hold MS`
pub fn hold(mut args: Args) -> Result<()> {
    let ms = args.number("MS")?;
    args.finish()?;
    let held = open_on(-1, 0, PAGE_FAULTS, 0, None)?;
    sys::fork_child(|| {
        sys::sleep_ns(ms * sys::NS_PER_MS);
        0
    })?;
    // It ends with the last copy.
    drop(held);
    Ok(())
}

/// `perf-storm N SECONDS`: opens and closes N events evenly over so many seconds.
pub fn storm(mut args: Args) -> Result<()> {
    let n = args.number("N")?;
    let seconds = args.number("SECONDS")?;
    args.finish()?;
    let start = sys::clock_ns(libc::CLOCK_MONOTONIC)?;
    for i in 0..n {
        let due = start + seconds * 1_000_000_000 / n.max(1) * i;
        let now = sys::clock_ns(libc::CLOCK_MONOTONIC)?;
        if due > now + 1_000_000 {
            sys::sleep_ns(due - now);
        }
        drop(open(PAGE_FAULTS, EXCLUDE_KERNEL, None)?);
    }
    let end = sys::clock_ns(libc::CLOCK_MONOTONIC)?;
    let mut facts = Facts::with_pid();
    facts.add("elapsed_ns", end.saturating_sub(start));
    facts.add("opened", n);
    facts.print()
}

/// `syscalls N`: rounds of calls that have nothing to do with perf.
pub fn syscalls(mut args: Args) -> Result<()> {
    let n = args.number("N")?;
    args.finish()?;
    let file = std::fs::File::open("/dev/null").map_err(|e| Error::io("/dev/null", &e))?;
    let mut times = [0u64; 4];
    for (i, time) in times.iter_mut().enumerate() {
        let start = sys::clock_ns(libc::CLOCK_MONOTONIC)?;
        for _ in 0..n {
            match i {
                // SAFETY: a request that the file does not know: it fails.
                0 => unsafe { libc::ioctl(file.as_raw_fd(), 0x1234, 0) },
                // SAFETY: asks for a number.
                1 => unsafe { libc::prctl(libc::PR_GET_DUMPABLE) },
                // SAFETY: asks for a number.
                2 => unsafe { libc::getppid() },
                // SAFETY: no descriptor has this number: it fails.
                _ => unsafe { libc::close(-1) },
            };
        }
        *time = sys::clock_ns(libc::CLOCK_MONOTONIC)?.saturating_sub(start);
    }
    let mut facts = Facts::with_pid();
    for (name, time) in ["ioctl_ns", "prctl_ns", "getppid_ns", "close_ns"].iter().zip(times) {
        facts.add(name, time / n.max(1));
    }
    facts.print()
}
