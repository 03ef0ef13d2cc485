//! What the audit attaches to.

use std::ffi::CStr;
use std::fmt;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use anyhow::Result;
use prof_model::record::Attached;

use crate::kprobes::Kprobes;
use crate::loader::Loaded;
use crate::session::tracepoint_id;
use crate::sys;

/// By what it is told of what is done to events, links and tracees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Trampolines at functions of the kernel.
    Fentry,
    /// Kprobes at the same functions.
    Kprobe,
    /// Tracepoints of system calls.
    Tracepoint,
}

impl Way {
    /// Each of them, the cheapest first. Functions cost only those who use them; with a
    /// tracepoint of any system call, all system calls of everybody take longer.
    pub const ALL: [Way; 3] = [Way::Fentry, Way::Kprobe, Way::Tracepoint];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Way::Fentry => "fentry",
            Way::Kprobe => "kprobe",
            Way::Tracepoint => "tracepoint",
        }
    }

    /// What it attaches to, in that order: ends before beginnings.
    pub(super) fn hooks(self) -> Vec<Hook> {
        let functions = FUNCTIONS.iter();
        match self {
            Way::Fentry => functions.map(|(at, fentry, _)| at_function(at, fentry)).collect(),
            Way::Kprobe => functions.map(|(at, _, kprobe)| at_function(at, kprobe)).collect(),
            Way::Tracepoint => TRACEPOINT.to_vec(),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What tracepoints there are is not for this user to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TracefsRefused;

impl fmt::Display for TracefsRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("to read tracefs takes root or CAP_DAC_READ_SEARCH")
    }
}

/// A program, and where it is to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    pub program: &'static str,
    at: &'static CStr,
    how: &'static str,
}

const fn hook(program: &'static str, how: &'static str, at: &'static CStr) -> Hook {
    Hook { program, at, how }
}

#[cfg(target_arch = "x86_64")]
const CALLS: [&CStr; 2] = [c"__x64_sys_bpf", c"__x64_sys_perf_event_open"];
#[cfg(target_arch = "aarch64")]
const CALLS: [&CStr; 2] = [c"__arm64_sys_bpf", c"__arm64_sys_perf_event_open"];

/// What the functions begin with by which 32-bit programs come on x86; elsewhere they come
/// the same way as all others.
pub(super) const ONLY_32_BIT: &str = "__ia32_sys_";

/// A function of the kernel, and what runs there by each of the two ways. What a program is
/// called begins with how it is attached.
type Function = (&'static CStr, &'static str, &'static str);

/// Each has to be a function that the compiler makes no part of its callers: global ones
/// with callers elsewhere, ones that the kernel has the address of, ones with several
/// callers.
const FUNCTIONS: &[Function] = &[
    (c"perf_release", "fentry_release", "kprobe_release"),
    (c"_perf_ioctl", "fentry_ioctl", "kprobe_ioctl"),
    (c"perf_event_task_disable", "fentry_prctl_off", "kprobe_prctl_off"),
    (c"perf_event_task_enable", "fentry_prctl_on", "kprobe_prctl_on"),
    (c"__ptrace_unlink", "fentry_let_go", "kprobe_let_go"),
    (c"__ptrace_link", "fentry_traced", "kprobe_traced"),
    (c"bpf_link_free", "fentry_link_end", "kprobe_link_end"),
    #[cfg(target_arch = "x86_64")]
    (c"__ia32_sys_bpf", "fexit_bpf_32", "kretprobe_bpf"),
    (CALLS[0], "fexit_bpf", "kretprobe_bpf"),
    // The last: from then on there is something that the others are to see.
    #[cfg(target_arch = "x86_64")]
    (c"__ia32_sys_perf_event_open", "fexit_opened_32", "kretprobe_opened"),
    (CALLS[1], "fexit_opened", "kretprobe_opened"),
];

fn at_function(at: &'static CStr, program: &'static str) -> Hook {
    let how = program.split_once('_').map_or(program, |(how, _)| how);
    hook(program, how, at)
}

const TRACEPOINT: [Hook; 7] = [
    hook("audit_close", "tracepoint", c"sys_enter_close"),
    hook("audit_ioctl", "tracepoint", c"sys_enter_ioctl"),
    hook("audit_prctl", "tracepoint", c"sys_enter_prctl"),
    hook("audit_ptrace", "tracepoint", c"sys_enter_ptrace"),
    hook("audit_traced", "tracepoint", c"sys_exit_ptrace"),
    hook("audit_bpf", "tracepoint", c"sys_exit_bpf"),
    hook("audit_opened", "tracepoint", c"sys_exit_perf_event_open"),
];

/// What every way needs beside its own.
pub(super) const PROCESSES: [Hook; 3] = [
    hook("audit_exit", "raw_tp", c"sched_process_exit"),
    hook("audit_fork", "raw_tp", c"sched_process_fork"),
    hook("audit_exec", "raw_tp", c"sched_process_exec"),
];

impl Hook {
    /// Whether only 32-bit programs come by it.
    pub fn is_32_bit(&self) -> bool {
        self.at.to_bytes().starts_with(ONLY_32_BIT.as_bytes())
    }

    /// Attached as long as the descriptor is open.
    pub fn attach(&self, loaded: &Loaded) -> Result<OwnedFd> {
        let prog = loaded.prog(self.program)?;
        let to = || format!("attaching to {} as {}", self.at.to_string_lossy(), self.how);
        match self.how {
            "raw_tp" => sys::raw_tracepoint_open(Some(self.at), prog).with_context(to),
            "fentry" | "fexit" => sys::raw_tracepoint_open(None, prog).with_context(to),
            "tracepoint" => {
                let name = self.at.to_string_lossy();
                let id = tracepoint_id("syscalls", &name).map_err(|e| {
                    if sys::is_refusal(&e) {
                        return e.context(TracefsRefused);
                    }
                    e.context(format!(
                        "no tracepoint {name}: the kernel is without CONFIG_FTRACE_SYSCALLS"
                    ))
                })?;
                sys::tracepoint_open(id, prog).with_context(to)
            }
            how => {
                let attached = Kprobes::find()?.attach(&[self.at], how == "kretprobe", prog)?;
                Ok(attached.0)
            }
        }
    }

    /// For the list of what is attached.
    pub fn told(&self) -> Attached {
        Attached { hook: self.at.to_string_lossy().into_owned(), how: self.how }
    }
}
