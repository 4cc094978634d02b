// SPDX-License-Identifier: GPL-3.0-only
//! The rows of a scenario's table. eurosys-N is the paper's own system, micro cores on top of credit of 4.7. Under our core names are
//! the lab's: paper-N has reserved micro cores, microslice-N working ones.

use microslice_sim::run::{Row, Sizing};
use microslice_sim::{Kind, Scenario, SchedSpec};

/// The row that the paper's figures are relative to.
pub const BASELINE: &str = "credit-4.7";

/// The row of the paper's own system with `n` micro cores, or "dynamic".
pub fn peer(n: &str) -> String {
    format!("eurosys-{n}")
}

/// A row.
pub struct Spec {
    /// Short and unique.
    pub name: String,
    /// Beside the co-runners.
    pub consolidated: bool,
    /// Scheduler.
    pub sched: SchedSpec,
}

/// All rows of a scenario.
pub fn rows(scenario: &Scenario) -> Vec<Spec> {
    let spec = |name: &str, sched| Spec { name: name.to_owned(), consolidated: true, sched };
    let stock = |kind| SchedSpec::new(kind, None);
    let own = |n| SchedSpec::new(Kind::Microslice, Some(n));
    let most = u32::from(scenario.pcpus) - 1;
    let mut rows = vec![
        Spec { consolidated: false, ..spec("alone", stock(Kind::Credit47)) },
        spec(BASELINE, stock(Kind::Credit47)),
        spec("credit", stock(Kind::Credit)),
        spec("credit2", stock(Kind::Credit2)),
    ];
    // Micro cores are the last pCPUs. A VM that is pinned to others would gain a pCPU for normal work wherever they are not reserved.
    let elsewhere = |cpus: &Vec<u8>| !cpus.contains(&(scenario.pcpus - 1));
    let pinned = scenario.vms.iter().any(|vm| vm.cpus.as_ref().is_some_and(elsewhere));
    let static_rows = match scenario.paper {
        Some(_) if !pinned => 6u32.min(most),
        _ => 1,
    };
    // Its results for I/O need what its published code has not.
    let relay = scenario.vms.iter().any(|vm| vm.flow.is_some());
    let eurosys = |n| SchedSpec { relay, ..SchedSpec::eurosys(n) };
    rows.extend((1..=static_rows).map(|n| spec(&peer(&n.to_string()), eurosys(n))));
    rows.extend((1..=static_rows).map(|n| spec(&format!("paper-{n}"), SchedSpec::paper(n))));
    rows.push(spec("borrow", SchedSpec { policy: Row::Borrow, ..own(0) }));
    rows.push(spec("grace", SchedSpec { policy: Row::Grace, ..own(0) }));
    if pinned {
        rows.push(spec("microslice-0", own(0)));
        return rows;
    }
    rows.push(spec(&peer("dynamic"), SchedSpec { sizing: Sizing::Paper, ..eurosys(0) }));
    rows.push(spec("paper-dynamic", SchedSpec { sizing: Sizing::Paper, ..SchedSpec::paper(0) }));
    rows.extend((0..=3u32.min(most)).map(|n| spec(&format!("microslice-{n}"), own(n))));
    rows.push(spec("eager-1", SchedSpec { policy: Row::Eager, ..own(1) }));
    rows.push(spec("adaptive", SchedSpec { sizing: Sizing::Adaptive, ..own(0) }));
    rows
}

/// Rows that are the paper's or older.
pub fn not_ours(name: &str) -> bool {
    ["alone", "credit", "paper-", "eurosys-"].iter().any(|old| name.starts_with(old))
}
