//! Figures that are computed from events.

/// A metric: one event over another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetricInfo {
    /// Name, as in `-e`.
    pub name: &'static str,
    /// Other spellings.
    pub aliases: &'static [&'static str],
    /// The event above the line, by name.
    pub above: &'static str,
    /// The event below it.
    pub below: &'static str,
    /// What the quotient is multiplied by to be in `unit`.
    pub factor: f64,
    /// Of the value.
    pub unit: &'static str,
    /// What it says, one line.
    pub about: &'static str,
}

const fn rate(
    name: &'static str,
    above: &'static str,
    below: &'static str,
    about: &'static str,
) -> MetricInfo {
    MetricInfo { name, aliases: &[], above, below, factor: 100.0, unit: "%", about }
}

const fn per(
    name: &'static str,
    aliases: &'static [&'static str],
    above: &'static str,
    below: &'static str,
    unit: &'static str,
    about: &'static str,
) -> MetricInfo {
    MetricInfo { name, aliases, above, below, factor: 1.0, unit, about }
}

/// The metrics.
pub const METRICS: [MetricInfo; 14] = [
    per("ipc", &["insn-per-cycle"], "instructions", "cycles", "insn/cycle", "instructions a cycle"),
    per(
        "cpi",
        &["cycles-per-insn"],
        "cycles",
        "instructions",
        "cycles/insn",
        "cycles an instruction",
    ),
    per("ghz", &["clock-rate"], "cycles", "task-clock", "GHz", "cycles by time on a CPU"),
    per("cpus-utilized", &[], "task-clock", "wall-time", "CPUs", "time on CPUs by time gone by"),
    rate("branch-miss-rate", "branch-misses", "branches", "branches mispredicted"),
    rate("cache-miss-rate", "cache-misses", "cache-references", "cache accesses that missed"),
    rate(
        "l1d-miss-rate",
        "L1-dcache-load-misses",
        "L1-dcache-loads",
        "loads that missed the first data cache",
    ),
    rate(
        "l1i-miss-rate",
        "L1-icache-load-misses",
        "L1-icache-loads",
        "fetches that missed the first instruction cache",
    ),
    rate(
        "llc-miss-rate",
        "LLC-load-misses",
        "LLC-loads",
        "loads in the last cache level that missed it",
    ),
    rate("dtlb-miss-rate", "dTLB-load-misses", "dTLB-loads", "loads that missed the data TLB"),
    rate(
        "itlb-miss-rate",
        "iTLB-load-misses",
        "iTLB-loads",
        "fetches that missed the instruction TLB",
    ),
    rate(
        "frontend-stall-rate",
        "stalled-cycles-frontend",
        "cycles",
        "cycles in which nothing could be fetched or decoded",
    ),
    rate(
        "backend-stall-rate",
        "stalled-cycles-backend",
        "cycles",
        "cycles in which nothing could be executed or retired",
    ),
    rate("major-fault-rate", "major-faults", "page-faults", "page faults that waited for storage"),
];

/// The metric of that name or alias.
pub fn find(name: &str) -> Option<&'static MetricInfo> {
    METRICS.iter().find(|m| m.name == name || m.aliases.contains(&name))
}
