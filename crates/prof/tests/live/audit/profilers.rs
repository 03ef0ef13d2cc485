//! Profilers by their names, each in ways of its own. What they do is what `strace` shows
//! of them.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use super::*;

/// Of all that perf's recording commands do, what is not to try the kernel: first they open
/// `cpu-clock` a few times, in user mode and for a moment.
fn without_probes(told: Vec<String>) -> Vec<String> {
    let is_probe = |s: &String| s.contains(" cpu") && s.contains(": cpu-clock:u");
    let (probes, rest): (Vec<_>, Vec<_>) = told.into_iter().partition(is_probe);
    let on = probes.iter().filter(|s| s.starts_with("on ")).count();
    assert_eq!(2 * on, probes.len(), "{probes:#?}");
    rest
}

/// A thing on each CPU, one by one, then another.
fn each_cpu(lines: &[&str]) -> Vec<String> {
    let times = cpus().len();
    lines.iter().flat_map(|l| std::iter::repeat_n((*l).to_owned(), times)).collect()
}

fn sorted(mut all: Vec<String>) -> Vec<String> {
    all.sort_unstable();
    all
}

#[test]
fn perf_record_of_a_process_that_runs() {
    let Some(_turn) = live("audit of perf record -p") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let record = ["record", "-o", "/dev/null", "-e", "page-faults", "-c", "7"];
    let watch = audit(&[]);
    let mut target = start("sleep", &["60"]);
    let pid = target.id().to_string();
    let ended = run_it("perf", &[&record[..], &["-p", &pid, "sleep", "0.2"]].concat());
    let mut perf = start("perf", &[&record[..], &["-p", &pid]].concat());
    let killed = perf.id();
    let on = |r: &Records| {
        let on = |s: &&String| s.starts_with("on sleep: page-faults");
        switches(r, killed).iter().filter(on).count() == cpus().len()
    };
    watch.until("perf to begin", on);
    signal(killed, libc::SIGKILL);
    perf.wait().unwrap();
    watch.until("its end", |r| all_off(r, killed));
    target.kill().unwrap();
    target.wait().unwrap();
    let records = stop(watch);
    // An event on each CPU, though it is of one process; beside it, what tells of mappings.
    let begins =
        each_cpu(&["on sleep: dummy by perf_event_open", "on sleep: page-faults by ioctl_enable"]);
    let ends = each_cpu(&["off sleep: page-faults by ioctl_disable", "off sleep: dummy by close"]);
    assert_eq!(without_probes(switches(&records, ended)), [begins.clone(), ends].concat());
    lasted(&total(&records, ended, "sleep")["on_ns"], 200);
    let all = vec!["off sleep: page-faults,dummy by owner_exit".to_owned()];
    assert_eq!(without_probes(switches(&records, killed)), [begins, all].concat());
}

#[test]
fn perf_record_that_is_told_when() {
    let Some(_turn) = live("audit of perf record --control") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let fifo = |name: &str| {
        let path = dir.path().join(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path.to_str().unwrap().to_owned()
    };
    let (control, ack) = (fifo("control"), fifo("ack"));
    // Fifos wait for whoever is at the other end: not for ever.
    let sh = |script: &str| {
        assert!(
            Command::new("timeout").args(["60", "sh", "-c", script]).status().unwrap().success()
        );
    };
    let told = |what: &str| {
        sh(&format!("echo {what} > {control} & head -n 1 {ack} > /dev/null; wait"));
    };
    let watch = audit(&[]);
    let to = format!("--control=fifo:{control},{ack}");
    let mut target = start("sleep", &["60"]);
    let pid = target.id().to_string();
    let args = ["record", "-o", "/dev/null", "-D", "-1", &to, "-e", "page-faults", "-c", "7"];
    let mut perf = start("perf", &[&args[..], &["-p", &pid]].concat());
    let by = perf.id();
    told("enable");
    told("disable");
    told("enable");
    // That it may not answer any more.
    sh(&format!("echo stop > {control}"));
    perf.wait().unwrap();
    target.kill().unwrap();
    target.wait().unwrap();
    let records = stop(watch);
    let mut of_sleep = without_probes(switches(&records, by));
    // What tells of mappings is on before.
    of_sleep.retain(|s| s.contains("page-faults"));
    let on = "on sleep: page-faults by ioctl_enable";
    let off = "off sleep: page-faults by ioctl_disable";
    assert_eq!(of_sleep, each_cpu(&[on, off, on, off]));
}

#[test]
fn perf_stat_again_and_of_a_group() {
    let Some(_turn) = live("audit of perf stat -r") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let watch = audit(&[]);
    let again = run_it("perf", &["stat", "-r", "3", "-e", "page-faults", "sleep", "0.05"]);
    let group = format!("{{{TWO}}}");
    let grouped = run_it("perf", &["stat", "-e", &group, "sleep", "0.05"]);
    let records = stop(watch);
    let once = ["on sleep: page-faults by enable_on_exec", "off sleep: page-faults by target_exit"];
    assert_eq!(switches(&records, again), [once, once, once].concat());
    assert_eq!(
        switches(&records, grouped),
        [format!("on sleep: {TWO} by enable_on_exec"), format!("off sleep: {TWO} by target_exit")]
    );
    // The second waits for the first, not for the exec.
    let on = records.of("prof").find(|r| r["by"]["pid"] == grouped).unwrap();
    let monitors = on["monitors"].as_array().unwrap();
    assert_eq!(monitors[1]["leader"], monitors[0]["id"]);
    let waits: Vec<_> = monitors.iter().map(|m| m["attr"]["enable_on_exec"].clone()).collect();
    assert_eq!(waits, [true, false]);
}

#[test]
fn perf_top_of_all_and_of_a_process() {
    let Some(_turn) = live("audit of perf top") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let watch = audit(&[]);
    let mut target = start("sleep", &["60"]);
    let pid = target.id().to_string();
    let top = |what: &[&str]| {
        let mut perf = Command::new("perf")
            .args([&["top", "--stdio", "-e", "page-faults", "-c", "1000"], what].concat())
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let by = perf.id();
        let began = |r: &Records| switches(r, by).iter().any(|s| s.contains(": page-faults"));
        watch.until("perf top to begin", began);
        // As somebody at the keyboard ends it; it asks for keys once a second or so.
        let mut keys = perf.stdin.take().unwrap();
        while perf.try_wait().unwrap().is_none() {
            let _ = keys.write_all(b"q");
            thread::sleep(Duration::from_millis(100));
        }
        by
    };
    let (all, one) = (top(&[]), top(&["-p", &pid]));
    target.kill().unwrap();
    target.wait().unwrap();
    let records = stop(watch);
    let of_all = [
        "on CPU: dummy by perf_event_open",
        "on CPU: page-faults by ioctl_enable",
        "off CPU: dummy by close",
        "off CPU: page-faults by close",
    ];
    assert_eq!(without_probes(switches(&records, all)), on_each_cpu("", &of_all));
    assert_eq!(
        without_probes(switches(&records, one)),
        [
            "on sleep: dummy by perf_event_open",
            "on sleep: page-faults by ioctl_enable",
            "off sleep: dummy by close",
            "off sleep: page-faults by close",
        ]
    );
}

#[test]
fn perf_trace_of_system_calls() {
    let Some(_turn) = live("audit of perf trace") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let watch = audit(&[]);
    let trace = ["trace", "-o", "/dev/null", "-e", "nanosleep,clock_nanosleep", "sleep", "0.1"];
    let by = run_it("perf", &trace);
    let records = stop(watch);
    let two = "raw_syscalls:sys_enter,raw_syscalls:sys_exit";
    assert_eq!(
        without_probes(switches(&records, by)),
        [format!("on sleep: {two} by enable_on_exec"), format!("off sleep: {two} by target_exit")]
    );
    // Two events on each CPU; the system calls are chosen by a filter.
    let off = records.of("prof").filter(|r| r["by"]["pid"] == by).last().unwrap();
    let monitors = off["monitors"].as_array().unwrap();
    assert_eq!(monitors.len(), 2 * cpus().len());
    assert!(monitors.iter().all(|m| m["changes"]["filter"] == 1), "{off:#}");
}

/// What unprivileged users may ask perf for; as it was, afterwards.
struct Paranoid(String);

impl Paranoid {
    const FILE: &str = "/proc/sys/kernel/perf_event_paranoid";

    fn set(level: &str) -> Self {
        let before = fs::read_to_string(Self::FILE).unwrap();
        fs::write(Self::FILE, level).unwrap();
        Self(before)
    }
}

impl Drop for Paranoid {
    fn drop(&mut self) {
        let _ = fs::write(Self::FILE, &self.0);
    }
}

/// Where CI installs it, or wherever it is.
fn samply() -> Option<PathBuf> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/bin/samply");
    let own = Path::new(own);
    if own.is_file() {
        return Some(own.into());
    }
    let cure = "samply: cargo install --locked --debug --root target/tools samply@0.13.1";
    has("samply", cure).then(|| "samply".into())
}

#[test]
fn samply_records_a_command_and_a_process_that_runs() {
    let Some(_turn) = live("audit of samply") else { return };
    let Some(samply) = samply() else { return };
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("profile.json");
    let record = ["record", "--save-only", "-o", profile.to_str().unwrap()];
    // Where there is no cycle counter, it takes a refusal for one of rights above this.
    let paranoid = Paranoid::set("1");
    let watch = audit(&[]);
    let samply = samply.to_str().unwrap();
    let script = "sleep 0.2; exit 0";
    let command = run_it(samply, &[&record[..], &["sh", "-c", script]].concat());
    let mut target = start("sleep", &["60"]);
    let pid = target.id().to_string();
    let mut attached = start(samply, &[&record[..], &["-p", &pid]].concat());
    let by = attached.id();
    watch.until("samply to begin", |r| switches(r, by).len() == cpus().len());
    signal(by, libc::SIGINT);
    attached.wait().unwrap();
    watch.until("its end", |r| all_off(r, by));
    target.kill().unwrap();
    target.wait().unwrap();
    let records = stop(watch);
    drop(paranoid);
    // An event on each CPU: the machine's cycles, or its clock where they cannot be had.
    let first = monitors_of(&records, command).next().expect("an event");
    let event = first["name"].as_str().unwrap();
    assert!(["cycles", "cpu-clock"].contains(&event), "{first}");
    assert_eq!(
        switches(&records, command),
        [
            format!("on sh: {event} by enable_on_exec"),
            format!("on sh: {event} by inherit"),
            format!("off sleep: {event} by target_exit"),
            format!("off sh: {event} by target_exit"),
        ]
    );
    for m in monitors_of(&records, command).chain(monitors_of(&records, by)) {
        let attr = &m["attr"];
        // Of a clock, the kernel makes a period of a frequency.
        assert!(attr["freq"] == 1000 || attr["period"] == 1_000_000, "{m}");
        assert_eq!(attr["callchain"], false, "{m}");
        // It unwinds by itself.
        assert!(attr["stack_bytes"].as_u64().unwrap() >= 4096, "{m}");
    }
    let on = each_cpu(&[&format!("on sleep: {event} by ioctl_enable")]);
    // Whether it closes them or just exits is a matter of which of its threads is first.
    let closed = each_cpu(&[&format!("off sleep: {event} by close")]);
    let off = vec![format!("off sleep: {event} by owner_exit")];
    let told = switches(&records, by);
    assert!(told == [&on[..], &off].concat() || told == [on, closed].concat(), "{told:#?}");
}

/// Kernel headers for bcc, which compiles its programs where they run. Any will do for
/// programs that look at nothing of the kernel's own.
struct Headers(tempfile::TempDir);

impl Headers {
    /// Debian's, which are in two folders, put together.
    fn find() -> Option<Self> {
        let all = fs::read_dir("/usr/src").into_iter().flatten().flatten();
        let all: Vec<_> = all.filter_map(|e| e.file_name().into_string().ok()).collect();
        let found = all.iter().find_map(|of| {
            let common = of.strip_suffix("-common")?;
            let flavor = all.iter().find(|f| *f != of && f.starts_with(&format!("{common}-")))?;
            Some(format!("ro,lowerdir=/usr/src/{flavor}:/usr/src/{of}"))
        });
        let Some(layers) = found else {
            skip("bcc", "no headers in /usr/src (apt-get install linux-headers-cloud-amd64)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "-o", &layers, "none"]).arg(dir.path());
        assert!(mount.status().unwrap().success(), "an overlay of {layers}");
        Some(Self(dir))
    }

    fn run(&self, program: &str, args: &[&str]) -> u32 {
        let mut child = Command::new(program)
            .args(args)
            .env("BCC_KERNEL_SOURCE", self.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        assert!(child.wait().unwrap().success(), "{program} {args:?}");
        pid
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn bcc_samples_and_counts() {
    let Some(_turn) = live("audit of bcc") else { return };
    if !has("profile-bpfcc", "bpfcc-tools") || !has("funccount-bpfcc", "bpfcc-tools") {
        return;
    }
    let Some(headers) = Headers::find() else { return };
    let program = target().to_str().unwrap();
    let watch = audit(&[]);
    let profile = headers.run("profile-bpfcc", &["-F", "49", "1"]);
    let tracepoint = headers.run("funccount-bpfcc", &["-d", "1", "t:sched:sched_process_exec"]);
    let uprobe = headers.run("funccount-bpfcc", &["-d", "1", &format!("{program}:main")]);
    let records = stop(watch);
    let clocks = ["on CPU: cpu-clock by perf_event_open", "off CPU: cpu-clock by ioctl_disable"];
    assert_eq!(switches(&records, profile), on_each_cpu("", &clocks));
    lasted(&monitors_of(&records, profile).last().unwrap()["on_ns"], 1000);
    let event = "cpu0: sched:sched_process_exec";
    assert_eq!(
        switches(&records, tracepoint),
        [format!("on {event} by perf_event_open"), format!("off {event} by ioctl_disable")]
    );
    let place = monitors_of(&records, uprobe).next().unwrap()["name"].as_str().unwrap().to_owned();
    assert!(place.starts_with("uprobe:"), "{place}");
    assert_eq!(
        switches(&records, uprobe),
        [
            format!("on cpu0: {place} by perf_event_open"),
            format!("off cpu0: {place} by ioctl_disable")
        ]
    );
    // Its program was put there after it was opened.
    for by in [profile, tracepoint, uprobe] {
        let last = monitors_of(&records, by).last().unwrap();
        assert!(last["bpf_prog"].is_number() && last["changes"]["bpf"] == 1, "{last}");
    }
}

#[test]
fn tools_of_libbpf() {
    let Some(_turn) = live("audit of libbpf-tools") else { return };
    for tool in ["cpudist", "execsnoop", "funclatency"] {
        if !has(tool, "libbpf-tools") {
            return;
        }
    }
    let watch = audit(&[]);
    let cpudist = run_it("cpudist", &["1", "1"]);
    let until = |program: &str, args: &[&str], n: usize| {
        let mut child = start(program, args);
        let by = child.id();
        watch.until(program, |r| switches(r, by).len() == n);
        signal(by, libc::SIGINT);
        child.wait().unwrap();
        by
    };
    let execsnoop = until("execsnoop", &[], 2 + cpus().len());
    let place = format!("{}:main", target().display());
    let funclatency = until("funclatency", &[&place], 2);
    let records = stop(watch);
    let link = monitors_of(&records, cpudist).next().unwrap()["name"].as_str().unwrap().to_owned();
    assert!(["raw_tracepoint:sched_switch", "tp_btf:sched_switch"].contains(&link.as_str()));
    assert_eq!(
        switches(&records, cpudist),
        [format!("on host: {link} by bpf_link_create"), format!("off host: {link} by close")]
    );
    let mut snoops = Vec::new();
    for (whether, how) in [("on", "perf_event_open"), ("off", "ioctl_disable")] {
        for event in ["syscalls:sys_enter_execve", "syscalls:sys_exit_execve"] {
            snoops.push(format!("{whether} cpu0: {event} by {how}"));
        }
        snoops.extend(cpus().iter().map(|c| format!("{whether} cpu{c}: bpf-output by {how}")));
    }
    assert_eq!(sorted(switches(&records, execsnoop)), sorted(snoops));
    let names: BTreeSet<_> = monitors_of(&records, funclatency)
        .map(|m| m["name"].as_str().unwrap().rsplit_once(':').unwrap())
        .collect();
    // Both ends of the function.
    let places: BTreeSet<_> = names.iter().map(|(_, offset)| offset).collect();
    assert_eq!((names.len(), places.len()), (2, 1), "{names:?}");
    let probes: Vec<_> = names.iter().map(|(a, b)| format!("cpu0: {a}:{b}")).collect();
    assert_eq!(
        sorted(switches(&records, funclatency)),
        sorted(
            probes
                .iter()
                .flat_map(|p| [
                    format!("on {p} by perf_event_open"),
                    format!("off {p} by ioctl_disable")
                ])
                .collect()
        )
    );
}
