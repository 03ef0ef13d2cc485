//! A command several times.

use serde_json::Value;

use crate::harness::*;

/// The streams of the runs, and the record after them.
fn runs(records: &Records) -> (Vec<Records>, Option<Value>) {
    let mut all = Vec::new();
    let mut together = None;
    for r in &records.0 {
        assert!(together.is_none(), "nothing after it: {r}");
        match r["record"].as_str() {
            Some("header") => all.push(Records(vec![r.clone()])),
            Some("repeat") => together = Some(r.clone()),
            _ => all.last_mut().expect("a header first").0.push(r.clone()),
        }
    }
    (all, together)
}

#[test]
fn each_run_is_a_whole_measurement_and_the_last_record_is_of_all() {
    let Some(_turn) = live("-r") else { return };
    let run = run_target(&["-r", "4", "-e", "+page-faults"], &["burn", "20"]);
    assert!(run.output.status.success());
    let (runs, together) = runs(&run.records);
    assert_eq!(runs.len(), 4);
    let mut faults = Vec::new();
    for (number, r) in (1..).zip(&runs) {
        r.assert_whole();
        assert_eq!(r.0[0]["repetition"], number);
        assert_eq!(r.0[0]["repetitions"], 4);
        assert_eq!(r.end()["repetition"], number);
        assert_eq!(r.profiles().len(), 1);
        faults.push(r.end()["totals"]["page-faults"]["value"].as_f64().expect("a figure"));
    }
    let together = together.expect("a repeat record");
    assert_eq!(together["repetitions"], 4);
    assert_eq!(together["failed"], 0);
    let spread = &together["figures"]["page-faults"];
    let mean = faults.iter().sum::<f64>() / 4.0;
    assert!((spread["mean"].as_f64().expect("a mean") - mean).abs() < 1e-6, "{spread} {faults:?}");
    assert_eq!(spread["over"], 4);
    let elapsed = together["elapsed"]["min"].as_f64().expect("a time");
    // What it burns begins with its fork, which is before its exec.
    assert!(emulated("20 ms") || elapsed >= 18e6, "{together}");
    // The command, and not the start of prof.
    let clock = together["figures"]["task-clock"]["mean"].as_f64().expect("a mean");
    assert!(emulated("20 ms of a CPU") || clock >= 18e6, "{together}");
}

#[test]
fn what_it_writes_follows_the_schema() {
    let Some(_turn) = live("-r and the schema") else { return };
    let schema = include_str!("../../../../docs/schema/prof-records.schema.json");
    let schema: Value = serde_json::from_str(schema).expect("the schema");
    let validator = jsonschema::validator_for(&schema).expect("a valid schema");
    for options in [&["-r", "2"][..], &["-r", "1"], &["-r", "2", "--unprivileged"]] {
        let run = run_target(options, &["exit", "0"]);
        let (runs, together) = runs(&run.records);
        assert!(!runs.is_empty() && together.is_some(), "{options:?}");
        for r in &run.records.0 {
            if let Err(e) = validator.validate(r) {
                panic!("{e}\n{r}");
            }
        }
    }
}

#[test]
fn a_failure_ends_the_series_unless_it_is_to_be_ignored() {
    let Some(_turn) = live("-r and failures") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    // Fails in the second run and in those that follow.
    let script = format!(
        "d={}; test -e $d/b && exit 5; test -e $d/a && {{ touch $d/b; exit 3; }}; touch $d/a",
        dir.path().display()
    );
    let clean = || {
        for name in ["a", "b"] {
            let _ = std::fs::remove_file(dir.path().join(name));
        }
    };
    let first = run(&["-r", "4"], &["sh", "-c", &script]);
    assert_eq!(first.output.status.code(), Some(3));
    let (streams, together) = runs(&first.records);
    assert_eq!(streams.len(), 2, "the failed one is in the stream");
    let together = together.expect("a repeat record");
    assert_eq!((&together["asked"], &together["repetitions"]), (&4.into(), &1.into()));
    assert!(String::from_utf8_lossy(&first.output.stderr).contains("run 2 of 4 failed"));

    clean();
    let all = run(&["-r", "4", "--ignore-failure"], &["sh", "-c", &script]);
    assert_eq!(all.output.status.code(), Some(3), "that of the first that failed");
    let (streams, together) = runs(&all.records);
    assert_eq!(streams.len(), 4);
    let together = together.expect("a repeat record");
    assert_eq!((&together["repetitions"], &together["failed"]), (&4.into(), &3.into()));
}

#[test]
fn the_summary_shows_the_spread_and_what_to_doubt() {
    let Some(_turn) = live("-r, summary") else { return };
    let summary = || {
        let output = command("run").args(["-r", "3", "--", "true"]).output().expect("prof");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = summary();
    assert!(text.contains("Performance of 'true', 3 runs:"), "{text}");
    assert!(text.contains("time elapsed") && text.contains("± SD"), "{text}");
    assert!(text.contains("enabled 3 = disabled 3 + running 0 + lost 0"), "{text}");
    assert!(!text.contains('\r') && !text.contains("run 1 of 3"), "no terminal: {text}");
    if !emulated("5 ms") {
        once("a note of runs this short", || {
            let text = summary();
            if text.contains("less than 5 ms") { Ok(()) } else { Err(text) }
        });
    }
}

#[test]
fn all_runs_together_may_take_so_long() {
    let Some(_turn) = live("-r with --duration") else { return };
    let run = run_target(&["-r", "1000", "--duration", "1s"], &["sleep", "100"]);
    let (streams, together) = runs(&run.records);
    let together = together.expect("a repeat record");
    let n = together["repetitions"].as_u64().expect("a number");
    assert!((1..=10).contains(&n), "{together}");
    assert!(streams.len() as u64 - n <= 1, "one was cut short at most");
}

#[test]
fn each_run_ignores_the_signals_that_prof_was_told_to_ignore() {
    let Some(_turn) = live("-r under nohup") else { return };
    let script = "trap '' HUP; exec \"$@\"";
    let ignored = |mut c: std::process::Command| {
        let output = c.output().expect("a shell");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // But for the two that the C library keeps for itself.
        let mask = |l: &str| u64::from_str_radix(l.trim(), 16).expect("a mask") & 0x7fff_ffff;
        text.lines().filter_map(|l| l.strip_prefix("SigIgn:")).map(mask).collect::<Vec<_>>()
    };
    let cat = ["cat", "/proc/self/status"];
    let mut alone = std::process::Command::new("sh");
    alone.args(["-c", script, "sh"]).args(cat);
    let prof = command("run");
    let mut under = std::process::Command::new("sh");
    under
        .args(["-c", script, "sh"])
        .arg(prof.get_program())
        .args(["run", "-r", "3", "--"])
        .args(cat);
    for (key, value) in prof.get_envs() {
        under.env(key, value.expect("a value"));
    }
    let alone = ignored(alone);
    assert_eq!(alone.len(), 1);
    assert_eq!(ignored(under), [alone[0]; 3]);
}

#[test]
fn ctrl_c_ends_the_series_with_what_there_is() {
    let Some(_turn) = live("-r and Ctrl-C") else { return };
    use std::os::unix::process::CommandExt as _;
    let dir = tempfile::tempdir().expect("a folder");
    let json = dir.path().join("out.json");
    let mut child = command("run")
        .args(["-r", "1000", "-o", &format!("json:{}", json.display()), "--"])
        .arg(target())
        .args(["sleep", "200"])
        .process_group(0)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("prof");
    let began = std::time::Instant::now();
    while std::fs::read_to_string(&json).map_or(0, |t| t.matches("\"end\",").count()) < 2 {
        assert!(began.elapsed().as_secs() < 60, "never came so far");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // SAFETY: takes numbers only.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGINT) };
    let status = child.wait().expect("prof");
    // Of the command, if it ran just then.
    assert!(matches!(status.code(), Some(0) | Some(130)), "{status}");
    let (streams, together) = runs(&Records::read(&json));
    let n = together.expect("a repeat record")["repetitions"].as_u64().expect("a number");
    let enough = emulated("two runs") || n >= 2;
    assert!(enough && streams.len() as u64 - n <= 1, "{n} of {}", streams.len());
}
