//! Who is meant by `--by` and `--of`: rules, as everywhere else, that user space matches.

use anyhow::Result;
use prof_model::audit::Target;
use prof_model::record::Process;
use prof_model::rules::Key;
use prof_model::rules::Matcher;
use prof_model::rules::Rule;
use prof_model::rules::RuleError;
use prof_model::rules::Subject;

use crate::rules;

/// Those whom any of some rules names; everybody, if there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    rules: Vec<Matcher>,
}

impl Who {
    /// What was given with `option`.
    ///
    /// # Errors
    ///
    /// If a rule cannot be read, or asks for what an audit does not know of processes.
    pub fn of(option: &str, texts: &[String]) -> Result<Self> {
        let matcher = |text: &String| -> Result<Matcher> {
            let rule = Rule { origin: option.to_owned(), ..Rule::parse(text, option)? };
            let wrong = |span, message: &str| RuleError {
                origin: option.to_owned(),
                text: rule.text.clone(),
                span,
                message: message.to_owned(),
            };
            for term in &rule.terms {
                if matches!(term.key, Key::Tree | Key::Cgroup) {
                    let what = "of those who profile and are profiled neither ancestors nor \
                                cgroups above their own are known";
                    return Err(wrong(term.span, what).into());
                }
            }
            if rule.follow || rule.freq.is_some() {
                let what = "an audit follows nobody and samples nothing";
                return Err(wrong(Default::default(), what).into());
            }
            Ok(rule.resolve(&rules::Host)?)
        };
        Ok(Self { rules: texts.iter().map(matcher).collect::<Result<_>>()? })
    }

    /// Whether this target is meant: what is no single process only where everything is.
    pub fn is_target(&self, target: &Target) -> bool {
        self.rules.is_empty() || target.process().is_some_and(|p| self.is(p))
    }

    /// Whether this process is meant.
    pub fn is(&self, p: &Process) -> bool {
        // Of one that nobody knows nothing can be said, and 0 would be root.
        if !self.rules.is_empty() && p.ident.pid == 0 {
            return false;
        }
        let subject = Subject {
            comm: &p.ident.comm,
            exe: p.exe.as_deref(),
            uid: p.ident.uid,
            gid: p.ident.gid,
            pid: p.ident.pid,
            tree: &[],
            cgroups: &[],
            mntns: p.ident.mntns,
            pidns: p.ident.pidns,
            container: p.container_id.is_some(),
        };
        self.rules.is_empty() || self.rules.iter().any(|r| r.matches(&subject))
    }
}

#[cfg(test)]
mod tests {
    use prof_model::record::Ident;

    use super::*;

    fn who(text: &str) -> Result<Who> {
        Who::of("--by", &[text.to_owned()])
    }

    #[test]
    fn who_is_named_by_what_is_known() {
        let ident = Ident { pid: 7, uid: 1000, comm: b"perf".to_vec(), ..Ident::default() };
        let p = Process { ident, exe: Some(b"/usr/bin/perf".to_vec()), ..Process::default() };
        for (text, want) in [
            ("comm=perf", true),
            ("comm=gdb,pe*", true),
            ("comm!=perf", false),
            ("exe=*/perf", true),
            ("exe=/usr/sbin/*", false),
            ("uid=1000 comm=perf", true),
            ("uid!=root", true),
            ("uid=0,7", false),
            ("pid=7", true),
            ("container", false),
        ] {
            assert_eq!(who(text).unwrap().is(&p), want, "{text}");
        }
        assert!(!who("comm=*").unwrap().is_target(&Target::Host));
        // Who is not known is not root.
        assert!(!who("uid=0").unwrap().is(&Process::default()));
        assert!(Who::default().is_target(&Target::Host) && Who::default().is(&p));
    }

    #[test]
    fn what_is_not_known_of_them_is_refused() {
        for text in
            ["perf", "comm=", "uid=nobody-of-that-name", "tree=1", "cgroup=/", "comm=a follow"]
        {
            assert!(who(text).is_err(), "{text}");
        }
    }
}
