//! Tables against gimli and framehop, address by address. `examples/compare.rs` does so
//! for whole folders.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod oracle;
mod support;

use std::path::Path;

use support::file;
use support::mapped;

fn compare(path: &Path, at_least: u64, kinds: &[&str]) {
    let data = std::fs::read(path).unwrap();
    compare_bytes(&data, &path.display().to_string(), at_least, kinds);
}

fn compare_bytes(data: &[u8], name: &str, at_least: u64, kinds: &[&str]) {
    let tally = oracle::compare(data, name).unwrap();
    println!("{name}: {tally}");
    assert_eq!(tally.wrong_total, 0, "{name}: {tally}");
    assert!(tally.addresses >= at_least, "{name}: only {}", tally.addresses);
    for kind in kinds {
        assert!(tally.kinds.contains_key(*kind), "{name}: no rule of kind {kind}: {tally}");
    }
    // framehop reads nothing that is stored for a frame's address, knows three registers,
    // and no signal frames.
    for what in tally.not_framehop.keys() {
        let known = ["stored", "another register", "return address Register", "DerefIndexed,"];
        let known = known.iter().any(|k| what.contains(k)) || what.starts_with("End,");
        assert!(known, "{name}: {what}");
    }
    let refused: u64 = tally.refused.values().sum();
    assert!(refused * 50 < tally.addresses, "{name}: {refused} refused");
}

#[test]
fn libc_and_the_loader() {
    let x86_64 = cfg!(target_arch = "x86_64");
    let kinds: &[_] = if x86_64 { &["Sp", "Fp", "Plt", "Signal", "End"] } else { &["Sp", "Fp"] };
    compare(&mapped("libc.so.6"), 20_000, kinds);
    let kinds: &[_] = if x86_64 { &["Sp", "Fp", "Entry"] } else { &["Sp", "Fp", "End"] };
    compare(&mapped("ld-linux"), 2_000, kinds);
}

#[test]
fn this_program() {
    compare(&std::env::current_exe().unwrap(), 10_000, &["Sp", "End"]);
}

#[test]
fn cxx() {
    if let Some(path) = file("/usr/lib/x86_64-linux-gnu/libstdc++.so.6") {
        compare(&path, 20_000, &["Sp", "Fp", "Plt"]);
    }
}

#[test]
fn assembly_with_cfi_of_its_own() {
    if let Some(path) = file("/usr/lib/x86_64-linux-gnu/libcrypto.so.3") {
        compare(&path, 50_000, &["Sp", "Fp", "DerefSp"]);
    }
}

/// An aligned stack, room of unknown size, and arguments on the caller's stack: gcc keeps
/// where these are in a register, and stores it.
#[test]
fn a_stack_that_was_realigned() {
    let source = "extern int other(void *);
        int realigned(int a, int b, int c, int d, int e, int f, int g, int h) {
            _Alignas(64) char room[256];
            return other(room) + other(__builtin_alloca(g)) + g + h;
        }";
    if let Some(data) = support::built("gcc", source, &[])
        && cfg!(target_arch = "x86_64")
    {
        let tally = oracle::compare(&data, "realigned").unwrap();
        assert_eq!(tally.wrong_total, 0, "{tally}");
        assert!(tally.kinds.contains_key("DerefFp"), "{tally}");
        assert!(tally.kinds.contains_key("Plt"), "{tally}");
    }
}

#[test]
fn arm64() {
    for (name, at_least) in [("libc.so.6", 20_000), ("ld-linux-aarch64.so.1", 2_000)] {
        if let Some(path) = file(&format!("/usr/aarch64-linux-gnu/lib/{name}")) {
            compare(&path, at_least, &["Sp", "Fp", "End"]);
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_vdso() {
    let image = prof_unwind::own_vdso().unwrap();
    let tally = oracle::compare(&image, "vdso").unwrap();
    println!("{tally}");
    assert_eq!(tally.wrong_total, 0, "{tally}");
    assert!(tally.addresses > 10 && tally.equal == tally.addresses, "{tally}");
}

/// It has no CFI to compare with: `built.rs` does that with what is built alike, and
/// `own_stack.rs` goes through it.
#[test]
#[cfg(target_arch = "aarch64")]
fn the_vdso() {
    let image = prof_unwind::own_vdso().unwrap();
    let mut rules = prof_unwind::RuleSet::new();
    let limits = prof_unwind::Limits::default();
    let table = prof_unwind::Table::from_elf(&image, &mut rules, &limits).unwrap();
    assert_eq!((table.stats.functions, table.stats.sigreturns), (0, 1));
    println!("{:?}", rules.rules());
    assert!(rules.rules().iter().any(|rule| rule.cfa == prof_unwind::Cfa::Sp));
}
