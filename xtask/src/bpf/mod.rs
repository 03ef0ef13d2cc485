//! Builds the kernel half into the objects that are committed.
//!
//! Whoever builds `prof` needs no clang: the objects come with the source. What
//! makes that trustworthy is that anybody can build the same bytes again, so
//! `--check` does, in two directories, and CI runs it.

mod build;
mod manifest;

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

use crate::scratch::Scratch;
use crate::workspace;
use build::Tools;
use manifest::Manifest;

const OBJECTS: &str = "bpf/objects";
const MANIFEST: &str = "bpf/objects/MANIFEST";

/// Build the kernel half to bpf/objects, the same bytes every time
#[derive(Debug, clap::Args)]
pub struct BpfArgs {
    /// Change nothing; fail if what is committed is not what the source gives
    #[arg(long)]
    check: bool,
}

/// Builds, or checks.
pub fn run(args: &BpfArgs) -> Result<()> {
    let metadata = workspace::metadata()?;
    let target = workspace::target_dir(&metadata)?;
    let (libbpf, source) = workspace::dependency(&metadata, "libbpf-sys")?;
    let tools = Tools::find(source.join("libbpf/src"))?;
    if args.check { check(&tools, &libbpf, &target) } else { write(&tools, &libbpf, &target) }
}

fn write(tools: &Tools, libbpf: &str, target: &Path) -> Result<()> {
    let objects = PathBuf::from(OBJECTS);
    tools.build(Path::new("."), &target.join("bpf-include"), &objects)?;
    let manifest = Manifest::new(tools, libbpf, Path::new("."), &objects)?;
    fs::write(MANIFEST, manifest.to_string())
        .with_context(|| format!("cannot write {MANIFEST}"))?;
    print!("{manifest}");
    Ok(())
}

fn check(tools: &Tools, libbpf: &str, target: &Path) -> Result<()> {
    let here = target.join("bpf-check");
    tools.build(Path::new("."), &target.join("bpf-include"), &here)?;
    let made = Manifest::new(tools, libbpf, Path::new("."), &here)?;

    // Its length differs too, in case a path leaks into a table of strings.
    let elsewhere = Scratch::create(&target.join("bpf-elsewhere"))?;
    build::copy_sources(Path::new("."), &elsewhere.path)?;
    let there = elsewhere.path.join("out");
    tools.build(&elsewhere.path, &elsewhere.path.join("headers"), &there)?;

    let mut faults = Vec::new();
    for object in build::objects() {
        let fresh = read(&here.join(&object))?;
        if fresh != read(&there.join(&object))? {
            faults.push(format!("{object}: the bytes depend on the directory it is built in"));
        }
        let committed = Path::new(OBJECTS).join(&object);
        match fs::read(&committed) {
            Ok(bytes) if bytes == fresh => {}
            Ok(_) => faults.push(format!("{}: not what the source gives", committed.display())),
            Err(error) => faults.push(format!("{}: {error}", committed.display())),
        }
    }
    match fs::read_to_string(MANIFEST) {
        Ok(committed) => faults.extend(made.differences(&committed)),
        Err(error) => faults.push(format!("{MANIFEST}: {error}")),
    }
    if !faults.is_empty() {
        bail!("{}\n  run `cargo xtask bpf` and commit what it writes", faults.join("\n  "));
    }
    println!("{OBJECTS}: as built from the source, in any directory");
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
