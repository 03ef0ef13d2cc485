//! What is said to people, on standard error. That may be full or gone, which ends neither
//! prof nor what it measures.

use std::fmt;
use std::io;
use std::io::Write as _;

/// As `eprintln!`, but for that.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// A line.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// What an error says, without what a library has written of it below.
pub(crate) fn first_line(e: &anyhow::Error) -> String {
    let text = format!("{e:#}");
    text.lines().next().unwrap_or_default().to_owned()
}

/// Text without an end of line, at once.
pub(crate) fn part(text: fmt::Arguments<'_>) {
    let mut to = io::stderr().lock();
    let _ = write!(to, "{text}").and_then(|()| to.flush());
}
