//! What was found out, as plain values.

use serde::Serialize;

use super::privileges::Privileges;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It works.
    Works,
    /// It does not, and prof would do more with it.
    Missing,
    /// It works in part.
    Limited,
    /// Whether it works makes no difference to prof here.
    NotNeeded,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Name that stays fixed.
    pub id: &'static str,
    /// Heading it belongs under.
    pub group: &'static str,
    /// What was tried, for people.
    pub title: &'static str,
    /// How it ended.
    pub state: State,
    /// What was seen; errors with the name of their errno.
    pub detail: String,
    /// What would make it work.
    pub cure: Option<String>,
}

impl Check {
    pub(super) fn new(
        (group, id, title): (&'static str, &'static str, &'static str),
        state: State,
        detail: impl Into<String>,
    ) -> Self {
        Self { id, group, title, state, detail: detail.into(), cure: None }
    }

    pub(super) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }
}

/// The ways that prof takes here by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chosen {
    /// `raw_tp`, `tp_btf` or `kprobe`; nothing if none can be attached.
    pub hooks: Option<&'static str>,
    /// Why that one.
    pub why: String,
    /// What it attaches to.
    pub attached: Vec<String>,
    /// Where the window of a program begins: `task_rename` is where the old image
    /// is gone and the new one not yet there.
    pub window_start: &'static str,
    /// Whether task-clock is exact at the ends of a window; else it is as of the
    /// last tick.
    pub exact_clock: bool,
    /// The hierarchy that cgroups are told by: `v2`, or a controller of v1.
    pub cgroups: String,
}

/// How much of prof works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Everything.
    Full,
    /// Everything, some of it with limits.
    Limited,
    /// A command can be counted as a whole.
    CommandOnly,
    /// Nothing.
    Nothing,
}

/// What of prof works, in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// How much.
    pub level: Level,
    /// Verbs that work, as they are typed.
    pub verbs: Vec<&'static str>,
    /// What is worse here than it could be.
    pub limits: Vec<String>,
}

/// What the checks say of the parts that the verbs are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    /// Hooks can be attached.
    pub hooks: bool,
    /// Live processes can be read and attached to.
    pub live: bool,
    /// A command can be started and waited for.
    pub command: bool,
    /// Process ids here are those that the hooks see.
    pub kernel_pids: bool,
}

impl Ready {
    pub(super) fn new(parts: Parts, limits: Vec<String>) -> Self {
        let Parts { hooks, live, command, kernel_pids } = parts;
        let mut verbs = Vec::new();
        if command && hooks && kernel_pids {
            verbs.push("prof run");
        } else if command {
            verbs.push(if hooks { "prof run --unprivileged" } else { "prof run" });
        }
        if hooks {
            verbs.push("prof watch");
        }
        if hooks && live && kernel_pids {
            verbs.push("prof attach");
        }
        let level = match (hooks, command) {
            (true, true) if limits.is_empty() && live && kernel_pids => Level::Full,
            (true, _) => Level::Limited,
            (false, true) => Level::CommandOnly,
            (false, false) => Level::Nothing,
        };
        Self { level, verbs, limits }
    }
}

/// Everything that was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Of prof.
    pub version: &'static str,
    /// Release of the kernel.
    pub kernel: String,
    /// As `uname -m` says it.
    pub machine: String,
    /// CPUs that are online.
    pub cpus: u32,
    /// What this process may do.
    pub privileges: Privileges,
    /// What was tried, in order.
    pub checks: Vec<Check>,
    /// The ways that prof takes.
    pub chosen: Chosen,
    /// What works as a result.
    pub ready: Ready,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Parts = Parts { hooks: true, live: true, command: true, kernel_pids: true };

    fn level(parts: Parts, limits: &[&str]) -> Level {
        Ready::new(parts, limits.iter().map(|s| (*s).to_owned()).collect()).level
    }

    #[test]
    fn the_level_follows_from_what_works() {
        assert_eq!(level(ALL, &[]), Level::Full);
        assert_eq!(level(ALL, &["clock"]), Level::Limited);
        assert_eq!(level(Parts { kernel_pids: false, ..ALL }, &[]), Level::Limited);
        assert_eq!(level(Parts { live: false, ..ALL }, &[]), Level::Limited);
        assert_eq!(level(Parts { command: false, ..ALL }, &[]), Level::Limited);
        assert_eq!(level(Parts { hooks: false, ..ALL }, &[]), Level::CommandOnly);
        assert_eq!(level(Parts { hooks: false, command: false, ..ALL }, &["x"]), Level::Nothing);
    }

    #[test]
    fn verbs_that_go_by_pid_need_the_pids_of_the_kernel() {
        let verbs = |parts| Ready::new(parts, Vec::new()).verbs;
        assert_eq!(verbs(ALL), ["prof run", "prof watch", "prof attach"]);
        let other_pids = Parts { kernel_pids: false, ..ALL };
        assert_eq!(verbs(other_pids), ["prof run --unprivileged", "prof watch"]);
        assert_eq!(verbs(Parts { hooks: false, ..ALL }), ["prof run"]);
    }
}
