//! Compiling the objects.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use anyhow::Result;

use crate::arch::Arch;
use crate::command::output;
use crate::command::require_program;
use crate::command::status;

const CLANG: &str = "clang-19";
const STRIP: &str = "llvm-strip-19";
/// Each makes an object: profiling, for kernels of today and for earlier ones; the audit;
/// the list of what is being profiled.
const SOURCES: [&str; 4] = ["lifecycle", "lifecycle_before_6_4", "audit", "audit_list"];

/// Directories that hold sources.
pub const SOURCE_DIRS: [&str; 2] = ["bpf", "bpf/include"];

/// What the compiler is told, besides architecture and paths. `-mcpu=v3` is what
/// the oldest kernel that prof loads on (5.10) has; unwind tables would only add
/// sections that no loader reads.
pub const FLAGS: [&str; 10] = [
    "-g",
    "-O2",
    "-mcpu=v3",
    "-target",
    "bpf",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-parameter",
    "-Wno-sign-compare",
];

/// More of [`FLAGS`]: what keeps the building machine out of the object.
pub const REPRODUCIBLE: [&str; 2] =
    ["-fno-asynchronous-unwind-tables", "-fdebug-compilation-dir=."];

/// Paths of all objects in a directory of objects.
pub fn objects() -> impl Iterator<Item = String> {
    let of = |arch| SOURCES.map(|source| object(arch, source));
    Arch::ALL.into_iter().flat_map(of)
}

fn object(arch: Arch, source: &str) -> String {
    format!("{}/{source}.bpf.o", arch.name())
}

/// Compiler and headers.
#[derive(Debug)]
pub struct Tools {
    /// libbpf's headers for programs.
    headers: PathBuf,
    /// Version of the compiler, without the distribution's own numbering.
    pub clang: String,
}

impl Tools {
    /// Fails if something is missing.
    pub fn find(headers: PathBuf) -> Result<Self> {
        require_program(CLANG, CLANG)?;
        require_program(STRIP, "llvm-19")?;
        let version = output(Command::new(CLANG).arg("-dumpversion"))?;
        Ok(Self { headers, clang: version.trim().to_owned() })
    }

    /// Builds all objects from the sources under `root` into `objects`; `include`
    /// is made, and from then on has libbpf's headers as `bpf/`.
    pub fn build(&self, root: &Path, include: &Path, objects: &Path) -> Result<()> {
        let root = absolute(root)?;
        let include = absolute(include)?;
        let objects = absolute(objects)?;
        fs::create_dir_all(&include)
            .with_context(|| format!("cannot create {}", include.display()))?;
        let link = include.join("bpf");
        if fs::read_link(&link).ok().as_ref() != Some(&self.headers) {
            // There is none, or it points to an earlier version.
            let _ = fs::remove_file(&link);
            symlink(&self.headers, &link)
                .with_context(|| format!("cannot create {}", link.display()))?;
        }
        let all = Arch::ALL.into_iter().flat_map(|arch| SOURCES.map(|source| (arch, source)));
        for (arch, source) in all {
            let object = objects.join(object(arch, source));
            if let Some(dir) = object.parent() {
                fs::create_dir_all(dir)
                    .with_context(|| format!("cannot create {}", dir.display()))?;
            }
            // BTF names the file of each line: without the maps that would be
            // where the building machine keeps its crates.
            status(
                Command::new(CLANG)
                    .current_dir(&root)
                    .args(FLAGS)
                    .args(REPRODUCIBLE)
                    .arg(format!("-D{}", arch.bpf_define()))
                    .arg(joined("-ffile-prefix-map=", &root, "=."))
                    .arg(joined("-ffile-prefix-map=", &include, "=libbpf"))
                    .arg(joined("-I", &include, ""))
                    .args(["-c", &format!("bpf/{source}.bpf.c"), "-o"])
                    .arg(&object),
            )?;
            // DWARF goes, BTF stays.
            status(Command::new(STRIP).arg("-g").arg(&object))?;
        }
        Ok(())
    }
}

/// The sources under `root`, in order.
pub fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for dir in SOURCE_DIRS {
        let entries = fs::read_dir(root.join(dir)).with_context(|| format!("cannot read {dir}"))?;
        for entry in entries {
            let name = entry?.file_name();
            let path = Path::new(dir).join(name);
            if path.extension().is_some_and(|e| e == "c" || e == "h") {
                sources.push(path);
            }
        }
    }
    sources.sort();
    Ok(sources)
}

/// Copies the sources from under one directory to under another.
pub fn copy_sources(from: &Path, to: &Path) -> Result<()> {
    for dir in SOURCE_DIRS {
        fs::create_dir_all(to.join(dir)).with_context(|| format!("cannot create {dir}"))?;
    }
    for source in sources(from)? {
        fs::copy(from.join(&source), to.join(&source))
            .with_context(|| format!("cannot copy {}", source.display()))?;
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    // `fs::canonicalize` would want it to exist, `path::absolute` keeps `.` in
    // the middle: the compiler compares prefixes as text.
    let path =
        std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()))?;
    Ok(path.components().collect())
}

fn joined(before: &str, path: &Path, after: &str) -> OsString {
    let mut arg = OsString::from(before);
    arg.push(path);
    arg.push(after);
    arg
}
