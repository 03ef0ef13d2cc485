//! Stacks that the kernel half had to leave where they met a file for the first time: it
//! has sent the registers, the mappings and a piece of the stack along.

use prof_model::stacks::Whole;
use prof_unwind::Arch;
use prof_unwind::unwind;
use prof_unwind::unwind::Machine;
use prof_unwind::unwind::Maps;
use prof_unwind::unwind::Others;
use prof_unwind::unwind::Reason;
use prof_unwind::unwind::Regs;

use crate::abi::stacks::AbiVma;
use crate::abi::stacks::MAX_FRAMES;
use crate::abi::stacks::RecSample;
use crate::abi::stacks::UserFrame;
use crate::sampler::gather::Gatherer;

/// The process at the time of the sample.
struct Process<'a> {
    gatherer: &'a Gatherer,
    vmas: &'a [AbiVma],
}

impl Process<'_> {
    /// The file at an address, and where in it.
    fn place(&self, address: u64) -> Option<UserFrame> {
        let after = self.vmas.partition_point(|v| v.start <= address);
        let vma = self.vmas.get(after.checked_sub(1)?)?;
        let into = address - vma.start;
        if into >= u64::from(vma.pages) << 12 {
            return None;
        }
        Some(UserFrame { file: vma.file, offset: vma.offset.wrapping_add(into) })
    }
}

impl Maps for Process<'_> {
    fn code(&self, address: u64) -> Option<unwind::Code<'_>> {
        let place = self.place(address)?;
        if place.file == 0 {
            return Some(unwind::Code::Anonymous);
        }
        let table = self.gatherer.table(place.file)?;
        Some(unwind::Code::File(table, place.offset))
    }
}

/// What the kernel half sends along of a stack that it had to leave.
pub struct Left<'a> {
    /// What is mapped.
    pub vmas: &'a [AbiVma],
    /// Registers that no frame so far has saved, if they are known.
    pub registers: Option<Others>,
    /// From the stack pointer on.
    pub stack: &'a [u8],
}

/// Goes on from where the kernel half stopped; the frame at which it did is the last of
/// `frames` already.
pub fn finish(
    gatherer: &Gatherer,
    rec: &RecSample,
    left: &Left<'_>,
    frames: &mut Vec<UserFrame>,
) -> Whole {
    let arch = if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 };
    let process = Process { gatherer, vmas: left.vmas };
    let memory = |address: u64| {
        let at = usize::try_from(address.checked_sub(rec.sp)?).ok()?;
        let word = left.stack.get(at..at.checked_add(8)?)?;
        Some(u64::from_ne_bytes(word.try_into().ok()?))
    };
    let start = Regs {
        caller: rec.exact == 0,
        others: left.registers,
        ..Regs::new(rec.ip, rec.sp, rec.fp, rec.lr)
    };
    let depth = (MAX_FRAMES as usize).saturating_sub(frames.len());
    let mut first = true;
    let mut lost = None;
    let end = unwind::walk(
        &Machine::new(arch),
        gatherer.rules(),
        &process,
        &memory,
        start,
        depth,
        |regs| {
            if std::mem::take(&mut first) {
                return;
            }
            // The return address itself is told, which may be behind the mapping's end.
            match process.place(regs.lookup()) {
                Some(UserFrame { file: 0, .. }) => {
                    frames.push(UserFrame { file: 0, offset: regs.ip });
                }
                Some(place) => frames.push(UserFrame {
                    file: place.file,
                    offset: place.offset + (regs.ip - regs.lookup()),
                }),
                None => lost = Some(regs.ip),
            }
        },
    );
    match end {
        None => Whole::Whole,
        Some(Reason::NotMapped) if lost.is_some() => Whole::NoMapping,
        Some(Reason::NotMapped) => Whole::NoTable,
        Some(Reason::NoRule) => Whole::NoRow,
        Some(Reason::NoFramePointer) => Whole::Anonymous,
        Some(Reason::Depth) => Whole::Depth,
        Some(Reason::Memory(_)) => Whole::Unreadable,
        Some(Reason::Backwards) => Whole::Unreadable,
        Some(Reason::Unsupported | Reason::FramePointerLost | Reason::ReturnAddressLost) => {
            Whole::Unsupported
        }
    }
}
