//! The `tracee` format against an event that Tracee's own documents show.

// A test that cannot go on is to fail on the spot.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use prof_export::Format;
use prof_export::Options;
use prof_model::record::Record;
use serde_json::Value as Json;
use serde_json::json;

/// From Tracee v0.20.0, docs/docs/events/builtin/network/index.md; `args` cut.
const SAMPLE: &str = r#"{"timestamp":1696255674450496178,"threadStartTime":1696249856019516599,"processorId":6,"processId":1014858,"cgroupId":5650,"threadId":1014989,"parentProcessId":1729,"hostProcessId":1014858,"hostThreadId":1014989,"hostParentProcessId":1729,"userId":1000,"mountNamespace":4026531841,"pidNamespace":4026531836,"processName":"vlc","executable":{"path":""},"hostName":"rugged","containerId":"","container":{},"kubernetes":{},"eventId":"2002","eventName":"net_packet_tcp","matchedPolicies":[""],"argsNum":5,"returnValue":0,"syscall":"recvmsg","stackAddresses":[0],"contextFlags":{"containerStarted":false,"isCompat":false},"threadEntityId":3489249124,"processEntityId":3999221038,"parentEntityId":3069802613,"args":[{"name":"src","type":"const char*","value":"1.2.3.4"}]}"#;

const OFFSET: u64 = common::T0 - common::BOOT;

fn events(records: &[Record]) -> Vec<Json> {
    let options = Options { boot_offset_ns: OFFSET, ..Options::default() };
    let text = common::render(Format::Tracee, &options, records);
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn keys(v: &Json) -> Vec<&str> {
    v.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn keys_stand_in_tracee_s_order() {
    let sample: Json = serde_json::from_str(SAMPLE).unwrap();
    let all = events(&common::odd_stream());
    assert_eq!(all.len(), 8, "only prof events are events");
    for e in &all {
        assert_eq!(keys(e), keys(&sample));
        assert_eq!(keys(&e["contextFlags"]), keys(&sample["contextFlags"]));
        assert_eq!(keys(&e["executable"]), keys(&sample["executable"]));
        for arg in e["args"].as_array().unwrap() {
            assert_eq!(keys(arg), keys(&sample["args"][0]));
        }
        // Of the same JSON type, save that a list may also be null in Go.
        for (key, value) in e.as_object().unwrap() {
            let same = std::mem::discriminant(value) == std::mem::discriminant(&sample[key]);
            assert!(same || key == "stackAddresses" && value.is_null(), "{key}");
        }
    }
}

#[test]
fn an_event_says_what_the_record_says() {
    let p = common::profile(1014858, 1729, "vlc", 100, 20, 7_000);
    let e = &events(&[
        Record::Header(Box::new(common::header())),
        Record::Prof(Box::new(common::enable(&p))),
    ])[0];
    let start = common::T0 + 100 * common::MS;
    let want = json!({
        "timestamp": start, "threadStartTime": start, "processorId": 6, "processId": 1014858,
        "cgroupId": 5650, "hostParentProcessId": 1729, "userId": 1000, "processName": "vlc",
        "executable": {"path": "/usr/bin/vlc"}, "hostName": "rugged", "containerId": "",
        "container": {}, "kubernetes": {}, "eventId": "459", "eventName": "prof",
        "matchedPolicies": ["run"], "argsNum": 2, "returnValue": 0, "syscall": "",
        "stackAddresses": null, "parentEntityId": 0,
    });
    for (key, value) in want.as_object().unwrap() {
        assert_eq!(&e[key], value, "{key}");
    }
    assert_eq!(e["args"][0], json!({"name": "FLAGS", "type": "unsigned long", "value": 0x23}));
    assert_eq!(
        (&e["args"][1]["name"], &e["args"][1]["type"]),
        (&json!("EVENTS"), &json!("unsigned int"))
    );
    assert_eq!(e["args"][1]["value"][1], 0x100_0001);
    assert_ne!(e["processEntityId"], 0);
    assert_eq!(e["processEntityId"], e["threadEntityId"]);
}

#[test]
fn entities_join_parent_and_child() {
    let parent = common::profile(10, 1, "sh", 0, 500, 7_000);
    let child = common::profile(11, 10, "ls", 200, 20, 7_000);
    let late = common::profile(12, 10, "ls", 900, 20, 7_000);
    let mut last_thread = common::disable(&parent);
    last_thread.process.ident.tid = 99;
    let all = events(&[
        Record::Prof(Box::new(common::enable(&parent))),
        Record::Prof(Box::new(common::enable(&child))),
        Record::Prof(Box::new(last_thread)),
        Record::Prof(Box::new(common::enable(&late))),
    ]);
    assert_eq!(all[1]["parentEntityId"], all[0]["processEntityId"]);
    // A thread whose start is not known has no id, the process keeps its own.
    assert_eq!(all[2]["processEntityId"], all[0]["processEntityId"]);
    assert_eq!((&all[2]["threadEntityId"], &all[2]["threadStartTime"]), (&json!(0), &json!(0)));
    assert_eq!(all[3]["parentEntityId"], 0, "a dead parent is no parent");
}

#[test]
fn an_event_that_no_rule_matched_has_no_policies() {
    let mut p = common::profile(10, 1, "sh", 0, 500, 7_000);
    p.rules = 0;
    let e = &events(&[Record::Prof(Box::new(common::enable(&p)))])[0];
    assert!(e.get("matchedPolicies").is_none());
}
