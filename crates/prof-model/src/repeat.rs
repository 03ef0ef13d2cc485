//! A command that was run several times: what its runs say together.

use std::fmt;

use crate::counters::Item;
use crate::counters::Table;
use crate::figures::EventSet;
use crate::figures::Figures;
use crate::figures::Value;
use crate::stats;
use crate::stats::Spread;

/// Runs shorter than this are mostly the start of a process, ns.
const SHORT_NS: f64 = 5e6;

/// Collects the runs.
#[derive(Debug, Clone)]
pub struct Repetitions {
    asked: u32,
    failed: u32,
    table: Table,
    elapsed_ns: Vec<u64>,
    items: Vec<(Item, Vec<f64>, Option<&'static str>)>,
    metrics: Vec<Vec<f64>>,
}

impl Repetitions {
    /// Before the first run; `asked` are to come.
    pub fn new(events: EventSet, table: &Table, asked: u32) -> Self {
        let figures = events.iter().map(Item::Figure);
        let counters = (0..table.counters.len()).map(Item::Counter);
        Self {
            asked,
            failed: 0,
            table: table.clone(),
            elapsed_ns: Vec::new(),
            items: figures.chain(counters).map(|i| (i, Vec::new(), None)).collect(),
            metrics: vec![Vec::new(); table.metrics.len()],
        }
    }

    /// Adds a run: how long the command took, and the totals of its session.
    pub fn add(&mut self, elapsed_ns: u64, totals: &Figures, failed: bool) {
        self.elapsed_ns.push(elapsed_ns);
        self.failed += u32::from(failed);
        for (item, values, absent) in &mut self.items {
            match totals.item(*item) {
                Value::Is(v) => values.push(v as f64 * self.table.scale(*item)),
                Value::Absent(why) => *absent = Some(why),
            }
        }
        for (metric, values) in self.table.metrics.iter().zip(&mut self.metrics) {
            values.extend(self.table.metric_of_all(metric, totals, Some(elapsed_ns)));
        }
    }

    /// How many there were so far.
    pub fn len(&self) -> usize {
        self.elapsed_ns.len()
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.elapsed_ns.is_empty()
    }

    /// What they say; `None` if there was none.
    pub fn finish(&self, time_ns: u64) -> Option<Repeat> {
        let times: Vec<_> = self.elapsed_ns.iter().map(|ns| *ns as f64).collect();
        Some(Repeat {
            time_ns,
            asked: self.asked,
            failed: self.failed,
            elapsed: Spread::of(&times)?,
            elapsed_ns: self.elapsed_ns.clone(),
            items: self
                .items
                .iter()
                .map(|(item, values, absent)| (*item, Spread::of(values), *absent))
                .collect(),
            metrics: self.metrics.iter().map(|m| Spread::of(m)).collect(),
            warnings: warnings(&times),
        })
    }
}

/// What the runs of a command say together.
#[derive(Debug, Clone, PartialEq)]
pub struct Repeat {
    /// CLOCK_REALTIME, ns.
    pub time_ns: u64,
    /// How many runs were asked for.
    pub asked: u32,
    /// Those of the runs that ended with a code other than 0 or by a signal.
    pub failed: u32,
    /// From the start of the command to its end, ns.
    pub elapsed: Spread,
    /// The same, run by run.
    pub elapsed_ns: Vec<u64>,
    /// Totals, figures first, then counters, in the order of the header's table and in
    /// the unit told there; with why there is none if some run has none.
    pub items: Vec<(Item, Option<Spread>, Option<&'static str>)>,
    /// Metrics, in the order of the table.
    pub metrics: Vec<Option<Spread>>,
    /// What makes them doubtful.
    pub warnings: Vec<Warning>,
}

/// Why the runs may not say what they seem to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warning {
    /// The first run took much longer than the rest.
    SlowFirst {
        /// How long, ns.
        ns: u64,
    },
    /// Some runs lie far from the rest.
    Outliers {
        /// How many.
        n: usize,
    },
    /// Some run was over at once.
    Short,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SlowFirst { ns } => write!(
                f,
                "the first run took much longer than the rest ({:.3} s): caches were cold; run \
                 the command once before, or let each run begin with cold ones",
                *ns as f64 / 1e9
            ),
            Self::Outliers { n } => {
                let (runs, lie) = if *n == 1 { ("run", "lies") } else { ("runs", "lie") };
                write!(
                    f,
                    "{n} {runs} {lie} far from the rest: something else may have used the machine; \
                     repeat it when it is quiet"
                )
            }
            Self::Short => f.write_str(
                "the command takes less than 5 ms: most of that is the start of a process, and \
                 what differs is mostly chance",
            ),
        }
    }
}

fn warnings(elapsed: &[f64]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if elapsed.iter().any(|ns| *ns < SHORT_NS) {
        warnings.push(Warning::Short);
    }
    match (stats::outliers(elapsed), elapsed.first()) {
        ((_, true), Some(first)) => warnings.push(Warning::SlowFirst { ns: *first as u64 }),
        ((n, _), _) if n > 0 => warnings.push(Warning::Outliers { n }),
        _ => {}
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Event;

    fn totals(faults: Option<u64>) -> Figures {
        let mut f = Figures::absent("not here");
        if let Some(n) = faults {
            f.set(Event::PageFaults, Value::Is(n));
        }
        f
    }

    #[test]
    fn runs_without_a_figure_are_left_out_of_it_and_not_zero() {
        let events = EventSet::EMPTY.with(Event::PageFaults).with(Event::PeakRss);
        let mut all = Repetitions::new(events, &Table::default(), 3);
        assert_eq!(all.finish(0), None);
        for faults in [Some(10), None, Some(20)] {
            all.add(7_000_000, &totals(faults), faults.is_none());
        }
        let r = all.finish(5).unwrap();
        assert_eq!((r.asked, r.failed, r.elapsed.over), (3, 1, 3));
        let (item, spread, absent) = r.items[0];
        assert_eq!(item, Item::Figure(Event::PageFaults));
        assert_eq!(spread.map(|s| (s.over, s.mean)), Some((2, 15.0)));
        assert_eq!(absent, Some("not here"));
        assert_eq!(r.items[1].1, None);
    }

    #[test]
    fn doubts_are_told_once_each() {
        let mut all = Repetitions::new(EventSet::EMPTY, &Table::default(), 6);
        for ms in [90, 10, 11, 9, 12, 8] {
            all.add(ms * 1_000_000, &totals(None), false);
        }
        let r = all.finish(0).unwrap();
        assert_eq!(r.warnings, [Warning::SlowFirst { ns: 90_000_000 }]);
        all.elapsed_ns[0] = 1_000_000;
        all.elapsed_ns.push(90_000_000);
        let r = all.finish(0).unwrap();
        assert_eq!(r.warnings, [Warning::Short, Warning::Outliers { n: 1 }]);
    }
}
