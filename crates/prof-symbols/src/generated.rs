//! Names for frames of code that was made at run time, as of when they were sampled:
//! the same address may have been another function before.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
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
use crate::Symbolizer;
use crate::elf;
use crate::jitdump;
use crate::jitdump::Query;
use crate::profile::Uses;

/// Most times at which it is asked what a frame was. Memory that is used again more often
/// has what was there last before one of them.
const MAX_TIMES: usize = 256;

/// What has the names of such code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told<'a> {
    pub perf_map: &'a [u8],
    pub dump: BorrowedFd<'a>,
    /// Monotonic time that is 0 in the profile.
    pub epoch_ns: u64,
}

impl Symbolizer {
    /// Names for addresses as of the end.
    pub(crate) fn generated(&self, told: Told<'_>, addresses: &[Address]) -> Vec<Named> {
        let query = |(frame, a): (u32, &Address)| Query {
            frame,
            time_ns: u64::MAX,
            address: a.of_instruction(),
        };
        let queries: Vec<Query> = (0..).zip(addresses).map(query).collect();
        let (named, why) = self.ask(told, &queries);
        crate::fill(named, why.as_deref())
    }

    fn ask(&self, told: Told<'_>, queries: &[Query]) -> (Vec<Option<Named>>, Option<String>) {
        let mut named = vec![None; queries.len()];
        let why = self.collect(&mut named, |out| match elf::reopen(told.dump) {
            Ok(file) => jitdump::name(file, told.perf_map, queries, out),
            Err(e) => {
                let why = format!("the jitdump cannot be read: {e}");
                (0..queries.len()).for_each(|at| out.send(at, Named::unnamed(why.as_str())));
            }
        });
        (named, why)
    }

    /// Names frames of these modules that have neither name nor reason. One that was
    /// several functions becomes several. `uses` is of frames; one that is a place as well
    /// as a caller has the name of the place: compilers at run time end no function with a
    /// call.
    pub(crate) fn name_generated(
        &self,
        profile: &mut StackProfile,
        modules: &BTreeMap<ModuleId, Told<'_>>,
        uses: &[Uses],
        begin: Instant,
    ) {
        let mut later: HashMap<u32, Vec<(u64, FrameId)>> = HashMap::new();
        for (module, times) in times_of_frames(profile, modules) {
            if let Some(told) = modules.get(&module) {
                let queries = queries(profile, uses, *told, times);
                let (named, why) = self.limited(begin).ask(*told, &queries);
                let why = why.as_deref().unwrap_or("nothing was said about it");
                take(profile, *told, &queries, named, why, &mut later);
            }
        }
        if !later.is_empty() {
            replace(profile, &later);
        }
    }
}

/// Some of the times at which a frame was in a stack, evenly.
#[derive(Debug, Clone)]
struct Times {
    times: Vec<u64>,
    /// How many there were.
    seen: usize,
    /// Of so many, one is kept.
    stride: usize,
}

impl Times {
    fn new() -> Self {
        Self { times: Vec::new(), seen: 0, stride: 1 }
    }

    fn add(&mut self, time_ns: u64) {
        if self.seen.is_multiple_of(self.stride) {
            self.times.push(time_ns);
        }
        self.seen += 1;
        if self.times.len() >= 2 * MAX_TIMES {
            let mut nth = 0;
            self.times.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
            self.stride *= 2;
        }
    }

    /// At most [`MAX_TIMES`], the first among them. If there was none, as with those who
    /// woke others, the end.
    fn some(mut self) -> Vec<u64> {
        if self.times.is_empty() {
            return vec![u64::MAX];
        }
        self.times.sort_unstable();
        self.times.dedup();
        let step = self.times.len().div_ceil(MAX_TIMES);
        self.times.into_iter().step_by(step).collect()
    }
}

/// When frames of these modules were in stacks; those without a name yet.
fn times_of_frames(
    profile: &StackProfile,
    modules: &BTreeMap<ModuleId, Told<'_>>,
) -> BTreeMap<ModuleId, Vec<(u32, Times)>> {
    let is_wanted = |f: &Frame| {
        let of_these =
            f.kind == FrameKind::User && f.module.is_some_and(|m| modules.contains_key(&m));
        of_these && f.functions.is_empty() && f.unnamed.is_none()
    };
    let mut times: Vec<Option<Times>> =
        profile.frames.iter().map(|f| is_wanted(f).then(Times::new)).collect();
    for sample in &profile.samples {
        for frame in profile.frames_of(sample.stack) {
            if let Some(Some(times)) = times.get_mut(frame.0 as usize) {
                times.add(sample.time_ns);
            }
        }
    }
    let mut by_module: BTreeMap<ModuleId, Vec<(u32, Times)>> = BTreeMap::new();
    for ((at, frame), times) in (0..).zip(&profile.frames).zip(times) {
        if let (Some(module), Some(times)) = (frame.module, times) {
            by_module.entry(module).or_default().push((at, times));
        }
    }
    by_module
}

fn queries(
    profile: &StackProfile,
    uses: &[Uses],
    told: Told<'_>,
    times: Vec<(u32, Times)>,
) -> Vec<Query> {
    let mut queries = Vec::new();
    for (frame, times) in times {
        let of = &uses[frame as usize];
        let is_return = of.caller && !of.place;
        let address = Address { offset: profile.frames[frame as usize].offset, is_return };
        queries.extend(times.some().into_iter().map(|time_ns| Query {
            frame,
            time_ns: told.epoch_ns.saturating_add(time_ns),
            address: address.of_instruction(),
        }));
    }
    queries
}

/// Puts names into frames; what a frame was later, and from when on, into `later`.
fn take(
    profile: &mut StackProfile,
    told: Told<'_>,
    queries: &[Query],
    named: Vec<Option<Named>>,
    why: &str,
    later: &mut HashMap<u32, Vec<(u64, FrameId)>>,
) {
    let mut last = None;
    for (query, named) in queries.iter().zip(named) {
        let is_first = last.replace(query.frame) != Some(query.frame);
        // Of the others, what is not told is as before.
        let named = match named {
            None if !is_first => continue,
            named => named.unwrap_or_else(|| Named::unnamed(why)),
        };
        let first = query.frame as usize;
        if is_first {
            profile.frames[first].functions = named.functions;
            profile.frames[first].unnamed = named.unnamed;
            continue;
        }
        let mut frame = profile.frames[first].clone();
        frame.functions = named.functions;
        frame.unnamed = named.unnamed;
        profile.frames.push(frame);
        let from = query.time_ns.saturating_sub(told.epoch_ns);
        let id = FrameId(profile.frames.len() as u32 - 1);
        later.entry(query.frame).or_default().push((from, id));
    }
}

/// Gives samples stacks with the frames that were there at their time.
fn replace(profile: &mut StackProfile, later: &HashMap<u32, Vec<(u64, FrameId)>>) {
    let mut known: HashMap<StackNode, StackId> =
        profile.stacks.iter().enumerate().map(|(at, n)| (*n, StackId(at as u32))).collect();
    let mut samples = std::mem::take(&mut profile.samples);
    for sample in &mut samples {
        let frames: Vec<FrameId> = profile.frames_of(sample.stack).collect();
        if !frames.iter().any(|f| later.contains_key(&f.0)) {
            continue;
        }
        let at_its_time = |frame: FrameId| {
            let all = later.get(&frame.0).map_or(&[][..], Vec::as_slice);
            let after = all.partition_point(|(from, _)| *from <= sample.time_ns);
            after.checked_sub(1).and_then(|n| all.get(n)).map_or(frame, |(_, f)| *f)
        };
        sample.stack = frames.into_iter().rev().map(at_its_time).fold(None, |caller, frame| {
            let node = StackNode { frame, caller };
            Some(*known.entry(node).or_insert_with(|| {
                profile.stacks.push(node);
                StackId(profile.stacks.len() as u32 - 1)
            }))
        });
    }
    profile.samples = samples;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;
    use crate::jitdump::tests::Written;
    use prof_model::stacks::Interner;
    use prof_model::stacks::Module;
    use prof_model::stacks::Process;
    use prof_model::stacks::ProcessId;
    use prof_model::stacks::Sample;
    use prof_model::stacks::SampledEvent;
    use prof_model::stacks::Thread;
    use prof_model::stacks::ThreadId;
    use prof_model::stacks::Whole;
    use std::os::fd::AsFd as _;

    /// Samples at these times, each of this stack, root first.
    fn profile(samples: &[(u64, &[u64])]) -> StackProfile {
        let mut p = StackProfile {
            modules: vec![Module::default()],
            events: vec![SampledEvent {
                name: "cpu-clock".into(),
                unit: "ns".into(),
                frequency_hz: None,
                period: None,
            }],
            processes: vec![Process::default()],
            threads: vec![Thread { process: ProcessId(0), tid: 1, comm: String::new() }],
            ..StackProfile::default()
        };
        let mut interner = Interner::default();
        for (time_ns, offsets) in samples {
            let module = Some(ModuleId(0));
            let frames: Vec<_> = offsets
                .iter()
                .map(|at| interner.frame(&mut p, FrameKind::User, module, *at))
                .collect();
            let stack = interner.stack(&mut p, frames);
            p.samples.push(Sample {
                time_ns: *time_ns,
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

    fn stacks(p: &StackProfile) -> Vec<String> {
        let name = |f: FrameId| match &p.frame(f).functions[..] {
            [f] => f.name.clone(),
            _ => format!("({})", p.frame(f).unnamed.as_deref().unwrap()),
        };
        let stack = |s: &Sample| {
            let names: Vec<_> = p.frames_of(s.stack).map(name).collect();
            names.join(" < ")
        };
        p.samples.iter().map(stack).collect()
    }

    #[test]
    fn an_address_is_called_what_was_there_when_it_was_sampled() {
        let dump = Written::new(0)
            .load(1000, 0x1000, 0x10, 1, "outer")
            .load(1000, 0x2000, 0x10, 2, "old")
            .load(1500, 0x2000, 0x10, 3, "new");
        let file = dump.file();
        let source = |_| Some(Source::JitDump { file: file.as_fd(), perf_map: b"", epoch_ns: 900 });
        let samples: [(u64, &[u64]); 6] = [
            (200, &[0x1005, 0x2003]),
            (700, &[0x1005, 0x2003]),
            (300, &[0x1005, 0x2003]),
            // A caller at the very end of its code.
            (650, &[0x1010, 0x2004]),
            (800, &[0x1005]),
            (800, &[0x3000]),
        ];
        let mut p = profile(&samples);
        Symbolizer::default().name_profile(&mut p, source);
        assert_eq!(p.check(), Ok(()));
        let none = "(the jitdump has no code there)";
        let [old, new] = ["old < outer", "new < outer"];
        assert_eq!(stacks(&p), [old, new, old, new, "outer", none]);
        // Nothing else became several.
        assert_eq!(p.frames.len(), profile(&samples).frames.len() + 1);
        let offsets = |p: &StackProfile, at: usize| {
            let frames = p.frames_of(p.samples[at].stack);
            frames.map(|f| p.frame(f).offset).collect::<Vec<_>>()
        };
        for at in 0..samples.len() {
            assert_eq!(offsets(&p, at), offsets(&profile(&samples), at));
        }
    }

    #[test]
    fn only_modules_that_are_given_are_named() {
        let dump = Written::new(0).load(1, 0x1000, 0x10, 1, "made");
        let file = dump.file();
        let mut p = profile(&[(5, &[0x1005])]);
        p.modules.push(Module::default());
        Interner::default().frame(&mut p, FrameKind::User, Some(ModuleId(1)), 0x1005);
        Interner::default().frame(&mut p, FrameKind::Kernel, None, 0x1005);
        let source = Source::JitDump { file: file.as_fd(), perf_map: b"", epoch_ns: 0 };
        Symbolizer::default().name_modules(&mut p, |m| (m.0 == 0).then_some(source));
        let named: Vec<_> = p.frames.iter().map(|f| f.functions.len()).collect();
        assert_eq!(named, [1, 0, 0], "{:?}", p.frames);
        assert!(p.frames.iter().all(|f| f.unnamed.is_none()));
    }

    #[test]
    fn of_many_times_some_are_kept_evenly() {
        assert_eq!(Times::new().some(), [u64::MAX]);
        for n in [1, 255, 256, 257, 511, 512, 1000, 100_000] {
            let mut times = Times::new();
            (0..n).for_each(|t| times.add(t));
            let some = times.some();
            assert_eq!(some[0], 0);
            assert!(some.len() <= MAX_TIMES, "{n}: {}", some.len());
            let widest = some.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(1);
            assert!(widest <= n / 64 + 1, "{n}: {widest}");
            assert!(n.saturating_sub(*some.last().unwrap()) <= 2 * widest, "{n}");
        }
    }

    #[test]
    fn used_again_more_often_than_is_asked_for_it_has_one_of_the_names() {
        let mut dump = Written::new(0);
        let mut samples: Vec<(u64, &[u64])> = Vec::new();
        for i in 0..1000 {
            dump = dump.load(10 * i, 0x1000, 0x10, i, &format!("f{i}"));
            samples.push((10 * i + 5, &[0x1000]));
        }
        let file = dump.file();
        let mut p = profile(&samples);
        let source = Source::JitDump { file: file.as_fd(), perf_map: b"", epoch_ns: 0 };
        Symbolizer::default().name_profile(&mut p, |_| Some(source));
        assert!(p.frames.len() <= MAX_TIMES, "{}", p.frames.len());
        for (at, name) in stacks(&p).iter().enumerate() {
            let told: usize = name[1..].parse().unwrap();
            assert!(told <= at && at - told < 4, "{at}: {name}");
        }
    }
}
