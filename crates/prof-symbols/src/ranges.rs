//! What addresses belong to, where later ranges lie over earlier ones.

use std::collections::BTreeMap;

/// Ranges, none of which overlap.
#[derive(Debug)]
pub(crate) struct Ranges<T> {
    /// From the start of each to its end and what it is.
    ranges: BTreeMap<u64, (u64, T)>,
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self { ranges: BTreeMap::new() }
    }
}

impl<T: Copy> Ranges<T> {
    /// Puts a range over what is there.
    pub fn insert(&mut self, start: u64, end: u64, what: T) {
        self.clear(start, end);
        self.ranges.insert(start, (end, what));
    }

    /// Takes away what is between.
    pub fn clear(&mut self, start: u64, end: u64) {
        if let Some((_, (before_end, before))) = self.ranges.range_mut(..start).next_back()
            && *before_end > start
        {
            let (rest_end, rest) = (*before_end, *before);
            *before_end = start;
            if rest_end > end {
                self.ranges.insert(end, (rest_end, rest));
            }
        }
        while let Some((at, (rest_end, rest))) =
            self.ranges.range(start..end).next().map(|(at, rest)| (*at, *rest))
        {
            self.ranges.remove(&at);
            if rest_end > end {
                self.ranges.insert(end, (rest_end, rest));
            }
        }
    }

    /// What an address is of.
    pub fn get(&self, address: u64) -> Option<T> {
        let (_, (end, what)) = self.ranges.range(..=address).next_back()?;
        (address < *end).then_some(*what)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }
}
