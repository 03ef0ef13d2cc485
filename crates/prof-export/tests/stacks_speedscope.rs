//! Stacks in the `speedscope` format, beside speedscope's own schema.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/stacks.rs"]
mod stacks;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOptions;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Thread;
use prof_model::stacks::ThreadId;
use proptest::prelude::*;
use serde_json::Value;

/// The file, after the schema took it.
fn read(p: &StackProfile) -> Value {
    let text = stacks::text(StackFormat::Speedscope, p, &StackOptions::default());
    let value: Value = serde_json::from_str(&text).unwrap();
    // From npm's speedscope 1.25.0: see the README beside it.
    let schema = include_str!("fixtures/speedscope/file-format-schema.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?} in {text}");
    value
}

/// What the schema cannot say: every index points at a frame, every sample has a weight.
fn check(file: &Value) {
    let frames = file["shared"]["frames"].as_array().unwrap().len() as u64;
    for p in file["profiles"].as_array().unwrap() {
        let samples = p["samples"].as_array().unwrap();
        let weights = p["weights"].as_array().unwrap();
        assert_eq!(samples.len(), weights.len());
        for s in samples {
            let stack = s.as_array().unwrap();
            assert!(!stack.is_empty() && stack.iter().all(|f| f.as_u64().unwrap() < frames));
        }
        let sum: u64 = weights.iter().map(|w| w.as_u64().unwrap()).sum();
        assert_eq!(p["endValue"].as_u64().unwrap() - p["startValue"].as_u64().unwrap(), sum);
    }
}

/// Sum of the weights of the profiles whose names end so.
fn total(file: &Value, suffix: &str) -> u64 {
    let profiles = file["profiles"].as_array().unwrap().iter();
    let of = profiles.filter(|p| p["name"].as_str().unwrap().ends_with(suffix));
    of.map(|p| p["endValue"].as_u64().unwrap()).sum()
}

#[test]
fn threads_and_events_are_profiles_of_their_own() {
    let p = stacks::full();
    let file = read(&p);
    check(&file);
    let profiles = file["profiles"].as_array().unwrap();
    let names: Vec<_> = profiles
        .iter()
        .map(|p| {
            (
                p["name"].as_str().unwrap(),
                p["unit"].as_str().unwrap(),
                p["endValue"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            ("app 100 – cpu-clock", "nanoseconds", 70_000_000),
            ("ev\\x0ail;\\x1b 200 – cpu-clock", "nanoseconds", 20_000_000),
            ("worker 7 100/101 – cpu-clock", "nanoseconds", 10_000_000),
            ("app 100 – cycles", "none", 1_000_000),
            ("ev\\x0ail;\\x1b 200 – cycles", "none", 700_000),
        ]
    );
    let own = |names: &[&str], ms: u64| {
        (names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), ms * stacks::MS)
    };
    let want = BTreeMap::from([
        own(&["main", "work", "inner"], 40),
        own(&["main", "work", "work", "inner"], 20),
        own(&["main", "work", "vfs_read"], 10),
    ]);
    assert_eq!(weights(&file, &profiles[0]), want);
    assert_eq!(file["name"], "make -j2");
    let frame = |at: &Value| file["shared"]["frames"][at.as_u64().unwrap() as usize].clone();
    let stack = |profile: usize, sample: usize| -> Vec<(String, Value)> {
        let stack = profiles[profile]["samples"][sample].as_array().unwrap();
        stack
            .iter()
            .map(frame)
            .map(|f| (f["name"].as_str().unwrap().to_owned(), f["file"].clone()))
            .collect()
    };
    let source = |name: &str| (name.to_owned(), Value::from("/src/app.c"));
    assert_eq!(stack(0, 0), [source("main"), source("work"), source("inner")]);
    assert_eq!(stack(3, 0).last().unwrap(), &("vfs_read".to_owned(), Value::Null));
    assert_eq!(stack(2, 0)[0].0, "[broken: no-table]");
    assert_eq!(stack(2, 0)[1].1, "/usr/lib/libfoo.so");
}

#[test]
fn very_many_threads_are_shown_by_process() {
    let mut p = stacks::full();
    for tid in 1000..2000 {
        p.threads.push(Thread { tid, ..p.threads[0].clone() });
        let thread = ThreadId(p.threads.len() as u32 - 1);
        p.samples.push(prof_model::stacks::Sample { thread, ..p.samples[0].clone() });
    }
    let file = read(&p);
    check(&file);
    assert_eq!(file["profiles"].as_array().unwrap().len(), 4);
    assert_eq!(file["profiles"][0]["name"], "app 100 – cpu-clock");
    assert_eq!(total(&file, "– cpu-clock"), stacks::total(&p, 0));
}

#[test]
fn an_empty_profile_is_a_file_too() {
    let file = read(&stacks::empty());
    assert_eq!(file["profiles"], Value::Array(Vec::new()));
    read(&StackProfile::default());
}

/// What speedscope itself understood of a file, by its own export; `None` if it is not
/// there.
fn read_by_speedscope(bytes: &[u8], name: &str) -> Option<Value> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let modules = here.join("../../target/tools/node_modules");
    let how = "npm install --prefix target/tools speedscope@1.25.0 jsdom@26.1.0";
    let node = stacks::tool("node", &stacks::in_path("node"), "apt-get install nodejs npm")?;
    stacks::tool("speedscope", &[modules.join("speedscope/package.json")], how)?;
    stacks::tool("jsdom", &[modules.join("jsdom/package.json")], how)?;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, bytes).unwrap();
    let script = here.join("tests/fixtures/speedscope/import.cjs");
    let out = Command::new(node).arg(script).arg(modules).arg(file).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(serde_json::from_slice(&out.stdout).unwrap())
}

/// Weight of each stack of a profile: of samples, as we write them, or of calls and
/// returns, as speedscope's export does.
fn weights(file: &Value, profile: &Value) -> BTreeMap<Vec<String>, u64> {
    let name = |at: &Value| {
        let frame = &file["shared"]["frames"][at.as_u64().unwrap() as usize];
        frame["name"].as_str().unwrap().to_owned()
    };
    let mut sums = BTreeMap::new();
    if let Some(samples) = profile["samples"].as_array() {
        for (stack, weight) in samples.iter().zip(profile["weights"].as_array().unwrap()) {
            let names = stack.as_array().unwrap().iter().map(name).collect();
            *sums.entry(names).or_insert(0) += weight.as_u64().unwrap();
        }
        return sums;
    }
    let (mut stack, mut since) = (Vec::new(), 0);
    for event in profile["events"].as_array().unwrap() {
        let at = event["at"].as_u64().unwrap();
        if at > since {
            *sums.entry(stack.clone()).or_insert(0) += at - since;
            since = at;
        }
        match event["type"].as_str().unwrap() {
            "O" => stack.push(name(&event["frame"])),
            _ => assert_eq!(stack.pop(), Some(name(&event["frame"]))),
        }
    }
    assert!(stack.is_empty());
    sums
}

#[test]
fn speedscope_itself_reads_what_was_written() {
    let written = read(&stacks::full());
    let Some(understood) = read_by_speedscope(written.to_string().as_bytes(), "full.json") else {
        return;
    };
    assert_eq!(understood["name"], "make -j2");
    let profiles = |of: &Value| -> Vec<(String, String, BTreeMap<Vec<String>, u64>)> {
        let name = |p: &Value, key: &str| p[key].as_str().unwrap().to_owned();
        let all = of["profiles"].as_array().unwrap().iter();
        all.map(|p| (name(p, "name"), name(p, "unit"), weights(of, p))).collect()
    };
    assert_eq!(profiles(&understood), profiles(&written));
}

#[test]
fn speedscope_reads_folded_stacks_and_pprof_too() {
    let p = stacks::full();
    let folded = stacks::render(StackFormat::Folded, &p, &StackOptions::default());
    let Some(understood) = read_by_speedscope(&folded, "full.folded") else { return };
    let lines = String::from_utf8(folded).unwrap();
    let want: BTreeMap<Vec<String>, u64> = lines
        .lines()
        .map(|l| l.rsplit_once(' ').unwrap())
        .map(|(stack, w)| (stack.split(';').map(str::to_owned).collect(), w.parse().unwrap()))
        .collect();
    assert_eq!(weights(&understood, &understood["profiles"][0]), want);
    // It shows one sample type of several: here there is one event.
    let options = StackOptions { event: Some(0), ..StackOptions::default() };
    let pprof = stacks::render(StackFormat::Pprof, &p, &options);
    let understood = read_by_speedscope(&pprof, "full.pb.gz").unwrap();
    let sums = weights(&understood, &understood["profiles"][0]);
    assert_eq!(understood["profiles"][0]["unit"], "nanoseconds");
    assert_eq!(sums.values().sum::<u64>(), stacks::total(&p, 0));
    // Of a place it takes the outermost function only.
    assert_eq!(sums[&vec!["main".to_owned(), "work".to_owned()]], 40_000_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_profile_is_a_valid_file_with_all_its_weights(mut p in stacks::any_profile()) {
        p.events[0].name = "first".into();
        p.events[1].name = "second".into();
        let file = read(&p);
        check(&file);
        prop_assert_eq!(total(&file, "– first"), stacks::total(&p, 0));
        prop_assert_eq!(total(&file, "– second"), stacks::total(&p, 1));
    }
}
