//! A damaged file is an error, whatever the damage.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use prof_pmu_events::Arch;
use prof_pmu_events::Error;
use prof_pmu_events::archive::Archive;

/// Decodes one model, or all, and the texts.
fn decode(bytes: &[u8], which: Option<usize>) -> Result<usize, Error> {
    let archive = Archive::parse(bytes)?;
    let mut events = 0;
    for (number, model) in archive.models().iter().enumerate() {
        if which.is_some_and(|which| which != number) {
            continue;
        }
        let table = archive.table(model)?;
        for event in table.iter() {
            table.description(&event)?;
            table.long_description(&event)?;
            events += 1;
        }
    }
    Ok(events)
}

/// The smaller file: it is decoded some hundred times.
fn whole() -> &'static [u8] {
    Arch::Arm64.bytes().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn cut_off(len in 0..whole().len()) {
        prop_assert!(decode(&whole()[..len], None).is_err());
    }

    #[test]
    fn a_bit_flipped(at in 0..whole().len(), bit in 0..8) {
        let mut bytes = whole().to_vec();
        bytes[at] ^= 1u8 << bit;
        // A few bits mean nothing to a decoder: then all is as it was.
        if let Ok(events) = decode(&bytes, None) {
            prop_assert_eq!(events, decode(whole(), None).unwrap());
        }
    }

    /// The head, where lengths are, and the index.
    #[test]
    fn a_byte_of_the_beginning_changed(at in 0usize..600, byte: u8) {
        let mut bytes = whole().to_vec();
        bytes[at] = byte;
        let _ = decode(&bytes, Some(0));
    }

    #[test]
    fn anything(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(decode(&bytes, None).is_err());
        let mut bytes = bytes;
        bytes.splice(0..0, *prof_pmu_events::archive::MAGIC);
        prop_assert!(decode(&bytes, None).is_err());
    }
}

#[test]
fn the_error_says_that_it_is_damage_and_where() {
    let mut bytes = whole().to_vec();
    let last = bytes.len() - 100;
    bytes[last] ^= 0x10;
    let error = decode(&bytes, None).unwrap_err().to_string();
    assert!(error.starts_with("the table of vendor events is damaged: texts: "), "{error}");
    let error = decode(b"something else", None).unwrap_err().to_string();
    assert!(error.contains("head: not of this version"), "{error}");
}
