//! A list and a host give a selection.
//!
//! One topic a file: this one, lists and what they add and leave out; `group`;
//! `one`, an event; `terms`, of a PMU; `metric`; `unknown`, what was perhaps
//! meant.

mod group;
mod metric;
mod one;
mod terms;
mod unknown;

use prof_model::figures;
use prof_model::rules::Span;
use prof_model::text;

use crate::catalogue::Catalogue;
use crate::error::ErrorKind;
use crate::error::EventError;
use crate::error::Fault;
use crate::glob;
use crate::selection::Event;
use crate::selection::Group;
use crate::selection::Selection;
use crate::selection::Source;
use crate::syntax;
use crate::syntax::Body;
use crate::syntax::Change;
use crate::syntax::EventList;
use crate::syntax::EventSpec;
use crate::syntax::Item;
use crate::syntax::ItemKind;
use crate::tables;
use crate::tables::metrics;
use crate::tracefs;
use metric::Wanted;

/// Most events of a selection: all tracepoints of a kernel are fewer.
pub const MAX_EVENTS: usize = 8192;

/// What was asked for: one or several lists, each perhaps with filters behind it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    lists: Vec<List>,
}

#[derive(Debug, Clone)]
struct List {
    origin: String,
    text: String,
    ast: EventList,
    filters: Vec<(String, String)>,
}

impl Request {
    /// Another list. `origin` is where it is from, as in `-e`, for errors.
    ///
    /// # Errors
    ///
    /// If it is not in the grammar.
    pub fn add(&mut self, origin: &str, text: &str) -> Result<(), EventError> {
        let ast = syntax::parse(origin, text)?;
        let (origin, text) = (origin.to_owned(), text.to_owned());
        self.lists.push(List { origin, text, ast, filters: Vec::new() });
        Ok(())
    }

    /// A filter for the tracepoints of the last list.
    ///
    /// # Errors
    ///
    /// If there is no list yet, or no kernel could read the filter.
    pub fn filter(&mut self, origin: &str, filter: &str) -> Result<(), EventError> {
        let span = Span { at: 0, len: filter.len() };
        let bad = |kind, message: &str| Fault::new(kind, span, message).in_text(origin, filter);
        tracefs::check_filter(filter).map_err(|m| bad(ErrorKind::Value, &m))?;
        match self.lists.last_mut() {
            Some(list) => list.filters.push((origin.to_owned(), filter.to_owned())),
            None => {
                let message = "a filter stands behind the tracepoints that it is for";
                return Err(bad(ErrorKind::Combination, message));
            }
        }
        Ok(())
    }

    /// What it comes to on a host. Without any list that is the default.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong or that this host lacks.
    pub fn resolve(&self, catalogue: &Catalogue) -> Result<Selection, EventError> {
        match self.resolved(catalogue, false) {
            (selection, errors) if errors.is_empty() => Ok(selection),
            (_, mut errors) => Err(errors.swap_remove(0)),
        }
    }

    /// What it comes to without the items that are wrong, and what is wrong with
    /// them: for `--keep-going`. A selection that grew too large ends there.
    pub fn resolve_what_is_there(&self, catalogue: &Catalogue) -> (Selection, Vec<EventError>) {
        self.resolved(catalogue, true)
    }

    fn resolved(&self, catalogue: &Catalogue, keep_going: bool) -> (Selection, Vec<EventError>) {
        let mut errors = Vec::new();
        let mut draft = Draft::default();
        // A sign in front of a list is for all of it: who writes `+ipc,faults` wants more,
        // and not `faults` alone.
        let changes = |l: &List| l.ast.items.first().is_some_and(|i| i.change != Change::List);
        if self.lists.iter().all(changes) {
            draft.add_figures(0, Span::default());
        }
        for (index, list) in self.lists.iter().enumerate() {
            let mut cx = Context { catalogue, text: &list.text, list: index };
            for item in &list.ast.items {
                if let Err(fault) = draft.item(&mut cx, item) {
                    errors.push(fault.in_text(&list.origin, &list.text));
                }
                if !errors.is_empty() && !keep_going || draft.len() > MAX_EVENTS {
                    return (Selection::default(), errors);
                }
            }
        }
        let mut selection = draft.finish(catalogue, &self.lists, &mut errors);
        for (index, list) in self.lists.iter().enumerate() {
            for (origin, filter) in &list.filters {
                if let Err(fault) = selection.filter_list(Some(index), filter) {
                    errors.push(fault.in_text(origin, filter));
                }
            }
        }
        if selection.events.is_empty() && errors.is_empty() {
            let (origin, text) =
                self.lists.last().map_or(("", ""), |l| (l.origin.as_str(), l.text.as_str()));
            let span = Span { at: 0, len: text.len() };
            let fault = Fault::new(ErrorKind::Combination, span, "no event is left");
            errors.push(fault.in_text(origin, text));
        }
        (selection, errors)
    }
}

/// What an event is resolved with.
pub(crate) struct Context<'a> {
    catalogue: &'a Catalogue,
    /// The list.
    text: &'a str,
    /// Which one.
    list: usize,
}

impl Context<'_> {
    /// What stands at a place of the list.
    fn spelled(&self, span: Span) -> &str {
        self.text.get(span.at..span.at + span.len).unwrap_or_default().trim()
    }
}

/// Events that belong together, before they have indices.
#[derive(Debug)]
struct DraftGroup {
    name: Option<String>,
    events: Vec<Event>,
    braces: bool,
    weak: bool,
}

impl DraftGroup {
    /// Of one event.
    fn alone(event: Event) -> Self {
        let weak = event.wishes.weak;
        Self { name: None, events: vec![event], braces: false, weak }
    }
}

#[derive(Debug, Default)]
struct Draft {
    groups: Vec<DraftGroup>,
    /// Events in them.
    count: usize,
    metrics: Vec<Wanted>,
}

impl Draft {
    fn item(&mut self, cx: &mut Context<'_>, item: &Item) -> Result<(), Fault> {
        match (&item.kind, item.change) {
            (ItemKind::Group(_), Change::Remove) => {
                let message = "single events are left out, not groups";
                return Err(Fault::new(ErrorKind::Combination, item.span, message));
            }
            (ItemKind::Event(e), Change::Remove) => return self.remove(cx, e),
            (ItemKind::Group(g), _) => {
                for group in cx.group(g)? {
                    self.count += group.events.len();
                    self.groups.push(group);
                }
            }
            (ItemKind::Event(e), _) => self.event(cx, e)?,
        }
        if self.len() > MAX_EVENTS {
            let message = format!("that would be more than {MAX_EVENTS} events");
            return Err(Fault::new(ErrorKind::Combination, item.span, message));
        }
        Ok(())
    }

    /// How many events there are, or would be with those of metrics.
    fn len(&self) -> usize {
        self.count + 2 * self.metrics.len()
    }

    fn event(&mut self, cx: &mut Context<'_>, spec: &EventSpec) -> Result<(), Fault> {
        if let (Body::Name(name), None) = (&spec.body, &spec.terms) {
            if tables::DEFAULT.contains(&name.as_str()) {
                if spec.modifiers.is_some() {
                    let message = format!("'{name}' takes no modifiers: it is many events");
                    return Err(Fault::new(ErrorKind::Modifier, spec.span, message));
                }
                self.add_figures(cx.list, spec.span);
                return Ok(());
            }
            if let Some(info) = metrics::find(name) {
                self.metrics.push(Wanted::new(cx, spec, info));
                return Ok(());
            }
            if glob::is_glob(name) {
                return self.glob(cx, spec, name);
            }
        }
        self.push_all(cx.event(spec, false)?);
        Ok(())
    }

    /// Figures that are there already are not there twice; of other events each
    /// spelling counts, as in perf.
    fn push_all(&mut self, events: Vec<Event>) {
        for event in events {
            let is_figure = matches!(event.source, Source::Figure(_));
            if !(is_figure && self.events().any(|e| e.source == event.source)) {
                self.count += 1;
                self.groups.push(DraftGroup::alone(event));
            }
        }
    }

    fn events(&self) -> impl Iterator<Item = &Event> {
        self.groups.iter().flat_map(|g| &g.events)
    }

    fn add_figures(&mut self, list: usize, span: Span) {
        let all = figures::EVENTS.iter().map(|info| one::figure(info, info.name, list, span));
        self.push_all(all.collect());
    }

    /// `*-misses`: all names that fit, each event once.
    fn glob(&mut self, cx: &mut Context<'_>, spec: &EventSpec, pattern: &str) -> Result<(), Fault> {
        let (mut any, mut fault) = (false, None);
        for name in cx.names_like(pattern) {
            let spec = EventSpec { body: Body::Name(name.clone()), ..spec.clone() };
            if let Some(info) = metrics::find(&name) {
                self.metrics.push(Wanted::new(cx, &spec, info));
                any = true;
                continue;
            }
            // A figure that has no event for user mode, say, is not meant.
            let events = match cx.event(&spec, false) {
                Ok(events) => events,
                Err(f) => {
                    fault = fault.or(Some(f));
                    continue;
                }
            };
            any = true;
            for mut event in events {
                let spelled = one::with_modifiers(&name, &spec.modifiers, ':');
                if event.name == event.spelled {
                    event.name.clone_from(&spelled);
                }
                event.spelled = spelled;
                let same = |e: &Event| (e.source, e.attr) == (event.source, event.attr);
                if !self.events().any(same) {
                    self.push_all(vec![event]);
                }
            }
        }
        match (any, fault) {
            (true, _) => Ok(()),
            (false, Some(fault)) => Err(fault),
            (false, None) => {
                let message = format!("no event is called '{pattern}' here");
                Err(Fault::new(ErrorKind::UnknownEvent, spec.span, message))
            }
        }
    }

    /// Leaves out what is there of that name.
    fn remove(&mut self, cx: &Context<'_>, spec: &EventSpec) -> Result<(), Fault> {
        let spelled = cx.spelled(spec.span).to_owned();
        let all = tables::DEFAULT.contains(&spelled.as_str());
        let figure = tables::figure(&spelled).map(|i| i.event);
        let generic = tables::generic::find(&spelled);
        let is_meant = |e: &Event| {
            let figure_is = |f: figures::Event| all || figure == Some(f);
            let alias = |g: &tables::generic::Generic| {
                e.spelled == g.name || g.aliases.contains(&e.spelled.as_str())
            };
            matches!(e.source, Source::Figure(f) if figure_is(f))
                || glob::matches(&spelled, &e.spelled)
                || glob::matches(&spelled, &e.name)
                || generic.is_some_and(alias)
        };
        let before = self.count + self.metrics.len();
        for group in &mut self.groups {
            group.events.retain(|e| !is_meant(e));
        }
        self.groups.retain(|g| !g.events.is_empty());
        self.count = self.events().count();
        let metric = metrics::find(&spelled).map(|m| m.name);
        self.metrics.retain(|w| metric != Some(w.info.name) && !glob::matches(&spelled, &w.name));
        let after = self.count + self.metrics.len();
        if after == before && !tables::is_known(&spelled) {
            let names: Vec<_> = self.events().map(|e| e.spelled.as_str()).collect();
            let message = format!("'{spelled}' is not among the events, so cannot be left out");
            return Err(
                Fault::new(ErrorKind::UnknownEvent, spec.span, message).near(&spelled, names)
            );
        }
        Ok(())
    }

    /// All of it, with the events of metrics.
    fn finish(
        mut self,
        catalogue: &Catalogue,
        lists: &[List],
        errors: &mut Vec<EventError>,
    ) -> Selection {
        let wanted = std::mem::take(&mut self.metrics);
        let mut metrics = Vec::new();
        for w in wanted {
            let text = lists.get(w.list);
            let (origin, text) = text.map_or(("", ""), |l| (&l.origin, &l.text));
            let cx = Context { catalogue, text, list: w.list };
            match self.add_metric(&cx, &w) {
                Ok(new) => metrics.extend(new),
                Err(fault) => errors.push(fault.in_text(origin, text)),
            }
        }
        let mut selection = Selection::default();
        for g in self.groups {
            let from = selection.events.len();
            selection.events.extend(g.events.into_iter().map(shown));
            let events = (from..selection.events.len()).collect();
            let (name, braces, weak) = (g.name, g.braces, g.weak);
            selection.groups.push(Group { name, events, braces, weak });
        }
        selection.metrics = metrics;
        selection
    }
}

/// A name is shown wherever the event is: it carries nothing that a terminal would obey,
/// wherever it came from.
fn shown(event: Event) -> Event {
    Event { name: text::for_terminal(event.name.as_bytes()), ..event }
}
