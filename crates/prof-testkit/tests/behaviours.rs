//! Runs the subcommands that need no privileges and take little time.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_prof-target")).args(args).output().unwrap()
}

/// Runs a subcommand that must succeed, and returns its facts.
fn facts(args: &[&str]) -> HashMap<String, String> {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.split_once('=').unwrap())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn number(facts: &HashMap<String, String>, key: &str) -> u64 {
    facts[key].parse().unwrap()
}

#[test]
fn bad_usage_exits_2() {
    for args in [&[][..], &["nope"], &["exit"], &["exit", "256"], &["burn", "x"], &["fork"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stderr.starts_with(b"prof-target: "), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn ends_as_told() {
    assert_eq!(run(&["exit", "7"]).status.code(), Some(7));
    assert_eq!(run(&["kill", "TERM"]).status.signal(), Some(15));
    assert_eq!(run(&["kill", "PIPE"]).status.signal(), Some(13));
    let status = run(&["kill", "SEGV"]).status;
    assert_eq!(status.signal(), Some(11));
}

#[test]
fn ping_and_pong_touch_what_they_say() {
    let facts = facts(&["pingpong", "20", "--cpu", "0", "--faults", "7"]);
    assert_eq!(number(&facts, "timed_rounds"), 19);
    assert_eq!(number(&facts, "pong_touched"), 140);
    assert!(number(&facts, "pong_minflt") >= 140);
    assert!(number(&facts, "elapsed_ns") > 0);
}

#[test]
fn uses_what_it_says() {
    assert!(number(&facts(&["burn", "20"]), "cpu_ns") >= 20_000_000);
    assert_eq!(number(&facts(&["loop", "1000"]), "loop_instructions"), 10_000);
    assert_eq!(number(&facts(&["loop", "0"]), "loop_instructions"), 0);
    assert!(number(&facts(&["sleep", "5"]), "slept_ns") >= 5_000_000);
    assert!(number(&facts(&["switches", "50"]), "nvcsw") >= 50);

    let faults = facts(&["faults", "100"]);
    let touched = number(&faults, "minflt_after") - number(&faults, "minflt_before");
    assert!((100..120).contains(&touched), "{touched}");

    assert!(number(&facts(&["rss", "16"]), "ru_maxrss_kib") >= 16 * 1024);
}

#[test]
fn has_regions() {
    let facts = facts(&["regions", "3", "5"]);
    let (inner, outer) = (number(&facts, "inner_cpu_ns"), number(&facts, "outer_cpu_ns"));
    assert!(inner >= 15_000_000, "{inner}");
    assert!(outer >= inner + 15_000_000, "{outer}");
}

#[test]
fn switches_itself() {
    let facts = facts(&["selfswitch", "10"]);
    assert!(number(&facts, "off_cpu_ns") >= 10_000_000);
    assert!(number(&facts, "on_cpu_ns") >= 10_000_000);
}

#[test]
fn counts_its_io() {
    let path = format!("{}/io-target", env!("CARGO_TARGET_TMPDIR"));
    let _ = std::fs::remove_file(&path);
    let io = facts(&["io", "200000", "70000", &path]);
    assert_eq!(number(&io, "write_calls"), 2);
    // 70000 bytes, read almost three times over: 2 + 2 + 1 calls.
    assert_eq!(number(&io, "read_calls"), 5);
    if io.contains_key("io_rchar") {
        assert!(number(&io, "io_rchar") >= 200_000);
        assert_eq!(number(&io, "io_wchar"), 70_000);
    }
}

#[test]
fn starts_children() {
    for how in ["fork", "vfork", "spawn"] {
        let child = facts(&[how, "@self", "exit", "9"]);
        assert_eq!(child["child_exit"], "9", "{how}");
        assert_ne!(child["child_pid"], child["pid"], "{how}");
    }
    let storm = facts(&["storm", "7", "--jobs", "2", "--vfork"]);
    assert_eq!(storm["execs"], "7");
    let one = number(&storm, "middle_ns");
    assert!(one > 0 && one < number(&storm, "elapsed_ns"), "{storm:?}");
    let deep = facts(&["deep", "3", "1000000", "--slices", "8"]);
    let (slice, all) = (number(&deep, "middle_ns"), number(&deep, "elapsed_ns"));
    assert!(slice > 0 && slice <= all / 4, "{deep:?}");
}

#[test]
fn replaces_itself() {
    facts(&["reexec", "3"]);
    assert_eq!(run(&["exec-from-thread", "@self", "exit", "4"]).status.code(), Some(4));
}

#[test]
fn dies_in_exec() {
    let child = facts(&["die-in-exec", env!("CARGO_TARGET_TMPDIR")]);
    assert_eq!(child["child_signal"], "11");
}

#[test]
fn fails_to_exec() {
    let failures = facts(&["failed-exec", "2"]);
    assert_eq!(failures["missing_errno"], "ENOENT");
    assert_eq!(failures["not_executable_errno"], "EACCES");
}

#[test]
fn runs_threads() {
    let threads = facts(&["threads", "20", "5"]);
    assert_eq!(threads["threads"], "20");
    assert!(number(&threads, "threads_cpu_ns") >= 5_000_000);

    let survivor = facts(&["leader-exits-first", "5"]);
    assert_ne!(survivor["tid"], survivor["pid"]);
}

#[test]
fn leaves_processes_behind() {
    let output = run(&["orphan", "--outlive", "@self", "setname", "left"]);
    // Standard output ends only when the grandchild has ended too.
    assert!(String::from_utf8(output.stdout).unwrap().contains("comm=left\n"));
    assert_eq!(facts(&["zombie", "5"])["child_exit"], "0");
    facts(&["linger-fd", "5"]);
}

#[test]
fn tells_the_time() {
    let first = number(&facts(&["now"]), "monotonic_ns");
    let second = number(&facts(&["now"]), "monotonic_ns");
    assert!(first > 0 && second > first, "{first} {second}");
}

#[test]
fn a_herd_runs_all_at_once() {
    let herd = facts(&["herd", "20", "50"]);
    assert_eq!(number(&herd, "running"), 20);
    assert_eq!(number(&herd, "failed"), 0);
}
