//! Where an interpreter keeps what is read of it.
//!
//! Offsets of 3.8 to 3.12 are those that the compiler has of each version's own headers
//! (`offsetof` with `Py_BUILD_CORE`); they have not changed within a minor version. A test
//! asks the compiler again. From 3.13 on the interpreter says itself, at the beginning of
//! `_PyRuntime`, which is read in the file. Debug builds and builds without the lock have
//! others: there the type of the first code object is not where it should be, and nothing
//! is read.

use std::fs::File;
use std::ops::Range;

use prof_unwind::Exports;
use prof_unwind::Limits;
use prof_unwind::Table;

use crate::abi::python::AbiPython;
use crate::abi::python::EACH;

/// A file that has an interpreter.
#[derive(Debug)]
pub struct Interpreter {
    /// What the kernel half goes by.
    pub layout: AbiPython,
    /// Code of `_PyEval_EvalFrameDefault`, by offset in the file.
    pub eval: Range<u64>,
}

/// 3.8: a frame is an object, each one a call from C. Addresses are the file's. A thread
/// does not know its number, only what it is for the C library.
const V3_8: AbiPython = AbiPython {
    holder: 1368,
    interpreters: 32,
    threads: 8,
    thread_id: 176,
    native_id: 0,
    thread_frame: 24,
    indirect: 0,
    frame_code: 32,
    frame_previous: 24,
    frame_entry: EACH,
    frame_owner: 0,
    code_line: 40,
    code_file: 104,
    // Without that of the class.
    code_name: 112,
    ..V3_11
};

/// 3.9 and 3.10.
const V3_9: AbiPython = AbiPython { holder: 568, ..V3_8 };

/// A function that a version was the first to have, the latest first. Before 3.11 a file
/// does not say which it is of.
const FIRST_IN: [(&str, AbiPython); 3] =
    [("Py_NewRef", V3_9), ("PyModule_AddType", V3_9), ("PyCode_NewWithPosOnlyArgs", V3_8)];

/// 3.11. Addresses are the file's.
const V3_11: AbiPython = AbiPython {
    runtime: 0,
    code_type: 0,
    holder: 576,
    interpreters: 40,
    interpreter_next: 0,
    threads: 16,
    thread_next: 8,
    thread_id: 152,
    native_id: 160,
    thread_frame: 56,
    indirect: 1 + 8,
    frame_code: 32,
    frame_previous: 48,
    frame_entry: 68,
    frame_owner: 69,
    code_line: 72,
    code_file: 112,
    code_name: 128,
    text_ascii: 48,
    text_other: 72,
};

/// 3.12: each interpreter has a lock of its own, and calls from C a frame of their own.
const V3_12: AbiPython = AbiPython {
    holder: 0,
    threads: 72,
    thread_id: 136,
    native_id: 144,
    indirect: 1,
    frame_code: 0,
    frame_previous: 8,
    frame_entry: 0,
    frame_owner: 70,
    code_line: 68,
    text_ascii: 40,
    text_other: 56,
    ..V3_11
};

/// What 3.13 says of itself: words of `_Py_DebugOffsets`, by their places.
fn v3_13(words: &[u64]) -> Option<AbiPython> {
    let word = |at: usize| u32::try_from(*words.get(at)?).ok().filter(|n| *n < 1 << 20);
    let is_it = words.first()?.to_le_bytes() == *b"xdebugpy";
    // Without the lock objects have other heads.
    if !is_it || word(2)? != 0 {
        return None;
    }
    Some(AbiPython {
        interpreters: word(5)?,
        interpreter_next: word(8)?,
        threads: word(9)?,
        thread_next: word(21)?,
        thread_frame: word(23)?,
        thread_id: word(24)?,
        native_id: word(25)?,
        indirect: 0,
        frame_previous: word(29)?,
        frame_code: word(30)?,
        frame_owner: word(33)?,
        code_file: word(35)?,
        code_name: word(37)?,
        code_line: word(39)?,
        text_ascii: word(70)?,
        text_other: word(70)?.checked_add(16)?,
        ..V3_12
    })
}

/// Of a version, as `Py_Version` has it.
fn of_version(version: u32, exports: &Exports<'_>, runtime: u64) -> Option<AbiPython> {
    match version >> 16 {
        0x030b => Some(V3_11),
        0x030c => Some(V3_12),
        0x030d => {
            let bytes = exports.read::<{ 71 * 8 }>(runtime).ok()?;
            let (words, _) = bytes.as_chunks::<8>();
            v3_13(&words.iter().map(|w| u64::from_le_bytes(*w)).collect::<Vec<_>>())
        }
        _ => None,
    }
}

impl Interpreter {
    /// In this file, if it has one that can be read. A few reads, of whatever file.
    pub fn find(file: &File) -> Option<Self> {
        let exports = Exports::of(file).ok()?;
        let find = |name| exports.find(name).ok().flatten();
        let runtime = find("_PyRuntime")?.address;
        let layout = match find("Py_Version") {
            Some(at) => {
                let version = u32::from_le_bytes(exports.read(at.address).ok()?);
                of_version(version, &exports, runtime)?
            }
            None => FIRST_IN.iter().find(|(f, _)| find(f).is_some())?.1,
        };
        let code = exports.code().ok()?;
        let [code] = code[..] else { return None };
        let placed = |address: u64| address.wrapping_add(code.offset).wrapping_sub(code.address);
        let function = find("_PyEval_EvalFrameDefault")?;
        let (start, _) = code.offset_of(function.address)?;
        let eval = start..start.checked_add(function.size)?;
        let layout = AbiPython {
            runtime: placed(runtime),
            code_type: placed(find("PyCode_Type")?.address),
            ..layout
        };
        Some(Self { layout, eval })
    }
}

/// The rest of that function: compilers put code that is seldom run elsewhere, where no
/// exported symbol names it. It
/// begins with the frame of the function that it is of, which no function of its own does;
/// and that frame is like no other.
pub fn cold_part(file: &File, table: &Table, hot: &Range<u64>) -> Option<Range<u64>> {
    /// Places at which the function is asked for its frame.
    const PLACES: u64 = 64;
    let step = ((hot.end - hot.start) / PLACES).max(1);
    let mut rules: Vec<u16> = (0..PLACES).map(|i| table.rule_at(hot.start + i * step)).collect();
    rules.sort_unstable();
    let body = rules.chunk_by(|a, b| a == b).max_by_key(|same| same.len())?.first()?;
    let functions = Table::functions(file, &Limits::default()).ok()?;
    let begins = |offset: u64| !hot.contains(&offset) && table.rule_at(offset) == *body;
    let cold = functions.into_iter().filter(|(offset, _)| begins(*offset));
    let (start, size) = cold.max_by_key(|(_, size)| *size)?;
    Some(start..start + u64::from(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prof_unwind::RuleSet;
    use std::path::Path;
    use std::path::PathBuf;
    use std::process::Command;

    /// What the compiler has of the headers of a version: offsets by the names that fields
    /// have here.
    const SOURCE: &str = r#"
        #define Py_BUILD_CORE 1
        #include <Python.h>
        #include <stddef.h>
        #include <stdio.h>
        #if PY_VERSION_HEX < 0x03090000
        #include <internal/pycore_pystate.h>
        #else
        #include <internal/pycore_runtime.h>
        #include <internal/pycore_interp.h>
        #endif
        #if PY_VERSION_HEX < 0x030b0000
        #include <frameobject.h>
        #else
        #include <internal/pycore_frame.h>
        #endif
        #define SAY(name, type, field) printf(#name " %zu\n", offsetof(type, field))
        int main(void)
        {
            SAY(interpreters, _PyRuntimeState, interpreters.head);
            SAY(interpreter_next, PyInterpreterState, next);
            SAY(thread_next, PyThreadState, next);
            SAY(thread_id, PyThreadState, thread_id);
            SAY(code_line, PyCodeObject, co_firstlineno);
            SAY(code_file, PyCodeObject, co_filename);
            printf("text_ascii %zu\n", sizeof(PyASCIIObject));
            printf("text_other %zu\n", sizeof(PyCompactUnicodeObject));
        #if PY_VERSION_HEX < 0x030b0000
            SAY(threads, PyInterpreterState, tstate_head);
            printf("native_id 0\n");
            SAY(frame_previous, PyFrameObject, f_back);
            SAY(frame_code, PyFrameObject, f_code);
            printf("frame_owner 0\nframe_entry 4294967295\n");
            SAY(code_name, PyCodeObject, co_name);
            SAY(thread_frame, PyThreadState, frame);
            printf("indirect 0\n");
        #else
            SAY(threads, PyInterpreterState, threads.head);
            SAY(native_id, PyThreadState, native_thread_id);
            SAY(frame_previous, _PyInterpreterFrame, previous);
            SAY(frame_owner, _PyInterpreterFrame, owner);
            SAY(code_name, PyCodeObject, co_qualname);
        #if PY_VERSION_HEX >= 0x030d0000
            SAY(thread_frame, PyThreadState, current_frame);
            SAY(frame_code, _PyInterpreterFrame, f_executable);
            printf("indirect 0\n");
        #else
            SAY(thread_frame, PyThreadState, cframe);
            SAY(frame_code, _PyInterpreterFrame, f_code);
            printf("indirect %zu\n", 1 + offsetof(_PyCFrame, current_frame));
        #endif
        #if PY_VERSION_HEX < 0x030c0000
            SAY(frame_entry, _PyInterpreterFrame, is_entry);
        #else
            printf("frame_entry 0\n");
        #endif
        #endif
        #if PY_VERSION_HEX < 0x030c0000
            SAY(holder, _PyRuntimeState, gilstate.tstate_current);
        #else
            printf("holder 0\n");
        #endif
            return 0;
        }
    "#;

    fn said(include: &Path) -> String {
        let dir = tempfile::tempdir().unwrap();
        let (source, program) = (dir.path().join("x.c"), dir.path().join("x"));
        std::fs::write(&source, SOURCE).unwrap();
        let mut cc = Command::new("cc");
        cc.arg("-w").arg("-I").arg(include).arg("-I").arg(include.join("internal"));
        let status = cc.arg("-o").arg(&program).arg(&source).status().unwrap();
        assert!(status.success(), "{}", include.display());
        String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap()
    }

    fn field(layout: &AbiPython, name: &str) -> u32 {
        match name {
            "holder" => layout.holder,
            "interpreters" => layout.interpreters,
            "interpreter_next" => layout.interpreter_next,
            "threads" => layout.threads,
            "thread_next" => layout.thread_next,
            "thread_id" => layout.thread_id,
            "native_id" => layout.native_id,
            "thread_frame" => layout.thread_frame,
            "indirect" => layout.indirect,
            "frame_code" => layout.frame_code,
            "frame_previous" => layout.frame_previous,
            "frame_entry" => layout.frame_entry,
            "frame_owner" => layout.frame_owner,
            "code_line" => layout.code_line,
            "code_file" => layout.code_file,
            "code_name" => layout.code_name,
            "text_ascii" => layout.text_ascii,
            "text_other" => layout.text_other,
            _ => panic!("{name}"),
        }
    }

    /// Interpreters of this machine with their headers: the system's, and those below
    /// `$PROF_PYTHONS` (folders with `lib` and `include`).
    fn installed() -> Vec<(PathBuf, PathBuf)> {
        let mut roots = vec![PathBuf::from("/usr")];
        if let Some(more) = std::env::var_os("PROF_PYTHONS") {
            let read = std::fs::read_dir(more).unwrap();
            roots.extend(read.map(|entry| entry.unwrap().path()));
        }
        let mut found = Vec::new();
        for (root, minor) in roots.iter().flat_map(|r| (8..14).map(move |minor| (r, minor))) {
            let include = root.join(format!("include/python3.{minor}"));
            let files = [
                root.join(format!("lib/libpython3.{minor}.so.1.0")),
                root.join(format!("bin/python3.{minor}")),
            ];
            let file = files.into_iter().find(|f| f.exists());
            if let (true, Some(file)) = (include.join("internal").exists(), file) {
                found.push((include, file));
            }
        }
        found
    }

    #[test]
    fn offsets_are_those_of_the_compiler() {
        let all = installed();
        if all.is_empty() {
            assert!(std::env::var("PROF_LIVE").as_deref() != Ok("require"), "no Python headers");
            eprintln!("SKIPPED: no headers of Python 3.8 to 3.13 (python3-dev)");
        }
        for (include, path) in all {
            let file = File::open(&path).unwrap();
            let Some(found) = Interpreter::find(&file) else {
                panic!("no interpreter in {}", path.display())
            };
            let said = said(&include);
            assert_eq!(said.lines().count(), 18, "{said}");
            for line in said.lines() {
                let (name, offset) = line.split_once(' ').unwrap();
                let own = field(&found.layout, name);
                assert_eq!(own.to_string(), offset, "{name} of {}", path.display());
            }
        }
    }

    #[test]
    fn the_cold_part_is_where_the_symbol_table_has_it() {
        let mut compared = 0;
        for (_, path) in installed() {
            let file = File::open(&path).unwrap();
            let table = Table::from_file(&file, &mut RuleSet::new(), &Limits::default()).unwrap();
            let found = Interpreter::find(&file).unwrap();
            let cold = cold_part(&file, &table, &found.eval);
            eprintln!("{}: {:x?}, cold: {cold:x?}", path.display(), found.eval);
            let nm = Command::new("nm").arg("-S").arg(&path).output().unwrap();
            let nm = String::from_utf8_lossy(&nm.stdout).into_owned();
            let Some(line) = nm.lines().find(|l| l.ends_with(" _PyEval_EvalFrameDefault.cold"))
            else {
                continue;
            };
            let mut fields = line.split_whitespace();
            let mut hex = || u64::from_str_radix(fields.next().unwrap(), 16).unwrap();
            let (start, size) = (table.offset_of(hex()).unwrap(), hex());
            assert_eq!(cold, Some(start..start + size), "{}", path.display());
            compared += 1;
        }
        eprintln!("{compared} interpreters with a symbol for it");
    }

    #[test]
    fn what_an_interpreter_says_of_itself_may_be_anything() {
        let mut words = vec![0; 80];
        assert!(v3_13(&words).is_none());
        words[0] = u64::from_le_bytes(*b"xdebugpy");
        assert!(v3_13(&words).is_some());
        for at in 0..80 {
            let mut words = words.clone();
            words[at] = u64::MAX;
            let _ = v3_13(&words);
            assert!(v3_13(&words[..at]).is_none() || at > 70);
        }
    }

    #[test]
    fn other_files_have_none() {
        let file = File::open("/proc/self/exe").unwrap();
        assert!(Interpreter::find(&file).is_none());
    }
}
