//! A running `prof watch`.

use std::fs;
use std::fs::File;
use std::path::PathBuf;
use std::process::Child;
use std::process::ExitStatus;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use serde_json::Value;

use super::Bench;
use crate::scratch::nonce;

const PATIENCE: Duration = Duration::from_secs(120);

/// Rules that `comm` decides.
pub fn rules(count: usize, matching: bool) -> Vec<String> {
    (0..count)
        .map(|n| {
            // Each has a name of its own to look up, so that no two are one.
            let also = if matching { COMMS.join(",") + "," } else { String::new() };
            format!("n{n}: comm={also}nobody-{n}")
        })
        .collect()
}

/// Names of the target's processes: as it is started, and as it starts itself,
/// through `/proc/self/exe`.
pub const COMMS: [&str; 2] = ["prof-target", "exe"];

fn switched_on(records: &[Value]) -> usize {
    let on = |record: &&Value| {
        record["record"] == "prof" && record["FLAGS"].as_u64().is_some_and(|flags| flags & 1 != 0)
    };
    records.iter().filter(on).count()
}

/// Stopped when dropped.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    stream: PathBuf,
    errors: PathBuf,
}

impl Watch {
    /// Starts it, and waits until its hooks are attached.
    pub fn start(bench: &Bench, rules: &[String]) -> Result<Self> {
        Self::with(bench, rules, &[])
    }

    /// The same with more options.
    pub fn with(bench: &Bench, rules: &[String], options: &[&str]) -> Result<Self> {
        let name = bench.scratch.path.join(format!("watch-{}", nonce()?));
        let (stream, errors) = (name.with_extension("json"), name.with_extension("err"));
        let mut command = bench.programs.prof("watch")?;
        command.args(options);
        for rule in rules {
            command.args(["--rule", rule]);
        }
        let stderr =
            File::create(&errors).with_context(|| format!("cannot create {}", errors.display()))?;
        let child = command
            .arg("-o")
            .arg(format!("json:{}", stream.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let mut watch = Self { child, stream, errors };
        watch.wait_for_header()?;
        Ok(watch)
    }

    /// The header is written once everything is attached.
    fn wait_for_header(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let text = fs::read_to_string(&self.stream).unwrap_or_default();
            if let Some((line, _)) = text.split_once('\n') {
                let first: Value = serde_json::from_str(line).context("stream of prof watch")?;
                ensure!(first["record"] == "header", "prof watch began with {line}");
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().context("prof watch")? {
                bail!("prof watch: {status}: {}", self.said());
            }
            thread::sleep(Duration::from_millis(2));
        }
        bail!("prof watch was not attached in {PATIENCE:?}: {}", self.said())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default().trim().to_owned()
    }

    /// A line of `/proc/PID/status`, in KiB.
    pub fn memory_kib(&self, key: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("{path}: no {key}"))
    }

    /// Records of the stream so far.
    pub fn records(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.stream).context("stream of prof watch")?;
        // The last line may be on its way.
        let end = text.rfind('\n').unwrap_or(0);
        text[..end]
            .lines()
            .map(|line| serde_json::from_str(line).context("stream of prof watch"))
            .collect()
    }

    /// Waits until this many processes were switched on.
    pub fn wait_for(&self, processes: u32) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while switched_on(&self.records()?) < processes as usize {
            if Instant::now() > deadline {
                bail!("prof watch told of {} only", switched_on(&self.records()?));
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Ends it as a user would, and returns its whole stream.
    pub fn stop(mut self) -> Result<Vec<Value>> {
        self.interrupt();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().context("prof watch")? {
                self.check(status)?;
                return self.records();
            }
            ensure!(Instant::now() < deadline, "prof watch did not end in {PATIENCE:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn check(&self, status: ExitStatus) -> Result<()> {
        ensure!(status.success(), "prof watch: {status}: {}", self.said());
        Ok(())
    }

    fn interrupt(&self) {
        let pid = self.child.id().cast_signed();
        // SAFETY: no preconditions. The pid is our child's, which was not waited
        // for yet, so it is nobody else's.
        unsafe { libc::kill(pid, libc::SIGINT) };
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // All fail only if it was ended and its files were removed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.stream);
        let _ = fs::remove_file(&self.errors);
    }
}
