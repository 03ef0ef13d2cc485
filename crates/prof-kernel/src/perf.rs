//! Counting one command without privileges: perf events that its children
//! inherit, begun by its exec, and what `wait4` says of it.

use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;

use prof_model::figures::Event;
use prof_model::figures::Figures;
use prof_model::figures::Value;

use crate::spawn::Usage;
use crate::sys;
use crate::sys::PerfSpec;

const SOFTWARE: u32 = 1;

/// What is counted by perf; the rest comes from `wait4`.
const EVENTS: [(Event, u64); 3] =
    [(Event::TaskClock, 1), (Event::PageFaults, 2), (Event::CpuMigrations, 4)];

/// Counters on a command that has not executed yet.
#[derive(Debug)]
pub struct Counters {
    fds: Vec<(Event, io::Result<OwnedFd>)>,
    /// Whether the kernel side had to be left out.
    pub user_only: bool,
}

const NOT_WITHOUT: &str = "not to be had without privileges: it needs CAP_BPF and CAP_PERFMON";

/// Opens the counters on a child that waits for its exec.
pub fn open(pid: u32) -> Counters {
    let open = |exclude_kernel| -> Vec<(Event, io::Result<OwnedFd>)> {
        EVENTS
            .iter()
            .map(|(event, config)| {
                let spec = PerfSpec {
                    kind: SOFTWARE,
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
    /// The figures after the end of the command, over a window of `wall_ns`.
    pub fn figures(&self, usage: &Usage, wall_ns: u64) -> Figures {
        let mut f = Figures::absent(NOT_WITHOUT);
        let mut is = |e, v| f.set(e, Value::Is(v));
        is(Event::WallTime, wall_ns);
        is(Event::UserTime, usage.user_ns);
        is(Event::SystemTime, usage.system_ns);
        // The kernel's own sum, kernel mode included, if perf may not count it.
        is(Event::TaskClock, usage.user_ns + usage.system_ns);
        is(Event::PageFaults, usage.min_flt + usage.maj_flt);
        is(Event::MinorFaults, usage.min_flt);
        is(Event::MajorFaults, usage.maj_flt);
        is(Event::ContextSwitches, usage.nvcsw + usage.nivcsw);
        is(Event::VoluntarySwitches, usage.nvcsw);
        is(Event::InvoluntarySwitches, usage.nivcsw);
        is(Event::PeakRss, usage.max_rss);
        for (event, fd) in &self.fds {
            // User mode only would miss the switches, faults and time in the kernel.
            if self.user_only {
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
