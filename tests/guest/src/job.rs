// SPDX-License-Identifier: GPL-3.0-only
//! The job of a guest, from its kernel command line.
//!
//! `ms.jobs=NAME:key=value:...[/NAME:...]` in order, after `ms.wait_ms=N` (default 0); then `ms.end=idle|poweroff`. Example:
//! `ms.jobs=shootdown:secs=15:warm_ms=900/mprotect:iters=2000 ms.end=idle`. Kernels leave parameters
//! with a dot alone. Unknown names, keys and values are refused, not skipped; `ms.seed` may always stand
//! there: it also tells otherwise equal runs apart.

use std::collections::BTreeMap;
use std::fmt;

/// What to do when all jobs are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Sleep until the domain is destroyed, so that its counters can still be read.
    Idle,
    /// Power off.
    PowerOff,
}

/// One workload and its parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    /// One thread takes write permission away, the others spin in user mode.
    Shootdown {
        /// Measured seconds.
        secs: f64,
        /// Milliseconds of the same work before measuring starts.
        warm_ms: u64,
    },
    /// All threads compute and shoot down in turn, a fixed number of iterations.
    Mprotect {
        /// Iterations of each thread.
        iters: u64,
        /// Microseconds of work before each shootdown.
        think_us: (u64, u64),
    },
    /// CPU hog until destroyed, or for `secs`.
    Hog {
        /// Bursts, milliseconds of work; 0..0 means never to sleep.
        burst_ms: (u64, u64),
        /// Sleeps between bursts, microseconds.
        sleep_us: (u64, u64),
        /// Least milliseconds between progress reports.
        every_ms: u64,
        /// Stop after these seconds; 0 is never.
        secs: f64,
    },
    /// Debian's stress-ng: one stressor with an instance a vCPU, for a fixed number of operations.
    Stress {
        /// Stressor (`--NAME`).
        stressor: String,
        /// Bogo operations of each instance.
        ops: u64,
        /// Further options, `;` for a blank.
        extra: String,
    },
}

/// The whole order of a guest.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// In order.
    pub jobs: Vec<Job>,
    /// Milliseconds of sleep before calibration, in which the guest may be paused to set things up, and then half as many.
    pub wait_ms: u64,
    /// Afterwards.
    pub end: End,
    /// Seed of everything random in the guest.
    pub seed: u64,
}

/// Why an order was refused.
#[derive(Debug, PartialEq, Eq)]
pub struct JobError(pub String);

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for JobError {}

impl Order {
    /// Reads the order from the words of a command line.
    pub fn parse(command_line: &str) -> Result<Order, JobError> {
        let mut order = Order { jobs: Vec::new(), wait_ms: 0, end: End::PowerOff, seed: 1 };
        for word in command_line.split_whitespace() {
            let Some((key, value)) = word.strip_prefix("ms.").and_then(|rest| rest.split_once('=')) else {
                continue;
            };
            match key {
                "jobs" => order.jobs = value.split('/').map(parse_job).collect::<Result<_, _>>()?,
                "end" => order.end = parse_end(value)?,
                "wait_ms" => order.wait_ms = number(key, value)?,
                "seed" => order.seed = number(key, value)?,
                _ => return Err(JobError(format!("parse command line: ms.{key}: unknown parameter"))),
            }
        }
        if order.jobs.is_empty() {
            return Err(JobError("parse command line: no ms.jobs= given".into()));
        }
        Ok(order)
    }
}

fn parse_end(value: &str) -> Result<End, JobError> {
    match value {
        "idle" => Ok(End::Idle),
        "poweroff" => Ok(End::PowerOff),
        _ => Err(JobError(format!("parse ms.end: {value:?} is neither idle nor poweroff"))),
    }
}

fn parse_job(text: &str) -> Result<Job, JobError> {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default();
    let mut keys = Keys { job: name, map: BTreeMap::new() };
    for part in parts {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| JobError(format!("parse job {name}: {part:?} is not key=value")))?;
        keys.map.insert(key, value);
    }
    let job = match name {
        "shootdown" => {
            Job::Shootdown { secs: keys.number("secs", 10.0)?, warm_ms: keys.number("warm_ms", 1_000)? }
        }
        "mprotect" => {
            Job::Mprotect { iters: keys.number("iters", 1_000)?, think_us: keys.range("think_us", (0, 0))? }
        }
        "hog" => Job::Hog {
            burst_ms: keys.range("burst_ms", (10, 70))?,
            sleep_us: keys.range("sleep_us", (100, 900))?,
            every_ms: keys.number("every_ms", 100)?,
            secs: keys.number("secs", 0.0)?,
        },
        "plain_hog" => Job::Hog {
            burst_ms: (0, 0),
            sleep_us: (0, 0),
            every_ms: keys.number("every_ms", 100)?,
            secs: keys.number("secs", 0.0)?,
        },
        "stress" => Job::Stress {
            stressor: keys.map.remove("stressor").unwrap_or("mmap").to_owned(),
            ops: keys.number("ops", 100)?,
            extra: keys.map.remove("extra").unwrap_or_default().to_owned(),
        },
        _ => return Err(JobError(format!("parse ms.jobs: {name:?} is no workload"))),
    };
    match keys.map.keys().next() {
        None => Ok(job),
        Some(key) => Err(JobError(format!("parse job {name}: {key:?} is no parameter of it"))),
    }
}

fn number<T: std::str::FromStr>(what: &str, value: &str) -> Result<T, JobError> {
    value.parse().map_err(|_| JobError(format!("parse {what}: {value:?} is not a number of its kind")))
}

struct Keys<'a> {
    job: &'a str,
    map: BTreeMap<&'a str, &'a str>,
}

impl Keys<'_> {
    fn number<T: std::str::FromStr>(&mut self, key: &str, default: T) -> Result<T, JobError> {
        match self.map.remove(key) {
            None => Ok(default),
            Some(value) => number(&format!("job {} {key}", self.job), value),
        }
    }

    /// `LOW-HIGH`, LOW at most HIGH.
    fn range(&mut self, key: &str, default: (u64, u64)) -> Result<(u64, u64), JobError> {
        let Some(value) = self.map.remove(key) else { return Ok(default) };
        let what = format!("job {} {key}", self.job);
        let (low, high) = value
            .split_once('-')
            .ok_or_else(|| JobError(format!("parse {what}: {value:?} is not LOW-HIGH")))?;
        let range = (number(&what, low)?, number(&what, high)?);
        if range.0 > range.1 {
            return Err(JobError(format!("parse {what}: {value:?} runs backwards")));
        }
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_order() {
        let order = Order::parse(
            "console=hvc0 quiet ms.seed=7 ms.wait_ms=5 ms.jobs=shootdown:secs=1.5:warm_ms=20/mprotect:iters=9:think_us=2-4/hog:burst_ms=1-2 ms.end=idle",
        )
        .unwrap();
        assert_eq!((order.seed, order.wait_ms), (7, 5));
        assert_eq!(order.end, End::Idle);
        assert_eq!(order.jobs[0], Job::Shootdown { secs: 1.5, warm_ms: 20 });
        assert_eq!(order.jobs[1], Job::Mprotect { iters: 9, think_us: (2, 4) });
        assert!(matches!(order.jobs[2], Job::Hog { burst_ms: (1, 2), .. }));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (bad, hint) in [
            ("quiet", "no ms.jobs"),
            ("ms.jobs=sleep", "no workload"),
            ("ms.jobs=mprotect:iters=x", "not a number"),
            ("ms.jobs=mprotect:loops=3", "no parameter"),
            ("ms.jobs=hog:burst_ms=9-3", "backwards"),
            ("ms.jobs=hog ms.end=now", "ms.end"),
            ("ms.jobs=hog ms.foo=1", "unknown parameter"),
        ] {
            let error = Order::parse(bad).unwrap_err().to_string();
            assert!(error.contains(hint), "{bad}: {error}");
        }
    }
}
