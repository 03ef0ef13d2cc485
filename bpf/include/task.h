/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reading what the kernel already keeps about a task. Nothing here writes. */
#ifndef PROF_TASK_H
#define PROF_TASK_H

/* Offset of each CPU's data, to reach per-CPU RSS counters; x86 only, and
 * absent elsewhere: then the counters are approximate and said to be. */
extern const unsigned long this_cpu_off __ksym __weak;

/* Execs since the fork: the child starts with the parent's number. */
static __always_inline u32 exec_number(struct task_struct *t)
{
	return (u32)(t->self_exec_id - t->parent_exec_id);
}

/*
 * Nanoseconds that the running task has run since its runtime was last
 * updated. sum_exec_runtime is only brought up to date at ticks and switches,
 * so it is up to a tick old here. rq->clock is the scheduler's clock at its
 * last update, clock_task the same less interrupt and stolen time; cpu_clock
 * gives that same clock now.
 */
static __always_inline u64 unaccounted(struct task_struct *t, u16 *quality)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct bpf_perf_event_value v = {};
	struct rq *rq = t->se.cfs_rq->rq;
	u64 now, clock, ran;

	if (!config.exact_clock || cpu >= PROF_MAX_CPUS || !clock_base[cpu])
		goto stale;
	if (bpf_perf_event_read_value(&cpu_clock, BPF_F_CURRENT_CPU, &v, sizeof(v)))
		goto stale;
	now = clock_base[cpu] + v.counter;
	clock = rq->clock;
	/* A CPU that went away and came back has a new clock event. */
	if (now < clock || now - clock > 10000000000ULL)
		goto stale;
	ran = rq->clock_task - t->se.exec_start;
	if ((s64)ran < 0)
		ran = 0;
	return ran + (now - clock);
stale:
	*quality |= PROF_Q_CLOCK_STALE;
	count(PROF_C_CLOCK_STALE);
	return 0;
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

/* The figures of the running task as of now. */
static __always_inline void snapshot(struct task_struct *t, struct prof_figures *f, u16 *quality)
{
	read_figures(t, f);
	f->task_clock += unaccounted(t, quality);
}

static __always_inline void add_figures(struct prof_figures *to, const struct prof_figures *f)
{
	const u64 *from = (const u64 *)f;
	u64 *sum = (u64 *)to;

#pragma clang loop unroll(full)
	for (int i = 0; i < PROF_NR_FIGURES; i++)
		if (from[i])
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

/* Resident pages of one kind. From 6.2 a counter is a shared part and a part
 * per CPU; the shared part alone can be off by 32 pages or more a CPU. */
static __always_inline s64 rss_counter(struct mm_struct *mm, int which, bool this_cpu_only,
				       u16 *quality)
{
	struct percpu_counter *c = &mm->rss_stat[which];
	s64 sum = c->count;
	s32 *parts = c->counters;

	if (!bpf_ksym_exists(&this_cpu_off)) {
		*quality |= PROF_Q_RSS_APPROX;
		return sum;
	}
	if (this_cpu_only) {
		const unsigned long *off = bpf_this_cpu_ptr(&this_cpu_off);
		s32 part = 0;

		bpf_probe_read_kernel(&part, sizeof(part), (void *)parts + *off);
		return sum + part;
	}
	for (u32 cpu = 0; cpu < 512; cpu++) {
		const unsigned long *off;
		s32 part = 0;

		if (cpu >= config.nr_cpus)
			break;
		off = bpf_per_cpu_ptr(&this_cpu_off, cpu);
		if (!off)
			break;
		bpf_probe_read_kernel(&part, sizeof(part), (void *)parts + *off);
		sum += part;
	}
	return sum;
}

static __always_inline u64 rss_pages(struct mm_struct *mm, bool this_cpu_only, u16 *quality)
{
	s64 file, anon, shm;

	if (bpf_core_field_exists(((struct mm_struct___pre62 *)0)->rss_stat.count)) {
		struct mm_struct___pre62 *old = (void *)mm;

		file = BPF_CORE_READ(old, rss_stat.count[PROF_MM_FILEPAGES].counter);
		anon = BPF_CORE_READ(old, rss_stat.count[PROF_MM_ANONPAGES].counter);
		shm = BPF_CORE_READ(old, rss_stat.count[PROF_MM_SHMEMPAGES].counter);
	} else {
		file = rss_counter(mm, PROF_MM_FILEPAGES, this_cpu_only, quality);
		anon = rss_counter(mm, PROF_MM_ANONPAGES, this_cpu_only, quality);
		shm = rss_counter(mm, PROF_MM_SHMEMPAGES, this_cpu_only, quality);
	}
	file += anon + shm;
	return file < 0 ? 0 : file;
}

/*
 * Peak resident pages of the running address space. signal->maxrss is kept
 * over execs, so it belongs to this image only if it has grown since.
 */
static __always_inline u64 peak_rss_pages(struct task_struct *t, u64 base_maxrss, bool one_cpu,
					  u16 *quality)
{
	u64 maxrss = t->signal->maxrss;
	struct mm_struct *mm = t->mm;
	u64 rss, high;

	if (maxrss > base_maxrss)
		return maxrss;
	if (!mm) {
		*quality |= base_maxrss ? PROF_Q_RSS_BOUND : PROF_Q_RSS_NONE;
		return maxrss;
	}
	rss = rss_pages(mm, one_cpu, quality);
	high = mm->hiwater_rss;
	return rss > high ? rss : high;
}

static __always_inline struct cgroup *task_cgroup(struct task_struct *t)
{
	struct css_set *set = t->cgroups;

	if (config.cgroup_subsys != ~0u) {
		u32 at = bpf_core_field_offset(struct css_set, subsys) + config.cgroup_subsys * 8;
		struct cgroup_subsys_state *css = 0;

		bpf_probe_read_kernel(&css, sizeof(css), (void *)set + at);
		return css ? BPF_CORE_READ(css, cgroup) : 0;
	}
	return set->dfl_cgrp;
}

static __always_inline u32 task_pidns(struct task_struct *t)
{
	struct pid *pid = BPF_CORE_READ(t, thread_pid);
	struct pid_namespace *ns = 0;
	u32 level, at;

	if (!pid)
		return 0;
	level = BPF_CORE_READ(pid, level);
	at = bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid) +
	     bpf_core_field_offset(struct upid, ns);
	bpf_probe_read_kernel(&ns, sizeof(ns), (void *)pid + at);
	return ns ? BPF_CORE_READ(ns, ns.inum) : 0;
}

static __always_inline u32 task_mntns(struct task_struct *t)
{
	struct nsproxy *ns = t->nsproxy;

	return ns ? BPF_CORE_READ(ns, mnt_ns, ns.inum) : 0;
}

static __always_inline void read_ident(struct task_struct *t, struct prof_ident *id)
{
	struct cgroup *cg = task_cgroup(t);
	struct task_struct *leader = t->group_leader;

	id->start_ns = leader->start_boottime;
	id->cgroup_id = cg ? BPF_CORE_READ(cg, kn, id) : 0;
	id->pid = t->tgid;
	id->tid = t->pid;
	id->ppid = t->real_parent->tgid;
	id->uid = t->cred->uid.val;
	id->gid = t->cred->gid.val;
	id->mntns = task_mntns(t);
	id->pidns = task_pidns(t);
	id->exec = exec_number(t);
	bpf_probe_read_kernel(id->comm, sizeof(id->comm), t->comm);
}

/*
 * The path of the file, built from its last component back, ending at
 * path[PROF_MAX_PATH]. Returns where it starts; what does not fit is cut at
 * the front. A file on a pseudo file system (memfd) has no parent: its own
 * name stands alone.
 */
static __always_inline u32 build_path(struct prof_scratch *s, struct task_struct *t, u16 *quality)
{
	struct mm_struct *mm = t->mm;
	struct dentry *d, *parent, *root;
	struct mount *mnt, *up;
	struct vfsmount *vfs;
	u32 off = PROF_MAX_PATH;
	struct file *file;

	if (!mm)
		return off;
	file = mm->exe_file;
	if (!file)
		return off;
	d = BPF_CORE_READ(file, f_path.dentry);
	vfs = BPF_CORE_READ(file, f_path.mnt);
	mnt = (void *)vfs - bpf_core_field_offset(struct mount, mnt);
	root = BPF_CORE_READ(vfs, mnt_root);
	for (int i = 0; i < 64; i++) {
		struct qstr name;

		parent = BPF_CORE_READ(d, d_parent);
		if (d == root || d == parent) {
			up = BPF_CORE_READ(mnt, mnt_parent);
			if (d == root && up != mnt) {
				d = BPF_CORE_READ(mnt, mnt_mountpoint);
				mnt = up;
				root = BPF_CORE_READ(mnt, mnt.mnt_root);
				continue;
			}
			if (off != PROF_MAX_PATH)
				return off;
		}
		name.len = BPF_CORE_READ(d, d_name.len) & 255;
		name.name = BPF_CORE_READ(d, d_name.name);
		if (off < name.len + 1) {
			*quality |= PROF_Q_PATH_CUT;
			return off;
		}
		off -= name.len + 1;
		if (off > PROF_MAX_PATH - 1)
			return PROF_MAX_PATH;
		s->path[off] = '/';
		bpf_probe_read_kernel(&s->path[off + 1], name.len & 255, name.name);
		if (d == parent)
			return off;
		d = parent;
	}
	*quality |= PROF_Q_PATH_CUT;
	return off;
}

/* 64 hex digits somewhere in a cgroup's name: how every runtime names the
 * cgroup of a container (docker-ID.scope, cri-containerd-ID.scope, ID). */
static __always_inline bool container_name(struct cgroup *cg, char *buf, char *id)
{
	const char *name = BPF_CORE_READ(cg, kn, name);
	u32 run = 0;
	long len;

	len = bpf_probe_read_kernel_str(buf, 128, name);
	if (len <= PROF_CONTAINER_ID_LEN)
		return 0;
	for (u32 i = 0; i < 128; i++) {
		char c;

		if (i >= len - 1)
			break;
		c = buf[i];
		if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))
			run++;
		else
			run = 0;
		if (run == PROF_CONTAINER_ID_LEN) {
			u32 at = i + 1 - PROF_CONTAINER_ID_LEN;

			bpf_probe_read_kernel(id, PROF_CONTAINER_ID_LEN, buf + (at & 127));
			return 1;
		}
	}
	return 0;
}

/* The container of a task, by its cgroup or the one above (a payload may have
 * made cgroups of its own inside). Uses the front of the path buffer. */
static __always_inline bool task_container(struct task_struct *t, struct prof_scratch *s, char *id)
{
	struct cgroup *cg = task_cgroup(t);
	int level;

	if (!cg)
		return 0;
	level = BPF_CORE_READ(cg, level);
	if (level <= 0)
		return 0;
	if (container_name(cg, s->path, id))
		return 1;
	if (level > 1 && bpf_core_field_exists(cg->ancestors)) {
		struct cgroup *up = 0;

		bpf_probe_read_kernel(&up, sizeof(up),
				      (void *)cg + bpf_core_field_offset(struct cgroup, ancestors) +
					      (level - 1) * 8);
		if (up && container_name(up, s->path, id))
			return 1;
	}
	return 0;
}

#endif /* PROF_TASK_H */
