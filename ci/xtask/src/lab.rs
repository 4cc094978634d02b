// SPDX-License-Identifier: GPL-3.0-only
//! Gathers what the lab needs (hypervisor, tools, kernel, guest program, toolstack) and hands it over. What the lab does
//! with it is the lab's: crate microslice-lab.

use crate::cache::Cache;
use crate::grub;
use crate::kernel;
use crate::package;
use crate::toolstack;
use crate::xen::{self, Inputs, Variant};
use anyhow::{Context, Result, ensure};
use clap::Args;
use microslice_lab::scenario::{Timing, Workload};
use microslice_lab::{E2eArgs, EvalArgs, LabInputs, SharesArgs, e2e, eval_lab};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The emulator's name.
const QEMU: &str = "qemu-system-x86_64";

/// What to measure.
#[derive(Debug, Args)]
pub struct Eval {
    /// Version of Xen: a directory of xen-patches
    #[arg(long, default_value = "4.20", value_name = "VERSION")]
    xen: String,
    /// Results go to target/eval/NAME; runs that are there already are kept
    #[arg(long, default_value = "lab")]
    name: String,
    /// Runs of each row, with seeds 1 to N
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Machines side by side; each keeps one core busy (default: one for each core of this machine)
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Only these rows, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "ROW,...")]
    rows: Vec<String>,
    /// Stretch all constants of real time by so much
    #[arg(long, default_value_t = Timing::DEFAULT_SCALE, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    scale: u64,
    /// Length of the measured shootdown in normal slices; the all-threads workload is as much shorter or longer
    #[arg(long, value_name = "N")]
    slices: Option<u64>,
    /// What the target VM does
    #[arg(long, default_value = "shootdown", value_name = "shootdown|hog|STRESSOR:OPS[:OPTIONS]", value_parser = workload)]
    workload: Workload,
}

fn workload(text: &str) -> Result<Workload> {
    match text {
        "shootdown" => return Ok(Workload::Shootdown),
        "hog" => return Ok(Workload::Hog),
        _ => {}
    }
    let mut parts = text.splitn(3, ':');
    let stressor = parts.next().unwrap_or_default().to_owned();
    let ops = parts.next().context("a stressor of stress-ng needs its operations, as in `futex:2000`")?;
    let ops = ops.parse().with_context(|| format!("{ops:?} is not a number of operations"))?;
    let extra = parts.next().unwrap_or_default().replace(' ', ";");
    Ok(Workload::Stress { stressor, ops, extra })
}

/// Builds what is needed and makes the table.
///
/// # Errors
/// If a part cannot be built or a run fails.
pub fn eval(cache: &Cache, root: &Path, args: &Eval) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    ensure!(
        args.name.chars().all(plain) && args.name.starts_with(|c: char| c.is_ascii_alphanumeric()),
        "--name {:?}: letters, digits, - _ . only: it becomes a directory",
        args.name
    );
    let folder = root.join("target/eval").join(&args.name);
    let mut todo = EvalArgs::new(inputs(cache, root, &args.xen)?, folder);
    todo.seeds = args.seeds;
    todo.jobs =
        args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    todo.timing = Timing::scaled(args.scale);
    if let Some(slices) = args.slices {
        todo.timing = todo.timing.lasting(slices);
    }
    todo.workload = args.workload.clone();
    if !args.rows.is_empty() {
        todo.select(&args.rows)?;
    }
    eval_lab(&todo).map(drop)
}

/// What to measure of fairness.
#[derive(Debug, Args)]
pub struct Shares {
    /// Version of Xen: a directory of xen-patches
    #[arg(long, default_value = "4.20", value_name = "VERSION")]
    xen: String,
    /// Runs of each scheduler, with seeds 1 to N
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// vCPUs for each pCPU, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [2, 8], value_name = "N,...")]
    ratios: Vec<u32>,
}

/// Builds what is needed and makes the table.
///
/// # Errors
/// If a part cannot be built or a run fails.
pub fn shares(cache: &Cache, root: &Path, args: &Shares) -> Result<()> {
    let args = SharesArgs {
        inputs: inputs(cache, root, &args.xen)?,
        folder: root.join("target/eval/shares"),
        seeds: args.seeds,
        ratios: args.ratios.clone(),
        limit: Duration::from_secs(1_200),
    };
    microslice_lab::shares(&args)
}

/// How to test.
#[derive(Debug, Args)]
pub struct E2e {
    /// Version of Xen: a directory of xen-patches
    #[arg(long, default_value = "4.20", value_name = "VERSION")]
    xen: String,
    /// Machines side by side; each keeps one core busy (default: one for each core of this machine)
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Wall time that one run may take, in minutes
    #[arg(long, value_name = "MINUTES", default_value_t = 15)]
    limit: u64,
    /// Seed of the machines, and of what chance picks
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Only this one: accelerated, again, control, granularity, groups, daemon, systemd, cycles, wide, kaslr
    #[arg(long, value_name = "RUN")]
    only: Option<String>,
    /// The bzImage that the guests of kaslr boot, in the place of the lab's own
    #[arg(long, value_name = "VMLINUZ", requires = "only")]
    kernel: Option<PathBuf>,
}

/// Builds what is needed and runs the product.
///
/// # Errors
/// If a part cannot be built or the product does not work.
pub fn end_to_end(cache: &Cache, root: &Path, args: &E2e) -> Result<()> {
    let mut inputs = inputs(cache, root, &args.xen)?;
    if args.only.as_deref().is_none_or(|only| ["daemon", "systemd"].contains(&only)) {
        let command = inputs.microslice.as_ref().context("e2e: there is no microslice command")?;
        let out = root.join("target/package");
        inputs.package = Some(package::build(root, &inputs.xen_tree, &args.xen, command, &out)?);
        inputs.newer_kernel = Some(kernel::newer(cache)?);
    }
    if args.only.as_deref() == Some("kaslr") {
        inputs.grub = Some(grub::get(cache)?);
    }
    e2e(&E2eArgs {
        inputs,
        folder: root.join("target/e2e"),
        jobs: jobs(args.jobs),
        limit: Duration::from_secs(60 * args.limit),
        seed: args.seed,
        only: args.only.clone(),
        kernel: args.kernel.clone(),
    })
}

fn jobs(wanted: Option<usize>) -> usize {
    wanted.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1)
}

/// Builds or finds all of it for Xen `version`.
///
/// # Errors
/// If a part cannot be built or had.
pub fn inputs(cache: &Cache, root: &Path, version: &str) -> Result<LabInputs> {
    let sources = Inputs::read(root, version, None)?;
    let (hypervisor, xen_tree) = xen::both(cache, root, &sources, Variant { microslice: true, lab: true })?;
    let microslice = toolstack::build(root, &xen_tree)?;
    let inputs = LabInputs {
        hypervisor: hypervisor.xen,
        kernel_dir: kernel::get(cache)?.dir,
        guest: toolstack::build_guest(root)?,
        microslice: Some(microslice),
        package: None,
        newer_kernel: None,
        grub: None,
        cache: cache.dir("lab")?,
        qemu: qemu()?,
        xen_tree,
    };
    inputs.check()?;
    Ok(inputs)
}

fn qemu() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join(QEMU)).find(|p| p.is_file());
    found.with_context(|| format!("there is no {QEMU} on the PATH: `ci/setup` installs it"))
}

/// The inputs as assignments for a shell, for runs by hand.
pub fn environment(inputs: &LabInputs) -> String {
    let parts = [
        ("LAB_HYPERVISOR", Some(&inputs.hypervisor)),
        ("LAB_XEN_TREE", Some(&inputs.xen_tree)),
        ("LAB_KERNEL", Some(&inputs.kernel_dir)),
        ("LAB_GUEST", Some(&inputs.guest)),
        ("LAB_MICROSLICE", inputs.microslice.as_ref()),
        ("LAB_PACKAGE", inputs.package.as_ref()),
        ("LAB_NEWER_KERNEL", inputs.newer_kernel.as_ref()),
        ("LAB_GRUB", inputs.grub.as_ref()),
        ("LAB_CACHE", Some(&inputs.cache)),
        ("LAB_QEMU", Some(&inputs.qemu)),
    ];
    let set =
        parts.iter().filter_map(|(name, path)| Some(format!("export {name}='{}'\n", (*path)?.display())));
    set.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stressor_comes_with_operations_and_options() {
        let want = Workload::Stress { stressor: "futex".into(), ops: 20, extra: "--a;1".into() };
        assert_eq!(workload("futex:20:--a 1").unwrap(), want);
        assert_eq!(workload("hog").unwrap(), Workload::Hog);
        assert!(workload("futex").is_err() && workload("futex:many").is_err());
    }
}
