//! What QEMU emulates, for each architecture.

use crate::arch::Arch;

/// A machine of QEMU's.
#[derive(Debug)]
pub struct Machine {
    /// The emulator.
    pub qemu: &'static str,
    /// The Debian package that it is in.
    pub package: &'static str,
    /// Which machine, with what CPU.
    pub args: &'static [&'static str],
    /// What its kernel is told.
    pub kernel_args: &'static str,
}

/// `panic=-1` reboots at once, which QEMU's `-no-reboot` turns into an exit. The
/// boot-time check of x86 that timer interrupts arrive is off, as it fails at
/// random when a busy host delays an emulated CPU.
const X86_64: Machine = Machine {
    qemu: "qemu-system-x86_64",
    package: "qemu-system-x86",
    args: &["-cpu", "max"],
    kernel_args: "quiet console=ttyS0 panic=-1 no_timer_check",
};

/// Its PMU counts instructions, if the emulator does: that is `-icount`, which
/// makes the clock follow from the instructions, at 2 ns for each (`shift=1`), so
/// that both are the same in every run. Pointer authentication as the
/// architecture has it takes half of the emulator's time: `pauth-impdef` is a
/// cheaper algorithm.
const AARCH64: Machine = Machine {
    qemu: "qemu-system-aarch64",
    package: "qemu-system-arm",
    args: &[
        "-machine",
        "virt,gic-version=3",
        "-cpu",
        "max,pmu=on,pauth-impdef=on",
        "-icount",
        "shift=1",
    ],
    kernel_args: "quiet console=ttyAMA0 panic=-1",
};

impl Machine {
    /// The one for an architecture.
    pub fn of(arch: Arch) -> &'static Self {
        match arch {
            Arch::X86_64 => &X86_64,
            Arch::Aarch64 => &AARCH64,
        }
    }
}
