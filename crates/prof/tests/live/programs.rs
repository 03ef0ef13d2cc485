//! Programs of others, from Debian or built here, as they are: nearly all of their stacks
//! reach the entry of the program or the start of the thread.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use prof::stacks::raw;
use prof_model::stacks::FrameKind;
use prof_model::stacks::Sample;
use prof_model::stacks::StackProfile;

use crate::harness::*;
use crate::stacks::Stacks;
use crate::stacks::run_stacks;
use crate::stacks::taken;

/// Whether a program can be tested, and a folder for it.
fn ready(what: &str, programs: &[(&str, &str)]) -> Option<tempfile::TempDir> {
    if !taken(what) || emulated("Debian's programs") {
        return None;
    }
    programs
        .iter()
        .all(|(program, package)| has(program, package))
        .then(|| tempfile::tempdir().expect("a folder"))
}

/// Where a stack that is not whole ends: the outermost frame of the program.
fn ends_at(profile: &StackProfile, sample: &Sample) -> String {
    let frames = profile.frames_of(sample.stack).map(|f| profile.frame(f));
    let outermost = frames.filter(|f| f.kind == FrameKind::User).last();
    let at = outermost.map_or_else(
        || "no frame".to_owned(),
        |f| format!("{}+{:#x}", profile.module(f).map(|m| m.name()).unwrap_or_default(), f.offset),
    );
    format!("{}: {at}", sample.whole.name())
}

/// At least 99 % of the stacks of a command are whole.
fn assert_whole(name: &str, cmd: &[&str]) -> Stacks {
    let stacks = run_stacks(&["-F", "997"], cmd);
    stacks.assert_nothing_lost();
    let profile = &stacks.profile;
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    for sample in profile.samples.iter().filter(|s| !s.whole.is_whole()) {
        *ends.entry(ends_at(profile, sample)).or_default() += 1;
    }
    let (n, whole) = (stacks.samples(), stacks.whole());
    println!("{name}: {whole} of {n} whole; the others end at {ends:?}");
    let out = &stacks.run.output;
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    assert!(n >= 150, "{name}: {n} samples");
    assert!(whole * 100 >= n * 99, "{name}: {whole} of {n}: {ends:?}");
    stacks
}

/// Most of the samples are of code of this file.
fn assert_found(profile: &StackProfile, module: &str) {
    let found = profile.samples.iter().filter(|s| {
        let mut frames = profile.frames_of(s.stack).map(|f| profile.frame(f));
        frames.any(|f| profile.module(f).is_some_and(|m| m.name() == module))
    });
    let n = found.count();
    assert!(n * 2 > profile.samples.len(), "{n} of {} met {module}", profile.samples.len());
}

/// A program, built in a folder from a source.
fn built(dir: &Path, compiler: &[&str], file: &str, source: &str) -> String {
    fs::write(dir.join(file), source).expect("a source");
    let (program, args) = compiler.split_first().expect("a compiler");
    let out = Command::new(program)
        .args(args)
        .arg(file)
        .current_dir(dir)
        .env("GOCACHE", dir.join("cache"))
        .env("GO111MODULE", "off")
        .output()
        .expect("a compiler");
    assert!(out.status.success(), "{compiler:?}: {}", String::from_utf8_lossy(&out.stderr));
    dir.join("built").display().to_string()
}

#[test]
fn python() {
    let Some(_turn) = live("stacks of python3") else { return };
    let Some(_dir) = ready("stacks of python3", &[("python3", "python3")]) else { return };
    let script = "import json, re\n\
                  for i in range(250): json.loads(json.dumps(list(range(20000))))\n\
                  for i in range(100): sorted(re.findall('a+b|c', 'aaabcaab' * 8000), key=len)";
    let stacks = assert_whole("python3", &["/usr/bin/python3", "-c", script]);
    assert_found(&stacks.profile, "python3.11");
}

#[test]
fn openssl() {
    let Some(_turn) = live("stacks of openssl") else { return };
    let Some(_dir) = ready("stacks of openssl", &[("openssl", "openssl")]) else { return };
    // Assembly with unwind information written by hand, for each its own.
    for what in ["sha256", "rsa2048", "ecdsap384", "aes-256-gcm", "chacha20-poly1305", "ecdhx25519"]
    {
        let speed = ["/usr/bin/openssl", "speed", "-seconds", "1", "-bytes", "1024"];
        // Ciphers of that kind go by another option.
        let evp = what.contains('-').then_some("-evp");
        let cmd: Vec<_> = speed.into_iter().chain(evp).chain([what]).collect();
        assert_whole(what, &cmd);
    }
}

#[test]
fn xz() {
    let Some(_turn) = live("stacks of xz") else { return };
    let Some(_dir) = ready("stacks of xz", &[("xz", "xz-utils")]) else { return };
    let libc = "/usr/lib/x86_64-linux-gnu/libc.so.6";
    assert_whole("xz", &["/usr/bin/xz", "-k", "-c", "-3", libc]);
}

#[test]
fn gcc_with_what_it_starts() {
    let Some(_turn) = live("stacks of gcc") else { return };
    let Some(dir) = ready("stacks of gcc", &[("gcc", "gcc")]) else { return };
    let functions = (0..2000)
        .map(|i| format!("int f{i}(int a){{int s=0;for(int i=0;i<a;i++)s+=i*{i};return s;}}\n"));
    let source = dir.path().join("x.c");
    fs::write(&source, functions.collect::<String>()).expect("a file");
    let source = source.to_str().expect("a path");
    assert_whole("gcc", &["gcc", "-O2", "-c", source, "-o", "/dev/null"]);
}

#[test]
fn git() {
    let Some(_turn) = live("stacks of git") else { return };
    let Some(dir) = ready("stacks of git", &[("git", "git")]) else { return };
    // A hundred processes and threads that compress.
    let script = "cd \"$1\"; export HOME=$1 GIT_CONFIG_NOSYSTEM=1
        git init -q . 2>/dev/null
        git config user.name n; git config user.email e
        i=0; while [ $i -lt 20 ]; do i=$((i+1))
            j=0; while [ $j -lt 40 ]; do j=$((j+1)); seq $i $((i*j+999)) >f$j; done
            git add -A; git commit -qm $i
        done
        git repack -adfq; git fsck 2>/dev/null; git log -p >/dev/null; git blame f7 >/dev/null";
    assert_whole("git", &["sh", "-c", script, "sh", dir.path().to_str().expect("a path")]);
}

#[test]
fn postgres() {
    let Some(_turn) = live("stacks of postgres") else { return };
    let Ok(versions) = fs::read_dir("/usr/lib/postgresql") else {
        has("initdb", "postgresql");
        return;
    };
    let Some(dir) = ready("stacks of postgres", &[]) else { return };
    let mut bin: Vec<_> = versions.filter_map(|v| Some(v.ok()?.path().join("bin"))).collect();
    bin.sort();
    let bin = bin.last().expect("a version").display().to_string();
    let data = dir.path().display().to_string();
    let chown = Command::new("chown").args(["-R", "postgres", &data]).status().expect("chown");
    assert!(chown.success());
    let script = format!(
        "cd {data} && {bin}/initdb -D {data}/pg --no-sync >/dev/null && echo \
         'select count(*), sum(sqrt(a.i)) from generate_series(1, 400000) a(i) group by a.i % 77;' |
         {bin}/postgres --single -D {data}/pg template1 >/dev/null"
    );
    let stacks =
        assert_whole("postgres", &["runuser", "-u", "postgres", "--", "sh", "-c", &script]);
    assert_found(&stacks.profile, "postgres");
}

#[test]
fn rust() {
    let Some(_turn) = live("stacks of Rust") else { return };
    let Some(dir) = ready("stacks of Rust", &[("rustc", "rustc")]) else { return };
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc");
    let rustc = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned() + "/bin/rustc";
    // Closures and iterators, all inlined, and panics that are caught.
    let source = "use std::collections::BTreeMap;
        #[inline(always)]
        fn mix(a: u64) -> u64 { (a ^ a >> 7).wrapping_mul(0x9e37_79b9_7f4a_7c15) }
        #[inline(never)]
        fn deeper(n: u64) -> u64 {
            if n == 0 { panic!(\"deep\") }
            std::hint::black_box(deeper(n - 1)) + 1
        }
        fn main() {
            std::panic::set_hook(Box::new(|_| {}));
            let begin = std::time::Instant::now();
            let mut sum = 0;
            while begin.elapsed().as_millis() < 1500 {
                let map: BTreeMap<u64, String> =
                    (0..500).map(|i| (mix(i), format!(\"{i}\"))).collect();
                sum += map.values().filter(|v| v.contains('7')).map(|v| v.len()).sum::<usize>();
                sum += usize::from(std::panic::catch_unwind(|| deeper(30)).is_err());
            }
            println!(\"{sum}\");
        }";
    let program = built(dir.path(), &["rustc", "-O", "-o", "built"], "x.rs", source);
    assert_whole("a program in Rust", &[&program]);
    // And the compiler: LLVM, and threads.
    let functions = (0..300).map(|i| {
        format!("pub fn f{i}(v: &[u64]) -> Vec<String> {{ v.iter().map(|x| format!(\"{{}}\", x * {i})).collect() }}\n")
    });
    fs::write(dir.path().join("x.rs"), functions.collect::<String>()).expect("a source");
    let args = ["--crate-type=lib", "-O", "--out-dir", dir.path().to_str().expect("a path")];
    let source = dir.path().join("x.rs").display().to_string();
    assert_whole("rustc", &[&[rustc.as_str(), &source], &args[..]].concat());
}

#[test]
fn cxx_with_inlining_and_exceptions() {
    let Some(_turn) = live("stacks of C++") else { return };
    let Some(dir) = ready("stacks of C++", &[("g++", "g++")]) else { return };
    let source = "#include <chrono>
        #include <map>
        #include <stdexcept>
        #include <string>
        struct Guard { int *n; ~Guard() { ++*n; } };
        __attribute__((noinline)) int deeper(int n, int *ended) {
            Guard guard{ended};
            if (!n) throw std::runtime_error(\"deep\");
            int r = deeper(n - 1, ended);
            asm volatile(\"\");
            return r + 1;
        }
        static int count(const std::map<std::string, int> &m) {
            int n = 0;
            for (auto &p : m) n += p.first.size() + p.second;
            return n;
        }
        int main() {
            auto begin = std::chrono::steady_clock::now();
            int sum = 0, ended = 0;
            while (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(1500)) {
                std::map<std::string, int> m;
                for (int i = 0; i < 100; i++) m[std::to_string(i * 7919)] += i;
                sum += count(m);
                try { deeper(20, &ended); } catch (const std::exception &e) { sum += e.what()[0]; }
            }
            return sum + ended == 42;
        }";
    let program = built(dir.path(), &["g++", "-O2", "-o", "built"], "x.cc", source);
    let stacks = assert_whole("a program in C++", &[&program]);
    assert_found(&stacks.profile, "built");
}

#[test]
fn go() {
    let Some(_turn) = live("stacks of Go") else { return };
    let Some(dir) = ready("stacks of Go", &[("go", "golang-go")]) else { return };
    // Goroutines, garbage that is collected, and calls of the system.
    let source = "package main
        import (\"fmt\"; \"os\"; \"sort\"; \"strings\"; \"sync\"; \"time\")
        func work(n int) int {
            m := map[string]int{}
            for i := 0; i < 300; i++ { m[fmt.Sprint(i*n)] += i }
            keys := []string{}
            for k := range m { keys = append(keys, strings.Repeat(k, 3)) }
            sort.Strings(keys)
            os.Getppid()
            return len(keys)
        }
        func main() {
            begin := time.Now()
            var all sync.WaitGroup
            for g := 0; g < 4; g++ {
                all.Add(1)
                go func(g int) {
                    defer all.Done()
                    for time.Since(begin) < 1500*time.Millisecond { work(g) }
                }(g)
            }
            all.Wait()
        }";
    let program = built(dir.path(), &["go", "build", "-o", "built"], "x.go", source);
    let stacks = assert_whole("a program in Go", &[&program]);
    assert_found(&stacks.profile, "built");
}

/// V8's builtins have no CFI. Compiled code has frame pointers, but its memory is not
/// executable while V8 writes to it, with callers in it: such stacks end there.
#[test]
fn node() {
    let Some(_turn) = live("stacks of node") else { return };
    let Some(dir) = ready("stacks of node", &[("node", "nodejs")]) else { return };
    let script = dir.path().join("x.js");
    let source = "function work(n) {
          const m = new Map(); for (let i = 0; i < 300; i++) m.set('k' + i * n, i);
          const a = [...m.keys()].map(k => k.repeat(3)).sort();
          return JSON.parse(JSON.stringify(a)).filter(x => /7+/.test(x)).length;
        }
        let x = 0;
        while (process.cpuUsage().user < 1500000) x ^= work(x & 15);";
    fs::write(&script, source).expect("a script");
    let script = script.to_str().expect("a path");
    let stacks = assert_whole("node --jitless", &["node", "--jitless", script]);
    assert_found(&stacks.profile, "node");
    let stacks = run_stacks(&["-F", "997"], &["node", script]);
    let (n, whole) = (stacks.samples(), stacks.whole());
    println!("node: {whole} of {n} whole");
    assert!(n >= 150 && whole * 10 >= n * 9, "{whole} of {n}");
}

#[test]
fn a_program_that_only_others_see_is_found_when_its_process_is_gone() {
    let Some(_turn) = live("short processes with mounts of their own") else { return };
    let needs = [("unshare", "util-linux"), ("mount", "mount")];
    let Some(dir) = ready("short processes with mounts of their own", &needs) else { return };
    // Each is gone long before anybody can look; the shell that has the same mounts is not.
    let script = format!(
        "set -e; mount -t tmpfs none {dir}; cp {target} {dir}/hidden; \
         i=0; while [ $i -lt 100 ]; do {dir}/hidden burn 1 >/dev/null; i=$((i+1)); done",
        dir = dir.path().display(),
        target = target().display(),
    );
    let stacks = run_stacks(&["-F", "2000"], &["unshare", "-m", "sh", "-c", &script]);
    let p = &stacks.profile;
    let module = p.modules.iter().find(|m| m.path.ends_with("hidden")).expect("the program");
    assert!(!module.build_id.is_empty(), "{:?}", p.no_tables);
    assert!(p.no_tables.is_empty(), "{:?}", p.no_tables);
    let whole = stacks.whole();
    println!("{whole} of {} samples whole", stacks.samples());
    assert!(whole * 100 >= stacks.samples() * 95, "{whole} of {}", stacks.samples());
}

#[test]
fn a_program_on_an_overlay_that_is_not_the_root() {
    let Some(_turn) = live("a program on an overlay") else { return };
    let needs = [("unshare", "util-linux"), ("mount", "mount")];
    let Some(dir) = ready("a program on an overlay", &needs) else { return };
    let recording = dir.path().join("x.stacks");
    // Mounts that nobody else sees, and that go with the shell.
    let script = format!(
        "set -e; cd {dir}; mkdir t; mount -t tmpfs none t; cd t; mkdir l u w m; \
         cp {target} l/on_overlay; \
         mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m; \
         {prof} run --no-cache -o raw:{to} -- m/on_overlay burn 100; \
         {prof} report --no-cache -o folded {to}",
        dir = dir.path().display(),
        target = target().display(),
        prof = prof().display(),
        to = recording.display(),
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output();
    let output = output.expect("unshare");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let profile = raw::read(&recording).expect("stacks");
    let whole = profile.samples.iter().filter(|s| s.whole.is_whole()).count();
    println!("{whole} of {} samples whole", profile.samples.len());
    assert!(profile.samples.len() > 20 && profile.no_tables.is_empty(), "{:?}", profile.no_tables);
    assert!(whole * 100 >= profile.samples.len() * 95, "{whole} of {}", profile.samples.len());
    let folded = String::from_utf8_lossy(&output.stdout);
    assert!(folded.contains("prof_target::"), "{folded}");
}
