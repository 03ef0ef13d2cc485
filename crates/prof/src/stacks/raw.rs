//! What `prof record` keeps and `prof report` reads: a profile whose frames have no
//! names yet. A head in plain text, then parts: each has its length and is postcard,
//! gzipped. They are written as samples come, so that of a recording that is broken off
//! all is there but its last moment.
//!
//! - [`keep`]: the writing while it goes on

pub mod keep;

use std::fs::File;
use std::io;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::mem::size_of;
use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use prof_kernel::sampler::samples::Samples;
use prof_model::stacks::Frame;
use prof_model::stacks::Module;
use prof_model::stacks::ModuleId;
use prof_model::stacks::Process;
use prof_model::stacks::Sample;
use prof_model::stacks::StackId;
use prof_model::stacks::StackNode;
use prof_model::stacks::StackProfile;
use prof_model::stacks::Thread;
use prof_model::stacks::Waker;
use serde::Deserialize;
use serde::Serialize;

use self::keep::Written;

/// Names the format and its version: what is behind it changes with the version.
const HEAD: &[u8] = b"prof stacks 5\n";

/// Most bytes of a part, packed or not: a file may say anything. Those that are written are
/// far smaller.
const MAX_PART: u64 = 64 << 20;

/// Most that a profile may take in memory. What keeps samples merges them long before.
const MAX_MEMORY: usize = 4 << 30;

/// Entries of a list in one part.
const ENTRIES: usize = 1 << 17;

/// A part of a recording.
#[derive(Debug, Serialize, Deserialize)]
enum Part {
    /// What is known before the first sample.
    Start(Box<StackProfile>),
    /// What later parts point at.
    Lists(Lists),
    /// Samples, in the order in which they came.
    Samples(Vec<Sample>),
    /// All that is in no list; and which of the samples, by time, have another stack than
    /// was told: what they ran was found out at the end.
    End(Box<StackProfile>, Vec<(u32, StackId)>),
}

/// What is added to a profile. What can change is told again, with its place.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Lists {
    modules: Vec<(u32, Module)>,
    frames: Vec<(u32, Frame)>,
    processes: Vec<(u32, Process)>,
    threads: Vec<(u32, Thread)>,
    stacks: Vec<StackNode>,
    wakers: Vec<Waker>,
    no_tables: Vec<(ModuleId, String)>,
    duration_ns: u64,
}

/// A part as it stands in a file.
fn packed(part: &Part) -> io::Result<Vec<u8>> {
    let bytes = postcard::to_allocvec(part).map_err(io::Error::other)?;
    let mut gz = GzEncoder::new(vec![0; 4], Compression::fast());
    gz.write_all(&bytes)?;
    let mut packed = gz.finish()?;
    let length = u32::try_from(packed.len() - 4).map_err(io::Error::other)?;
    packed[..4].copy_from_slice(&length.to_le_bytes());
    Ok(packed)
}

/// What is known of a profile from its beginning.
fn known_first(profile: &StackProfile) -> StackProfile {
    StackProfile {
        command: profile.command.clone(),
        host: profile.host.clone(),
        kernel: profile.kernel.clone(),
        start_ns: profile.start_ns,
        events: profile.events.clone(),
        ..StackProfile::default()
    }
}

/// The first part.
fn start(profile: &StackProfile) -> Part {
    Part::Start(Box::new(known_first(profile)))
}

/// The last part. `restacked` says what [`Part::End`] has of samples.
fn end(profile: &StackProfile, restacked: Vec<(u32, StackId)>) -> Part {
    let rest = StackProfile {
        duration_ns: profile.duration_ns,
        switches: profile.switches.clone(),
        lost: profile.lost.clone(),
        counters: profile.counters.clone(),
        counts: profile.counts.clone(),
        uncounted: profile.uncounted.clone(),
        ended_early: profile.ended_early,
        ..known_first(profile)
    };
    Part::End(Box::new(rest), restacked)
}

/// Writes all of it.
pub fn write(profile: &StackProfile, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(HEAD)?;
    out.write_all(&packed(&start(profile))?)?;
    let mut written = Written::default();
    while let Some(lists) = written.next(profile, Some(&profile.processes)) {
        out.write_all(&packed(&Part::Lists(lists))?)?;
    }
    for some in profile.samples.chunks(ENTRIES) {
        out.write_all(&packed(&Part::Samples(some.to_vec()))?)?;
    }
    out.write_all(&packed(&end(profile, Vec::new()))?)?;
    out.flush()
}

/// Reads it; an error says what is wrong with the file. What ends in the middle is read up
/// to there, and is marked.
pub fn read(path: &Path) -> Result<StackProfile> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| name.clone())?;
    read_from(BufReader::new(file), &name)
}

/// The same of standard input.
pub fn read_stdin() -> Result<StackProfile> {
    read_from(io::stdin().lock(), "standard input")
}

fn read_from(mut file: impl Read, name: &str) -> Result<StackProfile> {
    let mut head = Vec::with_capacity(HEAD.len());
    file.by_ref()
        .take(HEAD.len() as u64)
        .read_to_end(&mut head)
        .with_context(|| name.to_string())?;
    if head != HEAD {
        let kind = if head.starts_with(b"prof stacks ") {
            "it was written by another version of prof"
        } else {
            "it was not written by `prof record`"
        };
        bail!("{name}: {kind}");
    }
    let mut reading = None;
    let mut samples = Samples::default();
    let restacked = loop {
        match next(&mut file).with_context(|| format!("{name}: it is damaged"))? {
            Some(Part::Start(profile)) if reading.is_none() => reading = Some(*profile),
            Some(Part::Lists(lists)) => {
                let profile = reading.as_mut().with_context(|| no_start(name))?;
                add(profile, lists).map_err(|e| anyhow::anyhow!("{name}: it is damaged: {e}"))?;
            }
            Some(Part::Samples(some)) => some.into_iter().for_each(|s| samples.push(s)),
            Some(Part::End(rest, restacked)) => {
                let profile = reading.as_mut().with_context(|| no_start(name))?;
                let lists = std::mem::take(profile);
                *profile = StackProfile {
                    modules: lists.modules,
                    frames: lists.frames,
                    stacks: lists.stacks,
                    processes: lists.processes,
                    threads: lists.threads,
                    wakers: lists.wakers,
                    no_tables: lists.no_tables,
                    ..*rest
                };
                break Some(restacked);
            }
            Some(Part::Start(_)) => bail!("{name}: it is damaged: two beginnings"),
            None => break None,
        }
        let much = reading.as_ref().map_or(0, memory) + samples.count() * size_of::<Sample>();
        if much > MAX_MEMORY {
            bail!("{name}: more than {} GiB in memory", MAX_MEMORY >> 30);
        }
    };
    let mut profile = reading.with_context(|| no_start(name))?;
    let (samples, merged) = samples.finish();
    profile.samples = samples;
    let ends_well = restacked.is_some();
    for (at, stack) in restacked.unwrap_or_default() {
        match profile.samples.get_mut(at as usize) {
            Some(sample) => sample.stack = Some(stack),
            None => bail!("{name}: it is damaged: no sample {at}"),
        }
    }
    if !ends_well {
        profile.ended_early = true;
        let last = profile.samples.iter().map(|s| s.time_ns).max().unwrap_or(0);
        profile.duration_ns = profile.duration_ns.max(last);
        if merged > 0 {
            profile.lost.push(("sample-time-merged".into(), merged));
        }
    }
    if let Err(what) = profile.check() {
        bail!("{name}: it is damaged: {what}");
    }
    Ok(profile)
}

fn no_start(name: &str) -> String {
    format!("{name}: it is damaged: it ends before anything was kept")
}

/// The next part, if it is there as a whole.
fn next(file: &mut impl Read) -> Result<Option<Part>> {
    let mut length = Vec::with_capacity(4);
    file.by_ref().take(4).read_to_end(&mut length)?;
    let Ok(length) = <[u8; 4]>::try_from(length) else { return Ok(None) };
    let length = u64::from(u32::from_le_bytes(length));
    // Of a file that was not yet on the disk when the power went, there may be zeros.
    if length == 0 {
        return Ok(None);
    }
    if length > MAX_PART {
        bail!("a part of {length} bytes");
    }
    let mut bytes = Vec::new();
    file.by_ref().take(length).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < length {
        return Ok(None);
    }
    let mut unpacked = Vec::new();
    GzDecoder::new(&bytes[..]).take(MAX_PART + 1).read_to_end(&mut unpacked)?;
    if unpacked.len() as u64 > MAX_PART {
        bail!("a part of more than {} MiB unpacked", MAX_PART >> 20);
    }
    Ok(Some(postcard::from_bytes(&unpacked)?))
}

/// Adds lists to a profile.
fn add(profile: &mut StackProfile, lists: Lists) -> Result<(), String> {
    fn put<T>(to: &mut Vec<T>, all: Vec<(u32, T)>) -> Result<(), String> {
        for (at, one) in all {
            let there = to.len();
            match to.get_mut(at as usize) {
                Some(known) => *known = one,
                None if at as usize == there => to.push(one),
                None => return Err(format!("an entry {at} behind {there}")),
            }
        }
        Ok(())
    }
    put(&mut profile.modules, lists.modules)?;
    put(&mut profile.frames, lists.frames)?;
    put(&mut profile.processes, lists.processes)?;
    put(&mut profile.threads, lists.threads)?;
    profile.stacks.extend(lists.stacks);
    profile.wakers.extend(lists.wakers);
    profile.no_tables.extend(lists.no_tables);
    profile.duration_ns = profile.duration_ns.max(lists.duration_ns);
    Ok(())
}

/// What the lists of a profile take, about.
fn memory(profile: &StackProfile) -> usize {
    profile.modules.len() * size_of::<Module>()
        + profile.frames.len() * size_of::<Frame>()
        + profile.processes.len() * size_of::<Process>()
        + profile.threads.len() * size_of::<Thread>()
        + profile.stacks.len() * size_of::<StackNode>()
        + profile.wakers.len() * size_of::<Waker>()
        + profile.no_tables.len() * size_of::<(ModuleId, String)>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prof_model::stacks::FrameKind;
    use prof_model::stacks::Identity;
    use prof_model::stacks::Interner;
    use prof_model::stacks::Part as CodePart;
    use prof_model::stacks::ProcessId;
    use prof_model::stacks::SampledEvent;
    use prof_model::stacks::ThreadId;
    use prof_model::stacks::Whole;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    pub(super) fn profile() -> StackProfile {
        let path = OsStr::from_bytes(b"/tmp/not\xfftext").into();
        let identity = Identity { size: 4096, mtime: (-1, 999_999_999), ino: u64::MAX };
        let code = vec![CodePart { offset: 0x1000, address: 0x40_1000, size: 0x500 }];
        let event = |name: &str| SampledEvent {
            name: name.into(),
            unit: "ns".into(),
            frequency_hz: Some(997),
            period: None,
        };
        let mut p = StackProfile {
            command: vec!["a".into()],
            events: vec![event("cpu-clock")],
            modules: vec![Module { path, build_id: vec![1, 2, 3], identity: Some(identity), code }],
            processes: vec![Process { pid: 7, ..Process::default() }],
            threads: vec![Thread { process: ProcessId(0), tid: 7, comm: "a".into() }],
            duration_ns: 100,
            lost: vec![("sample-ring-full".into(), 3)],
            ..StackProfile::default()
        };
        let mut interner = Interner::default();
        for leaf in [5, 6] {
            let frames =
                [4, leaf].map(|at| interner.frame(&mut p, FrameKind::User, Some(ModuleId(0)), at));
            let stack = interner.stack(&mut p, frames);
            p.samples.push(sample(leaf, stack));
        }
        p
    }

    pub(super) fn sample(time_ns: u64, stack: Option<StackId>) -> Sample {
        Sample {
            time_ns,
            thread: ThreadId(0),
            cpu: 0,
            event: 0,
            weight: 1,
            stack,
            whole: Whole::Whole,
            off_cpu: None,
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.prof");
        write(&profile(), &mut File::create(&path).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), profile());
    }

    #[test]
    fn another_file_and_a_damaged_one_are_errors_that_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.prof");
        let told = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            format!("{:#}", read(&path).unwrap_err())
        };
        assert!(told(b"PERFILE2").contains("not written by `prof record`"));
        assert!(told(b"").contains("not written by `prof record`"));
        assert!(told(b"prof stacks 9\n...").contains("another version"));
        assert!(told(HEAD).contains("ends before anything was kept"));
        let mut whole = Vec::new();
        write(&profile(), &mut whole).unwrap();
        for at in (HEAD.len() + 4..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            std::fs::write(&path, &damaged).unwrap();
            // What a length says may make the rest look as if it was not there.
            if let Err(e) = read(&path) {
                assert!(format!("{e:#}").contains("damaged"), "{at}: {e:#}");
            }
        }
        let mut broken = profile();
        broken.stacks[0].caller = Some(StackId(9));
        whole.clear();
        write(&broken, &mut whole).unwrap();
        assert!(told(&whole).contains("damaged"));
        let far = Lists { threads: vec![(9, broken.threads[0].clone())], ..Lists::default() };
        let parts = [start(&profile()), Part::Lists(far)];
        let parts = parts.iter().flat_map(|p| packed(p).unwrap());
        assert!(told(&HEAD.iter().copied().chain(parts).collect::<Vec<_>>()).contains("damaged"));
    }

    #[test]
    fn of_a_recording_that_is_cut_what_came_before_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.prof");
        let mut whole = Vec::new();
        write(&profile(), &mut whole).unwrap();
        let mut most = 0;
        let first = HEAD.len() + packed(&start(&profile())).unwrap().len();
        for n in first..whole.len() {
            std::fs::write(&path, &whole[..n]).unwrap();
            let p = read(&path).unwrap();
            assert!(p.ended_early && p.command == ["a"], "{n} of {} bytes", whole.len());
            assert!(p.samples.len() >= most, "{n} of {} bytes", whole.len());
            most = p.samples.len();
        }
        assert_eq!(most, 2);
        // As a file may be after the power went.
        whole.truncate(first);
        whole.extend([0; 4096]);
        std::fs::write(&path, &whole).unwrap();
        assert!(read(&path).unwrap().ended_early);
    }
}
