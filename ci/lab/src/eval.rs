// SPDX-License-Identifier: GPL-3.0-only
//! The evaluation on the lab: rows times seeds, several machines side by side, resumable.
//!
//! Every finished run is a file of its own under FOLDER/runs, named by a hash of everything that determines its
//! result; a rerun takes what is there. So a broken-off evaluation goes on where it was, and nothing stale is ever
//! taken for fresh.

use crate::images::{self, Images};
use crate::inputs::{LabInputs, file_hash, hash};
use crate::measure::{self, Record};
use crate::scenario::{Config, Run, Timing, Workload};
use crate::{report, run};
use anyhow::{Context, Result, bail, ensure};
use microslice_results::{Results, SCHEMA, Source};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What to evaluate.
#[derive(Clone, Debug)]
pub struct EvalArgs {
    /// Paths of everything built.
    pub inputs: LabInputs,
    /// Where results go, e.g. target/eval/NAME.
    pub folder: PathBuf,
    /// Seeds 1..=seeds.
    pub seeds: u64,
    /// Machines side by side; each keeps one core busy.
    pub jobs: usize,
    /// Rows; [`Config::table`] is the first table's.
    pub rows: Vec<Config>,
    /// Time constants.
    pub timing: Timing,
    /// What the target does.
    pub workload: Workload,
    /// Wall time that one run may take.
    pub limit: Duration,
}

impl EvalArgs {
    /// The first table with defaults: 5 seeds, 2 machines, time stretched by [`Timing::DEFAULT_SCALE`].
    pub fn new(inputs: LabInputs, folder: PathBuf) -> EvalArgs {
        EvalArgs {
            inputs,
            folder,
            seeds: 5,
            jobs: 2,
            rows: Config::table(),
            timing: Timing::scaled(Timing::DEFAULT_SCALE),
            workload: Workload::Shootdown,
            limit: Duration::from_secs(1_200),
        }
    }

    /// Keeps the rows that `names` lists.
    pub fn select(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            ensure!(
                self.rows.iter().any(|row| row.name == *name),
                "select row {name}: no such row; there are {}",
                self.rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>().join(", ")
            );
        }
        self.rows.retain(|row| names.contains(&row.name));
        Ok(())
    }

    fn runs(&self) -> Vec<Run> {
        // All rows of a seed before the next seed: a broken-off evaluation has whole tables.
        (1..=self.seeds)
            .flat_map(|seed| self.rows.iter().map(move |config| (seed, config)))
            .map(|(seed, config)| Run {
                config: config.clone(),
                seed,
                timing: self.timing.clone(),
                workload: self.workload.clone(),
                guest_pcpus: 4,
                vcpus: 4,
            })
            .collect()
    }
}

/// Runs what has not been run, then writes results.json and report.html and prints the table.
pub fn eval_lab(args: &EvalArgs) -> Result<Results> {
    ensure!(args.seeds > 0 && args.jobs > 0 && !args.rows.is_empty(), "eval lab: nothing to run");
    let stress = matches!(args.workload, Workload::Stress { .. });
    eprintln!("eval lab: images");
    let images = images::prepare(&args.inputs, stress)?;
    let hypervisor = file_hash(&args.inputs.hypervisor)?;
    let common =
        hash(&[images.key.as_bytes(), hypervisor.as_bytes(), qemu_version(&args.inputs.qemu)?.as_bytes()]);
    let runs = args.runs();
    let (done, failures) = run_all(args, &images, &common, &runs)?;
    let results = Results {
        schema: SCHEMA.to_owned(),
        source: Source::Lab,
        scenario: scenario(&args.workload),
        seeds: (1..=args.seeds).collect(),
        xen: format!("4.20, hypervisor {}", &hypervisor[..16]),
        config: serde_json::json!({
            "timing": args.timing, "guest_pcpus": 4, "vcpus": 4, "qemu": qemu_version(&args.inputs.qemu)?,
            "note": "emulated machine in instruction-counted time; time constants are stretched, ratios count",
        }),
        rows: rows(&args.rows, &done),
    };
    results.write(&args.folder)?;
    microslice_results::write_atomically(
        &args.folder.join("report.html"),
        report::html(&results)?.as_bytes(),
    )?;
    println!("{}", report::text(&results));
    println!("{}", report::ratios(&results));
    eprintln!("eval lab: {} and report.html", args.folder.join("results.json").display());
    if !failures.is_empty() {
        bail!("eval lab: {} of {} runs failed:\n  {}", failures.len(), runs.len(), failures.join("\n  "));
    }
    Ok(results)
}

fn rows(configs: &[Config], done: &[Record]) -> Vec<microslice_results::Row> {
    configs
        .iter()
        .filter_map(|config| {
            let mut records: Vec<Record> = done.iter().filter(|r| r.run.config == *config).cloned().collect();
            records.sort_by_key(|record| record.run.seed);
            measure::row(&records)
        })
        .collect()
}

fn scenario(workload: &Workload) -> String {
    match workload {
        Workload::Shootdown => {
            "TLB shootdown, then all threads compute and mprotect; 2:1 beside a bursty CPU hog".to_owned()
        }
        Workload::Stress { stressor, .. } => format!("stress-ng --{stressor}; 2:1 beside a bursty CPU hog"),
        Workload::Hog => "CPU hog beside CPU hog".to_owned(),
    }
}

fn qemu_version(qemu: &Path) -> Result<String> {
    let output = std::process::Command::new(qemu).arg("--version").output();
    let output = output.with_context(|| format!("run {} --version", qemu.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Finished runs, and what went wrong with the others.
type Outcome = (Vec<Record>, Vec<String>);

fn run_all(args: &EvalArgs, images: &Images, common: &str, runs: &[Run]) -> Result<Outcome> {
    let started = Instant::now();
    let queue = Mutex::new(runs.iter().enumerate());
    let outcome: Mutex<Outcome> = Mutex::new((Vec::new(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.min(runs.len()) {
            scope.spawn(|| {
                loop {
                    // Not `while let`: that would hold the lock for the whole run, one machine at a time.
                    let next = lock(&queue).next();
                    let Some((index, run)) = next else { break };
                    let result = one(args, images, common, run);
                    let mut outcome = lock(&outcome);
                    let verdict = match &result {
                        Ok((_, true)) => "kept from before".to_owned(),
                        Ok((record, false)) => format!("done in {:.0} s", record.wall_s),
                        Err(error) => format!("FAILED: {error:#}"),
                    };
                    let minutes = started.elapsed().as_secs_f64() / 60.0;
                    eprintln!(
                        "eval lab: {}/{} {} {verdict} ({minutes:.1} min)",
                        index + 1,
                        runs.len(),
                        run.name()
                    );
                    match result {
                        Ok((record, _)) => outcome.0.push(record),
                        Err(error) => outcome.1.push(format!("{}: {error:#}", run.name())),
                    }
                }
            });
        }
    });
    outcome.into_inner().map_err(|_| anyhow::anyhow!("eval lab: a worker panicked"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A run's record, and whether it was there before.
fn one(args: &EvalArgs, images: &Images, common: &str, run: &Run) -> Result<(Record, bool)> {
    let description = serde_json::to_vec(run).context("run to JSON")?;
    let key = hash(&[common.as_bytes(), &description, &run.job(), run.xen_options().as_bytes()]);
    let path = args.folder.join("runs").join(format!("{}-{}.json", run.name(), &key[..16]));
    if let Ok(text) = std::fs::read(&path)
        && let Ok(record) = serde_json::from_slice(&text)
    {
        return Ok((record, true));
    }
    let finished = run::execute(&args.inputs, images, run, &args.folder.join("work"), args.limit)?;
    let log = || {
        format!(
            "run {}: serial log kept in {}",
            run.name(),
            args.folder.join("work").join(run.name()).display()
        )
    };
    let record = Record::of(run, &finished.transcript, finished.wall.as_secs_f64()).with_context(log)?;
    let text = serde_json::to_vec_pretty(&record).context("record to JSON")?;
    microslice_results::write_atomically(&path, &text)?;
    Ok((record, false))
}
