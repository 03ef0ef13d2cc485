//! Which events there are on a machine, and what perf's event syntax means
//! there.
//!
//! - [`syntax`]: what `-e` takes, taken apart, with places in the text
//! - [`catalogue`]: everything that can be counted on a host
//! - [`resolve`]: both together give a [`Selection`]: what to open, how
//! - [`error`]: what is wrong with a list, where, and what was perhaps meant
//! - [`describe`]: the other direction: what an event that somebody opened is called
//! - [`attr`]: the part of `perf_event_attr` that a list decides, and modifiers
//! - [`pmu`], [`tracefs`]: what the kernel says of itself
//! - [`tables`]: events that every kernel knows by number
//! - [`vendor`]: how a table of a vendor's events joins in
//!
//! Nothing here opens an event. A host is read through [`Host`], so that a test
//! can have any machine:
//!
//! ```no_run
//! use prof_events::Catalogue;
//! use prof_events::Host;
//! use prof_events::Request;
//!
//! let catalogue = Catalogue::new(Host::here());
//! let mut request = Request::default();
//! request.add("-e", "{cycles,instructions}:u,sched:sched_wakeup,ipc")?;
//! request.filter("--filter", "prio < 100")?;
//! let selection = request.resolve(&catalogue)?;
//! # Ok::<(), prof_events::EventError>(())
//! ```

pub mod attr;
pub mod catalogue;
pub mod cpus;
pub mod describe;
pub mod error;
mod glob;
mod host;
pub mod pmu;
pub mod resolve;
pub mod selection;
pub mod syntax;
pub mod tables;
pub mod tracefs;
pub mod vendor;

pub use attr::Attr;
pub use catalogue::Catalogue;
pub use cpus::CpuSet;
pub use error::ErrorKind;
pub use error::EventError;
pub use host::Host;
pub use prof_model::rules::Span;
pub use resolve::Request;
pub use selection::Event;
pub use selection::Group;
pub use selection::Metric;
pub use selection::Selection;
pub use selection::Source;
pub use vendor::VendorEvent;
pub use vendor::VendorEvents;
