//! BPF programs that are attached by a link where a program is watched: tracepoints,
//! functions of the kernel, places in programs. Others (of networks, of cgroups, LSM,
//! schedulers, iterators) profile nobody and are left out.

use std::collections::HashMap;
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
use prof_model::audit::list::Program;

use crate::clock;

/// `BPF_F_KPROBE_MULTI_RETURN` and `BPF_F_UPROBE_MULTI_RETURN`.
const RETURN: u32 = 1;

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

/// All of them; nothing where they may not be listed, which takes CAP_SYS_ADMIN.
pub fn all() -> Vec<Link> {
    let mut kernel = None;
    LinkInfoIter::default().filter_map(|info| link(&info, &mut kernel)).collect()
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

fn link(info: &LinkInfo, kernel: &mut Option<Option<Btf<'static>>>) -> Option<Link> {
    let mut pid = None;
    let (kind, name) = match &info.info {
        LinkTypeInfo::RawTracepoint(i) => ("raw_tracepoint", format!("raw_tracepoint:{}", i.name)),
        LinkTypeInfo::Tracing(i) => tracing(i, kernel)?,
        LinkTypeInfo::KprobeMulti(i) => {
            let kind = if i.flags & RETURN != 0 { "kretprobe_multi" } else { "kprobe_multi" };
            (kind, format!("{kind}:{} functions", i.count))
        }
        LinkTypeInfo::UprobeMulti(i) => {
            let kind = if i.flags & RETURN != 0 { "uretprobe_multi" } else { "uprobe_multi" };
            let file = i.path.as_ref().map_or("?".into(), |p| p.display().to_string());
            pid = Some(i.pid).filter(|p| *p != 0);
            (
                kind,
                match i.offsets.as_slice() {
                    [one] => format!("{kind}:{file}:{one:#x}"),
                    _ => format!("{kind}:{file}:{} places", i.count),
                },
            )
        }
        LinkTypeInfo::PerfEvent(i) => ("perf_event", perf_event(&i.event_type)),
        _ => return None,
    };
    Some(Link { id: info.id, prog: info.prog_id, kind, name, pid })
}

/// The kernel's BTF takes a while to read, and most machines have no such link.
fn tracing(
    info: &TracingLinkInfo,
    kernel: &mut Option<Option<Btf<'static>>>,
) -> Option<(&'static str, String)> {
    let kind = match info.attach_type {
        ProgramAttachType::TraceRawTp => "tp_btf",
        ProgramAttachType::TraceFentry => "fentry",
        ProgramAttachType::TraceFexit => "fexit",
        ProgramAttachType::ModifyReturn => "fmod_ret",
        _ => return None,
    };
    let kernel = kernel.get_or_insert_with(|| Btf::from_vmlinux().ok());
    let of_kernel = kernel.as_ref().filter(|_| info.target_obj_id == 1);
    let target = of_kernel.and_then(|btf| {
        let found: BtfType<'_> = btf.type_by_id(TypeId::from(info.target_btf_id))?;
        Some(found.name()?.to_string_lossy().into_owned())
    });
    let target = target.as_deref().map_or("?", |t| t.strip_prefix("btf_trace_").unwrap_or(t));
    Some((kind, format!("{kind}:{target}")))
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
