//! Debug files from debuginfod servers, by the client that elfutils has for it: it knows
//! the protocol, keeps what it fetched, and is told by `DEBUGINFOD_URLS` whom to ask.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZero;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use crate::debug_file;

const CLIENT: &str = "debuginfod-find";

/// Connections at a time.
const AT_ONCE: NonZero<usize> = NonZero::new(4).expect("not 0");

/// Seconds without progress after which the client gives up, unless
/// `DEBUGINFOD_TIMEOUT` says otherwise.
const PATIENCE: &str = "30";

/// Whether servers can be asked; else what to do about it.
pub fn ready() -> Result<(), String> {
    if std::env::var_os("DEBUGINFOD_URLS").is_none_or(|urls| urls.is_empty()) {
        return Err("DEBUGINFOD_URLS names no server: set it to that of your distribution, as in \
                    DEBUGINFOD_URLS=https://debuginfod.debian.net (sudo needs \
                    --preserve-env=DEBUGINFOD_URLS)"
            .to_owned());
    }
    match Command::new(CLIENT).arg("--version").stdout(Stdio::null()).status() {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(format!(
            "{CLIENT} is not installed: it is in the package debuginfod (Debian), \
             elfutils-debuginfod-client (Fedora)"
        )),
        Err(e) => Err(format!("{CLIENT}: {e}")),
    }
}

/// Where the debug files of these build ids are now, as far as a server has them and
/// they are not in `debug_dirs`. What is missing is no error: most files of a machine that
/// were built there are on no server.
pub fn fetch(build_ids: &[&[u8]], debug_dirs: &[PathBuf]) -> BTreeMap<Vec<u8>, PathBuf> {
    let here = |id: &[u8]| {
        debug_file::by_id(id).is_none_or(|name| debug_dirs.iter().any(|d| d.join(&name).exists()))
    };
    let wanted: Vec<&[u8]> = build_ids.iter().copied().filter(|id| !here(id)).collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.get().min(wanted.len()) {
            let work = || {
                while let Some(id) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(path) = ask(id) {
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        found.insert(id.to_vec(), path);
                    }
                }
            };
            // One fewer asks if it cannot be had.
            let _ = thread::Builder::new().name("debuginfod".into()).spawn_scoped(scope, work);
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn ask(id: &[u8]) -> Option<PathBuf> {
    let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
    let mut client = Command::new(CLIENT);
    client.args(["debuginfo", &hex]).stdin(Stdio::null()).stderr(Stdio::null());
    if std::env::var_os("DEBUGINFOD_TIMEOUT").is_none() {
        client.env("DEBUGINFOD_TIMEOUT", PATIENCE);
    }
    let answer = client.output().ok()?;
    let path = String::from_utf8(answer.stdout).ok()?;
    let path = Path::new(path.trim());
    (answer.status.success() && path.is_absolute()).then(|| path.to_owned())
}
