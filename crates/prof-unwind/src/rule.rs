//! How to get from a frame to its caller's, and the set of all such rules.

use std::collections::HashMap;

/// What the caller's stack pointer, the CFA, follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Cfa {
    /// No row here: padding, data, code without CFI.
    #[default]
    None = 0,
    /// `sp + cfa_off`.
    Sp = 1,
    /// `fp + cfa_off`.
    Fp = 2,
    /// `*(sp + cfa_off) + cfa_add`.
    DerefSp = 3,
    /// `*(fp + cfa_off) + cfa_add`: the stack was realigned.
    DerefFp = 4,
    /// In ld's lazy PLT: `sp + 8 + (((ip & 15) >= cfa_off) << 3)`.
    Plt = 5,
    /// A signal's frame: the saved pc is at `sp + cfa_off`, the rest beside it.
    Signal = 6,
    /// The outermost frame: `_start`, `clone`.
    End = 7,
    /// An expression or a register that rules cannot hold.
    Unsupported = 8,
    /// x86-64: another register `+ cfa_off`. `cfa_add` is its place in [`Others`]; rbx is
    /// known in all frames, of the rest what no frame below has saved.
    ///
    /// [`Others`]: crate::unwind::Others
    Register = 9,
    /// x86-64: `*(sp + 8 * r9 + cfa_off) + cfa_add`, as OpenSSL's multiplication keeps it.
    DerefIndexed = 10,
}

/// Where a register of the caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Reg {
    /// The frame pointer: unchanged. The return address: in the link register.
    #[default]
    Same = 0,
    /// At the CFA, plus an offset.
    Cfa = 1,
    /// Of the frame pointer only: at the frame pointer, plus an offset.
    Fp = 2,
    /// Lost.
    Undefined = 3,
    /// Of the return address only, on x86-64: in the register whose place in
    /// [`Others`](crate::unwind::Others) is the offset. So it is in `vfork`.
    Register = 4,
}

/// One step. The layout is that of the kernel half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Rule {
    /// Where the caller's stack pointer is.
    pub cfa: Cfa,
    /// Where its frame pointer (rbp, x29) is.
    pub fp: Reg,
    /// Where the return address is; on x86-64 nearly always at the CFA - 8.
    pub ra: Reg,
    /// x86-64: where rbx is, in units of 8 bytes from the CFA; or [`Rule::SAME_BX`],
    /// [`Rule::LOST_BX`].
    pub bx: i8,
    /// See [`Cfa`].
    pub cfa_off: i32,
    /// See [`Cfa`].
    pub cfa_add: i32,
    /// See [`Reg`].
    pub fp_off: i16,
    /// See [`Reg`].
    pub ra_off: i16,
}

const _: () = {
    assert!(size_of::<Rule>() == 16);
    assert!(std::mem::offset_of!(Rule, fp) == 1);
    assert!(std::mem::offset_of!(Rule, ra) == 2);
    assert!(std::mem::offset_of!(Rule, bx) == 3);
    assert!(std::mem::offset_of!(Rule, cfa_off) == 4);
    assert!(std::mem::offset_of!(Rule, cfa_add) == 8);
    assert!(std::mem::offset_of!(Rule, fp_off) == 12);
    assert!(std::mem::offset_of!(Rule, ra_off) == 14);
};

impl Rule {
    /// rbx is what it was.
    pub const SAME_BX: i8 = 0;
    /// Rules cannot say where it is.
    pub const LOST_BX: i8 = i8::MIN;

    /// A rule that has nothing but its kind.
    pub const fn only(cfa: Cfa) -> Self {
        Self {
            cfa,
            fp: Reg::Same,
            ra: Reg::Same,
            bx: Self::SAME_BX,
            cfa_off: 0,
            cfa_add: 0,
            fp_off: 0,
            ra_off: 0,
        }
    }

    /// As it lies in memory, in the byte order of this machine.
    pub fn as_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0] = self.cfa as u8;
        bytes[1] = self.fp as u8;
        bytes[2] = self.ra as u8;
        bytes[3] = self.bx as u8;
        bytes[4..8].copy_from_slice(&self.cfa_off.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.cfa_add.to_ne_bytes());
        bytes[12..14].copy_from_slice(&self.fp_off.to_ne_bytes());
        bytes[14..16].copy_from_slice(&self.ra_off.to_ne_bytes());
        bytes
    }
}

/// The rules of a session, of all its files, each once; rows have their numbers. It
/// only grows, so that whoever has a copy needs no more than what was added since.
#[derive(Debug, Clone)]
pub struct RuleSet {
    rules: Vec<Rule>,
    ids: HashMap<Rule, u16>,
    /// What was asked for lately, by a cheap hash: nearly all rows have one of a few
    /// dozen rules.
    recent: Vec<(Rule, u16)>,
    turned_away: u64,
}

impl RuleSet {
    /// The rule of holes.
    pub const NONE: u16 = 0;
    /// The rule of what rules cannot hold.
    pub const UNSUPPORTED: u16 = 1;
    /// Most that it holds: the kernel half has as much room.
    pub const MAX: usize = 32_768;

    const RECENT: usize = 1024;

    /// With the two that always are there.
    pub fn new() -> Self {
        let rules = vec![Rule::only(Cfa::None), Rule::only(Cfa::Unsupported)];
        let recent = vec![(rules[0], Self::NONE); Self::RECENT];
        let ids = rules.iter().copied().zip(Self::NONE..).collect();
        Self { rules, ids, recent, turned_away: 0 }
    }

    /// The number of a rule, which is added if it is new. If the set is full, that of a
    /// rule which ends the stack, and this is counted.
    pub fn intern(&mut self, rule: Rule) -> u16 {
        let slot = Self::slot(&rule);
        if let Some((recent, id)) = self.recent.get(slot)
            && *recent == rule
        {
            return *id;
        }
        let id = match self.ids.get(&rule) {
            Some(id) => *id,
            None if self.rules.len() >= Self::MAX => {
                self.turned_away += 1;
                return Self::UNSUPPORTED;
            }
            None => {
                let id = self.rules.len() as u16;
                self.rules.push(rule);
                self.ids.insert(rule, id);
                id
            }
        };
        if let Some(recent) = self.recent.get_mut(slot) {
            *recent = (rule, id);
        }
        id
    }

    fn slot(rule: &Rule) -> usize {
        let offsets = (rule.cfa_off as u32 as u64) << 32
            | (rule.fp_off as u16 as u64) << 16
            | rule.ra_off as u16 as u64;
        let kinds = (rule.bx as u8 as u64) << 12
            | (rule.cfa as u64) << 8
            | (rule.fp as u64) << 4
            | rule.ra as u64;
        let mixed = (offsets ^ kinds ^ (rule.cfa_add as u32 as u64) << 8)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize % Self::RECENT
    }

    /// The rule of a number.
    pub fn get(&self, id: u16) -> Option<&Rule> {
        self.rules.get(usize::from(id))
    }

    /// All of them; the place is the number.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// How often a rule found no room.
    pub fn turned_away(&self) -> u64 {
        self.turned_away
    }
}

impl Default for RuleSet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sp(off: i32) -> Rule {
        Rule { cfa_off: off, fp: Reg::Cfa, fp_off: -16, ..Rule::only(Cfa::Sp) }
    }

    #[test]
    fn the_first_two_are_reserved() {
        let mut set = RuleSet::new();
        assert_eq!(set.rules(), [Rule::only(Cfa::None), Rule::only(Cfa::Unsupported)]);
        assert_eq!(set.intern(Rule::only(Cfa::None)), RuleSet::NONE);
        assert_eq!(set.intern(Rule::only(Cfa::Unsupported)), RuleSet::UNSUPPORTED);
    }

    #[test]
    fn a_rule_is_kept_once_and_found_again() {
        let mut set = RuleSet::new();
        let ids: Vec<_> = (0..5000).map(|i| set.intern(sp(i * 8))).collect();
        assert_eq!(set.rules().len(), 5002);
        for (i, id) in ids.iter().enumerate() {
            assert_eq!(set.intern(sp(i as i32 * 8)), *id);
            assert_eq!(set.get(*id), Some(&sp(i as i32 * 8)));
        }
        assert_eq!(set.rules().len(), 5002);
    }

    #[test]
    fn a_full_set_takes_no_more_and_counts() {
        let mut set = RuleSet::new();
        for i in 0..40_000 {
            set.intern(sp(i));
        }
        assert_eq!(set.rules().len(), RuleSet::MAX);
        assert_eq!(set.turned_away(), 40_000 - (RuleSet::MAX as u64 - 2));
        assert_eq!(set.intern(sp(39_999)), RuleSet::UNSUPPORTED);
        assert_eq!(set.intern(sp(7)), 9);
    }

    #[test]
    fn bytes_are_those_of_the_kernel_half() {
        let rule = Rule {
            cfa: Cfa::DerefFp,
            fp: Reg::Fp,
            ra: Reg::Cfa,
            bx: -3,
            cfa_off: -8,
            cfa_add: 0x0102_0304,
            fp_off: -2,
            ra_off: -8,
        };
        #[cfg(target_endian = "little")]
        assert_eq!(
            rule.as_bytes(),
            [4, 2, 1, 0xfd, 0xf8, 0xff, 0xff, 0xff, 4, 3, 2, 1, 0xfe, 0xff, 0xf8, 0xff]
        );
    }
}
