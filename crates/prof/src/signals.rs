//! How a person stops prof.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;

/// Counts the signals that ask for an end.
#[derive(Debug, Clone)]
pub struct Stop {
    ignored: Vec<i32>,
    interrupts: Arc<AtomicUsize>,
    terminations: Arc<AtomicUsize>,
}

impl Stop {
    /// From now on, signals are counted instead of ending the process.
    pub fn install() -> io::Result<Self> {
        let ignored = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|s| is_ignored(*s)).collect();
        let stop = Self { ignored, interrupts: Arc::default(), terminations: Arc::default() };
        for (signals, count) in
            [(&[SIGINT][..], &stop.interrupts), (&[SIGTERM, SIGHUP][..], &stop.terminations)]
        {
            for signal in signals {
                let count = Arc::clone(count);
                // SAFETY: an atomic addition is async-signal-safe.
                unsafe {
                    signal_hook::low_level::register(*signal, move || {
                        count.fetch_add(1, Ordering::SeqCst);
                    })?;
                }
            }
        }
        Ok(stop)
    }

    /// Those of the signals that were ignored before, as under nohup: so they are to
    /// be for the command.
    pub fn ignored(&self) -> &[i32] {
        &self.ignored
    }

    /// Times that Ctrl-C was pressed.
    pub fn interrupts(&self) -> usize {
        self.interrupts.load(Ordering::SeqCst)
    }

    /// Requests to end from elsewhere (SIGTERM, SIGHUP).
    pub fn terminations(&self) -> usize {
        self.terminations.load(Ordering::SeqCst)
    }

    /// Whether any came.
    pub fn asked(&self) -> bool {
        self.interrupts() + self.terminations() > 0
    }
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeroes is a value of sigaction.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only; the pointer is to a live value of its type.
    let ret = unsafe { libc::sigaction(signal, std::ptr::null(), &mut now) };
    ret == 0 && now.sa_sigaction == libc::SIG_IGN
}
