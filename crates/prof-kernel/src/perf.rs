//! Counting one command without privileges: perf events that its children
//! inherit, begun by its exec, and what `wait4` says of it.

use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;

use prof_model::figures::Event;
use prof_model::figures::Figures;
use prof_model::figures::Value;

use crate::counters::PERF_TYPE_SOFTWARE;
use crate::spawn::Usage;
use crate::sys;
use crate::sys::PerfSpec;

/// What is counted by perf; the rest comes from `wait4`.
const EVENTS: [(Event, u64); 5] = [
    (Event::TaskClock, 1),
    (Event::PageFaults, 2),
    (Event::CpuMigrations, 4),
    (Event::MinorFaults, 5),
    (Event::MajorFaults, 6),
];

/// Counters on a command that has not executed yet.
#[derive(Debug)]
pub struct Counters {
    fds: Vec<(Event, io::Result<OwnedFd>)>,
    /// Whether the kernel side had to be left out.
    pub user_only: bool,
}

const NOT_WITHOUT: &str = "only to be had of each process, with CAP_BPF and CAP_PERFMON";
const NOT_ENDED: &str = "the kernel tells it at the end of the command, which still ran";

/// Opens the counters on a child that waits for its exec.
pub fn open(pid: u32) -> Counters {
    let open = |exclude_kernel| -> Vec<(Event, io::Result<OwnedFd>)> {
        EVENTS
            .iter()
            .map(|(event, config)| {
                let spec = PerfSpec {
                    kind: PERF_TYPE_SOFTWARE,
                    config: *config,
                    pid: pid as i32,
                    cpu: -1,
                    inherit: true,
                    enable_on_exec: true,
                    exclude_kernel,
                };
                (*event, sys::perf_open(&spec))
            })
            .collect()
    };
    let fds = open(false);
    // perf_event_paranoid of 2 and more leaves user mode only.
    if fds.iter().all(|(_, fd)| fd.is_err()) {
        return Counters { fds: open(true), user_only: true };
    }
    Counters { fds, user_only: false }
}

impl Counters {
    /// The figures over a window of `wall_ns`; `usage` is there after the end of the command.
    pub fn figures(&self, usage: Option<&Usage>, wall_ns: u64) -> Figures {
        let mut f = Figures::absent(NOT_WITHOUT);
        f.set(Event::WallTime, Value::Is(wall_ns));
        let mut is = |event, of: fn(&Usage) -> u64| {
            f.set(event, usage.map_or(Value::Absent(NOT_ENDED), |u| Value::Is(of(u))));
        };
        is(Event::UserTime, |u| u.user_ns);
        is(Event::SystemTime, |u| u.system_ns);
        // The kernel's own sums, kernel mode included, if perf may not count them.
        is(Event::TaskClock, |u| u.user_ns + u.system_ns);
        is(Event::PageFaults, |u| u.min_flt + u.maj_flt);
        is(Event::MinorFaults, |u| u.min_flt);
        is(Event::MajorFaults, |u| u.maj_flt);
        is(Event::ContextSwitches, |u| u.nvcsw + u.nivcsw);
        is(Event::VoluntarySwitches, |u| u.nvcsw);
        is(Event::InvoluntarySwitches, |u| u.nivcsw);
        is(Event::PeakRss, |u| u.max_rss);
        for (event, fd) in &self.fds {
            // User mode only would miss the switches and the faults in the kernel; a clock of
            // the kernel's goes on there.
            if self.user_only && *event != Event::TaskClock {
                continue;
            }
            if let Ok([value, enabled, running]) = fd
                .as_ref()
                .map_err(io::Error::kind)
                .and_then(|fd| sys::perf_read(fd.as_fd()).map_err(|e| e.kind()))
                && enabled == running
                && enabled > 0
            {
                f.set(*event, Value::Is(value));
            }
        }
        f
    }
}
