//! PMUs as sysfs describes them: `/sys/bus/event_source/devices/*`.
//!
//! One topic a file: `format`, where a term's bits go; `read`, the folder.

mod format;
mod read;

pub use format::Field;
pub use format::Format;
pub use read::Pmu;
pub use read::PmuEvent;
pub use read::Scope;
pub(crate) use read::of_block;
