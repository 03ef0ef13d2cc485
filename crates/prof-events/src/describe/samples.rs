//! What samples hold.

use prof_model::audit::PerfAttr;

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
    if !attr.takes_samples() {
        return Vec::new();
    }
    let bits = (0..u64::BITS).filter(|b| attr.sample_type >> b & 1 == 1);
    let name = |b: u32| match SAMPLE.get(b as usize) {
        Some(name) => (*name).to_owned(),
        None => format!("bit_{b}"),
    };
    bits.map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_samples_hold_has_names() {
        // As `perf record -F 99 -g -vv` prints it.
        let record = PerfAttr {
            rate: 99,
            bits: PerfAttr::FREQ,
            sample_type: 0x1 | 0x2 | 0x4 | 0x20 | 0x100,
            ..PerfAttr::default()
        };
        assert_eq!(sampled(&record), ["ip", "tid", "time", "callchain", "period"]);
        assert_eq!(sampled(&PerfAttr { rate: 0, ..record }), Vec::<String>::new());
    }
}
