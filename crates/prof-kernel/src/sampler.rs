//! Sampling stacks: the events, the unwind tables that the kernel half goes by, and the
//! samples themselves.
//!
//! - [`tables`]: unwind tables in the kernel's memory
//! - [`files`]: from what the kernel half says of a file to the file
//! - `finish`: stacks that the kernel half had to leave
//! - [`generated`]: what processes tell of code that they make
//! - [`off_cpu`]: what is attached for time off the CPU
//! - `blocked`: from a thread that left its CPU and came back to a sample
//! - `python`: Python's own frames
//! - [`gather`]: from samples to a [`StackProfile`](prof_model::stacks::StackProfile)

mod blocked;
pub mod files;
mod finish;
pub mod gather;
pub mod generated;
pub mod known;
pub mod off_cpu;
mod python;
mod room;
pub mod samples;
pub mod tables;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use prof_events::Attr;

use crate::abi;
use crate::abi::stacks::AbiShare;
use crate::abi::stacks::MAX_SHARES;
use crate::abi::stacks::NR_SAMPLE_COUNTERS;
use crate::abi::stacks::SAMPLED_BITS;
use crate::abi::stacks::SampleCounter;
use crate::abi::stacks::StackRecord;
use crate::clock::PERF_COUNT_SW_CPU_CLOCK;
use crate::counters::PERF_COUNT_SW_TASK_CLOCK;
use crate::counters::PERF_TYPE_SOFTWARE;
use crate::counters::PERF_TYPE_TRACEPOINT;
use crate::host;
use crate::loader::Later;
use crate::loader::Loaded;
use crate::sampler::files::Mapped;
use crate::sampler::off_cpu::OffCpu;
use crate::sampler::off_cpu::OffHooks;
use crate::sys;

/// Bytes of the ring of samples: a second of 20,000 samples of 50 frames.
pub const RING_BYTES: u32 = 8 << 20;

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// Samples a second.
    Hz(u64),
    /// Events between two samples.
    Period(u64),
}

/// An event that samples go by.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// As it was asked for, for people.
    pub event: String,
    /// What to open.
    pub attr: Attr,
    /// How often.
    pub rate: Rate,
}

impl Sampling {
    /// The timer of the kernel, at this rate.
    pub fn clock(rate: Rate) -> Self {
        let attr =
            Attr { type_: PERF_TYPE_SOFTWARE, config: PERF_COUNT_SW_CPU_CLOCK, ..Attr::default() };
        Self { event: "cpu-clock".into(), attr, rate }
    }

    /// Whether it is a timer: its events are nanoseconds.
    pub fn is_clock(&self) -> bool {
        self.attr.type_ == PERF_TYPE_SOFTWARE && self.attr.config <= PERF_COUNT_SW_TASK_CLOCK
    }

    /// Whether it is a tracepoint: it has a period, and never a frequency.
    pub fn is_tracepoint(&self) -> bool {
        self.attr.type_ == PERF_TYPE_TRACEPOINT
    }
}

/// Rules, a bit each, and how many of the samples that could be taken of their
/// processes are, of 1 << [`SHARE_BITS`](abi::stacks::SHARE_BITS). Of a process that
/// several rules name, the first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The rules.
    pub rules: u64,
    /// How many samples.
    pub share: u32,
}

/// What is to be sampled, and how.
#[derive(Debug, Clone)]
pub struct StackPlan {
    /// By what; their places are in the samples.
    pub events: Vec<Sampling>,
    /// Rules that ask for fewer samples, the most frequent first; none: all are taken.
    pub shares: Vec<Share>,
    /// Frames of a stack, of the kernel and of the program each.
    pub max_depth: u32,
    /// Without the kernel's frames.
    pub no_kernel: bool,
    /// Without the program's frames.
    pub no_user: bool,
    /// Time off the CPU, too.
    pub off_cpu: Option<OffCpu>,
    /// Files whose tables are to be there before the first sample.
    pub prepare: Vec<PathBuf>,
}

impl StackPlan {
    /// The timer of the kernel, at this rate.
    pub fn clock(rate: Rate) -> Self {
        Self {
            events: vec![Sampling::clock(rate)],
            shares: Vec::new(),
            max_depth: abi::stacks::MAX_FRAMES,
            no_kernel: false,
            no_user: false,
            off_cpu: None,
            prepare: Vec::new(),
        }
    }

    /// Whether the event fires: not if time off the CPU is all that is wanted.
    pub fn samples_events(&self) -> bool {
        self.off_cpu.is_none_or(|o| !o.only)
    }

    /// Whether tracepoints are among what is sampled.
    fn samples_tracepoints(&self) -> bool {
        self.samples_events() && self.events.iter().any(Sampling::is_tracepoint)
    }

    /// The number that time off the CPU has among the events of the profile: the last.
    pub fn off_cpu_event(&self) -> u32 {
        if self.samples_events() { self.events.len() as u32 } else { 0 }
    }

    /// `enum prof_stacks`.
    pub(crate) fn parts(&self) -> u32 {
        let kernel = if self.no_kernel { 0 } else { abi::stacks::part::KERNEL };
        let user = if self.no_user { 0 } else { abi::stacks::part::USER };
        kernel | user
    }
}

/// Events that fire on every CPU, and what they left behind. Ends when dropped.
#[derive(Debug)]
pub struct Sampler {
    loaded: Loaded,
    ring: sys::Ring,
    cpus: usize,
    samplers: u32,
    sampled: Vec<Sampling>,
    /// By CPU, with since when that was there ([`host::cpu_came`]).
    events: BTreeMap<u32, (Option<u64>, Vec<OwnedFd>)>,
    /// Of all CPUs.
    tracepoints: Vec<OwnedFd>,
    no_kernel: bool,
    off: Option<OffHooks>,
    later: Later,
    /// Loaded when an interpreter is met.
    python: Option<Loaded>,
    _exit: OwnedFd,
}

/// Counters of the kernel half, summed over the CPUs: by
/// [`SampleCounter`](abi::stacks::SampleCounter).
pub type SampleCounts = [u64; NR_SAMPLE_COUNTERS];

impl Sampler {
    const PROGRAMS: [&'static str; 3] = ["sample", "sample_exit", "sample_prepare"];

    /// What a plan needs.
    pub(crate) fn programs(plan: &StackPlan) -> Vec<&'static str> {
        let off = if plan.off_cpu.is_some() { &OffHooks::PROGRAMS[..] } else { &[] };
        let tracepoints = if plan.samples_tracepoints() { &[TRACEPOINT][..] } else { &[] };
        [&Self::PROGRAMS, off, tracepoints].concat()
    }

    /// Of `enum prof_sampler_user`, those up to the last one that a plan needs.
    fn samplers(plan: &StackPlan) -> u32 {
        let last = match (plan.events.len() > 1 && plan.samples_events(), plan.off_cpu) {
            (true, _) => abi::stacks::sampler::NESTED,
            (false, Some(_)) => abi::stacks::sampler::OFF_CPU,
            (false, None) => abi::stacks::sampler::EVENTS,
        };
        last + 1
    }

    /// Sizes of its maps, with room for so many threads.
    pub(crate) fn sizes(plan: &StackPlan, threads: u32) -> Vec<(&'static str, u32)> {
        let samplers = Self::samplers(plan);
        let own = [("samplers", samplers), ("file_scratch", samplers)];
        let rings = [("samples", RING_BYTES), ("off_samples", RING_BYTES)];
        [&rings[..], &own, &[("off_threads", threads.max(1))]].concat()
    }

    /// Of these programs, loaded on the maps of the session whose processes are sampled,
    /// which was opened with the same plan. Nothing fires until [`start`](Self::start).
    pub(crate) fn begin(
        plan: &StackPlan,
        loaded: Loaded,
        cpus: usize,
        later: Later,
    ) -> Result<Self> {
        let ring = sys::Ring::new(loaded.map("samples")?).context("ring of samples")?;
        let hook = c"sched_process_exit";
        let exit = sys::raw_tracepoint_open(Some(hook), loaded.prog("sample_exit")?)
            .context("attaching to sched_process_exit")?;
        let shares = loaded.map("sample_shares")?;
        for (at, s) in (0u32..).zip(plan.shares.iter().take(MAX_SHARES)) {
            let share = AbiShare { rules: s.rules, share: s.share, pad: 0 };
            sys::map_update(shares, &at, &share).context("shares of rules")?;
        }
        let off = plan.off_cpu.is_some().then(|| OffHooks::new(&loaded)).transpose()?;
        let sampled = if plan.samples_events() { plan.events.clone() } else { Vec::new() };
        Ok(Self {
            loaded,
            ring,
            cpus,
            samplers: Self::samplers(plan),
            sampled,
            events: BTreeMap::new(),
            tracepoints: Vec::new(),
            no_kernel: plan.no_kernel,
            off,
            later,
            python: None,
            _exit: exit,
        })
    }

    /// A map of the kernel half.
    pub(crate) fn map(&self, name: &str) -> Result<BorrowedFd<'_>> {
        self.loaded.map(name)
    }

    /// From now on frames of Python's interpreters are read, too.
    pub(crate) fn read_python(&mut self) -> Result<()> {
        if self.python.is_some() {
            return Ok(());
        }
        let sampled = (!self.sampled.is_empty()).then_some((TAILS, "python_sample"));
        let off = self.off.is_some().then_some((OFF_TAILS, "off_python"));
        let tracepoint = self.sampled.iter().any(Sampling::is_tracepoint);
        let tracepoint = tracepoint.then_some((TRACEPOINT_TAILS, "python_tracepoint"));
        let tails: Vec<_> = sampled.into_iter().chain(off).chain(tracepoint).collect();
        let programs: Vec<_> = tails.iter().map(|(_, program)| *program).collect();
        let sizes = [("python_work", self.samplers)];
        let loaded = self.later.load(&programs, &sizes, &[], &self.loaded)?;
        for (map, program) in tails {
            let program = loaded.prog(program)?.as_raw_fd() as u32;
            sys::map_update(self.loaded.map(map)?, &0u32, &program)?;
        }
        self.python = Some(loaded);
        Ok(())
    }

    /// Tells of these files, as [`consume`](Self::consume) will say, before any process
    /// runs them: this one maps them. They are to be kept until what is told of them was
    /// consumed: the mapping leads to the file where its path, as the kernel half has it,
    /// does not, as on an overlay.
    pub fn prepare(&self, files: &[PathBuf]) -> Result<Vec<Mapped>> {
        let mapped: Vec<_> = files.iter().filter_map(|f| Mapped::new(f).ok()).collect();
        sys::prog_run(self.loaded.prog("sample_prepare")?).context("files to be prepared")?;
        Ok(mapped)
    }

    /// From now on samples are taken.
    pub fn start(&mut self) -> Result<()> {
        if let Some(off) = &mut self.off {
            off.attach(&self.loaded)?;
        }
        self.follow_cpus()?;
        self.attach_tracepoints()
    }

    fn attach_tracepoints(&mut self) -> Result<()> {
        let cpu = self.events.keys().next().copied().unwrap_or(0);
        for (place, s) in (0u64..).zip(&self.sampled).filter(|(_, s)| s.is_tracepoint()) {
            let Rate::Period(period) = s.rate else {
                bail!("{}: a tracepoint is sampled by its hits", s.event);
            };
            let (prog, cookie) = (self.loaded.prog(TRACEPOINT)?, place | period << SAMPLED_BITS);
            let attached = sys::tracepoint_attach(&s.attr, cpu, prog, cookie)
                .with_context(|| format!("attaching to the tracepoint {}", s.event))?;
            self.tracepoints.extend(attached);
        }
        Ok(())
    }

    /// CPUs may have come or gone: to be called now and then.
    pub fn follow_cpus(&mut self) -> Result<()> {
        // Before they are opened: a CPU that goes and comes meanwhile has come since.
        let now: Vec<_> =
            host::online_cpus()?.into_iter().map(|cpu| (cpu, host::cpu_came(cpu))).collect();
        // One that comes back has forgotten its events, be it between two looks.
        self.events.retain(|cpu, (came, _)| now.contains(&(*cpu, *came)));
        for (cpu, came) in now {
            if let Entry::Vacant(entry) = self.events.entry(cpu) {
                match open(&self.sampled, cpu, self.loaded.prog("sample")?) {
                    Ok(events) => drop(entry.insert((came, events))),
                    Err(e) if host::cpu_is_still_there(cpu, came) => return Err(e),
                    // It went again: the next look finds out.
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }

    /// No more samples; what was taken can still be consumed.
    pub fn stop(&mut self) {
        self.events.clear();
        self.tracepoints.clear();
        if let Some(off) = &mut self.off {
            off.detach();
        }
    }

    /// Readable when the kernel half asks for attention.
    pub fn as_poll_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let off = self.off.as_ref().map(|o| o.ring.as_epoll_fd());
        std::iter::once(self.ring.as_epoll_fd()).chain(off)
    }

    /// Records that wait, at most a batch of each ring. Files come before the stacks that
    /// have met them.
    pub fn consume(&mut self) -> io::Result<Vec<Result<StackRecord, abi::DecodeError>>> {
        // A file is told in the ring of whoever meets it first, before his stack: what
        // others have of it is in what is fetched before.
        let mut waiting = match &mut self.off {
            Some(off) => off.ring.consume()?,
            None => Vec::new(),
        };
        waiting.extend(self.ring.consume()?);
        let mut records: Vec<_> = waiting.iter().map(|b| abi::stacks::decode(b)).collect();
        if self.off.is_some() {
            records.sort_by_key(|r| !matches!(r, Ok(StackRecord::File { .. })));
        }
        Ok(records)
    }

    /// How far the rings are written by now.
    pub(crate) fn written(&self) -> Written {
        let off = self.off.as_ref().map_or(0, |o| o.ring.positions().0);
        Written { events: self.ring.positions().0, off }
    }

    /// Whether all was consumed that had been written then.
    pub(crate) fn has_consumed(&self, then: Written) -> bool {
        let off = self.off.as_ref().is_none_or(|o| o.ring.positions().1 >= then.off);
        off && self.ring.positions().1 >= then.events
    }

    /// What the kernel half counted where events fired.
    pub fn counts(&self) -> Result<SampleCounts> {
        let mut sums = SampleCounts::default();
        for user in [abi::stacks::sampler::EVENTS, abi::stacks::sampler::NESTED] {
            if user >= self.samplers {
                continue;
            }
            let counts: SampleCounts =
                self.loaded.counters("samplers", user, self.cpus).context("counters of samples")?;
            sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        }
        // At a tracepoint the kernel skips a program where another one is at work.
        if let Ok(prog) = self.loaded.prog(TRACEPOINT) {
            let skipped = sys::prog_info(prog).context("what was skipped")?.recursion_misses;
            sums[SampleCounter::LostNested as usize] += skipped;
        }
        Ok(sums)
    }

    /// What it counted where threads left CPUs and came back.
    pub fn off_cpu_counts(&self) -> Result<SampleCounts> {
        if self.off.is_none() {
            return Ok(SampleCounts::default());
        }
        let user = abi::stacks::sampler::OFF_CPU;
        self.loaded.counters("samplers", user, self.cpus).context("counters of time off the CPU")
    }

    /// Whether the kernel's frames are not wanted.
    pub(crate) fn no_kernel(&self) -> bool {
        self.no_kernel
    }

    /// Threads that are off the CPU, and since when.
    pub(crate) fn still_off(&self) -> Result<HashMap<u32, u64>> {
        if self.off.is_none() {
            return Ok(HashMap::new());
        }
        off_cpu::still_off(&self.loaded)
    }

    /// Run statistics of the programs; zero unless the kernel keeps them.
    pub fn stats(&self) -> Vec<(String, sys::ProgInfo)> {
        let python = self.python.as_ref().map(Loaded::stats);
        [self.loaded.stats(), python.unwrap_or_default()].concat()
    }
}

/// Positions in the rings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    events: u64,
    off: u64,
}

/// Maps that say where samples go on.
const TAILS: &str = "tails";
const OFF_TAILS: &str = "off_tails";
const TRACEPOINT_TAILS: &str = "tracepoint_tails";

/// What runs at tracepoints.
const TRACEPOINT: &str = "sample_tracepoint";

/// The events of a CPU, without tracepoints; a sample has the place of its own.
fn open(sampled: &[Sampling], cpu: u32, prog: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let mut all = Vec::with_capacity(2 * sampled.len());
    for (place, s) in (0..).zip(sampled).filter(|(_, s)| !s.is_tracepoint()) {
        let fds = sys::sampling_open(&s.attr, s.rate, cpu, prog, place)
            .map_err(|e| refused(&e, s.rate))
            .with_context(|| format!("sampling by {} on CPU {cpu}", s.event))?;
        all.extend(fds);
    }
    Ok(all)
}

fn refused(e: &io::Error, rate: Rate) -> anyhow::Error {
    match (e.raw_os_error(), rate) {
        (Some(libc::EINVAL), Rate::Hz(hz)) => anyhow!(
            "{e}: {hz} samples a second may be more than \
             /proc/sys/kernel/perf_event_max_sample_rate allows"
        ),
        (Some(libc::ENOENT | libc::EOPNOTSUPP), _) => {
            anyhow!("{e}: this event cannot be sampled on this machine")
        }
        _ => anyhow!("{e}"),
    }
}
