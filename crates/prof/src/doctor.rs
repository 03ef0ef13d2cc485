//! stub
use clap::Args;
/// stub
#[derive(Debug, Args)]
pub struct DoctorArgs {}
/// stub
pub fn run(_: &DoctorArgs) -> anyhow::Result<std::process::ExitCode> {
    Ok(std::process::ExitCode::SUCCESS)
}
