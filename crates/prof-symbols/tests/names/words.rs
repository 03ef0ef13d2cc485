//! Generic code, closures, trait objects, and iterators that are inlined into each other.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt::Display;

mod inner {
    pub trait Count {
        fn count(&self, word: &str) -> usize;
    }
    pub struct Letters;
    pub struct Vowels<T>(pub T);
    impl Count for Letters {
        fn count(&self, word: &str) -> usize {
            word.chars().filter(|c| c.is_alphabetic()).count()
        }
    }
    impl<T: Count> Count for Vowels<T> {
        fn count(&self, word: &str) -> usize {
            let vowels = word.chars().filter(|c| "aeiou".contains(*c)).map(|_| 1_usize).sum::<usize>();
            vowels * 100 + self.0.count(word)
        }
    }
}

#[inline(never)]
fn tally<K: Ord + Clone, I: IntoIterator<Item = K>>(of: I) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    of.into_iter().for_each(|k| *counts.entry(k).or_insert(0) += 1);
    counts
}

#[inline(never)]
fn show(items: &[&dyn Display]) -> String {
    items.iter().map(|i| i.to_string()).collect::<Vec<_>>().join(", ")
}

fn main() {
    let text: Vec<String> = std::env::args().chain(["one two two".to_owned()]).collect();
    let words: Vec<&str> = text.iter().flat_map(|t| t.split_whitespace()).collect();
    let counters: Vec<Box<dyn inner::Count>> =
        vec![Box::new(inner::Letters), Box::new(inner::Vowels(inner::Vowels(inner::Letters)))];
    let mut lengths: HashMap<usize, Vec<&str>> = HashMap::new();
    for word in &words {
        for counter in &counters {
            lengths.entry(counter.count(word)).or_default().push(word);
        }
    }
    let mut sorted: Vec<_> = lengths.into_iter().collect();
    sorted.sort_by_key(|(n, list)| (std::cmp::Reverse(list.len()), *n));
    let counts = tally(words.iter().copied());
    let letters = tally(words.iter().flat_map(|w| w.chars()));
    println!("{} {:?} {:?}", show(&[&sorted.len(), &counts.len(), &"x"]), counts, letters);
}
