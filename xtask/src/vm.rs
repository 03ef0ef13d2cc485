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

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{bail, ensure, Context, Result};

const BUSYBOX: &str = "/bin/busybox";
const QEMU: &str = "qemu-system-x86_64";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The security archive carries the newest build of both the release kernel
/// (6.1) and the newer long-term one (6.12); the main archive is the fallback
/// right after a point release.
const SUITES: [(&str, &str); 2] = [
    ("debian", "bookworm"),
    ("debian-security", "bookworm-security"),
];

/// What a guest kernel must have for a BPF profiler to be testable on it.
const REQUIRED_CONFIG: [&str; 5] = [
    "CONFIG_BPF_SYSCALL",
    "CONFIG_BPF_EVENTS",
    "CONFIG_PERF_EVENTS",
    "CONFIG_KPROBES",
    "CONFIG_DEBUG_INFO_BTF",
];

/// `panic=-1` reboots at once, which QEMU's `-no-reboot` turns into an exit. The
/// boot-time check that timer interrupts arrive is off, as it fails at random
/// when a busy host delays an emulated CPU.
const KERNEL_ARGS: &str = "quiet console=ttyS0 panic=-1 no_timer_check";

const GUEST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// Run a command as root in guests booted from Debian kernels
#[derive(Debug, clap::Args)]
pub struct VmArgs {
    /// Kernel to boot: a series such as 6.1, or a longer prefix of Debian's
    /// kernel release such as 6.1.0-47; may be repeated
    #[arg(long = "kernel", value_name = "VERSION", required = true)]
    kernels: Vec<String>,

    /// Copy HOST into the guest as GUEST (default /usr/local/bin/NAME), mode
    /// 755, together with the shared libraries it needs; may be repeated
    #[arg(long = "file", value_name = "HOST[:GUEST]", value_parser = GuestFile::parse)]
    files: Vec<GuestFile>,

    /// Set a variable in the command's environment; may be repeated
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = parse_env)]
    env: Vec<(String, String)>,

    /// Kill a guest that has not powered off after this many seconds
    #[arg(long, value_name = "SECS", default_value_t = 120)]
    timeout: u64,

    /// Guest memory in MiB; the initramfs is held in it about twice over
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u32,

    /// Number of guest CPUs
    #[arg(long, default_value_t = 2)]
    cpus: u32,

    /// Debian kernel flavour, such as cloud-amd64 or amd64
    #[arg(long, default_value = "cloud-amd64")]
    flavour: String,

    /// Look for a newer build even if the kernel is already in the cache
    #[arg(long)]
    refresh: bool,

    /// Debian mirror to download kernels from
    #[arg(long, value_name = "URL", default_value = "http://deb.debian.org")]
    mirror: String,

    /// Directory in which kernels are kept
    #[arg(long, value_name = "DIR", default_value = "target/vm")]
    cache: PathBuf,

    /// Command to run in the guest; without a slash it is looked up in PATH
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// One `--file` argument.
#[derive(Clone, Debug, PartialEq)]
struct GuestFile {
    host: PathBuf,
    guest: PathBuf,
}

impl GuestFile {
    fn parse(arg: &str) -> Result<Self, String> {
        let (host, guest) = match arg.split_once(':') {
            Some((host, guest)) if guest.starts_with('/') => (host, PathBuf::from(guest)),
            Some((_, guest)) => return Err(format!("guest path {guest:?} is not absolute")),
            None => {
                let name = Path::new(arg).file_name().ok_or("no file name")?;
                (arg, Path::new("/usr/local/bin").join(name))
            }
        };
        Ok(Self {
            host: PathBuf::from(host),
            guest,
        })
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
// By value, as the arguments have no use after the run.
#[allow(clippy::needless_pass_by_value)]
pub fn run(args: VmArgs) -> Result<()> {
    require_program(QEMU, "qemu-system-x86")?;
    ensure!(
        Path::new(BUSYBOX).exists(),
        "{BUSYBOX} not found: install the Debian package busybox-static"
    );
    fs::create_dir_all(&args.cache)
        .with_context(|| format!("cannot create {}", args.cache.display()))?;

    let scratch = Scratch::create(&args.cache)?;
    let marker = format!("vm-exit-{}", nonce()?);
    let initramfs = scratch.path.join("initramfs");
    build_initramfs(&args, &marker, &initramfs)?;

    let mut apt = None;
    let mut failed = Vec::new();
    for wanted in &args.kernels {
        let started = Instant::now();
        let result = find_kernel(&args, wanted, &scratch.path, &mut apt).and_then(|kernel| {
            eprintln!("vm: booting {} ({})", kernel.release, kernel.package);
            let outcome = boot(&args, &kernel, &initramfs, &marker)?;
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

// --- Kernel images -------------------------------------------------------

/// A kernel unpacked in the cache.
struct Kernel {
    image: PathBuf,
    /// What `uname -r` prints, such as `6.1.0-47-cloud-amd64`.
    release: String,
    /// Debian package and version, such as `linux-image-… 6.1.170-1`.
    package: String,
}

/// Returns the cached kernel for `wanted`, downloading it first if need be.
fn find_kernel(
    args: &VmArgs,
    wanted: &str,
    scratch: &Path,
    apt: &mut Option<Apt>,
) -> Result<Kernel> {
    let is_version = wanted.starts_with(|c: char| c.is_ascii_digit())
        && wanted
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".+-~".contains(c));
    ensure!(is_version, "{wanted:?} is not a kernel version");

    let dir = args.cache.join(format!("{wanted}-{}", args.flavour));
    if args.refresh || !dir.exists() {
        let apt = match apt {
            Some(apt) => apt,
            None => apt.insert(Apt::open(&scratch.join("apt"), &args.mirror)?),
        };
        let (name, version) = apt.newest_image(wanted, &args.flavour)?;
        let boot = apt.download(&name, &version)?;
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
    Ok(Kernel {
        image: dir.join(format!("vmlinuz-{release}")),
        release,
        package,
    })
}

/// Package indexes of their own, apart from the host's.
struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Downloads the package indexes of [`SUITES`] into `dir`.
    fn open(dir: &Path, mirror: &str) -> Result<Self> {
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
                "deb [arch=amd64 signed-by={KEYRING}] {mirror}/{archive} {suite} main"
            )?;
        }
        fs::write(dir.join("sources.list"), sources).context("cannot write sources.list")?;

        let apt = Self { dir };
        eprintln!("vm: downloading package indexes from {mirror}");
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
        option("APT::Architecture", OsStr::new("amd64"));
        // A partial index would make a kernel look as if it did not exist.
        option("APT::Update::Error-Mode", OsStr::new("any"));
        // As root, apt would drop to a user who may not write to this directory.
        option("APT::Sandbox::User", OsStr::new("root"));
        command
    }

    /// Name and version of the newest kernel image whose release starts with
    /// `wanted`.
    fn newest_image(&self, wanted: &str, flavour: &str) -> Result<(String, String)> {
        let mut pkgnames = self.command("apt-cache");
        pkgnames
            .arg("pkgnames")
            .arg(format!("linux-image-{wanted}"));
        let names = output(&mut pkgnames)?;
        let names: Vec<&str> = names
            .lines()
            .filter(|name| is_image(name, wanted, flavour))
            .collect();
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

    /// Downloads a kernel package and returns the directory to which its
    /// `/boot` was unpacked.
    fn download(&self, name: &str, version: &str) -> Result<PathBuf> {
        eprintln!("vm: downloading {name} {version}");
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        output(
            self.command("apt-get")
                .args(["--quiet", "download"])
                .arg(format!("{name}={version}"))
                .current_dir(&dir),
        )?;
        let mut package = None;
        for entry in fs::read_dir(&dir).context("cannot list the download")? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                package = Some(path);
            }
        }
        let package = package.with_context(|| format!("apt-get downloaded no {name}"))?;
        let root = dir.join("root");
        output(Command::new("dpkg-deb").arg("-x").arg(package).arg(&root))?;
        Ok(root.join("boot"))
    }
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

// --- Initramfs -----------------------------------------------------------

fn build_initramfs(args: &VmArgs, marker: &str, path: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for dir in [
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "root",
        "etc",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "usr/local/bin",
        "usr/local/sbin",
    ] {
        archive.add(dir, Node::Dir)?;
    }
    // init gets its standard streams from this node, before devtmpfs is mounted.
    archive.add("dev/console", Node::Device { major: 5, minor: 1 })?;
    for (name, text) in [
        (
            "passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n",
        ),
        ("group", "root:x:0:\nnogroup:x:65534:\n"),
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ] {
        archive.add(Path::new("etc").join(name), Node::Text(text.to_owned()))?;
    }
    // Libraries keep their host paths, so the host's index of them is right.
    let ld_cache = Path::new("/etc/ld.so.cache");
    if ld_cache.exists() {
        archive.add(ld_cache, Node::File(ld_cache.to_owned()))?;
    }
    archive.add_program(Path::new(BUSYBOX), Path::new(BUSYBOX))?;
    for file in &args.files {
        archive.add_program(&file.host, &file.guest)?;
    }
    archive.add("init", Node::Text(init_script(args, marker)))?;
    archive
        .write(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The script that the guest's kernel starts as process 1.
fn init_script(args: &VmArgs, marker: &str) -> String {
    let mut exports = String::new();
    for (key, value) in &args.env {
        exports.extend(["export ", key, "=", &shell_quote(value), "\n"]);
    }
    let command: Vec<String> = args.command.iter().map(|arg| shell_quote(arg)).collect();
    let command = command.join(" ");
    // The command runs in a subshell so that no built-in (`exit`, `exec`) can
    // end process 1, which would panic the kernel. Before the marker is
    // printed, the console is closed to kernel messages, which could otherwise
    // split the line; and since powering off drops what the serial port has not
    // sent yet, stty, which waits for output to drain, runs in between.
    format!(
        r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpffs /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
chmod 1777 /tmp /dev/shm
ip link set lo up
hostname guest
export PATH={GUEST_PATH} HOME=/root TERM=dumb
cd /root
(
{exports}{command}
) </dev/null
status=$?
dmesg -n 1
echo "{marker} $status"
stty -echo </dev/console
poweroff -f
"#
    )
}

fn shell_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Contents of an initramfs, keyed by path without the leading slash. The map's
/// order puts every directory before what is in it, as the kernel requires.
struct Archive {
    nodes: BTreeMap<PathBuf, Node>,
}

enum Node {
    Dir,
    Symlink(&'static str),
    Device { major: u32, minor: u32 },
    Text(String),
    File(PathBuf),
}

/// Top-level directories that are symbolic links into `/usr` in the guest.
const USR_LINKS: [(&str, &str); 4] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
];

impl Default for Archive {
    fn default() -> Self {
        let nodes = USR_LINKS
            .iter()
            .map(|&(link, target)| (PathBuf::from(link), Node::Symlink(target)))
            .collect();
        Self { nodes }
    }
}

impl Archive {
    /// Adds a node, and the directories above it.
    fn add(&mut self, path: impl AsRef<Path>, node: Node) -> Result<()> {
        let path = path.as_ref();
        let mut clean = PathBuf::new();
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => clean.push(name),
                // A `..` behind a symbolic link would need resolving.
                Component::ParentDir | Component::Prefix(_) => {
                    bail!("{} is not a plain path", path.display())
                }
            }
        }
        for (link, target) in USR_LINKS {
            if let Ok(rest) = clean.strip_prefix(link) {
                clean = Path::new(target).join(rest);
                break;
            }
        }
        for parent in clean.ancestors().skip(1) {
            if !parent.as_os_str().is_empty() {
                self.nodes.entry(parent.to_owned()).or_insert(Node::Dir);
            }
        }
        self.nodes.insert(clean, node);
        Ok(())
    }

    /// Adds a file and, if it is a dynamically linked program, its libraries.
    fn add_program(&mut self, host: &Path, guest: &Path) -> Result<()> {
        let metadata = fs::metadata(host).with_context(|| format!("no file {}", host.display()))?;
        ensure!(metadata.is_file(), "{} is not a file", host.display());
        for library in shared_libraries(host)? {
            self.add(&library, Node::File(library.clone()))?;
        }
        self.add(guest, Node::File(host.to_owned()))
    }

    /// Writes the archive as a `newc` cpio, the format the kernel unpacks.
    fn write(&self, path: &Path) -> Result<()> {
        const S_IFCHR: u32 = 0o020_000;
        const S_IFDIR: u32 = 0o040_000;
        const S_IFREG: u32 = 0o100_000;
        const S_IFLNK: u32 = 0o120_000;

        let mut out = BufWriter::new(File::create(path)?);
        for (inode, (name, node)) in (1..).zip(&self.nodes) {
            let mut rdev = (0, 0);
            let (mode, size, mut data): (u32, u64, Box<dyn Read>) = match node {
                Node::Dir => (S_IFDIR | 0o755, 0, Box::new(io::empty())),
                Node::Device { major, minor } => {
                    rdev = (*major, *minor);
                    (S_IFCHR | 0o600, 0, Box::new(io::empty()))
                }
                Node::Symlink(target) => {
                    let target = target.as_bytes();
                    (S_IFLNK | 0o777, target.len() as u64, Box::new(target))
                }
                Node::Text(text) => {
                    let text = text.as_bytes();
                    (S_IFREG | 0o755, text.len() as u64, Box::new(text))
                }
                Node::File(host) => {
                    let file = File::open(host)
                        .with_context(|| format!("cannot open {}", host.display()))?;
                    (S_IFREG | 0o755, file.metadata()?.len(), Box::new(file))
                }
            };
            let short_size =
                u32::try_from(size).with_context(|| format!("{} is too large", name.display()))?;
            let name = name.as_os_str().as_encoded_bytes();
            out.write_all(&header(inode, mode, short_size, rdev, name))?;
            // Limited, so that a file that is growing cannot spoil the archive.
            let copied = io::copy(&mut data.by_ref().take(size), &mut out)?;
            ensure!(copied == size, "a file shrank while it was read");
            out.write_all(padding(size))?;
        }
        out.write_all(&header(0, 0, 0, (0, 0), b"TRAILER!!!"))?;
        out.flush()?;
        Ok(())
    }
}

/// A `newc` member header with the name after it, padded to where the data
/// begins.
fn header(inode: u32, mode: u32, size: u32, rdev: (u32, u32), name: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "070701{inode:08x}{mode:08x}{uid:08x}{gid:08x}{nlink:08x}{mtime:08x}{size:08x}\
         {dev_major:08x}{dev_minor:08x}{rdev_major:08x}{rdev_minor:08x}{namesize:08x}{check:08x}",
        uid = 0,
        gid = 0,
        nlink = 1,
        mtime = 0,
        dev_major = 0,
        dev_minor = 0,
        rdev_major = rdev.0,
        rdev_minor = rdev.1,
        namesize = name.len() + 1,
        check = 0,
    )
    .into_bytes();
    bytes.extend(name);
    bytes.push(0);
    bytes.extend(padding(bytes.len() as u64));
    bytes
}

/// Zeros that bring `length` to a multiple of four.
fn padding(length: u64) -> &'static [u8] {
    match length % 4 {
        0 => &[],
        1 => &[0; 3],
        2 => &[0; 2],
        _ => &[0; 1],
    }
}

/// Absolute paths of the libraries, and the loader, that a program needs; none
/// for a static program or a script.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let mut magic = Vec::new();
    File::open(program)
        .and_then(|file| file.take(4).read_to_end(&mut magic))
        .with_context(|| format!("cannot read {}", program.display()))?;
    if magic != b"\x7fELF" {
        return Ok(Vec::new());
    }
    // Without a slash, ldd takes the argument as relative all the same, but
    // prints a warning.
    let program = fs::canonicalize(program)
        .with_context(|| format!("cannot resolve {}", program.display()))?;
    let ldd = Command::new("ldd")
        .arg(&program)
        .env("LC_ALL", "C")
        .output()
        .context("cannot run ldd (Debian package libc-bin)")?;
    let stderr = String::from_utf8_lossy(&ldd.stderr);
    if stderr.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    ensure!(
        ldd.status.success(),
        "ldd {}: {}",
        program.display(),
        stderr.trim()
    );
    parse_ldd(&String::from_utf8_lossy(&ldd.stdout))
        .with_context(|| format!("cannot collect the libraries of {}", program.display()))
}

fn parse_ldd(listing: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in listing.lines() {
        let line = line.trim();
        ensure!(!line.ends_with("=> not found"), "{line}");
        // `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader. The
        // vDSO, which the kernel supplies, has a name but no path.
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        let path = path.rsplit_once(" (0x").map_or(path, |(path, _)| path);
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

// --- Guest ---------------------------------------------------------------

/// How a guest's run ended.
struct Outcome {
    elapsed: Duration,
    timed_out: bool,
    /// The kernel's own message, if it panicked.
    panic: Option<String>,
    /// The command's exit status, if the guest got as far as printing it.
    command_status: Option<i32>,
    qemu_status: ExitStatus,
}

impl Outcome {
    fn check(&self, timeout: u64) -> Result<()> {
        if let Some(panic) = &self.panic {
            bail!("guest kernel panicked: {panic}");
        }
        ensure!(
            !self.timed_out,
            "guest did not power off within {timeout} s; killed"
        );
        ensure!(
            self.qemu_status.success(),
            "{QEMU} failed: {}",
            self.qemu_status
        );
        match self.command_status {
            Some(0) => Ok(()),
            Some(status) => bail!("command exited with status {status}"),
            None => bail!("guest ended without reporting the command's status"),
        }
    }
}

/// Boots a kernel, copies its console to stdout and waits for it to power off.
fn boot(args: &VmArgs, kernel: &Kernel, initramfs: &Path, marker: &str) -> Result<Outcome> {
    let started = Instant::now();
    let deadline = started + Duration::from_secs(args.timeout);
    // One emulation thread for all guest CPUs: with one thread each, a CPU can
    // go on executing a breakpoint that another has already removed while
    // patching kernel text, as enabling tracepoints, kprobes and perf events
    // does, and the guest then oopses (int3) or hangs now and then.
    //
    // `-display none` with an explicit serial port, rather than `-nographic`,
    // which would make the firmware print its banner and escape sequences there.
    let mut qemu = Killed(
        Command::new(QEMU)
            .args(["-no-user-config", "-nodefaults", "-no-reboot"])
            .args(["-accel", "tcg,thread=single", "-cpu", "max"])
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-smp", &args.cpus.to_string()])
            .args(["-m", &args.memory.to_string()])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", KERNEL_ARGS])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {QEMU}"))?,
    );
    let mut serial = qemu.0.stdout.take().context("no pipe from the guest")?;
    let (sender, receiver) = mpsc::channel();
    // Reading blocks, so it has a thread of its own; it ends when qemu does.
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let chunk = match serial.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => Ok(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let last = chunk.is_err();
            if sender.send(chunk).is_err() || last {
                break;
            }
        }
    });

    let mut console = Console::new(marker);
    let mut stdout = io::stdout().lock();
    let mut timed_out = false;
    loop {
        // Checked here too, as a guest that never stops printing never lets
        // the wait below run out.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            timed_out = true;
            break;
        }
        match receiver.recv_timeout(left) {
            Ok(chunk) => {
                console.feed(&chunk.context("cannot read from the guest")?, &mut stdout)?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    console.finish(&mut stdout)?;
    if timed_out {
        qemu.0.kill().context("cannot kill qemu")?;
    }
    let qemu_status = qemu.0.wait().context("cannot wait for qemu")?;
    Ok(Outcome {
        elapsed: started.elapsed(),
        timed_out,
        panic: console.panic,
        command_status: console.status,
        qemu_status,
    })
}

/// A child that does not outlive this handle, whichever way its scope is left.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only if the child has been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Passes on the guest's console line by line, picking out what is meant for
/// us.
struct Console<'a> {
    marker: &'a str,
    line: Vec<u8>,
    status: Option<i32>,
    panic: Option<String>,
}

impl<'a> Console<'a> {
    fn new(marker: &'a str) -> Self {
        Self {
            marker,
            line: Vec::new(),
            status: None,
            panic: None,
        }
    }

    fn feed(&mut self, chunk: &[u8], out: &mut impl Write) -> io::Result<()> {
        for &byte in chunk {
            match byte {
                b'\r' => {}
                b'\n' => self.end_line(out)?,
                _ => self.line.push(byte),
            }
        }
        out.flush()
    }

    /// Prints a last line that the guest did not end.
    fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        if !self.line.is_empty() {
            self.end_line(out)?;
        }
        out.flush()
    }

    fn end_line(&mut self, out: &mut impl Write) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        if let Some((_, message)) = text.split_once("Kernel panic - not syncing: ") {
            // A panic within a panic must not hide the first one.
            self.panic.get_or_insert_with(|| message.to_owned());
        }
        // What follows the marker is the kernel's farewell.
        if self.status.is_some() {
            return Ok(());
        }
        // The command may have left its last line open, so the marker need not
        // be at the start of the line.
        let marker = self.marker.as_bytes();
        if let Some(at) = line.windows(marker.len()).position(|part| part == marker) {
            let status = String::from_utf8_lossy(&line[at + marker.len()..]);
            self.status = status.trim().parse().ok();
            line.truncate(at);
            if line.is_empty() {
                return Ok(());
            }
        }
        line.push(b'\n');
        out.write_all(&line)
    }
}

// --- Helpers -------------------------------------------------------------

/// A directory for one run's files, removed at its end.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn create(cache: &Path) -> Result<Self> {
        let path = cache.join(format!("tmp-{}", nonce()?));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("vm: cannot remove {}: {error}", self.path.display());
        }
    }
}

/// A string that neither another run nor a guest's command will produce.
fn nonce() -> Result<String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(format!("{}-{}", std::process::id(), now.as_nanos()))
}

fn require_program(program: &str, package: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    ensure!(
        std::env::split_paths(&path).any(|dir| dir.join(program).is_file()),
        "{program} not found: install the Debian package {package}"
    );
    Ok(())
}

/// Runs a command and returns its stdout; on failure the error has its stderr.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_to_a_directory_in_path() {
        let file = |host: &str, guest: &str| GuestFile {
            host: host.into(),
            guest: guest.into(),
        };
        assert_eq!(GuestFile::parse("a/b"), Ok(file("a/b", "/usr/local/bin/b")));
        assert_eq!(GuestFile::parse("a/b:/c"), Ok(file("a/b", "/c")));
        assert!(GuestFile::parse("a:b").is_err());
    }

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
    fn ldd_listing() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f42)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f42)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(
            parse_ldd(listing).expect("a complete listing"),
            expected.map(PathBuf::from)
        );
        assert!(parse_ldd("\tstatically linked\n").is_ok_and(|found| found.is_empty()));
        assert!(parse_ldd("\tlibx.so.1 => not found\n").is_err());
    }

    #[test]
    fn header_is_aligned() {
        for name in ["a", "ab", "abc", "abcd"] {
            let header = header(1, 0, 0, (0, 0), name.as_bytes());
            assert_eq!(header.len() % 4, 0);
            assert_eq!(&header[110..110 + name.len()], name.as_bytes());
        }
    }

    #[test]
    fn console_hides_the_marker_line() {
        let mut out = Vec::new();
        let mut console = Console::new("mark");
        for chunk in ["one\r\ntw", "omark", " 3\r\n"] {
            console.feed(chunk.as_bytes(), &mut out).expect("a vector");
        }
        console.finish(&mut out).expect("a vector");
        assert_eq!(out, b"one\ntwo\n");
        assert_eq!(console.status, Some(3));
    }
}
