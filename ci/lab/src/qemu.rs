// SPDX-License-Identifier: GPL-3.0-only
//! The emulated machine: QEMU, as a rule with instruction-counted virtual time.
//!
//! - Such time is a count of instructions over all CPUs that are not halted; equal inputs give equal
//!   serial logs, byte for byte, also beside other load.
//! - `filter-buffer` is a timer the machine cannot see; it ends QEMU's round-robin turns, so CPUs
//!   interleave every few tens of microseconds.
//! - x2APIC dies under `-icount`; without a display or realtime timers nothing else ends turns.
//! - The firmware shows file names to the machine as parts of command lines, and another name is another sample: QEMU runs
//!   in the run's folder, where files have fixed names.
//! - The child dies with the thread that runs it, whatever kills that: no QEMU is left behind.

use anyhow::{Context, Result, bail};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the machine's time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// A count of instructions.
    Counted,
    /// The host's, for what a run must do and not how fast: a count takes the longer the more pCPUs there are.
    Wall,
}

/// One machine, ready to start.
pub struct Machine<'a> {
    /// QEMU's binary.
    pub qemu: &'a Path,
    /// Hypervisor ELF.
    pub hypervisor: &'a Path,
    /// Its command line, without the parts every lab machine has.
    pub xen_options: &'a str,
    /// dom0's kernel.
    pub vmlinux: &'a Path,
    /// dom0's initramfs, the job appended.
    pub initramfs: &'a Path,
    /// pCPUs, dom0's included, with their sockets and cores: what `-smp` takes.
    pub smp: &'a str,
    /// What its time is.
    pub clock: Clock,
    /// Seed of QEMU's own randomness.
    pub seed: u64,
    /// Milliseconds of wall time are not limited by the machine: this is.
    pub limit: Duration,
    /// Where the serial log goes: the run's folder, in which files are linked under their fixed names.
    pub log: PathBuf,
}

// loglvl: Xen prints the line of a WARN_ON() at the level of information.
const XEN: &str = "console=com1 com1=115200,8n1 dom0_mem=640M,max:640M dom0_max_vcpus=1 dom0_vcpus_pin x2apic=0 \
                   cpuidle=0 bootscrub=0 loglvl=info guest_loglvl=warning/warning";
const DOM0: &str = "console=hvc0 panic=1 quiet loglevel=1 nokaslr nowatchdog cryptomgr.notests";

impl Machine<'_> {
    /// QEMU's arguments; the recipe's, one by one.
    pub fn arguments(&self) -> Vec<String> {
        let initrd = format!("vmlinux {DOM0},dom0.cpio");
        let seed = (self.seed & 0x7fff_ffff).to_string();
        let serial =
            format!("file:{}", std::path::absolute(&self.log).unwrap_or_else(|_| self.log.clone()).display());
        let append = format!("{XEN} {}", self.xen_options);
        let words = [
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-vga",
            "none",
            "-no-reboot",
            "-nic",
            "none",
            "-monitor",
            "none",
            "-serial",
            &serial,
            "-cpu",
            "qemu64,+svm,+npt,-x2apic",
            "-m",
            "2560",
            "-smp",
            self.smp,
            "-rtc",
            "base=2020-01-01,clock=vm",
            "-seed",
            &seed,
            "-kernel",
            "xen",
            "-append",
            &append,
            "-initrd",
            &initrd,
        ];
        let counted = [
            "-icount",
            "shift=0,sleep=off",
            "-netdev",
            "hubport,hubid=0,id=n0",
            "-object",
            "filter-buffer,id=fb0,netdev=n0,interval=40,queue=all",
        ];
        let clock = match self.clock {
            Clock::Counted => &counted[..],
            Clock::Wall => &["-accel", "tcg,thread=multi"],
        };
        words.iter().chain(clock).map(|&word| word.to_owned()).collect()
    }

    /// Runs to the end of the machine. Every complete serial line goes to `line`; an error from it,
    /// the time limit or a dead hypervisor ends the machine.
    pub fn run(&self, line: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        std::fs::write(&self.log, b"").with_context(|| format!("create {}", self.log.display()))?;
        let folder = self.log.parent().context("the serial log has no folder")?;
        for (name, target) in
            [("xen", self.hypervisor), ("vmlinux", self.vmlinux), ("dom0.cpio", self.initramfs)]
        {
            link(&folder.join(name), target)?;
        }
        let mut command = Command::new(self.qemu);
        command.current_dir(folder);
        command.args(self.arguments()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // SAFETY: runs in the child between fork and exec; prctl is a plain system call, async-signal-safe.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().with_context(|| format!("start {}", self.qemu.display()))?;
        let mut child = Guard(child);
        let mut tail = Tail::open(&self.log)?;
        let started = Instant::now();
        loop {
            let exited = child.0.try_wait().context("wait for QEMU")?;
            tail.drain(line)?;
            if let Some(status) = exited {
                let mut text = String::new();
                if let Some(mut stderr) = child.0.stderr.take() {
                    stderr.read_to_string(&mut text).ok();
                }
                // QEMU calls it a success when somebody's signal ends it.
                if status.success() && !text.contains("terminating on signal") {
                    return Ok(());
                }
                bail!("QEMU: {status}: {}", text.trim());
            }
            if started.elapsed() > self.limit {
                bail!("time limit of {} s wall time passed", self.limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Makes `name` a link to `target`.
fn link(name: &Path, target: &Path) -> Result<()> {
    let target = std::path::absolute(target).with_context(|| format!("find {}", target.display()))?;
    let _ = std::fs::remove_file(name);
    std::os::unix::fs::symlink(&target, name).with_context(|| format!("link {}", name.display()))
}

/// Ends the child on every way out.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only when the child is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Follows a growing file by lines.
struct Tail {
    file: std::fs::File,
    rest: Vec<u8>,
}

impl Tail {
    fn open(path: &Path) -> Result<Tail> {
        let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Tail { file, rest: Vec::new() })
    }

    fn drain(&mut self, line: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        self.file.read_to_end(&mut self.rest).context("read serial log")?;
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let bytes: Vec<u8> = self.rest.drain(..=end).collect();
            line(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(qemu: &str, limit: Duration, folder: &Path) -> Result<()> {
        let qemu = folder.join(qemu);
        Machine {
            qemu: &qemu,
            hypervisor: Path::new("xen"),
            xen_options: "sched=credit",
            vmlinux: Path::new("b"),
            initramfs: Path::new("c"),
            smp: "5",
            clock: Clock::Counted,
            seed: 1,
            limit,
            log: folder.join("log"),
        }
        .run(&mut |_| Ok(()))
    }

    fn script(folder: &Path, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(folder.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_failing_qemu_is_quoted_and_a_hanging_one_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        script(folder.path(), "broken", "echo no such cpu >&2; exit 3");
        let error = machine("broken", Duration::from_secs(9), folder.path()).unwrap_err().to_string();
        assert!(error.contains("no such cpu"), "{error}");
        script(folder.path(), "hangs", "exec sleep 60");
        let started = Instant::now();
        let error = machine("hangs", Duration::from_millis(300), folder.path()).unwrap_err().to_string();
        assert!(error.contains("time limit"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
