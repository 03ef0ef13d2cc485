//! What an audit tells, in each format.

use prof_model::audit::AuditEvent;
use prof_model::audit::AuditTotal;
use prof_model::audit::AuditTotals;
use prof_model::audit::Monitor;
use prof_model::audit::PerfAttr;
use prof_model::audit::Sampling;
use prof_model::audit::Target;
use prof_model::audit::What;
use prof_model::record::Flags;
use prof_model::record::Process;
use prof_model::text;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::human;
use crate::json::ProcessOut;
use crate::json::rfc3339;
use crate::layout;
use crate::layout::fit;
use crate::layout::paint;

/// Whose process a `prof` record is of: who is profiled, if that is a process, else who
/// profiles.
pub fn subject(e: &AuditEvent) -> &Process {
    e.target.process().unwrap_or(&e.by)
}

/// Those of the monitors that are the first of their name, with their places.
fn first_of_name(e: &AuditEvent) -> impl Iterator<Item = (usize, &Monitor)> {
    let is_first = |(i, m): &(usize, &Monitor)| !e.monitors[..*i].iter().any(|o| o.name == m.name);
    e.monitors.iter().enumerate().filter(is_first)
}

/// `events`: each name once.
pub fn event_names(e: &AuditEvent) -> Vec<String> {
    first_of_name(e).map(|(_, m)| text::for_json(m.name.as_bytes()).into_owned()).collect()
}

/// `EVENTS`: ids of these, or where an attr does not fit one the place among the monitors.
pub fn event_ids(e: &AuditEvent) -> Vec<u32> {
    const INDEX: u32 = 1 << 31;
    let id = |(i, m): (usize, &Monitor)| match &m.what {
        What::Perf { attr, .. } => attr.id().unwrap_or(INDEX | i as u32),
        _ => INDEX | i as u32,
    };
    first_of_name(e).map(id).collect()
}

#[derive(Serialize)]
struct EventOut<'a> {
    record: &'static str,
    time: String,
    process: ProcessOut<'a>,
    flags: Vec<&'static str>,
    events: Vec<String>,
    #[serde(rename = "FLAGS")]
    flags_number: u64,
    #[serde(rename = "EVENTS")]
    event_ids: Vec<u32>,
    rules: [&'static str; 0],
    hook: &'static str,
    cpu: u32,
    by: ProcessOut<'a>,
    target: Value,
    monitors: Vec<Value>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [&'static str],
}

/// The `prof` record.
pub fn event(e: &AuditEvent) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&EventOut {
        record: "prof",
        time: rfc3339(e.time_ns),
        process: ProcessOut::met(subject(e)),
        flags: e.flags.names(),
        events: event_names(e),
        flags_number: e.flags.0,
        event_ids: event_ids(e),
        rules: [],
        hook: e.interface.name(),
        cpu: e.cpu,
        by: ProcessOut::met(&e.by),
        target: target(&e.target),
        monitors: e.monitors.iter().map(monitor).collect(),
        notes: &e.notes,
    })
}

/// The `audit` record.
pub fn totals(t: &AuditTotals) -> serde_json::Result<Vec<u8>> {
    let one = |t: &AuditTotal| {
        json!({
            "by": ProcessOut::met(&t.by),
            "target": target(&t.target),
            "process": t.target.process().map(ProcessOut::met),
            "on_ns": t.on_ns,
            "monitors_ns": t.monitors_ns,
            "switched_on": t.switched_on,
            "still_on": t.still_on,
            "events": t.names.iter().map(|n| text::for_json(n.as_bytes())).collect::<Vec<_>>(),
        })
    };
    serde_json::to_vec(&json!({
        "record": "audit",
        "time": rfc3339(t.time_ns),
        "duration_ns": t.duration_ns,
        "totals": t.totals.iter().map(one).collect::<Vec<_>>(),
        "without_totals": t.without,
    }))
}

fn target(t: &Target) -> Value {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.into(), value);
    put("kind", t.kind().into());
    match t {
        Target::Process(p) => {
            put("pid", p.ident.pid.into());
            put("tid", p.ident.tid.into());
        }
        Target::Cpu(cpu) => {
            put("cpu", (*cpu).into());
        }
        Target::Cgroup { id, path, cpu } => {
            put("cgroup_id", (*id).into());
            if let Some(path) = path {
                put("path", text::for_json(path).into());
            }
            if let Some(cpu) = cpu {
                put("cpu", (*cpu).into());
            }
        }
        Target::Host | Target::Unknown => {}
    }
    out.into()
}

fn monitor(m: &Monitor) -> Value {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.into(), value);
    put("id", m.id.into());
    put("kind", m.what.kind().into());
    put("name", text::for_json(m.name.as_bytes()).into());
    if let Some(cpu) = m.cpu {
        put("cpu", cpu.into());
    }
    if let Some(leader) = m.leader {
        put("leader", leader.into());
    }
    if let Some(ns) = m.on_ns {
        put("on_ns", ns.into());
    }
    match &m.what {
        What::Perf { attr, bpf } => {
            put("attr", attr_out(attr));
            if let Some(id) = bpf {
                put("bpf_prog", (*id).into());
            }
            let c = m.changes;
            let done =
                [("reset", c.reset), ("period", c.period), ("filter", c.filter), ("bpf", c.bpf)];
            let done: Map<_, _> = done
                .iter()
                .filter(|(_, n)| *n > 0)
                .map(|(k, n)| ((*k).into(), (*n).into()))
                .collect();
            if !done.is_empty() {
                put("changes", done.into());
            }
        }
        What::Bpf { prog, link, name, kind } => {
            put("bpf_prog", (*prog).into());
            put("bpf_link", (*link).into());
            put("bpf_name", text::for_json(name).into());
            put("bpf_kind", (*kind).into());
        }
        What::Tracefs { file, text } => {
            put("file", text::for_json(file).into());
            put("text", text::for_json(text).into());
        }
        What::Ptrace => {}
    }
    out.into()
}

fn attr_out(a: &PerfAttr) -> Value {
    let samples = a.takes_samples();
    let asks = |bit| samples && a.samples(bit);
    let mut out = json!({
        "type": a.kind,
        "config": a.config,
        "sampling": samples,
        "exclude": a.excluded(),
        "inherit": a.has(PerfAttr::INHERIT),
        "enable_on_exec": a.has(PerfAttr::ENABLE_ON_EXEC),
        "precise_ip": a.precise_ip(),
        "callchain": asks(PerfAttr::SAMPLE_CALLCHAIN),
        "kernel_callchain": a.shows_kernel_stacks(),
        "branch_stack": asks(PerfAttr::SAMPLE_BRANCH_STACK),
        "registers": asks(PerfAttr::SAMPLE_REGS_USER) || asks(PerfAttr::SAMPLE_REGS_INTR),
    });
    let Some(map) = out.as_object_mut() else { return out };
    match a.sampling() {
        Sampling::Counting => {}
        Sampling::Hz(hz) => drop(map.insert("freq".into(), hz.into())),
        Sampling::Period(n) => drop(map.insert("period".into(), n.into())),
    }
    for (key, value) in [("config1", a.config1), ("config2", a.config2), ("config3", a.config3)] {
        if value != 0 {
            map.insert(key.into(), value.into());
        }
    }
    if asks(PerfAttr::SAMPLE_STACK_USER) {
        map.insert("stack_bytes".into(), a.sample_stack_user.into());
    }
    if samples {
        map.insert("sample_type".into(), a.sample_type.into());
    }
    out
}

/// Whom, in a few words.
pub fn whom(t: &Target) -> String {
    match t {
        Target::Process(p) => {
            let i = &p.ident;
            let thread = if i.tid == i.pid { String::new() } else { format!(" thread {}", i.tid) };
            format!("{} {}{thread}", i.pid, text::for_terminal(&i.comm))
        }
        Target::Cpu(cpu) => format!("CPU {cpu}"),
        Target::Cgroup { id, path, cpu } => {
            let name = match path {
                Some(path) => text::for_terminal(path),
                None => id.to_string(),
            };
            let cpu = cpu.map(|c| format!(" on CPU {c}")).unwrap_or_default();
            format!("cgroup {name}{cpu}")
        }
        Target::Host => "the host".into(),
        Target::Unknown => "not known".into(),
    }
}

/// Names, each once, with how often if that is more.
fn names(e: &AuditEvent) -> String {
    let mut all: Vec<(&str, usize)> = Vec::new();
    for m in &e.monitors {
        match all.iter_mut().find(|(n, _)| *n == m.name) {
            Some((_, n)) => *n += 1,
            None => all.push((&m.name, 1)),
        }
    }
    let name = |(name, n): &(&str, usize)| {
        let name = text::for_terminal(name.as_bytes());
        if *n > 1 { format!("{name} ×{n}") } else { name }
    };
    all.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The heads of [`line`].
pub fn heads() -> String {
    format!(
        "{:<12} {:<3} {:>7} {:>5} {:<15} {:<24}",
        "TIME (UTC)", "", "BY PID", "UID", "COMM", "WHOM"
    ) + " WHAT"
}

/// A line of the table.
pub fn line(e: &AuditEvent, color: bool, width: usize) -> String {
    let on = e.flags.has(Flags::ENABLE);
    let (what, style) = if on { ("on", layout::GOOD) } else { ("off", layout::PLAIN) };
    let pad = |s: String, w: usize| {
        let s = fit(&s, w);
        let n = w.saturating_sub(layout::width(&s));
        s + &" ".repeat(n)
    };
    let i = &e.by.ident;
    let (pid, uid, comm) = match i.pid {
        0 => ("?".into(), "?".into(), "?".into()),
        // It has ended before anybody could look.
        pid if i.start_ns == 0 => (pid.to_string(), "?".into(), "?".into()),
        pid => (pid.to_string(), i.uid.to_string(), text::for_terminal(&i.comm)),
    };
    let start = format!(
        "{} {} {pid:>7} {uid:>5} {} {}",
        human::time_of_day(e.time_ns),
        paint(color, style, &format!("{what:<3}")),
        pad(comm, 15),
        pad(whom(&e.target), 24),
    );
    let longest = e.monitors.iter().filter_map(|m| m.on_ns).max();
    let was = longest.map(|ns| format!(" after {}", human::duration(ns))).unwrap_or_default();
    let detail = format!("{} ({}){was}", names(e), e.interface.name());
    let mut line = start + " " + &fit(&detail, width.saturating_sub(72).max(30)) + "\n";
    for note in &e.notes {
        line += &format!("{:13}{}\n", "", paint(color, layout::DIM, &format!("^ {note}")));
    }
    line
}

/// Rows of totals that are shown.
const TOTALS: usize = 50;

/// The totals, a line for each pair of who profiles whom.
pub fn summary(t: &AuditTotals, color: bool, width: usize) -> String {
    if t.totals.is_empty() {
        return "nobody was profiled\n".into();
    }
    let head = format!("{:>10} {:>6} {:<24} {:<24} WHAT", "ON FOR", "TIMES", "BY", "WHOM");
    let mut out = paint(color, layout::BOLD, &head) + "\n";
    for total in t.totals.iter().take(TOTALS) {
        let i = &total.by.ident;
        let by = match i.pid {
            0 => "?".into(),
            pid => fit(&format!("{pid} {}", text::for_terminal(&i.comm)), 24),
        };
        let whom = fit(&whom(&total.target), 24);
        let names: Vec<_> = total.names.iter().map(|n| text::for_terminal(n.as_bytes())).collect();
        let what = fit(&names.join(", "), width.saturating_sub(68).max(20));
        let still = if total.still_on > 0 { " (still on)" } else { "" };
        out += &format!(
            "{:>10} {:>6} {by:<24} {whom:<24} {what}{still}\n",
            human::duration(total.on_ns),
            human::count(total.switched_on),
        );
    }
    if t.totals.len() > TOTALS {
        out += &format!("… {} more\n", human::count((t.totals.len() - TOTALS) as u64));
    }
    out
}
