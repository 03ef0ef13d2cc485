/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Taking a sample: who runs, the kernel's part of the stack, and the user's part,
 * unwound here and now. A perf event of each CPU fires, or a tracepoint is hit; where no
 * armed process runs, one read of `occupied` is all.
 *
 * The first sample of a process of a millisecond is as good as any: one that meets a
 * file whose table is not there yet goes along with a piece of the stack, to be finished
 * by user space.
 *
 * Runs in interrupts, also such as cannot be masked, on top of any other hook: it
 * shares nothing with them but `procs`, which it only reads.
 */
#ifndef PROF_SAMPLE_H
#define PROF_SAMPLE_H

/* Written before the first sample. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROF_MAX_SHARES);
	__type(key, u32);
	__type(value, struct prof_share);
} sample_shares SEC(".maps");

/* How many samples the rules of a process ask for, of those that could be taken. */
static __always_inline u32 share_of(struct prof_proc *p)
{
	struct prof_share *share;

	for (u32 i = 0; i < PROF_MAX_SHARES; i++) {
		u32 key = i;

		if (i >= config.sample_shares)
			break;
		share = bpf_map_lookup_elem(&sample_shares, &key);
		if (share && (share->rules & p->rules))
			return share->share;
	}
	return 1 << PROF_SHARE_BITS;
}

/* Where user space left off when it entered the kernel. */
static __always_inline bool entry_registers(struct task_struct *t, struct prof_sampler *s)
{
#if defined(__TARGET_ARCH_x86)
	struct pt_regs *regs = (void *)bpf_task_pt_regs(t);
	u64 cs = 0;

	bpf_probe_read_kernel(&s->rec.ip, 8, &regs->ip);
	bpf_probe_read_kernel(&s->rec.sp, 8, &regs->sp);
	bpf_probe_read_kernel(&s->rec.fp, 8, &regs->bp);
	bpf_probe_read_kernel(&s->rec.lr, 8, &regs->bx);
	bpf_probe_read_kernel(&cs, 8, &regs->cs);
	s->bx_at = 0;
	s->others = 1;
	/* __USER_CS: not that of 32-bit code. */
	return cs == 0x33;
#elif defined(__TARGET_ARCH_arm64)
	struct pt_regs *regs = (void *)bpf_task_pt_regs(t);
	u64 pstate = 0;

	bpf_probe_read_kernel(&s->rec.ip, 8, &regs->user_regs.pc);
	bpf_probe_read_kernel(&s->rec.sp, 8, &regs->user_regs.sp);
	bpf_probe_read_kernel(&s->rec.fp, 8, &regs->user_regs.regs[29]);
	bpf_probe_read_kernel(&s->rec.lr, 8, &regs->user_regs.regs[30]);
	bpf_probe_read_kernel(&pstate, 8, &regs->user_regs.pstate);
	/* PSR_MODE32_BIT, and a mode other than EL0. */
	return !(pstate & 0x1f);
#endif
}

/* The same, or where it was interrupted: by an event, of which a hook has none. */
static __always_inline bool user_registers(struct bpf_perf_event_data *ctx, bool of_event,
					   struct task_struct *t, struct prof_sampler *s)
{
#if defined(__TARGET_ARCH_x86)
	u64 cs;

	if (!of_event || !IN_USER(s))
		return entry_registers(t, s);
	s->rec.ip = ctx->regs.ip;
	s->rec.sp = ctx->regs.sp;
	s->rec.fp = ctx->regs.bp;
	s->rec.lr = ctx->regs.bx;
	s->bx_at = 0;
	s->others = 1;
	cs = ctx->regs.cs;
	/* Or the compiler takes both ways' addresses first. */
	barrier_var(cs);
	return cs == 0x33;
#elif defined(__TARGET_ARCH_arm64)
	u64 pstate;

	if (!of_event || !IN_USER(s))
		return entry_registers(t, s);
	s->rec.ip = ctx->regs.pc;
	s->rec.sp = ctx->regs.sp;
	s->rec.fp = ctx->regs.regs[29];
	s->rec.lr = ctx->regs.regs[30];
	pstate = ctx->regs.pstate;
	barrier_var(pstate);
	return !(pstate & 0x1f);
#endif
}

static __always_inline bool struck_user(struct bpf_perf_event_data *ctx)
{
#if defined(__TARGET_ARCH_x86)
	return (ctx->regs.cs & 3) == 3;
#elif defined(__TARGET_ARCH_arm64)
	return !(ctx->regs.pstate & 0xf);
#endif
}

/* Whether it is between two images: past the point of no return of an exec its registers
 * are those of the one that is gone. */
static __always_inline bool between_images(struct prof_proc *p)
{
	return !!(p->state & PROF_S_PENDING);
}

/* Whether it has a user part. */
static __always_inline bool has_user(struct task_struct *t, bool between)
{
	return !between && READ(t, mm) && !(t->flags & PROF_PF_KTHREAD);
}

/* How its user part ends where none can be had: one that has given up its address space,
 * on its way out or to another image, has none. */
static __always_inline u16 without_user(struct task_struct *t, bool between)
{
	return !between && READ(t, mm) ? PROF_STOP_NO_REGS : PROF_STOP_END;
}

/* The user part of the stack, from the registers that are in the record. */
static __always_inline u16 unwind_user(struct task_struct *t, struct prof_sampler *s, u64 now, u32 user)
{
	struct prof_round with = { .s = s };
	u32 stepped;

	s->rec.exact = 1;
	if (!take_space(s, t, READ(t, mm), now, user))
		return PROF_STOP_NO_SPACE;
	STEP(s) = 0;
	PROF_ROUNDS(PROF_MAX_FRAMES + 1, unwind_round, &with);
	stepped = STEP(s);
	/* The same, where that is not known: by kprobes an exec is met when it is over. */
	if (!s->rec.user_frames && stepped == STOPPED(PROF_STOP_NO_MAPPING) &&
	    bpf_core_field_exists(t->in_execve) && BPF_CORE_READ_BITFIELD_PROBED(t, in_execve))
		return PROF_STOP_END;
	return stepped ? stepped - 1 : PROF_STOP_DEPTH;
}

/* The user's part of the stack of the running task, whose entry is `p`, or how it ends
 * without one. */
static __always_inline void take_user(void *ctx, bool of_event, struct task_struct *t,
				      struct prof_proc *p, struct prof_sampler *s, u64 now, u32 user)
{
	bool between = between_images(p);

	s->rec.stop = without_user(t, between);
	if (has_user(t, between) && user_registers(ctx, of_event, t, s))
		s->rec.stop = unwind_user(t, s, now, user);
}

/* What user space needs to go on: the mappings and the stack, as much of it as there
 * is. Returns the end of what is in `data`, in words. */
static __always_inline u32 take_stack(struct prof_sampler *s)
{
	u32 n = s->scan.vmas, at = s->frames, bytes, got;

	if (n > PROF_MAX_VMAS || at + n * 3 > PROF_SAMPLE_FRAMES)
		return at;
	barrier_var(n);
	n &= 255;
	if (n > PROF_MAX_VMAS)
		return at;
	at &= PROF_SAMPLE_FRAMES / 2 - 1;
	bpf_probe_read_kernel(&s->data[at], n * sizeof(struct prof_vma), s->scan.v);
	s->rec.vmas = n;
	at += n * 3;
	barrier_var(at);
	at &= PROF_SAMPLE_FRAMES - 1;
#if defined(__TARGET_ARCH_x86)
	s->rec.lr = bx_of(s);
	if (*(volatile u32 *)&s->others) {
		bpf_probe_read_kernel(&s->data[at], PROF_REGISTERS * 8,
				      (void *)bpf_task_pt_regs(bpf_get_current_task_btf()));
		s->rec.registers = PROF_REGISTERS;
		at += PROF_REGISTERS;
		barrier_var(at);
		at &= PROF_SAMPLE_FRAMES - 1;
	}
#endif
	/* To where the stack ends, which is not known: what cannot be read as a whole is read
	 * as far as its half, and so on. */
#pragma clang loop unroll(full)
	for (bytes = PROF_MAX_STACK; bytes >= 128; bytes >>= 1) {
		got = *(volatile u32 *)&s->rec.stack_bytes;
		if (got > PROF_MAX_STACK - bytes)
			break;
		if (!bpf_probe_read_user(&s->data[at + got / 8], bytes, (void *)(s->rec.sp + got)))
			*(volatile u32 *)&s->rec.stack_bytes = got + bytes;
	}
	got = *(volatile u32 *)&s->rec.stack_bytes;
	if (got > PROF_MAX_STACK)
		return at;
	return at + got / 8;
}

/* The reader polls; what it is to hear at once wakes it, and a ring that fills. */
static __always_inline u64 ring_wakeup(struct prof_sampler *s, void *ring)
{
	if (s->rec.stop == PROF_STOP_PENDING ||
	    bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) > config.samples_wakeup)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

/* A record of the running task, without its stack. */
static __always_inline void begin_record(struct prof_sampler *s, struct task_struct *t, u64 start,
					 u16 event)
{
	s->frames = 0;
	s->rec.start_ns = start;
	s->rec.pid = t->tgid;
	s->rec.tid = t->pid;
	s->rec.exec = exec_number(t);
	s->rec.event = event;
	s->rec.kernel_frames = 0;
	s->rec.user_frames = 0;
	s->rec.vmas = 0;
	s->rec.stack_bytes = 0;
	s->rec.registers = 0;
	s->rec.off_state = 0;
	s->rec.stop = PROF_STOP_NOT_ASKED;
	s->rec.ip = s->rec.sp = s->rec.fp = s->rec.lr = 0;
	bpf_probe_read_kernel(s->rec.comm, sizeof(s->rec.comm), t->comm);
}

/* The kernel's part of the stack. */
static __always_inline void take_kernel(void *ctx, struct prof_sampler *s)
{
	long got = bpf_get_stack(ctx, s->data, (PROF_MAX_FRAMES - 1) * 8, 0);

	if (got <= 0)
		return;
	s->frames = (u32)got / 8;
	if (s->frames > config.max_depth)
		s->frames = config.max_depth;
	s->rec.kernel_frames = s->frames;
}

/* Completes the record; its size. */
static __always_inline u32 end_record(struct prof_sampler *s, u32 kind, u64 now)
{
	u32 end = s->frames;

	if (s->rec.stop == PROF_STOP_PENDING)
		end = take_stack(s);
	barrier_var(end);
	if (end > PROF_SAMPLE_DATA)
		end = PROF_SAMPLE_DATA;
	fill_head(&s->rec.head, kind, sizeof(s->rec) + end * 8, now, 0, 0, 0);
	return sizeof(s->rec) + end * 8;
}

/* The entry of a process that is profiled now. */
static __always_inline struct prof_proc *armed_entry(struct task_struct *t, u64 start)
{
	struct prof_proc *p = find_entry(t->tgid);

	return p && (p->state & PROF_S_ARMED) && (!p->id.start_ns || p->id.start_ns == start) ? p : 0;
}

/* Whether it has frames of an interpreter; `scan` is of this sample if it has any. */
static __always_inline bool has_python(struct prof_sampler *s)
{
	return s->rec.user_frames && s->scan.python;
}

/* Where a sample of a process that has one goes on, once user space has loaded that; a
 * program goes on in one of its own type. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} tails SEC(".maps"), tracepoint_tails SEC(".maps");

/* Hits of a tracepoint by armed processes since the last that was sampled, on this CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROF_MAX_SAMPLED);
	__type(key, u32);
	__type(value, u64);
} tracepoint_hits SEC(".maps");

static __always_inline void write_sample(struct prof_sampler *s, u64 now)
{
	u32 size = end_record(s, PROF_REC_SAMPLE, now);

	if (bpf_ringbuf_output(&samples, &s->rec, size, ring_wakeup(s, &samples)))
		s->counters[PROF_SC_LOST_RING]++;
	s->busy = 0;
}

/* Whether this hit is the one of `period`. */
static __always_inline bool is_due(u32 event, u64 period)
{
	u64 *hits = bpf_map_lookup_elem(&tracepoint_hits, &event);

	if (!hits || ++*hits < period)
		return 0;
	*hits = 0;
	return 1;
}

/* A sample of an event, whose context is a struct bpf_perf_event_data, or of a tracepoint: of
 * each `period` hits. */
static __always_inline void take_sample(void *ctx, bool of_event, u16 event, u64 period)
{
	struct prof_sampler *s = sampler_of(PROF_SAMPLER_EVENTS), *interrupted = s;
	struct task_struct *t = bpf_get_current_task_btf();
	u64 now, start = process_start(t);
	u32 share = 1 << PROF_SHARE_BITS;
	struct prof_proc *p;

	if (!s)
		return;
	p = armed_entry(t, start);
	if (!p) {
		s->counters[PROF_SC_IDLE]++;
		return;
	}
	if (!of_event && !is_due(event, period))
		return;
	if (s->busy) {
		s = sampler_of(PROF_SAMPLER_NESTED);
		if (!s || s->busy) {
			interrupted->counters[PROF_SC_LOST_NESTED]++;
			return;
		}
	}
	if (config.sample_shares) {
		/* By chance: what is counted off would fall in step with processes that
		 * take turns. */
		share = share_of(p);
		if ((bpf_get_prandom_u32() & ((1 << PROF_SHARE_BITS) - 1)) >= share) {
			s->counters[PROF_SC_LEFT_OUT]++;
			return;
		}
	}
	s->busy = 1;
	s->counters[PROF_SC_TAKEN]++;
	now = bpf_ktime_get_ns();
	begin_record(s, t, start, event);
	s->rec.weight = of_event ? ((struct bpf_perf_event_data *)ctx)->sample_period : period;
	if (share < 1 << PROF_SHARE_BITS && share)
		s->rec.weight = (s->rec.weight << PROF_SHARE_BITS) / share;
	IN_USER(s) = of_event && struck_user(ctx);
	if (!IN_USER(s) && (config.stacks & PROF_STACKS_KERNEL))
		take_kernel(ctx, s);
	if (config.stacks & PROF_STACKS_USER)
		take_user(ctx, of_event, t, p, s, now, PROF_SAMPLER_EVENTS);
	s->rec.head.time_ns = now;
	if (has_python(s)) {
		if (of_event)
			bpf_tail_call(ctx, &tails, 0);
		else
			bpf_tail_call(ctx, &tracepoint_tails, 0);
	}
	write_sample(s, now);
}

/* -- programs ----------------------------------------------------------- */

SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	take_sample(ctx, 1, bpf_get_attach_cookie(ctx), 0);
	return 0;
}

/* At each hit of a tracepoint, on every CPU. Perf's own events there, and everybody's, go
 * without one of which a program says 0. */
SEC("tracepoint")
int sample_tracepoint(void *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);

	take_sample(ctx, 0, cookie & (PROF_MAX_SAMPLED - 1), cookie >> PROF_SAMPLED_BITS);
	return 1;
}

/* Beside the exit hook, where stacks are sampled; it may have run before, so that whether
 * the process was profiled is not known any more. */
SEC("raw_tp/sched_process_exit")
int sample_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();
	u32 tgid = t->tgid;

	/* The process is not armed any more if the exit hook came first. A leader may have
	 * gone long before. Looked up first: a removal takes a lock, and most have none. */
	if (!READ(t, signal, live.counter) && bpf_map_lookup_elem(&spaces, &tgid))
		bpf_map_delete_elem(&spaces, &tgid);
	return 0;
}

/* Run by user space, in the thread that has mapped the files that a rule names: they
 * get their numbers, and are told, before any process is sampled. */
SEC("syscall")
int sample_prepare(void *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct mm_struct *mm = READ(t, mm);
	struct prof_sampler *s = sampler_of(PROF_SAMPLER_EVENTS);

	if (!s || !mm || s->busy)
		return 0;
	s->busy = 1;
	scan(s, t, mm, PROF_SAMPLER_EVENTS);
	s->busy = 0;
	return 0;
}

#endif /* PROF_SAMPLE_H */
