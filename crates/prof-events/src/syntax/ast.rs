//! A list, taken apart. Spans are places in its text, in bytes.

use prof_model::rules::Span;

use super::modifiers::Modifiers;

/// What `-e` was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventList {
    /// In the order of the text; never empty.
    pub items: Vec<Item>,
}

/// What an item does to what stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// `x`: is listed.
    List,
    /// `+x`: is added. A list that begins with a change starts from the default.
    Add,
    /// `-x`: is left out.
    Remove,
}

/// Between two commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it does.
    pub change: Change,
    /// With what.
    pub kind: ItemKind,
    /// All of it, the sign included.
    pub span: Span,
}

/// An event or several that are counted together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ItemKind {
    Event(EventSpec),
    Group(GroupSpec),
}

/// `name{a,b}:modifiers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpec {
    /// In front of the brace.
    pub name: Option<String>,
    /// Never empty.
    pub events: Vec<EventSpec>,
    /// Of all of them.
    pub modifiers: Option<Modifiers>,
    /// All of it.
    pub span: Span,
}

/// One event, or as many as its wildcards name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSpec {
    /// Which.
    pub body: Body,
    /// Where the body is.
    pub body_span: Span,
    /// Between slashes; empty and absent differ: `msr//` is an event, `msr` none.
    pub terms: Option<Vec<Term>>,
    /// Behind.
    pub modifiers: Option<Modifiers>,
    /// All of it.
    pub span: Span,
}

/// What an event is named by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Of an event, a figure, a metric or, with terms behind, perhaps of a PMU.
    Name(String),
    /// `r1c2`: in the CPU's own numbers.
    Raw(u64),
    /// `1:2`: type and config.
    Numeric {
        /// `perf_event_attr.type`.
        type_: u32,
        /// `perf_event_attr.config`.
        config: u64,
    },
    /// `mem:0x1000/8:rw`.
    Breakpoint {
        /// Where.
        address: u64,
        /// How many bytes; `None` for the default.
        len: Option<u64>,
        /// 1 read, 2 write, 4 execute; `None` for the default.
        access: Option<u32>,
    },
    /// `sched:sched_wakeup`; either may have wildcards.
    Tracepoint {
        /// Folder of the tracing file system.
        system: String,
        /// Folder in that.
        name: String,
    },
}

/// `name=value` between slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Of a format, an event or a word of perf's.
    pub name: String,
    /// Where that is.
    pub name_span: Span,
    /// Behind `=`.
    pub value: Option<TermValue>,
    /// Where that is.
    pub value_span: Span,
}

/// What stands behind `=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TermValue {
    /// Decimal or `0x…`.
    Number(u64),
    /// Anything else.
    Word(String),
    /// In quotes, which are not part of it.
    Quoted(String),
}

impl Term {
    /// All of it.
    pub fn span(&self) -> Span {
        let end =
            (self.value_span.at + self.value_span.len).max(self.name_span.at + self.name_span.len);
        Span { at: self.name_span.at, len: end - self.name_span.at }
    }
}
