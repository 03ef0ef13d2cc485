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

/// What the kernel half found.
#[derive(Debug, Default)]
pub struct Found {
    /// Events and holders of links.
    pub records: Vec<Record>,
    /// Links that no task holds were not looked at, and why.
    pub no_links: Option<String>,
}

/// Looks at every open file and every link.
pub fn iterate(probes: ProbeTypes) -> Result<Found> {
    // Before 5.19 there is no iterator over links: without it.
    match load_and_iterate(probes, true) {
        Ok(found) => Ok(found),
        Err(first) => {
            let mut found = load_and_iterate(probes, false).map_err(|_| first)?;
            found.no_links = Some(
                "this kernel cannot list BPF links (5.19 can): perf events that only a pinned \
                 link keeps open are missing"
                    .into(),
            );
            Ok(found)
        }
    }
}

fn load_and_iterate(probes: ProbeTypes, links: bool) -> Result<Found> {
    libbpf_rs::set_print(None);
    let mut open = ObjectBuilder::default()
        .open_memory(OBJECT)
        .context("the built-in BPF object of the list")?;
    for mut p in open.progs_mut() {
        let wanted = links || p.name() != LINKS;
        p.set_autoload(wanted);
    }
    let object = open.load().context("the iterators of the list could not be loaded")?;
    let prog = |name: &str| {
        let found = object.progs().find(|p| p.name() == name);
        let fd = found.map(|p| p.as_fd().try_clone_to_owned());
        fd.ok_or_else(|| anyhow!("the BPF object has no program {name}"))?.context("descriptor")
    };
    let map = object.maps().find(|m| m.name() == "list_state");
    let map = map.ok_or_else(|| anyhow!("the BPF object has no map list_state"))?;
    let files = prog(FILES)?;
    // To be on a CPU brings the times of all that is open there up to date, too.
    let own = own_events()?;
    let perf = own.first().ok_or_else(|| anyhow!("no CPU to open an event on"))?;
    let link = sys::iter_link(files.as_fd()).context("file iterator")?;
    let mut state = abi::State {
        mode: LEARN,
        tgid: std::process::id(),
        fds: [perf.as_raw_fd(), link.as_raw_fd()],
        ident_subsys: host::cgroup_identity(&host::cgroup_mounts()).unwrap_or(u32::MAX),
        kprobe_type: probes.kprobe.unwrap_or(u32::MAX),
        uprobe_type: probes.uprobe.unwrap_or(u32::MAX),
        ..abi::State::default()
    };
    sys::map_update(map.as_fd(), &0u32, &state)?;
    read(link.as_fd())?;
    let learnt: Option<abi::State> = sys::map_lookup(map.as_fd(), &0u32)?;
    state = learnt.ok_or_else(|| anyhow!("list_state has no value"))?;
    if state.served_by.contains(&0) {
        bail!("prof's own perf event is not among the open files: is this a pid namespace?");
    }
    state.mode = ALL;
    sys::map_update(map.as_fd(), &0u32, &state)?;
    let mut bytes = read(link.as_fd())?;
    if links {
        let over_links = sys::iter_link(prog(LINKS)?.as_fd()).context("link iterator")?;
        bytes.extend(read(over_links.as_fd())?);
    }
    let records = abi::decode(&bytes);
    let records = records.ok_or_else(|| anyhow!("the list of files makes no sense"))?;
    Ok(Found { records, no_links: None })
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
