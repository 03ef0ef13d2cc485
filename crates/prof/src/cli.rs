//! The command line.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::CommandFactory as _;
use clap::FromArgMatches as _;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;
use prof_export::AnyOutputSpec;
use prof_export::Format;
use prof_export::OutputSpec;
use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOutputSpec;
use prof_kernel::audit::hooks::Way;
use prof_kernel::host;
use prof_kernel::loader::NotPermitted;
use prof_kernel::sampler::Rate;
use prof_kernel::sampler::StackPlan;
use prof_kernel::sampler::off_cpu::OffCpu;
use prof_kernel::session::Backend;

use crate::attach;
use crate::audit;
use crate::control::Spec;
use crate::doctor;
use crate::events;
use crate::output;
use crate::record;
use crate::report;
use crate::run;
use crate::say::say;
use crate::watch;

/// Failed.
pub const FAILED: u8 = 1;
/// Bad usage.
pub const USAGE: u8 = 2;

/// A per-process profiler: switched on in the kernel when a process executes, and
/// off when it exits.
#[derive(Debug, Parser)]
#[command(
    name = "prof",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Examples:
  prof run -- make -j4                 what each process of a build cost
  prof run --by-exe -- make -j4        the same, by program
  prof watch -s comm=cc1               every cc1 on this host, as it comes and goes
  prof watch -s uid=1000 -o json:x.json --duration 10s
  prof attach 1234                     a process that already runs, from now on
  prof run -g -- ./server              where the time went, function by function
  prof run -o flamegraph:x.svg -- make all of it as a picture
  prof audit                           who profiles whom on this host
  prof run --off-cpu -- ./server       what it waited for, too, and who ended that
  prof doctor                          what works on this machine, and what would
                                       make the rest work"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command and show what it, and each process it starts, cost
    Run(RunArgs),
    /// Watch every process that a rule names, host-wide, however it was started
    Watch(WatchArgs),
    /// Profile processes that already run, from now on
    Attach(AttachArgs),
    /// Sample stacks and keep them in a file, to be shown later or elsewhere
    Record(RecordArgs),
    /// Show the stacks that `prof record` has kept
    Report(ReportArgs),
    /// Tell whenever anyone switches profiling on or off: who, whom, what, how long
    Audit(AuditArgs),
    /// List the events that can be counted
    Events(EventsArgs),
    /// Show what of this machine prof can use, and what would make the rest work
    Doctor(doctor::DoctorArgs),
}

/// How the hooks are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Hooks {
    /// The cheapest that this kernel has
    Auto,
    /// Tracepoints with typed arguments
    #[value(name = "tp_btf")]
    TpBtf,
    /// Tracepoints with raw arguments
    #[value(name = "raw_tp")]
    RawTp,
    /// Probes on the kernel's functions
    Kprobe,
}

impl Hooks {
    /// The backend, unless any will do.
    pub fn backend(self) -> Option<Backend> {
        match self {
            Hooks::Auto => None,
            Hooks::TpBtf => Some(Backend::TpBtf),
            Hooks::RawTp => Some(Backend::RawTp),
            Hooks::Kprobe => Some(Backend::Kprobe),
        }
    }
}

/// How an audit is told of what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuditHooks {
    /// The cheapest that this kernel has
    Auto,
    /// Trampolines at the kernel's functions for perf, links and ptrace
    Fentry,
    /// Probes on the same functions
    Kprobe,
    /// Tracepoints of system calls: all system calls of everybody take longer
    Tracepoint,
}

impl AuditHooks {
    /// The way, unless any will do.
    pub fn way(self) -> Option<Way> {
        match self {
            AuditHooks::Auto => None,
            AuditHooks::Fentry => Some(Way::Fentry),
            AuditHooks::Kprobe => Some(Way::Kprobe),
            AuditHooks::Tracepoint => Some(Way::Tracepoint),
        }
    }
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    /// Whether to colour what goes to `to`.
    pub fn on(self, to: &impl io::IsTerminal) -> bool {
        match self {
            Color::Auto => {
                let is_set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
                let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
                to.is_terminal() && !is_set("NO_COLOR") && !dumb
            }
            Color::Always => true,
            Color::Never => false,
        }
    }
}

/// Whether time off the CPU is all that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OffCpuMode {
    /// Beside samples
    Too,
    /// Nothing else
    Only,
}

const STACKS: &str = "Stacks";

/// Samples a second: no multiple of the system's ticks.
const DEFAULT_HZ: u64 = 997;

/// Rows of a summary, if nothing is said.
const DEFAULT_ROWS: usize = 30;

/// Most processes at once, if nothing is said, and as many as a kernel has.
pub const MAX_PROCESSES: u32 = 16_384;
const MOST_PROCESSES: i64 = 1 << 22;

/// How much of stacks is shown as text.
#[derive(Debug, Clone, Args)]
pub struct Tree {
    /// Levels of the call tree in `text`; 0 for all [default: 24 on a terminal, else all]
    #[arg(long, value_name = "N", help_heading = STACKS)]
    pub tree_depth: Option<usize>,

    /// Leave out what has less of all in the call tree in `text`, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, help_heading = STACKS,
          value_parser = percent)]
    pub percent_limit: f64,
}

/// Options that all verbs share which profile.
#[derive(Debug, Clone, Args)]
pub struct Shared {
    /// Events, in perf's syntax: `cycles,instructions:u`, `{a,b}`, `cpu/event=0x3c/`,
    /// `sched:sched_wakeup`; figures (`peak-rss`), metrics (`ipc`), `default`; a list
    /// that begins with `+` or `-` changes the default: `+cycles,ipc` adds both, `-name`
    /// leaves out; see `prof events`
    #[arg(short, long, value_name = "LIST", allow_hyphen_values = true)]
    pub events: Vec<String>,

    /// Count only hits of the tracepoints in the -e before it for which this holds, as in
    /// `prio < 100`
    #[arg(long, value_name = "FILTER", requires = "events")]
    pub filter: Vec<String>,

    /// Of each filter, how many lists stand before it.
    #[arg(skip)]
    pub lists_before: Vec<usize>,

    /// Leave out events that this machine does not have instead of stopping
    #[arg(long)]
    pub keep_going: bool,

    /// Output, FORMAT[:FILE]: table, summary, json or tracee; of stacks: text, folded,
    /// flamegraph (.svg or .html), pprof, firefox, speedscope, perfdata, or raw for
    /// `prof report`; may be repeated
    #[arg(short, long, value_name = "FORMAT[:FILE]", value_parser = output)]
    pub output: Vec<AnyOutputSpec>,

    /// How to attach to the kernel
    #[arg(long, value_enum, default_value_t = Hooks::Auto)]
    pub hooks: Hooks,

    /// BTF of the running kernel, if it is not at /sys/kernel/btf/vmlinux
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,

    /// Stop after this time (10s, 2m, 500ms)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,

    /// Show the figures so far every MS milliseconds; at least 10
    #[arg(short = 'I', long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=86_400_000))]
    pub interval: Option<u64>,

    /// Take commands while it runs, fifo:CTL[,ACK] or fd:N[,M], as perf does: a line
    /// each of enable, disable, ping, snapshot, evlist, stop, answered with `ack`
    #[arg(long, value_name = "WHERE", value_parser = Spec::parse)]
    pub control: Option<Spec>,

    /// Begin switched off, and switch on after MS milliseconds; -1: when --control says
    #[arg(short = 'D', long, value_name = "MS", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..=86_400_000))]
    pub delay: Option<i64>,

    /// Sample stacks: where the time went, in the functions of the programs and of the
    /// kernel. Implied by an output of stacks (text, folded, flamegraph, pprof, firefox,
    /// speedscope, perfdata), and by the options that follow
    #[arg(short = 'g', long, help_heading = STACKS)]
    pub stacks: bool,

    /// Samples a second of each CPU that is busy with what is profiled [default: 997]
    #[arg(short = 'F', long, value_name = "HZ", help_heading = STACKS, conflicts_with = "count",
          value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub freq: Option<u64>,

    /// A sample for each N events of --by, or nanoseconds of the timer (10000 or more), instead
    /// of --freq
    #[arg(short = 'c', long, value_name = "N", help_heading = STACKS,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Events that samples go by, in perf's syntax, instead of a timer: `cycles`,
    /// `page-faults`, `cache-misses:u`, `cpu-clock,page-faults`, or tracepoints, each hit:
    /// `sched:sched_wakeup`; with --count or --freq, or `page-faults/period=10/` for one of
    /// them. Repeatable
    #[arg(long, value_name = "EVENT", help_heading = STACKS)]
    pub by: Vec<String>,

    /// Time off the CPU, too: blocked or waiting for a CPU, with the stack that left it, for
    /// how long, and who ended it; `only`: without samples of the time on it
    #[arg(long, value_enum, value_name = "only", help_heading = STACKS, num_args = 0..=1,
          require_equals = true, default_missing_value = "too", hide_possible_values = true)]
    pub off_cpu: Option<OffCpuMode>,

    /// With --off-cpu, leave out shorter times (10us, 1ms)
    #[arg(long, value_name = "TIME", help_heading = STACKS, value_parser = duration)]
    pub off_cpu_min: Option<Duration>,

    /// Frames of a stack, of the program and of the kernel each
    #[arg(long, value_name = "N", help_heading = STACKS, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub max_depth: Option<u32>,

    /// Only the programs' part of the stacks
    #[arg(long, help_heading = STACKS, conflicts_with = "kernel")]
    pub user: bool,

    /// Only the kernel's part of the stacks
    #[arg(long, help_heading = STACKS)]
    pub kernel: bool,

    /// Ask the servers in $DEBUGINFOD_URLS for debug files that are not here
    #[arg(long, help_heading = STACKS)]
    pub debuginfod: bool,

    /// How much is shown.
    #[command(flatten)]
    pub tree: Tree,

    /// Report each thread (in table and json)
    #[arg(long)]
    pub per_thread: bool,

    /// Do not report arguments: they can hold secrets
    #[arg(long)]
    pub no_args: bool,

    /// Do not attach to the probes by which programs name regions of their work
    #[arg(long)]
    pub no_regions: bool,

    /// Size of the buffer between kernel and prof (64K, 8M)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub buffer: Option<u32>,

    /// Most processes profiled at once
    #[arg(long, value_name = "N", default_value_t = MAX_PROCESSES, value_parser = clap::value_parser!(u32).range(1..=MOST_PROCESSES))]
    pub max_processes: u32,

    /// Do not keep the programs prepared for this kernel, and names of functions (in
    /// /var/cache/prof, or $PROF_CACHE_DIR), for the next time
    #[arg(long)]
    pub no_cache: bool,

    /// Colours
    #[arg(long, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,

    /// Rows of a summary, and of the heaviest functions in `text`; 0 for all [default: 30]
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,

    /// Sort the processes of a summary by an event or a metric instead of showing the tree
    #[arg(long, value_name = "EVENT")]
    pub sort: Option<String>,

    /// Group the processes of a summary by program
    #[arg(long, conflicts_with = "sort")]
    pub by_exe: bool,
}

impl Shared {
    /// Whether something is asked of the session while it runs.
    pub fn asks_while_it_runs(&self) -> bool {
        self.interval.is_some() || self.control.is_some() || self.delay.is_some()
    }

    /// Whether stacks are to be sampled.
    pub fn asks_for_stacks(&self) -> bool {
        self.stacks
            || self.output.iter().any(|o| !matches!(o, AnyOutputSpec::Records(_)))
            || self.user
            || self.kernel
            || self.freq.is_some()
            || self.count.is_some()
            || self.max_depth.is_some()
            || !self.by.is_empty()
            || self.debuginfod
            || self.asks_for_off_cpu()
    }

    fn asks_for_off_cpu(&self) -> bool {
        self.off_cpu.is_some() || self.off_cpu_min.is_some()
    }

    /// Time off the CPU, if it is asked for.
    fn off_cpu_plan(&self) -> Option<OffCpu> {
        let min_ns =
            self.off_cpu_min.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        let only = self.off_cpu == Some(OffCpuMode::Only);
        self.asks_for_off_cpu().then_some(OffCpu { min_ns, only })
    }

    /// What of them, by the timer.
    pub fn stack_plan(&self) -> StackPlan {
        let rate = match (self.count, self.freq) {
            (Some(n), _) => Rate::Period(n),
            (None, hz) => Rate::Hz(hz.unwrap_or(DEFAULT_HZ)),
        };
        let plan = StackPlan::clock(rate);
        StackPlan {
            max_depth: self.max_depth.unwrap_or(plan.max_depth),
            no_kernel: self.user,
            no_user: self.kernel,
            off_cpu: self.off_cpu_plan(),
            ..plan
        }
    }

    /// Most rows of what has rows.
    pub fn rows(&self) -> usize {
        match self.top {
            Some(0) => usize::MAX,
            Some(n) => n,
            None => DEFAULT_ROWS,
        }
    }

    /// What is wrong with options of a view that is not among the outputs; `default` is the
    /// output if none is asked for.
    fn without_view(&self, default: Format) -> Option<String> {
        let option = match (self.by_exe, &self.sort, self.top) {
            (true, ..) => "--by-exe",
            (_, Some(_), _) => "--sort",
            (.., Some(_)) => "--top",
            _ => return None,
        };
        let is_summary = |o: &AnyOutputSpec| {
            matches!(o, AnyOutputSpec::Records(OutputSpec { format: Format::Summary, .. }))
        };
        let is_text = |o: &AnyOutputSpec| matches!(o, AnyOutputSpec::Stacks(s) if s.format == StackFormat::Text);
        let only_records = self.output.iter().all(|o| matches!(o, AnyOutputSpec::Records(_)));
        let summary = self.output.is_empty() && default == Format::Summary
            || self.output.iter().any(is_summary);
        let text = self.output.iter().any(is_text) || self.asks_for_stacks() && only_records;
        if summary || option == "--top" && text {
            return None;
        }
        Some(format!("{option} is for a summary, and no output is one: add -o summary"))
    }

    /// Whether it begins switched off.
    pub fn starts_paused(&self) -> bool {
        self.delay.is_some_and(|ms| ms != 0)
    }
}

/// Which processes.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Only processes that this names: comm=, exe=, uid=, gid=, pid=, tree=,
    /// cgroup=, mntns=, pidns=, container, not-container, follow; `!=`; a `*` at
    /// either end of a name; commas mean or, several options mean and
    #[arg(short, long, value_name = "EXPR")]
    pub scope: Vec<String>,

    /// One more rule, `[NAME:] EXPR…`; each event tells which rules matched
    #[arg(long, value_name = "RULE")]
    pub rule: Vec<String>,

    /// Rules from a file, one a line, `#` for comments
    #[arg(long, value_name = "FILE")]
    pub rules: Vec<PathBuf>,
}

/// `prof run`
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  prof run -- make -j4
  prof run --sort peak-rss --top 10 -- ./test-suite
  prof run -s comm=cc1,cc1plus -o json:cost.json -o summary -- make
  prof run -r 10 -- ./bench                     ten runs: mean, deviation, outliers
  prof run -I 1000 -- ./server                  what came in each second
  prof run --delay 2000 -- ./server             without its first two seconds

The results go to standard error, so that the output of the command stays clean.
Exit status: the command's own, or 128 + the signal that killed it; 1 if it could
not be run, 2 for bad usage. With -r, that of the first run that failed; no other
follows it, unless --ignore-failure is given. --duration is for all runs together.")]
pub struct RunArgs {
    /// Options that all share.
    #[command(flatten)]
    pub shared: Shared,

    /// Which processes.
    #[command(flatten)]
    pub which: Which,

    /// Run the command N times and show how the totals of the runs spread
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: Option<u32>,

    /// With --repeat, go on after a run that failed
    #[arg(long, requires = "repeat")]
    pub ignore_failure: bool,

    /// Do not profile what the command starts
    #[arg(long)]
    pub no_follow: bool,

    /// Profile what the command starts (the default)
    #[arg(long, overrides_with = "no_follow", hide = true)]
    pub follow: bool,

    /// Count as an ordinary user would: the command as a whole, no processes
    #[arg(long, conflicts_with_all = ["interval", "control", "delay"])]
    pub unprivileged: bool,

    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `prof watch`
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  prof watch                                    every process
  prof watch -s comm=cc1,ld --duration 1m
  prof watch -s 'exe=/usr/bin/*' -s uid=1000    both must hold
  prof watch --rule 'build: tree=4321' --rule 'web: cgroup=/system.slice/nginx.service'
  prof watch -s container -o tracee | jq .args
  prof watch --delay -1 --control fifo:ctl,ack  off until `echo enable >ctl`

Ctrl-C ends it, with totals and the count of everything lost.")]
pub struct WatchArgs {
    /// Options that all share.
    #[command(flatten)]
    pub shared: Shared,

    /// Which processes.
    #[command(flatten)]
    pub which: Which,

    /// Attach to the processes that run already and match, too
    #[arg(long)]
    pub existing: bool,
}

/// `prof attach`
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  prof attach 1234 --duration 10s
  prof attach $(pidof nginx) -o json
  prof attach -I 1000 1234                      the figures so far, each second

Figures are from the attach on, and flagged `attach`. Ends when all have exited,
after --duration, or with Ctrl-C.")]
pub struct AttachArgs {
    /// Options that all share.
    #[command(flatten)]
    pub shared: Shared,

    /// Profile the children that they start from now on, too
    #[arg(long)]
    pub follow: bool,

    /// Process ids
    #[arg(required = true, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pids: Vec<u32>,
}

/// `prof record`
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  prof record -- make -j4                       to prof.stacks
  prof record -s comm=cc1 --duration 1m         host-wide, each process of that name
  prof record -o raw:/tmp/x.stacks -F 99 -- ./server
  prof report                                   what was recorded, here or on another
                                                machine that has the same programs

Nothing is named while it records: a small machine is spared the work, and the file
names each program and library by its build id.")]
pub struct RecordArgs {
    /// Options that all share.
    #[command(flatten)]
    pub shared: Shared,

    /// Which processes.
    #[command(flatten)]
    pub which: Which,

    /// Do not sample what the command starts
    #[arg(long)]
    pub no_follow: bool,

    /// Without a command: sample the processes that run already and match, too
    #[arg(long)]
    pub existing: bool,

    /// The command and its arguments; without one, the whole host by rules
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `prof report`
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  prof report
  prof report prof.stacks -o flamegraph:x.svg -o pprof:x.pb.gz
  prof report --symfs /srv/rootfs board.stacks  programs of another machine")]
pub struct ReportArgs {
    /// What `prof record` wrote; `-`: it comes on standard input
    #[arg(default_value = RAW_FILE)]
    pub file: PathBuf,

    /// Output, FORMAT[:FILE]: text, folded, flamegraph (.svg or .html), pprof, firefox,
    /// speedscope or perfdata; may be repeated [default: text]
    #[arg(short, long, value_name = "FORMAT[:FILE]")]
    pub output: Vec<StackOutputSpec>,

    /// Where the programs and libraries are, as on the machine that recorded or by build id, and
    /// their debug files
    #[arg(long, value_name = "DIR")]
    pub symfs: Option<PathBuf>,

    /// Ask the servers in $DEBUGINFOD_URLS for debug files that are not here
    #[arg(long)]
    pub debuginfod: bool,

    /// Neither use nor keep names that were found (in /var/cache/prof, or
    /// $PROF_CACHE_DIR)
    #[arg(long)]
    pub no_cache: bool,

    /// Rows of the heaviest functions in `text`; 0 for all
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub top: usize,

    /// How much is shown.
    #[command(flatten)]
    pub tree: Tree,

    /// Colours
    #[arg(long, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
}

/// `prof audit`
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  prof audit                                    until Ctrl-C, then who profiled whom
                                                for how long
  prof audit -o json:audit.json --duration 1h
  prof audit --by comm=perf --by comm=bpftrace  these two only
  prof audit --of uid=0 -o tracee | jq .args    profiling of root's processes
  prof audit --list                             what is being profiled now, by whom
  prof audit --list -o json | jq 'select(.attr.kernel_stacks)'

A `prof` record, flagged `foreign`, for each switch: by perf_event_open, its ioctls and
prctl, by an exec or fork that takes events along, by close, exit and exec; of BPF
programs where they are attached by a link; of ptrace; of what is switched on in
tracefs. prof's own are left out.
Where the kernel has trampolines or kprobes, only those who profile pay for it; elsewhere
each system call of any process costs a little more: docs/audit.md says how much.

With --list: perf events, BPF programs at tracepoints, functions and places in programs,
ptrace and what is switched on in tracefs. Without root it lists what /proc shows.")]
pub struct AuditArgs {
    /// List what is being profiled now, whoever began it and when, and end (table, json)
    #[arg(long, conflicts_with_all = ["by", "of", "duration", "buffer", "hooks"])]
    pub list: bool,

    /// Output, FORMAT[:FILE]: table, summary, json or tracee; may be repeated
    #[arg(short, long, value_name = "FORMAT[:FILE]")]
    pub output: Vec<OutputSpec>,

    /// Only what those do who profile and whom this rule names, as in `prof watch -s`: comm=,
    /// exe=, uid=, gid=, pid=, container … Repeatable: any of them
    #[arg(long, value_name = "RULE")]
    pub by: Vec<String>,

    /// Only what is done to those who are profiled and whom this rule names; what is not of a
    /// single process is left out
    #[arg(long, value_name = "RULE")]
    pub of: Vec<String>,

    /// How to attach to the kernel
    #[arg(long, value_enum, default_value_t = AuditHooks::Auto)]
    pub hooks: AuditHooks,

    /// Stop after this time (10s, 2m, 500ms)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,

    /// BTF of the running kernel, if it is not at /sys/kernel/btf/vmlinux
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,

    /// Size of the buffer between kernel and prof (64K, 8M) [default: 8M, or 1M a CPU]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub buffer: Option<u32>,

    /// Do not keep the programs prepared for this kernel for a faster next start
    #[arg(long)]
    pub no_cache: bool,

    /// Colours
    #[arg(long, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
}

/// Where `prof record` writes unless told.
pub const RAW_FILE: &str = "prof.stacks";

/// `prof events`
#[derive(Debug, Clone, Args)]
pub struct EventsArgs {
    /// Only events whose name or description has this in it
    pub pattern: Option<String>,

    /// How to print
    #[arg(long, value_enum, default_value_t = ListFormat::Text)]
    pub format: ListFormat,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

fn output(spec: &str) -> Result<AnyOutputSpec, String> {
    spec.parse::<AnyOutputSpec>().map_err(|e| e.to_string())
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|p| (0.0..=100.0).contains(p));
    number.ok_or_else(|| "a number from 0 to 100".into())
}

fn duration(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok().filter(|s: &f64| *s >= 0.0 && s.is_finite());
    match seconds {
        Some(s) => Duration::try_from_secs_f64(s).map_err(|e| e.to_string()),
        None => humantime::parse_duration(text)
            .map_err(|e| format!("{e}; write 10s, 500ms or 2m, or a number of seconds")),
    }
}

fn size(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        _ => return Err("write a number of bytes, or one with K, M or G".into()),
    };
    number
        .parse::<u32>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .filter(|n| *n > 0 && *n <= 1 << 30)
        .ok_or_else(|| "a size from 1 to 1G".into())
}

/// The command line as clap knows it, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

impl Cli {
    /// The command line; ends with a message if something is wrong.
    fn read() -> Self {
        let matches = command().get_matches();
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
        if let (Some(shared), Some((_, given))) = (cli.shared(), matches.subcommand()) {
            let lists: Vec<_> = given.indices_of("events").into_iter().flatten().collect();
            let before = |at: usize| lists.iter().filter(|list| **list < at).count();
            let filters = given.indices_of("filter").into_iter().flatten();
            shared.lists_before = filters.map(before).collect();
        }
        cli
    }

    /// The options that most verbs have.
    fn shared(&mut self) -> Option<&mut Shared> {
        match &mut self.command {
            Command::Run(args) => Some(&mut args.shared),
            Command::Watch(args) => Some(&mut args.shared),
            Command::Attach(args) => Some(&mut args.shared),
            Command::Record(args) => Some(&mut args.shared),
            _ => None,
        }
    }

    /// What clap cannot tell; ends with a message if something is wrong.
    fn check(&mut self) {
        if let Command::Audit(args) = &self.command
            && args.list
            && let Some(o) = args.output.iter().find(|o| !audit::list::has(o.format))
        {
            let what = format!("a list has no output '{}': table and json are", o.format.name());
            command().error(clap::error::ErrorKind::ValueValidation, what).exit();
        }
        let asks = match &self.command {
            Command::Report(args) => args.debuginfod,
            _ => self.shared().is_some_and(|s| s.debuginfod),
        };
        if asks && let Err(what) = prof_symbols::debuginfod::ready() {
            let what = format!("--debuginfod: {what}");
            command().error(clap::error::ErrorKind::MissingRequiredArgument, what).exit();
        }
        let Some(shared) = self.shared().cloned() else { return };
        if let Command::Run(args) = &self.command
            && args.repeat.is_some()
            && shared.asks_for_stacks()
        {
            let what = "stacks are of one run: leave out --repeat or the options of stacks";
            command().error(clap::error::ErrorKind::ArgumentConflict, what).exit();
        }
        let default = match &self.command {
            Command::Run(_) => Format::Summary,
            _ => Format::Table,
        };
        let repeats = matches!(&self.command, Command::Run(args) if args.repeat.is_some());
        let of_rows = shared.by_exe || shared.sort.is_some() || shared.top.is_some();
        if repeats && of_rows {
            let what = "--repeat shows how the totals spread, and no processes: leave out \
                        --by-exe, --sort and --top";
            command().error(clap::error::ErrorKind::ArgumentConflict, what).exit();
        }
        if let Some(what) = shared.without_view(default) {
            command().error(clap::error::ErrorKind::ArgumentConflict, what).exit();
        }
        let of_samples = !shared.by.is_empty() || shared.freq.is_some() || shared.count.is_some();
        if shared.off_cpu == Some(OffCpuMode::Only) && of_samples {
            let what = "--off-cpu=only takes no samples: leave out --by, --freq and --count";
            command().error(clap::error::ErrorKind::ArgumentConflict, what).exit();
        }
        if shared.delay == Some(-1) && shared.control.is_none() {
            let what = "--delay -1 begins switched off until --control says otherwise: give it too";
            command().error(clap::error::ErrorKind::MissingRequiredArgument, what).exit();
        }
    }
}

impl Command {
    /// What is asked for colours.
    fn color(&self) -> Color {
        match self {
            Command::Run(RunArgs { shared, .. })
            | Command::Watch(WatchArgs { shared, .. })
            | Command::Attach(AttachArgs { shared, .. })
            | Command::Record(RecordArgs { shared, .. }) => shared.color,
            Command::Report(args) => args.color,
            Command::Audit(args) => args.color,
            Command::Events(_) | Command::Doctor(_) => Color::Auto,
        }
    }
}

/// Everything: parses, does, and says how it went.
pub fn main() -> ExitCode {
    let mut cli = Cli::read();
    cli.check();
    let color = cli.command.color();
    let done = match cli.command {
        Command::Run(args) => run::main(&args),
        Command::Watch(args) => watch::main(&args),
        Command::Attach(args) => attach::main(&args),
        Command::Record(args) => record::main(&args),
        Command::Report(args) => host::as_the_user(|| report::main(&args)),
        Command::Audit(args) => audit::main(&args),
        Command::Events(args) => events::main(&args).map_err(output::to_stdout),
        Command::Doctor(args) => doctor::run(&args).map_err(output::to_stdout),
    };
    match done {
        Ok(code) => code,
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            let usage = e.is::<prof_model::rules::RuleError>() || e.is::<prof_events::EventError>();
            let head = if color.on(&io::stderr()) { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
            say!("{head} {e:#}");
            if let Some(refused) = e.downcast_ref::<NotPermitted>() {
                say!("{}", refused.cure());
            }
            ExitCode::from(if usage { USAGE } else { FAILED })
        }
    }
}

fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.chain()
        .filter_map(|c| c.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn options_of_a_view_need_the_view() {
        let wrong = |args: &str, default| {
            let words = ["prof", "run"].into_iter().chain(args.split(' ')).chain(["--", "true"]);
            let mut cli = Cli::try_parse_from(words).unwrap();
            cli.shared().unwrap().without_view(default)
        };
        for fine in ["--by-exe", "--top 3 -g", "-o json --by-exe -o summary:x", "-o json"] {
            assert_eq!(wrong(fine, Format::Summary), None, "{fine}");
        }
        for fine in ["--top 3 -g", "--top 3 -o text", "--sort peak-rss -o summary"] {
            assert_eq!(wrong(fine, Format::Table), None, "{fine}");
        }
        for (args, option) in
            [("-o json --top 3 --by-exe", "--by-exe"), ("--top 3 -o raw", "--top")]
        {
            let what = wrong(args, Format::Summary).unwrap();
            assert!(what.starts_with(option) && what.ends_with("-o summary"), "{what}");
        }
        for args in ["--top 3", "--sort peak-rss -g", "--by-exe -o folded"] {
            assert!(wrong(args, Format::Table).is_some(), "{args}");
        }
    }

    #[test]
    fn sizes_and_durations() {
        assert_eq!(size("64K"), Ok(65536));
        assert_eq!(size("8MiB"), Ok(8 << 20));
        assert!(size("0").is_err() && size("5G").is_err() && size("x").is_err());
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("-1").is_err() && duration("soon").is_err());
    }
}
