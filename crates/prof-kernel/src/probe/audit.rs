//! The ways in which `prof audit` can be told.

use super::Findings;
use super::ProbeOptions;
use super::errors;
use super::privileges;
use super::privileges::Privileges;
use super::report::Check;
use super::report::State;
use crate::audit::Audit;
use crate::audit::AuditPlan;
use crate::audit::hooks::TracefsRefused;
use crate::audit::hooks::Way;

const CURE_FUNCTIONS: &str = "a kernel with CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y or \
     CONFIG_KPROBE_EVENTS=y, which is not locked down";
const CURE_ALL: &str = "a kernel with one of CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS, \
     CONFIG_KPROBE_EVENTS and CONFIG_FTRACE_SYSCALLS";

pub(super) fn check(found: &mut Findings, options: &ProbeOptions, p: &Privileges) {
    let what = ("Audit", "audit", "who profiles whom");
    let mut works: Vec<Way> = Vec::new();
    let mut refused = Vec::new();
    let mut unreadable = false;
    for way in Way::ALL {
        let plan = AuditPlan {
            way: Some(way),
            ring_bytes: 1 << 16,
            btf: options.btf.clone(),
            cache: None,
        };
        match Audit::open(&plan) {
            Ok(_) => works.push(way),
            Err(e) => {
                unreadable |= e.downcast_ref::<TracefsRefused>().is_some();
                refused.push((way, reason(&errors::chain(&e))));
            }
        }
    }
    let names: Vec<_> = works.iter().map(|w| w.name()).collect();
    let mut detail = match names.as_slice() {
        [] => "by nothing".to_owned(),
        names => format!("by {}", names.join(", ")),
    };
    for (way, reason) in refused {
        detail.push_str(&format!("; {way}: {reason}"));
    }
    let by_privileges = |cure: &str| if p.suffice() { cure.to_owned() } else { p.cure() };
    found.add(match works.first() {
        Some(Way::Fentry | Way::Kprobe) => Check::new(what, State::Works, detail),
        // Told by what everybody pays for.
        Some(Way::Tracepoint) => {
            let detail = format!("{detail}; so each system call of any process takes longer");
            Check::new(what, State::Limited, detail).cure(by_privileges(CURE_FUNCTIONS))
        }
        None if unreadable => {
            Check::new(what, State::Missing, detail).cure(privileges::cure_for_files(p))
        }
        None => Check::new(what, State::Missing, detail).cure(by_privileges(CURE_ALL)),
    });
}

/// What matters of an error: its first line, without what it is a part of.
fn reason(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let line = line.rsplit("could not be loaded: ").next().unwrap_or(line);
    line.split("; ").next().unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_short() {
        let load = "the programs of the audit: the kernel half could not be loaded: no (EPERM); \
                    loading needs CAP_BPF\nlibbpf: prog 'x': failed";
        assert_eq!(reason(load), "no (EPERM)");
        assert_eq!(reason("this kernel has no kprobes"), "this kernel has no kprobes");
    }
}
