// SPDX-License-Identifier: GPL-3.0-only
//! `microslice doctor`: what this host lacks, and the command that mends it. Only reads.
//!
//! Each check stands on those before it: after one whose lack makes the rest meaningless, the rest is left out.

use crate::daemon;
use crate::hyper::safe::Xen;
use crate::hyper::safe::error::Cause;
use crate::hyper::safe::types::{Domain, Pool};
use crate::libxl;
use crate::out::json;
use crate::policy::Policy;
use anyhow::Result;
use serde::Serialize;
use std::path::Path;
use xenstore_rs::{Xs, unix::XsUnix};

/// One thing that has to be there.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    check: &'static str,
    ok: bool,
    found: String,
    /// What mends it; null if nothing is to be mended.
    mend: Option<String>,
}

fn good(check: &'static str, found: impl Into<String>) -> Check {
    Check { check, ok: true, found: found.into(), mend: None }
}

fn lack(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Check {
    Check { check, ok: false, found: found.into(), mend: Some(mend.into()) }
}

/// Runs the command; true if nothing is lacking.
pub fn run(as_json: bool) -> Result<(String, bool)> {
    let checks = checks();
    let all = checks.iter().all(|check| check.ok);
    Ok((if as_json { json(&checks)? } else { lines(&checks) }, all))
}

fn lines(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        text +=
            &format!("{:<10} {:<7} {}\n", check.check, if check.ok { "ok" } else { "LACKING" }, check.found);
        if let Some(mend) = &check.mend {
            text += &format!("{:<18} {mend}\n", "");
        }
    }
    text
}

fn checks() -> Vec<Check> {
    let mut checks = vec![policy(Path::new(daemon::POLICY))];
    let xen = match Xen::open() {
        Ok(xen) => xen,
        Err(e) => {
            checks.insert(0, lack("xen", e.to_string(), mend_xen(&e.cause)));
            return checks;
        }
    };
    let (pools, domains) = match xen.pools().and_then(|pools| Ok((pools, xen.domains()?))) {
        Ok(read) => read,
        Err(e) => {
            checks.insert(0, lack("xen", e.to_string(), mend_xen(&e.cause)));
            return checks;
        }
    };
    checks.insert(0, good("xen", format!("Xen {}", crate::hyper::safe::error::BUILT_FOR)));
    let store = XsUnix::new().and_then(|store| store.read("/local/domain/0/name").map(|_| store));
    checks.push(match &store {
        Ok(_) => good("xenstored", "answers"),
        Err(e) => lack("xenstored", e.to_string(), "systemctl start xenstored xen-init-dom0"),
    });
    checks.push(scheduler(&pools));
    if let Ok(store) = &store {
        checks.push(daemon_runs(store));
    }
    checks.push(records(Path::new(libxl::DIR)));
    let ours = domains.iter().filter(|d| d.id != 0 && !d.dying && scheduled(&pools, d));
    for domain in ours {
        let ranges = xen.stats(domain).map_or(0, |stats| stats.ranges);
        checks.push(guest(domain, ranges));
    }
    checks
}

fn scheduled(pools: &[Pool], domain: &Domain) -> bool {
    pools.iter().any(|pool| pool.id == domain.pool && pool.schedule.is_some())
}

fn mend_xen(cause: &Cause) -> String {
    match cause {
        Cause::NoXen => {
            "boot a Xen with the microslice patches: `cargo xtask xen build` in the project makes one".into()
        }
        Cause::NoDevice => "modprobe xen-privcmd".into(),
        Cause::NoPrivilege => "sudo microslice doctor".into(),
        Cause::OtherAbi { running } => format!("install the microslice that was built with Xen {running}"),
        _ => "xl dmesg".into(),
    }
}

fn policy(file: &Path) -> Check {
    if !file.exists() {
        return good(
            "policy",
            format!("no {}: every domain gets its ranges, nothing else is touched", file.display()),
        );
    }
    match Policy::load(file) {
        Ok(policy) => {
            let (pools, domains) = (policy.pools.len(), policy.domains.len());
            good("policy", format!("{}: {pools} cpupools, {domains} domain rules", file.display()))
        }
        Err(e) => lack("policy", format!("{e:#}"), format!("microslice policy check {}", file.display())),
    }
}

fn scheduler(pools: &[Pool]) -> Check {
    let ours: Vec<String> = pools
        .iter()
        .filter_map(|pool| Some((pool, pool.schedule.as_ref()?)))
        .map(|(pool, s)| format!("'{}': {} micro cores of {} pCPUs", pool.name, s.cur_micro, s.nr_cpus))
        .collect();
    if ours.is_empty() {
        return lack(
            "scheduler",
            "no cpupool is under microslice",
            "boot Xen with sched=microslice, or: xl cpupool-create 'name=\"micro\"' 'sched=\"microslice\"' 'cpus=\"2-3\"'",
        );
    }
    good("scheduler", ours.join(", "))
}

fn daemon_runs(store: &XsUnix) -> Check {
    let pid = store.read("/tool/microslice/pid").ok();
    let pid = pid.as_deref().map(|pid| pid.trim_end_matches('\0'));
    match pid.filter(|pid| Path::new("/proc").join(pid).exists()) {
        Some(pid) => good("daemon", format!("process {pid}")),
        None => {
            lack("daemon", "does not run: new domains get no ranges", "systemctl enable --now microslice")
        }
    }
}

fn records(dir: &Path) -> Check {
    match std::fs::read_dir(dir) {
        Ok(_) => good("libxl", format!("its records are in {}", dir.display())),
        Err(e) => lack("libxl", format!("{}: {e}", dir.display()), format!("mkdir -p {}", dir.display())),
    }
}

fn guest(domain: &Domain, ranges: u64) -> Check {
    let name = domain.name.clone().unwrap_or_else(|| domain.id.to_string());
    if ranges > 0 {
        return good("domain", format!("'{name}': {ranges} ranges"));
    }
    lack(
        "domain",
        format!("'{name}': no ranges"),
        format!("microslice symbols push {name} KERNEL, or the daemon does it"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::pool::tests::sample;

    #[test]
    fn what_is_lacking_comes_with_what_mends_it() {
        let checks = [
            good("xen", "Xen 4.20"),
            scheduler(&[sample(0, "Pool-0", None)]),
            scheduler(&[sample(0, "Pool-0", Some(1)), sample(1, "b", None)]),
        ];
        insta::assert_snapshot!(lines(&checks), @r#"
        xen        ok      Xen 4.20
        scheduler  LACKING no cpupool is under microslice
                           boot Xen with sched=microslice, or: xl cpupool-create 'name="micro"' 'sched="microslice"' 'cpus="2-3"'
        scheduler  ok      'Pool-0': 1 micro cores of 4 pCPUs
        "#);
    }

    #[test]
    fn a_policy_file_is_looked_into() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.yaml");
        assert!(policy(&file).ok && policy(&file).found.starts_with("no /"));
        std::fs::write(&file, "microslice-policy: 1\ndomains: [{name: a}]\n").unwrap();
        assert!(policy(&file).found.ends_with("0 cpupools, 1 domain rules"));
        std::fs::write(&file, "microslice-policy: 1\ncolour: red\n").unwrap();
        let wrong = policy(&file);
        assert!(!wrong.ok && wrong.found.contains(":2:1: unknown field `colour`"), "{wrong:?}");
        assert_eq!(wrong.mend, Some(format!("microslice policy check {}", file.display())));
        assert!(!records(&dir.path().join("none")).ok);
    }
}
