//! One event of a list, which may stand for several.

use prof_model::figures::EventInfo;
use prof_model::rules::Span;

use super::Context;
use super::terms::Configured;
use crate::attr::Attr;
use crate::attr::Wishes;
use crate::attr::perf_type;
use crate::catalogue::unit_or_count;
use crate::error::ErrorKind;
use crate::error::Fault;
use crate::glob;
use crate::pmu::Pmu;
use crate::pmu::Scope;
use crate::pmu::of_block;
use crate::selection::Event;
use crate::selection::Source;
use crate::syntax::Body;
use crate::syntax::EventSpec;
use crate::syntax::Modifiers;
use crate::syntax::Term;
use crate::syntax::terms_of_file;
use crate::tables;
use crate::tables::cache;
use crate::tables::generic;
use crate::tracefs;
use crate::vendor::VendorEvent;

/// Bits of `config` above which a generic event has the type of its PMU.
const EXTENDED_TYPE_SHIFT: u32 = 32;

/// A name with modifiers behind.
pub(super) fn with_modifiers(name: &str, modifiers: &Option<Modifiers>, sep: char) -> String {
    match modifiers {
        Some(m) if sep == '/' => format!("{name}{m}"),
        Some(m) => format!("{name}{sep}{m}"),
        None => name.to_owned(),
    }
}

/// A figure, as an event.
pub(super) fn figure(info: &'static EventInfo, spelled: &str, list: usize, span: Span) -> Event {
    let attr = generic::find(info.name).map(|g| Attr::counting(g.type_, g.config));
    Event {
        name: info.name.to_owned(),
        spelled: spelled.to_owned(),
        list,
        span,
        source: Source::Figure(info.event),
        attr,
        wishes: Wishes::default(),
        pmu: None,
        cpus: None,
        per_task: true,
        unit: info.unit.name().to_owned(),
        scale: 1.0,
        description: info.about.to_owned(),
        tracepoint: None,
        period: None,
        per_core: false,
        for_metric: false,
    }
}

impl Context<'_> {
    /// What an event comes to: at least one event. Within a group names are those
    /// of perf's events, since figures are not counted with others.
    pub(super) fn event(&self, spec: &EventSpec, in_group: bool) -> Result<Vec<Event>, Fault> {
        let mut events = match &spec.body {
            Body::Name(name) => self.name(spec, name, in_group)?,
            Body::Raw(config) => self.raw(spec, *config)?,
            Body::Numeric { type_, config } => {
                let attr = Attr::counting(*type_, *config);
                vec![self.plain(spec, Source::Numeric, attr, "count", "")?]
            }
            Body::Breakpoint { address, len, access } => {
                const READ_WRITE: u32 = 3;
                const EXECUTE: u32 = 4;
                let bp_type = access.unwrap_or(READ_WRITE);
                // An instruction has the length of a word to the kernel.
                let default = if bp_type == EXECUTE { 8 } else { 4 };
                let attr = Attr {
                    config1: *address,
                    config2: len.filter(|l| *l > 0).unwrap_or(default),
                    bp_type,
                    ..Attr::counting(perf_type::BREAKPOINT, 0)
                };
                vec![self.plain(spec, Source::Breakpoint, attr, "count", "")?]
            }
            Body::Tracepoint { system, name } => self.tracepoint(spec, system, name)?,
        };
        if let Some(modifiers) = &spec.modifiers {
            for e in &mut events {
                if let Some(attr) = &mut e.attr {
                    modifiers.apply(attr, &mut e.wishes, false);
                }
            }
        }
        Ok(events)
    }

    fn name(&self, spec: &EventSpec, name: &str, in_group: bool) -> Result<Vec<Event>, Fault> {
        let generic = generic::find(name);
        let info = tables::figure(name);
        if let (Some(info), None) = (info, &spec.terms) {
            if !in_group && spec.modifiers.is_none() {
                return Ok(vec![figure(info, name, self.list, spec.span)]);
            }
            if generic.is_none() {
                let message =
                    format!("'{name}' is one figure for all modes: it takes no modifiers");
                return Err(Fault::new(ErrorKind::Modifier, spec.span, message));
            }
        }
        if let Some(g) = generic {
            let attr = Attr::counting(g.type_, g.config);
            return match g.type_ {
                perf_type::HARDWARE => self.on_cores(spec, Source::Hardware, attr, g.about),
                _ => Ok(vec![self.plain(spec, Source::Software, attr, g.unit, g.about)?]),
            };
        }
        if let Some(config) = cache::config(name) {
            let attr = Attr::counting(perf_type::HW_CACHE, config);
            return self.on_cores(spec, Source::Cache, attr, "");
        }
        match &spec.terms {
            Some(terms) => self.pmu(spec, name, terms),
            None => self.by_name(spec, name, &[]),
        }
    }

    /// An event whose terms are perf's own words only.
    fn plain(
        &self,
        spec: &EventSpec,
        source: Source,
        attr: Attr,
        unit: &str,
        about: &str,
    ) -> Result<Event, Fault> {
        let mut c = Configured { attr, ..Configured::default() };
        for term in spec.terms.iter().flatten() {
            c.own_word_only(term)?;
        }
        c.unit = unit.to_owned();
        Ok(Event { description: about.to_owned(), ..self.made(spec, source, c, None) })
    }

    /// A generic event on each core PMU, if there are several.
    fn on_cores(
        &self,
        spec: &EventSpec,
        source: Source,
        attr: Attr,
        about: &str,
    ) -> Result<Vec<Event>, Fault> {
        let event = self.plain(spec, source, attr, "count", about)?;
        let cores: Vec<_> = self.catalogue.core_pmus().collect();
        if cores.len() < 2 {
            return Ok(vec![event]);
        }
        let one = |pmu: &Pmu| {
            let mut event = event.clone();
            if let Some(attr) = &mut event.attr {
                attr.config |= u64::from(pmu.type_) << EXTENDED_TYPE_SHIFT;
            }
            self.on(&mut event, spec, pmu, Some(self.word(spec)));
            event
        };
        Ok(cores.into_iter().map(one).collect())
    }

    /// Says that an event is of that PMU, of several that could be meant. `head` is
    /// the event, where the list does not name the PMU.
    fn on(&self, event: &mut Event, spec: &EventSpec, pmu: &Pmu, head: Option<&str>) {
        event.pmu = Some(pmu.name.clone());
        event.cpus.clone_from(&pmu.cpus);
        event.per_task = pmu.scope != Scope::Uncore;
        if spec.terms.iter().flatten().any(|t| t.name == "name") {
            event.name = format!("{}/{}/", pmu.name, event.name);
            return;
        }
        let mut shown: Vec<String> = head.map(str::to_owned).into_iter().collect();
        shown.extend(spec.terms.iter().flatten().map(ToString::to_string));
        let full = format!("{}/{}/", pmu.name, shown.join(","));
        event.name = with_modifiers(&full, &spec.modifiers, '/');
    }

    /// The name that an event is listed by; of a wildcard, one that it stands for.
    fn word<'a>(&'a self, spec: &'a EventSpec) -> &'a str {
        match &spec.body {
            Body::Name(name) => name,
            _ => self.spelled(spec.body_span),
        }
    }

    /// An event with what its terms came to.
    fn made(&self, spec: &EventSpec, source: Source, c: Configured, pmu: Option<&Pmu>) -> Event {
        let spelled = self.spelled(spec.span).to_owned();
        Event {
            name: c.name.unwrap_or_else(|| spelled.clone()),
            spelled,
            list: self.list,
            span: spec.span,
            source,
            attr: Some(c.attr),
            wishes: Wishes::default(),
            pmu: pmu.map(|p| p.name.clone()),
            cpus: pmu.and_then(|p| p.cpus.clone()),
            per_task: pmu.is_none_or(|p| p.scope != Scope::Uncore),
            unit: unit_or_count(&c.unit),
            scale: c.scale.unwrap_or(1.0),
            description: c.description,
            tracepoint: None,
            period: c.period,
            per_core: c.per_core,
            for_metric: false,
        }
    }

    /// `r1c2`, unless the kernel names an event so.
    fn raw(&self, spec: &EventSpec, config: u64) -> Result<Vec<Event>, Fault> {
        let word = self.spelled(spec.body_span);
        if !self.catalogue.pmus_with_event(word).is_empty() {
            return self.by_name(spec, word, spec.terms.as_deref().unwrap_or_default());
        }
        let event =
            self.plain(spec, Source::Raw, Attr::counting(perf_type::RAW, config), "", "")?;
        let cores: Vec<_> = self.catalogue.core_pmus().collect();
        if cores.len() < 2 {
            return Ok(vec![event]);
        }
        let one = |pmu: &Pmu| {
            let mut event = event.clone();
            self.on(&mut event, spec, pmu, Some(word));
            event.attr.as_mut().into_iter().for_each(|a| a.type_ = pmu.type_);
            event
        };
        Ok(cores.into_iter().map(one).collect())
    }

    /// `pmu/terms/`, or `event/terms/` where no PMU is called so.
    fn pmu(&self, spec: &EventSpec, name: &str, terms: &[Term]) -> Result<Vec<Event>, Fault> {
        if let Some(pmu) = self.catalogue.pmu(name) {
            let pmu = pmu.map_err(|e| Fault::new(ErrorKind::Host, spec.body_span, e))?;
            return Ok(vec![self.on_pmu(spec, pmu, terms)?]);
        }
        let meant = |n: &&str| match glob::is_glob(name) {
            true => glob::matches(name, n),
            false => of_block(n, name),
        };
        let pmus = self.catalogue.pmu_names().filter(meant);
        let pmus: Vec<&Pmu> = pmus.filter_map(|n| self.catalogue.pmu(n)?.ok()).collect();
        if pmus.is_empty() {
            return match self.by_name(spec, name, terms) {
                Err(f) if f.kind == ErrorKind::UnknownEvent => Err(self.unknown_pmu(spec, name)),
                other => other,
            };
        }
        // With a wildcard it is enough that some of them take the terms.
        let (mut events, mut fault) = (Vec::new(), None);
        for pmu in &pmus {
            match self.on_pmu(spec, pmu, terms) {
                Ok(mut event) => {
                    if pmus.len() > 1 {
                        self.on(&mut event, spec, pmu, None);
                    }
                    events.push(event);
                }
                Err(f) => fault = fault.or(Some(f)),
            }
        }
        match fault {
            Some(f) if events.is_empty() => Err(f),
            _ => Ok(events),
        }
    }

    fn on_pmu(&self, spec: &EventSpec, pmu: &Pmu, terms: &[Term]) -> Result<Event, Fault> {
        if let Some(event) = self.generic_on_core(spec, pmu, terms) {
            return Ok(event);
        }
        let c = self.configured(pmu, terms)?;
        let source = if c.vendor { Source::Vendor } else { Source::Pmu };
        Ok(self.made(spec, source, c, Some(pmu)))
    }

    /// `cpu_core/cycles/`: a generic event on one core PMU, unless that names an
    /// event so itself.
    fn generic_on_core(&self, spec: &EventSpec, pmu: &Pmu, terms: &[Term]) -> Option<Event> {
        let [term] = terms else { return None };
        if pmu.scope != Scope::Core || term.value.is_some() || pmu.event(&term.name).is_some() {
            return None;
        }
        let hardware = generic::find(&term.name).filter(|g| g.type_ == perf_type::HARDWARE);
        let (source, mut attr, about) = match (hardware, cache::config(&term.name)) {
            (Some(g), _) => (Source::Hardware, Attr::counting(g.type_, g.config), g.about),
            (None, Some(c)) => (Source::Cache, Attr::counting(perf_type::HW_CACHE, c), ""),
            _ => return None,
        };
        if self.catalogue.core_pmus().nth(1).is_some() {
            attr.config |= u64::from(pmu.type_) << EXTENDED_TYPE_SHIFT;
        }
        let c = Configured { attr, description: about.to_owned(), ..Configured::default() };
        Some(self.made(spec, source, c, Some(pmu)))
    }

    /// An event that the kernel or the vendor names, on each PMU that has it.
    fn by_name(&self, spec: &EventSpec, name: &str, terms: &[Term]) -> Result<Vec<Event>, Fault> {
        let mut pmus = self.catalogue.pmus_with_event(name);
        if pmus.is_empty() {
            pmus = self.catalogue.pmus().filter(|p| p.event(name).is_some()).collect();
        }
        let mut all = vec![Term {
            name: name.to_owned(),
            name_span: spec.body_span,
            value: None,
            value_span: spec.body_span,
        }];
        all.extend_from_slice(terms);
        let mut events = Vec::new();
        for pmu in &pmus {
            let c = self.configured(pmu, &all)?;
            let mut event = self.made(spec, Source::Pmu, c, Some(pmu));
            if pmus.len() > 1 {
                self.on(&mut event, spec, pmu, Some(name));
            }
            events.push(event);
        }
        if events.is_empty() {
            events = self.vendor(spec, name, terms)?;
        }
        match events.is_empty() {
            true => Err(self.unknown_event(spec, name)),
            false => Ok(events),
        }
    }

    fn vendor(&self, spec: &EventSpec, name: &str, more: &[Term]) -> Result<Vec<Event>, Fault> {
        let found = self.catalogue.vendor().find(name);
        let mut events = Vec::new();
        for v in &found {
            for pmu in self.pmus_of(v) {
                let mut terms = terms_of_file(&v.terms).map_err(|f| f.at(spec.body_span))?;
                for t in &mut terms {
                    (t.name_span, t.value_span) = (spec.body_span, spec.body_span);
                }
                terms.extend_from_slice(more);
                let mut c = self.configured(pmu, &terms)?;
                c.describe(v);
                events.push((pmu, self.made(spec, Source::Vendor, c, Some(pmu))));
            }
        }
        if let (Some(v), true) = (found.first(), events.is_empty()) {
            let message = match v.pmu.as_str() {
                "cpu" | "default_core" => {
                    "the CPU's own PMU counts it, which is not here (a virtual machine without one?)"
                        .to_owned()
                }
                pmu => format!("the PMU '{pmu}' counts it, which is not here"),
            };
            return Err(Fault::new(ErrorKind::UnknownPmu, spec.span, message));
        }
        let several = events.len() > 1;
        let shown = |(pmu, mut event): (&Pmu, Event)| {
            if several {
                self.on(&mut event, spec, pmu, Some(name));
            }
            event
        };
        Ok(events.into_iter().map(shown).collect())
    }

    /// The PMUs that a vendor's event can be counted on.
    fn pmus_of(&self, v: &VendorEvent) -> Vec<&Pmu> {
        let any_core = matches!(v.pmu.as_str(), "cpu" | "default_core");
        match self.catalogue.pmu(&v.pmu) {
            Some(Ok(pmu)) => vec![pmu],
            _ if any_core => self.catalogue.core_pmus().collect(),
            _ => self.catalogue.pmus().filter(|p| of_block(&p.name, &v.pmu)).collect(),
        }
    }

    /// `cpu/inst_retired.any/`: what the vendor's table has for a term.
    pub(super) fn vendor_on(&self, pmu: &Pmu, name: &str) -> Option<VendorEvent> {
        let found = self.catalogue.vendor().find(name).into_iter();
        found.into_iter().find(|v| self.pmus_of(v).iter().any(|p| p.name == pmu.name))
    }

    fn tracepoint(&self, spec: &EventSpec, system: &str, name: &str) -> Result<Vec<Event>, Fault> {
        let mut own_filter = None;
        let mut c = Configured::default();
        for term in spec.terms.iter().flatten() {
            match term.name.as_str() {
                "filter" => {
                    let filter = Configured::text(term)?;
                    tracefs::check_filter(filter)
                        .map_err(|m| Fault::new(ErrorKind::Value, term.value_span, m))?;
                    own_filter = Some(filter.to_owned());
                }
                "name" | "period" => c.own_word_only(term)?,
                other => {
                    let message = format!("a tracepoint takes no term '{other}'");
                    return Err(Fault::new(ErrorKind::UnknownTerm, term.name_span, message)
                        .near(other, ["filter", "name", "period"])
                        .help("terms are: filter='…', name=…, period=…"));
                }
            }
        }
        let found = tracefs::find(self.catalogue.host(), system, name, spec.body_span)?;
        let several = glob::is_glob(system) || glob::is_glob(name);
        let one = |mut t: tracefs::Tracepoint| {
            let c = Configured {
                attr: Attr::counting(perf_type::TRACEPOINT, t.id),
                name: c.name.clone(),
                period: c.period,
                ..Configured::default()
            };
            t.filter.clone_from(&own_filter);
            let mut event = self.made(spec, Source::Tracepoint, c, None);
            let full = format!("{}:{}", t.system, t.name);
            let full = with_modifiers(&full, &spec.modifiers, ':');
            // The filter is no part of the name.
            if event.name == event.spelled && (several || spec.terms.is_some()) {
                event.name.clone_from(&full);
            }
            if several {
                event.spelled = full;
            }
            event.tracepoint = Some(t);
            event
        };
        Ok(found.into_iter().map(one).collect())
    }
}
