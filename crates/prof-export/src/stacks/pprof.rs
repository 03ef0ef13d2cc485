//! The `pprof` format: `profile.proto`, gzipped.
//!
//! Sample types are the number of samples, then one for each event, then one for each
//! counter: what was counted of a process is a sample whose only place is that process, as
//! no stack has it. Addresses are
//! offsets in files: each mapping begins at offset 0 of its file and at address 0. A
//! place without a name has a function that tells the place, and a mapping in which
//! nothing has a name does not claim to have functions, so that pprof looks for them.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use prof_model::stacks::FrameId;
use prof_model::stacks::FrameKind;
use prof_model::stacks::StackProfile;
use prof_model::stacks::WakerKind;
use prost::Message;

use super::StackOptions;
use super::names;
use super::names::LineId;
use super::names::Names;
use super::names::Place;
use crate::human;

/// Writes a profile: all its events, or the one that is asked for.
pub fn write(
    profile: &StackProfile,
    options: &StackOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    super::check(profile)?;
    let encoded = Writer::new(profile, options).profile().encode_to_vec();
    let mut gz = GzEncoder::new(out, Compression::default());
    gz.write_all(&encoded)?;
    gz.finish()?.flush()
}

/// The messages of `profile.proto`, of
/// <https://github.com/google/pprof/blob/main/proto/profile.proto>.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub sample: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub mapping: Vec<Mapping>,
        #[prost(message, repeated, tag = "4")]
        pub location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub function: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub string_table: Vec<String>,
        #[prost(int64, tag = "9")]
        pub time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub period: i64,
        #[prost(int64, repeated, tag = "13")]
        pub comment: Vec<i64>,
        #[prost(int64, tag = "14")]
        pub default_sample_type: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct ValueType {
        #[prost(int64, tag = "1")]
        pub r#type: i64,
        #[prost(int64, tag = "2")]
        pub unit: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sample {
        #[prost(uint64, repeated, tag = "1")]
        pub location_id: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub value: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub label: Vec<Label>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Label {
        #[prost(int64, tag = "1")]
        pub key: i64,
        #[prost(int64, tag = "2")]
        pub str: i64,
        #[prost(int64, tag = "3")]
        pub num: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Mapping {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "2")]
        pub memory_start: u64,
        #[prost(uint64, tag = "3")]
        pub memory_limit: u64,
        #[prost(uint64, tag = "4")]
        pub file_offset: u64,
        #[prost(int64, tag = "5")]
        pub filename: i64,
        #[prost(int64, tag = "6")]
        pub build_id: i64,
        #[prost(bool, tag = "7")]
        pub has_functions: bool,
        #[prost(bool, tag = "8")]
        pub has_filenames: bool,
        #[prost(bool, tag = "9")]
        pub has_line_numbers: bool,
        #[prost(bool, tag = "10")]
        pub has_inline_frames: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Location {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "2")]
        pub mapping_id: u64,
        #[prost(uint64, tag = "3")]
        pub address: u64,
        #[prost(message, repeated, tag = "4")]
        pub line: Vec<Line>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Line {
        #[prost(uint64, tag = "1")]
        pub function_id: u64,
        #[prost(int64, tag = "2")]
        pub line: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Function {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(int64, tag = "2")]
        pub name: i64,
        #[prost(int64, tag = "3")]
        pub system_name: i64,
        #[prost(int64, tag = "4")]
        pub filename: i64,
    }
}

/// Each string once; the first is empty.
struct Strings {
    all: Vec<String>,
    places: HashMap<String, i64>,
}

impl Strings {
    fn add(&mut self, s: &str) -> i64 {
        if let Some(at) = self.places.get(s) {
            return *at;
        }
        let at = self.all.len() as i64;
        self.all.push(s.to_owned());
        self.places.insert(s.to_owned(), at);
        at
    }
}

/// What a file is to pprof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum File {
    /// A module, by its place in [`Names::modules`].
    Module(u32),
    /// The kernel, where it has no module.
    Kernel,
}

struct Writer<'a> {
    source: &'a StackProfile,
    names: Names<'a>,
    events: Vec<u32>,
    counters: Vec<u32>,
    strings: Strings,
    out: proto::Profile,
    mappings: HashMap<File, usize>,
    functions: HashMap<(LineId, i64), u64>,
    locations: HashMap<FrameId, u64>,
    notes: HashMap<LineId, u64>,
    /// Places of processes, by name and program.
    processes: HashMap<(i64, i64), u64>,
}

impl<'a> Writer<'a> {
    fn new(source: &'a StackProfile, options: &StackOptions) -> Self {
        let mut strings = Strings { all: Vec::new(), places: HashMap::new() };
        strings.add("");
        Self {
            source,
            names: Names::new(source),
            events: options.events_of(source),
            counters: match options.event {
                Some(_) => Vec::new(),
                None => (0..source.counters.len() as u32).collect(),
            },
            strings,
            out: proto::Profile::default(),
            mappings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
            notes: HashMap::new(),
            processes: HashMap::new(),
        }
    }

    fn profile(mut self) -> proto::Profile {
        self.types();
        self.program();
        self.samples();
        self.counts();
        self.comments();
        self.out.time_nanos = signed(self.source.start_ns);
        self.out.duration_nanos = signed(self.source.duration_ns);
        self.out.string_table = self.strings.all;
        self.out
    }

    /// What there is: samples, each event, and each counter.
    fn types(&mut self) {
        let samples = self.value_type("samples", "count");
        self.out.sample_type.push(samples);
        let mut used = vec!["samples".to_owned()];
        for (nth, e) in self.events.clone().into_iter().enumerate() {
            let event = &self.source.events[e as usize];
            // pprof finds sample types by name: each has one of its own.
            let name = names::clean(event.name.as_bytes());
            let short = match event.name.as_str() {
                "cpu-clock" | "task-clock" => "cpu".to_owned(),
                _ => name.clone(),
            };
            let tries = [short, name.clone()].into_iter();
            let name = tries
                .chain((2..).map(|n| format!("{name}-{n}")))
                .find(|n| !used.contains(n))
                .unwrap_or(name);
            let value_type = self.value_type(&name, &unit(&event.unit));
            self.out.sample_type.push(value_type);
            if nth == 0 {
                self.out.default_sample_type = value_type.r#type;
                self.out.period_type = Some(value_type);
                self.out.period = super::period(event).map_or(0, signed);
            }
            used.push(name);
        }
        for at in self.counters.clone() {
            let counter = &self.source.counters[at as usize];
            let name = names::clean(counter.name.as_bytes());
            // What is sampled by has its name already.
            let tries = [name.clone(), format!("{name}-counted")].into_iter();
            let name = tries
                .chain((2..).map(|n| format!("{name}-{n}")))
                .find(|n| !used.contains(n))
                .unwrap_or(name);
            let value_type = self.value_type(&name, &unit(&counter.unit));
            self.out.sample_type.push(value_type);
            used.push(name);
        }
    }

    fn value_type(&mut self, name: &str, unit: &str) -> proto::ValueType {
        proto::ValueType { r#type: self.strings.add(name), unit: self.strings.add(unit) }
    }

    /// The program comes first: pprof names a profile after its first mapping.
    fn program(&mut self) {
        let exe = self.source.processes.first().and_then(|p| p.exe.as_ref());
        let frames = self.source.frames.iter().filter_map(|f| f.module);
        let mut modules = frames.filter(|m| exe == Some(&self.source.modules[m.0 as usize].path));
        if let Some(module) = modules.next() {
            self.mapping(File::Module(self.names.place(module)));
        }
    }

    fn samples(&mut self) {
        let values = 1 + self.events.len() + self.counters.len();
        let mut sums: BTreeMap<Place, Vec<i64>> = BTreeMap::new();
        for s in &self.source.samples {
            let Some(nth) = self.events.iter().position(|e| *e == s.event) else { continue };
            let sum = sums.entry(Place::of(s)).or_insert_with(|| vec![0; values]);
            sum[0] += 1;
            sum[1 + nth] = sum[1 + nth].saturating_add(signed(s.weight));
        }
        for (place, value) in sums {
            let frames: Vec<_> = self.source.frames_of(place.stack).collect();
            let mut location_id: Vec<u64> = frames.into_iter().map(|f| self.location(f)).collect();
            if let Some(note) = self.names.note(place.whole, place.stack) {
                location_id.push(self.note(note));
            }
            let label = self.labels(place);
            self.out.sample.push(proto::Sample { location_id, value, label });
        }
    }

    /// What was counted of each process.
    fn counts(&mut self) {
        if self.counters.is_empty() {
            return;
        }
        let before = 1 + self.events.len();
        for counts in &self.source.counts {
            let mut value = vec![0; before];
            value.extend(counts.values.iter().map(|v| v.map_or(0, signed)));
            if value.iter().all(|v| *v == 0) {
                continue;
            }
            let process = &counts.process;
            let comm = names::clean(process.comm.as_bytes());
            let name = format!("[process {comm} {}]", process.pid);
            // What pprof shows by files is by programs then.
            let file = process.exe.as_ref().map(|e| names::path(e)).unwrap_or_default();
            let location_id = vec![self.process(&name, &file)];
            let mut label = Vec::with_capacity(3);
            for (key, num) in [("pid", process.pid), ("exec", process.exec)] {
                let key = self.strings.add(key);
                label.push(proto::Label { key, str: 0, num: i64::from(num) });
            }
            if !comm.is_empty() {
                let (key, str) = (self.strings.add("comm"), self.strings.add(&comm));
                label.push(proto::Label { key, str, num: 0 });
            }
            self.out.sample.push(proto::Sample { location_id, value, label });
        }
    }

    /// A place that stands for a process.
    fn process(&mut self, name: &str, file: &str) -> u64 {
        let (name, filename) = (self.strings.add(name), self.strings.add(file));
        if let Some(at) = self.processes.get(&(name, filename)) {
            return *at;
        }
        let function_id = self.out.function.len() as u64 + 1;
        self.out.function.push(proto::Function { id: function_id, name, system_name: 0, filename });
        let line = vec![proto::Line { function_id, line: 0 }];
        let id = self.out.location.len() as u64 + 1;
        self.out.location.push(proto::Location { id, mapping_id: 0, address: 0, line });
        self.processes.insert((name, filename), id);
        id
    }

    fn labels(&mut self, place: Place) -> Vec<proto::Label> {
        let thread = &self.source.threads[place.thread as usize];
        let process = &self.source.processes[thread.process.0 as usize];
        let mut labels = Vec::with_capacity(9);
        for (key, num) in [("pid", process.pid), ("tid", thread.tid), ("exec", process.exec)] {
            let key = self.strings.add(key);
            labels.push(proto::Label { key, str: 0, num: i64::from(num) });
        }
        let waker = place.waker(self.source);
        if let Some(waker) = waker.filter(|w| w.kind == WakerKind::Thread) {
            let key = self.strings.add("waker_pid");
            labels.push(proto::Label { key, str: 0, num: i64::from(waker.pid) });
        }
        let off = place.off.map_or("", |(state, _)| state.name());
        let waker = waker.map(names::waker).unwrap_or_default();
        let [comm, name] = [&process.comm, &thread.comm].map(|c| names::clean(c.as_bytes()));
        let whole = if place.whole.is_whole() { "" } else { place.whole.name() };
        for (key, value) in [
            ("comm", comm.as_str()),
            ("thread", &name),
            ("stack", whole),
            ("off_cpu", off),
            ("waker", &waker),
        ] {
            // pprof takes a label without a text for a number.
            if !value.is_empty() {
                let (key, str) = (self.strings.add(key), self.strings.add(value));
                labels.push(proto::Label { key, str, num: 0 });
            }
        }
        labels
    }

    fn location(&mut self, id: FrameId) -> u64 {
        if let Some(at) = self.locations.get(&id) {
            return *at;
        }
        let frame = self.source.frame(id);
        let lines: Vec<LineId> = self.names.frame(id).to_vec();
        let mapping = match (frame.module, frame.kind) {
            (Some(m), _) => Some(self.mapping(File::Module(self.names.place(m)))),
            (None, FrameKind::Kernel) => Some(self.mapping(File::Kernel)),
            (None, FrameKind::User) => None,
        };
        let mut line = Vec::with_capacity(lines.len());
        let mut has = proto::Mapping { has_inline_frames: lines.len() > 1, ..Default::default() };
        for (nth, of) in lines.into_iter().enumerate() {
            let function = frame.functions.get(nth);
            let file = function.and_then(|f| f.file.as_ref()).map(|f| names::path(f));
            let number = function.and_then(|f| f.line).filter(|l| *l > 0);
            has.has_functions |= self.names.line(of).named;
            has.has_filenames |= file.is_some();
            has.has_line_numbers |= number.is_some();
            let function_id = self.function(of, &file.unwrap_or_default());
            line.push(proto::Line { function_id, line: number.map_or(0, i64::from) });
        }
        let id_here = self.out.location.len() as u64 + 1;
        let mut mapping_id = 0;
        if let Some(at) = mapping {
            let m = &mut self.out.mapping[at];
            m.memory_limit = m.memory_limit.max(frame.offset.saturating_add(1));
            m.has_functions |= has.has_functions;
            m.has_filenames |= has.has_filenames;
            m.has_line_numbers |= has.has_line_numbers;
            m.has_inline_frames |= has.has_inline_frames;
            mapping_id = m.id;
        }
        let address = frame.offset;
        self.out.location.push(proto::Location { id: id_here, mapping_id, address, line });
        self.locations.insert(id, id_here);
        id_here
    }

    /// A place that is none: what is said of a stack.
    fn note(&mut self, note: LineId) -> u64 {
        if let Some(at) = self.notes.get(&note) {
            return *at;
        }
        let line = vec![proto::Line { function_id: self.function(note, ""), line: 0 }];
        let id = self.out.location.len() as u64 + 1;
        self.out.location.push(proto::Location { id, mapping_id: 0, address: 0, line });
        self.notes.insert(note, id);
        id
    }

    fn function(&mut self, line: LineId, file: &str) -> u64 {
        let filename = self.strings.add(file);
        if let Some(id) = self.functions.get(&(line, filename)) {
            return *id;
        }
        let id = self.out.function.len() as u64 + 1;
        let name = self.strings.add(&self.names.line(line).name);
        // No system's name: pprof would take a name that is the same for one that is
        // still to be demangled, and cut what stands between angle brackets.
        self.out.function.push(proto::Function { id, name, system_name: 0, filename });
        self.functions.insert((line, filename), id);
        id
    }

    fn mapping(&mut self, file: File) -> usize {
        if let Some(at) = self.mappings.get(&file) {
            return *at;
        }
        let module = match file {
            File::Module(place) => self.source.modules.iter().enumerate().find(|(at, _)| {
                self.names.place(prof_model::stacks::ModuleId(*at as u32)) == place
            }),
            File::Kernel => None,
        };
        let (path, build_id) = match module {
            Some((_, m)) => {
                let hex: String = m.build_id.iter().map(|b| format!("{b:02x}")).collect();
                (names::path(&m.path), hex)
            }
            None => ("[kernel.kallsyms]".to_owned(), String::new()),
        };
        let at = self.out.mapping.len();
        self.out.mapping.push(proto::Mapping {
            id: at as u64 + 1,
            filename: self.strings.add(&path),
            build_id: self.strings.add(&build_id),
            ..Default::default()
        });
        self.mappings.insert(file, at);
        at
    }

    /// What pprof shows with `-comments`: where it is from, and what is missing.
    fn comments(&mut self) {
        let mut comments = Vec::new();
        if !self.source.command.is_empty() {
            comments.push(format!("command: {}", super::command(self.source)));
        }
        if !self.source.host.is_empty() {
            comments.push(format!("host: {}", names::clean(self.source.host.as_bytes())));
        }
        comments.extend(super::ended_early(self.source));
        comments.extend(super::wholeness(self.source));
        for (reason, count) in self.source.lost.iter().filter(|(_, n)| *n > 0) {
            let samples = human::plural(*count, "sample", "samples");
            comments.push(format!("lost: {samples}: {}", names::clean(reason.as_bytes())));
        }
        for at in &self.counters {
            let counter = &self.source.counters[*at as usize];
            let name = names::clean(counter.name.as_bytes());
            if !counter.additive {
                comments.push(format!("{name}: of each process; their sum says nothing"));
            }
            for (_, why, n) in self.source.uncounted.iter().filter(|(c, ..)| c == at) {
                let of = human::plural(*n, "process", "processes");
                let why = names::clean(why.as_bytes());
                comments.push(format!("{name}: no figure of {of}: {why}"));
            }
        }
        comments.extend(super::without_table(self.source));
        comments.extend(super::unnamed(&self.names));
        self.out.comment = comments.iter().map(|c| self.strings.add(c)).collect();
    }
}

/// As pprof calls it.
fn unit(unit: &str) -> String {
    match unit {
        "ns" => "nanoseconds".to_owned(),
        "" => "count".to_owned(),
        unit => names::clean(unit.as_bytes()),
    }
}

/// As the format has it: what does not fit is as much as fits.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
