//! What the records of a session say of the processes that are sampled in it.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use prof_export::Exporter;
use prof_model::counters::Item;
use prof_model::figures::Value;
use prof_model::record::Profile;
use prof_model::record::Record;
use prof_model::record::WindowEnd;
use prof_model::stacks::Counted;
use prof_model::stacks::Counts;
use prof_model::stacks::Process;
use prof_model::stacks::ProcessId;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Switch;

use crate::select::Selected;

/// A process, by pid, start, and execs since its fork.
type Key = (u32, u64, u32);

/// What the records of the stream say of processes. An exporter that writes nothing.
#[derive(Debug, Clone, Default)]
pub struct Processes {
    said: Arc<Mutex<Said>>,
    /// What is counted beside the samples, of each process.
    counters: Vec<(Item, Counted)>,
}

#[derive(Debug, Default)]
struct Said {
    seen: Vec<Seen>,
    /// `prof` events: of which process, when (ns since 1970), and its flags.
    switched: Vec<(Key, u64, u64)>,
    /// Figures of each window, the last that were told of it.
    counts: BTreeMap<(Key, u64), (Process, Vec<Value>)>,
}

#[derive(Debug)]
struct Seen {
    key: Key,
    ppid: u32,
    comm: String,
    exe: Option<PathBuf>,
    start_ns: u64,
    end_ns: Option<u64>,
    uid: u32,
}

impl Processes {
    /// With the figures of these counters, where `-e` names some: what is counted anyway is
    /// for the summary.
    pub fn new(selected: &Selected, asked: bool) -> Self {
        let figure = |e: prof_model::figures::Event| {
            let info = e.info();
            let unit = info.unit.name().to_owned();
            (Item::Figure(e), Counted { name: info.name.into(), unit, additive: info.additive })
        };
        let counter = |(at, c): (usize, &prof_model::counters::Counter)| {
            let (name, unit) = (c.name.clone(), c.unit.clone());
            (Item::Counter(at), Counted { name, unit, additive: true })
        };
        let figures = selected.events.iter().map(figure);
        let counters = figures.chain(selected.table.shown().map(counter));
        Self { said: Arc::default(), counters: counters.filter(|_| asked).collect() }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose process it was: what it wrote about itself is his.
    pub fn owner(&self, pid: u32) -> Option<u32> {
        self.said().seen.iter().rev().find(|s| s.key.0 == pid).map(|s| s.uid)
    }

    fn note(&self, p: &Profile) {
        let ident = &p.process.ident;
        let seen = Seen {
            key: (ident.pid, ident.start_ns, ident.exec),
            ppid: ident.ppid,
            comm: String::from_utf8_lossy(&ident.comm).into_owned(),
            exe: p.process.exe.as_ref().map(|e| PathBuf::from(OsStr::from_bytes(e))),
            start_ns: p.window.start_ns,
            end_ns: (p.window.end != WindowEnd::Running).then_some(p.window.end_ns),
            uid: ident.uid,
        };
        let mut said = self.said();
        if !self.counters.is_empty() {
            let values = self.counters.iter().map(|(item, _)| p.figures.item(*item)).collect();
            let process = Process {
                pid: ident.pid,
                start_ns: ident.start_ns,
                exec: ident.exec,
                ..Process::default()
            };
            said.counts.insert((seen.key, seen.start_ns), (seen.describes(process, 0), values));
        }
        said.seen.push(seen);
    }

    /// Completes what samples say of processes. `epoch` is the monotonic time that is 0 there.
    pub fn complete(&self, processes: &mut [Process], epoch: u64) {
        let said = self.said();
        let by_key: HashMap<_, _> = said.seen.iter().map(|s| (s.key, s)).collect();
        for p in processes {
            if let Some(seen) = by_key.get(&(p.pid, p.start_ns, p.exec)) {
                *p = seen.describes(std::mem::take(p), epoch);
            }
        }
    }

    /// Completes a profile: its processes, when they were profiled, and what was counted.
    pub fn describe(&self, profile: &mut StackProfile, epoch: u64) {
        self.complete(&mut profile.processes, epoch);
        let places: HashMap<_, _> = (0..)
            .zip(&profile.processes)
            .map(|(at, p)| ((p.pid, p.start_ns, p.exec), at))
            .collect();
        let said = self.said();
        profile.switches = said
            .switched
            .iter()
            .filter_map(|(key, time_ns, flags)| {
                let process = ProcessId(*places.get(key)?);
                let time_ns = time_ns.saturating_sub(profile.start_ns);
                Some(Switch { process, time_ns, flags: *flags })
            })
            .collect();
        profile.switches.sort_by_key(|s| s.time_ns);
        self.counts(&said, profile, epoch);
    }

    /// A process may have had several windows.
    fn counts(&self, said: &Said, profile: &mut StackProfile, epoch: u64) {
        profile.counters = self.counters.iter().map(|(_, counted)| counted.clone()).collect();
        let mut absent: BTreeMap<(u32, &str), u64> = BTreeMap::new();
        let mut last = None;
        for ((key, start_ns), (process, values)) in &said.counts {
            if last.replace(*key) != Some(*key) {
                let from_ns = start_ns.saturating_sub(epoch);
                let to_ns = process.to_ns.map(|end| end.saturating_sub(epoch));
                let process = Process { from_ns, to_ns, ..process.clone() };
                profile.counts.push(Counts { process, values: vec![None; values.len()] });
            }
            let Some(counts) = profile.counts.last_mut() else { continue };
            let to = counts.values.iter_mut().zip(values).zip(&self.counters);
            for (nth, ((to, value), (_, counted))) in (0..).zip(to) {
                match (value, &to) {
                    (Value::Is(n), Some(sum)) if counted.additive => {
                        *to = Some(sum.saturating_add(*n))
                    }
                    (Value::Is(n), of) => *to = Some(of.map_or(*n, |of| of.max(*n))),
                    (Value::Absent(why), _) => *absent.entry((nth, why)).or_default() += 1,
                }
            }
        }
        let uncounted = absent.into_iter().map(|((nth, why), n)| (nth, why.to_owned(), n));
        profile.uncounted = uncounted.collect();
    }
}

impl Seen {
    fn describes(&self, of: Process, epoch: u64) -> Process {
        Process {
            ppid: self.ppid,
            comm: self.comm.clone(),
            exe: self.exe.clone(),
            from_ns: self.start_ns.saturating_sub(epoch),
            to_ns: self.end_ns.map(|end| end.saturating_sub(epoch)),
            ..of
        }
    }
}

impl Exporter for Processes {
    fn record(&mut self, r: &Record, _: &mut dyn Write) -> io::Result<()> {
        match r {
            Record::Profile(p) => self.note(p),
            Record::Prof(e) => {
                let ident = &e.process.ident;
                let key = (ident.pid, ident.start_ns, ident.exec);
                self.said().switched.push((key, e.time_ns, e.flags.0));
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}
