//! Hosts whose files make no sense, and all that a host can count.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use common::Tree;
use prof_events::Catalogue;
use prof_events::ErrorKind;
use prof_events::EventError;
use prof_events::Host;
use prof_events::Request;
use prof_events::Selection;
use prof_events::catalogue::Kind;
use proptest::prelude::*;

fn resolve(host: Host, list: &str) -> Result<Selection, EventError> {
    let mut request = Request::default();
    request.add("", list)?;
    request.resolve(&Catalogue::new(host))
}

#[test]
fn everything_that_can_be_counted_is_listed() {
    let tree = Tree::named("intel");
    let catalogue = Catalogue::new(tree.host());
    let entries = catalogue.entries();
    let find = |name: &str| entries.iter().find(|e| e.name == name).unwrap();
    assert_eq!(find("cpu-cycles").kind, Kind::Hardware);
    assert_eq!(find("cpu-cycles").aliases, ["cycles"]);
    assert_eq!(find("LLC-loads").id, Some(0x0300_0002));
    assert_eq!(find("peak-rss").kind, Kind::Figure);
    assert_eq!(find("ipc").kind, Kind::Metric);
    assert_eq!(find("power/energy-pkg/").unit, "Joules");
    assert_eq!(find("cgroup-switches").kind, Kind::Software);
    // Listed once, as the figure.
    assert_eq!(entries.iter().filter(|e| e.name == "task-clock").count(), 1);
    assert!(find("cpu-cycles").is_named_by("CYC"));
    assert!(find("cpu-cycles").is_named_by("cy?les"));
    assert!(!find("cpu-cycles").is_named_by("cyc?"));
    assert_eq!(catalogue.tracepoints().unwrap_err().kind, ErrorKind::Tracefs);
    assert_eq!(catalogue.problems(), Vec::<String>::new());
    // Whatever is listed can be asked for.
    for e in &entries {
        let mut request = Request::default();
        request.add("", &e.name).unwrap();
        let s = request.resolve(&catalogue).unwrap_or_else(|e| panic!("{e}"));
        if let (Some(id), [event]) = (e.id, s.events.as_slice()) {
            assert_eq!(event.id(), Some(id), "{}", e.name);
        }
    }
    let forms = catalogue.forms();
    let power = forms.iter().find(|f| f.spelling == "power/event=0-0xff/").unwrap();
    assert!(power.description.contains("not per task"));
    assert!(forms.iter().any(|f| f.spelling.starts_with("cpu/any,cmask=0-0xff,edge,event=0-0xff")));

    let here = Tree::named("here");
    let points = Catalogue::new(here.host()).tracepoints().unwrap();
    assert!(points.iter().any(|e| e.name == "sched:sched_wakeup" && e.source == "sched"));
}

#[test]
fn a_file_that_makes_no_sense_is_told_and_the_rest_stands() {
    let tree = Tree::of(
        "pmu/cpu/type: 4\n\
         pmu/cpu/format/event: config:0-7\n\
         pmu/cpu/format/bad: config9:0-7\n\
         pmu/cpu/events/good: event=1\n\
         pmu/cpu/events/loop: loop\n\
         pmu/cpu/events/worse: event=1,,\n\
         pmu/cpu/events/large: event=0x1ff\n\
         pmu/cpu/events/good.scale: NaN\n\
         pmu/cpu/cpumask: 9-1\n\
         pmu/odd/type: minus one\n\
         pmu/typeless/format/event: config:0-7\n",
    );
    let catalogue = Catalogue::new(tree.host());
    let problems = catalogue.problems();
    assert_eq!(problems.len(), 5, "{problems:#?}");
    for (list, place, kind, what) in [
        ("loop", "loop", ErrorKind::Host, "stands for itself"),
        ("cpu/worse/", "worse", ErrorKind::Host, "a term is missing"),
        ("large", "large", ErrorKind::Value, "too large"),
        ("cpu/bad=1/", "bad", ErrorKind::UnknownTerm, "no term 'bad'"),
        ("odd/event=1/", "odd", ErrorKind::Host, "its type is no number"),
        ("typeless//", "typeless", ErrorKind::Host, "no type"),
    ] {
        let e = resolve(tree.host(), list).unwrap_err();
        assert_eq!(e.kind, kind, "{e}");
        assert!(e.message.contains(what), "{e}");
        assert_eq!(&list[e.span.at..e.span.at + e.span.len], place);
    }
    assert!(resolve(tree.host(), "good").is_ok());
}

#[test]
fn files_that_are_none_or_too_large_are_not_read() {
    let tree = Tree::of("pmu/a/type: 1\npmu/b/type: 2\npmu/c/format/x: config:0\ntrace/s/t: x1\n");
    fs::write(tree.pmus().join("a/type"), vec![b'1'; 1 << 20]).unwrap();
    fs::create_dir(tree.pmus().join("c/type")).unwrap();
    symlink("/dev/zero", tree.pmus().join("b/cpus")).unwrap();
    fs::write(tree.pmus().join("b/cpumask"), b"\xff\xfe").unwrap();
    symlink("b", tree.pmus().join("d")).unwrap();
    let catalogue = Catalogue::new(tree.host());
    let names: Vec<_> = catalogue.pmus().map(|p| p.name.clone()).collect();
    assert_eq!(names, ["b", "d"]);
    assert_eq!(catalogue.problems().len(), 6, "{:#?}", catalogue.problems());
    let e = resolve(tree.host(), "s:t").unwrap_err();
    assert_eq!(e.kind, ErrorKind::Host);
}

#[test]
fn a_host_without_any_of_it_still_has_the_generic_events() {
    let host = Host { sysfs: "/nonexistent".into(), tracefs: "/nonexistent".into() };
    assert_eq!(resolve(host.clone(), "cycles,r1,ipc,default").unwrap().metrics.len(), 1);
    let e = resolve(host.clone(), "cpu/event=1/").unwrap_err();
    assert!(e.help.contains("/nonexistent"), "{e}");
    assert!(resolve(host, "s:t").unwrap_err().help.contains("mount"));
}

#[test]
fn names_in_errors_carry_no_control_characters() {
    let tree = Tree::of("pmu/x/type: 1\n");
    fs::create_dir(tree.pmus().join("\u{1b}[2J")).unwrap();
    let e = resolve(tree.host(), "y/a\u{7}b=1/").unwrap_err();
    assert!(!e.to_string().contains(['\u{1b}', '\u{7}']), "{e}");
    let s = resolve(tree.host(), "page-faults/name=a\u{1b}[31mb/").unwrap();
    assert_eq!(s.events[0].name, "a\\x1b[31mb");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_host_panics(
        format in "(config[0-9]?:[0-9,-]{1,12}|.{0,20})",
        event in "([a-z?]{1,5}(=(0x)?[0-9a-f?]{1,18})?,?){0,5}|.{0,20}",
        type_ in "[0-9]{1,12}",
        cpus in "[0-9,-]{0,12}",
        scale in "[0-9e.+-]{0,20}",
        list in "(a/[a-z=0-9,]{0,12}/|e|a\\*/e/|\\*|e:u|\\{e,cs\\}|\\{e,a/x=1/\\}:k|-e|a:e|\\*:\\*){1,3}",
    ) {
        let tree = Tree::of("");
        let pmu = tree.pmus().join("a");
        for (file, text) in [
            ("type", &type_),
            ("cpus", &cpus),
            ("format/x", &format),
            ("format/event", &"config:0-7,32-35".to_owned()),
            ("events/e", &event),
            ("events/e.scale", &scale),
        ] {
            fs::create_dir_all(pmu.join(file).parent().unwrap()).unwrap();
            fs::write(pmu.join(file), text).unwrap();
        }
        match resolve(tree.host(), &list) {
            Ok(s) => {
                for g in &s.groups {
                    prop_assert!(g.events.iter().all(|i| *i < s.events.len()));
                }
                for e in &s.events {
                    prop_assert!(list.get(e.span.at..e.span.at + e.span.len).is_some());
                }
            }
            Err(e) => {
                prop_assert!(list.get(e.span.at..e.span.at + e.span.len).is_some(), "{e:?}");
                prop_assert!(!e.to_string().is_empty());
            }
        }
    }
}
