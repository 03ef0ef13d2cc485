//! Vendor events by name: what the counters of Intel, AMD and Arm CPUs can count.
//!
//! The tables are made by `cargo xtask pmu-events` from the kernel's
//! `tools/perf/pmu-events` and committed, compressed, in `tables`; the README says
//! where they are from. Nothing is decoded before it is asked for: [`Table::for_cpu`]
//! decodes what is needed to find an event by name, for one CPU model; descriptions
//! are decoded when the first is asked for.
//!
//! ```
//! use prof_pmu_events::CpuId;
//! use prof_pmu_events::Table;
//!
//! let cpu: CpuId = "GenuineIntel-6-8F-8".parse().unwrap();
//! let table = Table::for_cpu(&cpu)?.unwrap();
//! let event = table.find("L1D.REPLACEMENT").next().unwrap();
//! assert_eq!(event.terms, "event=0x51,period=100003,umask=1");
//! assert!(table.description(&event)?.unwrap().contains("L1 data cache"));
//! # Ok::<(), prof_pmu_events::Error>(())
//! ```
//!
//! - [`archive`]: the committed files, and how they are laid out
//! - [`cpu`]: which CPU this is
//! - [`error`]: what can go wrong
//! - [`event`]: an event, and the PMUs that have it
//! - [`table`]: the events of a CPU model

pub mod archive;
pub mod cpu;
pub mod error;
pub mod event;
pub mod table;

pub use archive::Arch;
pub use archive::Model;
pub use cpu::CpuId;
pub use error::Error;
pub use event::Event;
pub use event::Precise;
pub use table::Table;
