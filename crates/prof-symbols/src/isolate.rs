//! Work in a process of its own, with bounds for time, memory and what it answers.
//!
//! For libraries that may panic, abort, run away or touch a mapping whose file was cut
//! short. The child is a fork of the calling thread: it sees all memory as it was, and
//! answers through a pipe.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::panic;
use std::panic::AssertUnwindSafe;
use std::ptr::null_mut;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use rustix::mm::mmap;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::Signal;
use rustix::process::WaitOptions;

/// Exit status of a child whose work panicked.
const PANICKED: i32 = 101;

/// How long a child that was killed may take to go.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// What the work may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Until then it is killed.
    pub time: Duration,
    /// Bytes beyond what the parent has already; an allocation above fails, which
    /// aborts. Also the largest file it may write.
    pub memory: u64,
    /// Bytes that are taken from it.
    pub answer: usize,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, with this exit status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// Its time was up.
    Time(Duration),
    /// Its answer was too long.
    Answer,
}

impl End {
    /// What it means; `None` if all is well.
    pub fn why(self) -> Option<String> {
        Some(match self {
            Self::Exit(0) => return None,
            Self::Exit(PANICKED) => "its content confused the library that reads it".to_owned(),
            Self::Exit(status) => format!("what read it ended with {status}"),
            Self::Signal(libc::SIGABRT) => {
                "reading it needs too much memory, or confused the library that does".to_owned()
            }
            Self::Signal(libc::SIGBUS) => "it was cut short while it was read".to_owned(),
            Self::Signal(signal) => format!("what read it was killed by signal {signal}"),
            Self::Time(limit) => format!("reading it took longer than {limit:?}"),
            Self::Answer => "the names are too long altogether".to_owned(),
        })
    }
}

/// Has `work` done; what it wrote, and how it ended.
pub(crate) fn run(limits: &Limits, work: impl FnOnce(File)) -> io::Result<(Vec<u8>, End)> {
    let (from, to) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: the child only runs `child`, which does not return. Other threads do not
    // exist there; a lock of theirs that it waits for is a child that is killed when its
    // time is up. Allocators make themselves safe to fork.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(from);
            child(limits, work, to.into())
        }
        pid => {
            drop(to);
            parent(limits, from.into(), pid)
        }
    }
}

fn child(limits: &Limits, work: impl FnOnce(File), to: File) -> ! {
    // The parent takes the end of the pipe for the end of the child: not before it exits.
    let until_exit = to.try_clone();
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        // Whoever shows the profile has the terminal; the reason goes another way.
        panic::set_hook(Box::new(|_| {}));
        bound(limits);
        work(to);
    }));
    let status = if result.is_ok() { 0 } else { PANICKED };
    std::mem::forget(until_exit);
    // SAFETY: takes a number. Not `exit`: what the parent has buffered or registered to
    // be done at its end is the parent's.
    unsafe { libc::_exit(status) }
}

/// Bounds that hold even if the parent is gone. Each is a help; none is relied upon alone.
fn bound(limits: &Limits) {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
    {
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    let lower = |resource, to: u64| {
        let maximum = rustix::process::getrlimit(resource).maximum;
        let to = Some(maximum.map_or(to, |m| m.min(to)));
        let _ = rustix::process::setrlimit(resource, Rlimit { current: to, maximum: to });
    };
    // 1, not 0: with 0 a core handler behind a pipe is started nevertheless.
    lower(Resource::Core, 1);
    lower(Resource::Data, data_bytes().saturating_add(limits.memory));
    lower(Resource::Fsize, limits.memory);
    lower(Resource::Cpu, limits.time.as_secs() + 1);
}

/// Private memory of this process, as `RLIMIT_DATA` counts it.
fn data_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(5).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

/// A file as memory, for as long as this process lives. For what runs here: reading what
/// was cut off is a signal.
pub(crate) fn map(file: &File) -> io::Result<&'static [u8]> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if length == 0 {
        return Ok(&[]);
    }
    // SAFETY: a new mapping, which is never undone. Who writes to the file changes what is
    // read: bytes, of which any is a valid value, by readers that check what they say.
    unsafe {
        let at = mmap(null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, file, 0)?;
        Ok(std::slice::from_raw_parts(at.cast(), length))
    }
}

fn parent(limits: &Limits, from: File, pid: libc::pid_t) -> io::Result<(Vec<u8>, End)> {
    let Some(pid) = Pid::from_raw(pid) else {
        return Err(io::Error::other("fork gave no process id"));
    };
    let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
    let mut answer = Vec::new();
    let stopped = read(limits, from, ended.as_ref(), &mut answer);
    // After the end of the pipe nothing is to come; if it exits already, its status
    // stays.
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    let end = reap(pid, ended.as_ref())?;
    Ok((answer, stopped?.unwrap_or(end)))
}

/// Its end. Who reads a file on a server that is gone cannot be killed until that is
/// back: such a child is left to itself.
fn reap(pid: Pid, ended: Option<&OwnedFd>) -> io::Result<End> {
    if let Some(ended) = ended {
        let mut waiting = [PollFd::new(ended, PollFlags::IN)];
        while rustix::event::poll(&mut waiting, Some(&PATIENCE)) == Err(Errno::INTR) {}
        if waiting[0].revents().is_empty() {
            return Ok(End::Signal(libc::SIGKILL));
        }
    }
    loop {
        return match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Err(Errno::INTR) => continue,
            // Where SIGCHLD is ignored, nobody is told how children end.
            Err(Errno::CHILD) | Ok(None) => Ok(End::Exit(0)),
            Err(e) => Err(e.into()),
            Ok(Some((_, s))) if s.exited() => Ok(End::Exit(s.exit_status().unwrap_or(0))),
            Ok(Some((_, s))) => Ok(End::Signal(s.terminating_signal().unwrap_or(0))),
        };
    }
}

/// Reads to the end, or says what made an end of it. The end is that of the pipe or that
/// of the child: a child that another thread forks has the pipe, too, and may live longer.
fn read(
    limits: &Limits,
    mut from: File,
    ended: Option<&OwnedFd>,
    answer: &mut Vec<u8>,
) -> io::Result<Option<End>> {
    let begin = Instant::now();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Some(left) = limits.time.checked_sub(begin.elapsed()) else {
            return Ok(Some(End::Time(limits.time)));
        };
        let left = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut waiting = vec![PollFd::new(&from, PollFlags::IN)];
        waiting.extend(ended.map(|fd| PollFd::new(fd, PollFlags::IN)));
        match rustix::event::poll(&mut waiting, Some(&left)) {
            Ok(0) => return Ok(Some(End::Time(limits.time))),
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
            Ok(_) if waiting[0].revents().is_empty() => return Ok(None),
            Ok(_) => {}
        }
        match from.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(n) if answer.len() + n > limits.answer => return Ok(Some(End::Answer)),
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const LIMITS: Limits =
        Limits { time: Duration::from_secs(20), memory: 64 << 20, answer: 1 << 20 };

    #[test]
    fn what_it_writes_arrives() {
        let (answer, end) = run(&LIMITS, |mut to| to.write_all(&[7; 100_000]).unwrap()).unwrap();
        assert_eq!((answer, end), (vec![7; 100_000], End::Exit(0)));
    }

    #[test]
    fn a_panic_stays_there_and_what_came_before_is_kept() {
        let work = |mut to: File| {
            to.write_all(b"some").unwrap();
            panic!("on purpose");
        };
        assert_eq!(run(&LIMITS, work).unwrap(), (b"some".to_vec(), End::Exit(PANICKED)));
    }

    #[test]
    fn what_does_not_end_is_ended() {
        let limits = Limits { time: Duration::from_millis(200), ..LIMITS };
        let begin = Instant::now();
        let work = |mut to: File| {
            to.write_all(b"some").unwrap();
            loop {
                std::hint::spin_loop();
            }
        };
        let (answer, end) = run(&limits, work).unwrap();
        assert_eq!((answer, end), (b"some".to_vec(), End::Time(limits.time)));
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }

    #[test]
    fn too_much_memory_is_not_had() {
        let work = |mut to: File| {
            let half = vec![1_u8; 32 << 20];
            to.write_all(&half[..1]).unwrap();
            let more = vec![1_u8; 64 << 20];
            to.write_all(&more[..1]).unwrap();
        };
        assert_eq!(run(&LIMITS, work).unwrap(), (vec![1], End::Signal(libc::SIGABRT)));
    }

    #[test]
    fn an_endless_answer_is_cut() {
        let work = |mut to: File| while to.write_all(&[0; 4096]).is_ok() {};
        let (answer, end) = run(&LIMITS, work).unwrap();
        assert!(answer.len() <= LIMITS.answer);
        assert_eq!(end, End::Answer);
    }

    #[test]
    fn a_mapping_cut_short_ends_it_and_nobody_else() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let work = |_to| {
            let bytes = map(&file).unwrap();
            file.set_len(0).unwrap();
            std::process::exit(bytes[5000].into());
        };
        assert_eq!(run(&LIMITS, work).unwrap(), (Vec::new(), End::Signal(libc::SIGBUS)));
    }

    #[test]
    fn children_of_other_threads_are_not_waited_for() {
        let long = || {
            let limits = Limits { time: Duration::from_secs(3), ..LIMITS };
            let (_, end) = run(&limits, |_to| std::thread::sleep(Duration::from_secs(60))).unwrap();
            assert_eq!(end, End::Time(limits.time));
        };
        let many = || {
            let begin = Instant::now();
            for _ in 0..20 {
                assert_eq!(run(&LIMITS, |_to| {}).unwrap().1, End::Exit(0));
            }
            begin.elapsed()
        };
        std::thread::scope(|s| {
            let short = s.spawn(many);
            for _ in 0..4 {
                s.spawn(long);
            }
            let took = short.join().unwrap();
            assert!(took < Duration::from_secs(2), "{took:?}");
        });
    }
}
