//! The part of `perf_event_attr` that an event list decides.

use prof_model::audit::PerfAttr;
use prof_model::counters::perf_id;

use crate::syntax::Modifiers;

/// `PERF_TYPE_*`: whose numbers `config` is in.
pub mod perf_type {
    /// Events that the kernel maps to each CPU's own.
    pub const HARDWARE: u32 = 0;
    /// Events of the kernel.
    pub const SOFTWARE: u32 = 1;
    /// Tracepoints, by id.
    pub const TRACEPOINT: u32 = 2;
    /// Caches: which, what, with what result.
    pub const HW_CACHE: u32 = 3;
    /// The CPU's own numbers.
    pub const RAW: u32 = 4;
    /// Accesses to an address.
    pub const BREAKPOINT: u32 = 5;
}

/// What is asked of `perf_event_open`, without what only the opener knows (read
/// format, inheritance, size). `config` and its kin as the PMU has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)]
pub struct Attr {
    pub type_: u32,
    pub config: u64,
    /// For a breakpoint its address.
    pub config1: u64,
    /// For a breakpoint how many bytes from there.
    pub config2: u64,
    pub config3: u64,
    /// Of a breakpoint: 1 read, 2 write, 4 execute.
    pub bp_type: u32,
    pub exclude_user: bool,
    pub exclude_kernel: bool,
    pub exclude_hv: bool,
    pub exclude_idle: bool,
    pub exclude_host: bool,
    pub exclude_guest: bool,
    /// 0 to 3: how much skid a sample's address may have.
    pub precise_ip: u8,
    /// Always on its counter, or in error.
    pub pinned: bool,
    /// Alone on the PMU.
    pub exclusive: bool,
}

impl Attr {
    /// As `perf stat` counts without modifiers: all but guests.
    ///
    /// PMUs that cannot leave anything out (`msr`, `power`, most uncore ones)
    /// answer `EINVAL` to that. perf then tries again without `exclude_guest` and
    /// `exclude_host`, and so should who opens this; other bits were asked for.
    pub fn counting(type_: u32, config: u64) -> Self {
        Self { type_, config, exclude_guest: true, ..Self::default() }
    }

    /// `perf_type << 24 | config` where that says it, which is the id of the event
    /// in prof's records; `None` where the consumer gives an index instead. What
    /// else is in the attr is not in the id.
    pub fn id(&self) -> Option<u32> {
        perf_id(self.type_, self.config)
    }
}

impl From<&PerfAttr> for Attr {
    /// The part of what somebody opened that an event list decides.
    fn from(a: &PerfAttr) -> Self {
        Self {
            type_: a.kind,
            config: a.config,
            config1: a.config1,
            config2: a.config2,
            config3: a.config3,
            bp_type: if a.kind == perf_type::BREAKPOINT { a.bp_type } else { 0 },
            exclude_user: a.has(PerfAttr::EXCLUDE_USER),
            exclude_kernel: a.has(PerfAttr::EXCLUDE_KERNEL),
            exclude_hv: a.has(PerfAttr::EXCLUDE_HV),
            exclude_idle: a.has(PerfAttr::EXCLUDE_IDLE),
            exclude_host: a.has(PerfAttr::EXCLUDE_HOST),
            exclude_guest: a.has(PerfAttr::EXCLUDE_GUEST),
            precise_ip: a.precise_ip(),
            pinned: a.has(PerfAttr::PINNED),
            exclusive: a.has(PerfAttr::EXCLUSIVE),
        }
    }
}

/// What modifiers ask for beside bits of the [`Attr`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Wishes {
    /// `S`: a sample of the leader reads the whole group.
    pub sample_read: bool,
    /// `P`: as precise as the PMU can; `perf stat` counts as without it.
    pub precise_max: bool,
    /// `W`: a group that does not fit may be taken apart.
    pub weak: bool,
    /// `b`: counted through BPF in perf. prof always does.
    pub bpf_counter: bool,
    /// `G` or `H` was among them, which switches the defaults for both off.
    pub(crate) guest_or_host: bool,
}

impl Modifiers {
    /// Puts them on an event as perf does. Those of an event start from nothing,
    /// so that `k` alone counts guests as well; those of a group (`on_top`) start
    /// from what its events have.
    pub fn apply(&self, attr: &mut Attr, wishes: &mut Wishes, on_top: bool) {
        let mut a = Attr {
            exclude_user: false,
            exclude_kernel: false,
            exclude_hv: false,
            exclude_idle: false,
            exclude_host: false,
            exclude_guest: false,
            precise_ip: 0,
            pinned: false,
            exclusive: false,
            ..*attr
        };
        let mut w = Wishes::default();
        if on_top {
            a = *attr;
            w.guest_or_host = wishes.guest_or_host;
        }
        // Whether a part was named, so that those not named are left out.
        let mut parts = a.exclude_user || a.exclude_kernel || a.exclude_hv;
        for c in self.as_str().chars() {
            if matches!(c, 'u' | 'k' | 'h') && !parts {
                parts = true;
                (a.exclude_user, a.exclude_kernel, a.exclude_hv) = (true, true, true);
            }
            if matches!(c, 'G' | 'H') && !w.guest_or_host {
                w.guest_or_host = true;
                (a.exclude_guest, a.exclude_host) = (true, true);
            }
            match c {
                'u' => {
                    a.exclude_user = false;
                    a.exclude_guest |= !w.guest_or_host;
                }
                'k' => a.exclude_kernel = false,
                'h' => a.exclude_hv = false,
                'G' => a.exclude_guest = false,
                'H' => a.exclude_host = false,
                'I' => a.exclude_idle = true,
                'p' => {
                    a.precise_ip = (a.precise_ip + 1).min(3);
                    a.exclude_guest |= !w.guest_or_host;
                }
                'P' => w.precise_max = true,
                'S' => w.sample_read = true,
                'D' => a.pinned = true,
                'e' => a.exclusive = true,
                'W' => w.weak = true,
                'b' => w.bpf_counter = true,
                _ => {}
            }
        }
        *attr = a;
        *wishes = w;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_design() {
        assert_eq!(Attr::counting(perf_type::SOFTWARE, 2).id(), Some(0x0100_0002));
        assert_eq!(Attr::counting(perf_type::HW_CACHE, 0x1_0000).id(), Some(0x0301_0000));
        assert_eq!(Attr::counting(perf_type::RAW, 1 << 24).id(), None);
        assert_eq!(Attr::counting(0x7f, 1).id(), None);
    }
}
