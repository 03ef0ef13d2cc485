//! Makes the tables of vendor events that `prof-pmu-events` looks names up in.
//!
//! They are made from `tools/perf/pmu-events` of a kernel's source and committed:
//! whoever builds `prof` needs no kernel source. `--check` with that source makes
//! the same bytes again; without it, the sums must be those of the MANIFEST, and all
//! must decode. `--jevents` holds the tables against what the kernel's own generator
//! makes of the same source.

mod jevents;
mod manifest;
mod mapfile;
mod source;
mod translate;
mod write;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use prof_pmu_events::Arch;
use prof_pmu_events::archive::Archive;

use crate::generated;
use crate::generated::Files;
use manifest::Manifest;
use source::Source;

const TABLES: &str = "crates/prof-pmu-events/tables";
const MANIFEST: &str = "MANIFEST";
const TASK: &str = "pmu-events";

/// Make the tables of vendor events from a kernel's source
#[derive(Debug, clap::Args)]
pub struct PmuEventsArgs {
    /// Directory of a kernel's source
    #[arg(long, value_name = "DIR")]
    linux: Option<PathBuf>,

    /// The source as a tarball, or as Debian's package linux-source-VERSION
    #[arg(long, value_name = "FILE", conflicts_with = "linux")]
    source: Option<PathBuf>,

    /// Change nothing; fail if what is committed does not decode, is not what the
    /// MANIFEST says, or, if a source is given, not what that gives
    #[arg(long)]
    check: bool,

    /// Compare each event with what the source's jevents.py makes of it (needs python3)
    #[arg(long)]
    jevents: bool,

    /// With --jevents: write some of the compared events here, as jevents.py has them
    #[arg(long, value_name = "FILE", requires = "jevents")]
    sample: Option<PathBuf>,
}

/// Makes, or checks.
pub fn run(args: &PmuEventsArgs) -> Result<()> {
    let source = match (&args.linux, &args.source) {
        (Some(dir), _) => Some(Source::of_dir(dir)?),
        (None, Some(file)) => Some(Source::unpack(file)?),
        (None, None) => None,
    };
    let Some(source) = source else {
        ensure!(
            args.check && !args.jevents,
            "name a kernel's source: --linux DIR, or --source FILE. \
             `apt-get download linux-source-VERSION` fetches one on Debian"
        );
        return check_committed(Path::new(TABLES));
    };
    let (files, manifest) = make(&source)?;
    generated::write_or_check(Path::new(TABLES), &files, args.check, TASK)?;
    print!("{manifest}");
    if args.jevents {
        jevents::compare(&source, &files, args.sample.as_deref())?;
    }
    Ok(())
}

/// All files of the directory, and the MANIFEST among them.
fn make(source: &Source) -> Result<(Files, Manifest)> {
    let mut manifest = Manifest::new(&source.version, &source.sum()?);
    let mut files = Files::new();
    let mut untranslated = BTreeMap::new();
    for arch in Arch::ALL {
        let models = translate::models(source, arch, &mut untranslated)?;
        let rules = mapfile::rules(source, arch, &models)?;
        let bytes = write::archive(&models, &rules)?;
        manifest.add(arch, &bytes)?;
        files.insert(arch.file(), bytes);
    }
    for (key, count) in untranslated {
        println!("no use is known for the key {key}, which {count} events have");
    }
    files.insert(MANIFEST.to_owned(), manifest.to_string().into_bytes());
    Ok((files, manifest))
}

/// Without a source: whether the directory is as its MANIFEST says.
fn check_committed(dir: &Path) -> Result<()> {
    let path = dir.join(MANIFEST);
    let committed = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut manifest = Manifest::parse(&committed)?;
    for arch in Arch::ALL {
        let path = dir.join(arch.file());
        let bytes =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        decode_all(&bytes).with_context(|| path.display().to_string())?;
        manifest.add(arch, &bytes)?;
    }
    ensure!(
        manifest.to_string() == committed,
        "{}: not what the tables give:\n{manifest}  run `cargo xtask {TASK}` and commit it",
        path.display()
    );
    println!("{}: as the MANIFEST says, and all decodes", dir.display());
    Ok(())
}

/// Decodes every event and every text of it.
fn decode_all(bytes: &[u8]) -> Result<()> {
    let archive = Archive::parse(bytes)?;
    for model in archive.models() {
        let table = archive.table(model)?;
        for event in table.iter() {
            table.description(&event)?;
            table.long_description(&event)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn what_is_committed_is_whole_and_a_change_is_noticed() {
        let committed = crate::workspace::root().unwrap().join(TABLES);
        check_committed(&committed).unwrap();

        let scratch = Scratch::create(&std::env::temp_dir()).unwrap();
        for entry in fs::read_dir(&committed).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), scratch.path.join(entry.file_name())).unwrap();
        }
        let manifest = scratch.path.join(MANIFEST);
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replace(" models, ", " models , ")).unwrap();
        let error = check_committed(&scratch.path).unwrap_err().to_string();
        assert!(error.contains("not what the tables give"), "{error}");
        fs::write(&manifest, text).unwrap();
        let tables = scratch.path.join(Arch::Arm64.file());
        let mut bytes = fs::read(&tables).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&tables, bytes).unwrap();
        check_committed(&scratch.path).unwrap_err();
    }
}
