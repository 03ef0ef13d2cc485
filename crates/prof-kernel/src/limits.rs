//! The limit of open files: prof holds many, and the commands that it starts get what its
//! caller had.

use std::io;
use std::sync::OnceLock;

use rustix::process::Resource;
use rustix::process::Rlimit;

/// As the caller had it.
static CALLERS: OnceLock<Rlimit> = OnceLock::new();

/// Raises it as far as may be: an event takes one on each CPU, and the files of programs
/// are held.
pub fn raise() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    CALLERS.get_or_init(|| limit);
    // Where not, there are as many as before.
    let raised = Rlimit { current: limit.maximum, ..limit };
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
}

/// What a command is to have; `None`: it has it already.
pub(crate) fn callers() -> Option<libc::rlimit> {
    let number = |n: Option<u64>| n.unwrap_or(libc::RLIM_INFINITY);
    let limit = CALLERS.get()?;
    Some(libc::rlimit { rlim_cur: number(limit.current), rlim_max: number(limit.maximum) })
}

/// Whether this is for want of it, so that doing with less would have another cause.
pub fn is_out_of_files(e: &anyhow::Error) -> bool {
    let errors = e.chain().filter_map(|e| e.downcast_ref::<io::Error>());
    errors.into_iter().any(|e| matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)))
}
