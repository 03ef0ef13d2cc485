//! The command: thin wiring from the kernel half to the outputs.
//!
//! - [`cli`]: the command line, from which help, man pages and completions come
//! - [`run`], [`watch`], [`attach`], [`audit`], [`record`], [`report`], [`events`], [`doctor`]: one
//!   module a verb
//! - [`repeat`]: a command several times
//! - [`stream`]: a session's records on their way to the outputs
//! - [`stacks`]: samples on their way to the outputs
//! - [`select`]: events from the command line, what this machine has of them
//! - [`vendor`]: events by the names that the CPU's vendor gives them
//! - [`output`]: where they go
//! - [`control`]: commands from outside
//! - [`evlist`]: events, as commands from outside have them listed
//! - [`requests`]: what is asked of a session while it runs
//! - [`rules`]: rules from the command line, names resolved
//! - [`signals`]: how a person stops it

pub mod attach;
pub mod audit;
pub mod cli;
pub mod control;
pub mod doctor;
pub mod events;
pub mod evlist;
pub mod output;
pub mod record;
pub mod repeat;
pub mod report;
pub mod requests;
pub mod rules;
pub mod run;
mod say;
pub mod select;
pub mod signals;
pub mod stacks;
pub mod stream;
pub mod vendor;
pub mod watch;
