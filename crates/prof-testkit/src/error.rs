//! The one error type: a message for standard error.

use std::fmt;
use std::io;

/// A failure, already worded for the user.
#[derive(Debug)]
pub struct Error(String);

/// Shorthand used all over the program.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with its own wording.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// An I/O error together with what was being done.
    pub fn io(what: impl fmt::Display, source: &io::Error) -> Self {
        Self(format!("{what}: {source}"))
    }

    /// The current `errno` together with the call that set it.
    pub fn last_os(what: impl fmt::Display) -> Self {
        Self::io(what, &io::Error::last_os_error())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}
