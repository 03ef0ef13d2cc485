//! `prof audit --list`: what is being profiled now.

use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context as _;
use anyhow::Result;
use prof_events::describe::Names;
use prof_export::Format;
use prof_export::OutputSpec;
use prof_export::Sink;
use prof_export::audit_list;
use prof_kernel::audit_list as kernel;

use crate::cli::AuditArgs;
use crate::output::terminal_width;
use crate::select;

/// Whether a list is shown so.
pub fn has(format: Format) -> bool {
    matches!(format, Format::Table | Format::Json)
}

/// Lists it.
pub fn main(args: &AuditArgs) -> Result<ExitCode> {
    let table = [OutputSpec { format: Format::Table, sink: Sink::Default }];
    let outputs = if args.output.is_empty() { &table[..] } else { &args.output };
    let list = kernel::list(&Names::new(select::catalogue()));
    for output in outputs {
        let (to, name, color, width): (Box<dyn Write>, _, _, _) = match &output.sink {
            Sink::File(path) => {
                let file = File::create(path);
                let file = file.with_context(|| format!("output file {}", path.display()))?;
                (Box::new(file), path.display().to_string(), false, 120)
            }
            Sink::Default | Sink::Stdout => {
                let to = io::stdout();
                let (color, width) = (args.color.on(&to), terminal_width(&to));
                (Box::new(to), "standard output".to_owned(), color, width)
            }
        };
        let mut to = BufWriter::new(to);
        let written = match output.format {
            Format::Json => audit_list::json::write(&list, &mut to),
            _ => audit_list::table::write(&list, color, width, &mut to),
        };
        written.and_then(|()| to.flush()).with_context(|| format!("writing to {name}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
