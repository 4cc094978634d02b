// SPDX-License-Identifier: GPL-3.0-only
//! `microslice policy`.

use crate::cli;
use crate::hyper::safe::Xen;
use crate::hyper::safe::types::{Action, Domain, Policy as Actions, Pool, Sizing};
use crate::out::{json, write_whole};
use crate::policy::Policy;
use crate::policy::plan::{self, Change, Line};
use crate::units;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Runs a command of the group.
pub fn run(command: &cli::Policy, as_json: bool) -> Result<String> {
    match command {
        cli::Policy::Check { file } => {
            Policy::load(file)?;
            if as_json {
                json(&serde_json::json!({ "file": file, "valid": true }))
            } else {
                Ok(String::new())
            }
        }
        cli::Policy::Apply { file, dry_run } => apply(file, *dry_run, as_json),
        cli::Policy::Dump { file } => dump(file.as_deref(), as_json),
    }
}

/// What an apply did or would do, in JSON.
#[derive(Serialize)]
struct Applied {
    applied: bool,
    changes: Vec<Line>,
    later: Vec<Later>,
}

/// A domain whose ranges cannot be given yet.
#[derive(Serialize)]
struct Later {
    domid: u32,
    name: Option<String>,
    why: &'static str,
}

fn apply(file: &Path, dry_run: bool, as_json: bool) -> Result<String> {
    let policy = Policy::load(file)?;
    let apply = || format!("apply policy {}", file.display());
    let xen = Xen::open()?;
    let (changes, later) = plan::all(&xen, &policy).with_context(apply)?;
    if !dry_run {
        plan::apply(&xen, &changes).with_context(apply)?;
    }
    let lines: Vec<Line> = changes.iter().flat_map(Change::lines).collect();
    if as_json {
        let view = |(domain, why): (Domain, _)| Later { domid: domain.id, name: domain.name, why };
        let later = later.into_iter().map(view).collect();
        return json(&Applied { applied: !dry_run, changes: lines, later });
    }
    Ok(diff(&lines, &later))
}

fn diff(lines: &[Line], later: &[(Domain, &'static str)]) -> String {
    let mut text = String::new();
    for line in lines {
        text += &format!("{}: {} {} -> {}\n", line.object, line.what, line.from, line.to);
    }
    for (domain, why) in later {
        text += &format!("{}: ranges later: {why}\n", domain.object().to_string().trim_start());
    }
    text
}

/// The file's form, for writing.
#[derive(Serialize)]
struct Dump {
    #[serde(rename = "microslice-policy")]
    format: u32,
    pools: BTreeMap<String, PoolDump>,
    domains: Vec<DomainDump>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct PoolDump {
    slice: String,
    micro_slice: String,
    grace: String,
    reserve: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    micro_cores: Option<u32>,
    sizing: SizingDump,
}

#[derive(Serialize)]
struct SizingDump {
    mode: Sizing,
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<u32>,
}

#[derive(Serialize)]
struct DomainDump {
    name: String,
    actions: ActionsDump,
    weight: u16,
    cap: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ActionsDump {
    ipi_wait: Action,
    lock_wait: Action,
    event: Action,
    preemption: Action,
}

fn dump(file: Option<&Path>, as_json: bool) -> Result<String> {
    let xen = Xen::open()?;
    let pools: Vec<Pool> = xen.pools()?.into_iter().filter(|pool| pool.schedule.is_some()).collect();
    let mut domains = Vec::new();
    for domain in xen.domains()?.into_iter().filter(|d| !d.dying && pools.iter().any(|p| p.id == d.pool)) {
        let Some(name) = &domain.name else { continue };
        let (share, row) = (xen.share(&domain)?, xen.policy(&domain)?);
        domains.push(domain_dump(name, share.weight, share.cap, row));
    }
    let dump = Dump { format: 1, pools: pools.iter().filter_map(pool_dump).collect(), domains };
    let text = if as_json { json(&dump)? } else { serde_yaml::to_string(&dump)? };
    let Some(file) = file else { return Ok(text) };
    write_whole(file, |out| Ok(out.write_all(text.as_bytes())?))?;
    Ok(String::new())
}

fn pool_dump(pool: &Pool) -> Option<(String, PoolDump)> {
    let s = pool.schedule.as_ref()?;
    let fixed = s.sizing == Sizing::Static;
    let dump = PoolDump {
        slice: units::us(s.slice_us),
        micro_slice: units::us(s.micro_slice_us),
        grace: units::us(s.grace_us),
        reserve: s.reserve,
        micro_cores: fixed.then_some(s.nr_micro),
        sizing: SizingDump {
            mode: s.sizing,
            min: (!fixed).then_some(s.min_micro),
            max: (!fixed).then_some(s.max_micro),
        },
    };
    Some((pool.name.clone(), dump))
}

fn domain_dump(name: &str, weight: u16, cap: u16, row: Actions) -> DomainDump {
    let Actions { ipi_wait, lock_wait, event, preemption } = row;
    // A name is a pattern in the file.
    let name = glob::Pattern::escape(name);
    DomainDump { name, actions: ActionsDump { ipi_wait, lock_wait, event, preemption }, weight, cap }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::pool::tests::sample;
    use crate::hyper::safe::types::{Kind, Row, Share};

    #[test]
    fn a_dump_applied_changes_nothing() {
        let adaptive = |mut pool: Pool| {
            if let Some(s) = &mut pool.schedule {
                (s.sizing, s.max_micro) = (Sizing::Adaptive, 2);
            }
            pool
        };
        let pools = [sample(0, "Pool-0", Some(1)), adaptive(sample(1, "second", Some(0)))];
        let dump = Dump {
            format: 1,
            pools: pools.iter().filter_map(pool_dump).collect(),
            domains: vec![domain_dump("web[1]", 512, 200, Row::Grace.policy())],
        };
        let text = serde_yaml::to_string(&dump).unwrap();
        insta::assert_snapshot!(text, @r"
        microslice-policy: 1
        pools:
          Pool-0:
            slice: 30ms
            micro-slice: 100us
            grace: 100us
            reserve: false
            micro-cores: 1
            sizing:
              mode: static
          second:
            slice: 30ms
            micro-slice: 100us
            grace: 100us
            reserve: false
            sizing:
              mode: adaptive
              min: 0
              max: 2
        domains:
        - name: web[[]1[]]
          actions:
            ipi-wait: borrow
            lock-wait: borrow
            event: borrow
            preemption: grace
          weight: 512
          cap: 200
        ");
        let policy = Policy::parse("dump", &text).unwrap();
        for pool in &pools {
            assert_eq!(plan::pool(policy.pools.get(&pool.name).unwrap(), pool).unwrap(), None);
        }
        let domain = Domain {
            id: 3,
            name: None,
            kind: Kind::Hvm,
            vcpus: 4,
            max_vcpus: 4,
            cpu_ns: 0,
            pool: 0,
            dying: false,
        };
        let rule = policy.domain("web[1]").unwrap();
        let share = Share { weight: 512, cap: 200 };
        assert_eq!(plan::settings(rule, &domain, share, Row::Grace.policy()), []);
    }

    #[test]
    fn a_diff_says_from_and_to_and_what_comes_later() {
        let line = Line {
            object: "cpupool 'a' (id 0)".into(),
            what: "slice",
            from: "30ms".into(),
            to: "20ms".into(),
        };
        let web = Domain::web();
        assert_eq!(
            diff(&[line], &[(web, "its kernel has not booted yet")]),
            "cpupool 'a' (id 0): slice 30ms -> 20ms\ndomain 'web' (id 3): ranges later: its kernel has not booted yet\n"
        );
        assert_eq!(diff(&[], &[]), "");
    }
}
