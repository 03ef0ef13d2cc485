//! What code objects are called. A record of each comes before the first stack that has it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::path::PathBuf;

use prof_model::stacks::Function;

use crate::abi::python::RecCode;

/// Code objects that are known at most, of all processes: what one makes without end is not.
const MAX_KNOWN: usize = 4_000_000;

/// Functions at most, some hundred bytes each; a large program has tens of thousands.
const MAX_FUNCTIONS: usize = 200_000;

/// Functions, each once, and which of them code objects are.
#[derive(Debug, Default)]
pub struct Names {
    /// By process and number.
    known: HashMap<(u32, u64), u32>,
    functions: Vec<Function>,
    places: HashMap<(PathBuf, String, u32), u32>,
}

impl Names {
    /// A code object was told of.
    pub fn learn(&mut self, rec: &RecCode) {
        if self.known.len() >= MAX_KNOWN {
            return;
        }
        let bytes = |all: &[u8], len: u16| all.get(..len.into()).unwrap_or_default().to_vec();
        let mut name = text(&bytes(&rec.name, rec.name_len), rec.name_kind);
        if rec.name_cut != 0 {
            name.push('…');
        }
        if name.is_empty() {
            return;
        }
        let mut path = path(&bytes(&rec.path, rec.path_len), rec.path_kind);
        if rec.path_cut != 0 {
            let mut cut = OsString::from("…");
            cut.push(path);
            path = cut.into();
        }
        let place = (path, name, rec.line);
        let next = self.functions.len() as u32;
        if self.functions.len() >= MAX_FUNCTIONS && !self.places.contains_key(&place) {
            return;
        }
        let functions = &mut self.functions;
        let at = *self.places.entry(place).or_insert_with_key(|(path, name, line)| {
            functions.push(function(path, name, *line));
            next
        });
        self.known.insert((rec.pid, rec.number), at);
    }

    /// The number and the names of the function that a code object is.
    pub fn of(&self, pid: u32, number: u64) -> Option<(u32, &Function)> {
        let at = *self.known.get(&(pid, number))?;
        Some((at, self.functions.get(at as usize)?))
    }
}

/// As people have it: `Class.method (file.py:12)`. Many functions have the same name, and
/// every file has a `<module>`.
fn function(path: &Path, name: &str, line: u32) -> Function {
    let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let line = (line > 0 && line < i32::MAX as u32).then_some(line);
    let at = line.map_or(String::new(), |line| format!(":{line}"));
    Function { name: format!("{name} ({file}{at})"), file: Some(path.to_owned()), line }
}

/// Characters of 1, 2 or 4 bytes; no text if of none.
fn characters(bytes: &[u8], kind: u8) -> impl Iterator<Item = u32> {
    let size = usize::from(kind).max(1);
    let none = kind == 0;
    bytes
        .chunks_exact(size)
        .filter(move |_| !none)
        .map(|c| c.iter().rev().fold(0, |word: u32, byte| word << 8 | u32::from(*byte)))
}

fn text(bytes: &[u8], kind: u8) -> String {
    let replaced = |c| char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER);
    characters(bytes, kind).map(replaced).collect()
}

/// A path has its bytes that are no text as halves of characters.
fn path(bytes: &[u8], kind: u8) -> PathBuf {
    let mut out = Vec::new();
    for c in characters(bytes, kind) {
        match c {
            0xdc80..=0xdcff => out.push(c as u8),
            c => {
                let c = char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Plain as _;
    use std::os::unix::ffi::OsStrExt as _;

    fn record(number: u64, name: (&[u8], u8), path: (&[u8], u8), line: u32) -> RecCode {
        let mut rec = RecCode::from_bytes(&[0; 440]).unwrap();
        (rec.number, rec.pid, rec.line) = (number, 7, line);
        rec.name[..name.0.len()].copy_from_slice(name.0);
        rec.path[..path.0.len()].copy_from_slice(path.0);
        (rec.name_len, rec.path_len) = (name.0.len() as u16, path.0.len() as u16);
        (rec.name_kind, rec.path_kind) = (name.1, path.1);
        rec
    }

    #[test]
    fn code_objects_of_all_kinds_of_text_have_their_names() {
        let mut names = Names::default();
        names.learn(&record(20, (b"A.f", 1), (b"/x/a.py", 1), 3));
        names.learn(&record(21, (b"A.f", 1), (b"/x/a.py", 1), 3));
        names.learn(&record(22, (&[0xfc], 1), (b"a.py", 1), 3));
        names.learn(&record(23, (&[0x42, 0x04, b'x', 0], 2), (b"b.py", 1), 1));
        names.learn(&record(24, (&[0x0d, 0xf4, 1, 0], 4), (&[b'y', 0, 0xff, 0xdc], 2), 0));
        let name = |number| names.of(7, number).map(|(_, f)| f.name.as_str());
        assert_eq!(name(20), Some("A.f (a.py:3)"));
        assert_eq!(names.of(7, 20).unwrap().0, names.of(7, 21).unwrap().0);
        assert_eq!(name(22), Some("ü (a.py:3)"));
        assert_eq!(name(23), Some("тx (b.py:1)"));
        let (_, last) = names.of(7, 24).unwrap();
        assert!(last.name.starts_with("🐍 (y"), "{}", last.name);
        assert_eq!(last.file.as_ref().unwrap().as_os_str().as_bytes(), b"y\xff");
        assert_eq!((names.of(8, 20), name(25)), (None, None));
    }

    #[test]
    fn functions_without_end_are_not_kept() {
        let mut names = Names::default();
        for line in 1..=MAX_FUNCTIONS as u32 + 1 {
            names.learn(&record(line.into(), (b"f", 1), (b"x.py", 1), line));
        }
        assert_eq!(names.functions.len(), MAX_FUNCTIONS);
        assert!(names.of(7, MAX_FUNCTIONS as u64).is_some());
        assert!(names.of(7, MAX_FUNCTIONS as u64 + 1).is_none());
        // One that is known may be in further processes.
        names.learn(&RecCode { pid: 8, ..record(5, (b"f", 1), (b"x.py", 1), 5) });
        assert_eq!(names.of(8, 5).map(|(at, _)| at), names.of(7, 5).map(|(at, _)| at));
    }

    #[test]
    fn what_was_cut_says_so_and_what_could_not_be_read_has_no_name() {
        let mut names = Names::default();
        let mut cut = record(20, (b"abc", 1), (b"d/e.py", 1), 1);
        (cut.name_cut, cut.path_cut) = (1, 1);
        names.learn(&cut);
        let (_, f) = names.of(7, 20).unwrap();
        assert_eq!(
            (f.name.as_str(), f.file.as_deref()),
            ("abc… (e.py:1)", Some(Path::new("…d/e.py")))
        );
        names.learn(&record(21, (b"abc", 0), (b"e.py", 1), 1));
        assert_eq!(names.of(7, 21), None);
        let mut bad = record(22, (b"abc", 3), (b"e.py", 200), u32::MAX);
        (bad.name_len, bad.path_len) = (u16::MAX, 129);
        names.learn(&bad);
    }
}
