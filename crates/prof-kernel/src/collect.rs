//! From what the kernel half reports to the records of the stream: the one place
//! where the two meet. Keeps what was learned of a process when it was switched
//! on until it is switched off.

use std::collections::HashMap;
use std::collections::HashSet;

use prof_model::counters::Count;
use prof_model::figures::Context;
use prof_model::figures::Event;
use prof_model::figures::EventSet;
use prof_model::figures::Figures;
use prof_model::figures::Keeps;
use prof_model::figures::Quality;
use prof_model::figures::RawFigures;
use prof_model::figures::Value;
use prof_model::record::Exit;
use prof_model::record::Flags;
use prof_model::record::Ident;
use prof_model::record::Key;
use prof_model::record::Process;
use prof_model::record::ProfEvent;
use prof_model::record::Profile;
use prof_model::record::Record;
use prof_model::record::Region;
use prof_model::record::ThreadFigures;
use prof_model::record::Window;
use prof_model::record::WindowEnd;
use prof_model::record::WindowStart;

use crate::abi;
use crate::abi::AbiCount;
use crate::abi::AbiProc;
use crate::abi::RawRecord;
use crate::abi::RecDisable;
use crate::abi::RecEnable;
use crate::abi::RecThread;
use crate::clock;
use crate::host;
use crate::regions::RegionSum;
use crate::session::Heard;
use crate::session::LiveThread;

/// `enum prof_hook`.
fn hook_name(hook: u16) -> &'static str {
    match hook {
        1 => "sched_process_exec",
        2 => "sched_process_exit",
        3 => "sched_process_fork",
        4 => "do_exit",
        5 => "exec_return",
        6 => "wake_up_new_task",
        7 => "iter_task",
        8 => "probe",
        _ => "none",
    }
}

/// `enum prof_start`.
fn window_start(start: u16) -> WindowStart {
    match start {
        1 => WindowStart::TaskRename,
        3 => WindowStart::ExecEntry,
        4 => WindowStart::Fork,
        5 => WindowStart::Attach,
        _ => WindowStart::SchedProcessExec,
    }
}

/// Processes that are remembered while they have switched themselves off.
const MAX_OFF: usize = 1 << 16;

/// Turns raw records into records.
#[derive(Debug)]
pub struct Collector {
    events: EventSet,
    keeps: Keeps,
    realtime_offset: i64,
    live: HashMap<Key, Process>,
    /// Processes that have switched themselves off. Nobody tells when such a one ends:
    /// they are forgotten when there are too many.
    off: HashMap<Key, Process>,
    /// The image that each pid runs, for children that inherit it.
    running: HashMap<u32, Key>,
    threads: HashMap<Key, Vec<ThreadFigures>>,
    /// Processes (pid, start) whose image before this one was profiled as well:
    /// their main thread is in the totals already.
    continued: HashSet<(u32, u64)>,
    /// Images whose probes were found when they ran already.
    late: HashSet<Key>,
    /// Sum over the profiles so far.
    pub totals: Figures,
    /// Processes in `totals`, however many images each had.
    pub processes: u64,
    /// Disable records received.
    pub disabled: u64,
    /// Records that could not be decoded.
    pub malformed: u64,
}

impl Collector {
    /// For a stream of these events on this kernel.
    pub fn new(events: EventSet, keeps: Keeps) -> Self {
        Self {
            events,
            keeps,
            realtime_offset: clock::realtime_offset(),
            live: HashMap::new(),
            off: HashMap::new(),
            running: HashMap::new(),
            threads: HashMap::new(),
            continued: HashSet::new(),
            late: HashSet::new(),
            totals: Figures::absent("no process was measured"),
            processes: 0,
            disabled: 0,
            malformed: 0,
        }
    }

    /// The clock may have been set: to be called now and then.
    pub fn resync(&mut self) {
        self.realtime_offset = clock::realtime_offset();
    }

    /// Time of day, ns, of a CLOCK_MONOTONIC time.
    pub fn realtime(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_add_signed(self.realtime_offset)
    }

    /// Processes switched on and not yet off.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// The probes of what this process runs were found only now.
    pub fn found_late(&mut self, pid: u32) {
        self.late.extend(self.running.get(&pid));
    }

    /// The records that a raw record, with what else was heard, gives rise to.
    pub fn push(
        &mut self,
        raw: Result<RawRecord, abi::DecodeError>,
        heard: &Heard,
        out: &mut Vec<Record>,
    ) {
        match raw {
            Ok(RawRecord::Enable { rec, path, args }) => {
                if heard.late {
                    self.late.insert(Ident::from(&rec.id).key());
                }
                out.push(self.enable(&rec, path, &args));
            }
            Ok(RawRecord::Disable { rec, counts }) => {
                self.disable(&rec, &counts, &heard.regions, out);
            }
            Ok(RawRecord::Thread { rec, counts }) => self.thread(&rec, &counts),
            // They come with the figures of their window.
            Ok(RawRecord::Region(_)) => {}
            Err(_) => self.malformed += 1,
        }
    }

    fn enable(&mut self, rec: &RecEnable, path: Vec<u8>, args: &[u8]) -> Record {
        let ident = Ident::from(&rec.id);
        let quality = Quality(rec.head.quality);
        // A child runs its parent's image until it executes its own.
        let parent = (ident.exec == 0)
            .then(|| self.running.get(&ident.ppid))
            .flatten()
            .and_then(|k| self.live.get(k).or_else(|| self.off.get(k)));
        let process = if Flags(rec.head.flags.into()).has(Flags::REQUEST) {
            self.switched_on(ident)
        } else {
            Process {
                exe: if path.is_empty() { parent.and_then(|p| p.exe.clone()) } else { Some(path) },
                args: if args.is_empty() {
                    parent.and_then(|p| p.args.clone())
                } else {
                    Some(host::split_args(args))
                },
                args_cut: quality.has(Quality::ARGS_CUT),
                container_id: (rec.has_container != 0)
                    .then(|| String::from_utf8_lossy(&rec.container_id).into_owned()),
                ident,
            }
        };
        let record = self.event(
            rec.head.time_ns,
            rec.head.cpu,
            rec.head.hook,
            rec.head.flags.into(),
            rec.rules,
            process.clone(),
        );
        self.insert(process);
        record
    }

    /// A process that has switched itself off goes on.
    fn switched_on(&mut self, ident: Ident) -> Process {
        match self.off.remove(&ident.key()) {
            Some(known) => Process { ident, ..known },
            None => Process {
                exe: host::exe_of(ident.pid),
                args: host::args_of(ident.pid),
                ident,
                ..Process::default()
            },
        }
    }

    fn insert(&mut self, process: Process) {
        let key = process.ident.key();
        self.running.insert(key.pid, key);
        self.live.insert(key, process);
    }

    fn event(
        &self,
        monotonic_ns: u64,
        cpu: u32,
        hook: u16,
        flags: u64,
        rules: u64,
        process: Process,
    ) -> Record {
        Record::Prof(Box::new(ProfEvent {
            time_ns: self.realtime(monotonic_ns),
            cpu,
            process,
            flags: Flags(flags),
            events: self.events,
            rules,
            hook: hook_name(hook),
        }))
    }

    fn disable(
        &mut self,
        rec: &RecDisable,
        counts: &[AbiCount],
        regions: &[RegionSum],
        out: &mut Vec<Record>,
    ) {
        self.disabled += 1;
        let ident = Ident::from(&rec.id);
        let key = ident.key();
        let by_request = Flags(rec.head.flags.into()).has(Flags::REQUEST);
        if self.running.get(&key.pid) == Some(&key) && !by_request {
            self.running.remove(&key.pid);
        }
        let quality = Quality(rec.head.quality);
        // Without its enable record (lost), there is no path and no arguments.
        let known = self.live.remove(&key);
        let unannounced = known.is_none() && quality.has(Quality::DIED_IN_EXEC);
        let process = Process { ident, ..known.unwrap_or_default() };
        if by_request {
            if self.off.len() >= MAX_OFF {
                self.off.clear();
            }
            self.off.insert(key, process.clone());
        }
        if unannounced {
            // It died before its exec hook: the exit hook told of both.
            out.push(self.event(
                rec.window_start_ns,
                rec.head.cpu,
                rec.head.hook,
                Flags::ENABLE | Flags::EXEC,
                rec.rules,
                process.clone(),
            ));
        }
        let mut flags = Flags(rec.head.flags.into());
        let exited = flags.has(Flags::EXIT);
        let window = Window {
            start_ns: rec.window_start_ns,
            end_ns: rec.window_end_ns,
            start: window_start(rec.start),
            end: match () {
                () if by_request => WindowEnd::Request,
                () if !exited => WindowEnd::Exec,
                () if quality.has(Quality::DIED_IN_EXEC) => WindowEnd::DiedInExec,
                () if quality.has(Quality::NO_MM_END) => WindowEnd::ExitAfterMm,
                () => WindowEnd::Exit,
            },
        };
        let mut figures = self.figures(
            &(&rec.figures).into(),
            Some(window.end_ns.saturating_sub(window.start_ns)),
            rec.peak_rss,
            rec.threads,
            quality,
        );
        figures.counts = counts.iter().map(Count::from).collect();
        let partial = self.events.iter().any(|e| figures.get(e).get().is_none());
        if partial || quality.has(Quality::CLOCK_STALE) || quality.has(Quality::COUNTS_PART) {
            flags.0 |= Flags::PARTIAL;
        }
        if window.start == WindowStart::Attach {
            flags.0 |= Flags::ATTACH;
        }
        out.push(self.event(
            rec.head.time_ns,
            rec.head.cpu,
            rec.head.hook,
            flags.0,
            rec.rules,
            process.clone(),
        ));
        let mut notes = notes(self.concerns(quality), window.start);
        notes.extend(self.notes_on_regions(&key, regions));
        self.late.remove(&key);
        let profile = Profile {
            time_ns: self.realtime(window.end_ns),
            process,
            flags,
            events: self.events,
            rules: rec.rules,
            figures,
            threads: self.threads.remove(&key).unwrap_or_default(),
            regions: self.regions(regions),
            exit: exited.then_some(Exit { status: rec.exit_code }),
            window,
            notes,
        };
        out.push(self.count(profile));
    }

    fn count(&mut self, profile: Profile) -> Record {
        let key = profile.process.ident.key();
        let mut figures = profile.figures.clone();
        if self.continued.remove(&(key.pid, key.start_ns)) {
            without_main_thread(&mut figures);
        } else {
            self.processes += 1;
        }
        if matches!(profile.window.end, WindowEnd::Exec | WindowEnd::Request) {
            self.continued.insert((key.pid, key.start_ns));
        }
        self.totals.add(&figures);
        Record::Profile(Box::new(profile))
    }

    fn figures(
        &self,
        raw: &RawFigures,
        wall_ns: Option<u64>,
        peak_rss: u64,
        threads: u32,
        quality: Quality,
    ) -> Figures {
        Figures::from_raw(raw, &Context { wall_ns, peak_rss, threads, quality, kernel: self.keeps })
    }

    /// What concerns the figures that were asked for.
    fn concerns(&self, quality: Quality) -> Quality {
        let of = [(Event::TaskClock, Quality::CLOCK_STALE), (Event::PeakRss, Quality::RSS_APPROX)];
        let others = of.iter().filter(|(event, _)| !self.events.contains(*event));
        Quality(others.fold(quality.0, |q, (_, bit)| q & !bit))
    }

    /// The regions of a window, as records have them.
    pub fn regions(&self, sums: &[RegionSum]) -> Vec<Region> {
        sums.iter().map(|s| self.region(s)).collect()
    }

    fn region(&self, of: &RegionSum) -> Region {
        let sum = &of.sum;
        let figures = if sum.ended == 0 {
            Figures::absent(NONE_ENDED)
        } else {
            let mut figures =
                self.figures(&(&sum.figures).into(), Some(sum.wall_ns), 0, 0, Quality(0));
            figures.set(Event::PeakRss, Value::Absent(NOT_OF_REGIONS));
            figures.set(Event::Threads, Value::Absent(NOT_OF_REGIONS));
            figures.counts = of.counts.iter().map(Count::from).collect();
            figures
        };
        Region {
            name: of.key.name().to_vec(),
            begun: sum.begun,
            ended: sum.ended,
            shortest_ns: !sum.shortest_not_ns,
            longest_ns: sum.longest_ns,
            figures,
        }
    }

    fn notes_on_regions(&self, key: &Key, sums: &[RegionSum]) -> Vec<&'static str> {
        let quality = Quality(sums.iter().fold(0, |q, s| q | s.sum.quality as u16));
        let all = [
            (
                self.late.contains(key),
                "regions: those that began before prof had found the program's probes are missing",
            ),
            (
                quality.has(Quality::CLOCK_STALE),
                "regions: task-clock is, for some, as of the scheduler's last update, up to a tick old",
            ),
            (quality.has(Quality::COUNTS_PART), "regions: counts are missing for some of them"),
        ];
        all.into_iter().filter(|(is, _)| *is).map(|(_, note)| note).collect()
    }

    fn thread(&mut self, rec: &RecThread, counts: &[AbiCount]) {
        let key = Key { pid: rec.pid, start_ns: rec.start_ns, exec: rec.exec };
        self.threads.entry(key).or_default().push(ThreadFigures {
            tid: rec.tid,
            comm: abi::until_nul(&rec.comm).to_vec(),
            start_ns: rec.thread_start_ns,
            raw: (&rec.figures).into(),
            counts: counts.iter().map(Count::from).collect(),
        });
    }

    /// Events for processes that were attached to in mid-life: nobody but user
    /// space knows when that was.
    pub fn attached(&mut self, live: &[LiveThread], pids: &[u32], out: &mut Vec<Record>) -> u64 {
        let now = clock::now_ns(rustix::time::ClockId::Monotonic);
        let mut n = 0;
        for pid in pids {
            let threads = || live.iter().map(|l| &l.task).filter(|l| l.id.pid == *pid);
            // The leader may be gone.
            let leader = threads().find(|l| l.id.tid == l.id.pid);
            let Some(l) = leader.or_else(|| threads().next()) else { continue };
            let ident = Ident::from(&l.id);
            let process = Process {
                exe: host::exe_of(ident.pid),
                args: host::args_of(ident.pid),
                ident,
                ..Process::default()
            };
            let flags = Flags::ENABLE | Flags::REQUEST | Flags::ATTACH;
            out.push(self.event(now, 0, 7, flags, l.rules, process.clone()));
            self.insert(process);
            n += 1;
        }
        n
    }

    /// Whether some process may have switched itself off, and on again later.
    pub fn any_off(&self) -> bool {
        !self.off.is_empty()
    }

    /// Whether it was told to be switched on, and not yet to be off.
    pub fn is_live(&self, key: &Key) -> bool {
        self.live.contains_key(key)
    }

    /// The totals, with those of processes that still run.
    pub fn totals_with(&self, running: &[Profile]) -> Figures {
        let mut totals = self.totals.clone();
        for p in running {
            let ident = &p.process.ident;
            let mut figures = p.figures.clone();
            if self.continued.contains(&(ident.pid, ident.start_ns)) {
                without_main_thread(&mut figures);
            }
            totals.add(&figures);
        }
        totals
    }

    /// Profiles, so far, of processes that still run. `exited` tells the counts of a
    /// process but for those of its live threads: base line, next, threads that have
    /// exited. `refreshed_ns` is when the counts were last brought up to date where
    /// they may be, CLOCK_MONOTONIC. `regions` tells those so far of a process and a
    /// window.
    pub fn running(
        &self,
        armed: &std::collections::BTreeMap<u32, AbiProc>,
        live: &[LiveThread],
        refreshed_ns: u64,
        exited: impl Fn(u32) -> Vec<[AbiCount; 3]>,
        regions: impl Fn(u32, u64) -> Vec<RegionSum>,
    ) -> Vec<Profile> {
        let now = clock::now_ns(rustix::time::ClockId::Monotonic);
        let mut sums: HashMap<u32, LiveSum> = HashMap::new();
        for l in live {
            let sum = sums.entry(l.task.id.pid).or_insert_with(|| LiveSum::new(l));
            sum.add(l);
            if l.on_cpu && !l.counts.is_empty() && l.counts_ns < refreshed_ns {
                sum.age_ns = sum.age_ns.max(now.saturating_sub(l.counts_ns));
            }
        }
        let mut profiles = Vec::with_capacity(armed.len());
        for (pid, p) in armed {
            let sample = sums.get(pid).filter(|s| s.of.id.start_ns == p.id.start_ns);
            let ident = Ident::from(&p.id);
            let known = self.live.get(&ident.key()).cloned().unwrap_or_default();
            let start = window_start(p.start);
            let (figures, mut notes) = match sample {
                Some(sum) => {
                    let raw = sum.raw.plus(&(&p.acc).into()).since(&(&p.base).into());
                    let part = if sum.counts_part { Quality::COUNTS_PART } else { 0 };
                    let of_entry = p.quality & Quality::COUNTS_PART;
                    let quality = Quality(sum.of.quality as u16 | part | of_entry);
                    let wall = now.saturating_sub(p.t0);
                    let mut figures =
                        self.figures(&raw, Some(wall), sum.of.peak_rss, p.threads, quality);
                    let of_exited = exited(*pid);
                    let counts = sum.counts.iter().zip(&of_exited);
                    figures.counts = counts
                        .map(|(live, [base, _, acc])| {
                            live.plus(&Count::from(acc)).since(&Count::from(base))
                        })
                        .collect();
                    figures.counts_age_ns = sum.age_ns;
                    let quality = Quality(quality.0 & !Quality::CLOCK_STALE);
                    (figures, notes(self.concerns(quality), start))
                }
                None => (Figures::absent(BEGAN_AT_THE_END), Vec::new()),
            };
            notes.push("still running: figures are as of the last tick or switch of each thread");
            let regions = regions(*pid, p.t0);
            notes.extend(self.notes_on_regions(&ident.key(), &regions));
            let attach = if start == WindowStart::Attach { Flags::ATTACH } else { 0 };
            let profile = Profile {
                time_ns: self.realtime(now),
                process: Process { ident, ..known },
                flags: Flags(Flags::REQUEST | Flags::PARTIAL | attach),
                events: self.events,
                rules: p.rules,
                figures,
                threads: Vec::new(),
                regions: self.regions(&regions),
                exit: None,
                window: Window { start_ns: p.t0, end_ns: now, start, end: WindowEnd::Running },
                notes,
            };
            profiles.push(profile);
        }
        profiles
    }

    /// The session was paused: `profiles` are those of the processes that were being
    /// profiled, up to now.
    pub fn paused(&mut self, profiles: Vec<Profile>, out: &mut Vec<Record>) {
        for mut p in profiles {
            let key = p.process.ident.key();
            p.window.end = WindowEnd::Request;
            let whole = !p.notes.contains(&COUNTS_PART);
            let partial = if whole { Flags::PARTIAL } else { 0 };
            p.flags = Flags(p.flags.0 & !partial | Flags::REQUEST);
            self.live.remove(&key);
            self.disabled += 1;
            out.push(Record::Prof(Box::new(ProfEvent {
                time_ns: p.time_ns,
                cpu: 0,
                process: p.process.clone(),
                flags: p.flags,
                events: p.events,
                rules: p.rules,
                hook: hook_name(7),
            })));
            out.push(self.count(p));
        }
    }

    /// The last word on processes that still run: in the totals from now on.
    pub fn count_running(&mut self, profiles: Vec<Profile>, out: &mut Vec<Record>) {
        for p in profiles {
            out.push(self.count(p));
        }
    }
}

/// The main thread was counted with an earlier image of the process.
fn without_main_thread(figures: &mut Figures) {
    if let Value::Is(n) = figures.get(Event::Threads) {
        let more = n.saturating_sub(1);
        figures.set(Event::Threads, Value::Is(more));
    }
}

/// Sum over the live threads of a process.
struct LiveSum {
    /// The leader; another thread if it has exited.
    of: crate::abi::AbiLive,
    raw: RawFigures,
    counts: Vec<Count>,
    /// Whether some of them lack a part.
    counts_part: bool,
    /// How old the counts may be.
    age_ns: u64,
}

impl LiveSum {
    fn new(first: &LiveThread) -> Self {
        let counts = vec![Count::default(); first.counts.len()];
        let raw = RawFigures::default();
        Self { of: first.task, raw, counts, counts_part: false, age_ns: 0 }
    }

    fn add(&mut self, l: &LiveThread) {
        if l.task.id.tid == l.task.id.pid {
            self.of = l.task;
        }
        self.raw = self.raw.plus(&(&l.task.figures).into());
        self.counts_part |= l.counts_part;
        self.counts.resize(self.counts.len().max(l.counts.len()), Count::default());
        for (sum, count) in self.counts.iter_mut().zip(&l.counts) {
            *sum = sum.plus(&count.into());
        }
    }
}

/// Why a region has no figures.
const NONE_ENDED: &str = "none of these regions has ended";
const NOT_OF_REGIONS: &str = "has no meaning for a region";

/// The counts are less than there was.
const COUNTS_PART: &str = "a part of the counts is missing: no room, or a switch that no hook saw";

/// It was switched on between the last reading and the end of the session.
const BEGAN_AT_THE_END: &str = "it began in the moment in which prof ended";

fn notes(quality: Quality, start: WindowStart) -> Vec<&'static str> {
    let all = [
        (Quality::CLOCK_STALE, "task-clock is as of the scheduler's last update, up to a tick old"),
        (Quality::RSS_APPROX, "peak-rss is off by up to 128 KiB for each CPU that was run on"),
        (Quality::DIED_IN_EXEC, "killed inside execve, past the point of no return"),
        (Quality::ARGS_CUT, "the arguments were cut"),
        (Quality::COUNTS_PART, COUNTS_PART),
        (Quality::PATH_CUT, "the path of the executable was cut at its front"),
    ];
    let mut notes: Vec<_> = all.iter().filter(|(b, _)| quality.has(*b)).map(|(_, n)| *n).collect();
    match start {
        WindowStart::SchedProcessExec => {
            notes.push("the window starts later: the loading of the program is not in the figures");
        }
        WindowStart::Attach => notes.push("peak-rss is of the whole life of the program"),
        _ => {}
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::AbiLive;
    use crate::abi::Plain as _;

    fn thread(counts_ns: u64, on_cpu: bool) -> LiveThread {
        let mut task = AbiLive::from_bytes(&[0; size_of::<AbiLive>()]).unwrap();
        task.id.pid = 7;
        task.id.tid = 7;
        let counts = vec![AbiCount { value: 1, enabled: 1, running: 1 }];
        LiveThread { task, counts, counts_ns, counts_part: false, on_cpu }
    }

    #[test]
    fn only_counts_that_go_on_and_were_not_refreshed_grow_old() {
        let keeps = Keeps { run_delay: true, io_chars: true, io_bytes: true };
        let collector = Collector::new(EventSet::ALL, keeps);
        let now = clock::now_ns(rustix::time::ClockId::Monotonic);
        let mut p = AbiProc::zeroed();
        p.id.pid = 7;
        let armed = std::collections::BTreeMap::from([(7, p)]);
        let age = |threads: &[LiveThread]| {
            let profiles =
                collector.running(&armed, threads, now, |_| Vec::new(), |_, _| Vec::new());
            profiles[0].figures.counts_age_ns
        };
        let old = now - 5_000_000_000;
        assert_eq!(age(&[thread(old, false), thread(now, true)]), 0);
        assert!(age(&[thread(old, true), thread(now, true)]) >= 5_000_000_000);
        let uncounted = LiveThread { counts: Vec::new(), counts_ns: 0, ..thread(0, true) };
        assert_eq!(age(&[uncounted]), 0);
    }
}
