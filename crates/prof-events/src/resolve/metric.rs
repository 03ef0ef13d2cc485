//! Metrics: their events are found among those listed, or added.

use prof_model::rules::Span;

use super::Context;
use super::Draft;
use super::DraftGroup;
use crate::error::Fault;
use crate::selection::Event;
use crate::selection::Metric;
use crate::syntax::Body;
use crate::syntax::EventSpec;
use crate::syntax::Modifiers;
use crate::tables;
use crate::tables::metrics::MetricInfo;

/// A metric that was listed.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) info: &'static MetricInfo,
    pub(super) name: String,
    pub(super) list: usize,
    modifiers: Option<Modifiers>,
    span: Span,
}

impl Wanted {
    pub(super) fn new(cx: &Context<'_>, spec: &EventSpec, info: &'static MetricInfo) -> Self {
        let name = super::one::with_modifiers(info.name, &spec.modifiers, ':');
        let modifiers = spec.modifiers.clone();
        Self { info, name, list: cx.list, modifiers, span: spec.span }
    }
}

impl Draft {
    /// The metric, once for each core PMU. Until the draft is finished nothing is
    /// put in front of an event, so that indices stay.
    pub(super) fn add_metric(
        &mut self,
        cx: &Context<'_>,
        wanted: &Wanted,
    ) -> Result<Vec<Metric>, Fault> {
        let above = cx.operand(wanted, wanted.info.above)?;
        let below = cx.operand(wanted, wanted.info.below)?;
        let mut metrics = Vec::new();
        for a in above {
            let of_same_pmu = below.iter().find(|b| b.pmu == a.pmu);
            let Some(b) = of_same_pmu.or(below.first()) else { continue };
            let pmu = a.pmu.clone();
            let (above, below) = self.pair(a, b.clone());
            let name = wanted.name.clone();
            metrics.push(Metric { name, info: wanted.info, above, below, pmu });
        }
        Ok(metrics)
    }

    /// Indices of two events, which are added where they are not there: both as a
    /// group, so that they are counted at the same time.
    fn pair(&mut self, a: Event, b: Event) -> (usize, usize) {
        let mut at = 0;
        let (mut found_a, mut found_b) = (None, None);
        for group in &self.groups {
            let find = |x: &Event| group.events.iter().position(|e| same(e, x)).map(|i| at + i);
            let (in_a, in_b) = (find(&a), find(&b));
            if let (Some(a), Some(b)) = (in_a, in_b) {
                return (a, b);
            }
            found_a = found_a.or(in_a);
            found_b = found_b.or(in_b);
            at += group.events.len();
        }
        match (found_a, found_b) {
            (Some(a), Some(b)) => (a, b),
            (Some(a), None) => {
                self.groups.push(DraftGroup::alone(b));
                (a, at)
            }
            (None, Some(b)) => {
                self.groups.push(DraftGroup::alone(a));
                (at, b)
            }
            (None, None) => {
                // A figure is read apart from events, so nothing is gained.
                let figure = |e: &Event| tables::figure(&e.spelled).is_some();
                if figure(&a) || figure(&b) {
                    self.groups.extend([a, b].map(DraftGroup::alone));
                } else {
                    let events = vec![a, b];
                    self.groups.push(DraftGroup { name: None, events, braces: false, weak: true });
                }
                (at, at + 1)
            }
        }
    }
}

/// Whether one is as good as the other.
fn same(a: &Event, b: &Event) -> bool {
    (a.source, a.attr, &a.pmu) == (b.source, b.attr, &b.pmu) && a.tracepoint.is_none()
}

impl Context<'_> {
    /// The events of that name, with the metric's modifiers. A figure that cannot
    /// be divided by mode is taken whole: wall time is the same in each.
    fn operand(&self, wanted: &Wanted, name: &str) -> Result<Vec<Event>, Fault> {
        let whole = tables::generic::find(name).is_none() && tables::figure(name).is_some();
        let spec = EventSpec {
            body: Body::Name(name.to_owned()),
            body_span: wanted.span,
            terms: None,
            modifiers: wanted.modifiers.clone().filter(|_| !whole),
            span: wanted.span,
        };
        let mut events = self.event(&spec, false)?;
        for e in &mut events {
            if e.pmu.is_none() {
                e.name = super::one::with_modifiers(name, &spec.modifiers, ':');
            }
            e.spelled = name.to_owned();
            e.for_metric = true;
        }
        Ok(events)
    }
}
