//! What programs say of themselves: their probes found and attached to, and the figures
//! of their regions.
//!
//! A file is looked into once for each state of it: when `prof run` is about to execute
//! it, or when a process that is profiled has done so.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use prof_model::record::Attached;

use crate::abi;
use crate::abi::AbiCount;
use crate::abi::AbiRegionKey;
use crate::abi::AbiRegionNames;
use crate::abi::AbiRegionSum;
use crate::abi::NR_REGION_COUNTERS;
use crate::abi::Plain as _;
use crate::host;
use crate::loader::Loaded;
use crate::sys;
use crate::usdt;
use crate::usdt::Name;
use crate::usdt::Probe;

/// What is done where a program says something.
#[derive(Debug, Clone, Copy)]
struct Action {
    /// Program of the kernel half that does it.
    program: &'static str,
    /// `enum prof_probe`, by which [`MULTI`] knows what to do.
    cookie: u64,
}

/// In the order in which they are attached: who hears a region begin is to hear it end.
const ACTIONS: [(Name, Action); 4] = [
    (Name::RegionEnd, Action { program: "region_end", cookie: 1 }),
    (Name::RegionBegin, Action { program: "region_begin", cookie: 2 }),
    (Name::Enable, Action { program: "region_enable", cookie: 4 }),
    (Name::Disable, Action { program: "region_disable", cookie: 3 }),
];

/// The program that does all of them.
const MULTI: &str = "region_multi";

/// The program that ends what a thread has not ended when it exits.
const EXIT: &str = "region_exit";

/// Programs of the kernel half that this kernel needs.
pub fn programs() -> Vec<&'static str> {
    let mut programs = vec![EXIT];
    match is_multi() {
        true => programs.push(MULTI),
        false => programs.extend(ACTIONS.map(|(_, a)| a.program)),
    }
    programs
}

/// Whether the kernel attaches to all places of a file by one link (6.6), and iterates
/// over the threads of a process in one of its programs (6.7). To detach from each place
/// alone is to wait for each alone.
fn is_multi() -> bool {
    host::kernel_is_at_least(6, 7)
}

/// How long a path is believed to lead to the same file: a program that is built anew
/// and run again within this time is looked into the next time it is run.
const TRUSTED: Duration = Duration::from_secs(1);

/// Paths and files that are remembered; then all are forgotten. A host has a few
/// thousand programs.
const MAX_KNOWN: usize = 1 << 16;

/// By when a program has mapped its libraries: they come within some milliseconds.
const MAPPED_BY: Duration = Duration::from_millis(40);

/// Processes that wait for that; of more, the libraries are found when their program is
/// run again.
const MAX_LATER: usize = 256;

/// Most that is read of a list of mappings: ten thousand lines.
const MAX_MAPS: u64 = 1 << 20;

/// Files that are attached to at once; each has one to four descriptors open.
const MAX_FILES: usize = 200;

/// Most threads more than this one that detach probes.
const DETACHERS: usize = 15;

/// Readings until all regions have ended that their threads' exits end: those come
/// some microseconds after the process's own end was told.
const SETTLING: u32 = 40;
const SETTLING_STEP: Duration = Duration::from_micros(50);

/// One state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileId {
    dev: u64,
    ino: u64,
    changed: (i64, i64),
}

impl FileId {
    fn of(meta: &fs::Metadata) -> Self {
        Self { dev: meta.dev(), ino: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) }
    }
}

/// Files that were looked into.
#[derive(Debug)]
pub struct Known {
    /// Our own: in others paths lead elsewhere.
    mntns: u32,
    files: HashSet<FileId>,
    paths: HashMap<Vec<u8>, Instant>,
    /// Processes whose libraries are to be looked into, and when.
    later: VecDeque<(u32, Instant)>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            mntns: host::namespace("mnt"),
            files: HashSet::new(),
            paths: HashMap::new(),
            later: VecDeque::new(),
        }
    }
}

/// A file with probes that nobody has asked for yet.
pub type Found = (File, Vec<Probe>, PathBuf);

impl Known {
    /// The program at `path`, which process `pid` in mount namespace `mntns` has begun to
    /// run, if it has probes. What it maps is to be looked into when it has done so.
    pub fn program(&mut self, pid: u32, mntns: u32, path: &[u8]) -> Option<Found> {
        if mntns == self.mntns && self.trusts(path) {
            return None;
        }
        if self.later.len() < MAX_LATER {
            self.later.push_back((pid, Instant::now() + MAPPED_BY));
        }
        let shown = Path::new(OsStr::from_bytes(path));
        if mntns == self.mntns {
            return self.look(shown, shown).ok()?;
        }
        // It may be gone already: then there will be another.
        self.look(Path::new(&format!("/proc/{pid}/exe")), shown).ok()?
    }

    /// A process whose libraries are there by now.
    pub fn next_due(&mut self) -> Option<u32> {
        let (pid, at) = *self.later.front()?;
        (at <= Instant::now()).then(|| self.later.pop_front())?;
        Some(pid)
    }

    /// Files with probes among those that a process runs and maps. One that is gone maps
    /// nothing.
    pub fn mapped(&mut self, pid: u32) -> Vec<Found> {
        let mut text = Vec::new();
        let maps = File::open(format!("/proc/{pid}/maps"));
        if maps.and_then(|f| f.take(MAX_MAPS).read_to_end(&mut text)).is_err() {
            return Vec::new();
        }
        let mut paths: Vec<&[u8]> = text.split(|b| *b == b'\n').filter_map(code_of).collect();
        paths.dedup();
        let ours = fs::metadata(format!("/proc/{pid}/ns/mnt"));
        let ours = ours.is_ok_and(|m| m.ino() as u32 == self.mntns);
        let mut found = Vec::new();
        for path in paths {
            if ours && self.trusts(path) {
                continue;
            }
            // By its root, wherever that is.
            let mut there = format!("/proc/{pid}/root").into_bytes();
            there.extend_from_slice(path);
            let (there, shown) = (OsStr::from_bytes(&there), OsStr::from_bytes(path));
            // What has gone or cannot be read has no probes that can be attached to.
            let looked = self.look(Path::new(there), Path::new(shown));
            found.extend(looked.ok().flatten());
        }
        found
    }

    /// Whether the path was looked at a moment ago; from now on it was.
    fn trusts(&mut self, path: &[u8]) -> bool {
        let now = Instant::now();
        if self.paths.get(path).is_some_and(|then| now.duration_since(*then) < TRUSTED) {
            return true;
        }
        if self.paths.len() >= MAX_KNOWN {
            self.paths.clear();
        }
        self.paths.insert(path.to_vec(), now);
        false
    }

    /// Looks into a file that was not looked into before, and is told as `shown`.
    pub fn look(&mut self, path: &Path, shown: &Path) -> Result<Option<Found>, usdt::Error> {
        if self.files.contains(&FileId::of(&fs::metadata(path)?)) {
            return Ok(None);
        }
        let Some(file) = usdt::open(path)? else { return Ok(None) };
        if self.files.len() >= MAX_KNOWN {
            self.files.clear();
        }
        self.files.insert(FileId::of(&file.metadata()?));
        let probes = usdt::find_in(&file)?;
        Ok((!probes.is_empty()).then(|| (file, probes, shown.to_owned())))
    }
}

/// The file of a line of /proc/PID/maps, if it is mapped to be executed.
fn code_of(line: &[u8]) -> Option<&[u8]> {
    let mut fields = line.split(|b| *b == b' ').filter(|f| !f.is_empty());
    let executable = fields.nth(1)?.get(2) == Some(&b'x');
    let path_at = line.iter().position(|b| *b == b'/')?;
    executable.then(|| &line[path_at..])
}

/// The figures of a region so far, as the kernel half keeps them.
#[derive(Debug, Clone)]
pub struct RegionSum {
    /// Whose, and its name.
    pub key: AbiRegionKey,
    /// What was used in it.
    pub sum: AbiRegionSum,
    /// Of each counter of the session.
    pub counts: Vec<AbiCount>,
}

/// The programs of the kernel half that probes run. Detaches when dropped.
#[derive(Debug)]
pub struct Regions {
    loaded: Loaded,
    counters: usize,
    cpus: usize,
    /// The exit hook, and probes.
    links: Vec<OwnedFd>,
    files: usize,
    /// Names by process and window, as they came.
    names: HashMap<(u32, u64), Vec<AbiRegionKey>>,
}

impl Regions {
    /// Attaches to the exit of threads, whose open regions end then. `loaded` has the
    /// [`programs`].
    pub fn begin(loaded: Loaded, counters: usize, cpus: usize) -> Result<Self> {
        let exit = sys::raw_tracepoint_open(Some(c"sched_process_exit"), loaded.prog(EXIT)?)
            .context("attaching to sched_process_exit for regions")?;
        let (links, names) = (vec![exit], HashMap::new());
        Ok(Self { loaded, counters, cpus, links, files: 0, names })
    }

    /// Attaches to the probes of a file, which is told as `shown`.
    pub fn attach(&mut self, file: &File, probes: &[Probe], shown: &Path) -> Result<Vec<Attached>> {
        if self.files >= MAX_FILES {
            return Err(anyhow!("{MAX_FILES} files are attached to: no more are"));
        }
        self.files += 1;
        // The file itself, whatever its path leads to by now.
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let mut attached = Vec::new();
        // Not at the roomy `nop`, which kernels from 6.18 on make a call of, for two thirds of
        // the price: what the program forks afterwards has the call, but not the page that
        // it goes to, and dies of it (seen with 6.18.44).
        let place = |p: &Probe| (p.file_offset, p.semaphore_offset.unwrap_or(0));
        let mut places = Vec::new();
        for (name, action) in ACTIONS {
            let readable = probes.iter().filter(|p| p.name == name && p.is_readable());
            let before = places.len();
            places.extend(readable.map(|p| (place(p), action)));
            if places.len() > before {
                let how = if is_multi() { "uprobe_multi" } else { "uprobe" };
                attached.push(Attached { hook: format!("{}:{name}", shown.display()), how });
            }
        }
        if !places.is_empty() {
            self.attach_to(&path, &places).context("attaching to its probes")?;
        }
        Ok(attached)
    }

    /// Attaches to places and their semaphores, for an action each.
    fn attach_to(&mut self, file: &CStr, places: &[((u64, u64), Action)]) -> Result<()> {
        if is_multi() {
            let (at, cookies): (Vec<_>, Vec<_>) =
                places.iter().map(|(p, a)| (*p, a.cookie)).unzip();
            let (offsets, semaphores): (Vec<_>, Vec<_>) = at.into_iter().unzip();
            let program = self.loaded.prog(MULTI)?;
            let link = sys::uprobe_multi_open(file, &offsets, &semaphores, &cookies, program)?;
            self.links.push(link);
            return Ok(());
        }
        let pmu = fs::read_to_string("/sys/bus/event_source/devices/uprobe/type")
            .map_err(|_| anyhow!("this kernel has no uprobes (CONFIG_UPROBE_EVENTS)"))?;
        let pmu = pmu.trim().parse().context("type of the uprobe PMU")?;
        for ((offset, semaphore), action) in places {
            let program = self.loaded.prog(action.program)?;
            self.links.push(sys::uprobe_open(pmu, file, *offset, *semaphore, program)?);
        }
        Ok(())
    }

    /// From now on nothing is added. For each link the kernel waits until nobody can be in
    /// its program any more, which was 0.1 s here: that is done side by side.
    pub fn detach(&mut self) {
        let links = std::mem::take(&mut self.links);
        let more = links.len().saturating_sub(1).min(DETACHERS);
        let links = Mutex::new(links);
        let next = || links.lock().ok().and_then(|mut l| l.pop());
        thread::scope(|scope| {
            for _ in 0..more {
                // Without a thread more the others do it.
                let detacher = || {
                    while let Some(link) = next() {
                        drop(link)
                    }
                };
                if thread::Builder::new().spawn_scoped(scope, detacher).is_err() {
                    break;
                }
            }
            while let Some(link) = next() {
                drop(link);
            }
        });
    }

    /// Notes a name that came first.
    pub fn note(&mut self, key: AbiRegionKey) {
        self.names.entry((key.pid, key.window_ns)).or_default().push(key);
    }

    /// Regions of a window that goes on.
    pub fn so_far(&self, pid: u32, window_ns: u64) -> Result<Vec<RegionSum>> {
        let known = self.names.get(&(pid, window_ns)).map_or(&[][..], Vec::as_slice);
        let sums = known.iter().map(|key| self.sum(*key));
        sums.filter_map(Result::transpose).collect()
    }

    /// Regions of a window that has ended, and forgets them. If its process has exited,
    /// those that it was in end with it.
    pub fn take(&mut self, pid: u32, window_ns: u64, exited: bool) -> Result<Vec<RegionSum>> {
        let of = AbiRegionNames { window_ns, pid: pid.into() };
        let map = self.loaded.map("region_names")?;
        let known = self.names.remove(&(pid, window_ns)).unwrap_or_default();
        let Some(names) = sys::map_lookup::<_, u64>(map, &of)? else { return Ok(Vec::new()) };
        let all_known = known.len() as u64 >= names;
        let keys = if all_known { known } else { self.search(pid, window_ns)? };
        let read = || -> Result<Vec<RegionSum>> {
            keys.iter().map(|key| self.sum(*key)).filter_map(Result::transpose).collect()
        };
        let mut sums = read()?;
        for _ in 0..SETTLING {
            if !exited || sums.iter().all(|s| s.sum.begun == s.sum.ended) {
                break;
            }
            thread::sleep(SETTLING_STEP);
            sums = read()?;
        }
        for key in &keys {
            sys::map_delete(self.loaded.map("region_sums")?, key)?;
        }
        sys::map_delete(map, &of)?;
        Ok(sums)
    }

    /// The names of a window, whether they were told or not.
    fn search(&self, pid: u32, window_ns: u64) -> Result<Vec<AbiRegionKey>> {
        let map = self.loaded.map("region_sums")?;
        let mut keys = Vec::new();
        let mut at: Option<AbiRegionKey> = None;
        // A key that is removed meanwhile starts over: bounded, for that.
        for _ in 0..1 << 17 {
            let Some(next) = sys::map_next_key(map, at.as_ref())? else { break };
            if (next.pid, next.window_ns) == (pid, window_ns)
                && !keys.iter().any(|k: &AbiRegionKey| k.name == next.name && k.len == next.len)
            {
                keys.push(next);
            }
            at = Some(next);
        }
        Ok(keys)
    }

    fn sum(&self, key: AbiRegionKey) -> Result<Option<RegionSum>> {
        let fixed = size_of::<AbiRegionSum>();
        let mut bytes = vec![0; fixed + self.counters.max(1) * size_of::<AbiCount>()];
        match sys::map_lookup_bytes(self.loaded.map("region_sums")?, &key, &mut bytes) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(e) => return Err(e).context("figures of a region"),
        }
        let Some(sum) = AbiRegionSum::from_bytes(&bytes) else { return Ok(None) };
        let mut counts = abi::counts(&bytes[fixed..]);
        counts.truncate(self.counters);
        Ok(Some(RegionSum { key, sum, counts }))
    }

    /// What could not be measured, by `RegionCounter`, summed over the CPUs.
    pub fn counters(&self) -> Result<[u64; NR_REGION_COUNTERS]> {
        self.loaded.counters("region_cpu", 0, self.cpus).context("counters of regions")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_looked_into() {
        let code = b"7f00-7f10 r-xp 00001000 fe:00 1234                       /usr/lib/a b.so";
        assert_eq!(code_of(code), Some(&b"/usr/lib/a b.so"[..]));
        for other in [
            &b"7f00-7f10 r--p 00001000 fe:00 1234                       /usr/lib/a.so"[..],
            b"7f00-7f10 r-xp 00000000 00:00 0                          [vdso]",
            b"7f00-7f10 r-xp 00000000 00:00 0 ",
            b"x",
            b"",
        ] {
            assert_eq!(code_of(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
