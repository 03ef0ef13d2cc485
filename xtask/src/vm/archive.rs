//! The cpio archive that the kernel unpacks as its first file system.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::Read;
use std::io::Write as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;

use super::GuestFile;
use super::libraries::Libraries;

/// Contents of an initramfs, keyed by path without the leading slash. The map's
/// order puts every directory before what is in it, as the kernel requires.
pub struct Archive {
    nodes: BTreeMap<PathBuf, Node>,
}

/// What is at a path.
pub enum Node {
    Dir,
    Symlink(&'static str),
    Device { major: u32, minor: u32 },
    Text(String),
    File(PathBuf),
}

/// Top-level directories that are symbolic links into `/usr` in the guest.
const USR_LINKS: [(&str, &str); 4] =
    [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];

impl Default for Archive {
    fn default() -> Self {
        let nodes = USR_LINKS
            .iter()
            .map(|&(link, target)| (PathBuf::from(link), Node::Symlink(target)))
            .collect();
        Self { nodes }
    }
}

impl Archive {
    /// Adds a node, and the directories above it.
    pub fn add(&mut self, path: impl AsRef<Path>, node: Node) -> Result<()> {
        let path = path.as_ref();
        let mut clean = PathBuf::new();
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => clean.push(name),
                // A `..` behind a symbolic link would need resolving.
                Component::ParentDir | Component::Prefix(_) => {
                    bail!("{} is not a plain path", path.display())
                }
            }
        }
        for (link, target) in USR_LINKS {
            if let Ok(rest) = clean.strip_prefix(link) {
                clean = Path::new(target).join(rest);
                break;
            }
        }
        for parent in clean.ancestors().skip(1) {
            if !parent.as_os_str().is_empty() {
                self.nodes.entry(parent.to_owned()).or_insert(Node::Dir);
            }
        }
        self.nodes.insert(clean, node);
        Ok(())
    }

    /// Adds a file and, if it is a dynamically linked program, its libraries.
    pub fn add_program(&mut self, file: &GuestFile, libraries: &Libraries) -> Result<()> {
        let host = &file.host;
        let metadata = fs::metadata(host).with_context(|| format!("no file {}", host.display()))?;
        ensure!(metadata.is_file(), "{} is not a file", host.display());
        for library in libraries.of(host)? {
            self.add(&library.guest, Node::File(library.host))?;
        }
        self.add(&file.guest, Node::File(host.clone()))
    }

    /// Writes the archive as a `newc` cpio, the format the kernel unpacks.
    pub fn write(&self, path: &Path) -> Result<()> {
        const S_IFCHR: u32 = 0o020_000;
        const S_IFDIR: u32 = 0o040_000;
        const S_IFREG: u32 = 0o100_000;
        const S_IFLNK: u32 = 0o120_000;

        let mut out = BufWriter::new(File::create(path)?);
        for (inode, (name, node)) in (1..).zip(&self.nodes) {
            let mut rdev = (0, 0);
            let (mode, size, mut data): (u32, u64, Box<dyn Read>) = match node {
                Node::Dir => (S_IFDIR | 0o755, 0, Box::new(io::empty())),
                Node::Device { major, minor } => {
                    rdev = (*major, *minor);
                    (S_IFCHR | 0o600, 0, Box::new(io::empty()))
                }
                Node::Symlink(target) => {
                    let target = target.as_bytes();
                    (S_IFLNK | 0o777, target.len() as u64, Box::new(target))
                }
                Node::Text(text) => {
                    let text = text.as_bytes();
                    (S_IFREG | 0o755, text.len() as u64, Box::new(text))
                }
                Node::File(host) => {
                    let file = File::open(host)
                        .with_context(|| format!("cannot open {}", host.display()))?;
                    (S_IFREG | 0o755, file.metadata()?.len(), Box::new(file))
                }
            };
            let short_size =
                u32::try_from(size).with_context(|| format!("{} is too large", name.display()))?;
            let name = name.as_os_str().as_encoded_bytes();
            out.write_all(&header(inode, mode, short_size, rdev, name))?;
            // Limited, so that a file that is growing cannot spoil the archive.
            let copied = io::copy(&mut data.by_ref().take(size), &mut out)?;
            ensure!(copied == size, "a file shrank while it was read");
            out.write_all(padding(size))?;
        }
        out.write_all(&header(0, 0, 0, (0, 0), b"TRAILER!!!"))?;
        out.flush()?;
        Ok(())
    }
}

/// A `newc` member header with the name after it, padded to where the data
/// begins.
fn header(inode: u32, mode: u32, size: u32, rdev: (u32, u32), name: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "070701{inode:08x}{mode:08x}{uid:08x}{gid:08x}{nlink:08x}{mtime:08x}{size:08x}\
         {dev_major:08x}{dev_minor:08x}{rdev_major:08x}{rdev_minor:08x}{namesize:08x}{check:08x}",
        uid = 0,
        gid = 0,
        nlink = 1,
        mtime = 0,
        dev_major = 0,
        dev_minor = 0,
        rdev_major = rdev.0,
        rdev_minor = rdev.1,
        namesize = name.len() + 1,
        check = 0,
    )
    .into_bytes();
    bytes.extend(name);
    bytes.push(0);
    bytes.extend(padding(bytes.len() as u64));
    bytes
}

/// Zeros that bring `length` to a multiple of four.
fn padding(length: u64) -> &'static [u8] {
    match length % 4 {
        0 => &[],
        1 => &[0; 3],
        2 => &[0; 2],
        _ => &[0; 1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_aligned() {
        for name in ["a", "ab", "abc", "abcd"] {
            let header = header(1, 0, 0, (0, 0), name.as_bytes());
            assert_eq!(header.len() % 4, 0);
            assert_eq!(&header[110..110 + name.len()], name.as_bytes());
        }
    }
}
