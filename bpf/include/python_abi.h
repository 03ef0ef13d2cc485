/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the two halves tell each other of CPython's frames. Mirrored in
 * crates/prof-kernel/src/abi/python.rs.
 */
#ifndef PROF_PYTHON_ABI_H
#define PROF_PYTHON_ABI_H

/* Files that have an interpreter in them, at a time. */
#define PROF_MAX_PYTHONS 256
/* Code objects that are known to have been told, by the low bits of their numbers. */
#define PROF_PYTHON_TOLD 65536
/* Threads of a process that are looked at. */
#define PROF_MAX_PYTHON_THREADS 1024

/* File number of a frame of Python's; what stands for its offset is one of enum
 * prof_python_mark, or a code object's number with PROF_PYTHON_ENTRY. */
#define PROF_FILE_PYTHON 0xffff
/* The interpreter was called from C for this frame: the next one is of another call. */
#define PROF_PYTHON_ENTRY (1ULL << 47)

enum prof_python_mark {
	PROF_PYTHON_END = 0, /* no more frames: they are whole */
	PROF_PYTHON_CUT = 1, /* as many as there may be */
	PROF_PYTHON_UNREADABLE = 2,
	PROF_PYTHON_NO_THREAD = 3, /* the thread is none of the interpreter's */
	PROF_PYTHON_CALL = 4, /* from here on frames are of an earlier call of the interpreter */
	PROF_PYTHON_MARKS = 16,
};

/* Where things are in an interpreter; offsets in bytes. A file's; written by user space. */
struct prof_python {
	/* Addresses, less the place that the file's first byte would have by its code. */
	__u64 runtime; /* _PyRuntime */
	__u64 code_type; /* PyCode_Type */
	__u32 holder; /* of the runtime: the thread that runs; 0 if it is not there */
	__u32 interpreters; /* of the runtime: the first one */
	__u32 interpreter_next;
	__u32 threads; /* of an interpreter: the first one */
	__u32 thread_next;
	__u32 thread_id; /* pthread_self() */
	__u32 native_id; /* gettid(); 0 if it is not there */
	__u32 thread_frame; /* the running frame, or what points at it */
	__u32 indirect; /* 1 + where in that the frame is; 0: it is the frame */
	__u32 frame_code;
	__u32 frame_previous;
	/* A byte: whether it was called from C; 0 if it is not there, PROF_PYTHON_EACH if each
	 * was. */
	__u32 frame_entry;
	__u32 frame_owner; /* a byte, without the former: 3 between the frames of two calls */
	__u32 code_line;
	__u32 code_file;
	__u32 code_name;
	__u32 text_ascii; /* of a string: its characters, of ASCII */
	__u32 text_other; /* of any other */
};

#define PROF_PYTHON_OWNED_BY_C 3
#define PROF_PYTHON_EACH 0xffffffff

/* Bytes of names, and of paths, whose ends are what tells them apart. */
#define PROF_PYTHON_NAME 128
#define PROF_PYTHON_PATH 256

/* A code object was seen for the first time in a process. */
struct prof_rec_code {
	struct prof_rec_head head;
	__u64 number;
	__u32 pid;
	__u32 line; /* its first */
	__u16 name_len; /* bytes */
	__u16 path_len;
	__u8 name_kind; /* bytes of a character; 0: it could not be read */
	__u8 path_kind;
	__u8 name_cut; /* there is more of it */
	__u8 path_cut;
	__u8 name[PROF_PYTHON_NAME];
	__u8 path[PROF_PYTHON_PATH];
};

_Static_assert(sizeof(struct prof_python) == 16 + 18 * 4, "python");
_Static_assert(sizeof(struct prof_rec_code) == 32 + 24 + PROF_PYTHON_NAME + PROF_PYTHON_PATH, "code");

#endif /* PROF_PYTHON_ABI_H */
