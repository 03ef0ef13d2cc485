//! Bytes from a hostile target made fit to be shown, and help with errors.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;

/// Bytes as valid UTF-8 for JSON: what is not UTF-8, and the backslash itself,
/// becomes `\xHH`, so that the bytes can be had back. Control characters stay:
/// JSON escapes them itself.
pub fn for_json(bytes: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(bytes) {
        // Nearly all.
        Ok(text) if !bytes.contains(&b'\\') => text.into(),
        _ => escape(bytes, |c| c == '\\').into(),
    }
}

/// Bytes for a terminal: as for JSON, and no control character, no character
/// that hides or reorders what stands beside it.
pub fn for_terminal(bytes: &[u8]) -> String {
    escape(bytes, |c| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    })
}

fn escape(bytes: &[u8], also: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if also(c) {
                let mut buf = [0; 4];
                push_hex(&mut out, c.encode_utf8(&mut buf).as_bytes());
            } else {
                out.push(c);
            }
        }
        push_hex(&mut out, chunk.invalid());
    }
    out
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for b in bytes {
        // Writing to a String does not fail.
        let _ = write!(out, "\\x{b:02x}");
    }
}

/// `message`, the text, and carets under `len` bytes of it from `at`.
pub fn caret(
    f: &mut fmt::Formatter<'_>,
    message: &str,
    text: &str,
    at: usize,
    len: usize,
) -> fmt::Result {
    // As wide as it is shown: a tab, say, becomes four characters.
    let width = |s: &str| for_terminal(s.as_bytes()).chars().count();
    let before = text.get(..at).map_or(at, width);
    let under = text.get(at..at + len).map_or(len, width).max(1);
    let shown = for_terminal(text.as_bytes());
    write!(f, "{message}\n  {shown}\n  {}{}", " ".repeat(before), "^".repeat(under))
}

/// Edits between two words (Levenshtein), to find what was perhaps meant.
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_utf8_can_be_had_back() {
        assert_eq!(for_json(b"a\xffb"), "a\\xffb");
        assert_eq!(for_json(b"a\\b"), "a\\x5cb");
        assert_eq!(for_json("é".as_bytes()), "é");
    }

    #[test]
    fn a_terminal_gets_no_control_characters() {
        assert_eq!(for_terminal(b"a\x1b[31mb\n"), "a\\x1b[31mb\\x0a");
        assert_eq!(for_terminal("a\u{202e}b".as_bytes()), "a\\xe2\\x80\\xaeb");
    }

    #[test]
    fn carets_stand_under_what_is_shown() {
        struct Bad;
        impl fmt::Display for Bad {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                caret(f, "bad", "ü\tx y", 3, 1)
            }
        }
        assert_eq!(Bad.to_string(), "bad\n  ü\\x09x y\n       ^");
    }

    #[test]
    fn distances() {
        assert_eq!(distance("page-falts", "page-faults"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
