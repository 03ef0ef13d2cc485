//! What is attached for time off the CPU: where a CPU switches from one thread to
//! another, and where one wakes another. Only while it is asked for.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use anyhow::Result;

use crate::abi::stacks::AbiOffThread;
use crate::loader::Loaded;
use crate::sys;

/// Time off the CPU, and which of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OffCpu {
    /// Shorter times are left out, ns.
    pub min_ns: u64,
    /// Nothing else is sampled.
    pub only: bool,
}

/// Its hooks and their ring.
#[derive(Debug)]
pub(crate) struct OffHooks {
    pub ring: sys::Ring,
    links: Vec<OwnedFd>,
}

impl OffHooks {
    pub const PROGRAMS: [&'static str; 3] = ["off_switch", "off_waking", "off_exit"];

    /// Of programs that are loaded; nothing is attached yet.
    pub fn new(loaded: &Loaded) -> Result<Self> {
        let ring = sys::Ring::new(loaded.map("off_samples")?).context("ring of off_samples")?;
        Ok(Self { ring, links: Vec::new() })
    }

    pub fn attach(&mut self, loaded: &Loaded) -> Result<()> {
        // What removes a thread comes before what notes it.
        for (prog, hook) in [
            ("off_exit", c"sched_process_exit"),
            ("off_waking", c"sched_waking"),
            ("off_switch", c"sched_switch"),
        ] {
            let link = sys::raw_tracepoint_open(Some(hook), loaded.prog(prog)?)
                .with_context(|| format!("attaching to {}", hook.to_string_lossy()))?;
            self.links.push(link);
        }
        Ok(())
    }

    pub fn detach(&mut self) {
        self.links.clear();
    }
}

/// Threads that are off the CPU, and since when.
pub(crate) fn still_off(loaded: &Loaded) -> Result<HashMap<u32, u64>> {
    /// Entries come and go meanwhile, and a removed one starts over.
    const MOST: u32 = 1 << 22;
    let map = loaded.map("off_threads")?;
    let mut off = HashMap::new();
    let mut key: Option<u64> = None;
    for _ in 0..MOST {
        let Some(next) = sys::map_next_key(map, key.as_ref())? else { break };
        if let Some(t) = sys::map_lookup::<u64, AbiOffThread>(map, &next)?
            && t.off_ns != 0
        {
            off.insert(t.tid, t.off_ns);
        }
        key = Some(next);
    }
    Ok(off)
}
