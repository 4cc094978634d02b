// SPDX-License-Identifier: GPL-3.0-only
//! The workloads. Each runs to its end and returns what its window measured.
//!
//! Threads are bound one to a vCPU, so "the other vCPU is preempted" is the hypervisor's doing alone.

use crate::histogram::Histogram;
use crate::job::Job;
use crate::protocol::{Event, JobResult};
use crate::sys::{self, Page};
use crate::work::{self, Counter, Random};
use std::io::{Error, Result};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// What a workload needs to know of its guest.
pub struct Guest<'a> {
    /// vCPUs.
    pub vcpus: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Work units a millisecond.
    pub work_per_ms: f64,
    /// Where events go.
    pub report: &'a (dyn Fn(&Event) + Sync),
}

impl Guest<'_> {
    /// The stream of one thread.
    fn random(&self, cpu: usize) -> Random {
        Random::new(self.seed.wrapping_mul(1_000).wrapping_add(cpu as u64))
    }

    /// Work units of so many microseconds.
    fn units(&self, us: u64) -> u64 {
        (us as f64 * self.work_per_ms / 1e3) as u64
    }
}

/// Runs one job.
pub fn run(job: &Job, guest: &Guest<'_>) -> Result<JobResult> {
    match job {
        Job::Shootdown { secs, warm_ms } => shootdown(guest, *secs, *warm_ms),
        Job::Mprotect { iters, think_us } => mprotect(guest, *iters, *think_us),
        Job::Hog { burst_ms, sleep_us, every_ms, secs } => {
            let plan = HogPlan { burst_ms: *burst_ms, sleep_us: *sleep_us, every_ms: *every_ms, secs: *secs };
            hog(guest, &plan)
        }
        Job::Stress { stressor, ops, extra } => stress(guest, stressor, *ops, extra),
    }
}

fn counters(count: usize) -> Vec<Counter> {
    (0..count).map(|_| Counter::default()).collect()
}

/// One mprotect that must be answered by every CPU that runs this process; its latency.
fn one_shootdown(page: &mut Page, value: u8) -> Result<u64> {
    page.touch(value)?;
    let start = sys::monotonic_ns();
    page.write_protect()?;
    Ok(sys::monotonic_ns() - start)
}

/// Thread 0 shoots down, the others spin in user mode and count.
fn shootdown(guest: &Guest<'_>, secs: f64, warm_ms: u64) -> Result<JobResult> {
    let work = counters(guest.vcpus);
    let (stop, barrier) = (AtomicBool::new(false), Barrier::new(guest.vcpus));
    std::thread::scope(|scope| {
        for (cpu, counter) in work.iter().enumerate().skip(1) {
            let (stop, barrier) = (&stop, &barrier);
            scope.spawn(move || -> Result<()> {
                sys::pin_to(cpu)?;
                barrier.wait();
                let mut state = cpu as u64;
                while !stop.load(Relaxed) {
                    state = work::unit(state);
                    counter.bump();
                }
                Ok(())
            });
        }
        sys::pin_to(0)?;
        barrier.wait();
        let result = shoot(secs, warm_ms, &work);
        stop.store(true, Relaxed);
        result
    })
}

fn shoot(secs: f64, warm_ms: u64, work: &[Counter]) -> Result<JobResult> {
    let mut page = Page::new()?;
    let (mut latency, mut ops) = (Histogram::default(), 0u64);
    let warm_until = sys::shared_ns() + warm_ms * 1_000_000;
    while sys::shared_ns() < warm_until {
        one_shootdown(&mut page, 1)?;
    }
    let (from_ns, before) = (sys::shared_ns(), work::total(work));
    let until = from_ns + (secs * 1e9) as u64;
    let mut to_ns = from_ns;
    while to_ns < until {
        latency.record(one_shootdown(&mut page, ops as u8)?);
        ops += 1;
        to_ns = sys::shared_ns();
    }
    Ok(JobResult {
        job: "shootdown".into(),
        from_ns,
        to_ns,
        ops,
        user_work: work::total(work) - before,
        user_threads: work.len() - 1,
        latency: Some(latency.wire()),
    })
}

/// Every thread computes and then shoots down a page of its own, `iters` times: adds contention on mmap_lock.
///
/// Without computing, the threads do best when they run one at a time, and a preempted sibling is a help.
fn mprotect(guest: &Guest<'_>, iters: u64, think_us: (u64, u64)) -> Result<JobResult> {
    let barrier = Barrier::new(guest.vcpus + 1);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..guest.vcpus)
            .map(|cpu| {
                let barrier = &barrier;
                scope.spawn(move || -> Result<Histogram> {
                    let pinned = sys::pin_to(cpu);
                    barrier.wait();
                    pinned?;
                    let (mut page, mut latency) = (Page::new()?, Histogram::default());
                    let (mut random, mut state) = (guest.random(cpu), cpu as u64);
                    for turn in 0..iters {
                        for _ in 0..guest.units(random.within(think_us)) {
                            state = work::unit(state);
                        }
                        latency.record(one_shootdown(&mut page, turn as u8)?);
                    }
                    std::hint::black_box(state);
                    Ok(latency)
                })
            })
            .collect();
        barrier.wait();
        let from_ns = sys::shared_ns();
        let mut latency = Histogram::default();
        for handle in handles {
            latency.merge(&handle.join().map_err(|_| Error::other("an mprotect thread panicked"))??);
        }
        Ok(JobResult {
            job: "mprotect".into(),
            from_ns,
            to_ns: sys::shared_ns(),
            ops: iters * guest.vcpus as u64,
            user_work: 0,
            user_threads: 0,
            latency: Some(latency.wire()),
        })
    })
}

struct HogPlan {
    burst_ms: (u64, u64),
    sleep_us: (u64, u64),
    every_ms: u64,
    secs: f64,
}

/// All vCPUs busy. A burst is an amount of work, not a span of time: losing the CPU does not shorten it.
fn hog(guest: &Guest<'_>, plan: &HogPlan) -> Result<JobResult> {
    let work = counters(guest.vcpus);
    let stop = AtomicBool::new(false);
    let from_ns = sys::shared_ns();
    std::thread::scope(|scope| {
        for cpu in 1..guest.vcpus {
            let (stop, work) = (&stop, &work);
            scope.spawn(move || hog_thread(cpu, guest, plan, work, stop));
        }
        hog_thread(0, guest, plan, &work, &stop)
    })?;
    Ok(JobResult {
        job: "hog".into(),
        from_ns,
        to_ns: sys::shared_ns(),
        ops: work::total(&work),
        user_work: work::total(&work),
        user_threads: guest.vcpus,
        latency: None,
    })
}

fn hog_thread(
    cpu: usize,
    guest: &Guest<'_>,
    plan: &HogPlan,
    work: &[Counter],
    stop: &AtomicBool,
) -> Result<()> {
    sys::pin_to(cpu)?;
    let counter = work.get(cpu).ok_or_else(|| Error::other("no counter for this vCPU"))?;
    let mut random = guest.random(cpu);
    let (mut state, started) = (cpu as u64, sys::shared_ns());
    let mut next_report = started;
    while !stop.load(Relaxed) {
        let burst_ms = random.within(plan.burst_ms).max(1);
        for _ in 0..guest.units(burst_ms * 1_000) {
            state = work::unit(state);
            counter.bump();
        }
        let now = sys::shared_ns();
        if cpu == 0 && now >= next_report {
            (guest.report)(&Event::Progress { t_ns: now, work: work::total(work) });
            next_report = now + plan.every_ms * 1_000_000;
        }
        if cpu == 0 && plan.secs > 0.0 && now >= started + (plan.secs * 1e9) as u64 {
            stop.store(true, Relaxed);
        }
        if plan.sleep_us.1 > 0 {
            std::thread::sleep(Duration::from_micros(random.within(plan.sleep_us)));
        }
    }
    std::hint::black_box(state);
    Ok(())
}

/// Debian's stress-ng as the independent witness: elapsed time of a fixed number of its operations.
fn stress(guest: &Guest<'_>, stressor: &str, ops: u64, extra: &str) -> Result<JobResult> {
    let mut command = std::process::Command::new("/usr/bin/stress-ng");
    command.args([&format!("--{stressor}"), &guest.vcpus.to_string()]);
    command.args([&format!("--{stressor}-ops"), &(ops * guest.vcpus as u64).to_string()]);
    command.args(extra.split(';').filter(|word| !word.is_empty()));
    command.args(["--seed", &guest.seed.to_string(), "--metrics", "--temp-path", "/tmp", "--oomable"]);
    let from_ns = sys::shared_ns();
    let output = command.output()?;
    let to_ns = sys::shared_ns();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let bogo_ops = bogo_ops(&text, stressor)
        .filter(|_| output.status.success())
        .ok_or_else(|| Error::other(format!("stress-ng --{stressor}: {}: {}", output.status, text.trim())))?;
    Ok(JobResult {
        job: format!("stress-{stressor}"),
        from_ns,
        to_ns,
        ops: bogo_ops,
        user_work: 0,
        user_threads: 0,
        latency: None,
    })
}

/// The operations column of stress-ng's metrics table.
fn bogo_ops(text: &str, stressor: &str) -> Option<u64> {
    text.lines().filter(|line| line.contains("metrc:")).find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != stressor);
        words.next()?;
        words.next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(report: &(dyn Fn(&Event) + Sync)) -> Guest<'_> {
        Guest { vcpus: sys::cpus(), seed: 1, work_per_ms: work::median(&work::calibrate()), report }
    }

    #[test]
    fn shootdown_and_mprotect_measure_every_operation() {
        let report = |_: &Event| {};
        let guest = guest(&report);
        let result = run(&Job::Shootdown { secs: 0.05, warm_ms: 5 }, &guest).unwrap();
        assert!(result.ops > 0 && result.seconds() >= 0.05);
        assert_eq!(result.latency.unwrap().count, result.ops);
        let result = run(&Job::Mprotect { iters: 50, think_us: (0, 100) }, &guest).unwrap();
        assert_eq!(result.ops, 50 * guest.vcpus as u64);
        assert_eq!(result.latency.unwrap().count, result.ops);
    }

    #[test]
    fn the_hog_reports_growing_work_and_stops_in_time() {
        let seen = std::sync::Mutex::new(Vec::new());
        let report = |event: &Event| {
            if let Event::Progress { t_ns, work } = event {
                seen.lock().unwrap().push((*t_ns, *work));
            }
        };
        let guest = guest(&report);
        run(&Job::Hog { burst_ms: (1, 3), sleep_us: (10, 50), every_ms: 5, secs: 0.1 }, &guest).unwrap();
        let seen = seen.lock().unwrap();
        assert!(seen.len() > 2 && seen.is_sorted());
    }

    #[test]
    fn the_operations_of_a_stress_ng_table() {
        let table = "stress-ng: metrc: [9] stressor       bogo ops real time\n\
                     stress-ng: metrc: [9] mmap                 20      0.05      0.01\n";
        assert_eq!(bogo_ops(table, "mmap"), Some(20));
        assert_eq!(bogo_ops(table, "futex"), None);
    }
}
