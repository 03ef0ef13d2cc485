//! Rules from the command line: files read, names resolved.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use prof_kernel::host;
use prof_model::record::RuleName;
use prof_model::rules::CgroupRef;
use prof_model::rules::Resolver;
use prof_model::rules::RuleSet;
use prof_model::rules::Tables;
use prof_model::rules::compile;

use crate::cli::Which;

/// Rules in both forms: as people read them and as the kernel matches them.
#[derive(Debug, Clone)]
pub struct Rules {
    /// By bit.
    pub names: Vec<RuleName>,
    /// For the kernel half.
    pub tables: Tables,
}

/// The rules that the options make.
pub fn from_options(which: &Which) -> Result<RuleSet> {
    let mut files = Vec::new();
    for path in &which.rules {
        let text = host::as_the_user(|| fs::read_to_string(path))
            .with_context(|| format!("rules file {}", path.display()))?;
        files.push((path.display().to_string(), text));
    }
    let set = RuleSet::from_options(&which.scope, &which.rule, &files)?;
    if set.is_empty() && !files.is_empty() {
        // Without any rule, all processes would be profiled.
        bail!("{}: there is no rule in it", which.rules[0].display());
    }
    Ok(set)
}

/// Compiles them, with users, groups and cgroups of this host.
pub fn compiled(set: &RuleSet) -> Result<Rules> {
    Ok(Rules { names: set.iter().map(RuleName::from).collect(), tables: compile(set, &Host)? })
}

/// Names of users, groups and cgroups, as this host has them.
pub(crate) struct Host;

impl Resolver for Host {
    fn root(&self, pid: u32) -> Result<(), String> {
        match host::process_of(pid) {
            Some(process) if process == pid => Ok(()),
            Some(process) => Err(format!("{pid} is a thread of process {process}: tree={process}")),
            None => Err("no process has this id".into()),
        }
    }

    fn uid(&self, name: &str) -> Result<u32, String> {
        entry("passwd", name).ok_or_else(|| format!("no user is called '{name}'"))
    }

    fn gid(&self, name: &str) -> Result<u32, String> {
        entry("group", name).ok_or_else(|| format!("no group is called '{name}'"))
    }

    fn cgroup(&self, path: &str) -> Result<CgroupRef, String> {
        let found = self.candidates(path).into_iter().find(|(p, _)| p.is_dir());
        let Some((dir, v1)) = found else {
            return Err(format!("no cgroup {path} in any hierarchy that is mounted"));
        };
        let id = host::cgroup_id(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let v1_controller = match v1 {
            None => None,
            Some(controllers) => {
                Some(controllers.iter().find_map(|c| host::controller_index(c)).ok_or_else(
                    || format!("{}: a v1 hierarchy without a controller", dir.display()),
                )?)
            }
        };
        Ok(CgroupRef { id, v1_controller })
    }
}

impl Host {
    /// Where a path may be meant: as given, or below a hierarchy, v2 first; with
    /// the controllers of a v1 hierarchy.
    fn candidates(&self, path: &str) -> Vec<(PathBuf, Option<Vec<String>>)> {
        // Read here and not at every start: few rules name a cgroup.
        let mut mounts = host::cgroup_mounts();
        mounts.sort_by_key(|m| !m.v2);
        let v1 = |m: &host::CgroupMount| (!m.v2).then(|| m.controllers.clone());
        let given = Path::new(path);
        let mut list: Vec<_> = mounts
            .iter()
            .filter(|m| given.starts_with(&m.path))
            .map(|m| (given.to_path_buf(), v1(m)))
            .collect();
        let below = path.trim_start_matches('/');
        list.extend(mounts.iter().map(|m| (m.path.join(below), v1(m))));
        list
    }
}

/// Id of a user or group, by the C library: it asks whatever the host asks.
fn entry(database: &str, name: &str) -> Option<u32> {
    let c = CString::new(name).ok()?;
    // SAFETY: the name ends in NUL; the result is null or points to an entry that
    // stays as it is until the next call, and this program has no other thread.
    unsafe {
        if database == "passwd" {
            libc::getpwnam(c.as_ptr()).as_ref().map(|e| e.pw_uid)
        } else {
            libc::getgrnam(c.as_ptr()).as_ref().map(|e| e.gr_gid)
        }
    }
}
