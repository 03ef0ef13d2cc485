//! What can go wrong.

use std::error;
use std::fmt;
use std::io;

/// Why there is no table of a file.
#[derive(Debug)]
pub enum Error {
    /// It cannot be read.
    Io(io::Error),
    /// It does not begin as an ELF file does.
    NotElf,
    /// It is an ELF file of 32 bits.
    Class,
    /// It is an ELF file of the other byte order.
    BigEndian,
    /// It is for a machine, by its number, that there are no rules for.
    Machine(u16),
    /// It is neither a program nor a shared library: an object file, a core.
    Kind(u16),
    /// It ends in the middle of this.
    Truncated(&'static str),
    /// It has more of this than the limit.
    TooMuch(&'static str, u64),
    /// It is not as an ELF file is.
    Malformed(&'static str),
    /// Nothing in it says how to unwind, and why that is thought.
    NoCfi(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => write!(f, "cannot read it: {e}"),
            Self::NotElf => f.write_str("it is not an ELF file"),
            Self::Class => f.write_str("it is an ELF file of 32 bits, not of 64"),
            Self::BigEndian => f.write_str("it is a big-endian ELF file"),
            Self::Machine(n) => {
                write!(f, "it is for machine {n}; there are rules for x86-64 (62) and arm64 (183)")
            }
            Self::Kind(n) => {
                write!(f, "it is neither a program nor a shared library (ELF type {n})")
            }
            Self::Truncated(what) => write!(f, "the file ends before its {what} do"),
            Self::TooMuch(what, limit) => {
                write!(f, "the file has more {what} than are looked at ({limit})")
            }
            Self::Malformed(what) => write!(f, "the file is damaged: {what}"),
            Self::NoCfi(why) => write!(f, "the file does not say how to unwind: {why}"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io(e) => Some(e),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}
