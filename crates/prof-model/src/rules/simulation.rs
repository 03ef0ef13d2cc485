//! Tests only: what `bpf/include/rules.h` does with the tables, step by step,
//! held against [`Matcher`](super::Matcher), which knows nothing of tables.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::sample::select;

use super::CgroupRef;
use super::Dim;
use super::MAX_PATTERN;
use super::Match;
use super::Resolver;
use super::Rule;
use super::RuleSet;
use super::Subject;
use super::Tables;
use super::compile;

/// A host with the names that a test gave it.
#[derive(Debug, Default)]
pub(super) struct Host {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
    cgroups: HashMap<String, CgroupRef>,
    gone: Vec<u32>,
}

impl Host {
    pub(super) fn user(mut self, name: &str, id: u32) -> Self {
        self.users.insert(name.into(), id);
        self
    }

    pub(super) fn group(mut self, name: &str, id: u32) -> Self {
        self.groups.insert(name.into(), id);
        self
    }

    pub(super) fn gone(mut self, pid: u32) -> Self {
        self.gone.push(pid);
        self
    }

    pub(super) fn cgroup(mut self, path: &str, id: u64, v1_controller: Option<u32>) -> Self {
        self.cgroups.insert(path.into(), CgroupRef { id, v1_controller });
        self
    }
}

impl Resolver for Host {
    fn root(&self, pid: u32) -> Result<(), String> {
        if self.gone.contains(&pid) { Err(format!("no process {pid}")) } else { Ok(()) }
    }

    fn uid(&self, name: &str) -> Result<u32, String> {
        self.users.get(name).copied().ok_or(format!("no user '{name}'"))
    }

    fn gid(&self, name: &str) -> Result<u32, String> {
        self.groups.get(name).copied().ok_or(format!("no group '{name}'"))
    }

    fn cgroup(&self, path: &str) -> Result<CgroupRef, String> {
        self.cgroups.get(path).copied().ok_or(format!("no cgroup '{path}'"))
    }
}

/// The kernel half's view of the tables.
struct Kernel<'a>(&'a Tables);

impl Kernel<'_> {
    fn dim_used(&self, dim: Dim) -> bool {
        self.0.dims & 1 << dim as u32 != 0
    }

    fn apply(&self, rules: u64, dim: Dim, m: Match) -> u64 {
        rules & (m.eq | !self.0.uses_eq[dim as usize]) & !m.ne
    }

    /// The hash.
    fn lookup_number(&self, dim: Dim, value: u64) -> Match {
        let found = self.0.numbers.iter().find(|(d, v, _)| (*d, *v) == (dim, value));
        found.map_or(Match::default(), |(_, _, m)| *m)
    }

    /// The trie: the longest entry that the key starts with, and no other.
    fn lookup_string(&self, dim: Dim, key: &[u8], m: &mut Match) {
        let fits = self.0.strings.iter().filter(|(d, k, _)| *d == dim && key.starts_with(k));
        if let Some((_, _, found)) = fits.max_by_key(|(_, k, _)| k.len()) {
            m.eq |= found.eq;
            m.ne |= found.ne;
        }
    }

    fn match_number(&self, rules: u64, dim: Dim, value: u64) -> u64 {
        if !self.dim_used(dim) {
            return rules;
        }
        self.apply(rules, dim, self.lookup_number(dim, value))
    }

    fn match_cgroup(&self, rules: u64, cgroups: &[u64]) -> u64 {
        if !self.dim_used(Dim::Cgroup) {
            return rules;
        }
        let mut m = Match::default();
        for id in cgroups {
            let found = self.lookup_number(Dim::Cgroup, *id);
            m.eq |= found.eq;
            m.ne |= found.ne;
        }
        self.apply(rules, Dim::Cgroup, m)
    }

    fn match_tree(&self, rules: u64, tree: &[u32]) -> u64 {
        if !self.dim_used(Dim::Tree) {
            return rules;
        }
        let mut m = Match::default();
        for (_, root) in self.0.tree_roots.iter().filter(|(pid, _)| tree.contains(pid)) {
            m.eq |= root.eq;
            m.ne |= root.ne;
        }
        self.apply(rules, Dim::Tree, m)
    }

    /// A name or a path, of which at most [`MAX_PATTERN`] bytes are looked up at
    /// either end.
    fn match_text(&self, rules: u64, dim: Dim, suffix: Dim, text: Option<&[u8]>) -> u64 {
        if !self.dim_used(dim) && !self.dim_used(suffix) {
            return rules;
        }
        let mut m = Match::default();
        if let Some(text) = text {
            if self.dim_used(dim) {
                let mut key: Vec<u8> = text.iter().copied().take(MAX_PATTERN).collect();
                if key.len() < MAX_PATTERN {
                    key.push(0);
                }
                self.lookup_string(dim, &key, &mut m);
            }
            if self.dim_used(suffix) {
                let key: Vec<u8> = text.iter().rev().copied().take(MAX_PATTERN).collect();
                self.lookup_string(suffix, &key, &mut m);
            }
        }
        self.apply(rules, dim, m)
    }

    fn evaluate(&self, s: &Subject<'_>) -> u64 {
        let mut rules = self.0.rules;
        rules = self.match_tree(rules, s.tree);
        rules = self.match_number(rules, Dim::Pid, s.pid.into());
        rules = self.match_number(rules, Dim::Uid, s.uid.into());
        rules = self.match_number(rules, Dim::Gid, s.gid.into());
        rules = self.match_text(rules, Dim::Comm, Dim::CommSuffix, Some(s.comm));
        rules = self.match_number(rules, Dim::Mntns, s.mntns.into());
        rules = self.match_number(rules, Dim::Pidns, s.pidns.into());
        rules = self.match_cgroup(rules, s.cgroups);
        rules = self.match_number(rules, Dim::Container, s.container.into());
        self.match_text(rules, Dim::Exe, Dim::ExeSuffix, s.exe)
    }
}

/// A subject that owns what it is made of.
#[derive(Debug, Clone)]
struct Process {
    comm: String,
    exe: Option<String>,
    numbers: [u32; 5],
    tree: Vec<u32>,
    cgroups: Vec<u64>,
    container: bool,
}

impl Process {
    fn subject(&self) -> Subject<'_> {
        let [uid, gid, pid, mntns, pidns] = self.numbers;
        Subject {
            comm: self.comm.as_bytes(),
            exe: self.exe.as_ref().map(String::as_bytes),
            uid,
            gid,
            pid,
            tree: &self.tree,
            cgroups: &self.cgroups,
            mntns,
            pidns,
            container: self.container,
        }
    }
}

// Two letters and few of them, three numbers: most values of one rule overlap
// with those of another, and with the subjects.

fn process() -> impl Strategy<Value = Process> {
    let number = 1..4u32;
    (
        "[ab]{0,4}",
        proptest::option::weighted(0.9, "/[ab]{0,2}(/[ab]{0,2})?"),
        [number.clone(), number.clone(), number.clone(), number.clone(), number.clone()],
        proptest::collection::vec(number, 0..3),
        proptest::collection::vec(1..4u64, 0..3),
        any::<bool>(),
    )
        .prop_map(|(comm, exe, numbers, tree, cgroups, container)| Process {
            comm,
            exe,
            numbers,
            tree,
            cgroups,
            container,
        })
}

fn list(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (prop_oneof![3 => Just("="), 2 => Just("!=")], proptest::collection::vec(value, 1..4))
        .prop_map(|(operator, values)| operator.to_owned() + &values.join(","))
}

fn term() -> impl Strategy<Value = String> {
    let comm = prop_oneof![
        3 => "[ab]{1,3}",
        3 => "[ab]{0,3}\\*",
        3 => "\\*[ab]{1,3}",
        1 => Just("\"\"".to_owned()),
    ];
    let exe = prop_oneof![
        2 => "/[ab]{0,2}(/[ab]{0,2})?",
        3 => "/[ab]{0,2}(/[ab]{0,2})?\\*",
        3 => "\\*/?[ab]{1,2}",
        1 => Just("*".to_owned()),
    ];
    let key = select(vec!["uid", "gid", "pid", "mntns", "pidns", "tree"]);
    prop_oneof![
        5 => list(comm).prop_map(|l| format!("comm{l}")),
        5 => list(exe).prop_map(|l| format!("exe{l}")),
        4 => (key, list("[1-3]")).prop_map(|(k, l)| format!("{k}{l}")),
        1 => list("id:[1-3]").prop_map(|l| format!("cgroup{l}")),
        1 => select(vec!["container", "not-container"]).prop_map(str::to_owned),
    ]
}

fn rule() -> impl Strategy<Value = String> {
    proptest::collection::vec(term(), 1..4).prop_map(|t| t.join(" "))
}

fn set_of<'a>(rules: impl IntoIterator<Item = &'a String>) -> RuleSet {
    let mut set = RuleSet::default();
    for text in rules {
        set.push(Rule::parse(text, &set.next_name()).unwrap()).unwrap();
    }
    set
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// The heart: what the kernel finds in the tables is what the rules say.
    #[test]
    fn tables_say_what_the_rules_say(
        rules in proptest::collection::vec(rule(), 1..8),
        processes in proptest::collection::vec(process(), 16),
    ) {
        let host = Host::default();
        // Those that make no tables are in the test below.
        let fine = rules.iter().filter(|r| compile(&set_of([*r]), &host).is_ok());
        let set = set_of(fine);
        let tables = compile(&set, &host).unwrap();
        for p in &processes {
            let found = Kernel(&tables).evaluate(&p.subject());
            for (i, rule) in set.iter().enumerate() {
                let says = rule.resolve(&host).unwrap().matches(&p.subject());
                prop_assert_eq!(found >> i & 1 == 1, says, "{} of {:?}, {:?}", rule.text, set, p);
            }
            prop_assert_eq!(found & !tables.rules, 0);
        }
    }

    #[test]
    fn what_is_said_never_to_match_never_matches(
        text in proptest::collection::vec(term(), 2..5).prop_map(|t| t.join(" ")),
        processes in proptest::collection::vec(process(), 16),
    ) {
        let host = Host::default();
        let set = set_of([&text]);
        let Err(e) = compile(&set, &host) else { return Ok(()) };
        if e.message.contains("never match") {
            let matcher = Rule::parse(&text, "rule1").unwrap().resolve(&host).unwrap();
            for p in &processes {
                prop_assert!(!matcher.matches(&p.subject()), "{} {:?}", text, p);
            }
        }
    }

    #[test]
    fn entries_are_sorted_and_appear_once(rules in proptest::collection::vec(rule(), 1..8)) {
        let host = Host::default();
        let set = set_of(rules.iter().filter(|r| compile(&set_of([*r]), &host).is_ok()));
        let t = compile(&set, &host).unwrap();
        prop_assert!(t.numbers.is_sorted_by_key(|(d, v, _)| (*d, *v)));
        prop_assert!(t.strings.windows(2).all(|w| (w[0].0, &w[0].1) < (w[1].0, &w[1].1)));
    }
}

/// Whether the rule names a process with this path: by the tables and by itself.
fn exe_matches(rule: &str, exe: &str) -> bool {
    let host = Host::default();
    let set = set_of([&rule.to_owned()]);
    let subject = Subject {
        comm: b"x",
        exe: Some(exe.as_bytes()),
        uid: 0,
        gid: 0,
        pid: 1,
        tree: &[],
        cgroups: &[],
        mntns: 0,
        pidns: 0,
        container: false,
    };
    let by_tables = Kernel(&compile(&set, &host).unwrap()).evaluate(&subject) == 1;
    let by_itself = set.iter().next().unwrap().resolve(&host).unwrap().matches(&subject);
    assert_eq!(by_tables, by_itself, "{rule}");
    by_tables
}

#[test]
fn paths_as_long_as_a_key_are_matched_exactly() {
    let path = |len: usize| format!("/{}", "x".repeat(len - 1));
    for len in [253, 254, 255, 256, 300] {
        assert_eq!(exe_matches(&format!("exe={}", path(254)), &path(len)), len == 254);
        assert_eq!(exe_matches(&format!("exe={}*", path(255)), &path(len)), len >= 255);
        assert_eq!(exe_matches(&format!("exe={}*", path(254)), &path(len)), len >= 254);
        assert_eq!(exe_matches(&format!("exe=*{}", path(255)), &path(len)), len == 255);
        assert_eq!(exe_matches(&format!("exe=*{}", "x".repeat(255)), &path(len)), len >= 256);
    }
}
