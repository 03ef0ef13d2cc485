//! Cgroups for tests to put processes in.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A cgroup, of the hierarchy of perf as a rule, and where it had to be mounted for that.
pub struct Cgroup {
    /// Its folder.
    pub dir: PathBuf,
    mounted: Option<tempfile::TempDir>,
}

impl Cgroup {
    pub fn new(name: &str) -> Self {
        Self::of_controller("perf_event", name)
    }

    /// One by which processes are told apart, on a host whose v1 hierarchies are in use, too.
    pub fn for_processes(name: &str) -> Self {
        Self::of_controller("memory", name)
    }

    fn of_controller(controller: &str, name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let is = |l: &&str, v2: bool| {
            let mut f = l.split(' ').skip(2);
            let (kind, options) = (f.next().unwrap_or(""), f.next().unwrap_or(""));
            kind == if v2 { "cgroup2" } else { "cgroup" }
                && (v2 || options.split(',').any(|o| o == controller))
        };
        let found = mounts.lines().find(|l| is(l, false));
        let found = found.or_else(|| mounts.lines().find(|l| is(l, true)));
        let found = found.map(|l| l.split(' ').nth(1).unwrap().into());
        let (root, mounted): (PathBuf, _) = match found {
            Some(root) => (root, None),
            None => {
                let dir = tempfile::tempdir().unwrap();
                let status = Command::new("mount")
                    .args(["-t", "cgroup2", "cgroup2"])
                    .arg(dir.path())
                    .status()
                    .unwrap();
                assert!(status.success(), "no cgroup hierarchy for perf");
                (dir.path().into(), Some(dir))
            }
        };
        let dir = root.join(name);
        fs::create_dir_all(&dir).unwrap();
        Self { dir, mounted }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
        if let Some(dir) = &self.mounted {
            let _ = Command::new("umount").arg(dir.path()).status();
        }
    }
}
