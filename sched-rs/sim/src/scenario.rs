// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scenarios and workloads as files: `tests/scenarios/*.yaml` and `workloads/*.yaml` beside them.

use crate::costs::Costs;
use crate::net::FlowSpec;
use crate::run::{Run, SchedSpec, VmSpec};
use crate::workload::Workload;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("reading {0}")]
    Io(PathBuf, #[source] std::io::Error),
    /// It is not what it should be.
    #[error("reading {0}")]
    Format(PathBuf, #[source] serde_yaml::Error),
    /// A scenario has no VM.
    #[error("{0}: there is no VM")]
    Empty(PathBuf),
}

/// Reads a YAML file.
///
/// # Errors
/// If it cannot be read or is not a `T`.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::Io(path.to_owned(), e))?;
    serde_yaml::from_str(&text).map_err(|e| Error::Format(path.to_owned(), e))
}

/// A VM as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Guest {
    workload: String,
    vcpus: u16,
    #[serde(default = "weight")]
    weight: u32,
    #[serde(default)]
    cap: u32,
    #[serde(default)]
    cpus: Option<Vec<u8>>,
    #[serde(default)]
    flow: Option<FlowSpec>,
}

fn weight() -> u32 {
    256
}

fn one() -> u8 {
    1
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    about: String,
    #[serde(default)]
    paper: Option<String>,
    pcpus: u8,
    #[serde(default = "one")]
    groups: u8,
    vms: Vec<Guest>,
    #[serde(default)]
    costs: Costs,
    #[serde(default)]
    timing: Option<Timing>,
    warm_ms: u64,
    measure_ms: u64,
}

/// Time constants of schedulers that are not the defaults.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Slice, milliseconds.
    pub slice_ms: u32,
    /// Micro slice, microseconds.
    pub micro_us: u32,
    /// Rate limit, microseconds.
    pub ratelimit_us: u32,
}

/// A scenario with its workloads.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is.
    pub about: String,
    /// What the paper's figures for it are called.
    pub paper: Option<String>,
    /// pCPUs.
    pub pcpus: u8,
    /// Groups of pCPUs.
    pub groups: u8,
    /// The target's workload.
    pub target: String,
    /// VMs; the first is the target.
    pub vms: Vec<VmSpec>,
    /// Costs.
    pub costs: Costs,
    /// Time constants.
    pub timing: Option<Timing>,
    /// Unmeasured start, milliseconds.
    pub warm_ms: u64,
    /// Measured time, milliseconds.
    pub measure_ms: u64,
}

impl Scenario {
    /// Reads `folder`/`name`.yaml.
    ///
    /// # Errors
    /// If it or one of its workloads is not as it should be.
    pub fn read(folder: &Path, name: &str) -> Result<Self, Error> {
        let path = folder.join(format!("{name}.yaml"));
        let w: Written = read(&path)?;
        let Some(target) = w.vms.first().map(|g| g.workload.clone()) else {
            return Err(Error::Empty(path));
        };
        let mut vms = vec![];
        for g in w.vms {
            let workload: Workload = read(&workload_path(folder, &g.workload))?;
            let Guest { vcpus, weight, cap, cpus, flow, .. } = g;
            vms.push(VmSpec { workload, vcpus, weight, cap, cpus, flow });
        }
        let (pcpus, groups, warm_ms, measure_ms) = (w.pcpus, w.groups, w.warm_ms, w.measure_ms);
        let (about, paper, costs, timing) = (w.about, w.paper, w.costs, w.timing);
        Ok(Self { about, paper, pcpus, groups, target, vms, costs, timing, warm_ms, measure_ms })
    }

    /// Its run under `sched`; with the target only, if `alone`.
    #[must_use]
    pub fn run(&self, mut sched: SchedSpec, alone: bool, seed: u64) -> Run {
        if let Some(Timing { slice_ms, micro_us, ratelimit_us }) = self.timing {
            sched = SchedSpec { slice_ms, micro_us, ratelimit_us, ..sched };
        }
        let vms = self.vms.iter().take(if alone { 1 } else { self.vms.len() }).cloned().collect();
        let (groups, warm_ms, measure_ms) =
            (if alone { 1 } else { self.groups }, self.warm_ms, self.measure_ms);
        Run {
            pcpus: self.pcpus / (self.groups / groups),
            groups,
            costs: self.costs.clone(),
            vms,
            sched,
            warm_ms,
            measure_ms,
            seed,
        }
    }
}

/// The file of workload `name`.
#[must_use]
pub fn workload_path(folder: &Path, name: &str) -> PathBuf {
    folder.join("workloads").join(format!("{name}.yaml"))
}
