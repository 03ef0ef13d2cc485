//! The workspace: where it is, and building what is in it.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::ensure;
use serde_json::Value;

use crate::command::output;
use crate::cross::Target;

/// Directory of the workspace.
pub fn root() -> Result<PathBuf> {
    // As of the run, as the directory may have moved since the build.
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = package.parent().context("xtask is not in a workspace")?;
    Ok(root.to_owned())
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Given to this program by `cargo run`, for itself.
    cargo.env_remove("CARGO_MANIFEST_DIR");
    cargo
}

/// What `cargo metadata` says.
pub fn metadata() -> Result<Value> {
    let text = output(cargo().args(["metadata", "--format-version=1", "--locked"]))?;
    serde_json::from_str(&text).context("cargo metadata")
}

/// Directory that cargo builds into.
pub fn target_dir(metadata: &Value) -> Result<PathBuf> {
    let dir =
        metadata["target_directory"].as_str().context("cargo metadata: no target directory")?;
    Ok(PathBuf::from(dir))
}

/// Version of a dependency, and the directory of its source.
pub fn dependency(metadata: &Value, name: &str) -> Result<(String, PathBuf)> {
    let find = || {
        let packages = metadata["packages"].as_array()?;
        let package = packages.iter().find(|p| p["name"] == name)?;
        let dir = Path::new(package["manifest_path"].as_str()?).parent()?;
        Some((package["version"].as_str()?.to_owned(), dir.to_owned()))
    };
    find().with_context(|| format!("cargo metadata: no package {name}"))
}

/// Runs cargo with `args` and returns the executable that it built as `name`.
pub fn build(args: &[&str], name: &str) -> Result<PathBuf> {
    executable(cargo().args(args), name)
}

/// The same, for another architecture or this one.
pub fn build_for(target: &Target, args: &[&str], name: &str) -> Result<PathBuf> {
    let mut cargo = cargo();
    target.apply(cargo.args(args));
    executable(&mut cargo, name)
}

fn executable(cargo: &mut Command, name: &str) -> Result<PathBuf> {
    let args: Vec<_> = cargo.get_args().map(|arg| arg.to_string_lossy()).collect();
    let line = args.join(" ");
    let build = cargo
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(build.status.success(), "cargo {line} failed: {}", build.status);
    String::from_utf8_lossy(&build.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| anyhow!("cargo {line} built no executable {name}"))
}
