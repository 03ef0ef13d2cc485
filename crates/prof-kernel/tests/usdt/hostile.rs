//! Files that want to do harm: an answer or an error, soon, with little memory.

use std::fs;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use prof_kernel::usdt::Error;
use prof_kernel::usdt::Probe;
use prof_kernel::usdt::find_in;
use proptest::prelude::*;

use crate::programs::build_small;

/// A shared library with all probes, some 14 KiB.
fn sound() -> &'static [u8] {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    SOUND.get_or_init(|| {
        fs::read(build_small("cc", &["-O2", "-shared", "-fPIC", "-nostdlib"]).path).unwrap()
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..][..2].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..][..8].try_into().unwrap())
}

/// Where in it something is read: header, tables, names of sections, notes.
fn read_parts() -> &'static [Range<usize>] {
    static PARTS: OnceLock<Vec<Range<usize>>> = OnceLock::new();
    PARTS.get_or_init(|| {
        let bytes = sound();
        let table = |at: usize, count: usize, size: usize| {
            let from = u64_at(bytes, at) as usize;
            from..from + usize::from(u16_at(bytes, count)) * size
        };
        let (segments, sections) = (table(32, 56, 56), table(40, 60, 64));
        let names = sections.start + usize::from(u16_at(bytes, 62)) * 64;
        let names = u64_at(bytes, names + 24) as usize..sections.start;
        let note = bytes.windows(8).position(|w| w == b"stapsdt\0").unwrap() - 12;
        vec![0..64, segments, sections, names, note..note + 300]
    })
}

fn look(bytes: &[u8]) -> Result<Vec<Probe>, Error> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    find_in(&file)
}

/// What is found in any case lies in the file.
fn assert_within(bytes: &[u8]) {
    match look(bytes) {
        Ok(probes) => {
            assert!(probes.len() <= 256);
            for probe in probes {
                assert_eq!(bytes[probe.file_offset as usize], 0x90, "{probe:?}");
                let semaphore = probe.semaphore_offset.unwrap_or(0) as usize;
                assert!(semaphore.is_multiple_of(2) && semaphore + 2 <= bytes.len(), "{probe:?}");
                assert!(probe.args.bytes().all(|b| (b' '..=b'~').contains(&b)), "{probe:?}");
            }
        }
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_fixture_is_sound() {
    assert_eq!(look(sound()).unwrap().len(), 4);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn cut_anywhere() {
    let bytes = sound();
    for len in (0..bytes.len()).step_by(7) {
        match look(&bytes[..len]) {
            Ok(probes) => assert!(len < 64 || probes.is_empty(), "{len}: {probes:?}"),
            Err(e) => assert!(matches!(e, Error::Truncated(_)), "{len}: {e}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn with_a_few_bytes_changed(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut bytes = sound().to_vec();
        for (part, at, value) in changes {
            let part = part.get(read_parts()).clone();
            let at = part.start + at.index(part.len());
            bytes[at] = value;
        }
        assert_within(&bytes);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn with_a_bit_flipped_and_cut(bit in 0..8u32, at in any::<prop::sample::Index>(), len in any::<prop::sample::Index>()) {
        let mut bytes = sound().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        bytes.truncate(64 + len.index(bytes.len() - 63));
        assert_within(&bytes);
    }
}

/// The file with 8 bytes at an offset replaced, and made as long as said; no disk is
/// used for what it has not.
fn changed(changes: &[(usize, &[u8])], len: u64) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(sound()).unwrap();
    for (at, value) in changes {
        file.write_all_at(value, *at as u64).unwrap();
    }
    file.set_len(len).unwrap();
    file
}

fn section_named(name: &str) -> usize {
    let bytes = sound();
    let table = read_parts()[2].clone();
    let names = read_parts()[3].start;
    let wanted = [name.as_bytes(), b"\0"].concat();
    table
        .step_by(64)
        .find(|at| {
            let name = u32::from_le_bytes(bytes[*at..][..4].try_into().unwrap());
            bytes[names + name as usize..].starts_with(&wanted)
        })
        .unwrap()
}

#[test]
fn with_sizes_beyond_reason() {
    const LEN: u64 = 1 << 40;
    let notes = section_named(".note.stapsdt");
    let names = section_named(".shstrtab");
    let cases: [(&str, usize, &[u8]); 5] = [
        ("notes", notes + 32, &(LEN - 1_000_000).to_le_bytes()),
        ("names of sections", names + 32, &(LEN - 1_000_000).to_le_bytes()),
        ("section headers", 60, &0xfeff_u16.to_le_bytes()),
        ("sections", 60, &0_u16.to_le_bytes()),
        ("program headers", 56, &0xfeff_u16.to_le_bytes()),
    ];
    for (what, at, value) in cases {
        match find_in(&changed(&[(at, value)], LEN)) {
            Err(Error::TooMuch(said)) => assert_eq!(said, what),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn with_offsets_that_overflow() {
    let notes = section_named(".note.stapsdt");
    for at in [32, 40, notes + 24] {
        let file = changed(&[(at, &(u64::MAX - 3).to_le_bytes())], sound().len() as u64);
        let e = find_in(&file).unwrap_err();
        assert!(matches!(e, Error::Truncated(_)), "{at}: {e}");
    }
}

#[test]
fn with_more_probes_than_anyone_needs() {
    let bytes = sound();
    let notes = section_named(".note.stapsdt");
    let (at, size) = (u64_at(bytes, notes + 24) as usize, u64_at(bytes, notes + 32) as usize);
    // The same over and over, behind the end.
    let many = bytes[at..][..size].repeat(100);
    let changes: [(usize, &[u8]); 3] = [
        (notes + 24, &(bytes.len() as u64).to_le_bytes()),
        (notes + 32, &(many.len() as u64).to_le_bytes()),
        (bytes.len(), &many),
    ];
    let e = find_in(&changed(&changes, (bytes.len() + many.len()) as u64)).unwrap_err();
    assert!(matches!(e, Error::TooMuch("probes")), "{e}");
}

#[test]
fn with_notes_that_lead_nowhere() {
    let bytes = sound();
    let mut changes = Vec::new();
    for at in 0..bytes.len() - 12 {
        if bytes[at..].starts_with(b"\x03\0\0\0stapsdt\0") {
            changes.push((at + 12, &[0xff; 8][..]));
        }
    }
    let e = find_in(&changed(&changes, bytes.len() as u64)).unwrap_err();
    assert!(matches!(e, Error::Astray), "{e}");
}

#[test]
fn with_a_control_character_in_the_arguments() {
    let at = sound().windows(4).position(|w| w == b"8@%r" || w == b"8@x0").unwrap();
    let e = find_in(&changed(&[(at, b"\x1b")], sound().len() as u64)).unwrap_err();
    assert!(matches!(e, Error::Malformed(_)), "{e}");
}
