//! Hardware and software events by name.

use crate::attr::perf_type::HARDWARE;
use crate::attr::perf_type::SOFTWARE;

/// A generic event.
#[derive(Debug, Clone, Copy)]
pub struct Generic {
    /// Name, as `perf list` has it.
    pub name: &'static str,
    /// Other spellings.
    pub aliases: &'static [&'static str],
    /// `perf_event_attr.type`.
    pub type_: u32,
    /// `perf_event_attr.config`.
    pub config: u64,
    /// Of a value: `count` or `ns`.
    pub unit: &'static str,
    /// What it counts, one line.
    pub about: &'static str,
}

const fn hw(
    config: u64,
    name: &'static str,
    aliases: &'static [&'static str],
    about: &'static str,
) -> Generic {
    Generic { name, aliases, type_: HARDWARE, config, unit: "count", about }
}

const fn sw(
    config: u64,
    name: &'static str,
    aliases: &'static [&'static str],
    unit: &'static str,
    about: &'static str,
) -> Generic {
    Generic { name, aliases, type_: SOFTWARE, config, unit, about }
}

/// `enum perf_hw_id` and `enum perf_sw_ids`.
pub const GENERIC: [Generic; 23] = [
    hw(0, "cpu-cycles", &["cycles"], "cycles of the CPU, whatever its frequency"),
    hw(1, "instructions", &[], "instructions retired"),
    hw(2, "cache-references", &[], "accesses to the last cache level, as the CPU defines them"),
    hw(3, "cache-misses", &[], "those that missed"),
    hw(4, "branch-instructions", &["branches"], "branches retired"),
    hw(5, "branch-misses", &[], "branches mispredicted"),
    hw(6, "bus-cycles", &[], "cycles of the bus"),
    hw(
        7,
        "stalled-cycles-frontend",
        &["idle-cycles-frontend"],
        "cycles in which nothing could be fetched or decoded",
    ),
    hw(
        8,
        "stalled-cycles-backend",
        &["idle-cycles-backend"],
        "cycles in which nothing could be executed or retired",
    ),
    hw(9, "ref-cycles", &[], "cycles at the CPU's base frequency"),
    sw(0, "cpu-clock", &[], "ns", "time on the CPU, by a clock of each CPU"),
    sw(1, "task-clock", &[], "ns", "time on a CPU, by the task's clock"),
    sw(2, "page-faults", &["faults"], "count", "page faults, minor and major"),
    sw(3, "context-switches", &["cs"], "count", "times a thread left its CPU"),
    sw(4, "cpu-migrations", &["migrations"], "count", "times a thread moved to another CPU"),
    sw(5, "minor-faults", &[], "count", "page faults that needed no storage"),
    sw(6, "major-faults", &[], "count", "page faults that waited for storage"),
    sw(7, "alignment-faults", &[], "count", "unaligned accesses that the kernel had to mend"),
    sw(8, "emulation-faults", &[], "count", "instructions that the kernel had to emulate"),
    sw(9, "dummy", &[], "count", "nothing, ever"),
    sw(10, "bpf-output", &[], "count", "what BPF programs put out through perf"),
    sw(11, "cgroup-switches", &[], "count", "switches to a task of another cgroup"),
    sw(12, "guest-enter-exit", &[], "count", "times the CPU went into a guest or out of it"),
];

/// The event of that name or alias. Case counts, as in perf.
pub fn find(name: &str) -> Option<&'static Generic> {
    GENERIC.iter().find(|g| g.name == name || g.aliases.contains(&name))
}
