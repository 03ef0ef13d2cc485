/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Writing records to the ring buffer, and counting those that do not fit. */
#ifndef PROF_RECORD_H
#define PROF_RECORD_H

#include "head.h"

/* The reader polls; it is woken early only when much is waiting, so that a
 * storm of execs does not become a storm of wake-ups. */
static __always_inline u64 wakeup(struct prof_cpu *c)
{
	if (++c->records < config.ring_look)
		return BPF_RB_NO_WAKEUP;
	c->records = 0;
	if (bpf_ringbuf_query(&records, BPF_RB_AVAIL_DATA) < config.ring_wakeup)
		return BPF_RB_NO_WAKEUP;
	return BPF_RB_FORCE_WAKEUP;
}

static __always_inline void fill_container(struct task_struct *t, struct prof_cpu *c,
					   struct prof_scratch *s, struct prof_rec_enable *r)
{
	r->has_container = task_container(t, c, s);
	if (r->has_container)
		__builtin_memcpy(r->container_id, c->container_id, sizeof(r->container_id));
}

/* Profiling of the current task was switched on for its new image, whose path
 * and arguments go along. */
static __always_inline void emit_enable(struct task_struct *t, struct prof_proc *p,
					struct prof_cpu *c, struct prof_scratch *s, u16 hook,
					u32 flags)
{
	struct prof_rec_enable *r = &s->enable;
	u64 now = bpf_ktime_get_ns();
	u32 len, args = 0, size;
	u16 quality = p->quality;
	struct mm_struct *mm;

	c->counters[PROF_C_ENABLED]++;
	r->id = p->id;
	r->rules = p->rules;
	r->start = p->start;
	fill_container(t, c, s, r);
	len = copy_path(s->tail, s, build_path(s, t));
	mm = READ(t, mm);
	if (config.read_args && mm) {
		u64 from = READ(mm, arg_start), n = READ(mm, arg_end) - from;

		if (n > PROF_MAX_ARGS) {
			n = PROF_MAX_ARGS;
			quality |= PROF_Q_ARGS_CUT;
		}
		args = n;
		barrier_var(args);
		args &= 2 * PROF_MAX_ARGS - 1;
		if (len > PROF_MAX_PATH || args > PROF_MAX_ARGS || !args ||
		    bpf_probe_read_user(s->tail + len, args, (void *)from))
			args = 0;
	}
	r->path_len = len;
	r->args_len = args;
	size = sizeof(*r) + len + args;
	fill_head(&r->head, PROF_REC_ENABLE, size, now, hook, flags | PROF_F_ENABLE, quality);
	if (size > sizeof(*r) + PROF_MAX_PATH + PROF_MAX_ARGS ||
	    bpf_ringbuf_output(&records, r, size, wakeup(c)))
		c->counters[PROF_C_LOST_RING_ENABLE]++;
}

/* A child was born followed: it runs its parent's image, which the reader knows. */
static __always_inline void emit_enable_child(struct task_struct *parent, struct prof_proc *p,
					      struct prof_cpu *c, struct prof_scratch *s,
					      u16 hook)
{
	struct prof_rec_enable *r = &s->enable;

	c->counters[PROF_C_ENABLED]++;
	r->id = p->id;
	r->rules = p->rules;
	r->start = p->start;
	fill_container(parent, c, s, r);
	r->path_len = 0;
	r->args_len = 0;
	fill_head(&r->head, PROF_REC_ENABLE, sizeof(*r), p->t0, hook, PROF_F_ENABLE | PROF_F_INHERIT,
		  p->quality);
	if (bpf_ringbuf_output(&records, r, sizeof(*r), wakeup(c)))
		c->counters[PROF_C_LOST_RING_ENABLE]++;
}

/* Bytes of counts behind a record: constant for the verifier. */
static __always_inline u32 counts_size(void)
{
	return config.counters * sizeof(struct prof_count);
}

/* Profiling was switched off: `end` are the figures of the task at the end of the
 * image, if its thread lives on; the rest is in the entry. */
static __always_inline void emit_disable(struct task_struct *t, struct prof_proc *p,
					 struct prof_cpu *c, const struct prof_figures *end,
					 u64 end_ns, u64 peak_pages, s32 exit_code, u16 hook,
					 u32 flags, u16 quality)
{
	struct prof_rec_disable *r;

	c->counters[PROF_C_DISABLED]++;
	r = bpf_ringbuf_reserve(&records, sizeof(*r) + counts_size(), 0);
	if (!r) {
		c->counters[PROF_C_LOST_RING_DISABLE]++;
		return;
	}
	r->id = p->id;
	r->id.tid = t->pid;
	r->rules = p->rules;
	r->window_start_ns = p->t0;
	r->window_end_ns = end_ns;
	r->peak_rss = peak_pages * config.page_size;
	r->threads = p->threads;
	r->exit_code = exit_code;
	r->start = p->start;
	r->counters = config.counters;
	r->pad[0] = r->pad[1] = 0;
	r->figures = p->acc;
	if (end)
		for (int i = 0; i < PROF_NR_FIGURES; i++)
			((u64 *)&r->figures)[i] += ((u64 *)end)[i];
	quality |= figures_since(&r->figures, &p->base);
	if (counts())
		copy_counts(t->tgid, flags & PROF_F_EXEC, (void *)(r + 1));
	fill_head(&r->head, PROF_REC_DISABLE, sizeof(*r) + counts_size(), end_ns, hook, flags,
		  quality | p->quality);
	bpf_ringbuf_submit(r, wakeup(c));
}

static __always_inline void emit_thread(struct task_struct *t, struct prof_proc *p,
					struct prof_cpu *c, const struct prof_figures *f,
					u64 now, u16 hook, u16 quality)
{
	struct prof_rec_thread *r = bpf_ringbuf_reserve(&records, sizeof(*r) + counts_size(), 0);

	if (!r) {
		c->counters[PROF_C_LOST_RING_THREAD]++;
		return;
	}
	r->start_ns = p->id.start_ns;
	r->pid = t->tgid;
	r->tid = t->pid;
	r->exec = p->id.exec;
	r->counters = config.counters;
	r->thread_start_ns = t->start_boottime;
	bpf_probe_read_kernel(r->comm, sizeof(r->comm), t->comm);
	r->figures = *f;
	/* The thread that executed the program had a life before. */
	if (t->pid == t->tgid)
		quality |= figures_since(&r->figures, &p->base);
	if (counts())
		copy_thread_counts(t, (void *)(r + 1));
	fill_head(&r->head, PROF_REC_THREAD, sizeof(*r) + counts_size(), now, hook, 0, quality);
	bpf_ringbuf_submit(r, wakeup(c));
}

#endif /* PROF_RECORD_H */
