//! BPF programs: attached by a link that a file keeps, by one to many places that is gone at
//! once, and put at a perf event.

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
const LINK_CREATE: i32 = 28;
const RAW_TRACEPOINT: u32 = 17;
const KPROBE: u32 = 2;
const PERF_EVENT: u32 = 7;

/// `enum bpf_attach_type`.
const TRACE_KPROBE_MULTI: u32 = 42;
const TRACE_UPROBE_MULTI: u32 = 48;

/// `BPF_F_KPROBE_MULTI_RETURN` and `BPF_F_UPROBE_MULTI_RETURN`.
const RETURN: u32 = 1;

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
    ifindex: u32,
    attach_kind: u32,
}

/// What a link to many functions needs.
#[repr(C)]
struct Kprobes {
    prog: u32,
    target: u32,
    kind: u32,
    flags: u32,
    multi_flags: u32,
    count: u32,
    names: u64,
    addresses: u64,
    cookies: u64,
}

/// The same of many places in a file.
#[repr(C)]
struct Uprobes {
    prog: u32,
    target: u32,
    kind: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    counters: u64,
    cookies: u64,
    count: u32,
    multi_flags: u32,
    pid: u32,
    pad: u32,
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

/// A program that does nothing.
fn load(kind: u32, attach_kind: u32, name: &[u8]) -> Result<OwnedFd> {
    let mut load = Load {
        kind,
        insn_cnt: INSNS.len() as u32,
        insns: INSNS.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        attach_kind,
        ..Load::default()
    };
    load.name[..name.len()].copy_from_slice(name);
    // SAFETY: instructions and licence are constants.
    let fd = unsafe { bpf("BPF_PROG_LOAD", PROG_LOAD, &load) }?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A program for samples of a perf event.
pub fn for_samples() -> Result<OwnedFd> {
    load(PERF_EVENT, 0, b"sampled")
}

/// `bpf-multi WHAT N`
pub fn multi(mut args: Args) -> Result<()> {
    let what = args.text("WHAT")?.to_string_lossy().into_owned();
    let n = args.number("N")?;
    args.finish()?;
    let multi_flags = if what.contains("ret") { RETURN } else { 0 };
    let mut facts = Facts::with_pid();
    let link = if what.starts_with('k') {
        let names = [c"bpf_fentry_test1".as_ptr(), c"bpf_fentry_test2".as_ptr()];
        let prog = load(KPROBE, TRACE_KPROBE_MULTI, b"multi")?;
        let attr = Kprobes {
            prog: prog.as_raw_fd() as u32,
            target: 0,
            kind: TRACE_KPROBE_MULTI,
            flags: 0,
            multi_flags,
            count: n.min(2) as u32,
            names: names.as_ptr() as u64,
            addresses: 0,
            cookies: 0,
        };
        // SAFETY: there are two names, and no more are asked for.
        unsafe { bpf("BPF_LINK_CREATE", LINK_CREATE, &attr) }
    } else {
        let offset = offset_of(multi as fn(Args) -> Result<()> as usize as u64)?;
        let offsets = [offset, offset_of(load as *const () as usize as u64)?];
        facts.add("offset", offset);
        let prog = load(KPROBE, TRACE_UPROBE_MULTI, b"multi")?;
        let attr = Uprobes {
            prog: prog.as_raw_fd() as u32,
            target: 0,
            kind: TRACE_UPROBE_MULTI,
            flags: 0,
            path: c"/proc/self/exe".as_ptr() as u64,
            offsets: offsets.as_ptr() as u64,
            counters: 0,
            cookies: 0,
            count: n.min(2) as u32,
            multi_flags,
            pid: if what.ends_with("-self") { std::process::id() } else { 0 },
            pad: 0,
        };
        // SAFETY: there are two offsets, and no more are asked for.
        unsafe { bpf("BPF_LINK_CREATE", LINK_CREATE, &attr) }
    }?;
    // SAFETY: a new descriptor that nobody else has.
    drop(unsafe { OwnedFd::from_raw_fd(link) });
    facts.print()
}

/// Where an address of this program's code is in its file.
fn offset_of(address: u64) -> Result<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| Error::io("maps", &e))?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let offset = |line: &str| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let at = hex(fields.nth(1)?)?;
        let (start, end) = (hex(start)?, hex(end)?);
        (start..end).contains(&address).then(|| address - start + at)
    };
    maps.lines().find_map(offset).ok_or_else(|| Error::new("code that is not mapped"))
}

/// `bpf-pin PATH MS`
pub fn pin(mut args: Args) -> Result<()> {
    let path = args.path("PATH")?;
    let ms = args.number("MS")?;
    args.finish()?;
    let pinned = CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::new("a NUL"))?;
    let prog = load(RAW_TRACEPOINT, 0, b"pinned")?;
    let fd = prog.as_raw_fd() as u32;
    let attach = Named { text: c"sched_process_exit".as_ptr() as u64, fd, pad: 0 };
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
