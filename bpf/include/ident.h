/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who a task is, of any task; and how the kernel's pointers are followed. */
#ifndef PROF_IDENT_H
#define PROF_IDENT_H

/*
 * Pointers are followed with READ(): plain loads (a fault reads as 0) where the
 * kernel lets a pointer be cast; BPF_CORE_READ, a helper call for each step, in the
 * object for kernels before 6.4. Not by dereference of what is trusted: for each pointer that
 * is loaded from a trusted one, the verifier searches the kernel's whole BTF by
 * name, which made loading take a second. A cast pointer is not trusted.
 */
#ifdef PROF_BEFORE_6_4
#define READ BPF_CORE_READ
#else
#define CAST(p) ((typeof(p))bpf_rdonly_cast((p), bpf_core_type_id_kernel(typeof(*(p)))))
#define READ(src, a, ...) ___arrow(CAST(src), a, ##__VA_ARGS__)
#endif

/* The cgroup of a task in one hierarchy: a v1 controller's, or v2 (~0). */
static __always_inline struct cgroup *task_cgroup(struct task_struct *t, u32 subsys)
{
	struct css_set *set = READ(t, cgroups);

	if (subsys != ~0u) {
		u32 at = bpf_core_field_offset(struct css_set, subsys) + subsys * 8;
		struct cgroup_subsys_state *css = 0;

		bpf_probe_read_kernel(&css, sizeof(css), (void *)set + at);
		return css ? READ(css, cgroup) : 0;
	}
	return READ(set, dfl_cgrp);
}

static __always_inline u32 task_pidns(struct task_struct *t)
{
	struct pid *pid = READ(t, thread_pid);
	struct pid_namespace *ns = 0;
	u32 level, at;

	if (!pid)
		return 0;
	level = READ(pid, level);
	at = bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid) +
	     bpf_core_field_offset(struct upid, ns);
	bpf_probe_read_kernel(&ns, sizeof(ns), (void *)pid + at);
	return ns ? READ(ns, ns.inum) : 0;
}

static __always_inline u32 task_mntns(struct task_struct *t)
{
	struct nsproxy *ns = READ(t, nsproxy);

	return ns ? READ(ns, mnt_ns, ns.inum) : 0;
}

/*
 * Of a task that has ended and is only kept by an event, the leader and the parent may
 * be gone: their memory can be another's by now. Then it is all that is told.
 */
static __always_inline void read_ident_of(struct task_struct *t, struct prof_ident *id, u32 subsys)
{
	struct cgroup *cg = task_cgroup(t, subsys);
	struct task_struct *leader = t;

	id->ppid = 0;
	if (READ(t, thread_pid)) {
		leader = READ(t, group_leader);
		id->ppid = READ(t, real_parent, tgid);
	}
	id->start_ns = READ(leader, start_boottime);
	id->cgroup_id = cg ? READ(cg, kn, id) : 0;
	id->pid = READ(t, tgid);
	id->tid = READ(t, pid);
	id->uid = READ(t, cred, uid.val);
	id->gid = READ(t, cred, gid.val);
	id->mntns = task_mntns(t);
	id->pidns = task_pidns(t);
	id->exec = (u32)(READ(t, self_exec_id) - READ(t, parent_exec_id));
	/* That of the process, as everywhere else. */
	bpf_probe_read_kernel(id->comm, sizeof(id->comm),
			      (void *)leader + bpf_core_field_offset(struct task_struct, comm));
}

#endif /* PROF_IDENT_H */
