//! The four places, their descriptions and their semaphores.
//!
//! A place is one `nop`, which the kernel replaces while somebody is attached. The
//! note says where it is, and which registers hold what. `prof` reads fixed
//! registers, those in which a C function has its first two arguments; `prof.h`
//! has them there, too. None of these functions is generic, nor inlined: there is
//! one of each in a program.
//!
//! On x86-64 a `nop` of five bytes follows, which the note does not mention: from
//! 6.18 on the kernel makes a call of one that is probed, at 60 % of a trap's price.

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::AtomicU16;
use core::sync::atomic::Ordering;

/// How many are attached to a place: the kernel counts here, in this process's copy
/// of the page. It finds it by its place in the file, so it must not be in `.bss`.
#[repr(transparent)]
pub struct Semaphore(AtomicU16);

impl Semaphore {
    const fn new() -> Self {
        Self(AtomicU16::new(0))
    }

    #[inline(always)]
    pub fn is_watched(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

/// All of them, on a page of their own in the file: some linkers (lld, mold) have the end
/// of the data that is made read-only at the start on the same page as other data, and
/// map it twice. Of a program that was attached to before it began the kernel would
/// count in the first.
#[repr(C, align(4096))]
struct Semaphores {
    enable: Semaphore,
    disable: Semaphore,
    region_begin: Semaphore,
    region_end: Semaphore,
}

#[used]
#[unsafe(link_section = ".probes")]
static SEMAPHORES: Semaphores = Semaphores {
    enable: Semaphore::new(),
    disable: Semaphore::new(),
    region_begin: Semaphore::new(),
    region_end: Semaphore::new(),
};

pub const ENABLE: &Semaphore = &SEMAPHORES.enable;
pub const DISABLE: &Semaphore = &SEMAPHORES.disable;
pub const REGION_BEGIN: &Semaphore = &SEMAPHORES.region_begin;
pub const REGION_END: &Semaphore = &SEMAPHORES.region_end;

#[cfg(target_arch = "x86_64")]
macro_rules! roomy_nop {
    () => {
        ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00"
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! roomy_nop {
    () => {
        ""
    };
}

/// The `nop`, its note, and the section by which tools notice that a file was
/// prelinked after the note was written.
macro_rules! probe {
    ($name:literal, $semaphore:ident, $arguments:literal $(, $register:tt = $value:expr)*) => {
        asm!(
            "990: nop",
            roomy_nop!(),
            ".pushsection .note.stapsdt, \"\", \"note\"",
            ".balign 4",
            ".4byte 992f - 991f, 994f - 993f, 3",
            "991: .asciz \"stapsdt\"",
            "992: .balign 4",
            "993: .8byte 990b",
            ".8byte _.stapsdt.base",
            ".8byte {semaphores} + {semaphore}",
            ".asciz \"prof\"",
            concat!(".asciz \"", $name, "\""),
            concat!(".asciz \"", $arguments, "\""),
            "994: .balign 4",
            ".popsection",
            ".ifndef _.stapsdt.base",
            ".pushsection .stapsdt.base, \"aG\", \"progbits\", .stapsdt.base, comdat",
            ".weak _.stapsdt.base",
            ".hidden _.stapsdt.base",
            "_.stapsdt.base: .space 1",
            ".size _.stapsdt.base, 1",
            ".popsection",
            ".endif",
            semaphores = sym SEMAPHORES,
            semaphore = const offset_of!(Semaphores, $semaphore),
            $(in($register) $value,)*
            options(nostack, preserves_flags)
        )
    };
}

#[cold]
#[inline(never)]
pub fn enable() {
    // SAFETY: a `nop`; the rest describes it in other sections.
    unsafe { probe!("enable", enable, "") }
}

#[cold]
#[inline(never)]
pub fn disable() {
    // SAFETY: a `nop`; the rest describes it in other sections.
    unsafe { probe!("disable", disable, "") }
}

#[cold]
#[inline(never)]
pub fn region_begin(name: &str) {
    touch(name);
    // SAFETY: a `nop` with two registers set; the rest describes it in other sections.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        probe!(
            "region_begin",
            region_begin,
            "8@%rdi 8@%rsi",
            "rdi" = name.as_ptr(),
            "rsi" = name.len()
        )
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        probe!("region_begin", region_begin, "8@x0 8@x1", "x0" = name.as_ptr(), "x1" = name.len())
    }
}

#[cold]
#[inline(never)]
pub fn region_end() {
    // SAFETY: a `nop`; the rest describes it in other sections.
    unsafe { probe!("region_end", region_end, "") }
}

/// Has the kernel bring in the pages of a name: whoever reads it at the probe may
/// not be able to wait for that, and a literal's page may not have been read before.
fn touch(name: &str) {
    let bytes = name.as_bytes();
    if let (Some(first), Some(last)) = (bytes.first(), bytes.last()) {
        for byte in [first, last] {
            // SAFETY: a reference is valid for a read.
            unsafe { core::ptr::from_ref(byte).read_volatile() };
        }
    }
}
