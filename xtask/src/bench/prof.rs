//! The programs under test, and running them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;

use crate::workspace;

/// Where they are.
#[derive(Debug)]
pub struct Programs {
    /// The profiler; `None` if no part needs it.
    prof: Option<PathBuf>,
    /// What it profiles: without the probes of prof's regions, as nearly all programs are.
    pub target: PathBuf,
    /// The same with them.
    pub with_probes: PathBuf,
}

impl Programs {
    /// Builds what is not given.
    pub fn build(given: Option<&Path>, need_prof: bool) -> Result<Self> {
        let with_probes =
            workspace::build(&["build", "--release", "-p", "prof-testkit"], "prof-target")?;
        let target = without_probes(&with_probes)?;
        let prof = match given {
            Some(prof) => {
                let found = std::path::absolute(prof).ok().filter(|p| p.is_file());
                Some(found.with_context(|| format!("no program {}", prof.display()))?)
            }
            None if need_prof => {
                Some(workspace::build(&["build", "--release", "-p", "prof"], "prof")?)
            }
            None => None,
        };
        Ok(Self { prof, target, with_probes })
    }

    /// `prof` with a subcommand.
    pub fn prof(&self, subcommand: &str) -> Result<Command> {
        let mut command = Command::new(self.prof.as_ref().context("prof was not built")?);
        command.arg(subcommand);
        Ok(command)
    }

    /// The target, bare, or behind what is to measure it.
    pub fn target<S: AsRef<OsStr>>(&self, before: Option<Command>, args: &[S]) -> Command {
        behind(before, &self.target, args)
    }
}

/// A program, bare, or behind what is to measure it.
pub fn behind<S: AsRef<OsStr>>(before: Option<Command>, program: &Path, args: &[S]) -> Command {
    let mut command = match before {
        Some(mut command) => {
            command.arg("--").arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(args);
    command
}

/// A copy of the same name that tells of no probes. Where a program has some, the kernel
/// writes a breakpoint for each into every process that executes it, which is another
/// measurement.
fn without_probes(program: &Path) -> Result<PathBuf> {
    let (dir, name) = (program.parent(), program.file_name());
    let dir = dir.context("a program has a folder")?.join("without-probes");
    let copy = dir.join(name.context("a program has a name")?);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut objcopy = Command::new("objcopy");
    let objcopy = objcopy.arg("--remove-section=.note.stapsdt").args([program, &copy]);
    let status = objcopy.status().context("objcopy, of binutils")?;
    ensure!(status.success(), "objcopy of {}: {status}", program.display());
    Ok(copy)
}

/// `perf` with a subcommand; keeps nothing.
pub fn perf(subcommand: &str) -> Command {
    let mut command = Command::new("perf");
    command.args([subcommand, "-o", "/dev/null"]);
    command
}

/// Why `perf` with that subcommand does not work here, if so: it may be missing,
/// or, under another kernel than its own, a script that only complains.
pub fn perf_fault(subcommand: &str) -> Option<String> {
    let fault = match perf(subcommand).args(["--", "true"]).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => return None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            said.lines().next().unwrap_or("it fails").to_owned()
        }
        Err(error) => error.to_string(),
    };
    Some(format!("`perf {subcommand}`: {fault}"))
}

/// Runs a command and returns the `key=value` lines that it printed. What else
/// it says is shown only if it fails.
pub fn facts(command: &mut Command) -> Result<HashMap<String, u64>> {
    let name = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| name.clone())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name}: {}: {}", output.status, said.trim());
    }
    Ok(parse_facts(&String::from_utf8_lossy(&output.stdout)))
}

/// The numbers among `key=value` lines.
pub fn parse_facts(text: &str) -> HashMap<String, u64> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)))
        .collect()
}

/// Runs a command whose output goes nowhere.
pub fn quietly(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// A fact that must be there.
pub fn fact(facts: &HashMap<String, u64>, key: &str) -> Result<u64> {
    facts.get(key).copied().with_context(|| format!("the target did not print {key}="))
}

/// Nanoseconds as seconds.
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
