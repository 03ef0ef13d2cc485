//! What samples show of a program and of the kernel.

use prof_model::audit::PerfAttr;
use prof_model::audit::Sampling;

use crate::attr::perf_type;

/// `PERF_COUNT_SW_DUMMY`.
const DUMMY: u64 = 9;

/// `PERF_SAMPLE_*`, by bit.
const SAMPLE: [&str; 25] = [
    "ip",
    "tid",
    "time",
    "addr",
    "read",
    "callchain",
    "id",
    "cpu",
    "period",
    "stream_id",
    "raw",
    "branch_stack",
    "regs_user",
    "stack_user",
    "weight",
    "data_src",
    "identifier",
    "transaction",
    "regs_intr",
    "phys_addr",
    "aux",
    "cgroup",
    "data_page_size",
    "code_page_size",
    "weight_struct",
];

/// What a sample holds, by name; nothing of an event that only counts.
pub fn sampled(attr: &PerfAttr) -> Vec<String> {
    if !samples(attr) {
        return Vec::new();
    }
    let bits = (0..u64::BITS).filter(|b| attr.sample_type >> b & 1 == 1);
    let name = |b: u32| match SAMPLE.get(b as usize) {
        Some(name) => (*name).to_owned(),
        None => format!("bit_{b}"),
    };
    bits.map(name).collect()
}

/// Whether there are samples at all: perf opens one event that counts nothing, ever, for
/// what the kernel tells beside samples.
fn samples(attr: &PerfAttr) -> bool {
    let dummy = (attr.kind, attr.config) == (perf_type::SOFTWARE, DUMMY);
    attr.sampling() != Sampling::Counting && !dummy
}

/// Whether samples hold call chains through the kernel.
pub fn shows_kernel_stacks(attr: &PerfAttr) -> bool {
    samples(attr)
        && attr.samples(PerfAttr::SAMPLE_CALLCHAIN)
        // In a program's own code there is nothing of the kernel below it.
        && !attr.has(PerfAttr::EXCLUDE_KERNEL)
        && !attr.has(PerfAttr::EXCLUDE_CALLCHAIN_KERNEL)
}

/// Whether samples hold call chains of the program, or memory of its stack.
pub fn shows_user_stacks(attr: &PerfAttr) -> bool {
    let chains =
        attr.samples(PerfAttr::SAMPLE_CALLCHAIN) && !attr.has(PerfAttr::EXCLUDE_CALLCHAIN_USER);
    let memory = attr.samples(PerfAttr::SAMPLE_STACK_USER) && attr.sample_stack_user > 0;
    samples(attr) && (chains || memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perf_record_with_call_graphs_shows_both_stacks() {
        // As `perf record -F 99 -g -vv` prints it.
        let record = PerfAttr {
            rate: 99,
            bits: PerfAttr::FREQ,
            sample_type: 0x1 | 0x2 | 0x4 | 0x20 | 0x100,
            ..PerfAttr::default()
        };
        assert_eq!(sampled(&record), ["ip", "tid", "time", "callchain", "period"]);
        assert!(shows_kernel_stacks(&record) && shows_user_stacks(&record));
        for bit in [PerfAttr::EXCLUDE_CALLCHAIN_KERNEL, PerfAttr::EXCLUDE_KERNEL] {
            let user = PerfAttr { bits: record.bits | bit, ..record };
            assert!(!shows_kernel_stacks(&user) && shows_user_stacks(&user));
        }
        let dummy = PerfAttr { kind: 1, config: 9, ..record };
        assert!(!shows_kernel_stacks(&dummy) && !shows_user_stacks(&dummy));
        // Without a rate nothing is sampled, whatever a sample would hold.
        let stat = PerfAttr { rate: 0, ..record };
        assert!(!shows_kernel_stacks(&stat) && !shows_user_stacks(&stat));
        assert_eq!(sampled(&stat), Vec::<String>::new());
    }
}
