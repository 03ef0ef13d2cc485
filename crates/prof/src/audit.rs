//! `prof audit`: who profiles whom.
//!
//! - `list`: what is being profiled now
//! - `who`: whom `--by` and `--of` mean

pub mod list;
mod order;
mod who;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use prof_events::describe::Names;
use prof_export::Format;
use prof_export::OutputSpec;
use prof_export::Sink;
use prof_kernel::abi::audit::AuditCounter;
use prof_kernel::abi::audit::RawAudit;
use prof_kernel::audit::Audit;
use prof_kernel::audit::AuditPlan;
use prof_kernel::audit::derive::Derive;
use prof_kernel::audit::tracefs::Tracefs;
use prof_kernel::audit_list::Now;
use prof_kernel::audit_list::links::Links;
use prof_kernel::audit_list::processes::Containers;
use prof_kernel::clock;
use prof_kernel::host;
use prof_kernel::prepared;
use prof_model::audit::AuditEvent;
use prof_model::audit::AuditTotals;
use prof_model::audit::PerfAttr;
use prof_model::audit::Target;
use prof_model::counters::Table;
use prof_model::figures::EventSet;
use prof_model::figures::Figures;
use prof_model::figures::Value;
use prof_model::record::Attached;
use prof_model::record::End;
use prof_model::record::Header;
use prof_model::record::Loss;
use prof_model::record::LossReason;
use prof_model::record::Record;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::time::ClockId;

use crate::audit::order::Held;
use crate::audit::who::Who;
use crate::cli::AuditArgs;
use crate::output;
use crate::output::Outputs;
use crate::select;
use crate::signals::Stop;

/// What is told is fetched at least this often.
const TICK: Duration = Duration::from_millis(50);
/// Events are looked at this often: what no hook sees is told that late.
const LOOK: Duration = Duration::from_millis(100);
/// Milliseconds that a look waits for what was told before it.
const HELD_UP: u32 = 50;
/// At the end a look that could not be had is tried so often.
const LAST_LOOKS: u32 = 40;
/// Losses are looked at this often, and the clock is compared.
const CHECK: Duration = Duration::from_secs(1);

/// Audits until told to stop.
pub fn main(args: &AuditArgs) -> Result<ExitCode> {
    if args.list {
        return list::main(args);
    }
    let specs = match args.output.as_slice() {
        [] => vec![OutputSpec { format: Format::Table, sink: Sink::Default }],
        some => some.to_vec(),
    };
    let (by, of) = (Who::of("--by", &args.by)?, Who::of("--of", &args.of)?);
    let outputs = Outputs::of(&specs, args.color, output::Default::Stdout)?;
    let stop = Stop::install()?;
    let audit = Audit::open(&AuditPlan {
        way: args.hooks.way(),
        ring_bytes: args.buffer.unwrap_or_else(default_buffer),
        btf: args.btf.clone(),
        cache: prepared::dir_unless(args.no_cache),
    })?;
    let mut stream = Stream::begin(audit, outputs, by, of)?;
    let deadline = args.duration.map(|d| stream.began + d);
    while !stop.asked() && deadline.is_none_or(|d| Instant::now() < d) {
        let left = deadline.map_or(TICK, |d| d.saturating_duration_since(Instant::now()));
        if !stream.step(left.min(TICK))? {
            break;
        }
    }
    stream.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes of the buffer unless told otherwise: 10,000 openings and closes, some 500 bytes each,
/// fit in it even if nobody reads for a second.
fn default_buffer() -> u32 {
    let cpus = host::online_cpus().map_or(1, |c| c.len()) as u32;
    (cpus << 20).clamp(8 << 20, 64 << 20)
}

/// An audit with its outputs.
#[derive(Debug)]
struct Stream {
    audit: Audit,
    derive: Derive,
    tracefs: Option<Tracefs>,
    outputs: Outputs,
    by: Who,
    of: Who,
    cgroups: HashMap<u64, Option<Vec<u8>>>,
    began: Instant,
    began_ns: u64,
    looked: Instant,
    checked: Instant,
    told: BTreeMap<LossReason, u64>,
    malformed: u64,
    events: Vec<AuditEvent>,
    held: Held,
}

impl Stream {
    fn begin(audit: Audit, mut outputs: Outputs, by: Who, of: Who) -> Result<Self> {
        let (began, began_ns) = (Instant::now(), clock::now_ns(ClockId::Monotonic));
        let time_ns = clock::now_ns(ClockId::Realtime);
        let names = Rc::new(Names::new(select::catalogue()));
        let name = {
            let names = Rc::clone(&names);
            move |attr: &PerfAttr| names.opened(attr)
        };
        let mut derive = Derive::new(Box::new(name), host::exe_of);
        derive.set_realtime_offset(clock::realtime_offset());
        derive.set_clock_types(audit.clock_types());
        derive.set_containers(Containers::default());
        let links = Links::default();
        derive.set_link_of(Box::new(move |id| links.of(id)));
        let mut attached = audit.attached().to_vec();
        let mut limits = audit.limits().to_vec();
        let tracefs = match Tracefs::open() {
            Ok(tracefs) => {
                attached.push(Attached { hook: "tracefs".into(), how: "fanotify" });
                Some(tracefs)
            }
            Err(e) => {
                limits.push(format!("what is switched on through tracefs is not seen: {e}"));
                None
            }
        };
        let mut now = audit.what_is_on(&names).unwrap_or_else(|e| {
            let limit = format!("what was on before is met when something is done to it: {e:#}");
            Now { limits: vec![limit], ..Now::default() }
        });
        limits.append(&mut now.limits);
        let (host, kernel, machine) = host::uname();
        let header = Header {
            time_ns,
            version: env!("CARGO_PKG_VERSION"),
            host,
            kernel,
            machine,
            cpus: host::online_cpus().map_or(1, |c| c.len()) as u32,
            events: EventSet::EMPTY,
            counters: Table::default(),
            rules: Vec::new(),
            attached,
            limits,
            command: None,
            repetition: None,
        };
        outputs.write(&[Record::Header(Box::new(header))]);
        outputs.flush();
        let mut stream = Self {
            audit,
            derive,
            tracefs,
            outputs,
            by,
            of,
            cgroups: HashMap::new(),
            began,
            began_ns,
            looked: began,
            checked: began,
            told: BTreeMap::new(),
            malformed: 0,
            events: Vec::new(),
            held: Held::from(began_ns),
        };
        stream.take_over(now)?;
        Ok(stream)
    }

    /// What is on already is told first, then what has happened since the hooks are there.
    fn take_over(&mut self, now: Now) -> Result<()> {
        let mut waiting = Vec::new();
        while let Some(batch) = self.fetch()? {
            waiting.extend(batch);
        }
        for raw in &waiting {
            self.concerns(raw);
        }
        let files = self.tracefs.as_mut().map(Tracefs::now).unwrap_or_default();
        self.derive.take_over(self.began_ns, now, files, waiting, &mut self.events);
        self.emit();
        self.outputs.flush();
        Ok(())
    }

    /// Waits, then passes on what there is; false if nobody listens any more.
    fn step(&mut self, wait: Duration) -> Result<bool> {
        {
            let ring = self.audit.as_poll_fd();
            let mut fds = vec![PollFd::from_borrowed_fd(ring, PollFlags::IN)];
            if let Some(tracefs) = &self.tracefs {
                fds.push(PollFd::from_borrowed_fd(tracefs.as_poll_fd(), PollFlags::IN));
            }
            let timeout = rustix::time::Timespec::try_from(wait)?;
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                // A signal: the caller looks.
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).context("waiting for records"),
            }
        }
        let mut written = self.tracefs.as_mut().map(Tracefs::read).unwrap_or_default();
        let is_due = self.looked.elapsed() >= LOOK;
        if is_due {
            written.extend(self.tracefs.as_mut().map(Tracefs::look).unwrap_or_default());
        }
        for w in &mut written {
            self.audit.make_exact(&mut w.by);
        }
        let now = clock::now_ns(ClockId::Monotonic);
        self.derive.written(now, written, &mut self.events);
        if is_due {
            self.looked = Instant::now();
            self.look()?;
        } else {
            self.drain()?;
        }
        if self.derive.take_wants_look() {
            self.look()?;
        }
        if self.checked.elapsed() >= CHECK {
            self.checked = Instant::now();
            // What was told until now goes by the offset until now.
            self.emit();
            self.derive.set_realtime_offset(clock::realtime_offset());
            self.check_losses()?;
            if self.derive.is_idle() {
                self.audit.forget();
            }
        }
        self.emit();
        self.outputs.flush();
        Ok(self.outputs.any_open())
    }

    fn drain(&mut self) -> Result<()> {
        while let Some(batch) = self.fetch()? {
            for raw in batch {
                self.concerns(&raw);
                self.derive.hear(raw, &mut self.events);
            }
            self.emit();
        }
        Ok(())
    }

    /// Some of the records that wait; `None` if there is none.
    fn fetch(&mut self) -> Result<Option<Vec<RawAudit>>> {
        let batch = self.audit.consume().context("ring buffer")?;
        let all = batch.len();
        let whole: Vec<_> = batch.into_iter().flatten().collect();
        self.malformed += (all - whole.len()) as u64;
        Ok((all > 0).then_some(whole))
    }

    /// Hooks may have forgotten whom it concerns since.
    fn concerns(&self, raw: &RawAudit) {
        for pid in concerned(raw) {
            self.audit.known(pid);
        }
    }

    /// Hears all, and finds what nobody told; false if not all could be heard.
    fn look(&mut self) -> Result<bool> {
        let asked = self.derive.to_look_at();
        let links = self.derive.links();
        let now = clock::now_ns(ClockId::Monotonic);
        let looks = if asked.is_empty() { Vec::new() } else { self.audit.look(&asked)? };
        let gone: Vec<_> = links.into_iter().filter(|l| !self.audit.has_link(*l)).collect();
        // What was told before is to be heard first. It may have to wait for a record that another
        // CPU has begun.
        let (told, _) = self.audit.positions();
        self.drain()?;
        for _ in 0..HELD_UP {
            if self.audit.positions().1 >= told {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            self.drain()?;
        }
        if self.audit.positions().1 < told {
            return Ok(false);
        }
        self.derive.looked(now, &asked, &looks, &mut self.events);
        self.derive.links_gone(now, &gone, &mut self.events);
        Ok(true)
    }

    fn emit(&mut self) {
        let (by, of) = (&self.by, &self.of);
        let wanted = |e: &AuditEvent| by.is(&e.by) && of.is_target(&e.target);
        for mut e in self.events.drain(..).filter(wanted) {
            if let Target::Cgroup { id, path, .. } = &mut e.target {
                *path = self.cgroups.entry(*id).or_insert_with(|| host::cgroup_path(*id)).clone();
            }
            self.held.push(self.derive.monotonic(e.time_ns), e);
        }
        let due = self.held.due(clock::now_ns(ClockId::Monotonic));
        self.write(due);
    }

    fn write(&mut self, events: Vec<AuditEvent>) {
        let records: Vec<_> = events.into_iter().map(|e| Record::Audit(Box::new(e))).collect();
        self.outputs.write(&records);
    }

    /// What was lost so far, by reason.
    fn lost(&self) -> Result<Vec<(LossReason, u64)>> {
        let counters = self.audit.counters()?;
        let mut lost = vec![
            (LossReason::HookSkipped, self.audit.skipped()),
            (LossReason::RingFullAudit, counters[AuditCounter::LostRing as usize]),
            (LossReason::AuditFull, self.derive.full),
            (
                LossReason::AuditUnknown,
                self.derive.unknown + counters[AuditCounter::NotRead as usize],
            ),
            (LossReason::Malformed, self.malformed),
        ];
        lost.retain(|(_, n)| *n > 0);
        Ok(lost)
    }

    fn check_losses(&mut self) -> Result<()> {
        let time_ns = clock::now_ns(ClockId::Realtime);
        let mut new = Vec::new();
        for (reason, n) in self.lost()? {
            let told = self.told.entry(reason).or_default();
            if n > *told {
                new.push(Record::Loss(Loss { time_ns, reason, count: n - *told }));
                *told = n;
            }
        }
        if !new.is_empty() {
            self.outputs.write(&new);
            let now = clock::now_ns(ClockId::Monotonic);
            self.derive.check_processes(now, host::exists, &mut self.events);
        }
        Ok(())
    }

    /// The last records: totals, what was lost, and the reconciliation.
    fn finish(mut self) -> Result<()> {
        for _ in 0..LAST_LOOKS {
            if self.look()? {
                break;
            }
        }
        self.check_losses()?;
        self.emit();
        let rest = self.held.rest();
        self.write(rest);
        let time_ns = clock::now_ns(ClockId::Realtime);
        let now = clock::now_ns(ClockId::Monotonic);
        let duration_ns = now.saturating_sub(self.began_ns);
        let (by, of) = (&self.by, &self.of);
        let mut totals = self.derive.totals(now);
        totals.retain(|t| by.is(&t.by) && of.is_target(&t.target));
        for t in &mut totals {
            if let Target::Cgroup { id, path, .. } = &mut t.target {
                *path = self.cgroups.get(id).cloned().flatten();
            }
        }
        let without = self.derive.without_totals();
        let totals = AuditTotals { time_ns, duration_ns, totals, without };
        let end = End {
            time_ns,
            duration_ns: self.began.elapsed().as_nanos() as u64,
            enabled: self.derive.enabled,
            disabled: self.derive.disabled,
            running: self.derive.running(),
            lost: self.lost()?,
            execs_seen: 0,
            execs_kernel: Value::Absent("an audit counts no execs"),
            totals: Figures::absent("an audit measures no process"),
            processes: 0,
            bpf_ns: None,
        };
        self.outputs.write(&[Record::AuditTotals(Box::new(totals)), Record::End(Box::new(end))]);
        self.outputs.finish()
    }
}

/// Processes that hooks have to look at from now on.
fn concerned(raw: &RawAudit) -> Vec<u32> {
    match raw {
        RawAudit::Opened { rec, .. } => vec![rec.by.pid, rec.event.target.pid],
        RawAudit::Fork(rec) | RawAudit::Ptrace(rec) => vec![rec.parent.pid, rec.child.pid],
        RawAudit::Link(rec) => vec![rec.by.pid],
        _ => Vec::new(),
    }
}
