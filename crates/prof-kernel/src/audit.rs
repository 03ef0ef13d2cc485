//! `prof audit`'s session: tells who switches profiling on and off, whoever it is.
//!
//! - [`derive`]: from what the kernel half tells to the switches
//! - [`tracefs`]: what is switched on by writing to files
//!
//! What is attached costs others something: [`Audit::attached`] has the list.

pub mod derive;
mod hear;
mod look;
mod people;
#[cfg(test)]
mod tests;
mod totals;
pub mod tracefs;

use std::ffi::CStr;
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

use crate::abi::Config;
use crate::abi::DecodeError;
use crate::abi::Plain as _;
use crate::abi::audit::AbiLook;
use crate::abi::audit::AuditGlobals;
use crate::abi::audit::KNOWN;
use crate::abi::audit::LOOKS;
use crate::abi::audit::NR_COUNTERS;
use crate::abi::audit::RawAudit;
use crate::abi::audit::decode;
use crate::host;
use crate::loader;
use crate::loader::Loaded;
use crate::session::tracepoint_id;
use crate::sys;
use crate::sys::PerfSpec;
use crate::sys::Ring;
use crate::sys::Words;

/// What to do.
#[derive(Debug, Clone)]
pub struct AuditPlan {
    /// Bytes of the ring buffer; rounded up to a power of two of pages.
    pub ring_bytes: u32,
    /// BTF of the kernel, if not where it usually is.
    pub btf: Option<PathBuf>,
    /// Where prepared programs are kept; `None`: nowhere.
    pub cache: Option<PathBuf>,
}

/// Programs, and the system call whose tracepoint each is at.
const SYSCALLS: [(&str, &str); 7] = [
    ("audit_close", "sys_enter_close"),
    ("audit_ioctl", "sys_enter_ioctl"),
    ("audit_prctl", "sys_enter_prctl"),
    ("audit_ptrace", "sys_enter_ptrace"),
    ("audit_traced", "sys_exit_ptrace"),
    ("audit_bpf", "sys_exit_bpf"),
    // The last: from then on there is something that the others are to see.
    ("audit_opened", "sys_exit_perf_event_open"),
];

/// The same at raw tracepoints.
const HOOKS: [(&str, &CStr); 3] = [
    ("audit_exit", c"sched_process_exit"),
    ("audit_fork", c"sched_process_fork"),
    ("audit_exec", c"sched_process_exec"),
];

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
        let ring_bytes = crate::session::ring_size(plan.ring_bytes);
        let mounts = host::cgroup_mounts();
        let config = Config {
            ident_subsys: host::cgroup_identity(&mounts).unwrap_or(u32::MAX),
            ring_wakeup: ring_bytes / 8,
            ..Config::zeroed()
        };
        let of_syscalls = SYSCALLS.iter().map(|(p, _)| *p);
        let of_hooks = HOOKS.iter().map(|(p, _)| *p);
        let programs: Vec<_> =
            of_syscalls.chain(of_hooks).chain(["audit_learn", "audit_look"]).collect();
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
        audit.attach()?;
        Ok(audit)
    }

    fn attach(&mut self) -> Result<()> {
        let mut link = None;
        for (prog, hook) in HOOKS {
            let name = hook.to_string_lossy().into_owned();
            let fd = sys::raw_tracepoint_open(Some(hook), self.loaded.prog(prog)?)
                .with_context(|| format!("attaching to {name}"))?;
            link.get_or_insert(fd.as_raw_fd());
            self._links.push(fd);
            self.attached.push(Attached { hook: name, how: "raw_tp" });
        }
        self.learn(link.unwrap_or(-1))?;
        for (prog, hook) in SYSCALLS {
            let id = tracepoint_id("syscalls", hook).with_context(|| {
                format!("no tracepoint {hook}: the kernel is without CONFIG_FTRACE_SYSCALLS")
            })?;
            let fd = sys::tracepoint_open(id, self.loaded.prog(prog)?)
                .with_context(|| format!("attaching to {hook}"))?;
            self._links.push(fd);
            self.attached.push(Attached { hook: hook.to_owned(), how: "tracepoint" });
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
