// SPDX-License-Identifier: GPL-3.0-only
//! What `top` shows, from two readings of the hypervisor's counters. Pure: no clock, no hypercall, no terminal.
//!
//! What happened between two readings is the difference of each counter. Where there is no earlier reading, or a counter went
//! back (a domain came under the scheduler anew, and its counters with it), nothing is known of the time between.

use crate::cmd::domain::View;
use crate::hyper::safe::types::{Pool, Stats};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::time::Duration;

/// What was read, and when.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Since a moment that is the same for all readings.
    pub at: Duration,
    /// Seconds since 1970.
    pub time: u64,
    /// The cpupools under microslice.
    pub pools: Vec<Pool>,
    /// The domains in them.
    pub domains: Vec<View>,
    /// How long each pCPU of the host has been idle, in ns, by its number.
    pub idle_ns: Vec<u64>,
}

/// How a cpupool's number of micro cores has changed, as far as readings saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    now: u32,
    before: u32,
    at: Duration,
    times: u64,
}

/// The sizes of all cpupools since the first reading.
#[derive(Debug, Default)]
pub struct Sizes(BTreeMap<u32, Size>);

impl Sizes {
    /// Takes note of a reading; they come in the order of time.
    pub fn note(&mut self, reading: &Reading) {
        for pool in &reading.pools {
            let Some(schedule) = &pool.schedule else { continue };
            let now = schedule.cur_micro;
            let size = self.0.entry(pool.id).or_insert(Size { now, before: now, at: reading.at, times: 0 });
            if size.now != now {
                *size = Size { now, before: size.now, at: reading.at, times: size.times + 1 };
            }
        }
    }
}

/// What is shown at one moment; in JSON, an object for each.
#[derive(Debug, Serialize)]
pub struct Moment<'a> {
    /// Seconds since 1970.
    pub time: u64,
    /// Between the two readings; none for the first.
    pub seconds: Option<f64>,
    /// By number.
    pub pools: Vec<PoolRow<'a>>,
    /// By number.
    pub domains: Vec<DomainRow<'a>>,
}

/// A cpupool.
#[derive(Debug, Serialize)]
pub struct PoolRow<'a> {
    /// As it is now.
    #[serde(flatten)]
    pub pool: &'a Pool,
    /// What its pCPUs are and did.
    pub pcpus: Vec<Pcpu>,
    /// The last change of its number of micro cores; none since the first reading.
    pub resized: Option<Resized>,
    /// Counters less those of the reading before.
    pub since: Option<PoolSince>,
}

/// A pCPU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pcpu {
    /// Its number.
    pub cpu: u32,
    /// What it is for.
    pub mode: Mode,
    /// Percent of the time in which it was not idle.
    pub busy_percent: Option<f64>,
}

/// What a pCPU is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Normal slices.
    Normal,
    /// Micro slices; normal work while nothing is urgent.
    Micro,
    /// Micro slices only.
    Reserved,
}

/// A change of the number of micro cores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Resized {
    /// How many there were.
    pub from: u32,
    /// How many there are.
    pub to: u32,
    /// When it was seen.
    pub seconds_ago: f64,
    /// Changes since the first reading.
    pub times: u64,
}

/// Differences of a cpupool's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PoolSince {
    /// Micro slices.
    pub micro_runs: u64,
    /// Time in them.
    pub micro_ns: u64,
}

/// A domain.
#[derive(Debug, Serialize)]
pub struct DomainRow<'a> {
    /// As it is now.
    #[serde(flatten)]
    pub view: &'a View,
    /// Counters less those of the reading before.
    #[serde(serialize_with = "counters")]
    pub since: Option<Stats>,
}

/// Without what is no counter.
fn counters<S: Serializer>(since: &Option<Stats>, to: S) -> Result<S::Ok, S::Error> {
    let mut value = serde_json::to_value(since).map_err(serde::ser::Error::custom)?;
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, _| name != "ranges" && name != "generation");
    }
    value.serialize(to)
}

impl<'a> Moment<'a> {
    /// What `new` says, and what happened since `old`. `sizes` has taken note of both.
    pub fn of(old: Option<&Reading>, new: &'a Reading, sizes: &Sizes) -> Moment<'a> {
        let span = old.map(|old| new.at.saturating_sub(old.at)).filter(|span| !span.is_zero());
        let old = old.filter(|_| span.is_some());
        Moment {
            time: new.time,
            seconds: span.map(|span| span.as_secs_f64()),
            pools: new.pools.iter().map(|pool| pool_row(old, new, pool, sizes)).collect(),
            domains: new.domains.iter().map(|view| domain_row(old, view)).collect(),
        }
    }
}

fn pool_row<'a>(old: Option<&Reading>, new: &Reading, pool: &'a Pool, sizes: &Sizes) -> PoolRow<'a> {
    let before =
        old.and_then(|old| old.pools.iter().find(|p| p.id == pool.id)).and_then(|p| p.schedule.as_ref());
    let since = before.zip(pool.schedule.as_ref()).and_then(|(then, now)| {
        Some(PoolSince {
            micro_runs: now.micro_runs.checked_sub(then.micro_runs)?,
            micro_ns: now.micro_ns.checked_sub(then.micro_ns)?,
        })
    });
    let resized = sizes.0.get(&pool.id).filter(|size| size.times > 0).map(|size| Resized {
        from: size.before,
        to: size.now,
        seconds_ago: new.at.saturating_sub(size.at).as_secs_f64(),
        times: size.times,
    });
    let pcpu = |&cpu: &u32| {
        let busy_percent = old.and_then(|old| busy(old, new, cpu));
        Pcpu { cpu, mode: mode(pool, cpu), busy_percent }
    };
    PoolRow { pool, pcpus: pool.cpus.iter().map(pcpu).collect(), resized, since }
}

fn mode(pool: &Pool, cpu: u32) -> Mode {
    match &pool.schedule {
        Some(schedule) if schedule.micro_cpus.contains(&cpu) => {
            if schedule.reserve {
                Mode::Reserved
            } else {
                Mode::Micro
            }
        }
        _ => Mode::Normal,
    }
}

/// Percent of the time in which a pCPU was not idle.
fn busy(old: &Reading, new: &Reading, cpu: u32) -> Option<f64> {
    let at = |reading: &Reading| reading.idle_ns.get(cpu as usize).copied();
    let idle = at(new)?.checked_sub(at(old)?)? as f64;
    let all = new.at.saturating_sub(old.at).as_nanos() as f64;
    // The idle time is read a moment after the clock.
    Some((100.0 - idle / all * 100.0).clamp(0.0, 100.0))
}

fn domain_row<'a>(old: Option<&Reading>, view: &'a View) -> DomainRow<'a> {
    let stats = |view: &View| view.scheduled.as_ref().map(|scheduled| scheduled.stats);
    let before = old.and_then(|old| old.domains.iter().find(|v| v.domid == view.domid)).and_then(stats);
    let since = before.zip(stats(view)).and_then(|(then, now)| now.since(&then));
    DomainRow { view, since }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cmd::{domain, pool};

    /// Two readings, two seconds apart: web busy and helped, a pCPU resized from 1 micro core to 2.
    pub fn readings() -> (Reading, Reading) {
        let mut pools = vec![pool::tests::sample(0, "Pool-0", Some(1))];
        let domains = vec![
            domain::tests::sample(0, Some("Domain-0"), true),
            domain::tests::sample(3, Some("web"), true),
            domain::tests::sample(12, Some("a-name-of-more-than-24-letters"), true),
        ];
        let old = Reading {
            at: Duration::from_secs(100),
            time: 1_795_287_555,
            pools: pools.clone(),
            domains: domains.clone(),
            idle_ns: vec![5_000_000_000; 4],
        };
        if let Some(s) = &mut pools[0].schedule {
            (s.cur_micro, s.micro_cpus) = (2, vec![2, 3]);
            s.micro_runs += 2_468;
            s.micro_ns += 240_000_000;
        }
        let mut new = Reading {
            at: old.at + Duration::from_secs(2),
            time: old.time + 2,
            pools,
            domains,
            idle_ns: vec![5_000_000_000, 5_400_000_000, 6_994_000_000, 7_100_000_000],
        };
        for (i, view) in new.domains.iter_mut().enumerate() {
            let Some(s) = &mut view.scheduled else { continue };
            let n = i as u64 * i as u64;
            s.stats.run_ns += 10_000_000 + 1_500_000_000 * n;
            s.stats.yields_ipi += 1_250 * n;
            s.stats.yields_lock += 3 * n;
            s.stats.yields_kept += 900 * n;
            s.stats.preempted += 66 * n;
            s.stats.preempted_critical += 12 * n;
            s.stats.accel_ipi += 1_200 * n;
            s.stats.accel_irq += 34 * n;
            s.stats.refused_limit += n;
            s.stats.micro_runs += 1_234 * n;
            s.stats.micro_ns += 121_000_000 * n;
            s.stats.ranges = 812 * i as u64;
        }
        (old, new)
    }

    fn both() -> (Reading, Reading, Sizes) {
        let (old, new) = readings();
        let mut sizes = Sizes::default();
        sizes.note(&old);
        sizes.note(&new);
        (old, new, sizes)
    }

    #[test]
    fn what_happened_is_the_difference_of_the_counters() {
        let (old, new, sizes) = both();
        let moment = Moment::of(Some(&old), &new, &sizes);
        assert_eq!(moment.seconds, Some(2.0));
        let since = moment.domains[1].since.unwrap();
        assert_eq!((since.run_ns, since.yields_ipi, since.accel_ipi), (1_510_000_000, 1_250, 1_200));
        let pool = &moment.pools[0];
        assert_eq!(pool.since, Some(PoolSince { micro_runs: 2_468, micro_ns: 240_000_000 }));
        assert_eq!(pool.resized, Some(Resized { from: 1, to: 2, seconds_ago: 0.0, times: 1 }));
        let pcpu = |cpu, mode, busy| Pcpu { cpu, mode, busy_percent: Some(busy) };
        assert_eq!(pool.pcpus[1], pcpu(1, Mode::Normal, 80.0));
        // Idle for longer than the readings are apart: not less than nothing.
        assert_eq!(pool.pcpus[3], pcpu(3, Mode::Micro, 0.0));
    }

    #[test]
    fn without_an_earlier_reading_nothing_is_known_of_the_time_between() {
        let (old, new, sizes) = both();
        let alone = Moment::of(None, &new, &sizes);
        assert!(
            alone.seconds.is_none() && alone.domains[0].since.is_none() && alone.pools[0].since.is_none()
        );
        assert_eq!(alone.pools[0].pcpus[0].busy_percent, None);
        // Neither in no time.
        let twice = Moment::of(Some(&new), &new, &sizes);
        assert!(twice.seconds.is_none() && twice.domains[0].since.is_none());
        // Nor of one that came meanwhile, or whose counters began anew.
        let mut earlier = old.clone();
        earlier.domains.remove(0);
        if let Some(s) = &mut earlier.domains[0].scheduled {
            s.stats.run_ns += 1 << 60;
        }
        let moment = Moment::of(Some(&earlier), &new, &sizes);
        let known: Vec<bool> = moment.domains.iter().map(|row| row.since.is_some()).collect();
        assert_eq!(known, [false, false, true]);
    }

    #[test]
    fn fewer_ranges_than_before_are_no_counter_that_went_back() {
        let (mut old, new, sizes) = both();
        if let Some(s) = &mut old.domains[1].scheduled {
            (s.stats.ranges, s.stats.generation) = (4_000, 9);
        }
        assert!(Moment::of(Some(&old), &new, &sizes).domains[1].since.is_some());
    }

    #[test]
    fn changes_of_size_are_counted_and_the_last_one_is_told() {
        let (old, new, mut sizes) = both();
        let mut later = Reading { at: new.at + Duration::from_secs(5), ..old.clone() };
        sizes.note(&later);
        later.at += Duration::from_secs(3);
        sizes.note(&later);
        let moment = Moment::of(Some(&new), &later, &sizes);
        assert_eq!(moment.pools[0].resized, Some(Resized { from: 2, to: 1, seconds_ago: 3.0, times: 2 }));
    }

    #[test]
    fn json_has_what_stats_has_and_the_differences() {
        let (old, new, sizes) = both();
        let value = serde_json::to_value(Moment::of(Some(&old), &new, &sizes)).unwrap();
        assert_eq!((&value["seconds"], &value["time"]), (&2.0.into(), &1_795_287_557u64.into()));
        let (pool, web) = (&value["pools"][0], &value["domains"][1]);
        assert_eq!((&pool["cur_micro"], &pool["since"]["micro_runs"]), (&2.into(), &2_468.into()));
        assert_eq!(pool["pcpus"][3], serde_json::json!({"cpu": 3, "mode": "micro", "busy_percent": 0.0}));
        assert_eq!((&web["name"], &web["since"]["accel_ipi"]), (&"web".into(), &1_200.into()));
        assert!(web["ranges"] == 812 && web["since"].get("ranges").is_none());
    }
}
