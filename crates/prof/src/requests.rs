//! What is asked of a session while it runs: at intervals.

use std::time::Duration;
use std::time::Instant;

use anyhow::Result;

use crate::cli::Shared;
use crate::stream::Stream;

/// Below this, reading the figures so far is a load of its own.
const DEAR: Duration = Duration::from_millis(100);

/// What is asked, and when next.
#[derive(Debug, Default)]
pub struct Requests {
    interval: Option<Duration>,
    next: Option<Instant>,
}

impl Requests {
    /// Reads the options.
    pub fn from_options(shared: &Shared) -> Result<Self> {
        let interval = shared.interval.map(Duration::from_millis);
        if interval.is_some_and(|i| i < DEAR) {
            eprintln!(
                "prof: warning: reading all figures so far more often than every {} ms can cost \
                 more than what is measured",
                DEAR.as_millis()
            );
        }
        Ok(Self { interval, ..Self::default() })
    }

    /// A session begins.
    pub fn begin(&mut self, stream: &mut Stream) -> Result<()> {
        if self.interval.is_some() {
            stream.count_intervals()?;
        }
        self.next = self.interval.map(|i| Instant::now() + i);
        Ok(())
    }

    /// When there is something to do next.
    pub fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Does what is due.
    pub fn serve(&mut self, stream: &mut Stream) -> Result<()> {
        let now = Instant::now();
        if let (Some(next), Some(interval)) = (self.next, self.interval)
            && now >= next
        {
            stream.snapshot()?;
            // As if on time; what was missed is not made up for.
            let following = next + interval;
            let now = Instant::now();
            self.next = Some(if following > now { following } else { now + interval });
        }
        Ok(())
    }
}
