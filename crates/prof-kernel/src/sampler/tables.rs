//! Unwind tables in the kernel's memory: rows and indices in segments of 1 MiB, which
//! are made as they are needed and written through a mapping, without a call a row.

use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use prof_unwind::RuleSet;
use prof_unwind::Table;

use crate::abi::stacks as abi;
use crate::loader;
use crate::sampler::Sampler;
use crate::sys;
use crate::sys::Words;

const SEGMENT_WORDS: usize = abi::SEGMENT_BYTES / 4;

#[derive(Debug)]
struct Segment {
    words: Words,
    used: usize,
    _map: OwnedFd,
}

/// What the kernel half unwinds by. Whoever adds to it is the only one.
#[derive(Debug)]
pub struct Tables {
    segments: Vec<Segment>,
    outer: OwnedFd,
    rules: Words,
    rules_written: usize,
    tables: Words,
}

impl Tables {
    /// Of this sampler, empty.
    pub fn new(sampler: &Sampler) -> Result<Self> {
        let outer = sampler.map("segments")?.try_clone_to_owned()?;
        let rules = Words::new(sampler.map("unwind_rules")?, abi::MAX_UNWIND_RULES * 4)
            .context("unwind rules")?;
        let tables =
            Words::new(sampler.map("tables")?, abi::MAX_FILES * 4).context("unwind tables")?;
        Ok(Self { segments: Vec::new(), outer, rules, rules_written: 0, tables })
    }

    /// Bytes of tables in the kernel.
    pub fn bytes(&self) -> usize {
        self.segments.len() * abi::SEGMENT_BYTES
    }

    /// Words that belong together, in one segment: which, and where.
    fn place(&mut self, words: impl ExactSizeIterator<Item = u32>) -> Result<(u32, u32)> {
        let n = words.len();
        if n > SEGMENT_WORDS {
            bail!("{n} words do not fit in a segment");
        }
        let fits = |s: &Segment| s.used + n <= SEGMENT_WORDS;
        let at = match self.segments.iter().position(fits) {
            Some(at) => at,
            None => self.grow()?,
        };
        let segment = &mut self.segments[at];
        let from = segment.used;
        segment.words.write(from, words);
        segment.used += n;
        Ok((at as u32, from as u32))
    }

    fn grow(&mut self) -> Result<usize> {
        let at = self.segments.len();
        if at >= abi::MAX_SEGMENTS as usize {
            bail!("no more room for unwind tables: {} MiB are full", self.bytes() >> 20);
        }
        let map = loader::segment().context("room for unwind tables")?;
        let words = Words::new(map.as_fd(), SEGMENT_WORDS).context("room for unwind tables")?;
        sys::map_update(self.outer.as_fd(), &(at as u32), &(map.as_raw_fd() as u32))
            .context("room for unwind tables")?;
        self.segments.push(Segment { words, used: 0, _map: map });
        Ok(at)
    }

    /// Makes the table of a file known. Its rules are those of `rules`.
    pub fn add(&mut self, file: u32, table: &Table, rules: &RuleSet) -> Result<()> {
        let new = rules.rules().get(self.rules_written..).unwrap_or_default();
        let bytes = new.iter().flat_map(|r| r.as_bytes()).collect::<Vec<_>>();
        let (words, _) = bytes.as_chunks::<4>();
        self.rules.write(self.rules_written * 4, words.iter().map(|w| u32::from_ne_bytes(*w)));
        self.rules_written += new.len();
        let mut index = Vec::with_capacity(table.pages() * 2);
        for page in 0..table.pages() {
            // `struct prof_unwind_page`.
            let rows = table.page(page);
            let (segment, first) = match rows {
                [] => (0, 0),
                rows => {
                    self.place(rows.iter().map(|r| u32::from(r.pc_low) | u32::from(r.rule) << 16))?
                }
            };
            index.push(segment | first << 14);
            index.push(rows.len() as u32);
        }
        let pages = table.pages() as u32;
        let (segment, at) = self.place(index.into_iter())?;
        let place = file as usize * 4;
        self.tables.write(place + 1, [segment, at, pages].into_iter());
        let ready = if table.frame_pointers { abi::table::FP } else { abi::table::READY };
        self.say(file, ready);
        Ok(())
    }

    /// What there is of a file: [`abi::table`].
    pub fn say(&self, file: u32, state: u32) {
        // Last of all, and only then: the kernel half reads the state first.
        self.tables.store(file as usize * 4, state);
    }
}
