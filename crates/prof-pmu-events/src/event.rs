//! An event, and the PMUs that have it.

/// An event of a CPU model.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Event<'a> {
    /// In lower case, such as `l1d.replacement`.
    pub name: &'a str,
    /// The PMU that has it: [`Event::CORE`], or the name that its PMUs in sysfs begin
    /// with; see [`Event::is_of_pmu`].
    pub pmu: &'a str,
    /// What to put between the slashes of `PMU//`, in perf's syntax:
    /// `event=0x51,period=100003,umask=1`. `period` is the vendor's advice for
    /// sampling, in events.
    pub terms: &'a str,
    /// The kind of thing: `cache`, `frontend`, `uncore memory`.
    pub topic: &'a str,
    /// What a count times [`Event::scale`] is in, such as `MiB/sec`; without it, in
    /// events.
    pub unit: Option<&'a str>,
    /// What a count is to be multiplied with; 1 for most.
    pub scale: f64,
    /// Counted once per package (socket), on any of its CPUs.
    pub per_package: bool,
    /// The vendor has a newer name for it, or it does not count what it says.
    pub deprecated: bool,
    /// Whether a sample can be put down to the instruction (`:p`).
    pub precise: Precise,
    /// A precise sample has the address of the data.
    pub data_address: bool,
    /// The vendor's errata on it.
    pub errata: Option<&'a str>,
    /// Which PMUs have it; see [`Event::fits`].
    pub compatible: Option<&'a str>,
    /// Numbers of its texts.
    pub(crate) texts: [Option<u32>; 2],
}

/// Whether samples of an event can be precise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precise {
    /// The vendor's file does not say. Those of newer CPUs do not, or only in words.
    #[default]
    Unsaid,
    /// If asked for.
    Can,
    /// The event does not count otherwise.
    Must,
}

impl Event<'_> {
    /// Stands for the PMU of the cores, if they are all alike: `cpu` on x86; on arm64
    /// the one whose CPUs the table is for (`armv8_pmuv3_0` and the like).
    pub const CORE: &'static str = "default_core";

    /// Whether a PMU of sysfs has it: same name or a numbered one of the kind, such
    /// as `uncore_cha_12` or `hisi_sccl1_ddrc0`. Of [`Event::CORE`], only `cpu`.
    pub fn is_of_pmu(&self, pmu: &str) -> bool {
        if self.pmu == Self::CORE {
            return pmu == "cpu";
        }
        match self.pmu.split_once(',') {
            // A number may follow each part: hisi_sccl,ddrc.
            Some((first, second)) => pmu
                .strip_prefix(first)
                .map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()))
                .and_then(|rest| rest.strip_prefix('_'))
                .and_then(|rest| rest.strip_prefix(second))
                .is_some_and(is_number_or_nothing),
            None => pmu.strip_prefix(self.pmu).is_some_and(is_number_or_nothing),
        }
    }

    /// Whether it is for a PMU of which the file `identifier` says this. Of PMUs
    /// outside of the CPU, different ones have the same name.
    pub fn fits(&self, identifier: &str) -> bool {
        let Some(pattern) = self.compatible else { return true };
        let (alternatives, rest) =
            pattern.strip_prefix('(').and_then(|p| p.split_once(')')).unwrap_or(("", pattern));
        let (rest, open) = match rest.strip_suffix(".*") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        alternatives.split('|').any(|alternative| {
            let mut wanted = alternative.bytes().chain(rest.bytes());
            let mut there = identifier.trim().bytes();
            let same = wanted.by_ref().all(|w| there.next().is_some_and(|t| w == b'.' || w == t));
            same && (open || there.next().is_none())
        })
    }
}

/// What may follow the name of a kind of PMU: `_12`, `0`; some are numbered by
/// address, which then has more than two hexadecimal digits.
fn is_number_or_nothing(suffix: &str) -> bool {
    if suffix.is_empty() {
        return true;
    }
    let digits = suffix.strip_prefix('_').unwrap_or(suffix);
    !digits.is_empty()
        && (digits.bytes().all(|b| b.is_ascii_digit())
            || digits.len() > 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event<'a>(pmu: &'a str, compatible: Option<&'a str>) -> Event<'a> {
        Event {
            name: "x",
            pmu,
            terms: "event=1",
            topic: "",
            unit: None,
            scale: 1.0,
            per_package: false,
            deprecated: false,
            precise: Precise::Unsaid,
            data_address: false,
            errata: None,
            compatible,
            texts: [None; 2],
        }
    }

    #[test]
    fn a_kind_of_pmu_is_found_by_its_numbered_names() {
        for (kind, pmu, is) in [
            ("default_core", "cpu", true),
            ("default_core", "cpu_atom", false),
            ("cpu_atom", "cpu_atom", true),
            ("cpu_atom", "cpu_core", false),
            ("uncore_cha", "uncore_cha_12", true),
            ("uncore_cha", "uncore_cha", true),
            ("uncore_cha", "uncore_chacms", false),
            ("uncore_imc", "uncore_imc_0", true),
            ("uncore_imc", "uncore_imc_free_running_0", false),
            ("uncore_imc_free_running", "uncore_imc_free_running_1", true),
            ("amd_umc", "amd_umc_3", true),
            ("arm_cmn", "arm_cmn_0", true),
            ("ali_drw", "ali_drw_21000", true),
            ("ali_drw", "ali_drw_2100a", true),
            ("ali_drw", "ali_drw_a", false),
            ("imx8_ddr", "imx8_ddr0", true),
            ("hisi_sccl,ddrc", "hisi_sccl1_ddrc0", true),
            ("hisi_sccl,ddrc", "hisi_sccl11_ddrc", true),
            ("hisi_sccl,ddrc", "hisi_sccl1_l3c0", false),
            ("hisi_sccl,ddrc", "hisi_sccl1_ddrc_x", false),
        ] {
            assert_eq!(event(kind, None).is_of_pmu(pmu), is, "{kind} {pmu}");
        }
    }

    #[test]
    fn an_identifier_fits_as_a_whole() {
        for (pattern, identifier, fits) in [
            (None, "anything", true),
            (Some("i.MX8MM"), "i.MX8MM\n", true),
            (Some("i.MX8MM"), "i.MX8MMX", false),
            (Some("i.MX8MM"), "i.MX8M", false),
            (Some("(434|436|43c|43a).*"), "43c01", true),
            (Some("(434|436|43c|43a).*"), "434", true),
            (Some("(434|436|43c|43a).*"), "43b01", false),
            (Some("0x00000030"), "0x00000030", true),
        ] {
            assert_eq!(event("p", pattern).fits(identifier), fits, "{pattern:?} {identifier}");
        }
    }
}
