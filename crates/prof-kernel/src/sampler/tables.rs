//! Unwind tables in the kernel's memory: rows and indices in segments of 1 MiB, which
//! are made as they are needed and written through a mapping, without a call a row.
//!
//! When there is no more room, or no more numbers for files, tables are taken away. A
//! program of the kernel half may be at work with one at any moment: so the table is
//! declared gone first, and its words are another's only when every program that ran then
//! has ended.

use std::collections::HashMap;
use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use prof_unwind::RuleSet;
use prof_unwind::Table;

use crate::abi::stacks as abi;
use crate::abi::stacks::AbiFileKey;
use crate::abi::stacks::AbiSpace;
use crate::loader;
use crate::sampler::Sampler;
use crate::sampler::room::Room;
use crate::sys;
use crate::sys::Words;

const SEGMENT_WORDS: usize = abi::SEGMENT_BYTES / 4;

/// Of `struct prof_free_files`.
const TAKEN: usize = 0;
const GIVEN: usize = 1;
const IDS: usize = 2;
const TOLD: usize = 2 + abi::MAX_FILES;

#[derive(Debug)]
struct Segment {
    words: Words,
    room: Room,
    map: OwnedFd,
}

/// Words of a table: segment, where, how many.
type Piece = (usize, usize, usize);

/// What the kernel half unwinds by. Whoever adds to it is the only one.
#[derive(Debug)]
pub struct Tables {
    segments: Vec<Segment>,
    /// Most of them.
    max_segments: usize,
    outer: OwnedFd,
    rules: Words,
    rules_written: usize,
    tables: Words,
    pieces: HashMap<u32, Vec<Piece>>,
    files: OwnedFd,
    spaces: OwnedFd,
    free: Words,
}

/// Limits, lower than the kernel half's own for tests.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// Files that are known at a time.
    pub files: u32,
    /// Segments.
    pub segments: usize,
}

impl Default for Most {
    fn default() -> Self {
        let files = abi::MAX_FILES as u32 - abi::FILE_FIRST;
        Self { files, segments: abi::MAX_SEGMENTS as usize }
    }
}

impl Most {
    /// As tests want them; `PROF_MAX_FILES` and `PROF_MAX_SEGMENTS` are for nobody else.
    pub fn from_environment() -> Self {
        let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
        let most = Self::default();
        Self {
            files: number("PROF_MAX_FILES").unwrap_or(most.files),
            segments: number("PROF_MAX_SEGMENTS").map_or(most.segments, |n| n as usize),
        }
    }
}

impl Tables {
    /// Of this sampler, empty.
    pub fn new(sampler: &Sampler, most: Most) -> Result<Self> {
        let map = |name| sampler.map(name)?.try_clone_to_owned().context(name);
        let words = |name, len| Words::new(sampler.map(name)?, len).context(name);
        let new = Self {
            segments: Vec::new(),
            max_segments: most.segments.min(abi::MAX_SEGMENTS as usize),
            outer: map("segments")?,
            rules: words("unwind_rules", abi::MAX_UNWIND_RULES * 4)?,
            rules_written: 0,
            tables: words("tables", abi::MAX_FILES * 4)?,
            pieces: HashMap::new(),
            files: map("files")?,
            spaces: map("spaces")?,
            free: words("free_files", abi::FREE_FILES_WORDS)?,
        };
        let files = most.files.min(Most::default().files);
        (abi::FILE_FIRST..abi::FILE_FIRST + files).for_each(|id| new.give_number(id));
        Ok(new)
    }

    /// Bytes of tables in the kernel.
    pub fn bytes(&self) -> usize {
        self.segments.len() * abi::SEGMENT_BYTES
    }

    /// Numbers that the kernel half can still give to files.
    pub fn numbers_left(&self) -> u32 {
        self.free.load(GIVEN).wrapping_sub(self.free.load(TAKEN))
    }

    fn give_number(&self, id: u32) {
        let given = self.free.load(GIVEN);
        self.free.write(IDS + given as usize % abi::MAX_FILES, std::iter::once(id));
        self.free.store(GIVEN, given.wrapping_add(1));
    }

    /// Words that belong together, in one segment: which, and where.
    fn place(
        &mut self,
        words: impl ExactSizeIterator<Item = u32>,
        pieces: &mut Vec<Piece>,
    ) -> Result<(u32, u32)> {
        let n = words.len();
        if n > SEGMENT_WORDS {
            bail!("{n} words do not fit in a segment");
        }
        let found = self.segments.iter_mut().enumerate().find_map(|(at, s)| {
            let from = s.room.take(n)?;
            Some((at, from))
        });
        let (at, from) = match found {
            Some(found) => found,
            None => {
                let at = self.grow()?;
                let from = self.segments.get_mut(at).and_then(|s| s.room.take(n));
                (at, from.context("room for unwind tables")?)
            }
        };
        pieces.push((at, from, n));
        if let Some(segment) = self.segments.get(at) {
            segment.words.write(from, words);
        }
        Ok((at as u32, from as u32))
    }

    fn grow(&mut self) -> Result<usize> {
        let at = self.segments.len();
        if at >= self.max_segments {
            bail!("no more room for unwind tables: {} MiB are full", self.bytes() >> 20);
        }
        let map = loader::segment().context("room for unwind tables")?;
        let words = Words::new(map.as_fd(), SEGMENT_WORDS).context("room for unwind tables")?;
        sys::map_update(self.outer.as_fd(), &(at as u32), &(map.as_raw_fd() as u32))
            .context("room for unwind tables")?;
        self.segments.push(Segment { words, room: Room::new(SEGMENT_WORDS), map });
        Ok(at)
    }

    /// Makes the table of a file known. Its rules are those of `rules`.
    pub fn add(&mut self, file: u32, table: &Table, rules: &RuleSet) -> Result<()> {
        let new = rules.rules().get(self.rules_written..).unwrap_or_default();
        let bytes = new.iter().flat_map(|r| r.as_bytes()).collect::<Vec<_>>();
        let (words, _) = bytes.as_chunks::<4>();
        self.rules.write(self.rules_written * 4, words.iter().map(|w| u32::from_ne_bytes(*w)));
        self.rules_written += new.len();
        let mut pieces = Vec::new();
        let placed = self.place_table(table, &mut pieces);
        let (segment, at) = match placed {
            Ok(placed) => placed,
            Err(e) => {
                // No program has seen them.
                self.give(pieces);
                return Err(e);
            }
        };
        self.pieces.insert(file, pieces);
        let place = file as usize * 4;
        self.tables.write(place + 1, [segment, at, table.pages() as u32].into_iter());
        let ready = if table.frame_pointers { abi::table::FP } else { abi::table::READY };
        self.say(file, ready);
        Ok(())
    }

    fn place_table(&mut self, table: &Table, pieces: &mut Vec<Piece>) -> Result<(u32, u32)> {
        let mut index = Vec::with_capacity(table.pages() * 2);
        for page in 0..table.pages() {
            // `struct prof_unwind_page`.
            let rows = table.page(page);
            let (segment, first) = match rows {
                [] => (0, 0),
                rows => {
                    let words = rows.iter().map(|r| u32::from(r.pc_low) | u32::from(r.rule) << 16);
                    self.place(words, pieces)?
                }
            };
            index.push(segment | first << 14);
            index.push(rows.len() as u32);
        }
        self.place(index.into_iter(), pieces)
    }

    fn give(&mut self, pieces: Vec<Piece>) {
        for (at, from, n) in pieces {
            if let Some(segment) = self.segments.get_mut(at) {
                segment.room.give(from, n);
            }
        }
    }

    /// What there is of a file: [`abi::table`].
    pub fn say(&self, file: u32, state: u32) {
        // Last of all, and only then: the kernel half reads the state first.
        self.tables.store(file as usize * 4, state);
    }

    /// Has what is mapped in the processes read anew that have this file.
    pub fn look_again(&self, file: u32) {
        let mut has = Vec::new();
        self.each_space(|tgid, mapped| {
            if mapped.contains(&file) {
                has.push(tgid);
            }
        });
        for tgid in has {
            // It may be there no more.
            let _ = sys::map_delete(self.spaces.as_fd(), &tgid);
        }
    }

    /// Files that are mapped in processes that are sampled.
    pub fn mapped(&self) -> HashSet<u32> {
        let mut files = HashSet::new();
        self.each_space(|_, mapped| files.extend(mapped));
        files
    }

    /// Hands out each process of which mappings are known, and the files of these.
    fn each_space(&self, mut each: impl FnMut(u32, Vec<u32>)) {
        let mut at = None;
        // Those that are added meanwhile may be met or not; whoever needs to know waits.
        for _ in 0..65_536 {
            let Ok(Some(tgid)) = sys::map_next_key::<u32>(self.spaces.as_fd(), at.as_ref()) else {
                return;
            };
            at = Some(tgid);
            let Ok(Some(space)) = sys::map_lookup::<_, AbiSpace>(self.spaces.as_fd(), &tgid) else {
                continue;
            };
            let mapped = space.v.iter().take(space.vmas as usize);
            each(tgid, mapped.map(|vma| vma.file).collect());
        }
    }

    /// Takes tables away. Who has one mapped is told that it has no table until it is sampled
    /// next, and then of a new file. The numbers are nobody's until they are
    /// [given again](Self::give_again): samples with them still wait to be read.
    pub fn remove(&mut self, gone: &[(u32, AbiFileKey)]) -> Result<()> {
        for (id, key) in gone {
            self.say(*id, abi::table::NONE);
            // It may be there no more.
            let _ = sys::map_delete(self.files.as_fd(), key);
        }
        // From now on nobody finds these numbers but in what is known of processes.
        self.wait()?;
        let ids: HashSet<u32> = gone.iter().map(|(id, _)| *id).collect();
        let mut has = Vec::new();
        self.each_space(|tgid, mapped| {
            if mapped.iter().any(|id| ids.contains(id)) {
                has.push(tgid);
            }
        });
        for tgid in &has {
            let _ = sys::map_delete(self.spaces.as_fd(), tgid);
        }
        self.wait()?;
        for id in ids {
            let pieces = self.pieces.remove(&id).unwrap_or_default();
            self.give(pieces);
        }
        Ok(())
    }

    /// Numbers of files whose tables were taken away are for others from now on.
    pub fn give_again(&self, ids: &[u32]) {
        for id in ids {
            self.say(*id, abi::table::PENDING);
            self.free.store(TOLD + *id as usize, 0);
            self.give_number(*id);
        }
    }

    /// Until every program has ended that runs now: that is how a map of maps is changed.
    fn wait(&mut self) -> Result<()> {
        if self.segments.is_empty() {
            self.grow()?;
        }
        let Some(first) = self.segments.first() else { return Ok(()) };
        sys::map_update(self.outer.as_fd(), &0_u32, &(first.map.as_raw_fd() as u32))
            .context("waiting for samples that are being taken")
    }
}
