//! What the tables were made from, and what is in them.

use std::fmt;
use std::fs;

use anyhow::Context as _;
use anyhow::Result;
use prof_pmu_events::Arch;
use prof_pmu_events::archive::Archive;
use prof_pmu_events::archive::SYSTEM;

use crate::command::sha256;
use crate::scratch::Scratch;

/// Lines of key and value.
#[derive(Debug)]
pub struct Manifest {
    linux: String,
    sources: String,
    tables: Vec<(String, String)>,
}

impl Manifest {
    /// That of a source, without tables.
    pub fn new(linux: &str, sources: &str) -> Self {
        Self { linux: linux.to_owned(), sources: sources.to_owned(), tables: Vec::new() }
    }

    /// The source of a written one, without tables.
    pub fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
                .with_context(|| format!("the MANIFEST has no {key}"))
        };
        Ok(Self::new(value("linux")?, value("sources")?))
    }

    /// Adds an architecture's tables.
    pub fn add(&mut self, arch: Arch, bytes: &[u8]) -> Result<()> {
        let scratch = Scratch::create(&std::env::temp_dir())?;
        let path = scratch.path.join("tables");
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        let models = Archive::parse(bytes)?.models().to_vec();
        let (system, cpus): (Vec<_>, Vec<_>) = models.iter().partition(|m| m.name == SYSTEM);
        let events =
            |models: &[&prof_pmu_events::Model]| -> usize { models.iter().map(|m| m.events).sum() };
        let value = format!(
            "{} models, {} events; {} events of PMUs outside of CPUs; {} bytes; {}",
            cpus.len(),
            events(&cpus),
            events(&system),
            bytes.len(),
            sha256(&path)?
        );
        self.tables.push((arch.file(), value));
        Ok(())
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Written by `cargo xtask pmu-events`. Hashes are SHA-256; that of the sources is"
        )?;
        writeln!(
            f,
            "# over name, length and content of each file of tools/perf/pmu-events that counts."
        )?;
        writeln!(f, "linux: {}", self.linux)?;
        writeln!(f, "sources: {}", self.sources)?;
        for (name, value) in &self.tables {
            writeln!(f, "{name}: {value}")?;
        }
        Ok(())
    }
}
