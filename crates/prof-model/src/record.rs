//! The records of the stream: `header`, `prof`, `profile`, `loss`, `interval`, `end`; and
//! `repeat` after several streams.

use crate::audit::AuditEvent;
use crate::audit::AuditTotals;
use crate::counters::Count;
use crate::counters::Table;
use crate::figures::Context;
use crate::figures::Event;
use crate::figures::EventSet;
use crate::figures::Figures;
use crate::figures::Keeps;
use crate::figures::Quality;
use crate::figures::RawFigures;
use crate::figures::Value;
use crate::repeat::Repeat;

/// A process as a record names it. `(pid, start_ns, exec)` is its identity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ident {
    /// Thread group id on the host.
    pub pid: u32,
    /// Thread at the hook, on the host.
    pub tid: u32,
    /// Parent on the host.
    pub ppid: u32,
    /// Start of the process, ns since boot.
    pub start_ns: u64,
    /// Execs since its fork; 0 = none yet.
    pub exec: u32,
    /// Name of the main thread, raw bytes.
    pub comm: Vec<u8>,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Cgroup id (v2, or of the v1 hierarchy that is in use).
    pub cgroup_id: u64,
    /// Inode of the mount namespace.
    pub mntns: u32,
    /// Inode of the pid namespace.
    pub pidns: u32,
}

/// Identity of one image of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Thread group id on the host.
    pub pid: u32,
    /// Start of the process, ns since boot.
    pub start_ns: u64,
    /// Execs since its fork.
    pub exec: u32,
}

impl Ident {
    /// Its identity.
    pub fn key(&self) -> Key {
        Key { pid: self.pid, start_ns: self.start_ns, exec: self.exec }
    }
}

/// A process with what was learned of it when it was switched on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// Who.
    pub ident: Ident,
    /// Path of the executable, raw bytes, as the process's mount namespace has
    /// it; `None` if it was not told.
    pub exe: Option<Vec<u8>>,
    /// Arguments, raw bytes; `None` if they were not read.
    pub args: Option<Vec<Vec<u8>>>,
    /// Whether `args` were cut.
    pub args_cut: bool,
    /// 64 hex digits.
    pub container_id: Option<String>,
}

/// The FLAGS of a `prof` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u64);

/// Bits and names of FLAGS, in the order of the bits.
pub const FLAG_NAMES: [(u64, &str); 13] = [
    (Flags::ENABLE, "enable"),
    (Flags::EXEC, "exec"),
    (Flags::EXIT, "exit"),
    (Flags::REQUEST, "request"),
    (Flags::LIMIT, "limit"),
    (Flags::INHERIT, "inherit"),
    (Flags::ATTACH, "attach"),
    (Flags::FOREIGN, "foreign"),
    (Flags::SAMPLE, "sample"),
    (Flags::OFFCPU, "offcpu"),
    (Flags::NO_KERNEL, "no_kernel"),
    (Flags::NO_USER, "no_user"),
    (Flags::PARTIAL, "partial"),
];

#[allow(missing_docs)]
impl Flags {
    pub const ENABLE: u64 = 0x1;
    pub const EXEC: u64 = 0x2;
    pub const EXIT: u64 = 0x4;
    pub const REQUEST: u64 = 0x8;
    pub const LIMIT: u64 = 0x10;
    pub const INHERIT: u64 = 0x20;
    pub const ATTACH: u64 = 0x40;
    pub const FOREIGN: u64 = 0x80;
    pub const SAMPLE: u64 = 0x100;
    pub const OFFCPU: u64 = 0x200;
    pub const NO_KERNEL: u64 = 0x400;
    pub const NO_USER: u64 = 0x800;
    pub const PARTIAL: u64 = 0x1000;

    /// Whether a bit is set.
    pub fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    /// Names of the bits that are set.
    pub fn names(self) -> Vec<&'static str> {
        FLAG_NAMES.iter().filter(|(b, _)| self.has(*b)).map(|(_, n)| *n).collect()
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Wait status, as `waitpid` gives it.
    pub status: i32,
}

impl Exit {
    /// Exit code, unless a signal ended it.
    pub fn code(self) -> Option<u8> {
        (self.status & 0x7f == 0).then_some((self.status >> 8 & 0xff) as u8)
    }

    /// The signal that ended it.
    pub fn signal(self) -> Option<u8> {
        match self.status & 0x7f {
            0 => None,
            s => Some(s as u8),
        }
    }

    /// Whether a core was dumped.
    pub fn core(self) -> bool {
        self.status & 0x80 != 0
    }
}

/// What begins a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowStart {
    /// In exec, when the old image is gone and before the new one is mapped:
    /// where perf's `enable_on_exec` takes effect.
    TaskRename,
    /// At `sched_process_exec`, when the program is loaded.
    SchedProcessExec,
    /// On entry of the function that performs the exec.
    ExecEntry,
    /// The birth of the process.
    Fork,
    /// In mid-life.
    Attach,
    /// When the command of `prof run` was started without privileges.
    EnableOnExec,
}

impl WindowStart {
    /// As in the records.
    pub fn name(self) -> &'static str {
        match self {
            Self::TaskRename => "task_rename",
            Self::SchedProcessExec => "sched_process_exec",
            Self::ExecEntry => "exec_entry",
            Self::Fork => "fork",
            Self::Attach => "attach",
            Self::EnableOnExec => "enable_on_exec",
        }
    }
}

/// What ends a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowEnd {
    /// The last thread exited; the address space was still there.
    Exit,
    /// The last thread exited; its address space had been torn down already.
    ExitAfterMm,
    /// The process executed another program.
    Exec,
    /// It was killed inside exec.
    DiedInExec,
    /// It still runs: figures up to now.
    Running,
    /// Somebody asked for it: the process goes on without being profiled.
    Request,
}

impl WindowEnd {
    /// As in the records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::ExitAfterMm => "exit_after_mm",
            Self::Exec => "exec",
            Self::DiedInExec => "died_in_exec",
            Self::Running => "running",
            Self::Request => "request",
        }
    }
}

/// A span of time, CLOCK_MONOTONIC ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First instant.
    pub start_ns: u64,
    /// Last instant.
    pub end_ns: u64,
    /// What began it.
    pub start: WindowStart,
    /// What ended it.
    pub end: WindowEnd,
}

/// Profiling was switched on or off for a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfEvent {
    /// CLOCK_REALTIME, ns.
    pub time_ns: u64,
    /// CPU of the hook.
    pub cpu: u32,
    /// For whom.
    pub process: Process,
    /// On or off, and why.
    pub flags: Flags,
    /// What is monitored.
    pub events: EventSet,
    /// Rules that name the process: bit i is rule i of the header.
    pub rules: u64,
    /// The hook that switched.
    pub hook: &'static str,
}

/// Figures of one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadFigures {
    /// Thread id on the host.
    pub tid: u32,
    /// Its name, raw bytes.
    pub comm: Vec<u8>,
    /// Start, ns since boot.
    pub start_ns: u64,
    /// Its part.
    pub raw: RawFigures,
    /// Its part of the counts, in the order of the header's table.
    pub counts: Vec<Count>,
}

impl ThreadFigures {
    /// As figures. `of` are those of its process: what the kernel does not keep for that it
    /// does not keep for its threads either, and for the same reason; so nothing is left out
    /// here.
    pub fn figures(&self, of: &Figures) -> Figures {
        let context = Context {
            wall_ns: None,
            peak_rss: 0,
            threads: 1,
            quality: Quality(0),
            kernel: Keeps { run_delay: true, io_chars: true, io_bytes: true },
        };
        let mut figures = Figures::from_raw(&self.raw, &context);
        for e in Event::all() {
            if let Value::Absent(reason) = of.get(e) {
                figures.set(e, Value::Absent(reason));
            }
        }
        figures.counts = self.counts.clone();
        figures
    }
}

/// What a process used in its regions of one name, in one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// As the program calls it, raw bytes.
    pub name: Vec<u8>,
    /// How often one began.
    pub begun: u64,
    /// How often one ended: the figures are of these.
    pub ended: u64,
    /// Length of the shortest, ns.
    pub shortest_ns: u64,
    /// Length of the longest, ns.
    pub longest_ns: u64,
    /// Sums; `wall-time` is that of their lengths.
    pub figures: Figures,
}

impl Region {
    /// Of the events of a stream, those that a region has figures of.
    pub fn events(events: EventSet) -> EventSet {
        // These have no meaning for a part of the work of one thread.
        [Event::PeakRss, Event::Threads].into_iter().fold(events, EventSet::without)
    }

    /// Adds those of another window.
    pub fn add(&mut self, o: &Self) {
        if self.ended == 0 {
            (self.shortest_ns, self.figures) = (o.shortest_ns, o.figures.clone());
        } else if o.ended > 0 {
            self.shortest_ns = self.shortest_ns.min(o.shortest_ns);
            self.figures.add(&o.figures);
        }
        self.longest_ns = self.longest_ns.max(o.longest_ns);
        self.begun = self.begun.saturating_add(o.begun);
        self.ended = self.ended.saturating_add(o.ended);
    }
}

/// The figures of one window of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// CLOCK_REALTIME, ns, of the end.
    pub time_ns: u64,
    /// Whose.
    pub process: Process,
    /// Same bits as in the event that switched it off.
    pub flags: Flags,
    /// What was asked for.
    pub events: EventSet,
    /// Rules that name it.
    pub rules: u64,
    /// The figures.
    pub figures: Figures,
    /// By thread, if asked for.
    pub threads: Vec<ThreadFigures>,
    /// By region, in the order in which they first began.
    pub regions: Vec<Region>,
    /// How it ended, if it did.
    pub exit: Option<Exit>,
    /// What is in the figures.
    pub window: Window,
    /// What is not as it should be, one sentence each.
    pub notes: Vec<&'static str>,
}

/// What is attached, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The hook.
    pub hook: String,
    /// `tp_btf`, `raw_tp`, `kprobe`, `kretprobe`, `perf_event`.
    pub how: &'static str,
}

/// First record of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// CLOCK_REALTIME, ns.
    pub time_ns: u64,
    /// Version of prof.
    pub version: &'static str,
    /// Host name.
    pub host: String,
    /// `uname -r`.
    pub kernel: String,
    /// Machine, as `uname -m`.
    pub machine: String,
    /// CPUs online.
    pub cpus: u32,
    /// Events of this stream.
    pub events: EventSet,
    /// Perf events of this stream, and what is computed from them.
    pub counters: Table,
    /// Rules as given, by bit.
    pub rules: Vec<RuleName>,
    /// What is attached.
    pub attached: Vec<Attached>,
    /// What could not be had, and why: one sentence each.
    pub limits: Vec<String>,
    /// The command of `prof run`.
    pub command: Option<Vec<Vec<u8>>>,
    /// Which run of the command this is, if it is run several times: each has a
    /// stream of its own.
    pub repetition: Option<Repetition>,
}

/// One of several runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repetition {
    /// From 1.
    pub number: u32,
    /// How many were asked for.
    pub of: u32,
}

/// A rule as a person knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleName {
    /// Its name.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Something was lost since the last such record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// CLOCK_REALTIME, ns.
    pub time_ns: u64,
    /// Reason.
    pub reason: LossReason,
    /// How many.
    pub count: u64,
}

/// Why something was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LossReason {
    /// A rule matched, but the table of profiled processes was full.
    MapFull,
    /// The record of an enable did not fit the ring buffer (the process was
    /// profiled all the same).
    RingFullEnable,
    /// The record of a disable, with the figures, did not fit.
    RingFullDisable,
    /// The record of a thread did not fit.
    RingFullThread,
    /// An entry was left by a process whose exit was never seen.
    ExitNotSeen,
    /// A child could not be followed: the table was full.
    FollowMapFull,
    /// An exec attempt could not be noted (kprobe).
    AttemptMapFull,
    /// No room for the counts of a thread or a process.
    CountsMapFull,
    /// A perf event could not be read.
    CounterUnreadable,
    /// The switch to a profiled task was not seen: what it did until it was switched
    /// from is not in its counts.
    SliceMissed,
    /// A region has no figures: no room for its name, or for its thread.
    RegionMapFull,
    /// A region in too many others has no figures.
    RegionTooDeep,
    /// A region has no figures: its name could not be read.
    RegionNoName,
    /// The end of a region whose beginning nobody heard.
    RegionNotBegun,
    /// A program's switch of its own profiling was not done: it has several threads,
    /// whose figures this kernel does not let prof read there, or does so too often.
    SwitchNotDone,
    /// A hook was skipped by the kernel because it ran inside itself.
    HookSkipped,
    /// Something that was done to a perf event did not fit the ring buffer of an audit.
    RingFullAudit,
    /// A perf event was not followed: there were too many at once.
    AuditFull,
    /// Something was done to a perf event that is not followed.
    AuditUnknown,
    /// A record was malformed.
    Malformed,
}

impl LossReason {
    /// As in the records.
    pub fn name(self) -> &'static str {
        match self {
            Self::MapFull => "map_full",
            Self::RingFullEnable => "ring_full_enable",
            Self::RingFullDisable => "ring_full_disable",
            Self::RingFullThread => "ring_full_thread",
            Self::ExitNotSeen => "exit_not_seen",
            Self::FollowMapFull => "follow_map_full",
            Self::AttemptMapFull => "attempt_map_full",
            Self::CountsMapFull => "counts_map_full",
            Self::CounterUnreadable => "counter_unreadable",
            Self::SliceMissed => "slice_missed",
            Self::RegionMapFull => "region_map_full",
            Self::RegionTooDeep => "region_too_deep",
            Self::RegionNoName => "region_no_name",
            Self::RegionNotBegun => "region_not_begun",
            Self::SwitchNotDone => "switch_not_done",
            Self::HookSkipped => "hook_skipped",
            Self::RingFullAudit => "ring_full_audit",
            Self::AuditFull => "audit_full",
            Self::AuditUnknown => "audit_unknown",
            Self::Malformed => "malformed",
        }
    }

    /// Whether a process that was switched on has no figures because of it.
    pub fn loses_profile(self) -> bool {
        matches!(self, Self::MapFull | Self::RingFullDisable | Self::ExitNotSeen)
    }
}

/// What came since the last such record, or since the start, in all processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// CLOCK_REALTIME, ns.
    pub time_ns: u64,
    /// Since the start of the stream, ns.
    pub since_ns: u64,
    /// Length of the interval, ns.
    pub length_ns: u64,
    /// Processes that were being profiled at its end.
    pub running: u64,
    /// What was added to the totals; peaks are as of now.
    pub figures: Figures,
}

/// Last record: totals and the reconciliation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// CLOCK_REALTIME, ns.
    pub time_ns: u64,
    /// Length of the session, ns.
    pub duration_ns: u64,
    /// Times the kernel switched profiling on.
    pub enabled: u64,
    /// Times it was switched off and the figures came through.
    pub disabled: u64,
    /// Processes still being profiled.
    pub running: u64,
    /// Losses by reason.
    pub lost: Vec<(LossReason, u64)>,
    /// Successful execs that the hook saw.
    pub execs_seen: u64,
    /// The kernel's own count of the same, or why there is none.
    pub execs_kernel: Value,
    /// Sum of the figures of all processes.
    pub totals: Figures,
    /// Processes in `totals`.
    pub processes: u64,
    /// Time in prof's own BPF programs, ns, if the kernel kept it.
    pub bpf_ns: Option<u64>,
}

impl End {
    /// Processes whose figures were lost.
    pub fn lost_profiles(&self) -> u64 {
        self.lost.iter().filter(|(r, _)| r.loses_profile()).map(|(_, n)| n).sum()
    }

    /// Adds what another stream switched on and off and lost, but no figures.
    pub fn add_accounts(&mut self, o: &Self) {
        self.enabled += o.enabled;
        self.disabled += o.disabled;
        self.running += o.running;
        self.lost.extend(&o.lost);
        self.execs_seen += o.execs_seen;
        self.execs_kernel = match (&self.execs_kernel, &o.execs_kernel) {
            (Value::Is(a), Value::Is(b)) => Value::Is(a + b),
            (Value::Absent(why), _) | (_, Value::Absent(why)) => Value::Absent(why),
        };
        self.processes += o.processes;
    }

    /// enabled − (disabled + running + lost): 0 when every process is accounted
    /// for.
    pub fn unaccounted(&self) -> i64 {
        self.enabled as i64 - (self.disabled + self.running + self.lost_profiles()) as i64
    }
}

/// Any record.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// First.
    Header(Box<Header>),
    /// Switched on or off.
    Prof(Box<ProfEvent>),
    /// Figures.
    Profile(Box<Profile>),
    /// Lost.
    Loss(Loss),
    /// What came in between.
    Interval(Box<Interval>),
    /// Somebody else switched profiling on or off.
    Audit(Box<AuditEvent>),
    /// Who profiled whom, all in all.
    AuditTotals(Box<AuditTotals>),
    /// Last.
    End(Box<End>),
    /// After the streams of all runs.
    Repeat(Box<Repeat>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_status_is_taken_apart() {
        let e = |status| Exit { status };
        assert_eq!((e(0).code(), e(0).signal(), e(0).core()), (Some(0), None, false));
        assert_eq!((e(7 << 8).code(), e(7 << 8).signal()), (Some(7), None));
        assert_eq!((e(9).code(), e(9).signal(), e(9).core()), (None, Some(9), false));
        assert_eq!((e(0x8b).code(), e(0x8b).signal(), e(0x8b).core()), (None, Some(11), true));
    }

    #[test]
    fn flags_have_the_published_bits() {
        assert_eq!(Flags(0x1 | 0x2 | 0x20).names(), ["enable", "exec", "inherit"]);
        assert_eq!(Flags(0x1004).names(), ["exit", "partial"]);
        for (i, (bit, _)) in FLAG_NAMES.iter().enumerate() {
            assert_eq!(*bit, 1 << i);
        }
    }
}
