//! What is being profiled now, also by profilers that were there before.
//!
//! One topic a file: `iterate`, the kernel half and what it finds; `abi`, the layout of
//! that; `links`, BPF programs that are attached by links; `traced`, ptrace; `tracefs`;
//! `open_files`, what is left without BPF; `processes`, who a number is.

mod abi;
mod iterate;
mod links;
mod open_files;
mod processes;
mod traced;
mod tracefs;

use std::collections::BTreeMap;
use std::collections::HashMap;

use prof_events::describe;
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
use prof_model::audit::list::Program;
use prof_model::audit::list::State;
use prof_model::audit::list::Through;
use prof_model::record::Process;

use crate::abi::AbiIdent;
use crate::clock;
use crate::host;
use abi::Record;
use abi::has;
use iterate::ProbeTypes;

/// `PERF_TYPE_TRACEPOINT`.
const TRACEPOINT: u32 = 2;

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
    let pmu = |name: &str| names.catalogue().pmu(name)?.ok().map(|p| p.type_);
    let probes = ProbeTypes { kprobe: pmu("kprobe"), uprobe: pmu("uprobe") };
    match iterate::iterate(probes) {
        Ok(found) => {
            list.limits.extend(found.no_links);
            let mut looked = Looked::new(names, probes);
            for record in &found.records {
                looked.add(record);
            }
            list.entries.extend(looked.finish());
        }
        Err(e) => without_bpf(&mut list, &format!("{e:#}")),
    }
    for t in traced::all() {
        list.entries.extend(ptraced(t));
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

/// What the kernel half found, put together: an event for all that have it open.
struct Looked<'a> {
    names: &'a Names,
    probes: ProbeTypes,
    programs: HashMap<u32, Program>,
    own: u32,
    events: BTreeMap<u64, Listed>,
    /// Perf events of links.
    of_links: HashMap<u32, u64>,
    links: HashMap<u32, Vec<Holder>>,
    processes: HashMap<(u32, u32, u64), Process>,
    cgroups: HashMap<u64, Option<Vec<u8>>>,
}

impl<'a> Looked<'a> {
    fn new(names: &'a Names, probes: ProbeTypes) -> Self {
        Self {
            names,
            probes,
            programs: links::programs(),
            own: std::process::id(),
            events: BTreeMap::new(),
            of_links: HashMap::new(),
            links: HashMap::new(),
            processes: HashMap::new(),
            cgroups: HashMap::new(),
        }
    }

    fn process(&mut self, id: &AbiIdent) -> Process {
        let known = self.processes.entry((id.pid, id.tid, id.start_ns));
        known.or_insert_with(|| processes::of_kernel(id)).clone()
    }

    fn add(&mut self, record: &Record) {
        match record {
            Record::Link(l) => {
                let holder = Holder { process: self.process(&l.holder), fd: l.fd };
                self.links.entry(l.link).or_default().push(holder);
            }
            Record::Event(e) => {
                if e.link != 0 {
                    self.of_links.insert(e.link, e.id);
                }
                let holder = (e.has & has::HOLDER != 0)
                    .then(|| Holder { process: self.process(&e.holder), fd: e.fd });
                if !self.events.contains_key(&e.id) {
                    let listed = self.event(e);
                    self.events.insert(e.id, listed);
                }
                if let Some(listed) = self.events.get_mut(&e.id) {
                    listed.holders.extend(holder);
                    listed.link = listed.link.or((e.link != 0).then_some(e.link));
                }
            }
        }
    }

    fn event(&mut self, e: &abi::Event) -> Listed {
        let attr = perf_attr(&e.attr);
        let mut notes = Vec::new();
        let by = (e.has & has::OWNER != 0).then(|| self.process(&e.owner));
        if by.is_none() && e.has & has::BY_KERNEL == 0 {
            notes.push("who opened it has ended");
        }
        let program = (e.prog != 0).then(|| {
            let name = until_nul(&e.prog_name).to_vec();
            let known = self.programs.get(&e.prog).cloned();
            known.unwrap_or(Program { id: e.prog, name, ..Program::default() })
        });
        let probe = String::from_utf8_lossy(until_nul(&e.probe)).into_owned();
        let probe = (!probe.is_empty()).then_some(probe);
        let name = self.names.with_target(&(&attr).into(), probe.as_deref());
        let target = self.target(e, &attr);
        // What runs everywhere is on no CPU in particular.
        let everywhere = matches!(target, Target::Host);
        let cpu = u32::try_from(e.cpu).ok().filter(|_| !everywhere);
        if everywhere && e.cpu >= 0 {
            notes.push("its BPF program runs on every CPU, whatever the event was opened for");
        }
        let copied: Vec<u32> = e.copy_of.iter().copied().take(e.copies as usize).collect();
        let mut pids = copied;
        pids.sort_unstable();
        pids.dedup();
        Listed {
            state: state(e, &attr),
            sampled: describe::sampled(&attr),
            kernel_stacks: describe::shows_kernel_stacks(&attr),
            user_stacks: describe::shows_user_stacks(&attr),
            monitor: Monitor {
                id: e.id,
                what: What::Perf { attr, bpf: program.as_ref().map(|p| p.id) },
                name,
                cpu: None,
                leader: (e.leader != e.id).then_some(e.leader),
                changes: Changes::default(),
                on_ns: None,
            },
            through: Through::PerfEventOpen,
            by,
            target,
            cpu,
            holders: Vec::new(),
            copies: Copies { count: e.copies.into(), more: e.has & has::MORE_COPIES != 0, pids },
            enabled_ns: Some(e.enabled_ns),
            running_ns: Some(e.running_ns),
            link: None,
            program,
            notes,
        }
    }

    fn target(&mut self, e: &abi::Event, attr: &PerfAttr) -> Target {
        let cpu = u32::try_from(e.cpu).ok();
        if e.cgroup_id != 0 {
            let known = self.cgroups.entry(e.cgroup_id);
            let path = known.or_insert_with(|| processes::cgroup_path(e.cgroup_id)).clone();
            return Target::Cgroup { id: e.cgroup_id, path, cpu };
        }
        if e.has & has::TARGET != 0 {
            return Target::Process(Box::new(self.process(&e.target)));
        }
        // A program at a tracepoint or a function is run by whoever comes there; the
        // CPU is only where the event counts.
        let kind = Some(attr.kind);
        let probe = kind == self.probes.kprobe || kind == self.probes.uprobe;
        let everywhere = probe || attr.kind == TRACEPOINT;
        match cpu {
            Some(cpu) if e.prog == 0 || !everywhere => Target::Cpu(cpu),
            _ => Target::Host,
        }
    }

    fn finish(mut self) -> Vec<Listed> {
        for link in links::all() {
            let holders = self.links.get(&link.id).cloned().unwrap_or_default();
            let event = self.of_links.get(&link.id).and_then(|id| self.events.get_mut(id));
            if let Some(event) = event {
                event.through = Through::BpfLink;
                event.holders.extend(holders);
                continue;
            }
            let listed = self.link(&link, holders);
            // Numbers of links and of events are not the same kind.
            self.events.insert(u64::MAX - u64::from(link.id), listed);
        }
        let own = self.own;
        let is_own = |l: &Listed| {
            let by = l.by.as_ref().is_some_and(|p| p.ident.pid == own);
            let held =
                !l.holders.is_empty() && l.holders.iter().all(|h| h.process.ident.pid == own);
            by || l.by.is_none() && held
        };
        self.events.into_values().filter(|l| !is_own(l)).collect()
    }

    fn link(&mut self, link: &links::Link, holders: Vec<Holder>) -> Listed {
        let program = self.programs.get(&link.prog).cloned();
        let program = program.unwrap_or(Program { id: link.prog, ..Program::default() });
        let mut notes = Vec::new();
        if holders.is_empty() {
            notes.push("no process has it open: it is pinned, or the kernel holds it");
        }
        let target = match link.pid {
            None => Target::Host,
            Some(pid) => processes::of_pid(pid, pid)
                .map_or(Target::Unknown, |p| Target::Process(Box::new(p))),
        };
        Listed {
            monitor: Monitor {
                id: link.id.into(),
                what: What::Bpf {
                    prog: link.prog,
                    link: link.id,
                    name: program.name.clone(),
                    kind: link.kind,
                },
                name: link.name.clone(),
                cpu: None,
                leader: None,
                changes: Changes::default(),
                on_ns: None,
            },
            by: holders.first().map(|h| h.process.clone()),
            target,
            state: State::On,
            holders,
            link: Some(link.id),
            program: Some(program),
            notes,
            ..nothing(Through::BpfLink)
        }
    }
}

/// With nothing known of it.
fn nothing(through: Through) -> Listed {
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

/// `enum perf_event_state`, whose names say what the PMU does.
fn state(e: &abi::Event, attr: &PerfAttr) -> State {
    match e.state {
        _ if e.has & has::GONE != 0 => State::TargetGone,
        0.. => State::On,
        -1 if attr.has(PerfAttr::ENABLE_ON_EXEC) => State::AwaitsExec,
        -1 => State::Off,
        _ => State::Error,
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// `struct perf_event_attr` as it lies in memory.
fn perf_attr(bytes: &[u8; abi::ATTR]) -> PerfAttr {
    let u64_at = |at: usize| {
        let bytes = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    };
    let u32_at = |at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    };
    PerfAttr {
        kind: u32_at(0),
        config: u64_at(8),
        rate: u64_at(16),
        sample_type: u64_at(24),
        read_format: u64_at(32),
        bits: u64_at(40),
        bp_type: u32_at(52),
        config1: u64_at(56),
        config2: u64_at(64),
        branch_sample_type: u64_at(72),
        sample_regs_user: u64_at(80),
        sample_stack_user: u32_at(88),
        sample_regs_intr: u64_at(96),
        sample_max_stack: (u32_at(108) & 0xffff) as u16,
        config3: u64_at(128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Plain as _;
    use prof_model::audit::Sampling;

    #[test]
    fn an_attr_is_read_as_perfs_own_bindings_write_it() {
        use perf_event_open_sys::bindings::perf_event_attr;
        let mut a = perf_event_attr {
            type_: 5,
            config: 7,
            sample_type: 0x20,
            bp_type: 3,
            branch_sample_type: 11,
            sample_regs_user: 12,
            sample_stack_user: 13,
            sample_regs_intr: 14,
            sample_max_stack: 15,
            config3: 16,
            ..Default::default()
        };
        a.__bindgen_anon_1.sample_freq = 99;
        a.__bindgen_anon_3.config1 = 8;
        a.__bindgen_anon_4.config2 = 9;
        a.set_freq(1);
        a.set_exclude_kernel(1);
        a.set_enable_on_exec(1);
        a.set_inherit_thread(1);
        // SAFETY: a plain C struct, as long as it says.
        let bytes: [u8; size_of::<perf_event_attr>()] = unsafe { std::mem::transmute(a) };
        let mut padded = [0; abi::ATTR];
        padded.copy_from_slice(&bytes[..abi::ATTR]);
        let read = perf_attr(&padded);
        let bits = PerfAttr::FREQ
            | PerfAttr::EXCLUDE_KERNEL
            | PerfAttr::ENABLE_ON_EXEC
            | PerfAttr::INHERIT_THREAD;
        assert_eq!((read.bits, read.sampling()), (bits, Sampling::Hz(99)));
        assert_eq!((read.kind, read.config, read.config1, read.config2), (5, 7, 8, 9));
        assert_eq!((read.bp_type, read.sample_type, read.branch_sample_type), (3, 0x20, 11));
        assert_eq!((read.sample_regs_user, read.sample_stack_user), (12, 13));
        assert_eq!((read.sample_regs_intr, read.sample_max_stack, read.config3), (14, 15, 16));
    }

    #[test]
    fn an_event_that_waits_for_exec_is_told_from_one_that_is_off() {
        fn of(state_: i32, bits: u64, has: u32) -> State {
            let zeros = [0u8; size_of::<abi::Event>()];
            let mut event = abi::Event::from_bytes(&zeros).unwrap();
            (event.state, event.has) = (state_, has);
            state(&event, &PerfAttr { bits, ..PerfAttr::default() })
        }
        assert_eq!((of(1, 0, 0), of(0, 0, 0)), (State::On, State::On));
        assert_eq!(of(-1, PerfAttr::ENABLE_ON_EXEC, 0), State::AwaitsExec);
        assert_eq!((of(-1, 0, 0), of(-2, 0, 0)), (State::Off, State::Error));
        assert_eq!(of(-3, 0, has::GONE), State::TargetGone);
    }
}
