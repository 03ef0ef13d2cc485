//! A program that switches its own profiling off and on.

use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::*;

/// Faults of a window that are not of the work in it.
const STRAY_FAULTS: u64 = 12;

fn act(options: &[&str], steps: &str) -> Run {
    let steps: Vec<_> = std::iter::once("act").chain(steps.split(' ')).collect();
    let run = run_target(options, &steps);
    assert!(run.output.status.success(), "{steps:?}: {:?}", run.output);
    run
}

/// What ended the windows; before 6.16 an exit is told after the memory was given up.
fn ends(records: &Records) -> Vec<&str> {
    let ends = records.of("profile").map(|p| p["window"]["end"].as_str().expect("an end"));
    ends.map(|end| if end == "exit_after_mm" { "exit" } else { end }).collect()
}

fn starts(records: &Records) -> Vec<&str> {
    records.profiles().iter().map(|p| p["window"]["start"].as_str().expect("a start")).collect()
}

/// Whether this kernel has the iterator over the threads of a process.
fn switches_threads() -> bool {
    linux() >= (6, 7)
}

#[test]
fn figures_are_of_the_time_in_which_it_is_on() {
    let Some(_turn) = live("a program's switch") else { return };
    let run = act(
        &["-e", "task-clock,minor-faults,minor-faults:uk,wall-time"],
        "faults 300 disable faults 2000 burn 60 enable faults 200 disable burn 60 enable faults 100",
    );
    run.records.assert_whole();
    assert_eq!(ends(&run.records), ["request", "request", "exit"]);
    assert_eq!(starts(&run.records)[1..], ["attach", "attach"]);
    let profiles = run.records.profiles();
    for (p, (least, most)) in profiles.iter().zip([(300, 500), (200, 250), (100, 200)]) {
        let faults = figure(p, "minor-faults");
        assert!((least..most).contains(&faults), "{faults} for {least}: {p}");
        // What `execve` faults in without registers is no event.
        let counted = figure(p, "minor-faults:uk");
        assert!(faults.abs_diff(counted) <= 8, "{faults} {counted}");
        // Neither of the two times that it was off.
        assert!(figure(p, "task-clock") < 50_000_000, "{p}");
    }
    assert_eq!(figure(profiles[1], "minor-faults"), figure(profiles[1], "minor-faults:uk"));
    let total = run.records.end()["totals"]["minor-faults"]["value"].as_u64();
    let sum = profiles.iter().map(|p| figure(p, "minor-faults")).sum::<u64>();
    assert_eq!(total, Some(sum));
}

#[test]
fn each_switch_is_an_event_by_request_and_the_process_is_told_as_before() {
    let Some(_turn) = live("events of switches") else { return };
    let run = act(&[], "disable disable enable enable");
    run.records.assert_whole();
    let told: Vec<_> = run.records.of("prof").map(|p| p["flags"].to_string()).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    // Without a tick there is no user and no system time.
    assert!([r#"["request"]"#, r#"["request","partial"]"#].contains(&&*told[1]), "{told:?}");
    assert_eq!(told[2], r#"["enable","request","attach"]"#);
    let of = |key: &str| -> Vec<Value> {
        run.records.of("prof").map(|p| p["process"][key].clone()).collect()
    };
    for key in ["pid", "start_ns", "exec", "exe", "args", "comm"] {
        let all = of(key);
        assert!(all.iter().all(|v| *v == all[0]), "{key}: {all:?}");
    }
    assert!(of("exe")[0].as_str().is_some_and(|exe| exe.ends_with("prof-target")));
    assert!(run.records.of("prof").all(|p| p["rules"] == serde_json::json!(["run"])));
    let hooks: Vec<_> = run.records.of("prof").map(|p| p["hook"].clone()).collect();
    assert_eq!(hooks[1..3], ["probe", "probe"]);
}

#[test]
fn one_that_ends_switched_off_is_whole() {
    let Some(_turn) = live("exit while off") else { return };
    let run = act(&[], "faults 100 disable faults 1000 exit 0");
    run.records.assert_whole();
    assert_eq!(ends(&run.records), ["request"]);
    assert!(figure(run.records.profiles()[0], "minor-faults") < 400);
}

#[test]
fn what_it_executes_next_is_profiled_again_and_so_is_its_child() {
    let Some(_turn) = live("exec and fork while off") else { return };
    let own = target().to_str().expect("a path");
    let run = act(&[], &format!("disable fork [ faults 50 ] faults 800 exec {own} act faults 70"));
    run.records.assert_whole();
    let mut ends = ends(&run.records);
    ends.sort_unstable();
    assert_eq!(ends, ["exit", "exit", "request"]);
    for p in run.records.profiles() {
        assert!(figure(p, "minor-faults") < 500, "{p}");
    }
}

#[test]
fn all_threads_are_switched() {
    let Some(_turn) = live("switch with threads") else { return };
    // One works throughout; others come and go while it is off, and while it is on.
    let run = act(
        &["-e", "task-clock,minor-faults,minor-faults:uk,threads"],
        "both [ faults 100 sleep 1000 faults 3000 sleep 1000 faults 50 ] \
         [ sleep 500 disable threads 2 [ faults 500 ] sleep 1000 enable threads 2 [ faults 30 ] ]",
    );
    if !switches_threads() {
        assert_eq!(run.records.end()["lost"]["switch_not_done"], 1);
        return;
    }
    run.records.assert_whole();
    assert_eq!(ends(&run.records), ["request", "exit"]);
    let profiles = run.records.profiles();
    for (p, pages) in profiles.iter().zip([100, 50 + 60]) {
        for name in ["minor-faults", "minor-faults:uk"] {
            let n = figure(p, name);
            assert!((pages..pages + 200).contains(&n), "{name}: {n} for {pages}: {p}");
        }
    }
}

#[test]
fn regions_are_of_the_window_in_which_they_began() {
    let Some(_turn) = live("regions and switches") else { return };
    let run = act(
        &[],
        "begin a faults 20 end begin cut faults 10 disable begin off faults 30 end enable \
         begin b faults 40 end end begin a faults 50 end",
    );
    run.records.assert_whole();
    let profiles = run.records.profiles();
    let names = |p: &Value| -> Vec<(String, u64, u64)> {
        let all = p["regions"].as_array().expect("regions");
        let n = |r: &Value, k: &str| r[k].as_u64().expect("a number");
        all.iter()
            .map(|r| (r["name"].as_str().expect("a name").into(), n(r, "begun"), n(r, "ended")))
            .collect()
    };
    assert_eq!(names(profiles[0]), [("a".into(), 1, 1), ("cut".into(), 1, 0)]);
    assert_eq!(names(profiles[1]), [("b".into(), 1, 1), ("a".into(), 1, 1)]);
    let faults = figure(&profiles[1]["regions"][1], "minor-faults");
    assert!((50..=50 + STRAY_FAULTS).contains(&faults), "{faults}");
}

#[test]
fn a_process_that_is_attached_to_switches_itself() {
    let Some(_turn) = live("switches, attach") else { return };
    if emulated("switches, attach: attaching takes longer than it waits") {
        return;
    }
    let mut child = Command::new(target())
        .args(
            "act faults 500 sleep 1500 faults 20 disable faults 900 sleep 500 enable faults 30"
                .split(' '),
        )
        .stdout(Stdio::null())
        .spawn()
        .expect("prof-target");
    let records = Watch::verb("attach", &["-e", "minor-faults", &child.id().to_string()]).wait();
    child.wait().expect("prof-target");
    records.assert_reconciled();
    assert_eq!(ends(&records), ["request", "exit"]);
    for (p, pages) in records.profiles().iter().zip([20, 30]) {
        let faults = figure(p, "minor-faults");
        assert!((pages..pages + 100).contains(&faults), "{faults} for {pages}: {p}");
    }
}

#[test]
fn one_that_switches_all_the_time_does_not_fill_the_buffer_of_others() {
    let Some(_turn) = live("many switches") else { return };
    let run =
        act(&["--buffer", "64K", "-o", "summary"], "times 20000 [ disable enable ] faults 100");
    let end = run.records.end();
    // All that was done is told, and what was not is counted: nothing else is lost.
    run.records.assert_reconciled();
    let lost = end["lost"].as_object().expect("an object");
    assert!(lost.keys().all(|k| k == "switch_not_done"), "{end}");
    let not_done = end["lost"]["switch_not_done"].as_u64().unwrap_or(0);
    let done = run.records.of("prof").filter(|p| p["hook"] == "probe" && !has_flag(p, "enable"));
    assert_eq!(done.count() as u64 + not_done, 20_000);
    assert_eq!(ends(&run.records).last(), Some(&"exit"));
}
