//! What Go's own table of functions says, which every program of Go has, stripped or not:
//! how much of the stack is a function's at each of its instructions, and which functions
//! have no caller.
//!
//! Go's code keeps frame pointers, but a function without a frame has none of its own, nor
//! has any before it has made one: by frame pointers their callers would be left out. A
//! function that moves to another stack is marked, and the table does not say where its
//! caller is: the frame pointer still leads there. The format is that of Go 1.18 and later;
//! of another one nothing is taken.

use std::borrow::Cow;

use crate::cfi::Function;
use crate::cfi::Reader;
use crate::cfi::Step;
use crate::elf::Arch;
use crate::elf::Code;
use crate::elf::Elf;
use crate::elf::Place;
use crate::error::Error;
use crate::frame;
use crate::rule::Cfa;
use crate::rule::Reg;
use crate::rule::Rule;
use crate::rule::RuleSet;

/// Largest table that is read: kubelet's has 30 MB.
const MAX_TABLE: u64 = 128 << 20;

/// `funcFlag_TOPFRAME`, `funcFlag_SPWRITE`.
const TOP_FRAME: u8 = 1;
const MOVES_STACK: u8 = 2;

/// Adds the functions and their rows.
pub(crate) fn functions(
    elf: &Elf<'_>,
    code: &[Code],
    table: Place,
    text: Place,
    reader: &mut Reader<'_>,
) -> Result<(), Error> {
    let read = elf.source.read(".gopclntab", table.offset, table.size, MAX_TABLE);
    let Ok(bytes) = read else { return Ok(()) };
    let Some(table) = Table::new(&bytes, text.address) else { return Ok(()) };
    let mut window = Window { elf, from: 0, bytes: Cow::Borrowed(&[]) };
    for i in 0..table.count {
        let Some(entry) = table.entry(i) else { continue };
        let place = code.iter().find_map(|c| c.offset_of(entry.start));
        let Some((offset, left)) = place else { continue };
        let size = u64::from(entry.size).min(left) as u32;
        let first = reader.steps.len();
        if entry.name.starts_with(b"runtime.sigreturn") {
            // A handler's return address is that of its first instruction, and the byte
            // before is looked up.
            let rule = reader.intern(frame::signal_rule(elf.arch));
            reader.add(first, Step { at: 0, rule })?;
            add(reader, offset.saturating_sub(1), size.saturating_add(1), first);
            continue;
        }
        // What was interrupted is above a handler.
        if entry.flags & TOP_FRAME != 0 && !entry.name.starts_with(b"runtime.sigtramp") {
            let rule = reader.intern(Rule::only(Cfa::End));
            reader.add(first, Step { at: 0, rule })?;
        } else if entry.flags & MOVES_STACK == 0 {
            rows(&table, &entry, offset, size, &mut window, reader)?;
        }
        add(reader, offset, size, first);
    }
    Ok(())
}

fn add(reader: &mut Reader<'_>, offset: u64, size: u32, first: usize) {
    let steps = (reader.steps.len() - first) as u32;
    if steps > 0 && size > 0 {
        reader.functions.push(Function { offset, size, first: first as u32, steps });
    }
}

/// Adds the rows of a function that is at this place in the file.
fn rows(
    table: &Table<'_>,
    entry: &Entry<'_>,
    offset: u64,
    size: u32,
    code: &mut Window<'_>,
    reader: &mut Reader<'_>,
) -> Result<(), Error> {
    let arch = code.elf.arch;
    let first = reader.steps.len();
    // From where on what the function keeps is where Go's functions keep it, if it is at all.
    let mut kept: Option<Option<u32>> = None;
    for (at, end, depth) in table.spans(entry) {
        reader.spend()?;
        if at >= size {
            break;
        }
        if depth > 0 && kept.is_none() {
            kept = Some(
                keeps(arch, code, offset + u64::from(at)).map(|behind| at.saturating_add(behind)),
            );
        }
        let from = kept.flatten();
        // At the end of arm64's functions are calls for more stack, and before each of
        // these the return address went elsewhere.
        let leaf = arch == Arch::X86_64 || at == 0 || end - at <= 4;
        let mut set = |at, kept| {
            let rule = rule(arch, depth, kept, leaf);
            let rule = rule.map_or(RuleSet::NONE, |rule| reader.intern(rule));
            reader.add(first, Step { at, rule })
        };
        let from = from.filter(|_| depth > 0);
        set(at, from.is_some_and(|from| from <= at))?;
        if let Some(from) = from.filter(|from| at < *from && *from < end.min(size)) {
            set(from, true)?;
        }
    }
    Ok(())
}

/// The rule where a function has so many bytes of the stack, beside the return address that
/// a call of x86-64 puts there. `kept`: the caller's frame pointer is among them.
fn rule(arch: Arch, depth: i32, kept: bool, leaf: bool) -> Option<Rule> {
    // Go's functions keep no registers for their callers.
    let rule = Rule { bx: Rule::LOST_BX, ..Rule::only(Cfa::Sp) };
    match arch {
        Arch::X86_64 => {
            let rule = Rule { cfa_off: depth.checked_add(8)?, ra: Reg::Cfa, ra_off: -8, ..rule };
            Some(if kept { Rule { fp: Reg::Cfa, fp_off: -16, ..rule } } else { rule })
        }
        Arch::Aarch64 if depth == 0 => leaf.then_some(Rule { bx: Rule::SAME_BX, ..rule }),
        // The return address is at the stack pointer, the frame pointer below.
        Arch::Aarch64 => Some(Rule {
            bx: Rule::SAME_BX,
            cfa_off: depth,
            ra: Reg::Cfa,
            ra_off: i16::try_from(-depth).ok().filter(|_| kept)?,
            fp: Reg::Cfa,
            fp_off: i16::try_from(-depth - 8).ok()?,
            ..rule
        }),
    }
}

/// How many bytes behind the instruction that makes room on the stack the caller's frame
/// pointer is kept there; not at all in some functions of assembly.
fn keeps(arch: Arch, code: &mut Window<'_>, offset: u64) -> Option<u32> {
    let (before, after) = code.around(offset)?;
    match arch {
        Arch::X86_64 => match after {
            // mov %rbp, n(%rsp): up to Go 1.20.
            [0x48, 0x89, 0x2c, 0x24, ..] => Some(4),
            [0x48, 0x89, 0x6c, 0x24, ..] => Some(5),
            [0x48, 0x89, 0xac, 0x24, ..] => Some(8),
            // push %rbp
            _ => (before[3] == 0x55).then_some(0),
        },
        // str x30, [sp, #-n]!; for large frames mov sp, x20.
        Arch::Aarch64 => match u32::from_le_bytes(before) {
            0x9100_029f => Some(0),
            push => (push & 0xffe0_0fff == 0xf800_0ffe).then_some(0),
        },
    }
}

/// Code as it is read, a piece at a time: functions are in order.
struct Window<'a> {
    elf: &'a Elf<'a>,
    from: u64,
    bytes: Cow<'a, [u8]>,
}

impl Window<'_> {
    const SIZE: u64 = 256 << 10;

    /// The four bytes before an offset, and those behind it.
    fn around(&mut self, offset: u64) -> Option<([u8; 4], [u8; 4])> {
        // Each piece is read once: tables that go back and forth are not Go's.
        let from = offset.checked_sub(4).filter(|from| *from >= self.from)?;
        if offset + 4 > self.from + self.bytes.len() as u64 {
            let size = Self::SIZE.min(self.elf.source.len().checked_sub(from)?);
            self.bytes = self.elf.source.read("code", from, size, Self::SIZE).ok()?;
            self.from = from;
        }
        let bytes = self.bytes.get((from - self.from) as usize..)?.first_chunk::<8>()?;
        let [a, b, c, d, e, f, g, h] = *bytes;
        Some(([a, b, c, d], [e, f, g, h]))
    }
}

/// The table, `runtime.pclntab`.
struct Table<'a> {
    bytes: &'a [u8],
    start: u64,
    count: usize,
    names: usize,
    /// Numbers by instruction, of all functions.
    numbers: usize,
    functions: usize,
    /// Bytes that instructions are multiples of.
    quantum: u32,
    flags_at: usize,
}

/// A function.
struct Entry<'a> {
    start: u64,
    size: u32,
    name: &'a [u8],
    flags: u8,
    /// Where the table of what it has of the stack is, among the numbers.
    depths: u32,
}

impl<'a> Table<'a> {
    fn new(bytes: &'a [u8], text: u64) -> Option<Self> {
        let u64_at = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let place = |at: usize| usize::try_from(u64_at(at)?).ok();
        // Where the flags are in an entry.
        let flags_at = match u32::from_le_bytes(*bytes.first_chunk()?) {
            0xffff_fff0 => 37,
            // 1.20: with the line that it starts at.
            0xffff_fff1 => 41,
            _ => return None,
        };
        // Bytes of an address.
        if *bytes.get(7)? != 8 {
            return None;
        }
        let table = Self {
            bytes,
            // Where it may be loaded anywhere, that is filled in then.
            start: Some(u64_at(24)?).filter(|start| *start != 0).unwrap_or(text),
            count: place(8)?,
            names: place(32)?,
            numbers: place(56)?,
            functions: place(64)?,
            quantum: u32::from(*bytes.get(6)?),
            flags_at,
        };
        let list = bytes.get(table.functions..)?;
        list.get(..table.count.checked_mul(8)?.checked_add(4)?)?;
        Some(table)
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }

    fn entry(&self, i: usize) -> Option<Entry<'a>> {
        let listed = self.functions + i * 8;
        let (from, to) = (self.u32_at(listed)?, self.u32_at(listed + 8)?);
        let at = usize::try_from(self.u32_at(listed + 4)?).ok()?;
        let at = self.functions.checked_add(at)?;
        let name = usize::try_from(self.u32_at(at.checked_add(4)?)?).ok()?;
        Some(Entry {
            start: self.start.checked_add(u64::from(from))?,
            size: to.checked_sub(from)?,
            name: self.bytes.get(self.names.checked_add(name)?..)?,
            flags: *self.bytes.get(at.checked_add(self.flags_at)?)?,
            depths: self.u32_at(at.checked_add(16)?)?,
        })
    }

    /// From where to where in a function it has how many bytes of the stack.
    fn spans(&self, entry: &Entry<'_>) -> impl Iterator<Item = (u32, u32, i32)> {
        let start = usize::try_from(entry.depths).ok().filter(|start| *start > 0);
        let bytes = start.and_then(|start| self.bytes.get(self.numbers.checked_add(start)?..));
        let mut rest = bytes.unwrap_or_default();
        let (mut at, mut depth) = (0_u32, -1_i32);
        std::iter::from_fn(move || {
            let by = number(&mut rest)?;
            if by == 0 && at > 0 {
                return None;
            }
            // The sign is in the lowest bit.
            depth = depth.wrapping_add((by >> 1) as i32 ^ -((by & 1) as i32));
            let from = at;
            at = at.checked_add(number(&mut rest)?.checked_mul(self.quantum)?)?;
            (depth >= 0).then_some((from, at, depth))
        })
    }
}

/// A number in groups of seven bits, the lowest first.
fn number(rest: &mut &[u8]) -> Option<u32> {
    let mut value = 0;
    for shift in (0..32).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
