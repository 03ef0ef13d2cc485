//! What an ELF file needs to be loaded: its interpreter and its libraries, by name.

use object::LittleEndian as LE;
use object::elf;
use object::pod;

use crate::elf::Arch;
use crate::elf::Elf;
use crate::elf::Source;
use crate::error::Error;

/// Most that is read of the dynamic section; one has some forty entries of 16 bytes.
const MAX_DYNAMIC: u64 = 1 << 20;

/// Most that is read of the names: C++ has megabytes of them.
const MAX_NAMES: u64 = 256 << 20;

/// Most names of libraries; a large desktop program has two hundred.
const MAX_NEEDED: usize = 4096;

/// Longest name or list of folders; a path has at most 4,096 bytes.
const MAX_NAME: u64 = 4096;

/// What an ELF file says of what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// Its machine.
    pub arch: Arch,
    /// The program that loads it, if it is a dynamic program.
    pub interpreter: Option<Vec<u8>>,
    /// Names of libraries (`DT_NEEDED`), in order.
    pub libraries: Vec<Vec<u8>>,
    /// Folders to look in first (`DT_RPATH`), unless there is a `runpath`.
    pub rpath: Option<Vec<u8>>,
    /// Folders to look in for its own libraries (`DT_RUNPATH`).
    pub runpath: Option<Vec<u8>>,
    /// Whether only these folders are looked in (`DF_1_NODEFLIB`).
    pub no_default: bool,
}

impl Needed {
    /// Of an ELF file in memory.
    pub fn from_elf(data: &[u8]) -> Result<Self, Error> {
        Self::read(Source::Bytes(data))
    }

    pub(crate) fn read(source: Source<'_>) -> Result<Self, Error> {
        Self::of(&Elf::open(source)?)
    }

    pub(crate) fn of(elf: &Elf<'_>) -> Result<Self, Error> {
        let mut needed = Self {
            arch: elf.arch,
            interpreter: None,
            libraries: Vec::new(),
            rpath: None,
            runpath: None,
            no_default: false,
        };
        if let Some(segment) = elf.segments(elf::PT_INTERP).next() {
            let (offset, size) = (segment.p_offset.get(LE), segment.p_filesz.get(LE));
            let name = elf.source.read("interpreter's name", offset, size, MAX_NAME)?;
            needed.interpreter = Some(text(&name).to_vec());
        }
        let Some(segment) = elf.segments(elf::PT_DYNAMIC).next() else { return Ok(needed) };
        let (offset, size) = (segment.p_offset.get(LE), segment.p_filesz.get(LE));
        let dynamic = elf.source.read("dynamic section", offset, size, MAX_DYNAMIC)?;
        let count = dynamic.len() / size_of::<elf::Dyn64<LE>>();
        let entries = pod::slice_from_bytes::<elf::Dyn64<LE>>(&dynamic, count);
        let (entries, _) = entries.map_err(|()| Error::Malformed("its dynamic section"))?;
        let entries = || {
            let all = entries.iter().map(|e| (e.d_tag.get(LE), e.d_val.get(LE)));
            all.take_while(|(tag, _)| *tag != elf::DT_NULL)
        };
        let value = |wanted| entries().find(|(tag, _)| *tag == wanted).map(|(_, value)| value);
        needed.no_default = value(elf::DT_FLAGS_1).is_some_and(|f| f & NODEFLIB != 0);
        let wants = [elf::DT_NEEDED, elf::DT_RPATH, elf::DT_RUNPATH];
        if !entries().any(|(tag, _)| wants.contains(&tag)) {
            return Ok(needed);
        }
        let (names, left) = value(elf::DT_STRTAB)
            .and_then(|address| elf.offset_of(address))
            .ok_or(Error::Malformed("the names of what it needs are nowhere"))?;
        let left = value(elf::DT_STRSZ).unwrap_or(left).min(left).min(MAX_NAMES);
        let name = |at: u64| -> Result<Vec<u8>, Error> {
            let left = left.checked_sub(at).filter(|left| *left > 0);
            let left = left.ok_or(Error::Malformed("a name of what it needs is nowhere"))?;
            let bytes = elf.source.read("names", names + at, left.min(MAX_NAME), MAX_NAME)?;
            Ok(text(&bytes).to_vec())
        };
        for (tag, at) in entries() {
            match tag {
                elf::DT_NEEDED if needed.libraries.len() == MAX_NEEDED => {
                    return Err(Error::TooMuch("libraries", MAX_NEEDED as u64));
                }
                elf::DT_NEEDED => needed.libraries.push(name(at)?),
                elf::DT_RPATH => needed.rpath = Some(name(at)?),
                elf::DT_RUNPATH => needed.runpath = Some(name(at)?),
                _ => {}
            }
        }
        if needed.runpath.is_some() {
            needed.rpath = None;
        }
        Ok(needed)
    }
}

/// `DF_1_NODEFLIB`.
const NODEFLIB: u64 = 0x800;

/// Up to the NUL.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}
