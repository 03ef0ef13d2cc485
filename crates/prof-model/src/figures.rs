//! The event table, and the figures of a window.
//!
//! [`EVENTS`] is the only place where an event has its name, id, unit and
//! meaning. Ids are `perf_type << 24 | config`; what perf has no id for stands
//! under type 0x7f.

use std::fmt;

use crate::counters::Count;
use crate::counters::Item;

/// Cumulative figures as the kernel half reports them: times in ns, sizes in
/// bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RawFigures {
    pub task_clock: u64,
    pub utime: u64,
    pub stime: u64,
    pub min_flt: u64,
    pub maj_flt: u64,
    pub nvcsw: u64,
    pub nivcsw: u64,
    pub migrations: u64,
    pub run_delay: u64,
    pub rchar: u64,
    pub wchar: u64,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub cancelled_write_bytes: u64,
}

impl RawFigures {
    /// Both, field by field. `f` must not overflow: wrapping is used so that a
    /// hostile or torn value cannot panic.
    fn zip(&self, o: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            task_clock: f(self.task_clock, o.task_clock),
            utime: f(self.utime, o.utime),
            stime: f(self.stime, o.stime),
            min_flt: f(self.min_flt, o.min_flt),
            maj_flt: f(self.maj_flt, o.maj_flt),
            nvcsw: f(self.nvcsw, o.nvcsw),
            nivcsw: f(self.nivcsw, o.nivcsw),
            migrations: f(self.migrations, o.migrations),
            run_delay: f(self.run_delay, o.run_delay),
            rchar: f(self.rchar, o.rchar),
            wchar: f(self.wchar, o.wchar),
            read_bytes: f(self.read_bytes, o.read_bytes),
            write_bytes: f(self.write_bytes, o.write_bytes),
            cancelled_write_bytes: f(self.cancelled_write_bytes, o.cancelled_write_bytes),
        }
    }

    /// The sum.
    #[must_use]
    pub fn plus(&self, o: &Self) -> Self {
        self.zip(o, u64::wrapping_add)
    }

    /// What came since `o`; a value that went back (a base line taken a moment
    /// later than the reading) is 0.
    #[must_use]
    pub fn since(&self, o: &Self) -> Self {
        self.zip(o, u64::saturating_sub)
    }
}

/// Unit of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// Bytes.
    Bytes,
    /// A count.
    Count,
}

impl Unit {
    /// As in the `unit` key of the records.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Ns => "ns",
            Unit::Bytes => "bytes",
            Unit::Count => "count",
        }
    }
}

/// An event that prof can report, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Event {
    WallTime,
    TaskClock,
    UserTime,
    SystemTime,
    PageFaults,
    MinorFaults,
    MajorFaults,
    ContextSwitches,
    VoluntarySwitches,
    InvoluntarySwitches,
    CpuMigrations,
    RunQueueWait,
    PeakRss,
    ReadBytes,
    WrittenBytes,
    StorageReadBytes,
    StorageWrittenBytes,
    Threads,
}

/// How many events there are.
pub const NR_EVENTS: usize = 18;

/// One row of the event table.
#[derive(Debug, Clone, Copy)]
pub struct EventInfo {
    /// Which.
    pub event: Event,
    /// Name, as in `-e` and in the records: perf's where perf has one.
    pub name: &'static str,
    /// Other spellings that `-e` takes.
    pub aliases: &'static [&'static str],
    /// `perf_type << 24 | config`.
    pub id: u32,
    /// Unit of the value.
    pub unit: Unit,
    /// What it counts, one line.
    pub about: &'static str,
    /// Whether values of several processes may be added.
    pub additive: bool,
}

const fn sw(config: u32) -> u32 {
    1 << 24 | config
}

const fn own(config: u32) -> u32 {
    0x7f << 24 | config
}

macro_rules! event {
    ($event:ident, $name:literal, $aliases:expr, $id:expr, $unit:ident, $additive:literal, $about:literal) => {
        EventInfo {
            event: Event::$event,
            name: $name,
            aliases: &$aliases,
            id: $id,
            unit: Unit::$unit,
            about: $about,
            additive: $additive,
        }
    };
}

/// The event table, indexed by [`Event`].
pub const EVENTS: [EventInfo; NR_EVENTS] = [
    event!(
        WallTime,
        "wall-time",
        ["duration_time"],
        own(1),
        Ns,
        true,
        "time from the start of the window to its end"
    ),
    event!(
        TaskClock,
        "task-clock",
        [],
        sw(1),
        Ns,
        true,
        "time on a CPU, all threads, without time stolen by a hypervisor"
    ),
    event!(
        UserTime,
        "user-time",
        ["user_time"],
        own(2),
        Ns,
        true,
        "part of task-clock in user mode, as the kernel's ticks divide it"
    ),
    event!(
        SystemTime,
        "system-time",
        ["system_time"],
        own(3),
        Ns,
        true,
        "part of task-clock in kernel mode, as the kernel's ticks divide it"
    ),
    event!(
        PageFaults,
        "page-faults",
        ["faults"],
        sw(2),
        Count,
        true,
        "page faults, minor and major"
    ),
    event!(
        MinorFaults,
        "minor-faults",
        [],
        sw(5),
        Count,
        true,
        "page faults that needed no storage"
    ),
    event!(
        MajorFaults,
        "major-faults",
        [],
        sw(6),
        Count,
        true,
        "page faults that waited for storage"
    ),
    event!(
        ContextSwitches,
        "context-switches",
        ["cs"],
        sw(3),
        Count,
        true,
        "times a thread left its CPU"
    ),
    event!(
        VoluntarySwitches,
        "voluntary-switches",
        [],
        own(4),
        Count,
        true,
        "times a thread left its CPU to wait"
    ),
    event!(
        InvoluntarySwitches,
        "involuntary-switches",
        [],
        own(5),
        Count,
        true,
        "times a thread was preempted"
    ),
    event!(
        CpuMigrations,
        "cpu-migrations",
        ["migrations"],
        sw(4),
        Count,
        true,
        "times a thread moved to another CPU"
    ),
    event!(
        RunQueueWait,
        "run-queue-wait",
        [],
        own(6),
        Ns,
        true,
        "time ready to run without a CPU, all threads"
    ),
    event!(PeakRss, "peak-rss", ["max-rss"], own(7), Bytes, false, "most memory resident at once"),
    event!(
        ReadBytes,
        "read-bytes",
        ["rchar"],
        own(8),
        Bytes,
        true,
        "bytes returned by read and its kin, from anything"
    ),
    event!(
        WrittenBytes,
        "written-bytes",
        ["wchar"],
        own(9),
        Bytes,
        true,
        "bytes taken by write and its kin, to anything"
    ),
    event!(
        StorageReadBytes,
        "storage-read-bytes",
        [],
        own(10),
        Bytes,
        true,
        "bytes fetched from storage"
    ),
    event!(
        StorageWrittenBytes,
        "storage-written-bytes",
        [],
        own(11),
        Bytes,
        true,
        "bytes made dirty for storage, less those never written"
    ),
    event!(Threads, "threads", [], own(12), Count, true, "threads started, the first included"),
];

impl Event {
    /// Every event, in the order of the table.
    pub fn all() -> impl Iterator<Item = Event> {
        EVENTS.iter().map(|e| e.event)
    }

    /// Its row of the table.
    pub fn info(self) -> &'static EventInfo {
        &EVENTS[self as usize]
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().name)
    }
}

/// A set of events; iterates in the order of the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventSet(u32);

impl EventSet {
    /// None.
    pub const EMPTY: Self = Self(0);
    /// All.
    pub const ALL: Self = Self((1 << NR_EVENTS) - 1);

    /// With `e` in it.
    #[must_use]
    pub fn with(self, e: Event) -> Self {
        Self(self.0 | 1 << e as u32)
    }

    /// With `e` out of it.
    #[must_use]
    pub fn without(self, e: Event) -> Self {
        Self(self.0 & !(1 << e as u32))
    }

    /// Whether `e` is in it.
    pub fn contains(self, e: Event) -> bool {
        self.0 & 1 << e as u32 != 0
    }

    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many are in it.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Those in it.
    pub fn iter(self) -> impl Iterator<Item = Event> {
        Event::all().filter(move |e| self.contains(*e))
    }
}

/// A figure: a value, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Measured.
    Is(u64),
    /// Not measured, and why.
    Absent(&'static str),
}

impl Value {
    /// The value, if it was measured.
    pub fn get(&self) -> Option<u64> {
        match self {
            Value::Is(v) => Some(*v),
            Value::Absent(_) => None,
        }
    }
}

/// The figures of a window, by event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    kept: [Value; NR_EVENTS],
    /// Counts of perf events, in the order of the header's table; empty if none
    /// were counted.
    pub counts: Vec<Count>,
    /// How old `counts` may be, ns: some thread runs on a CPU that was not to be
    /// interrupted for them. 0 if they are as of now.
    pub counts_age_ns: u64,
}

impl Figures {
    /// All absent, for this reason.
    pub fn absent(reason: &'static str) -> Self {
        Self {
            kept: std::array::from_fn(|_| Value::Absent(reason)),
            counts: Vec::new(),
            counts_age_ns: 0,
        }
    }

    /// The figure of an event.
    pub fn get(&self, e: Event) -> &Value {
        &self.kept[e as usize]
    }

    /// A figure or an estimate of a count.
    pub fn item(&self, item: Item) -> Value {
        match item {
            Item::Figure(e) => self.get(e).clone(),
            Item::Counter(i) => {
                let ran = self.get(Event::TaskClock).get().is_some_and(|ns| ns > 0);
                self.counts.get(i).map_or(Value::Absent(NOT_COUNTED), |c| c.estimate(ran))
            }
        }
    }

    /// Sets it.
    pub fn set(&mut self, e: Event, v: Value) {
        self.kept[e as usize] = v;
    }

    /// Adds the figures of another process. Absent plus something is the
    /// something: a total says elsewhere over how many processes it is. What is
    /// not additive becomes the larger.
    pub fn add(&mut self, o: &Figures) {
        for info in &EVENTS {
            let i = info.event as usize;
            let sum = match (self.kept[i].get(), o.kept[i].get()) {
                (Some(a), Some(b)) if info.additive => Value::Is(a.saturating_add(b)),
                (Some(a), Some(b)) => Value::Is(a.max(b)),
                (None, Some(b)) => Value::Is(b),
                // The latest reason says more than that nothing came yet.
                (None, None) => o.kept[i].clone(),
                (Some(_), None) => continue,
            };
            self.kept[i] = sum;
        }
        self.counts_age_ns = self.counts_age_ns.max(o.counts_age_ns);
        if self.counts.is_empty() {
            self.counts = o.counts.clone();
        } else {
            for (sum, more) in self.counts.iter_mut().zip(&o.counts) {
                *sum = sum.plus(more);
            }
        }
    }
}

impl Figures {
    /// What came since `o`, which is an earlier state of the same sum. What is not
    /// additive is as of now.
    #[must_use]
    pub fn since(&self, o: &Figures) -> Self {
        let mut figures = self.clone();
        for info in EVENTS.iter().filter(|i| i.additive) {
            if let (Value::Is(now), Value::Is(then)) = (self.get(info.event), o.get(info.event)) {
                figures.set(info.event, Value::Is(now.saturating_sub(*then)));
            }
        }
        for (now, then) in figures.counts.iter_mut().zip(&o.counts) {
            *now = now.since(then);
        }
        figures
    }
}

/// There is no count for a process.
const NOT_COUNTED: &str = "not counted for this process";

/// What there is to know about raw figures before they can be shown.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// Length of the window, ns; `None` if it has no clear end.
    pub wall_ns: Option<u64>,
    /// Peak resident bytes, with what `quality` says of it.
    pub peak_rss: u64,
    /// Threads started in the window.
    pub threads: u32,
    /// `enum prof_quality` of the record.
    pub quality: Quality,
    /// What the kernel keeps per task.
    pub kernel: Keeps,
}

/// `enum prof_quality`, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quality(pub u16);

#[allow(missing_docs)]
impl Quality {
    pub const CLOCK_STALE: u16 = 0x1;
    pub const RSS_BOUND: u16 = 0x2;
    pub const RSS_NONE: u16 = 0x4;
    pub const RSS_APPROX: u16 = 0x8;
    pub const DIED_IN_EXEC: u16 = 0x10;
    pub const ARGS_CUT: u16 = 0x20;
    pub const PATH_CUT: u16 = 0x40;
    pub const NO_MM_END: u16 = 0x80;
    pub const COUNTS_PART: u16 = 0x100;

    pub fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }
}

/// Which accounting this kernel was built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeps {
    /// `CONFIG_SCHED_INFO`: run-queue wait.
    pub run_delay: bool,
    /// `CONFIG_TASK_XACCT`: bytes as system calls saw them.
    pub io_chars: bool,
    /// `CONFIG_TASK_IO_ACCOUNTING`: bytes to and from storage.
    pub io_bytes: bool,
}

impl Keeps {
    /// Why this kernel does not keep the figure, if it does not.
    pub fn lacks(&self, e: Event) -> Option<&'static str> {
        let without = |kept: bool, why| (!kept).then_some(why);
        match e {
            Event::RunQueueWait => {
                without(self.run_delay, "this kernel was built without CONFIG_SCHED_INFO")
            }
            Event::ReadBytes | Event::WrittenBytes => {
                without(self.io_chars, "this kernel was built without CONFIG_TASK_XACCT")
            }
            Event::StorageReadBytes | Event::StorageWrittenBytes => {
                without(self.io_bytes, "this kernel was built without CONFIG_TASK_IO_ACCOUNTING")
            }
            _ => None,
        }
    }
}

const CLOCK_AHEAD: &str = "the window was shorter than what a hypervisor took of the CPU, or an \
    interrupt, since the scheduler last looked";

/// The kernel divides runtime by the ticks that fell in either mode; with no
/// tick at all there is nothing to divide by.
const NO_TICK: &str =
    "too short: no timer tick fell into it, so the kernel has no user/system split";

impl Figures {
    /// Figures from what the kernel half reports.
    pub fn from_raw(raw: &RawFigures, cx: &Context) -> Self {
        let mut f = Figures::absent("not measured");
        let acted = raw.min_flt + raw.maj_flt + raw.nvcsw + raw.nivcsw > 0;
        // It did run: the clock stood ahead at the beginning of the window.
        if raw.task_clock == 0 && acted && cx.quality.has(Quality::CLOCK_STALE) {
            f.set(Event::TaskClock, Value::Absent(CLOCK_AHEAD));
        } else {
            f.set(Event::TaskClock, Value::Is(raw.task_clock));
        }
        let mut is = |e, v| f.set(e, Value::Is(v));
        is(Event::PageFaults, raw.min_flt + raw.maj_flt);
        is(Event::MinorFaults, raw.min_flt);
        is(Event::MajorFaults, raw.maj_flt);
        is(Event::ContextSwitches, raw.nvcsw + raw.nivcsw);
        is(Event::VoluntarySwitches, raw.nvcsw);
        is(Event::InvoluntarySwitches, raw.nivcsw);
        is(Event::CpuMigrations, raw.migrations);
        is(Event::Threads, cx.threads.into());
        let written = raw.write_bytes.saturating_sub(raw.cancelled_write_bytes);
        for (e, v) in [
            (Event::RunQueueWait, raw.run_delay),
            (Event::ReadBytes, raw.rchar),
            (Event::WrittenBytes, raw.wchar),
            (Event::StorageReadBytes, raw.read_bytes),
            (Event::StorageWrittenBytes, written),
        ] {
            f.set(e, cx.kernel.lacks(e).map_or(Value::Is(v), Value::Absent));
        }
        if let Some(wall) = cx.wall_ns {
            f.set(Event::WallTime, Value::Is(wall));
        }
        let ticks = raw.utime.saturating_add(raw.stime);
        if ticks == 0 {
            f.set(Event::UserTime, Value::Absent(NO_TICK));
            f.set(Event::SystemTime, Value::Absent(NO_TICK));
        } else {
            let system =
                (u128::from(raw.task_clock) * u128::from(raw.stime) / u128::from(ticks)) as u64;
            f.set(Event::SystemTime, Value::Is(system));
            f.set(Event::UserTime, Value::Is(raw.task_clock.saturating_sub(system)));
        }
        f.set(Event::PeakRss, peak_rss(cx));
        f
    }
}

fn peak_rss(cx: &Context) -> Value {
    if cx.quality.has(Quality::RSS_NONE) {
        Value::Absent("the address space was gone when the window ended")
    } else if cx.quality.has(Quality::RSS_BOUND) {
        Value::Absent(
            "an earlier image of this process peaked higher, and the kernel keeps only the highest",
        )
    } else {
        Value::Is(cx.peak_rss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_with_unique_ids_and_names() {
        for (i, e) in EVENTS.iter().enumerate() {
            assert_eq!(e.event as usize, i);
            for other in &EVENTS[..i] {
                assert_ne!(e.id, other.id, "{} {}", e.name, other.name);
                assert_ne!(e.name, other.name);
            }
        }
    }

    const CX: Context = Context {
        wall_ns: Some(10),
        peak_rss: 4096,
        threads: 1,
        quality: Quality(0),
        kernel: Keeps { run_delay: true, io_chars: true, io_bytes: false },
    };

    #[test]
    fn no_tick_means_no_split_and_never_zero() {
        let f = Figures::from_raw(&RawFigures { task_clock: 500, ..Default::default() }, &CX);
        assert_eq!(f.get(Event::TaskClock), &Value::Is(500));
        assert_eq!(f.get(Event::UserTime).get(), None);
        assert_eq!(f.get(Event::StorageReadBytes).get(), None);
    }

    #[test]
    fn ticks_divide_the_exact_runtime() {
        let raw = RawFigures { task_clock: 900, utime: 8, stime: 4, ..Default::default() };
        let f = Figures::from_raw(&raw, &CX);
        assert_eq!(f.get(Event::SystemTime), &Value::Is(300));
        assert_eq!(f.get(Event::UserTime), &Value::Is(600));
    }

    #[test]
    fn what_came_in_between_is_a_difference_but_for_peaks() {
        let raw = |min_flt| RawFigures { min_flt, ..Default::default() };
        let mut then = Figures::from_raw(&raw(2), &CX);
        then.counts = vec![Count { value: 5, enabled_ns: 7, running_ns: 7 }];
        let mut now = Figures::from_raw(&raw(9), &Context { peak_rss: 8192, ..CX });
        now.counts = vec![Count { value: 8, enabled_ns: 9, running_ns: 9 }];
        let d = now.since(&then);
        assert_eq!(d.get(Event::PageFaults), &Value::Is(7));
        assert_eq!(d.get(Event::PeakRss), &Value::Is(8192));
        assert_eq!(d.counts, [Count { value: 3, enabled_ns: 2, running_ns: 2 }]);
        // Nothing was there before: all of it came in between.
        assert_eq!(now.since(&Figures::absent("")), now);
    }

    #[test]
    fn sums_add_what_adds_and_keep_the_larger_peak() {
        let raw = RawFigures { task_clock: 1, min_flt: 2, ..Default::default() };
        let mut a = Figures::from_raw(&raw, &CX);
        a.add(&Figures::from_raw(&raw, &Context { peak_rss: 8192, ..CX }));
        assert_eq!(a.get(Event::PageFaults), &Value::Is(4));
        assert_eq!(a.get(Event::PeakRss), &Value::Is(8192));
    }
}
