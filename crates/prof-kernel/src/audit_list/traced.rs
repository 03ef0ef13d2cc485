//! Who traces whom with `ptrace`: /proc says so of each thread.

use std::fs;

/// A tracer and a thread that it traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced {
    /// The tracer's process.
    pub by: u32,
    /// The thread's process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
}

/// All of them.
pub fn all() -> Vec<Traced> {
    let mut all = Vec::new();
    for pid in numbers("/proc") {
        for tid in numbers(&format!("/proc/{pid}/task")) {
            let Ok(status) = fs::read(format!("/proc/{pid}/task/{tid}/status")) else { continue };
            if let Some(tracer) = tracer(&String::from_utf8_lossy(&status)) {
                // A tracer is a thread; its process is what has a name.
                let by = group_of(tracer).unwrap_or(tracer);
                all.push(Traced { by, pid, tid });
            }
        }
    }
    all
}

fn numbers(folder: &str) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

fn tracer(status: &str) -> Option<u32> {
    value(status, "TracerPid:").filter(|t| *t != 0)
}

fn group_of(tid: u32) -> Option<u32> {
    let status = fs::read(format!("/proc/{tid}/status")).ok()?;
    value(&String::from_utf8_lossy(&status), "Tgid:")
}

/// The name stands first and may hold anything but a line's end: fields that are
/// looked for begin a line.
fn value(status: &str, field: &str) -> Option<u32> {
    status.lines().find_map(|l| l.strip_prefix(field)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracer_is_read_and_a_name_that_looks_like_one_is_not() {
        let status = "Name:\tTracerPid:\\t7\nTgid:\t12\nTracerPid:\t34\n";
        assert_eq!((tracer(status), value(status, "Tgid:")), (Some(34), Some(12)));
        assert_eq!(tracer("Name:\tx\nTracerPid:\t0\n"), None);
        assert_eq!(tracer(""), None);
    }
}
