//! `--control`: commands from outside while a session runs, in perf's protocol.
//!
//! A command is a line: `enable`, `disable`, `ping`, `snapshot`, `evlist`, `stop`. What
//! was done is answered with the line `ack`, what cannot be with `unsupported`, so that
//! nobody waits in vain or takes it for done. FIFOs are opened as perf opens them, for
//! both directions and without blocking, so neither side has to wait for the other.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::say::say;

/// What is answered.
const ACK: &[u8] = b"ack\n";
const UNSUPPORTED: &[u8] = b"unsupported\n";
/// A line longer than this is no command.
const LINE_MAX: usize = 4096;

/// Where commands come from, and where the answers go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// `fifo:CTL[,ACK]`
    Fifo {
        /// Commands.
        ctl: PathBuf,
        /// Answers.
        ack: Option<PathBuf>,
    },
    /// `fd:N[,M]`
    Fd {
        /// Commands.
        ctl: RawFd,
        /// Answers.
        ack: Option<RawFd>,
    },
}

impl Spec {
    /// Reads the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let usage = "write fifo:CTL[,ACK] or fd:N[,M]";
        let (kind, names) = text.split_once(':').ok_or(usage)?;
        let (ctl, ack) = match names.split_once(',') {
            Some((ctl, ack)) => (ctl, Some(ack)),
            None => (names, None),
        };
        if ctl.is_empty() || ack.is_some_and(str::is_empty) {
            return Err(format!("a name is missing: {usage}"));
        }
        match kind {
            "fifo" => Ok(Self::Fifo { ctl: ctl.into(), ack: ack.map(Into::into) }),
            "fd" => {
                let number = |s: &str| {
                    let n: Option<RawFd> = s.parse().ok().filter(|n| *n >= 0);
                    n.ok_or_else(|| format!("'{s}' is no file descriptor: {usage}"))
                };
                Ok(Self::Fd { ctl: number(ctl)?, ack: ack.map(number).transpose()? })
            }
            _ => Err(format!("'{kind}' is neither: {usage}")),
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Switch profiling on.
    Enable,
    /// Switch it off; what was measured stays.
    Disable,
    /// Answer.
    Ping,
    /// Tell the figures so far.
    Snapshot,
    /// List the events, and with it what is said of each.
    Evlist(Evlist),
    /// End the session.
    Stop,
}

/// How events are listed, as by `perf evlist`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evlist {
    /// Names.
    Names,
    /// `-v`: what was opened.
    Verbose,
    /// `-g`: groups in braces.
    Groups,
    /// `-F`: how often samples are taken.
    Freq,
}

/// A line that is no command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown(String);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "control: '{}' is not supported; the commands are enable and disable, for all events \
             together, ping, snapshot, evlist [-v|-g|-F], and stop",
            self.0
        )
    }
}

impl Command {
    fn parse(line: &[u8]) -> Result<Self, Unknown> {
        let text = String::from_utf8_lossy(line);
        let mut words = text.split_ascii_whitespace();
        let command = match words.next() {
            Some("enable") => Self::Enable,
            Some("disable") => Self::Disable,
            Some("ping") => Self::Ping,
            Some("snapshot") => Self::Snapshot,
            Some("evlist") => Self::Evlist(match words.next() {
                None => Evlist::Names,
                Some("-v") => Evlist::Verbose,
                Some("-g") => Evlist::Groups,
                Some("-F") => Evlist::Freq,
                Some(_) => return Err(unknown(line)),
            }),
            Some("stop") => Self::Stop,
            _ => return Err(unknown(line)),
        };
        match words.next() {
            None => Ok(command),
            Some(_) => Err(unknown(line)),
        }
    }
}

/// With no more of it than is needed to know it.
fn unknown(line: &[u8]) -> Unknown {
    Unknown(prof_model::text::for_terminal(&line[..line.len().min(60)]))
}

/// Puts lines together from what comes.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
    /// The line that comes is too long: the rest of it is passed over.
    skipping: bool,
}

impl Lines {
    /// The commands that end in `bytes`. perf ends them with a NUL as well.
    fn push(&mut self, bytes: &[u8]) -> Vec<Result<Command, Unknown>> {
        let mut commands = Vec::new();
        for &byte in bytes {
            if byte != b'\n' && byte != 0 {
                if self.begun.len() < LINE_MAX {
                    self.begun.push(byte);
                } else {
                    self.skipping = true;
                }
                continue;
            }
            let line = std::mem::take(&mut self.begun);
            if std::mem::take(&mut self.skipping) {
                commands.push(Err(unknown(&line)));
            } else if !line.trim_ascii().is_empty() {
                commands.push(Command::parse(&line));
            }
        }
        commands
    }
}

/// An open control channel.
#[derive(Debug)]
pub struct Control {
    /// `None` when nobody can write to it any more.
    ctl: Option<OwnedFd>,
    ack: Option<OwnedFd>,
    lines: Lines,
}

impl Control {
    /// Opens it.
    pub fn open(spec: &Spec) -> Result<Self> {
        let (ctl, ack) = match spec {
            Spec::Fifo { ctl, ack } => {
                (open_fifo(ctl)?, ack.as_deref().map(open_fifo).transpose()?)
            }
            Spec::Fd { ctl, ack } => (duplicate(*ctl)?, ack.map(duplicate).transpose()?),
        };
        Ok(Self { ctl: Some(ctl), ack, lines: Lines::default() })
    }

    /// Readable when there is something to [`receive`](Self::receive).
    pub fn as_poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.ctl.as_ref().map(|fd| fd.as_fd())
    }

    /// The commands that have come; does not wait.
    pub fn receive(&mut self) -> Result<Vec<Result<Command, Unknown>>> {
        let mut commands = Vec::new();
        let mut bytes = [0; 512];
        // A writer that never stops does not keep us here.
        for _ in 0..16 {
            let Some(ctl) = &self.ctl else { break };
            if !is_ready(ctl.as_fd(), PollFlags::IN)? {
                break;
            }
            match rustix::io::read(ctl, &mut bytes) {
                Ok(0) => self.ctl = None,
                Ok(n) => commands.extend(self.lines.push(&bytes[..n])),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => break,
                Err(e) => return Err(e).context("reading commands (--control)"),
            }
        }
        Ok(commands)
    }

    /// Answers that it is done.
    pub fn acknowledge(&mut self) {
        self.answer(ACK);
    }

    /// Answers that it cannot be done.
    pub fn refuse(&mut self) {
        self.answer(UNSUPPORTED);
    }

    /// An answer that nobody takes is given up.
    fn answer(&mut self, answer: &[u8]) {
        let Some(ack) = &self.ack else { return };
        let done = match is_ready(ack.as_fd(), PollFlags::OUT) {
            Ok(true) => rustix::io::write(ack, answer).map(drop).map_err(io::Error::from),
            Ok(false) => Err(io::Error::new(io::ErrorKind::WouldBlock, "nobody reads")),
            Err(e) => Err(e.into()),
        };
        if let Err(e) = done {
            say!("prof: warning: control: no answer could be given: {e}");
        }
    }
}

fn is_ready(fd: BorrowedFd<'_>, what: PollFlags) -> rustix::io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd, what)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&now)) {
        Ok(n) => Ok(n > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e),
    }
}

fn open_fifo(path: &Path) -> Result<OwnedFd> {
    let kind = fs::metadata(path).with_context(|| format!("--control {}", path.display()))?;
    if !kind.file_type().is_fifo() {
        bail!("--control {}: is no FIFO (mkfifo makes one)", path.display());
    }
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .with_context(|| format!("--control {}", path.display()))
}

/// A descriptor of our own for what was inherited under this number. The command may
/// inherit that as well: a program can so switch its own profiling.
fn duplicate(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: it is borrowed for this call only, and a number that is not open makes
    // the call fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_dupfd_cloexec(borrowed, 3)
        .with_context(|| format!("--control: file descriptor {fd}"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn options_name_fifos_or_descriptors() {
        let fifo =
            |ctl: &str, ack: Option<&str>| Spec::Fifo { ctl: ctl.into(), ack: ack.map(Into::into) };
        assert_eq!(Spec::parse("fifo:/tmp/c,/tmp/a"), Ok(fifo("/tmp/c", Some("/tmp/a"))));
        assert_eq!(Spec::parse("fifo:c:d"), Ok(fifo("c:d", None)));
        assert_eq!(Spec::parse("fd:10,11"), Ok(Spec::Fd { ctl: 10, ack: Some(11) }));
        assert_eq!(Spec::parse("fd:0"), Ok(Spec::Fd { ctl: 0, ack: None }));
        for wrong in ["", "fifo", "fifo:", "fifo:a,", "fd:-1", "fd:x", "fd:1,", "pipe:3"] {
            let e = Spec::parse(wrong).unwrap_err();
            assert!(e.contains("fifo:CTL[,ACK]"), "{wrong}: {e}");
        }
    }

    fn all(lines: &mut Lines, bytes: &[u8]) -> Vec<Option<Command>> {
        lines.push(bytes).into_iter().map(Result::ok).collect()
    }

    #[test]
    fn lines_are_commands_whatever_pieces_they_come_in() {
        use Command::*;
        let text =
            b"enable\n disable \r\nping\n\n\0snapshot\0evlist -v\nstop\nenabled\nenable cycles\n";
        let want = [Enable, Disable, Ping, Snapshot, Evlist(super::Evlist::Verbose), Stop]
            .map(Some)
            .into_iter()
            .chain([None; 2]);
        let want: Vec<_> = want.collect();
        assert_eq!(all(&mut Lines::default(), text), want);
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let pieces = text.chunks(size).flat_map(|c| all(&mut lines, c));
            assert_eq!(pieces.collect::<Vec<_>>(), want, "pieces of {size}");
        }
    }

    #[test]
    fn events_are_listed_in_the_ways_of_perf() {
        let how = |line: &str| Command::parse(line.as_bytes()).ok();
        assert_eq!(how("evlist"), Some(Command::Evlist(Evlist::Names)));
        assert_eq!(how("evlist -g"), Some(Command::Evlist(Evlist::Groups)));
        assert_eq!(how("evlist -F"), Some(Command::Evlist(Evlist::Freq)));
        assert_eq!(how("evlist -x").or(how("evlist cycles")).or(how("disable cycles")), None);
    }

    #[test]
    fn a_line_without_end_takes_no_memory_and_what_follows_is_read() {
        let mut lines = Lines::default();
        for _ in 0..100 {
            assert_eq!(lines.push(&[b'e'; 1000]), []);
            assert!(lines.begun.len() <= LINE_MAX);
        }
        assert_eq!(all(&mut lines, b"\nping\n"), [None, Some(Command::Ping)]);
    }

    #[test]
    fn what_is_unknown_does_no_harm_to_a_terminal() {
        let e = Command::parse(b"\x1b[2Jx").unwrap_err().to_string();
        assert!(!e.contains('\x1b') && e.contains("not supported"), "{e}");
        let e = Command::parse(&[b'x'; 4000]).unwrap_err().to_string();
        assert!(e.len() < 300);
    }

    #[test]
    fn commands_and_answers_over_descriptors() {
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        let (answers, ack) = rustix::pipe::pipe().unwrap();
        let spec = Spec::Fd { ctl: ours.as_raw_fd(), ack: Some(ack.as_raw_fd()) };
        let mut control = Control::open(&spec).unwrap();
        assert_eq!(control.receive().unwrap(), []);
        rustix::io::write(&theirs, b"ping\nsto").unwrap();
        assert_eq!(control.receive().unwrap(), [Ok(Command::Ping)]);
        control.acknowledge();
        let mut answer = [0; 16];
        assert_eq!(rustix::io::read(&answers, &mut answer).unwrap(), ACK.len());
        assert_eq!(&answer[..ACK.len()], ACK);
        control.refuse();
        assert_eq!(rustix::io::read(&answers, &mut answer).unwrap(), UNSUPPORTED.len());
        rustix::io::write(&theirs, b"p\n").unwrap();
        drop(theirs);
        // The last words are read, and then it is closed for good.
        assert_eq!(control.receive().unwrap(), [Ok(Command::Stop)]);
        assert!(control.receive().unwrap().is_empty() && control.as_poll_fd().is_none());
    }

    #[test]
    fn what_is_not_open_or_no_fifo_is_an_error() {
        let e = Control::open(&Spec::Fd { ctl: 999_999, ack: None }).unwrap_err();
        assert!(format!("{e:#}").contains("999999"), "{e:#}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let open = || Control::open(&Spec::Fifo { ctl: file.clone(), ack: None });
        assert!(format!("{:#}", open().unwrap_err()).contains("No such file"));
        fs::write(&file, "ping\n").unwrap();
        assert!(open().unwrap_err().to_string().contains("mkfifo"));
    }
}
