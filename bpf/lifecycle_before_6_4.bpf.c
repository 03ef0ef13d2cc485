// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The same for kernels before 6.4, which have neither casts of pointers (6.2) nor
 * iterators (6.4). An object of its own, and not both ways in one with a check of
 * the kernel at each: to remove the way not taken, hundreds of times, took the
 * verifier longer than to verify the rest.
 */
#define PROF_BEFORE_6_4
#include "lifecycle.bpf.c"
