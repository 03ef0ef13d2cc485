//! Programs to take apart, and what binutils say of them.

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

/// Whether these programs are there; else says that a test is left out, or fails if
/// none may be.
pub fn have(what: &str, tools: &[&str]) -> bool {
    let missing = |t: &&&str| !Command::new("which").arg(t).output().unwrap().status.success();
    let Some(tool) = tools.iter().find(missing) else { return true };
    assert!(std::env::var("PROF_LIVE").as_deref() != Ok("require"), "{what}: no {tool} here");
    eprintln!("SKIPPED {what}: {tool} is not installed");
    false
}

/// What a program prints; it must succeed.
pub fn output(command: &mut Command) -> String {
    let out = command.env("LC_ALL", "C").output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A C++ program with templates and much inlining.
pub fn cpp(dir: &Path) -> PathBuf {
    cpp_with(dir, &[])
}

/// The same, built with more options.
pub fn cpp_with(dir: &Path, more: &[&str]) -> PathBuf {
    let (source, program) = (dir.join("shapes.cc"), dir.join("shapes"));
    std::fs::write(&source, include_str!("shapes.cc")).unwrap();
    let mut compiler = Command::new("g++");
    compiler.args(["-O2", "-g", "-std=c++17"]).args(more).arg("-o").arg(&program).arg(source);
    output(&mut compiler);
    program
}

/// A Rust program with much inlining.
pub fn rust(dir: &Path) -> PathBuf {
    let (source, program) = (dir.join("words.rs"), dir.join("words"));
    std::fs::write(&source, include_str!("words.rs")).unwrap();
    let mut rustc = Command::new("rustc");
    output(rustc.args(["-O", "-g", "--edition=2024", "-o"]).arg(&program).arg(source));
    program
}

/// A copy of a program without what `strip` takes by default.
pub fn stripped(program: &Path) -> PathBuf {
    let to = program.with_extension("stripped");
    output(Command::new("strip").arg("-o").arg(&to).arg(program));
    to
}

/// Loaded parts of a file, as readelf tells them: offset, address, size, executable.
pub fn segments(file: &Path) -> Vec<(u64, u64, u64, bool)> {
    let hex = |s: &str| u64::from_str_radix(s.trim_start_matches("0x"), 16).unwrap();
    output(Command::new("readelf").arg("-lW").arg(file))
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .filter(|l| l.first() == Some(&"LOAD"))
        .map(|l| (hex(l[1]), hex(l[2]), hex(l[4]), l[6..].contains(&"E") || l[6..].contains(&"RE")))
        .collect()
}

/// Offset in the file of an address.
pub fn offset(segments: &[(u64, u64, u64, bool)], address: u64) -> u64 {
    let inside = |s: &&(u64, u64, u64, bool)| address >= s.1 && address - s.1 < s.2;
    let s = segments.iter().find(inside).unwrap_or_else(|| panic!("{address:#x} is not loaded"));
    address - s.1 + s.0
}

/// Addresses in functions that nm lists: the first, one within and the last byte of at
/// most `most` of them, which lie evenly in the list.
pub fn addresses(file: &Path, dynamic: bool, most: usize) -> Vec<u64> {
    let functions: Vec<_> = symbols(file, dynamic).into_iter().filter(|(_, s, _)| *s > 0).collect();
    let step = functions.len().div_ceil(most).max(1);
    let mut addresses: Vec<u64> = functions
        .iter()
        .step_by(step)
        .flat_map(|(at, size, _)| [*at, at + size / 3, at + size * 2 / 3, at + size - 1])
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert!(addresses.len() > 3, "nothing to look up in {file:?}");
    addresses
}

/// Functions as nm lists them: address, size, name.
pub fn symbols(file: &Path, dynamic: bool) -> Vec<(u64, u64, String)> {
    let mut nm = Command::new("nm");
    nm.args(["-S", "--defined-only"]).args(dynamic.then_some("-D")).arg(file);
    let hex = |s: &str| u64::from_str_radix(s, 16).unwrap();
    output(&mut nm)
        .lines()
        .filter_map(|l| match l.split_whitespace().collect::<Vec<_>>()[..] {
            [at, size, "t" | "T" | "w" | "W" | "i", name] => {
                Some((hex(at), hex(size), name.split('@').next().unwrap_or(name).to_owned()))
            }
            _ => None,
        })
        .collect()
}

/// A function and the line in it, 0 if it is not known.
pub type Place = (String, u32);

/// What addr2line says: innermost first.
pub fn addr2line(file: &Path, demangle: bool, addresses: &[u64]) -> Vec<Vec<Place>> {
    let mut command = Command::new("addr2line");
    command.args(["-a", "-f", "-i"]).args(demangle.then_some("-C")).arg("-e").arg(file);
    command.args(addresses.iter().map(|a| format!("{a:#x}")));
    let mut found: Vec<Vec<Place>> = Vec::new();
    let text = output(&mut command);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            found.push(Vec::new());
            continue;
        }
        let place = lines.next().unwrap().split(" (discriminator").next().unwrap();
        let number = place.rsplit(':').next().unwrap().parse().unwrap_or(0);
        if line != "??" {
            found.last_mut().unwrap().push((line.to_owned(), number));
        }
    }
    assert_eq!(found.len(), addresses.len());
    found
}

/// Options under which nothing of this machine is found.
pub fn alone() -> Options {
    Options { debug_dirs: Vec::new(), ..Options::default() }
}

/// Names of addresses, as virtual addresses, by way of offsets in the held file.
pub fn names(file: &File, path: &Path, addresses: &[u64], options: &Options) -> Vec<Named> {
    let segments = segments(path);
    let addresses: Vec<Address> = addresses
        .iter()
        .map(|a| Address { offset: offset(&segments, *a), is_return: false })
        .collect();
    let source = Source::File { file: file.as_fd(), path, build_id: &[], code: &[] };
    Symbolizer::new(options.clone()).user(&source, &addresses)
}

/// The same as [`addr2line`] tells it.
pub fn places(named: &Named) -> Vec<Place> {
    named.functions.iter().map(|f| (f.name.clone(), f.line.unwrap_or(0))).collect()
}

/// As readelf shows it.
pub fn build_id(file: &Path) -> String {
    let notes = output(Command::new("readelf").arg("-n").arg(file));
    notes.split("Build ID: ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
}
