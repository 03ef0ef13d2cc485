//! Names that there are, and those that were perhaps meant.

use std::collections::HashSet;

use prof_model::figures;

use super::Context;
use crate::catalogue::Catalogue;
use crate::error::ErrorKind;
use crate::error::Fault;
use crate::glob;
use crate::host;
use crate::syntax::EventSpec;
use crate::tables::cache;
use crate::tables::generic::GENERIC;
use crate::tables::metrics::METRICS;
use crate::tracefs;

impl Context<'_> {
    /// Names that a pattern fits, each event by one of them.
    pub(super) fn names_like(&self, pattern: &str) -> Vec<String> {
        let fits = |names: &[&str]| names.iter().any(|n| glob::matches(pattern, n));
        let mut names: Vec<String> = Vec::new();
        let mut seen = HashSet::new();
        let mut add = |name: &str, aliases: &[&str]| {
            if (fits(&[name]) || fits(aliases)) && seen.insert(name.to_owned()) {
                names.push(name.to_owned());
            }
        };
        figures::EVENTS.iter().for_each(|e| add(e.name, e.aliases));
        GENERIC.iter().for_each(|g| add(g.name, g.aliases));
        cache::all().for_each(|(name, ..)| add(&name, &[]));
        METRICS.iter().for_each(|m| add(m.name, m.aliases));
        for pmu in self.catalogue.pmus() {
            pmu.events.keys().for_each(|name| add(name, &[]));
        }
        self.catalogue.vendor().iter().for_each(|v| add(&v.name, &[]));
        names
    }

    pub(super) fn unknown_event(&self, spec: &EventSpec, name: &str) -> Fault {
        let span = spec.body_span;
        if self.catalogue.pmu(name).is_some() {
            let message = format!("'{name}' is a PMU, not an event");
            return Fault::new(ErrorKind::UnknownEvent, span, message)
                .help(format!("{name}/EVENT/ or {name}/TERM=VALUE,…/"));
        }
        let fault = Fault::new(ErrorKind::UnknownEvent, span, format!("unknown event '{name}'"))
            .help("`prof events` lists what there is");
        let known = event_names(self.catalogue);
        // Half of a tracepoint's name is a common slip.
        let mut near = self.tracepoints_called(name);
        near.extend(fault.clone().near(name, known.iter().map(String::as_str)).near);
        near.truncate(3);
        Fault { near, ..fault }
    }

    fn tracepoints_called(&self, name: &str) -> Vec<String> {
        let host = self.catalogue.host();
        if !host::is_plain(name) {
            return Vec::new();
        }
        let has = |s: &String| host.tracefs.join("events").join(s).join(name).join("id").exists();
        let systems = tracefs::systems(host, Default::default()).unwrap_or_default();
        systems.into_iter().filter(has).map(|s| format!("{s}:{name}")).collect()
    }

    pub(super) fn unknown_pmu(&self, spec: &EventSpec, name: &str) -> Fault {
        let all: Vec<_> = self.catalogue.pmu_names().collect();
        let message = format!("no PMU '{name}' on this machine, and no such event");
        let help = match all.is_empty() {
            true => format!("none is in {}", self.catalogue.host().pmus().display()),
            false => format!("PMUs are: {}", all.join(", ")),
        };
        Fault::new(ErrorKind::UnknownPmu, spec.body_span, message).near(name, all).help(help)
    }
}

/// Every name that `-e` takes here, but those of tracepoints.
fn event_names(catalogue: &Catalogue) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let entries = catalogue.entries();
    for e in entries {
        names.extend(e.aliases);
        names.push(e.name);
    }
    // Of the generic events that are figures too, the other spellings.
    names.extend(GENERIC.iter().flat_map(|g| g.aliases).map(|a| (*a).to_owned()));
    names.sort_unstable();
    names.dedup();
    names
}
