//! `prof events`: what can be counted here, each tried.

use std::io;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use prof_events::Catalogue;
use prof_events::Request;
use prof_events::Selection;
use prof_events::Source;
use prof_events::catalogue::Entry;
use prof_events::catalogue::Kind;
use prof_kernel::counters;
use prof_kernel::host;
use prof_model::figures;
use prof_model::figures::Keeps;
use prof_model::text;

use crate::cli::EventsArgs;
use crate::cli::ListFormat;
use crate::say::say;
use crate::select;

/// To try a tracepoint changes the kernel's code for a moment, on every CPU, and to close
/// it waits until no CPU is in it any more, some 40 ms: this many are tried, more are only
/// listed.
const TRACEPOINTS_TRIED: usize = 64;
const TOO_MANY: &str = "not tried: that takes some 40 ms each; a pattern that names at most 64 \
     has them tried: prof events 'sched:sched_w*'";

/// Whether an event works here.
enum Works {
    Yes,
    No(String),
    NotTried(&'static str),
}

/// Lists them.
pub fn main(args: &EventsArgs) -> Result<ExitCode> {
    let catalogue = select::catalogue();
    let pattern = args.pattern.as_deref().unwrap_or_default();
    let wanted = |e: &Entry| pattern.is_empty() || e.is_named_by(pattern);
    let mut entries: Vec<Entry> = catalogue.entries().into_iter().filter(wanted).collect();
    let mut notes = catalogue.problems();
    let json = args.format == ListFormat::Json;
    let mut unknown = None;
    match catalogue.tracepoints() {
        // Thousands: a person asks for them by a pattern.
        Ok(points) if pattern.is_empty() && !json => {
            notes.push(format!("{} tracepoints: prof events 'sched:*'", points.len()));
        }
        Ok(points) => entries.extend(points.into_iter().filter(wanted)),
        Err(e) => unknown = Some(e.in_one_line()),
    }
    if pattern.is_empty() && !json {
        let vendor = entries.iter().filter(|e| e.kind == Kind::Vendor).count();
        if vendor > 0 {
            entries.retain(|e| e.kind != Kind::Vendor);
            notes.push(format!("{vendor} events of the CPU's vendor: prof events l1d"));
        }
    }
    let keeps = host::keeps();
    let cpu = host::online_cpus()?.first().copied().unwrap_or(0);
    let tracepoints = entries.iter().filter(|e| e.kind == Kind::Tracepoint).count();
    let mut out = io::stdout().lock();
    let mut heading = None;
    let mut reasons = Reasons::default();
    for e in &mut entries {
        let try_it = e.kind != Kind::Tracepoint || tracepoints <= TRACEPOINTS_TRIED;
        let selection = selected(e, &catalogue);
        if let Ok(selection) = &selection {
            complete(e, selection, &catalogue);
        }
        let e = &*e;
        let works = match selection {
            Err(why) => Works::No(why),
            Ok(_) if !try_it => Works::NotTried(TOO_MANY),
            Ok(selection) => tried(e, &selection, &keeps, cpu),
        };
        if json {
            writeln!(out, "{}", as_json(e, &works))?;
            continue;
        }
        if heading != Some(e.kind) {
            let gap = if heading.is_some() { "\n" } else { "" };
            writeln!(out, "{gap}{}:", title(e.kind))?;
            heading = Some(e.kind);
        }
        writeln!(out, "{}", line(e, &works, &mut reasons))?;
    }
    if json {
        // Where only JSON is expected this has no place.
        if let Some(why) = &unknown {
            say!("prof: {}", text::for_terminal(why.as_bytes()));
        }
    } else {
        let gap = if entries.is_empty() { "" } else { "\n" };
        if entries.is_empty() && unknown.is_none() {
            writeln!(out, "no event is named by '{}'", text::for_terminal(pattern.as_bytes()))?;
        }
        notes.extend(unknown);
        notes.splice(0..0, reasons.lines());
        for (i, note) in notes.iter().enumerate() {
            let gap = if i == 0 { gap } else { "" };
            writeln!(out, "{gap}{}", text::for_terminal(note.as_bytes()))?;
        }
    }
    let found = !entries.is_empty();
    Ok(if found { ExitCode::SUCCESS } else { ExitCode::from(crate::cli::FAILED) })
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Figure => "Figures that the kernel keeps for each process",
        Kind::Metric => "Computed from events",
        Kind::Hardware => "Hardware events",
        Kind::Software => "Software events",
        Kind::Cache => "Cache events",
        Kind::Pmu => "Events that the kernel names for a PMU",
        Kind::Vendor => "Events of the CPU's vendor",
        Kind::Tracepoint => "Tracepoints",
    }
}

/// Why events do not work: each reason once, with a number.
#[derive(Default)]
struct Reasons(Vec<String>);

impl Reasons {
    fn mark(&mut self, reason: &str) -> String {
        let at = self.0.iter().position(|r| r == reason).unwrap_or_else(|| {
            self.0.push(reason.to_owned());
            self.0.len() - 1
        });
        format!("-[{}]", at + 1)
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        (1..).zip(&self.0).map(|(i, reason)| format!("-[{i}]  {reason}"))
    }
}

fn line(e: &Entry, works: &Works, reasons: &mut Reasons) -> String {
    let name = match e.aliases.is_empty() {
        true => e.name.clone(),
        false => format!("{} ({})", e.name, e.aliases.join(", ")),
    };
    let id = e.id.map_or_else(String::new, |id| format!("{id:#010x}"));
    let mark = match works {
        Works::Yes => "ok".to_owned(),
        Works::No(why) => reasons.mark(&format!("not here: {why}")),
        Works::NotTried(why) => reasons.mark(why),
    };
    let text = format!("  {mark:<5} {name:<36} {:<11} {id:<10}  {}", e.unit, e.description);
    text::for_terminal(text.trim_end().as_bytes())
}

fn as_json(e: &Entry, works: &Works) -> serde_json::Value {
    let s = |s: &str| text::for_json(s.as_bytes()).into_owned();
    let (tried, reason) = match works {
        Works::Yes => (Some(true), None),
        Works::No(why) => (Some(false), Some(s(why))),
        Works::NotTried(why) => (None, Some(s(why))),
    };
    let aliases: Vec<_> = e.aliases.iter().map(|a| s(a)).collect();
    serde_json::json!({
        "name": s(&e.name), "aliases": aliases, "kind": e.kind.name(), "source": s(&e.source),
        "id": e.id, "unit": s(&e.unit), "about": s(&e.description), "works": tried,
        "reason": reason,
    })
}

/// What `-e` would make of it; of a figure nothing is to be opened.
fn selected(e: &Entry, catalogue: &Catalogue) -> Result<Selection, String> {
    if e.kind == Kind::Figure {
        return Ok(Selection::default());
    }
    let mut request = Request::default();
    let selection = request.add("", &e.name).and_then(|()| request.resolve(catalogue));
    selection.map_err(|e| e.message)
}

/// With what can be told only when it is looked at: the id that it has in the records,
/// unless it stands for several events, and what a tracepoint tells.
fn complete(e: &mut Entry, selection: &Selection, catalogue: &Catalogue) {
    if let (true, [event]) = (selection.metrics.is_empty(), selection.events.as_slice()) {
        e.id = e.id.or(event.id());
    }
    if e.kind == Kind::Tracepoint && e.description.is_empty() {
        e.description = catalogue.about_tracepoint(e).unwrap_or_default();
    }
}

/// Opens it, as `-e` would.
fn tried(e: &Entry, selection: &Selection, keeps: &Keeps, cpu: u32) -> Works {
    if e.kind == Kind::Figure {
        let known = figures::EVENTS.iter().find(|f| f.name == e.name);
        return match known.and_then(|f| keeps.lacks(f.event)) {
            Some(why) => Works::No(why.to_owned()),
            None => Works::Yes,
        };
    }
    for event in selection.events.iter().filter(|e| !matches!(e.source, Source::Figure(_))) {
        let Some(attr) = &event.attr else { continue };
        let cpu = event.cpus.as_ref().and_then(|c| c.iter().next()).unwrap_or(cpu);
        if let Err(e) = counters::probe(&event.name, attr, cpu) {
            // The name stands in the same line already.
            let why = format!("{e:#}");
            let short = why.split_once(": ").map_or(why.as_str(), |(_, why)| why);
            return Works::No(short.to_owned());
        }
        if !event.per_task {
            return Works::No("counts for the whole machine, not for a process".to_owned());
        }
    }
    Works::Yes
}
