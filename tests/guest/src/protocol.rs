// SPDX-License-Identifier: GPL-3.0-only
//! One JSON object a line on the guest's console; every line the lab must read starts with [`MARK`].
//!
//! Times `t_ns` are the guest's CLOCK_REALTIME, which under Xen is the hypervisor's wall clock plus
//! its system time: two guests of one machine agree on it, so the co-runner's samples can be cut to
//! the target's measuring window.

use crate::histogram::Wire;
use serde::{Deserialize, Serialize};

/// Start of every report line; other console output is ignored by the lab.
pub const MARK: &str = "@guest ";

/// What a guest reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
pub enum Event {
    /// Booted; nothing happens for the order's `ms.wait_ms`.
    Booted {
        /// Time of the report.
        t_ns: u64,
    },
    /// Calibrated; the first job starts now.
    Ready {
        /// Time of the report.
        t_ns: u64,
        /// vCPUs in use.
        vcpus: usize,
        /// Work units one vCPU that is never preempted does in a millisecond.
        work_per_ms: f64,
        /// The calibration's single values, in order.
        #[serde(default)]
        batches: Vec<f64>,
    },
    /// The co-runner's work so far, all threads.
    Progress {
        /// Time at which `work` was read.
        t_ns: u64,
        /// Work units since the job began.
        work: u64,
    },
    /// One job is over.
    Result(JobResult),
    /// All jobs are over; the guest idles or powers off.
    Done {
        /// Time of the report.
        t_ns: u64,
    },
    /// The guest cannot do what it was asked; nothing follows.
    Failed {
        /// Operation, object and cause.
        error: String,
    },
}

/// What one job measured in its window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The workload's name in the job syntax.
    pub job: String,
    /// Start of the window.
    pub from_ns: u64,
    /// End of the window.
    pub to_ns: u64,
    /// Operations finished in the window (mprotects, iterations, bogo ops, work units).
    pub ops: u64,
    /// User-mode work of the spinning threads in the window; 0 for jobs without them.
    pub user_work: u64,
    /// Number of those threads.
    pub user_threads: usize,
    /// Latency of each mprotect that takes write permission away; absent for jobs without it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency: Option<Wire>,
}

impl JobResult {
    /// Length of the window in seconds.
    pub fn seconds(&self) -> f64 {
        self.to_ns.saturating_sub(self.from_ns) as f64 / 1e9
    }
}

/// For people.
impl std::fmt::Display for JobResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} operations in {:.2} s", self.job, self.ops, self.seconds())?;
        let Some(latency) = &self.latency else { return Ok(()) };
        let us = |ns: Option<u64>| ns.unwrap_or(0) as f64 / 1e3;
        let mean = latency.mean_ns().unwrap_or(0.0) / 1e3;
        let (p50, p99) = (us(latency.quantile_ns(0.5)), us(latency.quantile_ns(0.99)));
        let max = us(Some(latency.max_ns));
        write!(f, "; each in mean {mean:.1}, p50 {p50:.1}, p99 {p99:.1}, max {max:.1} us")
    }
}

/// The console line of an event.
pub fn line(event: &Event) -> String {
    // Maps with string keys and numbers only: serialisation has no failing case.
    let json = serde_json::to_string(event)
        .unwrap_or_else(|error| format!("{{\"ev\":\"failed\",\"error\":\"{error}\"}}"));
    format!("{MARK}{json}")
}

/// The event on a console line; `None` for lines that are not reports.
pub fn parse(line: &str) -> Option<Result<Event, serde_json::Error>> {
    let start = line.find(MARK)?;
    Some(serde_json::from_str(line[start + MARK.len()..].trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_the_console() {
        let mut latency = crate::histogram::Histogram::default();
        latency.record(145_000);
        let result = JobResult {
            job: "shootdown".into(),
            from_ns: 1,
            to_ns: 2_000_000_001,
            ops: 1,
            user_work: 7,
            user_threads: 3,
            latency: Some(latency.wire()),
        };
        let words = "shootdown: 1 operations in 2.00 s; each in mean 145.0, p50 ";
        assert!(result.to_string().starts_with(words), "{result}");
        let event = Event::Result(result);
        let text = format!("[noise] {}\r\n", line(&event));
        assert_eq!(parse(&text).unwrap().unwrap(), event);
        assert!(parse("Linux version 6.1").is_none());
        assert!(parse("@guest {\"ev\":\"resul").unwrap().is_err());
    }
}
