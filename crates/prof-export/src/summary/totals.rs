//! The block of totals, in the manner of `perf stat`.

use prof_model::counters::Item;
use prof_model::figures::Event;
use prof_model::figures::EventSet;
use prof_model::figures::Figures;
use prof_model::figures::Unit;
use prof_model::figures::Value;
use prof_model::record::End;
use prof_model::record::Header;

use super::View;
use crate::human;
use crate::layout;

/// Columns of the value, and of the name.
const VALUE: usize = 18;
const NAME: usize = 22;

/// Ids of the kernel's `cpu-clock` and `task-clock`, with whatever modifiers.
const CPU_CLOCKS: [u32; 2] = [0x0100_0000, 0x0100_0001];

impl View<'_> {
    pub(super) fn totals(&mut self, out: &mut String, header: Option<&Header>, end: Option<&End>) {
        let all = self.tree.len() as u64;
        let command = header.and_then(|h| h.command.as_deref());
        let of = match command {
            Some(c) => {
                let others = match all.saturating_sub(1) {
                    0 => String::new(),
                    n => format!(" and {}", human::plural(n, "process", "processes")),
                };
                let room = self.width.saturating_sub(layout::width(&others) + 20);
                let command = layout::fit(&human::command(c), room);
                format!("'{}'{others}", self.paint(layout::BOLD, &command))
            }
            None => human::plural(all, "process", "processes"),
        };
        out.push_str(&format!(" Performance of {of}:\n\n"));
        for e in self.events.iter() {
            // The sum of the lives of all processes tells nobody anything; how
            // long the whole took is below.
            if e != Event::WallTime {
                let line = self.total_line(e, end);
                out.push_str(line.trim_end());
                out.push('\n');
            }
        }
        self.counts(out, end);
        if let (true, Some(e)) = (self.asks_for_time_only(), end) {
            let (value, name) = (msec(e.duration_ns), Event::WallTime.info().name);
            out.push_str(&format!("{value:>VALUE$} {name}\n"));
        }
        if let Some(e) = end {
            let seconds = e.duration_ns as f64 / 1e9;
            out.push_str(&format!("\n{seconds:>VALUE$.6} seconds time elapsed\n"));
            if let Some(ns) = e.bpf_ns {
                let mut line = format!("{:>VALUE$} in prof's own BPF programs", msec(ns));
                if let Value::Is(clock) = self.sum_of(Event::TaskClock, end)
                    && clock > 0
                {
                    let part = human::percent(ns as f64 / clock as f64);
                    line += &format!(", {part} of task-clock");
                }
                out.push_str(&line);
                out.push('\n');
            }
        }
        out.push('\n');
    }

    /// Whether nothing is shown above the time elapsed: then that is what was asked for, and
    /// stands in its place too.
    fn asks_for_time_only(&self) -> bool {
        self.events == EventSet::EMPTY.with(Event::WallTime)
            && self.table.shown().next().is_none()
            && self.table.metrics.is_empty()
    }

    /// The total that the stream gives; without its last record, what the
    /// processes seen add up to.
    fn sum_of(&self, e: Event, end: Option<&End>) -> Value {
        self.sums(end).get(e).clone()
    }

    fn sums<'b>(&'b self, end: Option<&'b End>) -> &'b Figures {
        end.map_or(&self.total.figures, |end| &end.totals)
    }

    /// Counts, and what is computed from them.
    fn counts(&mut self, out: &mut String, end: Option<&End>) {
        let table = self.table;
        for (i, counter) in table.shown() {
            let item = Item::Counter(i);
            let line = match self.sums(end).item(item) {
                Value::Is(v) => {
                    let value = human::item(v, item, table);
                    let comment = self.count_comment(i, v, end);
                    let comment = comment.map(|c| self.paint(layout::DIM, &format!("# {c}")));
                    let comment = comment.unwrap_or_default();
                    format!("{value:>VALUE$} {:NAME$} {comment}", counter.name)
                }
                Value::Absent(reason) => {
                    let mark = self.footnotes.absent(item, reason);
                    let value = format!("{mark:>VALUE$}");
                    format!("{} {}", self.paint(layout::DIM, &value), counter.name)
                }
            };
            out.push_str(line.trim_end());
            out.push('\n');
        }
        for m in &table.metrics {
            let value = table.metric_of_all(m, self.sums(end), end.map(|e| e.duration_ns));
            let value = value.map_or_else(|| "-".into(), |v| human::metric(v, m.unit));
            let about = self.paint(layout::DIM, &format!("# {}", m.about));
            let line = format!("{value:>VALUE$} {:NAME$} {about}", m.name);
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }

    /// How much a second on a CPU, as perf has it, and how much of the time it was
    /// really counted.
    fn count_comment(&self, i: usize, v: u64, end: Option<&End>) -> Option<String> {
        let sums = self.sums(end);
        let count = sums.counts.get(i)?;
        let counter = self.table.counters.get(i)?;
        let clock = sums.get(Event::TaskClock).get().filter(|c| *c > 0);
        let elapsed = end.map(|e| e.duration_ns).filter(|d| *d > 0);
        let comment = match counter.unit.as_str() {
            "ns" if counter.perf_id.is_some_and(|id| CPU_CLOCKS.contains(&id)) => {
                elapsed.map(|d| cpus(v as f64 / d as f64))
            }
            // Time by time would be how exact two clocks are.
            "ns" => None,
            _ => clock.map(|c| rate(v as f64 / c as f64 * 1e9)),
        };
        let mut comment = comment.unwrap_or_default();
        if count.is_scaled() {
            let part = count.running_ns as f64 / count.enabled_ns as f64;
            comment += &format!("  (scaled: counted {} of the time)", human::percent(part));
        }
        (!comment.is_empty()).then_some(comment)
    }

    fn total_line(&mut self, e: Event, end: Option<&End>) -> String {
        let (value, comment) = match self.sum_of(e, end) {
            Value::Is(v) => (exact(v, e), self.comment(e, v, end)),
            Value::Absent(reason) => {
                let mark = self.footnotes.absent(Item::Figure(e), reason);
                let value = format!("{mark:>VALUE$}");
                return format!("{} {e}", self.paint(layout::DIM, &value));
            }
        };
        // Units stand in a column of their own, as perf puts them.
        let name = e.info().name;
        let comment = comment.map(|c| self.paint(layout::DIM, &format!("# {c}")));
        format!("{value:>VALUE$} {name:NAME$} {}", comment.unwrap_or_default())
    }

    /// What follows from the figure and others.
    fn comment(&self, e: Event, v: u64, end: Option<&End>) -> Option<String> {
        let over = self.total.over(e);
        if over < self.total.processes {
            let (over, all) = (human::count(over), human::count(self.total.processes));
            let what = if e.info().additive { "measured in" } else { "largest of" };
            return Some(format!("{what} {over} of {all} processes"));
        }
        let clock = self.sum_of(Event::TaskClock, end).get().filter(|c| *c > 0);
        let elapsed = end.map(|e| e.duration_ns).filter(|d| *d > 0);
        let ratio = |whole: u64| v as f64 / whole as f64;
        let part_of = |whole: Event| {
            let total = self.sum_of(whole, end).get().filter(|t| *t > 0)?;
            Some(format!("{:>9} of {whole}", human::percent(ratio(total))))
        };
        match e {
            Event::TaskClock => elapsed.map(|d| cpus(ratio(d))),
            Event::UserTime | Event::SystemTime => part_of(Event::TaskClock),
            Event::MinorFaults | Event::MajorFaults => part_of(Event::PageFaults),
            Event::VoluntarySwitches | Event::InvoluntarySwitches => {
                part_of(Event::ContextSwitches)
            }
            // Per second on a CPU, as perf has it.
            Event::PageFaults | Event::ContextSwitches | Event::CpuMigrations => {
                clock.map(|c| rate(ratio(c) * 1e9))
            }
            Event::RunQueueWait => {
                let runnable = clock?.saturating_add(v);
                Some(format!("{:>9} of the time ready to run", human::percent(ratio(runnable))))
            }
            Event::PeakRss => Some("largest of one process".into()),
            Event::ReadBytes
            | Event::WrittenBytes
            | Event::StorageReadBytes
            | Event::StorageWrittenBytes => {
                let per_second = (ratio(elapsed?) * 1e9) as u64;
                Some(format!("{:>9}/s", human::bytes(per_second)))
            }
            Event::Threads => Some(format!("{:>9.3} per process", ratio(self.total.processes))),
            Event::WallTime => None,
        }
    }
}

/// As perf writes it.
fn cpus(utilized: f64) -> String {
    format!("{utilized:>9.3} CPUs utilized")
}

/// As perf writes rates.
fn rate(per_second: f64) -> String {
    let (v, unit) = match per_second {
        r if r >= 1e9 => (r / 1e9, "G/sec"),
        r if r >= 1e6 => (r / 1e6, "M/sec"),
        r if r >= 1e3 => (r / 1e3, "K/sec"),
        r => (r, "/sec"),
    };
    format!("{v:>9.3} {unit}")
}

/// Milliseconds to two digits, with separators: `12,345.67 ms`.
fn msec(ns: u64) -> String {
    let hundredths = (ns + 5_000) / 10_000;
    format!("{}.{:02} ms", human::count(hundredths / 100), hundredths % 100)
}

fn exact(v: u64, e: Event) -> String {
    match e.info().unit {
        Unit::Ns => msec(v),
        Unit::Bytes => human::bytes(v),
        Unit::Count => human::count(v),
    }
}
