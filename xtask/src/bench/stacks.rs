//! (f) What sampling stacks costs those that are sampled.

use std::fs;
use std::process::Command;
use std::time::Instant;

use super::programs;
use anyhow::Context as _;
use anyhow::Result;
use prof_kernel::abi::stacks::SampleCounter;
use prof_kernel::sampler::Rate;
use prof_kernel::sampler::StackPlan;
use prof_kernel::session::Backend;
use prof_kernel::session::Plan;
use prof_kernel::session::Session;
use prof_kernel::sys;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Bench;
use super::WARM_UP;
use super::prof;
use super::report::Section;
use super::report::Table;
use super::stats::Pairs;
use super::stats::Spread;
use super::watch;

/// Rounds of the loop: some 1.2 s, in slices of 20 ms.
const ROUNDS: u32 = 2_000_000_000;
const QUICK_ROUNDS: u32 = 50_000_000;
const SLICES: u32 = 60;
const FRAMES: u32 = 30;
const PROCESSES: u32 = 600;
const QUICK_PROCESSES: u32 = 100;
const RATES: [u64; 3] = [99, 999, 4999];
const DEPTHS: [u32; 3] = [10, 30, 100];

/// A program whose own time is compared.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// One process that only computes.
    Cpu,
    /// Many that end at once.
    Forks,
}

impl Work {
    fn args(self, bench: &Bench) -> Vec<String> {
        let rounds = bench.amount(ROUNDS, QUICK_ROUNDS).to_string();
        let processes = bench.amount(PROCESSES, QUICK_PROCESSES).to_string();
        match self {
            Self::Cpu => {
                let slices = SLICES.to_string();
                vec!["deep".into(), FRAMES.to_string(), rounds, "--slices".into(), slices]
            }
            Self::Forks => vec!["storm".into(), processes, "--jobs".into(), "1".into()],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "computing",
            Self::Forks => "short processes",
        }
    }

    /// Its own time for a slice, or a process, behind what samples it: the mean of the middle
    /// half of them, as what else disturbs does it now and then, and samples all the time.
    fn time(self, bench: &Bench, before: Option<Command>) -> Result<f64> {
        let facts = prof::facts(&mut bench.programs.target(before, &self.args(bench)))?;
        Ok(prof::seconds(prof::fact(&facts, "middle_ns")?))
    }
}

/// Who samples.
#[derive(Debug, Clone, Copy)]
enum Way {
    Prof,
    PerfFp,
    PerfDwarf,
    Samply,
}

impl Way {
    const ALL: [Self; 3] = [Self::Prof, Self::PerfFp, Self::PerfDwarf];

    fn name(self) -> &'static str {
        match self {
            Self::Prof => "`prof record`",
            Self::PerfFp => "`perf record -g`",
            Self::PerfDwarf => "`perf record --call-graph dwarf`",
            Self::Samply => "`samply record`",
        }
    }

    fn command(self, bench: &Bench, hz: u64, to: &str) -> Result<Command> {
        let hz = hz.to_string();
        if matches!(self, Self::Prof) {
            let mut command = bench.programs.prof("record")?;
            command.args(["-F", &hz, "-o", &format!("raw:{to}")]);
            command.env("PROF_CACHE_DIR", bench.scratch.path.join("cache"));
            return Ok(command);
        }
        if matches!(self, Self::Samply) {
            let mut command = Command::new("samply");
            command.args(["record", "--save-only", "--rate", &hz, "-o", to]);
            return Ok(command);
        }
        let how = if matches!(self, Self::PerfDwarf) { "dwarf" } else { "fp" };
        let mut command = Command::new("perf");
        command.args(["record", "-q", "-e", "cpu-clock", "-F", &hz, "--call-graph", how, "-o", to]);
        Ok(command)
    }
}

/// Time in the kernel half for a sample, ns, of stacks of so many frames.
fn per_sample(bench: &Bench, frames: u32) -> Result<f64> {
    let plan = StackPlan::clock(Rate::Hz(4999));
    let session = Session::open(&Plan {
        stacks: Some(plan.clone()),
        ..programs::plan(&watch::rules(1, true), Backend::RawTp)?
    })?;
    let mut sampler = session.sampler(&plan)?;
    let profile = prof_model::stacks::StackProfile::default();
    let files = [bench.programs.target.clone(), "/lib64/ld-linux-x86-64.so.2".into()];
    let mut gatherer = prof_kernel::sampler::gather::Gatherer::new(&sampler, profile, 0, &files)?;
    sampler.prepare(&files)?;
    gatherer.pump(&mut sampler)?;
    let _stats = sys::enable_stats().context("statistics of BPF programs")?;
    sampler.start()?;
    let rounds = bench.amount(ROUNDS, QUICK_ROUNDS).to_string();
    let run = || {
        prof::quietly(Command::new(&bench.programs.target).args([
            "deep",
            &frames.to_string(),
            &rounds,
        ]))
    };
    // Tables of what it also loads come with the first samples.
    run()?;
    gatherer.pump(&mut sampler)?;
    let read = |sampler: &prof_kernel::sampler::Sampler| -> Result<(u64, u64, u64)> {
        let stats = sampler.stats();
        let (_, info) = stats.iter().find(|(name, _)| name == "sample").context("no program")?;
        let counts = sampler.counts()?;
        Ok((
            info.run_time_ns,
            counts[SampleCounter::Taken as usize],
            counts[SampleCounter::Idle as usize],
        ))
    };
    let before = read(&sampler)?;
    run()?;
    let after = read(&sampler)?;
    sampler.stop();
    let (ns, taken) = (after.0 - before.0, after.1 - before.1);
    // What fired elsewhere costs little, and is in it.
    Ok(ns as f64 / taken.max(1) as f64)
}

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    let mut data = Map::new();
    let mut skipped = Vec::new();
    let fault = prof::perf_fault("record");
    let mut ways: Vec<_> = match &fault {
        None => Way::ALL.to_vec(),
        Some(why) => {
            skipped.push(why.clone());
            vec![Way::Prof]
        }
    };
    let to = bench.scratch.path.join("stacks.data");
    let to = to.to_str().context("the scratch folder's path is not UTF-8")?;
    match Way::Samply.command(bench, 99, to)?.args(["--", "true"]).output() {
        Ok(output) if output.status.success() => ways.push(Way::Samply),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            skipped.push(format!("`samply`: {}", said.lines().next().unwrap_or("it fails")));
        }
        Err(e) => skipped.push(format!("`samply`: {e}")),
    }

    let mut slower = Table::of_pairs("bare");
    let mut sizes = Table::new(&["", "bytes: median", "min–max"]);
    for work in [Work::Cpu, Work::Forks] {
        let name = format!("{}: bare, again", work.name());
        eprintln!("bench f: {name}");
        let mut bare = || work.time(bench, None);
        let pairs = Pairs::take(WARM_UP, bench.runs, &mut bare, &mut || work.time(bench, None))?;
        slower.push_pairs(&name, &pairs);
        data.insert(name, pairs.to_json());
        for hz in RATES {
            for way in &ways {
                let name = format!("{}: {} at {hz} Hz", work.name(), way.name());
                eprintln!("bench f: {name}");
                let mut written = Vec::new();
                let mut other = || {
                    let elapsed = work.time(bench, Some(way.command(bench, hz, to)?))?;
                    written.push(fs::metadata(to).map_or(0.0, |m| m.len() as f64));
                    Ok(elapsed)
                };
                let pairs = Pairs::take(WARM_UP, bench.runs, &mut bare, &mut other)?;
                slower.push_pairs(&name, &pairs);
                data.insert(name.clone(), pairs.to_json());
                if let Some(s) = Spread::of(written) {
                    sizes.rows.push(vec![
                        name,
                        format!("{:.0}", s.median),
                        format!("{:.0}–{:.0}", s.min, s.max),
                    ]);
                }
            }
        }
    }

    let mut cost = Table::new(&["frames of the program", "a sample: median", "min–max"]);
    for frames in DEPTHS {
        eprintln!("bench f: time in the kernel half, {frames} frames");
        let mut found = Vec::new();
        for _ in 0..bench.runs {
            found.push(per_sample(bench, frames)?);
        }
        data.insert(format!("ns of a sample, {frames} frames"), json!(found));
        if let Some(s) = Spread::of(found) {
            cost.rows.push(vec![
                frames.to_string(),
                format!("{:.2} µs", s.median / 1e3),
                format!("{:.2}–{:.2} µs", s.min / 1e3, s.max / 1e3),
            ]);
        }
    }

    let mut start = Table::of_pairs("`perf record -g -- true`");
    if fault.is_none() {
        eprintln!("bench f: `prof run -g -- true`");
        let whole = |mut command: Command| -> Result<f64> {
            command.args(["--", "true"]);
            let started = Instant::now();
            prof::quietly(&mut command)?;
            Ok(started.elapsed().as_secs_f64())
        };
        let mut perf = || whole(Way::PerfFp.command(bench, 999, to)?);
        let mut ours = || {
            let mut run = bench.programs.prof("run")?;
            run.arg("-g").env("PROF_CACHE_DIR", bench.scratch.path.join("cache"));
            whole(run)
        };
        let pairs = Pairs::take(WARM_UP, bench.runs, &mut perf, &mut ours)?;
        start.push_pairs("`prof run -g -- true`, whole time, names and all", &pairs);
        data.insert("start".into(), pairs.to_json());
    }

    let rounds = bench.amount(ROUNDS, QUICK_ROUNDS);
    let processes = bench.amount(PROCESSES, QUICK_PROCESSES);
    Ok(Section {
        id: 'f',
        title: "Sampling stacks",
        method: format!(
            "Computing: `prof-target deep {FRAMES} {rounds} --slices {SLICES}`. Short processes: `prof-target storm \
             {processes} --jobs 1`. The time is the program's own, for a slice of {SLICES} or for a \
             process: the mean of the middle half of them. {} pairs each, after {WARM_UP} to warm \
             up. Time in the kernel half: by the kernel's statistics, at 4,999 Hz, all calls \
             of the program by the samples taken; `prof-target deep N` has some eight frames more.",
            bench.runs,
        ),
        tables: vec![slower, sizes, cost, start],
        skipped,
        data: json!({ "found": Value::Object(data) }),
    })
}
