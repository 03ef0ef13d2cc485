//! Counts of perf events: what the kernel does not keep for each task, attributed to
//! it by prof; and what is computed from them.

use crate::figures::Event;
use crate::figures::Value;

/// A perf event of a session. The header of a stream has the table of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Counter {
    /// As the user called it.
    pub name: String,
    /// `perf_type << 24 | config`; `None` where that does not fit, and the id is
    /// `0x80000000 | index` of the event in the header.
    pub perf_id: Option<u32>,
    /// Unit of a count times `scale`.
    pub unit: String,
    /// What a count is multiplied by.
    pub scale: f64,
    /// What it counts, one line; may be empty.
    pub about: String,
    /// Nobody asked for it but a metric.
    pub for_metric: bool,
}

/// `perf_type << 24 | config` where that says it; `None` where the consumer gives an
/// index instead.
pub fn perf_id(kind: u32, config: u64) -> Option<u32> {
    let config = u32::try_from(config).ok().filter(|c| *c < 1 << 24)?;
    // 0x7f is prof's own, and the highest bit marks an index.
    (kind < 0x7f).then_some(kind << 24 | config)
}

/// What an event counted. Only of sums of all three can it be said how much there
/// was, so they stay together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Counted while it ran.
    pub value: u64,
    /// How long the process was on a CPU with the event enabled, ns.
    pub enabled_ns: u64,
    /// How much of that the event had a counter, ns: less if it had to share one.
    pub running_ns: u64,
}

/// Why a count says nothing.
const NO_COUNTER: &str = "not counted: other events had the hardware counters as long as it ran";

/// It ran, and the event did not even take turns.
const NOT_THERE: &str =
    "not counted: no switch to it was seen, or it ran only on CPUs that do not have the event";

impl Count {
    /// Sum of both.
    #[must_use]
    pub fn plus(&self, o: &Self) -> Self {
        Self {
            value: self.value.saturating_add(o.value),
            enabled_ns: self.enabled_ns.saturating_add(o.enabled_ns),
            running_ns: self.running_ns.saturating_add(o.running_ns),
        }
    }

    /// What was counted since `o`.
    #[must_use]
    pub fn since(&self, o: &Self) -> Self {
        Self {
            value: self.value.saturating_sub(o.value),
            enabled_ns: self.enabled_ns.saturating_sub(o.enabled_ns),
            running_ns: self.running_ns.saturating_sub(o.running_ns),
        }
    }

    /// Whether it had to share a counter, so that its value is an estimate.
    pub fn is_scaled(&self) -> bool {
        self.running_ns < self.enabled_ns && self.running_ns > 0
    }

    /// How much there was: what was counted, scaled up to the time enabled. Whoever `ran`
    /// cannot have been counted in no time.
    pub fn estimate(&self, ran: bool) -> Value {
        if ran && self.enabled_ns == 0 {
            return Value::Absent(NOT_THERE);
        }
        if self.running_ns == 0 && self.enabled_ns > 0 {
            return Value::Absent(NO_COUNTER);
        }
        if !self.is_scaled() {
            return Value::Is(self.value);
        }
        let scaled =
            u128::from(self.value) * u128::from(self.enabled_ns) / u128::from(self.running_ns);
        Value::Is(u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

/// Something that is shown for each process: a figure that the kernel keeps, or the
/// count of a perf event, by its place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// Kept by the kernel.
    Figure(Event),
    /// Counted by an event.
    Counter(usize),
}

impl From<Event> for Item {
    fn from(e: Event) -> Self {
        Self::Figure(e)
    }
}

/// What processes are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortKey {
    /// A figure or a count.
    Item(Item),
    /// A metric, by its place in the table.
    Metric(usize),
}

impl Item {
    /// Whether values of several processes may be added.
    pub fn additive(self) -> bool {
        match self {
            Self::Figure(e) => e.info().additive,
            Self::Counter(_) => true,
        }
    }
}

/// A quotient of two items.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// As the user called it.
    pub name: String,
    /// Unit of the value.
    pub unit: &'static str,
    /// What it says, one line.
    pub about: &'static str,
    /// What the quotient is multiplied by.
    pub factor: f64,
    /// Above the line.
    pub above: Item,
    /// Below it.
    pub below: Item,
}

/// What is counted in a session, and computed from it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// Counters, in the order of the counts of each profile.
    pub counters: Vec<Counter>,
    /// Metrics.
    pub metrics: Vec<Metric>,
}

impl Table {
    /// Those that were asked for by name, with their places.
    pub fn shown(&self) -> impl Iterator<Item = (usize, &Counter)> {
        self.counters.iter().enumerate().filter(|(_, c)| !c.for_metric)
    }

    /// Id in `EVENTS` of the counter at `i`; `before` events stand before the
    /// counters in the header.
    pub fn id(&self, i: usize, before: usize) -> u32 {
        let index = 0x8000_0000 | (before + i) as u32;
        self.counters.get(i).and_then(|c| c.perf_id).unwrap_or(index)
    }

    /// A metric of these figures; `None` if one of the two is absent or there is
    /// nothing to divide by.
    pub fn metric(&self, m: &Metric, figures: &crate::figures::Figures) -> Option<f64> {
        let of = |item| figures.item(item).get().map(|v| v as f64 * self.scale(item));
        quotient(m, of)
    }

    /// A metric of the totals of many processes, or of a part of them: the lives of all of
    /// them add up to nothing that anyone asks for, so time gone by is `elapsed_ns`.
    pub fn metric_of_all(
        &self,
        m: &Metric,
        totals: &crate::figures::Figures,
        elapsed_ns: Option<u64>,
    ) -> Option<f64> {
        let of = |item| match item {
            Item::Figure(Event::WallTime) => elapsed_ns.map(|ns| ns as f64),
            item => totals.item(item).get().map(|v| v as f64 * self.scale(item)),
        };
        quotient(m, of)
    }

    /// What the value of an item is multiplied by.
    pub fn scale(&self, item: Item) -> f64 {
        match item {
            Item::Figure(_) => 1.0,
            Item::Counter(i) => self.counters.get(i).map_or(1.0, |c| c.scale),
        }
    }
}

/// The one over the other; `None` if one is not there or there is nothing to divide by.
fn quotient(m: &Metric, of: impl Fn(Item) -> Option<f64>) -> Option<f64> {
    let value = of(m.above)? / of(m.below)? * m.factor;
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figures;

    fn count(value: u64, enabled_ns: u64, running_ns: u64) -> Count {
        Count { value, enabled_ns, running_ns }
    }

    #[test]
    fn a_count_that_shared_its_counter_is_scaled_once_and_at_the_end() {
        assert_eq!(count(10, 100, 100).estimate(true), Value::Is(10));
        assert_eq!(count(10, 100, 50).estimate(true), Value::Is(20));
        // Two halves that were scaled one by one would give 10 + 10 * 4.
        let sum = count(10, 100, 100).plus(&count(10, 100, 25));
        assert_eq!(sum.estimate(true), Value::Is(32));
        assert_eq!(count(u64::MAX, u64::MAX, 1).estimate(true), Value::Is(u64::MAX));
    }

    #[test]
    fn not_counted_is_not_zero() {
        assert!(matches!(count(0, 100, 0).estimate(true), Value::Absent(_)));
        // Never on a CPU: then nothing was there to be counted.
        assert!(matches!(count(0, 0, 0).estimate(true), Value::Absent(_)));
        assert_eq!(count(0, 0, 0).estimate(false), Value::Is(0));
    }

    #[test]
    fn metrics_divide_and_say_nothing_where_they_cannot() {
        let mut table = Table::default();
        let metric = Metric {
            name: "ipc".into(),
            unit: "insn/cycle",
            about: "",
            factor: 1.0,
            above: Item::Counter(0),
            below: Item::Counter(1),
        };
        table.metrics.push(metric.clone());
        let mut f = Figures::absent("");
        assert_eq!(table.metric(&metric, &f), None);
        f.counts = vec![count(30, 1, 1), count(20, 1, 1)];
        assert_eq!(table.metric(&metric, &f), Some(1.5));
        f.counts[1].value = 0;
        assert_eq!(table.metric(&metric, &f), None);
    }

    #[test]
    fn totals_are_by_the_time_that_went_by_and_not_by_the_sum_of_all_lives() {
        let table = Table::default();
        let metric = Metric {
            name: "cpus-utilized".into(),
            unit: "CPUs",
            about: "",
            factor: 1.0,
            above: Item::Figure(Event::TaskClock),
            below: Item::Figure(Event::WallTime),
        };
        let mut f = Figures::absent("");
        f.set(Event::TaskClock, Value::Is(400));
        // Two processes at the same time, and the one that waits for them.
        f.set(Event::WallTime, Value::Is(600));
        assert_eq!(table.metric_of_all(&metric, &f, Some(200)), Some(2.0));
        assert_eq!(table.metric_of_all(&metric, &f, None), None);
    }
}
