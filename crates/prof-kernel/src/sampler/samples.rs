//! The samples so far, in bounded memory: what comes when there are very many is added to
//! one of before that was taken in the same thread with the same stack.

use std::collections::HashMap;

use prof_model::stacks::OffState;
use prof_model::stacks::Sample;
use prof_model::stacks::StackId;
use prof_model::stacks::ThreadId;
use prof_model::stacks::WakerId;
use prof_model::stacks::Whole;

/// Samples that keep their time: some 400 MB; an hour of two busy CPUs at 997 Hz.
const MAX_SAMPLES: usize = 8_000_000;

/// What samples have in common that can be added.
type Place = (ThreadId, u32, Option<StackId>, Whole, Option<(OffState, Option<WakerId>)>);

/// Samples, in the order in which they came.
#[derive(Debug)]
pub struct Samples {
    list: Vec<Sample>,
    most: usize,
    /// By place, once there are `most`.
    places: HashMap<Place, usize>,
    merged: u64,
    /// Those that came since they were last asked for, if anybody does.
    fresh: Option<Vec<Sample>>,
}

impl Default for Samples {
    fn default() -> Self {
        Self::with_most(MAX_SAMPLES)
    }
}

fn place(s: &Sample) -> Place {
    let off = s.off_cpu.as_ref().map(|o| (o.state, o.waker));
    (s.thread, s.event, s.stack, s.whole, off)
}

impl Samples {
    fn with_most(most: usize) -> Self {
        Self { list: Vec::new(), most, places: HashMap::new(), merged: 0, fresh: None }
    }

    /// One more.
    pub fn push(&mut self, sample: Sample) {
        if let Some(fresh) = &mut self.fresh {
            fresh.push(sample.clone());
        }
        if self.list.len() < self.most {
            self.list.push(sample);
            return;
        }
        if self.places.is_empty() {
            self.places = self.list.iter().enumerate().map(|(i, s)| (place(s), i)).collect();
        }
        match self.places.get(&place(&sample)) {
            Some(at) => {
                let to = &mut self.list[*at];
                to.weight = to.weight.saturating_add(sample.weight);
                if let (Some(to), Some(of)) = (&mut to.off_cpu, sample.off_cpu) {
                    to.wait_ns = to.wait_ns.saturating_add(of.wait_ns);
                }
                self.merged += 1;
            }
            // Another place: as many as there are places, which are few beside samples.
            None => {
                self.places.insert(place(&sample), self.list.len());
                self.list.push(sample);
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// What came since this was last called, each sample by itself; from the first call on.
    pub fn fresh(&mut self) -> Vec<Sample> {
        self.fresh.replace(Vec::new()).unwrap_or_default()
    }

    /// All of them by time, and how many were added to others.
    pub fn finish(mut self) -> (Vec<Sample>, u64) {
        self.list.sort_by_key(|s| s.time_ns);
        (self.list, self.merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prof_model::stacks::OffCpu;

    fn sample(time_ns: u64, stack: u32) -> Sample {
        Sample {
            time_ns,
            thread: ThreadId(0),
            cpu: 0,
            event: 0,
            weight: 10,
            stack: Some(StackId(stack)),
            whole: Whole::Whole,
            off_cpu: None,
        }
    }

    #[test]
    fn beyond_the_limit_weights_are_kept_and_times_are_not() {
        let mut samples = Samples::with_most(3);
        for (time, stack) in [(5, 1), (1, 1), (2, 2), (7, 2), (8, 2), (9, 3), (10, 3)] {
            samples.push(sample(time, stack));
        }
        let (list, merged) = samples.finish();
        assert_eq!(merged, 3);
        let weight = |stack| -> u64 {
            list.iter().filter(|s| s.stack == Some(StackId(stack))).map(|s| s.weight).sum()
        };
        assert_eq!([weight(1), weight(2), weight(3)], [20, 30, 20]);
        assert_eq!(list.iter().map(|s| s.time_ns).collect::<Vec<_>>(), [1, 2, 5, 9]);
    }

    #[test]
    fn what_is_fresh_is_told_once_and_never_merged() {
        let mut samples = Samples::with_most(1);
        assert_eq!(samples.fresh(), []);
        (1..4).for_each(|time| samples.push(sample(time, 1)));
        assert_eq!(samples.fresh().iter().map(|s| s.time_ns).collect::<Vec<_>>(), [1, 2, 3]);
        samples.push(sample(4, 1));
        assert_eq!(samples.fresh(), [sample(4, 1)]);
        let (list, merged) = samples.finish();
        assert_eq!((list.len(), list[0].weight, merged), (1, 40, 3));
    }

    #[test]
    fn times_off_the_cpu_are_added_to_those_that_the_same_waker_ended() {
        let mut samples = Samples::with_most(0);
        for (waker, wait_ns) in [(0, 1), (1, 2), (0, 4)] {
            let state = OffState::Sleep;
            let waker = Some(WakerId(waker));
            let off = OffCpu { state, wait_ns, waker, unfinished: false };
            samples.push(Sample { off_cpu: Some(Box::new(off)), ..sample(0, 1) });
        }
        let (list, merged) = samples.finish();
        assert_eq!(merged, 1);
        let waits: Vec<_> = list.iter().flat_map(|s| &s.off_cpu).map(|o| o.wait_ns).collect();
        assert_eq!(waits, [5, 2]);
        assert_eq!(list.iter().map(|s| s.weight).collect::<Vec<_>>(), [20, 10]);
    }
}
