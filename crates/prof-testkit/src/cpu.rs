//! Using CPU time, or giving it up.

use std::arch::asm;
use std::hint::black_box;

use crate::args::Args;
use crate::error::Result;
use crate::report::{Facts, middle_mean};
use crate::sys;

/// Spins, mostly in user space, until `clock` has reached `target` nanoseconds; returns where it
/// stands then.
pub fn spin_until(clock: libc::clockid_t, target: u64) -> Result<u64> {
    loop {
        let now = sys::clock_ns(clock)?;
        if now >= target {
            return Ok(now);
        }
        // Reading a CPU clock is a system call: do it rarely, though often enough near the end.
        let rounds = if target - now > sys::NS_PER_MS { 100_000 } else { 2_000 };
        let mut value = now;
        for _ in 0..rounds {
            value = black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

/// `burn MS`
pub fn burn(mut args: Args) -> Result<()> {
    let ms = args.number("MS")?;
    args.finish()?;
    let reached = spin_until(libc::CLOCK_PROCESS_CPUTIME_ID, ms.saturating_mul(sys::NS_PER_MS))?;
    let mut facts = Facts::with_pid();
    facts.add("cpu_ns", reached);
    facts.add_rusage()?;
    facts.print()
}

/// Instructions in one round of `loop`.
const ROUND: u64 = 10;

/// `loop N`
///
/// What a PMU counts as `instructions` in user mode, less that of another `N` of as many digits,
/// is the difference of the two `loop_instructions`, to the instruction.
pub fn count_down(mut args: Args) -> Result<()> {
    let rounds = args.number("N")?;
    args.finish()?;
    if rounds > 0 {
        spin_rounds(rounds);
    }
    let mut facts = Facts::with_pid();
    facts.add("loop_instructions", rounds.saturating_mul(ROUND));
    facts.print()
}

/// `deep FRAMES N [--slices K]`
pub fn deep(mut args: Args) -> Result<()> {
    let slices = args.option_number("--slices")?.unwrap_or(1).max(1);
    let frames = args.number("FRAMES")?;
    let rounds = args.number("N")?;
    args.finish()?;
    let start = sys::clock_ns(libc::CLOCK_MONOTONIC)?;
    let mut took = Vec::new();
    let mut end = start;
    for _ in 0..slices {
        let begin = end;
        go_down(frames, rounds / slices);
        end = sys::clock_ns(libc::CLOCK_MONOTONIC)?;
        took.push(end.saturating_sub(begin));
    }
    let mut facts = Facts::with_pid();
    facts.add("elapsed_ns", end.saturating_sub(start));
    facts.add("middle_ns", middle_mean(took));
    facts.add_rusage()?;
    facts.print()
}

/// A frame for each call: what comes behind it keeps it from being a jump.
#[inline(never)]
fn go_down(frames: u64, rounds: u64) -> u64 {
    if frames == 0 {
        if rounds > 0 {
            spin_rounds(rounds);
        }
        return black_box(0);
    }
    black_box(go_down(black_box(frames - 1), rounds)) + 1
}

/// A round is eight instructions that do nothing, one that counts, and one that goes back while
/// some of `rounds`, which must not be 0, are left.
fn spin_rounds(rounds: u64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: touches nothing but the register that it is given.
    unsafe {
        asm!(
            "2: .rept 8; nop; .endr",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds => _,
            options(nomem, nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: touches nothing but the register that it is given.
    unsafe {
        asm!(
            "2: .rept 8; nop; .endr",
            "subs {rounds}, {rounds}, #1",
            "b.ne 2b",
            rounds = inout(reg) rounds => _,
            options(nomem, nostack),
        );
    }
}

/// `sleep MS`
pub fn sleep(mut args: Args) -> Result<()> {
    let ms = args.number("MS")?;
    args.finish()?;
    let start = sys::clock_ns(libc::CLOCK_MONOTONIC)?;
    sys::sleep_ns(ms.saturating_mul(sys::NS_PER_MS));
    let end = sys::clock_ns(libc::CLOCK_MONOTONIC)?;
    let mut facts = Facts::with_pid();
    facts.add("slept_ns", end.saturating_sub(start));
    facts.add_rusage()?;
    facts.print()
}

/// `now`
pub fn now(args: Args) -> Result<()> {
    let now = sys::clock_ns(libc::CLOCK_MONOTONIC)?;
    args.finish()?;
    let mut facts = Facts::with_pid();
    facts.add("monotonic_ns", now);
    facts.print()
}

/// `switches N`
pub fn switches(mut args: Args) -> Result<()> {
    let wanted = args.number("N")?;
    args.finish()?;
    let before = voluntary_switches()?;
    let mut done = 0;
    // A timer that fires early spares its sleeper the switch, hence the second look.
    while done < wanted {
        for _ in done..wanted {
            sys::sleep_ns(1);
        }
        done = voluntary_switches()?.saturating_sub(before);
    }
    let mut facts = Facts::with_pid();
    facts.add("nvcsw", done);
    facts.add_rusage()?;
    facts.print()
}

fn voluntary_switches() -> Result<u64> {
    sys::rusage_self().map(|usage| usage.ru_nvcsw.cast_unsigned())
}
