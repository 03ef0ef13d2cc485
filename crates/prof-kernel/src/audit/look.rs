//! What no hook tells, found by looking at the events themselves.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use prof_model::audit::AuditEvent;
use prof_model::audit::Interface;
use prof_model::audit::PerfAttr;
use prof_model::audit::Target;
use prof_model::audit::What;
use prof_model::record::Process;

use super::derive::Derive;
use super::derive::Id;
use super::derive::Known;
use super::derive::Moment;
use super::derive::Place;
use super::hear::STATE_OFF;
use super::hear::nothing;
use super::hear::span_of;
use super::tracefs::Written;
use crate::abi::audit::AbiLook;

/// State of an event whose target has ended, as all kernels have it; below it is no more.
const STATE_EXIT: i32 = -3;

const ABOUT: &str = "nothing told of it: it was found by looking, so the time is some 100 ms late";

/// Time from a process's exit hook in which its descriptors are closed as a rule: an
/// event that is still there after it is somebody else's as well.
const EXIT_TAKES_NS: u64 = 50_000_000;

/// Time from SET_BPF in which a program that is found is the one that it asked for.
const BPF_TAKES_NS: u64 = 1_000_000_000;

impl Derive {
    /// How the events were at `time_ns` that [`Derive::to_look_at`] named. All records of
    /// before have to be heard by now.
    pub fn looked(
        &mut self,
        time_ns: u64,
        asked: &[(u64, u64)],
        looks: &[AbiLook],
        out: &mut Vec<AuditEvent>,
    ) {
        let cpu = 0;
        let is_there =
            |number: u64, l: &AbiLook| l.id == number && l.refs > 0 && l.state >= STATE_EXIT;
        // They are about to close what they have open: the rest ends in a moment.
        let mut leaving = BTreeSet::new();
        for ((_, number), _) in asked.iter().zip(looks).filter(|((_, n), l)| is_there(*n, l)) {
            let known = self.known.get(&Id::Perf(*number)).filter(|k| k.leaves(time_ns));
            leaving.extend(known.map(|k| k.by.ident.pid));
        }
        // What ended by the same is told together.
        let mut ended: BTreeMap<_, (Moment, _, Vec<Id>)> = BTreeMap::new();
        for ((_, number), look) in asked.iter().zip(looks) {
            let id = Id::Perf(*number);
            let Some(k) = self.known.get_mut(&id).filter(|k| k.touched < time_ns) else { continue };
            if !is_there(*number, look) {
                if k.leaves(time_ns) && leaving.contains(&k.by.ident.pid) {
                    continue;
                }
                let (at, notes) = k.ended(time_ns);
                let together = ended
                    .entry((at.time_ns, at.through))
                    .or_insert_with(|| (at, notes, Vec::new()));
                together.2.push(id);
                continue;
            }
            k.is_there(time_ns);
            if !k.parting.is_empty() {
                // Who has it may be about to close it; else another has it open, too.
                if k.leaves(time_ns) {
                    continue;
                }
                for (tid, at) in std::mem::take(&mut k.parting) {
                    self.part(id, tid);
                    self.settle(at, &[id], &[], out);
                }
            }
            let Some(k) = self.known.get_mut(&id) else { continue };
            let inherits = k.attr().is_some_and(|a| a.has(PerfAttr::INHERIT));
            let (pid, tid) = k.root;
            let found = Moment { time_ns, cpu, through: Interface::Found };
            let asked = k.bpf_asked.filter(|at| time_ns < at.time_ns + BPF_TAKES_NS);
            k.bpf_asked = asked;
            self.program(id, (look.prog != 0).then_some(look.prog), asked.unwrap_or(found), out);
            // At a switch between two tasks that have all the same events, the kernel may exchange
            // their events instead: how this one is says nothing of whom it was asked for.
            if inherits && look.tid != tid && look.state != STATE_EXIT {
                continue;
            }
            let Some(k) = self.known.get_mut(&id) else { continue };
            let Some(span) = k.spans.get_mut(&pid).filter(|s| s.threads.contains(&tid)) else {
                continue;
            };
            if look.state == STATE_EXIT {
                // For the same reason: it was on another that ended.
                if inherits {
                    continue;
                }
                self.part(id, tid);
            } else if span.on != (look.state > STATE_OFF) {
                span.on = !span.on;
                span.waits &= !span.on;
            } else {
                continue;
            }
            self.settle(found, &[id], &[ABOUT], out);
        }
        for (at, notes, ids) in ended.into_values() {
            self.end_all(&ids, at, notes, out);
        }
    }

    /// Something was switched in tracefs.
    pub fn written(&mut self, time_ns: u64, all: Vec<Written>, out: &mut Vec<AuditEvent>) {
        let (seen, found): (Vec<_>, Vec<_>) = all.into_iter().partition(|w| w.seen);
        let at = |through| Moment { time_ns, cpu: 0, through };
        self.files(at(Interface::Tracefs), seen, &[], out);
        self.files(at(Interface::Found), found, &[ABOUT], out);
    }

    pub(super) fn files(
        &mut self,
        at: Moment,
        all: Vec<Written>,
        notes: &[&'static str],
        out: &mut Vec<AuditEvent>,
    ) {
        let (on, off): (Vec<_>, Vec<_>) = all.into_iter().partition(|w| w.on);
        let off = off.into_iter().filter_map(|w| self.files.remove(&(w.file, w.line)));
        let off: Vec<_> = off.map(Id::File).collect();
        self.end_all(&off, at, notes, out);
        let mut ids = Vec::new();
        for w in on {
            self.last_file = self.last_file.wrapping_add(1);
            let id = Id::File(self.last_file);
            let Process { ident, exe, container_id, .. } = w.by;
            let by = match ident.pid {
                0 => Process::default(),
                _ => self.people.meet(ident, exe, container_id),
            };
            let known = Known {
                name: format!("tracefs:{}", String::from_utf8_lossy(&w.file)),
                what: What::Tracefs { file: w.file.clone(), text: w.text },
                spans: BTreeMap::from([(0, span_of(0))]),
                place: Place::Elsewhere(Target::Host),
                ..nothing(id, by, at.time_ns)
            };
            if self.follow(id, known) {
                self.files.insert((w.file, w.line), self.last_file);
                ids.push(id);
            }
        }
        self.settle(at, &ids, notes, out);
    }

    /// Which of the links that [`Derive::links`] named are no more.
    pub fn links_gone(&mut self, time_ns: u64, gone: &[u32], out: &mut Vec<AuditEvent>) {
        for (id, k) in &mut self.known {
            if matches!(id, Id::Link(link) if !gone.contains(link)) && k.touched < time_ns {
                k.is_there(time_ns);
            }
        }
        for link in gone {
            let id = Id::Link(*link);
            if let Some(k) = self.known.get(&id) {
                let (at, notes) = k.ended(time_ns);
                self.end(id, at, notes, out);
            }
        }
    }

    /// After a loss: processes that are no more have nothing on them.
    pub fn check_processes(
        &mut self,
        time_ns: u64,
        exists: impl Fn(u32) -> bool,
        out: &mut Vec<AuditEvent>,
    ) {
        let tids: Vec<_> = self.by_task.keys().copied().filter(|tid| !exists(*tid)).collect();
        for tid in tids {
            let ids: Vec<_> = self.by_task.get(&tid).into_iter().flatten().copied().collect();
            for id in &ids {
                self.part(*id, tid);
            }
            let at = Moment { time_ns, cpu: 0, through: Interface::Found };
            self.settle(at, &ids, &[ABOUT], out);
        }
    }
}

impl Known {
    /// Whether who has it is ending at that time.
    fn leaves(&self, time_ns: u64) -> bool {
        let exits = |(since, how)| how == Interface::OwnerExit && time_ns < since + EXIT_TAKES_NS;
        self.left.is_some_and(exits)
    }

    /// It was there at that time.
    fn is_there(&mut self, time_ns: u64) {
        if !self.leaves(time_ns) && self.left.is_none_or(|(since, _)| time_ns >= since) {
            (self.alive, self.left) = (time_ns, None);
        }
    }

    /// When and by what it ended, that is found to be no more.
    fn ended(&self, time_ns: u64) -> (Moment, &'static [&'static str]) {
        let at = |time_ns, through| Moment { time_ns, cpu: 0, through };
        match (self.left, self.closed) {
            (Some((left, how)), _) => (at(left, how), &[]),
            // The close that was not the last was it after all: others used the
            // descriptor at that moment.
            (None, Some(closed)) if closed > self.alive => (at(closed, Interface::Close), &[]),
            _ => (at(time_ns, Interface::Found), &[ABOUT]),
        }
    }
}
