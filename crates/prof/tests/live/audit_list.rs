//! What `prof audit --list` says of other profilers: every entry that they must have, by
//! hand, and no other.

pub mod detections;
mod others;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::harness::*;

const NOBODY: u32 = 65534;
/// Longest that a profiler may take to begin.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is ended with the test, by its own id.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("a program"),
        )
    }

    fn sleep() -> Self {
        Self::start(Command::new("sleep").arg("1000"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn perf(args: &[&str]) -> Running {
    let data = ["-o", "/dev/null"];
    let with_data = [&args[..1], &data[..], &args[1..]].concat();
    Running::start(Command::new("perf").args(with_data))
}

/// Readers take keys that come later; of today's there is none that the schema lacks.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(close);
            if map.get("properties").is_some_and(Value::is_object) {
                map.insert("additionalProperties".into(), false.into());
            }
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

/// The whole list, each line checked against the schema.
fn list_of(command: &mut Command) -> (Value, Vec<Value>) {
    static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();
    let validator = SCHEMA.get_or_init(|| {
        let schema = include_str!("../../../../docs/schema/prof-audit-list.schema.json");
        let mut schema: Value = serde_json::from_str(schema).expect("the schema");
        close(&mut schema);
        jsonschema::validator_for(&schema).expect("a valid schema")
    });
    let child = command
        .args(["audit", "--list", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("prof");
    let own = child.id();
    let output = child.wait_with_output().expect("prof");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut records = Records::parse(&String::from_utf8_lossy(&output.stdout)).0;
    for r in &records {
        if let Err(e) = validator.validate(r) {
            panic!("{e}\n{r}");
        }
    }
    let head = records.remove(0);
    assert_eq!(
        (&head["record"], head["entries"].as_u64()),
        (&"list".into(), Some(records.len() as u64))
    );
    // What prof has open for the list is not in it.
    assert!(records.iter().all(|r| r["by"]["pid"] != own), "{records:#?}");
    (head, records)
}

fn list() -> Vec<Value> {
    let (head, records) = list_of(&mut Command::new(prof()));
    // Older kernels cannot list links; that is all that may be missing for root.
    let links = |l: &Value| l.as_str().is_some_and(|l| l.contains("links"));
    assert!(head["limits"].as_array().expect("limits").iter().all(links), "{head}");
    records
}

fn by(pid: u32, all: &[Value]) -> Vec<Value> {
    all.iter().filter(|r| r["by"]["pid"] == pid).cloned().collect()
}

/// Descriptors of a process that are perf events, as /proc has them.
fn events_of(pid: u32) -> Vec<i64> {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let mut fds: Vec<i64> = files
        .flatten()
        .filter(|f| {
            fs::read_link(f.path()).is_ok_and(|to| to == Path::new("anon_inode:[perf_event]"))
        })
        .filter_map(|f| f.file_name().to_str()?.parse().ok())
        .collect();
    fds.sort_unstable();
    fds
}

/// Waits until what a profiler has is as told, a line for each entry; and checks that it
/// is just its open descriptors.
fn expect(profiler: &Running, mut lines: Vec<String>) -> Vec<Value> {
    lines.sort_unstable();
    let began = Instant::now();
    loop {
        let before = events_of(profiler.pid());
        let all = by(profiler.pid(), &list());
        let mut found: Vec<String> = all.iter().map(line).collect();
        found.sort_unstable();
        let same = before == events_of(profiler.pid());
        if found == lines && same {
            let mut fds: Vec<i64> = all
                .iter()
                .flat_map(|r| r["holders"].as_array().expect("holders"))
                .filter(|h| h["process"]["pid"] == profiler.pid())
                .filter_map(|h| h["fd"].as_i64())
                .collect();
            fds.sort_unstable();
            assert_eq!(fds, before, "{all:#?}");
            return all;
        }
        assert!(began.elapsed() < PATIENCE, "expected {lines:#?}\nfound {found:#?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// `for whom: what, how, state`.
fn line(r: &Value) -> String {
    let target = &r["target"];
    let cpu = target["cpu"].as_u64().map_or(String::new(), |c| format!(" cpu {c}"));
    let whom = match target["kind"].as_str().expect("a kind") {
        "process" => format!("{}{cpu}", target["process"]["tid"]),
        "cgroup" => format!("{}{cpu}", target["cgroup"].as_str().unwrap_or("?")),
        "cpu" => cpu.trim_start().to_owned(),
        kind => kind.to_owned(),
    };
    let attr = &r["attr"];
    let how = match attr["sampling"].as_str() {
        Some("period") => format!(" every {}", attr["period"]),
        Some("freq") => format!(" {} Hz", attr["freq"]),
        Some(_) => " counts".to_owned(),
        None => String::new(),
    };
    let stacks = match (&attr["user_stacks"], &attr["kernel_stacks"]) {
        (Value::Bool(true), Value::Bool(true)) => " both stacks",
        (Value::Bool(true), _) => " user stacks",
        (_, Value::Bool(true)) => " kernel stacks",
        _ => "",
    };
    let program = if r["program"].is_object() { " by BPF" } else { "" };
    let name = r["name"].as_str().expect("a name");
    format!("{whom}: {name}{how}{stacks}{program} {}", r["state"].as_str().expect("a state"))
}

fn online() -> Vec<u32> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").expect("CPUs");
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(a.parse::<u32>().expect("a CPU")..=b.parse().expect("a CPU"));
    }
    cpus
}

#[test]
fn counters_of_another_process() {
    let Some(_turn) = live("list of perf stat -p") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let target = Running::sleep();
    let pid = target.pid();
    let events = "task-clock,page-faults,context-switches:u,sched:sched_switch";
    let stat = perf(&["stat", "-e", events, "-p", &pid.to_string()]);
    let all = expect(
        &stat,
        vec![
            // As root perf counts what was asked for, in user mode where `u` is.
            format!("{pid}: task-clock counts on"),
            format!("{pid}: page-faults counts on"),
            format!("{pid}: context-switches:u counts on"),
            format!("{pid}: sched:sched_switch counts on"),
        ],
    );
    for r in &all {
        assert_eq!(
            (&r["by"]["comm"], &r["target"]["process"]["comm"]),
            (&"perf".into(), &"sleep".into())
        );
        assert_eq!(r["by"]["exe"], "/usr/bin/perf");
        assert_eq!((&r["kind"], &r["through"]), (&"perf".into(), &"perf_event_open".into()));
        let uid = &r["target"]["process"]["uid"];
        assert_eq!(uid, &rustix::process::getuid().as_raw());
    }
    drop(target);
    // It is over, though perf has it open until it looks.
    let began = Instant::now();
    while !by(stat.pid(), &list()).iter().all(|r| r["state"] == "target_gone") {
        assert!(began.elapsed() < PATIENCE, "{:#?}", by(stat.pid(), &list()));
    }
    drop(stat);
}

#[test]
fn samples_of_every_cpu() {
    let Some(_turn) = live("list of perf record -a") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let record = perf(&["record", "--no-bpf-event", "-e", "page-faults", "-c", "1000", "-g", "-a"]);
    let mut lines = Vec::new();
    for cpu in online() {
        lines.push(format!("cpu {cpu}: page-faults every 1000 both stacks on"));
        // What maps and names what it samples.
        lines.push(format!("cpu {cpu}: dummy every 1000 on"));
    }
    let all = expect(&record, lines);
    // It says how long it has been on, not how long the kernel last knew of.
    let first = all[0]["enabled_ns"].as_u64().expect("a time");
    thread::sleep(Duration::from_millis(300));
    let later = by(record.pid(), &list());
    let later = later.iter().find(|r| r["id"] == all[0]["id"]).expect("the same event");
    let later = later["enabled_ns"].as_u64().expect("a time");
    assert!(later >= first + 200_000_000, "{first} {later}");
    // For people it is a line.
    let table = Command::new(prof()).args(["audit", "--list"]).output().expect("prof");
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    let who = format!("perf {} ", record.pid());
    let of: Vec<_> = table.lines().filter(|l| l.starts_with(&who)).collect();
    assert_eq!(of.len(), 2, "{table}");
    assert!(of.iter().any(|l| l.contains("samples, every 1000, stacks")), "{table}");
}

/// Where perf has its controller: v1 if that is mounted, else v2.
fn perf_cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let v1 = |l: &&str| l.contains(" - cgroup ") && l.contains("perf_event");
    let found = mounts.lines().find(v1).or(mounts.lines().find(|l| l.contains(" - cgroup2 ")))?;
    Some(PathBuf::from(found.split(' ').nth(4)?))
}

#[test]
fn counters_of_a_cgroup() {
    let Some(_turn) = live("list of perf stat -G") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let root = perf_cgroups().expect("a cgroup hierarchy");
    let name = format!("prof-list-{}", std::process::id());
    fs::create_dir_all(root.join(&name).join("below")).expect("a cgroup");
    let below = format!("{name}/below");
    {
        let stat = perf(&["stat", "-e", "cpu-clock", "-a", "-G", &below]);
        let lines = online().into_iter().map(|c| format!("/{below} cpu {c}: cpu-clock counts on"));
        expect(&stat, lines.collect());
    }
    for group in [root.join(&below), root.join(&name)] {
        fs::remove_dir(group).expect("remove a cgroup");
    }
}

#[test]
fn inherited_copies() {
    let Some(_turn) = live("list of inherited events") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let target = target().to_str().expect("a path");
    let stat = perf(&["stat", "-e", "page-faults", "--", target, "herd", "3", "120000"]);
    // perf's child is the command; that has three children that wait.
    let children = |pid: u64| -> Vec<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        text.unwrap_or_default().split_whitespace().filter_map(|p| p.parse().ok()).collect()
    };
    let began = Instant::now();
    let (command, mut herd) = loop {
        let command = children(stat.pid().into());
        let herd = command.first().map(|c| children(*c)).unwrap_or_default();
        if herd.len() == 3 {
            break (command[0], herd);
        }
        assert!(began.elapsed() < PATIENCE, "{command:?} {herd:?}");
        thread::sleep(Duration::from_millis(20));
    };
    let all = expect(&stat, vec![format!("{command}: page-faults counts on")]);
    let copies = &all[0]["copies"];
    herd.sort_unstable();
    assert_eq!((&copies["count"], &copies["more"]), (&3.into(), &false.into()), "{all:#?}");
    assert_eq!(copies["pids"], serde_json::json!(herd));
    // The kernel takes that back when it has happened.
    assert_eq!(all[0]["attr"]["enable_on_exec"], false);
    signal(command as u32, libc::SIGKILL);
}

/// An event of this thread, for the next program that it executes.
fn waiting_event() -> i32 {
    // PERF_ATTR_SIZE_VER0: type software, dummy, disabled, enable_on_exec.
    let mut attr = [0u8; 64];
    (attr[0], attr[4], attr[8]) = (1, 64, 9);
    attr[40..48].copy_from_slice(&(1u64 | 1 << 12).to_le_bytes());
    const CLOEXEC: i32 = 8;
    // SAFETY: the attr is as long as it says and is read during the call.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), 0, -1, -1, CLOEXEC) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    fd as i32
}

#[test]
fn hundreds_of_events() {
    let Some(_turn) = live("list of hundreds of events") else { return };
    // Their records are more than the kernel hands out at once.
    let fds: Vec<i32> = (0..800).map(|_| waiting_event()).collect();
    let all = by(std::process::id(), &list());
    for fd in &fds {
        // SAFETY: opened above and used by nobody else.
        unsafe { libc::close(*fd) };
    }
    let mut held: Vec<i64> = all.iter().filter_map(|r| r["holders"][0]["fd"].as_i64()).collect();
    held.sort_unstable();
    let mut expected: Vec<i64> = fds.into_iter().map(i64::from).collect();
    expected.sort_unstable();
    assert_eq!(held, expected);
    assert_eq!(by(std::process::id(), &list()), Vec::<Value>::new());
}

#[test]
fn an_event_that_several_have_open_is_one() {
    let Some(_turn) = live("list of an event that is passed on") else { return };
    let fd = waiting_event();
    let own = std::process::id();
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    // SAFETY: fcntl is safe between fork and exec.
    unsafe {
        sleep.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let other = Running::start(&mut sleep);
    let began = Instant::now();
    let all = loop {
        let all = by(own, &list());
        let holders = |r: &Value| r["holders"].as_array().expect("holders").len();
        if all.iter().any(|r| holders(r) == 2) {
            break all;
        }
        assert!(began.elapsed() < PATIENCE, "{all:#?}");
    };
    // SAFETY: opened above and used by nobody else.
    unsafe { libc::close(fd) };
    assert_eq!(all.len(), 1, "{all:#?}");
    let tid = all[0]["by"]["tid"].as_u64().expect("a thread");
    assert_eq!(line(&all[0]), format!("{tid}: dummy counts awaits_exec"));
    let mut holders: Vec<_> = all[0]["holders"]
        .as_array()
        .expect("holders")
        .iter()
        .map(|h| (h["process"]["pid"].as_u64(), h["fd"].as_i64()))
        .collect();
    holders.sort_unstable();
    let mut expected =
        vec![(Some(own.into()), Some(fd.into())), (Some(other.pid().into()), Some(fd.into()))];
    expected.sort_unstable();
    assert_eq!(holders, expected);
    // This process has closed it, and still is who opened it.
    let all = by(own, &list());
    assert_eq!(all.len(), 1, "{all:#?}");
    assert_eq!(all[0]["holders"][0]["process"]["pid"], other.pid());
    drop(other);
    assert_eq!(by(own, &list()), Vec::<Value>::new());
}

/// A copy that other users can execute.
fn copy_for_all() -> (tempfile::TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir_in("/tmp").expect("a folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    let ours = dir.path().join("prof");
    fs::copy(prof(), &ours).expect("a copy");
    (dir, ours)
}

#[test]
fn a_list_is_a_table_or_json() {
    let Some(_turn) = live("outputs of the list") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("list.json");
    let both = ["audit", "--list", "-o", "table", "-o", &format!("json:{}", file.display())];
    let output = Command::new(prof()).args(both).output().expect("prof");
    assert!(output.status.success() && !output.stdout.is_empty());
    assert_eq!(Records::read(&file).0[0]["record"], "list");
    let tracee = Command::new(prof()).args(["audit", "--list", "-o", "tracee"]).output();
    let tracee = tracee.expect("prof");
    assert_eq!(tracee.status.code(), Some(2), "bad usage");
    assert!(String::from_utf8_lossy(&tracee.stderr).contains("table and json are"));
}

#[test]
fn without_rights_it_says_what_it_cannot_see() {
    let Some(_turn) = live("list without rights") else { return };
    if !has("perf", "linux-perf") {
        return;
    }
    let (_dir, ours) = copy_for_all();
    let nobody = |program: &str, args: &[&str]| {
        let mut c = Command::new(program);
        Running::start(c.args(args).current_dir("/").uid(NOBODY).gid(NOBODY))
    };
    let target = nobody("sleep", &["1000"]);
    let pid = target.pid().to_string();
    let stat = nobody("perf", &["stat", "-e", "page-faults:u,task-clock:u", "-p", &pid]);
    let began = Instant::now();
    while events_of(stat.pid()).len() < 2 {
        assert!(began.elapsed() < PATIENCE, "perf opens nothing");
        thread::sleep(Duration::from_millis(20));
    }
    let (head, all) = list_of(Command::new(&ours).uid(NOBODY).gid(NOBODY).current_dir("/"));
    let found = by(stat.pid(), &all);
    let lines: Vec<String> = found.iter().map(line).collect();
    assert_eq!(lines, ["unknown: ? unknown", "unknown: ? unknown"], "{all:#?}");
    let fds: Vec<_> = found.iter().filter_map(|r| r["holders"][0]["fd"].as_i64()).collect();
    assert_eq!(fds, events_of(stat.pid()));
    let limits = head["limits"].to_string();
    assert!(limits.contains("without BPF") && limits.contains("other users"), "{limits}");
}
