//! Files that lead to other files: where that is wanted, and where it would do harm.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use prof_symbols::Options;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;

use crate::support::*;

/// Whoever opens it waits.
fn fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// A copy of a program with a debug link, as objcopy would not make it.
fn linked(program: &Path, name: &str) -> PathBuf {
    let (to, section) = (program.with_extension("linked"), program.with_extension("link"));
    let mut content = name.as_bytes().to_vec();
    content.resize((name.len() + 4) & !3, 0);
    content.extend(0x1234_u32.to_le_bytes());
    std::fs::write(&section, content).unwrap();
    let section = format!(".gnu_debuglink={}", section.display());
    output(Command::new("objcopy").args(["--add-section", &section]).args([program, &to]));
    to
}

/// A link to a path of its own, or to something next to it that is no file: neither is
/// opened, and what the file itself has is read.
#[test]
fn a_link_leads_nowhere_else() {
    if !have("links that do harm", &["g++", "objcopy", "nm", "readelf"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = cpp(dir.path());
    let trap = dir.path().join("trap");
    fifo(&trap);
    let addresses = addresses(&program, false, 20);
    let expected = names(&File::open(&program).unwrap(), &program, &addresses, &alone());
    assert!(expected.iter().all(|n| n.functions[0].line.is_some()));
    for name in [trap.to_str().unwrap(), "trap", "../trap", "linked", "", &"x".repeat(5000)] {
        let file = linked(&program, name);
        let debug_dirs = vec![dir.path().to_owned()];
        let options = Options { debug_dirs, time: std::time::Duration::from_secs(10), ..alone() };
        assert_eq!(
            names(&File::open(&file).unwrap(), &file, &addresses, &options),
            expected,
            "{name}"
        );
    }
}

/// As compilers, Debian, older compilers and some distributions do it.
#[test]
fn compressed_debug_information_is_read() {
    if !have("compressed debug information", &["g++", "objcopy", "nm", "readelf"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = cpp(dir.path());
    let addresses = addresses(&program, false, 100);
    let expected = names(&File::open(&program).unwrap(), &program, &addresses, &alone());
    for way in ["zlib", "zlib-gnu", "zstd"] {
        let file = program.with_extension(way);
        let mut objcopy = Command::new("objcopy");
        objcopy.arg(format!("--compress-debug-sections={way}")).args([&program, &file]);
        output(&mut objcopy);
        let smaller = file.metadata().unwrap().len() < program.metadata().unwrap().len();
        assert!(smaller, "{way}: not compressed");
        let found = names(&File::open(&file).unwrap(), &file, &addresses, &alone());
        assert_eq!(found, expected, "{way}");
    }
}

/// What several debug files have in common is in another, as Debian and Fedora do it.
#[test]
fn what_debug_files_share_is_found() {
    if !have("shared debug information", &["g++", "objcopy", "strip", "dwz", "nm", "readelf"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let debug = dir.path().join("debug");
    let mut programs = Vec::new();
    for name in ["one", "two"] {
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let define = format!("-DNAME={name}");
        let whole = cpp_with(&folder, &[&define, "-Wl,--build-id"]);
        let id = build_id(&whole);
        let place = debug.join(".build-id").join(&id[..2]);
        std::fs::create_dir_all(&place).unwrap();
        let place = place.join(format!("{}.debug", &id[2..]));
        output(Command::new("objcopy").arg("--only-keep-debug").args([&whole, &place]));
        programs.push((whole, place));
    }
    let common = debug.join(".dwz/common");
    std::fs::create_dir(common.parent().unwrap()).unwrap();
    let mut dwz = Command::new("dwz");
    dwz.arg("-r").arg("-m").arg(&common).args(programs.iter().map(|(_, place)| place));
    output(&mut dwz);

    for (whole, place) in &programs {
        let headers = output(Command::new("readelf").arg("-SW").arg(place));
        assert!(headers.contains(".gnu_debugaltlink"), "{headers}");
        let addresses = addresses(whole, false, 300);
        let expected = names(&File::open(whole).unwrap(), whole, &addresses, &alone());
        let stripped = stripped(whole);
        let options = Options { debug_dirs: vec![debug.clone()], ..alone() };
        let found = names(&File::open(&stripped).unwrap(), &stripped, &addresses, &options);
        for ((address, expected), found) in addresses.iter().zip(&expected).zip(&found) {
            assert_eq!(places(found), places(expected), "{address:#x}");
        }
    }
}
