//! Layout of what `bpf/audit_list.bpf.c` writes, mirrored from
//! `bpf/include/audit_list_abi.h`.

use crate::abi::AbiIdent;
use crate::abi::Plain;

/// Bytes of a probe's function or file.
pub const TARGET: usize = 256;
/// Bytes of a `perf_event_attr`.
pub const ATTR: usize = 136;
/// Processes with inherited copies that are named.
pub const NAMED: usize = 32;

/// `enum prof_list_has`.
pub mod has {
    #![allow(missing_docs)]
    pub const TARGET: u32 = 0x1;
    pub const OWNER: u32 = 0x2;
    pub const HOLDER: u32 = 0x4;
    pub const BY_KERNEL: u32 = 0x8;
    pub const MORE_COPIES: u32 = 0x10;
    pub const GONE: u32 = 0x20;
}

const REC_EVENT: u32 = 1;
const REC_LINK: u32 = 2;

/// `struct prof_list_state`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
#[allow(missing_docs)]
pub struct State {
    pub served_by: [u64; 2],
    pub mode: u32,
    pub tgid: u32,
    pub fds: [i32; 2],
    pub ident_subsys: u32,
    pub kprobe_type: u32,
    pub uprobe_type: u32,
    pub pad: u32,
}

/// `struct prof_list_event`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Event {
    pub kind: u32,
    pub has: u32,
    pub id: u64,
    pub leader: u64,
    pub cgroup_id: u64,
    pub enabled_ns: u64,
    pub running_ns: u64,
    pub probe_offset: u64,
    pub state: i32,
    pub cpu: i32,
    pub prog: u32,
    pub link: u32,
    pub copies: u32,
    pub fd: i32,
    pub target: AbiIdent,
    pub owner: AbiIdent,
    pub holder: AbiIdent,
    pub prog_name: [u8; 16],
    pub probe: [u8; TARGET],
    pub copy_of: [u32; NAMED],
    pub attr: [u8; ATTR],
}

/// `struct prof_list_link`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Link {
    pub kind: u32,
    pub link: u32,
    pub fd: i32,
    pub pad: u32,
    pub holder: AbiIdent,
}

const _: () = assert!(size_of::<State>() == 48);
const _: () = assert!(size_of::<Event>() == 56 + 24 + 3 * 64 + 16 + 256 + 128 + 136);
const _: () = assert!(size_of::<Link>() == 80);

// SAFETY: integers and arrays of them; each is as large as its fields together, by the
// assertion above, so there is no padding.
unsafe impl Plain for State {}
// SAFETY: as above.
unsafe impl Plain for Event {}
// SAFETY: as above.
unsafe impl Plain for Link {}

/// Any record.
#[derive(Debug)]
pub enum Record {
    /// A perf event.
    Event(Box<Event>),
    /// A holder of a BPF link.
    Link(Link),
}

/// Takes apart what an iterator wrote; `None` if it makes no sense, with what came
/// before it lost, too: then kernel half and user half are of two versions.
pub fn decode(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let kind = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
        let size = match kind {
            REC_EVENT => {
                records.push(Record::Event(Box::new(Event::from_bytes(bytes)?)));
                size_of::<Event>()
            }
            REC_LINK => {
                records.push(Record::Link(Link::from_bytes(bytes)?));
                size_of::<Link>()
            }
            _ => return None,
        };
        bytes = bytes.get(size..)?;
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_follow_one_another() {
        let mut bytes = vec![0u8; size_of::<Event>() + size_of::<Link>()];
        bytes[0] = 1;
        bytes[8] = 7;
        bytes[size_of::<Event>()] = 2;
        bytes[size_of::<Event>() + 4] = 9;
        let records = decode(&bytes).unwrap();
        assert!(matches!(&records[0], Record::Event(e) if e.id == 7));
        assert!(matches!(&records[1], Record::Link(l) if l.link == 9));
        assert!(decode(&bytes[..bytes.len() - 1]).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(0u8..3, 0..2048)) {
            let _ = decode(&bytes);
        }
    }
}
