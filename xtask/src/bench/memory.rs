//! (d) What many live profiled processes take.

use std::io::BufRead as _;
use std::io::BufReader;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use serde_json::json;

use super::Bench;
use super::prof;
use super::report::Section;
use super::report::Table;
use super::watch;
use super::watch::Watch;

const PROCESSES: u32 = 10_000;
const QUICK_PROCESSES: u32 = 500;
/// They are killed long before.
const LIFE_MS: u64 = 600_000;

/// Live processes, which die with this handle.
#[derive(Debug)]
pub struct Herd(Child);

impl Herd {
    /// Starts it, of the target or a copy of it, and waits until all run.
    pub fn start(target: &Path, processes: u32) -> Result<Self> {
        let mut command = Command::new(target);
        command.args(["herd", &processes.to_string(), &LIFE_MS.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut herd = Self(command.spawn().with_context(|| format!("{command:?}"))?);
        let stdout = herd.0.stdout.take().context("no pipe from the herd")?;
        let mut line = String::new();
        // Its first words come when all of them run.
        let mut stdout = BufReader::new(stdout);
        while !line.contains("running=") {
            line.clear();
            ensure!(stdout.read_line(&mut line)? > 0, "the herd did not come up");
        }
        let running = prof::fact(&prof::parse_facts(&line), "running")?;
        ensure!(running == u64::from(processes), "only {running} processes run");
        Ok(herd)
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        // The kernel then kills its children.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures it.
pub fn measure(bench: &Bench) -> Result<Section> {
    let processes = bench.amount(PROCESSES, QUICK_PROCESSES);
    eprintln!("bench d: {processes} live processes");
    let watch = Watch::start(bench, &watch::rules(1, true))?;
    let mut table = Table::new(&["", "VmRSS", "VmHWM"]);
    let mut data = Vec::new();
    let mut note = |watch: &Watch, name: &str| -> Result<()> {
        let (rss, peak) = (watch.memory_kib("VmRSS")?, watch.memory_kib("VmHWM")?);
        table.rows.push(vec![name.to_owned(), format!("{rss} KiB"), format!("{peak} KiB")]);
        data.push(json!({ "when": name, "rss_kib": rss, "hwm_kib": peak }));
        Ok(())
    };
    note(&watch, "attached, nothing profiled")?;

    let herd = Herd::start(&bench.programs.target, processes)?;
    watch.wait_for(processes)?;
    note(&watch, &format!("{processes} live profiled processes"))?;
    drop(herd);
    thread::sleep(Duration::from_secs(2));
    note(&watch, "after all of them ended")?;
    watch.stop()?;

    Ok(Section {
        id: 'd',
        title: "Memory with many live processes",
        method: format!(
            "`prof watch` with one rule, beside `prof-target herd {processes} {LIFE_MS}`: \
             {processes} processes that all match and all live. The figures are those of prof's \
             process in `/proc/PID/status`; the kernel half's maps are not in them."
        ),
        tables: vec![table],
        skipped: Vec::new(),
        data: json!({ "processes": processes, "memory": data }),
    })
}
