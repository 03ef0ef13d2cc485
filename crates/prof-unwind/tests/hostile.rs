//! Damaged files: no panic, no loop without end, no memory without bound.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "hostile/check.rs"]
mod check;
mod support;

use std::io::Write as _;
use std::sync::LazyLock;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use prof_unwind::Error;
use prof_unwind::Limits;
use prof_unwind::RuleSet;
use prof_unwind::Table;
use proptest::prelude::*;
use support::mapped;

/// As a vDSO of arm64, whose code is looked at for want of CFI; none without a compiler.
static VDSO: LazyLock<Option<Vec<u8>>> = LazyLock::new(|| {
    let source = "asm(\".text; nop; mov x8, #139; svc #0; nop\");
        __attribute__((noinline)) static int inner(volatile int *p) { return p[0] + p[1]; }
        int calls(volatile int *p) { return inner(p) ? inner(p + 1) + p[0] : p[2]; }";
    let flags = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    support::built("aarch64-linux-gnu-gcc", source, &flags)
});

/// Small enough to damage every part of, and what the loader has.
static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut files = vec![prof_unwind::own_vdso().unwrap()];
    files.push(std::fs::read(mapped("ld-linux")).unwrap());
    let arm64 = std::fs::read("/usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1");
    files.extend(arm64);
    files.extend(VDSO.clone());
    files
});

/// Much more than any file needs here.
const LONGEST: Duration = Duration::from_secs(60);

/// The same check; what has no end is a failure that names its file, and not a test that
/// never ends.
fn check(data: &[u8]) -> bool {
    let (done, ended) = mpsc::channel();
    let own = data.to_vec();
    let checking = thread::spawn(move || {
        let result = check::check(&own);
        let _ = done.send(());
        result
    });
    if ended.recv_timeout(LONGEST) == Err(mpsc::RecvTimeoutError::Timeout) {
        let kept = std::env::temp_dir().join(format!("prof-no-end-{}", std::process::id()));
        std::fs::write(&kept, data).unwrap();
        // A smaller one would be looked for, at as much time for each; and what tests print
        // is kept until they end.
        let _ = writeln!(std::io::stderr(), "no end in {LONGEST:?}: {}", kept.display());
        std::process::exit(1);
    }
    checking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Where headers and CFI are, as damage elsewhere is not seen.
fn places(data: &[u8]) -> Vec<std::ops::Range<usize>> {
    use object::Object as _;
    use object::ObjectSection as _;
    let elf = object::read::elf::ElfFile64::<object::LittleEndian>::parse(data).unwrap();
    let mut places = vec![0..64, 64..64 + 56 * 12];
    for name in [".eh_frame", ".eh_frame_hdr", ".dynamic", ".dynsym", ".note.gnu.build-id"] {
        let range = elf.section_by_name(name).and_then(|s| s.file_range());
        places.extend(range.map(|(at, size)| at as usize..(at + size) as usize));
    }
    let text = elf.section_by_name(".text").and_then(|s| s.file_range());
    places.extend(
        text.filter(|(_, size)| *size < 4096).map(|(at, size)| at as usize..(at + size) as usize),
    );
    let headers = u64::from_le_bytes(data[0x28..0x30].try_into().unwrap()) as usize;
    if headers != 0 {
        places.push(headers..data.len());
    }
    places
}

#[test]
fn whole_files_have_tables() {
    assert!(FILES.iter().all(|file| check(file)));
}

#[test]
fn cut_off_anywhere() {
    for file in FILES.iter() {
        let step = (file.len() / 2000).max(1);
        for end in (0..file.len()).step_by(step) {
            check(&file[..end]);
        }
    }
}

#[test]
fn each_byte_of_the_vdso_at_its_worst() {
    let mut data = FILES[0].clone();
    for at in 0..data.len() {
        let whole = data[at];
        for worst in [0x00, 0x7f, 0xff] {
            data[at] = worst;
            check(&data);
        }
        data[at] = whole;
    }
}

/// What would make one part of the work as large as another, times over.
#[test]
fn tables_of_headers_as_long_as_can_be() {
    let whole = &FILES[1];
    let started = Instant::now();
    // 65,534 segments, all of code.
    let load = elf_segment(whole, |kind, flags| kind == 1 && flags & 1 != 0);
    let mut data = whole.clone();
    let offset = data.len() as u64;
    data[0x20..0x28].copy_from_slice(&offset.to_le_bytes());
    data[0x38..0x3a].copy_from_slice(&0xfffe_u16.to_le_bytes());
    data.extend(load.iter().copied().cycle().take(load.len() * 0xfffe));
    let error = Table::from_elf(&data, &mut RuleSet::new(), &Limits::default()).unwrap_err();
    assert!(matches!(error, Error::TooMuch("executable segments", _)), "{error}");

    // 65,000 sections that share a name of 8 MB.
    let mut data = whole.clone();
    let names = data.len() as u64;
    data.resize(data.len() + (8 << 20), b'x');
    let headers = data.len() as u64;
    let mut section = [0; 64];
    section[4] = 1;
    section[0x18..0x20].copy_from_slice(&names.to_le_bytes());
    section[0x20..0x28].copy_from_slice(&(8_u64 << 20).to_le_bytes());
    data.extend(section.repeat(65_000));
    data[0x28..0x30].copy_from_slice(&headers.to_le_bytes());
    data[0x3c..0x3e].copy_from_slice(&65_000_u16.to_le_bytes());
    data[0x3e..0x40].fill(0);
    assert!(check(&data));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// Whose code is nowhere near its symbols, and has no end.
#[test]
fn code_as_far_from_its_symbols_as_can_be() {
    use object::Object as _;
    use object::ObjectSection as _;
    let Some(mut data) = VDSO.clone() else { return };
    let elf = object::read::elf::ElfFile64::<object::LittleEndian>::parse(&*data).unwrap();
    let text = elf.section_by_name(".text").unwrap().index().0;
    let headers = u64::from_le_bytes(data[0x28..0x30].try_into().unwrap()) as usize;
    let far = 0x7fff_ffff_ffff_0000_u64.to_le_bytes();
    // The size of .text, and the address of the first segment.
    data[headers + text * 64 + 0x20..][..8].copy_from_slice(&far);
    data[64 + 0x10..][..8].copy_from_slice(&far);
    assert!(check(&data), "it is looked at");
}

fn elf_segment(data: &[u8], wanted: impl Fn(u32, u32) -> bool) -> Vec<u8> {
    let number = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
    let mut all = (64..).step_by(56).take(usize::from(data[0x38]));
    let at = all.find(|at| wanted(number(*at), number(at + 4))).unwrap();
    data[at..at + 56].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_where_it_counts(
        file in 0..FILES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut data = FILES[file].clone();
        let places = places(&data);
        for (place, at, byte) in changes {
            let place = place.get(&places).clone();
            let at = place.start + at.index(place.len());
            data[at] = byte;
        }
        check(&data);
    }

    #[test]
    fn numbers_of_headers_replaced(
        file in 0..FILES.len(),
        changes in prop::collection::vec((0_usize..90, prop::sample::select(vec![
            0, 1, 7, 8, 4096, 65_535, 65_536, u64::from(u32::MAX), 1 << 32, 1 << 40, 1 << 63, u64::MAX, u64::MAX - 7,
        ])), 1..6),
    ) {
        let mut data = FILES[file].clone();
        for (at, number) in changes {
            data[16 + at * 8..24 + at * 8].copy_from_slice(&number.to_le_bytes());
        }
        check(&data);
    }

    #[test]
    fn anything_at_all(data in prop::collection::vec(any::<u8>(), 0..4096)) {
        check(&data);
    }
}
