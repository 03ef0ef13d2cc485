//! The guest's console.

use std::io;
use std::io::Write;

/// Passes on the guest's console line by line, picking out what is meant for
/// us.
pub struct Console<'a> {
    marker: &'a str,
    line: Vec<u8>,
    /// The command's exit status, once it was printed.
    pub status: Option<i32>,
    /// The kernel's first message, if it panicked.
    pub panic: Option<String>,
}

impl<'a> Console<'a> {
    /// Nothing read yet.
    pub fn new(marker: &'a str) -> Self {
        Self { marker, line: Vec::new(), status: None, panic: None }
    }

    /// Takes what came, and passes on the lines that are complete.
    pub fn feed(&mut self, chunk: &[u8], out: &mut impl Write) -> io::Result<()> {
        for &byte in chunk {
            match byte {
                b'\r' => {}
                b'\n' => self.end_line(out)?,
                _ => self.line.push(byte),
            }
        }
        out.flush()
    }

    /// Prints a last line that the guest did not end.
    pub fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        if !self.line.is_empty() {
            self.end_line(out)?;
        }
        out.flush()
    }

    fn end_line(&mut self, out: &mut impl Write) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        if let Some((_, message)) = text.split_once("Kernel panic - not syncing: ") {
            // A panic within a panic must not hide the first one.
            self.panic.get_or_insert_with(|| message.to_owned());
        }
        // What follows the marker is the kernel's farewell.
        if self.status.is_some() {
            return Ok(());
        }
        // The command may have left its last line open, so the marker need not
        // be at the start of the line.
        let marker = self.marker.as_bytes();
        if let Some(at) = line.windows(marker.len()).position(|part| part == marker) {
            let status = String::from_utf8_lossy(&line[at + marker.len()..]);
            self.status = status.trim().parse().ok();
            line.truncate(at);
            if line.is_empty() {
                return Ok(());
            }
        }
        line.push(b'\n');
        out.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_hides_the_marker_line() {
        let mut out = Vec::new();
        let mut console = Console::new("mark");
        for chunk in ["one\r\ntw", "omark", " 3\r\n"] {
            console.feed(chunk.as_bytes(), &mut out).expect("a vector");
        }
        console.finish(&mut out).expect("a vector");
        assert_eq!(out, b"one\ntwo\n");
        assert_eq!(console.status, Some(3));
    }
}
