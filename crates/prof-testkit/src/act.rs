//! A script of regions and switches, and of work in them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::process;
use std::thread;

use crate::args::Args;
use crate::cpu;
use crate::error::{Error, Result};
use crate::memory::Map;
use crate::memory::page_size;
use crate::report::Facts;
use crate::sys::{self, Program};

/// One thing to do.
enum Step {
    Begin(String),
    End,
    Pairs(u64, String),
    Enable,
    Disable,
    Faults(u64),
    Burn(u64),
    Sleep(u64),
    Times(u64, Vec<Step>),
    Threads(u64, Vec<Step>),
    Both(Vec<Step>, Vec<Step>),
    Fork(Vec<Step>),
    Exit(i32),
    Exec(Vec<OsString>),
}

/// `act STEP…`
pub fn act(args: Args) -> Result<()> {
    let mut words: VecDeque<_> = args.command()?.into();
    let steps = parse(&mut words, false)?;
    perform(&steps)?;
    let mut facts = Facts::with_pid();
    facts.add("watched", u8::from(prof_api::is_watched()));
    facts.add_rusage()?;
    facts.print()
}

fn parse(words: &mut VecDeque<OsString>, nested: bool) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    while let Some(word) = words.pop_front() {
        let mut text = |what: &str| -> Result<String> {
            let word = words.pop_front();
            let text = word.and_then(|w| w.into_string().ok());
            text.ok_or_else(|| Error::new(format!("missing {what}")))
        };
        let number = |text: String| -> Result<u64> {
            text.parse().map_err(|_| Error::new(format!("not a number: {text}")))
        };
        steps.push(match word.to_str() {
            Some("begin") => Step::Begin(text("NAME")?),
            Some("end") => Step::End,
            Some("pairs") => Step::Pairs(number(text("N")?)?, text("NAME")?),
            Some("enable") => Step::Enable,
            Some("disable") => Step::Disable,
            Some("faults") => Step::Faults(number(text("N")?)?),
            Some("burn") => Step::Burn(number(text("MS")?)?),
            Some("sleep") => Step::Sleep(number(text("MS")?)?),
            Some("exit") => {
                let code = number(text("CODE")?)?;
                Step::Exit(i32::try_from(code).map_err(|_| Error::new("CODE too large"))?)
            }
            Some("times") => {
                let n = number(text("N")?)?;
                open(words)?;
                Step::Times(n, parse(words, true)?)
            }
            Some("threads") => {
                let n = number(text("N")?)?;
                open(words)?;
                Step::Threads(n, parse(words, true)?)
            }
            Some("both") => {
                open(words)?;
                let first = parse(words, true)?;
                open(words)?;
                Step::Both(first, parse(words, true)?)
            }
            Some("fork") => {
                open(words)?;
                Step::Fork(parse(words, true)?)
            }
            Some("exec") => Step::Exec(std::mem::take(words).into()),
            Some("]") if nested => return Ok(steps),
            _ => return Err(Error::new(format!("unknown step {}", word.display()))),
        });
    }
    if nested { Err(Error::new("missing ]")) } else { Ok(steps) }
}

fn open(words: &mut VecDeque<OsString>) -> Result<()> {
    match words.pop_front() {
        Some(word) if word == "[" => Ok(()),
        _ => Err(Error::new("missing [")),
    }
}

fn perform(steps: &[Step]) -> Result<()> {
    for step in steps {
        match step {
            Step::Begin(name) => prof_api::region_begin(name),
            Step::End => prof_api::region_end(),
            Step::Pairs(n, name) => {
                for _ in 0..*n {
                    prof_api::region_begin(name);
                    prof_api::region_end();
                }
            }
            Step::Enable => prof_api::enable(),
            Step::Disable => prof_api::disable(),
            Step::Faults(pages) => Map::new(pages.checked_mul(page_size()? as u64))?.touch(),
            Step::Burn(ms) => {
                let clock = libc::CLOCK_THREAD_CPUTIME_ID;
                let until = sys::clock_ns(clock)?.saturating_add(ms.saturating_mul(sys::NS_PER_MS));
                cpu::spin_until(clock, until)?;
            }
            Step::Sleep(ms) => sys::sleep_ns(ms.saturating_mul(sys::NS_PER_MS)),
            Step::Times(n, steps) => (0..*n).try_for_each(|_| perform(steps))?,
            Step::Threads(n, steps) => thread::scope(|scope| {
                let threads: Vec<_> = (0..*n).map(|_| scope.spawn(|| perform(steps))).collect();
                let join = |t: thread::ScopedJoinHandle<'_, _>| {
                    t.join().map_err(|_| Error::new("a thread panicked"))?
                };
                threads.into_iter().try_for_each(join)
            })?,
            Step::Both(first, second) => thread::scope(|scope| {
                let other = scope.spawn(|| perform(first));
                perform(second)?;
                other.join().map_err(|_| Error::new("a thread panicked"))?
            })?,
            Step::Fork(steps) => fork(steps)?,
            Step::Exit(code) => process::exit(*code),
            Step::Exec(command) => {
                let program = Program::from_command(command)?;
                return Err(program.exec_error(&program.exec()));
            }
        }
    }
    Ok(())
}

/// A child does it.
fn fork(steps: &[Step]) -> Result<()> {
    // SAFETY: this program has one thread where it forks, so the child may do anything.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(Error::last_os("fork"));
    }
    if child == 0 {
        process::exit(i32::from(perform(steps).is_err()));
    }
    sys::wait_for(child).map(drop)
}
