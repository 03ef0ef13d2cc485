//! What CFI says at an address of the three registers that matter, and the rule for it.

use gimli::CallFrameInstruction;
use gimli::Encoding;
use gimli::Register;
use gimli::RegisterRule;
use gimli::UnwindExpression;

use crate::elf::Arch;
use crate::expression;
use crate::expression::Base;
use crate::expression::Slice;
use crate::expression::Sum;
use crate::rule::Cfa;
use crate::rule::Reg;
use crate::rule::Rule;
use crate::table::Refused;

/// The offset of rip in the `ucontext` that rsp points to.
pub(crate) const X86_64_SIGNAL_PC: i32 = 168;

/// The offset of pc in the `rt_sigframe` that sp points to.
pub(crate) const AARCH64_SIGNAL_PC: i32 = 568;

/// The order of `struct pt_regs`, which is part of the kernel's ABI.
const OTHERS: [Register; 15] = [
    gimli::X86_64::R15,
    gimli::X86_64::R14,
    gimli::X86_64::R13,
    gimli::X86_64::R12,
    gimli::X86_64::RBP,
    gimli::X86_64::RBX,
    gimli::X86_64::R11,
    gimli::X86_64::R10,
    gimli::X86_64::R9,
    gimli::X86_64::R8,
    gimli::X86_64::RAX,
    gimli::X86_64::RCX,
    gimli::X86_64::RDX,
    gimli::X86_64::RSI,
    gimli::X86_64::RDI,
];

/// Where the CFA is.
#[derive(Debug, Clone, Copy)]
enum CfaAt {
    Register(Register, i64),
    Expression(UnwindExpression<usize>),
}

/// Where a register of the caller is: gimli's form, without what is of no use.
type At = Option<RegisterRule<usize>>;

/// The columns of the table that matter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    sp: Register,
    fp: Register,
    ra: Register,
    /// rbx, in which some functions keep where their frame is.
    bx: Option<Register>,
    arch: Arch,
}

impl Columns {
    pub(crate) fn of(arch: Arch) -> Self {
        let (sp, fp, ra) = match arch {
            Arch::X86_64 => (gimli::X86_64::RSP, gimli::X86_64::RBP, gimli::X86_64::RA),
            Arch::Aarch64 => (gimli::AArch64::SP, gimli::AArch64::X29, gimli::AArch64::X30),
        };
        let bx = (arch == Arch::X86_64).then_some(gimli::X86_64::RBX);
        Self { sp, fp, ra, bx, arch }
    }

    pub(crate) fn ra(&self) -> Register {
        self.ra
    }

    /// The place of another register of x86-64 in [`Others`](crate::unwind::Others).
    fn place(&self, register: Register) -> Option<u8> {
        if self.arch != Arch::X86_64 {
            return None;
        }
        OTHERS.iter().position(|other| *other == register).map(|at| at as u8)
    }
}

/// A row of the table that CFI describes.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    cfa: CfaAt,
    fp: At,
    ra: At,
    bx: At,
    /// The caller's stack pointer is not the CFA: `longjmp`.
    sp_elsewhere: bool,
}

/// What an instruction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing that matters.
    Nothing,
    /// The row is another one.
    Changed,
    /// The row holds up to so many units further.
    Advance(u32),
    /// The row holds up to this address.
    Until(u64),
}

/// An instruction that has no meaning where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Senseless;

/// More rows remembered at a time than any compiler does.
const MAX_REMEMBERED: usize = 64;

impl Frame {
    /// As it is before the first instruction.
    pub(crate) fn new() -> Self {
        Self {
            cfa: CfaAt::Register(Register(u16::MAX), 0),
            fp: None,
            ra: None,
            bx: None,
            sp_elsewhere: false,
        }
    }

    /// Does an instruction. `initial` is the row that the CIE leaves, `align` its factor of
    /// offsets.
    pub(crate) fn apply(
        &mut self,
        instruction: CallFrameInstruction<usize>,
        columns: &Columns,
        align: i64,
        initial: Option<&Self>,
        remembered: &mut Vec<Self>,
    ) -> Result<Effect, Senseless> {
        use CallFrameInstruction as I;
        let set = match instruction {
            I::AdvanceLoc { delta } => return Ok(Effect::Advance(delta)),
            I::SetLoc { address } => return Ok(Effect::Until(address)),
            I::DefCfa { register, offset } => {
                self.cfa = CfaAt::Register(register, offset as i64);
                return Ok(Effect::Changed);
            }
            I::DefCfaSf { register, factored_offset } => {
                self.cfa = CfaAt::Register(register, factored_offset.wrapping_mul(align));
                return Ok(Effect::Changed);
            }
            I::DefCfaRegister { register } => {
                let CfaAt::Register(now, _) = &mut self.cfa else { return Err(Senseless) };
                *now = register;
                return Ok(Effect::Changed);
            }
            I::DefCfaOffset { offset } => {
                let CfaAt::Register(_, now) = &mut self.cfa else { return Err(Senseless) };
                *now = offset as i64;
                return Ok(Effect::Changed);
            }
            I::DefCfaOffsetSf { factored_offset } => {
                let CfaAt::Register(_, now) = &mut self.cfa else { return Err(Senseless) };
                *now = factored_offset.wrapping_mul(align);
                return Ok(Effect::Changed);
            }
            I::DefCfaExpression { expression } => {
                self.cfa = CfaAt::Expression(expression);
                return Ok(Effect::Changed);
            }
            I::Undefined { register } => (register, Some(RegisterRule::Undefined)),
            I::SameValue { register } => (register, Some(RegisterRule::SameValue)),
            I::Offset { register, factored_offset } => {
                let offset = (factored_offset as i64).wrapping_mul(align);
                (register, Some(RegisterRule::Offset(offset)))
            }
            I::OffsetExtendedSf { register, factored_offset } => {
                let offset = factored_offset.wrapping_mul(align);
                (register, Some(RegisterRule::Offset(offset)))
            }
            I::ValOffset { register, .. } | I::ValOffsetSf { register, .. } => {
                (register, Some(RegisterRule::Architectural))
            }
            I::Register { dest_register, src_register } => {
                (dest_register, Some(RegisterRule::Register(src_register)))
            }
            I::Expression { register, expression } => {
                (register, Some(RegisterRule::Expression(expression)))
            }
            I::ValExpression { register, .. } => (register, Some(RegisterRule::Architectural)),
            I::Restore { register } => {
                let Some(initial) = initial else { return Err(Senseless) };
                let at = match register {
                    r if r == columns.fp => initial.fp.clone(),
                    r if r == columns.ra => initial.ra.clone(),
                    r if Some(r) == columns.bx => initial.bx.clone(),
                    _ => None,
                };
                (register, at)
            }
            I::RememberState => {
                if remembered.len() == MAX_REMEMBERED {
                    return Err(Senseless);
                }
                remembered.push(self.clone());
                return Ok(Effect::Nothing);
            }
            I::RestoreState => {
                *self = remembered.pop().ok_or(Senseless)?;
                return Ok(Effect::Changed);
            }
            I::ArgsSize { .. } | I::NegateRaState | I::Nop => return Ok(Effect::Nothing),
        };
        match set {
            (register, at) if register == columns.fp => self.fp = at,
            (register, at) if register == columns.ra => self.ra = at,
            (register, at) if Some(register) == columns.bx => self.bx = at,
            (register, at) if register == columns.sp => self.sp_elsewhere = at.is_some(),
            _ => return Ok(Effect::Nothing),
        }
        Ok(Effect::Changed)
    }

    /// The rule for this row. `get` has the bytes of an expression.
    pub(crate) fn rule<'a>(
        &self,
        columns: &Columns,
        encoding: Encoding,
        signal: bool,
        get: impl Fn(&UnwindExpression<usize>) -> Option<Slice<'a>>,
    ) -> Result<Rule, Refused> {
        let sum = |e: &UnwindExpression<usize>, start| {
            expression::sum(get(e)?, encoding, columns.sp, columns.fp, start)
        };
        if signal {
            return self.signal(columns, sum);
        }
        if self.ra == Some(RegisterRule::Undefined) {
            return Ok(Rule::only(Cfa::End));
        }
        if self.sp_elsewhere {
            return Err(Refused::CfaRegister);
        }
        let mut rule = Rule::default();
        match &self.cfa {
            CfaAt::Register(register, offset) => {
                rule.cfa = match *register {
                    r if r == columns.sp => Cfa::Sp,
                    r if r == columns.fp => Cfa::Fp,
                    r => {
                        let place = columns.place(r).ok_or(Refused::CfaRegister)?;
                        rule.cfa_add = i32::from(place);
                        Cfa::Register
                    }
                };
                rule.cfa_off = i32::try_from(*offset).map_err(|_| Refused::Offset)?;
            }
            CfaAt::Expression(e) => {
                let plt = get(e).and_then(expression::plt);
                if let (Some(before), Arch::X86_64) = (plt, columns.arch) {
                    rule.cfa = Cfa::Plt;
                    rule.cfa_off = i32::from(before);
                } else if let (Some((off, add)), Arch::X86_64) =
                    (get(e).and_then(expression::indexed), columns.arch)
                {
                    rule.cfa = Cfa::DerefIndexed;
                    (rule.cfa_off, rule.cfa_add) = (off, add);
                } else {
                    let Sum { base, add } = sum(e, None).ok_or(Refused::CfaExpression)?;
                    let (cfa, off, add) = match base {
                        Base::Sp => (Cfa::Sp, add, 0),
                        Base::Fp => (Cfa::Fp, add, 0),
                        Base::AtSp(off) => (Cfa::DerefSp, off, add),
                        Base::AtFp(off) => (Cfa::DerefFp, off, add),
                        Base::Nothing | Base::Cfa => return Err(Refused::CfaExpression),
                    };
                    rule.cfa = cfa;
                    rule.cfa_off = i32::try_from(off).map_err(|_| Refused::Offset)?;
                    rule.cfa_add = i32::try_from(add).map_err(|_| Refused::Offset)?;
                }
            }
        }
        let fp = self.place_of(&self.fp, &rule, sum).and_then(|(reg, off)| {
            let beside = |(reg, off)| Some((reg, i16::try_from(off).ok()?));
            // At the other end of a large frame.
            let other = (rule.cfa == Cfa::Fp && reg == Reg::Cfa)
                .then(|| Some((Reg::Fp, off.checked_add(i64::from(rule.cfa_off))?)));
            beside((reg, off)).or_else(|| other.flatten().and_then(beside))
        });
        (rule.fp, rule.fp_off) = fp.unwrap_or((Reg::Undefined, 0));
        let (ra, off) = match (&self.ra, columns.arch) {
            (Some(RegisterRule::Register(register)), Arch::X86_64) => {
                let place = columns.place(*register).ok_or(Refused::ReturnAddress)?;
                (Reg::Register, i64::from(place))
            }
            (at, _) => self.place_of(at, &rule, sum).ok_or(Refused::ReturnAddress)?,
        };
        match (columns.arch, ra) {
            (Arch::X86_64, Reg::Cfa) if off == -8 => {}
            (Arch::X86_64, Reg::Register) | (Arch::Aarch64, Reg::Cfa | Reg::Same) => {}
            _ => return Err(Refused::ReturnAddress),
        }
        rule.bx = match self.place_of(&self.bx, &rule, sum) {
            Some((Reg::Same, _)) => Rule::SAME_BX,
            Some((Reg::Cfa, off)) if off % 8 == 0 && (-127 * 8..0).contains(&off) => {
                (off / 8) as i8
            }
            _ => Rule::LOST_BX,
        };
        rule.ra = ra;
        rule.ra_off = i16::try_from(off).map_err(|_| Refused::Offset)?;
        Ok(rule)
    }

    /// Where a register is, if rules can say it.
    fn place_of(
        &self,
        at: &At,
        rule: &Rule,
        sum: impl Fn(&UnwindExpression<usize>, Option<Base>) -> Option<Sum>,
    ) -> Option<(Reg, i64)> {
        match at {
            // Compilers for arm64 leave the rule of x30 out, though the standard says
            // that it would then be undefined.
            None | Some(RegisterRule::SameValue) => Some((Reg::Same, 0)),
            Some(RegisterRule::Offset(offset)) => Some((Reg::Cfa, *offset)),
            Some(RegisterRule::Expression(e)) => {
                let Sum { base, add } = sum(e, Some(Base::Cfa))?;
                match (base, rule.cfa) {
                    (Base::Cfa, _) => Some((Reg::Cfa, add)),
                    (Base::Fp, _) => Some((Reg::Fp, add)),
                    (Base::Sp, Cfa::Sp) => {
                        Some((Reg::Cfa, add.checked_sub(i64::from(rule.cfa_off))?))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The rule for the code that handlers of signals return to.
    fn signal(
        &self,
        columns: &Columns,
        sum: impl Fn(&UnwindExpression<usize>, Option<Base>) -> Option<Sum>,
    ) -> Result<Rule, Refused> {
        match columns.arch {
            // The kernel's layout is the ABI, and what CFI there was of it led to the
            // caller of the interrupted function.
            Arch::Aarch64 => Ok(signal_rule(columns.arch)),
            Arch::X86_64 => {
                let Some(RegisterRule::Expression(e)) = &self.ra else {
                    return Err(Refused::Signal);
                };
                let saved = Sum { base: Base::Sp, add: i64::from(X86_64_SIGNAL_PC) };
                if sum(e, Some(Base::Cfa)) != Some(saved) {
                    return Err(Refused::Signal);
                }
                Ok(signal_rule(columns.arch))
            }
        }
    }
}

/// The rule of signal frames.
pub(crate) fn signal_rule(arch: Arch) -> Rule {
    let cfa_off = match arch {
        Arch::X86_64 => X86_64_SIGNAL_PC,
        Arch::Aarch64 => AARCH64_SIGNAL_PC,
    };
    Rule { cfa_off, ..Rule::only(Cfa::Signal) }
}
