//! What `perf stat -e` opens, and that prof opens the same.
//!
//! `fixtures/spellings.txt` has the spellings, `fixtures/perf-stat-vv.txt` what
//! perf 6.1 answered to each with `-vv`: the blocks that it prints before it opens
//! an event, without what is the same for all. One test compares prof with that
//! record, another with the perf of this machine: for hosts that are not this one
//! it lays a fake `/sys/bus/event_source/devices` over the real one in a mount
//! namespace of its own. `PROF_RECORD=1` makes the record anew.

#![allow(clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::process::Stdio;

use common::Tree;
use common::fixture;
use prof_events::Attr;
use prof_events::Catalogue;
use prof_events::Host;
use prof_events::Request;

/// The machine that the test runs on.
const HERE: &str = "here";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    Same,
    ProfTakesMore,
    ProfTakesLess,
}

#[derive(Debug, Clone)]
struct Spelling {
    tree: String,
    rule: Rule,
    text: String,
}

fn spellings() -> Vec<Spelling> {
    let text = fs::read_to_string(fixture("spellings.txt")).expect("spellings");
    let mut all = Vec::new();
    let mut tree = String::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            tree = name.to_owned();
            continue;
        }
        let (rule, text) = match (line.strip_prefix("> "), line.strip_prefix("< ")) {
            (Some(text), _) => (Rule::ProfTakesMore, text),
            (_, Some(text)) => (Rule::ProfTakesLess, text),
            _ => (Rule::Same, line),
        };
        all.push(Spelling { tree: tree.clone(), rule, text: text.to_owned() });
    }
    all
}

/// What perf did with a spelling.
#[derive(Debug, Default, Clone, PartialEq)]
struct Answer {
    /// Each event that it tried to open, and whether it was the first of a group
    /// or alone.
    opened: Vec<(Attr, bool)>,
    /// It gave up at the last of them, since this machine cannot count it.
    stopped: bool,
    /// It could not read the list.
    rejected: bool,
}

/// The lines that say something of the list: no times, no pids, nothing that is
/// the same for every event, no second attempts.
fn filtered(output: &str) -> String {
    let mut out = String::new();
    let (mut block, mut in_block, mut again) = (String::new(), false, false);
    for line in output.lines() {
        let same = ["size", "sample_type", "read_format", "disabled", "inherit", "enable_on_exec"];
        if line.starts_with("perf_event_attr:") {
            (in_block, block) = (true, "perf_event_attr:\n".into());
        } else if in_block && line.starts_with("  ") {
            let name = line.split_whitespace().next().unwrap_or_default();
            if !same.contains(&name) && name != "sample_id_all" {
                let _ = writeln!(block, "{}", line.trim_end());
            }
        } else if line.starts_with("sys_perf_event_open: pid") {
            let leads = line.contains("group_fd -1");
            let _ = writeln!(
                block,
                "  group_fd                         {}",
                if leads { "-1" } else { "leader" }
            );
            if !again {
                out.push_str(&block);
            }
            (in_block, again) = (false, false);
        } else if line.starts_with("switching off") || line.starts_with("decreasing precise_ip") {
            again = true;
        } else if line.starts_with("Run 'perf list'") {
            out.push_str("rejected\n");
        } else if line.contains("event is not supported.") {
            out.push_str("stopped\n");
        }
    }
    out
}

fn answer(filtered: &str) -> Answer {
    let mut answer = Answer::default();
    for line in filtered.lines() {
        match line {
            "rejected" => answer.rejected = true,
            "stopped" => answer.stopped = true,
            "perf_event_attr:" => answer.opened.push((Attr::default(), true)),
            _ => {
                let last = answer.opened.last_mut().expect("a block before its fields");
                field(&mut last.0, &mut last.1, line);
            }
        }
    }
    answer
}

fn field(a: &mut Attr, leads: &mut bool, line: &str) {
    // `{ bp_addr, config1 }   0x1000`; newer ones add a name: `0 (PERF_…)`.
    let line = line.split(" (").next().unwrap_or(line);
    let (name, value) = line.trim().rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let number = || {
        let parsed = match value.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => value.parse(),
        };
        parsed.unwrap_or_else(|_| panic!("{line}"))
    };
    match name.trim() {
        "type" => a.type_ = number() as u32,
        "config" => a.config = number(),
        "config1" | "{ bp_addr, config1 }" => a.config1 = number(),
        "config2" | "{ bp_len, config2 }" => a.config2 = number(),
        "bp_type" => a.bp_type = number() as u32,
        "exclude_user" => a.exclude_user = true,
        "exclude_kernel" => a.exclude_kernel = true,
        "exclude_hv" => a.exclude_hv = true,
        "exclude_idle" => a.exclude_idle = true,
        "exclude_host" => a.exclude_host = true,
        "exclude_guest" => a.exclude_guest = true,
        "precise_ip" => a.precise_ip = number() as u8,
        "pinned" => a.pinned = true,
        "exclusive" => a.exclusive = true,
        "group_fd" => *leads = value == "-1",
        other => panic!("perf says something new: {other}"),
    }
}

/// What prof makes of a spelling.
fn ours(catalogue: &Catalogue, text: &str) -> Result<(Vec<(Attr, bool)>, bool), String> {
    let mut request = Request::default();
    request.add("-e", text).map_err(|e| e.to_string())?;
    let selection = request.resolve(catalogue).map_err(|e| e.to_string())?;
    let mut opened = Vec::new();
    for group in &selection.groups {
        for (i, index) in group.events.iter().enumerate() {
            opened.push((selection.events[*index].attr.expect("perf has an event for it"), i == 0));
        }
    }
    let mut spans: Vec<_> = selection.events.iter().map(|e| (e.span.at, e.span.len)).collect();
    spans.dedup();
    Ok((opened, spans.len() == selection.events.len()))
}

/// How both differ, if they do.
fn difference(s: &Spelling, catalogue: &Catalogue, perf: &Answer) -> Option<String> {
    let ours = ours(catalogue, &s.text);
    let told = |what: &str| {
        Some(format!("[{}] {}: {what}\n  prof: {ours:?}\n  perf: {perf:?}", s.tree, s.text))
    };
    match s.rule {
        Rule::ProfTakesMore => {
            return if ours.is_ok() && perf.rejected { None } else { told("prof takes more") };
        }
        Rule::ProfTakesLess => {
            return if ours.is_err() && !perf.rejected { None } else { told("prof takes less") };
        }
        Rule::Same => {}
    }
    let (mut ours, in_order) = match (&ours, perf.rejected) {
        (Err(_), true) => return None,
        (Ok(_), true) => return told("perf refuses it"),
        (Err(_), false) => return told("prof refuses it"),
        (Ok(o), false) => o.clone(),
    };
    let mut theirs = perf.opened.clone();
    if perf.stopped {
        ours.truncate(theirs.len());
    }
    if !in_order {
        // One spelling for several events: perf has them as the folder does.
        ours.sort_by_key(|(a, _)| (a.type_, a.config));
        theirs.sort_by_key(|(a, _)| (a.type_, a.config));
    }
    if theirs.is_empty() || ours != theirs { told("they differ") } else { None }
}

fn assert_same(differences: &[String], compared: usize) {
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    println!("{compared} spellings are the same in prof and perf");
}

#[test]
fn prof_opens_what_perf_did() {
    let record = fs::read_to_string(fixture("perf-stat-vv.txt")).expect("the record");
    let mut answers = BTreeMap::new();
    for part in record.split("\n=== ").skip(1) {
        let (name, rest) = part.split_once('\n').unwrap_or((part, ""));
        answers.insert(name.to_owned(), answer(rest));
    }
    let mut catalogues: BTreeMap<String, (Tree, Catalogue)> = BTreeMap::new();
    let (mut differences, mut compared) = (Vec::new(), 0);
    for s in spellings() {
        let (_, catalogue) = catalogues.entry(s.tree.clone()).or_insert_with(|| {
            let tree = Tree::named(&s.tree);
            let catalogue = Catalogue::new(tree.host());
            (tree, catalogue)
        });
        let name = format!("[{}] {}", s.tree, s.text);
        let perf = answers.get(&name).unwrap_or_else(|| panic!("{name} is not in the record"));
        differences.extend(difference(&s, catalogue, perf));
        compared += 1;
    }
    assert!(compared >= 120, "{compared}");
    assert_same(&differences, compared);
}

/// Whether the test can go on; where it has to (`PROF_LIVE=require`), it is an
/// error if not.
fn skip(why: &str) {
    let message = format!("SKIPPED: prof beside the perf of this machine: {why}");
    assert!(env::var("PROF_LIVE").as_deref() != Ok("require"), "{message}");
    eprintln!("{message}");
}

/// What perf prints for each of the spellings, on a host.
fn ask_perf(tree: &str, texts: &[&str]) -> Vec<String> {
    const MARK: &str = "\u{1}next\n";
    let fake = (tree != HERE).then(|| Tree::named(tree));
    let mut script = String::from("set -e\n");
    if fake.is_some() {
        script.push_str("mount --bind \"$1\" /sys/bus/event_source/devices\n");
    }
    script.push_str(
        "shift\nset +e\nfor e; do perf stat -vv -e \"$e\" true 2>&1; printf '\\001next\\n'; done\n",
    );
    let folder = fake.as_ref().map(Tree::pmus).unwrap_or_default();
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script, "sh"])
        .arg(folder)
        .args(texts)
        .env("LC_ALL", "C")
        .stderr(Stdio::inherit())
        .output()
        .expect("unshare");
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let parts: Vec<_> = output.split_terminator(MARK).map(str::to_owned).collect();
    assert_eq!(parts.len(), texts.len(), "{tree}: {output}");
    parts
}

#[test]
fn prof_opens_what_the_perf_of_this_machine_does() {
    let version = Command::new("perf").arg("--version").output();
    let version = version.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let Ok(version) = version else { return skip("perf is not installed") };
    // Others have other defaults: 6.13 no longer leaves guests out, say.
    if !version.starts_with("perf version 6.1.") {
        return skip(&format!("this is {version}; 6.1 is what prof is compared with"));
    }
    let is_root = Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status();
    if !is_root.is_ok_and(|s| s.success()) {
        return skip("it needs root, to lay a fake sysfs over the real one");
    }
    let here = Host::here();
    if !here.tracefs.join("events/sched").is_dir() {
        return skip("the tracing file system is not mounted, or there is no sched in it");
    }
    let record = env::var_os("PROF_RECORD").is_some();
    let all = spellings();
    let (mut differences, mut compared) = (Vec::new(), 0);
    let mut recorded = String::from(
        "What perf stat -vv -e prints for each of spellings.txt before it opens an event,\n\
         without what is the same for all. ",
    );
    let _ = writeln!(recorded, "{version}.");
    if record {
        fs::write(fixture("trees/here.txt"), this_machine(&here)).expect("a record");
    }
    for (i, tree) in all.iter().enumerate().map(|(i, s)| (i, s.tree.clone())) {
        if i > 0 && all[i - 1].tree == tree {
            continue;
        }
        let of_tree: Vec<_> = all.iter().filter(|s| s.tree == tree).collect();
        let texts: Vec<_> = of_tree.iter().map(|s| s.text.as_str()).collect();
        let fake = (tree != HERE).then(|| Tree::named(&tree));
        let host = fake.as_ref().map_or_else(Host::here, Tree::host);
        let catalogue = Catalogue::new(host);
        for (s, output) in of_tree.into_iter().zip(ask_perf(&tree, &texts)) {
            let lines = filtered(&output);
            let _ = write!(recorded, "\n=== [{tree}] {}\n{lines}", s.text);
            differences.extend(difference(s, &catalogue, &answer(&lines)));
            compared += 1;
        }
    }
    if record {
        fs::write(fixture("perf-stat-vv.txt"), recorded).expect("a record");
    }
    assert_same(&differences, compared);
}

/// This machine as a tree: its PMUs, and the tracepoints that the spellings name.
fn this_machine(host: &Host) -> String {
    let mut text = String::from("# The machine that the record is from.\n");
    let catalogue = Catalogue::new(host.clone());
    for pmu in catalogue.pmus() {
        let _ = writeln!(text, "pmu/{}/type: {}", pmu.name, pmu.type_);
        for (name, format) in &pmu.formats {
            let _ = writeln!(text, "pmu/{}/format/{name}: {format}", pmu.name);
        }
        for (name, event) in &pmu.events {
            let _ = writeln!(text, "pmu/{}/events/{name}: {}", pmu.name, event.terms);
        }
    }
    let systems = ["sched:", "exceptions:", "raw_syscalls:", "syscalls:sys_enter_open"];
    for t in catalogue.tracepoints().expect("tracepoints") {
        if systems.iter().any(|s| t.name.starts_with(s)) {
            let path = t.name.replace(':', "/");
            let id = fs::read_to_string(host.tracefs.join("events").join(&path).join("id"));
            let _ = writeln!(text, "trace/{path}: {}", id.expect("an id").trim());
        }
    }
    text
}
