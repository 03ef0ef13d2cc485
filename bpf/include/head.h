/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What each record begins with. */
#ifndef PROF_HEAD_H
#define PROF_HEAD_H

static __always_inline void fill_head(struct prof_rec_head *h, u32 kind, u32 size, u64 now, u16 hook,
				      u32 flags, u16 quality)
{
	h->kind = kind;
	h->size = size;
	h->time_ns = now;
	h->cpu = bpf_get_smp_processor_id();
	h->hook = hook;
	h->quality = quality;
	h->flags = flags;
	h->pad = 0;
}

#endif /* PROF_HEAD_H */
