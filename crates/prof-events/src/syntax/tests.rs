//! Tests of the language.

use proptest::prelude::*;

use super::Body;
use super::Change;
use super::EventList;
use super::EventSpec;
use super::ItemKind;
use super::parse;
use crate::error::ErrorKind;

fn list(text: &str) -> EventList {
    parse("", text).unwrap_or_else(|e| panic!("{e}"))
}

/// The only event of a list.
fn only(text: &str) -> EventSpec {
    match list(text).items.remove(0).kind {
        ItemKind::Event(e) => e,
        ItemKind::Group(g) => panic!("{g:?}"),
    }
}

/// What is wrong, and the part of the text at fault.
fn fault(text: &str) -> (ErrorKind, String, &str) {
    let e = parse("", text).expect_err(text);
    (e.kind, e.message, &text[e.span.at..e.span.at + e.span.len])
}

#[test]
fn what_an_event_is_named_by() {
    assert_eq!(only("r01C2").body, Body::Raw(0x1c2));
    assert_eq!(only("1:0x2").body, Body::Numeric { type_: 1, config: 2 });
    assert_eq!(only("read").body, Body::Name("read".into()));
    assert_eq!(only("cycles:u").body, Body::Name("cycles".into()));
    let wakeup = Body::Tracepoint { system: "sched".into(), name: "sched_wak*".into() };
    assert_eq!(only("sched:sched_wak*:k").body, wakeup);
    let address = 0x1000;
    let breakpoint = Body::Breakpoint { address, len: Some(8), access: Some(3) };
    assert_eq!(only("mem:0x1000/8:rw").body, breakpoint);
    assert_eq!(only("mem:0x1000:u").modifiers.unwrap().as_str(), "u");
    assert_eq!(only("1:2u").modifiers.unwrap().as_str(), "u");
    assert_eq!(only("cpu/event=1/u"), EventSpec { ..only("cpu/event=1/u") });
    assert_eq!(only("msr//").terms, Some(Vec::new()));
    assert_eq!(only("tsc:u").body, Body::Name("tsc".into()));
}

#[test]
fn spans_are_places_in_the_text() {
    let text = " cs , {a/b=0x1,name='x,}/'/u , c:d:k}:u,-e*";
    let list = list(text);
    let at = |s: crate::Span| &text[s.at..s.at + s.len];
    let items: Vec<_> = list.items.iter().map(|i| at(i.span)).collect();
    assert_eq!(items, ["cs", "{a/b=0x1,name='x,}/'/u , c:d:k}:u", "-e*"]);
    let ItemKind::Group(group) = &list.items[1].kind else { panic!() };
    let events: Vec<_> = group.events.iter().map(|e| at(e.span)).collect();
    assert_eq!(events, ["a/b=0x1,name='x,}/'/u", "c:d:k"]);
    let terms: Vec<_> = group.events[0]
        .terms
        .iter()
        .flatten()
        .map(|t| (at(t.name_span), at(t.value_span)))
        .collect();
    assert_eq!(terms, [("b", "0x1"), ("name", "'x,}/'")]);
    assert_eq!(list.items[2].change, Change::Remove);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    use ErrorKind::Modifier;
    use ErrorKind::Syntax;
    use ErrorKind::Value;
    for (text, kind, part, place) in [
        ("", Syntax, "missing", ""),
        ("cs,", Syntax, "missing", ""),
        ("cs,,cs", Syntax, "missing", ","),
        ("{cs", Syntax, "never closed", "{"),
        ("{cs,", Syntax, "never closed", "{"),
        ("cs}", Syntax, "no { was opened", "}"),
        ("{}", Syntax, "needs an event", "{}"),
        ("{ }", Syntax, "needs an event", "{ }"),
        ("{cs,{cs}}", Syntax, "in a group", "{"),
        ("{cs}u", Syntax, "comma", "u"),
        ("{cs}:", Syntax, "modifiers are missing", ""),
        ("{cs}:ux", Modifier, "'x' is no modifier", "x"),
        ("cycles:x", Modifier, "'x' is no modifier", "x"),
        ("cycles:uku", Modifier, "twice", "u"),
        ("cycles:pppp", Modifier, "ppp", "p"),
        ("cycles:u:k", Syntax, "one colon", ":"),
        ("cpu/event=1/x", Modifier, "'x' is no modifier", "x"),
        ("cycles/u", Syntax, "never closed", "/"),
        ("cpu/event=1,/", Syntax, "a term is missing", "/"),
        ("cpu/event=/", Syntax, "needs a value", "/"),
        ("cpu/name='x/", Syntax, "never closed", "'x/"),
        ("cpu/event=0x10000000000000000/", Value, "64 bits", "0x10000000000000000"),
        ("r10000000000000000", Value, "64 bits", "r10000000000000000"),
        ("1", Syntax, "type:config", "1"),
        ("4294967296:1", Value, "32 bits", "4294967296"),
        ("1:", Syntax, "a number is missing", ""),
        ("mem:0x1:rr", Modifier, "twice", "rr"),
        ("a b", Syntax, "comma", "b"),
        ("event=1", Syntax, "between slashes", "="),
        (":u", Syntax, "starts like this", ":"),
        ("peak-rss:xu", Modifier, "'x' is no modifier", "x"),
    ] {
        let (k, message, p) = fault(text);
        assert_eq!((k, p), (kind, place), "{text}: {message}");
        assert!(message.contains(part), "{text}: {message}");
    }
    assert!(parse("-e", &"a,".repeat(super::MAX_TEXT)).is_err());
}

#[test]
fn colons_behind_names_of_ours_are_for_modifiers() {
    assert!(matches!(only("cycles:").body, Body::Name(_)));
    assert!(matches!(only("block:block_rq_issue").body, Body::Tracepoint { .. }));
    assert_eq!(only("cycles:").modifiers, None);
}

/// The same with every span empty.
fn without_places(mut list: EventList) -> EventList {
    fn event(e: &mut EventSpec) {
        (e.span, e.body_span) = Default::default();
        for t in e.terms.iter_mut().flatten() {
            (t.name_span, t.value_span) = Default::default();
        }
    }
    for item in &mut list.items {
        item.span = Default::default();
        match &mut item.kind {
            ItemKind::Event(e) => event(e),
            ItemKind::Group(g) => {
                g.span = Default::default();
                g.events.iter_mut().for_each(event);
            }
        }
    }
    list
}

/// Text made of the pieces of the grammar, so that most of it gets far.
fn near_grammar() -> impl Strategy<Value = String> {
    let pieces = vec![
        "cycles",
        "cs",
        "cpu",
        "sched",
        "sched_wakeup",
        "r1c2",
        "0x1",
        "7",
        "mem:0x10",
        "mem",
        ":u",
        ":",
        ":kp",
        "/",
        "//",
        "/event=0x3c,umask=1/",
        "name='a,b'",
        "event",
        "=",
        ",",
        ",",
        "{",
        "}",
        "+",
        "-",
        "*",
        "?",
        " ",
        "\t",
        "'",
        "\"",
        "u",
        "rw",
        "é",
        "\u{a0}",
        "😀",
        "\0",
        "default",
        "ipc",
        "peak-rss",
        "L1-dcache-loads",
        "r",
        "x",
        "filter=\"a > 'b'\"",
    ];
    let piece = prop_oneof![
        9 => proptest::sample::select(pieces).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(piece, 0..16).prop_map(|p| p.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_text_panics_and_what_is_read_is_shown_so_that_it_is_read_again(
        text in prop_oneof![4 => near_grammar(), 1 => any::<String>()]
    ) {
        match parse("-e", &text) {
            Ok(list) => {
                for item in &list.items {
                    prop_assert!(text.get(item.span.at..item.span.at + item.span.len).is_some());
                }
                let shown = list.to_string();
                let again = parse("-e", &shown);
                let again = again.map_err(|e| TestCaseError::fail(format!("{text:?}: {e}")))?;
                prop_assert_eq!(without_places(again), without_places(list));
            }
            Err(e) => {
                prop_assert!(e.text.get(e.span.at..e.span.at + e.span.len).is_some(), "{:?}", e);
                prop_assert!(!e.to_string().is_empty());
            }
        }
    }
}
