//! `prof attach`.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use anyhow::bail;
use prof_export::Format;
use prof_kernel::host;
use prof_kernel::session::Session;
use prof_model::rules::Rule;
use prof_model::rules::RuleSet;

use crate::cli::AttachArgs;
use crate::output;
use crate::output::Outputs;
use crate::requests::Next;
use crate::requests::Requests;
use crate::rules;
use crate::say::say;
use crate::select;
use crate::signals::Stop;
use crate::stacks::Stacks;
use crate::stream;
use crate::stream::Stream;

/// Profiles until all have exited, or told to stop.
pub fn main(args: &AttachArgs) -> Result<ExitCode> {
    let list: Vec<_> = args.pids.iter().map(u32::to_string).collect();
    if !host::sees_host_pids() {
        bail!(
            "process ids in a pid namespace of its own mean others to the kernel: attach from the host"
        );
    }
    for pid in &args.pids {
        match host::process_of(*pid) {
            Some(process) if process == *pid => {}
            Some(process) => bail!(
                "{pid} is a thread of process {process}, and processes are attached to: prof attach \
                 --per-thread {process} has the figures of each thread"
            ),
            None => bail!("no process has the id {pid}"),
        }
    }
    let mut set = RuleSet::default();
    let follow = if args.follow { " follow" } else { "" };
    set.push(Rule::parse(&format!("attach: pid={}{follow}", list.join(",")), "attach")?)?;
    let rules = rules::compiled(&set)?;
    let selected = select::from_options(&args.shared, &set)?;
    let to = output::Default::Stdout;
    let stacks = Stacks::from_options(&args.shared, &selected, to);
    let outputs = Outputs::open(&args.shared, selected.sort, Format::Table, to, stacks.as_ref())?;
    let stop = Stop::install()?;
    let mut requests = Requests::from_options(&args.shared)?;
    let session = Session::open(&stream::plan(&args.shared, &selected, &rules, false, true, None))?;
    let mut stream = Stream::begin(session, outputs, &selected, &rules, None, stacks)?;
    let wanted: Vec<_> = args.pids.iter().map(|p| (*p, rules.tables.rules)).collect();
    let attach = stream.attach(&wanted, rules.tables.follow)?;
    let missed = attach.missed.iter().map(|(pid, missed)| missed.of(*pid));
    if attach.attached.is_empty() {
        stream.finish()?;
        bail!("{}", missed.collect::<Vec<_>>().join("; "));
    }
    missed.for_each(|what| say!("prof: warning: {what}"));
    requests.begin(&mut stream)?;
    let deadline = args.shared.duration.map(|d| Instant::now() + d);
    // While it is paused, or they have switched themselves off, nothing is profiled, but
    // may be again.
    let may_go_on = |stream: &Stream| {
        let may = stream.is_paused() || stream.any_off();
        stream.live() > 0 || may && args.pids.iter().any(|p| host::exists(*p))
    };
    while !stop.asked() && may_go_on(&stream) && deadline.is_none_or(|d| Instant::now() < d) {
        if stream.step(None, &mut requests)? != Next::GoOn {
            break;
        }
    }
    stream.finish()?;
    Ok(ExitCode::SUCCESS)
}
