//! What will be loaded, against what the loader itself says.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use prof_unwind::Needed;
use prof_unwind::closure;
use prof_unwind::libraries::Environment;
use support::file;
use support::output;

/// What `ld.so --list` names, without links, and without the vDSO.
fn listed(program: &Path, interpreter: &Path) -> Option<BTreeSet<PathBuf>> {
    let out = output(Command::new(interpreter).arg("--list").arg(program))?;
    let words = out.lines().filter_map(|line| line.split_whitespace().find(|w| w.starts_with('/')));
    Some(words.map(|path| Path::new(path).canonicalize().unwrap()).collect())
}

fn found(program: &Path) -> Vec<PathBuf> {
    closure(program, &Environment::default())
}

fn check(program: &Path) {
    let needed = Needed::from_elf(&fs::read(program).unwrap()).unwrap();
    let Some(interpreter) = needed.interpreter else { panic!("{} is static", program.display()) };
    let interpreter = PathBuf::from(String::from_utf8(interpreter).unwrap());
    let Some(mut wanted) = listed(program, &interpreter) else { return };
    let found = found(program);
    assert_eq!(found[0], program.canonicalize().unwrap());
    wanted.insert(program.canonicalize().unwrap());
    wanted.insert(interpreter.canonicalize().unwrap());
    assert_eq!(found.iter().cloned().collect::<BTreeSet<_>>(), wanted);
    assert_eq!(found.len(), wanted.len(), "each once: {found:?}");
}

#[test]
fn programs_of_the_system() {
    let mut checked = 0;
    for name in ["git", "python3", "openssl", "perl", "gdb", "bash", "gcc", "ssh", "vim", "perf"] {
        let path = Path::new("/usr/bin").join(name);
        if let Ok(path) = path.canonicalize()
            && Needed::from_elf(&fs::read(&path).unwrap()).is_ok_and(|n| n.interpreter.is_some())
        {
            check(&path);
            checked += 1;
        }
    }
    println!("{checked} programs");
    assert!(checked >= 2, "too few programs to compare");
}

#[test]
fn this_program() {
    check(&std::env::current_exe().unwrap());
}

#[test]
fn names_as_readelf_prints_them() {
    let Some(path) = file("/usr/bin/git") else { return };
    let Some(dump) = output(Command::new("readelf").args(["-dW"]).arg(&path)) else { return };
    let names = dump.lines().filter(|line| line.contains("(NEEDED)"));
    let names: Vec<_> = names.map(|l| l.split(['[', ']']).nth(1).unwrap().as_bytes()).collect();
    let needed = Needed::from_elf(&fs::read(path).unwrap()).unwrap();
    assert!(!names.is_empty());
    assert_eq!(needed.libraries, names);
}

/// Libraries in folders that only the files name, against what ld.so makes of it.
#[test]
fn folders_that_files_name() {
    for (flag, works) in [("--enable-new-dtags", false), ("--disable-new-dtags", true)] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("inner")).unwrap();
        fs::write(at("empty.c"), "int nothing;").unwrap();
        fs::write(at("main.c"), "int main(void) { return 0; }").unwrap();
        let gcc = |args: &[&str]| {
            let mut command = Command::new("gcc");
            output(command.current_dir(folder.path()).args(args)).is_some()
        };
        let built = gcc(&["-shared", "-o", "inner/libprofb.so", "empty.c"])
            && gcc(&[
                "-shared",
                "-o",
                "inner/libprofa.so",
                "empty.c",
                "-Wl,--no-as-needed",
                "-Linner",
                "-lprofb",
            ])
            && gcc(&[
                "-o",
                "main",
                "main.c",
                "-Wl,--no-as-needed",
                "-Linner",
                "-lprofa",
                "-Wl,--allow-shlib-undefined",
                &format!("-Wl,{flag}"),
                "-Wl,-rpath,$ORIGIN/inner",
                "-Wl,-rpath-link,inner",
            ]);
        if !built {
            return;
        }
        let found = found(&at("main"));
        let has = |name: &str| found.contains(&at("inner").canonicalize().unwrap().join(name));
        assert!(has("libprofa.so"));
        // A runpath is of the file's own libraries only, an rpath also of theirs.
        assert_eq!(has("libprofb.so"), works, "{flag}");
        assert_eq!(Command::new(at("main")).status().unwrap().success(), works, "{flag}");
        // As the environment names it.
        let path = at("inner");
        let environment = Environment { library_path: Some(path.as_os_str()) };
        let found = closure(&at("main"), &environment);
        assert!(found.contains(&path.canonicalize().unwrap().join("libprofb.so")));
    }
}

#[test]
fn interpreters_of_scripts() {
    let Some(shell) = file("/bin/sh") else { return };
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    fs::write(&script, "#! /bin/sh -e\nexit 0\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let of_script = found(&script);
    assert_eq!(of_script[0], shell);
    assert_eq!(of_script, found(&shell));
    // Of a script that names itself there is nothing.
    fs::write(&script, format!("#!{}\n", script.display())).unwrap();
    assert!(found(&script).is_empty());
    assert!(found(Path::new("/dev/null")).is_empty());
    assert!(found(folder.path()).is_empty());
}
