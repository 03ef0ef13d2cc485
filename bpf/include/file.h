/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a descriptor of the running process to what it stands for. */
#ifndef PROF_FILE_H
#define PROF_FILE_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct file___opened {
	const void *f_op;
	void *private_data;
};

struct task_struct___files {
	struct files_struct *files;
};

#pragma clang attribute pop

/* 0 if there is none. */
static __always_inline struct file *opened_file(s32 fd)
{
	struct task_struct___files *t = (void *)bpf_get_current_task();
	struct fdtable *fdt = READ(t, files, fdt);
	struct file **fds, *file = 0;

	if (fd < 0 || (u32)fd >= READ(fdt, max_fds))
		return 0;
	fds = READ(fdt, fd);
	bpf_probe_read_kernel(&file, sizeof(file), fds + fd);
	return file;
}

static __always_inline u64 f_op_of(struct file *file)
{
	struct file___opened *f = (void *)file;

	return (u64)READ(f, f_op);
}

static __always_inline void *private_of(struct file *file)
{
	struct file___opened *f = (void *)file;

	return READ(f, private_data);
}

#endif /* PROF_FILE_H */
