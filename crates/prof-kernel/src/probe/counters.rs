//! Perf events: what this process can have of its own.

use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::Findings;
use super::errors;
use super::host;
use super::privileges::Privileges;
use super::report::Check;
use super::report::State;
use crate::session;
use crate::sys;
use crate::sys::PerfSpec;

const GROUP: &str = "Perf events";

const HARDWARE: u32 = 0;
const SOFTWARE: u32 = 1;
const TRACEPOINT: u32 = 2;

/// Software events, with `PERF_COUNT_SW_*`.
const EVENTS: [(&str, u64); 4] =
    [("task-clock", 1), ("page-faults", 2), ("context-switches", 3), ("cpu-migrations", 4)];

fn own(kind: u32, config: u64, exclude_kernel: bool) -> PerfSpec {
    PerfSpec {
        kind,
        config,
        pid: 0,
        cpu: -1,
        inherit: false,
        enable_on_exec: false,
        exclude_kernel,
    }
}

pub(super) fn check(found: &mut Findings, p: &Privileges) {
    found.add(software(p));
    found.add(on_exec(p));
    found.add(tracepoint(p));
    found.add(hardware());
}

/// Opens the event with the kernel side, or else without; whether it has it.
fn open(kind: u32, config: u64) -> io::Result<(OwnedFd, bool)> {
    match sys::perf_open(&own(kind, config, false)) {
        Ok(fd) => Ok((fd, true)),
        Err(e)
            if e.raw_os_error() == Some(libc::EACCES) || e.raw_os_error() == Some(libc::EPERM) =>
        {
            sys::perf_open(&own(kind, config, true)).map(|fd| (fd, false))
        }
        Err(e) => Err(e),
    }
}

/// Large enough that no allocator has it at hand: its pages are new.
const UNTOUCHED: usize = 40 << 20;

/// Something for the counters to count: a switch and some faults.
fn exercise() {
    std::thread::sleep(Duration::from_millis(1));
    let mut pages = vec![0u8; UNTOUCHED];
    for byte in pages.iter_mut().step_by(4096).take(16) {
        *byte = 1;
    }
    std::hint::black_box(&pages);
}

fn software(p: &Privileges) -> Check {
    let what = (GROUP, "software_events", "software events of own processes");
    let opened: Vec<_> = EVENTS.iter().map(|(name, id)| (*name, open(SOFTWARE, *id))).collect();
    exercise();
    let mut counting = Vec::new();
    let mut silent = Vec::new();
    let mut refused = Vec::new();
    let mut kernel_side = true;
    for (name, event) in &opened {
        match event {
            Ok((fd, with_kernel)) => {
                kernel_side &= with_kernel;
                match sys::perf_read(fd.as_fd()) {
                    // A migration cannot be had for the asking.
                    Ok([0, ..]) if *name != "cpu-migrations" => silent.push(*name),
                    Ok(_) => counting.push(*name),
                    Err(e) => refused.push(format!("{name}: {}", errors::told(&e))),
                }
            }
            Err(e) => refused.push(format!("{name}: {}", errors::told(e))),
        }
    }
    let side = if kernel_side { "kernel side included" } else { "user mode only (EACCES with it)" };
    let mut detail = match counting.is_empty() {
        true => String::new(),
        false => format!("{} count, {side}", counting.join(", ")),
    };
    if !silent.is_empty() {
        detail.push_str(&format!("; no count of {}", silent.join(", ")));
    }
    for r in &refused {
        detail.push_str(&format!("; {r}"));
    }
    let detail = detail.trim_start_matches("; ").to_owned();
    if counting.is_empty() {
        let detail = format!("{detail}; prof run takes the figures from wait4");
        return Check::new(what, State::Missing, detail).cure(cure(p));
    }
    if kernel_side && silent.is_empty() && refused.is_empty() {
        return Check::new(what, State::Works, detail);
    }
    let detail = format!("{detail}; prof run takes the figures from wait4 instead");
    Check::new(what, State::Limited, detail).cure(cure(p))
}

fn cure(p: &Privileges) -> String {
    if p.seccomp && p.suffice() {
        return p.cure();
    }
    format!("sudo sysctl kernel.perf_event_paranoid=1; or {}", p.cure())
}

/// What `prof run` uses when no hooks can be had.
fn on_exec(p: &Privileges) -> Check {
    let what = (GROUP, "enable_on_exec", "counters that begin at exec, inherited by children");
    let spec = |exclude_kernel| PerfSpec {
        inherit: true,
        enable_on_exec: true,
        ..own(SOFTWARE, EVENTS[0].1, exclude_kernel)
    };
    match (sys::perf_open(&spec(false)), sys::perf_open(&spec(true))) {
        (Ok(_), _) => Check::new(what, State::Works, "task-clock, kernel side included"),
        (Err(e), Ok(_)) => {
            let detail = format!("user mode only; kernel side: {}", errors::told(&e));
            Check::new(what, State::Limited, detail).cure(cure(p))
        }
        (Err(_), Err(e)) => Check::new(what, State::Missing, errors::told(&e)).cure(cure(p)),
    }
}

fn tracepoint(p: &Privileges) -> Check {
    let what = (GROUP, "tracepoint_events", "counters of tracepoints");
    let id = match session::tracepoint_id("sched", "sched_process_exec") {
        Ok(id) => id,
        Err(e) => {
            let (detail, cure) = host::tracefs_refusal(errors::chain(&e), p);
            return Check::new(what, State::Missing, detail).cure(cure);
        }
    };
    match sys::perf_open(&own(TRACEPOINT, id, false)) {
        Ok(_) => Check::new(what, State::Works, format!("sched:sched_process_exec, id {id}")),
        Err(e) => {
            let detail = format!("sched:sched_process_exec, id {id}: {}", errors::told(&e));
            Check::new(what, State::Missing, detail).cure(cure(p))
        }
    }
}

fn hardware() -> Check {
    let what = (GROUP, "pmu", "hardware counters (PMU)");
    let events = [("cycles", 0), ("instructions", 1)];
    let opened: Vec<_> = events.iter().map(|(name, id)| (*name, open(HARDWARE, *id))).collect();
    let mut seen = Vec::new();
    let mut first_error = None;
    let mut both = true;
    for (name, event) in opened {
        seen.push(match event {
            Ok((_, true)) => format!("{name} can be counted"),
            Ok((_, false)) => {
                both = false;
                format!("{name} can be counted in user mode")
            }
            Err(e) => {
                both = false;
                let text = format!("{name}: {}", errors::told(&e));
                first_error.get_or_insert(e);
                text
            }
        });
    }
    let detail = format!("{}; no figure of this version needs them", seen.join(", "));
    match first_error {
        None if both => Check::new(what, State::Works, detail),
        None => Check::new(what, State::Limited, detail)
            .cure("sudo sysctl kernel.perf_event_paranoid=1, or CAP_PERFMON"),
        Some(e) => Check::new(what, State::Missing, detail).cure(cure_of_pmu(e.raw_os_error())),
    }
}

fn cure_of_pmu(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::EACCES | libc::EPERM) => {
            "sudo sysctl kernel.perf_event_paranoid=2, or CAP_PERFMON"
        }
        Some(libc::ENOSYS) => "a kernel with CONFIG_PERF_EVENTS=y",
        Some(libc::EBUSY) => {
            "another program has all counters (the NMI watchdog takes one: \
                              sudo sysctl kernel.nmi_watchdog=0)"
        }
        _ => {
            "this machine has no PMU: use bare metal, or a hypervisor that passes one on (KVM: \
             -cpu host,pmu=on; cloud: a metal instance)"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pmu_and_no_permission_have_different_cures() {
        assert!(cure_of_pmu(Some(libc::ENOENT)).contains("no PMU"));
        assert!(cure_of_pmu(Some(libc::EOPNOTSUPP)).contains("no PMU"));
        assert!(cure_of_pmu(Some(libc::EACCES)).contains("perf_event_paranoid"));
    }
}
