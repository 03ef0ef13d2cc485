//! The parts of an ELF file that are needed here, read from memory or from the file.
//!
//! The file is anybody's: each part is read up to a limit. From a file, parts are read
//! rather than mapped, as a mapped file could be cut short under the reader; most of a
//! large one is never looked at.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use object::LittleEndian as LE;
use object::elf;
use object::pod;
use object::read::elf::NoteIterator;

use crate::error::Error;

pub(crate) type Header = elf::FileHeader64<LE>;
pub(crate) type Segment = elf::ProgramHeader64<LE>;
type Section = elf::SectionHeader64<LE>;

/// Most that is read of headers, of notes, and of names, each.
const MAX_HEADERS: u64 = 8 << 20;

/// Most segments that are run: each function is looked for in all. Linkers make one, what
/// rewrites a program adds some.
const MAX_CODE: usize = 64;

/// An id is of 20 bytes, or of 16; some tools write what they like.
const MAX_BUILD_ID: usize = 64;

/// Go's linker writes four hashes as text, some 83 bytes.
const MAX_GO_ID: usize = 128;

/// Go's linker: `NT_GO_BUILD_ID`.
const NT_GO_BUILD_ID: u32 = 4;

/// Where a file's bytes come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    Bytes(&'a [u8]),
    File(&'a File, u64),
}

impl<'a> Source<'a> {
    pub(crate) fn file(file: &'a File) -> Result<Self, Error> {
        Ok(Self::File(file, file.metadata()?.len()))
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    /// A part; `limit` is what may be taken of memory for it.
    pub(crate) fn read(
        &self,
        what: &'static str,
        offset: u64,
        size: u64,
        limit: u64,
    ) -> Result<Cow<'a, [u8]>, Error> {
        if size > limit {
            return Err(Error::TooMuch(what, limit));
        }
        let end = offset.checked_add(size).filter(|end| *end <= self.len());
        let Some(end) = end else { return Err(Error::Truncated(what)) };
        match self {
            Self::Bytes(bytes) => match bytes.get(offset as usize..end as usize) {
                Some(part) => Ok(Cow::Borrowed(part)),
                None => Err(Error::Truncated(what)),
            },
            Self::File(file, _) => {
                let mut part = vec![0; size as usize];
                match file.read_exact_at(&mut part, offset) {
                    Ok(()) => Ok(Cow::Owned(part)),
                    // Cut short since its length was asked for.
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                        Err(Error::Truncated(what))
                    }
                    Err(e) => Err(Error::Io(e)),
                }
            }
        }
    }

    fn table<T: pod::Pod + Copy>(
        &self,
        what: &'static str,
        offset: u64,
        count: u16,
        entry: u16,
    ) -> Result<Vec<T>, Error> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if usize::from(entry) != size_of::<T>() {
            return Err(Error::Malformed("entries of a table of headers have another size"));
        }
        let size = u64::from(count) * size_of::<T>() as u64;
        let bytes = self.read(what, offset, size, MAX_HEADERS)?;
        let table = pod::slice_from_all_bytes(&bytes);
        table.map(<[T]>::to_vec).map_err(|()| Error::Malformed("a table of headers"))
    }
}

/// The machines that stacks can be unwound of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    /// x86-64.
    X86_64,
    /// arm64.
    Aarch64,
}

/// A part of the file that is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// The address that the file gives its first byte.
    pub address: u64,
    /// Where in the file that byte is.
    pub offset: u64,
    /// How many bytes.
    pub size: u64,
}

impl Code {
    /// Where in the file an address is, and how many bytes follow in this part.
    pub fn offset_of(&self, address: u64) -> Option<(u64, u64)> {
        let into = address.checked_sub(self.address)?;
        (into < self.size).then(|| (self.offset + into, self.size - into))
    }
}

#[derive(Debug)]
pub(crate) struct Elf<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) arch: Arch,
    header: Header,
    segments: Vec<Segment>,
}

/// A section's address, and where it is in the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// Sections by name. Whatever is wrong with them, there are none: what is loaded does
/// not need them.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    headers: Vec<Section>,
    names: Vec<u8>,
}

impl Sections {
    /// Whether a section has this name. No more is looked at: thousands of sections could
    /// share one name of megabytes.
    fn is_named(&self, section: &Section, name: &[u8]) -> bool {
        let start = usize::try_from(section.sh_name.get(LE)).unwrap_or(usize::MAX);
        let after = self.names.get(start..).and_then(|own| own.strip_prefix(name));
        after.is_some_and(|after| after.first() == Some(&0))
    }

    /// Of those that have bytes in the file, the first of this name; and whether these
    /// are compressed.
    pub(crate) fn find(&self, name: &[u8]) -> Option<(Place, bool)> {
        self.headers
            .iter()
            .find(|s| {
                let kind = s.sh_type.get(LE);
                kind != elf::SHT_NOBITS && kind != elf::SHT_NULL && self.is_named(s, name)
            })
            .map(|s| {
                let place = Place {
                    address: s.sh_addr.get(LE),
                    offset: s.sh_offset.get(LE),
                    size: s.sh_size.get(LE),
                };
                (place, s.sh_flags.get(LE).contains(elf::SHF_COMPRESSED))
            })
    }
}

/// What notes say.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// GNU's, or Go's where there is no other.
    pub(crate) build_id: Vec<u8>,
    pub(crate) go: bool,
}

impl<'a> Elf<'a> {
    pub(crate) fn open(source: Source<'a>) -> Result<Self, Error> {
        let header = source.read("headers", 0, source.len().min(64), 64)?;
        if !header.starts_with(&elf::ELFMAG) {
            return Err(Error::NotElf);
        }
        let Ok((header, _)) = pod::from_bytes::<Header>(&header) else {
            return Err(Error::Truncated("headers"));
        };
        let header = *header;
        if header.e_ident.class != elf::ELFCLASS64 {
            return Err(Error::Class);
        }
        if header.e_ident.data != elf::ELFDATA2LSB {
            return Err(Error::BigEndian);
        }
        let arch = match header.e_machine.get(LE) {
            elf::EM_X86_64 => Arch::X86_64,
            elf::EM_AARCH64 => Arch::Aarch64,
            other => return Err(Error::Machine(other.0)),
        };
        let kind = header.e_type.get(LE);
        if kind != elf::ET_EXEC && kind != elf::ET_DYN {
            return Err(Error::Kind(kind.0));
        }
        let segments = source.table(
            "program headers",
            header.e_phoff.get(LE),
            header.e_phnum.get(LE),
            header.e_phentsize.get(LE),
        )?;
        Ok(Self { source, arch, header, segments })
    }

    /// Whether it is a program for fixed addresses.
    pub(crate) fn is_fixed(&self) -> bool {
        self.header.e_type.get(LE) == elf::ET_EXEC
    }

    /// The address that is run first.
    pub(crate) fn entry(&self) -> u64 {
        self.header.e_entry.get(LE)
    }

    /// The segments of a kind.
    pub(crate) fn segments(&self, kind: elf::ProgramType) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(move |s| s.p_type.get(LE) == kind)
    }

    /// What is run, as far as the file has it.
    pub(crate) fn code(&self) -> Result<Vec<Code>, Error> {
        let loads = self.segments(elf::PT_LOAD);
        let run = loads.filter(|s| s.p_flags.get(LE).contains(elf::PF_X));
        let code = run.filter_map(|s| {
            let (address, offset) = (s.p_vaddr.get(LE), s.p_offset.get(LE));
            let size = s.p_filesz.get(LE).min(self.source.len().checked_sub(offset)?);
            let size = size.min(u64::MAX - address);
            (size > 0).then_some(Code { address, offset, size })
        });
        let code: Vec<_> = code.take(MAX_CODE + 1).collect();
        if code.len() > MAX_CODE {
            return Err(Error::TooMuch("executable segments", MAX_CODE as u64));
        }
        Ok(code)
    }

    /// Where in the file an address of a loaded segment is, and how many bytes of the
    /// segment follow.
    pub(crate) fn offset_of(&self, address: u64) -> Option<(u64, u64)> {
        self.segments(elf::PT_LOAD).find_map(|s| {
            let into = address.checked_sub(s.p_vaddr.get(LE))?;
            let left = s.p_filesz.get(LE).checked_sub(into).filter(|left| *left > 0)?;
            let offset = s.p_offset.get(LE).checked_add(into)?;
            let left = left.min(self.source.len().checked_sub(offset)?);
            (left > 0).then_some((offset, left))
        })
    }

    pub(crate) fn sections(&self) -> Sections {
        self.read_sections().unwrap_or_default()
    }

    fn read_sections(&self) -> Option<Sections> {
        let header = &self.header;
        let headers = self.source.table::<Section>(
            "section headers",
            header.e_shoff.get(LE),
            header.e_shnum.get(LE),
            header.e_shentsize.get(LE),
        );
        let headers = headers.ok()?;
        let names = headers.get(usize::from(header.e_shstrndx.get(LE).0))?;
        let (offset, size) = (names.sh_offset.get(LE), names.sh_size.get(LE));
        let names = self.source.read("names of sections", offset, size, MAX_HEADERS).ok()?;
        Some(Sections { headers, names: names.into_owned() })
    }

    /// Notes are a help, not a need: what is damaged of them is not there.
    pub(crate) fn notes(&self) -> Notes {
        let mut found = Notes::default();
        let mut go_id = Vec::new();
        let mut left = MAX_HEADERS;
        for segment in self.segments(elf::PT_NOTE) {
            let (offset, size) = (segment.p_offset.get(LE), segment.p_filesz.get(LE));
            let Ok(bytes) = self.source.read("notes", offset, size, left) else { continue };
            left -= size;
            let align = segment.p_align.get(LE);
            let Ok(notes) = NoteIterator::<Header>::new(LE, align, &bytes) else { continue };
            for note in notes.map_while(Result::ok) {
                let kind = note.n_type(LE);
                if note.name() == b"GNU" && kind == elf::NT_GNU_BUILD_ID {
                    if found.build_id.is_empty() && note.desc().len() <= MAX_BUILD_ID {
                        found.build_id = note.desc().to_vec();
                    }
                } else if note.name() == b"Go" && kind.0 == NT_GO_BUILD_ID {
                    found.go = true;
                    if go_id.is_empty() && note.desc().len() <= MAX_GO_ID {
                        go_id = note.desc().to_vec();
                    }
                }
            }
        }
        if found.build_id.is_empty() {
            found.build_id = go_id;
        }
        found
    }
}
