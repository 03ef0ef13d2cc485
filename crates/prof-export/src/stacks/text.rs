//! The `text` format: where the time went, for a terminal.

mod off_cpu;
mod tree;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io;
use std::io::Write;

use prof_model::stacks::SampledEvent;
use prof_model::stacks::StackProfile;

use super::StackOptions;
use super::names;
use super::names::Line;
use super::names::LineId;
use super::names::Names;
use super::names::Origin;
use super::names::Place;
use crate::human;
use crate::layout;
use crate::layout::Cell;
use crate::layout::Column;
use crate::layout::paint;

/// Columns of a module's name.
const MODULE: usize = 28;

/// Writes a profile: all its events that have samples, or the one that is asked for.
pub fn write(
    profile: &StackProfile,
    options: &StackOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    super::check(profile)?;
    out.write_all(render(profile, options).as_bytes())?;
    out.flush()
}

fn render(profile: &StackProfile, options: &StackOptions) -> String {
    let names = Names::new(profile);
    let width = options.width.max(40);
    let mut out = String::from("\n");
    let mut any = false;
    for at in options.events_of(profile) {
        let (weights, samples) = names::weights(profile, at);
        if samples == 0 {
            continue;
        }
        any = true;
        let event = &profile.events[at as usize];
        let total = weights.values().fold(0_u64, |sum, w| sum.saturating_add(*w));
        let view = View { profile, names: &names, options, width, event, total };
        view.head(&mut out, &weights, samples);
        view.off_cpu(&mut out, at);
        view.functions(&mut out, &weights);
        view.tree(&mut out, &weights);
    }
    if !any {
        out += &paint(options.color, layout::WARN, " No samples.\n");
        out.push('\n');
    }
    end(profile, &names, options, width, &mut out);
    out
}

/// One event.
struct View<'a> {
    profile: &'a StackProfile,
    names: &'a Names<'a>,
    options: &'a StackOptions,
    width: usize,
    event: &'a SampledEvent,
    total: u64,
}

impl View<'_> {
    fn share(&self, weight: u64) -> f64 {
        // Of nothing, nothing is a part.
        if self.total == 0 { 0.0 } else { weight as f64 / self.total as f64 }
    }

    /// As much of a line as the terminal has room for, but for some columns.
    fn fit(&self, line: &str, but: usize) -> String {
        fit(self.options, self.width, line, but)
    }

    /// A table, as wide as it may be.
    fn table(&self, columns: &[Column], rows: &[Vec<Cell>], first_min: usize) -> String {
        match self.options.cut {
            true => layout::table(columns, rows, self.width, first_min, self.options.color),
            false => layout::whole_table(columns, rows, self.width, self.options.color),
        }
    }

    fn weight(&self, weight: u64) -> String {
        match self.event.unit.as_str() {
            "ns" => human::duration(weight),
            "bytes" | "B" => human::bytes(weight),
            _ => human::count(weight),
        }
    }

    /// What was sampled, and of whom.
    fn head(&self, out: &mut String, weights: &BTreeMap<Place, u64>, samples: u64) {
        let mut threads: Vec<u32> = weights.keys().map(|p| p.thread).collect();
        threads.sort_unstable();
        threads.dedup();
        let of = |t: &u32| self.profile.threads[*t as usize].process;
        let mut processes: Vec<_> = threads.iter().map(of).collect();
        processes.sort_unstable();
        processes.dedup();
        let mut text = format!(
            "{}: {} in {}, of {} and {}",
            names::clean(self.event.name.as_bytes()),
            self.weight(self.total),
            human::plural(samples, "sample", "samples"),
            human::plural(processes.len() as u64, "process", "processes"),
            human::plural(threads.len() as u64, "thread", "threads"),
        );
        if !self.profile.command.is_empty() {
            text = format!("{text}: {}", super::command(self.profile));
        }
        for line in layout::wrap(&text, self.width - 1, "  ").lines() {
            out.push(' ');
            out.push_str(&paint(self.options.color, layout::BOLD, &self.fit(line, 1)));
            out.push('\n');
        }
        out.push('\n');
    }

    /// Those with most of their own.
    fn functions(&self, out: &mut String, weights: &BTreeMap<Place, u64>) {
        // Inlined or not, it is the same function.
        let mut known: HashMap<(&str, Option<u32>, Origin), usize> = HashMap::new();
        let mut functions: Vec<Function> = Vec::new();
        let place_of: Vec<usize> = (0..)
            .zip(self.names.lines())
            .map(|(id, line)| {
                let key = (line.name.as_str(), line.module, line.origin);
                *known.entry(key).or_insert_with(|| {
                    functions.push(Function { line: LineId(id), own: 0, all: 0, seen: 0 });
                    functions.len() - 1
                })
            })
            .collect();
        for (nth, (place, weight)) in (1..).zip(weights) {
            let stack = self.names.stack(place.whole, place.stack);
            if let Some(leaf) = stack.last() {
                let f = &mut functions[place_of[leaf.0 as usize]];
                f.own = f.own.saturating_add(*weight);
            }
            for line in stack {
                let f = &mut functions[place_of[line.0 as usize]];
                // Once for a stack, however often it stands there.
                if f.seen != nth {
                    f.seen = nth;
                    f.all = f.all.saturating_add(*weight);
                }
            }
        }
        functions.retain(|f| f.own > 0);
        functions.sort_by(|a, b| {
            let name = |f: &Function| &self.names.line(f.line).name;
            (b.own, b.all).cmp(&(a.own, a.all)).then_with(|| name(a).cmp(name(b)))
        });
        if functions.is_empty() {
            return;
        }
        let of_own = if super::is_time(self.event) { "SELF TIME" } else { "SELF WEIGHT" };
        let columns = [
            Column::left("FUNCTION", 0),
            Column::right("SELF", 0),
            Column::right("TOTAL", 0),
            Column::right(of_own, 2),
            Column::left("MODULE", 1),
        ];
        let rows: Vec<Vec<Cell>> = functions
            .iter()
            .take(self.options.top)
            .map(|f| {
                let line = self.names.line(f.line);
                vec![
                    Cell::new(style(line), line.name.clone()),
                    Cell::plain(human::percent(self.share(f.own))),
                    Cell::plain(human::percent(self.share(f.all))),
                    Cell::plain(self.weight(f.own)),
                    Cell::plain(match self.options.cut {
                        true => layout::fit_end(self.module(line), MODULE),
                        false => self.module(line).to_owned(),
                    }),
                ]
            })
            .collect();
        out.push_str(&self.table(&columns, &rows, 24));
        let rest = &functions[rows.len()..];
        if !rest.is_empty() {
            let own = rest.iter().fold(0, |sum: u64, f| sum.saturating_add(f.own));
            let more = human::plural(rest.len() as u64, "more function", "more functions");
            let text = format!("… {more}, {}", human::percent(self.share(own)));
            out.push_str(&paint(self.options.color, layout::DIM, &text));
            out.push('\n');
        }
        out.push('\n');
    }

    fn module(&self, line: &Line) -> &str {
        match (self.names.module(line), line.origin) {
            (Some(module), _) => module,
            (None, Origin::Kernel) => "[kernel]",
            (None, _) => "",
        }
    }
}

fn fit(options: &StackOptions, width: usize, line: &str, but: usize) -> String {
    match options.cut {
        true => layout::fit(line, width.saturating_sub(but).max(8)),
        false => line.to_owned(),
    }
}

/// A function and its weights: when it ran itself, and when it or what it called did.
struct Function {
    line: LineId,
    own: u64,
    all: u64,
    seen: usize,
}

fn style(line: &Line) -> anstyle::Style {
    match line.origin {
        Origin::Kernel => layout::BAR,
        Origin::Note => layout::WARN,
        Origin::User if !line.named => layout::DIM,
        Origin::User => layout::PLAIN,
    }
}

/// How much of the stacks there is, what has no name and why, what was lost.
fn end(
    profile: &StackProfile,
    names: &Names<'_>,
    options: &StackOptions,
    width: usize,
    out: &mut String,
) {
    let mut say = |style, text: &str| {
        for line in layout::wrap(text, width - 1, "  ").lines() {
            out.push(' ');
            out.push_str(&paint(options.color, style, &fit(options, width, line, 1)));
            out.push('\n');
        }
    };
    if let Some(line) = super::ended_early(profile) {
        say(layout::LOUD, &line);
    }
    if let Some(line) = super::wholeness(profile) {
        let broken = profile.samples.iter().any(|s| !s.whole.is_whole());
        say(if broken { layout::PLAIN } else { layout::GOOD }, &line);
    }
    super::without_table(profile).iter().for_each(|line| say(layout::PLAIN, line));
    super::unnamed(names).iter().for_each(|line| say(layout::DIM, line));
    let lost: Vec<_> = profile.lost.iter().filter(|(_, n)| *n > 0).collect();
    // Losses are told at the end.
    if lost.is_empty() && !profile.ended_early {
        say(layout::GOOD, "lost: no sample");
    }
    for (reason, n) in lost {
        let reason = names::clean(reason.as_bytes());
        say(layout::LOUD, &format!("LOST {}: {reason}", human::plural(*n, "sample", "samples")));
    }
}
