//! `prof` events in the flat JSON of Tracee v0.20 to v0.24, key for key and in
//! its order (`types/trace/trace.go`), so that what reads Tracee's stream reads
//! this one.
//!
//! Only `prof` events are events in Tracee's sense; the other records are left
//! out. Where Tracee has a key that prof cannot fill:
//!
//! - ids inside of a pid namespace (`processId`, …) are the host's;
//! - `threadStartTime` and `threadEntityId` are 0 for a thread that is not the
//!   main one (the last thread of a process may be any), `parentEntityId` is 0
//!   for a parent that is not being profiled: prof does not know these starts;
//! - `syscall` is empty, as Tracee has it for an event outside of a system call.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::io::Write;

use prof_model::audit::AuditEvent;
use prof_model::counters::Table;
use prof_model::record::Flags;
use prof_model::record::Process;
use prof_model::record::ProfEvent;
use prof_model::record::Record;
use prof_model::text;
use serde::Serialize;

use crate::Exporter;
use crate::Options;
use crate::audit;
use crate::json;
use crate::rule_names;

/// Tracee's id of `prof` on amd64. There the ids of system calls are their
/// numbers, up to 448 (`process_mrelease`); those that only 32-bit programs have
/// follow from 449 on, and `prof` is the eleventh of them.
const EVENT_ID: &str = "459";

/// Writes the `tracee` format.
#[derive(Debug)]
pub struct Tracee {
    boot_offset_ns: u64,
    host: String,
    rules: Vec<String>,
    counters: Table,
    /// Start of each process that is being profiled, by pid.
    starts: HashMap<u32, u64>,
}

impl Tracee {
    /// At the start of a stream; of the options, `boot_offset_ns` counts.
    pub fn new(options: &Options) -> Self {
        Self {
            boot_offset_ns: options.boot_offset_ns,
            host: String::new(),
            rules: Vec::new(),
            counters: Table::default(),
            starts: HashMap::new(),
        }
    }

    /// Profiling by prof itself.
    fn own(&mut self, p: &ProfEvent) -> io::Result<Vec<u8>> {
        let ids = json::event_ids(p.events, &self.counters);
        self.event(
            p.time_ns,
            p.cpu,
            &p.process,
            p.flags,
            p.rules,
            vec![
                Argument { name: "FLAGS", r#type: "unsigned long", value: Arg::Flags(p.flags.0) },
                Argument { name: "EVENTS", r#type: "unsigned int", value: Arg::Events(ids) },
            ],
        )
    }

    /// By somebody else: the arguments say who, whom, and what.
    fn foreign(&mut self, e: &AuditEvent) -> io::Result<Vec<u8>> {
        const STRING: &str = "const char*";
        let (by, string) = (&e.by, |s: &[u8]| Arg::Text(text::for_json(s).into_owned()));
        let names = audit::event_names(e).join(",");
        let mut args = vec![
            Argument { name: "FLAGS", r#type: "unsigned long", value: Arg::Flags(e.flags.0) },
            Argument {
                name: "EVENTS",
                r#type: "unsigned int",
                value: Arg::Events(audit::event_ids(e)),
            },
        ];
        // What nobody knows is left out: 0 is root's.
        let number =
            |name, value: u32| Argument { name, r#type: "int", value: Arg::Number(value.into()) };
        args.extend((by.ident.pid != 0).then(|| number("by_pid", by.ident.pid)));
        args.extend((by.ident.start_ns != 0).then(|| number("by_uid", by.ident.uid)));
        args.extend([
            Argument { name: "by_comm", r#type: STRING, value: string(&by.ident.comm) },
            Argument {
                name: "by_exe",
                r#type: STRING,
                value: string(by.exe.as_deref().unwrap_or_default()),
            },
            Argument { name: "target", r#type: STRING, value: string(e.target.kind().as_bytes()) },
            Argument { name: "names", r#type: STRING, value: Arg::Text(names) },
            Argument {
                name: "interface",
                r#type: STRING,
                value: string(e.interface.name().as_bytes()),
            },
        ]);
        if let Some(ns) = e.monitors.iter().filter_map(|m| m.on_ns).max() {
            args.push(Argument { name: "on_ns", r#type: "unsigned long", value: Arg::Number(ns) });
        }
        self.event(e.time_ns, e.cpu, audit::subject(e), e.flags, 0, args)
    }

    fn event(
        &mut self,
        time_ns: u64,
        cpu: u32,
        process: &Process,
        flags: Flags,
        rules: u64,
        args: Vec<Argument>,
    ) -> io::Result<Vec<u8>> {
        let i = &process.ident;
        // An earlier holder of the pid cannot have started later than its child.
        let parent = self.starts.get(&i.ppid).copied().filter(|start| *start <= i.start_ns);
        if flags.has(Flags::FOREIGN) {
            // Whose end nobody may tell.
        } else if flags.has(Flags::ENABLE) {
            self.starts.insert(i.pid, i.start_ns);
        } else if flags.has(Flags::EXIT) {
            self.starts.remove(&i.pid);
        }
        let start = i.start_ns.saturating_add(self.boot_offset_ns);
        let process_entity = entity_id(i.pid, start);
        let main_thread = i.tid == i.pid;
        let container_id = process.container_id.as_deref();
        let event = EventOut {
            timestamp: time_ns,
            thread_start_time: if main_thread { start } else { 0 },
            processor_id: cpu,
            process_id: i.pid,
            cgroup_id: i.cgroup_id,
            thread_id: i.tid,
            parent_process_id: i.ppid,
            host_process_id: i.pid,
            host_thread_id: i.tid,
            host_parent_process_id: i.ppid,
            user_id: i.uid,
            mount_namespace: i.mntns,
            pid_namespace: i.pidns,
            process_name: text::for_json(&i.comm),
            executable: File {
                path: process.exe.as_deref().map(text::for_json).unwrap_or_default(),
            },
            host_name: &self.host,
            container_id: container_id.unwrap_or_default(),
            container: Container { id: container_id },
            kubernetes: Kubernetes {},
            event_id: EVENT_ID,
            event_name: "prof",
            matched_policies: rule_names(rules, &self.rules),
            args_num: args.len() as u32,
            return_value: 0,
            syscall: "",
            stack_addresses: None,
            context_flags: ContextFlags {
                container_started: container_id.is_some(),
                is_compat: false,
            },
            thread_entity_id: if main_thread { process_entity } else { 0 },
            process_entity_id: process_entity,
            parent_entity_id: parent
                .map_or(0, |start| entity_id(i.ppid, start.saturating_add(self.boot_offset_ns))),
            args,
        };
        Ok(serde_json::to_vec(&event)?)
    }
}

impl Exporter for Tracee {
    fn record(&mut self, r: &Record, out: &mut dyn Write) -> io::Result<()> {
        match r {
            Record::Header(h) => {
                self.host = text::for_json(h.host.as_bytes()).into_owned();
                self.counters = h.counters.clone();
                self.rules = h.rules.iter().map(|r| r.name.clone()).collect();
                Ok(())
            }
            Record::Prof(p) => {
                let mut line = self.own(p)?;
                line.push(b'\n');
                out.write_all(&line)
            }
            Record::Audit(e) => {
                let mut line = self.foreign(e)?;
                line.push(b'\n');
                out.write_all(&line)
            }
            Record::Profile(_)
            | Record::Loss(_)
            | Record::Interval(_)
            | Record::AuditTotals(_)
            | Record::End(_)
            | Record::Repeat(_) => Ok(()),
        }
    }

    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.flush()
    }
}

/// `trace.Event`, in the order of its fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventOut<'a> {
    timestamp: u64,
    thread_start_time: u64,
    processor_id: u32,
    process_id: u32,
    cgroup_id: u64,
    thread_id: u32,
    parent_process_id: u32,
    host_process_id: u32,
    host_thread_id: u32,
    host_parent_process_id: u32,
    user_id: u32,
    mount_namespace: u32,
    pid_namespace: u32,
    process_name: Cow<'a, str>,
    executable: File<'a>,
    host_name: &'a str,
    container_id: &'a str,
    container: Container<'a>,
    kubernetes: Kubernetes,
    event_id: &'static str,
    event_name: &'static str,
    // `omitempty` in Go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    matched_policies: Vec<Cow<'a, str>>,
    args_num: u32,
    return_value: i32,
    syscall: &'static str,
    stack_addresses: Option<Vec<u64>>,
    context_flags: ContextFlags,
    thread_entity_id: u32,
    process_entity_id: u32,
    parent_entity_id: u32,
    args: Vec<Argument>,
}

#[derive(Serialize)]
struct File<'a> {
    path: Cow<'a, str>,
}

#[derive(Serialize)]
struct Container<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}

/// Always `{}`: Go does not leave out an empty struct.
#[derive(Serialize)]
struct Kubernetes {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContextFlags {
    container_started: bool,
    is_compat: bool,
}

#[derive(Serialize)]
struct Argument {
    name: &'static str,
    r#type: &'static str,
    value: Arg,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Arg {
    Flags(u64),
    Events(Vec<u32>),
    Text(String),
    Number(u64),
}

/// Tracee's id of a task: a hash of its id on the host and its start since the
/// epoch, the latter only to 0.1 s so that /proc gives the same (v0.24; up to
/// v0.23 it took 10 ms, up to v0.22 time since boot).
fn entity_id(id: u32, start_ns: u64) -> u32 {
    const STEP: u64 = 100_000_000;
    hash(id, start_ns / STEP * STEP)
}

/// MurmurHash3 (x86, 32 bits) of both in network byte order, with Tracee's seed.
fn hash(id: u32, time: u64) -> u32 {
    const SEED: u32 = 0x1827_3645;
    // Twelve bytes are three whole blocks; there is no tail. The blocks are read
    // in the machine's order (little), hence the swaps.
    let blocks = [id.swap_bytes(), ((time >> 32) as u32).swap_bytes(), (time as u32).swap_bytes()];
    let mut h = SEED;
    for block in blocks {
        let k = block.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
        h = (h ^ k).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    h ^= 12;
    h = (h ^ h >> 16).wrapping_mul(0x85eb_ca6b);
    h = (h ^ h >> 13).wrapping_mul(0xc2b2_ae35);
    h ^ h >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_gives_what_tracee_s_own_tests_expect() {
        // common/murmur/murmur_test.go, TestHashU32AndU64
        assert_eq!(hash(0, 0), 0xf6c5_6b4a);
        assert_eq!(hash(1, 2), 0xd25f_0e74);
        assert_eq!(hash(0x1234_5678, 0x1234_5678_9abc_def0), 0xb065_052c);
        assert_eq!(hash(u32::MAX, 0), 0x6d04_5877);
        assert_eq!(hash(0, u64::MAX), 0xece9_8cf5);
        assert_eq!(hash(u32::MAX, u64::MAX), 0xffa2_82fc);
    }

    #[test]
    fn starts_in_the_same_tenth_of_a_second_give_one_id() {
        assert_eq!(entity_id(7, 1_100_000_000), entity_id(7, 1_199_999_999));
        assert_ne!(entity_id(7, 1_100_000_000), entity_id(7, 1_200_000_000));
    }
}
