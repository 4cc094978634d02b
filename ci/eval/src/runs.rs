// SPDX-License-Identifier: GPL-3.0-only
//! Runs on all cores, each kept in a file of its own as soon as it is done: what was interrupted, or done by another shard, is
//! not done again. A file is found by the hash of the run's description and of this program, so no result outlives
//! the code that made it.

use crate::ui;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use microslice_sim::{Record, Run};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// One of several equal parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    part: usize,
    of: usize,
}

impl Shard {
    /// Reads "I/N", 1 <= I <= N.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (part, of) = text.split_once('/').ok_or("I/N is wanted, as in 2/8")?;
        let number = |t: &str| t.parse::<usize>().map_err(|e| format!("{t:?}: {e}"));
        let (part, of) = (number(part)?, number(of)?);
        if (1..=of).contains(&part) { Ok(Self { part, of }) } else { Err("I goes from 1 to N".to_owned()) }
    }

    /// Whether run `i` is in it.
    pub fn has(&self, i: usize) -> bool {
        i % self.of == self.part - 1
    }
}

/// All runs at once; records in their order.
///
/// # Errors
/// If one of them is refused.
pub fn execute(runs: &[Run]) -> Result<Vec<Record>, microslice_sim::run::Error> {
    runs.par_iter().map(Run::execute).collect()
}

/// Where records are kept.
pub struct Store {
    folder: PathBuf,
    program: [u8; 32],
}

impl Store {
    /// In `folder`, for this program.
    ///
    /// # Errors
    /// If the program cannot be read or the folder not be made.
    pub fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let path = std::env::current_exe().context("finding this program")?;
        let program = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self { folder: folder.to_owned(), program: Sha256::digest(program).into() })
    }

    fn path(&self, run: &Run) -> Result<PathBuf> {
        let text = serde_json::to_vec(run).context("run to JSON")?;
        let hash = Sha256::new().chain_update(self.program).chain_update(text).finalize();
        let name: String = hash.iter().take(12).map(|b| format!("{b:02x}")).collect();
        Ok(self.folder.join(name + ".json"))
    }

    fn kept(&self, run: &Run) -> Result<Option<Record>> {
        let path = self.path(run)?;
        let Ok(text) = std::fs::read(&path) else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).with_context(|| format!("record in {}", path.display()))
    }

    fn one(&self, run: &Run) -> Result<Record> {
        if let Some(record) = self.kept(run)? {
            return Ok(record);
        }
        let record = run.execute().with_context(|| format!("simulating, seed {}", run.seed))?;
        let text = serde_json::to_vec(&record).context("record to JSON")?;
        microslice_results::write_atomically(&self.path(run)?, &text)?;
        Ok(record)
    }

    /// Records of `runs`, in their order: those that are kept, and, unless `only_kept`, those that `wanted` wants.
    ///
    /// # Errors
    /// If a run is refused, or a file cannot be read or written.
    pub fn run(
        &self,
        runs: &[&Run],
        wanted: impl Fn(usize) -> bool + Sync,
        only_kept: bool,
    ) -> Result<Vec<Option<Record>>> {
        let bar = ProgressBar::new(runs.len() as u64);
        if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("simulating {bar:40} {pos}/{len} ({eta} left)");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        } else {
            bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
            ui::say(&format!("simulating {} runs", runs.len()));
        }
        // Long runs first would be better still; neighbours differ in length, so chance spreads them.
        let done = runs
            .par_iter()
            .enumerate()
            .with_max_len(1)
            .map(|(i, run)| {
                let record = if only_kept || !wanted(i) { self.kept(run)? } else { Some(self.one(run)?) };
                bar.inc(1);
                Ok(record)
            })
            .collect();
        bar.finish_and_clear();
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use microslice_sim::{Kind, Scenario, SchedSpec};

    #[test]
    fn shards_are_a_partition_and_nonsense_is_refused() {
        let shards: Vec<Shard> = (1..=3).map(|i| Shard::parse(&format!("{i}/3")).unwrap()).collect();
        assert!((0..20).all(|i| shards.iter().filter(|s| s.has(i)).count() == 1));
        assert!(["0/3", "4/3", "1", "a/b", "1/0"].iter().all(|t| Shard::parse(t).is_err()));
    }

    #[test]
    fn shards_together_are_the_whole_and_a_kept_run_is_not_done_again() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios");
        let mut scenario = Scenario::read(&folder, "iperf-tcp").unwrap();
        (scenario.warm_ms, scenario.measure_ms) = (1, 20);
        let runs: Vec<Run> =
            (1..=4).map(|s| scenario.run(SchedSpec::new(Kind::Credit2, None), false, s)).collect();
        let runs: Vec<&Run> = runs.iter().collect();
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let whole = Store::open(a.path()).unwrap().run(&runs, |_| true, false).unwrap();
        let store = Store::open(b.path()).unwrap();
        for part in ["1/2", "2/2"] {
            let shard = Shard::parse(part).unwrap();
            store.run(&runs, |i| shard.has(i), false).unwrap();
        }
        assert_eq!(store.run(&runs, |_| false, true).unwrap(), whole);
        // What is kept is what is used.
        let path = store.path(runs[0]).unwrap();
        let mut changed = whole[0].clone().unwrap();
        changed.steps = 7;
        std::fs::write(&path, serde_json::to_vec(&changed).unwrap()).unwrap();
        assert_eq!(store.run(&runs, |_| true, false).unwrap()[0], Some(changed));
    }
}
