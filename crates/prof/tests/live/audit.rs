//! `prof audit`: what profilers are known to do is what is told of them, all of it and
//! nothing else. The lists are written by hand.

mod detections;
mod hooks;
mod others;
mod profilers;
mod start;

use std::collections::BTreeSet;
use std::fs;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

use crate::cgroup::Cgroup;
use crate::harness::*;

const SCHEMA: &str = include_str!("../../../../docs/schema/prof-records.schema.json");

/// An audit from before the profiler's start to after its end. What other commands do by
/// tracepoints, raw ones or typed, it does by system calls or functions.
fn audit(options: &[&str]) -> Watch {
    let asked = hooks();
    let way = match asked.as_deref() {
        None => "auto",
        Some("raw_tp") => "tracepoint",
        Some("tp_btf") => "fentry",
        Some(other) => other,
    };
    Watch::verb("audit", &[&["--hooks", way], options].concat())
}

/// A profiler, with nothing to read and nobody to read it.
fn start(program: &str, args: &[&str]) -> Child {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// It ends by itself.
fn run_it(program: &str, args: &[&str]) -> u32 {
    let mut child = start(program, args);
    let pid = child.id();
    child.wait().unwrap();
    pid
}

/// `WHETHER WHOM: WHAT by INTERFACE` of each switch by a process, in order, but for what is
/// [told anew](anew).
fn switches(records: &Records, by: u32) -> Vec<String> {
    let told = |r: &&Value| r["by"]["pid"] == by && !is_anew(r);
    records.of("prof").filter(told).map(switch).collect()
}

/// The same of what stays on with another BPF program: each is off as it was and on as it is.
fn anew(records: &Records, by: u32) -> Vec<String> {
    let told = |r: &&Value| r["by"]["pid"] == by && is_anew(r);
    let mut all = Vec::new();
    for r in records.of("prof").filter(told) {
        assert_eq!(r["monitors"][0]["bpf_prog"].is_number(), has_flag(r, "enable"), "{r}");
        all.push(switch(r));
    }
    all
}

fn is_anew(r: &Value) -> bool {
    let notes = r["notes"].as_array().into_iter().flatten();
    notes.filter_map(Value::as_str).any(|n| n.starts_with("it stays on"))
}

/// All that was switched by a process, each time.
fn monitors_of(records: &Records, by: u32) -> impl Iterator<Item = &Value> {
    let told = records.of("prof").filter(move |r| r["by"]["pid"] == by);
    told.flat_map(|r| r["monitors"].as_array().unwrap())
}

fn switch(r: &Value) -> String {
    let whether = if has_flag(r, "enable") { "on" } else { "off" };
    let target = &r["target"];
    let whom = match target["kind"].as_str().unwrap() {
        "process" => r["process"]["comm"].as_str().unwrap().to_owned(),
        "cpu" => format!("cpu{}", target["cpu"]),
        "cgroup" => {
            let path = target["path"].as_str().unwrap_or("?");
            format!("{} on cpu{}", path.rsplit('/').next().unwrap_or_default(), target["cpu"])
        }
        other => other.to_owned(),
    };
    let names: Vec<_> =
        r["events"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    format!("{whether} {whom}: {} by {}", names.join(","), r["hook"].as_str().unwrap())
}

/// Ends the audit; its records are as the schema says, whole, foreign, and all.
fn stop(watch: Watch) -> Records {
    let records = stop_narrowed(watch);
    // What is told is what is counted.
    let end = records.end();
    let of = |on: bool| {
        let is = move |r: &&Value| has_flag(r, "enable") == on;
        let n = |r: &Value| r["monitors"].as_array().unwrap().len() as u64;
        records.of("prof").filter(is).map(n).sum::<u64>()
    };
    assert_eq!((of(true), of(false)), (count(end, "enabled"), count(end, "disabled")), "{end}");
    records
}

/// The same of one that does not tell everything.
fn stop_narrowed(watch: Watch) -> Records {
    let own = watch.pid();
    let records = watch.stop();
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for r in &records.0 {
        let errors: Vec<_> = validator.iter_errors(r).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{r:#}\n{errors:#?}");
    }
    for r in records.of("prof") {
        assert!(has_flag(r, "foreign"), "{r}");
        assert_ne!(r["by"]["pid"], own, "it told of itself: {r}");
    }
    let end = records.end();
    assert_eq!(end["lost"], serde_json::json!({}), "{end}");
    assert_eq!(end["unaccounted"], 0, "{end}");
    records
}

fn count(r: &Value, key: &str) -> u64 {
    r[key].as_u64().unwrap_or_else(|| panic!("{key} in {r}"))
}

/// The total of one who profiled a process of this name.
fn total<'a>(records: &'a Records, by: u32, comm: &str) -> &'a Value {
    let audit = records.of("audit").next().unwrap();
    let all = audit["totals"].as_array().unwrap();
    let is = |t: &&Value| t["by"]["pid"] == by && t["process"]["comm"] == comm;
    all.iter().find(is).unwrap_or_else(|| panic!("no total of {comm} in {audit:#}"))
}

/// Whether a process has something on no more, that it had.
fn all_off(records: &Records, by: u32) -> bool {
    let of = |on: bool| {
        let told =
            records.of("prof").filter(|r| r["by"]["pid"] == by && has_flag(r, "enable") == on);
        told.map(|r| r["monitors"].as_array().unwrap().len()).sum::<usize>()
    };
    of(true) > 0 && of(true) == of(false)
}

/// How long it was on is what the tool was asked for: not less than 90 %, since clocks of
/// virtual machines lose time.
fn lasted(ns: &Value, ms: u64) {
    let ns = ns.as_u64().unwrap();
    assert!(ns >= ms * 900_000, "{ns} ns, which should be at least {ms} ms");
}

const TWO: &str = "page-faults,context-switches";

#[test]
fn perf_stat_of_a_command() {
    let Some(_turn) = live("audit") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let watch = audit(&[]);
    let by = run_it("perf", &["stat", "-e", TWO, "sleep", "0.2"]);
    let records = stop(watch);
    assert_eq!(
        switches(&records, by),
        [format!("on sleep: {TWO} by enable_on_exec"), format!("off sleep: {TWO} by target_exit"),]
    );
    let on = records.of("prof").find(|r| r["by"]["pid"] == by).unwrap();
    assert_eq!(on["flags"], serde_json::json!(["enable", "exec", "inherit", "foreign"]));
    assert_eq!(on["EVENTS"], serde_json::json!([0x0100_0002, 0x0100_0003]));
    let by_exe = fs::canonicalize("/usr/bin/perf").unwrap();
    assert!(by_exe.ends_with("perf") || on["by"]["exe"].is_string());
    assert_eq!(on["by"]["comm"], "perf");
    assert_eq!(on["process"]["ppid"], by);
    assert!(on["process"]["exe"].as_str().unwrap().ends_with("sleep"), "{on}");
    for m in on["monitors"].as_array().unwrap() {
        let attr = &m["attr"];
        assert_eq!((&attr["type"], &attr["sampling"]), (&1.into(), &false.into()), "{m}");
        assert_eq!((&attr["inherit"], &attr["enable_on_exec"]), (&true.into(), &true.into()));
    }
    let t = total(&records, by, "sleep");
    assert_eq!((count(t, "switched_on"), count(t, "still_on")), (2, 0));
    lasted(&t["on_ns"], 200);
    assert!(count(t, "monitors_ns") >= 2 * count(t, "on_ns") - 1_000_000, "{t}");
}

#[test]
fn a_summary_has_who_profiled_whom_for_how_long() {
    let Some(_turn) = live("audit -o summary") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("summary");
    let watch = audit(&["-o", &format!("summary:{}", out.display())]);
    let by = run_it("perf", &["stat", "-e", TWO, "sh", "-c", "sleep 0.2; exit 0"]);
    let records = stop(watch);
    let text = fs::read_to_string(&out).unwrap();
    let all = records.of("audit").next().unwrap()["totals"].as_array().unwrap();
    let all: Vec<_> = all.iter().filter(|t| t["by"]["pid"] == by).collect();
    // The shell, and its child, which was on before it executed `sleep`.
    assert_eq!(all.len(), 2, "{all:#?}");
    for t in all {
        let comm = t["process"]["comm"].as_str().unwrap();
        lasted(&t["on_ns"], 200);
        let whom = format!("{} {comm}", t["process"]["pid"]);
        let is = |l: &&str| l.contains(&format!("{by} perf")) && l.contains(&whom);
        let line = text.lines().find(is).unwrap_or_else(|| panic!("no {whom} in {text}"));
        let fields: Vec<_> = line.split_whitespace().collect();
        // How long with its unit, how often, what.
        let times: f64 = fields[0].parse().unwrap();
        let unit = if fields[1] == "s" { 1e9 } else { 1e6 };
        assert!((times * unit / count(t, "on_ns") as f64 - 1.0).abs() < 0.01, "{line} {t}");
        assert_eq!(fields[2], "2", "{line}");
        assert!(line.ends_with("page-faults, context-switches"), "{line}");
    }
    // No switch by itself.
    assert!(!text.contains("enable_on_exec"), "{text}");
}

/// What ends with its owner is told late, and what others do meanwhile is not.
#[test]
fn lines_are_in_the_order_of_their_times() {
    let Some(_turn) = live("audit in order") else { return };
    if emulated("lines in order, as it may be late by more than they wait") {
        return;
    }
    let program = target().to_str().unwrap();
    let watch = audit(&[]);
    let mut sleeper = start("sleep", &["60"]);
    let pid = sleeper.id().to_string();
    let mut left = Vec::new();
    for _ in 0..20 {
        left.push(run_it(program, &["perf", "open-of", &pid]));
        run_it(program, &["perf", "open", "sleep", "2", "close"]);
    }
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    let records = stop(watch);
    let off = |r: &&Value| r["hook"] == "owner_exit" && left.iter().any(|by| r["by"]["pid"] == *by);
    assert_eq!(records.of("prof").filter(off).count(), left.len());
    let times: Vec<_> = records.of("prof").map(|r| r["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:#?}");
}

#[test]
fn perf_stat_of_a_process_that_runs() {
    let Some(_turn) = live("audit") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let watch = audit(&[]);
    let mut target = start("sleep", &["60"]);
    let pid = target.id().to_string();
    let by = run_it("perf", &["stat", "-e", TWO, "-p", &pid, "sleep", "0.2"]);
    target.kill().unwrap();
    target.wait().unwrap();
    let records = stop(watch);
    assert_eq!(
        switches(&records, by),
        [
            "on sleep: page-faults by ioctl_enable",
            "on sleep: context-switches by ioctl_enable",
            "off sleep: page-faults by ioctl_disable",
            "off sleep: context-switches by ioctl_disable",
        ]
    );
    for r in records.of("prof").filter(|r| r["by"]["pid"] == by) {
        assert_eq!(r["process"]["pid"].to_string(), pid);
        assert_eq!(has_flag(r, "attach"), has_flag(r, "enable"), "{r}");
        assert!(has_flag(r, "request"), "{r}");
    }
    lasted(&total(&records, by, "sleep")["on_ns"], 200);
}

/// The CPUs that are online.
fn cpus() -> Vec<u32> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let part = |p: &str| {
        let (a, b) = p.split_once('-').unwrap_or((p, p));
        a.parse::<u32>().unwrap()..=b.parse::<u32>().unwrap()
    };
    text.trim().split(',').flat_map(part).collect()
}

/// Of all CPUs, what is on and off on each.
fn on_each_cpu(what: &str, how: &[&str]) -> Vec<String> {
    let of = |h: &&str| {
        cpus().into_iter().map(|c| h.replace("CPU", &format!("{what}cpu{c}"))).collect::<Vec<_>>()
    };
    how.iter().flat_map(of).collect()
}

#[test]
fn perf_stat_of_all_cpus_and_of_a_cgroup() {
    let Some(_turn) = live("audit") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let watch = audit(&[]);
    let all = run_it("perf", &["stat", "-a", "-e", "page-faults", "sleep", "0.2"]);
    let cgroup = Cgroup::new("prof-audit-test");
    let one = run_it(
        "perf",
        &["stat", "-a", "-e", "page-faults", "-G", "prof-audit-test", "sleep", "0.2"],
    );
    // Its path is looked for when it is told.
    watch.until("the cgroup", |r| !switches(r, one).is_empty());
    let records = stop(watch);
    drop(cgroup);
    let how = ["on CPU: page-faults by ioctl_enable", "off CPU: page-faults by ioctl_disable"];
    assert_eq!(switches(&records, all), on_each_cpu("", &how));
    assert_eq!(switches(&records, one), on_each_cpu("prof-audit-test on ", &how));
    // Who profiles no process is the process that the record is of.
    let r = records.of("prof").find(|r| r["by"]["pid"] == all).unwrap();
    assert_eq!(r["process"], r["by"]);
}

#[test]
fn perf_record_samples() {
    let Some(_turn) = live("audit") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("perf.data");
    let watch = audit(&["--by", "comm=perf"]);
    let args = [
        "record",
        "-o",
        data.to_str().unwrap(),
        "-e",
        "page-faults",
        "-c",
        "7",
        "-g",
        "sleep",
        "0.2",
    ];
    let by = run_it("perf", &args);
    let records = stop_narrowed(watch);
    let n = cpus().len();
    let (probes, told): (Vec<_>, Vec<_>) = switches(&records, by)
        .into_iter()
        // What it tries the kernel with, and the events by which it learns of mappings.
        .partition(|s| s.contains(" cpu") && !s.contains("page-faults"));
    assert_eq!(
        told,
        [
            "on sleep: page-faults by enable_on_exec".to_owned(),
            "off sleep: page-faults by target_exit".to_owned(),
        ]
    );
    let known = ["cpu-clock", "dummy"];
    for p in &probes {
        assert!(known.iter().any(|k| p.contains(&format!(": {k}"))), "{p}");
    }
    // What tells of mappings has no samples, whatever its attr asks for.
    for m in monitors_of(&records, by).filter(|m| m["name"] == "dummy") {
        assert_eq!(m["attr"]["kernel_callchain"], false, "{m}");
    }
    let on = records
        .of("prof")
        .find(|r| r["by"]["pid"] == by && r["process"]["comm"] == "sleep")
        .unwrap();
    assert!(has_flag(on, "sample"), "{on}");
    let cpu: BTreeSet<_> =
        on["monitors"].as_array().unwrap().iter().filter_map(|m| m["cpu"].as_u64()).collect();
    assert_eq!(cpu.len(), n);
    for m in on["monitors"].as_array().unwrap() {
        assert_eq!(m["attr"]["period"], 7, "{m}");
        assert_eq!(m["attr"]["kernel_callchain"], true, "{m}");
    }
}

#[test]
fn children_inherit_and_without_inheritance_do_not() {
    let Some(_turn) = live("audit") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let script = "sleep 0.1; sleep 0.1; exit 0";
    let watch = audit(&[]);
    let with = run_it("perf", &["stat", "-e", "page-faults", "sh", "-c", script]);
    let without = run_it("perf", &["stat", "-i", "-e", "page-faults", "sh", "-c", script]);
    let records = stop(watch);
    let child = ["on sh: page-faults by inherit", "off sleep: page-faults by target_exit"];
    let begin = ["on sh: page-faults by enable_on_exec"];
    let end = ["off sh: page-faults by target_exit"];
    assert_eq!(switches(&records, with), [&begin[..], &child, &child, &end].concat());
    assert_eq!(switches(&records, without), [begin, end].concat());
}

#[test]
fn killed_in_the_middle_it_is_off() {
    let Some(_turn) = live("audit") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let watch = audit(&[]);
    let mut target = start("sleep", &["60"]);
    let pid = target.id().to_string();
    let mut perf = start("perf", &["stat", "-e", TWO, "-p", &pid]);
    let by = perf.id();
    watch.until("perf to begin", |r| switches(r, by).len() == 2);
    perf.kill().unwrap();
    perf.wait().unwrap();
    watch.until("its end", |r| all_off(r, by));
    target.kill().unwrap();
    target.wait().unwrap();
    let records = stop(watch);
    assert_eq!(
        switches(&records, by),
        [
            "on sleep: page-faults by ioctl_enable".to_owned(),
            "on sleep: context-switches by ioctl_enable".to_owned(),
            format!("off sleep: {TWO} by owner_exit"),
        ]
    );
}

#[test]
fn a_program_that_profiles_itself() {
    let Some(_turn) = live("audit") else { return };
    let run = |steps: &str| {
        let steps: Vec<_> = steps.split(' ').collect();
        let mut child = start(target().to_str().unwrap(), &[&["perf"], &steps[..]].concat());
        let pid = child.id();
        assert!(child.wait().unwrap().success(), "{steps:?}");
        pid
    };
    let watch = audit(&[]);
    let ioctls = run("open sleep 50 disable sleep 20 enable reset sleep 50 close sleep 50");
    // A member of a group that is off is off, too, and goes on with it.
    let group = run("open-off member enable-group disable-group close close");
    let off = run("open-off member sleep 10 close close");
    let prctls = run("open prctl-off prctl-on close");
    // The last descriptor ends it, not the first.
    let copied = run("open dup sleep 30 close sleep 10");
    let left = run("open");
    let records = stop(watch);
    let all = |steps: &[&str]| -> Vec<String> {
        let one = |s: &&str| {
            let (whether, rest) = s.split_once(' ').unwrap();
            format!("{whether} prof-target: {rest}")
        };
        steps.iter().map(one).collect()
    };
    let pf = "page-faults:uh";
    assert_eq!(
        switches(&records, ioctls),
        all(&[
            &format!("on {pf} by perf_event_open"),
            &format!("off {pf} by ioctl_disable"),
            &format!("on {pf} by ioctl_enable"),
            &format!("off {pf} by close"),
        ])
    );
    let last = records.of("prof").filter(|r| r["by"]["pid"] == ioctls).last().unwrap();
    assert_eq!(last["monitors"][0]["changes"], serde_json::json!({ "reset": 1 }));
    // Each time that it was on by itself, and not the time between; the total has both.
    let ends = records.of("prof").filter(|r| r["by"]["pid"] == ioctls && !has_flag(r, "enable"));
    let on_ns: Vec<_> = ends.map(|r| r["monitors"][0]["on_ns"].as_u64().unwrap()).collect();
    assert_eq!(on_ns.len(), 2);
    on_ns.iter().for_each(|ns| lasted(&(*ns).into(), 50));
    assert_eq!(total(&records, ioctls, "prof-target")["on_ns"], on_ns[0] + on_ns[1]);
    assert_eq!(
        switches(&records, group),
        all(&[
            &format!("on {pf},context-switches by ioctl_enable"),
            &format!("off {pf},context-switches by ioctl_disable"),
        ])
    );
    assert_eq!(switches(&records, off), [""; 0]);
    assert_eq!(
        switches(&records, prctls),
        all(&[
            &format!("on {pf} by perf_event_open"),
            &format!("off {pf} by prctl_disable"),
            &format!("on {pf} by prctl_enable"),
            &format!("off {pf} by close"),
        ])
    );
    assert_eq!(
        switches(&records, copied),
        all(&[&format!("on {pf} by perf_event_open"), &format!("off {pf} by close")])
    );
    lasted(&total(&records, copied, "prof-target")["on_ns"], 30);
    assert_eq!(
        switches(&records, left),
        all(&[&format!("on {pf} by perf_event_open"), &format!("off {pf} by target_exit")])
    );
}

#[test]
fn what_the_kernel_refuses_is_no_switch_and_what_it_takes_is_one() {
    let Some(_turn) = live("audit") else { return };
    let run = |steps: &str| {
        let steps: Vec<_> = steps.split(' ').collect();
        run_it(target().to_str().unwrap(), &[&["perf"], &steps[..]].concat())
    };
    let watch = audit(&[]);
    // DISABLE with a direction, and with a size; REFRESH of what takes no samples.
    let refused = run(&format!("open ioctl {} ioctl {} sleep 20 close", 0x4000_2401, 0x0004_2401));
    let counts = run(&format!("open-off ioctl {} sleep 20 close", 0x2402));
    let wide = run("open wide-prctl-off sleep 20 wide-prctl-on close");
    let records = stop(watch);
    let of = |by| switches(&records, by);
    let (on, off) = (
        "on prof-target: page-faults:uh by perf_event_open",
        "off prof-target: page-faults:uh by close",
    );
    assert_eq!(of(refused), [on, off]);
    assert_eq!(of(counts), [""; 0]);
    let prctls = [
        "off prof-target: page-faults:uh by prctl_disable",
        "on prof-target: page-faults:uh by prctl_enable",
    ];
    assert_eq!(of(wide), [on, prctls[0], prctls[1], off]);
}

#[test]
fn who_waits_for_an_exec_is_not_on_while_its_child_is() {
    let Some(_turn) = live("audit") else { return };
    let watch = audit(&[]);
    // They have the same events, which the kernel may exchange when one runs after the other.
    let steps = ["perf", "open-at-exec", "child", "0.4", "sleep", "200", "close"];
    let by = run_it(target().to_str().unwrap(), &steps);
    let records = stop(watch);
    assert_eq!(
        switches(&records, by),
        ["on sleep: page-faults:uh by enable_on_exec", "off sleep: page-faults:uh by target_exit",]
    );
}

#[test]
fn who_is_profiled_in_a_container_is_in_it() {
    let Some(_turn) = live("audit") else { return };
    let id = "0123456789abcdef".repeat(4);
    let cgroup = Cgroup::for_processes(&id);
    // Nobody of the container profiles: it is the target's alone.
    let watch = audit(&["--of", "container"]);
    let mut target = start("sleep", &["60"]);
    fs::write(cgroup.dir.join("cgroup.procs"), target.id().to_string()).unwrap();
    let steps = ["perf", "open-of", &target.id().to_string(), "sleep", "100", "close"];
    let by = run_it(crate::harness::target().to_str().unwrap(), &steps);
    target.kill().unwrap();
    target.wait().unwrap();
    let records = stop_narrowed(watch);
    drop(cgroup);
    assert_eq!(
        switches(&records, by),
        ["on sleep: page-faults:uh by perf_event_open", "off sleep: page-faults:uh by close"]
    );
    let on = records.of("prof").find(|r| r["by"]["pid"] == by).unwrap();
    assert_eq!(on["process"]["container_id"], id.as_str(), "{on}");
    assert_eq!(on["by"]["container_id"], Value::Null, "{on}");
}

#[test]
fn ten_thousand_in_a_second_are_all_told() {
    let Some(_turn) = live("audit") else { return };
    // There each costs milliseconds: the kernel patches its own code for the first event.
    let n = if emulated("9,800 of 10,000 events") { 200 } else { 10_000 };
    let watch = audit(&[]);
    let by = run_it(target().to_str().unwrap(), &["perf-storm", &n.to_string(), "1"]);
    // Nothing lost, and as many on as off: `stop` looks at that.
    let records = stop(watch);
    let all = switches(&records, by);
    let on = all.iter().filter(|s| s.starts_with("on ")).count();
    assert_eq!((on, all.len()), (n, 2 * n));
    assert!(all.iter().all(|s| s.ends_with(" by perf_event_open") || s.ends_with(" by close")));
}

#[test]
fn a_buffer_that_is_too_small_is_told() {
    let Some(_turn) = live("audit") else { return };
    if emulated("events faster than they can be told") {
        return;
    }
    let watch = audit(&["--buffer", "4K"]);
    let by = run_it(target().to_str().unwrap(), &["perf-storm", "5000", "0"]);
    let records = watch.stop();
    let end = records.end();
    let lost = end["lost"]["ring_full_audit"].as_u64().unwrap_or(0);
    assert!(lost > 0, "{end}");
    // What was told goes off all the same: the events themselves were looked at. Those
    // that the end of their owner ended are told together.
    let of = |on: bool| -> usize {
        let is = |r: &&Value| r["by"]["pid"] == by && has_flag(r, "enable") == on;
        records.of("prof").filter(is).map(|r| r["monitors"].as_array().unwrap().len()).sum()
    };
    assert!(of(true) > 0);
    assert_eq!(of(true), of(false), "{end}");
    assert_eq!(count(end, "unaccounted"), 0, "{end}");
}
