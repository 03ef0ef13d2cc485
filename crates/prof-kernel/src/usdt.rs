//! The places where a program asks for its own profiling, found in its ELF file.
//!
//! `prof-api` and `include/prof.h` put them there, with a note for each in
//! `.note.stapsdt`. The file is anybody's and this program has privileges, so only
//! headers, names and notes are read, each up to a limit, into memory of its own: a
//! mapped file could be cut short under the reader. What a note says is believed only
//! where it leads to a `nop` in code and a counter in writable data of the same file.
//!
//! A file system can make a read of it wait, such as one over a network: not to be
//! called where nothing may wait.

use std::error;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use object::LittleEndian as LE;
use object::elf;
use object::pod;
use object::read::elf::NoteIterator;
use rustix::fs::Mode;
use rustix::fs::OFlags;

type Header = elf::FileHeader64<LE>;
type Section = elf::SectionHeader64<LE>;
type Segment = elf::ProgramHeader64<LE>;

/// Most that is read of each of: section headers, their names, program headers, and
/// all notes together. An executable has some forty sections, and a note for each
/// probe of whatever provider, of less than a hundred bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Most probes of one file: four would do, but each file of a C program that was
/// linked with another `prof.h` may have its own.
const MAX_PROBES: usize = 256;

/// Longest description of arguments; those of `prof` have 13 bytes.
const MAX_ARGS: usize = 128;

/// Addresses below are of no code: there are the headers, or no memory at all.
const FIRST_CODE: u64 = 4096;

const NT_STAPSDT: u32 = 3;

/// The one of five bytes that may follow, which x86-64 kernels from 6.18 on turn into a
/// call, is not of use: see [`Regions`](crate::regions::Regions).
const X86_NOP: [u8; 1] = [0x90];
const A64_NOP: [u8; 4] = 0xd503_201f_u32.to_le_bytes();

/// Where a program of this machine has the address and the length of a name.
#[cfg(target_arch = "aarch64")]
const NAME_AND_LENGTH: &str = "8@x0 8@x1";
#[cfg(not(target_arch = "aarch64"))]
const NAME_AND_LENGTH: &str = "8@%rdi 8@%rsi";

/// What a program says at a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    /// Profiling of this process shall be on.
    Enable,
    /// Profiling of this process shall be off.
    Disable,
    /// A region of the thread begins; has its name as arguments.
    RegionBegin,
    /// The region of the thread that began last ends.
    RegionEnd,
}

impl Name {
    /// As it is written in the note.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::RegionBegin => "region_begin",
            Self::RegionEnd => "region_end",
        }
    }

    fn parse(name: &[u8]) -> Option<Self> {
        [Self::Enable, Self::Disable, Self::RegionBegin, Self::RegionEnd]
            .into_iter()
            .find(|n| n.as_str().as_bytes() == name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A place to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is said there.
    pub name: Name,
    /// Where in the file its `nop` is, as uprobes want it.
    pub file_offset: u64,
    /// Where in the file its semaphore is, as uprobes want it (`ref_ctr_offset`).
    pub semaphore_offset: Option<u64>,
    /// Where its arguments are, as written in the note; printable ASCII.
    pub args: String,
}

impl Probe {
    /// Whether its arguments are where the kernel half reads them on this machine.
    pub fn is_readable(&self) -> bool {
        match self.name {
            Name::RegionBegin => self.args == NAME_AND_LENGTH,
            Name::Enable | Name::Disable | Name::RegionEnd => true,
        }
    }
}

/// Why a file's probes are not known.
#[derive(Debug)]
pub enum Error {
    /// It cannot be read.
    Io(io::Error),
    /// It ends in the middle of this.
    Truncated(&'static str),
    /// It has more of this than is looked at.
    TooMuch(&'static str),
    /// It is not as an ELF file is.
    Malformed(&'static str),
    /// It has notes of probes, none of which leads to one.
    Astray,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => write!(f, "cannot read it: {e}"),
            Self::Truncated(what) => write!(f, "the file ends before its {what} do"),
            Self::TooMuch(what) => write!(f, "the file has more {what} than prof looks at"),
            Self::Malformed(what) => write!(f, "the file is damaged: {what}"),
            Self::Astray => f.write_str(
                "the file has notes of prof's probes, but there are none where they say: \
                 it was changed after it was linked",
            ),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io(e) => Some(e),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

/// The probes of `prof` in a program or shared library; none if it is something else.
pub fn find(path: &Path) -> Result<Vec<Probe>, Error> {
    open(path)?.map_or(Ok(Vec::new()), |file| find_in(&file))
}

/// Opens a program or shared library to look into it; `None` if it is no regular file.
pub fn open(path: &Path) -> Result<Option<File>, Error> {
    // To open a device may already do something, and that of a pipe wait.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
    let place = File::from(place);
    if !place.metadata()?.is_file() {
        return Ok(None);
    }
    Ok(Some(File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?))
}

/// The same in a file that is open.
pub fn find_in(file: &File) -> Result<Vec<Probe>, Error> {
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() < size_of::<Header>() as u64 {
        return Ok(Vec::new());
    }
    let elf = Elf { file, len: meta.len() };
    let header = elf.read("headers", 0, size_of::<Header>() as u64)?;
    let Ok((header, _)) = pod::from_bytes::<Header>(&header) else {
        return Ok(Vec::new());
    };
    let Some(nop) = nop_of(header) else {
        return Ok(Vec::new());
    };
    let found = elf.notes(header)?;
    if found.notes.is_empty() {
        return Ok(Vec::new());
    }
    let segments = elf.table::<Segment>(
        "program headers",
        header.e_phoff.get(LE),
        u64::from(header.e_phnum.get(LE)),
        header.e_phentsize.get(LE),
    )?;
    let mut probes = Vec::new();
    let mut astray = false;
    for note in described(&found)? {
        // Linkers leave notes of code that they threw away, as if it began at 0.
        let thrown_away = note.location < FIRST_CODE;
        match elf.probe(note, &segments, nop)? {
            // Not attached to twice, or it would count twice.
            Some(probe) if !probes.contains(&probe) => probes.push(probe),
            Some(_) => {}
            None => astray |= !thrown_away,
        }
    }
    if astray && probes.is_empty() { Err(Error::Astray) } else { Ok(probes) }
}

/// What a probe's place has in it, if this is a program of a machine that has probes.
fn nop_of(header: &Header) -> Option<&'static [u8]> {
    let ident = &header.e_ident;
    let kind = header.e_type.get(LE);
    if ident.magic != elf::ELFMAG
        || ident.class != elf::ELFCLASS64
        || ident.data != elf::ELFDATA2LSB
        || (kind != elf::ET_EXEC && kind != elf::ET_DYN)
    {
        return None;
    }
    match header.e_machine.get(LE) {
        elf::EM_X86_64 => Some(&X86_NOP),
        elf::EM_AARCH64 => Some(&A64_NOP),
        _ => None,
    }
}

struct Elf<'a> {
    file: &'a File,
    len: u64,
}

/// The notes' sections, and what they were written against.
struct Notes {
    notes: Vec<(u64, Vec<u8>)>,
    base: Option<u64>,
}

/// What a note says, addresses corrected.
struct Note {
    name: Name,
    location: u64,
    semaphore: u64,
    args: String,
}

impl Elf<'_> {
    fn read(&self, what: &'static str, offset: u64, size: u64) -> Result<Vec<u8>, Error> {
        if size > MAX_BYTES {
            return Err(Error::TooMuch(what));
        }
        if offset.checked_add(size).is_none_or(|end| end > self.len) {
            return Err(Error::Truncated(what));
        }
        let mut bytes = vec![0; size as usize];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            // Cut short since its length was asked for.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(Error::Truncated(what)),
            Err(e) => Err(Error::Io(e)),
        }
    }

    fn table<T: pod::Pod + Copy>(
        &self,
        what: &'static str,
        offset: u64,
        count: u64,
        entry: u16,
    ) -> Result<Vec<T>, Error> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if usize::from(entry) != size_of::<T>() {
            return Err(Error::Malformed("entries of a table of headers have another size"));
        }
        let bytes = self.read(what, offset, count * size_of::<T>() as u64)?;
        let table = pod::slice_from_all_bytes(&bytes);
        table.map(<[T]>::to_vec).map_err(|()| Error::Malformed("a table of headers"))
    }

    /// The sections that have notes of probes.
    fn notes(&self, header: &Header) -> Result<Notes, Error> {
        let mut found = Notes { notes: Vec::new(), base: None };
        let offset = header.e_shoff.get(LE);
        let count = u64::from(header.e_shnum.get(LE));
        if offset == 0 {
            return Ok(found);
        }
        // With 65,280 sections or more the number is elsewhere.
        if count == 0 {
            return Err(Error::TooMuch("sections"));
        }
        let entry = header.e_shentsize.get(LE);
        let sections = self.table::<Section>("section headers", offset, count, entry)?;
        let Some(names) = sections.get(usize::from(header.e_shstrndx.get(LE).0)) else {
            return Err(Error::Malformed("its sections have no names"));
        };
        let names =
            self.read("names of sections", names.sh_offset.get(LE), names.sh_size.get(LE))?;
        let mut total = 0u64;
        for section in &sections {
            let kind = section.sh_type.get(LE);
            let name = usize::try_from(section.sh_name.get(LE)).unwrap_or(usize::MAX);
            let name = names.get(name..).unwrap_or_default();
            if kind == elf::SHT_NOTE && name.starts_with(b".note.stapsdt\0") {
                let size = section.sh_size.get(LE);
                total = total.saturating_add(size);
                if total > MAX_BYTES {
                    return Err(Error::TooMuch("notes"));
                }
                let bytes = self.read("notes", section.sh_offset.get(LE), size)?;
                found.notes.push((section.sh_addralign.get(LE), bytes));
            } else if kind == elf::SHT_PROGBITS && name.starts_with(b".stapsdt.base\0") {
                found.base = Some(section.sh_addr.get(LE));
            }
        }
        Ok(found)
    }

    /// The probe that a note leads to, if it leads to one.
    fn probe(&self, note: Note, segments: &[Segment], nop: &[u8]) -> Result<Option<Probe>, Error> {
        let Some(offset) = self.offset(segments, note.location, nop.len(), elf::PF_X) else {
            return Ok(None);
        };
        let size = (self.len - offset).min(nop.len() as u64);
        if self.read("code", offset, size)? != nop {
            return Ok(None);
        }
        let semaphore_offset = match note.semaphore {
            0 => None,
            address => match self.offset(segments, address, size_of::<u16>(), elf::PF_W) {
                // The kernel takes no other.
                Some(offset) if offset.is_multiple_of(2) => Some(offset),
                _ => return Ok(None),
            },
        };
        Ok(Some(Probe { name: note.name, file_offset: offset, semaphore_offset, args: note.args }))
    }

    /// Where in the file those bytes are, if such memory is made of the file.
    fn offset(
        &self,
        segments: &[Segment],
        address: u64,
        size: usize,
        access: elf::ProgramFlags,
    ) -> Option<u64> {
        segments.iter().find_map(|segment| {
            if segment.p_type.get(LE) != elf::PT_LOAD || !segment.p_flags.get(LE).contains(access) {
                return None;
            }
            let into = address.checked_sub(segment.p_vaddr.get(LE))?;
            if into.checked_add(size as u64)? > segment.p_filesz.get(LE) {
                return None;
            }
            let offset = segment.p_offset.get(LE).checked_add(into)?;
            (offset.checked_add(size as u64)? <= self.len).then_some(offset)
        })
    }
}

/// What the notes of `prof` say.
fn described(found: &Notes) -> Result<Vec<Note>, Error> {
    let mut described = Vec::new();
    for (align, bytes) in &found.notes {
        let notes = NoteIterator::<Header>::new(LE, *align, bytes)
            .map_err(|_| Error::Malformed("alignment of notes"))?;
        for note in notes {
            let note = note.map_err(|_| Error::Malformed("a note is longer than its section"))?;
            if note.name() != b"stapsdt" || note.n_type(LE).0 != NT_STAPSDT {
                continue;
            }
            if let Some(note) = describe(note.desc(), found.base)? {
                if described.len() == MAX_PROBES {
                    return Err(Error::TooMuch("probes"));
                }
                described.push(note);
            }
        }
    }
    Ok(described)
}

fn describe(mut desc: &[u8], base_now: Option<u64>) -> Result<Option<Note>, Error> {
    const SHORT: Error = Error::Malformed("a note ends too early");
    let mut number = || -> Result<u64, Error> {
        let (bytes, rest) = desc.split_first_chunk().ok_or(SHORT)?;
        desc = rest;
        Ok(u64::from_le_bytes(*bytes))
    };
    let (location, base, semaphore) = (number()?, number()?, number()?);
    let mut texts = desc.split(|b| *b == 0);
    let mut text = || texts.next().ok_or(SHORT);
    let (provider, name, args) = (text()?, text()?, text()?);
    if provider != b"prof" {
        return Ok(None);
    }
    // Of a later version of the crate; nothing here could make use of it.
    let Some(name) = Name::parse(name) else { return Ok(None) };
    if args.len() > MAX_ARGS || !args.iter().all(|b| matches!(b, b' '..=b'~')) {
        return Err(Error::Malformed("arguments of a probe"));
    }
    // A prelinked file has its addresses moved, but not those in notes. Linkers may
    // throw the base away: it is then 0, and nothing is known to have moved.
    let moved = match base_now {
        Some(now) if base != 0 => now.wrapping_sub(base),
        _ => 0,
    };
    Ok(Some(Note {
        name,
        location: location.wrapping_add(moved),
        semaphore: if semaphore == 0 { 0 } else { semaphore.wrapping_add(moved) },
        args: String::from_utf8_lossy(args).into_owned(),
    }))
}
