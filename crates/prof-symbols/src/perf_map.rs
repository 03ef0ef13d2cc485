//! Names of code that was made at run time, from `/tmp/perf-PID.map`.
//!
//! Lines of `START SIZE NAME`, start and size in hexadecimal, the name to the end of the
//! line. A JIT appends to it while it runs and reuses memory, so where ranges overlap
//! the later line is right. Whoever was profiled writes the file; a line that makes no
//! sense is passed over.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use prof_model::stacks::Function;

use crate::Named;
use crate::elf;
use crate::ranges::Ranges;
use crate::wire;

/// Most that is read of a file. Node.js writes some 10 MB for a large program.
const MAX_BYTES: u64 = 256 << 20;

/// Most lines that are taken; their ranges take some 100 bytes each while names are
/// looked up.
const MAX_LINES: usize = 2_000_000;

/// What `owner` or root has written about generated code; an error for what is of
/// somebody else, or no regular file.
pub fn check(file: &File, owner: u32) -> io::Result<()> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    match meta.uid() {
        0 => Ok(()),
        uid if uid == owner => Ok(()),
        uid => Err(io::Error::other(format!("it belongs to user {uid}"))),
    }
}

/// Reads a perf map that was opened, from its beginning, if [`check`] lets it.
pub fn read(file: &File, owner: u32) -> io::Result<Vec<u8>> {
    check(file, owner)?;
    let mut bytes = Vec::new();
    elf::reopen(file.as_fd())?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Lines, by what they are of.
#[derive(Debug)]
pub(crate) struct PerfMap<'a> {
    ranges: Ranges<&'a [u8]>,
}

impl<'a> PerfMap<'a> {
    /// Takes what makes sense.
    pub fn parse(bytes: &'a [u8]) -> Self {
        let mut ranges = Ranges::default();
        for line in bytes.split(|b| *b == b'\n').take(MAX_LINES) {
            if let Some((start, end, name)) = range(line) {
                ranges.insert(start, end, name);
            }
        }
        Self { ranges }
    }

    /// What an address is called.
    pub fn name(&self, address: u64) -> Named {
        let Some(name) = self.ranges.get(address) else {
            return Named::unnamed("no line of the perf map covers it");
        };
        let name = wire::cut(&String::from_utf8_lossy(name));
        Named { functions: vec![Function { name, file: None, line: None }], unnamed: None }
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
    fn of_somebody_else_it_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        std::fs::write(&path, "1 1 a\n").unwrap();
        let me = std::fs::metadata(&path).unwrap().uid();
        let map = File::open(&path).unwrap();
        // Each time from its beginning.
        assert_eq!(read(&map, me).unwrap(), b"1 1 a\n");
        assert_eq!(read(&map, me).unwrap(), b"1 1 a\n");
        assert_eq!(read(&map, me + 1).is_err(), me != 0);
        if me == 0 {
            std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
            assert!(read(&map, 1235).is_err());
            assert!(read(&map, 1234).is_ok());
        }
        assert!(read(&File::open("/dev/null").unwrap(), 0).is_err());
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
