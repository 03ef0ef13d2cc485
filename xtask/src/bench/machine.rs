//! Where and when was measured.

use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;
use serde_json::json;

use crate::command::output;

/// This machine, now.
#[derive(Debug)]
pub struct Machine {
    cpu: String,
    cpus: usize,
    virtual_machine: bool,
    kernel: String,
    date: String,
}

impl Machine {
    /// Reads it.
    pub fn read() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim())
        };
        let (_, kernel, arch) = prof_kernel::host::uname();
        Ok(Self {
            cpu: field("model name").unwrap_or("unknown CPU").to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            virtual_machine: field("flags")
                .is_some_and(|f| f.split(' ').any(|f| f == "hypervisor")),
            kernel: format!("{kernel} {arch}"),
            date: output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?.trim().to_owned(),
        })
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({ "cpu": self.cpu, "cpus": self.cpus, "virtual": self.virtual_machine,
            "kernel": self.kernel, "date": self.date })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.virtual_machine { " (virtual machine)" } else { "" };
        write!(f, "{} CPUs {}{kind}, Linux {}, {}", self.cpus, self.cpu, self.kernel, self.date)
    }
}
