//! Starting a command that waits, before its exec, until everything is ready.

use std::env;
use std::ffi::CString;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::ptr;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use object::LittleEndian;
use object::read::elf::FileHeader as _;
use object::read::elf::ProgramHeader as _;
use prof_model::text;
use rustix::process::Pid;
use rustix::process::WaitIdOptions;

use crate::limits;

/// A child that has been forked and waits to be told to execute its command.
#[derive(Debug)]
pub struct Waiting {
    pid: Pid,
    pidfd: OwnedFd,
    go: OwnedFd,
    error: OwnedFd,
    path: PathBuf,
}

/// How a command ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Wait status.
    pub status: i32,
    /// What the kernel accounted to it and to the children it waited for.
    pub usage: Usage,
}

/// The part of `rusage` that is of use: times in ns, sizes in bytes.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct Usage {
    pub user_ns: u64,
    pub system_ns: u64,
    pub max_rss: u64,
    pub min_flt: u64,
    pub maj_flt: u64,
    pub nvcsw: u64,
    pub nivcsw: u64,
}

/// Where the program is, as execvp would find it, so that a wrong name is told
/// before anything is set up.
pub fn find_program(name: &OsStr) -> Result<PathBuf> {
    if name.is_empty() {
        bail!("the command's name is empty");
    }
    let runnable = |p: &Path| {
        p.metadata().is_ok_and(|m| m.is_file())
            && rustix::fs::access(p, rustix::fs::Access::EXEC_OK).is_ok()
    };
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        if runnable(&path) {
            return Ok(path);
        }
        match path.metadata() {
            Err(e) => bail!("{}: {e}", path.display()),
            Ok(m) if m.is_dir() => bail!("{}: is a directory", path.display()),
            Ok(_) => bail!("{}: is not executable (chmod +x)", path.display()),
        }
    }
    let dirs = env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    for dir in env::split_paths(&dirs) {
        let candidate = dir.join(name);
        if runnable(&candidate) {
            return Ok(candidate);
        }
    }
    bail!("{}: command not found in PATH", name.to_string_lossy())
}

/// Forks a child that will execute the command when told.
///
/// SIGINT, SIGTERM and SIGHUP end it, but for those that are to be ignored, whatever
/// this process does with them. Must be called while the process has one thread.
pub fn fork_waiting(command: &[OsString], ignored: &[i32]) -> Result<Waiting> {
    let Some(name) = command.first() else { bail!("no command given") };
    let path = find_program(name)?;
    let c_path = CString::new(path.as_os_str().as_bytes())?;
    let args = command
        .iter()
        .map(|a| CString::new(a.as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .context("an argument with a NUL byte")?;
    let argv: Vec<_> = args.iter().map(|a| a.as_ptr()).chain([ptr::null()]).collect();
    // A script without an interpreter line is run by the shell, as execvp does.
    let shell = [c"/bin/sh".as_ptr(), c_path.as_ptr()];
    let sh_argv: Vec<_> = shell.into_iter().chain(argv[1..].iter().copied()).collect();
    let files = limits::callers();
    let (go_read, go) = pipe()?;
    let (error, error_write) = pipe()?;

    // SAFETY: the process has one thread, so the child may do what it likes; it
    // uses only async-signal-safe calls all the same.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: the pointers are to memory that the child has a copy of, the
        // lists end in null, and the descriptors are open.
        unsafe {
            libc::close(go.as_raw_fd());
            child(&go_read, &error_write, c_path.as_ptr(), &argv, &sh_argv, ignored, files)
        }
    }
    let Some(pid) = Pid::from_raw(pid) else {
        return Err(io::Error::last_os_error()).context("fork");
    };
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .context("pidfd of the command")?;
    Ok(Waiting { pid, pidfd, go, error, path })
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// # Safety
/// To be called in a forked child only; the pointers must be good there.
unsafe fn child(
    go: &OwnedFd,
    error: &OwnedFd,
    path: *const libc::c_char,
    argv: &[*const libc::c_char],
    sh_argv: &[*const libc::c_char],
    ignored: &[i32],
    files: Option<libc::rlimit>,
) -> ! {
    // SAFETY: plain system calls; see the caller.
    unsafe {
        // Rust ignores SIGPIPE, and that would be inherited.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            let ignore = ignored.contains(&signal);
            libc::signal(signal, if ignore { libc::SIG_IGN } else { libc::SIG_DFL });
        }
        if let Some(files) = files {
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files);
        }
        let mut byte = 0u8;
        // The other end closed without a byte: prof is gone, so is the command.
        if libc::read(go.as_raw_fd(), ptr::from_mut(&mut byte).cast(), 1) == 1 {
            libc::execv(path, argv.as_ptr());
            if *libc::__errno_location() == libc::ENOEXEC {
                libc::execv(c"/bin/sh".as_ptr(), sh_argv.as_ptr());
            }
            let errno = (*libc::__errno_location()).to_ne_bytes();
            libc::write(error.as_raw_fd(), errno.as_ptr().cast(), errno.len());
        }
        libc::_exit(127)
    }
}

impl Waiting {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// Where its program was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets it execute its command; comes back when that has happened.
    pub fn go(self) -> Result<Running> {
        rustix::io::write(&self.go, &[1]).context("the command is gone before it began")?;
        let mut errno = [0u8; 4];
        // Closed by a successful exec.
        let n = rustix::io::retry_on_intr(|| rustix::io::read(&self.error, &mut errno))?;
        if n == errno.len() {
            let error = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
            match interpreter_of(&self.path).filter(|_| is_of_interpreter(&error)) {
                Some(by) => bail!("{}: bad interpreter: {by}: {error}", self.path.display()),
                None => bail!("{}: {error}", self.path.display()),
            }
        }
        Ok(Running { pid: self.pid, pidfd: self.pidfd })
    }
}

/// Errors of an exec that need not be about the program, which was found to be one before.
fn is_of_interpreter(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EACCES | libc::ENOTDIR | libc::ELOOP))
}

/// What the kernel starts to run this program: what a script's first line names, or a
/// program's loader.
fn interpreter_of(path: &Path) -> Option<String> {
    let mut head = Vec::new();
    let program = std::fs::File::open(path).ok()?;
    program.take(INTERPRETER_WITHIN).read_to_end(&mut head).ok()?;
    let Some(line) = head.strip_prefix(b"#!") else {
        return loader_of(&head);
    };
    let line = line.split(|b| *b == b'\n').next()?;
    let (line, cure) = match line.strip_suffix(b"\r") {
        // The kernel takes it for a part of the name.
        Some(line) => (line, " (its line ends as on Windows: `dos2unix` or `sed -i 's/\\r$//'`)"),
        None => (line, ""),
    };
    let name = line.trim_ascii_start().split(|b| b" \t".contains(b)).next()?;
    Some(format!("{}{cure}", text::for_terminal(name)))
}

/// How far into a program the name of its loader is looked for.
const INTERPRETER_WITHIN: u64 = 64 << 10;

/// `PT_INTERP` of an ELF file that begins like this.
fn loader_of(head: &[u8]) -> Option<String> {
    let elf = object::elf::FileHeader64::<LittleEndian>::parse(head).ok()?;
    let endian = LittleEndian;
    let segments = elf.program_headers(endian, head).ok()?;
    let name = segments.iter().find_map(|s| s.interpreter(endian, head).ok().flatten())?;
    Some(text::for_terminal(name))
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Running {
    /// Readable when it has ended.
    pub fn as_poll_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Passes a signal on.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: takes numbers only.
        let ret = unsafe { libc::kill(self.pid.as_raw_nonzero().get(), signal) };
        if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Whether it has ended; it is not reaped by this.
    pub fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(
            rustix::process::waitid(rustix::process::WaitId::Pid(self.pid), options),
            Ok(Some(_))
        )
    }

    /// Waits for its end and reaps it.
    pub fn wait(self) -> io::Result<Ended> {
        let mut status = 0;
        // SAFETY: all zeroes is a value of rusage.
        let mut r: libc::rusage = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: both pointers are to live values of their types.
            let ret =
                unsafe { libc::wait4(self.pid.as_raw_nonzero().get(), &mut status, 0, &mut r) };
            if ret >= 0 {
                break;
            }
            let e = io::Error::last_os_error();
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(e);
            }
        }
        let ns = |t: libc::timeval| t.tv_sec as u64 * 1_000_000_000 + t.tv_usec as u64 * 1000;
        Ok(Ended {
            status,
            usage: Usage {
                user_ns: ns(r.ru_utime),
                system_ns: ns(r.ru_stime),
                max_rss: r.ru_maxrss as u64 * 1024,
                min_flt: r.ru_minflt as u64,
                maj_flt: r.ru_majflt as u64,
                nvcsw: r.ru_nvcsw as u64,
                nivcsw: r.ru_nivcsw as u64,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_would() {
        assert!(find_program(OsStr::new("sh")).is_ok());
        assert!(find_program(OsStr::new("/bin/sh")).is_ok());
        let e = find_program(OsStr::new("no-such-program-here")).unwrap_err().to_string();
        assert!(e.contains("not found"), "{e}");
        let e = find_program(OsStr::new("/etc/passwd")).unwrap_err().to_string();
        assert!(e.contains("not executable"), "{e}");
        let e = find_program(OsStr::new("")).unwrap_err().to_string();
        assert!(e.contains("is empty"), "{e}");
        let e = find_program(OsStr::new("/etc")).unwrap_err().to_string();
        assert!(e.contains("directory"), "{e}");
    }

    #[test]
    fn what_a_program_is_run_by_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let by = |bytes: &[u8]| {
            let file = dir.path().join("x");
            std::fs::write(&file, bytes).unwrap();
            interpreter_of(&file)
        };
        assert_eq!(by(b"#! /opt/py -u\nprint()\n").as_deref(), Some("/opt/py"));
        assert_eq!(by(b"#!/opt/\x1bpy").as_deref(), Some("/opt/\\x1bpy"));
        let dos = by(b"#!/bin/sh\r\nexit\r\n").unwrap();
        assert!(dos.starts_with("/bin/sh (") && dos.contains("dos2unix"), "{dos}");
        assert_eq!(by(b"echo\n"), None);
        assert_eq!(by(b"\x7fELF"), None);
        assert_eq!(interpreter_of(&dir.path().join("none")), None);
        if let Some(by) = interpreter_of(Path::new("/proc/self/exe")) {
            assert!(by.contains("/ld"), "{by}");
        }
    }
}
