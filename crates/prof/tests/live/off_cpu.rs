//! Time off the CPU: as long as it was, as often as threads were switched, by whom it
//! was ended, and as perf has it.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use prof::stacks::raw;
use prof_model::stacks::FrameKind;
use prof_model::stacks::OffCpu;
use prof_model::stacks::OffState;
use prof_model::stacks::Process;
use prof_model::stacks::Sample;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Waker;
use prof_model::stacks::WakerKind;
use prof_model::stacks::Whole;

use crate::harness::*;
use crate::stacks::Stacks;
use crate::stacks::run_stacks;
use crate::stacks::taken;
use crate::stacks::target_str;

const MS: u64 = 1_000_000;

/// Samples of time off the CPU, with what is known of each.
fn off(p: &StackProfile) -> impl Iterator<Item = (&Sample, &OffCpu)> {
    p.samples.iter().filter_map(|s| Some((s, s.off_cpu.as_deref()?)))
}

fn of_pid(p: &StackProfile, pid: u64) -> impl Iterator<Item = (&Sample, &OffCpu)> {
    off(p).filter(move |(s, _)| u64::from(process(p, s).pid) == pid)
}

fn process<'p>(p: &'p StackProfile, s: &Sample) -> &'p Process {
    &p.processes[p.threads[s.thread.0 as usize].process.0 as usize]
}

fn waker<'p>(p: &'p StackProfile, off: &OffCpu) -> Option<&'p Waker> {
    off.waker.map(|w| p.waker(w))
}

/// Times of which the kernel has told the beginning or the end only: it skips a hook now
/// and then.
fn missed(p: &StackProfile) -> u64 {
    p.lost.iter().find(|(name, _)| name == "off-cpu-switch-missed").map_or(0, |(_, n)| *n)
}

/// Nothing else is lost.
fn assert_kept(got: &Stacks) {
    let p = &got.profile;
    assert_eq!(p.lost.len(), usize::from(missed(p) > 0), "{:?}", p.lost);
    got.run.records.assert_whole();
}

fn act(steps: &str) -> Vec<&str> {
    [&[target_str(), "act"], &steps.split(' ').collect::<Vec<_>>()[..]].concat()
}

#[test]
fn a_sleep_is_as_long_as_it_was_and_a_timer_ends_it() {
    let Some(_turn) = live("sleeps") else { return };
    if !taken("sleeps") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let folded = dir.path().join("x.folded");
    let to = format!("folded:{}", folded.display());
    let got = run_stacks(&["--off-cpu=only", "-o", &to], &act("times 4 [ sleep 50 ]"));
    assert_kept(&got);
    let p = &got.profile;
    assert_eq!(p.events.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["off-cpu"]);
    assert!(got.run.records.of("prof").all(|r| has_flag(r, "offcpu") && !has_flag(r, "sample")));
    let timer = |off: &OffCpu| waker(p, off).is_some_and(|w| w.kind == WakerKind::Interrupt);
    // The timer begins to run a moment before the thread has left its CPU.
    let sleeps: Vec<_> = off(p)
        .filter(|(s, off)| off.state == OffState::Sleep && timer(off) && s.weight > 45 * MS)
        .collect();
    let told = sleeps.len() as u64;
    assert!(told > 0 && told <= 4 && told + missed(p) >= 4, "{:?}", off(p).collect::<Vec<_>>());
    for (s, off) in &sleeps {
        assert!(s.weight - off.wait_ns > 45 * MS && !off.unfinished, "{s:?}");
        assert!(s.whole.is_whole(), "{s:?}");
    }
    let text = fs::read_to_string(&folded).expect("folded stacks");
    let asleep = text.lines().find(|l| l.contains("_nanosleep_[k];--;try_to_wake_up_[k];"));
    let asleep = asleep.unwrap_or_else(|| panic!("nobody sleeps: {text}"));
    assert!(asleep.contains("prof_target::act::perform"), "{asleep}");
    assert!(asleep.contains(";[interrupt] "), "{asleep}");
    // Neither the hook nor the scheduler's own functions.
    assert!(!text.contains("bpf_prog_") && !text.contains("__schedule_"), "{text}");
}

#[test]
fn who_writes_to_a_pipe_wakes_who_reads_it() {
    let Some(_turn) = live("wakers") else { return };
    if !taken("wakers") {
        return;
    }
    let got = run_stacks(&["--off-cpu=only"], &[target_str(), "pingpong", "500"]);
    assert_kept(&got);
    let p = &got.profile;
    let (ping, pong) = (got.run.said("pid"), got.run.said("pong_pid"));
    let (mut sleeps, mut ended, mut wholes) = (0, 0, 0);
    for (reader, writer) in [(ping, pong), (pong, ping)] {
        let slept: Vec<_> =
            of_pid(p, reader).filter(|(_, off)| off.state == OffState::Sleep).collect();
        let woken = slept.iter().filter_map(|(_, off)| waker(p, off));
        let by: Vec<_> = woken.filter(|w| u64::from(w.pid) == writer).collect();
        println!("{reader}: slept {} times, {} ended by {writer}", slept.len(), by.len());
        sleeps += slept.len();
        ended += by.len();
        // The writer is profiled, too: it wakes from its own code.
        let kinds = |w: &Waker| -> Vec<FrameKind> {
            p.frames_of(w.stack).map(|f| p.frame(f).kind).collect()
        };
        for w in by.iter().filter(|w| w.whole == Whole::Whole) {
            wholes += 1;
            let kinds = kinds(w);
            assert_eq!(kinds.first(), Some(&FrameKind::Kernel), "{w:?}");
            assert_eq!(kinds.last(), Some(&FrameKind::User), "{w:?}");
        }
    }
    // Which of them mostly waits is a matter of chance: a byte may be there before it is
    // waited for.
    assert!(ended * 10 >= sleeps * 9, "{ended} of {sleeps}");
    assert!(sleeps >= 100 && wholes > 0, "{sleeps} sleeps, {wholes} with a waker's stack");
}

#[test]
fn a_thread_that_ends_wakes_who_waits_for_it() {
    let Some(_turn) = live("wakers among threads") else { return };
    if !taken("wakers among threads") {
        return;
    }
    let got = run_stacks(&["--off-cpu"], &act("both [ sleep 80 ] [ ]"));
    assert_kept(&got);
    let p = &got.profile;
    assert_eq!(
        p.events.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(),
        ["cpu-clock", "off-cpu"]
    );
    let pid = got.run.said("pid");
    let waits: Vec<_> = of_pid(p, pid)
        .filter(|(s, _)| u64::from(p.threads[s.thread.0 as usize].tid) == pid)
        .filter(|(s, off)| off.state == OffState::Sleep && s.weight > 40 * MS)
        .collect();
    if waits.is_empty() && missed(p) > 0 {
        eprintln!("SKIPPED who ended it: the kernel did not tell of that switch");
        return;
    }
    assert_eq!(waits.len(), 1, "{waits:?}");
    let w = waker(p, waits[0].1).expect("a waker");
    assert!(w.kind == WakerKind::Thread && u64::from(w.pid) == pid, "{w:?}");
    assert_ne!(u64::from(w.tid), pid, "{w:?}");
    // Both on one time line: what has begun is over before the profile is.
    assert!(p.samples.windows(2).all(|s| s[0].time_ns <= s[1].time_ns));
    assert!(p.samples.iter().all(|s| s.time_ns <= p.duration_ns));
}

#[test]
fn what_a_thread_was_not_on_a_cpu_it_was_off_it() {
    let Some(_turn) = live("sum of time off the CPU") else { return };
    if !taken("sum of time off the CPU") || emulated("times") {
        return;
    }
    let got = run_stacks(&["--off-cpu=only"], &act("times 25 [ sleep 40 ]"));
    assert_kept(&got);
    let profiles = got.run.records.profiles();
    let window = profiles[0]["window"]["wall_ns"].as_u64().expect("a duration");
    let (cpu, off) = (figure(profiles[0], "task-clock"), got.weight());
    println!("window {window} ns = {cpu} ns on the CPU and {off} ns off it");
    // What a hypervisor takes away is in neither; a program that sleeps loses little.
    assert!(off + cpu <= window + window / 100, "{off} + {cpu} of {window}");
    let missed = missed(&got.profile);
    assert!(off + cpu >= window - window / 20 || missed > 0, "{off} + {cpu} of {window}");
}

#[test]
fn each_switch_is_one_time_off_the_cpu() {
    let Some(_turn) = live("as many times off the CPU as switches") else { return };
    if !taken("as many times off the CPU as switches") {
        return;
    }
    let got = run_stacks(&["--off-cpu=only"], &[target_str(), "switches", "2000"]);
    let p = &got.profile;
    assert_kept(&got);
    let missed = missed(p);
    assert!(missed <= 20, "{missed}");
    let count = |runnable: bool| {
        off(p).filter(|(_, o)| (o.state == OffState::Runnable) == runnable).count() as u64
    };
    let profile = got.run.records.profiles()[0];
    let switches = figure(profile, "context-switches");
    println!("{} blocked, {} preempted, {missed} missed of {switches}", count(false), count(true));
    // The kernel counts them from inside exec on, where the program is not there yet.
    let all = count(false) + count(true) + missed;
    assert!(all >= 2000 && all <= switches && switches - all <= 30, "{all} of {switches}");
    let waits: u64 = off(p).map(|(_, o)| o.wait_ns).sum();
    let weights: u64 = off(p).map(|(s, _)| s.weight).sum();
    assert!(waits <= weights);
    for (s, o) in off(p) {
        assert!(o.wait_ns <= s.weight, "{s:?}");
        assert!(o.state != OffState::Runnable || o.wait_ns == s.weight, "{s:?}");
    }
}

#[test]
fn short_times_are_left_out_if_that_is_asked_for() {
    let Some(_turn) = live("least time off the CPU") else { return };
    if !taken("least time off the CPU") {
        return;
    }
    let options = ["--off-cpu=only", "--off-cpu-min", "30ms"];
    let got = run_stacks(&options, &act("times 50 [ sleep 1 ] times 2 [ sleep 60 ]"));
    assert_kept(&got);
    let weights: Vec<_> = off(&got.profile).map(|(s, _)| s.weight).collect();
    assert!(weights.iter().all(|w| *w >= 30 * MS), "{weights:?}");
    let long = weights.iter().filter(|w| **w > 50 * MS).count() as u64;
    assert!(long + missed(&got.profile) >= 2, "{weights:?}");
    // A millisecond is less, unless this machine stands still.
    assert!(weights.len() < 25, "{weights:?}");
}

#[test]
fn two_that_want_one_cpu_wait_for_each_other() {
    let Some(_turn) = live("time spent waiting for a CPU") else { return };
    if !taken("time spent waiting for a CPU") || !has("taskset", "util-linux") {
        return;
    }
    let t = target_str();
    let script = format!("{t} burn 300 >/dev/null & {t} burn 300 >/dev/null & wait");
    let got = run_stacks(&["--off-cpu=only"], &["taskset", "-c", "0", "sh", "-c", &script]);
    assert_kept(&got);
    let p = &got.profile;
    // As long as both run: at least a good part of what the other one used.
    for profile in got.run.records.profiles() {
        if figure(profile, "task-clock") < 250 * MS {
            continue;
        }
        let pid = profile["process"]["pid"].as_u64().expect("a pid");
        let waited: u64 = of_pid(p, pid).map(|(_, o)| o.wait_ns).sum();
        let kernel = figure(profile, "run-queue-wait");
        println!("{pid} waited {waited} ns for a CPU, {kernel} ns by the kernel's own count");
        assert!(waited > 100 * MS, "{waited}");
        // The kernel's own count has the wait before the exec's end, too.
        assert!(waited <= kernel + kernel / 10, "{waited}, {kernel}");
        assert!(waited >= kernel / 2, "{waited}, {kernel}");
        let runnable = of_pid(p, pid).filter(|(_, o)| o.state == OffState::Runnable);
        assert!(runnable.count() > 5);
    }
}

/// Milliseconds as perf writes them, in ns.
fn ns(ms: &str) -> u64 {
    let (whole, part) = ms.split_once('.').expect("three places");
    let n = |s: &str| s.parse::<u64>().expect("a number");
    n(whole) * MS + n(part) * 1000
}

/// Steps with known waits on one CPU, as prof and as `perf sched` has them: time off the
/// CPU, and how long of that runnable, ns.
fn beside_perf_sched(cpu: &str) -> (Stacks, [Vec<(u64, u64)>; 2]) {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("sched.data");
    let data = data.to_str().expect("a path");
    let cmd = ["perf", "sched", "record", "-o", data, "--", "taskset", "-c", cpu];
    let steps = act("times 40 [ sleep 3 burn 1 ] times 3 [ sleep 30 ]");
    let got = run_stacks(&["--off-cpu=only"], &[&cmd[..], &steps].concat());
    let said = String::from_utf8_lossy(&got.run.output.stderr).into_owned();
    assert!(got.run.output.status.success(), "{said}");
    let pid = got.run.said("pid");
    let history = Command::new("perf")
        .args(["sched", "timehist", "-i", data, "--tid", &pid.to_string()])
        .output()
        .expect("perf sched timehist");
    let history = String::from_utf8_lossy(&history.stdout).into_owned();
    // A line when it is switched away: how long it had been off, of that runnable, ran.
    let of_perf: Vec<(u64, u64)> = history
        .lines()
        .filter(|l| l.contains(&format!("[{pid}]")))
        .filter_map(|l| {
            let mut words = l.split_whitespace().rev();
            let (_, delay, off) = (words.next()?, words.next()?, words.next()?);
            Some((ns(off), ns(delay)))
        })
        .collect();
    assert!(of_perf.len() >= 43, "{history}");
    let of_prof: Vec<(u64, u64)> = of_pid(&got.profile, pid)
        .filter(|(s, o)| s.weight > MS && o.state == OffState::Sleep)
        .map(|(s, o)| (s.weight, o.wait_ns))
        .collect();
    println!("prof {of_prof:?}\nperf {of_perf:?}");
    (got, [of_prof, of_perf])
}

#[test]
fn waits_are_as_long_as_perf_has_them() {
    let what = "time off the CPU beside perf's";
    let Some(_turn) = live(what) else { return };
    if !taken(what) || !has("perf", "linux-perf") || !has("taskset", "util-linux") {
        return;
    }
    if emulated(what) {
        return;
    }
    // Each step sleeps for 3 ms at least: perf was not told of the switch before a shorter
    // one. Seen on one CPU of a machine, of all switches from idle, until it was restarted.
    let is_told = |of_perf: &[(u64, u64)]| {
        of_perf.iter().filter(|(off, _)| *off < 3 * MS).count() <= of_perf.len() / 8
    };
    let runs = ["0", "1", "0", "1", "0"].into_iter().map(beside_perf_sched);
    let (got, [of_prof, mut of_perf]) =
        runs.into_iter().find(|(_, [_, p])| is_told(p)).expect("a CPU whose switches perf is told");
    let told = of_prof.len() as u64;
    assert!(told > 20 && told + missed(&got.profile) >= 43, "{of_prof:?}");
    // Nearly each of prof's is one of perf's, but for the moment between their hooks, in which
    // the machine may be taken away, and for what perf has lost.
    let close = |a: u64, b: u64| a.abs_diff(b) < MS / 5;
    let mut others = Vec::new();
    for (off, wait) in &of_prof {
        let same = |(o, w): &(u64, u64)| close(*o, *off) && close(*w, *wait);
        match of_perf.iter().position(same) {
            Some(at) => drop(of_perf.remove(at)),
            None => others.push((*off, *wait)),
        }
    }
    let few = of_prof.len() as u64 / 4 + missed(&got.profile);
    assert!(others.len() as u64 <= few, "{others:?} are not in {of_perf:?}");
}

#[test]
fn who_is_still_blocked_at_the_end_is_told_and_nobody_whom_no_rule_names() {
    let Some(_turn) = live("blocked at the end") else { return };
    if !taken("blocked at the end") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x.stacks");
    let to = format!("raw:{}", file.display());
    let named = dir.path().join("the-one");
    fs::copy(target(), &named).expect("a copy");
    let watch = Watch::start(&["-s", "comm=the-one", "--off-cpu=only", "-o", &to]);
    let mut other = Command::new(target()).args(["sleep", "300"]).spawn().expect("the target");
    let mut sleeper = Command::new(&named).args(["sleep", "60000"]).spawn().expect("the copy");
    assert!(other.wait().expect("the target").success());
    thread::sleep(Duration::from_millis(300));
    watch.stop();
    sleeper.kill().expect("a signal");
    sleeper.wait().expect("the copy");
    let p = raw::read(&file).expect("stacks");
    assert!(p.processes.iter().all(|p| p.comm == "the-one"), "{:?}", p.processes);
    let unfinished: Vec<_> = off(&p).filter(|(_, o)| o.unfinished).collect();
    assert_eq!(unfinished.len(), 1, "{unfinished:?}");
    let (s, o) = unfinished[0];
    assert!(s.weight > 250 * MS && o.wait_ns == 0 && o.waker.is_none(), "{s:?}");
}

#[test]
fn what_does_not_fit_is_counted() {
    let Some(_turn) = live("a full ring of time off the CPU") else { return };
    if !taken("a full ring of time off the CPU") || emulated("some 100,000 switches") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x.stacks");
    let to = format!("raw:{}", file.display());
    let watch = Watch::start(&["-s", "comm=the-one", "--off-cpu=only", "-o", &to]);
    let named = dir.path().join("the-one");
    fs::copy(target(), &named).expect("a copy");
    // Nobody reads.
    signal(watch.pid(), libc::SIGSTOP);
    let status = Command::new(&named).args(["switches", "60000"]).status().expect("the copy");
    signal(watch.pid(), libc::SIGCONT);
    assert!(status.success());
    watch.stop();
    let p = raw::read(&file).expect("stacks");
    let lost = |name: &str| p.lost.iter().find(|(n, _)| n == name).map_or(0, |(_, n)| *n);
    println!("{} samples, {:?}", p.samples.len(), p.lost);
    assert!(lost("off-cpu-ring-full") > 1000, "{:?}", p.lost);
    assert!(p.samples.len() > 1000, "{}", p.samples.len());
}
