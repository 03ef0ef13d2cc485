//! Starting prof and its targets, and reading what it wrote.

use std::env;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

/// Longest that anything may take before it counts as hanging; generous, since
/// an emulated machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// The turn of a test, if this machine can run it; if not, says so, and fails
/// where that is not allowed. Live tests take turns: most of them watch the whole
/// host, and would see each other's targets.
pub fn live(what: &str) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    if !rustix::process::geteuid().is_root() {
        skip(what, "it needs root (run: sudo -E cargo test)");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(|e| e.into_inner()))
}

/// Times that something is tried which the host can disturb.
pub const TRIES: usize = 12;

/// Until it is so once: a hypervisor that takes the CPU away for a while, or tells of
/// it late, disturbs some of the tries. A fault of prof's own is there every time.
pub fn once(what: &str, attempt: impl Fn() -> Result<(), String>) {
    once_in(TRIES, what, attempt);
}

/// The same with so many tries.
pub fn once_in(most: usize, what: &str, attempt: impl Fn() -> Result<(), String>) {
    let tries: Vec<_> = (0..most).map_while(|_| attempt().err()).collect();
    assert!(tries.len() < most, "{what}: {tries:#?}");
}

/// Whether a program is there to compare with.
pub fn has(program: &str, package: &str) -> bool {
    let dirs = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&dirs).any(|d| d.join(program).is_file());
    // A virtual machine has no packages; the same test runs outside of it.
    if !found && env::var_os("PROF_VM").is_some() {
        eprintln!("SKIPPED in the virtual machine: no {program}");
        return false;
    }
    found || skip(program, &format!("{program} is not installed (apt-get install {package})"))
}

/// Says that something is left out, and why; fails where that is not allowed.
pub fn skip(what: &str, why: &str) -> bool {
    let message = format!("SKIPPED {what}: {why}");
    assert!(env::var("PROF_LIVE").as_deref() != Ok("require"), "{message}");
    eprintln!("{message}");
    false
}

/// Whether this is an emulated machine, in which times mean nothing; says what is left
/// out because of it.
pub fn emulated(what: &str) -> bool {
    let is = env::var_os("PROF_VM").is_some();
    if is {
        eprintln!("SKIPPED in the virtual machine: {what}");
    }
    is
}

/// Whether the hooks are kprobes, which know of an exec only when it returns; says what
/// is left out because of it.
pub fn kprobes(what: &str) -> bool {
    let are = hooks().as_deref() == Some("kprobe");
    if are {
        eprintln!("SKIPPED with kprobes: {what}");
    }
    are
}

/// Version of the running kernel.
pub fn linux() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The program under test.
pub fn prof() -> PathBuf {
    env::var_os("PROF_BIN").map_or_else(|| env!("CARGO_BIN_EXE_prof").into(), PathBuf::from)
}

/// The program whose behaviours are measured; built on first use.
pub fn target() -> &'static Path {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    TARGET.get_or_init(|| {
        if let Some(given) = env::var_os("PROF_TARGET") {
            return given.into();
        }
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "prof-testkit"])
            // The one that is looked for below, and not that of an earlier build.
            .args((!cfg!(debug_assertions)).then_some("--release"))
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .status()
            .expect("cargo");
        assert!(status.success(), "building prof-testkit");
        let beside = prof().with_file_name("prof-target");
        assert!(beside.is_file(), "{} is not there", beside.display());
        beside
    })
}

/// `prof VERB`, with the backend that is to be tested.
pub fn command(verb: &str) -> Command {
    let mut c = without_hooks(verb);
    if let (Some(hooks), true) =
        (env::var_os("PROF_HOOKS"), !["events", "doctor", "audit"].contains(&verb))
    {
        c.arg("--hooks").arg(hooks);
    }
    c
}

/// The same, of whatever kind the hooks are, if there are any.
pub fn without_hooks(verb: &str) -> Command {
    let mut c = Command::new(prof());
    c.arg(verb).env("PROF_CACHE_DIR", cache_dir());
    // A shell that runs the tests in the background has Ctrl-C ignored, and prof hands
    // that on to its command.
    // SAFETY: signal is safe between fork and exec.
    unsafe {
        c.pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        });
    }
    c
}

/// The backend that is forced, if one is.
pub fn hooks() -> Option<String> {
    env::var("PROF_HOOKS").ok()
}

fn cache_dir() -> &'static Path {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    DIR.get_or_init(|| tempfile::tempdir().expect("a folder")).path()
}

/// The records of a stream.
#[derive(Debug, Clone)]
pub struct Records(pub Vec<Value>);

impl Records {
    pub fn parse(text: &str) -> Self {
        let parse = |l: &str| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"));
        Self(text.lines().map(parse).collect())
    }

    pub fn read(path: &Path) -> Self {
        Self::parse(&fs::read_to_string(path).expect("output file"))
    }

    pub fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let kind = kind.to_owned();
        self.0.iter().filter(move |r| r["record"] == kind.as_str())
    }

    pub fn profiles(&self) -> Vec<&Value> {
        self.of("profile").collect()
    }

    /// Profiles of one process.
    pub fn of_pid(&self, pid: u64) -> Vec<&Value> {
        self.of("profile").filter(|p| p["process"]["pid"] == pid).collect()
    }

    pub fn end(&self) -> &Value {
        self.of("end").next().expect("an end record")
    }

    /// Profiles but for those that a later one of the same window replaces.
    pub fn last_profiles(&self) -> Vec<&Value> {
        let window = |p: &Value| {
            let of = &p["process"];
            let start = p["window"]["start"].to_string();
            (of["pid"].to_string(), of["start_ns"].to_string(), of["exec"].to_string(), start)
        };
        let all = self.profiles();
        let replaced = |i: usize, p: &Value| {
            let later = || all[i + 1..].iter().any(|o| window(o) == window(p));
            p["window"]["end"] == "running" && later()
        };
        all.iter().enumerate().filter(|(i, p)| !replaced(*i, p)).map(|(_, p)| *p).collect()
    }

    /// No figure went below 0, and so round.
    pub fn assert_plausible(&self) {
        for r in self.of("profile") {
            for (name, figure) in r["figures"].as_object().into_iter().flatten() {
                let value = figure["value"].as_u64().unwrap_or(0);
                assert!(value < 1 << 60, "{name}: {r}");
            }
        }
    }

    /// Every process is accounted for, and nothing was lost.
    pub fn assert_whole(&self) {
        let end = self.end();
        // A switch that the kernel did not tell of loses counts, and no process; tests
        // of counts look at it themselves.
        let mut lost = end["lost"].clone();
        lost.as_object_mut().expect("an object").remove("slice_missed");
        assert_eq!(lost, serde_json::json!({}), "{end}");
        self.assert_plausible();
        self.assert_reconciled();
    }

    /// enabled = disabled + running + lost, and the records say the same.
    pub fn assert_reconciled(&self) {
        let end = self.end();
        let n = |k: &str| end[k].as_u64().unwrap_or_else(|| panic!("{k} in {end}"));
        assert_eq!(n("enabled"), n("disabled") + n("running") + n("lost_profiles"), "{end}");
        let off = |r: &&Value| !has_flag(r, "enable");
        assert_eq!(n("disabled"), self.of("prof").filter(off).count() as u64, "{end}");
        let profiles = self.last_profiles().len() as u64;
        assert_eq!(n("disabled") + n("running"), profiles, "profiles; {end}");
    }
}

pub fn has_flag(record: &Value, flag: &str) -> bool {
    record["flags"].as_array().is_some_and(|f| f.iter().any(|x| x == flag))
}

pub fn figure(profile: &Value, name: &str) -> u64 {
    profile["figures"][name]["value"].as_u64().unwrap_or_else(|| panic!("{name} in {profile}"))
}

/// A finished `prof run` with its records and what the command printed.
pub struct Run {
    pub records: Records,
    pub output: Output,
}

impl Run {
    /// `key=value` that the target printed.
    pub fn said(&self, key: &str) -> u64 {
        said(&String::from_utf8_lossy(&self.output.stdout), key)
    }
}

pub fn said(stdout: &str, key: &str) -> u64 {
    stdout
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("no {key} in {stdout}"))
        .parse()
        .expect("a number")
}

/// `prof run OPTIONS -- prof-target ARGS`.
pub fn run_target(options: &[&str], args: &[&str]) -> Run {
    let mut all = vec![target().to_str().expect("a path")];
    all.extend(args);
    run(options, &all)
}

/// `prof run OPTIONS -- COMMAND`.
pub fn run(options: &[&str], cmd: &[&str]) -> Run {
    let dir = tempfile::tempdir().expect("a folder");
    let json = dir.path().join("records.json");
    let whole = options.contains(&"--unprivileged");
    let mut prof = if whole { without_hooks("run") } else { command("run") };
    let output = prof
        .args(options)
        .arg("-o")
        .arg(format!("json:{}", json.display()))
        .arg("--")
        .args(cmd)
        .output()
        .expect("prof run");
    let records = match fs::read_to_string(&json) {
        Ok(text) => Records::parse(&text),
        Err(e) => panic!("{e}; prof said: {}", String::from_utf8_lossy(&output.stderr)),
    };
    Run { records, output }
}

/// A running `prof watch` or `prof attach`.
pub struct Watch {
    child: Child,
    json: PathBuf,
    _dir: tempfile::TempDir,
}

impl Watch {
    /// Starts it, and comes back when it is attached.
    pub fn start(options: &[&str]) -> Self {
        Self::verb("watch", options)
    }

    pub fn verb(verb: &str, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let json = dir.path().join("records.json");
        let mut child = command(verb)
            .args(["-o", &format!("json:{}", json.display())])
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prof");
        let began = Instant::now();
        // The header is written when the hooks are attached.
        while fs::metadata(&json).map_or(0, |m| m.len()) == 0 {
            if let Some(status) = child.try_wait().expect("prof") {
                panic!("prof {verb} ended with {status}: {}", stderr_of(&mut child));
            }
            assert!(began.elapsed() < PATIENCE, "prof {verb} never got ready");
            thread::sleep(Duration::from_millis(10));
        }
        Self { child, json, _dir: dir }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `enough` holds of what was written so far.
    pub fn until(&self, what: &str, enough: impl Fn(&Records) -> bool) {
        let began = Instant::now();
        loop {
            let text = fs::read_to_string(&self.json).expect("output");
            // The last line may be half written.
            let whole = text.rfind('\n').map_or("", |at| &text[..=at]);
            if enough(&Records::parse(whole)) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "never: {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ctrl-C, and the records.
    pub fn stop(mut self) -> Records {
        signal(self.child.id(), libc::SIGINT);
        self.wait()
    }

    /// Waits for its own end.
    pub fn wait(&mut self) -> Records {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("prof") {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "prof does not end");
            thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "{status}: {}", stderr_of(&mut self.child));
        Records::read(&self.json)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A failed test must not leave it behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stderr_of(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(mut e) = child.stderr.take() {
        let _ = e.read_to_string(&mut text);
    }
    text
}

pub fn signal(pid: u32, signal: i32) {
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0, "signal {signal} to {pid}");
}

/// Runs a target beside prof; its standard output.
pub fn target_output(args: &[&str]) -> String {
    let output = Command::new(target()).args(args).output().expect("prof-target");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
