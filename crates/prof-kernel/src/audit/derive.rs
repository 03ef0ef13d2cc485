//! From what is done to events to what was switched on and off.
//!
//! Most switches are no act of anybody at that moment: an event that waits for an exec
//! goes on with it, a child inherits what its parent has, an exit ends all. So each
//! event's state is kept from its opening to its end, for each process that it is on,
//! and a switch is a change of that state. What no hook sees is found by
//! looking at the events themselves.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::hash::Hash;

use prof_model::audit::AuditEvent;
use prof_model::audit::AuditTotal;
use prof_model::audit::Changes;
use prof_model::audit::Interface;
use prof_model::audit::Monitor;
use prof_model::audit::PerfAttr;
use prof_model::audit::Target;
use prof_model::audit::What;
use prof_model::record::Flags;
use prof_model::record::Process;

use super::people::People;
use super::totals::Totals;
use crate::audit_list::links::Link;
use crate::audit_list::processes::Containers;

/// Most events, links and tracees that are followed at once.
const MAX_KNOWN: usize = 1 << 17;

const OTHER_PROGRAM: &str = "it stays on: what changed is the BPF program that runs at it";

/// Tells one thing that is followed from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Id {
    /// A perf event, by its number.
    Perf(u64),
    /// A BPF link.
    Link(u32),
    /// A process that another traces.
    Traced { tracer: u32, tracee: u32 },
    /// Something that is on by tracefs, by the order in which all were met.
    File(u32),
}

impl Id {
    fn number(self) -> u64 {
        match self {
            Self::Perf(id) => id,
            Self::Link(id) | Self::File(id) => id.into(),
            Self::Traced { tracee, .. } => tracee.into(),
        }
    }
}

/// What an event is on, if not on processes: then its one span is that of pid 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Processes,
    Elsewhere(Target),
}

/// An event on one process.
#[derive(Debug, Clone, Default)]
pub(super) struct Span {
    /// Threads that have it.
    pub threads: BTreeSet<u32>,
    /// Switched on itself: whether it is depends on the leader of its group, too.
    pub on: bool,
    /// Goes on with the next exec.
    pub waits: bool,
    /// It is about to be removed.
    pub gone: bool,
    /// On since, CLOCK_MONOTONIC.
    pub since: Option<u64>,
    /// The thread that was named when it went on: its end names the same.
    pub told: u32,
}

impl Span {
    /// The thread that a switch of it names: its only one, else the process's first. Of one
    /// that is on, the one that was named then; it may have ended.
    fn names(&self, pid: u32) -> u32 {
        match self.threads.first() {
            _ if self.since.is_some() => self.told,
            Some(tid) if self.threads.len() == 1 => *tid,
            _ => pid,
        }
    }
}

/// Something that is followed.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub addr: u64,
    pub what: What,
    pub name: String,
    pub cpu: Option<u32>,
    pub leader: Id,
    /// How the leader was, if it is not followed.
    pub leader_on: bool,
    pub by: Process,
    pub place: Place,
    pub spans: BTreeMap<u32, Span>,
    /// Process and thread that it was asked for.
    pub root: (u32, u32),
    pub changes: Changes,
    /// The pid of a tracee as the tracer calls it.
    pub given: u32,
    /// A BPF program was to run at it since, and none was seen yet.
    pub bpf_asked: Option<Moment>,
    /// A descriptor was closed, and it was not the last.
    pub closed: Option<u64>,
    /// Who has it ended, or executed a program, which may have been its end.
    pub left: Option<(u64, Interface)>,
    /// Threads that ended when who has it had, and when: whether it was still on them only a
    /// look can tell.
    pub parting: Vec<(u32, Moment)>,
    /// When it was last seen to be there.
    pub alive: u64,
    /// When something was last heard of it.
    pub touched: u64,
}

impl Known {
    /// Its attr, if it is a perf event.
    pub fn attr(&self) -> Option<&PerfAttr> {
        match &self.what {
            What::Perf { attr, .. } => Some(attr),
            _ => None,
        }
    }

    fn asks(&self, bit: u64) -> bool {
        self.attr().is_some_and(|a| a.has(bit))
    }
}

/// When something happened, and through what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// CLOCK_MONOTONIC.
    pub time_ns: u64,
    pub cpu: u32,
    pub through: Interface,
}

/// Names an event.
pub type Name = Box<dyn Fn(&PerfAttr) -> String>;

/// Finds out what a BPF link is at, by its id.
pub type LinkOf = Box<dyn Fn(u32) -> Option<Link>>;

/// All that is followed.
pub struct Derive {
    pub(super) known: BTreeMap<Id, Known>,
    /// Members of a group, by its leader.
    pub(super) members: HashMap<Id, BTreeSet<Id>>,
    pub(super) by_owner: HashMap<u32, BTreeSet<Id>>,
    pub(super) by_task: HashMap<u32, BTreeSet<Id>>,
    pub(super) people: People,
    pub(super) name: Name,
    pub(super) link_of: LinkOf,
    /// Numbers of what is on by tracefs, by file and line.
    pub(super) files: HashMap<(Vec<u8>, Vec<u8>), u32>,
    pub(super) last_file: u32,
    pub(super) clock_types: [u32; 2],
    pub(super) wants_look: bool,
    totals: Totals,
    realtime_offset: i64,
    /// Times that something was switched on.
    pub enabled: u64,
    /// Times that something was switched off.
    pub disabled: u64,
    /// What could not be followed: too much at once.
    pub full: u64,
    /// Acts on events that are not followed.
    pub unknown: u64,
}

impl std::fmt::Debug for Derive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Derive").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl Derive {
    /// Nothing yet. `exe_of` finds paths that were not told.
    pub fn new(name: Name, exe_of: fn(u32) -> Option<Vec<u8>>) -> Self {
        Self {
            known: BTreeMap::new(),
            members: HashMap::new(),
            by_owner: HashMap::new(),
            by_task: HashMap::new(),
            people: People::new(exe_of),
            name,
            link_of: Box::new(|_| None),
            files: HashMap::new(),
            last_file: 0,
            clock_types: [0; 2],
            wants_look: false,
            totals: Totals::default(),
            realtime_offset: 0,
            enabled: 0,
            disabled: 0,
            full: 0,
            unknown: 0,
        }
    }

    /// Who knows what links are at; until then nobody does.
    pub fn set_link_of(&mut self, link_of: LinkOf) {
        self.link_of = link_of;
    }

    /// Who knows the containers of cgroups; until then nobody does.
    pub fn set_containers(&mut self, containers: Containers) {
        self.people.set_containers(containers);
    }

    /// Whether something was heard since the last call that only a look can confirm.
    pub fn take_wants_look(&mut self) -> bool {
        std::mem::take(&mut self.wants_look)
    }

    /// What the kernel makes of the types of cpu-clock and task-clock.
    pub fn set_clock_types(&mut self, types: [u32; 2]) {
        self.clock_types = types;
    }

    /// What to add to CLOCK_MONOTONIC for the time of day, from now on.
    pub fn set_realtime_offset(&mut self, offset: i64) {
        self.realtime_offset = offset;
    }

    /// Things that are on, counted for each process that they are on.
    pub fn running(&self) -> u64 {
        let on = |k: &Known| k.spans.values().filter(|s| s.since.is_some()).count() as u64;
        self.known.values().map(on).sum()
    }

    /// Whether nothing is followed for which a hook would be needed.
    pub fn is_idle(&self) -> bool {
        self.known.keys().all(|id| matches!(id, Id::File(_)))
    }

    /// Address and number of each perf event that is followed.
    pub fn to_look_at(&self) -> Vec<(u64, u64)> {
        let perf = |(id, k): (&Id, &Known)| match id {
            Id::Perf(id) => Some((k.addr, *id)),
            _ => None,
        };
        self.known.iter().filter_map(perf).collect()
    }

    /// Ids of the links that are followed.
    pub fn links(&self) -> Vec<u32> {
        let link = |id: &Id| match id {
            Id::Link(id) => Some(*id),
            _ => None,
        };
        self.known.keys().filter_map(link).collect()
    }

    /// How long each profiled each, up to now (CLOCK_MONOTONIC).
    pub fn totals(&self, now: u64) -> Vec<AuditTotal> {
        self.totals.so_far(now)
    }

    /// Pairs of who profiles whom for whose totals there was no room.
    pub fn without_totals(&self) -> u64 {
        self.totals.full
    }

    pub(super) fn realtime(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_add_signed(self.realtime_offset)
    }

    /// The CLOCK_MONOTONIC of an event that was told since the offset was set.
    pub fn monotonic(&self, realtime_ns: u64) -> u64 {
        realtime_ns.saturating_add_signed(self.realtime_offset.saturating_neg())
    }

    /// Follows something new, unless it is too much.
    pub(super) fn follow(&mut self, id: Id, k: Known) -> bool {
        if self.known.len() >= MAX_KNOWN {
            self.full += 1;
            return false;
        }
        self.by_owner.entry(k.by.ident.pid).or_default().insert(id);
        for tid in k.spans.values().flat_map(|s| &s.threads).filter(|t| **t != 0) {
            self.by_task.entry(*tid).or_default().insert(id);
        }
        if k.leader != id {
            self.members.entry(k.leader).or_default().insert(id);
        }
        self.known.insert(id, k);
        true
    }

    /// A thread has something, too.
    pub(super) fn join(&mut self, id: Id, pid: u32, tid: u32, like: &Span) {
        let Some(k) = self.known.get_mut(&id) else { return };
        let span = k.spans.entry(pid).or_insert_with(|| Span {
            on: like.on,
            waits: like.waits,
            ..Span::default()
        });
        span.threads.insert(tid);
        self.by_task.entry(tid).or_default().insert(id);
    }

    /// A thread has something no more; if it was the last of its process, that ends.
    pub(super) fn part(&mut self, id: Id, tid: u32) {
        let Some(k) = self.known.get_mut(&id) else { return };
        for span in k.spans.values_mut() {
            if span.threads.remove(&tid) && span.threads.is_empty() {
                span.gone = true;
            }
        }
        unlist(&mut self.by_task, tid, id);
    }

    /// Something is no more.
    pub(super) fn end(
        &mut self,
        id: Id,
        at: Moment,
        notes: &[&'static str],
        out: &mut Vec<AuditEvent>,
    ) {
        self.end_all(&[id], at, notes, out);
    }

    /// Some are no more, all at once.
    pub(super) fn end_all(
        &mut self,
        ids: &[Id],
        at: Moment,
        notes: &[&'static str],
        out: &mut Vec<AuditEvent>,
    ) {
        let mut concerned = ids.to_vec();
        for id in ids {
            let Some(k) = self.known.get_mut(id) else { continue };
            k.spans.values_mut().for_each(|s| s.gone = true);
            for tid in k.spans.values().flat_map(|s| &s.threads) {
                unlist(&mut self.by_task, *tid, *id);
            }
            // Who was in its group is alone from now on.
            let members = self.members.remove(id).unwrap_or_default();
            for member in &members {
                if let Some(m) = self.known.get_mut(member) {
                    m.leader = *member;
                }
            }
            concerned.extend(members);
        }
        self.settle(at, &concerned, notes, out);
        for id in ids {
            self.drop_known(*id);
        }
    }

    /// Forgets something that has ended, and where it was listed.
    fn drop_known(&mut self, id: Id) {
        let Some(k) = self.known.remove(&id) else { return };
        unlist(&mut self.members, k.leader, id);
        unlist(&mut self.by_owner, k.by.ident.pid, id);
    }

    /// Whether it is on for a process.
    fn is_on(&self, k: &Known, id: Id, pid: u32, span: &Span) -> bool {
        let leader = match self.known.get(&k.leader) {
            _ if k.leader == id => true,
            None => k.leader_on,
            Some(l) => l.spans.get(&pid).is_none_or(|s| s.on),
        };
        span.on && !span.gone && leader
    }

    /// Tells what is now on or off that was not, of these and of the groups they lead:
    /// one event for all that one has switched for one target.
    pub(super) fn settle(
        &mut self,
        at: Moment,
        ids: &[Id],
        notes: &[&'static str],
        out: &mut Vec<AuditEvent>,
    ) {
        let mut all: BTreeSet<Id> = ids.iter().copied().collect();
        for id in ids {
            all.extend(self.members.get(id).into_iter().flatten());
        }
        // By who, whom (process and thread), and whether on.
        let mut changed: BTreeMap<(u32, u32, u32, bool), Vec<Id>> = BTreeMap::new();
        let mut elsewhere: Vec<(Id, bool)> = Vec::new();
        for id in &all {
            let Some(k) = self.known.get(id) else { continue };
            for (pid, span) in &k.spans {
                let on = self.is_on(k, *id, *pid, span);
                if on == span.since.is_some() {
                    continue;
                }
                match k.place {
                    Place::Processes => {
                        let key = (k.by.ident.pid, *pid, span.names(*pid), on);
                        changed.entry(key).or_default().push(*id);
                    }
                    Place::Elsewhere(_) => elsewhere.push((*id, on)),
                }
            }
        }
        for ((_, pid, _, on), ids) in changed {
            self.tell(at, &ids, pid, on, notes, out);
        }
        // A CPU each: those of one CPU, and of one moment, together.
        while let Some((first, on)) = elsewhere.first().copied() {
            let same = |d: &Self, id: &Id| {
                d.known
                    .get(id)
                    .zip(d.known.get(&first))
                    .is_some_and(|(a, b)| a.place == b.place && a.by.ident.pid == b.by.ident.pid)
            };
            let (now, later): (Vec<_>, Vec<_>) =
                elsewhere.into_iter().partition(|(id, o)| *o == on && same(self, id));
            elsewhere = later;
            let ids: Vec<_> = now.into_iter().map(|(id, _)| id).collect();
            self.tell(at, &ids, 0, on, notes, out);
        }
        for id in all {
            if let Some(k) = self.known.get_mut(&id) {
                k.spans.retain(|_, s| !s.gone);
            }
        }
    }

    /// Another BPF program runs at a perf event, or none any more. What is on is told anew:
    /// off as it was, and on as it is.
    pub(super) fn program(
        &mut self,
        id: Id,
        prog: Option<u32>,
        at: Moment,
        out: &mut Vec<AuditEvent>,
    ) {
        let Some(k) = self.known.get_mut(&id) else { return };
        let What::Perf { bpf, .. } = &k.what else { return };
        if *bpf == prog {
            return;
        }
        k.bpf_asked = None;
        let on = |(pid, s): (&u32, &Span)| s.since.is_some().then_some(*pid);
        let on: Vec<_> = k.spans.iter().filter_map(on).collect();
        for pid in &on {
            self.tell(at, &[id], *pid, false, &[OTHER_PROGRAM], out);
        }
        if let Some(What::Perf { bpf, .. }) = self.known.get_mut(&id).map(|k| &mut k.what) {
            *bpf = prog;
        }
        for pid in on {
            self.tell(at, &[id], pid, true, &[OTHER_PROGRAM], out);
        }
    }

    /// Switches, and says so.
    fn tell(
        &mut self,
        at: Moment,
        ids: &[Id],
        pid: u32,
        on: bool,
        notes: &[&'static str],
        out: &mut Vec<AuditEvent>,
    ) {
        let Some(first) = ids.first().and_then(|id| self.known.get(id)) else { return };
        let by = first.by.clone();
        let target = self.target(first, pid);
        let mut flags =
            Flags(Flags::FOREIGN | if on { Flags::ENABLE } else { 0 } | cause(at, pid, on));
        let mut monitors = Vec::with_capacity(ids.len());
        let (mut no_kernel, mut no_user) = (true, true);
        for id in ids {
            let Some(k) = self.known.get_mut(id) else { continue };
            let leader = (k.leader != *id).then(|| k.leader.number());
            no_kernel &= k.asks(PerfAttr::EXCLUDE_KERNEL);
            no_user &= k.asks(PerfAttr::EXCLUDE_USER);
            if k.asks(PerfAttr::INHERIT) {
                flags.0 |= Flags::INHERIT;
            }
            if k.attr().is_some_and(PerfAttr::takes_samples) {
                flags.0 |= Flags::SAMPLE;
            }
            let Some(span) = k.spans.get_mut(&pid) else { continue };
            span.told = span.names(pid);
            let since = if on { span.since.replace(at.time_ns) } else { span.since.take() };
            let off_after = (!on).then(|| at.time_ns.saturating_sub(since.unwrap_or(at.time_ns)));
            let monitor = Monitor {
                id: id.number(),
                what: k.what.clone(),
                name: k.name.clone(),
                cpu: k.cpu,
                leader,
                changes: k.changes,
                on_ns: off_after,
            };
            self.totals.switched(at.time_ns, &by, &target, &k.name, off_after);
            monitors.push(monitor);
        }
        let switched = if on { &mut self.enabled } else { &mut self.disabled };
        *switched += monitors.len() as u64;
        flags.0 |= if no_kernel { Flags::NO_KERNEL } else { 0 };
        flags.0 |= if no_user { Flags::NO_USER } else { 0 };
        out.push(AuditEvent {
            time_ns: self.realtime(at.time_ns),
            cpu: at.cpu,
            flags,
            by,
            target,
            monitors,
            interface: at.through,
            notes: notes.to_vec(),
        });
    }

    fn target(&self, k: &Known, pid: u32) -> Target {
        match &k.place {
            Place::Elsewhere(target) => target.clone(),
            Place::Processes => {
                let mut process = self.people.get(pid).cloned().unwrap_or_default();
                process.ident.pid = pid;
                process.ident.tid = k.spans.get(&pid).map_or(pid, |s| s.names(pid));
                Target::Process(Box::new(process))
            }
        }
    }
}

/// Takes something from a list, and with the last of it the list.
fn unlist<K: Hash + Eq>(lists: &mut HashMap<K, BTreeSet<Id>>, key: K, id: Id) {
    if let Some(of) = lists.get_mut(&key) {
        of.remove(&id);
        if of.is_empty() {
            lists.remove(&key);
        }
    }
}

/// The bits of FLAGS that say why.
fn cause(at: Moment, pid: u32, on: bool) -> u64 {
    match at.through {
        Interface::EnableOnExec | Interface::Exec => Flags::EXEC,
        Interface::TargetExit => Flags::EXIT,
        Interface::Inherit => Flags::INHERIT,
        Interface::OwnerExit => 0,
        Interface::Found => Flags::ATTACH,
        Interface::PtraceTraceme => Flags::REQUEST,
        // A process that runs is met in mid-life.
        _ if on && pid != 0 => Flags::REQUEST | Flags::ATTACH,
        _ => Flags::REQUEST,
    }
}
