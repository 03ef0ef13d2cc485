//! Names as they are in the source.

use crate::wire;

/// Longest name that is taken apart: the libraries need time that grows faster than the
/// name, and what comes out can be much longer.
const MAX_MANGLED: usize = 64 << 10;

/// Whether a name is what a compiler of C++ or Rust made of another.
pub(crate) fn is_mangled(name: &str) -> bool {
    name.starts_with("_Z") || name.starts_with("_R")
}

/// The name, taken apart if that is wanted and can be done, of no more than bearable
/// length.
pub(crate) fn name(name: &str, wanted: bool) -> String {
    if !wanted || !is_mangled(name) || name.len() > MAX_MANGLED {
        return wire::cut(name);
    }
    // Rust's older names look like C++; the other way round they differ.
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return wire::cut(&format!("{rust:#}"));
    }
    let cpp = cpp_demangle::Symbol::new(name).ok().and_then(|s| s.demangle().ok());
    wire::cut(cpp.as_deref().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn names_of_three_kinds() {
        assert_eq!(
            name("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", true),
            "core::fmt::Write::write_fmt"
        );
        assert_eq!(name("_RNvCs4fqI2P2rA04_4main4work", true), "main::work");
        assert_eq!(name("_ZN6shapes6CircleC2Ed", true), "shapes::Circle::Circle(double)");
        assert_eq!(name("_ZN6shapes6CircleC2Ed", false), "_ZN6shapes6CircleC2Ed");
        for plain in ["main", "_Z", "_ZN", "_R", "_start", ""] {
            assert_eq!(name(plain, true), plain);
        }
    }

    #[test]
    fn names_that_explode_are_cut() {
        // Each pair refers to the one before it twice.
        let bomb = format!(
            "_Z1f{}",
            (0..40).fold("St4pairIiiE".to_owned(), |n, i| {
                if i == 0 {
                    n
                } else {
                    format!(
                        "St4pairI{n}S{}_E",
                        if i == 1 { String::new() } else { format!("{}", i % 10) }
                    )
                }
            })
        );
        assert!(name(&bomb, true).len() < 5000);
    }
}
