/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps and globals, each with who writes, who reads, and why that size. */
#ifndef PROF_MAPS_H
#define PROF_MAPS_H

/* Written by user space before load, constant after: the verifier sees the
 * values and drops the code of every rule dimension that is not in use. */
const volatile struct prof_config config = {};

/* Thread groups that are armed or followed, by tgid. Written by the hooks and,
 * for attach and tree roots, by user space. Not preallocated: start-up must not
 * pay for entries that a short run never has. No larger than asked for: the
 * buckets, one for each entry, should stay in the caches near the CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct prof_proc);
} procs SEC(".maps");

/* Base lines of the threads that were alive at an attach, by the address of the
 * task: an exec changes the id of a thread that is not the leader. Written by the
 * iterator, read and removed by the exit hook, or by the exec that ends the image. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, struct prof_figures);
} thread_base SEC(".maps");

/* Rule values. Written by user space before attach, read at exec. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct prof_num_key);
	__type(value, struct prof_match);
} match_num SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct prof_str_key);
	__type(value, struct prof_match);
} match_str SEC(".maps");

/* Records for user space; the size is set before load. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} records SEC(".maps");

/* Hooks run with preemption off and do not nest on one CPU; the iterator can be
 * interrupted by any of them. */
enum prof_user {
	PROF_USER_HOOKS = 0,
	PROF_USER_ITER = 1,
	PROF_NR_USERS = 2,
};

/* What each CPU keeps between hooks, in one place so that a hook finds it with one
 * look-up. Written by the hooks; user space sums the counters. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROF_NR_USERS);
	__type(key, u32);
	__type(value, struct prof_cpu);
} cpu_state SEC(".maps");

/* Perf events to attribute: counter * counter_cpus + CPU. Filled by user space, which
 * also sets the size; a CPU on which an event does not exist has an empty slot. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
	__uint(max_entries, 1);
} perf_events SEC(".maps");

/* Of those that the kernel itself raises, where the count stands: it can be read without
 * asking for it. Same places; filled by prof_find_event. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct prof_own_event);
} own_events SEC(".maps");

/* Counts of armed threads, by the address of the task; of armed processes, by tgid.
 * Written by the hooks. User space cuts the values to the counters in use. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, struct prof_thread_counts);
} thread_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct prof_proc_counts);
} proc_counts SEC(".maps");

/* What a new entry of either holds: nothing writes here. */
struct prof_proc_counts no_counts SEC(".bss.no_counts");

/* One cpu-clock event per CPU: the only way to read the scheduler's clock now
 * from a program. Filled by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
	__uint(max_entries, PROF_MAX_CPUS);
} cpu_clock SEC(".maps");

struct prof_globals globals;

/*
 * How many entries of `procs` share the low bits of a tgid: where it is 0 there is
 * none, which is known without a look-up. Neighbours in a storm are neighbours
 * here, while the buckets of a hash are spread over more memory than the caches
 * near the CPU hold. Written by the hooks, and by user space before it puts an
 * entry in.
 */
u32 occupied[PROF_OCCUPIED] SEC(".bss.occupied");

/* Where the path is built, from the back, and the record in front of it. */
#define PROF_PATH_BUF (PROF_MAX_PATH + 256)
struct prof_scratch {
	char path[PROF_PATH_BUF];
	/* Where the path begins so far. Here and not on the stack, where the
	 * verifier would follow each of its values. */
	u32 path_at;
	u32 pad;
	struct prof_proc proc;
	union {
		struct prof_str_key key;
		struct {
			struct prof_rec_enable enable;
			char tail[PROF_MAX_PATH + PROF_MAX_ARGS + 256];
		};
		struct prof_live live;
	};
};

/* Too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROF_NR_USERS);
	__type(key, u32);
	__type(value, struct prof_scratch);
} scratch SEC(".maps");

/* kprobe only: execs under way, by task address (the tid may change in exec). */
struct prof_attempt {
	u64 time_ns;
	u64 self_exec_id;
	u64 quality;
	struct prof_figures figures;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct prof_attempt);
} attempts SEC(".maps");

/* -- what goes with them -- */

static __always_inline struct prof_cpu *cpu_state_of(u32 user)
{
	return bpf_map_lookup_elem(&cpu_state, &user);
}

static __always_inline struct prof_cpu *this_cpu(void)
{
	return cpu_state_of(PROF_USER_HOOKS);
}

static __always_inline struct prof_scratch *scratch_of(u32 user)
{
	return bpf_map_lookup_elem(&scratch, &user);
}

static __always_inline struct prof_scratch *get_scratch(void)
{
	return scratch_of(PROF_USER_HOOKS);
}

static __always_inline u32 *occupied_at(u32 tgid)
{
	return &occupied[tgid & (PROF_OCCUPIED - 1)];
}

/* Entries come and go through these three alone. */
static __always_inline struct prof_proc *find_entry(u32 tgid)
{
	if (!*(volatile u32 *)occupied_at(tgid))
		return 0;
	return bpf_map_lookup_elem(&procs, &tgid);
}

static __always_inline long put_entry(u32 tgid, struct prof_proc *p)
{
	long err;

	__sync_fetch_and_add(occupied_at(tgid), 1);
	err = bpf_map_update_elem(&procs, &tgid, p, BPF_ANY);
	if (err)
		__sync_fetch_and_add(occupied_at(tgid), -1);
	return err;
}

static __always_inline void drop_entry(u32 tgid)
{
	if (!bpf_map_delete_elem(&procs, &tgid))
		__sync_fetch_and_add(occupied_at(tgid), -1);
}

#endif /* PROF_MAPS_H */
