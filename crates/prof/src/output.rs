//! Where records go.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::IsTerminal as _;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use prof_export::AnyOutputSpec;
use prof_export::Exporter;
use prof_export::Format;
use prof_export::Options;
use prof_export::OutputSpec;
use prof_export::Sink;
use prof_export::summary::Mode;
use prof_kernel::clock;
use prof_model::counters::SortKey;
use prof_model::record::End;
use prof_model::record::Header;
use prof_model::record::Record;
use prof_model::record::Repetition;

use crate::cli::Color;
use crate::cli::Shared;
use crate::stacks::Stacks;

/// Columns below which a terminal is not believed, and the most that COLUMNS may say.
const MIN_WIDTH: usize = 40;
const MAX_WIDTH: usize = 10_000;

/// Where an output goes that names no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// `run`: the output of the command stays clean.
    Stderr,
    /// The rest.
    Stdout,
}

/// Where writing failed, of what is written to nowhere else.
pub fn to_stdout(e: anyhow::Error) -> anyhow::Error {
    if e.chain().len() == 1 && e.is::<io::Error>() { e.context("standard output") } else { e }
}

struct Output {
    exporter: Box<dyn Exporter + Send>,
    writer: BufWriter<Box<dyn Write + Send>>,
    name: String,
}

impl Output {
    /// Opens one; of the options, what the place decides is overwritten.
    fn open(spec: &OutputSpec, options: &Options, color: Color, default: Default) -> Result<Self> {
        let to_stderr = spec.sink == Sink::Default && default == Default::Stderr;
        let (writer, name, color, width, cut): (Box<dyn Write + Send>, _, _, _, _) = match &spec
            .sink
        {
            Sink::File(path) => {
                let file = FileSink::open(path)
                    .with_context(|| format!("output file {}", path.display()))?;
                (Box::new(file), path.display().to_string(), false, file_width(), false)
            }
            _ if to_stderr => {
                let to = io::stderr();
                let (color, width, cut) = (color.on(&to), terminal_width(&to), to.is_terminal());
                (Box::new(to), "standard error".into(), color, width, cut)
            }
            _ => {
                let to = io::stdout();
                let (color, width, cut) = (color.on(&to), terminal_width(&to), to.is_terminal());
                (Box::new(to), "standard output".into(), color, width, cut)
            }
        };
        let boot_offset_ns = clock::boot_realtime_ns();
        let options = Options { color, width, cut, boot_offset_ns, ..options.clone() };
        Ok(Self {
            exporter: spec.format.exporter(&options),
            writer: BufWriter::with_capacity(64 * 1024, writer),
            name,
        })
    }
}

/// A file of lines. What was in it before goes when the first of them comes, and when there
/// is no room for one, what was written of it goes.
#[derive(Debug)]
struct FileSink {
    file: File,
    /// Bytes written, and those up to the end of the last whole line; none before the first.
    at: Option<(u64, u64)>,
    failed: bool,
}

impl FileSink {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file, at: None, failed: false })
    }
}

impl Write for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (at, whole) = match self.at {
            Some(at) => at,
            // A pipe or a device has no size.
            None => {
                let _ = self.file.set_len(0);
                (0, 0)
            }
        };
        self.at = Some((at, whole));
        match self.file.write(bytes) {
            Ok(n) => {
                let ends = bytes[..n].iter().rposition(|b| *b == b'\n');
                let whole = ends.map_or(whole, |i| at + i as u64 + 1);
                self.at = Some((at + n as u64, whole));
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                self.failed = true;
                // Of a device there is nothing to take back.
                let _ = self.file.set_len(whole);
                Err(e)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// All outputs; or, of a command that is run several times, what one run has of them.
pub struct Outputs {
    open: Rc<RefCell<Open>>,
    repetition: Option<Repetition>,
}

struct Open {
    list: Vec<Output>,
    errors: Vec<anyhow::Error>,
    /// The last record of the last run.
    end: Option<End>,
}

impl std::fmt::Debug for Outputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.open.borrow().list.iter().map(|o| &o.name)).finish()
    }
}

impl Outputs {
    /// Opens what `-o` asks for, or `format` if it asks for nothing.
    pub fn open(
        shared: &Shared,
        sort: Option<SortKey>,
        format: Format,
        default: Default,
        stacks: Option<&Stacks>,
    ) -> Result<Self> {
        differ(shared.output.iter().map(AnyOutputSpec::sink))?;
        let asked = if shared.output.is_empty() {
            vec![OutputSpec { format, sink: Sink::Default }]
        } else {
            let of_records = |o: &AnyOutputSpec| match o {
                AnyOutputSpec::Records(spec) => Some(spec.clone()),
                AnyOutputSpec::Stacks(_) | AnyOutputSpec::Raw(_) => None,
            };
            shared.output.iter().filter_map(of_records).collect()
        };
        let options = Options {
            top: shared.rows(),
            mode: match (sort, shared.by_exe) {
                (_, true) => Mode::GroupByExe,
                (Some(key), _) => Mode::Sort(key),
                _ => Mode::Tree,
            },
            ..Options::default()
        };
        let mut list = Vec::new();
        if let Some(stacks) = stacks {
            stacks.try_open()?;
            list.push(Output {
                exporter: Box::new(stacks.processes()),
                writer: BufWriter::with_capacity(0, Box::new(io::sink())),
                name: "processes of the stacks".into(),
            });
        }
        for spec in &asked {
            list.push(Output::open(spec, &options, shared.color, default)?);
        }
        Ok(Self::all(list))
    }

    /// Opens these, with nothing more to be said of them.
    pub fn of(specs: &[OutputSpec], color: Color, default: Default) -> Result<Self> {
        let open = |spec| Output::open(spec, &Options::default(), color, default);
        Ok(Self::all(specs.iter().map(open).collect::<Result<_>>()?))
    }

    fn all(list: Vec<Output>) -> Self {
        let open = Open { list, errors: Vec::new(), end: None };
        Self { open: Rc::new(RefCell::new(open)), repetition: None }
    }

    /// For one run: its header says which, and its end leaves the outputs open.
    pub fn of_run(&self, repetition: Repetition) -> Self {
        self.open.borrow_mut().end = None;
        Self { open: Rc::clone(&self.open), repetition: Some(repetition) }
    }

    /// The last record of the last run, if that came to its end.
    pub fn end_of_run(&self) -> Option<End> {
        self.open.borrow().end.clone()
    }

    /// Writes records to every output. One that fails is closed, the error kept
    /// for the end, and the others go on.
    pub fn write(&mut self, records: &[Record]) {
        let numbered;
        let records = match (self.repetition, records) {
            (Some(repetition), [Record::Header(h), rest @ ..]) => {
                let header = Header { repetition: Some(repetition), ..(**h).clone() };
                let header = Record::Header(Box::new(header));
                numbered = [vec![header], rest.to_vec()].concat();
                &numbered[..]
            }
            _ => records,
        };
        if let (Some(_), Some(Record::End(e))) = (self.repetition, records.last()) {
            self.open.borrow_mut().end = Some((**e).clone());
        }
        self.each(|o| {
            for r in records {
                o.exporter.record(r, &mut o.writer)?;
            }
            Ok(())
        });
    }

    /// What is waiting is to be seen now.
    pub fn flush(&mut self) {
        self.each(|o| o.writer.flush());
    }

    /// Whether anybody still listens.
    pub fn any_open(&self) -> bool {
        !self.open.borrow().list.is_empty()
    }

    fn each(&mut self, mut f: impl FnMut(&mut Output) -> io::Result<()>) {
        let Open { list, errors, .. } = &mut *self.open.borrow_mut();
        list.retain_mut(|o| match f(o) {
            Ok(()) => true,
            Err(e) => {
                let cure = match e.kind() {
                    io::ErrorKind::StorageFull => " (what was written before is whole)",
                    _ => "",
                };
                errors.push(anyhow::Error::new(e).context(format!("writing to {}{cure}", o.name)));
                false
            }
        });
    }

    /// Writes what is left and gives the first error there was. A reader that
    /// went away is none.
    pub fn finish(mut self) -> Result<()> {
        if self.repetition.is_some() {
            self.flush();
            return Ok(());
        }
        self.each(|o| {
            o.exporter.finish(&mut o.writer)?;
            o.writer.flush()
        });
        let errors = std::mem::take(&mut self.open.borrow_mut().errors);
        let real = errors.into_iter().find(|e| {
            e.downcast_ref::<io::Error>().is_none_or(|e| e.kind() != io::ErrorKind::BrokenPipe)
        });
        real.map_or(Ok(()), Err)
    }
}

/// Columns of a terminal; of anything else what COLUMNS says, or 100.
pub fn terminal_width(to: &impl std::os::fd::AsFd) -> usize {
    rustix::termios::tcgetwinsize(to)
        .ok()
        .map(|w| usize::from(w.ws_col))
        .filter(|w| *w >= MIN_WIDTH)
        .or_else(columns)
        .unwrap_or(100)
}

/// Columns of a file, which has no width of its own.
pub fn file_width() -> usize {
    columns().unwrap_or(120)
}

/// An error where two of these are one file: each would overwrite the other.
pub fn differ<'a>(sinks: impl Iterator<Item = &'a Sink>) -> Result<()> {
    let mut seen: Vec<&Path> = Vec::new();
    for sink in sinks {
        let Sink::File(path) = sink else { continue };
        if seen.contains(&path.as_path()) && !path.starts_with("/dev") {
            bail!("two outputs to {}: each needs a file of its own", path.display());
        }
        seen.push(path);
    }
    Ok(())
}

/// How wide somebody says that it is.
fn columns() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok()?.parse().ok();
    said.filter(|w| (MIN_WIDTH..=MAX_WIDTH).contains(w))
}
