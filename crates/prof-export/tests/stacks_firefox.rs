//! Stacks in the `firefox` format: what a processed profile has to keep to, and what
//! Firefox Profiler's own command line reads in it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/stacks.rs"]
mod stacks;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOptions;
use prof_model::record::Flags;
use prof_model::stacks::ProcessId;
use prof_model::stacks::Sample;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Switch;
use proptest::prelude::*;
use serde_json::Value;

fn read(p: &StackProfile) -> Value {
    let bytes = stacks::render(StackFormat::Firefox, p, &StackOptions::default());
    serde_json::from_slice(&bytes).unwrap()
}

fn list<'a>(table: &'a Value, column: &str) -> &'a Vec<Value> {
    table[column].as_array().unwrap_or_else(|| panic!("no list {column} in {table}"))
}

/// Columns are as long as their table says, and what points somewhere points at what is
/// there.
fn check(file: &Value) {
    let categories = list(&file["meta"], "categories").len() as u64;
    let libs = list(file, "libs").len() as u64;
    let within = |column: &[Value], len: u64| {
        for v in column {
            let none = v.is_null() || v.as_i64() == Some(-1);
            assert!(none || v.as_u64().is_some_and(|v| v < len), "{v} is not below {len}");
        }
    };
    for t in list(file, "threads") {
        let mut len = std::collections::HashMap::new();
        for (name, columns) in [
            ("frameTable", &["address", "category", "func", "nativeSymbol", "inlineDepth"][..]),
            ("funcTable", &["name", "resource"]),
            ("stackTable", &["frame", "prefix"]),
            ("resourceTable", &["lib", "name"]),
            ("nativeSymbols", &["libIndex", "name", "address"]),
            ("markers", &["name", "startTime", "endTime", "phase", "category", "data"]),
            ("samples", &["stack", "weight", "threadCPUDelta"]),
        ] {
            let table = &t[name];
            let length = table["length"].as_u64().unwrap();
            for column in columns {
                assert_eq!(list(table, column).len() as u64, length, "{name}.{column}");
            }
            len.insert(name, length);
        }
        let strings = list(t, "stringArray").len() as u64;
        within(list(&t["frameTable"], "category"), categories);
        within(list(&t["frameTable"], "func"), len["funcTable"]);
        within(list(&t["frameTable"], "nativeSymbol"), len["nativeSymbols"]);
        within(list(&t["funcTable"], "name"), strings);
        within(list(&t["funcTable"], "resource"), len["resourceTable"]);
        within(list(&t["stackTable"], "frame"), len["frameTable"]);
        within(list(&t["resourceTable"], "lib"), libs);
        within(list(&t["resourceTable"], "name"), strings);
        within(list(&t["nativeSymbols"], "libIndex"), libs);
        within(list(&t["nativeSymbols"], "name"), strings);
        within(list(&t["markers"], "name"), strings);
        within(list(&t["samples"], "stack"), len["stackTable"]);
        for (at, prefix) in list(&t["stackTable"], "prefix").iter().enumerate() {
            assert!(prefix.is_null() || prefix.as_u64().unwrap() < at as u64);
        }
        // Each as what came since the one before: none is less than nothing.
        let deltas = list(&t["samples"], "timeDeltas");
        assert!(deltas.iter().all(|d| d.as_f64().unwrap() >= 0.0), "{deltas:?}");
        assert_eq!(deltas.len() as u64, len["samples"]);
        let times = list(&t["markers"], "startTime").iter().zip(list(&t["markers"], "endTime"));
        for ((start, end), phase) in times.zip(list(&t["markers"], "phase")) {
            // What is no more than a moment has no end.
            assert!(*phase == 0 || start.as_f64().unwrap() <= end.as_f64().unwrap());
        }
    }
}

/// Threads of this name.
fn thread<'a>(file: &'a Value, name: &str) -> &'a Value {
    list(file, "threads").iter().find(|t| t["name"] == name).unwrap()
}

#[test]
fn processes_threads_times_and_libraries_are_in_it() {
    let file = read(&stacks::full());
    check(&file);
    assert_eq!(file["meta"]["symbolicated"], true);
    assert_eq!(file["meta"]["interval"], 1.0);
    assert_eq!(file["meta"]["startTime"], 1_767_323_045_000.0);
    let app = thread(&file, "app");
    for (key, want) in [
        ("pid", Value::from("100")),
        ("tid", "100".into()),
        ("processName", "app".into()),
        ("isMainThread", true.into()),
        ("processStartupTime", 10.0.into()),
        ("processShutdownTime", 3000.0.into()),
        ("registerTime", 10.0.into()),
        ("unregisterTime", 3000.0.into()),
    ] {
        assert_eq!(app[key], want, "{key}");
    }
    assert_eq!(thread(&file, "ev\\x0ail;\\x1b")["processShutdownTime"], Value::Null);
    let times: Vec<f64> =
        list(&app["samples"], "timeDeltas").iter().map(|d| d.as_f64().unwrap()).collect();
    assert_eq!((times.len(), times[0], times.iter().sum::<f64>()), (70, 100.0, 309.0));
    assert!(list(&app["samples"], "threadCPUDelta").iter().all(|d| *d == 1000));
    // One that stands for two milliseconds counts for two.
    let weights = list(&thread(&file, "worker 7")["samples"], "weight");
    assert_eq!(weights.last().unwrap(), 2);
    let lib = list(&file, "libs").iter().find(|l| l["path"] == "/usr/bin/app").unwrap();
    assert_eq!(lib["breakpadId"], "0403020106050807090A0B0C0D0E0F100");
    assert_eq!(lib["codeId"], "0102030405060708090a0b0c0d0e0f1011121314");
}

#[test]
fn each_process_has_its_window() {
    let file = read(&stacks::full());
    for (name, start, end, text) in [
        ("app", 10.0, 3000.0, "/usr/bin/app, pid 100, exec 1"),
        ("ev\\x0ail;\\x1b", 20.0, 3210.0, "ev\\x0ail;\\x1b, pid 200, exec 2, still running"),
    ] {
        let t = thread(&file, name);
        assert_eq!(t["markers"]["length"], 1);
        assert_eq!(t["markers"]["startTime"][0], start);
        assert_eq!(t["markers"]["endTime"][0], end);
        let data = &t["markers"]["data"][0];
        let text_at = data["text"].as_u64().unwrap() as usize;
        assert_eq!(t["stringArray"][text_at], text);
    }
}

#[test]
fn threads_have_their_own_times() {
    let p = stacks::full();
    let file = read(&p);
    let at = p.threads.iter().position(|t| t.comm == "worker 7").unwrap() as u32;
    let times = p.samples.iter().filter(|s| s.thread.0 == at).map(|s| s.time_ns as f64 / 1e6);
    let worker = thread(&file, "worker 7");
    let (first, last) = (times.clone().reduce(f64::min), times.reduce(f64::max));
    assert_eq!(worker["registerTime"].as_f64(), first);
    assert_eq!(worker["unregisterTime"].as_f64(), last);
    assert_eq!(worker["processShutdownTime"], 3000.0);
}

#[test]
fn prof_events_are_markers_of_the_process() {
    let mut p = stacks::full();
    for (time_ns, flags) in [(10_000_000, Flags::ENABLE | Flags::EXEC), (2_000_000_000, 0)] {
        let flags = flags | Flags::SAMPLE;
        p.switches.push(Switch { process: ProcessId(0), time_ns, flags });
    }
    let file = read(&p);
    check(&file);
    let t = thread(&file, "app");
    let markers = &t["markers"];
    let text = |v: &Value| t["stringArray"][v.as_u64().unwrap() as usize].clone();
    let prof: Vec<_> = (0..markers["length"].as_u64().unwrap() as usize)
        .filter(|i| text(&markers["name"][*i]) == "prof")
        .map(|i| (markers["startTime"][i].clone(), text(&markers["data"][i]["flags"])))
        .collect();
    let want = [(10.0, "enable, exec, sample"), (2000.0, "sample")];
    assert_eq!(prof, want.map(|(at, flags)| (Value::from(at), Value::from(flags))));
}

#[test]
fn time_off_the_cpu_is_markers_with_stacks() {
    let mut p = stacks::full();
    p.events[1] = stacks::event("off-cpu", "ns");
    let file = read(&p);
    check(&file);
    let app = thread(&file, "app");
    assert_eq!(app["samples"]["length"], 70);
    assert_eq!(app["markers"]["length"], 11);
    let ms = (list(&app["markers"], "endTime")[1].as_f64().unwrap()
        - list(&app["markers"], "startTime")[1].as_f64().unwrap()) as f32;
    assert_eq!(ms, 0.1);
    assert!(app["markers"]["data"][1]["cause"]["stack"].is_u64());
}

#[test]
fn markers_of_time_off_the_cpu_say_why_and_who_ended_it() {
    let file = read(&stacks::off_cpu());
    check(&file);
    let worker = thread(&file, "worker 7");
    let text = |value: &Value| worker["stringArray"][value.as_u64().unwrap() as usize].clone();
    let of = |data: &Value| {
        let (state, waker) = (text(&data["state"]), text(&data["waker"]));
        (data["blocked"].as_f64().unwrap(), data["wait"].as_f64().unwrap(), state, waker)
    };
    let data = list(&worker["markers"], "data");
    let off: Vec<_> = data.iter().filter(|d| d["type"] == "OffCpu").map(of).collect();
    assert_eq!(
        off,
        [
            (30.0, 5.0, "sleep".into(), "app 100/100".into()),
            (20.0, 0.0, "sleep".into(), "app 100/100".into()),
            (25.0, 0.0, "sleep".into(), "[interrupt]".into()),
            (4.0, 4.0, "runnable".into(), "".into()),
        ]
    );
}

#[test]
fn a_name_that_ends_so_is_compressed() {
    let options = StackOptions { file: Some("x.json.gz".into()), ..StackOptions::default() };
    let gz = stacks::render(StackFormat::Firefox, &stacks::full(), &options);
    let mut text = String::new();
    flate2::read::GzDecoder::new(&gz[..]).read_to_string(&mut text).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), read(&stacks::full()));
}

#[test]
fn an_empty_profile_has_a_thread_all_the_same() {
    let file = read(&stacks::empty());
    check(&file);
    assert_eq!(list(&file, "threads").len(), 1);
}

/// A session of Firefox Profiler's command line, which ends with this.
struct Session {
    cli: PathBuf,
    folder: tempfile::TempDir,
    daemon: Child,
}

impl Session {
    fn load(p: &StackProfile) -> Option<Self> {
        let own = std::env::var_os("PROF_PROFILER_CLI").unwrap_or_default();
        let mut places = vec![PathBuf::from(own)];
        places.extend(stacks::in_path("profiler-cli"));
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools");
        places.push(tools.join("node_modules/.bin/profiler-cli"));
        let how = "npm install --prefix target/tools @firefox-devtools/profiler-cli@0.10.0, \
                   or PROF_PROFILER_CLI=FILE";
        let cli = stacks::tool("Firefox Profiler's profiler-cli", &places, how)?;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("profile.json");
        let bytes = stacks::render(StackFormat::Firefox, p, &StackOptions::default());
        std::fs::write(&file, bytes).unwrap();
        // `load` would start it, too, but waits for half a second only.
        let daemon = command(&cli, &folder)
            .arg("--daemon")
            .arg(&file)
            .args(["--session", "test"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let session = Self { cli, folder, daemon };
        let deadline = Instant::now() + Duration::from_secs(60);
        let wait = |why: &str| {
            assert!(Instant::now() < deadline, "{why}");
            std::thread::sleep(Duration::from_millis(100));
        };
        // Who asks before it listens makes it a dead one, whose traces are removed.
        let listens = || {
            session.folder.path().join("test.json").is_file()
                && UnixStream::connect(session.folder.path().join("test.sock")).is_ok()
        };
        while !listens() {
            wait("it does not listen");
        }
        while let Err(error) = session.run(&["profile", "info"]) {
            wait(&error);
        }
        Some(session)
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let arguments = [arguments, &["--session", "test"]].concat();
        let out = command(&self.cli, &self.folder).args(arguments).output().unwrap();
        if out.status.success() {
            Ok(String::from_utf8(out.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&out.stderr).into_owned())
        }
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.run(&[arguments, &["--json"]].concat()).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

/// A run of it that keeps its sockets to itself and asks nobody for names.
fn command(cli: &Path, folder: &tempfile::TempDir) -> Command {
    let mut command = Command::new(cli);
    command.env("PROFILER_CLI_SESSION_DIR", folder.path());
    command.env("PROFILER_CLI_NO_SYMBOLICATE", "1");
    command
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[test]
fn firefox_profiler_reads_what_was_sampled() {
    let Some(session) = Session::load(&stacks::full()) else { return };
    let info = session.json(&["profile", "info"]);
    let processes: Vec<_> = list(&info, "processes")
        .iter()
        .map(|p| {
            (
                p["name"].as_str().unwrap(),
                p["pid"].as_str().unwrap(),
                &p["startTime"],
                &p["endTime"],
            )
        })
        .collect();
    assert_eq!(
        processes,
        [
            ("app", "100", &Value::from(10), &Value::from(3000)),
            ("ev\\x0ail;\\x1b", "200", &Value::from(20), &Value::Null),
        ]
    );
    // Which handle is whose.
    let threads: Vec<_> =
        list(&info, "processes").iter().flat_map(|p| list(p, "threads")).collect();
    let samples = |name: &str| {
        let of = threads.iter().find(|t| t["name"] == name).unwrap();
        session.run(&["thread", "select", of["threadHandle"].as_str().unwrap()]).unwrap();
        let tree = session.json(&["thread", "samples-top-down"]);
        tree["regularCallTree"].clone()
    };
    // Names and samples, down the heaviest path.
    let path = |tree: &Value| {
        let mut path = Vec::new();
        let mut at = tree;
        while let Some(child) = at["children"].as_array().and_then(|c| c.first()) {
            path.push((
                child["nameWithLibrary"].as_str().unwrap().to_owned(),
                child["totalSamples"].as_u64().unwrap(),
            ));
            at = child;
        }
        path
    };
    let own =
        |path: &[(&str, u64)]| path.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect::<Vec<_>>();
    assert_eq!(path(&samples("app")), own(&[("app!main", 70), ("app!work", 70), ("inner", 40)]));
    assert_eq!(
        path(&samples("app (cycles)")),
        own(&[("app!main", 10), ("app!work", 10), ("vfs_read", 10)])
    );
    assert_eq!(
        path(&samples("worker 7")),
        own(&[
            ("[broken: no-table]", 8),
            ("/usr/lib/libfoo.so![unknown in /usr/lib/libfoo.so+0x1234]", 8),
            ("/opt/libfoo.so![unknown in /opt/libfoo.so+0x1234]", 8),
        ])
    );
    assert_eq!(samples("worker 7")["totalSamples"], 10);
    assert_eq!(samples("ev\\x0ail;\\x1b (cycles)")["totalSamples"], 7);
}

#[test]
fn firefox_profiler_takes_an_empty_profile() {
    let Some(session) = Session::load(&stacks::empty()) else { return };
    assert_eq!(session.json(&["profile", "info"])["threadCount"], 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_profile_keeps_to_the_format(mut p in stacks::any_profile()) {
        p.events[0] = stacks::event("cycles", "");
        p.events[1] = stacks::event("off-cpu", "ns");
        let file = read(&p);
        check(&file);
        // Each sample is there once: as a sample, or as a marker beside the windows.
        let count = |table: &str| -> u64 {
            list(&file, "threads").iter().map(|t| t[table]["length"].as_u64().unwrap()).sum()
        };
        let of = |event: u32| p.samples.iter().filter(|s: &&Sample| s.event == event).count() as u64;
        prop_assert_eq!(count("samples"), of(0));
        prop_assert_eq!(count("markers"), of(1) + p.processes.len() as u64);
    }
}
