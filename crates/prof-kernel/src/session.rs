//! A loaded and attached kernel half.

mod listen;

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use prof_model::figures::Value;
use prof_model::record::Attached;
use prof_model::rules::Tables;
use rustix::time::ClockId;

use crate::abi;
use crate::abi::AbiCount;
use crate::abi::AbiLive;
use crate::abi::AbiMatch;
use crate::abi::AbiProc;
use crate::abi::Config;
use crate::abi::Globals;
use crate::abi::IterMode;
use crate::abi::NR_COUNTERS;
use crate::abi::NumKey;
use crate::abi::Plain as _;
use crate::abi::RawRecord;
use crate::abi::StrKey;
use crate::clock;
use crate::counters;
use crate::counters::CounterSpec;
use crate::counters::Counters;
use crate::counters::Slots;
use crate::counters::own_counters;
use crate::host;
use crate::kprobes::Kprobes;
use crate::limits;
use crate::loader;
use crate::loader::Loaded;
use crate::regions::Known;
use crate::regions::RegionSum;
use crate::regions::Regions;
use crate::sampler::Sampler;
use crate::sampler::StackPlan;
use crate::sys;
use crate::sys::Occupied;
use crate::sys::Ring;

/// How the hooks are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Tracepoints with typed arguments: needs the kernel's BTF for each load.
    TpBtf,
    /// Tracepoints with raw arguments.
    RawTp,
    /// Probes on kernel functions.
    Kprobe,
}

impl Backend {
    /// Each of them, the cheapest first. `raw_tp` and `tp_btf` cost the same per
    /// event (they are dispatched alike), but a `tp_btf` load has the kernel check
    /// argument types against BTF.
    pub const ALL: [Backend; 3] = [Backend::RawTp, Backend::TpBtf, Backend::Kprobe];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Backend::TpBtf => "tp_btf",
            Backend::RawTp => "raw_tp",
            Backend::Kprobe => "kprobe",
        }
    }

    fn programs(self) -> &'static [&'static str] {
        match self {
            Backend::RawTp => {
                &["raw_process_exit", "raw_process_fork", "raw_process_exec", "raw_task_rename"]
            }
            Backend::TpBtf => {
                &["btf_process_exit", "btf_process_fork", "btf_process_exec", "btf_task_rename"]
            }
            Backend::Kprobe => &["kprobe_exit", "kprobe_new_task", "kretprobe_exec", "kprobe_exec"],
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A thread that lives, with its figures so far.
#[derive(Debug, Clone)]
pub struct LiveThread {
    /// Who, and what the kernel keeps.
    pub task: AbiLive,
    /// Of each counter; empty if it is not counted.
    pub counts: Vec<AbiCount>,
    /// When the counts were last brought up to date, CLOCK_MONOTONIC.
    pub counts_ns: u64,
    /// Whether they lack a part: slices whose beginning no hook saw.
    pub counts_part: bool,
    /// Whether it runs now, so that its counts go on.
    pub on_cpu: bool,
}

/// What has become of an attach.
#[derive(Debug, Clone, Default)]
pub struct Attach {
    /// Profiled from now on.
    pub attached: Vec<u32>,
    /// Not profiled, and why.
    pub missed: Vec<(u32, Missed)>,
}

/// Why a process is not attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// All its threads have exited, or are about to.
    Gone,
    /// It is there, and the kernel does not show it to BPF programs that go through all
    /// tasks.
    Hidden,
}

impl Missed {
    /// What to say of this process.
    pub fn of(self, pid: u32) -> String {
        match self {
            Self::Gone if host::is_zombie(pid) => {
                format!("{pid} has exited, and waits for its parent to take notice (a zombie)")
            }
            Self::Gone => format!("{pid} exited before prof was attached"),
            Self::Hidden => format!(
                "{pid} runs, but this kernel leaves it out when BPF programs go through all \
                 tasks, so that its figures as of now cannot be read: only what it starts can be \
                 profiled (prof watch -s tree={pid})"
            ),
        }
    }
}

/// What a session is to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// A certain backend, or the cheapest that works.
    pub backend: Option<Backend>,
    /// BTF of the kernel, if not where it usually is.
    pub btf: Option<PathBuf>,
    /// Where prepared programs are kept; `None`: nowhere.
    pub cache: Option<PathBuf>,
    /// The rules, compiled.
    pub tables: Tables,
    /// Bytes of the ring buffer; rounded up to a power of two of pages.
    pub ring_bytes: u32,
    /// Most processes profiled at once.
    pub max_processes: u32,
    /// Whether arguments are reported.
    pub read_args: bool,
    /// Whether each thread is reported.
    pub per_thread: bool,
    /// Whether the kernel's own count of execs is kept beside ours.
    pub count_execs: bool,
    /// Perf events to attribute to processes.
    pub counters: Vec<CounterSpec>,
    /// Whether [`Session::attach_to`] or [`Session::resume`] will be called.
    pub attaches: bool,
    /// Whether to begin paused: see [`Session::resume`].
    pub start_paused: bool,
    /// Stacks to be sampled, by a [`Sampler`](crate::sampler::Sampler).
    pub stacks: Option<StackPlan>,
    /// Whether to attach to the probes by which programs name their regions.
    pub regions: bool,
    /// The program whose probes are attached to before anything is profiled.
    pub program: Option<PathBuf>,
}

/// What a record of the kernel half gives rise to besides itself.
#[derive(Debug, Default)]
pub struct Heard {
    /// The probes of its program were found only now.
    pub late: bool,
    /// The regions of the window that ends.
    pub regions: Vec<RegionSum>,
}

/// A loaded and attached kernel half. Detaches when dropped.
#[derive(Debug)]
pub struct Session {
    loaded: Loaded,
    /// Loaded when it is first needed: most runs end without.
    iterator: Option<Loaded>,
    config: Config,
    btf: Option<PathBuf>,
    cache: Option<PathBuf>,
    ring: Ring,
    occupied: Occupied,
    backend: Backend,
    attached: Vec<Attached>,
    limits: Vec<String>,
    cpus: usize,
    /// Hooks stay attached, and clocks and counters open, as long as these are.
    links: Vec<OwnedFd>,
    _clocks: Vec<(u32, OwnedFd)>,
    counters: Counters,
    /// Or why there are none.
    exec_counts: Result<Vec<OwnedFd>, &'static str>,
    starts_paused: bool,
    /// `None`: nobody wants regions.
    known: Option<Known>,
    /// Loaded when the first program with probes is found: most have none.
    regions: Option<Regions>,
    region_sizes: [(&'static str, u32); 4],
    /// Most threads that there is room for.
    threads: u32,
}

impl Session {
    /// Loads and attaches. From its return on, every exec that a rule names is
    /// profiled.
    pub fn open(plan: &Plan) -> Result<Self> {
        counters::check_number(plan.counters.len())?;
        limits::raise();
        let backends = match &plan.backend {
            Some(b) => std::slice::from_ref(b),
            None => &Backend::ALL,
        };
        let mut first_error = None;
        for backend in backends {
            match Self::open_with(plan, *backend) {
                Ok(session) => return Ok(session),
                Err(e) => first_error = first_error.or(Some(e)),
            }
        }
        Err(first_error.unwrap_or_else(|| anyhow!("no way to attach was tried")))
    }

    fn open_with(plan: &Plan, backend: Backend) -> Result<Self> {
        let online = host::online_cpus()?;
        let possible = host::possible_cpus()?;
        let mut limits = Vec::new();
        // First of all: calibration expects no other event in this thread.
        let clocks = clock::open_cpu_clocks(&online).unwrap_or_else(|e| {
            limits.push(format!(
                "task-clock is as of the scheduler's last update (a tick): \
                 no per-CPU cpu-clock event could be opened: {e}"
            ));
            Vec::new()
        });
        let ring_bytes = ring_size(plan.ring_bytes);
        let config = config(plan, backend, possible, !clocks.is_empty(), ring_bytes);

        let mut programs = backend.programs().to_vec();
        if !plan.counters.is_empty() {
            programs.extend(["raw_switch", "raw_refresh"]);
        }
        if config.own_counters != 0 {
            programs.push("prof_find_event");
        }
        if !clocks.is_empty() {
            programs.push("prof_calibrate");
        }
        let loaded = loader::load(&loader::Spec {
            objects: &loader::LIFECYCLE,
            programs: &programs,
            config: &config,
            sizes: &map_sizes(plan, backend, ring_bytes, possible),
            value_sizes: &value_sizes(plan.counters.len()),
            btf: plan.btf.as_deref(),
            reuse: None,
            cache: plan.cache.clone(),
        })
        .with_context(|| format!("hooks of kind {backend}"))?;

        if !clocks.is_empty() {
            clock::install(loaded.map("cpu_clock")?, &clocks).context("cpu_clock events")?;
            // Without it (before 5.14) the programs see no clock and say so.
            if let Err(e) = calibrate(&loaded) {
                limits.push(format!("task-clock is as of the last tick: no calibration: {e}"));
            }
        }
        // After the calibration, which must not find them.
        let counters = Counters::open(&plan.counters, &online)?;
        counters.install(&slots(&loaded, &config)?)?;
        fill_rules(&loaded, &plan.tables)?;
        let ring = Ring::new(loaded.map("records")?).context("ring buffer")?;
        let occupied = Occupied::new(loaded.map(".bss.occupied")?).context("table of tgids")?;
        let mut session = Self {
            loaded,
            iterator: None,
            config,
            btf: plan.btf.clone(),
            cache: plan.cache.clone(),
            ring,
            occupied,
            backend,
            attached: Vec::new(),
            limits,
            cpus: possible,
            links: Vec::new(),
            _clocks: clocks,
            counters,
            exec_counts: Err(NO_EXEC_COUNTS),
            starts_paused: plan.start_paused,
            known: plan.regions.then(Known::default),
            regions: None,
            region_sizes: listen::region_sizes(plan.max_processes),
            threads: threads(plan),
        };
        // Before the hook of exits: what a thread's exit ends is to be there when the
        // process's is told.
        if let Some(program) = &plan.program {
            session.listen_to(program);
        }
        if plan.count_execs {
            session.open_exec_counts(&online);
        }
        session.seed_tree(&plan.tables)?;
        if plan.start_paused {
            session.hold()?;
        }
        session.attach()?;
        if !plan.tables.tree_roots.is_empty() {
            session.follow_descendants(&plan.tables)?;
        }
        Ok(session)
    }

    /// Attaches, the exit hook first: whatever the others note, its end is seen.
    fn attach(&mut self) -> Result<()> {
        if self.config.counters > 0 {
            let hook = c"sched_switch";
            self.attach_tracepoint("raw_switch", hook, Some(hook), "raw_tp")?;
        }
        match self.backend {
            Backend::RawTp => {
                for (prog, hook) in [
                    ("raw_process_exit", c"sched_process_exit"),
                    ("raw_process_fork", c"sched_process_fork"),
                    ("raw_process_exec", c"sched_process_exec"),
                    ("raw_task_rename", c"task_rename"),
                ] {
                    self.attach_tracepoint(prog, hook, Some(hook), "raw_tp")?;
                }
            }
            Backend::TpBtf => {
                for (prog, hook) in [
                    ("btf_process_exit", c"sched_process_exit"),
                    ("btf_process_fork", c"sched_process_fork"),
                    ("btf_process_exec", c"sched_process_exec"),
                    ("btf_task_rename", c"task_rename"),
                ] {
                    self.attach_tracepoint(prog, hook, None, "tp_btf")?;
                }
            }
            Backend::Kprobe => {
                self.attach_kprobe("kprobe_exit", &[c"do_exit"], false)?;
                self.attach_kprobe("kprobe_new_task", &[c"wake_up_new_task"], false)?;
                self.attach_kprobe("kretprobe_exec", EXEC_FUNCTIONS, true)?;
                self.attach_kprobe("kprobe_exec", EXEC_FUNCTIONS, false)?;
            }
        }
        Ok(())
    }

    fn attach_tracepoint(
        &mut self,
        prog: &str,
        hook: &CStr,
        name: Option<&CStr>,
        how: &'static str,
    ) -> Result<()> {
        let hook = hook.to_string_lossy().into_owned();
        let link = sys::raw_tracepoint_open(name, self.loaded.prog(prog)?)
            .with_context(|| format!("attaching to {hook} as {how}"))?;
        self.links.push(link);
        self.attached.push(Attached { hook, how });
        Ok(())
    }

    fn attach_kprobe(&mut self, prog: &str, functions: &[&CStr], on_return: bool) -> Result<()> {
        let prog = self.loaded.prog(prog)?;
        let (link, function) = Kprobes::find()?.attach(functions, on_return, prog)?;
        self.links.push(link);
        let how = if on_return { "kretprobe" } else { "kprobe" };
        self.attached.push(Attached { hook: function.to_string_lossy().into_owned(), how });
        Ok(())
    }

    /// The tracepoint's own perf counter, on each CPU. An oracle for the number
    /// of execs: what cannot be had is only told.
    fn open_exec_counts(&mut self, online: &[u32]) {
        let open = || -> Result<Vec<OwnedFd>> {
            let id = tracepoint_id("sched", "sched_process_exec")?;
            online
                .iter()
                .map(|cpu| {
                    sys::perf_open(&sys::PerfSpec {
                        kind: 2,
                        config: id,
                        pid: -1,
                        cpu: *cpu as i32,
                        inherit: false,
                        enable_on_exec: false,
                        exclude_kernel: false,
                    })
                    .context("counter of sched:sched_process_exec")
                })
                .collect()
        };
        match open() {
            Ok(fds) => self.exec_counts = Ok(fds),
            Err(e) => {
                self.exec_counts =
                    Err("its counter could not be opened: the header's limits say why");
                self.limits.push(format!("no count of execs by the kernel itself: {e:#}"));
            }
        }
    }

    /// The kernel's own count of execs since the session began.
    pub fn kernel_execs(&self) -> Value {
        let counts = match &self.exec_counts {
            Ok(counts) => counts,
            Err(why) => return Value::Absent(why),
        };
        let sum: io::Result<u64> =
            counts.iter().map(|fd| sys::perf_read(fd.as_fd()).map(|v| v[0])).sum();
        sum.map_or(Value::Absent("its counter could not be read"), Value::Is)
    }

    /// Which way the hooks are attached.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// What is attached, and how.
    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// What could not be had.
    pub fn limits(&self) -> &[String] {
        &self.limits
    }

    /// Whether the programs had been prepared before.
    pub fn from_cache(&self) -> bool {
        self.loaded.from_cache
    }

    /// Readable when much is waiting; little is not announced: poll at leisure.
    pub fn as_poll_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_epoll_fd()
    }

    /// Records that are waiting, in order; malformed ones as errors.
    pub fn consume(&mut self) -> io::Result<Vec<Result<RawRecord, abi::DecodeError>>> {
        Ok(self.ring.consume()?.iter().map(|b| abi::decode(b)).collect())
    }

    /// Counters, summed over the CPUs.
    pub fn counters(&self) -> Result<[u64; NR_COUNTERS]> {
        self.loaded.counters("cpu_state", abi::USER_HOOKS, self.cpus).context("counters")
    }

    /// Times that the kernel skipped a hook because it was already running.
    pub fn skipped(&self) -> u64 {
        self.loaded
            .progs()
            .filter_map(|(_, fd)| sys::prog_info(fd).ok())
            .map(|i| i.recursion_misses)
            .sum()
    }

    /// Run statistics by program; zero unless the kernel keeps them.
    pub fn stats(&self) -> Vec<(String, sys::ProgInfo)> {
        self.loaded.stats()
    }

    /// Loads more programs on the maps of the session, and the maps that it did without.
    fn load_more(
        &self,
        programs: &[&'static str],
        sizes: &[(&'static str, u32)],
        value_sizes: &[(&'static str, u32)],
    ) -> Result<Loaded> {
        self.later().load(programs, sizes, value_sizes, &self.loaded)
    }

    /// Changes the globals of the kernel half. It writes there itself only while it
    /// is calibrated.
    fn set_globals(&self, change: impl FnOnce(&mut Globals)) -> Result<()> {
        let mut globals = globals(&self.loaded)?;
        change(&mut globals);
        Ok(sys::map_update(self.loaded.map(".bss")?, &0u32, &globals)?)
    }

    fn iterate(&mut self, mode: IterMode) -> Result<Vec<LiveThread>> {
        self.set_globals(|g| g.iter_mode = mode as u32)?;
        let iterator = match self.iterator.take() {
            Some(loaded) => loaded,
            None => self
                .load_more(&["iter_tasks"], &[], &[])
                .context("the program that reads live processes")?,
        };
        let iterator = self.iterator.insert(iterator);
        let fd = sys::iter_open(iterator.prog("iter_tasks")?).context("task iterator")?;
        let bytes = sys::read_all(fd).context("task iterator")?;
        let counters = self.config.counters as usize;
        let tail = if counters > 0 { 16 + counters * size_of::<AbiCount>() } else { 0 };
        let one = |b: &[u8]| {
            let (fixed, tail) = b.split_at_checked(size_of::<AbiLive>())?;
            let task = AbiLive::from_bytes(fixed)?;
            let known = task.has_counts != 0;
            let counts = if known { abi::counts(tail.get(16..)?) } else { Vec::new() };
            let counts_ns = if known { u64::from_bytes(tail)? } else { 0 };
            let counts_part = known && u64::from_bytes(tail.get(8..)?)? != 0;
            let on_cpu = task.on_cpu != 0;
            Some(LiveThread { task, counts, counts_ns, counts_part, on_cpu })
        };
        Ok(bytes.chunks_exact(size_of::<AbiLive>() + tail).filter_map(one).collect())
    }

    /// Whether it began paused.
    pub fn starts_paused(&self) -> bool {
        self.starts_paused
    }

    /// From now on nothing more is armed; what would be stays known.
    pub fn hold(&mut self) -> Result<()> {
        self.set_globals(|g| g.paused = 1)
    }

    /// After [`hold`](Self::hold): nothing is armed any more. Tells the processes that
    /// were until now (pid and start), whose figures nobody will report but the
    /// caller, from a reading in between.
    pub fn pause(&mut self) -> Result<Vec<(u32, u64)>> {
        let paused = self.iterate(IterMode::Pause)?;
        Ok(paused.iter().map(|l| (l.task.id.pid, l.task.id.start_ns)).collect())
    }

    /// Arms what was not while the session was paused, from now on. Tells whom, a
    /// thread of each.
    pub fn resume(&mut self) -> Result<Vec<LiveThread>> {
        self.set_globals(|g| {
            g.paused = 0;
            g.resumed_boot_ns = clock::now_ns(ClockId::Boottime);
            g.resumed_ns = clock::now_ns(ClockId::Monotonic);
        })?;
        self.iterate(IterMode::Resume)?;
        self.iterate(IterMode::Resumed)
    }

    /// What takes the stacks of the processes of this session, which was opened with
    /// the same plan.
    pub fn sampler(&self, plan: &StackPlan) -> Result<Sampler> {
        self.load_more(&Sampler::programs(plan), &Sampler::sizes(plan, self.threads), &[])
            .and_then(|loaded| Sampler::begin(plan, loaded, self.cpus, self.later()))
            .context("sampling of stacks (it needs Linux 6.1)")
    }

    /// To load more when the session is somewhere else.
    fn later(&self) -> loader::Later {
        let (config, btf, cache) = (self.config, self.btf.clone(), self.cache.clone());
        loader::Later { config, btf, cache }
    }

    /// Detaches: from now on nothing is added.
    pub fn detach(&mut self) {
        if let Some(regions) = &mut self.regions {
            regions.detach();
        }
        self.links.clear();
    }

    /// Entries of processes that are armed.
    pub fn armed(&self) -> Result<BTreeMap<u32, AbiProc>> {
        let map = self.loaded.map("procs")?;
        let mut entries = BTreeMap::new();
        let mut key: Option<u32> = None;
        // Entries come and go meanwhile: a removed key starts over, so rounds are
        // bounded by what can be in the map.
        for _ in 0..1 << 22 {
            let Some(next) = sys::map_next_key(map, key.as_ref())? else { break };
            if let Some(p) = sys::map_lookup::<u32, AbiProc>(map, &next)?
                && p.state & abi::state::ARMED != 0
            {
                entries.insert(next, p);
            }
            key = Some(next);
        }
        Ok(entries)
    }

    /// CPUs may have come: to be called now and then.
    pub fn follow_cpus(&mut self) -> Result<()> {
        if self.config.counters == 0 {
            return Ok(());
        }
        let online = host::online_cpus()?;
        let (slots, prog) = (slots(&self.loaded, &self.config)?, self.loaded.prog("raw_refresh")?);
        self.counters.follow(&slots, &online, |cpu| refresh_on(prog, cpu))
    }

    /// Brings the counts of what runs now up to date, by interrupting the CPUs given.
    pub fn refresh(&self, cpus: &[u32]) -> Result<()> {
        if self.config.counters == 0 {
            return Ok(());
        }
        let prog = self.loaded.prog("raw_refresh")?;
        cpus.iter().try_for_each(|cpu| refresh_on(prog, *cpu))
    }

    /// Counts of the processes that are armed, but for those of live threads.
    pub fn proc_counts(&self, pid: u32) -> Result<Vec<[AbiCount; 3]>> {
        let mut bytes = vec![0u8; self.config.counters as usize * 72];
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        match sys::map_lookup_bytes(self.loaded.map("proc_counts")?, &pid, &mut bytes) {
            Ok(()) => {
                let counts = abi::counts(&bytes);
                let (of_each, _) = counts.as_chunks::<3>();
                Ok(of_each.to_vec())
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
            Err(e) => Err(e).context("counts of a process"),
        }
    }

    /// Figures so far of every live thread of every armed process.
    pub fn live(&mut self) -> Result<Vec<LiveThread>> {
        self.iterate(IterMode::Read)
    }

    /// Live processes that a rule names, with the rules in `AbiLive::rules`.
    pub fn matching(&mut self) -> Result<Vec<LiveThread>> {
        self.iterate(IterMode::List)
    }

    /// Switches profiling on for processes that already run, each with the rules
    /// that name it. Returns those that were found alive and are now profiled, and those
    /// that were not.
    pub fn attach_to(&mut self, pids: &[(u32, u64)], follow: u64) -> Result<Attach> {
        let mut asked = Vec::new();
        for (pid, rules) in pids {
            let map = self.loaded.map("procs")?;
            let known = sys::map_lookup::<u32, AbiProc>(map, pid)?;
            if known.is_some_and(|p| p.state & abi::state::ARMED != 0) {
                continue;
            }
            // One that is in a tree stays in it.
            let entry = AbiProc {
                rules: *rules,
                follow: rules & follow,
                state: abi::state::ARMED | abi::state::ATTACHING | abi::state::ATTACHED,
                start: abi::START_ATTACH,
                t0: clock::now_ns(ClockId::Monotonic),
                attach_boot_ns: clock::now_ns(ClockId::Boottime),
                // Taken back when the attach is done.
                live: 1,
                ..known.unwrap_or_else(AbiProc::zeroed)
            };
            self.occupied.add(*pid);
            sys::map_update(map, pid, &entry)
                .with_context(|| format!("pid {pid}: table of profiled processes"))?;
            asked.push(*pid);
        }
        self.iterate(IterMode::Attach)?;
        self.iterate(IterMode::Attached)?;
        // Or those that run now are counted from their next switch on only, which may be
        // long.
        self.refresh(&host::interruptible_cpus())?;
        let map = self.loaded.map("procs")?;
        let mut attach = Attach::default();
        for pid in asked {
            match sys::map_lookup::<u32, AbiProc>(map, &pid)? {
                Some(p) if p.id.start_ns == 0 || p.state & abi::state::ATTACHING != 0 => {
                    sys::map_delete(map, &pid)?;
                    // Its end would have been seen by now, or else it is in /proc.
                    let hidden = host::process_of(pid) == Some(pid);
                    attach.missed.push((pid, if hidden { Missed::Hidden } else { Missed::Gone }));
                }
                Some(p) if p.live <= 0 => {
                    sys::map_delete(map, &pid)?;
                    attach.missed.push((pid, Missed::Gone));
                }
                Some(_) => attach.attached.push(pid),
                None => attach.missed.push((pid, Missed::Gone)),
            }
        }
        Ok(attach)
    }

    fn seed_tree(&self, tables: &Tables) -> Result<()> {
        let map = self.loaded.map("procs")?;
        for (pid, m) in &tables.tree_roots {
            if !host::exists(*pid) {
                bail!("tree={pid}: the process has exited meanwhile");
            }
            let root = AbiProc {
                kids_tree_eq: m.eq,
                kids_tree_ne: m.ne,
                state: abi::state::THREADS_UNKNOWN,
                ..AbiProc::zeroed()
            };
            self.occupied.add(*pid);
            sys::map_update(map, pid, &root)?;
        }
        Ok(())
    }

    /// Descendants that were there before: once the hooks are attached, children
    /// of known processes are noted in the kernel, so scanning until nothing new
    /// is found misses none.
    fn follow_descendants(&self, tables: &Tables) -> Result<()> {
        let map = self.loaded.map("procs")?;
        for _ in 0..64 {
            let mut found = false;
            for (pid, ppid) in host::processes() {
                let Some(parent) = sys::map_lookup::<u32, AbiProc>(map, &ppid)? else { continue };
                if parent.kids_tree_eq | parent.kids_tree_ne == 0 {
                    continue;
                }
                let known = sys::map_lookup::<u32, AbiProc>(map, &pid)?;
                let (eq, ne) = (parent.kids_tree_eq, parent.kids_tree_ne);
                if known.is_some_and(|k| k.tree_eq & eq == eq && k.tree_ne & ne == ne) {
                    continue;
                }
                let mut p = known.unwrap_or_else(AbiProc::zeroed);
                p.tree_eq |= eq;
                p.tree_ne |= ne;
                p.kids_tree_eq |= eq;
                p.kids_tree_ne |= ne;
                p.state |= abi::state::THREADS_UNKNOWN;
                self.occupied.add(pid);
                sys::map_update(map, &pid, &p)?;
                found = true;
            }
            if !found {
                return Ok(());
            }
        }
        bail!(
            "the tree of {} never came to rest",
            tables.tree_roots.first().map_or(0, |(pid, _)| *pid)
        )
    }
}

/// Why a command's execs are not counted a second time.
const NO_EXEC_COUNTS: &str =
    "counted by prof watch only: to close the counter takes longer than many commands run";

/// Functions that perform an exec, the best first; which of them is a symbol
/// depends on what the compiler inlined.
const EXEC_FUNCTIONS: &[&CStr] =
    &[c"bprm_execve", c"do_execveat_common.isra.0", c"__do_execve_file"];

/// Smallest that is taken: a page. Largest: what the kernel takes.
pub(crate) fn ring_size(asked: u32) -> u32 {
    let page = rustix::param::page_size() as u32;
    asked.clamp(page, 1 << 30).next_power_of_two()
}

/// Most threads of the processes that are profiled at once.
fn threads(plan: &Plan) -> u32 {
    plan.max_processes.max(1).saturating_mul(4)
}

/// Each map as large as this session can need it: the kernel clears a bucket for each
/// entry there may be, which is time before the command starts.
fn map_sizes(
    plan: &Plan,
    backend: Backend,
    ring_bytes: u32,
    cpus: usize,
) -> [(&'static str, u32); 10] {
    let processes = plan.max_processes.max(1);
    let threads = threads(plan);
    let if_needed = |needed: bool, n: u32| if needed { n.max(1) } else { 1 };
    let counts = !plan.counters.is_empty();
    let entries = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).max(1);
    [
        ("records", ring_bytes),
        ("procs", processes),
        ("thread_base", if_needed(plan.attaches, threads)),
        ("attempts", if_needed(backend == Backend::Kprobe, processes)),
        ("match_num", entries(plan.tables.numbers.len())),
        ("match_str", entries(plan.tables.strings.len())),
        ("proc_counts", if_needed(counts, processes)),
        ("thread_counts", if_needed(counts, threads)),
        ("perf_events", entries(plan.counters.len() * cpus)),
        ("own_events", entries(plan.counters.len() * cpus)),
    ]
}

/// Values of the maps of counts hold as many as are counted.
fn value_sizes(counters: usize) -> [(&'static str, u32); 4] {
    let n = counters.max(1) as u32;
    [
        ("thread_counts", 16 + n * 24),
        ("proc_counts", n * 72),
        ("region_open", 208 + n * 48),
        ("region_sums", 160 + n * 24),
    ]
}

/// `PERF_COUNT_SW_CONTEXT_SWITCHES`.
const CONTEXT_SWITCHES: u64 = 3;
/// `PERF_COUNT_SW_CGROUP_SWITCHES`.
const CGROUP_SWITCHES: u64 = 11;

/// Which of them are this software event, which the kernel raises in itself: at a switch,
/// behind the tracepoint of it.
fn raised_at_switch(specs: &[CounterSpec], config: u64) -> u32 {
    let is = |c: &CounterSpec| {
        (c.attr.type_, c.attr.config) == (counters::PERF_TYPE_SOFTWARE, config)
            && !c.attr.exclude_kernel
    };
    (0..).zip(specs).filter(|(_, c)| is(c)).fold(0, |bits, (i, _)| bits | 1 << i)
}

/// How many records a CPU may write before it looks at how much is waiting: what
/// all CPUs write unlooked-at is an eighth of the ring at most.
fn ring_look(ring_bytes: u32, cpus: u32) -> u32 {
    const RECORD: u32 = 512;
    (ring_bytes / 8 / RECORD / cpus.max(1)).clamp(1, 16)
}

fn config(plan: &Plan, backend: Backend, cpus: usize, exact: bool, ring_bytes: u32) -> Config {
    let t = &plan.tables;
    let mounts = host::cgroup_mounts();
    Config {
        rules: t.rules,
        follow: t.follow,
        uses_eq: t.uses_eq,
        dims: t.dims,
        cgroup_subsys: t.cgroup_v1.unwrap_or(u32::MAX),
        ident_subsys: host::cgroup_identity(&mounts).unwrap_or(u32::MAX),
        read_args: plan.read_args.into(),
        per_thread: plan.per_thread.into(),
        window_hook: (backend != Backend::Kprobe).into(),
        exit_is_entry: (backend == Backend::Kprobe).into(),
        exact_clock: exact.into(),
        nr_cpus: cpus as u32,
        page_size: rustix::param::page_size() as u32,
        ring_wakeup: ring_bytes / 4,
        ring_look: ring_look(ring_bytes, cpus as u32),
        counters: plan.counters.len() as u32,
        counter_cpus: cpus as u32,
        switch_counters: raised_at_switch(&plan.counters, CONTEXT_SWITCHES),
        cgroup_counters: raised_at_switch(&plan.counters, CGROUP_SWITCHES),
        pad: 0,
        own_counters: own_counters(&plan.counters),
        // The root of a tree is there before prof is, too.
        attaches: (plan.attaches || !t.tree_roots.is_empty()).into(),
        stacks: plan.stacks.as_ref().map_or(0, StackPlan::parts),
        max_depth: plan
            .stacks
            .as_ref()
            .map_or(0, |s| s.max_depth.clamp(1, abi::stacks::MAX_FRAMES)),
        samples_wakeup: crate::sampler::RING_BYTES / 4,
        sample_shares: plan
            .stacks
            .as_ref()
            .map_or(0, |s| s.shares.len().min(abi::stacks::MAX_SHARES) as u32),
        off_cpu_event: plan.stacks.as_ref().map_or(0, StackPlan::off_cpu_event),
        off_cpu_min_ns: plan.stacks.as_ref().and_then(|s| s.off_cpu).map_or(0, |o| o.min_ns),
    }
}

fn slots<'a>(loaded: &'a Loaded, config: &Config) -> Result<Slots<'a>> {
    let find = (config.own_counters != 0).then(|| loaded.prog("prof_find_event"));
    Ok(Slots {
        events: loaded.map("perf_events")?,
        own: loaded.map("own_events")?,
        find: find.transpose()?,
        own_counters: config.own_counters,
        cpus: config.counter_cpus,
    })
}

fn refresh_on(prog: BorrowedFd<'_>, cpu: u32) -> Result<()> {
    match sys::prog_run_on(prog, cpu) {
        // Gone offline.
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(()),
        other => other.with_context(|| format!("reading the counters of CPU {cpu}")),
    }
}

fn globals(loaded: &Loaded) -> Result<Globals> {
    sys::map_lookup(loaded.map(".bss")?, &0u32)?.ok_or_else(|| anyhow!("no .bss in the BPF object"))
}

fn calibrate(loaded: &Loaded) -> Result<()> {
    // A run does 64 events of the thread's list.
    for _ in 0..=abi::MAX_CPUS / 64 + 1 {
        sys::prog_run(loaded.prog("prof_calibrate")?)?;
        if globals(loaded)?.cursor == 0 {
            return Ok(());
        }
    }
    bail!("the list of this thread's events has no end")
}

fn fill_rules(loaded: &Loaded, tables: &Tables) -> Result<()> {
    let numbers = loaded.map("match_num")?;
    for (dim, value, m) in &tables.numbers {
        let key = NumKey { value: *value, dim: *dim as u32, pad: 0 };
        sys::map_update(numbers, &key, &AbiMatch { eq: m.eq, ne: m.ne })
            .context("table of rule values")?;
    }
    let strings = loaded.map("match_str")?;
    for (dim, bytes, m) in &tables.strings {
        let mut key =
            StrKey { prefixlen: 8 + 8 * bytes.len() as u32, dim: *dim as u8, data: [0; 255] };
        key.data
            .get_mut(..bytes.len())
            .ok_or_else(|| anyhow!("a pattern of {} bytes is too long", bytes.len()))?
            .copy_from_slice(bytes);
        sys::map_update(strings, &key, &AbiMatch { eq: m.eq, ne: m.ne })
            .context("table of rule patterns")?;
    }
    Ok(())
}

/// The id under which perf knows a tracepoint. tracefs need not be mounted: a
/// mount of our own that nobody else sees will do.
pub fn tracepoint_id(category: &str, name: &str) -> Result<u64> {
    let relative = format!("events/{category}/{name}/id");
    for root in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
        if let Ok(text) = fs::read_to_string(format!("{root}/{relative}")) {
            return text.trim().parse().context("id of a tracepoint");
        }
    }
    use rustix::mount::FsMountFlags;
    use rustix::mount::FsOpenFlags;
    use rustix::mount::MountAttrFlags;
    let fs = rustix::mount::fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC).context(
        "tracefs cannot be read (mount -t tracefs tracefs /sys/kernel/tracing, or run as root)",
    )?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let root = rustix::mount::fsmount(
        fs.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
    .context("a private mount of tracefs")?;
    let path = CString::new(relative)?;
    let file = rustix::fs::openat(
        &root,
        path,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .with_context(|| format!("no tracepoint {category}:{name}"))?;
    String::from_utf8(sys::read_all(file)?)?.trim().parse().context("id of a tracepoint")
}
