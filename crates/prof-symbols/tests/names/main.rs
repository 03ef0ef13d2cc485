//! Names beside those of binutils and of the kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod debugged;
mod held;
mod kernel;
mod links;
mod stripped;
mod stubs;
mod support;
