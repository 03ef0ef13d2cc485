//! Names for all frames of a profile.

use std::collections::BTreeMap;
use std::time::Instant;

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

/// How stacks use a node or a frame.
#[derive(Debug, Clone, Copy, Default)]
struct Uses {
    /// As the place where a CPU was: a leaf, or user code that entered the kernel.
    place: bool,
    /// As the caller of the frame above it.
    caller: bool,
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
        mut modules: impl FnMut(ModuleId) -> Option<Source<'m>>,
    ) {
        let nodes = uses_of_nodes(profile);
        let mut frames = vec![Uses::default(); profile.frames.len()];
        for (node, uses) in profile.stacks.iter().zip(&nodes) {
            let frame = &mut frames[node.frame.0 as usize];
            frame.place |= uses.place;
            frame.caller |= uses.caller;
        }

        let mut wanted: BTreeMap<_, Vec<(usize, Address)>> = BTreeMap::new();
        for (i, (frame, uses)) in profile.frames.iter().zip(&frames).enumerate() {
            if !frame.functions.is_empty() || frame.unnamed.is_some() {
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

        // Names of callers that are also leaves, and are called otherwise there.
        let mut others: BTreeMap<usize, Named> = BTreeMap::new();
        let begin = Instant::now();
        for ((kind, module), group) in wanted {
            let mut limited = self.clone();
            let left = self.options.total.saturating_sub(begin.elapsed());
            limited.options.time = self.options.time.min(left);
            let addresses: Vec<Address> = group.iter().map(|(_, a)| *a).collect();
            let named = match (kind, module) {
                (FrameKind::Kernel, _) => limited.kernel(&addresses),
                (FrameKind::User, Some(module)) => match modules(module) {
                    Some(source) => limited.user(&source, &addresses),
                    None => vec![Named::unnamed("its file is not there"); addresses.len()],
                },
                (FrameKind::User, None) => {
                    vec![Named::unnamed("not in a mapping of a file"); addresses.len()]
                }
            };
            for ((i, address), named) in group.into_iter().zip(named) {
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
}

/// Whether the caller of a node was left by a call: a kernel frame above a user frame
/// came there by an interrupt or a system call, at the very address.
fn is_call(profile: &StackProfile, caller: StackNode, callee: StackNode) -> bool {
    profile.frame(caller.frame).kind == profile.frame(callee.frame).kind
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
    for sample in &profile.samples {
        if let Some(stack) = sample.stack {
            uses[stack.0 as usize].place = true;
        }
    }
    uses
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
    profile.stacks = stacks;
    for sample in &mut profile.samples {
        sample.stack = sample.stack.map(|s| places[s.0 as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prof_model::stacks::Interner;
    use prof_model::stacks::Module;
    use prof_model::stacks::Sample;
    use prof_model::stacks::ThreadId;
    use prof_model::stacks::Whole;

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
