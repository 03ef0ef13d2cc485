//! What doctor says, and that it is so.
#![allow(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::*;

const NOBODY: u32 = 65534;

/// The report, which must hold a cure for everything that is missing.
fn report(command: &mut Command) -> Value {
    let output = command.args(["--format", "json"]).output().expect("prof doctor");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said, "");
    let report: Value = serde_json::from_slice(&output.stdout).expect("json");
    for check in report["checks"].as_array().expect("checks") {
        if check["state"] == "missing" {
            assert!(check["cure"].as_str().is_some_and(|c| !c.is_empty()), "{check}");
        }
        assert_ne!(check["detail"], "", "{check}");
    }
    report
}

fn checks(report: &Value) -> BTreeMap<&str, &Value> {
    let list = report["checks"].as_array().expect("checks");
    let map: BTreeMap<_, _> = list.iter().map(|c| (c["id"].as_str().expect("an id"), c)).collect();
    assert_eq!(map.len(), list.len(), "two checks have the same id");
    map
}

/// A copy that other users can execute.
fn copy_for_all() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir_in("/tmp").expect("a folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    let ours = dir.path().join("prof");
    fs::copy(prof(), &ours).expect("a copy");
    (dir, ours)
}

fn leftovers() -> usize {
    let named = |e: &fs::DirEntry| e.file_name().to_string_lossy().starts_with("prof-doctor-");
    fs::read_dir(std::env::temp_dir()).expect("a folder").flatten().filter(named).count()
}

#[test]
fn root_has_everything_that_the_kernel_has() {
    let Some(_turn) = live("doctor for root") else { return };
    let before = leftovers();
    let report = report(&mut command("doctor"));
    let checks = checks(&report);
    let state = |id: &str| checks[id]["state"].as_str().expect("a state");
    for id in ["capabilities", "btf", "raw_tp", "tp_btf", "ring_buffer", "prepared"] {
        assert_eq!(state(id), "works", "{}", checks[id]);
    }
    assert_eq!(state("uprobes"), "works", "{}", checks["uprobes"]);
    for id in ["task_iterator", "exec_count", "window_start", "software_events", "cache"] {
        assert_eq!(state(id), "works", "{}", checks[id]);
    }
    let kprobes = Path::new("/sys/bus/event_source/devices/kprobe").exists();
    assert_eq!(state("kprobe"), if kprobes { "works" } else { "missing" }, "{}", checks["kprobe"]);
    if !kprobes {
        assert!(checks["kprobe"]["cure"].as_str().unwrap().contains("CONFIG_KPROBES"));
    }
    // Tracepoints of system calls are the last resort.
    let audit = checks["audit"]["detail"].as_str().unwrap();
    assert!(audit.starts_with("by ") && audit.contains("tracepoint"), "{audit}");
    assert_eq!(audit.contains("kprobe: this kernel has no kprobes"), !kprobes, "{audit}");
    assert_eq!(state("audit") == "works", !audit.starts_with("by tracepoint"), "{audit}");
    let devices = ["cpu", "cpu_core", "armv8_pmuv3", "armv8_pmuv3_0"];
    let pmu = devices.iter().any(|d| Path::new("/sys/bus/event_source/devices").join(d).exists());
    if !pmu {
        assert_eq!(state("pmu"), "missing", "{}", checks["pmu"]);
        assert!(checks["pmu"]["detail"].as_str().unwrap().contains("ENOENT"), "{}", checks["pmu"]);
    }
    assert_eq!(report["chosen"]["hooks"], "raw_tp");
    assert_eq!(report["chosen"]["window_start"], "task_rename");
    let verbs = serde_json::json!(["prof run", "prof watch", "prof attach"]);
    assert_eq!(report["ready"]["verbs"], verbs);
    assert_eq!(leftovers(), before);
}

#[test]
fn the_text_is_plain_where_it_is_no_terminal() {
    let Some(_turn) = live("doctor in words") else { return };
    let output = command("doctor").output().expect("prof doctor");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    assert!(text.contains("prof run, prof watch and prof attach work"), "{text}");
    assert!(text.lines().all(|l| l.chars().count() <= 120), "{text}");
}

#[test]
fn an_ordinary_user_is_told_what_works_and_how_to_get_the_rest() {
    let Some(_turn) = live("doctor for an ordinary user") else { return };
    let (_dir, ours) = copy_for_all();
    let report = report(Command::new(&ours).arg("doctor").uid(NOBODY).gid(NOBODY));
    let checks = checks(&report);
    assert_eq!(report["ready"]["level"], "command_only");
    assert_eq!(report["ready"]["verbs"], serde_json::json!(["prof run"]));
    assert_eq!(report["chosen"]["hooks"], Value::Null);
    for id in ["capabilities", "raw_tp", "tp_btf", "kprobe", "ring_buffer", "exact_clock", "audit"]
    {
        assert_eq!(checks[id]["state"], "missing", "{}", checks[id]);
    }
    assert!(checks["raw_tp"]["detail"].as_str().unwrap().contains("EPERM"));
    let cure = checks["raw_tp"]["cure"].as_str().unwrap();
    assert!(cure.contains("setcap cap_bpf,cap_perfmon+ep"), "{cure}");
}

/// The cure that doctor names is one, and with less it is none.
#[test]
fn two_capabilities_are_enough_and_one_is_not() {
    let Some(_turn) = live("doctor with few capabilities") else { return };
    if !has("capsh", "libcap2-bin") {
        return;
    }
    let (_dir, ours) = copy_for_all();
    let with = |capabilities: &str| {
        let script = format!("exec {} doctor --format json", ours.display());
        let mut c = Command::new("capsh");
        c.arg("--keep=1").arg("--user=nobody").arg(format!("--inh={capabilities}"));
        c.arg(format!("--addamb={capabilities}")).args(["--", "-c", &script]);
        let output = c.output().expect("capsh");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
    };
    let report = with("cap_bpf,cap_perfmon");
    assert_eq!(report["chosen"]["hooks"], "raw_tp", "{report:#}");
    assert_eq!(report["chosen"]["exact_clock"], true, "{report:#}");
    let verbs = serde_json::json!(["prof run", "prof watch", "prof attach"]);
    assert_eq!(report["ready"]["verbs"], verbs);
    // An audit by tracepoints of system calls needs a right more, which is what is named; where
    // functions can be attached to, none.
    let audit = |report: &Value| checks(report)["audit"].clone();
    if audit(&report)["state"] == "missing" {
        let check = audit(&report);
        assert!(check["cure"].as_str().unwrap().contains("cap_dac_read_search"), "{check}");
        let more = audit(&with("cap_bpf,cap_perfmon,cap_dac_read_search"));
        assert_ne!(more["state"], "missing", "{more}");
    }
    for less in ["cap_bpf", "cap_perfmon"] {
        let report = with(less);
        assert_eq!(report["chosen"]["hooks"], Value::Null, "{less}: {report:#}");
    }
}

#[test]
fn a_wrong_btf_file_is_named() {
    let Some(_turn) = live("doctor with a BTF file") else { return };
    let report = report(command("doctor").args(["--btf", "/no/such/file"]));
    let checks = checks(&report);
    assert_eq!(checks["btf"]["state"], "missing");
    for id in ["btf", "raw_tp"] {
        let detail = checks[id]["detail"].as_str().unwrap();
        assert!(detail.contains("/no/such/file"), "{detail}");
        assert!(detail.contains("ENOENT"), "{detail}");
    }
}
