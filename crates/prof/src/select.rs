//! `-e`: from a list to what is counted.

use anyhow::Result;
use anyhow::bail;
use prof_events::Catalogue;
use prof_events::Event;
use prof_events::EventError;
use prof_events::Host;
use prof_events::Request;
use prof_events::Selection;
use prof_events::Source;
use prof_kernel::abi::MAX_COUNTERS;
use prof_kernel::abi::stacks::MAX_SAMPLED;
use prof_kernel::abi::stacks::MAX_SHARES;
use prof_kernel::abi::stacks::SHARE_BITS;
use prof_kernel::counters;
use prof_kernel::counters::CounterSpec;
use prof_kernel::counters::PERF_TYPE_TRACEPOINT;
use prof_kernel::host;
use prof_kernel::sampler::Rate;
use prof_kernel::sampler::Sampling;
use prof_kernel::sampler::Share;
use prof_kernel::sampler::StackPlan;
use prof_model::counters::Counter;
use prof_model::counters::Item;
use prof_model::counters::Metric;
use prof_model::counters::SortKey;
use prof_model::counters::Table;
use prof_model::figures::EventSet;
use prof_model::rules::RuleSet;

use crate::cli::Shared;
use crate::vendor::Vendor;

/// What helps where a machine lacks an event.
const KEEP_GOING: &str = "--keep-going leaves out what this machine lacks";

/// The kernel's timers of perf events fire no more often than this, whatever they are
/// asked for.
const MIN_TIMER_NS: u64 = 10_000;

/// What was asked for, as far as this machine has it.
#[derive(Debug, Clone, Default)]
pub struct Selected {
    /// Figures that the kernel keeps.
    pub events: EventSet,
    /// Perf events, and what is computed.
    pub table: Table,
    /// The same events, to be opened.
    pub specs: Vec<CounterSpec>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
    /// What `--sort` names.
    pub sort: Option<SortKey>,
    /// Stacks to be sampled.
    pub stacks: Option<StackPlan>,
}

/// Reads the options. With `--keep-going` what this machine lacks is left out, else
/// it is an error, before anything is started.
pub fn from_options(shared: &Shared, rules: &RuleSet) -> Result<Selected> {
    let mut request = Request::default();
    // As perf has it, a filter is for the list before it.
    let filters = || shared.filter.iter().zip(&shared.lists_before);
    if filters().any(|(_, before)| *before == 0) {
        bail!("--filter stands behind the -e that names its tracepoints");
    }
    for (place, list) in (1..).zip(&shared.events) {
        request.add("-e", list)?;
        for (filter, _) in filters().filter(|(_, before)| **before == place) {
            request.filter("--filter", filter)?;
        }
    }
    let catalogue = catalogue();
    let (selection, errors) = if shared.keep_going {
        request.resolve_what_is_there(&catalogue)
    } else {
        (request.resolve(&catalogue).map_err(or_keep_going)?, Vec::new())
    };
    let mut selected = Selected {
        events: selection.figures(),
        left_out: errors.iter().map(EventError::in_one_line).collect(),
        ..Selected::default()
    };
    selected.add_counters(&selection, &catalogue, shared.keep_going)?;
    if selected.events.is_empty() && selected.specs.is_empty() {
        bail!("none of the events can be counted here: {}", selected.left_out.join("; "));
    }
    if shared.asks_for_stacks() {
        let mut plan = shared.stack_plan();
        share(&mut plan, rules, shared.freq)?;
        if !shared.by.is_empty() {
            sampled_by(&mut plan, &shared.by, shared.freq, &catalogue)?;
        }
        check_periods(&plan)?;
        selected.stacks = Some(plan);
    }
    if let Some(name) = &shared.sort {
        selected.sort = Some(selected.find(name)?);
    }
    Ok(selected)
}

/// With how to go on without it, where the list may be right on another machine. A name
/// that comes near another is rather a slip.
fn or_keep_going(e: EventError) -> EventError {
    if !e.kind.is_about_this_machine() || !e.near.is_empty() {
        return e;
    }
    let help = match e.help.is_empty() {
        true => KEEP_GOING.to_owned(),
        false => format!("{}; {KEEP_GOING}", e.help),
    };
    EventError { help: help.into(), ..e }
}

/// The events to sample by, instead of the timer.
fn sampled_by(
    plan: &mut StackPlan,
    lists: &[String],
    asked: Option<u64>,
    catalogue: &Catalogue,
) -> Result<()> {
    let Some(rate) = plan.events.first().map(|e| e.rate) else { return Ok(()) };
    let online = host::online_cpus()?;
    let first = online.first().copied().unwrap_or(0);
    let mut events: Vec<Sampling> = Vec::new();
    for event in resolved(lists, catalogue)? {
        let name = event.name.clone();
        if event.tracepoint.as_ref().is_some_and(|t| t.filter.is_some()) {
            bail!(
                "--by {name}: what is sampled has no filter, which the kernel looks at too late: \
                 -e counts the hits for which one holds"
            );
        }
        let attr = match event.attr {
            // The kernel keeps it for each process; with a modifier it is a perf event.
            None => {
                let modified = resolved(&[format!("{name}:uk")], catalogue);
                modified.ok().and_then(|events| events.first().and_then(|e| e.attr))
            }
            found => found,
        };
        let Some(attr) = attr else {
            bail!("--by {name}: nothing fires when it counts");
        };
        if events.iter().any(|e| e.event == name) {
            bail!("--by {name}: given twice");
        }
        counters::probe(&name, &attr, first)?;
        let is_tracepoint = attr.type_ == PERF_TYPE_TRACEPOINT;
        if is_tracepoint && (attr.exclude_user || attr.exclude_kernel) {
            bail!(
                "--by {name}: a tracepoint is hit in the kernel: without :u and :k; --user and \
                 --kernel have one part of the stacks"
            );
        }
        let rate = match event.period {
            Some(0) => bail!("--by {name}: period=0 takes no sample"),
            Some(n) => Rate::Period(n),
            // Each hit, as perf has it.
            None if is_tracepoint && matches!(rate, Rate::Hz(_)) => Rate::Period(1),
            None => rate,
        };
        events.push(Sampling { event: name, attr, rate });
    }
    if events.len() > MAX_SAMPLED {
        bail!("--by: {} events, and {MAX_SAMPLED} can be sampled at a time", events.len());
    }
    if asked.is_some() && events.iter().all(Sampling::is_tracepoint) {
        bail!("--freq: tracepoints are sampled by their hits: --count N takes each N-th");
    }
    plan.events = events;
    Ok(())
}

/// Timers that are asked to fire more often than the kernel has them: it would take fewer
/// samples than was said, each for what it was asked for, and the sums would be wrong.
fn check_periods(plan: &StackPlan) -> Result<()> {
    for event in plan.events.iter().filter(|e| e.is_clock()) {
        let name = &event.event;
        if let Rate::Period(period @ ..MIN_TIMER_NS) = event.rate {
            bail!(
                "--count {period}: of {name} it is in nanoseconds, and the kernel's timers fire \
                 every {MIN_TIMER_NS} ns at most; --by says which other event it is of, as in \
                 --by page-faults --count {period}"
            );
        }
    }
    Ok(())
}

/// The events of these lists, without metrics.
fn resolved(lists: &[String], catalogue: &Catalogue) -> Result<Vec<Event>> {
    let mut request = Request::default();
    for list in lists {
        request.add("--by", list)?;
    }
    let selection = request.resolve(catalogue)?;
    if let Some(metric) = selection.metrics.first() {
        bail!("--by {}: a metric is computed, and fires never", metric.name);
    }
    Ok(selection.events)
}

/// Rules that say `freq=` have it, and the others what the session has.
fn share(plan: &mut StackPlan, rules: &RuleSet, freq: Option<u64>) -> Result<()> {
    if rules.iter().all(|r| r.freq.is_none()) {
        return Ok(());
    }
    let Some(Rate::Hz(hz)) = plan.events.first().map(|e| e.rate) else {
        bail!("freq= in a rule goes with --freq, and not with --count");
    };
    let all = rules.frequencies(hz as u32);
    if all.len() > MAX_SHARES {
        bail!("rules ask for {} distinct frequencies: {MAX_SHARES} are possible", all.len());
    }
    let most = all.first().map_or(hz, |(hz, _)| u64::from(*hz)).max(freq.unwrap_or(0));
    for event in &mut plan.events {
        event.rate = Rate::Hz(most);
    }
    plan.shares = all
        .into_iter()
        .map(|(hz, rules)| Share { rules, share: ((u64::from(hz) << SHARE_BITS) / most) as u32 })
        .collect();
    Ok(())
}

/// What can be counted here.
pub fn catalogue() -> Catalogue {
    Catalogue::new(Host::here()).with_vendor_events(Box::new(Vendor::default()))
}

impl Selected {
    fn add_counters(
        &mut self,
        selection: &Selection,
        catalogue: &Catalogue,
        keep_going: bool,
    ) -> Result<()> {
        let is_counted = |e: &&Event| !matches!(e.source, Source::Figure(_));
        let wanted = selection.events.iter().filter(is_counted).count();
        // What is not there may be left out: then it takes no room.
        if !keep_going {
            counters::check_number(wanted)?;
        }
        let mut online = None;
        let mut places = vec![None; selection.events.len()];
        for group in &selection.groups {
            let mut leader = None;
            for &i in &group.events {
                let event = &selection.events[i];
                if let Source::Figure(figure) = event.source {
                    places[i] = Some(Item::Figure(figure));
                    continue;
                }
                let online = match &online {
                    Some(online) => online,
                    None => online.insert(host::online_cpus()?),
                };
                match spec(event, online, catalogue) {
                    Ok(mut spec) => {
                        let place = self.specs.len();
                        if group.braces && !group.weak {
                            spec.leader = Some(*leader.get_or_insert(place));
                        }
                        places[i] = Some(Item::Counter(place));
                        self.table.counters.push(self.counter(event));
                        self.specs.push(spec);
                        if self.specs.len() > MAX_COUNTERS {
                            counters::check_number(wanted)?;
                        }
                    }
                    // That is wrong on every machine.
                    Err(e) if e.is::<EventError>() => return Err(e),
                    Err(e) if keep_going => self.left_out.push(format!("{e:#}")),
                    Err(e) => bail!("{e:#}\n  {KEEP_GOING}"),
                }
            }
        }
        for m in &selection.metrics {
            let (Some(above), Some(below)) = (places[m.above], places[m.below]) else { continue };
            let (unit, about, factor) = (m.info.unit, m.info.about, m.info.factor);
            let name = match &m.pmu {
                Some(pmu) => format!("{}@{pmu}", m.name),
                None => m.name.clone(),
            };
            self.table.metrics.push(Metric { name, unit, about, factor, above, below });
        }
        Ok(())
    }

    /// Names are keys in the records: a second event of a name gets a number, and so does
    /// one that is called as a figure is.
    fn counter(&self, event: &Event) -> Counter {
        let mut name = event.name.clone();
        let mut n = 1;
        let is_taken = |name: &str| {
            self.events.iter().any(|e| e.info().name == name)
                || self.table.counters.iter().any(|c| c.name == name)
        };
        while is_taken(&name) {
            n += 1;
            name = format!("{}#{n}", event.name);
        }
        Counter {
            name,
            perf_id: event.id(),
            unit: event.unit.clone(),
            scale: event.scale,
            about: event.description.clone(),
            for_metric: event.for_metric,
        }
    }

    /// The item or metric of that name.
    fn find(&self, name: &str) -> Result<SortKey> {
        let counters = self.table.counters.iter().position(|c| c.name == name);
        let figures = prof_model::figures::EVENTS.iter();
        let mut figures = figures.filter(|e| e.name == name || e.aliases.contains(&name));
        match (counters, figures.next()) {
            (Some(i), _) => Ok(SortKey::Item(Item::Counter(i))),
            (None, Some(info)) => Ok(SortKey::Item(Item::Figure(info.event))),
            (None, None) => {
                let metrics = &self.table.metrics;
                if let Some(i) = metrics.iter().position(|m| m.name == name) {
                    return Ok(SortKey::Metric(i));
                }
                let names = self.events.iter().map(|e| e.info().name);
                let counters = self.table.counters.iter().map(|c| c.name.as_str());
                let metrics = metrics.iter().map(|m| m.name.as_str());
                let names: Vec<_> = names.chain(counters).chain(metrics).collect();
                let message = format!("'{name}' is not among the events");
                let help = format!("the events are: {}", names.join(", "));
                Err(EventError::unknown_name("--sort", name, message, names, help).into())
            }
        }
    }
}

/// What to open for an event; tried, so that a command does not start in vain.
fn spec(event: &Event, online: &[u32], catalogue: &Catalogue) -> Result<CounterSpec> {
    let Some(attr) = event.attr else {
        bail!("event {}: nothing to open", event.name);
    };
    if !event.per_task {
        bail!(
            "event {}: the PMU {} counts for the whole machine, not for a process",
            event.name,
            event.pmu.as_deref().unwrap_or("")
        );
    }
    let cpus: Option<Vec<u32>> = event
        .cpus
        .as_ref()
        .map(|set| online.iter().copied().filter(|c| set.contains(*c)).collect());
    let first = cpus.as_ref().map_or(online.first(), |c| c.first());
    let Some(first) = first else {
        bail!("event {}: none of the CPUs that have it is online", event.name);
    };
    counters::probe(&event.name, &attr, *first)?;
    let tracepoint = event.tracepoint.as_ref();
    let filter = tracepoint.and_then(|t| t.filter.clone());
    if let (Some(t), Some(filter)) = (tracepoint, &filter)
        && let Err(e) = counters::probe_filter(&attr, filter, *first)
    {
        let refused = catalogue.filter_refused(t, &e.to_string());
        return Err(refused.map_or_else(|| e.into(), anyhow::Error::from));
    }
    Ok(CounterSpec { name: event.name.clone(), attr, cpus, leader: None, filter })
}
