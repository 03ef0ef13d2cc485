//! Samples, taken in pairs, and their spread.

use anyhow::Result;
use serde_json::Value;
use serde_json::json;

/// Middle and ends of some samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Half of the samples are below.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of some samples; `None` if there are none.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[half]
        } else {
            f64::midpoint(sorted[half - 1], sorted[half])
        };
        Some(Self { median, min, max })
    }

    /// For JSON.
    pub fn to_json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

/// Two ways measured in turns. Machines change their pace while one measures, by
/// far more than what is to be told apart: only samples taken next to each other
/// are comparable, so what counts is the ratio within each pair.
#[derive(Debug, Default, Clone)]
pub struct Pairs {
    /// Base first.
    pub samples: Vec<(f64, f64)>,
}

impl Pairs {
    /// Takes `runs` pairs, after `warm_up` that are thrown away.
    pub fn take(
        warm_up: usize,
        runs: usize,
        base: &mut dyn FnMut() -> Result<f64>,
        other: &mut dyn FnMut() -> Result<f64>,
    ) -> Result<Self> {
        let mut pairs = Self::default();
        for round in 0..warm_up + runs {
            let pair = (base()?, other()?);
            if round >= warm_up {
                pairs.samples.push(pair);
            }
        }
        Ok(pairs)
    }

    /// Of the base.
    pub fn base(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().map(|(base, _)| *base))
    }

    /// Of the other.
    pub fn other(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().map(|(_, other)| *other))
    }

    /// Of the other divided by the base of the same pair.
    pub fn ratio(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().map(|(base, other)| other / base))
    }

    /// For JSON.
    pub fn to_json(&self) -> Value {
        json!({ "ratio": self.ratio().map(Spread::to_json), "samples": self.samples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Spread::of([]), None);
        let spread = |median, min, max| Some(Spread { median, min, max });
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), spread(2.5, 1.0, 4.0));
    }

    #[test]
    fn ratios_are_within_pairs() {
        // The machine slows down to a tenth; the overhead of 10 % is still seen.
        let mut base = [1.0, 1.0, 10.0].into_iter();
        let mut other = [1.1, 1.1, 11.0].into_iter();
        let mut next_base = || Ok(base.next().unwrap());
        let mut next_other = || Ok(other.next().unwrap());
        let pairs = Pairs::take(1, 2, &mut next_base, &mut next_other).unwrap();
        assert_eq!(pairs.samples.len(), 2);
        let ratio = pairs.ratio().unwrap();
        assert!((ratio.min - 1.1).abs() < 1e-9 && (ratio.max - 1.1).abs() < 1e-9, "{ratio:?}");
    }
}
