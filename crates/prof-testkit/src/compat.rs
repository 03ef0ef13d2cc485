//! System calls as 32-bit programs make them.

use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd};

use crate::error::{Error, Result};
use crate::perf::Attr;

/// Numbers of i386.
const CLOSE: u32 = 6;
const IOCTL: u32 = 54;
const PERF_EVENT_OPEN: u32 = 336;

/// A call. Where the kernel runs no 32-bit programs it is a SIGSEGV.
#[cfg(target_arch = "x86_64")]
fn call(name: &str, number: u32, args: [u32; 5]) -> Result<i32> {
    let mut ax = u64::from(number);
    // SAFETY: what these calls point to is theirs to read for as long as they take. The
    // compiler keeps rbx for itself, so it is given back.
    unsafe {
        std::arch::asm!(
            "xchg {bx}, rbx",
            "int 0x80",
            "xchg {bx}, rbx",
            bx = inout(reg) u64::from(args[0]) => _,
            inout("rax") ax,
            in("rcx") u64::from(args[1]),
            in("rdx") u64::from(args[2]),
            in("rsi") u64::from(args[3]),
            in("rdi") u64::from(args[4]),
            // Older kernels clear them.
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    match ax as i32 {
        ret @ -4095..0 => Err(Error::io(name, &std::io::Error::from_raw_os_error(-ret))),
        ret => Ok(ret),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn call(name: &str, _: u32, _: [u32; 5]) -> Result<i32> {
    Err(Error::new(format!("{name} as a 32-bit program: for x86 only")))
}

/// Where 32 bits reach.
#[cfg(target_arch = "x86_64")]
const LOW: i32 = libc::MAP_32BIT;
#[cfg(not(target_arch = "x86_64"))]
const LOW: i32 = 0;

/// Opens an event on this thread.
pub fn open(attr: Attr) -> Result<OwnedFd> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | LOW;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, wherever there is room.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    let low = u32::try_from(at as usize).map_err(|_| Error::new("no room below 4 GiB"))?;
    // SAFETY: the mapping is large enough, aligned, and nobody else's.
    unsafe { at.cast::<Attr>().write(attr) };
    // pid, cpu, group, flags.
    let fd = call("perf_event_open", PERF_EVENT_OPEN, [low, 0, u32::MAX, u32::MAX, 0])?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn ioctl(fd: &OwnedFd, request: u64) -> Result<()> {
    call("ioctl", IOCTL, [fd.as_raw_fd() as u32, request as u32, 0, 0, 0]).map(drop)
}

pub fn close(fd: OwnedFd) -> Result<()> {
    call("close", CLOSE, [fd.into_raw_fd() as u32, 0, 0, 0, 0]).map(drop)
}
