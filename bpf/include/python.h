/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * CPython's own frames: of a sample whose process has an interpreter mapped. The
 * interpreter keeps a list of frames for each thread, which is read here and goes along
 * behind the frames of the stack; crates/prof-kernel/src/sampler/python puts the one into
 * the other. What a code object is called is read here, too, the first time that it is
 * seen in a process: the process may be gone before anybody else could.
 *
 * A program of its own, which the one that takes samples goes on in: it is loaded when an
 * interpreter is met, so that others need not wait for the verifier.
 *
 * All that is read is the process's and may be anything at all. That a frame is one is
 * known by the type of its code object; what is not costs its frames, and no more.
 */
#ifndef PROF_PYTHON_H
#define PROF_PYTHON_H

/* What is read at once: of a frame all but its variables, of a code object all up to the
 * last field that is needed. */
#define PROF_PYTHON_FRAME_BYTES 72
#define PROF_PYTHON_CODE_BYTES 160

/* What the walk of a CPU works on. */
struct prof_python_work {
	u64 interpreter; /* that is looked at next */
	u64 thread; /* the same */
	u64 frame; /* at hand */
	u64 tls; /* of the thread that is looked for */
	u32 tid; /* as its process sees it */
	u32 found;
	u32 step; /* what the last one came to; 1 + enum prof_python_mark at the end of frames */
	u32 left; /* frames that there may be */
	u64 seed; /* tells processes apart */
	u64 code_type;
	u64 head[5]; /* of a string */
	u64 frame_copy[16];
	u64 code_copy[32];
	struct prof_rec_code rec;
};

/* Made with the program that needs them. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROF_NR_SAMPLERS);
	__type(key, u32);
	__type(value, struct prof_python_work);
} python_work SEC(".maps");

/* Numbers of code objects that were told, by their low bits: who has the place of another
 * is told again. An array, as hashes cannot be relied on in interrupts. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROF_PYTHON_TOLD);
	__type(key, u32);
	__type(value, u64);
} python_told SEC(".maps");

#define PY_STEP(w) (*(volatile u32 *)&(w)->step)
#define PY_FOUND(w) (*(volatile u32 *)&(w)->found)
#define PY_AT(copy, offset, type)                                                                  \
	(*(volatile type *)((void *)(copy) + ((offset) & (sizeof(copy) - sizeof(type)))))

/* The number that a thread has where it runs. */
static __always_inline u32 own_tid(struct task_struct *t)
{
	struct pid *pid = READ(t, thread_pid);
	u32 level, nr = 0;

	if (!pid)
		return 0;
	level = READ(pid, level);
	bpf_probe_read_kernel(&nr, sizeof(nr),
			      (void *)pid + bpf_core_field_offset(struct pid, numbers) +
				      level * bpf_core_type_size(struct upid) +
				      bpf_core_field_offset(struct upid, nr));
	return nr;
}

/* What pthread_self() is there; it is right after a fork, too, before the interpreter has
 * noted the new number. */
static __always_inline u64 own_tls(struct task_struct *t)
{
#if defined(__TARGET_ARCH_x86)
	return READ(t, thread.fsbase);
#else
	return 0;
#endif
}

/* Whether it is the state of the running thread; then its frame is at hand. */
static __always_inline bool is_python_thread(struct prof_python_work *w, struct prof_python *p,
					     u64 thread)
{
	u64 id = 0, native = 0, frame = 0;

	if (p->native_id && !read_word(thread + p->native_id, &native))
		return 0;
	if ((!p->native_id || native != w->tid) &&
	    (!w->tls || !read_word(thread + p->thread_id, &id) || id != w->tls))
		return 0;
	if (!read_word(thread + p->thread_frame, &frame))
		frame = 0;
	if (p->indirect && frame && !read_word(frame + p->indirect - 1, &frame))
		frame = 0;
	w->frame = frame;
	PY_FOUND(w) = 1;
	return 1;
}

/* One thread, or on to the next interpreter; true at the end. */
static __always_inline bool python_thread_step(struct prof_python_work *w, struct prof_python *p)
{
	u64 thread = *(volatile u64 *)&w->thread, interpreter;

	if (thread) {
		if (is_python_thread(w, p, thread))
			return 1;
		if (!read_word(thread + p->thread_next, &w->thread))
			return 1;
		return 0;
	}
	interpreter = *(volatile u64 *)&w->interpreter;
	if (!interpreter)
		return 1;
	return !read_word(interpreter + p->threads, &w->thread) ||
	       !read_word(interpreter + p->interpreter_next, &w->interpreter);
}

static __noinline int python_thread_next(struct prof_python_work *w, struct prof_python *p)
{
	PY_STEP(w) = python_thread_step(w, p);
	return 0;
}

/* As struct prof_round. */
struct prof_python_round {
	struct prof_sampler *s;
	struct prof_python_work *w;
	struct prof_python *p;
	u64 user;
};

PROF_ROUND python_thread_round(u32 i, void *with)
{
	struct prof_python_round *r = with;

	python_thread_next(r->w, r->p);
	return !!PY_STEP(r->w);
}

static __always_inline void find_python_thread(struct prof_python_work *w, struct prof_python *p,
					       u64 runtime)
{
	struct prof_python_round with = { .w = w, .p = p };
	u64 holder = 0;

	PY_FOUND(w) = 0;
	w->thread = 0;
	if (p->holder && read_word(runtime + p->holder, &holder) && holder &&
	    is_python_thread(w, p, holder))
		return;
	if (!read_word(runtime + p->interpreters, &w->interpreter))
		return;
	PROF_ROUNDS(PROF_MAX_PYTHON_THREADS, python_thread_round, &with);
}

/* A string's characters, `most` bytes of them; how many, and of which kind. */
static __always_inline u32 python_text(struct prof_python_work *w, struct prof_python *p, u64 object,
				       u8 *to, u32 most, bool end, u8 *kind, u8 *cut)
{
	u64 length, data;
	u32 state, size, bytes;

	*kind = 0;
	*cut = 0;
	if (bpf_probe_read_user(w->head, sizeof(w->head), (void *)object))
		return 0;
	length = w->head[2];
	state = w->head[4];
	size = (state >> 2) & 7;
	/* Of 1, 2 or 4 bytes, right behind the head. */
	if ((size != 1 && size != 2 && size != 4) || !(state & 0x20))
		return 0;
	data = object + (state & 0x40 ? p->text_ascii : p->text_other);
	if (length > most / size) {
		*cut = 1;
		if (end)
			data += length * size - most;
		length = most / size;
	}
	bytes = length * size;
	barrier_var(bytes);
	bytes &= 2 * most - 1;
	if (bytes > most || bpf_probe_read_user(to, bytes, (void *)data))
		return 0;
	*kind = size;
	return bytes;
}

/* Tells what the code object that was read is called; false if there was no room. */
static __always_inline bool tell_code(struct prof_sampler *s, struct prof_python_work *w,
				      struct prof_python *p, u64 number, u32 user)
{
	struct prof_rec_code *r = &w->rec;

	r->number = number;
	r->pid = s->rec.pid;
	r->line = PY_AT(w->code_copy, p->code_line, u32);
	r->name_len = python_text(w, p, PY_AT(w->code_copy, p->code_name, u64), r->name,
				  PROF_PYTHON_NAME, 0, &r->name_kind, &r->name_cut);
	r->path_len = python_text(w, p, PY_AT(w->code_copy, p->code_file, u64), r->path,
				  PROF_PYTHON_PATH, 1, &r->path_kind, &r->path_cut);
	fill_head(&r->head, PROF_REC_CODE, sizeof(*r), s->rec.head.time_ns, 0, 0, 0);
	if (user == PROF_SAMPLER_OFF_CPU) {
		/* As in tell_file(). */
		asm volatile("");
		return !bpf_ringbuf_output(&off_samples, r, sizeof(*r), BPF_RB_NO_WAKEUP);
	}
	return !bpf_ringbuf_output(&samples, r, sizeof(*r), BPF_RB_NO_WAKEUP);
}

static __always_inline u64 mix(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ (hash >> 29);
}

/* The number of a code object: what it is, and whose. Memory that is used again for another
 * one has another number, unless all of that is the same. */
static __always_inline u64 code_number(struct prof_python_work *w, struct prof_python *p, u64 code)
{
	u64 n = mix(w->seed, code);

	n = mix(n, PY_AT(w->code_copy, p->code_name, u64));
	n = mix(n, PY_AT(w->code_copy, p->code_file, u64));
	n = mix(n, PY_AT(w->code_copy, p->code_line, u32));
	n &= PROF_PYTHON_ENTRY - 1;
	return n < PROF_PYTHON_MARKS ? n + PROF_PYTHON_MARKS : n;
}

static __always_inline void put_python(struct prof_sampler *s, u64 what)
{
	s->data[s->frames & (PROF_SAMPLE_FRAMES - 1)] =
		(u64)PROF_FILE_PYTHON << PROF_FRAME_FILE_SHIFT | what;
	s->frames++;
	s->rec.user_frames++;
}

/* One frame; 1 + enum prof_python_mark at the end. */
static __always_inline u32 python_step(struct prof_sampler *s, struct prof_python_work *w,
				       struct prof_python *p, u32 user)
{
	u64 frame = *(volatile u64 *)&w->frame, code, number, *told;
	u32 slot;

	if (!frame)
		return 1 + PROF_PYTHON_END;
	if (!w->left)
		return 1 + PROF_PYTHON_CUT;
	w->left--;
	if (bpf_probe_read_user(w->frame_copy, PROF_PYTHON_FRAME_BYTES, (void *)frame))
		return 1 + PROF_PYTHON_UNREADABLE;
	w->frame = PY_AT(w->frame_copy, p->frame_previous, u64);
	if (!p->frame_entry &&
	    PY_AT(w->frame_copy, p->frame_owner, u8) == PROF_PYTHON_OWNED_BY_C) {
		put_python(s, PROF_PYTHON_CALL);
		return 0;
	}
	code = PY_AT(w->frame_copy, p->frame_code, u64);
	if (bpf_probe_read_user(w->code_copy, PROF_PYTHON_CODE_BYTES, (void *)code))
		return 1 + PROF_PYTHON_UNREADABLE;
	if (w->code_copy[1] != w->code_type)
		return 1 + PROF_PYTHON_UNREADABLE;
	number = code_number(w, p, code);
	/* Of each ring: it comes before what has it in the same one. */
	slot = number & (PROF_PYTHON_TOLD / 2 - 1);
	if (user == PROF_SAMPLER_OFF_CPU)
		slot += PROF_PYTHON_TOLD / 2;
	told = bpf_map_lookup_elem(&python_told, &slot);
	if (told && *(volatile u64 *)told != number && tell_code(s, w, p, number, user))
		*(volatile u64 *)told = number;
	if (p->frame_entry == PROF_PYTHON_EACH ||
	    (p->frame_entry && PY_AT(w->frame_copy, p->frame_entry, u8)))
		number |= PROF_PYTHON_ENTRY;
	put_python(s, number);
	return 0;
}

static __noinline int python_next(struct prof_sampler *s, struct prof_python_work *w,
				  struct prof_python *p, u32 user)
{
	PY_STEP(w) = python_step(s, w, p, user);
	return 0;
}

PROF_ROUND python_round(u32 i, void *with)
{
	struct prof_python_round *r = with;

	python_next(r->s, r->w, r->p, r->user);
	return !!PY_STEP(r->w);
}

/* Python's part of the stack, behind the rest of it. */
static __always_inline void take_python(struct task_struct *t, struct prof_sampler *s, u32 user)
{
	u32 of_user = s->user, at = s->scan.python - 1, file;
	struct prof_python_work *w = bpf_map_lookup_elem(&python_work, &of_user);
	struct prof_python_round with = { .s = s, .w = w, .user = user };
	struct prof_python *p;
	u64 base;

	if (!w || at >= PROF_MAX_VMAS)
		return;
	file = s->scan.v[at].file;
	base = s->scan.v[at].start - s->scan.v[at].offset;
	p = bpf_map_lookup_elem(&interpreters, &file);
	if (!p)
		return;
	w->tid = own_tid(t);
	w->tls = own_tls(t);
	w->seed = mix(mix(s->rec.start_ns, s->rec.pid), s->rec.exec);
	w->code_type = base + p->code_type;
	w->left = config.max_depth;
	find_python_thread(w, p, base + p->runtime);
	PY_STEP(w) = 1 + PROF_PYTHON_NO_THREAD;
	with.p = p;
	if (PY_FOUND(w))
		PROF_ROUNDS(2 * PROF_MAX_FRAMES, python_round, &with);
	put_python(s, PY_STEP(w) ? PY_STEP(w) - 1 : PROF_PYTHON_CUT);
}

/* -- programs ----------------------------------------------------------- */

static __always_inline void finish_sample(void)
{
	struct prof_sampler *s = sampler_of(PROF_SAMPLER_NESTED);

	/* An event that interrupts another is done before that goes on. */
	if (!s || !s->busy)
		s = sampler_of(PROF_SAMPLER_EVENTS);
	if (!s)
		return;
	take_python(bpf_get_current_task_btf(), s, PROF_SAMPLER_EVENTS);
	write_sample(s, s->rec.head.time_ns);
}

/* Where `sample` goes on. */
SEC("perf_event")
int python_sample(struct bpf_perf_event_data *ctx)
{
	finish_sample();
	return 0;
}

/* Where `sample_tracepoint` does. */
SEC("tracepoint")
int python_tracepoint(void *ctx)
{
	finish_sample();
	return 1;
}

/* Where `off_switch` and `off_waking` do. */
SEC("raw_tp/sched_switch")
int off_python(struct bpf_raw_tracepoint_args *ctx)
{
	struct prof_sampler *s = sampler_of(PROF_SAMPLER_OFF_CPU);

	if (!s)
		return 0;
	take_python(bpf_get_current_task_btf(), s, PROF_SAMPLER_OFF_CPU);
	write_off_record(s, s->rec.head.kind, s->rec.head.time_ns);
	return 0;
}

#endif /* PROF_PYTHON_H */
