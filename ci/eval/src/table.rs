// SPDX-License-Identifier: GPL-3.0-only
//! From the records of a row to the row, and the table for terminals.

use crate::rows::{BASELINE, Spec};
use microslice_results::{Accelerated, Corunner, Latency, Results, Row, Stat, Target, Yields};
use microslice_sim::run::{Row as Policy, Sizing, Times};
use microslice_sim::{Kind, Record};
use std::collections::BTreeMap;

/// A flow: Mbit/s and jitter in milliseconds, by row.
pub type Flows = BTreeMap<String, (Option<Stat>, Option<Stat>)>;

/// What became of the target's flow in each row, if it has one.
pub fn flows<'a>(rows: &[Spec], own: &dyn Fn(usize) -> Vec<&'a Record>) -> Flows {
    let all = |i: usize, f: fn(&Record) -> Option<f64>| Stat::over(own(i).into_iter().filter_map(f));
    rows.iter()
        .enumerate()
        .map(|(i, r)| (r.name.clone(), (all(i, |r| r.vms[0].mbit_per_s), all(i, |r| r.vms[0].jitter_ms))))
        .collect()
}

/// The target's yields a second in each row, by what the paper's code takes for their cause.
pub fn counted<'a>(rows: &[Spec], own: &dyn Fn(usize) -> Vec<&'a Record>) -> BTreeMap<String, [f64; 4]> {
    let mean = |i: usize, cause: usize| {
        let records = own(i);
        let sum: f64 = records.iter().map(|r| r.vms[0].counted_per_s[cause]).sum();
        sum / records.len().max(1) as f64
    };
    rows.iter().enumerate().map(|(i, r)| (r.name.clone(), [0, 1, 2, 3].map(|c| mean(i, c)))).collect()
}

fn latency(records: &[&Record], pick: &dyn Fn(&Record) -> Option<&Times>) -> Option<Latency> {
    let over = |f: fn(&Times) -> f64| Stat::over(records.iter().filter_map(|r| pick(r)).map(f));
    Some(Latency {
        mean: over(|t| t.mean)?,
        p50: over(|t| t.p50)?,
        p99: over(|t| t.p99)?,
        max: over(|t| t.max)?,
        samples: records.iter().filter_map(|r| pick(r)).map(|t| t.samples).sum(),
        pooled_p99: None,
    })
}

/// `corunners`: their vCPUs; progress is per vCPU, as the lab's.
pub fn row(spec: &Spec, corunners: &[u16], records: &[&Record]) -> Row {
    let over = |f: &dyn Fn(&Record) -> Option<f64>| Stat::over(records.iter().filter_map(|r| f(r)));
    let yields = |i: usize| over(&|r| Some(r.vms[0].yields_per_s[i]));
    let accelerated = |i: usize| over(&|r| r.vms[0].accelerated_per_s.map(|a| a[i]));
    let sched = &spec.sched;
    let micro = sched.scheduler == Kind::Microslice;
    let vcpus: f64 = corunners.iter().copied().map(f64::from).sum();
    let others = |r: &Record| r.vms.iter().skip(1).map(|v| v.user).sum::<f64>();
    Row {
        name: spec.name.clone(),
        scheduler: match sched.scheduler {
            Kind::Credit47 if sched.micro_cores.is_some() || sched.sizing != Sizing::Static => {
                "credit-4.7 with micro cores".to_owned()
            }
            Kind::Credit47 => BASELINE.to_owned(),
            other => format!("{other:?}").to_lowercase(),
        },
        policy: micro.then(|| policy(sched.policy, sched.reserve, sched.sizing)),
        micro_cores: sched.micro_cores.filter(|_| sched.sizing == Sizing::Static),
        consolidated: spec.consolidated,
        runs: records.len() as u32,
        target: Target {
            elapsed_s: None,
            throughput: over(&|r| Some(r.vms[0].done_per_s)),
            user_progress: None,
        },
        corunner: over(&|r| (r.vms.len() > 1).then(|| others(r) / vcpus))
            .map(|progress| Corunner { progress }),
        tlb_sync_us: latency(records, &|r| r.vms[0].tlb_us.as_ref()),
        mprotect_us: None,
        lock_wait_us: latency(records, &|r| {
            r.vms[0]
                .lock_us
                .values()
                .max_by(|a, b| (a.mean * a.samples as f64).total_cmp(&(b.mean * b.samples as f64)))
        }),
        yields: Some(Yields {
            ipi: yields(0),
            lock: yields(1),
            halt: yields(2),
            other: None,
            kept: over(&|r| r.vms[0].kept_per_s),
        }),
        accelerated: micro.then(|| Accelerated {
            ipi: accelerated(0),
            lock: accelerated(1),
            irq: accelerated(2),
            refused: accelerated(3),
        }),
        micro_stay_max_us: over(&|r| r.micro_stay_max_us),
        wall_s: None,
    }
}

fn policy(policy: Policy, reserve: bool, sizing: Sizing) -> String {
    let mut text = format!("{policy:?}").to_lowercase();
    if reserve {
        text += ", reserved";
    }
    match sizing {
        Sizing::Static => {}
        Sizing::Paper => text += ", paper's sizing",
        Sizing::Adaptive => text += ", adaptive",
    }
    text
}

/// Times against the baseline: below 1 is faster.
pub fn text(results: &Results) -> String {
    let time = |r: &Row| r.target.throughput.filter(|s| s.mean > 0.0).map(|s| 1.0 / s.mean);
    let other = |r: &Row| r.corunner.as_ref().map(|c| 1.0 / c.progress.mean);
    let base = results.row(BASELINE);
    let ratio = |own: Option<f64>, base: Option<f64>| match (own, base) {
        (Some(a), Some(b)) => format!("{:.3}", a / b),
        _ => "-".to_owned(),
    };
    let mut out = format!("{} (simulated; seeds {:?})\n", results.scenario, results.seeds);
    out += "| row             | target time | co-runners' time | TLB sync mean us | worst lock mean us | yields/s ipi |     lock |   halt |\n";
    out += "|-----------------|-------------|------------------|------------------|--------------------|--------------|----------|--------|\n";
    for r in &results.rows {
        let y = |f: fn(&Yields) -> Option<Stat>| {
            r.yields.as_ref().and_then(f).map_or("-".to_owned(), |s| format!("{:.0}", s.mean))
        };
        let us = |l: &Option<Latency>| l.as_ref().map_or("-".to_owned(), |t| format!("{:.1}", t.mean.mean));
        out += &format!(
            "| {:<15} | {:>11} | {:>16} | {:>16} | {:>18} | {:>12} | {:>8} | {:>6} |\n",
            r.name,
            ratio(time(r), base.and_then(time)),
            ratio(other(r), base.and_then(other)),
            us(&r.tlb_sync_us),
            us(&r.lock_wait_us),
            y(|y| y.ipi),
            y(|y| y.lock),
            y(|y| y.halt),
        );
    }
    out
}
