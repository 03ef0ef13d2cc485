//! What the process that reads a module says to the one that asked.
//!
//! A name may be as long as a file can make it; here it is cut, so that a module cannot
//! fill the memory of who asked.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;

use prof_model::stacks::Function;
use serde::Deserialize;
use serde::Serialize;

use crate::Named;
use crate::isolate::End;

/// Bytes that are taken for one module: half a million functions as they are.
pub(crate) const MAX_ANSWER: usize = 256 << 20;

/// Longest name; instances of C++ templates come close, and no person reads further.
const MAX_NAME: usize = 4096;

/// Most calls inlined into each other; compilers stop far below.
pub(crate) const MAX_INLINED: usize = 256;

#[derive(Debug, Serialize, Deserialize)]
struct Message {
    at: u32,
    functions: Vec<(String, Option<Vec<u8>>, Option<u32>)>,
    unnamed: Option<String>,
}

/// A name of no more than [`MAX_NAME`] bytes.
pub(crate) fn cut(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let end = (0..=MAX_NAME).rev().find(|i| name.is_char_boundary(*i)).unwrap_or(0);
    format!("{}…", &name[..end])
}

/// Sends names.
#[derive(Debug)]
pub(crate) struct Sender {
    pipe: File,
    waiting: Vec<u8>,
}

impl Sender {
    pub fn new(pipe: File) -> Self {
        Self { pipe, waiting: Vec::new() }
    }

    /// What the address at this place is called. Nobody is left to be told of a failure.
    pub fn send(&mut self, at: usize, named: Named) {
        let functions = named.functions.into_iter().map(|f| {
            let file = f.file.map(|p| {
                let bytes = p.as_os_str().as_bytes();
                bytes[..bytes.len().min(MAX_NAME)].to_vec()
            });
            (f.name, file, f.line)
        });
        let message = Message {
            at: u32::try_from(at).unwrap_or(u32::MAX),
            functions: functions.collect(),
            unnamed: named.unnamed,
        };
        if let Ok(bytes) = postcard::to_allocvec(&message) {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            self.waiting.extend_from_slice(&len.to_le_bytes());
            self.waiting.extend_from_slice(&bytes);
        }
    }

    /// What was sent until here is safe from what comes.
    pub fn flush(&mut self) {
        let _ = self.pipe.write_all(&self.waiting);
        self.waiting.clear();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Takes the names out of an answer; says why it is not a whole one.
pub(crate) fn take(mut answer: &[u8], named: &mut [Option<Named>], end: &End) -> Option<String> {
    while let Some((len, rest)) = answer.split_first_chunk() {
        let len = u32::from_le_bytes(*len) as usize;
        let Some((message, rest)) = rest.split_at_checked(len) else { break };
        let Ok(message) = postcard::from_bytes::<Message>(message) else { break };
        answer = rest;
        if let Some(slot) = named.get_mut(message.at as usize) {
            let functions = message.functions.into_iter().map(|(name, file, line)| {
                let file = file.map(|f| PathBuf::from(Path::new(OsStr::from_bytes(&f))));
                Function { name, file, line }
            });
            *slot = Some(Named { functions: functions.collect(), unnamed: message.unnamed });
        }
    }
    end.why()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(name: &str) -> Named {
        let file = Some("/a/b.c".into());
        Named {
            functions: vec![Function { name: name.into(), file, line: Some(3) }],
            unnamed: None,
        }
    }

    /// What a sender writes.
    fn written(send: impl FnOnce(&mut Sender)) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        send(&mut Sender::new(file.reopen().unwrap()));
        std::fs::read(file.path()).unwrap()
    }

    #[test]
    fn names_arrive_at_their_places() {
        let bytes = written(|s| {
            s.send(2, some("two"));
            s.send(0, Named::unnamed("no"));
            s.send(9, some("out of bounds"));
        });
        let mut named = vec![None; 3];
        assert_eq!(take(&bytes, &mut named, &End::Exit(0)), None);
        assert_eq!(named, [Some(Named::unnamed("no")), None, Some(some("two"))]);
    }

    #[test]
    fn an_answer_cut_anywhere_gives_what_is_whole() {
        let bytes = written(|s| {
            s.send(0, some("a"));
            s.send(1, some("b"));
        });
        for len in 0..bytes.len() {
            let mut named = vec![None; 2];
            take(&bytes[..len], &mut named, &End::Signal(9));
            assert_eq!(named[1], None, "cut at {len}");
            assert!(named[0].is_none() || named[0] == Some(some("a")), "cut at {len}");
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let name = cut(&"ä".repeat(5000));
        assert!(name.len() <= MAX_NAME + 3 && name.ends_with("ä…"), "{}", name.len());
    }
}
