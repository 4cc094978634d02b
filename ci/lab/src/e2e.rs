// SPDX-License-Identifier: GPL-3.0-only
//! End to end on real Xen: fails when the product does not work. What each run proves: tests/e2e/README.md.
//!
//! All bounds are ratios to what was set, none is a measured time.

use crate::cpio::Archive;
use crate::debian;
use crate::images::{self, Images};
use crate::inputs::LabInputs;
use crate::kaslr;
use crate::measure::Record;
use crate::qemu::Clock;
use crate::run::{self, Host};
use crate::scenario::{Config, Run, Timing, Workload};
use crate::serial::Transcript;
use crate::tiny;
use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// What to test.
#[derive(Clone, Debug)]
pub struct E2eArgs {
    /// Paths of everything built; the `microslice` command is needed, and for the daemon's run its package.
    pub inputs: LabInputs,
    /// Where serial logs go.
    pub folder: PathBuf,
    /// Machines side by side.
    pub jobs: usize,
    /// Wall time that one run may take.
    pub limit: Duration,
    /// Seed of the machine, and of what chance picks in a run.
    pub seed: u64,
    /// Only the run of this name, in small letters.
    pub only: Option<String>,
    /// The bzImage that the guests of the run kaslr boot in the place of the lab's own.
    pub kernel: Option<PathBuf>,
}

/// Steps of the run that is named so.
const CYCLES: u32 = 200;

/// Guests that tests/e2e/kaslr.sh boots.
const KASLR_BOOTS: usize = 3;

/// One of the runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Control,
    Granularity,
    Groups,
    Daemon,
    Systemd,
    Wide,
    Cycles,
    Kaslr,
    Accelerated,
    Again,
}

impl Case {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// What it runs in dom0.
    fn script(self) -> &'static str {
        match self {
            Case::Accelerated | Case::Again => include_str!("../agent/measure.sh"),
            Case::Control => include_str!("../../../tests/e2e/control.sh"),
            Case::Granularity => include_str!("../../../tests/e2e/granularity.sh"),
            Case::Cycles => include_str!("../../../tests/e2e/cycles.sh"),
            Case::Daemon => include_str!("../../../tests/e2e/daemon.sh"),
            Case::Groups => include_str!("../../../tests/e2e/groups.sh"),
            Case::Kaslr => include_str!("../../../tests/e2e/kaslr.sh"),
            Case::Systemd => include_str!("../../../tests/e2e/systemd.sh"),
            Case::Wide => include_str!("../../../tests/e2e/wide.sh"),
        }
    }
}

/// Runs all cases, then says which failed and why.
pub fn e2e(args: &E2eArgs) -> Result<()> {
    ensure!(args.inputs.microslice.is_some(), "e2e: the microslice command is needed");
    eprintln!("e2e: images");
    let images = images::prepare(&args.inputs, false)?;
    // From the shortest to the longest: the last one is begun first. The others take more time, and are run when asked for by name.
    let mut cases = vec![Case::Again, Case::Accelerated, Case::Control, Case::Daemon];
    if let Some(only) = &args.only {
        cases.extend([Case::Groups, Case::Granularity, Case::Systemd, Case::Cycles, Case::Wide, Case::Kaslr]);
        cases.retain(|case| case.name() == *only);
        ensure!(!cases.is_empty(), "e2e: there is no run {only:?}");
    }
    let queue = Mutex::new(cases);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, 5) {
            scope.spawn(|| {
                while let Some(case) = { locked(&queue).pop() } {
                    match one(args, &images, case) {
                        Ok(()) => eprintln!("e2e: {case:?}: ok"),
                        Err(error) => {
                            eprintln!("e2e: {case:?}: FAILED: {error:#}");
                            locked(&failures).push(format!("{case:?}: {error:#}"));
                        }
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().map_err(|_| anyhow::anyhow!("e2e: a worker panicked"))?;
    if failures.is_empty()
        && args.only.is_none()
        && let Err(error) = same_bytes(args)
    {
        failures.push(format!("{error:#}"));
    }
    if failures.is_empty() {
        return Ok(());
    }
    bail!("e2e: {} failed:\n  {}", failures.len(), failures.join("\n  "))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A short run with one micro core beside a co-runner.
fn short_run(seed: u64) -> Run {
    let timing = Timing { warm_slices: 2, ..Timing::scaled(Timing::DEFAULT_SCALE).lasting(12) };
    Run {
        config: Config::microslice(1),
        seed,
        timing,
        workload: Workload::Shootdown,
        guest_pcpus: 4,
        vcpus: 4,
    }
}

fn folder(args: &E2eArgs, case: Case) -> PathBuf {
    args.folder.join(case.name())
}

fn one(args: &E2eArgs, images: &Images, case: Case) -> Result<()> {
    let mut extra = Archive::default();
    match case {
        Case::Accelerated | Case::Again => return measured(args, images, case),
        Case::Kaslr => {
            let kernel = kaslr::Kernel::open(&args.inputs, images, args.kernel.as_deref())?;
            let transcript = scripted(args, images, case, kernel.files(&args.inputs)?)?;
            let slides = kernel.judge(&transcript, KASLR_BOOTS)?;
            eprintln!("e2e: {case:?}: slides {slides:#x?}");
            return Ok(());
        }
        Case::Control | Case::Granularity | Case::Groups | Case::Wide => {}
        Case::Cycles => {
            extra.file("job/tiny", tiny::kernel(), 0o755);
            extra.file("job/cycles", format!("SEED={} CYCLES={CYCLES}\n", args.seed), 0o644);
        }
        Case::Daemon => {
            add_package(args, &mut extra)?;
            let newer = args.inputs.newer_kernel.as_ref().context("e2e: a newer kernel is needed")?;
            let newer = images::vmlinux(&args.inputs.cache, newer)?;
            extra.file("boot/vmlinux-newer", images::read(&newer)?, 0o644);
        }
        Case::Systemd => {
            add_package(args, &mut extra)?;
            debian::files(&mut extra)?;
        }
    }
    scripted(args, images, case, extra).map(drop)
}

/// Adds the toolstack's Debian package to a job.
fn add_package(args: &E2eArgs, extra: &mut Archive) -> Result<()> {
    let package = args.inputs.package.as_ref().context("e2e: the toolstack's package is needed")?;
    extra.file("job/microslice.deb", images::read(package)?, 0o644);
    Ok(())
}

/// The acceleration run, and what it promises.
fn measured(args: &E2eArgs, images: &Images, case: Case) -> Result<()> {
    let mut run = short_run(args.seed);
    run.config.trace = true;
    let finished = run::execute(&args.inputs, images, &run, &folder(args, case), args.limit)?;
    let record = Record::of(&run, &finished.transcript, finished.wall.as_secs_f64())?;
    // All that is broken, not only the first.
    let found = [accelerated(&record), replayed(args, &finished.transcript)];
    let broken: Vec<String> =
        found.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    Ok(())
}

fn counter(record: &Record, name: &str) -> Result<f64> {
    record.counter(name).with_context(|| format!("microslice stats has no {name} of the target"))
}

fn pool(record: &Record, name: &str) -> Result<f64> {
    record.pool(name).with_context(|| format!("microslice stats has no {name} of the pool"))
}

/// All promises that the run broke, not only the first.
fn accelerated(record: &Record) -> Result<()> {
    let timing = &record.run.timing;
    let mut broken = Vec::new();
    let mut promise = |kept: bool, otherwise: String| {
        if !kept {
            broken.push(otherwise);
        }
    };
    promise(
        counter(record, "ranges")? > 0.0,
        "Xen holds no ranges of the target: they were not pushed".to_owned(),
    );
    for name in ["yields_ipi", "accel_ipi", "yields_kept", "micro_runs"] {
        let how = format!("{name} stayed 0: the hook that reads the yielder's RIP does not work");
        promise(counter(record, name)? > 0.0, how);
    }
    let micro_us = timing.micro_us as f64;
    let mean_us = pool(record, "micro_ns")? / pool(record, "micro_runs")?.max(1.0) / 1e3;
    promise(
        mean_us <= 1.5 * micro_us,
        format!("micro slices are not short: {mean_us:.0} us on average where {micro_us} us are set"),
    );
    let stay_us = pool(record, "micro_stay_max_ns")? / 1e3;
    promise(
        stay_us <= 2.0 * micro_us,
        format!(
            "a vCPU stayed {stay_us:.0} us on a micro core while another waited; the micro slice is {micro_us} us"
        ),
    );
    let rejected = pool(record, "rejected")?;
    promise(rejected == 0.0, format!("Xen rejected {rejected} decisions of the core"));
    let latency =
        record.jobs.iter().find_map(|job| job.latency.as_ref()).context("no shootdown was measured")?;
    let mean_ms = latency.mean_ns().context("no shootdown was measured")? / 1e6;
    promise(
        mean_ms < timing.slice_ms as f64 / 4.0,
        format!(
            "shootdowns take {mean_ms:.1} ms on average with one micro core, a normal slice {} ms",
            timing.slice_ms
        ),
    );
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    Ok(())
}

/// What Xen decided is what the same core decides again outside of it. The trace is left as `pool.trace`.
fn replayed(args: &E2eArgs, transcript: &Transcript) -> Result<()> {
    let captured = |name: &str| transcript.captured.get(name).with_context(|| format!("no {name} came out"));
    let replay = captured("replay")?;
    ensure!(
        replay.status == 0,
        "a decision in Xen is not the one that the same core takes again: {}",
        replay.text.trim()
    );
    let report: serde_json::Value = serde_json::from_str(&replay.text)
        .with_context(|| format!("report of the replay: {}", replay.text))?;
    let events = report.get("events").and_then(serde_json::Value::as_u64).unwrap_or(0);
    ensure!(events > 100, "only {events} events were recorded in 0.3 s of a busy pool");
    // Names of code come from the image of the guests' kernel, and the RIP that Xen has noted.
    let yields = &captured("yields")?.text;
    ensure!(
        yields
            .lines()
            .any(|line| line.contains(" yields in ") && line.contains("+0x") && line.contains("(ipi-wait)")),
        "no yield in an IPI wait has the name of its code: {}",
        yields.trim()
    );
    let text: String = captured("trace")?.text.split_whitespace().collect();
    let trace = base64::engine::general_purpose::STANDARD.decode(text).context("the trace that came out")?;
    let path = args.folder.join("pool.trace");
    std::fs::write(&path, trace).with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

/// Same seed, same bytes.
fn same_bytes(args: &E2eArgs) -> Result<()> {
    let read = |case: Case| {
        let path = folder(args, case).join(short_run(args.seed).name()).join("serial.log");
        std::fs::read(&path).with_context(|| format!("read {}", path.display()))
    };
    let (one, two) = (read(Case::Accelerated)?, read(Case::Again)?);
    if one == two {
        eprintln!("e2e: same seed, same serial log: {} bytes", one.len());
        return Ok(());
    }
    let at = one.iter().zip(&two).position(|(left, right)| left != right).unwrap_or(one.len().min(two.len()));
    bail!(
        "the same seed gave another serial log: they differ from byte {at} on, in {}",
        args.folder.display()
    )
}

/// Runs the case's shell script in dom0, with the files of `extra` beside its job, and judges its checks.
fn scripted(args: &E2eArgs, images: &Images, case: Case, mut extra: Archive) -> Result<Transcript> {
    let mut run = short_run(args.seed);
    let mut xen_options = "sched=microslice".to_owned();
    let (mut smp, mut clock) = ("5", Clock::Counted);
    match case {
        // Two busy guests, and slices as in the measured runs. Each socket is a group.
        Case::Groups => (xen_options, smp) = (run.xen_options(), "5,sockets=3,cores=2,maxcpus=6"),
        // Threads of a core cannot be had in emulation; sockets are what Xen treats in the same way.
        Case::Granularity => {
            run.guest_pcpus = 5;
            xen_options = run.xen_options() + " sched-gran=socket microslice_group_cpus=64";
            smp = "6,sockets=3,cores=2";
        }
        // More than a cpupool holds.
        Case::Wide => {
            xen_options += " microslice_group_cpus=4";
            (smp, clock) = ("68", Clock::Wall);
        }
        _ => {}
    }
    if ![Case::Granularity, Case::Groups].contains(&case) {
        // Its guest works a third of the time: dom0 gets the more of the machine's one instruction a nanosecond, and wakes are many.
        (run.timing.burst_ms, run.timing.sleep_us) = ((5, 15), (5_000, 35_000));
    }
    let folder = folder(args, case);
    let script = case.name();
    let host = Host { name: &script, xen_options: &xen_options, smp, clock, seed: run.seed };
    let mut job = run.job_for(&script, "poweroff");
    job.extend(extra.file(&format!("agent/{script}.sh"), case.script(), 0o755).bytes());
    let finished = run::machine(&args.inputs, images, &host, &job, &folder, args.limit)?;
    let checks = &finished.transcript.checks;
    let wrong: Vec<String> = checks
        .iter()
        .filter(|(_, wrong)| !wrong.is_empty())
        .map(|(name, wrong)| format!("{name}: {wrong}"))
        .collect();
    ensure!(!checks.is_empty(), "{script}.sh checked nothing");
    ensure!(
        wrong.is_empty(),
        "{} of {} checks failed, serial log in {}:\n    {}",
        wrong.len(),
        checks.len(),
        folder.display(),
        wrong.join("\n    ")
    );
    eprintln!("e2e: {case:?}: {} checks", checks.len());
    Ok(finished.transcript)
}
