//! What this process may do, and what the system's settings take away from it.

use std::fs;

use serde::Serialize;

use super::Findings;
use super::host::read_kernel_file;
use super::report::Check;
use super::report::State;
use crate::host;
use crate::sys;

const GROUP: &str = "Privileges";

/// Inodes that the kernel gives the first namespaces (`include/linux/proc_ns.h`).
const INITIAL_PID_NS: u32 = 0xEFFF_FFFC;
const INITIAL_USER_NS: u32 = 0xEFFF_FFFD;

/// How to give prof what it needs. Which capabilities these are was found by
/// running with each set: fewer are refused, more change nothing.
fn grant() -> String {
    format!(
        "run prof as root, or grant it to the program: sudo setcap cap_bpf,cap_perfmon+ep {} \
         (everyone who may execute that file can then profile every process: chgrp and chmod \
         750 it first)",
        this_program()
    )
}

/// The same with what makes it whole.
fn grant_all() -> String {
    let all = "cap_bpf,cap_perfmon,cap_dac_read_search,cap_sys_ptrace+ep";
    format!("sudo setcap {all} {}", this_program())
}

/// The file of this program, as a shell takes it.
fn this_program() -> String {
    let path = std::env::current_exe().map(|p| p.display().to_string());
    quoted(path.as_deref().unwrap_or("prof"))
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Capabilities that make a difference to prof, with their numbers.
const CAPABILITIES: [(u32, &str); 6] = [
    (39, "CAP_BPF"),
    (38, "CAP_PERFMON"),
    (21, "CAP_SYS_ADMIN"),
    (2, "CAP_DAC_READ_SEARCH"),
    (19, "CAP_SYS_PTRACE"),
    (24, "CAP_SYS_RESOURCE"),
];

/// What this process may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Privileges {
    /// Effective user id.
    pub uid: u32,
    /// Effective capabilities, those that make a difference to prof.
    pub capabilities: Vec<&'static str>,
    /// Capabilities count in the initial user namespace only.
    pub initial_user_ns: bool,
    /// The hooks see the process ids of the initial pid namespace.
    pub initial_pid_ns: bool,
    /// Whether a seccomp filter is on this process.
    pub seccomp: bool,
    /// Whether the capabilities came with the file of the program, so that what
    /// its user sets is not to be trusted.
    pub from_file: bool,
}

impl Privileges {
    /// Of this process, now.
    pub fn of_this_process() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        // The same from /proc, should the call be refused.
        let effective = rustix::thread::capabilities(None)
            .map_or_else(|_| cap_eff(&status).unwrap_or_default(), |c| c.effective.bits());
        Self {
            uid: rustix::process::geteuid().as_raw(),
            capabilities: names_of(effective),
            initial_user_ns: is_initial("user", INITIAL_USER_NS),
            initial_pid_ns: is_initial("pid", INITIAL_PID_NS),
            seccomp: field(&status, "Seccomp").is_some_and(|v| v != "0"),
            from_file: sys::is_secure_exec(),
        }
    }

    pub(super) fn has(&self, capability: &str) -> bool {
        self.capabilities.contains(&capability)
    }

    /// Whether they should suffice for BPF and host-wide perf events.
    pub fn suffice(&self) -> bool {
        let split = self.has("CAP_BPF") && self.has("CAP_PERFMON");
        self.initial_user_ns && (split || self.has("CAP_SYS_ADMIN"))
    }

    /// Whether they are all that the kernel asks of those who count whatever it counts.
    pub(crate) fn may_count(&self) -> bool {
        self.initial_user_ns && (self.has("CAP_PERFMON") || self.has("CAP_SYS_ADMIN"))
    }

    /// What to do about a refusal.
    pub fn cure(&self) -> String {
        if !self.initial_user_ns {
            "run prof outside the container, or in one that shares the host's user namespace: \
             capabilities of another one do not count for BPF (docker run --privileged \
             --userns=host --pid=host; podman only as root)"
                .into()
        } else if !self.suffice() {
            grant()
        } else if self.seccomp {
            "a seccomp filter is on this process, and may be what refuses: run prof without it \
             (docker run --security-opt seccomp=unconfined)"
                .into()
        } else {
            "the capabilities are there, so a security module or lockdown refuses: see lockdown \
             above, and the audit log (ausearch -m avc, journalctl -k)"
                .into()
        }
    }
}

fn is_initial(kind: &str, inode: u32) -> bool {
    // 0 is a kernel without such namespaces, or without /proc: then there is one.
    let here = host::namespace(kind);
    here == 0 || here == inode
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn cap_eff(status: &str) -> Option<u64> {
    u64::from_str_radix(field(status, "CapEff")?, 16).ok()
}

fn names_of(bits: u64) -> Vec<&'static str> {
    CAPABILITIES.iter().filter(|(n, _)| bits >> n & 1 != 0).map(|(_, name)| *name).collect()
}

/// The word in brackets of /sys/kernel/security/lockdown.
fn chosen_word(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0)
}

pub(super) fn check(found: &mut Findings, privileges: &Privileges) {
    found.add(capabilities(privileges));
    found.add(user_namespace(privileges));
    if !privileges.initial_pid_ns {
        found.limit(
            "pids are those of a pid namespace, not the kernel's: prof run counts a command as a \
             whole only (--unprivileged), prof attach and the rules pid= and tree= name other \
             processes than meant",
        );
    }
    found.add(pid_namespace(privileges));
    found.add(lockdown());
    found.add(unprivileged_bpf());
    found.add(paranoid(privileges));
    found.add(Check::new(
        (GROUP, "kptr_restrict", "kernel.kptr_restrict"),
        State::NotNeeded,
        format!("{}; prof reads no kernel addresses", sysctl("kptr_restrict")),
    ));
}

fn capabilities(p: &Privileges) -> Check {
    let what = (GROUP, "capabilities", "capabilities");
    let list = if p.capabilities.is_empty() {
        "none that prof can use".to_owned()
    } else {
        p.capabilities.join(", ")
    };
    let from = if p.from_file { ", granted with the file of the program" } else { "" };
    let detail = format!("{list} (uid {}{from})", p.uid);
    let split = p.has("CAP_BPF") && p.has("CAP_PERFMON");
    if !split && !p.has("CAP_SYS_ADMIN") {
        return Check::new(what, State::Missing, detail).cure(grant());
    }
    Check::new(what, State::Works, detail)
}

fn user_namespace(p: &Privileges) -> Check {
    let what = (GROUP, "user_namespace", "user namespace");
    if p.initial_user_ns {
        return Check::new(what, State::Works, "the initial one");
    }
    let detail = "not the initial one: capabilities do not count for BPF and host-wide events";
    Check::new(what, State::Missing, detail).cure(p.cure())
}

fn pid_namespace(p: &Privileges) -> Check {
    let what = (GROUP, "pid_namespace", "pid namespace");
    if p.initial_pid_ns {
        return Check::new(what, State::Works, "the initial one");
    }
    let detail = "not the initial one: the hooks see the host's process ids, which are others \
                  than those here";
    Check::new(what, State::Limited, detail)
        .cure("run prof on the host, or in a container that shares its pids (--pid=host)")
}

fn lockdown() -> Check {
    let what = (GROUP, "lockdown", "kernel lockdown");
    let file = read_kernel_file("securityfs", "/sys/kernel/security", "lockdown");
    let (text, note) = match file {
        Ok(read) => read,
        Err(e) => {
            let detail = format!("not told, the load of the hooks will tell: {e}");
            return Check::new(what, State::NotNeeded, detail);
        }
    };
    match chosen_word(&text) {
        Some("confidentiality") => Check::new(
            what,
            State::Missing,
            format!("confidentiality: BPF programs may not read kernel memory{note}"),
        )
        .cure("boot with lockdown=integrity, or without lockdown (it comes with Secure Boot)"),
        Some(mode) => {
            Check::new(what, State::Works, format!("{mode}: does not concern prof{note}"))
        }
        None => Check::new(what, State::Works, format!("none{note}")),
    }
}

fn sysctl(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/kernel/{name}"))
        .map_or_else(|_| "not there".into(), |v| v.trim().to_owned())
}

fn unprivileged_bpf() -> Check {
    Check::new(
        (GROUP, "unprivileged_bpf_disabled", "kernel.unprivileged_bpf_disabled"),
        State::NotNeeded,
        format!(
            "{}; what prof loads needs capabilities anyway",
            sysctl("unprivileged_bpf_disabled")
        ),
    )
}

fn paranoid(p: &Privileges) -> Check {
    let what = (GROUP, "perf_event_paranoid", "kernel.perf_event_paranoid");
    let value = sysctl("perf_event_paranoid");
    if p.initial_user_ns && (p.has("CAP_PERFMON") || p.has("CAP_SYS_ADMIN")) {
        let detail = format!("{value}; does not apply with CAP_PERFMON");
        return Check::new(what, State::NotNeeded, detail);
    }
    let allow = "sudo sysctl kernel.perf_event_paranoid=1";
    match value.parse::<i32>() {
        Ok(..=1) => Check::new(what, State::Works, format!("{value}: own commands can be counted")),
        Ok(2) => Check::new(
            what,
            State::Limited,
            "2: user mode only, so prof run takes the figures from wait4, without cpu-migrations",
        )
        .cure(allow),
        Ok(_) => Check::new(
            what,
            State::Limited,
            format!("{value}: no perf events, so prof run takes the figures from wait4"),
        )
        .cure(allow),
        Err(_) => Check::new(what, State::Limited, format!("{value}: no perf events"))
            .cure("a kernel with CONFIG_PERF_EVENTS=y"),
    }
}

/// Executables of processes that were there before prof: of other users' only with
/// more than the minimum.
pub(super) fn executables(found: &mut Findings, p: &Privileges) {
    let what = ("Figures", "running_executables", "executables of processes that already run");
    if !p.suffice() {
        let detail = "of own processes only, and without hooks no others are profiled";
        found.add(Check::new(what, State::NotNeeded, detail));
        return;
    }
    let (mut told, mut refused) = (0, 0);
    for (pid, _) in host::processes() {
        match fs::read_link(format!("/proc/{pid}/exe")) {
            Ok(_) => told += 1,
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => refused += 1,
            // A kernel thread, or gone meanwhile.
            Err(_) => {}
        }
    }
    let detail = match refused {
        0 => format!("of all {told}"),
        _ => format!("of {told}, not of {refused} (EACCES)"),
    };
    found.add(if refused == 0 || p.has("CAP_SYS_PTRACE") {
        Check::new(what, State::Works, detail)
    } else {
        let detail = format!(
            "{detail}: prof attach and --existing tell them without; of programs that are \
             executed later the kernel half tells it"
        );
        Check::new(what, State::Limited, detail).cure(cure_for_files(p))
    });
}

/// What to do when something cannot be read that is root's, or another user's.
pub(super) fn cure_for_files(p: &Privileges) -> String {
    if p.suffice() { grant_all() } else { p.cure() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(capabilities: &[&'static str]) -> Privileges {
        Privileges {
            uid: 1000,
            capabilities: capabilities.to_vec(),
            initial_user_ns: true,
            initial_pid_ns: true,
            seccomp: false,
            from_file: false,
        }
    }

    #[test]
    fn capabilities_of_a_status_file() {
        let status = "Name:\tprof\nCapPrm:\t0000000000000000\nCapEff:\t000000c000000000\n\
                      Seccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(cap_eff(status), Some(0xc0_0000_0000));
        assert_eq!(names_of(0xc0_0000_0000), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(field(status, "Seccomp"), Some("2"));
        assert_eq!(cap_eff("CapEff:\tzz\n"), None);
        assert_eq!(cap_eff(""), None);
    }

    #[test]
    fn a_cure_can_be_pasted() {
        assert_eq!(quoted("/usr/bin/prof-0.1_x"), "/usr/bin/prof-0.1_x");
        assert_eq!(quoted("/a b/it's"), r"'/a b/it'\''s'");
    }

    #[test]
    fn the_word_in_brackets() {
        assert_eq!(chosen_word("none [integrity] confidentiality\n"), Some("integrity"));
        assert_eq!(chosen_word("none"), None);
    }

    #[test]
    fn one_of_the_two_capabilities_is_not_enough() {
        assert!(!with(&["CAP_BPF"]).suffice());
        assert!(!with(&["CAP_PERFMON"]).suffice());
        assert!(with(&["CAP_BPF", "CAP_PERFMON"]).suffice());
        assert!(with(&["CAP_SYS_ADMIN"]).suffice());
        assert!(!Privileges { initial_user_ns: false, ..with(&["CAP_SYS_ADMIN"]) }.suffice());
    }

    #[test]
    fn the_cure_is_for_what_is_in_the_way() {
        assert!(with(&[]).cure().contains("setcap cap_bpf,cap_perfmon+ep"));
        let all = ["CAP_BPF", "CAP_PERFMON"];
        assert!(Privileges { seccomp: true, ..with(&all) }.cure().contains("seccomp"));
        assert!(with(&all).cure().contains("lockdown"));
        let inside = Privileges { initial_user_ns: false, ..with(&all) };
        assert!(inside.cure().contains("--userns=host"));
    }
}
