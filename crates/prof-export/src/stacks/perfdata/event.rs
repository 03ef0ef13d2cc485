//! Records of the data section, as `struct perf_event_header` and what follows it in
//! `linux/perf_event.h`. All but the first end with when, where and for which event.

use std::io;
use std::io::Write;

use super::CONTEXT_KERNEL;
use super::Place;
use crate::stacks::names;

const MMAP: u32 = 1;
const COMM: u32 = 3;
const SAMPLE: u32 = 9;
const MMAP2: u32 = 10;
const KSYMBOL: u32 = 17;

/// What a symbol is of.
const KSYMBOL_BPF: u16 = 1;

const MISC_KERNEL: u16 = 1;
const MISC_USER: u16 = 2;
const MISC_COMM_EXEC: u16 = 1 << 13;
const MISC_MMAP_BUILD_ID: u16 = 1 << 14;

const PROT_READ_EXEC: u32 = 5;
const MAP_PRIVATE: u32 = 2;

/// Pid of what belongs to the machine.
const NOBODY: u32 = u32::MAX;

/// Longest name of a file that is written; readers have room for 4096.
const MAX_PATH: usize = 4000;

/// Longest name of a symbol: as the kernel's `KSYM_NAME_LEN`, less the NUL.
const MAX_KSYMBOL: usize = 511;

/// Longest name of a thread: what a kernel gives, with all of it escaped.
const MAX_COMM: usize = 64;

/// Most bytes of a build id.
pub(super) const MAX_BUILD_ID: usize = 20;

/// What samples have in them: address, thread, time, call chain, CPU, period, id of the
/// event; the last at the front, where readers find it without knowing the event.
pub(super) const SAMPLE_TYPE: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 16;

/// The id of an event by its place.
pub(super) fn id(nth: usize) -> u64 {
    nth as u64 + 1
}

/// What a record is of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who {
    pub pid: u32,
    pub tid: u32,
    pub time_ns: u64,
    pub cpu: u32,
    pub id: u64,
}

/// What is of the machine, from the beginning on.
const MACHINE: Who = Who { pid: NOBODY, tid: 0, time_ns: 0, cpu: 0, id: 1 };

/// A record in the making.
struct Event {
    bytes: Vec<u8>,
}

impl Event {
    fn new(kind: u32, misc: u16) -> Self {
        let mut new = Self { bytes: Vec::with_capacity(256) };
        new.u32(kind);
        new.bytes.extend_from_slice(&misc.to_ne_bytes());
        // Its size, which is known at the end.
        new.bytes.extend_from_slice(&[0; 2]);
        new
    }

    fn u32(&mut self, n: u32) {
        self.bytes.extend_from_slice(&n.to_ne_bytes());
    }

    fn u64(&mut self, n: u64) {
        self.bytes.extend_from_slice(&n.to_ne_bytes());
    }

    /// With its NUL, to a multiple of eight.
    fn text(&mut self, text: &str, most: usize) {
        self.bytes.extend_from_slice(cut(text, most).as_bytes());
        self.bytes.push(0);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    fn of(&mut self, who: &Who) {
        self.u32(who.pid);
        self.u32(who.tid);
        self.u64(who.time_ns);
        self.u32(who.cpu);
        self.u32(0);
        self.u64(who.id);
    }

    fn write(mut self, out: &mut dyn Write) -> io::Result<()> {
        let size = u16::try_from(self.bytes.len()).map_err(io::Error::other)?;
        self.bytes[6..8].copy_from_slice(&size.to_ne_bytes());
        out.write_all(&self.bytes)
    }
}

/// At most so many bytes, between characters.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    &text[..end]
}

/// A thread is called so; `exec` if it is because the process runs another program now.
pub(super) fn comm(who: &Who, name: &str, exec: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut e = Event::new(COMM, if exec { MISC_COMM_EXEC } else { 0 });
    e.u32(who.pid);
    e.u32(who.tid);
    e.text(&names::clean(name.as_bytes()), MAX_COMM);
    e.of(who);
    e.write(out)
}

/// A file is mapped.
pub(super) fn map(
    who: &Who,
    place: Place,
    path: &str,
    build_id: &[u8],
    out: &mut dyn Write,
) -> io::Result<()> {
    let known = matches!(build_id.len(), 1..=MAX_BUILD_ID);
    let mut e = Event::new(MMAP2, if known { MISC_USER | MISC_MMAP_BUILD_ID } else { MISC_USER });
    e.u32(who.pid);
    e.u32(who.tid);
    e.u64(place.start);
    e.u64(place.length);
    e.u64(place.offset);
    // In its place would be device and inode, which are not known any more.
    let mut bytes = [0_u8; 24];
    if known {
        bytes[0] = build_id.len() as u8;
        bytes[4..4 + build_id.len()].copy_from_slice(build_id);
    }
    e.bytes.extend_from_slice(&bytes);
    e.u32(PROT_READ_EXEC);
    e.u32(MAP_PRIVATE);
    e.text(path, MAX_PATH);
    e.of(who);
    e.write(out)
}

/// The kernel, or a module, is there. From the beginning on, which perf writes as no time.
pub(super) fn kernel(place: Place, name: &str, out: &mut dyn Write) -> io::Result<()> {
    let mut e = Event::new(MMAP, MISC_KERNEL);
    e.u32(NOBODY);
    e.u32(0);
    e.u64(place.start);
    e.u64(place.length);
    e.u64(place.offset);
    e.text(name, MAX_PATH);
    e.of(&MACHINE);
    e.write(out)
}

/// A BPF program is there, from the beginning on, with its name.
pub(super) fn program(place: Place, name: &str, out: &mut dyn Write) -> io::Result<()> {
    let mut e = Event::new(KSYMBOL, MISC_KERNEL);
    e.u64(place.start);
    e.u32(u32::try_from(place.length).unwrap_or(u32::MAX));
    e.bytes.extend_from_slice(&KSYMBOL_BPF.to_ne_bytes());
    // It comes, and does not go.
    e.bytes.extend_from_slice(&[0; 2]);
    e.text(&names::clean(name.as_bytes()), MAX_KSYMBOL);
    e.of(&MACHINE);
    e.write(out)
}

/// A sample, its call chain leaf first.
pub(super) fn sample(who: &Who, period: u64, chain: &[u64], out: &mut dyn Write) -> io::Result<()> {
    let in_kernel = chain.first() == Some(&CONTEXT_KERNEL);
    let mut e = Event::new(SAMPLE, if in_kernel { MISC_KERNEL } else { MISC_USER });
    e.u64(who.id);
    e.u64(chain.get(1).copied().unwrap_or(0));
    e.u32(who.pid);
    e.u32(who.tid);
    e.u64(who.time_ns);
    e.u32(who.cpu);
    e.u32(0);
    e.u64(period);
    e.u64(chain.len() as u64);
    for address in chain {
        e.u64(*address);
    }
    e.write(out)
}
