//! Probes on functions of the kernel.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;

use crate::sys;

/// What the kernel calls them.
#[derive(Debug, Clone, Copy)]
pub struct Kprobes {
    pmu: u32,
    return_bit: u32,
}

impl Kprobes {
    /// Fails if the kernel has none.
    pub fn find() -> Result<Self> {
        let dir = "/sys/bus/event_source/devices/kprobe";
        let pmu = fs::read_to_string(format!("{dir}/type"))
            .map_err(|_| anyhow!("this kernel has no kprobes (CONFIG_KPROBE_EVENTS)"))?
            .trim()
            .parse()
            .context("type of the kprobe PMU")?;
        // `config:0`: the bit that makes it a return probe.
        let format = fs::read_to_string(format!("{dir}/format/retprobe")).unwrap_or_default();
        let bit = format.trim().strip_prefix("config:").and_then(|b| b.parse().ok());
        Ok(Self { pmu, return_bit: bit.unwrap_or(0) })
    }

    /// Has a program run where the first of these functions that can be probed begins, or
    /// where it returns; which one that is.
    pub fn attach<'f>(
        &self,
        functions: &[&'f CStr],
        on_return: bool,
        prog: BorrowedFd<'_>,
    ) -> Result<(OwnedFd, &'f CStr)> {
        let mut last = None;
        for f in functions {
            match sys::kprobe_open(self.pmu, f, on_return, self.return_bit, prog) {
                Ok(link) => return Ok((link, f)),
                Err(e) => last = Some(e),
            }
        }
        let tried: Vec<_> = functions.iter().map(|f| f.to_string_lossy()).collect();
        let error = last.unwrap_or_else(|| io::Error::other("no function to try"));
        Err(error).with_context(|| format!("attaching a kprobe to {}", tried.join(" or ")))
    }
}
