/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is mapped where in the process that is sampled, and which files that is.
 *
 * It is read from the process itself, in the hook: so it is right at the time of the
 * sample, and the first sample of a process of a millisecond is as good as any. A file
 * that was never seen before gets a number and is told to user space, which makes its
 * table.
 *
 * What a loop does with one entry is a function of its own here, and so is a search: what
 * it leaves in registers and on the stack is gone when it returns, so that the verifier
 * finds each round like the one before it. Whether to go on is left in memory, and not
 * returned: on 6.12 a branch by what such a function returned was seen to go one way only.
 */
#ifndef PROF_MAPPINGS_H
#define PROF_MAPPINGS_H

/* By what tells files apart. Written here, and told once. Preallocated: the first sample
 * of a session may meet a dozen of them, and what is kept ready for an interrupt to
 * allocate is less. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PROF_MAX_FILES);
	__type(key, struct prof_file_key);
	__type(value, struct prof_file);
} files SEC(".maps");

/* Executable mappings of the processes that were sampled; removed at their exit. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct prof_space);
} spaces SEC(".maps");

/* Paths of files are built here. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROF_NR_SAMPLERS);
	__type(key, u32);
	__type(value, struct prof_scratch);
} file_scratch SEC(".maps");

/* Written by both halves, by user space through a mapping. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct prof_free_files);
} free_files SEC(".maps");

/* What is known of mappings serves this long although something was mapped meanwhile, as
 * long as the size of what is executable is the same: so many times as long as it took to
 * read them, so that at most this share of a CPU's time goes there. Generated code moves
 * without a change of that size. */
#define PROF_SPACE_SERVES 20
/* Where the kernel does not say whether anything was mapped. */
#define PROF_SPACE_SERVES_NS 100000000ULL

static __always_inline u64 inode_mtime(struct inode *inode)
{
	struct inode___pre611 *old = (void *)inode;

	if (bpf_core_field_exists(inode->i_mtime_sec))
		return READ(inode, i_mtime_sec) * 1000000000ULL + READ(inode, i_mtime_nsec);
	if (bpf_core_field_exists(old->__i_mtime))
		return READ(old, __i_mtime.tv_sec) * 1000000000ULL + READ(old, __i_mtime.tv_nsec);
	return 0;
}

/* Tells user space of a file; false if there was no room. */
static __always_inline bool tell_file(struct file *file, struct vm_area_struct *vma,
				      struct prof_file_key *key, u32 id, u32 pid, u32 user,
				      u32 of_user)
{
	struct prof_scratch *s;
	struct prof_rec_file *r;
	u32 len;

	s = bpf_map_lookup_elem(&file_scratch, &of_user);
	if (!s)
		return 0;
	r = (void *)&s->enable;
	len = copy_path(r + 1, s, build_file_path(s, file));
	r->key = *key;
	r->size = READ(file, f_inode, i_size);
	r->start = READ(vma, vm_start);
	r->end = READ(vma, vm_end);
	r->id = id;
	r->pid = pid;
	r->path_len = len;
	r->pad = 0;
	fill_head(&r->head, PROF_REC_FILE, sizeof(*r) + len, bpf_ktime_get_ns(), 0, 0, 0);
	if (user == PROF_SAMPLER_OFF_CPU) {
		/* Not the same call with either map: one that was not asked for is not there. */
		asm volatile("");
		return !bpf_ringbuf_output(&off_samples, r, sizeof(*r) + len, BPF_RB_FORCE_WAKEUP);
	}
	return !bpf_ringbuf_output(&samples, r, sizeof(*r) + len, BPF_RB_FORCE_WAKEUP);
}

/* Whether it is a jitdump, by its name, jit-PID.dump: it is written to while it is mapped. */
static __always_inline bool is_jitdump(struct file *file)
{
	struct dentry *dentry = READ(file, f_path.dentry);
	const unsigned char *name = READ(dentry, d_name.name);
	u32 len = READ(dentry, d_name.len);
	char begin[4] = {}, end[4] = {};

	if (len < 9)
		return 0;
	bpf_probe_read_kernel(begin, sizeof(begin), name);
	bpf_probe_read_kernel(end, sizeof(end), name + len - sizeof(end));
	return begin[0] == 'j' && begin[1] == 'i' && begin[2] == 't' && begin[3] == '-' &&
	       end[0] == 'd' && end[1] == 'u' && end[2] == 'm' && end[3] == 'p';
}

/* A number for a file, or PROF_FILE_NONE. */
static __always_inline u32 take_number(struct prof_sampler *s, struct prof_free_files *f)
{
	u32 taken;

	if (s->spare_file)
		return s->spare_file;
	/* As often as two CPUs may want one at the same time, and then the next sample's. */
#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++) {
		taken = *(volatile u32 *)&f->taken;
		if (taken == *(volatile u32 *)&f->given)
			return PROF_FILE_NONE;
		if (__sync_val_compare_and_swap(&f->taken, taken, taken + 1) == taken) {
			s->spare_file = f->ids[taken & (PROF_MAX_FILES - 1)];
			return s->spare_file;
		}
	}
	return PROF_FILE_NONE;
}

/*
 * The number that the file of `s->key` has. User space may take it away at any moment, and
 * the entry may be another file's at once: so what was read counts only if it is there
 * still. What is taken away is given to no other file before this hook has ended.
 */
static __always_inline u32 number_of(struct prof_sampler *s)
{
	struct prof_file *known = bpf_map_lookup_elem(&files, &s->key);
	u32 id;

	if (!known)
		return PROF_FILE_NONE;
	id = *(volatile u32 *)&known->id;
	known = bpf_map_lookup_elem(&files, &s->key);
	return known && *(volatile u32 *)&known->id == id ? id : PROF_FILE_NONE;
}

/* The number of a mapped file; one that was never seen gets a free one. */
static __always_inline u32 file_of(struct vm_area_struct *vma, struct prof_sampler *s, u32 pid,
				   u32 user)
{
	struct file *file = READ(vma, vm_file);
	struct prof_free_files *f;
	u32 id, zero = 0, *told;
	struct inode *inode;

	if (!file)
		return PROF_FILE_NONE;
	f = bpf_map_lookup_elem(&free_files, &zero);
	if (!f)
		return PROF_FILE_NONE;
	inode = READ(file, f_inode);
	s->key.ino = READ(inode, i_ino);
	s->key.dev = READ(inode, i_sb, s_dev);
	s->key.generation = READ(inode, i_generation);
	s->key.mtime_ns = inode_mtime(inode);
	id = number_of(s);
	/* Or each write would make another file of it. */
	if (!id && is_jitdump(file)) {
		s->key.mtime_ns = 0;
		id = number_of(s);
	}
	if (!id) {
		s->file.id = take_number(s, f);
		s->file.pad = 0;
		/* Another CPU may have met it at the same time: then its number stands, and
		 * this one is for the next file. */
		if (s->file.id && !bpf_map_update_elem(&files, &s->key, &s->file, BPF_NOEXIST))
			s->spare_file = 0;
		id = number_of(s);
		if (!id) {
			s->counters[PROF_SC_LOST_FILE]++;
			return PROF_FILE_NONE;
		}
	}
	told = &f->told[id & (PROF_MAX_FILES - 1)];
	if (!*(volatile u32 *)told) {
		*(volatile u32 *)told = 1;
		if (!tell_file(file, vma, &s->key, id, pid, user, s->user)) {
			/* The next sample that meets it tries again. */
			*(volatile u32 *)told = 0;
			s->counters[PROF_SC_LOST_FILE]++;
		}
	}
	return id;
}

/* Whether the kernel says that something was mapped: it counts who takes the lock to. */
static __always_inline bool tells_changes(void)
{
	return bpf_core_field_exists(((struct mm_struct *)0)->mm_lock_seq) ||
	       bpf_core_field_exists(((struct mm_struct___seqcount *)0)->mm_lock_seq.sequence);
}

static __always_inline u32 lock_seq_of(struct mm_struct *mm)
{
	struct mm_struct___seqcount *counted = (void *)mm;

	if (bpf_core_field_exists(counted->mm_lock_seq.sequence))
		return READ(counted, mm_lock_seq.sequence);
	return bpf_core_field_exists(mm->mm_lock_seq) ? READ(mm, mm_lock_seq) : 0;
}

/* Notes an executable mapping; true when there is no more room. */
static __always_inline bool note_vma(struct prof_sampler *s, struct vm_area_struct *vma)
{
	u32 i;

	if (!(READ(vma, vm_flags) & PROF_VM_EXEC))
		return 0;
	i = *(volatile u32 *)&s->scan.vmas;
	if (i >= PROF_MAX_VMAS) {
		s->scan.more = 1;
		return 1;
	}
	s->vma[i] = vma;
	*(volatile u32 *)&s->scan.vmas = i + 1;
	return 0;
}

/* Completes it; true behind the last. */
static __always_inline bool describe_vma(struct prof_sampler *s, u32 i, u64 vdso, u32 pid, u32 user)
{
	struct vm_area_struct *vma;
	struct prof_vma *to;
	u64 start;

	if (i >= *(volatile u32 *)&s->scan.vmas || i >= PROF_MAX_VMAS)
		return 1;
	vma = s->vma[i];
	to = &s->scan.v[i];
	start = READ(vma, vm_start);
	to->start = start;
	to->pages = (READ(vma, vm_end) - start) >> 12;
	to->offset = start == vdso ? 0 : READ(vma, vm_pgoff) << 12;
	to->file = start == vdso ? PROF_FILE_VDSO : file_of(vma, s, pid, user);
	if (bpf_map_lookup_elem(&interpreters, &to->file))
		s->scan.python = i + 1;
	return 0;
}

/*
 * The tree in which the kernel keeps the mappings of a process is read without its lock,
 * which cannot be had in an interrupt: its nodes are not given back before the grace
 * period that this runs in is over, and who changes it makes new ones. Each node is
 * copied, as a whole, when it is entered.
 *
 * Nodes are 256 bytes and aligned to that; the type stands in the low bits of a pointer
 * to one. A slot holds what lies above the pivot before it, up to its own.
 */
#define PROF_MAPLE_LEAF 1
#define PROF_MAPLE_ARANGE 3
#define PROF_MAPLE_NODE_BYTES 256

/* Else the tree has one entry, or none. */
static __always_inline bool maple_root_is_node(u64 root)
{
	return (root & 3) == 2 && root > 4096;
}

static __always_inline bool maple_enter(struct prof_walk_maple *w, u32 level, u64 node, u64 max)
{
	u32 type = (node >> 3) & 15;
	bool arange = type == PROF_MAPLE_ARANGE;

	level &= PROF_MAPLE_DEPTH - 1;
	w->level = level;
	w->at[level].max = max;
	w->at[level].slot = 0;
	w->at[level].leaf = type == PROF_MAPLE_LEAF;
	w->at[level].slots = arange ? 10 : 16;
	w->at[level].pivots_at = (arange ? bpf_core_field_offset(struct maple_arange_64, pivot) :
					   bpf_core_field_offset(struct maple_range_64, pivot)) / 8;
	w->at[level].slots_at = (arange ? bpf_core_field_offset(struct maple_arange_64, slot) :
					  bpf_core_field_offset(struct maple_range_64, slot)) / 8;
	return !bpf_probe_read_kernel(w->copy[level], PROF_MAPLE_NODE_BYTES,
				      (void *)(node & ~255ULL));
}

/* One slot; true at the end of the tree, or where it cannot be read. */
static __always_inline bool maple_step(struct prof_sampler *s)
{
	struct prof_walk_maple *w = &s->maple;
	u32 level = *(volatile u32 *)&w->level & (PROF_MAPLE_DEPTH - 1);
	u32 i = w->at[level].slot, slots = w->at[level].slots;
	u64 max = w->at[level].max, pivot = max, entry;

	if (i >= slots) {
		if (!level) {
			w->walked = 1;
			return 1;
		}
		*(volatile u32 *)&w->level = level - 1;
		return 0;
	}
	if (i + 1 < slots)
		pivot = w->copy[level][(w->at[level].pivots_at + i) & (PROF_MAPLE_WORDS - 1)];
	/* None behind this one. */
	if (!pivot && i)
		pivot = max;
	w->at[level].slot = pivot >= max ? slots : i + 1;
	entry = w->copy[level][(w->at[level].slots_at + i) & (PROF_MAPLE_WORDS - 1)];
	if (!entry)
		return 0;
	if (w->at[level].leaf)
		return note_vma(s, (struct vm_area_struct *)entry);
	if (level + 1 >= PROF_MAPLE_DEPTH)
		return 1;
	return !maple_enter(w, level + 1, entry, pivot);
}

static __noinline int maple_next(struct prof_sampler *s)
{
	STEP(s) = maple_step(s);
	return 0;
}

static __noinline int vma_next(struct prof_sampler *s, u32 i, u64 vdso, u32 pid, u32 user)
{
	STEP(s) = describe_vma(s, i, vdso, pid, user);
	return 0;
}

PROF_ROUND maple_round(u32 i, void *with)
{
	struct prof_round *r = with;

	maple_next(r->s);
	return !!STEP(r->s);
}

PROF_ROUND vma_round(u32 i, void *with)
{
	struct prof_round *r = with;

	vma_next(r->s, i, r->vdso, r->pid, r->user);
	return !!STEP(r->s);
}

/* Reads the executable mappings of the running process into the sampler's own copy;
 * false if that could not be done. */
static __always_inline bool scan(struct prof_sampler *s, struct task_struct *t, struct mm_struct *mm,
				 u32 user)
{
	struct prof_round with = {
		.s = s, .vdso = (u64)READ(mm, context.vdso), .pid = t->tgid, .user = user,
	};
	u64 root = (u64)READ(mm, mm_mt.ma_root);

	s->counters[PROF_SC_SCANS]++;
	s->scan.mm = (u64)mm;
	s->scan.exec = exec_number(t);
	s->scan.exec_vm = READ(mm, exec_vm);
	s->scan.lock_seq = lock_seq_of(mm);
	s->scan.scanned_ns = bpf_ktime_get_ns();
	*(volatile u32 *)&s->scan.vmas = 0;
	s->scan.more = 0;
	s->scan.python = 0;
	*(volatile u32 *)&s->maple.walked = 0;
	if (!maple_root_is_node(root) || !maple_enter(&s->maple, 0, root, ~0ULL))
		return 0;
	PROF_ROUNDS(PROF_MAX_VMA_WALK, maple_round, &with);
	if (!(*(volatile u32 *)&s->maple.walked || s->scan.more))
		return 0;
	PROF_ROUNDS(PROF_MAX_VMAS, vma_round, &with);
	s->scan.took_ns = bpf_ktime_get_ns() - s->scan.scanned_ns;
	return 1;
}

/* Whether it is of this address space. */
static __always_inline bool is_known(struct prof_space *known, struct task_struct *t,
				     struct mm_struct *mm)
{
	return known && known->mm == (u64)mm && known->exec == exec_number(t);
}

/* Whether what is known of the mappings of a process still stands. */
static __always_inline bool still_stands(struct prof_space *known, struct mm_struct *mm, u64 now)
{
	u64 age = now - known->scanned_ns;

	if (known->exec_vm != READ(mm, exec_vm))
		return 0;
	if (!tells_changes())
		return age < PROF_SPACE_SERVES_NS;
	return known->lock_seq == lock_seq_of(mm) || age < PROF_SPACE_SERVES * known->took_ns;
}

/* What was known of a process before, into the sampler's own copy. */
static __always_inline bool take_known(struct prof_sampler *s, struct task_struct *t,
				       struct mm_struct *mm)
{
	u32 n, tgid = t->tgid;
	struct prof_space *known = bpf_map_lookup_elem(&spaces, &tgid);

	/* Rather the mappings of a moment ago than none, but not another program's. */
	if (!is_known(known, t, mm))
		return 0;
	n = known->vmas;
	if (n > PROF_MAX_VMAS)
		return 0;
	bpf_probe_read_kernel(&s->scan, sizeof(s->scan) - sizeof(s->scan.v) + n * sizeof(struct prof_vma),
			      known);
	return 1;
}

/* What is mapped where in the running process, as of now, into the sampler's own copy,
 * which nobody else changes. */
static __always_inline bool take_space(struct prof_sampler *s, struct task_struct *t,
				       struct mm_struct *mm, u64 now, u32 user)
{
	u32 tgid = t->tgid;
	struct prof_space *known = bpf_map_lookup_elem(&spaces, &tgid);

	SCAN_NEEDED(s) = 1;
	if (is_known(known, t, mm))
		SCAN_NEEDED(s) = !still_stands(known, mm, now);
	if (SCAN_NEEDED(s)) {
		if (scan(s, t, mm, user)) {
			if (bpf_map_update_elem(&spaces, &tgid, &s->scan, BPF_ANY))
				s->counters[PROF_SC_LOST_SPACE]++;
			return 1;
		}
		s->counters[PROF_SC_NO_SCAN]++;
	}
	return take_known(s, t, mm);
}

/* Where among the mappings the last is that begins at or before an address: AT. */
static __noinline int find_vma(struct prof_sampler *s, u64 ip)
{
	struct prof_space *space = &s->scan;
	u32 i;

	AT(s) = 0;
	END(s) = space->vmas;
#pragma clang loop unroll(full)
	for (u32 step = 128; step; step >>= 1) {
		i = AT(s) + step;
		if (i < END(s) && i < PROF_MAX_VMAS && space->v[i].start <= ip)
			AT(s) = i;
	}
	return 0;
}

/* The mapping that an address is in. */
static __always_inline struct prof_vma *vma_of(struct prof_sampler *s, u64 ip)
{
	struct prof_space *space = &s->scan;
	struct prof_vma *v;
	u32 i;

	find_vma(s, ip);
	i = AT(s);
	if (i >= space->vmas || i >= PROF_MAX_VMAS)
		return 0;
	v = &space->v[i];
	if (ip < v->start || ip - v->start >= (u64)v->pages << 12)
		return 0;
	return v;
}

#endif /* PROF_MAPPINGS_H */
