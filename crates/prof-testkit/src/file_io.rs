//! File reads and writes of known size.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::report::Facts;

const CHUNK: usize = 64 * 1024;

/// `io READ_BYTES WRITE_BYTES PATH [--fsync] [--cold]`
pub fn io(mut args: Args) -> Result<()> {
    let cold = args.flag("--cold");
    let fsync = args.flag("--fsync") || cold;
    let to_read = args.number("READ_BYTES")?;
    let to_write = args.number("WRITE_BYTES")?;
    let path = args.path("PATH")?;
    args.finish()?;

    let named = |error: std::io::Error| Error::io(path.display(), &error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(named)?;
    let mut buffer = vec![b'p'; CHUNK];

    let write_calls = write_total(&mut file, &buffer, to_write).map_err(named)?;
    let mut length = file.metadata().map_err(named)?.len();
    if length == 0 && to_read > 0 {
        // Nothing to read: make a hole, since no further write is to be counted.
        file.set_len(to_read).map_err(named)?;
        length = to_read;
    }
    if fsync {
        file.sync_all().map_err(named)?;
    }
    if cold {
        // SAFETY: the descriptor is open; length 0 stands for the whole file.
        let error =
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        if error != 0 {
            return Err(named(std::io::Error::from_raw_os_error(error)));
        }
    }
    let read_calls = read_total(&mut file, &mut buffer, to_read, length).map_err(named)?;

    let mut facts = Facts::with_pid();
    facts.add("read_bytes", to_read);
    facts.add("read_calls", read_calls);
    facts.add("write_bytes", to_write);
    facts.add("write_calls", write_calls);
    facts.add_proc_io();
    facts.add_rusage()?;
    facts.print()
}

fn part(left: u64) -> usize {
    usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))
}

/// Writes `total` bytes from the start of the file; returns the number of calls.
fn write_total(file: &mut File, buffer: &[u8], total: u64) -> std::io::Result<u64> {
    let mut left = total;
    let mut calls = 0;
    while left > 0 {
        let written = file.write(&buffer[..part(left)])?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        left -= written as u64;
        calls += 1;
    }
    Ok(calls)
}

/// Reads `total` bytes of a file of `length`, from its start and over again, never hitting the
/// end of file; returns the number of calls.
fn read_total(file: &mut File, buffer: &mut [u8], total: u64, length: u64) -> std::io::Result<u64> {
    let mut left = total;
    let mut position = length;
    let mut calls = 0;
    while left > 0 {
        if position >= length {
            file.rewind()?;
            position = 0;
        }
        let read = file.read(&mut buffer[..part(left.min(length - position))])? as u64;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        left -= read;
        position += read;
        calls += 1;
    }
    Ok(calls)
}
