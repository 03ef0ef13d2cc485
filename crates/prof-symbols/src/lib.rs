//! Names for the addresses of a profile, when the processes are gone.
//!
//! What is named comes from files that were held open since the samples were taken,
//! never from a path that by now may lead elsewhere. Function, inlined calls, file and
//! line come from DWARF, names alone from symbol tables: of the file itself, of its
//! debug file (by build id or `.gnu_debuglink`), of its `.gnu_debugdata`. The kernel,
//! its modules and BPF programs come from `/proc/kallsyms`, code that was made at run
//! time from a jitdump or a perf map. An address without a name has the reason.
//!
//! The files are anybody's, and the libraries that read them were not written against
//! an enemy. So each module is read by a process of its own, forked for it, with bounds
//! for time and memory; what it does not survive costs the names of that module only, and
//! for these the symbol tables are tried once more without DWARF. A fork instead of an
//! own program: held descriptors and memory are there, and nothing has to be found or
//! installed. It has the rights of its parent; it is no jail for code, which none of
//! these files is.
//!
//! Because each module has its own process, no path-based cache of a library lives
//! long enough to take `/proc/self/fd/9` for the file that it was before.
//!
//! Not read: split DWARF (`.dwo`, `.dwp`) and `.debug_sup`.
//!
//! - [`Symbolizer`]: all of it
//! - [`debuginfod`]: debug files from servers
//! - `cache`: names that were found before
//! - [`perf_map`]: names of code made at run time
#![allow(rustdoc::private_intra_doc_links)]

mod cache;
mod debug_file;
pub mod debuginfod;
mod demangle;
mod dwarf;
mod elf;
mod generated;
mod isolate;
mod jitdump;
mod kernel;
mod module;
pub mod perf_map;
mod plt;
mod profile;
mod ranges;
mod wire;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use prof_model::stacks::Function;
use prof_model::stacks::Part;

use isolate::Limits;

/// What names are made of, and what they may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Also the calls that were inlined at an address.
    pub inlines: bool,
    /// Names of Rust and C++ as they are in the source.
    pub demangle: bool,
    /// Where debug files are: `.build-id/xx/yyyy.debug` below, or the file's own path.
    pub debug_dirs: Vec<PathBuf>,
    /// A file tree that has the modules, with symbols, under their own paths, and debug
    /// files under those of `debug_dirs`. Taken only where the build id is the same.
    pub symfs: Option<PathBuf>,
    /// Debug files that were [fetched](debuginfod::fetch), by build id.
    pub fetched: BTreeMap<Vec<u8>, PathBuf>,
    /// A folder for names that have been found, for the next time; `None`: not kept.
    pub cache: Option<PathBuf>,
    /// Longest that one attempt to read a module may take; there are two. What is not
    /// named by then stays unnamed.
    pub time: Duration,
    /// Longest that all modules of a profile may take.
    pub total: Duration,
    /// Most memory that reading one module may take, bytes; and the largest file that
    /// is copied or unpacked.
    pub memory: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            inlines: true,
            demangle: true,
            debug_dirs: vec!["/usr/lib/debug".into()],
            symfs: None,
            fetched: BTreeMap::new(),
            cache: None,
            // Chromium with debug information, several GB, takes seconds.
            time: Duration::from_secs(20),
            // Some files that are slow, but not hundreds that were made to be.
            total: Duration::from_secs(120),
            // DWARF is mapped, not counted here; what is made of it is, and compressed
            // sections unpack into it.
            memory: 2 << 30,
        }
    }
}

/// Where names come from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// An ELF file that was held open; addresses are offsets in it.
    File {
        /// The file.
        file: BorrowedFd<'a>,
        /// As the process saw it: leads to debug files next to it, and to no more.
        path: &'a Path,
        /// Of what was mapped; empty if it had none or is not known.
        build_id: &'a [u8],
        /// Where its code is, if the file is no more than a debug file, which does not say.
        code: &'a [Part],
    },
    /// An ELF file in memory, as the vDSO; addresses are offsets in it.
    Image(&'a [u8]),
    /// Lines of `/tmp/perf-PID.map`, see [`perf_map`]; addresses are the process's.
    PerfMap(&'a [u8]),
    /// A jitdump; addresses are the process's.
    JitDump {
        /// The file.
        file: BorrowedFd<'a>,
        /// Lines of a perf map for what the jitdump does not have.
        perf_map: &'a [u8],
        /// Monotonic time that stands for 0 in the profile, ns.
        epoch_ns: u64,
    },
}

impl<'a> Source<'a> {
    /// What tells of generated code by time.
    fn told(&self) -> Option<generated::Told<'a>> {
        match *self {
            Self::JitDump { file: dump, perf_map, epoch_ns } => {
                Some(generated::Told { perf_map, dump, epoch_ns })
            }
            Self::File { .. } | Self::Image(_) | Self::PerfMap(_) => None,
        }
    }
}

/// An address to be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Offset in the file, or the address itself where there is no file.
    pub offset: u64,
    /// Whether it is where a call returns to: the call is before it, and what is named
    /// is the call.
    pub is_return: bool,
}

impl Address {
    /// A byte of the instruction that is meant.
    pub(crate) fn of_instruction(self) -> u64 {
        self.offset.saturating_sub(u64::from(self.is_return))
    }
}

/// What an address is called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Named {
    /// The function and what was inlined into it there, innermost first.
    pub functions: Vec<Function>,
    /// Why there is none.
    pub unnamed: Option<String>,
}

impl Named {
    fn unnamed(why: impl Into<String>) -> Self {
        Self { functions: Vec::new(), unnamed: Some(why.into()) }
    }
}

/// Names addresses. It holds no file.
#[derive(Debug, Clone, Default)]
pub struct Symbolizer {
    options: Options,
}

impl Symbolizer {
    /// With these options.
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// Names for addresses of one module, in their order.
    pub fn user(&self, source: &Source<'_>, addresses: &[Address]) -> Vec<Named> {
        if addresses.is_empty() {
            return Vec::new();
        }
        if let Some(told) = source.told() {
            return self.generated(told, addresses);
        }
        match source {
            Source::PerfMap(lines) => {
                let mut named = vec![None; addresses.len()];
                let why = self.collect(&mut named, |out| {
                    let map = perf_map::PerfMap::parse(lines);
                    for (at, address) in addresses.iter().enumerate() {
                        out.send(at, map.name(address.of_instruction()));
                    }
                });
                fill(named, why.as_deref())
            }
            Source::File { .. } | Source::Image(_) | Source::JitDump { .. } => {
                self.module(source, addresses)
            }
        }
    }

    /// Names for addresses in the kernel, its modules and BPF programs, in their order.
    pub fn kernel(&self, addresses: &[Address]) -> Vec<Named> {
        if addresses.is_empty() {
            return Vec::new();
        }
        if let Some(why) = kernel::hidden() {
            return vec![Named::unnamed(why); addresses.len()];
        }
        let mut named = vec![None; addresses.len()];
        let why = self.collect(&mut named, |out| {
            kernel::name(addresses, &self.options, out);
        });
        fill(named, why.as_deref())
    }

    fn module(&self, source: &Source<'_>, addresses: &[Address]) -> Vec<Named> {
        let mut named = vec![None; addresses.len()];
        let mut why = None;
        let cache = match (source, &self.options.cache) {
            (Source::File { file, build_id, .. }, Some(dir)) => {
                cache::Key::new(*file, build_id, &self.options).ok().map(|key| (dir, key))
            }
            _ => None,
        };
        let mut kept = cache.as_ref().map(|(dir, key)| cache::load(dir, key)).unwrap_or_default();
        for (named, address) in named.iter_mut().zip(addresses) {
            *named = kept.get(&address.of_instruction()).cloned();
        }
        for depth in [module::Depth::All, module::Depth::Symbols] {
            let wanted: Vec<_> = (0..addresses.len()).filter(|i| named[*i].is_none()).collect();
            if wanted.is_empty() {
                break;
            }
            let failed = self.collect(&mut named, |out| {
                module::name(source, addresses, &wanted, depth, &self.options, out);
            });
            // What stopped the whole of it says more than what stopped the rest.
            why = why.or(failed);
        }
        if let Some((dir, key)) = cache {
            let before = kept.len();
            let found = addresses.iter().zip(&named).filter_map(|(a, n)| Some((a, n.as_ref()?)));
            let for_good = found.filter(|(_, named)| cache::is_for_good(named));
            kept.extend(for_good.map(|(a, named)| (a.of_instruction(), named.clone())));
            if kept.len() > before {
                cache::save(dir, &key, &kept);
            }
        }
        fill(named, why.as_deref())
    }

    /// Has a process of its own send names; says what stopped it.
    fn collect(
        &self,
        named: &mut [Option<Named>],
        work: impl FnOnce(&mut wire::Sender),
    ) -> Option<String> {
        let limits = Limits {
            time: self.options.time,
            memory: self.options.memory,
            answer: wire::MAX_ANSWER,
        };
        match isolate::run(&limits, |pipe| work(&mut wire::Sender::new(pipe))) {
            Ok((answer, end)) => wire::take(&answer, named, &end),
            Err(e) => Some(format!("no process to read it: {e}")),
        }
    }
}

/// What has no name by now has the reason.
fn fill(named: Vec<Option<Named>>, why: Option<&str>) -> Vec<Named> {
    let why = why.unwrap_or("nothing was said about it");
    named.into_iter().map(|n| n.unwrap_or_else(|| Named::unnamed(why))).collect()
}
