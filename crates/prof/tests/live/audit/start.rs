//! What was on before the audit was.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use super::*;

/// Waits, by an audit of its own, until somebody has so much on.
fn once_on(start_it: impl FnOnce() -> Child, enough: impl Fn(&[String]) -> bool) -> Child {
    let first = audit(&[]);
    let child = start_it();
    first.until("it to begin", |r| enough(&switches(r, child.id())));
    stop(first);
    child
}

/// Those that say that it was there before, first.
fn found(records: &Records, by: u32) -> Vec<&Value> {
    let of: Vec<_> = records.of("prof").filter(|r| r["by"]["pid"] == by).collect();
    let n = of.iter().take_while(|r| r["hook"] == "found").count();
    for r in &of[..n] {
        assert_eq!(r["notes"][0], "it was there before the audit was", "{r}");
        assert!(has_flag(r, "enable") && has_flag(r, "attach"), "{r}");
    }
    assert!(of[n..].iter().all(|r| r["hook"] != "found"), "{of:#?}");
    of[..n].to_vec()
}

#[test]
fn counters_of_a_process_end_as_they_would() {
    let Some(_turn) = live("audit of what was there") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let mut target = start("sleep", &["60"]);
    let pid = target.id().to_string();
    let mut perf =
        once_on(|| start("perf", &["stat", "-e", TWO, "-p", &pid]), |told| told.len() == 2);
    let by = perf.id();
    let watch = audit(&[]);
    watch.until("it to be found", |r| !switches(r, by).is_empty());
    thread::sleep(Duration::from_millis(200));
    signal(by, libc::SIGINT);
    perf.wait().unwrap();
    target.kill().unwrap();
    target.wait().unwrap();
    let records = stop(watch);
    assert_eq!(
        switches(&records, by),
        [
            &format!("on sleep: {TWO} by found"),
            "off sleep: page-faults by ioctl_disable",
            "off sleep: context-switches by ioctl_disable",
        ]
    );
    let on = found(&records, by)[0];
    assert_eq!((&on["by"]["comm"], &on["by"]["exe"]), (&"perf".into(), &"/usr/bin/perf".into()));
    assert_eq!(on["process"]["pid"].to_string(), pid);
    let t = total(&records, by, "sleep");
    assert_eq!((count(t, "switched_on"), count(t, "still_on")), (2, 0));
    // As long as it was audited.
    lasted(&t["on_ns"], 200);
    let audited = count(records.of("audit").next().unwrap(), "duration_ns");
    assert!(count(t, "on_ns") <= audited, "{t}");
}

#[test]
fn a_herd_is_found_whole() {
    let Some(_turn) = live("audit of children that were there") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let program = target().to_str().unwrap();
    let command = ["stat", "-e", "page-faults", "--", program, "herd", "3", "120000"];
    let mut perf = once_on(|| start("perf", &command), |told| told.len() == 4);
    let by = perf.id();
    let watch = audit(&[]);
    watch.until("they to be found", |r| switches(r, by).len() == 4);
    // The command ends, and its children with it; perf, when that has.
    let children = fs::read_to_string(format!("/proc/{by}/task/{by}/children")).unwrap();
    let command: u32 = children.trim().parse().unwrap();
    signal(command, libc::SIGKILL);
    perf.wait().unwrap();
    watch.until("their end", |r| switches(r, by).len() == 8);
    let records = stop(watch);
    let told = switches(&records, by);
    // Its children have executed the program by another name.
    let on = "on exe: page-faults by found";
    assert_eq!(told[..4], ["on prof-target: page-faults by found", on, on, on]);
    assert_eq!(told[4], "off prof-target: page-faults by target_exit");
    // perf closes the event when the command has ended, before some of them or after.
    for off in &told[5..] {
        let hook = off.strip_prefix("off exe: page-faults by ").unwrap_or_default();
        assert!(["target_exit", "close"].contains(&hook), "{told:#?}");
    }
    let pids: BTreeSet<_> =
        found(&records, by).iter().map(|r| count(&r["process"], "pid") as u32).collect();
    assert!(pids.len() == 4 && pids.contains(&command), "{pids:?} {command}");
    let parents = found(&records, by).into_iter().filter(|r| r["process"]["ppid"] == command);
    assert_eq!(parents.count(), 3);
}

#[test]
fn programs_tracers_and_tracefs_are_found() {
    let Some(_turn) = live("audit of programs that were there") else { return };
    if !has("bpftrace", "bpftrace") || !has("strace", "strace") {
        return;
    }
    let file = "events/sched/sched_process_wait/enable";
    let write = |text: &str| {
        fs::write(format!("/sys/kernel/tracing/{file}"), text).unwrap();
    };
    let mut target = start("sleep", &["60"]);
    let pid = target.id().to_string();
    let script = "tracepoint:sched:sched_process_exec { @ = count(); }";
    // The tracepoint, and the buffers for what programs say.
    let mut trace =
        once_on(|| start("bpftrace", &["-e", script]), |told| told.len() == 1 + cpus().len());
    let mut strace =
        once_on(|| start("strace", &["-o", "/dev/null", "-p", &pid]), |told| !told.is_empty());
    write("1");
    let watch = audit(&[]);
    write("0");
    signal(strace.id(), libc::SIGINT);
    strace.wait().unwrap();
    signal(trace.id(), libc::SIGINT);
    trace.wait().unwrap();
    target.kill().unwrap();
    target.wait().unwrap();
    let records = stop(watch);
    assert_eq!(
        switches(&records, strace.id()),
        ["on sleep: ptrace by found", "off sleep: ptrace by ptrace_detach"]
    );
    let event = "host: sched:sched_process_exec";
    let mut told = switches(&records, trace.id());
    told.retain(|s| s.contains(event));
    assert_eq!(told, [format!("on {event} by found"), format!("off {event} by ioctl_disable")]);
    let on = found(&records, trace.id());
    let program = on.iter().flat_map(|r| r["monitors"].as_array().unwrap());
    assert_eq!(program.filter(|m| m["bpf_prog"].is_number()).count(), 1);
    // Nobody knows who it was.
    let nobody = records.of("prof").filter(|r| r["by"]["pid"].is_null());
    let nobody: Vec<_> = nobody.inspect(|r| assert!(r["by"]["uid"].is_null(), "{r}")).collect();
    let told: Vec<_> = nobody.into_iter().map(switch).filter(|s| s.contains(file)).collect();
    assert_eq!(
        told,
        [
            format!("on host: tracefs:{file} by found"),
            format!("off host: tracefs:{file} by tracefs")
        ]
    );
}

/// Tracers, and children that inherited: the kernel's list of events has neither.
#[test]
fn who_is_found_is_who_hooks_met() {
    let Some(_turn) = live("audit of who was there") else { return };
    if !has("strace", "strace") || !has("perf", "linux-perf") {
        return;
    }
    let first = audit(&[]);
    let script = "sleep 60; exit 0";
    let mut perf = start("perf", &["stat", "-e", "page-faults", "sh", "-c", script]);
    first.until("perf's command", |r| switches(r, perf.id()).len() == 2);
    // perf, its command, and what that starts.
    let child_of = |pid: u32| -> u32 {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.trim().parse().unwrap()
    };
    let sleep = child_of(child_of(perf.id()));
    let mut strace = start("strace", &["-o", "/dev/null", "-p", &sleep.to_string()]);
    first.until("strace", |r| switches(r, strace.id()).iter().any(|s| s.contains("seize")));
    let hooks = stop(first);
    let watch = audit(&[]);
    watch.until("both", |r| !found(r, strace.id()).is_empty() && found(r, perf.id()).len() == 2);
    signal(sleep, libc::SIGKILL);
    perf.wait().unwrap();
    strace.wait().unwrap();
    let list = stop(watch);
    let who = |p: &Value| (count(p, "pid"), count(p, "start_ns"));
    let met = |records: &Records, by: u32, hook: &str| {
        let is = |r: &&Value| r["by"]["pid"] == by && r["hook"] == hook;
        let last = records.of("prof").filter(is).last().unwrap();
        (who(&last["by"]), who(&last["process"]), count(&last["by"], "exec"))
    };
    assert_eq!(met(&list, strace.id(), "found"), met(&hooks, strace.id(), "ptrace_seize"));
    let heir = |records: &Records, hook: &str| {
        let of = |r: &&Value| r["by"]["pid"] == perf.id() && r["hook"] == hook;
        let mut all = records.of("prof").filter(of);
        who(&all.find(|r| r["process"]["pid"] == sleep).unwrap()["process"])
    };
    assert_eq!(heir(&list, "found"), heir(&hooks, "inherit"));
}

#[test]
fn links_of_another_prof_are_found() {
    let Some(_turn) = live("audit of links that were there") else { return };
    if kprobes("the links of another prof") {
        return;
    }
    let other = Watch::start(&["-s", "comm=nobody"]);
    let by = other.pid();
    let watch = audit(&[]);
    other.stop();
    let ended = |r: &Records| switches(r, by).iter().any(|s| s.starts_with("off"));
    watch.until("its end", ended);
    let records = stop(watch);
    let told = switches(&records, by);
    // The kernel calls those of typed programs (`tp_btf`) so, too.
    let link = "raw_tracepoint:sched_process_exit";
    let of = |whether: &str| {
        let told = told.iter().filter(|s| s.starts_with(whether) && s.contains(link));
        told.map(|s| s.rsplit_once(' ').unwrap().1).collect::<Vec<_>>()
    };
    assert_eq!((of("on"), of("off").len()), (vec!["found"], 1), "{told:#?}");
}

/// Hooks first, then the look: what begins in between is told by its record, and once.
#[test]
fn what_begins_and_ends_while_it_begins_is_told_once() {
    let Some(_turn) = live("audit that begins in a storm") else { return };
    // For two minutes, of which the first seconds are seen.
    let n = if emulated("1,000 events a second, but for 20") { "2400" } else { "120000" };
    let mut storm = start(target().to_str().unwrap(), &["perf-storm", n, "120"]);
    let by = storm.id();
    thread::sleep(Duration::from_millis(200));
    let watch = audit(&[]);
    watch.until("some of it", |r| switches(r, by).len() > 20);
    storm.kill().unwrap();
    storm.wait().unwrap();
    watch.until("its end", |r| all_off(r, by));
    let records = stop(watch);
    let mut on_off: BTreeMap<u64, Vec<bool>> = BTreeMap::new();
    for r in records.of("prof").filter(|r| r["by"]["pid"] == by) {
        for m in r["monitors"].as_array().unwrap() {
            on_off.entry(count(m, "id")).or_default().push(has_flag(r, "enable"));
        }
    }
    for (id, told) in on_off {
        assert_eq!(told, [true, false], "event {id}");
    }
}
