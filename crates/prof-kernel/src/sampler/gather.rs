//! From samples to a profile, whose frames are not named yet. Files get their unwind
//! tables here, as they are met.

mod places;

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Result;
use prof_model::stacks::FrameId;
use prof_model::stacks::Interner;
use prof_model::stacks::Module;
use prof_model::stacks::ModuleId;
use prof_model::stacks::Part;
use prof_model::stacks::ProcessId;
use prof_model::stacks::Sample;
use prof_model::stacks::StackProfile;
use prof_model::stacks::ThreadId;
use prof_model::stacks::Whole;
use prof_unwind::Error;
use prof_unwind::Limits;
use prof_unwind::RuleSet;
use prof_unwind::Table;

use crate::abi::Plain as _;
use crate::abi::stacks as abi;
use crate::abi::stacks::AbiFileKey;
use crate::abi::stacks::RecFile;
use crate::abi::stacks::RecOn;
use crate::abi::stacks::RecSample;
use crate::abi::stacks::StackRecord;
use crate::abi::stacks::UserFrame;
use crate::sampler::Sampler;
use crate::sampler::Written;
use crate::sampler::blocked::Blocked;
use crate::sampler::files;
use crate::sampler::finish;
use crate::sampler::finish::Left;
use crate::sampler::generated;
use crate::sampler::generated::Generated;
use crate::sampler::generated::Told;
use crate::sampler::known;
use crate::sampler::known::Kept;
use crate::sampler::known::Known;
use crate::sampler::python::Python;
use crate::sampler::python::merge;
use crate::sampler::python::names::Names;
use crate::sampler::samples::Samples;
use crate::sampler::tables::Most;
use crate::sampler::tables::Tables;

/// Where the code of a module can be read.
#[derive(Debug)]
pub enum Code {
    /// The file, held since it was met.
    File(File),
    /// The vDSO.
    Image(Vec<u8>),
    /// Made at run time.
    Generated(Box<Generated>),
    /// It could not be opened, and why.
    Gone(String),
}

/// Of the numbers that there are for files a quarter is kept free; as many files are given up
/// at a time.
const SHARE: usize = 4;

/// Most processes that are asked for what they see under a path.
const MAX_ASKED: usize = 64;

/// A profile in the making.
#[derive(Debug)]
pub struct Gatherer {
    tables: Tables,
    /// Numbers that were taken from files.
    taken_back: Vec<u32>,
    /// Those of before, and what has to be read until samples have them no more.
    leaving: Option<(Written, Vec<u32>)>,
    rules: RuleSet,
    limits: Limits,
    files: HashMap<u32, Known>,
    /// Files of this process that nobody has asked for, and that no sample has met.
    deferred: HashMap<u32, (AbiFileKey, PathBuf, Code)>,
    most: Most,
    /// Samples so far.
    taken: u64,
    profile: StackProfile,
    samples: Samples,
    interner: Interner,
    processes: HashMap<(u32, u64, u32), ProcessId>,
    threads: HashMap<(ProcessId, u32), ThreadId>,
    generated: HashMap<u32, ModuleId>,
    told: Told,
    /// Files that stacks have met before their records came.
    untold: HashMap<u32, ModuleId>,
    blocked: Blocked,
    python: Python,
    names: Names,
    /// Modules of Python's, by path, and the frames of its functions, by number.
    sources: HashMap<PathBuf, ModuleId>,
    functions: HashMap<u32, FrameId>,
    code: Vec<Kept>,
    wanted: HashSet<PathBuf>,
    no_kernel: bool,
    /// CLOCK_MONOTONIC at the start of the profile.
    epoch: u64,
    malformed: u64,
}

impl Gatherer {
    /// For the samples of `sampler`; `epoch` is the monotonic time that stands for the
    /// start of `profile`. Tables of `wanted` are made although nothing has run them yet.
    pub fn new(
        sampler: &Sampler,
        profile: StackProfile,
        epoch: u64,
        wanted: &[PathBuf],
    ) -> Result<Self> {
        let most = Most::from_environment();
        let mut new = Self {
            tables: Tables::new(sampler, most)?,
            taken_back: Vec::new(),
            leaving: None,
            most,
            taken: 0,
            rules: RuleSet::new(),
            limits: Limits::default(),
            files: HashMap::new(),
            deferred: HashMap::new(),
            profile,
            samples: Samples::default(),
            interner: Interner::default(),
            processes: HashMap::new(),
            threads: HashMap::new(),
            generated: HashMap::new(),
            told: Told::default(),
            untold: HashMap::new(),
            blocked: Blocked::default(),
            python: Python::new(sampler)?,
            names: Names::default(),
            sources: HashMap::new(),
            functions: HashMap::new(),
            code: Vec::new(),
            wanted: wanted.iter().filter_map(|p| p.canonicalize().ok()).collect(),
            no_kernel: sampler.no_kernel(),
            epoch,
            malformed: 0,
        };
        // All processes of this machine have the same one.
        if let Some(image) = prof_unwind::own_vdso() {
            new.learn(abi::FILE_VDSO, None, PathBuf::from("[vdso]"), Code::Image(image));
        }
        Ok(new)
    }

    /// Takes all that waits.
    pub fn pump(&mut self, sampler: &mut Sampler) -> Result<()> {
        loop {
            let records = sampler.consume()?;
            if records.is_empty() {
                return Ok(());
            }
            for r in records {
                match r {
                    Ok(StackRecord::File { rec, path }) => {
                        self.file(&rec, &path, sampler);
                        self.make_room();
                    }
                    Ok(StackRecord::Sample { rec, kernel, user, vmas, registers, stack }) => {
                        let left = Left { vmas: &vmas, registers, stack: &stack };
                        self.stack(&rec, &kernel, user, &left);
                    }
                    Ok(StackRecord::On(rec)) => self.on(&rec),
                    Ok(StackRecord::Code(rec)) => self.names.learn(&rec),
                    Err(_) => self.malformed += 1,
                }
            }
            self.give_numbers_again(sampler);
        }
    }

    /// A number is another file's only when all was read that was written while it was the
    /// old one's: rings are read one after the other, and of what is read files come first.
    fn give_numbers_again(&mut self, sampler: &Sampler) {
        if let Some((_, ids)) = self.leaving.take_if(|(then, _)| sampler.has_consumed(*then)) {
            // What comes with them from now on, and before it is told of, is not this file.
            ids.iter().for_each(|id| drop(self.files.remove(id)));
            self.tables.give_again(&ids);
        }
        if self.leaving.is_none() && !self.taken_back.is_empty() {
            self.leaving = Some((sampler.written(), std::mem::take(&mut self.taken_back)));
        }
    }

    /// The last that is taken: who is still off the CPU. `end` is the monotonic time at
    /// which the profile ends.
    pub fn close(&mut self, sampler: &mut Sampler, end: u64) -> Result<()> {
        let off = sampler.still_off()?;
        // Who came back before that was read has said so.
        self.pump(sampler)?;
        for sample in self.blocked.still_off(&off, end) {
            self.samples.push(self.since_start(sample));
        }
        Ok(())
    }

    /// The profile so far, without its samples.
    pub fn so_far(&self) -> &StackProfile {
        &self.profile
    }

    /// The samples that came since this was last called; from the first call on.
    pub fn fresh_samples(&mut self) -> Vec<Sample> {
        self.samples.fresh()
    }

    /// The profile, and where its modules' code is.
    pub fn finish(mut self) -> (StackProfile, Vec<Code>) {
        if self.malformed > 0 {
            self.profile.lost.push(("record-malformed".into(), self.malformed));
        }
        if let Some(why) = self.python.refused() {
            self.profile.lost.push((format!("python-unread: {why}"), 1));
        }
        let (samples, merged) = self.samples.finish();
        self.profile.samples = samples;
        if merged > 0 {
            self.profile.lost.push(("sample-time-merged".into(), merged));
        }
        for code in &mut self.code {
            if let Kept::Open(Code::Generated(generated)) = code {
                self.told.complete(generated);
            }
        }
        let modules = self.profile.modules.iter();
        let code = self.code.into_iter().zip(modules).map(|(code, m)| code.open(&m.path)).collect();
        (self.profile, code)
    }

    fn module(&mut self, path: PathBuf, build_id: Vec<u8>, code: Code) -> ModuleId {
        let identity = known::identity(&code);
        self.profile.modules.push(Module { path, build_id, identity, code: Vec::new() });
        self.code.push(Kept::Open(code));
        ModuleId(self.profile.modules.len() as u32 - 1)
    }

    fn file(&mut self, rec: &RecFile, path: &[u8], sampler: &mut Sampler) {
        use std::os::unix::ffi::OsStrExt as _;
        // Two CPUs may tell of one at the same time. What has another key is another file,
        // to which the number was given.
        let deferred = self.deferred.get(&rec.id).map(|(key, ..)| *key);
        let known = self.files.get(&rec.id).and_then(|k| k.key);
        if deferred.or(known).is_some_and(|key| key.as_bytes() == rec.key.as_bytes()) {
            return;
        }
        self.deferred.remove(&rec.id);
        self.files.remove(&rec.id);
        let mut name = PathBuf::from(std::ffi::OsStr::from_bytes(path));
        if generated::is_jitdump(&name) {
            if let Ok(file) = files::find(rec, path, true, self.newest()) {
                self.told.jitdump(rec.pid, file);
            }
            self.learn(rec.id, Some(rec.key), name, Code::Gone("a jitdump".into()));
            return;
        }
        let code = match files::find(rec, path, false, self.newest()) {
            Ok(file) => Code::File(file),
            Err(e) => Code::Gone(e.to_string()),
        };
        if let Code::File(file) = &code {
            self.python.meet(rec.id, file, &self.tables, sampler);
        }
        if rec.pid == std::process::id()
            && let Code::File(file) = &code
            && let Some(wanted) = self.wanted_as(&name, file)
        {
            name = wanted;
        } else if rec.pid == std::process::id() {
            self.deferred.insert(rec.id, (rec.key, name, code));
            return;
        }
        self.learn(rec.id, Some(rec.key), name, code);
    }

    /// Processes that were sampled, the last first, and no more than can be asked.
    fn newest(&self) -> impl Iterator<Item = u32> {
        self.profile.processes.iter().rev().map(|p| p.pid).take(MAX_ASKED)
    }

    /// Which of the files that are wanted this is. The kernel half has its path within its
    /// file system, which of a layer of an overlay is not where it can be found.
    fn wanted_as(&self, name: &Path, file: &File) -> Option<PathBuf> {
        if self.wanted.contains(name) {
            return Some(name.to_owned());
        }
        let of = |m: Metadata| (m.len(), m.mtime(), m.mtime_nsec());
        let own = of(file.metadata().ok()?);
        let mut named = self.wanted.iter().filter(|w| w.file_name() == name.file_name());
        named.find(|w| w.metadata().is_ok_and(|m| of(m) == own)).cloned()
    }

    /// A sample has met a file.
    fn met(&mut self, file: u32) {
        if let Some((key, path, code)) = self.deferred.remove(&file) {
            self.learn(file, Some(key), path, code);
        }
    }

    /// Makes the table of a file, and tells the kernel half.
    fn learn(&mut self, id: u32, key: Option<AbiFileKey>, path: PathBuf, code: Code) {
        let made = match &code {
            Code::File(file) => Table::from_file(file, &mut self.rules, &self.limits),
            Code::Image(bytes) => Table::from_elf(bytes, &mut self.rules, &self.limits),
            Code::Generated(_) => Err(Error::NoCfi("its code is generated")),
            Code::Gone(why) => Err(Error::Io(io::Error::other(why.clone()))),
        };
        let made = match made {
            // What a program makes there at run time is walked as what it makes in no file.
            Err(Error::NotElf) if generated::is_memory(&path) => Ok(Table::by_frame_pointers()),
            made => made,
        };
        let mut table = made.map_err(|e| e.to_string());
        if let Ok(made) = &table {
            let mut added = self.tables.add(id, made, &self.rules);
            if added.is_err() {
                self.give_up(abi::MAX_FILES);
                added = self.tables.add(id, made, &self.rules);
            }
            if let Err(why) = added {
                table = Err(format!("{why:#}"));
            }
        }
        if table.is_err() {
            self.tables.say(id, abi::table::NONE);
        }
        if let (Ok(made), Code::File(file)) = (&table, &code) {
            self.python.complete(id, file, made);
        }
        let build_id = match (&table, &code) {
            (Ok(table), _) => table.build_id.clone(),
            (Err(_), Code::File(file)) => prof_unwind::build_id(file),
            (Err(_), _) => Vec::new(),
        };
        let used = self.taken;
        let mut known = Known { key, path, build_id, code: Some(code), module: None, table, used };
        if let Some(module) = self.untold.remove(&id) {
            self.name_module(module, &mut known);
        }
        self.files.insert(id, known);
    }

    /// A stack had it before it was known.
    fn name_module(&mut self, module: ModuleId, known: &mut Known) {
        let at = module.0 as usize;
        let build_id = std::mem::take(&mut known.build_id);
        let code = known.code.take().unwrap_or(Code::Gone("not kept".into()));
        let identity = known::identity(&code);
        let parts = parts(&known.table);
        self.profile.modules[at] =
            Module { path: known.path.clone(), build_id, identity, code: parts };
        self.code[at] = Kept::Open(code);
        self.profile.no_tables.extend(known.table.as_ref().err().map(|why| (module, why.clone())));
        known.module = Some(module);
    }

    /// When few numbers are left for files, some are taken back.
    fn make_room(&mut self) {
        let most = self.most.files as usize;
        let leaving = self.leaving.as_ref().map_or(0, |(_, ids)| ids.len());
        let left = self.tables.numbers_left() as usize + self.taken_back.len() + leaving;
        if left < most / SHARE {
            self.give_up(most);
        }
    }

    /// Gives up a share of the files that are known, those that are of least use.
    fn give_up(&mut self, most: usize) {
        let n = (self.files.len().min(most) / SHARE).max(1);
        let gone = known::least_used(&self.files, &self.tables.mapped(), n);
        gone.iter().for_each(|(id, _)| self.python.give_up(*id));
        // What fails leaves them without a table.
        if self.tables.remove(&gone).is_ok() {
            self.taken_back.extend(gone.iter().map(|(id, _)| *id));
        }
        for (id, _) in gone {
            let Some(known) = self.files.get_mut(&id) else { continue };
            known.table = Err("its table made room for others".into());
            // The number is not its own any more.
            known.key = None;
            // Samples that were taken before are still to come. A descriptor is not needed
            // before the end.
            match known.module {
                Some(module) => {
                    if let Some(kept) = self.code.get_mut(module.0 as usize) {
                        kept.close();
                    }
                }
                None => known.forget_code(),
            }
        }
    }

    pub(crate) fn table(&self, file: u32) -> Option<&Table> {
        self.files.get(&file).and_then(|k| k.table.as_ref().ok())
    }

    pub(crate) fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// A sample, or one of the two stacks of a time off the CPU.
    fn stack(
        &mut self,
        rec: &RecSample,
        kernel: &[u64],
        mut user: Vec<UserFrame>,
        left: &Left<'_>,
    ) {
        self.taken += 1;
        let part = merge::split(&mut user);
        let mut whole = whole(rec.stop);
        if rec.stop == abi::stop::PENDING {
            // The file that it stopped at is among them.
            for vma in left.vmas {
                self.met(vma.file);
            }
            whole = finish::finish(self, rec, left, &mut user);
        }
        let (mut user, mut whole) = self.python.merge(user, &part, whole);
        match rec.head.kind {
            abi::kind::OFF => {
                let kernel = self.blocked.code().below_switch(kernel);
                let stack = self.intern(rec, kernel, &user);
                let thread = self.thread(rec);
                self.blocked.off(rec, thread, stack, whole);
            }
            abi::kind::WAKER => {
                let (kernel, by_interrupt) = self.blocked.code().below_waking(kernel);
                if by_interrupt {
                    (user, whole) = (Vec::new(), Whole::KernelOnly);
                }
                let kernel = if self.no_kernel { &[] } else { kernel };
                let stack = self.intern(rec, kernel, &user);
                self.blocked.woken(&mut self.profile, rec, by_interrupt, stack, whole);
            }
            _ => {
                let stack = self.intern(rec, kernel, &user);
                let thread = self.thread(rec);
                self.samples.push(self.since_start(Sample {
                    time_ns: rec.head.time_ns,
                    thread,
                    cpu: rec.head.cpu,
                    event: rec.event.into(),
                    weight: rec.weight,
                    stack,
                    whole,
                    off_cpu: None,
                }));
            }
        }
    }

    /// A thread is back on a CPU.
    fn on(&mut self, rec: &RecOn) {
        // Else its beginning was lost, and was counted there.
        if let Some(sample) = self.blocked.on(rec) {
            self.samples.push(self.since_start(sample));
        }
    }

    fn since_start(&self, sample: Sample) -> Sample {
        Sample { time_ns: sample.time_ns.saturating_sub(self.epoch), ..sample }
    }
}

/// Where the code of a file is.
fn parts(table: &Result<Table, String>) -> Vec<Part> {
    let code = table.iter().flat_map(|t| &t.code);
    code.map(|c| Part { offset: c.offset, address: c.address, size: c.size }).collect()
}

/// `enum prof_stop`.
fn whole(stop: u16) -> Whole {
    match stop {
        abi::stop::END => Whole::Whole,
        abi::stop::DEPTH => Whole::Depth,
        abi::stop::NO_TABLE | abi::stop::PENDING => Whole::NoTable,
        abi::stop::NO_ROW => Whole::NoRow,
        abi::stop::UNSUPPORTED => Whole::Unsupported,
        abi::stop::UNREADABLE => Whole::Unreadable,
        abi::stop::NO_MAPPING | abi::stop::NO_SPACE => Whole::NoMapping,
        abi::stop::ANONYMOUS => Whole::Anonymous,
        abi::stop::NOT_ASKED => Whole::KernelOnly,
        _ => Whole::NoRegisters,
    }
}
