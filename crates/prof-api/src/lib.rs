//! A program switches its own profiling by `prof`, and names regions of its work.
//!
//! ```
//! {
//!     let _whole = prof_api::region("request");
//!     {
//!         let _part = prof_api::region("parse");
//!         // … is counted to both
//!     }
//!     prof_api::disable();
//!     // … is not counted at all
//!     prof_api::enable();
//! }
//! ```
//!
//! While no `prof` is there, each call is one load and one branch. Nothing is
//! linked, started, opened or allocated; the program needs no rights, and does not
//! learn whether it was heard.
//!
//! The mechanism is that of USDT: four places in the program, described in its ELF
//! notes, which the kernel can make known to `prof` when they are reached. It is on
//! Linux for x86-64 and aarch64; elsewhere everything here compiles to nothing.

#![no_std]

use core::fmt;
use core::marker::PhantomData;

#[cfg_attr(
    all(
        any(target_os = "linux", target_os = "android"),
        any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little")),
        target_pointer_width = "64",
        not(miri)
    ),
    path = "probes.rs"
)]
#[cfg_attr(
    not(all(
        any(target_os = "linux", target_os = "android"),
        any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little")),
        target_pointer_width = "64",
        not(miri)
    )),
    path = "nothing.rs"
)]
mod probes;

/// Asks for the profiling of this process to go on from here.
///
/// Has no effect where it is on, and none where no rule of `prof` names the process.
#[inline(always)]
pub fn enable() {
    if probes::ENABLE.is_watched() {
        probes::enable();
    }
}

/// Asks for the profiling of this process to stop here, for all of its threads.
#[inline(always)]
pub fn disable() {
    if probes::DISABLE.is_watched() {
        probes::disable();
    }
}

/// Begins a region of this thread's work, which ends when the guard is dropped.
///
/// Regions nest: what is used in an inner one is used in the outer one, too. The
/// name is read when the region begins and not kept.
#[inline(always)]
pub fn region(name: &str) -> Guard {
    let begun = probes::REGION_BEGIN.is_watched();
    if begun {
        probes::region_begin(name);
    }
    Guard { begun, thread: PhantomData }
}

/// Begins a region that [`region_end`] ends, where a [`Guard`] does not fit.
#[inline(always)]
pub fn region_begin(name: &str) {
    if probes::REGION_BEGIN.is_watched() {
        probes::region_begin(name);
    }
}

/// Ends the region of this thread that began last.
#[inline(always)]
pub fn region_end() {
    if probes::REGION_END.is_watched() {
        probes::region_end();
    }
}

/// Whether someone is there to hear any of the calls above: `prof`, or another
/// program that looks at the same places.
///
/// Says nothing of whether profiling of this process is on.
#[inline(always)]
pub fn is_watched() -> bool {
    probes::ENABLE.is_watched()
        || probes::DISABLE.is_watched()
        || probes::REGION_BEGIN.is_watched()
        || probes::REGION_END.is_watched()
}

/// A region that ends when this is dropped.
///
/// A region belongs to the thread that began it, so this cannot be sent to another.
/// One that nobody heard begin is not heard to end, though someone may have come
/// in the meantime.
#[must_use = "the region ends when this is dropped, which is now"]
pub struct Guard {
    begun: bool,
    thread: PhantomData<*const ()>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("begun", &self.begun).finish()
    }
}

impl Drop for Guard {
    #[inline(always)]
    fn drop(&mut self) {
        if self.begun {
            region_end();
        }
    }
}
