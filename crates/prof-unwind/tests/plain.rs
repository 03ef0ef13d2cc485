//! Code without CFI of x86-64: beside what binutils disassembles, and Go's own names.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
#![cfg(target_arch = "x86_64")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use prof_unwind::Cfa;
use prof_unwind::Limits;
use prof_unwind::Reg;
use prof_unwind::Rule;
use prof_unwind::RuleSet;
use prof_unwind::Table;
use support::output;

fn table(path: &Path) -> (Table, RuleSet) {
    let mut rules = RuleSet::new();
    let data = std::fs::read(path).unwrap();
    let table = Table::from_elf(&data, &mut rules, &Limits::default()).unwrap();
    (table, rules)
}

fn rule_at(table: &Table, rules: &RuleSet, address: u64) -> Rule {
    *rules.get(table.rule_at(table.offset_of(address).unwrap())).unwrap()
}

/// Instructions of each function, by address.
fn disassembled(path: &Path) -> Option<BTreeMap<String, Vec<(u64, String)>>> {
    let mut objdump = Command::new("objdump");
    let text = output(objdump.args(["-d", "--no-show-raw-insn"]).arg(path))?;
    let mut functions: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(named) = line.strip_suffix(">:") {
            name = named.split_once('<').unwrap().1.to_owned();
        } else if let Some((at, instruction)) = line.trim().split_once(":\t") {
            let at = u64::from_str_radix(at, 16).unwrap();
            let words = instruction.split_whitespace().collect::<Vec<_>>().join(" ");
            functions.entry(name.clone()).or_default().push((at, words));
        }
    }
    Some(functions)
}

/// What linkers put into every library: `_init` and `_fini` have room of their own,
/// `__do_global_dtors_aux` keeps rbp.
#[test]
fn each_instruction_of_what_linkers_add() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("x.c"), dir.path().join("x.so"));
    std::fs::write(&from, "int one(void) { return 1; }").unwrap();
    let mut gcc = Command::new("gcc");
    if output(gcc.args(["-shared", "-fPIC", "-o"]).arg(&to).arg(&from)).is_none() {
        return;
    }
    let Some(functions) = disassembled(&to) else { return };
    let (table, rules) = table(&to);
    let mut seen = 0;
    for name in
        ["_init", "_fini", "deregister_tm_clones", "register_tm_clones", "__do_global_dtors_aux"]
    {
        let (mut cfa_off, mut fp) = (8, Reg::Same);
        for (at, instruction) in &functions[name] {
            let rule = rule_at(&table, &rules, *at);
            let is = (rule.cfa, rule.cfa_off, rule.fp);
            assert_eq!(is, (Cfa::Sp, cfa_off, fp), "{name} {at:#x} {instruction}");
            seen += 1;
            match instruction.as_str() {
                "push %rbp" => (cfa_off, fp) = (cfa_off + 8, Reg::Cfa),
                "pop %rbp" => (cfa_off, fp) = (cfa_off - 8, Reg::Same),
                "sub $0x8,%rsp" => cfa_off += 8,
                "add $0x8,%rsp" => cfa_off -= 8,
                other => assert!(!other.contains("%rsp") || other == "mov %rsp,%rbp", "{other}"),
            }
        }
    }
    assert!(seen > 40, "{seen} instructions");
}

/// Behind the system call of `clone3`, for which glibc has no CFI, the parent goes on.
#[test]
fn what_glibc_leaves_out_for_the_sake_of_the_child() {
    let libc = support::mapped("libc.so.6");
    let Some(functions) = disassembled(&libc) else { return };
    let (table, rules) = table(&libc);
    // mov $435 is clone3's number, mov $56 clone's.
    let mut found = 0;
    for instructions in functions.values() {
        for (i, (_, instruction)) in instructions.iter().enumerate() {
            if !["mov $0x1b3,%eax", "mov $0x38,%eax"].contains(&instruction.as_str()) {
                continue;
            }
            let rest = &instructions[i + 1..];
            if !matches!(rest, [(_, s), (_, t), ..] if s == "syscall" && t == "test %rax,%rax") {
                continue;
            }
            let to = rest.iter().position(|(_, i)| i == "ret").unwrap();
            for (at, instruction) in &rest[..=to] {
                let rule = rule_at(&table, &rules, *at);
                assert_eq!((rule.cfa, rule.cfa_off), (Cfa::Sp, 8), "{at:#x} {instruction}");
            }
            found += 1;
        }
    }
    assert!(found > 0, "no such place in {}", libc.display());
}

/// The functions that Go's assembler marks so, by the names that the symbol table has.
#[test]
fn what_begins_a_stack_of_go() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.go"), "package main\nfunc main() { println(1) }\n").unwrap();
    let to = dir.path().join("x");
    let mut go = Command::new("go");
    go.args(["build", "-o", "x", "x.go"]).current_dir(&dir);
    go.env("GO111MODULE", "off").env("GOCACHE", dir.path().join("cache"));
    if output(&mut go).is_none() {
        return;
    }
    let Some(symbols) = output(Command::new("nm").arg(&to)) else { return };
    let (table, rules) = table(&to);
    let mut tops = 0;
    for line in symbols.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [address, "t" | "T", name] = words[..] else { continue };
        let address = u64::from_str_radix(address, 16).unwrap();
        let Some(offset) = table.offset_of(address) else { continue };
        let is_top = rules.get(table.rule_at(offset)).unwrap().cfa == Cfa::End;
        let name = name.trim_end_matches(".abi0");
        let known = ["runtime.goexit", "runtime.mstart", "runtime.rt0_go"].contains(&name)
            // In newer ones.
            || is_top && ["runtime.mcall", "_rt0_amd64", "_rt0_amd64_linux"].contains(&name);
        assert_eq!(is_top, known, "{name}");
        tops += u32::from(is_top);
    }
    assert!(tops >= 3, "{tops}");
}
