//! Unwind tables for a kernel half that walks user stacks itself.
//!
//! A table is made of an ELF file's `.eh_frame` and is looked up by file offset; its rows
//! have the numbers of rules, which all files share. The README says what rows and rules
//! can hold.
//!
//! ```
//! use std::fs::File;
//!
//! use prof_unwind::Limits;
//! use prof_unwind::RuleSet;
//! use prof_unwind::Table;
//!
//! let mut rules = RuleSet::new();
//! let table = Table::from_file(&File::open("/proc/self/exe")?, &mut rules, &Limits::default())?;
//! let first = table.code[0].offset;
//! println!("{:?}", rules.get(table.rule_at(first)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`error`]: what can go wrong
//! - [`exports`]: symbols that a file exports
//! - [`libraries`]: all that will be loaded for a program, before it runs
//! - [`needed`]: what an ELF file needs to be loaded
//! - [`rule`]: one step from a frame to its caller's, and the set of all such rules
//! - [`table`]: the rows of a file, by file offset
//! - [`unwind`]: stacks by the tables, in user space
//! - [`vdso`]: the image of the vDSO

mod arm64_vdso;
mod cfi;
mod elf;
pub mod error;
pub mod exports;
mod expression;
mod frame;
mod go;
mod holes;
mod ldcache;
pub mod libraries;
pub mod needed;
mod pages;
mod plain;
pub mod rule;
pub mod table;
pub mod unwind;
mod v8;
pub mod vdso;

pub use elf::Arch;
pub use elf::Code;
pub use error::Error;
pub use exports::Exports;
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
pub use table::build_id;
pub use vdso::own_vdso;
