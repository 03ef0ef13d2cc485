//! What the calls cost while nobody is there:
//! `cargo run --release -p prof-api --example cost`
//!
//! Each round of a loop has an empty `asm!`, so that no loop is optimised away. The
//! figures are what a round takes more than a round without a call, in the best of
//! many turns: what disturbs a turn only ever adds.

use std::arch::asm;
use std::time::Instant;

const ROUNDS: u32 = 1_000_000;
const TURNS: u32 = 200;

/// What is called, and the time that a round of it takes.
type Way = (&'static str, fn() -> f64);

fn main() {
    if prof_api::is_watched() {
        println!("somebody is attached: these are not the figures of an unwatched program");
    }
    let ways: [Way; 4] = [
        ("empty loop", || ns_per_round(|| ())),
        ("enable + disable", || {
            ns_per_round(|| {
                prof_api::enable();
                prof_api::disable();
            })
        }),
        ("region", || ns_per_round(|| drop(prof_api::region("cost")))),
        ("region_begin + region_end", || {
            ns_per_round(|| {
                prof_api::region_begin("cost");
                prof_api::region_end();
            })
        }),
    ];
    let mut best = ways.map(|_| f64::INFINITY);
    // In turns, so that a change of the clock's frequency meets all alike.
    for _ in 0..TURNS {
        for (best, (_, way)) in best.iter_mut().zip(&ways) {
            *best = best.min(way());
        }
    }
    println!("{:<26} {:>6} {:>12}", "", "ns", "above empty");
    for (best_of_way, (name, _)) in best.iter().zip(&ways) {
        println!("{name:<26} {best_of_way:>6.2} {:>12.2}", best_of_way - best[0]);
    }
}

#[inline(always)]
fn ns_per_round(mut act: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        // SAFETY: no instruction; only the compiler takes it for one.
        unsafe { asm!("", options(nostack, preserves_flags)) };
        act();
    }
    start.elapsed().as_nanos() as f64 / f64::from(ROUNDS)
}
