//! The `speedscope` format: <https://www.speedscope.app/file-format-schema.json>, a
//! `sampled` profile for each thread and event, the heaviest first.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io;
use std::io::Write;

use prof_model::stacks::FrameId;
use prof_model::stacks::Sample;
use prof_model::stacks::SampledEvent;
use prof_model::stacks::StackId;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Whole;
use serde::Serialize;

use super::StackOptions;
use super::names;
use super::names::LineId;
use super::names::Names;

/// Most profiles by thread; beyond it there is one for each process, as speedscope
/// shows them in one list.
const MOST_BY_THREAD: usize = 400;

/// Writes a profile: all its events, or the one that is asked for.
pub fn write(
    profile: &StackProfile,
    options: &StackOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    super::check(profile)?;
    let mut frames = Frames {
        profile,
        names: Names::new(profile),
        shared: Vec::new(),
        places: HashMap::new(),
        known: HashMap::new(),
    };
    let events = options.events_of(profile);
    let samples = || profile.samples.iter().filter(|s| events.contains(&s.event));
    let mut groups: BTreeMap<(u32, u32), Vec<&Sample>> = BTreeMap::new();
    for s in samples() {
        groups.entry((s.event, s.thread.0)).or_default().push(s);
    }
    let by_process = groups.len() > MOST_BY_THREAD;
    if by_process {
        groups.clear();
        for s in samples() {
            let process = profile.threads[s.thread.0 as usize].process.0;
            groups.entry((s.event, process)).or_default().push(s);
        }
    }
    // Stacks are written out with each sample: those that are alike share one list.
    let mut stacks: HashMap<(Option<StackId>, Whole), Vec<u32>> = HashMap::new();
    for s in samples() {
        stacks.entry((s.stack, s.whole)).or_insert_with(|| frames.stack(s.whole, s.stack));
    }
    let mut profiles: Vec<Sampled> = groups
        .into_iter()
        .map(|((event, who), samples)| {
            let event = &profile.events[event as usize];
            // Equal samples in a row are one, as speedscope makes them one.
            let (mut runs, mut weights): (Vec<&[u32]>, Vec<u64>) = Default::default();
            let mut last = None;
            for s in samples {
                let at = (s.stack, s.whole);
                match weights.last_mut().filter(|_| last == Some(at)) {
                    Some(sum) => *sum = sum.saturating_add(s.weight),
                    None => {
                        runs.push(stacks.get(&at).map_or(&[], Vec::as_slice));
                        weights.push(s.weight);
                    }
                }
                last = Some(at);
            }
            Sampled {
                kind: "sampled",
                name: name(profile, event, who, by_process),
                unit: unit(event),
                start_value: 0,
                end_value: weights.iter().fold(0, |sum, w| sum.saturating_add(*w)),
                samples: runs,
                weights,
            }
        })
        .collect();
    // Weights of different units cannot be compared: events keep their order.
    let mut ordered: Vec<Sampled> = Vec::with_capacity(profiles.len());
    profiles.sort_by_key(|p| std::cmp::Reverse(p.end_value));
    for unit in ["nanoseconds", "bytes", "none"] {
        let (these, others) = profiles.into_iter().partition(|p: &Sampled| p.unit == unit);
        ordered.extend::<Vec<Sampled>>(these);
        profiles = others;
    }
    let file = File {
        schema: "https://www.speedscope.app/file-format-schema.json",
        name: match super::command(profile) {
            command if command.is_empty() => "prof".to_owned(),
            command => command,
        },
        exporter: concat!("prof ", env!("CARGO_PKG_VERSION")),
        active_profile_index: if ordered.is_empty() { None } else { Some(0) },
        shared: Shared { frames: frames.shared },
        profiles: ordered,
    };
    let mut out = io::BufWriter::new(out);
    serde_json::to_writer(&mut out, &file)?;
    out.write_all(b"\n")?;
    out.flush()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    name: String,
    exporter: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_profile_index: Option<u32>,
    shared: Shared,
    profiles: Vec<Sampled<'a>>,
}

#[derive(Serialize)]
struct Shared {
    frames: Vec<Frame>,
}

#[derive(Serialize)]
struct Frame {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sampled<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    samples: Vec<&'a [u32]>,
    weights: Vec<u64>,
}

/// The frames of the file, each once.
struct Frames<'a> {
    profile: &'a StackProfile,
    names: Names<'a>,
    shared: Vec<Frame>,
    places: HashMap<FrameId, Vec<u32>>,
    known: HashMap<(LineId, Option<String>), u32>,
}

impl Frames<'_> {
    /// A stack, root first.
    fn stack(&mut self, whole: Whole, stack: Option<StackId>) -> Vec<u32> {
        let frames: Vec<FrameId> = self.profile.frames_of(stack).collect();
        let mut places: Vec<u32> = frames.into_iter().flat_map(|f| self.frame(f)).collect();
        if let Some(note) = self.names.note(whole, stack) {
            places.push(self.place(note, None));
        }
        places.reverse();
        places
    }

    /// The functions of a frame, innermost first.
    fn frame(&mut self, id: FrameId) -> Vec<u32> {
        if let Some(places) = self.places.get(&id) {
            return places.clone();
        }
        let lines = self.names.frame(id).to_vec();
        let functions = &self.profile.frame(id).functions;
        let places: Vec<u32> = lines
            .into_iter()
            .enumerate()
            .map(|(nth, line)| {
                let file = functions.get(nth).and_then(|f| f.file.as_ref()).map(|f| names::path(f));
                self.place(line, file)
            })
            .collect();
        self.places.insert(id, places.clone());
        places
    }

    fn place(&mut self, id: LineId, file: Option<String>) -> u32 {
        let next = self.shared.len() as u32;
        let at = *self.known.entry((id, file.clone())).or_insert(next);
        if at == next {
            let line = self.names.line(id);
            let file = file.or_else(|| self.names.module(line).map(str::to_owned));
            self.shared.push(Frame { name: line.name.clone(), file });
        }
        at
    }
}

fn unit(event: &SampledEvent) -> &'static str {
    match event.unit.as_str() {
        "ns" => "nanoseconds",
        "bytes" | "B" => "bytes",
        _ => "none",
    }
}

/// Event, and whose it is.
fn name(profile: &StackProfile, event: &SampledEvent, who: u32, by_process: bool) -> String {
    let event = names::clean(event.name.as_bytes());
    if by_process {
        let process = &profile.processes[who as usize];
        return format!("{} {} – {event}", names::clean(process.comm.as_bytes()), process.pid);
    }
    let thread = &profile.threads[who as usize];
    let pid = profile.processes[thread.process.0 as usize].pid;
    let comm = names::clean(thread.comm.as_bytes());
    match thread.tid {
        tid if tid == pid => format!("{comm} {pid} – {event}"),
        tid => format!("{comm} {pid}/{tid} – {event}"),
    }
}
