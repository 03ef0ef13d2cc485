/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the audit's programs and user space tell each other, apart from sessions of
 * profiling. Mirrored in crates/prof-kernel/src/abi/audit.rs. Fixed-width fields, no
 * padding.
 */
#ifndef PROF_AUDIT_ABI_H
#define PROF_AUDIT_ABI_H

/* Bytes of a perf_event_attr that are read: up to config3 (6.3). */
#define AUDIT_ATTR_SIZE 136

/* Events that are looked at in one run of `audit_look`. */
#define AUDIT_LOOKS 256

/* Slots of `known`, by the low bits of a tgid. */
#define AUDIT_KNOWN 4096

/* Name of what a link is at: bytes with the NUL. Of a longer path its end. */
#define AUDIT_AT_LEN 256

enum audit_kind {
	AUDIT_OPEN = 1, /* struct audit_opened */
	AUDIT_BEFORE = 2, /* the same, of an event that was there before */
	AUDIT_IOCTL = 3, /* struct audit_act */
	AUDIT_CLOSE = 4, /* struct audit_act; arg: references that are left */
	AUDIT_PRCTL = 5, /* struct audit_task; arg: the option */
	AUDIT_EXEC = 6, /* struct audit_task; arg: the thread's id before */
	AUDIT_EXIT = 7, /* struct audit_task; arg: whether perf events are on it */
	AUDIT_FORK = 8, /* struct audit_fork */
	AUDIT_LINK = 9, /* struct audit_link */
	AUDIT_LINK_CLOSE = 10, /* struct audit_link */
	AUDIT_PTRACE = 11, /* struct audit_fork: tracer, tracee */
	AUDIT_PTRACE_END = 12, /* struct audit_task; arg: the pid as the tracer gave it */
	AUDIT_RELEASE = 13, /* struct audit_act: the end of the file, told by whoever had it last */
	AUDIT_PTRACE_UNLINK = 14, /* struct audit_fork; request: whether the tracer exits */
	AUDIT_PROG = 15, /* struct audit_act: what runs at it by now */
};

/* A perf event, as the kernel has it: none of it is from the caller's memory. */
struct audit_event {
	__u64 addr;
	__u64 id; /* counts up: no other event has it */
	__u64 leader; /* id of the group's leader */
	__u64 cgroup_id;
	struct prof_ident target; /* pid 0: no task */
	__s32 state; /* enum perf_event_state */
	__s32 leader_state;
	__s32 cpu; /* -1: any */
	__u32 prog; /* id of the program that runs at it */
	__u8 attr[AUDIT_ATTR_SIZE];
};

struct audit_opened {
	struct prof_rec_head head;
	struct prof_ident by;
	__u64 container_id[PROF_CONTAINER_ID_LEN / 8];
	__u32 has_container;
	__u32 path_len; /* bytes of path behind this struct, no NUL */
	struct audit_event event;
};

struct audit_act {
	struct prof_rec_head head;
	__u64 addr;
	__u64 id;
	__u64 arg;
	__u32 pid;
	__u32 tid;
	__s32 state;
	__u32 cmd;
	__u32 prog; /* of BPF, before this act */
	__u32 pad;
};

struct audit_task {
	struct prof_rec_head head;
	struct prof_ident id;
	__u64 arg;
	__u32 group_dead;
	__u32 path_len;
};

struct audit_fork {
	struct prof_rec_head head;
	struct prof_ident parent;
	struct prof_ident child;
	__u32 has_events; /* perf events were inherited */
	__u32 traced; /* the child has the parent's tracer */
	__u32 request; /* of ptrace */
	__u32 given; /* the pid as the tracer gave it */
};

struct audit_link {
	struct prof_rec_head head;
	struct prof_ident by;
	__u64 event; /* address of the perf event that a link of that type is on */
	__u64 event_id;
	__u32 id;
	__u32 type; /* enum bpf_link_type */
	__u32 prog;
	__u32 prog_type; /* enum bpf_prog_type */
	__u32 attach_type; /* enum bpf_attach_type that the program expects */
	__u32 cmd; /* of its end: references to the file of the event that it is on */
	char name[PROF_COMM_LEN];
	char at[AUDIT_AT_LEN]; /* tracepoint, function or file, if the link knows it itself */
	struct prof_ident of; /* the process that it is restricted to; pid 0: none */
	__u64 offset; /* in that file, of the first place */
	__u32 places; /* of a link to many: how many */
	__u32 returns; /* its program runs when they return */
	__u32 left; /* of its end: references to it that are left */
	__u32 pad;
};

/* What `audit_look` is asked, and answers in place. */
struct audit_look {
	__u64 addr;
	__u64 id;
	__s64 refs; /* 0 and less: it is being freed */
	__u64 enabled_ns; /* total_time_enabled */
	__s32 state;
	__u32 prog;
	__u32 tid; /* thread that it is on: tasks exchange what they have inherited */
	__u32 pad;
};

struct audit_looks {
	__u32 n;
	__u32 pad;
	struct audit_look look[AUDIT_LOOKS];
};

/* Of each CPU. */
enum audit_counter {
	AUDIT_C_RECORDS = 0,
	AUDIT_C_LOST_RING = 1,
	AUDIT_C_NOT_READ = 2, /* a descriptor whose event could not be found */
	AUDIT_NR_COUNTERS = 3,
};

struct audit_cpu {
	__u64 counters[AUDIT_NR_COUNTERS];
};

struct audit_globals {
	__u64 perf_fops; /* by which files of perf events are known */
	__u64 link_fops;
	__s32 perf_fd; /* of prof's own, for audit_learn */
	__s32 link_fd;
	__s32 clock_fd[2]; /* cpu-clock and task-clock, of prof's own */
	/* What the kernel makes of their type: it has PMUs of their own for them. */
	__u32 clock_type[2];
	__u32 self; /* prof's tgid */
	__u32 pad;
};

/* Of whom `audit_who` is asked, and its answer. */
struct audit_who {
	struct prof_ident who; /* pid 0: it could not be read */
	__s32 fd; /* a descriptor of the process, prof's own */
	__u32 pad;
};

_Static_assert(sizeof(struct audit_event) == 248, "audit_event");
_Static_assert(sizeof(struct audit_opened) == 32 + 64 + 64 + 8 + 248, "audit_opened");
_Static_assert(sizeof(struct audit_act) == 80, "audit_act");
_Static_assert(sizeof(struct audit_task) == 112, "audit_task");
_Static_assert(sizeof(struct audit_fork) == 176, "audit_fork");
_Static_assert(sizeof(struct audit_link) == 496, "audit_link");
_Static_assert(sizeof(struct audit_look) == 48, "audit_look");
_Static_assert(sizeof(struct audit_globals) == 48, "audit_globals");
_Static_assert(sizeof(struct audit_who) == 72, "audit_who");

#endif /* PROF_AUDIT_ABI_H */
