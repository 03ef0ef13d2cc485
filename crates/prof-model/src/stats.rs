//! What repeated measurements say together: where they lie, how far they spread, and
//! which of them do not belong to the rest.

/// Standard deviations from the median, as the median deviation tells them, beyond
/// which a measurement is an outlier. Ten: a build machine has long tails, and what is
/// told of them all the time is not read.
pub const OUTLIER: f64 = 10.0;

/// Of fewer values the median deviation says too little to call one an outlier.
pub const OUTLIER_MIN: usize = 5;

/// What makes a median absolute deviation an estimate of the standard deviation, if
/// the values are normally distributed.
const MAD_TO_SD: f64 = 1.4826;

/// Where values lie and how far they spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// How many values there are.
    pub over: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation of the sample; one value has none.
    pub sd: Option<f64>,
    /// The middle one.
    pub median: f64,
    /// Median of the distances from the median.
    pub mad: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of these values; `None` if there is none.
    pub fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            over: values.len(),
            mean: mean(values)?,
            sd: standard_deviation(values),
            median: median(values)?,
            mad: median_deviation(values)?,
            min: values.iter().copied().min_by(f64::total_cmp)?,
            max: values.iter().copied().max_by(f64::total_cmp)?,
        })
    }

    /// The standard deviation as a part of the mean; `None` where that means nothing.
    pub fn relative(&self) -> Option<f64> {
        let part = self.sd? / self.mean.abs();
        part.is_finite().then_some(part)
    }
}

/// Arithmetic mean.
pub fn mean(values: &[f64]) -> Option<f64> {
    // Around the first value: sums of large values that hardly differ lose nothing.
    let first = *values.first()?;
    let off: f64 = values.iter().map(|v| v - first).sum();
    Some(first + off / values.len() as f64)
}

/// Standard deviation of the sample: over one less than there are values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// The middle value; of an even number, the mean of the two.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if !sorted.len().is_multiple_of(2) {
        return Some(upper);
    }
    let lower = *sorted.get(sorted.len() / 2 - 1)?;
    Some(lower + (upper - lower) / 2.0)
}

/// Median of the distances from the median: what a few odd values do not change.
pub fn median_deviation(values: &[f64]) -> Option<f64> {
    let median = median(values)?;
    let distances: Vec<_> = values.iter().map(|v| (v - median).abs()).collect();
    self::median(&distances)
}

/// Distance of each value from the median, in standard deviations as the median
/// deviation tells them. Where more than half are equal, any other is infinitely far.
pub fn modified_z_scores(values: &[f64]) -> Vec<f64> {
    let (Some(median), Some(mad)) = (median(values), median_deviation(values)) else {
        return Vec::new();
    };
    let score = |v: &f64| match v - median {
        0.0 => 0.0,
        distance => distance / (mad * MAD_TO_SD),
    };
    values.iter().map(score).collect()
}

/// How many are outliers, and whether the first is one because it is large.
pub fn outliers(values: &[f64]) -> (usize, bool) {
    if values.len() < OUTLIER_MIN {
        return (0, false);
    }
    let scores = modified_z_scores(values);
    let n = scores.iter().filter(|s| s.abs() > OUTLIER).count();
    (n, scores.first().is_some_and(|s| *s > OUTLIER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        let v = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        let s = Spread::of(&v).unwrap();
        assert_eq!((s.over, s.mean, s.median, s.min, s.max), (8, 5.0, 4.5, 2.0, 9.0));
        assert!((s.sd.unwrap() - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(s.mad, 0.5);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median_deviation(&[1.0, 1.0, 2.0, 2.0, 4.0, 6.0, 9.0]), Some(1.0));
    }

    #[test]
    fn nothing_has_no_mean_and_one_value_no_deviation() {
        assert_eq!(Spread::of(&[]), None);
        let one = Spread::of(&[7.0]).unwrap();
        assert_eq!((one.mean, one.sd, one.relative(), one.mad), (7.0, None, None, 0.0));
        assert_eq!(Spread::of(&[0.0, 0.0]).unwrap().relative(), None);
    }

    #[test]
    fn a_slow_first_run_and_a_slow_other_one_are_told_apart() {
        let calm = [1.00, 1.01, 0.99, 1.02, 0.98, 1.00];
        assert_eq!(outliers(&calm), (0, false));
        let mut first = calm;
        first[0] = 3.0;
        assert_eq!(outliers(&first), (1, true));
        let mut later = calm;
        later[3] = 3.0;
        assert_eq!(outliers(&later), (1, false));
        // A fast first run is odd, but no cache was cold.
        let mut fast = calm;
        fast[0] = 0.1;
        assert_eq!(outliers(&fast), (1, false));
        // Of so few it cannot be said.
        assert_eq!(outliers(&[3.0, 1.0, 1.0]), (0, false));
    }

    #[test]
    fn where_most_are_equal_any_other_is_far() {
        let scores = modified_z_scores(&[1.0, 1.0, 1.0, 2.0, 0.5]);
        assert_eq!(scores, [0.0, 0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY]);
    }

    fn values(min: usize) -> impl Strategy<Value = Vec<f64>> {
        proptest::collection::vec(-1e12..1e12f64, min..60)
    }

    /// Equal, as far as the size of the numbers lets it be told.
    fn near(a: f64, b: f64, size: f64) -> bool {
        (a - b).abs() <= 1e-9 * (1.0 + size.abs())
    }

    proptest! {
        #[test]
        fn middle_values_lie_within_the_range(v in values(1)) {
            let s = Spread::of(&v).unwrap();
            let slack = 1e-6 * (1.0 + s.max.abs().max(s.min.abs()));
            prop_assert!(s.min <= s.median && s.median <= s.max);
            prop_assert!(s.min - slack <= s.mean && s.mean <= s.max + slack);
            prop_assert!(s.mad >= 0.0 && s.mad <= s.max - s.min);
            prop_assert_eq!(s.sd.is_some(), v.len() > 1);
            prop_assert!(s.sd.is_none_or(|sd| sd >= 0.0 && sd <= (s.max - s.min) * (1.0 + 1e-9)));
        }

        #[test]
        fn order_does_not_matter(v in values(1)) {
            let mut back = v.clone();
            back.reverse();
            let (a, b) = (Spread::of(&v).unwrap(), Spread::of(&back).unwrap());
            prop_assert_eq!((a.median, a.mad, a.min, a.max), (b.median, b.mad, b.min, b.max));
            prop_assert!(near(a.mean, b.mean, 1e12));
        }

        #[test]
        fn a_shift_moves_the_middle_and_not_the_spread(v in values(2), by in -1e12..1e12f64) {
            let moved: Vec<_> = v.iter().map(|x| x + by).collect();
            let (a, b) = (Spread::of(&v).unwrap(), Spread::of(&moved).unwrap());
            prop_assert!(near(a.mean + by, b.mean, 1e12));
            prop_assert!(near(a.median + by, b.median, 1e12));
            prop_assert!(near(a.mad, b.mad, 1e12));
            prop_assert!(near(a.sd.unwrap(), b.sd.unwrap(), 1e12));
        }

        #[test]
        fn half_of_all_scores_are_below_one_median_deviation(v in values(1)) {
            let scores = modified_z_scores(&v);
            prop_assert_eq!(scores.len(), v.len());
            let mut within: Vec<_> = scores.iter().map(|s| s.abs() * MAD_TO_SD).collect();
            within.retain(|s| *s <= 1.0 + 1e-9);
            prop_assert!(within.len() * 2 >= v.len());
            prop_assert!(scores.iter().all(|s| !s.is_nan()));
        }

        #[test]
        fn fewer_than_half_can_be_outliers(v in values(1)) {
            let (n, first) = outliers(&v);
            prop_assert!(n * 2 <= v.len());
            prop_assert!(!first || n > 0);
        }
    }
}
