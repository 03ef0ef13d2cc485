//! Where there are no probes.

pub struct Semaphore;

pub static ENABLE: Semaphore = Semaphore;
pub static DISABLE: Semaphore = Semaphore;
pub static REGION_BEGIN: Semaphore = Semaphore;
pub static REGION_END: Semaphore = Semaphore;

impl Semaphore {
    #[inline(always)]
    pub const fn is_watched(&self) -> bool {
        false
    }
}

pub const fn enable() {}
pub const fn disable() {}
pub const fn region_begin(_name: &str) {}
pub const fn region_end() {}
