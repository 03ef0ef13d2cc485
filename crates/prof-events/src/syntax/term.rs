//! What stands between slashes.

use prof_model::rules::Span;

use super::ast::Term;
use super::ast::TermValue;
use super::cursor::Cursor;
use super::cursor::number;
use crate::error::ErrorKind;
use crate::error::Fault;

/// More than any event has; a file of the kernel's or a list with more is not
/// meant to be read.
const MAX_TERMS: usize = 128;

/// Ends a name or a value.
fn ends_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, ',' | '/' | '=' | '{' | '}' | '\'' | '"')
}

/// Terms with commas between, up to what is none: a slash or the end. Without any
/// the list is empty.
pub(super) fn terms(cursor: &mut Cursor<'_>) -> Result<Vec<Term>, Fault> {
    let mut terms = Vec::new();
    cursor.skip_space();
    if matches!(cursor.peek(), None | Some('/')) {
        return Ok(terms);
    }
    loop {
        cursor.skip_space();
        if terms.len() == MAX_TERMS {
            return Err(cursor.fault_here("too many terms"));
        }
        terms.push(term(cursor)?);
        cursor.skip_space();
        if !cursor.eat(',') {
            return Ok(terms);
        }
    }
}

fn term(cursor: &mut Cursor<'_>) -> Result<Term, Fault> {
    let at = cursor.at;
    let name = cursor.take_while(|c| !ends_word(c)).to_owned();
    let name_span = cursor.span_from(at);
    if name.is_empty() {
        return Err(cursor.fault_here("a term is missing: name, or name=value"));
    }
    let none = Span { at: cursor.at, len: 0 };
    if !cursor.eat('=') {
        return Ok(Term { name, name_span, value: None, value_span: none });
    }
    let at = cursor.at;
    let value = match cursor.peek() {
        Some(quote @ ('\'' | '"')) => {
            cursor.eat(quote);
            let text = cursor.take_while(|c| c != quote).to_owned();
            if !cursor.eat(quote) {
                let span = cursor.span_from(at);
                return Err(Fault::new(ErrorKind::Syntax, span, "these quotes are never closed"));
            }
            TermValue::Quoted(text)
        }
        _ => {
            let word = cursor.take_while(|c| !ends_word(c));
            let span = cursor.span_from(at);
            if word.is_empty() {
                return Err(cursor.fault_here(format!("'{name}=' needs a value")));
            }
            let digits = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"));
            let radix = if digits.is_some() { 16 } else { 10 };
            let digits = digits.unwrap_or(word);
            match !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)) {
                true => TermValue::Number(number(word, span)?),
                false => TermValue::Word(word.to_owned()),
            }
        }
    };
    Ok(Term { name, name_span, value: Some(value), value_span: cursor.span_from(at) })
}

/// The terms that a file of the kernel's, or a vendor's table, holds.
pub(crate) fn terms_of_file(text: &str) -> Result<Vec<Term>, Fault> {
    let mut cursor = Cursor { text: text.trim_end(), at: 0 };
    let terms = terms(&mut cursor)?;
    match cursor.peek() {
        None => Ok(terms),
        Some(_) => Err(cursor.fault_here("a comma is missing")),
    }
}
