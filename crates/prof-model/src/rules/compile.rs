//! The tables that the kernel half matches by (`bpf/include/rules.h`).

use std::collections::BTreeMap;

use super::error::Fault;
use super::error::RuleError;
use super::narrow;
use super::pattern::Pattern;
use super::resolve::Matcher;
use super::resolve::Resolved;
use super::resolve::Resolver;
use super::resolve::Values;
use super::rule::Key;
use super::set::RuleSet;

/// `enum prof_dim`: what one look-up is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Dim {
    /// Real user id.
    Uid = 0,
    /// Real group id.
    Gid = 1,
    /// Process id on the host.
    Pid = 2,
    /// Cgroup id; the ancestors are looked up too.
    Cgroup = 3,
    /// Inode of the mount namespace.
    Mntns = 4,
    /// Inode of the pid namespace.
    Pidns = 5,
    /// 1 in a container, else 0.
    Container = 6,
    /// Not looked up: inherited from the roots.
    Tree = 7,
    /// Names: whole and by their start.
    Comm = 8,
    /// Names by their end, stored reversed.
    CommSuffix = 9,
    /// Programs: whole and by their start.
    Exe = 10,
    /// Programs by their end, stored reversed.
    ExeSuffix = 11,
}

/// `PROF_NR_DIMS`.
pub const NR_DIMS: usize = 12;

impl Dim {
    /// Its bit in [`Tables::dims`].
    fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Where all but suffixes of a key are looked up, and whose `uses_eq` counts.
    fn of(key: Key) -> Self {
        match key {
            Key::Uid => Self::Uid,
            Key::Gid => Self::Gid,
            Key::Pid => Self::Pid,
            Key::Tree => Self::Tree,
            Key::Cgroup => Self::Cgroup,
            Key::Mntns => Self::Mntns,
            Key::Pidns => Self::Pidns,
            Key::Container => Self::Container,
            Key::Comm => Self::Comm,
            Key::Exe => Self::Exe,
        }
    }
}

/// `struct prof_match`: the rules that list a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Match {
    /// With `=`.
    pub eq: u64,
    /// With `!=`.
    pub ne: u64,
}

impl Match {
    fn add(&mut self, o: Match) {
        self.eq |= o.eq;
        self.ne |= o.ne;
    }
}

/// What goes into the maps and the constants of the kernel half.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    /// `prof_config.rules`: rules in use, one bit each.
    pub rules: u64,
    /// `prof_config.follow`: rules whose children are named too.
    pub follow: u64,
    /// `prof_config.uses_eq`: by dimension, the rules with an `=` term.
    pub uses_eq: [u64; NR_DIMS],
    /// `prof_config.dims`: a bit for each dimension in use.
    pub dims: u32,
    /// Entries of `match_num`, by dimension and value.
    pub numbers: Vec<(Dim, u64, Match)>,
    /// Entries of `match_str`, by dimension and the bytes of the key, all of
    /// which count. The longest entry that a string starts with is the only one
    /// the kernel finds, and holds the rules of the shorter ones as well.
    pub strings: Vec<(Dim, Vec<u8>, Match)>,
    /// Processes that `tree` names; those that descend from them inherit it.
    pub tree_roots: Vec<(u32, Match)>,
    /// `prof_config.cgroup_subsys`: index of the v1 controller whose hierarchy
    /// the cgroups are in; `None` for v2.
    pub cgroup_v1: Option<u32>,
}

/// Makes the tables; rule i of the set is bit i.
///
/// # Errors
///
/// If a name is not known, a rule can never match, or the kernel half cannot
/// match it: both ends of one name at once, several hierarchies of cgroups,
/// several lists of nested things.
pub fn compile(set: &RuleSet, resolver: &dyn Resolver) -> Result<Tables, RuleError> {
    let mut builder = Builder::default();
    for (i, rule) in set.iter().enumerate() {
        let bit = 1 << i;
        let matcher = rule.resolve(resolver)?;
        builder.add(bit, &matcher).map_err(|f| f.in_text(&rule.origin, &rule.text))?;
        if rule.follow {
            builder.tables.follow |= bit;
        }
    }
    Ok(builder.finish())
}

#[derive(Default)]
struct Builder {
    /// Without the entries, which are gathered below.
    tables: Tables,
    numbers: BTreeMap<(Dim, u64), Match>,
    strings: BTreeMap<(Dim, Vec<u8>), Match>,
    tree_roots: BTreeMap<u32, Match>,
    /// Of the first cgroup: all must be in the same one.
    hierarchy: Option<Option<u32>>,
}

impl Builder {
    fn add(&mut self, bit: u64, matcher: &Matcher) -> Result<(), Fault> {
        self.tables.rules |= bit;
        for key in Key::ALL {
            let terms: Vec<&Resolved> = matcher.terms.iter().filter(|t| t.key == key).collect();
            if terms.is_empty() {
                continue;
            }
            for term in &terms {
                self.check_hierarchy(term)?;
            }
            if matches!(key, Key::Comm | Key::Exe) {
                self.add_texts(bit, key, narrow::texts(&terms)?);
            } else {
                self.add_numbers(bit, key, narrow::numbers(&terms)?);
            }
        }
        Ok(())
    }

    /// The kernel half looks at one hierarchy of cgroups.
    fn check_hierarchy(&mut self, term: &Resolved) -> Result<(), Fault> {
        let Values::Cgroups(cgroups) = &term.values else {
            return Ok(());
        };
        for (cgroup, span) in cgroups {
            if *self.hierarchy.get_or_insert(cgroup.v1_controller) != cgroup.v1_controller {
                let message = "this cgroup is in another hierarchy than the ones before; all \
                               cgroups of all rules must be in v2 or under one v1 controller";
                return Err(Fault::new(*span, message));
            }
        }
        Ok(())
    }

    fn add_numbers(&mut self, bit: u64, key: Key, narrowed: narrow::Narrowed<u64>) {
        let dim = Dim::of(key);
        self.tables.dims |= dim.bit();
        for (value, m) in self.marked(bit, dim, narrowed) {
            match u32::try_from(value) {
                Ok(pid) if dim == Dim::Tree => self.tree_roots.entry(pid).or_default().add(m),
                _ => self.numbers.entry((dim, value)).or_default().add(m),
            }
        }
    }

    fn add_texts(&mut self, bit: u64, key: Key, narrowed: narrow::Narrowed<Pattern>) {
        let dim = Dim::of(key);
        let suffix_dim = if key == Key::Comm { Dim::CommSuffix } else { Dim::ExeSuffix };
        for (pattern, m) in self.marked(bit, dim, narrowed) {
            let (dim, bytes) = match pattern {
                // The NUL tells it from what is longer.
                Pattern::Literal(mut p) => {
                    p.push(0);
                    (dim, p)
                }
                Pattern::Prefix(p) => (dim, p),
                Pattern::Suffix(mut p) => {
                    p.reverse();
                    (suffix_dim, p)
                }
            };
            self.tables.dims |= dim.bit();
            self.strings.entry((dim, bytes)).or_default().add(m);
        }
    }

    /// The values with what they mean for the rule, whose `=` is noted.
    fn marked<T>(
        &mut self,
        bit: u64,
        dim: Dim,
        narrowed: narrow::Narrowed<T>,
    ) -> impl Iterator<Item = (T, Match)> + use<T> {
        if narrowed.eq.is_some() {
            self.tables.uses_eq[dim as usize] |= bit;
        }
        let eq = narrowed.eq.into_iter().flatten().map(move |v| (v, Match { eq: bit, ne: 0 }));
        let ne = narrowed.ne.into_iter().map(move |v| (v, Match { eq: 0, ne: bit }));
        eq.chain(ne)
    }

    fn finish(self) -> Tables {
        Tables {
            numbers: self.numbers.into_iter().map(|((dim, value), m)| (dim, value, m)).collect(),
            strings: with_shorter(self.strings),
            tree_roots: self.tree_roots.into_iter().collect(),
            cgroup_v1: self.hierarchy.flatten(),
            ..self.tables
        }
    }
}

/// Adds to each entry the rules of every shorter one that it starts with.
fn with_shorter(strings: BTreeMap<(Dim, Vec<u8>), Match>) -> Vec<(Dim, Vec<u8>, Match)> {
    let mut out: Vec<(Dim, Vec<u8>, Match)> = Vec::with_capacity(strings.len());
    // In this order an entry comes right behind those it starts with, apart from
    // others that start with the same. Places in `out`, each starting with the
    // one before.
    let mut shorter: Vec<usize> = Vec::new();
    for ((dim, bytes), mut m) in strings {
        while let Some(&i) = shorter.last() {
            let (other_dim, other, rules) = &out[i];
            if *other_dim == dim && bytes.starts_with(other) {
                m.add(*rules);
                break;
            }
            shorter.pop();
        }
        shorter.push(out.len());
        out.push((dim, bytes, m));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::rule::Rule;
    use super::super::simulation::Host;
    use super::*;

    fn host() -> Host {
        let host = Host::default().user("root", 0).cgroup("/a", 5, None);
        host.cgroup("/v1/cpu", 8, Some(1)).cgroup("/v1/memory", 9, Some(4))
    }

    fn tables(rules: &[&str]) -> Result<Tables, RuleError> {
        let mut set = RuleSet::default();
        for text in rules {
            set.push(Rule::parse(text, &set.next_name())?)?;
        }
        compile(&set, &host())
    }

    /// What is wrong with a rule, and the part at fault.
    fn fault(rule: &str) -> (String, String) {
        let e = tables(&["uid=7", rule]).expect_err(rule);
        (e.message, e.text[e.span.at..e.span.at + e.span.len].to_owned())
    }

    fn eq(eq: u64) -> Match {
        Match { eq, ne: 0 }
    }

    #[test]
    fn a_longer_entry_has_the_rules_of_the_shorter_ones() {
        let t = tables(&["comm=a*", "comm!=ab", "comm=ab*,b", "comm=*ba,*a", "exe=*"]).unwrap();
        assert_eq!(
            t.strings,
            [
                (Dim::Comm, b"a".to_vec(), eq(1)),
                (Dim::Comm, b"ab".to_vec(), eq(0b101)),
                (Dim::Comm, b"ab\0".to_vec(), Match { eq: 0b101, ne: 0b10 }),
                (Dim::Comm, b"b\0".to_vec(), eq(0b100)),
                (Dim::CommSuffix, b"a".to_vec(), eq(0b1000)),
                (Dim::CommSuffix, b"ab".to_vec(), eq(0b1000)),
                (Dim::Exe, b"".to_vec(), eq(0b10000)),
            ]
        );
        assert_eq!(t.rules, 0b11111);
        assert_eq!(t.dims, Dim::Comm.bit() | Dim::CommSuffix.bit() | Dim::Exe.bit());
        assert_eq!(t.uses_eq[Dim::Comm as usize], 0b1101);
        assert_eq!(t.uses_eq[Dim::CommSuffix as usize], 0);
    }

    #[test]
    fn numbers_share_a_table_and_trees_have_their_own() {
        let t =
            tables(&["uid=root,3 not-container", "uid!=3 tree=9 follow", "container cgroup=/a"]);
        let t = t.unwrap();
        assert_eq!(
            t.numbers,
            [
                (Dim::Uid, 0, eq(1)),
                (Dim::Uid, 3, Match { eq: 1, ne: 2 }),
                (Dim::Cgroup, 5, eq(4)),
                (Dim::Container, 1, Match { eq: 4, ne: 1 }),
            ]
        );
        assert_eq!(t.tree_roots, [(9, eq(2))]);
        assert_eq!(t.uses_eq[Dim::Tree as usize], 2);
        assert_eq!(t.uses_eq[Dim::Uid as usize], 1);
        assert_eq!(t.uses_eq[Dim::Container as usize], 4);
        assert_eq!(t.dims, 0b1100_1001);
        assert_eq!(t.follow, 2);
    }

    #[test]
    fn no_rules_make_empty_tables() {
        assert_eq!(tables(&[]).unwrap(), Tables::default());
    }

    #[test]
    fn lists_of_one_rule_are_intersected() {
        let t = tables(&["uid=1,2,3 uid=3,2 uid!=2 comm=a*,x comm=ab*,x,y"]).unwrap();
        let values: Vec<_> = t.numbers.iter().map(|(_, v, m)| (*v, m.eq, m.ne)).collect();
        assert_eq!(values, [(2, 1, 1), (3, 1, 0)]);
        let bytes: Vec<_> = t.strings.iter().map(|(_, b, _)| b.as_slice()).collect();
        assert_eq!(bytes, [&b"ab"[..], b"x\0"]);
    }

    #[test]
    fn what_can_never_match_is_an_error() {
        for (rule, place) in [
            ("uid=1 uid=2 comm=a", "uid=2"),
            ("uid=1,2 uid!=2 uid!=1", "uid!=1"),
            ("container not-container", "not-container"),
            ("not-container container", "not-container"),
            ("comm=a comm=b*", "comm=b*"),
            ("comm=*a comm=*b", "comm=*b"),
            ("comm=ab,ac* comm!=a*", "comm!=a*"),
            ("comm!=*", "comm!=*"),
            ("tree=1 tree!=1", "tree!=1"),
        ] {
            let (message, at) = fault(rule);
            assert!(message.contains("never match"), "{rule}: {message}");
            assert_eq!(at, place, "{rule}");
        }
        assert!(tables(&["exe!=*"]).is_ok(), "names what has no program");
    }

    #[test]
    fn start_and_end_of_one_name_cannot_both_be_matched() {
        let (message, at) = fault("comm=a* comm=*b");
        assert!(message.contains("start or the end"), "{message}");
        assert_eq!(at, "comm=*b");
        for fine in ["comm=a* comm=*b comm=ab", "comm=a* comm=a*,*b", "comm=* comm=*b"] {
            assert!(tables(&[fine]).is_ok(), "{fine}");
        }
        assert!(tables(&["comm=a*,*b"]).is_ok(), "either end");
        assert!(tables(&["comm=a* comm!=*b"]).is_ok(), "the end taken away");
    }

    #[test]
    fn nested_things_have_one_list_a_rule() {
        for rule in ["tree=1 tree=2", "cgroup=id:1,id:2 cgroup=id:2"] {
            assert!(fault(rule).0.contains("the inner"), "{rule}");
        }
        assert!(tables(&["tree=1,2 tree=2,1 tree!=3 tree!=4"]).is_ok());
    }

    #[test]
    fn cgroups_are_of_one_hierarchy() {
        assert_eq!(tables(&["cgroup=/v1/cpu"]).unwrap().cgroup_v1, Some(1));
        assert_eq!(tables(&["cgroup=/a"]).unwrap().cgroup_v1, None);
        for rules in [["cgroup=/a", "cgroup!=/v1/cpu"], ["cgroup=/v1/cpu", "cgroup!=/v1/memory"]] {
            let e = tables(&rules).unwrap_err();
            assert!(e.message.contains("another hierarchy"), "{e}");
        }
    }

    #[test]
    fn an_error_has_the_origin_of_its_rule() {
        let set = RuleSet::from_options(&["uid=1".into(), "uid=2".into()], &[], &[]).unwrap();
        let e = compile(&set, &host()).unwrap_err();
        let shown =
            "-s: this leaves nothing: the rule can never match\n  uid=1 uid=2\n        ^^^^^";
        assert_eq!(e.to_string(), shown);
    }
}
