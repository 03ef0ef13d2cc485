//! Programs prepared for one kernel, and kept.
//!
//! Making the object's code fit a kernel means reading the kernel's BTF, which is
//! most of the time that loading takes. The result depends only on the object
//! and on the kernel, so it is kept in a file: the instructions after relocation,
//! with maps by name instead of by descriptor. The verifier judges them again at
//! every load, so a wrong file can make a load fail and no more than that; still
//! it is only believed if it belongs to us and nobody else can write it.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

/// A map as it was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedMap {
    /// Name in the object.
    pub name: String,
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// As in the object; a session may ask for another number.
    pub max_entries: u32,
    /// Creation flags.
    pub flags: u32,
    /// Content, if it holds constants.
    pub data: Vec<u8>,
}

/// A program after relocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedProg {
    /// Name in the object.
    pub name: String,
    /// `enum bpf_prog_type`.
    pub kind: u32,
    /// `enum bpf_attach_type`.
    pub attach_type: u32,
    /// BTF id of what it attaches to, for types that need it.
    pub attach_btf_id: u32,
    /// Instructions, 8 bytes each.
    pub insns: Vec<u64>,
    /// (instruction, map): where the descriptor of which map goes.
    pub map_refs: Vec<(u32, u32)>,
}

/// Everything needed to load without the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// What it was made from and for.
    pub key: Vec<u8>,
    /// Maps, in the order that `map_refs` count.
    pub maps: Vec<PreparedMap>,
    /// Programs.
    pub progs: Vec<PreparedProg>,
}

/// Largest file that is read: several times what any real one has.
const MAX_FILE: u64 = 8 << 20;

/// Identifies the kernel and the object: the kernel's notes carry its build id.
pub fn key(object: &[u8], flavour: &str) -> io::Result<Vec<u8>> {
    let mut key = Vec::new();
    key.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes());
    key.push(0);
    key.extend_from_slice(flavour.as_bytes());
    key.push(0);
    key.extend_from_slice(&prof_cache::hash(object).to_le_bytes());
    key.extend_from_slice(rustix::system::uname().release().to_bytes());
    key.push(0);
    key.extend_from_slice(&fs::read("/sys/kernel/notes")?);
    Ok(key)
}

fn path(dir: &Path, key: &[u8]) -> PathBuf {
    dir.join(format!("programs-{:016x}", prof_cache::hash(key)))
}

/// Where prepared programs are kept: `$PROF_CACHE_DIR`, else `/var/cache/prof`.
pub fn default_dir() -> PathBuf {
    std::env::var_os("PROF_CACHE_DIR").map_or_else(|| "/var/cache/prof".into(), PathBuf::from)
}

/// The folder, if what is kept is wanted and allowed.
pub fn dir_unless(no_cache: bool) -> Option<PathBuf> {
    (!no_cache && allowed()).then(default_dir)
}

/// Whether what is kept may be used and written at all. With rights that the user
/// does not have (file capabilities, set-user-id), a folder and a file of the
/// user's would let the user choose what runs in the kernel.
pub fn allowed() -> bool {
    !crate::sys::is_secure_exec()
}

/// What is kept for this key; `None` if there is nothing, or nothing that can be
/// trusted.
pub fn load(dir: &Path, key: &[u8]) -> Option<Prepared> {
    let bytes = prof_cache::read(&path(dir, key), MAX_FILE)?;
    let prepared: Prepared = postcard::from_bytes(&bytes).ok()?;
    let refs_fit = prepared.progs.iter().all(|p| {
        p.map_refs.iter().all(|(insn, map)| {
            (*insn as usize) < p.insns.len() && (*map as usize) < prepared.maps.len()
        })
    });
    (prepared.key == key && refs_fit).then_some(prepared)
}

/// Keeps it, whole or not at all. A failure is no error of the session: the next
/// one is slower to start.
pub fn save(dir: &Path, prepared: &Prepared) -> io::Result<()> {
    let bytes = postcard::to_allocvec(prepared).map_err(io::Error::other)?;
    prof_cache::write(&path(dir, &prepared.key), &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn some() -> Prepared {
        Prepared {
            key: b"k".to_vec(),
            maps: vec![PreparedMap {
                name: "m".into(),
                kind: 1,
                key_size: 4,
                value_size: 8,
                max_entries: 1,
                flags: 0,
                data: vec![],
            }],
            progs: vec![PreparedProg {
                name: "p".into(),
                kind: 17,
                attach_type: 0,
                attach_btf_id: 0,
                insns: vec![0, 1, 2],
                map_refs: vec![(1, 0)],
            }],
        }
    }

    #[test]
    fn what_is_kept_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &some()).unwrap();
        assert_eq!(load(dir.path(), b"k"), Some(some()));
        assert_eq!(load(dir.path(), b"other"), None);
    }

    #[test]
    fn a_file_that_others_can_write_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &some()).unwrap();
        let file = path(dir.path(), b"k");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(load(dir.path(), b"k"), None);
    }

    #[test]
    fn damage_at_any_byte_is_no_panic_and_refs_stay_in_bounds() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &some()).unwrap();
        let file = path(dir.path(), b"k");
        let whole = fs::read(&file).unwrap();
        for i in 0..whole.len() {
            let mut bad = whole.clone();
            bad[i] ^= 0x55;
            fs::write(&file, &bad).unwrap();
            if let Some(p) = load(dir.path(), b"k") {
                assert!(p.progs.iter().all(|g| g.map_refs.iter().all(|(i, m)| {
                    (*i as usize) < g.insns.len() && (*m as usize) < p.maps.len()
                })));
            }
            fs::write(&file, &whole[..i]).unwrap();
            assert_eq!(load(dir.path(), b"k"), None, "cut at {i}");
        }
    }
}
