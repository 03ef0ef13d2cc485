//! Stubs through which a file calls the functions of others. No symbol is of them; which
//! function one leads to is said by the relocation of the word that it jumps through.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use object::Architecture;
use object::Endianness;
use object::Object as _;
use object::ObjectSymbol as _;
use object::ObjectSymbolTable as _;
use object::ReadCache;
use object::RelocationTarget;
use object::SymbolIndex;
use object::read::elf::ElfFile64;

use crate::elf::Elf;
use crate::elf::Section;

/// Largest section of stubs that is read: a file with 500,000 of them has 8 MiB.
const MAX_BYTES: u64 = 16 << 20;

/// Stubs of x86-64 lie this far apart, but for some of `.plt.got`.
const STUB: usize = 16;

/// `endbr64`.
const ENDBR: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// Whether a section has stubs.
pub(crate) fn is_stubs(section: &str) -> bool {
    matches!(section, ".plt" | ".plt.sec" | ".plt.got" | ".iplt")
}

/// For each of these addresses, all of them in stubs, the function that it leads to.
pub(crate) fn targets(file: &File, elf: &Elf, addresses: &[u64]) -> Vec<Option<String>> {
    try_targets(file, elf, addresses).unwrap_or_else(|| vec![None; addresses.len()])
}

fn try_targets(file: &File, elf: &Elf, addresses: &[u64]) -> Option<Vec<Option<String>>> {
    let cache = ReadCache::new(file);
    let object = ElfFile64::<Endianness, _>::parse(&cache).ok()?;
    let decode = match object.architecture() {
        Architecture::X86_64 => x86_64,
        Architecture::Aarch64 => aarch64,
        _ => return None,
    };
    let mut words: HashMap<u64, SymbolIndex> = HashMap::new();
    for (place, relocation) in object.dynamic_relocations()? {
        let RelocationTarget::Symbol(symbol) = relocation.target() else { continue };
        words.insert(place, symbol);
    }
    let symbols = object.dynamic_symbol_table()?;
    let mut read: HashMap<&str, Vec<u8>> = HashMap::new();
    let mut target = |address: &u64| {
        let section = elf.sections.iter().find(|s| s.memory.contains(address))?;
        let bytes = match read.entry(section.name.as_str()) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(none) => none.insert(content(file, section).unwrap_or_default()),
        };
        let word = decode(bytes, section.memory.start, *address)?;
        let symbol = symbols.symbol_by_index(*words.get(&word)?).ok()?;
        symbol.name().ok().filter(|n| !n.is_empty()).map(str::to_owned)
    };
    Some(addresses.iter().map(&mut target).collect())
}

fn content(file: &File, section: &Section) -> Option<Vec<u8>> {
    let size = section.file.end.checked_sub(section.file.start)?;
    if size > MAX_BYTES {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    file.read_exact_at(&mut bytes, section.file.start).ok()?;
    Some(bytes)
}

/// The word through which the stub at an address jumps: `jmp *word(%rip)`, the only one in it.
fn x86_64(bytes: &[u8], start: u64, address: u64) -> Option<u64> {
    let into = usize::try_from(address.checked_sub(start)?).ok()?;
    // Without endbr64, those of `.plt.got` have eight bytes: two to a place.
    let short = |at: usize| bytes.get(at + 6..at + 8) == Some(&[0x66, 0x90]);
    let whole = into / STUB * STUB;
    let first = if short(whole) && into >= whole + 8 { whole + 8 } else { whole };
    let mut at = first;
    if bytes.get(at..)?.starts_with(&ENDBR) {
        at += ENDBR.len();
    }
    // `bnd`.
    if bytes.get(at) == Some(&0xf2) {
        at += 1;
    }
    let jump: &[u8; 6] = bytes.get(at..)?.first_chunk()?;
    let [0xff, 0x25, displacement @ ..] = *jump else { return None };
    let next = start.checked_add(at as u64 + 6)?;
    Some(next.wrapping_add_signed(i32::from_le_bytes(displacement).into()))
}

/// The same of arm64: `adrp x16, page; ldr x17, [x16, offset]`, behind a `bti c` where there
/// is one.
fn aarch64(bytes: &[u8], start: u64, address: u64) -> Option<u64> {
    let into = usize::try_from(address.checked_sub(start)?).ok()? / 4;
    let (words, _) = bytes.as_chunks::<4>();
    let word = |at: usize| words.get(at).map(|w| u32::from_le_bytes(*w));
    const BTI_C: u32 = 0xd503_245f;
    let is_page = |at: usize| word(at).is_some_and(|w| w & 0x9f00_001f == 0x9000_0010);
    let mut at = into + usize::from(word(into) == Some(BTI_C));
    // The longest has six instructions.
    for _ in 0..6 {
        if is_page(at) {
            break;
        }
        at = at.checked_sub(1)?;
    }
    let (page, load) = (word(at).filter(|_| is_page(at))?, word(at + 1)?);
    if load & 0xffc0_03ff != 0xf940_0211 {
        return None;
    }
    let immediate = (page >> 3) & 0x1f_fffc | (page >> 29) & 3;
    let pages = i64::from((immediate << 11) as i32 >> 11) << 12;
    let here = start.checked_add(at as u64 * 4)? & !0xfff;
    Some(here.wrapping_add_signed(pages).wrapping_add(u64::from((load >> 10) & 0xfff) * 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_before_is_not_taken_for_the_one_at_the_address() {
        // PLT0, which pushes and jumps through words of the loader, and one stub.
        let mut bytes =
            vec![0xff, 0x35, 0xe2, 0x2f, 0, 0, 0xff, 0x25, 0xe4, 0x2f, 0, 0, 0x0f, 0x1f, 0x40, 0];
        bytes
            .extend([0xff, 0x25, 0xe2, 0x2f, 0, 0, 0x68, 0, 0, 0, 0, 0xe9, 0xe0, 0xff, 0xff, 0xff]);
        assert_eq!(x86_64(&bytes, 0x1020, 0x1026), None);
        for at in [0x1030, 0x1036, 0x103f] {
            assert_eq!(x86_64(&bytes, 0x1020, at), Some(0x1036 + 0x2fe2));
        }
        assert_eq!(x86_64(&bytes, 0x1020, 0x1040), None);
        assert_eq!(x86_64(&bytes, 0x1020, 0x101f), None);
    }
}
