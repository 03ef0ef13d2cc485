//! (c) The time in each program of the kernel half, by the kernel's own count.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use prof_kernel::abi::Counter;
use prof_kernel::session::Backend;
use prof_kernel::session::Plan;
use prof_kernel::session::Session;
use prof_kernel::sys;
use prof_model::rules::CgroupRef;
use prof_model::rules::Resolver;
use prof_model::rules::RuleSet;
use prof_model::rules::compile;
use serde_json::Value;
use serde_json::json;

use super::Bench;
use super::prof;
use super::report::Section;
use super::report::Table;
use super::stats::Spread;
use super::watch;

const PROCESSES: u32 = 2000;
const QUICK_PROCESSES: u32 = 300;
const BATCHES: u32 = 200;
const QUICK_BATCHES: u32 = 40;
/// Processes in a batch: few, so that one slow call shows in the mean of its
/// batch.
const BATCH: usize = 3;

/// Rules without names to look up.
pub struct NoNames;

impl Resolver for NoNames {
    fn uid(&self, name: &str) -> Result<u32, String> {
        Err(format!("no user {name}"))
    }

    fn gid(&self, name: &str) -> Result<u32, String> {
        Err(format!("no group {name}"))
    }

    fn cgroup(&self, path: &str) -> Result<CgroupRef, String> {
        Err(format!("no cgroup {path}"))
    }
}

/// Calls and time in one program.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    calls: u64,
    ns: u64,
}

impl Cost {
    fn mean(self) -> Option<f64> {
        (self.calls > 0).then(|| self.ns as f64 / self.calls as f64)
    }
}

type Costs = BTreeMap<String, Cost>;

fn read(session: &Session) -> Costs {
    let stats = session.stats().into_iter();
    stats.map(|(name, s)| (name, Cost { calls: s.run_cnt, ns: s.run_time_ns })).collect()
}

fn since(session: &Session, before: &Costs) -> Costs {
    let mut costs = read(session);
    for (name, cost) in &mut costs {
        let before = before.get(name).copied().unwrap_or_default();
        cost.calls -= before.calls;
        cost.ns -= before.ns;
    }
    costs
}

/// What one set of rules costs.
#[derive(Debug)]
struct Found {
    /// In the storm.
    storm: Costs,
    /// Mean time of a call in each batch.
    batches: BTreeMap<String, Vec<f64>>,
    /// In all programs, for each process.
    per_process: f64,
    /// Execs on the machine besides the storm's, by one of the storm's.
    others: f64,
}

/// A session with these rules and nothing else.
pub fn plan(rules: &[String], backend: Backend) -> Result<Plan> {
    let set = RuleSet::from_options(&[], rules, &[])?;
    Ok(Plan {
        backend: Some(backend),
        btf: None,
        cache: None,
        tables: compile(&set, &NoNames)?,
        ring_bytes: 1 << 20,
        max_processes: 1 << 14,
        read_args: true,
        per_thread: false,
        count_execs: false,
        counters: Vec::new(),
        attaches: false,
        stacks: None,
        start_paused: false,
        regions: false,
        program: None,
    })
}

fn open(rules: &[String], backend: Backend) -> Result<Session> {
    Session::open(&Plan { ring_bytes: 32 << 20, ..plan(rules, backend)? })
}

fn drain(session: &mut Session) -> Result<()> {
    while !session.consume()?.is_empty() {}
    Ok(())
}

fn measure_rules(bench: &Bench, setup: &Setup, backend: Backend) -> Result<Found> {
    let mut session = open(&setup.rules, backend)?;
    let _stats = sys::enable_stats().context("statistics of BPF programs")?;
    let processes = bench.amount(PROCESSES, QUICK_PROCESSES);
    let storm = ["storm".to_owned(), processes.to_string(), "--vfork".to_owned()];
    let run = || prof::facts(&mut bench.programs.target(None, &storm));

    run()?;
    drain(&mut session)?;
    let before = read(&session);
    let enabled_before = session.counters()?[Counter::Enabled as usize];
    run()?;
    let storm = since(&session, &before);
    let enabled = session.counters()?[Counter::Enabled as usize] - enabled_before;
    ensure!(
        if setup.matching { enabled >= u64::from(processes) } else { enabled == 0 },
        "{enabled} of {processes} processes were profiled"
    );
    drain(&mut session)?;

    let mut means: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..batches(bench) {
        let before = read(&session);
        for _ in 0..BATCH {
            prof::quietly(Command::new(&bench.programs.target).args(["exit", "0"]))?;
        }
        for (name, cost) in since(&session, &before) {
            if let Some(mean) = cost.mean() {
                means.entry(name).or_default().push(mean);
            }
        }
        drain(&mut session)?;
    }
    let ns: u64 = storm.values().map(|cost| cost.ns).sum();
    // All processes are alike if none matches, whoever started them. If some do,
    // what the others cost is little beside.
    let execs = storm.iter().filter(|(name, _)| name.contains("exec"));
    let execs = execs.map(|(_, cost)| cost.calls).max().unwrap_or_default();
    let alike = if setup.matching { enabled } else { execs };
    Ok(Found {
        per_process: ns as f64 / alike.max(1) as f64,
        others: execs as f64 / f64::from(processes) - 1.0,
        storm,
        batches: means,
    })
}

/// Rules to measure with.
#[derive(Debug)]
struct Setup {
    name: &'static str,
    rules: Vec<String>,
    /// Whether they name the target.
    matching: bool,
}

fn setups(bench: &Bench) -> Result<Vec<Setup>> {
    let exe = bench.programs.target.to_str().context("the target's path is not UTF-8")?;
    let dir = bench.programs.target.parent().and_then(|d| d.to_str()).unwrap_or("/");
    let comms = watch::COMMS.join(",");
    let by_all = vec![
        format!("exe: exe={exe}"),
        format!("comm: comm={comms}"),
        format!("prefix: exe={dir}/*"),
        "suffix: exe=*/prof-target".to_owned(),
        format!("all: exe=*/prof-target comm={comms} comm!=sh,bash"),
    ];
    let setup = |name, rules, matching| Setup { name, rules, matching };
    Ok(vec![
        setup("1 rule, no match", watch::rules(1, false), false),
        setup("64 rules, no match", watch::rules(64, false), false),
        setup("1 rule", watch::rules(1, true), true),
        setup("64 rules", watch::rules(64, true), true),
        setup("exe, comm, prefix and suffix", by_all, true),
    ])
}

/// Rounds: what one of them says is a mean already, so a few do.
fn rounds(bench: &Bench) -> usize {
    bench.runs.div_ceil(3)
}

/// Batches in one round.
fn batches(bench: &Bench) -> usize {
    (bench.amount(BATCHES, QUICK_BATCHES) as usize).div_ceil(rounds(bench))
}

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    let mut skipped = Vec::new();
    let mut found = Vec::new();
    for backend in Backend::ALL {
        // What cannot be attached here is left out, what fails later is a failure.
        match open(&watch::rules(1, true), backend) {
            Ok(_) => {
                for setup in setups(bench)? {
                    found.push((format!("{backend}: {}", setup.name), backend, setup, Vec::new()));
                }
            }
            Err(error) => skipped.push(format!("{backend}: {error:#}")),
        }
    }
    // In turns, as the machine's pace changes.
    for round in 1..=rounds(bench) {
        for (name, backend, setup, found) in &mut found {
            eprintln!("bench c: round {round}: {name}");
            found.push(measure_rules(bench, setup, *backend).with_context(|| name.clone())?);
        }
    }

    let mut calls = Table::new(&["", "program", "calls", "typical", "batch: median", "batch: max"]);
    let mut processes =
        Table::new(&["all programs, for each process", "median", "min–max", "others' execs"]);
    let mut data = Vec::new();
    for (name, _, _, found) in &found {
        push_calls(&mut calls, name, found);
        let others = Spread::of(found.iter().map(|f| f.others)).map_or(0.0, |s| s.median);
        if let Some(spread) = Spread::of(found.iter().map(|f| f.per_process)) {
            processes.rows.push(vec![
                name.clone(),
                format!("{:.0} ns", spread.median),
                format!("{:.0}–{:.0} ns", spread.min, spread.max),
                format!("{:.0} %", 100.0 * others),
            ]);
        }
        data.push(to_json(name, found));
    }
    Ok(Section {
        id: 'c',
        title: "Time in the kernel half",
        method: format!(
            "By the kernel's own statistics (`BPF_ENABLE_STATS`), which have two readings of the \
             clock in each call. Typical: time by calls over a storm of {} processes. The kernel \
             gives only totals, so the worst call is not known; what stands for it is {} batches \
             of {BATCH} processes each, of which the mean time of a call is taken: a bound from \
             below. For each process: the time in all programs over a storm, divided by its \
             processes; that is what arming and disarming cost, but for the entry and exit of the \
             hooks. Other processes that execute meanwhile, as the last column has them, blur \
             it. Rounds: {}, the rules taking turns.",
            bench.amount(PROCESSES, QUICK_PROCESSES),
            batches(bench) * rounds(bench),
            rounds(bench),
        ),
        tables: vec![processes, calls],
        skipped,
        data: Value::Array(data),
    })
}

fn push_calls(table: &mut Table, name: &str, found: &[Found]) {
    let Some(first) = found.first() else { return };
    for program in first.storm.keys() {
        let of = |f: &Found| f.storm.get(program).copied().unwrap_or_default();
        let Some(typical) = Spread::of(found.iter().filter_map(|f| of(f).mean())) else {
            continue;
        };
        let batches = found.iter().filter_map(|f| f.batches.get(program)).flatten().copied();
        let (median, max) = Spread::of(batches).map_or_else(Default::default, |s| {
            (format!("{:.0} ns", s.median), format!("{:.0} ns", s.max))
        });
        table.rows.push(vec![
            name.to_owned(),
            format!("`{program}`"),
            found.iter().map(|f| of(f).calls).sum::<u64>().to_string(),
            format!("{:.0} ns", typical.median),
            median,
            max,
        ]);
    }
}

fn to_json(name: &str, found: &[Found]) -> Value {
    let rounds = found.iter().map(|f| {
        let programs = f.storm.iter().map(|(program, cost)| {
            json!({ "program": program, "calls": cost.calls, "ns": cost.ns,
                "batch_mean_ns": f.batches.get(program) })
        });
        json!({ "per_process_ns": f.per_process, "others": f.others,
            "programs": programs.collect::<Vec<_>>() })
    });
    json!({ "rules": name, "rounds": rounds.collect::<Vec<_>>() })
}
