//! Programs whose names are elsewhere, or not there at all.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use prof_symbols::Address;
use prof_symbols::Named;
use prof_symbols::Options;
use prof_symbols::Source;
use prof_symbols::Symbolizer;

use crate::support::*;

const TOOLS: [&str; 6] = ["g++", "objcopy", "strip", "nm", "readelf", "addr2line"];

fn objcopy(arguments: &[&str], files: &[&Path]) {
    output(Command::new("objcopy").args(arguments).args(files));
}

/// The program whole, and its debug file.
fn apart(dir: &Path) -> (PathBuf, PathBuf) {
    let program = cpp(dir);
    let debug = dir.join("only.debug");
    objcopy(&["--only-keep-debug"], &[&program, &debug]);
    (program, debug)
}

/// Names of the stripped program are those of the whole one.
fn same_as_whole(whole: &Path, stripped: &Path, options: &Options) {
    let addresses = addresses(whole, false, 500);
    let expected = names(&File::open(whole).unwrap(), whole, &addresses, &alone());
    let found = names(&File::open(stripped).unwrap(), stripped, &addresses, options);
    assert!(expected.iter().any(|n| n.functions.len() > 2));
    assert_eq!(found, expected);
}

#[test]
fn a_debug_file_is_found_by_build_id() {
    if !have("debug files by build id", &TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (program, debug) = apart(dir.path());
    let stripped = stripped(&program);
    let id = build_id(&stripped);
    let folder = dir.path().join("debug/.build-id").join(&id[..2]);
    std::fs::create_dir_all(&folder).unwrap();
    let place = folder.join(format!("{}.debug", &id[2..]));
    std::fs::rename(debug, &place).unwrap();

    let debug_dirs = vec![dir.path().join("none"), dir.path().join("debug")];
    let options = Options { debug_dirs, ..alone() };
    same_as_whole(&program, &stripped, &options);

    // Of another build, it is not taken.
    let mut bytes = std::fs::read(&place).unwrap();
    let raw: Vec<u8> =
        (0..id.len()).step_by(2).map(|i| u8::from_str_radix(&id[i..i + 2], 16).unwrap()).collect();
    let at = bytes.windows(raw.len()).position(|w| w == raw).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&place, bytes).unwrap();
    let address = addresses(&program, false, 1);
    let named = names(&File::open(&stripped).unwrap(), &stripped, &address, &options);
    assert!(named.iter().all(|n| n.functions.iter().all(|f| f.line.is_none())), "{named:?}");
}

#[test]
fn a_debug_file_is_found_by_its_link() {
    if !have("debug files by link", &TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("shapes");
    let (whole, debug) = apart(dir.path());
    // No build id, so that only the checksum tells.
    for file in [&whole, &debug] {
        objcopy(&["--remove-section=.note.gnu.build-id"], &[file]);
    }
    let stripped = stripped(&whole);
    let link = format!("--add-gnu-debuglink={}", debug.display());
    objcopy(&[&link], &[&stripped]);

    same_as_whole(&program, &stripped, &alone());

    let beside = dir.path().join(".debug");
    std::fs::create_dir(&beside).unwrap();
    let moved = beside.join("only.debug");
    std::fs::rename(&debug, &moved).unwrap();
    same_as_whole(&program, &stripped, &alone());

    let far = dir.path().join("far").join(dir.path().strip_prefix("/").unwrap());
    std::fs::create_dir_all(&far).unwrap();
    std::fs::rename(&moved, far.join("only.debug")).unwrap();
    let options = Options { debug_dirs: vec![dir.path().join("far")], ..alone() };
    same_as_whole(&program, &stripped, &options);

    // With another checksum, it is not taken.
    let mut bytes = std::fs::read(far.join("only.debug")).unwrap();
    bytes.push(0);
    std::fs::write(far.join("only.debug"), bytes).unwrap();
    let address = addresses(&whole, false, 1);
    let named = names(&File::open(&stripped).unwrap(), &stripped, &address, &options);
    assert!(named.iter().all(|n| n.functions.iter().all(|f| f.line.is_none())), "{named:?}");
}

#[test]
fn a_whole_program_in_another_tree_names_the_stripped_one() {
    if !have("symfs", &TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (program, _) = apart(dir.path());
    let stripped = stripped(&program);
    let tree = dir.path().join("tree");
    let there = tree.join(stripped.strip_prefix("/").unwrap());
    std::fs::create_dir_all(there.parent().unwrap()).unwrap();
    std::fs::copy(&program, there).unwrap();
    same_as_whole(&program, &stripped, &Options { symfs: Some(tree), ..alone() });
}

#[test]
fn compressed_symbols_are_read() {
    let mut tools = TOOLS.to_vec();
    tools.push("xz");
    if !have(".gnu_debugdata", &tools) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (program, debug) = apart(dir.path());
    // As find-debuginfo of Fedora does it: functions that are not in .dynsym.
    let dynamic: BTreeSet<String> =
        symbols(&program, true).into_iter().map(|(_, _, name)| name).collect();
    let keep: Vec<String> = symbols(&program, false)
        .into_iter()
        .filter(|(_, _, name)| !dynamic.contains(name))
        .map(|(_, _, name)| name)
        .collect();
    let (list, mini) = (dir.path().join("keep"), dir.path().join("mini"));
    std::fs::write(&list, keep.join("\n")).unwrap();
    let keep = format!("--keep-symbols={}", list.display());
    objcopy(
        &["-S", "--remove-section", ".gdb_index", "--remove-section", ".comment", &keep],
        &[&debug, &mini],
    );
    output(Command::new("xz").arg(&mini));
    let stripped = stripped(&program);
    let section = format!(".gnu_debugdata={}", mini.with_extension("xz").display());
    objcopy(&["--add-section", &section], &[&stripped]);

    symbols_alone(&program, &stripped, &symbols(&program, false));
}

#[test]
fn what_is_stripped_has_dynamic_symbols() {
    if have("dynamic symbols", &TOOLS) {
        let dir = tempfile::tempdir().unwrap();
        let program = cpp_with(dir.path(), &["-rdynamic"]);
        let stripped = stripped(&program);
        let dynamic: Vec<_> =
            symbols(&stripped, true).into_iter().filter(|(_, size, _)| *size > 0).collect();
        assert!(!dynamic.is_empty());
        symbols_alone(&program, &stripped, &dynamic);
    }
}

/// libc as it is installed.
fn libc() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|l| l.contains("/libc.so.6")).expect("a program with glibc");
    line[line.find('/').unwrap()..].into()
}

#[test]
fn libc_has_dynamic_symbols() {
    if have("libc's symbols", &["nm", "readelf"]) {
        let libc = libc();
        let dynamic: Vec<_> =
            symbols(&libc, true).into_iter().filter(|(_, size, _)| *size > 0).collect();
        assert!(dynamic.len() > 1000, "{}", dynamic.len());
        symbols_alone(&libc, &libc, &dynamic);
    }
}

/// Each address has the name of a symbol that covers it, one of those that begin last;
/// what none covers has a reason. Symbols may begin at the same address.
fn symbols_alone(whole: &Path, stripped: &Path, symbols: &[(u64, u64, String)]) {
    let mut addresses = addresses(whole, whole == stripped, 700);
    // Also between functions.
    addresses.extend(symbols.iter().take(300).map(|(at, size, _)| at + size));
    let segments = segments(stripped);
    addresses.retain(|a| segments.iter().any(|s| *a >= s.1 && *a - s.1 < s.2 && s.3));
    let options = Options { demangle: false, ..alone() };
    let named = names(&File::open(stripped).unwrap(), stripped, &addresses, &options);
    let mut without = 0;
    for (address, named) in addresses.iter().zip(&named) {
        let covering = symbols.iter().filter(|(at, size, _)| at <= address && address - at < *size);
        let covering: Vec<&str> = covering.map(|(_, _, name)| name.as_str()).collect();
        match &named.functions[..] {
            [] => {
                assert!(covering.is_empty(), "{address:#x}: {covering:?}, {named:?}");
                let why = named.unnamed.as_deref().unwrap();
                assert!(why.starts_with("stripped: no symbol covers this part"), "{why}");
                without += 1;
            }
            [f] => {
                let name = f.name.split('@').next().unwrap();
                assert!(covering.contains(&name), "{address:#x}: {name}, {covering:?}");
                assert_eq!((f.line, &named.unnamed), (None, &None));
            }
            more => panic!("{address:#x}: {more:?}"),
        }
    }
    println!("{stripped:?}: {} addresses, {without} without a name", addresses.len());
    assert!(without < addresses.len() * 9 / 10);
}

/// The vDSO of this process.
fn vdso() -> Vec<u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|l| l.ends_with("[vdso]")).unwrap();
    let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
    let [from, to] = [from, to].map(|a| u64::from_str_radix(a, 16).unwrap());
    let mut bytes = vec![0; (to - from) as usize];
    let memory = File::open("/proc/self/mem").unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, from).unwrap();
    bytes
}

#[test]
fn the_vdso_is_named_from_memory() {
    if !have("the vDSO", &["nm", "readelf"]) {
        return;
    }
    let bytes = vdso();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vdso");
    std::fs::write(&file, &bytes).unwrap();
    let symbols = symbols(&file, true);
    assert!(symbols.iter().any(|(_, _, n)| n.contains("clock_gettime")), "{symbols:?}");
    let segments = segments(&file);
    for (at, size, name) in &symbols {
        for address in [*at, at + size / 2, at + size - 1] {
            let address = Address { offset: offset(&segments, address), is_return: false };
            let named = Symbolizer::new(alone()).user(&Source::Image(&bytes), &[address]);
            // `clock_gettime` is an alias of `__vdso_clock_gettime`.
            let aliases: Vec<_> = symbols.iter().filter(|s| s.0 == *at).map(|s| &s.2).collect();
            let found = &named[0].functions[0].name;
            assert!(aliases.contains(&found), "{name}: {found}");
        }
    }
}

/// Linkers leave the names of functions that they dropped at address 0.
#[test]
fn what_is_no_code_has_no_name() {
    let program = std::env::current_exe().unwrap();
    let file = File::open(&program).unwrap();
    let length = file.metadata().unwrap().len();
    let address = |offset| Address { offset, is_return: false };
    let source = Source::File { file: file.as_fd(), path: &program, build_id: &[], code: &[] };
    let addresses = [0, 64, length - 1, length, u64::MAX].map(address);
    for named in Symbolizer::new(alone()).user(&source, &addresses) {
        assert_eq!(named.functions, []);
        assert_eq!(named.unnamed.as_deref(), Some("this part of the file is no code"));
    }
}

#[test]
fn what_is_no_elf_file_has_the_reason() {
    let address = [Address { offset: 64, is_return: false }];
    let of = |bytes: &[u8]| {
        let named = Symbolizer::new(alone()).user(&Source::Image(bytes), &address);
        assert!(named[0].functions.is_empty());
        named[0].unnamed.clone().unwrap()
    };
    assert_eq!(of(b""), "not an ELF file");
    assert_eq!(of(b"#!/bin/sh\necho and more than sixteen bytes\n"), "not an ELF file");
    assert!(of(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\0").starts_with("a broken ELF file"));
    let null = File::open("/dev/null").unwrap();
    let source =
        Source::File { file: null.as_fd(), path: Path::new("/dev/null"), build_id: &[], code: &[] };
    let named = Symbolizer::new(alone()).user(&source, &address);
    assert_eq!(
        named,
        [Named {
            functions: vec![],
            unnamed: Some("the file cannot be read: not a regular file".into())
        }]
    );
}
