//! Nothing lost, or every loss told.

use crate::harness::*;

/// Execs of a storm: 100,000 where that takes seconds, fewer in an emulator.
fn storm_size() -> u64 {
    if std::env::var_os("PROF_VM").is_some() { 300 } else { 100_000 }
}

#[test]
fn a_storm_of_execs_loses_nothing() {
    let Some(_turn) = live("storm of execs") else { return };
    let n = storm_size();
    let own = format!("tree={}", std::process::id());
    let watch = Watch::start(&["-s", "comm=exe", "-s", &own]);
    let said_ = target_output(&["storm", &n.to_string(), "--jobs", "2", "--vfork"]);
    assert_eq!(said(&said_, "execs"), n);
    let records = watch.stop();
    let profiles = records.profiles();
    assert_eq!(profiles.iter().filter(|p| p["process"]["comm"] == "exe").count() as u64, n);
    records.assert_whole();
    let execs = &records.end()["execs"];
    // The tracepoint's own counter, kept by perf.
    assert_eq!(execs["seen"], execs["kernel"], "{execs}");
    assert!(execs["seen"].as_u64() >= Some(n));
}

#[test]
fn a_buffer_too_small_still_adds_up() {
    let Some(_turn) = live("small buffer") else { return };
    let n = storm_size() / 10;
    let own = format!("tree={}", std::process::id());
    let watch = Watch::start(&["-s", "comm=exe", "-s", &own, "--buffer", "4K"]);
    // Not reading at all for a while: then it must overflow.
    signal(watch.pid(), libc::SIGSTOP);
    target_output(&["storm", &n.to_string(), "--jobs", "2"]);
    signal(watch.pid(), libc::SIGCONT);
    let records = watch.stop();
    records.assert_reconciled();
    let end = records.end();
    assert_eq!(end["enabled"], n, "{end}");
    assert!(end["lost"]["ring_full_disable"].as_u64() > Some(0), "{end}");
    assert!(records.of("loss").any(|l| l["reason"] == "ring_full_disable"), "told in the stream");
    let told: u64 = records
        .of("loss")
        .filter(|l| l["reason"] == "ring_full_disable")
        .filter_map(|l| l["count"].as_u64())
        .sum();
    assert_eq!(Some(told), end["lost"]["ring_full_disable"].as_u64());
}

#[test]
fn a_full_table_is_told() {
    let Some(_turn) = live("full table") else { return };
    let run = run_target(&["--max-processes", "1"], &["fork", "@self", "exit", "0"]);
    let end = run.records.end();
    assert!(end["lost"]["map_full"].as_u64() >= Some(1), "{end}");
    run.records.assert_reconciled();
}
