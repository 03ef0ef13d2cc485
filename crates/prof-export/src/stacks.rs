//! Samples with their stacks: one module per format, each with a `write`.
//!
//! - [`text`]: for a terminal: the heaviest functions, the call tree, what is whole
//! - [`folded`]: a stack a line, for flame graphs and `grep`
//! - [`flamegraph`]: an SVG, or a page with one, to search and zoom in
//! - [`pprof`]: pprof's `profile.proto`, all events in one file
//! - [`firefox`]: Firefox Profiler, with times
//! - [`speedscope`]: speedscope's JSON
//! - [`perfdata`]: perf's `perf.data`, without names
//! - [`names`]: what a frame is called in all of them

pub mod firefox;
pub mod flamegraph;
pub mod folded;
pub mod names;
pub mod perfdata;
pub mod pprof;
pub mod speedscope;
pub mod text;

use std::fmt;
use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use prof_model::stacks::SampledEvent;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Whole;

use self::names::Names;
use crate::OutputError;
use crate::Sink;
use crate::human;

/// Most reasons for places without names that are told.
const REASONS: usize = 10;

/// A format of stacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackFormat {
    /// The heaviest functions and the call tree, for people.
    Text,
    /// A stack a line.
    Folded,
    /// An SVG, or a page with one.
    Flamegraph,
    /// pprof's `profile.proto`.
    Pprof,
    /// Firefox Profiler.
    Firefox,
    /// speedscope.
    Speedscope,
    /// perf's `perf.data`.
    Perfdata,
}

impl StackFormat {
    /// Every format.
    pub const ALL: [Self; 7] = [
        Self::Text,
        Self::Folded,
        Self::Flamegraph,
        Self::Pprof,
        Self::Firefox,
        Self::Speedscope,
        Self::Perfdata,
    ];

    /// Its name, as in `-o`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Folded => "folded",
            Self::Flamegraph => "flamegraph",
            Self::Pprof => "pprof",
            Self::Firefox => "firefox",
            Self::Speedscope => "speedscope",
            Self::Perfdata => "perfdata",
        }
    }

    /// What it is, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Text => "the heaviest functions and the call tree",
            Self::Folded => "a stack a line, with its weight",
            Self::Flamegraph => "an interactive SVG; a page if the file is .html",
            Self::Pprof => "pprof's profile.proto, gzipped, all events",
            Self::Firefox => "Firefox Profiler; gzipped if the file is .gz",
            Self::Speedscope => "speedscope's JSON",
            Self::Perfdata => "perf's perf.data: addresses, for perf report and perf script",
        }
    }

    /// Whether it is for people to read where it is written, not for a program.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Folded)
    }

    /// Writes a profile in this format.
    pub fn write(
        self,
        profile: &StackProfile,
        options: &StackOptions,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        match self {
            Self::Text => text::write(profile, options, out),
            Self::Folded => folded::write(profile, options, out),
            Self::Flamegraph => flamegraph::write(profile, options, out),
            Self::Pprof => pprof::write(profile, options, out),
            Self::Firefox => firefox::write(profile, options, out),
            Self::Speedscope => speedscope::write(profile, options, out),
            Self::Perfdata => perfdata::write(profile, options, out),
        }
    }
}

impl fmt::Display for StackFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StackFormat {
    type Err = OutputError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        crate::format_named(s, s, &Self::ALL, Self::name)
    }
}

/// One `-o FORMAT[:FILE]` of stacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackOutputSpec {
    /// What to write.
    pub format: StackFormat,
    /// Where to.
    pub sink: Sink,
}

impl FromStr for StackOutputSpec {
    type Err = OutputError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (format, sink) = crate::read_spec(s, &StackFormat::ALL, StackFormat::name)?;
        Ok(Self { format, sink })
    }
}

/// What stands at the root of stacks, before functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Root {
    /// Nothing: stacks begin with functions.
    Function,
    /// The thread's name.
    #[default]
    Comm,
    /// The thread's name and the process's id: `make-1234`.
    CommPid,
}

/// What a writer has to be told about what to write, and where.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// Which event, by its place in the profile: formats that hold one take the first
    /// that has samples if it is not said, and time off the CPU with it if it is a time;
    /// those that hold several take all.
    pub event: Option<u32>,
    /// What stands at the root of stacks; of `text`, `folded` and `flamegraph`.
    pub root: Root,
    /// The file that is written, if it is one: its extension chooses between kinds of a
    /// format.
    pub file: Option<PathBuf>,
    /// Whether to write colours (SGR sequences); of `text`.
    pub color: bool,
    /// Columns; of `text`.
    pub width: usize,
    /// Whether what is wider is cut: a terminal would break it; of `text`.
    pub cut: bool,
    /// Most rows among the heaviest functions; of `text`.
    pub top: usize,
    /// Most levels of the call tree; of `text`.
    pub depth: usize,
    /// The part of all, 0 to 1, below which a path is left out of the tree; of `text`.
    pub threshold: f64,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            event: None,
            root: Root::default(),
            file: None,
            color: false,
            width: 80,
            cut: true,
            top: 20,
            depth: 24,
            threshold: 0.01,
        }
    }
}

impl StackOptions {
    /// The one event that is shown, by its place.
    pub fn event_of(&self, profile: &StackProfile) -> Option<u32> {
        self.event
            .or_else(|| profile.samples.iter().map(|s| s.event).min())
            .filter(|e| (*e as usize) < profile.events.len())
    }

    /// Those that are drawn as one: time off the CPU goes with time on it.
    fn drawn(&self, profile: &StackProfile) -> Vec<u32> {
        let Some(first) = self.event_of(profile) else { return Vec::new() };
        let event = &profile.events[first as usize];
        if self.event.is_some() || !is_time(event) || is_off_cpu(event) {
            return vec![first];
        }
        let has_samples = |e: u32| profile.samples.iter().any(|s| s.event == e);
        let off = (0..)
            .zip(&profile.events)
            .filter(|(e, event)| is_off_cpu(event) && is_time(event) && has_samples(*e));
        std::iter::once(first).chain(off.map(|(e, _)| e)).collect()
    }

    /// Those that are shown where there is room for several.
    fn events_of(&self, profile: &StackProfile) -> Vec<u32> {
        (0..profile.events.len() as u32).filter(|e| self.event.is_none_or(|o| o == *e)).collect()
    }

    /// Whether the file's name ends so.
    fn ends_with(&self, extension: &str) -> bool {
        let file = self.file.as_ref().and_then(|f| f.extension());
        file.is_some_and(|e| e.eq_ignore_ascii_case(extension))
    }
}

/// Refuses a profile that points at nothing: writers rely on it.
fn check(profile: &StackProfile) -> io::Result<()> {
    profile.check().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Whether weights of the event are times.
fn is_time(event: &SampledEvent) -> bool {
    event.unit == "ns"
}

/// Whether the event tells of time off the CPU: its samples come when it is over.
fn is_off_cpu(event: &SampledEvent) -> bool {
    event.name == "off-cpu"
}

/// What an event's sample stands for, if it is known and the same for all.
fn period(event: &SampledEvent) -> Option<u64> {
    let by_time =
        || event.frequency_hz.filter(|_| is_time(event)).map(|hz| 1_000_000_000 / hz.max(1));
    event.period.or_else(by_time).filter(|p| *p > 0)
}

/// Whether there was more than there is.
fn ended_early(profile: &StackProfile) -> Option<String> {
    let text = "the recording has no end: prof was killed, had no room, or still writes it; its last \
                moment is missing, and names of code that was made at run time";
    profile.ended_early.then(|| text.to_owned())
}

/// How much of the stacks there is, and why not more.
fn wholeness(profile: &StackProfile) -> Option<String> {
    let samples = profile.samples.len();
    let mut parts = profile.wholeness();
    parts.sort_by_key(|(whole, _)| *whole != Whole::Whole);
    let part = |(whole, n): (Whole, u64)| {
        let what = if whole == Whole::Whole { "whole" } else { whole.about() };
        format!("{} {what} ({})", human::percent(n as f64 / samples as f64), human::count(n))
    };
    let parts: Vec<String> = parts.into_iter().map(part).collect();
    (samples > 0).then(|| format!("stacks: {}", parts.join("; ")))
}

/// Files at which stacks end, as they have no unwind table, and why, a line each.
pub fn without_table(profile: &StackProfile) -> Vec<String> {
    let all = profile.ends_without_table();
    let mut lines: Vec<String> = all
        .iter()
        .take(REASONS)
        .map(|(module, why, samples)| {
            let module = profile.modules.get(module.0 as usize);
            let file = module.map(|m| names::path(&m.path)).unwrap_or_default();
            let why = names::clean(why.unwrap_or("it was not there in time").as_bytes());
            format!(
                "no unwind table, {}: {file}: {why}",
                human::plural(*samples, "sample", "samples")
            )
        })
        .collect();
    if all.len() > REASONS {
        let more = human::plural((all.len() - REASONS) as u64, "more file", "more files");
        lines.push(format!("no unwind table: {more}"));
    }
    lines
}

/// Why places have no names, a line each.
fn unnamed(names: &Names<'_>) -> Vec<String> {
    let all = names.unnamed();
    let mut lines: Vec<String> = all
        .iter()
        .take(REASONS)
        .map(|(file, reason, places)| {
            format!("unnamed: {} in {file}: {reason}", human::plural(*places, "place", "places"))
        })
        .collect();
    if all.len() > REASONS {
        let more = human::plural((all.len() - REASONS) as u64, "more reason", "more reasons");
        lines.push(format!("unnamed: {more}"));
    }
    lines
}

/// The command line as it is shown.
fn command(profile: &StackProfile) -> String {
    names::clean(profile.command.join(" ").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_found_by_name_and_with_a_file() {
        for f in StackFormat::ALL {
            assert_eq!(f.name().parse(), Ok(f));
        }
        let spec: StackOutputSpec = "flamegraph:/tmp/a.svg".parse().unwrap();
        assert_eq!(spec.format, StackFormat::Flamegraph);
        assert_eq!(spec.sink, Sink::File("/tmp/a.svg".into()));
        let e = "flamegraf:x.svg".parse::<StackOutputSpec>().unwrap_err();
        assert!(e.message.contains("did you mean flamegraph?"), "{e}");
        assert!("folded:".parse::<StackOutputSpec>().is_err());
    }

    #[test]
    fn a_period_is_known_or_follows_from_the_frequency_of_a_clock() {
        let event = |unit: &str, frequency_hz, period| SampledEvent {
            name: "e".into(),
            unit: unit.into(),
            frequency_hz,
            period,
        };
        assert_eq!(period(&event("", None, Some(1000))), Some(1000));
        assert_eq!(period(&event("ns", Some(1000), None)), Some(1_000_000));
        assert_eq!(period(&event("", Some(1000), None)), None);
        assert_eq!(period(&event("ns", Some(0), None)), Some(1_000_000_000));
    }
}
