//! What is switched on through the tracing file system, by nobody that it names.

use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;

/// Most that is read of a file, in bytes; `set_event` with everything on has 80 KiB.
const MAX_FILE: u64 = 1 << 20;
/// Most that is listed of each kind in an instance.
const MAX_LISTED: usize = 10_000;
/// Most instances that are looked at.
const MAX_INSTANCES: usize = 256;

/// The kernel switches this one on for good when a BPF program is loaded that may print.
pub const OF_KERNEL: &str = "bpf_trace:bpf_trace_printk";

/// Something that is switched on there, or made to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// The file that says so, below the root.
    pub file: Vec<u8>,
    /// Its line.
    pub text: Vec<u8>,
    /// What people call it.
    pub name: String,
    /// Whether it is on; a probe can be there and not be.
    pub on: bool,
}

/// All of a tracing file system.
///
/// # Errors
///
/// Why it cannot be read.
pub fn all(root: &Path) -> Result<Vec<Traced>, String> {
    // Only root may look at it.
    fs::read_dir(root).map_err(|e| format!("{}: {e}", root.display()))?;
    let mut all = Vec::new();
    let mut instances = vec![PathBuf::new()];
    let others = fs::read_dir(root.join("instances")).into_iter().flatten().flatten();
    instances
        .extend(others.take(MAX_INSTANCES).map(|e| Path::new("instances").join(e.file_name())));
    instances.sort();
    for i in &instances {
        instance(root, i, &mut all);
    }
    let mut made = Vec::new();
    for file in ["kprobe_events", "uprobe_events"] {
        probes(root, file, &mut made);
    }
    // A probe that is on is among the events of the first instance, too: told once.
    let is_made = |text: &[u8]| made.iter().any(|t| t.name.as_bytes().ends_with(text));
    all.retain(|t| {
        let event = [b" (", t.text.as_slice(), b")"].concat();
        t.file != b"set_event" || !is_made(&event)
    });
    all.append(&mut made);
    Ok(all)
}

fn instance(root: &Path, below: &Path, all: &mut Vec<Traced>) {
    use std::os::unix::ffi::OsStrExt as _;
    let path = |file: &str| below.join(file).as_os_str().as_bytes().to_vec();
    let read = |file: &str| read(&root.join(below).join(file));
    // Switched off, it keeps what was set and records nothing.
    let recording = read("tracing_on").trim() != "0";
    let tracer = read("current_tracer");
    let tracer = tracer.trim();
    if !matches!(tracer, "" | "nop") {
        all.push(Traced {
            file: path("current_tracer"),
            text: tracer.into(),
            name: format!("ftrace:{tracer}"),
            on: recording,
        });
    }
    let set = read("set_event");
    let others = |l: &&str| l.contains(':') && l.trim() != OF_KERNEL;
    for line in set.lines().filter(others).take(MAX_LISTED) {
        all.push(Traced {
            file: path("set_event"),
            text: line.into(),
            name: line.to_owned(),
            on: recording,
        });
    }
}

/// Probes that were made: `p:GROUP/NAME WHERE ARGUMENTS`.
fn probes(root: &Path, file: &str, all: &mut Vec<Traced>) {
    for line in read(&root.join(file)).lines().take(MAX_LISTED) {
        let Some((name, place)) = line.split_once(' ') else { continue };
        let Some((kind, name)) = name.split_once(':') else { continue };
        let place = place.split(' ').next().unwrap_or_default();
        let plain = name.split('/').count() == 2 && !name.split('/').any(|p| p == "..");
        let enable = root.join("events").join(name).join("enable");
        // `0*`: off, with something else set.
        let on = plain && read(&enable).trim_start().starts_with('1');
        let ret = if kind.starts_with('r') { "ret" } else { "" };
        let letter = file.chars().next().unwrap_or('k');
        all.push(Traced {
            file: file.into(),
            text: line.into(),
            name: format!("{letter}{ret}probe:{place} ({})", name.replace('/', ":")),
            on,
        });
    }
}

/// What is not there, or is not text, is as if it were empty.
fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(MAX_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn what_is_set_is_told_and_whether_it_records() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(root, "tracing_on", "1\n");
        put(root, "current_tracer", "nop\n");
        put(root, "set_event", "sched:sched_switch\nkprobes:mine\n");
        put(root, "kprobe_events", "p:kprobes/mine vfs_read+0 arg1=%di\nr8:kprobes/ret vfs_read\n");
        put(root, "events/kprobes/mine/enable", "1*\n");
        put(root, "events/kprobes/ret/enable", "0\n");
        put(root, "uprobe_events", "p:../../x /bin/bash:0x10\nnonsense\n");
        put(root, "instances/other/tracing_on", "0\n");
        put(root, "instances/other/current_tracer", "function\n");
        let all = all(root).unwrap();
        let told: Vec<_> = all
            .iter()
            .map(|t| (std::str::from_utf8(&t.file).unwrap(), t.name.as_str(), t.on))
            .collect();
        assert_eq!(
            told,
            [
                ("set_event", "sched:sched_switch", true),
                ("instances/other/current_tracer", "ftrace:function", false),
                ("kprobe_events", "kprobe:vfs_read+0 (kprobes:mine)", true),
                ("kprobe_events", "kretprobe:vfs_read (kprobes:ret)", false),
                ("uprobe_events", "uprobe:/bin/bash:0x10 (..:..:x)", false),
            ]
        );
        assert!(super::all(&root.join("nowhere")).is_err());
    }
}
