//! perf's `perf.data`, for `perf report`, `perf script` and whatever else reads it.
//!
//! The format has addresses and mappings, and no names: who reads it looks for them in
//! the files, by path and build id. A frame of the model is an offset in a file, so each
//! file gets a place of its own in a made-up address space, the same one in all
//! processes, where offset 0 of the file is. Kernel addresses and those of generated
//! code are what they were.
//!
//! `file` has header, attributes and features, `event` the records between them.

mod event;
mod file;

use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;

use prof_model::stacks::Frame;
use prof_model::stacks::FrameKind;
use prof_model::stacks::Module;
use prof_model::stacks::ModuleId;
use prof_model::stacks::Sample;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Thread;
use prof_model::stacks::ThreadId;

use super::StackOptions;
use super::names;

/// Where the places of files begin: programs have nothing from here on, unless they ask
/// for it by address.
const FILES_BEGIN: u64 = 1 << 47;

/// Where they end, far from the kernel.
const FILES_END: u64 = 1 << 56;

/// No file of code is larger; a frame that says otherwise is none of it.
const MAX_FILE: u64 = 1 << 40;

/// The largest pages there are: places are whole ones of any size.
const PAGE: u64 = 64 << 10;

/// Below what readers take for a word about the addresses that follow.
const LAST_ADDRESS: u64 = -4096_i64 as u64;

/// Most frames of a stack. A record has 64 KiB at most.
const MAX_FRAMES: usize = 4096;

/// A word about the addresses that follow: they are the kernel's.
const CONTEXT_KERNEL: u64 = -128_i64 as u64;

/// They are the program's.
const CONTEXT_USER: u64 = -512_i64 as u64;

/// As much as an image of the kernel may take.
const KERNEL_BYTES: u64 = 1 << 30;

/// Where the kernel's half of all addresses begins.
const KERNEL_BEGIN: u64 = 1 << 63;

/// Writes the profile in this format.
pub fn write(
    profile: &StackProfile,
    options: &StackOptions,
    out: &mut dyn Write,
) -> io::Result<()> {
    super::check(profile)?;
    let writer = Writer::new(profile, options);
    // The head tells how long the records are. They are made twice rather than kept: a
    // profile of millions of samples has gigabytes of them.
    let mut length = Length(0);
    writer.records(&mut length)?;
    file::Head::new(profile, &writer.events).write(length.0, out)?;
    writer.records(out)?;
    file::write_features(profile, &writer.events, &writer.spans(), length.0, out)?;
    out.flush()
}

/// Counts what is written.
struct Length(u64);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    start: u64,
    length: u64,
    /// Offset of what is at `start`.
    offset: u64,
}

impl Place {
    /// The address of an offset, if it is in there.
    fn address(self, offset: u64) -> Option<u64> {
        let into = offset.checked_sub(self.offset)?;
        (into < self.length).then(|| self.start + into)
    }
}

/// What stands for code without a file.
fn is_generated(module: &Module) -> bool {
    module.path.as_os_str().as_bytes().starts_with(b"[anon:")
}

/// The places of all modules; `None` for those in which nothing can be.
fn places(profile: &StackProfile) -> Vec<Option<Place>> {
    let mut ranges: Vec<Option<(u64, u64)>> = vec![None; profile.modules.len()];
    for frame in profile.frames.iter().filter(|f| f.kind == FrameKind::User) {
        let Some(ModuleId(at)) = frame.module else { continue };
        let most = if is_generated(&profile.modules[at as usize]) { FILES_BEGIN } else { MAX_FILE };
        if frame.offset < most {
            let range = ranges[at as usize].get_or_insert((u64::MAX, 0));
            *range = (range.0.min(frame.offset), range.1.max(frame.offset));
        }
    }
    let mut free = FILES_BEGIN;
    let place = |(module, range): (&Module, &Option<(u64, u64)>)| {
        let (first, last) = (*range)?;
        let end = (last / PAGE + 1) * PAGE;
        if is_generated(module) {
            let start = first / PAGE * PAGE;
            return Some(Place { start, length: end - start, offset: start });
        }
        let place = Place { start: free, length: end, offset: 0 };
        free += end;
        (free <= FILES_END).then_some(place)
    };
    profile.modules.iter().zip(&ranges).map(place).collect()
}

/// What has been told of the image that a process runs.
#[derive(Debug, Default)]
struct Image {
    process: u32,
    threads: HashMap<u32, ThreadId>,
    modules: HashSet<u32>,
}

struct Writer<'a> {
    profile: &'a StackProfile,
    /// Those that are written, by their places in the profile.
    events: Vec<u32>,
    places: Vec<Option<Place>>,
    /// Samples of these, by time.
    samples: Vec<&'a Sample>,
}

impl<'a> Writer<'a> {
    fn new(profile: &'a StackProfile, options: &StackOptions) -> Self {
        let events = options.events_of(profile);
        let of_these = |s: &&Sample| events.contains(&s.event);
        let mut samples: Vec<_> = profile.samples.iter().filter(of_these).collect();
        samples.sort_by_key(|s| s.time_ns);
        Self { profile, places: places(profile), samples, events }
    }

    /// Time of a sample: ns since 1970. 0 and the last are no times to perf.
    fn time(&self, sample: &Sample) -> u64 {
        self.profile.start_ns.saturating_add(sample.time_ns).clamp(1, u64::MAX - 1)
    }

    /// Times of the first and the last sample.
    fn spans(&self) -> (u64, u64) {
        let time = |s: Option<&&Sample>| s.map_or(0, |s| self.time(s));
        (time(self.samples.first()), time(self.samples.last()))
    }

    /// All records: each process, thread and mapping before the first sample that has it.
    fn records(&self, out: &mut dyn Write) -> io::Result<()> {
        self.kernel(out)?;
        let mut images: HashMap<u32, Image> = HashMap::new();
        let mut addresses = Vec::new();
        for sample in &self.samples {
            let thread = &self.profile.threads[sample.thread.0 as usize];
            let id = self.events.iter().position(|e| *e == sample.event).map_or(0, event::id);
            let process = &self.profile.processes[thread.process.0 as usize];
            let who = event::Who {
                pid: process.pid,
                tid: thread.tid,
                time_ns: self.time(sample),
                cpu: sample.cpu,
                id,
            };
            let image = images
                .entry(process.pid)
                .or_insert_with(|| Image { process: u32::MAX, ..Image::default() });
            if image.process != thread.process.0 {
                *image = Image { process: thread.process.0, ..Image::default() };
                let leader = event::Who { tid: process.pid, ..who };
                event::comm(&leader, &process.comm, process.exec > 0, out)?;
            }
            self.thread(&who, thread, sample.thread, image, out)?;
            self.stack(&who, sample, image, &mut addresses, out)?;
            event::sample(&who, sample.weight, &addresses, out)?;
        }
        Ok(())
    }

    /// The image of the kernel, and what of it lies elsewhere: names of functions are found
    /// by where these begin. What readers take for words is in none of them.
    fn kernel(&self, out: &mut dyn Write) -> io::Result<()> {
        let kernel = &self.profile.kernel;
        let Some(start) = kernel.text.filter(|t| (KERNEL_BEGIN..LAST_ADDRESS).contains(t)) else {
            let place = Place { start: KERNEL_BEGIN, length: KERNEL_BEGIN - 1, offset: 0 };
            return event::kernel(place, "[kernel.kallsyms]_text", out);
        };
        let mut parts: Vec<_> = kernel.parts.iter().filter(|p| p.start >= KERNEL_BEGIN).collect();
        parts.sort_by_key(|part| part.start);
        let length = |start: u64, most: u64| {
            let next = parts.get(parts.partition_point(|part| part.start <= start));
            most.min(next.map_or(LAST_ADDRESS, |next| next.start).saturating_sub(start))
        };
        let place = Place { start, length: length(start, KERNEL_BYTES), offset: start };
        event::kernel(place, "[kernel.kallsyms]_text", out)?;
        for part in &parts {
            let place =
                Place { start: part.start, length: length(part.start, part.length), offset: 0 };
            if place.length == 0 || place.start == start {
                continue;
            }
            if part.is_program {
                event::program(place, &part.name, out)?;
            } else {
                event::kernel(place, &format!("[{}]", names::clean(part.name.as_bytes())), out)?;
            }
        }
        Ok(())
    }

    fn thread(
        &self,
        who: &event::Who,
        thread: &Thread,
        id: ThreadId,
        image: &mut Image,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let before = image.threads.insert(thread.tid, id);
        let process = &self.profile.processes[thread.process.0 as usize];
        let is_leader = thread.tid == process.pid && thread.comm == process.comm;
        if before == Some(id) || before.is_none() && is_leader {
            return Ok(());
        }
        event::comm(who, &thread.comm, false, out)
    }

    /// The addresses of a stack, leaf first; mappings that they are in are told.
    fn stack(
        &self,
        who: &event::Who,
        sample: &Sample,
        image: &mut Image,
        addresses: &mut Vec<u64>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        addresses.clear();
        let mut kind = None;
        for id in self.profile.frames_of(sample.stack).take(MAX_FRAMES) {
            let frame = self.profile.frame(id);
            if kind != Some(frame.kind) {
                kind = Some(frame.kind);
                addresses.push(match frame.kind {
                    FrameKind::User => CONTEXT_USER,
                    FrameKind::Kernel => CONTEXT_KERNEL,
                });
            }
            addresses.push(self.address(frame));
            if let (FrameKind::User, Some(ModuleId(at))) = (frame.kind, frame.module)
                && let Some(place) = self.places[at as usize]
                && image.modules.insert(at)
            {
                let module = &self.profile.modules[at as usize];
                let path = match is_generated(module) {
                    // perf has names for it in /tmp/perf-PID.map.
                    true => "//anon".to_owned(),
                    false => names::path(&module.path),
                };
                event::map(who, place, &path, &module.build_id, out)?;
            }
        }
        Ok(())
    }

    fn address(&self, frame: &Frame) -> u64 {
        if frame.kind == FrameKind::Kernel {
            return frame.offset.min(LAST_ADDRESS);
        }
        let place = frame.module.and_then(|m| self.places[m.0 as usize]);
        // What is in no module must not look like something in one.
        place
            .and_then(|p| p.address(frame.offset))
            .unwrap_or_else(|| frame.offset.min(FILES_BEGIN - 1))
    }
}
