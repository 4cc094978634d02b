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
    /// How long a vCPU may stay by the action grace, in us.
    pub grace_us: u32,
    /// Micro cores asked for, in each group.
    pub nr_micro: u32,
    /// Micro cores do no normal work while nothing is urgent.
    pub reserve: bool,
    /// Who decides how many there are.
    pub sizing: Sizing,
    /// Least number of them in each group, unless sizing is static.
    pub min_micro: u32,
    /// Greatest number of them in each group, unless sizing is static.
    pub max_micro: u32,
    /// Micro cores at the moment, in all groups together.
    pub cur_micro: u32,
    /// pCPUs in the cpupool.
    pub nr_cpus: u32,
    /// Groups of these pCPUs, each with a queue of its own.
    pub nr_groups: u32,
    /// Which of the pCPUs are micro cores.
    pub micro_cpus: Vec<u32>,
    /// Micro slices.
    pub micro_runs: u64,
    /// Time in those runs, in ns.
    pub micro_ns: u64,
    /// Longest micro slice while another vCPU waited for it, in ns.
    pub micro_stay_max_ns: u64,
    /// vCPUs that changed groups.
    pub moves: u64,
    /// Waits for siblings that were helped in another group.
    pub reached: u64,
    /// Decisions of the scheduler core that Xen's checks refused.
    pub rejected: u64,
}

/// Who decides how many micro cores a cpupool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Sizing {
    /// The administrator, with `pool resize`.
    Static,
    /// Algorithm 1 of the EuroSys'18 paper.
    Paper,
    /// Demand in windows of 50 ms.
    Adaptive,
}

impl Sizing {
    /// By the interface's number.
    pub fn from_number(n: u32) -> Option<Sizing> {
        Some(match n {
            raw::XEN_SYSCTL_MICROSLICE_SIZING_STATIC => Sizing::Static,
            raw::XEN_SYSCTL_MICROSLICE_SIZING_PAPER => Sizing::Paper,
            raw::XEN_SYSCTL_MICROSLICE_SIZING_ADAPTIVE => Sizing::Adaptive,
            _ => return None,
        })
    }

    /// The interface's number.
    pub fn number(self) -> u32 {
        match self {
            Sizing::Static => raw::XEN_SYSCTL_MICROSLICE_SIZING_STATIC,
            Sizing::Paper => raw::XEN_SYSCTL_MICROSLICE_SIZING_PAPER,
            Sizing::Adaptive => raw::XEN_SYSCTL_MICROSLICE_SIZING_ADAPTIVE,
        }
    }
}

/// How a vCPU that keeps its siblings waiting is helped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Not at all
    None,
    /// A micro slice on a micro core
    Micro,
    /// A micro slice at once, on the core where it harms least
    Borrow,
    /// It keeps its pCPU a moment longer (preemption only)
    Grace,
    /// It is next in the queue
    Front,
}

impl Action {
    fn from_number(n: u8) -> Option<Action> {
        Some(match u32::from(n) {
            raw::XEN_DOMCTL_MICROSLICE_ACTION_NONE => Action::None,
            raw::XEN_DOMCTL_MICROSLICE_ACTION_MICRO => Action::Micro,
            raw::XEN_DOMCTL_MICROSLICE_ACTION_BORROW => Action::Borrow,
            raw::XEN_DOMCTL_MICROSLICE_ACTION_GRACE => Action::Grace,
            raw::XEN_DOMCTL_MICROSLICE_ACTION_FRONT => Action::Front,
            _ => return None,
        })
    }

    fn number(self) -> u8 {
        let n = match self {
            Action::None => raw::XEN_DOMCTL_MICROSLICE_ACTION_NONE,
            Action::Micro => raw::XEN_DOMCTL_MICROSLICE_ACTION_MICRO,
            Action::Borrow => raw::XEN_DOMCTL_MICROSLICE_ACTION_BORROW,
            Action::Grace => raw::XEN_DOMCTL_MICROSLICE_ACTION_GRACE,
            Action::Front => raw::XEN_DOMCTL_MICROSLICE_ACTION_FRONT,
        };
        n as u8
    }
}

/// A domain's row: what is done, by how the scheduler learns that siblings wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// A vCPU yields in an IPI wait.
    pub ipi_wait: Action,
    /// A vCPU yields in a lock wait.
    pub lock_wait: Action,
    /// An event arrives for a preempted vCPU.
    pub event: Action,
    /// A vCPU is preempted inside a critical service.
    pub preemption: Action,
}

impl Policy {
    /// One action for all sources but preemption.
    pub const fn row(others: Action, preemption: Action) -> Policy {
        Policy { ipi_wait: others, lock_wait: others, event: others, preemption }
    }

    /// From the interface's form.
    pub fn from_numbers(numbers: [u8; 4]) -> Option<Policy> {
        let [ipi_wait, lock_wait, event, preemption] = numbers.map(Action::from_number);
        Some(Policy { ipi_wait: ipi_wait?, lock_wait: lock_wait?, event: event?, preemption: preemption? })
    }

    /// To the interface's form.
    pub fn numbers(self) -> [u8; 4] {
        [self.ipi_wait, self.lock_wait, self.event, self.preemption].map(Action::number)
    }
}

/// A row of the policy table that has a name: those of the scheduler's core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Row {
    /// Count, help nobody
    None,
    /// Micro slices on micro cores, as the EuroSys'18 paper does
    Paper,
    /// The paper's, and a preempted critical service goes to a micro core at once
    Eager,
    /// Micro slices on borrowed cores: no micro cores needed
    Borrow,
    /// Borrow, and a critical service is not preempted at once
    Grace,
}

impl Row {
    /// Its actions.
    pub const fn policy(self) -> Policy {
        match self {
            Row::None => Policy::row(Action::None, Action::None),
            Row::Paper => Policy::row(Action::Micro, Action::None),
            Row::Eager => Policy::row(Action::Micro, Action::Micro),
            Row::Borrow => Policy::row(Action::Borrow, Action::None),
            Row::Grace => Policy::row(Action::Borrow, Action::Grace),
        }
    }
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
    /// Time that its vCPUs have run, in ns, by Xen's accounting.
    pub cpu_ns: u64,
    /// Its cpupool's number.
    pub pool: u32,
    /// Being destroyed.
    pub dying: bool,
}

#[cfg(test)]
impl Domain {
    /// The guest of the tests: 'web', number 3, four vCPUs.
    pub fn web() -> Domain {
        let name = Some("web".into());
        Domain { id: 3, name, kind: Kind::Hvm, vcpus: 4, max_vcpus: 4, cpu_ns: 0, pool: 0, dying: false }
    }
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

        impl Stats {
            /// What has happened since `then`; none if a counter went back. What is no counter is as it is now.
            pub fn since(&self, then: &Stats) -> Option<Stats> {
                let then = Stats { ranges: 0, generation: 0, ..*then };
                Some(Stats { $($field: self.$field.checked_sub(then.$field)?),* })
            }
        }

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
    /// Accelerations for a preemption inside a critical service.
    accel_preempt,
    /// Preemptions inside a critical service that were put off for a moment.
    graces,
    /// Refused: the vCPU may not run on a pCPU that could help.
    refused_affinity,
    /// Refused: the domain's limit.
    refused_limit,
    /// Had to wait: no pCPU that could help was free.
    refused_full,
    /// Micro slices on the pCPU of a yielding sibling.
    lent_runs,
    /// Micro slices on the pCPU of another domain.
    borrow_runs,
    /// Micro slices.
    micro_runs,
    /// Time in micro slices, in ns.
    micro_ns,
    /// Time on all cores, in ns.
    run_ns,
    /// Ranges in the table.
    ranges,
    /// The table's generation: how often it was replaced.
    generation,
}
