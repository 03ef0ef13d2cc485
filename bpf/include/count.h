/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counts that the kernel does not keep per task: perf events of each CPU, read
 * where an armed task begins or ceases to run, and the difference added to it.
 *
 * A switch between two tasks of which none is armed reads nothing. The counters
 * are read once where one armed task gives way to another, so no count is charged
 * to two tasks or to none. What is noted at the beginning of a slice is used only
 * if it was noted for the task that is now running.
 *
 *   fork    an entry for the new thread of an armed process
 *   window  counts begin, or are brought up to date: the base line of the image
 *   switch  the one that goes gets what was counted, the one that comes begins
 *   exit    brought up to date, added to the process, and the entry removed
 */
#ifndef PROF_COUNT_H
#define PROF_COUNT_H

static __always_inline bool counts(void)
{
	return config.counters != 0;
}

static __always_inline struct prof_thread_counts *thread_counts_of(u64 task)
{
	return bpf_map_lookup_elem(&thread_counts, &task);
}

static __always_inline struct prof_proc_counts *proc_counts_of(u32 tgid)
{
	return bpf_map_lookup_elem(&proc_counts, &tgid);
}

static __always_inline void add_count(struct prof_count *to, const struct prof_count *from)
{
	/* Threads of a process exit at the same time. */
	__sync_fetch_and_add(&to->value, from->value);
	__sync_fetch_and_add(&to->enabled, from->enabled);
	__sync_fetch_and_add(&to->running, from->running);
}

static __always_inline void sub_count(struct prof_count *from, const struct prof_count *less)
{
	from->value -= less->value;
	from->enabled -= less->enabled;
	from->running -= less->running;
}

/* Nothing can be counted from here on: less than any reading. */
#define PROF_NO_START (~0ULL)

/* What stands in memory of an event: as the kernel has it, in one go. */
struct prof_standing {
	s32 state;
	u32 attach_state;
	u64 count;
};

static __always_inline void read_standing(struct perf_event *event, struct prof_standing *s)
{
	u32 state = bpf_core_field_offset(struct perf_event, state);
	u32 count = bpf_core_field_offset(struct perf_event, count);

	if (count == state + 8) {
		bpf_probe_read_kernel(s, sizeof(*s), (void *)event + state);
		return;
	}
	s->state = READ(event, state);
	s->count = READ(event, count.a.a.counter);
}

/*
 * A counter of this CPU. One that the kernel itself raises stands in memory, up to the
 * last event, and runs as long as it is there; only for others the PMU has to be asked.
 * An event whose CPU has been away is dead, and stands still.
 */
static __always_inline long read_counter(u32 i, u32 cpu, u64 now, struct bpf_perf_event_value *v)
{
	u32 slot = i * config.counter_cpus + cpu;

	if (config.own_counters & (1u << i)) {
		struct prof_own_event *own = bpf_map_lookup_elem(&own_events, &slot);
		struct perf_event *event = own ? (void *)own->event : 0;

		if (event) {
			struct prof_standing s = {};

			read_standing(event, &s);
			if (s.state != PERF_EVENT_STATE_ACTIVE___own)
				return -PROF_ENODEV;
			v->counter = s.count;
			v->enabled = v->running = now - own->since_ns;
			return 0;
		}
	}
	return bpf_perf_event_read_value(&perf_events, slot, v, sizeof(*v));
}

/* Whether the reading is of the same event as the one before it: an event that was opened
 * anew, because its CPU has been away, begins again. One too many may have been expected
 * (`raised`). */
static __always_inline bool goes_on(const struct prof_count *start,
				    const struct bpf_perf_event_value *v)
{
	return v->enabled >= start->enabled && v->counter + 1 >= start->value;
}

/* The time of an event that lives does not stand still. */
static __always_inline bool stands_still(const struct prof_count *start,
					 const struct bpf_perf_event_value *v)
{
	return v->enabled == start->enabled && v->counter == start->value;
}

/* What was counted in this slice is not known. */
static __always_inline void lost_count(struct prof_cpu *c, struct prof_thread_counts *out)
{
	c->counters[PROF_C_COUNTER_FAILED]++;
	if (out) {
		barrier_var(out);
		out->missed++;
	}
}

/*
 * Reads the counters of this CPU. What was counted since they were last read goes to
 * `out`, if there is one; from here on it is `next`'s, a task's address or 0.
 */
static __always_inline void turn_counts(struct prof_cpu *c, struct prof_thread_counts *out, u64 next,
					u32 raised)
{
	u32 cpu = bpf_get_smp_processor_id();
	u64 now = bpf_ktime_get_ns();

	c->busy = 1;
	for (u32 i = 0; i < PROF_MAX_COUNTERS; i++) {
		struct bpf_perf_event_value v = {};
		struct prof_count *start, *to;
		long err;

		if (i >= config.counters)
			break;
		err = read_counter(i, cpu, now, &v);
		start = &c->start[i];
		if (err || stands_still(start, &v)) {
			/* An empty slot: the event does not exist on this CPU. */
			if (err != -PROF_ENOENT)
				lost_count(c, out);
			start->enabled = PROF_NO_START;
			continue;
		}
		if (out && !goes_on(start, &v)) {
			lost_count(c, out);
		} else if (out) {
			barrier_var(out);
			to = &out->c[i];
			to->value += v.counter - start->value;
			to->enabled += v.enabled - start->enabled;
			to->running += v.running - start->running;
		}
		/* This switch is of the task that goes, though it is raised only when
		 * the tracepoint is over. */
		if (raised & (1u << i)) {
			v.counter++;
			if (out)
				out->c[i].value++;
		}
		start->value = v.counter;
		start->enabled = v.enabled;
		start->running = v.running;
	}
	if (out)
		out->time_ns = now;
	c->counting = next;
	c->busy = 0;
}

/* The thread runs, is armed, and was not seen to come: what was counted since is nobody's.
 * Unless it was attached to while it ran: its counts begin now. */
static __always_inline void missed_slice(struct prof_cpu *c, struct task_struct *t,
					 struct prof_thread_counts *tc)
{
	struct prof_proc *p = tc->time_ns ? 0 : find_entry(t->tgid);

	if (p && t->start_boottime < p->attach_boot_ns)
		return;
	tc->missed++;
	c->counters[PROF_C_SLICE_MISSED]++;
}

/* Brings the counts of the running thread up to date, or begins them. A slice that is read
 * here, in an exit or in the next program, may have been missed as well as one that ends
 * in a switch; nobody waited for that of a thread whose entry is `fresh`. */
static __always_inline void update_counts(struct prof_cpu *c, struct task_struct *t,
					  struct prof_thread_counts *tc, bool fresh)
{
	bool seen = c->counting == (u64)t;

	if (!seen && !fresh)
		missed_slice(c, t, tc);
	turn_counts(c, seen ? tc : 0, (u64)t, 0);
}

/* The task begins to be counted where it next runs. */
static __always_inline bool add_thread_counts(struct prof_cpu *c, u64 task)
{
	if (!bpf_map_update_elem(&thread_counts, &task, &no_counts, BPF_ANY))
		return 1;
	c->counters[PROF_C_LOST_COUNTS]++;
	return 0;
}

static __always_inline bool add_proc_counts(struct prof_cpu *c, u32 tgid)
{
	if (!bpf_map_update_elem(&proc_counts, &tgid, &no_counts, BPF_ANY))
		return 1;
	c->counters[PROF_C_LOST_COUNTS]++;
	return 0;
}

/* Start of a window: the counts so far are the base line of the image to come. What they
 * lack, the image before lacks. */
static __always_inline void open_counts(struct task_struct *t, struct prof_cpu *c,
					struct prof_proc *p)
{
	struct prof_thread_counts *tc;
	struct prof_proc_counts *pc;
	u64 task = (u64)t;
	bool fresh = 0;

	tc = thread_counts_of(task);
	if (!tc && add_thread_counts(c, task)) {
		tc = thread_counts_of(task);
		fresh = 1;
	}
	pc = proc_counts_of(t->tgid);
	if (!pc && add_proc_counts(c, t->tgid))
		pc = proc_counts_of(t->tgid);
	if (!tc || !pc) {
		p->next_quality |= PROF_Q_COUNTS_PART;
		return;
	}
	barrier_var(tc);
	barrier_var(pc);
	update_counts(c, t, tc, fresh);
	if (tc->missed) {
		tc->missed = 0;
		p->quality |= PROF_Q_COUNTS_PART;
	}
	for (u32 i = 0; i < PROF_MAX_COUNTERS; i++) {
		if (i >= config.counters)
			break;
		pc->c[i].next = tc->c[i];
	}
}

/* The next image takes over. */
static __always_inline void begin_counts(u32 tgid)
{
	struct prof_proc_counts *pc = proc_counts_of(tgid);

	if (!pc)
		return;
	barrier_var(pc);
	for (u32 i = 0; i < PROF_MAX_COUNTERS; i++) {
		if (i >= config.counters)
			break;
		pc->c[i].base = pc->c[i].next;
		__builtin_memset(&pc->c[i].acc, 0, sizeof(pc->c[i].acc));
	}
}

/* The thread's counts are the process's from now on. */
static __always_inline void fold_counts(struct task_struct *t, struct prof_proc *p)
{
	struct prof_thread_counts *tc;
	struct prof_proc_counts *pc;
	u64 task = (u64)t;

	tc = thread_counts_of(task);
	pc = proc_counts_of(t->tgid);
	if (tc && pc) {
		barrier_var(tc);
		barrier_var(pc);
		for (u32 i = 0; i < PROF_MAX_COUNTERS; i++) {
			if (i >= config.counters)
				break;
			add_count(&pc->c[i].acc, &tc->c[i]);
		}
	}
	if (!tc)
		return;
	if (tc->missed)
		p->quality |= PROF_Q_COUNTS_PART;
	bpf_map_delete_elem(&thread_counts, &task);
}

/* No image of the process is armed any more. */
static __always_inline void drop_counts(struct task_struct *t, struct prof_cpu *c)
{
	u64 task = (u64)t;
	u32 tgid = t->tgid;

	if (c->counting == task)
		c->counting = 0;
	bpf_map_delete_elem(&thread_counts, &task);
	bpf_map_delete_elem(&proc_counts, &tgid);
}

static __always_inline void clear_counts(struct prof_count *to)
{
	for (u32 i = 0; i < PROF_MAX_COUNTERS; i++) {
		if (i >= config.counters)
			break;
		__builtin_memset(&to[i], 0, sizeof(to[i]));
	}
}

/* Counts of the window that ends, at `to`: of the threads that have exited, and, at an
 * exec, of the one that goes on. */
static __always_inline void copy_counts(u32 tgid, bool exec, struct prof_count *to)
{
	struct prof_proc_counts *pc = proc_counts_of(tgid);

	if (!pc) {
		clear_counts(to);
		return;
	}
	/* Or the compiler takes addresses in it before the check. */
	barrier_var(pc);
	for (u32 i = 0; i < PROF_MAX_COUNTERS; i++) {
		if (i >= config.counters)
			break;
		to[i] = pc->c[i].acc;
		if (exec) {
			to[i].value += pc->c[i].next.value;
			to[i].enabled += pc->c[i].next.enabled;
			to[i].running += pc->c[i].next.running;
		}
		sub_count(&to[i], &pc->c[i].base);
	}
}

static __always_inline void copy_thread_counts(struct task_struct *t, struct prof_count *to)
{
	struct prof_thread_counts *tc = thread_counts_of((u64)t);
	struct prof_proc_counts *pc = proc_counts_of(t->tgid);

	if (!tc || !pc) {
		clear_counts(to);
		return;
	}
	barrier_var(tc);
	barrier_var(pc);
	for (u32 i = 0; i < PROF_MAX_COUNTERS; i++) {
		if (i >= config.counters)
			break;
		to[i] = tc->c[i];
		/* The thread that executed the program had a life before. */
		if (t->pid == t->tgid)
			sub_count(&to[i], &pc->c[i].base);
	}
}

static __always_inline u64 perf_cgroup_of(struct task_struct *t)
{
	u32 at = bpf_core_field_offset(struct css_set, subsys) +
		 bpf_core_enum_value(enum cgroup_subsys_id, perf_event_cgrp_id) * 8;
	u64 css = 0;

	bpf_probe_read_kernel(&css, sizeof(css), (void *)READ(t, cgroups) + at);
	return css;
}

/* Counters that this switch raises, but only when the tracepoint is over. */
static __always_inline u32 to_be_raised(struct task_struct *prev, struct task_struct *next)
{
	u32 raised = config.switch_counters;

	if (config.cgroup_counters &&
	    bpf_core_enum_value_exists(enum cgroup_subsys_id, perf_event_cgrp_id) &&
	    perf_cgroup_of(prev) != perf_cgroup_of(next))
		raised |= config.cgroup_counters;
	return raised;
}

static __always_inline int on_switch(u64 next)
{
	struct task_struct *prev = bpf_get_current_task_btf();
	struct prof_thread_counts *out = 0, *missed;
	struct prof_cpu *c = this_cpu();
	bool armed;

	if (!c)
		return 0;
	armed = *(volatile u32 *)occupied_at(READ((struct task_struct *)next, tgid));
	if (armed)
		armed = !!thread_counts_of(next);
	if (c->counting == (u64)prev) {
		out = thread_counts_of((u64)prev);
	} else if (*(volatile u32 *)occupied_at(prev->tgid)) {
		missed = thread_counts_of((u64)prev);
		if (missed && !(prev->flags & PROF_PF_EXITING))
			missed_slice(c, prev, missed);
	}
	if (out || armed)
		turn_counts(c, out, armed ? next : 0, to_be_raised(prev, (void *)next));
	else
		c->counting = 0;
	return 0;
}

#endif /* PROF_COUNT_H */
