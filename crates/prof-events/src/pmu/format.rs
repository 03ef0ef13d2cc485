//! Where a term's bits go.

use std::fmt;

use crate::attr::Attr;

/// Which number of the attr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Field {
    Config,
    Config1,
    Config2,
    Config3,
}

/// A file below `format/`: `config:0-7,32-35`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format {
    /// Which number.
    pub field: Field,
    /// Which of its bits. The lowest bit of a value goes to the lowest of these.
    pub mask: u64,
}

impl Format {
    /// Reads such a file.
    ///
    /// # Errors
    ///
    /// If it is not of that form; says which part.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (field, bits) = text.split_once(':').unwrap_or((text, ""));
        let field = match field.trim() {
            "config" => Field::Config,
            "config1" => Field::Config1,
            "config2" => Field::Config2,
            "config3" => Field::Config3,
            other => return Err(format!("'{other}' is no field of an event")),
        };
        let mut mask = 0;
        for part in bits.split(',').map(str::trim) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let bit = |s: &str| s.parse::<u32>().ok().filter(|n| *n < u64::BITS);
            match (bit(from), bit(to)) {
                (Some(from), Some(to)) if from <= to => {
                    mask |= u64::MAX >> (63 - (to - from)) << from;
                }
                _ => return Err(format!("'{part}' is no range of bits")),
            }
        }
        Ok(Self { field, mask })
    }

    /// The largest value that fits.
    pub fn max(&self) -> u64 {
        u64::MAX.checked_shr(64 - self.mask.count_ones()).unwrap_or(0)
    }

    /// Sets the bits of a value. Bits that are set stay set: what is said twice is
    /// ORed, as perf does.
    pub fn set(&self, attr: &mut Attr, value: u64) {
        let field = match self.field {
            Field::Config => &mut attr.config,
            Field::Config1 => &mut attr.config1,
            Field::Config2 => &mut attr.config2,
            Field::Config3 => &mut attr.config3,
        };
        let bits = (0..u64::BITS).filter(|b| self.mask >> b & 1 == 1);
        for (from, to) in bits.enumerate() {
            *field |= (value >> from & 1) << to;
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.field {
            Field::Config => "config",
            Field::Config1 => "config1",
            Field::Config2 => "config2",
            Field::Config3 => "config3",
        })?;
        let (mut bit, mut between) = (0, ':');
        while bit < u64::BITS {
            let run = (self.mask >> bit).trailing_ones();
            match run {
                0 => {}
                1 => write!(f, "{between}{bit}")?,
                _ => write!(f, "{between}{bit}-{}", bit + run - 1)?,
            }
            between = if run > 0 { ',' } else { between };
            bit += run + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bits_go_where_the_format_says() {
        let f = Format::parse("config:0-7,32-35").unwrap();
        assert_eq!((f.max(), f.mask), (0xfff, 0xf_0000_00ff));
        let mut attr = Attr::default();
        f.set(&mut attr, 0xabc);
        assert_eq!(attr.config, 0xa_0000_00bc);
        Format::parse("config1:3").unwrap().set(&mut attr, 1);
        assert_eq!(attr.config1, 8);
        assert_eq!(Format::parse("config2:0-63").unwrap().max(), u64::MAX);
        assert_eq!(Format::parse("config:1,6-10,44").unwrap().to_string(), "config:1,6-10,44");
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for bad in ["", "config", "config:", "config:64", "config:7-0", "config4:0", "config:a"] {
            assert!(Format::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_format_is_shown_as_it_is_read(mask in 1u64..) {
            let f = Format { field: Field::Config1, mask };
            prop_assert_eq!(Format::parse(&f.to_string()), Ok(f));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = Format::parse(&text);
        }

        #[test]
        fn a_value_that_fits_stays_within_the_mask(mask in 1u64.., value: u64) {
            let f = Format { field: Field::Config, mask };
            let mut attr = Attr::default();
            f.set(&mut attr, value & f.max());
            prop_assert_eq!(attr.config & !mask, 0);
            prop_assert_eq!(attr.config.count_ones(), (value & f.max()).count_ones());
        }
    }
}
