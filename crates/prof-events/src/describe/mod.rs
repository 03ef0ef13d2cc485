//! From what somebody opened to what people call it: the other direction of
//! [`resolve`](crate::resolve).
//!
//! One topic a file: `names`, from numbers to a name that `-e` takes; `probes`,
//! those of kprobes and uprobes; `samples`, what samples hold.

mod names;
mod probes;
mod samples;

pub use names::Names;
pub use samples::sampled;
