//! A stream as a build would make it, and odd ones.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "allowed in tests, and this is for them")]

use prof_export::Format;
use prof_export::Options;
use prof_model::figures::Event;
use prof_model::figures::EventSet;
use prof_model::figures::Figures;
use prof_model::figures::RawFigures;
use prof_model::figures::Value;
use prof_model::record::Attached;
use prof_model::record::End;
use prof_model::record::Exit;
use prof_model::record::Flags;
use prof_model::record::Header;
use prof_model::record::Ident;
use prof_model::record::Interval;
use prof_model::record::Loss;
use prof_model::record::LossReason;
use prof_model::record::Process;
use prof_model::record::ProfEvent;
use prof_model::record::Profile;
use prof_model::record::Record;
use prof_model::record::Region;
use prof_model::record::Repetition;
use prof_model::record::RuleName;
use prof_model::record::ThreadFigures;
use prof_model::record::Window;
use prof_model::record::WindowEnd;
use prof_model::record::WindowStart;
use prof_model::repeat::Repeat;
use prof_model::repeat::Repetitions;

/// 2026-01-02T03:04:05.000000000Z
pub const T0: u64 = 1_767_323_045_000_000_000;
/// Start of the stream since boot.
pub const BOOT: u64 = 5_000_000_000;
pub const MS: u64 = 1_000_000;
pub const MIB: u64 = 1 << 20;

pub const NO_IO: &str = "this kernel was built without CONFIG_TASK_IO_ACCOUNTING";
pub const NO_TICK: &str = "too short: no timer tick fell into it";

/// Everything that `format` makes of a stream.
pub fn render(format: Format, options: &Options, records: &[Record]) -> String {
    let mut exporter = format.exporter(options);
    let mut out = Vec::new();
    for r in records {
        exporter.record(r, &mut out).unwrap();
    }
    exporter.finish(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// A process that ran from `from_ms` for `wall_ms` and was on a CPU for `cpu_us`.
pub fn profile(
    pid: u32,
    ppid: u32,
    command: &str,
    from_ms: u64,
    wall_ms: u64,
    cpu_us: u64,
) -> Profile {
    let args: Vec<Vec<u8>> = command.split(' ').map(|a| a.as_bytes().to_vec()).collect();
    let name = command.split(' ').next().unwrap().rsplit('/').next().unwrap();
    let mut figures = Figures::absent("not measured");
    for (e, v) in [
        (Event::WallTime, wall_ms * MS),
        (Event::TaskClock, cpu_us * 1000),
        (Event::PageFaults, 90 + cpu_us / 50),
        (Event::MinorFaults, 89 + cpu_us / 50),
        (Event::MajorFaults, 1),
        (Event::ContextSwitches, 3 + cpu_us / 9000),
        (Event::VoluntarySwitches, 2),
        (Event::InvoluntarySwitches, 1 + cpu_us / 9000),
        (Event::CpuMigrations, cpu_us / 20_000),
        (Event::RunQueueWait, cpu_us * 90),
        (Event::PeakRss, 2 * MIB + cpu_us * 500),
        (Event::ReadBytes, 40_000),
        (Event::WrittenBytes, 12_000),
        (Event::Threads, 1),
    ] {
        figures.set(e, Value::Is(v));
    }
    if cpu_us >= 4000 {
        figures.set(Event::SystemTime, Value::Is(cpu_us * 200));
        figures.set(Event::UserTime, Value::Is(cpu_us * 800));
    } else {
        figures.set(Event::SystemTime, Value::Absent(NO_TICK));
        figures.set(Event::UserTime, Value::Absent(NO_TICK));
    }
    figures.set(Event::StorageReadBytes, Value::Absent(NO_IO));
    figures.set(Event::StorageWrittenBytes, Value::Absent(NO_IO));
    Profile {
        time_ns: T0 + (from_ms + wall_ms) * MS,
        process: Process {
            ident: Ident {
                pid,
                tid: pid,
                ppid,
                start_ns: BOOT + from_ms * MS,
                exec: 1,
                comm: name.as_bytes()[..name.len().min(15)].to_vec(),
                uid: 1000,
                gid: 1000,
                cgroup_id: 5650,
                mntns: 4_026_531_841,
                pidns: 4_026_531_836,
            },
            exe: Some(format!("/usr/bin/{name}").into_bytes()),
            args: Some(args),
            args_cut: false,
            container_id: None,
        },
        flags: Flags(Flags::EXIT | Flags::INHERIT),
        events: EventSet::ALL,
        rules: 1,
        figures,
        threads: Vec::new(),
        regions: Vec::new(),
        exit: Some(Exit { status: 0 }),
        window: Window {
            start_ns: BOOT + from_ms * MS,
            end_ns: BOOT + (from_ms + wall_ms) * MS,
            start: WindowStart::TaskRename,
            end: WindowEnd::Exit,
        },
        notes: Vec::new(),
    }
}

pub fn header() -> Header {
    Header {
        time_ns: T0,
        version: "0.1.0",
        host: "rugged".into(),
        kernel: "6.18.44".into(),
        machine: "x86_64".into(),
        cpus: 4,
        events: EventSet::ALL,
        counters: prof_model::counters::Table::default(),
        rules: vec![RuleName { name: "run".into(), text: "tree=1200".into() }],
        attached: vec![
            Attached { hook: "sched_process_exec".into(), how: "tp_btf" },
            Attached { hook: "sched_process_exit".into(), how: "tp_btf" },
        ],
        limits: vec!["no hardware counters: this machine has no PMU".into()],
        command: Some(vec![b"make".to_vec(), b"-j4".to_vec()]),
        repetition: None,
    }
}

pub fn enable(p: &Profile) -> ProfEvent {
    ProfEvent {
        time_ns: p.time_ns - (p.window.end_ns - p.window.start_ns),
        cpu: 6,
        process: p.process.clone(),
        flags: Flags(Flags::ENABLE | Flags::EXEC | Flags::INHERIT),
        events: p.events,
        rules: p.rules,
        hook: "sched_process_exec",
    }
}

pub fn disable(p: &Profile) -> ProfEvent {
    ProfEvent {
        time_ns: p.time_ns,
        cpu: 2,
        process: Process { args: None, ..p.process.clone() },
        flags: p.flags,
        events: p.events,
        rules: p.rules,
        hook: "sched_process_exit",
    }
}

/// The last record for these profiles.
pub fn end(profiles: &[Profile], lost: Vec<(LossReason, u64)>) -> End {
    let mut totals = Figures::absent("no process was profiled");
    for (i, p) in profiles.iter().enumerate() {
        if i == 0 {
            totals = p.figures.clone();
        } else {
            totals.add(&p.figures);
        }
    }
    let n = profiles.len() as u64;
    let figures_lost: u64 = lost.iter().filter(|(r, _)| r.loses_profile()).map(|(_, n)| n).sum();
    End {
        time_ns: T0 + 3_300 * MS,
        duration_ns: 3_217_034_567,
        enabled: n + figures_lost,
        disabled: n,
        running: 0,
        lost,
        execs_seen: n,
        execs_kernel: Value::Is(n),
        totals,
        processes: n,
        bpf_ns: Some(1_234_567),
    }
}

/// `make -j4` with `units` compilations.
pub fn build(units: u32) -> Vec<Profile> {
    let mut all = Vec::new();
    let mut make = profile(1200, 1100, "make -j4", 0, 3200, 48_000);
    make.figures.set(Event::PeakRss, Value::Is(9 * MIB));
    let mut pid = 1201;
    let mut conf = profile(pid, 1200, "sh ./config.status --recheck", 5, 60, 2_500);
    conf.figures
        .set(Event::PeakRss, Value::Absent("the address space was gone when the window ended"));
    conf.notes.push("the address space was gone when the window ended");
    all.push(conf);
    for unit in 0..units {
        let at = 70 + u64::from(unit) * 12;
        let cc = pid + 1;
        let cost = 20_000 + u64::from(unit * 7919 % 400) * 1000;
        let wall = cost / 1000 + 20;
        let source = format!("src/unit{unit}.c");
        all.push(profile(
            cc + 1,
            cc,
            &format!("/usr/lib/cc1 -quiet {source}"),
            at + 1,
            wall - 8,
            cost,
        ));
        all.push(profile(cc + 2, cc, "as -o /tmp/unit.o", at + wall - 6, 5, 3_100));
        all.push(profile(cc, 1200, &format!("cc -O2 -c {source}"), at, wall, 1_300));
        pid += 3;
    }
    let mut test = profile(pid + 1, 1200, "./selftest --all", 3_000, 150, 120_000);
    test.exit = Some(Exit { status: 0x8b });
    all.push(test);
    make.exit = Some(Exit { status: 2 << 8 });
    all.push(make);
    all
}

/// Header, profiles, end.
pub fn stream(profiles: Vec<Profile>, lost: Vec<(LossReason, u64)>) -> Vec<Record> {
    let end = end(&profiles, lost);
    let mut records = vec![Record::Header(Box::new(header()))];
    records.extend(profiles.into_iter().map(|p| Record::Profile(Box::new(p))));
    records.push(Record::End(Box::new(end)));
    records
}

/// A process that does its worst: bytes that are no UTF-8, escapes, no figures.
pub fn hostile() -> Profile {
    let mut p = profile(666, 1, "x", 10, 20, 7_000);
    p.process.ident.comm = b"\xff\x1b[2J\n\\x".to_vec();
    p.process.exe = Some(b"/tmp/a\x9bb\xe2\x80\xae".to_vec());
    p.process.args = Some(vec![b"sh\x07".to_vec(), b"\xc3".to_vec(), "日本語".into()]);
    p.process.args_cut = true;
    p.process.container_id = Some("ab".repeat(32));
    p.figures = Figures::absent("not measured");
    p.exit = Some(Exit { status: 9 });
    p.rules = 0b11;
    p
}

/// A region that was on a CPU for `cpu_us`.
pub fn region(name: &[u8], begun: u64, ended: u64, cpu_us: u64) -> Region {
    let mut figures = Figures::absent("none of these regions has ended");
    if ended > 0 {
        figures.set(Event::TaskClock, Value::Is(cpu_us * 1000));
        figures.set(Event::WallTime, Value::Is(cpu_us * 1500));
        figures.set(Event::PageFaults, Value::Is(7));
        figures.set(Event::UserTime, Value::Absent(NO_TICK));
    }
    let (shortest_ns, longest_ns) = (cpu_us * 100, cpu_us * 1200);
    Region { name: name.to_vec(), begun, ended, shortest_ns, longest_ns, figures }
}

/// One of every kind of record, and of every odd kind.
pub fn odd_stream() -> Vec<Record> {
    let profiles = [
        profile(1, 0, "true", 0, 1, 300),
        hostile(),
        {
            let mut p = profile(2, 1, "a.out", 1, 2, 90_000);
            p.exit = Some(Exit { status: 0x86 });
            p.events = EventSet::EMPTY.with(Event::TaskClock).with(Event::StorageReadBytes);
            p
        },
        {
            let mut p = profile(3, 1, "server", 1, 2, 90_000);
            p.exit = None;
            p.window.start = WindowStart::Attach;
            p.window.end = WindowEnd::Running;
            p.process.exe = None;
            p.process.args = None;
            p.flags = Flags(Flags::ATTACH | Flags::PARTIAL);
            p.regions = vec![region(b"request\xff\x1b[2J\"", 3, 2, 4_000), region(b"", 1, 0, 0)];
            p.notes = vec!["what came before the attach is not in the figures"];
            p.threads = vec![ThreadFigures {
                tid: 4,
                comm: b"worker\xff".to_vec(),
                start_ns: BOOT,
                raw: RawFigures { task_clock: 5, min_flt: 1, ..RawFigures::default() },
                counts: Vec::new(),
            }];
            p
        },
    ];
    let mut records = vec![
        Record::Header(Box::new(header())),
        Record::Header(Box::new(Header {
            command: None,
            events: EventSet::EMPTY.with(Event::PeakRss),
            rules: Vec::new(),
            attached: Vec::new(),
            limits: Vec::new(),
            ..header()
        })),
        Record::Header(Box::new(Header {
            command: Some(vec![b"\xff\\".to_vec(), Vec::new()]),
            ..header()
        })),
    ];
    for p in &profiles {
        records.push(Record::Prof(Box::new(enable(p))));
        records.push(Record::Prof(Box::new(disable(p))));
        records.push(Record::Profile(Box::new(p.clone())));
    }
    records.push(Record::Interval(Box::new(interval(&profiles[0].figures))));
    records.push(Record::Loss(Loss { time_ns: T0, reason: LossReason::RingFullDisable, count: 3 }));
    let lost = vec![(LossReason::RingFullDisable, 3), (LossReason::HookSkipped, 1)];
    records.push(Record::End(Box::new(end(&profiles, lost))));
    records.push(Record::Repeat(Box::new(repeat(&[300, 310, 290]))));
    records.push(Record::Repeat(Box::new(repeat(&[1]))));
    records.push(Record::End(Box::new(End {
        enabled: 0,
        disabled: 7,
        execs_kernel: Value::Absent("not counted by prof run"),
        bpf_ns: None,
        ..end(&[], Vec::new())
    })));
    records
}

/// An interval in which this came.
pub fn interval(figures: &Figures) -> Interval {
    Interval {
        time_ns: T0 + 1_200 * MS,
        since_ns: 1_200 * MS,
        length_ns: 200 * MS,
        running: 2,
        figures: figures.clone(),
    }
}

/// What runs that took so long say together.
pub fn repeat(ms: &[u64]) -> Repeat {
    let asked = if ms.len() == 1 { 2 } else { ms.len() as u32 };
    let mut all = Repetitions::new(EventSet::ALL, &header().counters, asked);
    for (i, ms) in ms.iter().enumerate() {
        let mut run = profile(7, 1, "make", 0, *ms, ms * 900);
        if i == 1 {
            run.figures.set(Event::ReadBytes, Value::Absent("not this time"));
        }
        all.add(ms * MS, &run.figures, i == 2);
    }
    all.finish(T0).unwrap()
}

/// The streams of these runs, and what they say together.
pub fn repeated(ms: &[u64]) -> Vec<Record> {
    let of = ms.len() as u32;
    let mut records = Vec::new();
    for (number, ms) in (1..).zip(ms) {
        let mut run = stream(vec![profile(7, 1, "make -j4", 0, *ms, ms * 900)], Vec::new());
        let repetition = Some(Repetition { number, of });
        run[0] = Record::Header(Box::new(Header { repetition, limits: Vec::new(), ..header() }));
        records.extend(run);
    }
    records.push(Record::Repeat(Box::new(repeat(ms))));
    records
}

/// Compares with `tests/snapshots/NAME.txt`; with UPDATE_SNAPSHOTS set, writes it.
pub fn snapshot(name: &str, text: &str) {
    let path = format!("{}/tests/snapshots/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(want == text, "{path} differs; UPDATE_SNAPSHOTS=1 writes it anew:\n{text}");
}
