//! Many processes: short ones one after the other, or all at once.

use std::io::{self, PipeWriter, Read, Write};

use libc::c_int;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::report::{Facts, middle_mean};
use crate::sys::{self, Program};

/// `storm N [--jobs J] [--vfork]`
pub fn storm(mut args: Args) -> Result<()> {
    let vfork = args.flag("--vfork");
    let jobs = args.option_number("--jobs")?.unwrap_or(1);
    let total = args.number("N")?;
    args.finish()?;
    if jobs == 0 {
        return Err(Error::new("--jobs must be at least 1"));
    }
    let program = Program::own(&["exit", "0"])?;
    let (mut reader, mut writer) = io::pipe().map_err(|e| Error::io("pipe", &e))?;

    let start = sys::clock_ns(libc::CLOCK_MONOTONIC)?;
    let mut workers = Vec::new();
    for job in 0..jobs {
        let share = total / jobs + u64::from(job < total % jobs);
        workers.push(sys::fork_child(|| work(&program, share, vfork, &mut writer))?);
    }
    drop(writer);
    let mut failed = 0;
    for worker in workers {
        if sys::wait_for(worker)? != 0 {
            failed += 1;
        }
    }
    let end = sys::clock_ns(libc::CLOCK_MONOTONIC)?;

    let mut counts = Vec::new();
    reader.read_to_end(&mut counts).map_err(|e| Error::io("pipe", &e))?;
    let words: Vec<_> = counts.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    let told = words.as_chunks().0;
    let execs: u64 = told.iter().map(|[done, _]| done).sum();
    let mut facts = Facts::with_pid();
    facts.add("elapsed_ns", end.saturating_sub(start));
    facts.add("middle_ns", middle_mean(told.iter().map(|[_, middle]| *middle).collect()));
    facts.add("execs", execs);
    facts.add("jobs", jobs);
    facts.print()?;
    if failed == 0 && execs == total {
        Ok(())
    } else {
        Err(Error::new(format!("{failed} workers failed, {execs} of {total} executed")))
    }
}

/// `herd N MS`: prints a first line once all run the program, and waits for them.
pub fn herd(mut args: Args) -> Result<()> {
    let total = args.number("N")?;
    let ms = args.number("MS")?;
    args.finish()?;
    let program = Program::own(&["sleep", &ms.to_string()])?;
    // Both ends close at exec: the reader's end of file says that every child has executed.
    let (mut reader, writer) = io::pipe().map_err(|e| Error::io("pipe", &e))?;
    let leader = sys::pid();

    let mut children = Vec::new();
    for _ in 0..total {
        children.push(sys::fork_child(|| {
            let ready = sys::die_with_parent(leader).and_then(|()| sys::silence_stdout());
            match ready {
                Ok(()) => program.exec_in_child(),
                Err(error) => {
                    eprintln!("prof-target: {error}");
                    2
                }
            }
        })?);
    }
    drop(writer);
    reader.read_to_end(&mut Vec::new()).map_err(|e| Error::io("pipe", &e))?;
    let mut facts = Facts::with_pid();
    facts.add("running", children.len());
    facts.print()?;

    let mut failed = 0;
    for child in children {
        if sys::wait_for(child)? != 0 {
            failed += 1;
        }
    }
    let mut facts = Facts::new();
    facts.add("failed", failed);
    facts.print()?;
    if failed == 0 { Ok(()) } else { Err(Error::new(format!("{failed} of {total} failed"))) }
}

/// A worker process: runs its share and sends how many succeeded, and how long one takes.
fn work(program: &Program, share: u64, vfork: bool, writer: &mut PipeWriter) -> c_int {
    let mut done: u64 = 0;
    let mut took = Vec::new();
    let outcome = (0..share).try_for_each(|_| {
        let begin = sys::clock_ns(libc::CLOCK_MONOTONIC)?;
        let child = if vfork { program.vfork() } else { program.fork() }?;
        match sys::wait_for(child)? {
            0 => {
                done += 1;
                took.push(sys::clock_ns(libc::CLOCK_MONOTONIC)?.saturating_sub(begin));
                Ok(())
            }
            status => Err(Error::new(format!("a process ended with wait status {status}"))),
        }
    });
    // In one go, or workers' words would be mixed.
    let told = [done.to_ne_bytes(), middle_mean(took).to_ne_bytes()].concat();
    let sent = writer.write_all(&told).map_err(|e| Error::io("pipe", &e));
    match outcome.and(sent) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("prof-target: {error}");
            2
        }
    }
}
