//! Regions and switches by programs themselves: a probe in this very program is attached
//! to, and passed.

use std::fs;
use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;

use super::Findings;
use super::ProbeOptions;
use super::errors;
use super::hooks;
use super::privileges::Privileges;
use super::report::Check;
use super::report::State;
use crate::session::Backend;
use crate::session::Session;
use crate::usdt::Name;
use crate::usdt::Probe;

pub(super) fn check(
    found: &mut Findings,
    backend: Option<Backend>,
    options: &ProbeOptions,
    p: &Privileges,
) {
    let Some(backend) = backend else { return };
    let what = ("Regions", "uprobes", "uprobes, for regions and switches by programs");
    let began = Instant::now();
    match passed(backend, options) {
        Ok(how) => {
            let took = began.elapsed().as_secs_f64() * 1e3;
            let detail = format!("{how}: attached to this program and passed, in {took:.0} ms");
            found.add(Check::new(what, State::Works, detail));
        }
        Err(e) => {
            found.limit("no regions and no switches by programs themselves");
            let cure = match p.suffice() {
                true => "a kernel with CONFIG_UPROBES and CONFIG_UPROBE_EVENTS".to_owned(),
                false => p.cure(),
            };
            found.add(Check::new(what, State::Missing, errors::chain(&e)).cure(cure));
        }
    }
}

fn passed(backend: Backend, options: &ProbeOptions) -> Result<&'static str> {
    let mut session = Session::open(&hooks::plan(backend, options))?;
    let probe = Probe {
        name: Name::RegionEnd,
        file_offset: place_of(spot as *const () as usize)?,
        semaphore_offset: None,
        args: String::new(),
    };
    let file = File::open("/proc/self/exe")?;
    let attached = session.listen_at(&file, &[probe], Path::new("prof"))?;
    spot();
    Ok(attached)
}

/// Passed once. Nobody is armed who could end a region here.
#[inline(never)]
extern "C" fn spot() {
    black_box(());
}

/// Where an address of this process is in its file.
fn place_of(address: usize) -> Result<u64> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    maps.lines()
        .find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (from, to) = words.next()?.split_once('-')?;
            let number = |hex: &str| usize::from_str_radix(hex, 16).ok();
            let (from, to) = (number(from)?, number(to)?);
            let offset = number(words.nth(1)?)?;
            (from..to).contains(&address).then(|| (address - from + offset) as u64)
        })
        .context("/proc/self/maps does not have this program")
}
