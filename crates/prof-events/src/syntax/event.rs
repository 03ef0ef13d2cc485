//! One event.

use prof_model::rules::Span;

use super::ast::Body;
use super::ast::EventSpec;
use super::ast::Term;
use super::cursor::Cursor;
use super::cursor::number;
use super::modifiers::Modifiers;
use super::term;
use crate::error::ErrorKind;
use crate::error::Fault;
use crate::tables;

/// Part of a name: of an event, a PMU, a system of tracepoints.
pub(super) fn of_name(c: char) -> bool {
    !c.is_whitespace() && !matches!(c, ',' | '{' | '}' | '/' | ':' | '=' | '\'' | '"')
}

/// Up to a comma, a brace, whitespace or the end.
pub(super) fn event(cursor: &mut Cursor<'_>) -> Result<EventSpec, Fault> {
    let at = cursor.at;
    let word = cursor.take_while(of_name);
    let span = cursor.span_from(at);
    if word.is_empty() {
        return Err(match cursor.peek() {
            None | Some(',') | Some('}') => cursor.fault_here("the name of an event is missing"),
            Some(_) => cursor.fault_here("no event starts like this"),
        });
    }
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        return numeric(cursor, at, word, span);
    }
    if word == "mem" && cursor.rest().starts_with(":") {
        let after = cursor.rest().trim_start_matches(':');
        if after.starts_with(|c: char| c.is_ascii_digit()) {
            return breakpoint(cursor, at);
        }
    }
    let mut body = body(word, span)?;
    let mut modifiers = None;
    if cursor.peek() == Some(':') {
        let colon = cursor.at;
        cursor.eat(':');
        let name_at = cursor.at;
        let name = cursor.take_while(of_name);
        let known = matches!(body, Body::Raw(_)) || tables::is_known(word);
        if known || Modifiers::all_letters(name) {
            modifiers = Modifiers::check(name, name_at)?;
            return finish(cursor, at, body, Span { at, len: colon - at }, None, modifiers);
        }
        body = Body::Tracepoint { system: word.to_owned(), name: name.to_owned() };
    }
    let body_span = cursor.span_from(at);
    let terms = slashes(cursor)?;
    if terms.is_some() || matches!(body, Body::Tracepoint { .. }) {
        modifiers = behind(cursor, terms.is_some())?;
    }
    finish(cursor, at, body, body_span, terms, modifiers)
}

fn finish(
    cursor: &mut Cursor<'_>,
    at: usize,
    body: Body,
    body_span: Span,
    terms: Option<Vec<Term>>,
    modifiers: Option<Modifiers>,
) -> Result<EventSpec, Fault> {
    match cursor.peek() {
        Some(':') => Err(cursor.fault_here("modifiers stand together behind one colon")),
        Some('/') => Err(cursor.fault_here("terms stand before modifiers: name/terms/modifiers")),
        Some('=') => Err(cursor.fault_here("terms stand between slashes: pmu/name=value/")),
        Some('\'' | '"') => Err(cursor.fault_here("quotes stand in a term only: name='…'")),
        _ => Ok(EventSpec { body, body_span, terms, modifiers, span: cursor.span_from(at) }),
    }
}

/// A name, or a raw event. `read` is the only word of perf's that looks like one
/// and is none.
fn body(word: &str, span: Span) -> Result<Body, Fault> {
    let hex = word.strip_prefix('r').filter(|_| word != "read");
    let hex = hex.map(|h| h.strip_prefix("0x").unwrap_or(h));
    match hex {
        Some(h) if !h.is_empty() && h.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u64::from_str_radix(h, 16).map(Body::Raw).map_err(|_| {
                Fault::new(ErrorKind::Value, span, format!("'{word}' has more than 64 bits"))
            })
        }
        _ => Ok(Body::Name(word.to_owned())),
    }
}

/// `/terms/`, if it is there.
fn slashes(cursor: &mut Cursor<'_>) -> Result<Option<Vec<Term>>, Fault> {
    let open = cursor.span_here();
    if !cursor.eat('/') {
        return Ok(None);
    }
    let terms = term::terms(cursor)?;
    match cursor.peek() {
        Some('/') => cursor.eat('/'),
        None | Some('{' | '}') => {
            return Err(Fault::new(ErrorKind::Syntax, open, "this / is never closed"));
        }
        Some(_) => return Err(cursor.fault_here("a comma or a / is missing")),
    };
    Ok(Some(terms))
}

/// Modifiers behind `:`, or behind nothing where that cannot be a name.
fn behind(cursor: &mut Cursor<'_>, bare: bool) -> Result<Option<Modifiers>, Fault> {
    let follows = bare && cursor.peek().is_some_and(of_name);
    if !cursor.eat(':') && !follows {
        return Ok(None);
    }
    let at = cursor.at;
    let word = cursor.take_while(of_name);
    Modifiers::check(word, at)
}

/// `type:config`.
fn numeric(cursor: &mut Cursor<'_>, at: usize, word: &str, span: Span) -> Result<EventSpec, Fault> {
    let type_ = number(word, span)?;
    let type_ = u32::try_from(type_)
        .map_err(|_| Fault::new(ErrorKind::Value, span, "a type has 32 bits"))?;
    if !cursor.eat(':') {
        let message = "a number alone is no event: type:config, or rCONFIG for a raw event";
        return Err(Fault::new(ErrorKind::Syntax, span, message));
    }
    let config = digits(cursor)?;
    let body_span = cursor.span_from(at);
    let terms = slashes(cursor)?;
    let modifiers = behind(cursor, true)?;
    finish(cursor, at, Body::Numeric { type_, config }, body_span, terms, modifiers)
}

/// A number, as far as its digits go.
fn digits(cursor: &mut Cursor<'_>) -> Result<u64, Fault> {
    let at = cursor.at;
    let hex = cursor.rest().starts_with("0x");
    if hex {
        cursor.at += 2;
    }
    cursor.take_while(|c| if hex { c.is_ascii_hexdigit() } else { c.is_ascii_digit() });
    let span = cursor.span_from(at);
    if span.len == 0 {
        return Err(cursor.fault_here("a number is missing"));
    }
    number(&cursor.text[at..cursor.at], span)
}

/// From the colon behind `mem` on.
fn breakpoint(cursor: &mut Cursor<'_>, at: usize) -> Result<EventSpec, Fault> {
    cursor.eat(':');
    let address = digits(cursor)?;
    let len = match cursor.eat('/') {
        true => Some(digits(cursor)?),
        false => None,
    };
    let mut access = None;
    let here = cursor.at;
    if cursor.eat(':') {
        let word = cursor.take_while(|c| matches!(c, 'r' | 'w' | 'x'));
        let span = cursor.span_from(here + 1);
        let mut bits = 0;
        for c in word.chars() {
            let bit = match c {
                'r' => 1,
                'w' => 2,
                _ => 4,
            };
            if bits & bit != 0 {
                return Err(Fault::new(ErrorKind::Modifier, span, format!("'{c}' twice")));
            }
            bits |= bit;
        }
        access = (bits != 0).then_some(bits);
        if access.is_none() {
            cursor.at = here;
        }
    }
    let body_span = cursor.span_from(at);
    let modifiers = behind(cursor, true)?;
    finish(cursor, at, Body::Breakpoint { address, len, access }, body_span, None, modifiers)
}
