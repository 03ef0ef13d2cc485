//! A line for each thing that somebody asked for: the same event on every CPU, or for
//! every thread of a process, is one.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::io;
use std::io::Write;

use prof_model::audit::Sampling;
use prof_model::audit::Target;
use prof_model::audit::What;
use prof_model::audit::list::List;
use prof_model::audit::list::Listed;
use prof_model::audit::list::State;
use prof_model::audit::list::Through;
use prof_model::record::Process;
use prof_model::text;

use crate::human;
use crate::layout;

const HEADS: [&str; 7] = ["WHO", "UID", "WHOM", "WHAT", "HOW", "STATE", "FOR"];
/// Columns of WHAT at least, and at most what it takes.
const WHAT: usize = 3;
const NARROWEST: usize = 16;
/// Most columns of any other.
const WIDEST: usize = 48;

/// `PERF_TYPE_SOFTWARE`, of which the first two are clocks.
const SOFTWARE: u32 = 1;
const TASK_CLOCK: u64 = 1;

/// Writes the list.
pub fn write(list: &List, color: bool, width: usize, out: &mut dyn Write) -> io::Result<()> {
    let lines = grouped(&list.entries);
    let rows: Vec<[String; 7]> = lines.iter().map(|l| row(l)).collect();
    if rows.is_empty() {
        // What could not be looked at may be what there is.
        let nothing = match list.limits.is_empty() {
            true => "nothing is being profiled",
            false => "nothing was found, of what could be looked at",
        };
        writeln!(out, "{nothing}")?;
    } else {
        let heads = HEADS.map(str::to_owned);
        let mut widths = [0; 7];
        for r in rows.iter().chain([&heads]) {
            for (w, cell) in widths.iter_mut().zip(r) {
                *w = (*w).max(layout::width(cell)).min(WIDEST);
            }
        }
        let longest = rows.iter().map(|r| layout::width(&r[WHAT])).max().unwrap_or(0);
        let others: usize =
            widths.iter().enumerate().filter(|(i, _)| *i != WHAT).map(|(_, w)| w + 2).sum();
        let left = width.saturating_sub(others).max(NARROWEST);
        widths[WHAT] = longest.clamp(HEADS[WHAT].len(), left.max(HEADS[WHAT].len()));
        line(out, &heads, &widths, |_, text| layout::paint(color, layout::BOLD, text))?;
        for (r, l) in rows.iter().zip(&lines) {
            let style = match l.first.state {
                State::On => layout::PLAIN,
                State::Error => layout::WARN,
                _ => layout::DIM,
            };
            line(out, r, &widths, |_, text| layout::paint(color, style, text))?;
        }
    }
    for limit in &list.limits {
        let limit = text::for_terminal(limit.as_bytes());
        writeln!(
            out,
            "{}",
            layout::paint(color, layout::WARN, &layout::wrap(&limit, width, "  "))
        )?;
    }
    Ok(())
}

fn line(
    out: &mut dyn Write,
    cells: &[String; 7],
    widths: &[usize; 7],
    shown: impl Fn(usize, &str) -> String,
) -> io::Result<()> {
    let mut text = String::new();
    for (i, (cell, w)) in cells.iter().zip(widths).enumerate() {
        let cell = if i == WHAT { layout::fit(cell, *w) } else { layout::fit_end(cell, *w) };
        let pad = w.saturating_sub(layout::width(&cell));
        if i > 0 {
            text.push_str("  ");
        }
        text.push_str(&shown(i, &cell));
        text.push_str(&" ".repeat(pad));
    }
    writeln!(out, "{}", text.trim_end())
}

/// Entries that differ in the CPU or the thread only.
struct Line<'a> {
    first: &'a Listed,
    /// CPU and thread of each.
    places: Vec<Place>,
    copies: u64,
    enabled_ns: Option<u64>,
}

fn grouped(entries: &[Listed]) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    // By what they have in common, and how many of the same there were in the same place:
    // two are two. There may be tens of thousands.
    let mut of_kind: HashMap<(Kind<'_>, usize), usize> = HashMap::new();
    let mut same: HashMap<(Kind<'_>, Place), usize> = HashMap::new();
    for (i, e) in entries.iter().enumerate() {
        let place = (e.cpu, e.target.process().map(|p| p.ident.tid));
        let nth = match place {
            // Nothing tells two such apart: each has a line.
            (None, None) => i,
            _ => {
                let count = same.entry((kind(e), place)).or_default();
                *count += 1;
                *count
            }
        };
        let at = *of_kind.entry((kind(e), nth)).or_insert_with(|| {
            lines.push(Line { first: e, places: Vec::new(), copies: 0, enabled_ns: None });
            lines.len() - 1
        });
        let line = &mut lines[at];
        line.places.push(place);
        line.copies += e.copies.count;
        line.enabled_ns = line.enabled_ns.max(e.enabled_ns);
    }
    lines
}

/// CPU and thread.
type Place = (Option<u32>, Option<u32>);

/// What entries of a line have in common.
#[derive(PartialEq, Eq, Hash)]
struct Kind<'a> {
    by: Option<(u32, u64)>,
    target: (&'static str, u64, u64),
    through: Through,
    state: State,
    name: &'a str,
    how: String,
    program: Option<u32>,
}

fn kind(l: &Listed) -> Kind<'_> {
    let target = match &l.target {
        Target::Process(p) => (u64::from(p.ident.pid), p.ident.start_ns),
        Target::Cgroup { id, .. } => (*id, 0),
        Target::Cpu(_) | Target::Host | Target::Unknown => (0, 0),
    };
    Kind {
        by: l.by.as_ref().map(|p| (p.ident.pid, p.ident.start_ns)),
        target: (l.target.kind(), target.0, target.1),
        through: l.through,
        state: l.state,
        name: &l.monitor.name,
        how: how(l),
        program: l.program.as_ref().map(|p| p.id),
    }
}

fn row(l: &Line<'_>) -> [String; 7] {
    let e = l.first;
    let (who, uid) = match &e.by {
        Some(p) => (process(p), p.ident.uid.to_string()),
        None => (
            "?".into(),
            e.program.as_ref().and_then(|p| p.uid).map_or("?".into(), |u| u.to_string()),
        ),
    };
    let mut whom = match &e.target {
        Target::Process(p) => process(p),
        Target::Cpu(_) => cpus(l.places.iter().filter_map(|(cpu, _)| *cpu)),
        Target::Cgroup { id, path, .. } => {
            let path = path.as_deref().map(text::for_terminal);
            format!("cgroup {}", path.unwrap_or_else(|| format!("#{id}")))
        }
        Target::Host => "everything".into(),
        Target::Unknown => "?".into(),
    };
    let threads: BTreeSet<_> = l.places.iter().filter_map(|(_, tid)| *tid).collect();
    if threads.len() > 1 {
        whom.push_str(&format!(", {} threads", threads.len()));
    }
    if l.copies > 0 {
        let more = if e.copies.more { "+" } else { "" };
        whom.push_str(&format!(", {}{more} inherited", l.copies));
    }
    let mut what = text::for_terminal(e.monitor.name.as_bytes());
    if let Some(p) = &e.program {
        let name = text::for_terminal(&p.name);
        what.push_str(&format!(" → BPF {} {name}", p.id));
    }
    let lasted = l.enabled_ns.map_or_else(String::new, human::duration);
    [who, uid, whom, what.trim_end().to_owned(), how(e), state(e.state).into(), lasted]
}

fn process(p: &Process) -> String {
    format!("{} {}", text::for_terminal(&p.ident.comm), p.ident.pid)
}

fn state(state: State) -> &'static str {
    match state {
        State::On => "on",
        State::AwaitsExec => "at exec",
        State::Off => "off",
        State::Error => "error",
        State::TargetGone => "over",
        State::Unknown => "?",
    }
}

/// In which way, in a word or two.
fn how(l: &Listed) -> String {
    let What::Perf { attr, .. } = &l.monitor.what else {
        return match &l.monitor.what {
            What::Ptrace => "ptrace".into(),
            What::Tracefs { .. } => "tracefs".into(),
            _ => "BPF".into(),
        };
    };
    if l.enabled_ns.is_none() {
        return "?".into();
    }
    let does = if l.program.is_some() { "BPF" } else { "samples" };
    let mut how = match attr.sampling() {
        Sampling::Counting if l.program.is_some() => "BPF".into(),
        Sampling::Counting => "counts".into(),
        Sampling::Period(1) if l.program.is_some() => "BPF".into(),
        // A clock's period is a time, and so is what the kernel makes of a frequency.
        Sampling::Period(n) if attr.kind == SOFTWARE && attr.config <= TASK_CLOCK => {
            format!("{does}, every {}", human::duration(n))
        }
        Sampling::Period(n) => format!("{does}, every {n}"),
        Sampling::Hz(n) => format!("{does}, {n} Hz"),
    };
    how.push_str(match (l.user_stacks, l.kernel_stacks) {
        (true, true) => ", stacks",
        (true, false) => ", user stacks",
        (false, true) => ", kernel stacks",
        (false, false) => "",
    });
    how
}

/// `CPUs 0-3,8`.
fn cpus(cpus: impl Iterator<Item = u32>) -> String {
    let sorted: BTreeSet<u32> = cpus.collect();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for cpu in &sorted {
        match ranges.last_mut() {
            Some((_, to)) if *to + 1 == *cpu => *to = *cpu,
            _ => ranges.push((*cpu, *cpu)),
        }
    }
    let shown: Vec<_> = ranges
        .iter()
        .map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") })
        .collect();
    format!("CPU{} {}", if sorted.len() > 1 { "s" } else { "" }, shown.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prof_model::audit::Changes;
    use prof_model::audit::Monitor;
    use prof_model::audit::PerfAttr;
    use prof_model::audit::list::Copies;
    use prof_model::audit::list::Program;
    use prof_model::record::Ident;

    fn of(pid: u32, tid: u32, comm: &[u8]) -> Process {
        let ident = Ident { pid, tid, comm: comm.to_vec(), uid: 1000, ..Ident::default() };
        Process { ident, ..Process::default() }
    }

    fn listed(name: &str, target: Target) -> Listed {
        Listed {
            monitor: Monitor {
                id: 1,
                what: What::Perf { attr: PerfAttr::default(), bpf: None },
                name: name.into(),
                cpu: None,
                leader: None,
                changes: Changes::default(),
                on_ns: None,
            },
            through: Through::PerfEventOpen,
            by: Some(of(12, 12, b"perf")),
            cpu: match &target {
                Target::Cpu(cpu) => Some(*cpu),
                _ => None,
            },
            target,
            state: State::On,
            holders: Vec::new(),
            copies: Copies::default(),
            enabled_ns: Some(1_500_000_000),
            running_ns: Some(0),
            link: None,
            program: None,
            sampled: Vec::new(),
            kernel_stacks: false,
            user_stacks: false,
            notes: Vec::new(),
        }
    }

    fn shown(entries: Vec<Listed>, width: usize) -> String {
        let list = List { entries, limits: vec!["no \x1b".into()], ..List::default() };
        let mut out = Vec::new();
        write(&list, false, width, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_event_on_all_cpus_is_one_line_and_twice_the_same_are_two() {
        let mut record = listed("cpu-cycles", Target::Process(Box::new(of(34, 34, b"make"))));
        let attr = PerfAttr { rate: 99, bits: PerfAttr::FREQ, ..PerfAttr::default() };
        record.monitor.what = What::Perf { attr, bpf: None };
        record.kernel_stacks = true;
        record.copies = Copies { count: 2, more: false, pids: vec![35] };
        let thread = Listed {
            target: Target::Process(Box::new(of(34, 36, b"worker"))),
            copies: Copies::default(),
            ..record.clone()
        };
        let mut bpf = listed("sched:sched_switch", Target::Host);
        bpf.by = None;
        bpf.program =
            Some(Program { id: 7, name: b"on\x1bit".to_vec(), uid: Some(0), loaded_ns: None });
        let cpu = |n| listed("faults", Target::Cpu(n));
        let all = vec![cpu(0), cpu(1), cpu(3), cpu(0), record, thread, bpf];
        let text = shown(all, 130);
        let lines: Vec<String> =
            text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "WHO UID WHOM WHAT HOW STATE FOR",
                "perf 12 1000 CPUs 0-1,3 faults counts on 1.50 s",
                "perf 12 1000 CPU 0 faults counts on 1.50 s",
                "perf 12 1000 make 34, 2 threads, 2 inherited cpu-cycles samples, 99 Hz, \
                 kernel stacks on 1.50 s",
                "? 0 everything sched:sched_switch → BPF 7 on\\x1bit BPF on 1.50 s",
                "no \\x1b",
            ]
        );
        // WHAT is what gives way.
        assert!(text.lines().all(|l| layout::width(l) <= 130), "{text}");
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        let found = "nothing was found, of what could be looked at\nno \\x1b\n";
        assert_eq!(shown(Vec::new(), 80), found);
        let mut out = Vec::new();
        write(&List::default(), false, 80, &mut out).unwrap();
        assert_eq!(out, b"nothing is being profiled\n");
    }
}
