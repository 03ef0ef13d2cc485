//! What the kernel says of its own symbols: where it begins, and where modules and BPF
//! programs are that something ran of.

use std::fs;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read as _;

use prof_model::stacks::KernelPart;

const KALLSYMS: &str = "/proc/kallsyms";

/// As much code as the image of a kernel has, and then some: what ran in there is of no
/// module, and the symbols of these are behind 200,000 others.
const IMAGE: u64 = 64 << 20;

/// A BPF program has at most a million instructions, and most of them a page or two.
const MAX_PROGRAM: u64 = 1 << 20;

/// A page: BPF programs share larger ones, and are told apart by where the next begins.
const PAGE: u64 = 4096;

/// Most of them that are looked up: a profile has a few dozen.
const MAX_PARTS: usize = 4096;

/// Where the kernel's image begins in memory; `None` if it does not say.
pub fn text() -> Option<u64> {
    // It is among the first lines, behind data of CPUs.
    const MOST: u64 = 1 << 20;
    let file = BufReader::new(fs::File::open(KALLSYMS).ok()?.take(MOST));
    let line = file.lines().map_while(Result::ok).find(|l| l.ends_with(" _text"))?;
    let address = u64::from_str_radix(line.split(' ').next()?, 16).ok()?;
    (address != 0).then_some(address)
}

/// What the kernel has at exactly this address; `None` if it does not say.
pub fn function_at(address: u64) -> Option<String> {
    function_in(BufReader::new(fs::File::open(KALLSYMS).ok()?), address)
}

fn function_in(symbols: impl BufRead, address: u64) -> Option<String> {
    // ADDRESS TYPE NAME, and for a module's `[MODULE]`: addresses are hidden from who may not
    // know them, and are 0 then.
    let hex = format!("{address:016x} ");
    let line = symbols.lines().map_while(Result::ok).find(|l| l.starts_with(&hex))?;
    line.split_whitespace().nth(2).filter(|_| address != 0).map(str::to_owned)
}

/// The modules and BPF programs that these addresses of the kernel are in, ascending.
pub fn parts(text: Option<u64>, addresses: impl Iterator<Item = u64>) -> Vec<KernelPart> {
    let image = text.map_or(0..0, |text| text..text.saturating_add(IMAGE));
    let mut outside: Vec<_> = addresses.filter(|a| !image.contains(a)).collect();
    outside.sort_unstable();
    outside.dedup();
    if outside.is_empty() || text.is_none() {
        return Vec::new();
    }
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    let mut found = modules_of(&modules, &outside);
    if let Ok(file) = fs::File::open(KALLSYMS) {
        found.extend(programs_of(BufReader::new(file), &outside).unwrap_or_default());
    }
    found.sort_by_key(|part| part.start);
    // One that went while it was read, and one that came in its place.
    found.dedup_by(|next, before| next.start < before.start + before.length);
    found.truncate(MAX_PARTS);
    found
}

/// Whether one of these, ascending, is in there.
fn has_any(addresses: &[u64], start: u64, length: u64) -> bool {
    let first = addresses.partition_point(|a| *a < start);
    addresses.get(first).is_some_and(|a| a - start < length)
}

/// By lines of `/proc/modules`: name, bytes, uses, users, state, address.
fn modules_of(lines: &str, addresses: &[u64]) -> Vec<KernelPart> {
    let part = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next()?.to_owned();
        let length = words.next()?.parse().ok()?;
        let start = u64::from_str_radix(words.nth(3)?.strip_prefix("0x")?, 16).ok()?;
        let is_met = start != 0 && has_any(addresses, start, length);
        is_met.then_some(KernelPart { name, start, length, is_program: false })
    };
    lines.lines().filter_map(part).collect()
}

/// By lines of `/proc/kallsyms`: address, kind, name, module. A program ends where the
/// next one begins, or with its page.
fn programs_of(lines: impl BufRead, addresses: &[u64]) -> io::Result<Vec<KernelPart>> {
    let mut programs = Vec::new();
    for line in lines.lines() {
        let line = line?;
        let Some(line) = line.strip_suffix("\t[bpf]") else { continue };
        let mut words = line.split(' ');
        let start = words.next().and_then(|a| u64::from_str_radix(a, 16).ok());
        if let (Some(start), Some(name)) = (start.filter(|start| *start != 0), words.nth(1)) {
            programs.push((start, name.to_owned()));
        }
    }
    programs.sort_unstable();
    programs.dedup_by_key(|(start, _)| *start);
    let next = programs.iter().skip(1).map(|(start, _)| *start).chain([u64::MAX]);
    let met = programs.iter().zip(next).filter_map(|((start, name), next)| {
        // As far as something ran: more is not known of its length.
        let behind =
            addresses.partition_point(|a| *a < next.min(start.saturating_add(MAX_PROGRAM)));
        let last = addresses.get(behind.checked_sub(1)?).filter(|last| *last >= start)?;
        let end = (last | (PAGE - 1)).saturating_add(1).min(next);
        Some(KernelPart {
            name: name.clone(),
            start: *start,
            length: end - start,
            is_program: true,
        })
    });
    Ok(met.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES: &str = "\
nf_tables 356352 84 nft_ct,nft_chain_nat, Live 0xffffffffc0a00000
nfnetlink 20480 4 nf_tables, Live 0xffffffffc09f0000 (OE)
hidden 4096 0 - Live 0x0000000000000000
";

    const SYMBOLS: &str = "\
ffffffff81000000 T _text
ffffffffc0a00010 t nft_do_chain\t[nf_tables]
ffffffffc0002000 t bpf_prog_6deef7357e7b4530_sd_fw\t[bpf]
ffffffffc0002400 t bpf_prog_0123456789abcdef_other\t[bpf]
ffffffffc0005000 t bpf_prog_fedcba9876543210\t[bpf]
";

    #[test]
    fn a_function_is_found_by_where_it_begins() {
        let of = |at: u64| function_in(SYMBOLS.as_bytes(), at);
        assert_eq!(of(0xffff_ffff_c0a0_0010).as_deref(), Some("nft_do_chain"));
        assert_eq!(of(0xffff_ffff_c0a0_0011), None);
        // Addresses that are hidden.
        assert_eq!(function_in("0000000000000000 T x\n".as_bytes(), 0), None);
    }

    fn part(name: &str, start: u64, length: u64, is_program: bool) -> KernelPart {
        KernelPart { name: name.into(), start, length, is_program }
    }

    #[test]
    fn modules_that_something_ran_of() {
        let nf_tables = part("nf_tables", 0xffff_ffff_c0a0_0000, 356_352, false);
        let found = modules_of(MODULES, &[0xffff_ffff_c0a5_6fff, u64::MAX]);
        assert_eq!(found, std::slice::from_ref(&nf_tables));
        // The byte behind it.
        assert_eq!(modules_of(MODULES, &[0xffff_ffff_c0a5_7000]), []);
        let both = modules_of(MODULES, &[0xffff_ffff_c09f_0000, 0xffff_ffff_c0a0_0000]);
        assert_eq!(both, [nf_tables, part("nfnetlink", 0xffff_ffff_c09f_0000, 20_480, false)]);
        assert_eq!(modules_of("one\ntwo x\n\nthree 1 2 3 4 5", &[0]), []);
    }

    #[test]
    fn programs_end_where_the_next_begins() {
        let of = |addresses: &[u64]| programs_of(SYMBOLS.as_bytes(), addresses).unwrap();
        let first = part("bpf_prog_6deef7357e7b4530_sd_fw", 0xffff_ffff_c000_2000, 0x400, true);
        assert_eq!(of(&[0xffff_ffff_c000_23ff]), [first]);
        let other = part("bpf_prog_0123456789abcdef_other", 0xffff_ffff_c000_2400, 0xc00, true);
        assert_eq!(of(&[0xffff_ffff_c000_2400]), [other]);
        let last = part("bpf_prog_fedcba9876543210", 0xffff_ffff_c000_5000, 0x2000, true);
        assert_eq!(of(&[0xffff_ffff_c000_6001]), [last]);
        assert_eq!(of(&[0xffff_ffff_8100_0000, u64::MAX]), []);
    }

    #[test]
    fn nothing_is_read_for_what_ran_in_the_image() {
        let text = 0xffff_ffff_8100_0000;
        assert_eq!(parts(Some(text), [text, text + IMAGE - 1].into_iter()), []);
        assert_eq!(parts(None, [text].into_iter()), []);
    }
}
