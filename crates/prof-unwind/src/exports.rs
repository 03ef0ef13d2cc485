//! Symbols that an ELF file exports, by name: found by its hash table, however many there
//! are.

use std::fs::File;

use object::LittleEndian as LE;
use object::elf;
use object::pod;

use crate::elf::Code;
use crate::elf::Elf;
use crate::elf::Source;
use crate::error::Error;

/// Most that is read of the dynamic section; one has some forty entries of 16 bytes.
const MAX_DYNAMIC: u64 = 1 << 20;

/// Symbols of one bucket; linkers aim at a few.
const MAX_CHAIN: u32 = 4096;

/// Longest name that is compared.
const MAX_NAME: usize = 256;

/// A symbol that a file exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export {
    /// The address that the file gives it.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// A file's exports, and what they hold before it runs.
#[derive(Debug)]
pub struct Exports<'a> {
    elf: Elf<'a>,
    hash: u64,
    symbols: u64,
    names: u64,
    buckets: u32,
    first: u32,
    bloom: u32,
}

impl<'a> Exports<'a> {
    /// Of a file with a hash table, which all linkers of today make.
    pub fn of(file: &'a File) -> Result<Self, Error> {
        Self::read_from(Source::file(file)?)
    }

    fn read_from(source: Source<'a>) -> Result<Self, Error> {
        let elf = Elf::open(source)?;
        let none = Error::Malformed("it has no hash table of symbols");
        let Some(segment) = elf.segments(elf::PT_DYNAMIC).next() else { return Err(none) };
        let (offset, size) = (segment.p_offset.get(LE), segment.p_filesz.get(LE));
        let dynamic = elf.source.read("dynamic section", offset, size, MAX_DYNAMIC)?;
        let count = dynamic.len() / size_of::<elf::Dyn64<LE>>();
        let entries = pod::slice_from_bytes::<elf::Dyn64<LE>>(&dynamic, count);
        let (entries, _) = entries.map_err(|()| Error::Malformed("its dynamic section"))?;
        let place = |tag| {
            let entry = entries.iter().find(|e| e.d_tag.get(LE) == tag)?;
            elf.offset_of(entry.d_val.get(LE)).map(|(offset, _)| offset)
        };
        let all = place(elf::DT_GNU_HASH).zip(place(elf::DT_SYMTAB)).zip(place(elf::DT_STRTAB));
        let Some(((hash, symbols), names)) = all else { return Err(none) };
        let mut new = Self { elf, hash, symbols, names, buckets: 0, first: 0, bloom: 0 };
        new.buckets = new.word(hash)?;
        new.first = new.word(hash + 4)?;
        new.bloom = new.word(hash + 8)?;
        Ok(new)
    }

    fn word(&self, offset: u64) -> Result<u32, Error> {
        self.bytes::<4>("table of symbols", offset).map(u32::from_le_bytes)
    }

    fn bytes<const N: usize>(&self, what: &'static str, offset: u64) -> Result<[u8; N], Error> {
        let bytes = self.elf.source.read(what, offset, N as u64, N as u64)?;
        bytes.as_ref().try_into().map_err(|_| Error::Truncated(what))
    }

    /// A symbol, if it is there and defined.
    pub fn find(&self, name: &str) -> Result<Option<Export>, Error> {
        let hash = name.bytes().fold(5381_u32, |h, b| h.wrapping_mul(33).wrapping_add(b.into()));
        if self.buckets == 0 || name.len() > MAX_NAME {
            return Ok(None);
        }
        let buckets = self.hash + 16 + u64::from(self.bloom) * 8;
        let chains = buckets + u64::from(self.buckets) * 4;
        let mut at = self.word(buckets + u64::from(hash % self.buckets) * 4)?;
        for _ in 0..MAX_CHAIN {
            let Some(place) = at.checked_sub(self.first) else { return Ok(None) };
            let found = self.word(chains + u64::from(place) * 4)?;
            if found | 1 == hash | 1
                && let Some(export) = self.symbol(at, name)?
            {
                return Ok(Some(export));
            }
            if found & 1 != 0 {
                return Ok(None);
            }
            at = at.saturating_add(1);
        }
        Ok(None)
    }

    fn symbol(&self, at: u32, name: &str) -> Result<Option<Export>, Error> {
        let bytes: [u8; 24] = self.bytes("symbol", self.symbols + u64::from(at) * 24)?;
        let Ok((symbol, _)) = pod::from_bytes::<elf::Sym64<LE>>(&bytes) else { return Ok(None) };
        let own = self.names.saturating_add(symbol.st_name.get(LE).into());
        let len = name.len() as u64 + 1;
        let own = self.elf.source.read("name of a symbol", own, len, len)?;
        let is_it = own.strip_prefix(name.as_bytes()) == Some(&[0]);
        let address = symbol.st_value.get(LE);
        Ok((is_it && address != 0).then(|| Export { address, size: symbol.st_size.get(LE) }))
    }

    /// What of the file is run.
    pub fn code(&self) -> Result<Vec<Code>, Error> {
        self.elf.code()
    }

    /// What the file has at an address.
    pub fn read<const N: usize>(&self, address: u64) -> Result<[u8; N], Error> {
        let Some((offset, left)) = self.elf.offset_of(address) else {
            return Err(Error::Malformed("a symbol is of no segment"));
        };
        if left < N as u64 {
            return Err(Error::Truncated("segment"));
        }
        self.bytes("segment", offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::process::Command;

    fn libc() -> std::path::PathBuf {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|l| l.contains("/libc.so.6")).unwrap();
        line[line.find('/').unwrap()..].into()
    }

    #[test]
    fn symbols_of_the_c_library_are_where_nm_has_them() {
        let path = libc();
        let out = Command::new("nm").args(["-D", "--defined-only", "-S"]).arg(&path).output();
        let out = String::from_utf8(out.unwrap().stdout).unwrap();
        // One that has several versions is several.
        let mut all: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
        for line in out.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [address, size, kind, name] = fields[..] else { continue };
            if kind != "A" {
                let hex = |s| u64::from_str_radix(s, 16).unwrap();
                let name = name.split('@').next().unwrap();
                all.entry(name).or_default().push((hex(address), hex(size)));
            }
        }
        assert!(all.len() > 1000, "{}", all.len());
        let file = File::open(&path).unwrap();
        let exports = Exports::of(&file).unwrap();
        for (name, places) in &all {
            let Some(found) = exports.find(name).unwrap() else { panic!("no {name}") };
            assert!(places.contains(&(found.address, found.size)), "{name}: {found:?}");
        }
        for name in ["", "malloc2", "_PyRuntime", &"x".repeat(1000)] {
            assert_eq!(exports.find(name).unwrap(), None, "{name}");
        }
    }

    #[test]
    fn any_change_of_a_file_is_an_answer_or_an_error() {
        let bytes = std::fs::read(libc()).unwrap();
        let exports = Exports::read_from(Source::Bytes(&bytes)).unwrap();
        let (hash, symbols) = (exports.hash as usize, exports.symbols as usize);
        let mut changed = bytes.clone();
        for at in (0..64).chain(hash..hash + 200).chain(symbols..symbols + 200) {
            for value in [0, 1, 0x7f, 0xff] {
                changed[at] = value;
                if let Ok(exports) = Exports::read_from(Source::Bytes(&changed)) {
                    for name in ["malloc", "free", "environ"] {
                        let _ = exports.find(name);
                    }
                }
            }
            changed[at] = bytes[at];
        }
        for len in [0, 63, 64, 1000, hash, hash + 12, symbols + 5] {
            let _ = Exports::read_from(Source::Bytes(&bytes[..len])).map(|e| e.find("malloc"));
        }
    }
}
