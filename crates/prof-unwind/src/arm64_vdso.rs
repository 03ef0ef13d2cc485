//! arm64's vDSO, which has no CFI: from 5.8 on the kernel leaves it out.
//!
//! Its functions are a few, and are asked for the time more often than most others. All
//! but one are leaves without a frame; that one has a frame record and keeps the stack
//! pointer where it is. So the instructions that move the stack pointer say it all; a
//! function that has others than expected gets no rows.

use std::collections::BTreeSet;

use object::LittleEndian as LE;
use object::elf;
use object::pod;

use crate::elf::Code;
use crate::elf::Elf;
use crate::elf::Sections;
use crate::rule::Cfa;
use crate::rule::Reg;
use crate::rule::Rule;

/// It has two pages. What is larger is some library without CFI.
const MAX: u64 = 64 << 10;

/// Stretches of code: where in the file, how long, and the rule.
pub(crate) type Rows = Vec<(u64, u32, Rule)>;

const LEAF: Rule = Rule::only(Cfa::Sp);

/// The rules of what is understood of its code.
pub(crate) fn rows(elf: &Elf<'_>, sections: &Sections, code: &[Code]) -> Rows {
    let mut rows = Rows::new();
    let [code] = code else { return rows };
    if code.size > MAX {
        return rows;
    }
    let Ok(bytes) = elf.source.read("code", code.offset, code.size, MAX) else { return rows };
    let at = |address: u64| -> Option<u32> {
        let at = usize::try_from(address.checked_sub(code.address)?).ok()?;
        Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
    };
    // Elsewhere there is nothing, however far that goes.
    let mut starts: BTreeSet<u64> = symbols(elf, sections).unwrap_or_default();
    starts.retain(|start| code.offset_of(*start).is_some());
    let Some((first, text)) = starts.first().copied().zip(sections.find(b".text")) else {
        return rows;
    };
    let end = text.0.address.saturating_add(text.0.size).min(code.address + code.size);
    // What is called has no symbol if it is local.
    for address in (first..end).step_by(4) {
        if let Some(target) = at(address).and_then(|i| call(address, i))
            && (first..end).contains(&target)
        {
            starts.insert(target);
        }
    }
    let mut starts = starts.into_iter().peekable();
    while let Some(start) = starts.next() {
        let stop = starts.peek().copied().unwrap_or(end).min(end);
        let function = (start..stop).step_by(4).map_while(at);
        for (from, to, rule) in function_rows(function).unwrap_or_default() {
            let (offset, from) = (start - code.address + code.offset, u64::from(from));
            rows.push((offset + from, to - from as u32, rule));
        }
    }
    rows
}

/// The stretches of a function, in bytes from its start; `None` if it does what is not
/// understood.
fn function_rows(instructions: impl Iterator<Item = u32>) -> Option<Vec<(u32, u32, Rule)>> {
    let mut rows = Vec::new();
    let (mut now, mut frame) = (LEAF, LEAF);
    let (mut from, mut at) = (0, 0);
    for instruction in instructions {
        at += 4;
        let next = match instruction {
            i if i & 0xffc0_7fff == 0xa980_7bfd && now == LEAF && frame == LEAF => {
                // stp x29, x30, [sp, #-size]!
                let size = -(((i >> 15 & 0x7f) as i32) << 25 >> 25) * 8;
                let off = i16::try_from(-size).ok()?;
                frame = Rule {
                    cfa_off: size,
                    fp: Reg::Cfa,
                    fp_off: off,
                    ra: Reg::Cfa,
                    ra_off: off + 8,
                    ..LEAF
                };
                frame
            }
            // ldp x29, x30, [sp], #size
            i if i & 0xffc0_7fff == 0xa8c0_7bfd && now == frame => LEAF,
            i if moves_sp(i) => return None,
            // ret: what follows is reached from before the epilogue.
            0xd65f_03c0 => frame,
            // bl, blr
            i if (i & 0xfc00_0000 == 0x9400_0000 || i & 0xffff_fc1f == 0xd63f_0000)
                && now == LEAF =>
            {
                return None;
            }
            _ => now,
        };
        if next != now {
            rows.push((from, at, now));
            (now, from) = (next, at);
        }
    }
    if at > from {
        rows.push((from, at, now));
    }
    Some(rows)
}

/// Whether an instruction writes the stack pointer.
fn moves_sp(i: u32) -> bool {
    let (rd, rn) = (i & 31, i >> 5 & 31);
    // add, sub with an immediate; with flags it would be a comparison.
    let sum = i & 0x3f00_0000 == 0x1100_0000 && rd == 31;
    // add, sub of an extended register.
    let extended = i & 0x3fe0_0000 == 0x0b20_0000 && rd == 31;
    // and, orr, eor with an immediate.
    let logic = i & 0x1f80_0000 == 0x1200_0000 && i & 0x6000_0000 != 0x6000_0000 && rd == 31;
    // Pairs, and single ones, with write-back.
    let pair = i & 0x3a80_0000 == 0x2880_0000 && rn == 31;
    let single = i & 0x3b20_0400 == 0x3800_0400 && rn == 31;
    sum || extended || logic || pair || single
}

/// The target of a `bl`.
fn call(address: u64, i: u32) -> Option<u64> {
    let off = i64::from((i << 6) as i32 >> 6) * 4;
    (i & 0xfc00_0000 == 0x9400_0000).then(|| address.wrapping_add_signed(off))
}

/// Where its functions start.
fn symbols(elf: &Elf<'_>, sections: &Sections) -> Option<BTreeSet<u64>> {
    let (place, _) = sections.find(b".dynsym")?;
    let bytes = elf.source.read("symbols", place.offset, place.size, MAX).ok()?;
    let count = bytes.len() / size_of::<elf::Sym64<LE>>();
    let (symbols, _) = pod::slice_from_bytes::<elf::Sym64<LE>>(&bytes, count).ok()?;
    let functions = symbols.iter().filter(|s| s.st_type() == elf::STT_FUNC);
    Some(functions.map(|s| s.st_value.get(LE)).filter(|at| at.is_multiple_of(4)).collect())
}
