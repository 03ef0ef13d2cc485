//! Commands from outside, and a start switched off.

use std::fs;
use std::fs::File;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::harness::*;

/// Two FIFOs, from the side of who commands.
struct Fifos {
    dir: tempfile::TempDir,
}

impl Fifos {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["ctl", "ack"] {
            let made = Command::new("mkfifo").arg(dir.path().join(name)).status().expect("mkfifo");
            assert!(made.success());
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn option(&self) -> String {
        format!("fifo:{},{}", self.path("ctl").display(), self.path("ack").display())
    }

    /// Writes a command; prof holds both FIFOs open, so this does not wait for it.
    fn say(&self, command: &str) {
        let mut ctl = File::options().write(true).open(self.path("ctl")).expect("ctl");
        ctl.write_all(format!("{command}\n").as_bytes()).expect("ctl");
    }

    /// Writes a command and waits until it is done.
    fn ask(&self, command: &str) {
        assert_eq!(self.answer(command), "ack\n", "{command}");
    }

    /// Writes a command and waits for the answer.
    fn answer(&self, command: &str) -> String {
        let ack = File::options().read(true).open(self.path("ack")).expect("ack");
        self.say(command);
        let mut answer = String::new();
        BufReader::with_capacity(1, ack).read_line(&mut answer).expect("ack");
        answer
    }
}

fn sleeper() -> Child {
    Command::new(target())
        .args(["sleep", "60000"])
        .stdout(Stdio::null())
        .spawn()
        .expect("prof-target")
}

fn end(mut child: Child) {
    child.kill().expect("kill");
    child.wait().expect("wait");
}

/// Exit codes of the processes that were profiled to their end, in order.
fn codes(records: &Records) -> Vec<u64> {
    records.profiles().iter().filter_map(|p| p["exit"]["code"].as_u64()).collect()
}

#[test]
fn profiling_is_switched_on_and_off_and_the_session_ended() {
    let Some(_turn) = live("--control") else { return };
    let fifos = Fifos::new();
    let own = format!("tree={}", std::process::id());
    let option = fifos.option();
    let mut watch = Watch::start(&[
        "-s",
        "comm=prof-target",
        "-s",
        &own,
        "--delay",
        "-1",
        "--control",
        &option,
    ]);
    fifos.ask("ping");
    let run = |code: &str| {
        let status = Command::new(target()).args(["exit", code]).status().expect("prof-target");
        assert!(status.code().is_some());
    };
    run("1");
    fifos.ask("enable");
    run("2");
    // Nothing changes, and it is answered.
    fifos.ask("enable");
    fifos.ask("disable");
    run("3");
    fifos.ask("disable");
    // Nobody waits in vain.
    for unsupported in ["no such command", "disable task-clock", "evlist -x"] {
        assert_eq!(fifos.answer(unsupported), "unsupported\n", "{unsupported}");
    }
    fifos.ask("enable");
    run("4");
    for list in ["evlist", "evlist -v", "evlist -g", "evlist -F"] {
        fifos.ask(list);
    }
    fifos.ask("stop");
    let records = watch.wait();
    records.assert_whole();
    assert_eq!(codes(&records), [2, 4]);
}

#[test]
fn a_snapshot_tells_the_figures_so_far() {
    let Some(_turn) = live("--control, snapshot") else { return };
    let fifos = Fifos::new();
    let child = sleeper();
    let pid = child.id().to_string();
    let option = fifos.option();
    let mut watch = Watch::verb("attach", &["--control", &option, &pid]);
    fifos.ask("snapshot");
    // It is there when it was answered.
    watch.until("one", |r| r.profiles().len() == 1 && r.of("interval").count() == 1);
    fifos.ask("snapshot");
    fifos.ask("stop");
    let records = watch.wait();
    end(child);
    records.assert_reconciled();
    assert_eq!(records.profiles().len(), 3, "two, and one at the end");
    assert_eq!(records.of("interval").count(), 2);
    assert!(records.profiles().iter().all(|p| p["window"]["end"] == "running"));
}

#[test]
fn what_is_attached_to_is_switched_off_and_on() {
    let Some(_turn) = live("--control of attach") else { return };
    let fifos = Fifos::new();
    let child = sleeper();
    let pid = child.id().to_string();
    let option = fifos.option();
    let mut watch = Watch::verb("attach", &["--delay", "-1", "--control", &option, &pid]);
    fifos.ask("snapshot");
    fifos.ask("enable");
    fifos.ask("snapshot");
    fifos.ask("disable");
    fifos.ask("snapshot");
    fifos.ask("enable");
    fifos.ask("stop");
    let records = watch.wait();
    end(child);
    records.assert_reconciled();
    let ends: Vec<_> = records.profiles().iter().map(|p| p["window"]["end"].clone()).collect();
    assert_eq!(ends, ["running", "request", "running"], "{:#?}", records.0);
    let on: Vec<_> = records.of("prof").map(|p| has_flag(p, "enable")).collect();
    assert_eq!(on, [true, false, true]);
}

#[test]
fn the_start_is_left_out() {
    let Some(_turn) = live("--delay") else { return };
    let whole = run_target(&["-e", "task-clock"], &["burn", "600"]);
    let part = run_target(&["-e", "task-clock", "--delay", "300"], &["burn", "600"]);
    assert!(part.output.status.success());
    part.records.assert_whole();
    let clock = |r: &Run| r.records.end()["totals"]["task-clock"]["value"].as_u64().expect("time");
    assert!(clock(&whole) >= 590_000_000, "{}", whole.records.end());
    assert!((50_000_000..450_000_000).contains(&clock(&part)), "{}", part.records.end());
    // It was over before it began.
    let none = run_target(&["--delay", "60000"], &["exit", "0"]);
    assert!(none.output.status.success());
    assert_eq!(none.records.end()["enabled"], 0);
}

#[test]
fn a_program_switches_its_own_profiling() {
    let Some(_turn) = live("--control fd:") else { return };
    if emulated("it has no bash, whose descriptors may be above 9") {
        return;
    }
    let (ctl, say) = rustix::pipe::pipe().expect("a pipe");
    let (hear, ack) = rustix::pipe::pipe().expect("a pipe");
    use std::os::fd::AsRawFd as _;
    let option = format!("fd:{},{}", ctl.as_raw_fd(), ack.as_raw_fd());
    // The shell is the command: it has inherited both other ends.
    let (say, hear) = (say.as_raw_fd(), hear.as_raw_fd());
    let script = format!(
        "ask() {{ echo $1 >&{say}; read answer <&{hear}; test $answer = ack || exit 9; }}
         /bin/true; ask enable; /bin/false; ask disable; /bin/true"
    );
    let dir = tempfile::tempdir().expect("a folder");
    let json = dir.path().join("records.json");
    let began = Instant::now();
    let status = command("run")
        .args(["--delay", "-1", "--control", &option])
        .arg("-o")
        .arg(format!("json:{}", json.display()))
        .args(["--", "bash", "-c", &script])
        .process_group(0)
        .status()
        .expect("prof");
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(60));
    let records = Records::read(&json);
    records.assert_whole();
    assert_eq!(codes(&records), [1], "only what was in between: {:#?}", records.0);
}

#[test]
fn what_cannot_be_is_said_before_anything_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    let mark = dir.path().join("ran");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("a file");
    let fifo = format!("fifo:{}", file.display());
    for (options, code, said) in [
        (&["--delay", "-1"][..], 2, "--control"),
        (&["--delay", "-2"], 2, "-1"),
        (&["--control", "pipe:3"], 2, "fifo:CTL[,ACK]"),
        (&["--control", &fifo], 1, "mkfifo"),
        (&["--control", "fd:99999"], 1, "99999"),
        (&["--unprivileged", "--delay", "5"], 2, "cannot be used with"),
    ] {
        let output =
            command("run").args(options).args(["--", "touch"]).arg(&mark).output().expect("prof");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{options:?}: {text}");
        assert!(text.contains(said), "{options:?}: {text}");
        assert!(!mark.exists());
    }
}
