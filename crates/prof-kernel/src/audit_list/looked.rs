//! What the kernel half found, put together.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
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
use prof_model::audit::list::Listed;
use prof_model::audit::list::Program;
use prof_model::audit::list::State;
use prof_model::audit::list::Through;
use prof_model::record::Process;

use super::Copied;
use super::Inside;
use super::Now;
use super::abi;
use super::abi::Record;
use super::abi::has;
use super::iterate::ProbeTypes;
use super::links;
use super::links::Links;
use super::nothing;
use super::processes;
use crate::abi::AbiIdent;
use crate::abi::attr::attr_of;
use crate::abi::until_nul;

/// Processes with copies of an event that are named.
const NAMED: usize = 32;

/// `PERF_TYPE_TRACEPOINT`.
const TRACEPOINT: u32 = 2;

/// An event for all that have it open.
#[derive(Debug)]
pub struct Looked<'a> {
    names: &'a Names,
    probes: ProbeTypes,
    programs: HashMap<u32, Program>,
    own: u32,
    events: BTreeMap<u64, Listed>,
    addresses: HashMap<u64, u64>,
    /// By event; told again for each who has that open.
    copies: HashMap<u64, BTreeMap<(u32, u32), bool>>,
    uncounted: BTreeSet<u64>,
    /// Perf events of links.
    of_links: HashMap<u32, u64>,
    links: HashMap<u32, Vec<Holder>>,
    processes: HashMap<(u32, u32, u64), Process>,
    cgroups: HashMap<u64, Option<Vec<u8>>>,
}

impl<'a> Looked<'a> {
    /// Nothing yet.
    pub fn new(names: &'a Names, probes: ProbeTypes) -> Self {
        Self {
            names,
            probes,
            programs: links::programs(),
            own: std::process::id(),
            events: BTreeMap::new(),
            addresses: HashMap::new(),
            copies: HashMap::new(),
            uncounted: BTreeSet::new(),
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

    /// Takes a record of the kernel half; an event's copies come behind it.
    pub fn add(&mut self, record: &Record) {
        match record {
            Record::Link(l) => {
                let holder = Holder { process: self.process(&l.holder), fd: l.fd };
                self.links.entry(l.link).or_default().push(holder);
            }
            Record::Copied(c) if c.tid == 0 => drop(self.uncounted.insert(c.event)),
            Record::Copied(c) => {
                self.copies.entry(c.event).or_default().insert((c.pid, c.tid), c.state >= 0);
            }
            Record::Event(e) => {
                self.addresses.insert(e.id, e.addr);
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
        let attr = attr_of(&e.attr);
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
        Listed {
            state: state(e, &attr),
            sampled: describe::sampled(&attr),
            kernel_stacks: attr.shows_kernel_stacks(),
            user_stacks: attr.shows_user_stacks(),
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
            copies: Copies::default(),
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

    /// All of it, but for what is prof's own.
    pub fn finish(mut self) -> Now {
        for link in Links::default().all() {
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
        let mut now = Now::default();
        for (id, mut listed) in std::mem::take(&mut self.events) {
            if self.is_own(&listed) {
                continue;
            }
            if let Some(addr) = self.addresses.get(&id).copied() {
                let copies = self.copies.remove(&id).unwrap_or_default().into_iter();
                let copies: Vec<_> =
                    copies.map(|((pid, tid), on)| Copied { pid, tid, on }).collect();
                let pids: BTreeSet<u32> = copies.iter().map(|c| c.pid).collect();
                listed.copies = Copies {
                    count: copies.len() as u64,
                    more: self.uncounted.contains(&id),
                    pids: pids.into_iter().take(NAMED).collect(),
                };
                now.inside.insert(id, Inside { addr, copies });
            }
            now.entries.push(listed);
        }
        now
    }

    fn is_own(&self, l: &Listed) -> bool {
        match &l.by {
            Some(by) => by.ident.pid == self.own,
            None => {
                let own = |h: &Holder| h.process.ident.pid == self.own;
                !l.holders.is_empty() && l.holders.iter().all(own)
            }
        }
    }

    fn link(&mut self, link: &links::Link, holders: Vec<Holder>) -> Listed {
        let program = self.programs.get(&link.prog).cloned();
        let program = program.unwrap_or(Program { id: link.prog, ..Program::default() });
        let mut notes = Vec::new();
        if holders.is_empty() {
            notes.push("no process has it open: it is pinned, or the kernel holds it");
        }
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
            target: link.target(),
            state: State::On,
            holders,
            link: Some(link.id),
            program: Some(program),
            notes,
            ..nothing(Through::BpfLink)
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Plain as _;

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
