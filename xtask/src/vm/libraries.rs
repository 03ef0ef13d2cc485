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

use super::GuestFile;
use crate::command::output;

/// Where the libraries of the guest's programs are.
#[derive(Debug)]
pub enum Libraries {
    /// On this machine, as its own loader finds them.
    Host,
    /// In packages unpacked under `roots`, of another architecture than ours.
    Sysroot { roots: [PathBuf; 2], triplet: &'static str },
}

impl Libraries {
    /// The libraries, and the loader, that a program needs; none for a static
    /// program or a script.
    pub fn of(&self, program: &Path) -> Result<Vec<GuestFile>> {
        let mut magic = Vec::new();
        File::open(program)
            .and_then(|file| file.take(4).read_to_end(&mut magic))
            .with_context(|| format!("cannot read {}", program.display()))?;
        if magic != b"\x7fELF" {
            return Ok(Vec::new());
        }
        match self {
            Self::Host => of_host(program),
            Self::Sysroot { roots, triplet } => of_sysroot(program, roots, triplet),
        }
        .with_context(|| format!("cannot collect the libraries of {}", program.display()))
    }
}

fn of_host(program: &Path) -> Result<Vec<GuestFile>> {
    // Without a slash, ldd takes the argument as relative all the same, but
    // prints a warning.
    let program = fs::canonicalize(program).context("cannot resolve it")?;
    let ldd = Command::new("ldd")
        .arg(&program)
        .env("LC_ALL", "C")
        .output()
        .context("cannot run ldd (Debian package libc-bin)")?;
    let stderr = String::from_utf8_lossy(&ldd.stderr);
    if stderr.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    ensure!(ldd.status.success(), "ldd: {}", stderr.trim());
    let paths = parse_ldd(&String::from_utf8_lossy(&ldd.stdout))?;
    Ok(paths.into_iter().map(|path| GuestFile { host: path.clone(), guest: path }).collect())
}

/// ldd would have to run the program's own loader: this looks the names up
/// instead, in the directories that Debian's loader knows without an index.
fn of_sysroot(program: &Path, roots: &[PathBuf], triplet: &str) -> Result<Vec<GuestFile>> {
    let mut found: Vec<GuestFile> = Vec::new();
    let mut unread = vec![program.to_owned()];
    while let Some(file) = unread.pop() {
        let listing = output(
            Command::new("readelf")
                .args(["--wide", "--program-headers", "--dynamic"])
                .arg(&file)
                .env("LC_ALL", "C"),
        )
        .context("Debian package binutils")?;
        for needed in parse_readelf(&listing) {
            let (name, places) = match needed {
                Needed::Loader(path) => (path, vec![PathBuf::from(path)]),
                Needed::Library(name) => {
                    let dirs = ["/usr/lib", "/lib"];
                    (name, dirs.map(|dir| Path::new(dir).join(triplet).join(name)).into())
                }
            };
            let library = places
                .into_iter()
                .find_map(|guest| {
                    let inside = guest.strip_prefix("/").ok()?;
                    let host = roots.iter().map(|root| root.join(inside)).find(|p| p.exists())?;
                    Some(GuestFile { host, guest })
                })
                .with_context(|| {
                    format!(
                        "{name} is not among the packages of the guest; if the program is for \
                         {triplet}, add with --package the one that has it"
                    )
                })?;
            if !found.contains(&library) {
                unread.push(library.host.clone());
                found.push(library);
            }
        }
    }
    Ok(found)
}

#[derive(Debug, PartialEq)]
enum Needed<'a> {
    /// By path.
    Loader(&'a str),
    /// By name.
    Library(&'a str),
}

fn parse_readelf(listing: &str) -> Vec<Needed<'_>> {
    listing
        .lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once('[')?;
            let inside = rest.strip_suffix(']')?;
            if let Some(path) = inside.strip_prefix("Requesting program interpreter: ") {
                return Some(Needed::Loader(path));
            }
            line.contains("(NEEDED)").then_some(Needed::Library(inside))
        })
        .collect()
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

    #[test]
    fn readelf_listing() {
        let listing = "  INTERP         0x000238 0x0000000000000238 0x0000000000000238 R   0x1\n\
                       \x20     [Requesting program interpreter: /lib/ld-linux-aarch64.so.1]\n\
                       \x20 LOAD           0x000000 0x0000000000000000 0x0000000000000000 R E 0x10000\n\
                       \x200x0000000000000001 (NEEDED)             Shared library: [libelf.so.1]\n\
                       \x200x000000000000000e (SONAME)             Library soname: [libx.so.1]\n";
        let expected =
            [Needed::Loader("/lib/ld-linux-aarch64.so.1"), Needed::Library("libelf.so.1")];
        assert_eq!(parse_readelf(listing), expected);
    }
}
