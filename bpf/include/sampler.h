/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a sampler works on, one for each CPU and for each of those that may interrupt
 * one another, and the rings that they write.
 */
#ifndef PROF_SAMPLER_H
#define PROF_SAMPLER_H

/* The way down the tree of a process's mappings. */
#define PROF_MAPLE_DEPTH 8
#define PROF_MAPLE_WORDS 32
struct prof_walk_maple {
	u32 level;
	u32 walked;
	struct {
		u64 max; /* last address under it */
		u32 leaf;
		u32 slot; /* to be looked at next */
		u32 slots;
		u32 pivots_at; /* words */
		u32 slots_at;
		u32 pad;
	} at[PROF_MAPLE_DEPTH];
	u64 copy[PROF_MAPLE_DEPTH][PROF_MAPLE_WORDS];
};

/* What the sampler of a CPU works on. */
struct prof_sampler {
	u64 counters[PROF_NR_SAMPLE_COUNTERS];
	u32 busy;
	/* Place of a search, its end, and what was decided: kept here so that the verifier
	 * does not follow each combination of them to the end. */
	u32 at;
	u32 end;
	u32 in_user; /* the event struck user code */
	u32 scan_needed;
	u32 step; /* what the last round of a loop came to; 0: go on */
	u32 frames; /* of `data`, so far */
	u32 others; /* x86: registers that no frame so far has saved are what they were */
	/* x86: where the rbx of the frame at hand is stored; 0 if it still is what it was when
	 * the sample was taken, rec.lr. It is read when a rule needs it. */
	u64 bx_at;
	u32 spare_file; /* a number that was taken for a file and not used */
	u32 user; /* enum prof_sampler_user: whose this is */
	struct prof_file_key key;
	struct prof_file file;
	/* Of the caller of the frame at hand. */
	struct {
		u64 ip;
		u64 sp;
		u64 fp;
		u64 lr;
	} up;
	struct prof_walk_maple maple;
	struct vm_area_struct *vma[PROF_MAX_VMAS]; /* of which file is being looked up */
	struct prof_space scan; /* what is mapped in the process that is sampled */
	struct prof_rec_sample rec;
	u64 data[PROF_SAMPLE_DATA];
};

#define AT(s) (*(volatile u32 *)&(s)->at)
#define END(s) (*(volatile u32 *)&(s)->end)
#define IN_USER(s) (*(volatile u32 *)&(s)->in_user)
#define STEP(s) (*(volatile u32 *)&(s)->step)
#define SCAN_NEEDED(s) (*(volatile u32 *)&(s)->scan_needed)

/* Events interrupt hooks, so each has what it works on; user space cuts it to those that
 * there are. Known when a program is built. */
enum prof_sampler_user {
	PROF_SAMPLER_EVENTS = 0,
	PROF_SAMPLER_OFF_CPU = 1,
	/* An event that interrupts another. */
	PROF_SAMPLER_NESTED = 2,
	PROF_NR_SAMPLERS = 3,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROF_NR_SAMPLERS);
	__type(key, u32);
	__type(value, struct prof_sampler);
} samplers SEC(".maps");

/* Files with a Python interpreter in them, by number. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PROF_MAX_PYTHONS);
	__type(key, u32);
	__type(value, struct prof_python);
} interpreters SEC(".maps");

static __always_inline struct prof_sampler *sampler_of(u32 user)
{
	struct prof_sampler *s = bpf_map_lookup_elem(&samplers, &user);

	if (s)
		s->user = user;
	return s;
}

/* Apart from `records`: one ring must not be written from an interrupt and from what
 * it interrupts. The size is set before load. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 * 1024 * 1024);
} samples SEC(".maps");

/* What hooks write: not from interrupts that cannot be masked, as `samples` is. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 * 1024 * 1024);
} off_samples SEC(".maps");

/*
 * A loop whose rounds are many: `round` with its number and `with`, until it is true, up
 * to `n` times. From 6.4 on with an iterator; before, by a helper that calls the round
 * (5.17), which the verifier walks once.
 */
struct prof_round {
	struct prof_sampler *s;
	/* As wide as a register: else 6.1 forgets that one is a constant. */
	u64 vdso;
	u64 pid;
	u64 user;
};

#ifdef PROF_BEFORE_6_4
#define PROF_ROUND static __noinline long
#define PROF_ROUNDS(n, round, with) bpf_loop(n, round, with, 0)
#else
#define PROF_ROUND static __always_inline long
#define PROF_ROUNDS(n, round, with)              \
	({                                       \
		int i;                           \
		bpf_for(i, 0, n)                 \
			if (round(i, with))      \
				break;           \
	})
#endif

#endif /* PROF_SAMPLER_H */
