//! Tables against gimli and framehop, address by address. `examples/compare.rs` does so
//! for whole folders.

mod oracle;
mod support;

use std::path::Path;

use support::file;
use support::mapped;

fn compare(path: &Path, at_least: u64) {
    let data = std::fs::read(path).unwrap();
    let tally = oracle::compare(&data, &path.display().to_string()).unwrap();
    println!("{}: {tally}", path.display());
    assert_eq!(tally.wrong_total, 0, "{}: {tally}", path.display());
    assert!(tally.addresses >= at_least, "{}: only {}", path.display(), tally.addresses);
    // framehop reads nothing that is stored for a frame's address, and no signal frames.
    for what in tally.not_framehop.keys() {
        let known = what.contains("stored") || what.starts_with("End,");
        assert!(known, "{}: {what}", path.display());
    }
    let refused: u64 = tally.refused.values().sum();
    assert!(refused * 50 < tally.addresses, "{}: {refused} refused", path.display());
}

#[test]
fn libc_and_the_loader() {
    compare(&mapped("libc.so.6"), 20_000);
    compare(&mapped("ld-linux"), 2_000);
}

#[test]
fn this_program() {
    compare(&std::env::current_exe().unwrap(), 10_000);
}

#[test]
fn cxx() {
    if let Some(path) = file("/usr/lib/x86_64-linux-gnu/libstdc++.so.6") {
        compare(&path, 20_000);
    }
}

#[test]
fn assembly_with_cfi_of_its_own() {
    if let Some(path) = file("/usr/lib/x86_64-linux-gnu/libcrypto.so.3") {
        compare(&path, 50_000);
    }
}

#[test]
fn arm64() {
    for (name, at_least) in [("libc.so.6", 20_000), ("ld-linux-aarch64.so.1", 2_000)] {
        if let Some(path) = file(&format!("/usr/aarch64-linux-gnu/lib/{name}")) {
            compare(&path, at_least);
        }
    }
}

#[test]
fn the_vdso() {
    let image = prof_unwind::own_vdso().unwrap();
    let tally = oracle::compare(&image, "vdso").unwrap();
    println!("{tally}");
    assert_eq!(tally.wrong_total, 0, "{tally}");
    assert!(tally.addresses > 10 && tally.equal == tally.addresses, "{tally}");
}
