//! Rows from `.eh_frame` and `.debug_frame`, function by function.
//!
//! gimli reads entries and instructions. What instructions do is worked out here and
//! not by gimli's `UnwindTable`: of some seventy registers two matter, and each
//! instruction is to be counted, as what a file makes its reader do has a limit.

use std::collections::HashMap;

use gimli::BaseAddresses;
use gimli::CallFrameInstructionIter;
use gimli::CieOrFde;
use gimli::CommonInformationEntry;
use gimli::UnwindOffset;
use gimli::UnwindSection;

use crate::elf::Arch;
use crate::elf::Code;
use crate::error::Error;
use crate::expression::Slice;
use crate::frame::Columns;
use crate::frame::Effect;
use crate::frame::Frame;
use crate::rule::RuleSet;
use crate::table::Limits;
use crate::table::Refused;
use crate::table::Stats;

/// A row of a function: bytes from its start, and the rule from there on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) at: u32,
    pub(crate) rule: u16,
}

/// A function: where in the file, how long, and its rows among all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Function {
    pub(crate) offset: u64,
    pub(crate) size: u32,
    pub(crate) first: u32,
    pub(crate) steps: u32,
}

/// How a section ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Where its header says: what cannot be read is damage.
    Known,
    /// After so many functions; what follows may be anything.
    After(u64),
}

/// What is read so far.
#[derive(Debug)]
pub(crate) struct Reader<'e> {
    arch: Arch,
    columns: Columns,
    code: &'e [Code],
    limits: &'e Limits,
    rules: &'e mut RuleSet,
    /// Instructions that may still be done.
    left: u64,
    remembered: Vec<Frame>,
    pub(crate) stats: Stats,
    pub(crate) functions: Vec<Function>,
    pub(crate) steps: Vec<Step>,
}

/// What many functions have in common.
struct Common<'a> {
    cie: CommonInformationEntry<Slice<'a>>,
    initial: Result<Frame, Refused>,
    signal: bool,
}

/// Those that were read. There are a few in a file.
struct Commons<'a> {
    all: Vec<Common<'a>>,
    places: HashMap<usize, usize>,
    last: (usize, usize),
}

/// More are dropped and read again.
const MAX_COMMONS: usize = 4096;

impl<'e> Reader<'e> {
    pub(crate) fn new(
        arch: Arch,
        code: &'e [Code],
        limits: &'e Limits,
        rules: &'e mut RuleSet,
    ) -> Self {
        Self {
            arch,
            columns: Columns::of(arch),
            code,
            limits,
            rules,
            left: limits.instructions,
            remembered: Vec::new(),
            stats: Stats::default(),
            functions: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Reads a section.
    pub(crate) fn read<'a, S>(
        &mut self,
        section: &S,
        bases: &BaseAddresses,
        ends: Ends,
    ) -> Result<(), Error>
    where
        S: UnwindSection<Slice<'a>>,
    {
        let mut commons = Commons { all: Vec::new(), places: HashMap::new(), last: (0, 0) };
        let mut entries = section.entries(bases);
        let mut count = 0;
        while ends != Ends::After(count) {
            let entry = match entries.next() {
                Ok(Some(CieOrFde::Fde(entry))) => entry,
                Ok(Some(CieOrFde::Cie(_))) => continue,
                Ok(None) => break,
                Err(_) if ends != Ends::Known => break,
                Err(_) => return Err(Error::Malformed("an entry of its call frame information")),
            };
            count += 1;
            if count > self.limits.functions {
                return Err(Error::TooMuch("functions", self.limits.functions));
            }
            let place: usize = UnwindOffset::into(entry.cie_offset());
            let index = match commons.find(place) {
                Some(index) => index,
                None => match self.common(section, bases, entry.cie_offset())? {
                    Some(common) => commons.add(place, common),
                    None => {
                        self.stats.unreadable += 1;
                        continue;
                    }
                },
            };
            let Some(common) = commons.all.get(index) else { continue };
            let Ok(fde) = entry.parse(|_, _, _| Ok(common.cie.clone())) else {
                self.stats.unreadable += 1;
                continue;
            };
            let start = fde.initial_address();
            let Some((offset, left)) = self.code.iter().find_map(|c| c.offset_of(start)) else {
                // Linkers leave those of code that they threw away.
                self.stats.elsewhere += 1;
                continue;
            };
            let size = fde.len().min(left).min(u64::from(u32::MAX)) as u32;
            if size == 0 {
                continue;
            }
            self.stats.functions += 1;
            let first = self.steps.len();
            let instructions = fde.instructions(section, bases);
            self.function(section, common, start, size, instructions)?;
            let (first, steps) = (first as u32, (self.steps.len() - first) as u32);
            self.functions.push(Function { offset, size, first, steps });
        }
        Ok(())
    }

    fn common<'a, S: UnwindSection<Slice<'a>>>(
        &mut self,
        section: &S,
        bases: &BaseAddresses,
        place: S::Offset,
    ) -> Result<Option<Common<'a>>, Error> {
        let Ok(cie) = section.cie_from_offset(bases, place) else { return Ok(None) };
        let mut frame = Frame::new();
        let mut result = Ok(());
        if cie.return_address_register() != self.columns.ra() {
            result = Err(Refused::ReturnAddress);
        }
        let mut instructions = cie.instructions(section, bases);
        let align = cie.data_alignment_factor();
        self.remembered.clear();
        loop {
            self.spend()?;
            let Ok(instruction) = instructions.next() else {
                result = Err(Refused::Instruction);
                break;
            };
            let Some(instruction) = instruction else { break };
            match frame.apply(instruction, &self.columns, align, None, &mut self.remembered) {
                Ok(Effect::Nothing | Effect::Changed) => {}
                // It has no addresses to advance through.
                Ok(Effect::Advance(_) | Effect::Until(_)) | Err(_) => {
                    result = Err(Refused::Instruction);
                    break;
                }
            }
        }
        let signal = cie.is_signal_trampoline();
        Ok(Some(Common { cie, initial: result.map(|()| frame), signal }))
    }

    /// Adds the rows of a function.
    fn function<'a, S: UnwindSection<Slice<'a>>>(
        &mut self,
        section: &S,
        common: &Common<'a>,
        start: u64,
        size: u32,
        mut instructions: CallFrameInstructionIter<'_, Slice<'a>>,
    ) -> Result<(), Error> {
        let initial = match &common.initial {
            Ok(initial) => initial,
            Err(refused) => return self.refuse(self.steps.len(), 0, *refused),
        };
        let align = common.cie.data_alignment_factor();
        let unit = common.cie.code_alignment_factor();
        let first = self.steps.len();
        let mut frame = initial.clone();
        self.remembered.clear();
        let (mut at, mut changed) = (0_u32, true);
        loop {
            self.spend()?;
            let Ok(instruction) = instructions.next() else {
                return self.refuse(first, at, Refused::Instruction);
            };
            let effect = match instruction {
                None => Ok(Effect::Advance(u32::MAX)),
                Some(instruction) => frame.apply(
                    instruction,
                    &self.columns,
                    align,
                    Some(initial),
                    &mut self.remembered,
                ),
            };
            let next = match effect {
                Ok(Effect::Nothing) => continue,
                Ok(Effect::Changed) => {
                    changed = true;
                    continue;
                }
                Ok(Effect::Advance(u32::MAX)) => u64::from(size),
                Ok(Effect::Advance(units)) => u64::from(units)
                    .checked_mul(unit)
                    .and_then(|bytes| bytes.checked_add(u64::from(at)))
                    .unwrap_or(u64::MAX),
                Ok(Effect::Until(address)) => match address.checked_sub(start) {
                    Some(next) if next >= u64::from(at) => next,
                    _ => return self.refuse(first, at, Refused::Instruction),
                },
                Err(_) => return self.refuse(first, at, Refused::Instruction),
            };
            if next > u64::from(at) && changed {
                let encoding = common.cie.encoding();
                let rule = frame.rule(&self.columns, encoding, common.signal, |e| {
                    e.get(section).ok().map(|e| e.0)
                });
                match rule {
                    Ok(rule) => {
                        self.stats.fp_lost += u64::from(rule.fp == crate::rule::Reg::Undefined);
                        let before = self.rules.turned_away();
                        let rule = self.rules.intern(rule);
                        if self.rules.turned_away() != before {
                            self.stats.refused.count(Refused::Full);
                        }
                        self.add(first, Step { at, rule })?;
                    }
                    Err(refused) => self.refuse(first, at, refused)?,
                }
                changed = false;
            }
            if next >= u64::from(size) {
                return Ok(());
            }
            at = next as u32;
        }
    }

    /// Adds a row, unless the one before, of the same function, holds on.
    pub(crate) fn add(&mut self, first: usize, step: Step) -> Result<(), Error> {
        if self.steps.len() > first && self.steps.last().is_some_and(|s| s.rule == step.rule) {
            return Ok(());
        }
        if self.steps.len() as u64 >= self.limits.rows {
            return Err(Error::TooMuch("rows", self.limits.rows));
        }
        self.steps.push(step);
        Ok(())
    }

    fn refuse(&mut self, first: usize, at: u32, refused: Refused) -> Result<(), Error> {
        self.stats.refused.count(refused);
        self.add(first, Step { at, rule: RuleSet::UNSUPPORTED })
    }

    /// Counts an instruction, or what is as much work.
    pub(crate) fn spend(&mut self) -> Result<(), Error> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or(Error::TooMuch("call frame instructions", self.limits.instructions))?;
        Ok(())
    }

    /// The machine.
    pub(crate) fn arch(&self) -> Arch {
        self.arch
    }

    /// A rule by its number.
    pub(crate) fn rule(&self, id: u16) -> Option<crate::rule::Rule> {
        self.rules.get(id).copied()
    }

    /// The number of a rule.
    pub(crate) fn intern(&mut self, rule: crate::rule::Rule) -> u16 {
        self.rules.intern(rule)
    }
}

impl<'a> Commons<'a> {
    fn find(&mut self, place: usize) -> Option<usize> {
        if self.last.0 == place && !self.all.is_empty() {
            return Some(self.last.1);
        }
        let index = *self.places.get(&place)?;
        self.last = (place, index);
        Some(index)
    }

    fn add(&mut self, place: usize, common: Common<'a>) -> usize {
        if self.all.len() == MAX_COMMONS {
            self.all.clear();
            self.places.clear();
        }
        let index = self.all.len();
        self.all.push(common);
        self.places.insert(place, index);
        self.last = (place, index);
        index
    }
}
