//! Names of the kernel beside `/proc/kallsyms`, read anew.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

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
