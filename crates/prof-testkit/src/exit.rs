//! Ways to end: an exit code, or a signal.

use std::mem::MaybeUninit;

use libc::c_int;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::report::Facts;
use crate::sys;

const SIGNALS: [(&str, c_int); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// `exit CODE`
pub fn exit(mut args: Args) -> Result<()> {
    let code = args.number("CODE")?;
    args.finish()?;
    match u8::try_from(code) {
        Ok(code) => std::process::exit(code.into()),
        Err(_) => Err(Error::new("CODE must be 0 to 255")),
    }
}

/// `kill SIGNAL [--core]`
pub fn kill(mut args: Args) -> Result<()> {
    let core = args.flag("--core");
    let name = args.text("SIGNAL")?;
    args.finish()?;
    let signal = name
        .to_str()
        .and_then(signal_number)
        .ok_or_else(|| Error::new(format!("unknown signal {}", name.display())))?;

    let limit = sys::set_core_limit(if core { None } else { Some(0) })?;
    if signal != libc::SIGKILL && signal != libc::SIGSTOP {
        // The runtime handles some, and the caller may have had others ignored or blocked.
        sys::default_signal(signal)?;
        unblock(signal)?;
    }
    let mut facts = Facts::with_pid();
    facts.add("signal", signal);
    facts.add("core_limit", limit);
    facts.print()?;

    // SAFETY: signalling oneself has no preconditions.
    sys::check("kill", unsafe { libc::kill(sys::pid(), signal) })?;
    let mut facts = Facts::new();
    facts.add("survived", 1);
    facts.print()
}

fn signal_number(name: &str) -> Option<c_int> {
    if let Ok(number) = name.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn unblock(signal: c_int) -> Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is valid for a write of a signal set.
    sys::check("sigemptyset", unsafe { libc::sigemptyset(set.as_mut_ptr()) })?;
    // SAFETY: `sigemptyset` initialised `set`.
    sys::check("sigaddset", unsafe { libc::sigaddset(set.as_mut_ptr(), signal) })?;
    // SAFETY: `set` is initialised, and null says that the old mask is not wanted.
    let result =
        unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut()) };
    sys::check("sigprocmask", result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(signal_number("SEGV"), Some(libc::SIGSEGV));
        assert_eq!(signal_number("sigterm"), Some(libc::SIGTERM));
        assert_eq!(signal_number("9"), Some(9));
        assert_eq!(signal_number("0"), None);
        assert_eq!(signal_number("65"), None);
        assert_eq!(signal_number("NOPE"), None);
    }
}
