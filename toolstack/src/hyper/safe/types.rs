// SPDX-License-Identifier: GPL-3.0-only
//! What the hypervisor knows, as plain data. Field names are the interface's own, in JSON too.

use crate::hyper::raw;
use serde::Serialize;

/// The scheduler this tool controls, by Xen's name.
pub const MICROSLICE: &str = "microslice";

/// The name that libxl gives a scheduler number.
pub fn sched_name(id: u32) -> String {
    let name = match id {
        raw::XEN_SCHEDULER_CREDIT => "credit",
        raw::XEN_SCHEDULER_CREDIT2 => "credit2",
        raw::XEN_SCHEDULER_ARINC653 => "arinc653",
        raw::XEN_SCHEDULER_RTDS => "rtds",
        raw::XEN_SCHEDULER_NULL => "null",
        raw::XEN_SCHEDULER_MICROSLICE => MICROSLICE,
        other => return format!("unknown-{other}"),
    };
    name.to_owned()
}

/// A group of pCPUs under one scheduler.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pool {
    /// Its number.
    pub id: u32,
    /// Its name in xenstore; Pool-0 without one.
    pub name: String,
    /// Its scheduler's name.
    pub scheduler: String,
    /// Its pCPUs.
    pub cpus: Vec<u32>,
    /// How many domains are in it.
    pub domains: u32,
    /// Parameters and counters; none under another scheduler.
    #[serde(flatten)]
    pub schedule: Option<Schedule>,
}

/// Parameters and counters of a cpupool under microslice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Schedule {
    /// Time slice on normal cores, in us.
    pub slice_us: u32,
    /// Time slice on micro cores, in us.
    pub micro_slice_us: u32,
    /// Context switch rate limit, in us.
    pub ratelimit_us: u32,
    /// Micro cores.
    pub nr_micro: u32,
    /// pCPUs in the cpupool.
    pub nr_cpus: u32,
    /// Which of them are micro cores.
    pub micro_cpus: Vec<u32>,
    /// Runs on micro cores.
    pub micro_runs: u64,
    /// Time in those runs, in ns.
    pub micro_ns: u64,
    /// Longest stay on a micro core while another vCPU waited for it, in ns.
    pub micro_stay_max_ns: u64,
    /// Decisions of the scheduler core that Xen's checks refused.
    pub rejected: u64,
}

/// How a domain is virtualised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Paravirtualised, in ring 3.
    Pv,
    /// HVM or PVH.
    Hvm,
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its number.
    pub id: u32,
    /// Its name in xenstore.
    pub name: Option<String>,
    /// How it is virtualised.
    pub kind: Kind,
    /// vCPUs that are online.
    pub vcpus: u32,
    /// vCPUs it may have.
    pub max_vcpus: u32,
    /// Its cpupool's number.
    pub pool: u32,
    /// Being destroyed.
    pub dying: bool,
}

/// A domain's share of its cpupool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Relative weight, 1..=65535.
    pub weight: u16,
    /// Upper limit as a percentage of one pCPU; 0: none.
    pub cap: u16,
}

/// One range of a domain's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// XEN_DOMCTL_MICROSLICE_CLASS_*.
    pub class: u32,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// A domain's counters since it came under the scheduler.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Stats { $($(#[$doc])* pub $field: u64),* }

        impl From<&raw::xen_domctl_microslice_stats> for Stats {
            fn from(raw: &raw::xen_domctl_microslice_stats) -> Stats {
                Stats { $($field: raw.$field),* }
            }
        }
    };
}

counters! {
    /// Yields while waiting for siblings to answer an IPI.
    yields_ipi,
    /// Yields while spinning for a lock.
    yields_lock,
    /// Other yields.
    yields_other,
    /// Yields whose vCPU kept its pCPU, as its siblings were accelerated.
    yields_kept,
    /// Kicks of a runnable vCPU that was not running.
    kicks_preempted,
    /// Preemptions.
    preempted,
    /// Preemptions inside a range.
    preempted_critical,
    /// Accelerations for an IPI wait.
    accel_ipi,
    /// Accelerations for a lock wait.
    accel_lock,
    /// Accelerations for an interrupt.
    accel_irq,
    /// Refused: the vCPU may not run on a micro core.
    refused_affinity,
    /// Refused: the domain's limit.
    refused_limit,
    /// Refused: no free micro core.
    refused_full,
    /// Runs on micro cores.
    micro_runs,
    /// Time on micro cores, in ns.
    micro_ns,
    /// Time on all cores, in ns.
    run_ns,
    /// Ranges in the table.
    ranges,
    /// The table's generation: how often it was replaced.
    generation,
}
