// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets the parameters of a workload that say `fit`, so that the baseline (credit of Xen 4.7, no micro-sliced core) gives what
//! the paper's baseline gave. Knows nothing else: it reads `paper/baseline.yaml` and the scenario, and runs no scheduler but
//! credit.
//!
//! The paper does not give slowdowns, and none is fitted. Its yields are PAUSE exits and the hypercall after an IPI, and their causes are what its
//! code takes for them: the instruction pointer saved when the vCPU last lost its pCPU ([`crate::sched::Left`]). So a vCPU that halted, woke up and then
//! spins counts as halting until it has lost its pCPU again: this is where the paper's "halt" yields come from.
//!
//! Error: the sum, over all targets, of squared logarithms of simulated / paper for times, rates and ratios; and for shares of yields of
//! squared differences, a difference of 0.1 counting like a factor of 1.5.
//!
//! Search: each parameter in turn, then several at once by chance, are multiplied or divided by a step for as long as the error
//! falls; steps 4, 2, 1.4, 1.15. It ends where the error is below [`MET`]: what is met is left as it was estimated. Deterministic.

use crate::chance::Chance;
use crate::run::{Kind, Record, Run, SchedSpec};
use crate::scenario::{self, Scenario};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Whether yields are compared for equal work or for equal time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Equal work.
    Work,
    /// Equal time.
    Time,
}

/// What the paper measured for a workload without micro-sliced cores; pairs are alone, beside the co-runner.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// All yields of a run.
    #[serde(default)]
    pub yields: Option<[f64; 2]>,
    /// How they are compared.
    pub per: Per,
    /// Length of a run alone, seconds; an estimate.
    #[serde(default)]
    pub alone_s: Option<f64>,
    /// Yields beside the co-runner: IPI wait, lock wait, halt, other.
    #[serde(default)]
    pub shares: Option<[f64; 4]>,
    /// Mean contended waits by lock.
    #[serde(default)]
    pub lock_us: BTreeMap<String, [f64; 2]>,
    /// Mean TLB shootdown.
    #[serde(default)]
    pub tlb_us: Option<[f64; 2]>,
    /// Throughput of the flow.
    #[serde(default)]
    pub mbit_per_s: Option<[f64; 2]>,
    /// Jitter of the flow.
    #[serde(default)]
    pub jitter_ms: Option<[f64; 2]>,
}

/// All of them.
pub type Baselines = BTreeMap<String, Baseline>;

/// Reads `folder`/paper/baseline.yaml.
///
/// # Errors
/// If it is not as it should be.
pub fn baselines(folder: &Path) -> Result<Baselines, scenario::Error> {
    scenario::read(&folder.join("paper/baseline.yaml"))
}

/// One number of the baseline beside ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// What it is.
    pub name: String,
    /// The paper's.
    pub paper: f64,
    /// Ours; absent if nothing of the kind happened.
    pub ours: Option<f64>,
    /// How they are compared.
    pub kept: Kept,
}

/// How a number is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// By ratio.
    Ratio,
    /// By difference.
    Share,
}

impl Target {
    fn error(&self) -> f64 {
        let Some(ours) = self.ours else { return 9.0 };
        if self.kept == Kept::Share {
            return ((ours - self.paper) / 0.1 * 1.5f64.ln()).powi(2);
        }
        let log = (ours.max(1e-9) / self.paper).ln();
        log.abs().min(4.0).powi(2)
    }
}

fn mean(records: &[Record], f: impl Fn(&Record) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = records.iter().filter_map(f).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The numbers of `b` beside those of runs alone and beside the co-runner.
#[must_use]
pub fn targets(b: &Baseline, alone: &[Record], both: &[Record]) -> Vec<Target> {
    let mut out = vec![];
    let mut add = |name: String, paper: f64, ours: Option<f64>, kept: Kept| {
        out.push(Target { name, paper, ours, kept });
    };
    let pairs = |f: &dyn Fn(&Record) -> Option<f64>| [mean(alone, f), mean(both, f)];
    const WHERE: [&str; 2] = ["alone", "beside"];
    for (lock, paper) in &b.lock_us {
        let ours = pairs(&|r| r.vms[0].lock_us.get(lock).map(|t| t.mean));
        for i in 0..2 {
            add(format!("wait for {lock}, us, {}", WHERE[i]), paper[i], ours[i], Kept::Ratio);
        }
    }
    if let Some(paper) = b.tlb_us {
        let ours = pairs(&|r| r.vms[0].tlb_us.as_ref().map(|t| t.mean));
        for i in 0..2 {
            add(format!("TLB shootdown, us, {}", WHERE[i]), paper[i], ours[i], Kept::Ratio);
        }
    }
    for (name, paper, ours) in [
        ("Mbit/s", b.mbit_per_s, pairs(&|r| r.vms[0].mbit_per_s)),
        ("jitter, ms", b.jitter_ms, pairs(&|r| r.vms[0].jitter_ms)),
    ] {
        for (i, paper) in paper.into_iter().flatten().enumerate() {
            add(format!("{name}, {}", WHERE[i]), paper, ours[i], Kept::Ratio);
        }
    }
    let all = |r: &Record| r.vms[0].counted_per_s.iter().sum::<f64>();
    if let Some([a, c]) = b.yields {
        let per = |r: &Record| if b.per == Per::Work { r.vms[0].done_per_s.max(1e-9) } else { 1.0 };
        let [x, y] = pairs(&|r| Some(all(r) / per(r)));
        let ours = y.zip(x).map(|(y, x)| y / x.max(1e-9));
        add("yields, beside / alone".to_owned(), c / a, ours, Kept::Ratio);
        if let Some(s) = b.alone_s {
            add("yields a second, alone".to_owned(), a / s, mean(alone, |r| Some(all(r))), Kept::Ratio);
        }
    }
    if let Some(shares) = b.shares {
        for (name, i) in [("lock waits", 1), ("halts", 2), ("others", 3)] {
            let ours = mean(both, |r| Some(r.vms[0].counted_per_s[i] / all(r).max(1e-9)));
            add(format!("share of {name} in yields, beside"), shares[i], ours, Kept::Share);
        }
    }
    out
}

/// The calibrator's error over `targets`.
#[must_use]
pub fn error(targets: &[Target]) -> f64 {
    targets.iter().map(Target::error).sum()
}

/// Moves of several parameters at once for each step, times the number of parameters.
const TOGETHER: usize = 4;

/// An error at which the search ends: about that of one number wrong by a quarter.
pub const MET: f64 = 0.05;

/// Runs, all at once if the caller can.
pub type Execute<'a> = &'a dyn Fn(&[Run]) -> Result<Vec<Record>, crate::run::Error>;

/// The runs that show a scenario's baseline: alone, and beside its co-runners.
#[must_use]
pub fn runs(scenario: &Scenario, seeds: std::ops::Range<u64>) -> [Vec<Run>; 2] {
    [true, false].map(|alone| {
        seeds.clone().map(|s| scenario.run(SchedSpec::new(Kind::Credit47, None), alone, s)).collect()
    })
}

/// A result of the search.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// Parameters that were free, and what they are now.
    pub params: BTreeMap<String, f64>,
    /// Their error before and after.
    pub errors: (f64, f64),
    /// The numbers.
    pub targets: Vec<Target>,
    /// Settings tried.
    pub tried: u32,
}

/// Fits the target's workload of `scenario` to `b`.
///
/// # Errors
/// If a run is refused.
pub fn calibrate(
    scenario: &Scenario,
    b: &Baseline,
    seeds: std::ops::Range<u64>,
    execute: Execute<'_>,
) -> Result<Fitted, crate::run::Error> {
    let mut best = scenario.clone();
    let mut tried = 0;
    let mut score = |s: &Scenario| -> Result<(f64, Vec<Target>), crate::run::Error> {
        tried += 1;
        let [alone, both] = runs(s, seeds.clone());
        let n = alone.len();
        let records = execute(&[alone, both].concat())?;
        let targets = targets(b, &records[..n], &records[n..]);
        Ok((error(&targets), targets))
    };
    let free: Vec<(String, [f64; 2])> =
        scenario.vms[0].workload.params.iter().filter_map(|(name, p)| Some((name.clone(), p.fit?))).collect();
    let (before, mut found) = score(&best)?;
    let mut least = before;
    // Each parameter alone, up and down; then several at once, by chance.
    let mut chance = Chance::new(seeds.start);
    for step in [4.0, 2.0, 1.4, 1.15] {
        let alone = (0..free.len()).flat_map(|i| [(i, step), (i, 1.0 / step)]);
        let mut moves: Vec<Vec<(usize, f64)>> = alone.map(|m| vec![m]).collect();
        for _ in 0..TOGETHER * free.len() {
            let some = (0..free.len()).map(|i| (i, [1.0 / step, 1.0, 1.0, step][chance.below(4)]));
            moves.push(some.filter(|(_, f)| *f != 1.0).collect());
        }
        for m in moves {
            // As far as it helps.
            while least > MET {
                let mut trial = best.clone();
                for (i, factor) in &m {
                    let (name, [low, high]) = &free[*i];
                    let Some(p) = trial.vms[0].workload.params.get_mut(name) else { continue };
                    p.value = round(p.value * factor).clamp(*low, *high);
                }
                if trial.vms[0].workload.params == best.vms[0].workload.params {
                    break;
                }
                let (e, targets) = score(&trial)?;
                if e >= least * 0.998 {
                    break;
                }
                (least, best, found) = (e, trial, targets);
            }
        }
    }
    let params = free.into_iter().map(|(n, _)| (n.clone(), best.vms[0].workload.params[&n].value)).collect();
    Ok(Fitted { params, errors: (before, least), targets: found, tried })
}

/// To three digits.
fn round(x: f64) -> f64 {
    let scale = libm::pow(10.0, 2.0 - libm::floor(libm::log10(x.abs().max(1e-12))));
    libm::round(x * scale) / scale
}

/// The text of a workload's file with new values: only numbers after `NAME: {value:` change.
#[must_use]
pub fn rewrite(text: &str, params: &BTreeMap<String, f64>) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let name = line.trim_start().split_once(": {value: ").and_then(|(name, rest)| {
            let (old, _) = rest.split_once(',')?;
            Some((params.get(name)?, old))
        });
        match name {
            Some((value, old)) => {
                out += &line.replacen(&format!("value: {old},"), &format!("value: {value},"), 1)
            }
            None => out += line,
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fitted_values_change_in_the_file() {
        let text = "about: x\nparams:\n  a: {value: 1, fit: [0, 2], origin: \"value: 1, b\"}\n  b: {value: 1, origin: c}\n";
        let new = rewrite(text, &BTreeMap::from([("a".to_owned(), 0.25)]));
        assert_eq!(new, text.replacen("value: 1", "value: 0.25", 1));
    }

    #[test]
    fn rounding_keeps_three_digits() {
        assert_eq!([round(0.123_456), round(1_234.5), round(2.0)], [0.123, 1_230.0, 2.0]);
    }
}
