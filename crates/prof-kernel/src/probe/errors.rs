//! Errors with the name that manual pages list them under.

use std::io;

/// Name of an errno; those that the calls of a probe can end with.
fn name(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::E2BIG => "E2BIG",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::ENOTDIR => "ENOTDIR",
        libc::EINVAL => "EINVAL",
        libc::ENFILE => "ENFILE",
        libc::EMFILE => "EMFILE",
        libc::ENOSPC => "ENOSPC",
        libc::EROFS => "EROFS",
        libc::ERANGE => "ERANGE",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::ESRCH => "ESRCH",
        libc::ENODATA => "ENODATA",
        // The kernel's own, known to no C library.
        524 => "ENOTSUPP",
        // libbpf's own.
        4000 => "LIBBPF_ERRNO__LIBELF",
        4001 => "LIBBPF_ERRNO__FORMAT",
        _ => return None,
    })
}

/// `EACCES (permission denied)`.
pub(super) fn told(e: &io::Error) -> String {
    let text = named(&e.to_string());
    match text.rsplit_once(" (") {
        Some((what, errno)) if errno.ends_with(')') && e.raw_os_error().is_some() => {
            format!("{} ({})", errno.trim_end_matches(')'), what.to_lowercase())
        }
        _ => text,
    }
}

/// Puts names where an error says `(os error 13)`.
pub(super) fn named(text: &str) -> String {
    const MARK: &str = "(os error ";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        let (before, after) = rest.split_at(at);
        let number = &after[MARK.len()..];
        let end = number.find(')').unwrap_or(number.len());
        out.push_str(before);
        match number[..end].parse().ok().and_then(name) {
            Some(n) => {
                out.push('(');
                out.push_str(n);
            }
            None => out.push_str(&after[..MARK.len() + end]),
        }
        rest = &number[end..];
    }
    out.push_str(rest);
    out
}

/// Whether the text of an error says that `bpf` was refused for lack of privileges.
/// EACCES is no such refusal: it is how the verifier says no.
pub(super) fn is_refusal(text: &str) -> bool {
    text.contains("EPERM")
}

/// An error and its causes. Of a refusal only the first line: what libbpf adds to
/// it is about memory limits, and misleads.
pub(super) fn chain(e: &anyhow::Error) -> String {
    let text = named(&format!("{e:#}"));
    let first = text.lines().next().unwrap_or_default();
    if is_refusal(first) { first.to_owned() } else { text.trim_end().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_names() {
        assert_eq!(named("a: no (os error 13): b (os error 2)"), "a: no (EACCES): b (ENOENT)");
        assert_eq!(named("x (os error 4095) y"), "x (os error 4095) y");
        assert_eq!(named("cut (os error 1"), "cut (EPERM");
        assert_eq!(named("(os error x)"), "(os error x)");
        assert_eq!(named("none"), "none");
    }

    #[test]
    fn a_system_error_begins_with_its_name() {
        assert_eq!(told(&io::Error::from_raw_os_error(13)), "EACCES (permission denied)");
        assert_eq!(told(&io::Error::other("odd (thing)")), "odd (thing)");
    }

    #[test]
    fn a_refusal_is_told_in_one_line() {
        let e = anyhow::anyhow!("no (os error 1)\nlibbpf: Failed to bump RLIMIT_MEMLOCK");
        assert_eq!(chain(&e), "no (EPERM)");
        let e = anyhow::anyhow!("no (os error 13)\nR1 type=scalar expected=fp\n");
        assert_eq!(chain(&e), "no (EACCES)\nR1 type=scalar expected=fp");
    }
}
