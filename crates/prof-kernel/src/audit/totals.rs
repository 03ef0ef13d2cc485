//! How long each profiled each.

use std::collections::BTreeMap;

use prof_model::audit::AuditTotal;
use prof_model::audit::Target;
use prof_model::record::Process;

/// Most pairs of who profiles whom, and most names of events of one pair.
const MAX_PAIRS: usize = 1 << 14;
const MAX_NAMES: usize = 64;

/// Whom, as far as totals tell them apart: a process by id and start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Whom {
    Process(u32, u64),
    Cpu(u32),
    Cgroup(u64, Option<u32>),
    Host,
    Unknown,
}

impl From<&Target> for Whom {
    fn from(t: &Target) -> Self {
        match t {
            Target::Process(p) => Self::Process(p.ident.pid, p.ident.start_ns),
            Target::Cpu(cpu) => Self::Cpu(*cpu),
            Target::Cgroup { id, cpu, .. } => Self::Cgroup(*id, *cpu),
            Target::Host => Self::Host,
            Target::Unknown => Self::Unknown,
        }
    }
}

#[derive(Debug)]
struct Pair {
    total: AuditTotal,
    /// Since when at least one is on.
    since: u64,
    /// Sum of the times at which each that is on was switched on.
    since_sum: u128,
}

/// By pairs of who profiles whom.
#[derive(Debug, Default)]
pub struct Totals {
    pairs: BTreeMap<((u32, u64), Whom), Pair>,
    /// Switches of pairs for which there was no room.
    pub full: u64,
}

impl Totals {
    /// One was switched: on, or off after so long.
    pub fn switched(
        &mut self,
        now: u64,
        by: &Process,
        target: &Target,
        name: &str,
        off_after: Option<u64>,
    ) {
        let key = ((by.ident.pid, by.ident.start_ns), Whom::from(target));
        if !self.pairs.contains_key(&key) && self.pairs.len() >= MAX_PAIRS {
            self.full += 1;
            return;
        }
        let pair = self.pairs.entry(key).or_insert_with(|| Pair {
            total: AuditTotal {
                by: by.clone(),
                target: target.clone(),
                on_ns: 0,
                monitors_ns: 0,
                switched_on: 0,
                still_on: 0,
                names: Vec::new(),
            },
            since: now,
            since_sum: 0,
        });
        let t = &mut pair.total;
        let Some(was_ns) = off_after else {
            if t.still_on == 0 {
                pair.since = now;
            }
            t.still_on += 1;
            t.switched_on += 1;
            pair.since_sum += u128::from(now);
            // As it is called by now.
            t.target.clone_from(target);
            if t.names.len() < MAX_NAMES && !t.names.iter().any(|n| n == name) {
                t.names.push(name.to_owned());
            }
            return;
        };
        t.still_on = t.still_on.saturating_sub(1);
        t.monitors_ns += was_ns;
        pair.since_sum = pair.since_sum.saturating_sub(now.saturating_sub(was_ns).into());
        if t.still_on == 0 {
            t.on_ns += now.saturating_sub(pair.since);
        }
    }

    /// All, up to now, those that were longest on first.
    pub fn so_far(&self, now: u64) -> Vec<AuditTotal> {
        let mut all: Vec<_> = self.pairs.values().map(|p| p.so_far(now)).collect();
        all.sort_by_key(|t| std::cmp::Reverse(t.on_ns));
        all
    }
}

impl Pair {
    fn so_far(&self, now: u64) -> AuditTotal {
        let mut t = self.total.clone();
        if t.still_on > 0 {
            t.on_ns += now.saturating_sub(self.since);
            let sum = u128::from(now) * u128::from(t.still_on);
            t.monitors_ns += u64::try_from(sum.saturating_sub(self.since_sum)).unwrap_or(u64::MAX);
        }
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_overlap_in_one_sum_and_add_up_in_the_other() {
        let mut totals = Totals::default();
        let by = Process::default();
        let mut switch = |now, name, was| totals.switched(now, &by, &Target::Cpu(0), name, was);
        switch(100, "a", None);
        switch(150, "b", None);
        switch(200, "a", Some(100));
        switch(300, "b", Some(150));
        switch(400, "a", None);
        let all = totals.so_far(410);
        assert_eq!(all.len(), 1);
        let t = &all[0];
        // 100 to 300 and 400 to 410; a 100 and 10, b 150.
        assert_eq!((t.on_ns, t.monitors_ns), (210, 260));
        assert_eq!((t.switched_on, t.still_on), (3, 1));
        assert_eq!(t.names, ["a", "b"]);
    }
}
