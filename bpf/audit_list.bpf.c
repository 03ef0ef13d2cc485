// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * prof, the kernel half of `prof audit --list`: what is being profiled now.
 *
 * An iterator over the open files of all tasks writes a record for each that is a
 * perf event, or a BPF link that stands for one; another, over links, finds those
 * that no task holds. Nothing is attached, and nothing is written but `list_state`
 * and `list_scratch`.
 *
 * Which file is a perf event is told by what serves it, and that is learned from
 * prof's own: its address is in no table that every kernel shows.
 *
 * Everything is read with bpf_probe_read_kernel: lists that are followed are not
 * locked, so each element is checked to belong there. That also loads on every
 * kernel from 5.8 on, with no object of its own for the earlier ones.
 */
#include "include/kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "include/prof_abi.h"
#include "include/audit_list_abi.h"

/* One object for all kernels: that a step is a helper call does not matter here. */
#define PROF_BEFORE_6_4

#include "include/ident.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum bpf_link_type___list {
	BPF_LINK_TYPE_PERF_EVENT___list = 7,
};

enum perf_event_state___list {
	PERF_EVENT_STATE_EXIT___list = -3, /* from here on down what it was opened for is gone */
	PERF_EVENT_STATE_INACTIVE___list = 0, /* from here on up it is switched on */
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	s64 counter;
} atomic64_t___list;

struct perf_event_context___list {
	u64 time;
};

struct hw_perf_event___list {
	struct task_struct *target;
};

struct perf_cgroup___list {
	struct cgroup_subsys_state css;
};

struct trace_event_call___list {
	const char *name;
};

struct bpf_prog_aux___list {
	u32 id;
	char name[16];
};

struct bpf_prog___list {
	struct bpf_prog_aux___list *aux;
};

struct perf_event___list {
	struct perf_event___list *group_leader;
	struct perf_event___list *parent;
	enum perf_event_state___list state;
	u64 total_time_enabled;
	u64 total_time_running;
	u64 tstamp;
	struct perf_event_attr___k attr;
	struct hw_perf_event___list hw;
	struct perf_event_context___list *ctx;
	atomic64_t___list child_total_time_enabled;
	atomic64_t___list child_total_time_running;
	struct list_head child_list;
	int cpu;
	struct task_struct *owner;
	u64 id;
	struct bpf_prog___list *prog;
	struct trace_event_call___list *tp_event;
	struct perf_cgroup___list *cgrp;
	u32 orig_type;
};

struct bpf_link___list {
	u32 id;
	enum bpf_link_type___list type;
};

struct file___list {
	void *f_op;
	void *private_data;
};

struct bpf_perf_link___list {
	struct bpf_link___list link;
	struct file___list *perf_file;
};

struct trace_probe_event___list {
	struct trace_event_call___list call;
	struct list_head probes;
};

struct trace_probe___list {
	struct list_head list;
};

struct trace_uprobe___list {
	char *filename;
	unsigned long offset;
	struct trace_probe___list tp;
};

#pragma clang attribute pop

/* What iterators are given: the same in every kernel, and the verifier takes no
 * offset in it that is computed. */
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file;
};

struct bpf_iter__bpf_link {
	struct bpf_iter_meta *meta;
	struct bpf_link___list *link;
};

/* Pointers that are none: an owner that is the kernel, a target that has ended. */
#define TOMBSTONE ((u64)-1)

#define EVENT(e, ...) BPF_CORE_READ((struct perf_event___list *)(e), ##__VA_ARGS__)

/* Written by user space and by the learning round, read by the iterators: one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct prof_list_state);
} list_state SEC(".maps");

/* A record is larger than the stack: one, since prof has one iterator at a time. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct prof_list_event);
} list_scratch SEC(".maps");

/* Whose the inherited copies are. */
static __always_inline void write_copies(struct seq_file *seq, void *event,
					 struct prof_list_event *r)
{
	const u64 at = bpf_core_field_offset(struct perf_event___list, child_list);
	struct prof_list_copy c = { .kind = PROF_LIST_REC_COPY, .event = r->id };
	u64 head = (u64)event + at;
	u64 n = (u64)EVENT(event, child_list.next);

	for (u32 i = 0; i < PROF_LIST_COPIES; i++) {
		struct task_struct *t;
		void *child;

		if (n == head || !n)
			return;
		child = (void *)(n - at);
		if ((void *)EVENT(child, parent) != event)
			break;
		t = EVENT(child, hw.target);
		c.state = EVENT(child, state);
		if (t) {
			c.pid = READ(t, tgid);
			c.tid = READ(t, pid);
			bpf_seq_write(seq, &c, sizeof(c));
		}
		n = (u64)EVENT(child, child_list.next);
	}
	/* There are more, or the list was changed meanwhile. */
	c.tid = 0;
	bpf_seq_write(seq, &c, sizeof(c));
}

/* What a kprobe or uprobe is at: the opener's attr has but an address of its own. */
static __always_inline void read_probe(void *event, struct prof_list_event *r,
				       struct prof_list_state *s)
{
	u32 type = *(u32 *)r->attr;
	struct trace_event_call___list *call;
	struct trace_probe_event___list *of;
	struct trace_uprobe___list *u;
	struct list_head *first;

	if ((type != s->kprobe_type && type != s->uprobe_type) ||
	    !bpf_core_field_exists(((struct perf_event___list *)0)->tp_event))
		return;
	call = EVENT(event, tp_event);
	if (!call)
		return;
	if (type == s->kprobe_type) {
		bpf_probe_read_kernel_str(r->probe, sizeof(r->probe), BPF_CORE_READ(call, name));
		return;
	}
	if (!bpf_core_type_exists(struct trace_uprobe___list))
		return;
	of = (void *)call - bpf_core_field_offset(struct trace_probe_event___list, call);
	first = BPF_CORE_READ(of, probes.next);
	u = (void *)first - bpf_core_field_offset(struct trace_probe___list, list) -
	    bpf_core_field_offset(struct trace_uprobe___list, tp);
	bpf_probe_read_kernel_str(r->probe, sizeof(r->probe), BPF_CORE_READ(u, filename));
	r->probe_offset = BPF_CORE_READ(u, offset);
}

static __always_inline void read_times(void *event, struct prof_list_event *r)
{
	u64 since = 0;

	/* The clock of a cgroup's events is its own. */
	if (r->state >= PERF_EVENT_STATE_INACTIVE___list && !r->cgroup_id) {
		u64 now = EVENT(event, ctx, time), at = EVENT(event, tstamp);

		if (now > at)
			since = now - at;
	}
	r->enabled_ns = EVENT(event, total_time_enabled) +
			EVENT(event, child_total_time_enabled.counter) + since;
	r->running_ns = EVENT(event, total_time_running) +
			EVENT(event, child_total_time_running.counter);
	if (r->state > PERF_EVENT_STATE_INACTIVE___list)
		r->running_ns += since;
}

/* `holder` has it open as `fd`; without one, `link` holds it. */
static __always_inline void write_event(struct seq_file *seq, void *event,
					struct prof_list_state *s, struct task_struct *holder,
					int fd, u32 link)
{
	u32 zero = 0, size = bpf_core_field_size(((struct perf_event___list *)0)->attr);
	struct prof_list_event *r = bpf_map_lookup_elem(&list_scratch, &zero);
	struct task_struct *t;

	if (!r || !event)
		return;
	__builtin_memset(r, 0, sizeof(*r));
	r->kind = PROF_LIST_REC_EVENT;
	r->addr = (u64)event;
	r->id = EVENT(event, id);
	r->leader = EVENT(event, group_leader, id);
	r->state = EVENT(event, state);
	r->cpu = EVENT(event, cpu);
	r->link = link;
	r->fd = fd;
	if (bpf_core_field_exists(((struct perf_event___list *)0)->cgrp))
		r->cgroup_id = EVENT(event, cgrp, css.cgroup, kn, id);
	if (bpf_core_field_exists(((struct perf_event___list *)0)->prog)) {
		struct bpf_prog_aux___list *aux = EVENT(event, prog, aux);

		if (aux) {
			r->prog = BPF_CORE_READ(aux, id);
			BPF_CORE_READ_INTO(&r->prog_name, aux, name);
		}
	}
	if (size > sizeof(r->attr))
		size = sizeof(r->attr);
	bpf_probe_read_kernel(r->attr, size,
			      event + bpf_core_field_offset(struct perf_event___list, attr));
	/* What the opener said: the kernel gives its clocks types of their own. */
	if (bpf_core_field_exists(((struct perf_event___list *)0)->orig_type))
		*(u32 *)r->attr = EVENT(event, orig_type);
	if (r->state <= PERF_EVENT_STATE_EXIT___list)
		r->has |= PROF_LIST_GONE;
	read_times(event, r);
	read_probe(event, r, s);
	t = EVENT(event, hw.target);
	if (t) {
		r->has |= PROF_LIST_HAS_TARGET;
		read_ident_of(t, &r->target, s->ident_subsys);
	}
	t = EVENT(event, owner);
	if ((u64)t == TOMBSTONE) {
		r->has |= PROF_LIST_BY_KERNEL;
	} else if (t) {
		r->has |= PROF_LIST_HAS_OWNER;
		read_ident_of(t, &r->owner, s->ident_subsys);
	}
	if (holder) {
		r->has |= PROF_LIST_HAS_HOLDER;
		read_ident_of(holder, &r->holder, s->ident_subsys);
	}
	bpf_seq_write(seq, r, sizeof(*r));
	write_copies(seq, event, r);
}

/* The event that a link of that kind stands for; 0 for other links. */
static __always_inline void *event_of(struct bpf_link___list *link)
{
	struct bpf_perf_link___list *of;

	if (!bpf_core_type_exists(struct bpf_perf_link___list) ||
	    BPF_CORE_READ(link, type) != bpf_core_enum_value(enum bpf_link_type___list,
							    BPF_LINK_TYPE_PERF_EVENT___list))
		return 0;
	of = (void *)link - bpf_core_field_offset(struct bpf_perf_link___list, link);
	return BPF_CORE_READ(of, perf_file, private_data);
}

SEC("iter/task_file")
int list_files(struct bpf_iter__task_file *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *t = ctx->task;
	struct file *file = ctx->file;
	struct prof_list_state *s;
	struct prof_list_link l;
	void *private;
	u64 served_by;
	u32 zero = 0;

	if (!t || !file)
		return 0;
	s = bpf_map_lookup_elem(&list_state, &zero);
	if (!s)
		return 0;
	served_by = (u64)BPF_CORE_READ((struct file___list *)file, f_op);
	private = BPF_CORE_READ((struct file___list *)file, private_data);
	if (s->mode == PROF_LIST_LEARN) {
		if (t->tgid != s->tgid)
			return 0;
		if (ctx->fd == s->fds[PROF_LIST_PERF])
			s->served_by[PROF_LIST_PERF] = served_by;
		if (ctx->fd == s->fds[PROF_LIST_LINK])
			s->served_by[PROF_LIST_LINK] = served_by;
		return 0;
	}
	if (!served_by)
		return 0;
	if (served_by == s->served_by[PROF_LIST_PERF]) {
		write_event(seq, private, s, t, ctx->fd, 0);
		return 0;
	}
	if (served_by != s->served_by[PROF_LIST_LINK])
		return 0;
	__builtin_memset(&l, 0, sizeof(l));
	l.kind = PROF_LIST_REC_LINK;
	l.link = BPF_CORE_READ((struct bpf_link___list *)private, id);
	l.fd = ctx->fd;
	read_ident_of(t, &l.holder, s->ident_subsys);
	bpf_seq_write(seq, &l, sizeof(l));
	return 0;
}

/* From 5.19 on. */
SEC("iter/bpf_link")
int list_links(struct bpf_iter__bpf_link *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct bpf_link___list *link = ctx->link;
	struct prof_list_state *s;
	u32 zero = 0;

	if (!link)
		return 0;
	s = bpf_map_lookup_elem(&list_state, &zero);
	if (s)
		write_event(seq, event_of(link), s, 0, -1, BPF_CORE_READ(link, id));
	return 0;
}
