//! Unwind tables: that there is room for them however many files there are, and that one
//! is told of that has none.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use prof::stacks::raw;
use prof_model::stacks::FrameKind;
use prof_model::stacks::StackProfile;

use crate::harness::*;
use crate::stacks::taken;

/// C that is built; nothing without a compiler.
fn built(source: &str, args: &[&str], dir: &std::path::Path) -> bool {
    if !has("gcc", "gcc") {
        return false;
    }
    fs::write(dir.join("x.c"), source).expect("a source");
    let out = Command::new("gcc").args(args).current_dir(dir).output().expect("gcc");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    true
}

/// `prof run OPTIONS -o raw:… -- sh -c SCRIPT`, with few numbers and little room.
fn with_little_room(files: u32, segments: u32, script: &str) -> (StackProfile, String) {
    with_little_room_and(&[], files, segments, script)
}

fn with_little_room_and(
    options: &[&str],
    files: u32,
    segments: u32,
    script: &str,
) -> (StackProfile, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x.stacks");
    let out = command("run")
        .env("PROF_MAX_FILES", files.to_string())
        .env("PROF_MAX_SEGMENTS", segments.to_string())
        .args(["-F", "997", "-o", &format!("raw:{}", file.display())])
        .args(options)
        .args(["--", "sh", "-c", script])
        .output()
        .expect("prof run");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let profile = raw::read(&file).unwrap_or_else(|e| panic!("{e:#}: {said}"));
    (profile, said)
}

/// Many more files than there are numbers for: each is met, and none is taken for another.
#[test]
fn there_is_room_for_tables_of_any_number_of_files() {
    let Some(_turn) = live("many files") else { return };
    if !taken("many files") || emulated("a compiler") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    // Each stays alone: its own file, and hundreds of functions.
    let functions = (0..200).map(|i| {
        format!("long f{i}(volatile long *a){{for(int i=0;i<20;i++)*a+=i*{i};return *a;}}\n")
    });
    let calls: String = (0..200).map(|i| format!("f{i}(&a);")).collect();
    let source = format!(
        "#include <time.h>\n{}int main(void){{volatile long a=0;while(clock()<5000){{{calls}}}return 0;}}",
        functions.collect::<String>()
    );
    if !built(&source, &["-O1", "-o", "one", "x.c"], dir.path()) {
        return;
    }
    let script = format!(
        "cd {}; i=0; while [ $i -lt 600 ]; do cp one c$i; ./c$i; i=$((i+1)); done",
        dir.path().display()
    );
    // Few numbers; little room.
    for (files, segments) in [(160, 16), (8000, 1)] {
        let (profile, said) = with_little_room(files, segments, &script);
        check_many(&profile, &said);
    }
}

/// The same with stacks in two rings: numbers go from file to file while stacks wait there.
#[test]
fn a_number_is_of_one_file_in_both_rings() {
    let Some(_turn) = live("numbers in two rings") else { return };
    if !taken("numbers in two rings") || emulated("a compiler") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let source = "#include <time.h>\n#include <unistd.h>
        int main(void){for(int i=0;i<20;i++){usleep(50);for(volatile int j=0;j<20000;j++);}return 0;}";
    if !built(source, &["-O1", "-o", "one", "x.c"], dir.path()) {
        return;
    }
    let script = format!(
        "cd {}; i=0; while [ $i -lt 800 ]; do cp one c$i; cp one c$((i+1)); ./c$i & ./c$((i+1)); wait
            rm c$i c$((i+1)); i=$((i+2)); done",
        dir.path().display()
    );
    let (profile, said) = with_little_room_and(&["--off-cpu"], 60, 16, &script);
    let frames = frames_of_numbered(&profile);
    println!("{} frames of {} processes; {said}", frames.own, frames.met.len());
    assert!(frames.met.len() > 600 && frames.own > 1000, "{} frames", frames.own);
    assert_eq!(frames.other, Vec::<(String, String)>::new());
}

/// Of processes that are named by their files.
#[derive(Default)]
struct Numbered {
    /// Frames of their own files.
    own: u64,
    /// Those of another's: the process, and whose.
    other: Vec<(String, String)>,
    /// Samples of each.
    met: BTreeMap<String, u64>,
}

fn frames_of_numbered(profile: &StackProfile) -> Numbered {
    let mut of = Numbered::default();
    for sample in &profile.samples {
        let thread = &profile.threads[sample.thread.0 as usize];
        let process = &profile.processes[thread.process.0 as usize];
        let number = process.comm.strip_prefix('c');
        let Some(number) = number.filter(|n| n.parse::<u32>().is_ok()) else { continue };
        *of.met.entry(number.to_owned()).or_insert(0) += 1;
        for frame in profile.frames_of(sample.stack).map(|f| profile.frame(f)) {
            let module = profile.module(frame).filter(|_| frame.kind == FrameKind::User);
            let Some(name) = module.and_then(|m| m.path.file_name()?.to_str()) else { continue };
            if name.starts_with('c') {
                match name == process.comm {
                    true => of.own += 1,
                    false => of.other.push((process.comm.clone(), name.to_owned())),
                }
            }
        }
    }
    of
}

/// Of 600 processes named by their files, each has frames of its own file and of no other.
fn check_many(profile: &StackProfile, said: &str) {
    assert!(profile.lost.is_empty(), "{:?}", profile.lost);
    let Numbered { own, other, met } = frames_of_numbered(profile);
    let (n, whole) =
        (profile.samples.len(), profile.samples.iter().filter(|s| s.whole.is_whole()).count());
    println!(
        "{} of 600 met, {own} frames; {whole} of {n} whole: {:?}; {said}",
        met.len(),
        profile.wholeness()
    );
    assert!(
        other.is_empty(),
        "{} of {own} frames of another's file: {:?}",
        other.len(),
        &other[..4.min(other.len())]
    );
    assert!(met.len() >= 570 && own > 2000, "{} processes, {own} frames", met.len());
    assert!(whole * 100 >= n * 99, "{whole} of {n}: {:?}", profile.wholeness());
}

#[test]
fn a_file_without_table_is_named_with_the_reason() {
    let Some(_turn) = live("a file without table") else { return };
    if !taken("a file without table") || emulated("a compiler") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let spin = "long spin(long n) { volatile long a = 0; while (n--) a += n; return a; }";
    let library = [
        "-shared",
        "-nostdlib",
        "-fno-asynchronous-unwind-tables",
        "-Wl,--no-eh-frame-hdr",
        "-o",
        "libspin.so",
        "x.c",
    ];
    let main = "long spin(long); int main(void) { return spin(300000000) == 1; }";
    let program = ["-o", "main", "x.c", "libspin.so", "-Wl,-rpath,$ORIGIN"];
    if !built(spin, &library, dir.path()) || !built(main, &program, dir.path()) {
        return;
    }
    let path = |name: &str| dir.path().join(name).display().to_string();
    let out = command("run")
        .args(["-F", "997", "-o", &format!("folded:{}", path("x.folded")), "-o"])
        .args([format!("text:{}", path("x.txt")), "--".into(), path("main")])
        .output()
        .expect("prof run");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let text = fs::read_to_string(path("x.txt")).expect("text");
    for told in [said, text] {
        let one_line = told.split_whitespace().collect::<Vec<_>>().join(" ");
        let at = one_line.find("no unwind table").unwrap_or_else(|| panic!("{told}"));
        let rest = &one_line[at..];
        assert!(rest.contains("libspin.so") && rest.contains(".eh_frame"), "{told}");
    }
}

/// Each file is held from its first sample to the end, and names are found in all: also where
/// the caller's limit is lower, which commands have still.
#[test]
fn more_files_are_held_than_the_caller_may_have_open() {
    let Some(_turn) = live("a limit of descriptors") else { return };
    if !taken("a limit of descriptors") || emulated("a compiler") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let source =
        "#include <time.h>\n__attribute__((noinline)) void spins(void){while(clock()<6000);}
        int main(void){spins();return 0;}";
    if !built(source, &["-O1", "-o", "one", "x.c"], dir.path()) {
        return;
    }
    let inside = "ulimit -Sn >>limits; grep open.files /proc/$PPID/limits >>limits
        i=0; while [ $i -lt 200 ]; do cp one c$i; ./c$i; rm c$i; i=$((i+1)); done";
    let outside = format!(
        "cd {}; ulimit -Sn 100; exec {} run -F 997 -o folded:x.folded -- sh -c '{inside}'",
        dir.path().display(),
        prof().display()
    );
    let ran = Command::new("sh").args(["-c", &outside]).output().expect("sh");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    let limits = fs::read_to_string(dir.path().join("limits")).expect("limits");
    let lines: Vec<Vec<_>> = limits.lines().map(|l| l.split_whitespace().collect()).collect();
    let [commands, own] = &lines[..] else { panic!("{limits}") };
    assert_eq!(commands, &["100"], "{limits}");
    // Max open files, soft, hard.
    assert_eq!(own[3], own[4], "{limits}");
    assert_ne!(own[3], "100", "{limits}");
    let folded = fs::read_to_string(dir.path().join("x.folded")).expect("folded stacks");
    let own = |named: bool| {
        let of = folded.lines().filter(|l| l.contains("spins") == named);
        let of = of.filter(|l| l.starts_with('c') && l.contains(";main;"));
        of.map(|l| l.split(';').next().unwrap_or_default()).collect::<BTreeSet<_>>().len()
    };
    println!("{} programs with names; {said}", own(true));
    assert!(own(true) > 150, "{} programs: {folded}", own(true));
}

/// Programs that come and go, each a file of its own, beside few numbers: what prof takes
/// does not grow with them. `PROF_ROUNDS=100` is the long form.
#[test]
fn what_many_files_take_does_not_grow() {
    let Some(_turn) = live("room for many files") else { return };
    if !taken("room for many files") || emulated("a compiler") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let source = "#include <time.h>\nint main(void){while(clock()<1500);return 0;}";
    if !built(source, &["-O1", "-o", "one", "x.c"], dir.path()) {
        return;
    }
    let rounds = std::env::var("PROF_ROUNDS").map_or(4, |n| n.parse().expect("a number"));
    // The parent of the shell is prof.
    let script = format!(
        "cd {}; r=0; while [ $r -lt {rounds} ]; do r=$((r+1))
            i=0; while [ $i -lt 500 ]; do i=$((i+1)); cp one c$i; ./c$i; done; rm c*
            echo rss=$(awk '/VmRSS/ {{ print $2 }}' /proc/$PPID/status) \\
                locked=$(cat /proc/$PPID/fdinfo/* | awk '/^memlock/ {{ n += $2 }} END {{ print n }}') \\
                fds=$(ls /proc/$PPID/fd | wc -l) >>took
        done",
        dir.path().display()
    );
    let (profile, said) = with_little_room(200, 1, &script);
    let took = fs::read_to_string(dir.path().join("took")).expect("what it took");
    println!("{took}{} samples; {said}", profile.samples.len());
    let number = |line: &str, key: &str| -> u64 {
        let word = line.split_whitespace().find_map(|w| w.strip_prefix(key));
        word.and_then(|w| w.parse().ok()).unwrap_or_else(|| panic!("no {key} in {line}"))
    };
    let lines: Vec<_> = took.lines().collect();
    let (first, last) = (lines[0], lines[lines.len() - 1]);
    assert_eq!(lines.len(), rounds);
    // But for entries of processes that run at that moment.
    let locked = [first, last].map(|line| number(line, "locked="));
    assert!(locked[0] > 0 && locked[0].abs_diff(locked[1]) < 100_000, "{took}");
    assert!(number(last, "fds=") < 400, "{took}");
    // The profile itself has samples, processes and frames.
    let grown = number(last, "rss=").saturating_sub(number(first, "rss=")) * 1024;
    let each = grown / (500 * (rounds as u64 - 1).max(1));
    assert!(each < 8192, "{each} bytes for a process: {took}");
}

/// 6,000 times fork and exec in six seconds, a thousand each second, with stacks, again and
/// again: nothing is lost without a reason, and memory is as after the first round. `PROF_ROUNDS=100`
/// is the long form.
#[test]
fn six_thousand_execs_in_six_seconds_take_no_memory() {
    let Some(_turn) = live("6,000 execs in 6 s") else { return };
    if !taken("6,000 execs in 6 s") || emulated("a thousand execs a second") {
        return;
    }
    let rounds = std::env::var("PROF_ROUNDS").map_or(2, |n| n.parse().expect("a number"));
    let own = format!("tree={}", std::process::id());
    let dir = tempfile::tempdir().expect("a folder");
    let to = format!("raw:{}", dir.path().join("x.stacks").display());
    let watch = Watch::start(&["-s", &own, "-s", "comm=exe", "-F", "997", "-o", &to]);
    let fields = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("its size");
        let kb: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("kB");
        let fdinfo = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("its descriptors");
        let infos = fdinfo.flatten().filter_map(|f| fs::read_to_string(f.path()).ok());
        let locked = infos.filter_map(|info| {
            let line = info.lines().find_map(|l| l.strip_prefix("memlock:"))?;
            line.trim().parse::<u64>().ok()
        });
        (kb * 1024, locked.sum::<u64>())
    };
    let mut took = Vec::new();
    for _ in 0..rounds {
        let begin = Instant::now();
        for second in 1..=6 {
            target_output(&["storm", "1000"]);
            std::thread::sleep(Duration::from_secs(second).saturating_sub(begin.elapsed()));
        }
        let (rss, locked) = fields(watch.pid());
        println!("{:.1?}: {rss} bytes of prof's, {locked} of the kernel's", begin.elapsed());
        took.push((rss, locked));
    }
    let records = watch.stop();
    records.assert_whole();
    let own = records.profiles().iter().filter(|p| p["process"]["comm"] == "exe").count();
    assert_eq!(own, rounds * 6000);
    let profile = raw::read(&dir.path().join("x.stacks")).expect("stacks");
    println!("{} samples, lost {:?}, {}", profile.samples.len(), profile.lost, records.end());
    assert!(profile.lost.is_empty(), "{:?}", profile.lost);
    let ((rss, locked), (rss_then, locked_then)) = (took[0], took[rounds - 1]);
    assert!(locked > 0 && locked.abs_diff(locked_then) < 100_000, "{took:?}");
    // The profile has an entry for each process and sample.
    let processes = (6000 * (rounds - 1)).max(1) as u64;
    let each = rss_then.saturating_sub(rss) / processes;
    println!("{each} bytes for each further process");
    assert!(each < 4096, "{each} bytes for a process: {took:?}");
}
