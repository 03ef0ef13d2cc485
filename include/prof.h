/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * prof.h: a program switches its own profiling by prof, and names regions of its work.
 *
 *	prof_enable();			profiling of this process goes on
 *	prof_disable();			and stops, for all threads
 *	prof_region_begin("name");	a region of this thread's work; they nest
 *	prof_region_end();		ends the one that began last
 *	PROF_REGION("name");		a region until the end of the block
 *	prof_is_watched();		whether someone is there to hear any of it
 *
 * C99 or C++, with GCC or Clang, for Linux on x86-64 and aarch64; elsewhere, and
 * with PROF_API_NOTHING defined, all of it compiles to nothing. There is nothing to link.
 *
 * While no prof is there, each call is one load and one branch. The mechanism is
 * that of USDT: each probe is a nop, described in an ELF note, and a semaphore that
 * the kernel increments while somebody is attached. The probes have the layout of
 * functions, so that the name's address and length are in the registers in which a
 * function has its arguments: %rdi and %rsi, or x0 and x1. Each stands in a COMDAT
 * group with its note, and the semaphores in another: a program or shared library has
 * one of each, however many of its files include this one, and none of what it never
 * calls if it is linked with --gc-sections.
 */
#ifndef PROF_API_H
#define PROF_API_H

#if !defined(PROF_API_NOTHING) && defined(__linux__) && defined(__ELF__) && defined(__GNUC__) && \
	defined(__LP64__) &&                                                                     \
	(defined(__x86_64__) || (defined(__aarch64__) && !defined(__AARCH64EB__)))

#ifdef __cplusplus
#define PROF_API_C extern "C"
#else
#define PROF_API_C extern
#endif

#define PROF_API_HIDDEN __attribute__((visibility("hidden")))

#ifdef __x86_64__
#define PROF_API_NAME_AND_LENGTH "8@%rdi 8@%rsi"
#define PROF_API_LANDING ""
/* From 6.18 on the kernel makes a call of such a nop, at 60 % of a trap's price. */
#define PROF_API_ROOMY_NOP ".byte 0x0f,0x1f,0x44,0x00,0x00\n"
#else
#define PROF_API_NAME_AND_LENGTH "8@x0 8@x1"
/* bti c: where branch targets are checked, a linker's veneer may jump here. */
#define PROF_API_LANDING "hint #34\n"
#define PROF_API_ROOMY_NOP ""
#endif

/* clang-format off */
#define PROF_API_SEMAPHORE(probe)                                                                  \
		".weak prof_api_" #probe "_semaphore\n"                                            \
		".hidden prof_api_" #probe "_semaphore\n"                                          \
		".type prof_api_" #probe "_semaphore,\"object\"\n"                                 \
		".size prof_api_" #probe "_semaphore,2\n"                                          \
		"prof_api_" #probe "_semaphore: .2byte 0\n"

/*
 * On a page of their own in the file: some linkers (lld, mold) have the end of the data
 * that is made read-only at the start on the same page as other data, and map it twice.
 * Of a program that was attached to before it began the kernel would count in the first.
 */
__asm__(
		".ifndef prof_api_enable_semaphore\n"
		".pushsection .probes,\"awG\",\"progbits\",prof_api_semaphores,comdat\n"
		".balign 4096\n"
		PROF_API_SEMAPHORE(enable)
		PROF_API_SEMAPHORE(disable)
		PROF_API_SEMAPHORE(region_begin)
		PROF_API_SEMAPHORE(region_end)
		".popsection\n"
		".endif\n");

#define PROF_API_PROBE(probe, arguments)                                                           \
	PROF_API_C PROF_API_HIDDEN volatile unsigned short prof_api_##probe##_semaphore;           \
	__asm__(                                                                                   \
		".ifndef prof_api_" #probe "\n"                                                    \
		".pushsection .text.prof_api,\"axG\",\"progbits\",prof_api_" #probe ",comdat\n"    \
		".balign 4\n"                                                                      \
		".weak prof_api_" #probe "\n"                                                      \
		".hidden prof_api_" #probe "\n"                                                    \
		".type prof_api_" #probe ",\"function\"\n"                                         \
		"prof_api_" #probe ":\n"                                                           \
		".cfi_startproc\n"                                                                 \
		PROF_API_LANDING                                                                   \
		"990: nop\n"                                                                       \
		PROF_API_ROOMY_NOP                                                                 \
		"ret\n"                                                                            \
		".cfi_endproc\n"                                                                   \
		".size prof_api_" #probe ",.-prof_api_" #probe "\n"                                \
		".popsection\n"                                                                    \
		".pushsection .note.stapsdt,\"G\",\"note\",prof_api_" #probe ",comdat\n"           \
		".balign 4\n"                                                                      \
		".4byte 992f-991f,994f-993f,3\n"                                                   \
		"991: .asciz \"stapsdt\"\n"                                                        \
		"992: .balign 4\n"                                                                 \
		"993: .8byte 990b\n"                                                               \
		".8byte _.stapsdt.base\n"                                                          \
		".8byte prof_api_" #probe "_semaphore\n"                                           \
		".asciz \"prof\"\n"                                                                \
		".asciz \"" #probe "\"\n"                                                          \
		".asciz \"" arguments "\"\n"                                                       \
		"994: .balign 4\n"                                                                 \
		".popsection\n"                                                                    \
		".endif\n"                                                                         \
		/* By this, tools notice that a file was prelinked after the note was written. */  \
		".ifndef _.stapsdt.base\n"                                                         \
		".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"            \
		".weak _.stapsdt.base\n"                                                           \
		".hidden _.stapsdt.base\n"                                                         \
		"_.stapsdt.base: .space 1\n"                                                       \
		".size _.stapsdt.base,1\n"                                                         \
		".popsection\n"                                                                    \
		".endif\n")
/* clang-format on */

PROF_API_PROBE(enable, "");
PROF_API_PROBE(disable, "");
PROF_API_PROBE(region_begin, PROF_API_NAME_AND_LENGTH);
PROF_API_PROBE(region_end, "");

PROF_API_C PROF_API_HIDDEN void prof_api_enable(void);
PROF_API_C PROF_API_HIDDEN void prof_api_disable(void);
PROF_API_C PROF_API_HIDDEN void prof_api_region_begin(const char *name, __SIZE_TYPE__ length);
PROF_API_C PROF_API_HIDDEN void prof_api_region_end(void);

#define PROF_API_WATCHED(probe) __builtin_expect(prof_api_##probe##_semaphore != 0, 0)
#define PROF_API_CALL static __inline__ __attribute__((always_inline))

PROF_API_CALL void prof_enable(void)
{
	if (PROF_API_WATCHED(enable))
		prof_api_enable();
}

PROF_API_CALL void prof_disable(void)
{
	if (PROF_API_WATCHED(disable))
		prof_api_disable();
}

PROF_API_CALL int prof_api_begin(const char *name)
{
	__SIZE_TYPE__ length;
	char touched;

	if (!PROF_API_WATCHED(region_begin))
		return 0;
	length = __builtin_strlen(name);
	/*
	 * Has the kernel bring in the pages of the name: whoever reads it at the probe
	 * may not be able to wait for that.
	 */
	touched = *(const volatile char *)name;
	touched = *(const volatile char *)(name + length);
	(void)touched;
	prof_api_region_begin(name, length);
	return 1;
}

PROF_API_CALL void prof_region_begin(const char *name)
{
	prof_api_begin(name);
}

PROF_API_CALL void prof_region_end(void)
{
	if (PROF_API_WATCHED(region_end))
		prof_api_region_end();
}

PROF_API_CALL int prof_is_watched(void)
{
	return prof_api_enable_semaphore || prof_api_disable_semaphore ||
	       prof_api_region_begin_semaphore || prof_api_region_end_semaphore;
}

/* A region that nobody heard begin is not heard to end, though someone may have come. */
#define PROF_API_JOIN_(a, b) a##b
#define PROF_API_JOIN(a, b) PROF_API_JOIN_(a, b)
#ifdef __cplusplus
class prof_api_region
{
      public:
	explicit prof_api_region(const char *name) : begun(prof_api_begin(name))
	{
	}
	~prof_api_region()
	{
		if (begun)
			prof_region_end();
	}

      private:
	prof_api_region(const prof_api_region &);
	prof_api_region &operator=(const prof_api_region &);
	int begun;
};
#define PROF_REGION(name) prof_api_region PROF_API_JOIN(prof_api_region_, __COUNTER__)(name)
#else
PROF_API_CALL void prof_api_leave(const int *begun)
{
	if (*begun)
		prof_region_end();
}
#define PROF_REGION(name)                                                         \
	__attribute__((cleanup(prof_api_leave), unused)) const int PROF_API_JOIN( \
		prof_api_region_, __COUNTER__) = prof_api_begin(name)
#endif

#else /* nothing */

static inline void prof_enable(void)
{
}
static inline void prof_disable(void)
{
}
static inline void prof_region_begin(const char *name)
{
	(void)name;
}
static inline void prof_region_end(void)
{
}
static inline int prof_is_watched(void)
{
	return 0;
}
#define PROF_REGION(name) ((void)(name))

#endif

#endif
