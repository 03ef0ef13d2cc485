//! Kernels in the cache.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;

use super::Host;
use super::apt::Debian;

/// What a guest kernel must have for a BPF profiler to be testable on it.
const REQUIRED_CONFIG: [&str; 5] = [
    "CONFIG_BPF_SYSCALL",
    "CONFIG_BPF_EVENTS",
    "CONFIG_PERF_EVENTS",
    "CONFIG_KPROBES",
    "CONFIG_DEBUG_INFO_BTF",
];

/// A kernel unpacked in the cache.
pub struct Kernel {
    /// Path of the image.
    pub image: PathBuf,
    /// What `uname -r` prints, such as `6.1.0-47-cloud-amd64`.
    pub release: String,
    /// Debian package and version, such as `linux-image-… 6.1.170-1`.
    pub package: String,
}

/// Returns the cached kernel for `wanted`, downloading it first if need be.
pub fn find(host: &Host, wanted: &str, debian: &mut Debian<'_>) -> Result<Kernel> {
    let is_version = wanted.starts_with(|c: char| c.is_ascii_digit())
        && wanted.chars().all(|c| c.is_ascii_alphanumeric() || ".+-~".contains(c));
    ensure!(is_version, "{wanted:?} is not a kernel version");

    let flavour = host.flavour();
    let dir = host.cache.join(format!("{wanted}-{flavour}"));
    if host.refresh || !dir.exists() {
        let root = debian.scratch.join(&flavour).join(wanted);
        let apt = debian.apt()?;
        let image = apt.newest_image(wanted, &flavour)?;
        apt.unpack(std::slice::from_ref(&image), &root)?;
        let boot = root.join("boot");
        let (name, version) = image;
        fs::write(boot.join("package"), format!("{name} {version}\n"))
            .context("cannot write the package name")?;
        // Moved into place only when complete, so that an interrupted run
        // never leaves half a kernel in the cache.
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        fs::rename(&boot, &dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }

    let package = fs::read_to_string(dir.join("package"))
        .with_context(|| format!("{} is not a cached kernel", dir.display()))?
        .trim()
        .to_owned();
    let mut release = None;
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let name = entry?.file_name();
        if let Some(found) = name.to_str().and_then(|n| n.strip_prefix("vmlinuz-")) {
            release = Some(found.to_owned());
        }
    }
    let release = release.with_context(|| format!("{package} has no /boot/vmlinuz-*"))?;
    let config = dir.join(format!("config-{release}"));
    let config =
        fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    for option in REQUIRED_CONFIG {
        ensure!(
            config.lines().any(|line| line == format!("{option}=y")),
            "{release} is built without {option}"
        );
    }
    Ok(Kernel { image: dir.join(format!("vmlinuz-{release}")), release, package })
}
