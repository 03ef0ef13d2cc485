//! Stacks in the `text` format, as they are seen.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/stacks.rs"]
mod stacks;

use prof_export::stacks::Root;
use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOptions;
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
