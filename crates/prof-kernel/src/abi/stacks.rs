//! The part of the ABI that stacks are taken by.

use std::mem::size_of;

use super::COMM_LEN;
use super::DecodeError;
use super::Plain;
use super::RecHead;
use super::check_size;
use super::python::RecCode;
use super::take;

/// `PROF_SEGMENT_BYTES`.
pub const SEGMENT_BYTES: usize = 1 << 20;
/// `PROF_MAX_SEGMENTS`.
pub const MAX_SEGMENTS: u32 = 1024;
/// `PROF_MAX_UNWIND_RULES`.
pub const MAX_UNWIND_RULES: usize = 32768;
/// `PROF_MAX_FILES`.
pub const MAX_FILES: usize = 8192;
/// `PROF_FILE_VDSO`.
pub const FILE_VDSO: u32 = 1;
/// `PROF_FILE_FIRST`.
pub const FILE_FIRST: u32 = 2;
/// Words of `struct prof_free_files`.
pub const FREE_FILES_WORDS: usize = 2 + 2 * MAX_FILES;
/// `PROF_MAX_FRAMES`.
pub const MAX_FRAMES: u32 = 128;
/// `PROF_SAMPLED_BITS`.
pub const SAMPLED_BITS: u32 = 5;
/// `PROF_MAX_SAMPLED`.
pub const MAX_SAMPLED: usize = 1 << SAMPLED_BITS;
/// `PROF_MAX_VMAS`.
pub const MAX_VMAS: usize = 160;

/// `enum prof_stacks`.
pub mod part {
    #![allow(missing_docs)]
    pub const KERNEL: u32 = 0x1;
    pub const USER: u32 = 0x2;
}

/// `enum prof_table_state`.
pub mod table {
    #![allow(missing_docs)]
    pub const PENDING: u32 = 0;
    pub const READY: u32 = 1;
    pub const FP: u32 = 2;
    pub const NONE: u32 = 3;
}

/// `enum prof_stop`.
pub mod stop {
    #![allow(missing_docs)]
    pub const END: u16 = 0;
    pub const DEPTH: u16 = 1;
    pub const NO_TABLE: u16 = 2;
    pub const PENDING: u16 = 3;
    pub const NO_ROW: u16 = 4;
    pub const UNSUPPORTED: u16 = 5;
    pub const UNREADABLE: u16 = 6;
    pub const NO_MAPPING: u16 = 7;
    pub const ANONYMOUS: u16 = 8;
    pub const NO_REGS: u16 = 9;
    pub const NO_SPACE: u16 = 10;
    pub const NOT_ASKED: u16 = 11;
}

/// `enum prof_sample_counter`, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SampleCounter {
    Taken = 0,
    LostRing,
    LostNested,
    Scans,
    NoScan,
    LostSpace,
    LostFile,
    Idle,
    LeftOut,
    LostThread,
    MissedSwitch,
}

/// `PROF_NR_SAMPLE_COUNTERS`.
pub const NR_SAMPLE_COUNTERS: usize = 11;

/// Kinds of records: `enum prof_record_kind`.
pub mod kind {
    #![allow(missing_docs)]
    pub const SAMPLE: u32 = 16;
    pub const FILE: u32 = 17;
    pub const OFF: u32 = 20;
    pub const ON: u32 = 21;
    pub const WAKER: u32 = 22;
    pub const CODE: u32 = 23;
}

/// `enum prof_off_state`.
pub mod off_state {
    #![allow(missing_docs)]
    pub const RUNNABLE: u16 = 0;
    pub const SLEEP: u16 = 1;
    pub const UNINTERRUPTIBLE: u16 = 2;
}

/// `enum prof_sampler_user`.
pub mod sampler {
    #![allow(missing_docs)]
    pub const EVENTS: u32 = 0;
    pub const OFF_CPU: u32 = 1;
    pub const NESTED: u32 = 2;
}

/// `PROF_MAX_SHARES`.
pub const MAX_SHARES: usize = 8;

/// `PROF_SHARE_BITS`.
pub const SHARE_BITS: u32 = 20;

plain! {
    /// `struct prof_share`.
    AbiShare = 16 => { rules: u64, share: u32, pad: u32, }
    /// `struct prof_table`.
    AbiTable = 16 => { state: u32, segment: u32, at: u32, pages: u32, }
    /// `struct prof_file_key`.
    AbiFileKey = 24 => { ino: u64, mtime_ns: u64, dev: u32, generation: u32, }
    /// `struct prof_vma`.
    AbiVma = 24 => { start: u64, offset: u64, pages: u32, file: u32, }
    /// `struct prof_space`.
    AbiSpace = 56 + 24 * MAX_VMAS => {
        mm: u64, exec_vm: u64, scanned_ns: u64, took_ns: u64, lock_seq: u32, vmas: u32,
        more: u32, python: u32, exec: u32, pad: u32, v: [AbiVma; MAX_VMAS],
    }
    /// `struct prof_rec_sample`.
    RecSample = 128 => {
        head: RecHead, start_ns: u64, weight: u64, pid: u32, tid: u32, exec: u32, event: u16,
        stop: u16, kernel_frames: u16, user_frames: u16, vmas: u16, exact: u16, stack_bytes: u32,
        registers: u16, off_state: u16, comm: [u8; COMM_LEN], ip: u64, sp: u64, fp: u64, lr: u64,
    }
    /// `struct prof_rec_on`.
    RecOn = 56 => { head: RecHead, off_ns: u64, woken_ns: u64, pid: u32, tid: u32, }
    /// `struct prof_off_thread`.
    AbiOffThread = 40 => {
        off_ns: u64, on_ns: u64, woken_ns: u64, pid: u32, tid: u32, state: u32, pad: u32,
    }
    /// `struct prof_rec_file`.
    RecFile = 96 => {
        head: RecHead, key: AbiFileKey, size: u64, start: u64, end: u64, id: u32, pid: u32,
        path_len: u32, pad: u32,
    }
}

/// A frame of a user stack: a file of the session and the offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserFrame {
    /// 0 where there is no file: `offset` is the address.
    pub file: u32,
    /// Bytes.
    pub offset: u64,
}

impl UserFrame {
    /// `PROF_FRAME_FILE_SHIFT`.
    fn unpack(v: u64) -> Self {
        Self { file: (v >> 48) as u32, offset: v & ((1 << 48) - 1) }
    }
}

/// A record of the rings `samples` and `off_samples`.
#[derive(Debug, Clone)]
pub enum StackRecord {
    /// A stack: a sample, a thread that leaves its CPU, or who wakes one, as
    /// [`kind`] says.
    Sample {
        /// Fixed part.
        rec: Box<RecSample>,
        /// Leaf first.
        kernel: Vec<u64>,
        /// Leaf first.
        user: Vec<UserFrame>,
        /// What was mapped, if the stack is to be finished.
        vmas: Vec<AbiVma>,
        /// `pt_regs`, the first words: on x86-64, if the stack is to be finished and no frame so
        /// far has restored others.
        registers: Option<[u64; 15]>,
        /// The stack from `rec.sp` on, if it is to be finished.
        stack: Vec<u8>,
    },
    /// A file was seen for the first time.
    File {
        /// Fixed part.
        rec: Box<RecFile>,
        /// Its path.
        path: Vec<u8>,
    },
    /// A thread is back on a CPU.
    On(RecOn),
    /// A code object of a Python program was seen for the first time.
    Code(Box<RecCode>),
}

/// Decodes one record. Never panics, whatever the bytes.
pub fn decode(bytes: &[u8]) -> Result<StackRecord, DecodeError> {
    let head: RecHead = take(bytes)?;
    match head.kind {
        kind::SAMPLE | kind::OFF | kind::WAKER => {
            let rec: RecSample = take(bytes)?;
            let words = |n: u16| usize::from(n) * 8;
            let kernel_end = size_of::<RecSample>() + words(rec.kernel_frames);
            let user_end = kernel_end + words(rec.user_frames);
            let vmas_end = user_end + usize::from(rec.vmas) * size_of::<AbiVma>();
            let registers_end = vmas_end.saturating_add((rec.registers as usize).saturating_mul(8));
            let end = registers_end.saturating_add(rec.stack_bytes as usize);
            check_size(&head, end)?;
            let short = DecodeError::Short { need: end, have: bytes.len() };
            let part = |from: usize, to: usize| bytes.get(from..to).ok_or(short);
            let words =
                |b: &[u8]| b.chunks_exact(8).filter_map(u64::from_bytes).collect::<Vec<_>>();
            Ok(StackRecord::Sample {
                kernel: words(part(size_of::<RecSample>(), kernel_end)?),
                user: words(part(kernel_end, user_end)?)
                    .into_iter()
                    .map(UserFrame::unpack)
                    .collect(),
                vmas: part(user_end, vmas_end)?
                    .chunks_exact(size_of::<AbiVma>())
                    .filter_map(AbiVma::from_bytes)
                    .collect(),
                registers: words(part(vmas_end, registers_end)?).try_into().ok(),
                stack: part(registers_end, end)?.to_vec(),
                rec: Box::new(rec),
            })
        }
        kind::ON => {
            check_size(&head, size_of::<RecOn>())?;
            Ok(StackRecord::On(take(bytes)?))
        }
        kind::CODE => {
            check_size(&head, size_of::<RecCode>())?;
            Ok(StackRecord::Code(Box::new(take(bytes)?)))
        }
        kind::FILE => {
            let rec: RecFile = take(bytes)?;
            let end = size_of::<RecFile>().saturating_add(rec.path_len as usize);
            check_size(&head, end)?;
            let path = bytes
                .get(size_of::<RecFile>()..end)
                .ok_or(DecodeError::Short { need: end, have: bytes.len() })?;
            Ok(StackRecord::File { path: path.to_vec(), rec: Box::new(rec) })
        }
        kind => Err(DecodeError::UnknownKind(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(kernel: &[u64], user: &[u64], stack: &[u8]) -> Vec<u8> {
        let zeroes = [0u8; 128];
        let mut rec = RecSample::from_bytes(&zeroes).unwrap();
        rec.head.kind = 16;
        rec.head.size = (128 + 8 * (kernel.len() + user.len()) + stack.len()) as u32;
        rec.kernel_frames = kernel.len() as u16;
        rec.user_frames = user.len() as u16;
        rec.stack_bytes = stack.len() as u32;
        let mut bytes = rec.as_bytes().to_vec();
        for word in kernel.iter().chain(user) {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(stack);
        bytes
    }

    #[test]
    fn a_sample_carries_both_parts_of_the_stack() {
        let bytes =
            sample(&[0xffff_ffff_8100_0000], &[3 << 48 | 0x1234, 0x7fff_0000_1000], b"12345678");
        let Ok(StackRecord::Sample { kernel, user, stack, vmas, .. }) = decode(&bytes) else {
            panic!("no sample");
        };
        assert_eq!(kernel, [0xffff_ffff_8100_0000]);
        let file = UserFrame { file: 3, offset: 0x1234 };
        let none = UserFrame { file: 0, offset: 0x7fff_0000_1000 };
        assert_eq!(user, [file, none]);
        assert_eq!(stack, b"12345678");
        assert!(vmas.is_empty());
        for n in 0..bytes.len() {
            assert!(decode(&bytes[..n]).is_err(), "{n} of {} bytes", bytes.len());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_without_panic(
            kind in 15u32..24, mut bytes in proptest::collection::vec(any::<u8>(), 0..700),
        ) {
            if bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&kind.to_ne_bytes());
            }
            let _ = decode(&bytes);
        }
    }
}
