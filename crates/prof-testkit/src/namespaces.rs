//! Namespaces and control groups.

use std::fs;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::report::Facts;
use crate::sys::{self, Program};

/// `pidns CMD…`
pub fn pidns(args: Args) -> Result<()> {
    let program = Program::from_command(&args.command()?)?;
    // SAFETY: no preconditions; affects future children only.
    sys::check("unshare", unsafe { libc::unshare(libc::CLONE_NEWPID) })?;
    let child = sys::fork_child(|| {
        if sys::pid() == 1 {
            program.exec_in_child()
        } else {
            eprintln!("prof-target: the child is not pid 1");
            2
        }
    })?;
    let status = sys::wait_for(child)?;
    let mut facts = Facts::with_pid();
    facts.add("child_pid", child);
    facts.add_status("", status);
    facts.print()
}

/// `cgroup PATH CMD…`
pub fn cgroup(mut args: Args) -> Result<()> {
    let path = args.path("PATH")?;
    let program = Program::from_command(&args.command()?)?;
    fs::create_dir_all(&path).map_err(|e| Error::io(path.display(), &e))?;
    let procs = path.join("cgroup.procs");
    // Opened without creation: on anything but a cgroup file system this has to fail.
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(&procs)
        .map_err(|e| Error::io(procs.display(), &e))?;
    std::io::Write::write_all(&mut file, sys::pid().to_string().as_bytes())
        .map_err(|e| Error::io(procs.display(), &e))?;
    drop(file);
    let mut facts = Facts::with_pid();
    facts.add("cgroup", path.display());
    facts.print()?;
    Err(program.exec_error(&program.exec()))
}
