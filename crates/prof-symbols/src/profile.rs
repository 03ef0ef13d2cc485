//! Names for all frames of a profile.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use prof_model::stacks::Frame;
use prof_model::stacks::FrameId;
use prof_model::stacks::FrameKind;
use prof_model::stacks::ModuleId;
use prof_model::stacks::StackId;
use prof_model::stacks::StackNode;
use prof_model::stacks::StackProfile;

use crate::Address;
use crate::Named;
use crate::Source;
use crate::Symbolizer;

/// Most modules that are read at the same time: each may take [`Options::memory`].
///
/// [`Options::memory`]: crate::Options::memory
const MAX_AT_ONCE: usize = 4;

/// How stacks use a node or a frame.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Uses {
    /// As the place where a CPU was: a leaf, or user code that entered the kernel.
    pub place: bool,
    /// As the caller of the frame above it.
    pub caller: bool,
}

impl Symbolizer {
    /// Names every frame that has neither functions nor a reason yet, each address once.
    ///
    /// `modules` says where the names of a module are; `None` leaves its frames with a
    /// reason. Of a caller the call is named, not what follows it. A frame that is both
    /// caller and leaf, and is called otherwise as the one than as the other, becomes
    /// two: then frames and stacks are added, places of stacks change, and an
    /// [`Interner`](prof_model::stacks::Interner) of before must not be used further.
    pub fn name_profile<'m>(
        &self,
        profile: &mut StackProfile,
        modules: impl FnMut(ModuleId) -> Option<Source<'m>>,
    ) {
        self.name_frames(profile, modules, true);
    }

    /// The same for frames of modules that `modules` has something for; others are left
    /// as they are, to be named another time.
    pub fn name_modules<'m>(
        &self,
        profile: &mut StackProfile,
        modules: impl FnMut(ModuleId) -> Option<Source<'m>>,
    ) {
        self.name_frames(profile, modules, false);
    }

    fn name_frames<'m>(
        &self,
        profile: &mut StackProfile,
        mut modules: impl FnMut(ModuleId) -> Option<Source<'m>>,
        all: bool,
    ) {
        let begin = Instant::now();
        let is_wanted = |f: &Frame| f.functions.is_empty() && f.unnamed.is_none();
        let with_module = profile.frames.iter().filter(|f| f.kind == FrameKind::User);
        let met: BTreeSet<_> =
            with_module.filter(|f| is_wanted(f)).filter_map(|f| f.module).collect();
        let mut sources: BTreeMap<_, _> =
            met.into_iter().filter_map(|m| Some((m, modules(m)?))).collect();
        let generated: BTreeMap<_, _> =
            sources.iter().filter_map(|(m, source)| Some((*m, source.told()?))).collect();
        if !generated.is_empty() {
            let frames = uses_of_frames(profile, &uses_of_nodes(profile));
            self.name_generated(profile, &generated, &frames, begin);
        }
        let nodes = uses_of_nodes(profile);
        let frames = uses_of_frames(profile, &nodes);

        let mut wanted: BTreeMap<_, Vec<(usize, Address)>> = BTreeMap::new();
        for (i, (frame, uses)) in profile.frames.iter().zip(&frames).enumerate() {
            let has_source = || frame.module.is_some_and(|m| sources.contains_key(&m));
            if !is_wanted(frame) || !all && (frame.kind == FrameKind::Kernel || !has_source()) {
                continue;
            }
            let group = wanted.entry((frame.kind, frame.module)).or_default();
            let address = |is_return| Address { offset: frame.offset, is_return };
            if uses.place || !uses.caller {
                group.push((i, address(false)));
            }
            if uses.caller {
                group.push((i, address(true)));
            }
        }

        let jobs: Vec<Job<'_>> = wanted
            .into_iter()
            .map(|((kind, module), group)| {
                let place = match (kind, module) {
                    (FrameKind::Kernel, _) => Place::Kernel,
                    (FrameKind::User, Some(module)) => sources
                        .remove(&module)
                        .map_or(Place::Nowhere("its file is not there"), Place::Module),
                    (FrameKind::User, None) => Place::Nowhere("not in a mapping of a file"),
                };
                Job { place, group }
            })
            .collect();

        // Names of callers that are also leaves, and are called otherwise there.
        let mut others: BTreeMap<usize, Named> = BTreeMap::new();
        for (job, named) in jobs.iter().zip(self.all(&jobs, begin)) {
            let group = job.group.iter().copied();
            for ((i, address), named) in group.zip(named) {
                let frame = &mut profile.frames[i];
                let is_second = address.is_return && frames[i].place;
                if !is_second {
                    frame.functions = named.functions;
                    frame.unnamed = named.unnamed;
                } else if frame.functions != named.functions || frame.unnamed != named.unnamed {
                    others.insert(i, named);
                }
            }
        }
        if !others.is_empty() {
            split(profile, &nodes, others);
        }
    }

    /// The names of each job, a few at a time.
    fn all(&self, jobs: &[Job<'_>], begin: Instant) -> Vec<Vec<Named>> {
        let next = AtomicUsize::new(0);
        let named = Mutex::new(vec![Vec::new(); jobs.len()]);
        let work = || {
            while let at = next.fetch_add(1, Ordering::Relaxed)
                && let Some(job) = jobs.get(at)
            {
                let found = self.one(job, begin);
                named.lock().unwrap_or_else(PoisonError::into_inner)[at] = found;
            }
        };
        let cpus = thread::available_parallelism().map_or(1, NonZero::get);
        thread::scope(|scope| {
            for _ in 1..cpus.min(MAX_AT_ONCE).min(jobs.len()) {
                // Without it, there is still this thread.
                let _ = thread::Builder::new().name("symbols".into()).spawn_scoped(scope, work);
            }
            work();
        });
        named.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// With no more time than is left since the beginning.
    pub(crate) fn limited(&self, begin: Instant) -> Self {
        let mut limited = self.clone();
        let left = self.options.total.saturating_sub(begin.elapsed());
        limited.options.time = self.options.time.min(left);
        limited
    }

    fn one(&self, job: &Job<'_>, begin: Instant) -> Vec<Named> {
        let limited = self.limited(begin);
        let addresses: Vec<Address> = job.group.iter().map(|(_, a)| *a).collect();
        match &job.place {
            Place::Kernel => limited.kernel(&addresses),
            Place::Module(source) => limited.user(source, &addresses),
            Place::Nowhere(why) => vec![Named::unnamed(*why); addresses.len()],
        }
    }
}

/// Addresses of one module, with the places of their frames.
struct Job<'m> {
    place: Place<'m>,
    group: Vec<(usize, Address)>,
}

/// Where names are.
enum Place<'m> {
    Kernel,
    Module(Source<'m>),
    /// Nowhere, and why.
    Nowhere(&'static str),
}

/// Whether the caller of a node was left by a call: a kernel frame above a user frame
/// came there by an interrupt or a system call, at the very address.
fn is_call(profile: &StackProfile, caller: StackNode, callee: StackNode) -> bool {
    profile.frame(caller.frame).kind == profile.frame(callee.frame).kind
}

/// Whether the leaf of a stack of time off the CPU, or of a waker, was left by a call: what
/// the kernel called from there, to be told of it, is not in the stack.
fn ends_with_call(profile: &StackProfile, stack: StackId) -> bool {
    profile.frame(profile.stacks[stack.0 as usize].frame).kind == FrameKind::Kernel
}

fn uses_of_nodes(profile: &StackProfile) -> Vec<Uses> {
    let mut uses = vec![Uses::default(); profile.stacks.len()];
    for node in &profile.stacks {
        if let Some(caller) = node.caller {
            let at = caller.0 as usize;
            match is_call(profile, profile.stacks[at], *node) {
                true => uses[at].caller = true,
                false => uses[at].place = true,
            }
        }
    }
    let off = profile.samples.iter().filter(|s| s.off_cpu.is_some()).filter_map(|s| s.stack);
    let on = profile.samples.iter().filter(|s| s.off_cpu.is_none()).filter_map(|s| s.stack);
    for stack in off.chain(profile.wakers.iter().filter_map(|w| w.stack)) {
        match ends_with_call(profile, stack) {
            true => uses[stack.0 as usize].caller = true,
            false => uses[stack.0 as usize].place = true,
        }
    }
    for stack in on {
        uses[stack.0 as usize].place = true;
    }
    uses
}

/// How frames are used, by how nodes are.
fn uses_of_frames(profile: &StackProfile, nodes: &[Uses]) -> Vec<Uses> {
    let mut frames = vec![Uses::default(); profile.frames.len()];
    for (node, uses) in profile.stacks.iter().zip(nodes) {
        let frame = &mut frames[node.frame.0 as usize];
        frame.place |= uses.place;
        frame.caller |= uses.caller;
    }
    frames
}

/// Gives callers frames of their own where they are called otherwise.
fn split(profile: &mut StackProfile, nodes: &[Uses], others: BTreeMap<usize, Named>) {
    let mut twins: BTreeMap<FrameId, FrameId> = BTreeMap::new();
    for (i, named) in others {
        let mut twin = profile.frames[i].clone();
        twin.functions = named.functions;
        twin.unnamed = named.unnamed;
        profile.frames.push(twin);
        twins.insert(FrameId(i as u32), FrameId(profile.frames.len() as u32 - 1));
    }

    // Each node becomes one for what it is as a place, one for what it is as a caller, or
    // one for both. Callers come first, so theirs are known.
    let mut stacks: Vec<StackNode> = Vec::with_capacity(profile.stacks.len());
    let mut places: Vec<StackId> = Vec::with_capacity(profile.stacks.len());
    let mut callers: Vec<StackId> = Vec::with_capacity(profile.stacks.len());
    for (node, uses) in profile.stacks.iter().zip(nodes) {
        let caller = node.caller.map(|c| {
            let by_call = is_call(profile, profile.stacks[c.0 as usize], *node);
            if by_call { callers[c.0 as usize] } else { places[c.0 as usize] }
        });
        let twin = twins.get(&node.frame).filter(|_| uses.caller);
        let first = match twin {
            Some(twin) if !uses.place => *twin,
            _ => node.frame,
        };
        stacks.push(StackNode { frame: first, caller });
        places.push(StackId(stacks.len() as u32 - 1));
        if let (Some(twin), true) = (twin, uses.place) {
            stacks.push(StackNode { frame: *twin, caller });
        }
        callers.push(StackId(stacks.len() as u32 - 1));
    }
    let moved = |stack: StackId, profile: &StackProfile, on: bool| {
        let by_call = !on && ends_with_call(profile, stack);
        if by_call { callers[stack.0 as usize] } else { places[stack.0 as usize] }
    };
    for i in 0..profile.samples.len() {
        let sample = &profile.samples[i];
        let to = sample.stack.map(|s| moved(s, profile, sample.off_cpu.is_none()));
        profile.samples[i].stack = to;
    }
    for i in 0..profile.wakers.len() {
        profile.wakers[i].stack = profile.wakers[i].stack.map(|s| moved(s, profile, false));
    }
    profile.stacks = stacks;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use prof_model::stacks::Interner;
    use prof_model::stacks::Module;
    use prof_model::stacks::Sample;
    use prof_model::stacks::ThreadId;
    use prof_model::stacks::Whole;
    use std::time::Duration;

    /// Two functions next to each other: `before` ends with a call that does not return.
    const MAP: &[u8] = b"1000 10 before\n1010 10 after\n";

    /// A profile with one sample for each of these stacks, root first.
    fn profile(stacks: &[&[(FrameKind, u64)]]) -> StackProfile {
        let mut p = StackProfile { modules: vec![Module::default()], ..StackProfile::default() };
        let mut interner = Interner::default();
        for stack in stacks {
            let frames: Vec<FrameId> = stack
                .iter()
                .map(|(kind, offset)| {
                    let module = (*kind == FrameKind::User).then_some(ModuleId(0));
                    interner.frame(&mut p, *kind, module, *offset)
                })
                .collect();
            let stack = interner.stack(&mut p, frames);
            p.samples.push(Sample {
                time_ns: 0,
                thread: ThreadId(0),
                cpu: 0,
                event: 0,
                weight: 1,
                stack,
                whole: Whole::Whole,
                off_cpu: None,
            });
        }
        p
    }

    fn named(stacks: &[&[(FrameKind, u64)]]) -> StackProfile {
        let mut p = profile(stacks);
        Symbolizer::default().name_profile(&mut p, |_| Some(Source::PerfMap(MAP)));
        for node in &p.stacks {
            assert!((node.frame.0 as usize) < p.frames.len());
        }
        for (i, node) in p.stacks.iter().enumerate() {
            assert!(node.caller.is_none_or(|c| (c.0 as usize) < i));
        }
        p
    }

    #[test]
    fn the_kernel_was_left_by_a_call_where_a_thread_left_its_cpu() {
        use prof_model::stacks::OffCpu;
        use prof_model::stacks::OffState;

        let (user, kernel) = (FrameKind::User, FrameKind::Kernel);
        let mut p = profile(&[&[(user, 1), (kernel, 2)], &[(user, 3)], &[(kernel, 4)]]);
        let off = OffCpu { state: OffState::Sleep, wait_ns: 0, waker: None, unfinished: false };
        for sample in &mut p.samples[..2] {
            sample.off_cpu = Some(Box::new(off.clone()));
        }
        let uses = uses_of_nodes(&p);
        let of = |at: usize| {
            let node = uses[p.samples[at].stack.unwrap().0 as usize];
            (node.place, node.caller)
        };
        assert_eq!([of(0), of(1), of(2)], [(false, true), (true, false), (true, false)]);
    }

    /// Names of a sample's user frames, leaf first.
    fn stack(p: &StackProfile, sample: usize) -> Vec<&str> {
        p.frames_of(p.samples[sample].stack)
            .map(|f| p.frame(f))
            .filter(|f| f.kind == FrameKind::User)
            .map(|f| f.functions.first().map_or("-", |f| f.name.as_str()))
            .collect()
    }

    use FrameKind::Kernel as K;
    use FrameKind::User as U;

    #[test]
    fn of_a_caller_the_call_is_named() {
        let p = named(&[&[(U, 0x1010), (U, 0x1018)]]);
        assert_eq!(stack(&p, 0), ["after", "before"]);
        assert_eq!((p.frames.len(), p.stacks.len()), (2, 2));
    }

    #[test]
    fn of_a_leaf_and_of_what_entered_the_kernel_the_place_is_named() {
        let p = named(&[&[(U, 0x1010)], &[(U, 0x1010), (K, 1)]]);
        assert_eq!((stack(&p, 0), stack(&p, 1)), (vec!["after"], vec!["after"]));
        assert_eq!(p.frames.len(), 2);
    }

    #[test]
    fn what_is_both_and_is_called_otherwise_becomes_two() {
        let stacks: [&[_]; 5] = [
            &[(U, 0x1010), (U, 0x1018)],
            &[(U, 0x1010)],
            &[(U, 0x1010), (K, 1)],
            &[(U, 0x1001), (U, 0x1010)],
            &[(U, 0x1001), (U, 0x1010), (U, 0x1010), (U, 0x1002)],
        ];
        let p = named(&stacks);
        assert_eq!(stack(&p, 0), ["after", "before"]);
        assert_eq!(stack(&p, 1), ["after"]);
        assert_eq!(stack(&p, 2), ["after"]);
        assert_eq!(stack(&p, 3), ["after", "before"]);
        assert_eq!(stack(&p, 4), ["before", "before", "before", "before"]);
        // One more frame, and each stack once.
        assert_eq!(p.frames.len(), profile(&stacks).frames.len() + 1);
        let mut nodes = p.stacks.clone();
        nodes.sort_by_key(|n| (n.frame, n.caller));
        nodes.dedup();
        assert_eq!(nodes.len(), p.stacks.len());
        // Its places are those of before.
        let offsets = |p: &StackProfile, i: usize| {
            p.frames_of(p.samples[i].stack).map(|f| p.frame(f).offset).collect::<Vec<_>>()
        };
        for i in 0..stacks.len() {
            assert_eq!(offsets(&p, i), offsets(&profile(&stacks), i));
        }
    }

    #[test]
    fn what_is_both_and_is_called_the_same_stays_one() {
        let p = named(&[&[(U, 0x1005), (U, 0x1006)], &[(U, 0x1005)]]);
        assert_eq!((p.frames.len(), p.stacks.len()), (2, 2));
    }

    #[test]
    fn each_module_has_its_own_names_and_no_more_time_than_is_left() {
        let maps: Vec<String> = (0..30).map(|i| format!("1000 10 of{i}\n")).collect();
        let frames = |p: &mut StackProfile| {
            p.modules.resize(30, Module::default());
            for i in 0..30 {
                Interner::default().frame(p, U, Some(ModuleId(i)), 0x1004);
            }
        };
        let source = |m: ModuleId| Some(Source::PerfMap(maps[m.0 as usize].as_bytes()));
        let mut p = StackProfile::default();
        frames(&mut p);
        Symbolizer::default().name_profile(&mut p, source);
        for (i, frame) in p.frames.iter().enumerate() {
            assert_eq!(frame.functions[0].name, format!("of{i}"));
        }

        let mut p = StackProfile::default();
        frames(&mut p);
        let options = Options { total: Duration::ZERO, ..Options::default() };
        Symbolizer::new(options).name_profile(&mut p, source);
        let why = "reading it took longer than 0ns";
        assert!(p.frames.iter().all(|f| f.unnamed.as_deref() == Some(why)), "{:?}", p.frames);
    }

    #[test]
    fn each_frame_has_a_name_or_a_reason_and_keeps_it() {
        let mut p = profile(&[&[(U, 0x1001), (U, 0x9000)], &[(K, 5)]]);
        p.frames.push(prof_model::stacks::Frame {
            kind: U,
            module: None,
            offset: 7,
            functions: Vec::new(),
            unnamed: None,
        });
        let symbolizer = Symbolizer::default();
        symbolizer.name_profile(&mut p, |_| None);
        assert!(p.frames.iter().all(|f| f.unnamed.is_some()), "{:?}", p.frames);
        let before = p.clone();
        symbolizer.name_profile(&mut p, |_| panic!("nothing is left to be named"));
        assert_eq!(p, before);
    }
}
