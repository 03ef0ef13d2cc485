//! Names of code that was made at run time, from `/tmp/perf-PID.map`.
//!
//! Lines of `START SIZE NAME`, start and size in hexadecimal, the name to the end of the
//! line. A JIT appends to it while it runs and reuses memory, so where ranges overlap
//! the later line is right. Whoever was profiled writes the file; a line that makes no
//! sense is passed over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use prof_model::stacks::Function;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::Named;
use crate::elf;
use crate::wire;

/// Most that is read of a file. Node.js writes some 10 MB for a large program.
const MAX_BYTES: u64 = 256 << 20;

/// Most lines that are taken; their ranges take some 100 bytes each while names are
/// looked up.
const MAX_LINES: usize = 2_000_000;

/// Reads a perf map, safely: a regular file, not a link, that belongs to `owner` or root.
pub fn read(path: &Path, owner: u32) -> io::Result<Vec<u8>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::open(path, flags, Mode::empty())?;
    let file: File = elf::reopen(place.as_fd())?;
    let uid = file.metadata()?.uid();
    if uid != owner && uid != 0 {
        return Err(io::Error::other(format!("it belongs to user {uid}")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Ranges, none of which overlap.
#[derive(Debug)]
pub(crate) struct PerfMap<'a> {
    /// From the start of each to its end and name.
    ranges: BTreeMap<u64, (u64, &'a [u8])>,
}

impl<'a> PerfMap<'a> {
    /// Takes what makes sense.
    pub fn parse(bytes: &'a [u8]) -> Self {
        let mut this = Self { ranges: BTreeMap::new() };
        for line in bytes.split(|b| *b == b'\n').take(MAX_LINES) {
            if let Some((start, end, name)) = range(line) {
                this.insert(start, end, name);
            }
        }
        this
    }

    /// Puts a range over what is there.
    fn insert(&mut self, start: u64, end: u64, name: &'a [u8]) {
        if let Some((_, (before_end, before_name))) = self.ranges.range_mut(..start).next_back()
            && *before_end > start
        {
            let (rest_end, rest_name) = (*before_end, *before_name);
            *before_end = start;
            if rest_end > end {
                self.ranges.insert(end, (rest_end, rest_name));
            }
        }
        while let Some((at, (rest_end, rest_name))) =
            self.ranges.range(start..end).next().map(|(at, rest)| (*at, *rest))
        {
            self.ranges.remove(&at);
            if rest_end > end {
                self.ranges.insert(end, (rest_end, rest_name));
            }
        }
        self.ranges.insert(start, (end, name));
    }

    /// What an address is called.
    pub fn name(&self, address: u64) -> Named {
        match self.ranges.range(..=address).next_back() {
            Some((_, (end, name))) if address < *end => {
                let name = wire::cut(&String::from_utf8_lossy(name));
                Named { functions: vec![Function { name, file: None, line: None }], unnamed: None }
            }
            _ => Named::unnamed("no line of the perf map covers it"),
        }
    }
}

fn range(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut fields = line.splitn(3, |b| *b == b' ');
    let mut number = || {
        let digits = str::from_utf8(fields.next()?).ok()?;
        let digits = digits.strip_prefix("0x").unwrap_or(digits);
        // `from_str_radix` takes a sign.
        let digits = digits.starts_with(|c: char| c.is_ascii_hexdigit()).then_some(digits)?;
        u64::from_str_radix(digits, 16).ok()
    };
    let (start, size) = (number()?, number()?);
    let name = fields.next()?.trim_ascii();
    let end = start.checked_add(size)?;
    (size > 0 && !name.is_empty()).then_some((start, end, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(map: &[u8], at: &[u64]) -> Vec<String> {
        let map = PerfMap::parse(map);
        at.iter()
            .map(|a| map.name(*a).functions.first().map_or("-".into(), |f| f.name.clone()))
            .collect()
    }

    #[test]
    fn lines_are_ranges() {
        let map = b"1000 10 first\n0x1010 0x8 LazyCompile:~a b.js:3\n2000 4 last";
        let at = [0xfff, 0x1000, 0x100f, 0x1010, 0x1017, 0x1018, 0x2003, 0x2004];
        let js = "LazyCompile:~a b.js:3";
        assert_eq!(names(map, &at), ["-", "first", "first", js, js, "-", "last", "-"]);
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over() {
        let map = b"\n1000\n1000 10\n1000 10 \nx 10 a\n-1000 10 a\n1000 -10 a\n+1000 10 a\n\
            1000 0 empty\nffffffffffffffff 10 over\n10000000000000000 1 long\n1000 10 right\n\
            \x00 \x00 \x00\n1 1 \xff\xfe";
        assert_eq!(names(map, &[0x1000, 0x1]), ["right", "\u{fffd}\u{fffd}"]);
        assert_eq!(names(map, &[0, u64::MAX, 0x100f, 0x1010]), ["-", "-", "right", "-"]);
    }

    #[test]
    fn a_gigantic_range_is_below_what_comes_later() {
        let map = b"0 ffffffffffffffff all\n1000 10 inner\n";
        assert_eq!(names(map, &[5, 0x1005, 0x2000]), ["all", "inner", "all"]);
    }

    #[test]
    fn a_line_may_be_as_long_as_the_file() {
        let mut map = b"1000 10 ".to_vec();
        map.resize(10 << 20, b'x');
        assert!(names(&map, &[0x1000])[0].len() < 5000);
    }

    #[test]
    fn of_somebody_else_or_behind_a_link_it_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let (map, link) = (dir.path().join("map"), dir.path().join("link"));
        std::fs::write(&map, "1 1 a\n").unwrap();
        std::os::unix::fs::symlink(&map, &link).unwrap();
        let me = std::fs::metadata(&map).unwrap().uid();
        assert_eq!(read(&map, me).unwrap(), b"1 1 a\n");
        assert!(read(&link, me).is_err());
        assert_eq!(read(&map, me + 1).is_err(), me != 0);
        let fifo = dir.path().join("fifo");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(read(&fifo, me).is_err());
    }

    proptest! {
        /// Later lines cover earlier ones, as if each address had been written in turn.
        #[test]
        fn the_later_line_wins(lines in prop::collection::vec((0_u64..64, 0_u64..40), 0..30)) {
            let mut plain = vec!["-".to_owned(); 128];
            let mut map = String::new();
            for (i, (start, size)) in lines.iter().enumerate() {
                map += &format!("{start:x} {size:x} f{i}\n");
                plain[*start as usize..(start + size) as usize].fill(format!("f{i}"));
            }
            let at: Vec<u64> = (0..128).collect();
            prop_assert_eq!(names(map.as_bytes(), &at), plain);
        }

        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>, at: u64) {
            PerfMap::parse(&bytes).name(at);
        }
    }
}
