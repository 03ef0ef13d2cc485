//! Those that are no perf: debuggers, BPF programs, tracefs, another prof; and tracee's
//! output.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::*;

#[test]
fn debuggers_and_tracers() {
    let Some(_turn) = live("audit") else { return };
    if !has("strace", "strace") {
        return;
    }
    let watch = audit(&[]);
    let mut target = start("sleep", &["60"]);
    let pid = target.id().to_string();
    let mut strace = start("strace", &["-o", "/dev/null", "-p", &pid]);
    let by = strace.id();
    // Before that it tries the kernel with a child of its own.
    watch.until("strace to begin", |r| switches(r, by).iter().any(|s| s.contains("sleep")));
    signal(by, libc::SIGINT);
    strace.wait().unwrap();
    let gdb = has("gdb", "gdb").then(|| run_it("gdb", &["-batch", "-ex", "detach", "-p", &pid]));
    // It tries what ptrace can do on children of its own, and asks for their names.
    let follow = run_it("strace", &["-f", "-o", "/dev/null", "sh", "-c", "sleep 0.1; exit 0"]);
    target.kill().unwrap();
    target.wait().unwrap();
    let records = stop(watch);
    let of = |by| {
        let mut all = switches(&records, by);
        all.retain(|s| s.contains("sleep") || s.contains(" sh:"));
        all
    };
    assert_eq!(of(by), ["on sleep: ptrace by ptrace_seize", "off sleep: ptrace by ptrace_detach"]);
    if let Some(gdb) = gdb {
        assert_eq!(
            of(gdb),
            ["on sleep: ptrace by ptrace_attach", "off sleep: ptrace by ptrace_detach"]
        );
    }
    // strace seizes what will be sh before it executes it.
    assert_eq!(
        of(follow),
        [
            "on sh: ptrace by inherit",
            "off sleep: ptrace by target_exit",
            "off sh: ptrace by target_exit"
        ]
    );
}

#[test]
fn bpftrace_samples_each_cpu() {
    let Some(_turn) = live("audit") else { return };
    if !has("bpftrace", "bpftrace") {
        return;
    }
    let watch = audit(&[]);
    let program = "profile:hz:99 { @ = count(); } interval:s:1 { exit(); }";
    let by = run_it("bpftrace", &["-e", program]);
    let records = stop(watch);
    let mut told = switches(&records, by);
    // By this it learns whether the kernel has links to many functions.
    // Where it has, one is there for a moment, too short for anybody to ask it of what.
    told.retain(|s| !s.contains(":ksys_read by ") && !s.contains("kprobe_multi:"));
    // One by one, in an order of its own: the timer of each CPU, that of the interval,
    // which is on the first, and the buffers for what programs say.
    let mut expected = Vec::new();
    for (whether, how) in [("on", "perf_event_open"), ("off", "ioctl_disable")] {
        expected.push(format!("{whether} cpu{}: cpu-clock by {how}", cpus()[0]));
        for cpu in cpus() {
            expected.push(format!("{whether} cpu{cpu}: cpu-clock by {how}"));
            expected.push(format!("{whether} cpu{cpu}: bpf-output by {how}"));
        }
    }
    told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(told, expected);
    // Their programs are put there when they are on.
    let mut clocks = Vec::new();
    for cpu in [&cpus()[..1], &cpus()].concat() {
        for whether in ["on", "off"] {
            clocks.push(format!("{whether} cpu{cpu}: cpu-clock by ioctl_set_bpf"));
        }
    }
    let mut anew = anew(&records, by);
    anew.sort_unstable();
    clocks.sort_unstable();
    assert_eq!(anew, clocks);
    let with_program = |r: &&Value| {
        r["by"]["pid"] == by
            && !has_flag(r, "enable")
            && r["monitors"][0]["name"] == "cpu-clock"
            && r["monitors"][0]["bpf_prog"].is_number()
    };
    assert_eq!(records.of("prof").filter(with_program).count(), cpus().len() + 1);
}

#[test]
fn what_is_switched_on_in_tracefs() {
    let Some(_turn) = live("audit") else { return };
    let root = "/sys/kernel/tracing";
    let file = "events/sched/sched_process_wait/enable";
    let write = |text: &str| {
        // A shell that has nothing left to do becomes its last command.
        let script = format!("echo {text} > {root}/{file}; sleep 0.3; true");
        run_it("sh", &["-c", &script])
    };
    let watch = audit(&[]);
    let by = write("1");
    write("0");
    let records = stop(watch);
    assert_eq!(
        // Off is told of who switched it on.
        switches(&records, by),
        [
            format!("on host: tracefs:{file} by tracefs"),
            format!("off host: tracefs:{file} by tracefs")
        ]
    );
    let on = records.of("prof").find(|r| r["by"]["pid"] == by).unwrap();
    assert_eq!((&on["by"]["comm"], &on["monitors"][0]["text"]), (&"sh".into(), &"1\n".into()));
}

/// Whatever switches an event, and whatever switches it off again.
#[test]
fn tracefs_is_compared_as_a_whole() {
    let Some(_turn) = live("audit of tracefs") else { return };
    let root = "/sys/kernel/tracing";
    let watch = audit(&[]);
    // Each step is waited for: what is on and off again in between nobody sees.
    let step =
        |script: &str| run_it("sh", &["-c", &format!("cd {root}; {script}; sleep 0.3; true")]);
    let wait = "events/sched/sched_process_wait/enable";
    let fork = "events/sched/sched_process_fork/enable";
    let on = step("echo sched:sched_process_wait >> set_event");
    let second = step("echo sched:sched_process_fork >> set_event");
    step("echo 0 > events/sched/sched_process_wait/enable");
    step(": > set_event");
    let instance = "instances/prof-audit-test";
    let inside =
        step(&format!("mkdir {instance}; echo sched:sched_process_wait > {instance}/set_event"));
    step(&format!("rmdir {instance}"));
    let probes = fs::exists(format!("{root}/uprobe_events")).unwrap();
    let (mut one, mut two, mut three, mut other) = (0, 0, 0, 0);
    if probes {
        one = step("echo 'p:profaudit/one /bin/sh:0x1000' >> uprobe_events");
        two = step("echo 'p:profaudit/two /bin/sh:0x1004' >> uprobe_events");
        three = step("echo 'p:profaudit/three /bin/sh:0x1008' >> uprobe_events");
        other = step("echo 'p:profother/one /bin/sh:0x1000' >> uprobe_events");
        // One behind another, and one that others are behind, each by itself.
        step("echo '-:profaudit/two' >> uprobe_events");
        step("echo '-:profaudit/one' >> uprobe_events");
        // What is left of a group, by its name alone.
        step("echo 'p:profaudit/four /bin/sh:0x100c' >> uprobe_events");
        step("echo '-:profaudit/' >> uprobe_events");
        step("echo '-:profother/one' >> uprobe_events");
    }
    let records = stop(watch);
    let pair = |file: &str, off: &str| {
        let name = format!("host: tracefs:{file}");
        [format!("on {name} by tracefs"), format!("off {name} by {off}")]
    };
    assert_eq!(switches(&records, on), pair(wait, "tracefs"));
    assert_eq!(switches(&records, second), pair(fork, "tracefs"));
    assert_eq!(switches(&records, inside), pair(&format!("{instance}/{wait}"), "found"));
    if probes {
        let all = [
            (one, "profaudit/one"),
            (two, "profaudit/two"),
            (three, "profaudit/three"),
            (other, "profother/one"),
        ];
        for (by, name) in all {
            assert_eq!(switches(&records, by), pair("uprobe_events", "tracefs"));
            let text = &monitors_of(&records, by).next().unwrap()["text"];
            assert!(text.as_str().unwrap().contains(name), "{text}");
        }
    }
    // In the order in which they went, and nothing went twice.
    let uprobes = |r: &&Value| {
        r["events"][0] == "tracefs:uprobe_events"
            && has_flag(r, "foreign")
            && !has_flag(r, "enable")
    };
    let name = |r: &Value| {
        let text = r["monitors"][0]["text"].as_str().unwrap().to_owned();
        text.split([' ', ':']).nth(1).unwrap().to_owned()
    };
    let mut went: Vec<_> = records.of("prof").filter(uprobes).map(name).collect();
    if probes {
        // A group goes at once.
        went[2..4].sort_unstable();
        let four = ["profaudit/four", "profaudit/three"];
        assert_eq!(went, ["profaudit/two", "profaudit/one", four[0], four[1], "profother/one"]);
    }
    // Who wrote is told as everybody else is.
    let by = &records.of("prof").find(|r| r["by"]["pid"] == on).unwrap()["by"];
    assert!(count(by, "cgroup_id") > 0 && count(by, "mntns") > 0, "{by}");
}

/// What /proc alone does not say: when exactly it was started, and how many programs it has
/// executed.
#[test]
fn who_writes_to_tracefs_is_who_else_is_met() {
    let Some(_turn) = live("audit of who writes to tracefs") else { return };
    let file = "/sys/kernel/tracing/events/sched/sched_process_wait/enable";
    let perf = format!("{} perf open close", target().display());
    let script = format!("echo 1 > {file}; sleep 0.3; echo 0 > {file}; sleep 0.3; exec {perf}");
    let watch = audit(&[]);
    let by = run_it("sh", &["-c", &script]);
    let records = stop(watch);
    let of: Vec<_> = records.of("prof").filter(|r| r["by"]["pid"] == by).collect();
    let hooks: Vec<_> = of.iter().map(|r| r["hook"].as_str().unwrap()).collect();
    assert_eq!(hooks, ["tracefs", "tracefs", "perf_event_open", "close"]);
    for r in &of {
        assert_eq!(r["by"]["start_ns"], of[3]["by"]["start_ns"], "{r}");
    }
    // The shell, and what it became.
    assert_eq!((&of[0]["by"]["exec"], &of[2]["by"]["exec"]), (&1.into(), &2.into()));
}

#[test]
fn another_prof_is_somebody_else() {
    let Some(_turn) = live("audit") else { return };
    if kprobes("the links of another prof") {
        return;
    }
    let watch = audit(&["--by", "comm=prof"]);
    let run = run(&["-e", "page-faults"], &["true"]);
    assert!(run.output.status.success());
    let records = stop_narrowed(watch);
    let exe = fs::canonicalize(prof()).unwrap();
    let is = |r: &&Value| r["by"]["exe"] == exe.to_str().unwrap();
    let by = count(&records.of("prof").find(is).unwrap()["by"], "pid") as u32;
    let told = switches(&records, by);
    // Its hooks, each attached by a link, and off with it; called as the list calls them,
    // which the kernel has for programs with types (`tp_btf`), too.
    for hook in ["sched_process_exit", "sched_process_fork", "sched_process_exec"] {
        let of = |whether: &str| {
            let start = format!("{whether} host: raw_tracepoint:{hook} by ");
            told.iter().filter(|s| s.starts_with(&start)).count()
        };
        assert_eq!((of("on"), of("off")), (1, 1), "{hook}: {told:#?}");
    }
}

#[test]
fn tracee_s_output_has_who_whom_and_what() {
    let Some(_turn) = live("audit") else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("tracee.json");
    let watch = audit(&["-o", &format!("tracee:{}", out.display())]);
    let by = run_it(target().to_str().unwrap(), &["perf", "open", "sleep", "20", "close"]);
    stop(watch);
    let events: Vec<Value> = fs::read_to_string(&out)
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .filter(|e: &Value| arg(e, "by_pid") == by)
        .collect();
    assert_eq!(events.len(), 2);
    for (e, interface) in events.iter().zip(["perf_event_open", "close"]) {
        assert_eq!(e["eventName"], "prof");
        assert_eq!(e["argsNum"], e["args"].as_array().unwrap().len());
        assert_eq!(e["hostProcessId"], by);
        assert_eq!(arg(e, "EVENTS"), serde_json::json!([0x0100_0002]));
        assert_eq!(arg(e, "interface"), interface);
        assert_eq!(arg(e, "target"), "process");
        assert_eq!(arg(e, "names"), "page-faults:uh");
        // foreign
        assert_eq!(arg(e, "FLAGS").as_u64().unwrap() & 0x80, 0x80);
    }
    lasted(&arg(&events[1], "on_ns"), 20);
}

fn arg(event: &Value, name: &str) -> Value {
    let args = event["args"].as_array().unwrap();
    args.iter().find(|a| a["name"] == name).map_or(Value::Null, |a| a["value"].clone())
}

/// The rest is heard of late, or by nobody: a program that holds a descriptor for another.
#[test]
fn an_event_whose_descriptor_another_has_ends_when_that_ends() {
    let Some(_turn) = live("audit") else { return };
    let watch = audit(&[]);
    // The shell's child inherits the descriptor over its exec, and outlives who opened.
    let script = format!("{} perf-hold 300", target().display());
    let mut child = start("sh", &["-c", &script]);
    child.wait().unwrap();
    thread::sleep(Duration::from_millis(600));
    let records = stop(watch);
    let told: Vec<_> = records
        .of("prof")
        .filter(|r| r["target"]["kind"] == "cpu" && r["by"]["comm"] == "prof-target")
        .collect();
    assert_eq!(told.iter().map(|r| has_flag(r, "enable")).collect::<Vec<_>>(), [true, false]);
    let (how, notes) =
        if super::hooks::by_functions(&records) { ("close", 0) } else { ("found", 1) };
    assert_eq!(told[1]["hook"], how, "{:#}", told[1]);
    assert_eq!(told[1]["notes"].as_array().map_or(0, Vec::len), notes, "{:#}", told[1]);
    // It went on after its owner's exit, for as long as the other slept.
    lasted(&told[1]["monitors"][0]["on_ns"], 300);
}
