//! Every record as JSON, one object a line; `docs/schema/prof-records.schema.json`
//! describes it. Keys are added in time, never renamed.
//!
//! What was not measured is never 0: a figure has a `value` or says why it is
//! `absent`. A fixed key whose value is not known is `null`; the others are left
//! out.

use std::borrow::Cow;
use std::io;
use std::io::Write;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use prof_model::counters::Count;
use prof_model::counters::Counter;
use prof_model::counters::Item;
use prof_model::counters::Metric;
use prof_model::counters::Table;
use prof_model::figures::Event;
use prof_model::figures::EventSet;
use prof_model::figures::Figures;
use prof_model::figures::Value;
use prof_model::record::End;
use prof_model::record::Exit;
use prof_model::record::Flags;
use prof_model::record::Header;
use prof_model::record::Interval;
use prof_model::record::Loss;
use prof_model::record::LossReason;
use prof_model::record::ProfEvent;
use prof_model::record::Profile;
use prof_model::record::Record;
use prof_model::record::Region;
use prof_model::record::ThreadFigures;
use prof_model::record::Window;
use prof_model::repeat::Repeat;
use prof_model::stats::Spread;
use prof_model::text;
use serde::Serialize;
use serde::Serializer;
use serde::ser::SerializeMap;

use crate::Exporter;
use crate::audit;
use crate::human;
use crate::rule_names;

/// Writes the `json` format.
#[derive(Debug)]
pub struct Json {
    rules: Vec<String>,
    events: EventSet,
    counters: Table,
    repetition: Option<u32>,
    /// The last line, for its room.
    line: Vec<u8>,
}

impl Json {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self {
            rules: Vec::new(),
            events: EventSet::ALL,
            counters: Table::default(),
            repetition: None,
            line: Vec::new(),
        }
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::new()
    }
}

impl Exporter for Json {
    fn record(&mut self, r: &Record, out: &mut dyn Write) -> io::Result<()> {
        // A line is made whole before it is written: a reader of the file never
        // sees half of one because a later part failed to serialize.
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let to = &mut line;
        match r {
            Record::Header(h) => {
                self.rules = h.rules.iter().map(|r| r.name.clone()).collect();
                self.events = h.events;
                self.counters = h.counters.clone();
                self.repetition = h.repetition.map(|r| r.number);
                serde_json::to_writer(to, &HeaderOut::new(h))?
            }
            Record::Prof(p) => {
                serde_json::to_writer(to, &ProfOut::new(p, &self.rules, &self.counters))?
            }
            Record::Profile(p) => {
                serde_json::to_writer(to, &ProfileOut::new(p, &self.rules, &self.counters))?
            }
            Record::Loss(l) => serde_json::to_writer(to, &LossOut::new(l))?,
            Record::Interval(i) => {
                serde_json::to_writer(to, &IntervalOut::new(i, self.events, &self.counters))?
            }
            Record::End(e) => {
                let repetition = self.repetition;
                let end = EndOut { repetition, ..EndOut::new(e, self.events, &self.counters) };
                serde_json::to_writer(to, &end)?
            }
            Record::Repeat(r) => serde_json::to_writer(to, &RepeatOut::new(r, &self.counters))?,
            Record::Audit(e) => line = audit::event(e)?,
            Record::AuditTotals(t) => line = audit::totals(t)?,
        }
        line.push(b'\n');
        self.line = line;
        out.write_all(&self.line)
    }

    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.flush()
    }
}

/// RFC 3339, UTC, to the ns.
pub(crate) fn rfc3339(ns: u64) -> String {
    // u64 ns reach the year 2554; humantime formats to 9999.
    humantime::format_rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(ns)).to_string()
}

#[derive(Serialize)]
struct HeaderOut<'a> {
    record: &'static str,
    time: String,
    version: &'static str,
    host: Cow<'a, str>,
    kernel: Cow<'a, str>,
    machine: Cow<'a, str>,
    cpus: u32,
    clock: ClockOut,
    events: Vec<EventOut<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    metrics: Vec<MetricOut<'a>>,
    rules: Vec<RuleOut>,
    attached: Vec<AttachedOut<'a>>,
    limits: Vec<String>,
    command: Option<Vec<Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetitions: Option<u32>,
}

#[derive(Serialize)]
struct ClockOut {
    time: &'static str,
    start_ns: &'static str,
}

#[derive(Serialize)]
struct EventOut<'a> {
    name: &'a str,
    id: u32,
    unit: &'a str,
    about: &'a str,
}

#[derive(Serialize)]
struct MetricOut<'a> {
    name: &'a str,
    unit: &'a str,
    about: &'a str,
}

#[derive(Serialize)]
struct RuleOut {
    name: String,
    text: String,
}

#[derive(Serialize)]
struct AttachedOut<'a> {
    hook: &'a str,
    how: &'static str,
}

impl<'a> HeaderOut<'a> {
    fn new(h: &'a Header) -> Self {
        let s = |s: &'a str| text::for_json(s.as_bytes());
        Self {
            record: "header",
            time: rfc3339(h.time_ns),
            version: h.version,
            host: s(&h.host),
            kernel: s(&h.kernel),
            machine: s(&h.machine),
            cpus: h.cpus,
            clock: ClockOut { time: "CLOCK_REALTIME", start_ns: "CLOCK_BOOTTIME" },
            events: h
                .events
                .iter()
                .map(|e| {
                    let i = e.info();
                    EventOut { name: i.name, id: i.id, unit: i.unit.name(), about: i.about }
                })
                .chain(h.counters.counters.iter().enumerate().map(|(i, c)| EventOut {
                    name: &c.name,
                    id: h.counters.id(i, h.events.len()),
                    unit: &c.unit,
                    about: &c.about,
                }))
                .collect(),
            metrics: h
                .counters
                .metrics
                .iter()
                .map(|m| MetricOut { name: &m.name, unit: m.unit, about: m.about })
                .collect(),
            rules: h
                .rules
                .iter()
                .map(|r| RuleOut { name: r.name.clone(), text: r.text.clone() })
                .collect(),
            attached: h
                .attached
                .iter()
                .map(|a| AttachedOut { hook: &a.hook, how: a.how })
                .collect(),
            limits: h.limits.clone(),
            command: h.command.as_ref().map(|c| c.iter().map(|a| text::for_json(a)).collect()),
            repetition: h.repetition.map(|r| r.number),
            repetitions: h.repetition.map(|r| r.of),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct ProcessOut<'a> {
    pid: Option<u32>,
    tid: Option<u32>,
    ppid: Option<u32>,
    start_ns: Option<u64>,
    exec: Option<u32>,
    comm: Option<Cow<'a, str>>,
    exe: Option<Cow<'a, str>>,
    uid: Option<u32>,
    gid: Option<u32>,
    cgroup_id: Option<u64>,
    mntns: Option<u32>,
    pidns: Option<u32>,
    container_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Vec<Cow<'a, str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args_cut: Option<bool>,
}

impl<'a> ProcessOut<'a> {
    pub(crate) fn new(p: &'a prof_model::record::Process) -> Self {
        Self::known(p, true, true)
    }

    /// Of one that somebody else has met: what nobody knows is null.
    pub(crate) fn met(p: &'a prof_model::record::Process) -> Self {
        Self::known(p, p.ident.pid != 0, p.ident.start_ns != 0)
    }

    fn known(p: &'a prof_model::record::Process, pid: bool, rest: bool) -> Self {
        let i = &p.ident;
        Self {
            pid: pid.then_some(i.pid),
            tid: pid.then_some(i.tid),
            ppid: rest.then_some(i.ppid),
            start_ns: rest.then_some(i.start_ns),
            exec: rest.then_some(i.exec),
            comm: rest.then(|| text::for_json(&i.comm)),
            exe: p.exe.as_deref().map(text::for_json),
            uid: rest.then_some(i.uid),
            gid: rest.then_some(i.gid),
            cgroup_id: rest.then_some(i.cgroup_id),
            mntns: rest.then_some(i.mntns),
            pidns: rest.then_some(i.pidns),
            container_id: p.container_id.as_deref(),
            args: p.args.as_ref().map(|a| a.iter().map(|a| text::for_json(a)).collect()),
            args_cut: p.args.as_ref().map(|_| p.args_cut),
        }
    }
}

#[derive(Serialize)]
struct ProfOut<'a> {
    record: &'static str,
    time: String,
    process: ProcessOut<'a>,
    flags: Vec<&'static str>,
    events: Vec<&'a str>,
    #[serde(rename = "FLAGS")]
    flags_number: u64,
    #[serde(rename = "EVENTS")]
    event_ids: Vec<u32>,
    rules: Vec<Cow<'a, str>>,
    hook: &'static str,
    cpu: u32,
}

fn event_names(events: EventSet, counters: &Table) -> Vec<&str> {
    let kept = events.iter().map(|e| e.info().name);
    kept.chain(counters.counters.iter().map(|c| c.name.as_str())).collect()
}

/// `EVENTS`: ids in the order of [`event_names`].
pub(crate) fn event_ids(events: EventSet, counters: &Table) -> Vec<u32> {
    let counted = (0..counters.counters.len()).map(|i| counters.id(i, events.len()));
    events.iter().map(|e| e.info().id).chain(counted).collect()
}

impl<'a> ProfOut<'a> {
    fn new(p: &'a ProfEvent, rules: &'a [String], counters: &'a Table) -> Self {
        Self {
            record: "prof",
            time: rfc3339(p.time_ns),
            process: ProcessOut::new(&p.process),
            flags: p.flags.names(),
            events: event_names(p.events, counters),
            flags_number: p.flags.0,
            event_ids: event_ids(p.events, counters),
            rules: rule_names(p.rules, rules),
            hook: p.hook,
            cpu: p.cpu,
        }
    }
}

/// Figures of the events asked for, by name.
struct FiguresOut<'a> {
    figures: &'a Figures,
    events: EventSet,
    counters: &'a Table,
}

#[derive(Serialize)]
#[serde(untagged)]
enum FigureOut {
    Is { value: u64, unit: &'static str },
    Absent { absent: &'static str, unit: &'static str },
}

#[derive(Serialize)]
struct CountOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<serde_json::Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<&'static str>,
    unit: &'a str,
    enabled_ns: u64,
    running_ns: u64,
}

impl<'a> CountOut<'a> {
    fn new(counter: &'a Counter, value: &Value, count: Count) -> Self {
        let number = |v: u64| match counter.scale {
            1.0 => Some(v.into()),
            scale => serde_json::Number::from_f64(v as f64 * scale),
        };
        let (value, absent) = match *value {
            Value::Is(v) => (number(v), None),
            Value::Absent(reason) => (None, Some(reason)),
        };
        let absent = absent.or(value.is_none().then_some("larger than any number"));
        let (enabled_ns, running_ns) = (count.enabled_ns, count.running_ns);
        Self { value, absent, unit: &counter.unit, enabled_ns, running_ns }
    }
}

/// Metrics that could be computed, by name.
struct MetricsOut<'a> {
    /// Whether none was asked for.
    is_empty: bool,
    values: Vec<(&'a Metric, f64)>,
}

impl<'a> MetricsOut<'a> {
    fn of_one(figures: &Figures, counters: &'a Table) -> Self {
        Self::new(counters, |m| counters.metric(m, figures))
    }

    /// Of the figures of all processes, over this time.
    fn of_all(figures: &Figures, counters: &'a Table, elapsed_ns: u64) -> Self {
        Self::new(counters, |m| counters.metric_of_all(m, figures, Some(elapsed_ns)))
    }

    fn new(counters: &'a Table, of: impl Fn(&Metric) -> Option<f64>) -> Self {
        let values = counters.metrics.iter().filter_map(|m| Some((m, of(m)?))).collect();
        Self { is_empty: counters.metrics.is_empty(), values }
    }

    fn is_empty(&self) -> bool {
        self.is_empty
    }
}

impl Serialize for MetricsOut<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let value = |v: &f64, m: &Metric| serde_json::json!({ "value": v, "unit": m.unit });
        s.collect_map(self.values.iter().map(|(m, v)| (&m.name, value(v, m))))
    }
}

impl Serialize for FiguresOut<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        for e in self.events.iter() {
            let unit = e.info().unit.name();
            let figure = match *self.figures.get(e) {
                Value::Is(value) => FigureOut::Is { value, unit },
                Value::Absent(absent) => FigureOut::Absent { absent, unit },
            };
            map.serialize_entry(e.info().name, &figure)?;
        }
        for (i, counter) in self.counters.counters.iter().enumerate() {
            let value = self.figures.item(Item::Counter(i));
            let count = self.figures.counts.get(i).copied().unwrap_or_default();
            map.serialize_entry(&counter.name, &CountOut::new(counter, &value, count))?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct ExitOut {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<u8>,
    core: bool,
}

impl From<Exit> for ExitOut {
    fn from(e: Exit) -> Self {
        Self { code: e.code(), signal: e.signal(), core: e.core() }
    }
}

#[derive(Serialize)]
struct WindowOut {
    start: &'static str,
    end: &'static str,
    from: String,
    to: String,
    wall_ns: u64,
}

impl WindowOut {
    /// The window is told in monotonic time; its end is also known in real time,
    /// and its length says the rest.
    fn new(w: &Window, end_ns: u64) -> Self {
        let wall_ns = w.end_ns.saturating_sub(w.start_ns);
        Self {
            start: w.start.name(),
            end: w.end.name(),
            from: rfc3339(end_ns.saturating_sub(wall_ns)),
            to: rfc3339(end_ns),
            wall_ns,
        }
    }
}

#[derive(Serialize)]
struct ThreadOut<'a> {
    tid: u32,
    comm: Cow<'a, str>,
    start_ns: u64,
    #[serde(serialize_with = "owned_figures")]
    figures: (Figures, EventSet, &'a Table),
    #[serde(skip_serializing_if = "MetricsOut::is_empty")]
    metrics: MetricsOut<'a>,
}

fn owned_figures<S: Serializer>(f: &(Figures, EventSet, &Table), s: S) -> Result<S::Ok, S::Error> {
    FiguresOut { figures: &f.0, events: f.1, counters: f.2 }.serialize(s)
}

impl<'a> ThreadOut<'a> {
    fn new(t: &'a ThreadFigures, p: &Profile, counters: &'a Table) -> Self {
        let figures = t.figures(&p.figures);
        // These have no meaning for one thread of several.
        let events = [Event::WallTime, Event::PeakRss, Event::Threads]
            .into_iter()
            .fold(p.events, EventSet::without);
        Self {
            tid: t.tid,
            comm: text::for_json(&t.comm),
            start_ns: t.start_ns,
            metrics: MetricsOut::of_one(&figures, counters),
            figures: (figures, events, counters),
        }
    }
}

#[derive(Serialize)]
struct RegionOut<'a> {
    name: Cow<'a, str>,
    begun: u64,
    ended: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    shortest_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    longest_ns: Option<u64>,
    figures: FiguresOut<'a>,
    #[serde(skip_serializing_if = "MetricsOut::is_empty")]
    metrics: MetricsOut<'a>,
}

impl<'a> RegionOut<'a> {
    fn new(r: &'a Region, events: EventSet, counters: &'a Table) -> Self {
        let events = Region::events(events);
        let of_ended = |ns| (r.ended > 0).then_some(ns);
        Self {
            name: text::for_json(&r.name),
            begun: r.begun,
            ended: r.ended,
            shortest_ns: of_ended(r.shortest_ns),
            longest_ns: of_ended(r.longest_ns),
            figures: FiguresOut { figures: &r.figures, events, counters },
            metrics: MetricsOut::of_one(&r.figures, counters),
        }
    }
}

#[derive(Serialize)]
struct ProfileOut<'a> {
    record: &'static str,
    time: String,
    process: ProcessOut<'a>,
    flags: Vec<&'static str>,
    events: Vec<&'a str>,
    #[serde(rename = "FLAGS")]
    flags_number: u64,
    rules: Vec<Cow<'a, str>>,
    figures: FiguresOut<'a>,
    #[serde(skip_serializing_if = "MetricsOut::is_empty")]
    metrics: MetricsOut<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    threads: Vec<ThreadOut<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    regions: Vec<RegionOut<'a>>,
    exit: Option<ExitOut>,
    window: WindowOut,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ns: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [&'static str],
}

impl<'a> ProfileOut<'a> {
    fn new(p: &'a Profile, rules: &'a [String], counters: &'a Table) -> Self {
        let Flags(flags_number) = p.flags;
        Self {
            record: "profile",
            time: rfc3339(p.time_ns),
            process: ProcessOut::new(&p.process),
            flags: p.flags.names(),
            events: event_names(p.events, counters),
            flags_number,
            rules: rule_names(p.rules, rules),
            figures: FiguresOut { figures: &p.figures, events: p.events, counters },
            metrics: MetricsOut::of_one(&p.figures, counters),
            threads: p.threads.iter().map(|t| ThreadOut::new(t, p, counters)).collect(),
            regions: p.regions.iter().map(|r| RegionOut::new(r, p.events, counters)).collect(),
            exit: p.exit.map(ExitOut::from),
            window: WindowOut::new(&p.window, p.time_ns),
            age_ns: (p.figures.counts_age_ns > 0).then_some(p.figures.counts_age_ns),
            notes: &p.notes,
        }
    }
}

#[derive(Serialize)]
struct LossOut {
    record: &'static str,
    time: String,
    reason: &'static str,
    count: u64,
}

impl LossOut {
    fn new(l: &Loss) -> Self {
        Self { record: "loss", time: rfc3339(l.time_ns), reason: l.reason.name(), count: l.count }
    }
}

#[derive(Serialize)]
struct IntervalOut<'a> {
    record: &'static str,
    time: String,
    since_ns: u64,
    interval_ns: u64,
    running: u64,
    figures: FiguresOut<'a>,
    #[serde(skip_serializing_if = "MetricsOut::is_empty")]
    metrics: MetricsOut<'a>,
}

impl<'a> IntervalOut<'a> {
    fn new(i: &'a Interval, events: EventSet, counters: &'a Table) -> Self {
        Self {
            record: "interval",
            time: rfc3339(i.time_ns),
            since_ns: i.since_ns,
            interval_ns: i.length_ns,
            running: i.running,
            figures: FiguresOut { figures: &i.figures, events, counters },
            metrics: MetricsOut::of_all(&i.figures, counters, i.length_ns),
        }
    }
}

#[derive(Serialize)]
struct EndOut<'a> {
    record: &'static str,
    time: String,
    duration_ns: u64,
    enabled: u64,
    disabled: u64,
    running: u64,
    #[serde(serialize_with = "by_reason")]
    lost: &'a [(LossReason, u64)],
    lost_profiles: u64,
    unaccounted: i64,
    execs: ExecsOut,
    processes: u64,
    totals: FiguresOut<'a>,
    #[serde(skip_serializing_if = "MetricsOut::is_empty")]
    metrics: MetricsOut<'a>,
    bpf_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition: Option<u32>,
}

#[derive(Serialize)]
struct ExecsOut {
    seen: u64,
    kernel: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<&'static str>,
}

impl ExecsOut {
    fn new(seen: u64, kernel: &Value) -> Self {
        let absent = match kernel {
            Value::Is(_) => None,
            Value::Absent(why) => Some(*why),
        };
        Self { seen, kernel: kernel.get(), absent }
    }
}

/// An object from reason to count. A key must not come twice in it.
fn by_reason<S: Serializer>(lost: &[(LossReason, u64)], s: S) -> Result<S::Ok, S::Error> {
    let mut sums = std::collections::BTreeMap::new();
    for (reason, n) in lost {
        *sums.entry(*reason).or_insert(0u64) += n;
    }
    s.collect_map(sums.iter().map(|(reason, n)| (reason.name(), n)))
}

impl<'a> EndOut<'a> {
    fn new(e: &'a End, events: EventSet, counters: &'a Table) -> Self {
        Self {
            record: "end",
            time: rfc3339(e.time_ns),
            duration_ns: e.duration_ns,
            enabled: e.enabled,
            disabled: e.disabled,
            running: e.running,
            lost: &e.lost,
            lost_profiles: e.lost_profiles(),
            unaccounted: e.unaccounted(),
            execs: ExecsOut::new(e.execs_seen, &e.execs_kernel),
            processes: e.processes,
            totals: FiguresOut { figures: &e.totals, events, counters },
            metrics: MetricsOut::of_all(&e.totals, counters, e.duration_ns),
            bpf_ns: e.bpf_ns,
            repetition: None,
        }
    }
}

/// Spread over the runs, or why there is none.
#[derive(Serialize)]
struct SpreadOut<'a> {
    #[serde(flatten)]
    spread: Option<SpreadValues>,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<&'static str>,
    unit: &'a str,
}

#[derive(Serialize)]
struct SpreadValues {
    mean: f64,
    stddev: Option<f64>,
    median: f64,
    mad: f64,
    min: f64,
    max: f64,
    over: usize,
}

impl<'a> SpreadOut<'a> {
    fn new(spread: Option<&Spread>, absent: Option<&'static str>, unit: &'a str) -> Self {
        let values = |s: &Spread| SpreadValues {
            mean: s.mean,
            stddev: s.sd,
            median: s.median,
            mad: s.mad,
            min: s.min,
            max: s.max,
            over: s.over,
        };
        let absent = spread.is_none().then(|| absent.unwrap_or("not measured"));
        Self { spread: spread.map(values), absent, unit }
    }
}

#[derive(Serialize)]
struct RepeatOut<'a> {
    record: &'static str,
    time: String,
    asked: u32,
    repetitions: usize,
    failed: u32,
    elapsed: SpreadOut<'a>,
    elapsed_ns: &'a [u64],
    #[serde(serialize_with = "in_order")]
    figures: Vec<(&'a str, SpreadOut<'a>)>,
    #[serde(serialize_with = "in_order", skip_serializing_if = "Vec::is_empty")]
    metrics: Vec<(&'a str, SpreadOut<'a>)>,
    warnings: Vec<String>,
}

/// An object, its keys in this order.
fn in_order<S: Serializer, V: Serialize>(list: &[(&str, V)], s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(list.iter().map(|(k, v)| (k, v)))
}

impl<'a> RepeatOut<'a> {
    fn new(r: &'a Repeat, table: &'a Table) -> Self {
        let figure = |(item, spread, absent): &'a (Item, Option<Spread>, Option<&'static str>)| {
            let unit = match item {
                Item::Figure(e) => e.info().unit.name(),
                Item::Counter(i) => table.counters.get(*i).map_or("", |c| c.unit.as_str()),
            };
            (human::name(*item, table), SpreadOut::new(spread.as_ref(), *absent, unit))
        };
        let metric = |(m, spread): (&'a Metric, &Option<Spread>)| {
            let why = Some("what it is computed from was not measured, or is 0");
            (m.name.as_str(), SpreadOut::new(spread.as_ref(), why, m.unit))
        };
        Self {
            record: "repeat",
            time: rfc3339(r.time_ns),
            asked: r.asked,
            repetitions: r.elapsed.over,
            failed: r.failed,
            elapsed: SpreadOut::new(Some(&r.elapsed), None, "ns"),
            elapsed_ns: &r.elapsed_ns,
            figures: r.items.iter().map(figure).collect(),
            metrics: table.metrics.iter().zip(&r.metrics).map(metric).collect(),
            warnings: r.warnings.iter().map(ToString::to_string).collect(),
        }
    }
}
