//! Directories that are removed when done with, and names that nobody else uses.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context as _;
use anyhow::Result;

/// A directory for one run's files, removed at its end.
#[derive(Debug)]
pub struct Scratch {
    /// Where it is.
    pub path: PathBuf,
}

impl Scratch {
    /// Makes one in `cache`, which is made too.
    pub fn create(cache: &Path) -> Result<Self> {
        let path = cache.join(format!("tmp-{}", nonce()?));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// A string that neither another run nor a guest's command will produce.
pub fn nonce() -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(format!("{}-{}", std::process::id(), now.as_nanos()))
}
