//! Recordings: written as they are made, read whatever became of them; and what is counted
//! beside the samples.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use prof::stacks::raw;
use prof_model::stacks::StackProfile;

use crate::harness::*;
use crate::stacks::run_stacks;
use crate::stacks::taken;
use crate::stacks::target_str;

/// `prof report`: what it printed, and what it said.
fn report(file: &Path, args: &[&str]) -> (String, String) {
    let out = Command::new(prof()).arg("report").arg(file).args(args).output().expect("prof");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    (String::from_utf8_lossy(&out.stdout).into_owned(), said)
}

#[test]
fn one_that_is_killed_has_what_came_before() {
    let Some(_turn) = live("a recording that is killed") else { return };
    if !taken("a recording that is killed") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x.stacks");
    let mut prof = command("record")
        .args(["-o", &format!("raw:{}", file.display()), "--", target_str(), "burn", "60000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prof record");
    let began = Instant::now();
    let is_far = |p: &StackProfile| p.duration_ns > 1_500_000_000 && p.samples.len() > 20;
    let before = loop {
        // What is being written can be read.
        if let Some(p) = raw::read(&file).ok().filter(is_far) {
            break p;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "nothing was written");
        thread::sleep(Duration::from_millis(50));
    };
    prof.kill().expect("kill");
    prof.wait().expect("prof");
    let after = raw::read(&file).expect("a recording");
    for pid in after.processes.iter().map(|p| p.pid).collect::<std::collections::BTreeSet<_>>() {
        signal(pid, libc::SIGKILL);
    }
    assert!(after.ended_early && after.samples.len() >= before.samples.len());
    assert_eq!(after.samples[..before.samples.len()], before.samples);
    let whole = after.samples.iter().filter(|s| s.whole.is_whole()).count();
    assert!(whole * 10 > after.samples.len() * 9, "{whole} of {}", after.samples.len());
    let (text, said) = report(&file, &[]);
    assert!(text.contains("prof_target::") && text.contains("has no end"), "{text}");
    assert!(said.contains("it has no end"), "{said}");

    // Of one that ended nothing of that is said.
    let ended = run_stacks(&[], &[target_str(), "burn", "50"]);
    assert!(!ended.profile.ended_early);
}

#[test]
fn what_is_full_keeps_what_it_has() {
    let Some(_turn) = live("a recording without room") else { return };
    if !taken("a recording without room") || emulated("a file system of its own") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=16k", "tmpfs"])
        .arg(dir.path())
        .status()
        .expect("mount");
    assert!(mount.success());
    let file = dir.path().join("x.stacks");
    let output = command("record")
        .args(["-F", "8000", "-o", &format!("raw:{}", file.display())])
        .args(["--", target_str(), "burn", "3000"])
        .output()
        .expect("prof record");
    let read = raw::read(&file);
    let umount = Command::new("umount").arg(dir.path()).status().expect("umount");
    assert!(umount.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left") && said.contains("can be read"), "{said}");
    let profile = read.expect("what was written");
    assert!(profile.ended_early && !profile.samples.is_empty());
}

#[test]
fn what_is_counted_is_kept_with_the_samples_of_each_process() {
    let Some(_turn) = live("counters beside samples") else { return };
    if !taken("counters beside samples") {
        return;
    }
    // The second process is too short for a sample.
    let script = format!("{} burn 50; true", target_str());
    let stacks =
        run_stacks(&["-e", "page-faults,context-switches:u,peak-rss"], &["sh", "-c", &script]);
    let p = &stacks.profile;
    let names: Vec<&str> = p.counters.iter().map(|c| c.name.as_str()).collect();
    for name in ["page-faults", "context-switches:u", "peak-rss"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let at = names.iter().position(|n| *n == "page-faults").expect("faults");
    let profiles = stacks.run.records.profiles();
    let told: u64 = profiles.iter().map(|p| figure(p, "page-faults")).sum();
    assert_eq!(p.counts.iter().filter_map(|c| c.values[at]).sum::<u64>(), told);
    assert_eq!(p.counts.len(), profiles.len());
    // Nobody asked for those that are counted anyway.
    assert!(run_stacks(&[], &["true"]).profile.counters.is_empty());
}

#[test]
fn two_outputs_to_one_file_are_refused() {
    let Some(_turn) = live("two outputs to one file") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x");
    let to = |format: &str| format!("{format}:{}", file.display());
    for second in ["pprof", "json"] {
        let output = command("run")
            .args(["-o", &to("raw"), "-o", &to(second), "--", "true"])
            .output()
            .expect("prof");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("two outputs to"), "{said}");
        assert!(fs::metadata(&file).is_err(), "{second}");
    }
}

#[test]
fn text_has_as_much_as_is_asked_for() {
    let Some(_turn) = live("text to no terminal") else { return };
    if !taken("text to no terminal") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x.stacks");
    let to = format!("raw:{}", file.display());
    run(&["-o", &to], &[target_str(), "burn", "50"]);
    let all = ["--percent-limit", "0", "--top", "0"];
    let (text, _) = report(&file, &all);
    assert!(text.contains("prof_target::main") && !text.contains('…'), "{text}");
    let (one, _) = report(&file, &[&all[..], &["--tree-depth", "1"]].concat());
    assert!(one.contains(" more\n") && one.lines().count() < text.lines().count(), "{one}");
    let out = Command::new(prof()).args(["report", "--percent-limit", "101"]).output();
    assert_eq!(out.expect("prof").status.code(), Some(2));

    // It may come by a pipe, and where there is none it is said how to make one.
    let mut report = Command::new(prof());
    report.args(["report", "-"]).args(all).stdin(fs::File::open(&file).expect("a recording"));
    assert_eq!(String::from_utf8_lossy(&report.output().expect("prof").stdout), text);
    let out = Command::new(prof()).arg("report").current_dir(&dir).output().expect("prof");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && said.contains("prof record -- CMD"), "{said}");
}
