//! The ways to be told, and what only some of them see.

use std::thread;
use std::time::Duration;

use super::*;

const WAYS: [&str; 3] = ["fentry", "kprobe", "tracepoint"];

/// How it is attached.
fn hows(records: &Records) -> BTreeSet<String> {
    let header = records.of("header").next().unwrap();
    let attached = header["attached"].as_array().unwrap();
    attached.iter().map(|a| a["how"].as_str().unwrap().to_owned()).collect()
}

/// Whether functions of the kernel told, which is more than system calls do.
pub fn by_functions(records: &Records) -> bool {
    !hows(records).contains("tracepoint")
}

#[test]
fn the_first_way_that_works_is_taken_and_each_can_be_asked_for() {
    let Some(_turn) = live("audit --hooks") else { return };
    let ask = |way: &str| {
        let mut c = command("audit");
        let output = c.args(["--hooks", way, "--duration", "50ms", "-o", "json"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => Ok(Records::parse(&String::from_utf8(output.stdout).unwrap())),
            Some(1) => Err(said),
            other => panic!("--hooks {way}: {other:?}: {said}"),
        }
    };
    let mut works = Vec::new();
    for way in WAYS {
        let others = WAYS.iter().filter(|w| **w != way);
        match ask(way) {
            Ok(records) => {
                let hows = hows(&records);
                assert!(hows.contains(way), "{way}: {hows:?}");
                for other in others {
                    assert!(!hows.contains(*other), "{way}: {hows:?}");
                }
                works.push(way);
            }
            // What was not asked for is not taken instead.
            Err(said) => {
                assert!(said.starts_with("error: "), "{said}");
                // root has all rights.
                assert!(!said.contains("CAP_BPF") && !said.contains("ulimit"), "{said}");
            }
        }
    }
    assert!(works.contains(&"tracepoint"), "{works:?}");
    let kprobes = fs::exists("/sys/bus/event_source/devices/kprobe").unwrap();
    assert_eq!(works.contains(&"kprobe"), kprobes, "{works:?}");
    // Debian's kernels have all of them.
    if cfg!(target_arch = "x86_64") && std::env::var_os("PROF_VM").is_some() {
        assert_eq!(works, WAYS);
    }
    assert!(hows(&ask("auto").unwrap()).contains(works[0]), "{works:?}");
}

#[test]
fn programs_of_32_bits() {
    let Some(_turn) = live("audit of 32-bit programs") else { return };
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let watch = audit(&[]);
    let steps = ["perf", "open32", "disable32", "enable32", "close32"];
    let mut child = start(target().to_str().unwrap(), &steps);
    let by = child.id();
    let status = child.wait().unwrap();
    let records = stop(watch);
    assert!(status.success(), "{status}: does this kernel run 32-bit programs?");
    let all = [
        "on prof-target: page-faults:uh by perf_event_open",
        "off prof-target: page-faults:uh by ioctl_disable",
        "on prof-target: page-faults:uh by ioctl_enable",
        "off prof-target: page-faults:uh by close",
    ];
    // The kernel's tracepoints of system calls leave them out.
    let seen = if by_functions(&records) { &all[..] } else { &[] };
    assert_eq!(switches(&records, by), seen);
}

#[test]
fn an_end_that_is_no_close() {
    let Some(_turn) = live("audit of close_range") else { return };
    let watch = audit(&[]);
    let steps = ["perf", "open", "sleep", "20", "close-range", "sleep", "300"];
    let by = run_it(target().to_str().unwrap(), &steps);
    let records = stop(watch);
    let (how, notes) = if by_functions(&records) { ("close", 0) } else { ("found", 1) };
    assert_eq!(
        switches(&records, by),
        [
            "on prof-target: page-faults:uh by perf_event_open".to_owned(),
            format!("off prof-target: page-faults:uh by {how}"),
        ]
    );
    let off = records.of("prof").filter(|r| r["by"]["pid"] == by).last().unwrap();
    assert_eq!(off["notes"].as_array().map_or(0, Vec::len), notes, "{off}");
    lasted(&off["monitors"][0]["on_ns"], 20);
}

#[test]
fn a_pinned_link_is_on_until_its_pin_is_gone() {
    let Some(_turn) = live("audit of a pinned link") else { return };
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(dir.path()).status();
    assert!(mounted.unwrap().success(), "no bpf file system");
    let watch = audit(&[]);
    let pin = dir.path().join("link");
    let by = run_it(target().to_str().unwrap(), &["bpf-pin", pin.to_str().unwrap(), "300"]);
    thread::sleep(Duration::from_millis(300));
    let records = stop(watch);
    assert!(Command::new("umount").arg(dir.path()).status().unwrap().success());
    let told = switches(&records, by);
    let on = "on host: raw_tracepoint:sched_process_exit by bpf_raw_tracepoint_open";
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], on);
    assert!(told[1].starts_with("off host: raw_tracepoint:sched_process_exit by "), "{told:?}");
    let off = records.of("prof").filter(|r| r["by"]["pid"] == by).last().unwrap();
    let on_ns = off["monitors"][0]["on_ns"].as_u64().unwrap();
    // Not when who made it closes it, which is at once.
    lasted(&on_ns.into(), 300);
}

/// It is gone before anybody could ask it what it is at.
#[test]
fn what_a_link_of_a_moment_was_at_is_told() {
    let Some(_turn) = live("audit of links to many places") else { return };
    let program = target().to_str().unwrap();
    let watch = audit(&[]);
    let mut told = Vec::new();
    for (what, n) in [
        ("uprobe", 1),
        ("uretprobe", 1),
        ("uprobe", 2),
        ("uprobe-self", 1),
        ("kprobe", 1),
        ("kretprobe", 2),
    ] {
        let out = Command::new(program).args(["bpf-multi", what, &n.to_string()]).output().unwrap();
        if out.status.success() {
            told.push((what, n, String::from_utf8(out.stdout).unwrap()));
        }
    }
    let records = stop(watch);
    // From 6.6, and with functions that can be traced from 5.18.
    assert!(linux() < (6, 6) || told.iter().filter(|t| t.0.starts_with('u')).count() == 4);
    // Debian's has these from 6.12 on.
    if cfg!(target_arch = "x86_64") && std::env::var_os("PROF_VM").is_some() && linux() >= (6, 12) {
        assert!(told.iter().filter(|t| t.0.starts_with('k')).count() == 2);
    }
    for (what, n, out) in told {
        let by = said(&out, "pid") as u32;
        let (kind, whom) = match what.strip_suffix("-self") {
            Some(kind) => (kind, "prof-target"),
            None => (what, "host"),
        };
        let at = match (what.starts_with('k'), n) {
            (true, 1) => "bpf_fentry_test1".to_owned(),
            (true, n) => format!("{n} functions"),
            (false, 1) => format!("{program}:{:#x}", said(&out, "offset")),
            (false, n) => format!("{program}:{n} places"),
        };
        let link = format!("{whom}: {kind}_multi:{at}");
        assert_eq!(
            switches(&records, by),
            [format!("on {link} by bpf_link_create"), format!("off {link} by close")]
        );
    }
}

/// Nobody can have looked at it in between.
#[test]
fn a_program_put_there_just_before_the_end_is_told() {
    let Some(_turn) = live("audit of SET_BPF before an exit") else { return };
    let watch = audit(&[]);
    let all: Vec<_> = (0..10)
        .map(|_| {
            run_it(
                target().to_str().unwrap(),
                &["perf", "sampling", "set-bpf", "sampling", "set-bpf"],
            )
        })
        .collect();
    let records = stop(watch);
    for by in all {
        let put =
            ["off", "on"].map(|on| format!("{on} prof-target: cpu-clock:uh by ioctl_set_bpf"));
        assert_eq!(anew(&records, by), [&put[..], &put].concat());
        // A look may come by while it exits, and then one is told by itself.
        let off = |r: &&Value| r["by"]["pid"] == by && !has_flag(r, "enable") && !is_anew(r);
        let ended = records.of("prof").filter(off);
        let programs: Vec<_> = ended.flat_map(|r| r["monitors"].as_array().unwrap()).collect();
        assert!(programs.iter().all(|m| m["bpf_prog"].is_number()), "{programs:#?}");
        assert_eq!(programs.len(), 2, "{programs:#?}");
    }
}
