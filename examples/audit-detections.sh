#!/bin/sh
# Reads what is being profiled, or whenever something goes on, and prints a line of JSON for
# each thing that somebody should look at:
#   prof audit --list -o json | OPS="0 1001" examples/audit-detections.sh
#   prof audit -o json | OPS="0 1001" examples/audit-detections.sh
# OPS has the ids of the users who may profile others; 0 if it is not set. Exit status:
# 0 if all is well, 1 if there is a finding.
#
#   foreign_samples           someone outside ops samples another user's process, or a
#                             CPU or a cgroup, where everybody's processes run
#   kernel_stacks             kernel stacks are read by an unprivileged user
#   stack_memory              samples hold the memory of another process's stack: whatever
#                             a program keeps there, keys and passwords too
#   foreign_ptrace            someone outside ops traces another user's process
#   foreign_bpf               a BPF program of someone outside ops watches what others do
#   bpf_of_nobody             a BPF program runs that no process has open: whoever put it
#                             there has ended
#   not_all_seen              the list may be too short, something was not told, and why
command -v jq >/dev/null || { echo "$0: needs jq" >&2; exit 2; }
jq --unbuffered -c --arg ops "${OPS:-0}" '
  def is_ops: . as $uid | $ops | split(" ") | any(. == ($uid | tostring));
  # A record of the stream, as the list has each thing.
  def as_listed:
    . as $r | .monitors[]
    | { time: $r.time, kind, name,
        state: (if $r.flags | contains(["enable"]) then "on" else "off" end),
        by: (if ($r.by.pid // 0) == 0 then null else $r.by end),
        target: ($r.target + { cgroup: $r.target.path }
          + (if $r.target.kind == "process" then { process: $r.process } else {} end)),
        attr: (if .attr then
            { samples: .attr.sampling, kernel_stacks: .attr.kernel_callchain,
              stack_bytes: .attr.stack_bytes }
          else null end),
        program: (if .bpf_prog then { id: .bpf_prog } else null end),
        holders: (if ($r.by.pid // 0) == 0 then [] else [$r.by] end) };
  # Of a program that nobody holds, the one who loaded it.
  def uid: .by.uid // .program.uid;
  def of_others:
    .by.uid as $own
    | .target.kind != "process" or (.target.process.uid != $own);
  def outside: uid != null and (uid | is_ops | not);
  def samples: .attr.samples // ((.attr.sampled // []) | length > 0);
  def rules:
    (select(outside and samples and of_others) | "foreign_samples"),
    (select(uid != null and uid != 0 and .attr.kernel_stacks) | "kernel_stacks"),
    (select(.attr.stack_bytes != null and .by.pid != .target.process.pid) | "stack_memory"),
    (select(outside and .kind == "ptrace" and of_others) | "foreign_ptrace"),
    (select(outside and .program != null) | "foreign_bpf"),
    (select(.kind == "bpf" and (.holders | length) == 0) | "bpf_of_nobody");
  def findings:
    rules as $rule
    | { rule: $rule, time, name, state, uid: uid,
        by: (if .by then { pid: .by.pid, comm: .by.comm, exe: .by.exe } else null end),
        target: (.target.kind + (if .target.process then " \(.target.process.pid)"
          elif .target.cgroup then " " + .target.cgroup
          elif .target.cpu then " \(.target.cpu)" else "" end)),
        target_uid: .target.process.uid };
  if .record == "list" or .record == "header" then
    .time as $time | .limits[] | { rule: "not_all_seen", time: $time, why: . }
  elif .record == "loss" then { rule: "not_all_seen", time, why: .reason }
  elif .record == "listed" then findings
  elif .record == "prof" and (.flags | contains(["enable", "foreign"])) then
    [as_listed | findings] | unique[]
  else empty end' | {
    # The lines as they come, and whether there were any.
    found=0
    while IFS= read -r line; do
        printf '%s\n' "$line"
        found=1
    done
    exit "$found"
}
