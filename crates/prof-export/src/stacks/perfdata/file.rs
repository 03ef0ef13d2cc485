//! What stands around the records: `struct perf_file_header` and the attributes before
//! them, feature sections behind them, as perf's `perf.data-file-format.txt` has it.

use std::collections::BTreeSet;
use std::io;
use std::io::Write;

use prof_model::figures::EVENTS;
use prof_model::stacks::SampledEvent;
use prof_model::stacks::StackProfile;

use super::event;
use super::event::MAX_BUILD_ID;
use crate::stacks::names;

const MAGIC: &[u8; 8] = b"PERFILE2";

/// Magic, two sizes, three sections, 256 bits for features.
const HEAD_BYTES: u64 = 8 + 8 + 8 + 3 * SECTION_BYTES + 32;

/// Offset and size.
const SECTION_BYTES: u64 = 16;

/// `PERF_ATTR_SIZE_VER5`: all that is said here, read by every perf since 2016.
const ATTR_BYTES: u64 = 112;

/// Strings of features are multiples of this.
const ALIGN: usize = 64;

/// Longest string of a feature.
const MAX_TEXT: usize = 4000;

/// Features, by their bits.
mod feature {
    pub const BUILD_ID: u32 = 2;
    pub const HOSTNAME: u32 = 3;
    pub const OSRELEASE: u32 = 4;
    pub const VERSION: u32 = 5;
    pub const ARCH: u32 = 6;
    pub const CMDLINE: u32 = 11;
    pub const EVENT_DESC: u32 = 12;
    pub const SAMPLE_TIME: u32 = 21;
}

/// Bits of `struct perf_event_attr`.
mod flag {
    pub const MMAP: u64 = 1 << 8;
    pub const COMM: u64 = 1 << 9;
    pub const FREQ: u64 = 1 << 10;
    pub const SAMPLE_ID_ALL: u64 = 1 << 18;
    pub const MMAP2: u64 = 1 << 23;
    pub const COMM_EXEC: u64 = 1 << 24;
    pub const USE_CLOCKID: u64 = 1 << 25;
}

/// `CLOCK_REALTIME`.
const CLOCK: u32 = 0;

/// An event that perf has no number for has its name, and the type that `perf record
/// --off-cpu` takes for such: samples of `dummy` are shown without their stacks.
const OTHER: (u32, u64) = (1, 10);

/// Type and configuration by which perf knows an event.
fn perf_id(name: &str) -> (u32, u64) {
    /// Hardware's, in the order of their numbers.
    const HARDWARE: [&str; 10] = [
        "cycles",
        "instructions",
        "cache-references",
        "cache-misses",
        "branches",
        "branch-misses",
        "bus-cycles",
        "stalled-cycles-frontend",
        "stalled-cycles-backend",
        "ref-cycles",
    ];
    let bare = name.split(':').next().unwrap_or(name);
    if bare == "cpu-clock" {
        return (1, 0);
    }
    if let Some(at) = HARDWARE.iter().position(|e| *e == bare) {
        return (0, at as u64);
    }
    let software = EVENTS.iter().find(|e| e.name == bare && e.id >> 24 == 1);
    software.map_or(OTHER, |e| (1, u64::from(e.id & 0xff_ffff)))
}

/// `struct perf_event_attr`.
fn attr(of: &SampledEvent) -> Vec<u8> {
    let (kind, config) = perf_id(&of.name);
    let (freq, rate) = match of.frequency_hz {
        Some(hz) if of.period.is_none() => (flag::FREQ, hz),
        _ => (0, of.period.unwrap_or(1)),
    };
    let flags = flag::MMAP
        | flag::COMM
        | flag::SAMPLE_ID_ALL
        | flag::MMAP2
        | flag::COMM_EXEC
        | flag::USE_CLOCKID
        | freq;
    let mut to = Vec::with_capacity(ATTR_BYTES as usize);
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(&(ATTR_BYTES as u32).to_ne_bytes());
    for word in [config, rate.max(1), event::SAMPLE_TYPE, 0, flags] {
        to.extend_from_slice(&word.to_ne_bytes());
    }
    // wakeup_events to sample_stack_user: nothing.
    to.resize(92, 0);
    to.extend_from_slice(&CLOCK.to_ne_bytes());
    to.resize(ATTR_BYTES as usize, 0);
    to
}

fn section(offset: u64, size: u64) -> Vec<u8> {
    [offset.to_ne_bytes(), size.to_ne_bytes()].concat()
}

/// The events of a profile that are written.
fn chosen<'a>(
    profile: &'a StackProfile,
    events: &'a [u32],
) -> impl Iterator<Item = &'a SampledEvent> {
    events.iter().filter_map(|e| profile.events.get(*e as usize))
}

/// What stands before the records.
#[derive(Debug)]
pub(super) struct Head {
    features: [u64; 4],
    attrs: Vec<Vec<u8>>,
}

impl Head {
    pub fn new(profile: &StackProfile, events: &[u32]) -> Self {
        let mut features = [0; 4];
        for (bit, _) in self::features(profile, events, (0, 0)) {
            features[bit as usize / 64] |= 1 << (bit % 64);
        }
        Self { features, attrs: chosen(profile, events).map(attr).collect() }
    }

    fn bytes(nr_events: usize) -> u64 {
        HEAD_BYTES + nr_events as u64 * (8 + ATTR_BYTES + SECTION_BYTES)
    }

    /// Head, ids of events, events.
    pub fn write(&self, data_bytes: u64, out: &mut dyn Write) -> io::Result<()> {
        let n = self.attrs.len() as u64;
        let attr_bytes = ATTR_BYTES + SECTION_BYTES;
        let mut to = MAGIC.to_vec();
        to.extend_from_slice(&HEAD_BYTES.to_ne_bytes());
        to.extend_from_slice(&attr_bytes.to_ne_bytes());
        to.extend(section(HEAD_BYTES + n * 8, n * attr_bytes));
        to.extend(section(Self::bytes(self.attrs.len()), data_bytes));
        to.extend(section(0, 0));
        for word in self.features {
            to.extend_from_slice(&word.to_ne_bytes());
        }
        for nth in 0..self.attrs.len() {
            to.extend_from_slice(&event::id(nth).to_ne_bytes());
        }
        for (nth, attr) in self.attrs.iter().enumerate() {
            to.extend_from_slice(attr);
            to.extend(section(HEAD_BYTES + nth as u64 * 8, 8));
        }
        out.write_all(&to)
    }
}

/// Sections behind the records: a table of them, then what they say.
pub(super) fn write_features(
    profile: &StackProfile,
    events: &[u32],
    times: &(u64, u64),
    data_bytes: u64,
    out: &mut dyn Write,
) -> io::Result<()> {
    let all = features(profile, events, *times);
    let nr_events = chosen(profile, events).count();
    let table = Head::bytes(nr_events) + data_bytes;
    let mut at = table + all.len() as u64 * SECTION_BYTES;
    for (_, bytes) in &all {
        out.write_all(&section(at, bytes.len() as u64))?;
        at += bytes.len() as u64;
    }
    all.iter().try_for_each(|(_, bytes)| out.write_all(bytes))
}

/// Features with what they say, by their bits.
fn features(profile: &StackProfile, events: &[u32], times: (u64, u64)) -> Vec<(u32, Vec<u8>)> {
    let one = |s: &str| {
        let mut to = Vec::new();
        text(&mut to, &names::clean(s.as_bytes()));
        to
    };
    let mut all = vec![(feature::BUILD_ID, build_ids(profile))];
    let kernel = &profile.kernel;
    let version = concat!("prof ", env!("CARGO_PKG_VERSION")).to_owned();
    for (bit, said) in [
        (feature::HOSTNAME, &profile.host),
        (feature::OSRELEASE, &kernel.release),
        (feature::VERSION, &version),
        (feature::ARCH, &kernel.machine),
    ] {
        all.push((bit, if said.is_empty() { Vec::new() } else { one(said) }));
    }
    let mut command = Vec::new();
    if !profile.command.is_empty() {
        command.extend_from_slice(&(profile.command.len() as u32).to_ne_bytes());
        profile.command.iter().for_each(|a| command.extend(one(a)));
    }
    all.push((feature::CMDLINE, command));
    all.push((feature::EVENT_DESC, descriptions(profile, events)));
    let times = [times.0.to_ne_bytes(), times.1.to_ne_bytes()].concat();
    all.push((feature::SAMPLE_TIME, times));
    all.retain(|(_, bytes)| !bytes.is_empty());
    all
}

/// Length, and the string with zeros behind it.
fn text(to: &mut Vec<u8>, said: &str) {
    let said = event::cut(said, MAX_TEXT);
    let length = (said.len() + 1).next_multiple_of(ALIGN);
    to.extend_from_slice(&(length as u32).to_ne_bytes());
    let end = to.len() + length;
    to.extend_from_slice(said.as_bytes());
    to.resize(end, 0);
}

/// Which events there are, with their names and ids.
fn descriptions(profile: &StackProfile, events: &[u32]) -> Vec<u8> {
    let all: Vec<_> = chosen(profile, events).collect();
    let mut to = (all.len() as u32).to_ne_bytes().to_vec();
    to.extend_from_slice(&(ATTR_BYTES as u32).to_ne_bytes());
    for (nth, of) in all.into_iter().enumerate() {
        to.extend(attr(of));
        to.extend_from_slice(&1_u32.to_ne_bytes());
        text(&mut to, &names::clean(of.name.as_bytes()));
        to.extend_from_slice(&event::id(nth).to_ne_bytes());
    }
    to
}

/// Build ids of files, each path once; perf is also told with the mapping.
fn build_ids(profile: &StackProfile) -> Vec<u8> {
    const HEADER_BUILD_ID: u32 = 67;
    const MISC_USER_WITH_SIZE: u16 = 1 << 15 | 2;
    const HOST: u32 = u32::MAX;
    let mut to = Vec::new();
    let mut told = BTreeSet::new();
    for module in &profile.modules {
        let id = &module.build_id;
        if !matches!(id.len(), 1..=MAX_BUILD_ID) || !told.insert(&module.path) {
            continue;
        }
        let path = names::path(&module.path);
        let path = event::cut(&path, MAX_TEXT);
        let length = (path.len() + 1).next_multiple_of(ALIGN);
        let size = 8 + 4 + 24 + length;
        to.extend_from_slice(&HEADER_BUILD_ID.to_ne_bytes());
        to.extend_from_slice(&MISC_USER_WITH_SIZE.to_ne_bytes());
        to.extend_from_slice(&(size as u16).to_ne_bytes());
        to.extend_from_slice(&HOST.to_ne_bytes());
        let end = to.len() + 24 + length;
        to.extend_from_slice(id);
        to.resize(end - length - 4, 0);
        to.push(id.len() as u8);
        to.resize(end - length, 0);
        to.extend_from_slice(path.as_bytes());
        to.resize(end, 0);
    }
    to
}
