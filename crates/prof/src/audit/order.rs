//! Lines in the order of their times: what ends together is told by the next look, and CPUs
//! tell each when they are read.

use std::collections::BTreeMap;

use prof_model::audit::AuditEvent;

/// How long a line waits for others from before it. What ended with its owner is told by the
/// look after next, at 10 looks a second, and that may wait for a record that is being written.
const WINDOW_NS: u64 = 200_000_000;

/// Most lines that wait: some MB. Beyond, the first go before their time.
const MAX: usize = 1 << 16;

/// Lines that wait.
#[derive(Debug, Default)]
pub struct Held {
    /// By time, then as they came: what is told off and on again at one moment stays so.
    held: BTreeMap<(u64, u64), AuditEvent>,
    came: u64,
    /// None is taken to be from before it.
    not_before: u64,
}

impl Held {
    /// None yet, and none from before that time: what was on already is told first.
    pub fn from(not_before: u64) -> Self {
        Self { not_before, ..Self::default() }
    }

    /// One of that time (CLOCK_MONOTONIC).
    pub fn push(&mut self, time_ns: u64, event: AuditEvent) {
        self.came += 1;
        self.held.insert((time_ns.max(self.not_before), self.came), event);
    }

    /// Those that have waited long enough.
    pub fn due(&mut self, now: u64) -> Vec<AuditEvent> {
        let mut due = Vec::new();
        while let Some(first) = self.held.first_entry() {
            let (time_ns, _) = *first.key();
            if time_ns.saturating_add(WINDOW_NS) > now && self.held.len() <= MAX {
                break;
            }
            due.extend(self.held.pop_first().map(|(_, e)| e));
        }
        due
    }

    /// All that are left.
    pub fn rest(&mut self) -> Vec<AuditEvent> {
        std::mem::take(&mut self.held).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use prof_model::audit::Interface;
    use prof_model::audit::Target;
    use prof_model::record::Flags;
    use prof_model::record::Process;

    use super::*;

    fn event(number: u32) -> AuditEvent {
        AuditEvent {
            time_ns: 0,
            cpu: number,
            flags: Flags(0),
            by: Process::default(),
            target: Target::Host,
            monitors: Vec::new(),
            interface: Interface::Found,
            notes: Vec::new(),
        }
    }

    fn numbers(all: &[AuditEvent]) -> Vec<u32> {
        all.iter().map(|e| e.cpu).collect()
    }

    #[test]
    fn what_is_told_late_comes_in_its_place() {
        let mut held = Held::from(0);
        let ms = |n: u64| n * 1_000_000;
        held.push(ms(100), event(1));
        held.push(ms(180), event(4));
        // Of one moment, and as told.
        held.push(ms(150), event(2));
        held.push(ms(150), event(3));
        assert!(held.due(ms(299)).is_empty());
        assert_eq!(numbers(&held.due(ms(350))), [1, 2, 3]);
        assert_eq!(numbers(&held.rest()), [4]);
        assert!(held.due(u64::MAX).is_empty());
    }

    #[test]
    fn what_was_there_is_told_first() {
        let mut held = Held::from(500);
        held.push(500, event(1));
        held.push(499, event(2));
        assert_eq!(numbers(&held.rest()), [1, 2]);
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let mut held = Held::from(0);
        for n in 0..MAX as u32 + 2 {
            held.push(n.into(), event(n));
        }
        assert_eq!(numbers(&held.due(0)), [0, 1]);
        assert_eq!(held.rest().len(), MAX);
    }
}
