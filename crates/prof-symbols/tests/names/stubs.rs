//! Stubs that call functions of other files, beside what objdump calls them.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::support::*;

const SOURCE: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv) {
    int (*taken)(const char *) = puts;
    taken(strerror((int)strtol(argv[0], 0, 10)));
    return puts(getenv(argv[argc - 1])) + (int)strlen(setlocale_of(argc));
}
"#;

fn program(dir: &Path, compiler: &str, options: &[&str]) -> std::path::PathBuf {
    let (source, program) = (dir.join("calls.c"), dir.join("calls"));
    let text = SOURCE.replace("setlocale_of(argc)", "argv[1]");
    std::fs::write(&source, text).unwrap();
    let mut cc = Command::new(compiler);
    output(cc.args(["-O1", "-fno-builtin"]).args(options).arg("-o").arg(&program).arg(&source));
    program
}

#[test]
fn stubs_are_named_by_what_they_call() {
    let of_x86 = ("gcc", "objdump");
    let of_arm = ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-objdump");
    let dir = tempfile::tempdir().unwrap();
    for ((compiler, objdump), options) in [
        (of_x86, &["-Wl,-z,lazy", "-fcf-protection=none"][..]),
        (of_x86, &["-Wl,-z,lazy", "-fcf-protection=full", "-Wl,-z,ibtplt"]),
        (of_x86, &["-Wl,-z,now", "-fcf-protection=full"]),
        (of_x86, &["-Wl,-z,now", "-fno-pie", "-no-pie", "-fcf-protection=none"]),
        (of_arm, &["-Wl,-z,lazy"]),
        (of_arm, &["-Wl,-z,now", "-mbranch-protection=standard", "-Wl,-z,force-bti"]),
    ] {
        if !have("names of stubs", &[compiler, objdump, "readelf"]) {
            continue;
        }
        let program = program(dir.path(), compiler, options);
        let listed = output(Command::new(objdump).arg("-d").arg(&program));
        let mut stubs: Vec<(u64, String)> = Vec::new();
        for line in listed.lines() {
            let Some((at, name)) = line.strip_suffix(">:").and_then(|l| l.split_once(" <")) else {
                continue;
            };
            if let Some(name) = name.strip_suffix("@plt") {
                let at = u64::from_str_radix(at, 16).unwrap();
                stubs.extend([(at, name.to_owned()), (at + 4, name.to_owned())]);
            }
        }
        let called = stubs.iter().filter(|(_, name)| name == "strtol").count();
        assert!(called >= 2, "{compiler} {options:?}: {listed}");
        let addresses: Vec<u64> = stubs.iter().map(|(at, _)| *at).collect();
        for strip in [false, true] {
            let file =
                if strip && compiler == "gcc" { stripped(&program) } else { program.clone() };
            let named = names(&File::open(&file).unwrap(), &file, &addresses, &alone());
            for ((at, name), named) in stubs.iter().zip(named) {
                let found: Vec<_> = named.functions.iter().map(|f| f.name.as_str()).collect();
                assert_eq!(found, [format!("{name}@plt")], "{compiler} {options:?}: {at:#x}");
            }
        }
    }
}

#[test]
fn no_symbol_reaches_into_another_section() {
    if !have("symbols without a size", &["gcc", "readelf"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = program(dir.path(), "gcc", &["-Wl,-z,lazy"]);
    let sections = output(Command::new("readelf").arg("-SW").arg(&program));
    let plt = sections.lines().find(|l| l.contains(" .plt ")).expect("a PLT");
    let at = plt.split_whitespace().skip_while(|w| *w != "PROGBITS").nth(1).unwrap();
    let at = u64::from_str_radix(at, 16).unwrap();
    // Its first entry, which is nobody's stub, right behind `.init` with its `_init`.
    let named = &names(&File::open(&program).unwrap(), &program, &[at], &alone())[0];
    assert!(named.functions.is_empty(), "{named:?}");
    assert!(named.unnamed.as_ref().unwrap().contains("of .plt"), "{named:?}");
}
