//! This process's own stack, by the tables of what it has mapped, against libgcc's
//! unwinder, which walks it by registers and CFI.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use std::arch::asm;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::ffi::c_void;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;

use prof_unwind::Arch;
use prof_unwind::Limits;
use prof_unwind::RuleSet;
use prof_unwind::Table;
use prof_unwind::own_vdso;
use prof_unwind::unwind::Code;
use prof_unwind::unwind::Machine;
use prof_unwind::unwind::Maps;
use prof_unwind::unwind::Reason;
use prof_unwind::unwind::Regs;
use prof_unwind::unwind::walk;

#[cfg(target_arch = "x86_64")]
const ARCH: Arch = Arch::X86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: Arch = Arch::Aarch64;

unsafe extern "C" {
    fn _Unwind_Backtrace(
        each: extern "C" fn(*mut c_void, *mut c_void) -> c_int,
        all: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

extern "C" fn note(context: *mut c_void, all: *mut c_void) -> c_int {
    // SAFETY: `_Unwind_Backtrace` hands out its context, and `all` as `take` gave it.
    unsafe { (*all.cast::<Vec<u64>>()).push(_Unwind_GetIP(context) as u64) };
    0
}

/// A stack as it was: registers, a copy of the memory, and what libgcc says.
struct Taken {
    regs: Regs,
    stack: Vec<u8>,
    libgcc: Vec<u64>,
}

impl Taken {
    fn read(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.regs.sp)?).ok()?;
        Some(u64::from_le_bytes(*self.stack.get(at..)?.first_chunk()?))
    }
}

#[inline(never)]
fn take() -> Taken {
    let (ip, sp, fp, lr): (u64, u64, u64, u64);
    // SAFETY: copies registers, and does nothing else.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("lea {ip}, [rip]", "mov {sp}, rsp", "mov {fp}, rbp",
             ip = out(reg) ip, sp = out(reg) sp, fp = out(reg) fp);
        lr = Regs::LOST;
    }
    // SAFETY: copies registers, and does nothing else.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("adr {ip}, .", "mov {sp}, sp", "mov {fp}, x29", "mov {lr}, x30",
             ip = out(reg) ip, sp = out(reg) sp, fp = out(reg) fp, lr = out(reg) lr);
    }
    let mut libgcc = Vec::new();
    // SAFETY: `note` takes what is given here, which outlives the call.
    unsafe { _Unwind_Backtrace(note, (&raw mut libgcc).cast()) };
    libgcc.retain(|ip| *ip != 0);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let end = maps.lines().find_map(|line| {
        let (start, end) = range(line);
        (start..end).contains(&sp).then_some(end)
    });
    let mut stack = vec![0; (end.unwrap() - sp) as usize];
    File::open("/proc/self/mem").unwrap().read_exact_at(&mut stack, sp).unwrap();
    Taken { regs: Regs::new(ip, sp, fp, lr), stack, libgcc }
}

fn range(line: &str) -> (u64, u64) {
    let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
    (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap())
}

/// What this process has mapped to be run.
struct Own {
    tables: HashMap<String, Table>,
    /// From, to, where in the file, and which.
    maps: Vec<(u64, u64, u64, String)>,
    rules: RuleSet,
}

impl Own {
    fn new() -> Self {
        let mut own = Self { tables: HashMap::new(), maps: Vec::new(), rules: RuleSet::new() };
        for line in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let Some(name) = words.get(5).filter(|_| words[1].contains('x')) else { continue };
            let image = match *name {
                "[vdso]" => own_vdso().unwrap(),
                path if path.starts_with('/') => std::fs::read(path).unwrap(),
                _ => continue,
            };
            let table = Table::from_elf(&image, &mut own.rules, &Limits::default()).unwrap();
            own.tables.insert((*name).to_owned(), table);
            let (start, end) = range(line);
            let offset = u64::from_str_radix(words[2], 16).unwrap();
            own.maps.push((start, end, offset, (*name).to_owned()));
        }
        own
    }

    fn walk(&self, taken: &Taken, depth: usize) -> (Vec<u64>, Option<Reason>) {
        let mut ips = Vec::new();
        let memory = |address| taken.read(address);
        let machine = Machine::new(ARCH);
        let each = |regs: &Regs| ips.push(regs.ip);
        let stop = walk(&machine, &self.rules, self, &memory, taken.regs, depth, each);
        (ips, stop)
    }

    fn check(&self, taken: &Taken) {
        let (ips, stop) = self.walk(taken, 1000);
        println!("{} frames, {} by libgcc", ips.len(), taken.libgcc.len());
        // The first is somewhere in `take`, for both.
        assert!(ips[0].abs_diff(taken.libgcc[0]) < 4096, "{:x?} {:x?}", ips, taken.libgcc);
        assert_eq!(ips[1..], taken.libgcc[1..], "{ips:x?}\n{:x?}", taken.libgcc);
        assert_eq!(stop, None, "the outermost frame was not reached");
    }
}

impl Maps for Own {
    fn code(&self, address: u64) -> Option<Code<'_>> {
        let (start, _, offset, name) =
            self.maps.iter().find(|(start, end, ..)| (*start..*end).contains(&address))?;
        Some(Code::File(self.tables.get(name)?, address - start + offset))
    }
}

/// Calls itself, with a frame of its own size at each turn.
#[inline(never)]
fn nested(depth: u32, take: &dyn Fn() -> Taken) -> Taken {
    let room = black_box([depth; 37]);
    let taken = if depth == 0 { take() } else { nested(depth - 1, take) };
    black_box(room);
    taken
}

#[test]
fn to_the_outermost_frame() {
    let taken = nested(20, &take);
    assert!(taken.libgcc.len() > 25, "{:x?}", taken.libgcc);
    Own::new().check(&taken);
}

#[test]
fn no_deeper_than_asked_for() {
    let taken = nested(20, &take);
    let (ips, stop) = Own::new().walk(&taken, 10);
    assert_eq!(ips[1..], taken.libgcc[1..10]);
    assert_eq!(stop, Some(Reason::Depth));
}

#[test]
fn through_the_c_library_and_back() {
    thread_local!(static TAKEN: RefCell<Option<Taken>> = const { RefCell::new(None) });
    extern "C" fn compare(_: *const c_void, _: *const c_void) -> c_int {
        TAKEN.with(|taken| *taken.borrow_mut() = Some(nested(3, &take)));
        0
    }
    let mut numbers = [3_u64, 1];
    // SAFETY: two elements of 8 bytes, and a comparison that does not look at them.
    unsafe { libc::qsort(numbers.as_mut_ptr().cast(), 2, 8, Some(compare)) };
    Own::new().check(&TAKEN.take().unwrap());
}

#[test]
fn through_a_signal() {
    thread_local!(static TAKEN: RefCell<Option<Taken>> = const { RefCell::new(None) });
    extern "C" fn handler(_: c_int) {
        TAKEN.with(|taken| *taken.borrow_mut() = Some(nested(3, &take)));
    }
    #[inline(never)]
    fn interrupted() {
        // SAFETY: the handler runs on this thread, and within this call, so that it may do
        // what a function may.
        unsafe { assert_eq!(libc::raise(libc::SIGUSR1), 0) };
    }
    // SAFETY: no other test has a handler of this signal.
    unsafe { libc::signal(libc::SIGUSR1, handler as extern "C" fn(c_int) as usize) };
    interrupted();
    Own::new().check(&TAKEN.take().unwrap());
}
