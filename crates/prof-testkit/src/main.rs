//! A target for a process profiler: each subcommand is one behaviour that has to be measured right.
//!
//! Facts to compare with go to standard output, one `key=value` a line.

mod act;
mod args;
mod children;
mod compat;
mod cpu;
mod error;
mod exec;
mod exit;
mod file_io;
mod link;
mod memory;
mod namespaces;
mod perf;
mod pingpong;
mod regions;
mod report;
mod storm;
mod sys;
mod threads;

use std::env;
use std::io::Write;
use std::process::ExitCode;

use args::Args;
use error::{Error, Result};

type Run = fn(Args) -> Result<()>;

/// Name, arguments, what it does, and the function that does it.
const COMMANDS: &[(&str, &str, &str, Run)] = &[
    ("exit", "CODE", "exit with CODE", exit::exit),
    ("kill", "SIGNAL [--core]", "die of SIGNAL, with a core file allowed or not", exit::kill),
    ("burn", "MS", "use MS ms of CPU time", cpu::burn),
    (
        "deep",
        "FRAMES N",
        "N times around a loop of 10 instructions, at the end of FRAMES calls",
        cpu::deep,
    ),
    ("loop", "N", "go N times around a loop of 10 instructions", cpu::count_down),
    ("sleep", "MS", "sleep MS ms", cpu::sleep),
    ("switches", "N", "make N voluntary context switches", cpu::switches),
    ("faults", "N", "touch N new pages once each", memory::faults),
    ("rss", "MIB [HOLD_MS]", "touch MIB MiB, then free them", memory::rss),
    (
        "io",
        "READ_BYTES WRITE_BYTES PATH [--fsync] [--cold]",
        "write to and read from PATH, 64 KiB a call",
        file_io::io,
    ),
    ("fork", "CMD...", "fork + execve", exec::fork),
    ("vfork", "CMD...", "vfork + execve", exec::vfork),
    ("spawn", "CMD...", "posix_spawn", exec::spawn),
    ("reexec", "N", "execute itself N times in place", exec::reexec),
    ("setname", "NAME", "rename itself a few times", exec::setname),
    ("failed-exec", "N", "fail to execute N times in each of three ways", exec::failed_exec),
    (
        "die-in-exec",
        "DIR",
        "run a program that the kernel cannot load and kills, kept in DIR",
        exec::die_in_exec,
    ),
    (
        "threads",
        "N [MS] [--faults PAGES]",
        "N threads at once, MS ms of CPU time in all, each touches PAGES new pages",
        threads::threads,
    ),
    (
        "exec-from-thread",
        "[--late] CMD...",
        "execve from a thread that is not the leader; late: after 300 ms of CPU time and 2 s",
        threads::exec_from_thread,
    ),
    (
        "leader-exits-first",
        "MS",
        "the leader exits, another thread uses MS ms of CPU time",
        threads::leader_exits_first,
    ),
    (
        "orphan",
        "[--outlive] CMD...",
        "a grandchild runs CMD after its parent (and this process) has ended",
        children::orphan,
    ),
    ("zombie", "MS", "leave a child unreaped for MS ms", children::zombie),
    ("linger-fd", "MS", "exit; a child keeps standard output open for MS ms", children::linger_fd),
    ("pid-reuse", "[CMD...]", "run CMD twice under the same pid", children::pid_reuse),
    ("pidns", "CMD...", "run CMD as pid 1 of a new pid namespace", namespaces::pidns),
    ("cgroup", "PATH CMD...", "execve in the cgroup at PATH, made if missing", namespaces::cgroup),
    (
        "storm",
        "N [--jobs J] [--vfork]",
        "run N short processes from J parallel workers",
        storm::storm,
    ),
    (
        "herd",
        "N MS",
        "run N processes at once that sleep MS ms; they end with this one",
        storm::herd,
    ),
    (
        "regions",
        "N MS",
        "N times a region outer with a region inner in it, each using MS ms of CPU time of its own",
        regions::regions,
    ),
    (
        "selfswitch",
        "MS",
        "switch its own profiling off, use MS ms of CPU time, switch it on, use MS ms more",
        regions::selfswitch,
    ),
    (
        "act",
        "STEP...",
        "in order: begin NAME, end, pairs N NAME, enable, disable, faults N, burn MS, sleep MS, \
         times N [ STEP... ], threads N [ STEP... ], both [ STEP... ] [ STEP... ], fork [ STEP... ], exit CODE, exec CMD...",
        act::act,
    ),
    (
        "pingpong",
        "N [--cpu CPU] [--faults PAGES] [--attended]",
        "N round trips of a byte to `pong` and back, which touches PAGES new pages in each",
        pingpong::pingpong,
    ),
    (
        "pong",
        "[--faults PAGES]",
        "the other side of `pingpong`, on standard input and output",
        pingpong::pong,
    ),
    (
        "perf",
        "STEP...",
        "open, open-off, open-at-exec, member (of the last), enable, disable, reset, enable-group, \
         disable-group, ioctl REQUEST, prctl-off, prctl-on, wide-prctl-off, wide-prctl-on, dup, \
         close, close-range, child SECONDS, sleep MS: perf events on itself; sampling, set-bpf; open-of PID; open32, \
         enable32, disable32, close32: as a 32-bit program",
        perf::perf,
    ),
    (
        "bpf-pin",
        "PATH MS",
        "attach a BPF program by a link that only PATH keeps; remove that after MS ms",
        link::pin,
    ),
    (
        "bpf-multi",
        "WHAT N",
        "a BPF link for a moment, to one or two functions of the kernel (kprobe, kretprobe) or \
         places of this program (uprobe, uretprobe; -self: in this process)",
        link::multi,
    ),
    (
        "perf-hold",
        "MS",
        "exit at once; a child holds the descriptor of an event of the first CPU for MS ms",
        perf::hold,
    ),
    ("perf-storm", "N SECONDS", "open and close N perf events in so many seconds", perf::storm),
    ("syscalls", "N", "N calls each of ioctl, prctl, getppid and close: ns of one", perf::syscalls),
    ("now", "", "tell the time of the monotonic clock, before anything else", cpu::now),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("prof-target: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<()> {
    // The runtime ignores the first, the caller may ignore the second; neither may be passed on.
    sys::default_signal(libc::SIGPIPE)?;
    sys::default_signal(libc::SIGCHLD)?;

    let mut arguments = env::args_os().skip(1);
    let Some(name) = arguments.next() else {
        return Err(Error::new("missing subcommand; see --help"));
    };
    if name == "--help" || name == "-h" {
        return help();
    }
    let (_, _, _, command) = COMMANDS
        .iter()
        .find(|(known, ..)| name == *known)
        .ok_or_else(|| Error::new(format!("unknown subcommand {}", name.display())))?;
    command(Args::new(arguments))
}

fn help() -> Result<()> {
    let mut text = String::from("Usage: prof-target SUBCOMMAND ...\n\n");
    for (name, arguments, about, _) in COMMANDS {
        text.push_str(&format!("  {name} {arguments}\n        {about}\n"));
    }
    text.push_str("\nCMD... may start with @self, which stands for this program.\n");
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| Error::io("standard output", &e))
}
