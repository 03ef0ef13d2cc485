//! Where the guest's programs come from: this machine or, if the guest is of
//! another architecture, Debian's packages.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;

use super::GuestFile;
use super::Host;
use super::apt::Debian;
use super::libraries::Libraries;

/// The shell and all small commands of the guest, here and there.
const BUSYBOX: &str = "/bin/busybox";

/// What `prof` and most programs are linked with.
const BASE: [&str; 5] = ["busybox-static", "libc6", "libelf1", "libgcc-s1", "zlib1g"];

const PROGRAM_DIRS: [&str; 4] = ["bin", "sbin", "usr/bin", "usr/sbin"];

/// Programs for every guest, and the libraries for these and others.
#[derive(Debug)]
pub struct Userland {
    /// Busybox, and the programs of the packages that were asked for.
    pub programs: Vec<GuestFile>,
    /// Libraries for whatever else goes into the guest.
    pub libraries: Libraries,
}

impl Userland {
    /// Takes it from this machine, or from the cache of unpacked packages, which
    /// is filled if need be.
    pub fn find(host: &Host, debian: &mut Debian<'_>) -> Result<Self> {
        if host.arch.is_host() {
            ensure!(
                host.packages.is_empty(),
                "--package is for guests of another architecture: here, install it and use --file"
            );
            ensure!(
                Path::new(BUSYBOX).exists(),
                "{BUSYBOX} not found: install the Debian package busybox-static"
            );
            let busybox = GuestFile { host: BUSYBOX.into(), guest: BUSYBOX.into() };
            return Ok(Self { programs: vec![busybox], libraries: Libraries::Host });
        }

        let root = unpacked(host, debian)?;
        let mut programs = Vec::new();
        for name in PROGRAM_DIRS {
            let dir = root.join("programs").join(name);
            if !dir.is_dir() {
                continue;
            }
            for entry in fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
                let file = entry?.path();
                // Links are mostly to a Debian alternative.
                if file.is_symlink() || !file.is_file() {
                    continue;
                }
                let inside = file.strip_prefix(root.join("programs")).unwrap_or(&file);
                programs.push(GuestFile { guest: Path::new("/").join(inside), host: file });
            }
        }
        // Of what was asked for, too, some are libraries.
        let roots = [root.join("programs"), root.join("depends")];
        let libraries = Libraries::Sysroot { roots, triplet: host.arch.triplet() };
        Ok(Self { programs, libraries })
    }
}

/// The directory with `programs`, what was asked for, and `depends`, what that
/// needs.
fn unpacked(host: &Host, debian: &mut Debian<'_>) -> Result<PathBuf> {
    let mut name = format!("packages-{}", host.arch.debian());
    for package in &host.packages {
        let plain = package.starts_with(|c: char| c.is_ascii_alphanumeric())
            && package.chars().all(|c| c.is_ascii_alphanumeric() || ".+-".contains(c));
        ensure!(plain, "{package:?} is not the name of a Debian package");
        name.extend(["_", package]);
    }
    let dir = host.cache.join(&name);
    if dir.exists() && !host.refresh {
        return Ok(dir);
    }
    let wanted: Vec<&str> =
        BASE.into_iter().chain(host.packages.iter().map(String::as_str)).collect();
    let fresh = debian.scratch.join(&name);
    let apt = debian.apt()?;
    let closure = apt.closure(&wanted)?;
    let (asked, depends): (Vec<_>, Vec<_>) =
        closure.into_iter().partition(|(name, _)| wanted.contains(&name.as_str()));
    apt.unpack(&asked, &fresh.join("programs"))?;
    apt.unpack(&depends, &fresh.join("depends"))?;
    // Moved into place only when complete, as with kernels.
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::rename(&fresh, &dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}
