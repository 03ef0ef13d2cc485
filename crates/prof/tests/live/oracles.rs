//! Other tools beside prof: each exec and exit that they see, it sees.

use std::fs;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::harness::*;

/// A tool of libbpf-tools, writing a line for each event.
struct Tool {
    child: Child,
    out: tempfile::NamedTempFile,
}

impl Tool {
    /// Starts it, and comes back when it has attached: then it prints its header.
    fn start(name: &str) -> Self {
        let out = tempfile::NamedTempFile::new().expect("a file");
        let child = Command::new("stdbuf")
            .args(["-oL", name])
            .stdout(out.reopen().expect("a file"))
            .stderr(Stdio::null())
            .spawn()
            .expect("a tool");
        let began = Instant::now();
        while out.as_file().metadata().expect("a file").len() == 0 {
            assert!(began.elapsed() < Duration::from_secs(60), "{name} never began");
            thread::sleep(Duration::from_millis(20));
        }
        Self { child, out }
    }

    /// Ends it; pids (second column) of the lines for `comm`, of those in `ours`.
    fn pids(mut self, comm: &str, ours: &[u64]) -> Vec<u64> {
        thread::sleep(Duration::from_millis(700));
        signal(self.child.id(), libc::SIGINT);
        self.child.wait().expect("a tool");
        let text = fs::read_to_string(self.out.path()).expect("its output");
        let mut pids: Vec<u64> = text
            .lines()
            .filter(|l| l.split_whitespace().next() == Some(comm))
            .filter_map(|l| l.split_whitespace().nth(1)?.parse().ok())
            // The host may be busy with the like.
            .filter(|p| ours.contains(p))
            .collect();
        pids.sort_unstable();
        pids
    }
}

#[test]
fn what_execsnoop_and_exitsnoop_see() {
    let Some(_turn) = live("oracles") else { return };
    if !has("execsnoop", "libbpf-tools") || !has("exitsnoop", "libbpf-tools") {
        return;
    }
    let (execs, exits) = (Tool::start("execsnoop"), Tool::start("exitsnoop"));
    let own = format!("tree={}", std::process::id());
    let watch = Watch::start(&["-s", "comm=true", "-s", &own]);
    for _ in 0..40 {
        let s = Command::new("true").status().expect("true");
        assert!(s.success());
    }
    let records = watch.stop();
    let mut ours: Vec<u64> =
        records.profiles().iter().filter_map(|p| p["process"]["pid"].as_u64()).collect();
    ours.sort_unstable();
    assert_eq!(ours.len(), 40);
    assert_eq!(execs.pids("true", &ours), ours, "execsnoop");
    assert_eq!(exits.pids("true", &ours), ours, "exitsnoop");
}
