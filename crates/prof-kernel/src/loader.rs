//! From the built object to loaded programs: through libbpf, or, when the same
//! was done before on this kernel, straight from what was kept.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use libbpf_rs::MapCore as _;
use libbpf_rs::ObjectBuilder;
use libbpf_rs::PrintLevel;

use crate::abi::Config;
use crate::abi::Plain as _;
use crate::prepared;
use crate::prepared::Prepared;
use crate::prepared::PreparedMap;
use crate::prepared::PreparedProg;
use crate::probe::Privileges;
use crate::sys;

macro_rules! object {
    ($name:literal) => {
        Object {
            name: $name,
            #[cfg(target_arch = "x86_64")]
            bytes: include_bytes!(concat!("../../../bpf/objects/x86_64/", $name)),
            #[cfg(target_arch = "aarch64")]
            bytes: include_bytes!(concat!("../../../bpf/objects/aarch64/", $name)),
        }
    };
}

/// The kernel half, as built by `cargo xtask bpf` and committed.
#[derive(Debug)]
pub struct Object {
    name: &'static str,
    bytes: &'static [u8],
}

/// For kernels of today, and for those before 6.4; and for those up to 6.7 whose verifier
/// loses itself in the loops of a program. Which of them this is is found out by loading.
pub static LIFECYCLE: [Object; 2] =
    [object!("lifecycle.bpf.o"), object!("lifecycle_before_6_4.bpf.o")];

/// The audit, for all kernels.
pub static AUDIT: [Object; 1] = [object!("audit.bpf.o")];

/// What the objects were made of, with their checksums: names the object without
/// reading half a megabyte of it.
static MANIFEST: &[u8] = include_bytes!("../../../bpf/objects/MANIFEST");

/// Licence of the kernel half, as the kernel wants to hear it.
const LICENSE: &str = "Dual BSD/GPL";

const RODATA: &str = ".rodata";
const BPF_PSEUDO_MAP_FD: u8 = 1;
const BPF_PSEUDO_MAP_VALUE: u8 = 2;
const BPF_LD_IMM64: u8 = 0x18;

/// The kernel lets this process load no BPF programs.
#[derive(Debug)]
pub struct NotPermitted(Privileges);

impl std::error::Error for NotPermitted {}

impl std::fmt::Display for NotPermitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let needs = "it needs CAP_BPF and CAP_PERFMON";
        write!(f, "loading BPF programs is not permitted (EPERM): {needs}")
    }
}

impl NotPermitted {
    /// What to do about it.
    pub fn cure(&self) -> String {
        self.0.cure()
    }
}

/// The kernel, or libbpf, does not load the programs.
#[derive(Debug)]
pub struct NotLoaded {
    kind: libbpf_rs::ErrorKind,
    text: String,
    log: String,
}

impl std::error::Error for NotLoaded {}

impl std::fmt::Display for NotLoaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the kernel half could not be loaded: {}\n{}", self.text, self.log)
    }
}

impl NotLoaded {
    /// Whether the kernel refuses programs of that kind, and not the verifier this one. libbpf-rs
    /// has one kind of error for EPERM and EACCES; but the verifier does not go without a word.
    pub fn is_of_kind(&self) -> bool {
        /// What libbpf puts around these words.
        const WORDS: &str = "PROG LOAD LOG";
        self.kind == libbpf_rs::ErrorKind::PermissionDenied && !self.log.contains(WORDS)
    }
}

/// What to load.
#[derive(Debug)]
pub struct Spec<'a> {
    /// Of what; the first that loads is taken.
    pub objects: &'static [Object],
    /// Programs by name.
    pub programs: &'a [&'static str],
    /// Constants of the session.
    pub config: &'a Config,
    /// Sizes other than the object's, by map.
    pub sizes: &'a [(&'static str, u32)],
    /// Sizes of values other than the object's, by map.
    pub value_sizes: &'a [(&'static str, u32)],
    /// BTF of the kernel, if not where it usually is.
    pub btf: Option<&'a Path>,
    /// An earlier load whose maps are used again; those that it did not need are made.
    pub reuse: Option<&'a Loaded>,
    /// Where prepared programs are kept; `None` to go through libbpf always.
    pub cache: Option<PathBuf>,
}

/// What is needed to load more programs of a session.
#[derive(Debug)]
pub struct Later {
    /// Constants of the session.
    pub config: Config,
    /// As [`Spec`] has it.
    pub btf: Option<PathBuf>,
    /// The same.
    pub cache: Option<PathBuf>,
}

impl Later {
    /// Loads them on the maps of an earlier load.
    pub fn load(
        &self,
        programs: &[&'static str],
        sizes: &[(&'static str, u32)],
        value_sizes: &[(&'static str, u32)],
        earlier: &Loaded,
    ) -> Result<Loaded> {
        load(&Spec {
            objects: &LIFECYCLE,
            programs,
            config: &self.config,
            sizes,
            value_sizes,
            btf: self.btf.as_deref(),
            reuse: Some(earlier),
            cache: self.cache.clone(),
        })
    }
}

/// Maps and programs of a session, by name.
#[derive(Debug)]
pub struct Loaded {
    maps: BTreeMap<String, OwnedFd>,
    progs: BTreeMap<String, OwnedFd>,
    /// Whether libbpf was not needed.
    pub from_cache: bool,
}

impl Loaded {
    /// A map; the names are those of `bpf/include/maps.h`.
    pub fn map(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let fd = self.maps.get(name).ok_or_else(|| anyhow!("the BPF object has no map {name}"))?;
        Ok(fd.as_fd())
    }

    /// A program that was asked for.
    pub fn prog(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let fd =
            self.progs.get(name).ok_or_else(|| anyhow!("BPF program {name} was not loaded"))?;
        Ok(fd.as_fd())
    }

    /// All programs.
    pub fn progs(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.progs.iter().map(|(n, fd)| (n.as_str(), fd.as_fd()))
    }

    /// Run statistics by program; zero unless the kernel keeps them.
    pub fn stats(&self) -> Vec<(String, sys::ProgInfo)> {
        self.progs().filter_map(|(n, fd)| Some((n.to_owned(), sys::prog_info(fd).ok()?))).collect()
    }

    /// The counters that a value of a per-CPU map begins with, summed over `cpus`.
    pub fn counters<const N: usize>(&self, map: &str, key: u32, cpus: usize) -> Result<[u64; N]> {
        let map = self.map(map)?;
        // What else it holds is the kernel half's own. The kernel pads to 8 bytes.
        let one = sys::map_value_size(map)?.next_multiple_of(8);
        let mut values = vec![0u8; cpus * one];
        sys::map_lookup_bytes(map, &key, &mut values)?;
        let mut sums = [0; N];
        for counters in values.chunks_exact(one).filter_map(<[u64; N]>::from_bytes) {
            for (sum, n) in sums.iter_mut().zip(counters) {
                *sum += n;
            }
        }
        Ok(sums)
    }
}

/// Loads the programs that `spec` names.
pub fn load(spec: &Spec<'_>) -> Result<Loaded> {
    // With a BTF file of the user's choice the kernel's own says nothing.
    let cache = spec.cache.as_deref().filter(|_| spec.btf.is_none());
    let flavour = spec.programs.join(",");
    let key = cache.and_then(|_| prepared::key(MANIFEST, &flavour).ok());
    if let (Some(dir), Some(key)) = (cache, &key)
        && let Some(prepared) = prepared::load(dir, key)
        && let Ok(loaded) = load_prepared(spec, &prepared)
    {
        return Ok(loaded);
    }
    let mut errors = Vec::new();
    for object in spec.objects {
        match load_object(object, spec, key.clone().unwrap_or_default()) {
            Ok((loaded, prepared)) => {
                if let (Some(dir), Some(_), Some(prepared)) = (cache, &key, prepared) {
                    // A full or read-only disk costs the next start some time, no more.
                    let _ = prepared::save(dir, &prepared);
                }
                return Ok(loaded);
            }
            Err(e) if e.is::<NotPermitted>() => return Err(e),
            Err(e) => errors.push(e),
        }
    }
    // What the one for today says is told, unless the kernel is too old for it to say
    // anything of use.
    let told = if has_casts_and_iterators() { 0 } else { errors.len().saturating_sub(1) };
    let error = errors.into_iter().nth(told);
    Err(error.unwrap_or_else(|| anyhow!("there is no object to load")))
}

/// Whether the kernel is one of today.
fn has_casts_and_iterators() -> bool {
    // Of the kernel's functions the loader knows by the usual place only. The other object
    // calls none.
    let btf = libbpf_rs::btf::Btf::from_vmlinux();
    let needed = ["bpf_rdonly_cast", "bpf_iter_num_new"];
    btf.is_ok_and(|btf| {
        needed.iter().all(|f| btf.type_by_name::<libbpf_rs::btf::types::Func<'_>>(f).is_some())
    })
}

fn load_prepared(spec: &Spec<'_>, prepared: &Prepared) -> Result<Loaded> {
    let mut fds = Vec::with_capacity(prepared.maps.len());
    for m in &prepared.maps {
        if let Some(earlier) = spec.reuse.and_then(|e| e.map(&m.name).ok()) {
            fds.push(earlier.try_clone_to_owned()?);
            continue;
        }
        let size = size_in(spec.sizes, &m.name).unwrap_or(m.max_entries);
        let value_size = size_in(spec.value_sizes, &m.name).unwrap_or(m.value_size);
        // The kernel takes letters, digits, `_` and `.`, up to 15.
        let name: String = m.name.chars().take(15).collect();
        // It is shown what its elements are like.
        let inner = (m.kind == libbpf_sys::BPF_MAP_TYPE_ARRAY_OF_MAPS)
            .then(segment)
            .transpose()
            .with_context(|| format!("an element of BPF map {}", m.name))?;
        let fd = sys::map_create(
            m.kind,
            &CString::new(name)?,
            m.key_size,
            value_size,
            size,
            m.flags,
            inner.as_ref().map(OwnedFd::as_fd),
        )
        .with_context(|| format!("BPF map {}", m.name))?;
        if !m.data.is_empty() {
            let mut value = m.data.clone();
            if m.name == RODATA {
                put_config(&mut value, spec.config)?;
            }
            update_whole(fd.as_fd(), &value)?;
            sys::map_freeze(fd.as_fd())?;
        }
        fds.push(fd);
    }
    let progs = load_progs(&prepared.progs, &fds)?;
    let maps = prepared.maps.iter().map(|m| m.name.clone()).zip(fds).collect();
    Ok(Loaded { maps, progs, from_cache: true })
}

/// An element of `segments`: all maps of maps hold these.
pub fn segment() -> io::Result<OwnedFd> {
    let bytes = crate::abi::stacks::SEGMENT_BYTES as u32;
    let flags = libbpf_sys::BPF_F_MMAPABLE;
    sys::map_create(libbpf_sys::BPF_MAP_TYPE_ARRAY, c"segment", 4, bytes, 1, flags, None)
}

/// The verifier takes most of the time, and programs are verified side by side: two
/// threads take the largest of those that are left.
fn load_progs(progs: &[PreparedProg], maps: &[OwnedFd]) -> Result<BTreeMap<String, OwnedFd>> {
    let mut order: Vec<_> = progs.iter().collect();
    order.sort_by_key(|p| std::cmp::Reverse(p.insns.len()));
    let next = AtomicUsize::new(0);
    let take = || {
        let mut loaded = BTreeMap::new();
        while let Some(p) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            loaded.insert(p.name.clone(), load_prog(p, maps)?);
        }
        anyhow::Ok(loaded)
    };
    thread::scope(|scope| {
        let other = scope.spawn(take);
        let mut loaded = take()?;
        loaded.extend(other.join().map_err(|_| anyhow!("a thread that loads programs died"))??);
        Ok(loaded)
    })
}

fn load_prog(p: &PreparedProg, maps: &[OwnedFd]) -> Result<OwnedFd> {
    let mut insns: Vec<libbpf_sys::bpf_insn> = p.insns.iter().map(|i| unpack(*i)).collect();
    for (at, map) in &p.map_refs {
        insns[*at as usize].imm = maps[*map as usize].as_raw_fd();
    }
    sys::prog_load(
        p.kind,
        &CString::new(p.name.chars().take(15).collect::<String>())?,
        &CString::new(LICENSE)?,
        &insns,
        p.attach_type,
        p.attach_btf_id,
        sleepable(p.kind),
    )
    .with_context(|| format!("BPF program {}", p.name))
}

/// `syscall` programs are always sleepable, and must say so.
fn sleepable(kind: u32) -> bool {
    kind == libbpf_sys::BPF_PROG_TYPE_SYSCALL
}

fn update_whole(map: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    // SAFETY: the key is a u32 and the value as long as the map's, which was
    // created with that length.
    let ret = unsafe {
        libbpf_sys::bpf_map_update_elem(
            map.as_raw_fd(),
            std::ptr::from_ref(&0u32).cast(),
            value.as_ptr().cast(),
            0,
        )
    };
    if ret < 0 { Err(io::Error::from_raw_os_error(-ret)) } else { Ok(()) }
}

/// The configuration is the one constant of the object, so it is all of .rodata.
fn put_config(rodata: &mut [u8], config: &Config) -> Result<()> {
    let bytes = config.as_bytes();
    match rodata.get_mut(..bytes.len()) {
        Some(front) => front.copy_from_slice(bytes),
        None => bail!("the BPF object is of another version than this program"),
    }
    Ok(())
}

/// What a session does not need is not made: maps of regions, and of stacks.
fn is_needed(map: &str, spec: &Spec<'_>) -> bool {
    const REGIONS: &str = "region_";
    /// What only those use that take time off the CPU.
    const OFF_CPU: &str = "off_";
    /// What only those use that read Python's frames.
    const PYTHON: &str = "python";
    /// What only those use that sample at tracepoints.
    const TRACEPOINT: &str = "tracepoint";
    /// What only the programs that take stacks use.
    const STACKS: [&str; 12] = [
        "samples",
        "files",
        "spaces",
        "samplers",
        "sample_shares",
        "file_scratch",
        "segments",
        "unwind_rules",
        "tables",
        "free_files",
        "interpreters",
        "tails",
    ];
    for part in [REGIONS, OFF_CPU, PYTHON, TRACEPOINT] {
        if map.starts_with(part) {
            return spec.programs.iter().any(|p| p.contains(part));
        }
    }
    let takes = |p: &&str| *p == "sample" || p.contains(PYTHON);
    !STACKS.contains(&map) || spec.programs.iter().any(takes)
}

fn size_in(sizes: &[(&'static str, u32)], name: &str) -> Option<u32> {
    sizes.iter().find(|(n, _)| *n == name).map(|(_, s)| *s)
}

/// What libbpf said at warning level, to be told if the load fails.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn keep(_: PrintLevel, line: String) {
    if let Ok(mut log) = LOG.lock()
        && log.len() < 4096
    {
        log.push(line);
    }
}

/// The lines of the log that tell the cause: the verifier's last words.
fn log_tail() -> String {
    let mut log = LOG.lock().map(|mut l| std::mem::take(&mut *l)).unwrap_or_default();
    let text = log.drain(..).collect::<String>();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

fn load_object(
    object: &Object,
    spec: &Spec<'_>,
    key: Vec<u8>,
) -> Result<(Loaded, Option<Prepared>)> {
    libbpf_rs::set_print(Some((PrintLevel::Warn, keep)));
    let mut builder = ObjectBuilder::default();
    if let Some(btf) = spec.btf {
        if sys::is_secure_exec() {
            bail!("--btf is for root: it decides what the programs read in the kernel");
        }
        std::fs::metadata(btf).with_context(|| format!("BTF file {}", btf.display()))?;
        builder.btf_custom_path(btf)?;
    }
    let mut open = builder
        .open_memory(object.bytes)
        .with_context(|| format!("the built-in BPF object {}", object.name))?;
    for mut m in open.maps_mut() {
        let name = plain_name(m.name());
        if !is_needed(&name, spec) {
            m.set_autocreate(false)?;
            continue;
        }
        if let Some(earlier) = spec.reuse.and_then(|e| e.map(&name).ok()) {
            m.reuse_fd(earlier)?;
            continue;
        }
        if name == RODATA {
            let value = m.initial_value_mut().ok_or_else(|| anyhow!("no .rodata to set"))?;
            put_config(value, spec.config)?;
        }
        if let Some(size) = size_in(spec.sizes, &name) {
            m.set_max_entries(size)?;
        }
        if let Some(size) = size_in(spec.value_sizes, &name) {
            m.set_value_size(size)?;
        }
    }
    for mut p in open.progs_mut() {
        let wanted = spec.programs.iter().any(|n| p.name() == *n);
        p.set_autoload(wanted);
    }
    let object = open.load().map_err(|e| {
        let log = log_tail();
        // EPERM is the lack of a capability, and EACCES the verifier's word on a program: that a
        // program without them may not do this or that, if they are not there.
        let mine = Privileges::of_this_process();
        if e.kind() == libbpf_rs::ErrorKind::PermissionDenied && !mine.suffice() {
            return anyhow!(NotPermitted(mine));
        }
        anyhow!(NotLoaded { kind: e.kind(), text: e.to_string(), log })
    })?;

    let mut maps = BTreeMap::new();
    let mut prepared_maps: Vec<PreparedMap> = Vec::new();
    let mut by_fd = BTreeMap::new();
    for m in object.maps() {
        let name = plain_name(m.name());
        if !is_needed(&name, spec) {
            continue;
        }
        let info = m.info().with_context(|| format!("BPF map {name}"))?.info;
        by_fd.insert(m.as_fd().as_raw_fd(), prepared_maps.len() as u32);
        prepared_maps.push(PreparedMap {
            name: name.clone(),
            kind: info.type_,
            key_size: info.key_size,
            value_size: info.value_size,
            max_entries: info.max_entries,
            flags: info.map_flags,
            data: constants(&m, &name, info.value_size)?,
        });
        maps.insert(name, m.as_fd().try_clone_to_owned()?);
    }
    let mut progs = BTreeMap::new();
    let mut prepared_progs = Some(Vec::new());
    for p in object.progs() {
        let name = p.name().to_string_lossy().into_owned();
        if !spec.programs.contains(&name.as_str()) {
            continue;
        }
        if let Some(list) = &mut prepared_progs {
            match prepare(&name, &p, &by_fd) {
                Some(prepared) => list.push(prepared),
                None => prepared_progs = None,
            }
        }
        progs.insert(name, p.as_fd().try_clone_to_owned()?);
    }
    let prepared = prepared_progs.map(|progs| Prepared { key, maps: prepared_maps, progs });
    Ok((Loaded { maps, progs, from_cache: false }, prepared))
}

/// libbpf puts the object's name before those of its own sections.
fn plain_name(name: &std::ffi::OsStr) -> String {
    let full = name.to_string_lossy();
    full.find('.').map_or_else(|| full.to_string(), |at| full[at..].to_owned())
}

/// Content of a map of constants; nothing for any other.
fn constants(m: &libbpf_rs::Map<'_>, name: &str, size: u32) -> Result<Vec<u8>> {
    if !name.starts_with(RODATA) {
        return Ok(Vec::new());
    }
    let mut data = vec![0u8; size as usize];
    sys::map_lookup_bytes(m.as_fd(), &0u32, &mut data)?;
    Ok(data)
}

/// A loaded program in the form that is kept; `None` if it holds something that
/// cannot be kept.
fn prepare(
    name: &str,
    p: &libbpf_rs::Program<'_>,
    by_fd: &BTreeMap<i32, u32>,
) -> Option<PreparedProg> {
    let kind = p.prog_type() as u32;
    let attach_type = p.attach_type() as u32;
    let needs_btf_id =
        matches!(p.prog_type(), libbpf_rs::ProgramType::Tracing | libbpf_rs::ProgramType::Lsm);
    let attach_btf_id = sys::prog_info(p.as_fd()).ok()?.attach_btf_id;
    if needs_btf_id && attach_btf_id == 0 {
        return None;
    }
    let mut insns = Vec::new();
    let mut map_refs = Vec::new();
    let mut second = false;
    for (i, insn) in p.insns().iter().enumerate() {
        let mut copy = *insn;
        if !second && copy.code == BPF_LD_IMM64 {
            let source = copy.src_reg();
            if source == BPF_PSEUDO_MAP_FD || source == BPF_PSEUDO_MAP_VALUE {
                map_refs.push((i as u32, *by_fd.get(&copy.imm)?));
                copy.imm = 0;
            }
        }
        second = !second && insn.code == BPF_LD_IMM64;
        insns.push(pack(&copy));
    }
    let attach_btf_id = if needs_btf_id { attach_btf_id } else { 0 };
    Some(PreparedProg { name: name.into(), kind, attach_type, attach_btf_id, insns, map_refs })
}

fn pack(i: &libbpf_sys::bpf_insn) -> u64 {
    u64::from(i.code)
        | u64::from(i.dst_reg()) << 8
        | u64::from(i.src_reg()) << 12
        | u64::from(i.off as u16) << 16
        | u64::from(i.imm as u32) << 32
}

fn unpack(v: u64) -> libbpf_sys::bpf_insn {
    let mut insn = libbpf_sys::bpf_insn {
        code: v as u8,
        off: (v >> 16) as u16 as i16,
        imm: (v >> 32) as u32 as i32,
        ..Default::default()
    };
    insn.set_dst_reg((v >> 8 & 0xf) as u8);
    insn.set_src_reg((v >> 12 & 0xf) as u8);
    insn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_verifier_says_is_no_refusal_of_all_programs() {
        let not = |kind, log: &str| NotLoaded { kind, text: String::new(), log: log.into() };
        let denied = libbpf_rs::ErrorKind::PermissionDenied;
        assert!(not(denied, "libbpf: prog 'x': failed to load: -EPERM").is_of_kind());
        let words = "-- BEGIN PROG LOAD LOG --\nR1 invalid mem access 'scalar'";
        assert!(!not(denied, words).is_of_kind());
        assert!(!not(libbpf_rs::ErrorKind::InvalidInput, "").is_of_kind());
    }

    #[test]
    fn instructions_survive_packing() {
        let v = 0xdead_beef_8001_7a18u64;
        assert_eq!(pack(&unpack(v)), v);
    }

    #[test]
    fn a_config_that_does_not_fit_is_refused() {
        let config = Config::zeroed();
        assert!(put_config(&mut [0; 8], &config).is_err());
        assert!(put_config(&mut [0; 512], &config).is_ok());
    }
}
