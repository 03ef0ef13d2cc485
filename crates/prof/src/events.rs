//! `prof events`.

use std::io;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use prof_kernel::host;
use prof_model::figures::EVENTS;
use prof_model::figures::Event;
use prof_model::figures::EventInfo;
use prof_model::figures::Keeps;

use crate::cli::EventsArgs;
use crate::cli::ListFormat;

/// Why this kernel does not keep the figure, if it does not.
fn missing(e: Event, keeps: &Keeps) -> Option<&'static str> {
    match e {
        Event::RunQueueWait if !keeps.run_delay => Some("no CONFIG_SCHED_INFO"),
        Event::ReadBytes | Event::WrittenBytes if !keeps.io_chars => Some("no CONFIG_TASK_XACCT"),
        Event::StorageReadBytes | Event::StorageWrittenBytes if !keeps.io_bytes => {
            Some("no CONFIG_TASK_IO_ACCOUNTING")
        }
        _ => None,
    }
}

/// Lists them.
pub fn main(args: &EventsArgs) -> Result<ExitCode> {
    let keeps = host::keeps();
    let pattern = args.pattern.as_deref().unwrap_or_default().to_ascii_lowercase();
    let wanted = |e: &&EventInfo| {
        e.name.contains(&pattern)
            || e.about.to_ascii_lowercase().contains(&pattern)
            || e.aliases.iter().any(|a| a.contains(&pattern))
    };
    let mut out = io::stdout().lock();
    for e in EVENTS.iter().filter(wanted) {
        let why_not = missing(e.event, &keeps);
        match args.format {
            ListFormat::Json => {
                let line = serde_json::json!({
                    "name": e.name, "aliases": e.aliases, "id": e.id, "unit": e.unit.name(),
                    "about": e.about, "works": why_not.is_none(), "reason": why_not,
                });
                writeln!(out, "{line}")?;
            }
            ListFormat::Text => {
                let mark = why_not.map(|w| format!("  [not here: {w}]")).unwrap_or_default();
                let (name, unit, id, about) = (e.name, e.unit.name(), e.id, e.about);
                writeln!(out, "{name:<22} {unit:<6} {id:#010x}  {about}{mark}")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
