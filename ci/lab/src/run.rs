// SPDX-License-Identifier: GPL-3.0-only
//! Runs one scenario on the emulated machine: job in, transcript out, progress lines meanwhile.
//!
//! The serial log is kept when a run fails, and the error says where.

use crate::images::Images;
use crate::inputs::LabInputs;
use crate::qemu::{Clock, Machine};
use crate::scenario::Run;
use crate::serial::{Reader, Seen, Transcript};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::{Duration, Instant};

/// Wall seconds without a new phase after which a line says that the run is alive.
const QUIET: Duration = Duration::from_secs(20);

/// A run that came to its end.
#[derive(Debug)]
pub struct Finished {
    /// What was said.
    pub transcript: Transcript,
    /// Wall time.
    pub wall: Duration,
}

/// Runs `run` with its files in `folder`/NAME, at most `limit` of wall time.
pub fn execute(
    inputs: &LabInputs,
    images: &Images,
    run: &Run,
    folder: &Path,
    limit: Duration,
) -> Result<Finished> {
    let host = Host {
        name: &run.name(),
        xen_options: &run.xen_options(),
        smp: &(run.guest_pcpus + 1).to_string(),
        clock: Clock::Counted,
        seed: run.seed,
    };
    machine(inputs, images, &host, &run.job(), folder, limit)
}

/// The machine that a job gets.
#[derive(Debug)]
pub struct Host<'a> {
    /// Labels progress, and is the folder of its files.
    pub name: &'a str,
    /// Xen's command line, without the parts every lab machine has.
    pub xen_options: &'a str,
    /// pCPUs, dom0's included, as QEMU's `-smp` takes them.
    pub smp: &'a str,
    /// What its time is.
    pub clock: Clock,
    /// Seed of QEMU's own randomness.
    pub seed: u64,
}

/// Runs any job archive.
pub fn machine(
    inputs: &LabInputs,
    images: &Images,
    host: &Host<'_>,
    job: &[u8],
    folder: &Path,
    limit: Duration,
) -> Result<Finished> {
    let Host { name, xen_options, smp, clock, seed } = *host;
    let folder = &folder.join(name);
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let initramfs = folder.join("initramfs");
    let mut bytes = std::fs::read(&images.dom0).with_context(|| format!("read {}", images.dom0.display()))?;
    bytes.extend_from_slice(job);
    std::fs::write(&initramfs, bytes).with_context(|| format!("write {}", initramfs.display()))?;
    let log = folder.join("serial.log");
    let machine = Machine {
        qemu: &inputs.qemu,
        hypervisor: &inputs.hypervisor,
        xen_options,
        vmlinux: &images.vmlinux,
        initramfs: &initramfs,
        smp,
        clock,
        seed,
        limit,
        log: log.clone(),
    };
    let started = Instant::now();
    let outcome = watch(&machine, name, started);
    // A copy of what the cache holds; nothing to learn from it.
    let _ = std::fs::remove_file(&initramfs);
    let transcript = outcome.with_context(|| format!("run {name}: serial log kept in {}", log.display()))?;
    Ok(Finished { transcript, wall: started.elapsed() })
}

fn watch(machine: &Machine<'_>, name: &str, started: Instant) -> Result<Transcript> {
    let mut reader = Reader::default();
    let (mut last_phase, mut last_shown) = (String::new(), Instant::now());
    machine.run(&mut |line| {
        if let Seen::Phase(phase, virtual_s) = reader.line(line)?
            && (phase != last_phase || last_shown.elapsed() > QUIET)
        {
            eprintln!(
                "  {name:<16} {phase:<24} virtual {virtual_s:6.1} s  wall {:4.0} s",
                started.elapsed().as_secs_f64()
            );
            (last_phase, last_shown) = (phase, Instant::now());
        }
        Ok(())
    })?;
    reader.finish()
}
