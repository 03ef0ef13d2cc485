//! What is being profiled now, as `prof audit --list` shows it: `table` for people,
//! `json` for programs.

pub mod json;
pub mod table;
