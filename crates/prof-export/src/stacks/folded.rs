//! The `folded` format: a stack a line, root first, and its weight, as Brendan Gregg's
//! tools read it.
//!
//! `_[k]` behind a name marks the kernel's functions, `_[i]` inlined ones. A `;` in a
//! name, and whatever else a reader could take for something else, is written `\xHH`.

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

/// Writes one event of a profile.
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
    let Some(event) = options.event_of(profile) else { return (sums, spelled) };
    let names = Names::new(profile);
    let words: Vec<String> = names.lines().iter().map(word).collect();
    for (place, weight) in names::weights(profile, event).0 {
        let mut stack = root(profile, options.root, place.thread).unwrap_or_default();
        for id in names.stack(place.whole, place.stack) {
            let word = &words[id.0 as usize];
            if !stack.is_empty() {
                stack.push(';');
            }
            stack.push_str(word);
            if !spelled.contains_key(word) {
                spelled.insert(word.clone(), names.line(id).origin);
            }
        }
        let sum = sums.entry(stack).or_default();
        *sum = sum.saturating_add(weight);
    }
    (sums, spelled)
}

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
