//! `-o perfdata`: perf finds in it the samples that were taken, and the same functions.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use prof::stacks::raw;

use crate::harness::*;
use crate::stacks::Chains;
use crate::stacks::chains_of_perf;
use crate::stacks::chains_of_prof;
use crate::stacks::overlap;
use crate::stacks::taken;
use crate::stacks::target_str;

fn perf(data: &Path, arguments: &[&str]) -> String {
    let (verb, rest) = arguments.split_first().expect("a verb");
    let out = Command::new("perf").args([verb, "-i"]).arg(data).args(rest).output().expect("perf");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Those of the target: the C library's have several names each.
fn own_functions(chains: Chains) -> Chains {
    let mut own = Chains::new();
    for (chain, n) in chains {
        let chain = chain.into_iter().filter(|f| f.starts_with("prof_target::")).collect();
        *own.entry(chain).or_default() += n;
    }
    own
}

#[test]
fn perf_reads_the_samples_and_finds_the_same_functions() {
    let Some(_turn) = live("perf reading perfdata") else { return };
    if !taken("perf reading perfdata") || !has("perf", "linux-perf") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let (stacks, folded, data) = (at("x.stacks"), at("x.folded"), at("perf.data"));
    let to = [("raw", &stacks), ("folded", &folded), ("perfdata", &data)]
        .map(|(format, file)| format!("{format}:{}", file.display()));
    let outputs = ["-F", "499", "-o", &to[0], "-o", &to[1], "-o", &to[2]];
    let script = format!("{0} deep 20 300000000; {0} faults 60000", target_str());
    run(&outputs, &["sh", "-c", &script]);

    let profile = raw::read(&stacks).expect("stacks");
    assert!(profile.samples.len() > 50, "{} samples", profile.samples.len());
    let own: BTreeSet<String> = profile
        .samples
        .iter()
        .map(|s| {
            let thread = &profile.threads[s.thread.0 as usize];
            let pid = profile.processes[thread.process.0 as usize].pid;
            let time = profile.start_ns + s.time_ns;
            let (s_, ns) = (time / 1_000_000_000, time % 1_000_000_000);
            format!("{pid}/{} [{:03}] {s_}.{ns:09}: {}", thread.tid, s.cpu, s.weight)
        })
        .collect();
    let heads = perf(&data, &["script", "--ns", "-G", "-F", "pid,tid,cpu,time,period"]);
    let words = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
    let read: Vec<_> = heads.lines().filter(|l| !l.trim().is_empty()).map(words).collect();
    assert_eq!(read.len(), profile.samples.len());
    assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), own);

    let fields = "comm,tid,ip,sym,dso";
    let script = perf(&data, &["script", "--no-inline", "-F", fields, "--comms", "prof-target"]);
    let of_perf = own_functions(chains_of_perf(&script));
    let folded = fs::read_to_string(&folded).expect("folded stacks");
    let of_prof = own_functions(chains_of_prof(&folded, "prof-target"));
    let same = overlap(&of_prof, &of_perf);
    println!("{:.1} % of the samples on the same chain of functions", same * 100.0);
    assert!(same > 0.95, "{same:.3}\nprof {of_prof:#?}\nperf {of_perf:#?}");
    let deepest = of_perf.keys().map(|c| c.iter().filter(|f| f.contains("go_down")).count());
    assert_eq!(deepest.max(), Some(21), "{of_perf:#?}");
    // The kernel's part has names, too, where there are any.
    let kernel = perf(&data, &["script", "-F", "ip,sym,dso"]);
    let kernel: Vec<_> = kernel.lines().filter(|l| l.contains("[kernel.kallsyms]")).collect();
    let named = kernel.iter().filter(|l| !l.contains("[unknown]")).count();
    assert!(kernel.len() > 100 && named * 100 >= kernel.len() * 95, "{named} of {}", kernel.len());

    let report = perf(&data, &["report", "--stdio", "--no-children", "-g", "caller"]);
    assert!(report.contains("go_down") && report.contains("--"), "{report}");
    let total: u64 = profile.samples.iter().map(|s| s.weight).sum();
    assert!(report.contains(&format!("# Event count (approx.): {total}\n")), "{total}: {report}");
}

/// Of BPF programs there are prof's own: their hooks take part of the time of short processes.
#[test]
fn perf_names_bpf_programs_that_ran() {
    let Some(_turn) = live("perf naming BPF programs") else { return };
    if !taken("perf naming BPF programs") || !has("perf", "linux-perf") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (data, folded) = (dir.path().join("perf.data"), dir.path().join("x.folded"));
    let to = [("perfdata", &data), ("folded", &folded)]
        .map(|(format, file)| format!("{format}:{}", file.display()));
    let script = "i=0; while [ $i -lt 2500 ]; do i=$((i+1)); /bin/true; done";
    let run = run(&["-F", "4999", "-o", &to[0], "-o", &to[1]], &["sh", "-c", script]);
    assert!(run.output.status.success(), "{}", String::from_utf8_lossy(&run.output.stderr));
    // The kernel's own names of what was sampled, as `prof` has them, beside perf's.
    let folded = fs::read_to_string(&folded).expect("folded stacks");
    let mut own: BTreeMap<String, u64> = BTreeMap::new();
    for line in folded.lines() {
        let (stack, weight) = line.rsplit_once(' ').expect("a weight");
        for frame in stack.split(';').filter(|f| f.starts_with("bpf_prog_")) {
            let name = frame.trim_end_matches("_[k]").to_owned();
            *own.entry(name).or_default() += weight.parse::<u64>().expect("a number");
        }
    }
    let script = perf(&data, &["script", "-F", "period,ip,sym,dso"]);
    let mut perfs: BTreeMap<String, u64> = BTreeMap::new();
    for sample in script.split("\n\n").filter(|s| !s.trim().is_empty()) {
        let mut lines = sample.trim_start().lines();
        let period: u64 = lines.next().expect("a head").trim().parse().expect("a period");
        for frame in lines {
            let mut words = frame.split_whitespace().skip(1);
            if let Some(name) = words.next().filter(|n| n.starts_with("bpf_prog_")) {
                *perfs.entry(name.to_owned()).or_default() += period;
            }
        }
    }
    println!("{own:?}");
    assert!(!own.is_empty(), "no sample was taken in a BPF program: {folded}");
    assert_eq!(perfs, own, "{script}");
}

#[test]
fn perf_shows_stacks_of_time_off_the_cpu_alone() {
    let Some(_turn) = live("perf reading time off the CPU") else { return };
    if !taken("perf reading time off the CPU") || !has("perf", "linux-perf") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("perf.data");
    let to = format!("perfdata:{}", data.display());
    run(&["--off-cpu=only", "-o", &to], &["sh", "-c", "sleep 0.05; sleep 0.05"]);
    let script = perf(&data, &["script", "-F", "comm,event,ip,sym"]);
    let samples = script.split("\n\n").filter(|s| s.contains("sleep") && s.contains("off-cpu:"));
    let slept = samples.filter(|s| s.contains("hrtimer_nanosleep") && s.contains("main")).count();
    assert_eq!(slept, 2, "{script}");
}
