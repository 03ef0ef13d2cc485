//! Groups.

use super::Context;
use super::DraftGroup;
use crate::attr::perf_type;
use crate::error::ErrorKind;
use crate::error::Fault;
use crate::glob;
use crate::selection::Event;
use crate::syntax::Body;
use crate::syntax::EventSpec;
use crate::syntax::GroupSpec;
use crate::syntax::Modifiers;
use crate::tables;
use crate::tables::metrics;

impl Context<'_> {
    /// One group, or one for each PMU where an event stands for several: a group
    /// is counted on one PMU.
    pub(super) fn group(&mut self, spec: &GroupSpec) -> Result<Vec<DraftGroup>, Fault> {
        let mut members: Vec<Vec<Event>> = Vec::new();
        for e in &spec.events {
            self.check_member(e)?;
            members.push(self.event(e, true)?);
        }
        if let Some(modifiers) = &spec.modifiers {
            check_precise(spec, modifiers, &members)?;
        }
        let spread = members.iter().any(|m| m.len() > 1 && m.iter().any(|e| e.pmu.is_some()));
        let mut parts: Vec<(Option<String>, Vec<Event>)> = Vec::new();
        for event in members.into_iter().flatten() {
            let part = match (&event.pmu, spread) {
                // What runs on no certain PMU can join any; it joins the first.
                (None, true) => parts.first_mut(),
                (Some(_), true) => parts.iter_mut().find(|(p, _)| *p == event.pmu || p.is_none()),
                _ => parts.first_mut(),
            };
            match part {
                Some((pmu, events)) => {
                    if pmu.is_none() {
                        pmu.clone_from(&event.pmu);
                    }
                    events.push(event);
                }
                None => parts.push((event.pmu.clone(), vec![event])),
            }
        }
        let mut groups = Vec::new();
        for (_, mut events) in parts {
            check_pmus(spec, &events)?;
            slots_first(&mut events);
            let mut weak = events.iter().any(|e| e.wishes.weak);
            if let Some(modifiers) = &spec.modifiers {
                on_top(modifiers, &mut events);
                weak |= modifiers.as_str().contains('W');
            }
            check_leader(&events)?;
            groups.push(DraftGroup { name: spec.name.clone(), events, braces: true, weak });
        }
        Ok(groups)
    }

    /// What is no single event cannot be in a group.
    fn check_member(&self, spec: &EventSpec) -> Result<(), Fault> {
        let Body::Name(name) = &spec.body else { return Ok(()) };
        if spec.terms.is_some() {
            return Ok(());
        }
        let bad = |m: String| Err(Fault::new(ErrorKind::Combination, spec.span, m));
        if tables::DEFAULT.contains(&name.as_str()) || glob::is_glob(name) {
            return bad(format!("'{name}' is many events; a group names each"));
        }
        if let Some(m) = metrics::find(name) {
            return bad(format!(
                "'{name}' is a metric: list it beside a group of {},{}",
                m.below, m.above
            ));
        }
        if tables::figure(name).is_some() && tables::generic::find(name).is_none() {
            return bad(format!(
                "'{name}' is read apart from events: list it outside of the group"
            ));
        }
        Ok(())
    }
}

/// Modifiers of the group, on top of those of each event. Only the leader can be
/// pinned or exclusive.
fn on_top(modifiers: &Modifiers, events: &mut [Event]) {
    for (i, e) in events.iter_mut().enumerate() {
        let Some(attr) = &mut e.attr else { continue };
        let (pinned, exclusive) = (attr.pinned, attr.exclusive);
        modifiers.apply(attr, &mut e.wishes, true);
        if i > 0 {
            (attr.pinned, attr.exclusive) = (pinned, exclusive);
        }
    }
}

/// The kernel takes a group only if no member but the leader asks to be pinned or
/// exclusive.
fn check_leader(events: &[Event]) -> Result<(), Fault> {
    let asks = |e: &&Event| e.attr.is_some_and(|a| a.pinned || a.exclusive);
    match events.iter().skip(1).find(asks) {
        None => Ok(()),
        Some(e) => {
            let message = format!("'{}' does not lead the group, so takes neither D nor e", e.name);
            Err(Fault::new(ErrorKind::Modifier, e.span, message)
                .help("they stand behind the leader, or the group: {…}:D"))
        }
    }
}

/// Precision of both levels adds up.
fn check_precise(
    spec: &GroupSpec,
    modifiers: &Modifiers,
    members: &[Vec<Event>],
) -> Result<(), Fault> {
    let more = modifiers.as_str().matches('p').count();
    for e in members.iter().flatten() {
        let has = e.attr.map_or(0, |a| usize::from(a.precise_ip));
        if more > 0 && has + more > 3 {
            let message = format!("with the group's, '{}' would be more precise than ppp", e.name);
            return Err(Fault::new(ErrorKind::Modifier, spec.span, message));
        }
    }
    Ok(())
}

/// An uncore PMU counts with events of its own only, and those of software.
fn check_pmus(spec: &GroupSpec, events: &[Event]) -> Result<(), Fault> {
    let Some(uncore) = events.iter().find(|e| !e.per_task) else { return Ok(()) };
    let is_soft = |e: &Event| {
        let type_ = e.attr.map(|a| a.type_);
        matches!(type_, Some(perf_type::SOFTWARE | perf_type::TRACEPOINT))
    };
    match events.iter().find(|e| e.pmu != uncore.pmu && !is_soft(e)) {
        None => Ok(()),
        Some(other) => {
            let message = format!(
                "a group is counted on one PMU: '{}' and '{}' are on two",
                uncore.name, other.name
            );
            Err(Fault::new(ErrorKind::Combination, spec.span, message))
        }
    }
}

/// Intel's topdown events count only below `slots`.
fn slots_first(events: &mut [Event]) {
    let called = |e: &Event, f: fn(&str) -> bool| f(&e.spelled) || e.spelled.split('/').any(f);
    let topdown = events.iter().any(|e| called(e, |s| s.starts_with("topdown-")));
    let slots = events.iter().position(|e| called(e, |s| s == "slots"));
    if let (true, Some(at)) = (topdown, slots) {
        events[..=at].rotate_right(1);
    }
}
