//! The `json` format against its published schema.

// A test that cannot go on is to fail on the spot.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use prof_export::Format;
use prof_export::Options;
use prof_model::counters::Item;
use prof_model::figures::Event;
use prof_model::record::Header;
use prof_model::record::Record;
use serde_json::Value as Json;
use serde_json::json;

const SCHEMA: &str = include_str!("../../../docs/schema/prof-records.schema.json");

fn validator() -> jsonschema::Validator {
    let schema: Json = serde_json::from_str(SCHEMA).unwrap();
    assert!(jsonschema::meta::is_valid(&schema));
    jsonschema::validator_for(&schema).unwrap()
}

fn lines() -> Vec<Json> {
    let text = common::render(Format::Json, &Options::default(), &common::odd_stream());
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn find(record: &str, pid: u32) -> Json {
    lines().into_iter().find(|l| l["record"] == record && l["process"]["pid"] == pid).unwrap()
}

#[test]
fn every_record_is_as_the_schema_says() {
    let validator = validator();
    let mut kinds = std::collections::BTreeSet::new();
    for line in lines() {
        let errors: Vec<_> = validator.iter_errors(&line).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{line:#}\n{errors:#?}");
        kinds.insert(line["record"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        ["end", "header", "interval", "loss", "prof", "profile", "repeat"]
    );
}

#[test]
fn broken_records_are_refused() {
    type Breakage = (&'static str, u32, fn(&mut Json));
    let broken: [Breakage; 17] = [
        ("prof", 1, |r| r["record"] = json!("profil")),
        ("prof", 1, |r| r["time"] = json!("2026-01-02T03:04:05Z")),
        ("prof", 1, |r| r["process"]["pid"] = json!(-1)),
        ("prof", 1, |r| r["process"]["comm"] = json!("a\\b")),
        ("prof", 1, |r| r["EVENTS"] = json!(["task-clock"])),
        ("prof", 1, |r| drop(r.as_object_mut().unwrap().remove("FLAGS"))),
        ("prof", 1, |r| drop(r["process"].as_object_mut().unwrap().remove("exe"))),
        ("prof", 1, |r| drop(r["process"].as_object_mut().unwrap().remove("args_cut"))),
        ("profile", 1, |r| r["figures"]["task-clock"] = json!(7)),
        ("profile", 1, |r| r["figures"]["task-clock"] = json!({"unit": "ns"})),
        ("profile", 1, |r| r["figures"]["task-clock"]["absent"] = json!("both")),
        ("profile", 1, |r| r["figures"]["task-clock"]["value"] = json!("7")),
        ("profile", 1, |r| r["exit"] = json!({"code": 1, "signal": 9, "core": false})),
        ("profile", 1, |r| r["exit"] = json!({"core": false})),
        ("profile", 3, |r| r["regions"][0]["name"] = json!("a\\b")),
        ("profile", 3, |r| drop(r["regions"][0].as_object_mut().unwrap().remove("ended"))),
        ("profile", 1, |r| drop(r["window"].as_object_mut().unwrap().remove("wall_ns"))),
    ];
    let validator = validator();
    for (i, (record, pid, breakage)) in broken.into_iter().enumerate() {
        let mut line = find(record, pid);
        assert!(validator.is_valid(&line));
        breakage(&mut line);
        assert!(!validator.is_valid(&line), "{i}: {line:#}");
    }
}

#[test]
fn keys_that_come_later_are_accepted() {
    let mut line = find("profile", 1);
    line["new"] = json!(1);
    line["process"]["new"] = json!(1);
    line["figures"]["new-event"] = json!({"value": 1, "unit": "furlongs", "new": true});
    assert!(validator().is_valid(&line));
}

#[test]
fn every_key_has_a_description() {
    fn check(path: &str, schema: &Json, defs: &Json) {
        if let Some(properties) = schema["properties"].as_object() {
            for (key, value) in properties {
                let target = value["$ref"].as_str().and_then(|r| r.rsplit('/').next());
                let described = value["description"].is_string()
                    || target.is_some_and(|t| defs[t]["description"].is_string());
                assert!(described, "{path}.{key} has no description");
                check(&format!("{path}.{key}"), value, defs);
                check(&format!("{path}.{key}[]"), &value["items"], defs);
            }
        }
    }
    let schema: Json = serde_json::from_str(SCHEMA).unwrap();
    for (name, def) in schema["$defs"].as_object().unwrap() {
        check(name, def, &schema["$defs"]);
    }
}

#[test]
fn a_prof_record_has_the_fixed_keys() {
    let r = find("prof", 1);
    let keys: Vec<_> = r.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        ["record", "time", "process", "flags", "events", "FLAGS", "EVENTS", "rules", "hook", "cpu"]
    );
    let keys: Vec<_> = r["process"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "pid",
            "tid",
            "ppid",
            "start_ns",
            "exec",
            "comm",
            "exe",
            "uid",
            "gid",
            "cgroup_id",
            "mntns",
            "pidns",
            "container_id",
            "args",
            "args_cut"
        ]
    );
    assert_eq!(r["time"], "2026-01-02T03:04:05.000000000Z");
    assert_eq!(r["flags"], json!(["enable", "exec", "inherit"]));
    assert_eq!(r["FLAGS"], 0x23);
    assert_eq!(r["rules"], json!(["run"]));
    assert_eq!(r["events"].as_array().unwrap().len(), r["EVENTS"].as_array().unwrap().len());
    assert_eq!((&r["events"][1], &r["EVENTS"][1]), (&json!("task-clock"), &json!(0x100_0001)));
}

#[test]
fn what_was_not_measured_is_absent_and_what_was_not_asked_for_is_left_out() {
    let r = find("profile", 1);
    assert_eq!(r["figures"]["task-clock"], json!({"value": 300_000, "unit": "ns"}));
    assert_eq!(r["figures"]["user-time"], json!({"absent": common::NO_TICK, "unit": "ns"}));
    assert_eq!(r["exit"], json!({"code": 0, "core": false}));
    assert!(r.get("threads").is_none() && r.get("notes").is_none());
    let r = find("profile", 2);
    let keys: Vec<_> = r["figures"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["task-clock", "storage-read-bytes"]);
    assert_eq!(r["exit"], json!({"signal": 6, "core": true}));
}

#[test]
fn a_window_has_both_ends_in_real_time() {
    assert_eq!(
        find("profile", 2)["window"],
        json!({
            "start": "task_rename",
            "end": "exit",
            "from": "2026-01-02T03:04:05.001000000Z",
            "to": "2026-01-02T03:04:05.003000000Z",
            "wall_ns": 2_000_000,
        })
    );
}

#[test]
fn threads_have_what_a_thread_can_have() {
    let r = find("profile", 3);
    assert_eq!(r["exit"], Json::Null);
    assert_eq!(r["process"]["exe"], Json::Null);
    assert!(r["process"].get("args").is_none());
    let t = &r["threads"][0];
    assert_eq!(t["comm"], "worker\\xff");
    assert_eq!(t["figures"]["task-clock"]["value"], 5);
    assert_eq!(t["figures"]["page-faults"]["value"], 1);
    assert_eq!(t["figures"]["storage-read-bytes"]["absent"], common::NO_IO);
    for key in ["wall-time", "peak-rss", "threads"] {
        assert!(t["figures"].get(key).is_none(), "{key}");
    }
}

#[test]
fn regions_have_sums_of_those_that_ended() {
    let r = find("profile", 3);
    let regions = r["regions"].as_array().unwrap();
    assert_eq!(regions.len(), 2);
    let keys: Vec<_> = regions[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["name", "begun", "ended", "shortest_ns", "longest_ns", "figures"]);
    assert_eq!(regions[0]["name"], "request\\xff\u{1b}[2J\"");
    assert_eq!((&regions[0]["begun"], &regions[0]["ended"]), (&json!(3), &json!(2)));
    assert_eq!(regions[0]["figures"]["task-clock"], json!({"value": 4_000_000, "unit": "ns"}));
    for key in ["peak-rss", "threads"] {
        assert!(regions[0]["figures"].get(key).is_none(), "{key}");
    }
    assert!(regions[1].get("shortest_ns").is_none());
    assert!(regions[1]["figures"]["task-clock"]["absent"].is_string());
    assert!(find("profile", 1).get("regions").is_none());
}

#[test]
fn bytes_of_the_target_can_be_had_back() {
    let r = find("profile", 666);
    assert_eq!(r["process"]["comm"], "\\xff\u{1b}[2J\n\\x5cx");
    assert_eq!(r["process"]["args"], json!(["sh\u{7}", "\\xc3", "日本語"]));
    // The header names one rule only.
    assert_eq!(r["rules"], json!(["run", "#1"]));
}

#[test]
fn the_end_reconciles() {
    let ends: Vec<_> = lines().into_iter().filter(|l| l["record"] == "end").collect();
    assert_eq!(ends[0]["enabled"], 7);
    assert_eq!(ends[0]["lost"], json!({"ring_full_disable": 3, "hook_skipped": 1}));
    assert_eq!((&ends[0]["lost_profiles"], &ends[0]["unaccounted"]), (&json!(3), &json!(0)));
    assert_eq!(ends[0]["execs"], json!({"seen": 4, "kernel": 4}));
    assert_eq!(ends[1]["unaccounted"], -7);
    assert_eq!(ends[1]["execs"]["kernel"], Json::Null);
    assert!(ends[1]["totals"]["task-clock"].get("value").is_none());
}

#[test]
fn runs_are_numbered_and_told_together_at_the_end() {
    let text = common::render(Format::Json, &Options::default(), &common::repeated(&[10, 20, 30]));
    let lines: Vec<Json> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|l| l["record"] == kind).collect::<Vec<_>>();
    let numbers: Vec<_> = of("header").iter().map(|h| h["repetition"].clone()).collect();
    assert_eq!(numbers, [json!(1), json!(2), json!(3)]);
    assert!(of("end").iter().zip(numbers).all(|(e, n)| e["repetition"] == n));
    let r = lines.last().unwrap();
    assert_eq!(
        (&r["record"], &r["repetitions"], &r["failed"]),
        (&json!("repeat"), &json!(3), &json!(1))
    );
    assert_eq!(r["elapsed"]["mean"], 20e6);
    assert_eq!(r["elapsed"]["stddev"], 10e6);
    assert_eq!(r["elapsed_ns"], json!([10_000_000, 20_000_000, 30_000_000]));
    assert_eq!(r["figures"]["read-bytes"]["over"], 2);
    assert_eq!(
        r["figures"]["storage-read-bytes"],
        json!({"absent": common::NO_IO, "unit": "bytes"})
    );
}

#[test]
fn figures_so_far_tell_how_old_their_counts_may_be() {
    let mut p = common::profile(9, 1, "spin", 0, 10, 900);
    let line = |p: &prof_model::record::Profile| -> Json {
        let records = [prof_model::record::Record::Profile(Box::new(p.clone()))];
        let text = common::render(Format::Json, &Options::default(), &records);
        serde_json::from_str(&text).unwrap()
    };
    assert!(line(&p).get("age_ns").is_none());
    p.figures.counts_age_ns = 7_000;
    assert_eq!(line(&p)["age_ns"], 7_000);
    assert!(validator().is_valid(&line(&p)));
}

/// `cpus-utilized`, and the same by a figure that threads have, too.
fn with_metrics() -> prof_model::counters::Table {
    let metric = |name: &str, below| prof_model::counters::Metric {
        name: name.into(),
        unit: "CPUs",
        about: "",
        factor: 1.0,
        above: Item::Figure(Event::TaskClock),
        below: Item::Figure(below),
    };
    let metrics =
        vec![metric("cpus-utilized", Event::WallTime), metric("clock-a-fault", Event::PageFaults)];
    prof_model::counters::Table { metrics, ..Default::default() }
}

#[test]
fn totals_and_intervals_are_by_the_time_that_went_by() {
    let two = [1, 2].map(|pid| common::profile(pid, 1, "burn", 0, 1_000, 1_000_000));
    let mut end = common::end(&two, Vec::new());
    end.duration_ns = 1_000 * common::MS;
    let mut interval = common::interval(&end.totals);
    interval.length_ns = 500 * common::MS;
    let records = [
        Record::Header(Box::new(Header { counters: with_metrics(), ..common::header() })),
        Record::Profile(Box::new(two[0].clone())),
        Record::Interval(Box::new(interval)),
        Record::End(Box::new(end)),
    ];
    let text = common::render(Format::Json, &Options::default(), &records);
    let lines: Vec<Json> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let cpus = |i: usize| lines[i]["metrics"]["cpus-utilized"]["value"].as_f64();
    assert_eq!([cpus(1), cpus(2), cpus(3)], [Some(1.0), Some(4.0), Some(2.0)]);
    let text = common::render(Format::Summary, &Options::default(), &records);
    // That of the interval comes first.
    let line = text.lines().rfind(|l| l.contains("cpus-utilized")).unwrap();
    assert!(line.trim_start().starts_with("2.000 "), "{text}");
}

#[test]
fn threads_have_metrics_where_they_have_the_figures() {
    let mut records = common::odd_stream();
    for r in &mut records {
        if let Record::Header(h) = r {
            h.counters = with_metrics();
        }
    }
    let text = common::render(Format::Json, &Options::default(), &records);
    let lines: Vec<Json> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of_thread = lines.iter().find_map(|l| l["threads"].get(0)).unwrap();
    // A thread has no wall time of its own.
    assert_eq!(of_thread["metrics"], json!({"clock-a-fault": {"value": 5.0, "unit": "CPUs"}}));
    assert!(lines.iter().all(|l| validator().is_valid(l)));
}
