//! Files that samples have met, as long as their tables are kept.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs::File;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use prof_model::stacks::ModuleId;
use prof_unwind::Table;

use crate::abi::stacks::AbiFileKey;
use crate::sampler::files;
use crate::sampler::gather::Code;

/// A file that has a number.
#[derive(Debug)]
pub struct Known {
    /// What tells it apart. The vDSO has none, nor what was given up.
    pub key: Option<AbiFileKey>,
    /// Its name.
    pub path: PathBuf,
    /// Its build id.
    pub build_id: Vec<u8>,
    /// Where its code is, until it is a module.
    pub code: Option<Code>,
    /// Once it is in a stack.
    pub module: Option<ModuleId>,
    /// Its table, or why there is none.
    pub table: Result<Table, String>,
    /// The number of the sample that met it last.
    pub used: u64,
}

impl Known {
    /// In no stack so far, and hardly in one to come.
    pub fn forget_code(&mut self) {
        self.code = Some(Code::Gone("it was not held".into()));
    }
}

/// Which files are to make room: so many, those that nobody has mapped first, and among
/// them those that were met longest ago.
pub fn least_used(
    files: &HashMap<u32, Known>,
    mapped: &HashSet<u32>,
    n: usize,
) -> Vec<(u32, AbiFileKey)> {
    let of = |is_mapped: bool| {
        let all = files.iter().filter(|(id, _)| mapped.contains(*id) == is_mapped);
        let mut all: Vec<_> = all.filter_map(|(id, k)| Some((k.used, *id, k.key?))).collect();
        all.sort_unstable_by_key(|(used, id, _)| (*used, *id));
        all
    };
    let mut list = of(false);
    if list.is_empty() {
        // Some stacks will be broken once.
        list = of(true);
    }
    list.into_iter().take(n).map(|(_, id, key)| (id, key)).collect()
}

/// Code of a module.
#[derive(Debug)]
pub enum Kept {
    /// At hand.
    Open(Code),
    /// Not held any more, as descriptors are few: what it was.
    Closed(Identity),
}

/// What a file must be to be the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
}

/// What tells the file of some code from others, for whoever names it later.
pub fn identity(code: &Code) -> Option<prof_model::stacks::Identity> {
    let Code::File(file) = code else { return None };
    file.metadata().ok().map(|m| identity_of(&m))
}

/// The same of what is known of a file.
pub fn identity_of(m: &Metadata) -> prof_model::stacks::Identity {
    let mtime = (m.mtime(), m.mtime_nsec().try_into().unwrap_or(0));
    prof_model::stacks::Identity { size: m.size(), mtime, ino: m.ino() }
}

impl Identity {
    fn of(file: &File) -> Option<Self> {
        let m = file.metadata().ok()?;
        let mtime = (m.mtime(), m.mtime_nsec());
        Some(Self { dev: m.dev(), ino: m.ino(), size: m.size(), mtime })
    }
}

impl Kept {
    /// Gives a descriptor back.
    pub fn close(&mut self) {
        if let Self::Open(Code::File(file)) = self
            && let Some(identity) = Identity::of(file)
        {
            *self = Self::Closed(identity);
        }
    }

    /// The code, opened again if need be.
    pub fn open(self, path: &Path) -> Code {
        let identity = match self {
            Self::Open(code) => return code,
            Self::Closed(identity) => identity,
        };
        match files::open(path) {
            Ok(file) if Identity::of(&file).as_ref() == Some(&identity) => Code::File(file),
            Ok(_) => Code::Gone("another file has its name by now".into()),
            Err(e) => Code::Gone(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(used: u64) -> Known {
        Known {
            key: Some(AbiFileKey { ino: used, mtime_ns: 0, dev: 1, generation: 0 }),
            path: PathBuf::new(),
            build_id: Vec::new(),
            code: None,
            module: None,
            table: Err(String::new()),
            used,
        }
    }

    #[test]
    fn what_nobody_has_mapped_goes_first_and_the_oldest_of_it() {
        let mut files: HashMap<u32, Known> =
            [(2, 50), (3, 10), (4, 30), (5, 20)].map(|(id, used)| (id, known(used))).into();
        files.insert(1, Known { key: None, ..known(0) });
        let ids = |mapped: &[u32], n| -> Vec<u32> {
            let mapped = mapped.iter().copied().collect();
            least_used(&files, &mapped, n).into_iter().map(|(id, _)| id).collect()
        };
        assert_eq!(ids(&[3], 2), [5, 4]);
        assert_eq!(ids(&[3], 9), [5, 4, 2]);
        assert_eq!(ids(&[2, 3, 4, 5], 1), [3], "all are mapped");
    }

    #[test]
    fn a_file_that_was_closed_is_opened_again_if_it_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let kept = || {
            std::fs::write(&path, "one").unwrap();
            let mut kept = Kept::Open(Code::File(File::open(&path).unwrap()));
            kept.close();
            assert!(matches!(kept, Kept::Closed(_)));
            kept
        };
        assert!(matches!(kept().open(&path), Code::File(_)));
        let old = kept();
        std::fs::write(dir.path().join("y"), "two").unwrap();
        std::fs::rename(dir.path().join("y"), &path).unwrap();
        assert!(matches!(old.open(&path), Code::Gone(_)));
        let old = kept();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(old.open(&path), Code::Gone(_)));
    }
}
