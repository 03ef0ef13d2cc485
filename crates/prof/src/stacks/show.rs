//! From samples to what is shown: names, then the outputs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::IsTerminal as _;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use prof_export::Sink;
use prof_export::stacks::Root;
use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOptions;
use prof_export::stacks::StackOutputSpec;
use prof_export::stacks::without_table;
use prof_kernel::host;
use prof_kernel::sampler::gather::Code;
use prof_kernel::sampler::generated::Generated;
use prof_kernel::sampler::known;
use prof_model::stacks::Function;
use prof_model::stacks::Module;
use prof_model::stacks::ModuleId;
use prof_model::stacks::StackProfile;
use prof_symbols::Options;
use prof_symbols::Source;
use prof_symbols::Symbolizer;
use prof_symbols::debuginfod;
use prof_symbols::perf_map;
use prof_unwind::Limits;
use prof_unwind::Table;

use crate::cli::Color;
use crate::cli::Tree;
use crate::output;
use crate::say::say;

/// How stacks are shown.
#[derive(Debug, Clone)]
pub struct How {
    /// What stands at the root.
    pub root: Root,
    /// Rows of the heaviest functions; 0 for all.
    pub top: usize,
    /// Of the call tree.
    pub tree: Tree,
    /// Colours.
    pub color: Color,
    /// Where an output goes that names no file.
    pub default: output::Default,
    /// A file tree with the modules and their debug files.
    pub symfs: Option<PathBuf>,
    /// Debug files that are not here are asked for.
    pub debuginfod: bool,
    /// Where names are kept for the next time.
    pub cache: Option<PathBuf>,
}

/// Why a file that is there is not the one that was recorded, if that can be told without
/// reading it: by size and time where there is no build id. On the machine on which it was
/// recorded (`here`) also by its number, which a copy has another of.
pub fn is_another(module: &Module, file: &File, here: bool) -> Option<&'static str> {
    let then = module.identity.filter(|_| module.build_id.is_empty())?;
    let now = known::identity_of(&file.metadata().ok()?);
    if now.size != then.size {
        return Some("the file changed since: it has no build id, and its size is another");
    }
    // Archives keep seconds.
    let is_whole = now.mtime.1 == 0 || then.mtime.1 == 0;
    if now.mtime.0 != then.mtime.0 || now.mtime.1 != then.mtime.1 && !is_whole {
        return Some(
            "it may be another file: it has no build id, and its time is another (copies that \
             keep it: cp -p)",
        );
    }
    (here && now.ino != then.ino)
        .then_some("it may be another file: it has no build id, and its inode is another")
}

/// Names all frames: of code that was held since it was met. What processes made has its
/// names, or none, by [`name_generated`].
pub fn name(profile: &mut StackProfile, code: &[Code], how: &How) {
    let mut options =
        Options { symfs: how.symfs.clone(), cache: how.cache.clone(), ..Options::default() };
    if how.debuginfod {
        let ids: Vec<_> = profile.modules.iter().map(|m| m.build_id.as_slice()).collect();
        if io::stderr().is_terminal() {
            say!("prof: asking for the debug files of {} modules", ids.len());
        }
        options.fetched = debuginfod::fetch(&ids, &options.debug_dirs);
    }
    // What is held may have been written to since.
    let here = how.symfs.is_none() && profile.host == host::uname().0;
    let why: Vec<_> = profile
        .modules
        .iter()
        .zip(code)
        .map(|(module, code)| match code {
            Code::File(file) => is_another(module, file, here).map(str::to_owned),
            Code::Gone(why) if module.path.is_absolute() => {
                Some(format!("its file is not there: {why}"))
            }
            Code::Gone(why) => Some(why.clone()),
            Code::Image(_) | Code::Generated(_) => None,
        })
        .collect();
    let of = |m: ModuleId| why.get(m.0 as usize)?.clone();
    for frame in profile.frames.iter_mut().filter(|f| f.functions.is_empty()) {
        let why = frame.module.and_then(of);
        frame.unnamed = frame.unnamed.take().or(why);
    }
    let symbolizer = Symbolizer::new(options);
    let modules = profile.modules.clone();
    symbolizer.name_profile(profile, |ModuleId(at)| {
        let module = modules.get(at as usize)?;
        match code.get(at as usize)? {
            Code::File(file) => Some(Source::File {
                file: file.as_fd(),
                path: &module.path,
                build_id: &module.build_id,
                code: &module.code,
            }),
            Code::Image(image) => Some(Source::Image(image)),
            Code::Generated(_) | Code::Gone(_) => None,
        }
    });
    name_by_place(profile, code, here);
}

/// Names code that processes made, by what they have told of it: later there may be
/// nothing of that.
///
/// `owner` says whose a process was: only what that user or root has written is believed.
pub fn name_generated(
    profile: &mut StackProfile,
    code: &[Code],
    owner: impl Fn(u32) -> Option<u32>,
) {
    let told: Vec<_> = code
        .iter()
        .map(|c| match c {
            Code::Generated(generated) => Some(told(generated, owner(generated.pid()))),
            Code::File(_) | Code::Image(_) | Code::Gone(_) => None,
        })
        .collect();
    let of = |m: ModuleId| told.get(m.0 as usize).and_then(Option::as_ref);
    Symbolizer::default().name_modules(profile, |m| of(m)?.as_ref().ok().map(Told::source));
    for frame in &mut profile.frames {
        if let Some(Err(why)) = frame.module.and_then(of) {
            frame.unnamed.get_or_insert_with(|| why.clone());
        }
    }
}

/// What a process has told of the code that it made.
struct Told<'a> {
    perf_map: Vec<u8>,
    jitdump: Option<&'a File>,
    epoch_ns: u64,
}

impl Told<'_> {
    fn source(&self) -> Source<'_> {
        match self.jitdump {
            Some(file) => Source::JitDump {
                file: file.as_fd(),
                perf_map: &self.perf_map,
                epoch_ns: self.epoch_ns,
            },
            None => Source::PerfMap(&self.perf_map),
        }
    }
}

/// What is believed of it, or why nothing is.
fn told(code: &Generated, owner: Option<u32>) -> Result<Told<'_>, String> {
    let Some(owner) = owner else {
        return Err("generated code of a process whose user is not known".into());
    };
    let mut refused = None;
    let perf_map = code.perf_map().map(|f| perf_map::read(f, owner));
    let perf_map = perf_map.and_then(|read| {
        read.map_err(|e| refused = Some(format!("generated code; its perf map: {e}"))).ok()
    });
    let jitdump = code.jitdump().filter(|f| match perf_map::check(f, owner) {
        Ok(()) => true,
        Err(e) => {
            refused = Some(format!("generated code; its jitdump: {e}"));
            false
        }
    });
    if perf_map.is_none() && jitdump.is_none() {
        let none = || "generated code: the process wrote no perf map and no jitdump".into();
        return Err(refused.unwrap_or_else(none));
    }
    let perf_map = perf_map.unwrap_or_default();
    Ok(Told { perf_map, jitdump, epoch_ns: code.epoch_ns() })
}

/// What has no name is at least of some function: the file's unwind information says
/// where that begins. Without it each address would stand for itself.
fn name_by_place(profile: &mut StackProfile, code: &[Code], here: bool) {
    let mut without: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (i, frame) in profile.frames.iter().enumerate() {
        if let (true, Some(ModuleId(at))) = (frame.functions.is_empty(), frame.module) {
            without.entry(at).or_default().push(i);
        }
    }
    for (at, frames) in without {
        let Some(Code::File(file)) = code.get(at as usize) else { continue };
        let Some(module) = profile.modules.get(at as usize) else { continue };
        // Of another file its functions say nothing.
        let is_it = module.build_id.is_empty() || prof_unwind::build_id(file) == module.build_id;
        if !is_it || is_another(module, file, here).is_some() {
            continue;
        }
        let Ok(functions) = Table::functions(file, &Limits::default()) else { continue };
        let name = module.name();
        for i in frames {
            let frame = &mut profile.frames[i];
            let after = functions.partition_point(|(offset, _)| *offset <= frame.offset);
            let Some((start, size)) = after.checked_sub(1).and_then(|n| functions.get(n)) else {
                continue;
            };
            // A call may be the last instruction, so a caller's may be just behind.
            if frame.offset - start > u64::from(*size) {
                continue;
            }
            let name = format!("[fun_{start:x} in {name}]");
            frame.functions.push(Function { name, file: None, line: None });
        }
    }
}

/// Writes each output, and says which were; the first error is told when all were tried.
pub fn write<'a>(
    profile: &StackProfile,
    outputs: &'a [StackOutput],
    how: &How,
) -> (Vec<&'a StackOutput>, Result<()>) {
    let mut written = Vec::with_capacity(outputs.len());
    let mut result = Ok(());
    for spec in outputs {
        match write_one(profile, spec, how) {
            Ok(()) => written.push(spec),
            Err(e) => result = result.and(Err(e)),
        }
    }
    (written, result)
}

/// The same of recordings, some of which were written as samples came: how that went is
/// `done`, by their names.
pub fn write_kept<'a>(
    profile: &StackProfile,
    outputs: &'a [StackOutput],
    done: Vec<(String, io::Result<()>)>,
    how: &How,
) -> (Vec<&'a StackOutput>, Result<()>) {
    let (mut written, mut result) = (Vec::with_capacity(outputs.len()), Ok(()));
    let mut done: BTreeMap<_, _> = done.into_iter().collect();
    for output in outputs {
        let kept = output.kept_in().and_then(|p| done.remove(&p.display().to_string()));
        let one = match kept {
            Some(kept) => kept.with_context(|| {
                format!("writing to {} (what was written before can be read)", output.place())
            }),
            None => write_one(profile, output, how),
        };
        match one {
            Ok(()) => written.push(output),
            Err(e) => result = result.and(Err(e)),
        }
    }
    (written, result)
}

/// Whether outputs can be written, which is to be known before anything is measured. What
/// is there stays as it is until there is something to be written.
pub fn try_open(outputs: &[StackOutput]) -> Result<()> {
    for output in outputs {
        match output.sink() {
            Sink::File(path) => {
                try_file(path).with_context(|| format!("output file {}", path.display()))?
            }
            Sink::Default | Sink::Stdout if output.is_binary() && io::stdout().is_terminal() => {
                let name = output.name();
                bail!("-o {name}: no terminal can show it: name a file, -o {name}:FILE");
            }
            Sink::Default | Sink::Stdout => {}
        }
    }
    Ok(())
}

fn try_file(path: &Path) -> io::Result<()> {
    // A pipe would wait for its reader, who would take this for all that comes.
    if path.metadata().is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        return Ok(());
    }
    File::options().write(true).create(true).truncate(false).open(path).map(drop)
}

/// An output of stacks.
#[derive(Debug, Clone)]
pub enum StackOutput {
    /// Named, in one of the formats.
    Shown(StackOutputSpec),
    /// As it is, for `prof report`.
    Raw(Sink),
}

impl StackOutput {
    fn sink(&self) -> &Sink {
        match self {
            Self::Shown(spec) => &spec.sink,
            Self::Raw(sink) => sink,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Shown(spec) => spec.format.name(),
            Self::Raw(_) => "raw",
        }
    }

    /// The file that it is written to while samples come, if it is such: of a pipe the reader
    /// may be slow, or not there yet.
    pub fn kept_in(&self) -> Option<&Path> {
        match self {
            Self::Raw(Sink::File(path)) => path.metadata().map_or(true, |m| m.is_file()),
            _ => false,
        }
        .then(|| self.file())?
    }

    fn file(&self) -> Option<&Path> {
        match self.sink() {
            Sink::File(path) => Some(path),
            Sink::Default | Sink::Stdout => None,
        }
    }

    fn place(&self) -> String {
        self.file().map_or_else(|| "standard output".into(), |p| p.display().to_string())
    }

    /// Whether it is nothing that a terminal could show.
    fn is_binary(&self) -> bool {
        match self {
            Self::Shown(s) => matches!(s.format, StackFormat::Pprof | StackFormat::Perfdata),
            Self::Raw(_) => true,
        }
    }

    /// Whether names are needed.
    pub fn is_named(&self) -> bool {
        matches!(self, Self::Shown(_))
    }
}

fn write_one(profile: &StackProfile, output: &StackOutput, how: &How) -> Result<()> {
    let (sink, format) = match output {
        StackOutput::Raw(sink) => (sink.clone(), None),
        StackOutput::Shown(spec) => (spec.sink.clone(), Some(spec.format)),
    };
    let mut options = StackOptions {
        root: how.root,
        top: if how.top == 0 { usize::MAX } else { how.top },
        threshold: how.tree.percent_limit / 100.0,
        cut: false,
        ..StackOptions::default()
    };
    let (to, name): (Box<dyn Write>, _) = match &sink {
        Sink::File(path) => {
            options.file = Some(path.clone());
            options.width = output::file_width();
            let file =
                File::create(path).with_context(|| format!("output file {}", path.display()))?;
            (Box::new(file), path.display().to_string())
        }
        Sink::Default if how.default == output::Default::Stderr && is_for_people(format) => {
            let to = io::stderr();
            fits(&mut options, &to, how.color);
            (Box::new(to), "standard error".into())
        }
        Sink::Default | Sink::Stdout => {
            let to = io::stdout();
            fits(&mut options, &to, how.color);
            (Box::new(to), "standard output".into())
        }
    };
    options.depth = match how.tree.tree_depth {
        Some(0) => usize::MAX,
        Some(n) => n,
        // A terminal shows a few rows, and of a file nobody reads all.
        None if options.cut => options.depth,
        None => usize::MAX,
    };
    let mut to = BufWriter::new(to);
    let written = match format {
        Some(format) => format.write(profile, &options, &mut to),
        None => super::raw::write(profile, &mut to),
    };
    let told = written.and_then(|()| to.flush());
    match told {
        // A reader that went away has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.with_context(|| format!("writing to {name}")),
    }
}

/// What a terminal has room for, if it is one.
fn fits(options: &mut StackOptions, to: &(impl AsFd + io::IsTerminal), color: Color) {
    options.color = color.on(to);
    options.width = output::terminal_width(to);
    options.cut = to.is_terminal();
}

fn is_for_people(format: Option<StackFormat>) -> bool {
    format == Some(StackFormat::Text)
}

/// A line for the terminal about files that were written.
pub fn tell<'a>(profile: &StackProfile, outputs: impl Iterator<Item = &'a StackOutput>) {
    let files: Vec<_> =
        outputs.filter_map(StackOutput::file).map(|p| p.display().to_string()).collect();
    if files.is_empty() {
        return;
    }
    let n = profile.samples.len();
    let whole = profile.samples.iter().filter(|s| s.whole.is_whole()).count();
    let share = match n {
        0 => String::new(),
        _ => format!(", {:.1} % of the stacks whole", 100.0 * whole as f64 / n as f64),
    };
    let (processes, files) = (profile.processes.len(), files.join(", "));
    say!("prof: {n} samples, processes: {processes}{share}: {files}");
    for line in without_table(profile) {
        say!("prof: {line}");
    }
}
