//! Code that is made at run time: names by perf maps and jitdumps, and that they stay.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use prof::stacks::raw;
use prof_model::stacks::StackProfile;

use crate::harness::*;
use crate::stacks::burn_ms;
use crate::stacks::run_stacks;
use crate::stacks::taken;

/// Functions that are compiled, one into the other perhaps.
const SCRIPT: &str = "
function hotInner(n) { let s = 0; for (let i = 0; i < n; i++) s = (s * 31 + i) | 0; return s; }
function hotOuter(n) { let s = 0; for (let i = 0; i < 100; i++) s ^= hotInner(n + i); return s; }
const end = Date.now() + 1500;
let x = 0;
while (Date.now() < end) x ^= hotOuter(10000);
";

/// What stacks by name are, of a command that ran in a folder with the script `hot.js`.
fn folded_of(dir: &Path, command_line: &str) -> String {
    fs::write(dir.join("hot.js"), SCRIPT).expect("a script");
    let file = dir.join("x.folded");
    let raw = dir.join("x.stacks");
    let to = [format!("folded:{}", file.display()), format!("raw:{}", raw.display())];
    let line = format!("cd {} && {command_line}", dir.display());
    let run = run(&["-F", "499", "-o", &to[0], "-o", &to[1]], &["sh", "-c", &line]);
    let said = String::from_utf8_lossy(&run.output.stderr).into_owned();
    assert!(run.output.status.success(), "{said}");
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("{e}: {said}"))
}

/// Weights of all lines, and of those that have one of the script's functions.
fn hot(folded: &str) -> (u64, u64) {
    let (mut all, mut named) = (0, 0);
    for line in folded.lines() {
        let (stack, weight) = line.rsplit_once(' ').expect("a weight");
        let weight: u64 = weight.parse().expect("a number");
        all += weight;
        if stack.contains("hotOuter ") || stack.contains("hotInner ") {
            named += weight;
        }
    }
    (all, named)
}

fn assert_hot(folded: &str) {
    let (all, named) = hot(folded);
    println!("{:.1} % in the script's functions", 100.0 * named as f64 / all as f64);
    // The rest is what it takes to start.
    let lines: String = folded.lines().filter(|l| l.contains("JS:")).take(20).collect();
    assert!(named * 2 > all, "{named} of {all}: {lines}");
}

#[test]
fn functions_of_node_have_names_from_its_jitdump() {
    let Some(_turn) = live("a jitdump of node") else { return };
    if !taken("a jitdump of node") || !has("node", "nodejs") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    // Found by its mapping: it is not in /tmp, and gone when names are wanted.
    let folded = folded_of(dir.path(), "node --perf-prof hot.js; rm jit-*.dump");
    assert_hot(&folded);
    // What was recorded keeps them.
    let report = Command::new(prof())
        .args(["report", "-o", "folded", "x.stacks"])
        .current_dir(&dir)
        .output()
        .expect("prof report");
    assert_hot(&String::from_utf8_lossy(&report.stdout));
}

#[test]
fn functions_of_node_have_names_from_its_perf_map() {
    let Some(_turn) = live("a perf map of node") else { return };
    if !taken("a perf map of node") || !has("node", "nodejs") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let script = "node --perf-basic-prof hot.js & pid=$!; wait $pid; rm /tmp/perf-$pid.map";
    assert_hot(&folded_of(dir.path(), script));
}

#[test]
fn a_perf_map_in_a_container_is_found_by_its_own_pid() {
    let Some(_turn) = live("a perf map in a container") else { return };
    if !taken("a perf map in a container") || !has("node", "nodejs") {
        return;
    }
    // It has /tmp and pids of its own, which are gone with it.
    let dir = tempfile::tempdir_in("/var/tmp").expect("a folder");
    let inside = "mount -t tmpfs none /tmp && node --perf-basic-prof hot.js; ls /tmp/perf-*.map";
    let line = format!("unshare --pid --mount --fork sh -c '{inside}' > seen");
    let folded = folded_of(dir.path(), &line);
    let seen = fs::read_to_string(dir.path().join("seen")).expect("the name of the map");
    assert!(!Path::new(seen.trim()).exists(), "{seen}");
    assert_hot(&folded);
}

#[test]
fn a_perf_map_of_another_user_is_not_believed() {
    let Some(_turn) = live("a perf map of another user") else { return };
    if !taken("a perf map of another user") || !has("node", "nodejs") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let script = "node hot.js & pid=$!; echo '0 ffffffffffffffff believed' > /tmp/perf-$pid.map; \
                  chown 1234 /tmp/perf-$pid.map; wait $pid; rm /tmp/perf-$pid.map";
    let folded = folded_of(dir.path(), script);
    assert!(!folded.contains("believed"));
    let profile = raw::read(&dir.path().join("x.stacks")).expect("stacks");
    let why = "it belongs to user 1234";
    let told = profile.frames.iter().filter_map(|f| f.unnamed.as_ref()).any(|u| u.contains(why));
    assert!(told, "{:?}", profile.wholeness());
}

/// A program of the fixtures.
fn built(name: &str, dir: &Path) -> PathBuf {
    let exe = dir.join(name);
    let source = format!("{}/tests/fixtures/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let built = Command::new("gcc").args(["-O1", "-o"]).arg(&exe).arg(source).status();
    assert!(built.expect("gcc").success());
    exe
}

#[test]
fn code_in_a_memfd_is_walked_by_its_frame_pointers() {
    let Some(_turn) = live("code in a memfd") else { return };
    if !taken("code in a memfd") || emulated("gcc") || !has("gcc", "gcc") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let exe = built("memfd", dir.path());
    let stacks = run_stacks(&[], &[exe.to_str().expect("a path")]);
    let p = &stacks.profile;
    let made = |f: prof_model::stacks::FrameId| {
        p.module(p.frame(f)).is_some_and(|m| m.path.starts_with("/memfd:made"))
    };
    let of_it = p.samples.iter().filter(|s| p.frames_of(s.stack).any(made));
    let (whole, rest): (Vec<_>, Vec<_>) = of_it.partition(|s| s.whole.is_whole());
    println!("{} whole, {} not", whole.len(), rest.len());
    assert!(whole.len() > 50 && rest.len() * 50 < whole.len(), "{:?}", p.wholeness());
    assert!(p.no_tables.is_empty(), "{:?}", p.no_tables);
}

/// Names and lines of generated code in the order of time, each as long as it lasts.
fn phases(profile: &StackProfile) -> Vec<(String, String, Option<u32>, usize)> {
    let mut samples: Vec<_> = profile.samples.iter().collect();
    samples.sort_by_key(|s| s.time_ns);
    let mut phases: Vec<(String, String, Option<u32>, usize)> = Vec::new();
    for s in samples {
        let mut frames = profile.frames_of(s.stack).map(|f| profile.frame(f));
        let is_made = |f: &&prof_model::stacks::Frame| {
            profile.module(f).is_some_and(|m| m.path.to_string_lossy().starts_with("[anon:"))
        };
        let Some(frame) = frames.find(is_made) else { continue };
        let f = frame.functions.first().unwrap_or_else(|| panic!("{frame:?}"));
        let file = f.file.as_ref().map_or(String::new(), |f| f.display().to_string());
        match phases.last_mut() {
            Some((name, .., n)) if *name == f.name => *n += 1,
            _ => phases.push((f.name.clone(), file, f.line, 1)),
        }
    }
    phases
}

#[test]
fn code_that_takes_the_place_of_other_code_has_its_own_name() {
    let Some(_turn) = live("a jitdump by time") else { return };
    if !taken("a jitdump by time") || !has("gcc", "gcc") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (exe, file) = (built("jit", dir.path()), dir.path().join("x.stacks"));
    let to = format!("raw:{}", file.display());
    let folder = dir.path().to_str().expect("a path");
    let cmd = [exe.to_str().expect("a path"), folder, &burn_ms(300)];
    let run = run(&["-F", "499", "-o", &to], &cmd);
    assert!(run.output.status.success(), "{}", String::from_utf8_lossy(&run.output.stderr));
    let profile = raw::read(&file).expect("stacks");
    let phases = phases(&profile);
    println!("{phases:?}");
    let names: Vec<_> =
        phases.iter().map(|(name, file, line, _)| (&name[..], &file[..], *line)).collect();
    let (first, second) = (("first_code", "first.src"), ("second_code", "second.src"));
    assert_eq!(names, [(first.0, first.1, Some(11)), (second.0, second.1, Some(21))]);
    assert!(phases.iter().all(|(.., n)| *n > 50), "{phases:?}");
    assert!(profile.lost.is_empty(), "{:?}", profile.lost);
}

#[test]
fn a_jitdump_is_met_once_however_often_it_is_written_to() {
    let Some(_turn) = live("a jitdump that grows") else { return };
    if !taken("a jitdump that grows") || !has("node", "nodejs") || !has("strace", "strace") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("hot.js"), SCRIPT).expect("a script");
    let (calls, folded) = (dir.path().join("calls"), dir.path().join("x.folded"));
    let traced = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=openat", "-o"])
        .arg(&calls)
        .arg(prof())
        .args(["run", "-F", "997", "-o", &format!("folded:{}", folded.display())])
        .args(["--", "node", "--perf-prof", "hot.js"])
        .current_dir(&dir)
        .output()
        .expect("strace");
    assert!(traced.status.success(), "{}", String::from_utf8_lossy(&traced.stderr));
    // A file that is met is opened by its mapping: the same one twice would be two files.
    let calls = fs::read_to_string(&calls).expect("calls");
    let mappings = calls.lines().filter_map(|l| l.split('"').nth(1));
    let mut opened: Vec<_> = mappings.filter(|p| p.contains("/map_files/")).collect();
    let all = opened.len();
    opened.sort_unstable();
    opened.dedup();
    assert!(opened.len() > 5, "{calls}");
    assert_eq!(opened.len(), all, "{opened:#?}");
}

/// Mappings are those of the moment of each sample, though as much is executable as before.
#[test]
fn code_that_moves_is_found_where_it_is() {
    let Some(_turn) = live("code that moves") else { return };
    if !taken("code that moves") || !has("gcc", "gcc") {
        return;
    }
    if linux() < (6, 4) {
        eprintln!("SKIPPED code that moves: before 6.4 no kernel tells that something was mapped");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let exe = built("moving", dir.path());
    let cmd = [exe.to_str().expect("a path"), &burn_ms(500)];
    let stacks = run_stacks(&["-F", "499"], &cmd);
    stacks.assert_nothing_lost();
    let (n, whole) = (stacks.samples(), stacks.whole());
    println!("{whole} of {n} whole: {:?}", stacks.profile.wholeness());
    assert!(n > 100, "{n} samples");
    assert!(whole * 100 >= n * 99, "{whole} of {n}: {:?}", stacks.profile.wholeness());
}
