//! Ways to execute a program, some of which fail.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libc::pid_t;

use crate::args::Args;
use crate::error::{Error, Result};
use crate::report::Facts;
use crate::sys::{self, Program};

/// `fork CMD…`
pub fn fork(args: Args) -> Result<()> {
    run_child(args, Program::fork)
}

/// `vfork CMD…`
pub fn vfork(args: Args) -> Result<()> {
    run_child(args, Program::vfork)
}

/// `spawn CMD…`
pub fn spawn(args: Args) -> Result<()> {
    run_child(args, Program::spawn)
}

fn run_child(args: Args, start: fn(&Program) -> Result<pid_t>) -> Result<()> {
    let program = Program::from_command(&args.command()?)?;
    let child = start(&program)?;
    let status = sys::wait_for(child)?;
    let mut facts = Facts::with_pid();
    facts.add("child_pid", child);
    facts.add_status("", status);
    facts.print()
}

/// `reexec N`
pub fn reexec(mut args: Args) -> Result<()> {
    let left = args.number("N")?;
    args.finish()?;
    if left == 0 {
        return Facts::with_pid().print();
    }
    let next = Program::own(&["reexec", &(left - 1).to_string()])?;
    Err(next.exec_error(&next.exec()))
}

/// `setname NAME`
pub fn setname(mut args: Args) -> Result<()> {
    let name = args.text("NAME")?;
    args.finish()?;
    let name =
        CString::new(name.into_vec()).map_err(|_| Error::new("NAME contains a null byte"))?;
    let names = [name.as_c_str(), c"between", name.as_c_str(), c"and-again", name.as_c_str()];
    for name in names {
        // SAFETY: `name` is a terminated string.
        sys::check("prctl", unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) })?;
    }
    let mut comm = [0_u8; 16];
    // SAFETY: `comm` has the 16 bytes that the call may write.
    sys::check("prctl", unsafe { libc::prctl(libc::PR_GET_NAME, comm.as_mut_ptr()) })?;
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    let mut facts = Facts::with_pid();
    facts.add("comm", String::from_utf8_lossy(&comm[..end]));
    facts.add("renames", names.len());
    facts.print()
}

/// `failed-exec N`
pub fn failed_exec(mut args: Args) -> Result<()> {
    let count = args.number("N")?;
    args.finish()?;
    // Files in memory spare us the search for a writable directory.
    let plain = memory_file(0o644)?;
    let garbage = memory_file(0o755)?;
    let cases = [
        ("missing", PathBuf::from("/proc/self/no-such-program")),
        ("not_executable", descriptor_path(&plain)),
        ("bad_format", descriptor_path(&garbage)),
    ];
    let mut facts = Facts::with_pid();
    for (name, path) in cases {
        let program = Program::from_path(&path)?;
        let mut errno = 0;
        for _ in 0..count {
            errno = program.exec().raw_os_error().unwrap_or(0);
        }
        facts.add(&format!("{name}_count"), count);
        facts.add(&format!("{name}_errno"), errno_name(errno));
    }
    facts.print()
}

fn memory_file(mode: u32) -> Result<OwnedFd> {
    // SAFETY: the name is a terminated string.
    let fd = unsafe { libc::memfd_create(c"not-a-program".as_ptr(), libc::MFD_CLOEXEC) };
    let fd = sys::check("memfd_create", fd)?;
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    fs::set_permissions(descriptor_path(&fd), fs::Permissions::from_mode(mode))
        .map_err(|e| Error::io("memory file", &e))?;
    Ok(fd)
}

fn descriptor_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn errno_name(errno: i32) -> String {
    match errno {
        0 => "none".to_owned(),
        libc::ENOENT => "ENOENT".to_owned(),
        libc::EACCES => "EACCES".to_owned(),
        libc::ENOEXEC => "ENOEXEC".to_owned(),
        libc::EPERM => "EPERM".to_owned(),
        other => other.to_string(),
    }
}

/// `die-in-exec DIR`
pub fn die_in_exec(mut args: Args) -> Result<()> {
    let directory = args.path("DIR")?;
    args.finish()?;
    let named = |path: &Path, error: io::Error| Error::io(path.display(), &error);
    fs::create_dir_all(&directory).map_err(|e| named(&directory, e))?;
    let path = directory.join("die-in-exec");
    fs::write(&path, unloadable_elf()?).map_err(|e| named(&path, e))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(|e| named(&path, e))?;

    let program = Program::from_path(&path)?;
    sys::set_core_limit(Some(0))?;
    let child = program.fork()?;
    let status = sys::wait_for(child)?;
    let mut facts = Facts::with_pid();
    facts.add("path", path.display());
    facts.add("child_pid", child);
    facts.add_status("", status);
    facts.print()?;
    if libc::WIFSIGNALED(status) {
        Ok(())
    } else {
        Err(Error::new("execve failed before its point of no return"))
    }
}

/// A native executable that every check of the kernel lets pass until it maps the segments: the
/// second one lies in the kernel's half of the address space. By then the old program is gone, so
/// the kernel has to kill the process.
fn unloadable_elf() -> Result<Vec<u8>> {
    const HEADER: u16 = 64;
    const SEGMENT: u16 = 56;
    const SEGMENTS: u16 = 2;
    const ET_EXEC: u16 = 2;
    const PT_LOAD: u32 = 1;
    const READ_EXECUTE: u32 = 5;
    // Of the largest page size there is.
    const ALIGN: u64 = 0x1_0000;
    const MAPPABLE: u64 = 0x40_0000;
    const UNMAPPABLE: u64 = 0xffff_8000_0000_0000;

    // Identification, machine and flags are those of this very program.
    let own_path = sys::OWN_PATH.to_string_lossy();
    let mut own = [0_u8; HEADER as usize];
    fs::File::open(&*own_path)
        .and_then(|mut file| file.read_exact(&mut own))
        .map_err(|e| Error::io(&own_path, &e))?;

    let size = u64::from(HEADER) + u64::from(SEGMENT) * u64::from(SEGMENTS);
    let mut elf = Vec::new();
    elf.extend_from_slice(&own[..16]); // e_ident
    elf.extend(ET_EXEC.to_ne_bytes());
    elf.extend_from_slice(&own[18..24]); // e_machine, e_version
    elf.extend((MAPPABLE + size).to_ne_bytes()); // e_entry
    elf.extend(u64::from(HEADER).to_ne_bytes()); // e_phoff
    elf.extend(0_u64.to_ne_bytes()); // e_shoff
    elf.extend_from_slice(&own[48..52]); // e_flags
    elf.extend(HEADER.to_ne_bytes());
    elf.extend(SEGMENT.to_ne_bytes());
    elf.extend(SEGMENTS.to_ne_bytes());
    elf.extend([0; 6]); // no sections
    for address in [MAPPABLE, UNMAPPABLE] {
        elf.extend(PT_LOAD.to_ne_bytes());
        elf.extend(READ_EXECUTE.to_ne_bytes());
        elf.extend(0_u64.to_ne_bytes()); // p_offset
        elf.extend(address.to_ne_bytes()); // p_vaddr
        elf.extend(address.to_ne_bytes()); // p_paddr
        elf.extend(size.to_ne_bytes()); // p_filesz
        elf.extend(size.to_ne_bytes()); // p_memsz
        elf.extend(ALIGN.to_ne_bytes());
    }
    elf.resize(4096, 0);
    Ok(elf)
}
