//! Who profiles whom: what an audit knows of profilers, whoever they are.
//!
//! A [`Monitor`] is one thing that is asked of the kernel: a perf event, a BPF program
//! where it is attached, a tracer. It has a [`Target`], and somebody who asked. An
//! [`AuditEvent`] says that one or several were switched on or off at one moment.

pub mod list;

use crate::counters::perf_id;
use crate::record::Flags;
use crate::record::Process;

/// `PERF_TYPE_SOFTWARE` and `PERF_COUNT_SW_DUMMY`.
const SOFTWARE: u32 = 1;
const DUMMY: u64 = 9;

/// What a `perf_event_attr` says, as the kernel has it. The bits are its bit field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)]
pub struct PerfAttr {
    pub kind: u32,
    pub config: u64,
    /// `bp_addr`, `kprobe_func`, `uprobe_path`, … for those kinds.
    pub config1: u64,
    pub config2: u64,
    pub config3: u64,
    /// `sample_period`, or with [`PerfAttr::FREQ`] `sample_freq`.
    pub rate: u64,
    pub sample_type: u64,
    pub read_format: u64,
    pub bits: u64,
    pub bp_type: u32,
    pub branch_sample_type: u64,
    pub sample_regs_user: u64,
    pub sample_stack_user: u32,
    pub sample_regs_intr: u64,
    pub sample_max_stack: u16,
}

/// How often a sample is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// Never: it counts.
    Counting,
    /// After so many.
    Period(u64),
    /// So many times a second.
    Hz(u64),
}

#[allow(missing_docs)]
impl PerfAttr {
    pub const DISABLED: u64 = 1;
    pub const INHERIT: u64 = 1 << 1;
    pub const PINNED: u64 = 1 << 2;
    pub const EXCLUSIVE: u64 = 1 << 3;
    pub const EXCLUDE_USER: u64 = 1 << 4;
    pub const EXCLUDE_KERNEL: u64 = 1 << 5;
    pub const EXCLUDE_HV: u64 = 1 << 6;
    pub const EXCLUDE_IDLE: u64 = 1 << 7;
    pub const FREQ: u64 = 1 << 10;
    pub const ENABLE_ON_EXEC: u64 = 1 << 12;
    pub const EXCLUDE_HOST: u64 = 1 << 19;
    pub const EXCLUDE_GUEST: u64 = 1 << 20;
    pub const EXCLUDE_CALLCHAIN_KERNEL: u64 = 1 << 21;
    pub const EXCLUDE_CALLCHAIN_USER: u64 = 1 << 22;
    pub const INHERIT_THREAD: u64 = 1 << 35;
    pub const REMOVE_ON_EXEC: u64 = 1 << 36;
    pub const SIGTRAP: u64 = 1 << 37;

    pub const SAMPLE_ADDR: u64 = 1 << 3;
    pub const SAMPLE_CALLCHAIN: u64 = 1 << 5;
    pub const SAMPLE_BRANCH_STACK: u64 = 1 << 11;
    pub const SAMPLE_REGS_USER: u64 = 1 << 12;
    pub const SAMPLE_STACK_USER: u64 = 1 << 13;
    pub const SAMPLE_REGS_INTR: u64 = 1 << 18;
    pub const SAMPLE_PHYS_ADDR: u64 = 1 << 19;

    /// Whether a bit is set.
    pub fn has(&self, bit: u64) -> bool {
        self.bits & bit != 0
    }

    /// Whether something is put into samples.
    pub fn samples(&self, what: u64) -> bool {
        self.sample_type & what != 0
    }

    /// 0 to 3: how much skid the address of a sample may have.
    pub fn precise_ip(&self) -> u8 {
        (self.bits >> 15 & 3) as u8
    }

    /// How often a sample is taken.
    pub fn sampling(&self) -> Sampling {
        match (self.rate, self.has(Self::FREQ)) {
            (0, _) => Sampling::Counting,
            (hz, true) => Sampling::Hz(hz),
            (n, false) => Sampling::Period(n),
        }
    }

    /// Whether there are samples at all: perf opens one event that counts nothing, ever, for
    /// what the kernel tells beside samples.
    pub fn takes_samples(&self) -> bool {
        let dummy = (self.kind, self.config) == (SOFTWARE, DUMMY);
        self.sampling() != Sampling::Counting && !dummy
    }

    /// Whether samples hold call chains through the kernel.
    pub fn shows_kernel_stacks(&self) -> bool {
        self.takes_samples()
            && self.samples(Self::SAMPLE_CALLCHAIN)
            // In a program's own code there is nothing of the kernel below it.
            && !self.has(Self::EXCLUDE_KERNEL)
            && !self.has(Self::EXCLUDE_CALLCHAIN_KERNEL)
    }

    /// Whether samples hold call chains of the program, or memory of its stack.
    pub fn shows_user_stacks(&self) -> bool {
        let chains =
            self.samples(Self::SAMPLE_CALLCHAIN) && !self.has(Self::EXCLUDE_CALLCHAIN_USER);
        let memory = self.samples(Self::SAMPLE_STACK_USER) && self.sample_stack_user > 0;
        self.takes_samples() && (chains || memory)
    }

    /// [`perf_id`] of it.
    pub fn id(&self) -> Option<u32> {
        perf_id(self.kind, self.config)
    }

    /// What it leaves out, in words.
    pub fn excluded(&self) -> Vec<&'static str> {
        let words = [
            (Self::EXCLUDE_USER, "user"),
            (Self::EXCLUDE_KERNEL, "kernel"),
            (Self::EXCLUDE_HV, "hv"),
            (Self::EXCLUDE_IDLE, "idle"),
            (Self::EXCLUDE_HOST, "host"),
            (Self::EXCLUDE_GUEST, "guest"),
        ];
        words.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, word)| *word).collect()
    }
}

/// What is asked of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A perf event.
    Perf {
        /// As the kernel has it.
        attr: PerfAttr,
        /// The BPF program that runs at it: its id.
        bpf: Option<u32>,
    },
    /// A BPF program where it is attached, other than to a perf event.
    Bpf {
        /// Of the program; 0 if it is not known.
        prog: u32,
        /// Of the link; 0 if it has none.
        link: u32,
        /// Name of the program, raw bytes.
        name: Vec<u8>,
        /// `raw_tracepoint`, `kprobe_multi`, `fentry`, `iter`, ….
        kind: &'static str,
    },
    /// A tracer with `ptrace`.
    Ptrace,
    /// Tracefs: the file that was written, below its root, and what was written (raw).
    Tracefs {
        /// As in `kprobe_events`.
        file: Vec<u8>,
        /// The beginning of it.
        text: Vec<u8>,
    },
}

impl What {
    /// As in the records.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Perf { .. } => "perf",
            Self::Bpf { .. } => "bpf",
            Self::Ptrace => "ptrace",
            Self::Tracefs { .. } => "tracefs",
        }
    }
}

/// Whom it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A thread, named by `ident.tid`, and with inheritance what it starts.
    Process(Box<Process>),
    /// All that runs on a CPU.
    Cpu(u32),
    /// All of a cgroup that runs on a CPU, or on any.
    Cgroup {
        /// Inode of its directory.
        id: u64,
        /// Path below the root of the hierarchy, if it could be found.
        path: Option<Vec<u8>>,
        /// A perf event of a cgroup is of one CPU.
        cpu: Option<u32>,
    },
    /// Everything.
    Host,
    /// Not known.
    Unknown,
}

impl Target {
    /// The process, if it is one.
    pub fn process(&self) -> Option<&Process> {
        match self {
            Self::Process(p) => Some(p),
            _ => None,
        }
    }

    /// As in the records.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Process(_) => "process",
            Self::Cpu(_) => "cpu",
            Self::Cgroup { .. } => "cgroup",
            Self::Host => "host",
            Self::Unknown => "unknown",
        }
    }
}

/// Through what it was switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Interface {
    PerfEventOpen,
    IoctlEnable,
    IoctlDisable,
    IoctlRefresh,
    IoctlSetBpf,
    PrctlEnable,
    PrctlDisable,
    /// The target executed a program, and that was what the event waited for.
    EnableOnExec,
    /// The target had a child.
    Inherit,
    /// The last descriptor was closed.
    Close,
    /// The target ended.
    TargetExit,
    /// Who asked for it ended, and with it the last descriptor.
    OwnerExit,
    /// One of both executed a program: a descriptor was to be closed then, or the event
    /// was to be removed.
    Exec,
    BpfRawTracepointOpen,
    BpfLinkCreate,
    BpfProgAttach,
    BpfLinkDetach,
    PtraceAttach,
    PtraceSeize,
    PtraceTraceme,
    PtraceDetach,
    Tracefs,
    /// Nobody saw what did it; that it is so was found by looking.
    Found,
}

impl Interface {
    /// As in the records.
    pub fn name(self) -> &'static str {
        match self {
            Self::PerfEventOpen => "perf_event_open",
            Self::IoctlEnable => "ioctl_enable",
            Self::IoctlDisable => "ioctl_disable",
            Self::IoctlRefresh => "ioctl_refresh",
            Self::IoctlSetBpf => "ioctl_set_bpf",
            Self::PrctlEnable => "prctl_enable",
            Self::PrctlDisable => "prctl_disable",
            Self::EnableOnExec => "enable_on_exec",
            Self::Inherit => "inherit",
            Self::Close => "close",
            Self::TargetExit => "target_exit",
            Self::OwnerExit => "owner_exit",
            Self::Exec => "exec",
            Self::BpfRawTracepointOpen => "bpf_raw_tracepoint_open",
            Self::BpfLinkCreate => "bpf_link_create",
            Self::BpfProgAttach => "bpf_prog_attach",
            Self::BpfLinkDetach => "bpf_link_detach",
            Self::PtraceAttach => "ptrace_attach",
            Self::PtraceSeize => "ptrace_seize",
            Self::PtraceTraceme => "ptrace_traceme",
            Self::PtraceDetach => "ptrace_detach",
            Self::Tracefs => "tracefs",
            Self::Found => "found",
        }
    }
}

/// What was done to a perf event since it was opened, besides switching it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Changes {
    pub reset: u32,
    pub period: u32,
    pub filter: u32,
    pub bpf: u32,
}

/// One thing that is asked of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    /// Tells it from others of its kind: a perf event's number in the kernel, which no
    /// other has or will have until the next boot; of a link its id.
    pub id: u64,
    /// What.
    pub what: What,
    /// What people call it.
    pub name: String,
    /// The CPU, if it is for a process on that CPU only.
    pub cpu: Option<u32>,
    /// `id` of the leader of its group, if that is another.
    pub leader: Option<u64>,
    /// What was done to it meanwhile.
    pub changes: Changes,
    /// How long it was on this time, if it was switched off now; up to now, if it is on. As
    /// the audit saw it, wall time, ns.
    pub on_ns: Option<u64>,
}

/// Somebody switched profiling on or off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// CLOCK_REALTIME, ns.
    pub time_ns: u64,
    /// CPU on which it was seen.
    pub cpu: u32,
    /// On or off, and why; always with [`Flags::FOREIGN`].
    pub flags: Flags,
    /// Who asked for it.
    pub by: Process,
    /// For whom.
    pub target: Target,
    /// What; never empty.
    pub monitors: Vec<Monitor>,
    /// Through what.
    pub interface: Interface,
    /// What is not as it should be, one sentence each.
    pub notes: Vec<&'static str>,
}

/// How long one profiled another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditTotal {
    /// Who asked for it.
    pub by: Process,
    /// For whom.
    pub target: Target,
    /// For how long at least one monitor was on, ns.
    pub on_ns: u64,
    /// Sum of the times that each monitor was on, ns.
    pub monitors_ns: u64,
    /// Times that one was switched on.
    pub switched_on: u64,
    /// Of those, how many are still on.
    pub still_on: u64,
    /// What, each name once.
    pub names: Vec<String>,
}

/// At the end of an audit, who profiled whom for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditTotals {
    /// CLOCK_REALTIME, ns.
    pub time_ns: u64,
    /// Length of the audit, ns.
    pub duration_ns: u64,
    /// Those that were longest on first.
    pub totals: Vec<AuditTotal>,
    /// Switches that are in none of them: there were too many pairs.
    pub without: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attr_says_how_often_it_samples() {
        let a = PerfAttr { rate: 4000, bits: PerfAttr::FREQ, ..PerfAttr::default() };
        assert_eq!(a.sampling(), Sampling::Hz(4000));
        assert_eq!(PerfAttr { bits: 0, ..a }.sampling(), Sampling::Period(4000));
        assert_eq!(PerfAttr { rate: 0, ..a }.sampling(), Sampling::Counting);
    }

    #[test]
    fn perf_record_with_call_graphs_shows_both_stacks() {
        // As `perf record -F 99 -g -vv` prints it.
        let record = PerfAttr {
            rate: 99,
            bits: PerfAttr::FREQ,
            sample_type: 0x1 | 0x2 | 0x4 | 0x20 | 0x100,
            ..PerfAttr::default()
        };
        assert!(record.shows_kernel_stacks() && record.shows_user_stacks());
        for bit in [PerfAttr::EXCLUDE_CALLCHAIN_KERNEL, PerfAttr::EXCLUDE_KERNEL] {
            let user = PerfAttr { bits: record.bits | bit, ..record };
            assert!(!user.shows_kernel_stacks() && user.shows_user_stacks());
        }
        let dummy = PerfAttr { kind: 1, config: 9, ..record };
        assert!(!dummy.shows_kernel_stacks() && !dummy.shows_user_stacks());
        // Without a rate nothing is sampled, whatever a sample would hold.
        let stat = PerfAttr { rate: 0, ..record };
        assert!(!stat.shows_kernel_stacks() && !stat.shows_user_stacks());
    }

    #[test]
    fn an_id_is_there_if_the_config_fits() {
        let a = PerfAttr { kind: 1, config: 2, ..PerfAttr::default() };
        assert_eq!(a.id(), Some(0x0100_0002));
        assert_eq!(PerfAttr { config: 1 << 24, ..a }.id(), None);
        assert_eq!(PerfAttr { kind: 0x7f, ..a }.id(), None);
    }
}
