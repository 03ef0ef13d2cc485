//! Those that are no perf: BPF programs, another prof, tracers, tracefs.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use super::*;

#[test]
fn programs_of_bpftrace() {
    let Some(_turn) = live("list of bpftrace") else { return };
    if !has("bpftrace", "bpftrace") {
        return;
    }
    let program = target().to_str().expect("a path");
    let script = format!(
        "tracepoint:sched:sched_process_exec {{ @ = count(); }} \
         profile:hz:50 {{ @a = count(); }} uprobe:{program}:main {{ @b = count(); }}"
    );
    // It wants more locked memory than a container gives; kernels since 5.11 do not.
    let trace = Running::start(
        Command::new("bpftrace").arg("-e").arg(&script).env("BPFTRACE_NO_USER_SYMBOLS", "1"),
    );
    let began = Instant::now();
    let all = loop {
        let all = by(trace.pid(), &list());
        let has = |what: &str| {
            all.iter().any(|r| r["name"].as_str().is_some_and(|n| n.starts_with(what)))
        };
        if has("uprobe:") && has("sched:") && has("cpu-clock") && has("bpf-output") {
            break all;
        }
        assert!(began.elapsed() < PATIENCE, "{all:#?}");
        thread::sleep(Duration::from_millis(50));
    };
    let uprobe = all
        .iter()
        .filter_map(|r| r["name"].as_str())
        .find(|n| n.starts_with("uprobe:"))
        .expect("a uprobe");
    assert!(uprobe.starts_with(&format!("uprobe:{program}:0x")), "{uprobe}");
    let mut lines = vec![
        "host: sched:sched_process_exec every 1 by BPF on".to_owned(),
        format!("host: {uprobe} every 1 by BPF on"),
    ];
    for cpu in online() {
        // 50 a second, of which the kernel makes a period in ns.
        lines.push(format!("cpu {cpu}: cpu-clock every 20000000 by BPF on"));
        // Where programs put out what they print.
        lines.push(format!("cpu {cpu}: bpf-output every 1 on"));
    }
    let all = expect(&trace, lines);
    let named = |r: &&Value| r["program"]["name"] == "sched_process_e";
    let program = &all.iter().find(named).expect("its program")["program"];
    assert!(program["id"].as_u64().is_some_and(|id| id > 0) && program["uid"] == 0, "{program}");
    signal(trace.pid(), libc::SIGINT);
}

#[test]
fn another_prof_is_told_as_any_profiler() {
    let Some(_turn) = live("list of another prof") else { return };
    if hooks().is_some_and(|h| h != "raw_tp") {
        return;
    }
    // Told to all of a machine, or to this one.
    let own: &[&str] = if hooks().is_some() { &[] } else { &["--hooks", "raw_tp"] };
    let watch = Watch::start(&[&["-s", "comm=nobody"], own].concat());
    let all = by(watch.pid(), &list());
    let pid = watch.pid();
    let records = watch.stop();
    let header = records.of("header").next().expect("a header");
    let mut expected: Vec<String> = header["attached"]
        .as_array()
        .expect("attached")
        .iter()
        .filter(|a| a["how"] == "raw_tp")
        .map(|a| format!("host: raw_tracepoint:{} by BPF on", a["hook"].as_str().expect("a hook")))
        .collect();
    expected.sort_unstable();
    let links: Vec<_> = all.iter().filter(|r| r["through"] == "bpf_link").collect();
    let mut found: Vec<String> = links.iter().map(|r| line(r)).collect();
    found.sort_unstable();
    assert!(expected.len() >= 3, "{header}");
    assert_eq!(found, expected);
    for r in links {
        assert_eq!(r["holders"][0]["process"]["pid"], pid);
        assert!(r["program"]["loaded"].is_string(), "{r}");
    }
}

#[test]
fn tracers() {
    let Some(_turn) = live("list of strace and gdb") else { return };
    for (program, args) in [("strace", vec!["-o", "/dev/null"]), ("gdb", vec!["-q", "-nx"])] {
        if !has(program, program) {
            continue;
        }
        let target = Running::sleep();
        // gdb reads from its standard input, which stays open.
        let pid = target.pid().to_string();
        let tracer = Running::start(Command::new(program).args(args).args(["-p", &pid]));
        let all = expect(&tracer, vec![format!("{pid}: ptrace on")]);
        assert_eq!(all[0]["by"]["comm"], program);
        assert_eq!((&all[0]["kind"], &all[0]["through"]), (&"ptrace".into(), &"ptrace".into()));
        drop(tracer);
    }
}

/// What was made in the tracing file system, and is removed with the test.
struct Made {
    root: PathBuf,
    instance: PathBuf,
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.instance);
        let _ = append(&self.root.join("uprobe_events"), "-:proflist/place\n");
    }
}

fn append(file: &Path, text: &str) -> std::io::Result<()> {
    fs::OpenOptions::new().append(true).open(file)?.write_all(text.as_bytes())
}

#[test]
fn what_is_on_in_tracefs() {
    let Some(_turn) = live("list of tracefs") else { return };
    let root = PathBuf::from("/sys/kernel/tracing");
    if !root.join("instances").is_dir() {
        assert!(!has("tracefs", "mount -t tracefs tracefs /sys/kernel/tracing"));
        return;
    }
    let of_tracefs = || -> Vec<(String, String, String)> {
        let text = |v: &Value| v.as_str().expect("text").to_owned();
        let all = list().into_iter().filter(|r| r["through"] == "tracefs");
        let what = |r: Value| (text(&r["tracefs"]["file"]), text(&r["name"]), text(&r["state"]));
        all.map(what)
            .filter(|(f, n, _)| f.contains("prof-list") || n.contains("proflist"))
            .collect()
    };
    let instance = root.join("instances/prof-list");
    fs::create_dir_all(&instance).expect("an instance");
    let made = Made { root: root.clone(), instance: instance.clone() };
    append(&instance.join("set_event"), "sched:sched_process_exec\n").expect("an event on");
    let mut expected = vec![(
        "instances/prof-list/set_event".to_owned(),
        "sched:sched_process_exec".to_owned(),
        "on".to_owned(),
    )];
    if root.join("uprobe_events").exists() {
        append(&root.join("uprobe_events"), "p:proflist/place /bin/sh:0x1000\n").expect("a probe");
        let file = fs::canonicalize("/bin/sh").expect("a shell");
        // 6.1 shows the path as it was given, and all show the offset with all its digits.
        let shown = of_tracefs().into_iter().map(|(_, n, _)| n).find(|n| n.contains("proflist"));
        let shown = shown.expect("the probe");
        let (place, name) = shown.split_once(" (").expect("a name");
        assert_eq!(name, "proflist:place)");
        let (path, offset) =
            place.strip_prefix("uprobe:").expect("a uprobe").rsplit_once(':').expect("an offset");
        assert_eq!(fs::canonicalize(path).expect("a file"), file);
        assert_eq!(u64::from_str_radix(&offset[2..], 16), Ok(0x1000));
        expected.push(("uprobe_events".into(), shown, "off".into()));
    }
    assert_eq!(of_tracefs(), expected);
    fs::write(instance.join("tracing_on"), "0").expect("switched off");
    assert_eq!(of_tracefs()[0].2, "off");
    drop(made);
    assert_eq!(of_tracefs(), []);
}
