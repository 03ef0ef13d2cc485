/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the audit tells of events, links and tasks, and its maps. */
#ifndef PROF_AUDIT_H
#define PROF_AUDIT_H

#include "head.h"
#include "file.h"
#include "audit_kernel.h"

/* Records for user space; the size is set before load. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} audit_records SEC(".maps");

/* Written by the programs, summed by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct audit_cpu);
} audit_cpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct prof_scratch);
} audit_scratch SEC(".maps");

/* What user space wants to know of events: it writes them, runs `audit_look`, and
 * reads the answers. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct audit_looks);
} audit_looks SEC(".maps");

/*
 * Which processes opened events or are profiled, by the low bits of the tgid: for
 * all others a hook ends after one load. Set by the programs; user space clears all
 * when there is nothing left to audit.
 */
u32 known[AUDIT_KNOWN] SEC(".bss.known");

struct audit_globals audit_globals SEC(".bss.audit");

/* Written by user space, which runs `audit_who` and reads the answer. */
struct audit_who audit_who_asked SEC(".bss.who");

static __always_inline u32 *known_at(u32 tgid)
{
	return &known[tgid & (AUDIT_KNOWN - 1)];
}

static __always_inline bool is_known(u32 tgid)
{
	return *(volatile u32 *)known_at(tgid) != 0;
}

static __always_inline void set_known(u32 tgid)
{
	*(volatile u32 *)known_at(tgid) = 1;
}

static __always_inline void count(u32 counter)
{
	u32 zero = 0;
	struct audit_cpu *c = bpf_map_lookup_elem(&audit_cpus, &zero);

	if (c && counter < AUDIT_NR_COUNTERS)
		c->counters[counter]++;
}

static __always_inline struct prof_scratch *audit_scratch_here(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&audit_scratch, &zero);
}

/* Who asks is told at once, so that its program is still there to be looked at; for
 * the rest the reader comes by. */
static __always_inline u64 audit_wakeup(bool at_once)
{
	if (at_once)
		return BPF_RB_FORCE_WAKEUP;
	if (bpf_ringbuf_query(&audit_records, BPF_RB_AVAIL_DATA) < config.ring_wakeup)
		return BPF_RB_NO_WAKEUP;
	return BPF_RB_FORCE_WAKEUP;
}

/* Room for a record, with its head; 0 if there is none, which is counted. */
static __always_inline void *reserve(u32 kind, u32 size)
{
	void *r;

	count(AUDIT_C_RECORDS);
	r = bpf_ringbuf_reserve(&audit_records, size, 0);
	if (!r) {
		count(AUDIT_C_LOST_RING);
		return 0;
	}
	fill_head(r, kind, size, bpf_ktime_get_ns(), 0, 0, 0);
	return r;
}

/* A record that was built elsewhere, with what is behind it. */
static __always_inline void output(struct prof_rec_head *r, u32 kind, u32 size, bool at_once)
{
	fill_head(r, kind, size, bpf_ktime_get_ns(), 0, 0, 0);
	count(AUDIT_C_RECORDS);
	if (bpf_ringbuf_output(&audit_records, r, size, audit_wakeup(at_once)))
		count(AUDIT_C_LOST_RING);
}

/* References to a file; 1: closing this descriptor ends it. */
static __always_inline s64 references(struct file *file)
{
	struct file___audit *f = (void *)file;
	struct file___counted *before = (void *)file;

	if (bpf_core_field_exists(f->f_ref))
		return READ(f, f_ref.refcnt.counter) + 1;
	return READ(before, f_count.counter);
}

/* References to a link: descriptors that were made of it, and pins. */
static __always_inline s64 link_references(struct bpf_link *link)
{
	return READ(link, refcnt.counter);
}

/* The perf event behind a descriptor of the running process; 0 if it is none. */
static __always_inline struct perf_event___audit *event_of(s32 fd)
{
	struct file *file = opened_file(fd);

	if (!file || !audit_globals.perf_fops || f_op_of(file) != audit_globals.perf_fops)
		return 0;
	return private_of(file);
}

static __always_inline u32 prog_of(struct perf_event___audit *e)
{
	struct bpf_prog *prog = READ(e, prog);

	return prog ? READ(prog, aux, id) : 0;
}

/* The thread that an event is on now; 0: none, or it has ended. */
static __always_inline u32 tid_of(struct perf_event___audit *e)
{
	struct perf_event_context *ctx = READ(e, ctx);
	struct task_struct *task = ctx ? READ(ctx, task) : 0;

	return task ? OF_TASK(task, pid) : 0;
}

static __always_inline bool has_events(struct task_struct *task)
{
	struct task_struct___two_ctx *two = (void *)task;
	struct task_struct___audit *t = (void *)task;

	if (bpf_core_field_exists(two->perf_event_ctxp))
		return READ(two, perf_event_ctxp[0]) || READ(two, perf_event_ctxp[1]);
	return READ(t, perf_event_ctxp) != 0;
}

static __always_inline void describe(struct perf_event___audit *e, struct audit_event *d)
{
	struct perf_event___audit *leader = (void *)READ(e, group_leader);
	struct perf_event_context *ctx = READ(e, ctx);
	struct task_struct *task = ctx ? READ(ctx, task) : 0;
	struct perf_cgroup *cgrp = 0;
	struct cgroup *cg = 0;

	d->addr = (u64)e;
	d->id = READ(e, id);
	d->leader = READ(leader, id);
	d->state = READ(e, state);
	d->leader_state = READ(leader, state);
	d->cpu = READ(e, cpu);
	d->prog = prog_of(e);
	d->cgroup_id = 0;
	if (bpf_core_field_exists(e->cgrp))
		cgrp = READ(e, cgrp);
	if (cgrp)
		cg = READ(cgrp, css.cgroup);
	if (cg)
		d->cgroup_id = READ(cg, kn, id);
	__builtin_memset(&d->target, 0, sizeof(d->target));
	if (task) {
		read_ident(task, &d->target);
		set_known(d->target.pid);
	}
	bpf_probe_read_kernel(d->attr, sizeof(d->attr),
			      (void *)e + bpf_core_field_offset(struct perf_event___audit, attr));
	/* An older kernel's ends before it. */
	if (!bpf_core_field_exists(e->attr.config3))
		__builtin_memset(d->attr + 128, 0, 8);
}

/* The event is told with all that is known of it and of who has it. */
static __always_inline void tell_event(struct perf_event___audit *e, u32 kind)
{
	struct task_struct *t = (void *)bpf_get_current_task();
	struct prof_scratch *s = audit_scratch_here();
	struct audit_opened *r;
	bool first;
	u32 len = 0, size;

	if (!s)
		return;
	r = &s->opened;
	read_ident(t, &r->by);
	first = !is_known(r->by.pid);
	set_known(r->by.pid);
	describe(e, &r->event);
	r->has_container = 0;
	if (first) {
		r->has_container = task_container(t, &s->cpu, s);
		len = copy_path(s->tail, s, build_path(s, t));
	}
	if (r->has_container)
		__builtin_memcpy(r->container_id, s->cpu.container_id, sizeof(r->container_id));
	else
		__builtin_memset(r->container_id, 0, sizeof(r->container_id));
	if (len > PROF_MAX_PATH)
		len = 0;
	r->path_len = len;
	size = sizeof(*r) + len;
	output(&r->head, kind, size, first);
}

/* Something is done to an event. */
static __always_inline void tell_act(struct perf_event___audit *e, u32 kind, u32 cmd, u64 arg)
{
	u64 pid = bpf_get_current_pid_tgid();
	struct audit_act *r;

	/* Who has it was not there when the audit began, or has it from another. With its
	 * end it is too late to tell of it. */
	if (kind != AUDIT_RELEASE && !is_known(pid >> 32))
		tell_event(e, AUDIT_BEFORE);
	r = reserve(kind, sizeof(*r));
	if (!r)
		return;
	r->addr = (u64)e;
	r->id = READ(e, id);
	r->arg = arg;
	r->pid = pid >> 32;
	r->tid = pid;
	r->state = READ(e, state);
	r->cmd = cmd;
	r->prog = prog_of(e);
	r->pad = 0;
	/* Whether there is a program is to be looked at while it is there. */
	bpf_ringbuf_submit(r, audit_wakeup(kind == AUDIT_IOCTL && cmd == AUDIT_IOC_SET_BPF));
}

static __always_inline void tell_task(struct task_struct *t, u32 kind, u64 arg, bool group_dead)
{
	struct audit_task *r;

	r = reserve(kind, sizeof(*r));
	if (!r)
		return;
	read_ident(t, &r->id);
	r->arg = arg;
	r->group_dead = group_dead;
	r->path_len = 0;
	bpf_ringbuf_submit(r, audit_wakeup(0));
}

/* The current task has executed a program, whose path goes along. */
static __always_inline void tell_exec(struct task_struct *t, u32 old_tid)
{
	struct prof_scratch *s = audit_scratch_here();
	struct audit_task *r;
	u32 len, size;

	if (!s)
		return;
	r = &s->task;
	read_ident(t, &r->id);
	r->arg = old_tid;
	r->group_dead = 0;
	len = copy_path(s->task_tail, s, build_path(s, t));
	if (len > PROF_MAX_PATH)
		len = 0;
	r->path_len = len;
	size = sizeof(*r) + len;
	output(&r->head, AUDIT_EXEC, size, 0);
}

static __always_inline void tell_two(struct task_struct *parent, struct task_struct *child,
				     u32 kind, u32 request, u32 given)
{
	struct task_struct___audit *c = (void *)child;
	struct audit_fork *r;

	r = reserve(kind, sizeof(*r));
	if (!r)
		return;
	read_ident(parent, &r->parent);
	read_ident(child, &r->child);
	r->has_events = has_events(child);
	r->traced = READ(c, ptrace) != 0;
	r->request = request;
	r->given = given;
	set_known(r->child.pid);
	if (kind == AUDIT_PTRACE)
		set_known(r->parent.pid);
	bpf_ringbuf_submit(r, audit_wakeup(kind == AUDIT_PTRACE));
}

/* The path of a file that links to many places are in; of a longer one its end. */
static __always_inline void name_file(struct bpf_uprobe_multi_link *link, char *at)
{
	struct prof_scratch *s = audit_scratch_here();
	u32 off;

	if (!s)
		return;
	off = build_path_of(s, READ(link, path.dentry), READ(link, path.mnt));
	if (off < PROF_MAX_PATH - (AUDIT_AT_LEN - 1))
		off = PROF_MAX_PATH - (AUDIT_AT_LEN - 1);
	/* Or the compiler, which knows the range, drops the mask that the verifier needs. */
	barrier_var(off);
	off &= 2 * PROF_MAX_PATH - 1;
	if (off > PROF_MAX_PATH)
		return;
	/* What is built ends there, and nothing is ever written behind it. */
	bpf_probe_read_kernel_str(at, AUDIT_AT_LEN, &s->path[off]);
}

#define IS_LINK(link_type, kind)                                      \
	(bpf_core_enum_value_exists(enum bpf_link_type, kind) &&      \
	 (link_type) == bpf_core_enum_value(enum bpf_link_type, kind))

/* What a link is at, as far as the link knows it itself. */
static __always_inline void name_link(struct bpf_link *link, struct bpf_prog *prog,
				      struct audit_link *r)
{
	const char *name = 0;

	if (IS_LINK(r->type, BPF_LINK_TYPE_RAW_TRACEPOINT)) {
		struct bpf_raw_tp_link *raw = (void *)link;

		if (bpf_core_field_exists(raw->btp))
			name = READ(raw, btp, tp, name);
	} else if (IS_LINK(r->type, BPF_LINK_TYPE_TRACING)) {
		if (prog && bpf_core_field_exists(((struct bpf_prog_aux *)0)->attach_func_name))
			name = READ(prog, aux, attach_func_name);
	} else if (IS_LINK(r->type, BPF_LINK_TYPE_KPROBE_MULTI)) {
		struct bpf_kprobe_multi_link *m = (void *)link;

		if (!bpf_core_field_exists(m->addrs))
			return;
		r->places = READ(m, cnt);
		if (bpf_core_field_exists(m->flags))
			r->returns = READ(m, flags) & AUDIT_KPROBE_MULTI_RETURN;
		else
			r->returns = READ(m, fp.exit_handler) != 0;
		if (r->places == 1) {
			unsigned long *addrs = READ(m, addrs);
			u64 first = 0;

			bpf_probe_read_kernel(&first, sizeof(first), addrs);
			if (first)
				BPF_SNPRINTF(r->at, AUDIT_AT_LEN, "%ps", first);
		}
	} else if (IS_LINK(r->type, BPF_LINK_TYPE_UPROBE_MULTI)) {
		struct bpf_uprobe_multi_link *m = (void *)link;
		struct bpf_uprobe *first;
		struct task_struct *task;

		if (!bpf_core_field_exists(m->uprobes))
			return;
		/* The link is not the first that is in it. */
		m = (void *)link - bpf_core_field_offset(struct bpf_uprobe_multi_link, link);
		r->places = READ(m, cnt);
		first = READ(m, uprobes);
		r->offset = READ(first, offset);
		r->returns = READ(first, consumer.ret_handler) && !READ(first, consumer.handler);
		task = READ(m, task);
		if (task)
			read_ident(task, &r->of);
		name_file(m, r->at);
	}
	if (name)
		bpf_probe_read_kernel_str(r->at, AUDIT_AT_LEN, name);
}

/* `left`: of its end, references to it that are left. */
static __always_inline void tell_link(struct bpf_link *link, u32 kind, u32 cmd, u32 left)
{
	struct task_struct *t = (void *)bpf_get_current_task();
	struct bpf_prog *prog = READ(link, prog);
	struct perf_event___audit *e = 0;
	struct audit_link *r;

	r = reserve(kind, sizeof(*r));
	if (!r)
		return;
	read_ident(t, &r->by);
	/* The end may come in a thread of the kernel's. */
	if (kind == AUDIT_LINK)
		set_known(r->by.pid);
	r->id = READ(link, id);
	r->type = READ(link, type);
	r->prog = prog ? READ(prog, aux, id) : 0;
	r->prog_type = prog ? READ(prog, type) : 0;
	r->attach_type = prog ? READ(prog, expected_attach_type) : 0;
	r->cmd = cmd;
	__builtin_memset(r->name, 0, sizeof(r->name));
	if (prog) {
		struct bpf_prog_aux *aux = READ(prog, aux);

		bpf_probe_read_kernel(r->name, sizeof(r->name),
				      (void *)aux + bpf_core_field_offset(struct bpf_prog_aux, name));
	}
	__builtin_memset(r->at, 0, AUDIT_AT_LEN);
	r->offset = 0;
	r->places = 0;
	r->returns = 0;
	__builtin_memset(&r->of, 0, sizeof(r->of));
	r->left = left;
	r->pad = 0;
	/* Its end is that of one that was told. */
	if (kind == AUDIT_LINK)
		name_link(link, prog, r);
	r->event = 0;
	r->event_id = 0;
	if (IS_LINK(r->type, BPF_LINK_TYPE_PERF_EVENT)) {
		struct bpf_perf_link *perf = (void *)link;
		struct file *file = READ(perf, perf_file);

		if (file && f_op_of(file) == audit_globals.perf_fops)
			e = private_of(file);
		if (e && kind == AUDIT_LINK_CLOSE)
			r->cmd = references(file);
		r->event = (u64)e;
		r->event_id = e ? READ(e, id) : 0;
	}
	bpf_ringbuf_submit(r, audit_wakeup(kind == AUDIT_LINK));
}

/* -- programs that were to be put at an event ------------------------------ */

/* By thread: where it has put one last. Written and read by that thread's hooks only. */
struct audit_put {
	u64 addr;
	u64 id;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024); /* threads that do so and have not ended since */
	__type(key, u64);
	__type(value, struct audit_put);
} audit_puts SEC(".maps");

/* What runs by now where this thread has put a program: nobody may come by to look before
 * the event ends with it. */
static __always_inline void tell_put(bool ends)
{
	u64 tid = bpf_get_current_pid_tgid();
	struct audit_put *put = bpf_map_lookup_elem(&audit_puts, &tid);
	struct perf_event___audit *e;

	if (!put)
		return;
	e = (void *)put->addr;
	if (READ(e, id) == put->id && READ(e, refcount.counter) > 0)
		tell_act(e, AUDIT_PROG, 0, 0);
	if (ends)
		bpf_map_delete_elem(&audit_puts, &tid);
}

static __always_inline void note_put(struct perf_event___audit *e)
{
	struct audit_put put = { .addr = (u64)e, .id = READ(e, id) };
	u64 tid = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&audit_puts, &tid, &put, BPF_ANY);
}

#endif /* PROF_AUDIT_H */
