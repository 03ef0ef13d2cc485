//! Steps by rules that are made up.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use prof_unwind::Arch;
use prof_unwind::Cfa;
use prof_unwind::Reg;
use prof_unwind::Rule;
use prof_unwind::unwind;
use prof_unwind::unwind::Machine;
use prof_unwind::unwind::Reason;
use prof_unwind::unwind::Regs;
use prof_unwind::unwind::Step;

#[test]
fn a_lost_frame_pointer_stops_who_needs_it() {
    let machine = Machine::new(Arch::X86_64);
    let memory = |at: u64| Some(at + 0x10_0000);
    let regs = Regs::new(0x400000, 0x1000, Regs::LOST, Regs::LOST);
    let rule = |cfa| Rule { ra: Reg::Cfa, ra_off: -8, cfa_off: 16, ..Rule::only(cfa) };
    for cfa in [Cfa::Fp, Cfa::DerefFp] {
        let step = unwind::by_rule(&machine, &rule(cfa), &regs, &memory);
        assert_eq!(step, Step::Stop(Reason::FramePointerLost));
    }
    for fp in [Reg::Same, Reg::Fp, Reg::Undefined] {
        let rule = Rule { fp, ..rule(Cfa::Sp) };
        let Step::Caller(caller) = unwind::by_rule(&machine, &rule, &regs, &memory) else {
            panic!("{fp:?}");
        };
        assert_eq!(caller.fp, Regs::LOST);
    }
}

#[test]
fn pointer_authentication_is_taken_off() {
    let machine = Machine::new(Arch::Aarch64);
    let rule = Rule { cfa_off: 16, ..Rule::only(Cfa::Sp) };
    let memory = |_: u64| None;
    for (signed, plain) in [
        (0x0042_aaaa_bbbb_cccc, 0x0000_aaaa_bbbb_cccc),
        (0xff7f_aaaa_bbbb_cccc, 0x0000_aaaa_bbbb_cccc),
        (0x0080_8000_0800_0000, 0xffff_8000_0800_0000),
    ] {
        let regs = Regs::new(0x400000, 0x1000, 0x2000, signed);
        let step = unwind::by_rule(&machine, &rule, &regs, &memory);
        let Step::Caller(caller) = step else { panic!("{step:?}") };
        assert_eq!(caller.ip, plain);
    }
}

fn by(arch: Arch, rule: Rule, regs: Regs) -> Step {
    let memory = |at: u64| (at >= 0x1000).then(|| at + 0x10_0000);
    unwind::by_rule(&Machine::new(arch), &rule, &regs, &memory)
}

#[test]
fn stacks_do_not_go_down() {
    let regs = Regs::new(0x40_0000, 0x2000, 0x1800, 0x40_1000);
    let caller = Regs { caller: true, ..regs };
    let rule = |cfa, cfa_off| Rule { cfa_off, ra: Reg::Cfa, ra_off: -8, ..Rule::only(cfa) };
    for (regs, rule) in [
        (regs, rule(Cfa::Sp, -8)),
        (regs, rule(Cfa::Fp, 16)),
        (caller, rule(Cfa::Sp, 0)),
        (caller, rule(Cfa::Fp, 0x800)),
    ] {
        assert_eq!(by(Arch::X86_64, rule, regs), Step::Stop(Reason::Backwards), "{rule:?}");
    }
    // The innermost frame may have no bytes: on arm64 a leaf has none.
    let leaf = Rule::only(Cfa::Sp);
    let found = Regs { ip: 0x40_1000, lr: Regs::LOST, caller: true, ..regs };
    assert_eq!(by(Arch::Aarch64, leaf, regs), Step::Caller(found));
    // But whoever calls has its return address overwritten.
    let caller = Regs { lr: Regs::LOST, ..caller };
    assert_eq!(by(Arch::Aarch64, leaf, caller), Step::Stop(Reason::ReturnAddressLost));
}

#[test]
fn where_the_stack_cannot_be_read() {
    let regs = Regs::new(0x40_0000, 0x2000, 0x3000, 0x40_1000);
    let low = Regs { sp: 0x800, fp: 0x900, ..regs };
    let rule = Rule { cfa_off: 16, ra: Reg::Cfa, ra_off: -8, ..Rule::only(Cfa::Sp) };
    assert_eq!(by(Arch::X86_64, rule, low), Step::Stop(Reason::Memory(0x808)));
    let rule = Rule { fp: Reg::Cfa, fp_off: -0x1100, ..rule };
    let caller = Regs { caller: true, ..regs };
    assert_eq!(by(Arch::X86_64, rule, caller), Step::Stop(Reason::Memory(0xf10)));
    let rule = Rule { cfa: Cfa::DerefFp, ..rule };
    assert_eq!(by(Arch::X86_64, rule, low), Step::Stop(Reason::Memory(0x910)));
    let rule = Rule { cfa_off: 168, ..Rule::only(Cfa::Signal) };
    assert_eq!(by(Arch::X86_64, rule, low), Step::Stop(Reason::Memory(0x8a8)));
}

#[test]
fn what_ends_and_what_cannot_go_on() {
    let regs = Regs::new(0x40_0000, 0x2000, 0x3000, 0);
    assert_eq!(by(Arch::X86_64, Rule::only(Cfa::End), regs), Step::End);
    assert_eq!(by(Arch::Aarch64, Rule::only(Cfa::Sp), regs), Step::End, "a return address of 0");
    assert_eq!(by(Arch::X86_64, Rule::only(Cfa::None), regs), Step::Stop(Reason::NoRule));
    let unsupported = Rule::only(Cfa::Unsupported);
    assert_eq!(by(Arch::X86_64, unsupported, regs), Step::Stop(Reason::Unsupported));
}

#[test]
fn frames_found_by_other_registers() {
    let others = std::array::from_fn(|i| 0x5000 + i as u64 * 0x100);
    let bx = 0x2800;
    let innermost = Regs { others: Some(others), ..Regs::new(0x40_0000, 0x2000, 0x3000, bx) };
    let caller = Regs { caller: true, ..innermost };
    let rule = |cfa_add| Rule {
        cfa_off: 16,
        cfa_add,
        ra: Reg::Cfa,
        ra_off: -8,
        ..Rule::only(Cfa::Register)
    };
    let sp = |regs, place| match by(Arch::X86_64, rule(place), regs) {
        Step::Caller(regs) => Ok(regs.sp),
        Step::Stop(reason) => Err(reason),
        Step::End => panic!("an end"),
    };
    // rbx, and what a callee may overwrite: also of callers. r12 only of who runs.
    for regs in [innermost, caller] {
        assert_eq!(sp(regs, 5), Ok(bx + 16));
        assert_eq!(sp(regs, 10), Ok(0x5a10));
    }
    assert_eq!(sp(innermost, 3), Ok(0x5310));
    assert_eq!(sp(caller, 3), Err(Reason::Unsupported));
    for no in [15, -1, i32::MAX] {
        assert_eq!(sp(innermost, no), Err(Reason::Unsupported), "{no}");
    }
    let unknown = Regs { others: None, lr: Regs::LOST, ..innermost };
    assert_eq!(sp(unknown, 5), Err(Reason::Unsupported));
    assert_eq!(sp(unknown, 10), Err(Reason::Unsupported));
    // vfork: the return address is in rdi, and the stack is not used.
    let vfork = Rule { ra: Reg::Register, ra_off: 14, ..Rule::only(Cfa::Sp) };
    let Step::Caller(found) = by(Arch::X86_64, vfork, innermost) else { panic!("no caller") };
    assert_eq!((found.ip, found.sp), (0x5e00, 0x2000));
    let lost = Step::Stop(Reason::ReturnAddressLost);
    assert_eq!(by(Arch::X86_64, vfork, unknown), lost);
}

#[test]
fn rbx_is_followed_to_where_it_is_stored() {
    let regs = Regs::new(0x40_0000, 0x2000, 0x3000, 0x77);
    let lr = |bx, regs| {
        let rule = Rule { cfa_off: 64, ra: Reg::Cfa, ra_off: -8, bx, ..Rule::only(Cfa::Sp) };
        let Step::Caller(caller) = by(Arch::X86_64, rule, regs) else { panic!("no caller") };
        caller.lr
    };
    assert_eq!(lr(Rule::SAME_BX, regs), 0x77);
    assert_eq!(lr(-3, regs), 0x2040 - 24 + 0x10_0000);
    assert_eq!(lr(Rule::LOST_BX, regs), Regs::LOST);
    // Where that cannot be read the stack goes on: few frames ask for it.
    assert_eq!(lr(-127, Regs { sp: 0x1100, caller: true, ..regs }), Regs::LOST);
}

/// GCC's CFI says of an epilogue, behind `pop %rbp`, still where rbp was saved.
#[test]
fn registers_that_were_restored_are_not_lost_with_the_place_below_the_stack() {
    // A copy of the stack begins where the stack does.
    let memory = |at: u64| (at >= 0x2000).then(|| at + 0x10_0000);
    let machine = Machine::new(Arch::X86_64);
    let regs = Regs::new(0x40_0000, 0x2000, 0x3000, 0x7777);
    let rule = Rule {
        cfa_off: 8,
        ra: Reg::Cfa,
        ra_off: -8,
        fp: Reg::Cfa,
        fp_off: -16,
        bx: -3,
        ..Rule::only(Cfa::Sp)
    };
    let Step::Caller(caller) = unwind::by_rule(&machine, &rule, &regs, &memory) else {
        panic!("no caller");
    };
    assert_eq!((caller.fp, caller.lr), (0x3000, 0x7777));
    // Of whoever calls, what is below its frame is its callee's.
    let caller = Regs { caller: true, ..regs };
    let step = unwind::by_rule(&machine, &rule, &caller, &memory);
    assert_eq!(step, Step::Stop(Reason::Memory(0x1ff8)));
}
