//! Python's own frames: which files have an interpreter, what code objects are called, and
//! where in a stack their frames stand.
//!
//! - [`layout`]: where an interpreter keeps what, by version
//! - [`names`]: what code objects are called
//! - [`merge`]: from two lists of frames to one

pub mod layout;
pub mod merge;
pub mod names;

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use anyhow::Result;
use prof_model::stacks::Whole;
use prof_unwind::Table;

use crate::abi::stacks::UserFrame;
use crate::sampler::Sampler;
use crate::sampler::python::layout::Interpreter;
use crate::sampler::python::merge::Place;
use crate::sampler::tables::Tables;
use crate::sys;

/// What is known of interpreters.
#[derive(Debug)]
pub struct Python {
    /// Those that the kernel half reads, by number of their files.
    map: OwnedFd,
    /// Where in these files the code of the function is that runs Python's.
    evals: HashMap<u32, Vec<Range<u64>>>,
    /// Why the program that reads them could not be loaded.
    refused: Option<String>,
}

impl Python {
    /// Of this sampler, none so far.
    pub fn new(sampler: &Sampler) -> Result<Self> {
        let map = sampler.map("interpreters")?.try_clone_to_owned().context("interpreters")?;
        Ok(Self { map, evals: HashMap::new(), refused: None })
    }

    /// A file was met: if it has an interpreter, that is read from now on. Before anything
    /// else is done with the file, as processes run meanwhile.
    pub fn meet(&mut self, id: u32, file: &File, tables: &Tables, sampler: &mut Sampler) {
        self.evals.remove(&id);
        let Some(found) = Interpreter::find(file) else { return };
        if self.refused.is_none() {
            self.refused = sampler.read_python().err().map(|e| first_line(&e));
        }
        if sys::map_update(self.map.as_fd(), &id, &found.layout).is_ok() {
            self.evals.insert(id, vec![found.eval]);
            tables.look_again(id);
        }
    }

    /// Its table was made.
    pub fn complete(&mut self, id: u32, file: &File, table: &Table) {
        if let Some(evals) = self.evals.get_mut(&id)
            && let [hot] = &evals[..]
        {
            let cold = layout::cold_part(file, table, hot);
            evals.extend(cold);
        }
    }

    /// Why nothing can be read, if so.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// The number is given back. Stacks with the file may still come.
    pub fn give_up(&self, id: u32) {
        // It may never have been there.
        let _ = sys::map_delete(self.map.as_fd(), &id);
    }

    /// Puts the frames of `part` where those of the interpreter are.
    pub fn merge(
        &self,
        user: Vec<UserFrame>,
        part: &[UserFrame],
        whole: Whole,
    ) -> (Vec<Place>, Whole) {
        if self.evals.is_empty() {
            return (user.into_iter().map(Place::Code).collect(), whole);
        }
        // A return address is behind its call, which may be the last instruction.
        let is_eval = |at: usize, f: &UserFrame| {
            let offset = f.offset - u64::from(at > 0 && f.offset > 0);
            self.evals.get(&f.file).is_some_and(|all| all.iter().any(|r| r.contains(&offset)))
        };
        merge::merge(user, part, whole, is_eval)
    }
}

/// What the verifier says of it is long.
fn first_line(e: &anyhow::Error) -> String {
    format!("{e:#}").lines().next().unwrap_or_default().to_owned()
}
