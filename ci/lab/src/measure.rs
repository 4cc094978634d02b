// SPDX-License-Identifier: GPL-3.0-only
//! From a run's transcript to its numbers, and from the runs of a row to the row.
//!
//! The co-runner's progress is its rate of work inside the target's shootdown window: both guests print their
//! time, and the co-runner's samples are cut to the window. The guests' clocks differ by what early boot
//! loses (under half a second): that shifts the window, it does not change its length.
//!
//! A run is refused when CPUs had no constant speed (together the guests did more than their pCPUs can) or when the co-runner's samples
//! do not cover the window.

use crate::scenario::{Run, Scheduler};
use crate::serial::Transcript;
use anyhow::{Context, Result, bail, ensure};
use microslice_guest::histogram::Wire;
use microslice_guest::protocol::{Event, JobResult};
use microslice_results::{Accelerated, Corunner, Latency, Row, Stat, Target, Yields};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Work units a millisecond of one vCPU of four that are all busy and never preempted, at five pCPUs: what progress is a
/// share of. From `LAB_WORKLOAD=hog microslice-lab alone`; a constant, since time is a count of instructions.
const FULL_SPEED: f64 = 32.47;
/// More work than this share of all pCPUs' means that CPUs had no constant speed: some halted and lent theirs to others.
const MOST_WORK: f64 = 1.10;
/// Most that the guests' clocks differ, for windows that end with the run.
const CLOCKS_NS: u64 = 1_500_000_000;

/// One finished run, as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// What was run.
    pub run: Run,
    /// What the target measured, job by job.
    pub jobs: Vec<JobResult>,
    /// The co-runner's progress in each job's window; empty without a co-runner.
    pub corunner: Vec<f64>,
    /// `microslice stats --json`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stats: Option<Value>,
    /// Virtual seconds of the run.
    pub virtual_s: f64,
    /// Wall seconds of the run.
    pub wall_s: f64,
}

impl Record {
    /// Reads the numbers out of `transcript`.
    pub fn of(run: &Run, transcript: &Transcript, wall_s: f64) -> Result<Record> {
        let target = transcript.guests.get("target").context("the target reported nothing")?;
        let jobs: Vec<JobResult> = target
            .iter()
            .filter_map(|event| if let Event::Result(result) = event { Some(result.clone()) } else { None })
            .collect();
        ensure!(!jobs.is_empty(), "the target finished no job");
        let mut corunner = Vec::new();
        if run.config.corun {
            let events = transcript.guests.get("corunner").context("the co-runner reported nothing")?;
            for job in &jobs {
                corunner.push(rate(events, job.from_ns, job.to_ns)? * 1e6 / (FULL_SPEED * run.vcpus as f64));
            }
        }
        for (index, job) in jobs.iter().enumerate() {
            check_speed(run, job, corunner.get(index).copied())?;
        }
        let stats = match transcript.captured.get("stats") {
            Some(captured) => {
                ensure!(captured.status == 0, "microslice stats: {}", captured.text.trim());
                Some(serde_json::from_str(&captured.text).context("microslice stats --json")?)
            }
            None => None,
        };
        Ok(Record { run: run.clone(), jobs, corunner, stats, virtual_s: transcript.virtual_s, wall_s })
    }

    fn job(&self, name: &str) -> Option<&JobResult> {
        self.jobs.iter().find(|job| job.job == name)
    }

    /// A counter of the target, from the stored statistics.
    pub fn counter(&self, name: &str) -> Option<f64> {
        let domains = self.stats.as_ref()?.get("domains")?.as_array()?;
        let target =
            domains.iter().find(|domain| domain.get("name").and_then(Value::as_str) == Some("target"))?;
        target.get(name)?.as_f64()
    }

    /// A counter of the pool.
    pub fn pool(&self, name: &str) -> Option<f64> {
        self.stats.as_ref()?.get("pools")?.as_array()?.first()?.get(name)?.as_f64()
    }
}

/// Refuses a run whose CPUs had no constant speed: together the guests did more than their pCPUs can.
fn check_speed(run: &Run, job: &JobResult, corunner: Option<f64>) -> Result<()> {
    let full = FULL_SPEED * run.guest_pcpus as f64;
    let own = job.user_work as f64 / (job.seconds() * 1e3) / full;
    let work = own + corunner.unwrap_or(0.0) * run.vcpus as f64 / run.guest_pcpus as f64;
    ensure!(
        work < MOST_WORK,
        "CPUs had no constant speed: guests did {:.0} % of what {} pCPUs can",
        work * 100.0,
        run.guest_pcpus
    );
    Ok(())
}

/// Work units a nanosecond between two times, interpolated between samples.
pub(crate) fn rate(events: &[Event], from_ns: u64, to_ns: u64) -> Result<f64> {
    let samples: Vec<(u64, u64)> = events
        .iter()
        .filter_map(|event| match event {
            // Nothing is done before the first job starts. A first burst that is preempted may end within the window.
            Event::Ready { t_ns, .. } => Some((*t_ns, 0)),
            Event::Progress { t_ns, work } => Some((*t_ns, *work)),
            _ => None,
        })
        .collect();
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        bail!("the co-runner has no samples")
    };
    ensure!(first.0 <= from_ns, "the co-runner's first sample comes after the window began");
    ensure!(last.0 + CLOCKS_NS >= to_ns, "the co-runner's last sample comes before the window ended");
    let to_ns = to_ns.min(last.0);
    let at = |time: u64| -> f64 {
        let after = samples.partition_point(|sample| sample.0 < time).clamp(1, samples.len().max(2) - 1);
        let (left, right) = (samples[after - 1], samples[after.min(samples.len() - 1)]);
        let span = (right.0 - left.0).max(1) as f64;
        left.1 as f64 + (right.1 - left.1) as f64 * (time as f64 - left.0 as f64) / span
    };
    ensure!(to_ns > from_ns, "the co-runner's samples do not reach into the window");
    Ok((at(to_ns) - at(from_ns)) / (to_ns - from_ns) as f64)
}

/// The row of one configuration.
pub fn row(records: &[Record]) -> Option<Row> {
    let run = &records.first()?.run;
    let config = &run.config;
    let micro = config.scheduler == Scheduler::Microslice;
    let counted = |name: &str| Stat::over(records.iter().filter_map(|record| record.counter(name)));
    let jobs = |name: &'static str| records.iter().filter_map(move |record| record.job(name));
    let fixed = |job: &JobResult| job.job == "mprotect" || job.job.starts_with("stress");
    let corunner = Stat::over(records.iter().filter_map(|record| record.corunner.first().copied()));
    let refused = |record: &Record| {
        Some(
            record.counter("refused_affinity")?
                + record.counter("refused_limit")?
                + record.counter("refused_full")?,
        )
    };
    Some(Row {
        name: config.name.clone(),
        scheduler: config.scheduler.to_string(),
        policy: config
            .policy
            .as_ref()
            .map(|p| if config.reserve { format!("{p}, reserved") } else { p.clone() }),
        micro_cores: config.micro_cores,
        consolidated: config.corun,
        runs: records.len() as u32,
        target: Target {
            elapsed_s: Stat::over(
                records.iter().filter_map(|r| r.jobs.iter().find(|job| fixed(job))).map(JobResult::seconds),
            ),
            throughput: Stat::over(jobs("shootdown").map(|job| job.ops as f64 / job.seconds())),
            user_progress: Stat::over(records.iter().filter_map(user_progress)),
        },
        corunner: corunner.map(|progress| Corunner { progress }),
        tlb_sync_us: latency(jobs("shootdown")),
        mprotect_us: latency(jobs("mprotect")),
        lock_wait_us: None,
        yields: micro.then(|| Yields {
            ipi: counted("yields_ipi"),
            lock: counted("yields_lock"),
            halt: None,
            other: counted("yields_other"),
            kept: counted("yields_kept"),
        }),
        accelerated: micro.then(|| Accelerated {
            ipi: counted("accel_ipi"),
            lock: counted("accel_lock"),
            irq: counted("accel_irq"),
            refused: Stat::over(records.iter().filter_map(refused)),
        }),
        micro_stay_max_us: Stat::over(
            records.iter().filter_map(|r| r.pool("micro_stay_max_ns")).map(|ns| ns / 1e3),
        ),
        wall_s: Stat::over(records.iter().map(|record| record.wall_s)),
    })
}

/// Work of the spinning threads against as many undisturbed vCPUs.
fn user_progress(record: &Record) -> Option<f64> {
    let job = record.jobs.iter().find(|job| job.user_threads > 0)?;
    Some(job.user_work as f64 / (job.seconds() * 1e3 * FULL_SPEED * job.user_threads as f64))
}

fn latency<'a>(jobs: impl Iterator<Item = &'a JobResult>) -> Option<Latency> {
    let parts: Vec<&Wire> = jobs.filter_map(|job| job.latency.as_ref()).collect();
    let quantile =
        |q: f64| Stat::over(parts.iter().filter_map(|part| part.quantile_ns(q)).map(|ns| ns as f64 / 1e3));
    Some(Latency {
        mean: Stat::over(parts.iter().filter_map(|part| part.mean_ns()).map(|ns| ns / 1e3))?,
        p50: quantile(0.5)?,
        p99: quantile(0.99)?,
        max: Stat::over(parts.iter().map(|part| part.max_ns as f64 / 1e3))?,
        samples: parts.iter().map(|part| part.count).sum(),
        pooled_p99: Wire::merged(parts.iter().copied()).quantile_ns(0.99).map(|ns| ns as f64 / 1e3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(samples: &[(u64, u64)]) -> Vec<Event> {
        samples.iter().map(|&(t_ns, work)| Event::Progress { t_ns, work }).collect()
    }

    #[test]
    fn the_rate_is_cut_to_the_window() {
        // Slow until 100, then ten times as fast: only the window's part may count.
        let events = progress(&[(0, 0), (100, 100), (200, 1_100), (300, 2_100)]);
        assert_eq!(rate(&events, 100, 300).unwrap(), 10.0);
        assert_eq!(rate(&events, 50, 150).unwrap(), 5.5);
        assert_eq!(rate(&events, 120, 180).unwrap(), 10.0);
    }

    #[test]
    fn a_window_that_begins_within_the_first_burst_counts_from_the_start_of_it() {
        let ready = Event::Ready { t_ns: 100, vcpus: 1, work_per_ms: 1.0, batches: Vec::new() };
        let events = [vec![ready], progress(&[(300, 200), (400, 1_200)])].concat();
        assert_eq!(rate(&events, 200, 300).unwrap(), 1.0);
        assert!(rate(&events, 50, 300).is_err());
    }

    #[test]
    fn samples_that_do_not_cover_the_window_are_refused() {
        let events = progress(&[(100, 0), (200, 10)]);
        assert!(rate(&events, 50, 150).is_err());
        assert!(rate(&events, 150, 200 + CLOCKS_NS + 1).is_err());
        assert!(rate(&[], 0, 1).is_err());
    }
}
