/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Unwinding the user stack of the running task by tables that user space has made
 * of the files' unwind information. crates/prof-unwind/src/unwind.rs does the same for
 * what could not be finished here, and is what this is tested against.
 *
 * All that goes on from one frame to the next stands in a map's value and not in
 * registers, and a step is a function of its own (mappings.h): so the verifier walks it
 * a few times only, however many frames there may be.
 */
#ifndef PROF_UNWIND_H
#define PROF_UNWIND_H

/* Rows and indices. One element each, which is the whole segment. */
struct prof_segment {
	u32 w[PROF_SEGMENT_WORDS];
};

struct prof_segment_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(u32));
	__uint(value_size, PROF_SEGMENT_BYTES);
};

/* Filled by user space as tables come. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, PROF_MAX_SEGMENTS);
	__uint(key_size, sizeof(u32));
	__array(values, struct prof_segment_map);
} segments SEC(".maps");

/* Both written by user space, through a mapping. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PROF_MAX_UNWIND_RULES);
	__type(key, u32);
	__type(value, struct prof_unwind_rule);
} unwind_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PROF_MAX_FILES);
	__type(key, u32);
	__type(value, struct prof_table);
} tables SEC(".maps");

static __always_inline struct prof_segment *segment_of(u32 segment)
{
	void *inner = bpf_map_lookup_elem(&segments, &segment);
	u32 zero = 0;

	return inner ? bpf_map_lookup_elem(inner, &zero) : 0;
}

/* Of `count` rows from `first`, the last that is at or before `low`: AT, from `first`. */
static __noinline int find_row(struct prof_sampler *s, struct prof_segment *seg, u32 first, u32 count,
			     u32 low)
{
	AT(s) = 0;
	END(s) = count;
#pragma clang loop unroll(full)
	for (u32 step = 1 << 15; step; step >>= 1) {
		u32 i = AT(s) + step;

		if (i < END(s) && (seg->w[(first + i) & (PROF_SEGMENT_WORDS - 1)] & 0xffff) <= low)
			AT(s) = i;
	}
	return 0;
}

/* The rule for an offset in a file; null where its table has no row. */
static __always_inline struct prof_unwind_rule *rule_of(struct prof_sampler *s, struct prof_table *t,
							u64 offset)
{
	u32 page = offset >> PROF_UNWIND_PAGE_BITS, low = offset & ((1 << PROF_UNWIND_PAGE_BITS) - 1);
	struct prof_segment *seg = segment_of(t->segment);
	u32 entry, first, count, id;

	if (!seg || page >= t->pages)
		return 0;
	entry = seg->w[(t->at + page * 2) & (PROF_SEGMENT_WORDS - 1)];
	count = seg->w[(t->at + page * 2 + 1) & (PROF_SEGMENT_WORDS - 1)];
	if (!count)
		return 0;
	/* struct prof_unwind_page */
	seg = segment_of(entry & 0x3fff);
	first = entry >> 14;
	if (!seg)
		return 0;
	find_row(s, seg, first, count, low);
	id = seg->w[(first + AT(s)) & (PROF_SEGMENT_WORDS - 1)] >> 16;
	return bpf_map_lookup_elem(&unwind_rules, &id);
}

static __always_inline bool read_word(u64 address, u64 *value)
{
	return !bpf_probe_read_user(value, sizeof(*value), (void *)address);
}

/* A register whose value is lost: neither aligned nor mapped. */
#define PROF_LOST 1

/* A return address as it is: arm64 signs it in bits that no address uses. */
static __always_inline u64 plain_address(u64 address)
{
#if defined(__TARGET_ARCH_arm64)
	const u64 mask = ~((1ULL << 48) - 1) & ~(1ULL << 55);

	return address & (1ULL << 55) ? address | mask : address & ~mask;
#else
	return address;
#endif
}

enum prof_stepped {
	PROF_ON = 0,
	/* else 1 + enum prof_stop */
};
#define STOPPED(reason) (1 + (reason))

/* On to the caller, `up`. */
static __always_inline u32 go_up(struct prof_sampler *s, u16 exact)
{
	s->up.ip = plain_address(s->up.ip);
	if (!s->up.ip)
		return STOPPED(PROF_STOP_END);
	s->rec.ip = s->up.ip;
	s->rec.sp = s->up.sp;
	s->rec.fp = s->up.fp;
	s->rec.lr = s->up.lr;
	s->rec.exact = exact;
	return PROF_ON;
}

#if defined(__TARGET_ARCH_x86)
/* rbx of the frame at hand. */
static __always_inline u64 bx_of(struct prof_sampler *s)
{
	u64 at = s->bx_at, value;

	if (!at)
		return s->rec.lr;
	return at == PROF_LOST || !read_word(at, &value) ? PROF_LOST : value;
}

/* A register that a rule names by its place in pt_regs. */
static __always_inline u64 other_register(struct prof_sampler *s, u32 word)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	u64 value = PROF_LOST;

	if (word == PROF_REGISTER_BX)
		return bx_of(s);
	/* The first five, and rbx, are kept for callers, where rules do not say. Not the rest:
	 * that a rule of a caller's names one says that the callee, assembly as well, leaves it
	 * alone. */
	if (*(volatile u32 *)&s->others && word < PROF_REGISTERS &&
	    (s->rec.exact || word > PROF_REGISTER_BP)) {
		u64 at = word;

		/* 6.1 takes what it knows of one half of a register for nothing of the whole. */
		barrier_var(at);
		at &= 31;
		bpf_probe_read_kernel(&value, sizeof(value), (u64 *)regs + at);
	}
	return value;
}
#endif

/* Where a frame's pointer is kept, each function having saved its caller's. */
static __always_inline u32 step_by_fp(struct prof_sampler *s, u16 failed, bool switches)
{
	u64 fp = s->rec.fp;

	if (!fp)
		return STOPPED(PROF_STOP_END);
	/* Or of another stack, as where Go's runtime goes from a goroutine's to its own. */
	if ((fp & 7) || (!switches && (fp < s->rec.sp || fp - s->rec.sp >= (1 << 20))))
		return STOPPED(failed);
	if (!read_word(fp, &s->up.fp) || !read_word(fp + 8, &s->up.ip))
		return STOPPED(failed);
	s->up.sp = fp + 16;
	s->up.lr = PROF_LOST;
	s->bx_at = PROF_LOST;
	s->others = 0;
	return go_up(s, 0);
}

/* The registers are where the kernel put them when it delivered the signal: the rule
 * says where the ip is, and the others stand before it. */
static __always_inline u32 step_signal(struct prof_sampler *s, s32 ip_off)
{
	u64 ip_at = s->rec.sp + ip_off;
#if defined(__TARGET_ARCH_x86)
	u64 fp_at = ip_at - 48;

	s->bx_at = ip_at - 40;
	s->others = 0;
#elif defined(__TARGET_ARCH_arm64)
	u64 fp_at = ip_at - 24;
#endif

	s->up.lr = PROF_LOST;
	if (!read_word(ip_at, &s->up.ip) || !read_word(ip_at - 8, &s->up.sp) ||
	    !read_word(fp_at, &s->up.fp))
		return STOPPED(PROF_STOP_UNREADABLE);
#if defined(__TARGET_ARCH_arm64)
	if (!read_word(ip_at - 16, &s->up.lr))
		return STOPPED(PROF_STOP_UNREADABLE);
#endif
	return go_up(s, 1);
}

static __always_inline u32 step_by_rule(struct prof_sampler *s, struct prof_unwind_rule *r)
{
	switch (r->cfa) {
	case PROF_CFA_SP:
		s->up.sp = s->rec.sp + r->cfa_off;
		break;
	case PROF_CFA_FP:
		if (s->rec.fp == PROF_LOST)
			return STOPPED(PROF_STOP_UNSUPPORTED);
		s->up.sp = s->rec.fp + r->cfa_off;
		break;
	case PROF_CFA_DEREF_SP:
	case PROF_CFA_DEREF_FP:
		s->up.sp = (r->cfa == PROF_CFA_DEREF_SP ? s->rec.sp : s->rec.fp) + r->cfa_off;
		if (!read_word(s->up.sp, &s->up.sp))
			return STOPPED(PROF_STOP_UNREADABLE);
		s->up.sp += r->cfa_add;
		break;
#if defined(__TARGET_ARCH_x86)
	case PROF_CFA_REGISTER:
		s->up.sp = other_register(s, r->cfa_add);
		if (s->up.sp == PROF_LOST)
			return STOPPED(PROF_STOP_UNSUPPORTED);
		s->up.sp += r->cfa_off;
		break;
	case PROF_CFA_DEREF_INDEXED:
		s->up.sp = other_register(s, PROF_REGISTER_R9);
		if (s->up.sp == PROF_LOST)
			return STOPPED(PROF_STOP_UNSUPPORTED);
		if (!read_word(s->rec.sp + (s->up.sp << 3) + r->cfa_off, &s->up.sp))
			return STOPPED(PROF_STOP_UNREADABLE);
		s->up.sp += r->cfa_add;
		break;
#endif
	case PROF_CFA_PLT:
		s->up.sp = s->rec.sp + 8 + ((u64)((s->rec.ip & 15) >= (u32)r->cfa_off) << 3);
		break;
	case PROF_CFA_SIGNAL:
		return step_signal(s, r->cfa_off);
	case PROF_CFA_END:
		return STOPPED(PROF_STOP_END);
	case PROF_CFA_NONE:
		return STOPPED(PROF_STOP_NO_ROW);
	default:
		return STOPPED(PROF_STOP_UNSUPPORTED);
	}
	if (r->ra == PROF_REG_CFA) {
		if (!read_word(s->up.sp + r->ra_off, &s->up.ip))
			return STOPPED(PROF_STOP_UNREADABLE);
#if defined(__TARGET_ARCH_x86)
	} else if (r->ra == PROF_REG_REGISTER) {
		s->up.ip = other_register(s, r->ra_off);
		if (s->up.ip == PROF_LOST)
			return STOPPED(PROF_STOP_UNSUPPORTED);
#elif defined(__TARGET_ARCH_arm64)
	} else if (r->ra == PROF_REG_SAME && s->rec.lr != PROF_LOST) {
		s->up.ip = s->rec.lr;
#endif
	} else {
		return STOPPED(PROF_STOP_UNSUPPORTED);
	}
	s->up.fp = s->rec.fp;
	if (r->fp == PROF_REG_CFA || (r->fp == PROF_REG_FP && s->rec.fp != PROF_LOST)) {
		if (!read_word((r->fp == PROF_REG_CFA ? s->up.sp : s->rec.fp) + r->fp_off, &s->up.fp))
			return STOPPED(PROF_STOP_UNREADABLE);
	} else if (r->fp != PROF_REG_SAME) {
		s->up.fp = PROF_LOST;
	}
	/* The stack shrinks with every return, but for a first frame that has not used it. */
	if (s->up.sp < s->rec.sp || (s->up.sp == s->rec.sp && !s->rec.exact))
		return STOPPED(PROF_STOP_UNREADABLE);
	s->up.lr = PROF_LOST;
#if defined(__TARGET_ARCH_x86)
	s->up.lr = s->rec.lr;
	if (r->bx == PROF_BX_LOST)
		s->bx_at = PROF_LOST;
	else if (r->bx != PROF_BX_SAME)
		s->bx_at = s->up.sp + r->bx * 8LL;
#endif
	return go_up(s, 0);
}

/* One frame: noted, then on to its caller. */
static __always_inline u32 unwind_step(struct prof_sampler *s, u32 depth)
{
	u64 at = s->rec.ip - !s->rec.exact, offset;
	struct prof_unwind_rule *rule;
	struct prof_table *table;
	struct prof_vma *v;
	u32 file;

	if (depth >= config.max_depth)
		return STOPPED(PROF_STOP_DEPTH);
	v = vma_of(s, at);
	if (!v)
		return STOPPED(PROF_STOP_NO_MAPPING);
	file = v->file;
	offset = at - v->start + v->offset;
	s->data[s->frames & (PROF_SAMPLE_FRAMES - 1)] =
		file == PROF_FILE_NONE ? s->rec.ip :
					 (u64)file << PROF_FRAME_FILE_SHIFT |
						 (s->rec.ip - v->start + v->offset);
	s->frames++;
	s->rec.user_frames++;
	if (file == PROF_FILE_NONE)
		return step_by_fp(s, PROF_STOP_ANONYMOUS, 0);
	table = bpf_map_lookup_elem(&tables, &file);
	if (!table)
		return STOPPED(PROF_STOP_NO_TABLE);
	switch (*(volatile u32 *)&table->state) {
	case PROF_TABLE_PENDING:
		return STOPPED(PROF_STOP_PENDING);
	case PROF_TABLE_NONE:
		return STOPPED(PROF_STOP_NO_TABLE);
	}
	rule = rule_of(s, table, offset);
	if (rule && rule->cfa != PROF_CFA_NONE)
		return step_by_rule(s, rule);
	return *(volatile u32 *)&table->state == PROF_TABLE_FP ? step_by_fp(s, PROF_STOP_NO_ROW, 1) :
								 STOPPED(PROF_STOP_NO_ROW);
}

static __noinline int unwind_next(struct prof_sampler *s, u32 depth)
{
	STEP(s) = unwind_step(s, depth);
	return 0;
}

PROF_ROUND unwind_round(u32 depth, void *with)
{
	struct prof_round *r = with;

	unwind_next(r->s, depth);
	return !!STEP(r->s);
}

#endif /* PROF_UNWIND_H */
