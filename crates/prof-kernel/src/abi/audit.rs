//! The mirror of `bpf/include/audit_abi.h`.

use super::AbiIdent;
use super::DecodeError;
use super::Plain;
use super::RecHead;

/// Bytes of an attr.
pub const ATTR_SIZE: usize = 136;
/// Events of one look.
pub const LOOKS: usize = 256;
/// Slots of `known`.
pub const KNOWN: usize = 4096;
/// Bytes of the name of what a link is at.
pub const AT_LEN: usize = 256;
/// Counters of a CPU.
pub const NR_COUNTERS: usize = 3;

/// `enum audit_counter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum AuditCounter {
    /// Records that were to be written.
    Records = 0,
    /// Of those, how many did not fit.
    LostRing = 1,
    /// Descriptors whose event could not be found.
    NotRead = 2,
}

plain! {
    /// `struct audit_event`.
    AbiEvent = 248 => {
        addr: u64, id: u64, leader: u64, cgroup_id: u64, target: AbiIdent, state: i32,
        leader_state: i32, cpu: i32, prog: u32, attr: [u8; ATTR_SIZE],
    }
    /// `struct audit_opened`.
    RecOpened = 416 => {
        head: RecHead, by: AbiIdent, container_id: [u8; 64], has_container: u32,
        path_len: u32, event: AbiEvent,
    }
    /// `struct audit_act`.
    RecAct = 80 => {
        head: RecHead, addr: u64, id: u64, arg: u64, pid: u32, tid: u32, state: i32, cmd: u32,
        prog: u32, pad: u32,
    }
    /// `struct audit_task`.
    RecTask = 112 => {
        head: RecHead, id: AbiIdent, arg: u64, group_dead: u32, path_len: u32,
    }
    /// `struct audit_fork`.
    RecFork = 176 => {
        head: RecHead, parent: AbiIdent, child: AbiIdent, has_events: u32, traced: u32,
        request: u32, given: u32,
    }
    /// `struct audit_link`.
    RecLink = 496 => {
        head: RecHead, by: AbiIdent, event: u64, event_id: u64, id: u32, kind: u32, prog: u32,
        prog_kind: u32, attach_kind: u32, cmd: u32, name: [u8; 16],
        at: [u8; AT_LEN], of: AbiIdent, offset: u64, places: u32, returns: u32, left: u32,
        pad: u32,
    }
    /// `struct audit_look`.
    AbiLook = 48 => {
        addr: u64, id: u64, refs: i64, enabled_ns: u64, state: i32, prog: u32, tid: u32, pad: u32,
    }
    /// `struct audit_globals`.
    AuditGlobals = 48 => {
        perf_fops: u64, link_fops: u64, perf_fd: i32, link_fd: i32, clock_fd: [i32; 2],
        clock_type: [u32; 2], own_tgid: u32, pad: u32,
    }
    /// `struct audit_who`.
    AbiWho = 72 => { who: AbiIdent, fd: i32, pad: u32, }
}

impl AbiWho {
    /// A question that is not asked yet.
    pub fn nobody() -> Self {
        // SAFETY: all zeroes is a value of a Plain type.
        unsafe { std::mem::zeroed() }
    }
}

/// What the kernel half tells.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum RawAudit {
    /// An event was opened, or is there already (`before`); with the path of who has it,
    /// if it was not told earlier.
    Opened { rec: Box<RecOpened>, path: Vec<u8>, before: bool },
    /// An ioctl on an event.
    Ioctl(RecAct),
    /// A descriptor of an event is closed.
    Close(RecAct),
    /// All events of a thread are switched.
    Prctl(RecTask),
    /// A program was executed, with its path.
    Exec { rec: RecTask, path: Vec<u8> },
    /// A thread ends.
    Exit(RecTask),
    /// A child was born that inherits events, or a tracer.
    Fork(Box<RecFork>),
    /// A program was attached by a link.
    Link(Box<RecLink>),
    /// The last descriptor of a link is closed.
    LinkClose(Box<RecLink>),
    /// One process traces another.
    Ptrace(Box<RecFork>),
    /// One process lets another go.
    PtraceEnd(RecTask),
    /// A file of an event ends, by whoever had it last.
    Release(RecAct),
    /// One process lets another go, or ends.
    PtraceUnlink(Box<RecFork>),
    /// What runs by now at an event that a program was put at.
    Prog(RecAct),
}

/// A record of a kind that has nothing behind it.
fn whole<T: Plain>(bytes: &[u8]) -> Result<T, DecodeError> {
    match with_path(bytes, |_: &T| 0) {
        Ok((rec, _)) => Ok(rec),
        Err(e) => Err(e),
    }
}

/// A record with a path behind it.
fn with_path<T: Plain>(bytes: &[u8], len: impl Fn(&T) -> u32) -> Result<(T, Vec<u8>), DecodeError> {
    let (need, have) = (size_of::<T>(), bytes.len());
    let rec = T::from_bytes(bytes).ok_or(DecodeError::Short { need, have })?;
    let need = need + len(&rec) as usize;
    match bytes.get(size_of::<T>()..) {
        Some(path) if need == have => Ok((rec, path.to_vec())),
        _ => Err(DecodeError::BadSize { says: have as u32, is: need }),
    }
}

/// A record, from bytes.
pub fn decode(bytes: &[u8]) -> Result<RawAudit, DecodeError> {
    let (need, have) = (size_of::<RecHead>(), bytes.len());
    let head = RecHead::from_bytes(bytes).ok_or(DecodeError::Short { need, have })?;
    let size = head.size as usize;
    let bytes = bytes.get(..size).ok_or(DecodeError::Short { need: size, have })?;
    Ok(match head.kind {
        kind @ (1 | 2) => {
            let (rec, path) = with_path::<RecOpened>(bytes, |r| r.path_len)?;
            RawAudit::Opened { rec: Box::new(rec), path, before: kind == 2 }
        }
        3 => RawAudit::Ioctl(whole(bytes)?),
        4 => RawAudit::Close(whole(bytes)?),
        5 => RawAudit::Prctl(whole(bytes)?),
        6 => {
            let (rec, path) = with_path::<RecTask>(bytes, |r| r.path_len)?;
            RawAudit::Exec { rec, path }
        }
        7 => RawAudit::Exit(whole(bytes)?),
        8 => RawAudit::Fork(Box::new(whole(bytes)?)),
        9 => RawAudit::Link(Box::new(whole(bytes)?)),
        10 => RawAudit::LinkClose(Box::new(whole(bytes)?)),
        11 => RawAudit::Ptrace(Box::new(whole(bytes)?)),
        12 => RawAudit::PtraceEnd(whole(bytes)?),
        13 => RawAudit::Release(whole(bytes)?),
        14 => RawAudit::PtraceUnlink(Box::new(whole(bytes)?)),
        15 => RawAudit::Prog(whole(bytes)?),
        kind => return Err(DecodeError::UnknownKind(kind)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_as_long_as_it_says() {
        // SAFETY: all zeroes is a value of a Plain type.
        let mut rec: RecTask = unsafe { std::mem::zeroed() };
        rec.head.kind = 6;
        rec.head.size = (size_of::<RecTask>() + 9) as u32;
        rec.path_len = 9;
        let bytes = [rec.as_bytes(), b"/bin/true"].concat();
        assert!(matches!(decode(&bytes), Ok(RawAudit::Exec { path, .. }) if path == b"/bin/true"));
        for n in 0..bytes.len() {
            assert!(decode(&bytes[..n]).is_err(), "{n} of {} bytes", bytes.len());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_without_panic(
            kind in 0u32..17, mut bytes in proptest::collection::vec(any::<u8>(), 0..700),
        ) {
            let len = bytes.len() as u32;
            if bytes.len() >= 8 {
                bytes[..4].copy_from_slice(&kind.to_ne_bytes());
                bytes[4..8].copy_from_slice(&len.to_ne_bytes());
            }
            let _ = decode(&bytes);
        }
    }
}
