//! The table of a file.

use std::borrow::Cow;
use std::fs::File;

use gimli::BaseAddresses;
use gimli::EhFrameHdr;
use gimli::EndianSlice;
use gimli::LittleEndian;
use gimli::Pointer;
use object::LittleEndian as LE;
use object::elf;

use crate::arm64_vdso;
use crate::cfi::Ends;
use crate::cfi::Reader;
use crate::elf::Arch;
use crate::elf::Code;
use crate::elf::Elf;
use crate::elf::Place;
use crate::elf::Sections;
use crate::elf::Source;
use crate::error::Error;
use crate::go;
use crate::holes;
use crate::pages;
use crate::rule::RuleSet;
use crate::v8;

/// A page is of so many bits of a file offset.
pub const PAGE_BITS: u32 = 16;

/// Bytes of a file that a page is of.
pub const PAGE_SIZE: u64 = 1 << PAGE_BITS;

/// From here on in its page, this rule holds. The layout is that of the kernel half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Row {
    /// The low 16 bits of the file offset.
    pub pc_low: u16,
    /// A number of [`RuleSet`].
    pub rule: u16,
}

const _: () = assert!(size_of::<Row>() == 4 && std::mem::offset_of!(Row, rule) == 2);

impl Row {
    /// As it lies in memory, in the byte order of this machine.
    pub fn as_bytes(&self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.pc_low.to_ne_bytes(), self.rule.to_ne_bytes());
        [a, b, c, d]
    }
}

/// What a file may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the file.
    pub file: u64,
    /// Bytes of the section that is read.
    pub section: u64,
    /// Functions (FDEs).
    pub functions: u64,
    /// Rows.
    pub rows: u64,
    /// Call frame instructions that are worked out.
    pub instructions: u64,
}

impl Default for Limits {
    /// More than the largest browsers should have. A file that goes to all of these limits
    /// takes some 400 MB, by the sizes of what is kept of each.
    fn default() -> Self {
        Self {
            file: 8 << 30,
            section: 128 << 20,
            functions: 2 << 20,
            rows: 16 << 20,
            instructions: 64 << 20,
        }
    }
}

/// Why a row says only that there is no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refused {
    /// The CFA follows from another register.
    CfaRegister = 0,
    /// The CFA is an expression of another form.
    CfaExpression = 1,
    /// An offset that does not fit.
    Offset = 2,
    /// The return address is elsewhere.
    ReturnAddress = 3,
    /// Instructions that are unknown, cut off, or make no sense.
    Instruction = 4,
    /// A signal's frame of another layout than the kernel's.
    Signal = 5,
    /// The set of rules is full.
    Full = 6,
}

impl Refused {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CfaRegister,
        Self::CfaExpression,
        Self::Offset,
        Self::ReturnAddress,
        Self::Instruction,
        Self::Signal,
        Self::Full,
    ];

    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CfaRegister => "frame found by another register",
            Self::CfaExpression => "frame found by an expression",
            Self::Offset => "offset does not fit",
            Self::ReturnAddress => "return address is elsewhere",
            Self::Instruction => "instruction unknown or senseless",
            Self::Signal => "signal frame of another layout",
            Self::Full => "no room for more rules",
        }
    }
}

/// How many rows were refused, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefusedCounts([u64; Refused::ALL.len()]);

impl RefusedCounts {
    pub(crate) fn count(&mut self, refused: Refused) {
        self.0[refused as usize] += 1;
    }

    /// Those of a reason.
    pub fn of(&self, refused: Refused) -> u64 {
        self.0[refused as usize]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What was found in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Functions (FDEs) of its code.
    pub functions: u64,
    /// Those of addresses where it has no code.
    pub elsewhere: u64,
    /// Those that could not be read.
    pub unreadable: u64,
    /// Rows that only say that there is no rule.
    pub refused: RefusedCounts,
    /// Rows that lose the frame pointer, as it is where rules cannot say.
    pub fp_lost: u64,
    /// Places that handlers of signals return to, known by their instructions.
    pub sigreturns: u64,
    /// Pieces of code without CFI that were read as they stand.
    pub plain: u64,
    /// Whether V8's builtins are in it, which were read instruction by instruction.
    pub v8: bool,
    /// Whether the outermost frame is known only by where the file is entered.
    pub entry: bool,
}

/// The build id of a file: GNU's, or Go's where there is no other; empty if it has none or
/// cannot be read.
pub fn build_id(file: &File) -> Vec<u8> {
    let elf = Source::file(file).and_then(Elf::open);
    elf.map(|elf| elf.notes().build_id).unwrap_or_default()
}

/// The table of a file: rows by file offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its machine.
    pub arch: Arch,
    /// Its build id, if it has one.
    pub build_id: Vec<u8>,
    /// Whether code that has no row keeps frame pointers: Go's does.
    pub frame_pointers: bool,
    /// What of it is run.
    pub code: Vec<Code>,
    /// What was found.
    pub stats: Stats,
    pub(crate) rows: Vec<Row>,
    /// Where the rows of each page begin, and where the last ones end.
    pub(crate) starts: Vec<u32>,
}

impl Table {
    /// Makes the table of an ELF file in memory.
    pub fn from_elf(data: &[u8], rules: &mut RuleSet, limits: &Limits) -> Result<Self, Error> {
        Self::make(Source::Bytes(data), rules, limits, None)
    }

    /// The same of a file, of which only what is needed is read.
    pub fn from_file(file: &File, rules: &mut RuleSet, limits: &Limits) -> Result<Self, Error> {
        Self::make(Source::file(file)?, rules, limits, None)
    }

    /// Of a file that says nothing of its code, and whose code is known to keep frame pointers.
    pub fn by_frame_pointers() -> Self {
        Self {
            arch: if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 },
            build_id: Vec::new(),
            frame_pointers: true,
            code: Vec::new(),
            stats: Stats::default(),
            rows: Vec::new(),
            // A page without rows.
            starts: vec![0, 0],
        }
    }

    /// Where the functions of a file are, as its unwind information has them: offset and
    /// size, ascending. Of a stripped file that is all that is known of them.
    pub fn functions(file: &File, limits: &Limits) -> Result<Vec<(u64, u32)>, Error> {
        let mut places = Vec::new();
        Self::make(Source::file(file)?, &mut RuleSet::new(), limits, Some(&mut places))?;
        places.sort_unstable();
        Ok(places)
    }

    fn make(
        source: Source<'_>,
        rules: &mut RuleSet,
        limits: &Limits,
        places: Option<&mut Vec<(u64, u32)>>,
    ) -> Result<Self, Error> {
        if source.len() > limits.file {
            return Err(Error::TooMuch("bytes", limits.file));
        }
        let elf = Elf::open(source)?;
        let code = elf.code()?;
        if code.is_empty() {
            return Err(Error::NoCfi("it has no code"));
        }
        let sections = elf.sections();
        let notes = elf.notes();
        let functions = [&b".gopclntab"[..], b".data.rel.ro.gopclntab"]
            .into_iter()
            .find_map(|name| sections.find(name));
        let go = notes.go || functions.is_some();
        let mut reader = Reader::new(elf.arch, &code, limits, rules);
        let missing = read_cfi(&elf, &sections, go, limits, &mut reader)?;
        let sigreturns = holes::sigreturns(&elf, &code, &mut reader);
        if let Some(why) = missing
            && !go
            && sigreturns == 0
        {
            return Err(Error::NoCfi(why));
        }
        // The kernel says where handlers return to, and nothing else.
        if missing.is_some() && sigreturns > 0 && elf.arch == Arch::Aarch64 {
            for (offset, size, rule) in arm64_vdso::rows(&elf, &sections, &code) {
                holes::add_unless_there(&mut reader, offset, size, rule);
            }
        }
        if let (Some((functions, false)), Some((text, _))) = (functions, sections.find(b".text")) {
            go::functions(&elf, &code, functions, text, &mut reader)?;
        }
        let entry = !go && holes::entry(&elf, &code, &mut reader);
        let v8 = missing.is_none() && v8::builtins(&elf, &code, &mut reader);
        let plain = match missing {
            None => holes::plain(&elf, &sections, &code, &mut reader),
            Some(_) => 0,
        };
        let Reader { stats, functions, steps, .. } = reader;
        let stats = Stats { sigreturns, entry, plain, v8, ..stats };
        let end = code.iter().map(|c| c.offset + c.size).max().unwrap_or_default();
        if let Some(places) = places {
            places.extend(functions.iter().map(|f| (f.offset, f.size)));
        }
        let (rows, starts) = pages::lay_out(functions, &steps, end, limits)?;
        Ok(Self {
            arch: elf.arch,
            build_id: notes.build_id,
            frame_pointers: go,
            code,
            stats,
            rows,
            starts,
        })
    }

    /// How many pages there are: up to the last byte of code.
    pub fn pages(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// The rows of a page: none, or the first has a `pc_low` of 0.
    pub fn page(&self, page: usize) -> &[Row] {
        let range = self.starts.get(page).zip(self.starts.get(page.saturating_add(1)));
        let rows = range.and_then(|(a, b)| self.rows.get(*a as usize..*b as usize));
        rows.unwrap_or_default()
    }

    /// Adds the rows of a page as they lie in memory, in the byte order of this machine.
    pub fn write_page(&self, page: usize, bytes: &mut Vec<u8>) {
        bytes.extend(self.page(page).iter().flat_map(Row::as_bytes));
    }

    /// How many rows there are.
    pub fn rows_total(&self) -> usize {
        self.rows.len()
    }

    /// The number of the rule that holds at a file offset.
    pub fn rule_at(&self, offset: u64) -> u16 {
        let rows = self.page(usize::try_from(offset >> PAGE_BITS).unwrap_or(usize::MAX));
        let pc_low = offset as u16;
        let after = rows.partition_point(|row| row.pc_low <= pc_low);
        after.checked_sub(1).and_then(|at| rows.get(at)).map_or(RuleSet::NONE, |row| row.rule)
    }

    /// Where in the file an address is that the file gives its code.
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        self.code.iter().find_map(|c| c.offset_of(address)).map(|(offset, _)| offset)
    }
}

const NO_SECTION: &str = "it has neither .eh_frame nor .debug_frame";

/// Reads what there is; why there is nothing, if so.
fn read_cfi(
    elf: &Elf<'_>,
    sections: &Sections,
    go: bool,
    limits: &Limits,
    reader: &mut Reader<'_>,
) -> Result<Option<&'static str>, Error> {
    let mut bases = BaseAddresses::default();
    if let Some((text, _)) = sections.find(b".text") {
        bases = bases.set_text(text.address);
    }
    if let Some((got, _)) = sections.find(b".got") {
        bases = bases.set_got(got.address);
    }
    if let Some((place, false)) = sections.find(b".eh_frame") {
        let data = part(elf, ".eh_frame", place, limits);
        if let Ok(data) = data {
            read_eh_frame(&data, place.address, &bases, Ends::Known, reader)?;
        } else if let Err(error @ (Error::TooMuch(..) | Error::Io(_))) = data {
            return Err(error);
        }
    }
    // Without section headers, or with wrong ones.
    if reader.functions.is_empty()
        && let Some((place, count)) = by_program_header(elf, &bases, limits)
    {
        let data = part(elf, ".eh_frame", place, limits)?;
        read_eh_frame(&data, place.address, &bases, Ends::After(count), reader)?;
    }
    if !reader.functions.is_empty() {
        return Ok(None);
    }
    // Go's own table says the same, and more.
    match sections.find(b".debug_frame") {
        Some((_, true)) => return Ok(Some("its .debug_frame is compressed")),
        Some((place, false)) if !go => {
            let data = part(elf, ".debug_frame", place, limits)?;
            let mut section = gimli::DebugFrame::from(EndianSlice::new(&data, LittleEndian));
            section.set_address_size(8);
            section.set_vendor(vendor(reader.arch()));
            reader.read(&section, &bases, Ends::Known)?;
        }
        _ => {}
    }
    Ok(reader.functions.is_empty().then(|| {
        if reader.stats.unreadable > 0 || reader.stats.elsewhere > 0 {
            "none of its entries is of its code"
        } else if sections.find(b".eh_frame").is_some() {
            "its .eh_frame has no entries"
        } else {
            NO_SECTION
        }
    }))
}

fn part<'a>(
    elf: &Elf<'a>,
    what: &'static str,
    place: Place,
    limits: &Limits,
) -> Result<Cow<'a, [u8]>, Error> {
    elf.source.read(what, place.offset, place.size, limits.section)
}

fn vendor(arch: Arch) -> gimli::Vendor {
    match arch {
        Arch::X86_64 => gimli::Vendor::Default,
        Arch::Aarch64 => gimli::Vendor::AArch64,
    }
}

fn read_eh_frame(
    data: &[u8],
    address: u64,
    bases: &BaseAddresses,
    ends: Ends,
    reader: &mut Reader<'_>,
) -> Result<(), Error> {
    let mut section = gimli::EhFrame::from(EndianSlice::new(data, LittleEndian));
    section.set_address_size(8);
    section.set_vendor(vendor(reader.arch()));
    reader.read(&section, &bases.clone().set_eh_frame(address), ends)
}

/// Where `.eh_frame` is by `PT_GNU_EH_FRAME`, at most to the end of its segment, and how
/// many functions there are.
fn by_program_header(
    elf: &Elf<'_>,
    bases: &BaseAddresses,
    limits: &Limits,
) -> Option<(Place, u64)> {
    let header = elf.segments(elf::PT_GNU_EH_FRAME).next()?;
    let address = header.p_vaddr.get(LE);
    let size = header.p_filesz.get(LE);
    // No more than the fields before the table.
    let data = elf.source.read(".eh_frame_hdr", header.p_offset.get(LE), size.min(64), 64).ok()?;
    let bases = bases.clone().set_eh_frame_hdr(address);
    let parsed = EhFrameHdr::new(&data, LittleEndian).parse(&bases, 8).ok()?;
    let Pointer::Direct(address) = parsed.eh_frame_ptr() else { return None };
    let (offset, left) = elf.offset_of(address)?;
    let count = fde_count(&data).unwrap_or(u64::MAX);
    Some((Place { address, offset, size: left.min(limits.section) }, count))
}

/// The number of functions where it is written as linkers do: 32 bits after a pointer of
/// 32 bits.
fn fde_count(data: &[u8]) -> Option<u64> {
    let (encodings, rest) = data.split_first_chunk::<4>()?;
    let (four_bytes, udata4) = (|e: u8| e & 0x0f == 0x0b || e & 0x0f == 0x03, 0x03);
    if !four_bytes(encodings[1]) || encodings[2] != udata4 {
        return None;
    }
    Some(u64::from(u32::from_le_bytes(*rest.get(4..)?.first_chunk()?)))
}
