//! What holds for every format of stacks.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/stacks.rs"]
mod stacks;

use std::io;

use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOptions;
use prof_model::stacks::StackId;
use proptest::prelude::*;

#[test]
fn what_points_at_nothing_is_refused() {
    let mut p = stacks::full();
    p.samples[0].stack = Some(StackId(1000));
    for format in StackFormat::ALL {
        let e = format.write(&p, &StackOptions::default(), &mut Vec::new()).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::InvalidData, "{format}");
    }
}

#[test]
fn an_event_that_is_not_there_has_no_samples() {
    let options = StackOptions { event: Some(7), ..StackOptions::default() };
    let p = stacks::full();
    assert_eq!(stacks::text(StackFormat::Folded, &p, &options), "");
    assert!(stacks::text(StackFormat::Text, &p, &options).contains("No samples."));
    for format in StackFormat::ALL {
        stacks::render(format, &p, &options);
    }
}

#[test]
fn a_writer_that_fails_is_told() {
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for format in StackFormat::ALL {
        let e = format.write(&stacks::full(), &StackOptions::default(), &mut Full).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::StorageFull, "{format}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_same_profile_gives_the_same_bytes(p in stacks::any_profile()) {
        for format in StackFormat::ALL {
            let bytes = || stacks::render(format, &p, &StackOptions::default());
            prop_assert_eq!(bytes(), bytes(), "{}", format);
        }
    }

    #[test]
    fn no_weight_is_too_large(mut p in stacks::any_profile(), weights in prop::collection::vec(any::<u64>(), 40)) {
        p.samples.iter_mut().zip(weights).for_each(|(s, w)| s.weight = w);
        for format in StackFormat::ALL {
            stacks::render(format, &p, &StackOptions::default());
        }
    }
}
