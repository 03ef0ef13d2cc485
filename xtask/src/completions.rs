//! Completions for shells, from the command line's own description.

use std::path::Path;

use anyhow::Result;
use clap_complete::Generator as _;
use clap_complete::Shell;
use clap_complete::generate;

use crate::generated::Files;
use crate::generated::write_or_check;

const DIR: &str = "docs/completions";
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Write the shells' completions to docs/completions
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Change nothing; fail if they are not as committed
    #[arg(long)]
    check: bool,
}

/// Writes or checks them.
pub fn run(args: &CompletionsArgs) -> Result<()> {
    let mut command = prof::cli::command();
    let name = command.get_name().to_owned();
    let mut files = Files::new();
    for shell in SHELLS {
        let mut script = Vec::new();
        generate(shell, &mut command, &name, &mut script);
        files.insert(shell.file_name(&name), script);
    }
    write_or_check(Path::new(DIR), &files, args.check, "completions")
}
