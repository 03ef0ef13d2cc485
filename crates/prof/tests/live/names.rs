//! Names of stripped programs: from debug files that servers have, and from before.

use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;

use crate::harness::*;

const SOURCE: &str = r"
#include <time.h>
static __attribute__((noinline)) int hidden_work(int n) {
    volatile int sum = 0;
    for (int i = 0; i < 100000; i++) sum += i * n;
    return sum;
}
int main(void) {
    int sum = 0;
    while (clock() < CLOCKS_PER_SEC / 4) sum += hidden_work(sum);
    return sum == 1;
}
";

/// A stripped program, and its debug file.
struct Stripped {
    dir: tempfile::TempDir,
    program: PathBuf,
    debug: PathBuf,
}

fn tool(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().expect(program);
    assert!(status.success(), "{program} {args:?}");
}

fn stripped() -> Option<Stripped> {
    if !has("cc", "gcc") || !has("objcopy", "binutils") {
        return None;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let (source, program, debug) = (at("hidden.c"), at("hidden"), at("hidden.debug"));
    fs::write(&source, SOURCE).expect("a source");
    let [s, p, d] = [&source, &program, &debug].map(|p| p.to_str().expect("a path"));
    tool("cc", &["-O1", "-g", "-Wl,--build-id", s, "-o", p]);
    tool("objcopy", &["--only-keep-debug", p, d]);
    tool("objcopy", &["--strip-all", &format!("--add-gnu-debuglink={d}"), p]);
    Some(Stripped { dir, program, debug })
}

/// A server that has one file; and what it was asked for.
fn server(file: &Path) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let content = fs::read(file).expect("the debug file");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
            let request = lines.next().and_then(Result::ok).unwrap_or_default();
            while lines.next().and_then(Result::ok).is_some_and(|l| !l.is_empty()) {}
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let id = format!("/{}/", BUILD_ID.lock().unwrap());
            let (status, body) = match path.contains(&id) && path.ends_with("/debuginfo") {
                true => ("200 OK", content.as_slice()),
                false => ("404 Not Found", b"".as_slice()),
            };
            log.lock().unwrap().push(path);
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    (url, asked)
}

/// What the server has.
static BUILD_ID: Mutex<String> = Mutex::new(String::new());

fn build_id(program: &Path) -> String {
    let out = Command::new("readelf").arg("-n").arg(program).output().expect("readelf");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().find_map(|l| l.trim().strip_prefix("Build ID: "));
    line.expect("a build id").to_owned()
}

#[test]
fn debug_files_come_from_the_server_that_was_named() {
    let Some(_turn) = live("debuginfod") else { return };
    if !crate::stacks::taken("debuginfod") || !has("debuginfod-find", "debuginfod") {
        return;
    }
    let Some(made) = stripped() else { return };
    let out = made.dir.path().join("x.folded");
    let run = |url: &str| {
        let output = command("run")
            .args(["--debuginfod", "--no-cache", "-o", &format!("folded:{}", out.display()), "--"])
            .arg(&made.program)
            .env("DEBUGINFOD_URLS", url)
            .env("DEBUGINFOD_CACHE_PATH", made.dir.path().join("cache"))
            .output()
            .expect("prof run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(&out).expect("folded stacks")
    };
    *BUILD_ID.lock().unwrap() = build_id(&made.program);
    let (url, asked) = server(&made.debug);
    fs::rename(&made.debug, made.dir.path().join("away")).expect("moved");
    let without = run("http://127.0.0.1:9");
    assert!(!without.contains("hidden_work") && without.contains("[fun_"), "{without}");
    let with = run(&url);
    assert!(with.contains(";main;hidden_work "), "{with}");
    assert!(!asked.lock().unwrap().is_empty());

    let output =
        command("run").args(["--debuginfod", "--", "true"]).env("DEBUGINFOD_URLS", "").output();
    let output = output.expect("prof run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("DEBUGINFOD_URLS"), "{said}");
}

#[test]
fn names_are_kept_for_the_next_time() {
    let Some(_turn) = live("kept names") else { return };
    if !crate::stacks::taken("kept names") {
        return;
    }
    let Some(made) = stripped() else { return };
    let out = made.dir.path().join("x.folded");
    let cache = made.dir.path().join("names");
    let run = |options: &[&str]| {
        let output = command("run")
            .args(options)
            .args(["-o", &format!("folded:{}", out.display()), "--"])
            .arg(&made.program)
            .env("PROF_CACHE_DIR", &cache)
            .output()
            .expect("prof run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(&out).expect("folded stacks")
    };
    assert!(run(&[]).contains(";main;hidden_work "));
    // What was named stays named although its debug file is gone.
    fs::remove_file(&made.debug).expect("removed");
    assert!(!run(&["--no-cache"]).contains("hidden_work"));
    assert!(run(&[]).contains("hidden_work"));
}

/// What `prof report` makes of a recording.
fn reported(recording: &Path, options: &[&str]) -> String {
    let output = command("report").args(["--no-cache"]).args(options).arg(recording).output();
    let output = output.expect("prof report");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn another_build_is_not_taken_for_the_one_that_ran() {
    let Some(_turn) = live("another build") else { return };
    if !crate::stacks::taken("another build") || !has("cc", "gcc") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let (source, program, recording) = (at("x.c"), at("x"), at("x.stacks"));
    fs::write(&source, SOURCE).expect("a source");
    let to = format!("raw:{}", recording.display());
    for (id, why) in [("sha1", "its build id is another"), ("none", "it has no build id, and its")]
    {
        let build = |level: &str| {
            let id = format!("-Wl,--build-id={id}");
            let [s, p] = [&source, &program].map(|p| p.to_str().expect("a path"));
            tool("cc", &[level, &id, s, "-o", p]);
        };
        build("-O1");
        run(&["-o", &to], &[program.to_str().expect("a path")]);
        let same = reported(&recording, &["-o", "folded"]);
        assert!(same.contains(";main;hidden_work "), "{id}: {same}");
        build("-O0");
        let other = reported(&recording, &["-o", "folded"]);
        assert!(other.contains("[unknown in x+"), "{id}: {other}");
        assert!(!other.contains("hidden_work") && !other.contains(" in x]"), "{id}: {other}");
        let text = reported(&recording, &[]);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(why), "{id}: {text}");
    }
}

#[test]
fn programs_are_found_by_build_id_and_links_stay_in_the_tree() {
    let Some(_turn) = live("programs by build id") else { return };
    if !crate::stacks::taken("programs by build id") {
        return;
    }
    let Some(made) = stripped() else { return };
    let at = |name: &str| made.dir.path().join(name);
    let recording = at("x.stacks");
    let to = format!("raw:{}", recording.display());
    run(&["-o", &to], &[made.program.to_str().expect("a path")]);
    let id = build_id(&made.program);
    let (first, rest) = id.split_at(2);
    let moved = |from: &Path, to: PathBuf| {
        fs::create_dir_all(to.parent().expect("a folder")).expect("folders");
        fs::rename(from, &to).expect("moved");
        to
    };
    let report = |home: &Path, options: &[&str]| {
        let mut report = command("report");
        report.args(["--no-cache", "-o", "folded"]).args(options).arg(&recording);
        let output = report.env("HOME", home).output().expect("prof report");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let named = |folded: String| assert!(folded.contains(";main;hidden_work "), "{folded}");
    let (tree, home, nowhere) = (at("tree"), at("home"), at("nowhere"));
    fs::create_dir(&tree).expect("a folder");
    let symfs = ["--symfs", tree.to_str().expect("a path")];
    let full = moved(&made.program, at("kept"));
    assert!(report(&nowhere, &symfs).contains("[unknown in hidden"));

    let debug = tree.join(format!("usr/lib/debug/.build-id/{first}/{rest}.debug"));
    let debug = moved(&made.debug, debug);
    // A debug file alone has the names.
    named(report(&nowhere, &symfs));
    let full = moved(&full, debug.with_extension(""));
    named(report(&nowhere, &symfs));
    let full = moved(&full, tree.join(format!(".build-id/{first}/{rest}")));
    named(report(&nowhere, &symfs));
    let full = moved(&full, home.join(format!(".debug/.build-id/{first}/{rest}/elf")));
    named(report(&home, &symfs));

    // Where it was there is a link that leads to another place of the same tree.
    moved(&full, tree.join("opt/hidden"));
    let place = made.program.strip_prefix("/").expect("an absolute path");
    fs::create_dir_all(tree.join(place).parent().expect("a folder")).expect("folders");
    std::os::unix::fs::symlink("/opt/hidden", tree.join(place)).expect("a link");
    named(report(&nowhere, &symfs));

    let output = command("report").args(["--symfs", "/no/such/tree"]).arg(&recording).output();
    let output = output.expect("prof report");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--symfs /no/such/tree"), "{said}");
}
