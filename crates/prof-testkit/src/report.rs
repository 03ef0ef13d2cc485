//! `key=value` lines on standard output.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::Write as _;

use libc::c_int;

use crate::error::{Error, Result};
use crate::sys;

/// Mean of the middle half of some times, whatever disturbed the slowest; 0 of none.
pub fn middle_mean(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    let quarter = times.len() / 4;
    let middle = &times[quarter..times.len() - quarter];
    middle.iter().sum::<u64>() / (middle.len() as u64).max(1)
}

/// Facts collected for one write to standard output.
#[derive(Default)]
pub struct Facts {
    text: String,
}

impl Facts {
    /// An empty collection.
    pub fn new() -> Self {
        Self::default()
    }

    /// A collection that starts with the pid of the calling process.
    pub fn with_pid() -> Self {
        let mut facts = Self::new();
        facts.add("pid", sys::pid());
        facts
    }

    /// Adds one line.
    pub fn add(&mut self, key: &str, value: impl fmt::Display) {
        // Formatting into a `String` cannot fail by itself.
        let _ = writeln!(self.text, "{key}={value}");
    }

    /// Adds a wait status: raw, then decoded.
    pub fn add_status(&mut self, prefix: &str, status: c_int) {
        self.add(&format!("{prefix}wait_status"), status);
        if libc::WIFEXITED(status) {
            self.add(&format!("{prefix}child_exit"), libc::WEXITSTATUS(status));
        } else if libc::WIFSIGNALED(status) {
            self.add(&format!("{prefix}child_signal"), libc::WTERMSIG(status));
            self.add(&format!("{prefix}child_core"), u8::from(libc::WCOREDUMP(status)));
        }
    }

    /// Adds what `getrusage(RUSAGE_SELF)` says now.
    pub fn add_rusage(&mut self) -> Result<()> {
        let usage = sys::rusage_self()?;
        self.add("ru_utime_us", sys::timeval_us(&usage.ru_utime));
        self.add("ru_stime_us", sys::timeval_us(&usage.ru_stime));
        self.add("ru_maxrss_kib", usage.ru_maxrss);
        self.add("ru_minflt", usage.ru_minflt);
        self.add("ru_majflt", usage.ru_majflt);
        self.add("ru_inblock", usage.ru_inblock);
        self.add("ru_oublock", usage.ru_oublock);
        self.add("ru_nvcsw", usage.ru_nvcsw);
        self.add("ru_nivcsw", usage.ru_nivcsw);
        Ok(())
    }

    /// Adds the counters of `/proc/self/io` as `io_*`, where the kernel has them.
    pub fn add_proc_io(&mut self) {
        let Ok(text) = fs::read_to_string("/proc/self/io") else {
            return;
        };
        for line in text.lines() {
            if let Some((key, value)) = line.split_once(':') {
                self.add(&format!("io_{key}"), value.trim());
            }
        }
    }

    /// Writes everything at once.
    pub fn print(self) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(self.text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(|e| Error::io("standard output", &e))
    }
}
