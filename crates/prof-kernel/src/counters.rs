//! Perf events of each CPU, which the kernel half attributes to tasks.

use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use prof_events::Attr;
use prof_model::counters::Count;

use crate::abi::MAX_COUNTERS;
use crate::abi::OwnEvent;
use crate::abi::OwnEventAt;
use crate::host;
use crate::limits;
use crate::probe::Privileges;
use crate::sys;

pub(crate) const PERF_TYPE_SOFTWARE: u32 = 1;
/// `PERF_TYPE_TRACEPOINT`.
pub const PERF_TYPE_TRACEPOINT: u32 = 2;
/// The last of the software events that are clocks.
pub(crate) const PERF_COUNT_SW_TASK_CLOCK: u64 = 1;

/// An event to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterSpec {
    /// For messages.
    pub name: String,
    /// What to open.
    pub attr: Attr,
    /// CPUs on which it exists; `None`: all.
    pub cpus: Option<Vec<u32>>,
    /// The first counter of its group, if it is in one: the kernel counts all of a
    /// group or none.
    pub leader: Option<usize>,
    /// A filter of the tracepoint, in the kernel's syntax.
    pub filter: Option<String>,
}

impl CounterSpec {
    /// Whether the kernel itself raises it: then its count always stands in memory, while
    /// a clock and a PMU have to be asked.
    fn is_raised(&self) -> bool {
        match self.attr.type_ {
            PERF_TYPE_SOFTWARE => self.attr.config > PERF_COUNT_SW_TASK_CLOCK,
            PERF_TYPE_TRACEPOINT => true,
            _ => false,
        }
    }
}

/// Bits of the counters that need nobody to be asked: those that the kernel raises. In a
/// group with others they are counted only while these are.
pub fn own_counters(specs: &[CounterSpec]) -> u32 {
    let group = |i: usize, spec: &CounterSpec| spec.leader.unwrap_or(i);
    let is_own = |i: usize, spec: &CounterSpec| {
        let of = group(i, spec);
        specs.iter().enumerate().all(|(j, other)| group(j, other) != of || other.is_raised())
    };
    let bits = specs.iter().enumerate().filter(|(i, spec)| is_own(*i, spec));
    bits.fold(0, |bits, (i, _)| bits | 1 << i)
}

/// Where the kernel half looks for the events.
#[derive(Debug)]
pub struct Slots<'a> {
    /// `perf_events`.
    pub events: BorrowedFd<'a>,
    /// `own_events`.
    pub own: BorrowedFd<'a>,
    /// `prof_find_event`, if any is the kernel's own.
    pub find: Option<BorrowedFd<'a>>,
    /// Bits of those.
    pub own_counters: u32,
    /// CPUs that there may be.
    pub cpus: u32,
}

/// Open events: counter by counter, with the CPU of each.
#[derive(Debug, Default)]
pub struct Counters {
    specs: Vec<CounterSpec>,
    fds: Vec<Vec<(u32, OwnedFd)>>,
    /// CPUs on which they are open, and since when those were there ([`host::cpu_came`]).
    on: Vec<(u32, Option<u64>)>,
}

impl Counters {
    /// Opens `specs` on each of the CPUs on which they exist. What cannot be opened
    /// anywhere is an error that names the cause and the cure.
    pub fn open(specs: &[CounterSpec], online: &[u32]) -> Result<Self> {
        check_number(specs.len())?;
        let fds = specs.iter().map(|_| Vec::new()).collect();
        // Before they are opened: a CPU that goes and comes meanwhile has come since.
        let on = online.iter().map(|cpu| (*cpu, host::cpu_came(*cpu))).collect();
        let mut counters = Self { specs: specs.to_vec(), fds, on };
        for cpu in online {
            counters.open_on(*cpu)?;
        }
        let nowhere = counters.fds.iter().position(Vec::is_empty);
        if let Some(spec) = nowhere.and_then(|i| specs.get(i)) {
            bail!("{}: none of the CPUs that have this event is online", spec.name);
        }
        Ok(counters)
    }

    /// A group counts from when all of it is open: a member that comes to a leader that
    /// counts already, of another kind, is not counted before the leader begins anew.
    fn open_on(&mut self, cpu: u32) -> Result<()> {
        for (i, spec) in self.specs.iter().enumerate() {
            if spec.cpus.as_ref().is_some_and(|c| !c.contains(&cpu)) {
                continue;
            }
            let leader = match spec.leader.filter(|l| *l != i) {
                Some(l) => {
                    let fds = self.fds.get(l).map_or(&[][..], Vec::as_slice);
                    let leader = fds.iter().find(|(c, _)| *c == cpu);
                    let missing = || anyhow!("{}: its group is not on CPU {cpu}", spec.name);
                    Some(leader.map(|(_, fd)| fd.as_fd()).ok_or_else(missing)?)
                }
                None => None,
            };
            let of = if spec.leader == Some(i) {
                sys::Counted::CpuLater(cpu)
            } else {
                sys::Counted::Cpu(cpu)
            };
            let fd = open_counter(&spec.attr, of, leader)
                .map_err(|e| refused(&spec.name, &spec.attr, &e))?;
            if let Some(filter) = &spec.filter {
                sys::set_filter(fd.as_fd(), filter).map_err(|e| {
                    anyhow!("{}: the kernel does not take the filter '{filter}': {e}", spec.name)
                })?;
            }
            self.fds[i].push((cpu, fd));
        }
        for (i, spec) in self.specs.iter().enumerate().filter(|(i, s)| s.leader == Some(*i)) {
            for (_, fd) in self.fds[i].iter().filter(|(c, _)| *c == cpu) {
                sys::enable(fd.as_fd()).map_err(|e| refused(&spec.name, &spec.attr, &e))?;
            }
        }
        Ok(())
    }

    /// Puts the events where the kernel half looks for them.
    pub fn install(&self, to: &Slots<'_>) -> Result<()> {
        self.on.iter().try_for_each(|(cpu, _)| self.install_on(to, *cpu))
    }

    fn install_on(&self, to: &Slots<'_>, cpu: u32) -> Result<()> {
        for (i, fds) in (0u32..).zip(&self.fds) {
            for (_, event) in fds.iter().filter(|(c, _)| *c == cpu) {
                let (slot, fd) = (i * to.cpus + cpu, event.as_raw_fd());
                sys::map_update(to.events, &slot, &(fd as u32))
                    .with_context(|| format!("event on CPU {cpu}"))?;
                let is_own = to.own_counters & 1 << i != 0 && self.runs(i, event.as_fd());
                if let Some(find) = to.find.filter(|_| is_own) {
                    sys::prog_run_with(find, &OwnEventAt { slot, fd })
                        .with_context(|| format!("where the event of CPU {cpu} counts"))?;
                }
            }
        }
        Ok(())
    }

    /// Whether it has counted ever since it was open. What is in memory does not say so:
    /// of a group that may not have been put on the CPU, the kernel is asked.
    fn runs(&self, i: u32, event: BorrowedFd<'_>) -> bool {
        self.specs.get(i as usize).is_some_and(|s| s.leader.is_none())
            || sys::perf_read(event)
                .is_ok_and(|[_, enabled, running]| 0 < running && running == enabled)
    }

    /// Closes those of a CPU: nothing may be read there any more.
    fn forget(&mut self, to: &Slots<'_>, cpu: u32) -> Result<()> {
        let empty = |slot: u32| -> io::Result<()> {
            if to.find.is_some() {
                sys::map_update(to.own, &slot, &OwnEvent { event: 0, since_ns: 0 })?;
            }
            sys::map_delete(to.events, &slot)
        };
        for (i, fds) in (0u32..).zip(&mut self.fds) {
            empty(i * to.cpus + cpu).with_context(|| format!("event on CPU {cpu}"))?;
            fds.retain(|(c, _)| *c != cpu);
        }
        Ok(())
    }

    /// CPUs may have come since: their events are opened and installed. An event of a
    /// CPU that went is dead, even when the CPU is back, be it between two looks. What
    /// was read of it means nothing: `refresh` has a CPU read anew in between.
    pub fn follow(
        &mut self,
        to: &Slots<'_>,
        online: &[u32],
        refresh: impl Fn(u32) -> Result<()>,
    ) -> Result<()> {
        let now: Vec<_> = online.iter().map(|cpu| (*cpu, host::cpu_came(*cpu))).collect();
        self.on.retain(|known| now.contains(known));
        for (cpu, came) in now {
            if self.on.contains(&(cpu, came)) {
                continue;
            }
            self.forget(to, cpu)?;
            refresh(cpu)?;
            match self.open_on(cpu).and_then(|()| self.install_on(to, cpu)) {
                Ok(()) => self.on.push((cpu, came)),
                Err(e) if host::cpu_is_still_there(cpu, came) => return Err(e),
                // It went again: the next look finds out.
                Err(_) => {}
            }
        }
        Ok(())
    }
}

/// An error if there is no room for so many: before any is opened, and before the kernel
/// half is loaded, which would be refused for another reason.
pub fn check_number(events: usize) -> Result<()> {
    if events > MAX_COUNTERS {
        bail!("{events} events to count; {MAX_COUNTERS} at a time is the most");
    }
    Ok(())
}

/// Whether this event can be counted on this machine by this user, on a CPU or else on
/// a command of the user's: tried, and closed.
pub fn probe(name: &str, attr: &Attr, cpu: u32) -> Result<()> {
    let on_cpu = open_counter(attr, sys::Counted::Cpu(cpu), None);
    let opened = match on_cpu {
        Err(e) if is_denied(&e) => {
            open_on_command(attr, std::process::id(), None).map(|(fd, _)| fd)
        }
        other => other,
    };
    opened.map(drop).map_err(|e| refused(name, attr, &e))
}

/// Whether the kernel takes this filter for a tracepoint: tried, and closed. What does not
/// open at all is not asked.
pub fn probe_filter(attr: &Attr, filter: &str, cpu: u32) -> io::Result<()> {
    let opened = open_counter(attr, sys::Counted::Cpu(cpu), None)
        .or_else(|_| open_on_command(attr, std::process::id(), None).map(|(fd, _)| fd));
    opened.map_or(Ok(()), |fd| sys::set_filter(fd.as_fd(), filter))
}

fn is_denied(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM))
}

/// Opens it on a command that has not executed yet; in user mode only, which is told,
/// if the user may not count in the kernel. What is to count there alone cannot be had.
fn open_on_command(
    attr: &Attr,
    pid: u32,
    leader: Option<BorrowedFd<'_>>,
) -> io::Result<(OwnedFd, bool)> {
    let of = sys::Counted::Command(pid);
    let counts_user = !attr.exclude_user && attr.type_ != PERF_TYPE_TRACEPOINT;
    match open_counter(attr, of, leader) {
        Err(e) if is_denied(&e) && !attr.exclude_kernel && counts_user => {
            let user = Attr { exclude_kernel: true, exclude_hv: true, ..*attr };
            Ok((open_counter(&user, of, leader)?, true))
        }
        other => Ok((other?, false)),
    }
}

/// Counters that a command and what it starts inherit: for who may not count per CPU.
#[derive(Debug, Default)]
pub struct Inherited {
    fds: Vec<OwnedFd>,
    /// Names of those that count in user mode only.
    pub user_only: Vec<String>,
}

impl Inherited {
    /// Opens them on a child that waits for its exec.
    pub fn open(specs: &[CounterSpec], pid: u32) -> Result<Self> {
        limits::raise();
        let mut counters = Self::default();
        for (i, spec) in specs.iter().enumerate() {
            let leader = spec.leader.filter(|l| *l != i).and_then(|l| counters.fds.get(l));
            let leader = leader.map(|fd| fd.as_fd());
            let (fd, user_only) = open_on_command(&spec.attr, pid, leader)
                .map_err(|e| refused(&spec.name, &spec.attr, &e))?;
            if let Some(filter) = &spec.filter {
                sys::set_filter(fd.as_fd(), filter)
                    .map_err(|e| anyhow!("{}: filter '{filter}': {e}", spec.name))?;
            }
            if user_only {
                counters.user_only.push(spec.name.clone());
            }
            counters.fds.push(fd);
        }
        Ok(counters)
    }

    /// Counts so far, of all that has ended and all that lives.
    pub fn read(&self) -> io::Result<Vec<Count>> {
        let of = |fd: &OwnedFd| {
            let [value, enabled_ns, running_ns] = sys::perf_read(fd.as_fd())?;
            Ok(Count { value, enabled_ns, running_ns })
        };
        self.fds.iter().map(of).collect()
    }
}

/// As perf does: a PMU that cannot tell hosts from guests counts both.
fn open_counter(
    attr: &Attr,
    of: sys::Counted,
    leader: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    match sys::counter_open(attr, of, leader) {
        Err(e)
            if e.raw_os_error() == Some(libc::EINVAL)
                && (attr.exclude_guest || attr.exclude_host) =>
        {
            let both = Attr { exclude_guest: false, exclude_host: false, ..*attr };
            sys::counter_open(&both, of, leader)
        }
        other => other,
    }
}

/// Why an event could not be opened, and what helps.
pub fn refused(name: &str, attr: &Attr, e: &io::Error) -> anyhow::Error {
    let why = match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)
            if attr.type_ != PERF_TYPE_TRACEPOINT =>
        {
            "this machine does not have it (no such hardware counter, or no PMU in this \
             virtual machine)"
                .to_owned()
        }
        Some(libc::EACCES | libc::EPERM) if Privileges::of_this_process().may_count() => {
            format!("the kernel refuses it, though the privileges are there: {e}")
        }
        Some(libc::EACCES | libc::EPERM) => {
            let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
            let paranoid = paranoid.as_deref().map_or("?", str::trim);
            format!(
                "not permitted: needs CAP_PERFMON (or root), or a lower \
                 kernel.perf_event_paranoid (now {paranoid}; \
                 sysctl kernel.perf_event_paranoid=-1)"
            )
        }
        Some(no @ (libc::EMFILE | libc::ENFILE)) => {
            // Told apart from what may be done without.
            let e = anyhow::Error::new(io::Error::from_raw_os_error(no));
            return e.context(format!("event {name}: raise `ulimit -n`"));
        }
        Some(libc::EINVAL) => format!("the kernel does not take it: {e}"),
        Some(libc::EBUSY) => "the counter is taken by another user for itself".to_owned(),
        _ => e.to_string(),
    };
    anyhow!("event {name}: {why}")
}
