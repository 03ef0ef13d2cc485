//! Time off the CPU: what kind of it, and who ended it.

use std::collections::BTreeMap;
use std::collections::HashMap;

use prof_model::stacks::OffState;
use prof_model::stacks::Waker;
use prof_model::stacks::WakerKind;

use super::View;
use crate::human;
use crate::layout;
use crate::layout::Cell;
use crate::layout::Column;
use crate::layout::paint;
use crate::stacks::names;

/// How often, and for how long.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    times: u64,
    ns: u64,
}

impl Sum {
    fn add(&mut self, ns: u64) {
        self.times += 1;
        self.ns = self.ns.saturating_add(ns);
    }
}

impl View<'_> {
    /// Of an event of time off the CPU: kinds, and wakers, the heaviest first.
    pub(super) fn off_cpu(&self, out: &mut String, event: u32) {
        let mut blocked: BTreeMap<OffState, Sum> = BTreeMap::new();
        let (mut waited, mut unfinished) = (Sum::default(), Sum::default());
        let mut wakers: HashMap<(String, String), Sum> = HashMap::new();
        let mut any = false;
        for s in self.profile.samples.iter().filter(|s| s.event == event) {
            let Some(off) = &s.off_cpu else { continue };
            any = true;
            if off.wait_ns > 0 {
                waited.add(off.wait_ns);
            }
            if off.state != OffState::Runnable {
                blocked.entry(off.state).or_default().add(s.weight.saturating_sub(off.wait_ns));
            }
            if off.unfinished {
                unfinished.add(s.weight);
            }
            if let Some(waker) = off.waker {
                let waker = self.profile.waker(waker);
                wakers.entry((who(waker), self.through(waker))).or_default().add(s.weight);
            }
        }
        if !any {
            return;
        }
        self.kinds(out, &blocked, waited, unfinished);
        self.wakers(out, wakers.into_iter().collect());
    }

    fn kinds(
        &self,
        out: &mut String,
        blocked: &BTreeMap<OffState, Sum>,
        waited: Sum,
        unfinished: Sum,
    ) {
        let part = |(sum, what): (Sum, &str)| {
            let times = human::plural(sum.times, "time", "times");
            format!("{what} {} ({times})", human::duration(sum.ns))
        };
        let kinds = blocked.iter().map(|(state, sum)| (*sum, about(*state)));
        let all = kinds.chain([(waited, "waited for a CPU"), (unfinished, "still off at the end")]);
        let parts: Vec<String> = all.filter(|(sum, _)| sum.times > 0).map(part).collect();
        for line in layout::wrap(&parts.join("; "), self.width - 1, "  ").lines() {
            out.push(' ');
            out.push_str(&self.fit(line, 1));
            out.push('\n');
        }
        out.push('\n');
    }

    fn wakers(&self, out: &mut String, mut wakers: Vec<((String, String), Sum)>) {
        if wakers.is_empty() {
            return;
        }
        wakers.sort_by(|(a, x), (b, y)| y.ns.cmp(&x.ns).then_with(|| a.cmp(b)));
        let columns = [
            Column::left("WOKEN BY", 0),
            Column::right("OFF CPU", 0),
            Column::right("TIME", 0),
            Column::right("TIMES", 1),
            Column::left("IN", 2),
        ];
        let rows: Vec<Vec<Cell>> = wakers
            .iter()
            .take(self.options.top)
            .map(|((who, through), sum)| {
                vec![
                    Cell::plain(who.clone()),
                    Cell::plain(human::percent(self.share(sum.ns))),
                    Cell::plain(human::duration(sum.ns)),
                    Cell::plain(human::count(sum.times)),
                    Cell::plain(through.clone()),
                ]
            })
            .collect();
        out.push_str(&self.table(&columns, &rows, 16));
        let rest = &wakers[rows.len()..];
        if !rest.is_empty() {
            let ns = rest.iter().fold(0, |sum: u64, (_, s)| sum.saturating_add(s.ns));
            let more = human::plural(rest.len() as u64, "more waker", "more wakers");
            let text = format!("… {more}, {}", human::percent(self.share(ns)));
            out.push_str(&paint(self.options.color, layout::DIM, &text));
            out.push('\n');
        }
        out.push('\n');
    }

    /// The function by which it came to wake somebody: of the program, if it is profiled;
    /// else what called the scheduler.
    fn through(&self, waker: &Waker) -> String {
        let lines = self.names.stack(waker.whole, waker.stack);
        let name = |at: &names::LineId| &self.names.line(*at).name;
        let is_user = |at: &&names::LineId| self.names.line(**at).origin == names::Origin::User;
        let leaf_first = || lines.iter().rev();
        let found = leaf_first().find(is_user).or_else(|| leaf_first().nth(1));
        found.map(name).cloned().unwrap_or_default()
    }
}

fn about(state: OffState) -> &'static str {
    match state {
        OffState::Runnable => "waited for a CPU",
        OffState::Sleep => "slept",
        OffState::Uninterruptible => "slept uninterruptibly",
        OffState::Stopped => "stopped",
    }
}

fn who(waker: &Waker) -> String {
    match waker.kind {
        WakerKind::Thread if waker.tid == waker.pid => {
            format!("{} {}", names::waker(waker), waker.pid)
        }
        WakerKind::Thread => format!("{} {}/{}", names::waker(waker), waker.pid, waker.tid),
        WakerKind::Interrupt => names::waker(waker),
    }
}
