//! `prof report`.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use prof_export::Sink;
use prof_export::stacks::Root;
use prof_export::stacks::StackFormat;
use prof_export::stacks::StackOutputSpec;
use prof_kernel::prepared;
use prof_kernel::sampler::gather::Code;
use prof_model::stacks::Module;

use crate::cli::ReportArgs;
use crate::output;
use crate::stacks::raw;
use crate::stacks::show;
use crate::stacks::show::How;
use crate::stacks::show::StackOutput;

/// Names what was recorded, with the files that this machine has, and shows it.
pub fn main(args: &ReportArgs) -> Result<ExitCode> {
    let mut profile = raw::read(&args.file)?;
    let asked = match args.output.is_empty() {
        true => vec![StackOutputSpec { format: StackFormat::Text, sink: Sink::Default }],
        false => args.output.clone(),
    };
    let outputs: Vec<_> = asked.into_iter().map(StackOutput::Shown).collect();
    show::try_open(&outputs)?;
    let how = How {
        root: Root::default(),
        top: args.top,
        color: args.color,
        default: output::Default::Stdout,
        symfs: args.symfs.clone(),
        debuginfod: args.debuginfod,
        cache: prepared::dir_unless(args.no_cache),
    };
    let code: Vec<_> = profile.modules.iter().map(|m| code_of(m, args.symfs.as_deref())).collect();
    show::name(&mut profile, &code, &how);
    show::write(&profile, &outputs, &how).1?;
    Ok(ExitCode::SUCCESS)
}

/// The file of a module; its build id is compared when it is read.
fn code_of(module: &Module, symfs: Option<&Path>) -> Code {
    if module.path == Path::new("[vdso]") {
        return match prof_unwind::own_vdso() {
            Some(image) => Code::Image(image),
            None => Code::Gone("this machine has no vDSO".into()),
        };
    }
    if !module.path.is_absolute() {
        return Code::Gone("generated code: names are taken when it is recorded".into());
    }
    let path = match symfs {
        Some(dir) => dir.join(module.path.strip_prefix("/").unwrap_or(&module.path)),
        None => PathBuf::from(&module.path),
    };
    match File::open(&path) {
        Ok(file) => Code::File(file),
        Err(e) => Code::Gone(format!("{}: {e}", path.display())),
    }
}
