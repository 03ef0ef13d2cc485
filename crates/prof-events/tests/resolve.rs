//! What a list comes to beyond what perf has: figures, changes, metrics, hybrid
//! machines, a vendor's table, filters; and what is said when it comes to nothing.

#![allow(clippy::unwrap_used)]

mod common;

use common::Tree;
use prof_events::Attr;
use prof_events::Catalogue;
use prof_events::ErrorKind;
use prof_events::EventError;
use prof_events::Request;
use prof_events::Selection;
use prof_events::Source;
use prof_events::VendorEvent;
use prof_events::VendorEvents;
use prof_model::figures;
use prof_model::figures::EventSet;

/// A table of three.
#[derive(Debug)]
struct Table;

impl Table {
    fn events() -> Vec<VendorEvent> {
        let event = |name: &str, pmu: &str, terms: &str| VendorEvent {
            name: name.into(),
            pmu: pmu.into(),
            terms: terms.into(),
            description: format!("what {name} counts"),
            ..VendorEvent::default()
        };
        vec![
            event("INST_RETIRED.ANY", "cpu", "event=0xc0,period=2000003"),
            event("topdown.slots", "cpu_core", "event=0xa4,umask=0x1"),
            VendorEvent {
                unit: "64Bytes".into(),
                scale: Some(64.0),
                ..event("UNC_M_CAS_COUNT.RD", "uncore_imc", "event=0x4,umask=0x3")
            },
            event("unc_h_gone", "uncore_ha", "event=1"),
            event("wrong.term", "cpu", "nosuch=1"),
        ]
    }
}

impl VendorEvents for Table {
    fn find(&self, name: &str) -> Vec<VendorEvent> {
        Self::events().into_iter().filter(|e| e.name.eq_ignore_ascii_case(name)).collect()
    }

    fn iter(&self) -> Box<dyn Iterator<Item = VendorEvent> + '_> {
        Box::new(Self::events().into_iter())
    }
}

fn on(tree: &str, list: &str) -> Result<Selection, EventError> {
    let tree = Tree::named(tree);
    let catalogue = Catalogue::new(tree.host()).with_vendor_events(Box::new(Table));
    let mut request = Request::default();
    request.add("", list)?;
    request.resolve(&catalogue)
}

fn ok(tree: &str, list: &str) -> Selection {
    on(tree, list).unwrap_or_else(|e| panic!("{e}"))
}

fn names(s: &Selection) -> Vec<&str> {
    s.events.iter().map(|e| e.name.as_str()).collect()
}

/// Names by group, each with its type and config.
fn groups(s: &Selection) -> Vec<Vec<(&str, u32, u64)>> {
    let event = |i: &usize| {
        let e = &s.events[*i];
        (e.name.as_str(), e.attr.unwrap().type_, e.attr.unwrap().config)
    };
    s.groups.iter().map(|g| g.events.iter().map(event).collect()).collect()
}

#[test]
fn the_default_is_every_figure_and_changes_start_from_it() {
    assert_eq!(ok("intel", "default").figures(), EventSet::ALL);
    assert_eq!(ok("intel", "all").events.len(), figures::NR_EVENTS);
    assert_eq!(Request::default().resolve(&empty()).unwrap().figures(), EventSet::ALL);

    let plus = ok("intel", "+cycles,+ipc");
    assert_eq!(plus.figures(), EventSet::ALL);
    assert_eq!(names(&plus)[figures::NR_EVENTS..], ["cycles", "instructions"]);

    // The sign in front is for the whole list; each list has its own.
    let plus = ok("intel", "+ipc,branch-misses");
    assert_eq!(plus.figures(), EventSet::ALL);
    let added = &names(&plus)[figures::NR_EVENTS..];
    assert_eq!(added, ["branch-misses", "instructions", "cycles"]);
    let mut request = Request::default();
    request.add("-e", "+ipc").unwrap();
    request.add("-e", "faults").unwrap();
    let intel = Tree::named("intel");
    let s = request.resolve(&Catalogue::new(intel.host())).unwrap();
    assert_eq!(s.figures(), EventSet::EMPTY.with(figures::Event::PageFaults));
    assert_eq!(ok("intel", "faults,+cs").figures().iter().count(), 2);

    let minus = ok("intel", "-peak-rss,-cs,-*-faults");
    let left = minus.figures();
    for gone in ["peak-rss", "context-switches", "page-faults", "minor-faults", "major-faults"] {
        let gone = figures::EVENTS.iter().find(|e| e.name == gone).unwrap().event;
        assert!(!left.contains(gone), "{gone}");
    }
    assert_eq!(left.iter().count(), figures::NR_EVENTS - 5);

    let listed = ok("intel", "default,cycles,-cpu-cycles,-wall-time,peak-rss");
    assert_eq!(listed.events.len(), figures::NR_EVENTS - 1);
    assert_eq!(names(&ok("intel", "peak-rss,max-rss,user_time")), ["peak-rss", "user-time"]);
}

/// A host that can count nothing.
fn empty() -> Catalogue {
    let tree = Tree::of("");
    Catalogue::new(tree.host())
}

#[test]
fn a_figure_is_perfs_event_in_a_group_and_with_modifiers() {
    let s = ok("intel", "page-faults,page-faults:u,{task-clock,cs}");
    let sources: Vec<_> = s.events.iter().map(|e| e.source).collect();
    assert_eq!(sources[0], Source::Figure(figures::Event::PageFaults));
    assert_eq!(sources[1..], [Source::Software; 3]);
    assert_eq!(s.events[0].attr, Some(Attr::counting(1, 2)));
    assert_eq!(s.events[0].id(), Some(0x0100_0002));
    assert_eq!((s.events[2].unit.as_str(), s.events[2].scale), ("ns", 1.0));
    let rss = ok("intel", "peak-rss");
    assert_eq!((rss.events[0].attr, rss.events[0].id()), (None, Some(0x7f00_0007)));
}

#[test]
fn wildcards_name_each_event_once() {
    let s = ok("intel", "*-faults");
    assert_eq!(
        names(&s),
        ["page-faults", "minor-faults", "major-faults", "alignment-faults", "emulation-faults"]
    );
    assert_eq!(s.figures().iter().count(), 3);
    assert_eq!(names(&ok("intel", "LLC-load*:u")), ["LLC-loads:u", "LLC-load-misses:u"]);
    let s = ok("intel", "l1?-miss-rate");
    assert_eq!((s.metrics.len(), s.events.len()), (2, 4));
    // Those that cannot be divided by mode are not meant.
    assert!(ok("intel", "*-faults:u").figures().is_empty());
    assert_eq!(on("intel", "*-rss:u").unwrap_err().kind, ErrorKind::Modifier);
    assert!(names(&ok("intel", "topdown-*")).contains(&"topdown-retiring"));
    let s = ok("intel", "cas_*:u,sl?ts");
    assert_eq!(
        names(&s),
        ["uncore_imc_0/cas_count_read/u", "uncore_imc_1/cas_count_read/u", "slots"]
    );
    assert_eq!(s.events[0].spelled, "cas_count_read:u");
}

#[test]
fn metrics_find_their_events_or_bring_them() {
    let s = ok("intel", "ipc");
    assert_eq!(groups(&s), [vec![("instructions", 0, 1), ("cycles", 0, 0)]]);
    assert!(s.groups[0].weak && !s.groups[0].braces);
    assert!(s.events.iter().all(|e| e.for_metric));
    let m = &s.metrics[0];
    assert_eq!((m.above, m.below, m.info.unit), (0, 1, "insn/cycle"));
    assert_eq!(m.value(30.0, 20.0), Some(1.5));
    assert_eq!(m.value(30.0, 0.0), None);

    // A group that has both comes before what stands alone.
    let s = ok("intel", "cpu-cycles,{cycles,instructions},ipc,cpi,branch-miss-rate");
    assert_eq!(s.events.len(), 5);
    assert_eq!((s.metrics[0].above, s.metrics[0].below), (2, 1));
    assert_eq!((s.metrics[1].above, s.metrics[1].below), (1, 2));
    assert_eq!((s.metrics[2].above, s.metrics[2].below), (3, 4));
    assert_eq!(s.metrics[2].value(1.0, 50.0), Some(2.0));

    // With other modifiers it is another event.
    let s = ok("intel", "cycles,ipc:u");
    assert_eq!(names(&s), ["cycles", "instructions:u", "cycles:u"]);
    assert!(s.events[1].attr.unwrap().exclude_kernel);
    assert_eq!(s.metrics[0].name, "ipc:u");

    // One that is there, one that is not.
    let s = ok("intel", "cycles,ipc");
    assert_eq!((s.metrics[0].above, s.metrics[0].below), (1, 0));

    let s = ok("intel", "ghz,cpus-utilized");
    assert_eq!(names(&s), ["cycles", "task-clock", "wall-time"]);
    assert_eq!(s.metrics[0].value(3e9, 1e9), Some(3.0));
    assert_eq!(s.figures().iter().count(), 2);
    assert_eq!(names(&ok("intel", "ghz:u")), ["cycles:u", "task-clock:u"]);
    assert_eq!(names(&ok("intel", "cpus-utilized:u")), ["task-clock:u", "wall-time"]);
    assert!(ok("intel", "ipc,cs,-ipc").metrics.is_empty());
}

#[test]
fn a_hybrid_machine_counts_on_each_sort_of_core() {
    let atom = 10_u64 << 32;
    let core = 4_u64 << 32;
    let s = ok("hybrid", "cycles:u");
    assert_eq!(
        groups(&s),
        [vec![("cpu_atom/cycles/u", 0, atom)], vec![("cpu_core/cycles/u", 0, core)]]
    );
    assert_eq!(s.events[0].cpus.as_ref().unwrap().to_string(), "1");
    assert_eq!(s.events[0].spelled, "cycles:u");

    // A group is counted on one PMU; software goes with the first.
    let s = ok("hybrid", "{cycles,instructions,cs}:u");
    assert_eq!(
        groups(&s),
        [
            vec![
                ("cpu_atom/cycles/", 0, atom),
                ("cpu_atom/instructions/", 0, atom | 1),
                ("cs", 1, 3)
            ],
            vec![("cpu_core/cycles/", 0, core), ("cpu_core/instructions/", 0, core | 1)]
        ]
    );
    assert!(s.events.iter().all(|e| e.attr.unwrap().exclude_kernel));

    let s = ok("hybrid", "L1-dcache-load-misses,cpu_core/LLC-loads/");
    assert_eq!(s.events[0].attr.unwrap().config, atom | 0x1_0000);
    assert_eq!((s.events[2].attr.unwrap().type_, s.events[2].attr.unwrap().config), (3, core | 2));

    let s = ok("hybrid", "ipc");
    let pmus: Vec<_> = s.metrics.iter().map(|m| m.pmu.as_deref().unwrap()).collect();
    assert_eq!(pmus, ["cpu_atom", "cpu_core"]);
    for m in &s.metrics {
        assert_eq!(s.events[m.above].pmu, m.pmu);
        assert_eq!(s.events[m.below].pmu, m.pmu);
    }
    assert_eq!(s.groups.len(), 2);

    let s = ok("hybrid", "r1c2:u,mem-loads/ldat=3/k,cycles/period=7/,cycles/name=c/");
    assert_eq!(
        names(&s),
        [
            "cpu_atom/r1c2/u",
            "cpu_core/r1c2/u",
            "cpu_atom/mem-loads,ldat=0x3/k",
            "cpu_core/mem-loads,ldat=0x3/k",
            "cpu_atom/cycles,period=0x7/",
            "cpu_core/cycles,period=0x7/",
            "cpu_atom/c/",
            "cpu_core/c/",
        ]
    );

    // Two sorts of Arm cores are no different.
    let arm = Tree::of(
        "pmu/armv8_cortex_a53/type: 8\npmu/armv8_cortex_a53/cpus: 0-3\n\
         pmu/armv8_cortex_a72/type: 9\npmu/armv8_cortex_a72/cpus: 4-5\n",
    );
    let mut request = Request::default();
    request.add("", "instructions").unwrap();
    let s = request.resolve(&Catalogue::new(arm.host())).unwrap();
    assert_eq!(
        groups(&s),
        [
            vec![("armv8_cortex_a53/instructions/", 0, 8 << 32 | 1)],
            vec![("armv8_cortex_a72/instructions/", 0, 9 << 32 | 1)]
        ]
    );
}

#[test]
fn uncore_pmus_have_units_cpus_and_no_figure_per_task() {
    let s = ok("intel", "energy-pkg,imc/cas_count_read/,cas_count_read:u");
    let e = &s.events[0];
    assert_eq!((e.unit.as_str(), e.scale), ("Joules", 2.328_306_436_538_696_3e-10));
    assert!(!e.per_task);
    assert_eq!(e.cpus.as_ref().unwrap().to_string(), "0");
    assert_eq!(
        names(&s)[1..],
        [
            "uncore_imc_0/cas_count_read/",
            "uncore_imc_1/cas_count_read/",
            "uncore_imc_0/cas_count_read/u",
            "uncore_imc_1/cas_count_read/u"
        ]
    );
    assert_eq!(s.events[1].spelled, s.events[2].spelled);
    let s = ok("intel", "{imc/clockticks/,imc/cas_count_read/}");
    assert_eq!(s.groups.len(), 2);
    let e = on("intel", "{cycles,energy-pkg}").unwrap_err();
    assert_eq!(e.kind, ErrorKind::Combination);
    assert!(on("intel", "{energy-pkg,energy-ram}").is_ok());
}

#[test]
fn slots_leads_the_topdown_events() {
    let s = ok("intel", "{topdown-retiring,cpu/slots/,topdown-bad-spec}");
    assert_eq!(names(&s), ["cpu/slots/", "topdown-retiring", "topdown-bad-spec"]);
}

#[test]
fn a_vendors_events_come_after_those_of_the_kernel() {
    let s = ok("intel", "inst_retired.any:u,cpu/Inst_Retired.Any,cmask=1/,unc_m_cas_count.rd");
    let e = &s.events[0];
    assert_eq!((e.source, e.period), (Source::Vendor, Some(2_000_003)));
    assert_eq!((e.attr.unwrap().type_, e.attr.unwrap().config), (4, 0xc0));
    assert!(e.attr.unwrap().exclude_kernel);
    assert_eq!(e.description, "what INST_RETIRED.ANY counts");
    assert_eq!((s.events[1].source, s.events[1].attr.unwrap().config), (Source::Vendor, 0x10000c0));
    assert_eq!(s.events[2].name, "uncore_imc_0/unc_m_cas_count.rd/");
    assert_eq!((s.events[3].scale, s.events[3].unit.as_str()), (64.0, "64Bytes"));

    let s = ok("hybrid", "inst_retired.any,topdown.slots");
    assert_eq!(
        names(&s),
        ["cpu_atom/inst_retired.any/", "cpu_core/inst_retired.any/", "topdown.slots"]
    );
    assert_eq!(s.events[2].pmu.as_deref(), Some("cpu_core"));

    let e = on("intel", "unc_h_gone").unwrap_err();
    assert_eq!(e.kind, ErrorKind::UnknownPmu);
    let e = on("intel", "cs,wrong.term").unwrap_err();
    assert_eq!((e.kind, e.span.at, e.span.len), (ErrorKind::UnknownTerm, 3, 10));
    assert_eq!(on("intel", "inst_retired.ny").unwrap_err().near, ["INST_RETIRED.ANY"]);
}

#[test]
fn filters_are_for_the_tracepoints_of_the_last_list() {
    let tree = Tree::named("here");
    let catalogue = Catalogue::new(tree.host());
    let mut request = Request::default();
    let e = request.filter("--filter", "pid == 1").unwrap_err();
    assert_eq!(e.kind, ErrorKind::Combination);
    request.add("-e", "sched:sched_wakeup,cs").unwrap();
    request.add("-e", "sched:sched_sw*,sched:sched_wakeup/filter='prio > 1'/").unwrap();
    request.filter("--filter", "pid == 1").unwrap();
    let mut s = request.resolve(&catalogue).unwrap();
    let filters = |s: &Selection| -> Vec<(String, Option<String>)> {
        let t = s.events.iter().filter_map(|e| e.tracepoint.as_ref());
        t.map(|t| (t.name.clone(), t.filter.clone())).collect()
    };
    assert_eq!(filters(&s)[0], ("sched_wakeup".into(), None));
    assert_eq!(filters(&s)[1], ("sched_swap_numa".into(), Some("pid == 1".into())));
    let both = Some("(prio > 1) && (pid == 1)".into());
    assert_eq!(filters(&s).last().unwrap(), &("sched_wakeup".into(), both));
    assert_eq!(s.events[2].name, "sched:sched_swap_numa");
    assert_eq!(s.events[2].attr.unwrap().config, s.events[2].tracepoint.as_ref().unwrap().id);

    for bad in ["", "  ", "(a == 1", "a == 1)", "a ~ \"x", "a\0b", &"x".repeat(4096)] {
        assert!(s.set_filter("", bad).is_err(), "{bad:?}");
        assert!(request.filter("", bad).is_err(), "{bad:?}");
    }
    s.set_filter("", "common_pid != 0").unwrap();

    let mut request = Request::default();
    request.add("-e", "sched:sched_wakeup,cs").unwrap();
    request.filter("--filter", "pid == 1").unwrap();
    let e = request.resolve(&catalogue).unwrap_err();
    assert_eq!(
        e.to_string(),
        "--filter: a filter is for tracepoints only; 'context-switches' is none\n  pid == 1\n  ^^^^^^^^"
    );
}

#[test]
fn a_filter_that_the_kernel_refuses_is_told_with_the_fields_that_there_are() {
    let tree = Tree::of("trace/sched/sched_wakeup: 374\n");
    let format = "name: sched_wakeup\nID: 374\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;\n\
        \tfield:const char * file;\toffset:8;\tsize:16;\tsigned:0;\n\
        \tfield:__data_loc char[] why;\toffset:8;\tsize:16;\tsigned:0;\n\
        \tfield:int prio;\toffset:28;\tsize:4;\tsigned:1;\n\n\
        print fmt: \"field:no\"\n";
    let path = tree.host().tracefs.join("events/sched/sched_wakeup/format");
    std::fs::write(path, format).unwrap();
    let catalogue = Catalogue::new(tree.host());
    let entry = &catalogue.tracepoints().unwrap()[0];
    assert_eq!(catalogue.about_tracepoint(entry).unwrap(), "tells comm, file, why, prio");
    let refused = |filter: &str| {
        let mut request = Request::default();
        request.add("-e", "sched:sched_wakeup").unwrap();
        request.filter("--filter", filter).unwrap();
        let s = request.resolve(&catalogue).unwrap();
        catalogue.filter_refused(s.events[0].tracepoint.as_ref().unwrap(), "EINVAL").unwrap()
    };
    let e = refused("(comm ~ \"foo && bar\" || !(prioo > 100)) && why.ustring == 'x'");
    assert_eq!(e.message, "there is no field 'prioo'");
    assert_eq!(&e.text[e.span.at..e.span.at + e.span.len], "prioo");
    assert_eq!(e.near, ["prio"]);
    assert!(e.to_string().starts_with("filter of sched:sched_wakeup: "), "{e}");
    assert!(e.help.contains("comm, file, why, prio; "), "{e}");
    assert!(e.help.contains("common_pid"), "{e}");
    // What else may be wrong only the kernel knows.
    let e = refused("prio ~ 7 && COMM == 'a' && common_pid & 1");
    assert!(e.message.contains("EINVAL"), "{e}");
    assert_eq!(e.span.len, e.text.len());
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_was_perhaps_meant() {
    for (tree, list, kind, place, message, near) in [
        ("intel", "cs,cylces", ErrorKind::UnknownEvent, "cylces", "unknown event", "cycles"),
        ("intel", "cs,cylces:u", ErrorKind::UnknownEvent, "cylces", "unknown event", "cycles"),
        ("intel", "LLC-laods", ErrorKind::UnknownEvent, "LLC-laods", "unknown", "LLC-loads"),
        ("intel", "peak-rs", ErrorKind::UnknownEvent, "peak-rs", "unknown", "peak-rss"),
        ("intel", "cpu", ErrorKind::UnknownEvent, "cpu", "is a PMU", ""),
        ("here", "sched_wakeup", ErrorKind::UnknownEvent, "sched_wakeup", "", "sched:sched_wakeup"),
        ("intel", "cpi/event=1/", ErrorKind::UnknownPmu, "cpi", "no PMU", "cpu"),
        ("intel", "cpu/evnt=1/", ErrorKind::UnknownTerm, "evnt", "has no term", "event"),
        ("intel", "cpu/cpu-cycls/", ErrorKind::UnknownTerm, "cpu-cycls", "", "cpu-cycles"),
        ("intel", "cpu/event=0x100/", ErrorKind::Value, "0x100", "0xff is the most", ""),
        ("intel", "cpu/cpu-cycles,slots/", ErrorKind::Combination, "slots", "one event", ""),
        ("intel", "{cs,faults:D}", ErrorKind::Modifier, "faults:D", "does not lead", ""),
        ("intel", "{cs:pp,faults}:pp", ErrorKind::Modifier, "{cs:pp,faults}:pp", "ppp", ""),
        ("intel", "cpu/event=foo/", ErrorKind::Value, "foo", "needs a number", ""),
        ("intel", "cpu/name=5/", ErrorKind::Value, "name=5", "needs a text", ""),
        ("intel", "cpu/freq=5/", ErrorKind::UnknownTerm, "freq", "for samples", ""),
        ("intel", "cycles/evnt=1/", ErrorKind::UnknownTerm, "evnt", "takes no term", ""),
        ("intel", "peak-rss:u", ErrorKind::Modifier, "peak-rss:u", "all modes", ""),
        ("intel", "default:u", ErrorKind::Modifier, "default:u", "many events", ""),
        ("intel", "{cs,peak-rss}", ErrorKind::Combination, "peak-rss", "outside", ""),
        ("intel", "{cs,ipc}", ErrorKind::Combination, "ipc", "a metric", ""),
        ("intel", "{cs,default}", ErrorKind::Combination, "default", "many events", ""),
        ("intel", "{cs,*-faults}", ErrorKind::Combination, "*-faults", "many events", ""),
        ("intel", "-{cs}", ErrorKind::Combination, "-{cs}", "not groups", ""),
        ("intel", "cs,-cycls", ErrorKind::UnknownEvent, "cycls", "left out", ""),
        ("intel", "cs,-cs", ErrorKind::Combination, "cs,-cs", "no event is left", ""),
        ("intel", "xyz*", ErrorKind::UnknownEvent, "xyz*", "no event is called", ""),
        (
            "here",
            "sched:sched_wkeup",
            ErrorKind::UnknownTracepoint,
            "sched:sched_wkeup",
            "'sched' has no",
            "sched_wakeup",
        ),
        (
            "here",
            "shed:sched_wakeup",
            ErrorKind::UnknownTracepoint,
            "shed:sched_wakeup",
            "no tracepoints of 'shed'",
            "sched:",
        ),
        ("here", "sched:..", ErrorKind::UnknownTracepoint, "sched:..", "no tracepoint '..'", ""),
        ("here", "sched:sched_wakeup/fliter='a'/", ErrorKind::UnknownTerm, "fliter", "", "filter"),
        ("here", "sched:sched_wakeup/filter='(a'/", ErrorKind::Value, "'(a'", "never closed", ""),
        ("intel", "sched:sched_wakeup", ErrorKind::Tracefs, "sched:sched_wakeup", "is not at", ""),
        ("power", "hv_24x7/HPM_INST,core=1/", ErrorKind::Value, "HPM_INST", "domain=NUMBER", ""),
    ] {
        let e = on(tree, list).expect_err(list);
        let at = &list[e.span.at..e.span.at + e.span.len];
        assert_eq!((e.kind, at), (kind, place), "{e}");
        assert!(e.message.contains(message), "{e}");
        assert_eq!(e.near.first().map_or("", String::as_str), near, "{e}");
    }
    let e = on("intel", "sched:sched_wakeup").unwrap_err();
    assert!(e.help.contains("mount -t tracefs"), "{e}");
    let e = on("intel", "cpu/evnt=1/").unwrap_err();
    assert!(e.help.starts_with("terms are: any, cmask"), "{e}");
    assert!(ErrorKind::Tracefs.is_about_this_machine());
}

#[test]
fn a_selection_has_a_bound() {
    let list = vec!["cycles"; 8200].join(",");
    let e = on("intel", &list).unwrap_err();
    assert_eq!((e.kind, e.span.len), (ErrorKind::Combination, 6));
    let tree = Tree::named("intel");
    let mut request = Request::default();
    request.add("", &list).unwrap();
    let (s, errors) = request.resolve_what_is_there(&Catalogue::new(tree.host()));
    assert_eq!((s.events.len(), errors.len()), (0, 1));
}

#[test]
fn what_is_there_goes_on_without_the_rest() {
    let tree = Tree::named("intel");
    let catalogue = Catalogue::new(tree.host());
    let mut request = Request::default();
    request.add("-e", "cs,nosuch,sched:x,cycles").unwrap();
    let (s, errors) = request.resolve_what_is_there(&catalogue);
    assert_eq!(names(&s), ["context-switches", "cycles"]);
    let kinds: Vec<_> = errors.iter().map(|e| e.kind).collect();
    assert_eq!(kinds, [ErrorKind::UnknownEvent, ErrorKind::Tracefs]);
    let mut request = Request::default();
    request.add("-e", "cylces,wrong.term,cpu/foo/,{cs,nosuch/x/}").unwrap();
    let catalogue = catalogue.with_vendor_events(Box::new(Table));
    let (_, errors) = request.resolve_what_is_there(&catalogue);
    let lines: Vec<_> = errors.iter().map(EventError::in_one_line).collect();
    // Each names what it is about, whatever the message says.
    for (line, item) in lines.iter().zip(["cylces", "wrong.term", "cpu/foo/", "{cs,nosuch/x/}"]) {
        assert!(line.contains(item), "{lines:#?}");
    }
    assert!(lines[0].contains("did you mean cycles"), "{lines:#?}");
    assert_eq!(lines.len(), 4, "{lines:#?}");
}
