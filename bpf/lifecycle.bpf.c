// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * prof, the kernel half: profiling is switched on inside exec, for the
 * processes that a rule names, and off when their last thread exits.
 *
 * The life of an entry in `procs`:
 *
 *   fork    parent is followed -> entry for the child, armed, window = birth
 *   window  begin_new_exec has torn down the old image (task_rename): the rules
 *           are evaluated; if one matches, or the process is followed, what the
 *           kernel keeps about the task is noted as the base line of the image
 *           to come, and the entry is PENDING
 *   exec    sched_process_exec: the old image, if it was armed, ends with the
 *           figures as of the window; the new one begins
 *   exit    each thread's figures are added; the last one, by our own count of
 *           threads, reports and removes the entry. An entry still PENDING died
 *           inside exec: both images are reported
 *
 * What no rule names has no entry: one evaluation at exec, one failed look-up at
 * fork and at exit. Nothing is attached to context switches, faults or system
 * calls: the figures are differences of what the task already counts.
 *
 * The same functions are compiled into three sets of programs, of which user
 * space loads one: raw_tp, tp_btf, and kprobe with kretprobe. do_exit never
 * returns, so there is no kretprobe on it.
 */
#include "include/kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "include/prof_abi.h"
#include "include/maps.h"
#include "include/task.h"
#include "include/file.h"
#include "include/rules.h"
#include "include/count.h"
#include "include/record.h"
#include "include/sampler.h"
#include "include/mappings.h"
#include "include/unwind.h"
#include "include/sample.h"
#include "include/offcpu.h"
#include "include/python.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* From 6.16 on (moved, with a second argument). */
static __always_inline bool exit_tells_group_dead(void)
{
	return bpf_core_field_exists(
		((struct trace_event_raw_sched_process_exit *)0)->group_dead);
}

/* Whether the entry is this thread group's. One that user space put in is by pid
 * only: it becomes whole when the process is first seen. */
static __always_inline bool owns(struct prof_proc *p, struct task_struct *t)
{
	u64 start = process_start(t);

	if (!p->id.start_ns)
		p->id.start_ns = start;
	return p->id.start_ns == start;
}

/* The entry of a thread group, if it is this one's: an entry left by an
 * earlier owner of the pid (its exit was never seen) is dropped. */
static __always_inline struct prof_proc *find(struct task_struct *t, struct prof_cpu *c)
{
	u32 tgid = t->tgid;
	struct prof_proc *p = find_entry(tgid);

	if (!p)
		return 0;
	if (!owns(p, t)) {
		if (p->state & PROF_S_ARMED)
			c->counters[PROF_C_STALE]++;
		drop_entry(tgid);
		return 0;
	}
	return p;
}

/* Lineage and rules that outlive the image. */
static __always_inline bool is_followed(struct prof_proc *p)
{
	return p->follow || p->kids_tree_eq || p->kids_tree_ne || p->tree_eq || p->tree_ne;
}

/* Constant for the verifier: whether any process is armed in mid-life. */
static __always_inline bool attaches(void)
{
	return config.attaches;
}

/* Whether no other thread of the process can be in a hook. */
static __always_inline bool is_last_thread(struct prof_proc *p)
{
	return p->live == 1 && !(attaches() && (p->state & PROF_S_THREADS_UNKNOWN));
}

/* Attached to in mid-life: what came before the attach is the base line of the
 * image that ends with this exec, and not of the next. */
static __always_inline void settle_attach(struct task_struct *t, struct prof_proc *p)
{
	u64 key = (u64)t;
	struct prof_figures *born = bpf_map_lookup_elem(&thread_base, &key);

	if (born) {
		p->base = *born;
		bpf_map_delete_elem(&thread_base, &key);
	}
	p->attach_boot_ns = 0;
}

/*
 * The start of a window: evaluate, and note the base line if the image to come
 * will be profiled or the running one was. `comm` is the name it will have.
 */
static __always_inline void open_window(struct task_struct *t, struct prof_cpu *c,
					const char *comm, u16 start, const struct prof_attempt *attempt)
{
	struct prof_scratch *s = get_scratch();
	struct prof_proc *p = find(t, c), *fresh = 0;
	u32 tgid = t->tgid;
	u64 rules;

	if (!s)
		return;
	rules = evaluate(t, comm, p, c, s);
	if (p) {
		rules |= p->follow;
	} else if (rules) {
		p = fresh = &s->proc;
		__builtin_memset(fresh, 0, sizeof(*fresh));
		fresh->id.start_ns = process_start(t);
	} else {
		return;
	}
	p->next_quality = 0;
	if (attempt) {
		p->next = attempt->figures;
		p->next_t0 = attempt->time_ns;
		p->next_quality = attempt->quality;
	} else {
		p->next_t0 = bpf_ktime_get_ns();
		snapshot(t, c, p->next_t0, &p->next, &p->next_quality);
	}
	if (counts())
		open_counts(t, c, p);
	if (attaches() && p->attach_boot_ns)
		settle_attach(t, p);
	/* By now the old image's peak is in it. */
	p->next_maxrss = READ(t, signal, maxrss);
	p->next_rules = rules;
	p->next_start = start;
	/* exec has ended every other thread, past their exit hooks. */
	p->live = 1;
	p->state = (p->state | PROF_S_PENDING) & ~(PROF_S_THREADS_UNKNOWN | PROF_S_ATTACHING);
	if (fresh && put_entry(tgid, fresh)) {
		if (counts())
			drop_counts(t, c);
		c->counters[PROF_C_ENABLED]++;
		c->counters[PROF_C_LOST_MAP_FULL]++;
	}
}

/* The image before ends where the window of the next begins. */
static __always_inline void end_image(struct task_struct *t, struct prof_proc *p,
				      struct prof_cpu *c, u16 hook)
{
	/* exec folds the old image's peak into maxrss. */
	u16 quality = p->next_maxrss <= p->base_maxrss ? PROF_Q_RSS_BOUND : 0;

	/* Whoever takes the bit tells of it: a pause may come at the same time. */
	if (__sync_fetch_and_and(&p->state, ~PROF_S_ARMED) & PROF_S_ARMED)
		emit_disable(t, p, c, &p->next, p->next_t0, p->next_maxrss, 0, hook, PROF_F_EXEC,
			     quality);
}

static __always_inline u32 armed_unless_paused(void)
{
	return *(volatile u32 *)&globals.paused ? PROF_S_PAUSED : PROF_S_ARMED;
}

/* The next image takes over the entry. */
static __always_inline void begin_image(struct task_struct *t, struct prof_proc *p)
{
	p->state &= ~(PROF_S_PENDING | PROF_S_ARMED | PROF_S_ATTACHED | PROF_S_PAUSED | PROF_S_OFF);
	p->rules = p->next_rules;
	if (!p->rules)
		return;
	if (counts())
		begin_counts(t->tgid);
	p->follow |= p->rules & config.follow;
	p->base = p->next;
	__builtin_memset(&p->acc, 0, sizeof(p->acc));
	p->t0 = p->next_t0;
	p->base_maxrss = p->next_maxrss;
	p->quality = p->next_quality;
	p->start = p->next_start;
	p->threads = 1;
	p->state |= armed_unless_paused();
	read_ident(t, &p->id);
}

/* The exec is done. */
static __always_inline void commit_exec(struct task_struct *t, struct prof_proc *p,
					struct prof_cpu *c, u16 hook)
{
	struct prof_scratch *s = get_scratch();
	bool inherited;

	if (!s)
		return;
	end_image(t, p, c, hook);
	inherited = p->next_rules == p->follow && (p->state & PROF_S_INHERITED);
	begin_image(t, p);
	if (!p->rules) {
		if (counts())
			drop_counts(t, c);
		if (!is_followed(p))
			drop_entry(t->tgid);
		return;
	}
	if (p->state & PROF_S_ARMED)
		emit_enable(t, p, c, s, hook, PROF_F_EXEC | (inherited ? PROF_F_INHERIT : 0));
}

static __always_inline int on_exec(u16 hook)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct prof_cpu *c = this_cpu();
	struct prof_proc *p;

	if (!c)
		return 0;
	c->counters[PROF_C_EXECS]++;
	if (!config.window_hook || !bpf_core_field_exists(t->in_execve))
		open_window(t, c, t->comm, PROF_START_EXEC, 0);
	p = find(t, c);
	if (!p || !(p->state & PROF_S_PENDING))
		return 0;
	commit_exec(t, p, c, hook);
	return 0;
}

/* task_rename also fires for prctl(PR_SET_NAME) and writes to /proc. */
static __always_inline int on_rename(struct task_struct *renamed, const char *comm)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct prof_cpu *c;

	/* The macro and not the field: its bit differs between kernels. */
	if (!bpf_core_field_exists(t->in_execve) || renamed != t ||
	    !BPF_CORE_READ_BITFIELD_PROBED(t, in_execve))
		return 0;
	c = this_cpu();
	if (c)
		open_window(t, c, comm, PROF_START_TASK_RENAME, 0);
	return 0;
}

static __always_inline int on_fork(struct task_struct *child, u16 hook)
{
	struct task_struct *parent = bpf_get_current_task_btf();
	struct prof_cpu *c = this_cpu();
	struct prof_proc *p;
	struct prof_scratch *s;
	struct prof_proc *kid;
	u32 tgid;

	if (!c)
		return 0;
	p = find(parent, c);
	if (!p)
		return 0;
	tgid = READ(child, tgid);
	if (tgid == parent->tgid) {
		__sync_fetch_and_add(&p->live, 1);
		__sync_fetch_and_add(&p->threads, 1);
		if (counts() && (p->state & (PROF_S_ARMED | PROF_S_PAUSED | PROF_S_OFF)) &&
		    !add_thread_counts(c, (u64)child))
			p->quality |= PROF_Q_COUNTS_PART;
		return 0;
	}
	if (!p->follow && !p->kids_tree_eq && !p->kids_tree_ne)
		return 0;
	s = get_scratch();
	if (!s)
		return 0;
	c->counters[PROF_C_FORKS]++;
	kid = &s->proc;
	__builtin_memset(kid, 0, sizeof(*kid));
	kid->id.start_ns = READ(child, start_boottime);
	kid->follow = p->follow;
	kid->tree_eq = kid->kids_tree_eq = p->kids_tree_eq;
	kid->tree_ne = kid->kids_tree_ne = p->kids_tree_ne;
	kid->live = 1;
	if (p->follow) {
		kid->rules = p->follow;
		kid->state = armed_unless_paused() | PROF_S_INHERITED;
		kid->t0 = bpf_ktime_get_ns();
		kid->start = PROF_START_FORK;
		kid->threads = 1;
		kid->id.pid = kid->id.tid = tgid;
		kid->id.ppid = parent->tgid;
		kid->id.cgroup_id = p->id.cgroup_id;
		kid->id.uid = p->id.uid;
		kid->id.gid = p->id.gid;
		/* clone may have made new ones. */
		kid->id.mntns = READ(child, nsproxy, mnt_ns, ns.inum);
		kid->id.pidns = task_pidns(child);
		__builtin_memcpy(kid->id.comm, p->id.comm, sizeof(kid->id.comm));
	}
	if (counts() && p->follow &&
	    !(add_thread_counts(c, (u64)child) && add_proc_counts(c, tgid)))
		kid->quality |= PROF_Q_COUNTS_PART;
	if (put_entry(tgid, kid)) {
		if (kid->state & PROF_S_ARMED) {
			c->counters[PROF_C_ENABLED]++;
			c->counters[PROF_C_LOST_MAP_FULL]++;
		} else {
			c->counters[PROF_C_LOST_FOLLOW]++;
		}
		return 0;
	}
	/* A child's counters all start at zero: so does its base line. */
	if (kid->state & PROF_S_ARMED)
		emit_enable_child(parent, kid, c, s, hook);
	return 0;
}

/* Wait-status form. The group's code, when the group was told to exit, else the
 * leader's, which may have left earlier. */
static __always_inline s32 exit_status(struct task_struct *t, s32 code)
{
	struct signal_struct *sig = READ(t, signal);

	if (READ(sig, flags) & PROF_SIGNAL_GROUP_EXIT)
		return READ(sig, group_exit_code);
	if (t->pid == t->tgid)
		return code;
	return READ(t, group_leader, exit_code);
}

/*
 * A thread exits. `code` is its own exit code; `group_dead` what the kernel
 * says of it being the last, or -1 where it does not say.
 */
static __always_inline int on_exit(s32 code, int group_dead, u16 hook)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct prof_figures now = {}, *born;
	struct prof_cpu *c = this_cpu();
	struct prof_proc *p;
	u64 key = (u64)t;
	bool known = 1, last, pending;
	u16 quality = 0;
	u64 time, peak;
	s32 status;

	if (!c)
		return 0;
	p = find(t, c);
	if (!p)
		return 0;
	time = bpf_ktime_get_ns();
	if (p->state & (PROF_S_ARMED | PROF_S_PENDING))
		snapshot(t, c, time, &now, &quality);
	if (attaches() && p->attach_boot_ns && t->start_boottime < p->attach_boot_ns) {
		/* Alive at the attach: what came before is not ours. */
		born = bpf_map_lookup_elem(&thread_base, &key);
		if (born) {
			sub_figures(&now, born);
			bpf_map_delete_elem(&thread_base, &key);
		} else {
			/* Gone before its base line was taken. */
			known = 0;
		}
	}
	if (counts()) {
		struct prof_thread_counts *tc = thread_counts_of(key);

		if (tc)
			update_counts(c, t, tc, 0);
		c->counting = 0;
	}
	if (config.per_thread && known && (p->state & PROF_S_ARMED))
		emit_thread(t, p, c, &now, time, hook, quality);
	pending = p->state & PROF_S_PENDING;
	/* Before the thread is given up: whoever is last reports what is there. Inside
	 * exec it is the only one, and its figures are divided between two images. */
	if (!pending) {
		if (known && (p->state & PROF_S_ARMED))
			add_figures(&p->acc, &now, is_last_thread(p));
		if (counts())
			fold_counts(t, p);
	}
	if (attaches() && (p->state & PROF_S_THREADS_UNKNOWN)) {
		last = group_dead >= 0 ? group_dead :
					 READ(t, signal, live.counter) == (config.exit_is_entry ? 1 : 0);
	} else {
		last = known && __sync_fetch_and_add(&p->live, -1) == 1;
	}
	if (!last)
		return 0;
	status = exit_status(t, code);
	if (pending) {
		/* Killed inside exec, past the point of no return: no enable record
		 * was written for the image that never ran, the reader makes one up. */
		c->counters[PROF_C_DIED_IN_EXEC]++;
		end_image(t, p, c, hook);
		begin_image(t, p);
		quality |= PROF_Q_DIED_IN_EXEC;
		if (p->state & PROF_S_ARMED) {
			c->counters[PROF_C_ENABLED]++;
			add_figures(&p->acc, &now, 1);
		}
		if (counts())
			fold_counts(t, p);
	}
	if (__sync_fetch_and_and(&p->state, ~PROF_S_ARMED) & PROF_S_ARMED) {
		peak = peak_rss_pages(t, p->base_maxrss, &quality);
		if (hook == PROF_HOOK_SCHED_PROCESS_EXIT && !exit_tells_group_dead())
			quality |= PROF_Q_NO_MM_END;
		emit_disable(t, p, c, 0, time, peak, status, hook, PROF_F_EXIT, quality);
	}
	if (counts())
		drop_counts(t, c);
	drop_entry(t->tgid);
	return 0;
}

/* -- raw tracepoints ---------------------------------------------------- */

SEC("raw_tp/task_rename")
int raw_task_rename(struct bpf_raw_tracepoint_args *ctx)
{
	return on_rename((void *)ctx->args[0], (void *)ctx->args[1]);
}

SEC("raw_tp/sched_process_exec")
int raw_process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	return on_exec(PROF_HOOK_SCHED_PROCESS_EXEC);
}

SEC("raw_tp/sched_process_fork")
int raw_process_fork(struct bpf_raw_tracepoint_args *ctx)
{
	return on_fork((void *)ctx->args[1], PROF_HOOK_SCHED_PROCESS_FORK);
}

SEC("raw_tp/sched_process_exit")
int raw_process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();
	/* From 6.16 the second argument says whether the group is dead; before,
	 * the register holds anything. */
	int group_dead = exit_tells_group_dead() ? !!(ctx->args[1] & 0xff) : -1;

	return on_exit(t->exit_code, group_dead, PROF_HOOK_SCHED_PROCESS_EXIT);
}

SEC("raw_tp/sched_switch")
int raw_switch(struct bpf_raw_tracepoint_args *ctx)
{
	return on_switch(ctx->args[2]);
}

/* Run by user space on a CPU of its choice: the counts of what runs there are brought
 * up to date, without waiting for a switch. It interrupts whatever that is. */
SEC("raw_tp")
int raw_refresh(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct prof_cpu *c = this_cpu();
	struct prof_thread_counts *tc;

	if (!c || c->busy || !*(volatile u32 *)occupied_at(t->tgid))
		return 0;
	tc = thread_counts_of((u64)t);
	if (tc && !(t->flags & PROF_PF_EXITING))
		update_counts(c, t, tc, 0);
	return 0;
}

/* -- BTF tracepoints ---------------------------------------------------- */

SEC("tp_btf/task_rename")
int BPF_PROG(btf_task_rename, struct task_struct *t, const char *comm)
{
	return on_rename(t, comm);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(btf_process_exec, struct task_struct *t)
{
	return on_exec(PROF_HOOK_SCHED_PROCESS_EXEC);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(btf_process_fork, struct task_struct *parent, struct task_struct *child)
{
	return on_fork(child, PROF_HOOK_SCHED_PROCESS_FORK);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(btf_process_exit, struct task_struct *t)
{
	int group_dead = -1;

	if (exit_tells_group_dead())
		group_dead = !!(((u64 *)ctx)[1] & 0xff);
	return on_exit(t->exit_code, group_dead, PROF_HOOK_SCHED_PROCESS_EXIT);
}

/* -- kprobes ------------------------------------------------------------ */

/* Entry of the function that performs the exec: an attempt. */
SEC("kprobe")
int kprobe_exec(struct pt_regs *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct prof_cpu *c = this_cpu();
	struct prof_attempt a = {};
	u64 key = (u64)t;
	u16 quality = 0;

	if (!c)
		return 0;
	a.time_ns = bpf_ktime_get_ns();
	snapshot(t, c, a.time_ns, &a.figures, &quality);
	a.quality = quality;
	a.self_exec_id = t->self_exec_id;
	if (bpf_map_update_elem(&attempts, &key, &a, BPF_ANY))
		c->counters[PROF_C_LOST_ATTEMPT]++;
	return 0;
}

/* Its return: whether the exec succeeded. If it failed past the point of no
 * return, the task is about to die and the exit hook commits what is pending. */
SEC("kretprobe")
int kretprobe_exec(struct pt_regs *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct prof_cpu *c = this_cpu();
	int ret = (int)PT_REGS_RC(ctx);
	struct prof_attempt *a;
	struct prof_proc *p;
	u64 key = (u64)t;

	if (!c)
		return 0;
	a = bpf_map_lookup_elem(&attempts, &key);
	if (a && t->self_exec_id != a->self_exec_id)
		open_window(t, c, t->comm, PROF_START_EXEC_ENTRY, a);
	if (a)
		bpf_map_delete_elem(&attempts, &key);
	if (ret < 0)
		return 0;
	c->counters[PROF_C_EXECS]++;
	if (!a)
		open_window(t, c, t->comm, PROF_START_EXEC, 0);
	p = find(t, c);
	if (p && (p->state & PROF_S_PENDING))
		commit_exec(t, p, c, PROF_HOOK_EXEC_RETURN);
	return 0;
}

SEC("kprobe")
int kprobe_new_task(struct pt_regs *ctx)
{
	return on_fork((void *)PT_REGS_PARM1(ctx), PROF_HOOK_NEW_TASK);
}

SEC("kprobe")
int kprobe_exit(struct pt_regs *ctx)
{
	return on_exit((s32)PT_REGS_PARM1(ctx), -1, PROF_HOOK_DO_EXIT);
}

/* -- on request --------------------------------------------------------- */

static __always_inline void iter_attach(struct task_struct *t, struct prof_proc *p)
{
	struct prof_figures f;
	u64 key = (u64)t;

	if (!(p->state & PROF_S_ATTACHING) || t->start_boottime >= p->attach_boot_ns)
		return;
	/* On its way out, or a zombie: its exit may have been passed already. */
	if (t->flags & PROF_PF_EXITING)
		return;
	read_figures(t, &f);
	if (!bpf_map_update_elem(&thread_base, &key, &f, BPF_NOEXIST))
		__sync_fetch_and_add(&p->live, 1);
	if (t->pid == t->tgid) {
		read_ident(t, &p->id);
		p->base_maxrss = READ(t, signal, maxrss);
	}
	if (counts()) {
		u32 tgid = t->tgid;

		bpf_map_update_elem(&proc_counts, &tgid, &no_counts, BPF_NOEXIST);
		if (bpf_map_update_elem(&thread_counts, &key, &no_counts, BPF_NOEXIST))
			p->quality |= PROF_Q_COUNTS_PART;
	}
}

/* `live` was started at one, so that exits during the attach could not bring it
 * to nothing: give that one back. */
static __always_inline void iter_attached(struct prof_proc *p)
{
	if (!(p->state & PROF_S_ATTACHING))
		return;
	p->state &= ~PROF_S_ATTACHING;
	__sync_fetch_and_add(&p->live, -1);
}

/* A PAUSED process is known, its threads are counted, so what is missing is the base
 * line of each thread that was there before. */
static __always_inline void iter_resume(struct task_struct *t, struct prof_proc *p)
{
	struct prof_figures f;
	u64 key = (u64)t;

	if (!(p->state & PROF_S_PAUSED) || t->start_boottime >= globals.resumed_boot_ns)
		return;
	read_figures(t, &f);
	bpf_map_update_elem(&thread_base, &key, &f, BPF_ANY);
	if (counts())
		bpf_map_update_elem(&thread_counts, &key, &no_counts, BPF_ANY);
}

/* By the first of its threads that has a base line; true if it is armed by this. */
static __always_inline bool iter_resumed(struct task_struct *t, struct prof_proc *p)
{
	u64 key = (u64)t;
	u32 tgid = t->tgid;

	if (!bpf_map_lookup_elem(&thread_base, &key) ||
	    !(__sync_fetch_and_and(&p->state, ~PROF_S_PAUSED) & PROF_S_PAUSED))
		return 0;
	read_ident(t, &p->id);
	p->attach_boot_ns = globals.resumed_boot_ns;
	p->t0 = globals.resumed_ns;
	p->start = PROF_START_ATTACH;
	p->threads = p->live;
	p->base_maxrss = READ(t, signal, maxrss);
	p->quality = 0;
	__builtin_memset(&p->base, 0, sizeof(p->base));
	__builtin_memset(&p->acc, 0, sizeof(p->acc));
	if (counts())
		bpf_map_update_elem(&proc_counts, &tgid, &no_counts, BPF_ANY);
	__sync_fetch_and_or(&p->state, PROF_S_ARMED | PROF_S_ATTACHED);
	return 1;
}

static __always_inline bool iter_pause(struct prof_proc *p)
{
	if (!(__sync_fetch_and_and(&p->state, ~PROF_S_ARMED) & PROF_S_ARMED))
		return 0;
	__sync_fetch_and_or(&p->state, PROF_S_PAUSED);
	return 1;
}

SEC("iter/task")
int iter_tasks(struct bpf_iter__task *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *t = ctx->task;
	struct prof_scratch *s;
	struct prof_proc *p;
	struct prof_live *l;
	struct prof_cpu *c;
	u64 rules = 0;
	u16 quality = 0;
	u64 key;
	u32 tgid;

	if (!t)
		return 0;
	tgid = t->tgid;
	p = bpf_map_lookup_elem(&procs, &tgid);
	if (p && !owns(p, t))
		p = 0;
	if (globals.iter_mode == PROF_ITER_ATTACH || globals.iter_mode == PROF_ITER_ATTACHED) {
		if (!p)
			return 0;
		if (globals.iter_mode == PROF_ITER_ATTACH)
			iter_attach(t, p);
		else
			iter_attached(p);
		return 0;
	}
	if (globals.iter_mode == PROF_ITER_RESUME) {
		if (p)
			iter_resume(t, p);
		return 0;
	}
	if (globals.iter_mode == PROF_ITER_PAUSE && !(p && iter_pause(p)))
		return 0;
	if (globals.iter_mode == PROF_ITER_RESUMED && !(p && iter_resumed(t, p)))
		return 0;
	s = scratch_of(PROF_USER_ITER);
	c = cpu_state_of(PROF_USER_ITER);
	if (!s || !c)
		return 0;
	if (globals.iter_mode == PROF_ITER_LIST) {
		/* A process without an address space is a kernel thread. */
		if ((p && (p->state & PROF_S_ARMED)) || t->pid != t->tgid || !READ(t, mm))
			return 0;
		rules = evaluate(t, t->comm, p, c, s);
		if (!rules)
			return 0;
	} else if (globals.iter_mode == PROF_ITER_READ && (!p || !(p->state & PROF_S_ARMED))) {
		return 0;
	}
	l = &s->live;
	__builtin_memset(l, 0, sizeof(*l));
	read_ident(t, &l->id);
	l->rules = p && !rules ? p->rules : rules;
	/* Without SMP there is no such field. */
	if (bpf_core_field_exists(t->on_cpu))
		l->on_cpu = READ(t, on_cpu);
	l->thread_start_ns = t->start_boottime;
	read_figures(t, &l->figures);
	if (p && p->attach_boot_ns && t->start_boottime < p->attach_boot_ns) {
		struct prof_figures *born;

		key = (u64)t;
		born = bpf_map_lookup_elem(&thread_base, &key);
		if (born)
			sub_figures(&l->figures, born);
	}
	if (p)
		l->peak_rss = peak_rss_pages(t, p->base_maxrss, &quality) * config.page_size;
	/* Another task's clock cannot be read now: as of its last update. */
	l->quality = quality | PROF_Q_CLOCK_STALE;
	if (counts()) {
		struct prof_thread_counts *tc = thread_counts_of((u64)t);

		l->has_counts = !!tc;
		bpf_seq_write(seq, l, sizeof(*l));
		if (!tc)
			tc = (void *)&no_counts;
		bpf_seq_write(seq, tc, 2 * sizeof(u64) + config.counters * sizeof(struct prof_count));
		return 0;
	}
	bpf_seq_write(seq, l, sizeof(*l));
	return 0;
}

/*
 * Finds the cpu_clock events. Run by the thread that opened them: they are on its
 * own list. Each run does a stretch of the list and leaves off at `cursor`; user
 * space runs it until that is 0 again.
 */
/* One event of the list; true at its end. */
static __always_inline bool calibrate_step(u64 head, u64 *n)
{
	struct list_head *at = (void *)*n;
	struct perf_event *e;
	int cpu;

	if (*n == head || !at)
		return 1;
	e = (void *)at - bpf_core_field_offset(struct perf_event, owner_entry);
	cpu = BPF_CORE_READ(e, cpu);
	/* The type is the core's own; config 0 is the cpu clock, and nothing else
	 * is open yet in this thread. */
	if (cpu >= 0 && cpu < PROF_MAX_CPUS && BPF_CORE_READ(e, attr.config) == 0)
		globals.clock_event[cpu] = (u64)e;
	*n = (u64)BPF_CORE_READ(at, next);
	return 0;
}

SEC("syscall")
int prof_calibrate(void *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();
	u64 head = (u64)t + bpf_core_field_offset(struct task_struct, perf_event_list);
	u64 n = globals.cursor;

	if (!n)
		n = (u64)BPF_CORE_READ(t, perf_event_list.next);
	PROF_REPEAT(i, PROF_MAX_CPUS, 64, calibrate_step(head, &n));
	globals.cursor = n == head ? 0 : n;
	return 0;
}

/* Notes where an event that the kernel itself raises keeps its count. Run by the process
 * that has it open. */
SEC("syscall")
int prof_find_event(struct prof_own_event_at *at)
{
	struct prof_own_event found = { .since_ns = bpf_ktime_get_ns() };
	struct file *file = opened_file(at->fd);
	u32 slot = at->slot;

	found.event = file ? (u64)private_of(file) : 0;
	return bpf_map_update_elem(&own_events, &slot, &found, BPF_ANY);
}

/* -- where a program speaks of itself ------------------------------------ */

#include "include/region.h"
#include "include/switch.h"

SEC("uprobe")
int region_begin(struct pt_regs *ctx)
{
	return on_region_begin((const char *)PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx));
}

SEC("uprobe")
int region_end(struct pt_regs *ctx)
{
	return on_region_end();
}

SEC("uprobe")
int region_disable(struct pt_regs *ctx)
{
	return on_switch_off(0);
}

SEC("uprobe")
int region_enable(struct pt_regs *ctx)
{
	return on_switch_on(0);
}

/* From 6.7 on: one link for all probes of a file, which is attached and detached in one
 * go. Its cookie says which of them it is. */
SEC("uprobe.multi")
int region_multi(struct pt_regs *ctx)
{
	switch (bpf_get_attach_cookie(ctx)) {
	case PROF_PROBE_REGION_END:
		return on_region_end();
	case PROF_PROBE_REGION_BEGIN:
		return on_region_begin((const char *)PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx));
	case PROF_PROBE_DISABLE:
		return on_switch_off(1);
	case PROF_PROBE_ENABLE:
		return on_switch_on(1);
	}
	return 0;
}

SEC("raw_tp/sched_process_exit")
int region_exit(struct bpf_raw_tracepoint_args *ctx)
{
	return on_region_exit();
}
