//! Debian's packages, through apt.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;

use super::Host;
use crate::arch::Arch;
use crate::command::output;
use crate::command::require_program;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The security archive carries the newest build of both the release kernel
/// (6.1) and the newer long-term one (6.12); the main archive is the fallback
/// right after a point release.
const SUITES: [(&str, &str); 2] =
    [("debian", "bookworm"), ("debian-security", "bookworm-security")];

/// Packages for a guest; nothing is downloaded before something is needed.
pub struct Debian<'a> {
    host: &'a Host,
    /// For what is not complete.
    pub scratch: &'a Path,
    apt: Option<Apt>,
}

impl<'a> Debian<'a> {
    /// For the guest that `host` describes.
    pub fn new(host: &'a Host, scratch: &'a Path) -> Self {
        Self { host, scratch, apt: None }
    }

    /// The package indexes, downloaded on first use.
    pub fn apt(&mut self) -> Result<&Apt> {
        match &mut self.apt {
            Some(apt) => Ok(apt),
            none => {
                let dir = self.scratch.join("apt");
                Ok(none.insert(Apt::open(&dir, &self.host.mirror, self.host.arch)?))
            }
        }
    }
}

/// Package indexes of their own, apart from the host's.
pub struct Apt {
    dir: PathBuf,
    arch: Arch,
}

impl Apt {
    /// Downloads the package indexes of [`SUITES`] into `dir`.
    pub fn open(dir: &Path, mirror: &str, arch: Arch) -> Result<Self> {
        require_program("apt-get", "apt")?;
        require_program("dpkg-deb", "dpkg")?;
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} not found: install the Debian package debian-archive-keyring"
        );
        for sub in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(dir.join(sub)).context("cannot create apt's directories")?;
        }
        // apt wants absolute paths in its options.
        let dir = fs::canonicalize(dir).context("cannot resolve apt's directory")?;
        let mut sources = String::new();
        for (archive, suite) in SUITES {
            writeln!(
                sources,
                "deb [arch={} signed-by={KEYRING}] {mirror}/{archive} {suite} main",
                arch.debian()
            )?;
        }
        fs::write(dir.join("sources.list"), sources).context("cannot write sources.list")?;

        let apt = Self { dir, arch };
        eprintln!("vm: downloading package indexes of {} from {mirror}", arch.debian());
        output(apt.command("apt-get").args(["--quiet", "update"]))?;
        Ok(apt)
    }

    /// An apt command that sees only this object's sources and state. The rest
    /// of the host's configuration still applies, as it may name a proxy.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut option = |key: &str, value: &OsStr| {
            let mut arg = OsString::from(key);
            arg.push("=");
            arg.push(value);
            command.arg("-o").arg(arg);
        };
        let sources = self.dir.join("sources.list");
        let lists = self.dir.join("lists");
        option("Dir::Etc::SourceList", sources.as_os_str());
        option("Dir::Etc::SourceParts", OsStr::new("/dev/null"));
        option("Dir::Etc::Preferences", OsStr::new("/dev/null"));
        option("Dir::Etc::PreferencesParts", OsStr::new("/dev/null"));
        option("Dir::State", self.dir.as_os_str());
        option("Dir::State::Lists", lists.as_os_str());
        option("Dir::State::Status", OsStr::new("/dev/null"));
        option("Dir::Cache", self.dir.as_os_str());
        option("APT::Architecture", OsStr::new(self.arch.debian()));
        option("APT::Architectures", OsStr::new(self.arch.debian()));
        // A partial index would make a kernel look as if it did not exist.
        option("APT::Update::Error-Mode", OsStr::new("any"));
        // As root, apt would drop to a user who may not write to this directory.
        option("APT::Sandbox::User", OsStr::new("root"));
        command
    }

    /// Name and version of the newest kernel image whose release starts with
    /// `wanted`.
    pub fn newest_image(&self, wanted: &str, flavour: &str) -> Result<(String, String)> {
        let mut pkgnames = self.command("apt-cache");
        pkgnames.arg("pkgnames").arg(format!("linux-image-{wanted}"));
        let names = output(&mut pkgnames)?;
        let names: Vec<&str> =
            names.lines().filter(|name| is_image(name, wanted, flavour)).collect();
        let mut newest: Option<(String, String)> = None;
        if !names.is_empty() {
            for line in output(self.command("apt-cache").arg("madison").args(names))?.lines() {
                let mut columns = line.split('|').map(str::trim);
                let (Some(name), Some(version)) = (columns.next(), columns.next()) else {
                    continue;
                };
                let newer = match &newest {
                    Some((_, best)) => version_gt(version, best)?,
                    None => true,
                };
                if newer {
                    newest = Some((name.to_owned(), version.to_owned()));
                }
            }
        }
        newest.with_context(|| {
            let suites = SUITES.map(|(_, suite)| suite).join(" or ");
            format!("no package linux-image-{wanted}*-{flavour} in {suites}")
        })
    }

    /// Names and versions of packages and of all that they depend on.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<(String, String)>> {
        let plan = output(
            self.command("apt-get")
                .args(["--simulate", "--no-install-recommends", "install"])
                .args(names),
        )?;
        Ok(plan.lines().filter_map(planned).collect())
    }

    /// Downloads packages and unpacks them, one over the other, into `root`.
    pub fn unpack(&self, packages: &[(String, String)], root: &Path) -> Result<()> {
        for (name, version) in packages {
            eprintln!("vm: downloading {name} {version}");
        }
        let debs = self.dir.join("debs");
        fs::create_dir_all(&debs).with_context(|| format!("cannot create {}", debs.display()))?;
        output(
            self.command("apt-get")
                .args(["--quiet", "download"])
                .args(packages.iter().map(|(name, version)| format!("{name}={version}")))
                .current_dir(&debs),
        )?;
        fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
        let mut unpacked = 0;
        for entry in fs::read_dir(&debs).context("cannot list the download")? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                output(Command::new("dpkg-deb").arg("-x").arg(&path).arg(root))?;
                unpacked += 1;
            }
        }
        ensure!(
            unpacked == packages.len(),
            "apt-get downloaded {unpacked} of {} packages",
            packages.len()
        );
        fs::remove_dir_all(&debs).with_context(|| format!("cannot remove {}", debs.display()))
    }
}

/// Name and version in a line of a simulated installation,
/// `Inst NAME (VERSION ORIGIN [ARCH])`.
fn planned(line: &str) -> Option<(String, String)> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
    let (version, _) = rest.split_once(' ')?;
    Some((name.to_owned(), version.to_owned()))
}

/// Whether a package holds a kernel of the wanted version and flavour. The
/// metapackages (`linux-image-6.12-amd64`) are not images: they name only a
/// series, without a patch level.
fn is_image(name: &str, wanted: &str, flavour: &str) -> bool {
    let Some(version) = name
        .strip_prefix("linux-image-")
        .and_then(|rest| rest.strip_suffix(flavour)?.strip_suffix('-'))
    else {
        return false;
    };
    let Some(rest) = version.strip_prefix(wanted) else {
        return false;
    };
    // `6.1` must not match `6.12.9`, nor flavour `amd64` match `cloud-amd64`.
    let whole_component = rest.is_empty() || rest.starts_with(['.', '-', '+']);
    let other_flavour = version
        .rsplit('-')
        .next()
        .is_some_and(|last| !last.starts_with(|c: char| c.is_ascii_digit()));
    whole_component && !other_flavour && version.matches('.').count() >= 2
}

fn version_gt(left: &str, right: &str) -> Result<bool> {
    let status = Command::new("dpkg")
        .args(["--compare-versions", left, "gt", right])
        .status()
        .context("cannot run dpkg")?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_match_whole_version_components() {
        let newer = "linux-image-6.12.117+deb12-cloud-amd64";
        assert!(is_image(newer, "6.12", "cloud-amd64"));
        assert!(!is_image(newer, "6.1", "cloud-amd64"));
        assert!(!is_image(newer, "6.12", "amd64"));
        assert!(!is_image("linux-image-6.12-amd64", "6.12", "amd64"));
        assert!(is_image("linux-image-6.1.0-47-amd64", "6.1.0-47", "amd64"));
    }

    #[test]
    fn simulated_installation() {
        let line = "Inst libelf1 (0.188-2.1 Debian:12.11/oldstable [arm64])";
        assert_eq!(planned(line), Some(("libelf1".to_owned(), "0.188-2.1".to_owned())));
        assert_eq!(planned("Conf libelf1 (0.188-2.1 Debian:12.11/oldstable [arm64])"), None);
    }
}
