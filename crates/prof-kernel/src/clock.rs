//! Clocks: the scheduler's, to bring a task's runtime up to date inside a hook,
//! and the relation of the kernel's monotonic time to the time of day.

use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;

use rustix::time::ClockId;
use rustix::time::clock_gettime;

use crate::abi::MAX_CPUS;
use crate::counters::PERF_TYPE_SOFTWARE;
use crate::sys;
use crate::sys::PerfSpec;

pub(crate) const PERF_COUNT_SW_CPU_CLOCK: u64 = 0;

/// One cpu-clock event for each CPU that is online, with its CPU.
///
/// Opened by the thread that runs `prof_calibrate`, which finds them on that
/// thread's own list of events; no other event may be open in it yet.
pub fn open_cpu_clocks(online: &[u32]) -> io::Result<Vec<(u32, OwnedFd)>> {
    let mut clocks = Vec::with_capacity(online.len());
    for cpu in online.iter().copied().filter(|c| (*c as usize) < MAX_CPUS) {
        let spec = PerfSpec {
            kind: PERF_TYPE_SOFTWARE,
            config: PERF_COUNT_SW_CPU_CLOCK,
            pid: -1,
            cpu: cpu as i32,
            inherit: false,
            enable_on_exec: false,
            exclude_kernel: false,
        };
        match sys::perf_open(&spec) {
            Ok(fd) => clocks.push((cpu, fd)),
            // Went offline since the list was read.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(clocks)
}

/// Puts the events where the programs look for them.
pub fn install(map: std::os::fd::BorrowedFd<'_>, clocks: &[(u32, OwnedFd)]) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    for (cpu, fd) in clocks {
        sys::map_update(map, cpu, &(fd.as_fd().as_raw_fd() as u32))?;
    }
    Ok(())
}

/// Nanoseconds of a clock.
pub fn now_ns(clock: ClockId) -> u64 {
    let t = clock_gettime(clock);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// What to add to CLOCK_MONOTONIC for the time of day. Changes when the clock is
/// set or slewed, so a long session asks again from time to time.
pub fn realtime_offset() -> i64 {
    // The smallest of a few: a preemption between the two reads makes it larger.
    (0..5)
        .map(|_| {
            let mono = now_ns(ClockId::Monotonic) as i64;
            now_ns(ClockId::Realtime) as i64 - mono
        })
        .min()
        .unwrap_or_default()
}

/// Time of day at boot, ns: what to add to a start time of a task.
pub fn boot_realtime_ns() -> u64 {
    now_ns(ClockId::Realtime).saturating_sub(now_ns(ClockId::Boottime))
}
