/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Time off the CPU: why a thread left its CPU and where, until when it was blocked and
 * who ended that, and when it ran again. Of armed processes; for a switch between two
 * others it is a read of `occupied` for each, for who wakes another one read.
 *
 *   away    PROF_REC_OFF: why, and the stack, which can be had only now: at the switch
 *           back the stack at hand is that of whom the thread takes over from
 *   waking  PROF_REC_WAKER: who wakes it, with his stack
 *   back    PROF_REC_ON: it is over
 *
 * Stacks go to user space at once, and not into a map until the thread is back: no room
 * is needed for each thread, what meets a new file can take its piece of the stack along,
 * and who never comes back is told all the same.
 *
 * All of it runs with interrupts masked, under locks of the scheduler.
 */
#ifndef PROF_OFFCPU_H
#define PROF_OFFCPU_H

/* Bits of a task's state. */
#define PROF_TASK_INTERRUPTIBLE 0x1
#define PROF_TASK_UNINTERRUPTIBLE 0x2
#define PROF_TASK_DEAD 0x80

/* Threads that have left a CPU at least once, by the address of the task. Written here;
 * removed when the thread has exited. User space reads who is still away at the end. For
 * as many as there may be threads of profiled processes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, struct prof_off_thread);
} off_threads SEC(".maps");

/* As `tails`, of hooks. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} off_tails SEC(".maps");

static __always_inline void write_off_record(struct prof_sampler *s, u32 kind, u64 now)
{
	u32 size;

	/* Threads switch faster than tables are made: pieces of their stacks may not take the
	 * room of what is to come. */
	if (s->rec.stop == PROF_STOP_PENDING &&
	    bpf_ringbuf_query(&off_samples, BPF_RB_AVAIL_DATA) > config.samples_wakeup)
		s->rec.stop = PROF_STOP_NO_TABLE;
	size = end_record(s, kind, now);
	if (bpf_ringbuf_output(&off_samples, &s->rec, size, ring_wakeup(s, &off_samples)))
		s->counters[PROF_SC_LOST_RING]++;
}

/* The last that a hook does: it may go on elsewhere. */
static __always_inline void finish_off_record(void *ctx, struct prof_sampler *s, u32 kind, u64 now)
{
	s->rec.head.kind = kind;
	s->rec.head.time_ns = now;
	if (has_python(s))
		bpf_tail_call(ctx, &off_tails, 0);
	write_off_record(s, kind, now);
}

static __always_inline u32 off_state(bool preempted, u32 state)
{
	if (preempted || !state)
		return PROF_OFF_RUNNABLE;
	if (state & PROF_TASK_INTERRUPTIBLE)
		return PROF_OFF_SLEEP;
	if (state & PROF_TASK_UNINTERRUPTIBLE)
		return PROF_OFF_UNINTERRUPTIBLE;
	return PROF_OFF_STOPPED;
}

/* The running task leaves its CPU. */
static __always_inline void go_away(void *ctx, struct task_struct *t, bool preempted, u32 state, u64 now)
{
	u64 key = (u64)t, start = process_start(t);
	struct prof_off_thread *o, fresh = {};
	struct prof_proc *p = armed_entry(t, start);
	struct prof_sampler *s;

	if (!p)
		return;
	if (!preempted && (state & PROF_TASK_DEAD)) {
		bpf_map_delete_elem(&off_threads, &key);
		return;
	}
	s = sampler_of(PROF_SAMPLER_OFF_CPU);
	if (!s)
		return;
	s->counters[PROF_SC_TAKEN]++;
	o = bpf_map_lookup_elem(&off_threads, &key);
	if (o && o->tid == t->pid) {
		/* It was not seen to come back. */
		if (o->off_ns)
			s->counters[PROF_SC_MISSED_SWITCH]++;
		o->state = off_state(preempted, state);
		o->off_ns = now;
	} else {
		fresh.off_ns = now;
		fresh.pid = t->tgid;
		fresh.tid = t->pid;
		fresh.state = off_state(preempted, state);
		if (bpf_map_update_elem(&off_threads, &key, &fresh, BPF_ANY)) {
			s->counters[PROF_SC_LOST_THREAD]++;
			return;
		}
	}
	begin_record(s, t, start, config.off_cpu_event);
	s->rec.weight = 0;
	s->rec.off_state = off_state(preempted, state);
	if (config.stacks & PROF_STACKS_KERNEL)
		take_kernel(ctx, s);
	if (config.stacks & PROF_STACKS_USER)
		take_user(ctx, 0, t, p, s, now, PROF_SAMPLER_OFF_CPU);
	finish_off_record(ctx, s, PROF_REC_OFF, now);
}

/* A thread is about to run. */
static __always_inline void come_back(struct task_struct *t, u64 now)
{
	struct prof_off_thread *o;
	struct prof_rec_on r = {};
	struct prof_sampler *s;
	struct prof_proc *p;
	u64 key = (u64)t;
	bool armed;

	o = bpf_map_lookup_elem(&off_threads, &key);
	if (!o)
		return;
	s = sampler_of(PROF_SAMPLER_OFF_CPU);
	p = find_entry(o->pid);
	armed = s && p && (p->state & PROF_S_ARMED);
	r.off_ns = o->off_ns;
	/* Who wakes a thread may be ahead of its switch, which finds it runnable again. A
	 * note of before it last ran is of another time. */
	if (o->state != PROF_OFF_RUNNABLE && o->woken_ns > o->on_ns)
		r.woken_ns = o->woken_ns;
	r.pid = o->pid;
	r.tid = o->tid;
	/* It was on a CPU, and armed, and was not seen to leave. */
	if (armed && !r.off_ns && p->t0 <= o->on_ns)
		s->counters[PROF_SC_MISSED_SWITCH]++;
	o->off_ns = 0;
	o->on_ns = now;
	if (!armed || !r.off_ns || now - r.off_ns < config.off_cpu_min_ns)
		return;
	fill_head(&r.head, PROF_REC_ON, sizeof(r), now, 0, 0, 0);
	if (bpf_ringbuf_output(&off_samples, &r, sizeof(r), BPF_RB_NO_WAKEUP))
		s->counters[PROF_SC_LOST_RING]++;
}

SEC("raw_tp/sched_switch")
int off_switch(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *prev = bpf_get_current_task_btf();
	struct task_struct *next = (void *)ctx->args[2];
	bool comes, goes;
	u64 now;

	comes = *(volatile u32 *)occupied_at(READ(next, tgid));
	goes = *(volatile u32 *)occupied_at(prev->tgid);
	if (!comes && !goes)
		return 0;
	now = bpf_ktime_get_ns();
	if (comes)
		come_back(next, now);
	if (goes)
		go_away(ctx, prev, ctx->args[0] & 0xff, ctx->args[3], now);
	return 0;
}

SEC("raw_tp/sched_waking")
int off_waking(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf(), *woken = (void *)ctx->args[0];
	u64 key = (u64)woken, now, start;
	struct prof_off_thread *o;
	struct prof_sampler *s;
	struct prof_proc *p;

	if (!*(volatile u32 *)occupied_at(READ(woken, tgid)))
		return 0;
	o = bpf_map_lookup_elem(&off_threads, &key);
	s = sampler_of(PROF_SAMPLER_OFF_CPU);
	if (!o || !s)
		return 0;
	now = bpf_ktime_get_ns();
	start = process_start(t);
	o->woken_ns = now;
	begin_record(s, t, start, config.off_cpu_event);
	s->rec.weight = READ(woken, pid);
	/* Always: it tells whether an interrupt has done it. */
	take_kernel(ctx, s);
	if (config.stacks & PROF_STACKS_USER) {
		p = armed_entry(t, start);
		if (p)
			take_user(ctx, 0, t, p, s, now, PROF_SAMPLER_OFF_CPU);
	}
	finish_off_record(ctx, s, PROF_REC_WAKER, now);
	return 0;
}

/* Beside the exit hook. Any thread: whether it was profiled is not known any more. */
SEC("raw_tp/sched_process_exit")
int off_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 key = (u64)bpf_get_current_task_btf();

	bpf_map_delete_elem(&off_threads, &key);
	return 0;
}

#endif /* PROF_OFFCPU_H */
