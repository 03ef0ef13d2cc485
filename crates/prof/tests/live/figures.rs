//! The figures, against `perf stat` on the same process at the same time.

use std::fs;
use std::process::Command;

use crate::harness::*;

/// Time that a hypervisor stole from all CPUs so far, ns. perf's task-clock
/// counts it in, the scheduler's (and prof's) does not.
fn stolen_ns() -> u64 {
    let stat = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let cpu = stat.lines().next().expect("a line");
    let ticks: u64 = cpu.split_whitespace().nth(8).and_then(|v| v.parse().ok()).unwrap_or(0);
    ticks * 10_000_000
}

struct Perf {
    task_clock_ns: f64,
    faults: u64,
    switches: u64,
    stolen_ns: u64,
}

/// A target under `perf stat`, beside a running watch.
fn perf_stat(args: &[&str]) -> Perf {
    let before = stolen_ns();
    let output = Command::new("perf")
        .args(["stat", "-x;", "-e", "task-clock,page-faults,context-switches", "--"])
        .arg(target())
        .args(args)
        .output()
        .expect("perf");
    // A tick of each CPU on top: that is how finely the kernel tells it.
    let stolen_ns = stolen_ns() - before;
    let text = String::from_utf8_lossy(&output.stderr);
    let value = |name: &str| -> f64 {
        text.lines()
            .find(|l| l.split(';').nth(2).is_some_and(|n| n.starts_with(name)))
            .and_then(|l| l.split(';').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{name} in {text}"))
    };
    Perf {
        task_clock_ns: value("task-clock") * 1e6,
        faults: value("page-faults") as u64,
        switches: value("context-switches") as u64,
        stolen_ns,
    }
}

/// Compares one target over the same window: the counts always, the time until it
/// is right once, for what a hypervisor takes is told by the kernel to 10 ms only.
fn compare(args: &[&str]) {
    once_in(6, "task-clock beside perf", || compare_once(args));
}

/// The counts are equal, or it panics; an error if the times differ.
fn compare_once(args: &[&str]) -> Result<(), String> {
    let own = format!("tree={}", std::process::id());
    let watch = Watch::start(&["-s", "comm=prof-target", "-s", &own]);
    let perf = perf_stat(args);
    watch.until("it has ended", |r| r.profiles().iter().any(|p| p["exit"].is_object()));
    let records = watch.stop();
    let p = records.profiles();
    assert_eq!(p.len(), 1, "{p:#?}");
    let p = p[0];
    assert_eq!(p["window"]["start"], "task_rename", "perf's window begins there too");
    assert_eq!(figure(p, "page-faults"), perf.faults, "page-faults of {args:?}");
    assert_eq!(figure(p, "context-switches"), perf.switches, "context-switches of {args:?}");
    let ours = figure(p, "task-clock") as f64;
    // perf prints hundredths of a millisecond, and does not count the switches
    // themselves, which the scheduler does: 2 us each here, more on a busy host.
    let switching = perf.switches as f64 * 6_000.0;
    let allowed = (perf.task_clock_ns * 0.02).max(30_000.0) + 10_000.0 + switching;
    let diff = perf.task_clock_ns - ours;
    let stolen = perf.stolen_ns as f64 + if perf.stolen_ns > 0 { 20_000_000.0 } else { 0.0 };
    if diff.abs() <= allowed + stolen {
        return Ok(());
    }
    let theirs = perf.task_clock_ns;
    Err(format!("task-clock of {args:?}: perf {theirs} ours {ours}, stolen {stolen}"))
}

/// Whether the window of this backend and kernel is perf's: from the same point in
/// exec, and to an exit hook that stands where perf stops counting.
pub fn same_window() -> bool {
    let run = run_target(&[], &["exit", "0"]);
    let w = &run.records.profiles()[0]["window"];
    if w["start"] == "task_rename" && w["end"] == "exit" {
        return true;
    }
    eprintln!("SKIPPED: the window here is {}, not perf's", w);
    assert!(
        std::env::var_os("PROF_VM").is_some() || hooks().as_deref() == Some("kprobe"),
        "on this machine it must be perf's"
    );
    false
}

#[test]
fn equal_to_perf_stat() {
    let Some(_turn) = live("comparison with perf stat") else { return };
    if !has("perf", "linux-perf") || !same_window() {
        return;
    }
    for _ in 0..5 {
        compare(&["exit", "0"]);
    }
    compare(&["faults", "5000"]);
    compare(&["switches", "300"]);
    compare(&["burn", "200"]);
    compare(&["threads", "50", "100"]);
    compare(&["rss", "64"]);
}

#[test]
fn page_faults_are_counted_to_the_fault() {
    let Some(_turn) = live("page faults") else { return };
    let run = run_target(&[], &["faults", "3000"]);
    let p = run.records.of_pid(run.said("pid"));
    let faults = figure(p[0], "page-faults");
    let touched = run.said("minflt_after") - run.said("minflt_before");
    assert!(touched >= 3000);
    assert!(faults >= touched && faults < touched + 600, "{faults} for {touched} touched");
}

#[test]
fn bytes_as_system_calls_and_as_storage_saw_them() {
    let Some(_turn) = live("bytes read and written") else { return };
    let dir = tempfile::tempdir_in(".").expect("a folder on a disk");
    let file = dir.path().join("data");
    let file = file.to_str().expect("a path");
    let run = run_target(&[], &["io", "1000000", "3000000", file, "--fsync"]);
    let p = run.records.of_pid(run.said("pid"));
    assert!(figure(p[0], "read-bytes") >= 1_000_000);
    assert!(figure(p[0], "written-bytes") >= 3_000_000);
    assert!(figure(p[0], "written-bytes") < 3_100_000);
    // What the process read of itself, from the same counters, a moment before.
    assert!(figure(p[0], "written-bytes") >= run.said("io_wchar"));
    let storage = run.said("io_write_bytes") - run.said("io_cancelled_write_bytes");
    assert_eq!(figure(p[0], "storage-written-bytes"), storage);
}

#[test]
fn peak_rss_is_that_of_this_program() {
    let Some(_turn) = live("peak RSS") else { return };
    let run = run_target(&[], &["rss", "100"]);
    let p = run.records.of_pid(run.said("pid"));
    let kib = figure(p[0], "peak-rss") / 1024;
    let touched = run.said("touched_kib");
    assert!(kib >= touched && kib < touched + 16 * 1024, "{kib} KiB for {touched} touched");
    // What rusage says is the same here: nothing before it was larger.
    let rusage = run.said("ru_maxrss_kib");
    if hooks().as_deref() == Some("kprobe") {
        // do_exit has only begun: the kernel has not yet noted the peak, and what is
        // left is the counters, off by up to a batch for each CPU and kind.
        assert!(kib.abs_diff(rusage) <= 2048, "{kib} KiB, rusage says {rusage}");
    } else {
        assert_eq!(kib, rusage);
    }
}

#[test]
fn time_waiting_for_a_cpu() {
    let Some(_turn) = live("run-queue wait") else { return };
    let n = std::thread::available_parallelism().map_or(2, |n| n.get()) * 3;
    // More busy threads than CPUs: they wait for each other.
    let run = run_target(&[], &["threads", &n.to_string(), "600"]);
    let p = run.records.of_pid(run.said("pid"));
    assert!(figure(p[0], "run-queue-wait") > 50_000_000, "{}", p[0]["figures"]);
    assert!(figure(p[0], "involuntary-switches") + figure(p[0], "voluntary-switches") > 0);
    assert_eq!(
        figure(p[0], "context-switches"),
        figure(p[0], "involuntary-switches") + figure(p[0], "voluntary-switches")
    );
}

#[test]
fn user_and_system_make_task_clock() {
    let Some(_turn) = live("user and system time") else { return };
    let run = run_target(&[], &["burn", "300"]);
    let p = run.records.of_pid(run.said("pid"));
    let (user, system) = (figure(p[0], "user-time"), figure(p[0], "system-time"));
    assert_eq!(user + system, figure(p[0], "task-clock"));
    assert!(user > system, "a busy loop runs in user mode");
}

#[test]
fn a_figure_that_was_not_measured_is_absent() {
    let Some(_turn) = live("absent figures") else { return };
    if std::env::var_os("PROF_VM").is_some() {
        eprintln!("SKIPPED: in an emulator no run is so short that no tick falls into it");
        return;
    }
    let mut seen = false;
    // Most runs this short see no tick; one of a few surely does not.
    for _ in 0..20 {
        let run = run_target(&[], &["exit", "0"]);
        let p = run.records.profiles()[0].clone();
        let user = &p["figures"]["user-time"];
        assert!(user["value"].is_u64() != user["absent"].is_string(), "one or the other: {user}");
        if user["absent"].is_string() {
            assert!(has_flag(&p, "partial"));
            seen = true;
            break;
        }
    }
    assert!(seen, "no run without a tick");
}

#[test]
fn only_the_events_asked_for() {
    let Some(_turn) = live("-e") else { return };
    let run = run_target(&["-e", "task-clock,page-faults"], &["exit", "0"]);
    let p = run.records.profiles()[0].clone();
    let names: Vec<_> = p["figures"].as_object().expect("figures").keys().cloned().collect();
    assert_eq!(names, ["task-clock", "page-faults"]);
}
