//! BPF programs that are attached by a link where a program is watched: tracepoints,
//! functions of the kernel, places in programs. Others (of networks, of cgroups, LSM,
//! schedulers, iterators) profile nobody and are left out.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;

use libbpf_rs::ProgramAttachType;
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::BtfType;
use libbpf_rs::btf::TypeId;
use libbpf_rs::query::LinkInfo;
use libbpf_rs::query::LinkInfoIter;
use libbpf_rs::query::LinkTypeInfo;
use libbpf_rs::query::PerfEventType;
use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::query::TracingLinkInfo;
use prof_model::audit::Target;
use prof_model::audit::list::Program;

use super::processes;
use crate::clock;
use crate::kallsyms;
use crate::sys;

/// `BPF_F_KPROBE_MULTI_RETURN` and `BPF_F_UPROBE_MULTI_RETURN`.
const RETURN: u32 = 1;

/// Of what a link is at, if that cannot be told.
pub const UNKNOWN: &str = "?";

/// A link by which a program watches others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its id.
    pub id: u32,
    /// The program's.
    pub prog: u32,
    /// `raw_tracepoint`, `fentry`, `kprobe_multi`, ….
    pub kind: &'static str,
    /// What people call it.
    pub name: String,
    /// The process that it is restricted to.
    pub pid: Option<u32>,
}

impl Link {
    /// Whom it watches.
    pub fn target(&self) -> Target {
        match self.pid {
            None => Target::Host,
            Some(pid) => processes::of_pid(pid, pid)
                .map_or(Target::Unknown, |p| Target::Process(Box::new(p))),
        }
    }
}

/// Finds out what links are at.
#[derive(Debug, Default)]
pub struct Links {
    /// The kernel's BTF takes a while to read, and most machines have no link that needs it.
    kernel: OnceCell<Option<Btf<'static>>>,
}

impl Links {
    /// All that watch others; nothing where they may not be listed, which takes
    /// CAP_SYS_ADMIN.
    pub fn all(&self) -> Vec<Link> {
        LinkInfoIter::default().filter_map(|info| self.link(&info)).collect()
    }

    /// The one with this id, if it is still there.
    pub fn of(&self, id: u32) -> Option<Link> {
        let fd = sys::link_of(id).ok()?;
        self.link(&LinkInfo::from_fd(fd.as_fd()).ok()?)
    }

    fn link(&self, info: &LinkInfo) -> Option<Link> {
        let mut pid = None;
        let (kind, name) = match &info.info {
            LinkTypeInfo::RawTracepoint(i) => ("raw_tracepoint", called("raw_tracepoint", &i.name)),
            LinkTypeInfo::Tracing(i) => self.tracing(i)?,
            LinkTypeInfo::KprobeMulti(i) => {
                let kind = if i.flags & RETURN != 0 { "kretprobe_multi" } else { "kprobe_multi" };
                let one = i.addrs.first().filter(|_| i.count == 1);
                let name = one.and_then(|at| kallsyms::function_at(*at));
                (kind, called(kind, &at_functions(name, i.count)))
            }
            LinkTypeInfo::UprobeMulti(i) => {
                let kind = if i.flags & RETURN != 0 { "uretprobe_multi" } else { "uprobe_multi" };
                let file = i.path.as_ref().map_or(UNKNOWN.into(), |p| p.display().to_string());
                pid = Some(i.pid).filter(|p| *p != 0);
                (kind, called(kind, &at_places(&file, i.count, i.offsets.first().copied())))
            }
            LinkTypeInfo::PerfEvent(i) => ("perf_event", perf_event(&i.event_type)),
            _ => return None,
        };
        Some(Link { id: info.id, prog: info.prog_id, kind, name, pid })
    }

    fn tracing(&self, info: &TracingLinkInfo) -> Option<(&'static str, String)> {
        let kind = match info.attach_type {
            ProgramAttachType::TraceRawTp => "tp_btf",
            ProgramAttachType::TraceFentry => "fentry",
            ProgramAttachType::TraceFexit => "fexit",
            ProgramAttachType::ModifyReturn => "fmod_ret",
            _ => return None,
        };
        let kernel = || self.kernel.get_or_init(|| Btf::from_vmlinux().ok()).as_ref();
        let target = (info.target_obj_id == 1).then(kernel).flatten().and_then(|btf| {
            let found: BtfType<'_> = btf.type_by_id(TypeId::from(info.target_btf_id))?;
            Some(found.name()?.to_string_lossy().into_owned())
        });
        let target = target.as_deref().unwrap_or(UNKNOWN);
        Some((kind, called(kind, target.strip_prefix("btf_trace_").unwrap_or(target))))
    }
}

/// What people call a link, by its kind and what it is at: as bpftrace does.
pub fn called(kind: &str, at: &str) -> String {
    format!("{kind}:{at}")
}

/// What a link to many functions is at: one has its name, if somebody knows it.
pub fn at_functions(one: Option<String>, count: u32) -> String {
    match (one, count) {
        // Before 6.6 the kernel does not say.
        (_, 0) => UNKNOWN.to_owned(),
        (one, 1) => one.unwrap_or_else(|| "1 function".to_owned()),
        (_, n) => format!("{n} functions"),
    }
}

/// What a link to many places in a file is at.
pub fn at_places(file: &str, count: u32, first: Option<u64>) -> String {
    let file = if file.is_empty() { UNKNOWN } else { file };
    match (count, first) {
        (1, Some(one)) => format!("{file}:{one:#x}"),
        (n, _) => format!("{file}:{n} places"),
    }
}

/// Programs by id.
pub fn programs() -> HashMap<u32, Program> {
    let boot = clock::boot_realtime_ns();
    let program = |p: libbpf_rs::query::ProgramInfo| Program {
        id: p.id,
        name: p.name.as_bytes().to_vec(),
        uid: Some(p.created_by_uid),
        loaded_ns: Some(boot + u64::try_from(p.load_time.as_nanos()).unwrap_or(0)),
    };
    ProgInfoIter::default().map(|p| (p.id, program(p))).collect()
}

/// Where the event itself was not found.
fn perf_event(kind: &PerfEventType) -> String {
    let text = |name: &Option<std::ffi::OsString>| {
        name.as_ref().map_or("?".into(), |n| n.to_string_lossy().into_owned())
    };
    match kind {
        PerfEventType::Tracepoint { name, .. } => format!("tracepoint:{}", text(name)),
        PerfEventType::Kprobe { func_name, is_retprobe, .. } => {
            format!("k{}probe:{}", if *is_retprobe { "ret" } else { "" }, text(func_name))
        }
        PerfEventType::Uprobe { file_name, is_retprobe, offset, .. } => {
            let ret = if *is_retprobe { "ret" } else { "" };
            format!("u{ret}probe:{}:{offset:#x}", text(file_name))
        }
        PerfEventType::Event { config, event_type, .. } => format!("{event_type}:{config:#x}"),
        PerfEventType::Unknown(_) => "?".into(),
    }
}
