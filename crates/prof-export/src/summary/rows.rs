//! The table of processes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use prof_model::counters::Item;
use prof_model::counters::SortKey;
use prof_model::figures::Event;
use prof_model::figures::EventSet;
use prof_model::figures::Figures;
use prof_model::figures::NR_EVENTS;
use prof_model::figures::Value;
use prof_model::record::Region;
use prof_model::text;
use prof_model::tree::Forest;
use prof_model::tree::Group;
use prof_model::tree::Node;
use prof_model::tree::share;

use super::Mode;
use super::View;
use crate::human;
use crate::layout;
use crate::layout::Align;
use crate::layout::Cell;
use crate::layout::Column;

/// Most regions of a process that are shown.
const REGIONS: usize = 8;

/// Columns of a full bar.
const BAR: usize = 8;

/// Events with a column of their own, after the one that leads, and how soon
/// each goes when the terminal is narrow.
const FIGURES: [(Event, u8); 5] = [
    (Event::TaskClock, 0),
    (Event::WallTime, 3),
    (Event::PageFaults, 5),
    (Event::ContextSwitches, 6),
    (Event::PeakRss, 2),
];
const RANK_BAR: u8 = 7;
const RANK_PID: u8 = 4;
const RANK_SHARE: u8 = 1;
/// Counts and what is computed from them were asked for: they go last.
const RANK_COUNT: u8 = 1;

impl View<'_> {
    /// The event that decides which rows are shown and what the bars measure.
    fn lead(&self) -> Option<Item> {
        match self.mode {
            Mode::Sort(SortKey::Item(item)) => Some(item),
            _ => [Event::TaskClock, Event::WallTime]
                .into_iter()
                .find(|e| self.events.contains(*e))
                .map(Item::Figure)
                .or_else(|| self.table.shown().map(|(i, _)| Item::Counter(i)).next())
                .or_else(|| self.events.iter().map(Item::Figure).next()),
        }
    }

    /// Whether the figures are those that somebody listed, and not most of them, as by
    /// default.
    fn lists_figures(&self) -> bool {
        self.events.len() <= NR_EVENTS / 2
    }

    /// Figures with a column after that of the leading event.
    fn others(&self, lead: Item) -> Vec<(Item, u8)> {
        let is_usual = |e: Event| FIGURES.iter().any(|(usual, _)| *usual == e);
        let listed = self.events.iter().filter(|e| self.lists_figures() && !is_usual(*e));
        let figures = FIGURES.into_iter().filter(|(e, _)| self.events.contains(*e));
        let figures = figures.chain(listed.map(|e| (e, RANK_COUNT)));
        let counters = self.table.shown().map(|(i, _)| (Item::Counter(i), RANK_COUNT));
        let all = counters.chain(figures.map(|(e, rank)| (Item::Figure(e), rank)));
        all.filter(|(item, _)| *item != lead).collect()
    }

    fn metric(&self, i: usize, figures: &Figures) -> Option<f64> {
        self.table.metric(self.table.metrics.get(i)?, figures)
    }

    fn metric_columns(&self) -> impl Iterator<Item = Column> {
        self.table.metrics.iter().map(|m| Column::right(m.name.to_ascii_uppercase(), RANK_COUNT))
    }

    fn metric_cells(&self, figures: &Figures) -> impl Iterator<Item = Cell> {
        self.table.metrics.iter().map(|m| match self.table.metric(m, figures) {
            Some(v) => Cell::plain(human::metric(v, m.unit)),
            None => Cell::new(layout::DIM, "-"),
        })
    }

    /// Notes what was asked for by name and has no column: of those that went, all from
    /// `first` on are `others` and then metrics.
    fn note_gone(&mut self, gone: &[usize], first: usize, others: &[(Item, u8)]) {
        let places = gone.iter().filter_map(|i| i.checked_sub(first));
        let name = |at: usize| match others.get(at) {
            Some((Item::Figure(_), _)) if !self.lists_figures() => None,
            Some((item, _)) => Some(human::name(*item, self.table).to_owned()),
            None => self.table.metrics.get(at - others.len()).map(|m| m.name.clone()),
        };
        self.footnotes.no_column = places.filter_map(name).collect();
    }

    /// The table, and what it leaves out.
    pub(super) fn processes(&mut self, out: &mut String) {
        let Some(lead) = self.lead() else { return };
        match self.mode {
            Mode::Tree => self.as_tree(lead, out),
            Mode::Sort(key) => {
                let rows = match key {
                    SortKey::Item(_) => self.tree.top(lead, self.top),
                    SortKey::Metric(i) => self.tree.top_by(self.top, |f| self.metric(i, f)),
                };
                let named = rows.iter().map(|i| Row {
                    node: *i,
                    name: self.name(*i, String::new(), 0),
                    under: String::new(),
                });
                self.table_of(lead, named.collect(), out);
            }
            Mode::GroupByExe => self.as_groups(lead, out),
        }
    }

    fn as_tree(&mut self, lead: Item, out: &mut String) {
        let forest = self.tree.link();
        let nodes = self.tree.nodes();
        let weight = |i: usize| nodes[i].figures.item(lead).get().unwrap_or(0);
        let weights = forest.subtree_sums(weight);
        let shown = heaviest(&forest, &weights, self.top);
        let sizes = forest.subtree_sums(|_| 1);
        // Deep trees lose the head of their lines, so that names keep their place.
        let levels = (self.width.saturating_sub(60) / 5).clamp(3, 12);
        let mut rows = Vec::new();
        let mut stack: Vec<(usize, Lines)> = forest
            .roots()
            .rev()
            .filter(|r| shown[*r])
            .map(|r| (r, Lines { text: Vec::new(), cut: false }))
            .collect();
        while let Some((i, lines)) = stack.pop() {
            let folded = forest.children(i).filter(|c| !shown[*c]).map(|c| sizes[c]).sum();
            let name = self.name(i, lines.before_name(), folded);
            let mut last = true;
            let parent = forest.children(i).any(|c| shown[c]);
            rows.push(Row { node: i, name, under: lines.under(parent) });
            for child in forest.children(i).rev().filter(|c| shown[*c]) {
                stack.push((child, lines.child(last, levels)));
                last = false;
            }
        }
        self.table_of(lead, rows, out);
    }

    /// What a row begins with: lines of the tree, name, and how many descendants
    /// are folded into it.
    fn name(&self, i: usize, lines: String, folded: u64) -> Cell {
        let cell =
            Cell::new(layout::DIM, lines).and(layout::PLAIN, self.label(&self.tree.nodes()[i]));
        match folded {
            0 => cell,
            n => cell.and(layout::DIM, format!(" +{}", human::count(n))),
        }
    }

    /// The command line of a process, as it shall be known to people: its first
    /// word is what the process says it is, so that is believed only if it is
    /// also the name of its file or what the kernel calls it.
    fn label(&self, node: &Node) -> String {
        let base = |path: &[u8]| path.rsplit(|b| *b == b'/').next().unwrap_or(path).to_vec();
        let exe = self.tree.exe(node).map(base);
        let mut words = node.command.splitn(2, |b| *b == b' ');
        let mut name = match words.next().map(base).filter(|w| !w.is_empty()) {
            Some(said) if exe.as_ref() == Some(&said) => said,
            Some(said) if !node.comm.is_empty() && said.starts_with(&node.comm) => said,
            Some(_) => exe.unwrap_or_else(|| node.comm.to_vec()),
            None if node.comm.is_empty() => exe.unwrap_or_else(|| b"?".to_vec()),
            None => node.comm.to_vec(),
        };
        if let Some(rest) = words.next() {
            name.push(b' ');
            name.extend_from_slice(rest);
        }
        text::for_terminal(&name)
    }

    fn table_of(&mut self, lead: Item, named: Vec<Row>, out: &mut String) {
        let others = self.others(lead);
        let mut columns = vec![Column::left("PROCESS", 0), Column::right("PID", RANK_PID)];
        columns.extend(self.lead_columns(lead));
        let first = columns.len();
        columns.extend(
            others.iter().map(|(e, rank)| Column::right(human::title(*e, self.table), *rank)),
        );
        columns.extend(self.metric_columns());
        columns.push(Column::right("EXIT", 0));
        let left_out = self.tree.len() - named.len();
        let of = |row: &Row| self.tree.nodes()[row.node].figures.item(lead).get();
        let most = named.iter().filter_map(of).max().unwrap_or(0);
        let mut shown = 0u64;
        let mut rows = Vec::with_capacity(named.len());
        for Row { node, name, under } in named {
            let node = &self.tree.nodes()[node];
            let value = node.figures.item(lead).get();
            shown = shown.saturating_add(value.unwrap_or(0));
            let mut row = vec![name, Cell::plain(node.pid.to_string())];
            row.push(self.cell(node, lead));
            row.extend(self.share_cells(lead, value, most));
            row.extend(others.iter().map(|(e, _)| self.cell(node, *e)));
            row.extend(self.metric_cells(&node.figures));
            row.push(exit_cell(node));
            self.footnotes.core |= node.exit.is_some_and(|e| e.core());
            rows.push(row);
            let regions = most_of(&node.regions, lead);
            rows.extend(regions.iter().map(|r| self.region(r, &under, lead, &others, most)));
            match node.regions.len() - regions.len() {
                0 => {}
                n => {
                    let more = human::plural(n as u64, "more region", "more regions");
                    rows.push(vec![Cell::new(layout::DIM, format!("{under}… {more}"))]);
                }
            }
        }
        let (table, gone) = layout::table_and_gone(&columns, &rows, self.width, 24, self.color);
        out.push_str(&table);
        self.note_gone(&gone, first, &others);
        self.fold_line(lead, left_out, shown, "process", "processes", out);
    }

    /// The row of a region, in quotes, below that of its process.
    fn region(
        &mut self,
        r: &Region,
        under: &str,
        lead: Item,
        others: &[(Item, u8)],
        most: u64,
    ) -> Vec<Cell> {
        let name = format!("\"{}\"", text::for_terminal(&r.name));
        let mut times = format!(" ×{}", human::count(r.ended));
        if r.begun > r.ended {
            times += &format!(", {} not ended", human::count(r.begun - r.ended));
        }
        let name = Cell::new(layout::DIM, under).and(layout::PLAIN, name);
        let mut row = vec![name.and(layout::DIM, times), Cell::default()];
        row.push(self.region_cell(r, lead));
        row.extend(self.share_cells(lead, r.figures.item(lead).get(), most));
        row.extend(others.iter().map(|(item, _)| self.region_cell(r, *item)));
        row.extend(self.metric_cells(&r.figures));
        row
    }

    fn region_cell(&mut self, r: &Region, item: Item) -> Cell {
        match item {
            Item::Figure(e) if !Region::events(EventSet::ALL).contains(e) => Cell::default(),
            _ => self.footnotes.figure(self.table, item, &r.figures.item(item), true),
        }
    }

    fn cell(&mut self, node: &Node, item: Item) -> Cell {
        let whole = !matches!(item, Item::Figure(e) if node.partial.contains(e));
        self.footnotes.figure(self.table, item, &node.figures.item(item), whole)
    }

    /// The part of the total (where there is a total), and a bar that is full for
    /// the row that has most.
    fn share_cells(&self, lead: Item, value: Option<u64>, most: u64) -> Vec<Cell> {
        let mut cells = Vec::with_capacity(2);
        if lead.additive() {
            let part = value.and_then(|v| share(v, lead, &self.total));
            cells.push(Cell::plain(part.map(human::percent).unwrap_or_default()));
        }
        let filled = match value {
            Some(v) if most > 0 => v as f64 / most as f64,
            _ => 0.0,
        };
        cells.push(Cell::new(layout::BAR, human::bar(filled, BAR)));
        cells
    }

    /// What the rows do not show.
    fn fold_line(
        &self,
        lead: Item,
        left_out: usize,
        shown: u64,
        one: &str,
        many: &str,
        out: &mut String,
    ) {
        if left_out == 0 {
            return;
        }
        let mut line = format!(
            "… {} more {}",
            human::count(left_out as u64),
            if left_out == 1 { one } else { many }
        );
        let total = self.total.figures.item(lead).get().unwrap_or(0);
        if let Some(part) = share(total.saturating_sub(shown), lead, &self.total) {
            let lead = human::name(lead, self.table);
            line += &format!(", {} of {lead}", human::percent(part));
        }
        out.push_str(&self.paint(layout::DIM, &line));
        out.push('\n');
    }

    fn as_groups(&mut self, lead: Item, out: &mut String) {
        let groups = self.tree.groups(lead);
        let others = self.others(lead);
        let mut name = Column::left("EXECUTABLE", 0);
        name.align = Align::LeftKeepEnd;
        let mut columns = vec![name, Column::right("PROCESSES", 0)];
        columns.extend(self.lead_columns(lead));
        columns.push(Column::right("MEAN", RANK_PID));
        let first = columns.len();
        columns.extend(others.iter().map(|(e, rank)| match e {
            Item::Figure(Event::PeakRss) => Column::right("MAX RSS", *rank),
            _ => Column::right(human::title(*e, self.table), *rank),
        }));
        columns.extend(self.metric_columns());
        columns.push(Column::right("FAILED", 1));
        let shown = groups.len().min(self.top);
        let of = |g: &Group| g.sum.figures.item(lead).get();
        let most = groups[..shown].iter().filter_map(of).max().unwrap_or(0);
        let mut sum = 0u64;
        let mut rows = Vec::with_capacity(shown);
        for g in &groups[..shown] {
            let value = g.sum.figures.item(lead).get();
            sum = sum.saturating_add(value.unwrap_or(0));
            let mut row = vec![
                Cell::plain(text::for_terminal(&g.name)),
                Cell::plain(human::count(g.sum.processes)),
            ];
            row.push(self.group_cell(g, lead));
            row.extend(self.share_cells(lead, value, most));
            row.push(self.mean(g, lead));
            row.extend(others.iter().map(|(e, _)| self.group_cell(g, *e)));
            row.extend(self.metric_cells(&g.sum.figures));
            row.push(match g.failed {
                0 => Cell::new(layout::DIM, "0"),
                n => Cell::new(layout::BAD, human::count(n)),
            });
            rows.push(row);
        }
        let (table, gone) = layout::table_and_gone(&columns, &rows, self.width, 24, self.color);
        out.push_str(&table);
        self.note_gone(&gone, first, &others);
        self.fold_line(lead, groups.len() - shown, sum, "executable", "executables", out);
    }

    fn group_cell(&mut self, g: &Group, item: Item) -> Cell {
        let whole = g.sum.over(item) == g.sum.processes;
        self.footnotes.figure(self.table, item, &g.sum.figures.item(item), whole)
    }

    /// Those of the leading item: value, part of the total if there is one, bar.
    fn lead_columns(&self, lead: Item) -> Vec<Column> {
        let mut columns = vec![Column::right(human::title(lead, self.table), 0)];
        if lead.additive() {
            columns.push(Column::right("%", RANK_SHARE));
        }
        columns.push(Column::left("", RANK_BAR));
        columns
    }

    /// Of those processes that have the figure.
    fn mean(&self, g: &Group, item: Item) -> Cell {
        match (g.sum.figures.item(item), g.sum.over(item)) {
            (Value::Is(v), n) if n > 0 && item.additive() => {
                Cell::plain(human::item(v / n, item, self.table))
            }
            _ => Cell::default(),
        }
    }
}

/// A process in the table.
struct Row {
    node: usize,
    name: Cell,
    /// What rows below it begin with that belong to it.
    under: String,
}

/// Those regions with most of `lead`, in the order in which they began.
fn most_of(regions: &[Region], lead: Item) -> Vec<&Region> {
    let mut most: Vec<_> = regions.iter().enumerate().collect();
    most.sort_by_key(|(_, r)| Reverse(r.figures.item(lead).get()));
    most.truncate(REGIONS);
    most.sort_by_key(|(i, _)| *i);
    most.into_iter().map(|(_, r)| r).collect()
}

fn exit_cell(node: &Node) -> Cell {
    match node.exit {
        Some(e) if e.code() == Some(0) => Cell::new(layout::DIM, "0"),
        Some(e) => Cell::new(layout::BAD, human::exit(e)),
        None if node.running => Cell::new(layout::WARN, "running"),
        // Its last record was lost, or it ended with an exec that no window
        // follows.
        None => Cell::new(layout::DIM, "?"),
    }
}

/// Marks at most `n` nodes, such that the parent of each is also marked: always
/// next the one whose subtree weighs most.
fn heaviest(forest: &Forest, weights: &[u64], n: usize) -> Vec<bool> {
    let mut shown = vec![false; weights.len()];
    // Equals as they stand in the tree.
    let mut next = 0usize;
    let mut ranked = |i: usize| {
        next += 1;
        (weights[i], Reverse(next), i)
    };
    let mut heap: BinaryHeap<_> = forest.roots().map(&mut ranked).collect();
    for _ in 0..n {
        let Some((_, _, i)) = heap.pop() else { break };
        shown[i] = true;
        heap.extend(forest.children(i).map(&mut ranked));
    }
    shown
}

/// Lines of the tree before a name, one item for each level.
#[derive(Clone)]
struct Lines {
    text: Vec<&'static str>,
    /// Whether levels were dropped from the head.
    cut: bool,
}

impl Lines {
    fn child(&self, last: bool, levels: usize) -> Self {
        let mut text = self.text.clone();
        // What was a branch to the parent goes on beside its children, or ends.
        if let Some(parent) = text.last_mut() {
            *parent = if *parent == "└─ " { "   " } else { "│  " };
        }
        text.push(if last { "└─ " } else { "├─ " });
        let cut = self.cut || text.len() > levels;
        if text.len() > levels {
            text.remove(0);
        }
        Self { text, cut }
    }

    /// Before what belongs to the process, whose children, if any are shown, follow.
    fn under(&self, children: bool) -> String {
        let mut line = self.child(true, usize::MAX);
        if let Some(own) = line.text.last_mut() {
            *own = if children { "│    " } else { "     " };
        }
        line.before_name()
    }

    fn before_name(&self) -> String {
        let mut line = self.text.concat();
        if self.cut {
            line.insert_str(0, "⋯ ");
        }
        line
    }
}
