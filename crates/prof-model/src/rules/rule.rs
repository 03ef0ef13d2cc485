//! A rule, taken apart.

use super::error::RuleError;
use super::error::Span;
use super::parse;
use super::pattern::Pattern;
use crate::record::RuleName;

/// What a term looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Real user id.
    Uid,
    /// Real group id.
    Gid,
    /// Process id on the host.
    Pid,
    /// A process and all that descends from it.
    Tree,
    /// A cgroup and those below it.
    Cgroup,
    /// Inode number of the mount namespace.
    Mntns,
    /// Inode number of the pid namespace.
    Pidns,
    /// Whether it is in a container.
    Container,
    /// Name of the main thread.
    Comm,
    /// Path of the program.
    Exe,
}

impl Key {
    /// Every key, in the order in which the kernel half looks at them.
    pub const ALL: [Key; 10] = [
        Self::Tree,
        Self::Pid,
        Self::Uid,
        Self::Gid,
        Self::Comm,
        Self::Mntns,
        Self::Pidns,
        Self::Cgroup,
        Self::Container,
        Self::Exe,
    ];

    /// As it is spelled in a rule.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uid => "uid",
            Self::Gid => "gid",
            Self::Pid => "pid",
            Self::Tree => "tree",
            Self::Cgroup => "cgroup",
            Self::Mntns => "mntns",
            Self::Pidns => "pidns",
            Self::Container => "container",
            Self::Comm => "comm",
            Self::Exe => "exe",
        }
    }

    /// Other spellings.
    pub fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::Exe => &["exec", "executable", "bin", "binary"],
            _ => &[],
        }
    }

    /// The key of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name || k.aliases().contains(&name))
    }
}

/// One value of a term, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of `comm` and `exe`.
    Text(Pattern),
    /// A decimal number.
    Number(u32),
    /// A user or a group by name.
    Name(String),
    /// A cgroup by path.
    CgroupPath(String),
    /// A cgroup by id.
    CgroupId(u64),
}

/// `key=value,value`, its negation, `container` or `not-container`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// What it looks at.
    pub key: Key,
    /// Whether it is `!=` or `not-`.
    pub negated: bool,
    /// Any of these, and where each stands in the text of the rule; none for
    /// [`Key::Container`].
    pub values: Vec<(Value, Span)>,
    /// Where it stands in the text of the rule.
    pub span: Span,
}

/// A rule: names the processes for which all its terms hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Its terms as they were given, without name and comment.
    pub text: String,
    /// Its terms, taken apart; at least one.
    pub terms: Vec<Term>,
    /// Whether what the named processes start is named too.
    pub follow: bool,
    /// Samples a second of what it names, where stacks are sampled; `None`: as many as
    /// of all others.
    pub freq: Option<u32>,
    /// Where it is from, for error messages; empty if unknown.
    pub origin: String,
}

impl Rule {
    /// Reads `[NAME:] TERM TERM …`.
    ///
    /// # Errors
    ///
    /// If the text does not follow the grammar, or names every process by having
    /// no term but `follow` and `freq`.
    pub fn parse(text: &str, default_name: &str) -> Result<Self, RuleError> {
        Self::parse_from("", text, default_name)
    }

    /// The same for a rule from `origin`.
    pub(super) fn parse_from(
        origin: &str,
        text: &str,
        default_name: &str,
    ) -> Result<Self, RuleError> {
        let (name, rest) = parse::split_name(text);
        let mut rule = Self::empty(origin, name.unwrap_or(default_name));
        rule.add_terms(rest)
            .map_err(|f| f.shifted(text.len() - rest.len()).in_text(origin, text))?;
        // The whole text says more here than the rule's own, which may be empty.
        rule.check_names_something().map_err(|e| RuleError { text: text.to_owned(), ..e })?;
        Ok(rule)
    }

    /// A rule still without terms.
    pub(super) fn empty(origin: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            text: String::new(),
            terms: Vec::new(),
            follow: false,
            freq: None,
            origin: origin.to_owned(),
        }
    }

    /// Adds the terms in `text`, which hold as well as those before.
    pub(super) fn add_terms(&mut self, text: &str) -> Result<(), super::error::Fault> {
        let body = text.trim_start();
        let parsed = parse::terms(body).map_err(|f| f.shifted(text.len() - body.len()))?;
        if self.freq.is_some() && parsed.freq.is_some() {
            let span = Span::between(text.len() - body.len(), text.trim_end().len());
            return Err(super::error::Fault::new(span, "a rule has one frequency"));
        }
        if !self.text.is_empty() && parsed.end > 0 {
            self.text.push(' ');
        }
        let by = self.text.len();
        self.text.push_str(&body[..parsed.end]);
        self.follow |= parsed.follow;
        self.freq = parsed.freq.or(self.freq);
        self.terms.extend(parsed.terms.into_iter().map(|mut t| {
            t.span = t.span.shifted(by);
            for (_, span) in &mut t.values {
                *span = span.shifted(by);
            }
            t
        }));
        Ok(())
    }

    /// An error if there is no term.
    pub(super) fn check_names_something(&self) -> Result<(), RuleError> {
        if !self.terms.is_empty() {
            return Ok(());
        }
        let what = match (self.follow, self.freq) {
            (true, _) => "`follow` alone",
            (_, Some(_)) => "`freq` alone",
            _ => "an empty rule",
        };
        Err(RuleError {
            origin: self.origin.clone(),
            text: self.text.clone(),
            span: Span::between(0, self.text.len()),
            message: format!("{what} names every process: say `comm=*` if that is meant"),
        })
    }
}

impl From<&Rule> for RuleName {
    fn from(rule: &Rule) -> Self {
        Self { name: rule.name.clone(), text: rule.text.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_text_and_follow_are_told_apart() {
        let r = Rule::parse("  ci.1: comm=cc  follow uid=0 # why", "rule1").unwrap();
        assert_eq!((r.name.as_str(), r.text.as_str()), ("ci.1", "comm=cc  follow uid=0"));
        assert!(r.follow);
        assert_eq!(r.terms.len(), 2);
        let place = r.terms[1].span;
        assert_eq!(&r.text[place.at..place.at + place.len], "uid=0");
        assert_eq!(Rule::parse("comm=cc", "rule1").unwrap().name, "rule1");
    }

    #[test]
    fn a_colon_in_a_value_makes_no_name() {
        let r = Rule::parse("cgroup=id:7 comm=a", "rule1").unwrap();
        assert_eq!(r.name, "rule1");
        assert_eq!(r.terms[0].values[0].0, Value::CgroupId(7));
    }

    #[test]
    fn a_rule_that_names_everything_must_say_so() {
        for text in ["", "  ", "# none", "follow", "x:", "x: follow # y", "freq=9"] {
            let e = Rule::parse(text, "rule1").unwrap_err();
            assert!(e.message.contains("comm=*"), "{text}: {e}");
        }
        assert!(Rule::parse("comm=*", "rule1").is_ok());
    }

    #[test]
    fn an_error_points_into_the_whole_text() {
        let e = Rule::parse("ci:  comm=cc uidd=0", "rule1").unwrap_err();
        assert_eq!(
            e.to_string(),
            "unknown key 'uidd'; did you mean uid?\n  ci:  comm=cc uidd=0\n               ^^^^"
        );
    }
}
