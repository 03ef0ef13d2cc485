//! Figures so far.

use serde_json::Value;

use crate::harness::*;

fn value(record: &Value, name: &str) -> u64 {
    record["figures"][name]["value"].as_u64().unwrap_or(0)
}

#[test]
fn intervals_grow_and_add_up_to_the_totals() {
    let Some(_turn) = live("-I") else { return };
    let run = run_target(&["-I", "100", "-e", "default,cpu-clock"], &["burn", "800"]);
    assert!(run.output.status.success());
    run.records.assert_whole();
    let so_far: Vec<_> =
        run.records.of("profile").filter(|p| p["window"]["end"] == "running").collect();
    // A busy machine may have us late, but not so late.
    assert!(so_far.len() >= 2, "{} intervals", so_far.len());
    for p in &so_far {
        assert!(has_flag(p, "request") && p["exit"].is_null(), "{p}");
        assert_eq!(p["process"]["pid"], run.said("pid"));
    }
    // All CPUs may be interrupted here; but where a host takes one away, not in time.
    let old = so_far.iter().filter(|p| p.get("age_ns").is_some()).count();
    assert!(old * 2 <= so_far.len(), "{old} of {}: {so_far:?}", so_far.len());
    for pair in so_far.windows(2) {
        for name in ["task-clock", "page-faults", "cpu-clock", "wall-time"] {
            assert!(value(pair[0], name) <= value(pair[1], name), "{name}: {pair:?}");
        }
        // The process is on its CPU all the time, and is asked there.
        let asked = pair.iter().all(|p| p.get("age_ns").is_none());
        assert!(!asked || value(pair[0], "cpu-clock") < value(pair[1], "cpu-clock"), "{pair:?}");
    }
    let end = run.records.end();
    assert_eq!(end["processes"], 1, "what is so far is not in the totals");
    for name in ["task-clock", "page-faults", "cpu-clock", "context-switches"] {
        let sum: u64 = run.records.of("interval").map(|i| value(i, name)).sum();
        assert_eq!(sum, end["totals"][name]["value"].as_u64().expect("a total"), "{name}");
    }
    let last = run.records.of("interval").last().expect("an interval");
    assert_eq!(last["running"], 0);
}

#[test]
fn intervals_of_processes_and_threads_that_come_and_go() {
    let Some(_turn) = live("-I with many") else { return };
    if kprobes("a difference went below zero once, on 6.1, and nobody knows why yet") {
        return;
    }
    let run = run_target(&["-I", "10", "-e", "page-faults,task-clock"], &["storm", "300"]);
    run.records.assert_whole();
    let end = run.records.end();
    for name in ["page-faults", "task-clock"] {
        let sum: u64 = run.records.of("interval").map(|i| value(i, name)).sum();
        let total = end["totals"][name]["value"].as_u64().expect("a total");
        assert!(sum >= total, "{name}: {sum} of {total}");
        // Nothing is told twice, but for what a reading took for older than it was.
        assert!(sum <= total + total / 100, "{name}: {sum} of {total}");
    }
}

#[test]
fn people_see_them_as_they_come() {
    let Some(_turn) = live("-I, summary and table") else { return };
    let output = command("run")
        .args(["-I", "100", "-e", "task-clock,page-faults", "--"])
        .arg(target())
        .args(["burn", "500"])
        .output()
        .expect("prof");
    let text = String::from_utf8_lossy(&output.stderr);
    let blocks = text.lines().filter(|l| l.starts_with("    0.") && l.contains("task-clock"));
    assert!(blocks.count() >= 2, "{text}");
    assert!(text.contains("Performance of"), "{text}");
    let output = command("run")
        .args(["-I", "100", "-o", "table", "--"])
        .arg(target())
        .args(["burn", "500"])
        .output()
        .expect("prof");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.matches("so far").count() >= 2, "{text}");
    assert_eq!(text.matches("still running").count(), 1, "told once: {text}");
}

#[test]
fn intervals_of_watch_and_attach() {
    let Some(_turn) = live("-I of watch and attach") else { return };
    let own = format!("tree={}", std::process::id());
    let watch = Watch::start(&["-s", "comm=prof-target", "-s", &own, "-I", "50"]);
    target_output(&["sleep", "600"]);
    watch.until("it has ended", |r| r.profiles().iter().any(|p| p["exit"].is_object()));
    let records = watch.stop();
    records.assert_whole();
    assert!(records.profiles().len() >= 3, "{:#?}", records.profiles());
    let mut sleeper = std::process::Command::new(target())
        .args(["sleep", "60000"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("prof-target");
    let attach = Watch::verb("attach", &["-I", "50", &sleeper.id().to_string()]);
    attach.until("three intervals", |r| r.of("interval").count() >= 3);
    let records = attach.stop();
    sleeper.kill().expect("kill");
    sleeper.wait().expect("wait");
    records.assert_reconciled();
    assert!(has_flag(records.profiles()[0], "attach"));
}

#[test]
fn too_often_is_refused_and_often_is_warned_about() {
    let output = command("run").args(["-I", "9", "--", "true"]).output().expect("prof");
    assert_eq!(output.status.code(), Some(2));
    let Some(_turn) = live("-I warning") else { return };
    let output = command("run").args(["-I", "20", "--", "true"]).output().expect("prof");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("more often than every 100 ms"), "{text}");
}
