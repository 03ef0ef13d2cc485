/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ABI between the kernel half and the user half: everything that crosses
 * the ring buffer, a map or a global is laid out here and nowhere else.
 * crates/prof-kernel/src/abi.rs mirrors it, with a compile-time assertion for
 * every size and offset; the _Static_asserts below are the other side of that.
 *
 * Rules: only fixed-width types, no implicit padding, fields are appended and
 * never moved, PROF_ABI_VERSION grows with any change.
 */
#ifndef PROF_ABI_H
#define PROF_ABI_H

#define PROF_ABI_VERSION 9

#define PROF_COMM_LEN 16
/* Rules are bits of a u64. */
#define PROF_MAX_RULES 64
/* Longest literal, prefix or suffix of a string rule: an LPM key holds 256
 * bytes, one of which names the dimension. */
#define PROF_MAX_PATTERN 255
/* Longest executable path that is reported; the kernel's own PATH_MAX. */
#define PROF_MAX_PATH 4096
/* Arguments are cut here (and said to be cut). */
#define PROF_MAX_ARGS 512
/* CPUs whose clock can be read exactly; on those above, task-clock is as of
 * the last scheduler update and flagged so. */
#define PROF_MAX_CPUS 1024
/* Low bits of a tgid that tell, without a look-up, that there is no entry for it;
 * a power of two. */
#define PROF_OCCUPIED 32768
/* Most counters of a session: perf events that the kernel does not keep per task. */
#define PROF_MAX_COUNTERS 32
/* Deepest cgroup that is matched. */
#define PROF_CGROUP_DEPTH 16
/* A container id is 64 hex digits. */
#define PROF_CONTAINER_ID_LEN 64
/* Names of regions are cut here, bytes. */
#define PROF_REGION_NAME 63
/* Deepest nesting of regions that has figures. */
#define PROF_REGION_DEPTH 16
/* Most names of regions in a window of a process. */
#define PROF_REGION_NAMES 256

/* FLAGS of the prof event. Bits and names are part of the public interface. */
enum prof_flag {
	PROF_F_ENABLE = 0x1,
	PROF_F_EXEC = 0x2,
	PROF_F_EXIT = 0x4,
	PROF_F_REQUEST = 0x8,
	PROF_F_LIMIT = 0x10,
	PROF_F_INHERIT = 0x20,
	PROF_F_ATTACH = 0x40,
	PROF_F_PARTIAL = 0x1000,
};

/* Which hook produced a record. */
enum prof_hook {
	PROF_HOOK_NONE = 0,
	PROF_HOOK_SCHED_PROCESS_EXEC = 1,
	PROF_HOOK_SCHED_PROCESS_EXIT = 2,
	PROF_HOOK_SCHED_PROCESS_FORK = 3,
	PROF_HOOK_DO_EXIT = 4,
	PROF_HOOK_EXEC_RETURN = 5, /* kretprobe on the function that performs the exec */
	PROF_HOOK_NEW_TASK = 6, /* kprobe on wake_up_new_task */
	PROF_HOOK_ITER_TASK = 7,
	PROF_HOOK_PROBE = 8, /* a probe in the program itself */
};

/* Where a window starts. */
enum prof_start {
	PROF_START_NONE = 0,
	PROF_START_TASK_RENAME = 1, /* inside begin_new_exec: perf's enable_on_exec point */
	PROF_START_EXEC = 2, /* sched_process_exec: the program is already loaded */
	PROF_START_EXEC_ENTRY = 3, /* entry of the function that performs the exec */
	PROF_START_FORK = 4, /* birth of the process */
	PROF_START_ATTACH = 5, /* mid-life */
};

enum prof_record_kind {
	PROF_REC_ENABLE = 1, /* struct prof_rec_enable, path and arguments behind it */
	PROF_REC_DISABLE = 2, /* struct prof_rec_disable */
	PROF_REC_THREAD = 3, /* struct prof_rec_thread */
	PROF_REC_SAMPLE = 16, /* struct prof_rec_sample; in the ring `samples`, as the next */
	PROF_REC_FILE = 17, /* struct prof_rec_file, its path behind it */
	PROF_REC_OFF = 20, /* struct prof_rec_sample; in the ring `off_samples`, as the next */
	PROF_REC_ON = 21, /* struct prof_rec_on */
	PROF_REC_WAKER = 22, /* struct prof_rec_sample */
	PROF_REC_CODE = 23, /* struct prof_rec_code; in either of the two rings */
	PROF_REC_REGION = 7, /* struct prof_rec_region */
};

/* What was not right about the figures of one record. */
enum prof_quality {
	PROF_Q_CLOCK_STALE = 0x1, /* task-clock as of the last scheduler update */
	PROF_Q_RSS_BOUND = 0x2, /* peak_rss is an upper bound: an earlier image peaked higher */
	PROF_Q_RSS_NONE = 0x4, /* no memory descriptor to read */
	PROF_Q_RSS_APPROX = 0x8, /* per-CPU parts of the RSS counters were not all read */
	PROF_Q_DIED_IN_EXEC = 0x10, /* killed inside execve, past the point of no return */
	PROF_Q_ARGS_CUT = 0x20,
	PROF_Q_PATH_CUT = 0x40,
	PROF_Q_NO_MM_END = 0x80, /* the window ends after the address space was torn down */
	PROF_Q_COUNTS_PART = 0x100, /* a part of the counts is missing */
};

/* Who a record is about: 64 bytes. */
struct prof_ident {
	__u64 start_ns; /* start of the process, ns since boot */
	__u64 cgroup_id;
	__u32 pid; /* thread group id, host */
	__u32 tid; /* thread at the hook, host */
	__u32 ppid; /* host */
	__u32 uid; /* real */
	__u32 gid; /* real */
	__u32 mntns;
	__u32 pidns;
	__u32 exec; /* execs since the fork; 0 = none yet */
	char comm[PROF_COMM_LEN];
};

/*
 * Figures of a task or of a process, all cumulative: 112 bytes. Times in ns,
 * sizes in bytes. peak_rss is no sum and stands in the record.
 */
struct prof_figures {
	__u64 task_clock;
	__u64 utime;
	__u64 stime;
	__u64 min_flt;
	__u64 maj_flt;
	__u64 nvcsw;
	__u64 nivcsw;
	__u64 migrations;
	__u64 run_delay;
	__u64 rchar;
	__u64 wchar;
	__u64 read_bytes;
	__u64 write_bytes;
	__u64 cancelled_write_bytes;
};
#define PROF_NR_FIGURES 14

/* What a perf event counted, and for how long (ns): running less than enabled if it
 * had to share a hardware counter. As perf's read format has it. */
struct prof_count {
	__u64 value;
	__u64 enabled;
	__u64 running;
};

/* Counts of a thread since it was first armed. */
struct prof_thread_counts {
	__u64 time_ns; /* when they were last brought up to date, CLOCK_MONOTONIC */
	__u64 missed; /* slices whose beginning no hook saw: not in the counts */
	struct prof_count c[PROF_MAX_COUNTERS];
};

/* Counts of a process: `base` at the start of its window, `next` at the start of the
 * one to come, `acc` of threads that have exited. As in struct prof_proc. */
struct prof_proc_counts {
	struct {
		struct prof_count base;
		struct prof_count next;
		struct prof_count acc;
	} c[PROF_MAX_COUNTERS];
};

struct prof_rec_head {
	__u32 kind; /* enum prof_record_kind */
	__u32 size; /* whole record, bytes */
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u32 cpu;
	__u16 hook; /* enum prof_hook */
	__u16 quality; /* enum prof_quality */
	__u32 flags; /* enum prof_flag */
	__u32 pad;
};

struct prof_rec_enable {
	struct prof_rec_head head;
	struct prof_ident id;
	__u64 rules; /* bit i: rule i matched */
	__u16 start; /* enum prof_start */
	__u16 path_len; /* bytes of path behind this struct, no NUL */
	__u16 args_len; /* bytes behind the path, NUL between arguments */
	__u16 has_container;
	__u64 container_id[PROF_CONTAINER_ID_LEN / 8]; /* characters */
};

/* Behind it `counters` of struct prof_count. */
struct prof_rec_disable {
	struct prof_rec_head head;
	struct prof_ident id;
	__u64 rules;
	__u64 window_start_ns; /* CLOCK_MONOTONIC */
	__u64 window_end_ns;
	__u64 peak_rss; /* bytes */
	__u32 threads; /* started in the window, the first included */
	__s32 exit_code; /* wait-status form */
	__u16 start; /* enum prof_start */
	__u16 counters;
	__u16 pad[2];
	struct prof_figures figures;
};

/* Behind it `counters` of struct prof_count. */
struct prof_rec_thread {
	struct prof_rec_head head;
	__u64 start_ns; /* of the process */
	__u32 pid;
	__u32 tid;
	__u32 exec;
	__u32 counters;
	__u64 thread_start_ns; /* since boot */
	char comm[PROF_COMM_LEN];
	struct prof_figures figures;
};

/* Entry of the `procs` map: one for each armed or followed thread group. */
enum prof_state {
	PROF_S_ARMED = 0x1, /* figures are being kept */
	PROF_S_PENDING = 0x2, /* inside execve, past the point of no return */
	PROF_S_INHERITED = 0x4, /* armed because the parent was */
	PROF_S_ATTACHING = 0x8, /* user space is still taking the base line */
	PROF_S_ATTACHED = 0x10, /* armed in mid-life */
	PROF_S_THREADS_UNKNOWN = 0x20, /* `live` cannot be trusted: use the kernel's group_dead */
	PROF_S_PAUSED = 0x40, /* would be armed if the session were not paused */
	PROF_S_OFF = 0x80, /* would be armed if it had not switched itself off */
};

struct prof_proc {
	/* As of the arming; start_ns 0: put in by user space, not seen yet. */
	struct prof_ident id;
	__u64 rules; /* matched by the running image */
	__u64 follow; /* rules that children inherit */
	__u64 tree_eq; /* rules with tree= that this process descends into */
	__u64 tree_ne; /* the same for tree!= */
	__u64 kids_tree_eq; /* what children get in tree_eq */
	__u64 kids_tree_ne;
	__u64 t0; /* start of the window, CLOCK_MONOTONIC */
	__u64 base_maxrss; /* signal->maxrss at t0, pages */
	__u64 attach_boot_ns; /* threads born before are in thread_base */
	__u64 next_rules; /* valid while PENDING, as are next_* below */
	__u64 next_t0;
	__u64 next_maxrss;
	__u32 state; /* enum prof_state */
	__s32 live; /* threads alive; one more while ATTACHING */
	__u32 threads; /* threads started in the window */
	__u16 start; /* enum prof_start */
	__u16 next_start;
	__u16 quality;
	__u16 next_quality;
	__u32 pad;
	struct prof_figures base;
	struct prof_figures acc; /* threads that have exited */
	struct prof_figures next;
};

/* What the task iterator writes for each live thread of an armed process; behind it
 * a struct prof_thread_counts cut to the counters in use, if there are any. */
struct prof_live {
	struct prof_ident id;
	__u64 rules; /* PROF_ITER_LIST: rules that name it */
	__u64 thread_start_ns;
	__u64 peak_rss; /* bytes, of the address space so far */
	__u32 quality;
	__u16 has_counts;
	__u16 on_cpu; /* runs now, so that its clock and counts go on */
	struct prof_figures figures;
};

/* Modes of the iterator. */
enum prof_iter_mode {
	PROF_ITER_READ = 0, /* figures of every armed thread */
	PROF_ITER_ATTACH = 1, /* base lines of the processes in state ATTACHING */
	PROF_ITER_ATTACHED = 3, /* the attach is done */
	PROF_ITER_PAUSE = 4, /* what is armed becomes PAUSED; writes whom */
	PROF_ITER_RESUME = 5, /* base lines of the threads that are PAUSED */
	PROF_ITER_RESUMED = 6, /* what is PAUSED becomes armed; writes whom */
	PROF_ITER_LIST = 2, /* every thread group leader: which rules name it, no change */
};

/* Dimensions of the rules. Numeric ones share a hash, strings an LPM trie. */
enum prof_dim {
	PROF_DIM_UID = 0,
	PROF_DIM_GID = 1,
	PROF_DIM_PID = 2,
	PROF_DIM_CGROUP = 3, /* v2, or the v1 hierarchy given by cgroup_subsys */
	PROF_DIM_MNTNS = 4,
	PROF_DIM_PIDNS = 5,
	PROF_DIM_CONTAINER = 6, /* value 1: in a container */
	PROF_DIM_TREE = 7, /* evaluated by inheritance, not by look-up */
	PROF_DIM_COMM = 8, /* literals and prefixes */
	PROF_DIM_COMM_SUFFIX = 9, /* stored reversed */
	PROF_DIM_EXE = 10,
	PROF_DIM_EXE_SUFFIX = 11,
	PROF_NR_DIMS = 12,
};

struct prof_num_key {
	__u64 value;
	__u32 dim;
	__u32 pad;
};

struct prof_str_key {
	__u32 prefixlen; /* bits behind this field */
	__u8 dim;
	char data[PROF_MAX_PATTERN];
};

/* Rules that list the value with `=`, and with `!=`. */
struct prof_match {
	__u64 eq;
	__u64 ne;
};

/* Fixed before load: the verifier drops what is not needed. */
struct prof_config {
	__u64 rules; /* rules in use */
	__u64 follow; /* rules whose children inherit */
	/* Rules that have an `=` term in this dimension; string suffixes count
	 * with their main dimension. */
	__u64 uses_eq[PROF_NR_DIMS];
	__u32 dims; /* bit per dimension that any rule uses */
	__u32 cgroup_subsys; /* of cgroup rules: index of the v1 controller, or ~0 for v2 */
	__u32 read_args;
	__u32 per_thread;
	__u32 window_hook; /* a window-start hook is attached */
	__u32 ring_look; /* look how much waits with every so many records of a CPU */
	__u32 exit_is_entry; /* the exit hook runs before signal->live is decremented */
	__u32 exact_clock; /* cpu_clock events are open and calibrated */
	__u32 nr_cpus;
	__u32 page_size;
	__u32 ring_wakeup; /* wake the reader when this many bytes wait */
	__u32 ident_subsys; /* the same for the cgroup that a record names */
	__u32 counters; /* perf events to attribute; 0: no hook on switches */
	__u32 counter_cpus; /* slots of a counter in `perf_events`: one for each CPU */
	__u32 switch_counters; /* bits of counters that a switch raises after its tracepoint */
	__u32 attaches; /* processes may be armed in mid-life */
	__u32 stacks; /* enum prof_stacks */
	__u32 max_depth; /* frames of a stack, kernel and user each */
	__u32 samples_wakeup; /* wake the reader of samples when this many bytes wait */
	__u32 sample_shares; /* of `sample_shares` in use; 0: every sample is taken */
	__u32 off_cpu_event; /* number of the event that stands for time off the CPU */
	__u32 own_counters; /* bits of counters that the kernel itself raises */
	__u32 cgroup_counters; /* as `switch_counters`, where the cgroup changes */
	__u32 pad;
	__u64 off_cpu_min_ns; /* shorter times are left out */
};

/* An event that the kernel itself raises, on one CPU: what user space gives to have it
 * found, and where it was found. */
struct prof_own_event_at {
	__u32 slot; /* in `perf_events` */
	__s32 fd;
};

struct prof_own_event {
	__u64 event; /* its address; 0: to be read as any other */
	__u64 since_ns; /* when it was found */
};

/* The one writable global. */
struct prof_globals {
	/* Address of the cpu_clock event of each CPU; 0 = not known. Written once
	 * by prof_calibrate. */
	__u64 clock_event[PROF_MAX_CPUS];
	__u64 cursor; /* where prof_calibrate goes on; 0 when it is done */
	__u32 iter_mode; /* enum prof_iter_mode; set before the iterator is read */
	__u32 paused; /* nothing is armed; who would be is PAUSED */
	/* When the session was resumed: ns since boot, and CLOCK_MONOTONIC. */
	__u64 resumed_boot_ns;
	__u64 resumed_ns;
};

/* Per-CPU counters, summed by user space. */
enum prof_counter {
	PROF_C_EXECS = 0, /* successful execs seen */
	PROF_C_EVALUATED = 1, /* rule evaluations */
	PROF_C_ENABLED = 2, /* times profiling was to be switched on */
	PROF_C_DISABLED = 3, /* times it was switched off */
	PROF_C_LOST_MAP_FULL = 4, /* matched, but no room in procs: never armed */
	PROF_C_LOST_RING_ENABLE = 5, /* enable record not delivered */
	PROF_C_LOST_RING_DISABLE = 6, /* disable record with its figures not delivered */
	PROF_C_LOST_RING_THREAD = 7,
	PROF_C_STALE = 8, /* entry of an earlier owner of the pid found and dropped */
	PROF_C_CLOCK_STALE = 9, /* clock could not be read exactly */
	PROF_C_FORKS = 10, /* forks of followed processes */
	PROF_C_DIED_IN_EXEC = 11,
	PROF_C_LOST_FOLLOW = 12, /* child could not be followed: no room in procs */
	PROF_C_LOST_ATTEMPT = 13, /* kprobe only: no room for an exec attempt */
	PROF_C_LOST_COUNTS = 14, /* no room for the counts of a thread or a process */
	PROF_C_COUNTER_FAILED = 15, /* a perf event that could not be read */
	PROF_C_SLICE_MISSED = 16, /* an armed task ran, and the switch to it was not seen */
	PROF_C_PAD = 17,
	PROF_NR_COUNTERS = 18,
};

/* What each CPU keeps between hooks. */
struct prof_cpu {
	__u64 counters[PROF_NR_COUNTERS];
	/* Last reading of the scheduler's clock, and when that was. */
	__u64 clock_sched;
	__u64 clock_mono;
	/* The task whose counts run on this CPU, and the counters when they were last
	 * brought up to date. */
	__u64 counting;
	struct prof_count start[PROF_MAX_COUNTERS];
	__u32 busy; /* counts are being brought up to date */
	__u32 pad;
	__u32 records; /* written since the ring was last looked at */
	/* The last answer about a container: for which cgroup, what, and its id. */
	__u32 in_container;
	__u64 container_cgroup;
	__u64 container_id[PROF_CONTAINER_ID_LEN / 8];
};

/* A region of a process in one window of it: 80 bytes. */
struct prof_region_key {
	__u64 window_ns; /* start of the window, which no other of the process has */
	__u32 pid;
	__u32 len; /* of the name, as it was cut */
	char name[PROF_REGION_NAME + 1]; /* zeroes behind it */
};

/* What was used in it so far. Written with atomic operations by all threads of the
 * process, read and removed by user space when the window ends. */
struct prof_region_sum {
	__u64 begun;
	__u64 ended; /* the figures are of these */
	__u64 wall_ns;
	__u64 longest_ns;
	__u64 shortest_not_ns; /* ~ of the shortest: all beginnings are 0 */
	__u64 quality; /* enum prof_quality */
	struct prof_figures figures;
	struct prof_count c[PROF_MAX_COUNTERS];
};

/* The first region of this name in the window: from now on there are figures of it. If
 * it does not come through, user space finds them all the same, but has to search. */
struct prof_rec_region {
	struct prof_rec_head head;
	struct prof_region_key key;
	__u64 start_ns; /* of the process */
	__u32 exec;
	__u32 pad;
};

/* Which of the probes of a program was reached. */
enum prof_probe {
	PROF_PROBE_REGION_END = 1,
	PROF_PROBE_REGION_BEGIN = 2,
	PROF_PROBE_DISABLE = 3,
	PROF_PROBE_ENABLE = 4,
};

/* Counted where a program speaks of itself: what could not be done, but for the first. */
enum prof_region_counter {
	PROF_R_SWITCHED_ON = 0,
	PROF_R_MAP_FULL = 1, /* region: no room for the name, or for a thread */
	PROF_R_TOO_DEEP = 2,
	PROF_R_NO_NAME = 3, /* its name could not be read */
	PROF_R_NOT_BEGUN = 4, /* an end without a beginning */
	PROF_R_NOT_SWITCHED = 5, /* several threads, and no way to read them; or too often */
	PROF_R_LOST_RING_ON = 6, /* record of a switch not delivered */
	PROF_R_LOST_RING_OFF = 7,
	PROF_NR_REGION_COUNTERS = 8,
};

/* What the programs of regions keep for each CPU. They can be preempted, so what is
 * here is counted with atomic operations, and no two words belong together. */
struct prof_region_cpu {
	__u64 counters[PROF_NR_REGION_COUNTERS];
	__u64 clock_ahead; /* the scheduler's clock less CLOCK_MONOTONIC */
	__u64 clock_mono; /* when that was */
};

_Static_assert(sizeof(struct prof_ident) == 64, "ident");
_Static_assert(sizeof(struct prof_figures) == PROF_NR_FIGURES * 8, "figures");
_Static_assert(sizeof(struct prof_rec_head) == 32, "head");
_Static_assert(sizeof(struct prof_rec_enable) == 32 + 64 + 8 + 8 + 64, "enable");
_Static_assert(sizeof(struct prof_rec_disable) == 32 + 64 + 32 + 8 + 8 + 112, "disable");
_Static_assert(sizeof(struct prof_rec_thread) == 32 + 8 + 16 + 8 + 16 + 112, "thread");
_Static_assert(sizeof(struct prof_proc) == 64 + 12 * 8 + 24 + 3 * 112, "proc");
_Static_assert(sizeof(struct prof_live) == 64 + 32 + 112, "live");
_Static_assert(sizeof(struct prof_str_key) == 260, "str_key");
_Static_assert(sizeof(struct prof_config) == 16 + 8 * PROF_NR_DIMS + 104, "config");

_Static_assert(sizeof(struct prof_cpu) == 8 * PROF_NR_COUNTERS + 48 + 64 + 24 * PROF_MAX_COUNTERS, "cpu");
_Static_assert(sizeof(struct prof_globals) == 8 * PROF_MAX_CPUS + 32, "globals");

/* -- stacks -- */

/* Most frames of a stack, kernel and user each; a power of two. */
#define PROF_MAX_FRAMES 128
/* Unwind tables are kept in segments of this many bytes: the row, or the entry of an
 * index, at a place known by arithmetic, without a call for each step of a search. */
#define PROF_SEGMENT_BYTES (1 << 20)
#define PROF_SEGMENT_WORDS (PROF_SEGMENT_BYTES / 4)
#define PROF_MAX_SEGMENTS 1024
/* A table is divided by 64 KiB of its file. */
#define PROF_UNWIND_PAGE_BITS 16
/* Distinct unwind rules of a session. */
#define PROF_MAX_UNWIND_RULES 32768
/* Files whose code was seen. A frame has 16 bits for it. */
#define PROF_MAX_FILES 8192
/* Executable mappings of a process that are known; a value of a hash is at most 4 KiB. */
#define PROF_MAX_VMAS 160
/* Steps of the walk over the mappings of a process, executable or not. */
#define PROF_MAX_VMA_WALK 16384
/* Bytes of the stack that go along with a sample that user space is to finish. */
#define PROF_MAX_STACK 16384
/* What stands behind a sample, in 8 bytes each: frames, mappings, the stack. */
#define PROF_SAMPLE_FRAMES 1024
#define PROF_SAMPLE_DATA (PROF_SAMPLE_FRAMES + PROF_MAX_STACK / 8)

enum prof_stacks {
	PROF_STACKS_KERNEL = 0x1,
	PROF_STACKS_USER = 0x2,
};

/* The canonical frame address: what the stack pointer was before the call. */
enum prof_cfa {
	PROF_CFA_NONE = 0, /* no row: padding, data, code without unwind information */
	PROF_CFA_SP = 1, /* sp + cfa_off */
	PROF_CFA_FP = 2, /* fp + cfa_off */
	PROF_CFA_DEREF_SP = 3, /* *(sp + cfa_off) + cfa_add */
	PROF_CFA_DEREF_FP = 4, /* *(fp + cfa_off) + cfa_add */
	PROF_CFA_PLT = 5, /* sp + 8 + (((ip & 15) >= cfa_off) << 3) */
	PROF_CFA_SIGNAL = 6, /* signal frame: the registers are in the ucontext */
	PROF_CFA_END = 7, /* the outermost frame */
	PROF_CFA_UNSUPPORTED = 8, /* what the tables cannot hold */
	/* x86: word cfa_add of pt_regs + cfa_off; rbx is known in all frames, others where no
	 * frame below has saved them */
	PROF_CFA_REGISTER = 9,
	PROF_CFA_DEREF_INDEXED = 10, /* x86: *(sp + 8 * r9 + cfa_off) + cfa_add */
};

/* Where the caller's register is. */
enum prof_reg {
	PROF_REG_SAME = 0, /* unchanged; a return address: in the link register */
	PROF_REG_CFA = 1, /* at CFA + off */
	PROF_REG_FP = 2, /* at fp + off */
	PROF_REG_UNDEFINED = 3,
	PROF_REG_REGISTER = 4, /* x86, a return address: word off of pt_regs */
};

/* x86: words of pt_regs, of which the first 15 are registers that rules can name. */
#define PROF_REGISTERS 15
#define PROF_REGISTER_BP 4
#define PROF_REGISTER_BX 5
#define PROF_REGISTER_R9 8

/* x86: where the caller's rbx is, in words from the CFA; else one of these. */
#define PROF_BX_SAME 0
#define PROF_BX_LOST (-128)

struct prof_unwind_rule {
	__u8 cfa; /* enum prof_cfa */
	__u8 fp; /* enum prof_reg */
	__u8 ra; /* enum prof_reg */
	__s8 bx;
	__s32 cfa_off;
	__s32 cfa_add;
	__s16 fp_off;
	__s16 ra_off;
};

/* Sorted by pc_low within a page, whose first row has 0: it holds until the next. */
struct prof_unwind_row {
	__u16 pc_low; /* low bits of the offset in the file */
	__u16 rule; /* index of `unwind_rules` */
};

/* Entry of a table's index, one for each page; rows of a page are in one segment. */
struct prof_unwind_page {
	__u32 segment : 14;
	__u32 first : 18; /* row, from the segment's start */
	__u32 count;
};

enum prof_table_state {
	PROF_TABLE_PENDING = 0, /* user space has not said */
	PROF_TABLE_READY = 1,
	PROF_TABLE_FP = 2, /* the same, and where it has no row, code keeps frame pointers */
	PROF_TABLE_NONE = 3, /* there is none */
};

/* Table of a file. Written by user space, the state last. */
struct prof_table {
	__u32 state; /* enum prof_table_state */
	__u32 segment; /* of the index */
	__u32 at; /* word of the segment where the index begins */
	__u32 pages; /* entries of the index */
};

/* What tells files apart: a file that is replaced is another. */
struct prof_file_key {
	__u64 ino;
	__u64 mtime_ns; /* 0 if it is written to while it is mapped, as jitdumps are */
	__u32 dev; /* the super block's, which need not be what stat says */
	__u32 generation;
};

struct prof_file {
	__u32 id; /* index of `tables` */
	__u32 pad;
};

/*
 * Numbers of files that are free: taken by the kernel half, given by user space, each in
 * the order of `ids`. One is given back when nothing can have it in hand any more.
 */
struct prof_free_files {
	__u32 taken;
	__u32 given;
	__u32 ids[PROF_MAX_FILES];
	__u32 told[PROF_MAX_FILES]; /* by number: its record was written */
};

#define PROF_FILE_NONE 0 /* mapping without a file: generated code */
#define PROF_FILE_VDSO 1
#define PROF_FILE_FIRST 2

/* An executable mapping. */
struct prof_vma {
	__u64 start;
	__u64 offset; /* of its start in the file, bytes */
	__u32 pages; /* of 4 KiB */
	__u32 file; /* id */
};

/* The executable mappings of a process, ascending; by tgid. */
struct prof_space {
	__u64 mm; /* address of the memory descriptor they are of */
	__u64 exec_vm; /* executable pages when they were read: changes with what is mapped */
	__u64 scanned_ns; /* when */
	__u64 took_ns; /* and how long that was */
	__u32 lock_seq; /* changes with every change of any mapping */
	__u32 vmas;
	__u32 more; /* there are more than fit */
	__u32 python; /* 1 + which has a Python interpreter in it; 0: none */
	__u32 exec; /* of which image: the next but one may have the descriptor's memory again */
	__u32 pad;
	struct prof_vma v[PROF_MAX_VMAS];
};

/* Why the user stack ends where it does. */
enum prof_stop {
	PROF_STOP_END = 0, /* it is whole */
	PROF_STOP_DEPTH = 1,
	PROF_STOP_NO_TABLE = 2, /* file without a table */
	PROF_STOP_PENDING = 3, /* file whose table is not there yet: user space goes on */
	PROF_STOP_NO_ROW = 4,
	PROF_STOP_UNSUPPORTED = 5,
	PROF_STOP_UNREADABLE = 6,
	PROF_STOP_NO_MAPPING = 7,
	PROF_STOP_ANONYMOUS = 8, /* generated code without frame pointers */
	PROF_STOP_NO_REGS = 9, /* kernel thread, or a 32-bit process */
	PROF_STOP_NO_SPACE = 10, /* the mappings could not be read */
	PROF_STOP_NOT_ASKED = 11,
};

/* A frame of the user stack: file and offset in it, or the address if there is none. */
#define PROF_FRAME_FILE_SHIFT 48

/*
 * Behind it, 8 bytes each: kernel addresses and user frames, leaf first. And with
 * PROF_STOP_PENDING: `vmas` of struct prof_vma, the first `registers` words of pt_regs (on
 * x86, unless a frame so far has restored others), then `stack_bytes` from `sp` on.
 */
struct prof_rec_sample {
	struct prof_rec_head head;
	__u64 start_ns; /* of the process, since boot */
	__u64 weight; /* the event's period; of PROF_REC_WAKER: the thread that is woken */
	__u32 pid;
	__u32 tid;
	__u32 exec;
	__u16 event;
	__u16 stop; /* enum prof_stop */
	__u16 kernel_frames;
	__u16 user_frames;
	__u16 vmas;
	__u16 exact; /* `ip` is no return address */
	__u32 stack_bytes;
	__u16 registers;
	__u16 off_state; /* of PROF_REC_OFF: enum prof_off_state, else 0 */
	char comm[PROF_COMM_LEN];
	/* The registers of the frame where the user stack ends. */
	__u64 ip;
	__u64 sp;
	__u64 fp;
	__u64 lr; /* x86: rbx, with PROF_STOP_PENDING */
};

/* Why a thread left its CPU. */
enum prof_off_state {
	PROF_OFF_RUNNABLE = 0, /* it would have gone on */
	PROF_OFF_SLEEP = 1, /* blocked, signals end it */
	PROF_OFF_UNINTERRUPTIBLE = 2,
	PROF_OFF_STOPPED = 3, /* by a signal, a debugger, a freezer */
};

/* A thread is back on a CPU: what PROF_REC_OFF has begun is over. */
struct prof_rec_on {
	struct prof_rec_head head;
	__u64 off_ns; /* time of its PROF_REC_OFF */
	__u64 woken_ns; /* time of the PROF_REC_WAKER that ended it; 0: none was seen */
	__u32 pid;
	__u32 tid;
};

/* A thread that has left a CPU. */
struct prof_off_thread {
	__u64 off_ns; /* when; 0: it is on one */
	__u64 on_ns; /* when it last came back */
	__u64 woken_ns; /* when it was last woken */
	__u32 pid;
	__u32 tid;
	__u32 state; /* enum prof_off_state */
	__u32 pad;
};

/* A file was seen for the first time, mapped at [start, end) in a process. */
struct prof_rec_file {
	struct prof_rec_head head;
	struct prof_file_key key;
	__u64 size; /* bytes */
	__u64 start;
	__u64 end;
	__u32 id;
	__u32 pid;
	__u32 path_len; /* as the kernel has it, from the root of the mount namespace */
	__u32 pad;
};

/* Events that samples go by, at most; of a tracepoint, its place is in the lower bits of the
 * cookie, and behind it how many hits are a sample. */
#define PROF_SAMPLED_BITS 5
#define PROF_MAX_SAMPLED (1 << PROF_SAMPLED_BITS)

/* Per-CPU counters of the sampler, summed by user space. */
enum prof_sample_counter {
	PROF_SC_TAKEN = 0, /* samples of armed processes */
	PROF_SC_LOST_RING = 1,
	PROF_SC_LOST_NESTED = 2, /* the hook was interrupted by itself */
	PROF_SC_SCANS = 3, /* times the mappings of a process were read */
	PROF_SC_NO_SCAN = 4, /* they could not be read */
	PROF_SC_LOST_SPACE = 5, /* no room to keep them: read again for the next sample */
	PROF_SC_LOST_FILE = 6, /* no room for a file, or for its record */
	PROF_SC_IDLE = 7, /* fired where no armed process ran */
	PROF_SC_LEFT_OUT = 8, /* the rules of the process ask for fewer samples */
	PROF_SC_LOST_THREAD = 9, /* no room for a thread that leaves its CPU */
	PROF_SC_MISSED_SWITCH = 10, /* a switch that the kernel did not tell of */
	PROF_NR_SAMPLE_COUNTERS = 11,
};

/* Rules that ask for the same number of samples a second, and how many that is of those
 * that could be taken. Distinct ones in a session, the most frequent first. */
#define PROF_MAX_SHARES 8
#define PROF_SHARE_BITS 20
struct prof_share {
	__u64 rules;
	__u32 share; /* of 1 << PROF_SHARE_BITS */
	__u32 pad;
};

_Static_assert(sizeof(struct prof_unwind_rule) == 16, "unwind_rule");
_Static_assert(sizeof(struct prof_unwind_row) == 4, "unwind_row");
_Static_assert(sizeof(struct prof_unwind_page) == 8, "unwind_page");
_Static_assert(sizeof(struct prof_table) == 16, "table");
_Static_assert(sizeof(struct prof_file_key) == 24, "file_key");
_Static_assert(sizeof(struct prof_free_files) == 8 + 8 * PROF_MAX_FILES, "free_files");
_Static_assert(sizeof(struct prof_vma) == 24, "vma");
_Static_assert(sizeof(struct prof_space) == 56 + 24 * PROF_MAX_VMAS, "space");
_Static_assert(sizeof(struct prof_space) <= 4000, "a hash takes values of up to a page");
_Static_assert(sizeof(struct prof_share) == 16, "share");
_Static_assert(sizeof(struct prof_rec_sample) == 128, "sample");
_Static_assert(sizeof(struct prof_rec_on) == 32 + 16 + 8, "on");
_Static_assert(sizeof(struct prof_off_thread) == 40, "off_thread");
_Static_assert(sizeof(struct prof_rec_file) == 32 + 24 + 24 + 16, "file");
_Static_assert(sizeof(struct prof_region_key) == 80, "region_key");
_Static_assert(sizeof(struct prof_region_sum) == 48 + 112 + 24 * PROF_MAX_COUNTERS, "region_sum");
_Static_assert(sizeof(struct prof_rec_region) == 32 + 80 + 16, "rec_region");
_Static_assert(sizeof(struct prof_region_cpu) == 8 * PROF_NR_REGION_COUNTERS + 16, "region_cpu");

#include "python_abi.h"

#endif /* PROF_ABI_H */
