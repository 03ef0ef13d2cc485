//! From numbers to a name.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use prof_model::audit::PerfAttr;

use super::probes;
use crate::attr::Attr;
use crate::attr::perf_type;
use crate::catalogue::Catalogue;
use crate::pmu::Field;
use crate::pmu::Format;
use crate::pmu::Pmu;
use crate::pmu::Scope;
use crate::resolve::Request;
use crate::tables::cache;
use crate::tables::generic::GENERIC;
use crate::tracefs;

/// Most names that are kept; a program that opens other events all the time must
/// not fill the memory.
const MAX_KEPT: usize = 4096;

/// How soon tracepoints are read again for the sake of one that was not there:
/// probes come and go, and somebody may open what is already gone.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Of a generic event on one of several core PMUs, where `config` has that one's
/// type.
const EXTENDED_TYPE_SHIFT: u32 = 32;

/// What events are called here. Reads sysfs and tracefs when it first has to, and
/// keeps what it has read.
#[derive(Debug)]
pub struct Names {
    catalogue: Catalogue,
    /// By PMU, the events that the kernel names, with what they come to.
    of_pmus: OnceLock<HashMap<u32, OnceLock<PmuNames>>>,
    kept: Mutex<HashMap<Attr, String>>,
    tracepoints: Mutex<Tracepoints>,
}

/// A PMU and its events.
#[derive(Debug)]
struct PmuNames {
    pmu: String,
    events: Vec<(Attr, String)>,
}

#[derive(Debug, Default)]
struct Tracepoints {
    names: HashMap<u64, String>,
    read: Option<Instant>,
}

impl Names {
    /// Of a host.
    pub fn new(catalogue: Catalogue) -> Self {
        Self {
            catalogue,
            of_pmus: OnceLock::new(),
            kept: Mutex::new(HashMap::new()),
            tracepoints: Mutex::new(Tracepoints::default()),
        }
    }

    /// What the host can count.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Of what somebody opened, as the kernel has it.
    pub fn opened(&self, attr: &PerfAttr) -> String {
        self.event(&Attr::from(attr))
    }

    /// The event with its modifiers, as in `cycles:u` or `cpu/event=0x3c,edge/pp`.
    ///
    /// `-e` reads it as the same event, but for: what only the kernel knows (a
    /// probe's function or file); a generic event of one of several core PMUs that has
    /// an event of that name itself; whether guests are left out, in which one
    /// perf differs from the next, so only an event that counts nothing but guests
    /// says it; and an event that counts in no mode at all, for which there are no
    /// letters.
    pub fn event(&self, attr: &Attr) -> String {
        self.with_target(attr, None)
    }

    /// The same of a kprobe or uprobe, if the function or the file is known.
    pub fn with_target(&self, attr: &Attr, target: Option<&str>) -> String {
        let mut name = self.plain_with_target(attr, target);
        let modifiers = modifiers(attr);
        if !modifiers.is_empty() {
            // Behind terms there is no colon.
            let colon = if name.ends_with('/') { "" } else { ":" };
            let _ = write!(name, "{colon}{modifiers}");
        }
        name
    }

    /// The event without modifiers.
    pub fn plain(&self, attr: &Attr) -> String {
        self.plain_with_target(attr, None)
    }

    fn plain_with_target(&self, attr: &Attr, target: Option<&str>) -> String {
        let key = bare(attr);
        // The kernel's own sorts of events need no look at a PMU.
        if attr.type_ > perf_type::BREAKPOINT
            && let Some(pmu) = self.pmu(attr.type_)
            && let Some(name) = probes::name(&pmu.pmu, attr, target)
        {
            return name;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = kept.get(&key) {
            return name.clone();
        }
        let name = self.find(&key);
        // A tracepoint may get another name: its number is used again.
        if attr.type_ != perf_type::TRACEPOINT {
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
            kept.insert(key, name.clone());
        }
        name
    }

    fn find(&self, attr: &Attr) -> String {
        if attr.type_ == perf_type::TRACEPOINT
            && let Some(name) = self.tracepoint(attr.config)
        {
            return name;
        }
        if attr.type_ == perf_type::BREAKPOINT {
            let mut name = format!("mem:{:#x}/{}", attr.config1, attr.config2);
            for (bit, c) in [(1, ":r"), (2, ":w"), (4, ":x")] {
                if attr.bp_type & bit != 0 {
                    let colon = attr.bp_type & (bit - 1) == 0;
                    name.push_str(if colon { c } else { &c[1..] });
                }
            }
            return name;
        }
        let generic = self.generic(attr);
        let candidates = generic.iter().chain(&self.on_pmu(attr)).cloned().collect::<Vec<_>>();
        // Whatever sysfs says, the name that is told is one that means this.
        let means = |name: &&String| self.resolved(name).is_some_and(|a| bare(&a) == *attr);
        if let Some(name) = candidates.iter().find(means) {
            return name.clone();
        }
        match generic.first() {
            // The PMU has an event of that name itself, and it is the same one.
            Some(name) if name.ends_with('/') => name.clone(),
            _ => by_number(attr),
        }
    }

    /// Of the events that every kernel has.
    fn generic(&self, attr: &Attr) -> Vec<String> {
        self.try_generic(attr).unwrap_or_default()
    }

    fn try_generic(&self, attr: &Attr) -> Option<Vec<String>> {
        let (mut config, mut on) = (attr.config, None);
        if matches!(attr.type_, perf_type::HARDWARE | perf_type::HW_CACHE) {
            let type_ = (attr.config >> EXTENDED_TYPE_SHIFT) as u32;
            config &= u64::from(u32::MAX);
            if type_ != 0 {
                on = Some(&self.catalogue.core_pmus().find(|p| p.type_ == type_)?.name);
            }
        }
        let names = match attr.type_ {
            perf_type::HW_CACHE => vec![cache::all().find(|(_, c, _)| *c == config)?.0],
            _ => {
                let g = GENERIC.iter().find(|g| (g.type_, g.config) == (attr.type_, config))?;
                [&[g.name], g.aliases].concat().into_iter().map(str::to_owned).collect()
            }
        };
        Some(match on {
            Some(pmu) => names.iter().map(|n| format!("{pmu}/{n}/")).collect(),
            None => names,
        })
    }

    /// Of a PMU that sysfs describes.
    fn on_pmu(&self, attr: &Attr) -> Vec<String> {
        let mut names = Vec::new();
        let core = || self.catalogue.core_pmus().next().map(|p| p.type_);
        // The raw type is that of the only core PMU, whatever its own.
        let type_ = match attr.type_ {
            perf_type::RAW if self.pmu(perf_type::RAW).is_none() => core(),
            // Of the kernel's own sorts of events sysfs says no more than a name.
            type_ if type_ < perf_type::RAW => None,
            type_ => Some(type_),
        };
        if let Some(known) = type_.and_then(|t| self.pmu(t)) {
            let named = known.events.iter().find(|(a, _)| a == attr);
            names.extend(named.map(|(_, n)| n.clone()));
            if attr.type_ == perf_type::RAW && attr.config1 | attr.config2 | attr.config3 == 0 {
                names.push(format!("r{:x}", attr.config));
            }
            if let Some(Ok(pmu)) = self.catalogue.pmu(&known.pmu) {
                names.push(format!("{}/{}/", pmu.name, terms(pmu, attr)));
                names.push(format!("{}/{}/", pmu.name, numbers(attr, false)));
            }
        }
        if attr.type_ == perf_type::RAW {
            let rest = Attr { config: 0, ..*attr };
            let rest = numbers(&rest, true);
            let slashes = if rest.is_empty() { String::new() } else { format!("/{rest}/") };
            names.push(format!("r{:x}{slashes}", attr.config));
        }
        names
    }

    fn pmu(&self, type_: u32) -> Option<&PmuNames> {
        let types = || self.catalogue.pmus().map(|p| (p.type_, OnceLock::new())).collect();
        let cell = self.of_pmus.get_or_init(types).get(&type_)?;
        let read = || {
            let pmu = self.catalogue.pmus().find(|p| p.type_ == type_);
            let mut events = Vec::new();
            for event in pmu.iter().flat_map(|p| p.events.keys()) {
                let name = format!("{}/{event}/", pmu.map_or("", |p| &p.name));
                if let Some(attr) = self.resolved(&name) {
                    events.push((bare(&attr), name));
                }
            }
            // Of two for the same, the one that says more.
            events.sort_by_key(|(_, n)| std::cmp::Reverse(n.len()));
            PmuNames { pmu: pmu.map_or_else(String::new, |p| p.name.clone()), events }
        };
        Some(cell.get_or_init(read))
    }

    /// What `-e` makes of a name, if that is one event.
    fn resolved(&self, name: &str) -> Option<Attr> {
        let mut request = Request::default();
        request.add("", name).ok()?;
        let selection = request.resolve(&self.catalogue).ok()?;
        match selection.events.as_slice() {
            [event] => event.attr,
            _ => None,
        }
    }

    fn tracepoint(&self, id: u64) -> Option<String> {
        let mut all = self.tracepoints.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.names.contains_key(&id) && all.read.is_none_or(|t| t.elapsed() >= READ_AGAIN) {
            // What cannot be had is told by number.
            let found = tracefs::readable(self.catalogue.host()).into_iter();
            all.names = found.map(|t| (t.id, format!("{}:{}", t.system, t.name))).collect();
            all.read = Some(Instant::now());
        }
        all.names.get(&id).cloned()
    }
}

/// What an event is, without modifiers.
fn bare(attr: &Attr) -> Attr {
    Attr {
        type_: attr.type_,
        config: attr.config,
        config1: attr.config1,
        config2: attr.config2,
        config3: attr.config3,
        bp_type: attr.bp_type,
        ..Attr::default()
    }
}

/// `TYPE:CONFIG`, which says all there is.
fn by_number(attr: &Attr) -> String {
    let rest = numbers(&Attr { config: 0, ..*attr }, true);
    match rest.is_empty() {
        true => format!("{}:{:#x}", attr.type_, attr.config),
        false => format!("{}:{:#x}/{rest}/", attr.type_, attr.config),
    }
}

/// `config=…,config1=…`, without those that are 0; not even all of them, unless
/// there may be none.
fn numbers(attr: &Attr, may_be_empty: bool) -> String {
    let all = [
        ("config", attr.config),
        ("config1", attr.config1),
        ("config2", attr.config2),
        ("config3", attr.config3),
    ];
    let shown = all.iter().filter(|(n, v)| *v != 0 || *n == "config" && !may_be_empty);
    shown.map(|(n, v)| format!("{n}={v:#x}")).collect::<Vec<_>>().join(",")
}

/// By the PMU's own words, as far as they go and one alone can be meant: on some
/// bits several lie, of which the kind of event decides.
fn terms(pmu: &Pmu, attr: &Attr) -> String {
    let fields = [
        (Field::Config, "config", attr.config),
        (Field::Config1, "config1", attr.config1),
        (Field::Config2, "config2", attr.config2),
        (Field::Config3, "config3", attr.config3),
    ];
    let mut terms = Vec::new();
    for (field, name, value) in fields {
        let here = || pmu.formats.iter().filter(|(_, f)| f.field == field);
        let used = || here().filter(|(_, f)| f.mask & value != 0);
        let all = used().fold(0, |all, (_, f)| all | f.mask);
        let overlap = used().any(|(n, f)| used().any(|(o, g)| n != o && f.mask & g.mask != 0));
        if overlap || value & !all != 0 {
            terms.push(format!("{name}={value:#x}"));
            continue;
        }
        // The event itself stands in front of what it is qualified by.
        let mut of_field: Vec<_> = used().collect();
        of_field.sort_by_key(|(n, f)| (n.as_str() != "event", f.mask.trailing_zeros()));
        for (name, format) in of_field {
            terms.push(match (format.max(), format.get(value)) {
                (1, _) => name.clone(),
                (_, n) => format!("{name}={n:#x}"),
            });
        }
    }
    if terms.is_empty() {
        // Of the cores every event has a number; elsewhere 0 is one, too.
        terms.push(match pmu.formats.contains_key("event") && pmu.scope != Scope::Other {
            true => "event=0x0".into(),
            false => "config=0x0".into(),
        });
    }
    terms.join(",")
}

/// The letters that ask for what an event leaves out, and how.
fn modifiers(attr: &Attr) -> String {
    let mut letters = String::new();
    let parts = [(attr.exclude_user, 'u'), (attr.exclude_kernel, 'k'), (attr.exclude_hv, 'h')];
    if parts.iter().any(|(excluded, _)| *excluded) {
        letters.extend(parts.iter().filter(|(excluded, _)| !excluded).map(|(_, c)| c));
    }
    if attr.exclude_host && !attr.exclude_guest {
        letters.push('G');
    }
    if attr.exclude_idle {
        letters.push('I');
    }
    letters.extend(std::iter::repeat_n('p', attr.precise_ip.min(3).into()));
    if attr.pinned {
        letters.push('D');
    }
    if attr.exclusive {
        letters.push('e');
    }
    letters
}

impl Format {
    /// The value of these bits: what [`Format::set`] would set.
    fn get(&self, number: u64) -> u64 {
        let bits = (0..u64::BITS).filter(|b| self.mask >> b & 1 == 1);
        bits.enumerate().fold(0, |value, (to, from)| value | (number >> from & 1) << to)
    }
}
