//! Names in the kernel, its modules and BPF programs: the part that runs in a process of
//! its own, so that some 200,000 symbols are gone with it.

use std::fs::File;
use std::io::Read as _;

use blazesym::MaybeDefault;
use blazesym::symbolize::Input;
use blazesym::symbolize::source;

use crate::Address;
use crate::Named;
use crate::Options;
use crate::module::functions;
use crate::module::symbolizer;
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
    let symbolizer = symbolizer(options);
    // No vmlinux: with one, names would depend on which package is installed, and
    // modules would have none.
    let kernel = source::Kernel {
        kallsyms: MaybeDefault::Some(KALLSYMS.into()),
        vmlinux: MaybeDefault::None,
        kaslr_offset: Some(0),
        ..source::Kernel::default()
    };
    let kernel = kernel.into();
    let input: Vec<u64> = addresses.iter().map(|a| a.of_instruction()).collect();
    match symbolizer.symbolize(&kernel, Input::AbsAddr(&input)) {
        Ok(found) => {
            for (at, (found, address)) in found.iter().zip(&input).enumerate() {
                let named = if *address < FIRST {
                    Named::unnamed("not an address of the kernel")
                } else {
                    let none = || Named::unnamed("no symbol of the kernel is below it");
                    functions(found, None, options).unwrap_or_else(none)
                };
                out.send(at, named);
            }
        }
        Err(e) => {
            for at in 0..input.len() {
                out.send(at, Named::unnamed(format!("{KALLSYMS} cannot be understood: {e}")));
            }
        }
    }
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
