//! `prof run -r`: the command several times, and what its runs say together.

use std::io;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;
use prof_export::AnyOutputSpec;
use prof_export::Format;
use prof_export::Sink;
use prof_kernel::clock;
use prof_model::record::Record;
use prof_model::record::Repetition;
use prof_model::repeat::Repetitions;
use rustix::time::ClockId;

use crate::cli::RunArgs;
use crate::output::Outputs;
use crate::requests::Requests;
use crate::run::Job;
use crate::run::Took;
use crate::say;
use crate::say::say;

/// What has lasted this long may last: its progress is told.
const LONG: Duration = Duration::from_secs(1);

/// Runs the command `n` times. The status is that of the first run that failed; without
/// `--ignore-failure` no other follows it.
pub fn main(job: &Job<'_>, outputs: Outputs, requests: &mut Requests, n: u32) -> Result<ExitCode> {
    let deadline = job.args.shared.duration.map(|d| Instant::now() + d);
    let mut all = Repetitions::new(job.selected.events, &job.selected.table, n);
    let mut progress = Progress::new(job.args, n);
    let run = series(job, &outputs, requests, deadline, &mut all, &mut progress);
    progress.clear();
    if all.is_empty() && run.is_err() {
        return run;
    }
    let mut outputs = outputs;
    if let Some(repeat) = all.finish(clock::now_ns(ClockId::Realtime)) {
        outputs.write(&[Record::Repeat(Box::new(repeat))]);
    }
    let finished = outputs.finish();
    match (run, finished) {
        (Ok(ExitCode::SUCCESS), Err(e)) => Err(e),
        (run, Err(e)) => {
            say!("error: {e:#}");
            run
        }
        (run, Ok(())) => run,
    }
}

/// One run after the other. What was interrupted is no whole measurement and is left
/// out of `all`.
fn series(
    job: &Job<'_>,
    outputs: &Outputs,
    requests: &mut Requests,
    deadline: Option<Instant>,
    all: &mut Repetitions,
    progress: &mut Progress,
) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for number in 1..=progress.of {
        progress.before(number, all);
        let outputs = outputs.of_run(Repetition { number, of: progress.of });
        let after = outputs.of_run(Repetition { number, of: progress.of });
        let done = match job.once(outputs, requests, deadline) {
            // Ctrl-C before the command began.
            Err(_) if job.stop.asked() && !all.is_empty() => break,
            done => done?,
        };
        progress.clear();
        let failed = done.code != ExitCode::SUCCESS;
        if code == ExitCode::SUCCESS {
            code = done.code;
        }
        let Some(end) = after.end_of_run() else { break };
        let elapsed_ns = match done.took {
            Took::Ended(d) => d.as_nanos() as u64,
            Took::AsItsEndSays => end.duration_ns,
            Took::StillRuns => break,
        };
        if done.interrupted {
            break;
        }
        if failed && !job.args.ignore_failure {
            let of = progress.of;
            say!(
                "prof: run {number} of {of} failed and is not in the statistics; no other follows \
                 (--ignore-failure goes on)"
            );
            break;
        }
        all.add(elapsed_ns, &end.totals, failed);
        let late = deadline.is_some_and(|d| Instant::now() >= d);
        if late || job.stop.asked() || !after.any_open() {
            break;
        }
    }
    Ok(code)
}

/// What is told on a terminal while it lasts.
#[derive(Debug)]
struct Progress {
    of: u32,
    began: Instant,
    how: How,
}

/// How it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Nobody would see it, or it would stand between lines of other output.
    Not,
    /// In one line that is written anew.
    InPlace,
    /// Line by line: the command writes to the same terminal.
    Lines,
}

impl Progress {
    fn new(args: &RunArgs, of: u32) -> Self {
        let quiet = |o: &AnyOutputSpec| match o {
            AnyOutputSpec::Records(o) => {
                o.format == Format::Summary || matches!(o.sink, Sink::File(_))
            }
            // Not to be had of several runs.
            AnyOutputSpec::Stacks(_) | AnyOutputSpec::Raw(_) => true,
        };
        let how = if !io::stderr().is_terminal()
            || args.shared.interval.is_some()
            || !args.shared.output.iter().all(quiet)
        {
            How::Not
        } else if io::stdout().is_terminal() {
            How::Lines
        } else {
            How::InPlace
        };
        Self { of, began: Instant::now(), how }
    }

    /// Before a run.
    fn before(&self, number: u32, done: &Repetitions) {
        let passed = self.began.elapsed();
        let mut text = format!("prof: run {number} of {}", self.of);
        if let Ok(n @ 1..) = u32::try_from(done.len()) {
            let left = passed / n * (self.of + 1 - number);
            text += &format!(", about {} s left", left.as_secs_f64().round());
        }
        match self.how {
            How::InPlace => say::part(format_args!("\r\x1b[K{text}")),
            How::Lines if passed >= LONG => say!("{text}"),
            _ => {}
        }
    }

    /// Takes away what stands there.
    fn clear(&self) {
        if self.how == How::InPlace {
            say::part(format_args!("\r\x1b[K"));
        }
    }
}
