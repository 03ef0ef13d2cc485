//! Mirror of `bpf/include/prof_abi.h`: the layout of everything that crosses
//! from the kernel half, and the one decoder of its records.
//!
//! Sizes are asserted at compile time against the same numbers as in the
//! header. Bytes from the ring buffer are decoded without trust in their
//! length: a record that does not fit its own size is an [`DecodeError`].

use std::fmt;
use std::mem::size_of;

use prof_model::counters::Count;
use prof_model::figures::RawFigures;
use prof_model::record::Ident;

/// Longest comm, with its NUL.
pub const COMM_LEN: usize = 16;
/// Longest literal, prefix or suffix of a string rule, bytes.
pub const MAX_PATTERN: usize = 255;
/// CPUs whose scheduler clock can be read exactly.
pub const MAX_CPUS: usize = 1024;
/// Entries of `occupied`.
pub const OCCUPIED: usize = 32768;
/// Rule dimensions.
pub const NR_DIMS: usize = 12;
const CONTAINER_ID_LEN: usize = 64;
/// Names of regions are cut here, bytes.
pub const REGION_NAME: usize = 63;
const NR_FIGURES: usize = 14;

/// `enum prof_state`.
pub mod state {
    #![allow(missing_docs)]
    pub const ARMED: u32 = 0x1;
    pub const ATTACHING: u32 = 0x8;
    pub const ATTACHED: u32 = 0x10;
    pub const THREADS_UNKNOWN: u32 = 0x20;
}

/// `PROF_F_EXIT`.
pub const F_EXIT: u32 = 0x4;
/// `PROF_START_ATTACH`.
pub const START_ATTACH: u16 = 5;

/// `enum prof_iter_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum IterMode {
    /// Figures of every armed thread.
    Read = 0,
    /// Base lines of the processes in state `ATTACHING`.
    Attach = 1,
    /// Every process that a rule names, without arming it.
    List = 2,
    /// The attach is done.
    Attached = 3,
    /// What is armed is so no more, until it is resumed; tells whom.
    Pause = 4,
    /// Base lines of those.
    Resume = 5,
    /// They are armed again; tells whom.
    Resumed = 6,
}

/// `enum prof_counter`, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Counter {
    Execs = 0,
    Evaluated,
    Enabled,
    Disabled,
    LostMapFull,
    LostRingEnable,
    LostRingDisable,
    LostRingThread,
    Stale,
    ClockStale,
    Forks,
    DiedInExec,
    LostFollow,
    LostAttempt,
    LostCounts,
    CounterFailed,
    SliceMissed,
}

/// `PROF_USER_HOOKS`: which element of the per-CPU state holds the counters.
pub const USER_HOOKS: u32 = 0;

/// `enum prof_region_counter`, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RegionCounter {
    SwitchedOn = 0,
    MapFull,
    TooDeep,
    NoName,
    NotBegun,
    NotSwitched,
    LostRingOn,
    LostRingOff,
}

/// `PROF_NR_REGION_COUNTERS`.
pub const NR_REGION_COUNTERS: usize = 8;

/// `PROF_NR_COUNTERS`.
pub const NR_COUNTERS: usize = 18;
/// `PROF_MAX_COUNTERS`: perf events of a session.
pub const MAX_COUNTERS: usize = 32;

/// A type that is nothing but integers: any bytes of the right length are one.
///
/// # Safety
/// The type must be `repr(C)`, hold only integers and arrays of them, and have
/// no padding.
pub unsafe trait Plain: Copy + Sized {
    /// Reads a value from the front of `bytes`; `None` if they are too few.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, any bit pattern is a value of a Plain
        // type, and read_unaligned asks for no alignment.
        Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }

    /// The value as bytes, for a map.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: a Plain type has no padding, so all its bytes are initialised.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident = $size:expr => { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
        const _: () = assert!(size_of::<$name>() == $size);
        // The sum of the fields is the size: no padding.
        const _: () = assert!(0 $(+ size_of::<$ty>())* == $size);
        // SAFETY: integers and arrays of them only, and the assertion above
        // shows that there is no padding.
        unsafe impl Plain for $name {}
    )*};
}

pub mod attr;
pub mod audit;
pub mod python;
pub mod stacks;

plain! {
    /// `struct prof_ident`.
    AbiIdent = 64 => {
        start_ns: u64, cgroup_id: u64, pid: u32, tid: u32, ppid: u32, uid: u32, gid: u32,
        mntns: u32, pidns: u32, exec: u32, comm: [u8; COMM_LEN],
    }
    /// `struct prof_figures`.
    AbiFigures = 8 * NR_FIGURES => {
        task_clock: u64, utime: u64, stime: u64, min_flt: u64, maj_flt: u64, nvcsw: u64,
        nivcsw: u64, migrations: u64, run_delay: u64, rchar: u64, wchar: u64, read_bytes: u64,
        write_bytes: u64, cancelled_write_bytes: u64,
    }
    /// `struct prof_count`.
    AbiCount = 24 => { value: u64, enabled: u64, running: u64, }
    /// `struct prof_rec_head`.
    RecHead = 32 => {
        kind: u32, size: u32, time_ns: u64, cpu: u32, hook: u16, quality: u16, flags: u32,
        pad: u32,
    }
    /// `struct prof_rec_enable`.
    RecEnable = 176 => {
        head: RecHead, id: AbiIdent, rules: u64, start: u16, path_len: u16, args_len: u16,
        has_container: u16, container_id: [u8; CONTAINER_ID_LEN],
    }
    /// `struct prof_rec_disable`.
    RecDisable = 256 => {
        head: RecHead, id: AbiIdent, rules: u64, window_start_ns: u64, window_end_ns: u64,
        peak_rss: u64, threads: u32, exit_code: i32, start: u16, counters: u16, pad: [u16; 2],
        figures: AbiFigures,
    }
    /// `struct prof_rec_thread`.
    RecThread = 192 => {
        head: RecHead, start_ns: u64, pid: u32, tid: u32, exec: u32, counters: u32,
        thread_start_ns: u64, comm: [u8; COMM_LEN], figures: AbiFigures,
    }
    /// `struct prof_proc`.
    AbiProc = 520 => {
        id: AbiIdent, rules: u64, follow: u64, tree_eq: u64, tree_ne: u64, kids_tree_eq: u64,
        kids_tree_ne: u64, t0: u64, base_maxrss: u64, attach_boot_ns: u64, next_rules: u64,
        next_t0: u64, next_maxrss: u64, state: u32, live: i32, threads: u32,
        start: u16, next_start: u16, quality: u16, next_quality: u16, pad: u32,
        base: AbiFigures, acc: AbiFigures, next: AbiFigures,
    }
    /// `struct prof_live`.
    AbiLive = 208 => {
        id: AbiIdent, rules: u64, thread_start_ns: u64, peak_rss: u64, quality: u32,
        has_counts: u16, on_cpu: u16, figures: AbiFigures,
    }
    /// `struct prof_cpu`.
    AbiCpu = 8 * NR_COUNTERS + 112 + 24 * MAX_COUNTERS => {
        counters: [u64; NR_COUNTERS], clock_sched: u64, clock_mono: u64, counting: u64,
        start: [AbiCount; MAX_COUNTERS], busy: u32, pad: u32, records: u32,
        in_container: u32, container_cgroup: u64, container_id: [u8; CONTAINER_ID_LEN],
    }
    /// `struct prof_region_key`.
    AbiRegionKey = 80 => { window_ns: u64, pid: u32, len: u32, name: [u8; REGION_NAME + 1], }
    /// `struct prof_region_sum` without its counts.
    AbiRegionSum = 160 => {
        begun: u64, ended: u64, wall_ns: u64, longest_ns: u64, shortest_not_ns: u64,
        quality: u64, figures: AbiFigures,
    }
    /// `struct prof_region_names`.
    AbiRegionNames = 16 => { window_ns: u64, pid: u64, }
    /// `struct prof_region_cpu`.
    AbiRegionCpu = 8 * NR_REGION_COUNTERS + 16 => {
        counters: [u64; NR_REGION_COUNTERS], clock_ahead: u64, clock_mono: u64,
    }
    /// `struct prof_rec_region`.
    RecRegion = 128 => { head: RecHead, key: AbiRegionKey, start_ns: u64, exec: u32, pad: u32, }
    /// `struct prof_num_key`.
    NumKey = 16 => { value: u64, dim: u32, pad: u32, }
    /// `struct prof_str_key`.
    StrKey = 260 => { prefixlen: u32, dim: u8, data: [u8; MAX_PATTERN], }
    /// `struct prof_match`.
    AbiMatch = 16 => { eq: u64, ne: u64, }
    /// `struct prof_own_event_at`.
    OwnEventAt = 8 => { slot: u32, fd: i32, }
    /// `struct prof_own_event`.
    OwnEvent = 16 => { event: u64, since_ns: u64, }
    /// `struct prof_config`.
    Config = 216 => {
        rules: u64, follow: u64, uses_eq: [u64; NR_DIMS], dims: u32, cgroup_subsys: u32,
        read_args: u32, per_thread: u32, window_hook: u32, ring_look: u32, exit_is_entry: u32,
        exact_clock: u32, nr_cpus: u32, page_size: u32, ring_wakeup: u32, ident_subsys: u32,
        counters: u32, counter_cpus: u32, switch_counters: u32, attaches: u32, stacks: u32, max_depth: u32, samples_wakeup: u32,
        sample_shares: u32, off_cpu_event: u32, own_counters: u32,
        cgroup_counters: u32, pad: u32, off_cpu_min_ns: u64,
    }
}

// SAFETY: integers have no padding and take any bits.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: an array of such.
unsafe impl<const N: usize> Plain for [u64; N] {}

/// `struct prof_globals`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Globals {
    /// Address of the clock event of each CPU.
    pub clock_event: [u64; MAX_CPUS],
    /// Where calibration goes on; 0 when it is done.
    pub cursor: u64,
    /// [`IterMode`].
    pub iter_mode: u32,
    /// Whether nothing is to be armed.
    pub paused: u32,
    /// When the session was resumed, ns since boot.
    pub resumed_boot_ns: u64,
    /// The same, CLOCK_MONOTONIC.
    pub resumed_ns: u64,
}
const _: () = assert!(size_of::<Globals>() == 8 * MAX_CPUS + 32);
// SAFETY: integers and arrays of them; the assertion shows there is no padding.
unsafe impl Plain for Globals {}

impl AbiRegionKey {
    /// The name, as long as it says it is.
    pub fn name(&self) -> &[u8] {
        &self.name[..(self.len as usize).min(REGION_NAME)]
    }
}

impl AbiProc {
    /// An entry with nothing set.
    pub fn zeroed() -> Self {
        // SAFETY: all zeroes is a value of a Plain type.
        unsafe { std::mem::zeroed() }
    }
}

impl Config {
    /// A configuration with nothing set.
    pub fn zeroed() -> Self {
        // SAFETY: all zeroes is a value of a Plain type.
        unsafe { std::mem::zeroed() }
    }
}

impl From<&AbiFigures> for RawFigures {
    fn from(f: &AbiFigures) -> Self {
        RawFigures {
            task_clock: f.task_clock,
            utime: f.utime,
            stime: f.stime,
            min_flt: f.min_flt,
            maj_flt: f.maj_flt,
            nvcsw: f.nvcsw,
            nivcsw: f.nivcsw,
            migrations: f.migrations,
            run_delay: f.run_delay,
            rchar: f.rchar,
            wchar: f.wchar,
            read_bytes: f.read_bytes,
            write_bytes: f.write_bytes,
            cancelled_write_bytes: f.cancelled_write_bytes,
        }
    }
}

impl From<&AbiCount> for Count {
    fn from(c: &AbiCount) -> Self {
        Count { value: c.value, enabled_ns: c.enabled, running_ns: c.running }
    }
}

impl From<&AbiIdent> for Ident {
    fn from(i: &AbiIdent) -> Self {
        Ident {
            pid: i.pid,
            tid: i.tid,
            ppid: i.ppid,
            start_ns: i.start_ns,
            exec: i.exec,
            comm: until_nul(&i.comm).to_vec(),
            uid: i.uid,
            gid: i.gid,
            cgroup_id: i.cgroup_id,
            mntns: i.mntns,
            pidns: i.pidns,
        }
    }
}

/// The bytes before the first NUL.
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())]
}

/// A record as it came from the ring buffer.
#[derive(Debug, Clone)]
pub enum RawRecord {
    /// Profiling was switched on.
    Enable {
        /// Fixed part.
        rec: Box<RecEnable>,
        /// Path of the executable, empty if not told.
        path: Vec<u8>,
        /// Arguments, NUL between them, empty if not told.
        args: Vec<u8>,
    },
    /// Profiling was switched off; the figures of the window.
    Disable {
        /// Fixed part.
        rec: Box<RecDisable>,
        /// Of each counter of the session.
        counts: Vec<AbiCount>,
    },
    /// A thread of an armed process exited.
    Thread {
        /// Fixed part.
        rec: Box<RecThread>,
        /// Of each counter of the session.
        counts: Vec<AbiCount>,
    },
    /// The first region of its name in a window.
    Region(Box<RecRegion>),
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than the record needs.
    Short {
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// A kind that this version does not know.
    UnknownKind(u32),
    /// The size in the head is not that of the record.
    BadSize {
        /// What the head says.
        says: u32,
        /// What its kind and lengths make.
        is: usize,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { need, have } => write!(f, "record of {need} bytes cut at {have}"),
            Self::UnknownKind(k) => write!(f, "record of unknown kind {k}"),
            Self::BadSize { says, is } => write!(f, "record says {says} bytes and has {is}"),
        }
    }
}

impl std::error::Error for DecodeError {}

fn take<T: Plain>(bytes: &[u8]) -> Result<T, DecodeError> {
    T::from_bytes(bytes).ok_or(DecodeError::Short { need: size_of::<T>(), have: bytes.len() })
}

fn check_size(head: &RecHead, is: usize) -> Result<(), DecodeError> {
    if head.size as usize == is {
        Ok(())
    } else {
        Err(DecodeError::BadSize { says: head.size, is })
    }
}

/// The `n` counts behind the `at` bytes of a record's fixed part.
fn take_counts(
    head: &RecHead,
    bytes: &[u8],
    at: usize,
    n: usize,
) -> Result<Vec<AbiCount>, DecodeError> {
    let end = at.saturating_add(n.saturating_mul(size_of::<AbiCount>()));
    check_size(head, end)?;
    let tail = bytes.get(at..end).ok_or(DecodeError::Short { need: end, have: bytes.len() })?;
    Ok(counts(tail))
}

/// All the counts in `bytes`.
pub fn counts(bytes: &[u8]) -> Vec<AbiCount> {
    bytes.chunks_exact(size_of::<AbiCount>()).filter_map(AbiCount::from_bytes).collect()
}

/// Decodes one record of the ring buffer. Never panics, whatever the bytes.
pub fn decode(bytes: &[u8]) -> Result<RawRecord, DecodeError> {
    let head: RecHead = take(bytes)?;
    match head.kind {
        1 => {
            let rec: RecEnable = take(bytes)?;
            let path_end = size_of::<RecEnable>() + usize::from(rec.path_len);
            let end = path_end + usize::from(rec.args_len);
            check_size(&head, end)?;
            let tail = bytes
                .get(size_of::<RecEnable>()..end)
                .ok_or(DecodeError::Short { need: end, have: bytes.len() })?;
            let (path, args) = tail.split_at(usize::from(rec.path_len));
            Ok(RawRecord::Enable { rec: Box::new(rec), path: path.into(), args: args.into() })
        }
        2 => {
            let rec: RecDisable = take(bytes)?;
            let counts = take_counts(&head, bytes, size_of::<RecDisable>(), rec.counters.into())?;
            Ok(RawRecord::Disable { rec: Box::new(rec), counts })
        }
        3 => {
            let rec: RecThread = take(bytes)?;
            let n = rec.counters as usize;
            let counts = take_counts(&head, bytes, size_of::<RecThread>(), n)?;
            Ok(RawRecord::Thread { rec: Box::new(rec), counts })
        }
        7 => {
            let rec: RecRegion = take(bytes)?;
            check_size(&head, size_of::<RecRegion>())?;
            Ok(RawRecord::Region(Box::new(rec)))
        }
        kind => Err(DecodeError::UnknownKind(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn enable(path: &[u8], args: &[u8]) -> Vec<u8> {
        // SAFETY: all zeroes is a value of a Plain type.
        let mut rec: RecEnable = unsafe { std::mem::zeroed() };
        rec.head.kind = 1;
        rec.head.size = (size_of::<RecEnable>() + path.len() + args.len()) as u32;
        rec.path_len = path.len() as u16;
        rec.args_len = args.len() as u16;
        let mut bytes = rec.as_bytes().to_vec();
        bytes.extend_from_slice(path);
        bytes.extend_from_slice(args);
        bytes
    }

    #[test]
    fn enable_carries_path_and_arguments() {
        match decode(&enable(b"/bin/true", b"true\0-x\0")) {
            Ok(RawRecord::Enable { path, args, .. }) => {
                assert_eq!(path, b"/bin/true");
                assert_eq!(args, b"true\0-x\0");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_cut_record_is_an_error_at_every_length() {
        let whole = enable(b"/bin/true", b"true\0");
        for n in 0..whole.len() {
            assert!(decode(&whole[..n]).is_err(), "{n} of {} bytes", whole.len());
        }
    }

    #[test]
    fn a_size_that_does_not_fit_the_kind_is_an_error() {
        let mut bytes = enable(b"", b"");
        bytes[4] = 1;
        assert!(matches!(decode(&bytes), Err(DecodeError::BadSize { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_without_panic(
            kind in 0u32..9, mut bytes in proptest::collection::vec(any::<u8>(), 0..700),
        ) {
            if bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&kind.to_ne_bytes());
            }
            let _ = decode(&bytes);
        }
    }
}
