//! Events that every kernel knows by number, and metrics over them.
//!
//! One topic a file: `generic`, hardware and software; `cache`; `metrics`.

pub mod cache;
pub mod generic;
pub mod metrics;

use prof_model::figures;
use prof_model::figures::EventInfo;

/// Names that stand for all figures.
pub const DEFAULT: [&str; 2] = ["default", "all"];

/// The figure of that name or alias.
pub fn figure(name: &str) -> Option<&'static EventInfo> {
    figures::EVENTS.iter().find(|e| e.name == name || e.aliases.contains(&name))
}

/// Whether the name is one of ours rather than the host's, so that what stands
/// behind a colon are modifiers and not a tracepoint.
pub(crate) fn is_known(name: &str) -> bool {
    DEFAULT.contains(&name)
        || figure(name).is_some()
        || generic::find(name).is_some()
        || metrics::find(name).is_some()
        || cache::config(name).is_some()
}
