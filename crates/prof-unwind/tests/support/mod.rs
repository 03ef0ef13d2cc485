//! What tests need and may not have.
#![allow(dead_code, reason = "each test has a use for some of it")]

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// Says that something is left out, or fails if nothing may be.
pub fn skipped(why: &str) {
    assert!(
        std::env::var_os("PROF_LIVE").is_none_or(|live| live != "require"),
        "cannot run: {why}"
    );
    println!("SKIPPED: {why}");
}

/// A file, without links, or that it is not there.
pub fn file(path: &str) -> Option<PathBuf> {
    let found = Path::new(path).canonicalize().ok();
    if found.is_none() {
        skipped(&format!("{path} is not there"));
    }
    found
}

/// What a command prints; nothing if there is none of that name.
pub fn output(command: &mut Command) -> Option<String> {
    match command.env("LC_ALL", "C").output() {
        Ok(out) => {
            let error = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{command:?}: {error}");
            Some(String::from_utf8_lossy(&out.stdout).into_owned())
        }
        Err(e) => {
            skipped(&format!("{command:?}: {e}"));
            None
        }
    }
}

/// A shared library made of C, and the folder it is in; nothing without the compiler.
pub fn built(compiler: &str, source: &str, flags: &[&str]) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("it.c"), folder.path().join("it.so"));
    std::fs::write(&from, source).unwrap();
    let mut command = Command::new(compiler);
    command.args(["-shared", "-fPIC", "-nostdlib", "-O2", "-o"]).arg(&to).args(flags).arg(&from);
    output(&mut command)?;
    Some(std::fs::read(to).unwrap())
}

/// A file that this process has mapped.
pub fn mapped(name: &str) -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let mut paths = paths.map(Path::new);
    let named = |p: &&Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(name));
    paths.find(named).unwrap_or_else(|| panic!("{name} is not mapped")).to_owned()
}
