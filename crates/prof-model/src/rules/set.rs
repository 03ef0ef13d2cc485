//! The rules of a session.

use super::error::RuleError;
use super::error::Span;
use super::rule::Rule;

/// Most rules there can be: each is a bit of a u64.
pub const MAX_RULES: usize = 64;

/// Name of the rule that all `-s` options make together.
pub const SCOPE: &str = "scope";

/// Rules with names that differ; the place of a rule is its bit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
}

impl RuleSet {
    /// The rules of a command line: all `scopes` (`-s`) together make one, each
    /// of `rules` (`--rule`) makes one, each line of `files` (name and contents,
    /// `--rules`) makes one. Those without a name are `rule1`, `rule2` … by
    /// their place, the scope not counted.
    ///
    /// # Errors
    ///
    /// If a rule cannot be read, two have one name, or there are more than
    /// [`MAX_RULES`].
    pub fn from_options(
        scopes: &[String],
        rules: &[String],
        files: &[(String, String)],
    ) -> Result<Self, RuleError> {
        let mut set = Self::default();
        if !scopes.is_empty() {
            let mut scope = Rule::empty("-s", SCOPE);
            for text in scopes {
                scope.add_terms(text).map_err(|f| f.in_text("-s", text))?;
            }
            scope.check_names_something()?;
            set.push(scope)?;
        }
        for text in rules {
            let rule = Rule::parse_from("--rule", text, &set.next_name())?;
            set.push(rule).map_err(|e| e.at_name_in(text))?;
        }
        for (file, contents) in files {
            // Some editors put a byte-order mark in front.
            let contents = contents.strip_prefix('\u{feff}').unwrap_or(contents);
            for (i, line) in contents.lines().enumerate() {
                let line = line.trim();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let origin = format!("{file}:{}", i + 1);
                let rule = Rule::parse_from(&origin, line, &set.next_name())?;
                set.push(rule).map_err(|e| e.at_name_in(line))?;
            }
        }
        Ok(set)
    }

    /// Adds a rule. The text of an error is that of its terms.
    ///
    /// # Errors
    ///
    /// If there is one of that name, or no room.
    pub fn push(&mut self, rule: Rule) -> Result<(), RuleError> {
        let message = if self.rules.len() == MAX_RULES {
            format!("more than {MAX_RULES} rules")
        } else if let Some(other) = self.rules.iter().find(|r| r.name == rule.name) {
            let from = match other.origin.as_str() {
                "" => String::new(),
                origin => format!(" (the other is from {origin})"),
            };
            format!("a second rule named '{}'{from}", rule.name)
        } else {
            self.rules.push(rule);
            return Ok(());
        };
        let span = Span::between(0, rule.text.len());
        Err(RuleError { origin: rule.origin, text: rule.text, span, message })
    }

    /// The name that the next rule has if it is given none.
    pub fn next_name(&self) -> String {
        let named_by_place = self.rules.iter().filter(|r| r.name != SCOPE).count();
        format!("rule{}", named_by_place + 1)
    }

    /// The rules; the first is bit 0.
    pub fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.rules.iter()
    }

    /// Distinct frequencies of sampling, the highest first, `other` being that of rules
    /// which do not say; and the rules that have each, one bit each.
    pub fn frequencies(&self, other: u32) -> Vec<(u32, u64)> {
        let mut by_freq = std::collections::BTreeMap::<u32, u64>::new();
        for (i, rule) in self.rules.iter().enumerate() {
            *by_freq.entry(rule.freq.unwrap_or(other)).or_default() |= 1 << i;
        }
        by_freq.into_iter().rev().collect()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl<'a> IntoIterator for &'a RuleSet {
    type Item = &'a Rule;
    type IntoIter = std::slice::Iter<'a, Rule>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(scopes: &[&str], rules: &[&str], file: &str) -> Result<RuleSet, RuleError> {
        let own = |s: &[&str]| s.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        RuleSet::from_options(&own(scopes), &own(rules), &[("ci.rules".into(), file.into())])
    }

    #[test]
    fn frequencies_are_told_with_the_rules_that_have_them() {
        let s = set(&["comm=a", "freq=99"], &["pid=7 freq=499"], "uid=1\nuid=2 freq=99").unwrap();
        assert_eq!(s.frequencies(997), [(997, 0b100), (499, 0b10), (99, 0b1001)]);
        assert_eq!(s.frequencies(99), [(499, 0b10), (99, 0b1101)]);
        assert!(set(&["comm=a freq=1", "freq=2"], &[], "").is_err());
        assert!(RuleSet::default().frequencies(9).is_empty());
    }

    fn names(s: &RuleSet) -> Vec<&str> {
        s.iter().map(|r| r.name.as_str()).collect()
    }

    #[test]
    fn scopes_are_one_rule_and_the_rest_one_each() {
        let file = "\u{feff}# what CI runs\r\n\r\nbuild: exe=/usr/bin/cc\r\n  comm=ld # linker\n";
        let s = set(&["comm=a", " follow ", "uid=0,1"], &["pid=7", "x: gid=3"], file).unwrap();
        assert_eq!(names(&s), ["scope", "rule1", "x", "build", "rule4"]);
        let scope = s.iter().next().unwrap();
        assert_eq!((scope.text.as_str(), scope.follow), ("comm=a follow uid=0,1", true));
        let place = scope.terms[1].values[1].1;
        assert_eq!(&scope.text[place.at..], "1");
        assert_eq!(s.iter().last().unwrap().origin, "ci.rules:4");
    }

    #[test]
    fn nothing_given_is_an_empty_set() {
        assert!(set(&[], &[], "# nothing\n").unwrap().is_empty());
    }

    #[test]
    fn errors_say_where_they_are_from() {
        let origin = |e: Result<RuleSet, RuleError>| e.unwrap_err().origin;
        assert_eq!(origin(set(&["comm=a", "pid=x"], &[], "")), "-s");
        assert_eq!(origin(set(&["follow"], &[], "")), "-s");
        assert_eq!(origin(set(&[], &["pid=x"], "")), "--rule");
        assert_eq!(origin(set(&[], &[], "\n\npid=x\n")), "ci.rules:3");
    }

    #[test]
    fn names_are_unique() {
        let e = set(&["comm=a"], &["scope: comm=b"], "").unwrap_err();
        assert!(e.message.contains("'scope' (the other is from -s)"), "{e}");
        assert!(set(&[], &["rule2: comm=a", "comm=b"], "").is_err());
    }

    #[test]
    fn a_second_name_is_pointed_at_where_it_was_given() {
        let place = |rules: &[&str], file: &str| {
            let e = set(&[], rules, file).unwrap_err();
            (e.text[e.span.at..e.span.at + e.span.len].to_owned(), e.text)
        };
        let pair = |place: &str, text: &str| (place.to_owned(), text.to_owned());
        assert_eq!(place(&["a: uid=0", " a:  comm=b"], ""), pair("a", " a:  comm=b"));
        assert_eq!(place(&["a: uid=0"], "# x\n  a: comm=b # y\n"), pair("a", "a: comm=b # y"));
        // By its place.
        assert_eq!(place(&["rule2: uid=0", " comm=b"], ""), pair("comm=b", " comm=b"));
    }

    #[test]
    fn there_is_room_for_64() {
        let lines = |n: usize| "comm=a\n".repeat(n);
        assert_eq!(set(&[], &[], &lines(64)).unwrap().len(), 64);
        let e = set(&[], &[], &lines(65)).unwrap_err();
        assert_eq!((e.origin.as_str(), e.message.as_str()), ("ci.rules:65", "more than 64 rules"));
    }
}
