/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Regions: what a thread used between two probes of its own program.
 *
 * These programs are uprobes. They run in the thread that reached the probe, on one
 * CPU, but unlike the hooks they can be preempted: between any two instructions the
 * CPU may have run other threads, with their hooks and their probes. So they
 *
 *   - keep what they need by thread and depth, where nobody else writes;
 *   - write nothing that the hooks keep. Counts as of now are computed from what the
 *     hooks noted, without a new beginning of the slice, and read again if a hook came
 *     in between: it changes the time of the thread's counts, always, since it is the
 *     thread's own switch, or an interrupt to refresh them;
 *   - add to what threads share with atomic operations.
 *
 * The other way, to keep from being preempted (bpf_preempt_disable), is there from 6.10
 * on only, and would need no less care: an interrupt may refresh the counts.
 *
 * The depth is kept, too, while nothing is measured (a pause), so that an end always
 * ends what began last. Each level knows its window: of one that has ended meanwhile,
 * by exec or a pause, the region has no figures.
 */
#ifndef PROF_REGION_H
#define PROF_REGION_H

struct prof_region_thread {
	u64 start_ns; /* of the thread: the address of a task is used again */
	u64 exec;
	u32 depth;
	u32 deepest;
};

/* Threads that ever began a region, by the address of the task. Written by the thread;
 * removed by its exit. For as many as there may be threads of profiled processes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, struct prof_region_thread);
} region_threads SEC(".maps");

struct prof_region_level {
	u64 task;
	u64 depth;
};

struct prof_region_open {
	struct prof_region_key key; /* window_ns 0: it is not measured */
	u64 begin_ns;
	u64 quality; /* of what was read */
	struct prof_figures begin;
	struct {
		struct prof_count begin;
		struct prof_count now;
	} c[PROF_MAX_COUNTERS];
};

/* The regions that a thread is in; and a place to compute. They stay for the next at
 * that depth, so that a pair of probes does not allocate. Written by the thread, removed
 * by its exit. User space cuts the values to the counters in use. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct prof_region_level);
	__type(value, struct prof_region_open);
} region_open SEC(".maps");

/* Figures by name. Written by all threads of the process, read and removed by user
 * space at the end of the window. Size and cut as above. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct prof_region_key);
	__type(value, struct prof_region_sum);
} region_sums SEC(".maps");

/* How many names there are by process, so that one cannot take the room of all.
 * Written by the threads, removed with the sums. */
struct prof_region_names {
	u64 window_ns;
	u64 pid;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct prof_region_names);
	__type(value, u64);
} region_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct prof_region_cpu);
} region_cpu SEC(".maps");

/* Readings until one is of one moment: what comes twice within a microsecond comes from
 * a CPU that does nothing else. The verifier follows each of them. */
#define PROF_REGION_TRIES 2

static __always_inline struct prof_region_cpu *region_cpu_state(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&region_cpu, &zero);
}

static __always_inline void region_count(u32 counter)
{
	struct prof_region_cpu *c = region_cpu_state();

	if (c)
		__sync_fetch_and_add(&c->counters[counter], 1);
}

/* The entry of the running process; none if it is not looked at, or is still somebody
 * else's: the hooks drop it. */
static __always_inline struct prof_proc *region_proc(struct task_struct *t)
{
	struct prof_proc *p = find_entry(t->tgid);

	return p && p->id.start_ns == process_start(t) ? p : 0;
}

/*
 * The scheduler's clock at `mono`, which is now, as sched_clock_at(); but what is kept is
 * one word, the distance of the two clocks, so that nobody sees half of it. A reading
 * that took long was interrupted.
 */
static __always_inline u64 region_sched_clock(u64 mono)
{
	struct prof_region_cpu *c = region_cpu_state();
	u32 cpu = bpf_get_smp_processor_id();
	struct bpf_perf_event_value v = {};
	u64 before, sched, after;
	struct perf_event *event;

	if (!c)
		return 0;
	if (mono - *(volatile u64 *)&c->clock_mono < PROF_CLOCK_SERVES_NS)
		return mono + *(volatile u64 *)&c->clock_ahead;
	if (!config.exact_clock || cpu >= PROF_MAX_CPUS)
		return 0;
	event = (void *)globals.clock_event[cpu];
	if (!event)
		return 0;
	before = bpf_ktime_get_ns();
	if (bpf_perf_event_read_value(&cpu_clock, BPF_F_CURRENT_CPU, &v, sizeof(v)))
		return 0;
	sched = READ(event, hw.prev_count.a.a.counter);
	after = bpf_ktime_get_ns();
	if (after - before > 3000)
		return 0;
	*(volatile u64 *)&c->clock_ahead = sched - after;
	*(volatile u64 *)&c->clock_mono = after;
	return mono + (sched - after);
}

/*
 * Functions that are not inlined, here and in switch.h, are so for the verifier: what
 * their ways have left behind is gone when they return, and each is followed once from
 * there and not once for each of them. What is not right about a reading is noted in
 * the level, which the verifier does not follow either.
 */

/* Runtime of the running thread up to now: as unaccounted(), and again if it was
 * brought up to date meanwhile. */
static __noinline u64 region_task_clock(struct task_struct *t, struct prof_region_open *o)
{
	struct rq *rq = READ(t, se.cfs_rq, rq);
	u64 sum = 0;

	for (int i = 0; i < PROF_REGION_TRIES; i++) {
		u64 clock, ran, now;

		sum = t->se.sum_exec_runtime;
		barrier();
		clock = READ(rq, clock);
		ran = READ(rq, clock_task) - t->se.exec_start;
		now = region_sched_clock(bpf_ktime_get_ns());
		barrier();
		if (t->se.sum_exec_runtime != sum || READ(rq, clock) != clock || !now)
			continue;
		if (now + PROF_CLOCK_SERVES_NS < clock || (s64)(now - clock) > 10000000000LL)
			break;
		if ((s64)ran < 0)
			ran = 0;
		return sum + ran + (now > clock ? now - clock : 0);
	}
	o->quality |= PROF_Q_CLOCK_STALE;
	return sum;
}

/* Brings `begin`, or `now`, of the counts to what the thread has used so far. */
static __always_inline bool region_counts_now(struct prof_cpu *c, struct prof_thread_counts *tc,
					      struct prof_region_open *o, u64 task, bool end)
{
	u32 cpu = bpf_get_smp_processor_id();
	bool counting = *(volatile u64 *)&c->counting == task;
	u64 as_of = *(volatile u64 *)&tc->time_ns, now = bpf_ktime_get_ns();

	for (u32 i = 0; i < PROF_MAX_COUNTERS; i++) {
		struct bpf_perf_event_value v = {};
		struct prof_count *start, *to;

		if (i >= config.counters)
			break;
		/* Here, or the compiler keeps a copy from before the check. */
		barrier_var(tc);
		barrier_var(o);
		start = &c->start[i];
		to = end ? &o->c[i].now : &o->c[i].begin;
		*to = tc->c[i];
		if (!counting || read_counter(i, cpu, now, &v))
			continue;
		/* Opened anew, its CPU has been away. */
		if (!goes_on(start, &v))
			continue;
		to->value += v.counter - start->value;
		to->enabled += v.enabled - start->enabled;
		to->running += v.running - start->running;
	}
	barrier();
	return *(volatile u64 *)&tc->time_ns == as_of &&
	       (*(volatile u64 *)&c->counting == task) == counting && counting;
}

static __noinline int region_counts(struct prof_region_open *o, u64 task, bool end)
{
	struct prof_thread_counts *tc = thread_counts_of(task);
	struct prof_cpu *c = this_cpu();

	if (tc && c)
		for (int i = 0; i < PROF_REGION_TRIES; i++)
			if (region_counts_now(c, tc, o, task, end))
				return 0;
	o->quality |= PROF_Q_COUNTS_PART;
	return 0;
}

/* Raises *at to `to`, if it is less. Others may do so at the same time: then again. */
static __always_inline void region_raise(u64 *at, u64 to)
{
	for (int i = 0; i < 8; i++) {
		u64 old = *(volatile u64 *)at;

		if (old >= to || __sync_val_compare_and_swap(at, old, to) == old)
			return;
	}
}

/* A region ends: what the thread has used since it began is its name's. */
static __noinline int close_region(struct task_struct *t, struct prof_region_open *o)
{
	u64 wall = bpf_ktime_get_ns() - o->begin_ns;
	struct prof_region_sum *sum;
	struct prof_figures f;

	read_figures(t, &f);
	f.task_clock = region_task_clock(t, o);
	o->quality |= figures_since(&f, &o->begin);
	if (counts())
		region_counts(o, (u64)t, 1);
	sum = bpf_map_lookup_elem(&region_sums, &o->key);
	/* Its window has ended, and was read. */
	if (!sum)
		return 0;
	add_figures(&sum->figures, &f, 0);
	if (counts() && !(o->quality & PROF_Q_COUNTS_PART)) {
		for (u32 i = 0; i < PROF_MAX_COUNTERS; i++) {
			if (i >= config.counters)
				break;
			barrier_var(o);
			barrier_var(sum);
			sub_count(&o->c[i].now, &o->c[i].begin);
			add_count(&sum->c[i], &o->c[i].now);
		}
	}
	if (o->quality)
		__sync_fetch_and_or(&sum->quality, o->quality);
	__sync_fetch_and_add(&sum->wall_ns, wall);
	region_raise(&sum->longest_ns, wall);
	region_raise(&sum->shortest_not_ns, ~wall);
	/* The last: who sees as many ended as begun has all of it. */
	__sync_fetch_and_add(&sum->ended, 1);
	return 0;
}

/* User space is told of a name when it comes first. */
static __always_inline void emit_region(struct prof_proc *p, const struct prof_region_key *key)
{
	struct prof_rec_region r;

	r.key = *key;
	r.start_ns = p->id.start_ns;
	r.exec = p->id.exec;
	r.pad = 0;
	fill_head(&r.head, PROF_REC_REGION, sizeof(r), bpf_ktime_get_ns(), PROF_HOOK_PROBE, 0, 0);
	bpf_ringbuf_output(&records, &r, sizeof(r), BPF_RB_NO_WAKEUP);
}

/* The sum of a name, made if it is the first; 0 if there is no room. */
static __always_inline struct prof_region_sum *region_sum(struct prof_proc *p,
							  const struct prof_region_key *key)
{
	struct prof_region_sum *sum = bpf_map_lookup_elem(&region_sums, key);
	struct prof_region_names of = { .window_ns = key->window_ns, .pid = key->pid };
	u64 none = 0, *names;

	if (sum)
		return sum;
	names = bpf_map_lookup_elem(&region_names, &of);
	if (!names) {
		bpf_map_update_elem(&region_names, &of, &none, BPF_NOEXIST);
		names = bpf_map_lookup_elem(&region_names, &of);
	}
	if (!names || __sync_fetch_and_add(names, 1) >= PROF_REGION_NAMES)
		return 0;
	/* Of two threads that come first at once, one tells. */
	if (!bpf_map_update_elem(&region_sums, key, &no_counts, BPF_NOEXIST))
		emit_region(p, key);
	return bpf_map_lookup_elem(&region_sums, key);
}

/* The running thread's entry, as of the image that it runs. */
static __always_inline struct prof_region_thread *region_thread(struct task_struct *t, bool make)
{
	struct prof_region_thread *th, fresh = {
		.start_ns = t->start_boottime,
		.exec = t->self_exec_id,
	};
	u64 task = (u64)t;

	th = bpf_map_lookup_elem(&region_threads, &task);
	if (!th) {
		if (!make || bpf_map_update_elem(&region_threads, &task, &fresh, BPF_NOEXIST))
			return 0;
		return bpf_map_lookup_elem(&region_threads, &task);
	}
	if (th->start_ns != fresh.start_ns || th->exec != fresh.exec) {
		th->start_ns = fresh.start_ns;
		th->exec = fresh.exec;
		th->depth = 0;
	}
	return th;
}

static __always_inline struct prof_region_open *region_level(struct task_struct *t, u32 depth, bool make)
{
	struct prof_region_level at = { .task = (u64)t, .depth = depth };
	struct prof_region_open *o = bpf_map_lookup_elem(&region_open, &at);

	if (o || !make || bpf_map_update_elem(&region_open, &at, &no_counts, BPF_NOEXIST))
		return o;
	return bpf_map_lookup_elem(&region_open, &at);
}

static __always_inline bool region_key(struct prof_region_key *key, const char *name, u64 len)
{
	if (len > PROF_REGION_NAME)
		len = PROF_REGION_NAME;
	barrier_var(len);
	len &= PROF_REGION_NAME;
	key->len = len;
	__builtin_memset(key->name, 0, sizeof(key->name));
	return !bpf_probe_read_user(key->name, len, name);
}

static __noinline int on_region_begin(const char *name, u64 len)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct prof_proc *p = region_proc(t);
	struct prof_region_thread *th;
	struct prof_region_open *o;
	struct prof_region_sum *sum;
	u32 depth;

	if (!p)
		return 0;
	th = region_thread(t, 1);
	if (!th) {
		region_count(PROF_R_MAP_FULL);
		return 0;
	}
	depth = th->depth++;
	if (depth >= PROF_REGION_DEPTH) {
		if (p->state & PROF_S_ARMED)
			region_count(PROF_R_TOO_DEEP);
		return 0;
	}
	o = region_level(t, depth, 1);
	if (!o) {
		region_count(PROF_R_MAP_FULL);
		return 0;
	}
	if (th->deepest <= depth)
		th->deepest = depth + 1;
	o->key.window_ns = 0;
	if (!(p->state & PROF_S_ARMED))
		return 0;
	if (!region_key(&o->key, name, len)) {
		region_count(PROF_R_NO_NAME);
		return 0;
	}
	o->key.pid = t->tgid;
	o->key.window_ns = p->t0;
	sum = region_sum(p, &o->key);
	if (!sum) {
		o->key.window_ns = 0;
		region_count(PROF_R_MAP_FULL);
		return 0;
	}
	__sync_fetch_and_add(&sum->begun, 1);
	/* The last, so that as little of this as can be is in the region. */
	o->quality = 0;
	if (counts())
		region_counts(o, (u64)t, 0);
	read_figures(t, &o->begin);
	o->begin.task_clock = region_task_clock(t, o);
	o->begin_ns = bpf_ktime_get_ns();
	return 0;
}

static __noinline int on_region_end(void)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct prof_proc *p = region_proc(t);
	struct prof_region_thread *th;
	struct prof_region_open *o;

	if (!p)
		return 0;
	th = region_thread(t, 0);
	if (!th || !th->depth) {
		if (p->state & PROF_S_ARMED)
			region_count(PROF_R_NOT_BEGUN);
		return 0;
	}
	th->depth--;
	if (th->depth >= PROF_REGION_DEPTH)
		return 0;
	o = region_level(t, th->depth, 0);
	if (o && o->key.window_ns && o->key.window_ns == p->t0 && (p->state & PROF_S_ARMED))
		close_region(t, o);
	return 0;
}

/* One level of a thread that exits; true behind the last. */
static __always_inline bool leave_level(struct task_struct *t, struct prof_region_thread *th, u32 depth)
{
	struct prof_region_level at = { .task = (u64)t, .depth = depth };
	struct prof_region_open *o;

	if (depth >= th->deepest && depth != PROF_REGION_DEPTH)
		return depth > PROF_REGION_DEPTH;
	o = bpf_map_lookup_elem(&region_open, &at);
	if (!o)
		return 0;
	if (depth < th->depth && o->key.window_ns)
		close_region(t, o);
	bpf_map_delete_elem(&region_open, &at);
	return 0;
}

/* A thread exits: the regions that it is in end here. */
static __always_inline int on_region_exit(void)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct prof_region_thread *th = region_thread(t, 0);
	u64 task = (u64)t;

	if (!th)
		return 0;
	/* The last is that of a switch. */
	PROF_REPEAT(i, PROF_REGION_DEPTH + 1, PROF_REGION_DEPTH + 1, leave_level(t, th, i));
	bpf_map_delete_elem(&region_threads, &task);
	return 0;
}

#endif /* PROF_REGION_H */
