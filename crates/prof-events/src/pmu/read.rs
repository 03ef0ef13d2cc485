//! The folder of a PMU.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::format::Format;
use crate::cpus::CpuSet;
use crate::host;

/// What counts on a PMU can be attributed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Part of the CPUs' cores: counts per task.
    Core,
    /// Beside the cores (it has a `cpumask`): counts what all CPUs of a package do
    /// together, so there is no figure per task. To be opened on the CPUs of
    /// [`Pmu::cpus`] only.
    Uncore,
    /// In the kernel or elsewhere.
    Other,
}

/// An event that the kernel names.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PmuEvent {
    /// Name of its file.
    pub name: String,
    /// What the file holds: `event=0x3c,umask=0x1`.
    pub terms: String,
    /// Unit of a value after [`Self::scale`]; empty for a count.
    pub unit: String,
    /// What a count is multiplied by; `None` is 1.
    pub scale: Option<f64>,
    /// One figure a package, not one a CPU.
    pub per_package: bool,
    /// A level rather than a count.
    pub snapshot: bool,
}

/// A PMU. Files that make no sense are not part of it but told in `problems`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pmu {
    /// Name of its folder.
    pub name: String,
    /// `perf_event_attr.type`.
    pub type_: u32,
    /// Terms by name.
    pub formats: BTreeMap<String, Format>,
    /// Events by name.
    pub events: BTreeMap<String, PmuEvent>,
    /// CPUs it is to be opened on; `None` for all.
    pub cpus: Option<CpuSet>,
    /// What its counts can be attributed to.
    pub scope: Scope,
    /// Files below `caps/` with what they hold.
    pub caps: BTreeMap<String, String>,
    /// What could not be read.
    pub problems: Vec<String>,
}

impl Pmu {
    /// Reads the folder.
    ///
    /// # Errors
    ///
    /// If there is no type, without which nothing can be opened.
    pub(crate) fn read(pmus: &Path, name: &str) -> io::Result<Self> {
        let folder = pmus.join(name);
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let type_ = host::read(&folder.join("type"))?.ok_or_else(|| bad("it has no type"))?;
        let type_ = type_.parse().map_err(|_| bad("its type is no number"))?;
        let mut pmu = Self {
            name: name.to_owned(),
            type_,
            formats: BTreeMap::new(),
            events: BTreeMap::new(),
            cpus: None,
            scope: Scope::Other,
            caps: BTreeMap::new(),
            problems: Vec::new(),
        };
        pmu.read_cpus(&folder);
        for (file, text) in pmu.files(&folder, "format") {
            match Format::parse(&text) {
                Ok(format) => drop(pmu.formats.insert(file, format)),
                Err(e) => pmu.problems.push(format!("format/{file}: {e}")),
            }
        }
        pmu.read_events(&folder);
        pmu.caps = pmu.files(&folder, "caps").into_iter().collect();
        Ok(pmu)
    }

    /// Files of a folder with what they hold.
    fn files(&mut self, folder: &Path, sub: &str) -> Vec<(String, String)> {
        let folder = folder.join(sub);
        let names = match host::names(&folder) {
            Ok(names) => names.unwrap_or_default(),
            Err(e) => {
                self.problems.push(format!("{sub}: {e}"));
                return Vec::new();
            }
        };
        let mut files = Vec::new();
        for name in names {
            match host::read(&folder.join(&name)) {
                Ok(Some(text)) => files.push((name, text)),
                Ok(None) => {}
                Err(e) => self.problems.push(format!("{sub}/{name}: {e}")),
            }
        }
        files
    }

    fn read_cpus(&mut self, folder: &Path) {
        for (file, scope) in [("cpumask", Scope::Uncore), ("cpus", Scope::Core)] {
            let text = match host::read(&folder.join(file)) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(e) => {
                    self.problems.push(format!("{file}: {e}"));
                    continue;
                }
            };
            self.scope = scope;
            match CpuSet::parse(&text) {
                Ok(cpus) => self.cpus = Some(cpus),
                Err(e) => self.problems.push(format!("{file}: {e}")),
            }
        }
        if self.name == "cpu" {
            self.scope = Scope::Core;
        }
    }

    fn read_events(&mut self, folder: &Path) {
        // `x.scale` and its kin say more of `x`; a name may itself have a dot.
        let files: BTreeMap<_, _> = self.files(folder, "events").into_iter().collect();
        let beside = |name: &str, what: &str| files.get(&format!("{name}{what}"));
        let of_other = |name: &str| {
            [".scale", ".unit", ".per-pkg", ".snapshot"]
                .iter()
                .any(|s| name.strip_suffix(s).is_some_and(|n| files.contains_key(n)))
        };
        for (name, terms) in files.iter().filter(|(n, _)| !of_other(n)) {
            let mut scale = None;
            if let Some(text) = beside(name, ".scale") {
                scale = text.parse::<f64>().ok().filter(|s| s.is_finite());
                if scale.is_none() {
                    self.problems.push(format!("events/{name}.scale: '{text}' is no number"));
                }
            }
            let event = PmuEvent {
                name: name.clone(),
                terms: terms.clone(),
                unit: beside(name, ".unit").cloned().unwrap_or_default(),
                scale,
                per_package: beside(name, ".per-pkg").is_some_and(|t| t == "1"),
                snapshot: beside(name, ".snapshot").is_some_and(|t| t == "1"),
            };
            self.events.insert(name.clone(), event);
        }
    }

    /// The event of that name, case aside.
    pub fn event(&self, name: &str) -> Option<&PmuEvent> {
        let any_case = || self.events.values().find(|e| e.name.eq_ignore_ascii_case(name));
        self.events.get(name).or_else(any_case)
    }
}

/// Whether a PMU is of the block that is called `asked`: itself, or with a number
/// behind, as `uncore_imc_0` is of `uncore_imc` and of `imc`.
pub(crate) fn of_block(pmu: &str, asked: &str) -> bool {
    let of = |pmu: &str| {
        pmu.strip_prefix(asked).is_some_and(|rest| {
            let digits = rest.strip_prefix('_').unwrap_or(rest);
            rest.is_empty() || !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
        })
    };
    !asked.is_empty() && (of(pmu) || pmu.strip_prefix("uncore_").is_some_and(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_its_pmus() {
        for (pmu, asked) in [
            ("uncore_imc_0", "uncore_imc"),
            ("uncore_imc_12", "imc"),
            ("uncore_imc_0", "imc_0"),
            ("uncore_cbox3", "uncore_cbox"),
            ("power", "power"),
        ] {
            assert!(of_block(pmu, asked), "{pmu} {asked}");
        }
        for (pmu, asked) in
            [("uncore_imc_free_running", "imc"), ("cpu_core", "cpu"), ("x", ""), ("x_", "x")]
        {
            assert!(!of_block(pmu, asked), "{pmu} {asked}");
        }
    }
}
