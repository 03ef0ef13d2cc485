//! Lists and groups.

use prof_model::rules::Span;

use super::ast::Change;
use super::ast::EventList;
use super::ast::EventSpec;
use super::ast::GroupSpec;
use super::ast::Item;
use super::ast::ItemKind;
use super::cursor::Cursor;
use super::event;
use super::modifiers::Modifiers;
use crate::error::ErrorKind;
use crate::error::EventError;
use crate::error::Fault;

/// Longest list that is read, in bytes. An argument of a command is at most twice
/// this long.
pub const MAX_TEXT: usize = 64 << 10;

/// Takes a list apart. `origin` is where it is from, as in `-e`, for errors.
///
/// # Errors
///
/// If the text is not in the grammar; names are not looked up.
pub fn parse(origin: &str, text: &str) -> Result<EventList, EventError> {
    if text.len() > MAX_TEXT {
        let message = format!("a list of {} bytes; {MAX_TEXT} is the most", text.len());
        return Err(Fault::new(ErrorKind::Syntax, Span::default(), message).in_text(origin, ""));
    }
    list(text).map_err(|f| f.in_text(origin, text))
}

fn list(text: &str) -> Result<EventList, Fault> {
    let mut cursor = Cursor { text, at: 0 };
    let mut items = Vec::new();
    loop {
        cursor.skip_space();
        items.push(item(&mut cursor)?);
        cursor.skip_space();
        match cursor.peek() {
            None => return Ok(EventList { items }),
            Some(',') => cursor.eat(','),
            Some('}') => return Err(cursor.fault_here("no { was opened for this }")),
            Some(_) => return Err(cursor.fault_here("a comma is missing")),
        };
    }
}

fn item(cursor: &mut Cursor<'_>) -> Result<Item, Fault> {
    let at = cursor.at;
    let change = match cursor.peek() {
        Some('+') => Change::Add,
        Some('-') => Change::Remove,
        _ => Change::List,
    };
    if change != Change::List {
        cursor.take_while_one();
    }
    let name_at = cursor.at;
    let name = cursor.take_while(event::of_name);
    let kind = match cursor.peek() {
        Some('{') => ItemKind::Group(group(cursor, name_at, name)?),
        _ => {
            cursor.at = name_at;
            ItemKind::Event(event::event(cursor)?)
        }
    };
    Ok(Item { change, kind, span: cursor.span_from(at) })
}

/// From the brace on.
fn group(cursor: &mut Cursor<'_>, at: usize, name: &str) -> Result<GroupSpec, Fault> {
    let open = cursor.span_here();
    let never = || Fault::new(ErrorKind::Syntax, open, "this { is never closed");
    cursor.eat('{');
    let mut events: Vec<EventSpec> = Vec::new();
    loop {
        cursor.skip_space();
        match cursor.peek() {
            None => return Err(never()),
            Some('{') => {
                return Err(cursor.fault_here("a group cannot stand in a group"));
            }
            Some('}') if events.is_empty() => {
                cursor.eat('}');
                let span = cursor.span_from(open.at);
                return Err(Fault::new(ErrorKind::Syntax, span, "a group needs an event"));
            }
            Some(_) => events.push(event::event(cursor)?),
        }
        cursor.skip_space();
        match cursor.peek() {
            None => return Err(never()),
            Some('}') => break,
            Some(',') => cursor.eat(','),
            Some('{') => return Err(cursor.fault_here("a group cannot stand in a group")),
            Some(_) => return Err(cursor.fault_here("a comma or a } is missing")),
        };
    }
    cursor.eat('}');
    let mut modifiers = None;
    if cursor.eat(':') {
        let at = cursor.at;
        let word = cursor.take_while(event::of_name);
        if word.is_empty() {
            return Err(cursor.fault_here("modifiers are missing behind the colon"));
        }
        modifiers = Modifiers::check(word, at)?;
    }
    let name = (!name.is_empty()).then(|| name.to_owned());
    Ok(GroupSpec { name, events, modifiers, span: cursor.span_from(at) })
}

impl Cursor<'_> {
    /// Past one character.
    fn take_while_one(&mut self) {
        self.at += self.peek().map_or(0, char::len_utf8);
    }
}
