// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask eval sim`: scenarios on the simulated machine, as a table and results.json in the lab's schema.

use crate::ui;
use anyhow::{Context, Result, ensure};
use clap::Args;
use microslice_lab::results::{Corunner, Latency, Results, Row, SCHEMA, Source, Stat, Target, Yields};
use microslice_sim::run::{Row as Policy, Sizing};
use microslice_sim::{Kind, Record, Run, SchedSpec, VmSpec, Workload};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

/// What to simulate.
#[derive(Debug, Args)]
pub struct Eval {
    /// Scenarios: files of tests/scenarios without .yaml (default: all)
    scenarios: Vec<String>,
    /// Seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs of each row, with this and the following seeds
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    repeat: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Guest {
    workload: String,
    vcpus: u16,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    pcpus: u8,
    target: Guest,
    corunner: Guest,
    warm_ms: u64,
    measure_ms: u64,
}

/// Runs them.
///
/// # Errors
/// If a scenario cannot be read or run.
pub fn eval(root: &Path, args: &Eval) -> Result<()> {
    let folder = root.join("tests/scenarios");
    let mut names = args.scenarios.clone();
    if names.is_empty() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            if path.extension().is_some_and(|e| e == "yaml") {
                names.extend(path.file_stem().map(|s| s.to_string_lossy().into_owned()));
            }
        }
        names.sort();
    }
    for name in names {
        let results = scenario(&folder, &name, args)?;
        let to = root.join("target/eval").join(format!("sim-{name}"));
        results.write(&to)?;
        println!("{}", table(&results));
        ui::say(&format!("eval sim: {}", to.join("results.json").display()));
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_yaml::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

fn rows() -> Vec<(String, bool, SchedSpec)> {
    let mut rows = vec![
        ("alone".to_owned(), false, SchedSpec::new(Kind::Credit, None)),
        ("credit".to_owned(), true, SchedSpec::new(Kind::Credit, None)),
        ("credit2".to_owned(), true, SchedSpec::new(Kind::Credit2, None)),
    ];
    let micro = |n| (format!("microslice-{n}"), true, SchedSpec::new(Kind::Microslice, Some(n)));
    rows.extend((0..=6).map(micro));
    let own = |name: &str, n, policy| {
        let sched = SchedSpec { policy, ..SchedSpec::new(Kind::Microslice, Some(n)) };
        (name.to_owned(), true, sched)
    };
    rows.extend([
        own("none", 0, Policy::None),
        own("borrow", 0, Policy::Borrow),
        own("grace", 0, Policy::Grace),
        own("eager-1", 1, Policy::Eager),
    ]);
    for (name, sizing) in [("dynamic", Sizing::Paper), ("adaptive", Sizing::Adaptive)] {
        rows.push((name.to_owned(), true, SchedSpec { sizing, ..SchedSpec::new(Kind::Microslice, Some(0)) }));
    }
    rows
}

fn scenario(folder: &Path, name: &str, args: &Eval) -> Result<Results> {
    let s: Scenario = read(&folder.join(format!("{name}.yaml")))?;
    let guest = |g: &Guest| -> Result<VmSpec> {
        let path: PathBuf = folder.join("workloads").join(format!("{}.yaml", g.workload));
        let workload: Workload = read(&path)?;
        Ok(VmSpec { workload, vcpus: g.vcpus, weight: 256, cap: 0, cpus: None, flow: None })
    };
    let (target, corunner) = (guest(&s.target)?, guest(&s.corunner)?);
    let mut runs = vec![];
    for (row, (_, consolidated, sched)) in rows().into_iter().enumerate() {
        for seed in args.seed..args.seed + args.repeat {
            let mut vms = vec![target.clone()];
            vms.extend(consolidated.then(|| corunner.clone()));
            let (costs, sched) = (Default::default(), sched.clone());
            let (warm_ms, measure_ms) = (s.warm_ms, s.measure_ms);
            runs.push((row, Run { pcpus: s.pcpus, costs, vms, sched, warm_ms, measure_ms, seed }));
        }
    }
    let began = Instant::now();
    let done = run_all(name, &runs)?;
    let events: u64 = done
        .iter()
        .zip(&runs)
        .filter(|(_, (_, r))| r.sched.scheduler == Kind::Microslice)
        .map(|(d, _)| d.core_events)
        .sum();
    let (runs_n, wall) = (runs.len(), began.elapsed().as_secs_f64());
    ui::say(&format!(
        "{name}: {runs_n} runs in {wall:.1} s; the core took {:.1} million events",
        events as f64 / 1e6
    ));
    let own = |row: usize| -> Vec<&Record> {
        runs.iter().zip(&done).filter(|((r, _), _)| *r == row).map(|(_, d)| d).collect()
    };
    Ok(Results {
        schema: SCHEMA.to_owned(),
        source: Source::Sim,
        scenario: format!("{name}: {} beside {}", s.target.workload, s.corunner.workload),
        seeds: (args.seed..args.seed + args.repeat).collect(),
        xen: "none: simulated; credit and credit2 are models of 4.20".to_owned(),
        config: serde_json::json!({ "pcpus": s.pcpus, "warm_ms": s.warm_ms, "measure_ms": s.measure_ms,
            "costs": runs.first().map(|r| &r.1.costs) }),
        rows: rows()
            .iter()
            .enumerate()
            .map(|(i, (name, co, sched))| row(name, *co, sched, s.corunner.vcpus, &own(i)))
            .collect(),
    })
}

/// All runs on all cores; records in the order of the runs.
fn run_all(name: &str, runs: &[(usize, Run)]) -> Result<Vec<Record>> {
    let next = Mutex::new(0..runs.len());
    let done: Mutex<Vec<Option<Record>>> = Mutex::new(vec![None; runs.len()]);
    let failed: Mutex<Option<anyhow::Error>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    // The guard must not live on: it is taken for one statement only.
                    let Some(i) = next.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next()
                    else {
                        return;
                    };
                    match runs[i].1.execute() {
                        Ok(record) => {
                            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[i] = Some(record)
                        }
                        Err(e) => {
                            let what = format!("simulating {name}, seed {}", runs[i].1.seed);
                            *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                                Some(anyhow::Error::new(e).context(what));
                        }
                    }
                }
            });
        }
    });
    if let Some(e) = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(e);
    }
    let done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let done: Vec<Record> = done.into_iter().flatten().collect();
    ensure!(
        done.len() == runs.len(),
        "simulating {name}: {} of {} runs came to an end",
        done.len(),
        runs.len()
    );
    Ok(done)
}

/// `corunner_vcpus`: its progress is per vCPU, as the lab's.
fn row(name: &str, consolidated: bool, sched: &SchedSpec, corunner_vcpus: u16, records: &[&Record]) -> Row {
    let over = |f: &dyn Fn(&Record) -> Option<f64>| Stat::over(records.iter().filter_map(|r| f(r)));
    let tlb = |f: fn(&microslice_sim::run::Times) -> f64| over(&|r| r.vms[0].tlb_us.as_ref().map(f));
    let yields = |i: usize| over(&|r| Some(r.vms[0].yields_per_s[i]));
    let latency = || {
        Some(Latency {
            mean: tlb(|t| t.mean)?,
            p50: tlb(|t| t.p50)?,
            p99: tlb(|t| t.p99)?,
            max: tlb(|t| t.max)?,
            samples: records.iter().filter_map(|r| r.vms[0].tlb_us.as_ref()).map(|t| t.samples).sum(),
            pooled_p99: None,
        })
    };
    let micro = sched.scheduler == Kind::Microslice;
    Row {
        name: name.to_owned(),
        scheduler: format!("{:?}", sched.scheduler).to_lowercase(),
        policy: micro.then(|| {
            let row = format!("{:?}", sched.policy).to_lowercase();
            if sched.policy == Policy::Paper { format!("{row}, reserved") } else { row }
        }),
        micro_cores: sched.micro_cores,
        consolidated,
        runs: records.len() as u32,
        target: Target {
            elapsed_s: None,
            throughput: over(&|r| Some(r.vms[0].done_per_s)),
            user_progress: None,
        },
        corunner: over(&|r| r.vms.get(1).map(|v| v.user / f64::from(corunner_vcpus)))
            .map(|progress| Corunner { progress }),
        tlb_sync_us: latency(),
        mprotect_us: None,
        lock_wait_us: None,
        yields: Some(Yields {
            ipi: yields(0),
            lock: yields(1),
            halt: yields(2),
            other: yields(3),
            kept: over(&|r| r.vms[0].kept_per_s),
        }),
        accelerated: None,
        micro_stay_max_us: over(&|r| r.micro_stay_max_us),
        wall_s: None,
    }
}

/// Times against credit: below 1 is faster.
fn table(results: &Results) -> String {
    let time = |r: &Row| r.target.throughput.map(|s| 1.0 / s.mean);
    let other = |r: &Row| r.corunner.as_ref().map(|c| 1.0 / c.progress.mean);
    let base = results.row("credit");
    let ratio = |own: Option<f64>, base: Option<f64>| match (own, base) {
        (Some(a), Some(b)) => format!("{:.3}", a / b),
        _ => "-".to_owned(),
    };
    let mut out = format!("{} (simulated; seeds {:?})\n", results.scenario, results.seeds);
    out +=
        "| scheduler    | target time | co-runner time | TLB sync mean us | yields/s ipi | lock | halt |\n";
    out +=
        "|--------------|-------------|----------------|------------------|--------------|------|------|\n";
    for r in &results.rows {
        let y = |f: fn(&Yields) -> Option<Stat>| {
            r.yields.as_ref().and_then(f).map_or("-".to_owned(), |s| format!("{:.0}", s.mean))
        };
        out += &format!(
            "| {:<12} | {:>11} | {:>14} | {:>16} | {:>12} | {} | {} |\n",
            r.name,
            ratio(time(r), base.and_then(time)),
            ratio(other(r), base.and_then(other)),
            r.tlb_sync_us.as_ref().map_or("-".to_owned(), |t| format!("{:.0}", t.mean.mean)),
            y(|y| y.ipi),
            y(|y| y.lock),
            y(|y| y.halt),
        );
    }
    out
}
