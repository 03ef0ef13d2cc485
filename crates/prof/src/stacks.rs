//! `-g`: stacks, from the sampler to the outputs. A thread of its own takes them, so that
//! neither a slow output nor the making of a large unwind table holds up the other.
//!
//! - [`processes`]: what the session's records say of those that are sampled
//! - [`show`]: names, and the outputs
//! - [`raw`]: what is kept for `prof report`

pub mod processes;
pub mod raw;
pub mod show;

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use prof_export::AnyOutputSpec;
use prof_export::Sink;
use prof_export::stacks::Root;
use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOutputSpec;
use prof_kernel::abi::stacks::SampleCounter;
use prof_kernel::clock;
use prof_kernel::host;
use prof_kernel::kallsyms;
use prof_kernel::prepared;
use prof_kernel::sampler::SampleCounts;
use prof_kernel::sampler::Sampler;
use prof_kernel::sampler::Sampling;
use prof_kernel::sampler::StackPlan;
use prof_kernel::sampler::gather::Code;
use prof_kernel::sampler::gather::Gatherer;
use prof_kernel::session::Session;
use prof_kernel::spawn;
use prof_model::record::Flags;
use prof_model::rules::Key;
use prof_model::rules::Pattern;
use prof_model::rules::RuleSet;
use prof_model::rules::Value;
use prof_model::stacks::FrameKind;
use prof_model::stacks::Kernel;
use prof_model::stacks::Process;
use prof_model::stacks::SampledEvent;
use prof_model::stacks::StackProfile;
use rustix::event::EventfdFlags;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::time::ClockId;
use rustix::time::Timespec;

use crate::cli::Shared;
use crate::output;
use crate::select::Selected;
use crate::stacks::processes::Processes;
use crate::stacks::raw::keep::Keeper;
use crate::stacks::show::How;
use crate::stacks::show::StackOutput;
use crate::stream;

/// Samples are fetched at least this often.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Programs named by rules that are made ready: each costs the start some time.
const MAX_NAMED: usize = 16;

/// Losses of the kernel half, by the names that the outputs have for them.
const LOSSES: [(SampleCounter, &str); 3] = [
    (SampleCounter::LostRing, "sample-ring-full"),
    (SampleCounter::LostNested, "sample-nested"),
    (SampleCounter::LostFile, "file-map-or-ring-full"),
];

/// The same where threads left CPUs and came back.
const OFF_CPU_LOSSES: [(SampleCounter, &str); 4] = [
    (SampleCounter::MissedSwitch, "off-cpu-switch-missed"),
    (SampleCounter::LostRing, "off-cpu-ring-full"),
    (SampleCounter::LostThread, "off-cpu-map-full"),
    (SampleCounter::LostFile, "file-map-or-ring-full"),
];

/// What is to be done with stacks.
#[derive(Debug, Clone)]
pub struct Stacks {
    /// What is sampled.
    pub plan: StackPlan,
    outputs: Vec<StackOutput>,
    how: How,
    processes: Processes,
}

impl Stacks {
    /// What the options ask for, if they ask for stacks.
    pub fn from_options(
        shared: &Shared,
        selected: &Selected,
        default: output::Default,
    ) -> Option<Self> {
        let plan = selected.stacks.clone()?;
        let mut outputs: Vec<_> = shared
            .output
            .iter()
            .filter_map(|o| match o {
                AnyOutputSpec::Records(_) => None,
                AnyOutputSpec::Stacks(spec) => Some(StackOutput::Shown(spec.clone())),
                AnyOutputSpec::Raw(sink) => Some(StackOutput::Raw(sink.clone())),
            })
            .collect();
        if outputs.is_empty() {
            let spec = StackOutputSpec { format: StackFormat::Text, sink: Sink::Default };
            outputs.push(StackOutput::Shown(spec));
        }
        let how = How {
            root: Root::default(),
            top: shared.rows(),
            tree: shared.tree.clone(),
            color: shared.color,
            default,
            symfs: None,
            debuginfod: shared.debuginfod,
            cache: prepared::dir_unless(shared.no_cache),
        };
        let processes = Processes::new(selected, !shared.events.is_empty());
        Some(Self { plan, outputs, how, processes })
    }

    /// Whether what is asked for can be written.
    pub fn try_open(&self) -> Result<()> {
        show::try_open(&self.outputs)
    }

    /// To be told of the records of the stream.
    pub fn processes(&self) -> Processes {
        self.processes.clone()
    }

    /// What the command will run is made ready before it starts.
    pub fn prepare(&mut self, program: &Path) {
        self.plan.prepare = files_of(program);
    }

    /// The same for programs that rules name as they are.
    pub fn prepare_named(&mut self, rules: &RuleSet) {
        let terms = rules.iter().flat_map(|r| &r.terms).filter(|t| !t.negated);
        let values = terms.flat_map(|t| t.values.iter().map(move |(value, _)| (t.key, value)));
        for (key, value) in values.take(MAX_NAMED) {
            let (Key::Exe | Key::Comm, Value::Text(Pattern::Literal(name))) = (key, value) else {
                continue;
            };
            // What is not found here may be elsewhere, or come.
            if let Ok(program) = spawn::find_program(OsStr::from_bytes(name)) {
                self.plan.prepare.extend(files_of(&program));
            }
        }
        self.plan.prepare.sort_unstable();
        self.plan.prepare.dedup();
    }

    /// Begins to take them.
    pub fn begin(self, session: &Session, command: &[Vec<u8>]) -> Result<Running> {
        let files = self.outputs.iter().filter_map(StackOutput::kept_in);
        let recording =
            Recording::begin(session, &self.plan, command, files, self.processes.clone())?;
        Ok(Running { recording, stacks: self })
    }
}

/// Stacks that are being taken.
#[derive(Debug)]
pub struct Running {
    recording: Recording,
    stacks: Stacks,
}

impl Running {
    /// What the `prof` events of the session say of it.
    pub fn flags(&self) -> u64 {
        let plan = &self.stacks.plan;
        let no_kernel = if plan.no_kernel { Flags::NO_KERNEL } else { 0 };
        let no_user = if plan.no_user { Flags::NO_USER } else { 0 };
        let sample = if plan.samples_events() { Flags::SAMPLE } else { 0 };
        let off_cpu = if plan.off_cpu.is_some() { Flags::OFFCPU } else { 0 };
        sample | off_cpu | no_kernel | no_user
    }

    /// Ends it, and writes the outputs.
    pub fn finish(self) -> Result<()> {
        let Stacks { outputs, how, processes, .. } = self.stacks;
        let mut taken = self.recording.end()?;
        let stacks_of = |p: &StackProfile| p.samples.iter().map(|s| s.stack).collect::<Vec<_>>();
        let is_made = taken.code.iter().any(|c| matches!(c, Code::Generated(_)));
        let before = (is_made && taken.keeper.is_wanted()).then(|| stacks_of(&taken.profile));
        show::name_generated(&mut taken.profile, &taken.code, |pid| processes.owner(pid));
        let done = taken.keeper.end(&taken.profile, before.as_deref());
        // What else is kept for later is not named.
        let (raw, shown): (Vec<_>, Vec<_>) = outputs.into_iter().partition(|o| !o.is_named());
        let (mut written, kept) = show::write_kept(&taken.profile, &raw, done, &how);
        if !shown.is_empty() {
            show::name(&mut taken.profile, &taken.code, &how);
        }
        let (also, result) = show::write(&taken.profile, &shown, &how);
        written.extend(also);
        show::tell(&taken.profile, written.into_iter());
        kept.and(result)
    }
}

/// What was taken, not yet named.
#[derive(Debug)]
pub struct Taken {
    /// The samples.
    pub profile: StackProfile,
    /// Where the code of each module is.
    pub code: Vec<Code>,
    /// What the kernel half counted.
    pub counts: SampleCounts,
    /// The same of time off the CPU.
    pub off_cpu: SampleCounts,
    keeper: Keeper,
}

/// Sampling that goes on.
#[derive(Debug)]
pub struct Recording {
    stop: OwnedFd,
    thread: JoinHandle<Result<Taken>>,
    processes: Processes,
    epoch: u64,
}

impl Recording {
    /// From its return on, the processes of the session are sampled.
    /// What is taken is written to `files` as it comes; `processes` tells of those that are
    /// sampled.
    pub fn begin<'a>(
        session: &Session,
        plan: &StackPlan,
        command: &[Vec<u8>],
        files: impl Iterator<Item = &'a Path>,
        processes: Processes,
    ) -> Result<Self> {
        let mut sampler = session.sampler(plan)?;
        let epoch = clock::now_ns(ClockId::Monotonic);
        let (host, release, machine) = host::uname();
        let profile = StackProfile {
            command: command.iter().map(|a| String::from_utf8_lossy(a).into_owned()).collect(),
            host,
            kernel: Kernel { release, machine, text: kallsyms::text(), parts: Vec::new() },
            start_ns: clock::now_ns(ClockId::Realtime),
            events: events(plan),
            ..StackProfile::default()
        };
        let mut gatherer = Gatherer::new(&sampler, profile, epoch, &plan.prepare)?;
        let mapped = sampler.prepare(&plan.prepare)?;
        // The tables are there when the first sample is.
        gatherer.pump(&mut sampler)?;
        drop(mapped);
        sampler.start()?;
        // Now that nothing else can fail: what the files had in them goes.
        let keeper = Keeper::begin(files, gatherer.so_far())?;
        if keeper.is_wanted() {
            gatherer.fresh_samples();
        }
        let takes = Takes { sampler, gatherer, keeper, processes: processes.clone(), epoch };
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let thread = thread::Builder::new()
            .name("prof-samples".into())
            .spawn(move || takes.until(&stopped))
            .context("thread that takes samples")?;
        Ok(Self { stop, thread, processes, epoch })
    }

    /// Ends it, and gives what was taken.
    pub fn end(self) -> Result<Taken> {
        rustix::io::write(&self.stop, &1u64.to_ne_bytes())?;
        let mut taken =
            self.thread.join().map_err(|_| anyhow!("the thread that takes samples died"))??;
        taken.profile.duration_ns = clock::now_ns(ClockId::Monotonic).saturating_sub(self.epoch);
        for (counts, losses) in
            [(&taken.counts, &LOSSES[..]), (&taken.off_cpu, &OFF_CPU_LOSSES[..])]
        {
            for (counter, name) in losses {
                let n = counts[*counter as usize];
                if n > 0 {
                    taken.profile.lost.push(((*name).into(), n));
                }
            }
        }
        let frames = taken.profile.frames.iter();
        let of_kernel = frames.filter(|f| f.kind == FrameKind::Kernel).map(|f| f.offset);
        taken.profile.kernel.parts = kallsyms::parts(taken.profile.kernel.text, of_kernel);
        self.processes.describe(&mut taken.profile, self.epoch);
        Ok(taken)
    }
}

fn events(plan: &StackPlan) -> Vec<SampledEvent> {
    let off_cpu = SampledEvent {
        name: "off-cpu".into(),
        unit: "ns".into(),
        frequency_hz: None,
        period: None,
    };
    let on = plan.events.iter().filter(|_| plan.samples_events()).map(event);
    on.chain(plan.off_cpu.map(|_| off_cpu)).collect()
}

fn event(sampled: &Sampling) -> SampledEvent {
    use prof_kernel::sampler::Rate;
    let (frequency_hz, period) = match sampled.rate {
        Rate::Hz(hz) => (Some(hz), None),
        Rate::Period(n) => (None, Some(n)),
    };
    let unit = if sampled.is_clock() { "ns" } else { "" };
    SampledEvent { name: sampled.event.clone(), unit: unit.into(), frequency_hz, period }
}

/// Who takes samples.
struct Takes {
    sampler: Sampler,
    gatherer: Gatherer,
    keeper: Keeper,
    processes: Processes,
    epoch: u64,
}

impl Takes {
    fn until(mut self, stop: &OwnedFd) -> Result<Taken> {
        let mut stopped = false;
        let mut looked = Instant::now();
        while !stopped {
            let mut fds: Vec<_> = std::iter::once(stop.as_fd())
                .chain(self.sampler.as_poll_fds())
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            // Interrupted or not: what is there is taken.
            let _ = rustix::event::poll(&mut fds, Some(&TICK));
            stopped = fds.first().is_some_and(|stop| !stop.revents().is_empty());
            self.gatherer.pump(&mut self.sampler)?;
            if self.keeper.is_due() {
                self.keep();
            }
            if looked.elapsed() >= stream::CPUS_COME {
                self.sampler.follow_cpus()?;
                looked = Instant::now();
            }
        }
        self.sampler.stop();
        self.gatherer.close(&mut self.sampler, clock::now_ns(ClockId::Monotonic))?;
        self.keep();
        let (counts, off_cpu) = (self.sampler.counts()?, self.sampler.off_cpu_counts()?);
        let (profile, code) = self.gatherer.finish();
        Ok(Taken { profile, code, counts, off_cpu, keeper: self.keeper })
    }

    /// Writes what came since the last time.
    fn keep(&mut self) {
        if !self.keeper.is_wanted() {
            return;
        }
        let samples = self.gatherer.fresh_samples();
        let duration_ns = clock::now_ns(ClockId::Monotonic).saturating_sub(self.epoch);
        let complete = |p: &mut [Process]| self.processes.complete(p, self.epoch);
        self.keeper.add(self.gatherer.so_far(), &samples, duration_ns, complete);
    }
}

/// Files that a command will run, as far as that can be known before: their unwind
/// tables are made before it starts.
pub fn files_of(program: &Path) -> Vec<PathBuf> {
    let path = std::env::var_os("LD_LIBRARY_PATH");
    let environment = prof_unwind::Environment { library_path: path.as_deref() };
    prof_unwind::closure(program, &environment)
}
