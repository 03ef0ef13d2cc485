//! Programs that the tests build.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// Tells whether it is watched, once for each line it reads.
const MAIN: &str = r#"
#include <stdio.h>
#include "prof.h"
int other(void);
int main(void)
{
    char line[16];
    while (fgets(line, sizeof(line), stdin)) {
        PROF_REGION("from C");
        printf("%d\n", prof_is_watched());
        fflush(stdout);
        other();
    }
    return 0;
}
"#;

/// Uses all that is left, in a file of its own.
const OTHER: &str = r#"
#include "prof.h"
int other(void);
int other(void)
{
    prof_disable();
    prof_enable();
    prof_region_begin("other");
    prof_region_end();
    return 0;
}
"#;

/// A folder with a program in it.
pub struct Built {
    pub dir: TempDir,
    pub path: PathBuf,
}

/// Builds the two files above with these flags, and with each warning an error.
pub fn build(compiler: &str, flags: &[&str]) -> Built {
    build_files(compiler, flags, &[("main.c", MAIN), ("other.c", OTHER)])
}

/// Builds the second file alone: it needs no C library.
pub fn build_small(compiler: &str, flags: &[&str]) -> Built {
    build_files(compiler, flags, &[("other.c", OTHER)])
}

pub fn build_files(compiler: &str, flags: &[&str], files: &[(&str, &str)]) -> Built {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let output = Command::new(compiler)
        .current_dir(dir.path())
        .args(["-Wall", "-Wextra", "-Werror", "-I"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../include"))
        .args(flags)
        .args(files.iter().map(|(name, _)| name))
        .arg("-o")
        .arg(&path)
        .output()
        .unwrap_or_else(|e| panic!("{compiler}: {e}"));
    assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    Built { dir, path }
}

/// Builds a program against `prof-api` with these options for the compiler, as cargo
/// does for a release.
pub fn build_rust(text: &str, options: &[&str]) -> Built {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    let main = dir.path().join("main.rs");
    fs::write(&main, text).unwrap();
    let api = concat!(env!("CARGO_MANIFEST_DIR"), "/../prof-api/src/lib.rs");
    let rustc = |args: &[&str]| {
        let output = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"))
            .current_dir(dir.path())
            .args(["--edition=2024", "-Copt-level=3"])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    rustc(&["--crate-type=rlib", "--crate-name=prof_api", api]);
    let program = ["main.rs", "-o", "program", "--extern=prof_api=libprof_api.rlib"];
    rustc(&[&program[..], options].concat());
    Built { dir, path }
}

/// This program, which uses all of `prof-api`.
pub fn this() -> PathBuf {
    // Never so, but the compiler does not know.
    if std::env::var_os("PROF_TEST_NEVER_SET").is_some() {
        prof_api::disable();
        prof_api::enable();
        prof_api::region_begin("never");
        prof_api::region_end();
    }
    std::env::current_exe().unwrap()
}

/// A compiler that may not be there; says so.
pub fn has(compiler: &str) -> bool {
    let there = Command::new(compiler).arg("--version").output().is_ok();
    if !there {
        eprintln!("SKIPPED {compiler}: it is not installed");
    }
    there
}

pub fn bytes_at(path: &Path, offset: u64, count: usize) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    bytes[offset as usize..][..count].to_vec()
}
