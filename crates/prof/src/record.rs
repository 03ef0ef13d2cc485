//! `prof record`: `run` or `watch`, with stacks kept in a file.

use std::process::ExitCode;

use anyhow::Result;
use prof_export::AnyOutputSpec;
use prof_export::Sink;

use crate::cli::RAW_FILE;
use crate::cli::RecordArgs;
use crate::cli::RunArgs;
use crate::cli::Shared;
use crate::cli::WatchArgs;
use crate::run;
use crate::watch;

/// Records; the exit status is that of `run` or `watch`.
pub fn main(args: &RecordArgs) -> Result<ExitCode> {
    let mut shared = args.shared.clone();
    if !shared.output.iter().any(|o| matches!(o, AnyOutputSpec::Raw(_))) {
        shared.output.push(AnyOutputSpec::Raw(Sink::File(RAW_FILE.into())));
    }
    let shared = Shared { stacks: true, ..shared };
    let which = args.which.clone();
    if args.command.is_empty() {
        return watch::main(&WatchArgs { shared, which, existing: args.existing });
    }
    run::main(&RunArgs {
        shared,
        which,
        repeat: None,
        ignore_failure: false,
        no_follow: args.no_follow,
        follow: !args.no_follow,
        unprivileged: false,
        command: args.command.clone(),
    })
}
