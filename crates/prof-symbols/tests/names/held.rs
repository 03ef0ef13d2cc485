//! Files that are held open while what their path leads to changes.

use std::fs::File;
use std::io::Seek as _;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use prof_symbols::Address;
use prof_symbols::Named;
use prof_symbols::Source;
use prof_symbols::Symbolizer;

use crate::support::*;

/// Names of one program's functions from a descriptor.
fn from(file: &File, path: &Path, build_id: &[u8], program: &Path, at: &[u64]) -> Vec<Named> {
    let segments = segments(program);
    let at: Vec<Address> =
        at.iter().map(|a| Address { offset: offset(&segments, *a), is_return: false }).collect();
    let source = Source::File { file: file.as_fd(), path, build_id, code: &[] };
    Symbolizer::new(alone()).user(&source, &at)
}

#[test]
fn a_file_is_named_from_what_is_held_whatever_became_of_its_path() {
    if !have("held files", &["g++", "rustc", "nm", "readelf"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (program, other) = (cpp(dir.path()), rust(dir.path()));
    let addresses = addresses(&program, false, 20);
    let expected = names(&File::open(&program).unwrap(), &program, &addresses, &alone());
    assert!(expected.iter().all(|n| n.unnamed.is_none() && n.functions[0].line.is_some()));

    let path = dir.path().join("running");
    std::fs::copy(&program, &path).unwrap();
    let mut held = File::open(&path).unwrap();
    held.seek(std::io::SeekFrom::Start(77)).unwrap();
    let named = |held: &File| from(held, &path, &[], &program, &addresses);
    assert_eq!(named(&held), expected);
    assert_eq!(held.stream_position().unwrap(), 77, "its position is the owner's");

    std::fs::remove_file(&path).unwrap();
    assert_eq!(named(&held), expected, "deleted");
    std::fs::copy(&other, &path).unwrap();
    assert_eq!(named(&held), expected, "another at its place");

    // The same number for another file: nothing of the first is kept.
    let number = std::os::fd::AsRawFd::as_raw_fd(&held);
    let symbolizer = Symbolizer::new(alone());
    let offsets: Vec<Address> = addresses
        .iter()
        .map(|a| Address { offset: offset(&segments(&program), *a), is_return: false })
        .collect();
    let mut seen = Vec::new();
    for of in [&program, &other, &program] {
        let mut fd = std::os::fd::OwnedFd::from(held);
        rustix::io::dup2(File::open(of).unwrap(), &mut fd).unwrap();
        held = File::from(fd);
        assert_eq!(std::os::fd::AsRawFd::as_raw_fd(&held), number, "the number is reused");
        let source = Source::File { file: held.as_fd(), path: &path, build_id: &[], code: &[] };
        seen.push(symbolizer.user(&source, &offsets));
    }
    assert_eq!(seen[0], expected);
    assert_ne!(seen[1], expected);
    assert_eq!(seen[2], expected);

    let memory = rustix::fs::memfd_create("anything", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut memory = File::from(memory);
    memory.write_all(&std::fs::read(&program).unwrap()).unwrap();
    let path = Path::new("/memfd:anything (deleted)");
    assert_eq!(from(&memory, path, &[], &program, &addresses), expected, "memfd");
}

#[test]
fn a_file_that_was_overwritten_is_told_by_its_build_id() {
    if !have("overwritten files", &["g++", "rustc", "nm", "readelf"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = cpp(dir.path());
    let addresses = addresses(&program, false, 5);
    let file = File::open(&program).unwrap();
    let wrong = from(&file, &program, &[1; 20], &program, &addresses);
    for named in wrong {
        let why = "the file changed since: its build id is another";
        assert_eq!((named.functions.len(), named.unnamed.as_deref()), (0, Some(why)));
    }
}
