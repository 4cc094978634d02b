// SPDX-License-Identifier: GPL-3.0-only
//! `cargo xtask eval sim`: scenarios on the simulated machine; results.json for each in the lab's schema, one report for all.
//!
//! Owns no lab and no Xen: what those need is not built for it. [`ui`] is the developers' commands', too.
//!
//! [`runs`] does and keeps the runs, [`rows`] says which there are, [`table`] turns records into rows, [`paper`] sets them beside the
//! paper's figures, [`report`] draws.

mod paper;
mod report;
mod rows;
mod runs;
mod table;
pub mod ui;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use microslice_results::{Results, SCHEMA, Source};
use microslice_sim::{Kind, Record, Run, Scenario, calibrate};
use std::path::{Path, PathBuf};
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
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    repeat: u64,
    /// Do only the I-th of N parts of the runs, and no report: `--merge` makes it of all parts
    #[arg(long, value_name = "I/N", value_parser = runs::Shard::parse)]
    shard: Option<runs::Shard>,
    /// Do no run: report what shards have done
    #[arg(long, conflicts_with = "shard")]
    merge: bool,
    /// The lab's evaluation to set the shootdown scenario beside: target/eval/NAME, if it is there
    #[arg(long, default_value = "lab", value_name = "NAME")]
    lab: String,
    /// Fit the scenarios' workloads to the paper's baseline (tests/scenarios/paper/baseline.yaml) and write them
    #[arg(long, conflicts_with_all = ["shard", "merge"])]
    calibrate: bool,
}

/// A scenario with the rows and runs that it takes.
struct Job {
    name: String,
    scenario: Scenario,
    rows: Vec<rows::Spec>,
    /// Row of each run.
    runs: Vec<(usize, Run)>,
}

/// Runs them. Scenarios are read from `folder`; runs, results and report go to `to`.
///
/// # Errors
/// If a scenario cannot be read or run.
pub fn eval(folder: &Path, to: &Path, args: &Eval) -> Result<()> {
    let names = if args.scenarios.is_empty() { all(folder)? } else { args.scenarios.clone() };
    if args.calibrate {
        return fit(folder, &names, args);
    }
    let seeds = args.seed..args.seed + args.repeat;
    let mut jobs = vec![];
    for name in names {
        let scenario = Scenario::read(folder, &name)?;
        let rows = rows::rows(&scenario);
        let mut runs = vec![];
        for (i, row) in rows.iter().enumerate() {
            runs.extend(seeds.clone().map(|s| (i, scenario.run(row.sched.clone(), !row.consolidated, s))));
        }
        jobs.push(Job { name, scenario, rows, runs });
    }
    let flat: Vec<&Run> = jobs.iter().flat_map(|j| j.runs.iter().map(|(_, r)| r)).collect();
    let store = runs::Store::open(&to.join("sim/runs"))?;
    let began = Instant::now();
    if let Some(shard) = args.shard {
        let done = store.run(&flat, |i| shard.has(i), false)?;
        let n = done.iter().flatten().count();
        ui::say(&format!("eval sim: {n} of {} runs are there; --merge makes the report", flat.len()));
        return Ok(());
    }
    let done = store.run(&flat, |_| true, args.merge)?;
    let missing = done.iter().filter(|d| d.is_none()).count();
    ensure!(missing == 0, "merging shards: {missing} of {} runs have not been done", flat.len());
    let done: Vec<Record> = done.into_iter().flatten().collect();
    let events: u64 = flat
        .iter()
        .zip(&done)
        .filter(|(r, _)| r.sched.scheduler == Kind::Microslice)
        .map(|(_, d)| d.core_events)
        .sum();
    ui::say(&format!(
        "eval sim: {} runs in {:.1} s; the core took {:.1} million events in them",
        flat.len(),
        began.elapsed().as_secs_f64(),
        events as f64 / 1e6
    ));
    write(folder, to, jobs, done, seeds.collect(), &args.lab)
}

/// Results of each scenario, and the report.
fn write(
    folder: &Path,
    to: &Path,
    jobs: Vec<Job>,
    done: Vec<Record>,
    seeds: Vec<u64>,
    lab: &str,
) -> Result<()> {
    let mut rest = done.into_iter();
    let mut pages = vec![];
    for job in jobs {
        let records: Vec<Record> = rest.by_ref().take(job.runs.len()).collect();
        let own = |row: usize| -> Vec<&Record> {
            job.runs.iter().zip(&records).filter(|((r, _), _)| *r == row).map(|(_, d)| d).collect()
        };
        let corunners: Vec<u16> = job.scenario.vms.iter().skip(1).map(|v| v.vcpus).collect();
        let results = Results {
            schema: SCHEMA.to_owned(),
            source: Source::Sim,
            scenario: format!("{}: {}", job.name, job.scenario.about),
            seeds: seeds.clone(),
            xen: "none: simulated; models of credit (4.20 and 4.7) and credit2 (4.20)".to_owned(),
            config: serde_json::json!({ "pcpus": job.scenario.pcpus, "warm_ms": job.scenario.warm_ms,
                "measure_ms": job.scenario.measure_ms, "costs": job.runs.first().map(|r| &r.1.costs) }),
            rows: job.rows.iter().enumerate().map(|(i, r)| table::row(r, &corunners, &own(i))).collect(),
        };
        results.write(&to.join(format!("sim-{}", job.name)))?;
        println!("{}", table::text(&results));
        let baseline: Vec<Vec<Record>> = ["alone", rows::BASELINE]
            .iter()
            .map(|name| {
                let at = job.rows.iter().position(|r| r.name == *name);
                at.map_or(vec![], |at| own(at).into_iter().cloned().collect())
            })
            .collect();
        let flow = table::flows(&job.rows, &|i| own(i));
        let corunners = f64::from(corunners.iter().sum::<u16>())
            / f64::from(job.scenario.vms.first().map_or(1, |v| v.vcpus));
        let counted = table::counted(&job.rows, &|i| own(i));
        let (name, paper) = (job.name, job.scenario.paper);
        pages.push(paper::Page { name, paper, results, baseline, flow, counted, corunners });
    }
    let paper = paper::Paper::read(folder)?;
    let lab = to.join(lab).join("results.json");
    let lab = if lab.is_file() { Some(Results::read(&lab)?) } else { None };
    println!("{}", paper::text(&paper, &pages));
    if let (Some(page), Some(lab)) = (pages.iter().find(|p| p.name == "shootdown"), &lab) {
        println!("shootdown, simulator / lab: means, and from the least to the greatest of runs");
        for p in report::against_lab(&page.results, lab) {
            let ([a, a1, a2], [b, b1, b2]) = (p.sim, p.lab);
            println!(
                "  {:<12} {:<30} {a:>10.2} / {b:>10.2} ({:+.0} %)  {a1:.2} to {a2:.2} / {b1:.2} to {b2:.2}",
                p.row,
                p.what,
                p.error()
            );
        }
    }
    let page = to.join("sim/report.html");
    microslice_results::write_atomically(&page, report::html(&paper, &pages, lab.as_ref())?.as_bytes())?;
    ui::say(&format!("eval sim: {} and {}/sim-*/results.json", page.display(), to.display()));
    Ok(())
}

/// All scenarios.
fn all(folder: &Path) -> Result<Vec<String>> {
    let mut names = vec![];
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path: PathBuf = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        if path.extension().is_some_and(|e| e == "yaml") {
            names.extend(path.file_stem().map(|s| s.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Fits workloads to the paper's baseline and writes them.
fn fit(folder: &Path, names: &[String], args: &Eval) -> Result<()> {
    let baselines = calibrate::baselines(folder)?;
    for name in names {
        let scenario = Scenario::read(folder, name)?;
        let Some(b) = scenario.paper.as_ref().and_then(|p| baselines.get(p)) else { continue };
        let fits = scenario.vms[0].workload.params.values().filter(|p| p.fit.is_some()).count();
        if fits == 0 {
            continue;
        }
        let step = ui::Step::new(&format!("fitting {fits} parameters of {name} to the paper's baseline"));
        let fitted = calibrate::calibrate(&scenario, b, args.seed..args.seed + args.repeat, &runs::execute)
            .with_context(|| format!("fitting {name}"))?;
        step.done();
        let path = microslice_sim::scenario::workload_path(folder, &scenario.target);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let new = calibrate::rewrite(&text, &fitted.params);
        microslice_results::write_atomically(&path, new.as_bytes())?;
        println!(
            "{name}: error {:.2} -> {:.2} in {} settings; {:?}",
            fitted.errors.0, fitted.errors.1, fitted.tried, fitted.params
        );
        print!("{}", paper::targets_text(&fitted.targets));
    }
    if names.is_empty() {
        bail!("fitting: there is no scenario in {}", folder.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Every file that an evaluation writes, on so many threads.
    fn files(folder: &Path, threads: usize, seed: u64) -> BTreeMap<PathBuf, Vec<u8>> {
        let to = tempfile::tempdir().unwrap();
        let (scenarios, lab) = (vec!["short".to_owned()], "lab".to_owned());
        let args = Eval { scenarios, seed, repeat: 2, shard: None, merge: false, lab, calibrate: false };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| eval(folder, to.path(), &args)).unwrap();
        let (mut files, mut folders) = (BTreeMap::new(), vec![to.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(to.path()).unwrap().to_owned();
                    files.insert(name, std::fs::read(path).unwrap());
                }
            }
        }
        files
    }

    #[test]
    fn equal_seeds_give_equal_files_on_any_number_of_threads() {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios");
        let own = tempfile::tempdir().unwrap();
        for part in ["workloads", "paper"] {
            std::os::unix::fs::symlink(all.join(part), own.path().join(part)).unwrap();
        }
        let short = "about: a moment of gmake\npaper: gmake\npcpus: 12\nwarm_ms: 5\nmeasure_ms: 40\n\
                     vms: [{workload: gmake, vcpus: 12}, {workload: swaptions, vcpus: 12}]";
        std::fs::write(own.path().join("short.yaml"), short).unwrap();
        let [one, four, other] =
            [(1, 1), (4, 1), (4, 3)].map(|(threads, seed)| files(own.path(), threads, seed));
        let results = Path::new("sim-short/results.json");
        assert!(
            one.contains_key(results) && one.contains_key(Path::new("sim/report.html")),
            "{:?}",
            one.keys()
        );
        for (name, bytes) in &one {
            assert!(four.get(name) == Some(bytes), "{} differs", name.display());
        }
        assert_eq!(one.len(), four.len());
        let rows = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap()["rows"].clone();
        assert_ne!(rows(&one[results]), rows(&other[results]), "the seed has no effect");
    }
}
