//! What prof knows, apart from where it comes from and how it is shown.
//!
//! - [`audit`]: who profiles whom
//! - [`figures`]: the event table and the figures of a process
//! - [`record`]: the records of the stream, in the order in which they flow
//! - [`rules`]: the one rule grammar, and the tables that the kernel matches by
//! - [`repeat`]: a command that was run several times, and its spread
//! - [`stacks`]: samples with their stacks
//! - [`stats`]: mean, deviation, outliers
//! - [`tree`]: processes of a run, as a tree and in groups
//! - [`text`]: bytes from a hostile target, made fit for JSON and for a terminal
//!
//! Nothing here does I/O or asks the kernel; everything can be tested anywhere.

pub mod audit;
pub mod counters;
pub mod figures;
pub mod record;
pub mod repeat;
pub mod rules;
pub mod stacks;
pub mod stats;
pub mod text;
pub mod tree;
