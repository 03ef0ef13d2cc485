//! (a) The slow-down of many short processes.

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

/// Runs the storm, behind what is to measure it, and returns the seconds it took
/// by its own account: what comes before and after is part (b).
fn storm(bench: &Bench, before: Option<Command>) -> Result<f64> {
    let processes = bench.amount(PROCESSES, QUICK_PROCESSES).to_string();
    let args = ["storm", &processes, "--jobs", &jobs().to_string(), "--vfork"].map(str::to_owned);
    let facts = prof::facts(&mut bench.programs.target(before, &args))?;
    Ok(prof::seconds(prof::fact(&facts, "elapsed_ns")?))
}

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    let mut table = Table::of_pairs("bare");
    let mut data = Map::new();
    let mut skipped = Vec::new();
    let mut compare = |name: &str, other: &mut dyn FnMut() -> Result<f64>| -> Result<()> {
        eprintln!("bench a: {name}");
        let pairs = Pairs::take(WARM_UP, bench.runs, &mut || storm(bench, None), other)?;
        table.push_pairs(name, &pairs);
        data.insert(name.to_owned(), pairs.to_json());
        Ok(())
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
        compare(&name, &mut || {
            let watch = Watch::start(bench, &rules)?;
            let elapsed = storm(bench, None)?;
            watch.stop()?;
            Ok(elapsed)
        })?;
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
             at once. The time is the storm's own, without start and end of what measures it. \
             {} pairs each, after {WARM_UP} to warm up. \"bare, again\" is the noise.",
            jobs(),
            bench.runs,
        ),
        tables: vec![table],
        skipped,
        data: json!({ "processes": processes, "jobs": jobs(), "pairs": Value::Object(data) }),
    })
}
