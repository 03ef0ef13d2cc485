//! `prof report`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use anyhow::Result;
use prof_export::Sink;
use prof_export::stacks::Root;
use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOutputSpec;
use prof_kernel::prepared;
use prof_kernel::sampler::gather::Code;
use prof_model::stacks::Module;
use prof_model::stacks::StackProfile;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;

use crate::cli::RAW_FILE;
use crate::cli::ReportArgs;
use crate::output;
use crate::say::say;
use crate::stacks::raw;
use crate::stacks::show;
use crate::stacks::show::How;
use crate::stacks::show::StackOutput;

/// Names what was recorded, with the files that this machine has, and shows it.
pub fn main(args: &ReportArgs) -> Result<ExitCode> {
    let mut profile = read(&args.file)?;
    if profile.ended_early {
        say!(
            "prof: {}: it has no end: prof was killed, had no room, or still writes it; what came \
             before is shown",
            args.file.display()
        );
    }
    let asked = match args.output.is_empty() {
        true => vec![StackOutputSpec { format: StackFormat::Text, sink: Sink::Default }],
        false => args.output.clone(),
    };
    let outputs: Vec<_> = asked.into_iter().map(StackOutput::Shown).collect();
    output::differ(args.output.iter().map(|o| &o.sink))?;
    show::try_open(&outputs)?;
    let places = Places::new(args.symfs.as_deref())?;
    let how = How {
        root: Root::default(),
        top: args.top,
        tree: args.tree.clone(),
        color: args.color,
        default: output::Default::Stdout,
        symfs: args.symfs.clone(),
        debuginfod: args.debuginfod,
        cache: prepared::dir_unless(args.no_cache),
    };
    let code: Vec<_> = profile.modules.iter().map(|m| places.code_of(m)).collect();
    show::name(&mut profile, &code, &how);
    show::write(&profile, &outputs, &how).1?;
    Ok(ExitCode::SUCCESS)
}

/// The recording, of a pipe where that is asked for.
fn read(file: &Path) -> Result<StackProfile> {
    if file == Path::new("-") {
        return raw::read_stdin();
    }
    raw::read(file).map_err(|e| {
        let is_none = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        match e.downcast_ref::<io::Error>().is_some_and(is_none) && file == Path::new(RAW_FILE) {
            true => e.context("nothing was recorded here: `prof record -- CMD` does that"),
            false => e,
        }
    })
}

/// Where files are looked for.
#[derive(Debug)]
struct Places {
    /// The root of another tree, and this one's.
    symfs: Option<(PathBuf, OwnedFd)>,
    /// Folders with `.build-id` below.
    by_id: Vec<PathBuf>,
}

impl Places {
    fn new(symfs: Option<&Path>) -> Result<Self> {
        let mut by_id: Vec<PathBuf> = Vec::new();
        let symfs = match symfs {
            Some(dir) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root = rustix::fs::open(dir, flags, Mode::empty())
                    .with_context(|| format!("--symfs {}", dir.display()))?;
                by_id.extend([dir.join("usr/lib/debug"), dir.to_owned()]);
                Some((dir.to_owned(), root))
            }
            None => None,
        };
        by_id.push("/usr/lib/debug".into());
        // Where `perf buildid-cache` and `perf record` put them.
        by_id.extend(std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".debug")));
        Ok(Self { symfs, by_id })
    }

    /// The file of a module: under its path, or if another is there, under its build id.
    fn code_of(&self, module: &Module) -> Code {
        if module.path == Path::new("[vdso]") {
            return match prof_unwind::own_vdso() {
                Some(image) => Code::Image(image),
                None => Code::Gone("this machine has no vDSO".into()),
            };
        }
        if !module.path.is_absolute() {
            return Code::Gone("generated code: names are taken when it is recorded".into());
        }
        let found = self.open(&module.path);
        let is_it = |file: &File| prof_unwind::build_id(file) == module.build_id;
        if module.build_id.is_empty() || found.as_ref().is_ok_and(is_it) {
            return found.map_or_else(Code::Gone, Code::File);
        }
        match self.by_id(&module.build_id).filter(is_it) {
            Some(file) => Code::File(file),
            None => found.map_or_else(Code::Gone, Code::File),
        }
    }

    /// What a path leads to; in another tree, every link stays there.
    fn open(&self, path: &Path) -> Result<File, String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let (full, opened) = match &self.symfs {
            Some((dir, root)) => {
                let below = path.strip_prefix("/").unwrap_or(path);
                let stays = ResolveFlags::IN_ROOT;
                let opened = rustix::fs::openat2(root, below, flags, Mode::empty(), stays);
                (dir.join(below), opened)
            }
            None => (path.to_owned(), rustix::fs::open(path, flags, Mode::empty())),
        };
        opened.map(File::from).map_err(|e| format!("{}: {}", full.display(), io::Error::from(e)))
    }

    /// A file that is kept by build id: with its code, or if there is none such, its debug
    /// file, which has names, too.
    fn by_id(&self, id: &[u8]) -> Option<File> {
        let (first, rest) = id.split_first()?;
        let rest: String = rest.iter().map(|b| format!("{b:02x}")).collect();
        let places = self.by_id.iter().map(|dir| dir.join(format!(".build-id/{first:02x}/{rest}")));
        let full = places.clone().flat_map(|p| [p.join("elf"), p]);
        full.chain(places.map(|p| p.with_extension("debug"))).find_map(|p| {
            let file = File::open(p).ok()?;
            file.metadata().is_ok_and(|m| m.is_file()).then_some(file)
        })
    }
}
