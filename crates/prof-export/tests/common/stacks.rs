//! Profiles that hold everything that formats have to cope with.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "allowed in tests, and this is for them")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOptions;
use prof_model::stacks::Frame;
use prof_model::stacks::FrameId;
use prof_model::stacks::FrameKind;
use prof_model::stacks::Function;
use prof_model::stacks::Interner;
use prof_model::stacks::Module;
use prof_model::stacks::ModuleId;
use prof_model::stacks::OffCpu;
use prof_model::stacks::OffState;
use prof_model::stacks::Process;
use prof_model::stacks::ProcessId;
use prof_model::stacks::Sample;
use prof_model::stacks::SampledEvent;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Thread;
use prof_model::stacks::ThreadId;
use prof_model::stacks::Waker;
use prof_model::stacks::WakerId;
use prof_model::stacks::WakerKind;
use prof_model::stacks::Whole;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub const MS: u64 = 1_000_000;

/// A name that attacks each format.
pub const HOSTILE: &str = "a;b\u{1b}[31m\u{202e}\u{ffff}</svg>\"'& \\ \n\0 12";

/// What `format` makes of a profile.
pub fn render(format: StackFormat, profile: &StackProfile, options: &StackOptions) -> Vec<u8> {
    let mut out = Vec::new();
    format.write(profile, options, &mut out).unwrap();
    out
}

/// As text.
pub fn text(format: StackFormat, profile: &StackProfile, options: &StackOptions) -> String {
    String::from_utf8(render(format, profile, options)).unwrap()
}

pub fn event(name: &str, unit: &str) -> SampledEvent {
    SampledEvent { name: name.into(), unit: unit.into(), frequency_hz: None, period: None }
}

/// Nothing was sampled.
pub fn empty() -> StackProfile {
    StackProfile {
        command: vec!["true".into()],
        duration_ns: 5 * MS,
        events: vec![SampledEvent { frequency_hz: Some(1000), ..event("cpu-clock", "ns") }],
        ..StackProfile::default()
    }
}

/// Two processes, three threads, two events, the kernel, inlined functions, files of
/// the same name, places without names, hostile names.
pub fn full() -> StackProfile {
    let mut p = StackProfile {
        command: vec!["make".into(), "-j2".into()],
        host: "here".into(),
        start_ns: 1_767_323_045_000_000_000,
        duration_ns: 3_210 * MS,
        events: vec![
            SampledEvent { frequency_hz: Some(1000), ..event("cpu-clock", "ns") },
            SampledEvent { period: Some(100_000), ..event("cycles", "") },
        ],
        modules: vec![
            Module {
                path: "/usr/bin/app".into(),
                build_id: (1..=20).collect(),
                ..Module::default()
            },
            Module {
                path: "/usr/lib/libfoo.so".into(),
                build_id: vec![0xab; 20],
                ..Module::default()
            },
            Module { path: "/opt/libfoo.so".into(), build_id: Vec::new(), ..Module::default() },
            Module {
                path: PathBuf::from(OsString::from_vec(b"/tmp/e\xffv;il\n.so".to_vec())),
                build_id: vec![1],
                ..Module::default()
            },
        ],
        processes: vec![
            Process {
                pid: 100,
                ppid: 1,
                start_ns: 5,
                exec: 1,
                comm: "app".into(),
                exe: Some("/usr/bin/app".into()),
                from_ns: 10 * MS,
                to_ns: Some(3_000 * MS),
            },
            Process {
                pid: 200,
                ppid: 100,
                start_ns: 6,
                exec: 2,
                comm: "ev\nil;\u{1b}".into(),
                exe: None,
                from_ns: 20 * MS,
                to_ns: None,
            },
        ],
        threads: vec![
            Thread { process: ProcessId(0), tid: 100, comm: "app".into() },
            Thread { process: ProcessId(0), tid: 101, comm: "worker 7".into() },
            Thread { process: ProcessId(1), tid: 200, comm: "ev\nil;\u{1b}".into() },
        ],
        lost: vec![("buffer full".into(), 12), ("never".into(), 0)],
        ..StackProfile::default()
    };
    let mut i = Interner::default();
    let mut frame = |kind, module: Option<u32>, offset, names: &[(&str, u32)], why: &str| {
        let id = i.frame(&mut p, kind, module.map(ModuleId), offset);
        let f = &mut p.frames[id.0 as usize];
        f.functions = names
            .iter()
            .map(|(name, line)| Function {
                name: (*name).into(),
                file: Some("/src/app.c".into()).filter(|_| *line > 0),
                line: Some(*line).filter(|l| *l > 0),
            })
            .collect();
        f.unnamed = Some(why.to_owned()).filter(|w| !w.is_empty());
        id
    };
    let (user, kernel) = (FrameKind::User, FrameKind::Kernel);
    let main = frame(user, Some(0), 0x1000, &[("main", 10)], "");
    let work = frame(user, Some(0), 0x1100, &[("inner", 5), ("work", 20)], "");
    let work2 = frame(user, Some(0), 0x1180, &[("work", 25)], "");
    let read = frame(kernel, None, 0xffff_ffff_8110_0000, &[("vfs_read", 0)], "");
    let nameless = frame(kernel, None, 0xffff_ffff_8120_0000, &[], "kptr_restrict");
    let libfoo = frame(user, Some(1), 0x1234, &[], "no symbol table");
    let other_libfoo = frame(user, Some(2), 0x1234, &[], "no symbol table");
    let hostile = frame(user, Some(3), 0x99, &[(HOSTILE, 0)], "");
    let jit = frame(user, None, 0x7f00_0000_1000, &[], "code without a file");
    let mut sample = |thread, event, time_ms: u64, weight, root_first: &[FrameId], whole| {
        let stack = i.stack(&mut p, root_first.iter().copied());
        let time_ns = time_ms * MS;
        let thread = ThreadId(thread);
        let off_cpu = None;
        p.samples.push(Sample { time_ns, thread, cpu: 0, event, weight, stack, whole, off_cpu });
    };
    let w = Whole::Whole;
    for t in 0..40 {
        sample(0, 0, 100 + t, MS, &[main, work], w);
    }
    for t in 0..20 {
        sample(0, 0, 200 + t, MS, &[main, work2, work], w);
    }
    for t in 0..10 {
        sample(0, 0, 300 + t, MS, &[main, work2, read], w);
        sample(0, 1, 300 + t, 100_000, &[main, work2, read], w);
    }
    for t in 0..8 {
        sample(1, 0, 400 + t, MS, &[libfoo, other_libfoo], Whole::NoTable);
    }
    sample(1, 0, 500, 2 * MS, &[main, libfoo, nameless], w);
    for t in 0..16 {
        sample(2, 0, 600 + t, MS, &[hostile, jit], Whole::Depth);
    }
    sample(2, 1, 700, 700_000, &[hostile], w);
    sample(2, 0, 710, 4 * MS, &[], Whole::NoRegisters);
    assert_eq!(p.check(), Ok(()));
    p
}

const OFF_STATES: [OffState; 4] =
    [OffState::Runnable, OffState::Sleep, OffState::Uninterruptible, OffState::Stopped];

/// As [`full`], with time off the CPU: its second thread waits for the first, for a timer
/// and for a CPU, the first for a disk, and one is still off.
pub fn off_cpu() -> StackProfile {
    let mut p = full();
    p.events[1] = event("off-cpu", "ns");
    p.samples.retain(|s| s.event == 0);
    let mut i = Interner::default();
    let mut function = |kind, offset, name: &str| {
        let id = i.frame(&mut p, kind, None, offset);
        let function = Function { name: name.into(), ..Function::default() };
        p.frames[id.0 as usize].functions = vec![function];
        id
    };
    let (user, kernel) = (FrameKind::User, FrameKind::Kernel);
    let [read, write] = [(1, "read"), (2, "write")].map(|(at, n)| function(user, at, n));
    let [pipe_read, pipe_write, waking, timer, entry] = [
        (3, "pipe_read"),
        (4, "pipe_write"),
        (5, "try_to_wake_up"),
        (6, "hrtimer_wakeup"),
        (7, "asm_sysvec_apic_timer_interrupt"),
    ]
    .map(|(at, n)| function(kernel, at, n));
    // An interner begins with what it has made itself.
    let mut stack = |frames: &[FrameId]| {
        let stack = frames.iter().fold(None, |caller, frame| {
            p.stacks.push(prof_model::stacks::StackNode { frame: *frame, caller });
            Some(prof_model::stacks::StackId(p.stacks.len() as u32 - 1))
        });
        assert!(stack.is_some());
        stack
    };
    let reading = stack(&[read, pipe_read]);
    let writing = stack(&[write, pipe_write, waking]);
    let expired = stack(&[entry, timer, waking]);
    let waker = |kind, pid, comm: &str, stack, whole| Waker {
        kind,
        pid,
        tid: pid,
        comm: comm.into(),
        stack,
        whole,
    };
    p.wakers = vec![
        waker(WakerKind::Thread, 100, "app", writing, Whole::Whole),
        waker(WakerKind::Interrupt, 0, "", expired, Whole::KernelOnly),
        waker(WakerKind::Thread, 9, "kworker/0:1", None, Whole::KernelOnly),
    ];
    let mut off = |thread, time_ms: u64, ms: u64, wait_ms: u64, state, waker: Option<u32>| {
        let waker = waker.map(WakerId);
        let unfinished = waker.is_none() && state != OffState::Runnable;
        let off = OffCpu { state, wait_ns: wait_ms * MS, waker, unfinished };
        p.samples.push(Sample {
            time_ns: time_ms * MS,
            thread: ThreadId(thread),
            cpu: 0,
            event: 1,
            weight: ms * MS,
            stack: reading,
            whole: Whole::Whole,
            off_cpu: Some(Box::new(off)),
        });
    };
    let (sleep, disk) = (OffState::Sleep, OffState::Uninterruptible);
    off(1, 500, 30, 5, sleep, Some(0));
    off(1, 540, 20, 0, sleep, Some(0));
    off(1, 600, 25, 0, sleep, Some(1));
    off(1, 620, 4, 4, OffState::Runnable, None);
    off(0, 700, 11, 1, disk, Some(2));
    off(2, 3_210, 10, 0, sleep, None);
    assert_eq!(p.check(), Ok(()));
    p
}

/// Sum of the weights of an event.
pub fn total(p: &StackProfile, event: u32) -> u64 {
    p.samples.iter().filter(|s| s.event == event).map(|s| s.weight).sum()
}

/// Any profile that points at what is there.
pub fn any_profile() -> impl Strategy<Value = StackProfile> {
    let name = || prop_oneof![any_name(), "[a-c]{1,2}"];
    let path = option::of(name().prop_map(PathBuf::from));
    let function = (name(), path.clone(), option::of(any::<u32>()))
        .prop_map(|(name, file, line)| Function { name, file, line });
    let module = (
        prop_oneof![
            "[ab]{0,1}/[ab]".prop_map(PathBuf::from),
            vec(any::<u8>(), 0..6).prop_map(|b| PathBuf::from(OsString::from_vec(b))),
        ],
        vec(any::<u8>(), 0..3),
    )
        .prop_map(|(path, build_id)| Module { path, build_id, ..Module::default() });
    let offset = prop_oneof![0_u64..8, any::<u64>()];
    let frame =
        (any::<bool>(), option::of(0_u32..4), offset, vec(function, 0..3), option::of(name()))
            .prop_map(|(kernel, module, offset, functions, unnamed)| Frame {
                kind: if kernel { FrameKind::Kernel } else { FrameKind::User },
                module: module.map(ModuleId),
                offset,
                functions,
                unnamed,
            });
    let process = (1_u32..4, any::<u16>(), name(), 0..99 * MS, option::of(0..99 * MS)).prop_map(
        |(pid, exec, comm, from_ns, to_ns)| Process {
            pid,
            exec: exec.into(),
            comm,
            from_ns,
            to_ns,
            ..Process::default()
        },
    );
    let event = (
        prop_oneof![Just("cpu-clock".to_owned()), Just("off-cpu".to_owned()), name()],
        prop_oneof!["ns", "", "bytes"],
        option::of(0_u64..5000),
        option::of(0_u64..1 << 20),
    )
        .prop_map(|(name, unit, frequency_hz, period)| SampledEvent {
            name,
            unit,
            frequency_hz,
            period,
        });
    let stack = (0_usize..100, option::of(0_usize..100));
    let off = option::of((0_usize..4, 0_u64..1 << 40, option::of(0_u32..3)));
    let sample = (
        0..99 * MS,
        0_usize..5,
        0_u32..2,
        0_u64..1 << 40,
        option::of(0_usize..100),
        0_usize..11,
        off,
    );
    let waker = (any::<bool>(), name(), option::of(0_usize..100), 0_usize..11);
    (
        vec(module, 4),
        vec(frame, 1..8),
        vec(stack, 1..16),
        vec(process, 1..4),
        vec((0_usize..9, 1_u32..5, name()), 5),
        vec(event, 2),
        vec(sample, 0..40),
        vec(waker, 3),
        (vec(name(), 0..3), any::<u64>(), any::<u64>()),
    )
        .prop_map(
            |(
                modules,
                frames,
                stacks,
                processes,
                threads,
                events,
                samples,
                wakers,
                (command, start_ns, duration_ns),
            )| {
                let mut p = StackProfile {
                    modules,
                    frames,
                    processes,
                    events,
                    command,
                    start_ns,
                    duration_ns,
                    lost: vec![(HOSTILE.into(), 3)],
                    ..StackProfile::default()
                };
                for (at, (frame, caller)) in stacks.into_iter().enumerate() {
                    let frame = FrameId((frame % p.frames.len()) as u32);
                    let caller = caller
                        .filter(|_| at > 0)
                        .map(|c| prof_model::stacks::StackId((c % at) as u32));
                    p.stacks.push(prof_model::stacks::StackNode { frame, caller });
                }
                for (process, tid, comm) in threads {
                    let process = ProcessId((process % p.processes.len()) as u32);
                    p.threads.push(Thread { process, tid, comm });
                }
                let stacks = p.stacks.len();
                let stack_of =
                    |s: Option<usize>| s.map(|s| prof_model::stacks::StackId((s % stacks) as u32));
                for (is_thread, comm, stack, whole) in wakers {
                    let kind = if is_thread { WakerKind::Thread } else { WakerKind::Interrupt };
                    let (stack, whole) = (stack_of(stack), Whole::ALL[whole]);
                    p.wakers.push(Waker { kind, pid: 7, tid: 8, comm, stack, whole });
                }
                for (time_ns, thread, event, weight, stack, whole, off) in samples {
                    let stack = stack_of(stack);
                    let whole = Whole::ALL[whole];
                    let thread = ThreadId(thread as u32);
                    let off_cpu = off.map(|(state, wait_ns, waker)| {
                        let state = OFF_STATES[state];
                        let waker = waker.map(WakerId);
                        Box::new(OffCpu { state, wait_ns, waker, unfinished: wait_ns % 2 == 0 })
                    });
                    p.samples.push(Sample {
                        time_ns,
                        thread,
                        cpu: 0,
                        event,
                        weight,
                        stack,
                        whole,
                        off_cpu,
                    });
                }
                assert_eq!(p.check(), Ok(()));
                p
            },
        )
}

/// Words that readers could take for something else, and any.
fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,6}",
        any::<String>().prop_map(|s| s.chars().take(12).collect()),
        "[ ;#_\\[\\]ki0-9.\t\n\u{a0}\u{2003}\\\\<>&\"-]{0,8}",
    ]
}

/// A tool of others that a test compares with: `None` if it is not there, which is said,
/// and a failure where everything has to be there.
pub fn tool(what: &str, places: &[PathBuf], install: &str) -> Option<PathBuf> {
    if let Some(found) = places.iter().find(|p| p.is_file()) {
        return Some(found.clone());
    }
    let message = format!("SKIPPED: {what} is not there; {install}");
    let required = std::env::var_os("PROF_LIVE").is_some_and(|v| v == "require");
    assert!(!required, "{message}");
    eprintln!("{message}");
    None
}

/// Where a program of this name is in `PATH`.
pub fn in_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|d| d.join(name)).collect()
}
