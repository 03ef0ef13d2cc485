//! The kernel half: what it can be attached to, and what else it needs.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types;
use prof_model::rules::Tables;

use super::Findings;
use super::ProbeOptions;
use super::errors;
use super::host;
use super::host::read_kernel_file;
use super::privileges::Privileges;
use super::report::Check;
use super::report::Chosen;
use super::report::State;
use crate::session::Backend;
use crate::session::Plan;
use crate::session::Session;
use crate::sys;

const GROUP: &str = "Hooks";
const BTF: &str = "/sys/kernel/btf/vmlinux";
const BTF_MAGIC: [u8; 2] = 0xEB9Fu16.to_ne_bytes();

const CURE_BTF: &str = "a kernel with CONFIG_DEBUG_INFO_BTF=y, or --btf FILE with the BTF of this \
     very kernel (from its debug package by pahole -J --btf_encode_detached, or from BTFHub)";

/// What was found out about the hooks.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    /// The way that prof takes by itself.
    pub backend: Option<Backend>,
    /// Whether live processes can be read.
    pub live: bool,
    attached: Vec<String>,
    exact_clock: bool,
    refused: Vec<Backend>,
}

impl Hooks {
    pub(super) fn into_chosen(self, cgroups: String) -> Chosen {
        let first = Backend::ALL[0];
        let why = match self.backend {
            None => "none of raw_tp, tp_btf and kprobe could be attached".to_owned(),
            Some(b) if b == first => format!(
                "{b}: the cheapest; per event it costs what tp_btf costs, and it loads without \
                 checks of types against BTF"
            ),
            Some(b) => {
                let refused: Vec<_> = self.refused.iter().map(|r| r.name()).collect();
                format!("{b}: the first that could be attached, after {}", refused.join(" and "))
            }
        };
        Chosen {
            hooks: self.backend.map(Backend::name),
            why,
            window_start: window_start(self.backend),
            attached: self.attached,
            exact_clock: self.exact_clock,
            cgroups,
        }
    }
}

fn window_start(backend: Option<Backend>) -> &'static str {
    match backend {
        Some(Backend::RawTp | Backend::TpBtf) => "task_rename",
        Some(Backend::Kprobe) => "exec_entry",
        None => "enable_on_exec",
    }
}

/// A plan that matches no process.
pub(super) fn plan(backend: Backend, options: &ProbeOptions) -> Plan {
    Plan {
        backend: Some(backend),
        btf: options.btf.clone(),
        cache: None,
        tables: Tables::default(),
        ring_bytes: 1 << 16,
        max_processes: 64,
        counters: Vec::new(),
        attaches: false,
        stacks: None,
        start_paused: false,
        regions: false,
        program: None,
        read_args: true,
        per_thread: false,
        count_execs: false,
    }
}

pub(super) fn check(found: &mut Findings, options: &ProbeOptions, p: &Privileges) -> Hooks {
    let btf_cure = btf(found, options);
    let mut hooks = Hooks::default();
    for backend in Backend::ALL {
        let began = Instant::now();
        match Session::open(&plan(backend, options)) {
            Ok(session) => works(found, &mut hooks, backend, &session, began.elapsed()),
            Err(e) => {
                hooks.refused.push(backend);
                refused(found, backend, &errors::chain(&e), btf_cure.as_deref(), p);
            }
        }
    }
    for check in &mut found.checks {
        // Another way is taken: nothing needs to be done.
        if let (Some(b), State::Missing, Some(cure)) =
            (hooks.backend, check.state, check.cure.as_mut())
            && Backend::ALL.iter().any(|k| k.name() == check.id)
        {
            cure.push_str(&format!("; not needed here: prof uses {b}"));
        }
    }
    window(found, hooks.backend);
    ring_buffer(found, p);
    match hooks.backend {
        Some(backend) => {
            prepared(found, backend, options, p);
            live_processes(found, &mut hooks, backend, options, p);
        }
        None => clock_alone(found, p),
    }
    not_needed(found);
    hooks
}

fn list_of(session: &Session) -> Vec<String> {
    session.attached().iter().map(|a| format!("{} ({})", a.hook, a.how)).collect()
}

fn works(found: &mut Findings, hooks: &mut Hooks, b: Backend, session: &Session, took: Duration) {
    let attached = list_of(session);
    let points: Vec<_> = session.attached().iter().map(|a| a.hook.as_str()).collect();
    let detail = format!("attached to {} in {}", points.join(", "), milliseconds(took));
    found.add(Check::new((GROUP, b.name(), title(b)), State::Works, detail));
    if hooks.backend.is_some() {
        return;
    }
    hooks.backend = Some(b);
    hooks.attached = attached;
    let programs: Vec<_> =
        session.stats().iter().map(|(n, i)| format!("{n} {}", i.verified_insns)).collect();
    found.add(Check::new(
        (GROUP, "verifier", "instructions walked by the verifier"),
        State::Works,
        programs.join(", "),
    ));
    let what = (GROUP, "exact_clock", "the scheduler's clock, exact");
    hooks.exact_clock = session.limits().is_empty();
    let check = if hooks.exact_clock {
        Check::new(what, State::Works, "a cpu-clock event on each CPU, found by the programs")
    } else {
        let told: Vec<_> = session.limits().iter().map(|l| errors::named(l)).collect();
        found.limit("task-clock is as of the last tick, up to some ms short");
        Check::new(what, State::Limited, told.join("; "))
            .cure("a kernel of 5.14 or newer with CONFIG_PERF_EVENTS=y, and CAP_PERFMON")
    };
    found.add(check);
}

fn title(b: Backend) -> &'static str {
    match b {
        Backend::RawTp => "raw_tp, raw tracepoints",
        Backend::TpBtf => "tp_btf, typed tracepoints",
        Backend::Kprobe => "kprobe, probes on kernel functions",
    }
}

fn refused(found: &mut Findings, b: Backend, text: &str, btf: Option<&str>, p: &Privileges) {
    let cure = cure_of_hook(b, text, btf, p);
    found.add(Check::new((GROUP, b.name(), title(b)), State::Missing, text).cure(cure));
}

/// `btf`: what to do about BTF, if that is what is missing.
fn cure_of_hook(b: Backend, text: &str, btf: Option<&str>, p: &Privileges) -> String {
    if text.contains("ENOSYS") {
        "a kernel with CONFIG_BPF_SYSCALL=y".into()
    } else if text.contains("CONFIG_KPROBE_EVENTS") {
        "a kernel with CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y".into()
    } else if text.contains("insns (limit") {
        "this kernel's verifier rejects the program: report it as a bug, with the text above and \
         the release of the kernel"
            .into()
    } else if errors::is_refusal(text) {
        p.cure()
    } else if let Some(cure) = btf {
        cure.into()
    } else {
        match b {
            Backend::Kprobe => {
                "a kernel whose do_exit and bprm_execve can be probed (see \
                                /sys/kernel/debug/kprobes/blacklist)"
            }
            _ => {
                "a kernel of 5.8 or newer with CONFIG_TRACEPOINTS=y and CONFIG_BPF_EVENTS=y; if \
                  this is one, report the text above as a bug"
            }
        }
        .into()
    }
}

fn milliseconds(t: Duration) -> String {
    format!("{:.1} ms", t.as_secs_f64() * 1e3)
}

/// The kernel's BTF; what to do if there is none.
fn btf(found: &mut Findings, options: &ProbeOptions) -> Option<String> {
    let what = (GROUP, "btf", "types of this kernel (BTF)");
    let own = btf_header(Path::new(BTF));
    let check = match (&options.btf, own) {
        (None, Ok(size)) => Check::new(what, State::Works, format!("{BTF}, {} KiB", size / 1024)),
        (None, Err(e)) => {
            let detail = format!("{BTF}: {}", errors::told(&e));
            Check::new(what, State::Missing, detail).cure(CURE_BTF)
        }
        (Some(file), own) => match types_in(file) {
            Ok(types) => {
                let beside = if own.is_ok() { "; the kernel has its own, too" } else { "" };
                let detail = format!("{}, {types} types{beside}", file.display());
                Check::new(what, State::Works, detail)
            }
            Err(e) => {
                Check::new(what, State::Missing, format!("{}: {e}", file.display())).cure(match own
                {
                    Ok(_) => "leave --btf out: this kernel has its own",
                    Err(_) => "give --btf a file of BTF, raw or in the .BTF section of an ELF file",
                })
            }
        },
    };
    let cure = check.cure.clone();
    found.add(check);
    cure
}

/// How many types a file given by the user holds.
fn types_in(file: &Path) -> Result<usize, String> {
    fs::File::open(file).map_err(|e| errors::told(&e))?;
    let btf = Btf::from_path(file).map_err(|e| errors::named(&format!("{e:#}")))?;
    match btf.len() {
        // The first stands for void.
        0 | 1 => Err("holds no types".into()),
        n => Ok(n),
    }
}

/// Size of a file of raw BTF.
fn btf_header(path: &Path) -> io::Result<u64> {
    use std::io::Read as _;
    let mut magic = [0; 2];
    let mut file = fs::File::open(path)?;
    file.read_exact(&mut magic)?;
    if magic != BTF_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is no BTF"));
    }
    Ok(file.metadata()?.len())
}

fn window(found: &mut Findings, backend: Option<Backend>) {
    let what = (GROUP, "window_start", "where the window of a program begins");
    let check = match backend {
        Some(Backend::RawTp | Backend::TpBtf) => Check::new(
            what,
            State::Works,
            "task_rename: the old image is gone, the new one not yet there; exact",
        ),
        Some(Backend::Kprobe) => {
            found.limit(
                "the window of a program begins on entry of exec, so it holds the end of the \
                 image before",
            );
            Check::new(what, State::Limited, "on entry of the function that performs the exec")
                .cure("tracepoints: raw_tp or tp_btf, see above")
        }
        None => Check::new(
            what,
            State::Limited,
            "no hooks: prof run begins a command's counters by enable_on_exec",
        )
        .cure("one of the ways to attach above"),
    };
    found.add(check);
}

fn ring_buffer(found: &mut Findings, p: &Privileges) {
    let what = (GROUP, "ring_buffer", "BPF ring buffer");
    let page = rustix::param::page_size() as u32;
    let made =
        sys::map_create(libbpf_sys::BPF_MAP_TYPE_RINGBUF, c"prof_doctor", 0, 0, page, 0, None);
    found.add(match made {
        Ok(_) => Check::new(what, State::Works, "a map of one page was made"),
        Err(e) => {
            let text = errors::told(&e);
            let cure = if errors::is_refusal(&text) {
                p.cure()
            } else {
                "a kernel of 5.8 or newer with CONFIG_BPF_SYSCALL=y".into()
            };
            Check::new(what, State::Missing, text).cure(cure)
        }
    });
}

/// A directory that is there as long as this is.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("prof-doctor-{}", std::process::id()));
        // Fails if it is there already, whoever made it.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed was not ours.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether a second load can do without libbpf. Tried in a directory of its own:
/// the real one stays as it is.
fn prepared(found: &mut Findings, backend: Backend, options: &ProbeOptions, p: &Privileges) {
    let what = (GROUP, "prepared", "programs prepared for a faster start");
    if options.btf.is_some() {
        let detail = "not with --btf: a file says nothing about the kernel that runs";
        found.add(Check::new(what, State::NotNeeded, detail));
        return;
    }
    if p.from_file {
        let detail = "not tried: not for a program that has its capabilities from its file";
        found.add(Check::new(what, State::NotNeeded, detail));
        return;
    }
    let scratch = match Scratch::new() {
        Ok(s) => s,
        Err(e) => {
            let detail = format!("not tried: no temporary directory: {}", errors::told(&e));
            let cure = "a directory in TMPDIR that can be written to";
            found.add(Check::new(what, State::Limited, detail).cure(cure));
            return;
        }
    };
    let plan = Plan { cache: Some(scratch.0.clone()), ..plan(backend, options) };
    let timed = || {
        let began = Instant::now();
        Session::open(&plan).map(|s| (s.from_cache(), began.elapsed()))
    };
    found.add(match (timed(), timed()) {
        (Ok((_, whole)), Ok((true, short))) => Check::new(
            what,
            State::Works,
            format!("start in {}, without them in {}", milliseconds(short), milliseconds(whole)),
        ),
        (Ok(_), Ok(_)) => Check::new(
            what,
            State::Limited,
            "the kernel did not take a program that it had taken before: each start is a whole \
             one",
        )
        .cure("report it as a bug, with the release of this kernel"),
        (Err(e), _) | (_, Err(e)) => Check::new(what, State::Limited, errors::chain(&e))
            .cure("report it as a bug, with the release of this kernel"),
    });
}

/// The iterator over tasks, and the kernel's own count of execs.
fn live_processes(
    found: &mut Findings,
    hooks: &mut Hooks,
    backend: Backend,
    options: &ProbeOptions,
    p: &Privileges,
) {
    let what = (GROUP, "task_iterator", "reading processes that already run");
    let mut session = match Session::open(&Plan { count_execs: true, ..plan(backend, options) }) {
        Ok(s) => s,
        Err(e) => {
            found.add(Check::new(what, State::Missing, errors::chain(&e)).cure(p.cure()));
            return;
        }
    };
    let began = Instant::now();
    match session.matching() {
        Ok(_) => {
            hooks.live = true;
            let detail =
                format!("the iterator over tasks ran in {}", milliseconds(began.elapsed()));
            found.add(Check::new(what, State::Works, detail));
        }
        Err(e) => {
            found.limit("processes that already run cannot be read: no prof attach, no --existing");
            found.add(
                Check::new(what, State::Missing, errors::chain(&e)).cure(
                    "a kernel of 5.8 or newer with CONFIG_BPF_SYSCALL=y and CONFIG_PROC_FS=y",
                ),
            );
        }
    }
    let what = (GROUP, "exec_count", "the kernel's own count of execs");
    let check = match session.kernel_execs().get() {
        Some(_) => {
            let how = match host::tracefs() {
                Some(place) => format!("its id from {place}"),
                None => "tracefs is not mounted: prof mounts one that nobody else sees".into(),
            };
            Check::new(what, State::Works, format!("counter of sched_process_exec, {how}"))
        }
        None => {
            found.limit("the number of execs is not checked against the kernel's own count");
            let told: Vec<_> = session
                .limits()
                .iter()
                .filter(|l| l.contains("execs"))
                .map(|l| errors::named(l))
                .collect();
            let (detail, cure) = host::tracefs_refusal(told.join("; "), p);
            Check::new(what, State::Limited, detail).cure(cure)
        }
    };
    found.add(check);
}

/// With no hooks there is no session to say how the clock fares.
fn clock_alone(found: &mut Findings, p: &Privileges) {
    let what = (GROUP, "exact_clock", "the scheduler's clock, exact");
    let online = crate::host::online_cpus();
    let opened = online.and_then(|cpus| crate::clock::open_cpu_clocks(&cpus));
    found.add(match opened {
        Ok(_) => Check::new(
            what,
            State::Limited,
            "a cpu-clock event can be opened on each CPU, but there is no hook to use it",
        )
        .cure("one of the ways to attach above"),
        Err(e) => Check::new(
            what,
            State::Missing,
            format!("cpu-clock event on each CPU: {}", errors::told(&e)),
        )
        .cure(p.cure()),
    });
}

/// What prof does without, in this version.
fn not_needed(found: &mut Findings) {
    let btf = Btf::from_vmlinux().ok();
    let function = |name: &str| btf.as_ref()?.type_by_name::<types::Func<'_>>(name);

    let what = (GROUP, "loops", "loops in BPF programs (bpf_iter_num_new)");
    found.add(if btf.is_none() {
        Check::new(
            what,
            State::NotNeeded,
            "not told without BTF; without them long loops are calls",
        )
    } else if function("bpf_iter_num_new").is_some() {
        Check::new(what, State::Works, "there: programs load faster")
    } else {
        Check::new(what, State::Limited, "not there: long loops are calls, which takes longer")
            .cure("a kernel of 6.4 or newer")
    });

    let what = (GROUP, "fentry", "trampolines (fentry)");
    let detail = match function("bpf_fentry_test1").map(|f| u32::from(f.type_id())) {
        None => "not tried: no BTF of bpf_fentry_test1".to_owned(),
        Some(id) => match try_fentry(id) {
            Ok(()) => "a program was attached to bpf_fentry_test1".to_owned(),
            Err((step, e)) => format!("{step} for bpf_fentry_test1: {}", errors::told(&e)),
        },
    };
    let detail = format!("{detail}; prof does not use them in this version");
    found.add(Check::new(what, State::NotNeeded, detail));

    let detail = match read_kernel_file("securityfs", "/sys/kernel/security", "lsm") {
        Ok((list, note)) if list.trim().split(',').any(|m| m == "bpf") => {
            format!("among the active modules{note}")
        }
        Ok((list, note)) => format!("active modules are {}{note}", list.trim()),
        Err(e) => format!("not told: {e}"),
    };
    let detail = format!("{detail}; prof does not use it");
    found.add(Check::new((GROUP, "bpf_lsm", "BPF security module"), State::NotNeeded, detail));
}

/// Loads and attaches `return 0`.
fn try_fentry(function: u32) -> Result<(), (&'static str, io::Error)> {
    let insn = |code: u8| libbpf_sys::bpf_insn { code, ..Default::default() };
    // r0 = 0; exit
    let program = [insn(0xb7), insn(0x95)];
    let fd = sys::prog_load(
        libbpf_sys::BPF_PROG_TYPE_TRACING,
        c"prof_doctor",
        c"GPL",
        &program,
        libbpf_sys::BPF_TRACE_FENTRY,
        function,
        false,
    )
    .map_err(|e| ("loading a program", e))?;
    sys::raw_tracepoint_open(None, fd.as_fd()).map_err(|e| ("attaching a program", e))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn privileges(capabilities: &[&'static str]) -> Privileges {
        Privileges {
            uid: 0,
            capabilities: capabilities.to_vec(),
            initial_user_ns: true,
            initial_pid_ns: true,
            seccomp: false,
            from_file: false,
        }
    }

    #[test]
    fn each_refusal_has_the_cure_of_its_cause() {
        let all = privileges(&["CAP_BPF", "CAP_PERFMON"]);
        let cure = |b, text, btf| cure_of_hook(b, text, btf, &all);
        let kprobe = "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)";
        assert!(cure(Backend::Kprobe, kprobe, None).contains("CONFIG_KPROBES=y"));
        assert!(cure(Backend::RawTp, "no (ENOSYS)", None).contains("CONFIG_BPF_SYSCALL"));
        assert!(
            cure(Backend::RawTp, "failed to find valid kernel BTF", Some(CURE_BTF))
                .contains("--btf")
        );
        assert!(cure(Backend::RawTp, "no (EPERM)", None).contains("lockdown"));
        let log = "no (EACCES)\nprocessed 2843 insns (limit 1000000) max_states_per_insn 4";
        assert!(cure(Backend::RawTp, log, None).contains("verifier"));
        let none = privileges(&[]);
        assert!(cure_of_hook(Backend::TpBtf, "no (EPERM)", None, &none).contains("setcap"));
    }

    #[test]
    fn the_choice_is_explained() {
        let hooks = Hooks { backend: Some(Backend::RawTp), ..Hooks::default() };
        assert!(hooks.into_chosen("v2".into()).why.starts_with("raw_tp: the cheapest"));
        let hooks = Hooks {
            backend: Some(Backend::Kprobe),
            refused: vec![Backend::RawTp, Backend::TpBtf],
            ..Hooks::default()
        };
        let chosen = hooks.into_chosen("v2".into());
        assert!(chosen.why.ends_with("after raw_tp and tp_btf"), "{}", chosen.why);
        assert_eq!(chosen.window_start, "exec_entry");
    }

    #[test]
    fn a_file_that_is_no_btf_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        fs::write(&file, b"\x7fELF").unwrap();
        assert!(btf_header(&file).is_err());
        fs::write(&file, BTF_MAGIC).unwrap();
        assert_eq!(btf_header(&file).unwrap(), 2);
        fs::write(&file, b"").unwrap();
        assert!(btf_header(&file).is_err());
    }
}
