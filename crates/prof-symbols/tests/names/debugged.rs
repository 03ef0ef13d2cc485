//! Programs with debug information, beside `addr2line -f -i` and `c++filt`.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use prof_symbols::Options;

use crate::support::*;

/// Names that DWARF gives functions which have no name outside of their file, as readelf
/// shows them.
fn bare_names(program: &Path) -> BTreeSet<String> {
    output(Command::new("readelf").arg("--debug-dump=info").arg(program))
        .lines()
        .filter_map(|l| l.split_once("DW_AT_name"))
        .map(|(_, name)| name.rsplit("): ").next().unwrap().trim_start_matches([' ', ':']).trim())
        .map(str::to_owned)
        .collect()
}

/// Functions, inlined ones, and lines are the same for all addresses, but for this: where
/// DWARF has only the bare name of a function, addr2line takes the name of the symbol
/// instead, for the innermost function in place of the outermost (a static function
/// inlined somewhere is then called as what it was inlined into), and not always. Here
/// the outermost has the symbol's name and the inlined ones have their own.
fn compare(program: &Path, most: usize) {
    let addresses = addresses(program, false, most);
    let expected = addr2line(program, false, &addresses);
    let options = Options { demangle: false, ..alone() };
    let named = names(&File::open(program).unwrap(), program, &addresses, &options);
    let symbols = symbols(program, false);
    // Of a large program they take long, and where all is the same nobody asks.
    let bare = LazyCell::new(|| bare_names(program));
    let (mut inlined, mut same) = (0, 0);
    for ((address, expected), named) in addresses.iter().zip(&expected).zip(&named) {
        let found = places(named);
        let lines = |p: &[Place]| p.iter().map(|(_, line)| *line).collect::<Vec<_>>();
        assert_eq!(lines(&found), lines(expected), "{address:#x}: {found:?}, {expected:?}");
        inlined += usize::from(found.len() > 1);
        let is_symbol = |name: &str| {
            symbols.iter().any(|(at, size, n)| n == name && (*at..at + size).contains(address))
        };
        for (i, ((ours, _), (theirs, _))) in found.iter().zip(expected).enumerate() {
            let outermost = i + 1 == found.len();
            let symbol_for_bare = outermost && is_symbol(ours) && bare.contains(theirs);
            let bare_for_symbol = is_symbol(theirs) && bare.contains(ours);
            // A linker makes one of two whose code is the same.
            let folded = is_symbol(ours) && is_symbol(theirs);
            same += usize::from(ours == theirs);
            assert!(
                ours == theirs || symbol_for_bare || bare_for_symbol || folded,
                "{address:#x}: {ours}, {theirs}"
            );
        }
    }
    assert!(inlined > addresses.len() / 10, "{inlined} of {} have inlined calls", addresses.len());
    let all: usize = expected.iter().map(Vec::len).sum();
    println!("{program:?}: {} addresses, {all} functions, {same} called the same", addresses.len());
    assert!(same > all * 8 / 10, "{same} of {all}");
}

/// What c++filt says without which build of a crate a name is of, and without the types
/// of constants.
fn plain(name: &str) -> String {
    let mut out = String::new();
    let mut rest = name;
    while let Some(at) = rest.find(['[', ':']) {
        let (before, from) = rest.split_at(at);
        out += before;
        let digits = from[1..].bytes().take_while(u8::is_ascii_hexdigit).count();
        let constant = [": usize", ": u32", ": bool"].iter().find(|c| from.starts_with(**c));
        let (dropped, kept) = match constant {
            Some(c) => (c.len(), 0),
            None if digits >= 10 && from[1 + digits..].starts_with(']') => (digits + 2, 0),
            None => (1, 1),
        };
        out += &from[..kept];
        rest = &from[dropped..];
    }
    out += rest;
    let hash = out.rfind("::h").filter(|at| out[at + 3..].len() == 16);
    out.truncate(hash.unwrap_or(out.len()));
    out
}

/// Names as they are in the source beside those of c++filt.
fn compare_demangled(program: &Path) {
    let addresses = addresses(program, false, 2000);
    let file = File::open(program).unwrap();
    let of = |demangle| names(&file, program, &addresses, &Options { demangle, ..alone() });
    let (raw, readable) = (of(false), of(true));
    let mut pairs = BTreeSet::new();
    for (raw, readable) in raw.iter().zip(&readable) {
        assert_eq!(raw.functions.len(), readable.functions.len());
        for (raw, readable) in raw.functions.iter().zip(&readable.functions) {
            pairs.insert((raw.name.clone(), readable.name.clone()));
        }
    }
    let list = pairs.iter().map(|(raw, _)| raw.as_str()).collect::<Vec<_>>().join("\n");
    let names = program.with_extension("names");
    std::fs::write(&names, list).unwrap();
    let expected = output(Command::new("c++filt").stdin(File::open(names).unwrap()));
    let mut others = Vec::new();
    for ((raw, readable), expected) in pairs.iter().zip(expected.lines()) {
        let expected = plain(expected);
        if *readable != expected {
            let (ours, theirs) = (function(readable), function(&expected));
            assert!(readable == raw || ours == theirs, "{raw}: {ours}, {theirs}");
            others.push(raw);
        }
    }
    println!("{program:?}: {} names, other than c++filt: {}", pairs.len(), others.len());
    assert!(others.len() * 20 < pairs.len(), "{others:#?}");
}

/// A name without its parameters. cpp_demangle takes the first parameter of a templated
/// constructor for what it returns, and drops `&&` from packs of parameters.
fn function(name: &str) -> &str {
    let mut depth = 0;
    let open = name.bytes().rposition(|b| {
        depth += i32::from(b == b')') - i32::from(b == b'(');
        b == b'(' && depth == 0
    });
    &name[..open.unwrap_or(name.len())]
}

#[test]
fn cpp_as_addr2line() {
    if have("C++ beside addr2line", &["g++", "addr2line", "nm", "readelf"]) {
        let dir = tempfile::tempdir().unwrap();
        compare(&cpp(dir.path()), 2000);
    }
}

#[test]
fn cpp_as_in_the_source() {
    if have("C++ beside c++filt", &["g++", "c++filt", "nm", "readelf"]) {
        let dir = tempfile::tempdir().unwrap();
        compare_demangled(&cpp(dir.path()));
    }
}

#[test]
fn rust_as_addr2line() {
    if have("Rust beside addr2line", &["rustc", "addr2line", "nm", "readelf"]) {
        let dir = tempfile::tempdir().unwrap();
        compare(&rust(dir.path()), 1000);
    }
}

#[test]
fn rust_as_in_the_source() {
    if have("Rust beside c++filt", &["rustc", "c++filt", "nm", "readelf"]) {
        let dir = tempfile::tempdir().unwrap();
        compare_demangled(&rust(dir.path()));
    }
}

#[test]
fn this_program_as_addr2line() {
    if have("this test beside addr2line", &["addr2line", "nm", "readelf"]) {
        compare(&std::env::current_exe().unwrap(), 500);
    }
}
