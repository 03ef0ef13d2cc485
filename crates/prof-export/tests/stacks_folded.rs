//! Stacks in the `folded` and `flamegraph` formats, read by inferno and as XML.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/stacks.rs"]
mod stacks;

use std::collections::BTreeMap;
use std::sync::Mutex;

use prof_export::stacks::Root;
use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOptions;
use prof_model::stacks::StackProfile;
use proptest::prelude::*;

/// What inferno warns of, as it does of lines that it ignores.
struct Warnings;

static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl log::Log for Warnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        WARNINGS.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// The SVG that inferno makes of folded lines, and what it warned of.
fn read_by_inferno(folded: &str) -> (String, Vec<String>) {
    // Tests run beside each other: each has to see its own warnings.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    log::set_logger(&Warnings).ok();
    log::set_max_level(log::LevelFilter::Warn);
    WARNINGS.lock().unwrap().clear();
    let mut svg = Vec::new();
    let mut options = inferno::flamegraph::Options::default();
    inferno::flamegraph::from_lines(&mut options, folded.lines(), &mut svg).unwrap();
    (String::from_utf8(svg).unwrap(), std::mem::take(&mut WARNINGS.lock().unwrap()))
}

/// Titles of the boxes of a flame graph.
fn boxes(svg: &str) -> Vec<String> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let xml = roxmltree::Document::parse_with_options(svg, options).unwrap();
    let titles =
        xml.descendants().filter(|n| n.has_tag_name(("http://www.w3.org/2000/svg", "title")));
    titles.filter_map(|t| t.text()).map(str::to_owned).collect()
}

/// Samples under all, as the graph itself tells.
fn all_of(svg: &str) -> u64 {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let xml = roxmltree::Document::parse_with_options(svg, options).unwrap();
    let frames = xml.descendants().find(|n| n.attribute("id") == Some("frames")).unwrap();
    frames.attribute("total_samples").unwrap().parse().unwrap()
}

fn folded(p: &StackProfile, options: &StackOptions) -> String {
    stacks::text(StackFormat::Folded, p, options)
}

fn weight(lines: &str) -> u64 {
    lines.lines().map(|l| l.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

#[test]
fn stacks_are_merged_sorted_and_marked() {
    let hostile = "a\\x3bb\\x1b[31m\\xe2\\x80\\xae\\xef\\xbf\\xbf</svg>\"'& \\ \\x0a\\x00\\x2012";
    assert_eq!(
        folded(&stacks::full(), &StackOptions::default()),
        format!(
            "app;main;work;inner_[i] 40000000\n\
             app;main;work;vfs_read_[k] 10000000\n\
             app;main;work;work;inner_[i] 20000000\n\
             ev\\x0ail\\x3b\\x1b;[cut: depth];{hostile};[unknown at 0x7f0000001000] 16000000\n\
             ev\\x0ail\\x3b\\x1b;[no stack: no-registers] 4000000\n\
             worker\\x207;[broken: no-table];[unknown in /usr/lib/libfoo.so+0x1234];\
             [unknown in /opt/libfoo.so+0x1234] 8000000\n\
             worker\\x207;main;[unknown in /usr/lib/libfoo.so+0x1234];\
             [unknown in the kernel at 0xffffffff81200000]_[k] 2000000\n"
        )
    );
    let cycles = StackOptions { event: Some(1), root: Root::CommPid, ..StackOptions::default() };
    assert_eq!(
        folded(&stacks::full(), &cycles),
        format!(
            "app-100;main;work;vfs_read_[k] 1000000\n\
             ev\\x0ail\\x3b\\x1b-200;{hostile} 700000\n"
        )
    );
    let functions =
        StackOptions { event: Some(1), root: Root::Function, ..StackOptions::default() };
    assert!(folded(&stacks::full(), &functions).starts_with(&format!("{hostile} 700000\nmain;")));
}

#[test]
fn inferno_reads_every_folded_line() {
    let p = stacks::full();
    let (svg, warnings) = read_by_inferno(&folded(&p, &StackOptions::default()));
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(all_of(&svg), stacks::total(&p, 0));
    // It does tell of a line that it cannot read.
    let (_, warnings) = read_by_inferno("a;b 1\na;c x\n");
    assert_eq!(warnings, ["Ignored 1 lines with invalid format"]);
}

#[test]
fn the_graph_has_each_function_with_its_time() {
    let svg = stacks::text(StackFormat::Flamegraph, &stacks::full(), &StackOptions::default());
    let boxes = boxes(&svg);
    for want in [
        "all (100,000 µs, 100%)",
        "app (70,000 µs, 70.00%)",
        "main (70,000 µs, 70.00%)",
        "inner (40,000 µs, 40.00%)",
        "vfs_read (10,000 µs, 10.00%)",
        "[broken: no-table] (8,000 µs, 8.00%)",
        "[unknown in /opt/libfoo.so+0x1234] (8,000 µs, 8.00%)",
        "[no stack: no-registers] (4,000 µs, 4.00%)",
    ] {
        assert!(boxes.iter().any(|b| b == want), "{want} is not in {boxes:#?}");
    }
    assert!(svg.contains("make -j2 – 3.21 s – 96 samples of cpu-clock"));
    let cycles = StackOptions { event: Some(1), ..StackOptions::default() };
    let svg = stacks::text(StackFormat::Flamegraph, &stacks::full(), &cycles);
    assert!(self::boxes(&svg).iter().any(|b| b == "vfs_read (1,000,000 cycles, 58.82%)"));
    assert!(svg.contains("11 samples of cycles"));
}

#[test]
fn the_kernel_is_of_another_hue() {
    let svg = stacks::text(StackFormat::Flamegraph, &stacks::full(), &StackOptions::default());
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let xml = roxmltree::Document::parse_with_options(&svg, options).unwrap();
    let fill = |name: &str| -> Vec<u8> {
        let title = xml.descendants().find(|n| n.text().is_some_and(|t| t.starts_with(name)));
        let g = title.unwrap().ancestors().find(|n| n.has_tag_name("g")).unwrap();
        let rect = g.children().find(|n| n.has_tag_name("rect")).unwrap();
        let rgb = rect.attribute("fill").unwrap().trim_start_matches("rgb(").trim_end_matches(')');
        rgb.split(',').map(|n| n.parse().unwrap()).collect()
    };
    let (kernel, user) = (fill("vfs_read ("), fill("main ("));
    assert!(kernel[2] > kernel[0] && user[0] > user[2], "{kernel:?} {user:?}");
}

#[test]
fn a_page_holds_the_graph_and_needs_nothing_else() {
    let options = StackOptions { file: Some("/tmp/x.HTML".into()), ..StackOptions::default() };
    let page = stacks::text(StackFormat::Flamegraph, &stacks::full(), &options);
    assert!(page.starts_with("<!DOCTYPE html>"));
    let parse = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let xml = roxmltree::Document::parse_with_options(&page, parse).unwrap();
    assert_eq!(xml.root_element().tag_name().name(), "html");
    assert!(boxes(&page).iter().any(|b| b == "main (70,000 µs, 70.00%)"));
    // Nothing is loaded: no source, no style sheet, no import.
    for n in xml.descendants().filter(|n| n.is_element()) {
        let name = n.tag_name().name();
        assert!(!matches!(name, "link" | "img" | "image" | "iframe" | "object"), "{name}");
        assert!(n.attributes().all(|a| !matches!(a.name(), "src" | "href")), "{name}");
    }
    assert!(!page.contains("@import"));
}

#[test]
fn an_empty_profile_is_no_line_and_a_graph_that_says_so() {
    let p = stacks::empty();
    assert_eq!(folded(&p, &StackOptions::default()), "");
    let svg = stacks::text(StackFormat::Flamegraph, &p, &StackOptions::default());
    assert!(roxmltree::Document::parse(&svg).is_ok());
    assert!(svg.contains("No samples.") && svg.contains("true – 5.00 ms – 0 samples"), "{svg}");
}

#[test]
fn weights_that_no_page_can_count_are_scaled_down() {
    let mut p = stacks::full();
    p.samples.iter_mut().for_each(|s| s.weight = u64::MAX / 2);
    let svg = stacks::text(StackFormat::Flamegraph, &p, &StackOptions::default());
    assert!(boxes(&svg).iter().any(|b| b.starts_with("main (") && b.contains('%')));
}

#[test]
fn time_off_the_cpu_stands_beside_time_on_it_with_who_ended_it() {
    let p = stacks::off_cpu();
    let lines = folded(&p, &StackOptions::default());
    let off: Vec<&str> = lines.lines().filter(|l| l.starts_with("[off-cpu];")).collect();
    assert_eq!(
        off,
        [
            "[off-cpu];app;read;pipe_read_[k];--;kworker/0:1 11000000",
            "[off-cpu];ev\\x0ail\\x3b\\x1b;read;pipe_read_[k] 10000000",
            "[off-cpu];worker\\x207;read;pipe_read_[k] 4000000",
            "[off-cpu];worker\\x207;read;pipe_read_[k];--;try_to_wake_up_[k];hrtimer_wakeup_[k];\
             asm_sysvec_apic_timer_interrupt_[k];[interrupt] 25000000",
            "[off-cpu];worker\\x207;read;pipe_read_[k];--;try_to_wake_up_[k];pipe_write_[k];write;\
             app 50000000",
        ]
    );
    assert!(lines.lines().any(|l| l == "[cpu-clock];app;main;work;inner_[i] 40000000"), "{lines}");
    assert_eq!(weight(&lines), stacks::total(&p, 0) + stacks::total(&p, 1));
    let (_, warnings) = read_by_inferno(&lines);
    assert_eq!(warnings, Vec::<String>::new());
    let svg = stacks::text(StackFormat::Flamegraph, &p, &StackOptions::default());
    assert!(svg.contains("102 samples of cpu-clock and off-cpu"));
    let boxes = boxes(&svg);
    for want in ["[off-cpu] (100,000 µs, 50.00%)", "-- (75,000 µs, 37.50%)"] {
        assert!(boxes.iter().any(|b| b == want), "{want} is not in {boxes:#?}");
    }
    // One of them, if it is asked for, or if the other is not a time.
    let only = StackOptions { event: Some(1), ..StackOptions::default() };
    assert_eq!(weight(&folded(&p, &only)), stacks::total(&p, 1));
    assert!(!folded(&p, &only).contains("[off-cpu]"));
    let mut p = p;
    p.events[0].unit = String::new();
    assert_eq!(weight(&folded(&p, &StackOptions::default())), stacks::total(&p, 0));
}

proptest! {
    #[test]
    fn any_profile_is_read_whole(p in stacks::any_profile()) {
        for event in [0, 1] {
            let options = StackOptions { event: Some(event), ..StackOptions::default() };
            let lines = folded(&p, &options);
            prop_assert_eq!(weight(&lines), stacks::total(&p, event));
            if weight(&lines) > 0 {
                let (svg, warnings) = read_by_inferno(&lines);
                prop_assert_eq!(warnings, Vec::<String>::new(), "{}", lines);
                prop_assert_eq!(all_of(&svg), stacks::total(&p, event), "{}", lines);
            }
            // What is at each depth: readers split lines as they were put together.
            let mut leaves: BTreeMap<usize, usize> = BTreeMap::new();
            lines.lines().for_each(|l| *leaves.entry(l.split(';').count()).or_default() += 1);
            let deepest = 2 * (p.stacks.len() * 3 + 2) + 1;
            prop_assert!(leaves.keys().all(|d| *d <= deepest), "{}", lines);
            let svg = stacks::text(StackFormat::Flamegraph, &p, &options);
            let xml = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
            let parsed = roxmltree::Document::parse_with_options(&svg, xml);
            prop_assert!(parsed.is_ok(), "{:?}", parsed.err());
        }
    }
}
