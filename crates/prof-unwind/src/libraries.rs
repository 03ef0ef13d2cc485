//! All that will be loaded for a program, before it runs.
//!
//! What ld.so does: names with a slash are paths; others are looked for in `DT_RPATH` of
//! the file and of those that needed it, `LD_LIBRARY_PATH`, `DT_RUNPATH` of the file,
//! the cache, the standard folders. What a program loads itself (`dlopen`, name
//! services), or is made to load (`LD_PRELOAD`), is not known here. Of a library with
//! variants for special CPUs all are named, as it does no harm to know too many.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::elf::Arch;
use crate::elf::Source;
use crate::ldcache::Cache;
use crate::needed::Needed;

/// Most files of one program.
const MAX_FILES: usize = 1024;

/// Most that are looked for on the way there: names times folders.
const MAX_LOOKUPS: usize = 65_536;

/// Most folders that are looked in for one name.
const MAX_FOLDERS: usize = 256;

/// As many interpreters of scripts in a row as the kernel follows.
const MAX_SCRIPTS: usize = 4;

/// As much of a script's first line as the kernel reads.
const MAX_LINE: u64 = 256;

/// Where libraries are looked for, apart from what files say.
#[derive(Debug, Clone, Default)]
pub struct Environment<'a> {
    /// `LD_LIBRARY_PATH` of the program.
    pub library_path: Option<&'a OsStr>,
}

/// The program, its interpreter, and all libraries that will be loaded with it, each
/// once, the program first. Of a script, those of its interpreter. What cannot be found
/// or read is left out.
pub fn closure(program: &Path, environment: &Environment<'_>) -> Vec<PathBuf> {
    let mut path = program.to_owned();
    for _ in 0..MAX_SCRIPTS {
        match script(&path) {
            Some(interpreter) => path = interpreter,
            None => break,
        }
    }
    let Some(needed) = needed(&path) else { return Vec::new() };
    let musl =
        needed.interpreter.as_deref().is_some_and(|i| i.windows(8).any(|w| w == b"/ld-musl"));
    let mut search = Search {
        arch: needed.arch,
        environment,
        cache: if musl { Cache::default() } else { Cache::load() },
        musl,
        files: Vec::new(),
        known: HashSet::new(),
        names: HashSet::new(),
        left: MAX_LOOKUPS,
    };
    let interpreter = needed.interpreter.clone();
    search.add(path, needed, None);
    if let Some(interpreter) = interpreter {
        let path = PathBuf::from(OsStr::from_bytes(&interpreter));
        // By its name, under which libraries need it.
        if let Some(name) = path.file_name() {
            search.names.insert(name.as_bytes().to_vec());
        }
        search.take(path, Some(0));
    }
    search.all();
    search.files.into_iter().map(|file| file.path).collect()
}

/// The interpreter of a script.
fn script(path: &Path) -> Option<PathBuf> {
    let mut line = Vec::new();
    open(path)?.take(MAX_LINE).read_to_end(&mut line).ok()?;
    let line = line.strip_prefix(b"#!")?.split(|b| *b == b'\n' || *b == 0).next()?;
    let interpreter = line.trim_ascii().split(|b| *b == b' ' || *b == b'\t').next()?;
    (!interpreter.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(interpreter)))
}

/// A file, if it is one: to open a device may already do something, and that of a pipe
/// wait.
fn open(path: &Path) -> Option<File> {
    use std::os::fd::AsRawFd as _;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    if !place.metadata().ok()?.is_file() {
        return None;
    }
    File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).ok()
}

fn needed(path: &Path) -> Option<Needed> {
    let file = open(path)?;
    Needed::read(Source::file(&file).ok()?).ok()
}

struct Search<'a> {
    arch: Arch,
    environment: &'a Environment<'a>,
    cache: Cache,
    musl: bool,
    files: Vec<Loaded>,
    /// Paths without links.
    known: HashSet<PathBuf>,
    /// Names that were looked for: ld.so looks once.
    names: HashSet<Vec<u8>>,
    left: usize,
}

struct Loaded {
    path: PathBuf,
    /// `$ORIGIN`: the folder it was found in, which a link may lead out of.
    origin: PathBuf,
    needed: Needed,
    /// Which file needed it first.
    by: Option<usize>,
}

impl Search<'_> {
    /// Breadth first, as ld.so does.
    fn all(&mut self) {
        let mut at = 0;
        while let Some(file) = self.files.get(at) {
            for name in file.needed.libraries.clone() {
                if self.left > 0 && self.names.insert(name.clone()) {
                    self.left -= 1;
                    self.find(&name, at);
                }
            }
            at += 1;
        }
    }

    fn find(&mut self, name: &[u8], by: usize) {
        if name.contains(&b'/') {
            if let Some(path) = self.expand(name, by) {
                self.take(path, Some(by));
            }
            return;
        }
        for folder in self.own_folders(by) {
            if self.take(folder.join(OsStr::from_bytes(name)), Some(by)) {
                return;
            }
        }
        if self.files.get(by).is_some_and(|file| file.needed.no_default) {
            return;
        }
        let mut found = false;
        for path in self.cache.find(name, self.arch) {
            found |= self.take(path, Some(by));
        }
        if found {
            return;
        }
        for folder in self.standard_folders() {
            if self.take(Path::new(folder).join(OsStr::from_bytes(name)), Some(by)) {
                return;
            }
        }
    }

    /// Folders that files and the environment name, in order.
    fn own_folders(&self, by: usize) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        let Some(file) = self.files.get(by) else { return folders };
        // A runpath shuts out all rpaths.
        let mut at = file.needed.runpath.is_none().then_some(by);
        while let Some((from, file)) = at.and_then(|at| Some((at, self.files.get(at)?))) {
            if let Some(list) = &file.needed.rpath {
                self.split(list, b":", from, &mut folders);
            }
            at = file.by.filter(|by| *by < from);
        }
        if let Some(list) = self.environment.library_path {
            self.split(list.as_bytes(), b":;", 0, &mut folders);
        }
        if let Some(list) = &file.needed.runpath {
            self.split(list, b":", by, &mut folders);
        }
        folders
    }

    fn split(&self, list: &[u8], at: &[u8], file: usize, folders: &mut Vec<PathBuf>) {
        let each = list.split(|b| at.contains(b));
        // An empty one is the program's working directory, which is not known.
        let each = each.filter(|f| !f.is_empty()).filter_map(|f| self.expand(f, file));
        folders.extend(each.take(MAX_FOLDERS.saturating_sub(folders.len())));
    }

    /// A path with what ld.so puts in place of `$ORIGIN`, `$LIB` and `$PLATFORM`.
    fn expand(&self, path: &[u8], file: usize) -> Option<PathBuf> {
        let origin = &self.files.get(file)?.origin;
        let (lib, platform): (&[u8], &[u8]) = match self.arch {
            Arch::X86_64 => (b"lib/x86_64-linux-gnu", b"x86_64"),
            Arch::Aarch64 => (b"lib/aarch64-linux-gnu", b"aarch64"),
        };
        let tokens: [(&[u8], &[u8]); 6] = [
            (b"$ORIGIN", origin.as_os_str().as_bytes()),
            (b"${ORIGIN}", origin.as_os_str().as_bytes()),
            (b"$LIB", lib),
            (b"${LIB}", lib),
            (b"$PLATFORM", platform),
            (b"${PLATFORM}", platform),
        ];
        let (mut rest, mut expanded) = (path, Vec::new());
        while let Some((first, after)) = rest.split_first() {
            match tokens.iter().find(|(token, _)| rest.starts_with(token)) {
                Some((token, value)) => {
                    expanded.extend_from_slice(value);
                    rest = rest.get(token.len()..)?;
                }
                None => {
                    expanded.push(*first);
                    rest = after;
                }
            }
        }
        Some(PathBuf::from(OsStr::from_bytes(&expanded)))
    }

    fn standard_folders(&self) -> &'static [&'static str] {
        if self.musl {
            return &["/lib", "/usr/local/lib", "/usr/lib"];
        }
        match self.arch {
            Arch::X86_64 => &[
                "/lib/x86_64-linux-gnu",
                "/usr/lib/x86_64-linux-gnu",
                "/lib64",
                "/usr/lib64",
                "/lib",
                "/usr/lib",
            ],
            Arch::Aarch64 => &[
                "/lib/aarch64-linux-gnu",
                "/usr/lib/aarch64-linux-gnu",
                "/lib64",
                "/usr/lib64",
                "/lib",
                "/usr/lib",
            ],
        }
    }

    /// Adds a file, if it is there and of the program's architecture; whether it is.
    fn take(&mut self, path: PathBuf, by: Option<usize>) -> bool {
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        let Some(needed) = needed(&path).filter(|n| n.arch == self.arch) else { return false };
        self.add(path, needed, by);
        true
    }

    fn add(&mut self, found: PathBuf, needed: Needed, by: Option<usize>) {
        let Ok(path) = found.canonicalize() else { return };
        // The kernel says where the program itself is, and follows links.
        let place = if self.files.is_empty() { &path } else { &found };
        let origin = place.parent().unwrap_or(Path::new("/")).to_owned();
        if self.files.len() < MAX_FILES && self.known.insert(path.clone()) {
            self.files.push(Loaded { path, origin, needed, by });
        }
    }
}
