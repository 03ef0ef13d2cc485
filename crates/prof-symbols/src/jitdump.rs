//! Names and lines of code that was made at run time, from a jitdump, as the kernel's
//! `jitdump-specification.txt` has it. It tells when code was written where, so memory
//! that is used again has another name by then. The part that runs in a process of its
//! own: whoever was profiled writes the file.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use linux_perf_data::Endianness;
use linux_perf_data::jitdump::JitCodeLoadRecord;
use linux_perf_data::jitdump::JitCodeMoveRecord;
use linux_perf_data::jitdump::JitDumpReader;
use linux_perf_data::jitdump::JitDumpRecord;
use linux_perf_data::jitdump::JitDumpRecordHeader;
use linux_perf_data::jitdump::JitDumpRecordType;
use prof_model::stacks::Function;

use crate::Named;
use crate::perf_map::PerfMap;
use crate::ranges::Ranges;
use crate::wire;
use crate::wire::Sender;

/// Most functions that are taken.
const MAX_LOADS: usize = 2_000_000;

/// Most lines of all functions together.
const MAX_LINES: usize = 8_000_000;

/// Most ranges that are known at a time.
const MAX_RANGES: usize = 4_000_000;

/// Bytes of a line's entry without the name of the file: address, line, column, NUL.
const MIN_ENTRY: u64 = 8 + 4 + 4 + 1;

/// The times are not those of the clock, but of a counter of the CPU.
const FLAG_ARCH_TIMESTAMP: u64 = 1;

/// Bytes of an ELF header. V8 counts lines from before the one that perf would write.
const ELF_HEADER: u64 = 0x40;

/// An address to be named, as of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Query {
    /// Which frame it is of: those of one stand next to each other, by time.
    pub frame: u32,
    /// Monotonic clock.
    pub time_ns: u64,
    /// A byte of the instruction that is meant.
    pub address: u64,
}

/// A piece of code, where it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Code {
    load: u32,
    start: u64,
}

#[derive(Debug)]
struct Load {
    name: String,
    size: u64,
    /// Place in `lines`.
    lines: Range<u32>,
}

/// From an offset in the code on.
#[derive(Debug, Clone, Copy)]
struct Line {
    offset: u64,
    line: u32,
    file: u32,
}

/// All that a file has told so far.
#[derive(Debug, Default)]
struct Dump {
    now: Ranges<Code>,
    loads: Vec<Load>,
    by_index: HashMap<u64, u32>,
    /// Lines of code that is still to come, by its address: entries by address.
    coming: HashMap<u64, Vec<Line>>,
    lines: Vec<Line>,
    files: Vec<PathBuf>,
    file_ids: HashMap<Vec<u8>, u32>,
}

/// Sends a name or a reason for the first query of each frame, and again where it changes.
pub(crate) fn name(file: File, perf_map: &[u8], queries: &[Query], out: &mut Sender) {
    let mut dump = Dump::default();
    let (found, failed) = match dump.find(file, queries) {
        Ok(found) => (found, None),
        Err(e) => (vec![None; queries.len()], Some(format!("the jitdump cannot be read: {e}"))),
    };
    let map = PerfMap::parse(perf_map);
    for (at, query) in queries.iter().enumerate() {
        let before = at.checked_sub(1).filter(|b| queries[*b].frame == query.frame);
        if before.is_some_and(|b| found[b] == found[at]) {
            continue;
        }
        let named = match found[at] {
            Some(code) => dump.named(code, query.address),
            None => match map.name(query.address) {
                by_map if by_map.unnamed.is_none() => by_map,
                _ => Named::unnamed(failed.as_deref().unwrap_or("the jitdump has no code there")),
            },
        };
        out.send(at, named);
    }
}

impl Dump {
    /// The code of each query: what was there at its time, or what came there first of
    /// all that was told later.
    fn find(&mut self, file: File, queries: &[Query]) -> io::Result<Vec<Option<Code>>> {
        let mut reader = JitDumpReader::new(file).map_err(io::Error::other)?;
        let untimed = reader.header().flags & FLAG_ARCH_TIMESTAMP != 0;
        let mut order: Vec<usize> = (0..queries.len()).collect();
        order.sort_by_key(|at| queries[*at].time_ns);
        let mut waiting = order.iter().copied().peekable();
        let mut found = vec![None; queries.len()];
        let mut clock = 0;
        while let Some(header) = reader.next_record_header()? {
            if (header.total_size as usize) < JitDumpRecordHeader::SIZE {
                break;
            }
            // Threads may write out of turn.
            clock = if untimed { 0 } else { header.timestamp.max(clock) };
            while let Some(at) = waiting.next_if(|at| queries[*at].time_ns < clock) {
                found[at] = self.now.get(queries[at].address);
            }
            let Some(record) = reader.next_record()? else { break };
            if record.record_type == JitDumpRecordType::JIT_CODE_DEBUG_INFO {
                // The library makes room for as many as are said to be.
                let body = record.body.as_slice();
                let count = body.get(8..16).and_then(|b| <[u8; 8]>::try_from(b).ok());
                let count = count.map(|b| match record.endian {
                    Endianness::LittleEndian => u64::from_le_bytes(b),
                    Endianness::BigEndian => u64::from_be_bytes(b),
                });
                if count.is_none_or(|n| n > body.len() as u64 / MIN_ENTRY) {
                    continue;
                }
            }
            // One that makes no sense is passed over.
            if let Ok(record) = record.parse() {
                self.take(record);
            }
            if self.loads.len() >= MAX_LOADS || self.now.len() >= MAX_RANGES {
                break;
            }
        }
        for at in waiting {
            found[at] = self.now.get(queries[at].address);
        }
        for (found, query) in found.iter_mut().zip(queries).filter(|(f, _)| f.is_none()) {
            *found = self.now.get(query.address);
        }
        Ok(found)
    }

    fn take(&mut self, record: JitDumpRecord<'_>) {
        match record {
            JitDumpRecord::CodeLoad(load) => self.load(&load),
            JitDumpRecord::CodeMove(moved) => self.code_move(&moved),
            JitDumpRecord::CodeDebugInfo(info) => {
                let mut lines = Vec::with_capacity(info.entries.len());
                for e in &info.entries {
                    let file = self.file(&e.file_path.as_slice());
                    lines.push(Line { offset: e.code_addr, line: e.line, file });
                }
                if self.lines.len() + lines.len() <= MAX_LINES {
                    self.coming.insert(info.code_addr, lines);
                }
            }
            JitDumpRecord::CodeClose
            | JitDumpRecord::CodeUnwindingInfo(_)
            | JitDumpRecord::Other(_) => {}
        }
    }

    fn file(&mut self, path: &[u8]) -> u32 {
        if let Some(id) = self.file_ids.get(path) {
            return *id;
        }
        let id = self.files.len() as u32;
        self.files.push(PathBuf::from(wire::cut(&String::from_utf8_lossy(path))));
        self.file_ids.insert(path.to_vec(), id);
        id
    }

    fn load(&mut self, load: &JitCodeLoadRecord<'_>) {
        let size = load.code_bytes.len() as u64;
        let coming = self.coming.remove(&load.code_addr).unwrap_or_default();
        let Some(end) = load.code_addr.checked_add(size).filter(|_| size > 0) else { return };
        let name = wire::cut(&String::from_utf8_lossy(&load.function_name.as_slice()));
        let from = self.lines.len() as u32;
        let path_of = |id: u32| self.files.get(id as usize);
        if let Some(lines) = sane(&coming, load.code_addr, size, name.starts_with("JS:"), path_of) {
            self.lines.extend(lines);
        }
        let id = self.loads.len() as u32;
        let lines = from..self.lines.len() as u32;
        self.loads.push(Load { name, size, lines });
        self.by_index.insert(load.code_index, id);
        self.now.insert(load.code_addr, end, Code { load: id, start: load.code_addr });
    }

    fn code_move(&mut self, moved: &JitCodeMoveRecord) {
        let Some(load) = self.by_index.get(&moved.code_index).copied() else { return };
        let size = self.loads[load as usize].size;
        let Some(end) = moved.new_code_addr.checked_add(size) else { return };
        let was = self.now.get(moved.old_code_addr).filter(|c| c.load == load);
        if let (Some(_), Some(old_end)) = (was, moved.old_code_addr.checked_add(size)) {
            self.now.clear(moved.old_code_addr, old_end);
        }
        self.now.insert(moved.new_code_addr, end, Code { load, start: moved.new_code_addr });
    }

    fn named(&self, code: Code, address: u64) -> Named {
        let Some(load) = self.loads.get(code.load as usize).filter(|l| !l.name.is_empty()) else {
            return Named::unnamed("the jitdump has no name for it");
        };
        let lines = &self.lines[load.lines.start as usize..load.lines.end as usize];
        let into = address.saturating_sub(code.start);
        let after = lines.partition_point(|l| l.offset <= into);
        let line = after.checked_sub(1).and_then(|at| lines.get(at));
        let function = Function {
            name: load.name.clone(),
            file: line.and_then(|l| self.files.get(l.file as usize)).cloned(),
            line: line.map(|l| l.line),
        };
        Named { functions: vec![function], unnamed: None }
    }
}

/// Lines by offset; none at all if some make no sense: V8 up to 2023 wrote names of files
/// that are no text, and lengths that are not theirs.
fn sane<'a>(
    entries: &[Line],
    start: u64,
    size: u64,
    is_js: bool,
    path_of: impl Fn(u32) -> Option<&'a PathBuf>,
) -> Option<Vec<Line>> {
    let bias = match entries.first() {
        Some(first) if is_js && first.offset == start.checked_add(ELF_HEADER)? => ELF_HEADER,
        _ => 0,
    };
    let mut lines = Vec::with_capacity(entries.len());
    for e in entries {
        let offset = e.offset.checked_sub(start)?.checked_sub(bias)?;
        let path = path_of(e.file)?.to_str()?;
        let is_text =
            !path.is_empty() && !path.contains(|c: char| c.is_control() || c == '\u{fffd}');
        if offset > size || e.line == 0 || !is_text {
            return None;
        }
        lines.push(Line { offset, ..*e });
    }
    lines.sort_by_key(|l| l.offset);
    Some(lines)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Address;
    use crate::Source;
    use crate::Symbolizer;
    use proptest::prelude::*;
    use std::io::Seek as _;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    /// A jitdump in the making.
    pub(crate) struct Written(pub Vec<u8>);

    impl Written {
        pub fn new(flags: u64) -> Self {
            let mut head = Vec::new();
            for word in [0x4a69_5444_u32, 1, 40, 62, 0, 7] {
                head.extend(word.to_le_bytes());
            }
            head.extend(1_u64.to_le_bytes());
            head.extend(flags.to_le_bytes());
            Self(head)
        }

        fn record(mut self, kind: u32, time: u64, body: &[u8]) -> Self {
            self.0.extend(kind.to_le_bytes());
            self.0.extend((16 + body.len() as u32).to_le_bytes());
            self.0.extend(time.to_le_bytes());
            self.0.extend(body);
            self
        }

        pub fn load(self, time: u64, at: u64, size: u64, index: u64, name: &str) -> Self {
            let mut body = [7_u32.to_le_bytes(), 7_u32.to_le_bytes()].concat();
            [at, at, size, index].iter().for_each(|n| body.extend(n.to_le_bytes()));
            body.extend(name.as_bytes());
            body.resize(body.len() + 1 + size as usize, 0);
            self.record(0, time, &body)
        }

        fn moved(self, time: u64, from: u64, to: u64, size: u64, index: u64) -> Self {
            let mut body = [7_u32.to_le_bytes(), 7_u32.to_le_bytes()].concat();
            [to, from, to, size, index].iter().for_each(|n| body.extend(n.to_le_bytes()));
            self.record(1, time, &body)
        }

        fn lines(self, time: u64, at: u64, count: u64, entries: &[(u64, u32, &[u8])]) -> Self {
            let mut body = [at.to_le_bytes(), count.to_le_bytes()].concat();
            for (address, line, file) in entries {
                body.extend(address.to_le_bytes());
                body.extend(line.to_le_bytes());
                body.extend([0; 4]);
                body.extend(*file);
                body.push(0);
            }
            self.record(2, time, &body)
        }

        pub fn file(&self) -> File {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&self.0).unwrap();
            file.rewind().unwrap();
            file
        }
    }

    /// What addresses are called at times.
    fn names(of: &Written, at: &[(u64, u64)]) -> Vec<String> {
        let queries: Vec<_> = (0..)
            .zip(at)
            .map(|(frame, (t, a))| Query { frame, time_ns: *t, address: *a })
            .collect();
        let mut dump = Dump::default();
        let found = dump.find(of.file(), &queries).unwrap();
        let name = |(code, query): (Option<Code>, &Query)| {
            let Some(code) = code else { return "-".to_owned() };
            let f = dump.named(code, query.address).functions.remove(0);
            match (f.file, f.line) {
                (Some(file), Some(line)) => format!("{} {}:{line}", f.name, file.display()),
                _ => f.name,
            }
        };
        found.into_iter().zip(&queries).map(name).collect()
    }

    #[test]
    fn memory_that_is_used_again_is_what_it_was_at_the_time() {
        let dump = Written::new(0)
            .load(100, 0x1000, 0x100, 1, "a")
            .load(200, 0x1080, 0x10, 2, "b")
            .load(300, 0x1000, 0x100, 3, "c");
        let at = |time| [(time, 0x1000), (time, 0x1085), (time, 0x10ff), (time, 0x1100)];
        assert_eq!(names(&dump, &at(100)), ["a", "a", "a", "-"]);
        assert_eq!(names(&dump, &at(250)), ["a", "b", "a", "-"]);
        assert_eq!(names(&dump, &at(u64::MAX)), ["c", "c", "c", "-"]);
        // What is told only later is better than nothing.
        assert_eq!(names(&dump, &[(50, 0x1000), (50, 0x1085)]), ["c", "c"]);
    }

    #[test]
    fn times_that_are_not_of_the_clock_are_none() {
        let dump = Written::new(FLAG_ARCH_TIMESTAMP)
            .load(u64::MAX, 0x1000, 0x100, 1, "a")
            .load(3, 0x1000, 0x80, 2, "b");
        assert_eq!(names(&dump, &[(5, 0x1000), (5, 0x1080)]), ["b", "a"]);
    }

    #[test]
    fn code_that_moves_keeps_name_and_lines() {
        let lines: [(u64, u32, &[u8]); 2] = [(0x1000, 3, b"x.js"), (0x1010, 4, b"x.js")];
        let dump = Written::new(0)
            .lines(1, 0x1000, 2, &lines)
            .load(100, 0x1000, 0x100, 9, "a")
            .moved(200, 0x1000, 0x5000, 0x100, 9)
            .moved(300, 0x7000, 0x8000, 0x100, 44);
        let at = [(150, 0x1004), (150, 0x1014), (250, 0x1004), (250, 0x5014), (400, 0x8000)];
        // At its old place nothing is any more, and what was never there did not move.
        assert_eq!(names(&dump, &at), ["a x.js:3", "a x.js:4", "-", "a x.js:4", "-"]);
    }

    #[test]
    fn lines_that_make_no_sense_are_left_out_and_the_name_stays() {
        let with = |name: &str, count, entries: &[(u64, u32, &[u8])]| {
            let dump =
                Written::new(0).lines(1, 0x1000, count, entries).load(2, 0x1000, 0x100, 1, name);
            names(&dump, &[(5, 0x1044)]).remove(0)
        };
        assert_eq!(with("a", 1, &[(0x1000, 3, b"x.js")]), "a x.js:3");
        assert_eq!(with("a", 1, &[(0x1000, 0, b"x.js")]), "a");
        assert_eq!(with("a", 1, &[(0x1000, 3, b"")]), "a");
        assert_eq!(with("a", 1, &[(0x1000, 3, b"\xb4\x9f\x03")]), "a");
        assert_eq!(with("a", 1, &[(0x1000, 3, b"x\x1b")]), "a");
        assert_eq!(with("a", 1, &[(0x1200, 3, b"x.js")]), "a");
        assert_eq!(with("a", 1, &[(0xfff, 3, b"x.js")]), "a");
        // More than there are, as many as memory could not hold.
        for count in [2, 1 << 20, 1 << 40, u64::MAX] {
            assert_eq!(with("a", count, &[(0x1000, 3, b"x.js")]), "a");
        }
        // V8 counts from 0x40 bytes before.
        let lines: [(u64, u32, &[u8]); 2] = [(0x1040, 3, b"x.js"), (0x1080, 4, b"x.js")];
        assert_eq!(with("JS:*f x.js:3", 2, &lines), "JS:*f x.js:3 x.js:4");
        assert_eq!(with("f", 2, &lines), "f x.js:3");
    }

    fn asked(bytes: &[u8], at: u64) -> Named {
        let written = Written(bytes.to_vec());
        let file = written.file();
        let source =
            Source::JitDump { file: file.as_fd(), perf_map: b"9000 10 by_map\n", epoch_ns: 0 };
        let address = Address { offset: at, is_return: false };
        Symbolizer::default().user(&source, &[address]).remove(0)
    }

    #[test]
    fn what_the_jitdump_does_not_have_may_be_in_the_perf_map() {
        let dump = Written::new(0).load(1, 0x1000, 0x100, 1, "a");
        assert_eq!(asked(&dump.0, 0x1000).functions[0].name, "a");
        assert_eq!(asked(&dump.0, 0x9000).functions[0].name, "by_map");
        let none = asked(&dump.0, 0x5000).unnamed;
        assert_eq!(none.as_deref(), Some("the jitdump has no code there"));
        let nameless = Written::new(0).load(1, 0x1000, 0x100, 1, "");
        let nameless = asked(&nameless.0, 0x1000).unnamed;
        assert_eq!(nameless.as_deref(), Some("the jitdump has no name for it"));
        let junk = asked(b"ELF? no", 0x5000).unnamed.unwrap();
        assert!(junk.contains("the jitdump cannot be read"), "{junk}");
        assert_eq!(asked(b"ELF? no", 0x9000).functions[0].name, "by_map");
    }

    #[test]
    fn what_was_written_before_it_was_cut_is_read() {
        let (one, two) = (
            Written::new(0).load(1, 0x1000, 8, 1, "first"),
            Written::new(0).load(1, 0x1000, 8, 1, "first").load(2, 0x2000, 8, 2, "second"),
        );
        for length in one.0.len()..two.0.len() {
            let cut = Written(two.0[..length].to_vec());
            assert_eq!(names(&cut, &[(5, 0x1000), (5, 0x2000)]), ["first", "-"], "{length}");
        }
        assert_eq!(names(&two, &[(5, 0x1000), (5, 0x2000)]), ["first", "second"]);
        // A record that is shorter than its head ends it.
        let mut short = one.0.clone();
        short.extend([0, 0, 0, 0, 3, 0, 0, 0]);
        short.resize(short.len() + 100, 0);
        assert_eq!(names(&Written(short), &[(5, 0x1000)]), ["first"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_is_in_it_there_is_an_answer(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            length: prop::sample::Index,
        ) {
            let lines: [(u64, u32, &[u8]); 1] = [(0x1000, 3, b"x.js")];
            let dump = Written::new(0)
                .lines(1, 0x1000, 1, &lines)
                .load(100, 0x1000, 0x100, 9, "a")
                .moved(200, 0x1000, 0x5000, 0x100, 9);
            let mut bytes = dump.0;
            for (at, to) in changes {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
            bytes.truncate(length.index(bytes.len()) + 1);
            let named = asked(&bytes, 0x1000);
            prop_assert!(named.unnamed.is_some() || named.functions.len() == 1);
        }
    }
}
