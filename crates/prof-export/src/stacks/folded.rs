//! The `folded` format: a stack a line, root first, and its weight, as Brendan Gregg's
//! tools read it.
//!
//! `_[k]` behind a name marks the kernel's functions, `_[i]` inlined ones. A `;` in a
//! name, and whatever else a reader could take for something else, is written `\xHH`.
//!
//! Behind the stack of a time off the CPU stands who ended it: `--`, the waker's stack from
//! its leaf to its root, the waker's name.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io;
use std::io::Write;

use prof_model::stacks::StackProfile;

use super::Root;
use super::StackOptions;
use super::names;
use super::names::Line;
use super::names::Names;
use super::names::Origin;

/// Writes one event of a profile; and with time on the CPU that off it, the name of the event
/// at the root of each.
pub fn write(
    profile: &StackProfile,
    options: &StackOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    super::check(profile)?;
    for (stack, weight) in lines(profile, options).0 {
        writeln!(out, "{stack} {weight}")?;
    }
    out.flush()
}

/// The lines with their weights, and what stands in them: each name, spelled as there,
/// and of what it is.
pub(super) fn lines(
    profile: &StackProfile,
    options: &StackOptions,
) -> (BTreeMap<String, u64>, HashMap<String, Origin>) {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    let mut spelled: HashMap<String, Origin> = HashMap::new();
    let drawn = options.drawn(profile);
    let names = Names::new(profile);
    let words: Vec<String> = names.lines().iter().map(word).collect();
    let places = drawn.iter().flat_map(|e| {
        names::weights(profile, *e).0.into_iter().map(|(place, weight)| (*e, place, weight))
    });
    for (event, place, weight) in places {
        let mut stack = Vec::new();
        if drawn.len() > 1 {
            let name = names::clean(profile.events[event as usize].name.as_bytes());
            stack.push(escape(&format!("[{name}]")));
        }
        stack.extend(root(profile, options.root, place.thread));
        let mut lines = names.stack(place.whole, place.stack);
        let waker = place.waker(profile);
        let own = lines.len();
        if let Some(waker) = waker.filter(|w| w.stack.is_some()) {
            lines.extend(names.stack(waker.whole, waker.stack).into_iter().rev());
        }
        for (nth, id) in lines.into_iter().enumerate() {
            if nth == own {
                stack.push(BORDER.into());
            }
            let word = &words[id.0 as usize];
            stack.push(word.clone());
            if !spelled.contains_key(word) {
                spelled.insert(word.clone(), names.line(id).origin);
            }
        }
        if let Some(waker) = waker {
            if waker.stack.is_none() {
                stack.push(BORDER.into());
            }
            stack.push(escape(&names::waker(waker)));
            spelled.entry(BORDER.into()).or_insert(Origin::Note);
        }
        let sum = sums.entry(stack.join(";")).or_default();
        *sum = sum.saturating_add(weight);
    }
    (sums, spelled)
}

/// Between a stack that was left and that of its waker.
const BORDER: &str = "--";

/// What stands before the functions.
fn root(profile: &StackProfile, root: Root, thread: u32) -> Option<String> {
    let thread = &profile.threads[thread as usize];
    let comm = escape(&names::clean(thread.comm.as_bytes()));
    match root {
        Root::Function => None,
        Root::Comm => Some(comm),
        Root::CommPid => {
            let process = &profile.processes[thread.process.0 as usize];
            Some(format!("{comm}-{}", process.pid))
        }
    }
}

fn word(line: &Line) -> String {
    let name = escape(&line.name);
    match line.origin {
        Origin::Kernel => name + "_[k]",
        Origin::User if line.inlined => name + "_[i]",
        _ => name,
    }
}

/// Nothing in it that readers take for something else: the separator, spaces at the
/// ends, which they trim, a number at the end, which would be a weight, a mark that is
/// not ours, the beginning of a comment, an empty name.
fn escape(name: &str) -> String {
    if name.is_empty() {
        return "[no name]".into();
    }
    let mut out = name.replace(';', "\\x3b");
    if let Some(at) = out.rfind(' ') {
        let number = out[at + 1..].bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if number {
            out.replace_range(at..=at, "\\x20");
        }
    }
    // What trims does so by all that Unicode calls white space.
    for (at, c) in [(0, out.chars().next()), (out.len(), out.chars().next_back())] {
        if let Some(c) = c.filter(|c| c.is_whitespace()) {
            let mut buf = [0; 4];
            let hex: String =
                c.encode_utf8(&mut buf).bytes().map(|b| format!("\\x{b:02x}")).collect();
            let at = if at == 0 { 0..c.len_utf8() } else { out.len() - c.len_utf8()..out.len() };
            out.replace_range(at, &hex);
        }
    }
    if let Some(rest) = out.strip_prefix("# ") {
        out = format!("\\x23 {rest}");
    }
    let marked = ["_[k]", "_[w]", "_[i]", "_[j]"].iter().any(|m| out.ends_with(m));
    if marked {
        let at = out.len() - 3;
        out.replace_range(at..=at, "\\x5b");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_not_taken_for_something_else() {
        for (name, want) in [
            ("a::b<c>(d e)", "a::b<c>(d e)"),
            ("[u8; 8]", "[u8\\x3b 8]"),
            ("f 12", "f\\x2012"),
            ("f 1.5", "f\\x201.5"),
            ("f 12 g", "f 12 g"),
            (" f ", "\\x20f\\x20"),
            (" ", "\\x20"),
            ("\u{2003}f", "\\xe2\\x80\\x83f"),
            ("# f", "\\x23 f"),
            ("f_[k]", "f_\\x5bk]"),
            ("", "[no name]"),
        ] {
            assert_eq!(escape(name), want);
        }
    }
}
