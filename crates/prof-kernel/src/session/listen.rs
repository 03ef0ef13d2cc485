//! What a session hears from programs themselves: probes of files that turn up, regions.

use std::fs::File;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;

use super::Heard;
use super::Session;
use super::value_sizes;
use crate::abi;
use crate::abi::NR_REGION_COUNTERS;
use crate::abi::RawRecord;
use crate::regions;
use crate::regions::Known;
use crate::regions::RegionSum;
use crate::regions::Regions;
use crate::usdt::Probe;

impl Session {
    /// Attaches to the probes of a program that is not known yet, if it has any. What
    /// cannot be had is only told.
    pub(super) fn listen_to(&mut self, path: &Path) {
        let Some(known) = &mut self.known else { return };
        match known.look(path, path) {
            Ok(Some(found)) => drop(self.listen(&found)),
            Ok(None) => {}
            Err(e) => self.limits.push(format!("no regions of {}: {e}", path.display())),
        }
    }

    fn listen(&mut self, (file, probes, path): &regions::Found) -> bool {
        match self.try_to_listen(file, probes, path) {
            Ok(()) => true,
            Err(e) => {
                self.limits.push(format!("no regions of {}: {e:#}", path.display()));
                false
            }
        }
    }

    /// Attaches to the probes of what a process runs and maps; whether there are any that
    /// were not known.
    pub fn look_into(&mut self, pid: u32) -> bool {
        let found = self.known.as_mut().map(|known| known.mapped(pid)).unwrap_or_default();
        // Each of them, not only the first.
        found.iter().filter(|found| self.listen(found)).count() > 0
    }

    /// The same for processes that began a while ago; those in which something was found.
    pub fn look_into_recent(&mut self) -> Vec<u32> {
        let mut late = Vec::new();
        while let Some(pid) = self.known.as_mut().and_then(Known::next_due) {
            if self.look_into(pid) {
                late.push(pid);
            }
        }
        late
    }

    /// Attaches to probes whoever has them, and says how.
    pub(crate) fn listen_at(
        &mut self,
        file: &File,
        probes: &[Probe],
        path: &Path,
    ) -> Result<&'static str> {
        self.try_to_listen(file, probes, path)?;
        self.attached.last().map(|a| a.how).context("nothing to attach to")
    }

    fn try_to_listen(&mut self, file: &File, probes: &[Probe], path: &Path) -> Result<()> {
        if self.regions.is_none() {
            let programs = regions::programs();
            let value_sizes = value_sizes(self.config.counters as usize);
            let loaded = self
                .load_more(&programs, &self.region_sizes, &value_sizes)
                .context("the programs of regions")?;
            let counters = self.config.counters as usize;
            self.regions = Some(Regions::begin(loaded, counters, self.cpus)?);
        }
        if let Some(regions) = &mut self.regions {
            self.attached.extend(regions.attach(file, probes, path)?);
        }
        Ok(())
    }

    /// Is told of each record before anybody makes something of it.
    pub fn hear(&mut self, raw: &RawRecord) -> Result<Heard> {
        let mut heard = Heard::default();
        match raw {
            RawRecord::Enable { rec, path, .. } if !path.is_empty() => {
                let Some(known) = &mut self.known else { return Ok(heard) };
                if let Some(found) = known.program(rec.id.pid, rec.id.mntns, path) {
                    heard.late = self.listen(&found);
                }
            }
            RawRecord::Region(rec) => {
                if let Some(regions) = &mut self.regions {
                    regions.note(rec.key);
                }
            }
            RawRecord::Disable { rec, .. } => {
                let exited = rec.head.flags & abi::F_EXIT != 0;
                heard.regions = self.take_regions(rec.id.pid, rec.window_start_ns, exited)?;
            }
            RawRecord::Enable { .. } | RawRecord::Thread { .. } => {}
        }
        Ok(heard)
    }

    /// The regions of a window that has ended.
    pub fn take_regions(
        &mut self,
        pid: u32,
        start_ns: u64,
        exited: bool,
    ) -> Result<Vec<RegionSum>> {
        let regions = self.regions.as_mut();
        regions.map_or(Ok(Vec::new()), |r| r.take(pid, start_ns, exited))
    }

    /// The regions so far of a window that goes on.
    pub fn regions_so_far(&self, pid: u32, start_ns: u64) -> Result<Vec<RegionSum>> {
        self.regions.as_ref().map_or(Ok(Vec::new()), |r| r.so_far(pid, start_ns))
    }

    /// Regions that could not be measured, by `RegionCounter`.
    pub fn region_counters(&self) -> Result<[u64; NR_REGION_COUNTERS]> {
        self.regions.as_ref().map_or(Ok([0; NR_REGION_COUNTERS]), Regions::counters)
    }
}

/// The maps of regions, as large as this session can need them.
pub(super) fn region_sizes(processes: u32) -> [(&'static str, u32); 4] {
    // Far more than one program has, far less than all of them may.
    let many = processes.clamp(4096, 1 << 20);
    let threads = many.saturating_mul(4);
    [
        ("region_threads", threads),
        ("region_open", threads),
        ("region_sums", many),
        ("region_names", many),
    ]
}
