//! Stacks of other programs that wait, against gdb.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use prof_unwind::Arch;
use prof_unwind::Limits;
use prof_unwind::RuleSet;
use prof_unwind::Table;
use prof_unwind::unwind::Code;
use prof_unwind::unwind::Machine;
use prof_unwind::unwind::Maps;
use prof_unwind::unwind::Regs;
use prof_unwind::unwind::walk;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// From, to, where in the file, and its table.
struct Mapped(Vec<(u64, u64, u64, Table)>);

impl Mapped {
    fn of(pid: u32, rules: &mut RuleSet) -> Self {
        let mut all = Vec::new();
        for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let Some(path) = words.get(5).filter(|p| p.starts_with('/')) else { continue };
            if !words[1].contains('x') {
                continue;
            }
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            let (start, end) = words[0].split_once('-').unwrap();
            let file = File::open(path).unwrap();
            let table = Table::from_file(&file, rules, &Limits::default()).unwrap();
            all.push((number(start), number(end), number(words[2]), table));
        }
        Self(all)
    }
}

impl Maps for Mapped {
    fn code(&self, address: u64) -> Option<Code<'_>> {
        let mut all = self.0.iter();
        let (start, _, offset, table) = all.find(|m| (m.0..m.1).contains(&address))?;
        Some(Code::File(table, address - start + offset))
    }
}

/// Where a process waits in this system call: stack pointer and instruction pointer.
fn waits_at(pid: u32, call: &str) -> (u64, u64) {
    let mut last = String::new();
    for _ in 0..200 {
        let now = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
        if now == last && now.starts_with(call) {
            let words: Vec<_> = now.split_whitespace().rev().collect();
            let number = |text: &str| u64::from_str_radix(&text[2..], 16).unwrap();
            return (number(words[1]), number(words[0]));
        }
        last = now;
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{pid} does not wait: {last}");
}

fn compare(program: &str, args: &[&str], call: &str, at_least: usize) {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null());
    let Ok(child) = command.spawn() else {
        return support::skipped(&format!("{program} is not there"));
    };
    let child = Killed(child);
    let pid = child.0.id();
    let (sp, ip) = waits_at(pid, call);
    let mut rules = RuleSet::new();
    let mapped = Mapped::of(pid, &mut rules);
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let read = |address| {
        let mut bytes = [0; 8];
        memory.read_exact_at(&mut bytes, address).ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    // The frame pointer of a process that waits is not shown.
    let start = Regs::new(ip, sp, Regs::LOST, Regs::LOST);
    let mut ips = Vec::new();
    let machine = Machine::new(Arch::X86_64);
    let stop = walk(&machine, &rules, &mapped, &read, start, 500, |regs| ips.push(regs.ip));

    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-p"]).arg(pid.to_string());
    for command in [
        "set backtrace past-main on",
        "set backtrace past-entry on",
        "bt -frame-info location-and-address -frame-arguments none",
    ] {
        gdb.args(["-ex", command]);
    }
    let Some(printed) = support::output(&mut gdb) else { return };
    let frames = printed.lines().filter(|line| line.starts_with('#'));
    let mut addresses: Vec<_> = frames
        .filter_map(|line| line.split_whitespace().find_map(|w| w.strip_prefix("0x")))
        .map(|hex| u64::from_str_radix(hex, 16).unwrap())
        .collect();
    // It shows functions that were inlined as frames of the same address.
    addresses.dedup();
    ips.dedup();
    println!("{program}: {} frames, {} by gdb; {stop:?}", ips.len(), addresses.len());
    assert!(ips.len() >= at_least, "{ips:x?} {stop:?}\n{printed}");
    assert_eq!(ips, addresses, "{printed}");
    assert_eq!(stop, None);
}

const READ_INPUT: &str = "0 0x0 ";
const CLOCK_NANOSLEEP: &str = "230 ";

#[test]
fn an_interpreter() {
    let program = "import time\ndef f(n):\n  f(n-1) if n else time.sleep(99)\nf(5)";
    compare("python3", &["-c", program], CLOCK_NANOSLEEP, 8);
}

#[test]
fn a_tool() {
    compare("cat", &[], READ_INPUT, 4);
}

#[test]
fn a_shell() {
    compare("bash", &["-c", "read line"], READ_INPUT, 6);
}
