//! What is being profiled now.

use super::Monitor;
use super::Target;
use crate::record::Process;

/// Whether a monitor is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// It counts, samples or runs, whenever what it is for does.
    On,
    /// It goes on when its target executes a program.
    AwaitsExec,
    /// It is there and off.
    Off,
    /// The kernel could not keep it on.
    Error,
    /// What it was for has ended; somebody still has it open.
    TargetGone,
    /// Nobody said.
    Unknown,
}

impl State {
    /// As in the records.
    pub fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::AwaitsExec => "awaits_exec",
            Self::Off => "off",
            Self::Error => "error",
            Self::TargetGone => "target_gone",
            Self::Unknown => "unknown",
        }
    }
}

/// How the kernel came to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Through {
    PerfEventOpen,
    BpfLink,
    Ptrace,
    Tracefs,
}

impl Through {
    /// As in the records.
    pub fn name(self) -> &'static str {
        match self {
            Self::PerfEventOpen => "perf_event_open",
            Self::BpfLink => "bpf_link",
            Self::Ptrace => "ptrace",
            Self::Tracefs => "tracefs",
        }
    }
}

/// Somebody who has it open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub process: Process,
    /// As which descriptor.
    pub fd: i32,
}

/// Copies of a perf event that children of its target inherited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copies {
    /// How many.
    pub count: u64,
    /// There are more: they were not all looked at.
    pub more: bool,
    /// Processes that have them, each once; the first of them.
    pub pids: Vec<u32>,
}

/// A BPF program that runs there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    /// Its id.
    pub id: u32,
    /// Its name, raw bytes.
    pub name: Vec<u8>,
    /// User who loaded it.
    pub uid: Option<u32>,
    /// When it was loaded, CLOCK_REALTIME, ns: it was attached after that.
    pub loaded_ns: Option<u64>,
}

/// Something that is being profiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What.
    pub monitor: Monitor,
    /// How it came about.
    pub through: Through,
    /// Who asked for it; of a BPF link, which has no owner, who holds it.
    pub by: Option<Process>,
    /// For whom.
    pub target: Target,
    /// Only on this CPU.
    pub cpu: Option<u32>,
    /// Whether it is on.
    pub state: State,
    /// Who has it open, by process and descriptor.
    pub holders: Vec<Holder>,
    /// Whom it was handed on to.
    pub copies: Copies,
    /// For how long it was on, as its target's clock has it, ns: of a process, while
    /// that ran; copies included.
    pub enabled_ns: Option<u64>,
    /// Of that, the part in which it had a counter, ns.
    pub running_ns: Option<u64>,
    /// The BPF link that holds it.
    pub link: Option<u32>,
    /// The BPF program.
    pub program: Option<Program>,
    /// What samples hold.
    pub sampled: Vec<String>,
    /// Whether samples hold call chains through the kernel.
    pub kernel_stacks: bool,
    /// Whether samples hold the program's stack.
    pub user_stacks: bool,
    /// What is not as it should be, one sentence each.
    pub notes: Vec<&'static str>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct List {
    /// CLOCK_REALTIME, ns.
    pub time_ns: u64,
    /// Version of prof.
    pub version: &'static str,
    /// Host name.
    pub host: String,
    /// `uname -r`.
    pub kernel: String,
    /// In the order in which they are shown.
    pub entries: Vec<Listed>,
    /// What could not be looked at, and why: one sentence each.
    pub limits: Vec<String>,
}
