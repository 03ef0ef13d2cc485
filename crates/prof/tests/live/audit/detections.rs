//! What `examples/audit-detections.sh` finds in a stream.

use super::*;
use crate::audit_list::detections::detect;

const NOBODY: u32 = 65534;

/// A program of nobody's, who has one right of root's.
fn of_nobody(right: &str, args: &[&str]) -> Child {
    let (inheritable, ambient) =
        (format!("--inh-caps=+{right}"), format!("--ambient-caps=+{right}"));
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups", &inheritable, &ambient];
    Command::new("setpriv")
        .args([&user[..], args].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn()
        .unwrap()
}

fn records_of(records: &Records, pids: &[u32]) -> Vec<Value> {
    let is = |r: &&Value| pids.iter().any(|pid| r["by"]["pid"] == *pid);
    records.of("prof").filter(is).cloned().collect()
}

#[test]
fn detections_of_the_examples_in_a_stream() {
    let Some(_turn) = live("detections in a stream") else { return };
    let tools = [("perf", "linux-perf"), ("jq", "jq"), ("setpriv", "util-linux")];
    if tools.iter().any(|(tool, package)| !has(tool, package)) || !has("strace", "strace") {
        return;
    }
    let watch = audit(&[]);
    let mut ours = start("sleep", &["60"]);
    let mut theirs = of_nobody("perfmon", &["sleep", "60"]);
    let (pid, own) = (ours.id().to_string(), theirs.id().to_string());
    let record = ["perf", "record", "--no-bpf-event", "-o", "/dev/null", "-e", "cpu-clock"];
    let dwarf = ["-c", "1000000", "--call-graph", "dwarf", "-p", &pid];
    let mut all = vec![
        of_nobody("perfmon", &[&record[..], &dwarf].concat()),
        of_nobody("perfmon", &["perf", "stat", "-e", "page-faults:u", "-p", &own]),
        start(record[0], &[&record[1..], &["-g", "-p", &own]].concat()),
        of_nobody("sys_ptrace", &["strace", "-o", "/dev/null", "-p", &pid]),
    ];
    for child in &all {
        let by = child.id();
        // perf tries the kernel with events of CPUs first.
        let is_on = |r: &Records| switches(r, by).iter().any(|s| s.starts_with("on sleep"));
        watch.until("all to begin", is_on);
    }
    // strace stops who is still busy.
    for child in all.iter_mut().rev().chain([&mut ours, &mut theirs]) {
        signal(child.id(), libc::SIGINT);
        child.wait().unwrap();
    }
    let pids: Vec<_> = all.iter().map(Child::id).collect();
    let records = stop(watch);
    let finding = |rule: &str, name: &str| (rule.to_owned(), name.to_owned(), u64::from(NOBODY));
    let samples = vec![
        finding("foreign_samples", "cpu-clock"),
        finding("kernel_stacks", "cpu-clock"),
        finding("stack_memory", "cpu-clock"),
    ];
    // Its tries at the kernel are of a CPU, where everybody's processes run.
    let is_try = |f: &(String, String, u64)| f.1.starts_with("cpu-clock:u");
    let without_tries = |(mut found, status): (Vec<_>, _)| {
        found.retain(|f| !is_try(f));
        (found, status)
    };
    let of_record = records_of(&records, &pids[..1]);
    assert_eq!(without_tries(detect(&of_record, "0")), (samples.clone(), Some(1)));
    assert_eq!(detect(&of_record, "0 65534"), (samples[1..].to_vec(), Some(1)));
    // What is in order is no finding: one's own, and root's samples.
    let in_order = records_of(&records, &pids[1..3]);
    assert!(in_order.len() >= 4, "{in_order:#?}");
    assert_eq!(detect(&in_order, "0"), (vec![], Some(0)));
    let traced = records_of(&records, &pids[3..]);
    let found = detect(&traced, "0");
    assert_eq!(found, (vec![finding("foreign_ptrace", "ptrace")], Some(1)), "{traced:#?}");
}

#[test]
fn programs_of_others_are_found_in_a_stream() {
    let Some(_turn) = live("detections of BPF in a stream") else { return };
    if !has("bpftrace", "bpftrace") || !has("jq", "jq") {
        return;
    }
    let watch = audit(&[]);
    let script = "tracepoint:sched:sched_process_exec { @ = count(); } interval:ms:300 { exit(); }";
    let by = run_it("bpftrace", &["-e", script]);
    let records = stop(watch);
    let told = records_of(&records, &[by]);
    // root is of ops, unless ops is somebody else.
    assert_eq!(detect(&told, "0"), (vec![], Some(0)), "{told:#?}");
    let (found, status) = detect(&told, "1001");
    assert_eq!(status, Some(1));
    let of = |rule: &str| -> Vec<&str> {
        found.iter().filter(|f| f.0 == rule).map(|f| f.1.as_str()).collect()
    };
    // A program is put at an event after that was opened.
    assert_eq!(of("foreign_bpf"), ["cpu-clock", "sched:sched_process_exec"], "{found:?}");
    assert_eq!(of("kernel_stacks"), [""; 0], "{found:?}");
}
