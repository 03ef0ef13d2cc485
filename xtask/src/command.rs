//! Running other programs.

use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;

/// Whether there is such a program.
pub fn has_program(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Fails, naming the Debian package to install, if there is no such program.
pub fn require_program(program: &str, package: &str) -> Result<()> {
    ensure!(has_program(program), "{program} not found: install the Debian package {package}");
    Ok(())
}

/// Runs a command and returns its stdout; on failure the error has its stderr.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command whose output goes where ours goes.
pub fn status(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "{program} failed: {status}");
    Ok(())
}

/// The hex SHA-256 of a file.
pub fn sha256(file: &Path) -> Result<String> {
    let text = output(Command::new("sha256sum").arg("--").arg(file))?;
    // A backslash in front says that the name, which is dropped, was escaped.
    let sum = text.trim_start_matches('\\').split(' ').next().unwrap_or_default();
    ensure!(sum.len() == 64, "sha256sum said {text:?}");
    Ok(sum.to_owned())
}
