// SPDX-License-Identifier: GPL-3.0-only
//! The one results schema of Microslice, for the lab, the simulator and real hosts.
//!
//! What was not measured is absent, never zero. Every cell that was measured in several runs carries their
//! mean and their extremes. Keys are only ever added; [`SCHEMA`] changes when a meaning does.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name and version of this schema.
pub const SCHEMA: &str = "microslice-results/1";

/// Where numbers come from. A simulated or emulated number never stands in for a real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Discrete-event simulation.
    Sim,
    /// Real Xen and Linux on an emulated machine with counted time.
    Lab,
    /// Real hardware.
    Host,
}

/// A value over the runs of a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stat {
    /// Arithmetic mean of the runs.
    pub mean: f64,
    /// Smallest run.
    pub min: f64,
    /// Largest run.
    pub max: f64,
    /// Half of the 95 % confidence interval of the mean, by Student's t; absent for fewer than two runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ci95: Option<f64>,
}

/// Student's t for 95 %, two-sided, by degrees of freedom from 1 on; beyond, the normal distribution's 1.96.
const T95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

impl Stat {
    /// Over the values of all runs that have one; `None` if none has.
    pub fn over(values: impl IntoIterator<Item = f64>) -> Option<Stat> {
        let values: Vec<f64> = values.into_iter().collect();
        let first = *values.first()?;
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let ci95 = (n > 1)
            .then(|| T95.get(n - 2).copied().unwrap_or(1.96) * (squares / (n - 1) as f64 / n as f64).sqrt());
        Some(Stat {
            mean,
            ci95,
            min: values.iter().copied().fold(first, f64::min),
            max: values.iter().copied().fold(first, f64::max),
        })
    }
}

/// A distribution in microseconds: statistics of each run, then over the runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Mean.
    pub mean: Stat,
    /// Median.
    pub p50: Stat,
    /// 99th percentile.
    pub p99: Stat,
    /// Largest.
    pub max: Stat,
    /// Samples of all runs together.
    pub samples: u64,
    /// 99th percentile of all samples of all runs together.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pooled_p99: Option<f64>,
}

/// The VM under test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// A fixed amount of work, seconds (all-threads mprotect, stress-ng).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub elapsed_s: Option<Stat>,
    /// Operations a second (shootdowns, or the workload's own).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub throughput: Option<Stat>,
    /// Progress of its user-mode threads, as a share of as many undisturbed vCPUs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_progress: Option<Stat>,
}

/// The VM beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Corunner {
    /// Work in the target's measuring window, as a share of what its vCPUs would do undisturbed.
    pub progress: Stat,
}

/// Yields of the target by cause, in the whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Yields {
    /// In a wait for an IPI's answer.
    pub ipi: Option<Stat>,
    /// In a wait for a lock.
    pub lock: Option<Stat>,
    /// Of a vCPU that halts; not counted by Xen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub halt: Option<Stat>,
    /// Elsewhere.
    pub other: Option<Stat>,
    /// Yielders that kept their pCPU.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kept: Option<Stat>,
}

/// vCPUs of the target sent to a micro core, by cause, in the whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accelerated {
    /// A sibling waited for an IPI's answer.
    pub ipi: Option<Stat>,
    /// A sibling waited for a lock.
    pub lock: Option<Stat>,
    /// An interrupt or IPI for a preempted vCPU.
    pub irq: Option<Stat>,
    /// Requests that were not granted, all reasons.
    pub refused: Option<Stat>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Short and unique.
    pub name: String,
    /// Scheduler.
    pub scheduler: String,
    /// Policy, for schedulers that have one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policy: Option<String>,
    /// Micro cores, for schedulers that have them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub micro_cores: Option<u32>,
    /// Alone or beside the co-runner.
    pub consolidated: bool,
    /// Runs in this row.
    pub runs: u32,
    /// VM under test.
    pub target: Target,
    /// VM beside it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub corunner: Option<Corunner>,
    /// Latency of a TLB shootdown without lock contention.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tlb_sync_us: Option<Latency>,
    /// The same with lock contention: the all-threads workload.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mprotect_us: Option<Latency>,
    /// Kernel lock waits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lock_wait_us: Option<Latency>,
    /// Counters of the scheduler.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub yields: Option<Yields>,
    /// Counters of the scheduler.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accelerated: Option<Accelerated>,
    /// Longest stay on a micro core while somebody waited for it, microseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub micro_stay_max_us: Option<Stat>,
    /// Wall seconds a run took.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wall_s: Option<Stat>,
}

/// A results file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: String,
    /// Where numbers come from.
    pub source: Source,
    /// What was measured.
    pub scenario: String,
    /// Seeds of the runs.
    pub seeds: Vec<u64>,
    /// Xen's version, and the hash of the hypervisor that ran.
    pub xen: String,
    /// Everything else that was set.
    pub config: serde_json::Value,
    /// The table.
    pub rows: Vec<Row>,
}

impl Results {
    /// Writes `folder`/results.json, complete or not at all.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("results to JSON")?;
        write_atomically(&folder.join("results.json"), (text + "\n").as_bytes())
    }

    /// Reads a results file.
    pub fn read(path: &Path) -> Result<Results> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let results: Results =
            serde_json::from_slice(&text).with_context(|| format!("results in {}", path.display()))?;
        ensure!(
            results.schema == SCHEMA,
            "results in {}: schema {} is not {SCHEMA}",
            path.display(),
            results.schema
        );
        Ok(results)
    }

    /// A row by name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }
}

/// Writes a file so that it is there complete or not at all.
pub fn write_atomically(path: &Path, data: &[u8]) -> Result<()> {
    let folder = path.parent().with_context(|| format!("write {}: no folder", path.display()))?;
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let mut file =
        tempfile::NamedTempFile::new_in(folder).with_context(|| format!("write in {}", folder.display()))?;
    std::io::Write::write_all(&mut file, data).with_context(|| format!("write {}", path.display()))?;
    file.persist(path).with_context(|| format!("rename to {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_confidence_interval_is_students() {
        assert_eq!(Stat::over([3.0]).and_then(|s| s.ci95), None);
        // Mean 2, standard deviation 1, three runs: 4.303 / sqrt(3).
        let ci = Stat::over([1.0, 2.0, 3.0]).and_then(|s| s.ci95).unwrap();
        assert!((ci - 2.484).abs() < 0.001, "{ci}");
    }
}
