//! Where the time went: samples with their stacks, named or not yet.
//!
//! Everything is kept once and named by its place: frames, stacks (as a tree, each
//! node pointing at its caller), modules, processes, threads. Places are `u32`; what
//! points at nothing is a defect of whoever built the profile, and
//! [`StackProfile::check`] finds it.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

/// Place of a [`Frame`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FrameId(pub u32);

/// Place of a [`StackNode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StackId(pub u32);

/// Place of a [`Module`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModuleId(pub u32);

/// Place of a [`Process`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId(pub u32);

/// Place of a [`Thread`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ThreadId(pub u32);

/// Place of a [`Waker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WakerId(pub u32);

/// A file whose code ran, or what stands for one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Module {
    /// As the process saw it; `[vdso]`, `[anon:PID]` for what is no file.
    #[serde(with = "path_bytes")]
    pub path: PathBuf,
    /// GNU build id, or Go's where there is no other; empty if the file has none.
    pub build_id: Vec<u8>,
    /// What else tells the file from another: where it has no build id, that is all.
    pub identity: Option<Identity>,
    /// Where its code is, for whoever has no more of it than a debug file, which does not say.
    pub code: Vec<Part>,
}

/// A part of a file that is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Part {
    /// Where in the file it begins.
    pub offset: u64,
    /// The address that the file gives that place.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// What a file is known by that does not say which build it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Bytes.
    pub size: u64,
    /// When it was written last, s and ns since 1970.
    pub mtime: (i64, u32),
    /// Its number in its file system.
    pub ino: u64,
}

impl Module {
    /// The last part of the path, for people.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }
}

/// What code a frame is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FrameKind {
    /// Of the program, its libraries, what it made itself.
    User,
    /// Of the kernel, its modules and BPF programs.
    Kernel,
}

/// One function of a frame: an address has several where calls were inlined.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Function {
    /// Demangled.
    pub name: String,
    /// Source file.
    #[serde(with = "path_bytes")]
    pub file: Option<PathBuf>,
    /// Line in it, from 1.
    pub line: Option<u32>,
}

/// A place in code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Kernel or user.
    pub kind: FrameKind,
    /// What it is in; `None` for kernel addresses and for what is in no mapping.
    pub module: Option<ModuleId>,
    /// Offset in the module's file; the address itself where there is no module. Of the
    /// instruction that ran in the leaf, and of the one behind the call in callers.
    pub offset: u64,
    /// The call and what was inlined there, innermost first; empty until it was named
    /// or if it could not be.
    pub functions: Vec<Function>,
    /// Why there is no name.
    pub unnamed: Option<String>,
}

/// A stack: a frame and the stack that called it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StackNode {
    /// The leaf.
    pub frame: FrameId,
    /// Who called it; `None` at the root.
    pub caller: Option<StackId>,
}

/// How much of a stack there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Whole {
    /// It reaches the program's entry, the thread's start, or the kernel's.
    Whole,
    /// It has as many frames as were asked for.
    Depth,
    /// The budget of the hook was used up.
    Budget,
    /// A module has no unwind table, and the reason is there.
    NoTable,
    /// An address is in no row of its module's table.
    NoRow,
    /// A row says what the tables cannot hold.
    Unsupported,
    /// The stack could not be read.
    Unreadable,
    /// An address is in no mapping.
    NoMapping,
    /// Code without a file and without frame pointers.
    Anonymous,
    /// The registers of the user side were not there.
    NoRegisters,
    /// The user side was not asked for.
    KernelOnly,
    /// What an interpreter ran could not be read, or does not fit its own frames.
    Python,
}

impl Whole {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 12] = [
        Self::Whole,
        Self::Depth,
        Self::Budget,
        Self::NoTable,
        Self::NoRow,
        Self::Unsupported,
        Self::Unreadable,
        Self::NoMapping,
        Self::Anonymous,
        Self::NoRegisters,
        Self::KernelOnly,
        Self::Python,
    ];

    /// A word for files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Depth => "depth",
            Self::Budget => "budget",
            Self::NoTable => "no-table",
            Self::NoRow => "no-row",
            Self::Unsupported => "unsupported",
            Self::Unreadable => "unreadable",
            Self::NoMapping => "no-mapping",
            Self::Anonymous => "anonymous",
            Self::NoRegisters => "no-registers",
            Self::KernelOnly => "kernel-only",
            Self::Python => "python",
        }
    }

    /// A line for people.
    pub fn about(self) -> &'static str {
        match self {
            Self::Whole => "reaches the entry of the program or the start of the thread",
            Self::Depth => "cut: --max-depth frames",
            Self::Budget => "cut: the budget of one sample was used up",
            Self::NoTable => "broken: a file without unwind table",
            Self::NoRow => "broken: an address without row in its file's unwind table",
            Self::Unsupported => "broken: an unwind rule that the kernel half cannot follow",
            Self::Unreadable => "broken: the stack could not be read",
            Self::NoMapping => "broken: an address outside of every mapping",
            Self::Anonymous => "broken: code without a file and without frame pointers",
            Self::NoRegisters => "broken: no registers of the user side",
            Self::KernelOnly => "the kernel's part only, as asked for",
            Self::Python => "broken: what Python ran could not be read",
        }
    }

    /// Neither cut nor broken.
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Whole | Self::KernelOnly)
    }
}

/// A process that was sampled, by what was its program.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Process {
    /// On the host.
    pub pid: u32,
    /// Of its parent, on the host.
    pub ppid: u32,
    /// Start of the process, ns since boot.
    pub start_ns: u64,
    /// Execs since the fork.
    pub exec: u32,
    /// Name.
    pub comm: String,
    /// Program, where it is known.
    #[serde(with = "path_bytes")]
    pub exe: Option<PathBuf>,
    /// Start of the window, [`StackProfile::start_ns`] being 0; ns.
    pub from_ns: u64,
    /// Its end; `None` if it ran when the profile ended.
    pub to_ns: Option<u64>,
}

/// A `prof` event: profiling of a process was switched on or off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Of which process.
    pub process: ProcessId,
    /// When, [`StackProfile::start_ns`] being 0; ns.
    pub time_ns: u64,
    /// Bits of [`Flags`](crate::record::Flags): on or off, and why.
    pub flags: u64,
}

/// A thread that was sampled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Of which process.
    pub process: ProcessId,
    /// On the host.
    pub tid: u32,
    /// Name when it was last sampled.
    pub comm: String,
}

/// Why a thread was off the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OffState {
    /// It could have gone on: another had the CPU.
    Runnable,
    /// Blocked; a signal would have ended it.
    Sleep,
    /// Blocked; nothing but what it waited for could end it.
    Uninterruptible,
    /// Stopped by a signal, a debugger, a freezer.
    Stopped,
}

impl OffState {
    /// A word for files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runnable => "runnable",
            Self::Sleep => "sleep",
            Self::Uninterruptible => "uninterruptible",
            Self::Stopped => "stopped",
        }
    }
}

/// What is known of a time off the CPU. It ends where its sample was taken, and began
/// where the stack is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffCpu {
    /// Why.
    pub state: OffState,
    /// How much of the weight the thread was ready to run, and waited for a CPU; ns.
    pub wait_ns: u64,
    /// Who made it ready to run.
    pub waker: Option<WakerId>,
    /// Whether it was still off when the profile ended.
    pub unfinished: bool,
}

/// What kind of a thing made a thread ready to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WakerKind {
    /// A thread, of whichever process.
    Thread,
    /// An interrupt: a timer, a device. Whom it interrupted has no part in it.
    Interrupt,
}

/// Who made a thread ready to run, and where.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Waker {
    /// What it was.
    pub kind: WakerKind,
    /// On the host; 0 for an interrupt.
    pub pid: u32,
    /// On the host; 0 for an interrupt.
    pub tid: u32,
    /// Name; empty for an interrupt.
    pub comm: String,
    /// Where: the kernel's part, and the program's if that is profiled, too.
    pub stack: Option<StackId>,
    /// How much of the stack there is.
    pub whole: Whole,
}

/// One sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When, [`StackProfile::start_ns`] being 0; ns.
    pub time_ns: u64,
    /// Who.
    pub thread: ThreadId,
    /// On which CPU.
    pub cpu: u32,
    /// Which of [`StackProfile::events`].
    pub event: u32,
    /// What it stands for, in the event's unit: a period, or a blocked time.
    pub weight: u64,
    /// Where: the leaf; kernel frames are called by user frames. `None` if there is no
    /// frame at all, which `whole` says the reason of.
    pub stack: Option<StackId>,
    /// How much of the stack there is.
    pub whole: Whole,
    /// Of time off the CPU, what is known of it.
    pub off_cpu: Option<Box<OffCpu>>,
}

/// What was sampled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampledEvent {
    /// As it was asked for: `cpu-clock`, `cycles`, `off-cpu`.
    pub name: String,
    /// Unit of the weights: `ns`, or empty for a count.
    pub unit: String,
    /// Samples a second, if by frequency.
    pub frequency_hz: Option<u64>,
    /// Weight of a sample, if it is fixed.
    pub period: Option<u64>,
}

/// The kernel that the samples were taken on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// As `uname -r`.
    pub release: String,
    /// As `uname -m`.
    pub machine: String,
    /// Where its image began in memory, unless it hides that: it is another place after
    /// each boot.
    pub text: Option<u64>,
    /// Modules and BPF programs that frames are in, ascending, none in another.
    pub parts: Vec<KernelPart>,
}

/// Code of the kernel that is not of its image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelPart {
    /// Of the module, or the symbol of the program.
    pub name: String,
    /// Where it began.
    pub start: u64,
    /// How much of it there was: of a program, as far as it is known.
    pub length: u64,
    /// Whether it is a BPF program.
    pub is_program: bool,
}

/// A counter that was read beside the samples: of a whole process, in no stack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// As it was asked for.
    pub name: String,
    /// Unit of the values; empty or `count` for a count.
    pub unit: String,
    /// Whether values of several processes may be added.
    pub additive: bool,
}

/// What was counted of a process, whether it was sampled or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Its process; by its identity, as it need not be among those that were sampled.
    pub process: Process,
    /// By [`StackProfile::counters`]; `None` where there is no figure.
    pub values: Vec<Option<u64>>,
}

/// All samples of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackProfile {
    /// The command, if one was run.
    pub command: Vec<String>,
    /// Name of the host.
    pub host: String,
    /// Its kernel.
    pub kernel: Kernel,
    /// When it began, ns since 1970.
    pub start_ns: u64,
    /// How long it took, ns.
    pub duration_ns: u64,
    /// What was sampled.
    pub events: Vec<SampledEvent>,
    /// Files and what stands for one.
    pub modules: Vec<Module>,
    /// Places in code.
    pub frames: Vec<Frame>,
    /// Stacks.
    pub stacks: Vec<StackNode>,
    /// Processes.
    pub processes: Vec<Process>,
    /// Threads.
    pub threads: Vec<Thread>,
    /// When they were profiled: `prof` events, in their order.
    pub switches: Vec<Switch>,
    /// Who woke threads.
    pub wakers: Vec<Waker>,
    /// Samples, in the order in which they were taken.
    pub samples: Vec<Sample>,
    /// Samples that were taken and lost, by reason.
    pub lost: Vec<(String, u64)>,
    /// Modules that have no unwind table, and why.
    pub no_tables: Vec<(ModuleId, String)>,
    /// What was counted beside.
    pub counters: Vec<Counted>,
    /// Of each process.
    pub counts: Vec<Counts>,
    /// Figures that there are not: of which counter, why, and of how many processes.
    pub uncounted: Vec<(u32, String, u64)>,
    /// Whether its end is missing: what recorded it was killed, or had no room.
    pub ended_early: bool,
}

impl StackProfile {
    /// A frame by its place.
    pub fn frame(&self, id: FrameId) -> &Frame {
        &self.frames[id.0 as usize]
    }

    /// A waker by its place.
    pub fn waker(&self, id: WakerId) -> &Waker {
        &self.wakers[id.0 as usize]
    }

    /// The module of a frame.
    pub fn module(&self, frame: &Frame) -> Option<&Module> {
        frame.module.and_then(|m| self.modules.get(m.0 as usize))
    }

    /// The frames of a stack, leaf first.
    pub fn frames_of(&self, stack: Option<StackId>) -> impl Iterator<Item = FrameId> + '_ {
        let mut at = stack;
        std::iter::from_fn(move || {
            let node = self.stacks.get(at?.0 as usize)?;
            at = node.caller;
            Some(node.frame)
        })
    }

    /// Samples by how much of their stacks there is, the most frequent first.
    pub fn wholeness(&self) -> Vec<(Whole, u64)> {
        let mut counts: HashMap<Whole, u64> = HashMap::new();
        for s in &self.samples {
            *counts.entry(s.whole).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(whole, n)| (std::cmp::Reverse(*n), *whole));
        counts
    }

    /// Modules at which stacks end because they have no unwind table: why, and how many
    /// samples, the most first.
    pub fn ends_without_table(&self) -> Vec<(ModuleId, Option<&str>, u64)> {
        let mut counts: HashMap<ModuleId, u64> = HashMap::new();
        for s in self.samples.iter().filter(|s| s.whole == Whole::NoTable) {
            let frames = self.frames_of(s.stack).map(|f| self.frame(f));
            let outermost = frames.filter(|f| f.kind == FrameKind::User).last();
            if let Some(module) = outermost.and_then(|f| f.module) {
                *counts.entry(module).or_default() += 1;
            }
        }
        let why: HashMap<_, _> = self.no_tables.iter().map(|(m, why)| (*m, why.as_str())).collect();
        let mut ends: Vec<_> =
            counts.into_iter().map(|(m, n)| (m, why.get(&m).copied(), n)).collect();
        ends.sort_by_key(|(module, _, n)| (std::cmp::Reverse(*n), *module));
        ends
    }

    /// What points at nothing, or a caller that stands behind its callee: the first
    /// such place.
    pub fn check(&self) -> Result<(), String> {
        let fits = |at: u32, len: usize| (at as usize) < len;
        for (i, f) in self.frames.iter().enumerate() {
            if f.module.is_some_and(|m| !fits(m.0, self.modules.len())) {
                return Err(format!("frame {i}: no such module"));
            }
        }
        for (i, s) in self.stacks.iter().enumerate() {
            if !fits(s.frame.0, self.frames.len()) {
                return Err(format!("stack {i}: no such frame"));
            }
            if s.caller.is_some_and(|c| c.0 as usize >= i) {
                return Err(format!("stack {i}: its caller does not stand before it"));
            }
        }
        if self.no_tables.iter().any(|(m, _)| !fits(m.0, self.modules.len())) {
            return Err("a module without table is not there".into());
        }
        if self.counts.iter().any(|c| c.values.len() != self.counters.len())
            || self.uncounted.iter().any(|(c, ..)| !fits(*c, self.counters.len()))
        {
            return Err("counts: no such counter".into());
        }
        for (i, t) in self.threads.iter().enumerate() {
            if !fits(t.process.0, self.processes.len()) {
                return Err(format!("thread {i}: no such process"));
            }
        }
        for (i, s) in self.switches.iter().enumerate() {
            if !fits(s.process.0, self.processes.len()) {
                return Err(format!("switch {i}: no such process"));
            }
        }
        for (i, w) in self.wakers.iter().enumerate() {
            if !w.stack.is_none_or(|at| fits(at.0, self.stacks.len())) {
                return Err(format!("waker {i}: no such stack"));
            }
        }
        for (i, s) in self.samples.iter().enumerate() {
            let waker = s.off_cpu.as_ref().and_then(|o| o.waker);
            if waker.is_some_and(|w| !fits(w.0, self.wakers.len())) {
                return Err(format!("sample {i}: no such waker"));
            }
            let stack = s.stack.is_none_or(|at| fits(at.0, self.stacks.len()));
            let event = fits(s.event, self.events.len());
            if !stack || !event || !fits(s.thread.0, self.threads.len()) {
                return Err(format!("sample {i}: no such stack, event or thread"));
            }
        }
        Ok(())
    }
}

/// Paths as the bytes that they are: they come from the target, and need not be text.
mod path_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::ffi::OsStringExt as _;
    use std::path::PathBuf;

    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serialize as _;
    use serde::Serializer;

    pub trait Bytes: Sized {
        fn get(&self) -> Option<&[u8]>;
        fn make(bytes: Option<Vec<u8>>) -> Self;
    }

    impl Bytes for PathBuf {
        fn get(&self) -> Option<&[u8]> {
            Some(self.as_os_str().as_bytes())
        }

        fn make(bytes: Option<Vec<u8>>) -> Self {
            OsString::from_vec(bytes.unwrap_or_default()).into()
        }
    }

    impl Bytes for Option<PathBuf> {
        fn get(&self) -> Option<&[u8]> {
            self.as_ref().map(|p| p.as_os_str().as_bytes())
        }

        fn make(bytes: Option<Vec<u8>>) -> Self {
            bytes.map(|b| OsString::from_vec(b).into())
        }
    }

    pub fn serialize<T: Bytes, S: Serializer>(path: &T, s: S) -> Result<S::Ok, S::Error> {
        path.get().serialize(s)
    }

    pub fn deserialize<'de, T: Bytes, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        Option::<Vec<u8>>::deserialize(d).map(T::make)
    }
}

/// Builds the tree of stacks, each kept once.
#[derive(Debug, Default)]
pub struct Interner {
    stacks: HashMap<StackNode, StackId>,
    frames: HashMap<(FrameKind, Option<ModuleId>, u64), FrameId>,
}

impl Interner {
    /// The place of a frame that is not named yet.
    pub fn frame(
        &mut self,
        profile: &mut StackProfile,
        kind: FrameKind,
        module: Option<ModuleId>,
        offset: u64,
    ) -> FrameId {
        *self.frames.entry((kind, module, offset)).or_insert_with(|| {
            let frame = Frame { kind, module, offset, functions: Vec::new(), unnamed: None };
            profile.frames.push(frame);
            FrameId(profile.frames.len() as u32 - 1)
        })
    }

    /// The place of a stack, given root first.
    pub fn stack(
        &mut self,
        profile: &mut StackProfile,
        root_first: impl IntoIterator<Item = FrameId>,
    ) -> Option<StackId> {
        root_first.into_iter().fold(None, |caller, frame| {
            let node = StackNode { frame, caller };
            Some(*self.stacks.entry(node).or_insert_with(|| {
                profile.stacks.push(node);
                StackId(profile.stacks.len() as u32 - 1)
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_kept_once_and_callers_stand_before_callees() {
        let mut p = StackProfile::default();
        let mut i = Interner::default();
        let [a, b, c] = [1, 2, 3].map(|at| i.frame(&mut p, FrameKind::User, None, at));
        assert_eq!(i.frame(&mut p, FrameKind::User, None, 2), b);
        let abc = i.stack(&mut p, [a, b, c]);
        let ab = i.stack(&mut p, [a, b]);
        assert_eq!(p.stacks.len(), 3);
        assert_eq!(p.frames_of(abc).collect::<Vec<_>>(), [c, b, a]);
        assert_eq!(p.frames_of(ab).collect::<Vec<_>>(), [b, a]);
        assert_eq!(p.frames_of(None).count(), 0);
        assert_eq!(p.check(), Ok(()));
    }

    #[test]
    fn what_points_at_nothing_is_found() {
        let mut p = StackProfile::default();
        let mut i = Interner::default();
        let f = i.frame(&mut p, FrameKind::User, Some(ModuleId(3)), 1);
        assert!(p.check().is_err());
        p.modules.resize(4, Module::default());
        assert_eq!(p.check(), Ok(()));
        let stack = i.stack(&mut p, [f]);
        let sample = Sample {
            time_ns: 0,
            thread: ThreadId(0),
            cpu: 0,
            event: 0,
            weight: 1,
            stack,
            whole: Whole::Whole,
            off_cpu: None,
        };
        p.samples.push(sample);
        assert!(p.check().is_err(), "no thread, no event");
    }
}
