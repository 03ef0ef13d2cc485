//! Stacks by the tables, in user space: for what the kernel half had to leave.
//!
//! [`step`] is what the kernel half does, branch for branch, and so is written as one
//! would in C: what a register holds that is lost is a number, and sums wrap.

use crate::elf::Arch;
use crate::rule::Cfa;
use crate::rule::Reg;
use crate::rule::Rule;
use crate::rule::RuleSet;
use crate::table::Table;

/// What is known of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Regs {
    /// Where it runs, or where it will go on.
    pub ip: u64,
    /// rsp, sp.
    pub sp: u64,
    /// rbp, x29; or [`Regs::LOST`].
    pub fp: u64,
    /// x30, or rbx, which functions keep for their callers; or [`Regs::LOST`].
    pub lr: u64,
    /// Whether `ip` is a return address, behind the call: the frame is another's caller,
    /// and not one that was interrupted.
    pub caller: bool,
    /// Those that no frame below has saved, if they are known.
    pub others: Option<Others>,
}

/// The registers of x86-64 in the order of `struct pt_regs`: r15, r14, r13, r12, rbp, rbx,
/// r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi.
pub type Others = [u64; 15];

/// Places in [`Others`].
const R15: usize = 0;
const RBP: usize = 4;
const RBX: usize = 5;
const R9: usize = 8;

impl Regs {
    /// No address of anything: it is neither aligned nor mapped.
    pub const LOST: u64 = 1;

    /// Those of the innermost frame.
    pub fn new(ip: u64, sp: u64, fp: u64, lr: u64) -> Self {
        Self { ip, sp, fp, lr, caller: false, others: None }
    }

    /// A register that rules name by its place in [`Others`].
    fn other(&self, place: usize) -> Option<u64> {
        match place {
            RBX => (self.lr != Self::LOST).then_some(self.lr),
            // Functions keep these for their callers, where rules do not say.
            R15..=RBP if self.caller => None,
            // Not these: that a rule of a caller's names one says that the callee, assembly
            // as well, leaves it alone.
            place => self.others?.get(place).copied(),
        }
    }

    /// The address whose rule holds. A call may be the last instruction of its function.
    pub fn lookup(&self) -> u64 {
        self.ip.wrapping_sub(u64::from(self.caller))
    }
}

/// The memory of the process, or what was copied of it.
pub trait Memory {
    /// The 8 bytes at an address.
    fn read(&self, address: u64) -> Option<u64>;
}

impl<F: Fn(u64) -> Option<u64>> Memory for F {
    fn read(&self, address: u64) -> Option<u64> {
        self(address)
    }
}

/// What code is.
#[derive(Debug, Clone, Copy)]
pub enum Code<'a> {
    /// Of a file: its table, and where in the file.
    File(&'a Table, u64),
    /// Made while the program runs: there is no table, and frame pointers are hoped for.
    Anonymous,
}

/// What is mapped where.
pub trait Maps {
    /// The code at an address.
    fn code(&self, address: u64) -> Option<Code<'_>>;
}

/// The machine that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Which.
    pub arch: Arch,
    /// The bits of a return address that may be pointer authentication's.
    pub pac_mask: u64,
}

impl Machine {
    /// With addresses of 48 bits.
    pub fn new(arch: Arch) -> Self {
        let pac_mask = match arch {
            Arch::X86_64 => 0,
            Arch::Aarch64 => !((1 << 48) - 1) & !(1 << 55),
        };
        Self { arch, pac_mask }
    }

    /// A return address without pointer authentication. Bit 55 says whether it is the
    /// kernel's, whose upper bits are ones.
    fn strip(&self, address: u64) -> u64 {
        if address & 1 << 55 != 0 { address | self.pac_mask } else { address & !self.pac_mask }
    }
}

/// Why a stack goes no further, though it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nothing that is known is mapped there.
    NotMapped,
    /// No rule: code without CFI, or no code.
    NoRule,
    /// CFI that rules cannot hold.
    Unsupported,
    /// The stack could not be read there.
    Memory(u64),
    /// The caller's frame would not be above.
    Backwards,
    /// The frame needs a frame pointer that is lost.
    FramePointerLost,
    /// The return address is in a register that a call has overwritten.
    ReturnAddressLost,
    /// The frame pointer is no such: not aligned, or too far from the stack pointer.
    NoFramePointer,
    /// It has more frames than were asked for.
    Depth,
}

/// What a step led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The caller's frame.
    Caller(Regs),
    /// The frame was the outermost.
    End,
    /// It cannot be said.
    Stop(Reason),
}

/// Frames of code that keeps frame pointers are smaller.
const MAX_FRAME: u64 = 1 << 20;

/// From a frame to its caller's.
pub fn step(
    machine: &Machine,
    rules: &RuleSet,
    code: Code<'_>,
    regs: &Regs,
    memory: &impl Memory,
) -> Step {
    let Code::File(table, offset) = code else {
        return frame_pointer(machine, regs, memory, false);
    };
    let rule = rules.get(table.rule_at(offset)).copied().unwrap_or_default();
    if rule.cfa == Cfa::None && table.frame_pointers {
        return frame_pointer(machine, regs, memory, true);
    }
    by_rule(machine, &rule, regs, memory)
}

/// From a frame to its caller's, by a rule.
pub fn by_rule(machine: &Machine, rule: &Rule, regs: &Regs, memory: &impl Memory) -> Step {
    let off = |base: u64, off: i32| base.wrapping_add_signed(i64::from(off));
    let cfa = match rule.cfa {
        Cfa::None => return Step::Stop(Reason::NoRule),
        Cfa::Unsupported => return Step::Stop(Reason::Unsupported),
        Cfa::End => return Step::End,
        Cfa::Signal => return signal(machine, off(regs.sp, rule.cfa_off), memory),
        Cfa::Sp => off(regs.sp, rule.cfa_off),
        Cfa::Fp | Cfa::DerefFp if regs.fp == Regs::LOST => {
            return Step::Stop(Reason::FramePointerLost);
        }
        Cfa::Fp => off(regs.fp, rule.cfa_off),
        Cfa::DerefSp | Cfa::DerefFp => {
            let base = if rule.cfa == Cfa::DerefSp { regs.sp } else { regs.fp };
            let at = off(base, rule.cfa_off);
            let Some(value) = memory.read(at) else { return Step::Stop(Reason::Memory(at)) };
            off(value, rule.cfa_add)
        }
        Cfa::Register => match usize::try_from(rule.cfa_add).ok().and_then(|r| regs.other(r)) {
            Some(value) => off(value, rule.cfa_off),
            None => return Step::Stop(Reason::Unsupported),
        },
        Cfa::DerefIndexed => {
            let Some(index) = regs.other(R9) else { return Step::Stop(Reason::Unsupported) };
            let at = off(regs.sp.wrapping_add(index.wrapping_mul(8)), rule.cfa_off);
            let Some(value) = memory.read(at) else { return Step::Stop(Reason::Memory(at)) };
            off(value, rule.cfa_add)
        }
        Cfa::Plt => {
            let pushed = (regs.ip & 15) as i32 >= rule.cfa_off;
            off(regs.sp, if pushed { 16 } else { 8 })
        }
    };
    let ra = match rule.ra {
        Reg::Cfa => {
            let at = off(cfa, i32::from(rule.ra_off));
            let Some(ra) = memory.read(at) else { return Step::Stop(Reason::Memory(at)) };
            ra
        }
        Reg::Same if machine.arch == Arch::Aarch64 && regs.lr != Regs::LOST => regs.lr,
        Reg::Register => match usize::try_from(rule.ra_off).ok().and_then(|r| regs.other(r)) {
            Some(ra) => ra,
            None => return Step::Stop(Reason::ReturnAddressLost),
        },
        _ => return Step::Stop(Reason::ReturnAddressLost),
    };
    // Of a function that is about to return, CFI may still say where a register was saved
    // when it was restored: that place is below the stack, of which a copy has nothing.
    let is_left = |at: u64| at < regs.sp && !regs.caller;
    let fp_at = match rule.fp {
        Reg::Same => None,
        Reg::Cfa => Some(off(cfa, i32::from(rule.fp_off))),
        Reg::Fp if regs.fp != Regs::LOST => Some(off(regs.fp, i32::from(rule.fp_off))),
        Reg::Fp | Reg::Undefined | Reg::Register => Some(Regs::LOST),
    };
    let fp = match fp_at {
        None => regs.fp,
        Some(Regs::LOST) => Regs::LOST,
        Some(at) => match memory.read(at) {
            Some(fp) => fp,
            None if is_left(at) => regs.fp,
            None => return Step::Stop(Reason::Memory(at)),
        },
    };
    // Only the innermost frame can have no bytes: on arm64 a call needs none.
    if cfa < regs.sp || cfa == regs.sp && regs.caller {
        return Step::Stop(Reason::Backwards);
    }
    // The kernel half notes the place, and reads it once it is needed.
    let lr = match (machine.arch, rule.bx) {
        (Arch::Aarch64, _) | (Arch::X86_64, Rule::LOST_BX) => Regs::LOST,
        (Arch::X86_64, Rule::SAME_BX) => regs.lr,
        (Arch::X86_64, words) => {
            let at = off(cfa, i32::from(words) * 8);
            let left = || if is_left(at) { regs.lr } else { Regs::LOST };
            memory.read(at).unwrap_or_else(left)
        }
    };
    caller(machine, Regs { caller: true, others: regs.others, ..Regs::new(ra, cfa, fp, lr) })
}

/// From the kernel's frame of a signal to the frame that was interrupted. `pc_at` is
/// where its ip is, in the kernel's order of registers.
fn signal(machine: &Machine, pc_at: u64, memory: &impl Memory) -> Step {
    let (sp_back, fp_back, lr_back) = match machine.arch {
        Arch::X86_64 => (8, 48, 40),
        Arch::Aarch64 => (8, 24, 16),
    };
    let read = |back: u64| {
        let at = pc_at.wrapping_sub(back);
        memory.read(at).ok_or(at)
    };
    let regs = || Ok(Regs::new(read(0)?, read(sp_back)?, read(fp_back)?, read(lr_back)?));
    match regs() {
        Ok(regs) => caller(machine, regs),
        Err(at) => Step::Stop(Reason::Memory(at)),
    }
}

/// From a frame to its caller's, by the frame pointer. `switches`: it may be of another
/// stack, as where Go's runtime goes from a goroutine's to its own.
pub fn frame_pointer(machine: &Machine, regs: &Regs, memory: &impl Memory, switches: bool) -> Step {
    if regs.fp == 0 {
        return Step::End;
    }
    if regs.fp == Regs::LOST {
        return Step::Stop(Reason::FramePointerLost);
    }
    let above = regs.fp.wrapping_sub(regs.sp);
    let far = regs.fp < regs.sp || above >= MAX_FRAME;
    if regs.fp & 7 != 0 || far && !switches {
        return Step::Stop(Reason::NoFramePointer);
    }
    let Some(fp) = memory.read(regs.fp) else { return Step::Stop(Reason::Memory(regs.fp)) };
    let ra_at = regs.fp.wrapping_add(8);
    let Some(ra) = memory.read(ra_at) else { return Step::Stop(Reason::Memory(ra_at)) };
    let sp = regs.fp.wrapping_add(16);
    caller(machine, Regs { caller: true, ..Regs::new(ra, sp, fp, Regs::LOST) })
}

fn caller(machine: &Machine, mut regs: Regs) -> Step {
    regs.ip = machine.strip(regs.ip);
    // What starts a stack pushes this, or leaves it in the link register.
    if regs.ip == 0 { Step::End } else { Step::Caller(regs) }
}

/// Walks a stack, and hands out each frame, the innermost first, up to `depth` of them.
/// Why it went no further; `None` if the outermost was reached.
pub fn walk(
    machine: &Machine,
    rules: &RuleSet,
    maps: &impl Maps,
    memory: &impl Memory,
    start: Regs,
    depth: usize,
    mut each: impl FnMut(&Regs),
) -> Option<Reason> {
    let mut regs = start;
    for _ in 0..depth {
        each(&regs);
        let Some(code) = maps.code(regs.lookup()) else { return Some(Reason::NotMapped) };
        match step(machine, rules, code, &regs, memory) {
            Step::Caller(next) => regs = next,
            Step::End => return None,
            Step::Stop(reason) => return Some(reason),
        }
    }
    Some(Reason::Depth)
}
