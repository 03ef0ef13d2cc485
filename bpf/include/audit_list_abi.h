/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What crosses between audit_list.bpf.c and the user half; mirrored in
 * crates/prof-kernel/src/audit_list/abi.rs. The rules are those of prof_abi.h.
 */
#ifndef PROF_AUDIT_LIST_ABI_H
#define PROF_AUDIT_LIST_ABI_H

/* Function or file of a probe: cut here, bytes with the NUL. */
#define PROF_LIST_TARGET 256
/* struct perf_event_attr as of 6.3: what the kernel has beyond is not read. */
#define PROF_LIST_ATTR 136
/* Inherited copies that are looked at: with their event, what an iterator may write for
 * one file (8 pages). The verifier walks every round on kernels before 6.4. */
#define PROF_LIST_COPIES 1024

/* What a task's open file is, by what serves it. */
enum prof_list_file {
	PROF_LIST_PERF = 0,
	PROF_LIST_LINK = 1,
	PROF_LIST_FILES = 2,
};

enum prof_list_mode {
	PROF_LIST_LEARN = 0, /* what serves prof's own files */
	PROF_LIST_ALL = 1,
};

/* The one value of `list_state`: user space writes it before it iterates. */
struct prof_list_state {
	__u64 served_by[PROF_LIST_FILES]; /* addresses of file_operations */
	__u32 mode; /* enum prof_list_mode */
	__u32 tgid; /* prof's own */
	__s32 fds[PROF_LIST_FILES]; /* its files, one of each */
	__u32 ident_subsys; /* as in struct prof_config */
	__u32 kprobe_type; /* perf_event_attr.type of probes of functions, else ~0 */
	__u32 uprobe_type;
	__u32 pad;
};

enum prof_list_kind {
	PROF_LIST_REC_EVENT = 1, /* struct prof_list_event */
	PROF_LIST_REC_LINK = 2, /* struct prof_list_link */
	PROF_LIST_REC_COPY = 3, /* struct prof_list_copy */
};

enum prof_list_has {
	PROF_LIST_HAS_TARGET = 0x1,
	PROF_LIST_HAS_OWNER = 0x2,
	PROF_LIST_HAS_HOLDER = 0x4,
	PROF_LIST_BY_KERNEL = 0x8, /* nobody in user space opened it */
	PROF_LIST_GONE = 0x10, /* the target has ended, or what it was opened for */
};

/* A perf event, once for each file that somebody has of it. */
struct prof_list_event {
	__u32 kind;
	__u32 has; /* enum prof_list_has */
	__u64 addr;
	__u64 id;
	__u64 leader; /* id of the leader of its group */
	__u64 cgroup_id; /* of the cgroup that it is for, else 0 */
	__u64 enabled_ns; /* with those of its copies, as the kernel last had it */
	__u64 running_ns;
	__u64 probe_offset;
	__s32 state; /* enum perf_event_state */
	__s32 cpu; /* -1: any */
	__u32 prog; /* id of its BPF program */
	__u32 link; /* id of the link that holds the file, if none of a task does */
	__s32 fd; /* of the holder */
	__u32 pad;
	struct prof_ident target;
	struct prof_ident owner;
	struct prof_ident holder;
	char prog_name[16];
	char probe[PROF_LIST_TARGET]; /* function or file */
	__u8 attr[PROF_LIST_ATTR];
};

/* An event's copy that a thread has inherited, behind the event; with no thread: there
 * are more. */
struct prof_list_copy {
	__u32 kind;
	__s32 state;
	__u64 event; /* id */
	__u32 pid;
	__u32 tid;
};

/* Somebody holds a BPF link. */
struct prof_list_link {
	__u32 kind;
	__u32 link;
	__s32 fd;
	__u32 pad;
	struct prof_ident holder;
};

_Static_assert(sizeof(struct prof_list_state) == 48, "list_state");
_Static_assert(sizeof(struct prof_list_event) == 64 + 24 + 3 * 64 + 16 + 256 + 136, "list_event");
_Static_assert(sizeof(struct prof_list_copy) == 24, "list_copy");
_Static_assert(sizeof(struct prof_list_link) == 80, "list_link");

#endif /* PROF_AUDIT_LIST_ABI_H */
