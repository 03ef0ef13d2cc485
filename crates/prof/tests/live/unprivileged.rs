//! As an ordinary user.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::*;

const NOBODY: u32 = 65534;

/// prof and its target where nobody can execute them.
struct Copies {
    dir: tempfile::TempDir,
    ours: PathBuf,
    theirs: PathBuf,
}

impl Copies {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/tmp").expect("a folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("permissions");
        let (ours, theirs) = (dir.path().join("prof"), dir.path().join("prof-target"));
        fs::copy(prof(), &ours).expect("a copy");
        fs::copy(target(), &theirs).expect("a copy");
        Self { dir, ours, theirs }
    }
}

#[test]
fn run_works_for_an_ordinary_user() {
    let Some(_turn) = live("an ordinary user") else { return };
    if hooks().is_some() {
        return;
    }
    let Copies { dir, ours, theirs } = Copies::new();
    let json = dir.path().join("out.json");
    let output = Command::new(&ours)
        .args(["run", "-o", &format!("json:{}", json.display()), "-o", "summary", "--"])
        .arg(&theirs)
        .args(["burn", "80"])
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("prof");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    // Told once, with how to grant it.
    assert_eq!(text.matches("CAP_BPF").count().min(1), 1, "{text}");
    assert!(text.contains("setcap"), "{text}");
    let records = Records::read(&json);
    // The same cure, whichever verb it is that is refused.
    let cure = format!("sudo setcap cap_bpf,cap_perfmon+ep {} (everyone", ours.display());
    let header = records.of("header").next().expect("a header").to_string();
    assert!(header.contains(&cure), "{header}");
    let p = records.profiles();
    assert_eq!(p.len(), 1);
    assert!(figure(p[0], "task-clock") >= 75_000_000, "{}", p[0]["figures"]);
    assert!(figure(p[0], "peak-rss") > 0);
    assert!(p[0]["figures"]["run-queue-wait"]["absent"].is_string());
    assert!(has_flag(p[0], "partial"));
    assert_eq!(p[0]["exit"]["code"], 0);
    let output = Command::new(&ours)
        .args(["run", "--"])
        .arg(&theirs)
        .args(["exit", "9"])
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("prof");
    assert_eq!(output.status.code(), Some(9));
    let output = Command::new(&ours).arg("watch").uid(NOBODY).gid(NOBODY).output().expect("prof");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("CAP_BPF") || text.contains("CAP_PERFMON"), "{text}");
    assert!(text.contains(&cure), "{text}");
}

#[test]
fn what_a_whole_command_cannot_give_is_an_error_and_what_there_is_is_kept() {
    let Some(_turn) = live("without privileges, less") else { return };
    for option in [&["-s", "comm=x"][..], &["-g"], &["--no-follow"], &["--per-thread"]] {
        let mut cmd = without_hooks("run");
        let output = cmd.arg("--unprivileged").args(option).args(["--", "true"]).output();
        let output = output.expect("prof");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("as a whole"), "{option:?}: {said}");
    }
    let options = ["--unprivileged", "--duration", "300ms"];
    let run = run_target(&options, &["burn", &crate::stacks::burn_ms(1000)]);
    let profiles = run.records.profiles();
    assert_eq!(profiles[0]["window"]["end"], "running");
    assert!(figure(profiles[0], "task-clock") > 10_000_000, "{}", profiles[0]);
    assert!(profiles[0]["figures"]["peak-rss"]["absent"].is_string(), "{}", profiles[0]);
}

#[test]
fn what_counts_in_the_kernel_alone_is_denied_and_never_0() {
    let Some(_turn) = live("an ordinary user who counts in the kernel") else { return };
    if hooks().is_some() {
        return;
    }
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").expect("paranoid");
    if paranoid.trim().parse::<i32>().is_ok_and(|p| p < 2) {
        eprintln!("SKIPPED: whoever likes may count in the kernel here");
        return;
    }
    let Copies { dir, ours, theirs } = Copies::new();
    let json = dir.path().join("out.json");
    let run = |options: &[&str]| {
        let mut prof = Command::new(&ours);
        prof.arg("run").args(options).args(["-o", &format!("json:{}", json.display()), "--"]);
        let output = prof.arg(&theirs).args(["exit", "9"]).uid(NOBODY).gid(NOBODY).output();
        let output = output.expect("prof");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["-e", "page-faults:k"]);
    assert_eq!(code, Some(1), "{said}");
    for word in ["page-faults:k", "kernel.perf_event_paranoid", "CAP_PERFMON"] {
        assert!(said.contains(word), "{said}");
    }
    let (code, said) = run(&["--keep-going", "-e", "page-faults:k,page-faults:u"]);
    assert_eq!(code, Some(9), "{said}");
    let records = Records::read(&json);
    let figures = &records.profiles()[0]["figures"];
    assert!(figures["page-faults:k"].is_null(), "{figures}");
    assert!(figures["page-faults:u"]["value"].as_u64().is_some_and(|n| n > 0), "{figures}");
    let header = records.of("header").next().expect("a header");
    let limits = header["limits"].to_string();
    assert!(limits.contains("page-faults:k") && limits.contains("CAP_PERFMON"), "{limits}");
}
