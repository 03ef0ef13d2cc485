//! `/etc/ld.so.cache`, where ld.so looks libraries up by name.

use std::fs::File;
use std::path::PathBuf;

use crate::elf::Arch;
use crate::elf::Source;

/// The layout since glibc 2.2; before 2.32 it came after one that was older still.
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";

const OLD_MAGIC: &[u8] = b"ld.so-1.7.0\0";

/// A system has some hundred kilobytes.
const MAX: u64 = 64 << 20;

/// Magic, two numbers, flags, an offset, and three that are not used.
const HEADER: usize = 48;

/// Flags, where name and path are, and what CPU it wants.
const ENTRY: usize = 24;

/// The cache as it was read.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    bytes: Vec<u8>,
    entries: usize,
    base: usize,
}

impl Cache {
    /// That of this system; empty if it cannot be read.
    pub(crate) fn load() -> Self {
        let read = || {
            let file = File::open("/etc/ld.so.cache").ok()?;
            let source = Source::file(&file).ok()?;
            let bytes = source.read("cache", 0, source.len(), MAX).ok()?;
            Self::parse(bytes.into_owned())
        };
        read().unwrap_or_default()
    }

    pub(crate) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let base = if bytes.starts_with(OLD_MAGIC) {
            // Its entries have 12 bytes; then comes the new one, aligned to 8.
            let count = u32::from_le_bytes(*bytes.get(12..)?.first_chunk()?);
            (count as usize).checked_mul(12)?.checked_add(16)?.checked_next_multiple_of(8)?
        } else {
            0
        };
        let header = bytes.get(base..)?;
        if !header.starts_with(MAGIC) {
            return None;
        }
        let count = u32::from_le_bytes(*header.get(MAGIC.len()..)?.first_chunk()?) as usize;
        let most = header.len().checked_sub(HEADER)? / ENTRY;
        (count <= most).then_some(Self { bytes, entries: count, base })
    }

    /// Where a library may be: in several places, if there are variants for special CPUs.
    pub(crate) fn find(&self, name: &[u8], arch: Arch) -> Vec<PathBuf> {
        // A library of glibc, of this architecture.
        let wanted = match arch {
            Arch::X86_64 => 0x0303,
            Arch::Aarch64 => 0x0a03,
        };
        let entries = (0..self.entries).filter_map(|i| {
            let at = self.base + HEADER + i * ENTRY;
            let number = |at| Some(u32::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?));
            let (flags, key, value) = (number(at)?, number(at + 4)?, number(at + 8)?);
            let path = || {
                use std::os::unix::ffi::OsStrExt as _;
                PathBuf::from(std::ffi::OsStr::from_bytes(self.text(value)?)).into()
            };
            (flags == wanted && self.text(key)? == name).then(path).flatten()
        });
        entries.collect()
    }

    fn text(&self, at: u32) -> Option<&[u8]> {
        let text = self.bytes.get(self.base.checked_add(at as usize)?..)?;
        // No longer than a path.
        text.get(..text.len().min(4097))?.split(|b| *b == 0).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache of (flags, name, path).
    fn cache(entries: &[(u32, &str, &str)], before: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let mut names = Vec::new();
        bytes.extend((entries.len() as u32).to_le_bytes());
        bytes.resize(HEADER, 0);
        let first = HEADER + entries.len() * ENTRY;
        for (flags, name, path) in entries {
            let key = first + names.len();
            names.extend([name.as_bytes(), b"\0"].concat());
            let value = first + names.len();
            names.extend([path.as_bytes(), b"\0"].concat());
            for number in [*flags, key as u32, value as u32, 0, 0, 0] {
                bytes.extend(number.to_le_bytes());
            }
        }
        [before, &bytes, &names].concat()
    }

    const ENTRIES: &[(u32, &str, &str)] = &[
        (0x0303, "libc.so.6", "/lib/libc.so.6"),
        (0x0003, "libc.so.6", "/lib32/libc.so.6"),
        (0x0a03, "libc.so.6", "/arm/libc.so.6"),
        (0x0303, "libm.so.6", "/lib/libm.so.6"),
    ];

    #[test]
    fn by_name_and_architecture() {
        let old = [OLD_MAGIC, &2_u32.to_le_bytes(), &[0; 24]].concat();
        for before in [&[][..], &old] {
            let cache = Cache::parse(cache(ENTRIES, before)).unwrap();
            let found = |name: &str, arch| cache.find(name.as_bytes(), arch);
            assert_eq!(found("libc.so.6", Arch::X86_64), [PathBuf::from("/lib/libc.so.6")]);
            assert_eq!(found("libc.so.6", Arch::Aarch64), [PathBuf::from("/arm/libc.so.6")]);
            assert_eq!(found("libm.so.6", Arch::X86_64), [PathBuf::from("/lib/libm.so.6")]);
            assert!(found("libm.so", Arch::X86_64).is_empty());
        }
    }

    #[test]
    fn a_damaged_one_is_none_or_finds_nothing() {
        let whole = cache(ENTRIES, &[]);
        for end in 0..whole.len() {
            if let Some(cache) = Cache::parse(whole[..end].to_vec()) {
                cache.find(b"libc.so.6", Arch::X86_64);
            }
        }
        let mut many = whole.clone();
        many[MAGIC.len()..][..4].fill(0xff);
        assert!(Cache::parse(many).is_none());
        let mut wild = whole;
        wild[HEADER + 4..HEADER + 12].fill(0xff);
        let wild = Cache::parse(wild).unwrap();
        assert!(wild.find(b"libc.so.6", Arch::X86_64).is_empty());
    }
}
