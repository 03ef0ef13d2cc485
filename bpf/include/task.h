/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reading what the kernel already keeps about a task. Nothing here writes. */
#ifndef PROF_TASK_H
#define PROF_TASK_H

#include "ident.h"

/* A field of a task: by dereference of a trusted one, which costs least, unless tasks
 * are met that are not. */
#ifdef PROF_ANY_TASK
#define OF_TASK(t, field) READ(t, field)
#else
#define OF_TASK(t, field) ((t)->field)
#endif

/* Start of the process, ns since boot. */
static __always_inline u64 process_start(struct task_struct *t)
{
	return OF_TASK(t, pid) == OF_TASK(t, tgid) ? OF_TASK(t, start_boottime) :
						     READ(t, group_leader, start_boottime);
}

/* Execs since the fork: the child starts with the parent's number. */
static __always_inline u32 exec_number(struct task_struct *t)
{
	return (u32)(OF_TASK(t, self_exec_id) - OF_TASK(t, parent_exec_id));
}

#ifndef PROF_NO_FIGURES

/* A reading of the scheduler's clock serves this long: CLOCK_MONOTONIC is slewed
 * against it by 500 ppm at most, so what follows from it is off by 5 us at most. */
#define PROF_CLOCK_SERVES_NS 10000000ULL

/*
 * The scheduler's clock of this CPU at `mono`, which is now; 0 if it cannot be had.
 * Reading it costs as much as all the rest of a snapshot, so a storm of processes
 * goes by the last reading.
 */
static __always_inline u64 sched_clock_at(struct prof_cpu *c, u64 mono)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct bpf_perf_event_value v = {};
	struct perf_event *event;
	u64 since = mono - c->clock_mono;

	if (since < PROF_CLOCK_SERVES_NS)
		return c->clock_sched + since;
	if (!config.exact_clock || cpu >= PROF_MAX_CPUS)
		return 0;
	event = (void *)globals.clock_event[cpu];
	if (!event)
		return 0;
	if (bpf_perf_event_read_value(&cpu_clock, BPF_F_CURRENT_CPU, &v, sizeof(v)))
		return 0;
	/* The read has just put the clock here. Its count is not of use: it stands
	 * still whenever perf reschedules the events of the CPU. */
	c->clock_sched = READ(event, hw.prev_count.a.a.counter);
	c->clock_mono = bpf_ktime_get_ns();
	return c->clock_sched;
}

/*
 * Nanoseconds that the running task has run since its runtime was last
 * updated. sum_exec_runtime is only brought up to date at ticks and switches,
 * so it is up to a tick old here. rq->clock is the scheduler's clock at its
 * last update, clock_task the same less interrupt and stolen time.
 */
static __always_inline u64 unaccounted(struct task_struct *t, struct prof_cpu *c, u64 mono,
				       u16 *quality)
{
	struct rq *rq = READ(t, se.cfs_rq, rq);
	u64 now = sched_clock_at(c, mono), clock = READ(rq, clock);
	u64 ran;

	/* The event of a CPU that went away is not read any more. */
	if (!now || now + PROF_CLOCK_SERVES_NS < clock || (s64)(now - clock) > 10000000000LL) {
		*quality |= PROF_Q_CLOCK_STALE;
		c->counters[PROF_C_CLOCK_STALE]++;
		return 0;
	}
	if (now < clock)
		now = clock;
	ran = READ(rq, clock_task) - t->se.exec_start;
	if ((s64)ran < 0)
		ran = 0;
	return ran + (now - clock);
}

/* Everything but the correction of the clock, for any task. */
static __always_inline void read_figures(struct task_struct *t, struct prof_figures *f)
{
	f->task_clock = t->se.sum_exec_runtime;
	f->utime = t->utime;
	f->stime = t->stime;
	f->min_flt = t->min_flt;
	f->maj_flt = t->maj_flt;
	f->nvcsw = t->nvcsw;
	f->nivcsw = t->nivcsw;
	f->migrations = t->se.nr_migrations;
	f->run_delay = 0;
	f->rchar = 0;
	f->wchar = 0;
	f->read_bytes = 0;
	f->write_bytes = 0;
	f->cancelled_write_bytes = 0;
	if (bpf_core_field_exists(t->sched_info.run_delay))
		f->run_delay = t->sched_info.run_delay;
	if (bpf_core_field_exists(t->ioac.rchar)) {
		f->rchar = t->ioac.rchar;
		f->wchar = t->ioac.wchar;
	}
	if (bpf_core_field_exists(t->ioac.read_bytes)) {
		f->read_bytes = t->ioac.read_bytes;
		f->write_bytes = t->ioac.write_bytes;
		f->cancelled_write_bytes = t->ioac.cancelled_write_bytes;
	}
}

/* The figures of the running task at `mono`, which is now. */
static __always_inline void snapshot(struct task_struct *t, struct prof_cpu *c, u64 mono,
				     struct prof_figures *f, u16 *quality)
{
	read_figures(t, f);
	f->task_clock += unaccounted(t, c, mono, quality);
}

#endif /* PROF_NO_FIGURES */

/* Without a branch for each figure: the verifier would follow every combination. */
static __always_inline void add_figures(struct prof_figures *to, const struct prof_figures *f,
					bool alone)
{
	const u64 *from = (const u64 *)f;
	u64 *sum = (u64 *)to;

	if (alone) {
#pragma clang loop unroll(full)
		for (int i = 0; i < PROF_NR_FIGURES; i++)
			sum[i] += from[i];
		return;
	}
	/* Threads of a process exit at the same time. */
#pragma clang loop unroll(full)
	for (int i = 0; i < PROF_NR_FIGURES; i++)
		__sync_fetch_and_add(&sum[i], from[i]);
}

static __always_inline void sub_figures(struct prof_figures *from, const struct prof_figures *f)
{
	const u64 *less = (const u64 *)f;
	u64 *v = (u64 *)from;

#pragma clang loop unroll(full)
	for (int i = 0; i < PROF_NR_FIGURES; i++)
		v[i] -= less[i];
}

/* What came since `base`; its quality. A clock that is as of a tick may stand before one
 * that was exact. */
static __always_inline u16 figures_since(struct prof_figures *f, const struct prof_figures *base)
{
	sub_figures(f, base);
	if ((s64)f->task_clock >= 0)
		return 0;
	f->task_clock = 0;
	return PROF_Q_CLOCK_STALE;
}

/* Resident pages. From 6.2 a counter has a shared part and a part per CPU, and
 * only the shared part can be reached from here: it is off by up to a batch (32
 * pages, or twice the number of CPUs) for each CPU that was run on. */
static __always_inline u64 rss_pages(struct mm_struct *mm, u16 *quality)
{
	s64 file, anon, shm;

	if (bpf_core_field_exists(((struct mm_struct___pre62 *)0)->rss_stat.count)) {
		struct mm_struct___pre62 *old = (void *)mm;

		file = READ(old, rss_stat.count[PROF_MM_FILEPAGES].counter);
		anon = READ(old, rss_stat.count[PROF_MM_ANONPAGES].counter);
		shm = READ(old, rss_stat.count[PROF_MM_SHMEMPAGES].counter);
	} else {
		*quality |= PROF_Q_RSS_APPROX;
		file = READ(mm, rss_stat[PROF_MM_FILEPAGES].count);
		anon = READ(mm, rss_stat[PROF_MM_ANONPAGES].count);
		shm = READ(mm, rss_stat[PROF_MM_SHMEMPAGES].count);
	}
	file += anon + shm;
	return file < 0 ? 0 : file;
}

/*
 * Peak resident pages of the running address space. signal->maxrss is kept
 * over execs, so it belongs to this image only if it has grown since.
 */
static __always_inline u64 peak_rss_pages(struct task_struct *t, u64 base_maxrss, u16 *quality)
{
	u64 maxrss = READ(t, signal, maxrss);
	struct mm_struct *mm = READ(t, mm);
	u64 rss, high;

	if (maxrss > base_maxrss)
		return maxrss;
	if (!mm) {
		*quality |= base_maxrss ? PROF_Q_RSS_BOUND : PROF_Q_RSS_NONE;
		return maxrss;
	}
	rss = rss_pages(mm, quality);
	high = READ(mm, hiwater_rss);
	return rss > high ? rss : high;
}

static __always_inline void read_ident(struct task_struct *t, struct prof_ident *id)
{
	struct cgroup *cg = task_cgroup(t, config.ident_subsys);

	id->start_ns = process_start(t);
	id->cgroup_id = cg ? READ(cg, kn, id) : 0;
	id->pid = OF_TASK(t, tgid);
	id->tid = OF_TASK(t, pid);
	id->ppid = READ(t, real_parent, tgid);
	id->uid = READ(t, cred, uid.val);
	id->gid = READ(t, cred, gid.val);
	id->mntns = task_mntns(t);
	id->pidns = task_pidns(t);
	id->exec = exec_number(t);
	bpf_probe_read_kernel(id->comm, sizeof(id->comm), t->comm);
}

/*
 * Runs `step` up to `n` times, until it is true. From 6.4 with an iterator, whose
 * body the verifier walks a few times at most; before, it walks every round, which
 * is what most of the time to load is then spent on, so fewer are given.
 */
#ifdef PROF_BEFORE_6_4
#define PROF_REPEAT(i, n, n_before_6_4, step)                            \
	({                                                               \
		for (int i = 0; i < (n_before_6_4); i++)                 \
			if (step)                                        \
				break;                                   \
	})
#else
#define PROF_REPEAT(i, n, n_before_6_4, step)                            \
	({                                                               \
		int i;                                                   \
		bpf_for(i, 0, n) if (step) break;                        \
	})
#endif

struct prof_walk {
	struct dentry *d;
	struct dentry *root;
	struct mount *mnt;
};

/* One component, or one mount point; true at the end of the path. */
static __always_inline bool walk_step(struct prof_walk *w, struct prof_scratch *s)
{
	/* Copies: a field of ours is no field to relocate. */
	struct dentry *d = w->d, *parent;
	struct mount *mnt = w->mnt;
	u32 at, len;

	if (d == w->root) {
		struct mount *up = READ(mnt, mnt_parent);

		if (up == mnt)
			return 1;
		w->d = READ(mnt, mnt_mountpoint);
		w->mnt = up;
		w->root = READ(up, mnt.mnt_root);
		return 0;
	}
	parent = READ(d, d_parent);
	len = READ(d, d_name.len) & 255;
	at = s->path_at;
	if (at < len + 1)
		return 1;
	at = (at - len - 1) & (PROF_MAX_PATH - 1);
	/* Or the compiler takes the address from the value before the mask. */
	barrier_var(at);
	s->path_at = at;
	s->path[at] = '/';
	bpf_probe_read_kernel(&s->path[at + 1], len, READ(d, d_name.name));
	/* A file on a pseudo file system (memfd) has no parent. */
	if (d == parent)
		return 1;
	w->d = parent;
	return 0;
}

/*
 * A path, built from its last component back, ending at path[PROF_MAX_PATH]. Returns
 * where it starts; the front of what does not fit is missing.
 */
static __always_inline u32 build_path_of(struct prof_scratch *s, struct dentry *d,
					 struct vfsmount *vfs)
{
	struct prof_walk w;

	w.d = d;
	w.mnt = (void *)vfs - bpf_core_field_offset(struct mount, mnt);
	w.root = READ(vfs, mnt_root);
	s->path_at = PROF_MAX_PATH;
	PROF_REPEAT(i, 128, 40, walk_step(&w, s));
	return s->path_at;
}

static __always_inline u32 build_file_path(struct prof_scratch *s, struct file *file)
{
	return build_path_of(s, READ(file, f_path.dentry), READ(file, f_path.mnt));
}

/* A path that was built from `off` on, to where a record has room for PROF_MAX_PATH
 * bytes; how many those are. */
static __always_inline u32 copy_path(void *to, struct prof_scratch *s, u32 off)
{
	u32 len;

	if (off >= PROF_MAX_PATH)
		return 0;
	len = PROF_MAX_PATH - off;
	/* Or the compiler, which knows the range, drops the mask that the verifier
	 * needs. */
	barrier_var(len);
	len &= 2 * PROF_MAX_PATH - 1;
	if (len > PROF_MAX_PATH)
		len = 0;
	bpf_probe_read_kernel(to, len, &s->path[off]);
	return len;
}

/* The path of the executable. */
static __always_inline u32 build_path(struct prof_scratch *s, struct task_struct *t)
{
	struct mm_struct *mm = READ(t, mm);
	struct file *file;

	if (!mm)
		return PROF_MAX_PATH;
	file = READ(mm, exe_file);
	if (!file)
		return PROF_MAX_PATH;
	return build_file_path(s, file);
}

/* Whether eight characters are all of 0-9a-f: a byte at a time within a word,
 * without a branch, or the verifier would follow every combination. */
static __always_inline u64 not_hex(u64 w)
{
	const u64 ones = 0x0101010101010101ULL, high = 0x8080808080808080ULL;
	/* High bit of each byte: is it 7 bits, >= '0', > '9', >= 'a', > 'f'. */
	u64 low = w & ~high;
	u64 ge_0 = low + (0x80 - '0') * ones, gt_9 = low + (0x7f - '9') * ones;
	u64 ge_a = low + (0x80 - 'a') * ones, gt_f = low + (0x7f - 'f') * ones;
	u64 hex = (ge_0 & ~gt_9) | (ge_a & ~gt_f);

	return (~hex | w) & high;
}

/*
 * 64 hex digits at the end of a cgroup's name, or before its `.scope`: how every
 * runtime names the cgroup of a container (ID, docker-ID.scope,
 * cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope). Short names, the
 * common case, cost one copy.
 */
#define PROF_CGROUP_NAME 128
static __always_inline bool container_name(struct cgroup *cg, char *buf, u64 *id)
{
	const char *name = READ(cg, kn, name);
	u64 bad = 0, tail = 0;
	long len;
	u32 at;

	len = bpf_probe_read_kernel_str(buf, PROF_CGROUP_NAME, name);
	if (len <= PROF_CONTAINER_ID_LEN || len > PROF_CGROUP_NAME)
		return 0;
	at = len - 1 - PROF_CONTAINER_ID_LEN;
	if (at >= 6) {
		/* ".scope", read as the eight bytes that end in it. */
		bpf_probe_read_kernel(&tail, sizeof(tail), buf + ((len - 9) & (PROF_CGROUP_NAME - 1)));
		if (tail >> 16 == 0x65706f63732eULL)
			at -= 6;
	}
	at &= PROF_CGROUP_NAME - 1;
	barrier_var(at);
	bpf_probe_read_kernel(id, PROF_CONTAINER_ID_LEN, buf + at);
#pragma clang loop unroll(full)
	for (int i = 0; i < PROF_CONTAINER_ID_LEN / 8; i++)
		bad |= not_hex(id[i]);
	return !bad;
}

/* The container of a task, by its cgroup or the one above (a payload may have
 * made cgroups of its own inside). Uses the front of the path buffer. */
static __always_inline bool read_container(struct cgroup *cg, struct prof_cpu *c, struct prof_scratch *s)
{
	struct cgroup *up = 0;
	int level;

	if (container_name(cg, s->path, c->container_id))
		return 1;
	level = READ(cg, level);
	if (level <= 1 || !bpf_core_field_exists(cg->ancestors))
		return 0;
	bpf_probe_read_kernel(&up, sizeof(up),
			      (void *)cg + bpf_core_field_offset(struct cgroup, ancestors) +
				      (level - 1) * 8);
	return up && container_name(up, s->path, c->container_id);
}

/* Whether a task is in a container; its id is then in `c`. Ids of cgroups are not
 * used twice, so the last answer on this CPU stands for the same cgroup. */
static __always_inline bool task_container(struct task_struct *t, struct prof_cpu *c, struct prof_scratch *s)
{
	struct cgroup *cg = task_cgroup(t, config.ident_subsys);
	u64 id;

	if (!cg)
		return 0;
	id = READ(cg, kn, id);
	if (!id || id != c->container_cgroup) {
		c->in_container = read_container(cg, c, s);
		c->container_cgroup = id;
	}
	return c->in_container;
}

#endif /* PROF_TASK_H */
