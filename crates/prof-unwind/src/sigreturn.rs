//! Where handlers of signals return to, known by the instructions.
//!
//! For arm64, the kernel's vDSO has no CFI there, and keeps to these instructions for
//! the sake of unwinders; so has musl on all machines.

use crate::cfi::Function;
use crate::cfi::Reader;
use crate::cfi::Step;
use crate::elf::Arch;
use crate::elf::Code;
use crate::elf::Elf;
use crate::frame;

/// `mov x8, #139; svc #0`.
const AARCH64: &[u8] = &[0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4];

/// `mov $15, %rax; syscall`, long and short.
const X86_64: [&[u8]; 2] = [
    &[0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05],
    &[0xb8, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05],
];

/// Files with more code are not searched: a vDSO has some kilobytes, musl 700.
const MAX_CODE: u64 = 1 << 20;

/// Looks for them where no function is, and adds a function for each; how many.
pub(crate) fn find(elf: &Elf<'_>, code: &[Code], reader: &mut Reader<'_>) -> u64 {
    let (patterns, before, align): (&[&[u8]], u64, u64) = match elf.arch {
        Arch::X86_64 => (&X86_64, 1, 1),
        Arch::Aarch64 => (&[AARCH64], 4, 4),
    };
    if code.iter().map(|c| c.size).fold(0, u64::saturating_add) > MAX_CODE {
        return 0;
    }
    let mut taken: Vec<_> =
        reader.functions.iter().map(|f| (f.offset, f.offset + u64::from(f.size))).collect();
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
        let rule = reader.intern(frame::signal_rule(elf.arch));
        let first = reader.steps.len() as u32;
        // A handler's return address is that of the first instruction, so the one before
        // is looked up.
        let from = offset.saturating_sub(before);
        let size = (offset - from + size) as u32;
        reader.steps.push(Step { at: 0, rule });
        reader.functions.push(Function { offset: from, size, first, steps: 1 });
    }
    found.len() as u64
}
