// SPDX-License-Identifier: GPL-3.0-only
//! `microslice domain`.

use crate::cli;
use crate::hyper::safe::Xen;
use crate::hyper::safe::error::Op;
use crate::hyper::safe::types::{Domain, Kind, Policy, Pool, Range, Row, Share, Stats};
use crate::out::{Column, json, or_dash, table};
use anyhow::{Context, Result};
use microslice_symtab::Class;
use serde::Serialize;
use std::collections::BTreeMap;

const COLUMNS: [Column; 8] = [
    ("Name", 33),
    ("ID", 4),
    ("VCPUs", 5),
    ("Weight", 6),
    ("Cap", 4),
    ("Ranges", 6),
    ("Gen", 5),
    ("Cpupool", 10),
];

/// A domain with all that the scheduler knows about it; `scheduled` is none under another scheduler.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    pub domid: u32,
    pub name: Option<String>,
    #[serde(rename = "type")]
    pub kind: Kind,
    pub vcpus: u32,
    pub cpu_ns: u64,
    pub pool: String,
    #[serde(flatten)]
    pub scheduled: Option<Scheduled>,
}

/// Share and counters.
#[derive(Clone, Debug, Serialize)]
pub struct Scheduled {
    #[serde(flatten)]
    pub share: Share,
    pub policy: Policy,
    #[serde(flatten)]
    pub stats: Stats,
}

/// A range in force, for JSON.
#[derive(Serialize)]
struct RangeView {
    start: String,
    end: String,
    class: String,
}

#[derive(Serialize)]
struct ShowView<'a> {
    #[serde(flatten)]
    view: &'a View,
    ranges_by_class: BTreeMap<String, usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<Vec<RangeView>>,
}

impl View {
    /// Reads it. A domain that goes away meanwhile is an error.
    pub fn read(xen: &Xen, pools: &[Pool], domain: &Domain) -> Result<View> {
        let pool = pools.iter().find(|p| p.id == domain.pool);
        let scheduled = match pool {
            Some(Pool { schedule: Some(_), .. }) => {
                let (share, policy) = (xen.share(domain)?, xen.policy(domain)?);
                Some(Scheduled { share, policy, stats: xen.stats(domain)? })
            }
            _ => None,
        };
        Ok(View {
            domid: domain.id,
            name: domain.name.clone(),
            kind: domain.kind,
            vcpus: domain.vcpus,
            cpu_ns: domain.cpu_ns,
            pool: pool.map_or_else(|| format!("Pool-{}", domain.pool), |p| p.name.clone()),
            scheduled,
        })
    }

    /// Reads all domains; one that is being destroyed is left out.
    pub fn all(xen: &Xen, pools: &[Pool]) -> Result<Vec<View>> {
        let mut views = Vec::new();
        for domain in xen.domains()?.iter().filter(|d| !d.dying) {
            match View::read(xen, pools, domain) {
                Ok(view) => views.push(view),
                Err(e) if xen.domains()?.iter().any(|d| d.id == domain.id && !d.dying) => return Err(e),
                Err(_) => {}
            }
        }
        Ok(views)
    }

    /// The name, or what `xl` prints without one.
    pub fn display_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| "(null)".to_owned())
    }
}

/// Runs a command of the group.
pub fn run(command: &cli::Domain, as_json: bool) -> Result<String> {
    let xen = Xen::open()?;
    match command {
        cli::Domain::List => {
            let views = View::all(&xen, &xen.pools()?)?;
            if as_json { json(&views) } else { Ok(list(&views)) }
        }
        cli::Domain::Show { domain, ranges } => {
            let domain = xen.find_domain(domain)?;
            let view = View::read(&xen, &xen.pools()?, &domain)?;
            let table = if view.scheduled.is_some() { xen.ranges(&domain)? } else { Vec::new() };
            show(&view, &table, *ranges, as_json)
        }
        cli::Domain::Set { domain, weight, cap, policy } => {
            let domain = xen.find_domain(domain)?;
            xen.require_microslice(Op::SetDomain, &domain)?;
            let old = xen.share(&domain)?;
            let share = Share { weight: weight.unwrap_or(old.weight), cap: cap.unwrap_or(old.cap) };
            if share != old {
                xen.set_share(&domain, share)?;
            }
            if let Some(row) = policy
                && let Err(error) = xen.set_policy(&domain, row.policy())
            {
                xen.set_share(&domain, old).with_context(|| format!("undo what came before: {error}"))?;
                return Err(error.into());
            }
            if as_json { json(&View::read(&xen, &xen.pools()?, &domain)?) } else { Ok(String::new()) }
        }
        cli::Domain::Policy(args) => {
            let domain = xen.find_domain(&args.domain)?;
            xen.require_microslice(Op::SetDomain, &domain)?;
            xen.set_policy(&domain, args.apply(xen.policy(&domain)?))?;
            if as_json { json(&View::read(&xen, &xen.pools()?, &domain)?) } else { Ok(String::new()) }
        }
    }
}

impl cli::PolicyArgs {
    /// The row named, if any, with the actions named in its stead.
    fn apply(&self, old: Policy) -> Policy {
        let row = self.row.map_or(old, Row::policy);
        Policy {
            ipi_wait: self.ipi_wait.unwrap_or(row.ipi_wait),
            lock_wait: self.lock_wait.unwrap_or(row.lock_wait),
            event: self.event.unwrap_or(row.event),
            preemption: self.preemption.unwrap_or(row.preemption),
        }
    }
}

fn list(views: &[View]) -> String {
    let row = |view: &View| {
        let s = view.scheduled.as_ref();
        vec![
            view.display_name(),
            view.domid.to_string(),
            view.vcpus.to_string(),
            or_dash(s.map(|s| s.share.weight)),
            or_dash(s.map(|s| s.share.cap)),
            or_dash(s.map(|s| s.stats.ranges)),
            or_dash(s.map(|s| s.stats.generation)),
            view.pool.clone(),
        ]
    };
    table(&COLUMNS, &views.iter().map(row).collect::<Vec<_>>())
}

fn class_name(class: u32) -> String {
    Class::from_number(class).map_or_else(|| format!("unknown-{class}"), |c| c.name().to_owned())
}

fn show(view: &View, ranges: &[Range], with_ranges: bool, as_json: bool) -> Result<String> {
    let mut by_class = BTreeMap::new();
    for range in ranges {
        *by_class.entry(class_name(range.class)).or_insert(0) += 1;
    }
    if as_json {
        let view_of = |r: &Range| RangeView {
            start: format!("{:#x}", r.start),
            end: format!("{:#x}", r.end),
            class: class_name(r.class),
        };
        let table = with_ranges.then(|| ranges.iter().map(view_of).collect());
        return json(&ShowView { view, ranges_by_class: by_class, table });
    }
    // The keys and order of the JSON, a line each; what is null has no line.
    let serde_json::Value::Object(fields) = serde_json::to_value(view)? else { return Ok(String::new()) };
    let mut text = String::new();
    for (key, value) in fields {
        let value = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::Object(row) => {
                let cell = |(source, action): (&String, &serde_json::Value)| {
                    format!("{source}={}", action.as_str().unwrap_or_default())
                };
                row.iter().map(cell).collect::<Vec<_>>().join(" ")
            }
            serde_json::Value::String(s) => s,
            other => other.to_string(),
        };
        text += &format!("{key:<23}: {value}\n");
    }
    for (class, count) in &by_class {
        text += &format!("{:<23}: {count}\n", format!("ranges {class}"));
    }
    if with_ranges {
        let row =
            |r: &Range| vec![format!("{:#018x}", r.start), format!("{:#018x}", r.end), class_name(r.class)];
        let rows: Vec<_> = ranges.iter().map(row).collect();
        text += &table(&[("Start", 18), ("End", 18), ("Class", 10)], &rows);
    }
    Ok(text)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::hyper::safe::types::Action;

    pub fn sample(domid: u32, name: Option<&str>, scheduled: bool) -> View {
        let stats = Stats {
            yields_ipi: 120,
            yields_lock: 34,
            yields_other: 5,
            yields_kept: 99,
            kicks_preempted: 77,
            preempted: 1_000,
            preempted_critical: 42,
            accel_ipi: 110,
            accel_lock: 20,
            accel_irq: 7,
            accel_preempt: 8,
            graces: 9,
            refused_affinity: 1,
            refused_limit: 2,
            refused_full: 3,
            lent_runs: 60,
            borrow_runs: 50,
            micro_runs: 137,
            micro_ns: 9_876_543,
            run_ns: 12_000_000_000,
            ranges: 812,
            generation: 2,
        };
        let scheduled = scheduled.then_some(Scheduled {
            share: Share { weight: 256, cap: 0 },
            policy: Policy::row(Action::Micro, Action::None),
            stats,
        });
        let pool = "Pool-0".to_owned();
        View {
            domid,
            name: name.map(Into::into),
            kind: Kind::Hvm,
            vcpus: 4,
            cpu_ns: 13_000_000_000,
            pool,
            scheduled,
        }
    }

    #[test]
    fn columns_of_domain_list() {
        insta::assert_snapshot!(list(&[sample(0, Some("Domain-0"), true), sample(3, None, false)]), @r"
        Name                                ID VCPUs Weight  Cap Ranges   Gen    Cpupool
        Domain-0                             0     4    256    0    812     2     Pool-0
        (null)                               3     4      -    -      -     -     Pool-0
        ");
    }

    #[test]
    fn a_policy_row_and_single_actions_go_together() {
        let args = cli::PolicyArgs {
            domain: "web".into(),
            row: Some(Row::Borrow),
            ipi_wait: None,
            lock_wait: None,
            event: Some(Action::None),
            preemption: None,
        };
        let row = args.apply(Policy::row(Action::Front, Action::Grace));
        assert_eq!(row, Policy { event: Action::None, ..Policy::row(Action::Borrow, Action::None) });
        let args = cli::PolicyArgs { row: None, ..args };
        let old = Policy::row(Action::Front, Action::Grace);
        assert_eq!(args.apply(old), Policy { event: Action::None, ..old });
    }

    #[test]
    fn lines_of_domain_show() {
        let ranges = [Range { start: 0xffff_ffff_8100_0000, end: 0xffff_ffff_8100_0040, class: 1 }];
        let text = show(&sample(3, Some("web"), true), &ranges, true, false).unwrap();
        assert!(text.contains("accel_ipi              : 110\n"), "{text}");
        assert!(
            text.contains(
                "policy                 : event=micro ipi_wait=micro lock_wait=micro preemption=none\n"
            ),
            "{text}"
        );
        assert!(text.contains("ranges lock-wait       : 1\n"), "{text}");
        assert!(text.ends_with("0xffffffff81000000 0xffffffff81000040  lock-wait\n"), "{text}");
    }
}
