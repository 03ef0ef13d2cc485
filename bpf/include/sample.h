/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Taking a sample: who runs, the kernel's part of the stack, and the user's part,
 * unwound here and now. A perf event of each CPU fires; where no armed process runs,
 * one read of `occupied` is all.
 *
 * What is mapped where is read from the process itself, in the hook: so it is right at
 * the time of the sample, and the first sample of a process of a millisecond is as good
 * as any. A file that was never seen before is told to user space, which makes its
 * table; the sample that met it goes along with a piece of the stack, to be finished
 * there.
 *
 * Runs in interrupts, also such as cannot be masked, on top of any other hook: it
 * shares nothing with them but `procs`, which it only reads.
 */
#ifndef PROF_SAMPLE_H
#define PROF_SAMPLE_H

/* Apart from `records`: one ring must not be written from an interrupt and from what
 * it interrupts. The size is set before load. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 * 1024 * 1024);
} samples SEC(".maps");

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

/* Events interrupt hooks, so each has what it works on; user space cuts it to those that
 * there are. Known when a program is built. */
enum prof_sampler_user {
	PROF_SAMPLER_EVENTS = 0,
	PROF_SAMPLER_OFF_CPU = 1,
	/* An event that interrupts another. */
	PROF_SAMPLER_NESTED = 2,
	PROF_NR_SAMPLERS = 3,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROF_NR_SAMPLERS);
	__type(key, u32);
	__type(value, struct prof_sampler);
} samplers SEC(".maps");

/* Written before the first sample. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROF_MAX_SHARES);
	__type(key, u32);
	__type(value, struct prof_share);
} sample_shares SEC(".maps");

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

/* What hooks write: not from interrupts that cannot be masked, as `samples` is. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 * 1024 * 1024);
} off_samples SEC(".maps");

/* What is known of mappings serves this long although something was mapped meanwhile,
 * as long as the size of what is executable is the same. */
#define PROF_SPACE_SERVES_NS 100000000ULL

static __always_inline struct prof_sampler *sampler_of(u32 user)
{
	struct prof_sampler *s = bpf_map_lookup_elem(&samplers, &user);

	if (s)
		s->user = user;
	return s;
}

/* For an event: the one that no other event uses at the moment, if there is one. */
static __always_inline struct prof_sampler *sampler_of_event(void)
{
	struct prof_sampler *s = sampler_of(PROF_SAMPLER_EVENTS), *nested;
	u32 user = PROF_SAMPLER_EVENTS;

	if (s && s->busy)
		user = PROF_SAMPLER_NESTED;
	nested = sampler_of(user);
	if (s && (!nested || nested->busy))
		s->counters[PROF_SC_LOST_NESTED]++;
	return nested && !nested->busy ? nested : 0;
}

/* How many samples the rules of a process ask for, of those that could be taken. */
static __noinline u32 share_of(u32 tgid)
{
	struct prof_proc *p = find_entry(tgid);
	struct prof_share *share;

	if (!p)
		return 1 << PROF_SHARE_BITS;

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

static __always_inline u32 lock_seq_of(struct mm_struct *mm)
{
	u32 seq = 0;

	if (bpf_core_field_exists(mm->mm_lock_seq))
		bpf_probe_read_kernel(&seq, sizeof(seq),
				      (void *)mm + bpf_core_field_offset(struct mm_struct, mm_lock_seq));
	return seq;
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
static __noinline bool describe_vma(struct prof_sampler *s, u32 i, u64 vdso, u32 pid, u32 user)
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
static __noinline bool maple_step(struct prof_sampler *s)
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

/* Reads the executable mappings of the running process into the sampler's own copy;
 * false if that could not be done. */
static __always_inline bool scan(struct prof_sampler *s, struct task_struct *t, struct mm_struct *mm,
				 u32 user)
{
	u64 vdso = (u64)READ(mm, context.vdso), root = (u64)READ(mm, mm_mt.ma_root);
	u32 pid = t->tgid;
	int i;

	s->counters[PROF_SC_SCANS]++;
	s->scan.mm = (u64)mm;
	s->scan.exec_vm = READ(mm, exec_vm);
	s->scan.lock_seq = lock_seq_of(mm);
	s->scan.scanned_ns = bpf_ktime_get_ns();
	*(volatile u32 *)&s->scan.vmas = 0;
	s->scan.more = 0;
	s->scan.pad = 0;
	*(volatile u32 *)&s->maple.walked = 0;
	if (!maple_root_is_node(root) || !maple_enter(&s->maple, 0, root, ~0ULL))
		return 0;
	bpf_for(i, 0, PROF_MAX_VMA_WALK) {
		if (maple_step(s))
			break;
	}
	if (!(*(volatile u32 *)&s->maple.walked || s->scan.more))
		return 0;
	bpf_for(i, 0, PROF_MAX_VMAS) {
		if (describe_vma(s, i, vdso, pid, user))
			break;
	}
	return 1;
}

/* Whether what is known of the mappings of a process still stands. */
static __always_inline bool still_stands(struct prof_space *known, struct mm_struct *mm, u64 now)
{
	if (known->exec_vm != READ(mm, exec_vm))
		return 0;
	if (bpf_core_field_exists(mm->mm_lock_seq) && known->lock_seq == lock_seq_of(mm))
		return 1;
	return now - known->scanned_ns < PROF_SPACE_SERVES_NS;
}

/* What was known of a process before, into the sampler's own copy. */
static __always_inline bool take_known(struct prof_sampler *s, u32 tgid, struct mm_struct *mm)
{
	struct prof_space *known = bpf_map_lookup_elem(&spaces, &tgid);
	u32 n;

	/* Rather the mappings of a moment ago than none, but not another program's. */
	if (!known || known->mm != (u64)mm)
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
	if (known && known->mm == (u64)mm)
		SCAN_NEEDED(s) = !still_stands(known, mm, now);
	if (SCAN_NEEDED(s)) {
		if (scan(s, t, mm, user)) {
			if (bpf_map_update_elem(&spaces, &tgid, &s->scan, BPF_ANY))
				s->counters[PROF_SC_LOST_SPACE]++;
			return 1;
		}
		s->counters[PROF_SC_NO_SCAN]++;
	}
	return take_known(s, tgid, mm);
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

/* The same, or where it was interrupted. */
static __always_inline bool user_registers(struct bpf_perf_event_data *ctx, struct task_struct *t,
					   struct prof_sampler *s)
{
#if defined(__TARGET_ARCH_x86)
	u64 cs;

	if (!IN_USER(s))
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

	if (!IN_USER(s))
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

/* Whether it has a user part. */
static __always_inline bool has_user(struct task_struct *t)
{
	return READ(t, mm) && !(t->flags & PROF_PF_KTHREAD);
}

/* The user part of the stack, from the registers that are in the record. */
static __always_inline u16 unwind_user(struct task_struct *t, struct prof_sampler *s, u64 now, u32 user)
{
	u32 stepped = 0;
	u32 i;

	s->rec.exact = 1;
	if (!take_space(s, t, READ(t, mm), now, user))
		return PROF_STOP_NO_SPACE;
	bpf_for(i, 0, PROF_MAX_FRAMES + 1) {
		stepped = unwind_step(s, i);
		if (stepped)
			break;
	}
	/* Inside an exec, past the point of no return, there is no user side yet. */
	if (!s->rec.user_frames && stepped == STOPPED(PROF_STOP_NO_MAPPING) &&
	    bpf_core_field_exists(t->in_execve) && BPF_CORE_READ_BITFIELD_PROBED(t, in_execve))
		return PROF_STOP_END;
	return stepped ? stepped - 1 : PROF_STOP_DEPTH;
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

/* Whether the process is profiled now. */
static __always_inline bool is_armed(struct task_struct *t, u64 start)
{
	struct prof_proc *p = find_entry(t->tgid);

	return p && (p->state & PROF_S_ARMED) && (!p->id.start_ns || p->id.start_ns == start);
}

static __always_inline int take_sample(struct bpf_perf_event_data *ctx, u16 event)
{
	struct task_struct *t = bpf_get_current_task_btf();
	u64 now, start = process_start(t);
	u32 size, share = 1 << PROF_SHARE_BITS;
	struct prof_sampler *s;

	s = sampler_of(PROF_SAMPLER_EVENTS);
	if (!s)
		return 0;
	if (!is_armed(t, start)) {
		s->counters[PROF_SC_IDLE]++;
		return 0;
	}
	s = sampler_of_event();
	if (!s)
		return 0;
	if (config.sample_shares) {
		/* By chance: what is counted off would fall in step with processes that
		 * take turns. */
		share = share_of(t->tgid);
		if ((bpf_get_prandom_u32() & ((1 << PROF_SHARE_BITS) - 1)) >= share) {
			s->counters[PROF_SC_LEFT_OUT]++;
			return 0;
		}
	}
	s->busy = 1;
	s->counters[PROF_SC_TAKEN]++;
	now = bpf_ktime_get_ns();
	begin_record(s, t, start, event);
	s->rec.weight = ctx->sample_period;
	if (share < 1 << PROF_SHARE_BITS && share)
		s->rec.weight = (s->rec.weight << PROF_SHARE_BITS) / share;
	IN_USER(s) = struck_user(ctx);
	if (!IN_USER(s) && (config.stacks & PROF_STACKS_KERNEL))
		take_kernel(ctx, s);
	if (config.stacks & PROF_STACKS_USER) {
		s->rec.stop = PROF_STOP_NO_REGS;
		if (has_user(t) && user_registers(ctx, t, s))
			s->rec.stop = unwind_user(t, s, now, PROF_SAMPLER_EVENTS);
	}
	size = end_record(s, PROF_REC_SAMPLE, now);
	if (bpf_ringbuf_output(&samples, &s->rec, size, ring_wakeup(s, &samples)))
		s->counters[PROF_SC_LOST_RING]++;
	s->busy = 0;
	return 0;
}

/* -- programs ----------------------------------------------------------- */

SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	return take_sample(ctx, bpf_get_attach_cookie(ctx));
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
