//! Layout of what `bpf/audit_list.bpf.c` writes, mirrored from
//! `bpf/include/audit_list_abi.h`.

use crate::abi::AbiIdent;
use crate::abi::Plain;
use crate::abi::attr::SIZE;

/// Bytes of a probe's function or file.
pub const TARGET: usize = 256;

/// `enum prof_list_has`.
pub mod has {
    #![allow(missing_docs)]
    pub const TARGET: u32 = 0x1;
    pub const OWNER: u32 = 0x2;
    pub const HOLDER: u32 = 0x4;
    pub const BY_KERNEL: u32 = 0x8;
    pub const GONE: u32 = 0x10;
}

const REC_EVENT: u32 = 1;
const REC_LINK: u32 = 2;
const REC_COPY: u32 = 3;

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
    pub addr: u64,
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
    pub fd: i32,
    pub pad: u32,
    pub target: AbiIdent,
    pub owner: AbiIdent,
    pub holder: AbiIdent,
    pub prog_name: [u8; 16],
    pub probe: [u8; TARGET],
    pub attr: [u8; SIZE],
}

/// `struct prof_list_copy`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Copied {
    pub kind: u32,
    pub state: i32,
    pub event: u64,
    pub pid: u32,
    pub tid: u32,
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
const _: () = assert!(size_of::<Event>() == 64 + 24 + 3 * 64 + 16 + 256 + 136);
const _: () = assert!(size_of::<Copied>() == 24);
const _: () = assert!(size_of::<Link>() == 80);

// SAFETY: integers and arrays of them; each is as large as its fields together, by the
// assertion above, so there is no padding.
unsafe impl Plain for State {}
// SAFETY: as above.
unsafe impl Plain for Event {}
// SAFETY: as above.
unsafe impl Plain for Copied {}
// SAFETY: as above.
unsafe impl Plain for Link {}

/// Any record.
#[derive(Debug)]
pub enum Record {
    /// A perf event.
    Event(Box<Event>),
    /// An inherited copy of the event before.
    Copied(Copied),
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
            REC_COPY => {
                records.push(Record::Copied(Copied::from_bytes(bytes)?));
                size_of::<Copied>()
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
        let copy = size_of::<Event>();
        let link = copy + size_of::<Copied>();
        let mut bytes = vec![0u8; link + size_of::<Link>()];
        (bytes[0], bytes[16]) = (1, 7);
        (bytes[copy], bytes[copy + 8], bytes[copy + 16]) = (3, 7, 8);
        (bytes[link], bytes[link + 4]) = (2, 9);
        let records = decode(&bytes).unwrap();
        assert!(matches!(&records[0], Record::Event(e) if e.id == 7));
        assert!(matches!(&records[1], Record::Copied(c) if (c.event, c.pid) == (7, 8)));
        assert!(matches!(&records[2], Record::Link(l) if l.link == 9));
        assert!(decode(&bytes[..bytes.len() - 1]).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(0u8..4, 0..2048)) {
            let _ = decode(&bytes);
        }
    }
}
