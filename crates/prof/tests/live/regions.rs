//! Regions that a program names: figures between two probes of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::*;

/// Faults that come with a region and are not of the work in it: its thread's stack, and
/// what the probe and the target themselves touch for the first time.
const STRAY_FAULTS: u64 = 12;

/// The regions of one name in a profile.
fn region<'a>(profile: &'a Value, name: &str) -> &'a Value {
    let all = profile["regions"].as_array().unwrap_or_else(|| panic!("no regions in {profile}"));
    all.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no {name} in {all:#?}"))
}

fn counted(region: &Value, key: &str) -> u64 {
    region[key].as_u64().unwrap_or_else(|| panic!("{key} in {region}"))
}

fn assert_ended(region: &Value, times: u64) {
    assert_eq!((counted(region, "begun"), counted(region, "ended")), (times, times), "{region}");
}

/// So many and a few more.
fn assert_faults(region: &Value, pages: u64) {
    let faults = figure(region, "minor-faults");
    assert!((pages..=pages + STRAY_FAULTS).contains(&faults), "{faults} for {pages}: {region}");
}

fn act(options: &[&str], steps: &str) -> Run {
    let steps: Vec<_> = std::iter::once("act").chain(steps.split(' ')).collect();
    let run = run_target(options, &steps);
    assert!(run.output.status.success(), "{steps:?}: {:?}", run.output);
    run
}

/// The one profile of a run.
fn only(run: &Run) -> &Value {
    let profiles = run.records.profiles();
    assert_eq!(profiles.len(), 1, "{profiles:#?}");
    profiles[0]
}

fn lost(run: &Run, reason: &str) -> u64 {
    run.records.end()["lost"][reason].as_u64().unwrap_or(0)
}

#[test]
fn figures_are_of_what_is_between_begin_and_end() {
    let Some(_turn) = live("regions") else { return };
    let run = act(&[], "faults 300 begin a faults 200 end faults 400 begin b faults 50 end");
    run.records.assert_whole();
    assert_eq!(run.said("watched"), 1);
    let p = only(&run);
    assert_faults(region(p, "a"), 200);
    assert_faults(region(p, "b"), 50);
    for name in ["a", "b"] {
        assert_ended(region(p, name), 1);
    }
    assert!(figure(p, "minor-faults") >= 950);
    // Not of the program any more: nobody is attached.
    let after = target_output(&["act", "begin", "a", "end"]);
    assert_eq!(said(&after, "watched"), 0);
}

#[test]
fn a_name_that_comes_again_is_the_same_region_and_each_pair_counts() {
    let Some(_turn) = live("regions by name") else { return };
    let run = act(&[], "pairs 5000 often begin seldom faults 10 end begin seldom faults 10 end");
    run.records.assert_whole();
    let p = only(&run);
    let names: Vec<_> = p["regions"].as_array().expect("regions").iter().collect();
    assert_eq!(names.len(), 2, "{names:#?}");
    assert_ended(region(p, "often"), 5000);
    assert_ended(region(p, "seldom"), 2);
    assert_faults(region(p, "seldom"), 20);
    let often = region(p, "often");
    let (least, most) = (counted(often, "shortest_ns"), counted(often, "longest_ns"));
    let sum = figure(often, "wall-time");
    assert!(0 < least && least <= sum / 5000 && sum / 5000 <= most && most <= sum, "{often}");
}

#[test]
fn an_inner_region_is_in_the_outer_one_and_cpu_time_is_exact() {
    let Some(_turn) = live("nested regions") else { return };
    let run = run_target(&[], &["regions", "5", "10"]);
    run.records.assert_whole();
    let p = only(&run);
    for (name, key) in [("inner", "inner_cpu_ns"), ("outer", "outer_cpu_ns")] {
        let r = region(p, name);
        assert_ended(r, 5);
        if emulated("times of regions") {
            continue;
        }
        let (ours, theirs) = (figure(r, "task-clock"), run.said(key));
        // The target reads its clock by a system call on either side; a probe is a trap.
        assert!(ours.abs_diff(theirs) < 5 * 100_000, "{name}: {ours}, by the target {theirs}");
    }
    let wall = |name| figure(region(p, name), "wall-time");
    assert!(wall("inner") < wall("outer"));
    assert!(figure(region(p, "outer"), "task-clock") <= figure(p, "task-clock"));
}

#[test]
fn sixteen_deep_have_figures_and_deeper_ones_are_told() {
    let Some(_turn) = live("deep regions") else { return };
    let begin: Vec<_> = (1..=20).map(|i| format!("begin r{i}")).collect();
    let steps = format!("{} faults 30 {} begin r1 end", begin.join(" "), ["end"; 20].join(" "));
    let run = act(&[], &steps);
    assert_eq!(run.records.end()["lost"], serde_json::json!({"region_too_deep": 4}));
    run.records.assert_reconciled();
    let p = only(&run);
    // Every end has found its begin: the last pair is the outermost again.
    assert_ended(region(p, "r1"), 2);
    for i in 2..=16 {
        assert_ended(region(p, &format!("r{i}")), 1);
    }
    assert_faults(region(p, "r16"), 30);
    assert_eq!(p["regions"].as_array().map(Vec::len), Some(16));
}

#[test]
fn each_thread_has_its_own() {
    let Some(_turn) = live("regions of threads") else { return };
    let run = act(&[], "threads 8 [ begin a faults 100 begin b faults 10 end end pairs 500 c ]");
    run.records.assert_whole();
    let p = only(&run);
    for (name, times) in [("a", 8), ("b", 8), ("c", 4000)] {
        assert_ended(region(p, name), times);
    }
    let faults = figure(region(p, "a"), "minor-faults");
    assert!((880..=880 + 8 * STRAY_FAULTS).contains(&faults), "{faults}");
}

#[test]
fn an_end_without_a_begin_changes_nothing_and_is_told() {
    let Some(_turn) = live("unbalanced regions") else { return };
    let run = act(&[], "end begin a faults 20 end end end");
    assert_eq!(run.records.end()["lost"], serde_json::json!({"region_not_begun": 3}));
    run.records.assert_reconciled();
    let p = only(&run);
    assert_ended(region(p, "a"), 1);
    assert_faults(region(p, "a"), 20);
}

#[test]
fn an_exit_ends_the_regions_of_its_thread() {
    let Some(_turn) = live("exit in a region") else { return };
    let run = act(&[], "begin a faults 60 begin b faults 40 exit 0");
    run.records.assert_whole();
    let p = only(&run);
    assert_ended(region(p, "a"), 1);
    assert_ended(region(p, "b"), 1);
    // Those of the way out are in it.
    assert!(figure(region(p, "a"), "minor-faults") >= 100);
    assert!(figure(region(p, "b"), "minor-faults") >= 40);
    let run = act(&[], "begin whole threads 3 [ begin left faults 30 ] end");
    run.records.assert_whole();
    assert_ended(region(only(&run), "left"), 3);
    assert!(figure(region(only(&run), "left"), "minor-faults") >= 90);
    assert_ended(region(only(&run), "whole"), 1);
}

#[test]
fn an_exec_leaves_its_regions_without_an_end() {
    let Some(_turn) = live("exec in a region") else { return };
    let own = target().to_str().expect("a path");
    let run = act(&[], &format!("begin a faults 60 exec {own} act begin a faults 30 end"));
    run.records.assert_whole();
    let profiles = run.records.profiles();
    assert_eq!(profiles.len(), 2);
    let first = region(profiles[0], "a");
    assert_eq!((counted(first, "begun"), counted(first, "ended")), (1, 0));
    assert!(first["figures"]["minor-faults"]["absent"].is_string(), "{first}");
    assert!(first.get("shortest_ns").is_none());
    // The next image begins without any.
    let second = region(profiles[1], "a");
    assert_ended(second, 1);
    assert_faults(second, 30);
}

#[test]
fn a_child_does_not_inherit_them_and_has_its_own() {
    let Some(_turn) = live("fork in a region") else { return };
    let run = act(&[], "begin a fork [ begin c faults 50 end end ] end");
    assert_eq!(run.records.end()["lost"], serde_json::json!({"region_not_begun": 1}));
    let child = run.records.profiles()[0];
    assert_eq!(child["exit"]["code"], 0);
    assert_ended(region(child, "c"), 1);
    assert_faults(region(child, "c"), 50);
    assert_eq!(child["regions"].as_array().map(Vec::len), Some(1));
    assert_ended(region(run.records.profiles()[1], "a"), 1);
}

#[test]
fn counts_of_perf_events_are_divided_like_figures() {
    let Some(_turn) = live("counts of regions") else { return };
    let options = ["-e", "task-clock,minor-faults,minor-faults:uk,cpu-clock,dummy"];
    let steps = "faults 70 begin a faults 100 burn 30 sleep 5 begin b faults 40 end end";
    once("the clocks of regions", || {
        let run = act(&options, steps);
        let p = only(&run);
        for name in ["a", "b"] {
            let r = region(p, name);
            assert_ended(r, 1);
            let (figures, counts) = (figure(r, "minor-faults"), figure(r, "minor-faults:uk"));
            assert_eq!(figures, counts, "{name}");
            assert_eq!(figure(r, "dummy"), 0);
        }
        let a = region(p, "a");
        assert_faults(region(p, "b"), 40);
        assert!(figure(a, "cpu-clock") >= 30_000_000);
        assert!(counted(a, "shortest_ns") >= 35_000_000);
        if emulated("times of regions") {
            return Ok(());
        }
        ["a", "b"].iter().try_for_each(|name| {
            let r = region(p, name);
            let (clock, counted) = (figure(r, "task-clock"), figure(r, "cpu-clock"));
            // What is between the two readings at either end, an interrupt included.
            // cpu-clock alone has the time that a hypervisor took.
            assert!(counted + 1_000_000 > clock, "{name}: {clock} {counted}");
            let near = counted < clock + 1_000_000;
            if near { Ok(()) } else { Err(format!("{name}: {clock} {counted}")) }
        })
    });
}

#[test]
fn what_began_before_prof_came_is_not_reported() {
    let Some(_turn) = live("regions, found late") else { return };
    if emulated("regions, found late: attaching takes longer than it waits") {
        return;
    }
    let own = target().to_str().expect("a path");
    // The shell has no probes: the target is looked into when it is known to run.
    let script = format!("{own} act sleep 2000 begin a faults 25 end; exit 0");
    let run = run(&[], &["sh", "-c", &script]);
    run.records.assert_whole();
    let profiles = run.records.profiles();
    let with: Vec<_> = profiles.iter().filter(|p| p["regions"].is_array()).collect();
    assert_eq!(with.len(), 1, "{profiles:#?}");
    assert_faults(region(with[0], "a"), 25);
    let notes = with[0]["notes"].to_string();
    assert!(notes.contains("regions: those that began before"), "{notes}");
}

#[test]
fn a_process_that_is_attached_to_has_regions() {
    let Some(_turn) = live("regions, attach") else { return };
    if emulated("regions, attach: attaching takes longer than it waits") {
        return;
    }
    let mut child = Command::new(target())
        .args("act begin before sleep 1500 begin a faults 25 end end".split(' '))
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("prof-target");
    let records = Watch::verb("attach", &[&child.id().to_string()]).wait();
    child.wait().expect("prof-target");
    records.assert_reconciled();
    assert_eq!(records.end()["lost"], serde_json::json!({"region_not_begun": 1}));
    let p = records.profiles()[0];
    assert_faults(region(p, "a"), 25);
    assert_eq!(p["regions"].as_array().map(Vec::len), Some(1), "{p}");
}

#[test]
fn figures_so_far_have_those_that_have_ended() {
    let Some(_turn) = live("regions at intervals") else { return };
    if emulated("regions at intervals: attaching takes longer than it waits") {
        return;
    }
    let run = act(&["-I", "200"], "pairs 7 a begin b sleep 1000 end");
    run.records.assert_reconciled();
    let so_far = run.records.profiles();
    let so_far = so_far.iter().find(|p| p["window"]["end"] == "running").expect("an interval");
    assert_ended(region(so_far, "a"), 7);
    let b = region(so_far, "b");
    assert_eq!((counted(b, "begun"), counted(b, "ended")), (1, 0));
    let last = run.records.last_profiles();
    assert_ended(region(last[0], "b"), 1);
}

#[test]
fn names_are_cut_and_escaped_and_bounded() {
    let Some(_turn) = live("names of regions") else { return };
    let long = "ä".repeat(40);
    let odd = "\\\u{1b}[2J\"";
    let mut steps = vec!["act".to_owned()];
    for name in [long.as_str(), odd, ""] {
        steps.extend(["begin".into(), name.to_owned(), "end".into()]);
    }
    for i in 0..300 {
        steps.extend(["begin".into(), format!("r{i}"), "end".into()]);
    }
    let steps: Vec<_> = steps.iter().map(String::as_str).collect();
    let run = run_target(&["-o", "summary"], &steps);
    let p = only(&run);
    // 63 bytes end in the middle of a character.
    assert_ended(region(p, &format!("{}\\xc3", "ä".repeat(31))), 1);
    assert_ended(region(p, "\\x5c\u{1b}[2J\""), 1);
    assert_ended(region(p, ""), 1);
    assert_eq!(p["regions"].as_array().map(Vec::len), Some(256));
    assert_eq!(lost(&run, "region_map_full"), 303 - 256);
    let shown = String::from_utf8_lossy(&run.output.stderr);
    assert!(!shown.contains('\u{1b}'), "{shown}");
    assert!(shown.contains("more regions"), "{shown}");
}

#[test]
fn nobody_listens_if_told_so() {
    let Some(_turn) = live("--no-regions") else { return };
    let run = act(&["--no-regions"], "begin a end");
    assert_eq!(run.said("watched"), 0);
    assert!(only(&run).get("regions").is_none());
}

/// A program through `include/prof.h`.
const C_PROGRAM: &str = r#"
#include <stdlib.h>
#include "prof.h"

static void touch(unsigned long pages)
{
	volatile char *at = aligned_alloc(4096, pages * 4096);
	for (unsigned long i = 0; at && i < pages; i++)
		at[i * 4096] = 1;
}

int main(void)
{
	for (int i = 0; i < 3; i++) {
		PROF_REGION("outer in C");
		prof_region_begin("inner in C");
		touch(64);
		prof_region_end();
	}
	return prof_is_watched() ? 0 : 3;
}
"#;

#[test]
fn in_c_programs_by_any_linker() {
    let Some(_turn) = live("regions in C") else { return };
    if !has("cc", "gcc") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let source = dir.path().join("main.c");
    fs::write(&source, C_PROGRAM).expect("a file");
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../../include");
    // lld has read-only and writable data on one page of the file; it comes with Rust.
    let lld = format!("-B{}", rust_linkers());
    let linkers: [&[&str]; 3] = [&[], &[&lld, "-fuse-ld=lld"], &["-static"]];
    for flags in linkers {
        let program = dir.path().join("program");
        let built = Command::new("cc")
            .args(["-O2", "-I", include, "-o"])
            .args([&program, &source])
            .args(flags)
            .output()
            .expect("cc");
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{flags:?}: {said}");
        assert_c_program(&program, flags);
    }
}

/// A library that has probes, and a program that has none.
const LIBRARY: &str = r#"
#include "prof.h"
void work(void);
void work(void)
{
	static char pages[33 * 4096];
	PROF_REGION("of the library");
	for (int i = 0; i < 33; i++)
		((volatile char *)pages)[i * 4096] = 1;
}
"#;
const ITS_USER: &str = "#include <unistd.h>\nvoid work(void);\n\
                        int main(void) { sleep(2); work(); return 0; }\n";

#[test]
fn in_a_library_that_a_program_has_loaded() {
    let Some(_turn) = live("regions of a library") else { return };
    if emulated("regions of a library: attaching takes longer than it waits") || !has("cc", "gcc") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("library.c"), LIBRARY).expect("a file");
    fs::write(at("main.c"), ITS_USER).expect("a file");
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../../include");
    let rpath = format!("-Wl,-rpath,{}", dir.path().display());
    for args in [
        &["-O2", "-shared", "-fPIC", "-I", include, "library.c", "-o", "libwork.so"][..],
        &["-O2", "main.c", "-o", "program", "-L.", "-lwork", &rpath],
    ] {
        let status = Command::new("cc").args(args).current_dir(dir.path()).status();
        assert!(status.expect("cc").success(), "{args:?}");
    }
    let run = run(&[], &[at("program").to_str().expect("a path")]);
    run.records.assert_whole();
    let p = only(&run);
    assert_ended(region(p, "of the library"), 1);
    // The first of them it shares with other data.
    assert_faults(region(p, "of the library"), 32);
    assert!(p["notes"].to_string().contains("regions: those that began before"), "{p}");
}

/// Where the toolchain has linkers by the names that a C compiler asks for.
fn rust_linkers() -> String {
    let output = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"))
        .args(["--print", "target-libdir"])
        .output()
        .expect("rustc");
    let libdir = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    format!("{libdir}/../bin/gcc-ld")
}

fn assert_c_program(program: &Path, flags: &[&str]) {
    let run = run(&[], &[program.to_str().expect("a path")]);
    // 3: it was not watched, though somebody was attached before it began.
    assert_eq!(run.output.status.code(), Some(0), "{flags:?}");
    run.records.assert_whole();
    let p = only(&run);
    assert_ended(region(p, "outer in C"), 3);
    assert_ended(region(p, "inner in C"), 3);
    assert_faults(region(p, "inner in C"), 3 * 64);
}
