//! Switching one's own profiling, and naming regions of one's work.

use crate::args::Args;
use crate::cpu;
use crate::error::Result;
use crate::report::Facts;
use crate::sys;

/// `regions N MS`
pub fn regions(mut args: Args) -> Result<()> {
    let count = args.number("N")?;
    let ms = args.number("MS")?;
    args.finish()?;
    // Both inclusive of what is in them, as prof reports them.
    let mut inner_ns = 0;
    let mut outer_ns = 0;
    for _ in 0..count {
        let start = cpu_ns()?;
        let outer = prof_api::region("outer");
        {
            let _inner = prof_api::region("inner");
            inner_ns += burn(ms)?;
        }
        burn(ms)?;
        drop(outer);
        outer_ns += cpu_ns()?.saturating_sub(start);
    }
    let mut facts = Facts::with_pid();
    facts.add("watched", u8::from(prof_api::is_watched()));
    facts.add("regions", count);
    facts.add("inner_cpu_ns", inner_ns);
    facts.add("outer_cpu_ns", outer_ns);
    facts.add_rusage()?;
    facts.print()
}

/// `selfswitch MS`
pub fn selfswitch(mut args: Args) -> Result<()> {
    let ms = args.number("MS")?;
    args.finish()?;
    let start = cpu_ns()?;
    prof_api::disable();
    let off_ns = burn(ms)?;
    prof_api::enable();
    let on_ns = burn(ms)?;
    let mut facts = Facts::with_pid();
    facts.add("watched", u8::from(prof_api::is_watched()));
    facts.add("before_cpu_ns", start);
    facts.add("off_cpu_ns", off_ns);
    facts.add("on_cpu_ns", on_ns);
    facts.add_rusage()?;
    facts.print()
}

/// Uses `ms` ms of CPU time; how much it was in the end.
fn burn(ms: u64) -> Result<u64> {
    let start = cpu_ns()?;
    let target = start.saturating_add(ms.saturating_mul(sys::NS_PER_MS));
    let reached = cpu::spin_until(libc::CLOCK_PROCESS_CPUTIME_ID, target)?;
    Ok(reached.saturating_sub(start))
}

fn cpu_ns() -> Result<u64> {
    sys::clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}
