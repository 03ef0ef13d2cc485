//! What the project needs done besides `cargo build` and `cargo test`.

mod arch;
mod bench;
mod bpf;
mod command;
mod completions;
mod cross;
mod generated;
mod man;
mod pmu_events;
mod scratch;
mod vm;
mod vm_test;
mod workspace;

use std::process::ExitCode;

use anyhow::Context as _;
use anyhow::Result;
use clap::Parser;
use clap::Subcommand;

/// Tasks of the project: run as `cargo xtask TASK`
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Bench(bench::BenchArgs),
    Bpf(bpf::BpfArgs),
    Build(cross::BuildArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    PmuEvents(pmu_events::PmuEventsArgs),
    Vm(vm::VmArgs),
    VmTest(vm_test::VmTestArgs),
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    // The files that `vm` is given are named by its caller: it stays where it is.
    if !matches!(cli.task, Task::Vm(_)) {
        let root = workspace::root()?;
        std::env::set_current_dir(&root)
            .with_context(|| format!("cannot enter {}", root.display()))?;
    }
    match &cli.task {
        Task::Bench(args) => bench::run(args),
        Task::Bpf(args) => bpf::run(args),
        Task::Build(args) => cross::run(args),
        Task::Completions(args) => completions::run(args),
        Task::Man(args) => man::run(args),
        Task::PmuEvents(args) => pmu_events::run(args),
        Task::Vm(args) => vm::run(args),
        Task::VmTest(args) => vm_test::run(args),
    }
}
