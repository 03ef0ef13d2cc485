//! Stacks, modules and threads of a profile: each there once.

use std::path::PathBuf;

use prof_model::stacks::FrameId;
use prof_model::stacks::FrameKind;
use prof_model::stacks::ModuleId;
use prof_model::stacks::Process;
use prof_model::stacks::ProcessId;
use prof_model::stacks::StackId;
use prof_model::stacks::Thread;
use prof_model::stacks::ThreadId;

use crate::abi::stacks as abi;
use crate::abi::stacks::RecSample;
use crate::abi::until_nul;
use crate::sampler::gather::Code;
use crate::sampler::gather::Gatherer;
use crate::sampler::generated::Generated;
use crate::sampler::known::Kept;
use crate::sampler::known::Known;
use crate::sampler::python::merge::Place;

impl Gatherer {
    /// The place of a stack, whose parts are given leaf first.
    pub(super) fn intern(
        &mut self,
        rec: &RecSample,
        kernel: &[u64],
        user: &[Place],
    ) -> Option<StackId> {
        let mut frames: Vec<FrameId> = Vec::with_capacity(user.len() + kernel.len());
        for place in user.iter().rev() {
            let frame = match place {
                Place::Code(at) => {
                    let module = Some(self.module_of(at.file, rec));
                    self.interner.frame(&mut self.profile, FrameKind::User, module, at.offset)
                }
                Place::Python(number) => self.python_frame(rec.pid, *number),
            };
            frames.push(frame);
        }
        for address in kernel.iter().rev() {
            let kind = FrameKind::Kernel;
            frames.push(self.interner.frame(&mut self.profile, kind, None, *address));
        }
        self.interner.stack(&mut self.profile, frames)
    }

    /// The frame of a code object: of its source, and named already.
    fn python_frame(&mut self, pid: u32, number: u64) -> FrameId {
        let Some((function, named)) = self.names.of(pid, number) else {
            let module = Some(self.source("[python]".into()));
            let kind = FrameKind::User;
            let id = self.interner.frame(&mut self.profile, kind, module, number);
            let frame = &mut self.profile.frames[id.0 as usize];
            frame.unnamed.get_or_insert_with(|| "its code object could not be read".into());
            return id;
        };
        if let Some(frame) = self.functions.get(&function) {
            return *frame;
        }
        let named = named.clone();
        let module = Some(self.source(named.file.clone().unwrap_or_default()));
        let offset = function.into();
        let id = self.interner.frame(&mut self.profile, FrameKind::User, module, offset);
        self.profile.frames[id.0 as usize].functions = vec![named];
        self.functions.insert(function, id);
        id
    }

    /// The module that stands for a file of Python's.
    fn source(&mut self, path: PathBuf) -> ModuleId {
        if let Some(module) = self.sources.get(&path) {
            return *module;
        }
        let module = self.module(path.clone(), Vec::new(), Code::Gone("it has no code".into()));
        self.sources.insert(path, module);
        module
    }

    fn module_of(&mut self, file: u32, rec: &RecSample) -> ModuleId {
        if let Some(known) = self.files.get_mut(&file) {
            known.used = self.taken;
            if let Some(module) = known.module {
                return module;
            }
            let path = known.path.clone();
            let build_id = std::mem::take(&mut known.build_id);
            let code = known.code.take().unwrap_or_else(|| Code::Gone("not kept".into()));
            let why = known.table.as_ref().err().cloned();
            let parts = super::parts(&known.table);
            let module = self.module(path, build_id, code);
            self.profile.modules[module.0 as usize].code = parts;
            self.profile.no_tables.extend(why.map(|why| (module, why)));
            if let Some(known) = self.files.get_mut(&file) {
                known.module = Some(module);
            }
            return module;
        }
        let pid = rec.pid;
        if file >= abi::FILE_FIRST {
            // Told in the other ring, or lost.
            let why = "it was not told which file this is";
            let path = PathBuf::from(format!("[file {file}]"));
            let module = self.module(path.clone(), Vec::new(), Code::Gone(why.into()));
            self.untold.insert(file, module);
            let (key, build_id, code, used) = (None, Vec::new(), None, self.taken);
            let table = Err(why.into());
            let known = Known { key, path, build_id, code, module: Some(module), table, used };
            self.files.insert(file, known);
            return module;
        }
        if let Some(module) = self.generated.get(&pid) {
            if let Some(Kept::Open(Code::Generated(generated))) =
                self.code.get_mut(module.0 as usize)
            {
                self.told.look(generated, rec.head.time_ns);
            }
            return *module;
        }
        let mut generated = Box::new(Generated::new(pid, self.epoch));
        self.told.look(&mut generated, rec.head.time_ns);
        let path = PathBuf::from(format!("[anon:{pid}]"));
        let module = self.module(path, Vec::new(), Code::Generated(generated));
        self.generated.insert(pid, module);
        module
    }

    pub(super) fn thread(&mut self, rec: &RecSample) -> ThreadId {
        let comm = String::from_utf8_lossy(until_nul(&rec.comm)).into_owned();
        let profile = &mut self.profile;
        let key = (rec.pid, rec.start_ns, rec.exec);
        let process = *self.processes.entry(key).or_insert_with(|| {
            profile.processes.push(Process {
                pid: rec.pid,
                start_ns: rec.start_ns,
                exec: rec.exec,
                comm: comm.clone(),
                from_ns: rec.head.time_ns.saturating_sub(self.epoch),
                ..Process::default()
            });
            ProcessId(profile.processes.len() as u32 - 1)
        });
        let thread = *self.threads.entry((process, rec.tid)).or_insert_with(|| {
            profile.threads.push(Thread { process, tid: rec.tid, comm: comm.clone() });
            ThreadId(profile.threads.len() as u32 - 1)
        });
        if let Some(t) = profile.threads.get_mut(thread.0 as usize)
            && t.comm != comm
        {
            t.comm = comm;
        }
        thread
    }
}
