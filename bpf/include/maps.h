/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps and globals, each with who writes, who reads, and why that size. */
#ifndef PROF_MAPS_H
#define PROF_MAPS_H

/* Written by user space before load, constant after: the verifier sees the
 * values and drops the code of every rule dimension that is not in use. */
const volatile struct prof_config config = {};

/* Thread groups that are armed or followed, by tgid. Written by the hooks and,
 * for attach and tree roots, by user space. Not preallocated: start-up must not
 * pay for 65,536 entries that a short run never has. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, u32);
	__type(value, struct prof_proc);
} procs SEC(".maps");

/* Base lines of the threads that were alive at an attach, by task id. Written
 * by the iterator, read and removed by the exit hook. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, u32);
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

/* Counters of enum prof_counter; user space sums over the CPUs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROF_NR_COUNTERS);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

/* One cpu-clock event per CPU: the only way to read the scheduler's clock now
 * from a program. Filled by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
	__uint(max_entries, PROF_MAX_CPUS);
} cpu_clock SEC(".maps");

struct prof_globals globals;

/* Where the path is built, from the back, and the record in front of it. */
#define PROF_PATH_BUF (PROF_MAX_PATH + 256)
struct prof_scratch {
	char path[PROF_PATH_BUF];
	/* Where the path begins so far. Here and not on the stack, where the
	 * verifier would follow each of its values. */
	u32 path_at;
	u32 pad;
	union {
		struct prof_proc proc;
		struct prof_str_key key;
		struct {
			struct prof_rec_enable enable;
			char tail[PROF_MAX_PATH + PROF_MAX_ARGS + 256];
		};
		struct prof_rec_disable disable;
		struct prof_rec_thread thread;
		struct prof_live live;
	};
};

/* Too large for the stack; the hooks do not nest on one CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
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

static __always_inline void count(u32 which)
{
	u64 *c = bpf_map_lookup_elem(&counters, &which);

	if (c)
		*c += 1;
}

static __always_inline struct prof_scratch *get_scratch(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

#endif /* PROF_MAPS_H */
