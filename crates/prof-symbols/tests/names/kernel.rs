//! Names of the kernel beside `/proc/kallsyms`, read anew.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;

use prof_symbols::Address;
use prof_symbols::Symbolizer;

use crate::support::*;

/// All symbols by address; `None` where the kernel hides them.
fn kallsyms() -> Option<BTreeMap<u64, BTreeSet<String>>> {
    let mut symbols: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for line in std::fs::read_to_string("/proc/kallsyms").unwrap().lines() {
        let mut fields = line.split_whitespace();
        let address = u64::from_str_radix(fields.next().unwrap(), 16).unwrap();
        let name = fields.nth(1).unwrap();
        symbols.entry(address).or_default().insert(name.to_owned());
    }
    (symbols.len() > 1000).then_some(symbols)
}

#[test]
fn a_thousand_addresses_as_kallsyms_has_them() {
    let Some(symbols) = kallsyms() else {
        let why = "kallsyms has no addresses: not root, or kernel.kptr_restrict";
        assert!(std::env::var("PROF_LIVE").as_deref() != Ok("require"), "{why}");
        eprintln!("SKIPPED names of the kernel: {why}");
        let named =
            Symbolizer::new(alone()).kernel(&[Address { offset: 1 << 63, is_return: false }]);
        assert!(named[0].unnamed.as_deref().unwrap().contains("kptr_restrict"), "{named:?}");
        return;
    };
    let first = *symbols.keys().find(|a| **a >= 1 << 63).unwrap();
    let text_end = symbols.iter().find(|(_, n)| n.contains("_etext")).map_or(first, |(a, _)| *a);
    let text = text_end - first;
    assert!(text > 1 << 20, "{text}");
    // Evenly and yet at no round addresses; each also as the address behind a call.
    let places =
        (0..1000_u64).map(|i| first + 1 + i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (text - 1));
    let mut addresses: Vec<Address> = places
        .flat_map(|offset| [false, true].map(|is_return| Address { offset, is_return }))
        .collect();
    // The first byte of functions: as a return address the one before is meant.
    for at in symbols.range(first..text_end).skip(1).step_by(97).map(|(at, _)| *at) {
        addresses.extend([false, true].map(|is_return| Address { offset: at, is_return }));
    }
    let begin = std::time::Instant::now();
    let named = Symbolizer::new(alone()).kernel(&addresses);
    println!("{} addresses of the kernel: {:?}", addresses.len(), begin.elapsed());
    for (address, named) in addresses.iter().zip(&named) {
        let at = address.offset - u64::from(address.is_return);
        let (_, expected) = symbols.range(..=at).next_back().unwrap();
        let [function] = &named.functions[..] else { panic!("{address:x?}: {named:?}") };
        assert!(expected.contains(&function.name), "{address:x?}: {}, {expected:?}", function.name);
    }
}

#[test]
fn what_is_no_address_of_the_kernel_has_the_reason() {
    let addresses = [0, 0x40_1000].map(|offset| Address { offset, is_return: false });
    for named in Symbolizer::new(alone()).kernel(&addresses) {
        assert!(named.functions.is_empty() && named.unnamed.is_some(), "{named:?}");
    }
}

/// Loads a BPF program that does nothing.
fn bpf_program(name: &[u8; 16]) -> std::io::Result<OwnedFd> {
    // r0 = 0; exit
    let instructions = [0xb7_u64, 0x95];
    let license = c"GPL";
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u64; 2],
        version_and_flags: u64,
        name: [u8; 16],
    }
    const SOCKET_FILTER: u32 = 1;
    let load = Load {
        kind: SOCKET_FILTER,
        count: 2,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log: [0; 2],
        version_and_flags: 0,
        name: *name,
    };
    const PROG_LOAD: libc::c_int = 5;
    // SAFETY: `load` is the beginning of `union bpf_attr` for this command, and what it
    // points at lives until the call is over.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[test]
fn bpf_programs_are_named() {
    let skip = |why: &str| {
        assert!(std::env::var("PROF_LIVE").as_deref() != Ok("require"), "{why}");
        eprintln!("SKIPPED names of BPF programs: {why}");
    };
    let _loaded = match bpf_program(b"prof_symbols_is\0") {
        Ok(loaded) => loaded,
        Err(e) => return skip(&format!("none can be loaded: {e}")),
    };
    let Some(symbols) = kallsyms() else { return skip("kallsyms has no addresses") };
    let find = |name: &str| {
        symbols.iter().find(|(_, n)| n.iter().any(|n| n.ends_with(name))).map(|(a, _)| *a)
    };
    let Some(at) = find("_prof_symbols_is") else {
        return skip("BPF programs are interpreted here, or not in kallsyms");
    };
    let addresses = [at, at + 1].map(|offset| Address { offset, is_return: false });
    for named in Symbolizer::new(alone()).kernel(&addresses) {
        let name = &named.functions[0].name;
        assert!(name.starts_with("bpf_prog_") && name.ends_with("_prof_symbols_is"), "{name}");
    }
}
