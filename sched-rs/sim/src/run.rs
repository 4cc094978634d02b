// SPDX-License-Identifier: MIT OR Apache-2.0
//! One run: which machine, which VMs, which scheduler, for how long; and what came of it.

use crate::agenda::Ns;
use crate::chance::Chance;
use crate::costs::Costs;
use crate::credit::{self, Credit};
use crate::credit_micro::Micro;
use crate::credit2::Credit2;
use crate::engine::Host;
use crate::groups::Groups;
use crate::guest::{Stats, Vcpu, Vm};
use crate::hist::Hist;
use crate::machine::Machine;
use crate::net::{Flow, FlowSpec};
use crate::sched::{Domain, Sched};
use crate::workload::{Fault, Workload};
use microslice_core::policy::Policy;
use microslice_core::pool::Refusal;
use microslice_core::sizing::Mode;
use microslice_core::state::Counts;
use microslice_core::{Params, Span};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A scheduler with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedSpec {
    /// Which.
    pub scheduler: Kind,
    /// Micro cores; microslice, and credit-4.7 as the paper's own system.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub micro_cores: Option<u32>,
    /// Micro slice, microseconds; where there are micro cores.
    #[serde(default = "hundred")]
    pub micro_us: u32,
    /// The domains' row of actions; microslice only.
    #[serde(default)]
    pub policy: Row,
    /// Who sizes the micro pool; `paper` for credit-4.7 too.
    #[serde(default)]
    pub sizing: Sizing,
    /// Events for preempted vCPUs get a micro slice; credit-4.7 with micro cores only.
    #[serde(default)]
    pub relay: bool,
    /// Micro cores run nothing but urgent vCPUs, as in the paper; microslice only.
    #[serde(default)]
    pub reserve: bool,
    /// Slice, milliseconds; not credit2.
    #[serde(default = "thirty")]
    pub slice_ms: u32,
    /// Rate limit, microseconds.
    #[serde(default = "thousand")]
    pub ratelimit_us: u32,
}

/// A row of the core's table of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    /// Nothing is done.
    None,
    /// The paper's.
    #[default]
    Paper,
    /// The paper's, at preemption too.
    Eager,
    /// Micro slices without micro cores.
    Borrow,
    /// The same, and a grace period for who is preempted in a critical service.
    Grace,
}

/// Who sizes the micro pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sizing {
    /// Nobody.
    #[default]
    Static,
    /// The paper's Algorithm 1.
    Paper,
    /// The core's own.
    Adaptive,
}

fn hundred() -> u32 {
    100
}

fn thirty() -> u32 {
    30
}

fn thousand() -> u32 {
    1_000
}

/// A scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Model of the credit scheduler of Xen 4.20.
    Credit,
    /// Model of the credit scheduler of Xen 4.7, the paper's baseline.
    #[serde(rename = "credit-4.7")]
    Credit47,
    /// Model of Xen's credit2.
    Credit2,
    /// The core.
    Microslice,
}

impl SchedSpec {
    /// A scheduler with default settings.
    #[must_use]
    pub fn new(scheduler: Kind, micro_cores: Option<u32>) -> Self {
        let (policy, sizing) = (Row::Paper, Sizing::Static);
        let (reserve, relay) = (false, false);
        Self {
            scheduler,
            micro_cores,
            policy,
            sizing,
            relay,
            reserve,
            micro_us: 100,
            slice_ms: 30,
            ratelimit_us: 1_000,
        }
    }

    /// The paper's own system: its micro cores on top of credit of Xen 4.7.
    #[must_use]
    pub fn eurosys(micro_cores: u32) -> Self {
        Self::new(Kind::Credit47, Some(micro_cores))
    }

    /// The core set up as the paper is: micro cores that run nothing else, its row of actions.
    #[must_use]
    pub fn paper(micro_cores: u32) -> Self {
        Self { reserve: true, ..Self::new(Kind::Microslice, Some(micro_cores)) }
    }
}

/// A VM of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// What it does.
    pub workload: Workload,
    /// vCPUs, 1 to 64.
    pub vcpus: u16,
    /// Weight.
    #[serde(default = "weight")]
    pub weight: u32,
    /// Cap in percent of one pCPU; 0 is none.
    #[serde(default)]
    pub cap: u32,
    /// pCPUs its vCPUs are pinned to; micro cores are added (the first one, if their number changes), since a pinned vCPU could
    /// not be helped otherwise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpus: Option<Vec<u8>>,
    /// Packets that come for its first vCPU.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flow: Option<FlowSpec>,
}

fn weight() -> u32 {
    256
}

fn one() -> u8 {
    1
}

/// A run. Equal values give equal records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// pCPUs, 2 to 64.
    pub pcpus: u8,
    /// Equal groups of pCPUs, each with a scheduler and every n-th VM of its own; numbers of micro cores are for each.
    #[serde(default = "one")]
    pub groups: u8,
    /// Costs.
    #[serde(default)]
    pub costs: Costs,
    /// VMs; the first is the target.
    pub vms: Vec<VmSpec>,
    /// Scheduler.
    pub sched: SchedSpec,
    /// Unmeasured start, milliseconds.
    pub warm_ms: u64,
    /// Measured time, milliseconds.
    pub measure_ms: u64,
    /// Seed.
    pub seed: u64,
}

/// A distribution, microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Samples.
    pub samples: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

impl Times {
    fn of(h: &Hist) -> Option<Self> {
        Some(Self {
            samples: h.count,
            mean: h.mean()? / 1e3,
            p50: h.quantile(0.5)? / 1e3,
            p99: h.quantile(0.99)? / 1e3,
            max: h.max as f64 / 1e3,
        })
    }
}

/// What a VM did in the measured time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Units of work a second.
    pub done_per_s: f64,
    /// User work, seconds of a pCPU at full load, a second.
    pub user: f64,
    /// pCPUs it had, on average.
    pub pcpus: f64,
    /// Yields a second in waits for IPIs and for locks; halts.
    pub yields_per_s: [f64; 3],
    /// The yields by what the paper's code takes for their cause, what the vCPU was at when it last lost its pCPU: IPI wait, lock wait,
    /// halt, other.
    pub counted_per_s: [f64; 4],
    /// TLB shootdowns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tlb_us: Option<Times>,
    /// Contended waits by lock.
    pub lock_us: BTreeMap<String, Times>,
    /// Mbit/s read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mbit_per_s: Option<f64>,
    /// Mean smoothed jitter, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub jitter_ms: Option<f64>,
    /// Accelerations a second, by cause: IPI wait, lock wait, interrupt; and refusals.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accelerated_per_s: Option<[f64; 4]>,
    /// Yields a second after which the vCPU kept its pCPU.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kept_per_s: Option<f64>,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// By VM, as in the run.
    pub vms: Vec<VmRecord>,
    /// Callbacks into the scheduler in the whole run: core events under microslice.
    pub core_events: u64,
    /// Events of the machine in the whole run.
    pub steps: u64,
    /// Longest stay on a micro core while somebody waited for it, microseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub micro_stay_max_us: Option<f64>,
    /// Share of time in which a pCPU ran a vCPU.
    pub busy: f64,
}

/// Why a run is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number is out of range.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// A workload is wrong.
    #[error("workload of VM {0}: {1}")]
    Workload(usize, Fault),
    /// The core refuses the configuration.
    #[error("the core refuses the configuration: {0:?}")]
    Core(Refusal),
}

/// A day: the agenda's instants end after three.
const MOST_MS: u64 = 86_400_000;

/// Of all VMs. Each VM has some, so their flows, too, find room in the agenda.
const MOST_THREADS: usize = 30_000;

impl Run {
    fn domains(&self) -> Result<Vec<Domain>, Error> {
        if !(2..=64).contains(&self.pcpus) {
            return Err(Error::Range("pcpus"));
        }
        let pinned = self.vms.iter().any(|vm| vm.cpus.is_some());
        let groups = self.groups;
        let even = groups > 0 && self.pcpus.is_multiple_of(groups) && self.pcpus / groups >= 2;
        if !even || (groups > 1 && pinned) || self.vms.len() < usize::from(groups) {
            return Err(Error::Range("groups"));
        }
        let all = !0u64 >> (64 - self.pcpus);
        let most = match self.sched.sizing {
            Sizing::Static => self.sched.micro_cores.unwrap_or(0),
            Sizing::Paper | Sizing::Adaptive => 1,
        };
        let micro = most.min(u32::from(self.pcpus) - 1) as u8;
        let micro = all & !(all >> micro);
        let mut next = 0;
        let mut domains = vec![];
        for vm in &self.vms {
            if !(1..=64).contains(&vm.vcpus) || vm.weight == 0 || vm.weight > 65_535 {
                return Err(Error::Range("vcpus or weight of a VM"));
            }
            let hard = match &vm.cpus {
                None => all,
                Some(list) if list.iter().all(|c| *c < self.pcpus) && !list.is_empty() => {
                    list.iter().fold(micro, |m, c| m | 1 << c)
                }
                Some(_) => return Err(Error::Range("cpus of a VM")),
            };
            domains.push(Domain { vcpus: next..next + vm.vcpus, weight: vm.weight, cap: vm.cap, hard });
            next += vm.vcpus;
        }
        Ok(domains)
    }

    /// Runs it.
    ///
    /// # Errors
    /// If the run is not possible as it is described.
    pub fn execute(&self) -> Result<Record, Error> {
        let domains = self.domains()?;
        if self.measure_ms == 0 || self.warm_ms.saturating_add(self.measure_ms) > MOST_MS {
            return Err(Error::Range("warm_ms or measure_ms"));
        }
        if self.vms.iter().map(|vm| vm.workload.threads()).sum::<usize>() > MOST_THREADS {
            return Err(Error::Range("threads"));
        }
        let s = &self.sched;
        match s.scheduler {
            Kind::Credit | Kind::Credit47 => {
                let stock = if s.scheduler == Kind::Credit {
                    credit::Settings::XEN_4_20
                } else {
                    credit::Settings::XEN_4_7
                };
                let dynamic = s.sizing != Sizing::Static;
                let micro = (s.micro_cores.is_some() || dynamic).then(|| Micro {
                    cores: s.micro_cores.unwrap_or(0).min(63) as u8,
                    slice: u64::from(s.micro_us) * 1_000,
                    dynamic,
                    relay: s.relay,
                });
                let slice = u64::from(s.slice_ms) * 1_000_000;
                let mut chance = Chance::new(self.seed.wrapping_mul(0x2545_f491));
                let set = credit::Settings {
                    slice,
                    accounts_at: chance.below(slice as usize) as Ns,
                    ratelimit: u64::from(s.ratelimit_us) * 1_000,
                    limit_yields: stock.limit_yields && micro.is_none(),
                    micro,
                    ..stock
                };
                self.grouped(&domains, |cpus, d, place| Ok(Credit::new(cpus, set, d, place)))
            }
            Kind::Credit2 => {
                let ratelimit = u64::from(s.ratelimit_us) * 1_000;
                self.grouped(&domains, |cpus, d, place| Ok(Credit2::new(cpus, ratelimit, d, place)))
            }
            Kind::Microslice => {
                let params = Params {
                    slice: Span(u64::from(s.slice_ms) * 1_000_000),
                    micro_slice: Span::from_us(s.micro_us),
                    ratelimit: Span::from_us(s.ratelimit_us),
                    nr_micro: s.micro_cores.unwrap_or(0),
                    reserve: u32::from(s.reserve),
                    sizing: match s.sizing {
                        Sizing::Static => Mode::Static,
                        Sizing::Paper => Mode::Paper,
                        Sizing::Adaptive => Mode::Adaptive,
                    } as u32,
                    ..Params::DEFAULT
                };
                let policy = match s.policy {
                    Row::None => Policy::NONE,
                    Row::Paper => Policy::PAPER,
                    Row::Eager => Policy::EAGER,
                    Row::Borrow => Policy::BORROW,
                    Row::Grace => Policy::GRACE,
                };
                self.grouped(&domains, |cpus, d, _| {
                    Machine::new(cpus, params, policy, d).map_err(Error::Core)
                })
            }
        }
    }

    /// Runs it under a scheduler for each group of pCPUs, made from its pCPUs, its domains and where vCPUs are at first.
    fn grouped<S: Sched>(
        &self,
        domains: &[Domain],
        make: impl Fn(u8, &[Domain], &[u8]) -> Result<S, Error>,
    ) -> Result<Record, Error> {
        let cpus = self.pcpus / self.groups;
        let mut chance = Chance::new(self.seed.wrapping_mul(0x9e37_79b9));
        let mut one = |d: &[Domain]| make(cpus, d, &placement(cpus, d, &mut chance));
        if self.groups == 1 {
            let sched = one(domains)?;
            return self.with(sched, domains);
        }
        let sched = Groups::new(usize::from(self.groups), cpus, domains, one)?;
        self.with(sched, domains)
    }

    fn with<S: Sched>(&self, sched: S, domains: &[Domain]) -> Result<Record, Error> {
        let mut vcpus = vec![];
        let (mut vms, mut threads) = (vec![], 0);
        for (i, (spec, d)) in self.vms.iter().zip(domains).enumerate() {
            let program = spec.workload.compile().map_err(|f| Error::Workload(i, f))?;
            let flow = spec.flow.as_ref().map(Flow::new);
            vms.push(Vm::new(d.vcpus.start, spec.vcpus, threads, program, flow));
            threads += spec.workload.threads();
            vcpus.extend((0..spec.vcpus).map(|n| Vcpu::new(i as u16, n)));
        }
        let spread = self.warm_ms * 1_000_000 / 2;
        let mut host = Host::new(sched, self.pcpus, self.costs.clone(), self.seed, vms, vcpus, spread);
        host.run(self.warm_ms * 1_000_000);
        let before: Vec<Option<Counts>> = (0..self.vms.len()).map(|d| host.sched.counts(d as u16)).collect();
        let flows: Vec<(u64, (f64, u64))> = host
            .vms
            .iter()
            .map(|m| m.flow.as_ref().map_or((0, (0.0, 0)), |f| (f.bits(), f.jitter_sum)))
            .collect();
        for m in &mut host.vms {
            m.stats = Stats { waits: vec![Hist::default(); m.program.groups.len()], ..Stats::default() };
        }
        host.cpus.iter_mut().for_each(|c| c.busy = 0);
        host.run((self.warm_ms + self.measure_ms) * 1_000_000);
        let span: Ns = self.measure_ms * 1_000_000;
        let per_s = |n: u64| n as f64 * 1e9 / span as f64;
        let records = host.vms.iter().enumerate().map(|(i, m)| {
            let s = &m.stats;
            let counts = before[i].zip(host.sched.counts(i as u16));
            let delta = |f: fn(&Counts) -> u64| counts.map(|(a, b)| per_s(f(&b).wrapping_sub(f(&a))));
            let lock_us = m.program.groups.iter().zip(&s.waits);
            let (bits, (sum, n)) = flows[i];
            let refused = |c: &Counts| c.refused_affinity + c.refused_limit + c.refused_full;
            VmRecord {
                done_per_s: per_s(s.done),
                user: s.user as f64 / span as f64,
                pcpus: s.ran as f64 / span as f64,
                yields_per_s: s.yields.map(per_s),
                counted_per_s: s.counted.map(per_s),
                tlb_us: Times::of(&s.tlb),
                lock_us: lock_us.filter_map(|(g, h)| Some((g.name.clone(), Times::of(h)?))).collect(),
                mbit_per_s: m.flow.as_ref().map(|f| per_s(f.bits() - bits) / 1e6),
                jitter_ms: m.flow.as_ref().and_then(|f| {
                    let n = f.jitter_sum.1 - n;
                    (n > 0).then(|| (f.jitter_sum.0 - sum) / n as f64 / 1e6)
                }),
                accelerated_per_s: delta(|c| c.accel_ipi)
                    .zip(delta(|c| c.accel_lock))
                    .zip(delta(|c| c.accel_irq).zip(delta(refused)))
                    .map(|((a, b), (c, d))| [a, b, c, d]),
                kept_per_s: delta(|c| c.yields_kept),
            }
        });
        Ok(Record {
            vms: records.collect(),
            core_events: host.sched.events(),
            steps: host.steps,
            micro_stay_max_us: host.sched.micro_stay_max().map(|ns| ns as f64 / 1e3),
            busy: host.cpus.iter().map(|c| c.busy as f64).sum::<f64>()
                / (span as f64 * f64::from(self.pcpus)),
        })
    }
}

/// Where vCPUs are at first: dealt out to pCPUs in an order that the seed decides.
fn placement(cpus: u8, domains: &[Domain], chance: &mut Chance) -> Vec<u8> {
    let mut place = vec![];
    for d in domains {
        let mut order: Vec<u8> = (0..cpus).collect();
        chance.shuffle(&mut order);
        place.extend(d.vcpus.clone().enumerate().map(|(i, _)| order[i % order.len()]));
    }
    place
}
