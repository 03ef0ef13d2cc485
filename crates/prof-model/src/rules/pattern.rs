//! Strings to match: whole, by their start, or by their end.

/// Longest name of a thread; the kernel cuts longer ones.
pub const MAX_COMM: usize = 15;

/// Longest prefix or suffix: `PROF_MAX_PATTERN`. A whole string is stored with
/// its NUL, so that it can have one byte less.
pub const MAX_PATTERN: usize = 255;

/// What a string is compared with, raw bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// `x`: is this.
    Literal(Vec<u8>),
    /// `x*`: starts with this; with nothing (`*`), any string.
    Prefix(Vec<u8>),
    /// `*x`: ends with this.
    Suffix(Vec<u8>),
}

impl Pattern {
    /// Whether `s` is such a string.
    pub fn matches(&self, s: &[u8]) -> bool {
        match self {
            Self::Literal(p) => s == p,
            Self::Prefix(p) => s.starts_with(p),
            Self::Suffix(p) => s.ends_with(p),
        }
    }

    /// The bytes, without the `*`.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Literal(p) | Self::Prefix(p) | Self::Suffix(p) => p,
        }
    }
}

/// What several patterns have in common. Unlike [`Pattern`] it may be bounded at
/// both ends, which the kernel's tables cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    Literal(Vec<u8>),
    Affixes { prefix: Vec<u8>, suffix: Vec<u8> },
}

impl From<&Pattern> for Shape {
    fn from(p: &Pattern) -> Self {
        match p.clone() {
            Pattern::Literal(p) => Self::Literal(p),
            Pattern::Prefix(prefix) => Self::Affixes { prefix, suffix: Vec::new() },
            Pattern::Suffix(suffix) => Self::Affixes { prefix: Vec::new(), suffix },
        }
    }
}

impl Shape {
    /// Every string.
    pub(super) const ANY: Self = Self::Affixes { prefix: Vec::new(), suffix: Vec::new() };

    /// As a pattern; `None` if it is bounded at both ends.
    pub(super) fn into_pattern(self) -> Option<Pattern> {
        match self {
            Self::Literal(p) => Some(Pattern::Literal(p)),
            Self::Affixes { prefix, suffix } if suffix.is_empty() => Some(Pattern::Prefix(prefix)),
            Self::Affixes { prefix, suffix } if prefix.is_empty() => Some(Pattern::Suffix(suffix)),
            Self::Affixes { .. } => None,
        }
    }

    /// Whether it is bounded at both ends.
    pub(super) fn is_two_sided(&self) -> bool {
        matches!(self, Self::Affixes { prefix, suffix } if !prefix.is_empty() && !suffix.is_empty())
    }

    /// Whether every string of `o` is one of `self`.
    pub(super) fn covers(&self, o: &Self) -> bool {
        match (self, o) {
            (Self::Literal(a), Self::Literal(b)) => a == b,
            // A shape that is no literal has more than one string.
            (Self::Literal(_), Self::Affixes { .. }) => false,
            (Self::Affixes { prefix, suffix }, Self::Literal(b)) => {
                b.starts_with(prefix) && b.ends_with(suffix)
            }
            (
                Self::Affixes { prefix, suffix },
                Self::Affixes { prefix: other_prefix, suffix: other_suffix },
            ) => other_prefix.starts_with(prefix) && other_suffix.ends_with(suffix),
        }
    }

    /// The strings of both; `None` if there are none.
    pub(super) fn intersect(&self, o: &Self) -> Option<Self> {
        match (self, o) {
            (Self::Literal(_), _) => o.covers(self).then(|| self.clone()),
            (_, Self::Literal(_)) => self.covers(o).then(|| o.clone()),
            (
                Self::Affixes { prefix: p, suffix: s },
                Self::Affixes { prefix: other_p, suffix: other_s },
            ) => {
                let prefix = if p.starts_with(other_p) {
                    p
                } else if other_p.starts_with(p) {
                    other_p
                } else {
                    return None;
                };
                let suffix = if s.ends_with(other_s) {
                    s
                } else if other_s.ends_with(s) {
                    other_s
                } else {
                    return None;
                };
                Some(Self::Affixes { prefix: prefix.clone(), suffix: suffix.clone() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn affixes(prefix: &str, suffix: &str) -> Shape {
        Shape::Affixes { prefix: prefix.into(), suffix: suffix.into() }
    }

    #[test]
    fn patterns_match_at_their_end() {
        assert!(Pattern::Literal(b"ab".into()).matches(b"ab"));
        assert!(!Pattern::Literal(b"ab".into()).matches(b"abc"));
        assert!(Pattern::Prefix(b"ab".into()).matches(b"abc"));
        assert!(Pattern::Prefix(b"".into()).matches(b""));
        assert!(Pattern::Suffix(b"bc".into()).matches(b"abc"));
        assert!(!Pattern::Suffix(b"abc".into()).matches(b"bc"));
    }

    #[test]
    fn the_longer_of_two_nested_affixes_is_what_both_have() {
        let both = |a: Shape, b: Shape| a.intersect(&b);
        assert_eq!(both(affixes("a", ""), affixes("ab", "")), Some(affixes("ab", "")));
        assert_eq!(both(affixes("", "bc"), affixes("", "c")), Some(affixes("", "bc")));
        assert_eq!(both(affixes("a", ""), affixes("b", "")), None);
        assert_eq!(both(affixes("a", ""), affixes("", "b")), Some(affixes("a", "b")));
        assert_eq!(affixes("a", "b").into_pattern(), None);
        assert_eq!(both(Shape::ANY, affixes("", "b")), Some(affixes("", "b")));
    }

    fn word() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'b')], 0..4)
    }

    fn shape() -> impl Strategy<Value = Shape> {
        prop_oneof![
            word().prop_map(Shape::Literal),
            (word(), word()).prop_map(|(prefix, suffix)| Shape::Affixes { prefix, suffix }),
        ]
    }

    proptest! {
        #[test]
        fn intersection_and_cover_agree_with_the_strings(a in shape(), b in shape(), s in word()) {
            let s = Shape::Literal(s);
            let in_both = a.covers(&s) && b.covers(&s);
            prop_assert_eq!(a.intersect(&b).is_some_and(|i| i.covers(&s)), in_both);
            if a.covers(&b) && b.covers(&s) {
                prop_assert!(a.covers(&s));
            }
        }
    }
}
