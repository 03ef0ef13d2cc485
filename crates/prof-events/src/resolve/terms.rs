//! Terms of a PMU become bits of an attr.

use prof_model::rules::Span;

use super::Context;
use crate::attr::Attr;
use crate::error::ErrorKind;
use crate::error::Fault;
use crate::pmu::Pmu;
use crate::syntax::Term;
use crate::syntax::TermValue;
use crate::syntax::terms_of_file;
use crate::vendor::VendorEvent;

/// Words of perf's that mean something on any event.
const OWN: [&str; 8] =
    ["config", "config1", "config2", "config3", "name", "period", "percore", "metric-id"];

/// Words of perf's that mean something for samples only.
const FOR_SAMPLES: [&str; 13] = [
    "freq",
    "branch_type",
    "time",
    "call-graph",
    "stack-size",
    "max-stack",
    "nr",
    "inherit",
    "no-inherit",
    "overwrite",
    "no-overwrite",
    "aux-output",
    "aux-sample-size",
];

/// An event that names an event that names an event … ends here.
const MAX_DEPTH: usize = 4;

/// What terms came to.
#[derive(Debug, Default, Clone)]
pub(super) struct Configured {
    pub(super) attr: Attr,
    pub(super) name: Option<String>,
    pub(super) unit: String,
    pub(super) scale: Option<f64>,
    pub(super) description: String,
    pub(super) period: Option<u64>,
    pub(super) per_core: bool,
    /// A term was out of the vendor's table.
    pub(super) vendor: bool,
}

impl Configured {
    /// What a term has behind `=`, as text.
    pub(super) fn text(term: &Term) -> Result<&str, Fault> {
        match &term.value {
            Some(TermValue::Word(text) | TermValue::Quoted(text)) => Ok(text),
            _ => {
                let message = format!("'{}' needs a text: {0}=…", term.name);
                Err(Fault::new(ErrorKind::Value, term.span(), message))
            }
        }
    }

    fn number(term: &Term) -> Result<u64, Fault> {
        match &term.value {
            Some(TermValue::Number(n)) => Ok(*n),
            None => Ok(1),
            Some(_) => {
                let message = format!("'{}' needs a number", term.name);
                Err(Fault::new(ErrorKind::Value, term.value_span, message))
            }
        }
    }

    /// Takes a term if it is one of perf's words.
    fn own_word(&mut self, term: &Term) -> Result<bool, Fault> {
        match term.name.as_str() {
            "config" => self.attr.config = Self::number(term)?,
            "config1" => self.attr.config1 = Self::number(term)?,
            "config2" => self.attr.config2 = Self::number(term)?,
            "config3" => self.attr.config3 = Self::number(term)?,
            "name" => self.name = Some(Self::text(term)?.to_owned()),
            "period" => self.period = Some(Self::number(term)?),
            "percore" => {
                self.per_core = match Self::number(term)? {
                    n @ (0 | 1) => n == 1,
                    _ => {
                        let message = "'percore' is 0 or 1";
                        return Err(Fault::new(ErrorKind::Value, term.value_span, message));
                    }
                }
            }
            // perf's own, between its metrics and its events.
            "metric-id" => drop(Self::text(term)?),
            other if FOR_SAMPLES.contains(&other) => {
                let message = format!("'{other}' is for samples; nothing is sampled here");
                return Err(Fault::new(ErrorKind::UnknownTerm, term.name_span, message));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes a term, which has to be one of perf's words.
    pub(super) fn own_word_only(&mut self, term: &Term) -> Result<(), Fault> {
        match self.own_word(term)? {
            true => Ok(()),
            false => {
                let message = format!("this event takes no term '{}'", term.name);
                Err(Fault::new(ErrorKind::UnknownTerm, term.name_span, message)
                    .near(&term.name, OWN)
                    .help(format!("terms are: {}", OWN.join(", "))))
            }
        }
    }

    /// With what a vendor's table says of it.
    pub(super) fn describe(&mut self, v: &VendorEvent) {
        self.vendor = true;
        self.description.clone_from(&v.description);
        if self.unit.is_empty() {
            self.unit.clone_from(&v.unit);
        }
        self.scale = self.scale.or(v.scale.filter(|s| s.is_finite()));
    }
}

impl Context<'_> {
    /// What a PMU makes of terms.
    pub(super) fn configured(&self, pmu: &Pmu, terms: &[Term]) -> Result<Configured, Fault> {
        let attr = Attr::counting(pmu.type_, 0);
        let mut c = Configured { attr, ..Configured::default() };
        let terms = self.expanded(pmu, terms, &mut c, 0)?;
        // perf's words first: what a format says is ORed onto `config=`.
        let mut of_pmu = Vec::new();
        for term in &terms {
            let hex = raw(term).filter(|_| !pmu.formats.contains_key(&term.name));
            if let Some(config) = hex {
                c.attr.config = config;
            } else if pmu.formats.contains_key(&term.name) || !c.own_word(term)? {
                of_pmu.push(term);
            }
        }
        for term in of_pmu {
            self.format(pmu, term, &terms, &mut c.attr)?;
        }
        Ok(c)
    }

    /// Terms with events replaced by theirs.
    fn expanded(
        &self,
        pmu: &Pmu,
        terms: &[Term],
        c: &mut Configured,
        depth: usize,
    ) -> Result<Vec<Term>, Fault> {
        let mut out = Vec::new();
        let mut first: Option<&str> = None;
        for term in terms {
            let name = match &term.value {
                _ if OWN.contains(&term.name.as_str()) => None,
                Some(TermValue::Word(w)) if term.name.eq_ignore_ascii_case("event") => Some(w),
                None | Some(TermValue::Number(1)) => Some(&term.name),
                _ => None,
            };
            let name = name.filter(|n| !pmu.formats.contains_key(*n));
            let text = name.and_then(|n| self.event_terms(pmu, n, c));
            let Some(text) = text else {
                out.push(term.clone());
                continue;
            };
            if let Some(first) = first {
                let message = format!("one event is counted, not '{first}' and another");
                return Err(Fault::new(ErrorKind::Combination, term.span(), message));
            }
            first = Some(&term.name);
            if depth == MAX_DEPTH {
                let message = format!("'{}' stands for itself", term.name);
                return Err(Fault::new(ErrorKind::Host, term.span(), message));
            }
            let span = term.span();
            let mut inner = terms_of_file(&text).map_err(|f| {
                let message = format!("{}: '{text}': {}", pmu.name, f.message);
                Fault::new(ErrorKind::Host, span, message)
            })?;
            for t in &mut inner {
                (t.name_span, t.value_span) = (span, Span { at: span.at + span.len, len: 0 });
            }
            out.extend(self.expanded(pmu, &inner, c, depth + 1)?);
        }
        Ok(out)
    }

    /// What an event of the PMU stands for; takes its unit and scale along.
    fn event_terms(&self, pmu: &Pmu, name: &str, c: &mut Configured) -> Option<String> {
        if let Some(e) = pmu.event(name) {
            if c.unit.is_empty() {
                c.unit.clone_from(&e.unit);
            }
            c.scale = c.scale.or(e.scale);
            return Some(e.terms.clone());
        }
        let v = self.vendor_on(pmu, name)?;
        c.describe(&v);
        Some(v.terms)
    }

    /// Sets the bits of a term that the PMU has a format for.
    fn format(&self, pmu: &Pmu, term: &Term, all: &[Term], attr: &mut Attr) -> Result<(), Fault> {
        let Some(format) = pmu.formats.get(&term.name) else {
            let known = || pmu.formats.keys().map(String::as_str).chain(OWN);
            let message = format!("PMU '{}' has no term '{}'", pmu.name, term.name);
            let events = pmu.events.keys().map(String::as_str);
            return Err(Fault::new(ErrorKind::UnknownTerm, term.name_span, message)
                .near(&term.name, known().chain(events))
                .help(format!("terms are: {}", known().collect::<Vec<_>>().join(", "))));
        };
        let value = match &term.value {
            Some(TermValue::Word(w)) if w == "?" => self.parameter(pmu, term, all)?,
            _ => Configured::number(term)?,
        };
        if value > format.max() {
            let message = format!("{value:#x} is too large: {} is the most", shown(format.max()));
            let span = if term.value_span.len > 0 { term.value_span } else { term.span() };
            return Err(Fault::new(ErrorKind::Value, span, message)
                .help(format!("{} is {format}", term.name)));
        }
        format.set(attr, value);
        Ok(())
    }

    /// The value of `name=?`, which has to stand beside it.
    fn parameter(&self, pmu: &Pmu, term: &Term, all: &[Term]) -> Result<u64, Fault> {
        let given = all.iter().filter(|t| t.name == term.name).find_map(|t| match t.value {
            Some(TermValue::Number(n)) => Some(n),
            _ => None,
        });
        given.ok_or_else(|| {
            let message = format!("this event of '{}' needs {}=NUMBER", pmu.name, term.name);
            Fault::new(ErrorKind::Value, term.span(), message)
        })
    }
}

/// `r3c`: the config as such.
fn raw(term: &Term) -> Option<u64> {
    let hex = term.name.strip_prefix('r').filter(|_| term.value.is_none())?;
    let hex = hex.strip_prefix("0x").unwrap_or(hex);
    let is_hex = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hex { u64::from_str_radix(hex, 16).ok() } else { None }
}

/// A bound, in the base that says most.
fn shown(max: u64) -> String {
    if max < 16 { max.to_string() } else { format!("{max:#x}") }
}
