/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the audit reads in the kernel, beside kernel.h, and as that has it. `READ` follows
 * any pointer here: most of what is read hangs on no trusted one.
 */
#ifndef PROF_AUDIT_KERNEL_H
#define PROF_AUDIT_KERNEL_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	atomic_long_t refcnt;
} file_ref_t;

struct file___audit {
	file_ref_t f_ref;
};

/* To 6.12. */
struct file___counted {
	atomic_long_t f_count;
};

struct perf_event_context {
	struct task_struct *task;
};

enum perf_event_state {
	PERF_EVENT_STATE_OFF = -1,
};

enum bpf_prog_type {
	BPF_PROG_TYPE_UNSPEC = 0,
};

enum bpf_attach_type {
	BPF_ATTACH_TYPE_SOME = 0,
};

enum bpf_link_type {
	BPF_LINK_TYPE_RAW_TRACEPOINT = 1,
	BPF_LINK_TYPE_TRACING = 2,
	BPF_LINK_TYPE_PERF_EVENT = 7,
	BPF_LINK_TYPE_KPROBE_MULTI = 8,
	BPF_LINK_TYPE_UPROBE_MULTI = 12,
};

struct bpf_prog_aux {
	u32 id;
	const char *attach_func_name;
	char name[16];
};

struct bpf_prog {
	enum bpf_prog_type type;
	enum bpf_attach_type expected_attach_type;
	struct bpf_prog_aux *aux;
};

struct bpf_link {
	atomic_long_t refcnt;
	u32 id;
	enum bpf_link_type type;
	struct bpf_prog *prog;
};

struct bpf_perf_link {
	struct bpf_link link;
	struct file *perf_file;
};

struct tracepoint {
	const char *name;
};

struct bpf_raw_event_map {
	struct tracepoint *tp;
};

struct bpf_raw_tp_link {
	struct bpf_link link;
	struct bpf_raw_event_map *btp;
};

struct fprobe {
	void *exit_handler;
};

/* From 5.18; `flags` from 6.6. */
struct bpf_kprobe_multi_link {
	struct bpf_link link;
	struct fprobe fp;
	unsigned long *addrs;
	u32 cnt;
	u32 flags;
};

struct uprobe_consumer {
	void *handler;
	void *ret_handler;
};

struct bpf_uprobe {
	s64 offset;
	struct uprobe_consumer consumer;
};

/* From 6.6. */
struct bpf_uprobe_multi_link {
	struct path path;
	struct bpf_link link;
	u32 cnt;
	struct bpf_uprobe *uprobes;
	struct task_struct *task;
};

struct perf_cgroup {
	struct cgroup_subsys_state css;
};

struct perf_event_attr {
	u32 type;
	u64 config3;
};

struct perf_event___audit {
	struct perf_event *group_leader;
	enum perf_event_state state;
	u64 total_time_enabled;
	struct perf_event_attr attr;
	struct perf_event_context *ctx;
	atomic_long_t refcount;
	int cpu;
	u64 id;
	struct bpf_prog *prog;
	struct perf_cgroup *cgrp;
};

#if defined(__TARGET_ARCH_x86)
struct thread_info {
	u32 status;
};
#endif

struct task_struct___audit {
#if defined(__TARGET_ARCH_x86)
	struct thread_info thread_info;
#endif
	int exit_state;
	struct perf_event_context *perf_event_ctxp;
	unsigned int ptrace;
	struct list_head ptraced;
	struct list_head ptrace_entry;
	struct task_struct *parent;
};

/* To 6.1 there was one for hardware and one for software events. */
struct task_struct___two_ctx {
	struct perf_event_context *perf_event_ctxp[2];
};

/* A descriptor of a process: to 6.8 the file has it, then its inode. */
struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct pid___tasks {
	struct hlist_head tasks[2];
};

struct task_struct___pids {
	struct hlist_node pid_links[2];
};

struct file___pidfd {
	struct inode *f_inode;
};

struct inode___pidfd {
	void *i_private;
};

#pragma clang attribute pop

/* What the tracepoint of a system call gives: as in its `format` file. */
struct syscall_enter {
	u64 common;
	s64 nr;
	u64 args[6];
};

struct syscall_exit {
	u64 common;
	s64 nr;
	s64 ret;
};

/* As a 64-bit program gives them; of a 32-bit one the kernel makes these. */
#define AUDIT_IOC_ENABLE 0x2400
#define AUDIT_IOC_DISABLE 0x2401
#define AUDIT_IOC_REFRESH 0x2402
#define AUDIT_IOC_RESET 0x2403
#define AUDIT_IOC_PERIOD 0x40082404
#define AUDIT_IOC_SET_FILTER 0x40082406
#define AUDIT_IOC_SET_BPF 0x40042408
#define AUDIT_PRCTL_DISABLE 31
#define AUDIT_PRCTL_ENABLE 32
#define AUDIT_BPF_RAW_TRACEPOINT_OPEN 17
#define AUDIT_BPF_LINK_CREATE 28
#define AUDIT_KPROBE_MULTI_RETURN 1 /* of `flags` */
#define AUDIT_PTRACE_TRACEME 0
#define AUDIT_PTRACE_ATTACH 16
#define AUDIT_PTRACE_DETACH 17
#define AUDIT_PTRACE_SEIZE 0x4206
#define AUDIT_PT_SEIZED 0x00010000 /* of a tracee's `ptrace` */
#define AUDIT_TS_COMPAT 0x0002 /* of `status`: in a system call of a 32-bit caller */

#endif /* PROF_AUDIT_KERNEL_H */
