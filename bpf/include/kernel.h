/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel types that prof reads, cut down to the fields it reads. Offsets
 * come from the running kernel's BTF at load (CO-RE), so order and size here
 * mean nothing; names must be the kernel's. `___flavour` types are earlier or
 * later shapes of the same type: the loader ignores what follows the `___`.
 */
#ifndef PROF_KERNEL_H
#define PROF_KERNEL_H

/* bpf_tracing.h names registers as the kernel does when it sees this. */
#define __VMLINUX_H__

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;
typedef int bool;

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
};

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_RINGBUF = 27,
};

#define BPF_F_NO_PREALLOC 1U
#define BPF_F_MMAPABLE 1024U
#define BPF_F_CURRENT_CPU 0xffffffffULL
#define BPF_RB_NO_WAKEUP 1ULL
#define BPF_RB_FORCE_WAKEUP 2ULL
#define BPF_RB_AVAIL_DATA 0

struct bpf_iter_num {
	u64 opaque[1];
} __attribute__((aligned(8)));

struct bpf_perf_event_value {
	u64 counter;
	u64 enabled;
	u64 running;
};

/* Registers as a kprobe sees them: named by bpf_tracing.h per architecture. */
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	unsigned long ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	u64 regs[31];
	u64 sp;
	u64 pc;
	u64 pstate;
};
struct pt_regs {
	struct user_pt_regs user_regs;
};
#endif

/* What a perf_event program is given: registers where the event struck. */
struct bpf_perf_event_data {
#if defined(__TARGET_ARCH_x86)
	struct pt_regs regs;
#elif defined(__TARGET_ARCH_arm64)
	struct user_pt_regs regs;
#endif
	u64 sample_period;
	u64 addr;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct bpf_raw_tracepoint_args {
	u64 args[0];
};

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	s64 counter;
} atomic_long_t;

typedef struct {
	u32 val;
} kuid_t;

typedef struct {
	u32 val;
} kgid_t;

struct list_head {
	struct list_head *next;
};

struct rq {
	u64 clock;
	u64 clock_task;
};

struct cfs_rq {
	struct rq *rq;
};

struct sched_entity {
	u64 exec_start;
	u64 sum_exec_runtime;
	u64 nr_migrations;
	struct cfs_rq *cfs_rq;
};

struct sched_info {
	unsigned long long run_delay;
};

struct task_io_accounting {
	u64 rchar;
	u64 wchar;
	u64 read_bytes;
	u64 write_bytes;
	u64 cancelled_write_bytes;
};

struct cred {
	kuid_t uid;
	kgid_t gid;
};

struct ns_common {
	unsigned int inum;
};

struct mnt_namespace {
	struct ns_common ns;
};

struct pid_namespace {
	struct ns_common ns;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

struct kernfs_node {
	const char *name;
	u64 id;
};

struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup *ancestors[];
};

/* To 6.0 the ids themselves stood in the array. */
struct cgroup___ids {
	int level;
	u64 ancestor_ids[];
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
};

struct css_set {
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *dfl_cgrp;
};

enum cgroup_subsys_id {
	perf_event_cgrp_id = 0,
};

struct qstr {
	u32 len;
	const unsigned char *name;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
};

struct vfsmount {
	struct dentry *mnt_root;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct super_block {
	u32 s_dev;
};

struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
	s64 i_size;
	u32 i_generation;
	s64 i_mtime_sec;
	u32 i_mtime_nsec;
};

struct timespec64 {
	s64 tv_sec;
	long tv_nsec;
};

/* To 6.10. */
struct inode___pre611 {
	struct timespec64 __i_mtime;
};

struct file {
	struct path f_path;
	struct inode *f_inode;
};

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	unsigned long vm_pgoff;
	unsigned long vm_flags;
	struct file *vm_file;
};

typedef struct {
	void *vdso;
} mm_context_t;

struct maple_tree {
	void *ma_root;
};

struct maple_range_64 {
	unsigned long pivot[15];
	void *slot[16];
};

struct maple_arange_64 {
	unsigned long pivot[9];
	void *slot[10];
};

struct percpu_counter {
	s64 count;
	s32 *counters;
};

struct mm_struct {
	struct file *exe_file;
	unsigned long arg_start;
	unsigned long arg_end;
	unsigned long hiwater_rss;
	struct percpu_counter rss_stat[4];
	unsigned long exec_vm;
	struct maple_tree mm_mt;
	/* From 6.4. */
	int mm_lock_seq;
	mm_context_t context;
};

/* From 6.14: to the loader another field of that name. */
typedef struct seqcount {
	unsigned int sequence;
} seqcount_t;

struct mm_struct___seqcount {
	seqcount_t mm_lock_seq;
};

/* To 6.1 the RSS counters were plain. */
struct mm_rss_stat___pre62 {
	atomic_long_t count[4];
};

struct mm_struct___pre62 {
	struct mm_rss_stat___pre62 rss_stat;
};

struct signal_struct {
	atomic_t live;
	int group_exit_code;
	unsigned int flags;
	unsigned long maxrss;
};

#if defined(__TARGET_ARCH_x86)
struct thread_struct {
	unsigned long fsbase;
};
#else
struct thread_struct {};
#endif

struct task_struct {
	unsigned int flags;
	struct sched_entity se;
	struct sched_info sched_info;
	struct mm_struct *mm;
	int exit_code;
	int on_cpu;
	unsigned int in_execve : 1;
	int pid;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	u64 utime;
	u64 stime;
	unsigned long nvcsw;
	unsigned long nivcsw;
	u64 start_boottime;
	unsigned long min_flt;
	unsigned long maj_flt;
	const struct cred *cred;
	char comm[16];
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	u64 parent_exec_id;
	u64 self_exec_id;
	struct task_io_accounting ioac;
	struct css_set *cgroups;
	struct list_head perf_event_list;
	struct thread_struct thread;
};

typedef struct {
	atomic_long_t a;
} local_t;

typedef struct {
	local_t a;
} local64_t;

struct hw_perf_event {
	local64_t prev_count;
};

struct perf_event_attr___k {
	u64 config;
};

enum perf_event_state___own {
	PERF_EVENT_STATE_ACTIVE___own = 1,
};

struct perf_event {
	enum perf_event_state___own state;
	struct perf_event_attr___k attr;
	struct hw_perf_event hw;
	local64_t count;
	int cpu;
	struct list_head owner_entry;
};

/* From 6.16 the exit tracepoint says whether the group is dead, and stands
 * before the address space is given up. */
struct trace_event_raw_sched_process_exit {
	char group_dead;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop

/* RSS counters by index: file, anonymous, swap (not resident), shared memory. */
#define PROF_MM_FILEPAGES 0
#define PROF_MM_ANONPAGES 1
#define PROF_MM_SHMEMPAGES 3

#define PROF_ENOENT 2
#define PROF_ENODEV 19
#define PROF_VM_EXEC 0x4
#define PROF_SIGNAL_GROUP_EXIT 0x00000004
#define PROF_PF_EXITING 0x00000004
#define PROF_PF_KTHREAD 0x00200000

#endif /* PROF_KERNEL_H */
