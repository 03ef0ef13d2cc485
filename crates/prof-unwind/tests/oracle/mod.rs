//! What others say of the same addresses: framehop, and gimli's own tables and
//! expressions worked out in full.
//!
//! For each row that gimli finds, at its first and its last address, one frame is made up:
//! every slot of its stack holds another value, and every register. It is unwound by the
//! table, by gimli and by framehop, and the callers' registers are compared. Between
//! functions there must be no rule.
#![allow(clippy::unwrap_used, reason = "a test, wherever it is run from")]

use std::collections::BTreeMap;
use std::fmt;

use framehop::FrameAddress;
use framehop::Unwinder as _;
use gimli::CfaRule;
use gimli::CieOrFde;
use gimli::EhFrame;
use gimli::EndianSlice;
use gimli::EvaluationResult;
use gimli::LittleEndian;
use gimli::Location;
use gimli::Register;
use gimli::RegisterRule;
use gimli::UnwindSection as _;
use gimli::Value;
use gimli::X86_64;
use object::Object as _;
use object::ObjectSection as _;
use object::read::elf::ElfFile64;
use prof_unwind::Arch;
use prof_unwind::Cfa;
use prof_unwind::Limits;
use prof_unwind::Reg;
use prof_unwind::RuleSet;
use prof_unwind::Table;
use prof_unwind::unwind;
use prof_unwind::unwind::Code;
use prof_unwind::unwind::Machine;
use prof_unwind::unwind::Others;
use prof_unwind::unwind::Reason;
use prof_unwind::unwind::Regs;
use prof_unwind::unwind::Step;

type Slice<'a> = EndianSlice<'a, LittleEndian>;

const SP: u64 = 0x7000_0000_1000;
const FP: u64 = SP + 0x2000;
const LR: u64 = 0x6543_2100;

/// What is on the made-up stack, all different, and above the stack as framehop asks of
/// frame pointers.
fn memory(address: u64) -> Option<u64> {
    Some(address.wrapping_add(0x0200_0000_0000))
}

/// A register that is neither of the stack nor the frame: above the stack, as frames are.
fn other(register: Register) -> u64 {
    0x7100_0000_0000 + u64::from(register.0) * 0x10_0000
}

/// All of x86-64's, in the order that the kernel keeps them in.
fn others() -> Others {
    [
        X86_64::R15,
        X86_64::R14,
        X86_64::R13,
        X86_64::R12,
        X86_64::RBP,
        X86_64::RBX,
        X86_64::R11,
        X86_64::R10,
        X86_64::R9,
        X86_64::R8,
        X86_64::RAX,
        X86_64::RCX,
        X86_64::RDX,
        X86_64::RSI,
        X86_64::RDI,
    ]
    .map(|r| if r == X86_64::RBP { FP } else { other(r) })
}

/// What is said of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Frame {
        ip: u64,
        sp: u64,
        fp: Option<u64>,
        /// rbx, where that is looked at.
        bx: Option<u64>,
    },
    End,
    /// gimli: there is no rule for it.
    Unknown,
}

/// How it came out.
#[derive(Debug, Default)]
pub struct Tally {
    /// Addresses that were looked at.
    pub addresses: u64,
    /// Where all three say the same.
    pub equal: u64,
    /// Where the table and gimli do, by kind of rule.
    pub kinds: BTreeMap<String, u64>,
    /// Where the table and gimli do, and framehop does not; by what the rule needs.
    pub not_framehop: BTreeMap<String, u64>,
    /// Where there is no rule, by why gimli's is not to be held.
    pub refused: BTreeMap<String, u64>,
    /// Where the frame pointer is lost, though gimli knows where it is.
    pub fp_lost: u64,
    /// Where rbx is.
    pub bx_lost: u64,
    /// Places between functions, and ends of pages, that were looked at.
    pub holes: u64,
    /// Where table and gimli differ.
    pub wrong: Vec<String>,
    /// How many these are.
    pub wrong_total: u64,
}

impl Tally {
    /// Adds another's.
    #[allow(dead_code, reason = "only one of those who share this adds up")]
    pub fn add(&mut self, other: Self) {
        self.addresses += other.addresses;
        self.equal += other.equal;
        self.fp_lost += other.fp_lost;
        self.bx_lost += other.bx_lost;
        self.holes += other.holes;
        self.wrong_total += other.wrong_total;
        self.wrong.extend(other.wrong);
        self.wrong.truncate(20);
        for (all, more) in [
            (&mut self.kinds, other.kinds),
            (&mut self.not_framehop, other.not_framehop),
            (&mut self.refused, other.refused),
        ] {
            for (what, count) in more {
                *all.entry(what).or_default() += count;
            }
        }
    }

    fn wrong(&mut self, what: String) {
        self.wrong_total += 1;
        if self.wrong.len() < 20 {
            self.wrong.push(what);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |n: u64| 100.0 * n as f64 / self.addresses.max(1) as f64;
        writeln!(
            f,
            "{} addresses: {} ({:.4} %) equal to gimli and framehop",
            self.addresses,
            self.equal,
            share(self.equal)
        )?;
        for (what, count) in &self.not_framehop {
            writeln!(f, "  {count} ({:.4} %) equal to gimli only: {what}", share(*count))?;
        }
        for (what, count) in &self.refused {
            writeln!(f, "  {count} ({:.4} %) refused: {what}", share(*count))?;
        }
        let kinds: Vec<_> = self.kinds.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        writeln!(f, "  kinds of rules: {}", kinds.join(", "))?;
        writeln!(
            f,
            "  {} of the above lose the frame pointer, {} rbx",
            self.fp_lost, self.bx_lost
        )?;
        writeln!(f, "  {} different from gimli", self.wrong_total)?;
        write!(f, "{} places between functions", self.holes)?;
        self.wrong.iter().try_for_each(|wrong| write!(f, "\n  {wrong}"))
    }
}

struct Numbers {
    sp: Register,
    fp: Register,
    ra: Register,
}

/// Compares a file's table with the others. `None` if it has no `.eh_frame`.
pub fn compare(data: &[u8], name: &str) -> Option<Tally> {
    let mut rules = RuleSet::new();
    let elf = ElfFile64::<LittleEndianOf>::parse(data).ok()?;
    let section = elf.section_by_name(".eh_frame")?;
    let eh_frame = section.data().ok().filter(|data| !data.is_empty())?;
    let table = match Table::from_elf(data, &mut rules, &Limits::default()) {
        Ok(table) => table,
        Err(e) => {
            let mut tally = Tally::default();
            tally.wrong(format!("{name}: {e}"));
            return Some(tally);
        }
    };
    let numbers = match table.arch {
        Arch::X86_64 => {
            Numbers { sp: gimli::X86_64::RSP, fp: gimli::X86_64::RBP, ra: gimli::X86_64::RA }
        }
        Arch::Aarch64 => {
            Numbers { sp: gimli::AArch64::SP, fp: gimli::AArch64::X29, ra: gimli::AArch64::X30 }
        }
    };
    let bases = bases(&elf, section.address());
    let hop = Hop::new(&table, &elf, eh_frame);
    let mut tally = Tally::default();
    let mut eh = EhFrame::new(eh_frame, LittleEndian);
    eh.set_address_size(8);
    if table.arch == Arch::Aarch64 {
        eh.set_vendor(gimli::Vendor::AArch64);
    }

    // The start of the next function, as functions may overlap.
    let mut ranges = Vec::new();
    let mut entries = eh.entries(&bases);
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let Ok(fde) = partial.parse(EhFrame::cie_from_offset) else { continue };
        if fde.len() > 0 && table.offset_of(fde.initial_address()).is_some() {
            ranges.push((fde.initial_address(), fde.end_address(), fde.offset()));
        }
    }
    ranges.sort();
    let mut look = Look {
        rules: &rules,
        table: &table,
        numbers,
        hop,
        tally: &mut tally,
        name,
        entry: elf.entry(),
    };
    let mut context = gimli::UnwindContext::new();
    for (i, (start, end, offset)) in ranges.iter().enumerate() {
        let next = ranges.get(i + 1).map_or(u64::MAX, |next| next.0);
        let fde = eh.fde_from_offset(&bases, (*offset).into(), EhFrame::cie_from_offset).unwrap();
        let Ok(mut rows) = fde.rows(&eh, &bases, &mut context) else {
            look.refused(*start, "gimli: instructions of the CIE");
            continue;
        };
        loop {
            let row = match rows.next_row() {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(e) => {
                    look.refused(end - 1, &format!("gimli: {e}"));
                    break;
                }
            };
            let (first, last) = (row.start_address(), row.end_address().min(*end).min(next));
            if first < last {
                look.row(first, &eh, &fde, row);
                if first < last - 1 {
                    look.row(last - 1, &eh, &fde, row);
                }
                // The PLT's depend on the address.
                if matches!(row.cfa(), CfaRule::Expression(_)) {
                    (first + 1..last - 1).take(32).for_each(|at| look.row(at, &eh, &fde, row));
                }
            }
        }
        if next > *end {
            look.hole(*end);
            if (*end..next).contains(&look.entry) {
                look.entry();
            }
            look.hole((next - 1).min(end + 4096));
        }
    }
    Some(tally)
}

type LittleEndianOf = object::LittleEndian;

fn bases(elf: &ElfFile64<'_, LittleEndianOf>, eh_frame: u64) -> gimli::BaseAddresses {
    let mut bases = gimli::BaseAddresses::default().set_eh_frame(eh_frame);
    if let Some(text) = elf.section_by_name(".text") {
        bases = bases.set_text(text.address());
    }
    if let Some(got) = elf.section_by_name(".got") {
        bases = bases.set_got(got.address());
    }
    bases
}

struct Look<'a> {
    rules: &'a RuleSet,
    table: &'a Table,
    numbers: Numbers,
    hop: Hop,
    tally: &'a mut Tally,
    name: &'a str,
    /// Where the file is entered.
    entry: u64,
}

impl Look<'_> {
    fn ours(&self, address: u64) -> (Step, Cfa) {
        let machine = Machine { arch: self.table.arch, pac_mask: 0 };
        let offset = self.table.offset_of(address).unwrap();
        let regs = match self.table.arch {
            Arch::X86_64 => {
                Regs { others: Some(others()), ..Regs::new(address, SP, FP, other(X86_64::RBX)) }
            }
            Arch::Aarch64 => Regs::new(address, SP, FP, LR),
        };
        let rule = self.rules.get(self.table.rule_at(offset)).unwrap();
        let step =
            unwind::step(&machine, self.rules, Code::File(self.table, offset), &regs, &memory);
        if rule.fp == Reg::Undefined {
            assert!(!matches!(step, Step::Caller(regs) if regs.fp != Regs::LOST));
        }
        (step, rule.cfa)
    }

    fn hole(&mut self, address: u64) {
        let Some(offset) = self.table.offset_of(address) else { return };
        self.tally.holes += 1;
        let rule = self.table.rule_at(offset);
        let known = match self.rules.get(rule).unwrap().cfa {
            Cfa::None => true,
            // The end of what returns from a handler is behind its last instruction.
            Cfa::Signal => self.table.stats.sigreturns > 0 || self.signal_before(offset),
            Cfa::Sp => self.table.stats.plain > 0,
            Cfa::End => (self.entry..self.entry + 64).contains(&address),
            _ => false,
        };
        if !known {
            let what = format!("{}: {address:#x}: no function, but rule {rule}", self.name);
            self.tally.wrong(what);
        }
    }

    fn signal_before(&self, offset: u64) -> bool {
        let before = self.rules.get(self.table.rule_at(offset - 1));
        before.is_some_and(|rule| rule.cfa == Cfa::Signal)
    }

    fn entry(&mut self) {
        if self.ours(self.entry).0 == Step::End {
            self.tally.addresses += 1;
            *self.tally.kinds.entry("Entry".to_owned()).or_default() += 1;
        }
    }

    fn refused(&mut self, address: u64, why: &str) {
        self.tally.addresses += 1;
        match self.ours(address).0 {
            Step::Stop(Reason::Unsupported) => {
                *self.tally.refused.entry(why.to_owned()).or_default() += 1;
            }
            other => {
                let what = format!("{}: {address:#x}: {why}, but {other:?}", self.name);
                self.tally.wrong(what);
            }
        }
    }

    fn row(
        &mut self,
        address: u64,
        section: &EhFrame<Slice<'_>>,
        fde: &gimli::FrameDescriptionEntry<Slice<'_>>,
        row: &gimli::UnwindTableRow<usize>,
    ) {
        let (expected, kind) = self.expected(address, section, fde, row);
        let (ours, cfa) = self.ours(address);
        self.tally.addresses += 1;
        let same = match (ours, expected) {
            (Step::End, Caller::End) => true,
            (Step::Caller(regs), Caller::Frame { ip, sp, fp, bx }) => {
                let fp_lost = regs.fp == Regs::LOST;
                let bx_lost = regs.lr == Regs::LOST;
                self.tally.fp_lost += u64::from(fp_lost && fp.is_some());
                self.tally.bx_lost += u64::from(bx_lost && bx.is_some());
                (regs.ip, regs.sp) == (ip, sp)
                    && (fp_lost || Some(regs.fp) == fp)
                    && (bx_lost || Some(regs.lr) == bx)
            }
            (Step::Stop(Reason::Backwards), Caller::Frame { sp, .. }) if sp < SP => {
                let why = format!("{kind}, caller's frame is not above");
                *self.tally.refused.entry(why).or_default() += 1;
                return;
            }
            (Step::Stop(Reason::Unsupported), _) => {
                *self.tally.refused.entry(kind).or_default() += 1;
                return;
            }
            _ => false,
        };
        if !same {
            let what = format!("{}: {address:#x}: {ours:x?}, not {expected:x?}", self.name);
            return self.tally.wrong(what);
        }
        *self.tally.kinds.entry(format!("{cfa:?}")).or_default() += 1;
        let hop = self.hop.step(address);
        let same = match (hop, expected) {
            (Some(Caller::Frame { ip, sp, fp, .. }), Caller::Frame { ip: i, sp: s, fp: f, .. }) => {
                // framehop takes a lost frame pointer for one that is unchanged.
                (ip, sp) == (i, s) && (fp == f || f.is_none())
            }
            (hop, expected) => hop == Some(expected),
        };
        if same {
            self.tally.equal += 1;
        } else {
            *self.tally.not_framehop.entry(format!("{cfa:?}, {kind}")).or_default() += 1;
        }
    }

    /// What gimli says, and by what.
    fn expected(
        &self,
        ip: u64,
        section: &EhFrame<Slice<'_>>,
        fde: &gimli::FrameDescriptionEntry<Slice<'_>>,
        row: &gimli::UnwindTableRow<usize>,
    ) -> (Caller, String) {
        let register = |r: Register| match r {
            r if r == self.numbers.sp => SP,
            r if r == self.numbers.fp => FP,
            gimli::AArch64::X30 if self.table.arch == Arch::Aarch64 => LR,
            gimli::X86_64::RA if self.table.arch == Arch::X86_64 => ip,
            r => other(r),
        };
        let eval = |e: &gimli::UnwindExpression<usize>, start: Option<u64>| -> Option<u64> {
            let expression = e.get(section).ok()?;
            let mut evaluation = expression.evaluation(fde.cie().encoding());
            if let Some(start) = start {
                evaluation.set_initial_value(start);
            }
            let mut result = evaluation.evaluate().ok()?;
            loop {
                result = match result {
                    EvaluationResult::Complete => break,
                    EvaluationResult::RequiresRegister { register: r, .. } => {
                        evaluation.resume_with_register(Value::Generic(register(r))).ok()?
                    }
                    EvaluationResult::RequiresMemory { address, .. } => {
                        let value = Value::Generic(memory(address)?);
                        evaluation.resume_with_memory(value).ok()?
                    }
                    _ => return None,
                };
            }
            match evaluation.as_result().last()?.location {
                Location::Address { address } => Some(address),
                _ => None,
            }
        };
        let (cfa, kind) = match row.cfa() {
            CfaRule::RegisterAndOffset { register: r, offset } => {
                let kind = match *r {
                    r if r == self.numbers.sp || r == self.numbers.fp => {
                        format!("register {}", r.0)
                    }
                    _ => "another register".to_owned(),
                };
                (Some(register(*r).wrapping_add_signed(*offset)), kind)
            }
            CfaRule::Expression(e) => {
                let bytes = e.get(section).unwrap().0.slice();
                let kind = match bytes {
                    [0x76 | 0x77 | 0x8d | 0x8f, ..] if bytes.contains(&0x06) => "stored",
                    _ => "expression",
                };
                (eval(e, None), kind.to_owned())
            }
        };
        let Some(cfa) = cfa else { return (Caller::Unknown, kind) };
        let of = |r: Register, rule: Option<RegisterRule<usize>>| match rule {
            None | Some(RegisterRule::SameValue) => Some(register(r)),
            Some(RegisterRule::Offset(off)) => memory(cfa.wrapping_add_signed(off)),
            Some(RegisterRule::ValOffset(off)) => Some(cfa.wrapping_add_signed(off)),
            Some(RegisterRule::Register(r)) => Some(register(r)),
            Some(RegisterRule::Expression(e)) => memory(eval(&e, Some(cfa))?),
            Some(RegisterRule::ValExpression(e)) => eval(&e, Some(cfa)),
            _ => None,
        };
        let ra = row.register(self.numbers.ra);
        let kind = match &ra {
            Some(RegisterRule::Offset(_)) => kind,
            None => format!("{kind}, return address has no rule"),
            Some(rule) => {
                let rule = format!("{rule:?}");
                let rule = rule.split(['(', ' ']).next().unwrap().to_owned();
                format!("{kind}, return address {rule}")
            }
        };
        if ra == Some(RegisterRule::Undefined) {
            return (Caller::End, kind);
        }
        let sp = match row.register(self.numbers.sp) {
            None => Some(cfa),
            rule => of(self.numbers.sp, rule),
        };
        let fp = of(self.numbers.fp, row.register(self.numbers.fp));
        let bx = match self.table.arch {
            Arch::X86_64 => of(X86_64::RBX, row.register(X86_64::RBX)),
            Arch::Aarch64 => None,
        };
        match (of(self.numbers.ra, ra), sp) {
            (Some(ip), Some(sp)) => (Caller::Frame { ip, sp, fp, bx }, kind),
            _ => (Caller::Unknown, kind),
        }
    }
}

/// framehop, without the code: what it guesses from instructions is not asked for.
enum Hop {
    X86(framehop::x86_64::UnwinderX86_64<Vec<u8>>, Box<framehop::x86_64::CacheX86_64>),
    Arm(framehop::aarch64::UnwinderAarch64<Vec<u8>>, Box<framehop::aarch64::CacheAarch64>),
}

impl Hop {
    fn new(table: &Table, elf: &ElfFile64<'_, LittleEndianOf>, eh_frame: &[u8]) -> Self {
        let range = |name| {
            let section = elf.section_by_name(name)?;
            Some(section.address()..section.address() + section.size())
        };
        let info = framehop::ExplicitModuleSectionInfo {
            base_svma: 0,
            text_svma: range(".text"),
            got_svma: range(".got"),
            eh_frame_svma: range(".eh_frame"),
            eh_frame: Some(eh_frame.to_vec()),
            ..Default::default()
        };
        let module = framehop::Module::new("it".to_owned(), 0..u64::from(u32::MAX), 0, info);
        match table.arch {
            Arch::X86_64 => {
                let mut unwinder = framehop::x86_64::UnwinderX86_64::new();
                unwinder.add_module(module);
                Self::X86(unwinder, Box::new(framehop::x86_64::CacheX86_64::new()))
            }
            Arch::Aarch64 => {
                let mut unwinder = framehop::aarch64::UnwinderAarch64::new();
                unwinder.add_module(module);
                Self::Arm(unwinder, Box::new(framehop::aarch64::CacheAarch64::new()))
            }
        }
    }

    fn step(&mut self, ip: u64) -> Option<Caller> {
        let address = FrameAddress::from_instruction_pointer(ip);
        let mut read = |address| memory(address).ok_or(());
        let (next, sp, fp) = match self {
            Self::X86(unwinder, cache) => {
                let mut regs = framehop::x86_64::UnwindRegsX86_64::new(ip, SP, FP);
                let next = unwinder.unwind_frame(address, &mut regs, cache, &mut read);
                (next, regs.sp(), regs.bp())
            }
            Self::Arm(unwinder, cache) => {
                let mut regs = framehop::aarch64::UnwindRegsAarch64::new(LR, SP, FP);
                let next = unwinder.unwind_frame(address, &mut regs, cache, &mut read);
                (next, regs.sp(), regs.fp())
            }
        };
        match next {
            Ok(Some(ip)) => Some(Caller::Frame { ip, sp, fp: Some(fp), bx: None }),
            Ok(None) => Some(Caller::End),
            Err(_) => None,
        }
    }
}
