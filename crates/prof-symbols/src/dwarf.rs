//! Functions, inlined calls and lines from DWARF.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::io::Read;

use addr2line::Context;
use gimli::EndianSlice;
use gimli::RunTimeEndian;
use gimli::SectionId;
use prof_model::stacks::Function;

use crate::Named;
use crate::Options;
use crate::demangle;
use crate::elf::Elf;
use crate::elf::Section;
use crate::isolate;
use crate::wire;

type Reader = EndianSlice<'static, RunTimeEndian>;

/// How a compressed section begins, if its flags do not say that it is one.
const OLD_MAGIC: &[u8] = b"ZLIB";

/// The debug information of one file, and of the one that it shares with others.
pub(crate) struct Dwarf {
    context: Context<Reader>,
}

impl Dwarf {
    /// Maps the sections, or unpacks them into no more than `most` bytes each. For a
    /// process that ends soon: nothing is given back.
    pub fn load(
        file: &File,
        elf: &Elf,
        shared: Option<&(File, Elf)>,
        most: u64,
    ) -> Result<Self, String> {
        let cannot = |e: io::Error| format!("its debug information cannot be read: {e}");
        let mut dwarf =
            gimli::Dwarf::load(sections(file, elf, most).map_err(cannot)?).map_err(cannot)?;
        if let Some((file, elf)) = shared {
            dwarf.load_sup(sections(file, elf, most).map_err(cannot)?).map_err(cannot)?;
        }
        let context = Context::from_dwarf(dwarf)
            .map_err(|e| format!("its debug information is broken: {e}"))?;
        Ok(Self { context })
    }

    /// The functions at an address, innermost first; `symbol` is what the symbol table
    /// calls the outermost. `None` if there is nothing, or nothing that makes sense.
    pub fn name(&self, address: u64, symbol: Option<&str>, options: &Options) -> Option<Named> {
        let mut found = self.context.find_frames(address).skip_all_loads().ok()?;
        let mut frames = Vec::new();
        while let Some(frame) = found.next().ok()? {
            if frames.len() == wire::MAX_INLINED {
                // What called these is what matters more.
                frames.remove(0);
            }
            frames.push(frame);
        }
        let outermost = frames.len().checked_sub(1)?;
        let first = if options.inlines { 0 } else { outermost };
        let mut functions = Vec::with_capacity(frames.len());
        for (i, frame) in frames.into_iter().enumerate().skip(first) {
            let own = frame.function.as_ref().and_then(|f| f.raw_name().ok());
            let own = own.filter(|n| !n.is_empty());
            let name = if i == outermost {
                match (own, symbol) {
                    // DWARF has bare names of what has no name outside of its file:
                    // `add` for `(anonymous namespace)::Words::add(int)`.
                    (Some(own), Some(symbol))
                        if demangle::is_mangled(symbol) && !demangle::is_mangled(&own) =>
                    {
                        symbol.into()
                    }
                    (Some(own), _) => own,
                    (None, Some(symbol)) => symbol.into(),
                    (None, None) => return None,
                }
            } else {
                own.unwrap_or(Cow::Borrowed("??"))
            };
            let location = frame.location.as_ref();
            functions.push(Function {
                name: demangle::name(&name, options.demangle),
                file: location.and_then(|l| l.file).map(Into::into),
                line: location.and_then(|l| l.line).filter(|line| *line > 0),
            });
        }
        Some(Named { functions, unnamed: None })
    }
}

/// What gives each section of a file: an empty one if there is none.
fn sections(
    file: &File,
    elf: &Elf,
    most: u64,
) -> io::Result<impl FnMut(SectionId) -> io::Result<Reader>> {
    let bytes = isolate::map(file)?;
    let endian = if elf.big_endian { RunTimeEndian::Big } else { RunTimeEndian::Little };
    Ok(move |id: SectionId| {
        let old = || elf.section(&format!(".z{}", &id.name()[1..]));
        let content = match elf.section(id.name()).or_else(old) {
            Some(section) => content(bytes, elf, section, most)?,
            None => &[],
        };
        Ok(EndianSlice::new(content, endian))
    })
}

/// The content of a section, unpacked if it is compressed.
fn content(
    bytes: &'static [u8],
    elf: &Elf,
    section: &Section,
    most: u64,
) -> io::Result<&'static [u8]> {
    let broken = || io::Error::other(format!("{} is broken", section.name));
    let place = |at: u64| usize::try_from(at).map_err(|_| broken());
    let (start, end) = (place(section.file.start)?, place(section.file.end)?);
    let content = bytes.get(start..end).ok_or_else(broken)?;
    if section.compressed {
        // Type, in 64 bits something reserved, size, alignment.
        let header = if elf.is_64 { 24 } else { 12 };
        let (header, packed) = content.split_at_checked(header).ok_or_else(broken)?;
        let kind = header.first_chunk().ok_or_else(broken)?;
        let kind =
            if elf.big_endian { u32::from_be_bytes(*kind) } else { u32::from_le_bytes(*kind) };
        return match kind {
            1 => unpack(flate2::read::ZlibDecoder::new(packed), most),
            2 => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(packed);
                unpack(decoder.map_err(|_| broken())?, most)
            }
            _ => Err(io::Error::other(format!("{} is compressed in way {kind}", section.name))),
        };
    }
    if section.name.starts_with(".z") && content.starts_with(OLD_MAGIC) {
        // The size, in eight bytes.
        let packed = content.get(OLD_MAGIC.len() + 8..).ok_or_else(broken)?;
        return unpack(flate2::read::ZlibDecoder::new(packed), most);
    }
    Ok(content)
}

/// All of it, whatever size it says it has.
fn unpack(from: impl Read, most: u64) -> io::Result<&'static [u8]> {
    let mut content = Vec::new();
    from.take(most).read_to_end(&mut content)?;
    Ok(content.leak())
}
