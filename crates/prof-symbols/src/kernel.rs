//! Names in the kernel, its modules and BPF programs: the part that runs in a process of
//! its own, so that some 200,000 symbols are gone with it.

use std::fs::File;
use std::io::Read as _;

use blazesym::MaybeDefault;
use blazesym::symbolize::Input;
use blazesym::symbolize::Symbolizer;
use blazesym::symbolize::source;

use crate::Address;
use crate::Named;
use crate::Options;
use crate::module::Waiting;
use crate::module::symbol;
use crate::wire::Sender;

const KALLSYMS: &str = "/proc/kallsyms";

/// The kernel's half of all addresses; lower ones in kallsyms are of data per CPU.
const FIRST: u64 = 1 << 63;

/// Why kernel addresses cannot be named at all.
pub(crate) fn hidden() -> Option<String> {
    let mut begin = String::new();
    let read = File::open(KALLSYMS).and_then(|f| f.take(4096).read_to_string(&mut begin));
    if let Err(e) = read {
        return Some(format!("{KALLSYMS} cannot be read: {e}"));
    }
    all_zero(&begin).then(|| {
        let level = std::fs::read_to_string("/proc/sys/kernel/kptr_restrict");
        let level = level.as_deref().map_or("unknown", str::trim);
        format!("the kernel hides its addresses: not root, or kernel.kptr_restrict is {level}")
    })
}

/// Whether no line has an address.
fn all_zero(lines: &str) -> bool {
    lines.lines().all(|l| l.split(' ').next().is_none_or(|a| a.bytes().all(|b| b == b'0')))
}

/// Sends a name or a reason for each address.
pub(crate) fn name(addresses: &[Address], options: &Options, out: &mut Sender) {
    let all: Vec<(usize, u64)> = addresses.iter().map(|a| a.of_instruction()).enumerate().collect();
    let (waiting, low): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, a)| *a >= FIRST);
    for (at, _) in low {
        out.send(at, Named::unnamed("not an address of the kernel"));
    }
    // Lines of a BPF program are asked from the kernel. Where it does not give them, or
    // the program is gone since, there is no name, either: then without.
    let waiting = with(true, waiting, options, out);
    for (at, _) in with(false, waiting, options, out) {
        out.send(at, Named::unnamed("no symbol of the kernel is below it"));
    }
}

/// Sends what has a name; the rest is left.
fn with(lines: bool, waiting: Waiting, options: &Options, out: &mut Sender) -> Waiting {
    if waiting.is_empty() {
        return waiting;
    }
    let symbolizer = Symbolizer::builder().enable_code_info(lines).enable_inlined_fns(false);
    let symbolizer = symbolizer.build();
    // No vmlinux: with one, names would depend on which package is installed, and
    // modules would have none.
    let kernel = source::Kernel {
        kallsyms: MaybeDefault::Some(KALLSYMS.into()),
        vmlinux: MaybeDefault::None,
        kaslr_offset: Some(0),
        ..source::Kernel::default()
    };
    let input: Vec<u64> = waiting.iter().map(|(_, address)| *address).collect();
    let Ok(found) = symbolizer.symbolize(&kernel.into(), Input::AbsAddr(&input)) else {
        return waiting;
    };
    let mut left = Vec::new();
    for (waits, found) in waiting.into_iter().zip(&found) {
        match found.as_sym().and_then(|s| symbol(s, options)) {
            Some(named) => out.send(waits.0, named),
            None => left.push(waits),
        }
    }
    out.flush();
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_addresses_are_all_zero() {
        assert!(all_zero("0000000000000000 T _text\n0000000000000000 t a\n00000000000"));
        assert!(!all_zero("0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\n"));
        // A line without an address tells nothing.
        assert!(all_zero(""));
    }
}
