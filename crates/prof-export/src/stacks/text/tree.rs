//! The call tree: who called what, the heaviest paths first.

use std::collections::BTreeMap;
use std::collections::HashMap;

use prof_model::stacks::StackProfile;

use super::View;
use super::style;
use crate::human;
use crate::layout;
use crate::layout::paint;
use crate::stacks::Root;
use crate::stacks::names;
use crate::stacks::names::LineId;
use crate::stacks::names::Place;

/// Columns of the share and what stands behind it.
const SHARE: usize = 10;

/// What a node is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Label {
    /// A place in the list of roots.
    Root(usize),
    Line(LineId),
}

#[derive(Debug)]
struct Node {
    label: Label,
    weight: u64,
    children: Vec<usize>,
}

/// All stacks of an event.
#[derive(Debug, Default)]
struct Tree {
    nodes: Vec<Node>,
    top: Vec<usize>,
    places: HashMap<(Option<usize>, Label), usize>,
}

impl Tree {
    fn add(&mut self, path: impl Iterator<Item = Label>, weight: u64) {
        let mut at = None;
        for label in path {
            let next = self.nodes.len();
            let place = *self.places.entry((at, label)).or_insert(next);
            if place == next {
                self.nodes.push(Node { label, weight: 0, children: Vec::new() });
                match at {
                    Some(parent) => self.nodes[parent].children.push(place),
                    None => self.top.push(place),
                }
            }
            let node = &mut self.nodes[place];
            node.weight = node.weight.saturating_add(weight);
            at = Some(place);
        }
    }
}

/// A line that is still to be written.
enum Todo {
    /// A node, its level in the tree, columns before it, and whether its share is its
    /// caller's.
    Node(usize, usize, usize, bool),
    /// So many that are too light, with so much together.
    Rest(usize, u64, usize),
}

impl View<'_> {
    /// The paths that have enough of all.
    pub(super) fn tree(&self, out: &mut String, weights: &BTreeMap<Place, u64>) {
        let mut tree = Tree::default();
        let mut roots: Vec<String> = Vec::new();
        let mut root_places: HashMap<String, usize> = HashMap::new();
        for (place, weight) in weights {
            let root = root(self.profile, self.options.root, place.thread).map(|name| {
                Label::Root(*root_places.entry(name.clone()).or_insert_with(|| {
                    roots.push(name);
                    roots.len() - 1
                }))
            });
            let lines = self.names.stack(place.whole, place.stack).into_iter().map(Label::Line);
            tree.add(root.into_iter().chain(lines), *weight);
        }
        let mut todo = Vec::new();
        self.children(&tree, &roots, &tree.top, (0, 0, None), &mut todo);
        while let Some(next) = todo.pop() {
            match next {
                Todo::Node(at, level, indent, same) => {
                    let node = &tree.nodes[at];
                    self.line(out, &roots, node, indent, same);
                    let below = (level + 1, indent, Some(node.weight));
                    self.children(&tree, &roots, &node.children, below, &mut todo);
                }
                Todo::Rest(count, weight, indent) => {
                    let more = human::count(count as u64);
                    let share = human::percent(self.share(weight));
                    let text = format!("{share:>7}   {}… {more} more", " ".repeat(indent));
                    let text = self.fit(&text, 0);
                    out.push_str(&paint(self.options.color, layout::DIM, &text));
                    out.push('\n');
                }
            }
        }
        out.push('\n');
    }

    /// Notes what is to be written of these, the last first.
    fn children(
        &self,
        tree: &Tree,
        roots: &[String],
        nodes: &[usize],
        (level, indent, above): (usize, usize, Option<u64>),
        todo: &mut Vec<Todo>,
    ) {
        let weight = |at: usize| tree.nodes[at].weight;
        let enough = |at: &usize| {
            level < self.options.depth && self.share(weight(*at)) >= self.options.threshold
        };
        let (mut shown, rest): (Vec<usize>, Vec<usize>) = nodes.iter().copied().partition(enough);
        shown.sort_by(|a, b| {
            let name = |at: usize| self.label(roots, tree.nodes[at].label).0;
            weight(*b).cmp(&weight(*a)).then_with(|| name(*a).cmp(name(*b)))
        });
        // A chain of calls stays in its columns: who is alone below its caller, with all
        // of its weight, is not indented.
        let alone = shown.len() == 1 && above == Some(weight(shown[0]));
        let inner = if above.is_none() || alone { indent } else { indent + 2 };
        let of_rest = rest.iter().fold(0, |sum: u64, at| sum.saturating_add(weight(*at)));
        if self.share(of_rest) >= self.options.threshold && !rest.is_empty() {
            todo.push(Todo::Rest(rest.len(), of_rest, inner));
        }
        todo.extend(shown.iter().rev().map(|at| Todo::Node(*at, level, inner, alone)));
    }

    fn line(&self, out: &mut String, roots: &[String], node: &Node, indent: usize, same: bool) {
        let share = if same { String::new() } else { human::percent(self.share(node.weight)) };
        let (name, style, inlined) = self.label(roots, node.label);
        let mark = if inlined { " (inlined)" } else { "" };
        let name = self.fit(name, SHARE + indent + mark.len());
        out.push_str(&format!("{share:>7}   {}", " ".repeat(indent)));
        out.push_str(&paint(self.options.color, style, &name));
        out.push_str(&paint(self.options.color, layout::DIM, mark));
        out.push('\n');
    }

    fn label<'a>(&'a self, roots: &'a [String], label: Label) -> (&'a str, anstyle::Style, bool) {
        match label {
            Label::Root(at) => (&roots[at], layout::BOLD, false),
            Label::Line(id) => {
                let line = self.names.line(id);
                (&line.name, style(line), line.inlined)
            }
        }
    }
}

fn root(profile: &StackProfile, root: Root, thread: u32) -> Option<String> {
    let thread = &profile.threads[thread as usize];
    let comm = names::clean(thread.comm.as_bytes());
    match root {
        Root::Function => None,
        Root::Comm => Some(comm),
        Root::CommPid => {
            Some(format!("{comm}-{}", profile.processes[thread.process.0 as usize].pid))
        }
    }
}
