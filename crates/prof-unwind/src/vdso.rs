//! The image of the vDSO, which is a file nowhere.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// It has two or three pages.
const MAX: u64 = 1 << 20;

/// The vDSO of this process. Those of other processes of the same architecture are
/// alike; a 32-bit process has another.
pub fn own_vdso() -> Option<Vec<u8>> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with(" [vdso]"))?;
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let size = u64::from_str_radix(end, 16).ok()?.checked_sub(start)?;
    if size > MAX {
        return None;
    }
    let mut image = vec![0; size as usize];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut image, start).ok()?;
    Some(image)
}
