//! What is asked of a session while it runs: at intervals, from outside, after a delay.

use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::time::Instant;

use anyhow::Result;

use crate::cli::Shared;
use crate::control::Command;
use crate::control::Control;
use crate::say::say;
use crate::stream::Stream;

/// Below this, reading the figures so far is a load of its own.
const DEAR: Duration = Duration::from_millis(100);

/// What is asked, and when next.
#[derive(Debug, Default)]
pub struct Requests {
    interval: Option<Duration>,
    next: Option<Instant>,
    /// From the start to when profiling is switched on.
    delay: Option<Duration>,
    enable_at: Option<Instant>,
    control: Option<Control>,
}

/// Whether the session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It does.
    GoOn,
    /// Nobody listens any more.
    Unheard,
    /// It was asked to end.
    Stop,
}

impl Requests {
    /// Reads the options, and opens the control channel.
    pub fn from_options(shared: &Shared) -> Result<Self> {
        let interval = shared.interval.map(Duration::from_millis);
        if interval.is_some_and(|i| i < DEAR) {
            say!(
                "prof: warning: reading all figures so far more often than every {} ms can cost \
                 more than what is measured",
                DEAR.as_millis()
            );
        }
        let delay = shared.delay.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        let control = shared.control.as_ref().map(Control::open).transpose()?;
        Ok(Self { interval, delay, control, ..Self::default() })
    }

    /// A session begins.
    pub fn begin(&mut self, stream: &mut Stream) -> Result<()> {
        if self.interval.is_some() {
            stream.count_intervals()?;
        }
        let now = Instant::now();
        self.next = self.interval.map(|i| now + i);
        self.enable_at = self.delay.map(|d| now + d);
        Ok(())
    }

    /// When there is something to do next.
    pub fn due(&self) -> Option<Instant> {
        self.next.into_iter().chain(self.enable_at).min()
    }

    /// Readable when there is something to do.
    pub fn as_poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().and_then(Control::as_poll_fd)
    }

    /// Does what is asked and what is due.
    pub fn serve(&mut self, stream: &mut Stream) -> Result<Next> {
        if let Some(control) = &mut self.control {
            for command in control.receive()? {
                let command = match command {
                    Ok(command) => command,
                    Err(unknown) => {
                        say!("prof: warning: {unknown}");
                        control.refuse();
                        continue;
                    }
                };
                if matches!(command, Command::Enable | Command::Disable) {
                    // From now on it is they who say.
                    self.enable_at = None;
                }
                obey(command, stream)?;
                // Only when it is done, so that it can be relied on.
                control.acknowledge();
                if command == Command::Stop {
                    return Ok(Next::Stop);
                }
            }
        }
        let now = Instant::now();
        if self.enable_at.is_some_and(|at| now >= at) {
            self.enable_at = None;
            stream.resume()?;
        }
        if let (Some(next), Some(interval)) = (self.next, self.interval)
            && now >= next
        {
            stream.snapshot()?;
            // As if on time; what was missed is not made up for.
            let following = next + interval;
            let now = Instant::now();
            self.next = Some(if following > now { following } else { now + interval });
        }
        Ok(Next::GoOn)
    }
}

fn obey(command: Command, stream: &mut Stream) -> Result<()> {
    match command {
        Command::Enable => stream.resume()?,
        Command::Disable => stream.pause()?,
        Command::Snapshot => stream.snapshot()?,
        Command::Evlist(how) => stream.event_list(how).iter().for_each(|n| say!("{n}")),
        Command::Ping | Command::Stop => {}
    }
    stream.flush();
    Ok(())
}
