//! The language of `-e`, taken apart.
//!
//! ```text
//! list      = item *( "," item )
//! item      = [ "+" | "-" ] ( event | group )
//! group     = [ name ] "{" event *( "," event ) "}" [ ":" modifiers ]
//! event     = name [ "/" terms "/" ] [ [ ":" ] modifiers ]        cycles:u  cpu/event=0x3c/u
//!           | system ":" name [ "/" terms "/" ] [ ":" modifiers ] sched:sched_wakeup
//!           | "r" hex [ "/" terms "/" ] [ ":" modifiers ]         r01c2
//!           | number ":" number [ [ ":" ] modifiers ]             1:0x2 (type:config)
//!           | "mem:" number [ "/" number ] [ ":" access ] [ [ ":" ] modifiers ]
//! terms     = term *( "," term )
//! term      = name [ "=" value ] | "r" hex
//! ```
//!
//! A value in quotes, single or double, may hold anything but those quotes. Names
//! take `*` and `?`. It is perf's language with three things of prof's own: `+`
//! and `-` in front of an item, and the term `filter='…'` of a tracepoint.
//!
//! One topic a file: `ast`, what there is; `print`, as text again; `parse`, lists
//! and groups; `event`, an event; `term`, what stands between slashes;
//! `modifiers`; `cursor`, a place in the text.

mod ast;
mod cursor;
mod event;
mod modifiers;
mod parse;
mod print;
mod term;
#[cfg(test)]
mod tests;

pub use ast::Body;
pub use ast::Change;
pub use ast::EventList;
pub use ast::EventSpec;
pub use ast::GroupSpec;
pub use ast::Item;
pub use ast::ItemKind;
pub use ast::Term;
pub use ast::TermValue;
pub use modifiers::Modifiers;
pub use parse::MAX_TEXT;
pub use parse::parse;
pub(crate) use term::terms_of_file;
