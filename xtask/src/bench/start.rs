//! (b) The time until a command runs, and until all is done.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use rustix::time::ClockId;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Bench;
use super::WARM_UP;
use super::prof;
use super::report::Section;
use super::report::Table;
use super::stats::Pairs;
use crate::scratch::nonce;

/// From the start of a command to its end.
fn whole(mut command: Command) -> Result<f64> {
    let started = Instant::now();
    prof::quietly(&mut command)?;
    Ok(started.elapsed().as_secs_f64())
}

/// From the start of what measures the target to the target's first look at the
/// clock: a little after its exec, by as much whatever measures it.
fn until_exec(bench: &Bench, before: Option<Command>) -> Result<f64> {
    let mut command = bench.programs.target(before, &["now"]);
    let started = prof_kernel::clock::now_ns(ClockId::Monotonic);
    let facts = prof::facts(&mut command)?;
    Ok(prof::seconds(prof::fact(&facts, "monotonic_ns")?.saturating_sub(started)))
}

/// `prof run` as it is after it ran before, when the kernel half is prepared.
fn run(bench: &Bench) -> Result<Command> {
    let mut run = bench.programs.prof("run")?;
    run.env("PROF_CACHE_DIR", bench.scratch.path.join("cache"));
    Ok(run)
}

/// `prof run` as it is the first time on a kernel.
fn first_run(bench: &Bench) -> Result<Command> {
    let mut run = bench.programs.prof("run")?;
    run.env("PROF_CACHE_DIR", bench.scratch.path.join(format!("cache-{}", nonce()?)));
    Ok(run)
}

fn with_true(mut before: Command) -> Command {
    before.args(["--", "true"]);
    before
}

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    let fault = prof::perf_fault("stat");
    let perf = fault.is_none();
    let mut data = Map::new();
    let mut compare = |table: &mut Table,
                       name: &str,
                       base: &mut dyn FnMut() -> Result<f64>,
                       other: &mut dyn FnMut() -> Result<f64>|
     -> Result<()> {
        eprintln!("bench b: {name}");
        // A run takes milliseconds: take more of them.
        let pairs = Pairs::take(WARM_UP, bench.runs * 3, base, other)?;
        table.push_pairs(name, &pairs);
        data.insert(name.to_owned(), pairs.to_json());
        Ok(())
    };

    let mut bare = || whole(Command::new("true"));
    let mut stat = || whole(with_true(prof::perf("stat")));
    let mut ran = || whole(with_true(run(bench)?));
    let mut ran_first = || whole(with_true(first_run(bench)?));
    let mut from_bare = Table::of_pairs("`true`");
    compare(&mut from_bare, "`prof run -- true`", &mut bare, &mut ran)?;
    compare(&mut from_bare, "`prof run -- true`, first time", &mut bare, &mut ran_first)?;
    let mut tables = Vec::new();
    if perf {
        compare(&mut from_bare, "`perf stat -- true`", &mut bare, &mut stat)?;
        let mut from_perf = Table::of_pairs("`perf stat -- true`");
        compare(&mut from_perf, "`prof run`, whole time, by perf's", &mut stat, &mut ran)?;
        compare(
            &mut from_perf,
            "`prof run`, first time, whole time, by perf's",
            &mut stat,
            &mut ran_first,
        )?;
        tables.push(from_perf);
    }
    tables.insert(0, from_bare);

    let mut bare = || until_exec(bench, None);
    let mut ran = || until_exec(bench, Some(run(bench)?));
    let mut ran_first = || until_exec(bench, Some(first_run(bench)?));
    let mut to_exec = Table::of_pairs("spawned by itself");
    compare(&mut to_exec, "`prof run`, start to exec", &mut bare, &mut ran)?;
    compare(&mut to_exec, "`prof run`, first time, start to exec", &mut bare, &mut ran_first)?;
    if perf {
        let mut stat = || until_exec(bench, Some(prof::perf("stat")));
        compare(&mut to_exec, "`perf stat`, start to exec", &mut bare, &mut stat)?;
    }
    tables.push(to_exec);

    Ok(Section {
        id: 'b',
        title: "Time to start and to end",
        method: format!(
            "Whole time: of `prof run -- true` from its start to its end, all output to \
             `/dev/null`. Start to exec: from before `prof` is started to the child's first look \
             at the clock. \"First time\" is with nothing prepared: an empty `PROF_CACHE_DIR`. \
             {} pairs each, after {WARM_UP} to warm up.",
            bench.runs * 3,
        ),
        tables,
        skipped: fault.into_iter().collect(),
        data: json!({ "pairs": Value::Object(data) }),
    })
}
