//! What was on before the audit was: taken over once, so that its ends are heard of as
//! those of all others.
//!
//! The hooks are attached before the first look. So what the look finds is either told
//! by a record that waits, and left to that, or was there before.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;

use anyhow::Result;
use prof_events::describe::Names;
use prof_model::audit::AuditEvent;
use prof_model::audit::Changes;
use prof_model::audit::Interface;
use prof_model::audit::PerfAttr;
use prof_model::audit::Target;
use prof_model::audit::What;
use prof_model::audit::list::Listed;
use prof_model::audit::list::State;
use prof_model::record::Process;

use super::Audit;
use super::derive::Derive;
use super::derive::Id;
use super::derive::Known;
use super::derive::Moment;
use super::derive::Place;
use super::derive::Span;
use super::hear::BEFORE;
use super::hear::nothing;
use super::hear::span_of;
use super::tracefs::Written;
use crate::abi::audit::RawAudit;
use crate::audit_list::Inside;
use crate::audit_list::Lister;
use crate::audit_list::Now;
use crate::audit_list::processes;

/// Looks until one finds nobody who is new. Whoever begins after the hooks were attached
/// is told of by them, so it is children of those that were found that are waited for.
const LOOKS: usize = 4;

impl Audit {
    /// What is on already. Of all that it concerns hooks tell what happens after it.
    ///
    /// # Errors
    ///
    /// If the kernel cannot list it.
    pub fn what_is_on(&self, names: &Names) -> Result<Now> {
        let lister = Lister::new(names);
        let mut known = BTreeSet::new();
        let mut now = lister.now()?;
        for _ in 1..LOOKS {
            let new: Vec<_> = now.pids().into_iter().filter(|p| known.insert(*p)).collect();
            if new.is_empty() {
                break;
            }
            new.into_iter().for_each(|pid| self.known(pid));
            now = lister.now()?.after(now);
        }
        self.make_exact_all(&mut now);
        Ok(now)
    }

    /// What the kernel half has not read is known by /proc: tracers and whom they trace, whom a
    /// link is restricted to, and who inherited copies.
    fn make_exact_all(&self, now: &mut Now) {
        for l in &mut now.entries {
            if let What::Ptrace = l.monitor.what
                && let Some(by) = &mut l.by
            {
                self.make_exact(by);
            }
            if let (What::Ptrace | What::Bpf { .. }, Target::Process(p)) =
                (&l.monitor.what, &mut l.target)
            {
                self.make_exact(p);
            }
        }
        let heirs: BTreeSet<_> =
            now.inside.values().flat_map(|i| i.copies.iter().map(|c| c.pid)).collect();
        for pid in heirs {
            let Some(mut heir) = processes::of_pid(pid, pid) else { continue };
            self.make_exact(&mut heir);
            now.heirs.insert(pid, heir);
        }
    }
}

impl Now {
    /// With what an earlier look found that has ended since: hooks may have told of its end,
    /// and else it is found to be no more. Of tracers only hooks would tell.
    fn after(mut self, earlier: Self) -> Self {
        let ids: BTreeSet<_> = self.entries.iter().filter_map(id_of).collect();
        let ended = |l: &Listed| match id_of(l) {
            Some(id @ (Id::Perf(_) | Id::Link(_))) => !ids.contains(&id),
            _ => false,
        };
        for l in earlier.entries.into_iter().filter(ended) {
            if let Some(inside) = earlier.inside.get(&l.monitor.id) {
                self.inside.entry(l.monitor.id).or_insert_with(|| inside.clone());
            }
            self.entries.push(l);
        }
        self
    }

    /// Who profiles and is profiled.
    fn pids(&self) -> BTreeSet<u32> {
        let of = |l: &Listed| {
            let holders = l.holders.iter().map(|h| h.process.ident.pid);
            let by = l.by.iter().map(|p| p.ident.pid);
            by.chain(l.target.process().map(|p| p.ident.pid)).chain(holders).collect::<Vec<_>>()
        };
        let copies = self.inside.values().flat_map(|i| i.copies.iter().map(|c| c.pid));
        self.entries.iter().flat_map(of).chain(copies).filter(|pid| *pid != 0).collect()
    }
}

impl Derive {
    /// Takes over what is there, but for what the records that wait tell of, and hears
    /// those.
    pub fn take_over(
        &mut self,
        time_ns: u64,
        now: Now,
        files: Vec<Written>,
        waiting: Vec<RawAudit>,
        out: &mut Vec<AuditEvent>,
    ) {
        let told: BTreeSet<Id> = waiting.iter().filter_map(begun).collect();
        let mut by_notes: BTreeMap<Vec<&'static str>, Vec<Id>> = BTreeMap::new();
        for l in now.entries {
            let notes = [&[BEFORE][..], &l.notes].concat();
            let inside = now.inside.get(&l.monitor.id).cloned().unwrap_or_default();
            let Some(id) = id_of(&l).filter(|id| !told.contains(id)) else { continue };
            if self.known.contains_key(&id) {
                // Another thread of a tracee.
                if let (Id::Traced { tracee, .. }, Some(p)) = (id, l.target.process()) {
                    self.join(id, tracee, p.ident.tid, &span_of(p.ident.tid));
                }
                continue;
            }
            let known = self.found(id, l, inside, &now.heirs, time_ns);
            if self.follow(id, known) {
                by_notes.entry(notes).or_default().push(id);
            }
        }
        let at = Moment { time_ns, cpu: 0, through: Interface::Found };
        for (notes, ids) in by_notes {
            self.settle(at, &ids, &notes, out);
        }
        self.files(at, files, &[BEFORE], out);
        for raw in waiting {
            self.hear(raw, out);
        }
        // What had ended when it was looked for is as if it had ended before.
        self.unknown = 0;
    }

    fn found(
        &mut self,
        id: Id,
        l: Listed,
        inside: Inside,
        heirs: &HashMap<u32, Process>,
        time_ns: u64,
    ) -> Known {
        // Who opened it has ended: who has it open; nobody, if it is pinned.
        let by = l.by.or_else(|| l.holders.into_iter().next().map(|h| h.process));
        let by = by.map(|p| self.introduce(p)).unwrap_or_default();
        let (place, root) = match l.target {
            Target::Process(p) => {
                let p = self.introduce(*p);
                (Place::Processes, (p.ident.pid, p.ident.tid))
            }
            // Its path is looked for when it is told.
            Target::Cgroup { id, cpu, .. } => {
                (Place::Elsewhere(Target::Cgroup { id, path: None, cpu }), (0, 0))
            }
            other => (Place::Elsewhere(other), (0, 0)),
        };
        let attr = match l.monitor.what {
            What::Perf { attr, .. } => attr,
            _ => PerfAttr::default(),
        };
        let mut spans: BTreeMap<u32, Span> = BTreeMap::new();
        let mut has = |pid, tid, on| {
            let span = spans.entry(pid).or_default();
            span.threads.insert(tid);
            span.on |= on;
            span.waits = !span.on && attr.has(PerfAttr::ENABLE_ON_EXEC);
        };
        if l.state != State::TargetGone {
            has(root.0, root.1, l.state == State::On);
        }
        for c in inside.copies {
            has(c.pid, c.tid, c.on);
            if self.people.get(c.pid).is_none() {
                heirs.get(&c.pid).map(|p| self.introduce(p.clone()));
            }
        }
        Known {
            addr: inside.addr,
            what: l.monitor.what,
            name: l.monitor.name,
            cpu: l.cpu.filter(|_| place == Place::Processes),
            leader: l.monitor.leader.map_or(id, Id::Perf),
            place,
            spans,
            root,
            changes: Changes::default(),
            // As whoever traces it calls it, if that is of the same pid namespace.
            given: root.1,
            ..nothing(id, by, time_ns)
        }
    }

    fn introduce(&mut self, p: Process) -> Process {
        self.people.meet(p.ident, p.exe, p.container_id)
    }
}

fn id_of(l: &Listed) -> Option<Id> {
    match &l.monitor.what {
        What::Perf { .. } => Some(Id::Perf(l.monitor.id)),
        What::Bpf { link, .. } => Some(Id::Link(*link)),
        What::Ptrace => {
            let (by, of) = (l.by.as_ref()?, l.target.process()?);
            Some(Id::Traced { tracer: by.ident.pid, tracee: of.ident.pid })
        }
        What::Tracefs { .. } => None,
    }
}

/// What a record says to have begun.
fn begun(raw: &RawAudit) -> Option<Id> {
    match raw {
        RawAudit::Opened { rec, before: false, .. } => Some(Id::Perf(rec.event.id)),
        RawAudit::Link(rec) => Some(Id::Link(rec.id)),
        RawAudit::Ptrace(rec) => Some(Id::Traced { tracer: rec.parent.pid, tracee: rec.child.pid }),
        _ => None,
    }
}
