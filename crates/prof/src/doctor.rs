//! `prof doctor`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use prof_kernel::probe;
use prof_kernel::probe::Check;
use prof_kernel::probe::Level;
use prof_kernel::probe::ProbeOptions;
use prof_kernel::probe::Report;
use prof_kernel::probe::State;

use crate::cli;
use crate::cli::Color;
use crate::cli::ListFormat;

/// `prof doctor`
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  prof doctor
  sudo prof doctor                                what root could use
  prof doctor --format json | jq .ready

Everything is tried for real, and undone. Exit status: 0 if something of prof works
here, 1 if nothing does.")]
pub struct DoctorArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t = ListFormat::Text)]
    pub format: ListFormat,

    /// BTF of the running kernel, if it is not at /sys/kernel/btf/vmlinux
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,

    /// Colours
    #[arg(long, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
}

/// Tries what this machine can do, and prints it.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let report = probe::probe(&ProbeOptions { btf: args.btf.clone(), ..ProbeOptions::default() });
    let mut out = io::stdout().lock();
    match args.format {
        ListFormat::Text => {
            let style = Style { color: args.color.on(&out), width: width(&out) };
            out.write_all(text(&report, style).as_bytes())?;
        }
        ListFormat::Json => {
            serde_json::to_writer_pretty(&mut out, &report).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(match report.ready.level {
        Level::Nothing => ExitCode::from(cli::FAILED),
        _ => ExitCode::SUCCESS,
    })
}

/// Columns of the terminal; of one that does not tell, or of none, what is easy to
/// read.
fn width(to: &impl std::os::fd::AsFd) -> usize {
    rustix::termios::tcgetwinsize(to)
        .ok()
        .map(|w| usize::from(w.ws_col))
        .filter(|w| *w >= 40)
        .map_or(100, |w| w.min(120))
}

/// How the text looks.
#[derive(Debug, Clone, Copy)]
struct Style {
    color: bool,
    width: usize,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn mark(self, state: State) -> String {
        match state {
            State::Works => self.paint("32", "✔"),
            State::Missing => self.paint("31", "✘"),
            State::Limited => self.paint("33", "~"),
            State::NotNeeded => self.paint("2", "·"),
        }
    }
}

/// The report for people.
fn text(report: &Report, style: Style) -> String {
    let mut out = String::new();
    let cpus = if report.cpus == 1 { "CPU" } else { "CPUs" };
    let head = format!(
        "prof {} on Linux {} {}, {} {cpus}",
        report.version, report.kernel, report.machine, report.cpus
    );
    line(&mut out, &style.paint("1", &head));
    let mut group = "";
    let mut told: BTreeMap<&str, &'static str> = BTreeMap::new();
    for check in &report.checks {
        if check.group != group {
            group = check.group;
            line(&mut out, "");
            line(&mut out, &style.paint("1", group));
        }
        one(&mut out, check, &mut told, style);
    }
    line(&mut out, "");
    line(&mut out, &style.paint("1", "Summary"));
    let paragraph = |out: &mut String, text: &str| paragraph(out, "  ", "  ", text, style.width);
    paragraph(&mut out, &summary(report));
    for limit in &report.ready.limits {
        self::paragraph(&mut out, "  - ", "    ", limit, style.width);
    }
    if let Some(cure) = way_to_more(report) {
        paragraph(&mut out, &format!("For all of it: {cure}"));
    }
    out
}

/// A check: its mark, what was seen, and the cure, unless that was told before.
fn one<'a>(
    out: &mut String,
    check: &'a Check,
    told: &mut BTreeMap<&'a str, &'static str>,
    style: Style,
) {
    // The mark is one column; what colours it is none, so it is put in afterwards.
    let mut body = String::new();
    let what = format!("{}: {}", check.title, check.detail);
    paragraph(&mut body, "    ", "      ", &what, style.width);
    let rest = body.strip_prefix("    ").unwrap_or(&body);
    let _ = write!(out, "  {} {rest}", style.mark(check.state));
    let Some(cure) = check.cure.as_deref() else { return };
    let text = match told.get(cure) {
        Some(title) => format!("as for {title}"),
        None => {
            told.insert(cure, check.title);
            cure.to_owned()
        }
    };
    paragraph(out, "      → ", "        ", &text, style.width);
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// Words on lines of at most `width` columns; line ends in the text are kept.
fn paragraph(out: &mut String, first: &str, rest: &str, text: &str, width: usize) {
    let mut indent = first;
    for given in text.lines() {
        let mut used = indent.chars().count();
        out.push_str(indent);
        let mut empty = true;
        for word in given.split_whitespace() {
            let word: String = word.chars().filter(|c| !c.is_control()).collect();
            let len = word.chars().count();
            if !empty && used + 1 + len > width {
                out.push('\n');
                out.push_str(rest);
                used = rest.chars().count();
                empty = true;
            }
            if !empty {
                out.push(' ');
                used += 1;
            }
            out.push_str(&word);
            used += len;
            empty = false;
        }
        out.push('\n');
        indent = rest;
    }
}

/// `a, b and c`.
fn list(items: &[&str]) -> String {
    match items {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [front @ .., last] => format!("{} and {last}", front.join(", ")),
    }
}

/// What works, in a sentence.
fn summary(report: &Report) -> String {
    let ready = &report.ready;
    let verbs = list(&ready.verbs);
    let do_work = if ready.verbs.len() == 1 { "works" } else { "work" };
    let chosen = &report.chosen;
    let hooks = chosen.hooks.unwrap_or("none");
    let clock = if chosen.exact_clock { "exact" } else { "as of the last tick" };
    let ways = format!(
        "hooks {hooks}, windows from {}, task-clock {clock}, cgroups by {}",
        chosen.window_start, chosen.cgroups
    );
    match ready.level {
        Level::Full => format!("{verbs} {do_work} fully here: {ways}."),
        Level::Limited if ready.limits.is_empty() => format!("{verbs} {do_work} here: {ways}."),
        Level::Limited => format!("{verbs} {do_work} here, with limits: {ways}."),
        Level::CommandOnly => format!(
            "{verbs} works here for a command as a whole: times, faults, switches, peak memory. \
             Single processes, prof watch and prof attach do not: {}.",
            chosen.why
        ),
        Level::Nothing => format!("Nothing of prof works here: {}.", chosen.why),
    }
}

/// What would make hooks work where none does: the cure of the first way.
fn way_to_more(report: &Report) -> Option<&str> {
    if report.chosen.hooks.is_some() {
        return None;
    }
    let first = report.checks.iter().find(|c| c.id == "raw_tp")?;
    first.cure.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prof_kernel::probe::Chosen;
    use prof_kernel::probe::Privileges;
    use prof_kernel::probe::Ready;

    const PLAIN: Style = Style { color: false, width: 60 };

    fn check(id: &'static str, state: State, detail: &str, cure: Option<&str>) -> Check {
        Check {
            id,
            group: "Hooks",
            title: id,
            state,
            detail: detail.into(),
            cure: cure.map(str::to_owned),
        }
    }

    fn report(level: Level, hooks: Option<&'static str>, checks: Vec<Check>) -> Report {
        Report {
            version: "1.2.3",
            kernel: "6.1.0".into(),
            machine: "x86_64".into(),
            cpus: 1,
            privileges: Privileges {
                uid: 0,
                capabilities: vec!["CAP_BPF"],
                initial_user_ns: true,
                initial_pid_ns: true,
                seccomp: false,
                from_file: false,
            },
            checks,
            chosen: Chosen {
                hooks,
                why: "because".into(),
                attached: Vec::new(),
                window_start: "task_rename",
                exact_clock: true,
                cgroups: "v2".into(),
            },
            ready: Ready { level, verbs: vec!["prof run", "prof watch"], limits: Vec::new() },
        }
    }

    #[test]
    fn words_are_wrapped_and_line_ends_kept() {
        let mut out = String::new();
        paragraph(&mut out, "* ", "  ", "one two three\nfour-is-much-too-long five", 9);
        assert_eq!(out, "* one two\n  three\n  four-is-much-too-long\n  five\n");
    }

    #[test]
    fn control_characters_of_a_detail_are_not_passed_on() {
        let mut out = String::new();
        paragraph(&mut out, "", "", "a\x1b[31mb\x07", 40);
        assert_eq!(out, "a[31mb\n");
    }

    #[test]
    fn everything_works() {
        let checks = vec![check("raw_tp", State::Works, "attached", None)];
        let t = text(&report(Level::Full, Some("raw_tp"), checks), PLAIN);
        assert_eq!(
            t,
            "prof 1.2.3 on Linux 6.1.0 x86_64, 1 CPU\n\nHooks\n  ✔ raw_tp: attached\n\nSummary\n  \
             prof run and prof watch work fully here: hooks raw_tp,\n  windows from task_rename, \
             task-clock exact, cgroups by v2.\n"
        );
    }

    #[test]
    fn a_cure_is_told_once() {
        let checks = vec![
            check("raw_tp", State::Missing, "EPERM", Some("run as root")),
            check("tp_btf", State::Missing, "EPERM", Some("run as root")),
            check("pmu", State::NotNeeded, "none", None),
        ];
        let t = text(&report(Level::CommandOnly, None, checks), PLAIN);
        assert!(t.contains("  ✘ raw_tp: EPERM\n      → run as root\n"), "{t}");
        assert!(t.contains("  ✘ tp_btf: EPERM\n      → as for raw_tp\n"), "{t}");
        assert!(t.contains("  · pmu: none\n"), "{t}");
        assert!(t.ends_with("  For all of it: run as root\n"), "{t}");
    }

    #[test]
    fn limits_are_listed() {
        let mut r = report(Level::Limited, Some("kprobe"), Vec::new());
        r.ready.limits.push("no clock".into());
        let t = text(&r, Style { width: 100, ..PLAIN });
        assert!(t.contains("work here, with limits: hooks kprobe,"), "{t}");
        assert!(t.ends_with("  - no clock\n"), "{t}");
    }

    #[test]
    fn colour_only_if_asked_for() {
        let checks = vec![check("kprobe", State::Missing, "no", None)];
        let r = report(Level::Full, Some("raw_tp"), checks);
        assert!(!text(&r, PLAIN).contains('\x1b'));
        let colored = text(&r, Style { color: true, ..PLAIN });
        assert!(colored.contains("  \x1b[31m✘\x1b[0m kprobe: no\n"), "{colored}");
    }

    #[test]
    fn json_has_the_fixed_names() {
        let checks = vec![check("raw_tp", State::NotNeeded, "", None)];
        let json = serde_json::to_value(report(Level::CommandOnly, None, checks)).unwrap();
        assert_eq!(json["ready"]["level"], "command_only");
        assert_eq!(json["checks"][0]["state"], "not_needed");
        assert_eq!(json["checks"][0]["cure"], serde_json::Value::Null);
        assert_eq!(json["chosen"]["hooks"], serde_json::Value::Null);
    }
}
