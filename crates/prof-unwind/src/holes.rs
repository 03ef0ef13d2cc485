//! Code that no CFI covers, and of which it is known what it is.
//!
//! Where handlers of signals return to: for arm64, the kernel's vDSO has no CFI there, and
//! keeps to these instructions for the sake of unwinders; musl has none on any machine.
//! And where the kernel enters a file: nothing called that. ld.so of glibc has no CFI there
//! on x86-64, and all that is done before `main` is below it. And, on x86-64, what is simple
//! enough to be read: see [`plain`].

use crate::cfi::Function;
use crate::cfi::Reader;
use crate::cfi::Step;
use crate::elf::Arch;
use crate::elf::Code;
use crate::elf::Elf;
use crate::elf::Sections;
use crate::frame;
use crate::needed::Needed;
use crate::plain;
use crate::rule::Cfa;
use crate::rule::Rule;

/// `mov x8, #139; svc #0`.
const AARCH64: &[u8] = &[0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4];

/// `mov $15, %rax; syscall`, long and short.
const X86_64: [&[u8]; 2] = [
    &[0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05],
    &[0xb8, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05],
];

/// Files with more code are not searched: a vDSO has some kilobytes, musl 700.
const MAX_CODE: u64 = 1 << 20;

/// As much code as an entry has: 61 bytes in glibc.
const ENTRY: u32 = 64;

/// Looks for what handlers return to, and adds a function for each; how many.
pub(crate) fn sigreturns(elf: &Elf<'_>, code: &[Code], reader: &mut Reader<'_>) -> u64 {
    let (patterns, before, align): (&[&[u8]], u64, u64) = match elf.arch {
        Arch::X86_64 => (&X86_64, 1, 1),
        Arch::Aarch64 => (&[AARCH64], 4, 4),
    };
    if code.iter().map(|c| c.size).fold(0, u64::saturating_add) > MAX_CODE {
        return 0;
    }
    let mut taken: Vec<_> = reader.functions.iter().map(extent).collect();
    taken.sort_unstable();
    let is_taken = |offset: u64| {
        let after = taken.partition_point(|(start, _)| *start <= offset);
        let last = after.checked_sub(1).and_then(|i| taken.get(i));
        last.is_some_and(|(_, end)| *end > offset)
    };
    let mut found = Vec::new();
    for part in code {
        let Ok(bytes) = elf.source.read("code", part.offset, part.size, MAX_CODE) else { continue };
        let mut rest = &bytes[..];
        while let Some((_, after)) = rest.split_first() {
            let offset = part.offset + (bytes.len() - rest.len()) as u64;
            if let Some(pattern) = patterns.iter().find(|p| rest.starts_with(p))
                && offset.is_multiple_of(align)
                && !is_taken(offset)
            {
                found.push((offset, pattern.len() as u64));
            }
            rest = after;
        }
    }
    for (offset, size) in &found {
        // A handler's return address is that of the first instruction, so the one before
        // is looked up.
        let from = offset.saturating_sub(before);
        add(reader, from, (offset - from + size) as u32, frame::signal_rule(elf.arch));
    }
    found.len() as u64
}

/// Adds a function where the file is entered, if none is there; whether so.
pub(crate) fn entry(elf: &Elf<'_>, code: &[Code], reader: &mut Reader<'_>) -> bool {
    // 0 is none, though a vDSO has its headers there.
    let address = Some(elf.entry()).filter(|entry| *entry != 0);
    let place = address.and_then(|address| code.iter().find_map(|c| c.offset_of(address)));
    let Some((offset, left)) = place else {
        return false;
    };
    let mut functions = reader.functions.iter().map(extent);
    if functions.any(|(start, end)| (start..end).contains(&offset)) {
        return false;
    }
    // In libraries, linkers name the start of their code.
    let needed = Needed::of(elf);
    if !elf.is_fixed() && !needed.is_ok_and(|n| n.interpreter.is_some() || n.libraries.is_empty()) {
        return false;
    }
    let size = left.min(u64::from(ENTRY)) as u32;
    add(reader, offset, size, Rule::only(Cfa::End));
    true
}

/// Holes that are looked into, and how far.
const MAX_HOLES: usize = 4096;
const MAX_HOLE: u64 = 1024;
/// The largest section that is read so: 16,384 entries of a PLT.
const MAX_SECTION: u64 = 256 << 10;

/// Adds what [`plain`] can read of x86-64's code between functions, and the end of what
/// handlers of signals return to: the kernel is in that system call, and the address is
/// the one behind it. How many pieces.
pub(crate) fn plain(
    elf: &Elf<'_>,
    sections: &Sections,
    code: &[Code],
    reader: &mut Reader<'_>,
) -> u64 {
    if elf.arch != Arch::X86_64 {
        return 0;
    }
    let end_of = |offset: u64| {
        let part = code.iter().find(|c| (c.offset..c.offset + c.size).contains(&offset))?;
        Some(part.offset + part.size)
    };
    let mut functions: Vec<_> =
        reader.functions.iter().map(|f| (extent(f), last_rule(reader, f))).collect();
    functions.sort_unstable_by_key(|(extent, _)| *extent);
    let next_after = |offset: u64| {
        let at = functions.partition_point(|((start, _), _)| *start < offset);
        functions.get(at).map_or(u64::MAX, |((start, _), _)| *start)
    };
    // Where something begins, and the rule that held before it.
    let names = [&b".init"[..], b".fini", b".text", b".plt", b".plt.got", b".plt.sec", b".iplt"];
    let mut holes: Vec<(u64, Option<Rule>)> = names
        .into_iter()
        .filter_map(|name| sections.find(name))
        .filter_map(|(place, _)| elf.offset_of(place.address))
        .map(|(offset, _)| (offset, None))
        .collect();
    let (mut ends, mut found) = (0, 0);
    for ((_, end), rule) in &functions {
        ends = ends.max(*end);
        // Shorter ones are padding.
        let signal = rule.is_some_and(|r| r.cfa == Cfa::Signal);
        if ends == *end && (signal || next_after(*end).saturating_sub(*end) >= 8) {
            holes.push((*end, *rule));
        }
    }
    for (from, before) in holes.into_iter().take(MAX_HOLES) {
        let Some(end) = end_of(from) else { continue };
        let size = end.min(next_after(from)).saturating_sub(from).min(if before.is_none() {
            MAX_SECTION
        } else {
            MAX_HOLE
        });
        if size == 0 || functions_cover(&functions, from) {
            continue;
        }
        if before.is_some_and(|r| r.cfa == Cfa::Signal) {
            add(reader, from, 1, frame::signal_rule(elf.arch));
            continue;
        }
        let Ok(bytes) = elf.source.read("code", from, size, MAX_SECTION) else { continue };
        // What goes on where CFI was left out has the frame that was there.
        let goes_on = before.is_some_and(|r| r.cfa == Cfa::Sp && r.cfa_off == 8);
        let begins = before.is_none() || matches!(bytes.first(), Some(0x0f | 0x66 | 0x90 | 0xcc));
        if !goes_on && !begins {
            continue;
        }
        let (rows, end) = plain::rows(&bytes);
        let first = reader.steps.len() as u32;
        for (at, rule) in &rows {
            let rule = reader.intern(*rule);
            reader.steps.push(Step { at: *at, rule });
        }
        let steps = rows.len() as u32;
        if steps > 0 {
            reader.functions.push(Function { offset: from, size: end, first, steps });
            found += 1;
        }
    }
    found
}

fn last_rule(reader: &Reader<'_>, function: &Function) -> Option<Rule> {
    let at = (function.first + function.steps).checked_sub(1)?;
    reader.rule(reader.steps.get(at as usize)?.rule)
}

fn functions_cover(functions: &[((u64, u64), Option<Rule>)], offset: u64) -> bool {
    let after = functions.partition_point(|((start, _), _)| *start <= offset);
    let last = after.checked_sub(1).and_then(|i| functions.get(i));
    last.is_some_and(|((_, end), _)| *end > offset)
}

/// Adds a function, unless it would begin in another.
pub(crate) fn add_unless_there(reader: &mut Reader<'_>, offset: u64, size: u32, rule: Rule) {
    if !reader.functions.iter().map(extent).any(|(start, end)| (start..end).contains(&offset)) {
        add(reader, offset, size, rule);
    }
}

fn extent(function: &Function) -> (u64, u64) {
    (function.offset, function.offset + u64::from(function.size))
}

fn add(reader: &mut Reader<'_>, offset: u64, size: u32, rule: Rule) {
    let first = reader.steps.len() as u32;
    let rule = reader.intern(rule);
    reader.steps.push(Step { at: 0, rule });
    reader.functions.push(Function { offset, size, first, steps: 1 });
}
