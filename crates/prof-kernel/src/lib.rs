//! The only part of prof that talks to the kernel.
//!
//! - [`abi`]: layout of what crosses from the kernel half, and its decoder
//! - [`audit`]: who profiles whom
//! - [`audit_list`]: what is being profiled now, by whom
//! - [`loader`], [`prepared`]: from the built object to loaded programs
//! - [`sampler`]: stacks, taken and unwound in the kernel
//! - [`session`]: a loaded, attached kernel half; its records, counters, ends
//! - [`clock`]: reading the scheduler's clock exactly; one clock for all records
//! - [`collect`]: from raw records to the records of the stream
//! - [`host`]: what /proc, /sys and the cgroup file system say
//! - [`kprobes`]: probes on functions of the kernel
//! - [`kallsyms`]: where the kernel, its modules and BPF programs are
//! - [`limits`]: how many files may be open
//! - [`spawn`]: starting a command that waits until everything is ready
//! - [`regions`]: probes in programs attached to, and the figures of their regions
//! - [`perf`]: counting a command without privileges
//! - [`probe`]: what of this machine can be used, found out by trying
//! - [`sys`]: the system calls
//! - [`usdt`]: the places where a program asks for its own profiling

pub mod abi;
pub mod audit;
pub mod audit_list;
pub mod clock;
pub mod collect;
pub mod counters;
pub mod host;
pub mod kallsyms;
pub mod kprobes;
pub mod limits;
pub mod loader;
pub mod perf;
pub mod prepared;
pub mod probe;
pub mod regions;
pub mod sampler;
pub mod session;
pub mod spawn;
pub mod sys;
pub mod usdt;
