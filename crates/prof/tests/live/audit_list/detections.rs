//! What `examples/audit-detections.sh` finds in real lists.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use super::*;

/// What the example says of records: rule and name of each finding, each once.
pub fn detect(list: &[Value], ops: &str) -> (Vec<(String, String, u64)>, Option<i32>) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/audit-detections.sh");
    let mut child = Command::new(script)
        .env("OPS", ops)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example");
    let lines: Vec<String> = list.iter().map(Value::to_string).collect();
    let mut to = child.stdin.take().expect("its input");
    to.write_all((lines.join("\n") + "\n").as_bytes()).expect("to write to it");
    drop(to);
    let output = child.wait_with_output().expect("the example");
    let found = Records::parse(&String::from_utf8_lossy(&output.stdout)).0;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = found
        .iter()
        .map(|f| (text(&f["rule"]), text(&f["name"]), f["uid"].as_u64().unwrap_or(u64::MAX)))
        .collect();
    found.sort();
    found.dedup();
    (found, output.status.code())
}

#[test]
fn detections_of_the_examples() {
    let Some(_turn) = live("detections") else { return };
    if !has("perf", "linux-perf") || !has("jq", "jq") || !has("setpriv", "util-linux") {
        return;
    }
    let ours = Running::sleep();
    let pid = ours.pid().to_string();
    let nobody = |args: &[&str]| {
        // CAP_PERFMON is what an operator gives who lets somebody profile.
        let rights = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let perfmon = ["--inh-caps=+perfmon", "--ambient-caps=+perfmon"];
        let mut c = Command::new("setpriv");
        Running::start(c.args(rights).args(perfmon).args(args).current_dir("/"))
    };
    let record = ["perf", "record", "--no-bpf-event", "-o", "/dev/null", "-e", "cpu-clock", "-c"];
    let of_root =
        nobody(&[&record[..], &["1000000", "--call-graph", "dwarf", "-p", &pid]].concat());
    let theirs = nobody(&["sleep", "1000"]);
    let own = theirs.pid().to_string();
    let of_own_user = nobody(&["perf", "stat", "-e", "page-faults:u", "-p", &own]);
    let root = perf(&["record", "--no-bpf-event", "-e", "cpu-clock", "-g", "-p", &own]);
    let all = [&of_root, &of_own_user, &root];
    let began = Instant::now();
    let list = loop {
        let list = list();
        if all.iter().all(|p| by(p.pid(), &list).iter().any(|r| r["state"] == "on")) {
            break list;
        }
        assert!(began.elapsed() < PATIENCE, "{list:#?}");
        thread::sleep(Duration::from_millis(50));
    };
    let pids = all.map(Running::pid);
    let of_these: Vec<Value> = list
        .into_iter()
        .filter(|r| r["by"]["pid"].as_u64().is_some_and(|p| pids.contains(&(p as u32))))
        .collect();
    let finding = |rule: &str, uid: u32| (rule.to_owned(), "cpu-clock".to_owned(), u64::from(uid));
    let nobodys = vec![
        finding("foreign_samples", NOBODY),
        finding("kernel_stacks", NOBODY),
        finding("stack_memory", NOBODY),
    ];
    assert_eq!(detect(&of_these, "0"), (nobodys.clone(), Some(1)), "{of_these:#?}");
    // One of ops may sample others; the rest stays.
    assert_eq!(detect(&of_these, "0 65534"), (nobodys[1..].to_vec(), Some(1)));
    // What is in order is no finding: root's samples, and what counts one's own.
    let in_order: Vec<Value> =
        of_these.iter().filter(|r| r["by"]["pid"] != of_root.pid()).cloned().collect();
    assert!(in_order.len() >= 2, "{in_order:#?}");
    assert_eq!(detect(&in_order, "0"), (vec![], Some(0)));
    drop((of_root, of_own_user, root, ours, theirs));

    // Without rights the list is short, and that is one.
    let (_dir, copy) = copy_for_all();
    let (head, _) = list_of(Command::new(&copy).uid(NOBODY).gid(NOBODY).current_dir("/"));
    let (found, status) = detect(&[head], "0");
    assert_eq!((found.len(), status), (1, Some(1)), "{found:?}");
    assert_eq!(found[0].0, "not_all_seen");
}

#[test]
fn detections_of_tracers_and_programs() {
    let Some(_turn) = live("detections of ptrace and BPF") else { return };
    if !has("strace", "strace") || !has("jq", "jq") || !has("setpriv", "util-linux") {
        return;
    }
    let ours = Running::sleep();
    let pid = ours.pid().to_string();
    let rights = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let ptrace = ["--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace"];
    let strace = ["strace", "-o", "/dev/null", "-p", &pid];
    let theirs = Running::start(
        Command::new("setpriv").args(rights).args(ptrace).args(strace).current_dir("/"),
    );
    let all = expect(&theirs, vec![format!("{pid}: ptrace on")]);
    let finding =
        |rule: &str, name: &str, uid: u32| (rule.to_owned(), name.to_owned(), u64::from(uid));
    let found = detect(&all, "0");
    assert_eq!(found, (vec![finding("foreign_ptrace", "ptrace", NOBODY)], Some(1)));
    assert_eq!(detect(&all, "65534"), (vec![], Some(0)));
    drop((theirs, ours));

    if hooks().is_some_and(|h| h != "raw_tp") {
        return;
    }
    let watch = Watch::start(&["-s", "comm=nobody", "-e", "wall-time", "--hooks", "raw_tp"]);
    let links = |all: &[Value]| -> Vec<Value> {
        all.iter().filter(|r| r["name"] == "raw_tracepoint:sched_process_exit").cloned().collect()
    };
    let of_watch = links(&by(watch.pid(), &list()));
    let fd = of_watch[0]["holders"][0]["fd"].as_i64().expect("a descriptor");
    let pinned = Pinned::new(watch.pid(), fd as i32);
    let link = of_watch[0]["link"].clone();
    // root is of ops, unless ops is somebody else.
    assert_eq!(detect(&of_watch, "0"), (vec![], Some(0)));
    let name = "raw_tracepoint:sched_process_exit";
    assert_eq!(detect(&of_watch, "1001"), (vec![finding("foreign_bpf", name, 0)], Some(1)));
    watch.stop();
    let left: Vec<Value> = links(&list()).into_iter().filter(|r| r["link"] == link).collect();
    assert_eq!(left.len(), 1, "{left:#?}");
    assert_eq!((&left[0]["by"], &left[0]["holders"]), (&Value::Null, &serde_json::json!([])));
    assert_eq!(line(&left[0]), format!("host: {name} by BPF on"));
    assert_eq!(detect(&left, "0"), (vec![finding("bpf_of_nobody", name, 0)], Some(1)));
    drop(pinned);
    let began = Instant::now();
    while links(&list()).iter().any(|r| r["link"] == link) {
        assert!(began.elapsed() < PATIENCE, "the link stays");
    }
}

/// A link of another process, kept by a file.
struct Pinned(PathBuf);

impl Pinned {
    fn new(pid: u32, fd: i32) -> Self {
        #[repr(C)]
        struct Pin {
            path: u64,
            fd: u32,
            flags: u32,
        }
        const BPF_OBJ_PIN: i32 = 6;
        let path = PathBuf::from(format!("/sys/fs/bpf/prof-list-{}", std::process::id()));
        let name = std::ffi::CString::new(path.to_str().expect("a path")).expect("no NUL");
        let error = std::io::Error::last_os_error;
        // SAFETY: takes numbers only.
        let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        assert!(process >= 0, "{}", error());
        // SAFETY: takes numbers only.
        let link = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, fd, 0) };
        assert!(link >= 0, "{}", error());
        let pin = Pin { path: name.as_ptr() as u64, fd: link as u32, flags: 0 };
        // SAFETY: the path ends in NUL, and both are read during the call.
        let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_PIN, &pin, size_of::<Pin>()) };
        assert_eq!(done, 0, "{}: {} (mount -t bpf bpf /sys/fs/bpf)", path.display(), error());
        for fd in [process, link] {
            // SAFETY: opened above, and used by nobody else.
            unsafe { libc::close(fd as i32) };
        }
        Self(path)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
