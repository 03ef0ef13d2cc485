//! What came in one interval, in the manner of `perf stat -I`, but as a block.

use prof_model::counters::Item;
use prof_model::counters::Table;
use prof_model::figures::Event;
use prof_model::figures::EventSet;
use prof_model::figures::Value;
use prof_model::record::Header;
use prof_model::record::Interval;

use crate::human;
use crate::layout;
use crate::layout::paint;

/// Columns of the time, of a value and of its name.
const TIME: usize = 12;
const VALUE: usize = 11;
const NAME: usize = 22;

/// The block: the time since the start, then what came, as many in a line as fit.
pub fn block(i: &Interval, header: Option<&Header>, width: usize, color: bool) -> String {
    let none = Table::default();
    let table = header.map_or(&none, |h| &h.counters);
    let events = header.map_or(EventSet::ALL, |h| h.events);
    let figures = events.iter().filter(|e| *e != Event::WallTime).map(Item::Figure);
    let counters = table.shown().map(|(i, _)| Item::Counter(i));
    let mut cells: Vec<String> = counters
        .chain(figures)
        .map(|item| {
            let value = match i.figures.item(item) {
                Value::Is(v) => human::item(v, item, table),
                Value::Absent(_) => "-".into(),
            };
            cell(&value, human::name(item, table))
        })
        .collect();
    cells.extend(table.metrics.iter().map(|m| {
        let value = table.metric_of_all(m, &i.figures, Some(i.length_ns));
        cell(&value.map_or_else(|| "-".into(), |v| human::metric(v, m.unit)), &m.name)
    }));
    let each = VALUE + 1 + NAME + 1;
    let in_a_line = (width.saturating_sub(TIME + 1) / each).max(1);
    let mut out = String::new();
    for (n, line) in cells.chunks(in_a_line).enumerate() {
        let seconds = format!("{:>w$.6}", i.since_ns as f64 / 1e9, w = TIME);
        let head = if n == 0 { paint(color, layout::BOLD, &seconds) } else { " ".repeat(TIME) };
        out += format!("{head} {}", line.join(" ")).trim_end();
        out.push('\n');
    }
    out
}

fn cell(value: &str, name: &str) -> String {
    format!("{value:>VALUE$} {:<NAME$}", layout::fit(name, NAME))
}
