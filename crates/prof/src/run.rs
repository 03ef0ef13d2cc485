//! `prof run`.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use prof_export::Format;
use prof_kernel::clock;
use prof_kernel::counters::Inherited;
use prof_kernel::host;
use prof_kernel::limits;
use prof_kernel::perf;
use prof_kernel::probe::Privileges;
use prof_kernel::session::Session;
use prof_kernel::spawn;
use prof_kernel::spawn::Ended;
use prof_kernel::spawn::Running;
use prof_kernel::spawn::Waiting;
use prof_model::figures::Value;
use prof_model::record::Attached;
use prof_model::record::End;
use prof_model::record::Exit;
use prof_model::record::Flags;
use prof_model::record::Ident;
use prof_model::record::Process;
use prof_model::record::ProfEvent;
use prof_model::record::Profile;
use prof_model::record::Record;
use prof_model::record::Window;
use prof_model::record::WindowEnd;
use prof_model::record::WindowStart;
use prof_model::rules::Key;
use prof_model::rules::Rule;
use prof_model::rules::RuleError;
use prof_model::rules::RuleSet;
use rustix::time::ClockId;

use crate::cli::MAX_PROCESSES;
use crate::cli::RunArgs;
use crate::output;
use crate::output::Outputs;
use crate::repeat;
use crate::requests::Next;
use crate::requests::Requests;
use crate::rules;
use crate::rules::Rules;
use crate::say::first_line;
use crate::say::say;
use crate::select;
use crate::select::Selected;
use crate::signals::Stop;
use crate::stacks::Stacks;
use crate::stream;
use crate::stream::Stream;

/// Runs the command; its exit status is ours.
pub fn main(args: &RunArgs) -> Result<ExitCode> {
    // Everything that can be wrong is found out before the command begins.
    let set = rules::from_options(&args.which)?;
    check_within(&set)?;
    let selected = select::from_options(&args.shared, &set)?;
    let to = output::Default::Stderr;
    let stacks = Stacks::from_options(&args.shared, &selected, to);
    let outputs = Outputs::open(&args.shared, selected.sort, Format::Summary, to, stacks.as_ref())?;
    let stop = Stop::install()?;
    let stacks = stacks.as_ref();
    let job = Job { args, selected: &selected, set: &set, stop: &stop, stacks };
    let mut requests = Requests::from_options(&args.shared)?;
    match args.repeat {
        Some(n) => repeat::main(&job, outputs, &mut requests, n),
        None => Ok(job.once(outputs, &mut requests, None)?.code),
    }
}

/// What is to be run, and how.
#[derive(Debug)]
pub struct Job<'a> {
    /// The command line.
    pub args: &'a RunArgs,
    /// What is measured.
    pub selected: &'a Selected,
    /// Rules of the user's.
    pub set: &'a RuleSet,
    /// Whether it is to end early.
    pub stop: &'a Stop,
    /// Stacks to be taken.
    pub stacks: Option<&'a Stacks>,
}

/// A run that is over.
#[derive(Debug)]
pub struct Done {
    /// The status to exit with.
    pub code: ExitCode,
    /// How long the command took.
    pub took: Took,
    /// Whether an end was asked for before it was there: then this is no whole
    /// measurement.
    pub interrupted: bool,
}

/// How long a command took.
#[derive(Debug, Clone, Copy)]
pub enum Took {
    /// From its start to its end.
    Ended(Duration),
    /// As long as the session, as its last record says.
    AsItsEndSays,
    /// Nobody knows: it was left alone before its end.
    StillRuns,
}

impl Job<'_> {
    /// Runs the command once, until `deadline` at most; without one, as long as
    /// `--duration` says.
    pub fn once(
        &self,
        outputs: Outputs,
        requests: &mut Requests,
        deadline: Option<Instant>,
    ) -> Result<Done> {
        let Self { args, selected, stop, .. } = *self;
        let waiting = spawn::fork_waiting(&args.command, stop.ignored())?;
        let rules = rules::compiled(&rules_of_run(args, self.set.clone(), waiting.pid())?)?;
        let unprivileged = |waiting, outputs, reason| -> Result<Done> {
            without_privileges(args, selected, waiting, outputs, stop, reason)
        };
        if args.unprivileged {
            if let Some(needs) = needs_more(args) {
                bail!(
                    "--unprivileged counts the command as a whole: {needs} cannot be had with it"
                );
            }
            let reason = "--unprivileged: the command is counted as a whole".to_owned();
            return unprivileged(waiting, outputs, reason);
        }
        if !host::sees_host_pids() {
            let needs = "needs the host's pid namespace: run prof on the host";
            if let Some(more) = needs_more(args) {
                bail!("{more} {needs}");
            }
            return unprivileged(waiting, outputs, format!("each process {needs}"));
        }
        let program = Some(waiting.path());
        match Session::open(&stream::plan(&args.shared, selected, &rules, false, false, program)) {
            Ok(session) => self.with_session(session, &rules, waiting, outputs, requests, deadline),
            Err(e) if limits::is_out_of_files(&e) => Err(e),
            Err(e) => match needs_more(args) {
                Some(more) => Err(e.context(format!("{more} needs the kernel half of prof"))),
                None => unprivileged(waiting, outputs, without_kernel_half(&e)),
            },
        }
    }

    fn with_session(
        &self,
        session: Session,
        rules: &Rules,
        waiting: Waiting,
        outputs: Outputs,
        requests: &mut Requests,
        deadline: Option<Instant>,
    ) -> Result<Done> {
        let Self { args, selected, stop, .. } = *self;
        let command = Some(told_command(args));
        let mut stacks = self.stacks.cloned();
        if let Some(stacks) = &mut stacks {
            stacks.prepare(waiting.path());
        }
        let mut stream = Stream::begin(session, outputs, selected, rules, command, stacks)?;
        requests.begin(&mut stream)?;
        let began = Instant::now();
        let running = waiting.go()?;
        let deadline = deadline.or_else(|| args.shared.duration.map(|d| Instant::now() + d));
        let mut told = Told::default();
        while !running.has_ended() && !told.enough(stop, deadline, &running) {
            if stream.step(Some(running.as_poll_fd()), requests)? == Next::Stop {
                break;
            }
        }
        let took = stream.woke().unwrap_or_else(Instant::now).duration_since(began);
        let interrupted = stop.asked();
        let ended = running.has_ended().then(|| running.wait()).transpose()?;
        let took = if ended.is_some() { Took::Ended(took) } else { Took::StillRuns };
        let finished = stream.finish();
        Ok(Done { code: status(ended, finished)?, took, interrupted })
    }
}

/// What was asked for that a count of the command as a whole does not give.
fn needs_more(args: &RunArgs) -> Option<&'static str> {
    let shared = &args.shared;
    let rules =
        !(args.which.scope.is_empty() && args.which.rule.is_empty() && args.which.rules.is_empty());
    [
        (rules, "what a rule names"),
        (shared.asks_for_stacks(), "a stack"),
        (shared.interval.is_some(), "--interval"),
        (shared.control.is_some(), "--control"),
        (shared.delay.is_some(), "--delay"),
        (shared.per_thread, "--per-thread"),
        (args.no_follow, "--no-follow"),
        (shared.hooks.backend().is_some(), "--hooks"),
        (shared.btf.is_some(), "--btf"),
        (shared.max_processes != MAX_PROCESSES, "--max-processes"),
    ]
    .into_iter()
    .find_map(|(asked, what)| asked.then_some(what))
}

/// Why there is only the count of the whole command, and what helps.
fn without_kernel_half(e: &anyhow::Error) -> String {
    let needs = "each process, run-queue wait and bytes need";
    let mine = Privileges::of_this_process();
    if mine.suffice() {
        let why = first_line(e);
        return format!("{needs} the kernel half of prof (`prof doctor` tells more): {why}");
    }
    format!("{needs} CAP_BPF and CAP_PERFMON: {}", mine.cure())
}

/// Rules are read as they were given before they are narrowed to the command, so that what
/// is wrong with one is shown in its own words.
fn check_within(set: &RuleSet) -> Result<()> {
    for rule in set {
        if let Some(term) = rule.terms.iter().find(|t| t.key == Key::Tree && !t.negated) {
            let message = "prof run profiles within the tree of its command: leave tree= out, or \
                           use prof watch";
            return Err(RuleError {
                origin: rule.origin.clone(),
                text: rule.text.clone(),
                span: term.span,
                message: message.to_owned(),
            }
            .into());
        }
    }
    rules::compiled(set).map(drop)
}

/// The command and what it starts; with rules of the user's, those within it.
fn rules_of_run(args: &RunArgs, mut set: RuleSet, child: u32) -> Result<RuleSet> {
    if set.is_empty() {
        let follow = if args.no_follow { "" } else { " follow" };
        set.push(Rule::parse(&format!("run: pid={child}{follow}"), "run")?)?;
        return Ok(set);
    }
    let me = std::process::id();
    let within = if args.no_follow { format!("pid={child}") } else { format!("tree={me}") };
    let mut narrowed = RuleSet::default();
    for rule in set.iter() {
        let text = format!("{}: {} {within}", rule.name, rule.text);
        narrowed.push(Rule::parse(&text, &rule.name)?)?;
    }
    Ok(narrowed)
}

/// What is told of the command.
fn told_command(args: &RunArgs) -> Vec<Vec<u8>> {
    let mut words = command_line(args);
    if args.shared.no_args {
        words.truncate(1);
    }
    words
}

fn command_line(args: &RunArgs) -> Vec<Vec<u8>> {
    args.command.iter().map(|a| a.as_bytes().to_vec()).collect()
}

/// Signals that were passed on to the command.
#[derive(Debug, Default)]
struct Told {
    terminations: usize,
}

impl Told {
    /// A terminal sends Ctrl-C to the command as well, whose business it is; the
    /// second one means prof. Other requests are passed on.
    fn enough(&mut self, stop: &Stop, deadline: Option<Instant>, running: &Running) -> bool {
        while self.terminations < stop.terminations() {
            self.terminations += 1;
            // It may be gone already: then it has ended.
            let _ = running.signal(libc::SIGTERM);
        }
        let late = deadline.is_some_and(|d| Instant::now() >= d);
        stop.interrupts() > 1 || self.terminations > 1 || late
    }
}

/// The command's status; what went wrong with the outputs only if it has none of
/// its own to tell.
fn status(ended: Option<Ended>, outputs: Result<()>) -> Result<ExitCode> {
    let exit = ended.map(|e| Exit { status: e.status });
    let code = match exit.map(|e| (e.code(), e.signal())) {
        Some((Some(code), _)) => code,
        Some((None, Some(signal))) => 128u8.saturating_add(signal),
        _ => 0,
    };
    match outputs {
        Err(e) if code != 0 => {
            say!("error: {e:#}");
            Ok(ExitCode::from(code))
        }
        Err(e) => Err(e),
        Ok(()) => Ok(ExitCode::from(code)),
    }
}

/// What the figures of the whole command lack.
const WHOLE_COMMAND: &str =
    "of the command and of the children that were waited for, as one: no single processes";

/// What is not counted by perf events is not of the same time, nor of the same processes.
const OF_RUSAGE: &str = "user-time, system-time, switches by kind, peak-rss, and what perf may not \
    count, are by wait4: from the fork on, before the program was executed, and of children that \
    were waited for";

fn without_privileges(
    args: &RunArgs,
    selected: &Selected,
    waiting: Waiting,
    mut outputs: Outputs,
    stop: &Stop,
    reason: String,
) -> Result<Done> {
    let pid = waiting.pid();
    let inherited = Inherited::open(&selected.specs, pid)?;
    let counters = perf::open(pid);
    let mut limits = vec![reason];
    if !inherited.user_only.is_empty() {
        limits.push(format!(
            "counted in user mode only: {} (kernel.perf_event_paranoid; CAP_PERFMON lifts it)",
            inherited.user_only.join(", ")
        ));
    }
    let path = waiting.path().to_owned();
    let attached = vec![
        Attached { hook: "enable_on_exec".into(), how: "perf_event, inherited" },
        Attached { hook: "wait4".into(), how: "rusage" },
    ];
    let header = stream::header(selected, &[], &attached, limits, Some(told_command(args)));
    outputs.write(&[Record::Header(Box::new(header))]);
    let began = Instant::now();
    let start_ns = clock::now_ns(ClockId::Monotonic);
    let running = waiting.go()?;
    let mut process = describe(pid, args);
    process.exe = host::exe_of(pid).or_else(|| Some(path.into_os_string().into_vec()));
    let event = |flags: u64, process: &Process, hook| {
        Record::Prof(Box::new(ProfEvent {
            time_ns: clock::now_ns(ClockId::Realtime),
            cpu: 0,
            process: process.clone(),
            flags: Flags(flags),
            events: selected.events,
            rules: 0,
            hook,
        }))
    };
    outputs.write(&[event(
        Flags::ENABLE | Flags::EXEC | Flags::INHERIT,
        &process,
        "enable_on_exec",
    )]);
    let deadline = args.shared.duration.map(|d| began + d);
    let mut told = Told::default();
    while !running.has_ended() && !told.enough(stop, deadline, &running) {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            running.as_poll_fd(),
            rustix::event::PollFlags::IN,
        )];
        let tick = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        // Interrupted or not: the loop looks.
        let _ = rustix::event::poll(&mut fds, Some(&tick));
    }
    let end_ns = clock::now_ns(ClockId::Monotonic);
    let interrupted = stop.asked();
    let done = |ended, finished| -> Result<Done> {
        Ok(Done { code: status(ended, finished)?, took: Took::AsItsEndSays, interrupted })
    };
    let ended = running.has_ended().then(|| running.wait()).transpose()?;
    let usage = ended.as_ref().map(|e| &e.usage);
    let mut figures = counters.figures(usage, end_ns - start_ns);
    figures.counts = inherited.read().context("counters of the command")?;
    let user_only = if inherited.user_only.is_empty() { 0 } else { Flags::NO_KERNEL };
    let how = if ended.is_some() { Flags::EXIT } else { 0 };
    let flags = Flags(how | Flags::PARTIAL | Flags::INHERIT | user_only);
    let profile = Profile {
        time_ns: clock::now_ns(ClockId::Realtime),
        process: process.clone(),
        flags,
        events: selected.events,
        rules: 0,
        figures: figures.clone(),
        threads: Vec::new(),
        regions: Vec::new(),
        exit: ended.as_ref().map(|e| Exit { status: e.status }),
        window: Window {
            start_ns,
            end_ns,
            start: WindowStart::EnableOnExec,
            end: if ended.is_some() { WindowEnd::Exit } else { WindowEnd::Running },
        },
        notes: if ended.is_some() { vec![WHOLE_COMMAND, OF_RUSAGE] } else { vec![WHOLE_COMMAND] },
    };
    let end = End {
        time_ns: clock::now_ns(ClockId::Realtime),
        duration_ns: began.elapsed().as_nanos() as u64,
        enabled: 1,
        disabled: u64::from(ended.is_some()),
        running: u64::from(ended.is_none()),
        lost: Vec::new(),
        execs_seen: 1,
        execs_kernel: Value::Absent("the command was counted as a whole"),
        totals: figures,
        processes: 1,
        bpf_ns: None,
    };
    if ended.is_some() {
        outputs.write(&[event(flags.0, &process, "wait4")]);
    }
    outputs.write(&[Record::Profile(Box::new(profile)), Record::End(Box::new(end))]);
    done(ended, outputs.finish())
}

/// What an ordinary user may know of a child.
fn describe(pid: u32, args: &RunArgs) -> Process {
    let comm = args.command.first().map(|c| {
        let name = std::path::Path::new(c).file_name().unwrap_or(c);
        name.as_bytes().iter().copied().take(15).collect()
    });
    Process {
        ident: Ident {
            pid,
            tid: pid,
            ppid: std::process::id(),
            start_ns: host::start_of(pid).unwrap_or_default(),
            exec: 1,
            comm: comm.unwrap_or_default(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            cgroup_id: 0,
            mntns: host::namespace("mnt"),
            pidns: host::namespace("pid"),
        },
        args: (!args.shared.no_args).then(|| command_line(args)),
        ..Process::default()
    }
}
