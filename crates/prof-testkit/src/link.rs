//! A BPF program attached by a link that a file keeps.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::report::Facts;
use crate::sys;

/// `BPF_*` commands, and a type of program.
const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
const RAW_TRACEPOINT_OPEN: i32 = 17;
const RAW_TRACEPOINT: u32 = 17;

/// `r0 = 0; exit`
const INSNS: [u64; 2] = [0xb7, 0x95];

/// Of `union bpf_attr`, what a load needs.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log: [u64; 2],
    version_and_flags: u64,
    name: [u8; 16],
}

/// The same of the commands that take a string and a descriptor.
#[repr(C)]
struct Named {
    text: u64,
    fd: u32,
    pad: u32,
}

/// # Safety
///
/// What `attr` points to has to be there for the time of the call.
unsafe fn bpf<T>(name: &str, command: i32, attr: &T) -> Result<i32> {
    // SAFETY: the attr comes with its size; the caller vouches for the rest.
    let ret =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    match i32::try_from(ret) {
        Ok(ret) if ret >= 0 => Ok(ret),
        _ => Err(Error::last_os(name)),
    }
}

/// `bpf-pin PATH MS`
pub fn pin(mut args: Args) -> Result<()> {
    let path = args.path("PATH")?;
    let ms = args.number("MS")?;
    args.finish()?;
    let pinned = CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::new("a NUL"))?;
    let mut load = Load {
        kind: RAW_TRACEPOINT,
        insn_cnt: INSNS.len() as u32,
        insns: INSNS.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    load.name[..6].copy_from_slice(b"pinned");
    // SAFETY: instructions and licence are constants.
    let prog = unsafe { bpf("BPF_PROG_LOAD", PROG_LOAD, &load) }?;
    let attach = Named { text: c"sched_process_exit".as_ptr() as u64, fd: prog as u32, pad: 0 };
    // SAFETY: the name is a constant.
    let link = unsafe { bpf("BPF_RAW_TRACEPOINT_OPEN", RAW_TRACEPOINT_OPEN, &attach) }?;
    // SAFETY: a new descriptor that nobody else has.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let pin = Named { text: pinned.as_ptr() as u64, fd: link.as_raw_fd() as u32, pad: 0 };
    // SAFETY: the path lives as long as this function.
    unsafe { bpf("BPF_OBJ_PIN", OBJ_PIN, &pin) }?;
    drop(link);
    Facts::with_pid().print()?;
    sys::sleep_ns(ms * sys::NS_PER_MS);
    std::fs::remove_file(&path).map_err(|e| Error::io("unlink", &e))
}
