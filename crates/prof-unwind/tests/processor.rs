//! Code without CFI, V8's builtins and Go's, beside what the processor does: it is run
//! instruction by instruction, and each caller by the table is where the last call returns to.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use prof_unwind::Arch;
use prof_unwind::Limits;
use prof_unwind::RuleSet;
use prof_unwind::Table;
use prof_unwind::unwind;
use prof_unwind::unwind::Code;
use prof_unwind::unwind::Machine;
use prof_unwind::unwind::Regs;
use prof_unwind::unwind::Step;
use support::file;
use support::output;

/// Calls of many kinds, all of it by the interpreter and the builtins.
const SCRIPT: &str = "
class A { constructor(n) { this.n = n; } get twice() { return this.n * 2; } add(...m) { return m.length + this.n; } }
function work(n) {
  const m = new Map(); let s = '';
  for (let i = 0; i < 30; i++) { m.set('k' + i * n, i); s += i; }
  const a = [...m.keys()].map(k => k.repeat(3)).sort((x, y) => x < y ? -1 : 1);
  const o = new A(n); let t = o.twice + o.add(...a) + Math.max.apply(null, [n, 2]) + work.bind(null, 1).length;
  for (const x of a) t += x.length % 7 ^ ('y' in o) ^ (typeof x === 'string');
  try { if (n % 3 == 0) throw new Error(s); } catch (e) { t ^= e.message.length; }
  return JSON.parse(JSON.stringify([...a, t])).filter(x => /7+/.test(x)).length + BigInt(n).toString().length;
}
console.log('runs');
for (let n = 0; ; n = n + 1 & 63) work(n);
";

/// The one that is run, also where it is a link or a script that starts it.
fn node() -> Option<std::path::PathBuf> {
    let mut node = Command::new("node");
    let path = output(node.args(["-p", "process.execPath"]))?;
    file(path.trim())
}

#[test]
fn callers_of_builtins_are_where_the_last_call_returns_to() {
    let Some(node) = node() else { return };
    let mut rules = RuleSet::new();
    let opened = std::fs::File::open(&node).unwrap();
    let table = Table::from_file(&opened, &mut rules, &Limits::default()).unwrap();
    if !table.stats.v8 {
        support::skipped(&format!("{}: its builtins are in a library", node.display()));
        return;
    }
    let Some(symbols) = output(Command::new("nm").arg(&node)) else { return };
    let mut builtins: Vec<u64> = symbols
        .lines()
        .filter(|l| l.contains(" t Builtins_"))
        .map(|l| u64::from_str_radix(l.split(' ').next().unwrap(), 16).unwrap())
        .collect();
    builtins.sort_unstable();
    let (Some(from), Some(to)) = (builtins.first(), builtins.last()) else {
        support::skipped(&format!("{} has no symbols", node.display()));
        return;
    };
    for at in &builtins {
        assert_ne!(table.rule_at(table.offset_of(*at).unwrap()), RuleSet::NONE, "{at:#x}");
    }

    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("x.js");
    std::fs::write(&script, SCRIPT).unwrap();
    // Generated code would be neither here nor there.
    let mut command = Command::new(&node);
    command.args(["--jitless", "--single-threaded"]).arg(&script);
    let Some(steps) = stepped(dir.path(), &mut command, (*from, *to), 150_000) else { return };
    let tally = callers(&table, &rules, &steps);
    tally.print(&builtins);
    let Tally { all, left_out, .. } = tally;
    assert!(all > 100_000, "{all} instructions");
    // Where arguments are put below the return address, it moves, and is another call's for
    // a while by what was seen of calls.
    assert!(tally.bad() * 100 <= all, "{} of {all}", tally.bad());
    assert!(left_out * 50 <= all, "{left_out} of {all}");
}

/// Small functions without a frame, and one in assembly: hashes, and what finds a byte.
const GO: &str = "package main
    import (\"fmt\"; \"runtime\"; \"runtime/debug\"; \"strings\")
    //go:noinline
    func leaf(a, b int) int { if a > b { return a ^ b }; return a + b*3 }
    //go:noinline
    func middle(n int) (s int) { for i := 0; i < n; i++ { s += leaf(i, s) }; return }
    func init() { runtime.LockOSThread() }
    func main() {
        debug.SetGCPercent(-1)
        fmt.Println(\"runs\")
        text, s := strings.Repeat(\"x\", 200) + \"y\", 0
        for { s += middle(9) + strings.IndexByte(text, 'y') + strings.Compare(text, text[1:]); if s == 1 { return } }
    }";

#[test]
fn callers_of_go_are_where_the_last_call_returns_to() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.go"), GO).unwrap();
    let mut go = Command::new("go");
    go.args(["build", "-ldflags=-s -w", "-o", "x", "x.go"]).current_dir(&dir);
    go.env("GO111MODULE", "off").env("GOCACHE", dir.path().join("cache"));
    if output(&mut go).is_none() {
        return;
    }
    let built = dir.path().join("x");
    let mut rules = RuleSet::new();
    let data = std::fs::read(&built).unwrap();
    let table = Table::from_elf(&data, &mut rules, &Limits::default()).unwrap();
    let code = table.code[0];
    let mut command = Command::new(&built);
    command.env("GOMAXPROCS", "1").env("GODEBUG", "asyncpreemptoff=1");
    let range = (code.address, code.address + code.size);
    let Some(steps) = stepped(dir.path(), &mut command, range, 100_000) else { return };
    let tally = callers(&table, &rules, &steps);
    tally.print(&[code.address]);
    // What goes to another stack is left to the frame pointer.
    assert_eq!((tally.all, tally.bad()), (100_000, 0));
    assert!(tally.left_out * 20 <= tally.all, "{} of {}", tally.left_out, tally.all);
}

/// A program that says a line when it is ready, run instruction by instruction: what
/// `steps.c` prints of each. Nothing if that cannot be.
fn stepped(dir: &Path, command: &mut Command, range: (u64, u64), count: u64) -> Option<String> {
    let steps = dir.join("steps");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/steps.c");
    let mut gcc = Command::new("gcc");
    output(gcc.arg("-O1").arg("-D_GNU_SOURCE").arg("-o").arg(&steps).arg(source))?;
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let (from, to) = (format!("{:x}", range.0), format!("{:x}", range.1));
    let traced = Command::new(&steps)
        .args([child.id().to_string(), from, to, count.to_string()])
        .output()
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let error = String::from_utf8_lossy(&traced.stderr);
    if error.contains("not permitted") {
        support::skipped(&format!("ptrace: {error}"));
        return None;
    }
    assert!(traced.status.success(), "{error}");

    Some(String::from_utf8(traced.stdout).unwrap())
}

#[derive(Debug, Default)]
struct Tally {
    all: u64,
    right: u64,
    /// The caller is left out, and its own is there.
    left_out: u64,
    /// By where, and what came of it.
    wrong: BTreeMap<(u64, String), u64>,
}

impl Tally {
    fn bad(&self) -> u64 {
        self.wrong.values().sum()
    }

    fn print(&self, functions: &[u64]) {
        let Self { all, right, left_out, .. } = self;
        println!(
            "{all} instructions: {right} callers right, {left_out} left out, {} not",
            self.bad()
        );
        for ((ip, step), count) in self.wrong.iter().take(20) {
            let function = functions[functions.partition_point(|at| at <= ip) - 1];
            println!("{count} times {step} at {ip:#x} in the function at {function:#x}");
        }
    }
}

/// Each caller by the table, beside where the last call returns to.
fn callers(table: &Table, rules: &RuleSet, steps: &str) -> Tally {
    let mut tally = Tally::default();
    for line in steps.lines() {
        let words: Vec<_> = line.split(' ').map(|w| u64::from_str_radix(w, 16).unwrap()).collect();
        let [ip, sp, fp, to, taken, at_fp, above_fp] = words[..7] else { panic!("{line}") };
        let others = words[7..22].try_into().unwrap();
        let top = &words[22..];
        let memory = |at: u64| {
            let of_top = at.checked_sub(sp).and_then(|at| top.get(at as usize / 8)).copied();
            of_top.or((at == fp).then_some(at_fp)).or((at == fp + 8).then_some(above_fp))
        };
        let regs = Regs { others: Some(others), ..Regs::new(ip, sp, fp, others[5]) };
        let code = Code::File(table, table.offset_of(ip).unwrap());
        let step = unwind::step(&Machine::new(Arch::X86_64), rules, code, &regs, &memory);
        tally.all += 1;
        match step {
            Step::Caller(caller) if caller.ip == to => tally.right += 1,
            // It is in a register, and was on the stack just now.
            Step::Caller(caller) if caller.ip == taken && caller.sp == sp => tally.right += 1,
            Step::Caller(caller) if caller.ip == above_fp => tally.left_out += 1,
            Step::Caller(caller) => {
                *tally.wrong.entry((ip, format!("a caller at {:#x}", caller.ip))).or_default() += 1;
            }
            other => *tally.wrong.entry((ip, format!("{other:?}"))).or_default() += 1,
        }
    }
    tally
}
