// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * prof audit, the kernel half: tells who switches profiling on and off, whoever it is.
 *
 * Attached to what perf, links of BPF and ptrace do in the kernel, by trampolines or
 * kprobes, or else to a few system calls, each by its own tracepoint; and to exec, fork
 * and exit. What is told of an event is read from the kernel's own structures, never from
 * the caller's memory, which another thread could change in between. Nothing is
 * decided here but whom it concerns: user space has the state of each event from its
 * opening to its end, and derives the switches.
 *
 * Whoever does not profile and is not profiled does not pass those functions. At a
 * system call the hook ends for them after a load or two: ioctl after a look at the
 * command, prctl at the option, the others at `known`.
 */
#include "include/kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "include/prof_abi.h"
#include "include/audit_abi.h"

const volatile struct prof_config config = {};

/* One object for all kernels: it is rarely that anything is read, and then a helper
 * call for each step does not matter. */
#define PROF_BEFORE_6_4
#define PROF_ANY_TASK
#define PROF_NO_FIGURES

/* Too large for the stack: where a path is built, and a record with what is behind it. */
struct prof_scratch {
	char path[PROF_MAX_PATH + 256];
	u32 path_at;
	u32 pad;
	struct prof_cpu cpu; /* the last answer about a container */
	struct audit_opened opened;
	char tail[PROF_MAX_PATH + 256];
	struct audit_task task;
	char task_tail[PROF_MAX_PATH + 256];
};

#include "include/task.h"
#include "include/audit.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* prof's own events are not told: they are in its own stream. */
static __always_inline bool is_self(void)
{
	return bpf_get_current_pid_tgid() >> 32 == audit_globals.self;
}

/* -- what was done, whichever hook tells it ------------------------------ */

static __always_inline int on_opened(s64 fd)
{
	struct perf_event___audit *e;

	if (fd < 0 || is_self())
		return 0;
	e = event_of(fd);
	if (e)
		tell_event(e, AUDIT_OPEN);
	else
		count(AUDIT_C_NOT_READ);
	return 0;
}

/* The kernel compares the whole command: with another size or direction it refuses it. */
static __always_inline bool is_perf_ioctl(u32 cmd)
{
	return cmd - AUDIT_IOC_ENABLE <= AUDIT_IOC_RESET - AUDIT_IOC_ENABLE ||
	       cmd == AUDIT_IOC_PERIOD || cmd == AUDIT_IOC_SET_FILTER || cmd == AUDIT_IOC_SET_BPF;
}

static __always_inline int on_ioctl(struct perf_event___audit *e, u32 cmd, u64 arg)
{
	if (!is_perf_ioctl(cmd) || is_self())
		return 0;
	tell_act(e, AUDIT_IOCTL, cmd, arg);
	if (cmd == AUDIT_IOC_SET_BPF) {
		tell_put(0);
		note_put(e);
	}
	return 0;
}

/* The end of a file of a perf event, whoever had it last. */
static __always_inline int on_release(struct file *file)
{
	if (!is_self())
		tell_act(private_of(file), AUDIT_RELEASE, 0, 0);
	return 0;
}

static __always_inline int on_prctl(u64 option)
{
	if (is_known(bpf_get_current_pid_tgid() >> 32) && !is_self())
		tell_task((void *)bpf_get_current_task(), AUDIT_PRCTL, option, 0);
	return 0;
}

/* A system call's argument, while it runs. */
static __always_inline u64 syscall_argument(u32 n)
{
	struct task_struct *t = (void *)bpf_get_current_task_btf();
	struct pt_regs *regs = (void *)bpf_task_pt_regs(t);

#if defined(__TARGET_ARCH_x86)
	/* A 32-bit caller has them in other registers. */
	if (READ((struct task_struct___audit *)t, thread_info.status) & AUDIT_TS_COMPAT)
		return n ? READ(regs, cx) : READ(regs, bx);
#endif
	return n ? PT_REGS_PARM2_CORE_SYSCALL(regs) : PT_REGS_PARM1_CORE_SYSCALL(regs);
}

/* A call of bpf() is over. */
static __always_inline int on_bpf(s64 ret)
{
	struct file *file;
	u32 cmd; /* the kernel takes an int of it, too */

	if (ret < 0 || !audit_globals.link_fops || is_self())
		return 0;
	/* Others give a descriptor of a link that was there. */
	cmd = syscall_argument(0);
	if (cmd != AUDIT_BPF_RAW_TRACEPOINT_OPEN && cmd != AUDIT_BPF_LINK_CREATE)
		return 0;
	file = opened_file(ret);
	if (file && f_op_of(file) == audit_globals.link_fops)
		tell_link(private_of(file), AUDIT_LINK, cmd, 0);
	return 0;
}

/* A link ends: the last descriptor and pin of it are gone. */
static __always_inline int on_link_end(struct bpf_link *link)
{
	if (!is_self())
		tell_link(link, AUDIT_LINK_CLOSE, 0, 0);
	return 0;
}

/* The kernel lists who traces whom. Of children that a tracer follows fork tells. */
static __always_inline int on_traced(struct task_struct *child, struct task_struct *tracer)
{
	struct task_struct *t = (void *)bpf_get_current_task();
	struct task_struct___audit *c = (void *)child;
	u32 request = AUDIT_PTRACE_TRACEME;

	if (tracer == t)
		request = READ(c, ptrace) & AUDIT_PT_SEIZED ? AUDIT_PTRACE_SEIZE :
							      AUDIT_PTRACE_ATTACH;
	else if (child != t)
		return 0;
	tell_two(tracer, child, AUDIT_PTRACE, request, 0);
	return 0;
}

/* Of one that has ended its exit told. */
static __always_inline int on_let_go(struct task_struct *child)
{
	struct task_struct___audit *c = (void *)child;

	if (!READ(c, exit_state))
		tell_two(READ(c, parent), child, AUDIT_PTRACE_UNLINK,
			 !!(READ((struct task_struct *)bpf_get_current_task(), flags) &
			    PROF_PF_EXITING),
			 0);
	return 0;
}

/* -- functions of the kernel, by trampolines ----------------------------- */

#if defined(__TARGET_ARCH_x86)
#define SYSCALL "__x64_sys_"
#elif defined(__TARGET_ARCH_arm64)
#define SYSCALL "__arm64_sys_"
#endif

SEC("fexit/" SYSCALL "perf_event_open")
int BPF_PROG(fexit_opened, const struct pt_regs *regs, long ret)
{
	return on_opened(ret);
}

/* Not what links are made with: the compiler has that in each of its callers. */
SEC("fexit/" SYSCALL "bpf")
int BPF_PROG(fexit_bpf, const struct pt_regs *regs, long ret)
{
	return on_bpf(ret);
}

/* For 32-bit callers; elsewhere they come the same way as all others. */
#if defined(__TARGET_ARCH_x86)
SEC("fexit/__ia32_sys_perf_event_open")
int BPF_PROG(fexit_opened_32, const struct pt_regs *regs, long ret)
{
	return on_opened(ret);
}

SEC("fexit/__ia32_sys_bpf")
int BPF_PROG(fexit_bpf_32, const struct pt_regs *regs, long ret)
{
	return on_bpf(ret);
}
#endif

/* Behind perf_ioctl and perf_compat_ioctl. */
SEC("fentry/_perf_ioctl")
int BPF_PROG(fentry_ioctl, struct perf_event *e, unsigned int cmd, unsigned long arg)
{
	return on_ioctl((void *)e, cmd, arg);
}

SEC("fentry/perf_release")
int BPF_PROG(fentry_release, void *inode, struct file *file)
{
	return on_release(file);
}

SEC("fentry/perf_event_task_enable")
int BPF_PROG(fentry_prctl_on)
{
	return on_prctl(AUDIT_PRCTL_ENABLE);
}

SEC("fentry/perf_event_task_disable")
int BPF_PROG(fentry_prctl_off)
{
	return on_prctl(AUDIT_PRCTL_DISABLE);
}

SEC("fentry/bpf_link_free")
int BPF_PROG(fentry_link_end, struct bpf_link *link)
{
	return on_link_end(link);
}

SEC("fentry/__ptrace_link")
int BPF_PROG(fentry_traced, struct task_struct *child, struct task_struct *tracer)
{
	return on_traced(child, tracer);
}

SEC("fentry/__ptrace_unlink")
int BPF_PROG(fentry_let_go, struct task_struct *child)
{
	return on_let_go(child);
}

/* -- the same, by kprobes ------------------------------------------------ */

SEC("kretprobe")
int kretprobe_opened(struct pt_regs *ctx)
{
	return on_opened((long)PT_REGS_RC(ctx));
}

SEC("kretprobe")
int kretprobe_bpf(struct pt_regs *ctx)
{
	return on_bpf((long)PT_REGS_RC(ctx));
}

SEC("kprobe")
int kprobe_ioctl(struct pt_regs *ctx)
{
	return on_ioctl((void *)PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx));
}

SEC("kprobe")
int kprobe_release(struct pt_regs *ctx)
{
	return on_release((void *)PT_REGS_PARM2(ctx));
}

SEC("kprobe")
int kprobe_prctl_on(struct pt_regs *ctx)
{
	return on_prctl(AUDIT_PRCTL_ENABLE);
}

SEC("kprobe")
int kprobe_prctl_off(struct pt_regs *ctx)
{
	return on_prctl(AUDIT_PRCTL_DISABLE);
}

SEC("kprobe")
int kprobe_link_end(struct pt_regs *ctx)
{
	return on_link_end((void *)PT_REGS_PARM1(ctx));
}

SEC("kprobe")
int kprobe_traced(struct pt_regs *ctx)
{
	return on_traced((void *)PT_REGS_PARM1(ctx), (void *)PT_REGS_PARM2(ctx));
}

SEC("kprobe")
int kprobe_let_go(struct pt_regs *ctx)
{
	return on_let_go((void *)PT_REGS_PARM1(ctx));
}

/* -- system calls, by their tracepoints ---------------------------------- */

SEC("tracepoint/syscalls/sys_exit_perf_event_open")
int audit_opened(struct syscall_exit *ctx)
{
	return on_opened(ctx->ret);
}

SEC("tracepoint/syscalls/sys_enter_ioctl")
int audit_ioctl(struct syscall_enter *ctx)
{
	u32 cmd = ctx->args[1];
	struct perf_event___audit *e;

	if (!is_perf_ioctl(cmd))
		return 0;
	e = event_of(ctx->args[0]);
	/* Others use this letter, too. */
	if (!e)
		return 0;
	return on_ioctl(e, cmd, ctx->args[2]);
}

SEC("tracepoint/syscalls/sys_enter_close")
int audit_close(struct syscall_enter *ctx)
{
	struct file *file;
	u64 f_op;

	if (!is_known(bpf_get_current_pid_tgid() >> 32) || is_self())
		return 0;
	file = opened_file(ctx->args[0]);
	if (!file)
		return 0;
	f_op = f_op_of(file);
	if (f_op == audit_globals.perf_fops && f_op)
		tell_act(private_of(file), AUDIT_CLOSE, 0, references(file) - 1);
	else if (f_op == audit_globals.link_fops && f_op && references(file) == 1)
		tell_link(private_of(file), AUDIT_LINK_CLOSE, 0, link_references(private_of(file)) - 1);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_prctl")
int audit_prctl(struct syscall_enter *ctx)
{
	u32 option = ctx->args[0]; /* the kernel takes an int of it, too */

	if (option != AUDIT_PRCTL_DISABLE && option != AUDIT_PRCTL_ENABLE)
		return 0;
	return on_prctl(option);
}

SEC("tracepoint/syscalls/sys_exit_bpf")
int audit_bpf(struct syscall_exit *ctx)
{
	return on_bpf(ctx->ret);
}

SEC("tracepoint/syscalls/sys_enter_ptrace")
int audit_ptrace(struct syscall_enter *ctx)
{
	u64 request = ctx->args[0];

	if (request == AUDIT_PTRACE_DETACH && is_known(bpf_get_current_pid_tgid() >> 32))
		tell_task((void *)bpf_get_current_task(), AUDIT_PTRACE_END, ctx->args[1], 0);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_ptrace")
int audit_traced(struct syscall_exit *ctx)
{
	struct task_struct *t = (void *)bpf_get_current_task(), *other;
	struct task_struct___audit *me = (void *)t;
	u64 request;

	if (ctx->ret)
		return 0;
	request = syscall_argument(0);
	if (request == AUDIT_PTRACE_TRACEME) {
		other = READ(me, parent);
		tell_two(other, t, AUDIT_PTRACE, request, 0);
	} else if (request == AUDIT_PTRACE_ATTACH || request == AUDIT_PTRACE_SEIZE) {
		/* The last that was added. */
		void *entry = READ(me, ptraced.next);

		other = entry - bpf_core_field_offset(struct task_struct___audit, ptrace_entry);
		tell_two(t, other, AUDIT_PTRACE, request, syscall_argument(1));
	}
	return 0;
}

/* -- processes, whichever way the rest is seen --------------------------- */

SEC("raw_tp/sched_process_exec")
int audit_exec(struct bpf_raw_tracepoint_args *ctx)
{
	if (is_known(bpf_get_current_pid_tgid() >> 32))
		tell_exec((void *)ctx->args[0], (u32)ctx->args[1]);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int audit_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *t = (void *)bpf_get_current_task();

	if (is_known(bpf_get_current_pid_tgid() >> 32)) {
		tell_put(1);
		tell_task(t, AUDIT_EXIT, has_events(t), READ(t, signal, live.counter) == 0);
	}
	return 0;
}

SEC("raw_tp/sched_process_fork")
int audit_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct___audit *c = (void *)ctx->args[1];

	if (!is_known(bpf_get_current_pid_tgid() >> 32))
		return 0;
	if (has_events((void *)c) || READ(c, ptrace))
		tell_two((void *)ctx->args[0], (void *)c, AUDIT_FORK, 0, 0);
	return 0;
}

/* -- on request ---------------------------------------------------------- */

/* How files of perf events and of links are known: by two of prof's own. */
SEC("syscall")
int audit_learn(void *ctx)
{
	struct file *perf = opened_file(audit_globals.perf_fd), *link = opened_file(audit_globals.link_fd);

	for (u32 i = 0; i < 2; i++) {
		struct file *clock = opened_file(audit_globals.clock_fd[i]);
		struct perf_event___audit *e = clock ? private_of(clock) : 0;

		audit_globals.clock_type[i] = e ? READ(e, attr.type) : 0;
	}
	audit_globals.self = bpf_get_current_pid_tgid() >> 32;
	audit_globals.perf_fops = perf ? f_op_of(perf) : 0;
	audit_globals.link_fops = link ? f_op_of(link) : 0;
	return 0;
}

/* Who it is that a descriptor stands for: /proc does not say when exactly a process was
 * started, nor how many programs it has executed. */
SEC("syscall")
int audit_who(void *ctx)
{
	struct file *file = opened_file(audit_who_asked.fd);
	struct hlist_node *link;
	struct pid___tasks *pid;
	struct task_struct *t;

	audit_who_asked.who.pid = 0;
	if (!file)
		return 0;
	pid = private_of(file);
	if (!pid) {
		struct inode___pidfd *inode = (void *)READ((struct file___pidfd *)file, f_inode);

		pid = READ(inode, i_private);
	}
	/* 1: the leader of the process. */
	link = pid ? READ(pid, tasks[1].first) : 0;
	if (!link)
		return 0;
	t = (void *)link - bpf_core_field_offset(struct task_struct___pids, pid_links[1]);
	read_ident(t, &audit_who_asked.who);
	return 0;
}

/* How events are that user space believes to be there. */
SEC("syscall")
int audit_look(void *ctx)
{
	u32 zero = 0;
	struct audit_looks *looks = bpf_map_lookup_elem(&audit_looks, &zero);
	u32 n;

	if (!looks)
		return 0;
	n = looks->n;
	for (u32 i = 0; i < AUDIT_LOOKS; i++) {
		struct audit_look *l = &looks->look[i];
		struct perf_event___audit *e = (void *)l->addr;

		if (i >= n)
			break;
		l->id = READ(e, id);
		l->refs = READ(e, refcount.counter);
		l->enabled_ns = READ(e, total_time_enabled);
		l->state = READ(e, state);
		l->prog = prog_of(e);
		l->tid = tid_of(e);
		l->pad = 0;
	}
	return 0;
}
