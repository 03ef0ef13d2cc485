//! The command line: its errors, its outputs, how it ends.

use std::fs;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::*;

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn real_output_follows_the_schema() {
    let Some(_turn) = live("schema") else { return };
    let schema = include_str!("../../../../docs/schema/prof-records.schema.json");
    let schema: Value = serde_json::from_str(schema).expect("the schema");
    let validator = jsonschema::validator_for(&schema).expect("a valid schema");
    let dir = tempfile::tempdir().expect("a folder");
    let mut all = Vec::new();
    for (options, args) in [
        (vec![], vec!["fork", "@self", "exit", "0"]),
        (vec!["--per-thread"], vec!["threads", "5", "10"]),
        (vec![], vec!["kill", "KILL"]),
        (vec!["--max-processes", "1"], vec!["fork", "@self", "exit", "0"]),
        (vec![], vec!["die-in-exec", dir.path().to_str().expect("a path")]),
        (vec!["--unprivileged"], vec!["burn", "20"]),
        (vec!["-I", "50", "-e", "default,cpu-clock"], vec!["burn", "200"]),
    ] {
        all.extend(run_target(&options, &args).records.0);
    }
    let kinds = ["header", "prof", "profile", "loss", "interval", "end"];
    for kind in kinds {
        assert!(all.iter().any(|r| r["record"] == kind), "no {kind} among them");
    }
    for end in all.iter().filter(|r| r["record"] == "end") {
        let execs = &end["execs"];
        assert_eq!(execs["kernel"].is_null(), execs["absent"].is_string(), "{execs}");
    }
    for r in &all {
        if let Err(e) = validator.validate(r) {
            panic!("{e}\n{r}");
        }
    }
}

#[test]
fn names_from_the_target_are_escaped() {
    let Some(_turn) = live("hostile names") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let name = std::ffi::OsString::from_vec(b"\x1b[31m\xff\n".to_vec());
    use std::os::unix::ffi::OsStringExt as _;
    let program = dir.path().join(name);
    fs::copy(target(), &program).expect("a copy");
    let output = command("run")
        .args(["-o", "json", "--"])
        .arg(&program)
        .args(["exit", "0"])
        .output()
        .expect("prof");
    // Every line is JSON, whatever the name: else this panics.
    let records = Records::parse(&stderr(&output));
    let comm = records.profiles()[0]["process"]["comm"].as_str().expect("a name").to_owned();
    assert_eq!(comm, "\x1b[31m\\xff\n");
    let output = command("run").arg("--").arg(&program).args(["exit", "0"]).output().expect("prof");
    let text = stderr(&output);
    assert!(!text.contains('\x1b'), "{text}");
    assert!(text.contains("\\x1b[31m"), "{text}");
}

#[test]
fn tracee_output_is_what_a_reader_of_tracee_expects() {
    let Some(_turn) = live("tracee output") else { return };
    let output = command("run")
        .args(["-o", "tracee", "--"])
        .arg(target())
        .args(["exit", "0"])
        .output()
        .expect("prof");
    let events = Records::parse(&stderr(&output)).0;
    assert_eq!(events.len(), 2, "on and off");
    for e in &events {
        assert_eq!(e["eventName"], "prof");
        assert_eq!(e["args"][0]["name"], "FLAGS");
        assert_eq!(e["args"][0]["type"], "unsigned long");
        assert_eq!(e["args"][1]["name"], "EVENTS");
        assert_eq!(e["processName"], "prof-target");
        assert_eq!(e["matchedPolicies"][0], "run");
    }
    assert_eq!(events[0]["args"][0]["value"], 0x3);
}

#[test]
fn a_wrong_event_is_shown_with_a_caret() {
    let output = command("run").args(["-e", "cs,page-falts", "--", "true"]).output().expect("prof");
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("page-faults") && text.contains("^^^^^^^^^^"), "{text}");
}

#[test]
fn a_wrong_rule_is_shown_with_a_caret() {
    let output = command("watch").args(["-s", "com=x"]).output().expect("prof");
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("comm") && text.contains("^^^"), "{text}");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("rules");
    fs::write(&file, "# fine\nok: comm=x\nbad: exe=relative\n").expect("a file");
    let output = command("watch").arg("--rules").arg(&file).output().expect("prof");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains(":3") && text.contains('^'), "{text}");
}

/// What only the host knows of is shown as what is wrong with the text.
#[test]
fn a_rule_about_nobody_is_shown_with_a_caret() {
    let refused = |verb: &str, options: &[&str]| {
        let output = command(verb).args(options).output().expect("prof");
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        text
    };
    // No process has a larger id than this.
    let text = refused("watch", &["-s", "comm=x tree=4194305"]);
    assert!(text.contains("comm=x tree=4194305\n              ^^^^^^^\n"), "{text}");
    let text = refused("run", &["-s", "tree=1 comm=x", "--", "true"]);
    assert!(text.contains("within the tree of its command"), "{text}");
    assert!(text.contains("  tree=1 comm=x\n  ^^^^^^\n"), "{text}");
    let text = refused("run", &["-s", "uid=no-such-user", "--", "true"]);
    assert!(text.contains("  uid=no-such-user\n      ^^^^"), "{text}");
}

#[test]
fn a_command_that_is_not_there() {
    let output = command("run").args(["--", "no-such-command-here"]).output().expect("prof");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no-such-command-here: command not found"));
}

#[test]
fn a_script_whose_interpreter_is_not_there() {
    let Some(_turn) = live("a bad interpreter") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let script = dir.path().join("script");
    for (line, named) in [
        ("#!/opt/no such -x\n", "/script: bad interpreter: /opt/no: No such file"),
        ("#!/bin/sh\r\n", "/script: bad interpreter: /bin/sh (its line ends as on Windows"),
        ("#!/proc/self/status\n", "/script: bad interpreter: /proc/self/status: Permission denied"),
    ] {
        fs::write(&script, line).expect("a script");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&script, executable).expect("chmod");
        let output = command("run").arg("--").arg(&script).output().expect("prof");
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(named), "{text}");
    }
}

#[test]
fn the_output_of_the_command_stays_clean() {
    let Some(_turn) = live("clean output") else { return };
    let output = command("run").args(["--", "echo", "hello"]).output().expect("prof");
    assert_eq!(output.stdout, b"hello\n");
    assert!(stderr(&output).contains("Performance of 'echo hello'"), "{}", stderr(&output));
}

#[test]
fn ctrl_c_ends_with_full_results() {
    let Some(_turn) = live("Ctrl-C") else { return };
    use std::os::unix::process::CommandExt as _;
    let dir = tempfile::tempdir().expect("a folder");
    let json = dir.path().join("out.json");
    // A group of its own, as a shell gives a foreground job.
    let mut child = command("run")
        .args(["-o", &format!("json:{}", json.display()), "--"])
        .arg(target())
        .args(["sleep", "60000"])
        .process_group(0)
        .stdout(Stdio::null())
        .spawn()
        .expect("prof");
    let began = std::time::Instant::now();
    while !fs::read_to_string(&json).is_ok_and(|t| t.contains("\"enable\"")) {
        assert!(began.elapsed().as_secs() < 60, "never began");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // SAFETY: takes numbers only.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGINT) };
    let status = child.wait().expect("prof");
    assert_eq!(status.code(), Some(128 + libc::SIGINT), "the command's own end");
    let records = Records::read(&json);
    assert_eq!(records.profiles()[0]["exit"]["signal"], libc::SIGINT);
    records.assert_whole();
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let Some(_turn) = live("closed pipe") else { return };
    let mut child = command("watch")
        .args(["-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("prof");
    drop(child.stdout.take());
    let began = std::time::Instant::now();
    // Each event is one more write to nobody.
    let status = loop {
        target_output(&["exit", "0"]);
        if let Some(status) = child.try_wait().expect("prof") {
            break status;
        }
        assert!(began.elapsed().as_secs() < 60, "does not notice");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert!(status.success());
    let output = child.wait_with_output().expect("prof");
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_full_disk_is_an_error_and_what_was_written_is_whole() {
    let Some(_turn) = live("full disk") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=16k", "tmpfs"])
        .arg(dir.path())
        .status()
        .expect("mount");
    assert!(mounted.success());
    let file = dir.path().join("out.json");
    let second = tempfile::tempdir().expect("a folder");
    let other = second.path().join("other.json");
    let output = command("run")
        .args(["-o", &format!("json:{}", file.display())])
        .args(["-o", &format!("json:{}", other.display()), "--"])
        .arg(target())
        .args(["storm", "50"])
        .output()
        .expect("prof");
    let text = fs::read_to_string(&file).expect("what was written");
    assert!(Command::new("umount").arg(dir.path()).status().expect("umount").success());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("No space left") && said.contains("out.json"), "{said}");
    // Whole lines up to where the disk was full, and the other output complete.
    assert!(text.ends_with('\n'), "{text}");
    assert!(Records::parse(&text).of("header").count() == 1);
    Records::read(&other).assert_whole();
}

#[test]
fn what_cannot_be_said_ends_nothing() {
    let Some(_turn) = live("a full standard error") else { return };
    let full = || fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let ends = |cmd: &mut Command| cmd.stderr(full()).status().expect("prof").code();
    assert_eq!(ends(command("run").arg("--").arg(target()).args(["exit", "3"])), Some(3));
    assert_eq!(ends(command("run").args(["--", "/nonexistent"])), Some(1));
    assert_eq!(ends(command("watch").args(["-s", "nonsense=1"])), Some(2));
}

#[test]
fn a_full_standard_output_is_named() {
    let Some(_turn) = live("a full standard output") else { return };
    for args in [&["doctor"][..], &["events", "cycles"], &["audit", "--list"]] {
        let full = fs::File::options().write(true).open("/dev/full").expect("/dev/full");
        let output = command(args[0]).args(&args[1..]).stdout(full).output().expect("prof");
        let said = stderr(&output);
        let named = said.contains("standard output") && said.contains("No space left");
        assert!(!output.status.success() && named, "{args:?}: {said}");
    }
}

#[test]
fn arguments_are_told_nowhere_if_not_wanted() {
    let Some(_turn) = live("--no-args") else { return };
    let output = command("run")
        .args(["--no-args", "-o", "json", "-o", "summary", "--", "sh", "-c", ": sesame"])
        .output()
        .expect("prof");
    let said = stderr(&output);
    assert!(said.contains("\"header\"") && !said.contains("sesame"), "{said}");
}

#[test]
fn outputs_and_rules_that_cannot_be_meant_are_refused() {
    let Some(_turn) = live("outputs and rules") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let kept = dir.path().join("kept");
    fs::write(&kept, "as it was\n").expect("a file");
    let to = format!("json:{}", kept.display());
    let twice = command("run").args(["-o", &to, "-o", &to, "--", "true"]).output().expect("prof");
    assert!(stderr(&twice).contains("two outputs to"), "{}", stderr(&twice));
    let nothing = command("run").args(["-o", &to, "--", "/nonexistent"]).output().expect("prof");
    assert!(!nothing.status.success());
    assert_eq!(fs::read_to_string(&kept).expect("it"), "as it was\n");
    let rules = dir.path().join("rules");
    fs::write(&rules, "# none\n").expect("a file");
    let none = command("watch").arg("--rules").arg(&rules).output().expect("prof");
    assert!(stderr(&none).contains("there is no rule in it"), "{}", stderr(&none));
}

#[test]
fn btf_from_a_file() {
    let Some(_turn) = live("--btf") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let copy = dir.path().join("vmlinux.btf");
    fs::copy("/sys/kernel/btf/vmlinux", &copy).expect("BTF");
    let copy = copy.to_str().expect("a path");
    let run = run_target(&["--btf", copy], &["exit", "0"]);
    run.records.assert_whole();
    assert_eq!(run.records.profiles().len(), 1);
    let output =
        command("watch").args(["--btf", "/nonexistent", "--duration", "1"]).output().expect("prof");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nonexistent"), "{}", stderr(&output));
}

/// Where the kernel's own types are hidden.
#[test]
fn btf_from_a_file_alone() {
    let Some(_turn) = live("--btf without the usual place") else { return };
    if !has("unshare", "util-linux") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (copy, out) = (dir.path().join("vmlinux.btf"), dir.path().join("out.json"));
    fs::copy("/sys/kernel/btf/vmlinux", &copy).expect("BTF");
    let script = format!(
        "mount -t tmpfs none /sys/kernel/btf && {} run --no-cache --btf {} -o json:{} -- {} exit 0",
        prof().display(),
        copy.display(),
        out.display(),
        target().display()
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().expect("it");
    assert!(output.status.success(), "{}", stderr(&output));
    let records = Records::read(&out);
    records.assert_whole();
    assert!(figure(records.profiles()[0], "task-clock") > 0);
}

#[test]
fn every_backend_that_this_kernel_has() {
    let Some(_turn) = live("--hooks") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    for hooks in ["raw_tp", "tp_btf", "kprobe"] {
        let json = dir.path().join(hooks);
        let output = Command::new(prof())
            .args(["run", "--no-cache", "--hooks", hooks])
            .args(["-o", &format!("json:{}", json.display()), "--"])
            .arg(target())
            .args(["fork", "@self", "exit", "0"])
            .output()
            .expect("prof");
        if hooks == "kprobe" && !fs::exists("/sys/bus/event_source/devices/kprobe").expect("sysfs")
        {
            // Said, with the cause, and nothing was run.
            assert_eq!(output.status.code(), Some(1));
            assert!(stderr(&output).contains("CONFIG_KPROBE"), "{}", stderr(&output));
            continue;
        }
        let records = Records::read(&json);
        records.assert_whole();
        assert_eq!(records.profiles().len(), 3, "{hooks}");
        let attached = &records.of("header").next().expect("a header")["attached"];
        assert!(attached.as_array().expect("a list").iter().any(|a| a["how"] == hooks));
    }
}

#[test]
fn prepared_programs_are_used_again_and_damage_is_no_harm() {
    let Some(_turn) = live("prepared programs") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let once = || {
        let output = command("run")
            .env("PROF_CACHE_DIR", dir.path())
            .args(["-o", "json", "--"])
            .arg(target())
            .args(["exit", "0"])
            .output()
            .expect("prof");
        assert!(output.status.success(), "{}", stderr(&output));
        Records::parse(&stderr(&output)).assert_whole();
    };
    once();
    let file = fs::read_dir(dir.path()).expect("a folder").next().expect("a file").expect("it");
    let bytes = fs::read(file.path()).expect("content");
    once();
    // Instructions that the verifier refuses: it falls back and works.
    let mut bad = bytes.clone();
    let middle = bad.len() / 2;
    bad[middle..].fill(0x41);
    fs::write(file.path(), &bad).expect("write");
    once();
}

#[test]
fn help_has_examples_and_versions_are_told() {
    for verb in ["run", "watch", "attach"] {
        let output = command_plain(&[verb, "--help"]);
        assert!(output.contains("Examples:"), "{verb}");
    }
    assert!(command_plain(&["--version"]).starts_with("prof "));
    assert!(command_plain(&["events"]).contains("task-clock"));
}

fn command_plain(args: &[&str]) -> String {
    let output = Command::new(prof()).args(args).output().expect("prof");
    assert!(output.status.success(), "{args:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
