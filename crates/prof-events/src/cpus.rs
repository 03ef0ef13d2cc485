//! Lists of CPUs as sysfs has them.

use std::fmt;
use std::ops::RangeInclusive;

/// A set of CPUs: sorted ranges that neither touch nor overlap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuSet {
    ranges: Vec<RangeInclusive<u32>>,
}

/// More than any kernel is built for; what is above is not a list of CPUs.
const MAX_CPU: u32 = 1 << 16;

impl CpuSet {
    /// Reads `0-3,8`, the kernel's list format. The empty text is the empty set.
    ///
    /// # Errors
    ///
    /// If it is not such a list; says which part.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut ranges = Vec::new();
        for part in text.trim().split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let number = |s: &str| s.parse::<u32>().ok().filter(|n| *n < MAX_CPU);
            match (number(from), number(to)) {
                (Some(from), Some(to)) if from <= to => ranges.push(from..=to),
                _ => return Err(format!("'{part}' is no range of CPUs")),
            }
        }
        ranges.sort_by_key(|r| *r.start());
        let mut merged: Vec<RangeInclusive<u32>> = Vec::new();
        for r in ranges {
            match merged.last_mut() {
                Some(last) if *r.start() <= last.end() + 1 => {
                    *last = *last.start()..=*last.end().max(r.end());
                }
                _ => merged.push(r),
            }
        }
        Ok(Self { ranges: merged })
    }

    /// Whether a CPU is in it.
    pub fn contains(&self, cpu: u32) -> bool {
        self.ranges.iter().any(|r| r.contains(&cpu))
    }

    /// Those in it, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges.iter().cloned().flatten()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match r.start() == r.end() {
                true => write!(f, "{comma}{}", r.start())?,
                false => write!(f, "{comma}{}-{}", r.start(), r.end())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_shown() {
        let set = CpuSet::parse("8,0-3,2-5\n").unwrap();
        assert_eq!(set.to_string(), "0-5,8");
        assert!(set.contains(5) && !set.contains(6));
        assert_eq!(set.iter().count(), 7);
        assert!(CpuSet::parse("").unwrap().is_empty());
        for bad in ["a", "3-1", "-1", "0-", "0-99999999999", "70000", "1-2-3"] {
            assert!(CpuSet::parse(bad).is_err(), "{bad}");
        }
    }
}
