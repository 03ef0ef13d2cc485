//! Perf events of each CPU that the kernel half attributes to processes: against
//! `perf stat` on the same command at the same time, and against what the kernel
//! keeps for each task.
//!
//! A name with a modifier (`page-faults:uk`) is such an event; without one it is the
//! kernel's own figure.
//!
//! perf's window and prof's are the same here: both begin inside exec, where the old
//! image is gone, and end at the exit hook, before the address space is torn down. The
//! last switch of a task, from which it does not come back, is in neither.
//!
//! One difference is known:
//!
//! - What `execve` copies of its arguments into the new address space is faulted in
//!   without registers: the kernel's figure has those faults, the perf event has not.
//!   So is what the kernel writes where a probe is attached to: where prof-target is the
//!   command itself, it is run with `--no-regions`.

use std::collections::HashMap;
use std::fs;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::cgroup::Cgroup;
use crate::figures::same_window;
use crate::harness::*;

/// What is compared: times first, as perf starts its clocks one after the other.
const TIMES: [&str; 2] = ["cpu-clock", "task-clock:uk"];

/// Equal to the last one. Not `sched_wakeup`: an interrupt that falls between prof's end
/// of a window and perf's, which is microseconds later, wakes others as it likes.
const COUNTS: [&str; 11] = [
    "page-faults:uk",
    "minor-faults:uk",
    "major-faults:uk",
    "cpu-migrations:uk",
    "alignment-faults",
    "dummy",
    "sched:sched_switch",
    "sched:sched_process_fork",
    "sched:sched_process_exec",
    "sched:sched_process_exit",
    "syscalls:sys_enter_write",
];

const SWITCHES: &str = "context-switches:uk";

/// Tries for one in which the times are not disturbed.
const TIME_TRIES: usize = 6;

/// Tries for one in which nothing is counted between prof's end of a window, the exit
/// hook, and perf's, which is later: seen once was a fault in each of 20 children there.
/// What prof itself counts wrong it counts wrong each time.
const COUNT_TRIES: usize = 3;

/// A command under `perf stat` under `prof run`.
struct Beside {
    /// Profiles of the command and of all that it started, from its exec on.
    profiles: Vec<Value>,
    perf: HashMap<String, f64>,
}

impl Beside {
    fn run(events: &[&str], cmd: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("perf.csv");
        let file = file.to_str().expect("a path");
        let list = events.join(",");
        let mut all = vec!["perf", "stat", "-x;", "-o", file, "-e", &list, "--"];
        all.extend(cmd);
        let run = run(&["-e", &list, "-e", "context-switches,page-faults,threads"], &all);
        assert!(run.output.status.success(), "{cmd:?}: {:?}", run.output);
        run.records.assert_whole();
        let text = fs::read_to_string(file).expect("what perf says");
        let fields = text.lines().map(|l| l.split(';').collect::<Vec<_>>());
        let perf = fields
            .filter_map(|f| Some(((*f.get(2)?).to_owned(), f.first()?.parse().ok()?)))
            .collect();
        let profiles = below_perf(&run.records);
        Self { profiles, perf }
    }

    /// Sum over the processes.
    fn prof(&self, name: &str) -> u64 {
        self.profiles.iter().map(|p| figure(p, name)).sum()
    }

    fn perf(&self, name: &str) -> f64 {
        *self.perf.get(name).unwrap_or_else(|| panic!("{name} in {:?}", self.perf))
    }

    /// Whether the tracepoint of the switch was hit as often as the kernel switched. A
    /// host may hide tasks of its own from it: when one of them gives way to ours, nobody
    /// is told, and what ours does until its next switch, or its end, is nobody's.
    fn is_whole(&self) -> bool {
        let exec = self.profiles.iter().filter(|p| p["window"]["end"] == "exec").count() as u64;
        self.prof("sched:sched_switch") == self.prof("context-switches")
            && self.prof("sched:sched_process_exit") == self.prof("threads") - exec
            // Or an exec began the counts anew, and only what came before it is missing.
            && self.prof(SWITCHES) == self.prof("context-switches")
    }

    /// Prof's must be perf's, exactly.
    fn counts(&self) -> Result<(), String> {
        for name in COUNTS.iter().chain([&SWITCHES]) {
            let (ours, theirs) = (self.prof(name) as f64, self.perf(name));
            if ours != theirs {
                return Err(format!("{name}: {ours}, perf {theirs}"));
            }
        }
        Ok(())
    }

    /// Prof's are perf's within 1 %, or an error.
    fn times(&self) -> Result<(), String> {
        let switches = self.prof("sched:sched_switch") as f64;
        let [cpu_clock, task_clock] =
            TIMES.map(|name| (self.prof(name) as f64, self.perf(name) * 1e6));
        // perf prints hundredths of a millisecond. Where a run is shorter than 50 ms, what
        // is between the two readings at each end of a slice shows.
        let short = if task_clock.1 < 50e6 { 30_000.0 + switches * 300.0 } else { 0.0 };
        let allowed = task_clock.1 * 0.01 + short;
        if (task_clock.0 - task_clock.1).abs() > allowed {
            return Err(format!("task-clock {task_clock:?}, {switches} switches"));
        }
        // perf's cpu-clock stands while perf puts the other events on the CPU and takes
        // them off, at each switch. Ours does not, nor do our two clocks differ.
        let off = cpu_clock.0 - cpu_clock.1;
        if off < -allowed || off > allowed + switches * 2_500.0 {
            return Err(format!("cpu-clock {cpu_clock:?}, {switches} switches"));
        }
        let apart = (cpu_clock.0 - task_clock.0).abs();
        if apart > task_clock.0 * 0.01 + 30_000.0 {
            return Err(format!("prof's cpu-clock {cpu_clock:?}, task-clock {task_clock:?}"));
        }
        Ok(())
    }
}

/// Profiles of what `perf stat` ran, from its exec on.
fn below_perf(records: &Records) -> Vec<Value> {
    let first = records.of("prof").next().expect("perf was switched on");
    let perf = &first["process"]["pid"];
    let of_perf = |p: &&Value| p["process"]["pid"] == *perf;
    let children: Vec<_> = records
        .of("profile")
        .filter(|p| p["process"]["ppid"] == *perf && p["window"]["start"] == "fork")
        .collect();
    assert_eq!(children.len(), 1, "perf has one child: {children:#?}");
    let before_exec = |p: &&Value| *p == children[0];
    records.of("profile").filter(|p| !of_perf(p) && !before_exec(p)).cloned().collect()
}

/// A run beside perf of which the kernel told every switch.
fn whole_run(cmd: &[&str]) -> Beside {
    let mut events = TIMES.to_vec();
    events.extend(COUNTS);
    events.push(SWITCHES);
    for _ in 0..TRIES {
        let beside = Beside::run(&events, cmd);
        if beside.is_whole() {
            return beside;
        }
        eprintln!(
            "once more: this host told of {} of {} switches, and of {} exits (perf: {}), of {cmd:?}",
            beside.prof("sched:sched_switch"),
            beside.prof("context-switches"),
            beside.prof("sched:sched_process_exit"),
            beside.perf("sched:sched_process_exit"),
        );
    }
    panic!("{TRIES} runs of {cmd:?}, and in none of them all switches were counted");
}

fn same(what: &str, a: u64, b: u64) -> Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("{what}: {a} and {b}")) }
}

fn ready(what: &str) -> Option<std::sync::MutexGuard<'static, ()>> {
    let turn = live(what)?;
    (has("perf", "linux-perf") && same_window()).then_some(turn)
}

/// The counts always, the times until they are right once: what a hypervisor or an
/// interrupt takes between prof's end of a window and perf's, milliseconds at times, is
/// in one of the two.
fn compare(cmd: &[&str]) -> Beside {
    let (mut off, mut counts) = (Vec::new(), Vec::new());
    for _ in 0..TIME_TRIES {
        let beside = whole_run(cmd);
        if let Err(e) = beside.counts() {
            eprintln!("once more: {cmd:?}: {e}");
            counts.push(e);
            assert!(counts.len() < COUNT_TRIES, "{cmd:?}: {counts:#?}");
            continue;
        }
        match beside.times() {
            Ok(()) => return beside,
            Err(e) => off.push(e),
        }
    }
    panic!("times of {cmd:?}: {off:#?}");
}

fn this(args: &[&'static str]) -> Vec<&'static str> {
    let mut cmd = vec![target().to_str().expect("a path")];
    cmd.extend(args);
    cmd
}

#[test]
fn one_that_computes_and_one_that_faults() {
    let Some(_turn) = ready("CPU-bound, page faults") else { return };
    compare(&this(&["burn", "120"]));
    let b = compare(&this(&["faults", "30000"]));
    assert!(b.prof("page-faults:uk") >= 30_000);
}

#[test]
fn many_short_processes() {
    let Some(_turn) = ready("fork-heavy") else { return };
    let b = compare(&["sh", "-c", "i=0; while [ $i -lt 60 ]; do /bin/true; i=$((i+1)); done"]);
    assert_eq!(b.prof("sched:sched_process_fork"), 60);
    assert_eq!(b.prof("sched:sched_process_exec"), 61);
    // What was forked and has executed is two profiles.
    assert_eq!(b.profiles.len(), 121);
    let b = compare(&this(&["storm", "60", "--jobs", "2", "--vfork"]));
    assert_eq!(b.prof("sched:sched_process_exec"), 61);
}

#[test]
fn two_hundred_threads() {
    let Some(_turn) = ready("threads") else { return };
    let b = compare(&this(&["threads", "200", "100", "--faults", "20"]));
    // All that exited is in the one profile, to the fault.
    assert_eq!(b.profiles.len(), 1);
    assert!(b.prof("page-faults:uk") >= 4000);
    assert_eq!(b.prof("page-faults:uk"), b.prof("page-faults"));
    assert_eq!(b.prof("sched:sched_process_fork"), 200);
    assert_eq!(b.prof("sched:sched_process_exit"), 201);
}

#[test]
fn two_that_wait_for_each_other() {
    let Some(_turn) = ready("ping-pong") else { return };
    let b = compare(&this(&["pingpong", "10000", "--cpu", "0"]));
    // One of each round and side, and what each says at its end.
    assert_eq!(b.prof("syscalls:sys_enter_write"), 20_002);
}

/// Three on one CPU pass a byte round: from the first in one cgroup to one in another,
/// from there to the second in the first cgroup, which gives it to its neighbour.
#[test]
fn switches_between_cgroups() {
    let Some(_turn) = ready("cgroup-switches") else { return };
    if !has("python3", "python3") {
        return;
    }
    let (one, other) = (Cgroup::new("prof-one"), Cgroup::new("prof-other"));
    let dir = tempfile::tempdir().expect("a folder");
    let source = dir.path().join("relay.py");
    let relay = "import os, sys\n\
        open(sys.argv[1] + '/cgroup.procs', 'w').write('0')\n\
        os.sched_setaffinity(0, [0])\n\
        a, b = (os.open(p, os.O_RDWR) for p in sys.argv[2:4])\n\
        if len(sys.argv) > 4: os.write(b, b'x')\n\
        for i in range(1000): os.write(b, os.read(a, 1))\n";
    fs::write(&source, relay).expect("a program");
    let path = dir.path().display();
    let step = |c: &Cgroup, from: u32, to: u32, begin: &str| {
        let group = c.dir.display();
        format!("python3 {path}/relay.py {group} {path}/{from} {path}/{to} {begin} &")
    };
    let script = format!(
        "mkfifo {path}/1 {path}/2 {path}/3; {} {} {} wait",
        step(&one, 1, 2, ""),
        step(&other, 2, 3, ""),
        step(&one, 3, 1, "begin"),
    );
    let name = "cgroup-switches";
    once(name, || {
        let events = [name, "sched:sched_switch", "sched:sched_process_exit", SWITCHES];
        let b = Beside::run(&events, &["sh", "-c", &script]);
        for file in ["1", "2", "3"] {
            fs::remove_file(dir.path().join(file)).expect("a pipe");
        }
        if !b.is_whole() {
            return Err("not all switches were told".to_owned());
        }
        same("prof and perf", b.prof(name), b.perf(name) as u64)?;
        let of = |from: &str| {
            let from = format!("{path}/{from}");
            let is = |p: &&Value| p["process"]["args"][3] == *from;
            let p = b.profiles.iter().find(is).expect("one of the three");
            (figure(p, name), figure(p, SWITCHES))
        };
        let (first, second, third) = (of("1"), of("2"), of("3"));
        // Who goes is charged: not the third, which goes to its neighbour. Who comes would be
        // the second and the third.
        if first.0 > 200 && second.0 > 700 && third.0 < 100 {
            return Ok(());
        }
        Err(format!("{name} and switches: {first:?} {second:?} {third:?}"))
    });
}

#[test]
fn sleepers() {
    let Some(_turn) = ready("sleepers") else { return };
    compare(&this(&["herd", "20", "100"]));
    compare(&this(&["switches", "500"]));
}

#[test]
fn a_compiler() {
    let Some(_turn) = ready("a compiler run") else { return };
    if !has("cc", "gcc") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (source, out) = (dir.path().join("a.c"), dir.path().join("a"));
    fs::write(&source, "#include <stdio.h>\nint main(void) { return puts(\"a\") < 0; }\n").unwrap();
    let (source, out) = (source.to_str().unwrap(), out.to_str().unwrap());
    compare(&["cc", "-O2", "-o", out, source]);
}

#[test]
fn an_interpreter_and_a_pipeline() {
    let Some(_turn) = ready("Python, a pipeline") else { return };
    if has("python3", "python3") {
        compare(&["python3", "-c", "import json; print(sum(range(1000000)))"]);
    }
    compare(&["sh", "-c", "seq 50000 | sort -n | uniq | wc -l"]);
}

#[test]
fn execs_in_place_divide_the_counts() {
    let Some(_turn) = ready("a chain of execs") else { return };
    let b = compare(&this(&["reexec", "10"]));
    assert_eq!(b.profiles.len(), 11);
    let by_exec = |p: &Value| figure(p, "page-faults") - figure(p, "page-faults:uk");
    let (last, before): (Vec<_>, Vec<_>) =
        b.profiles.iter().partition(|p| p["window"]["end"] == "exit");
    assert_eq!((last.len(), before.len()), (1, 10));
    for p in &b.profiles {
        assert_eq!(figure(p, "sched:sched_process_exec"), 1, "each window has its own exec: {p}");
        assert!(figure(p, "page-faults:uk") > 10, "{p}");
    }
    assert_eq!(by_exec(last[0]), 0);
    // The arguments of the next one: as many pages each time, a few.
    let pages: Vec<_> = before.iter().map(|p| by_exec(p)).collect();
    assert!((1..40).contains(&pages[0]), "{pages:?}");
}

#[test]
fn an_exec_from_another_thread_divides_the_counts() {
    let Some(_turn) = ready("exec from another thread") else { return };
    let b = compare(&this(&["exec-from-thread", "@self", "faults", "3000"]));
    assert_eq!(b.profiles.len(), 2);
    let (old, new) = (&b.profiles[0], &b.profiles[1]);
    assert!(figure(old, "page-faults:uk") < 1000, "{old}");
    assert!(figure(new, "page-faults:uk") >= 3000, "{new}");
    assert_eq!(figure(new, "page-faults:uk"), figure(new, "page-faults"));
    assert_eq!(figure(old, "sched:sched_process_exit"), 1, "the leader's, which was killed");
    assert_eq!(figure(new, "sched:sched_process_exit"), 1);
    compare(&this(&["leader-exits-first", "60"]));
}

#[test]
fn counts_of_one_task_are_never_charged_to_the_next() {
    let Some(_turn) = live("two tasks on one CPU") else { return };
    if kprobes("counts begin when the exec returns, figures when it begins") {
        return;
    }
    const LIST: &str = "page-faults:uk,page-faults,syscalls:sys_enter_write,sched:sched_switch,\
                        sched:sched_process_exit,context-switches";
    let args = ["pingpong", "300", "--cpu", "0", "--faults", "50"];
    // One of them is armed, the other faults.
    let ping = whole_profile(|| {
        let run = run_target(&["--no-regions", "--no-follow", "-e", LIST], &args);
        assert_eq!(run.said("pong_touched"), 15_000);
        run.records
    });
    assert!(figure(&ping, "sched:sched_switch") >= 300);
    assert_eq!(figure(&ping, "page-faults:uk"), figure(&ping, "page-faults"));
    assert!(figure(&ping, "page-faults:uk") < 1000, "{ping}");
    // Its rounds, and its facts.
    assert_eq!(figure(&ping, "syscalls:sys_enter_write"), 301);

    // The other way round: the one that faults is armed, from its exec on.
    let pong = whole_profile(|| {
        let own = format!("tree={}", std::process::id());
        let watch = Watch::start(&["-s", "comm=exe,pong", "-s", &own, "-e", LIST]);
        let pong = said(&target_output(&args), "pong_pid");
        watch.until("it has ended", |r| !r.of_pid(pong).is_empty());
        watch.stop()
    });
    assert_eq!(figure(&pong, "page-faults:uk"), figure(&pong, "page-faults"));
    assert!(figure(&pong, "page-faults:uk") >= 15_000, "{pong}");
    assert_eq!(figure(&pong, "syscalls:sys_enter_write"), 301);
}

/// The one profile of a run of which the kernel told every switch; as `whole_run`.
fn whole_profile(run: impl Fn() -> Records) -> Value {
    for _ in 0..TRIES {
        let records = run();
        let profiles = records.profiles();
        assert_eq!(profiles.len(), 1, "{profiles:#?}");
        let p = profiles[0];
        // See `Beside::is_whole`.
        if figure(p, "sched:sched_switch") == figure(p, "context-switches")
            && figure(p, "sched:sched_process_exit") == 1
        {
            return p.clone();
        }
    }
    panic!("in none of {TRIES} runs all switches were counted");
}

#[test]
fn counts_of_threads_make_those_of_the_process() {
    let Some(_turn) = live("--per-thread counts") else { return };
    for args in
        [&["threads", "20", "--faults", "30"][..], &["exec-from-thread", "@self", "exit", "0"]]
    {
        let list = "page-faults:uk,sched:sched_switch,syscalls:sys_enter_write";
        let run = run_target(&["--per-thread", "-e", list], args);
        let profiles = run.records.profiles();
        // The thread that executes the next program goes on: it reports at its exit.
        let whole = profiles.iter().filter(|p| p["window"]["end"] == "exit");
        for p in whole {
            for name in list.split(',') {
                let threads = p["threads"].as_array().expect("threads");
                assert_eq!(threads.len(), if args[0] == "threads" { 21 } else { 1 });
                let sum: u64 = threads.iter().map(|t| figure(t, name)).sum();
                assert_eq!(sum, figure(p, name), "{name} of {args:?}");
            }
        }
        if args[0] == "threads" {
            let of = |p: &Value| figure(p, "page-faults:uk");
            let threads = profiles[0]["threads"].as_array().expect("threads");
            assert!(threads.iter().all(|t| of(t) >= 30), "{threads:#?}");
        }
    }
}

/// Runs for one in which the host did not tell of some switch. Most hosts tell of all.
const MISSING_RUNS: usize = 10;

#[test]
fn what_a_missed_switch_leaves_out_is_told() {
    let Some(_turn) = live("switches that the host does not tell of") else { return };
    if kprobes("counts begin when the exec returns, figures when it begins") {
        return;
    }
    let (exits, faults) = ("sched:sched_process_exit", "page-faults:uk");
    let list = format!("{exits},{faults},task-clock,threads");
    let mut missed = 0;
    for _ in 0..MISSING_RUNS {
        let run = run_target(&["-e", &list], &["storm", "300", "--jobs", "4"]);
        let mut partial = 0;
        for p in run.records.profiles() {
            // Whoever exits has at least that: if not, its last time on a CPU is missing.
            let told = p["figures"][exits]["value"].as_u64();
            let whole = p["window"]["end"] != "exit" || told == Some(1);
            let count = &p["figures"][faults];
            let nothing = count["enabled_ns"] == 0 && figure(p, "task-clock") > 0;
            partial += u64::from(has_flag(p, "partial"));
            assert!(has_flag(p, "partial") || whole && !nothing, "{p}");
            assert_eq!(nothing, count["absent"].is_string(), "absent, and not 0: {p}");
        }
        let end = run.records.of("end").next().expect("an end");
        let slices = end["lost"]["slice_missed"].as_u64().unwrap_or(0);
        assert!(slices == 0 || partial > 0, "{slices} slices: {end}");
        missed += slices;
    }
    if missed == 0 {
        eprintln!("this host told of every switch");
    }
}

/// A target beside prof, killed when dropped.
struct Beast(Child);

impl Beast {
    fn start(args: &[&str]) -> Self {
        let child =
            Command::new(target()).args(args).stdout(Stdio::null()).spawn().expect("target");
        Self(child)
    }
}

impl Drop for Beast {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn one_that_still_runs_has_counts() {
    let Some(_turn) = live("counts of what runs") else { return };
    if kprobes("counts begin when the exec returns, figures when it begins") {
        return;
    }
    let own = format!("tree={}", std::process::id());
    let list = "page-faults:uk,page-faults,task-clock:uk,task-clock";
    once("counts of what runs", || {
        let watch = Watch::start(&["-s", "comm=prof-target", "-s", &own, "-e", list]);
        let asleep = Beast::start(&["rss", "20", "60000"]);
        let busy = Beast::start(&["burn", "60000"]);
        thread::sleep(Duration::from_millis(400));
        let records = watch.stop();
        let of = |b: &Beast| records.of_pid(b.0.id().into())[0].clone();
        let (asleep, busy) = (of(&asleep), of(&busy));
        assert_eq!(asleep["window"]["end"], "running");
        let faults = figure(&asleep, "page-faults");
        assert!(faults >= 5120, "{asleep}");
        same("page-faults", figure(&asleep, "page-faults:uk"), faults)?;
        // It runs on without a switch: brought up to date when prof ends. The kernel's
        // own is as of the last tick.
        let (ours, kept) = (figure(&busy, "task-clock:uk"), figure(&busy, "task-clock"));
        if ours.abs_diff(kept) > 10_000_000 + kept / 20 {
            return Err(format!("{ours} ns counted, {kept} ns kept"));
        }
        Ok(())
    });
}

#[test]
fn an_attach_counts_from_now_on() {
    let Some(_turn) = live("counts after an attach") else { return };
    let list = "page-faults:uk,page-faults,syscalls:sys_enter_write";
    once("counts after an attach", || {
        let sleeper = Beast::start(&["rss", "20", "2500"]);
        thread::sleep(Duration::from_millis(200));
        let pid = sleeper.0.id().to_string();
        let records = Watch::verb("attach", &[&pid, "-e", list]).wait();
        let p = records.profiles();
        assert_eq!(p.len(), 1);
        assert!(has_flag(p[0], "attach"));
        // What it touched before is not in, and what it prints at the end is.
        assert!(figure(p[0], "page-faults:uk") < 500, "{}", p[0]);
        same("page-faults", figure(p[0], "page-faults:uk"), figure(p[0], "page-faults"))?;
        same("writes", figure(p[0], "syscalls:sys_enter_write"), 1)
    });
}

#[test]
fn an_attach_counts_what_runs_without_a_switch() {
    let Some(_turn) = live("counts after an attach, without a switch") else { return };
    let cpus = thread::available_parallelism().map_or(1, |n| n.get());
    if cpus < 2 {
        eprintln!("SKIPPED: with one CPU there is no running undisturbed");
        return;
    }
    if !has("chrt", "util-linux") || !has("taskset", "util-linux") {
        return;
    }
    // Nothing ordinary takes this CPU from it.
    let last_cpu = (cpus - 1).to_string();
    let burn = [target().to_str().expect("a path"), "burn", "20000"];
    let mut busy = Command::new("chrt");
    busy.args(["-f", "50", "taskset", "-c", &last_cpu]).args(burn).stdout(Stdio::null());
    let busy = Beast(busy.spawn().expect("chrt"));
    thread::sleep(Duration::from_millis(100));
    let pid = busy.0.id().to_string();
    let list = "task-clock:uk,task-clock,context-switches";
    // The kernel's own is as of the last tick, and without what a hypervisor took.
    once("a count beside the kernel's own", || {
        let records = Watch::verb("attach", &[&pid, "-e", list, "--duration", "300ms"]).wait();
        let p = records.profiles()[0];
        let (ours, kept) = (figure(p, "task-clock:uk"), figure(p, "task-clock"));
        assert!(ours > 20_000_000, "{p}");
        let near = ours.abs_diff(kept) <= 10_000_000 + kept / 20;
        if near { Ok(()) } else { Err(p.to_string()) }
    });
}

#[test]
fn filters_and_groups() {
    let Some(_turn) = live("filters, groups") else { return };
    if kprobes("counts begin when the exec returns, figures when it begins") {
        return;
    }
    once("a group", || {
        let run = run_target(
            &[
                "--no-regions",
                "-e",
                "{page-faults:uk,alignment-faults},{minor-faults:uk,major-faults:uk},page-faults",
            ],
            &["faults", "2000"],
        );
        let p = run.records.profiles()[0].clone();
        assert_eq!(figure(&p, "alignment-faults"), 0);
        // One that has to wait for a lock or for its page is a major one.
        let kinds = ["minor-faults:uk", "major-faults:uk"].map(|event| figure(&p, event));
        same("kinds of faults", kinds.iter().sum(), figure(&p, "page-faults:uk"))?;
        same("page-faults", figure(&p, "page-faults:uk"), figure(&p, "page-faults"))
    });
    once("a filter", || {
        let run = run_target(
            &["-e", "syscalls:sys_enter_write", "--filter", "count == 1"],
            &["pingpong", "200", "--cpu", "0"],
        );
        // Not what they say at their ends, which is longer.
        let executed = run.records.of("profile").filter(|p| p["window"]["start"] != "fork");
        let writes: Vec<_> = executed.map(|p| figure(p, "syscalls:sys_enter_write")).collect();
        assert_eq!(writes.len(), 2);
        same("writes of ping", writes[0], 200)?;
        same("writes of pong", writes[1], 200)
    });
    once("a filter of one list of two", || {
        let (reads, writes) = ("syscalls:sys_enter_read", "syscalls:sys_enter_write");
        let run = run_target(
            &["-e", reads, "-e", writes, "--filter", "count == 9999", "-e", "task-clock"],
            &["pingpong", "200", "--cpu", "0"],
        );
        let of = |event| run.records.profiles().iter().map(|p| figure(p, event)).sum::<u64>();
        assert!(of(reads) >= 400, "{}", of(reads));
        same("writes", of(writes), 0)
    });
}

#[test]
fn a_group_may_mix_kinds_of_events() {
    let Some(_turn) = live("groups of several kinds") else { return };
    if kprobes("counts begin when the exec returns, figures when it begins") {
        return;
    }
    let (faults, calls) = ("page-faults:uk", "raw_syscalls:sys_enter");
    for group in [
        format!("{faults},{calls}"),
        format!("{calls},{faults}"),
        format!("task-clock:uk,{faults},{calls}"),
        format!("{faults},task-clock:uk,{calls}"),
    ] {
        // Beside it the same events, each by itself.
        let list = format!("{{{group}}},{faults},{calls}");
        let run = run_target(&["--no-regions", "-e", &list], &["faults", "2000"]);
        let p = run.records.profiles()[0];
        assert!(figure(p, faults) >= 2000 && figure(p, calls) > 10, "{list}: {p}");
        for event in [faults, calls] {
            assert_eq!(figure(p, event), figure(p, &format!("{event}#2")), "{list}: {p}");
        }
        if group.contains("task-clock") {
            assert!(figure(p, "task-clock:uk") > 0, "{list}: {p}");
        }
    }
}

/// Each event takes one on each CPU.
#[test]
fn few_open_files_are_enough_where_more_may_be_had() {
    let Some(_turn) = live("a low limit of open files") else { return };
    let list = vec!["page-faults:u"; 32].join(",");
    let dir = tempfile::tempdir().expect("a folder");
    let json = dir.path().join("out.json");
    // The command is to have the caller's, the second time as well.
    let limited = |limit: &str, options: &[&str]| {
        let mut prof = command("run");
        prof.args(["-e", &list, "-o", &format!("json:{}", json.display())]).args(options);
        prof.args(["--", "sh", "-c", "ulimit -Sn; ulimit -Hn"]);
        let shell = format!("ulimit {limit} 64 && exec \"$0\" \"$@\"");
        let mut sh = Command::new("sh");
        sh.args(["-c", &shell]).arg(prof.get_program()).args(prof.get_args());
        sh.envs(prof.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let output = sh.output().expect("sh");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if hard.is_none_or(|n| n > 1000) {
        let (code, out, said) = limited("-Sn", &[]);
        assert_eq!((code, out.lines().next()), (Some(0), Some("64")), "{said}");
        let records = Records::read(&json);
        assert!(figure(records.profiles()[0], "page-faults:u#32") > 0);
        assert!(!said.contains("as one"), "{said}");
        let (code, out, said) = limited("-Sn", &["--repeat", "2"]);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(out.lines().step_by(2).collect::<Vec<_>>(), ["64", "64"], "{said}");
    }
    let (code, out, said) = limited("-n", &[]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{said}");
    assert!(said.contains("ulimit -n") && said.contains("page-faults:u"), "{said}");
}

#[test]
fn what_cannot_be_counted_stops_the_command_before_it_begins() {
    let Some(_turn) = live("events that are not there") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let mark = dir.path().join("it-ran");
    let touch = |options: &[&str]| {
        let output = command("run").args(options).arg("--").arg("touch").arg(&mark).output();
        let output = output.expect("prof run");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = touch(&["-e", "task-clock,page-falts:u"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains('^') && said.contains("page-faults"), "{said}");
    assert!(!mark.exists());

    let many = vec!["page-faults:u"; 33].join(",");
    for keep_going in [&[][..], &["--keep-going"]] {
        let (code, said) = touch(&[&["-e", &many], keep_going].concat());
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("33 events to count; 32 at a time is the most"), "{said}");
        assert!(!mark.exists());
    }

    if fs::exists("/sys/bus/event_source/devices/cpu").unwrap_or(false) {
        eprintln!("SKIPPED: this machine has a PMU");
        return;
    }
    let (code, said) = touch(&["-e", "task-clock,cycles"]);
    assert!(matches!(code, Some(1 | 2)), "{said}");
    assert!(said.contains("cycles") && said.contains("this machine"), "{said}");
    assert!(!mark.exists());
    let run = run_target(&["-e", "task-clock,cycles", "--keep-going"], &["exit", "7"]);
    assert_eq!(run.output.status.code(), Some(7));
    assert!(figure(run.records.profiles()[0], "task-clock") > 0);
    let header = run.records.of("header").next().expect("a header");
    let limits = header["limits"].as_array().expect("limits");
    let said = limits.iter().filter_map(Value::as_str).any(|l| l.contains("cycles"));
    assert!(said, "{limits:?}");
}
