//! Code that no CFI covers, and of which it is known what it is.
//!
//! Where handlers of signals return to: for arm64, the kernel's vDSO has no CFI there, and
//! keeps to these instructions for the sake of unwinders; musl has none on any machine.
//! And where the kernel enters a file: nothing called that. ld.so of glibc has no CFI there
//! on x86-64, and all that is done before `main` is below it.

use crate::cfi::Function;
use crate::cfi::Reader;
use crate::cfi::Step;
use crate::elf::Arch;
use crate::elf::Code;
use crate::elf::Elf;
use crate::frame;
use crate::needed::Needed;
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
