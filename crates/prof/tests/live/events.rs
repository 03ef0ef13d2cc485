//! What is said of events: by `prof events`, by the errors of `-e`, `--filter` and `--sort`,
//! and by the limits of `--keep-going`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::process::Output;

use serde_json::Value;

use crate::harness::*;

const NOBODY: u32 = 65534;

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `prof run` says, and its status, where it starts nothing.
fn refused(options: &[&str]) -> (i32, String) {
    let output = command("run").args(options).args(["--", "true"]).output().expect("prof");
    (output.status.code().expect("a status"), stderr(&output))
}

/// Lines of `prof events --format json`.
fn listed(pattern: &[&str]) -> Vec<Value> {
    let output = Command::new(prof())
        .args(["events", "--format", "json"])
        .args(pattern)
        .output()
        .expect("prof");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|l| serde_json::from_str(l).expect("an object")).collect()
}

#[test]
fn a_filter_that_cannot_be_is_told_with_the_fields() {
    let Some(_turn) = live("filters") else { return };
    let (code, text) = refused(&["-e", "sched:sched_wakeup", "--filter", "prioo > 1"]);
    assert_eq!(code, 2, "{text}");
    for part in ["sched:sched_wakeup", "no field 'prioo'; did you mean prio?", "\n  ^^^^^\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("target_cpu"), "{text}");
    let (code, text) = refused(&["-e", "sched:sched_wakeup", "--filter", "prio ~ 1"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("Invalid argument") && text.contains("target_cpu"), "{text}");
}

#[test]
fn what_this_machine_lacks_is_named_and_how_to_go_on() {
    let Some(_turn) = live("--keep-going") else { return };
    let list = "nosuch_pmu/foo/,cylces,page-faults";
    let output = command("run")
        .args(["--keep-going", "-o", "summary", "-e", list, "--", "true"])
        .output()
        .expect("prof");
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    let limits: Vec<_> = text.split("limit: ").skip(1).collect();
    assert!(limits.iter().any(|l| l.starts_with("nosuch_pmu/foo/: no PMU")), "{text}");
    assert!(limits.iter().any(|l| l.contains("'cylces'; did you mean cycles?")), "{text}");

    let (code, text) = refused(&["-e", "nosuch_pmu/foo/"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("--keep-going"), "{text}");
    // A slip is not for that.
    assert!(!refused(&["-e", "cylces"]).1.contains("--keep-going"));
    let (_, text) = refused(&["-e", "stalled-cycles"]);
    assert!(text.contains("stalled-cycles-backend or stalled-cycles-frontend"), "{text}");
}

#[test]
fn what_cannot_be_sorted_by_is_bad_usage() {
    let Some(_turn) = live("--sort") else { return };
    let (code, text) = refused(&["--sort", "tsk-clock"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("did you mean task-clock?"), "{text}");
    let (code, text) = refused(&["-e", "cpus-utilized", "--sort", "ipc"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("task-clock, cpus-utilized"), "{text}");
}

#[test]
fn processes_are_sorted_by_what_is_computed() {
    let Some(_turn) = live("--sort by a metric") else { return };
    let options = ["-e", "task-clock,wall-time,cpus-utilized", "--sort", "cpus-utilized"];
    let target = target().display().to_string();
    // The shell waits most of its time, and has the longest.
    let script = format!("{target} burn 100; sleep 1");
    let output = command("run")
        .args(options)
        .args(["-o", "summary", "--", "sh", "-c", &script])
        .output()
        .expect("prof");
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    let mut rows = text.lines().skip_while(|l| !l.starts_with("PROCESS"));
    assert!(rows.next().is_some_and(|head| head.contains("CPUS-UTILIZED")), "{text}");
    assert!(rows.next().is_some_and(|first| first.starts_with("prof-target burn")), "{text}");
}

#[test]
fn who_has_the_privileges_is_not_told_to_get_them() {
    let Some(_turn) = live("refusals") else { return };
    // The tracepoint of functions, which the kernel lets nobody count like this.
    let (code, text) = refused(&["-e", "tracepoint/config=1/"]);
    if code == 0 {
        eprintln!("SKIPPED refusals: this kernel has another tracepoint of that number");
        return;
    }
    assert_eq!(code, 1, "{text}");
    assert!(!text.contains("CAP_PERFMON"), "{text}");
}

#[test]
fn names_overwrite_no_figure_and_carry_no_escapes() {
    let Some(_turn) = live("names") else { return };
    let list = "page-faults/name=task-clock/,page-faults/name=a\u{1b}[31mb/,task-clock";
    let run = run(&["-e", list, "-o", "summary"], &["true"]);
    let profiles = run.records.profiles();
    assert_eq!(profiles[0]["figures"]["task-clock"]["unit"], "ns");
    assert_eq!(profiles[0]["figures"]["task-clock#2"]["unit"], "count");
    assert!(!stderr(&run.output).contains('\u{1b}'), "{}", stderr(&run.output));
}

#[test]
fn ids_are_those_of_the_stream() {
    let Some(_turn) = live("ids") else { return };
    let events = listed(&["sched:sched_switch"]);
    let [listed_one] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(listed_one["works"], true);
    let about = listed_one["about"].as_str().expect("text");
    assert!(about.contains("prev_comm") && about.contains("next_pid"), "{about}");
    let run = run(&["-e", "sched:sched_switch"], &["true"]);
    let header = run.records.of("header").next().expect("a header");
    assert_eq!(header["events"][0]["name"], "sched:sched_switch");
    assert_eq!(header["events"][0]["id"], listed_one["id"]);

    let all = listed(&[]);
    let of = |kind: &'static str| all.iter().filter(move |e| e["kind"] == kind);
    assert!(of("tracepoint").count() > 100);
    assert!(of("tracepoint").all(|e| e["id"].is_u64()));
    assert!(of("tracepoint").all(|e| e["reason"].as_str().is_some_and(|r| r.contains("pattern"))));
    assert!(of("pmu").filter(|e| e["works"] == true).all(|e| e["id"].is_u64()));
}

#[test]
fn who_may_not_read_tracepoints_is_told_so_and_the_cure() {
    let Some(_turn) = live("an ordinary user") else { return };
    let dir = tempfile::tempdir_in("/tmp").expect("a folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    let ours = dir.path().join("prof");
    fs::copy(prof(), &ours).expect("a copy");
    let said = |args: &[&str]| {
        let mut command = Command::new(&ours);
        command.arg("events").args(args).uid(NOBODY).gid(NOBODY).output().expect("prof")
    };
    let output = said(&["sched:*"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("tracepoints cannot be read: "), "{text}");
    assert!(text.contains("Permission denied") && text.contains("CAP_DAC_READ_SEARCH"), "{text}");
    assert!(!text.contains("no event is named") && !text.contains("\\x0a"), "{text}");
    let output = said(&["sched:*", "--format", "json"]);
    assert!(output.stdout.is_empty());
    assert!(stderr(&output).contains("tracepoints cannot be read"), "{}", stderr(&output));
}

#[test]
fn columns_says_how_wide_it_is_where_there_is_no_terminal() {
    let Some(_turn) = live("columns") else { return };
    let list = "user-time,system-time,page-faults,minor-faults,read-bytes,sched:sched_switch";
    let at = |columns: &str| {
        let output = command("run")
            .args(["-o", "summary", "-e", list, "--", "true"])
            .env("COLUMNS", columns)
            .output()
            .expect("prof");
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    assert!(at("200").contains("READ-BYTES") && !at("200").contains("no column"), "{}", at("200"));
    let narrow = at("60");
    assert!(narrow.contains("note: no column for "), "{narrow}");
    let heads = narrow.lines().find(|l| l.starts_with("PROCESS")).expect("heads");
    assert!(heads.chars().count() <= 60, "{narrow}");
}
