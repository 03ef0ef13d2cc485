//! `prof watch`.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use prof_export::Format;
use prof_kernel::session::Session;
use prof_model::rules::Rule;

use crate::cli::WatchArgs;
use crate::output;
use crate::output::Outputs;
use crate::requests::Next;
use crate::requests::Requests;
use crate::rules;
use crate::select;
use crate::signals::Stop;
use crate::stacks::Stacks;
use crate::stream;
use crate::stream::Stream;

/// Watches until told to stop.
pub fn main(args: &WatchArgs) -> Result<ExitCode> {
    let mut set = rules::from_options(&args.which)?;
    if set.is_empty() {
        set.push(Rule::parse("all: comm=*", "all")?)?;
    }
    let rules = rules::compiled(&set)?;
    let selected = select::from_options(&args.shared, &set)?;
    let to = output::Default::Stdout;
    let mut stacks = Stacks::from_options(&args.shared, &selected, to);
    if let Some(stacks) = &mut stacks {
        stacks.prepare_named(&set);
    }
    let outputs = Outputs::open(&args.shared, selected.sort, Format::Table, to, stacks.as_ref())?;
    let stop = Stop::install()?;
    let mut requests = Requests::from_options(&args.shared)?;
    let session =
        Session::open(&stream::plan(&args.shared, &selected, &rules, true, args.existing, None))?;
    let mut stream = Stream::begin(session, outputs, &selected, &rules, None, stacks)?;
    if args.existing {
        stream.attach_matching(rules.tables.follow)?;
    }
    requests.begin(&mut stream)?;
    let deadline = args.shared.duration.map(|d| Instant::now() + d);
    while !stop.asked() && deadline.is_none_or(|d| Instant::now() < d) {
        if stream.step(None, &mut requests)? != Next::GoOn {
            break;
        }
    }
    stream.finish()?;
    Ok(ExitCode::SUCCESS)
}
