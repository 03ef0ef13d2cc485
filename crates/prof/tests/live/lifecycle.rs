//! What is hard about the life of a process.

use std::collections::HashSet;
use std::io::BufRead as _;
use std::io::BufReader;
use std::process::Command;
use std::process::Stdio;

use crate::harness::*;

/// Ends of windows, in order.
fn ends(profiles: &[&serde_json::Value]) -> Vec<String> {
    profiles.iter().map(|p| p["window"]["end"].as_str().unwrap_or_default().to_owned()).collect()
}

fn is_exit(end: &str) -> bool {
    end == "exit" || end == "exit_after_mm"
}

#[test]
fn exec_from_a_thread_that_is_not_the_leader() {
    let Some(_turn) = live("exec from a thread") else { return };
    let run = run_target(&[], &["exec-from-thread", "@self", "exit", "3"]);
    assert_eq!(run.output.status.code(), Some(3));
    let (pid, tid) = (run.said("pid"), run.said("tid"));
    assert_ne!(pid, tid);
    let p = run.records.of_pid(pid);
    assert_eq!(p.len(), 2, "{p:#?}");
    assert_eq!(p[0]["window"]["end"], "exec");
    assert_eq!(p[0]["figures"]["threads"]["value"], 2);
    assert!(is_exit(p[1]["window"]["end"].as_str().unwrap_or_default()), "{}", p[1]);
    assert_eq!(p[1]["exit"]["code"], 3);
    assert_eq!(p[1]["process"]["exec"], 2);
    // The thread's own id never shows as a process.
    assert!(run.records.of_pid(tid).is_empty());
    run.records.assert_whole();
}

#[test]
fn the_leader_exits_first() {
    let Some(_turn) = live("leader exits first") else { return };
    let run = run_target(&[], &["leader-exits-first", "60"]);
    let p = run.records.of_pid(run.said("pid"));
    assert_eq!(p.len(), 1, "{p:#?}");
    // The leader's own code was 3, the process's is 0.
    assert_eq!(p[0]["exit"]["code"], 0);
    assert!(figure(p[0], "task-clock") >= run.said("thread_cpu_ns"), "the worker's time is in");
    assert!(figure(p[0], "task-clock") >= 60_000_000);
    run.records.assert_whole();
}

#[test]
fn death_inside_exec() {
    let Some(_turn) = live("death inside exec") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let run = run_target(&[], &["die-in-exec", dir.path().to_str().expect("a path")]);
    let p = run.records.of_pid(run.said("child_pid"));
    assert_eq!(ends(&p), ["exec", "died_in_exec"], "{p:#?}");
    assert_eq!(p[1]["exit"]["signal"], run.said("child_signal"));
    assert_eq!(p[1]["process"]["comm"], "die-in-exec");
    run.records.assert_whole();
}

#[test]
fn vfork_and_posix_spawn() {
    let Some(_turn) = live("vfork and posix_spawn") else { return };
    for how in ["vfork", "spawn", "fork"] {
        let run = run_target(&[], &[how, "@self", "exit", "4"]);
        let p = run.records.of_pid(run.said("child_pid"));
        assert_eq!(p.len(), 2, "{how}: {p:#?}");
        assert_eq!(p[0]["process"]["exec"], 0, "{how}: the part before its exec");
        assert_eq!(p[0]["window"]["start"], "fork", "{how}");
        assert_eq!(p[1]["process"]["exec"], 1, "{how}");
        assert_eq!(p[1]["exit"]["code"], 4, "{how}");
        run.records.assert_whole();
    }
}

#[test]
fn re_exec_in_place_ten_times() {
    let Some(_turn) = live("re-exec") else { return };
    let run = run_target(&[], &["reexec", "10"]);
    let p = run.records.of_pid(run.said("pid"));
    assert_eq!(p.len(), 11, "{p:#?}");
    let numbers: Vec<_> = p.iter().map(|p| p["process"]["exec"].as_u64()).collect();
    assert_eq!(numbers, (1..=11).map(Some).collect::<Vec<_>>());
    let starts: HashSet<_> = p.iter().map(|p| p["process"]["start_ns"].as_u64()).collect();
    assert_eq!(starts.len(), 1, "one process");
    run.records.assert_whole();
}

#[test]
fn a_pid_that_is_used_again() {
    let Some(_turn) = live("pid reuse") else { return };
    let run = run_target(&[], &["pid-reuse"]);
    let (first, second) = (run.said("first_child_pid"), run.said("second_child_pid"));
    assert_eq!(first, second, "the target did not bring about reuse");
    let p = run.records.of_pid(first);
    let images: Vec<_> = p.iter().filter(|p| p["process"]["exec"] == 1).collect();
    assert_eq!(images.len(), 2, "{p:#?}");
    assert_eq!(images[0]["exit"]["code"], 7);
    assert_eq!(images[1]["exit"]["code"], 8);
    assert_ne!(images[0]["process"]["start_ns"], images[1]["process"]["start_ns"]);
    run.records.assert_whole();
}

#[test]
fn a_process_in_a_pid_namespace_of_its_own() {
    let Some(_turn) = live("pid namespace") else { return };
    let run = run_target(&[], &["pidns", "@self", "exit", "5"]);
    // The host's pid, not 1.
    let p = run.records.of_pid(run.said("child_pid"));
    assert_eq!(p.len(), 2, "{p:#?}");
    assert_eq!(p[1]["exit"]["code"], 5);
    let own = run.records.of_pid(run.said("pid"))[0]["process"]["pidns"].as_u64();
    assert_ne!(p[1]["process"]["pidns"].as_u64(), own);
    run.records.assert_whole();
}

#[test]
fn a_storm_of_threads() {
    let Some(_turn) = live("1,000 threads") else { return };
    let run = run_target(&[], &["threads", "1000", "50"]);
    let p = run.records.of_pid(run.said("pid"));
    assert_eq!(p.len(), 1, "{p:#?}");
    assert_eq!(figure(p[0], "threads"), 1001);
    // What the threads measured of themselves is in, whichever of them was last.
    assert!(figure(p[0], "task-clock") >= run.said("threads_cpu_ns"));
    run.records.assert_whole();
}

#[test]
fn each_thread_is_told_if_asked_for() {
    let Some(_turn) = live("per thread") else { return };
    let run = run_target(&["--per-thread"], &["threads", "8", "40"]);
    let p = run.records.of_pid(run.said("pid"));
    let threads = p[0]["threads"].as_array().expect("threads");
    assert_eq!(threads.len(), 9, "{threads:#?}");
    let sum: u64 =
        threads.iter().map(|t| t["figures"]["task-clock"]["value"].as_u64().unwrap_or(0)).sum();
    assert_eq!(sum, figure(p[0], "task-clock"), "the threads make the process");
}

#[test]
fn exit_codes_signals_and_cores() {
    let Some(_turn) = live("exit status") else { return };
    let code = run_target(&[], &["exit", "42"]);
    assert_eq!(code.output.status.code(), Some(42), "prof's own status");
    assert_eq!(code.records.profiles()[0]["exit"]["code"], 42);
    let killed = run_target(&[], &["kill", "TERM"]);
    assert_eq!(killed.output.status.code(), Some(128 + 15));
    assert_eq!(killed.records.profiles()[0]["exit"]["signal"], 15);
    assert_eq!(killed.records.profiles()[0]["exit"]["core"], false);
    let dir = tempfile::tempdir().expect("a folder");
    let t = target().to_str().expect("a path");
    let cd = format!("cd {} && exec {t} kill SEGV --core", dir.path().display());
    let core = run(&[], &["sh", "-c", &cd]);
    let last = *core.records.profiles().last().expect("a profile");
    assert_eq!(last["exit"]["signal"], 11);
    // Whether a core is dumped is up to the host: the wait status tells.
    let bare = Command::new("sh").args(["-c", &cd]).status().expect("sh");
    let dumped = std::os::unix::process::ExitStatusExt::core_dumped(&bare);
    assert_eq!(last["exit"]["core"], dumped);
}

#[test]
fn a_changed_name_is_no_exec() {
    let Some(_turn) = live("prctl(PR_SET_NAME)") else { return };
    let run = run_target(&[], &["setname", "other"]);
    assert_eq!(run.records.profiles().len(), 1);
    assert!(run.records.end()["execs"]["seen"].as_u64() >= Some(1));
    run.records.assert_whole();
}

#[test]
fn execs_that_fail_are_none() {
    let Some(_turn) = live("failed execs") else { return };
    let run = run_target(&[], &["failed-exec", "5"]);
    assert_eq!(run.records.profiles().len(), 1, "{:#?}", run.records.profiles());
    run.records.assert_whole();
}

#[test]
fn alive_before_prof_and_after_it() {
    let Some(_turn) = live("alive before and after") else { return };
    let mut before = Command::new(target()).args(["sleep", "3000"]).spawn().expect("target");
    let own = format!("tree={}", std::process::id());
    let watch = Watch::start(&["-s", "comm=prof-target", "-s", &own]);
    let mut after = Command::new(target()).args(["sleep", "30000"]).spawn().expect("target");
    let (old, new) = (u64::from(before.id()), u64::from(after.id()));
    watch.until("the new one is on", |r| {
        r.of("prof").any(|e| e["process"]["pid"] == new && has_flag(e, "enable"))
    });
    before.kill().and_then(|()| before.wait()).expect("kill");
    let records = watch.stop();
    // It did not execute while prof watched: it is not in the stream at all.
    assert!(records.of_pid(old).is_empty());
    let p = records.of_pid(new);
    assert_eq!(ends(&p), ["running"], "{p:#?}");
    assert!(p[0]["exit"].is_null());
    assert!(figure(p[0], "page-faults") > 0);
    assert_eq!(records.end()["running"], 1);
    records.assert_whole();
    after.kill().and_then(|()| after.wait()).expect("kill");
}

#[test]
fn attach_counts_from_now_on() {
    let Some(_turn) = live("attach") else { return };
    // In an emulator prof takes seconds to start.
    let (work, head_start) =
        if std::env::var_os("PROF_VM").is_some() { ("30000", 3000) } else { ("4000", 1500) };
    let mut child = Command::new(target()).args(["burn", work]).spawn().expect("target");
    std::thread::sleep(std::time::Duration::from_millis(head_start));
    let pid = child.id().to_string();
    let mut watch = Watch::verb("attach", &[&pid]);
    let records = watch.wait();
    child.wait().expect("target");
    let on = records.of("prof").next().expect("an event");
    assert!(has_flag(on, "enable") && has_flag(on, "attach") && has_flag(on, "request"), "{on}");
    let p = records.of_pid(child.id().into());
    assert_eq!(p.len(), 1, "{p:#?}");
    assert!(has_flag(p[0], "attach"));
    let ns = figure(p[0], "task-clock");
    // Some of the work, and not what came before.
    let all = work.parse::<u64>().expect("a number") * 1_000_000;
    assert!(ns > all / 100 && ns < all - 50_000_000, "{ns} of {all}");
    records.assert_whole();
}

#[test]
fn an_exec_after_an_attach_divides_the_figures() {
    let Some(_turn) = live("exec after attach") else { return };
    if std::env::var_os("PROF_VM").is_some() {
        eprintln!("SKIPPED: in an emulator the attach may come after the exec");
        return;
    }
    let script = format!(
        "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 2; exec {} burn 100",
        target().display()
    );
    let mut child = Command::new("sh").args(["-c", &script]).spawn().expect("sh");
    let stat = format!("/proc/{}/stat", child.id());
    while !std::fs::read_to_string(&stat).expect("stat").contains(") S ") {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let watch = Watch::verb("attach", &[&child.id().to_string(), "--duration", "30s"]);
    child.wait().expect("sh");
    let records = watch.stop();
    let p = records.of_pid(child.id().into());
    assert_eq!(p.len(), 2, "{p:#?}");
    // The loop was over before: of the shell there is next to nothing left.
    assert!(figure(p[0], "task-clock") < 60_000_000, "{}", p[0]["figures"]);
    let burnt = figure(p[1], "task-clock");
    assert!((100_000..200_000_000).contains(&burnt), "{burnt}");
    records.assert_whole();
}

#[test]
fn an_exec_from_another_thread_after_an_attach_does_too() {
    let Some(_turn) = live("exec from a thread after attach") else { return };
    if std::env::var_os("PROF_VM").is_some() {
        eprintln!("SKIPPED: in an emulator the attach may come after the exec");
        return;
    }
    let mut child = Command::new(target())
        .args(["exec-from-thread", "--late", "@self", "exit", "3"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("target");
    let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("target");
    assert_eq!(line, "spun\n");
    let watch = Watch::verb("attach", &[&child.id().to_string(), "--duration", "30s"]);
    child.wait().expect("target");
    let records = watch.stop();
    let p = records.of_pid(child.id().into());
    assert_eq!(p.len(), 2, "{p:#?}");
    // The thread had spun before, under an id that it no longer has.
    assert!(figure(p[0], "task-clock") < 60_000_000, "{}", p[0]["figures"]);
    assert!(figure(p[1], "task-clock") < 60_000_000, "{}", p[1]["figures"]);
    records.assert_whole();
}

#[test]
fn a_zombie_cannot_be_attached_to() {
    let Some(_turn) = live("attach to a zombie") else { return };
    let mut child = Command::new(target()).args(["exit", "0"]).spawn().expect("target");
    let pid = child.id().to_string();
    // Not waited for: it stays.
    let stat = format!("/proc/{pid}/stat");
    while !std::fs::read_to_string(&stat).expect("stat").contains(") Z ") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = command("attach").args([&pid, "--duration", "20s"]).output().expect("prof");
    child.wait().expect("target");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("has exited") && said.contains("zombie"), "{said}");
}

/// This thread is none that leads a process.
#[test]
fn a_thread_is_no_process_to_attach_to() {
    let Some(_turn) = live("a thread") else { return };
    let (thread, process) = (rustix::thread::gettid(), std::process::id());
    let thread = thread.as_raw_nonzero().get().to_string();
    let output = command("attach").args([&thread, "--duration", "20s"]).output().expect("prof");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("prof attach --per-thread {process} has")), "{said}");
    let scope = format!("comm=x tree={thread}");
    let output = command("watch").args(["-s", &scope]).output().expect("prof");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("{thread} is a thread of process {process}")), "{said}");
}

/// Some kernels keep their first process from BPF programs that go through all tasks.
#[test]
fn the_first_process_is_attached_to_or_the_reason_is_true() {
    let Some(_turn) = live("process 1") else { return };
    let output = command("attach").args(["1", "--duration", "200ms"]).output().expect("prof");
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        _ => assert!(said.contains("1 runs, but this kernel leaves it out"), "{said}"),
    }
}

#[test]
fn that_no_process_is_there_is_told() {
    let Some(_turn) = live("--existing of nobody") else { return };
    let args = ["-s", "comm=prof-nobody", "--existing", "--duration", "0.1"];
    let output = command("watch").args(args).output().expect("prof");
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--existing: none of the processes"), "{said}");
}

#[test]
fn existing_processes_on_request() {
    let Some(_turn) = live("--existing") else { return };
    let mut child = Command::new(target()).args(["sleep", "30000"]).spawn().expect("target");
    let own = format!("tree={}", std::process::id());
    let watch = Watch::start(&["-s", "comm=prof-target", "-s", &own, "--existing"]);
    let pid = u64::from(child.id());
    watch.until("it is on", |r| r.of("prof").any(|e| e["process"]["pid"] == pid));
    child.kill().and_then(|()| child.wait()).expect("kill");
    watch.until("it is off", |r| !r.of_pid(pid).is_empty());
    let records = watch.stop();
    assert_eq!(records.of_pid(pid)[0]["exit"]["signal"], 9);
    records.assert_reconciled();
}
