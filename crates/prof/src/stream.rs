//! A session's records on their way: kernel half → collector → outputs.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use prof_kernel::abi::AbiCount;
use prof_kernel::abi::AbiProc;
use prof_kernel::abi::Counter;
use prof_kernel::abi::NR_COUNTERS;
use prof_kernel::abi::NR_REGION_COUNTERS;
use prof_kernel::abi::RegionCounter;
use prof_kernel::clock;
use prof_kernel::collect::Collector;
use prof_kernel::host;
use prof_kernel::prepared;
use prof_kernel::regions::RegionSum;
use prof_kernel::session::Attach;
use prof_kernel::session::Heard;
use prof_kernel::session::LiveThread;
use prof_kernel::session::Plan;
use prof_kernel::session::Session;
use prof_model::figures::Figures;
use prof_model::record::Attached;
use prof_model::record::End;
use prof_model::record::Header;
use prof_model::record::Interval;
use prof_model::record::Loss;
use prof_model::record::LossReason;
use prof_model::record::Profile;
use prof_model::record::Record;
use prof_model::record::RuleName;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::time::ClockId;

use crate::cli::Shared;
use crate::control::Evlist;
use crate::evlist::Events;
use crate::output::Outputs;
use crate::requests::Next;
use crate::requests::Requests;
use crate::rules::Rules;
use crate::say::first_line;
use crate::say::say;
use crate::select::Selected;
use crate::stacks;
use crate::stacks::Stacks;

/// Records are fetched at least this often: 20 times a second is no load, and no
/// person sees the delay.
const TICK: Duration = Duration::from_millis(50);
/// How often losses are looked at and the clock is compared.
const CHECK: Duration = Duration::from_secs(1);
/// How often to look whether CPUs have come: what a process does on them before is not
/// counted.
pub(crate) const CPUS_COME: Duration = Duration::from_millis(250);

/// Times that live processes are read until a reading is of one moment.
const READINGS: usize = 3;

/// Losses that the kernel half counts.
const LOSSES: [(Counter, LossReason); 10] = [
    (Counter::LostMapFull, LossReason::MapFull),
    (Counter::LostRingEnable, LossReason::RingFullEnable),
    (Counter::LostRingDisable, LossReason::RingFullDisable),
    (Counter::LostRingThread, LossReason::RingFullThread),
    (Counter::Stale, LossReason::ExitNotSeen),
    (Counter::LostFollow, LossReason::FollowMapFull),
    (Counter::LostAttempt, LossReason::AttemptMapFull),
    (Counter::LostCounts, LossReason::CountsMapFull),
    (Counter::CounterFailed, LossReason::CounterUnreadable),
    (Counter::SliceMissed, LossReason::SliceMissed),
];

/// The same where programs speak of themselves.
const REGION_LOSSES: [(RegionCounter, LossReason); 7] = [
    (RegionCounter::MapFull, LossReason::RegionMapFull),
    (RegionCounter::TooDeep, LossReason::RegionTooDeep),
    (RegionCounter::NoName, LossReason::RegionNoName),
    (RegionCounter::NotBegun, LossReason::RegionNotBegun),
    (RegionCounter::NotSwitched, LossReason::SwitchNotDone),
    (RegionCounter::LostRingOn, LossReason::RingFullEnable),
    (RegionCounter::LostRingOff, LossReason::RingFullDisable),
];

/// Bytes of the buffer unless told otherwise: half a MiB for each CPU, which is a
/// thousand execs each between two visits of the reader.
fn default_buffer() -> u32 {
    let cpus = host::online_cpus().map_or(1, |c| c.len()) as u32;
    (cpus << 19).clamp(1 << 20, 64 << 20)
}

/// The plan of a session that these options and rules make.
pub fn plan(
    shared: &Shared,
    selected: &Selected,
    rules: &Rules,
    count_execs: bool,
    attaches: bool,
    program: Option<&Path>,
) -> Plan {
    Plan {
        backend: shared.hooks.backend(),
        btf: shared.btf.clone(),
        cache: prepared::dir_unless(shared.no_cache),
        tables: rules.tables.clone(),
        ring_bytes: shared.buffer.unwrap_or_else(default_buffer),
        max_processes: shared.max_processes,
        read_args: !shared.no_args,
        per_thread: shared.per_thread,
        count_execs,
        counters: selected.specs.clone(),
        start_paused: shared.starts_paused(),
        // What is resumed is attached to.
        attaches: attaches || shared.control.is_some() || shared.starts_paused(),
        stacks: selected.stacks.clone(),
        regions: !shared.no_regions,
        program: program.map(Path::to_owned),
    }
}

/// The header of a stream.
pub fn header(
    selected: &Selected,
    rules: &[RuleName],
    attached: &[Attached],
    mut limits: Vec<String>,
    command: Option<Vec<Vec<u8>>>,
) -> Header {
    limits.extend(selected.left_out.iter().cloned());
    let (host, kernel, machine) = host::uname();
    Header {
        time_ns: clock::now_ns(ClockId::Realtime),
        version: env!("CARGO_PKG_VERSION"),
        host,
        kernel,
        machine,
        cpus: host::online_cpus().map_or(1, |c| c.len()) as u32,
        events: selected.events,
        counters: selected.table.clone(),
        rules: rules.to_vec(),
        attached: attached.to_vec(),
        limits,
        command,
        repetition: None,
    }
}

/// What tells whether a thread of the process has exited.
fn sum(p: &AbiProc) -> (u64, u64, u64) {
    (p.acc.task_clock, p.acc.min_flt, p.acc.nvcsw)
}

/// A running session with its outputs.
#[derive(Debug)]
pub struct Stream {
    /// The kernel half.
    pub session: Session,
    collector: Collector,
    outputs: Outputs,
    records: Vec<Record>,
    began: Instant,
    checked: Instant,
    followed: Instant,
    /// When the last wait ended because of what else was waited for.
    woke: Option<Instant>,
    seen: [u64; NR_COUNTERS],
    seen_regions: [u64; NR_REGION_COUNTERS],
    malformed: u64,
    /// Processes that user space switched on.
    attached: u64,
    /// CPUs that may be interrupted to bring counts up to date.
    refreshable: Vec<u32>,
    /// What the totals were when they were last told.
    told: Figures,
    told_at: Instant,
    /// Whether they are told at intervals.
    intervals: bool,
    paused: bool,
    /// Whom to attach to when the session is resumed.
    later: Option<Later>,
    events: Events,
    stacks: Option<stacks::Running>,
}

/// Processes that already run, to be switched on later.
#[derive(Debug)]
enum Later {
    These(Vec<(u32, u64)>, u64),
    Matching(u64),
}

/// What is profiled, as of one moment.
#[derive(Debug)]
struct Reading {
    armed: BTreeMap<u32, AbiProc>,
    live: Vec<LiveThread>,
    /// Counts of each process but for those of live threads.
    exited: HashMap<u32, Vec<[AbiCount; 3]>>,
    /// When counts were brought up to date, CLOCK_MONOTONIC.
    refreshed_ns: u64,
}

impl Stream {
    /// Begins with the header.
    pub fn begin(
        session: Session,
        outputs: Outputs,
        selected: &Selected,
        rules: &Rules,
        command: Option<Vec<Vec<u8>>>,
        stacks: Option<Stacks>,
    ) -> Result<Self> {
        let of = command.as_deref().unwrap_or_default();
        let stacks = stacks.map(|s| s.begin(&session, of)).transpose()?;
        let header =
            header(selected, &rules.names, session.attached(), session.limits().to_vec(), command);
        let mut stream = Self {
            paused: session.starts_paused(),
            later: None,
            events: Events::of(selected),
            stacks,
            session,
            collector: Collector::new(selected.events, host::keeps()),
            outputs,
            records: vec![Record::Header(Box::new(header))],
            began: Instant::now(),
            checked: Instant::now(),
            followed: Instant::now(),
            woke: None,
            seen: [0; NR_COUNTERS],
            seen_regions: [0; NR_REGION_COUNTERS],
            malformed: 0,
            attached: 0,
            // Without counters nothing is to be brought up to date.
            refreshable: match selected.specs.is_empty() {
                true => Vec::new(),
                false => host::interruptible_cpus(),
            },
            told: Figures::absent("no process was measured"),
            told_at: Instant::now(),
            intervals: false,
        };
        stream.emit();
        stream.outputs.flush();
        Ok(stream)
    }

    /// Switches on the processes that already run, and tells which. While the session
    /// is paused they wait until it is resumed.
    pub fn attach(&mut self, pids: &[(u32, u64)], follow: u64) -> Result<Attach> {
        if self.paused {
            self.later = Some(Later::These(pids.to_vec(), follow));
            let attached = pids.iter().map(|(pid, _)| *pid).collect();
            return Ok(Attach { attached, ..Attach::default() });
        }
        let attach = self.session.attach_to(pids, follow)?;
        let attached = &attach.attached;
        let mut live = self.session.live()?;
        for l in &mut live {
            let task = &mut l.task;
            task.rules = pids.iter().find(|(p, _)| *p == task.id.pid).map_or(0, |(_, r)| *r);
        }
        self.attached += self.collector.attached(&live, attached, &mut self.records);
        self.emit();
        for pid in attached {
            self.session.look_into(*pid);
        }
        Ok(attach)
    }

    /// The same for all that a rule names.
    pub fn attach_matching(&mut self, follow: u64) -> Result<()> {
        if self.paused {
            self.later = Some(Later::Matching(follow));
            return Ok(());
        }
        let me = std::process::id();
        let alive: Vec<_> = self
            .session
            .matching()?
            .iter()
            .filter(|l| l.task.id.pid != me)
            .map(|l| (l.task.id.pid, l.task.rules))
            .collect();
        if alive.is_empty() {
            say!(
                "prof: --existing: none of the processes that the kernel lists is named by a rule"
            );
        }
        self.attach(&alive, follow).map(drop)
    }

    /// Waits for records, or for `also` to be readable, or a tick, or until something
    /// is asked; then passes on what there is.
    pub fn step(&mut self, also: Option<BorrowedFd<'_>>, requests: &mut Requests) -> Result<Next> {
        {
            let ring = self.session.as_poll_fd();
            let mut fds = vec![PollFd::from_borrowed_fd(ring, PollFlags::IN)];
            for fd in also.into_iter().chain(requests.as_poll_fd()) {
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
            let due = requests.due().map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = rustix::time::Timespec::try_from(due.unwrap_or(TICK).min(TICK))?;
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                // A signal: the caller looks.
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).context("waiting for records"),
            }
            let also = also.and_then(|_| fds.get(1)).filter(|fd| !fd.revents().is_empty());
            self.woke = also.map(|_| Instant::now());
        }
        self.drain()?;
        for pid in self.session.look_into_recent() {
            self.collector.found_late(pid);
        }
        let next = requests.serve(self)?;
        if self.checked.elapsed() >= CHECK {
            self.checked = Instant::now();
            self.check_losses()?;
            self.collector.resync();
        }
        if self.followed.elapsed() >= CPUS_COME {
            self.followed = Instant::now();
            self.session.follow_cpus()?;
        }
        self.outputs.flush();
        Ok(if self.outputs.any_open() { next } else { Next::Unheard })
    }

    /// When the last wait ended, if what ended it was `also`.
    pub fn woke(&self) -> Option<Instant> {
        self.woke
    }

    fn drain(&mut self) -> Result<()> {
        loop {
            let batch = self.session.consume().context("ring buffer")?;
            if batch.is_empty() {
                return Ok(());
            }
            for raw in batch {
                let heard = match &raw {
                    Ok(raw) => self.session.hear(raw)?,
                    Err(_) => Heard::default(),
                };
                self.collector.push(raw, &heard, &mut self.records);
            }
            self.emit();
        }
    }

    fn emit(&mut self) {
        if let Some(stacks) = &self.stacks {
            for r in &mut self.records {
                if let Record::Prof(event) = r {
                    event.flags.0 |= stacks.flags();
                }
            }
        }
        self.outputs.write(&self.records);
        self.records.clear();
    }

    fn check_losses(&mut self) -> Result<()> {
        let now = self.session.counters()?;
        let time_ns = clock::now_ns(ClockId::Realtime);
        for (counter, reason) in LOSSES {
            let count = now[counter as usize] - self.seen[counter as usize];
            if count > 0 {
                self.records.push(Record::Loss(Loss { time_ns, reason, count }));
            }
        }
        self.seen = now;
        let now = self.session.region_counters()?;
        for (counter, reason) in REGION_LOSSES {
            let count = now[counter as usize] - self.seen_regions[counter as usize];
            if count > 0 {
                self.records.push(Record::Loss(Loss { time_ns, reason, count }));
            }
        }
        self.seen_regions = now;
        let count = self.collector.malformed - self.malformed;
        self.malformed = self.collector.malformed;
        if count > 0 {
            let reason = LossReason::Malformed;
            self.records.push(Record::Loss(Loss { time_ns, reason, count }));
        }
        self.emit();
        Ok(())
    }

    /// Switches profiling off for all, until [`resume`](Self::resume).
    pub fn pause(&mut self) -> Result<()> {
        if self.paused {
            return Ok(());
        }
        self.paused = true;
        self.session.hold()?;
        let reading = self.read()?;
        let profiles = self.so_far(&reading);
        let paused = self.session.pause()?;
        let is_paused = |p: &Profile| {
            let ident = &p.process.ident;
            paused.contains(&(ident.pid, ident.start_ns))
        };
        self.drain()?;
        let mut profiles: Vec<_> = profiles.into_iter().filter(is_paused).collect();
        for p in &mut profiles {
            let pid = p.process.ident.pid;
            let regions = self.session.take_regions(pid, p.window.start_ns, false)?;
            p.regions = self.collector.regions(&regions);
        }
        self.collector.paused(profiles, &mut self.records);
        self.emit();
        Ok(())
    }

    /// Switches profiling on again, from now on.
    pub fn resume(&mut self) -> Result<()> {
        if !self.paused {
            return Ok(());
        }
        self.paused = false;
        let live = self.session.resume()?;
        let pids: Vec<_> = live.iter().map(|l| l.task.id.pid).collect();
        self.attached += self.collector.attached(&live, &pids, &mut self.records);
        self.emit();
        for pid in &pids {
            self.session.look_into(*pid);
        }
        match self.later.take() {
            Some(Later::These(pids, follow)) => {
                for (pid, missed) in self.attach(&pids, follow)?.missed {
                    say!("prof: warning: {}", missed.of(pid));
                }
                Ok(())
            }
            Some(Later::Matching(follow)) => self.attach_matching(follow),
            None => Ok(()),
        }
    }

    /// Whether profiling is switched off for all.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether some process may have switched itself off, and on again later.
    pub fn any_off(&self) -> bool {
        self.collector.any_off()
    }

    /// What was written is to be seen now.
    pub fn flush(&mut self) {
        self.outputs.flush();
    }

    /// The events of this stream, a line each.
    pub fn event_list(&self, how: Evlist) -> Vec<String> {
        self.events.list(how)
    }

    /// From now on the totals are told at intervals, and so once more at the end.
    pub fn count_intervals(&mut self) -> Result<()> {
        self.intervals = true;
        // What reads live processes is loaded here, not in the first interval.
        self.session.live().map(drop)
    }

    /// Tells the figures so far of each process, and what came since they were last
    /// told. They are in the totals only when the window ends.
    pub fn snapshot(&mut self) -> Result<()> {
        let reading = self.read()?;
        let mut profiles = self.so_far(&reading);
        // What ended meanwhile has told its figures itself.
        self.drain()?;
        let sampled: BTreeSet<_> = reading.live.iter().map(|l| l.task.id.pid).collect();
        profiles.retain(|p| {
            let ident = &p.process.ident;
            sampled.contains(&ident.pid) && self.collector.is_live(&ident.key())
        });
        let totals = self.collector.totals_with(&profiles);
        let running = profiles.len() as u64;
        self.records.extend(profiles.into_iter().map(|p| Record::Profile(Box::new(p))));
        self.tell(totals, running);
        self.emit();
        Ok(())
    }

    /// The record of an interval that ends now.
    fn tell(&mut self, totals: Figures, running: u64) {
        let now = Instant::now();
        let interval = Interval {
            time_ns: clock::now_ns(ClockId::Realtime),
            since_ns: now.duration_since(self.began).as_nanos() as u64,
            length_ns: now.duration_since(self.told_at).as_nanos() as u64,
            running,
            figures: totals.since(&self.told),
        };
        self.told = totals;
        self.told_at = now;
        self.records.push(Record::Interval(Box::new(interval)));
    }

    fn so_far(&self, reading: &Reading) -> Vec<Profile> {
        let exited = |pid| reading.exited.get(&pid).cloned().unwrap_or_default();
        let regions = |pid, window| self.regions_so_far(pid, window);
        self.collector.running(&reading.armed, &reading.live, reading.refreshed_ns, exited, regions)
    }

    fn regions_so_far(&self, pid: u32, window_ns: u64) -> Vec<RegionSum> {
        self.session.regions_so_far(pid, window_ns).unwrap_or_default()
    }

    /// Reads what is profiled, counts as of now where a CPU may be interrupted.
    ///
    /// What a thread did stands with the thread until it exits, and from then on with
    /// its process. One that exits between the two readings would be in neither or in
    /// both: then they are done again.
    fn read(&mut self) -> Result<Reading> {
        let mut armed = self.session.armed()?;
        for _ in 0..READINGS {
            let counts = |pid: &u32| Ok((*pid, self.session.proc_counts(*pid)?));
            let exited = armed.keys().map(counts).collect::<Result<_>>()?;
            let refreshed_ns = clock::now_ns(ClockId::Monotonic);
            let live = self.live_now()?;
            let after = self.session.armed()?;
            let same = |(pid, before): (&u32, &AbiProc)| match after.get(pid) {
                Some(p) if p.id.start_ns == before.id.start_ns => {
                    p.id.exec == before.id.exec && sum(p) == sum(before)
                }
                // Gone: it tells its figures itself.
                _ => true,
            };
            if armed.iter().all(same) {
                armed.retain(|pid, p| after.get(pid).is_some_and(|a| a.t0 == p.t0));
                return Ok(Reading { armed, live, exited, refreshed_ns });
            }
            armed = after;
        }
        let counts = |pid: &u32| Ok((*pid, self.session.proc_counts(*pid)?));
        let exited = armed.keys().map(counts).collect::<Result<_>>()?;
        let refreshed_ns = clock::now_ns(ClockId::Monotonic);
        let live = self.live_now()?;
        Ok(Reading { armed, live, exited, refreshed_ns })
    }

    /// Figures of every live thread, counts as of now where a CPU may be interrupted.
    fn live_now(&mut self) -> Result<Vec<LiveThread>> {
        self.session.refresh(&self.refreshable)?;
        self.session.live()
    }

    /// Processes that are being profiled, as far as was told.
    pub fn live(&self) -> usize {
        self.collector.live()
    }

    /// The last records: what still runs, what was lost, and the reconciliation.
    pub fn finish(mut self) -> Result<()> {
        // Read while the hooks are still there: what exits afterwards is not seen
        // to do so, and its figures are gone with it.
        let refreshed_ns = clock::now_ns(ClockId::Monotonic);
        let live = if self.session.armed()?.is_empty() { Ok(Vec::new()) } else { self.live_now() };
        let live = live.unwrap_or_else(|e| {
            say!("prof: warning: no figures of processes that still run: {}", first_line(&e));
            Vec::new()
        });
        self.session.detach();
        self.drain()?;
        let armed = self.session.armed()?;
        let exited = |pid| self.session.proc_counts(pid).unwrap_or_default();
        let regions = |pid, window| self.regions_so_far(pid, window);
        let profiles = self.collector.running(&armed, &live, refreshed_ns, exited, regions);
        self.collector.count_running(profiles, &mut self.records);
        let running = armed.len() as u64;
        if self.intervals {
            self.tell(self.collector.totals.clone(), running);
        }
        self.emit();
        self.check_losses()?;
        let counters = self.session.counters()?;
        let at = |c: Counter| counters[c as usize];
        let regions = self.session.region_counters()?;
        let mut lost: Vec<_> = LOSSES
            .iter()
            .map(|(c, reason)| (*reason, at(*c)))
            .chain(REGION_LOSSES.iter().map(|(c, reason)| (*reason, regions[*c as usize])))
            .chain([
                (LossReason::HookSkipped, self.session.skipped()),
                (LossReason::Malformed, self.collector.malformed),
            ])
            .filter(|(_, n)| *n > 0)
            .collect();
        lost.sort();
        let end = End {
            time_ns: clock::now_ns(ClockId::Realtime),
            duration_ns: self.began.elapsed().as_nanos() as u64,
            enabled: at(Counter::Enabled)
                + self.attached
                + regions[RegionCounter::SwitchedOn as usize],
            disabled: self.collector.disabled,
            running,
            lost,
            execs_seen: at(Counter::Execs),
            execs_kernel: self.session.kernel_execs(),
            totals: self.collector.totals.clone(),
            processes: self.collector.processes,
            bpf_ns: None,
        };
        self.records.push(Record::End(Box::new(end)));
        self.emit();
        let finished = self.outputs.finish();
        let shown = self.stacks.map_or(Ok(()), stacks::Running::finish);
        finished.and(shown)
    }
}
