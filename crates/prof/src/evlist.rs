//! The events of a session, as `evlist` on the control channel lists them.

use prof_events::Attr;
use prof_kernel::sampler::Rate;
use prof_kernel::sampler::Sampling;

use crate::control::Evlist;
use crate::select::Selected;

/// Events, in the order in which they were asked for.
#[derive(Debug, Default)]
pub struct Events {
    /// Names of the figures that the kernel keeps.
    kept: Vec<String>,
    counted: Vec<Counted>,
    sampled: Vec<Sampling>,
}

#[derive(Debug)]
struct Counted {
    name: String,
    attr: Attr,
    /// The first of its group, by its place.
    leader: Option<usize>,
    /// Nobody asked for it but a metric.
    hidden: bool,
}

impl Events {
    /// Those of a session.
    pub fn of(selected: &Selected) -> Self {
        let counted = selected.table.counters.iter().zip(&selected.specs);
        Self {
            kept: selected.events.iter().map(|e| e.info().name.to_owned()).collect(),
            counted: counted
                .map(|(counter, spec)| Counted {
                    name: counter.name.clone(),
                    attr: spec.attr,
                    leader: spec.leader,
                    hidden: counter.for_metric,
                })
                .collect(),
            sampled: selected
                .stacks
                .as_ref()
                .filter(|s| s.samples_events())
                .map_or_else(Vec::new, |s| s.events.clone()),
        }
    }

    /// A line each.
    pub fn list(&self, how: Evlist) -> Vec<String> {
        let kept = |what: &str| -> Vec<String> {
            self.kept.iter().map(|name| format!("{name}{what}")).collect()
        };
        let shown = || self.counted.iter().filter(|c| !c.hidden);
        match how {
            Evlist::Names => kept("").into_iter().chain(shown().map(|c| c.name.clone())).collect(),
            Evlist::Groups => kept("").into_iter().chain(self.groups()).collect(),
            Evlist::Verbose => {
                let verbose = |c: &Counted| format!("{}: {}", c.name, attr(&c.attr));
                let sampled = self
                    .sampled
                    .iter()
                    .map(|s| format!("{}: {}, {}", s.event, attr(&s.attr), rate(s)));
                let counted = shown().map(verbose);
                kept(": kept by the kernel").into_iter().chain(counted).chain(sampled).collect()
            }
            Evlist::Freq => {
                let counted = shown().map(|c| format!("{}: counted", c.name));
                let sampled = self.sampled.iter().map(|s| format!("{}: {}", s.event, rate(s)));
                kept(": kept by the kernel").into_iter().chain(counted).chain(sampled).collect()
            }
        }
    }

    /// Names, those of a group in braces.
    fn groups(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (i, c) in self.counted.iter().enumerate() {
            match c.leader {
                None if c.hidden => {}
                None => lines.push(c.name.clone()),
                Some(leader) if leader == i => {
                    let members = self.counted.iter().filter(|m| m.leader == Some(i));
                    let names: Vec<_> = members.map(|m| m.name.as_str()).collect();
                    lines.push(format!("{{{}}}", names.join(",")));
                }
                Some(_) => {}
            }
        }
        lines
    }
}

fn rate(sampled: &Sampling) -> String {
    match sampled.rate {
        Rate::Hz(hz) => format!("sample_freq={hz}"),
        Rate::Period(n) => format!("sample_period={n}"),
    }
}

/// What is not 0 of it, in perf's words.
fn attr(a: &Attr) -> String {
    let mut text = format!("type: {}, config: {:#x}", a.type_, a.config);
    for (name, value) in [
        ("config1", a.config1),
        ("config2", a.config2),
        ("config3", a.config3),
        ("bp_type", a.bp_type.into()),
        ("exclude_user", a.exclude_user.into()),
        ("exclude_kernel", a.exclude_kernel.into()),
        ("exclude_hv", a.exclude_hv.into()),
        ("exclude_idle", a.exclude_idle.into()),
        ("exclude_host", a.exclude_host.into()),
        ("exclude_guest", a.exclude_guest.into()),
        ("precise_ip", a.precise_ip.into()),
        ("pinned", a.pinned.into()),
        ("exclusive", a.exclusive.into()),
    ] {
        match name {
            _ if value == 0 => {}
            "config1" | "config2" | "config3" => text += &format!(", {name}: {value:#x}"),
            _ => text += &format!(", {name}: {value}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(name: &str, attr: Attr, leader: Option<usize>, hidden: bool) -> Counted {
        Counted { name: name.into(), attr, leader, hidden }
    }

    #[test]
    fn each_way_says_what_it_is_asked_for() {
        let user = Attr { exclude_kernel: true, ..Attr::counting(0, 1) };
        let events = Events {
            kept: vec!["task-clock".into()],
            counted: vec![
                counted("cycles", Attr::counting(0, 0), Some(0), false),
                counted("instructions:u", user, Some(0), false),
                counted("cs:uk", Attr::counting(1, 3), None, false),
                counted("hidden", Attr::default(), None, true),
            ],
            sampled: vec![Sampling::clock(Rate::Hz(99))],
        };
        let names = ["task-clock", "cycles", "instructions:u", "cs:uk"];
        assert_eq!(events.list(Evlist::Names), names);
        assert_eq!(events.list(Evlist::Groups), ["task-clock", "{cycles,instructions:u}", "cs:uk"]);
        let verbose = events.list(Evlist::Verbose);
        let of_user = "instructions:u: type: 0, config: 0x1, exclude_kernel: 1, exclude_guest: 1";
        assert_eq!(verbose[2], of_user);
        assert_eq!(verbose[4], "cpu-clock: type: 1, config: 0x0, sample_freq=99");
        let freq = events.list(Evlist::Freq);
        assert_eq!(freq[0], "task-clock: kept by the kernel");
        assert_eq!(freq[4], "cpu-clock: sample_freq=99");
    }
}
