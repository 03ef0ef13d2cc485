//! What is found in sound files.

use std::fs;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use prof_kernel::usdt::Name;
use prof_kernel::usdt::Probe;
use prof_kernel::usdt::find;

use crate::programs::Built;
use crate::programs::build;
use crate::programs::build_files;
use crate::programs::build_rust;
use crate::programs::build_small;
use crate::programs::bytes_at;
use crate::programs::has;
use crate::programs::this;

const ALL: [Name; 4] = [Name::Disable, Name::Enable, Name::RegionBegin, Name::RegionEnd];

fn names(probes: &[Probe]) -> Vec<Name> {
    let mut names: Vec<_> = probes.iter().map(|p| p.name).collect();
    names.sort_by_key(|n| n.as_str());
    names
}

/// One of each, where it should be, with a semaphore at rest.
fn assert_whole(what: &str, path: &Path, nop: &[u8]) {
    let probes = find(path).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(names(&probes), ALL, "{what}: {probes:?}");
    for probe in &probes {
        assert_eq!(bytes_at(path, probe.file_offset, nop.len()), nop, "{what}: {probe:?}");
        let semaphore = probe.semaphore_offset.expect("a semaphore");
        assert_eq!(bytes_at(path, semaphore, 2), [0, 0], "{what}: {probe:?}");
        assert_eq!(probe.args.is_empty(), probe.name != Name::RegionBegin, "{what}: {probe:?}");
    }
}

fn assert_whole_here(what: &str, path: &Path) {
    if cfg!(target_arch = "aarch64") {
        assert_whole(what, path, &0xd503_201f_u32.to_le_bytes());
        return;
    }
    assert_whole(what, path, &[0x90]);
    for probe in find(path).unwrap() {
        assert!(probe.is_readable(), "{what}: {probe:?}");
    }
}

#[test]
fn in_c_programs_and_libraries() {
    let ways: [&[&str]; 8] = [
        &["-std=c99", "-pedantic", "-O0"],
        &["-std=c99", "-O2", "-pie", "-fPIE"],
        &["-O2", "-no-pie", "-fno-pie"],
        &["-O2", "-static"],
        &["-O2", "-shared", "-fPIC"],
        &["-O2", "-flto"],
        &["-O2", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"],
        &["-O2", "-s"],
    ];
    for flags in ways {
        assert_whole_here(&format!("{flags:?}"), &build("cc", flags).path);
    }
}

#[test]
fn in_cpp_programs() {
    for compiler in ["c++", "clang++-19"] {
        if has(compiler) {
            for std in ["-std=c++98", "-std=c++20"] {
                let built = build(compiler, &[std, "-O2", "-x", "c++"]);
                assert_whole_here(&format!("{compiler} {std}"), &built.path);
            }
        }
    }
}

#[test]
fn by_another_compiler() {
    if has("clang-19") {
        assert_whole_here("clang", &build("clang-19", &["-O2"]).path);
    }
}

#[test]
fn in_a_program_of_another_machine() {
    let cross = "aarch64-linux-gnu-gcc";
    if cfg!(target_arch = "aarch64") || !has(cross) {
        return;
    }
    let built = build_small(cross, &["-O2", "-shared", "-fPIC", "-nostdlib"]);
    assert_whole(cross, &built.path, &0xd503_201f_u32.to_le_bytes());
    for probe in find(&built.path).unwrap() {
        // There is no such program here, so its registers are not to be read.
        assert_eq!(probe.is_readable(), probe.name != Name::RegionBegin, "{probe:?}");
    }
}

#[test]
fn in_a_rust_program() {
    assert_whole_here("this test", &this());
}

#[test]
fn in_rust_programs_however_they_are_linked() {
    let all =
        "fn main() { prof_api::disable(); prof_api::enable(); let _ = prof_api::region(\"a\"); }";
    let ways: [&[&str]; 4] = [
        &["-Clto=fat", "-Ccodegen-units=1", "-Cpanic=abort", "-Cstrip=symbols"],
        &["-Clto=thin"],
        &["-Crelocation-model=static", "-Ctarget-feature=+crt-static"],
        &["--crate-type=cdylib"],
    ];
    for options in ways {
        let text = match options.contains(&"--crate-type=cdylib") {
            true => format!("#[unsafe(no_mangle)] pub extern \"C\" fn f() {{ main() }} {all}"),
            false => all.to_owned(),
        };
        assert_whole_here(&format!("{options:?}"), &build_rust(&text, options).path);
    }
}

#[test]
fn in_rust_programs_that_use_some() {
    let text = "fn main() { let _region = prof_api::region(\"a\"); }";
    // It depends on the linker whether what is not used is thrown away.
    let found = names(&find(&build_rust(text, &[]).path).unwrap());
    assert!(found.ends_with(&[Name::RegionBegin, Name::RegionEnd]), "{found:?}");
    // Some leave the notes alone, which is no error.
    let text = "fn main() { println!(\"{}\", prof_api::is_watched()); }";
    find(&build_rust(text, &[]).path).unwrap();
}

#[test]
fn only_what_is_used_if_the_linker_collects() {
    let text = "#include \"prof.h\"\nint main(void) { prof_enable(); return 0; }\n";
    let built = build_files("cc", &["-O2", "-Wl,--gc-sections"], &[("main.c", text)]);
    assert_eq!(names(&find(&built.path).unwrap()), [Name::Enable]);
}

#[test]
fn of_prof_only() {
    let text = r#"
        int main(void)
        {
            __asm__ volatile(
                "990: nop\n.pushsection .note.stapsdt,\"\",\"note\"\n.balign 4\n"
                ".4byte 992f-991f,994f-993f,3\n991: .asciz \"stapsdt\"\n992: .balign 4\n"
                "993: .8byte 990b,0,0\n.asciz \"other\"\n.asciz \"enable\"\n.asciz \"\"\n"
                "994: .balign 4\n.popsection\n");
            return 0;
        }"#;
    let built = build_files("cc", &["-O2"], &[("main.c", text)]);
    assert_eq!(find(&built.path).unwrap(), []);
}

#[test]
fn without_a_semaphore_and_more_than_one_of_a_name() {
    let probe = r#"
        __asm__ volatile(
            "990: nop\n.pushsection .note.stapsdt,\"\",\"note\"\n.balign 4\n"
            ".4byte 992f-991f,994f-993f,3\n991: .asciz \"stapsdt\"\n992: .balign 4\n"
            "993: .8byte 990b,0,0\n.asciz \"prof\"\n.asciz \"enable\"\n.asciz \"\"\n"
            "994: .balign 4\n.popsection\n");"#;
    let text = format!("int main(void) {{ {probe} {probe} return 0; }}");
    let built = build_files("cc", &["-O2"], &[("main.c", &text)]);
    let probes = find(&built.path).unwrap();
    assert_eq!(names(&probes), [Name::Enable, Name::Enable]);
    assert!(probes.iter().all(|p| p.semaphore_offset.is_none()), "{probes:?}");
}

/// Where in the file the notes are: their descriptors begin with three addresses.
fn descriptors(bytes: &[u8]) -> Vec<usize> {
    let name = b"\x03\0\0\0stapsdt\0";
    let at = bytes.windows(name.len()).enumerate();
    at.filter(|(_, w)| w == name).map(|(at, _)| at + name.len()).collect()
}

#[test]
fn in_a_file_that_was_moved_after_linking() {
    let Built { dir: _dir, path } = build("cc", &["-O2"]);
    let before = find(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    // As if everything had been at other addresses when the notes were written.
    for at in descriptors(&bytes) {
        for address in [at, at + 8, at + 16] {
            let old = u64::from_le_bytes(bytes[address..][..8].try_into().unwrap());
            file.write_all_at(&old.wrapping_sub(0x123_4000).to_le_bytes(), address as u64).unwrap();
        }
    }
    assert_eq!(find(&path).unwrap(), before);
}

#[test]
fn nothing_in_what_is_no_program() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let text = dir.path().join("text");
    fs::write(&text, "#!/bin/sh\n".repeat(100)).unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    let built = build_files("cc", &["-c"], &[("a.c", "int a;\n")]);
    let paths = [
        &pipe,
        &text,
        &empty,
        &built.path,
        dir.path(),
        Path::new("/dev/zero"),
        Path::new("/bin/sh"),
    ];
    for path in paths.map(<_ as AsRef<Path>>::as_ref) {
        assert_eq!(find(path).unwrap(), [], "{}", path.display());
    }
    let e = find(&dir.path().join("not there")).unwrap_err();
    assert!(e.to_string().contains("No such file"), "{e}");
}

/// Bytes that this thread has read so far, if the kernel counts them.
fn read_so_far() -> Option<u64> {
    let io = fs::read_to_string("/proc/thread-self/io").ok()?;
    io.lines().find_map(|l| l.strip_prefix("rchar: ")?.parse().ok())
}

#[test]
fn a_large_file_is_not_read() {
    let Built { dir: _dir, path } = build("cc", &["-O2"]);
    let whole = find(&path).unwrap();
    let mut file = File::options().append(true).open(&path).unwrap();
    let mebibyte = vec![0xccu8; 1 << 20];
    for _ in 0..100 {
        file.write_all(&mebibyte).unwrap();
    }
    let before = read_so_far();
    let began = std::time::Instant::now();
    let found = find(&path).unwrap();
    eprintln!("100 MiB, {} probes: {:?}", found.len(), began.elapsed());
    let after = read_so_far();
    assert_eq!(found, whole);
    if let (Some(before), Some(after)) = (before, after) {
        // With some of what /proc itself gave.
        assert!(after - before < 32 << 10, "{} bytes read", after - before);
    }
    let began = std::time::Instant::now();
    for _ in 0..1000 {
        find(&path).unwrap();
    }
    eprintln!("a thousand times: {:?} each", began.elapsed() / 1000);
    let began = std::time::Instant::now();
    for _ in 0..1000 {
        find(Path::new("/bin/sh")).unwrap();
    }
    eprintln!("/bin/sh: {:?} each", began.elapsed() / 1000);
}
