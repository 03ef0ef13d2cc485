//! What is wrong with a rule, and where.

use std::fmt;

use super::parse;
use crate::text;

/// A place in a text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub at: usize,
    /// How many.
    pub len: usize,
}

impl Span {
    /// From `at` to just before `end`.
    pub(super) fn between(at: usize, end: usize) -> Self {
        Self { at, len: end.saturating_sub(at) }
    }

    /// The same place in a text with `by` more bytes in front.
    pub(super) fn shifted(self, by: usize) -> Self {
        Self { at: self.at + by, ..self }
    }
}

/// A rule that cannot be read, resolved or expressed. Shown with the text and
/// carets under the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// Where the rule is from: `-s`, `--rule`, `FILE:LINE`; empty if unknown.
    pub origin: String,
    /// The text that `span` is a place in.
    pub text: String,
    /// The part at fault.
    pub span: Span,
    /// What is wrong, and what to do instead.
    pub message: String,
}

impl RuleError {
    /// Of a rule as it was given: at its name, or at all of it if it was given none.
    pub(super) fn at_name_in(self, given: &str) -> Self {
        let at = given.len() - given.trim_start().len();
        let len = parse::split_name(given).0.map_or(given.trim().len(), str::len);
        Self { text: given.to_owned(), span: Span { at, len }, ..self }
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut message = self.message.clone();
        if !self.origin.is_empty() {
            message = format!("{}: {message}", self.origin);
        }
        // Both hold words of the rule and names of files as they were given.
        let message = text::for_terminal(message.as_bytes());
        text::caret(f, &message, &self.text, self.span.at, self.span.len)
    }
}

impl std::error::Error for RuleError {}

/// An error that does not know yet which text it is in.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) span: Span,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into() }
    }

    /// In this text.
    pub(super) fn in_text(self, origin: &str, text: &str) -> RuleError {
        RuleError {
            origin: origin.to_owned(),
            text: text.to_owned(),
            span: self.span,
            message: self.message,
        }
    }

    /// The same with `by` more bytes in front of the text.
    pub(super) fn shifted(self, by: usize) -> Self {
        Self { span: self.span.shifted(by), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shown_with_origin_text_and_carets() {
        let e = Fault::new(Span::between(8, 11), "no such user").in_text("--rule", "comm=ü uid");
        assert_eq!(e.to_string(), "--rule: no such user\n  comm=ü uid\n         ^^^");
    }

    #[test]
    fn carries_no_control_characters() {
        let e = Fault::new(Span::default(), "unknown '\x1b[2J'").in_text("a\nb:1", "\x1b[2J");
        assert!(!e.to_string().contains('\x1b'));
        assert_eq!(e.to_string().lines().count(), 3);
    }
}
