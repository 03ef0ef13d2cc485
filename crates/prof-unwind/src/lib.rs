//! Unwind tables for a kernel half that walks user stacks itself.
//!
//! - [`error`]: what can go wrong
//! - [`libraries`]: all that will be loaded for a program, before it runs
//! - [`needed`]: what an ELF file needs to be loaded
//! - [`rule`]: one step from a frame to its caller's, and the set of all such rules
//! - [`table`]: the rows of a file, by file offset
//! - [`unwind`]: stacks by the tables, in user space
//! - [`vdso`]: the image of the vDSO

mod cfi;
mod elf;
pub mod error;
mod expression;
mod frame;
mod ldcache;
pub mod libraries;
pub mod needed;
mod pages;
pub mod rule;
mod sigreturn;
pub mod table;
pub mod unwind;
pub mod vdso;

pub use elf::Arch;
pub use elf::Code;
pub use error::Error;
pub use libraries::Environment;
pub use libraries::closure;
pub use needed::Needed;
pub use rule::Cfa;
pub use rule::Reg;
pub use rule::Rule;
pub use rule::RuleSet;
pub use table::Limits;
pub use table::Refused;
pub use table::Row;
pub use table::Table;
pub use vdso::own_vdso;
