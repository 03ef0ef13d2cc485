//! Several terms of a rule on one key, made one.
//!
//! The kernel keeps one `=` bit and one `!=` bit for each rule and value, so that
//! a rule has one list of each a key. Lists of `!=` are joined; of lists of `=`
//! stays what is in all. What can never match is an error, because it is never
//! what was meant.

use std::collections::BTreeSet;

use super::error::Fault;
use super::pattern::Pattern;
use super::pattern::Shape;
use super::resolve::Resolved;
use super::resolve::Values;
use super::rule::Key;

/// All that the terms of a rule say about one key.
#[derive(Debug)]
pub(super) struct Narrowed<T> {
    /// One of these, if there is a list; never empty.
    pub(super) eq: Option<BTreeSet<T>>,
    /// None of these.
    pub(super) ne: BTreeSet<T>,
}

/// The terms of a key whose values are numbers. All must have that key.
pub(super) fn numbers(terms: &[&Resolved]) -> Result<Narrowed<u64>, Fault> {
    let mut eq: Option<BTreeSet<u64>> = None;
    let mut ne = BTreeSet::new();
    for term in terms {
        let values: BTreeSet<u64> = match &term.values {
            Values::Numbers(numbers) => numbers.iter().copied().collect(),
            Values::Cgroups(cgroups) => cgroups.iter().map(|(c, _)| c.id).collect(),
            Values::Texts(_) => BTreeSet::new(),
        };
        if term.negated {
            ne.extend(values);
            continue;
        }
        eq = Some(match eq {
            None => values,
            Some(before) if before == values => values,
            // A process is in many cgroups and trees at once, so that two lists
            // without a common value may well have a common process.
            Some(_) if matches!(term.key, Key::Cgroup | Key::Tree) => {
                let key = term.key.name();
                let message = format!(
                    "a rule has one {key}= only: of two that are one inside the other, the inner \
                     is enough"
                );
                return Err(Fault::new(term.span, message));
            }
            Some(before) => {
                let both: BTreeSet<u64> = before.intersection(&values).copied().collect();
                if both.is_empty() {
                    return Err(never(term));
                }
                both
            }
        });
    }
    if eq.as_ref().is_some_and(|eq| eq.is_subset(&ne)) {
        return Err(never_for(terms));
    }
    Ok(Narrowed { eq, ne })
}

/// The terms of a key whose values are patterns. All must have that key.
pub(super) fn texts(terms: &[&Resolved]) -> Result<Narrowed<Pattern>, Fault> {
    let mut eq: Option<BTreeSet<Shape>> = None;
    let mut ne = BTreeSet::new();
    for term in terms {
        let Values::Texts(patterns) = &term.values else {
            continue;
        };
        if term.negated {
            ne.extend(patterns.iter().cloned());
            continue;
        }
        let shapes: BTreeSet<Shape> = patterns.iter().map(Shape::from).collect();
        eq = Some(match eq {
            None => shapes,
            Some(before) => {
                let pairs = before.iter().flat_map(|a| shapes.iter().map(move |b| (a, b)));
                let both: BTreeSet<Shape> = pairs.filter_map(|(a, b)| a.intersect(b)).collect();
                if both.is_empty() {
                    return Err(never(term));
                }
                both
            }
        });
    }
    let taken_away: Vec<Shape> = ne.iter().map(Shape::from).collect();
    // Every process has a name, but not every one a program.
    let everything = terms.iter().any(|t| t.key == Key::Comm).then(|| BTreeSet::from([Shape::ANY]));
    let left = eq.as_ref().or(everything.as_ref());
    if left.is_some_and(|l| l.iter().all(|s| taken_away.iter().any(|t| t.covers(s)))) {
        return Err(never_for(terms));
    }
    match eq.map(one_sided).transpose() {
        Ok(eq) => Ok(Narrowed { eq, ne }),
        Err(TwoSided) => Err(Fault::new(
            last(terms, false).span,
            "the kernel half can match the start or the end of a name, not both in one rule",
        )),
    }
}

/// The kernel cannot match it.
struct TwoSided;

/// Shapes as patterns. What is bounded at both ends can go where another covers
/// it: `a*` and `a*,*b` have `a*` in common, and `a…b` is among that.
fn one_sided(shapes: BTreeSet<Shape>) -> Result<BTreeSet<Pattern>, TwoSided> {
    let (two_sided, rest): (Vec<_>, Vec<_>) = shapes.into_iter().partition(Shape::is_two_sided);
    if two_sided.iter().any(|t| !rest.iter().any(|r| r.covers(t))) {
        return Err(TwoSided);
    }
    Ok(rest.into_iter().filter_map(Shape::into_pattern).collect())
}

/// The last of the terms with, or without, negation; else the last of all.
fn last<'a>(terms: &[&'a Resolved], negated: bool) -> &'a Resolved {
    let found = terms.iter().rev().find(|t| t.negated == negated);
    found.unwrap_or(&terms[terms.len() - 1])
}

/// The rule never matches because of what is negated.
fn never_for(terms: &[&Resolved]) -> Fault {
    never(last(terms, true))
}

/// The rule never matches because of this term.
fn never(term: &Resolved) -> Fault {
    Fault::new(term.span, "this leaves nothing: the rule can never match")
}
