//! Sampling stacks: the events, the unwind tables that the kernel half goes by, and the
//! samples themselves.
//!
//! - [`tables`]: unwind tables in the kernel's memory
//! - [`files`]: from what the kernel half says of a file to the file
//! - `finish`: stacks that the kernel half had to leave
//! - [`gather`]: from samples to a [`StackProfile`](prof_model::stacks::StackProfile)

pub mod files;
mod finish;
pub mod gather;
mod samples;
pub mod tables;

use std::io;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use prof_events::Attr;

use crate::abi;
use crate::abi::stacks::NR_SAMPLE_COUNTERS;
use crate::abi::stacks::StackRecord;
use crate::host;
use crate::loader::Loaded;
use crate::sampler::files::Mapped;
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

/// What is to be sampled, and how.
#[derive(Debug, Clone)]
pub struct StackPlan {
    /// As it was asked for, for people.
    pub event: String,
    /// What to open.
    pub attr: Attr,
    /// How often.
    pub rate: Rate,
    /// Frames of a stack, of the kernel and of the program each.
    pub max_depth: u32,
    /// Without the kernel's frames.
    pub no_kernel: bool,
    /// Without the program's frames.
    pub no_user: bool,
    /// Files whose tables are to be there before the first sample.
    pub prepare: Vec<PathBuf>,
}

impl StackPlan {
    /// The timer of the kernel, at this rate.
    pub fn clock(rate: Rate) -> Self {
        const SOFTWARE: u32 = 1;
        const CPU_CLOCK: u64 = 0;
        Self {
            event: "cpu-clock".into(),
            attr: Attr { type_: SOFTWARE, config: CPU_CLOCK, ..Attr::default() },
            rate,
            max_depth: abi::stacks::MAX_FRAMES,
            no_kernel: false,
            no_user: false,
            prepare: Vec::new(),
        }
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
    attr: Attr,
    rate: Rate,
    events: Vec<OwnedFd>,
    _exit: OwnedFd,
}

/// Counters of the kernel half, summed over the CPUs: by
/// [`SampleCounter`](abi::stacks::SampleCounter).
pub type SampleCounts = [u64; NR_SAMPLE_COUNTERS];

impl Sampler {
    pub(crate) const PROGRAMS: [&'static str; 3] = ["sample", "sample_exit", "sample_prepare"];
    pub(crate) const SIZES: [(&'static str, u32); 1] = [("samples", RING_BYTES)];

    /// Of these programs, loaded on the maps of the session whose processes are sampled,
    /// which was opened with the same plan. Nothing fires until [`start`](Self::start).
    pub(crate) fn begin(plan: &StackPlan, loaded: Loaded, cpus: usize) -> Result<Self> {
        let ring = sys::Ring::new(loaded.map("samples")?).context("ring of samples")?;
        let hook = c"sched_process_exit";
        let exit = sys::raw_tracepoint_open(Some(hook), loaded.prog("sample_exit")?)
            .context("attaching to sched_process_exit")?;
        let (attr, rate) = (plan.attr, plan.rate);
        Ok(Self { loaded, ring, cpus, attr, rate, events: Vec::new(), _exit: exit })
    }

    /// A map of the kernel half.
    pub(crate) fn map(&self, name: &str) -> Result<BorrowedFd<'_>> {
        self.loaded.map(name)
    }

    /// Tells of these files, as [`consume`](Self::consume) will say, before any process
    /// runs them: this one maps them for a moment.
    pub fn prepare(&self, files: &[PathBuf]) -> Result<()> {
        let mapped: Vec<_> = files.iter().filter_map(|f| Mapped::new(f).ok()).collect();
        sys::prog_run(self.loaded.prog("sample_prepare")?).context("files to be prepared")?;
        drop(mapped);
        Ok(())
    }

    /// From now on samples are taken.
    pub fn start(&mut self) -> Result<()> {
        for cpu in host::online_cpus()? {
            let fd = sys::sampling_open(&self.attr, self.rate, cpu, self.loaded.prog("sample")?)
                .map_err(|e| refused(&e, self.rate))
                .with_context(|| format!("sampling on CPU {cpu}"))?;
            self.events.push(fd);
        }
        Ok(())
    }

    /// No more samples; what was taken can still be consumed.
    pub fn stop(&mut self) {
        self.events.clear();
    }

    /// Readable when the kernel half asks for attention.
    pub fn as_poll_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_epoll_fd()
    }

    /// Records that wait, at most a batch.
    pub fn consume(&mut self) -> io::Result<Vec<Result<StackRecord, abi::DecodeError>>> {
        Ok(self.ring.consume()?.iter().map(|b| abi::stacks::decode(b)).collect())
    }

    /// What the kernel half counted.
    pub fn counts(&self) -> Result<SampleCounts> {
        self.loaded.counters("samplers", 0, self.cpus).context("counters of samples")
    }

    /// Run statistics of the programs; zero unless the kernel keeps them.
    pub fn stats(&self) -> Vec<(String, sys::ProgInfo)> {
        self.loaded.stats()
    }
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
