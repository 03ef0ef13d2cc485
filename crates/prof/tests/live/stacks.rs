//! Stacks: that they are there, whole, as many as there should be, and what perf says
//! they are.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use prof::stacks::raw;
use prof_model::stacks::FrameKind;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Whole;

use crate::harness::*;

/// Whether this kernel can do it: what is older than 6.1 cannot.
pub fn taken(what: &str) -> bool {
    let (major, minor) = linux();
    if (major, minor) < (6, 1) {
        eprintln!("SKIPPED {what}: stacks need Linux 6.1, this is {major}.{minor}");
        return false;
    }
    true
}

/// What was sampled.
pub struct Stacks {
    pub profile: StackProfile,
    pub run: Run,
}

/// `prof run OPTIONS -o raw:… -- COMMAND`.
pub fn run_stacks(options: &[&str], cmd: &[&str]) -> Stacks {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x.stacks");
    let to = format!("raw:{}", file.display());
    let run = run(&[options, &["-o", &to]].concat(), cmd);
    let said = String::from_utf8_lossy(&run.output.stderr).into_owned();
    let profile = raw::read(&file).unwrap_or_else(|e| panic!("{e:#}: {said}"));
    Stacks { profile, run }
}

impl Stacks {
    pub fn whole(&self) -> usize {
        self.profile.samples.iter().filter(|s| s.whole.is_whole()).count()
    }

    pub fn samples(&self) -> usize {
        self.profile.samples.len()
    }

    /// Time that the samples stand for, ns.
    pub fn weight(&self) -> u64 {
        self.profile.samples.iter().map(|s| s.weight).sum()
    }

    fn task_clock(&self) -> u64 {
        self.run.records.profiles().iter().map(|p| figure(p, "task-clock")).sum()
    }

    pub fn assert_nothing_lost(&self) {
        assert!(self.profile.lost.is_empty(), "{:?}", self.profile.lost);
        self.run.records.assert_whole();
    }
}

/// CPU time that a target is to use, ms. In an emulated machine all but a little of a short
/// one goes into its start.
pub fn burn_ms(usual: u32) -> String {
    let slow = if std::env::var_os("PROF_VM").is_some() { 15 } else { 1 };
    (usual * slow).to_string()
}

pub fn target_str() -> &'static str {
    target().to_str().expect("a path")
}

/// A shell that runs the target `n` times, one after the other.
fn times(n: u32, args: &str) -> String {
    let target = target_str();
    format!("i=0; while [ $i -lt {n} ]; do {target} {args} >/dev/null; i=$((i+1)); done")
}

#[test]
fn short_processes_are_sampled_as_much_as_they_run() {
    let Some(_turn) = live("samples of short processes") else { return };
    if !taken("samples of short processes") || emulated("times of short processes") {
        return;
    }
    // What a hypervisor takes away is time of the timer and none of the process: where that
    // happens a run says nothing, and six of them hardly all.
    let mut found = None;
    for _ in 0..6 {
        let stacks = run_stacks(&["-F", "997"], &["sh", "-c", &times(1000, "burn 5")]);
        stacks.assert_nothing_lost();
        let (sampled, ran) = (stacks.weight() as f64, stacks.task_clock() as f64);
        println!("{:.1} ms sampled of {:.1} ms", sampled / 1e6, ran / 1e6);
        assert!(ran > 5e9, "1,000 times 5 ms: {ran}");
        if (sampled / ran - 1.0).abs() < 0.02 {
            found = Some(stacks);
            break;
        }
    }
    let stacks = found.expect("samples within 2 % of the CPU time");
    let (n, whole) = (stacks.samples(), stacks.whole());
    println!("{whole} of {n} samples whole");
    assert!(whole * 100 >= n * 99, "{whole} of {n}: {:?}", stacks.profile.wholeness());
    // Each of them, from the first on: 5 samples each, and the chance of none is small.
    let burned = stacks.profile.processes.iter().filter(|p| p.exec > 0 && p.ppid != 0);
    let seen = burned.filter(|p| p.comm.starts_with("prof-target")).count();
    assert!(seen >= 950, "{seen} of 1,000 were met");
}

/// Nearly all of which is the loader: the first instructions of libraries, calls that are
/// bound when they are made first, and in the shell forks.
#[test]
fn the_shortest_processes_have_whole_stacks() {
    let Some(_turn) = live("stacks of the shortest processes") else { return };
    if !taken("stacks of the shortest processes") || emulated("times of short processes") {
        return;
    }
    let script = "i=0; while [ $i -lt 500 ]; do /bin/true; /bin/ls /; i=$((i+1)); done";
    let stacks = run_stacks(&["-F", "997"], &["sh", "-c", script]);
    stacks.assert_nothing_lost();
    let (n, whole) = (stacks.samples(), stacks.whole());
    println!("{whole} of {n} whole: {:?}", stacks.profile.wholeness());
    assert!(n > 200, "{n} samples");
    assert!(whole * 100 >= n * 99, "{whole} of {n}: {:?}", stacks.profile.wholeness());
}

#[test]
fn only_what_a_rule_names_is_sampled() {
    let Some(_turn) = live("samples by rule") else { return };
    if !taken("samples by rule") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x.stacks");
    let to = format!("raw:{}", file.display());
    let named = dir.path().join("the-one");
    fs::copy(target(), &named).expect("a copy");
    let watch = Watch::start(&["-s", "comm=the-one", "-F", "499", "-o", &to]);
    let mut other = Command::new(target()).args(["burn", "400"]).spawn().expect("the target");
    let status = Command::new(&named).args(["burn", "300"]).status().expect("the copy");
    assert!(status.success() && other.wait().expect("the target").success());
    watch.stop();
    let profile = raw::read(&file).expect("stacks");
    assert!(profile.samples.len() > 20, "{} samples", profile.samples.len());
    let comms: Vec<_> = profile.processes.iter().map(|p| p.comm.as_str()).collect();
    assert_eq!(comms, ["the-one"], "{:?}", profile.processes);
    assert_eq!(profile.processes[0].exe.as_deref(), Some(named.as_path()));
}

#[test]
fn a_program_that_is_deleted_while_it_runs_has_names() {
    let Some(_turn) = live("stacks of a deleted program") else { return };
    if !taken("stacks of a deleted program") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let copy = dir.path().join("gone");
    let folded = dir.path().join("x.folded");
    let script = format!(
        "cp {} {copy}; {copy} burn {} >/dev/null & sleep 0.1; rm {copy}; wait",
        target_str(),
        burn_ms(300),
        copy = copy.display()
    );
    let to = format!("folded:{}", folded.display());
    run(&["-F", "499", "-o", &to], &["sh", "-c", &script]);
    assert!(!copy.exists());
    let text = fs::read_to_string(&folded).expect("folded stacks");
    let weights = text.lines().filter(|l| l.starts_with("gone;")).map(|l| {
        let (stack, weight) = l.rsplit_once(' ').expect("a weight");
        (stack.contains("prof_target::main"), weight.parse::<u64>().expect("a number"))
    });
    let (named, all) =
        weights.fold((0, 0), |(named, all), (is, w)| (named + if is { w } else { 0 }, all + w));
    assert!(named > 0 && named * 10 >= all * 9, "{named} of {all}: {text}");
}

#[test]
fn an_image_that_takes_over_has_its_own_mappings() {
    let Some(_turn) = live("stacks over an exec") else { return };
    if !taken("stacks over an exec") {
        return;
    }
    let script = format!(
        "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec {} burn {}",
        target_str(),
        burn_ms(200)
    );
    let stacks = run_stacks(&["-F", "997"], &["sh", "-c", &script]);
    stacks.assert_nothing_lost();
    let profile = &stacks.profile;
    let of = |comm: &str| {
        let process = profile.processes.iter().position(|p| p.comm == comm);
        let process = process.unwrap_or_else(|| panic!("no {comm}: {:?}", profile.processes));
        let samples = profile
            .samples
            .iter()
            .filter(move |s| profile.threads[s.thread.0 as usize].process.0 as usize == process);
        let mut modules: Vec<_> = samples
            .flat_map(|s| profile.frames_of(s.stack))
            .filter_map(|f| profile.module(profile.frame(f)))
            .map(prof_model::stacks::Module::name)
            .collect();
        modules.sort();
        modules.dedup();
        modules
    };
    let (shell, burning) = (of("sh"), of("prof-target"));
    assert!(shell.iter().all(|m| m != "prof-target"), "{shell:?}");
    assert!(burning.contains(&"prof-target".to_owned()), "{burning:?}");
    assert!(!burning.iter().any(|m| m == "dash" || m == "bash" || m == "busybox"), "{burning:?}");
}

/// The kernel gives the memory descriptor of an image that has gone to the next but one: two
/// programs at the same addresses take over from each other, two of one and two of the other.
#[test]
fn images_that_take_over_again_and_again_are_not_taken_for_each_other() {
    let Some(_turn) = live("stacks over many execs") else { return };
    if !taken("stacks over many execs") || emulated("a compiler") || !has("gcc", "gcc") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/relay.c");
    for name in ["one", "two"] {
        let mut gcc = Command::new("gcc");
        gcc.args(["-O1", "-no-pie", &format!("-DWORK=work_of_{name}"), "-o"]);
        let built = gcc.arg(dir.path().join(name)).arg(source).status();
        assert!(built.expect("gcc").success());
    }
    let folder = dir.path().to_str().expect("a path");
    let (first, file) = (dir.path().join("one"), dir.path().join("x.folded"));
    let to = format!("folded:{}", file.display());
    let cmd = [first.to_str().expect("a path"), folder, "399"];
    let stacks = run_stacks(&["-F", "997", "-o", &to], &cmd);
    stacks.assert_nothing_lost();
    let folded = fs::read_to_string(&file).expect("folded stacks");
    for (name, other) in [("one", "two"), ("two", "one")] {
        let of = folded.lines().filter(|l| l.starts_with(&format!("{name};")));
        assert!(of.clone().any(|l| l.contains(&format!("work_of_{name} "))), "{folded}");
        assert!(!of.clone().any(|l| l.contains(&format!("work_of_{other}"))), "{folded}");
    }
    let (n, whole) = (stacks.samples(), stacks.whole());
    println!("{whole} of {n} whole: {:?}", stacks.profile.wholeness());
    assert!(whole * 100 >= n * 99, "{whole} of {n}: {:?}", stacks.profile.wholeness());
}

#[test]
fn the_parts_that_are_not_asked_for_are_left_out() {
    let Some(_turn) = live("parts of stacks") else { return };
    if !taken("parts of stacks") {
        return;
    }
    let count = |stacks: &Stacks, kind| {
        let all = stacks.profile.samples.iter().flat_map(|s| stacks.profile.frames_of(s.stack));
        all.filter(|f| stacks.profile.frame(*f).kind == kind).count()
    };
    let work = ["faults", "60000"];
    let cmd = [&[target_str()], &work[..]].concat();
    let both = run_stacks(&["-F", "997"], &cmd);
    assert!(count(&both, FrameKind::User) > 0 && count(&both, FrameKind::Kernel) > 0);
    let user = run_stacks(&["-F", "997", "--user"], &cmd);
    assert!(count(&user, FrameKind::User) > 0 && count(&user, FrameKind::Kernel) == 0);
    let flagged = |stacks: &Stacks, flag| stacks.run.records.of("prof").all(|r| has_flag(r, flag));
    assert!(flagged(&both, "sample") && !flagged(&both, "no_kernel"));
    assert!(flagged(&user, "sample") && flagged(&user, "no_kernel") && !flagged(&user, "no_user"));
    let kernel = run_stacks(&["-F", "997", "--kernel"], &cmd);
    assert!(flagged(&kernel, "no_user") && !flagged(&kernel, "no_kernel"));
    assert!(count(&kernel, FrameKind::User) == 0 && count(&kernel, FrameKind::Kernel) > 0);
    assert!(kernel.profile.samples.iter().all(|s| s.whole == Whole::KernelOnly));
    let flat = run_stacks(&["-F", "997", "--max-depth", "2"], &cmd);
    let deepest = flat.profile.samples.iter().map(|s| flat.profile.frames_of(s.stack).count());
    assert!(deepest.max().unwrap_or(0) <= 4);
    assert!(flat.profile.samples.iter().any(|s| s.whole == Whole::Depth));
}

#[test]
fn samples_go_by_any_event() {
    let Some(_turn) = live("samples by an event") else { return };
    if !taken("samples by an event") {
        return;
    }
    // A sample for each fault: as many as the kernel has counted, but for those of exec's
    // own copying, which the event does not have.
    let cmd = [target_str(), "faults", "3000"];
    let stacks = run_stacks(&["--by", "page-faults", "-c", "1"], &cmd);
    stacks.assert_nothing_lost();
    let faults = figure(stacks.run.records.profiles()[0], "page-faults");
    let samples = stacks.samples() as u64;
    assert!(
        samples >= 3000 && samples <= faults && faults - samples <= 12,
        "{samples} of {faults}"
    );
    assert_eq!(stacks.weight(), samples);
    let touched = stacks.profile.samples.iter().filter(|s| {
        let mut frames = stacks.profile.frames_of(s.stack).map(|f| stacks.profile.frame(f));
        let in_target = |f: &prof_model::stacks::Frame| {
            stacks.profile.module(f).is_some_and(|m| m.path == target())
        };
        frames.any(in_target)
    });
    assert!(touched.count() >= 3000);
    let said = |by: &str| {
        let out = command("run").args(["--by", by, "--", "true"]).output().expect("prof run");
        assert!(!out.status.success());
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    assert!(said("page-fautls").contains("page-faults"), "{}", said("page-fautls"));
    assert!(said("peak-rss").contains("nothing fires"), "{}", said("peak-rss"));
}

#[test]
fn several_events_are_sampled_in_one_run() {
    let Some(_turn) = live("several events") else { return };
    if !taken("several events") {
        return;
    }
    let by = ["--by", "cpu-clock", "--by", "page-faults/period=1/,context-switches/period=1/"];
    let stacks = run_stacks(&by, &[target_str(), "burn", &burn_ms(300)]);
    stacks.assert_nothing_lost();
    let names: Vec<_> = stacks.profile.events.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names[0], "cpu-clock");
    assert!(names[1].starts_with("page-faults") && names[2].starts_with("context-switches"));
    let weight = |event: u32| -> u64 {
        let of = stacks.profile.samples.iter().filter(|s| s.event == event);
        of.map(|s| s.weight).sum()
    };
    let sampled = weight(0) as f64 / stacks.task_clock() as f64;
    let any = emulated("how often a timer fires");
    assert!(any || (0.9..1.1).contains(&sampled), "{sampled}");
    let profile = stacks.run.records.profiles()[0];
    // Each fault but those before the window: of the arguments' copying.
    let faults = figure(profile, "page-faults");
    assert!((faults.saturating_sub(8)..=faults).contains(&weight(1)), "{} {faults}", weight(1));
    // The last switch is after the exit hook; one inside exec, before it is armed.
    let switches = figure(profile, "context-switches");
    assert!(switches.abs_diff(weight(2)) <= 1, "{} {switches}", weight(2));
}

#[test]
fn samples_go_by_tracepoints() {
    let Some(_turn) = live("tracepoints") else { return };
    if !taken("tracepoints") {
        return;
    }
    let (write, read) = ("syscalls:sys_enter_write", "syscalls:sys_enter_read");
    let by = format!("{write},{read}/period=100/,cpu-clock");
    let all = format!("{write},{read}");
    let stacks =
        run_stacks(&["--by", &by, "-e", &all], &[target_str(), "pingpong", "2000", "--cpu", "0"]);
    let weight = |event: u32| -> u64 {
        let of = stacks.profile.samples.iter().filter(|s| s.event == event);
        of.map(|s| s.weight).sum()
    };
    // What is counted beside it is not kept from the counters: of everybody's events at the
    // tracepoint, a program there could take the hit away.
    let counted = |event| {
        let profiles = stacks.run.records.profiles();
        profiles.iter().map(|p| figure(p, event)).sum::<u64>()
    };
    let (lost, end) = (lost_samples(&stacks), stacks.run.records.end());
    assert!(counted(write) >= 4000 && counted(read) >= 4000, "{end}");
    // Counters begin with the exec's return where the hooks are kprobes, as arming does.
    assert!(weight(0).abs_diff(counted(write)) <= lost + 2, "{} of {end}", weight(0));
    // On each CPU some are left that do not fill a period.
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let periods = 100 * (lost + cpus);
    assert!(weight(1).abs_diff(counted(read)) <= periods, "{} of {end}", weight(1));
    let hits = stacks.profile.samples.iter().filter(|s| s.event == 0);
    let from_program = |s: &&prof_model::stacks::Sample| {
        let mut frames = stacks.profile.frames_of(s.stack).map(|f| stacks.profile.frame(f));
        frames.any(|f| stacks.profile.module(f).is_some_and(|m| m.path == target()))
    };
    assert!(hits.filter(from_program).count() >= 4000);
    assert!(stacks.whole() * 100 >= stacks.samples() * 99, "{:?}", stacks.profile.wholeness());
    // In processes that no rule names nothing is sampled.
    let cmd = [target_str(), "pingpong", "200", "--cpu", "0"];
    let stacks = run_stacks(&["--by", write, "-s", "comm=nobody"], &cmd);
    assert_eq!(stacks.samples(), 0);
}

/// Samples that were not taken because another program was at work, each told.
fn lost_samples(stacks: &Stacks) -> u64 {
    let lost = stacks.profile.lost.iter().find(|(why, _)| why == "sample-nested");
    lost.map_or(0, |(_, n)| *n)
}

#[test]
fn a_rule_may_ask_for_fewer_samples() {
    let Some(_turn) = live("freq= in a rule") else { return };
    if !taken("freq= in a rule") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let copy = |name: &str| {
        let to = dir.path().join(name);
        fs::copy(target(), &to).expect("a copy");
        to.display().to_string()
    };
    let (few, many) = (copy("few"), copy("many"));
    let burn = burn_ms(1000);
    let script = format!("{few} burn {burn}; {many} burn {burn}");
    let rules = ["--rule", "comm=few freq=199", "--rule", "comm=many freq=1999"];
    let stacks = run_stacks(&rules, &["sh", "-c", &script]);
    stacks.assert_nothing_lost();
    assert_eq!(stacks.profile.events[0].frequency_hz, Some(1999));
    let of = |comm: &str| {
        let threads = &stacks.profile.threads;
        let samples = stacks.profile.samples.iter();
        let mine = samples.filter(|s| threads[s.thread.0 as usize].comm == comm);
        mine.fold((0u64, 0u64), |(n, sum), s| (n + 1, sum + s.weight))
    };
    let mut rates = Vec::new();
    for (comm, hz) in [("few", 199.0), ("many", 1999.0)] {
        let all = stacks.run.records.profiles();
        let profile = all.iter().find(|p| p["process"]["comm"] == comm).expect("its profile");
        let ran = figure(profile, "task-clock") as f64;
        let (n, weight) = of(comm);
        rates.push(n as f64 / ran);
        // Which are taken is left to chance: of 199, 14 more or fewer are usual.
        let expected = ran / 1e9 * hz;
        let near = (n as f64 - expected).abs() < 5.0 * expected.sqrt() + 0.05 * expected;
        let any = emulated("how often a timer fires: interrupts are late there, or left out");
        assert!(any || near, "{comm}: {n}, not {expected}");
        assert!(any || (0.6..1.5).contains(&(weight as f64 / ran)), "{comm}: {weight} of {ran}");
    }
    assert!(rates[0] > 0.0 && rates[0] < rates[1] / 3.0, "{rates:?}");
}

#[test]
fn what_was_recorded_is_reported_later() {
    let Some(_turn) = live("record and report") else { return };
    if !taken("record and report") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let recorded = command("record")
        .current_dir(&dir)
        .args(["-F", "997", "--", target_str(), "burn", "200"])
        .output()
        .expect("prof record");
    assert!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
    let said = String::from_utf8_lossy(&recorded.stderr);
    assert!(said.contains("prof.stacks"), "{said}");
    let report = |args: &[&str]| {
        let mut report = Command::new(prof());
        // What perf has kept at home is found by build id.
        report.arg("report").current_dir(&dir).env("HOME", dir.path()).args(args);
        let out = report.output();
        let out = out.expect("prof report");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(report(&[]).contains("prof_target::main"), "{}", report(&[]));
    report(&["-o", "flamegraph:x.html", "-o", "pprof:x.pb.gz", "-o", "firefox:x.json"]);
    assert!(
        fs::read_to_string(dir.path().join("x.html"))
            .expect("a page")
            .contains("prof_target::main")
    );
    let there = |f: &str| fs::metadata(dir.path().join(f)).map_or(0, |m| m.len());
    assert!(there("x.pb.gz") > 100 && there("x.json") > 100);
    // Another folder has no such program: addresses, with the reason.
    fs::create_dir(dir.path().join("empty")).expect("a folder");
    let text = report(&["--symfs", "empty"]);
    assert!(text.contains("unnamed:") && !text.contains("prof_target::main"), "{text}");
    // What is no recording is an error that says so, and the status is 1.
    fs::write(dir.path().join("junk"), "junk").expect("a file");
    let bad = Command::new(prof()).args(["report", "junk"]).current_dir(&dir).output();
    let bad = bad.expect("prof report");
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("not written by `prof record`"));
}

/// Functions from the root, with how many samples; without the kernel, inlined calls and
/// what is no name.
pub type Chains = BTreeMap<Vec<String>, u64>;

fn plain(name: &str) -> String {
    // The hash of a Rust name, and what one demangler writes and another does not.
    let name = name.split("::h").next().unwrap_or(name);
    name.trim_start_matches('<').split(['<', '{', ' ']).next().unwrap_or(name).into()
}

pub fn chains_of_prof(folded: &str, comm: &str) -> Chains {
    let mut chains = Chains::new();
    for line in folded.lines() {
        let Some((stack, n)) = line.rsplit_once(' ') else { continue };
        let mut parts = stack.split(';');
        if parts.next() != Some(comm) {
            continue;
        }
        let user = parts.filter(|f| !f.ends_with("_[k]") && !f.ends_with("_[i]"));
        let chain: Vec<_> = user.map(plain).collect();
        *chains.entry(chain).or_default() += n.parse::<u64>().expect("a number");
    }
    chains
}

pub fn chains_of_perf(script: &str) -> Chains {
    let mut chains = Chains::new();
    for block in script.split("\n\n") {
        let mut lines = block.lines();
        if lines.next().is_none() {
            continue;
        }
        let mut chain: Vec<_> = lines
            .filter(|l| !l.contains("([kernel.kallsyms])") && !l.contains("([unknown])"))
            .filter_map(|l| {
                let (_, name) = l.trim().split_once(' ')?;
                let name = name.rsplit_once(" (").map_or(name, |(n, _)| n);
                Some(plain(name.rsplit_once("+0x").map_or(name, |(n, _)| n)))
            })
            .collect();
        chain.reverse();
        *chains.entry(chain).or_default() += 1;
    }
    chains
}

/// Share of samples that both put on the same chain, 0 to 1.
pub fn overlap(a: &Chains, b: &Chains) -> f64 {
    let total = |c: &Chains| c.values().sum::<u64>().max(1) as f64;
    let (of_a, of_b) = (total(a), total(b));
    a.iter().map(|(k, n)| (*n as f64 / of_a).min(b.get(k).map_or(0.0, |m| *m as f64 / of_b))).sum()
}

#[test]
fn the_stacks_are_those_that_perf_finds_by_dwarf() {
    let Some(_turn) = live("stacks beside perf's") else { return };
    if !taken("stacks beside perf's") || !has("perf", "linux-perf") || emulated("perf's dwarf mode")
    {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let folded = dir.path().join("x.folded");
    let data = dir.path().join("perf.data");
    let to = format!("folded:{}", folded.display());
    // The same process at the same time.
    let cmd = [
        "perf",
        "record",
        "-q",
        "-e",
        "cpu-clock",
        "-F",
        "499",
        "--call-graph",
        "dwarf,65528",
        "-o",
        data.to_str().expect("a path"),
        "--",
        target_str(),
        "threads",
        "3",
        "1500",
    ];
    let run = run(&["-F", "499", "-o", &to], &cmd);
    assert!(run.output.status.success(), "{}", String::from_utf8_lossy(&run.output.stderr));
    let script = Command::new("perf")
        .args(["script", "--no-inline", "-F", "comm,tid,ip,sym,dso", "-i"])
        .arg(&data)
        .output()
        .expect("perf script");
    let of_perf = chains_of_perf(&String::from_utf8_lossy(&script.stdout));
    let text = fs::read_to_string(&folded).expect("folded stacks");
    let comm = text
        .lines()
        .filter_map(|l| l.split(';').next())
        .find(|c| c.starts_with("prof-target") || c.starts_with("worker"))
        .expect("stacks of the target")
        .to_owned();
    let of_prof = chains_of_prof(&text, &comm);
    let same = overlap(&of_prof, &of_perf);
    println!("{:.1} % of the samples on the same chain of functions", same * 100.0);
    assert!(same > 0.85, "{same:.3}\nprof {of_prof:#?}\nperf {of_perf:#?}");
}

#[test]
fn a_process_that_is_attached_to_is_sampled_from_then_on() {
    let Some(_turn) = live("stacks of what runs already") else { return };
    if !taken("stacks of what runs already") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x.stacks");
    // An emulated machine takes seconds to load the kernel half.
    let ms = burn_ms(1500);
    let mut child = Command::new(target()).args(["burn", &ms]).spawn().expect("the target");
    thread::sleep(Duration::from_millis(200));
    let (pid, to) = (child.id().to_string(), format!("raw:{}", file.display()));
    let mut watch = Watch::verb("attach", &["-F", "499", "-o", &to, &pid]);
    watch.wait();
    assert!(child.wait().expect("the target").success());
    let profile = raw::read(&file).expect("stacks");
    let whole = profile.samples.iter().filter(|s| s.whole.is_whole()).count();
    assert!(whole > 50, "{whole} of {}: {:?}", profile.samples.len(), profile.wholeness());
}

#[test]
fn nothing_is_kept_of_processes_that_are_gone() {
    let Some(_turn) = live("what is kept of processes") else { return };
    if !taken("what is kept of processes") || !has("bpftool", "bpftool") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (named, file) = (dir.path().join("the-one"), dir.path().join("x.stacks"));
    fs::copy(target(), &named).expect("a copy");
    let to = format!("raw:{}", file.display());
    let watch = Watch::start(&["-s", "comm=the-one", "-F", "997", "--off-cpu", "-o", &to]);
    let bpftool = |args: &[&str]| -> Vec<serde_json::Value> {
        let out = Command::new("bpftool").args(["-j", "map"]).args(args).output().expect("bpftool");
        serde_json::from_slice(&out.stdout).expect("JSON")
    };
    // Other sessions may be under way.
    let held: Vec<u64> = fs::read_dir(format!("/proc/{}/fdinfo", watch.pid()))
        .expect("descriptors")
        .filter_map(|fd| fs::read_to_string(fd.ok()?.path()).ok())
        .filter_map(|t| t.lines().find_map(|l| l.strip_prefix("map_id:")?.trim().parse().ok()))
        .collect();
    let ours = |map: &serde_json::Value| map["id"].as_u64().is_some_and(|id| held.contains(&id));
    let kept = |name: &str| {
        let maps = bpftool(&["show"]);
        let of_name = maps.iter().find(|m| m["name"] == name && ours(m));
        let id = of_name.map(|m| m["id"].to_string()).unwrap_or_else(|| panic!("no map {name}"));
        bpftool(&["dump", "id", &id]).len()
    };
    let mut child = Command::new(&named).args(["burn", &burn_ms(600)]).spawn().expect("the copy");
    thread::sleep(Duration::from_millis(300));
    let while_it_runs = kept("spaces");
    assert!(child.wait().expect("the copy").success());
    for args in [["threads", "8", "40"].as_slice(), &["leader-exits-first", "40"]] {
        for _ in 0..5 {
            let status = Command::new(&named).args(args).status().expect("the copy");
            assert!(status.success());
        }
    }
    assert_eq!(while_it_runs, 1);
    assert_eq!((kept("spaces"), kept("off_threads")), (0, 0));
    watch.stop();
    assert!(raw::read(&file).expect("stacks").processes.len() >= 5);
}

#[test]
fn an_output_that_cannot_be_written_is_told_before_the_command_runs() {
    let Some(_turn) = live("outputs that cannot be written") else { return };
    if !taken("outputs that cannot be written") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (ran, there) = (dir.path().join("ran"), dir.path().join("there"));
    fs::write(&there, "as it was").expect("a file");
    let touch = ["--", "touch", ran.to_str().expect("a path")];
    for format in ["raw", "flamegraph", "pprof", "perfdata"] {
        let to = format!("{format}:{}", dir.path().join("no/x").display());
        let output = command("record").args(["-o", &to]).args(touch).output().expect("prof");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("output file"), "{format}: {said}");
        assert!(!ran.exists(), "{format}: the command was run");
    }
    let to = format!("folded:{}", there.display());
    let output = command("run").args(["-o", &to, "--", "/no/such/program"]).output();
    assert!(!output.expect("prof").status.success());
    assert_eq!(fs::read_to_string(&there).expect("a file"), "as it was");

    let full = ["-o", "raw:/dev/full", "-o", &to, "--", "true"];
    let output = command("run").args(full).output().expect("prof");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("writing to /dev/full"), "{said}");
    let told = said.lines().find(|l| l.contains(" samples")).expect("what was written");
    assert!(told.contains("there") && !told.contains("/dev/full"), "{said}");
}

#[test]
fn what_samples_cannot_go_by_is_told_before_the_command_runs() {
    let Some(_turn) = live("events that cannot be sampled by") else { return };
    if !taken("events that cannot be sampled by") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let ran = dir.path().join("ran");
    for (options, why) in [
        (&["--by", "sched:sched_wakeup", "-F", "99"][..], "by their hits"),
        (&["--by", "sched:sched_wakeup:u"], "hit in the kernel"),
        (&["--by", "sched:sched_wakeup/period=10/u"], "hit in the kernel"),
        (&["--by", "sched:sched_wakeup/filter='pid == 1'/"], "has no filter"),
        (&["--by", "sched:sched_wakeup/period=0/"], "takes no sample"),
        (&["-c", "100"], "in nanoseconds"),
        (&["-e", "page-faults", "-c", "1"], "--by page-faults"),
        (&["--by", "page-faults,cpu-clock/period=9999/"], "in nanoseconds"),
    ] {
        let output =
            command("run").arg("-g").args(options).args(["--", "touch"]).arg(&ran).output();
        let output = output.expect("prof");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{options:?}: {said}");
        assert!(!ran.exists(), "{options:?}: the command was run");
    }
    let faults = run_stacks(&["--by", "page-faults", "-c", "1"], &["true"]);
    assert!(faults.samples() > 10 && faults.weight() == faults.samples() as u64);
}

#[test]
fn firefox_has_prof_events_as_markers() {
    let Some(_turn) = live("prof events in firefox") else { return };
    if !taken("prof events in firefox") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x.json");
    let to = format!("firefox:{}", file.display());
    run(&["-o", &to], &[target_str(), "burn", "100"]);
    let text = fs::read_to_string(&file).expect("a profile");
    let profile: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let thread = &profile["threads"][0];
    let strings = &thread["stringArray"];
    let text = |v: &serde_json::Value| strings[v.as_u64().expect("a string") as usize].to_string();
    let markers = &thread["markers"];
    let names = markers["name"].as_array().expect("markers");
    let flags: Vec<_> = (0..names.len())
        .filter(|i| text(&names[*i]) == "\"prof\"")
        .map(|i| (markers["startTime"][i].as_f64(), text(&markers["data"][i]["flags"])))
        .collect();
    let has = |n: usize, flag| flags.get(n).is_some_and(|(_, f)| f.contains(flag));
    assert!(has(0, "enable") && has(flags.len() - 1, "exit"), "{flags:?}");
    assert!(flags.is_sorted_by_key(|(at, _)| *at), "{flags:?}");
    let end = thread["processShutdownTime"].as_f64().expect("an end");
    let exit = flags.last().and_then(|f| f.0).expect("an exit");
    assert!((exit - end).abs() < 50.0, "{exit} {end}");
}
