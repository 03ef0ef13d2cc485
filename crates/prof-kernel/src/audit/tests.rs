//! What follows from records in an order that a live test cannot force.

use std::collections::HashMap;

use prof_model::audit::AuditEvent;
use prof_model::audit::Changes;
use prof_model::audit::Interface;
use prof_model::audit::Monitor;
use prof_model::audit::PerfAttr;
use prof_model::audit::Target;
use prof_model::audit::What;
use prof_model::audit::list::Listed;
use prof_model::audit::list::State;
use prof_model::audit::list::Through;
use prof_model::record::Flags;
use prof_model::record::Ident;
use prof_model::record::Process;

use super::derive::Derive;
use crate::abi::AbiIdent;
use crate::abi::RecHead;
use crate::abi::audit::AbiLook;
use crate::abi::audit::RawAudit;
use crate::abi::audit::RecAct;
use crate::abi::audit::RecFork;
use crate::abi::audit::RecLink;
use crate::abi::audit::RecOpened;
use crate::abi::audit::RecTask;
use crate::audit_list::Copied;
use crate::audit_list::Inside;
use crate::audit_list::Now;
use crate::audit_list::links::Link;
use crate::audit_list::nothing;

const PROFILER: u32 = 10;
const TARGET: u32 = 20;
const CHILD: u32 = 30;

/// All zeroes.
macro_rules! zero {
    () => {
        // SAFETY: all zeroes is a value of a Plain type.
        unsafe { std::mem::zeroed() }
    };
}

/// Records with a clock that goes on by one with each.
struct Audit {
    derive: Derive,
    now: u64,
}

impl Audit {
    fn new() -> Self {
        let name = |attr: &PerfAttr| format!("{}:{}", attr.kind, attr.config);
        Self { derive: Derive::new(Box::new(name), |_| None), now: 100 }
    }

    fn head(&mut self) -> RecHead {
        self.now += 1;
        RecHead { time_ns: self.now, ..zero!() }
    }

    fn hear(&mut self, raw: RawAudit) -> Vec<String> {
        let mut out = Vec::new();
        self.derive.hear(raw, &mut out);
        told(&out)
    }

    /// An event of number `id` on a thread.
    fn open(
        &mut self,
        id: u64,
        leader: u64,
        bits: u64,
        target: (u32, u32),
        on: bool,
    ) -> Vec<String> {
        let raw = self.opened(id, leader, bits, target, on);
        self.hear(raw)
    }

    fn opened(
        &mut self,
        id: u64,
        leader: u64,
        bits: u64,
        target: (u32, u32),
        on: bool,
    ) -> RawAudit {
        let mut rec: RecOpened = zero!();
        rec.head = self.head();
        rec.by = ident(PROFILER, PROFILER);
        rec.event.id = id;
        rec.event.addr = id << 8;
        rec.event.leader = leader;
        rec.event.target = ident(target.0, target.1);
        rec.event.cpu = -1;
        rec.event.state = if on { 0 } else { -1 };
        rec.event.attr[0] = 1;
        rec.event.attr[8] = id as u8;
        rec.event.attr[40..48].copy_from_slice(&bits.to_ne_bytes());
        RawAudit::Opened { rec: Box::new(rec), path: Vec::new(), before: false }
    }

    fn exec(&mut self, pid: u32, before: u32) -> Vec<String> {
        let rec = RecTask { head: self.head(), id: ident(pid, pid), arg: before.into(), ..zero!() };
        self.hear(RawAudit::Exec { rec, path: b"/bin/it".to_vec() })
    }

    fn exit(&mut self, pid: u32, tid: u32, last: bool) -> Vec<String> {
        let rec =
            RecTask { head: self.head(), id: ident(pid, tid), group_dead: last.into(), ..zero!() };
        self.hear(RawAudit::Exit(rec))
    }

    fn fork(&mut self, parent: (u32, u32), child: (u32, u32)) -> Vec<String> {
        let rec = RecFork {
            head: self.head(),
            parent: ident(parent.0, parent.1),
            child: ident(child.0, child.1),
            has_events: 1,
            ..zero!()
        };
        self.hear(RawAudit::Fork(Box::new(rec)))
    }

    fn act(&mut self, id: u64, cmd: u32, arg: u64) -> RecAct {
        RecAct { head: self.head(), id, cmd, arg, pid: PROFILER, ..zero!() }
    }

    fn ioctl(&mut self, id: u64, cmd: u32) -> Vec<String> {
        let rec = self.act(id, cmd, 0);
        self.hear(RawAudit::Ioctl(rec))
    }

    fn close(&mut self, id: u64, left: u64) -> Vec<String> {
        let rec = self.act(id, 0, left);
        self.hear(RawAudit::Close(rec))
    }

    /// The end of an event's file, by whoever had it last.
    fn release(&mut self, id: u64, pid: u32) -> Vec<String> {
        let rec = RecAct { pid, ..self.act(id, 0, 0) };
        self.hear(RawAudit::Release(rec))
    }

    /// A tracee and its tracer; `exits` of the tracer's thread.
    fn trace(&mut self, child: (u32, u32), exits: bool) -> Box<RecFork> {
        Box::new(RecFork {
            head: self.head(),
            parent: ident(PROFILER, PROFILER),
            child: ident(child.0, child.1),
            request: exits.into(),
            ..zero!()
        })
    }

    /// A look that finds an event in a state, or gone.
    fn look(&mut self, id: u64, state: Option<i32>) -> Vec<String> {
        self.now += 1;
        let (refs, state) = state.map_or((0, -5), |s| (1, s));
        let look =
            AbiLook { addr: id << 8, id, refs, enabled_ns: 0, state, tid: TARGET, ..zero!() };
        let mut out = Vec::new();
        self.derive.looked(self.now, &[(id << 8, id)], &[look], &mut out);
        told(&out)
    }

    /// What is there when it begins, and the records that wait.
    fn begin(
        &mut self,
        entries: &[Listed],
        inside: &[(u64, Inside)],
        waiting: Vec<RawAudit>,
    ) -> Vec<String> {
        let now = Now {
            entries: entries.to_vec(),
            inside: inside.iter().cloned().collect(),
            heirs: HashMap::new(),
            limits: Vec::new(),
        };
        let mut out = Vec::new();
        self.derive.take_over(100, now, Vec::new(), waiting, &mut out);
        for e in out.iter().filter(|e| e.interface == Interface::Found) {
            assert_eq!(e.notes, ["it was there before the audit was"]);
        }
        told(&out)
    }
}

/// An event that was there, in a state.
fn listed(id: u64, bits: u64, state: State) -> Listed {
    let process = |pid| Process { ident: Ident::from(&ident(pid, pid)), ..Process::default() };
    Listed {
        monitor: Monitor {
            id,
            what: What::Perf { attr: PerfAttr { bits, kind: 1, ..PerfAttr::default() }, bpf: None },
            name: "x".into(),
            cpu: None,
            leader: None,
            changes: Changes::default(),
            on_ns: None,
        },
        by: Some(process(PROFILER)),
        target: Target::Process(Box::new(process(TARGET))),
        state,
        ..nothing(Through::PerfEventOpen)
    }
}

fn ident(pid: u32, tid: u32) -> AbiIdent {
    AbiIdent { pid, tid, start_ns: u64::from(pid), ..zero!() }
}

fn told(events: &[AuditEvent]) -> Vec<String> {
    let one = |e: &AuditEvent| {
        let names: Vec<_> = e.monitors.iter().map(|m| m.id.to_string()).collect();
        let whom = e.target.process().map_or(0, |p| p.ident.pid);
        let whether = if e.flags.has(Flags::ENABLE) { "on" } else { "off" };
        format!("{whether} {whom}: {} {}", names.join(","), e.interface.name())
    };
    events.iter().map(one).collect()
}

const WAITS: u64 = PerfAttr::DISABLED | PerfAttr::ENABLE_ON_EXEC | PerfAttr::INHERIT;
const ENABLE: u32 = 0x2400;
const DISABLE: u32 = 0x2401;

#[test]
fn an_exec_switches_on_what_waits_for_it_and_once() {
    let mut a = Audit::new();
    assert!(a.open(1, 1, WAITS, (TARGET, TARGET), false).is_empty());
    assert!(a.open(2, 2, WAITS, (TARGET, TARGET), false).is_empty());
    assert_eq!(a.exec(TARGET, TARGET), ["on 20: 1,2 enable_on_exec"]);
    assert_eq!(a.ioctl(1, DISABLE), ["off 20: 1 ioctl_disable"]);
    assert!(a.exec(TARGET, TARGET).is_empty());
    assert_eq!(a.exit(TARGET, TARGET, true), ["off 20: 2 target_exit"]);
    assert_eq!((a.derive.enabled, a.derive.disabled, a.derive.running()), (2, 2, 0));
}

#[test]
fn a_child_that_executes_goes_on_and_its_parent_does_not() {
    let mut a = Audit::new();
    a.open(1, 1, WAITS, (TARGET, TARGET), false);
    assert!(a.fork((TARGET, TARGET), (CHILD, CHILD)).is_empty());
    assert_eq!(a.exec(CHILD, CHILD), ["on 30: 1 enable_on_exec"]);
    // The ioctl is of all.
    assert_eq!(a.ioctl(1, ENABLE), ["on 20: 1 ioctl_enable"]);
    assert_eq!(a.ioctl(1, DISABLE), ["off 20: 1 ioctl_disable", "off 30: 1 ioctl_disable"]);
}

#[test]
fn a_process_is_on_until_its_last_thread_ends() {
    let mut a = Audit::new();
    let on = ["on 20: 1 perf_event_open"];
    assert_eq!(a.open(1, 1, PerfAttr::INHERIT, (TARGET, TARGET), true), on);
    assert!(a.fork((TARGET, TARGET), (TARGET, TARGET + 1)).is_empty());
    assert!(a.exit(TARGET, TARGET, false).is_empty());
    assert_eq!(a.exit(TARGET, TARGET + 1, true), ["off 20: 1 target_exit"]);
}

#[test]
fn threads_only_are_not_children() {
    let mut a = Audit::new();
    a.open(1, 1, PerfAttr::INHERIT | PerfAttr::INHERIT_THREAD, (TARGET, TARGET), true);
    assert!(a.fork((TARGET, TARGET), (CHILD, CHILD)).is_empty());
    assert!(a.fork((TARGET, TARGET), (TARGET, TARGET + 1)).is_empty());
    assert!(a.exit(TARGET, TARGET, false).is_empty());
}

#[test]
fn a_thread_that_executes_takes_its_leader_s_id_along() {
    let mut a = Audit::new();
    a.open(1, 1, 0, (TARGET, TARGET + 1), true);
    // Its leader dies first; it then has the leader's id.
    assert!(a.exit(TARGET, TARGET, false).is_empty());
    assert!(a.exec(TARGET, TARGET + 1).is_empty());
    assert_eq!(a.exit(TARGET, TARGET, true), ["off 20: 1 target_exit"]);
}

#[test]
fn an_event_that_is_to_be_removed_ends_at_exec() {
    let mut a = Audit::new();
    a.open(1, 1, PerfAttr::REMOVE_ON_EXEC, (TARGET, TARGET), true);
    assert_eq!(a.exec(TARGET, TARGET), ["off 20: 1 exec"]);
    assert!(a.exit(TARGET, TARGET, true).is_empty());
}

#[test]
fn a_group_goes_by_its_leader_and_outlives_it() {
    let mut a = Audit::new();
    a.open(1, 1, PerfAttr::DISABLED, (TARGET, TARGET), false);
    assert!(a.open(2, 1, 0, (TARGET, TARGET), true).is_empty());
    assert_eq!(a.ioctl(1, ENABLE), ["on 20: 1,2 ioctl_enable"]);
    assert_eq!(a.ioctl(1, DISABLE), ["off 20: 1,2 ioctl_disable"]);
    // Alone it is on: it was never switched off itself.
    assert_eq!(a.close(1, 0), ["on 20: 2 close"]);
    assert_eq!(a.close(2, 0), ["off 20: 2 close"]);
}

#[test]
fn what_nobody_told_is_found() {
    let mut a = Audit::new();
    a.open(1, 1, 0, (TARGET, TARGET), true);
    assert!(a.look(1, Some(1)).is_empty());
    assert_eq!(a.look(1, Some(-1)), ["off 20: 1 found"]);
    assert_eq!(a.look(1, Some(0)), ["on 20: 1 found"]);
    assert_eq!(a.look(1, None), ["off 20: 1 found"]);
    assert!(a.derive.is_idle());
}

#[test]
fn an_event_that_was_exchanged_with_a_child_s_says_nothing_of_its_end() {
    let mut a = Audit::new();
    a.open(1, 1, PerfAttr::INHERIT, (TARGET, TARGET), true);
    assert!(a.look(1, Some(-3)).is_empty());
    assert_eq!(a.exit(TARGET, TARGET, true), ["off 20: 1 target_exit"]);
    a.open(2, 2, 0, (TARGET, TARGET), true);
    assert_eq!(a.look(2, Some(-3)), ["off 20: 2 found"]);
}

#[test]
fn an_event_that_is_on_another_task_says_nothing_of_its_own() {
    let mut a = Audit::new();
    a.open(1, 1, WAITS, (TARGET, TARGET), false);
    a.fork((TARGET, TARGET), (CHILD, CHILD));
    a.exec(CHILD, CHILD);
    let mut look = |tid: u32| {
        a.now += 1;
        let look = AbiLook { addr: 1 << 8, id: 1, refs: 1, state: 1, tid, ..zero!() };
        let mut out = Vec::new();
        a.derive.looked(a.now, &[(1 << 8, 1)], &[look], &mut out);
        told(&out)
    };
    assert!(look(CHILD).is_empty());
    assert_eq!(look(TARGET), ["on 20: 1 found"]);
}

#[test]
fn a_command_is_compared_as_a_whole() {
    let mut a = Audit::new();
    a.open(1, 1, 0, (TARGET, TARGET), true);
    for refused in [0x4000_2401, 0x8000_2401, 0x2404, 0x2501, 0x4004_2404] {
        assert!(a.ioctl(1, refused).is_empty(), "{refused:#x}");
    }
    assert_eq!(a.ioctl(1, DISABLE), ["off 20: 1 ioctl_disable"]);
}

#[test]
fn what_cannot_be_refreshed_stays_off() {
    let mut a = Audit::new();
    let mut refresh = |id: u64, bits: u64, period: u8| {
        let RawAudit::Opened { mut rec, path, before } =
            a.opened(id, id, bits | PerfAttr::DISABLED, (TARGET, TARGET), false)
        else {
            unreachable!()
        };
        rec.event.attr[16] = period;
        assert!(a.hear(RawAudit::Opened { rec, path, before }).is_empty());
        a.ioctl(id, 0x2402)
    };
    assert!(refresh(1, 0, 0).is_empty());
    assert!(refresh(2, PerfAttr::INHERIT, 1).is_empty());
    assert_eq!(refresh(3, 0, 1), ["on 20: 3 ioctl_refresh"]);
}

#[test]
fn a_switch_off_names_the_thread_that_was_switched_on() {
    let mut a = Audit::new();
    let thread = |events: &[AuditEvent]| {
        events.iter().filter_map(|e| e.target.process()).map(|p| p.ident.tid).collect::<Vec<_>>()
    };
    let mut out = Vec::new();
    for (id, tid) in [(1, TARGET + 1), (2, TARGET)] {
        let raw = a.opened(id, id, 0, (TARGET, tid), true);
        a.derive.hear(raw, &mut out);
    }
    let head = a.head();
    a.derive
        .hear(RawAudit::Exit(RecTask { head, id: ident(TARGET, TARGET + 1), ..zero!() }), &mut out);
    assert_eq!(thread(&out), [TARGET + 1, TARGET, TARGET + 1]);
}

#[test]
fn a_program_is_told_when_it_is_put_at_an_event() {
    let mut a = Audit::new();
    a.open(1, 1, 0, (TARGET, TARGET), true);
    assert!(a.ioctl(1, 0x4004_2408).is_empty());
    assert!(a.derive.take_wants_look() && !a.derive.take_wants_look());
    // It is seen with whatever is done next, or by a look.
    let rec = RecAct { prog: 7, ..a.act(1, DISABLE, 0) };
    let told = a.hear(RawAudit::Ioctl(rec));
    let anew = ["off 20: 1 ioctl_set_bpf", "on 20: 1 ioctl_set_bpf", "off 20: 1 ioctl_disable"];
    assert_eq!(told, anew);
    // One that was refused.
    a.open(2, 2, 0, (TARGET, TARGET), true);
    assert!(a.ioctl(2, 0x4004_2408).is_empty());
    assert!(a.look(2, Some(1)).is_empty());
    // By a link, which ends before the event does.
    let mut link = |prog: u32, refs: u32| {
        let rec = RecLink { head: a.head(), by: ident(PROFILER, PROFILER), id: 5, ..zero!() };
        let rec = Box::new(RecLink { event_id: 2, kind: 7, prog, cmd: refs, ..rec });
        a.hear(if refs == 0 { RawAudit::Link(rec) } else { RawAudit::LinkClose(rec) })
    };
    assert_eq!(link(8, 0), ["off 20: 2 bpf_link_create", "on 20: 2 bpf_link_create"]);
    assert_eq!(link(8, 2), ["off 20: 2 close", "on 20: 2 close"]);
    link(9, 0);
    assert_eq!(link(9, 1), ["off 20: 2 close"]);
    assert_eq!((a.derive.enabled, a.derive.disabled), (6, 6));
}

#[test]
fn a_look_from_before_a_record_says_nothing() {
    let mut a = Audit::new();
    a.open(1, 1, 0, (TARGET, TARGET), true);
    let looked = a.now;
    a.ioctl(1, DISABLE);
    let look = AbiLook { addr: 1 << 8, id: 1, refs: 1, enabled_ns: 0, state: 1, ..zero!() };
    let mut out = Vec::new();
    a.derive.looked(looked, &[(1 << 8, 1)], &[look], &mut out);
    assert!(out.is_empty());
}

#[test]
fn an_end_is_by_what_came_last_before_it() {
    let mut a = Audit::new();
    a.open(1, 1, 0, (TARGET, TARGET), true);
    // Another had the descriptor at that moment.
    a.close(1, 1);
    assert_eq!(a.look(1, None), ["off 20: 1 close"]);
    a.open(2, 2, 0, (TARGET, TARGET), true);
    a.exit(PROFILER, PROFILER, true);
    assert_eq!(a.look(2, None), ["off 20: 2 owner_exit"]);
    a.open(3, 3, 0, (TARGET, TARGET), true);
    a.close(3, 1);
    // It was there after that: mapped, or somebody else's.
    assert!(a.look(3, Some(1)).is_empty());
    assert_eq!(a.look(3, None), ["off 20: 3 found"]);
}

#[test]
fn the_end_of_a_file_is_a_close_unless_its_owner_ended() {
    let mut a = Audit::new();
    a.open(1, 1, 0, (TARGET, TARGET), true);
    assert_eq!(a.release(1, PROFILER), ["off 20: 1 close"]);
    // It is handed on, and outlives who opened it.
    a.open(2, 2, 0, (TARGET, TARGET), true);
    a.exit(PROFILER, PROFILER, true);
    assert_eq!(a.release(2, CHILD), ["off 20: 2 close"]);
    // All that ends with its owner is told by one look, as of then.
    a.open(3, 3, 0, (TARGET, TARGET), true);
    a.exit(PROFILER, PROFILER, true);
    assert!(a.release(3, PROFILER).is_empty());
    assert_eq!(a.look(3, None), ["off 20: 3 owner_exit"]);
    // By an exec at once, or by the new program later.
    a.open(4, 4, 0, (TARGET, TARGET), true);
    a.exec(PROFILER, PROFILER);
    assert!(a.release(4, PROFILER).is_empty());
    assert_eq!(a.look(4, None), ["off 20: 4 exec"]);
    a.open(5, 5, 0, (TARGET, TARGET), true);
    a.exec(PROFILER, PROFILER);
    a.now += 10_000_000;
    assert_eq!(a.release(5, PROFILER), ["off 20: 5 close"]);
    // Nobody's.
    assert!(a.release(9, PROFILER).is_empty());
    assert_eq!(a.derive.unknown, 0);
}

#[test]
fn what_ends_with_its_owner_is_told_when_all_of_it_has_ended() {
    let mut a = Audit::new();
    a.open(1, 1, 0, (TARGET, TARGET), true);
    a.open(2, 2, 0, (TARGET, TARGET), true);
    a.exit(PROFILER, PROFILER, true);
    let mut look = |gone: [bool; 2], later: u64| {
        a.now += later;
        let asked = [(1 << 8, 1), (2 << 8, 2)];
        let looks = [0, 1].map(|i| AbiLook {
            addr: asked[i].0,
            id: asked[i].1,
            refs: i64::from(!gone[i]),
            enabled_ns: 0,
            state: 1,
            ..zero!()
        });
        let mut out = Vec::new();
        a.derive.looked(a.now, &asked, &looks, &mut out);
        told(&out)
    };
    assert!(look([true, false], 1_000_000).is_empty());
    assert_eq!(look([true, true], 1_000_000), ["off 20: 1,2 owner_exit"]);
    // One that it has handed on is not waited for.
    a.open(3, 3, 0, (TARGET, TARGET), true);
    a.open(4, 4, 0, (TARGET, TARGET), true);
    a.exit(PROFILER, PROFILER, true);
    a.now += 60_000_000;
    assert!(a.look(4, Some(1)).is_empty());
    assert_eq!(a.look(3, None), ["off 20: 3 owner_exit"]);
    assert_eq!(a.look(4, None), ["off 20: 4 found"]);
}

#[test]
fn a_tracee_is_let_go_with_its_last_thread() {
    let mut a = Audit::new();
    let second = (TARGET, TARGET + 1);
    for child in [(TARGET, TARGET), second] {
        let rec = a.trace(child, false);
        a.hear(RawAudit::Ptrace(rec));
    }
    let rec = a.trace((TARGET, TARGET), false);
    assert!(a.hear(RawAudit::PtraceUnlink(rec)).is_empty());
    let rec = a.trace(second, false);
    assert_eq!(a.hear(RawAudit::PtraceUnlink(rec)), ["off 20: 20 ptrace_detach"]);
    // The thread that traces ends, its process does not.
    let rec = a.trace(second, false);
    a.hear(RawAudit::Ptrace(rec));
    let rec = a.trace(second, true);
    assert_eq!(a.hear(RawAudit::PtraceUnlink(rec)), ["off 20: 20 owner_exit"]);
    // Of what has ended already nothing is told.
    let rec = a.trace(second, true);
    assert!(a.hear(RawAudit::PtraceUnlink(rec)).is_empty());
}

#[test]
fn who_had_it_ended_before_its_target_did() {
    let mut a = Audit::new();
    a.open(1, 1, 0, (TARGET, TARGET), true);
    a.open(2, 2, 0, (CHILD, CHILD), true);
    assert!(a.exit(PROFILER, PROFILER, true).is_empty());
    // Whether it was still on it nobody knows yet.
    assert!(a.exit(TARGET, TARGET, true).is_empty());
    assert_eq!(a.look(1, None), ["off 20: 1 owner_exit"]);
    // Of this one another has a descriptor; for a while its owner may be about to close it.
    assert!(a.exit(CHILD, CHILD, true).is_empty());
    assert!(a.look(2, Some(-3)).is_empty());
    a.now += 100_000_000;
    assert_eq!(a.look(2, Some(-3)), ["off 30: 2 target_exit"]);
}

#[test]
fn a_link_that_is_pinned_is_on_until_it_is_gone() {
    let mut a = Audit::new();
    let link = |a: &mut Audit, left: u32| RecLink {
        head: a.head(),
        by: ident(PROFILER, PROFILER),
        id: 7,
        kind: 1,
        left,
        ..zero!()
    };
    let rec = link(&mut a, 0);
    assert_eq!(a.hear(RawAudit::Link(Box::new(rec))), ["on 0: 7 bpf_link_create"]);
    let rec = link(&mut a, 1);
    assert!(a.hear(RawAudit::LinkClose(Box::new(rec))).is_empty());
    let mut out = Vec::new();
    a.derive.links_gone(a.now + 10, &[], &mut out);
    assert!(out.is_empty());
    a.derive.links_gone(a.now + 20, &[7], &mut out);
    assert_eq!(told(&out), ["off 0: 7 found"]);
}

#[test]
fn what_runs_at_the_end_is_what_was_put_there() {
    let mut a = Audit::new();
    a.open(1, 1, 0, (TARGET, TARGET), true);
    let put = a.act(1, 0x4004_2408, 0);
    assert!(a.hear(RawAudit::Ioctl(put)).is_empty());
    let rec = RecAct { prog: 9, ..a.act(1, 0, 0) };
    assert_eq!(a.hear(RawAudit::Prog(rec)), ["off 20: 1 ioctl_set_bpf", "on 20: 1 ioctl_set_bpf"]);
    assert_eq!(a.exit(TARGET, TARGET, true), ["off 20: 1 target_exit"]);
}

#[test]
fn links_to_many_places_are_called_as_the_list_calls_them() {
    let called = |kind: u32, at: &[u8], offset: u64, places: u32, returns: u32| {
        let mut a = Audit::new();
        let head = a.head();
        let mut rec = RecLink { head, id: 7, kind, offset, places, returns, ..zero!() };
        rec.at[..at.len()].copy_from_slice(at);
        let mut out = Vec::new();
        a.derive.hear(RawAudit::Link(Box::new(rec)), &mut out);
        out[0].monitors[0].name.clone()
    };
    assert_eq!(called(8, b"ksys_read", 0, 1, 0), "kprobe_multi:ksys_read");
    assert_eq!(called(8, b"", 0, 3, 1), "kretprobe_multi:3 functions");
    assert_eq!(called(8, b"", 0, 1, 0), "kprobe_multi:1 function");
    assert_eq!(called(12, b"/bin/sh", 0x10, 1, 0), "uprobe_multi:/bin/sh:0x10");
    assert_eq!(called(12, b"/bin/sh", 0x10, 2, 1), "uretprobe_multi:/bin/sh:2 places");
    assert_eq!(called(12, b"", 0, 0, 0), "uprobe_multi:?");
}

/// What user space compares with is what the kernel half compares with.
#[test]
fn numbers_of_the_kernel_are_the_same_in_both_halves() {
    use super::hear::*;
    let header = include_str!("../../../../bpf/include/audit_kernel.h");
    let defined = |name: &str| {
        let line = format!("#define AUDIT_{name} ");
        let text = header.lines().find_map(|l| l.strip_prefix(&line)).unwrap_or_else(|| {
            panic!("{name} is not defined");
        });
        let text = text.split_whitespace().next().unwrap();
        match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).unwrap(),
            None => text.parse().unwrap(),
        }
    };
    for (name, here) in [
        ("IOC_ENABLE", ioc::ENABLE),
        ("IOC_DISABLE", ioc::DISABLE),
        ("IOC_REFRESH", ioc::REFRESH),
        ("IOC_RESET", ioc::RESET),
        ("IOC_PERIOD", ioc::PERIOD),
        ("IOC_SET_FILTER", ioc::SET_FILTER),
        ("IOC_SET_BPF", ioc::SET_BPF),
        ("PRCTL_ENABLE", PRCTL_ENABLE as u32),
        ("BPF_RAW_TRACEPOINT_OPEN", RAW_TRACEPOINT_OPEN),
        ("PTRACE_TRACEME", PTRACE_TRACEME),
        ("PTRACE_SEIZE", PTRACE_SEIZE),
    ] {
        assert_eq!(defined(name), here, "{name}");
    }
    let value = |name: &str| {
        let line = format!("BPF_LINK_TYPE_{name} = ");
        let text = header.lines().find_map(|l| l.trim().strip_prefix(&line)).unwrap();
        text.trim_end_matches(',').parse::<u32>().unwrap()
    };
    assert_eq!(value("KPROBE_MULTI"), KPROBE_MULTI);
    assert_eq!(value("UPROBE_MULTI"), UPROBE_MULTI);
}

#[test]
fn an_act_on_what_is_not_known_is_counted() {
    let mut a = Audit::new();
    assert!(a.ioctl(7, ENABLE).is_empty());
    assert_eq!(a.derive.unknown, 1);
}

#[test]
fn what_was_there_is_taken_over_and_ends_like_all_others() {
    let mut a = Audit::new();
    let copies = vec![Copied { pid: CHILD, tid: CHILD, on: true }];
    let inside = [(1, Inside { addr: 1 << 8, copies })];
    let all = [
        listed(1, PerfAttr::INHERIT, State::On),
        listed(2, WAITS, State::AwaitsExec),
        listed(3, 0, State::Off),
        listed(4, 0, State::TargetGone),
    ];
    assert_eq!(a.begin(&all, &inside, Vec::new()), ["on 20: 1 found", "on 30: 1 found"]);
    // Told of once more, by whoever uses it first, it is not told again.
    assert!(a.open(1, 1, PerfAttr::INHERIT, (TARGET, TARGET), true).is_empty());
    assert_eq!(a.exit(CHILD, CHILD, true), ["off 30: 1 target_exit"]);
    assert_eq!(a.exec(TARGET, TARGET), ["on 20: 2 enable_on_exec"]);
    assert_eq!(a.ioctl(3, ENABLE), ["on 20: 3 ioctl_enable"]);
    assert!(a.close(4, 0).is_empty());
    assert_eq!(a.exit(TARGET, TARGET, true), ["off 20: 1,2,3 target_exit"]);
    assert_eq!((a.derive.enabled, a.derive.disabled, a.derive.unknown), (4, 4, 0));
}

#[test]
fn what_begins_while_it_looks_is_told_by_its_record_alone() {
    let mut a = Audit::new();
    let opened = a.opened(1, 1, 0, (TARGET, TARGET), true);
    let off = RawAudit::Ioctl(a.act(2, DISABLE, 0));
    // This one had ended when it was looked for.
    let ended = RawAudit::Close(a.act(3, 0, 0));
    let all = [listed(1, 0, State::On), listed(2, 0, State::On)];
    // The second was off before it was looked at again, and on when the audit began.
    let told = a.begin(&all, &[], vec![opened, off, ended]);
    assert_eq!(told, ["on 20: 2 found", "on 20: 1 perf_event_open", "off 20: 2 ioctl_disable"]);
}

#[test]
fn the_threads_of_a_tracee_are_one() {
    let mut a = Audit::new();
    let traced = |tid: u32| {
        let mut l = listed(u64::from(tid), 0, State::On);
        l.monitor.what = What::Ptrace;
        if let Target::Process(p) = &mut l.target {
            p.ident.tid = tid;
        }
        l
    };
    let told = a.begin(&[traced(TARGET), traced(TARGET + 1)], &[], Vec::new());
    assert_eq!(told, ["on 20: 20 found"]);
    assert!(a.exit(TARGET, TARGET + 1, false).is_empty());
    assert_eq!(a.exit(TARGET, TARGET, true), ["off 20: 20 target_exit"]);
}

#[test]
fn a_link_is_called_by_what_it_is_at() {
    let link = |a: &mut Audit, id: u32| {
        let rec = RecLink { head: a.head(), by: ident(PROFILER, PROFILER), id, kind: 1, ..zero!() };
        let mut rec: RecLink = rec;
        rec.at[..12].copy_from_slice(b"sched_wakeup");
        let mut out = Vec::new();
        a.derive.hear(RawAudit::Link(Box::new(rec)), &mut out);
        out[0].monitors[0].name.clone()
    };
    let mut a = Audit::new();
    a.derive.set_link_of(Box::new(|id| {
        let name = "raw_tracepoint:sched_switch".to_owned();
        (id == 7).then_some(Link { id, prog: 1, kind: "raw_tracepoint", name, pid: None })
    }));
    assert_eq!(link(&mut a, 7), "raw_tracepoint:sched_switch");
    // It was gone before anybody could look.
    assert_eq!(link(&mut a, 8), "raw_tracepoint:sched_wakeup");
}
