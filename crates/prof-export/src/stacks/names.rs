//! What a frame is called: one place for all formats.
//!
//! Names come from symbol tables, and those from the target: each is made fit for a
//! terminal here, so that no format has to think of it.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use prof_model::stacks::Frame;
use prof_model::stacks::FrameId;
use prof_model::stacks::FrameKind;
use prof_model::stacks::ModuleId;
use prof_model::stacks::OffState;
use prof_model::stacks::Sample;
use prof_model::stacks::StackId;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Waker;
use prof_model::stacks::WakerId;
use prof_model::stacks::WakerKind;
use prof_model::stacks::Whole;
use prof_model::text;

/// What a line of a stack tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// Code of the program.
    User,
    /// Code of the kernel.
    Kernel,
    /// The stack itself: why it has no root, or no frame at all.
    Note,
}

/// Place of a [`Line`] in [`Names`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineId(pub u32);

/// A function as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Line {
    /// Its name; `[unknown in libfoo.so+0x1234]` if it has none.
    pub name: String,
    /// Of what it is.
    pub origin: Origin,
    /// Place in [`Names::modules`] of the file that it is in.
    pub module: Option<u32>,
    /// Whether its code stands in that of its caller.
    pub inlined: bool,
    /// Whether the name is one; else it tells the place.
    pub named: bool,
}

/// All that is called something in a profile.
#[derive(Debug)]
pub struct Names<'a> {
    profile: &'a StackProfile,
    /// What files are called: the last part of the path, or more of it where two have
    /// the same.
    pub modules: Vec<String>,
    /// For each module of the profile, its place in `modules`: two with the same path
    /// and build id are one, or without any, of the same size and time.
    places: Vec<u32>,
    lines: Vec<Line>,
    frames: Vec<Vec<LineId>>,
    notes: HashMap<(Whole, bool), LineId>,
}

impl<'a> Names<'a> {
    /// Of a profile that passed [`StackProfile::check`].
    pub fn new(profile: &'a StackProfile) -> Self {
        let (modules, places) = modules(profile);
        let mut lines = Lines::default();
        let frame = |f: &Frame, lines: &mut Lines| {
            let module = f.module.and_then(|m| places.get(m.0 as usize).copied());
            let origin = match f.kind {
                FrameKind::User => Origin::User,
                FrameKind::Kernel => Origin::Kernel,
            };
            let line = |name, inlined, named| Line { name, origin, module, inlined, named };
            if f.functions.is_empty() {
                let file = module.and_then(|m| modules.get(m as usize));
                return vec![lines.add(line(unnamed(f, file), false, false))];
            }
            let last = f.functions.len() - 1;
            f.functions
                .iter()
                .enumerate()
                .map(|(i, of)| {
                    // A function that is called nothing is none.
                    let named = !of.name.is_empty();
                    let name = if named {
                        clean(of.name.as_bytes())
                    } else {
                        unnamed(f, module.and_then(|m| modules.get(m as usize)))
                    };
                    lines.add(line(name, i < last, named))
                })
                .collect()
        };
        let frames = profile.frames.iter().map(|f| frame(f, &mut lines)).collect();
        let mut notes = HashMap::new();
        let wakers = profile.wakers.iter().filter(|w| w.stack.is_some());
        let of_wakers = wakers.map(|w| (w.whole, true));
        let of_samples = profile.samples.iter().map(|s| (s.whole, s.stack.is_some()));
        for key in of_samples.chain(of_wakers) {
            if let Some(name) = note(key.0, key.1) {
                notes.entry(key).or_insert_with(|| {
                    let origin = Origin::Note;
                    lines.add(Line { name, origin, module: None, inlined: false, named: false })
                });
            }
        }
        Self { profile, modules, places, lines: lines.lines, frames, notes }
    }

    /// A line by its place.
    pub fn line(&self, id: LineId) -> &Line {
        &self.lines[id.0 as usize]
    }

    /// Lines of all frames.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Lines of a frame, innermost first: as many as it has functions, or one.
    pub fn frame(&self, id: FrameId) -> &[LineId] {
        &self.frames[id.0 as usize]
    }

    /// What the file of a line is called.
    pub fn module(&self, line: &Line) -> Option<&str> {
        line.module.and_then(|m| self.modules.get(m as usize)).map(String::as_str)
    }

    /// Place in `modules` of a module of the profile.
    pub fn place(&self, module: ModuleId) -> u32 {
        self.places[module.0 as usize]
    }

    /// What is said of a stack in the place of its root: why it does not reach it, or
    /// why there is none.
    pub fn note(&self, whole: Whole, stack: Option<StackId>) -> Option<LineId> {
        self.notes.get(&(whole, stack.is_some())).copied()
    }

    /// Why places have no names: file, reason, and how many places, most first.
    pub fn unnamed(&self) -> Vec<(String, String, u64)> {
        let mut counts: HashMap<(Option<u32>, FrameKind, &str), u64> = HashMap::new();
        for f in &self.profile.frames {
            if let Some(reason) = f.unnamed.as_deref().filter(|_| f.functions.is_empty()) {
                let module = f.module.map(|m| self.place(m));
                *counts.entry((module, f.kind, reason)).or_default() += 1;
            }
        }
        let mut all: Vec<_> = counts
            .into_iter()
            .map(|((module, kind, reason), n)| {
                let file = match (module.and_then(|m| self.modules.get(m as usize)), kind) {
                    (Some(file), _) => file.clone(),
                    (None, FrameKind::Kernel) => "the kernel".into(),
                    (None, FrameKind::User) => "no file".into(),
                };
                (file, clean(reason.as_bytes()), n)
            })
            .collect();
        all.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.cmp(b)));
        all
    }

    /// A whole stack, root first; never empty.
    pub fn stack(&self, whole: Whole, stack: Option<StackId>) -> Vec<LineId> {
        let frames = self.profile.frames_of(stack).flat_map(|f| self.frame(f).iter().copied());
        let mut lines: Vec<LineId> = frames.chain(self.note(whole, stack)).collect();
        lines.reverse();
        lines
    }
}

/// The lines, each once.
#[derive(Default)]
struct Lines {
    lines: Vec<Line>,
    places: HashMap<Line, LineId>,
}

impl Lines {
    fn add(&mut self, line: Line) -> LineId {
        let next = LineId(self.lines.len() as u32);
        let id = *self.places.entry(line.clone()).or_insert(next);
        if id == next {
            self.lines.push(line);
        }
        id
    }
}

/// Bytes from the target as all formats show them: no control characters, nothing that
/// hides, and nothing that XML cannot hold.
pub fn clean(bytes: &[u8]) -> String {
    let text = text::for_terminal(bytes);
    if text.contains(['\u{fffe}', '\u{ffff}']) {
        return text.replace('\u{fffe}', "\\xef\\xbf\\xbe").replace('\u{ffff}', "\\xef\\xbf\\xbf");
    }
    text
}

/// A path as all formats show it.
pub fn path(path: &Path) -> String {
    clean(path.as_os_str().as_bytes())
}

/// A frame without a name, by its place. The place is told with its file, so that no
/// two files share a name.
fn unnamed(f: &Frame, file: Option<&String>) -> String {
    match (file, f.kind) {
        (Some(file), _) => format!("[unknown in {file}+{:#x}]", f.offset),
        (None, FrameKind::User) => format!("[unknown at {:#x}]", f.offset),
        (None, FrameKind::Kernel) => format!("[unknown in the kernel at {:#x}]", f.offset),
    }
}

/// What stands in place of a root that is missing.
fn note(whole: Whole, any_frame: bool) -> Option<String> {
    let name = whole.name();
    match (whole, any_frame) {
        (w, true) if w.is_whole() => None,
        (_, false) => Some(format!("[no stack: {name}]")),
        (Whole::Depth | Whole::Budget, true) => Some(format!("[cut: {name}]")),
        (_, true) => Some(format!("[broken: {name}]")),
    }
}

/// What modules are called, and for each module which of the names it has.
fn modules(profile: &StackProfile) -> (Vec<String>, Vec<u32>) {
    let mut places = Vec::with_capacity(profile.modules.len());
    let mut known = HashMap::new();
    let mut first = Vec::new();
    for m in &profile.modules {
        let next = known.len() as u32;
        let identity = m.identity.filter(|_| m.build_id.is_empty());
        let place = *known.entry((&m.path, &m.build_id, identity)).or_insert(next);
        if place == next {
            first.push(m);
        }
        places.push(place);
    }
    let short = |at: usize| {
        let path = &first[at].path;
        clean(path.file_name().unwrap_or(path.as_os_str()).as_bytes())
    };
    let long = |at: usize| path(&first[at].path);
    let by_id = |at: usize| {
        let id: String = first[at].build_id.iter().map(|b| format!("{b:02x}")).collect();
        format!("{} {}", long(at), if id.is_empty() { "(no build id)" } else { &id })
    };
    // More of it for whatever is called as another is, until none is; two different
    // paths may even look alike when they are shown.
    let mut names: Vec<String> = (0..first.len()).map(short).collect();
    let ways: [&dyn Fn(usize) -> String; 3] = [&long, &by_id, &|at| format!("{} #{at}", by_id(at))];
    for way in ways {
        let mut uses: HashMap<&str, u32> = HashMap::new();
        names.iter().for_each(|n| *uses.entry(n).or_default() += 1);
        let again: Vec<usize> =
            (0..names.len()).filter(|at| uses[names[*at].as_str()] > 1).collect();
        for at in again {
            names[at] = way(at);
        }
    }
    (names, places)
}

/// Samples that say the same of the same, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Who.
    pub thread: u32,
    /// Where.
    pub stack: Option<StackId>,
    /// How much of it there is.
    pub whole: Whole,
    /// Of time off the CPU: why, and who ended it.
    pub off: Option<(OffState, Option<WakerId>)>,
}

impl Place {
    /// Of a sample.
    pub fn of(s: &Sample) -> Self {
        let off = s.off_cpu.as_ref().map(|o| (o.state, o.waker));
        Self { thread: s.thread.0, stack: s.stack, whole: s.whole, off }
    }

    /// Who ended it.
    pub fn waker<'p>(&self, profile: &'p StackProfile) -> Option<&'p Waker> {
        self.off.and_then(|(_, waker)| waker).map(|w| profile.waker(w))
    }
}

/// What a waker is called.
pub fn waker(waker: &Waker) -> String {
    match waker.kind {
        WakerKind::Thread => clean(waker.comm.as_bytes()),
        WakerKind::Interrupt => "[interrupt]".into(),
    }
}

/// Weights of an event by place, and the number of its samples.
pub fn weights(profile: &StackProfile, event: u32) -> (BTreeMap<Place, u64>, u64) {
    let mut sums: BTreeMap<Place, u64> = BTreeMap::new();
    let mut count = 0;
    for s in profile.samples.iter().filter(|s| s.event == event) {
        let sum = sums.entry(Place::of(s)).or_default();
        *sum = sum.saturating_add(s.weight);
        count += 1;
    }
    (sums, count)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use prof_model::stacks::Module;

    use super::*;

    fn profile(modules: &[(&[u8], u8)]) -> StackProfile {
        let module = |(path, id): &(&[u8], u8)| Module {
            path: OsStr::from_bytes(path).into(),
            build_id: vec![*id],
            ..Module::default()
        };
        StackProfile { modules: modules.iter().map(module).collect(), ..StackProfile::default() }
    }

    #[test]
    fn files_are_called_by_as_much_of_their_paths_as_tells_them_apart() {
        let p = profile(&[(b"/a/x", 1), (b"/b/x", 1), (b"/b/y", 1), (b"/b/z", 1), (b"/b/z", 2)]);
        let names = Names::new(&p);
        assert_eq!(names.modules, ["/a/x", "/b/x", "y", "/b/z 01", "/b/z 02"]);
        // The same file twice is one; files that only look alike are two.
        let p = profile(&[(b"/x\xff", 1), (b"/x\\xff", 1), (b"/x\xff", 1)]);
        let names = Names::new(&p);
        assert_eq!(names.modules, ["/x\\xff 01 #0", "/x\\xff 01 #1"]);
        assert_eq!([0, 1, 2].map(|m| names.place(ModuleId(m))), [0, 1, 0]);
    }

    #[test]
    fn a_function_without_a_name_is_told_by_its_place() {
        let mut p = profile(&[(b"/lib/x.so", 1)]);
        let frame = |kind, module, names: &[&str]| Frame {
            kind,
            module,
            offset: 0x10,
            functions: names
                .iter()
                .map(|n| prof_model::stacks::Function { name: (*n).into(), ..Default::default() })
                .collect(),
            unnamed: None,
        };
        let (user, kernel) = (FrameKind::User, FrameKind::Kernel);
        p.frames = vec![
            frame(user, Some(ModuleId(0)), &["inner", ""]),
            frame(user, None, &[]),
            frame(kernel, None, &[]),
            frame(kernel, None, &["f\n\u{ffff}"]),
        ];
        let names = Names::new(&p);
        let shown = |at| -> Vec<(&str, bool, bool)> {
            let lines = names.frame(FrameId(at)).iter().map(|l| names.line(*l));
            lines.map(|l| (l.name.as_str(), l.inlined, l.named)).collect()
        };
        assert_eq!(shown(0), [("inner", true, true), ("[unknown in x.so+0x10]", false, false)]);
        assert_eq!(shown(1), [("[unknown at 0x10]", false, false)]);
        assert_eq!(shown(2), [("[unknown in the kernel at 0x10]", false, false)]);
        assert_eq!(shown(3), [("f\\x0a\\xef\\xbf\\xbf", false, true)]);
    }
}
