//! Live tests: the real program on a real kernel, with real processes.
//!
//! They need root and BPF. Without, each says so and is skipped; with
//! `PROF_LIVE=require` (CI) that is a failure. `PROF_HOOKS` forces a backend,
//! `PROF_BIN` and `PROF_TARGET` name the programs where they are not beside this
//! one (a virtual machine).

// A test that cannot go on is to fail on the spot.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod audit;
mod audit_list;
mod cgroup;
mod commands;
mod control;
mod counters;
mod doctor;
mod events;
mod figures;
mod generated;
mod harness;
mod hotplug;
mod interval;
mod lifecycle;
mod loss;
mod names;
mod off_cpu;
mod oracles;
mod perfdata;
mod pmu;
mod programs;
mod python;
mod recording;
mod regions;
mod repeat;
mod rules;
mod stacks;
mod switch;
mod tables;
mod unprivileged;
