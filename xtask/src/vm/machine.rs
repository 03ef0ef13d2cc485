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
    /// What its kernel is told. `panic=-1` reboots at once, which QEMU's
    /// `-no-reboot` turns into an exit. `norandmaps`: QEMU finds translated code by
    /// its virtual address, so a program that is always mapped at the same one is
    /// translated once, and not at each exec, which was most of the time.
    pub kernel_args: &'static str,
}

/// The boot-time check that timer interrupts arrive is off, as it fails at random
/// when a busy host delays an emulated CPU.
const X86_64: Machine = Machine {
    qemu: "qemu-system-x86_64",
    package: "qemu-system-x86",
    args: &["-cpu", "max"],
    kernel_args: "quiet console=ttyS0 panic=-1 no_timer_check norandmaps",
};

/// The one machine with a PMU. It counts instructions only if the emulator does,
/// which is `-icount`: the guest's clock then follows from the instructions, 2 ns
/// for each (`shift=1`), and jumps over the time in which all CPUs are idle
/// (`sleep=off`). QEMU has one count for all CPUs, so a process's count is exact
/// in a guest with one. Pointer authentication as the architecture has it is slow
/// to emulate: `pauth-impdef` is a cheaper algorithm.
const AARCH64: Machine = Machine {
    qemu: "qemu-system-aarch64",
    package: "qemu-system-arm",
    args: &[
        "-machine",
        "virt,gic-version=3",
        "-cpu",
        "max,pmu=on,pauth-impdef=on",
        "-icount",
        "shift=1,sleep=off",
    ],
    kernel_args: "quiet console=ttyAMA0 panic=-1 norandmaps",
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
