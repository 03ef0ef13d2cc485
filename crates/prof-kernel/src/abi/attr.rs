//! `struct perf_event_attr` as it lies in memory.

use perf_event_open_sys::bindings::perf_event_attr;
use prof_model::audit::PerfAttr;

/// Bytes that are read of it: up to `config3`, as of 6.3.
pub const SIZE: usize = 136;

/// The kernel's attr.
pub fn attr_of(bytes: &[u8; SIZE]) -> PerfAttr {
    let u64_at = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
    let u32_at = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
    macro_rules! at {
        ($field:ident) => {
            std::mem::offset_of!(perf_event_attr, $field)
        };
    }
    PerfAttr {
        kind: u32_at(at!(type_)),
        config: u64_at(at!(config)),
        config1: u64_at(at!(__bindgen_anon_3)),
        config2: u64_at(at!(__bindgen_anon_4)),
        config3: u64_at(at!(config3)),
        rate: u64_at(at!(__bindgen_anon_1)),
        sample_type: u64_at(at!(sample_type)),
        read_format: u64_at(at!(read_format)),
        // Right behind the read format: bindgen gives bit fields no name.
        bits: u64_at(at!(read_format) + 8),
        bp_type: u32_at(at!(bp_type)),
        branch_sample_type: u64_at(at!(branch_sample_type)),
        sample_regs_user: u64_at(at!(sample_regs_user)),
        sample_stack_user: u32_at(at!(sample_stack_user)),
        sample_regs_intr: u64_at(at!(sample_regs_intr)),
        sample_max_stack: u32_at(at!(sample_max_stack)) as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prof_model::audit::Sampling;

    #[test]
    fn an_attr_is_read_as_perfs_own_bindings_write_it() {
        let mut a = perf_event_attr {
            type_: 5,
            config: 7,
            sample_type: 0x20,
            bp_type: 3,
            branch_sample_type: 11,
            sample_regs_user: 12,
            sample_stack_user: 13,
            sample_regs_intr: 14,
            sample_max_stack: 15,
            config3: 16,
            ..Default::default()
        };
        a.__bindgen_anon_1.sample_freq = 99;
        a.__bindgen_anon_3.config1 = 8;
        a.__bindgen_anon_4.config2 = 9;
        a.set_freq(1);
        a.set_exclude_kernel(1);
        a.set_enable_on_exec(1);
        a.set_inherit_thread(1);
        // SAFETY: a plain C struct, as long as it says.
        let bytes: [u8; size_of::<perf_event_attr>()] = unsafe { std::mem::transmute(a) };
        let mut padded = [0; SIZE];
        padded.copy_from_slice(&bytes[..SIZE]);
        let read = attr_of(&padded);
        let bits = PerfAttr::FREQ
            | PerfAttr::EXCLUDE_KERNEL
            | PerfAttr::ENABLE_ON_EXEC
            | PerfAttr::INHERIT_THREAD;
        assert_eq!((read.bits, read.sampling()), (bits, Sampling::Hz(99)));
        assert_eq!((read.kind, read.config, read.config1, read.config2), (5, 7, 8, 9));
        assert_eq!((read.bp_type, read.sample_type, read.branch_sample_type), (3, 0x20, 11));
        assert_eq!((read.sample_regs_user, read.sample_stack_user), (12, 13));
        assert_eq!((read.sample_regs_intr, read.sample_max_stack, read.config3), (14, 15, 16));
    }
}
