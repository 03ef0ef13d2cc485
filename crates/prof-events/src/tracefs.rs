//! Tracepoints as the tracing file system has them.

use std::io;
use std::path::Path;

use prof_model::rules::Span;

use crate::error::ErrorKind;
use crate::error::EventError;
use crate::error::Fault;
use crate::glob;
use crate::host;
use crate::host::Host;

/// A tracepoint of this kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracepoint {
    /// Its system: `sched`.
    pub system: String,
    /// Its name in that: `sched_wakeup`.
    pub name: String,
    /// Its number in this kernel: `perf_event_attr.config`.
    pub id: u64,
    /// What has to hold for it to count, in the kernel's language for that.
    pub filter: Option<String>,
}

/// Longest filter, in bytes, with its end: a page, since the kernel reads one.
const MAX_FILTER: usize = 4096;

/// What is wrong with a folder or file that a list led to.
fn unreadable(path: &Path, e: &io::Error, span: Span) -> Fault {
    let message = format!("tracepoints cannot be read: {}: {e}", path.display());
    let fault = Fault::new(ErrorKind::Tracefs, span, message);
    match e.kind() {
        io::ErrorKind::PermissionDenied => fault
            .help("run as root, or with CAP_DAC_READ_SEARCH to read them and CAP_PERFMON to count"),
        _ => fault,
    }
}

/// Systems, sorted.
pub(crate) fn systems(host: &Host, span: Span) -> Result<Vec<String>, Fault> {
    let folder = host.tracefs.join("events");
    match host::names(&folder) {
        Ok(Some(names)) => {
            // Beside the systems there are a few files.
            Ok(names.into_iter().filter(|n| folder.join(n).is_dir()).collect())
        }
        Ok(None) => {
            let path = host.tracefs.display();
            let message = format!("no tracepoints: the tracing file system is not at {path}");
            Err(Fault::new(ErrorKind::Tracefs, span, message)
                .help("mount -t tracefs tracefs /sys/kernel/tracing"))
        }
        Err(e) => Err(unreadable(&folder, &e, span)),
    }
}

/// Tracepoints of a system, sorted; `None` if there is no such system.
pub(crate) fn names(host: &Host, system: &str, span: Span) -> Result<Option<Vec<String>>, Fault> {
    if !host::is_plain(system) {
        return Ok(None);
    }
    let folder = host.tracefs.join("events").join(system);
    match host::names(&folder) {
        Ok(Some(names)) => {
            // What can be counted has an id; `enable` and `filter` are files.
            Ok(Some(names.into_iter().filter(|n| folder.join(n).join("id").exists()).collect()))
        }
        Ok(None) => Ok(None),
        Err(e) => Err(unreadable(&folder, &e, span)),
    }
}

/// The tracepoints that both patterns name; at least one.
pub(crate) fn find(
    host: &Host,
    system: &str,
    name: &str,
    span: Span,
) -> Result<Vec<Tracepoint>, Fault> {
    if !glob::is_glob(system) && !glob::is_glob(name) {
        let plain = host::is_plain(system) && host::is_plain(name);
        if plain && let Some(found) = read(host, system, name, span)? {
            return Ok(vec![found]);
        }
        return Err(unknown(host, system, name, span));
    }
    let mut found = Vec::new();
    let all = match glob::is_glob(system) {
        true => systems(host, span)?,
        false => vec![system.to_owned()],
    };
    for s in all.iter().filter(|s| glob::matches(system, s)) {
        for n in names(host, s, span)?.unwrap_or_default() {
            if glob::matches(name, &n) {
                found.extend(read(host, s, &n, span)?);
            }
        }
    }
    match found.is_empty() {
        true => Err(unknown(host, system, name, span)),
        false => Ok(found),
    }
}

/// All that can be read, whatever is wrong with others.
pub(crate) fn readable(host: &Host) -> Vec<Tracepoint> {
    let span = Span::default();
    let mut found = Vec::new();
    for system in systems(host, span).unwrap_or_default() {
        for name in names(host, &system, span).ok().flatten().unwrap_or_default() {
            found.extend(read(host, &system, &name, span).ok().flatten());
        }
    }
    found
}

fn read(host: &Host, system: &str, name: &str, span: Span) -> Result<Option<Tracepoint>, Fault> {
    let path = host.tracefs.join("events").join(system).join(name).join("id");
    match host::read(&path) {
        Ok(Some(text)) => {
            let id = text.parse().map_err(|_| {
                let message = format!("{}: '{text}' is no id", path.display());
                Fault::new(ErrorKind::Host, span, message)
            })?;
            let (system, name) = (system.to_owned(), name.to_owned());
            Ok(Some(Tracepoint { system, name, id, filter: None }))
        }
        Ok(None) => Ok(None),
        Err(e) => Err(unreadable(&path, &e, span)),
    }
}

/// What a tracepoint tells at each hit, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Fields {
    /// Of this tracepoint.
    pub(crate) own: Vec<String>,
    /// Of every one.
    pub(crate) common: Vec<String>,
}

/// Names beside the fields that the kernel takes in a filter.
const GENERIC: [&str; 6] = ["CPU", "cpu", "COMM", "comm", "STACKTRACE", "stacktrace"];

/// The fields of a tracepoint; `None` if they cannot be read.
pub(crate) fn fields(host: &Host, system: &str, name: &str) -> Option<Fields> {
    if !host::is_plain(system) || !host::is_plain(name) {
        return None;
    }
    let path = host.tracefs.join("events").join(system).join(name).join("format");
    let text = host::read(&path).ok().flatten()?;
    let mut fields = Fields::default();
    // `field:char comm[16];	offset:8;	size:16;	signed:0;`, `field:__data_loc char[] name;…`
    for line in text.lines().filter_map(|l| l.trim_start().strip_prefix("field:")) {
        let declared = line.split(';').next().and_then(|d| d.split_whitespace().next_back());
        let name = declared.and_then(|d| d.split('[').next()).unwrap_or_default();
        let name = name.trim_start_matches('*');
        match name.starts_with("common_") {
            _ if name.is_empty() => {}
            true => fields.common.push(name.to_owned()),
            false => fields.own.push(name.to_owned()),
        }
    }
    Some(fields)
}

/// Why the kernel does not take a filter, with the fields that there are. `why` is what
/// it said, which is the same whatever is wrong.
pub(crate) fn refused(host: &Host, t: &Tracepoint, why: &str) -> Option<EventError> {
    let filter = t.filter.as_deref()?;
    let full = format!("{}:{}", t.system, t.name);
    let origin = format!("filter of {full}");
    let whole = Span { at: 0, len: filter.len() };
    let Some(fields) = fields(host, &t.system, &t.name) else {
        let fault = Fault::new(ErrorKind::Value, whole, format!("the kernel says {why}"));
        return Some(fault.in_text(&origin, filter));
    };
    let known = || fields.own.iter().chain(&fields.common).map(String::as_str).chain(GENERIC);
    let fault = match fields_in(filter).into_iter().find(|(name, _)| known().all(|k| k != *name)) {
        Some((name, span)) => {
            let message = format!("there is no field '{name}'");
            Fault::new(ErrorKind::Value, span, message).near(name, known())
        }
        None => {
            let message = format!("the kernel does not take it: {why}");
            Fault::new(ErrorKind::Value, whole, message)
        }
    };
    let own = match fields.own.is_empty() {
        true => "none of its own".to_owned(),
        false => fields.own.join(", "),
    };
    let common = fields.common.join(", ");
    let help = format!("its fields are: {own}; those of every tracepoint: {common}, CPU, COMM");
    Some(fault.help(help).in_text(&origin, filter))
}

/// The words of a filter that stand where a field does, with their places.
fn fields_in(filter: &str) -> Vec<(&str, Span)> {
    let of_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let mut found = Vec::new();
    let (mut at, mut is_next, mut quote) = (0, true, None);
    while let Some(c) = filter[at..].chars().next() {
        let rest = &filter[at..];
        let mut len = c.len_utf8();
        match quote {
            Some(q) if q == c => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if rest.starts_with("&&") || rest.starts_with("||") => (len, is_next) = (2, true),
            None if of_word(c) => {
                len = rest.find(|c| !of_word(c)).unwrap_or(rest.len());
                if std::mem::take(&mut is_next) {
                    // `filename.ustring`: how to read it.
                    let name = rest[..len].split('.').next().unwrap_or_default();
                    found.push((name, Span { at, len: name.len() }));
                }
            }
            None => {}
        }
        at += len;
    }
    found
}

/// Says which half is unknown, and what comes near.
fn unknown(host: &Host, system: &str, name: &str, span: Span) -> Fault {
    let all = match systems(host, span) {
        Ok(all) => all,
        Err(fault) => return fault,
    };
    let fault = |message| Fault::new(ErrorKind::UnknownTracepoint, span, message);
    let of_system = names(host, system, span).ok().flatten();
    match of_system {
        _ if glob::is_glob(system) => {
            fault(format!("no tracepoint is called '{system}:{name}' in this kernel"))
        }
        None => {
            let near: Vec<_> = all.iter().map(|s| format!("{s}:")).collect();
            fault(format!("this kernel has no tracepoints of '{system}', and no such event"))
                .near(&format!("{system}:"), near.iter().map(String::as_str))
        }
        Some(names) => fault(format!("'{system}' has no tracepoint '{name}' in this kernel"))
            .near(name, names.iter().map(String::as_str)),
    }
}

/// Whether the kernel could read a filter, as far as that can be told without its
/// fields: it is told early rather than when the event is opened.
pub(crate) fn check_filter(filter: &str) -> Result<(), String> {
    if filter.trim().is_empty() {
        return Err("the filter is empty".into());
    }
    if filter.len() >= MAX_FILTER {
        return Err(format!("a filter of {} bytes; {} is the most", filter.len(), MAX_FILTER - 1));
    }
    if filter.contains('\0') {
        return Err("a filter holds no NUL".into());
    }
    let (mut depth, mut quote) = (0_i32, None);
    for c in filter.chars() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return Err("a ) too many in the filter".into());
        }
    }
    match (depth, quote) {
        (0, None) => Ok(()),
        (_, Some(_)) => Err("quotes in the filter are never closed".into()),
        _ => Err("a ( in the filter is never closed".into()),
    }
}
