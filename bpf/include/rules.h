/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which rules name a task. Every rule is a bit. In each dimension one look-up
 * tells which rules list the value; a rule stands if, in every dimension, it
 * has no `=` term or the value is listed, and no `!=` term lists it. The cost
 * grows with the dimensions in use and not with the number of rules.
 */
#ifndef PROF_RULES_H
#define PROF_RULES_H

static __always_inline bool dim_used(u32 dim)
{
	return config.dims & (1u << dim);
}

static __always_inline u64 apply(u64 rules, u32 dim, u64 eq, u64 ne)
{
	return rules & (eq | ~config.uses_eq[dim]) & ~ne;
}

static __always_inline u64 match_number(u64 rules, u32 dim, u64 value)
{
	struct prof_num_key key = { .value = value, .dim = dim };
	struct prof_match *m;

	if (!dim_used(dim) || !rules)
		return rules;
	m = bpf_map_lookup_elem(&match_num, &key);
	return apply(rules, dim, m ? m->eq : 0, m ? m->ne : 0);
}

/* A rule on a cgroup covers the cgroups below it. */
static __always_inline u64 match_cgroup(u64 rules, struct task_struct *t)
{
	struct cgroup *cg;
	u64 eq = 0, ne = 0;
	int level;

	if (!dim_used(PROF_DIM_CGROUP) || !rules)
		return rules;
	cg = task_cgroup(t, config.cgroup_subsys);
	if (!cg)
		return apply(rules, PROF_DIM_CGROUP, 0, 0);
	level = READ(cg, level);
#pragma clang loop unroll(disable)
	for (int i = 0; i < PROF_CGROUP_DEPTH; i++) {
		struct prof_num_key key = { .dim = PROF_DIM_CGROUP };
		struct prof_match *m;
		u64 id = 0;

		if (i > level)
			break;
		if (bpf_core_field_exists(cg->ancestors)) {
			struct cgroup *up = 0;

			bpf_probe_read_kernel(&up, sizeof(up),
					      (void *)cg + bpf_core_field_offset(struct cgroup, ancestors) +
						      i * 8);
			if (up)
				id = READ(up, kn, id);
		} else {
			bpf_probe_read_kernel(&id, sizeof(id),
					      (void *)cg +
						      bpf_core_field_offset(struct cgroup___ids, ancestor_ids) +
						      i * 8);
		}
		key.value = id;
		m = bpf_map_lookup_elem(&match_num, &key);
		if (m) {
			eq |= m->eq;
			ne |= m->ne;
		}
	}
	return apply(rules, PROF_DIM_CGROUP, eq, ne);
}

static __always_inline void lookup_string(struct prof_str_key *key, u32 dim, u32 len, u64 *eq, u64 *ne)
{
	struct prof_match *m;

	key->dim = dim;
	key->prefixlen = 8 + len * 8;
	m = bpf_map_lookup_elem(&match_str, key);
	if (m) {
		*eq |= m->eq;
		*ne |= m->ne;
	}
}

static __always_inline u64 match_comm(u64 rules, const char *comm, struct prof_str_key *key)
{
	u64 eq = 0, ne = 0;
	long len;

	if (!(dim_used(PROF_DIM_COMM) || dim_used(PROF_DIM_COMM_SUFFIX)) || !rules)
		return rules;
	/* Literals are stored with their NUL: len counts it. */
	len = bpf_probe_read_kernel_str(key->data, PROF_COMM_LEN, comm);
	if (len <= 0 || len > PROF_COMM_LEN)
		return apply(rules, PROF_DIM_COMM, 0, 0);
	if (dim_used(PROF_DIM_COMM))
		lookup_string(key, PROF_DIM_COMM, len, &eq, &ne);
	if (dim_used(PROF_DIM_COMM_SUFFIX)) {
		char forward[PROF_COMM_LEN];
		u32 n = len - 1;

		bpf_probe_read_kernel_str(forward, sizeof(forward), comm);
		for (u32 i = 0; i < PROF_COMM_LEN; i++) {
			if (i >= n)
				break;
			key->data[i] = forward[(n - 1 - i) & (PROF_COMM_LEN - 1)];
		}
		lookup_string(key, PROF_DIM_COMM_SUFFIX, n, &eq, &ne);
	}
	return apply(rules, PROF_DIM_COMM, eq, ne);
}

/* One character of the reversed path; true at the end. */
static __always_inline bool reverse_step(struct prof_str_key *key, struct prof_scratch *s, u32 at,
					 u32 n)
{
	if (at >= n || at >= PROF_MAX_PATTERN)
		return 1;
	key->data[at] = s->path[PROF_MAX_PATH - 1 - at];
	return 0;
}

static __always_inline u64 match_exe(u64 rules, struct task_struct *t, struct prof_scratch *s)
{
	struct prof_str_key *key = &s->key;
	u64 eq = 0, ne = 0;
	u32 off, len;

	if (!(dim_used(PROF_DIM_EXE) || dim_used(PROF_DIM_EXE_SUFFIX)) || !rules)
		return rules;
	off = build_path(s, t);
	if (off >= PROF_MAX_PATH)
		return apply(rules, PROF_DIM_EXE, 0, 0);
	len = PROF_MAX_PATH - off;
	if (dim_used(PROF_DIM_EXE)) {
		u32 n = len < PROF_MAX_PATTERN ? len : PROF_MAX_PATTERN;

		/* Or the compiler, which knows the range, drops the mask that the
		 * verifier needs. */
		barrier_var(n);
		n &= 255;
		bpf_probe_read_kernel(key->data, n, &s->path[off]);
		if (n < PROF_MAX_PATTERN) {
			key->data[n] = 0;
			n++;
		}
		lookup_string(key, PROF_DIM_EXE, n, &eq, &ne);
	}
	if (dim_used(PROF_DIM_EXE_SUFFIX)) {
		u32 n = len < PROF_MAX_PATTERN ? len : PROF_MAX_PATTERN;


		PROF_REPEAT(i, PROF_MAX_PATTERN, PROF_MAX_PATTERN, reverse_step(key, s, i, n));
		lookup_string(key, PROF_DIM_EXE_SUFFIX, n, &eq, &ne);
	}
	return apply(rules, PROF_DIM_EXE, eq, ne);
}

/*
 * The rules that name the task with the given name; `p` is its entry, if it
 * has one. Cheap dimensions first: each stops when no rule is left.
 */
static __always_inline u64 evaluate(struct task_struct *t, const char *comm, struct prof_proc *p,
				    struct prof_cpu *c, struct prof_scratch *s)
{
	u64 rules = config.rules;

	c->counters[PROF_C_EVALUATED]++;
	if (dim_used(PROF_DIM_TREE))
		rules = apply(rules, PROF_DIM_TREE, p ? p->tree_eq : 0, p ? p->tree_ne : 0);
	rules = match_number(rules, PROF_DIM_PID, t->tgid);
	if (dim_used(PROF_DIM_UID))
		rules = match_number(rules, PROF_DIM_UID, READ(t, cred, uid.val));
	if (dim_used(PROF_DIM_GID))
		rules = match_number(rules, PROF_DIM_GID, READ(t, cred, gid.val));
	rules = match_comm(rules, comm, &s->key);
	if (dim_used(PROF_DIM_MNTNS))
		rules = match_number(rules, PROF_DIM_MNTNS, task_mntns(t));
	if (dim_used(PROF_DIM_PIDNS))
		rules = match_number(rules, PROF_DIM_PIDNS, task_pidns(t));
	rules = match_cgroup(rules, t);
	if (dim_used(PROF_DIM_CONTAINER) && rules)
		rules = match_number(rules, PROF_DIM_CONTAINER,
				     task_container(t, c, s));
	return match_exe(rules, t, s);
}

#endif /* PROF_RULES_H */
