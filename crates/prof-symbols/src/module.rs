//! Names of one ELF file: the part that runs in a process of its own.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use blazesym::symbolize;
use blazesym::symbolize::Input;
use blazesym::symbolize::Sym;
use blazesym::symbolize::Symbolized;
use prof_model::stacks::Function;
use prof_model::stacks::Part;
use rustix::fs::MemfdFlags;

use crate::Address;
use crate::Named;
use crate::Options;
use crate::Source;
use crate::debug_file;
use crate::demangle;
use crate::dwarf::Dwarf;
use crate::elf;
use crate::elf::Elf;
use crate::plt;
use crate::wire::Sender;

/// Addresses between two flushes: what is lost at most if the next one is not survived.
const BATCH: usize = 64;

/// Symbols, compressed with xz. Unpacked here, as blazesym needs a C library for it.
const MINI: &str = ".gnu_debugdata";

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// DWARF, symbols, compressed symbols.
    All,
    /// Symbol tables as they are in the file.
    Symbols,
}

/// A file that has names.
struct Names {
    file: File,
    elf: Elf,
    /// What it shares with others.
    shared: Option<(File, Elf)>,
}

/// Addresses that have no name yet, with their places.
pub(crate) type Waiting = Vec<(usize, u64)>;

/// Sends a name or a reason for each of the addresses that are wanted.
pub(crate) fn name(
    source: &Source<'_>,
    addresses: &[Address],
    wanted: &[usize],
    depth: Depth,
    options: &Options,
    out: &mut Sender,
) {
    if let Err(why) = try_name(source, addresses, wanted, depth, options, out) {
        for at in wanted {
            out.send(*at, Named::unnamed(why.as_str()));
        }
    }
}

fn try_name(
    source: &Source<'_>,
    addresses: &[Address],
    wanted: &[usize],
    depth: Depth,
    options: &Options,
    out: &mut Sender,
) -> Result<(), String> {
    let cannot = |e: io::Error| format!("the file cannot be read: {e}");
    let (file, path) = match source {
        Source::File { file, path, .. } => (elf::reopen(*file).map_err(cannot)?, Some(*path)),
        Source::Image(bytes) => (in_memory(&mut &bytes[..]).map_err(cannot)?, None),
        Source::PerfMap(_) | Source::JitDump { .. } => {
            return Err("names of generated code are in no ELF file".to_owned());
        }
    };
    let elf = Elf::read(&file)?;
    let code = match source {
        // What has its code says itself where that is.
        Source::File { code, .. } if !elf.has_code() => *code,
        _ => &[],
    };
    if let Source::File { build_id, .. } = source
        && !build_id.is_empty()
        && *build_id != elf.build_id
    {
        return Err("the file changed since: its build id is another".to_owned());
    }

    let mut waiting = Waiting::with_capacity(wanted.len());
    for at in wanted {
        let offset = addresses[*at].of_instruction();
        let told = || code.iter().find_map(|p| in_part(p, offset));
        match elf.address(offset).or_else(told) {
            Some(address) => waiting.push((*at, address)),
            None => out.send(*at, Named::unnamed("this part of the file is no code")),
        }
    }
    let mut waiting = by_stubs(&file, &elf, waiting, options, out);
    if waiting.is_empty() {
        return Ok(());
    }

    let debug_file = debug_file::find(&file, &elf, path, options);
    let stripped = elf.section(".symtab").is_none() && debug_file.is_none();
    let mini = if depth == Depth::All && stripped { unpacked(&file, &elf, options) } else { None };
    let mut sources = Vec::new();
    if let Some(found) = debug_file {
        let shared = debug_file::shared(&found.file, &found.elf, found.path.as_deref(), options);
        sources.push(Names { file: found.file, elf: found.elf, shared });
    }
    let shared = debug_file::shared(&file, &elf, None, options);
    let sections = elf.clone();
    sources.push(Names { file, elf, shared });
    if let Some(file) = mini {
        sources.push(Names { file, elf: Elf::default(), shared: None });
    }

    let mut failed = None;
    let symbols: Vec<_> = sources.iter().map(|s| Symbols::new(s, options)).collect();
    if depth == Depth::All {
        for (source, symbols) in sources.iter().zip(&symbols) {
            let has = |name| source.elf.section(name).is_some();
            if !has(".debug_info") && !has(".zdebug_info") {
                continue;
            }
            let shared = source.shared.as_ref();
            match Dwarf::load(&source.file, &source.elf, shared, options.memory) {
                Ok(dwarf) => waiting = by_dwarf(&dwarf, symbols.as_ref(), waiting, options, out),
                Err(why) => failed = Some(why),
            }
        }
    }
    for symbols in symbols.iter().flatten() {
        waiting = by_symbols(symbols, &sections, waiting, options, &mut failed, out);
    }
    for (at, address) in waiting {
        let why = failed.clone().unwrap_or_else(|| {
            let stripped = if stripped { "stripped: " } else { "" };
            let place = sections.section_at(address).map_or(String::new(), |s| format!(" of {s}"));
            format!("{stripped}no symbol covers this part{place}")
        });
        out.send(at, Named::unnamed(why));
    }
    Ok(())
}

/// The address of an offset, if it is in this part.
fn in_part(part: &Part, offset: u64) -> Option<u64> {
    let into = offset.checked_sub(part.offset).filter(|into| *into < part.size)?;
    part.address.checked_add(into)
}

/// Names what calls functions of other files; the rest is left.
fn by_stubs(
    file: &File,
    elf: &Elf,
    waiting: Waiting,
    options: &Options,
    out: &mut Sender,
) -> Waiting {
    let is_stub = |(_, address): &(usize, u64)| elf.section_at(*address).is_some_and(plt::is_stubs);
    let (stubs, mut left): (Waiting, Waiting) = waiting.into_iter().partition(is_stub);
    if stubs.is_empty() {
        return left;
    }
    let addresses: Vec<u64> = stubs.iter().map(|(_, address)| *address).collect();
    for (waits, target) in stubs.into_iter().zip(plt::targets(file, elf, &addresses)) {
        let Some(target) = target else {
            left.push(waits);
            continue;
        };
        let name = format!("{}@plt", demangle::name(&target, options.demangle));
        let function = Function { name, file: None, line: None };
        out.send(waits.0, Named { functions: vec![function], unnamed: None });
    }
    out.flush();
    left
}

/// Names what DWARF has names for; the rest is left.
fn by_dwarf(
    dwarf: &Dwarf,
    symbols: Option<&Symbols>,
    waiting: Waiting,
    options: &Options,
    out: &mut Sender,
) -> Waiting {
    let mut left = Vec::new();
    for batch in waiting.chunks(BATCH) {
        let found = symbols.and_then(|s| s.find(batch).ok()).unwrap_or_default();
        for (i, waits) in batch.iter().enumerate() {
            let symbol = found.get(i).and_then(|f| f.as_sym()).map(|s| &*s.name);
            match dwarf.name(waits.1, symbol, options) {
                Some(named) => out.send(waits.0, named),
                None => left.push(*waits),
            }
        }
        out.flush();
    }
    left
}

/// Names what symbols cover; the rest is left.
fn by_symbols(
    symbols: &Symbols,
    sections: &Elf,
    waiting: Waiting,
    options: &Options,
    failed: &mut Option<String>,
    out: &mut Sender,
) -> Waiting {
    let mut left = Vec::new();
    for batch in waiting.chunks(BATCH) {
        match symbols.find(batch) {
            Ok(found) => {
                for (waits, found) in batch.iter().zip(&found) {
                    let found = found.as_sym().filter(|s| covers(s, waits.1, sections));
                    match found.and_then(|s| symbol(s, options)) {
                        Some(named) => out.send(waits.0, named),
                        None => left.push(*waits),
                    }
                }
                out.flush();
            }
            Err(e) => {
                *failed = Some(format!("its symbols cannot be read: {}", first_line(&e)));
                left.extend_from_slice(batch);
            }
        }
    }
    left
}

/// The symbol table of a file.
struct Symbols {
    symbolizer: symbolize::Symbolizer,
    source: symbolize::source::Source<'static>,
    /// The path in `source` leads through it.
    _copy: Option<File>,
}

impl Symbols {
    fn new(names: &Names, options: &Options) -> Option<Self> {
        let has_mini = names.elf.section(MINI).is_some();
        // What is not copied is not read: then no symbol is found.
        let copy = if has_mini {
            Some(without(&names.file, &names.elf, MINI, options.memory).ok()?)
        } else {
            None
        };
        let fd = copy.as_ref().unwrap_or(&names.file).as_raw_fd();
        let mut source = symbolize::source::Elf::new(format!("/proc/self/fd/{fd}"));
        source.debug_syms = false;
        let source = source.into();
        Some(Self {
            symbolizer: symbolize::Symbolizer::builder().enable_auto_reload(false).build(),
            source,
            _copy: copy,
        })
    }

    fn find(&self, batch: &[(usize, u64)]) -> blazesym::Result<Vec<Symbolized<'_>>> {
        let input: Vec<u64> = batch.iter().map(|(_, address)| *address).collect();
        self.symbolizer.symbolize(&self.source, Input::VirtOffset(&input))
    }
}

/// Whether a symbol reaches an address. One without a size is taken for all that is behind
/// it, but that ends with its section: `_init` is not what follows `.init`.
fn covers(symbol: &Sym<'_>, address: u64, elf: &Elf) -> bool {
    symbol.size.is_some() || elf.section_at(symbol.addr) == elf.section_at(address)
}

/// The function that a symbol is of; its line, where a BPF program has it.
pub(crate) fn symbol(found: &Sym<'_>, options: &Options) -> Option<Named> {
    let Sym { name, code_info, .. } = found;
    if name.is_empty() {
        return None;
    }
    let function = Function {
        name: demangle::name(name, options.demangle),
        file: code_info.as_ref().map(|c| c.to_path().into_owned()),
        line: code_info.as_ref().and_then(|c| c.line),
    };
    Some(Named { functions: vec![function], unnamed: None })
}

fn first_line(e: &blazesym::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().chars().take(200).collect()
}

/// A file of this process's own.
fn in_memory(content: &mut dyn Read) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("prof-symbols", MemfdFlags::CLOEXEC)?);
    io::copy(content, &mut file)?;
    file.flush()?;
    Ok(file)
}

/// A copy that has no section of this name.
fn without(file: &File, elf: &Elf, name: &str, most: u64) -> io::Result<File> {
    let mut from = file;
    from.seek(SeekFrom::Start(0))?;
    let length = file.metadata()?.len();
    if length > most {
        return Err(io::Error::other("too large to be copied"));
    }
    let copy = in_memory(&mut from.take(length))?;
    for s in elf.sections.iter().filter(|s| s.name == name) {
        // The offset of its name: at 0 is the empty one.
        copy.write_all_at(&[0; 4], s.header_at)?;
    }
    Ok(copy)
}

/// The file within the file that has the symbols, as Fedora strips them.
fn unpacked(file: &File, elf: &Elf, options: &Options) -> Option<File> {
    let section = elf.section(MINI)?;
    let mut from = file;
    from.seek(SeekFrom::Start(section.file.start)).ok()?;
    let packed = from.take(section.file.end - section.file.start);
    // A half of what there is, for its dictionary.
    let kib = u32::try_from(options.memory >> 11).unwrap_or(u32::MAX - 1);
    let unpacked = lzma_rust2::XzReader::new_mem_limit(packed, false, kib);
    in_memory(&mut unpacked.take(options.memory)).ok()
}
