//! A program notices that somebody attaches, and what it says arrives.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use prof_kernel::usdt::Name;
use prof_kernel::usdt::Probe;
use prof_kernel::usdt::find;

use crate::programs::build;
use crate::programs::build_files;
use crate::programs::this;

/// Longest that something may take to be seen.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(target_arch = "aarch64")]
const REGISTERS: [&str; 2] = ["%x0", "%x1"];
#[cfg(not(target_arch = "aarch64"))]
const REGISTERS: [&str; 2] = ["%di", "%si"];

/// The folder of tracefs, if this test can run; if not, says so, and fails where that
/// is not allowed.
fn tracefs() -> Option<PathBuf> {
    let why = if !rustix::process::geteuid().is_root() {
        "it needs root (run: sudo -E cargo test)"
    } else {
        let known = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
        let there = |dir: &&str| Path::new(dir).join("uprobe_events").exists();
        if let Some(dir) = known.into_iter().find(there) {
            return Some(dir.into());
        }
        "no uprobe_events: tracefs is not mounted (mount -t tracefs tracefs /sys/kernel/tracing), \
         or the kernel has no CONFIG_UPROBE_EVENTS"
    };
    let message = format!("SKIPPED live probes: {why}");
    assert!(std::env::var("PROF_LIVE").as_deref() != Ok("require"), "{message}");
    eprintln!("{message}");
    None
}

/// Probes with a buffer of their own; gone when dropped.
struct Attached {
    tracefs: PathBuf,
    instance: PathBuf,
    events: Vec<String>,
}

impl Attached {
    fn to(tracefs: &Path, label: &str, path: &Path, probes: &[Probe]) -> Self {
        let group = format!("prof_test_{}_{label}", std::process::id());
        let instance = tracefs.join("instances").join(&group);
        let mut attached = Self { tracefs: tracefs.into(), instance, events: Vec::new() };
        fs::create_dir(&attached.instance).unwrap();
        for probe in probes {
            let semaphore = probe.semaphore_offset.expect("a semaphore");
            let [name, length] = REGISTERS;
            let args = match probe.name {
                Name::RegionBegin => format!(" name=+0({name}):string length={length}:u64"),
                _ => String::new(),
            };
            let event = format!("{group}/{}", probe.name);
            attached.define(&format!(
                "p:{event} {}:{:#x}({semaphore:#x}){args}",
                path.display(),
                probe.file_offset
            ));
            attached.events.push(event);
        }
        for event in &attached.events {
            fs::write(attached.switch(event), "1").unwrap();
        }
        attached
    }

    fn define(&self, line: &str) {
        let events = self.tracefs.join("uprobe_events");
        let mut events = fs::File::options().append(true).open(events).unwrap();
        events.write_all(line.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e}"));
    }

    fn switch(&self, event: &str) -> PathBuf {
        self.instance.join("events").join(event).join("enable")
    }

    fn trace(&self) -> String {
        fs::read_to_string(self.instance.join("trace")).unwrap()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        for event in &self.events {
            let _ = fs::write(self.switch(event), "0");
        }
        let _ = fs::remove_dir(&self.instance);
        for event in &self.events {
            let all = fs::File::options().append(true).open(self.tracefs.join("uprobe_events"));
            let _ = all.and_then(|mut f| f.write_all(format!("-:{event}").as_bytes()));
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// All that is said in a round arrives, in its order, with the name and its length.
fn assert_heard(trace: &str, said: &[&str]) {
    let mut lines = trace.lines().filter(|l| !l.starts_with('#'));
    for part in said {
        assert!(lines.any(|l| l.contains(part)), "no {part} where it should be in:\n{trace}");
    }
}

#[test]
fn in_this_rust_program() {
    let Some(tracefs) = tracefs() else { return };
    let path = this();
    let probes = find(&path).unwrap();
    assert!(!prof_api::is_watched(), "somebody else is attached");
    let unheard = prof_api::region("before");
    {
        let attached = Attached::to(&tracefs, "rust", &path, &probes);
        until("it is watched", prof_api::is_watched);
        drop(unheard);
        prof_api::disable();
        {
            // The kernel's `string` wants a NUL.
            let _outer = prof_api::region("outer\0");
            let _inner = prof_api::region("inner one\0");
        }
        prof_api::enable();
        let trace = attached.trace();
        assert_heard(
            &trace,
            &[
                "disable:",
                "name=\"outer\" length=6",
                "name=\"inner one\" length=10",
                "region_end:",
                "region_end:",
                "enable:",
            ],
        );
        assert_eq!(trace.matches("region_end:").count(), 2, "{trace}");
    }
    until("it is watched no longer", || !prof_api::is_watched());
}

#[test]
fn in_c_programs() {
    let Some(tracefs) = tracefs() else { return };
    let ways: [(&str, &[&str]); 4] = [
        ("pie", &["-O2", "-fPIE", "-pie"]),
        ("no_pie", &["-O2", "-fno-pie", "-no-pie"]),
        ("static", &["-O2", "-static"]),
        ("lto", &["-O2", "-flto", "-Wl,--gc-sections"]),
    ];
    for (label, flags) in ways {
        let built = build("cc", flags);
        assert_converses(&tracefs, label, &built.path, &built.path);
    }
}

#[test]
fn in_a_shared_library() {
    let Some(tracefs) = tracefs() else { return };
    let library = build("cc", &["-O2", "-shared", "-fPIC", "-Dmain=run"]);
    let file = library.path.to_str().unwrap();
    let rpath = format!("-Wl,--no-as-needed,-rpath,{}", library.dir.path().display());
    let text = "int run(void);\nint main(void) { return run(); }\n";
    let program = build_files("cc", &[&rpath, file], &[("main.c", text)]);
    assert_converses(&tracefs, "library", &program.path, &library.path);
}

/// Starts a program, attaches to the probes of a file of it and leaves them again.
fn assert_converses(tracefs: &Path, label: &str, program: &Path, file: &Path) {
    let probes = find(file).unwrap();
    let mut child =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ask = child.stdin.take();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut is_watched = || {
        let ask = ask.as_mut().unwrap();
        ask.write_all(b"?\n").unwrap();
        answers.next().unwrap().unwrap() == "1"
    };
    assert!(!is_watched(), "{label}");
    {
        let attached = Attached::to(tracefs, label, file, &probes);
        until("it is watched", &mut is_watched);
        // A round ends when the next question is answered.
        assert!(is_watched());
        let said = ["name=\"from C\" length=6", "disable:", "enable:", "name=\"other\" length=5"];
        assert_heard(&attached.trace(), &[&said[..], &["region_end:", "region_end:"]].concat());
    }
    until("it is watched no longer", || !is_watched());
    // At the end of its input it ends.
    drop(ask);
    assert!(child.wait().unwrap().success(), "{label}");
}
