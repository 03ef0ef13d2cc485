//! Fake hosts out of one text each.

// Each test takes what it needs.
#![allow(dead_code, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use prof_events::Host;
use tempfile::TempDir;

/// A host in a folder of its own.
#[derive(Debug)]
pub struct Tree {
    dir: TempDir,
}

impl Tree {
    /// Of lines `pmu/NAME/FILE: TEXT` and `trace/SYSTEM/NAME: ID`.
    pub fn of(text: &str) -> Self {
        let tree = Self { dir: TempDir::new().expect("a folder") };
        fs::create_dir_all(tree.pmus()).expect("a folder");
        for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let (path, text) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
            match (path.strip_prefix("pmu/"), path.strip_prefix("trace/")) {
                (Some(path), _) => tree.put(&tree.pmus().join(path), text),
                (_, Some(path)) => {
                    tree.put(&tree.host().tracefs.join("events").join(path).join("id"), text)
                }
                _ => panic!("{line}"),
            }
        }
        tree
    }

    /// Of a file of fixtures.
    pub fn named(name: &str) -> Self {
        Self::of(&fs::read_to_string(fixture(&format!("trees/{name}.txt"))).expect("a tree"))
    }

    fn put(&self, path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, format!("{text}\n")).expect("a file");
    }

    pub fn host(&self) -> Host {
        Host { sysfs: self.dir.path().join("sys"), tracefs: self.dir.path().join("tracing") }
    }

    /// The PMUs' folders.
    pub fn pmus(&self) -> PathBuf {
        self.host().sysfs.join("bus/event_source/devices")
    }
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
