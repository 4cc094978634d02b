// SPDX-License-Identifier: GPL-3.0-only
//! A policy against the host: what has to change. Planning only reads. Each change is one hypercall, can be shown, done
//! and undone; [`apply`] does all or, if one fails, undoes those before it.

use super::{DomainRule, Kernel, Policy, PoolRule};
use crate::cli::Slide;
use crate::hyper::safe::Xen;
use crate::hyper::safe::error::{Cause, Error, Object, Op};
use crate::hyper::safe::types::{
    Action, Domain, Kind, Policy as Actions, Pool, Range, Schedule, Share, Sizing,
};
use crate::kernels::Kernels;
use crate::libxl::{self, Start};
use crate::slide::slide;
use crate::units;
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// One hypercall.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A cpupool's parameters.
    Pool {
        /// As it is.
        pool: Box<Pool>,
        /// As it is to be.
        wanted: Box<Schedule>,
    },
    /// A domain's weight and cap.
    Share {
        /// Whose.
        domain: Domain,
        /// As they are.
        old: Share,
        /// As they are to be.
        new: Share,
    },
    /// A domain's row.
    Row {
        /// Whose.
        domain: Domain,
        /// As it is.
        old: Actions,
        /// As it is to be.
        new: Actions,
    },
    /// A domain's ranges.
    Ranges(Table),
}

/// A domain's ranges as they are and as they are to be, which may be the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Whose.
    pub domain: Domain,
    /// Those in force.
    pub old: Vec<Range>,
    /// Those to come.
    pub new: Vec<Range>,
    /// Where they are from.
    pub file: PathBuf,
    /// How far they were moved.
    pub slide: i64,
}

/// What a change does to one thing, for people and JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// "cpupool 'Pool-0' (id 0)".
    pub object: String,
    /// "slice".
    pub what: &'static str,
    /// As it is.
    pub from: String,
    /// As it is to be.
    pub to: String,
}

impl Change {
    /// What it does, thing by thing.
    pub fn lines(&self) -> Vec<Line> {
        let (object, things) = match self {
            Change::Pool { pool, wanted } => (
                Object::Pool(pool.id, pool.name.clone()),
                pool.schedule.as_ref().map_or(vec![], |old| pool_lines(old, wanted)),
            ),
            Change::Share { domain, old, new } => (
                domain.object(),
                vec![
                    ("weight", old.weight.to_string(), new.weight.to_string()),
                    ("cap", old.cap.to_string(), new.cap.to_string()),
                ],
            ),
            Change::Row { domain, old, new } => (domain.object(), row_lines(*old, *new)),
            Change::Ranges(Table { domain, old, new, file, slide }) => {
                let to = format!("{} of {}, slide {slide:#x}", new.len(), file.display());
                let from = if old.is_empty() { "0".to_owned() } else { format!("{} others", old.len()) };
                (domain.object(), vec![("ranges", from, to)])
            }
        };
        let object = object.to_string().trim_start().to_owned();
        let differ = things.into_iter().filter(|(_, from, to)| from != to);
        differ.map(|(what, from, to)| Line { object: object.clone(), what, from, to }).collect()
    }

    fn set(&self, xen: &Xen, back: bool) -> Result<(), Error> {
        match self {
            Change::Pool { pool, wanted } if back => {
                let now = Pool { schedule: Some((**wanted).clone()), ..(**pool).clone() };
                pool.schedule.as_ref().map_or(Ok(()), |old| xen.set_pool(&now, old).map(drop))
            }
            Change::Pool { pool, wanted } => xen.set_pool(pool, wanted).map(drop),
            Change::Share { domain, old, new } => xen.set_share(domain, if back { *old } else { *new }),
            Change::Row { domain, old, new } => xen.set_policy(domain, if back { *old } else { *new }),
            Change::Ranges(Table { domain, old, new, .. }) => {
                xen.push_ranges(domain, if back { old } else { new }).map(drop)
            }
        }
    }
}

fn row_lines(old: Actions, new: Actions) -> Vec<(&'static str, String, String)> {
    let name = |action: Action| format!("{action:?}").to_lowercase();
    let line = |what, old, new| (what, name(old), name(new));
    vec![
        line("ipi-wait", old.ipi_wait, new.ipi_wait),
        line("lock-wait", old.lock_wait, new.lock_wait),
        line("event", old.event, new.event),
        line("preemption", old.preemption, new.preemption),
    ]
}

fn pool_lines(old: &Schedule, new: &Schedule) -> Vec<(&'static str, String, String)> {
    let sizing = |s: &Schedule| match s.sizing {
        Sizing::Static => "static".to_owned(),
        Sizing::Paper => format!("paper, {} to {}", s.min_micro, s.max_micro),
        Sizing::Adaptive => format!("adaptive, {} to {}", s.min_micro, s.max_micro),
    };
    vec![
        ("slice", units::us(old.slice_us), units::us(new.slice_us)),
        ("micro-slice", units::us(old.micro_slice_us), units::us(new.micro_slice_us)),
        ("grace", units::us(old.grace_us), units::us(new.grace_us)),
        ("reserve", old.reserve.to_string(), new.reserve.to_string()),
        ("sizing", sizing(old), sizing(new)),
        ("micro-cores", old.nr_micro.to_string(), new.nr_micro.to_string()),
    ]
}

/// Does all of them, or undoes what it did and says which failed.
pub fn apply(xen: &Xen, changes: &[Change]) -> Result<()> {
    for (done, change) in changes.iter().enumerate() {
        let Err(error) = change.set(xen, false) else { continue };
        let undone = changes.iter().take(done).rev().map(|earlier| earlier.set(xen, true));
        let stuck: Vec<String> = undone.filter_map(|result| Some(result.err()?.to_string())).collect();
        if stuck.is_empty() {
            return Err(error).context("nothing is changed");
        }
        return Err(error)
            .context(format!("and undoing what was changed before failed, too: {}", stuck.join("; ")));
    }
    Ok(())
}

/// What a rule wants of a cpupool.
pub fn pool(rule: &PoolRule, pool: &Pool) -> Result<Option<Change>, Error> {
    let object = || Object::Pool(pool.id, pool.name.clone());
    let Some(old) = &pool.schedule else {
        return Err(Error {
            op: Op::SetPool,
            object: object(),
            cause: Cause::OtherScheduler(pool.scheduler.clone()),
        });
    };
    let sizing = rule.sizing.as_ref();
    let wanted = Schedule {
        slice_us: rule.slice.unwrap_or(old.slice_us),
        micro_slice_us: rule.micro_slice.unwrap_or(old.micro_slice_us),
        grace_us: rule.grace.unwrap_or(old.grace_us),
        reserve: rule.reserve.unwrap_or(old.reserve),
        nr_micro: rule.micro_cores.unwrap_or(old.nr_micro),
        // As `pool resize` does: a number of micro cores ends automatic sizing.
        sizing: match (sizing, rule.micro_cores) {
            (Some(sizing), _) => sizing.mode,
            (None, Some(_)) => Sizing::Static,
            (None, None) => old.sizing,
        },
        min_micro: sizing.and_then(|s| s.min).unwrap_or(old.min_micro),
        max_micro: sizing.and_then(|s| s.max).unwrap_or(old.max_micro),
        ..old.clone()
    };
    let differs = pool_lines(old, &wanted).iter().any(|(_, from, to)| from != to);
    Ok(differs.then(|| Change::Pool { pool: Box::new(pool.clone()), wanted: Box::new(wanted) }))
}

/// What a rule wants of a domain's share and row.
pub fn settings(rule: &DomainRule, domain: &Domain, share: Share, row: Actions) -> Vec<Change> {
    let new = Share { weight: rule.weight.unwrap_or(share.weight), cap: rule.cap.unwrap_or(share.cap) };
    let share = (new != share).then(|| Change::Share { domain: domain.clone(), old: share, new });
    let actions = rule.actions(row).filter(|new| *new != row);
    let row = actions.map(|new| Change::Row { domain: domain.clone(), old: row, new });
    share.into_iter().chain(row).collect()
}

/// What a rule says about a domain's ranges.
#[derive(Debug, PartialEq)]
pub enum Ranges {
    /// None are asked for.
    Untouched,
    /// libxl has not written its record yet.
    NoRecord,
    /// It is not known which kernel it runs.
    UnknownKernel,
    /// Its kernel has not set MSR_LSTAR yet.
    NotBooted,
    /// It is known.
    Known(Table),
}

impl Ranges {
    /// Why there are none, for people.
    pub fn why(&self) -> &'static str {
        match self {
            Ranges::Known(_) => "",
            Ranges::Untouched => "none are asked for",
            Ranges::NoRecord => "libxl has no record of it yet",
            Ranges::UnknownKernel => {
                "its kernel comes from its own disk: name a copy of it as `kernel` in the policy file"
            }
            Ranges::NotBooted => "its kernel has not booted yet",
        }
    }
}

/// Finds a domain's kernel and slide, and compares.
pub fn ranges(xen: &Xen, kernels: &mut Kernels, rule: &DomainRule, domain: &Domain) -> Result<Ranges> {
    let file = match &rule.kernel {
        Kernel::None => return Ok(Ranges::Untouched),
        Kernel::File(file) => file.clone(),
        // dom0 was not started by libxl.
        Kernel::Auto if domain.id == 0 => return Ok(Ranges::Untouched),
        Kernel::Auto => match libxl::start_of(Path::new(libxl::DIR), domain.id)? {
            Start::Kernel(file) => file,
            Start::Inside => return Ok(Ranges::UnknownKernel),
            Start::NoRecord => return Ok(Ranges::NoRecord),
        },
    };
    if domain.kind == Kind::Hvm && xen.lstar(domain)? == 0 {
        return Ok(Ranges::NotBooted);
    }
    let kernel = kernels.get(&file, rule.catalog.as_deref())?;
    let slide =
        slide(xen, domain, &kernel, Slide::Auto).with_context(|| format!("kernel {}", file.display()))?;
    let (old, new) = (xen.ranges(domain)?, kernel.plain(slide)?);
    Ok(Ranges::Known(Table { domain: domain.clone(), old, new, file, slide }))
}

/// A domain whose ranges cannot be given yet, and why.
pub type Later = (Domain, &'static str);

/// All that a policy changes on this host, and what has to wait.
pub fn all(xen: &Xen, policy: &Policy) -> Result<(Vec<Change>, Vec<Later>)> {
    let pools = xen.pools()?;
    let (mut changes, mut later) = (Vec::new(), Vec::new());
    for (name, rule) in &policy.pools {
        let found = pools.iter().find(|pool| pool.name == *name);
        let found = found.ok_or_else(|| Error {
            op: Op::LookUp,
            object: Object::PoolNamed(name.clone()),
            cause: Cause::Unknown,
        })?;
        changes.extend(pool(rule, found)?);
    }
    let mut kernels = Kernels::default();
    for domain in xen.domains()?.into_iter().filter(|domain| !domain.dying) {
        let scheduled = pools.iter().any(|pool| pool.id == domain.pool && pool.schedule.is_some());
        let Some(rule) = domain.name.as_deref().and_then(|name| policy.domain(name)).filter(|_| scheduled)
        else {
            continue;
        };
        changes.extend(settings(rule, &domain, xen.share(&domain)?, xen.policy(&domain)?));
        match ranges(xen, &mut kernels, rule, &domain)? {
            Ranges::Untouched => {}
            Ranges::Known(table) => {
                changes.extend(Some(Change::Ranges(table)).filter(Change::changes));
            }
            unknown => later.push((domain, unknown.why())),
        }
    }
    Ok((changes, later))
}

impl Change {
    /// Whether it changes anything.
    pub fn changes(&self) -> bool {
        match self {
            Change::Ranges(table) => table.old != table.new,
            _ => !self.lines().is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::pool::tests::sample;
    use crate::hyper::safe::types::Row;

    fn domain() -> Domain {
        Domain::web()
    }

    fn policy(text: &str) -> Policy {
        Policy::parse("p", &format!("microslice-policy: 1\n{text}\n")).unwrap()
    }

    fn shown(changes: &[Change]) -> Vec<String> {
        let lines = changes.iter().flat_map(Change::lines);
        lines.map(|line| format!("{}: {} {} -> {}", line.object, line.what, line.from, line.to)).collect()
    }

    #[test]
    fn a_pool_gets_what_the_file_says_and_keeps_the_rest() {
        let now = sample(0, "Pool-0", Some(1));
        let change = |text: &str| pool(policy(text).pools.values().next().unwrap(), &now).unwrap();
        assert_eq!(change("pools: {Pool-0: {slice: 30ms, micro-cores: 1}}"), None, "as it is");
        let some = change("pools: {Pool-0: {slice: 20ms, reserve: true, sizing: {mode: adaptive, max: 2}}}")
            .unwrap();
        assert_eq!(
            shown(&[some]),
            [
                "cpupool 'Pool-0' (id 0): slice 30ms -> 20ms",
                "cpupool 'Pool-0' (id 0): reserve false -> true",
                "cpupool 'Pool-0' (id 0): sizing static -> adaptive, 0 to 2"
            ]
        );
        let other = pool(&PoolRule::default(), &sample(1, "c", None)).unwrap_err().to_string();
        assert!(other.contains("'credit2', not 'microslice'"), "{other}");
    }

    #[test]
    fn a_domain_is_not_touched_where_it_is_as_wanted() {
        let (share, row) = (Share { weight: 256, cap: 0 }, Row::Paper.policy());
        let of = |text: &str| {
            let policy = policy(text);
            settings(policy.domain("web").unwrap(), &domain(), share, row)
        };
        assert_eq!(of("domains: [{name: web}]"), []);
        assert_eq!(of("domains: [{name: web, weight: 256, cap: 0, policy: paper}]"), []);
        assert_eq!(
            shown(&of("domains: [{name: 'w*', weight: 512, policy: grace}]")),
            [
                "domain 'web' (id 3): weight 256 -> 512",
                "domain 'web' (id 3): ipi-wait micro -> borrow",
                "domain 'web' (id 3): lock-wait micro -> borrow",
                "domain 'web' (id 3): event micro -> borrow",
                "domain 'web' (id 3): preemption none -> grace"
            ]
        );
    }

    #[test]
    fn ranges_change_when_an_address_does() {
        let at = |start| vec![Range { start, end: start + 8, class: 1 }];
        let change = |old, new| {
            Change::Ranges(Table { domain: domain(), old, new, file: "/k".into(), slide: 0x20_0000 })
        };
        assert!(!change(at(16), at(16)).changes());
        assert!(change(at(16), at(32)).changes());
        assert_eq!(
            shown(&[change(vec![], at(16))]),
            ["domain 'web' (id 3): ranges 0 -> 1 of /k, slide 0x200000"]
        );
    }
}
