//! Manual pages, from the command line's own description.

use std::path::Path;

use anyhow::Context as _;
use anyhow::Result;
use clap::Command;
use clap_mangen::Man;

use crate::generated::Files;
use crate::generated::write_or_check;

const DIR: &str = "docs/man";

/// Write the manual pages to docs/man
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Change nothing; fail if they are not as committed
    #[arg(long)]
    check: bool,
}

/// Writes or checks them.
pub fn run(args: &ManArgs) -> Result<()> {
    let mut command = prof::cli::command();
    // Hands what is global down to the subcommands.
    command.build();
    let mut files = Files::new();
    render(&command, command.get_name(), &mut files)?;
    write_or_check(Path::new(DIR), &files, args.check, "man")
}

/// The page of a command, and those of its subcommands: `prof-run.1`.
fn render(command: &Command, name: &str, files: &mut Files) -> Result<()> {
    // What the page calls the command is its name as a static string; leaking one
    // for each subcommand is all that this program ever leaks.
    let title: &'static str = Box::leak(name.to_owned().into_boxed_str());
    let mut page = Vec::new();
    Man::new(command.clone().name(title))
        .render(&mut page)
        .with_context(|| format!("page of {name}"))?;
    files.insert(format!("{name}.1"), page);
    for sub in command.get_subcommands() {
        if !sub.is_hide_set() && sub.get_name() != "help" {
            render(sub, &format!("{name}-{}", sub.get_name()), files)?;
        }
    }
    Ok(())
}
