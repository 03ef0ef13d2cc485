//! The `firefox` format: what Firefox Profiler calls a processed profile, with all names
//! in it.
//!
//! The first event that is no off-CPU time makes the samples of each thread. Each other
//! one has threads of its own, named after it, since a thread has one list of samples;
//! time off the CPU is markers, from where it began to where it ended.

use std::collections::HashMap;
use std::io;
use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use fxprof_processed_profile as fx;
use fxprof_processed_profile::debugid::DebugId;
use prof_model::record::Flags;
use prof_model::stacks::FrameId;
use prof_model::stacks::Sample;
use prof_model::stacks::SampledEvent;
use prof_model::stacks::StackId;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Switch;
use prof_model::stacks::WakerKind;
use prof_model::stacks::Whole;

use super::StackOptions;
use super::names;
use super::names::Line;
use super::names::LineId;
use super::names::Names;
use super::names::Origin;

/// Writes a profile: all its events, or the one that is asked for.
pub fn write(
    profile: &StackProfile,
    options: &StackOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    super::check(profile)?;
    let fx = Writer::new(profile).profile(&options.events_of(profile));
    if options.ends_with("gz") {
        let mut gz = GzEncoder::new(io::BufWriter::new(out), Compression::default());
        serde_json::to_writer(&mut gz, &fx)?;
        gz.finish()?.flush()
    } else {
        let mut out = io::BufWriter::new(out);
        serde_json::to_writer(&mut out, &fx)?;
        out.flush()
    }
}

struct Writer<'a> {
    source: &'a StackProfile,
    names: Names<'a>,
    out: fx::Profile,
    user: fx::CategoryHandle,
    kernel: fx::CategoryHandle,
    off_cpu: fx::CategoryHandle,
    /// By place in [`Names::modules`].
    libraries: Vec<fx::LibraryHandle>,
    processes: Vec<fx::ProcessHandle>,
    /// Of each thread and event; the event is `None` for those that have no name of
    /// their own.
    threads: HashMap<(u32, Option<u32>), fx::ThreadHandle>,
    stacks: HashMap<(fx::ThreadHandle, Option<StackId>, Whole), Option<fx::StackHandle>>,
    /// Of each thread, from when to when samples know of it.
    spans: HashMap<u32, (u64, u64)>,
}

impl<'a> Writer<'a> {
    fn new(source: &'a StackProfile) -> Self {
        let names = Names::new(source);
        let product = match super::command(source) {
            command if command.is_empty() => "prof".to_owned(),
            command => command,
        };
        let start =
            fx::ReferenceTimestamp::from_millis_since_unix_epoch(source.start_ns as f64 / 1e6);
        let mut out = fx::Profile::new(&product, start, fx::SamplingInterval::from_millis(1));
        out.set_os_name("Linux");
        out.set_symbolicated(true);
        let user = out.add_category("User", fx::CategoryColor::Yellow);
        let kernel = out.add_category("Kernel", fx::CategoryColor::Blue);
        let off_cpu = out.add_category("Off-CPU", fx::CategoryColor::LightBlue);
        let libraries = libraries(source, &names, &mut out);
        Self {
            source,
            names,
            out,
            user,
            kernel,
            off_cpu,
            libraries,
            processes: Vec::new(),
            threads: HashMap::new(),
            stacks: HashMap::new(),
            spans: spans(source),
        }
    }

    fn profile(mut self, events: &[u32]) -> fx::Profile {
        self.processes();
        let event_at = |e: u32| &self.source.events[e as usize];
        let first = events.iter().copied().find(|e| !super::is_off_cpu(event_at(*e)));
        if let Some(period) = first.and_then(|e| super::period(event_at(e))) {
            self.out.set_interval(fx::SamplingInterval::from_nanos(period));
        }
        for s in self.source.samples.iter().filter(|s| events.contains(&s.event)) {
            let event = &self.source.events[s.event as usize];
            if super::is_off_cpu(event) {
                self.blocked(s);
            } else {
                let own = if first == Some(s.event) { None } else { Some(s.event) };
                self.sample(s, event, own);
            }
        }
        self.out
    }

    /// Processes with their main threads and windows.
    fn processes(&mut self) {
        if self.source.processes.is_empty() {
            // The page refuses a profile without a thread, or one that takes no time.
            let name = super::command(self.source);
            let process = self.out.add_process(&name, 0, time(0));
            let thread = self.out.add_thread(process, 0, time(0), true);
            let window = Window { text: self.out.intern_string("no process was sampled") };
            let end = time(self.source.duration_ns);
            self.out.add_marker(thread, fx::MarkerTiming::Interval(time(0), end), window);
        }
        let mut switches: HashMap<usize, Vec<&Switch>> = HashMap::new();
        for s in &self.source.switches {
            switches.entry(s.process.0 as usize).or_default().push(s);
        }
        let mut mains: HashMap<usize, u32> = HashMap::new();
        for (at, t) in (0..).zip(&self.source.threads) {
            let process = t.process.0 as usize;
            if self.source.processes[process].pid == t.tid {
                mains.entry(process).or_insert(at);
            }
        }
        for (at, p) in self.source.processes.iter().enumerate() {
            let from = time(p.from_ns);
            let handle = self.out.add_process(&names::clean(p.comm.as_bytes()), p.pid, from);
            self.processes.push(handle);
            if let Some(to) = p.to_ns {
                self.out.set_process_end_time(handle, time(to.max(p.from_ns)));
            }
            let main = mains.get(&at).copied();
            let thread = match main {
                Some(main) => self.thread(main, None),
                None => {
                    // The window needs one to stand in.
                    let thread = self.out.add_thread(handle, p.pid, from, true);
                    if let Some(to) = p.to_ns {
                        self.out.set_thread_end_time(thread, time(to.max(p.from_ns)));
                    }
                    thread
                }
            };
            let exe =
                p.exe.as_ref().map_or_else(|| names::clean(p.comm.as_bytes()), |e| names::path(e));
            let text = match p.to_ns {
                Some(_) => format!("{exe}, pid {}, exec {}", p.pid, p.exec),
                None => format!("{exe}, pid {}, exec {}, still running", p.pid, p.exec),
            };
            let to = time(p.to_ns.unwrap_or(self.source.duration_ns).max(p.from_ns));
            let window = Window { text: self.out.intern_string(&text) };
            self.out.add_marker(thread, fx::MarkerTiming::Interval(from, to), window);
            for s in switches.remove(&at).unwrap_or_default() {
                let name = self.out.intern_string("prof");
                let flags = self.out.intern_string(&Flags(s.flags).names().join(", "));
                let timing = fx::MarkerTiming::Instant(time(s.time_ns));
                self.out.add_marker(thread, timing, Switched { name, flags });
            }
        }
    }

    /// The thread of the file in which samples of a thread and event are.
    fn thread(&mut self, at: u32, event: Option<u32>) -> fx::ThreadHandle {
        if let Some(handle) = self.threads.get(&(at, event)) {
            return *handle;
        }
        let t = &self.source.threads[at as usize];
        let p = &self.source.processes[t.process.0 as usize];
        let process = self.processes[t.process.0 as usize];
        // The first thread is there as long as the process is. Of others it is known from when
        // on and how long they have surely been there.
        let is_first = t.tid == p.pid;
        let (first, last) = self.spans.get(&at).copied().unwrap_or((p.from_ns, p.from_ns));
        let from = if is_first { p.from_ns } else { first.max(p.from_ns) };
        let to = p.to_ns.map(|to| if is_first { to } else { last.min(to) });
        let is_main = is_first && event.is_none();
        let handle = self.out.add_thread(process, t.tid, time(from), is_main);
        let mut name = names::clean(t.comm.as_bytes());
        if let Some(event) = event {
            let event = &self.source.events[event as usize];
            name = format!("{name} ({})", names::clean(event.name.as_bytes()));
        }
        self.out.set_thread_name(handle, &name);
        if let Some(to) = to {
            self.out.set_thread_end_time(handle, time(to.max(from)));
        }
        self.threads.insert((at, event), handle);
        handle
    }

    fn sample(&mut self, s: &Sample, event: &SampledEvent, own: Option<u32>) {
        let thread = self.thread(s.thread.0, own);
        let stack = self.stack(thread, s.whole, s.stack);
        let period = super::period(event);
        // Weights there are small numbers, which the page calls samples: one that stands
        // for several periods counts for as many.
        let weight = period.map_or(1, |p| (s.weight.saturating_add(p / 2) / p).max(1));
        let cpu = match (super::is_time(event), event.frequency_hz) {
            (true, _) => fx::CpuDelta::from_nanos(s.weight),
            (false, Some(hz)) if hz > 0 => fx::CpuDelta::from_nanos(1_000_000_000 / hz),
            (false, _) => fx::CpuDelta::ZERO,
        };
        let weight = i32::try_from(weight).unwrap_or(i32::MAX);
        self.out.add_sample(thread, time(s.time_ns), stack, cpu, weight);
    }

    /// Time off the CPU, which ends where the sample was taken.
    fn blocked(&mut self, s: &Sample) {
        let thread = self.thread(s.thread.0, None);
        let stack = self.stack(thread, s.whole, s.stack);
        let from = time(s.time_ns.saturating_sub(s.weight));
        let marker = self.off_cpu_marker(s);
        let timing = fx::MarkerTiming::Interval(from, time(s.time_ns));
        let marker = self.out.add_marker(thread, timing, marker);
        self.out.set_marker_stack(thread, marker, stack);
    }

    fn off_cpu_marker(&mut self, s: &Sample) -> OffCpu {
        let off = s.off_cpu.as_deref();
        let waker = off.and_then(|o| o.waker).map(|w| self.source.waker(w));
        let by = waker.map(|w| match w.kind {
            WakerKind::Thread => format!("{} {}/{}", names::waker(w), w.pid, w.tid),
            WakerKind::Interrupt => names::waker(w),
        });
        let unfinished = off.is_some_and(|o| o.unfinished);
        let by = by.unwrap_or_else(|| if unfinished { "still off" } else { "" }.to_owned());
        OffCpu {
            name: self.out.intern_string("off-cpu"),
            category: self.off_cpu,
            ms: s.weight as f64 / 1e6,
            wait_ms: off.map_or(0.0, |o| o.wait_ns as f64 / 1e6),
            state: self.out.intern_string(off.map_or("", |o| o.state.name())),
            by: self.out.intern_string(&by),
        }
    }

    fn stack(
        &mut self,
        thread: fx::ThreadHandle,
        whole: Whole,
        stack: Option<StackId>,
    ) -> Option<fx::StackHandle> {
        if let Some(known) = self.stacks.get(&(thread, stack, whole)) {
            return *known;
        }
        // Leaf first, as the model has it.
        let mut frames = Vec::new();
        for id in self.source.frames_of(stack) {
            let lines = self.names.frame(id).to_vec();
            for (nth, line) in lines.iter().enumerate() {
                let last = nth + 1 == lines.len();
                frames.push(self.frame(*line, last.then_some(id)));
            }
        }
        if let Some(note) = self.names.note(whole, stack) {
            frames.push(self.frame(note, None));
        }
        let handle = self.out.intern_stack_frames(thread, frames.into_iter().rev());
        self.stacks.insert((thread, stack, whole), handle);
        handle
    }

    /// A function; `place` is where, of the outermost one of an address.
    fn frame(&mut self, id: LineId, place: Option<FrameId>) -> fx::FrameInfo {
        let line: &Line = self.names.line(id);
        let category = match line.origin {
            Origin::User => self.user,
            Origin::Kernel => self.kernel,
            Origin::Note => fx::CategoryHandle::OTHER,
        };
        let library = line.module.and_then(|m| self.libraries.get(m as usize));
        let offset = place.and_then(|f| u32::try_from(self.source.frame(f).offset).ok());
        let frame = match (library, offset) {
            (Some(library), Some(offset)) => {
                fx::Frame::RelativeAddressFromInstructionPointer(*library, offset)
            }
            _ => {
                let name = line.name.clone();
                fx::Frame::Label(self.out.intern_string(&name))
            }
        };
        fx::FrameInfo { frame, category_pair: category.into(), flags: fx::FrameFlags::empty() }
    }
}

/// Of each thread, the time of its first sample, or the beginning of what that is of, and of
/// its last.
fn spans(source: &StackProfile) -> HashMap<u32, (u64, u64)> {
    let mut spans: HashMap<u32, (u64, u64)> = HashMap::new();
    for s in &source.samples {
        let off = if s.off_cpu.is_some() { s.weight } else { 0 };
        let span = spans.entry(s.thread.0).or_insert((u64::MAX, 0));
        *span = (span.0.min(s.time_ns.saturating_sub(off)), span.1.max(s.time_ns));
    }
    spans
}

/// Files, each with the names of the places that are in the profile.
fn libraries(
    source: &StackProfile,
    names: &Names<'_>,
    out: &mut fx::Profile,
) -> Vec<fx::LibraryHandle> {
    let mut symbols: Vec<Vec<fx::Symbol>> = vec![Vec::new(); names.modules.len()];
    for (at, f) in source.frames.iter().enumerate() {
        let line = names.frame(FrameId(at as u32)).last().map(|l| names.line(*l));
        let (Some(module), Some(line)) = (f.module, line) else { continue };
        let Ok(address) = u32::try_from(f.offset) else { continue };
        symbols[names.place(module) as usize].push(fx::Symbol {
            address,
            size: Some(1),
            name: line.name.clone(),
        });
    }
    let mut modules: Vec<Option<&prof_model::stacks::Module>> = vec![None; names.modules.len()];
    for (at, m) in source.modules.iter().enumerate() {
        let place = names.place(prof_model::stacks::ModuleId(at as u32));
        modules[place as usize].get_or_insert(m);
    }
    let module = |(at, symbols): (usize, Vec<fx::Symbol>)| {
        let (path, build_id) = modules[at]
            .map_or_else(Default::default, |m| (names::path(&m.path), m.build_id.as_slice()));
        let name = names.modules[at].clone();
        // As Breakpad makes it of a build id: its first 16 bytes.
        let mut guid = [0; 16];
        guid.iter_mut().zip(build_id).for_each(|(to, from)| *to = *from);
        let hex: String = build_id.iter().map(|b| format!("{b:02x}")).collect();
        out.add_lib(fx::LibraryInfo {
            name: name.clone(),
            debug_name: name,
            debug_path: path.clone(),
            path,
            debug_id: DebugId::from_guid_age(&guid, 0).unwrap_or_default(),
            code_id: Some(hex).filter(|h| !h.is_empty()),
            arch: None,
            symbol_table: Some(Arc::new(fx::SymbolTable::new(symbols))),
        })
    };
    symbols.into_iter().enumerate().map(module).collect()
}

fn time(ns: u64) -> fx::Timestamp {
    fx::Timestamp::from_nanos_since_reference(ns)
}

/// From the exec of a process to its end.
struct Window {
    text: fx::StringHandle,
}

impl fx::StaticSchemaMarker for Window {
    const UNIQUE_MARKER_TYPE_NAME: &'static str = "ProcessWindow";
    const DESCRIPTION: Option<&'static str> = Some("From the exec of a process to its end.");
    const CHART_LABEL: Option<&'static str> = Some("{marker.data.text}");
    const TABLE_LABEL: Option<&'static str> = Some("{marker.data.text}");
    const FIELDS: &'static [fx::StaticSchemaMarkerField] = &[fx::StaticSchemaMarkerField {
        key: "text",
        label: "Process",
        format: fx::MarkerFieldFormat::String,
        flags: fx::MarkerFieldFlags::SEARCHABLE,
    }];

    fn name(&self, profile: &mut fx::Profile) -> fx::StringHandle {
        profile.intern_string("process")
    }

    fn category(&self, _: &mut fx::Profile) -> fx::CategoryHandle {
        fx::CategoryHandle::OTHER
    }

    fn string_field_value(&self, _: u32) -> fx::StringHandle {
        self.text
    }

    fn number_field_value(&self, _: u32) -> f64 {
        0.0
    }
}

/// A `prof` event.
struct Switched {
    name: fx::StringHandle,
    flags: fx::StringHandle,
}

impl fx::StaticSchemaMarker for Switched {
    const UNIQUE_MARKER_TYPE_NAME: &'static str = "Prof";
    const DESCRIPTION: Option<&'static str> =
        Some("Profiling of the process was switched on or off.");
    const CHART_LABEL: Option<&'static str> = Some("{marker.data.flags}");
    const TABLE_LABEL: Option<&'static str> = Some("{marker.data.flags}");
    const FIELDS: &'static [fx::StaticSchemaMarkerField] = &[fx::StaticSchemaMarkerField {
        key: "flags",
        label: "Flags",
        format: fx::MarkerFieldFormat::String,
        flags: fx::MarkerFieldFlags::SEARCHABLE,
    }];

    fn name(&self, _: &mut fx::Profile) -> fx::StringHandle {
        self.name
    }

    fn category(&self, _: &mut fx::Profile) -> fx::CategoryHandle {
        fx::CategoryHandle::OTHER
    }

    fn string_field_value(&self, _: u32) -> fx::StringHandle {
        self.flags
    }

    fn number_field_value(&self, _: u32) -> f64 {
        0.0
    }
}

/// A time off the CPU.
struct OffCpu {
    name: fx::StringHandle,
    category: fx::CategoryHandle,
    ms: f64,
    wait_ms: f64,
    state: fx::StringHandle,
    by: fx::StringHandle,
}

impl fx::StaticSchemaMarker for OffCpu {
    const UNIQUE_MARKER_TYPE_NAME: &'static str = "OffCpu";
    const DESCRIPTION: Option<&'static str> = Some("The thread was not on a CPU.");
    const TABLE_LABEL: Option<&'static str> =
        Some("{marker.data.blocked} {marker.data.state} {marker.data.waker}");
    const FIELDS: &'static [fx::StaticSchemaMarkerField] = &[
        fx::StaticSchemaMarkerField {
            key: "blocked",
            label: "Off the CPU",
            format: fx::MarkerFieldFormat::Duration,
            flags: fx::MarkerFieldFlags::empty(),
        },
        fx::StaticSchemaMarkerField {
            key: "wait",
            label: "Of that, ready to run",
            format: fx::MarkerFieldFormat::Duration,
            flags: fx::MarkerFieldFlags::empty(),
        },
        fx::StaticSchemaMarkerField {
            key: "state",
            label: "State",
            format: fx::MarkerFieldFormat::String,
            flags: fx::MarkerFieldFlags::SEARCHABLE,
        },
        fx::StaticSchemaMarkerField {
            key: "waker",
            label: "Woken by",
            format: fx::MarkerFieldFormat::String,
            flags: fx::MarkerFieldFlags::SEARCHABLE,
        },
    ];

    fn name(&self, _: &mut fx::Profile) -> fx::StringHandle {
        self.name
    }

    fn category(&self, _: &mut fx::Profile) -> fx::CategoryHandle {
        self.category
    }

    fn string_field_value(&self, field: u32) -> fx::StringHandle {
        if field == 2 { self.state } else { self.by }
    }

    fn number_field_value(&self, field: u32) -> f64 {
        if field == 0 { self.ms } else { self.wait_ms }
    }
}
