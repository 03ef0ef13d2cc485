//! Two processes that wait for each other: nothing but context switches.

use std::io;
use std::io::PipeReader;
use std::io::PipeWriter;
use std::io::Read;
use std::io::Write;

use libc::c_int;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::memory;
use crate::memory::Map;
use crate::report::Facts;
use crate::sys::{self, Program};

/// `pingpong N [--cpu CPU] [--faults PAGES] [--attended]`
///
/// Attended, it says who the two are, and begins when its standard input says or ends.
///
/// The other process executes this program again, so that a rule can name one and
/// not the other: its name is that of `/proc/self/exe`.
pub fn pingpong(mut args: Args) -> Result<()> {
    let pages = args.option_number("--faults")?.unwrap_or(0);
    let cpu = args.option_number("--cpu")?;
    let attended = args.flag("--attended");
    let rounds = args.number("N")?;
    args.finish()?;
    if rounds == 0 {
        return Err(Error::new("N must be at least 1"));
    }
    if let Some(cpu) = cpu {
        sys::pin_to(cpu)?;
    }
    let program = Program::own(&["pong", "--faults", &pages.to_string()])?;
    let (there, mut ping) = io::pipe().map_err(|e| Error::io("pipe", &e))?;
    let (mut pong, back) = io::pipe().map_err(|e| Error::io("pipe", &e))?;
    let child = sys::fork_child(|| become_pong(&program, &there, &back))?;
    drop((there, back));

    // The first one waits for the exec, and is not timed.
    round(&mut ping, &mut pong)?;
    if attended {
        let mut who = Facts::with_pid();
        who.add("pong_pid", child);
        who.print()?;
        let mut byte = [0];
        let mut input = sys::standard_input()?;
        let _ = input.read(&mut byte).map_err(|e| Error::io("standard input", &e))?;
    }
    let start = sys::clock_ns(libc::CLOCK_MONOTONIC)?;
    for _ in 1..rounds {
        round(&mut ping, &mut pong)?;
    }
    let end = sys::clock_ns(libc::CLOCK_MONOTONIC)?;
    drop(ping);
    let mut said = [0; 16];
    pong.read_exact(&mut said).map_err(|e| Error::io("what pong says", &e))?;
    let ([touched, faults], []) = said.as_chunks::<8>() else {
        return Err(Error::new("what pong says is cut"));
    };
    if sys::wait_for(child)? != 0 {
        return Err(Error::new("pong failed"));
    }
    let mut facts = Facts::with_pid();
    facts.add("pong_pid", child);
    facts.add("timed_rounds", rounds.saturating_sub(1));
    facts.add("elapsed_ns", end.saturating_sub(start));
    facts.add("pong_touched", u64::from_ne_bytes(*touched));
    facts.add("pong_minflt", u64::from_ne_bytes(*faults));
    facts.add_rusage()?;
    facts.print()
}

fn round(ping: &mut PipeWriter, pong: &mut PipeReader) -> Result<()> {
    let mut byte = [0];
    ping.write_all(&byte).map_err(|e| Error::io("to pong", &e))?;
    pong.read_exact(&mut byte).map_err(|e| Error::io("from pong", &e))
}

fn become_pong(program: &Program, there: &PipeReader, back: &PipeWriter) -> c_int {
    let ready = sys::become_standard(there, libc::STDIN_FILENO)
        .and_then(|()| sys::become_standard(back, libc::STDOUT_FILENO));
    match ready {
        Ok(()) => program.exec_in_child(),
        Err(error) => {
            eprintln!("prof-target: {error}");
            2
        }
    }
}

/// `pong [--faults PAGES]`: answers each byte with one, and at the end says how many
/// pages it touched in how many faults.
pub fn pong(mut args: Args) -> Result<()> {
    let pages = args.option_number("--faults")?.unwrap_or(0);
    args.finish()?;
    let bytes = pages.checked_mul(memory::page_size()? as u64);
    // Unbuffered: a byte is a switch.
    let (mut input, mut output) = (sys::standard_input()?, sys::standard_output()?);
    let before = sys::rusage_self()?.ru_minflt;
    let mut touched: u64 = 0;
    let mut byte = [0];
    while input.read(&mut byte).map_err(|e| Error::io("standard input", &e))? > 0 {
        if pages > 0 {
            Map::new(bytes)?.touch();
            touched += pages;
        }
        output.write_all(&byte).map_err(|e| Error::io("standard output", &e))?;
    }
    let faults = (sys::rusage_self()?.ru_minflt - before).cast_unsigned();
    let mut said = touched.to_ne_bytes().to_vec();
    said.extend(faults.to_ne_bytes());
    output.write_all(&said).map_err(|e| Error::io("standard output", &e))
}
