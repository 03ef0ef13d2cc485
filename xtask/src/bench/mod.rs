//! What `prof` costs: those it measures, those it does not, and itself.
//!
//! Nothing here passes or fails by a time, as times are the machine's. Ways are
//! compared in turns, and the ratio within each pair is what is reported.
//!
//! - `storm`: (a) the slow-down of many short processes
//! - `start`: (b) the time until a command runs, and until it is reported
//! - `programs`: (c) the time in the kernel half, for each process
//! - `memory`: (d) what thousands of live profiled processes take
//! - `switches`: (e) what counting adds to a context switch
//! - `stacks`: (f) what sampling stacks costs those that are sampled
//! - `pictures`: (g) from the end of a program to the picture; large unwind tables
//! - `audit`: (h) what an audit adds to the system calls of others
//! - `stats`: pairs; `report`: tables; `machine`: where it was measured
//! - `prof`: the programs under test; `watch`: a running `prof watch`

mod audit;
mod machine;
mod memory;
mod pictures;
mod prof;
mod programs;
mod report;
mod stacks;
mod start;
mod stats;
mod storm;
mod switches;
mod watch;

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;

use crate::scratch::Scratch;
use machine::Machine;
use prof::Programs;

const DOCUMENT: &str = "docs/benchmarks.md";
const RUNS: usize = 11;
const QUICK_RUNS: usize = 3;
const WARM_UP: usize = 1;

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Slow-down of a storm of short processes
    A,
    /// Time from start to exec, and to the end
    B,
    /// Time in each BPF program
    C,
    /// Memory with many live profiled processes
    D,
    /// Cost of a context switch while events are counted
    E,
    /// Cost of sampling stacks
    F,
    /// From the end of a program to the picture; large unwind tables
    G,
    /// Cost of an audit to system calls
    H,
    /// All of them
    All,
}

/// Measure what prof costs; needs root
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// What to measure
    #[arg(value_enum, default_value = "all")]
    part: Part,

    /// Few runs of less each, and docs/benchmarks.md stays as it is
    #[arg(long)]
    quick: bool,

    /// Number of runs to compare [default: 11, or 3 if quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,

    /// Write all samples to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// How the audit of part h attaches: auto, fentry, kprobe or tracepoint
    #[arg(long, value_name = "WAY", default_value = "auto")]
    audit_hooks: String,

    /// A prof to measure instead of the one built from this workspace
    #[arg(long, value_name = "FILE")]
    prof: Option<PathBuf>,
}

/// What all parts share.
#[derive(Debug)]
struct Bench {
    programs: Programs,
    scratch: Scratch,
    runs: usize,
    quick: bool,
    audit_hooks: String,
}

impl Bench {
    /// A quantity, or less of it if in a hurry.
    fn amount(&self, usual: u32, quick: u32) -> u32 {
        if self.quick { quick } else { usual }
    }
}

/// Measures, prints and writes down.
pub fn run(args: &BenchArgs) -> Result<()> {
    let wanted = |part| args.part == part || args.part == Part::All;
    // Only the BPF programs are measured without the command.
    let programs = Programs::build(args.prof.as_deref(), args.part != Part::C)?;
    let runs = args.runs.map_or(if args.quick { QUICK_RUNS } else { RUNS }, |n| n as usize);
    let bench = Bench {
        programs,
        scratch: Scratch::create(Path::new("target"))?,
        runs,
        quick: args.quick,
        audit_hooks: args.audit_hooks.clone(),
    };

    let mut sections = Vec::new();
    if wanted(Part::A) {
        sections.push(storm::measure(&bench).context("part a")?);
    }
    if wanted(Part::B) {
        sections.push(start::measure(&bench).context("part b")?);
    }
    if wanted(Part::C) {
        sections.push(programs::measure(&bench).context("part c")?);
    }
    if wanted(Part::D) {
        sections.push(memory::measure(&bench).context("part d")?);
    }
    if wanted(Part::E) {
        sections.push(switches::measure(&bench).context("part e")?);
    }

    if wanted(Part::F) {
        sections.push(stacks::measure(&bench).context("part f")?);
    }
    if wanted(Part::G) {
        sections.push(pictures::measure(&bench).context("part g")?);
    }
    if wanted(Part::H) {
        sections.push(audit::measure(&bench).context("part h")?);
    }

    let machine = Machine::read()?;
    let mut texts = Vec::new();
    for section in &sections {
        let text = section.markdown(&machine, &command(args, section.id));
        println!("{text}");
        texts.push((section.id, text));
    }
    if let Some(path) = &args.json {
        let parts: Vec<_> = sections.iter().map(report::Section::to_json).collect();
        let all = json!({ "machine": machine.to_json(), "runs": runs, "parts": parts });
        fs::write(path, format!("{all:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !args.quick {
        report::write(Path::new(DOCUMENT), &texts)?;
    }
    Ok(())
}

/// The command that measures the same again.
fn command(args: &BenchArgs, id: char) -> String {
    let mut command = format!("cargo xtask bench {id}");
    if args.quick {
        command.push_str(" --quick");
    }
    if let Some(runs) = args.runs {
        command.push_str(&format!(" --runs {runs}"));
    }
    command
}
