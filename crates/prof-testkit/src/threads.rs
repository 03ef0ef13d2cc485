//! Threads: many of them, and those that outlive or replace their leader.

use std::fs;
use std::sync::{Arc, Barrier};
use std::thread;

use libc::{c_int, pid_t};

use crate::args::Args;
use crate::cpu;
use crate::error::{Error, Result};
use crate::memory;
use crate::memory::Map;
use crate::report::Facts;
use crate::sys::{self, Program};

const SMALL_STACK: usize = 64 * 1024;

/// What the leader of `leader-exits-first` passes to `exit`; not the code of the process.
const LEADER_EXIT: c_int = 3;

/// `threads N [MS] [--faults PAGES]`
pub fn threads(mut args: Args) -> Result<()> {
    let pages = args.option_number("--faults")?.unwrap_or(0);
    let count = args.number("N")?;
    let ms = args.optional_number("MS")?.unwrap_or(0);
    args.finish()?;
    let parties = usize::try_from(count).map_err(|_| Error::new("N too large"))?;
    let share = ms.saturating_mul(sys::NS_PER_MS) / count.max(1);
    let bytes = pages.checked_mul(memory::page_size()? as u64);

    let start = Arc::new(Barrier::new(parties));
    let end = Arc::new(Barrier::new(parties));
    let mut workers = Vec::with_capacity(parties.min(1 << 16));
    for _ in 0..parties {
        let start = Arc::clone(&start);
        let end = Arc::clone(&end);
        let work = move || {
            start.wait();
            let touched = if pages > 0 { Map::new(bytes).map(|map| map.touch()) } else { Ok(()) };
            let cpu = cpu::spin_until(libc::CLOCK_THREAD_CPUTIME_ID, share);
            end.wait();
            touched.and_then(|()| cpu.map(|cpu| (sys::tid(), cpu)))
        };
        let worker = thread::Builder::new()
            .stack_size(SMALL_STACK)
            .spawn(work)
            .map_err(|e| Error::io(format_args!("thread {}", workers.len() + 1), &e))?;
        workers.push(worker);
    }
    let mut tids: Vec<pid_t> = Vec::with_capacity(workers.len());
    let mut cpu_ns = 0;
    for worker in workers {
        let (tid, cpu) = worker.join().map_err(|_| Error::new("a thread panicked"))??;
        tids.push(tid);
        cpu_ns += cpu;
    }
    let mut facts = Facts::with_pid();
    facts.add("threads", tids.len());
    facts.add("threads_cpu_ns", cpu_ns);
    facts.add("threads_touched", pages.saturating_mul(count));
    if let (Some(lowest), Some(highest)) = (tids.iter().min(), tids.iter().max()) {
        facts.add("tid_min", lowest);
        facts.add("tid_max", highest);
    }
    facts.add_rusage()?;
    facts.print()
}

/// `exec-from-thread [--late] CMD…`
pub fn exec_from_thread(mut args: Args) -> Result<()> {
    let late = args.leading_flag("--late");
    let command = args.command()?;
    let worker = thread::Builder::new()
        .spawn(move || {
            let outcome = exec_now(&command, late);
            // Only a failure gets here.
            outcome.err()
        })
        .map_err(|e| Error::io("thread", &e))?;
    // The leader sleeps here; a successful `execve` takes its place.
    match worker.join() {
        Ok(Some(error)) => Err(error),
        Ok(None) => Ok(()),
        Err(_) => Err(Error::new("the thread panicked")),
    }
}

fn exec_now(command: &[std::ffi::OsString], late: bool) -> Result<()> {
    let program = Program::from_command(command)?;
    // Lets the leader fall asleep.
    sys::sleep_ns(5 * sys::NS_PER_MS);
    if late {
        cpu::spin_until(libc::CLOCK_THREAD_CPUTIME_ID, 300 * sys::NS_PER_MS)?;
        println!("spun");
        sys::sleep_ns(2000 * sys::NS_PER_MS);
    }
    let mut facts = Facts::with_pid();
    facts.add("tid", sys::tid());
    facts.print()?;
    Err(program.exec_error(&program.exec()))
}

/// `leader-exits-first MS`
pub fn leader_exits_first(mut args: Args) -> Result<()> {
    let ms = args.number("MS")?;
    args.finish()?;
    thread::Builder::new()
        .spawn(move || {
            let code = match outlive_leader(ms) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("prof-target: {error}");
                    2
                }
            };
            // Without exit handlers: those are the leader's business.
            sys::exit_now(code)
        })
        .map_err(|e| Error::io("thread", &e))?;
    // SAFETY: ends this thread alone; nothing on its stack is used by the other one.
    unsafe { libc::syscall(libc::SYS_exit, LEADER_EXIT) };
    Err(Error::new("exit returned"))
}

fn outlive_leader(ms: u64) -> Result<()> {
    wait_for_dead_leader();
    let cpu = cpu::spin_until(libc::CLOCK_THREAD_CPUTIME_ID, ms.saturating_mul(sys::NS_PER_MS))?;
    let mut facts = Facts::with_pid();
    facts.add("tid", sys::tid());
    facts.add("leader_exit", LEADER_EXIT);
    facts.add("thread_cpu_ns", cpu);
    facts.add_rusage()?;
    facts.print()
}

/// Waits until the leader is a zombie; gives up after a second, such as without `/proc`.
fn wait_for_dead_leader() {
    let path = format!("/proc/self/task/{}/stat", sys::pid());
    for _ in 0..1000 {
        let dead = fs::read_to_string(&path).is_ok_and(|stat| {
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
        });
        if dead {
            return;
        }
        sys::sleep_ns(sys::NS_PER_MS);
    }
}
