//! The live tests, under other kernels.

use std::path::PathBuf;

use anyhow::Result;

use crate::arch::Arch;
use crate::cross::Target;
use crate::scratch::Scratch;
use crate::vm;
use crate::vm::GuestFile;
use crate::vm::Host;
use crate::vm::VmArgs;
use crate::workspace;

/// Each way to attach has its own way to fail, so each is tested.
const HOOKS: [&str; 3] = ["raw_tp", "tp_btf", "kprobe"];

const GUEST_BIN: &str = "/usr/local/bin";

/// Run the live tests in guests, once for each kind of hook
#[derive(Debug, clap::Args)]
pub struct VmTestArgs {
    /// Kernel to boot, as with `vm`; may be repeated
    #[arg(long = "kernel", value_name = "VERSION", default_values = ["6.1", "6.12"])]
    kernels: Vec<String>,

    /// Kind of hook to test; may be repeated
    #[arg(long = "hooks", value_name = "KIND", default_values = HOOKS)]
    hooks: Vec<String>,

    /// Kill a guest that has not powered off after this many seconds
    #[arg(long, value_name = "SECS", default_value_t = 1500)]
    timeout: u64,

    /// Copy HOST into the guest as GUEST, as with `vm`: a program that tests compare with;
    /// may be repeated
    #[arg(long = "file", value_name = "HOST[:GUEST]", value_parser = GuestFile::parse)]
    files: Vec<GuestFile>,

    #[command(flatten)]
    host: Host,

    /// Arguments for the test runner, such as a filter
    #[arg(last = true, value_name = "ARG")]
    runner: Vec<String>,
}

/// Builds what goes into the guests, and boots them.
pub fn run(args: &VmTestArgs) -> Result<()> {
    let target = Target::new(args.host.arch, false)?;
    let build = |cargo: &[&str], name: &str| workspace::build_for(&target, cargo, name);
    let prof = build(&["build", "--release", "-p", "prof"], "prof")?;
    let prof_target = build(&["build", "--release", "-p", "prof-testkit"], "prof-target")?;
    let live = build(&["test", "--workspace", "--test", "live", "--no-run"], "live")?;

    let scratch = Scratch::create(&args.host.cache)?;
    let stripped = scratch.path.join("live");
    // The guest holds its files in memory.
    target.strip(&live, &stripped)?;

    let guest = |name: &str| format!("{GUEST_BIN}/{name}");
    let file = |host: PathBuf, name: &str| GuestFile { host, guest: guest(name).into() };
    let env = [
        ("PROF_BIN", guest("prof")),
        ("PROF_TARGET", guest("prof-target")),
        ("PROF_LIVE", "require".to_owned()),
        // Emulated CPUs are slow: storms are smaller there.
        ("PROF_VM", "1".to_owned()),
    ];
    let mut env = Vec::from(env.map(|(key, value)| (key.to_owned(), value)));
    // The one machine whose PMU counts exactly.
    if args.host.arch == Arch::Aarch64 && args.host.cpus == 1 {
        env.push(("PROF_PMU".to_owned(), "require".to_owned()));
    }
    let mut command =
        vec!["sh".to_owned(), "-c".to_owned(), script(&args.hooks), guest("prof-live")];
    command.extend(args.runner.iter().cloned());
    let mut files = args.files.clone();
    files.extend([
        file(prof, "prof"),
        file(prof_target, "prof-target"),
        file(stripped, "prof-live"),
    ]);
    vm::run(&VmArgs {
        kernels: args.kernels.clone(),
        files,
        env,
        timeout: args.timeout,
        host: args.host.clone(),
        command,
    })
}

/// Runs the test binary, `$0`, once for each kind of hook, and shows how each run
/// ended once more at the end. One test at a time, as the guest's CPUs take
/// turns and some tests compare times. Up to three that failed are given a second turn,
/// for the same reason: the machine that emulates may have had other things to do.
fn script(hooks: &[String]) -> String {
    let hooks = hooks.join(" ");
    format!(
        r#"failed=
for hooks in {hooks}; do
    echo "vm-test: $hooks"
    # A pipeline has the status of its last command.
    {{ PROF_HOOKS=$hooks "$0" --test-threads=1 "$@" 2>&1; echo $? >/tmp/status; }} | tee /tmp/$hooks.log
    [ "$(cat /tmp/status)" = 0 ] && continue
    again=$(sed -n '/^failures:$/,/^test result/s/^    \([a-z0-9_:]*\)$/\1/p' /tmp/$hooks.log | sort -u)
    n=$(echo $again | wc -w)
    if [ $n -ge 1 ] && [ $n -le 3 ]; then
        echo "vm-test: FAILED ONCE, now again:" $again
        {{ PROF_HOOKS=$hooks "$0" --test-threads=1 --exact $again 2>&1; echo $? >/tmp/status; }} | tee -a /tmp/$hooks.log
        [ "$(cat /tmp/status)" = 0 ] && continue
    fi
    failed="$failed $hooks"
done
for hooks in {hooks}; do
    echo "vm-test: $(uname -r) $hooks: $(grep '^test result' /tmp/$hooks.log || echo 'ended without a result')"
done
[ -z "$failed" ]"#
    )
}
