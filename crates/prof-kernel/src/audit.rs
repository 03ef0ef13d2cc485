//! `prof audit`'s session: tells who switches profiling on and off, whoever it is.
//!
//! - [`derive`]: from what the kernel half tells to the switches
//! - [`hooks`]: what it is attached to, in each of the ways
//! - [`tracefs`]: what is switched on by writing to files
//!
//! What is attached costs others something: [`Audit::attached`] has the list.

pub mod derive;
mod hear;
pub mod hooks;
mod look;
mod people;
mod start;
#[cfg(test)]
mod tests;
mod totals;
pub mod tracefs;

use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use prof_model::record::Attached;
use prof_model::record::Ident;
use prof_model::record::Process;

use self::hooks::Hook;
use self::hooks::ONLY_32_BIT;
use self::hooks::PROCESSES;
use self::hooks::Way;
use crate::abi::Config;
use crate::abi::DecodeError;
use crate::abi::Plain as _;
use crate::abi::audit::AbiLook;
use crate::abi::audit::AbiWho;
use crate::abi::audit::AuditGlobals;
use crate::abi::audit::KNOWN;
use crate::abi::audit::LOOKS;
use crate::abi::audit::NR_COUNTERS;
use crate::abi::audit::RawAudit;
use crate::abi::audit::decode;
use crate::audit_list::processes;
use crate::host;
use crate::loader;
use crate::loader::Loaded;
use crate::loader::NotLoaded;
use crate::probe::Privileges;
use crate::sys;
use crate::sys::PerfSpec;
use crate::sys::Ring;
use crate::sys::Words;

/// What to do.
#[derive(Debug, Clone)]
pub struct AuditPlan {
    /// By what it is told; `None`: the first that works.
    pub way: Option<Way>,
    /// Bytes of the ring buffer; rounded up to a power of two of pages.
    pub ring_bytes: u32,
    /// BTF of the kernel, if not where it usually is.
    pub btf: Option<PathBuf>,
    /// Where prepared programs are kept; `None`: nowhere.
    pub cache: Option<PathBuf>,
}

/// A loaded and attached audit. Detaches when dropped.
#[derive(Debug)]
pub struct Audit {
    loaded: Loaded,
    ring: Ring,
    known: Words,
    attached: Vec<Attached>,
    limits: Vec<String>,
    cpus: usize,
    clock_types: [u32; 2],
    /// Attached as long as these are.
    _links: Vec<OwnedFd>,
}

impl Audit {
    /// Loads and attaches. From its return on, every switch is seen.
    pub fn open(plan: &AuditPlan) -> Result<Self> {
        let ways = match &plan.way {
            Some(way) => std::slice::from_ref(way),
            None => &Way::ALL,
        };
        let mut error = None;
        for way in ways {
            match Self::open_by(plan, *way) {
                Ok(audit) => return Ok(audit),
                // That of the last, which needs least, says most.
                Err(e) => error = Some(e),
            }
        }
        Err(error.unwrap_or_else(|| anyhow!("no way to attach was tried")))
    }

    fn open_by(plan: &AuditPlan, way: Way) -> Result<Self> {
        match Self::open_with(plan, way.hooks()) {
            Err(e) if format!("{e:#}").contains(ONLY_32_BIT) => {
                let hooks = way.hooks().into_iter().filter(|h| !h.is_32_bit()).collect();
                let mut audit = Self::open_with(plan, hooks)?;
                audit.limits.push(
                    "what 32-bit programs open is not seen, if this kernel runs any: it has no \
                     function of its own for that"
                        .into(),
                );
                Ok(audit)
            }
            // With all rights it is trampolines that are refused, not BPF.
            Err(e)
                if way == Way::Fentry
                    && (sys::is_refusal(&e)
                        || e.downcast_ref::<NotLoaded>().is_some_and(NotLoaded::is_of_kind))
                    && Privileges::of_this_process().suffice() =>
            {
                Err(anyhow!(
                    "the kernel refuses trampolines, which `fentry` is by: it is without \
                     CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS, or locked down; `prof doctor` \
                     says which ways there are"
                ))
            }
            other => other,
        }
    }

    fn open_with(plan: &AuditPlan, hooks: Vec<Hook>) -> Result<Self> {
        let ring_bytes = crate::session::ring_size(plan.ring_bytes);
        let mounts = host::cgroup_mounts();
        let config = Config {
            ident_subsys: host::cgroup_identity(&mounts).unwrap_or(u32::MAX),
            ring_wakeup: ring_bytes / 8,
            ..Config::zeroed()
        };
        let hooked = PROCESSES.iter().chain(&hooks).map(|h| h.program);
        let mut programs: Vec<_> =
            hooked.chain(["audit_learn", "audit_look", "audit_who"]).collect();
        // One may be at two places.
        programs.dedup();
        let loaded = loader::load(&loader::Spec {
            objects: &loader::AUDIT,
            programs: &programs,
            config: &config,
            sizes: &[("audit_records", ring_bytes)],
            value_sizes: &[],
            btf: plan.btf.as_deref(),
            reuse: None,
            cache: plan.cache.clone(),
        })
        .context("the programs of the audit")?;
        let ring = Ring::new(loaded.map("audit_records")?).context("ring buffer")?;
        let known = Words::new(loaded.map(".bss.known")?, KNOWN).context("table of tgids")?;
        let mut audit = Self {
            loaded,
            ring,
            known,
            attached: Vec::new(),
            limits: Vec::new(),
            cpus: host::possible_cpus()?,
            clock_types: [0; 2],
            _links: Vec::new(),
        };
        audit.attach(&hooks)?;
        Ok(audit)
    }

    fn attach(&mut self, hooks: &[Hook]) -> Result<()> {
        self.attach_all(&PROCESSES)?;
        let link = self._links.first().map_or(-1, |fd| fd.as_raw_fd());
        self.learn(link)?;
        self.attach_all(hooks)
    }

    fn attach_all(&mut self, hooks: &[Hook]) -> Result<()> {
        for hook in hooks {
            self._links.push(hook.attach(&self.loaded)?);
            self.attached.push(hook.told());
        }
        Ok(())
    }

    /// Shows the programs a file of a perf event and one of a link.
    fn learn(&mut self, link_fd: i32) -> Result<()> {
        const SOFTWARE: u32 = 1;
        // cpu-clock and task-clock are their configs 0 and 1. They never go on.
        let open = |config| {
            sys::perf_open(&PerfSpec {
                kind: SOFTWARE,
                config,
                pid: 0,
                cpu: -1,
                inherit: false,
                enable_on_exec: true,
                exclude_kernel: true,
            })
            .context("an event of its own")
        };
        let clocks = [open(0)?, open(1)?];
        let clock_fd = clocks.each_ref().map(|fd| fd.as_fd().as_raw_fd());
        let map = self.loaded.map(".bss.audit")?;
        let globals = AuditGlobals {
            perf_fops: 0,
            link_fops: 0,
            perf_fd: clock_fd[0],
            link_fd,
            clock_fd,
            clock_type: [0; 2],
            own_tgid: 0,
            pad: 0,
        };
        sys::map_update(map, &0u32, &globals)?;
        sys::prog_run(self.loaded.prog("audit_learn")?).context("audit_learn")?;
        let learnt: AuditGlobals =
            sys::map_lookup(map, &0u32)?.ok_or_else(|| anyhow!("no globals in the object"))?;
        if learnt.perf_fops == 0 {
            return Err(anyhow!("the kernel's files of perf events could not be told from others"));
        }
        self.clock_types = learnt.clock_type;
        if learnt.link_fops == 0 {
            let limit = "BPF programs are not seen when they are attached: the kernel has no links";
            self.limits.push(limit.into());
        }
        Ok(())
    }

    /// What is attached.
    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// The types that the kernel gives cpu-clock and task-clock: to who opened them they
    /// are software events.
    pub fn clock_types(&self) -> [u32; 2] {
        self.clock_types
    }

    /// What is not seen, one sentence each.
    pub fn limits(&self) -> &[String] {
        &self.limits
    }

    /// Readable when there is something at once.
    pub fn as_poll_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_epoll_fd()
    }

    /// What has been told, at most a batch; empty when there is nothing.
    pub fn consume(&mut self) -> io::Result<Vec<Result<RawAudit, DecodeError>>> {
        Ok(self.ring.consume()?.iter().map(|bytes| decode(bytes)).collect())
    }

    /// How much has been told, and how much of it consumed.
    pub fn positions(&self) -> (u64, u64) {
        self.ring.positions()
    }

    /// How these events, address and number of each, are now; in their order.
    pub fn look(&self, events: &[(u64, u64)]) -> Result<Vec<AbiLook>> {
        let map = self.loaded.map("audit_looks")?;
        let prog = self.loaded.prog("audit_look")?;
        let mut all = Vec::with_capacity(events.len());
        for some in events.chunks(LOOKS) {
            let mut bytes = vec![0u8; 8 + LOOKS * size_of::<AbiLook>()];
            bytes[..4].copy_from_slice(&(some.len() as u32).to_ne_bytes());
            for (to, (addr, _)) in bytes[8..].chunks_exact_mut(size_of::<AbiLook>()).zip(some) {
                to[..8].copy_from_slice(&addr.to_ne_bytes());
            }
            sys::map_update_bytes(map, &0u32, &bytes)?;
            sys::prog_run(prog).context("audit_look")?;
            sys::map_lookup_bytes(map, &0u32, &mut bytes)?;
            let looks = bytes[8..].chunks_exact(size_of::<AbiLook>()).take(some.len());
            all.extend(looks.filter_map(AbiLook::from_bytes));
        }
        Ok(all)
    }

    /// Hooks are to look at nobody: to be called when nothing is left to be audited.
    /// Whoever is told of later has to be [`known`](Self::known) again.
    pub fn forget(&self) {
        self.known.write(0, std::iter::repeat_n(0, KNOWN));
    }

    /// Hooks are to look at this process.
    pub fn known(&self, pid: u32) {
        self.known.store(pid as usize % KNOWN, 1);
    }

    /// Who has this pid, as the kernel has it; `None` if nobody does. /proc says when a process
    /// was started to 10 ms, and not how many programs it has executed.
    pub fn who(&self, pid: u32) -> Option<Ident> {
        let fd = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
        let fd = rustix::process::pidfd_open(fd, rustix::process::PidfdFlags::empty()).ok()?;
        let map = self.loaded.map(".bss.who").ok()?;
        let asked = AbiWho { fd: fd.as_raw_fd(), ..AbiWho::nobody() };
        sys::map_update(map, &0u32, &asked).ok()?;
        sys::prog_run(self.loaded.prog("audit_who").ok()?).ok()?;
        let told: AbiWho = sys::map_lookup(map, &0u32).ok()??;
        // Of a kernel that keeps it elsewhere, whatever was there.
        (told.who.pid == pid).then(|| Ident::from(&told.who))
    }

    /// Makes exact what /proc told of a process.
    pub fn make_exact(&self, p: &mut Process) {
        let told = self.who(p.ident.pid).filter(|i| processes::is_same_start(i, &p.ident));
        if let Some(ident) = told {
            p.ident = Ident { tid: p.ident.tid, ..ident };
        }
    }

    /// Whether a BPF link is still there.
    pub fn has_link(&self, id: u32) -> bool {
        sys::has_link(id)
    }

    /// `enum audit_counter`, of all CPUs.
    pub fn counters(&self) -> Result<[u64; NR_COUNTERS]> {
        self.loaded.counters("audit_cpus", 0, self.cpus)
    }

    /// Times that the kernel skipped a program because another of its kind was running
    /// on that CPU.
    pub fn skipped(&self) -> u64 {
        self.loaded.stats().iter().map(|(_, i)| i.recursion_misses).sum()
    }
}
