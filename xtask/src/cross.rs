//! Building for another architecture than this machine's.
//!
//! Cargo needs three things for that which a native build does not: a standard
//! library of the target, a linker, and the target's libelf and zlib. Nothing is
//! installed here; what is missing is named, with the command that gets it.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use anyhow::bail;

use crate::arch::Arch;
use crate::command::has_program;
use crate::command::output;
use crate::command::status;
use crate::workspace;

/// Build prof, as a release, for this architecture or for another
#[derive(Debug, clap::Args)]
pub struct BuildArgs {
    /// Architecture to build for
    #[arg(long, alias = "target", value_enum, default_value_t)]
    arch: Arch,

    /// More arguments for `cargo build`, such as `--features vendored`
    #[arg(last = true, value_name = "ARG")]
    cargo: Vec<String>,
}

/// Builds it, and says where it is.
pub fn run(args: &BuildArgs) -> Result<()> {
    let mut cargo = vec!["build", "--release", "--package", "prof"];
    cargo.extend(args.cargo.iter().map(String::as_str));
    let vendored = args.cargo.iter().any(|arg| arg.contains("vendored"));
    let built = workspace::build_for(&Target::new(args.arch, vendored)?, &cargo, "prof")?;
    println!("{}", built.display());
    Ok(())
}

/// What cargo is told about an architecture: nothing about this machine's own.
#[derive(Debug)]
pub struct Target {
    /// Which.
    pub arch: Arch,
    env: Vec<(String, OsString)>,
}

impl Target {
    /// Fails, naming all that is missing. A `vendored` build brings libelf and
    /// zlib along.
    pub fn new(arch: Arch, vendored: bool) -> Result<Self> {
        if arch.is_host() {
            return Ok(Self { arch, env: Vec::new() });
        }
        let missing = missing(arch, vendored)?;
        if !missing.is_empty() {
            bail!("to build for {}, install:\n  {}", arch.name(), missing.join("\n  "));
        }
        let lower = arch.rust_target().replace('-', "_");
        let upper = lower.to_uppercase();
        let libraries = format!("{}:/usr/share/pkgconfig", pkg_config_dir(arch).display());
        Ok(Self {
            arch,
            env: vec![
                (format!("CARGO_TARGET_{upper}_LINKER"), linker(arch).into()),
                // Or pkg-config would tell of this machine's libraries.
                (format!("PKG_CONFIG_LIBDIR_{lower}"), libraries.into()),
                ("PKG_CONFIG_ALLOW_CROSS".to_owned(), "1".into()),
            ],
        })
    }

    /// Adds `--target` and the environment that goes with it.
    pub fn apply(&self, cargo: &mut Command) {
        if !self.arch.is_host() {
            cargo.args(["--target", self.arch.rust_target()]);
        }
        cargo.envs(self.env.iter().map(|(key, value)| (key, value)));
    }

    /// Copies a program without DWARF, which is most of a test binary.
    pub fn strip(&self, from: &Path, to: &Path) -> Result<()> {
        let strip = if self.arch.is_host() {
            "strip".to_owned()
        } else {
            format!("{}-strip", self.arch.triplet())
        };
        status(Command::new(strip).arg("--strip-debug").arg("-o").arg(to).arg(from))
    }
}

fn linker(arch: Arch) -> String {
    format!("{}-gcc", arch.triplet())
}

fn pkg_config_dir(arch: Arch) -> PathBuf {
    Path::new("/usr/lib").join(arch.triplet()).join("pkgconfig")
}

/// Commands that get what is missing.
fn missing(arch: Arch, vendored: bool) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let target = arch.rust_target();
    let std = output(Command::new("rustc").args(["--print=target-libdir", "--target", target]))?;
    if !Path::new(std.trim()).is_dir() {
        missing.push(format!("rustup target add {target}"));
    }
    if !has_program(&linker(arch)) {
        missing.push(format!("apt-get install gcc-{}", arch.triplet().replace('_', "-")));
    }
    let dir = pkg_config_dir(arch);
    if !vendored && ["libelf.pc", "zlib.pc"].iter().any(|file| !dir.join(file).is_file()) {
        let arch = arch.debian();
        missing.push(format!(
            "dpkg --add-architecture {arch} && apt-get update && \
             apt-get install libelf-dev:{arch} zlib1g-dev:{arch}"
        ));
    }
    Ok(missing)
}
