//! What is being profiled now, also by profilers that were there before.
//!
//! One topic a file: `iterate`, the kernel half; `abi`, the layout of what it finds;
//! `looked`, what that comes to; `links`, BPF programs that are attached by links; `traced`, ptrace; `tracefs`;
//! `open_files`, what is left without BPF; `processes`, who a number is.

mod abi;
mod iterate;
pub mod links;
mod looked;
mod open_files;
pub mod processes;
mod traced;
pub(crate) mod tracefs;

use std::collections::HashMap;

use anyhow::Result;
use anyhow::anyhow;
use prof_events::describe::Names;
use prof_model::audit::Changes;
use prof_model::audit::Monitor;
use prof_model::audit::PerfAttr;
use prof_model::audit::Target;
use prof_model::audit::What;
use prof_model::audit::list::Copies;
use prof_model::audit::list::Holder;
use prof_model::audit::list::List;
use prof_model::audit::list::Listed;
use prof_model::audit::list::State;
use prof_model::audit::list::Through;
use prof_model::record::Process;

use crate::clock;
use crate::host;
use iterate::Iterators;
use iterate::ProbeTypes;
use looked::Looked;

/// What is there now, but for tracefs.
#[derive(Debug, Default)]
pub struct Now {
    /// Perf events, links, tracees.
    pub entries: Vec<Listed>,
    /// What the kernel has of each perf event besides, by its number.
    pub inside: HashMap<u64, Inside>,
    /// Who inherited copies, by pid, where somebody asked.
    pub heirs: HashMap<u32, Process>,
    /// What could not be looked at, and why: one sentence each.
    pub limits: Vec<String>,
}

/// What the kernel has of a perf event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    /// Where.
    pub addr: u64,
    /// Threads that inherited a copy, and whether it is on there.
    pub copies: Vec<Copied>,
}

/// A thread that inherited a copy of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Copied {
    pub pid: u32,
    pub tid: u32,
    pub on: bool,
}

/// Looks as often as it is asked to, with what that takes loaded once.
#[derive(Debug)]
pub struct Lister<'a> {
    names: &'a Names,
    probes: ProbeTypes,
    iterators: Result<Iterators>,
}

impl<'a> Lister<'a> {
    /// Loads what it can.
    pub fn new(names: &'a Names) -> Self {
        let pmu = |name: &str| names.catalogue().pmu(name)?.ok().map(|p| p.type_);
        let probes = ProbeTypes { kprobe: pmu("kprobe"), uprobe: pmu("uprobe") };
        Self { names, probes, iterators: Iterators::load(probes) }
    }

    /// What is there now. What prof itself has open is left out.
    ///
    /// # Errors
    ///
    /// If it takes more than prof may do, or the kernel can.
    pub fn now(&self) -> Result<Now> {
        let iterators = self.iterators.as_ref().map_err(|e| anyhow!("{e:#}"))?;
        let mut looked = Looked::new(self.names, self.probes);
        for record in &iterators.run()? {
            looked.add(record);
        }
        let mut now = looked.finish();
        now.limits.extend(iterators.no_links.clone());
        now.entries.extend(traced::all().into_iter().filter_map(ptraced));
        Ok(now)
    }
}

/// Looks. What prof itself has open for that is left out; what cannot be looked at is
/// said in [`List::limits`].
pub fn list(names: &Names) -> List {
    let (host_name, kernel, _) = host::uname();
    let mut list = List {
        time_ns: clock::now_ns(rustix::time::ClockId::Realtime),
        version: env!("CARGO_PKG_VERSION"),
        host: host_name,
        kernel,
        ..List::default()
    };
    match Lister::new(names).now() {
        Ok(now) => (list.entries, list.limits) = (now.entries, now.limits),
        Err(e) => without_bpf(&mut list, &format!("{e:#}")),
    }
    match tracefs::all(&names.catalogue().host().tracefs) {
        Ok(all) => list.entries.extend(all.into_iter().map(through_tracefs)),
        Err(e) => list.limits.push(format!("tracefs cannot be read: {e}")),
    }
    list.entries.sort_by_cached_key(order);
    list
}

/// By who, then whom, then what.
fn order(l: &Listed) -> (u32, Through, Vec<u32>, Option<u32>, String, u64) {
    let by = l.by.as_ref().map_or(u32::MAX, |p| p.ident.pid);
    let target = l.target.process().map_or(vec![], |p| vec![p.ident.pid, p.ident.tid]);
    (by, l.through, target, l.cpu, l.monitor.name.clone(), l.monitor.id)
}

/// With nothing known of it.
pub(crate) fn nothing(through: Through) -> Listed {
    Listed {
        monitor: Monitor {
            id: 0,
            what: What::Ptrace,
            name: String::new(),
            cpu: None,
            leader: None,
            changes: Changes::default(),
            on_ns: None,
        },
        through,
        by: None,
        target: Target::Unknown,
        cpu: None,
        state: State::Unknown,
        holders: Vec::new(),
        copies: Copies::default(),
        enabled_ns: None,
        running_ns: None,
        link: None,
        program: None,
        sampled: Vec::new(),
        kernel_stacks: false,
        user_stacks: false,
        notes: Vec::new(),
    }
}

fn ptraced(t: traced::Traced) -> Option<Listed> {
    let mut listed = nothing(Through::Ptrace);
    listed.monitor.id = t.tid.into();
    listed.monitor.name = "ptrace".into();
    listed.by = processes::of_pid(t.by, t.by);
    listed.target = Target::Process(Box::new(processes::of_pid(t.pid, t.tid)?));
    listed.state = State::On;
    Some(listed)
}

fn through_tracefs(t: tracefs::Traced) -> Listed {
    let mut listed = nothing(Through::Tracefs);
    listed.monitor.name = t.name;
    listed.monitor.what = What::Tracefs { file: t.file, text: t.text };
    listed.target = Target::Host;
    listed.state = if t.on { State::On } else { State::Off };
    listed.notes.push("tracefs does not keep who switched it on");
    listed
}

/// Which processes have events open, and nothing of what they are.
fn without_bpf(list: &mut List, why: &str) {
    list.limits.push(format!(
        "without BPF ({}) only the descriptors that are perf events can be told: not what they \
         are, whom they are for, whether they are on, nor BPF programs; run as root",
        why.lines().next().unwrap_or_default()
    ));
    list.entries.extend(traced::all().into_iter().filter_map(ptraced));
    let (open, closed) = open_files::all();
    if closed > 0 {
        list.limits.push(format!("{closed} processes of other users may not be looked into"));
    }
    let mut processes: HashMap<u32, Option<Process>> = HashMap::new();
    for o in open {
        let process = processes.entry(o.pid).or_insert_with(|| processes::of_pid(o.pid, o.pid));
        let Some(process) = process.clone() else { continue };
        if o.pid == std::process::id() {
            continue;
        }
        let mut listed = nothing(Through::PerfEventOpen);
        listed.monitor.what = What::Perf { attr: PerfAttr::default(), bpf: None };
        listed.monitor.name = "?".into();
        listed.by = Some(process.clone());
        listed.holders.push(Holder { process, fd: o.fd });
        listed.notes.push("known by a descriptor only");
        list.entries.push(listed);
    }
}
