//! Stacks in the `pprof` format, read by Go's pprof.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/stacks.rs"]
mod stacks;

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOptions;
use prof_model::stacks::Counted;
use prof_model::stacks::Counts;
use prof_model::stacks::Process;
use prof_model::stacks::StackProfile;
use proptest::prelude::*;

/// Go's pprof, of whatever release.
fn go_pprof() -> Option<PathBuf> {
    let mut places = vec![PathBuf::from(std::env::var_os("PROF_GO_PPROF").unwrap_or_default())];
    for root in ["/usr/lib", "/usr/local"] {
        let go = std::fs::read_dir(root).into_iter().flatten().flatten();
        for go in go.filter(|d| d.file_name().to_string_lossy().starts_with("go")) {
            let tools = std::fs::read_dir(go.path().join("pkg/tool")).into_iter().flatten();
            places.extend(tools.flatten().map(|d| d.path().join("pprof")));
        }
    }
    stacks::tool("Go's pprof", &places, "apt-get install golang-go, or PROF_GO_PPROF=FILE")
}

/// What it prints of a profile, and what it complains of.
fn run(pprof: &PathBuf, p: &StackProfile, arguments: &[&str]) -> (String, String) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let bytes = stacks::render(StackFormat::Pprof, p, &StackOptions::default());
    file.write_all(&bytes).unwrap();
    let home = tempfile::tempdir().unwrap();
    let out = Command::new(pprof)
        .args(arguments)
        .arg(file.path())
        .env("PPROF_TMPDIR", home.path())
        .env("HOME", home.path())
        .env("TZ", "UTC")
        .output()
        .unwrap();
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{arguments:?}: {error}");
    (String::from_utf8(out.stdout).unwrap(), error)
}

/// What it prints of a profile as it is, without a complaint.
fn read(pprof: &PathBuf, p: &StackProfile, arguments: &[&str]) -> String {
    let (text, error) = run(pprof, p, &[arguments, &["-symbolize=none"]].concat());
    assert!(error.trim().is_empty(), "{arguments:?}: {error}");
    text
}

/// Rows of `-top`: flat, cumulated, name.
fn top(text: &str) -> Vec<(String, String, String)> {
    let rows = text.lines().skip_while(|l| !l.trim().starts_with("flat "));
    rows.skip(1)
        .map(|row| {
            let mut words = row.split_whitespace();
            let flat = words.next().unwrap().to_owned();
            let cum = words.nth(2).unwrap().to_owned();
            let at = row.find('%').unwrap();
            let at = at + 1 + row[at + 1..].find('%').unwrap();
            let name = row[at + 1 + row[at + 1..].find('%').unwrap() + 1..].trim().to_owned();
            (flat, cum, name)
        })
        .collect()
}

const HOSTILE: &str = "a;b\\x1b[31m\\xe2\\x80\\xae\\xef\\xbf\\xbf</svg>\"'& \\ \\x0a\\x00 12";

#[test]
fn functions_have_the_time_that_was_sampled() {
    let Some(pprof) = go_pprof() else { return };
    let text = read(&pprof, &stacks::full(), &["-top"]);
    for line in [
        "File: app",
        "Build ID: 0102030405060708090a0b0c0d0e0f1011121314",
        "Type: cpu",
        "Time: Jan 2, 2026 at 3:04am (UTC)",
        "Duration: 3.21s, Total samples = 100ms ( 3.12%)",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
    }
    let row = |flat: &str, cum: &str, name: &str| (flat.into(), cum.into(), name.into());
    assert_eq!(
        top(&text),
        [
            row("60ms", "60ms", "inner (inline)"),
            row("16ms", "16ms", "[unknown at 0x7f0000001000]"),
            row("10ms", "10ms", "vfs_read"),
            row("8ms", "8ms", "[unknown in /opt/libfoo.so+0x1234]"),
            row("4ms", "4ms", "[no stack: no-registers]"),
            row("2ms", "2ms", "[unknown in the kernel at 0xffffffff81200000]"),
            row("0", "8ms", "[broken: no-table]"),
            row("0", "16ms", "[cut: depth]"),
            row("0", "10ms", "[unknown in /usr/lib/libfoo.so+0x1234]"),
            row("0", "16ms", HOSTILE),
            row("0", "72ms", "main"),
            row("0", "70ms", "work"),
        ]
    );
}

#[test]
fn a_profile_is_called_after_the_program_not_after_its_libraries() {
    let Some(pprof) = go_pprof() else { return };
    let mut p = stacks::full();
    // What is left begins in a library.
    p.samples.retain(|s| s.thread.0 == 1);
    let text = read(&pprof, &p, &["-top"]);
    assert!(text.lines().any(|l| l == "File: app"), "{text}");
}

#[test]
fn names_are_not_demangled_again() {
    let Some(pprof) = go_pprof() else { return };
    let mut p = stacks::full();
    p.frames[1].functions[0].name = "<alloc::vec::Vec<T> as Drop>::drop".into();
    // As anyone calls it: it looks for files, and does not find them here.
    let (text, _) = run(&pprof, &p, &["-top"]);
    assert!(
        text.contains(
            "60ms 60.00% 60.00%       60ms 60.00%  <alloc::vec::Vec<T> as Drop>::drop (inline)"
        ),
        "{text}"
    );
}

#[test]
fn each_event_is_a_sample_type() {
    let Some(pprof) = go_pprof() else { return };
    let text = read(&pprof, &stacks::full(), &["-top", "-sample_index=cycles"]);
    let row = |flat: &str, cum: &str, name: &str| (flat.into(), cum.into(), name.into());
    assert_eq!(
        top(&text),
        [
            row("1000000", "1000000", "vfs_read"),
            row("700000", "700000", HOSTILE),
            row("0", "1000000", "main"),
            row("0", "1000000", "work"),
        ]
    );
    let text = read(&pprof, &stacks::full(), &["-top", "-sample_index=samples"]);
    assert!(text.contains("Showing nodes accounting for 107, 100% of 107 total"), "{text}");
}

/// Counts of two processes, one of which has no samples.
fn counted() -> StackProfile {
    let mut p = stacks::full();
    let counter = |name: &str, unit: &str, additive| Counted {
        name: name.into(),
        unit: unit.into(),
        additive,
    };
    p.counters = vec![
        counter("instructions", "", true),
        counter("cycles", "", true),
        counter("written-bytes", "bytes", true),
        counter("peak-rss", "bytes", false),
    ];
    let process = |pid, comm: &str| Process { pid, comm: comm.into(), ..Process::default() };
    let exe = Some("/usr/bin/cc1".into());
    p.counts = vec![
        Counts {
            process: Process { exe, ..process(100, "cc1") },
            values: vec![Some(5_000), Some(900), Some(2048), Some(4096)],
        },
        Counts { process: process(101, "as;\x1b"), values: vec![Some(700), None, Some(0), None] },
    ];
    p.uncounted = vec![(1, "no counter was free".into(), 1)];
    p
}

#[test]
fn each_counter_is_a_sample_type_with_a_figure_for_each_process() {
    let Some(pprof) = go_pprof() else { return };
    let row = |flat: &str, name: &str| (flat.to_owned(), flat.to_owned(), name.to_owned());
    let of = |index: &str| {
        let index = format!("-sample_index={index}");
        top(&read(&pprof, &counted(), &["-top", &index]))
    };
    let cc1 = "[process cc1 100]";
    assert_eq!(of("instructions"), [row("5000", cc1), row("700", "[process as;\\x1b 101]")]);
    // It is sampled by, too: that has its name.
    assert_eq!(of("cycles-counted"), [row("900", cc1)]);
    assert_eq!(of("written-bytes"), [row("2kB", cc1)]);
    // In what was sampled there is nothing of it.
    let sampled = |p: &StackProfile| top(&read(&pprof, p, &["-top"]));
    assert_eq!(sampled(&counted()), sampled(&stacks::full()));
    let text =
        read(&pprof, &counted(), &["-top", "-sample_index=instructions", "-tagfocus=comm=cc1"]);
    assert!(text.contains(cc1) && !text.contains("101]"), "{text}");
    let text = read(&pprof, &counted(), &["-top", "-files", "-sample_index=instructions"]);
    assert!(text.contains("/usr/bin/cc1"), "{text}");
    let text = read(&pprof, &counted(), &["-comments"]);
    for line in [
        "cycles: no figure of 1 process: no counter was free",
        "peak-rss: of each process; their sum says nothing",
    ] {
        assert!(text.lines().any(|l| l == line), "{text}");
    }
}

#[test]
fn stacks_have_inlined_lines_and_labels() {
    let Some(pprof) = go_pprof() else { return };
    let text = read(&pprof, &stacks::full(), &["-traces"]);
    let words: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    let has = |lines: &[&[&str]]| words.windows(lines.len()).any(|w| w == lines);
    assert!(has(&[
        &["comm:", "app"],
        &["stack:", "no-table"],
        &["thread:", "worker", "7"],
        &["pid:", "100"],
        &["tid:", "101"],
        &["exec:", "1"],
        &["8ms", "[unknown", "in", "/opt/libfoo.so+0x1234]"],
        &["[unknown", "in", "/usr/lib/libfoo.so+0x1234]"],
        &["[broken:", "no-table]"],
    ]));
    assert!(has(&[&["40ms", "inner", "(inline)"], &["work"], &["main"]]), "{text}");
}

#[test]
fn time_off_the_cpu_is_a_sample_type_with_wakers_as_labels() {
    let Some(pprof) = go_pprof() else { return };
    let total = |arguments: &[&str]| {
        let all = [&["-top", "-sample_index=off-cpu"], arguments].concat();
        let text = read(&pprof, &stacks::off_cpu(), &all);
        top(&text).first().map(|(flat, ..)| flat.clone())
    };
    assert_eq!(total(&[]).as_deref(), Some("100ms"));
    assert_eq!(total(&["-tagfocus=waker=^app$"]).as_deref(), Some("50ms"));
    assert_eq!(total(&["-tagfocus=waker=interrupt"]).as_deref(), Some("25ms"));
    assert_eq!(total(&["-tagfocus=off_cpu=runnable"]).as_deref(), Some("4ms"));
    assert_eq!(total(&["-tagfocus=off_cpu=uninterruptible"]).as_deref(), Some("11ms"));
}

#[test]
fn what_is_in_the_file_is_right_in_detail() {
    let Some(pprof) = go_pprof() else { return };
    let text = read(&pprof, &stacks::full(), &["-raw"]);
    for line in [
        "PeriodType: cpu nanoseconds",
        "Period: 1000000",
        "samples/count cpu/nanoseconds[dflt] cycles/count",
        "         20   10000000    1000000: 4 3 2 ",
        "     1: 0x1100 M=1 inner /src/app.c:5 s=0()",
        "             work /src/app.c:20 s=0()",
        "     4: 0xffffffff81100000 M=2 vfs_read :0 s=0()",
        "1: 0x0/0x1181/0x0 /usr/bin/app 0102030405060708090a0b0c0d0e0f1011121314 [FN][FL][LN][IN]",
        "2: 0x0/0xffffffff81200001/0x0 [kernel.kallsyms]  [FN]",
        // No name is known there: pprof may look for them.
        "3: 0x0/0x1235/0x0 /opt/libfoo.so  ",
        "5: 0x0/0x9a/0x0 /tmp/e\\xffv;il\\x0a.so 01 [FN]",
        "Comment: lost: 12 samples: buffer full",
        "Comment: unnamed: 1 place in /opt/libfoo.so: no symbol table",
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} is not in {text}");
    }
    assert!(text.contains("Comment: stacks: 76.6 % whole (82); 15.0 % cut:"), "{text}");
}

#[test]
fn events_of_the_same_name_are_told_apart() {
    let Some(pprof) = go_pprof() else { return };
    let mut p = stacks::full();
    p.events[0].name = "task-clock".into();
    p.events[1].name = "cpu".into();
    let text = read(&pprof, &p, &["-raw"]);
    assert!(text.contains("samples/count cpu/nanoseconds[dflt] cpu-2/count"), "{text}");
}

#[test]
fn an_empty_profile_is_one_that_pprof_reads() {
    let Some(pprof) = go_pprof() else { return };
    let text = read(&pprof, &stacks::empty(), &["-top"]);
    assert!(text.contains("Duration: 5ms, Total samples = 0"), "{text}");
    read(&pprof, &StackProfile::default(), &["-raw"]);
}

proptest! {
    // Each case is a few runs of a program.
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_profile_is_read_with_all_its_weights(p in stacks::any_profile()) {
        let Some(pprof) = go_pprof() else { return Ok(()) };
        let text = read(&pprof, &p, &["-raw"]);
        let samples = text.lines().skip_while(|l| *l != "Samples:").skip(2);
        let mut sums = [0; 3];
        for line in samples.take_while(|l| *l != "Locations") {
            // A line of labels has no such list of numbers before a colon.
            let Some((values, _)) = line.split_once(": ") else { continue };
            let values: Result<Vec<u64>, _> = values.split_whitespace().map(str::parse).collect();
            let Ok(values) = values else { continue };
            prop_assert_eq!(values.len(), 3, "{}", line);
            sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
        }
        let want = [p.samples.len() as u64, stacks::total(&p, 0), stacks::total(&p, 1)];
        prop_assert_eq!(sums, want, "{}", text);
    }
}
