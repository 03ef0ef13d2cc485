//! From a thread that left its CPU, was woken, and came back, to a sample.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::io::BufReader;

use prof_model::stacks::OffCpu;
use prof_model::stacks::OffState;
use prof_model::stacks::Sample;
use prof_model::stacks::StackId;
use prof_model::stacks::StackProfile;
use prof_model::stacks::ThreadId;
use prof_model::stacks::Waker;
use prof_model::stacks::WakerId;
use prof_model::stacks::WakerKind;
use prof_model::stacks::Whole;

use crate::abi::stacks::RecOn;
use crate::abi::stacks::RecSample;
use crate::abi::stacks::off_state;
use crate::abi::until_nul;

/// A thread that has left its CPU, and where.
#[derive(Debug)]
struct Away {
    since: u64,
    sample: Sample,
    state: OffState,
}

/// What has begun and is not over: by thread, of which each has one of them at most.
#[derive(Debug, Default)]
pub struct Blocked {
    away: HashMap<u32, Away>,
    woken: HashMap<u32, (u64, WakerId)>,
    known: HashMap<Waker, WakerId>,
    code: Option<KernelCode>,
}

impl Blocked {
    /// Where the functions of the kernel are that matter here.
    pub fn code(&mut self) -> &KernelCode {
        self.code.get_or_insert_with(|| KernelCode::here().unwrap_or_default())
    }

    /// A thread leaves its CPU.
    pub fn off(&mut self, rec: &RecSample, thread: ThreadId, stack: Option<StackId>, whole: Whole) {
        let state = match rec.off_state {
            off_state::RUNNABLE => OffState::Runnable,
            off_state::SLEEP => OffState::Sleep,
            off_state::UNINTERRUPTIBLE => OffState::Uninterruptible,
            _ => OffState::Stopped,
        };
        let sample = Sample {
            time_ns: rec.head.time_ns,
            thread,
            cpu: rec.head.cpu,
            event: rec.event.into(),
            weight: 0,
            stack,
            whole,
            off_cpu: None,
        };
        self.away.insert(rec.tid, Away { since: rec.head.time_ns, sample, state });
    }

    /// A thread is made ready to run.
    pub fn woken(
        &mut self,
        profile: &mut StackProfile,
        rec: &RecSample,
        by_interrupt: bool,
        stack: Option<StackId>,
        whole: Whole,
    ) {
        let waker = match by_interrupt {
            true => Waker {
                kind: WakerKind::Interrupt,
                pid: 0,
                tid: 0,
                comm: String::new(),
                stack,
                whole,
            },
            false => Waker {
                kind: WakerKind::Thread,
                pid: rec.pid,
                tid: rec.tid,
                comm: String::from_utf8_lossy(until_nul(&rec.comm)).into_owned(),
                stack,
                whole,
            },
        };
        let id = *self.known.entry(waker).or_insert_with_key(|waker| {
            profile.wakers.push(waker.clone());
            WakerId(profile.wakers.len() as u32 - 1)
        });
        self.woken.insert(rec.weight as u32, (rec.head.time_ns, id));
    }

    /// A thread is back; `None` if it was not seen to leave.
    pub fn on(&mut self, rec: &RecOn) -> Option<Sample> {
        let away = self.away.remove(&rec.tid).filter(|a| a.since == rec.off_ns)?;
        let waker = self.woken.remove(&rec.tid).filter(|(at, _)| *at == rec.woken_ns);
        let mut sample = over(away, rec.head.time_ns, Some(rec.woken_ns), waker.map(|(_, w)| w));
        sample.cpu = rec.head.cpu;
        Some(sample)
    }

    /// Those that are still off at the end, of whom the kernel half says so, too.
    pub fn still_off(&mut self, off: &HashMap<u32, u64>, end: u64) -> Vec<Sample> {
        let mut left: Vec<_> = self.away.drain().collect();
        left.sort_by_key(|(tid, away)| (away.since, *tid));
        let still = |tid: &u32, away: &Away| off.get(tid) == Some(&away.since);
        left.into_iter()
            .filter(|(tid, away)| still(tid, away) && away.since < end)
            .map(|(tid, away)| {
                // Ready to run, it waits for a CPU.
                let woken = self.woken.get(&tid).filter(|(at, _)| *at >= away.since);
                let mut sample = over(away, end, woken.map(|w| w.0), woken.map(|w| w.1));
                if let Some(off) = &mut sample.off_cpu {
                    off.unfinished = true;
                }
                sample
            })
            .collect()
    }
}

/// The sample of a time off the CPU that ends at `end`; `woken` is when the thread was
/// made ready to run, if it was seen.
fn over(away: Away, end: u64, woken: Option<u64>, waker: Option<WakerId>) -> Sample {
    let Away { since, sample, state } = away;
    let ready = match (state, woken.filter(|at| *at != 0)) {
        (OffState::Runnable, _) => since,
        (_, Some(woken)) => woken.clamp(since, end.max(since)),
        // Nobody was seen to wake it: as if it had run at once.
        (_, None) => end,
    };
    let wait_ns = end.saturating_sub(ready);
    let off = OffCpu { state, wait_ns, waker, unfinished: false };
    let weight = end.saturating_sub(since);
    Sample { time_ns: end, weight, off_cpu: Some(Box::new(off)), ..sample }
}

/// Where functions of the kernel are.
#[derive(Debug, Default)]
pub struct KernelCode {
    /// The scheduler's own: what is called to leave a CPU.
    switch: Vec<(u64, u64)>,
    waking: Vec<(u64, u64)>,
    interrupts: Vec<(u64, u64)>,
}

impl KernelCode {
    /// Of the running kernel; empty if it hides its addresses.
    fn here() -> io::Result<Self> {
        Self::read(BufReader::new(File::open("/proc/kallsyms")?))
    }

    fn read(mut lines: impl io::BufRead) -> io::Result<Self> {
        let mut symbols: Vec<(u64, Option<Kind>)> = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&line);
            let mut words = text.split_ascii_whitespace();
            let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            // Modules and BPF programs have none of them.
            let Ok(address) = u64::from_str_radix(address, 16) else { continue };
            if address != 0 && words.next().is_none() {
                symbols.push((address, Kind::of(name)));
            }
        }
        symbols.sort_unstable_by_key(|(address, _)| *address);
        let mut code = Self::default();
        for (i, (from, kind)) in symbols.iter().enumerate() {
            let Some(kind) = kind else { continue };
            let next = symbols[i..].iter().find(|(address, _)| address > from);
            let range = (*from, next.map_or(*from + 1, |(address, _)| *address));
            match kind {
                Kind::Switch => code.switch.push(range),
                Kind::Waking => code.waking.push(range),
                Kind::Interrupt => code.interrupts.push(range),
            }
        }
        Ok(code)
    }

    /// The stack of a thread that leaves its CPU, leaf first, without the hook and the
    /// scheduler's own functions on top of it.
    pub fn below_switch<'a>(&self, stack: &'a [u64]) -> &'a [u64] {
        let Some(first) = stack.iter().position(|a| is_in(&self.switch, *a)) else { return stack };
        let of_scheduler = |a: &u64| is_in(&self.switch, *a);
        let below = stack[first..].iter().position(|a| !of_scheduler(a));
        // All of it, then at least something.
        below.map_or(&stack[first..], |n| &stack[first + n..])
    }

    /// The stack of a waker, leaf first, without the hook; and whether it was an interrupt:
    /// then without whom it interrupted.
    pub fn below_waking<'a>(&self, stack: &'a [u64]) -> (&'a [u64], bool) {
        let first = stack.iter().position(|a| is_in(&self.waking, *a)).unwrap_or(0);
        let stack = &stack[first..];
        match stack.iter().position(|a| is_in(&self.interrupts, *a)) {
            Some(entry) => (&stack[..=entry], true),
            None => (stack, false),
        }
    }
}

/// What a function is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Switch,
    Waking,
    Interrupt,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        const INTERRUPTS: [&str; 8] = [
            "asm_sysvec_",
            "asm_common_interrupt",
            "fred_extint",
            "el0t_64_irq",
            "el0t_64_fiq",
            "el0t_32_irq",
            "el1h_64_irq",
            "el1h_64_fiq",
        ];
        match name {
            "schedule" | "__schedule" => Some(Self::Switch),
            "try_to_wake_up" => Some(Self::Waking),
            // Parts of a function, as compilers make them.
            _ if name.starts_with("__schedule.") => Some(Self::Switch),
            _ if name.starts_with("try_to_wake_up.") => Some(Self::Waking),
            _ if INTERRUPTS.iter().any(|i| name.starts_with(i)) => Some(Self::Interrupt),
            _ => None,
        }
    }
}

/// Whether an address is in one of them: a return address, which may be behind the end.
fn is_in(ranges: &[(u64, u64)], address: u64) -> bool {
    ranges.iter().any(|(from, to)| address > *from && address <= *to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Plain as _;

    const KALLSYMS: &str = "\
0000000000001000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000100 T asm_sysvec_apic_timer_interrupt
ffffffff81000140 T asm_exc_page_fault
ffffffff81002000 T try_to_wake_up
ffffffff81002800 t wake_up_q
ffffffff81003000 t __schedule
ffffffff81003900 T schedule
ffffffff81003a00 T schedule_timeout
ffffffffc0000000 t schedule\t[module]
ffffffffc0000100 t bpf_prog_1\t[bpf]
";

    fn code() -> KernelCode {
        KernelCode::read(KALLSYMS.as_bytes()).unwrap()
    }

    const HOOK: u64 = 0xffff_ffff_c000_0180;

    #[test]
    fn hook_and_scheduler_are_left_out() {
        let at = |low: u64| 0xffff_ffff_8100_0000 + low;
        let stack = [HOOK, at(0x50), at(0x3010), at(0x3910), at(0x3a10), at(0x2810)];
        assert_eq!(code().below_switch(&stack), &stack[4..]);
        // A thread of the kernel that does nothing else; and where nothing is known.
        assert_eq!(code().below_switch(&stack[..4]), &stack[2..4]);
        assert_eq!(KernelCode::default().below_switch(&stack), stack);
        assert_eq!(code().below_switch(&[]), [0u64; 0]);
    }

    #[test]
    fn an_interrupt_is_known_by_its_entry_and_who_was_interrupted_is_left_out() {
        let at = |low: u64| 0xffff_ffff_8100_0000 + low;
        let stack = [HOOK, at(0x2010), at(0x2810), at(0x110), at(0x3a10)];
        assert_eq!(code().below_waking(&stack), (&stack[1..4], true));
        let fault = [HOOK, at(0x2010), at(0x2810), at(0x150)];
        assert_eq!(code().below_waking(&fault), (&fault[1..], false));
        assert_eq!(code().below_waking(&[]), (&[][..], false));
    }

    fn off(tid: u32, time_ns: u64, state: u16) -> RecSample {
        let mut rec = RecSample::from_bytes(&[0; 128]).unwrap();
        (rec.tid, rec.head.time_ns, rec.off_state) = (tid, time_ns, state);
        rec
    }

    fn on(tid: u32, off_ns: u64, woken_ns: u64, time_ns: u64) -> RecOn {
        let mut rec = RecOn::from_bytes(&[0; 56]).unwrap();
        (rec.tid, rec.off_ns, rec.woken_ns, rec.head.time_ns) = (tid, off_ns, woken_ns, time_ns);
        rec
    }

    fn parts(sample: &Sample) -> (u64, u64, Option<WakerId>) {
        let off = sample.off_cpu.as_ref().unwrap();
        (sample.weight, off.wait_ns, off.waker)
    }

    #[test]
    fn a_time_off_the_cpu_is_blocked_until_it_is_woken_and_waits_from_then_on() {
        let mut b = Blocked::default();
        let mut p = StackProfile::default();
        let thread = ThreadId(0);
        let mut waker = off(9, 130, 0);
        waker.weight = 7;
        b.off(&off(7, 100, off_state::SLEEP), thread, None, Whole::Whole);
        b.woken(&mut p, &waker, false, None, Whole::Whole);
        assert_eq!(parts(&b.on(&on(7, 100, 130, 150)).unwrap()), (50, 20, Some(WakerId(0))));
        // It could have run all the time.
        b.off(&off(7, 200, off_state::RUNNABLE), thread, None, Whole::Whole);
        assert_eq!(parts(&b.on(&on(7, 200, 0, 260)).unwrap()), (60, 60, None));
        // The waker was faster than the switch.
        waker.head.time_ns = 299;
        b.woken(&mut p, &waker, false, None, Whole::Whole);
        b.off(&off(7, 300, off_state::SLEEP), thread, None, Whole::Whole);
        assert_eq!(parts(&b.on(&on(7, 300, 299, 310)).unwrap()), (10, 10, Some(WakerId(0))));
        // Lost: the record of the switch, and that of who woke it.
        assert!(b.on(&on(7, 400, 0, 410)).is_none());
        b.off(&off(7, 500, off_state::SLEEP), thread, None, Whole::Whole);
        assert_eq!(parts(&b.on(&on(7, 500, 505, 510)).unwrap()), (10, 5, None));
        assert_eq!(p.wakers.len(), 1);
    }

    #[test]
    fn who_is_still_off_has_its_time_until_the_end() {
        let mut b = Blocked::default();
        for (tid, at) in [(1, 100), (2, 110), (3, 120)] {
            b.off(&off(tid, at, off_state::SLEEP), ThreadId(tid), None, Whole::Whole);
        }
        // The second has come back and left again, and both records are lost.
        let left = b.still_off(&HashMap::from([(1, 100), (2, 500)]), 1000);
        assert_eq!(left.len(), 1);
        assert_eq!(parts(&left[0]), (900, 0, None));
        assert!(left[0].off_cpu.as_ref().unwrap().unfinished);
    }
}
