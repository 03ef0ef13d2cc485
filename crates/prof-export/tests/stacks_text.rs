//! Stacks in the `text` format, as they are seen.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/stacks.rs"]
mod stacks;

use prof_export::stacks::Root;
use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOptions;
use prof_model::stacks::FrameKind;
use prof_model::stacks::Function;
use prof_model::stacks::Interner;
use prof_model::stacks::Process;
use prof_model::stacks::ProcessId;
use prof_model::stacks::Sample;
use prof_model::stacks::Thread;
use prof_model::stacks::ThreadId;
use prof_model::stacks::Whole;
use proptest::prelude::*;

fn text(options: &StackOptions) -> String {
    stacks::text(StackFormat::Text, &stacks::full(), options)
}

fn widest(text: &str) -> usize {
    text.lines().map(unicode_width::UnicodeWidthStr::width).max().unwrap_or(0)
}

#[test]
fn functions_tree_and_what_is_whole() {
    for width in [80, 120] {
        let text = text(&StackOptions { width, ..StackOptions::default() });
        assert!(widest(&text) <= width, "{text}");
        common::snapshot(&format!("stacks-{width}"), &text);
    }
}

#[test]
fn what_is_for_no_terminal_is_whole() {
    let mut p = stacks::full();
    let long = format!("std::vector<{}>::resize", "std::string, ".repeat(20));
    p.frames[1].functions[0].name.clone_from(&long);
    p.modules[0].path = format!("/opt/{}/bin/app", "deep/".repeat(20)).into();
    let of = |cut| {
        let options = StackOptions { cut, width: 60, threshold: 0.0, ..StackOptions::default() };
        stacks::text(StackFormat::Text, &p, &options)
    };
    assert!(widest(&of(true)) <= 60, "{}", of(true));
    let whole = of(false);
    assert!(!whole.lines().any(|l| l.ends_with('…')), "{whole}");
    let table = whole.lines().find(|l| l.starts_with(&long)).unwrap();
    assert!(table.contains("60.0 %"), "{table}");
    assert!(whole.lines().any(|l| l.ends_with(&format!("{long} (inlined)"))), "{whole}");
    // Columns stay in line for those that have room.
    let at = |name: &str| whole.lines().find(|l| l.starts_with(name)).unwrap().find(" %");
    assert_eq!(at("vfs_read"), at("[no stack"));
}

#[test]
fn depth_threshold_root_and_event_are_what_is_asked_for() {
    let options = StackOptions {
        event: Some(1),
        root: Root::CommPid,
        top: 1,
        depth: 2,
        ..StackOptions::default()
    };
    common::snapshot("stacks-cycles", &text(&options));
    let heavy = StackOptions { event: Some(0), threshold: 0.3, ..StackOptions::default() };
    let text = text(&heavy);
    let tree = text.split("\n\n").nth(2).unwrap();
    assert!(tree.contains("inner (inlined)") && !tree.contains("vfs_read"), "{tree}");
}

#[test]
fn time_off_the_cpu_has_its_kinds_and_its_wakers() {
    let p = stacks::off_cpu();
    for width in [60, 80] {
        let options = StackOptions { event: Some(1), width, ..StackOptions::default() };
        let text = stacks::text(StackFormat::Text, &p, &options);
        assert!(widest(&text) <= width, "{text}");
        common::snapshot(&format!("stacks-off-cpu-{width}"), &text);
    }
    let options = StackOptions { event: Some(1), top: 1, ..StackOptions::default() };
    let text = stacks::text(StackFormat::Text, &p, &options);
    assert!(text.contains("… 2 more wakers, 36.0 %"), "{text}");
}

#[test]
fn colours_only_if_asked_for_and_they_change_nothing_else() {
    let colored = text(&StackOptions { color: true, ..StackOptions::default() });
    let plain = text(&StackOptions::default());
    assert!(!plain.contains('\u{1b}') && colored.contains('\u{1b}'));
    let mut stripped = colored;
    while let Some(at) = stripped.find('\u{1b}') {
        let end = at + stripped[at..].find('m').unwrap();
        stripped.replace_range(at..=end, "");
    }
    assert_eq!(stripped, plain);
}

/// `main` calls `f`, which calls itself twice; half of the time is `main`'s own.
#[test]
fn a_function_counts_once_for_each_stack_and_a_callee_with_less_is_indented() {
    let mut p = stacks::empty();
    p.processes.push(Process { pid: 7, comm: "app".into(), ..Process::default() });
    p.threads.push(Thread { process: ProcessId(0), tid: 7, comm: "app".into() });
    let mut i = Interner::default();
    let [main, f] = [("main", 1), ("f", 2)].map(|(name, at)| {
        let id = i.frame(&mut p, FrameKind::User, None, at);
        p.frames[id.0 as usize].functions =
            vec![Function { name: name.into(), ..Function::default() }];
        id
    });
    for root_first in [vec![main], vec![main, f, f, f]] {
        let stack = i.stack(&mut p, root_first);
        p.samples.push(Sample {
            time_ns: 0,
            thread: ThreadId(0),
            cpu: 0,
            event: 0,
            weight: 1000,
            stack,
            whole: Whole::Whole,
            off_cpu: None,
        });
    }
    let text = stacks::text(StackFormat::Text, &p, &StackOptions::default());
    assert_eq!(
        text,
        "\n cpu-clock: 2.00 µs in 2 samples, of 1 process and 1 thread: true\n\n\
         FUNCTION    SELF    TOTAL  SELF TIME  MODULE\n\
         main      50.0 %  100.0 %    1.00 µs\n\
         f         50.0 %   50.0 %    1.00 µs\n\n\
         100.0 %   app\n          main\n 50.0 %     f\n            f\n            f\n\n \
         stacks: 100.0 % whole (2)\n lost: no sample\n"
    );
}

#[test]
fn nothing_sampled_is_said() {
    let text = stacks::text(StackFormat::Text, &stacks::empty(), &StackOptions::default());
    assert_eq!(text, "\n No samples.\n\n lost: no sample\n");
}

proptest! {
    #[test]
    fn nothing_hostile_reaches_the_terminal(p in stacks::any_profile(), width in 0_usize..130) {
        let options = StackOptions { width, threshold: 0.0, ..StackOptions::default() };
        let text = stacks::text(StackFormat::Text, &p, &options);
        prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", text);
        let hides = |c| ('\u{200b}'..='\u{200f}').contains(&c) || c == '\u{202e}';
        prop_assert!(!text.contains(hides), "{:?}", text);
        if width >= 80 {
            prop_assert!(widest(&text) <= width, "{}", text);
        }
    }
}
