//! Names of one ELF file: the part that runs in a process of its own.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use blazesym::symbolize;
use blazesym::symbolize::Input;
use blazesym::symbolize::Sym;
use blazesym::symbolize::Symbolized;
use prof_model::stacks::Function;
use rustix::fs::MemfdFlags;

use crate::Address;
use crate::Named;
use crate::Options;
use crate::Source;
use crate::debug_file;
use crate::demangle;
use crate::elf;
use crate::elf::Elf;
use crate::wire;
use crate::wire::Sender;

/// Addresses between two flushes: what is lost at most if the next one is not survived.
const BATCH: usize = 64;

/// Sections that lead to other files. Whoever wrote the file chose where to; blazesym
/// would go there.
const LINKS: [&str; 3] = [".gnu_debuglink", ".gnu_debugaltlink", ".debug_sup"];

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

/// What blazesym is given, the best first.
#[derive(Debug, Default)]
struct Candidates {
    /// Paths, and whether DWARF is to be read.
    list: Vec<(PathBuf, bool)>,
    /// Paths lead through these.
    held: Vec<File>,
}

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
        Source::PerfMap(_) => return Err("a perf map is no ELF file".to_owned()),
    };
    let elf = Elf::read(&file)?;
    if let Source::File { build_id, .. } = source
        && !build_id.is_empty()
        && *build_id != elf.build_id
    {
        return Err("the file changed since: its build id is another".to_owned());
    }

    let mut waiting = Vec::with_capacity(wanted.len());
    for at in wanted {
        match elf.address(addresses[*at].of_instruction()) {
            Some(address) => waiting.push((*at, address)),
            None => out.send(*at, Named::unnamed("this part of the file is no code")),
        }
    }

    let debug_file = debug_file::find(&file, &elf, path, options);
    let stripped = elf.section(".symtab").is_none() && debug_file.is_none();
    let mini = if depth == Depth::All && stripped { unpacked(&file, &elf, options) } else { None };
    let mut candidates = Candidates::default();
    if let Some(found) = debug_file {
        let path = found.trusted.then_some(found.path);
        candidates.add(found.file, &found.elf, path, depth, options);
    }
    candidates.add(file, &elf, None, depth, options);
    if let Some(mini) = mini {
        candidates.add(mini, &Elf::default(), None, depth, options);
    }
    // DWARF first; where it fails, what the same files have as symbols.
    candidates.list.sort_by_key(|(_, dwarf)| !dwarf);

    let symbolizer = symbolizer(options);
    let mut failed = None;
    for (path, dwarf) in &candidates.list {
        let look_up = |input: &[u64], dwarf| {
            let mut source = symbolize::source::Elf::new(path);
            source.debug_syms = dwarf;
            symbolizer.symbolize(&source.into(), Input::VirtOffset(input))
        };
        let mut left = Vec::new();
        for batch in waiting.chunks(BATCH) {
            let input: Vec<u64> = batch.iter().map(|(_, address)| *address).collect();
            match look_up(&input, *dwarf) {
                Ok(found) => {
                    // DWARF has bare names of what has no name outside of its file: `add`
                    // for `(anonymous namespace)::Words::add(int)`. Symbols have it all.
                    let symbols = dwarf.then(|| look_up(&input, false).ok()).flatten();
                    for (i, (waits, found)) in batch.iter().zip(&found).enumerate() {
                        let symbol = symbols.as_ref().and_then(|s| s.get(i)?.as_sym());
                        match functions(found, symbol.map(|s| &*s.name), options) {
                            Some(named) => out.send(waits.0, named),
                            None => left.push(*waits),
                        }
                    }
                    out.flush();
                }
                Err(e) => {
                    failed = Some(format!("its symbols cannot be read: {}", first_line(&e)));
                    left.extend_from_slice(batch);
                }
            }
        }
        waiting = left;
    }
    for (at, address) in waiting {
        let why = failed.clone().unwrap_or_else(|| {
            let stripped = if stripped { "stripped: " } else { "" };
            let place = elf.section_at(address).map_or(String::new(), |s| format!(" of {s}"));
            format!("{stripped}no symbol covers this part{place}")
        });
        out.send(at, Named::unnamed(why));
    }
    Ok(())
}

/// A symbolizer that finds nothing by itself.
pub(crate) fn symbolizer(options: &Options) -> symbolize::Symbolizer {
    symbolize::Symbolizer::builder()
        .enable_auto_reload(false)
        .enable_code_info(true)
        .enable_inlined_fns(options.inlines)
        // For supplementary files of debug files that are trusted.
        .set_debug_dirs(Some(&options.debug_dirs))
        .build()
}

/// The functions that were found, if they have names; `symbol` is what the symbol table
/// calls the outermost.
pub(crate) fn functions(
    found: &Symbolized<'_>,
    symbol: Option<&str>,
    options: &Options,
) -> Option<Named> {
    let Symbolized::Sym(Sym { name, code_info, inlined, .. }) = found else { return None };
    if name.is_empty() {
        return None;
    }
    let function = |name: &str, code: Option<&symbolize::CodeInfo<'_>>| Function {
        name: demangle::name(name, options.demangle),
        file: code.map(|c| c.to_path().into_owned()),
        line: code.and_then(|c| c.line),
    };
    let symbol = symbol.filter(|s| demangle::is_mangled(s) && !demangle::is_mangled(name));
    let mut functions = vec![function(symbol.unwrap_or(name), code_info.as_deref())];
    let inlined = inlined.iter().map(|f| function(&f.name, f.code_info.as_ref()));
    functions.extend(inlined.take(wire::MAX_INLINED));
    functions.reverse();
    Some(Named { functions, unnamed: None })
}

fn first_line(e: &blazesym::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().chars().take(200).collect()
}

impl Candidates {
    /// Adds a file: with its DWARF, if it has some, and without. Where a path is given,
    /// links may be followed from it.
    fn add(
        &mut self,
        file: File,
        elf: &Elf,
        path: Option<PathBuf>,
        depth: Depth,
        options: &Options,
    ) {
        let has = |name: &&str| elf.section(name).is_some();
        let dwarf = depth == Depth::All && has(&".debug_info");
        let hidden: Vec<&str> = match path {
            Some(_) => Vec::new(),
            None if dwarf => LINKS.into_iter().chain([MINI]).filter(has).collect(),
            None => [MINI].into_iter().filter(has).collect(),
        };
        let file = if hidden.is_empty() {
            file
        } else {
            match without(&file, elf, &hidden, options.memory) {
                Ok(copy) => copy,
                // What is not copied is not read: then no symbol is found.
                Err(_) => return,
            }
        };
        let path = path.unwrap_or_else(|| format!("/proc/self/fd/{}", file.as_raw_fd()).into());
        if dwarf {
            self.list.push((path.clone(), true));
        }
        self.list.push((path, false));
        self.held.push(file);
    }
}

/// A file of this process's own.
fn in_memory(content: &mut dyn Read) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("prof-symbols", MemfdFlags::CLOEXEC)?);
    io::copy(content, &mut file)?;
    file.flush()?;
    Ok(file)
}

/// A copy that has no sections of these names.
fn without(file: &File, elf: &Elf, names: &[&str], most: u64) -> io::Result<File> {
    let mut from = file;
    from.seek(SeekFrom::Start(0))?;
    let length = file.metadata()?.len();
    if length > most {
        return Err(io::Error::other("too large to be copied"));
    }
    let copy = in_memory(&mut from.take(length))?;
    for s in elf.sections.iter().filter(|s| names.contains(&s.name.as_str())) {
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
