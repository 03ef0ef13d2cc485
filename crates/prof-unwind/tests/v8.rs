//! V8's builtins in node, beside what the processor does: it is run instruction by
//! instruction, and each caller by the table is where the last call returns to.
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
fn each_caller_is_where_the_last_call_returns_to() {
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
    let (steps, script) = (dir.path().join("steps"), dir.path().join("x.js"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/steps.c");
    let mut gcc = Command::new("gcc");
    if output(gcc.arg("-O1").arg("-D_GNU_SOURCE").arg("-o").arg(&steps).arg(source)).is_none() {
        return;
    }
    std::fs::write(&script, SCRIPT).unwrap();
    // Generated code would be neither here nor there.
    let mut child = Command::new(&node)
        .args(["--jitless", "--single-threaded"])
        .arg(&script)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let (pid, from, to) = (child.id().to_string(), format!("{from:x}"), format!("{to:x}"));
    let traced = Command::new(&steps).args([&pid, &from, &to, "150000"]).output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let error = String::from_utf8_lossy(&traced.stderr);
    if error.contains("not permitted") {
        support::skipped(&format!("ptrace: {error}"));
        return;
    }
    assert!(traced.status.success(), "{error}");

    let (mut all, mut right, mut skipped, mut wrong) = (0, 0, 0, BTreeMap::<_, u64>::new());
    for line in String::from_utf8(traced.stdout).unwrap().lines() {
        let words: Vec<_> = line.split(' ').map(|w| u64::from_str_radix(w, 16).unwrap()).collect();
        let [ip, sp, fp, to, taken, at_fp, above_fp] = words[..7] else { panic!("{line}") };
        let others = words[7..22].try_into().unwrap();
        let top = &words[22..];
        let memory = |at: u64| {
            let of_top = at.checked_sub(sp).and_then(|at| top.get(at as usize / 8)).copied();
            of_top.or((at == fp).then_some(at_fp)).or((at == fp + 8).then_some(above_fp))
        };
        let regs = Regs { others: Some(others), ..Regs::new(ip, sp, fp, others[5]) };
        let code = Code::File(&table, table.offset_of(ip).unwrap());
        let step = unwind::step(&Machine::new(Arch::X86_64), &rules, code, &regs, &memory);
        all += 1;
        match step {
            Step::Caller(caller) if caller.ip == to => right += 1,
            // It is in a register, and was on the stack just now.
            Step::Caller(caller) if caller.ip == taken && caller.sp == sp => right += 1,
            // The caller is left out, and its own is there.
            Step::Caller(caller) if caller.ip == above_fp => skipped += 1,
            _ => {
                let name = builtins.partition_point(|at| *at <= ip);
                *wrong.entry((builtins[name - 1], ip, step_name(&step))).or_default() += 1;
            }
        }
    }
    let bad: u64 = wrong.values().sum();
    println!("{all} instructions: {right} callers right, {skipped} left out, {bad} wrong");
    for ((builtin, ip, step), count) in wrong.iter().take(20) {
        println!("{count} times {step} at {ip:#x} in the builtin at {builtin:#x}");
    }
    assert!(all > 100_000, "{all} instructions");
    // Where arguments are put below the return address, it moves, and is another call's for
    // a while by what was seen of calls.
    assert!(bad * 100 <= all, "{bad} of {all}");
    assert!(skipped * 50 <= all, "{skipped} of {all}");
}

fn step_name(step: &Step) -> String {
    match step {
        Step::Caller(caller) => format!("a caller at {:#x}", caller.ip),
        other => format!("{other:?}"),
    }
}
