//! Letters behind an event or a group.

use std::fmt;

use prof_model::rules::Span;

use crate::error::ErrorKind;
use crate::error::Fault;

/// Each letter and what it asks for.
const LETTERS: [(char, &str); 13] = [
    ('u', "user mode"),
    ('k', "kernel mode"),
    ('h', "hypervisor"),
    ('G', "guests"),
    ('H', "host"),
    ('I', "not idle"),
    ('p', "precise, up to ppp"),
    ('P', "as precise as can be"),
    ('S', "samples read the group"),
    ('D', "pinned"),
    ('W', "weak group"),
    ('e', "exclusive"),
    ('b', "through BPF"),
];

/// Modifiers, checked: at least one letter, each once, `p` up to three times.
/// [`Modifiers::apply`] says what they do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Modifiers(String);

impl Modifiers {
    /// As written, without the colon.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it could be one: nothing but letters that are modifiers.
    pub(super) fn all_letters(word: &str) -> bool {
        word.chars().all(|c| LETTERS.iter().any(|(l, _)| *l == c))
    }

    /// Checks a word that starts at `at`. None behind a colon is as no colon.
    pub(super) fn check(word: &str, at: usize) -> Result<Option<Self>, Fault> {
        let bad = |i: usize, c: char, message: String| {
            let span = Span { at: at + i, len: c.len_utf8() };
            Fault::new(ErrorKind::Modifier, span, message)
        };
        for (i, c) in word.char_indices() {
            if !LETTERS.iter().any(|(l, _)| *l == c) {
                let all: Vec<_> = LETTERS.iter().map(|(l, what)| format!("{l} {what}")).collect();
                return Err(bad(i, c, format!("'{c}' is no modifier"))
                    .help(format!("modifiers are: {}", all.join(", "))));
            }
            let before = word[..i].matches(c).count();
            if c == 'p' && before >= 3 {
                return Err(bad(i, c, "ppp is as precise as it gets".into()));
            }
            if c != 'p' && before > 0 {
                return Err(bad(i, c, format!("modifier '{c}' stands there twice")));
            }
        }
        Ok((!word.is_empty()).then(|| Self(word.to_owned())))
    }
}

impl fmt::Display for Modifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
