//! Which CPU this is.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use crate::archive::Arch;
use crate::error::Error;

/// What a CPU says of itself, as far as tables of events go by it.
///
/// Shown and parsed as perf writes it (`PERF_CPUID`, the header of perf.data):
/// `GenuineIntel-6-8F-8`, where only the family is decimal, or
/// `0x00000000410fd0c0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CpuId {
    /// From the instruction CPUID.
    X86 {
        /// Twelve letters, such as `GenuineIntel`.
        vendor: String,
        /// With the extended family added.
        family: u32,
        /// With the extended model in front.
        model: u32,
        /// A revision of the model.
        stepping: u32,
    },
    /// The register MIDR_EL1: implementer in bits 31–24, variant 23–20,
    /// architecture 19–16, part 15–4, revision 3–0.
    Arm64 {
        /// All of it.
        midr: u64,
    },
}

/// Bits of MIDR that tell versions of a part apart.
const VARIANT: u64 = 0x00f0_0000;
const REVISION: u64 = 0xf;

impl CpuId {
    /// The CPU that this host has; `None` if it is of an architecture without tables.
    ///
    /// `sysfs` and `procfs` are where these are mounted: `/sys` and `/proc`. If CPUs
    /// differ (big.LITTLE), this is the first that can be read; see [`CpuId::of_cpu`].
    pub fn of_host(sysfs: &Path, procfs: &Path) -> Result<Option<Self>, Error> {
        match numbers(&sysfs.join("devices/system/cpu")) {
            // Without sysfs there is /proc.
            Err(_) => {}
            Ok(cpus) => {
                for cpu in cpus {
                    // One that is offline has no such file.
                    if let Some(id) = Self::of_cpu(sysfs, cpu)? {
                        return Ok(Some(id));
                    }
                }
            }
        }
        let path = procfs.join("cpuinfo");
        let text = fs::read_to_string(&path).map_err(|error| Error::Read(path.clone(), error))?;
        Self::of_cpuinfo(&text)
            .map_err(|what| Error::Cpu(path.to_string_lossy().into_owned(), what))
    }

    /// One CPU of an arm64 host: for a core PMU, the first that its file `cpus` lists.
    /// `None` if that CPU is offline, or the host is not arm64.
    pub fn of_cpu(sysfs: &Path, cpu: u32) -> Result<Option<Self>, Error> {
        let path = sysfs.join(format!("devices/system/cpu/cpu{cpu}/regs/identification/midr_el1"));
        match fs::read_to_string(&path) {
            Ok(text) => {
                let midr = hexadecimal(text.trim()).ok_or_else(|| {
                    let what = format!("{:?} is no number", text.trim());
                    Error::Cpu(path.to_string_lossy().into_owned(), what)
                })?;
                Ok(Some(Self::Arm64 { midr }))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(Error::Read(path, error)),
        }
    }

    /// The first CPU of `/proc/cpuinfo`.
    fn of_cpuinfo(text: &str) -> Result<Option<Self>, String> {
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(k, _)| k.trim() == key)
                .map(|(_, v)| v.trim())
        };
        let decimal = |key: &str| -> Result<u32, String> {
            let v = value(key).ok_or_else(|| format!("no {key:?}"))?;
            v.parse().map_err(|_| format!("{key:?} is {v:?}, not a number"))
        };
        if let Some(vendor) = value("vendor_id") {
            // s390 has that key, too, but no family.
            if value("cpu family").is_none() {
                return Ok(None);
            }
            // CPUs before steppings were a thing.
            let stepping =
                if value("stepping") == Some("unknown") { 0 } else { decimal("stepping")? };
            return Ok(Some(Self::X86 {
                vendor: vendor.to_owned(),
                family: decimal("cpu family")?,
                model: decimal("model")?,
                stepping,
            }));
        }
        if value("CPU implementer").is_none() {
            return Ok(None);
        }
        let field = |key: &str, max: u64| -> Result<u64, String> {
            let v = value(key).ok_or_else(|| format!("no {key:?}"))?;
            let number = if v.starts_with("0x") { hexadecimal(v) } else { v.parse().ok() };
            number.filter(|n| *n <= max).ok_or_else(|| format!("{key:?} is {v:?}"))
        };
        let midr = field("CPU implementer", 0xff)? << 24
            | field("CPU variant", 0xf)? << 20
            // From Armv7 on: "see the ID registers".
            | 0xf << 16
            | field("CPU part", 0xfff)? << 4
            | field("CPU revision", 0xf)?;
        Ok(Some(Self::Arm64 { midr }))
    }

    /// What tables to look into.
    pub fn arch(&self) -> Arch {
        match self {
            Self::X86 { .. } => Arch::X86,
            Self::Arm64 { .. } => Arch::Arm64,
        }
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X86 { vendor, family, model, stepping } => {
                write!(f, "{vendor}-{family}-{model:X}-{stepping:X}")
            }
            Self::Arm64 { midr } => write!(f, "{midr:#018x}"),
        }
    }
}

impl FromStr for CpuId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            if text.starts_with("0x") {
                return Some(Self::Arm64 { midr: hexadecimal(text)? });
            }
            let mut parts = text.split('-');
            let vendor = parts.next().filter(|v| !v.is_empty())?.to_owned();
            let family = parts.next()?.parse().ok()?;
            let model = u32::from_str_radix(parts.next()?, 16).ok()?;
            let stepping = u32::from_str_radix(parts.next()?, 16).ok()?;
            parts.next().is_none().then_some(Self::X86 { vendor, family, model, stepping })
        };
        parse().ok_or_else(|| {
            let what = "is neither VENDOR-FAMILY-MODEL-STEPPING nor a hexadecimal MIDR";
            Error::Cpu(format!("{text:?}"), what.to_owned())
        })
    }
}

/// Whether a CPU has a part's events: the same part, at least of that version.
/// Versions are compared as variant, then revision.
pub(crate) fn midr_is_at_least(midr: u64, from: u64) -> bool {
    let part = |m: u64| m & !(VARIANT | REVISION);
    let version = |m: u64| (m & VARIANT, m & REVISION);
    part(midr) == part(from) && version(midr) >= version(from)
}

pub(crate) fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// Numbers of the CPUs that have a directory, in order.
fn numbers(dir: &Path) -> io::Result<BTreeSet<u32>> {
    let mut numbers = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("cpu")).map(str::parse);
        if let Some(Ok(number)) = number {
            numbers.insert(number);
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const XEON: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n\
        model name\t: Intel(R) Xeon(R)\nstepping\t: 8\n\nprocessor\t: 1\nvendor_id\t: Other\n";

    fn host(cpuinfo: &str, midrs: &[(u32, &str)]) -> Result<Option<CpuId>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let (sysfs, procfs) = (dir.path().join("sys"), dir.path().join("proc"));
        fs::create_dir(&procfs).unwrap();
        fs::write(procfs.join("cpuinfo"), cpuinfo).unwrap();
        fs::create_dir_all(sysfs.join("devices/system/cpu/cpufreq")).unwrap();
        fs::create_dir_all(sysfs.join("devices/system/cpu/cpu0")).unwrap();
        for (cpu, midr) in midrs {
            let regs = sysfs.join(format!("devices/system/cpu/cpu{cpu}/regs/identification"));
            fs::create_dir_all(&regs).unwrap();
            fs::write(regs.join("midr_el1"), midr).unwrap();
        }
        CpuId::of_host(&sysfs, &procfs)
    }

    #[test]
    fn x86_is_read_from_cpuinfo() {
        assert_eq!(host(XEON, &[]).unwrap().unwrap().to_string(), "GenuineIntel-6-8F-8");
        let old = XEON.replace(": 8", ": unknown");
        assert_eq!(host(&old, &[]).unwrap().unwrap().to_string(), "GenuineIntel-6-8F-0");
        let error = host(&XEON.replace("143", "x"), &[]).unwrap_err().to_string();
        assert!(error.contains("cpuinfo: \"model\" is \"x\", not a number"), "{error}");
    }

    #[test]
    fn arm64_is_read_from_sysfs_or_else_from_cpuinfo() {
        let midrs = [(10, "0x00000000410fd0c1\n"), (9, "0x00000000413fd0c1\n")];
        assert_eq!(host("", &midrs).unwrap().unwrap().to_string(), "0x00000000413fd0c1");
        let cpuinfo = "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\n\
            CPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n";
        assert_eq!(host(cpuinfo, &[]).unwrap(), host("", &midrs).unwrap());
        let error = host(cpuinfo, &[(0, "zero")]).unwrap_err().to_string();
        assert!(error.contains("cpu0/regs/identification/midr_el1: \"zero\" is no number"));
        assert!(host(&cpuinfo.replace("0x41", "0x1410"), &[]).is_err());
    }

    #[test]
    fn other_architectures_have_no_tables() {
        assert_eq!(host("isa : rv64imafdc\n", &[]).unwrap(), None);
        assert_eq!(host("vendor_id : IBM/S390\n", &[]).unwrap(), None);
    }

    #[test]
    fn a_host_that_does_not_tell_is_an_error_with_the_file() {
        let nowhere = Path::new("/nonexistent");
        let error = CpuId::of_host(nowhere, nowhere).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/cpuinfo"), "{error}");
    }

    #[test]
    fn texts_go_there_and_back() {
        for text in ["GenuineIntel-6-8F-8", "AuthenticAMD-25-1-0", "0x00000000410fd0c0"] {
            assert_eq!(text.parse::<CpuId>().unwrap().to_string(), text);
        }
        for text in ["", "GenuineIntel", "GenuineIntel-6-8F", "-6-8F-8", "a-6-8F-8-1", "0xg"] {
            assert!(text.parse::<CpuId>().is_err(), "{text}");
        }
    }

    #[test]
    fn versions_of_a_part_compare_by_variant_then_revision() {
        let at_least = |a, b| midr_is_at_least(a, b);
        assert!(at_least(0x0041_3fd0c1, 0x0041_0fd0c0));
        assert!(at_least(0x0041_1fd490, 0x0041_0fd491));
        assert!(!at_least(0x0041_0fd490, 0x0041_0fd491));
        assert!(!at_least(0x0041_0fd491, 0x0041_1fd490));
        assert!(!at_least(0x0041_0fd0c0, 0x0041_0fd0d0));
    }
}
