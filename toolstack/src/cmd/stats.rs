// SPDX-License-Identifier: GPL-3.0-only
//! `microslice stats`: counters of the cpupools under microslice and of the domains in them.

use super::domain::View;
use crate::hyper::safe::Xen;
use crate::hyper::safe::error::Op;
use crate::hyper::safe::types::Pool;
use crate::out::{Column, json, table};
use crate::units;
use anyhow::Result;
use serde::Serialize;

const POOLS: [Column; 7] = [
    ("Cpupool", 18),
    ("Micro", 5),
    ("CPUs", 4),
    ("Micro-runs", 10),
    ("Micro-time", 10),
    ("Longest-stay", 12),
    ("Rejected", 8),
];
const EVENTS: [Column; 9] = [
    ("Name", 20),
    ("ID", 4),
    ("Yield-IPI", 9),
    ("Lock", 8),
    ("Other", 8),
    ("Kept", 8),
    ("Kicked", 8),
    ("Preempted", 9),
    ("Critical", 8),
];
const OUTCOMES: [Column; 15] = [
    ("Name", 20),
    ("ID", 4),
    ("Accel-IPI", 9),
    ("Lock", 8),
    ("IRQ", 8),
    ("Preempt", 7),
    ("Grace", 6),
    ("No-affinity", 11),
    ("Limit", 6),
    ("Full", 8),
    ("Lent", 8),
    ("Borrowed", 8),
    ("Micro-runs", 10),
    ("Micro-time", 10),
    ("Run-time", 8),
];

#[derive(Serialize)]
struct All {
    pools: Vec<Pool>,
    domains: Vec<View>,
}

/// Runs the command.
pub fn run(domain: Option<&str>, as_json: bool) -> Result<String> {
    let xen = Xen::open()?;
    let mut pools = xen.pools()?;
    let domains = match domain {
        Some(text) => {
            let domain = xen.find_domain(text)?;
            xen.require_microslice(Op::ReadStats, &domain)?;
            pools.retain(|p| p.id == domain.pool);
            vec![View::read(&xen, &pools, &domain)?]
        }
        None => View::all(&xen, &pools)?,
    };
    pools.retain(|p| p.schedule.is_some());
    let domains = domains.into_iter().filter(|v| v.scheduled.is_some()).collect();
    let all = All { pools, domains };
    if as_json { json(&all) } else { Ok(tables(&all)) }
}

fn tables(all: &All) -> String {
    if all.pools.is_empty() {
        return "No cpupool is under microslice.\n".to_owned();
    }
    let pools: Vec<Vec<String>> = all.pools.iter().filter_map(pool_row).collect();
    let (mut events, mut outcomes) = (Vec::new(), Vec::new());
    for view in &all.domains {
        let Some(s) = view.scheduled.as_ref().map(|s| s.stats) else { continue };
        let row = |cells: &[String]| {
            [view.display_name(), view.domid.to_string()].iter().chain(cells).cloned().collect()
        };
        events.push(row(&[
            s.yields_ipi.to_string(),
            s.yields_lock.to_string(),
            s.yields_other.to_string(),
            s.yields_kept.to_string(),
            s.kicks_preempted.to_string(),
            s.preempted.to_string(),
            s.preempted_critical.to_string(),
        ]));
        outcomes.push(row(&[
            s.accel_ipi.to_string(),
            s.accel_lock.to_string(),
            s.accel_irq.to_string(),
            s.accel_preempt.to_string(),
            s.graces.to_string(),
            s.refused_affinity.to_string(),
            s.refused_limit.to_string(),
            s.refused_full.to_string(),
            s.lent_runs.to_string(),
            s.borrow_runs.to_string(),
            s.micro_runs.to_string(),
            units::ns(s.micro_ns),
            units::ns(s.run_ns),
        ]));
    }
    [table(&POOLS, &pools), table(&EVENTS, &events), table(&OUTCOMES, &outcomes)].join("\n")
}

fn pool_row(pool: &Pool) -> Option<Vec<String>> {
    let s = pool.schedule.as_ref()?;
    Some(vec![
        pool.name.clone(),
        s.cur_micro.to_string(),
        s.nr_cpus.to_string(),
        s.micro_runs.to_string(),
        units::ns(s.micro_ns),
        units::ns(s.micro_stay_max_ns),
        s.rejected.to_string(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::{domain, pool};

    fn all() -> All {
        All {
            pools: vec![pool::tests::sample(0, "Pool-0", Some(1))],
            domains: vec![domain::tests::sample(3, Some("web"), true)],
        }
    }

    #[test]
    fn columns_of_stats() {
        insta::assert_snapshot!(tables(&all()), @r"
        Cpupool            Micro CPUs Micro-runs Micro-time Longest-stay Rejected
        Pool-0                 1    4       1200     98.8ms        100us        0

        Name                   ID Yield-IPI     Lock    Other     Kept   Kicked Preempted Critical
        web                     3       120       34        5       99       77      1000       42

        Name                   ID Accel-IPI     Lock      IRQ Preempt  Grace No-affinity  Limit     Full     Lent Borrowed Micro-runs Micro-time Run-time
        web                     3       110       20        7       8      9           1      2        3       60       50        137     9.88ms    12.0s
        ");
    }

    /// The lab reads these keys: they are the interface's own names.
    #[test]
    fn json_of_stats_has_every_counter_by_its_name() {
        let value = serde_json::to_value(all()).unwrap();
        let keys =
            |part: &str| -> Vec<String> { value[part][0].as_object().unwrap().keys().cloned().collect() };
        let mut pool = keys("pools");
        pool.sort();
        let mut expected = vec![
            "id",
            "name",
            "scheduler",
            "cpus",
            "domains",
            "slice_us",
            "micro_slice_us",
            "ratelimit_us",
            "grace_us",
            "nr_micro",
            "reserve",
            "sizing",
            "min_micro",
            "max_micro",
            "cur_micro",
            "nr_cpus",
            "nr_groups",
            "micro_cpus",
            "micro_runs",
            "micro_ns",
            "micro_stay_max_ns",
            "moves",
            "reached",
            "rejected",
        ];
        expected.sort_unstable();
        assert_eq!(pool, expected);
        let mut domain = keys("domains");
        domain.sort();
        let mut expected = vec![
            "domid",
            "name",
            "type",
            "vcpus",
            "cpu_ns",
            "pool",
            "weight",
            "cap",
            "policy",
            "yields_ipi",
            "yields_lock",
            "yields_other",
            "yields_kept",
            "kicks_preempted",
            "preempted",
            "preempted_critical",
            "accel_ipi",
            "accel_lock",
            "accel_irq",
            "accel_preempt",
            "graces",
            "refused_affinity",
            "refused_limit",
            "refused_full",
            "lent_runs",
            "borrow_runs",
            "micro_runs",
            "micro_ns",
            "run_ns",
            "ranges",
            "generation",
        ];
        expected.sort_unstable();
        assert_eq!(domain, expected);
        assert_eq!(value["domains"][0]["refused_full"], 3);
    }
}
