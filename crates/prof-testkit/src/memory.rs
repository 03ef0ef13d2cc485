//! Page faults and resident memory.

use std::ptr;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::report::Facts;
use crate::sys;

/// `faults N`
pub fn faults(mut args: Args) -> Result<()> {
    let pages = args.number("N")?;
    args.finish()?;
    let map = Map::new(pages.checked_mul(page_size()? as u64))?;
    let before = sys::rusage_self()?.ru_minflt;
    map.touch();
    let after = sys::rusage_self()?.ru_minflt;
    let mut facts = Facts::with_pid();
    facts.add("pages", pages);
    facts.add("minflt_before", before);
    facts.add("minflt_after", after);
    facts.add_rusage()?;
    facts.print()
}

/// `rss MIB [HOLD_MS]`
pub fn rss(mut args: Args) -> Result<()> {
    let mib = args.number("MIB")?;
    let hold = args.optional_number("HOLD_MS")?;
    args.finish()?;
    let bytes = mib.checked_mul(1 << 20);
    let map = Map::new(bytes)?;
    map.touch();
    if let Some(ms) = hold {
        sys::sleep_ns(ms.saturating_mul(sys::NS_PER_MS));
    }
    drop(map);
    let mut facts = Facts::with_pid();
    facts.add("touched_kib", mib << 10);
    facts.add_rusage()?;
    facts.print()
}

pub fn page_size() -> Result<usize> {
    // SAFETY: no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) })
        .map_err(|_| Error::last_os("sysconf"))
}

/// A private anonymous mapping in small pages.
pub struct Map {
    start: *mut u8,
    bytes: usize,
    page: usize,
}

impl Map {
    pub fn new(bytes: Option<u64>) -> Result<Self> {
        let bytes = bytes
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or_else(|| Error::new("size too large"))?;
        let page = page_size()?;
        if bytes == 0 {
            return Ok(Self { start: ptr::null_mut(), bytes, page });
        }
        // SAFETY: a new anonymous mapping wherever the kernel likes.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os("mmap"));
        }
        // One fault a page is wanted. Kernels without huge pages refuse this, rightly.
        // SAFETY: the range is the mapping just made.
        let _ = unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
        Ok(Self { start: start.cast(), bytes, page })
    }

    /// Writes to every page once.
    pub fn touch(&self) {
        for offset in (0..self.bytes).step_by(self.page) {
            // SAFETY: `offset` lies within the mapping.
            let at = unsafe { self.start.add(offset) };
            // SAFETY: `at` points into the mapping, which is writable and ours alone.
            unsafe { at.write_volatile(1) };
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.bytes != 0 {
            // SAFETY: the range is the mapping made by `new`, and nothing refers to it any more.
            unsafe { libc::munmap(self.start.cast(), self.bytes) };
        }
    }
}
