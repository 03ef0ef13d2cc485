//! What an audit tells, in each format.

// A test that cannot go on is to fail on the spot.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use prof_export::Format;
use prof_export::Options;
use prof_model::audit::AuditEvent;
use prof_model::audit::AuditTotal;
use prof_model::audit::AuditTotals;
use prof_model::audit::Changes;
use prof_model::audit::Interface;
use prof_model::audit::Monitor;
use prof_model::audit::PerfAttr;
use prof_model::audit::Target;
use prof_model::audit::What;
use prof_model::record::Flags;
use prof_model::record::Ident;
use prof_model::record::Process;
use prof_model::record::Record;
use serde_json::Value as Json;
use serde_json::json;

const SCHEMA: &str = include_str!("../../../docs/schema/prof-records.schema.json");
const TIME: u64 = 1_767_323_045_000_000_000;

fn process(pid: u32, comm: &[u8]) -> Process {
    let ident =
        Ident { pid, tid: pid, start_ns: 1, comm: comm.to_vec(), uid: 1000, ..Ident::default() };
    Process { ident, exe: Some(b"/usr/bin/x\xff".to_vec()), ..Process::default() }
}

fn monitor(id: u64, name: &str, what: What) -> Monitor {
    let changes = Changes { reset: u32::from(id == 1), ..Changes::default() };
    Monitor { id, what, name: name.into(), cpu: None, leader: None, changes, on_ns: Some(7 * id) }
}

/// Everything that there can be, from hostile processes.
fn stream() -> Vec<Record> {
    let attr = PerfAttr {
        kind: 4,
        config: 1 << 40,
        config1: 5,
        rate: 99,
        bits: PerfAttr::FREQ | PerfAttr::EXCLUDE_HV | PerfAttr::INHERIT,
        sample_type: PerfAttr::SAMPLE_CALLCHAIN | PerfAttr::SAMPLE_STACK_USER,
        sample_stack_user: 8192,
        ..PerfAttr::default()
    };
    let perf = |attr, bpf| What::Perf { attr, bpf };
    let monitors = vec![
        monitor(1, "r10000000000", perf(attr, Some(3))),
        monitor(2, "r10000000000", perf(attr, None)),
        monitor(
            3,
            "bpf:fentry:x",
            What::Bpf { prog: 1, link: 2, name: b"x\x1b".into(), kind: "fentry" },
        ),
        monitor(4, "ptrace", What::Ptrace),
        monitor(5, "tracefs:t\n", What::Tracefs { file: b"t\n".into(), text: b"\xfe".into() }),
    ];
    let (by, of) = (process(10, b"perf\x1b[31m"), process(20, b"ba\\d"));
    let cgroup = Target::Cgroup { id: 9, path: Some(b"/a\nb".to_vec()), cpu: Some(1) };
    let targets =
        [Target::Process(Box::new(of)), Target::Cpu(3), cgroup, Target::Host, Target::Unknown];
    let event = |target: &Target| {
        Record::Audit(Box::new(AuditEvent {
            time_ns: TIME,
            cpu: 1,
            flags: Flags(Flags::FOREIGN | Flags::REQUEST | Flags::SAMPLE),
            by: by.clone(),
            target: target.clone(),
            monitors: monitors.clone(),
            interface: Interface::Close,
            notes: vec!["a note"],
        }))
    };
    let total = |target: &Target| AuditTotal {
        by: by.clone(),
        target: target.clone(),
        on_ns: 1_500_000,
        monitors_ns: 3_000_000,
        switched_on: 2,
        still_on: 1,
        names: vec!["cycles".into()],
    };
    let totals = AuditTotals {
        time_ns: TIME,
        duration_ns: 9,
        totals: targets.iter().map(total).collect(),
        without: 0,
    };
    targets.iter().map(event).chain([Record::AuditTotals(Box::new(totals))]).collect()
}

fn json_lines() -> Vec<Json> {
    let text = common::render(Format::Json, &Options::default(), &stream());
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn validator() -> jsonschema::Validator {
    jsonschema::validator_for(&serde_json::from_str(SCHEMA).unwrap()).unwrap()
}

#[test]
fn json_is_as_the_schema_says() {
    let validator = validator();
    let lines = json_lines();
    for line in &lines {
        let errors: Vec<_> = validator.iter_errors(line).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{line:#}\n{errors:#?}");
    }
    let kinds: Vec<_> = lines.iter().map(|l| l["record"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["prof", "prof", "prof", "prof", "prof", "audit"]);
}

#[test]
fn what_is_broken_is_refused() {
    let validator = validator();
    let good = json_lines();
    type Breakage = (usize, fn(&mut Json));
    let broken: [Breakage; 8] = [
        (0, |r| drop(r.as_object_mut().unwrap().remove("by"))),
        (0, |r| drop(r.as_object_mut().unwrap().remove("target"))),
        (0, |r| r["monitors"] = json!([])),
        (0, |r| r["hook"] = json!("by_magic")),
        (0, |r| r["target"]["kind"] = json!("galaxy")),
        (0, |r| r["monitors"][0]["attr"]["exclude"] = json!(["all"])),
        (0, |r| r["monitors"][0]["id"] = json!("1")),
        (5, |r| drop(r["totals"][0].as_object_mut().unwrap().remove("process"))),
    ];
    for (i, (line, break_it)) in broken.into_iter().enumerate() {
        let mut record = good[line].clone();
        break_it(&mut record);
        assert!(!validator.is_valid(&record), "breakage {i}: {record:#}");
    }
}

#[test]
fn each_name_is_there_once_with_an_id_or_its_place() {
    let first = &json_lines()[0];
    assert_eq!(first["events"].as_array().map(Vec::len), Some(4));
    // The config does not fit; the others have no id. Index 1 has the name of index 0.
    let index = |i: u32| 0x8000_0000 | i;
    assert_eq!(first["EVENTS"], json!([index(0), index(2), index(3), index(4)]));
    let attr = &first["monitors"][0]["attr"];
    assert_eq!(attr["freq"], 99);
    assert_eq!(attr["exclude"], json!(["hv"]));
    assert_eq!((&attr["stack_bytes"], &attr["kernel_callchain"]), (&8192.into(), &true.into()));
    assert_eq!(first["monitors"][0]["changes"], json!({ "reset": 1 }));
}

#[test]
fn the_process_is_who_is_profiled_or_else_who_profiles() {
    let pids: Vec<_> = json_lines()[..5].iter().map(|l| l["process"]["pid"].clone()).collect();
    assert_eq!(pids, [20, 10, 10, 10, 10]);
}

#[test]
fn a_terminal_gets_no_control_characters() {
    for format in [Format::Table, Format::Summary] {
        let text = common::render(format, &Options { width: 160, ..Options::default() }, &stream());
        assert!(!text.contains('\x1b') && !text.contains("a\nb"), "{text}");
    }
    let text = common::render(Format::Table, &Options::default(), &stream());
    // Heads once; a line and a note each; heads of the totals and a line each.
    assert_eq!(text.lines().count(), 1 + 5 * 2 + 1 + 5, "{text}");
}

#[test]
fn nobody_is_a_question_mark() {
    let mut records = stream();
    for r in &mut records {
        match r {
            Record::Audit(e) => e.by = Process::default(),
            Record::AuditTotals(t) => t.totals.iter_mut().for_each(|t| t.by = Process::default()),
            _ => {}
        }
    }
    let text =
        common::render(Format::Table, &Options { width: 160, ..Options::default() }, &records);
    let columns = |l: &str| l.split_whitespace().skip(2).take(3).collect::<Vec<_>>().join(" ");
    assert_eq!(columns(text.lines().nth(1).unwrap()), "? ? ?", "{text}");
    assert_eq!(text.lines().filter(|l| l.contains(" 2 ? ")).count(), 5, "{text}");
}

#[test]
fn tracee_has_an_event_for_each() {
    let text = common::render(Format::Tracee, &Options::default(), &stream());
    let events: Vec<Json> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(events.len(), 5);
    for e in &events {
        let args = e["args"].as_array().unwrap();
        assert_eq!(e["argsNum"], args.len());
        let names: Vec<_> = args.iter().map(|a| a["name"].as_str().unwrap()).collect();
        let expected = [
            "FLAGS",
            "EVENTS",
            "by_pid",
            "by_uid",
            "by_comm",
            "by_exe",
            "target",
            "names",
            "interface",
            "on_ns",
        ];
        assert_eq!(names, expected);
        // The longest of them.
        assert_eq!(args[9]["value"], 35);
    }
}
