//! The processes of a run: as a tree, sorted, and in groups.
//!
//! [`Tree`] takes `profile` records as they come and makes one [`Node`] of all
//! windows of a process. [`Tree::link`] then finds who started whom. Everything
//! is O(n log n) at most, and nothing recurses: a chain of a hundred thousand
//! processes is as good as any other tree.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::counters::Item;
use crate::figures::Event;
use crate::figures::EventSet;
use crate::figures::Figures;
use crate::figures::NR_EVENTS;
use crate::figures::Value;
use crate::record::Exit;
use crate::record::Profile;
use crate::record::Region;
use crate::record::WindowEnd;

/// How much of a command line a node keeps: what fits a wide terminal. There
/// may be a hundred thousand nodes.
const COMMAND_MAX: usize = 160;

/// No node.
const NONE: u32 = u32::MAX;

/// One process, all its windows together.
#[derive(Debug, Clone)]
pub struct Node {
    /// Thread group id on the host.
    pub pid: u32,
    /// Parent on the host when its first window began.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// Start, ns since boot.
    pub start_ns: u64,
    /// Windows that `figures` is the sum of.
    pub windows: u32,
    /// Name of the last image, raw bytes.
    pub comm: Box<[u8]>,
    /// First bytes of the command line of the last image: arguments with a
    /// space between. Empty if the arguments were not read.
    pub command: Box<[u8]>,
    /// The figures of all windows: sums, and the largest where a sum means
    /// nothing.
    pub figures: Figures,
    /// Events that some window has no figure for although `figures` has one.
    pub partial: EventSet,
    /// How it ended, if it did.
    pub exit: Option<Exit>,
    /// Whether it was still running at its last record.
    pub running: bool,
    /// Its regions by name, those of all windows together.
    pub regions: Vec<Region>,
    exe: u32,
    first_exec: u32,
    last_exec: u32,
    /// First instant of the first window, CLOCK_MONOTONIC.
    from_ns: u64,
    /// Its death, CLOCK_MONOTONIC; `u64::MAX` if it was not seen.
    died_ns: u64,
}

impl Node {
    /// Identity of the process, whatever it executes.
    pub fn id(&self) -> (u32, u64) {
        (self.pid, self.start_ns)
    }

    /// Whether it ended with a code other than 0 or by a signal.
    pub fn failed(&self) -> bool {
        self.exit.is_some_and(|e| e.code() != Some(0))
    }
}

/// Sum of the figures of several processes, and over how many each of them is.
#[derive(Debug, Clone)]
pub struct Sum {
    /// Processes that were added.
    pub processes: u64,
    /// Sums, and the largest where a sum means nothing.
    pub figures: Figures,
    over: [u64; NR_EVENTS],
    counted: Vec<u64>,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            processes: 0,
            figures: Figures::absent("no process was profiled"),
            over: [0; NR_EVENTS],
            counted: Vec::new(),
        }
    }
}

impl Sum {
    /// Adds a process.
    pub fn add(&mut self, f: &Figures) {
        if self.processes == 0 {
            // With the reasons of what is absent.
            self.figures = f.clone();
        } else {
            self.figures.add(f);
        }
        self.processes += 1;
        for e in Event::all() {
            self.over[e as usize] += u64::from(f.get(e).get().is_some());
        }
        self.counted.resize(self.counted.len().max(f.counts.len()), 0);
        for (i, n) in self.counted.iter_mut().enumerate() {
            *n += u64::from(f.item(Item::Counter(i)).get().is_some());
        }
    }

    /// How many of the processes have this figure.
    pub fn over(&self, item: impl Into<Item>) -> u64 {
        match item.into() {
            Item::Figure(e) => self.over[e as usize],
            Item::Counter(i) => self.counted.get(i).copied().unwrap_or(0),
        }
    }
}

/// The processes of one executable.
#[derive(Debug, Clone)]
pub struct Group {
    /// Path of the executable; the process's name if the path was not told.
    pub name: Vec<u8>,
    /// Sum of their figures.
    pub sum: Sum,
    /// Those that ended with a code other than 0 or by a signal.
    pub failed: u64,
}

impl Group {
    /// Its part of `total` (of a [`Sum`] over everything), 0 to 1; `None` where
    /// either was not measured or a sum of `item` means nothing.
    pub fn share(&self, item: impl Into<Item>, total: &Sum) -> Option<f64> {
        let item = item.into();
        share(self.sum.figures.item(item).get()?, item, total)
    }
}

/// `part` of the total of `item`, 0 to 1.
pub fn share(part: u64, item: impl Into<Item>, total: &Sum) -> Option<f64> {
    let item = item.into();
    let whole = total.figures.item(item).get()?;
    (item.additive() && whole > 0).then(|| part as f64 / whole as f64)
}

/// Processes, one node each, in the order in which their first record came.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: Vec<Node>,
    index: HashMap<(u32, u64), u32>,
    exes: Vec<Box<[u8]>>,
    exe_index: HashMap<Box<[u8]>, u32>,
    /// Figures of a process without its window that is still open, by node: a
    /// later record of the same window takes the place of the earlier one.
    open: HashMap<u32, Open>,
}

/// A process without its open window.
#[derive(Debug)]
struct Open {
    figures: Option<Figures>,
    partial: EventSet,
    regions: Vec<Region>,
}

impl Tree {
    /// Without processes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the figures of one window.
    pub fn add(&mut self, p: &Profile) {
        let ident = &p.process.ident;
        let exe = match &p.process.exe {
            Some(path) => self.intern(path),
            None => NONE,
        };
        let key = (ident.pid, ident.start_ns);
        let at = match self.index.get(&key) {
            Some(&at) => {
                self.merge(at, p, exe);
                at
            }
            None => {
                let at = self.nodes.len() as u32;
                self.index.insert(key, at);
                self.nodes.push(new_node(p, exe));
                if p.window.end == WindowEnd::Running {
                    let regions = Vec::new();
                    self.open.insert(at, Open { figures: None, partial: EventSet::EMPTY, regions });
                }
                at
            }
        };
        let node = &mut self.nodes[at as usize];
        match p.window.end {
            WindowEnd::Exit | WindowEnd::ExitAfterMm | WindowEnd::DiedInExec => {
                node.died_ns = p.window.end_ns;
                node.running = false;
            }
            WindowEnd::Running => node.running = node.died_ns == u64::MAX,
            WindowEnd::Exec | WindowEnd::Request => {}
        }
        if p.exit.is_some() {
            node.exit = p.exit;
        }
    }

    fn merge(&mut self, at: u32, p: &Profile, exe: u32) {
        let node = &mut self.nodes[at as usize];
        let ident = &p.process.ident;
        // A window reported while it was open is replaced, not added to.
        let earlier = match self.open.remove(&at) {
            Some(open) => {
                node.windows -= 1;
                node.partial = open.partial;
                node.regions = open.regions;
                open.figures
            }
            None => Some(node.figures.clone()),
        };
        if p.window.end == WindowEnd::Running {
            let (figures, regions) = (earlier.clone(), node.regions.clone());
            self.open.insert(at, Open { figures, partial: node.partial, regions });
        }
        add_regions(&mut node.regions, &p.regions);
        node.figures = p.figures.clone();
        if let Some(earlier) = earlier {
            for e in Event::all().filter(|e| e.info().additive) {
                if earlier.get(e).get().is_some() != p.figures.get(e).get().is_some() {
                    node.partial = node.partial.with(e);
                }
            }
            let threads = (earlier.get(Event::Threads).get(), p.figures.get(Event::Threads).get());
            node.figures.add(&earlier);
            if let (Some(a), Some(b)) = threads {
                // Each window counts its first thread, and it is one and the same.
                let sum = a.saturating_add(b).saturating_sub(1);
                node.figures.set(Event::Threads, Value::Is(sum));
            }
        }
        node.windows += 1;
        if ident.exec < node.first_exec {
            node.first_exec = ident.exec;
            node.ppid = ident.ppid;
            node.from_ns = node.from_ns.min(p.window.start_ns);
        }
        if ident.exec >= node.last_exec {
            node.last_exec = ident.exec;
            node.comm = ident.comm.as_slice().into();
            node.uid = ident.uid;
            if exe != NONE {
                node.exe = exe;
            }
            if let Some(args) = &p.process.args {
                node.command = command(args);
            }
        }
    }

    fn intern(&mut self, path: &[u8]) -> u32 {
        if let Some(&i) = self.exe_index.get(path) {
            return i;
        }
        let i = self.exes.len() as u32;
        self.exes.push(path.into());
        self.exe_index.insert(path.into(), i);
        i
    }

    /// The processes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How many processes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Path of the executable of a node, raw bytes, if it was told.
    pub fn exe(&self, node: &Node) -> Option<&[u8]> {
        self.exes.get(node.exe as usize).map(|e| &**e)
    }

    /// Sum over all processes.
    pub fn total(&self) -> Sum {
        let mut sum = Sum::default();
        for n in &self.nodes {
            sum.add(&n.figures);
        }
        sum
    }

    /// The `n` processes with most of `item`, most first; those without the figure
    /// come last, equals in the order in which they started.
    pub fn top(&self, item: impl Into<Item>, n: usize) -> Vec<usize> {
        let item = item.into();
        let key = |i: &usize| {
            let node = &self.nodes[*i];
            // None is less than any Some.
            (Reverse(node.figures.item(item).get()), node.start_ns, node.pid)
        };
        let mut all: Vec<usize> = (0..self.nodes.len()).collect();
        if n == 0 {
            return Vec::new();
        }
        if n < all.len() {
            all.select_nth_unstable_by_key(n - 1, key);
            all.truncate(n);
        }
        all.sort_unstable_by_key(key);
        all
    }

    /// The `n` processes of which `value` says most, most first; those of which it says
    /// nothing come last, equals in the order in which they started.
    pub fn top_by(&self, n: usize, value: impl Fn(&Figures) -> Option<f64>) -> Vec<usize> {
        let values: Vec<_> =
            self.nodes.iter().map(|n| value(&n.figures).unwrap_or(f64::NEG_INFINITY)).collect();
        let started = |i: &usize| (self.nodes[*i].start_ns, self.nodes[*i].pid);
        let mut all: Vec<usize> = (0..self.nodes.len()).collect();
        all.sort_unstable_by(|a, b| {
            values[*b].total_cmp(&values[*a]).then_with(|| started(a).cmp(&started(b)))
        });
        all.truncate(n);
        all
    }

    /// Processes by executable (that of the last image), most of `item` first,
    /// equals by name.
    pub fn groups(&self, item: impl Into<Item>) -> Vec<Group> {
        let item = item.into();
        let mut by_name: HashMap<&[u8], Group> = HashMap::new();
        for n in &self.nodes {
            let name = self.exe(n).unwrap_or(&n.comm);
            let group = by_name.entry(name).or_insert_with(|| Group {
                name: name.to_vec(),
                sum: Sum::default(),
                failed: 0,
            });
            group.sum.add(&n.figures);
            group.failed += u64::from(n.failed());
        }
        let mut groups: Vec<Group> = by_name.into_values().collect();
        groups.sort_by(|a, b| {
            let key = |g: &Group| Reverse(g.sum.figures.item(item).get());
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        groups
    }

    /// Finds who started whom.
    ///
    /// The parent of a process is the one that had the pid `ppid` and lived when
    /// the process was born: pids come back, so of all that had this pid it is
    /// the last that started before. It is none of them if that one had died by
    /// then, for then the pid belonged to somebody who was not profiled.
    pub fn link(&self) -> Forest {
        let n = self.nodes.len();
        let mut order: Vec<u32> = (0..n as u32).collect();
        let mut by_pid = order.clone();
        order.sort_unstable_by_key(|&i| (self.nodes[i as usize].start_ns, i));
        by_pid.sort_unstable_by_key(|&i| self.nodes[i as usize].id());
        // Starts are told in time since boot, deaths in time without suspend.
        // No window begins before its process, so the largest difference between
        // the two is (to the time from a fork to its exec) the time suspended.
        let suspended =
            self.nodes.iter().map(|c| c.start_ns.saturating_sub(c.from_ns)).max().unwrap_or(0);
        let parent: Vec<u32> = self
            .nodes
            .iter()
            .map(|child| {
                let before = by_pid.partition_point(|&i| {
                    self.nodes[i as usize].id() < (child.ppid, child.start_ns)
                });
                let Some(&i) = before.checked_sub(1).and_then(|b| by_pid.get(b)) else {
                    return NONE;
                };
                let candidate = &self.nodes[i as usize];
                let born = child.from_ns.min(child.start_ns.saturating_sub(suspended));
                if candidate.pid == child.ppid && candidate.died_ns >= born { i } else { NONE }
            })
            .collect();
        Forest::new(parent, &order)
    }
}

fn new_node(p: &Profile, exe: u32) -> Node {
    let ident = &p.process.ident;
    Node {
        pid: ident.pid,
        ppid: ident.ppid,
        uid: ident.uid,
        start_ns: ident.start_ns,
        windows: 1,
        comm: ident.comm.as_slice().into(),
        command: p.process.args.as_deref().map(command).unwrap_or_default(),
        figures: p.figures.clone(),
        partial: EventSet::EMPTY,
        exit: None,
        running: false,
        regions: p.regions.clone(),
        exe,
        first_exec: ident.exec,
        last_exec: ident.exec,
        from_ns: p.window.start_ns,
        died_ns: u64::MAX,
    }
}

fn add_regions(to: &mut Vec<Region>, more: &[Region]) {
    for r in more {
        match to.iter_mut().find(|t| t.name == r.name) {
            Some(t) => t.add(r),
            None => to.push(r.clone()),
        }
    }
}

fn command(args: &[Vec<u8>]) -> Box<[u8]> {
    let mut line = Vec::new();
    for arg in args {
        if line.len() >= COMMAND_MAX {
            break;
        }
        if !line.is_empty() {
            line.push(b' ');
        }
        line.extend_from_slice(&arg[..arg.len().min(COMMAND_MAX)]);
    }
    line.truncate(COMMAND_MAX);
    line.into()
}

/// Who started whom; indices are those of [`Tree::nodes`].
#[derive(Debug, Clone)]
pub struct Forest {
    parent: Vec<u32>,
    /// All nodes, parents before children.
    order: Vec<u32>,
    /// Children of node i: `children[starts[i]..starts[i + 1]]`, as they started.
    children: Vec<u32>,
    starts: Vec<u32>,
    roots: Vec<u32>,
}

impl Forest {
    fn new(parent: Vec<u32>, order: &[u32]) -> Self {
        let mut starts = vec![0u32; parent.len() + 1];
        for &p in parent.iter().filter(|p| **p != NONE) {
            starts[p as usize + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut next = starts.clone();
        let mut children = vec![0u32; starts.last().map_or(0, |s| *s as usize)];
        let mut roots = Vec::new();
        for &i in order {
            match parent[i as usize] {
                NONE => roots.push(i),
                p => {
                    children[next[p as usize] as usize] = i;
                    next[p as usize] += 1;
                }
            }
        }
        Self { parent, order: order.to_vec(), children, starts, roots }
    }

    /// Who started it, if that process was profiled.
    pub fn parent(&self, i: usize) -> Option<usize> {
        match self.parent[i] {
            NONE => None,
            p => Some(p as usize),
        }
    }

    /// Whom it started, in the order of their start.
    pub fn children(&self, i: usize) -> impl DoubleEndedIterator<Item = usize> + '_ {
        let range = self.starts[i] as usize..self.starts[i + 1] as usize;
        self.children[range].iter().map(|c| *c as usize)
    }

    /// Those whose parent was not profiled, in the order of their start.
    pub fn roots(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        self.roots.iter().map(|r| *r as usize)
    }

    /// Every process with its depth: parents before children, siblings in the
    /// order of their start.
    pub fn walk(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut stack: Vec<(usize, usize)> = self.roots().rev().map(|r| (r, 0)).collect();
        std::iter::from_fn(move || {
            let (i, depth) = stack.pop()?;
            stack.extend(self.children(i).rev().map(|c| (c, depth + 1)));
            Some((i, depth))
        })
    }

    /// For each node, `value` of it and of all that descend from it, added up.
    pub fn subtree_sums(&self, value: impl Fn(usize) -> u64) -> Vec<u64> {
        let mut sums: Vec<u64> = (0..self.parent.len()).map(value).collect();
        for &i in self.order.iter().rev() {
            if let Some(p) = self.parent(i as usize) {
                sums[p] = sums[p].saturating_add(sums[i as usize]);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Flags;
    use crate::record::Ident;
    use crate::record::Process;
    use crate::record::Window;
    use crate::record::WindowStart;

    fn profile(pid: u32, ppid: u32, from: u64, to: u64) -> Profile {
        let mut figures = Figures::absent("not measured");
        figures.set(Event::TaskClock, Value::Is(to - from));
        figures.set(Event::Threads, Value::Is(1));
        let ident = Ident {
            pid,
            tid: pid,
            ppid,
            start_ns: from,
            comm: format!("p{pid}").into(),
            ..Ident::default()
        };
        Profile {
            time_ns: to,
            process: Process { ident, ..Process::default() },
            flags: Flags(Flags::EXIT),
            events: EventSet::ALL,
            rules: 1,
            figures,
            threads: Vec::new(),
            regions: Vec::new(),
            exit: Some(Exit { status: 0 }),
            window: Window {
                start_ns: from,
                end_ns: to,
                start: WindowStart::Fork,
                end: WindowEnd::Exit,
            },
            notes: Vec::new(),
        }
    }

    fn tree(profiles: &[Profile]) -> Tree {
        let mut t = Tree::new();
        for p in profiles {
            t.add(p);
        }
        t
    }

    fn pids(t: &Tree) -> Vec<(u32, usize)> {
        t.link().walk().map(|(i, d)| (t.nodes()[i].pid, d)).collect()
    }

    #[test]
    fn parents_stand_before_children_and_siblings_in_order_of_start() {
        let t = tree(&[
            profile(3, 1, 30, 40),
            profile(4, 2, 25, 28),
            profile(2, 1, 20, 35),
            profile(1, 0, 10, 50),
        ]);
        assert_eq!(pids(&t), [(1, 0), (2, 1), (4, 2), (3, 1)]);
        let f = t.link();
        let clock = |i: usize| t.nodes()[i].figures.get(Event::TaskClock).get().unwrap_or(0);
        assert_eq!(f.subtree_sums(clock), [10, 3, 18, 68]);
    }

    #[test]
    fn a_pid_used_twice_is_two_parents() {
        let t = tree(&[
            profile(7, 0, 10, 20),
            profile(8, 7, 15, 90),
            profile(7, 0, 40, 50),
            profile(9, 7, 45, 60),
            // The second 7 is dead: a third one, not profiled, started this.
            profile(10, 7, 70, 80),
        ]);
        assert_eq!(pids(&t), [(7, 0), (8, 1), (7, 0), (9, 1), (10, 0)]);
    }

    #[test]
    fn suspended_time_does_not_kill_parents() {
        // 1000 ns of suspend: start_ns is that much ahead of the windows.
        let mut parent = profile(1, 0, 10, 50);
        let mut child = profile(2, 1, 20, 30);
        parent.process.ident.start_ns += 1000;
        child.process.ident.start_ns += 1000;
        assert_eq!(pids(&tree(&[child, parent])), [(1, 0), (2, 1)]);
    }

    #[test]
    fn windows_of_one_process_become_one_node() {
        let mut fork = profile(2, 1, 20, 25);
        fork.window.end = WindowEnd::Exec;
        fork.exit = None;
        fork.figures.set(Event::PeakRss, Value::Is(900));
        let mut image = profile(2, 99, 20, 60);
        image.process.ident.exec = 1;
        image.process.ident.comm = b"cc".to_vec();
        image.process.exe = Some(b"/usr/bin/cc".to_vec());
        image.process.args = Some(vec![b"cc".to_vec(), b"-c".to_vec()]);
        image.figures.set(Event::UserTime, Value::Is(4));
        // In either order of arrival.
        for records in [[&fork, &image], [&image, &fork]] {
            let t = tree(&records.map(Clone::clone));
            assert_eq!(t.len(), 1);
            let n = &t.nodes()[0];
            assert_eq!(
                (n.windows, n.ppid, &*n.comm, &*n.command),
                (2, 1, &b"cc"[..], &b"cc -c"[..])
            );
            assert_eq!(n.figures.get(Event::TaskClock), &Value::Is(45));
            assert_eq!(n.figures.get(Event::PeakRss), &Value::Is(900));
            assert_eq!(n.figures.get(Event::Threads), &Value::Is(1));
            assert!(n.partial.contains(Event::UserTime) && !n.partial.contains(Event::PeakRss));
            assert_eq!(t.exe(n), Some(&b"/usr/bin/cc"[..]));
            assert_eq!(n.exit, Some(Exit { status: 0 }));
        }
    }

    #[test]
    fn a_window_reported_while_open_is_not_counted_twice() {
        let snapshot = |to| {
            let mut p = profile(2, 1, 20, to);
            p.window.end = WindowEnd::Running;
            p.exit = None;
            p
        };
        let t = tree(&[snapshot(30), snapshot(40)]);
        assert!(t.nodes()[0].running);
        let t = tree(&[snapshot(30), snapshot(40), profile(2, 1, 20, 50)]);
        let n = &t.nodes()[0];
        assert_eq!(n.figures.get(Event::TaskClock), &Value::Is(30));
        assert_eq!((n.windows, n.running), (1, false));
        assert!(t.open.is_empty());
    }

    #[test]
    fn groups_and_the_top_leave_what_was_not_measured_to_the_end() {
        let mut without = profile(5, 1, 50, 51);
        without.figures = Figures::absent("not measured");
        let mut failed = profile(3, 1, 30, 45);
        failed.exit = Some(Exit { status: 9 });
        failed.process.exe = Some(b"/bin/x".to_vec());
        let mut other = profile(4, 1, 40, 45);
        other.process.exe = Some(b"/bin/x".to_vec());
        let t = tree(&[without, failed, other, profile(6, 1, 60, 65)]);
        let top =
            |n| t.top(Event::TaskClock, n).iter().map(|i| t.nodes()[*i].pid).collect::<Vec<_>>();
        let by = |n| {
            let value = |f: &Figures| f.get(Event::TaskClock).get().map(|v| v as f64);
            t.top_by(n, value).iter().map(|i| t.nodes()[*i].pid).collect::<Vec<_>>()
        };
        for n in 0..=t.len() {
            assert_eq!(by(n), top(n), "{n}");
        }
        assert_eq!(top(9), [3, 4, 6, 5]);
        assert_eq!(top(2), [3, 4]);
        assert_eq!(top(0), [0; 0]);
        let groups = t.groups(Event::TaskClock);
        let total = t.total();
        assert_eq!((total.processes, total.over(Event::TaskClock)), (4, 3));
        assert_eq!(groups[0].name, b"/bin/x");
        assert_eq!((groups[0].sum.processes, groups[0].failed), (2, 1));
        assert_eq!(groups[0].share(Event::TaskClock, &total), Some(0.8));
        assert_eq!(groups[0].share(Event::PeakRss, &total), None);
        assert_eq!(groups[2].name, b"p5");
    }

    #[test]
    fn a_chain_of_100_000_is_walked_without_recursion() {
        const N: u32 = 100_000;
        let mut t = Tree::new();
        for pid in 1..=N {
            t.add(&profile(pid, pid - 1, u64::from(pid), 10_000_000));
        }
        let forest = t.link();
        assert_eq!(forest.walk().last(), Some((N as usize - 1, N as usize - 1)));
        assert_eq!(forest.subtree_sums(|_| 1)[0], u64::from(N));
        assert_eq!(t.groups(Event::TaskClock).len(), N as usize);
        // 100,000 of them must stay some tens of MB.
        assert!(size_of::<Node>() <= 448, "{}", size_of::<Node>());
    }

    #[test]
    fn a_process_that_is_its_own_parent_does_no_harm() {
        let t = tree(&[profile(1, 1, 10, 20), profile(2, 3, 10, 20), profile(3, 2, 10, 20)]);
        assert_eq!(pids(&t), [(1, 0), (2, 0), (3, 0)]);
    }
}
