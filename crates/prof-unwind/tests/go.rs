//! Go's programs without symbols and debug information, beside what its linker wrote into
//! the `.debug_frame` of the same program with them, each instruction.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "hostile/check.rs"]
mod check;
mod support;

use std::path::Path;
use std::process::Command;

use gimli::CfaRule;
use gimli::CieOrFde;
use gimli::DebugFrame;
use gimli::EndianSlice;
use gimli::LittleEndian;
use gimli::UnwindContext;
use gimli::UnwindSection as _;
use object::Object as _;
use object::ObjectSection as _;
use object::read::elf::ElfFile64;
use prof_unwind::Arch;
use prof_unwind::Cfa;
use prof_unwind::Limits;
use prof_unwind::Reg;
use prof_unwind::RuleSet;
use prof_unwind::Table;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use support::output;

const SOURCE: &str = "package main
    import (\"crypto/sha256\"; \"encoding/json\"; \"fmt\"; \"math/big\"; \"os\"; \"regexp\")
    func main() {
        m, _ := json.Marshal(os.Args)
        fmt.Println(sha256.Sum256(m), new(big.Int).Exp(big.NewInt(3), big.NewInt(5), nil))
        fmt.Println(regexp.MustCompile(\"a+\").Match(m))
    }";

/// Builds it for a machine; nothing without Go.
fn built(dir: &Path, source: &str, arch: &str, flags: &str) -> Option<Vec<u8>> {
    std::fs::write(dir.join("x.go"), source).unwrap();
    let mut go = Command::new("go");
    go.args(["build", "-o", "x", &format!("-ldflags={flags}"), "x.go"]).current_dir(dir);
    go.env("GO111MODULE", "off").env("GOARCH", arch).env("CGO_ENABLED", "0");
    go.env("GOCACHE", dir.join("cache"));
    output(&mut go)?;
    Some(std::fs::read(dir.join("x")).unwrap())
}

#[derive(Debug, Default)]
struct Tally {
    instructions: u64,
    equal: u64,
    by_frame_pointer: u64,
    differ: Vec<String>,
}

/// Each instruction's frame as the linker has it beside that of the table of the other.
fn compare(full: &[u8], stripped: &[u8]) -> Tally {
    let full = ElfFile64::<object::LittleEndian>::parse(full).unwrap();
    let text = |elf: &ElfFile64<'_, object::LittleEndian>| {
        let text = elf.section_by_name(".text").unwrap();
        (text.address(), text.size())
    };
    let other = ElfFile64::<object::LittleEndian>::parse(stripped).unwrap();
    assert!(other.section_by_name(".debug_frame").is_none());
    // The same code, but for where data is.
    assert_eq!(text(&full), text(&other));
    let mut rules = RuleSet::new();
    let table = Table::from_elf(stripped, &mut rules, &Limits::default()).unwrap();
    let (sp, call, quantum) = match table.arch {
        Arch::X86_64 => (gimli::X86_64::RSP, 8, 1),
        Arch::Aarch64 => (gimli::AArch64::SP, 0, 4),
    };
    let data = full.section_by_name(".debug_frame").expect(".debug_frame").data().unwrap();
    let mut frames = DebugFrame::from(EndianSlice::new(data, LittleEndian));
    frames.set_address_size(8);
    let bases = gimli::BaseAddresses::default();
    let (mut tally, mut context) = (Tally::default(), UnwindContext::new());
    let mut entries = frames.entries(&bases);
    while let Some(entry) = entries.next().unwrap() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(DebugFrame::cie_from_offset).unwrap();
        let mut rows = fde.rows(&frames, &bases, &mut context).unwrap();
        while let Some(row) = rows.next_row().unwrap() {
            let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else { panic!() };
            assert_eq!(register, sp);
            for at in (row.start_address()..row.end_address()).step_by(quantum) {
                let rule = rules.get(table.rule_at(table.offset_of(at).unwrap())).unwrap();
                tally.instructions += 1;
                let in_place = match table.arch {
                    Arch::X86_64 => rule.ra == Reg::Cfa && rule.ra_off == -8,
                    Arch::Aarch64 if offset == 0 => rule.ra == Reg::Same,
                    Arch::Aarch64 => i64::from(rule.ra_off) == -offset,
                };
                match rule.cfa {
                    Cfa::Sp if i64::from(rule.cfa_off) == offset && in_place => tally.equal += 1,
                    // What no table leads on from: the outermost, and what moves the stack.
                    Cfa::None | Cfa::End | Cfa::Signal => tally.by_frame_pointer += 1,
                    _ => tally.differ.push(format!("{at:#x}: {rule:?}, by Go {offset}")),
                }
                assert!(offset >= call || rule.cfa != Cfa::Sp, "{at:#x}: {offset}");
            }
        }
    }
    tally
}

#[test]
fn each_instruction_as_the_linker_has_it() {
    let dir = tempfile::tempdir().unwrap();
    for arch in ["amd64", "arm64"] {
        let full = built(dir.path(), SOURCE, arch, "-compressdwarf=false");
        let Some((full, stripped)) = full.zip(built(dir.path(), SOURCE, arch, "-s -w")) else {
            return;
        };
        let tally = compare(&full, &stripped);
        let Tally { instructions, equal, by_frame_pointer, differ } = &tally;
        let share = 100.0 * *equal as f64 / *instructions as f64;
        println!(
            "{arch}: {instructions} places, {share:.3} % equal, {by_frame_pointer} by frame \
             pointer or without a caller, {} differ",
            differ.len()
        );
        assert!(*instructions > 150_000, "{instructions}");
        assert!(differ.is_empty(), "{:#?}", &differ[..differ.len().min(20)]);
        // The functions of assembly that go to other stacks; on arm64 also what asks for more
        // of it, at the end of each function.
        let most = if arch == "amd64" { instructions / 200 } else { instructions / 10 };
        assert!(*by_frame_pointer < most, "{by_frame_pointer} of {instructions}");
    }
}

/// Any table at all: no panic, no loop without end, no memory without bound.
#[test]
fn a_damaged_table() {
    let dir = tempfile::tempdir().unwrap();
    let Some(data) = built(dir.path(), "package main; func main() {}", "amd64", "-s -w") else {
        return;
    };
    assert!(check::check(&data));
    let elf = ElfFile64::<object::LittleEndian>::parse(&*data).unwrap();
    let (from, size) = elf.section_by_name(".gopclntab").unwrap().file_range().unwrap();
    let (from, size) = (from as usize, size as usize);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let place = prop_oneof![0..72_usize, 0..size];
    let changes = prop::collection::vec((place, any::<u8>()), 1..20);
    let run = runner.run(&changes, |changes| {
        let mut data = data.clone();
        for (at, byte) in changes {
            data[from + at] = byte;
        }
        check::check(&data);
        Ok(())
    });
    run.unwrap();
    // All functions with the same table, of numbers that go nowhere, to its end.
    let mut data = data.clone();
    data[from + 72..from + size].fill(0x80);
    let begin = std::time::Instant::now();
    check::check(&data);
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
}

#[test]
fn a_program_of_go_is_known_by_gos_build_id() {
    let dir = tempfile::tempdir().unwrap();
    let source = "package main\nfunc main() {}";
    if built(dir.path(), source, "amd64", "-buildid=of/this").is_none() {
        return;
    }
    let file = std::fs::File::open(dir.path().join("x")).unwrap();
    assert_eq!(prof_unwind::build_id(&file), b"of/this");
}
