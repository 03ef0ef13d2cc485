//! Runs a command as root under other Linux kernels.
//!
//! For each requested kernel series this module downloads a Debian kernel
//! image, packs an initramfs around busybox and the given files, boots it under
//! QEMU with software emulation (so no KVM is needed), and reports the command's
//! exit status. The guest has no disk, no network and no kernel modules:
//! everything it needs is in the initramfs or built into the kernel.
//!
//! Kernels come through apt with private lists, sources and caches, so the
//! host's apt configuration and package state are read but never changed. The
//! host needs the Debian packages `apt`, `dpkg`, `debian-archive-keyring`,
//! `qemu-system-x86` and `busybox-static`.
//!
//! A guest may be of another architecture: then busybox and the libraries come
//! as packages, too, and the host needs `qemu-system-arm` and `binutils`.

mod apt;
mod archive;
mod console;
mod initramfs;
mod kernel;
mod libraries;
mod machine;
mod qemu;
mod userland;

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;

use crate::arch::Arch;
use crate::command::require_program;
use crate::scratch::Scratch;
use crate::scratch::nonce;
use apt::Debian;
use machine::Machine;
use userland::Userland;

/// Run a command as root in guests booted from Debian kernels
#[derive(Debug, clap::Args)]
pub struct VmArgs {
    /// Kernel to boot: a series such as 6.1, or a longer prefix of Debian's
    /// kernel release such as 6.1.0-47; may be repeated
    #[arg(long = "kernel", value_name = "VERSION", required = true)]
    pub kernels: Vec<String>,

    /// Copy HOST into the guest as GUEST (default /usr/local/bin/NAME), mode
    /// 755, together with the shared libraries it needs; may be repeated
    #[arg(long = "file", value_name = "HOST[:GUEST]", value_parser = GuestFile::parse)]
    pub files: Vec<GuestFile>,

    /// Set a variable in the command's environment; may be repeated
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = parse_env)]
    pub env: Vec<(String, String)>,

    /// Kill a guest that has not powered off after this many seconds
    #[arg(long, value_name = "SECS", default_value_t = 120)]
    pub timeout: u64,

    #[command(flatten)]
    pub host: Host,

    /// Command to run in the guest; without a slash it is looked up in PATH
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// The machine to emulate, and where its kernels come from.
#[derive(Debug, Clone, clap::Args)]
pub struct Host {
    /// Guest memory in MiB; the initramfs is held in it about twice over
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub memory: u32,

    /// Number of guest CPUs
    #[arg(long, default_value_t = 2)]
    pub cpus: u32,

    /// Architecture of the guest
    #[arg(long, value_enum, default_value_t)]
    pub arch: Arch,

    /// Debian kernel flavour, such as cloud-amd64 (the default on x86_64) or amd64
    #[arg(long)]
    flavour: Option<String>,

    /// Put the programs of a Debian package into a guest of another
    /// architecture, together with the libraries they need; may be repeated
    #[arg(long = "package", value_name = "NAME")]
    pub packages: Vec<String>,

    /// Look for a newer build even if the kernel is already in the cache
    #[arg(long)]
    pub refresh: bool,

    /// Debian mirror to download kernels from
    #[arg(long, value_name = "URL", default_value = "http://deb.debian.org")]
    pub mirror: String,

    /// Directory in which kernels are kept
    #[arg(long, value_name = "DIR", default_value = "target/vm")]
    pub cache: PathBuf,
}

impl Host {
    /// The kernel flavour to boot.
    fn flavour(&self) -> String {
        self.flavour.clone().unwrap_or_else(|| format!("cloud-{}", self.arch.debian()))
    }
}

/// A file on the host, and where it goes in the guest.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestFile {
    pub host: PathBuf,
    pub guest: PathBuf,
}

impl GuestFile {
    /// As on the command line.
    pub fn parse(arg: &str) -> Result<Self, String> {
        let (host, guest) = match arg.split_once(':') {
            Some((host, guest)) if guest.starts_with('/') => (host, PathBuf::from(guest)),
            Some((_, guest)) => return Err(format!("guest path {guest:?} is not absolute")),
            None => {
                let name = Path::new(arg).file_name().ok_or("no file name")?;
                (arg, Path::new("/usr/local/bin").join(name))
            }
        };
        Ok(Self { host: PathBuf::from(host), guest })
    }
}

fn parse_env(arg: &str) -> Result<(String, String), String> {
    let (key, value) = arg.split_once('=').ok_or("expected KEY=VALUE")?;
    let valid = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        return Err(format!("{key:?} is not a shell variable name"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Boots every requested kernel in turn; fails if the command failed on any.
pub fn run(args: &VmArgs) -> Result<()> {
    let cache = &args.host.cache;
    let machine = Machine::of(args.host.arch);
    require_program(machine.qemu, machine.package)?;
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;

    let scratch = Scratch::create(cache)?;
    let marker = format!("vm-exit-{}", nonce()?);
    let initramfs = scratch.path.join("initramfs");
    let mut debian = Debian::new(&args.host, &scratch.path);
    let userland = Userland::find(&args.host, &mut debian)?;
    initramfs::build(args, &userland, &marker, &initramfs)?;

    let mut failed = Vec::new();
    for wanted in &args.kernels {
        let started = Instant::now();
        let found = kernel::find(&args.host, wanted, &mut debian);
        let result = found.and_then(|kernel| {
            eprintln!("vm: booting {} ({})", kernel.release, kernel.package);
            let outcome = qemu::boot(args, &kernel, &initramfs, &marker)?;
            let seconds = outcome.elapsed.as_secs_f64();
            outcome.check(args.timeout)?;
            eprintln!("vm: {}: ok in {seconds:.1} s", kernel.release);
            Ok(())
        });
        if let Err(error) = result {
            let seconds = started.elapsed().as_secs_f64();
            eprintln!("vm: {wanted}: FAILED after {seconds:.1} s: {error:#}");
            failed.push(wanted.as_str());
        }
    }
    ensure!(failed.is_empty(), "failed on kernel {}", failed.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_to_a_directory_in_path() {
        let file = |host: &str, guest: &str| GuestFile { host: host.into(), guest: guest.into() };
        assert_eq!(GuestFile::parse("a/b"), Ok(file("a/b", "/usr/local/bin/b")));
        assert_eq!(GuestFile::parse("a/b:/c"), Ok(file("a/b", "/c")));
        assert!(GuestFile::parse("a:b").is_err());
    }
}
