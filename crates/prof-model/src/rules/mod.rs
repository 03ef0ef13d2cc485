//! The one rule grammar, and the tables that the kernel half matches by.
//!
//! A *term* is `key=value,value`, `key!=value,value`, or one of the words
//! `container`, `not-container` and `follow`. Commas OR, terms AND. A *rule* is
//! terms with whitespace between, perhaps with a name in front, and `freq=HZ` among
//! them:
//!
//! ```text
//! nightly: exe=/opt/build/* uid=builder comm!=sh,bash follow   # children too
//! ```
//!
//! | key | value |
//! |---|---|
//! | `comm` | name of the main thread, at most 15 bytes |
//! | `exe` (`exec`, `executable`, `bin`, `binary`) | absolute path of the program |
//! | `uid`, `gid` | number or name |
//! | `pid`, `tree` | a process; a process and all that descends from it |
//! | `cgroup` | path, or `id:NUMBER`; cgroups below it are in it |
//! | `mntns`, `pidns` | inode number of the namespace |
//!
//! `comm` and `exe` take a `*` at one end. In double quotes a value may hold
//! commas and spaces; there `\"`, `\\`, `\*` and `\xHH` stand for themselves,
//! and `*` alone keeps its meaning. A `#` in front of a word makes the rest of
//! the line a comment.
//!
//! One topic a file:
//! - `rule`: a rule, taken apart; `parse`: how; `error`: what is wrong, and where
//! - `set`: the rules of a session
//! - `resolve`: names become numbers; which rules name a given process
//! - `narrow`: several terms of a rule on one key, made one
//! - `compile`: the tables

mod compile;
mod error;
mod narrow;
mod parse;
mod pattern;
mod resolve;
mod rule;
mod set;
#[cfg(test)]
mod simulation;

pub use compile::Dim;
pub use compile::Match;
pub use compile::NR_DIMS;
pub use compile::Tables;
pub use compile::compile;
pub use error::RuleError;
pub use error::Span;
pub use parse::MAX_FREQ;
pub use pattern::MAX_COMM;
pub use pattern::MAX_PATTERN;
pub use pattern::Pattern;
pub use resolve::CgroupRef;
pub use resolve::Matcher;
pub use resolve::Resolver;
pub use resolve::Subject;
pub use rule::Key;
pub use rule::Rule;
pub use rule::Term;
pub use rule::Value;
pub use set::MAX_RULES;
pub use set::RuleSet;
pub use set::SCOPE;
