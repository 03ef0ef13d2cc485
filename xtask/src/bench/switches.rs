//! (e) What counting adds to a context switch: two processes on one CPU that wait for
//! each other.

use std::collections::HashMap;
use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use prof_events::Catalogue;
use prof_events::Host;
use prof_events::Request;
use prof_kernel::counters::CounterSpec;
use prof_kernel::session::Backend;
use prof_kernel::session::Plan;
use prof_kernel::session::Session;
use prof_kernel::sys;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Bench;
use super::WARM_UP;
use super::memory::Herd;
use super::prof;
use super::programs;
use super::report::Section;
use super::report::Table;
use super::stats::Spread;
use super::watch;
use super::watch::Watch;

/// Four that every kernel can count, so that prof and perf count the same everywhere.
const EVENTS: &str = "page-faults:u,cgroup-switches,dummy,alignment-faults";
/// Their number.
const COUNTERS: usize = 4;

const ROUND_TRIPS: u32 = 200_000;
const QUICK_ROUND_TRIPS: u32 = 20_000;
const STRETCHES: u32 = 5;
const CROWD: u32 = 10_000;
const QUICK_CROWD: u32 = 500;
/// The crowd takes seconds to come and go: it is measured in every so many rounds.
const CROWD_EVERY: usize = 3;

/// In which `perf stat -p` has its events.
const ATTACHES: Duration = Duration::from_millis(200);

/// A copy of the target: a third program for rules to name.
const OTHER: &str = "prof-other";

/// Nanoseconds a switch, in the best of a few stretches, as what else runs on that CPU only
/// ever adds. Each is told its arguments, and what it found.
fn best_of(
    bench: &Bench,
    stretch: impl Fn(&[&str]) -> Result<HashMap<String, u64>>,
) -> Result<f64> {
    let trips = (bench.amount(ROUND_TRIPS, QUICK_ROUND_TRIPS) / STRETCHES).to_string();
    let mut best = f64::INFINITY;
    for _ in 0..STRETCHES {
        let facts = stretch(&["pingpong", &trips, "--cpu", "0"])?;
        // There and back.
        let switches = 2 * prof::fact(&facts, "timed_rounds")?;
        best = best.min(prof::fact(&facts, "elapsed_ns")? as f64 / switches.max(1) as f64);
    }
    Ok(best)
}

/// Of the target behind what is to measure it.
fn pingpong(bench: &Bench, before: impl Fn() -> Option<Command>) -> Result<f64> {
    best_of(bench, |args| prof::facts(&mut bench.programs.target(before(), args)))
}

/// Of two that `perf stat` finds running.
fn beside_perf(bench: &Bench) -> Result<f64> {
    best_of(bench, |args| {
        let mut command = bench.programs.target(None, args);
        command.arg("--attended").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut target = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut said = BufReader::new(target.stdout.take().context("no pipe from pingpong")?);
        let mut who = String::new();
        while !who.contains("pong_pid=") {
            ensure!(said.read_line(&mut who)? > 0, "pingpong did not begin");
        }
        let pids = prof::parse_facts(&who);
        let pids = ["pid", "pong_pid"].map(|p| prof::fact(&pids, p).map(|p| p.to_string()));
        let [ping, pong] = pids;
        let mut perf = prof::perf("stat");
        perf.args(["-e", EVENTS, "-p", &format!("{},{}", ping?, pong?)]);
        let mut perf = perf.stdin(Stdio::null()).spawn().with_context(|| format!("{perf:?}"))?;
        thread::sleep(ATTACHES);
        // Its end is what begins the rest.
        drop(target.stdin.take());
        let mut facts = String::new();
        said.read_to_string(&mut facts)?;
        ensure!(target.wait()?.success(), "pingpong failed: {facts}");
        ensure!(perf.wait()?.success(), "perf stat -p failed");
        Ok(prof::parse_facts(&facts))
    })
}

fn nothing() -> Option<Command> {
    None
}

fn perf_stat(all: bool) -> Command {
    let mut perf = prof::perf("stat");
    perf.args(["-e", EVENTS]).args(all.then_some("-a"));
    perf
}

/// Beside a watch whose rules name the two, or only the crowd that sleeps meanwhile.
fn beside_watch(bench: &Bench, rules: &[String], crowd: Option<(&Path, u32)>) -> Result<f64> {
    let watch = Watch::with(bench, rules, &["-e", EVENTS])?;
    let herd = crowd.map(|(program, n)| Herd::start(program, n)).transpose()?;
    if let Some((_, n)) = crowd {
        watch.wait_for(n)?;
    }
    let ns = pingpong(bench, nothing)?;
    drop(herd);
    watch.stop()?;
    Ok(ns)
}

/// One of the ways that are measured in turns.
struct Way<'a> {
    name: String,
    /// Taken in each of so many rounds.
    every: usize,
    measure: Box<dyn Fn() -> Result<f64> + 'a>,
    /// By round.
    samples: Vec<Option<f64>>,
}

impl<'a> Way<'a> {
    fn new(name: &str, measure: impl Fn() -> Result<f64> + 'a) -> Self {
        let measure = Box::new(measure);
        Self { name: name.to_owned(), every: 1, measure, samples: Vec::new() }
    }

    /// With the sample of another way in the same round.
    fn beside<'s>(&'s self, other: &'s Way<'_>) -> impl Iterator<Item = (f64, f64)> + 's {
        self.samples.iter().zip(&other.samples).filter_map(|(a, b)| Some(((*a)?, (*b)?)))
    }
}

const BARE: usize = 0;
const BOTH: usize = 3;
const PERF: usize = 4;
const PERF_BY_PID: usize = 5;

/// All of them; the first few in the order of the constants above.
fn ways<'a>(bench: &'a Bench, other: &'a Path, perf: bool) -> Result<Vec<Way<'a>>> {
    let crowd = bench.amount(CROWD, QUICK_CROWD);
    let named = other.to_str().context("the path is not UTF-8")?;
    let theirs = vec![format!("other: exe={named}")];
    let both = watch::rules(1, true);
    let mut both_and_theirs = both.clone();
    both_and_theirs.extend(theirs.clone());
    let many = watch::rules(64, true);
    let one = (other, 1);

    let (rules, more) = (theirs.clone(), theirs);
    let mut ways = vec![
        Way::new("bare", || pingpong(bench, nothing)),
        Way::new("bare, again", || pingpong(bench, nothing)),
        Way::new("prof counts another process", move || beside_watch(bench, &rules, Some(one))),
        Way::new("prof counts both", move || beside_watch(bench, &both, None)),
    ];
    if perf {
        ways.push(Way::new("`perf stat` counts both", || {
            pingpong(bench, || Some(perf_stat(false)))
        }));
        ways.push(Way::new("`perf stat -p` counts both", || beside_perf(bench)));
        ways.push(Way::new("`perf stat -a`", || pingpong(bench, || Some(perf_stat(true)))));
    }
    ways.push(Way::new("prof counts both, 64 rules", move || beside_watch(bench, &many, None)));
    let name = format!("prof counts {crowd} others, asleep");
    let crowded = (other, crowd);
    let measure = move || beside_watch(bench, &more, Some(crowded));
    ways.push(Way { every: CROWD_EVERY, ..Way::new(&name, measure) });
    let name = format!("prof counts both and {crowd} others, asleep");
    let measure = move || beside_watch(bench, &both_and_theirs, Some(crowded));
    ways.push(Way { every: CROWD_EVERY, ..Way::new(&name, measure) });
    Ok(ways)
}

fn take_turns(bench: &Bench, ways: &mut [Way<'_>]) -> Result<()> {
    for round in 0..WARM_UP + bench.runs {
        for way in ways.iter_mut() {
            if round < WARM_UP {
                // The crowd is not what is cold.
                if way.every == 1 {
                    (way.measure)()?;
                }
                continue;
            }
            let turn = round - WARM_UP;
            eprintln!("bench e: round {} of {}: {}", turn + 1, bench.runs, way.name);
            let due = turn.is_multiple_of(way.every);
            let sample = due.then(|| (way.measure)()).transpose();
            way.samples.push(sample.with_context(|| way.name.clone())?);
        }
    }
    Ok(())
}

fn comparison(ways: &[Way<'_>]) -> Table {
    let columns = ["", "a switch", "more than bare", "ratio: median", "min–max"];
    let mut table = Table::new(&columns);
    for way in ways {
        let of = |f: fn((f64, f64)) -> f64| Spread::of(way.beside(&ways[BARE]).map(f));
        let (Some(ns), Some(more), Some(ratio)) =
            (of(|(ns, _)| ns), of(|(ns, bare)| ns - bare), of(|(ns, bare)| ns / bare))
        else {
            continue;
        };
        table.rows.push(vec![
            way.name.clone(),
            format!("{:.0} ns", ns.median),
            format!("{:.0} ns", more.median),
            format!("{:.3}", ratio.median),
            format!("{:.3}–{:.3}", ratio.min, ratio.max),
        ]);
    }
    table
}

/// What prof adds, by what something else adds in the same round.
fn shares(ways: &[Way<'_>], perf: bool) -> Table {
    let mut table = Table::new(&["", "median", "min–max"]);
    let mut push = |name: &str, above: &Way<'_>, below: &Way<'_>| {
        let bare = &ways[BARE].samples;
        let each = above.samples.iter().zip(&below.samples).zip(bare);
        let shares =
            each.filter_map(|((a, b), bare)| Some(((*a)? - (*bare)?) / ((*b)? - (*bare)?)));
        if let Some(s) = Spread::of(shares) {
            let range = format!("{:.2}–{:.2}", s.min, s.max);
            table.rows.push(vec![name.to_owned(), format!("{:.2}", s.median), range]);
        }
    };
    if perf {
        push("what prof adds, by what `perf stat` adds", &ways[BOTH], &ways[PERF]);
        push("the same, by what `perf stat -p` adds", &ways[BOTH], &ways[PERF_BY_PID]);
    }
    let (last, many) = (ways.len() - 1, ways.len() - 3);
    push("what prof adds with 64 rules, by what it adds with 1", &ways[many], &ways[BOTH]);
    push("what prof adds with the crowd, by what it adds without", &ways[last], &ways[BOTH]);
    table
}

/// The events, to be opened.
fn specs() -> Result<Vec<CounterSpec>> {
    let mut request = Request::default();
    request.add("-e", EVENTS)?;
    let selection = request.resolve(&Catalogue::new(Host::here()))?;
    let specs: Vec<_> = selection
        .events
        .iter()
        .filter_map(|event| {
            let (name, attr) = (event.name.clone(), event.attr?);
            Some(CounterSpec { name, attr, cpus: None, leader: None, filter: None })
        })
        .collect();
    ensure!(specs.len() == COUNTERS, "{} of the {COUNTERS} are perf events", specs.len());
    Ok(specs)
}

/// Calls of the program at the switch, and the mean time of one.
fn in_the_program(bench: &Bench, rules: &[String]) -> Result<(u64, f64)> {
    let session =
        Session::open(&Plan { counters: specs()?, ..programs::plan(rules, Backend::RawTp)? })?;
    let _stats = sys::enable_stats().context("statistics of BPF programs")?;
    let read = || -> Result<(u64, u64)> {
        let stats = session.stats();
        let (_, info) =
            stats.iter().find(|(name, _)| name == "raw_switch").context("no program raw_switch")?;
        Ok((info.run_cnt, info.run_time_ns))
    };
    let before = read()?;
    pingpong(bench, nothing)?;
    let after = read()?;
    let calls = after.0 - before.0;
    Ok((calls, (after.1 - before.1) as f64 / calls.max(1) as f64))
}

/// In turns, like the rest.
fn typical(bench: &Bench, data: &mut Map<String, Value>) -> Result<Table> {
    let setups = [
        ("neither is counted", watch::rules(1, false)),
        ("both are, 1 rule", watch::rules(1, true)),
        ("both are, 64 rules", watch::rules(64, true)),
    ];
    let mut found = vec![Vec::new(); setups.len()];
    for round in 1..=bench.runs {
        for ((name, rules), found) in setups.iter().zip(&mut found) {
            eprintln!("bench e: time in the program, round {round} of {}: {name}", bench.runs);
            found.push(in_the_program(bench, rules)?);
        }
    }
    let mut table = Table::new(&["`raw_switch`", "calls", "typical: median", "min–max"]);
    for ((name, _), found) in setups.iter().zip(&found) {
        let Some(spread) = Spread::of(found.iter().map(|(_, ns)| *ns)) else { continue };
        let calls: u64 = found.iter().map(|(calls, _)| calls).sum();
        table.rows.push(vec![
            (*name).to_owned(),
            calls.to_string(),
            format!("{:.0} ns", spread.median),
            format!("{:.0}–{:.0} ns", spread.min, spread.max),
        ]);
        data.insert((*name).to_owned(), json!(found));
    }
    Ok(table)
}

/// The target under another name.
fn copy(bench: &Bench) -> Result<PathBuf> {
    let copy = std::path::absolute(bench.scratch.path.join(OTHER))?;
    fs::copy(&bench.programs.target, &copy)
        .with_context(|| format!("cannot write {}", copy.display()))?;
    Ok(copy)
}

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    let fault = prof::perf_fault("stat");
    let other = copy(bench)?;
    let mut ways = ways(bench, &other, fault.is_none())?;
    take_turns(bench, &mut ways)?;
    let (compared, shares) = (comparison(&ways), shares(&ways, fault.is_none()));
    let mut samples = Map::new();
    for way in &ways {
        samples.insert(way.name.clone(), json!(way.samples));
    }
    let mut in_program = Map::new();
    let typical = typical(bench, &mut in_program)?;

    let trips = bench.amount(ROUND_TRIPS, QUICK_ROUND_TRIPS);
    Ok(Section {
        id: 'e',
        title: "Cost of a context switch",
        method: format!(
            "`prof-target pingpong {trips} --cpu 0`: two processes on one CPU send a byte to and \
             fro over two pipes, two switches a round trip. The time is their own, by the number \
             of switches, in the best of {STRETCHES} stretches, as what else runs only adds. What is counted: `{EVENTS}`, by prof and perf alike. Of a \
             command that `perf stat` starts, a switch between the two need not exchange what is \
             counted, as one's events are copies of the other's (the kernel swaps their contexts); \
             of two that it finds running (`-p`) they are not. Ratios are within a \
             round, in which all take turns: {} rounds, after {WARM_UP} to warm up; what has a \
             crowd beside it is measured in every {CROWD_EVERY}rd. \"bare, again\" is the noise. \
             The time in the program is by the kernel's own statistics (`BPF_ENABLE_STATS`), which \
             have two readings of the clock in each call; whatever else switches meanwhile is in it.",
            bench.runs,
        ),
        tables: vec![compared, shares, typical],
        skipped: fault.into_iter().collect(),
        data: json!({ "events": EVENTS, "round_trips": trips, "ns_per_switch": samples,
            "raw_switch": in_program }),
    })
}
