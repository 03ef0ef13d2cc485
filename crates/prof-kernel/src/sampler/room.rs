//! Who has which words of a segment.

use std::collections::BTreeMap;

/// The words of a segment: what is free among them, by where it begins.
#[derive(Debug)]
pub struct Room {
    free: BTreeMap<usize, usize>,
    /// No free piece is larger.
    largest: usize,
}

impl Room {
    /// Of so many words, all free.
    pub fn new(words: usize) -> Self {
        Self { free: BTreeMap::from([(0, words)]), largest: words }
    }

    /// Takes so many words; where they begin.
    pub fn take(&mut self, n: usize) -> Option<usize> {
        if n > self.largest {
            return None;
        }
        let Some((from, size)) = self.free.iter().find(|(_, size)| **size >= n) else {
            self.largest = self.free.values().copied().max().unwrap_or(0);
            return None;
        };
        let (from, size) = (*from, *size);
        self.free.remove(&from);
        if size > n {
            self.free.insert(from + n, size - n);
        }
        Some(from)
    }

    /// Gives back what was taken.
    pub fn give(&mut self, from: usize, n: usize) {
        let (mut from, mut n) = (from, n);
        if let Some(after) = self.free.remove(&(from + n)) {
            n += after;
        }
        if let Some((before, size)) = self.free.range(..from).next_back()
            && before + size == from
        {
            (from, n) = (*before, n + size);
        }
        self.free.insert(from, n);
        self.largest = self.largest.max(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_given_back_is_one_piece_again() {
        let mut room = Room::new(100);
        let [a, b, c] = [30, 40, 30].map(|n| (room.take(n).unwrap(), n));
        assert_eq!([a.0, b.0, c.0], [0, 30, 70]);
        assert_eq!(room.take(1), None);
        for (from, n) in [a, c, b] {
            room.give(from, n);
        }
        assert_eq!(room.take(101), None);
        assert_eq!(room.take(100), Some(0));
    }

    proptest! {
        /// Beside a list of who has each word.
        #[test]
        fn nobody_has_what_another_has(steps in prop::collection::vec((1_usize..40, any::<u16>()), 1..300)) {
            let mut room = Room::new(256);
            let mut owner = [0_usize; 256];
            let mut held: Vec<(usize, usize)> = Vec::new();
            for (i, (n, which)) in steps.into_iter().enumerate() {
                if which % 3 == 0 && !held.is_empty() {
                    let (from, n) = held.swap_remove(usize::from(which) % held.len());
                    owner[from..from + n].fill(0);
                    room.give(from, n);
                    continue;
                }
                match room.take(n) {
                    Some(from) => {
                        prop_assert!(owner[from..from + n].iter().all(|o| *o == 0));
                        owner[from..from + n].fill(i + 1);
                        held.push((from, n));
                    }
                    None => {
                        let fits = owner.windows(n).any(|w| w.iter().all(|o| *o == 0));
                        prop_assert!(!fits, "{n} words are free");
                    }
                }
            }
            for (from, n) in held {
                room.give(from, n);
            }
            prop_assert_eq!(room.take(256), Some(0));
        }
    }
}
