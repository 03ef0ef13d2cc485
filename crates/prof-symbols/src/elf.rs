//! What has to be known of an ELF file before a library is given it: how offsets become
//! addresses, which build it is, where its names are.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;

use object::Endianness;
use object::FileKind;
use object::ReadCache;
use object::ReadRef;
use object::elf;
use object::elf::FileHeader32;
use object::elf::FileHeader64;
use object::read::elf::FileHeader;
use object::read::elf::ProgramHeader as _;
use object::read::elf::SectionHeader as _;

/// Most of each that are looked at. Kernel modules have hundreds of sections, objects
/// from a compiler thousands; what is mapped has some forty.
const MAX_HEADERS: usize = 10_000;

/// Longest build id that is believed: SHA-1 has 20 bytes, the longest in use 32.
pub(crate) const MAX_BUILD_ID: usize = 64;

/// Go's linker: `NT_GO_BUILD_ID`. It writes four hashes as text, some 83 bytes.
const NT_GO_BUILD_ID: elf::NoteType = elf::NoteType(4);
const MAX_GO_ID: usize = 128;

/// A part of the file that is mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    offset: u64,
    file_size: u64,
    address: u64,
    executable: bool,
}

/// A section, where it has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    /// Its name.
    pub name: String,
    /// Where its content is in the file; empty if it has none there.
    pub file: Range<u64>,
    /// Where it is in memory; empty if it is not.
    pub memory: Range<u64>,
    /// Whether its flags say that it is compressed.
    pub compressed: bool,
    /// Where in the file its header is, which begins with the name's offset.
    pub header_at: u64,
}

/// What is known of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Elf {
    segments: Vec<Segment>,
    /// Named sections, in the file's order.
    pub sections: Vec<Section>,
    /// GNU build id, or Go's where there is no other; empty if there is none.
    pub build_id: Vec<u8>,
    /// Whether it is of 64 bits.
    pub is_64: bool,
    /// Whether numbers have their upper end first.
    pub big_endian: bool,
}

/// A descriptor with a position of its own: that of the one we were given is shared
/// with whoever holds it.
pub(crate) fn reopen(file: BorrowedFd<'_>) -> io::Result<File> {
    let stat = rustix::fs::fstat(file)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

impl Elf {
    /// Reads the headers.
    pub fn read(file: &File) -> Result<Self, String> {
        let cache = ReadCache::new(file);
        let kind = FileKind::parse(&cache).map_err(|_| "not an ELF file".to_owned())?;
        let read = match kind {
            FileKind::Elf32 => Self::parse::<FileHeader32<Endianness>, _>(&cache),
            FileKind::Elf64 => Self::parse::<FileHeader64<Endianness>, _>(&cache),
            _ => return Err("not an ELF file".to_owned()),
        };
        read.map_err(|e| format!("a broken ELF file: {e}"))
    }

    fn parse<'d, E, R>(data: R) -> object::Result<Self>
    where
        E: FileHeader<Endian = Endianness>,
        R: ReadRef<'d>,
    {
        let header = E::parse(data)?;
        let endian = header.endian()?;
        let mut this = Self {
            is_64: header.is_type_64(),
            big_endian: header.is_big_endian(),
            ..Self::default()
        };
        let mut go_id = Vec::new();
        for p in header.program_headers(endian, data)?.iter().take(MAX_HEADERS) {
            match p.p_type(endian) {
                elf::PT_LOAD => this.segments.push(Segment {
                    offset: p.p_offset(endian).into(),
                    file_size: p.p_filesz(endian).into(),
                    address: p.p_vaddr(endian).into(),
                    executable: p.p_flags(endian).contains(elf::PF_X),
                }),
                elf::PT_NOTE => {
                    if let Ok(Some(mut notes)) = p.notes(endian, data) {
                        while let Ok(Some(n)) = notes.next() {
                            this.note(n.n_type(endian), n.name(), n.desc());
                            let is_go = n.n_type(endian) == NT_GO_BUILD_ID && n.name() == b"Go";
                            if is_go && go_id.is_empty() && n.desc().len() <= MAX_GO_ID {
                                go_id = n.desc().to_vec();
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        // Without section headers there are no names, but offsets and a build id.
        let Ok(sections) = header.sections(endian, data) else {
            this.or_id(go_id);
            return Ok(this);
        };
        let at: u64 = header.e_shoff(endian).into();
        let each = u64::from(header.e_shentsize(endian));
        for (i, s) in sections.enumerate().take(MAX_HEADERS) {
            let Ok(name) = sections.section_name(endian, s) else { continue };
            let (offset, size) = s.file_range(endian).unwrap_or((0, 0));
            let start = s.sh_addr(endian).into();
            let in_memory = s.sh_flags(endian).contains(elf::SHF_ALLOC);
            let length = if in_memory { s.sh_size(endian).into() } else { 0_u64 };
            this.sections.push(Section {
                name: String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned(),
                file: offset..offset.saturating_add(size),
                memory: start..start.saturating_add(length),
                compressed: s.sh_flags(endian).contains(elf::SHF_COMPRESSED),
                header_at: at.saturating_add((i.0 as u64).saturating_mul(each)),
            });
            if this.build_id.is_empty()
                && name == b".note.gnu.build-id"
                && let Ok(Some(mut notes)) = s.notes(endian, data)
            {
                while let Ok(Some(n)) = notes.next() {
                    this.note(n.n_type(endian), n.name(), n.desc());
                }
            }
        }
        this.or_id(go_id);
        Ok(this)
    }

    /// Takes another id where there is none.
    fn or_id(&mut self, other: Vec<u8>) {
        if self.build_id.is_empty() {
            self.build_id = other;
        }
    }

    fn note(&mut self, kind: elf::NoteType, name: &[u8], value: &[u8]) {
        let is_id = kind == elf::NT_GNU_BUILD_ID && name == b"GNU" && value.len() <= MAX_BUILD_ID;
        if is_id && self.build_id.is_empty() {
            self.build_id = value.to_vec();
        }
    }

    /// The address that the file gives the code at this offset. Where there is no code
    /// there is no name: linkers leave DWARF and symbols of what they dropped at 0.
    pub fn address(&self, offset: u64) -> Option<u64> {
        let within = |s: &Segment| offset.checked_sub(s.offset).filter(|o| *o < s.file_size);
        let code = self.segments.iter().filter(|s| s.executable);
        code.filter_map(|s| s.address.checked_add(within(s)?)).next()
    }

    /// Whether its code is in it: a debug file has none.
    pub fn has_code(&self) -> bool {
        self.segments.iter().any(|s| s.executable && s.file_size > 0)
    }

    /// A section by its name, if it has content in the file.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name && !s.file.is_empty())
    }

    /// The name of the section that an address is in.
    pub fn section_at(&self, address: u64) -> Option<&str> {
        self.sections.iter().find(|s| s.memory.contains(&address)).map(|s| s.name.as_str())
    }

    /// File name and checksum of `.gnu_debuglink`. A name, not a path: what is in the
    /// file shall not lead anywhere.
    pub fn debug_link(&self, file: &File) -> Option<(String, u32)> {
        let (name, bytes) = self.link(file, ".gnu_debuglink")?;
        // Behind the name, filled up to four bytes.
        let sum = bytes.get((name.len() + 4) & !3..)?.first_chunk()?;
        let is_name = !name.contains('/') && name != "." && name != "..";
        let sum = if self.big_endian { u32::from_be_bytes(*sum) } else { u32::from_le_bytes(*sum) };
        is_name.then_some((name, sum))
    }

    /// Path and build id of `.gnu_debugaltlink`: the file that has what this one and
    /// others have in common.
    pub fn shared_link(&self, file: &File) -> Option<(String, Vec<u8>)> {
        let (path, bytes) = self.link(file, ".gnu_debugaltlink")?;
        let id = bytes.get(path.len() + 1..)?;
        (!id.is_empty() && id.len() <= MAX_BUILD_ID).then(|| (path, id.to_vec()))
    }

    /// What a section begins with, to the first NUL, and all of the section.
    fn link(&self, file: &File, section: &str) -> Option<(String, Vec<u8>)> {
        let section = self.section(section)?;
        let len = usize::try_from(section.file.end - section.file.start).ok()?;
        // Linux has no longer paths.
        let mut bytes = vec![0; len.min(4096 + MAX_BUILD_ID)];
        file.read_exact_at(&mut bytes, section.file.start).ok()?;
        let end = bytes.iter().position(|b| *b == 0)?;
        let name = str::from_utf8(bytes.get(..end)?).ok()?.to_owned();
        (!name.is_empty()).then_some((name, bytes))
    }
}
