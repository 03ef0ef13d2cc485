//! Files made for the purpose: without section headers, with `.debug_frame` only, with
//! the code that handlers return to, of Go; and files that have no table.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod support;

use object::LittleEndian;
use object::Object as _;
use object::ObjectSymbol as _;
use object::read::elf::ElfFile64;
use prof_unwind::Arch;
use prof_unwind::Cfa;
use prof_unwind::Error;
use prof_unwind::Limits;
use prof_unwind::Rule;
use prof_unwind::RuleSet;
use prof_unwind::Table;
use prof_unwind::unwind;
use prof_unwind::unwind::Code;
use prof_unwind::unwind::Machine;
use prof_unwind::unwind::Maps;
use prof_unwind::unwind::Reason;
use prof_unwind::unwind::Regs;
use prof_unwind::unwind::Step;
use support::built;
use support::mapped;

const COMPILERS: [(&str, Arch); 2] =
    [("gcc", Arch::X86_64), ("aarch64-linux-gnu-gcc", Arch::Aarch64)];

/// Frames of several kinds: of a leaf, with calls, with room of unknown size, aligned.
const SOURCE: &str = "
    extern int other(void *);
    int leaf(int a) { return a * 3; }
    int calls(int a) { char room[100]; return other(room) + other(&a) + a; }
    int grows(int a) { return other(__builtin_alloca(a)) + a; }
    int aligned(int a) { _Alignas(64) char room[256]; return other(room) + a; }
    int large(int a) { char room[100000]; return other(room) + other(&a) + a; }
";

fn table(data: &[u8]) -> (Table, RuleSet) {
    let mut rules = RuleSet::new();
    let table = Table::from_elf(data, &mut rules, &Limits::default()).unwrap();
    (table, rules)
}

/// The rule of each byte of code, by address.
fn all(data: &[u8]) -> Vec<(u64, Rule)> {
    let (table, rules) = table(data);
    let code = table.code.iter().flat_map(|c| c.address..c.address + c.size);
    code.map(|at| (at, *rules.get(table.rule_at(table.offset_of(at).unwrap())).unwrap())).collect()
}

fn symbol(data: &[u8], name: &str) -> u64 {
    let elf = ElfFile64::<LittleEndian>::parse(data).unwrap();
    let found = elf.symbols().find(|s| s.name() == Ok(name));
    found.unwrap_or_else(|| panic!("no {name}")).address()
}

fn without_sections(mut data: Vec<u8>) -> Vec<u8> {
    // e_shoff; e_shnum and e_shstrndx.
    data[0x28..0x30].fill(0);
    data[0x3c..0x40].fill(0);
    data
}

#[test]
fn without_section_headers() {
    let mut files = vec![std::fs::read(mapped("libc.so.6")).unwrap()];
    files.extend(COMPILERS.into_iter().filter_map(|(gcc, _)| built(gcc, SOURCE, &[])));
    for data in files {
        let (with, rules) = table(&data);
        let mut again = RuleSet::new();
        let stripped = without_sections(data);
        let without = Table::from_elf(&stripped, &mut again, &Limits::default()).unwrap();
        assert_eq!(with, without);
        assert_eq!(rules.rules(), again.rules());
    }
}

#[test]
fn with_sections_that_lie() {
    let Some(data) = built("gcc", SOURCE, &[]) else { return };
    let (with, _) = table(&data);
    let elf = ElfFile64::<LittleEndian>::parse(&*data).unwrap();
    let headers = u64::from_le_bytes(data[0x28..0x30].try_into().unwrap()) as usize;
    let index = elf.section_by_name(".eh_frame").map(|s| object::ObjectSection::index(&s).0);
    let mut lying = data.clone();
    // Its place: behind the end.
    let header = headers + index.unwrap() * 64;
    lying[header + 0x18..header + 0x20].copy_from_slice(&(data.len() as u64).to_le_bytes());
    assert_eq!(table(&lying).0, with);
}

/// Without `.eh_frame`; for x86-64 ld would make one for the PLT.
fn no_eh_frame(arch: Arch) -> Vec<&'static str> {
    let mut flags = vec!["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    if arch == Arch::X86_64 {
        flags.push("-Wl,--no-ld-generated-unwind-info");
    }
    flags
}

fn has_section(data: &[u8], name: &str) -> bool {
    ElfFile64::<LittleEndian>::parse(data).unwrap().section_by_name(name).is_some()
}

#[test]
fn debug_frame_says_the_same() {
    for (gcc, arch) in COMPILERS {
        let flags = [no_eh_frame(arch), vec!["-g"]].concat();
        let Some(debug) = built(gcc, SOURCE, &flags) else { continue };
        let eh = built(gcc, SOURCE, &["-g", "-fasynchronous-unwind-tables"]).unwrap();
        assert!(has_section(&debug, ".debug_frame") && !has_section(&debug, ".eh_frame"));
        assert!(!has_section(&eh, ".debug_frame") && has_section(&eh, ".eh_frame"));
        let rules = |data: &[u8]| -> Vec<_> {
            let (from, to) = (symbol(data, "leaf"), symbol(data, "large") + 64);
            let all = all(data).into_iter();
            all.filter(|(at, _)| (from..to).contains(at)).map(|(_, rule)| rule).collect()
        };
        assert_eq!(rules(&eh), rules(&debug));
        assert!(rules(&debug).iter().filter(|rule| rule.cfa == Cfa::Sp).count() > 100);
    }
}

/// Code as the kernel has it for arm64, and musl for both, without CFI.
const RETURNS: [(&str, &str, Arch); 3] = [
    ("gcc", "mov $15, %rax; syscall", Arch::X86_64),
    ("gcc", "movl $15, %eax; syscall", Arch::X86_64),
    ("aarch64-linux-gnu-gcc", "mov x8, #139; svc #0", Arch::Aarch64),
];

#[test]
fn what_handlers_return_to() {
    for (gcc, code, arch) in RETURNS {
        let source = format!(
            "{SOURCE} asm(\".text; .balign 16; nop; nop; .globl back; .type back, %function; \
             back: {code}; nop; nop; nop; nop; .globl after; after: nop\");"
        );
        let Some(data) = built(gcc, &source, &[]) else { continue };
        let (table, rules) = table(&data);
        let back = symbol(&data, "back");
        let step = |ip: u64, caller| {
            let offset = table.offset_of(ip - u64::from(caller)).unwrap();
            let regs = Regs { caller, ..Regs::new(ip, 0x1000, 0x2000, 0x3000) };
            let memory = |at: u64| Some(at + 0x10_0000);
            let code = Code::File(&table, offset);
            unwind::step(&Machine::new(arch), &rules, code, &regs, &memory)
        };
        let (pc, sp, fp, lr) = match arch {
            // struct ucontext, struct sigcontext_64.
            Arch::X86_64 => (40 + 128, 40 + 120, 40 + 80, 40 + 88),
            // struct rt_sigframe: siginfo, ucontext, and in it sigcontext.
            Arch::Aarch64 => {
                let regs = 128 + 176 + 8;
                (regs + 32 * 8, regs + 31 * 8, regs + 29 * 8, regs + 30 * 8)
            }
        };
        let at = |off: u64| 0x1000 + 0x10_0000 + off;
        let interrupted = Step::Caller(Regs::new(at(pc), at(sp), at(fp), at(lr)));
        // The handler has this return address.
        assert_eq!(step(back, true), interrupted, "{code}");
        assert_eq!(step(back, false), interrupted, "{code}");
        assert_eq!(step(symbol(&data, "after"), false), Step::Stop(Reason::NoRule), "{code}");
        assert_eq!(table.stats.sigreturns, 1);
    }
}

#[test]
fn go_keeps_frame_pointers() {
    let note = "asm(\".section .note.go.buildid, \\\"a\\\", %note; .balign 4; .long 4; .long 4; \
                .long 4; .asciz \\\"Go\\\"; .byte 0; .ascii \\\"abcd\\\"; .text\");
                void nothing(void) {}";
    for (gcc, arch) in COMPILERS {
        let Some(data) = built(gcc, note, &no_eh_frame(arch)) else { continue };
        assert!(!has_section(&data, ".eh_frame"));
        for data in [data.clone(), without_sections(data.clone())] {
            let (table, rules) = table(&data);
            assert!(table.frame_pointers);
            assert_eq!(table.rows_total(), 0);
            let code = Code::File(&table, table.code[0].offset);
            let memory = |at: u64| Some(at + 0x10_0000);
            let step = |fp| {
                let regs = Regs::new(1, 0x1000, fp, 0);
                unwind::step(&Machine::new(arch), &rules, code, &regs, &memory)
            };
            let caller =
                Regs { caller: true, ..Regs::new(0x10_2008, 0x2010, 0x10_2000, Regs::LOST) };
            assert_eq!(step(0x2000), Step::Caller(caller));
            assert_eq!(
                step(0x1000),
                Step::Caller(Regs { ip: 0x10_1008, sp: 0x1010, fp: 0x10_1000, ..caller })
            );
            assert_eq!(step(0), Step::End);
            assert_eq!(step(0x2004), Step::Stop(Reason::NoFramePointer));
            // Of another stack: where that is cannot be said. Of generated code it is none.
            for far in [0xff8, 0x1000 + (1 << 20), 0x7000_0000_0000] {
                assert!(matches!(step(far), Step::Caller(_)), "{far:#x}");
                let regs = Regs::new(1, 0x1000, far, 0);
                let machine = Machine::new(arch);
                let generated =
                    unwind::step(&machine, &RuleSet::new(), Code::Anonymous, &regs, &memory);
                assert_eq!(generated, Step::Stop(Reason::NoFramePointer), "{far:#x}");
            }
            assert_eq!(step(Regs::LOST), Step::Stop(Reason::FramePointerLost));
        }
        // The same without the note says nothing, and is not taken for it.
        let plain = built(gcc, "void nothing(void) {}", &no_eh_frame(arch)).unwrap();
        let error = Table::from_elf(&plain, &mut RuleSet::new(), &Limits::default());
        assert!(matches!(error, Err(Error::NoCfi(_))), "{error:?}");
    }
}

#[test]
fn build_id_as_readelf_prints_it() {
    let path = mapped("libc.so.6");
    let mut readelf = std::process::Command::new("readelf");
    let Some(notes) = support::output(readelf.arg("-n").arg(&path)) else { return };
    let id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).unwrap();
    let (table, _) = table(&std::fs::read(path).unwrap());
    let found: String = table.build_id.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(found, id);
}

#[test]
fn a_file_and_its_bytes_have_the_same_table() {
    let path = mapped("libc.so.6");
    let (bytes, _) = table(&std::fs::read(&path).unwrap());
    let file = std::fs::File::open(path).unwrap();
    let mut rules = RuleSet::new();
    assert_eq!(Table::from_file(&file, &mut rules, &Limits::default()).unwrap(), bytes);
}

#[test]
fn what_has_no_table_says_why() {
    let of =
        |data: &[u8]| Table::from_elf(data, &mut RuleSet::new(), &Limits::default()).unwrap_err();
    let whole = std::fs::read(mapped("ld-linux")).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut data = whole.clone();
        data[at..at + bytes.len()].copy_from_slice(bytes);
        of(&data)
    };
    assert!(matches!(of(b"#!/bin/sh\n"), Error::NotElf));
    assert!(matches!(of(b""), Error::NotElf));
    assert!(matches!(of(&whole[..40]), Error::Truncated("headers")));
    assert!(matches!(of(&whole[..100]), Error::Truncated("program headers")));
    assert!(matches!(with(4, &[1]), Error::Class));
    assert!(matches!(with(5, &[2]), Error::BigEndian));
    assert!(matches!(with(16, &[1, 0]), Error::Kind(1)));
    assert!(matches!(with(18, &[243, 0]), Error::Machine(243)));
    assert!(matches!(with(56, &[0, 0]), Error::NoCfi("it has no code")));
}

#[test]
fn each_limit_holds() {
    let data = std::fs::read(mapped("ld-linux")).unwrap();
    let of = |limits: Limits| Table::from_elf(&data, &mut RuleSet::new(), &limits).unwrap_err();
    let all = Limits::default();
    let error = of(Limits { file: 1000, ..all.clone() });
    assert!(matches!(error, Error::TooMuch("bytes", 1000)), "{error}");
    let error = of(Limits { section: 1000, ..all.clone() });
    assert!(matches!(error, Error::TooMuch(".eh_frame", 1000)), "{error}");
    let error = of(Limits { functions: 10, ..all.clone() });
    assert!(matches!(error, Error::TooMuch("functions", 10)), "{error}");
    let error = of(Limits { rows: 100, ..all.clone() });
    assert!(matches!(error, Error::TooMuch("rows", 100)), "{error}");
    let error = of(Limits { instructions: 100, ..all });
    assert!(matches!(error, Error::TooMuch("call frame instructions", 100)), "{error}");
}

/// As the kernel builds its vDSO for arm64: what is known of code without CFI is what gcc
/// would have said of it.
#[test]
fn functions_of_a_vdso_of_arm64() {
    let source = "asm(\".text; nop; .globl back; .type back, %function; back: \
            mov x8, #139; svc #0; .size back, 8; .balign 8\");
        int leaf(volatile int *p) { if (p[0]) return p[1]; while (p[2]) p[3] = 1; return 7; }
        __attribute__((noinline)) static int inner(volatile int *p) { return p[0] + p[1]; }
        int calls(volatile int *p) {
            int a = inner(p);
            if (a > 3) return a + inner(p + 1);
            while (inner(p) > a) { a += p[2]; if (a == 9) return p[7]; }
            return inner(p) - a;
        }
        int last(volatile int *p) { return p[0]; }";
    let flags = ["-fno-shrink-wrap", "-nostartfiles"];
    let gcc = "aarch64-linux-gnu-gcc";
    let Some(with) = built(gcc, source, &flags) else { return };
    let without = built(gcc, source, &[&flags[..], &no_eh_frame(Arch::Aarch64)].concat()).unwrap();
    assert!(!has_section(&without, ".eh_frame"));
    let rules = |data: &[u8]| -> Vec<_> {
        let from = symbol(data, "back") - 4;
        all(data).into_iter().filter(|(at, _)| *at >= from).map(|(_, rule)| rule).collect()
    };
    let (with, without) = (rules(&with), rules(&without));
    let mut kinds = std::collections::HashSet::new();
    for (at, (gcc, known)) in with.iter().zip(&without).enumerate() {
        // Padding belongs to the function before.
        if gcc.cfa != Cfa::None {
            assert_eq!(known, gcc, "{at} bytes in");
            kinds.insert(*gcc);
        }
    }
    let signal = kinds.iter().filter(|rule| rule.cfa == Cfa::Signal).count();
    let framed = kinds.iter().filter(|rule| rule.cfa_off > 0 && rule.cfa == Cfa::Sp).count();
    assert!(signal == 1 && framed >= 1 && kinds.len() >= 3, "{kinds:?}");
}

/// The return address of a call that does not return may be behind its function.
#[test]
fn a_call_at_the_end_of_its_function() {
    struct Own<'a>(&'a Table);
    impl Maps for Own<'_> {
        fn code(&self, address: u64) -> Option<Code<'_>> {
            Some(Code::File(self.0, self.0.offset_of(address)?))
        }
    }
    let source = "extern void gone(void *) __attribute__((noreturn));
        void dies(void) { char room[104]; gone(room); }
        asm(\".balign 64; nop\");";
    for (gcc, arch) in COMPILERS {
        let Some(data) = built(gcc, source, &[]) else { continue };
        let (table, rules) = table(&data);
        let elf = ElfFile64::<LittleEndian>::parse(&*data).unwrap();
        let dies = elf.symbols().find(|s| s.name() == Ok("dies")).unwrap();
        let behind = dies.address() + dies.size();
        let walk = |caller| {
            let start = Regs { caller, ..Regs::new(behind, 0x1000, 0, Regs::LOST) };
            let machine = Machine::new(arch);
            unwind::walk(&machine, &rules, &Own(&table), &|_| Some(0), start, 9, |_| {})
        };
        assert_eq!(walk(true), None);
        // Nothing, or the end of the code.
        assert!(matches!(walk(false), Some(Reason::NoRule | Reason::NotMapped)));
    }
}
