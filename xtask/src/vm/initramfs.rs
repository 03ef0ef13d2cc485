//! What is in the guest.

use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;

use super::VmArgs;
use super::archive::Archive;
use super::archive::Node;
use super::libraries::Libraries;
use super::userland::Userland;

const GUEST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// Packs it, with an init that prints `marker` and the status of the command.
pub fn build(args: &VmArgs, userland: &Userland, marker: &str, path: &Path) -> Result<()> {
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
        ("passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n"),
        ("group", "root:x:0:\nnogroup:x:65534:\n"),
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ] {
        archive.add(Path::new("etc").join(name), Node::Text(text.to_owned()))?;
    }
    // Libraries of this machine keep their paths, so its index of them is right.
    let ld_cache = Path::new("/etc/ld.so.cache");
    if matches!(userland.libraries, Libraries::Host) && ld_cache.exists() {
        archive.add(ld_cache, Node::File(ld_cache.to_owned()))?;
    }
    for file in userland.programs.iter().chain(&args.files) {
        archive.add_program(file, &userland.libraries)?;
    }
    archive.add("init", Node::Text(init_script(args, marker)))?;
    archive.write(path).with_context(|| format!("cannot write {}", path.display()))
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
