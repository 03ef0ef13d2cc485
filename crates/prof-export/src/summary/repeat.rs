//! What several runs of a command say together, in the manner of `perf stat -r`.

use prof_model::counters::Item;
use prof_model::counters::Table;
use prof_model::figures::Event;
use prof_model::record::Header;
use prof_model::repeat::Repeat;
use prof_model::stats::Spread;

use super::Footnotes;
use crate::human;
use crate::layout;
use crate::layout::Cell;
use crate::layout::Column;
use crate::layout::paint;

/// How one row writes its numbers.
type Write<'a> = &'a dyn Fn(f64) -> String;

/// The block; `footnotes` takes why figures are absent.
pub fn block(
    r: &Repeat,
    header: Option<&Header>,
    width: usize,
    color: bool,
    footnotes: &mut Footnotes,
) -> String {
    let none = Table::default();
    let table = header.map_or(&none, |h| &h.counters);
    let runs = human::plural(r.elapsed.over as u64, "run", "runs");
    let asked = match r.asked as usize {
        n if n == r.elapsed.over => runs,
        n => format!("{runs} of {}", human::count(n as u64)),
    };
    let of = header.and_then(|h| h.command.as_deref()).map_or_else(String::new, |c| {
        let room = width.saturating_sub(asked.len() + 20);
        format!("'{}', ", paint(color, layout::BOLD, &layout::fit(&human::command(c), room)))
    });
    let mut out = format!(" Performance of {of}{asked}:\n\n");

    let columns = [
        Column::left("", 0),
        Column::right("MEAN", 0),
        Column::right("± SD", 0),
        Column::right("", 3),
        Column::right("MIN", 1),
        Column::right("MAX", 1),
    ];
    let elapsed: Write<'_> = &|v| human::duration(v.round() as u64);
    let mut rows = vec![row("time elapsed", &r.elapsed, r, elapsed)];
    for (item, spread, absent) in shown(r, table) {
        let name = human::name(item, table);
        rows.push(match spread {
            Some(s) => row(name, s, r, &|v| human::mean(v, item, table)),
            None => {
                let mark = footnotes.absent(item, absent.unwrap_or("not measured"));
                vec![Cell::plain(format!(" {name}")), Cell::new(layout::DIM, mark)]
            }
        });
    }
    for (m, spread) in table.metrics.iter().zip(&r.metrics) {
        rows.push(match spread {
            Some(s) => row(&m.name, s, r, &|v| human::metric(v, m.unit)),
            None => vec![Cell::plain(format!(" {}", m.name)), Cell::new(layout::DIM, "-")],
        });
    }
    out += &layout::table(&columns, &rows, width, 24, color);
    out.push('\n');
    if r.failed > 0 {
        let text = format!(" {} failed.\n", human::plural(r.failed.into(), "run", "runs"));
        out += &paint(color, layout::BAD, &text);
    }
    for warning in &r.warnings {
        let text = layout::wrap(&format!("warning: {warning}"), width - 1, "     ");
        for line in text.lines() {
            out += &format!(" {}\n", paint(color, layout::WARN, line));
        }
    }
    if r.failed > 0 || !r.warnings.is_empty() {
        out.push('\n');
    }
    out
}

/// What was asked for, but for the sum of the lives of all processes, which tells
/// nobody anything.
fn shown<'a>(
    r: &'a Repeat,
    table: &'a Table,
) -> impl Iterator<Item = (Item, Option<&'a Spread>, Option<&'static str>)> {
    let told = |item: &Item| match item {
        Item::Figure(e) => *e != Event::WallTime,
        Item::Counter(i) => table.counters.get(*i).is_some_and(|c| !c.for_metric),
    };
    let items = r.items.iter().filter(move |(item, ..)| told(item));
    items.map(|(item, spread, absent)| (*item, spread.as_ref(), *absent))
}

fn row(name: &str, s: &Spread, r: &Repeat, write: Write<'_>) -> Vec<Cell> {
    let mut head = Cell::plain(format!(" {name}"));
    if s.over < r.elapsed.over {
        head = head.and(layout::DIM, format!(" in {} of {} runs", s.over, r.elapsed.over));
    }
    vec![
        head,
        Cell::new(layout::BOLD, write(s.mean)),
        Cell::plain(s.sd.map_or_else(|| "-".into(), |sd| format!("± {}", write(sd)))),
        Cell::new(layout::DIM, s.relative().map(human::percent).unwrap_or_default()),
        Cell::plain(write(s.min)),
        Cell::plain(write(s.max)),
    ]
}
