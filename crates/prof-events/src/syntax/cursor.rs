//! A place in the text.

use prof_model::rules::Span;

use crate::error::ErrorKind;
use crate::error::Fault;

/// From `at` to just before `end`.
pub(super) fn between(at: usize, end: usize) -> Span {
    Span { at, len: end.saturating_sub(at) }
}

#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    /// Goes on while `f` holds; what was passed.
    pub(super) fn take_while(&mut self, f: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !f(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    pub(super) fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    pub(super) fn span_from(&self, at: usize) -> Span {
        between(at, self.at)
    }

    /// The character here, or an empty place at the end.
    pub(super) fn span_here(&self) -> Span {
        Span { at: self.at, len: self.peek().map_or(0, char::len_utf8) }
    }

    pub(super) fn fault_here(&self, message: impl Into<String>) -> Fault {
        Fault::new(ErrorKind::Syntax, self.span_here(), message)
    }
}

/// Decimal, or hexadecimal behind `0x`.
pub(super) fn number(text: &str, span: Span) -> Result<u64, Fault> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    // from_str_radix would take a sign.
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(Fault::new(ErrorKind::Syntax, span, format!("'{text}' is no number")));
    }
    u64::from_str_radix(digits, radix)
        .map_err(|_| Fault::new(ErrorKind::Value, span, format!("'{text}' has more than 64 bits")))
}
