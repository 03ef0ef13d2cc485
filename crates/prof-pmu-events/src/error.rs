//! What can go wrong.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no table, or no answer.
#[derive(Debug)]
pub enum Error {
    /// A file that says which CPU this is cannot be read.
    Read(PathBuf, io::Error),
    /// A file or a text that should say which CPU it is does not; its name or the
    /// text, and what is wrong.
    Cpu(String, String),
    /// The tables are damaged: the place, and what is wrong there.
    Damaged(String),
}

impl Error {
    pub(crate) fn damaged(place: &str, what: impl fmt::Display) -> Self {
        Self::Damaged(format!("{place}: {what}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => {
                write!(f, "cannot tell the CPU: {}: {error}", path.display())
            }
            Self::Cpu(origin, what) => write!(f, "cannot tell the CPU: {origin}: {what}"),
            Self::Damaged(what) => write!(f, "the table of vendor events is damaged: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(_, error) => Some(error),
            Self::Cpu(..) | Self::Damaged(_) => None,
        }
    }
}
