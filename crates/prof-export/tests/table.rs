//! The `table` format, as it is seen.

// A test that cannot go on is to fail on the spot.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use prof_export::Format;
use prof_export::Options;
use prof_model::figures::Event;
use prof_model::figures::EventSet;
use prof_model::record::Record;

/// Every kind of line that can come, of a target that means no harm.
fn calm() -> Vec<Record> {
    common::odd_stream()
        .into_iter()
        .filter(|r| match r {
            Record::Prof(p) => p.process.ident.pid != 666,
            Record::Profile(p) => p.process.ident.pid != 666,
            _ => true,
        })
        .skip(2)
        .collect()
}

#[test]
fn every_line_fits_the_terminal() {
    for width in [80, 120] {
        let options = Options { width, ..Options::default() };
        let text = common::render(Format::Table, &options, &calm());
        for line in text.lines() {
            assert!(unicode_width::UnicodeWidthStr::width(line) <= width, "{line}");
        }
        common::snapshot(&format!("table-{width}"), &text);
    }
}

#[test]
fn a_target_cannot_write_to_the_terminal() {
    let text = common::render(Format::Table, &Options::default(), &common::odd_stream());
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
}

#[test]
fn colours_only_if_told() {
    let options = Options { color: true, width: 100, ..Options::default() };
    common::snapshot("table-colored", &common::render(Format::Table, &options, &calm()));
}

#[test]
fn what_was_not_asked_for_or_not_measured_is_a_dash() {
    let mut p = common::profile(1, 0, "true", 0, 1, 300);
    p.events = EventSet::EMPTY.with(Event::WallTime);
    let records = [Record::Profile(Box::new(p))];
    let text =
        common::render(Format::Table, &Options { width: 120, ..Options::default() }, &records);
    let line: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(line[6..], ["1.00ms", "-", "-", "-", "-", "-", "0"]);
}

#[test]
fn lines_that_go_to_no_terminal_are_whole() {
    let long = format!("cc {}", "x".repeat(500));
    let p = common::profile(1, 0, &long, 0, 1, 300);
    let records = [Record::Prof(Box::new(common::enable(&p)))];
    let at = |cut| {
        common::render(Format::Table, &Options { width: 100, cut, ..Options::default() }, &records)
    };
    assert!(at(false).contains(&long));
    assert!(at(true).lines().all(|l| l.chars().count() <= 100));
}
