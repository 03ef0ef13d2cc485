//! A list as text again. Reading that gives the same list.

use std::fmt;
use std::fmt::Display;
use std::fmt::Formatter;

use super::ast::Body;
use super::ast::Change;
use super::ast::EventList;
use super::ast::EventSpec;
use super::ast::GroupSpec;
use super::ast::Item;
use super::ast::ItemKind;
use super::ast::Term;
use super::ast::TermValue;

fn joined<T: Display>(f: &mut Formatter<'_>, all: &[T]) -> fmt::Result {
    for (i, one) in all.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(f, "{comma}{one}")?;
    }
    Ok(())
}

impl Display for EventList {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        joined(f, &self.items)
    }
}

impl Display for Item {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self.change {
            Change::List => "",
            Change::Add => "+",
            Change::Remove => "-",
        })?;
        match &self.kind {
            ItemKind::Event(e) => e.fmt(f),
            ItemKind::Group(g) => g.fmt(f),
        }
    }
}

impl Display for GroupSpec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_deref().unwrap_or_default())?;
        f.write_str("{")?;
        joined(f, &self.events)?;
        f.write_str("}")?;
        self.modifiers.as_ref().map_or(Ok(()), |m| write!(f, ":{m}"))
    }
}

impl Display for EventSpec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.body.fmt(f)?;
        if let Some(terms) = &self.terms {
            f.write_str("/")?;
            joined(f, terms)?;
            f.write_str("/")?;
        }
        self.modifiers.as_ref().map_or(Ok(()), |m| write!(f, ":{m}"))
    }
}

impl Display for Body {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Body::Name(name) => f.write_str(name),
            Body::Raw(config) => write!(f, "r{config:x}"),
            Body::Numeric { type_, config } => write!(f, "{type_}:{config:#x}"),
            Body::Breakpoint { address, len, access } => {
                write!(f, "mem:{address:#x}")?;
                if let Some(len) = len {
                    write!(f, "/{len}")?;
                }
                if let Some(access) = access {
                    f.write_str(":")?;
                    for (bit, c) in [(1, "r"), (2, "w"), (4, "x")] {
                        f.write_str(if access & bit != 0 { c } else { "" })?;
                    }
                }
                Ok(())
            }
            Body::Tracepoint { system, name } => write!(f, "{system}:{name}"),
        }
    }
}

impl Display for Term {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.value {
            None => Ok(()),
            Some(TermValue::Number(n)) => write!(f, "={n:#x}"),
            Some(TermValue::Word(w)) => write!(f, "={w}"),
            Some(TermValue::Quoted(q)) if q.contains('\'') => write!(f, "=\"{q}\""),
            Some(TermValue::Quoted(q)) => write!(f, "='{q}'"),
        }
    }
}
