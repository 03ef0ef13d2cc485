//! How prof shows what it knows: one module per output format.
//!
//! - [`json`]: every record, one object a line; `docs/schema` has its schema
//! - [`tracee`]: `prof` events as Tracee v0.20–v0.24 prints events
//! - [`table`]: a line for each event and profile as it comes, to watch
//! - [`summary`]: one view of a whole run, at its end
//! - [`stacks`]: samples with their stacks, in formats of their own
//!
//! Nothing here looks at a terminal, a clock or the environment: what depends on
//! them is in [`Options`]. Writers come with each call, so one stream can feed
//! several outputs.

mod audit;
mod human;
mod layout;

pub mod audit_list;
pub mod json;
pub mod stacks;
pub mod summary;
pub mod table;
pub mod tracee;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::io::Write;
use std::path::PathBuf;

use prof_model::record::Record;
use prof_model::text;

/// Writes the records of one stream in one format.
pub trait Exporter {
    /// Takes the next record. What is to be seen at once is written at once; a
    /// view of the whole waits for [`finish`](Exporter::finish).
    fn record(&mut self, r: &Record, out: &mut dyn Write) -> io::Result<()>;

    /// Writes what is left when no record follows. To be called once, also when
    /// the stream broke off without its `end` record.
    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()>;
}

/// An output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A line for each event and profile, for people.
    Table,
    /// One view of the whole run, for people.
    Summary,
    /// Every record as JSON, one object a line.
    Json,
    /// `prof` events in Tracee's JSON.
    Tracee,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Table, Self::Summary, Self::Json, Self::Tracee];

    /// Its name, as in `-o`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Summary => "summary",
            Self::Json => "json",
            Self::Tracee => "tracee",
        }
    }

    /// What it is, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Table => "a line for each event and profile as it comes",
            Self::Summary => "one view of the whole run, at its end",
            Self::Json => "every record, one JSON object a line",
            Self::Tracee => "prof events in the JSON of Tracee v0.20 to v0.24",
        }
    }

    /// An exporter of this format.
    pub fn exporter(self, options: &Options) -> Box<dyn Exporter + Send> {
        match self {
            Self::Table => Box::new(table::Table::new(options)),
            Self::Summary => Box::new(summary::Summary::new(options)),
            Self::Json => Box::new(json::Json::new()),
            Self::Tracee => Box::new(tracee::Tracee::new(options)),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an exporter has to be told about where it writes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether to write colours (SGR sequences).
    pub color: bool,
    /// Columns of the terminal.
    pub width: usize,
    /// Whether the lines of a table end there: in a file or a pipe there is no edge, and
    /// who searches it wants all of them.
    pub cut: bool,
    /// Most rows in a summary.
    pub top: usize,
    /// How a summary is laid out.
    pub mode: summary::Mode,
    /// CLOCK_REALTIME minus CLOCK_BOOTTIME, ns: Tracee tells starts of processes
    /// since the epoch.
    pub boot_offset_ns: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            color: false,
            width: 80,
            cut: true,
            top: 30,
            mode: summary::Mode::Tree,
            boot_offset_ns: 0,
        }
    }
}

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// Not said: standard error for `prof run`, so that the output of the command
    /// stays clean; standard output for the rest.
    Default,
    /// `-`.
    Stdout,
    /// This file, made anew.
    File(PathBuf),
}

/// One `-o FORMAT[:FILE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// What to write.
    pub format: Format,
    /// Where to.
    pub sink: Sink,
}

impl OutputSpec {
    /// Reads `FORMAT[:FILE]`; a FILE of `-` is standard output.
    pub fn parse(spec: &str) -> Result<Self, OutputError> {
        let (format, sink) = read_spec(spec, &Format::ALL, Format::name)?;
        Ok(Self { format, sink })
    }
}

impl std::str::FromStr for OutputSpec {
    type Err = OutputError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

/// One `-o FORMAT[:FILE]` of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyOutputSpec {
    /// Of the records of a stream.
    Records(OutputSpec),
    /// Of stacks, named.
    Stacks(stacks::StackOutputSpec),
    /// Of stacks as they were taken, for `prof report`.
    Raw(Sink),
}

impl AnyOutputSpec {
    /// Where to.
    pub fn sink(&self) -> &Sink {
        match self {
            Self::Records(spec) => &spec.sink,
            Self::Stacks(spec) => &spec.sink,
            Self::Raw(sink) => sink,
        }
    }
}

/// Any format.
#[derive(Debug, Clone, Copy)]
enum AnyFormat {
    Records(Format),
    Stacks(stacks::StackFormat),
    Raw,
}

impl AnyFormat {
    fn name(self) -> &'static str {
        match self {
            Self::Records(f) => f.name(),
            Self::Stacks(f) => f.name(),
            Self::Raw => "raw",
        }
    }
}

impl std::str::FromStr for AnyOutputSpec {
    type Err = OutputError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let records = Format::ALL.into_iter().map(AnyFormat::Records);
        let stacks = stacks::StackFormat::ALL.into_iter().map(AnyFormat::Stacks);
        let all: Vec<_> = records.chain(stacks).chain([AnyFormat::Raw]).collect();
        let (format, sink) = read_spec(s, &all, AnyFormat::name)?;
        Ok(match format {
            AnyFormat::Records(format) => Self::Records(OutputSpec { format, sink }),
            AnyFormat::Stacks(format) => Self::Stacks(stacks::StackOutputSpec { format, sink }),
            AnyFormat::Raw => Self::Raw(sink),
        })
    }
}

/// The format and the place in `FORMAT[:FILE]`.
fn read_spec<F: Copy>(
    spec: &str,
    all: &[F],
    name_of: fn(F) -> &'static str,
) -> Result<(F, Sink), OutputError> {
    let (name, file) = match spec.split_once(':') {
        Some((name, file)) => (name, Some(file)),
        None => (spec, None),
    };
    let format = format_named(spec, name, all, name_of)?;
    let sink = match file {
        None => Sink::Default,
        Some("") => return Err(OutputError::no_file(spec)),
        Some("-") => Sink::Stdout,
        Some(path) => Sink::File(path.into()),
    };
    Ok((format, sink))
}

/// The format of this name, which stands at the start of `spec`.
fn format_named<F: Copy>(
    spec: &str,
    name: &str,
    all: &[F],
    name_of: fn(F) -> &'static str,
) -> Result<F, OutputError> {
    let names = || all.iter().map(|f| name_of(*f)).collect::<Vec<_>>();
    let format = all.iter().copied().find(|f| name_of(*f) == name);
    format.ok_or_else(|| OutputError::unknown_format(spec, name, &names()))
}

/// An output that cannot be read, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputError {
    /// As given.
    pub spec: String,
    /// Byte offset of what is at fault.
    pub at: usize,
    /// Its length.
    pub len: usize,
    /// What is wrong, and what was perhaps meant.
    pub message: String,
}

impl OutputError {
    fn unknown_format(spec: &str, name: &str, names: &[&str]) -> Self {
        let near = names
            .iter()
            .map(|n| (text::distance(&name.to_ascii_lowercase(), n), n))
            .filter(|(d, n)| *d <= n.len() / 3 + 1)
            .min();
        let known = format!("the formats are {}", names.join(", "));
        let message = match (name.is_empty(), near) {
            (true, _) => format!("an output format is missing; {known}"),
            (false, Some((_, n))) => {
                format!("unknown output format '{name}'; did you mean {n}? ({known})")
            }
            (false, None) => format!("unknown output format '{name}'; {known}"),
        };
        Self { spec: spec.into(), at: 0, len: name.len().max(1), message }
    }

    fn no_file(spec: &str) -> Self {
        let message = "a file name, or - for standard output, is missing after ':'".into();
        Self { spec: spec.into(), at: spec.len() - 1, len: 1, message }
    }
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::caret(f, &self.message, &self.spec, self.at, self.len)
    }
}

impl std::error::Error for OutputError {}

/// Names of the rules whose bit is set in `bits`. A bit that the header does not
/// explain is shown by its number: it must not go unseen.
fn rule_names(bits: u64, names: &[String]) -> Vec<Cow<'_, str>> {
    (0..64)
        .filter(|i| bits >> i & 1 != 0)
        .map(|i| names.get(i).map_or_else(|| format!("#{i}").into(), Into::into))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_a_format_and_perhaps_a_file() {
        let spec = |s: &str| OutputSpec::parse(s).map(|s| (s.format, s.sink));
        assert_eq!(spec("json"), Ok((Format::Json, Sink::Default)));
        assert_eq!(spec("table:-"), Ok((Format::Table, Sink::Stdout)));
        let file = Sink::File("/tmp/a:b.json".into());
        assert_eq!(spec("tracee:/tmp/a:b.json"), Ok((Format::Tracee, file)));
    }

    #[test]
    fn an_unknown_format_names_the_nearest_and_all() {
        let e = OutputSpec::parse("jsno:/tmp/x").unwrap_err();
        assert_eq!(
            e.to_string(),
            "unknown output format 'jsno'; did you mean json? \
             (the formats are table, summary, json, tracee)\n  jsno:/tmp/x\n  ^^^^"
        );
        let e = OutputSpec::parse("pprof").unwrap_err();
        assert!(e.message.ends_with("'pprof'; the formats are table, summary, json, tracee"));
        assert!(OutputSpec::parse("").unwrap_err().message.contains("missing"));
        assert_eq!(OutputSpec::parse("json:").unwrap_err().at, 4);
    }

    #[test]
    fn a_rule_without_a_name_is_a_number() {
        assert_eq!(rule_names(0b101, &["a".into(), "b".into()]), ["a", "#2"]);
    }
}
