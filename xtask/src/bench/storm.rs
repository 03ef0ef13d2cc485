//! (a) The slow-down of many short processes.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Bench;
use super::WARM_UP;
use super::prof;
use super::report::Section;
use super::report::Table;
use super::stats::Pairs;
use super::watch;
use super::watch::Watch;

const PROCESSES: u32 = 2000;
const QUICK_PROCESSES: u32 = 300;

/// As many at once as there are CPUs.
fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Seconds by the storm's own account: what comes before and after is part (b).
struct Took {
    whole: f64,
    /// One process: the mean of the middle half, as what else disturbs does it now and then.
    process: f64,
}

/// Runs the storm, behind what is to measure it.
fn storm(bench: &Bench, before: Option<Command>) -> Result<Took> {
    storm_of(bench, &bench.programs.target, before)
}

fn storm_of(bench: &Bench, target: &Path, before: Option<Command>) -> Result<Took> {
    let processes = bench.amount(PROCESSES, QUICK_PROCESSES).to_string();
    let args = ["storm", &processes, "--jobs", &jobs().to_string(), "--vfork"].map(str::to_owned);
    let facts = prof::facts(&mut prof::behind(before, target, &args))?;
    let seconds = |fact| anyhow::Ok(prof::seconds(prof::fact(&facts, fact)?));
    Ok(Took { whole: seconds("elapsed_ns")?, process: seconds("middle_ns")? })
}

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    let mut table = Table::of_pairs("bare");
    let mut one = Table::of_pairs("a process, bare");
    let mut data = Map::new();
    let mut skipped = Vec::new();
    let mut pair = |name: &str,
                    bare: &mut dyn FnMut() -> Result<Took>,
                    other: &mut dyn FnMut() -> Result<Took>|
     -> Result<()> {
        eprintln!("bench a: {name}");
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        let noted = |took: Took, all: &mut Vec<f64>| {
            all.push(took.process);
            took.whole
        };
        let pairs =
            Pairs::take(WARM_UP, bench.runs, &mut || Ok(noted(bare()?, &mut alone)), &mut || {
                Ok(noted(other()?, &mut beside))
            })?;
        let processes = Pairs { samples: alone.into_iter().zip(beside).skip(WARM_UP).collect() };
        table.push_pairs(name, &pairs);
        one.push_pairs(name, &processes);
        data.insert(name.to_owned(), pairs.to_json());
        data.insert(format!("{name}: a process"), processes.to_json());
        Ok(())
    };
    let watched = |target: &Path, rules: &[String]| {
        let watch = Watch::start(bench, rules)?;
        let took = storm_of(bench, target, None)?;
        watch.stop()?;
        Ok(took)
    };

    let probes = &bench.programs.with_probes;
    pair(
        "with prof's probes in it, beside `prof watch`, 1 rule, matching",
        &mut || storm_of(bench, probes, None),
        &mut || watched(probes, &watch::rules(1, true)),
    )?;
    let mut compare = |name: &str, other: &mut dyn FnMut() -> Result<Took>| -> Result<()> {
        pair(name, &mut || storm(bench, None), other)
    };
    compare("bare, again", &mut || storm(bench, None))?;
    compare("under `prof run`", &mut || {
        let mut run = bench.programs.prof("run")?;
        run.args(["-o", "json:/dev/null"]);
        storm(bench, Some(run))
    })?;
    for (count, matching) in [(1, true), (64, true), (1, false), (64, false)] {
        let rules = watch::rules(count, matching);
        let name = format!(
            "beside `prof watch`, {count} {}, {}",
            if count == 1 { "rule" } else { "rules" },
            if matching { "matching" } else { "not matching" },
        );
        compare(&name, &mut || watched(&bench.programs.target, &rules))?;
    }
    for (name, subcommand, all) in
        [("under `perf stat`", "stat", false), ("under `perf record -a`", "record", true)]
    {
        if let Some(fault) = prof::perf_fault(subcommand) {
            skipped.push(fault);
            continue;
        }
        compare(name, &mut || {
            let mut perf = prof::perf(subcommand);
            perf.args(all.then_some("-a"));
            storm(bench, Some(perf))
        })?;
    }

    let processes = bench.amount(PROCESSES, QUICK_PROCESSES);
    Ok(Section {
        id: 'a',
        title: "Slow-down of a storm of short processes",
        method: format!(
            "`prof-target storm {processes} --jobs {} --vfork`: {processes} processes that exit \
             at once. The time is the storm's own, without start and end of what measures it; \
             that of a process, from its start to the wait for it, is the mean of the middle half \
             of them. {} pairs each, after {WARM_UP} to warm up. \"bare, again\" is the noise. But for \
             one row, the target has none of the probes of prof's own regions: where a program has, \
             the kernel writes four breakpoints into each process that executes it.",
            jobs(),
            bench.runs,
        ),
        tables: vec![table, one],
        skipped,
        data: json!({ "processes": processes, "jobs": jobs(), "pairs": Value::Object(data) }),
    })
}
