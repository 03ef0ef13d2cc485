//! CPUs that come while prof counts. In a virtual machine only: it takes a CPU away.

use std::fs;

use crate::harness::*;

const CPU1: &str = "/sys/devices/system/cpu/cpu1/online";

#[test]
fn a_cpu_that_comes_later_is_counted_on() {
    let Some(_turn) = live("CPU hotplug") else { return };
    if std::env::var_os("PROF_VM").is_none() || !fs::exists(CPU1).unwrap_or(false) {
        eprintln!("SKIPPED: takes a CPU away, which only a virtual machine of its own may lose");
        return;
    }
    fs::write(CPU1, "0").expect("CPU 1 goes");
    let target = target().display();
    // prof looks once a second.
    let script = format!("echo 1 >{CPU1}; sleep 4; taskset 2 {target} faults 3000");
    let events = "page-faults,page-faults:uk";
    let run = run(&["-e", events], &["sh", "-c", &script]);
    // Whatever came of it.
    let _ = fs::write(CPU1, "1");
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
