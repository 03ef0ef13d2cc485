//! What can be had without BPF: /proc shows which descriptors are perf events, and
//! nothing of what they are.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;

/// A descriptor that is a perf event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenEvent {
    /// Whose.
    pub pid: u32,
    /// The descriptor.
    pub fd: i32,
}

/// Those that may be seen, and how many processes may not be looked into.
pub fn all() -> (Vec<OpenEvent>, usize) {
    let (mut all, mut closed) = (Vec::new(), 0);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()) {
        let files = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(files) => files,
            // It may have ended meanwhile.
            Err(e) => {
                closed += usize::from(e.kind() == std::io::ErrorKind::PermissionDenied);
                continue;
            }
        };
        for file in files.flatten() {
            let is_event = fs::read_link(file.path())
                .is_ok_and(|to| to.as_os_str().as_bytes() == b"anon_inode:[perf_event]");
            let fd = file.file_name().to_str().and_then(|f| f.parse().ok());
            if let (true, Some(fd)) = (is_event, fd) {
                all.push(OpenEvent { pid, fd });
            }
        }
    }
    all.sort_by_key(|e| (e.pid, e.fd));
    (all, closed)
}
