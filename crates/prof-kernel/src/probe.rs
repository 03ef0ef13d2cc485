//! What of this machine can be used, found out by trying.
//!
//! Each check does the thing that prof would do, sees how it ends, and undoes it:
//! version numbers and configuration files say too little about a kernel that was
//! patched, locked down or put into a container.

mod audit;
mod counters;
mod errors;
mod hooks;
mod host;
mod privileges;
mod regions;
mod report;
mod stacks;

use std::path::PathBuf;

pub use self::privileges::Privileges;
pub use self::report::Check;
pub use self::report::Chosen;
pub use self::report::Level;
use self::report::Parts;
pub use self::report::Ready;
pub use self::report::Report;
pub use self::report::State;
use crate::prepared;

/// What to probe with.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// BTF of the kernel, if not where it usually is.
    pub btf: Option<PathBuf>,
    /// Where prepared programs would be kept; nothing is put there.
    pub cache: PathBuf,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self { btf: None, cache: prepared::default_dir() }
    }
}

/// The checks so far, and what follows from them.
#[derive(Debug, Default)]
struct Findings {
    checks: Vec<Check>,
    /// What is worse here than it could be, for the summary.
    limits: Vec<String>,
}

impl Findings {
    fn add(&mut self, check: Check) {
        self.checks.push(check);
    }

    fn limit(&mut self, text: impl Into<String>) {
        self.limits.push(text.into());
    }
}

/// Tries everything. Takes a second at most and leaves nothing behind.
///
/// To be called by a thread that has no perf event open.
pub fn probe(options: &ProbeOptions) -> Report {
    // What libbpf would say to the terminal is in the checks.
    libbpf_rs::set_print(None);
    let (_, kernel, machine) = crate::host::uname();
    let cpus = crate::host::online_cpus().map_or(1, |c| c.len()) as u32;
    let mut found = Findings::default();

    let privileges = Privileges::of_this_process();
    privileges::check(&mut found, &privileges);
    let hooks = hooks::check(&mut found, options, &privileges);
    counters::check(&mut found, &privileges);
    stacks::check(&mut found, hooks.backend, options, &privileges);
    regions::check(&mut found, hooks.backend, options, &privileges);
    audit::check(&mut found, options, &privileges);
    let identity = host::check(&mut found, options, &privileges);

    let parts = Parts {
        hooks: hooks.backend.is_some(),
        live: hooks.live,
        command: host::can_wait(&mut found),
        kernel_pids: privileges.initial_pid_ns,
    };
    let ready = Ready::new(parts, found.limits);
    Report {
        version: env!("CARGO_PKG_VERSION"),
        kernel,
        machine,
        cpus,
        privileges,
        checks: found.checks,
        chosen: hooks.into_chosen(identity),
        ready,
    }
}
