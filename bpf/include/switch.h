/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A program switches the profiling of its own process off and on.
 *
 *   disable  the window ends here, with the figures of all threads: ARMED becomes OFF
 *   enable   a window begins here: the figures of all threads are its base line, and OFF
 *            becomes ARMED (or PAUSED, if all of the session is)
 *
 * The figures of the calling thread are as of now, as at the ends of a region
 * (region.h). Those of the others are as of their last tick or switch. Whoever takes the
 * bit does the work: of two threads that say the same at once, one is heard.
 *
 * A thread that exits between the reading and the bit would be in the base line, and
 * not in the sum; one that was born would be in neither. Then it is done again.
 *
 * Without the iterator over a process's threads (before 6.7) only a process with one
 * thread is switched, and what others ask for is counted.
 */
#ifndef PROF_SWITCH_H
#define PROF_SWITCH_H

/* Readings until no thread came or went during one. */
#define PROF_SWITCH_TRIES 2

/* A thread's regions take the levels below. */
#define PROF_SWITCH_LEVEL PROF_REGION_DEPTH

#ifndef PROF_BEFORE_6_4
struct bpf_iter_task {
	u64 opaque[3];
} __attribute__((aligned(8)));

#define PROF_ITER_PROC_THREADS 2

extern int bpf_iter_task_new(struct bpf_iter_task *it, struct task_struct *task, u32 flags)
	__weak __ksym;
extern struct task_struct *bpf_iter_task_next(struct bpf_iter_task *it) __weak __ksym;
extern void bpf_iter_task_destroy(struct bpf_iter_task *it) __weak __ksym;
#endif

/* What the process has used so far, as far as its threads live. */
struct prof_switch_sum {
	u64 threads;
	struct prof_figures figures;
};

/* Of a process that was attached to, what came before is noted for each thread. That is
 * part of the base line of a window that begins, and not of one that ends. */
static __always_inline void sub_attached(struct task_struct *t, struct prof_proc *p,
					 struct prof_figures *f)
{
	struct prof_figures *born;
	u64 key = (u64)t;

	if (!attaches() || !p->attach_boot_ns || t->start_boottime >= p->attach_boot_ns)
		return;
	born = bpf_map_lookup_elem(&thread_base, &key);
	if (born)
		sub_figures(f, born);
}

/* The counts go to `now` of the level, those of the calling thread first. */
static __always_inline void sum_self(struct task_struct *t, struct prof_proc *p,
				     struct prof_region_open *o, struct prof_switch_sum *sum)
{
	o->quality = 0;
	sum->threads = 1;
	read_figures(t, &sum->figures);
	sum->figures.task_clock = region_task_clock(t, o);
	sub_attached(t, p, &sum->figures);
	if (counts())
		region_counts(o, (u64)t, 1);
}

#ifndef PROF_BEFORE_6_4
static __noinline int sum_other(struct task_struct *t, struct prof_proc *p,
				      struct prof_region_open *o, struct prof_switch_sum *sum)
{
	struct prof_thread_counts *tc;
	struct prof_figures f;

	/* Its exit may have been passed already. */
	if (t->flags & PROF_PF_EXITING)
		return 0;
	sum->threads++;
	read_figures(t, &f);
	sub_attached(t, p, &f);
	add_figures(&sum->figures, &f, 1);
	if (!counts())
		return 0;
	tc = thread_counts_of((u64)t);
	if (!tc)
		return 0;
	for (u32 i = 0; i < PROF_MAX_COUNTERS; i++) {
		if (i >= config.counters)
			break;
		barrier_var(tc);
		barrier_var(o);
		add_count(&o->c[i].now, &tc->c[i]);
	}
	return 0;
}
#endif

/* False if it cannot be known. */
static __noinline bool sum_threads(struct task_struct *t, struct prof_proc *p,
					struct prof_region_open *o, struct prof_switch_sum *sum,
					bool iterate)
{
	sum_self(t, p, o, sum);
	if (is_last_thread(p))
		return 1;
#ifndef PROF_BEFORE_6_4
	if (iterate) {
		struct bpf_iter_task it;
		struct task_struct *other;

		bpf_iter_task_new(&it, t, PROF_ITER_PROC_THREADS);
		while ((other = bpf_iter_task_next(&it)))
			if ((u64)other != (u64)t)
				sum_other(other, p, o, sum);
		bpf_iter_task_destroy(&it);
		return 1;
	}
#endif
	return 0;
}

/* Who switches faster than is read must not fill the buffer that all share: an end of a
 * window is refused while half of it waits. The beginning that follows has room. */
static __always_inline bool has_room(void)
{
	return bpf_ringbuf_query(&records, BPF_RB_AVAIL_DATA) < 2 * (u64)config.ring_wakeup;
}

static __always_inline u64 switch_wakeup(void)
{
	return bpf_ringbuf_query(&records, BPF_RB_AVAIL_DATA) < config.ring_wakeup ?
		       BPF_RB_NO_WAKEUP :
		       BPF_RB_FORCE_WAKEUP;
}

/* The window ends: as emit_disable(), with nothing that the hooks keep. */
static __always_inline void emit_switch_off(struct task_struct *t, struct prof_proc *p,
					    struct prof_region_open *o, struct prof_switch_sum *sum)
{
	struct prof_proc_counts *pc = counts() ? proc_counts_of(t->tgid) : 0;
	u64 now = bpf_ktime_get_ns();
	struct prof_rec_disable *r;
	struct prof_count *to;
	u16 quality = o->quality;

	r = bpf_ringbuf_reserve(&records, sizeof(*r) + counts_size(), 0);
	if (!r) {
		region_count(PROF_R_LOST_RING_OFF);
		return;
	}
	r->id = p->id;
	r->id.tid = t->pid;
	r->rules = p->rules;
	r->window_start_ns = p->t0;
	r->window_end_ns = now;
	r->peak_rss = peak_rss_pages(t, p->base_maxrss, &quality) * config.page_size;
	r->threads = p->threads;
	r->exit_code = 0;
	r->start = p->start;
	r->counters = config.counters;
	r->pad[0] = r->pad[1] = 0;
	r->figures = p->acc;
	add_figures(&r->figures, &sum->figures, 1);
	quality |= figures_since(&r->figures, &p->base);
	to = (void *)(r + 1);
	for (u32 i = 0; i < PROF_MAX_COUNTERS; i++) {
		if (i >= config.counters)
			break;
		barrier_var(o);
		barrier_var(pc);
		if (!pc) {
			__builtin_memset(&to[i], 0, sizeof(to[i]));
			continue;
		}
		to[i].value = o->c[i].now.value + pc->c[i].acc.value - pc->c[i].base.value;
		to[i].enabled = o->c[i].now.enabled + pc->c[i].acc.enabled - pc->c[i].base.enabled;
		to[i].running = o->c[i].now.running + pc->c[i].acc.running - pc->c[i].base.running;
	}
	fill_head(&r->head, PROF_REC_DISABLE, sizeof(*r) + counts_size(), now, PROF_HOOK_PROBE,
		  PROF_F_REQUEST, quality | p->quality);
	bpf_ringbuf_submit(r, switch_wakeup());
}

/* A window begins, of a program that user space knows. */
static __always_inline void emit_switch_on(struct task_struct *t, struct prof_proc *p)
{
	struct prof_rec_enable *r;

	region_count(PROF_R_SWITCHED_ON);
	r = bpf_ringbuf_reserve(&records, sizeof(*r), 0);
	if (!r) {
		region_count(PROF_R_LOST_RING_ON);
		return;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->id = p->id;
	r->id.tid = t->pid;
	r->rules = p->rules;
	r->start = p->start;
	fill_head(&r->head, PROF_REC_ENABLE, sizeof(*r), p->t0, PROF_HOOK_PROBE,
		  PROF_F_ENABLE | PROF_F_REQUEST | PROF_F_ATTACH, p->quality);
	bpf_ringbuf_submit(r, switch_wakeup());
}

static __noinline int on_switch_off(bool iterate)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct prof_proc *p = region_proc(t);
	struct prof_switch_sum sum;
	struct prof_region_open *o;

	if (!p || !(p->state & (PROF_S_ARMED | PROF_S_PAUSED)))
		return 0;
	o = region_level(t, PROF_SWITCH_LEVEL, 1);
	if (!o || !region_thread(t, 1) || !has_room() || !sum_threads(t, p, o, &sum, iterate)) {
		region_count(PROF_R_NOT_SWITCHED);
		return 0;
	}
	if (__sync_fetch_and_and(&p->state, ~PROF_S_ARMED) & PROF_S_ARMED)
		emit_switch_off(t, p, o, &sum);
	else if (!(__sync_fetch_and_and(&p->state, ~PROF_S_PAUSED) & PROF_S_PAUSED))
		return 0;
	__sync_fetch_and_or(&p->state, PROF_S_OFF);
	return 0;
}

/* The base line of the window that begins. */
static __always_inline void begin_window(struct task_struct *t, struct prof_proc *p,
					 struct prof_region_open *o, struct prof_switch_sum *sum)
{
	struct prof_proc_counts *pc = counts() ? proc_counts_of(t->tgid) : 0;

	p->base = sum->figures;
	__builtin_memset(&p->acc, 0, sizeof(p->acc));
	for (u32 i = 0; pc && i < PROF_MAX_COUNTERS; i++) {
		if (i >= config.counters)
			break;
		barrier_var(o);
		barrier_var(pc);
		pc->c[i].base = o->c[i].now;
		__builtin_memset(&pc->c[i].acc, 0, sizeof(pc->c[i].acc));
	}
	p->base_maxrss = READ(t, signal, maxrss);
	p->quality = o->quality;
	p->start = PROF_START_ATTACH;
	p->threads = sum->threads;
	p->t0 = bpf_ktime_get_ns();
}

static __noinline int on_switch_on(bool iterate)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct prof_proc *p = region_proc(t);
	struct prof_switch_sum sum;
	struct prof_region_open *o;

	if (!p || !(p->state & PROF_S_OFF))
		return 0;
	o = region_level(t, PROF_SWITCH_LEVEL, 1);
	if (!o || !region_thread(t, 1)) {
		region_count(PROF_R_NOT_SWITCHED);
		return 0;
	}
	if (!(__sync_fetch_and_and(&p->state, ~PROF_S_OFF) & PROF_S_OFF))
		return 0;
	p->attach_boot_ns = 0;
	for (int i = 0; i < PROF_SWITCH_TRIES; i++) {
		u32 armed = armed_unless_paused();
		s32 live = *(volatile s32 *)&p->live;

		if (!sum_threads(t, p, o, &sum, iterate)) {
			region_count(PROF_R_NOT_SWITCHED);
			__sync_fetch_and_or(&p->state, PROF_S_OFF);
			return 0;
		}
		begin_window(t, p, o, &sum);
		__sync_fetch_and_or(&p->state, armed);
		if (*(volatile s32 *)&p->live == live || armed != PROF_S_ARMED ||
		    i == PROF_SWITCH_TRIES - 1)
			break;
		__sync_fetch_and_and(&p->state, ~PROF_S_ARMED);
	}
	if (p->state & PROF_S_ARMED)
		emit_switch_on(t, p);
	return 0;
}

#endif /* PROF_SWITCH_H */
