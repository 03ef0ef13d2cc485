//! Kprobes and uprobes that are opened as perf events. `-e` has no word for them;
//! this is bpftrace's.

use crate::attr::Attr;

/// Bit of `config` by which both PMUs are asked for the function's return.
const RETURN: u64 = 1;

/// The name of a probe, or `None` if the PMU has none. What is probed is an address
/// in the opener's memory, so it has to be known from elsewhere: `target` is a
/// function, or a file.
pub(super) fn name(pmu: &str, attr: &Attr, target: Option<&str>) -> Option<String> {
    let ret = if attr.config & RETURN != 0 { "ret" } else { "" };
    match (pmu, target) {
        ("uprobe", Some(file)) => Some(format!("u{ret}probe:{file}:{:#x}", attr.config2)),
        ("uprobe", None) => Some(format!("u{ret}probe:?:{:#x}", attr.config2)),
        // Without a function, the second number is the address itself.
        ("kprobe", None) if attr.config1 == 0 => Some(format!("k{ret}probe:{:#x}", attr.config2)),
        ("kprobe", target) => {
            let function = target.unwrap_or("?");
            Some(match attr.config2 {
                0 => format!("k{ret}probe:{function}"),
                offset => format!("k{ret}probe:{function}+{offset:#x}"),
            })
        }
        _ => None,
    }
}
