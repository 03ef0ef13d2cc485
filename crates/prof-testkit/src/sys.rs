//! Thin, checked wrappers around system calls.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, fs, io, ptr};

use libc::{c_char, c_int, pid_t};

use crate::error::{Error, Result};

/// How this program names itself to `execve`.
pub const OWN_PATH: &CStr = c"/proc/self/exe";

/// Exit code of a child whose `execve` failed.
pub const EXEC_FAILED: c_int = 127;

/// Nanoseconds in a millisecond.
pub const NS_PER_MS: u64 = 1_000_000;

/// The calling process's pid.
pub fn pid() -> pid_t {
    // SAFETY: no preconditions.
    unsafe { libc::getpid() }
}

/// The pid of the calling process's parent.
pub fn parent_pid() -> pid_t {
    // SAFETY: no preconditions.
    unsafe { libc::getppid() }
}

/// The calling thread's tid.
pub fn tid() -> pid_t {
    // SAFETY: no preconditions.
    unsafe { libc::gettid() }
}

/// Turns the `-1` of a failed call into an error that names the call.
pub fn check(what: &str, result: c_int) -> Result<c_int> {
    if result == -1 { Err(Error::last_os(what)) } else { Ok(result) }
}

/// Reads a clock in nanoseconds.
pub fn clock_ns(clock: libc::clockid_t) -> Result<u64> {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `time` is valid for a write of a timespec.
    check("clock_gettime", unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it filled `time`.
    let time = unsafe { time.assume_init() };
    Ok(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
}

/// Sleeps without touching anything but the timer.
pub fn sleep_ns(ns: u64) {
    std::thread::sleep(std::time::Duration::from_nanos(ns));
}

/// `getrusage(RUSAGE_SELF)`.
pub fn rusage_self() -> Result<libc::rusage> {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: `usage` is valid for a write of a rusage.
    check("getrusage", unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it filled `usage`.
    Ok(unsafe { usage.assume_init() })
}

/// A timeval in microseconds.
pub fn timeval_us(time: &libc::timeval) -> u64 {
    time.tv_sec.cast_unsigned() * 1_000_000 + time.tv_usec.cast_unsigned()
}

/// Gives `signal` its default disposition back.
pub fn default_signal(signal: c_int) -> Result<()> {
    // SAFETY: `SIG_DFL` installs no code of ours.
    if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(Error::last_os("signal"));
    }
    Ok(())
}

/// Sets both limits on core files; with `None` the highest that is allowed.
pub fn set_core_limit(limit: Option<u64>) -> Result<u64> {
    let mut current = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `current` is valid for a write of an rlimit.
    check("getrlimit", unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut current) })?;
    let hard = current.rlim_max;
    let soft = match limit {
        Some(limit) => limit.min(hard),
        None => {
            let top = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: `top` is a valid rlimit.
            if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const top) } == 0 {
                return Ok(top.rlim_cur);
            }
            hard
        }
    };
    let wanted = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `wanted` is a valid rlimit.
    check("setrlimit", unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const wanted) })?;
    Ok(soft)
}

/// Ends the process at once, without running any exit handler.
pub fn exit_now(code: c_int) -> ! {
    // SAFETY: no preconditions; does not return.
    unsafe { libc::_exit(code) }
}

/// Forks; the child runs `body` and exits with the code it returns.
///
/// To be called only while the process has a single thread.
pub fn fork_child(body: impl FnOnce() -> c_int) -> Result<pid_t> {
    // SAFETY: the process has a single thread, so the child may go on using the library.
    let pid = check("fork", unsafe { libc::fork() })?;
    if pid == 0 {
        exit_now(body());
    }
    Ok(pid)
}

/// Has the kernel kill the calling process when `parent`, which forked it, ends; kept over exec.
pub fn die_with_parent(parent: pid_t) -> Result<()> {
    // SAFETY: no preconditions.
    check("prctl", unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // It may have ended before the call.
    if parent_pid() == parent { Ok(()) } else { Err(Error::new("the parent has ended")) }
}

/// Makes standard output lead nowhere.
pub fn silence_stdout() -> Result<()> {
    let null = fs::File::options()
        .write(true)
        .open("/dev/null")
        .map_err(|e| Error::io("/dev/null", &e))?;
    // SAFETY: both are open descriptors.
    check("dup2", unsafe { libc::dup2(null.as_raw_fd(), libc::STDOUT_FILENO) }).map(drop)
}

/// Keeps the calling thread, and what it starts, on one CPU.
pub fn pin_to(cpu: u64) -> Result<()> {
    let cpu = usize::try_from(cpu).map_err(|_| Error::new("CPU too large"))?;
    // SAFETY: all zeros is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(Error::new("CPU too large"));
    }
    // SAFETY: `cpu` is within the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: `set` is valid for a read of `size` bytes.
    let result = unsafe { libc::sched_setaffinity(0, size, &raw const set) };
    check("sched_setaffinity", result).map(drop)
}

/// Makes `fd` standard input or output, under that number also after an exec.
pub fn become_standard(fd: &impl AsRawFd, standard: c_int) -> Result<()> {
    // SAFETY: takes numbers only; `fd` is open.
    check("dup2", unsafe { libc::dup2(fd.as_raw_fd(), standard) }).map(drop)
}

/// A duplicate of standard input, without a buffer.
pub fn standard_input() -> Result<fs::File> {
    let fd = io::stdin().as_fd().try_clone_to_owned();
    fd.map(fs::File::from).map_err(|e| Error::io("standard input", &e))
}

/// A duplicate of standard output, without a buffer.
pub fn standard_output() -> Result<fs::File> {
    let fd = io::stdout().as_fd().try_clone_to_owned();
    fd.map(fs::File::from).map_err(|e| Error::io("standard output", &e))
}

/// Reaps `pid` and returns its raw wait status.
pub fn wait_for(pid: pid_t) -> Result<c_int> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is valid for a write.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(Error::io("waitpid", &error));
        }
    }
}

/// A program with its arguments and environment, ready for `execve` without further allocation.
pub struct Program {
    path: CString,
    argv: Strings,
    envp: Strings,
}

impl Program {
    /// The command given by a user: searched in `PATH` beforehand, so that exactly one `execve`
    /// follows; `@self` stands for this program.
    pub fn from_command(command: &[OsString]) -> Result<Self> {
        let name = command.first().ok_or_else(|| Error::new("missing command to execute"))?;
        let path = if name == "@self" { OWN_PATH.to_owned() } else { c_string(find(name)?)? };
        let argv = command.iter().map(|item| c_string(item.clone())).collect::<Result<_>>()?;
        Self::new(path, argv)
    }

    /// This program itself with `args`.
    pub fn own(args: &[&str]) -> Result<Self> {
        let argv = std::iter::once(&"prof-target")
            .chain(args)
            .map(|item| c_string(OsString::from(item)))
            .collect::<Result<_>>()?;
        Self::new(OWN_PATH.to_owned(), argv)
    }

    /// A program by its path, which is used as it is.
    pub fn from_path(path: &Path) -> Result<Self> {
        let path = c_string(path.to_owned().into_os_string())?;
        let argv = vec![path.clone()];
        Self::new(path, argv)
    }

    fn new(path: CString, argv: Vec<CString>) -> Result<Self> {
        let envp = env::vars_os()
            .map(|(key, value)| {
                let mut entry = key;
                entry.push("=");
                entry.push(value);
                c_string(entry)
            })
            .collect::<Result<_>>()?;
        Ok(Self { path, argv: Strings::new(argv), envp: Strings::new(envp) })
    }

    /// `execve`; returns only if that failed.
    pub fn exec(&self) -> io::Error {
        // SAFETY: path and both arrays are terminated and outlive the call.
        unsafe { libc::execve(self.path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        io::Error::last_os_error()
    }

    /// `execve`, as the last act of a forked child: complains and returns the exit code if it
    /// failed.
    pub fn exec_in_child(&self) -> c_int {
        eprintln!("prof-target: {}", self.exec_error(&self.exec()));
        EXEC_FAILED
    }

    /// Words the error of a failed `execve`.
    pub fn exec_error(&self, error: &io::Error) -> Error {
        Error::io(format_args!("execve {}", self.path.to_string_lossy()), error)
    }

    /// `fork` + `execve`.
    pub fn fork(&self) -> Result<pid_t> {
        fork_child(|| self.exec_in_child())
    }

    /// `vfork` + `execve`.
    pub fn vfork(&self) -> Result<pid_t> {
        // SAFETY: path and both arrays are terminated and outlive the call.
        let pid = unsafe { vfork_exec(self.path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        check("vfork", pid)
    }

    /// `posix_spawn`.
    pub fn spawn(&self) -> Result<pid_t> {
        let mut pid = 0;
        // SAFETY: path and both arrays are terminated and outlive the call, null stands for
        // default actions and attributes, and `pid` is valid for a write.
        let error = unsafe {
            libc::posix_spawn(
                &raw mut pid,
                self.path.as_ptr(),
                ptr::null(),
                ptr::null(),
                self.argv.as_ptr().cast::<*mut c_char>(),
                self.envp.as_ptr().cast::<*mut c_char>(),
            )
        };
        match error {
            0 => Ok(pid),
            code => Err(Error::io("posix_spawn", &io::Error::from_raw_os_error(code))),
        }
    }
}

/// `vfork`, then `execve` in the child; returns what `vfork` returned to the parent.
///
/// The child runs on the parent's stack, so this function stays out of line, has no locals to
/// clobber, and its child does nothing but call `execve` and `_exit`.
///
/// # Safety
///
/// The pointers must be what `execve` expects.
#[inline(never)]
#[expect(deprecated, reason = "the very system call is what is to be exercised")]
unsafe fn vfork_exec(
    path: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> pid_t {
    // SAFETY: see above; the child never returns from this function.
    let pid = unsafe { libc::vfork() };
    if pid == 0 {
        // SAFETY: by the contract of this function.
        unsafe { libc::execve(path, argv, envp) };
        // SAFETY: no preconditions; does not return.
        unsafe { libc::_exit(EXEC_FAILED) };
    }
    pid
}

/// Strings and the null-terminated array of pointers to them.
struct Strings {
    pointers: Vec<*const c_char>,
    // Owns what `pointers` points to.
    _strings: Vec<CString>,
}

impl Strings {
    fn new(strings: Vec<CString>) -> Self {
        let pointers =
            strings.iter().map(|item| item.as_ptr()).chain(std::iter::once(ptr::null())).collect();
        Self { pointers, _strings: strings }
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

fn c_string(text: OsString) -> Result<CString> {
    CString::new(text.into_vec()).map_err(|_| Error::new("argument contains a null byte"))
}

fn find(name: &OsStr) -> Result<OsString> {
    if name.as_bytes().contains(&b'/') {
        return Ok(name.to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
        .map(PathBuf::into_os_string)
        .ok_or_else(|| Error::new(format!("{}: command not found", name.display())))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
