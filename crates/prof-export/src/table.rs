//! A line for each event and each profile as it comes, for people who watch.

use std::collections::HashSet;
use std::io;
use std::io::Write;

use prof_model::counters;
use prof_model::figures::Event;
use prof_model::figures::Figures;
use prof_model::figures::Value;
use prof_model::record::End;
use prof_model::record::Flags;
use prof_model::record::Header;
use prof_model::record::Ident;
use prof_model::record::Loss;
use prof_model::record::ProfEvent;
use prof_model::record::Profile;
use prof_model::record::Record;
use prof_model::record::Region;
use prof_model::record::ThreadFigures;
use prof_model::record::WindowEnd;
use prof_model::repeat::Repeat;
use prof_model::text;

use crate::Exporter;
use crate::Options;
use crate::audit;
use crate::human;
use crate::layout;
use crate::layout::fit;
use crate::layout::paint;
use crate::rule_names;

/// Figures of a profile: event, head, columns.
const FIGURES: [(Event, &str, usize); 6] = [
    (Event::WallTime, "WALL", 7),
    (Event::TaskClock, "CPU", 7),
    (Event::PageFaults, "FAULTS", 6),
    (Event::ContextSwitches, "SWITCH", 6),
    (Event::RunQueueWait, "WAIT", 7),
    (Event::PeakRss, "RSS", 6),
];

/// Most regions of a process that are shown, and most threads.
const REGIONS: usize = 8;
const THREADS: usize = 32;

/// Columns of a line that is not cut: more than any has.
const UNCUT: usize = 1 << 24;

/// Columns of what comes before the figures, with PPID and UID and without.
const WIDE: usize = 12 + 1 + 7 + 1 + 7 + 1 + 7 + 1 + 5 + 1 + 15;
const NARROW: usize = WIDE - 8 - 6;
/// Columns of EXIT, the last.
const EXIT: usize = 9;

/// Writes the `table` format.
#[derive(Debug)]
pub struct Table {
    color: bool,
    width: usize,
    /// Where lines are cut.
    edge: usize,
    /// Whether PPID and UID are shown.
    wide: bool,
    figures: Vec<(Event, &'static str, usize)>,
    rules: Vec<String>,
    counters: counters::Table,
    headed: bool,
    /// It is the stream of an audit.
    audits: bool,
    /// Notes of figures so far.
    told: HashSet<&'static str>,
}

impl Table {
    /// At the start of a stream; of the options, `color`, `width` and `cut` count.
    pub fn new(options: &Options) -> Self {
        let width = options.width.max(60);
        let mut figures = FIGURES.to_vec();
        let columns = |f: &[(Event, &str, usize)]| -> usize {
            f.iter().map(|(_, _, w)| w + 1).sum::<usize>() + 1 + EXIT
        };
        let wide = WIDE + columns(&figures) <= width;
        // In a narrow terminal the least telling go first.
        for goes in [Event::RunQueueWait, Event::ContextSwitches, Event::PageFaults] {
            if wide || NARROW + columns(&figures) <= width {
                break;
            }
            figures.retain(|(e, ..)| *e != goes);
        }
        Self {
            color: options.color,
            width,
            edge: if options.cut { width } else { UNCUT },
            wide,
            figures,
            rules: Vec::new(),
            counters: counters::Table::default(),
            headed: false,
            audits: false,
            told: HashSet::new(),
        }
    }

    fn header(&self, h: &Header) -> String {
        let s = |s: &str| text::for_terminal(s.as_bytes());
        let run = h.repetition.map(|r| {
            let text =
                format!("run {} of {}", human::count(r.number.into()), human::count(r.of.into()));
            paint(self.color, layout::BOLD, &text) + "\n"
        });
        let run = run.unwrap_or_default();
        if h.repetition.is_some_and(|r| r.number > 1) {
            return run;
        }
        let mut out = format!(
            "prof {} on {}, Linux {}, {}\n",
            h.version,
            s(&h.host),
            s(&h.kernel),
            human::plural(h.cpus.into(), "CPU", "CPUs")
        );
        let list = |head: &str, items: Vec<String>| {
            let indent = " ".repeat(head.len() + 2);
            let line = format!("{head}: {}", items.join(", "));
            layout::wrap(&line, self.width, &indent) + "\n"
        };
        let rules = h.rules.iter().map(|r| format!("{} ({})", s(&r.name), s(&r.text)));
        if !h.rules.is_empty() {
            out += &list("rules", rules.collect());
        }
        let attached = h.attached.iter().map(|a| format!("{} ({})", s(&a.hook), a.how));
        out += &list("hooks", attached.collect());
        for limit in &h.limits {
            let line = layout::wrap(&format!("limit: {}", s(limit)), self.width, "       ");
            out += &paint(self.color, layout::WARN, &line);
            out.push('\n');
        }
        out + &run
    }

    /// The heads, once, before the first line that they are for.
    fn heads(&mut self) -> String {
        if std::mem::replace(&mut self.headed, true) {
            return String::new();
        }
        let mut line = format!("{:<12} {:<7} {:>7}", "TIME (UTC)", "EVENT", "PID");
        if self.wide {
            line += &format!(" {:>7} {:>5}", "PPID", "UID");
        }
        line += &format!(" {:<15}", "COMM");
        for (_, head, w) in &self.figures {
            line += &format!(" {head:>w$}");
        }
        line += " EXIT";
        paint(self.color, layout::BOLD, &line) + "\n"
    }

    /// What every line begins with.
    fn start(&self, time_ns: u64, what: &str, style: anstyle::Style, i: &Ident) -> String {
        let what = paint(self.color, style, &format!("{what:<7}"));
        let mut line = format!("{} {what} {:>7}", human::time_of_day(time_ns), i.pid);
        if self.wide {
            line += &format!(" {:>7} {:>5}", i.ppid, i.uid);
        }
        let comm = fit(&text::for_terminal(&i.comm), 15);
        let pad = " ".repeat(15 - layout::width(&comm));
        line + " " + &comm + &pad
    }

    /// Columns left after [`start`](Self::start) and a space.
    fn room(&self) -> usize {
        self.edge - if self.wide { WIDE } else { NARROW } - 1
    }

    fn event(&self, p: &ProfEvent) -> String {
        let on = p.flags.has(Flags::ENABLE);
        let (what, style) = if on { ("on", layout::GOOD) } else { ("off", layout::PLAIN) };
        let flags = p.flags.names().into_iter().filter(|n| *n != "enable");
        let mut detail = flags.collect::<Vec<_>>().join(",");
        if on {
            let rules = rule_names(p.rules, &self.rules).join(",");
            if !rules.is_empty() {
                detail += &format!(" [{}]", text::for_terminal(rules.as_bytes()));
            }
            if let Some(args) = &p.process.args {
                detail += &format!(" {}", human::command(args));
                detail += if p.process.args_cut { " …" } else { "" };
            } else if let Some(exe) = &p.process.exe {
                detail += &format!(" {}", text::for_terminal(exe));
            }
        }
        let detail = paint(self.color, layout::DIM, &fit(&detail, self.room()));
        self.start(p.time_ns, what, style, &p.process.ident) + " " + &detail + "\n"
    }

    fn profile(&mut self, p: &Profile) -> String {
        let so_far = p.window.end == WindowEnd::Running;
        let what = if so_far { "so far" } else { "profile" };
        let mut line = self.start(p.time_ns, what, layout::BAR, &p.process.ident);
        for &(e, _, w) in &self.figures {
            let value = match p.figures.get(e) {
                Value::Is(v) if p.events.contains(e) => human::short(*v, e.info().unit),
                // Never 0: it was not measured, or not asked for.
                _ => "-".into(),
            };
            line += &format!(" {value:>w$}");
        }
        line.push(' ');
        match p.exit {
            Some(e) if e.code() == Some(0) => line.push('0'),
            Some(e) => line += &paint(self.color, layout::BAD, &human::exit(e)),
            None => line += &paint(self.color, layout::DIM, p.window.end.name()),
        }
        line.push('\n');
        if let Some(counts) = self.counts(&p.figures) {
            line += &format!("{:13}{}\n", "", fit(&counts, self.edge - 13));
        }
        for region in p.regions.iter().take(REGIONS) {
            line += &self.region(region);
        }
        if p.regions.len() > REGIONS {
            let more =
                human::plural((p.regions.len() - REGIONS) as u64, "more region", "more regions");
            let more = paint(self.color, layout::DIM, &format!("… {more}"));
            line += &format!("{:13}{more}\n", "");
        }
        for thread in p.threads.iter().take(THREADS) {
            line += &self.thread(thread, p);
        }
        if p.threads.len() > THREADS {
            let more =
                human::plural((p.threads.len() - THREADS) as u64, "more thread", "more threads");
            let more = paint(self.color, layout::DIM, &format!("… {more} (json has all)"));
            line += &format!("{:13}{more}\n", "");
        }
        let age = p.figures.counts_age_ns;
        if age > 0 {
            let text = format!("^ counts up to {} old", human::duration(age));
            line += &format!("{:13}{}\n", "", paint(self.color, layout::DIM, &text));
        }
        for note in &p.notes {
            // Of figures so far there may be many: each is told once.
            if so_far && !self.told.insert(note) {
                continue;
            }
            let note = fit(note, self.edge - 15);
            line += &format!("{:13}{}\n", "", paint(self.color, layout::DIM, &format!("^ {note}")));
        }
        line
    }

    /// A line for the regions of one name.
    fn region(&self, r: &Region) -> String {
        let value = |e| match r.figures.get(e) {
            Value::Is(v) => human::short(*v, Event::info(e).unit),
            Value::Absent(_) => "-".into(),
        };
        let name = fit(&text::for_terminal(&r.name), self.edge / 3);
        let mut text = format!(
            "\"{name}\" ×{}  {} on CPU  {} wall",
            human::count(r.ended),
            value(Event::TaskClock),
            value(Event::WallTime),
        );
        if r.ended > 1 {
            let (least, most) = (human::duration(r.shortest_ns), human::duration(r.longest_ns));
            text += &format!(" ({least} … {most})");
        }
        if r.begun > r.ended {
            text += &format!("  {} not ended", human::count(r.begun - r.ended));
        }
        format!("{:13}{}\n", "", fit(&text, self.edge - 13))
    }

    /// A line for a thread.
    fn thread(&self, t: &ThreadFigures, p: &Profile) -> String {
        let figures = t.figures(&p.figures);
        let comm = fit(&text::for_terminal(&t.comm), 15);
        let mut parts = vec![format!("thread {} {comm}", t.tid)];
        for (e, what) in [
            (Event::TaskClock, "on CPU"),
            (Event::PageFaults, "faults"),
            (Event::ContextSwitches, "switches"),
        ] {
            if let (Value::Is(v), true) = (figures.get(e), p.events.contains(e)) {
                parts.push(format!("{} {what}", human::short(*v, e.info().unit)));
            }
        }
        parts.extend(self.counts(&figures));
        format!("{:13}{}\n", "", fit(&parts.join("  "), self.edge - 13))
    }

    /// Counts and metrics, in a line of their own: names are long and many.
    fn counts(&self, figures: &Figures) -> Option<String> {
        let table = &self.counters;
        let counts = table.shown().map(|(i, c)| {
            let item = counters::Item::Counter(i);
            let scaled = figures.counts.get(i).is_some_and(|c| c.is_scaled());
            let mark = if scaled { "~" } else { "" };
            match figures.item(item) {
                Value::Is(v) => format!("{} {mark}{}", c.name, human::item(v, item, table)),
                Value::Absent(_) => format!("{} -", c.name),
            }
        });
        let metrics = table.metrics.iter().filter_map(|m| {
            let value = table.metric(m, figures)?;
            Some(format!("{} {}", m.name, human::metric(value, m.unit)))
        });
        let all: Vec<_> = counts.chain(metrics).collect();
        (!all.is_empty()).then(|| all.join("  "))
    }

    fn loss(&self, l: &Loss) -> String {
        let what = format!(
            "{} LOST {} {}: {}",
            human::time_of_day(l.time_ns),
            human::count(l.count),
            l.reason.name(),
            human::loss(l.reason)
        );
        paint(self.color, layout::LOUD, &layout::wrap(&what, self.width, "             ")) + "\n"
    }

    fn repeat(&self, r: &Repeat) -> String {
        let e = &r.elapsed;
        let time = |v: f64| human::duration(v.round() as u64);
        let mut line = format!(
            "{} {} in {} each",
            human::time_of_day(r.time_ns),
            human::plural(e.over as u64, "run", "runs"),
            time(e.mean),
        );
        if let Some(sd) = e.sd {
            line += &format!(" ± {} ({} … {})", time(sd), time(e.min), time(e.max));
        }
        if r.failed > 0 {
            line += &paint(self.color, layout::BAD, &format!(", {} failed", r.failed));
        }
        line.push('\n');
        for warning in &r.warnings {
            let text = layout::wrap(&format!("warning: {warning}"), self.width - 13, "    ");
            for l in text.lines() {
                line += &format!("{:13}{}\n", "", paint(self.color, layout::WARN, l));
            }
        }
        line
    }

    fn end(&self, e: &End) -> String {
        let clean = e.unaccounted() == 0 && e.lost_profiles() == 0;
        let style = if clean { layout::GOOD } else { layout::LOUD };
        if self.audits {
            let accounts = paint(self.color, style, &human::reconcile(e));
            let head = human::time_of_day(e.time_ns);
            return format!("{head} audited for {}: {accounts}\n", human::duration(e.duration_ns));
        }
        let mut line = format!(
            "{} {} in {}",
            human::time_of_day(e.time_ns),
            human::plural(e.processes, "process", "processes"),
            human::duration(e.duration_ns),
        );
        if let Value::Is(ns) = e.totals.get(Event::TaskClock) {
            line += &format!(", {} on CPUs", human::duration(*ns));
        }
        let accounts = paint(self.color, style, &human::reconcile(e));
        format!("{line}\n{:13}{accounts}\n", "")
    }
}

impl Exporter for Table {
    fn record(&mut self, r: &Record, out: &mut dyn Write) -> io::Result<()> {
        let text = match r {
            Record::Header(h) => {
                self.rules = h.rules.iter().map(|r| r.name.clone()).collect();
                self.counters = h.counters.clone();
                self.header(h)
            }
            Record::Prof(p) => self.heads() + &self.event(p),
            Record::Profile(p) => self.heads() + &self.profile(p),
            Record::Loss(l) => self.loss(l),
            Record::End(e) => self.end(e),
            Record::Repeat(r) => self.repeat(r),
            // The profiles say it.
            Record::Interval(_) => String::new(),
            Record::Audit(e) => {
                let heads = match std::mem::replace(&mut self.headed, true) {
                    true => String::new(),
                    false => paint(self.color, layout::BOLD, &audit::heads()) + "\n",
                };
                heads + &audit::line(e, self.color, self.edge)
            }
            Record::AuditTotals(t) => {
                self.audits = true;
                audit::summary(t, self.color, self.width)
            }
        };
        out.write_all(text.as_bytes())
    }

    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.flush()
    }
}
