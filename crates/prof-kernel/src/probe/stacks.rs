//! Stacks: what samples them is loaded, and fires, as it would.

use std::time::Instant;

use anyhow::Result;

use super::Findings;
use super::ProbeOptions;
use super::errors;
use super::hooks;
use super::privileges::Privileges;
use super::report::Check;
use super::report::State;
use crate::sampler::Rate;
use crate::sampler::StackPlan;
use crate::session::Backend;
use crate::session::Plan;
use crate::session::Session;

const GROUP: &str = "Stacks";

pub(super) fn check(
    found: &mut Findings,
    backend: Option<Backend>,
    options: &ProbeOptions,
    p: &Privileges,
) {
    let Some(backend) = backend else { return };
    let what = (GROUP, "stacks", "stacks, unwound in the kernel");
    let began = Instant::now();
    match sampled(backend, options) {
        Ok(()) => {
            let took = began.elapsed().as_secs_f64() * 1e3;
            let detail = format!("a timer on each CPU fires; loaded and started in {took:.0} ms");
            found.add(Check::new(what, State::Works, detail));
        }
        Err(e) => {
            found.limit("no stacks: -g, record and their outputs");
            let cure = if p.suffice() { "Linux 6.1 or newer".to_owned() } else { p.cure() };
            found.add(Check::new(what, State::Missing, errors::chain(&e)).cure(cure));
        }
    }
}

fn sampled(backend: Backend, options: &ProbeOptions) -> Result<()> {
    let stacks = StackPlan::clock(Rate::Hz(99));
    let plan = Plan { stacks: Some(stacks.clone()), ..hooks::plan(backend, options) };
    let session = Session::open(&plan)?;
    let mut sampler = session.sampler(&stacks)?;
    sampler.start()?;
    sampler.stop();
    Ok(())
}
