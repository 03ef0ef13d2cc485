//! The probes of `prof-api` and `include/prof.h`, found in programs that were built
//! with them, and attached to while they run.
//!
//! The latter needs root and tracefs. Without, it says so and is skipped; with
//! `PROF_LIVE=require` (CI) that is a failure.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod find;
mod hostile;
mod live;
mod programs;
