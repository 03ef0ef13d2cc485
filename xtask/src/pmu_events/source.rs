//! The source that the tables are made from.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use prof_pmu_events::Arch;

use crate::command::sha256;
use crate::scratch::Scratch;

/// Where they are in a kernel's source.
const PMU_EVENTS: &str = "tools/perf/pmu-events";

/// A kernel's source, or as much of it as is needed.
#[derive(Debug)]
pub struct Source {
    /// `tools/perf/pmu-events`.
    pub dir: PathBuf,
    /// Of the kernel, such as `7.3.4`.
    pub version: String,
    /// Where it was unpacked to.
    _unpacked: Option<Scratch>,
}

/// What the tables are made from: one architecture's file of events, or its map.
#[derive(Debug)]
pub struct File {
    pub arch: Arch,
    /// From the architecture's directory on: `skylake/cache.json`.
    pub name: String,
    pub path: PathBuf,
}

impl Source {
    /// That of a directory.
    pub fn of_dir(linux: &Path) -> Result<Self> {
        let path = linux.join("Makefile");
        let makefile = fs::read_to_string(&path)
            .with_context(|| format!("no kernel source: cannot read {}", path.display()))?;
        let value = |key: &str| {
            makefile
                .lines()
                .find_map(|l| l.strip_prefix(key)?.trim().strip_prefix('='))
                .map(str::trim)
        };
        let (Some(version), Some(patch), Some(sub)) =
            (value("VERSION"), value("PATCHLEVEL"), value("SUBLEVEL"))
        else {
            bail!("{}: no version of the kernel", path.display());
        };
        let extra = value("EXTRAVERSION").unwrap_or_default();
        let dir = linux.join(PMU_EVENTS);
        ensure!(dir.is_dir(), "{}: not there", dir.display());
        Ok(Self { dir, version: format!("{version}.{patch}.{sub}{extra}"), _unpacked: None })
    }

    /// That of a tarball, or of a Debian package that holds one.
    pub fn unpack(file: &Path) -> Result<Self> {
        let scratch = Scratch::create(&std::env::temp_dir())?;
        let tarball = if file.extension() == Some(OsStr::new("deb")) {
            unpack_package(file, &scratch.path)?
        } else {
            file.to_owned()
        };
        let tree = scratch.path.join("linux");
        fs::create_dir(&tree).with_context(|| format!("cannot create {}", tree.display()))?;
        crate::command::status(
            Command::new("tar")
                .arg("-xf")
                .arg(&tarball)
                .arg("-C")
                .arg(&tree)
                .args(["--strip-components=1", "--wildcards", "--no-wildcards-match-slash"])
                .arg("*/Makefile")
                .arg(format!("*/{PMU_EVENTS}")),
        )?;
        let source = Self::of_dir(&tree)?;
        Ok(Self { _unpacked: Some(scratch), ..source })
    }

    /// An architecture's directory.
    pub fn arch_dir(&self, arch: Arch) -> PathBuf {
        self.dir.join("arch").join(arch.name())
    }

    /// The files that count, in order.
    pub fn files(&self) -> Result<Vec<File>> {
        let mut files = Vec::new();
        for arch in Arch::ALL {
            let dir = self.arch_dir(arch);
            let mut names = Vec::new();
            walk(&dir, "", &mut names)?;
            names.sort();
            files.extend(names.into_iter().map(|name| File { arch, path: dir.join(&name), name }));
        }
        Ok(files)
    }

    /// SHA-256 over all that the tables are made from: for each file architecture,
    /// name, length and content.
    pub fn sum(&self) -> Result<String> {
        let mut all = Vec::new();
        for file in self.files()? {
            let content = read(&file.path)?;
            let head = format!("{}/{}\n{}\n", file.arch.name(), file.name, content.len());
            all.extend_from_slice(head.as_bytes());
            all.extend_from_slice(content.as_bytes());
        }
        let scratch = Scratch::create(&std::env::temp_dir())?;
        let path = scratch.path.join("all");
        fs::write(&path, all).with_context(|| format!("cannot write {}", path.display()))?;
        sha256(&path)
    }
}

/// Content of a file of the source.
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Files of events, and maps; metrics and the names of their groups are left out.
fn walk(dir: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{name}/"), names)?;
        } else if name == "mapfile.csv"
            || name.ends_with(".json") && !name.ends_with("metricgroups.json")
        {
            names.push(name);
        }
    }
    Ok(())
}

/// The tarball that a package holds.
fn unpack_package(package: &Path, to: &Path) -> Result<PathBuf> {
    let mut contents = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let pipe = contents.stdout.take().context("dpkg-deb has no output")?;
    let dir = to.join("package");
    fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let unpacked = Command::new("tar")
        .args(["-x", "-f", "-", "-C"])
        .arg(&dir)
        .args(["--wildcards", "./usr/src/linux-source-*.tar.*"])
        .stdin(pipe)
        .status()
        .context("cannot run tar")?;
    let read = contents.wait().context("cannot wait for dpkg-deb")?;
    ensure!(read.success() && unpacked.success(), "cannot unpack {}", package.display());
    let mut found = fs::read_dir(dir.join("usr/src"))
        .with_context(|| format!("{}: no kernel source", package.display()))?;
    let entry = found.next().with_context(|| format!("{}: no tarball", package.display()))??;
    Ok(entry.path())
}
