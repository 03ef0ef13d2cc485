//! The `summary` format, as it is seen.

// A test that cannot go on is to fail on the spot.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use prof_export::Format;
use prof_export::Options;
use prof_export::summary::Mode;
use prof_model::counters::Count;
use prof_model::counters::Counter;
use prof_model::counters::Item;
use prof_model::counters::SortKey;
use prof_model::counters::Table;
use prof_model::figures::Event;
use prof_model::figures::EventSet;
use prof_model::record::Header;
use prof_model::record::LossReason;
use prof_model::record::Record;
use prof_model::record::WindowEnd;

fn summary(options: &Options, records: &[Record]) -> String {
    common::render(Format::Summary, options, records)
}

fn widest(text: &str) -> usize {
    text.lines().map(unicode_width::UnicodeWidthStr::width).max().unwrap_or(0)
}

#[test]
fn a_build_as_a_tree() {
    let records = common::stream(common::build(60), Vec::new());
    for width in [80, 100, 120] {
        let options = Options { width, top: 16, ..Options::default() };
        let text = summary(&options, &records);
        assert!(widest(&text) <= width, "{text}");
        common::snapshot(&format!("tree-{width}"), &text);
    }
}

#[test]
fn a_build_by_an_event_and_by_executable() {
    let records = common::stream(common::build(60), Vec::new());
    let sorted = |e| Options {
        width: 120,
        top: 6,
        mode: Mode::Sort(SortKey::Item(Item::Figure(e))),
        ..Options::default()
    };
    common::snapshot("sort-faults", &summary(&sorted(Event::PageFaults), &records));
    common::snapshot("sort-peak-rss", &summary(&sorted(Event::PeakRss), &records));
    let ipc = Options { mode: Mode::Sort(SortKey::Metric(0)), ..sorted(Event::TaskClock) };
    let text = summary(&ipc, &records);
    // Nothing is computed of it: then as they started.
    assert!(text.lines().nth(2).is_some_and(|l| l.contains("make")), "{text}");
    let group = Options { width: 100, top: 4, mode: Mode::GroupByExe, ..Options::default() };
    common::snapshot("group", &summary(&group, &records));
}

#[test]
fn losses_are_loud_and_colours_only_if_told() {
    let lost = vec![(LossReason::RingFullDisable, 2), (LossReason::HookSkipped, 1)];
    let records = common::stream(common::build(2), lost);
    let colored = summary(&Options { color: true, width: 100, ..Options::default() }, &records);
    common::snapshot("lost-colored", &colored);
    let plain = summary(&Options { width: 100, ..Options::default() }, &records);
    assert!(!plain.contains('\u{1b}'));
    let mut stripped = colored;
    while let Some(at) = stripped.find('\u{1b}') {
        let end = at + stripped[at..].find('m').unwrap();
        stripped.replace_range(at..=end, "");
    }
    let lines = |s: &str| s.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(lines(&stripped), lines(&plain));
}

#[test]
fn regions_stand_below_their_process_and_the_largest_are_shown() {
    let mut make = common::profile(7, 1, "make", 0, 100, 900);
    let mut server = common::profile(8, 7, "server", 1, 90, 80_000);
    make.regions = vec![common::region(b"plan", 1, 1, 500)];
    server.regions = vec![
        common::region(b"accept\x1b[31m", 1_200, 1_200, 60_000),
        common::region(b"never ended", 2, 0, 0),
    ];
    // Of the rest, those with most.
    server.regions.extend((0..10).map(|i| common::region(format!("r{i}").as_bytes(), 1, 1, i)));
    let records = common::stream(vec![make, server], Vec::new());
    let text = summary(&Options { width: 100, ..Options::default() }, &records);
    common::snapshot("regions", &text);
    let before = |a: &str, b: &str| text.find(a).unwrap() < text.find(b).unwrap();
    assert!(before("make", "\"plan\" ×1") && before("\"plan\"", "server"), "{text}");
    assert!(before("server", "\"accept\\x1b[31m\" ×1,200"), "{text}");
    assert!(text.contains("… 4 more regions") && !text.contains("\"r2\""), "{text}");
}

#[test]
fn windows_of_a_process_have_their_regions_together() {
    let mut first = common::profile(7, 1, "server", 0, 10, 900);
    first.window.end = WindowEnd::Request;
    first.regions = vec![common::region(b"a", 2, 1, 100)];
    let mut second = common::profile(7, 1, "server", 0, 30, 900);
    second.regions = vec![common::region(b"a", 3, 3, 200), common::region(b"b", 1, 1, 50)];
    let text = summary(&Options::default(), &common::stream(vec![first, second], Vec::new()));
    let row = text.lines().find(|l| l.contains("\"a\"")).unwrap();
    assert!(row.contains("×4, 1 not ended") && row.contains("300 µs"), "{text}");
    assert!(text.contains("\"b\" ×1"), "{text}");
}

#[test]
fn one_process_alone() {
    let mut p = common::profile(7, 1, "sleep 1", 0, 1_000, 900);
    p.process.ident.ppid = 0;
    let mut records = common::stream(vec![p], Vec::new());
    records[0] = Record::Header(Box::new(Header {
        command: Some(vec![b"sleep".to_vec(), b"1".to_vec()]),
        limits: Vec::new(),
        ..common::header()
    }));
    common::snapshot("alone", &summary(&Options::default(), &records));
}

#[test]
fn only_events_of_the_stream_are_shown() {
    let events = EventSet::EMPTY.with(Event::WallTime).with(Event::StorageReadBytes);
    let mut records = common::stream(common::build(1), Vec::new());
    records[0] = Record::Header(Box::new(Header { events, ..common::header() }));
    common::snapshot("two-events", &summary(&Options::default(), &records));
}

#[test]
fn nothing_profiled_and_a_stream_that_broke_off() {
    let empty = summary(&Options::default(), &common::stream(Vec::new(), Vec::new()));
    assert_eq!(
        empty,
        "\n No process was profiled.\n\n \
         enabled 0 = disabled 0 + running 0 + lost 0\n \
         execs seen 0, by the kernel's count 0\n\n \
         limit: no hardware counters: this machine has no PMU\n"
    );
    let mut records = common::stream(common::build(1), Vec::new());
    records.pop();
    let text = summary(&Options::default(), &records);
    assert!(text.contains("The stream broke off before its end"));
    assert!(text.contains("task-clock"));
    assert!(!text.contains("elapsed") && !text.contains("enabled"));
}

#[test]
fn what_a_target_says_does_no_harm() {
    for mode in
        [Mode::Tree, Mode::Sort(SortKey::Item(Item::Figure(Event::TaskClock))), Mode::GroupByExe]
    {
        let options = Options { width: 200, mode, ..Options::default() };
        let text = summary(&options, &common::stream(vec![common::hostile()], Vec::new()));
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(!text.contains('\u{202e}'));
    }
}

#[test]
fn a_name_that_is_not_that_of_the_file_is_not_believed() {
    let mut p = common::profile(7, 1, "[kworker/0:1] --quiet", 0, 10, 900);
    p.process.ident.comm = b"miner".to_vec();
    p.process.exe = Some(b"/tmp/miner".to_vec());
    let text = summary(&Options::default(), &common::stream(vec![p], Vec::new()));
    assert!(text.contains("miner --quiet") && !text.contains("kworker"), "{text}");
}

#[test]
fn images_of_a_process_are_one_row_and_a_running_one_says_so() {
    let mut first = common::profile(7, 1, "sh -c server", 0, 10, 900);
    first.window.end = WindowEnd::Exec;
    first.exit = None;
    let mut second = common::profile(7, 1, "server", 0, 30, 9_000);
    second.process.ident.exec = 2;
    second.window.end = WindowEnd::Running;
    second.exit = None;
    let text = summary(&Options::default(), &common::stream(vec![first, second], Vec::new()));
    let rows: Vec<_> = text.lines().filter(|l| l.starts_with("server")).collect();
    assert_eq!(rows.len(), 1, "{text}");
    assert!(rows[0].ends_with("running") && rows[0].contains("9.90 ms"), "{text}");
}

#[test]
fn a_chain_of_100_000_is_shown_in_bounded_lines() {
    const N: u32 = 100_000;
    let chain: Vec<_> =
        (1..=N).map(|pid| common::profile(pid, pid - 1, "sh", u64::from(pid), 9, 10)).collect();
    let mut records = common::stream(chain, Vec::new());
    for r in &mut records {
        if let Record::Profile(p) = r {
            // Each lives until all have started.
            p.window.end_ns += 200_000 * common::MS;
        }
    }
    let text = summary(&Options { top: 40, ..Options::default() }, &records);
    assert!(widest(&text) <= 80, "{text}");
    assert!(text.contains("… 99,960 more processes, 100.0 % of task-clock"), "{text}");
    assert!(text.contains("+99,960"));
    // All of it: lines stay as short, and it is done in a moment.
    let text = summary(&Options { top: usize::MAX, ..Options::default() }, &records);
    assert!(widest(&text) <= 80);
    assert!(text.lines().count() > N as usize);
}

#[test]
fn runs_of_a_command_are_one_table_with_their_spread() {
    let records = common::repeated(&[900, 300, 310, 290, 305, 295]);
    for width in [60, 100] {
        let text = summary(&Options { width, ..Options::default() }, &records);
        assert!(widest(&text) <= width, "{text}");
        common::snapshot(&format!("repeat-{width}"), &text);
    }
    // No runs together: the last one, as if it were alone.
    let broken = &records[..records.len() - 1];
    let text = summary(&Options::default(), broken);
    assert!(text.contains("Performance of 'make -j4':"), "{text}");
    assert!(text.contains("enabled 1 = disabled 1"), "{text}");
}

#[test]
fn what_came_in_an_interval_is_a_block_at_once() {
    let figures = common::profile(7, 1, "make", 0, 10, 900).figures;
    let mut records = common::stream(vec![common::profile(7, 1, "make", 0, 10, 900)], Vec::new());
    records.insert(1, Record::Interval(Box::new(common::interval(&figures))));
    for width in [60, 120] {
        let mut exporter = Format::Summary.exporter(&Options { width, ..Options::default() });
        let mut out = Vec::new();
        exporter.record(&records[0], &mut out).unwrap();
        exporter.record(&records[1], &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(widest(&text) <= width, "{text}");
        common::snapshot(&format!("interval-{width}"), &text);
    }
}

#[test]
fn notes_of_figures_so_far_count_once() {
    let mut p = common::profile(7, 1, "make", 0, 10, 900);
    p.exit = None;
    p.window.end = WindowEnd::Running;
    p.notes = vec!["still running"];
    let text = summary(&Options::default(), &common::stream(vec![p.clone(), p], Vec::new()));
    assert!(text.contains("note: still running (1 profile)"), "{text}");
}

/// Counters of these names, units and ids.
fn counters(of: &[(&str, &str, u32)]) -> Table {
    let counter = |(name, unit, id): &(&str, &str, u32)| Counter {
        name: (*name).into(),
        perf_id: Some(*id),
        unit: (*unit).into(),
        scale: 1.0,
        about: String::new(),
        for_metric: false,
    };
    Table { counters: of.iter().map(counter).collect(), metrics: Vec::new() }
}

/// A process of a second on a CPU with these counts.
fn counted(table: Table, events: EventSet, counts: &[u64]) -> Vec<Record> {
    let mut p = common::profile(7, 1, "burn", 0, 2_000, 1_000_000);
    p.events = events;
    p.figures.counts =
        counts.iter().map(|v| Count { value: *v, enabled_ns: 1, running_ns: 1 }).collect();
    let mut end = common::end(std::slice::from_ref(&p), Vec::new());
    end.duration_ns = 2_000 * common::MS;
    vec![
        Record::Header(Box::new(Header { counters: table, events, ..common::header() })),
        Record::Profile(Box::new(p)),
        Record::End(Box::new(end)),
    ]
}

#[test]
fn what_was_asked_for_and_has_no_column_is_told() {
    let names: Vec<_> = (0..6).map(|i| format!("syscalls:sys_enter_{i}")).collect();
    let of: Vec<_> = names.iter().map(|n| (n.as_str(), "count", 0x0200_0001)).collect();
    let records = counted(counters(&of), EventSet::ALL, &[1; 6]);
    let at = |width| summary(&Options { width, ..Options::default() }, &records);
    let text = at(100);
    let note = text.split("note: no column for ").nth(1).expect("a note");
    let note: Vec<_> = note.split_whitespace().collect();
    let note = note.join(" ");
    assert!(note.starts_with("syscalls:sys_enter_"), "{text}");
    // Nobody asked for the usual figures by name.
    assert!(!note.contains("page-faults") && note.contains("--sort EVENT"), "{text}");
    assert!(widest(&text) <= 100, "{text}");
    assert!(!at(300).contains("no column"), "{}", at(300));
    let told = |name: &str| text.contains(&name.to_ascii_uppercase()) || note.contains(name);
    assert!(names.iter().all(|n| told(n)), "{text}");

    let listed = EventSet::EMPTY.with(Event::TaskClock).with(Event::UserTime);
    let listed = listed.with(Event::SystemTime).with(Event::ReadBytes).with(Event::WrittenBytes);
    let records = counted(Table::default(), listed, &[]);
    let text = summary(&Options { width: 60, ..Options::default() }, &records);
    assert!(text.contains("note: no column for "), "{text}");
    let text = summary(&Options { width: 120, ..Options::default() }, &records);
    assert!(text.contains("WRITTEN-BYTES") && !text.contains("no column"), "{text}");
}

#[test]
fn clocks_have_no_rate() {
    let clocks = [("cpu-clock", "ns", 0x0100_0000), ("task-clock:u", "ns", 0x0100_0001)];
    let of = [clocks[0], clocks[1], ("msr/x/", "ns", 0x0900_0001), ("cs:u", "count", 0x0100_0003)];
    let records = counted(counters(&of), EventSet::ALL, &[1_000_000_000; 4]);
    let text = summary(&Options::default(), &records);
    let line = |name: &str| {
        let is = |l: &&str| l.split_whitespace().any(|w| w == name) && !l.contains("%");
        text.lines().rfind(is).unwrap_or_else(|| panic!("{name}: {text}"))
    };
    assert!(line("cpu-clock").ends_with("0.500 CPUs utilized"), "{text}");
    assert!(line("task-clock:u").ends_with("0.500 CPUs utilized"), "{text}");
    assert!(!line("msr/x/").contains('#'), "{text}");
    assert!(line("cs:u").contains("/sec"), "{text}");
}

#[test]
fn who_asks_for_the_time_only_sees_it() {
    let records = counted(Table::default(), EventSet::EMPTY.with(Event::WallTime), &[]);
    let text = summary(&Options::default(), &records);
    assert!(text.contains("2,000.00 ms wall-time\n"), "{text}");
}

#[test]
fn threads_are_not_here_and_that_is_told() {
    let text = summary(&Options::default(), &common::odd_stream());
    assert!(text.contains("note: 1 thread one by one"), "{text}");
    assert!(
        !summary(&Options::default(), &common::stream(common::build(1), Vec::new()))
            .contains("one by one")
    );
}
