//! What each record of the kernel half does to what is followed.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use prof_model::audit::AuditEvent;
use prof_model::audit::Changes;
use prof_model::audit::Interface;
use prof_model::audit::PerfAttr;
use prof_model::audit::Target;
use prof_model::audit::What;
use prof_model::record::Ident;

use super::derive::Derive;
use super::derive::Id;
use super::derive::Known;
use super::derive::Moment;
use super::derive::Place;
use super::derive::Span;
use crate::abi::RecHead;
use crate::abi::attr::attr_of;
use crate::abi::audit::RawAudit;
use crate::abi::audit::RecAct;
use crate::abi::audit::RecFork;
use crate::abi::audit::RecLink;
use crate::abi::audit::RecOpened;
use crate::abi::audit::RecTask;
use crate::abi::until_nul;
use crate::audit_list::links;
use crate::audit_list::links::Link;

/// State of an event that is off, as all kernels have it; above it is on.
pub(super) const STATE_OFF: i32 = -1;

pub(super) const BEFORE: &str = "it was there before the audit was";

/// Time from the hook of an exec in which what the image before had open is closed as a
/// rule: it happens before the new one runs.
const EXEC_TAKES_NS: u64 = 5_000_000;

// A test compares these with those of the kernel half.

/// `PTRACE_*`.
pub(super) const PTRACE_TRACEME: u32 = 0;
pub(super) const PTRACE_SEIZE: u32 = 0x4206;

/// `PR_TASK_PERF_EVENTS_ENABLE`.
pub(super) const PRCTL_ENABLE: u64 = 32;

/// `PERF_EVENT_IOC_*`, whole, as the kernel compares them.
pub(super) mod ioc {
    pub const ENABLE: u32 = 0x2400;
    pub const DISABLE: u32 = 0x2401;
    pub const REFRESH: u32 = 0x2402;
    pub const RESET: u32 = 0x2403;
    pub const PERIOD: u32 = 0x4008_2404;
    pub const SET_FILTER: u32 = 0x4008_2406;
    pub const SET_BPF: u32 = 0x4004_2408;
}

/// `enum bpf_link_type`.
pub(super) const KPROBE_MULTI: u32 = 8;
pub(super) const UPROBE_MULTI: u32 = 12;

/// `BPF_RAW_TRACEPOINT_OPEN`.
pub(super) const RAW_TRACEPOINT_OPEN: u32 = 17;

fn moment(head: &RecHead, through: Interface) -> Moment {
    Moment { time_ns: head.time_ns, cpu: head.cpu, through }
}

/// What a link does that observes others; `None` for one that does something else.
fn link_kind(rec: &RecLink) -> Option<&'static str> {
    let returns = rec.returns != 0;
    match rec.kind {
        1 => Some("raw_tracepoint"),
        // enum bpf_prog_type, enum bpf_attach_type.
        2 if rec.prog_kind == 26 => Some(match rec.attach_kind {
            23 => "tp_btf",
            24 => "fentry",
            25 => "fexit",
            26 => "fmod_ret",
            _ => "tracing",
        }),
        KPROBE_MULTI => Some(if returns { "kretprobe_multi" } else { "kprobe_multi" }),
        UPROBE_MULTI => Some(if returns { "uretprobe_multi" } else { "uprobe_multi" }),
        _ => None,
    }
}

/// What a link is at, as the kernel half read it.
fn link_at(rec: &RecLink) -> String {
    let at = String::from_utf8_lossy(until_nul(&rec.at)).into_owned();
    match (rec.kind, rec.places) {
        (KPROBE_MULTI | UPROBE_MULTI, 0) => return links::UNKNOWN.to_owned(),
        (KPROBE_MULTI, places) => {
            return links::at_functions((!at.is_empty()).then_some(at), places);
        }
        (UPROBE_MULTI, places) => return links::at_places(&at, places, Some(rec.offset)),
        _ => {}
    }
    match at.strip_prefix("btf_trace_") {
        _ if at.is_empty() => links::UNKNOWN.to_owned(),
        Some(tracepoint) => tracepoint.to_owned(),
        None => at,
    }
}

impl Derive {
    /// Takes a record, and tells what was switched by it.
    pub fn hear(&mut self, raw: RawAudit, out: &mut Vec<AuditEvent>) {
        match raw {
            RawAudit::Opened { rec, path, before } => self.opened(&rec, path, before, out),
            RawAudit::Ioctl(rec) => self.ioctl(&rec, out),
            RawAudit::Close(rec) => self.closed(&rec, out),
            RawAudit::Prctl(rec) => self.prctl(&rec, out),
            RawAudit::Exec { rec, path } => self.exec(&rec, path, out),
            RawAudit::Exit(rec) => self.exit(&rec, out),
            RawAudit::Fork(rec) => self.fork(&rec, out),
            RawAudit::Link(rec) => self.link(&rec, out),
            RawAudit::LinkClose(rec) => self.link_ends(&rec, out),
            RawAudit::Ptrace(rec) => self.traced(&rec, out),
            RawAudit::PtraceEnd(rec) => self.let_go(&rec, out),
            RawAudit::Release(rec) => {
                self.program_seen(Id::Perf(rec.id), rec.prog, &rec.head, out);
                self.freed(Id::Perf(rec.id), rec.pid, &rec.head, out);
            }
            RawAudit::PtraceUnlink(rec) => self.unlinked(&rec, out),
            RawAudit::Prog(rec) => self.program_seen(Id::Perf(rec.id), rec.prog, &rec.head, out),
        }
    }

    fn opened(&mut self, rec: &RecOpened, path: Vec<u8>, before: bool, out: &mut Vec<AuditEvent>) {
        let e = &rec.event;
        let id = Id::Perf(e.id);
        if self.known.contains_key(&id) {
            return;
        }
        let container = (rec.has_container != 0)
            .then(|| String::from_utf8_lossy(until_nul(&rec.container_id)).into_owned());
        let by = self.people.meet(Ident::from(&rec.by), Some(path), container);
        let attr = self.as_asked(attr_of(&e.attr));
        let cpu = u32::try_from(e.cpu).ok();
        let (pid, tid) = (e.target.pid, e.target.tid);
        let place = if pid != 0 {
            self.people.meet(Ident::from(&e.target), None, None);
            Place::Processes
        } else if e.cgroup_id != 0 {
            Place::Elsewhere(Target::Cgroup { id: e.cgroup_id, path: None, cpu })
        } else {
            Place::Elsewhere(cpu.map_or(Target::Unknown, Target::Cpu))
        };
        let span = Span {
            threads: BTreeSet::from([tid]),
            on: e.state > STATE_OFF,
            waits: attr.has(PerfAttr::ENABLE_ON_EXEC),
            ..Span::default()
        };
        let known = Known {
            addr: e.addr,
            name: (self.name)(&attr),
            what: What::Perf { attr, bpf: (e.prog != 0).then_some(e.prog) },
            cpu: cpu.filter(|_| pid != 0),
            leader: Id::Perf(e.leader),
            leader_on: e.leader_state > STATE_OFF,
            by,
            place,
            spans: BTreeMap::from([(pid, span)]),
            root: (pid, tid),
            changes: Changes::default(),
            given: 0,
            bpf_asked: None,
            closed: None,
            left: None,
            parting: Vec::new(),
            alive: rec.head.time_ns,
            touched: rec.head.time_ns,
        };
        if self.follow(id, known) {
            let through = if before { Interface::Found } else { Interface::PerfEventOpen };
            let notes: &[_] = if before { &[BEFORE] } else { &[] };
            self.settle(moment(&rec.head, through), &[id], notes, out);
        }
    }

    /// The kernel has PMUs of their own for two of the software events.
    fn as_asked(&self, attr: PerfAttr) -> PerfAttr {
        const SOFTWARE: u32 = 1;
        // With no type there is nothing to compare with.
        match self.clock_types.iter().position(|t| *t == attr.kind && *t > SOFTWARE) {
            Some(clock) => PerfAttr { kind: SOFTWARE, config: clock as u64, ..attr },
            None => attr,
        }
    }

    fn ioctl(&mut self, rec: &RecAct, out: &mut Vec<AuditEvent>) {
        /// `PERF_IOC_FLAG_GROUP`.
        const GROUP: u64 = 1;
        let id = Id::Perf(rec.id);
        self.program_seen(id, rec.prog, &rec.head, out);
        let Some(k) = self.known.get_mut(&id) else {
            self.unknown += 1;
            return;
        };
        k.touched = rec.head.time_ns;
        let (through, on) = match rec.cmd {
            ioc::ENABLE => (Interface::IoctlEnable, true),
            ioc::DISABLE => (Interface::IoctlDisable, false),
            // The kernel's own rule.
            ioc::REFRESH if k.attr().is_some_and(|a| a.has(PerfAttr::INHERIT) || a.rate == 0) => {
                return;
            }
            ioc::REFRESH => (Interface::IoctlRefresh, true),
            ioc::RESET => return k.changes.reset += 1,
            ioc::PERIOD => return k.changes.period += 1,
            ioc::SET_FILTER => return k.changes.filter += 1,
            ioc::SET_BPF => {
                k.changes.bpf += 1;
                // It may be refused: whether there is a program is looked at.
                k.bpf_asked = Some(moment(&rec.head, Interface::IoctlSetBpf));
                self.wants_look = true;
                return;
            }
            _ => return,
        };
        let mut ids = vec![id];
        if rec.arg & GROUP != 0 && through != Interface::IoctlRefresh {
            ids = vec![k.leader];
            ids.extend(self.members.get(&ids[0]).into_iter().flatten());
        }
        for id in &ids {
            let Some(k) = self.known.get_mut(id) else { continue };
            k.touched = rec.head.time_ns;
            k.spans.values_mut().for_each(|s| s.on = on);
        }
        self.settle(moment(&rec.head, through), &ids, &[], out);
    }

    /// What runs at an event when something is done to it.
    fn program_seen(&mut self, id: Id, prog: u32, head: &RecHead, out: &mut Vec<AuditEvent>) {
        let asked = self.known.get(&id).and_then(|k| k.bpf_asked);
        let at = asked.unwrap_or_else(|| moment(head, Interface::Found));
        self.program(id, (prog != 0).then_some(prog), at, out);
    }

    fn closed(&mut self, rec: &RecAct, out: &mut Vec<AuditEvent>) {
        let id = Id::Perf(rec.id);
        self.program_seen(id, rec.prog, &rec.head, out);
        let Some(k) = self.known.get_mut(&id) else {
            self.unknown += 1;
            return;
        };
        if rec.arg == 0 {
            self.end(id, moment(&rec.head, Interface::Close), &[], out);
        } else {
            k.closed = Some(rec.head.time_ns);
        }
    }

    /// The last that held an event or a link lets it go. What ends with who made it is told
    /// together, by the next look.
    fn freed(&mut self, id: Id, pid: u32, head: &RecHead, out: &mut Vec<AuditEvent>) {
        let Some(k) = self.known.get(&id) else { return };
        let with_owner = match k.left.filter(|_| pid == k.by.ident.pid) {
            Some((_, Interface::OwnerExit)) => true,
            Some((since, _)) => head.time_ns < since + EXEC_TAKES_NS,
            None => false,
        };
        if !with_owner {
            self.end(id, moment(head, Interface::Close), &[], out);
        }
    }

    fn prctl(&mut self, rec: &RecTask, out: &mut Vec<AuditEvent>) {
        let on = rec.arg == PRCTL_ENABLE;
        let through = if on { Interface::PrctlEnable } else { Interface::PrctlDisable };
        let mut ids = Vec::new();
        for id in self.by_owner.get(&rec.id.pid).into_iter().flatten() {
            let Some(k) = self.known.get_mut(id) else { continue };
            // Those that the thread itself has opened.
            if matches!(id, Id::Perf(_)) && k.by.ident.tid == rec.id.tid {
                k.touched = rec.head.time_ns;
                k.spans.values_mut().for_each(|s| s.on = on);
                ids.push(*id);
            }
        }
        self.settle(moment(&rec.head, through), &ids, &[], out);
    }

    fn exec(&mut self, rec: &RecTask, path: Vec<u8>, out: &mut Vec<AuditEvent>) {
        let (pid, tid, before) = (rec.id.pid, rec.id.tid, rec.arg as u32);
        // A thread that is not the leader gets the leader's id.
        if before != tid {
            for id in self.by_task.remove(&before).unwrap_or_default() {
                let Some(k) = self.known.get_mut(&id) else { continue };
                if let Some(span) = k.spans.get_mut(&pid) {
                    span.threads.remove(&before);
                    span.threads.insert(tid);
                }
                if k.root == (pid, before) {
                    k.root = (pid, tid);
                }
                self.by_task.entry(tid).or_default().insert(id);
            }
        }
        let ids: Vec<_> = self.by_task.get(&tid).into_iter().flatten().copied().collect();
        let removed: Vec<_> = ids
            .iter()
            .copied()
            .filter(|id| {
                let attr = self.known.get(id).and_then(Known::attr);
                attr.is_some_and(|a| a.has(PerfAttr::REMOVE_ON_EXEC))
            })
            .collect();
        for id in &removed {
            self.part(*id, tid);
        }
        self.settle(moment(&rec.head, Interface::Exec), &removed, &[], out);
        self.people.meet(Ident::from(&rec.id), Some(path), None);
        for id in &ids {
            let span = self.known.get_mut(id).and_then(|k| k.spans.get_mut(&pid));
            if let Some(span) = span.filter(|s| s.waits) {
                (span.waits, span.on) = (false, true);
            }
            if let Some(k) = self.known.get_mut(id) {
                k.touched = rec.head.time_ns;
            }
        }
        self.settle(moment(&rec.head, Interface::EnableOnExec), &ids, &[], out);
        self.leaves(pid, rec.head.time_ns, Interface::Exec);
    }

    fn exit(&mut self, rec: &RecTask, out: &mut Vec<AuditEvent>) {
        let (pid, tid) = (rec.id.pid, rec.id.tid);
        let at = moment(&rec.head, Interface::TargetExit);
        let mut ids: Vec<_> = self.by_task.get(&tid).into_iter().flatten().copied().collect();
        // Where nobody else has it, it ended before.
        let all = ids.len();
        ids.retain(|id| match self.known.get_mut(id) {
            Some(k) if matches!((id, k.left), (Id::Perf(_), Some((_, Interface::OwnerExit)))) => {
                k.parting.push((tid, at));
                false
            }
            _ => true,
        });
        let is_asked_for = ids.len() < all;
        for id in &ids {
            self.part(*id, tid);
        }
        self.settle(at, &ids, &[], out);
        for id in ids.iter().filter(|id| matches!(id, Id::Traced { .. })) {
            if self.known.get(id).is_some_and(|k| k.spans.is_empty()) {
                self.end(*id, at, &[], out);
            }
        }
        if rec.group_dead != 0 {
            self.leaves(pid, rec.head.time_ns, Interface::OwnerExit);
            let traced = self.by_owner.get(&pid).into_iter().flatten().copied();
            let traced: Vec<_> = traced.filter(|id| matches!(id, Id::Traced { .. })).collect();
            for id in traced {
                self.end(id, moment(&rec.head, Interface::OwnerExit), &[], out);
            }
            if !is_asked_for {
                self.people.forget(pid);
            }
        }
    }

    /// Who has events may not have them any more.
    fn leaves(&mut self, pid: u32, time_ns: u64, how: Interface) {
        for id in self.by_owner.get(&pid).into_iter().flatten() {
            if let Some(k) = self.known.get_mut(id) {
                k.left = Some((time_ns, how));
            }
        }
    }

    fn fork(&mut self, rec: &RecFork, out: &mut Vec<AuditEvent>) {
        let (parent, child) = (&rec.parent, &rec.child);
        let other = parent.pid != child.pid;
        if other {
            self.people.meet(Ident::from(child), None, None);
        }
        let mut joined = Vec::new();
        let ids: Vec<_> = self.by_task.get(&parent.tid).into_iter().flatten().copied().collect();
        for id in ids {
            let Some(k) = self.known.get(&id) else { continue };
            let Some(like) = k.spans.get(&parent.pid).cloned() else { continue };
            match (id, k.attr()) {
                (Id::Perf(_), Some(attr)) => {
                    let inherits = attr.has(PerfAttr::INHERIT)
                        && !(other && attr.has(PerfAttr::INHERIT_THREAD));
                    if inherits && rec.has_events != 0 {
                        self.join(id, child.pid, child.tid, &like);
                        joined.push(id);
                    }
                }
                (Id::Traced { tracer, .. }, _) if rec.traced != 0 => {
                    let new = Id::Traced { tracer, tracee: child.pid };
                    if other && !self.known.contains_key(&new) {
                        let known = Known {
                            root: (child.pid, child.tid),
                            given: child.pid,
                            spans: BTreeMap::from([(child.pid, span_of(child.tid))]),
                            leader: new,
                            ..k.clone()
                        };
                        self.follow(new, known);
                    } else {
                        self.join(new, child.pid, child.tid, &like);
                    }
                    joined.push(new);
                }
                _ => {}
            }
        }
        self.settle(moment(&rec.head, Interface::Inherit), &joined, &[], out);
    }

    fn link(&mut self, rec: &RecLink, out: &mut Vec<AuditEvent>) {
        // A program at a perf event.
        if rec.event_id != 0 {
            let id = Id::Perf(rec.event_id);
            if let Some(k) = self.known.get_mut(&id) {
                k.changes.bpf += 1;
                k.touched = rec.head.time_ns;
            }
            let at = moment(&rec.head, Interface::BpfLinkCreate);
            return self.program(id, Some(rec.prog), at, out);
        }
        let Some(kind) = link_kind(rec) else { return };
        let id = Id::Link(rec.id);
        if self.known.contains_key(&id) {
            return;
        }
        let by = self.people.meet(Ident::from(&rec.by), None, None);
        let told = || Link {
            id: rec.id,
            prog: rec.prog,
            kind,
            name: links::called(kind, &link_at(rec)),
            pid: (rec.of.pid != 0).then_some(rec.of.pid),
        };
        // The kernel half has seen it whole where it says how many places there are. Of the
        // others one that is gone again has no more than what was read of it.
        let found = match rec.places {
            0 => (self.link_of)(rec.id).unwrap_or_else(told),
            _ => told(),
        };
        let through = match rec.cmd {
            RAW_TRACEPOINT_OPEN => Interface::BpfRawTracepointOpen,
            _ => Interface::BpfLinkCreate,
        };
        let target = match rec.of.pid {
            0 => found.target(),
            _ => Target::Process(Box::new(self.people.meet(Ident::from(&rec.of), None, None))),
        };
        let name = until_nul(&rec.name).to_vec();
        let known = Known {
            what: What::Bpf { prog: rec.prog, link: rec.id, name, kind: found.kind },
            name: found.name,
            spans: BTreeMap::from([(0, span_of(0))]),
            place: Place::Elsewhere(target),
            ..nothing(id, by, rec.head.time_ns)
        };
        if self.follow(id, known) {
            self.settle(moment(&rec.head, through), &[id], &[], out);
        }
    }

    fn link_ends(&mut self, rec: &RecLink, out: &mut Vec<AuditEvent>) {
        // A pin keeps it, or another descriptor that was made of it: it is looked for.
        if rec.left > 0 {
            if let Some(k) = self.known.get_mut(&Id::Link(rec.id)) {
                k.closed = Some(rec.head.time_ns);
            }
            return;
        }
        if rec.event_id == 0 {
            return self.freed(Id::Link(rec.id), rec.by.pid, &rec.head, out);
        }
        let id = Id::Perf(rec.event_id);
        // The event ends with it, if nobody else has that open.
        if rec.cmd <= 1 {
            return self.freed(id, rec.by.pid, &rec.head, out);
        }
        let exits = |k: &Known| {
            matches!(k.left, Some((_, Interface::OwnerExit))) && k.by.ident.pid == rec.by.pid
        };
        // Of what ends with its owner the end is told.
        if let Some(k) = self.known.get_mut(&id).filter(|k| !exits(k)) {
            k.touched = rec.head.time_ns;
            self.program(id, None, moment(&rec.head, Interface::Close), out);
        }
    }

    fn traced(&mut self, rec: &RecFork, out: &mut Vec<AuditEvent>) {
        let by = self.people.meet(Ident::from(&rec.parent), None, None);
        self.people.meet(Ident::from(&rec.child), None, None);
        let (pid, tid) = (rec.child.pid, rec.child.tid);
        let id = Id::Traced { tracer: by.ident.pid, tracee: pid };
        let through = match rec.request {
            PTRACE_TRACEME => Interface::PtraceTraceme,
            PTRACE_SEIZE => Interface::PtraceSeize,
            _ => Interface::PtraceAttach,
        };
        if self.known.contains_key(&id) {
            // Another thread of it.
            return self.join(id, pid, tid, &span_of(tid));
        }
        let known = Known {
            addr: 0,
            name: "ptrace".into(),
            what: What::Ptrace,
            spans: BTreeMap::from([(pid, span_of(tid))]),
            place: Place::Processes,
            root: (pid, tid),
            given: rec.given,
            ..nothing(id, by, rec.head.time_ns)
        };
        if self.follow(id, known) {
            self.settle(moment(&rec.head, through), &[id], &[], out);
        }
    }

    /// Not of a tracee that has ended.
    fn unlinked(&mut self, rec: &RecFork, out: &mut Vec<AuditEvent>) {
        let id = Id::Traced { tracer: rec.parent.pid, tracee: rec.child.pid };
        self.part(id, rec.child.tid);
        if self.known.get(&id).is_some_and(|k| k.spans.values().all(|s| s.gone)) {
            let exits = rec.request != 0;
            let how = if exits { Interface::OwnerExit } else { Interface::PtraceDetach };
            self.end(id, moment(&rec.head, how), &[], out);
        }
    }

    fn let_go(&mut self, rec: &RecTask, out: &mut Vec<AuditEvent>) {
        let given = rec.arg as u32;
        let of = self.by_owner.get(&rec.id.pid).into_iter().flatten().copied();
        let has = |id: &Id| {
            matches!(id, Id::Traced { .. })
                && self.known.get(id).is_some_and(|k| {
                    k.given == given || k.spans.values().any(|s| s.threads.contains(&given))
                })
        };
        let Some(id) = of.into_iter().find(has) else { return };
        let at = moment(&rec.head, Interface::PtraceDetach);
        self.part(id, given);
        let main = self.known.get(&id).is_some_and(|k| k.given == given);
        if main || self.known.get(&id).is_some_and(|k| k.spans.values().all(|s| s.gone)) {
            self.end(id, at, &[], out);
        }
    }
}

/// What is on for one thread.
pub(super) fn span_of(tid: u32) -> Span {
    Span { threads: BTreeSet::from([tid]), on: true, ..Span::default() }
}

/// Something of which not much is known.
pub(super) fn nothing(id: Id, by: prof_model::record::Process, time_ns: u64) -> Known {
    Known {
        addr: 0,
        what: What::Ptrace,
        name: String::new(),
        cpu: None,
        leader: id,
        leader_on: true,
        by,
        place: Place::Processes,
        spans: BTreeMap::new(),
        root: (0, 0),
        changes: Changes::default(),
        given: 0,
        bpf_asked: None,
        closed: None,
        left: None,
        parting: Vec::new(),
        alive: time_ns,
        touched: time_ns,
    }
}
