//! Names become numbers; which rules name a given process.

use super::error::Fault;
use super::error::RuleError;
use super::error::Span;
use super::pattern::Pattern;
use super::rule::Key;
use super::rule::Rule;
use super::rule::Term;
use super::rule::Value;

/// A cgroup as the kernel half knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupRef {
    /// Its id: the inode number of its directory.
    pub id: u64,
    /// Index of the controller whose v1 hierarchy it is in; `None` for v2.
    pub v1_controller: Option<u32>,
}

/// Looks names up on the host. An error says what is wrong with the name, as in
/// `no user 'x'`.
pub trait Resolver {
    /// The id of a user.
    ///
    /// # Errors
    ///
    /// If there is no such user.
    fn uid(&self, name: &str) -> Result<u32, String>;

    /// The id of a group.
    ///
    /// # Errors
    ///
    /// If there is no such group.
    fn gid(&self, name: &str) -> Result<u32, String>;

    /// The cgroup at a path, which is that of its directory or relative to where
    /// the hierarchy is mounted.
    ///
    /// # Errors
    ///
    /// If there is none, or it is deeper than the kernel half looks.
    fn cgroup(&self, path: &str) -> Result<CgroupRef, String>;

    /// The cgroup of that id: of v2, unless the host has only v1.
    ///
    /// # Errors
    ///
    /// If it cannot be told which hierarchy it is in.
    fn cgroup_id(&self, id: u64) -> Result<CgroupRef, String> {
        Ok(CgroupRef { id, v1_controller: None })
    }

    /// Whether a process has this id, which is to be the root of a tree.
    ///
    /// # Errors
    ///
    /// If none has: what descends from nobody cannot be told.
    fn root(&self, _pid: u32) -> Result<(), String> {
        Ok(())
    }
}

/// A process, as far as rules look at it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Name of the main thread.
    pub comm: &'a [u8],
    /// Path of the program; `None` if it has none.
    pub exe: Option<&'a [u8]>,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Process id on the host.
    pub pid: u32,
    /// Itself and all it descends from.
    pub tree: &'a [u32],
    /// Its cgroup and all above, in the hierarchy that the rules are about.
    pub cgroups: &'a [u64],
    /// Inode number of its mount namespace.
    pub mntns: u32,
    /// Inode number of its pid namespace.
    pub pidns: u32,
    /// Whether it is in a container.
    pub container: bool,
}

/// A rule with every name resolved. It says for a single process what the
/// tables of [`compile`](super::compile()) say in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    pub(super) terms: Vec<Resolved>,
}

/// A term with every name resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) key: Key,
    pub(super) negated: bool,
    pub(super) values: Values,
    pub(super) span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Values {
    Texts(Vec<Pattern>),
    Numbers(Vec<u64>),
    Cgroups(Vec<(CgroupRef, Span)>),
}

impl Rule {
    /// The rule with every name resolved.
    ///
    /// # Errors
    ///
    /// If the resolver does not know a name.
    pub fn resolve(&self, resolver: &dyn Resolver) -> Result<Matcher, RuleError> {
        let terms: Result<_, _> = self.terms.iter().map(|t| resolve(t, resolver)).collect();
        terms.map(|terms| Matcher { terms }).map_err(|f| f.in_text(&self.origin, &self.text))
    }
}

fn resolve(term: &Term, resolver: &dyn Resolver) -> Result<Resolved, Fault> {
    let mut texts = Vec::new();
    let mut numbers = Vec::new();
    let mut cgroups = Vec::new();
    for (value, span) in &term.values {
        let fault = |message| Fault::new(*span, message);
        match value {
            Value::Text(p) => texts.push(p.clone()),
            Value::Number(n) => {
                if term.key == Key::Tree {
                    resolver.root(*n).map_err(fault)?;
                }
                numbers.push(u64::from(*n));
            }
            Value::Name(name) => {
                let id = match term.key {
                    Key::Gid => resolver.gid(name),
                    _ => resolver.uid(name),
                };
                numbers.push(id.map_err(fault)?.into());
            }
            Value::CgroupPath(path) => {
                cgroups.push((resolver.cgroup(path).map_err(fault)?, *span));
            }
            Value::CgroupId(id) => {
                cgroups.push((resolver.cgroup_id(*id).map_err(fault)?, *span));
            }
        }
    }
    let values = match term.key {
        Key::Comm | Key::Exe => Values::Texts(texts),
        Key::Cgroup => Values::Cgroups(cgroups),
        Key::Container => Values::Numbers(vec![1]),
        _ => Values::Numbers(numbers),
    };
    Ok(Resolved { key: term.key, negated: term.negated, values, span: term.span })
}

impl Matcher {
    /// Whether the rule names this process.
    pub fn matches(&self, s: &Subject<'_>) -> bool {
        self.terms.iter().all(|t| t.lists(s) != t.negated)
    }
}

impl Resolved {
    /// Whether one of the values is the subject's.
    fn lists(&self, s: &Subject<'_>) -> bool {
        match &self.values {
            Values::Texts(patterns) => {
                let text = if self.key == Key::Comm { Some(s.comm) } else { s.exe };
                text.is_some_and(|t| patterns.iter().any(|p| p.matches(t)))
            }
            Values::Numbers(numbers) => numbers.iter().any(|n| self.has(*n, s)),
            Values::Cgroups(cgroups) => cgroups.iter().any(|(c, _)| s.cgroups.contains(&c.id)),
        }
    }

    fn has(&self, n: u64, s: &Subject<'_>) -> bool {
        match self.key {
            Key::Uid => n == s.uid.into(),
            Key::Gid => n == s.gid.into(),
            Key::Pid => n == s.pid.into(),
            Key::Tree => s.tree.iter().any(|pid| n == (*pid).into()),
            Key::Mntns => n == s.mntns.into(),
            Key::Pidns => n == s.pidns.into(),
            Key::Container => n == s.container.into(),
            Key::Cgroup | Key::Comm | Key::Exe => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulation::Host;
    use super::*;

    const SUBJECT: Subject<'_> = Subject {
        comm: b"cc1",
        exe: Some(b"/usr/lib/gcc/cc1"),
        uid: 1000,
        gid: 100,
        pid: 77,
        tree: &[77, 70, 1],
        cgroups: &[12, 11, 1],
        mntns: 40,
        pidns: 41,
        container: true,
    };

    fn names(text: &str, s: &Subject<'_>) -> bool {
        let rule = Rule::parse(text, "rule1").unwrap();
        rule.resolve(&Host::default()).unwrap().matches(s)
    }

    #[test]
    fn every_key_names_and_takes_away() {
        for (yes, no) in [
            ("comm=a,cc*", "comm=cc"),
            ("exe=*/cc1", "exe=/usr/bin/*"),
            ("uid=0,1000", "uid=0"),
            ("gid=100", "gid=10"),
            ("pid=77", "pid=70"),
            ("tree=70", "tree=71"),
            ("tree=77", "tree=2"),
            ("cgroup=id:11", "cgroup=id:13"),
            ("mntns=40", "mntns=41"),
            ("pidns=41", "pidns=40"),
            ("container", "not-container"),
        ] {
            assert!(names(yes, &SUBJECT), "{yes}");
            assert!(!names(no, &SUBJECT), "{no}");
            if yes.contains('=') {
                assert!(!names(&yes.replacen('=', "!=", 1), &SUBJECT), "{yes} negated");
                assert!(names(&no.replacen('=', "!=", 1), &SUBJECT), "{no} negated");
            }
        }
        assert!(!names("comm=cc1 uid=0", &SUBJECT), "terms AND");
    }

    #[test]
    fn no_program_is_in_no_list_of_programs() {
        let s = Subject { exe: None, ..SUBJECT };
        assert!(!names("exe=*", &s));
        assert!(names("exe!=*", &s));
    }

    #[test]
    fn names_are_looked_up() {
        let host = Host::default().user("build", 1000).group("build", 7).cgroup("/ci", 11, None);
        let named = |text: &str| Rule::parse(text, "rule1").unwrap().resolve(&host);
        assert!(named("uid=build cgroup=/ci").unwrap().matches(&SUBJECT));
        assert!(!named("gid=build").unwrap().matches(&SUBJECT));
        let e = named("comm=a uid=0,nobody").unwrap_err();
        assert_eq!(e.to_string(), "no user 'nobody'\n  comm=a uid=0,nobody\n               ^^^^^^");
    }

    #[test]
    fn a_tree_has_a_root() {
        let host = Host::default().gone(7);
        let rule = |text: &str| Rule::parse(text, "rule1").unwrap().resolve(&host);
        assert!(rule("tree=8 pid=7").is_ok());
        let e = rule("tree=8,7 comm=a").unwrap_err();
        assert_eq!(e.to_string(), "no process 7\n  tree=8,7 comm=a\n         ^");
    }
}
