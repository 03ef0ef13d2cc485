//! CPUs that come while prof counts. In a virtual machine only: it takes a CPU away.

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::harness::*;
use crate::stacks::run_stacks;
use crate::stacks::taken;

const CPU1: &str = "/sys/devices/system/cpu/cpu1/online";

fn may_lose_a_cpu() -> bool {
    let may = std::env::var_os("PROF_VM").is_some() && fs::exists(CPU1).unwrap_or(false);
    if !may {
        eprintln!("SKIPPED: takes a CPU away, which only a virtual machine of its own may lose");
    }
    may
}

/// Puts it back, whatever comes of the test.
struct Away;

impl Drop for Away {
    fn drop(&mut self) {
        let _ = fs::write(CPU1, "1");
    }
}

/// Off and on, faster than prof looks.
#[test]
fn a_cpu_that_goes_and_comes_back_charges_nobody_with_what_others_did() {
    let Some(_turn) = live("a CPU off and on") else { return };
    if !may_lose_a_cpu() {
        return;
    }
    let target = target().display();
    let list = "task-clock,task-clock:u,cpu-clock,page-faults,page-faults:u,sched:sched_switch";
    // One on each CPU, and others that fault beside them.
    let dir = tempfile::tempdir().expect("a folder");
    let begun = dir.path().join("begun");
    let both = format!("{target} burn 2500 >/dev/null & {target} burn 2500 >/dev/null; wait");
    let script = format!("touch {}; {both}", begun.display());
    for away in [5, 100, 400] {
        let stop = AtomicBool::new(false);
        let records = thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    target_output(&["faults", "2000"]);
                }
            });
            scope.spawn(|| {
                while !begun.exists() && !stop.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(10));
                }
                thread::sleep(Duration::from_millis(700));
                let _back = Away;
                fs::write(CPU1, "0").expect("CPU 1 goes");
                thread::sleep(Duration::from_millis(away));
            });
            let run = run(&["-e", list], &["sh", "-c", &script]);
            stop.store(true, Ordering::Relaxed);
            run.records
        });
        fs::remove_file(&begun).expect("its mark");
        let profiles = records.profiles();
        let burns: Vec<_> = profiles
            .iter()
            .filter(|p| p["exit"].is_object() && figure(p, "task-clock") > 1_000_000_000)
            .collect();
        assert_eq!(burns.len(), 2, "{profiles:#?}");
        for p in burns {
            let of = |name: &str| p["figures"][name]["value"].as_u64().expect("a count");
            let kept = of("task-clock");
            for (count, most) in [
                ("page-faults:u", of("page-faults")),
                ("task-clock:u", kept + kept / 20),
                ("cpu-clock", kept + kept / 20),
            ] {
                assert!(of(count) <= most, "away for {away} ms: {count}: {p}");
            }
            // What is missing until prof has looked is told; how soon that is, and so how much,
            // an emulated machine does not show.
            if of("task-clock:u") + 50_000_000 < kept {
                assert!(has_flag(p, "partial"), "away for {away} ms: {p}");
            }
        }
    }
}

/// What burns on the CPU that is back is sampled, however short that was away.
#[test]
fn a_cpu_that_goes_and_comes_back_is_sampled_on() {
    let Some(_turn) = live("samples of a CPU off and on") else { return };
    if !may_lose_a_cpu() || !taken("samples of a CPU off and on") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let begun = dir.path().join("begun");
    let target = target().display();
    // Both CPUs are back in use a moment after the second is there again.
    let both = format!("{target} burn 6000 >/dev/null & {target} burn 6000 >/dev/null; wait");
    let script = format!("touch {}; {both}", begun.display());
    let stacks = thread::scope(|scope| {
        scope.spawn(|| {
            while !begun.exists() {
                thread::sleep(Duration::from_millis(10));
            }
            thread::sleep(Duration::from_millis(1000));
            let _back = Away;
            fs::write(CPU1, "0").expect("CPU 1 goes");
        });
        run_stacks(&["-F", "99"], &["sh", "-c", &script])
    });
    let on = |cpu: u32| stacks.profile.samples.iter().filter(|s| s.cpu == cpu).count();
    let (first, second) = (on(0), on(1));
    assert!(second * 2 > first, "{first} samples on CPU 0, {second} on CPU 1");
}

#[test]
fn a_cpu_that_comes_later_is_counted_on() {
    let Some(_turn) = live("CPU hotplug") else { return };
    if !may_lose_a_cpu() {
        return;
    }
    let _back = Away;
    fs::write(CPU1, "0").expect("CPU 1 goes");
    let target = target().display();
    // prof looks now and then.
    let script = format!("echo 1 >{CPU1}; sleep 4; taskset 2 {target} faults 3000");
    let events = "page-faults,page-faults:uk";
    let run = run(&["-e", events], &["sh", "-c", &script]);
    let profiles = run.records.profiles();
    let faults = |p: &&&serde_json::Value| {
        let args = p["process"]["args"].as_array();
        args.is_some_and(|a| a.iter().any(|a| a == "faults"))
    };
    let p = profiles.iter().rfind(faults).expect("its profile");
    let counted = p["figures"]["page-faults:uk"]["value"].as_u64().expect("a count");
    let kept = figure(p, "page-faults");
    assert!(counted >= 3000 && counted <= kept && kept - counted < 100, "{counted} of {kept}");
    run.records.assert_whole();
}
