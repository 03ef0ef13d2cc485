//! The mirror of `bpf/include/python_abi.h`.

use super::Plain;
use super::RecHead;

/// `PROF_FILE_PYTHON`.
pub const FILE_PYTHON: u32 = 0xffff;
/// `PROF_PYTHON_ENTRY`.
pub const ENTRY: u64 = 1 << 47;
/// `PROF_PYTHON_EACH`.
pub const EACH: u32 = u32::MAX;
/// `PROF_PYTHON_NAME`.
pub const NAME: usize = 128;
/// `PROF_PYTHON_PATH`.
pub const PATH: usize = 256;

/// `enum prof_python_mark`.
pub mod mark {
    #![allow(missing_docs)]
    pub const END: u64 = 0;
    pub const CUT: u64 = 1;
    pub const UNREADABLE: u64 = 2;
    pub const NO_THREAD: u64 = 3;
    pub const CALL: u64 = 4;
    pub const MARKS: u64 = 16;
}

plain! {
    /// `struct prof_python`.
    AbiPython = 88 => {
        runtime: u64, code_type: u64, holder: u32, interpreters: u32, interpreter_next: u32,
        threads: u32, thread_next: u32, thread_id: u32, native_id: u32, thread_frame: u32,
        indirect: u32, frame_code: u32, frame_previous: u32, frame_entry: u32, frame_owner: u32,
        code_line: u32, code_file: u32, code_name: u32, text_ascii: u32, text_other: u32,
    }
    /// `struct prof_rec_code`.
    RecCode = 440 => {
        head: RecHead, number: u64, pid: u32, line: u32, name_len: u16, path_len: u16,
        name_kind: u8, path_kind: u8, name_cut: u8, path_cut: u8, name: [u8; NAME],
        path: [u8; PATH],
    }
}
