//! Python's own frames, beside what programs know of themselves and what py-spy reads.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use prof_model::stacks::FrameKind;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Whole;

use crate::harness::*;
use crate::stacks::Stacks;
use crate::stacks::run_stacks;
use crate::stacks::taken;

/// Versions that can be read, 3.N.
const MINORS: [u32; 6] = [8, 9, 10, 11, 12, 13];

/// The system's, by the name that says its version; others below `$PROF_PYTHONS`, as `bin/python3.N` in a folder each.
fn pythons() -> Vec<String> {
    let system = fs::canonicalize("/usr/bin/python3").expect("python3");
    let mut found = vec![system.display().to_string()];
    if let Some(more) = std::env::var_os("PROF_PYTHONS") {
        for entry in fs::read_dir(more).expect("a folder of interpreters") {
            let bin = entry.expect("a folder").path().join("bin");
            let all = MINORS.iter().map(|minor| bin.join(format!("python3.{minor}")));
            found.extend(all.filter(|p| p.exists()).map(|p| p.display().to_string()));
        }
    }
    found
}

fn ready(what: &str) -> bool {
    if !taken(what) || !has("python3", "python3") {
        return false;
    }
    let out = Command::new("/usr/bin/python3").arg("--version").output().expect("python3");
    let version = String::from_utf8_lossy(&out.stdout).into_owned();
    if !MINORS.iter().any(|minor| version.starts_with(&format!("Python 3.{minor}."))) {
        return skip(what, &format!("{} is not one of those that can be read", version.trim()));
    }
    true
}

/// A script in a folder.
fn script(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).expect("a script");
    path.display().to_string()
}

/// Python's frames of each sample, outermost first, as they are called without the place.
fn chains(profile: &StackProfile) -> Vec<Vec<String>> {
    let is_python = |f: &&prof_model::stacks::Frame| {
        f.kind == FrameKind::User && f.functions.first().is_some_and(|f| f.name.ends_with(')'))
    };
    let name = |f: &prof_model::stacks::Frame| {
        let name = &f.functions[0].name;
        name.split(" (").next().unwrap_or(name).to_owned()
    };
    let one = |sample: &prof_model::stacks::Sample| {
        let frames = profile.frames_of(sample.stack).map(|f| profile.frame(f));
        let mut chain: Vec<_> = frames.filter(is_python).map(name).collect();
        chain.reverse();
        chain
    };
    profile.samples.iter().map(one).collect()
}

/// What a function is called: before 3.11 without its class, or the function it is in.
fn called(python: &str, name: &str) -> String {
    let old = ["3.8", "3.9", "3.10"].iter().any(|v| python.ends_with(v));
    let last = name.rsplit('.').next().unwrap_or(name);
    (if old { last } else { name }).to_owned()
}

/// Of the samples in which a function runs, at least 99 % have exactly one of these chains.
fn assert_chains(what: &str, stacks: &Stacks, function: &str, wanted: &[Vec<String>]) {
    let all = chains(&stacks.profile);
    let wanted: Vec<Vec<_>> =
        wanted.iter().map(|c| c.iter().map(|f| called(what, f)).collect()).collect();
    let of: Vec<_> = all.iter().filter(|c| c.iter().any(|f| f == function)).collect();
    let mut others: BTreeMap<String, usize> = BTreeMap::new();
    for chain in of.iter().filter(|c| !wanted.contains(c)) {
        *others.entry(chain.join(" > ")).or_default() += 1;
    }
    let right = of.len() - others.values().sum::<usize>();
    println!("{what}: {right} of {} chains with {function}, {} samples", of.len(), all.len());
    assert!(of.len() >= 50, "{what}: {} of {} samples", of.len(), all.len());
    assert!(right * 100 >= of.len() * 99, "{what}: {right} of {}: {others:?}", of.len());
}

fn assert_whole(what: &str, stacks: &Stacks) {
    let (n, whole) = (stacks.samples(), stacks.whole());
    println!("{what}: {whole} of {n} whole");
    assert!(whole * 100 >= n * 99, "{what}: {:?}", stacks.profile.wholeness());
}

fn names(chain: &[&str]) -> Vec<String> {
    chain.iter().map(|s| (*s).to_owned()).collect()
}

/// A chain, and behind it functions that the last one may have called.
fn with(chain: &[&str], callees: &[&str]) -> Vec<Vec<String>> {
    let called = callees.iter().map(|callee| names(&[chain, &[callee]].concat()));
    std::iter::once(names(chain)).chain(called).collect()
}

const BURN: &str = "
def burn(n):
    s = 0
    for i in range(n):
        s += i * i
    return s
";

#[test]
fn recursion_has_as_many_frames_as_it_is_deep() {
    let Some(_turn) = live("recursion in Python") else { return };
    if !ready("recursion in Python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let text = format!(
        "{BURN}
import sys
DEPTH = int(sys.argv[1])
class Tree:
    def down(self, depth):
        if depth == 0:
            return burn(6_000_000)
        return self.down(depth - 1)
Tree().down(DEPTH - 1)
"
    );
    let script = script(dir.path(), "deep.py", &text);
    for python in pythons() {
        // Where each call goes through C there is no room for more.
        let depth = if called(&python, "Tree.down") == "down" { 21 } else { 41 };
        let cmd = [&python, "-S", &script, &depth.to_string()];
        let stacks = run_stacks(&["-F", "997", "--user"], &cmd);
        stacks.assert_nothing_lost();
        assert_whole(&python, &stacks);
        let downs = vec!["Tree.down"; depth];
        let chain = [&["<module>"][..], &downs, &["burn"]].concat();
        assert_chains(&python, &stacks, "burn", &[names(&chain)]);
        let burn = stacks.profile.frames.iter().flat_map(|f| &f.functions);
        let burn = burn.into_iter().find(|f| f.name.starts_with("burn ")).expect("burn");
        assert_eq!(burn.name, "burn (deep.py:2)");
        assert_eq!(burn.file.as_deref(), Some(Path::new(&script)));
    }
}

#[test]
fn a_hit_of_a_tracepoint_has_the_frames_of_who_hit_it() {
    let Some(_turn) = live("tracepoints in Python") else { return };
    if !ready("tracepoints in Python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let text = "
import os
def ask():
    os.getppid()
def outer():
    for i in range(200):
        ask()
for i in range(5):
    outer()
";
    let script = script(dir.path(), "hits.py", text);
    for python in pythons() {
        let by = ["--by", "syscalls:sys_enter_getppid", "--user"];
        let stacks = run_stacks(&by, &[&python, "-S", &script]);
        stacks.assert_nothing_lost();
        assert_whole(&python, &stacks);
        assert_eq!(stacks.samples(), 1000, "{python}");
        // The first ones may be taken before the interpreter is known.
        let asked = [names(&["<module>", "outer", "ask"])];
        assert_chains(&python, &stacks, "ask", &asked);
    }
}

#[test]
fn c_that_calls_back_stands_between_what_it_calls_and_who_called_it() {
    let Some(_turn) = live("callbacks in Python") else { return };
    if !ready("callbacks in Python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let text = format!(
        "{BURN}
import functools
def key(x):
    return burn(20_000) + x
def add(a, b):
    return burn(20_000) + a + b
def gen(n):
    for i in range(n):
        yield burn(20_000)
def outer():
    for i in range(10):
        sorted([3, 1, 2], key=key)
        functools.reduce(add, range(4))
        sum(gen(4))
        list(map(lambda x: burn(20_000), range(4)))
for i in range(10):
    outer()
"
    );
    let script = script(dir.path(), "back.py", &text);
    for python in pythons() {
        let stacks = run_stacks(&["-F", "997", "--user"], &[&python, "-S", &script]);
        stacks.assert_nothing_lost();
        assert_whole(&python, &stacks);
        let chain = |f: &str| names(&["<module>", "outer", f, "burn"]);
        let wanted = ["key", "add", "gen", "outer.<locals>.<lambda>"].map(chain);
        assert_chains(&python, &stacks, "burn", &wanted);
        // Four ways, of as many calls each but for three of `key` and of `add`.
        let all = chains(&stacks.profile);
        let n = |f: &str| {
            let f = called(&python, f);
            all.iter().filter(|c| c.contains(&f)).count()
        };
        let burn = n("burn");
        for (f, calls) in [("key", 3), ("add", 3), ("gen", 4), ("outer.<locals>.<lambda>", 4)] {
            let expected = burn * calls / 14;
            assert!(n(f) * 2 > expected && n(f) < expected * 2, "{python} {f}: {} of {burn}", n(f));
        }
        // C between them: where `sorted` calls `key` there is code of the interpreter.
        let profile = &stacks.profile;
        let joined = profile.samples.iter().filter(|s| {
            let frames: Vec<_> = profile.frames_of(s.stack).map(|f| profile.frame(f)).collect();
            let is = |at: usize, name: &str| {
                let named = frames.get(at).and_then(|f| f.functions.first());
                named.is_some_and(|f| f.name.starts_with(name))
            };
            let Some(key) = (0..frames.len()).find(|at| is(*at, "key (")) else { return false };
            let Some(outer) = (key..frames.len()).find(|at| is(*at, "outer (")) else {
                return false;
            };
            outer - key > 2
        });
        assert_eq!(joined.count(), n("key"), "{python}");
    }
}

#[test]
fn threads_have_frames_of_their_own() {
    let Some(_turn) = live("threads in Python") else { return };
    if !ready("threads in Python") || emulated("threads in Python: there is no bz2") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    // Who compresses gives the lock away: two of them run at a time, and neither holds it.
    let text = "
import bz2, threading, zlib
data = bytes(range(256)) * 400
def one():
    for i in range(1200):
        zlib.compress(data, 9)
def two():
    for i in range(30):
        bz2.compress(data)
threads = [threading.Thread(target=f) for f in (one, two)]
for t in threads: t.start()
for t in threads: t.join()
";
    let script = script(dir.path(), "threads.py", text);
    for python in pythons() {
        let stacks = run_stacks(&["-F", "997", "--user"], &[&python, "-S", &script]);
        stacks.assert_nothing_lost();
        assert_whole(&python, &stacks);
        for f in ["one", "two"] {
            let chain = ["Thread._bootstrap", "Thread._bootstrap_inner", "Thread.run", f];
            assert_chains(&python, &stacks, f, &with(&chain, &["compress"]));
        }
    }
}

#[test]
fn modules_of_packages_and_of_archives_are_named() {
    let Some(_turn) = live("modules of Python") else { return };
    if !ready("modules of Python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let package = dir.path().join("päckage");
    fs::create_dir(&package).expect("a folder");
    fs::write(package.join("__init__.py"), BURN).expect("a module");
    fs::write(package.join("größe.py"), "from . import burn\ndef größe(): burn(6_000_000)\n")
        .expect("a module");
    let text = "
import sys, zipfile
with zipfile.ZipFile('zipped.zip', 'w') as z:
    z.writestr('inside.py', 'def call(f):\\n    f()\\n')
sys.path[:0] = ['zipped.zip', '.']
import inside
from päckage.größe import größe
inside.call(größe)
";
    let script = script(dir.path(), "main.py", text);
    for python in pythons() {
        let line = format!("cd {} && exec {python} -SB {script}", dir.path().display());
        let stacks = run_stacks(&["-F", "997", "--user"], &["sh", "-c", &line]);
        let wanted = [names(&["<module>", "call", "größe", "burn"])];
        assert_chains(&python, &stacks, "größe", &wanted);
        let functions = stacks.profile.frames.iter().flat_map(|f| &f.functions);
        let files: Vec<_> = functions.flat_map(|f| f.file.clone()).collect();
        for end in ["päckage/größe.py", "zipped.zip/inside.py", "main.py"] {
            assert!(files.iter().any(|f| f.ends_with(end)), "{python} {end}: {files:?}");
        }
    }
}

#[test]
fn two_hundred_short_processes_have_their_frames() {
    let Some(_turn) = live("short processes of Python") else { return };
    if !ready("short processes of Python") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let text = format!("{BURN}\ndef short():\n    return burn(100_000)\nshort()\n");
    let script = script(dir.path(), "short.py", &text);
    let line =
        format!("i=0; while [ $i -lt 200 ]; do i=$((i+1)); /usr/bin/python3 -SE {script}; done");
    let stacks = run_stacks(&["-F", "997", "--user"], &["sh", "-c", &line]);
    stacks.assert_nothing_lost();
    let profile = &stacks.profile;
    assert_chains("short", &stacks, "burn", &[names(&["<module>", "short", "burn"])]);
    // The shell is not known to start Python: the first process tells, and its first
    // samples lack what it runs.
    let without = profile.samples.iter().filter(|s| s.whole == Whole::Python).count();
    let (n, whole) = (stacks.samples(), stacks.whole());
    println!("{whole} of {n} whole, {without} before Python was known");
    assert!((whole + without) * 100 >= n * 99, "{:?}", profile.wholeness());
    let has_burn = |s: &&prof_model::stacks::Sample| {
        let mut functions = profile.frames_of(s.stack).flat_map(|f| &profile.frame(f).functions);
        functions.any(|f| f.name.starts_with("burn "))
    };
    let with: std::collections::BTreeSet<_> =
        profile.samples.iter().filter(has_burn).map(|s| s.thread).collect();
    // How many that are depends on how long prof has to wait for a CPU.
    assert!(with.len() >= 150, "{} of 200 processes have it", with.len());
}

#[test]
fn time_off_the_cpu_has_frames_of_python() {
    let Some(_turn) = live("Python off the CPU") else { return };
    if !ready("Python off the CPU") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let text = "
import time
def rest():
    time.sleep(0.002)
def main():
    for i in range(200):
        rest()
main()
";
    let script = script(dir.path(), "rest.py", text);
    for python in pythons() {
        let stacks = run_stacks(&["--off-cpu"], &[&python, "-S", &script]);
        let chain = names(&["<module>", "main", "rest"]);
        assert_chains(&python, &stacks, "rest", std::slice::from_ref(&chain));
        let profile = &stacks.profile;
        let off = chains(profile).into_iter().zip(&profile.samples);
        let slept =
            off.filter(|(c, s)| *c == chain && s.off_cpu.is_some() && s.weight >= 2_000_000);
        let n = slept.count();
        println!("{python}: {n} of 200 sleeps");
        // The kernel does not tell of every switch, and a thread may be woken early.
        assert!((180..=220).contains(&n), "{python}: {n} of 200 sleeps");
    }
}

#[test]
fn more_frames_than_there_may_be_are_cut_and_said() {
    let Some(_turn) = live("deep Python") else { return };
    if !ready("deep Python") {
        return;
    }
    let text = format!(
        "{BURN}
def down(n):
    return burn(6_000_000) if n == 0 else down(n - 1)
down(500)
"
    );
    let dir = tempfile::tempdir().expect("a folder");
    let script = script(dir.path(), "deeper.py", &text);
    for python in pythons() {
        let stacks = run_stacks(&["-F", "997", "--user"], &[&python, "-S", &script]);
        let chain = [&["down"; 127][..], &["burn"]].concat();
        assert_chains(&python, &stacks, "burn", &[names(&chain)]);
        let cut = stacks.profile.samples.iter().filter(|s| s.whole == Whole::Depth).count();
        let burn = chains(&stacks.profile).iter().filter(|c| c.len() == 128).count();
        assert!(burn > 50 && cut >= burn, "{python}: {cut} cut, {burn} of 128 frames");
    }
}

#[test]
fn a_child_without_an_exec_has_its_frames() {
    let Some(_turn) = live("forks of Python") else { return };
    if !ready("forks of Python") {
        return;
    }
    // Forks without an exec: the child's thread has another number, and code objects have
    // the same addresses.
    let text = format!(
        "{BURN}
import os
def parent():
    burn(4_000_000)
def child():
    burn(4_000_000)
if os.fork() == 0:
    child()
    os._exit(0)
parent()
os.wait()
"
    );
    let dir = tempfile::tempdir().expect("a folder");
    let script = script(dir.path(), "fork.py", &text);
    for python in pythons() {
        let stacks = run_stacks(&["-F", "997", "--user"], &[&python, "-S", &script]);
        assert_whole(&python, &stacks);
        for f in ["parent", "child"] {
            assert_chains(&python, &stacks, f, &with(&["<module>", f], &["burn"]));
        }
    }
}

#[test]
fn threads_in_a_container_have_frames_though_their_numbers_are_others() {
    let what = "Python in a pid namespace";
    let Some(_turn) = live(what) else { return };
    if !ready(what) || !has("unshare", "util-linux") {
        return;
    }
    let text = format!(
        "{BURN}
import threading
def work():
    burn(4_000_000)
t = threading.Thread(target=work)
t.start()
t.join()
work()
"
    );
    let dir = tempfile::tempdir().expect("a folder");
    let script = script(dir.path(), "inside.py", &text);
    for python in pythons() {
        let cmd = ["unshare", "-fp", "--mount-proc", &python, "-S", &script];
        let stacks = run_stacks(&["-F", "997", "--user"], &cmd);
        let thread = ["Thread._bootstrap", "Thread._bootstrap_inner", "Thread.run", "work", "burn"];
        let wanted = [names(&thread), names(&["<module>", "work", "burn"])];
        assert_chains(&python, &stacks, "burn", &wanted);
        let all = chains(&stacks.profile);
        for chain in wanted {
            let chain: Vec<_> = chain.iter().map(|f| called(&python, f)).collect();
            let n = all.iter().filter(|c| **c == chain).count();
            assert!(n * 4 > all.len(), "{python}: {n} of {} {chain:?}", all.len());
        }
    }
}

#[test]
fn who_is_watched_by_a_rule_has_frames_from_the_first_sample_on() {
    let Some(_turn) = live("Python that is watched") else { return };
    if !ready("Python that is watched") {
        return;
    }
    let text = format!("{BURN}\ndef short():\n    return burn(100_000)\nshort()\n");
    let dir = tempfile::tempdir().expect("a folder");
    let script = script(dir.path(), "short.py", &text);
    let raw = dir.path().join("x.stacks");
    let to = format!("raw:{}", raw.display());
    let exe = fs::canonicalize("/usr/bin/python3").expect("python3");
    let rule = format!("exe={}", exe.display());
    let watch = Watch::start(&["-s", &rule, "-F", "997", "--user", "-o", &to]);
    for _ in 0..20 {
        let mut short = Command::new("/usr/bin/python3");
        assert!(short.args(["-SE", &script]).status().expect("python3").success());
    }
    watch.until("twenty processes", |r| r.profiles().len() >= 20);
    let _ = watch.stop();
    let profile = prof::stacks::raw::read(&raw).expect("a profile");
    assert!(profile.processes.len() >= 20, "{}", profile.processes.len());
    println!("{:?}", profile.wholeness());
    let without = profile.samples.iter().filter(|s| s.whole == Whole::Python).count();
    // Were it loaded when it is met, all of the first process would be without. A sample may
    // strike where the interpreter is about to change its list.
    assert!(without * 50 <= profile.samples.len(), "{:?}", profile.wholeness());
    let burn = chains(&profile).into_iter().filter(|c| c.iter().any(|f| f == "burn"));
    assert!(burn.count() >= 20);
}

/// py-spy reads the same frames by stopping the process.
#[test]
#[ignore = "$PROF_PY_SPY must name py-spy (pip install py-spy)"]
fn chains_are_those_that_py_spy_has() {
    let Some(_turn) = live("chains beside py-spy's") else { return };
    if !ready("chains beside py-spy's") {
        return;
    }
    let py_spy = std::env::var_os("PROF_PY_SPY").expect("PROF_PY_SPY");
    let dir = tempfile::tempdir().expect("a folder");
    let text = "
import json, re, time
end = time.monotonic() + 6
def parse(n):
    return json.loads(json.dumps({str(i): [i, {'a': i}] for i in range(n)}, indent=1))
def search():
    return re.sub('a+(b|c)', lambda m: m.group(1).upper(), 'aaabcaab' * 2000)
while time.monotonic() < end:
    parse(800)
    search()
";
    let script = script(dir.path(), "work.py", text);
    let mut all = Vec::new();
    for python in pythons() {
        let file = dir.path().join("spied");
        let stacks = std::thread::scope(|scope| {
            let spy = scope.spawn(|| {
                Command::new(&py_spy)
                    .args(["record", "-r", "200", "-f", "raw", "-F", "-o"])
                    .arg(&file)
                    .args(["--", &python, "-S", &script])
                    .output()
            });
            let stacks = run_stacks(&["-F", "499", "--user"], &[&python, "-S", &script]);
            let spied = spy.join().expect("a thread").expect("py-spy");
            assert!(spied.status.success(), "{}", String::from_utf8_lossy(&spied.stderr));
            stacks
        });
        let spied = fs::read_to_string(&file).expect("what py-spy wrote");
        // It has names without what they are in.
        let short = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
        let mut theirs: BTreeMap<Vec<String>, f64> = BTreeMap::new();
        let mut sum = 0.0;
        for line in spied.lines() {
            let (stack, n) = line.rsplit_once(' ').expect("a count");
            let n: f64 = n.parse().expect("a number");
            let chain = stack.split(';').map(|f| short(f.split(" (").next().unwrap_or(f)));
            *theirs.entry(chain.collect()).or_default() += n;
            sum += n;
        }
        let mut ours: BTreeMap<Vec<String>, f64> = BTreeMap::new();
        let chains = chains(&stacks.profile);
        let chains: Vec<_> = chains.into_iter().filter(|c| !c.is_empty()).collect();
        for chain in &chains {
            *ours.entry(chain.iter().map(|f| short(f)).collect()).or_default() += 1.0;
        }
        let n = chains.len() as f64;
        let shared = ours.iter().map(|(c, k)| (k / n).min(theirs.get(c).unwrap_or(&0.0) / sum));
        let shared: f64 = shared.sum();
        let known: f64 = ours.iter().filter(|(c, _)| theirs.contains_key(*c)).map(|(_, k)| k).sum();
        println!(
            "{python}: {:.1} % of {n} in chains that py-spy has, {:.1} % in the same shares",
            100.0 * known / n,
            100.0 * shared
        );
        all.push((python, known / n, shared));
    }
    for (python, known, shared) in all {
        assert!(known > 0.9 && shared > 0.6, "{python}: {known} {shared}");
    }
}
