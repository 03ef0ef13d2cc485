//! The few `bpf(2)` and perf calls, each behind a safe function.

use std::ffi::CStr;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use libbpf_sys as bpf;
use perf_event_open_sys as perf;
use prof_events::Attr;
use rustix::thread::CapabilitySet;
use rustix::thread::CapabilitySets;

use crate::abi;
use crate::abi::Plain;
use crate::sampler::Rate;

fn check(ret: i32) -> io::Result<()> {
    if ret < 0 { Err(io::Error::from_raw_os_error(-ret)) } else { Ok(()) }
}

fn own(ret: i32) -> io::Result<OwnedFd> {
    check(ret)?;
    // SAFETY: libbpf returned it as a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(ret) })
}

/// Puts a value into a map. The types must have the sizes the map was made with.
pub fn map_update<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    // SAFETY: both point to values of the map's key and value size, which the
    // kernel reads during the call.
    check(unsafe {
        bpf::bpf_map_update_elem(
            map.as_raw_fd(),
            ptr::from_ref(key).cast(),
            ptr::from_ref(value).cast(),
            0,
        )
    })
}

/// Puts a value of any size into a map; `value` must be as large as the map's.
pub fn map_update_bytes<K: Plain>(map: BorrowedFd<'_>, key: &K, value: &[u8]) -> io::Result<()> {
    if value.len() < map_value_size(map)? {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the key has the map's key size, and the kernel reads as many bytes of the
    // value as the map's has, which it was just asked for.
    check(unsafe {
        bpf::bpf_map_update_elem(
            map.as_raw_fd(),
            ptr::from_ref(key).cast(),
            value.as_ptr().cast(),
            0,
        )
    })
}

/// Reads a value; `None` if the key is not there.
pub fn map_lookup<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut bytes = vec![0u8; size_of::<V>()];
    match map_lookup_bytes(map, key, &mut bytes) {
        Ok(()) => Ok(V::from_bytes(&bytes)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads a value of any size; `out` must be as large as the map's value (for a
/// per-CPU map: of all possible CPUs).
pub fn map_lookup_bytes<K: Plain>(map: BorrowedFd<'_>, key: &K, out: &mut [u8]) -> io::Result<()> {
    debug_assert!(map_value_size(map).is_ok_and(|n| n <= out.len()), "room for a value");
    // SAFETY: the key has the map's key size and the kernel writes at most the
    // map's value size, which the caller made `out` hold.
    check(unsafe {
        bpf::bpf_map_lookup_elem(
            map.as_raw_fd(),
            ptr::from_ref(key).cast(),
            out.as_mut_ptr().cast(),
        )
    })
}

/// Bytes of a value (for a per-CPU map: of one CPU).
pub fn map_value_size(map: BorrowedFd<'_>) -> io::Result<usize> {
    let mut info = bpf::bpf_map_info::default();
    let mut len = size_of::<bpf::bpf_map_info>() as u32;
    // SAFETY: the kernel writes at most `len` bytes of the struct, which is plain.
    check(unsafe { bpf::bpf_map_get_info_by_fd(map.as_raw_fd(), &mut info, &mut len) })?;
    Ok(info.value_size as usize)
}

/// Removes a key; no error if it is not there.
pub fn map_delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    // SAFETY: the key has the map's key size.
    match check(unsafe { bpf::bpf_map_delete_elem(map.as_raw_fd(), ptr::from_ref(key).cast()) }) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// The key after `key`, or the first; `None` at the end.
pub fn map_next_key<K: Plain>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    let mut next = vec![0u8; size_of::<K>()];
    let from = key.map_or(ptr::null(), |k| ptr::from_ref(k).cast());
    // SAFETY: `from` is null or a key; `next` has room for a key.
    match check(unsafe {
        bpf::bpf_map_get_next_key(map.as_raw_fd(), from, next.as_mut_ptr().cast())
    }) {
        Ok(()) => Ok(K::from_bytes(&next)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes a map; one of maps is shown an element.
pub fn map_create(
    kind: u32,
    name: &CStr,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let opts = bpf::bpf_map_create_opts {
        sz: size_of::<bpf::bpf_map_create_opts>() as u64,
        map_flags: flags,
        inner_map_fd: inner.map_or(0, |fd| fd.as_raw_fd() as u32),
        ..Default::default()
    };
    // SAFETY: the name ends in NUL and the options carry their own size.
    own(unsafe {
        bpf::bpf_map_create(kind, name.as_ptr(), key_size, value_size, max_entries, &opts)
    })
}

/// Makes a map constant for programs and user space.
pub fn map_freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes a descriptor only.
    check(unsafe { bpf::bpf_map_freeze(map.as_raw_fd()) })
}

/// Loads a program; on refusal the error carries the end of the verifier's log.
pub fn prog_load(
    kind: u32,
    name: &CStr,
    license: &CStr,
    insns: &[bpf::bpf_insn],
    expected_attach_type: u32,
    attach_btf_id: u32,
    sleepable: bool,
) -> io::Result<OwnedFd> {
    let mut opts = bpf::bpf_prog_load_opts {
        sz: size_of::<bpf::bpf_prog_load_opts>() as u64,
        expected_attach_type,
        attach_btf_id,
        prog_flags: if sleepable { bpf::BPF_F_SLEEPABLE } else { 0 },
        ..Default::default()
    };
    // SAFETY: name and licence end in NUL, the instructions are a slice with its
    // length, and the options carry their own size.
    own(unsafe {
        bpf::bpf_prog_load(
            kind,
            name.as_ptr(),
            license.as_ptr(),
            insns.as_ptr(),
            insns.len() as u64,
            &mut opts,
        )
    })
}

/// Attaches to a raw tracepoint; without a name, to the one a `tp_btf` program
/// was loaded for. Detached when the descriptor is closed.
pub fn raw_tracepoint_open(name: Option<&CStr>, prog: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let name = name.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: the name is null or ends in NUL.
    own(unsafe { bpf::bpf_raw_tracepoint_open(name, prog.as_raw_fd()) })
}

/// Runs a `syscall` program once, in this thread.
pub fn prog_run(prog: BorrowedFd<'_>) -> io::Result<()> {
    let mut opts = bpf::bpf_test_run_opts {
        sz: size_of::<bpf::bpf_test_run_opts>() as u64,
        ..Default::default()
    };
    // SAFETY: the options carry their own size and no buffers.
    check(unsafe { bpf::bpf_prog_test_run_opts(prog.as_raw_fd(), &mut opts) })
}

/// The same, of a program that is given something.
pub fn prog_run_with<T: Plain>(prog: BorrowedFd<'_>, given: &T) -> io::Result<()> {
    let mut opts = bpf::bpf_test_run_opts {
        sz: size_of::<bpf::bpf_test_run_opts>() as u64,
        ctx_in: ptr::from_ref(given).cast(),
        ctx_size_in: size_of::<T>() as u32,
        ..Default::default()
    };
    // SAFETY: the options carry their own size; `given` is there while they are used.
    check(unsafe { bpf::bpf_prog_test_run_opts(prog.as_raw_fd(), &mut opts) })?;
    if opts.retval != 0 {
        return Err(io::Error::from_raw_os_error((opts.retval as i32).wrapping_neg()));
    }
    Ok(())
}

/// An iterator over its program's objects: each read yields what it wrote.
pub fn iter_open(prog: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    iter_of(iter_link(prog)?.as_fd())
}

/// The link of an iterator, from which it can be begun several times.
pub fn iter_link(prog: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: null options are the defaults.
    own(unsafe { bpf::bpf_link_create(prog.as_raw_fd(), 0, bpf::BPF_TRACE_ITER, ptr::null()) })
}

/// Begins it.
pub fn iter_of(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: takes a descriptor only.
    own(unsafe { bpf::bpf_iter_create(link.as_raw_fd()) })
}

/// What the kernel says of a loaded program.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProgInfo {
    /// Time in it, ns; 0 unless statistics are on.
    pub run_time_ns: u64,
    /// Runs; 0 unless statistics are on.
    pub run_cnt: u64,
    /// Runs that the kernel skipped because the program was already running
    /// on that CPU.
    pub recursion_misses: u64,
    /// Instructions that the verifier walked.
    pub verified_insns: u32,
    /// BTF id of what it attaches to; 0 if it attaches by other means.
    pub attach_btf_id: u32,
}

/// Asks for it.
pub fn prog_info(prog: BorrowedFd<'_>) -> io::Result<ProgInfo> {
    let mut info = bpf::bpf_prog_info::default();
    let mut len = size_of::<bpf::bpf_prog_info>() as u32;
    // SAFETY: `info` is as large as `len` says and all its pointers are null.
    check(unsafe { bpf::bpf_prog_get_info_by_fd(prog.as_raw_fd(), &mut info, &mut len) })?;
    Ok(ProgInfo {
        run_time_ns: info.run_time_ns,
        run_cnt: info.run_cnt,
        recursion_misses: info.recursion_misses,
        verified_insns: info.verified_insns,
        attach_btf_id: info.attach_btf_id,
    })
}

/// Run-time statistics of all BPF programs are kept while the descriptor is open.
pub fn enable_stats() -> io::Result<OwnedFd> {
    // SAFETY: takes a number only.
    own(unsafe { bpf::bpf_enable_stats(bpf::BPF_STATS_RUN_TIME) })
}

/// What `perf_event_open` is asked for.
#[derive(Debug, Clone, Copy)]
pub struct PerfSpec {
    /// `perf_event_attr.type`.
    pub kind: u32,
    /// `perf_event_attr.config`.
    pub config: u64,
    /// Process, or -1 for all.
    pub pid: i32,
    /// CPU, or -1 for all.
    pub cpu: i32,
    /// Children are counted too.
    pub inherit: bool,
    /// Starts at the next exec.
    pub enable_on_exec: bool,
    /// User mode only.
    pub exclude_kernel: bool,
}

/// An event that is read as [`perf_read`] has it.
fn counting(kind: u32, config: u64) -> perf::bindings::perf_event_attr {
    perf::bindings::perf_event_attr {
        size: size_of::<perf::bindings::perf_event_attr>() as u32,
        type_: kind,
        config,
        read_format: u64::from(
            perf::bindings::PERF_FORMAT_TOTAL_TIME_ENABLED
                | perf::bindings::PERF_FORMAT_TOTAL_TIME_RUNNING,
        ),
        ..Default::default()
    }
}

/// Opens a counter.
pub fn perf_open(spec: &PerfSpec) -> io::Result<OwnedFd> {
    let mut attr = counting(spec.kind, spec.config);
    attr.set_inherit(spec.inherit.into());
    attr.set_disabled(spec.enable_on_exec.into());
    attr.set_enable_on_exec(spec.enable_on_exec.into());
    attr.set_exclude_kernel(spec.exclude_kernel.into());
    attr.set_exclude_hv(spec.exclude_kernel.into());
    open_attr(&mut attr, spec.pid, spec.cpu, None)
}

/// What a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Whatever runs on a CPU, from now on.
    Cpu(u32),
    /// The same, from when it is enabled on.
    CpuLater(u32),
    /// A process that has not executed yet, from its exec on, and its descendants.
    Command(u32),
}

/// Opens a counter, in the group of `leader` if there is one.
pub fn counter_open(
    attr: &Attr,
    of: Counted,
    leader: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let mut a = from_attr(attr);
    match of {
        Counted::Cpu(cpu) => open_attr(&mut a, -1, cpu as i32, leader),
        Counted::CpuLater(cpu) => {
            a.set_disabled(1);
            open_attr(&mut a, -1, cpu as i32, leader)
        }
        Counted::Command(pid) => {
            a.set_inherit(1);
            // A member of a group goes by its leader.
            a.set_disabled(u64::from(leader.is_none()));
            a.set_enable_on_exec(u64::from(leader.is_none()));
            open_attr(&mut a, pid as i32, -1, leader)
        }
    }
}

fn from_attr(attr: &Attr) -> perf::bindings::perf_event_attr {
    let mut a = counting(attr.type_, attr.config);
    a.bp_type = attr.bp_type;
    a.__bindgen_anon_3.config1 = attr.config1;
    a.__bindgen_anon_4.config2 = attr.config2;
    a.config3 = attr.config3;
    a.set_exclude_user(attr.exclude_user.into());
    a.set_exclude_kernel(attr.exclude_kernel.into());
    a.set_exclude_hv(attr.exclude_hv.into());
    a.set_exclude_idle(attr.exclude_idle.into());
    a.set_exclude_host(attr.exclude_host.into());
    a.set_exclude_guest(attr.exclude_guest.into());
    a.set_precise_ip(attr.precise_ip.into());
    a.set_pinned(attr.pinned.into());
    a.set_exclusive(attr.exclusive.into());
    a
}

/// Sets the filter of a tracepoint's counter.
pub fn set_filter(fd: BorrowedFd<'_>, filter: &str) -> io::Result<()> {
    let filter = CString::new(filter)?;
    let request = perf::bindings::SET_FILTER;
    // SAFETY: the filter ends in NUL and is copied within the call.
    if unsafe { libc::ioctl(fd.as_raw_fd(), request.into(), filter.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs a raw tracepoint's program on a CPU, which is interrupted for it.
pub fn prog_run_on(prog: BorrowedFd<'_>, cpu: u32) -> io::Result<()> {
    let mut opts = bpf::bpf_test_run_opts {
        sz: size_of::<bpf::bpf_test_run_opts>() as u64,
        flags: bpf::BPF_F_TEST_RUN_ON_CPU,
        cpu,
        ..Default::default()
    };
    // SAFETY: the options carry their size, and name no buffers.
    check(unsafe { bpf::bpf_prog_test_run_opts(prog.as_raw_fd(), &mut opts) })
}

fn open_attr(
    attr: &mut perf::bindings::perf_event_attr,
    pid: i32,
    cpu: i32,
    leader: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let flags = perf::bindings::PERF_FLAG_FD_CLOEXEC;
    let group = leader.map_or(-1, |l| l.as_raw_fd());
    // SAFETY: `attr` is a whole attribute that carries its size.
    let fd = unsafe { perf::perf_event_open(attr, pid, cpu, group, flags.into()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Value, time enabled and time running (ns) of a counter.
pub fn perf_read(fd: BorrowedFd<'_>) -> io::Result<[u64; 3]> {
    let mut buf = [0u8; 24];
    let n = rustix::io::read(fd, &mut buf)?;
    if n != buf.len() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "short read of a counter"));
    }
    let word = |i: usize| u64::from_ne_bytes(std::array::from_fn(|b| buf[i * 8 + b]));
    Ok([word(0), word(1), word(2)])
}

/// Attaches a program to the entry or the return of a kernel function. Detached
/// when the descriptor is closed.
pub fn kprobe_open(
    pmu_type: u32,
    function: &CStr,
    on_return: bool,
    retprobe_bit: u32,
    prog: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let mut attr = perf::bindings::perf_event_attr {
        size: size_of::<perf::bindings::perf_event_attr>() as u32,
        type_: pmu_type,
        config: if on_return { 1 << retprobe_bit } else { 0 },
        ..Default::default()
    };
    // config1 is the address of the function's name, config2 the offset in it.
    attr.__bindgen_anon_3.config1 = function.as_ptr() as u64;
    run_at(&mut attr, prog)
}

/// Attaches a program to a place in a file, in whichever process runs it. The semaphore
/// of the place, if it has one, is raised as long. Detached when the descriptor is
/// closed.
pub fn uprobe_open(
    pmu_type: u32,
    file: &CStr,
    offset: u64,
    semaphore_offset: u64,
    prog: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    // The kernel takes it in the upper half of `config`.
    if u32::try_from(semaphore_offset).is_err() {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut attr = perf::bindings::perf_event_attr {
        size: size_of::<perf::bindings::perf_event_attr>() as u32,
        type_: pmu_type,
        config: semaphore_offset << 32,
        ..Default::default()
    };
    // config1 is the address of the file's path, config2 the offset in it.
    attr.__bindgen_anon_3.config1 = file.as_ptr() as u64;
    attr.__bindgen_anon_4.config2 = offset;
    run_at(&mut attr, prog)
}

/// Attaches a program to places in a file, each with its semaphore, 0 for none, and with
/// a number that the program sees. Detached when the descriptor is closed.
pub fn uprobe_multi_open(
    file: &CStr,
    offsets: &[u64],
    semaphore_offsets: &[u64],
    cookies: &[u64],
    prog: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    if offsets.len() != semaphore_offsets.len() || offsets.len() != cookies.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut opts = bpf::bpf_link_create_opts {
        sz: size_of::<bpf::bpf_link_create_opts>() as u64,
        ..Default::default()
    };
    opts.__bindgen_anon_1.uprobe_multi = bpf::bpf_link_create_opts__bindgen_ty_1__bindgen_ty_3 {
        cnt: offsets.len() as u32,
        path: file.as_ptr(),
        offsets: offsets.as_ptr(),
        ref_ctr_offsets: semaphore_offsets.as_ptr(),
        cookies: cookies.as_ptr(),
        ..Default::default()
    };
    let how = bpf::BPF_TRACE_UPROBE_MULTI;
    // SAFETY: the path ends in NUL, the lists have `cnt` numbers each, which the kernel reads
    // during the call, and the options carry their own size.
    own(unsafe { bpf::bpf_link_create(prog.as_raw_fd(), 0, how, &opts) })
}

/// Attaches a program to a tracepoint, by its id: it runs on all CPUs. Detached when the
/// descriptor is closed.
pub fn tracepoint_open(id: u64, prog: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = perf::bindings::perf_event_attr {
        size: size_of::<perf::bindings::perf_event_attr>() as u32,
        type_: perf::bindings::PERF_TYPE_TRACEPOINT,
        config: id,
        ..Default::default()
    };
    run_at(&mut attr, prog)
}

/// The BPF link of this id.
pub fn link_of(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes a number only.
    own(unsafe { bpf::bpf_link_get_fd_by_id(id) })
}

/// Whether it is for lack of rights, or a lock, that the kernel refused. EPERM; or of a file
/// EACCES, which of a program is the verifier's word and has no errno in its error.
pub fn is_refusal(e: &anyhow::Error) -> bool {
    let errno = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        io.or_else(|| cause.downcast_ref::<rustix::io::Errno>().map(|e| e.raw_os_error()))
    };
    e.chain().filter_map(errno).any(|n| n == libc::EPERM || n == libc::EACCES)
}

/// Whether there is a BPF link of this id.
pub fn has_link(id: u32) -> bool {
    !matches!(link_of(id), Err(e) if e.raw_os_error() == Some(libc::ENOENT))
}

/// Has a program run where a probe's event is.
fn run_at(attr: &mut perf::bindings::perf_event_attr, prog: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fd = open_attr(attr, -1, 0, None)?;
    set_bpf(fd.as_fd(), prog)?;
    Ok(fd)
}

/// The kernel half's count of table entries by the low bits of a tgid. An entry that
/// user space puts in is seen by the hooks only if it is counted here first.
#[derive(Debug)]
pub struct Occupied {
    counts: Words,
}

impl Occupied {
    /// Maps it.
    pub fn new(map: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { counts: Words::new(map, abi::OCCUPIED)? })
    }

    /// Counts an entry that is about to be put in.
    pub fn add(&self, tgid: u32) {
        let at = tgid as usize % abi::OCCUPIED;
        if let Some(count) = self.counts.words().get(at) {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A mapping that is given back when dropped.
#[derive(Debug)]
pub struct Mapping {
    at: ptr::NonNull<libc::c_void>,
    bytes: usize,
}

// SAFETY: an address range of the process; whoever reads or writes it does so by atomic
// operations.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(
        fd: BorrowedFd<'_>,
        bytes: usize,
        prot: rustix::mm::ProtFlags,
        flags: rustix::mm::MapFlags,
    ) -> io::Result<Self> {
        // SAFETY: a new mapping, which overlaps nothing.
        let at = unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, prot, flags, fd, 0)? };
        let at = ptr::NonNull::new(at).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { at, bytes })
    }

    /// The first page of a file, to be seen and not to be read: it may be cut at any time.
    pub fn executable(file: &std::fs::File) -> io::Result<Self> {
        use rustix::mm::ProtFlags;
        let prot = ProtFlags::READ | ProtFlags::EXEC;
        Self::new(file.as_fd(), rustix::param::page_size(), prot, rustix::mm::MapFlags::PRIVATE)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; what borrows from it is gone.
        let _ = unsafe { rustix::mm::munmap(self.at.as_ptr(), self.bytes) };
    }
}

/// A map whose values are shared with the kernel half, as 32-bit words.
#[derive(Debug)]
pub struct Words {
    map: Mapping,
    len: usize,
}

impl Words {
    /// Maps the first `len` words of a map that was made to be mapped.
    pub fn new(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        use rustix::mm::ProtFlags;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let map = Mapping::new(map, len * 4, prot, rustix::mm::MapFlags::SHARED)?;
        Ok(Self { map, len })
    }

    fn words(&self) -> &[AtomicU32] {
        // SAFETY: the mapping has this length, is aligned to a page, lives as long as
        // this, and is changed by atomic operations or by the kernel half only.
        unsafe { std::slice::from_raw_parts(self.map.at.as_ptr().cast(), self.len) }
    }

    /// Writes words from a place on; what is behind the end is left out.
    pub fn write(&self, from: usize, words: impl Iterator<Item = u32>) {
        for (to, word) in self.words().iter().skip(from).zip(words) {
            to.store(word, Ordering::Relaxed);
        }
    }

    /// One word.
    pub fn load(&self, at: usize) -> u32 {
        self.words().get(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Writes one word, behind all that was written before.
    pub fn store(&self, at: usize, word: u32) {
        if let Some(to) = self.words().get(at) {
            to.store(word, Ordering::Release);
        }
    }
}

/// Opens an event on a CPU, whose overflow runs a program, which gets the cookie. The
/// event, and what attaches the program to it.
pub fn sampling_open(
    attr: &Attr,
    rate: Rate,
    cpu: u32,
    prog: BorrowedFd<'_>,
    cookie: u64,
) -> io::Result<[OwnedFd; 2]> {
    let mut a = from_attr(attr);
    match rate {
        Rate::Hz(hz) => {
            a.set_freq(1);
            a.__bindgen_anon_1.sample_freq = hz;
        }
        Rate::Period(n) => a.__bindgen_anon_1.sample_period = n,
    }
    a.set_disabled(1);
    let event = open_attr(&mut a, -1, cpu as i32, None)?;
    let link = link_perf_event(event.as_fd(), prog, cookie)?;
    enable(event.as_fd())?;
    Ok([event, link])
}

/// Has a program run at each hit of a tracepoint, on all CPUs, as long as both are open: an
/// event of it, which counts nothing, and what attaches the program to it.
pub fn tracepoint_attach(
    attr: &Attr,
    cpu: u32,
    prog: BorrowedFd<'_>,
    cookie: u64,
) -> io::Result<[OwnedFd; 2]> {
    let mut a = from_attr(attr);
    a.set_disabled(1);
    let event = open_attr(&mut a, -1, cpu as i32, None)?;
    let link = link_perf_event(event.as_fd(), prog, cookie)?;
    Ok([event, link])
}

fn link_perf_event(
    event: BorrowedFd<'_>,
    prog: BorrowedFd<'_>,
    cookie: u64,
) -> io::Result<OwnedFd> {
    let mut opts = bpf::bpf_link_create_opts {
        sz: size_of::<bpf::bpf_link_create_opts>() as u64,
        ..Default::default()
    };
    opts.__bindgen_anon_1.perf_event =
        bpf::bpf_link_create_opts__bindgen_ty_1__bindgen_ty_1 { bpf_cookie: cookie };
    let (prog, event) = (prog.as_raw_fd(), event.as_raw_fd());
    // SAFETY: the descriptors are open, and the options carry their own size.
    own(unsafe { bpf::bpf_link_create(prog, event, bpf::BPF_PERF_EVENT, &opts) })
}

/// Attaches a program to an event and switches the event on.
fn set_bpf(event: BorrowedFd<'_>, prog: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptors are open; SET_BPF takes the program's by value.
    let set =
        unsafe { libc::ioctl(event.as_raw_fd(), perf::bindings::SET_BPF.into(), prog.as_raw_fd()) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    enable(event)
}

/// Switches an event on that was opened to count later.
pub fn enable(event: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no argument.
    if unsafe { libc::ioctl(event.as_raw_fd(), perf::bindings::ENABLE.into(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Reads records of a BPF ring buffer.
pub struct Ring {
    raw: ptr::NonNull<bpf::ring_buffer>,
    sink: Box<Sink>,
}

/// Where the callback of libbpf puts records: it runs inside `consume` only.
#[derive(Default)]
struct Sink {
    records: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("waiting", &self.sink.records.len()).finish()
    }
}

// SAFETY: the ring belongs to whoever has this, a thread at a time, and libbpf keeps
// nothing of it in the thread that made it.
unsafe impl Send for Ring {}

unsafe extern "C" fn push(ctx: *mut libc::c_void, data: *mut libc::c_void, size: u64) -> i32 {
    // SAFETY: `ctx` is the boxed Sink that Ring keeps alive and lends to nobody
    // while it consumes; `data` is `size` bytes of the ring, valid in the call.
    let (sink, bytes) = unsafe {
        (&mut *ctx.cast::<Sink>(), std::slice::from_raw_parts(data.cast::<u8>(), size as usize))
    };
    sink.records.push(bytes.to_vec());
    // Any error ends the round: the caller gets its batch before memory grows.
    if sink.records.len() >= Ring::BATCH { -libc::EINTR } else { 0 }
}

impl Ring {
    /// Most records copied out at once.
    const BATCH: usize = 4096;

    /// Opens the ring buffer map for reading.
    pub fn new(map: BorrowedFd<'_>) -> io::Result<Self> {
        let mut sink = Box::<Sink>::default();
        let ctx = ptr::from_mut(&mut *sink).cast();
        // SAFETY: the callback matches the type, and `ctx` lives as long as the
        // ring: both are owned by the result and the ring is freed first.
        let raw = unsafe { bpf::ring_buffer__new(map.as_raw_fd(), Some(push), ctx, ptr::null()) };
        let raw = ptr::NonNull::new(raw).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { raw, sink })
    }

    /// The records waiting, at most a batch; an empty list when there are none.
    pub fn consume(&mut self) -> io::Result<Vec<Vec<u8>>> {
        // SAFETY: the ring is live; the callback writes to the sink only.
        let n = unsafe { bpf::ring_buffer__consume(self.raw.as_ptr()) };
        if n < 0 && n != -libc::EINTR {
            return Err(io::Error::from_raw_os_error(-n));
        }
        Ok(std::mem::take(&mut self.sink.records))
    }

    /// How far it has been written, and how far it has been read. A record that is still being
    /// written holds up those behind it, which may be whole.
    pub fn positions(&self) -> (u64, u64) {
        // SAFETY: the ring is live, and has this one map.
        let ring = unsafe { bpf::ring_buffer__ring(self.raw.as_ptr(), 0) };
        if ring.is_null() {
            return (0, 0);
        }
        // SAFETY: part of the ring, which is live.
        let written = unsafe { bpf::ring__producer_pos(ring) };
        // SAFETY: as above.
        let read = unsafe { bpf::ring__consumer_pos(ring) };
        (written, read)
    }

    /// Readable when the kernel half asks for attention.
    pub fn as_epoll_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring is live, and its descriptor is open as long as it is.
        unsafe { BorrowedFd::borrow_raw(bpf::ring_buffer__epoll_fd(self.raw.as_ptr())) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: made by ring_buffer__new and freed once.
        unsafe { bpf::ring_buffer__free(self.raw.as_ptr()) }
    }
}

/// Reads a descriptor to its end.
pub fn read_all(fd: impl AsFd) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut buf = vec![0u8; 64 * 1024];
    loop {
        match rustix::io::read(&fd, &mut buf[..]) {
            Ok(0) => return Ok(out),
            Ok(n) => out.extend_from_slice(&buf[..n]),
            Err(e) if e == rustix::io::Errno::INTR || e == rustix::io::Errno::AGAIN => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Whether the kernel gave this program more rights than its user has (file
/// capabilities, set-user-id): then the environment is not to be trusted.
pub fn is_secure_exec() -> bool {
    // SAFETY: takes a number and touches no memory of ours.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Does what only the user's own rights are for, such as to read a file that the user names:
/// without the capabilities that came with the file of the program.
pub fn as_the_user<T>(f: impl FnOnce() -> T) -> T {
    if !is_secure_exec() {
        return f();
    }
    let Ok(all) = rustix::thread::capabilities(None) else { return f() };
    let none = CapabilitySets { effective: CapabilitySet::empty(), ..all };
    let lowered = rustix::thread::set_capabilities(None, none).is_ok();
    let done = f();
    if lowered {
        // What is permitted may be made effective again.
        let _ = rustix::thread::set_capabilities(None, all);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_known_by_its_errno_wherever_it_stands() {
        let of = |errno| anyhow::Error::new(io::Error::from_raw_os_error(errno)).context("x");
        assert!(is_refusal(&of(libc::EPERM)) && is_refusal(&of(libc::EACCES)));
        assert!(!is_refusal(&of(libc::ENOENT)));
        assert!(is_refusal(&anyhow::Error::new(rustix::io::Errno::PERM).context("x")));
        assert!(!is_refusal(&anyhow::anyhow!("no (os error 1)")));
    }
}
