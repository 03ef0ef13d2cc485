//! One view of a whole run, in the manner of `perf stat` but for every process:
//! a table of processes, then the totals, then what there is to know about them.

mod interval;
mod repeat;
mod rows;
mod totals;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io;
use std::io::Write;

use prof_model::counters::Item;
use prof_model::counters::SortKey;
use prof_model::counters::Table;
use prof_model::figures::EventSet;
use prof_model::figures::Value;
use prof_model::record::End;
use prof_model::record::Header;
use prof_model::record::Key;
use prof_model::record::LossReason;
use prof_model::record::Record;
use prof_model::record::WindowEnd;
use prof_model::repeat::Repeat;
use prof_model::tree::Sum;
use prof_model::tree::Tree;

use crate::Exporter;
use crate::Options;
use crate::audit;
use crate::human;
use crate::layout;
use crate::layout::Cell;
use crate::layout::paint;

/// How the processes of a summary are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Who started whom.
    Tree,
    /// Most of an item first.
    Sort(SortKey),
    /// A row for each executable.
    GroupByExe,
}

/// Writes the `summary` format: all of it in [`finish`](Exporter::finish).
#[derive(Debug)]
pub struct Summary {
    options: Options,
    header: Option<Header>,
    tree: Tree,
    /// Notes of the profiles, and how many have each.
    notes: BTreeMap<&'static str, u64>,
    /// Those of windows that are still open: a later record takes their place.
    open_notes: HashMap<Key, Vec<&'static str>>,
    /// Threads that were told one by one.
    threads: u64,
    lost: BTreeMap<LossReason, u64>,
    end: Option<End>,
    /// Of all runs of a command that is run several times.
    accounts: Option<End>,
    repeat: Option<Repeat>,
    /// What is told is who was profiled by others.
    of_audit: bool,
}

impl Summary {
    /// At the start of a stream; of the options, all but `boot_offset_ns` count.
    pub fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            header: None,
            tree: Tree::new(),
            notes: BTreeMap::new(),
            open_notes: HashMap::new(),
            threads: 0,
            lost: BTreeMap::new(),
            end: None,
            accounts: None,
            repeat: None,
            of_audit: false,
        }
    }

    /// The whole view.
    pub fn render(&self) -> String {
        let o = &self.options;
        let none = Table::default();
        let view = View {
            tree: &self.tree,
            table: self.header.as_ref().map_or(&none, |h| &h.counters),
            total: self.tree.total(),
            events: self.header.as_ref().map_or(EventSet::ALL, |h| h.events),
            mode: o.mode,
            top: o.top,
            width: o.width.max(40),
            color: o.color,
            footnotes: Footnotes::default(),
        };
        let mut out = String::from("\n");
        if let Some(r) = &self.repeat {
            let mut footnotes = Footnotes::default();
            let (header, width) = (self.header.as_ref(), view.width);
            out += &repeat::block(r, header, width, o.color, &mut footnotes);
            self.accounts(&mut out, self.accounts.as_ref());
            self.remarks(&mut out, footnotes.lines(header.map_or(&none, |h| &h.counters)));
            return out;
        }
        let footnotes = if self.of_audit {
            // It has said who was, and measures nobody itself.
            view.footnotes
        } else if self.tree.is_empty() {
            out += &paint(o.color, layout::WARN, " No process was profiled.\n\n");
            view.footnotes
        } else {
            let mut view = view;
            view.processes(&mut out);
            out.push('\n');
            view.totals(&mut out, self.header.as_ref(), self.end.as_ref());
            view.footnotes
        };
        let footnotes = footnotes.lines(self.header.as_ref().map_or(&none, |h| &h.counters));
        self.accounts(&mut out, self.end.as_ref());
        self.remarks(&mut out, footnotes);
        out
    }

    /// What was switched on and off and lost, and how that adds up.
    fn accounts(&self, out: &mut String, end: Option<&End>) {
        let color = self.options.color;
        let mut line = |style, text: &str| {
            out.push(' ');
            out.push_str(&paint(color, style, text));
            out.push('\n');
        };
        let lost = match end {
            Some(e) => {
                let clean = e.unaccounted() == 0 && e.lost_profiles() == 0;
                line(if clean { layout::GOOD } else { layout::LOUD }, &human::reconcile(e));
                if let Some(kernel) = e.execs_kernel.get() {
                    let (seen, kernel) = (human::count(e.execs_seen), human::count(kernel));
                    line(
                        layout::PLAIN,
                        &format!("execs seen {seen}, by the kernel's count {kernel}"),
                    );
                }
                let mut lost = BTreeMap::new();
                for (reason, n) in &e.lost {
                    *lost.entry(*reason).or_insert(0) += n;
                }
                lost
            }
            None => {
                line(layout::LOUD, "The stream broke off before its end: this may not be all.");
                self.lost.clone()
            }
        };
        for (reason, n) in lost.iter().filter(|(_, n)| **n > 0) {
            let what = human::loss(*reason);
            let text = format!("LOST {} {}: {what}", human::count(*n), reason.name());
            let wrapped = layout::wrap(&text, self.options.width.max(40) - 1, "     ");
            wrapped.lines().for_each(|l| line(layout::LOUD, l));
        }
    }

    /// What has to be said once: footnotes, notes of the profiles, limits.
    fn remarks(&self, out: &mut String, footnotes: Vec<String>) {
        let mut remarks = footnotes;
        let mut notes = self.notes.clone();
        for note in self.open_notes.values().flatten() {
            *notes.entry(note).or_default() += 1;
        }
        remarks.extend(notes.iter().map(|(note, n)| {
            format!("note: {note} ({})", human::plural(*n, "profile", "profiles"))
        }));
        if self.threads > 0 {
            let threads = human::plural(self.threads, "thread", "threads");
            remarks.push(format!("note: {threads} one by one are in -o table and -o json"));
        }
        if let Some(h) = &self.header {
            let limits = h.limits.iter();
            remarks.extend(
                limits.map(|l| format!("limit: {}", prof_model::text::for_terminal(l.as_bytes()))),
            );
        }
        if !remarks.is_empty() {
            out.push('\n');
        }
        for r in remarks {
            let wrapped = layout::wrap(&r, self.options.width.max(40) - 1, "     ");
            for line in wrapped.lines() {
                out.push(' ');
                out.push_str(&paint(self.options.color, layout::DIM, line));
                out.push('\n');
            }
        }
    }
}

impl Exporter for Summary {
    fn record(&mut self, r: &Record, out: &mut dyn Write) -> io::Result<()> {
        match r {
            Record::Header(h) => {
                if h.repetition.is_some() {
                    // Of each run a view would be too much: only the last is kept, for
                    // when there is no other.
                    self.tree = Tree::new();
                    self.end = None;
                }
                self.header = Some((**h).clone());
            }
            Record::Profile(p) => {
                self.tree.add(p);
                self.threads += p.threads.len() as u64;
                let key = p.process.ident.key();
                self.open_notes.remove(&key);
                if p.window.end == WindowEnd::Running {
                    self.open_notes.insert(key, p.notes.clone());
                } else {
                    for note in &p.notes {
                        *self.notes.entry(note).or_default() += 1;
                    }
                }
            }
            Record::Loss(l) => *self.lost.entry(l.reason).or_default() += l.count,
            Record::End(e) => {
                match &mut self.accounts {
                    Some(all) => all.add_accounts(e),
                    None => self.accounts = Some((**e).clone()),
                }
                self.end = Some((**e).clone());
            }
            Record::Repeat(r) => self.repeat = Some((**r).clone()),
            Record::Interval(i) => {
                let o = &self.options;
                let block = interval::block(i, self.header.as_ref(), o.width.max(40), o.color);
                out.write_all(block.as_bytes())?;
            }
            Record::AuditTotals(t) => {
                self.of_audit = true;
                let o = &self.options;
                out.write_all(audit::summary(t, o.color, o.width.max(40)).as_bytes())?;
            }
            Record::Prof(_) | Record::Audit(_) => {}
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(self.render().as_bytes())?;
        out.flush()
    }
}

/// One rendering.
struct View<'a> {
    tree: &'a Tree,
    table: &'a Table,
    total: Sum,
    events: EventSet,
    mode: Mode,
    top: usize,
    width: usize,
    color: bool,
    footnotes: Footnotes,
}

impl View<'_> {
    fn paint(&self, style: anstyle::Style, text: &str) -> String {
        paint(self.color, style, text)
    }
}

/// Why figures are absent: each reason once, with a number.
#[derive(Debug, Default)]
struct Footnotes {
    reasons: Vec<(&'static str, Vec<Item>)>,
    at_least: bool,
    core: bool,
    /// What was asked for and has no column.
    no_column: Vec<String>,
}

impl Footnotes {
    /// The mark that stands in place of an absent figure.
    fn absent(&mut self, item: Item, reason: &'static str) -> String {
        let i = match self.reasons.iter().position(|(r, _)| *r == reason) {
            Some(i) => i,
            None => {
                self.reasons.push((reason, Vec::new()));
                self.reasons.len() - 1
            }
        };
        if !self.reasons[i].1.contains(&item) {
            self.reasons[i].1.push(item);
        }
        format!("-[{}]", i + 1)
    }

    /// A figure in a table. `whole` is false if it is missing from some of what
    /// it is the figure of.
    fn figure(&mut self, table: &Table, item: Item, value: &Value, whole: bool) -> Cell {
        match *value {
            Value::Is(v) => {
                let text = human::item(v, item, table);
                if whole {
                    Cell::plain(text)
                } else {
                    self.at_least = true;
                    Cell::plain(format!(">{text}"))
                }
            }
            Value::Absent(reason) => Cell::new(layout::DIM, self.absent(item, reason)),
        }
    }

    fn lines(&self, table: &Table) -> Vec<String> {
        let mut lines: Vec<String> = (1..)
            .zip(&self.reasons)
            .map(|(i, (reason, events))| {
                let names: Vec<_> = events.iter().map(|i| human::name(*i, table)).collect();
                format!("[{i}]  no {}: {reason}", names.join(", "))
            })
            .collect();
        if self.at_least {
            lines.push(">    at least: for a part of this there is no figure".into());
        }
        if self.core {
            lines.push("*    dumped core".into());
        }
        if !self.no_column.is_empty() {
            lines.push(format!(
                "note: no column for {}: a wider terminal (or COLUMNS) has more of them, --sort \
                 EVENT puts an event first, -o json has all",
                self.no_column.join(", ")
            ));
        }
        lines
    }
}
