//! Stacks in the `perfdata` format, read by perf and by linux-perf-data.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/stacks.rs"]
mod stacks;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use linux_perf_data::PerfFileReader;
use linux_perf_data::PerfFileRecord;
use linux_perf_data::linux_perf_event_reader::EventRecord;
use linux_perf_data::linux_perf_event_reader::Mmap2FileId;
use linux_perf_data::linux_perf_event_reader::RecordType;
use linux_perf_data::linux_perf_event_reader::constants::PERF_CONTEXT_KERNEL;
use linux_perf_data::linux_perf_event_reader::constants::PERF_CONTEXT_MAX;
use linux_perf_data::linux_perf_event_reader::constants::PERF_CONTEXT_USER;
use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOptions;
use prof_export::stacks::names;
use prof_model::stacks::FrameKind;
use prof_model::stacks::Interner;
use prof_model::stacks::Kernel;
use prof_model::stacks::KernelPart;
use prof_model::stacks::Module;
use prof_model::stacks::ModuleId;
use prof_model::stacks::Process;
use prof_model::stacks::ProcessId;
use prof_model::stacks::Sample;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Thread;
use prof_model::stacks::ThreadId;
use prof_model::stacks::Whole;
use proptest::prelude::*;

/// Offsets that no file has, from here on.
const NO_OFFSET: u64 = 1 << 40;

/// A place in code: in a file, or nowhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    File(String, Vec<u8>, u64),
    Kernel(u64),
    Nowhere,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Read {
    time: u64,
    event: String,
    pid: i32,
    tid: i32,
    comm: String,
    cpu: u32,
    period: u64,
    chain: Vec<At>,
}

/// What linux-perf-data reads of a file, following its mappings.
fn read(bytes: &[u8]) -> Vec<Read> {
    let PerfFileReader { mut perf_file, mut record_iter } =
        PerfFileReader::parse_file(Cursor::new(bytes)).unwrap();
    let attrs = perf_file.event_attributes();
    let names: Vec<_> = attrs.iter().map(|a| a.name().unwrap().to_owned()).collect();
    let mut maps: BTreeMap<(i32, u64), (u64, String, Vec<u8>)> = BTreeMap::new();
    let mut comms = BTreeMap::new();
    let mut all = Vec::new();
    while let Some(record) = record_iter.next_record(&mut perf_file).unwrap() {
        let PerfFileRecord::EventRecord { attr_index, record } = record else {
            panic!("a record of perf's own")
        };
        match record.parse().unwrap() {
            EventRecord::Comm(c) => {
                let name = String::from_utf8(c.name.as_slice().into_owned()).unwrap();
                comms.insert((c.pid, c.tid), name);
            }
            EventRecord::Mmap2(m) => {
                assert_eq!((m.page_offset, m.protection), (0, 5));
                let id = match m.file_id {
                    Mmap2FileId::BuildId(id) => id,
                    Mmap2FileId::InodeAndVersion(_) => Vec::new(),
                };
                let path = String::from_utf8(m.path.as_slice().into_owned()).unwrap();
                maps.insert((m.pid, m.address), (m.length, path, id));
            }
            EventRecord::Mmap(m) => assert_eq!(m.path.as_slice(), &b"[kernel.kallsyms]_text"[..]),
            EventRecord::Sample(s) => {
                let (pid, tid) = (s.pid.unwrap(), s.tid.unwrap());
                let chain = s.callchain.unwrap();
                let mut kernel = None;
                let mut places = Vec::new();
                for ip in (0..chain.len()).map(|i| chain.get(i).unwrap()) {
                    match ip {
                        PERF_CONTEXT_KERNEL => kernel = Some(true),
                        PERF_CONTEXT_USER => kernel = Some(false),
                        ip if kernel.unwrap() => {
                            assert!(ip < PERF_CONTEXT_MAX);
                            places.push(At::Kernel(ip));
                        }
                        ip => {
                            let below = maps.range(..=(pid, ip)).next_back();
                            let map = below.filter(|((p, start), (length, ..))| {
                                *p == pid && ip - start < *length
                            });
                            places.push(map.map_or(At::Nowhere, |((_, start), (_, path, id))| {
                                At::File(path.clone(), id.clone(), ip - start)
                            }));
                        }
                    }
                }
                all.push(Read {
                    time: s.timestamp.unwrap(),
                    event: names[attr_index].clone(),
                    pid,
                    tid,
                    comm: comms[&(pid, tid)].clone(),
                    cpu: s.cpu.unwrap(),
                    period: s.period.unwrap(),
                    chain: places,
                });
            }
            other => panic!("{other:?}"),
        }
    }
    all
}

/// The same, of the profile.
fn expected(p: &StackProfile) -> Vec<Read> {
    let clean = |s: &str| names::clean(s.as_bytes());
    let of = |s: &Sample| {
        let thread = &p.threads[s.thread.0 as usize];
        let chain = p.frames_of(s.stack).map(|f| {
            let frame = p.frame(f);
            match (frame.kind, p.module(frame)) {
                (FrameKind::Kernel, _) => At::Kernel(frame.offset.min(PERF_CONTEXT_MAX - 1)),
                (FrameKind::User, Some(m)) if frame.offset < NO_OFFSET => {
                    At::File(names::path(&m.path), m.build_id.clone(), frame.offset)
                }
                (FrameKind::User, _) => At::Nowhere,
            }
        });
        Read {
            time: p.start_ns.saturating_add(s.time_ns).clamp(1, u64::MAX - 1),
            event: clean(&p.events[s.event as usize].name),
            pid: p.processes[thread.process.0 as usize].pid as i32,
            tid: thread.tid as i32,
            comm: clean(&thread.comm),
            cpu: s.cpu,
            period: s.weight,
            chain: chain.collect(),
        }
    };
    p.samples.iter().map(of).collect()
}

fn bytes_of(p: &StackProfile) -> Vec<u8> {
    stacks::render(StackFormat::Perfdata, p, &StackOptions::default())
}

fn sorted(mut all: Vec<Read>) -> Vec<Read> {
    all.sort();
    all
}

#[test]
fn every_sample_is_read_as_it_was() {
    let p = stacks::full();
    assert_eq!(sorted(read(&bytes_of(&p))), sorted(expected(&p)));
    assert_eq!(read(&bytes_of(&stacks::empty())), []);
}

#[test]
fn the_head_says_where_it_is_from() {
    let mut p = stacks::full();
    p.kernel = Kernel { release: "6.18.0".into(), machine: "x86_64".into(), ..Kernel::default() };
    let bytes = bytes_of(&p);
    let file = PerfFileReader::parse_file(Cursor::new(&bytes[..])).unwrap().perf_file;
    assert_eq!(file.hostname().unwrap(), Some("here"));
    assert_eq!(file.os_release().unwrap(), Some("6.18.0"));
    assert_eq!(file.arch().unwrap(), Some("x86_64"));
    assert!(file.perf_version().unwrap().unwrap().starts_with("prof "));
    assert_eq!(file.cmdline().unwrap().unwrap(), ["make", "-j2"]);
    let times = file.sample_time_range().unwrap().unwrap();
    assert_eq!(times.first_sample_time, p.start_ns + 100 * stacks::MS);
    assert_eq!(times.last_sample_time, p.start_ns + 710 * stacks::MS);
    let ids: BTreeMap<_, _> = file
        .build_ids()
        .unwrap()
        .into_values()
        .map(|d| (String::from_utf8(d.path).unwrap(), d.build_id))
        .collect();
    let foo = &ids["/usr/lib/libfoo.so"];
    assert_eq!((foo, ids.len()), (&vec![0xab; 20], 3));
    let attrs = file.event_attributes().iter();
    let rates: Vec<_> = attrs.map(|a| a.attributes().sampling_policy).collect();
    assert_eq!(format!("{rates:?}"), "[Frequency(1000), Period(100000)]");
}

/// Mappings of the kernel by name, and symbols of BPF programs: address and length.
fn kernel_parts(bytes: &[u8]) -> Vec<(String, u64, u64)> {
    let PerfFileReader { mut perf_file, mut record_iter } =
        PerfFileReader::parse_file(Cursor::new(bytes)).unwrap();
    let mut parts = Vec::new();
    while let Some(record) = record_iter.next_record(&mut perf_file).unwrap() {
        let PerfFileRecord::EventRecord { record, .. } = record else { continue };
        let name = |bytes: &[u8]| {
            let end = bytes.iter().position(|b| *b == 0).unwrap();
            String::from_utf8(bytes[..end].to_vec()).unwrap()
        };
        if let EventRecord::Mmap(m) = record.parse().unwrap() {
            parts.push((name(&[&m.path.as_slice()[..], &[0]].concat()), m.address, m.length));
        } else if record.record_type == RecordType::KSYMBOL {
            let data = record.data.as_slice();
            let length = u32::from_ne_bytes(data[8..12].try_into().unwrap());
            // PERF_RECORD_KSYMBOL_TYPE_BPF; registered.
            assert_eq!(data[12..16], [1, 0, 0, 0]);
            let start = u64::from_ne_bytes(data[..8].try_into().unwrap());
            parts.push((name(&data[16..]), start, u64::from(length)));
        }
    }
    parts
}

#[test]
fn modules_and_bpf_programs_are_where_they_were() {
    let part = |name: &str, start, length, is_program| KernelPart {
        name: name.into(),
        start,
        length,
        is_program,
    };
    let mut p = stacks::full();
    let text = 0xffff_ffff_8100_0000_u64;
    p.kernel = Kernel {
        text: Some(text),
        parts: vec![
            part("bpf_prog_6deef7357e7b4530_sd_fw", 0xffff_ffff_8500_0000, 0x1000, true),
            // Longer than there is room for, as a file can say.
            part("nf_tables", 0xffff_ffff_8500_0800, u64::MAX, false),
            part("last", 0xffff_ffff_ffff_e000, 0x10000, false),
            part("user", 0x1000, 0x1000, false),
        ],
        ..Kernel::default()
    };
    let expected = [
        ("[kernel.kallsyms]_text", text, 0x400_0000),
        ("bpf_prog_6deef7357e7b4530_sd_fw", 0xffff_ffff_8500_0000, 0x800),
        ("[nf_tables]", 0xffff_ffff_8500_0800, 0x7aff_d800),
        ("[last]", 0xffff_ffff_ffff_e000, 0x1000),
    ];
    let read = kernel_parts(&bytes_of(&p));
    let read: Vec<_> = read.iter().map(|(name, at, length)| (&name[..], *at, *length)).collect();
    assert_eq!(read, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_profile_is_read_whole(mut p in stacks::any_profile()) {
        // Two threads with one id, and two processes, are told apart by time alone.
        for (at, s) in p.samples.iter_mut().enumerate() {
            s.time_ns = at as u64;
        }
        p.start_ns %= 1 << 62;
        prop_assert_eq!(sorted(read(&bytes_of(&p))), sorted(expected(&p)));
    }
}

fn perf() -> Option<PathBuf> {
    stacks::tool("perf", &stacks::in_path("perf"), "apt-get install linux-perf")
}

/// What perf prints of a profile.
fn run(perf: &Path, p: &StackProfile, arguments: &[&str]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes_of(p)).unwrap();
    let home = tempfile::tempdir().unwrap();
    let (verb, rest) = arguments.split_first().unwrap();
    let out = Command::new(perf)
        .args([verb, "-f", "-i"])
        .arg(file.path())
        .args(rest)
        .env("HOME", home.path())
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{arguments:?}: {error}");
    String::from_utf8(out.stdout).unwrap()
}

/// Samples as `perf script` has them: what is said of each, and its chain, leaf first.
fn script(text: &str) -> Vec<(String, Vec<String>)> {
    let blocks = text.split("\n\n").map(str::trim_start).filter(|b| !b.is_empty());
    blocks
        .map(|b| {
            let mut lines = b.lines();
            let head = lines.next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
            let chain = lines.map(|l| {
                let (_, name) = l.trim().split_once(' ').unwrap_or((l, ""));
                name.to_owned()
            });
            (head, chain.collect())
        })
        .collect()
}

/// A program whose functions are at other addresses than offsets, and those offsets.
fn program(dir: &Path) -> Option<(PathBuf, BTreeMap<String, u64>)> {
    const BASE: u64 = 0x1000_0000;
    let install = "apt-get install gcc binutils";
    let gcc = stacks::tool("gcc", &stacks::in_path("gcc"), install)?;
    let nm = stacks::tool("nm", &stacks::in_path("nm"), install)?;
    let (source, exe) = (dir.join("x.c"), dir.join("program"));
    let functions = "int inner(int a) { return a * 3; }\n\
        int outer(int a) { return inner(a) + 1; }\n\
        int main(void) { return outer(2); }\n";
    std::fs::write(&source, functions).unwrap();
    let built = Command::new(gcc)
        .args(["-O0", "-no-pie", "-Wl,--build-id=sha1", &format!("-Wl,-Ttext-segment={BASE:#x}")])
        .arg("-o")
        .args([&exe, &source])
        .status()
        .unwrap();
    assert!(built.success());
    let symbols = Command::new(nm).arg(&exe).output().unwrap();
    let offsets = String::from_utf8(symbols.stdout).unwrap();
    let offsets = offsets.lines().filter_map(|l| {
        let (address, name) = l.split_once(" T ")?;
        Some((name.to_owned(), u64::from_str_radix(address, 16).ok()? - BASE))
    });
    Some((exe, offsets.collect()))
}

/// Where the kernel is, and one of its functions.
fn kernel() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let of = |name: &str| {
        let line = text.lines().find(|l| l.ends_with(name))?;
        u64::from_str_radix(line.split(' ').next()?, 16).ok().filter(|a| *a != 0)
    };
    of(" _text").zip(of(" vfs_read"))
}

#[test]
fn perf_names_functions_by_file_and_offset() {
    let Some(perf) = perf() else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some((exe, at)) = program(dir.path()) else { return };
    let pid = std::process::id();
    // What perf says is checked against kallsyms, where that can be read.
    let kernel = kernel();
    if kernel.is_none() {
        eprintln!("SKIPPED in part: the kernel hides its addresses");
    }
    let mut p = StackProfile {
        start_ns: 1_767_323_045_000_000_000,
        events: vec![stacks::event("cpu-clock", "ns"), stacks::event("off-cpu", "ns")],
        modules: vec![
            Module { path: exe.clone(), build_id: Vec::new(), ..Module::default() },
            Module {
                path: format!("[anon:{pid}]").into(),
                build_id: Vec::new(),
                ..Module::default()
            },
            Module {
                path: "/nowhere/at/all.so".into(),
                build_id: vec![7; 20],
                ..Module::default()
            },
        ],
        processes: vec![
            Process { pid, exec: 1, comm: "program".into(), ..Process::default() },
            Process { pid, exec: 2, comm: "another".into(), ..Process::default() },
        ],
        threads: vec![
            Thread { process: ProcessId(0), tid: pid, comm: "program".into() },
            Thread { process: ProcessId(0), tid: pid + 1, comm: "worker 7".into() },
            Thread { process: ProcessId(1), tid: pid, comm: "another".into() },
        ],
        ..StackProfile::default()
    };
    p.kernel.text = kernel.map(|k| k.0);
    let mut interner = Interner::default();
    let mut user =
        |p: &mut _, m, offset| interner.frame(p, FrameKind::User, Some(ModuleId(m)), offset);
    let main = user(&mut p, 0, at["main"] + 9);
    let outer = user(&mut p, 0, at["outer"] + 9);
    let inner = user(&mut p, 0, at["inner"] + 3);
    let jit = user(&mut p, 1, 0x7f12_3456_7010);
    let lost = user(&mut p, 2, 0x777);
    let vfs_read = kernel.map_or(1 << 63, |k| k.1) + 4;
    let vfs_read = interner.frame(&mut p, FrameKind::Kernel, None, vfs_read);
    let chains =
        [vec![main, outer, inner], vec![main, jit, outer, vfs_read], vec![lost, main], vec![]];
    for (i, (thread, chain)) in [0, 1, 0, 2].into_iter().zip(&chains).enumerate() {
        let stack = interner.stack(&mut p, chain.iter().copied());
        let event = u32::from(i == 1);
        p.samples.push(Sample {
            time_ns: 1_000_007 * (i as u64 + 1),
            thread: ThreadId(thread),
            cpu: i as u32,
            event,
            weight: 1000 + i as u64,
            stack,
            whole: Whole::Whole,
            off_cpu: None,
        });
    }
    let map = PathBuf::from(format!("/tmp/perf-{pid}.map"));
    std::fs::write(&map, "7f1234567000 100 JS:~hot app.js:3\n").unwrap();
    let fields = "comm,pid,tid,cpu,time,period,event,ip,sym,dso";
    let text = run(&perf, &p, &["script", "--ns", "-F", fields]);
    std::fs::remove_file(map).unwrap();
    let said = script(&text);
    let heads: Vec<_> = said.iter().map(|(head, _)| head.as_str()).collect();
    let worker = format!("worker 7 {pid}/{} ", pid + 1);
    assert_eq!(
        heads,
        [
            format!("program {pid}/{pid} [000] 1767323045.001000007: 1000 cpu-clock:"),
            format!("{worker}[001] 1767323045.002000014: 1001 off-cpu:"),
            format!("program {pid}/{pid} [002] 1767323045.003000021: 1002 cpu-clock:"),
            format!("another {pid}/{pid} [003] 1767323045.004000028: 1003 cpu-clock:"),
        ],
        "{text}"
    );
    let of = |name: &str| format!("{name} ({})", exe.display());
    let chains: Vec<&[String]> = said.iter().map(|(_, chain)| &chain[..]).collect();
    assert_eq!(chains[0], [of("inner"), of("outer"), of("main")], "{text}");
    let generated = format!("JS:~hot app.js:3 (/tmp/perf-{pid}.map)");
    assert_eq!(chains[1][1..], [of("outer"), generated, of("main")], "{text}");
    if kernel.is_some() {
        assert_eq!(chains[1][0], "vfs_read ([kernel.kallsyms])", "{text}");
    }
    assert_eq!(chains[2], [of("main"), "[unknown] (/nowhere/at/all.so)".into()], "{text}");
}

#[test]
fn totals_of_perf_report_are_those_of_the_profile() {
    let Some(perf) = perf() else { return };
    let mut p = stacks::full();
    totals(&perf, &p);
    // An event that perf has no number for.
    p.events[1].name = "off-cpu".into();
    totals(&perf, &p);
    // The tree of callers is there, too.
    let tree = run(&perf, &p, &["report", "--stdio", "-g", "caller", "--no-children"]);
    assert!(tree.contains("--"), "{tree}");
    let head = run(&perf, &p, &["report", "--header-only"]);
    assert!(head.contains("hostname : here") && head.contains("cmdline : make -j2"), "{head}");
}

fn totals(perf: &Path, p: &StackProfile) {
    let options = ["--no-children", "--sort", "pid", "-F", "sample,period,pid", "-t", "\t"];
    let text = run(perf, p, &[&["report", "--stdio", "-g", "none"], &options[..]].concat());
    let mut sums: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    let mut event = String::new();
    for line in text.lines() {
        if let Some(of) = line.strip_prefix("# Samples: ") {
            event = of.split('\'').nth(1).unwrap().to_owned();
        }
        if let [samples, period, pid] = line.split('\t').collect::<Vec<_>>()[..]
            && let (Ok(samples), Ok(period)) = (samples.trim().parse(), period.trim().parse())
        {
            let pid = pid.trim().split(':').next().unwrap().to_owned();
            sums.insert((event.clone(), pid), (samples, period));
        }
    }
    let mut own: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for s in &p.samples {
        // What perf calls so here is the thread's.
        let tid = p.threads[s.thread.0 as usize].tid;
        let key = (p.events[s.event as usize].name.clone(), tid.to_string());
        let sum = own.entry(key).or_default();
        *sum = (sum.0 + 1, sum.1 + s.weight);
    }
    assert_eq!(sums, own, "{text}");
}
