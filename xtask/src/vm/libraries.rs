//! Which shared libraries a program needs.

use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;

/// Absolute paths of the libraries, and the loader, that a program needs; none
/// for a static program or a script.
pub fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
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
    ensure!(ldd.status.success(), "ldd {}: {}", program.display(), stderr.trim());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_listing() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f42)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f42)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(listing).expect("a complete listing"), expected.map(PathBuf::from));
        assert!(parse_ldd("\tstatically linked\n").is_ok_and(|found| found.is_empty()));
        assert!(parse_ldd("\tlibx.so.1 => not found\n").is_err());
    }
}
