//! Everything that can be counted on a host.
//!
//! Nothing is read before it is asked for: a server has a hundred PMUs and
//! thousands of tracepoints, and most lists name neither.

use std::sync::OnceLock;

use prof_model::figures;
use prof_model::rules::Span;

use crate::attr::Attr;
use crate::attr::perf_type;
use crate::error::EventError;
use crate::glob;
use crate::host;
use crate::host::Host;
use crate::pmu::Format;
use crate::pmu::Pmu;
use crate::pmu::Scope;
use crate::tables::cache;
use crate::tables::generic::GENERIC;
use crate::tables::metrics::METRICS;
use crate::tracefs;
use crate::tracefs::Tracepoint;
use crate::vendor::NoVendorEvents;
use crate::vendor::VendorEvents;

/// What sort of thing can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Figure,
    Metric,
    Hardware,
    Software,
    Cache,
    Pmu,
    Vendor,
    Tracepoint,
}

impl Kind {
    /// As shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Figure => "figure",
            Self::Metric => "metric",
            Self::Hardware => "hardware",
            Self::Software => "software",
            Self::Cache => "cache",
            Self::Pmu => "pmu",
            Self::Vendor => "vendor",
            Self::Tracepoint => "tracepoint",
        }
    }
}

/// Something that can be counted, as far as the host says: whether it works has to
/// be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A spelling that `-e` takes.
    pub name: String,
    /// Other ones.
    pub aliases: Vec<String>,
    /// What sort of thing.
    pub kind: Kind,
    /// Where it is from: `prof`, `kernel`, a PMU, a system of tracepoints.
    pub source: String,
    /// Unit of a value.
    pub unit: String,
    /// What it counts; empty if nobody says.
    pub description: String,
    /// Id in prof's records, where it is known without a look at the host.
    pub id: Option<u32>,
}

/// What a host can count. Made once; keeps what it has read.
#[derive(Debug)]
pub struct Catalogue {
    host: Host,
    vendor: Box<dyn VendorEvents>,
    pmus: Vec<(String, OnceLock<Result<Pmu, String>>)>,
    problem: Option<String>,
    core: OnceLock<Vec<usize>>,
}

impl Catalogue {
    /// Of this host, without a vendor's table.
    pub fn new(host: Host) -> Self {
        let (names, problem) = match host::names(&host.pmus()) {
            Ok(names) => (names.unwrap_or_default(), None),
            Err(e) => (Vec::new(), Some(format!("{}: {e}", host.pmus().display()))),
        };
        Self {
            host,
            vendor: Box::new(NoVendorEvents),
            pmus: names.into_iter().map(|n| (n, OnceLock::new())).collect(),
            problem,
            core: OnceLock::new(),
        }
    }

    /// With a vendor's table.
    #[must_use]
    pub fn with_vendor_events(self, vendor: Box<dyn VendorEvents>) -> Self {
        Self { vendor, ..self }
    }

    /// Whose it is.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The vendor's table.
    pub fn vendor(&self) -> &dyn VendorEvents {
        self.vendor.as_ref()
    }

    /// Names of PMUs, sorted; not all need be readable.
    pub fn pmu_names(&self) -> impl Iterator<Item = &str> {
        self.pmus.iter().map(|(n, _)| n.as_str())
    }

    /// The PMU of that name.
    ///
    /// # Errors
    ///
    /// What is wrong with its folder.
    pub fn pmu(&self, name: &str) -> Option<Result<&Pmu, &str>> {
        let i = self.pmus.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
        Some(self.at(i))
    }

    fn at(&self, i: usize) -> Result<&Pmu, &str> {
        let (name, cell) = &self.pmus[i];
        let read = || Pmu::read(&self.host.pmus(), name).map_err(|e| format!("PMU {name}: {e}"));
        cell.get_or_init(read).as_ref().map_err(String::as_str)
    }

    /// PMUs that can be read.
    pub fn pmus(&self) -> impl Iterator<Item = &Pmu> {
        (0..self.pmus.len()).filter_map(|i| self.at(i).ok())
    }

    /// PMUs of the cores: one, or several on a hybrid machine; none in many
    /// virtual ones.
    pub fn core_pmus(&self) -> impl Iterator<Item = &Pmu> {
        let find = || {
            let folder = self.host.pmus();
            let is_core = |n: &str| n == "cpu" || folder.join(n).join("cpus").exists();
            (0..self.pmus.len()).filter(|i| is_core(&self.pmus[*i].0)).collect()
        };
        let core: &Vec<usize> = self.core.get_or_init(find);
        // With all its CPUs offline a PMU counts nothing.
        let has_cpus = |p: &&Pmu| p.cpus.as_ref().is_none_or(|c| !c.is_empty());
        core.iter().filter_map(|i| self.at(*i).ok()).filter(has_cpus)
    }

    /// PMUs with an event of exactly that name.
    pub(crate) fn pmus_with_event(&self, name: &str) -> Vec<&Pmu> {
        if !host::is_plain(name) {
            return Vec::new();
        }
        let folder = self.host.pmus();
        let has = |pmu: &str| folder.join(pmu).join("events").join(name).exists();
        let with = (0..self.pmus.len()).filter(|i| has(&self.pmus[*i].0));
        with.filter_map(|i| self.at(i).ok()).filter(|p| p.events.contains_key(name)).collect()
    }

    /// What of the PMUs could not be read; reads them all.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.problem.iter().cloned().collect();
        for i in 0..self.pmus.len() {
            match self.at(i) {
                Ok(pmu) => {
                    problems.extend(pmu.problems.iter().map(|p| format!("PMU {}: {p}", pmu.name)));
                }
                Err(e) => problems.push(e.to_owned()),
            }
        }
        problems
    }

    /// Everything but tracepoints, sorted by kind.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        entries.extend(figures::EVENTS.iter().map(|e| Entry {
            name: e.name.into(),
            aliases: owned(e.aliases),
            kind: Kind::Figure,
            source: "prof".into(),
            unit: e.unit.name().into(),
            description: e.about.into(),
            id: Some(e.id),
        }));
        entries.extend(METRICS.iter().map(|m| Entry {
            name: m.name.into(),
            aliases: owned(m.aliases),
            kind: Kind::Metric,
            source: "prof".into(),
            unit: m.unit.into(),
            description: format!("{}: {} / {}", m.about, m.above, m.below),
            id: None,
        }));
        // What is a figure is not listed a second time.
        let generic = GENERIC.iter().filter(|g| crate::tables::figure(g.name).is_none());
        entries.extend(generic.map(|g| Entry {
            name: g.name.into(),
            aliases: owned(g.aliases),
            kind: match g.type_ {
                perf_type::HARDWARE => Kind::Hardware,
                _ => Kind::Software,
            },
            source: "kernel".into(),
            unit: g.unit.into(),
            description: g.about.into(),
            id: Attr::counting(g.type_, g.config).id(),
        }));
        entries.extend(cache::all().map(|(name, config, about)| Entry {
            name,
            aliases: Vec::new(),
            kind: Kind::Cache,
            source: "kernel".into(),
            unit: "count".into(),
            description: about,
            id: Attr::counting(perf_type::HW_CACHE, config).id(),
        }));
        for pmu in self.pmus() {
            entries.extend(pmu.events.values().map(|e| Entry {
                name: format!("{}/{}/", pmu.name, e.name),
                aliases: vec![e.name.clone()],
                kind: Kind::Pmu,
                source: pmu.name.clone(),
                unit: unit_or_count(&e.unit),
                description: e.terms.clone(),
                id: None,
            }));
        }
        entries.extend(self.vendor.iter().map(|e| Entry {
            name: e.name,
            aliases: Vec::new(),
            kind: Kind::Vendor,
            source: e.pmu,
            unit: unit_or_count(&e.unit),
            description: e.description,
            id: None,
        }));
        entries.sort_by(|a, b| (a.kind, &a.source).cmp(&(b.kind, &b.source)));
        entries
    }

    /// Tracepoints, sorted by name.
    ///
    /// # Errors
    ///
    /// If the tracing file system is not there or may not be read; says the cure.
    pub fn tracepoints(&self) -> Result<Vec<Entry>, EventError> {
        let mut entries = Vec::new();
        let systems = tracefs::systems(&self.host, Span::default());
        for system in systems.map_err(|f| f.in_text("", ""))? {
            let names = tracefs::names(&self.host, &system, Span::default());
            for name in names.map_err(|f| f.in_text("", ""))?.unwrap_or_default() {
                entries.push(Entry {
                    name: format!("{system}:{name}"),
                    aliases: Vec::new(),
                    kind: Kind::Tracepoint,
                    source: system.clone(),
                    unit: "count".into(),
                    description: String::new(),
                    id: None,
                });
            }
        }
        Ok(entries)
    }

    /// What the kernel says of a tracepoint that is listed: its fields. To be asked for
    /// those that are shown.
    pub fn about_tracepoint(&self, e: &Entry) -> Option<String> {
        let (system, name) = e.name.split_once(':')?;
        let fields = tracefs::fields(&self.host, system, name)?.own;
        (!fields.is_empty()).then(|| format!("tells {}", fields.join(", ")))
    }

    /// What is wrong with the filter of a tracepoint that the kernel refused, as far as
    /// can be told, and what it could name. `None` if it has no filter.
    pub fn filter_refused(&self, t: &Tracepoint, why: &str) -> Option<EventError> {
        tracefs::refused(&self.host, t, why)
    }
}

/// A way to name events by number: what `entries` cannot list one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// How it is spelled, with what varies in capitals or as a range.
    pub spelling: String,
    /// What it names.
    pub description: String,
}

impl Catalogue {
    /// Raw events, breakpoints, and the terms of each PMU with their ranges.
    pub fn forms(&self) -> Vec<Form> {
        let form = |spelling: &str, about: &str| Form {
            spelling: spelling.into(),
            description: about.into(),
        };
        let mut forms = vec![
            form("rHEX", "the CPU's own event of that number"),
            form("TYPE:CONFIG", "as perf_event_attr has them"),
            form("mem:ADDRESS[/LENGTH][:rwx]", "accesses to an address"),
        ];
        for pmu in self.pmus().filter(|p| !p.formats.is_empty()) {
            let range = |(name, format): (&String, &Format)| match format.max() {
                1 => name.clone(),
                max => format!("{name}=0-{max:#x}"),
            };
            let terms: Vec<_> = pmu.formats.iter().map(range).collect();
            let about = match pmu.scope {
                Scope::Core => "events of the cores",
                Scope::Uncore => "events beside the cores, not per task",
                Scope::Other => "events of that PMU",
            };
            forms.push(form(&format!("{}/{}/", pmu.name, terms.join(",")), about));
        }
        forms
    }
}

impl Entry {
    /// Whether a pattern names it: by a name with `*` and `?`, or else by any part
    /// of a name, an alias or the description. Case does not count.
    pub fn is_named_by(&self, pattern: &str) -> bool {
        let pattern = pattern.to_lowercase();
        let names = || self.aliases.iter().chain([&self.name]).map(|n| n.to_lowercase());
        match glob::is_glob(&pattern) {
            true => names().any(|n| glob::matches(&pattern, &n)),
            false => {
                names().any(|n| n.contains(&pattern))
                    || self.description.to_lowercase().contains(&pattern)
            }
        }
    }
}

/// The unit, or what it is without one.
pub(crate) fn unit_or_count(unit: &str) -> String {
    if unit.is_empty() { "count".into() } else { unit.into() }
}
