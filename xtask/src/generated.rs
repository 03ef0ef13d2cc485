//! Files that are generated and committed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;

/// Name and content of the files of a directory: all of it.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Makes the directory hold the files and nothing else, or, to check, fails if it
/// does not; `task` is what to run then.
pub fn write_or_check(dir: &Path, files: &Files, check: bool, task: &str) -> Result<()> {
    let faults = faults(dir, files)?;
    if check {
        if !faults.is_empty() {
            bail!("{}\n  run `cargo xtask {task}` and commit it", faults.join("\n  "));
        }
        println!("{}: up to date", dir.display());
        return Ok(());
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for name in names(dir)? {
        if !files.contains_key(&name) {
            let path = dir.join(name);
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    for (name, content) in files {
        let path = dir.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{}: {} files", dir.display(), files.len());
    Ok(())
}

/// How the directory differs from the files, a sentence each.
fn faults(dir: &Path, files: &Files) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for (name, content) in files {
        let path = dir.join(name);
        match fs::read(&path) {
            Ok(there) if there == *content => {}
            Ok(_) => faults.push(format!("{}: not what the command line gives", path.display())),
            Err(error) => faults.push(format!("{}: {error}", path.display())),
        }
    }
    for name in names(dir)? {
        if !files.contains_key(&name) {
            faults.push(format!("{}: of nothing there is", dir.join(name).display()));
        }
    }
    Ok(faults)
}

/// What is in a directory; nothing if there is none.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()
        .with_context(|| format!("cannot read {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn differences_are_found_and_mended() {
        let scratch = Scratch::create(&std::env::temp_dir()).unwrap();
        let dir = scratch.path.join("out");
        let files = Files::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
        assert!(write_or_check(&dir, &files, true, "x").is_err());
        write_or_check(&dir, &files, false, "x").unwrap();
        write_or_check(&dir, &files, true, "x").unwrap();
        fs::write(dir.join("stale"), "").unwrap();
        fs::write(dir.join("a"), "other").unwrap();
        assert_eq!(faults(&dir, &files).unwrap().len(), 2);
        write_or_check(&dir, &files, false, "x").unwrap();
        write_or_check(&dir, &files, true, "x").unwrap();
    }
}
