//! What a list comes to on a host: what to open, how, and what to compute.

use prof_model::figures;
use prof_model::figures::EventSet;
use prof_model::rules::Span;

use crate::attr::Attr;
use crate::attr::Wishes;
use crate::cpus::CpuSet;
use crate::error::ErrorKind;
use crate::error::EventError;
use crate::error::Fault;
use crate::tables::metrics::MetricInfo;
use crate::tracefs;
use crate::tracefs::Tracepoint;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// Kept by the kernel for each process, and read by prof without an event. It
    /// may have an [`Attr`] too, by which perf would count it.
    Figure(figures::Event),
    /// Generic hardware event.
    Hardware,
    /// Software event of the kernel.
    Software,
    /// Generic cache event.
    Cache,
    /// The CPU's own number.
    Raw,
    /// Type and config as given.
    Numeric,
    /// Accesses to an address.
    Breakpoint,
    /// Terms of a PMU, or an event that the kernel names.
    Pmu,
    /// Out of the vendor's table.
    Vendor,
    /// Tracepoint.
    Tracepoint,
}

/// An event to count.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// How to call it: as it was spelled, as its `name=` says, or, where one
    /// spelling became several events, with the PMU or the tracepoint in it.
    pub name: String,
    /// As it was spelled; of a wildcard, the name that it stood for. Events at the
    /// same place with the same spelling are one event on several PMUs, of which
    /// perf adds those of an uncore block up.
    pub spelled: String,
    /// Which of the lists it is from, and where in that.
    pub list: usize,
    /// Its place in that list.
    pub span: Span,
    /// Where it comes from.
    pub source: Source,
    /// What to open; `None` for figures that perf has no event for.
    pub attr: Option<Attr>,
    /// What its modifiers ask for beside.
    pub wishes: Wishes,
    /// PMU, if a certain one.
    pub pmu: Option<String>,
    /// CPUs to open it on; `None` for all.
    pub cpus: Option<CpuSet>,
    /// Whether a count can be attributed to a task. Uncore PMUs count for all.
    pub per_task: bool,
    /// Unit of a value after `scale`: `count`, `ns`, `bytes`, `Joules` …
    pub unit: String,
    /// What a count is multiplied by.
    pub scale: f64,
    /// What it counts, if that is known; else empty.
    pub description: String,
    /// If it is one. Its `filter` is to be set when it is opened.
    pub tracepoint: Option<Tracepoint>,
    /// `period=`: for samples; counting is the same without.
    pub period: Option<u64>,
    /// `percore`: to be shown per core, its threads together.
    pub per_core: bool,
    /// Nobody listed it: a metric is computed from it.
    pub for_metric: bool,
}

impl Event {
    /// Id in prof's records: of a figure its own, else `perf_type << 24 | config`;
    /// `None` where that does not fit and the consumer gives an index.
    pub fn id(&self) -> Option<u32> {
        match self.source {
            Source::Figure(f) => Some(f.info().id),
            _ => self.attr.as_ref().and_then(Attr::id),
        }
    }
}

/// Events that are opened together, the leader first. An event that was listed
/// alone is a group of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// In front of the brace.
    pub name: Option<String>,
    /// Indices of [`Selection::events`].
    pub events: Vec<usize>,
    /// Whether braces asked for it.
    pub braces: bool,
    /// May be taken apart if it does not fit on the PMU.
    pub weak: bool,
}

/// A figure to compute.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// As it was spelled.
    pub name: String,
    /// What it is.
    pub info: &'static MetricInfo,
    /// Index of the event above the line.
    pub above: usize,
    /// Index of the one below.
    pub below: usize,
    /// Core PMU, if there are several: one metric for each.
    pub pmu: Option<String>,
}

impl Metric {
    /// In the unit of [`MetricInfo`], from the two values in theirs. `None` if
    /// there is nothing to divide by.
    pub fn value(&self, above: f64, below: f64) -> Option<f64> {
        let value = above / below * self.info.factor;
        (below != 0.0 && value.is_finite()).then_some(value)
    }
}

/// What a list comes to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Selection {
    /// In the order listed; those that metrics need come last.
    pub events: Vec<Event>,
    /// Each event is in one. Figures are too, so that the order shows.
    pub groups: Vec<Group>,
    /// In the order listed.
    pub metrics: Vec<Metric>,
}

impl Selection {
    /// The figures among the events.
    pub fn figures(&self) -> EventSet {
        self.events.iter().fold(EventSet::EMPTY, |set, e| match e.source {
            Source::Figure(f) => set.with(f),
            _ => set,
        })
    }

    /// Filters the tracepoints of the last list, as perf's `--filter` does; with
    /// a filter that they already have, both must hold.
    ///
    /// # Errors
    ///
    /// If that list has an event that is no tracepoint, or the filter cannot be
    /// one. `origin` and the filter are what the error is shown with.
    pub fn set_filter(&mut self, origin: &str, filter: &str) -> Result<(), EventError> {
        let last = self.events.iter().filter(|e| !e.for_metric).map(|e| e.list).max();
        self.filter_list(last, filter).map_err(|f| f.in_text(origin, filter))
    }

    pub(crate) fn filter_list(&mut self, list: Option<usize>, filter: &str) -> Result<(), Fault> {
        let span = Span { at: 0, len: filter.len() };
        let bad = |message: String| Fault::new(ErrorKind::Combination, span, message);
        tracefs::check_filter(filter)
            .map_err(|message| Fault::new(ErrorKind::Value, span, message))?;
        let of_list = |e: &&mut Event| Some(e.list) == list && !e.for_metric;
        let other = self.events.iter_mut().filter(of_list).find(|e| e.tracepoint.is_none());
        if let Some(e) = other {
            return Err(bad(format!("a filter is for tracepoints only; '{}' is none", e.name)));
        }
        let mut any = false;
        for t in self.events.iter_mut().filter(of_list).filter_map(|e| e.tracepoint.as_mut()) {
            any = true;
            t.filter = Some(match t.filter.take() {
                Some(before) => format!("({before}) && ({filter})"),
                None => filter.to_owned(),
            });
        }
        match any {
            true => Ok(()),
            false => Err(bad("a filter stands behind the tracepoints that it is for".into())),
        }
    }
}
