//! From an event back to its name: whatever is told is read by `-e` as the same event.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::Tree;
use common::fixture;
use prof_events::Attr;
use prof_events::Catalogue;
use prof_events::Request;
use prof_events::attr::perf_type;
use prof_events::describe::Names;
use proptest::prelude::*;

const TREES: [&str; 6] = ["here", "intel", "hybrid", "amd", "arm", "power"];

fn names(tree: &Tree) -> Names {
    Names::new(Catalogue::new(tree.host()))
}

fn attrs(catalogue: &Catalogue, list: &str) -> Result<Vec<Attr>, String> {
    let mut request = Request::default();
    request.add("-e", list).map_err(|e| e.to_string())?;
    let selection = request.resolve(catalogue).map_err(|e| e.to_string())?;
    Ok(selection.events.iter().filter_map(|e| e.attr).collect())
}

/// Without what a name does not say; see `Names::event`.
fn comparable(attr: &Attr) -> Attr {
    Attr { exclude_guest: attr.exclude_guest && attr.exclude_host, ..*attr }
}

fn assert_same(names: &Names, attr: &Attr, of: &str) {
    let name = names.event(attr);
    let again = attrs(names.catalogue(), &name).unwrap_or_else(|e| panic!("{of}: {name}: {e}"));
    let [again] = again.as_slice() else { panic!("{of}: {name} is {again:?}") };
    // A PMU's own event may be called as the generic one that is counted on it.
    let generic = matches!(attr.type_, perf_type::HARDWARE | perf_type::HW_CACHE);
    let pmu = name.split_once('/').and_then(|(pmu, _)| names.catalogue().pmu(pmu));
    if let (true, Some(Ok(pmu))) = (generic, pmu) {
        assert_eq!(u64::from(pmu.type_), attr.config >> 32, "{of}: {name}");
        return;
    }
    assert_eq!(comparable(again), comparable(attr), "{of}: {name}");
}

#[test]
fn every_spelling_comes_back_as_the_same_event() {
    let text = fs::read_to_string(fixture("spellings.txt")).unwrap();
    let (mut compared, mut tree) = (0, None);
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            let of = Tree::named(name);
            let names = names(&of);
            tree = Some((of, names));
            continue;
        }
        let (_tree, names) = tree.as_ref().unwrap();
        let spelling = line.trim_start_matches(['<', '>', ' ']);
        // These are called as bpftrace does; see below.
        if spelling.contains("probe/") {
            continue;
        }
        // What prof does not take opens nothing.
        for attr in attrs(names.catalogue(), spelling).unwrap_or_default() {
            assert_same(names, &attr, spelling);
            compared += 1;
        }
    }
    assert!(compared >= 400, "{compared}");
}

#[test]
fn everything_that_is_listed_comes_back() {
    for tree in TREES {
        let tree = Tree::named(tree);
        let names = names(&tree);
        let mut all: Vec<_> = names.catalogue().entries();
        all.extend(names.catalogue().tracepoints().unwrap_or_default());
        for entry in all {
            for attr in attrs(names.catalogue(), &entry.name).unwrap_or_default() {
                assert_same(&names, &attr, &entry.name);
            }
        }
    }
}

#[test]
fn names_are_those_that_people_use() {
    for (tree, attr, name) in [
        ("intel", Attr::counting(perf_type::SOFTWARE, 1), "task-clock"),
        ("intel", Attr::counting(perf_type::SOFTWARE, 2), "page-faults"),
        ("intel", Attr::counting(perf_type::SOFTWARE, 77), "1:0x4d"),
        ("intel", Attr::counting(perf_type::HARDWARE, 0), "cpu-cycles"),
        (
            "intel",
            Attr {
                exclude_kernel: true,
                exclude_hv: true,
                precise_ip: 2,
                ..Attr::counting(perf_type::HARDWARE, 0)
            },
            "cpu-cycles:upp",
        ),
        ("hybrid", Attr::counting(perf_type::HARDWARE, 10 << 32), "cpu_atom/cycles/"),
        ("intel", Attr::counting(perf_type::HW_CACHE, 0x1_0000), "L1-dcache-load-misses"),
        ("intel", Attr::counting(perf_type::HW_CACHE, 0x1_0101), "3:0x10101"),
        ("power", Attr::counting(perf_type::RAW, 0xffff_0000_0000_00c2), "rffff0000000000c2"),
        (
            "intel",
            Attr {
                config1: 0x1000,
                config2: 8,
                bp_type: 3,
                exclude_user: true,
                ..Attr::counting(perf_type::BREAKPOINT, 0)
            },
            "mem:0x1000/8:rw:kh",
        ),
        ("intel", Attr::counting(4711, 0x12), "4711:0x12"),
        ("intel", Attr { config2: 1, ..Attr::counting(4711, 0) }, "4711:0x0/config2=0x1/"),
    ] {
        let tree = Tree::named(tree);
        assert_eq!(names(&tree).event(&attr), name);
    }
}

#[test]
fn an_event_of_a_pmu_is_called_by_its_words() {
    let tree = Tree::of(
        "pmu/cpu/type: 4\n\
         pmu/cpu/format/event: config:0-7\n\
         pmu/cpu/format/umask: config:8-15\n\
         pmu/cpu/format/edge: config:18\n\
         pmu/cpu/format/ldlat: config1:0-15\n\
         pmu/cpu/format/offcore_rsp: config1:0-63\n\
         pmu/cpu/format/frontend: config2:0-7\n\
         pmu/cpu/events/mem-loads: event=0xcd,umask=0x1,ldlat=3\n\
         pmu/msr/type: 9\n\
         pmu/msr/format/event: config:0-63\n\
         pmu/msr/events/tsc: event=0x00\n\
         pmu/uprobe/type: 8\n\
         pmu/uprobe/format/retprobe: config:0\n\
         pmu/uprobe/format/ref_ctr_offset: config:32-63\n\
         pmu/kprobe/type: 7\n\
         pmu/kprobe/format/retprobe: config:0\n\
         trace/sched/sched_wakeup: 318\n\
         trace/bad/name: x\n",
    );
    let names = names(&tree);
    let cpu = |config, config1, config2| Attr {
        config1,
        config2,
        ..Attr::counting(perf_type::RAW, config)
    };
    for (attr, name) in [
        (cpu(0x1cd, 3, 0), "cpu/mem-loads/"),
        (cpu(0x1cd, 0, 0), "r1cd"),
        (cpu(0x4_01cd, 0, 7), "cpu/event=0xcd,umask=0x1,edge,frontend=0x7/"),
        // Two words lie on these bits.
        (cpu(0x1cd, 4, 0), "cpu/event=0xcd,umask=0x1,config1=0x4/"),
        // No word lies on this bit.
        (cpu(1 << 40 | 1, 0, 7), "cpu/config=0x10000000001,frontend=0x7/"),
        (Attr::counting(9, 0), "msr/tsc/"),
        (Attr::counting(9, 5), "msr/event=0x5/"),
        (Attr { exclude_user: true, ..Attr::counting(9, 5) }, "msr/event=0x5/kh"),
    ] {
        assert_eq!(names.event(&attr), name);
        assert_same(&names, &attr, name);
    }
    let probe = |type_, config, config1, config2| Attr {
        config1,
        config2,
        ..Attr::counting(type_, config)
    };
    for (attr, target, name) in [
        (probe(8, 0, 0x7f00, 0x1234), Some("/bin/bash"), "uprobe:/bin/bash:0x1234"),
        (probe(8, 1 | 7 << 32, 0x7f00, 0x1234), None, "uretprobe:?:0x1234"),
        (probe(7, 0, 0x7f00, 0), Some("vfs_read"), "kprobe:vfs_read"),
        (probe(7, 1, 0x7f00, 0), Some("vfs_read"), "kretprobe:vfs_read"),
        (probe(7, 0, 0x7f00, 0x10), None, "kprobe:?+0x10"),
        (probe(7, 0, 0, 0xffff_ffff_8100_0000), None, "kprobe:0xffffffff81000000"),
    ] {
        assert_eq!(names.with_target(&attr, target), name);
    }
    // One that cannot be read is no reason to know nothing of the others.
    let tracepoint = |id| names.event(&Attr::counting(perf_type::TRACEPOINT, id));
    assert_eq!((tracepoint(318), tracepoint(1)), ("sched:sched_wakeup".into(), "2:0x1".into()));
}

#[test]
fn a_tracepoint_that_is_new_is_found() {
    let tree = Tree::of("trace/sched/sched_wakeup: 318\n");
    let names = names(&tree);
    let point = |id| names.event(&Attr::counting(perf_type::TRACEPOINT, id));
    assert_eq!(point(318), "sched:sched_wakeup");
    let id = tree.host().tracefs.join("events/uprobes/mine/id");
    fs::create_dir_all(id.parent().unwrap()).unwrap();
    fs::write(id, "1700\n").unwrap();
    // Not read for each that is unknown: a second has to pass.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(point(1700), "uprobes:mine");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_event_comes_back(
        tree in 0..TREES.len(),
        type_ in prop_oneof![0u32..12, any::<u32>()],
        config in prop_oneof![0u64..0x2_0400, any::<u64>(), (0u64..12, 0u64..11).prop_map(|(t, c)| t << 32 | c)],
        (config1, config2, config3) in (prop_oneof![Just(0), any::<u64>()], prop_oneof![Just(0), any::<u64>()], prop_oneof![Just(0), 0u64..9]),
        (bp_type, bp_len) in (1u32..8, 1u64..9),
        excluded in 0u8..7,
        more in 0u8..32,
        precise_ip in 0u8..4,
    ) {
        let breakpoint = type_ == perf_type::BREAKPOINT;
        let tracepoint = type_ == perf_type::TRACEPOINT;
        let only = |n: u64| if breakpoint || tracepoint { 0 } else { n };
        let attr = Attr {
            type_,
            config: if breakpoint { 0 } else { config },
            config1: if breakpoint { config1 } else { only(config1) },
            config2: if breakpoint { bp_len } else { only(config2) },
            config3: only(config3),
            bp_type: if breakpoint { bp_type } else { 0 },
            exclude_user: excluded & 1 != 0,
            exclude_kernel: excluded & 2 != 0,
            exclude_hv: excluded & 4 != 0,
            exclude_idle: more & 1 != 0,
            // Both at once is nothing that a letter says.
            exclude_host: more & 6 == 2,
            exclude_guest: more & 6 == 4,
            pinned: more & 8 != 0,
            exclusive: more & 16 != 0,
            precise_ip,
        };
        let tree = Tree::named(TREES[tree]);
        let names = names(&tree);
        // `-e` has no word for these.
        let is_probe = |pmu| matches!(names.catalogue().pmu(pmu), Some(Ok(p)) if p.type_ == type_);
        prop_assume!(!is_probe("uprobe") && !is_probe("kprobe"));
        assert_same(&names, &attr, "proptest");
    }
}
