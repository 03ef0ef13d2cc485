//! What may be given any bytes: for a fuzzer, and for `tests/hostile.rs`.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::Duration;

use prof_symbols::Address;
use prof_symbols::Options;
use prof_symbols::Source;
use prof_symbols::Symbolizer;

/// Offsets to ask for: some in the headers, many in what is code in most files.
fn addresses() -> Vec<Address> {
    let offsets = (0..64_u64).map(|i| i * 40).chain((0..512).map(|i| 0x1000 + i * 29));
    offsets.map(|offset| Address { offset, is_return: offset % 2 == 1 }).collect()
}

/// Few resources, so that a runaway is found soon.
pub fn options() -> Options {
    Options {
        debug_dirs: Vec::new(),
        time: Duration::from_secs(5),
        memory: 256 << 20,
        ..Options::default()
    }
}

fn all_answered(source: &Source<'_>) {
    let addresses = addresses();
    let named = Symbolizer::new(options()).user(source, &addresses);
    assert_eq!(named.len(), addresses.len());
    for named in named {
        assert!(named.functions.is_empty() == named.unnamed.is_some(), "{named:?}");
        for f in named.functions {
            assert!(!f.name.is_empty() && f.name.len() <= 4100, "{}", f.name.len());
        }
    }
}

/// An ELF file.
pub fn image(data: &[u8]) {
    all_answered(&Source::Image(data));
}

/// Lines of a perf map.
pub fn perf_map(data: &[u8]) {
    all_answered(&Source::PerfMap(data));
}

/// A jitdump.
pub fn jitdump(data: &[u8]) {
    let Ok(mut file) = tempfile::tempfile() else { return };
    if file.write_all(data).is_ok() {
        all_answered(&Source::JitDump { file: file.as_fd(), perf_map: b"", epoch_ns: 0 });
    }
}
