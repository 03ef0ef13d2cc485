//! What the objects were made from, with what.

use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;

use super::MANIFEST;
use super::build::FLAGS;
use super::build::REPRODUCIBLE;
use super::build::Tools;
use super::build::objects as all_objects;
use super::build::sources;
use crate::command::sha256;
use crate::scratch::Scratch;

/// Lines of key and value.
#[derive(Debug)]
pub struct Manifest {
    lines: Vec<(String, String)>,
}

impl Manifest {
    /// That of the `objects` made from the sources under `root`.
    pub fn new(tools: &Tools, libbpf: &str, root: &Path, objects: &Path) -> Result<Self> {
        let mut lines = vec![
            ("clang".to_owned(), tools.clang.clone()),
            ("flags".to_owned(), [FLAGS.as_slice(), &REPRODUCIBLE].concat().join(" ")),
            ("libbpf-sys".to_owned(), libbpf.to_owned()),
            ("sources".to_owned(), hash_sources(root)?),
        ];
        for object in all_objects() {
            let sum = sha256(&objects.join(&object))?;
            lines.push((object, sum));
        }
        Ok(Self { lines })
    }

    /// How a committed one differs, a sentence each.
    pub fn differences(&self, committed: &str) -> Vec<String> {
        let value = |key: &str| {
            committed.lines().filter_map(|l| l.split_once(": ")).find(|(k, _)| *k == key)
        };
        self.lines
            .iter()
            .filter_map(|(key, here)| match value(key) {
                Some((_, there)) if there == here => None,
                Some((_, there)) => {
                    Some(format!("{MANIFEST}: {key} is {here}, committed is {there}"))
                }
                None => Some(format!("{MANIFEST}: no {key}")),
            })
            .collect()
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Written by `cargo xtask bpf`. Hashes are SHA-256; that of the sources")?;
        writeln!(f, "# is over the lines of `sha256sum bpf/*.c bpf/include/*.h`, sorted by name.")?;
        for (key, value) in &self.lines {
            writeln!(f, "{key}: {value}")?;
        }
        Ok(())
    }
}

fn hash_sources(root: &Path) -> Result<String> {
    let mut list = String::new();
    for source in sources(root)? {
        writeln!(list, "{}  {}", sha256(&root.join(&source))?, source.display())?;
    }
    let scratch = Scratch::create(&std::env::temp_dir())?;
    let file = scratch.path.join("sources");
    fs::write(&file, list).with_context(|| format!("cannot write {}", file.display()))?;
    sha256(&file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_told() {
        let manifest = Manifest {
            lines: [("clang", "19"), ("flags", "-g"), ("sources", "aa")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        };
        assert!(manifest.differences(&manifest.to_string()).is_empty());
        let told = manifest.differences("# comment\nclang: 18\nflags: -g\n");
        assert_eq!(told.len(), 2);
        assert!(told[0].contains("clang is 19, committed is 18"), "{told:?}");
        assert!(told[1].contains("no sources"), "{told:?}");
    }
}
