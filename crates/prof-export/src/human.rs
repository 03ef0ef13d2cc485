//! Numbers, times and reasons in words, for people.

use std::borrow::Cow;

use prof_model::counters::Item;
use prof_model::counters::Table;
use prof_model::figures::Event;
use prof_model::figures::Unit;
use prof_model::record::End;
use prof_model::record::Exit;
use prof_model::record::LossReason;
use prof_model::text;

/// With a comma after each three digits.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, c) in digits.char_indices() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Three significant digits, of a value below 1000.
fn three(v: f64) -> String {
    // The bounds are where the next coarser form rounds up to itself.
    if v < 9.995 {
        format!("{v:.2}")
    } else if v < 99.95 {
        format!("{v:.1}")
    } else {
        format!("{v:.0}")
    }
}

/// `n` in the first unit in which it is below 1000; the first unit is exact.
fn scaled(n: u64, step: f64, units: &[&'static str]) -> (String, &'static str) {
    let mut v = n as f64;
    for (i, unit) in units.iter().enumerate() {
        if v < 999.5 {
            return (if i == 0 { n.to_string() } else { three(v) }, unit);
        }
        if i + 1 < units.len() {
            v /= step;
        }
    }
    (count(v.round() as u64), units.last().copied().unwrap_or_default())
}

const TIME: [&str; 4] = ["ns", "µs", "ms", "s"];

/// A duration: `12.3 ms`.
pub fn duration(ns: u64) -> String {
    let (v, unit) = scaled(ns, 1000.0, &TIME);
    format!("{v} {unit}")
}

/// A size: `12.3 MiB`.
pub fn bytes(n: u64) -> String {
    let (v, unit) = scaled(n, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"]);
    format!("{v} {unit}")
}

/// A figure in the unit that suits it.
pub fn figure(value: u64, unit: Unit) -> String {
    match unit {
        Unit::Ns => duration(value),
        Unit::Bytes => bytes(value),
        Unit::Count => count(value),
    }
}

/// What an item is called.
pub fn name(item: Item, table: &Table) -> &str {
    match item {
        Item::Figure(e) => e.info().name,
        Item::Counter(i) => table.counters.get(i).map_or("?", |c| c.name.as_str()),
    }
}

/// A figure or a count in the unit that suits it.
pub fn item(value: u64, item: Item, table: &Table) -> String {
    match item {
        Item::Figure(e) => figure(value, e.info().unit),
        Item::Counter(i) => match table.counters.get(i) {
            Some(c) if c.unit == "ns" && c.scale == 1.0 => duration(value),
            Some(c) if c.scale != 1.0 => format!("{:.3} {}", value as f64 * c.scale, c.unit),
            _ => count(value),
        },
    }
}

/// A mean of an item, in its unit: what is counted need not be whole.
pub fn mean(value: f64, item: Item, table: &Table) -> String {
    let counted = |v: f64| match v {
        v if v < 999.5 && v.fract() != 0.0 => three(v),
        v => count(v.round() as u64),
    };
    match item {
        Item::Figure(e) => match e.info().unit {
            Unit::Count => counted(value),
            unit => figure(value.round() as u64, unit),
        },
        Item::Counter(i) => match table.counters.get(i) {
            Some(c) if c.unit == "ns" && c.scale == 1.0 => duration(value.round() as u64),
            // Scaled already.
            Some(c) if c.scale != 1.0 => format!("{value:.3} {}", c.unit),
            _ => counted(value),
        },
    }
}

/// A metric: `1.234`, `12.3 %`.
pub fn metric(value: f64, unit: &str) -> String {
    if unit == "%" { format!("{value:.1} %") } else { format!("{value:.3}") }
}

/// A figure without a space: seven columns, up to a day.
pub fn short(value: u64, unit: Unit) -> String {
    let (v, unit) = match unit {
        Unit::Ns => scaled(value, 1000.0, &TIME),
        Unit::Bytes => scaled(value, 1024.0, &["B", "K", "M", "G", "T"]),
        Unit::Count if value < 10_000 => (value.to_string(), ""),
        Unit::Count => scaled(value, 1000.0, &["", "k", "M", "G", "T"]),
    };
    format!("{v}{unit}")
}

/// A part of a whole, 0 to 1: `12.3 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A bar of `cells` columns, filled to `share`, by eighths; only the filled part.
pub fn bar(share: f64, cells: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * (cells * 8) as f64).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// `HH:MM:SS.mmm`, UTC.
pub fn time_of_day(ns: u64) -> String {
    let ms = ns / 1_000_000;
    let s = ms / 1000;
    format!("{:02}:{:02}:{:02}.{:03}", s / 3600 % 24, s / 60 % 60, s % 60, ms % 1000)
}

/// Column head of an item.
pub fn title(item: Item, table: &Table) -> String {
    let Item::Figure(e) = item else { return name(item, table).to_ascii_uppercase() };
    match e {
        Event::WallTime => "WALL".into(),
        Event::PageFaults => "FAULTS".into(),
        Event::ContextSwitches => "SWITCHES".into(),
        Event::RunQueueWait => "WAIT".into(),
        Event::PeakRss => "PEAK RSS".into(),
        _ => e.info().name.to_ascii_uppercase(),
    }
}

/// `n thing` or `n things`.
pub fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// Code or signal that a process ended with; `*` if it dumped core.
pub fn exit(e: Exit) -> String {
    match (e.code(), e.signal()) {
        (Some(code), _) => code.to_string(),
        (None, Some(s)) => format!("{}{}", signal(s), if e.core() { "*" } else { "" }),
        (None, None) => "?".into(),
    }
}

/// Name of a signal by the numbers of x86, Arm, RISC-V, POWER and s390.
fn signal(n: u8) -> Cow<'static, str> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match NAMES.get(usize::from(n).wrapping_sub(1)) {
        Some(name) => format!("SIG{name}").into(),
        None => format!("signal {n}").into(),
    }
}

/// What it means that something was lost for this reason.
pub fn loss(reason: LossReason) -> &'static str {
    match reason {
        LossReason::MapFull => "not profiled: the table of processes was full",
        LossReason::RingFullEnable => "profiled, but the event of the start did not fit the buffer",
        LossReason::RingFullDisable => "figures lost: they did not fit the buffer",
        LossReason::RingFullThread => "figures of single threads did not fit the buffer",
        LossReason::ExitNotSeen => "figures lost: the exit was never seen",
        LossReason::FollowMapFull => "children not followed: the table of processes was full",
        LossReason::AttemptMapFull => "exec attempts not noted: their table was full",
        LossReason::CountsMapFull => "no room for the counts of a thread or a process",
        LossReason::CounterUnreadable => "a perf event could not be read",
        LossReason::SliceMissed => {
            "switches to profiled tasks that were not seen: counts lack that time on the CPU"
        }
        LossReason::RegionMapFull => "regions without figures: their table was full",
        LossReason::RegionTooDeep => "regions without figures: they were in 16 others",
        LossReason::RegionNoName => "regions without figures: their name could not be read",
        LossReason::RegionNotBegun => "ends of regions whose beginning was not heard",
        LossReason::SwitchNotDone => {
            "switches by a program that were not done: too many, or with threads before Linux 6.7"
        }
        LossReason::HookSkipped => {
            "hooks that the kernel skipped because they ran inside themselves"
        }
        LossReason::RingFullAudit => {
            "acts that did not fit the buffer: some switches are late, or not told"
        }
        LossReason::AuditFull => "perf events that were not followed: too many at once",
        LossReason::AuditUnknown => "acts on perf events whose opening was not seen",
        LossReason::Malformed => "malformed records",
    }
}

/// The reconciliation, as a sum that anyone can check.
pub fn reconcile(e: &End) -> String {
    let mut line = format!(
        "enabled {} = disabled {} + running {} + lost {}",
        count(e.enabled),
        count(e.disabled),
        count(e.running),
        count(e.lost_profiles()),
    );
    match e.unaccounted() {
        0 => {}
        n => {
            let sign = if n < 0 { '-' } else { '+' };
            line += &format!(" {sign} {} unaccounted for", count(n.unsigned_abs()));
        }
    }
    line
}

/// A command line for a terminal, arguments with a space between.
pub fn command(args: &[Vec<u8>]) -> String {
    text::for_terminal(&args.join(&b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_change_where_rounding_would_need_a_fourth_digit() {
        for (ns, want) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 µs"),
            (9_994, "9.99 µs"),
            (9_996, "10.0 µs"),
            (999_499, "999 µs"),
            (999_500, "1.00 ms"),
            (12_345_678, "12.3 ms"),
            (59_960_000_000, "60.0 s"),
            (123_456_000_000_000, "123,456 s"),
        ] {
            assert_eq!(duration(ns), want, "{ns}");
        }
        assert_eq!(bytes(4096), "4.00 KiB");
        assert_eq!(bytes(1023), "1.00 KiB");
        assert_eq!(bytes(123 << 20), "123 MiB");
        assert_eq!(short(123 << 20, Unit::Bytes), "123M");
        assert_eq!(short(9_999, Unit::Count), "9999");
        assert_eq!(short(12_345, Unit::Count), "12.3k");
        for unit in [Unit::Ns, Unit::Bytes, Unit::Count] {
            for shift in 0..46 {
                assert!(short((1 << shift) - 1, unit).chars().count() <= 7);
            }
        }
    }

    #[test]
    fn counts_have_separators() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn bars_are_filled_by_eighths() {
        assert_eq!(bar(0.0, 4), "");
        assert_eq!(bar(0.5, 4), "██");
        assert_eq!(bar(0.53, 4), "██▏");
        assert_eq!(bar(7.0, 4), "████");
        assert_eq!(bar(f64::NAN, 4), "");
    }

    #[test]
    fn exits_are_codes_or_signals() {
        assert_eq!(exit(Exit { status: 2 << 8 }), "2");
        assert_eq!(exit(Exit { status: 9 }), "SIGKILL");
        assert_eq!(exit(Exit { status: 0x8b }), "SIGSEGV*");
        assert_eq!(exit(Exit { status: 34 }), "signal 34");
    }

    #[test]
    fn a_day_is_a_day() {
        assert_eq!(time_of_day(1_767_323_045_123_999_999), "03:04:05.123");
    }
}
