//! A `list` record and a `listed` one for each entry, a line each.

use std::io;
use std::io::Write;

use prof_model::audit::PerfAttr;
use prof_model::audit::Sampling;
use prof_model::audit::Target;
use prof_model::audit::What;
use prof_model::audit::list::Holder;
use prof_model::audit::list::List;
use prof_model::audit::list::Listed;
use prof_model::audit::list::Program;
use prof_model::text;
use serde::Serialize;

use crate::json::ProcessOut;
use crate::json::rfc3339;

/// Writes the list.
pub fn write(list: &List, out: &mut dyn Write) -> io::Result<()> {
    let head = HeadOut {
        record: "list",
        time: rfc3339(list.time_ns),
        version: list.version,
        host: text::for_json(list.host.as_bytes()).into_owned(),
        kernel: text::for_json(list.kernel.as_bytes()).into_owned(),
        entries: list.entries.len(),
        limits: list.limits.iter().map(|l| text::for_json(l.as_bytes()).into_owned()).collect(),
    };
    serde_json::to_writer(&mut *out, &head)?;
    out.write_all(b"\n")?;
    for entry in &list.entries {
        serde_json::to_writer(&mut *out, &ListedOut::new(entry, list.time_ns))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

#[derive(Serialize)]
struct HeadOut {
    record: &'static str,
    time: String,
    version: &'static str,
    host: String,
    kernel: String,
    entries: usize,
    limits: Vec<String>,
}

#[derive(Serialize)]
struct ListedOut<'a> {
    record: &'static str,
    time: String,
    kind: &'static str,
    id: u64,
    name: String,
    through: &'static str,
    state: &'static str,
    by: Option<ProcessOut<'a>>,
    target: TargetOut<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attr: Option<AttrOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<u64>,
    holders: Vec<HolderOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    copies: Option<CopiesOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    running_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<ProgramOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracefs: Option<TracefsOut>,
    notes: &'a [&'static str],
}

#[derive(Serialize)]
struct TargetOut<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<ProcessOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
}

#[derive(Serialize)]
struct AttrOut<'a> {
    #[serde(rename = "type")]
    type_: u32,
    config: u64,
    config1: u64,
    config2: u64,
    config3: u64,
    sampling: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    period: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    freq: Option<u64>,
    excludes: Vec<&'static str>,
    precise: u8,
    inherit: bool,
    enable_on_exec: bool,
    sampled: &'a [String],
    kernel_stacks: bool,
    user_stacks: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack_bytes: Option<u32>,
}

#[derive(Serialize)]
struct HolderOut<'a> {
    process: ProcessOut<'a>,
    fd: i32,
}

#[derive(Serialize)]
struct CopiesOut<'a> {
    count: u64,
    more: bool,
    pids: &'a [u32],
}

#[derive(Serialize)]
struct ProgramOut {
    id: u32,
    name: String,
    uid: Option<u32>,
    loaded: Option<String>,
}

#[derive(Serialize)]
struct TracefsOut {
    file: String,
    text: String,
}

impl<'a> ListedOut<'a> {
    fn new(l: &'a Listed, time_ns: u64) -> Self {
        // A descriptor alone says nothing of what is behind it.
        let known = l.enabled_ns.is_some();
        Self {
            record: "listed",
            time: rfc3339(time_ns),
            kind: l.monitor.what.kind(),
            id: l.monitor.id,
            name: text::for_json(l.monitor.name.as_bytes()).into_owned(),
            through: l.through.name(),
            state: l.state.name(),
            by: l.by.as_ref().map(ProcessOut::new),
            target: TargetOut::new(&l.target, l.cpu),
            attr: match &l.monitor.what {
                What::Perf { attr, .. } if known => Some(AttrOut::new(attr, l)),
                _ => None,
            },
            leader: l.monitor.leader,
            holders: l.holders.iter().map(HolderOut::new).collect(),
            copies: (l.copies.count > 0).then_some(CopiesOut {
                count: l.copies.count,
                more: l.copies.more,
                pids: &l.copies.pids,
            }),
            enabled_ns: l.enabled_ns,
            running_ns: l.running_ns,
            link: l.link,
            program: l.program.as_ref().map(ProgramOut::new),
            tracefs: match &l.monitor.what {
                What::Tracefs { file, text: line } => {
                    let text = |b| text::for_json(b).into_owned();
                    Some(TracefsOut { file: text(file), text: text(line) })
                }
                _ => None,
            },
            notes: &l.notes,
        }
    }
}

impl<'a> TargetOut<'a> {
    fn new(target: &'a Target, cpu: Option<u32>) -> Self {
        let mut out = Self {
            kind: target.kind(),
            process: target.process().map(ProcessOut::new),
            cpu,
            cgroup_id: None,
            cgroup: None,
        };
        if let Target::Cgroup { id, path, .. } = target {
            out.cgroup_id = Some(*id);
            out.cgroup = path.as_deref().map(|p| text::for_json(p).into_owned());
        }
        out
    }
}

impl<'a> AttrOut<'a> {
    fn new(a: &PerfAttr, l: &'a Listed) -> Self {
        let (sampling, period, freq) = match a.sampling() {
            Sampling::Counting => ("no", None, None),
            Sampling::Period(n) => ("period", Some(n), None),
            Sampling::Hz(n) => ("freq", None, Some(n)),
        };
        Self {
            type_: a.kind,
            config: a.config,
            config1: a.config1,
            config2: a.config2,
            config3: a.config3,
            sampling,
            period,
            freq,
            excludes: a.excluded(),
            precise: a.precise_ip(),
            inherit: a.has(PerfAttr::INHERIT),
            enable_on_exec: a.has(PerfAttr::ENABLE_ON_EXEC),
            sampled: &l.sampled,
            kernel_stacks: l.kernel_stacks,
            user_stacks: l.user_stacks,
            stack_bytes: l.user_stacks.then_some(a.sample_stack_user).filter(|n| *n > 0),
        }
    }
}

impl<'a> HolderOut<'a> {
    fn new(h: &'a Holder) -> Self {
        Self { process: ProcessOut::new(&h.process), fd: h.fd }
    }
}

impl ProgramOut {
    fn new(p: &Program) -> Self {
        let (name, loaded) = (text::for_json(&p.name).into_owned(), p.loaded_ns.map(rfc3339));
        Self { id: p.id, name, uid: p.uid, loaded }
    }
}
