//! What is wrong with an event list, where, and what was perhaps meant.

use std::fmt;

use prof_model::rules::Span;
use prof_model::text;

use crate::syntax;

/// What sort of thing is wrong, for code that decides by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The text is not in the grammar.
    Syntax,
    /// A modifier that there is not, or that cannot stand there.
    Modifier,
    /// No event of that name, on any machine or on this one.
    UnknownEvent,
    /// No PMU of that name on this machine.
    UnknownPmu,
    /// The PMU, or the event, takes no such term.
    UnknownTerm,
    /// A term's value is missing, of the wrong type or too large.
    Value,
    /// No tracepoint of that name in this kernel.
    UnknownTracepoint,
    /// The tracing file system is not mounted, or may not be read.
    Tracefs,
    /// Something that the kernel says of itself could not be read or makes no
    /// sense.
    Host,
    /// Each part is well, but not together: a group over two uncore PMUs, a filter
    /// without a tracepoint, a list that leaves nothing.
    Combination,
}

impl ErrorKind {
    /// Whether it is this machine that lacks something, rather than the list
    /// being wrong everywhere. An event that is unknown may exist elsewhere.
    pub fn is_about_this_machine(self) -> bool {
        !matches!(self, Self::Syntax | Self::Modifier | Self::Combination)
    }
}

/// An event list that cannot be read or resolved. Shown with the text and carets
/// under the place, names that come near, and help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventError {
    /// Where the list is from, as in `-e`; empty if unknown.
    pub origin: Box<str>,
    /// The list as given.
    pub text: Box<str>,
    /// The part at fault.
    pub span: Span,
    /// What sort of thing is wrong.
    pub kind: ErrorKind,
    /// What is wrong.
    pub message: String,
    /// Up to three names that come near, the nearest first.
    pub near: Vec<String>,
    /// What there is instead, or what to do about it; may be empty.
    pub help: Box<str>,
}

impl EventError {
    /// A name that is none of `known`, given as such and not within a list.
    pub fn unknown_name<'a>(
        origin: &str,
        name: &str,
        message: String,
        known: impl IntoIterator<Item = &'a str>,
        help: String,
    ) -> Self {
        let span = Span { at: 0, len: name.len() };
        let fault = Fault::new(ErrorKind::UnknownEvent, span, message).near(name, known);
        fault.help(help).in_text(origin, name)
    }

    /// In one line, where the list is not shown beside it: what it is about stands in it.
    pub fn in_one_line(&self) -> String {
        let mut line = self.with_near();
        if let Some(item) = self.item().filter(|item| !self.message.contains(item)) {
            line = format!("{item}: {line}");
        }
        // Of others the help is what there is instead, which can be long.
        if self.kind == ErrorKind::Tracefs && !self.help.is_empty() {
            line = format!("{line}; {}", self.help);
        }
        line
    }

    /// What of the list it is about, as it was spelled: an event with its terms, or a group.
    fn item(&self) -> Option<&str> {
        let list = syntax::parse("", &self.text).ok()?;
        let end = |span: Span| span.at + span.len;
        let has = |span: Span| span.at <= self.span.at && end(self.span) <= end(span);
        let item = list.items.iter().find(|i| has(i.span))?;
        self.text.get(item.span.at..end(item.span))
    }

    fn with_near(&self) -> String {
        match self.near.is_empty() {
            true => self.message.clone(),
            false => format!("{}; did you mean {}?", self.message, self.near.join(" or ")),
        }
    }
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut message = self.with_near();
        if !self.origin.is_empty() {
            message = format!("{}: {message}", self.origin);
        }
        // Names are from the list and from files; neither is to be trusted.
        let message = text::for_terminal(message.as_bytes());
        match self.text.is_empty() {
            // There is no place to point at.
            true => f.write_str(&message)?,
            false => text::caret(f, &message, &self.text, self.span.at, self.span.len)?,
        }
        if !self.help.is_empty() {
            write!(f, "\n  {}", text::for_terminal(self.help.as_bytes()))?;
        }
        Ok(())
    }
}

impl std::error::Error for EventError {}

/// An error that does not know yet which text it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) span: Span,
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    pub(crate) near: Vec<String>,
    pub(crate) help: String,
}

impl Fault {
    pub(crate) fn new(kind: ErrorKind, span: Span, message: impl Into<String>) -> Self {
        let (near, help) = (Vec::new(), String::new());
        Self { span, kind, message: message.into(), near, help }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: help.into(), ..self }
    }

    /// With the names out of `names` that come near to `word`.
    pub(crate) fn near<'a>(self, word: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        Self { near: nearest(word, names), ..self }
    }

    /// At another place: what is wrong in a file is shown where it was named.
    pub(crate) fn at(self, span: Span) -> Self {
        Self { span, ..self }
    }

    pub(crate) fn in_text(self, origin: &str, text: &str) -> EventError {
        EventError {
            origin: origin.into(),
            text: text.into(),
            span: self.span,
            kind: self.kind,
            message: self.message,
            near: self.near,
            help: self.help.into(),
        }
    }
}

/// Names longer than this are not compared: nobody mistyped them by accident, and
/// the comparison takes time in the product of both lengths.
const MAX_COMPARED: usize = 128;

/// How many are told.
const MAX_NEAR: usize = 3;

/// Words shorter than this begin too many names.
const MIN_BEGUN: usize = 4;

/// Up to three of `names` within a third of the word's length of edits, the
/// nearest first; if there is none, the shortest that begin with the word. Case does not
/// count.
fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let names = names.into_iter().collect::<Vec<_>>();
    let names = names.iter().copied();
    if word.len() > MAX_COMPARED {
        return Vec::new();
    }
    let word = word.to_ascii_lowercase();
    let most = (word.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> = names
        .clone()
        .filter(|n| n.len() <= MAX_COMPARED && n.len().abs_diff(word.len()) <= most)
        .map(|n| (strsim::osa_distance(&word, &n.to_ascii_lowercase()), n))
        .filter(|(d, _)| *d <= most)
        .collect();
    near.sort_unstable();
    near.dedup_by_key(|(_, n)| *n);
    if near.is_empty() && word.len() >= MIN_BEGUN {
        // Somebody may know how a name begins only.
        let begun = |n: &&str| n.to_ascii_lowercase().starts_with(&word);
        near.extend(names.filter(begun).map(|n| (n.len(), n)));
        near.sort_unstable();
        near.dedup_by_key(|(_, n)| *n);
    }
    near.into_iter().take(MAX_NEAR).map(|(_, n)| n.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shown_with_carets_near_names_and_help() {
        let span = Span { at: 3, len: 6 };
        let e = Fault::new(ErrorKind::UnknownEvent, span, "unknown event 'cylces'")
            .near("cylces", ["cs", "cycles", "branches"])
            .help("`prof events` lists what there is")
            .in_text("-e", "cs,cylces");
        assert_eq!(
            e.to_string(),
            "-e: unknown event 'cylces'; did you mean cycles?\n  cs,cylces\n     ^^^^^^\n  \
             `prof events` lists what there is"
        );
    }

    #[test]
    fn three_at_most_the_nearest_first() {
        let near = nearest("llc-load", ["LLC-loads", "LLC-load-misses", "llc-loat", "LLC-load"]);
        assert_eq!(near, ["LLC-load", "LLC-loads", "llc-loat"]);
        assert!(nearest(&"x".repeat(1000), ["x"]).is_empty());
        assert!(nearest("", ["abc"]).is_empty());
        let stalls = ["stalled-cycles-frontend", "cycles", "stalled-cycles-backend"];
        let near = nearest("Stalled-cycles", stalls);
        assert_eq!(near, ["stalled-cycles-backend", "stalled-cycles-frontend"]);
        assert!(nearest("st", ["start"]).is_empty());
    }
}
