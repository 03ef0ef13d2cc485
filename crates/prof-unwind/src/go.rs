//! What Go's own table of functions says: which of them have no caller.
//!
//! Go's code keeps frame pointers, but a thread of its runtime begins with whatever was in
//! the register. The format is that of Go 1.18 and later; of another one nothing is taken.

use crate::cfi::Reader;
use crate::elf::Elf;
use crate::elf::Place;
use crate::holes;
use crate::rule::Cfa;
use crate::rule::Rule;

/// Largest table that is read: kubelet's has 30 MB.
const MAX_TABLE: u64 = 128 << 20;

/// `funcFlag_TOPFRAME`.
const TOP_FRAME: u8 = 1;

/// More than a runtime has: three or four.
const MAX_TOP: usize = 64;

/// Adds a function without a caller for each that is marked so.
pub(crate) fn top_frames(elf: &Elf<'_>, table: Place, text: Place, reader: &mut Reader<'_>) {
    let read = elf.source.read(".gopclntab", table.offset, table.size, MAX_TABLE);
    let Ok(bytes) = read else { return };
    for (start, size) in marked(&bytes, text.address).unwrap_or_default() {
        let Some((offset, left)) = elf.offset_of(start) else { continue };
        let size = u64::from(size).min(left) as u32;
        holes::add_unless_there(reader, offset, size, Rule::only(Cfa::End));
    }
}

/// Address and size of the functions that are marked.
fn marked(bytes: &[u8], text: u64) -> Option<Vec<(u64, u32)>> {
    let u8_at = |at: usize| bytes.get(at).copied();
    let u32_at = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    // Where the flags are in an entry.
    let flags_at = match u32_at(0)? {
        0xffff_fff0 => 37,
        // 1.20: with the line that it starts at.
        0xffff_fff1 => 41,
        _ => return None,
    };
    // Bytes of an address.
    if u8_at(7)? != 8 {
        return None;
    }
    let count = usize::try_from(u64_at(8)?).ok()?;
    // Where it may be loaded anywhere, that is filled in then.
    let start = Some(u64_at(24)?).filter(|start| *start != 0).unwrap_or(text);
    let names = usize::try_from(u64_at(32)?).ok()?;
    let functions = usize::try_from(u64_at(64)?).ok()?;
    let list = bytes.get(functions..)?;
    let list = list.get(..count.checked_mul(8)?.checked_add(4)?)?;
    let mut found = Vec::new();
    for i in 0..count {
        let entry = |at: usize| Some(u32::from_le_bytes(*list.get(at..)?.first_chunk()?));
        let (from, to) = (entry(i * 8)?, entry(i * 8 + 8)?);
        let at = usize::try_from(entry(i * 8 + 4)?).ok()?;
        let flags = functions.checked_add(at).and_then(|at| u8_at(at.checked_add(flags_at)?))?;
        if flags & TOP_FRAME == 0 || found.len() == MAX_TOP {
            continue;
        }
        // What was interrupted is above a handler, and its frame pointer still there.
        let name = functions.checked_add(at).and_then(|at| u32_at(at.checked_add(4)?))?;
        let name = names.checked_add(usize::try_from(name).ok()?)?;
        if !bytes.get(name..)?.starts_with(b"runtime.sigtramp") {
            found.push((start.checked_add(u64::from(from))?, to.checked_sub(from)?));
        }
    }
    Some(found)
}
