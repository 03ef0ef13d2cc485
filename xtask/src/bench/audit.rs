//! (h) What an audit adds to the system calls that it watches.

use std::fs;
use std::process::Child;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Bench;
use super::WARM_UP;
use super::prof;
use super::report::Section;
use super::report::Table;
use super::stats::Pairs;

const CALLS: u32 = 2_000_000;
const QUICK_CALLS: u32 = 300_000;

/// The calls, as the target names what one of each took. The audit does not watch getppid:
/// that is what tracepoints cost all the others.
const WHICH: [&str; 4] = ["ioctl_ns", "prctl_ns", "close_ns", "getppid_ns"];

/// Seconds that so many of one call take.
fn calls(bench: &Bench, which: &str) -> Result<f64> {
    let n = bench.amount(CALLS, QUICK_CALLS);
    let args = ["syscalls".to_owned(), n.to_string()];
    let facts = prof::facts(&mut bench.programs.target(None, &args))?;
    Ok(prof::seconds(prof::fact(&facts, which)? * u64::from(n)))
}

/// A running `prof audit`, ended when dropped.
struct Audit(Child);

impl Audit {
    fn start(bench: &Bench) -> Result<Self> {
        let out = bench.scratch.path.join("audit.json");
        // That of the run before is there with its header.
        let _ = fs::remove_file(&out);
        let mut command = bench.programs.prof("audit")?;
        command.arg("-o").arg(format!("json:{}", out.display()));
        command.args(["--hooks", &bench.audit_hooks]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let audit = Self(command.spawn().context("prof audit")?);
        let began = Instant::now();
        while fs::metadata(&out).map_or(0, |m| m.len()) == 0 {
            ensure!(began.elapsed() < Duration::from_secs(60), "prof audit never got ready");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(audit)
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    let mut table = Table::of_pairs("without");
    let mut data = Map::new();
    for which in WHICH {
        eprintln!("bench h: {which}");
        let name = which.trim_end_matches("_ns");
        let pairs = Pairs::take(WARM_UP, bench.runs, &mut || calls(bench, which), &mut || {
            let audit = Audit::start(bench)?;
            let took = calls(bench, which)?;
            drop(audit);
            Ok(took)
        })?;
        table.push_pairs(name, &pairs);
        data.insert(name.to_owned(), pairs.to_json());
    }
    let n = bench.amount(CALLS, QUICK_CALLS);
    Ok(Section {
        id: 'h',
        title: "What an audit adds to system calls of others",
        method: format!(
            "`prof-target syscalls {n}`: {n} calls each that have nothing to do with profiling, \
             beside `prof audit --hooks {}` and without. {} pairs each, after {WARM_UP} to warm up.",
            bench.audit_hooks, bench.runs,
        ),
        tables: vec![table],
        skipped: Vec::new(),
        data: json!({ "calls": n, "pairs": Value::Object(data) }),
    })
}
