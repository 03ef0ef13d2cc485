//! V8's builtins: node's, Chromium's, Electron's. What runs JavaScript is half a million
//! instructions without CFI, put into the program as one piece.
//!
//! V8 walks its own stacks by frame pointers, but not from everywhere: a third of the
//! builtins have no frame, and any before it has one. So the piece is read instruction by
//! instruction, and where there is no frame the rule says how far up the return address is.
//! Only what moves the stack pointer matters, and code is as V8's compilers write it: what
//! is reached by a jump has the state of the jump before it in the file.
//!
//! It is known by how V8 begins a frame: symbols are not there in Debian's, or in a browser.

use std::collections::HashMap;

use iced_x86::Code as Op;
use iced_x86::Decoder;
use iced_x86::DecoderOptions;
use iced_x86::FlowControl;
use iced_x86::Instruction;
use iced_x86::Mnemonic;
use iced_x86::Register;

use crate::cfi::Function;
use crate::cfi::Reader;
use crate::cfi::Step;
use crate::elf::Arch;
use crate::elf::Code;
use crate::elf::Elf;
use crate::rule::Cfa;
use crate::rule::Reg;
use crate::rule::Rule;

/// It has 1.6 MB in node 20; no other code without CFI comes near.
const SIZES: std::ops::Range<u64> = 256 << 10..4 << 20;

/// Each builtin begins so, behind at least one int3.
const ALIGN: usize = 64;
const INT3: u8 = 0xcc;

/// `push %rbp; mov %rsp, %rbp; push $TYPE`: the type of the frame, which no other
/// compiler pushes.
const FRAME: &[u8] = &[0x55, 0x48, 0x89, 0xe5, 0x6a];

/// Node 20 has some 1,000.
const MIN_FRAMES: usize = 100;

/// Adds the rows of V8's builtins, if the file has them.
pub(crate) fn builtins(elf: &Elf<'_>, code: &[Code], reader: &mut Reader<'_>) -> bool {
    if elf.arch != Arch::X86_64 {
        return false;
    }
    let Some((from, to)) = largest_hole(code, &reader.functions) else { return false };
    if !SIZES.contains(&to.saturating_sub(from)) {
        return false;
    }
    let Ok(bytes) = elf.source.read("code", from, to - from, SIZES.end) else { return false };
    // Segments are mapped by pages, so offsets are aligned as addresses are.
    let skipped = from.next_multiple_of(ALIGN as u64) - from;
    let Some(bytes) = bytes.get(skipped as usize..) else { return false };
    let begins = starts(bytes).filter(|at| bytes.get(*at..).is_some_and(|b| b.starts_with(FRAME)));
    if begins.take(MIN_FRAMES).count() < MIN_FRAMES {
        return false;
    }
    let first = reader.steps.len();
    for (at, rule) in rows(bytes) {
        let rule = reader.intern(rule);
        reader.steps.push(Step { at, rule });
    }
    let steps = (reader.steps.len() - first) as u32;
    let function =
        Function { offset: from + skipped, size: bytes.len() as u32, first: first as u32, steps };
    reader.functions.push(function);
    true
}

/// Where the most code is that no function has.
fn largest_hole(code: &[Code], functions: &[Function]) -> Option<(u64, u64)> {
    let mut taken: Vec<_> =
        functions.iter().map(|f| (f.offset, f.offset + u64::from(f.size))).collect();
    taken.sort_unstable();
    let mut holes = Vec::new();
    for part in code {
        let (mut at, end) = (part.offset, part.offset + part.size);
        for (from, to) in &taken {
            if at < *from {
                holes.push((at, (*from).min(end)));
            }
            at = at.max(*to);
            if at >= end {
                break;
            }
        }
        holes.push((at, end));
    }
    holes.into_iter().max_by_key(|(from, to)| to.saturating_sub(*from))
}

/// Where builtins begin.
fn starts(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let behind_int3 = |at: &usize| at.checked_sub(1).and_then(|at| bytes.get(at)) == Some(&INT3);
    (0..bytes.len()).step_by(ALIGN).filter(move |at| *at == 0 || behind_int3(at))
}

/// What is known of the frame before an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The frame pointer is this frame's.
    Framed,
    /// It is the caller's, and so many bytes are on the stack with the return address.
    Bare(i32),
    /// The same, and the caller's frame pointer was pushed last.
    Pushed(i32),
    /// It is the caller's, and the return address was taken into a register.
    Taken(Register),
    /// It is the caller's, and no more is known: the caller is left out.
    Lost,
}

/// As a call leaves it.
const ENTRY: State = State::Bare(8);

/// More than builtins push before they have a frame.
const MAX_BARE: i32 = 1 << 10;

impl State {
    fn rule(self) -> Rule {
        let rule = |cfa, cfa_off| Rule {
            cfa_off,
            ra: Reg::Cfa,
            ra_off: -8,
            // JavaScript keeps no registers for its callers.
            bx: Rule::LOST_BX,
            ..Rule::only(cfa)
        };
        match self {
            Self::Framed | Self::Lost => Rule { fp: Reg::Cfa, fp_off: -16, ..rule(Cfa::Fp, 16) },
            Self::Bare(off) => rule(Cfa::Sp, off),
            Self::Pushed(off) => Rule { fp: Reg::Cfa, fp_off: -off as i16, ..rule(Cfa::Sp, off) },
            Self::Taken(register) => {
                Rule { ra: Reg::Register, ra_off: place(register).unwrap_or(0), ..rule(Cfa::Sp, 0) }
            }
        }
    }

    /// What is left when so many bytes were pushed, or popped.
    fn moved(self, pushed: i32) -> Self {
        match self {
            Self::Bare(off) | Self::Pushed(off) if (8..MAX_BARE).contains(&(off + pushed)) => {
                Self::Bare(off + pushed)
            }
            // Arguments are popped, and nothing of this frame is below them.
            Self::Taken(_) => self,
            _ => self.elsewhere(),
        }
    }

    /// When the stack pointer is changed in a way that is not followed.
    fn elsewhere(self) -> Self {
        if self == Self::Framed { self } else { Self::Lost }
    }

    /// Behind an instruction that goes on with the next.
    fn after(self, instruction: &Instruction) -> Self {
        let to = instruction.op0_register();
        match (instruction.mnemonic(), self) {
            (Mnemonic::Push, Self::Taken(register)) if to == register => ENTRY,
            (Mnemonic::Push, Self::Bare(off)) if to == Register::RBP => Self::Pushed(off + 8),
            (Mnemonic::Mov, Self::Pushed(_) | Self::Lost)
                if to == Register::RBP && instruction.op1_register() == Register::RSP =>
            {
                Self::Framed
            }
            (Mnemonic::Leave, _) => ENTRY,
            (Mnemonic::Pop, Self::Framed | Self::Pushed(16)) if to == Register::RBP => ENTRY,
            (Mnemonic::Pop, ENTRY) if place(to).is_some() => Self::Taken(to),
            // What is called may pop its arguments.
            (Mnemonic::Call, Self::Bare(_) | Self::Pushed(_) | Self::Taken(_)) => Self::Lost,
            (Mnemonic::Call, _) => self,
            (Mnemonic::Push | Mnemonic::Pop, _) => {
                self.moved(-instruction.stack_pointer_increment())
            }
            // Compared, not changed.
            (Mnemonic::Cmp | Mnemonic::Test, _) => self,
            (_, Self::Taken(_)) if to == Register::RSP => self,
            (_, Self::Taken(register)) if to == register => Self::Lost,
            (Mnemonic::Add | Mnemonic::Sub, _) if to == Register::RSP => {
                let by = instruction.try_immediate(1).ok();
                let by = by.and_then(|by| i32::try_from(by as i64).ok());
                let down = instruction.mnemonic() == Mnemonic::Sub;
                match by.filter(|by| by.abs() < MAX_BARE) {
                    Some(by) => self.moved(if down { by } else { -by }),
                    None => self.elsewhere(),
                }
            }
            _ if to == Register::RSP => self.elsewhere(),
            _ => self,
        }
    }
}

/// Where a register is in [`Others`](crate::unwind::Others): of those that hold a return
/// address while arguments are popped.
fn place(register: Register) -> Option<i16> {
    Some(match register {
        Register::R11 => 6,
        Register::R10 => 7,
        Register::R9 => 8,
        Register::R8 => 9,
        Register::RAX => 10,
        Register::RCX => 11,
        Register::RDX => 12,
        _ => return None,
    })
}

/// Rows of all builtins: offset, and the rule from there. Each differs from the one before.
fn rows(bytes: &[u8]) -> Vec<(u32, Rule)> {
    let mut rows: Vec<(u32, Rule)> = Vec::new();
    let mut targets: HashMap<usize, State> = HashMap::new();
    let starts = starts(bytes).skip(1).chain([bytes.len()]);
    let mut from = 0;
    let mut instruction = Instruction::default();
    for to in starts {
        let Some(part) = bytes.get(from..to) else { break };
        let mut decoder = Decoder::with_ip(64, part, from as u64, DecoderOptions::NONE);
        let mut state = Some(ENTRY);
        // Where nothing goes on and nothing was seen to jump to: as most of it is.
        let mut usual = ENTRY;
        while decoder.can_decode() {
            let at = from + decoder.position();
            decoder.decode_out(&mut instruction);
            let now = targets.get(&at).copied().or(state).unwrap_or(usual);
            if now == State::Framed {
                usual = now;
            }
            let rule = now.rule();
            if rows.last().is_none_or(|(_, before)| *before != rule) {
                rows.push((at as u32, rule));
            }
            if instruction.code() == Op::INVALID {
                // Data: tables of jumps are behind the code.
                state = None;
                continue;
            }
            let after = now.after(&instruction);
            let flow = instruction.flow_control();
            if matches!(flow, FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch)
                && let Ok(target) = usize::try_from(instruction.near_branch_target())
                && target > at
                && target < bytes.len()
            {
                targets.entry(target).or_insert(after);
            }
            state = match flow {
                FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Return
                | FlowControl::Interrupt
                | FlowControl::Exception => None,
                _ => Some(after),
            };
        }
        from = to;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What each row says: at, the CFA, where the frame pointer is, and the return address.
    fn read(bytes: &[u8]) -> Vec<(u32, Cfa, i32, i16)> {
        rows(bytes).iter().map(|(at, r)| (*at, r.cfa, r.cfa_off, r.fp_off)).collect()
    }

    fn padded(parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend_from_slice(part);
            bytes.resize((bytes.len() + 1).next_multiple_of(ALIGN), INT3);
        }
        bytes
    }

    #[test]
    fn a_frame_and_its_end() {
        // push rbp; mov rbp, rsp; push 0x22; mov rsp, rbp; pop rbp; ret
        let bytes = [0x55, 0x48, 0x89, 0xe5, 0x6a, 0x22, 0x48, 0x89, 0xec, 0x5d, 0xc3];
        let frame = [(0, Cfa::Sp, 8, 0), (1, Cfa::Sp, 16, -16), (4, Cfa::Fp, 16, -16)];
        let end = [(10, Cfa::Sp, 8, 0), (11, Cfa::Fp, 16, -16), (64, Cfa::Sp, 8, 0)];
        assert_eq!(read(&padded(&[&bytes, &[0x90]])), [&frame[..], &end].concat());
    }

    #[test]
    fn what_a_jump_leads_to_has_its_state() {
        // jne +4; push rax; jmp +2; nop; (target of the first) nop; (of the second) ret
        let bytes = [0x75, 0x04, 0x50, 0xeb, 0x02, 0x90, 0x90, 0xc3];
        let expected = [
            (0, Cfa::Sp, 8, 0),
            (3, Cfa::Sp, 16, 0),
            // Where nothing is known to lead, it is as at the start.
            (5, Cfa::Sp, 8, 0),
            (7, Cfa::Sp, 16, 0),
        ];
        assert_eq!(read(&bytes), expected);
    }

    #[test]
    fn arguments_that_a_builtin_takes_off() {
        // pop rcx; lea rsp, [rsp + 8 * r10 + 8]; push rcx; ret
        let bytes = [0x59, 0x4a, 0x8d, 0x64, 0xd4, 0x08, 0x51, 0xc3];
        let found = rows(&bytes);
        let taken = found[1].1;
        assert_eq!((found[1].0, taken.ra, taken.ra_off, taken.cfa_off), (1, Reg::Register, 11, 0));
        assert_eq!((found[2].0, found[2].1), (7, ENTRY.rule()));
    }

    #[test]
    fn a_stack_that_goes_elsewhere_leaves_out_the_caller() {
        // mov rsp, rax; ret
        assert_eq!(read(&[0x48, 0x89, 0xc4, 0xc3])[1], (3, Cfa::Fp, 16, -16));
        // More popped than there was.
        assert_eq!(read(&[0x48, 0x83, 0xc4, 0x10, 0xc3])[1], (4, Cfa::Fp, 16, -16));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let rows = rows(&bytes);
            prop_assert!(rows.len() <= bytes.len());
            for pair in rows.windows(2) {
                prop_assert!(pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1);
            }
        }
    }
}
