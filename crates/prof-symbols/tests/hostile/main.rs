//! Files that were made to do harm, or are damaged: real ones, changed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "../../fuzz/targets.rs"]
mod targets;

#[path = "../names/support.rs"]
#[allow(dead_code)]
mod support;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

use prof_symbols::Address;
use prof_symbols::Options;
use prof_symbols::Source;
use prof_symbols::Symbolizer;
use proptest::prelude::*;

/// A program, and where its sections are in it.
struct Sample {
    bytes: Vec<u8>,
    sections: BTreeMap<String, Range<usize>>,
    functions: Vec<Address>,
}

fn sample(program: &Path) -> Sample {
    let hex = |s: &str| usize::from_str_radix(s, 16).unwrap();
    let sections = support::output(Command::new("readelf").arg("-SW").arg(program))
        .lines()
        .filter_map(|l| l.split_once("] ."))
        .map(|(_, l)| l.split_whitespace().collect::<Vec<_>>())
        .map(|l| (format!(".{}", l[0]), hex(l[3])..hex(l[3]) + hex(l[4])))
        .collect();
    let segments = support::segments(program);
    let functions = support::addresses(program, false, 200)
        .iter()
        .map(|a| Address { offset: support::offset(&segments, *a), is_return: false })
        .collect();
    Sample { bytes: std::fs::read(program).unwrap(), sections, functions }
}

/// With DWARF; compressed DWARF; without.
fn samples() -> Option<&'static [Sample]> {
    static SAMPLES: OnceLock<Option<Vec<Sample>>> = OnceLock::new();
    let build = || {
        let have = support::have("changed files", &["g++", "objcopy", "strip", "nm", "readelf"]);
        have.then(|| {
            let dir = tempfile::tempdir().unwrap();
            let whole = support::cpp(dir.path());
            let compressed = dir.path().join("compressed");
            let mut objcopy = Command::new("objcopy");
            support::output(
                objcopy.arg("--compress-debug-sections=zlib").args([&whole, &compressed]),
            );
            let plain = sample(&whole);
            let stripped = Sample {
                bytes: std::fs::read(support::stripped(&whole)).unwrap(),
                sections: BTreeMap::new(),
                functions: plain.functions.clone(),
            };
            vec![plain, sample(&compressed), stripped]
        })
    };
    SAMPLES.get_or_init(build).as_deref()
}

/// Numbers in no order.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

/// With a damaged line table DWARF is given up for many of these files. The names are
/// there all the same, from the symbol table.
#[test]
fn what_has_a_damaged_line_table_is_named_by_its_symbols() {
    let Some([sample, ..]) = samples() else { return };
    let whole =
        Symbolizer::new(targets::options()).user(&Source::Image(&sample.bytes), &sample.functions);
    let lines = |named: &[prof_symbols::Named]| {
        named.iter().flat_map(|n| &n.functions).filter(|f| f.line.is_some()).count()
    };
    assert!(lines(&whole) > 100);
    let at = sample.sections[".debug_line"].clone();
    let mut state = 1;
    let mut without_lines = 0;
    for _ in 0..100 {
        let mut bytes = sample.bytes.clone();
        for _ in 0..20 {
            bytes[at.start + next(&mut state) % at.len()] = next(&mut state) as u8;
        }
        let named =
            Symbolizer::new(targets::options()).user(&Source::Image(&bytes), &sample.functions);
        assert!(named.iter().all(|n| !n.functions.is_empty()), "{named:?}");
        without_lines += usize::from(lines(&named) == 0);
    }
    assert!(without_lines > 0, "no damage was too much: it tells nothing");
    println!("of 100 files {without_lines} had no line left");
}

/// A size of 2^60 for an unpacked section is asked for and not had.
#[test]
fn a_section_that_unpacks_without_end_is_left() {
    let Some([_, sample, _]) = samples() else { return };
    for name in [".debug_info", ".debug_line", ".debug_str"] {
        let mut bytes = sample.bytes.clone();
        let size_at = sample.sections[name].start + 8;
        bytes[size_at..size_at + 8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        let begin = Instant::now();
        let named =
            Symbolizer::new(targets::options()).user(&Source::Image(&bytes), &sample.functions);
        assert!(named.iter().all(|n| !n.functions.is_empty()), "{name}: {named:?}");
        assert!(begin.elapsed() < Duration::from_secs(10), "{name}: {:?}", begin.elapsed());
    }
}

/// Time is up before anything is read: each address has that as its reason.
#[test]
fn no_time_is_a_reason() {
    let Some([sample, ..]) = samples() else { return };
    let options = Options { time: Duration::ZERO, ..targets::options() };
    let named = Symbolizer::new(options).user(&Source::Image(&sample.bytes), &sample.functions);
    for n in named {
        assert_eq!(n.unnamed.as_deref(), Some("reading it took longer than 0ns"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn changed_files_are_answered(
        which in 0_usize..3,
        seed: u64,
        changes in 1_usize..40,
        length in prop::option::weighted(0.2, any::<u16>()),
    ) {
        let Some(samples) = samples() else { return Ok(()) };
        let sample = &samples[which];
        let mut bytes = sample.bytes.clone();
        let mut state = seed;
        let sections: Vec<_> =
            sample.sections.iter().filter(|(_, at)| at.len() > 1 && at.end <= bytes.len()).collect();
        for _ in 0..changes {
            let n = bytes.len();
            // Headers at both ends, the content of a section that is read, or anything.
            let at = match next(&mut state) % 4 {
                0 => next(&mut state) % 1024,
                1 => n - 1 - next(&mut state) % 2560,
                2 if !sections.is_empty() => {
                    let (_, section) = sections[next(&mut state) % sections.len()];
                    section.start + next(&mut state) % section.len()
                }
                _ => next(&mut state) % n,
            };
            bytes[at] = [0, 0xff, 0x7f, 0x80, next(&mut state) as u8][next(&mut state) % 5];
        }
        if let Some(length) = length {
            bytes.truncate(bytes.len() * usize::from(length) / 65536);
        }
        let begin = Instant::now();
        targets::image(&bytes);
        let named = Symbolizer::new(targets::options()).user(&Source::Image(&bytes), &sample.functions);
        prop_assert_eq!(named.len(), sample.functions.len());
        // Two attempts of five seconds each, twice.
        prop_assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
    }

    #[test]
    fn any_bytes_are_answered(mut bytes: Vec<u8>) {
        targets::image(&bytes);
        targets::perf_map(&bytes);
        targets::jitdump(&bytes);
        // A head, and code loaded at 0.
        let mut dump = b"DTiJ\x01\0\0\0\x28\0\0\0".to_vec();
        dump.resize(40, 0);
        dump.extend([0, 0, 0, 0, 80, 0, 0, 0]);
        dump.resize(40 + 16 + 24, 0);
        dump.extend(&bytes);
        targets::jitdump(&dump);
        bytes.splice(..0, *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0");
        targets::image(&bytes);
    }
}
