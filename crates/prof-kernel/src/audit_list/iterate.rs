//! Loading the iterators, and what they find.

use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use libbpf_rs::MapCore as _;
use libbpf_rs::Object;
use libbpf_rs::ObjectBuilder;

use super::abi;
use super::abi::Record;
use crate::host;
use crate::sys;
use crate::sys::Counted;

/// The kernel half, as built by `cargo xtask bpf` and committed.
#[cfg(target_arch = "x86_64")]
static OBJECT: &[u8] = include_bytes!("../../../../bpf/objects/x86_64/audit_list.bpf.o");
#[cfg(target_arch = "aarch64")]
static OBJECT: &[u8] = include_bytes!("../../../../bpf/objects/aarch64/audit_list.bpf.o");

const FILES: &str = "list_files";
const LINKS: &str = "list_links";

/// `PERF_TYPE_SOFTWARE` and `PERF_COUNT_SW_DUMMY`.
const SOFTWARE: u32 = 1;
const DUMMY: u64 = 9;

/// `enum prof_list_mode`.
const LEARN: u32 = 0;
const ALL: u32 = 1;

/// `perf_event_attr.type` of probes, as sysfs has it.
#[derive(Debug, Clone, Copy)]
pub struct ProbeTypes {
    /// Of functions of the kernel.
    pub kprobe: Option<u32>,
    /// Of places in files.
    pub uprobe: Option<u32>,
}

/// The iterators, loaded.
#[derive(Debug)]
pub struct Iterators {
    files: OwnedFd,
    links: Option<OwnedFd>,
    /// Links that no task holds are not looked at, and why.
    pub no_links: Option<String>,
    /// To be on a CPU brings the times of all that is open there up to date.
    _own: Vec<OwnedFd>,
    _object: Object,
}

impl Iterators {
    /// Loads them, and learns how files of events are known.
    pub fn load(probes: ProbeTypes) -> Result<Self> {
        // Before 5.19 there is no iterator over links: without it.
        match Self::load_with(probes, true) {
            Ok(loaded) => Ok(loaded),
            Err(first) => {
                let mut loaded = Self::load_with(probes, false).map_err(|_| first)?;
                loaded.no_links = Some(
                    "this kernel cannot list BPF links (5.19 can): perf events that only a \
                     pinned link keeps open are missing"
                        .into(),
                );
                Ok(loaded)
            }
        }
    }

    fn load_with(probes: ProbeTypes, links: bool) -> Result<Self> {
        libbpf_rs::set_print(None);
        let mut open = ObjectBuilder::default()
            .open_memory(OBJECT)
            .context("the built-in BPF object of the list")?;
        for mut p in open.progs_mut() {
            let wanted = links || p.name() != LINKS;
            p.set_autoload(wanted);
        }
        let object = open.load().context("the iterators of the list could not be loaded")?;
        let iterator = |name: &str| {
            let found = object.progs().find(|p| p.name() == name);
            let prog = found.ok_or_else(|| anyhow!("the BPF object has no program {name}"))?;
            sys::iter_link(prog.as_fd()).with_context(|| format!("iterator {name}"))
        };
        let map = object.maps().find(|m| m.name() == "list_state");
        let map = map.ok_or_else(|| anyhow!("the BPF object has no map list_state"))?;
        let files = iterator(FILES)?;
        let own = own_events()?;
        let perf = own.first().ok_or_else(|| anyhow!("no CPU to open an event on"))?;
        let mut state = abi::State {
            mode: LEARN,
            tgid: std::process::id(),
            fds: [perf.as_raw_fd(), files.as_raw_fd()],
            ident_subsys: host::cgroup_identity(&host::cgroup_mounts()).unwrap_or(u32::MAX),
            kprobe_type: probes.kprobe.unwrap_or(u32::MAX),
            uprobe_type: probes.uprobe.unwrap_or(u32::MAX),
            ..abi::State::default()
        };
        sys::map_update(map.as_fd(), &0u32, &state)?;
        read(files.as_fd())?;
        let learnt: Option<abi::State> = sys::map_lookup(map.as_fd(), &0u32)?;
        state = learnt.ok_or_else(|| anyhow!("list_state has no value"))?;
        if state.served_by.contains(&0) {
            bail!("prof's own perf event is not among the open files: is this a pid namespace?");
        }
        state.mode = ALL;
        sys::map_update(map.as_fd(), &0u32, &state)?;
        let links = if links { Some(iterator(LINKS)?) } else { None };
        Ok(Self { files, links, no_links: None, _own: own, _object: object })
    }

    /// Looks at every open file and every link.
    pub fn run(&self) -> Result<Vec<Record>> {
        let mut bytes = read(self.files.as_fd())?;
        if let Some(links) = &self.links {
            bytes.extend(read(links.as_fd())?);
        }
        abi::decode(&bytes).ok_or_else(|| anyhow!("the list of files makes no sense"))
    }
}

/// An event on each CPU that may be interrupted for it; on one at least.
fn own_events() -> Result<Vec<OwnedFd>> {
    let mut cpus = host::interruptible_cpus();
    if cpus.is_empty() {
        cpus = host::online_cpus()?;
        cpus.truncate(1);
    }
    let attr = prof_events::Attr::counting(SOFTWARE, DUMMY);
    let open = |cpu: u32| sys::counter_open(&attr, Counted::Cpu(cpu), None);
    cpus.into_iter().map(|c| open(c).with_context(|| format!("an event on CPU {c}"))).collect()
}

fn read(link: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let iterator = sys::iter_of(link).context("iterator")?;
    sys::read_all(iterator).context("iterator")
}
