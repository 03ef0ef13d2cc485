//! Booting a guest.

use std::io;
use std::io::Read as _;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;

use super::VmArgs;
use super::console::Console;
use super::kernel::Kernel;
use super::machine::Machine;

/// How a guest's run ended.
pub struct Outcome {
    /// From the start of the emulator to its end.
    pub elapsed: Duration,
    timed_out: bool,
    /// The kernel's own message, if it panicked.
    panic: Option<String>,
    /// The command's exit status, if the guest got as far as printing it.
    command_status: Option<i32>,
    qemu_status: ExitStatus,
}

impl Outcome {
    /// Fails if the command did, or was not run to its end.
    pub fn check(&self, timeout: u64) -> Result<()> {
        if let Some(panic) = &self.panic {
            bail!("guest kernel panicked: {panic}");
        }
        ensure!(!self.timed_out, "guest did not power off within {timeout} s; killed");
        ensure!(self.qemu_status.success(), "qemu failed: {}", self.qemu_status);
        match self.command_status {
            Some(0) => Ok(()),
            Some(status) => bail!("command exited with status {status}"),
            None => bail!("guest ended without reporting the command's status"),
        }
    }
}

/// Boots a kernel, copies its console to stdout and waits for it to power off.
pub fn boot(args: &VmArgs, kernel: &Kernel, initramfs: &Path, marker: &str) -> Result<Outcome> {
    let started = Instant::now();
    let deadline = started + Duration::from_secs(args.timeout);
    // One emulation thread for all guest CPUs: with one thread each, a CPU can
    // go on executing a breakpoint that another has already removed while
    // patching kernel text, as enabling tracepoints, kprobes and perf events
    // does, and the guest then oopses (int3) or hangs now and then.
    //
    // `-display none` with an explicit serial port, rather than `-nographic`,
    // which would make the firmware print its banner and escape sequences there.
    let machine = Machine::of(args.host.arch);
    let mut qemu = Killed(
        Command::new(machine.qemu)
            .args(["-no-user-config", "-nodefaults", "-no-reboot"])
            .args(["-accel", "tcg,thread=single"])
            .args(machine.args)
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-smp", &args.host.cpus.to_string()])
            .args(["-m", &args.host.memory.to_string()])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", machine.kernel_args])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", machine.qemu))?,
    );
    let mut serial = qemu.0.stdout.take().context("no pipe from the guest")?;
    let (sender, receiver) = mpsc::channel();
    // Reading blocks, so it has a thread of its own; it ends when qemu does.
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let chunk = match serial.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => Ok(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let last = chunk.is_err();
            if sender.send(chunk).is_err() || last {
                break;
            }
        }
    });

    let mut console = Console::new(marker);
    let mut stdout = io::stdout().lock();
    let mut timed_out = false;
    loop {
        // Checked here too, as a guest that never stops printing never lets
        // the wait below run out.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            timed_out = true;
            break;
        }
        match receiver.recv_timeout(left) {
            Ok(chunk) => {
                console.feed(&chunk.context("cannot read from the guest")?, &mut stdout)?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    console.finish(&mut stdout)?;
    if timed_out {
        qemu.0.kill().context("cannot kill qemu")?;
    }
    let qemu_status = qemu.0.wait().context("cannot wait for qemu")?;
    Ok(Outcome {
        elapsed: started.elapsed(),
        timed_out,
        panic: console.panic,
        command_status: console.status,
        qemu_status,
    })
}

/// A child that does not outlive this handle, whichever way its scope is left.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only if the child has been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
