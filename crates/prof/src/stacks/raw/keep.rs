//! Keeps a recording while it is made.

use std::fs::File;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc;
use std::sync::mpsc::Sender;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use prof_model::stacks::Module;
use prof_model::stacks::Process;
use prof_model::stacks::Sample;
use prof_model::stacks::StackId;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Thread;

use super::ENTRIES;
use super::HEAD;
use super::Lists;
use super::Part;
use super::packed;

/// What is not yet written is lost with the program.
const EVERY: Duration = Duration::from_millis(200);

/// What is told of processes while it goes on is looked up this often, and less often if
/// that takes more than a hundredth of the time.
const DESCRIBE: Duration = Duration::from_secs(1);

/// What is in a file already.
#[derive(Debug, Default)]
pub(super) struct Written {
    modules: Vec<Module>,
    /// Whether a frame was told with what it is called, or why it has no name.
    frames: Vec<bool>,
    processes: Vec<Process>,
    threads: Vec<Thread>,
    stacks: usize,
    wakers: usize,
    no_tables: usize,
}

/// What is new or other than before, no more than fits in a part.
fn news<T: Clone + PartialEq>(before: &mut Vec<T>, now: &[T]) -> Vec<(u32, T)> {
    let mut new = Vec::new();
    for (at, one) in (0..).zip(now) {
        match before.get_mut(at as usize) {
            Some(known) if known == one => continue,
            Some(known) => known.clone_from(one),
            None => before.push(one.clone()),
        }
        new.push((at, one.clone()));
        if new.len() == ENTRIES {
            break;
        }
    }
    new
}

fn behind<T: Clone>(before: &mut usize, now: &[T]) -> Vec<T> {
    let new: Vec<T> = now.iter().skip(*before).take(ENTRIES).cloned().collect();
    *before += new.len();
    new
}

impl Written {
    /// What there is that was not written, until there is nothing. `described` has the
    /// processes with what is known of them by now, unless only new ones are asked for.
    pub(super) fn next(
        &mut self,
        p: &StackProfile,
        described: Option<&[Process]>,
    ) -> Option<Lists> {
        let lists = Lists {
            modules: news(&mut self.modules, &p.modules),
            frames: self.frames(p),
            processes: match described {
                Some(all) => news(&mut self.processes, all),
                None => self.new_processes(p),
            },
            threads: news(&mut self.threads, &p.threads),
            stacks: behind(&mut self.stacks, &p.stacks),
            wakers: behind(&mut self.wakers, &p.wakers),
            no_tables: behind(&mut self.no_tables, &p.no_tables),
            duration_ns: p.duration_ns,
        };
        let is_nothing = lists.modules.is_empty()
            && lists.frames.is_empty()
            && lists.processes.is_empty()
            && lists.threads.is_empty()
            && lists.stacks.is_empty()
            && lists.wakers.is_empty()
            && lists.no_tables.is_empty();
        (!is_nothing).then_some(lists)
    }

    /// A frame is told again when it has a name.
    fn frames(&mut self, p: &StackProfile) -> Vec<(u32, prof_model::stacks::Frame)> {
        let mut frames = Vec::new();
        for (at, frame) in (0..).zip(&p.frames) {
            let is_named = !frame.functions.is_empty() || frame.unnamed.is_some();
            match self.frames.get_mut(at as usize) {
                Some(named) if *named || !is_named => continue,
                Some(named) => *named = true,
                None => self.frames.push(is_named),
            }
            frames.push((at, frame.clone()));
            if frames.len() == ENTRIES {
                break;
            }
        }
        frames
    }

    fn new_processes(&mut self, p: &StackProfile) -> Vec<(u32, Process)> {
        let known = self.processes.len();
        let new = p.processes.iter().skip(known).take(ENTRIES);
        self.processes.extend(new.clone().cloned());
        (known as u32..).zip(new.cloned()).collect()
    }
}

/// A file that is written by a thread of its own: a disk that is slow must not hold up who
/// takes samples.
#[derive(Debug)]
struct Spool {
    name: String,
    to: Sender<Vec<u8>>,
    thread: JoinHandle<io::Result<()>>,
}

impl Spool {
    fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let mut file = File::create(path).with_context(|| format!("output file {name}"))?;
        let (to, parts) = mpsc::channel::<Vec<u8>>();
        let write = move || {
            let mut whole = 0;
            for part in parts {
                if let Err(e) = file.write_all(&part) {
                    // What is there of this part is of no use.
                    let _ = file.set_len(whole);
                    return Err(e);
                }
                whole += part.len() as u64;
            }
            Ok(())
        };
        let thread = thread::Builder::new().name("prof-recording".into()).spawn(write);
        let thread = thread.context("thread that writes the recording")?;
        Ok(Self { name, to, thread })
    }
}

/// A recording that goes on, in files.
#[derive(Debug, Default)]
pub struct Keeper {
    spools: Vec<Spool>,
    written: Written,
    last: Option<Instant>,
    /// When processes are described again.
    describe: Option<Instant>,
}

impl Keeper {
    /// Begins with what is known; what was in the files goes.
    pub fn begin<'a>(
        paths: impl Iterator<Item = &'a Path>,
        profile: &StackProfile,
    ) -> Result<Self> {
        let spools = paths.map(Spool::open).collect::<Result<Vec<_>>>()?;
        let mut keeper = Self { spools, ..Self::default() };
        keeper.send(HEAD.to_vec());
        keeper.part(&super::start(profile));
        Ok(keeper)
    }

    /// Whether there is a file to write to.
    pub fn is_wanted(&self) -> bool {
        !self.spools.is_empty()
    }

    /// Whether it is time to write.
    pub fn is_due(&self) -> bool {
        self.is_wanted() && self.last.is_none_or(|last| last.elapsed() >= EVERY)
    }

    /// Writes what is new. `describe` completes what is known of processes.
    pub fn add(
        &mut self,
        profile: &StackProfile,
        samples: &[Sample],
        duration_ns: u64,
        describe: impl FnOnce(&mut [Process]),
    ) {
        let now = Instant::now();
        self.last = Some(now);
        let described = self.describe.is_none_or(|at| now >= at).then(|| {
            let mut processes = profile.processes.clone();
            describe(&mut processes);
            self.describe = Some(Instant::now() + DESCRIBE.max(100 * now.elapsed()));
            processes
        });
        self.lists(profile, described.as_deref(), duration_ns);
        // What they point at is written already.
        for some in samples.chunks(ENTRIES) {
            self.part(&Part::Samples(some.to_vec()));
        }
    }

    /// Writes the rest, and tells of each file how that went. `before` are the stacks that
    /// were told of the samples, by time, if any has another by now.
    pub fn end(
        mut self,
        profile: &StackProfile,
        before: Option<&[Option<StackId>]>,
    ) -> Vec<(String, io::Result<()>)> {
        if !self.is_wanted() {
            return Vec::new();
        }
        self.lists(profile, Some(&profile.processes), profile.duration_ns);
        let changed = profile.samples.iter().zip(before.unwrap_or_default());
        let restacked = (0..)
            .zip(changed)
            .filter(|(_, (sample, before))| sample.stack != **before)
            .filter_map(|(at, (sample, _))| Some((at, sample.stack?)))
            .collect();
        self.part(&super::end(profile, restacked));
        let done = self.spools.into_iter().map(|Spool { name, to, thread }| {
            drop(to);
            let died = |_| Err(io::Error::other("the thread that writes it died"));
            (name, thread.join().unwrap_or_else(died))
        });
        done.collect()
    }

    fn lists(&mut self, profile: &StackProfile, described: Option<&[Process]>, duration_ns: u64) {
        while let Some(mut lists) = self.written.next(profile, described) {
            lists.duration_ns = duration_ns;
            self.part(&Part::Lists(lists));
        }
    }

    fn part(&mut self, part: &Part) {
        // It is written to memory, and no larger than the format has room for.
        if let Ok(bytes) = packed(part) {
            self.send(bytes);
        }
    }

    fn send(&mut self, bytes: Vec<u8>) {
        for spool in &self.spools {
            // Who could not write went, and is asked why at the end.
            let _ = spool.to.send(bytes.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::super::tests::profile;
    use super::super::tests::sample;
    use super::*;
    use prof_model::stacks::Function;

    #[test]
    fn what_is_kept_bit_by_bit_is_what_was_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.prof");
        let mut whole = profile();
        let first = whole.samples[0].clone();
        let mut early = StackProfile { samples: Vec::new(), lost: Vec::new(), ..profile() };
        early.frames.truncate(2);
        early.stacks.truncate(2);
        early.modules[0].build_id.clear();
        let mut keeper = Keeper::begin([path.as_path()].into_iter(), &early).unwrap();
        keeper.add(&early, &[first], 5, |p| p[0].comm = "early".into());
        let mut later = StackProfile { samples: Vec::new(), ..profile() };
        later.threads[0].comm = "b".into();
        // They need not come in the order of their times.
        let late = [sample(9, Some(StackId(1))), whole.samples[1].clone()];
        keeper.add(&later, &late, 9, |_| {});
        whole.threads = later.threads;
        whole.processes[0].comm = "last".into();
        whole.samples.push(sample(9, Some(StackId(2))));
        whole.frames[1].functions = vec![Function { name: "made".into(), ..Function::default() }];
        let before = [whole.samples[0].stack, whole.samples[1].stack, Some(StackId(1))];
        let done = keeper.end(&whole, Some(&before));
        assert!(done.iter().all(|(_, done)| done.is_ok()) && done.len() == 1);
        assert_eq!(read(&path).unwrap(), whole);
    }

    #[test]
    fn of_one_that_has_no_end_the_rest_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.prof");
        let all = profile();
        let mut keeper = Keeper::begin([path.as_path()].into_iter(), &all).unwrap();
        keeper.add(&all, &all.samples, 50, |p| p[0].comm = "early".into());
        // As if it was killed: nothing more comes.
        for Spool { to, thread, .. } in keeper.spools {
            drop(to);
            thread.join().unwrap().unwrap();
        }
        let p = read(&path).unwrap();
        assert!(p.ended_early);
        assert_eq!((p.samples, p.stacks, p.duration_ns), (all.samples, all.stacks, 50));
        assert_eq!(p.processes[0].comm, "early");
    }

    #[test]
    fn no_room_is_told_at_the_end() {
        let full = Path::new("/dev/full");
        let mut keeper = Keeper::begin([full].into_iter(), &profile()).unwrap();
        keeper.add(&profile(), &profile().samples, 50, |_| {});
        let done = keeper.end(&profile(), None);
        assert_eq!(done[0].0, "/dev/full");
        assert_eq!(done[0].1.as_ref().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
