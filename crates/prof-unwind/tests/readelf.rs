//! Tables against what binutils' `readelf` says.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod support;

use std::process::Command;

use prof_unwind::Cfa;
use prof_unwind::Limits;
use prof_unwind::Reg;
use prof_unwind::Rule;
use prof_unwind::RuleSet;
use prof_unwind::Table;
use support::file;

/// Names of the stack and the frame pointer, as readelf prints them.
struct Names {
    sp: &'static str,
    fp: &'static str,
    columns: &'static str,
}

fn register(text: &str) -> Option<(&str, i32)> {
    let at = text.find(['+', '-'])?;
    Some((&text[..at], text[at..].parse().ok()?))
}

/// Whether a rule is what readelf says of the frame.
fn is_cfa(rule: &Rule, cfa: &str, names: &Names) -> bool {
    match (register(cfa), rule.cfa) {
        (None, kind) => {
            let held = [Cfa::DerefSp, Cfa::DerefFp, Cfa::Plt, Cfa::Signal, Cfa::Unsupported];
            cfa == "exp" && held.contains(&kind)
        }
        (Some((name, off)), Cfa::Sp) => name == names.sp && off == rule.cfa_off,
        (Some((name, off)), Cfa::Fp) => name == names.fp && off == rule.cfa_off,
        (Some((name, off)), Cfa::Register) => {
            let place = usize::try_from(rule.cfa_add).unwrap();
            OTHERS.get(place) == Some(&name) && off == rule.cfa_off
        }
        (Some((name, _)), Cfa::Unsupported) => name != names.sp && name != names.fp,
        _ => false,
    }
}

/// Whether a place is what readelf says of a register.
fn is_register(reg: Reg, off: i16, text: &str) -> bool {
    match text.strip_prefix('c') {
        Some(c) => reg == Reg::Cfa && c.parse() == Ok(off),
        None if text == "exp" => reg != Reg::Same,
        None => matches!(text, "u" | "s" | "") && reg == Reg::Same,
    }
}

/// The same of rbx.
fn is_bx(bx: i8, text: &str) -> bool {
    match text.strip_prefix('c') {
        Some(c) => c.parse() == Ok(i32::from(bx) * 8),
        None => (bx == Rule::SAME_BX) == matches!(text, "u" | "s" | ""),
    }
}

/// In the order of `struct pt_regs`.
const OTHERS: [&str; 15] = [
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi",
    "rdi",
];

fn check(path: &str, names: &Names, at_least: usize) {
    let Some(path) = file(path) else { return };
    let dump =
        Command::new("readelf").arg("-W").arg("--debug-dump=frames-interp").arg(&path).output();
    let Ok(dump) = dump else { return support::skipped("readelf is not there") };
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    let mut rules = RuleSet::new();
    let data = std::fs::read(&path).unwrap();
    let table = Table::from_elf(&data, &mut rules, &Limits::default()).unwrap();

    let (mut columns, mut checked, mut skipped) = (Vec::new(), 0, 0);
    for line in dump.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if line.contains(" CIE ") || line.contains(" FDE ") {
            // A CIE has rows, too, at address 0; and readelf forgets columns at times.
            columns.clear();
        } else if words.first() == Some(&"LOC") {
            columns = words.iter().map(|w| (*w).to_owned()).collect();
        } else if words.len() == columns.len() && words.len() >= 2 {
            let at = |name: &str| columns.iter().position(|c| c == name).map(|i| words[i]);
            let Ok(address) = u64::from_str_radix(words[0], 16) else { continue };
            let Some(offset) = table.offset_of(address).filter(|_| address != 0) else { continue };
            let rule = rules.get(table.rule_at(offset)).unwrap();
            let (fp, ra) = (at(names.columns).unwrap_or(""), at("ra").unwrap_or(""));
            if rule.cfa == Cfa::End {
                assert_eq!(ra, "u", "{address:#x}: {rule:?}");
                continue;
            }
            if rule.cfa == Cfa::Signal || rule.cfa == Cfa::Unsupported {
                skipped += 1;
                continue;
            }
            let same = is_cfa(rule, words[1], names)
                && is_register(rule.fp, rule.fp_off, fp)
                && is_bx(rule.bx, at("rbx").unwrap_or(""))
                // On arm64 x30 is printed as "ra", and "u" is what was not said.
                && is_register(rule.ra, rule.ra_off, ra);
            assert!(same, "{}: {rule:?}, not: {line} of {columns:?}", path.display());
            checked += 1;
        }
    }
    println!("{}: {checked} rows, {skipped} not compared", path.display());
    assert!(checked >= at_least, "{}: only {checked} rows", path.display());
    assert!(skipped * 50 < checked, "{}: {skipped} not compared", path.display());
}

#[test]
fn x86_64() {
    let names = Names { sp: "rsp", fp: "rbp", columns: "rbp" };
    check("/lib64/ld-linux-x86-64.so.2", &names, 1_000);
    check("/lib/x86_64-linux-gnu/libc.so.6", &names, 10_000);
}

#[test]
fn arm64() {
    let names = Names { sp: "sp", fp: "x29", columns: "x29" };
    check("/usr/aarch64-linux-gnu/lib/libc.so.6", &names, 10_000);
}
