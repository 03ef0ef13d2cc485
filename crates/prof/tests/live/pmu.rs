//! Hardware events, on a machine whose PMU counts exactly: an emulated one with one
//! CPU (`cargo xtask vm-test --arch aarch64 --cpus 1 -- pmu`). There `PROF_PMU=require`
//! makes the lack of a PMU a failure; elsewhere it is told and the test skipped, for
//! no setting can give a machine a PMU.

use std::process::Command;

use crate::harness::*;

/// The turn of the test, where instructions can be counted and repeat.
fn exact_pmu(what: &str) -> Option<std::sync::MutexGuard<'static, ()>> {
    let turn = live(what)?;
    let out = Command::new(prof()).args(["events", "--format", "json", "instructions"]).output();
    let text = String::from_utf8(out.expect("prof events").stdout).expect("UTF-8");
    let works = Records::parse(&text)
        .0
        .iter()
        .any(|e| e["name"] == "instructions" && e["works"] == serde_json::json!(true));
    if works {
        return Some(turn);
    }
    let required = std::env::var("PROF_PMU").as_deref() == Ok("require");
    assert!(!required, "{what}: no PMU counts instructions here");
    eprintln!(
        "SKIPPED {what}: no PMU counts instructions here; xtask vm-test --arch aarch64 has one"
    );
    None
}

/// Rounds of `prof-target loop`, all of as many digits, each of ten instructions.
const ROUNDS: [u64; 3] = [2_000_000, 5_000_000, 7_000_000];
const ROUND: u64 = 10;

fn count(p: &serde_json::Value, event: &str) -> u64 {
    p["figures"][event]["value"].as_u64().unwrap_or_else(|| panic!("no {event}: {p:#}"))
}

#[test]
fn instructions_are_those_of_each_process_though_they_share_a_cpu() {
    let Some(_turn) = exact_pmu("instructions by process") else { return };
    let target = target().display();
    let loops: Vec<_> = ROUNDS.iter().map(|n| format!("{target} loop {n} &")).collect();
    let script = format!("{} {target} loop 1000000; wait", loops.join(" "));
    let run = run(&["-e", "instructions:u,cycles:u,ipc,task-clock"], &["sh", "-c", &script]);
    let profiles = run.records.profiles();
    let of = |rounds: u64| {
        let is = |p: &&&serde_json::Value| {
            let args = p["process"]["args"].as_array();
            args.and_then(|a| a.last()).is_some_and(|a| a == &rounds.to_string())
        };
        profiles.iter().find(is).unwrap_or_else(|| panic!("loop {rounds}: {profiles:#?}"))
    };
    // The rest of the program is the same in each of them.
    let start = count(of(1_000_000), "instructions:u") - ROUND * 1_000_000;
    assert!(start < 1_000_000, "{start} instructions beside the loop");
    for rounds in ROUNDS {
        let p = of(rounds);
        let (is, must) = (count(p, "instructions:u"), start + ROUND * rounds);
        let off = is.abs_diff(must);
        assert!(off * 1000 <= must, "loop {rounds}: {is} instructions, not {must}");
        let running = &p["figures"]["instructions:u"];
        assert_eq!(running["enabled_ns"], running["running_ns"], "{running}");
        assert!(count(p, "cycles:u") > 0);
    }
    run.records.assert_whole();
    // Events of the same number as the clock's are not taken for it.
    let end = run.records.end();
    let clock = end["totals"]["task-clock"]["value"].as_u64().expect("task-clock");
    assert!(clock <= end["duration_ns"].as_u64().expect("a duration"), "{end}");
    // The sum over all processes is what perf counts for the same command.
    if !has("perf", "linux-perf") {
        return;
    }
    let total = run.records.end()["totals"]["instructions:u"]["value"].as_u64().expect("a total");
    let out = Command::new("perf")
        .args(["stat", "-x,", "-e", "instructions:u", "--", "sh", "-c", &script])
        .output()
        .expect("perf");
    let text = String::from_utf8_lossy(&out.stderr);
    let line = text.lines().find(|l| l.contains("instructions")).expect("a count");
    let perf: u64 = line.split(',').next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(total.abs_diff(perf) * 1000 <= perf, "prof {total}, perf {perf}");
}

#[test]
fn more_events_than_counters_are_scaled_and_say_so() {
    let Some(_turn) = exact_pmu("multiplexing") else { return };
    // Twelve times the same: more than any PMU has counters, and all must agree.
    let list = ["instructions:u"; 12].join(",");
    let run = run_target(&["-e", &list], &["loop", "50000000"]);
    let p = run.records.profiles()[0];
    let mut shared = 0;
    for i in 1..=12 {
        let name = match i {
            1 => "instructions:u".to_owned(),
            _ => format!("instructions:u#{i}"),
        };
        let f = &p["figures"][&name];
        let (enabled, running) = (f["enabled_ns"].as_u64(), f["running_ns"].as_u64());
        assert!(enabled.is_some() && running.is_some(), "{name}: {p:#}");
        assert!(running <= enabled, "{f}");
        if running < enabled {
            shared += 1;
        }
        if let Some(n) = f["value"].as_u64() {
            let must = 50_000_000 * ROUND;
            assert!(n.abs_diff(must) * 5 < must, "{name}: {n}, not about {must}");
        } else {
            assert!(f["absent"].is_string(), "{f}");
        }
    }
    assert!(shared > 0, "{p:#}");
}
