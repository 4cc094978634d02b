// SPDX-License-Identifier: GPL-3.0-only
//! Simulated beside the paper's: the baseline that was fitted, and the figures that were not.
//!
//! What is held against the paper's figures is the model of its own system ([`peer`]); rows of our core with the same number of
//! reserved micro cores stand beside as what we do. All are relative to the model of the paper's baseline, credit of Xen 4.7. Times are for equal work, so a target's time is
//! the inverse of its throughput. `prediction.yaml` is read here and nowhere else.

use crate::rows::{BASELINE, not_ours, peer};
use crate::table::Flows;
use anyhow::Result;
use microslice_results::{Results, Stat};
use microslice_sim::calibrate::{self, Baseline, Baselines, Per, Target};
use microslice_sim::{Record, scenario};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// What the paper's figure shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Execution time over the baseline's.
    Time,
    /// Throughput over the baseline's.
    Throughput,
    /// Jitter over the baseline's.
    Jitter,
}

/// The paper's results for a workload with micro-sliced cores.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predicted {
    /// What its numbers are.
    pub unit: Unit,
    /// For 1, 2, ... micro cores: target, and co-runner's time if it was reported.
    #[serde(default, rename = "static")]
    pub fixed: Vec<Vec<f64>>,
    /// Under the paper's sizing: the same.
    #[serde(default)]
    pub dynamic: Vec<f64>,
    /// All yields over the baseline's: best static, dynamic.
    #[serde(default)]
    pub yields: Option<[f64; 2]>,
}

/// Both of the paper's files.
pub struct Paper {
    /// What was fitted to.
    pub baselines: Baselines,
    /// What was not.
    pub predictions: BTreeMap<String, Predicted>,
}

impl Paper {
    /// Reads them.
    pub fn read(folder: &Path) -> Result<Self> {
        let predictions = scenario::read(&folder.join("paper/prediction.yaml"))?;
        Ok(Self { baselines: calibrate::baselines(folder)?, predictions })
    }
}

/// A scenario's results with what the comparison needs besides.
pub struct Page {
    /// The scenario's name.
    pub name: String,
    /// Its name in the paper's files.
    pub paper: Option<String>,
    /// Results.
    pub results: Results,
    /// Records alone and under the baseline.
    pub baseline: Vec<Vec<Record>>,
    /// The target's flow, by row.
    pub flow: Flows,
    /// Yields a second, by row, as the paper's code counts them.
    pub counted: BTreeMap<String, [f64; 4]>,
    /// Co-running VMs' vCPUs over the target's.
    pub corunners: f64,
}

/// A number with its uncertainty, if it is known.
#[derive(Clone, Copy, Debug)]
pub struct Ours {
    /// Ratio of the means.
    pub value: f64,
    /// Half of its 95 % confidence interval.
    pub ci95: Option<f64>,
}

/// One of the paper's bars and ours.
#[derive(Clone, Debug)]
pub struct Bar {
    /// The number of micro cores, or "dynamic".
    pub cores: String,
    /// Of the co-runner, not the target.
    pub corunner: bool,
    /// The paper's.
    pub paper: f64,
    /// Its system, simulated.
    pub peer: Ours,
    /// Our core with as many reserved micro cores.
    pub core: Option<Ours>,
}

impl Bar {
    /// Its system, simulated, over the paper's, less one.
    pub fn error(&self) -> f64 {
        self.peer.value / self.paper - 1.0
    }

    /// Whether both are on the same side of the baseline; within 5 % of it is no side.
    fn same_direction(&self) -> bool {
        let side = |x: f64| {
            if (x - 1.0).abs() < 0.05 {
                0
            } else if x > 1.0 {
                1
            } else {
                -1
            }
        };
        side(self.paper) == 0 || side(self.peer.value) == 0 || side(self.paper) == side(self.peer.value)
    }
}

fn ratio(a: Stat, b: Stat) -> Option<Ours> {
    (b.mean > 0.0 && a.mean > 0.0).then(|| {
        let part = |s: Stat| s.ci95.map(|c| c / s.mean);
        let value = a.mean / b.mean;
        let ci95 = part(a).zip(part(b)).map(|(x, y)| value * x.hypot(y));
        Ours { value, ci95 }
    })
}

impl Page {
    /// The target of `row`, in the paper's unit.
    fn target(&self, row: &str, unit: Unit) -> Option<Ours> {
        let throughput = |name: &str| self.results.row(name)?.target.throughput;
        let flow = |name: &str| self.flow.get(name).copied().unwrap_or_default();
        match unit {
            Unit::Time => ratio(throughput(BASELINE)?, throughput(row)?),
            Unit::Throughput if flow(BASELINE).0.is_some() => ratio(flow(row).0?, flow(BASELINE).0?),
            Unit::Throughput => ratio(throughput(row)?, throughput(BASELINE)?),
            Unit::Jitter => ratio(flow(row).1?, flow(BASELINE).1?),
        }
    }

    /// The co-runner's time in `row`.
    fn corunner(&self, row: &str) -> Option<Ours> {
        let progress = |name: &str| Some(self.results.row(name)?.corunner.as_ref()?.progress);
        ratio(progress(BASELINE)?, progress(row)?)
    }

    /// All bars that the paper has.
    pub fn bars(&self, p: &Predicted) -> Vec<Bar> {
        let fixed = p.fixed.iter().enumerate().map(|(i, b)| ((i + 1).to_string(), b.clone()));
        let mut bars = vec![];
        for (cores, paper) in fixed.chain([("dynamic".to_owned(), p.dynamic.clone())]) {
            let both = |row: &str| [self.target(row, p.unit), self.corunner(row)];
            let (peers, core) = (both(&peer(&cores)), both(&format!("paper-{cores}")));
            for (i, paper) in paper.into_iter().enumerate().take(2) {
                let Some(peer) = peers[i] else { continue };
                bars.push(Bar { cores: cores.clone(), corunner: i == 1, paper, peer, core: core[i] });
            }
        }
        bars
    }

    /// The best static number of micro cores: the paper's and that of its system simulated.
    pub fn best(&self, p: &Predicted) -> Option<(usize, usize)> {
        let best = |values: Vec<f64>| {
            let sign = if p.unit == Unit::Throughput { -1.0 } else { 1.0 };
            let it = values.into_iter().enumerate().min_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)));
            it.map(|(i, _)| i + 1)
        };
        let ours: Option<Vec<f64>> =
            (1..=p.fixed.len()).map(|n| Some(self.target(&peer(&n.to_string()), p.unit)?.value)).collect();
        let paper: Vec<f64> = p.fixed.iter().filter_map(|b| b.first().copied()).collect();
        if paper.len() < 2 { None } else { Some((best(paper)?, best(ours?)?)) }
    }

    /// Yields of `row` by what the paper's code takes for their cause (IPI wait, lock wait, halt, other), over all of the baseline's, for
    /// equal work or equal time.
    pub fn yields(&self, row: &str, per: Per) -> Option<[f64; 4]> {
        let of = |row: &str| -> Option<[f64; 4]> {
            let by = if per == Per::Work { self.results.row(row)?.target.throughput?.mean } else { 1.0 };
            Some(self.counted.get(row)?.map(|n| n / by))
        };
        let base: f64 = of(BASELINE)?.iter().sum();
        Some(of(row)?.map(|n| n / base))
    }

    /// The baseline's numbers beside ours.
    pub fn targets(&self, b: &Baseline) -> Vec<Target> {
        match self.baseline.as_slice() {
            [alone, both] if !alone.is_empty() && !both.is_empty() => calibrate::targets(b, alone, both),
            _ => vec![],
        }
    }

    /// Weighted speed-up of a row: the target's throughput over what it does alone, plus the co-runners' progress, which is
    /// relative to undisturbed vCPUs already.
    pub fn weighted(&self, row: &str) -> Option<f64> {
        let r = self.results.row(row)?;
        let alone = self.results.row("alone")?.target.throughput?.mean;
        let corunners = r.corunner.as_ref()?.progress.mean * self.corunners;
        Some(r.target.throughput?.mean / alone + corunners)
    }
}

/// A row against the baseline: how many times as fast the target is, the co-runner's time, the weighted speed-up.
#[derive(Clone, Debug)]
pub struct Gain {
    /// The row.
    pub row: String,
    /// Target's throughput over the baseline's.
    pub target: f64,
    /// Co-runners' time over the baseline's.
    pub corunner: f64,
    /// Weighted speed-up.
    pub weighted: f64,
}

/// What `row` gains on `page`.
pub fn gain(page: &Page, row: &str) -> Option<Gain> {
    let target = page.target(row, Unit::Throughput)?.value;
    if page.flow.values().any(|f| f.0.is_some()) {
        // A flow's target does other work besides: no weighted speed-up.
        return None;
    }
    let (corunner, weighted) = (page.corunner(row)?.value, page.weighted(row)?);
    Some(Gain { row: row.to_owned(), target, corunner, weighted })
}

/// Of our rows, the one with the best weighted speed-up.
pub fn best_of_ours(page: &Page) -> Option<Gain> {
    let ours = page.results.rows.iter().filter(|r| !not_ours(&r.name)).filter_map(|r| gain(page, &r.name));
    ours.max_by(|a, b| a.weighted.total_cmp(&b.weighted))
}

/// Verdicts over all workloads.
pub struct Summary {
    /// Bars compared.
    pub bars: usize,
    /// Median of the errors' sizes: targets, co-runners.
    pub median: [f64; 2],
    /// Workloads, and those whose best number of micro cores is the paper's or next to it.
    pub best: (usize, usize),
    /// Bars on the same side of the baseline.
    pub direction: usize,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Pages that the paper has results for.
pub fn compared<'a>(paper: &'a Paper, pages: &'a [Page]) -> impl Iterator<Item = (&'a Page, &'a Predicted)> {
    pages.iter().filter_map(|page| Some((page, paper.predictions.get(page.paper.as_ref()?)?)))
}

/// Takes all bars together; `None` without any.
pub fn summary(paper: &Paper, pages: &[Page]) -> Option<Summary> {
    let bars: Vec<Bar> = compared(paper, pages).flat_map(|(page, p)| page.bars(p)).collect();
    let best: Vec<(usize, usize)> = compared(paper, pages).filter_map(|(page, p)| page.best(p)).collect();
    let sizes = |co: bool| bars.iter().filter(|b| b.corunner == co).map(|b| b.error().abs()).collect();
    (!bars.is_empty()).then(|| Summary {
        bars: bars.len(),
        median: [median(sizes(false)), median(sizes(true))],
        best: (best.len(), best.iter().filter(|(a, b)| a.abs_diff(*b) <= 1).count()),
        direction: bars.iter().filter(|b| b.same_direction()).count(),
    })
}

/// In words.
pub fn verdict(s: &Summary) -> String {
    format!(
        "{} bars of the paper against its system, simulated: median error {:.0} % for targets and {:.0} % for co-runners; direction right for {}; best number of \
         micro cores the same or adjacent for {} of {} workloads",
        s.bars,
        s.median[0] * 100.0,
        s.median[1] * 100.0,
        s.direction,
        s.best.1,
        s.best.0
    )
}

/// The baseline's numbers as a table.
pub fn targets_text(targets: &[Target]) -> String {
    let mut out = String::new();
    for t in targets {
        let ours = t.ours.map_or("-".to_owned(), |o| format!("{o:.4}"));
        let _ = writeln!(out, "  {:<40} paper {:>12.4}   ours {ours:>12}", t.name, t.paper);
    }
    out
}

/// The comparison for terminals.
pub fn text(paper: &Paper, pages: &[Page]) -> String {
    let mut out = String::new();
    for (page, p) in compared(paper, pages) {
        let baseline = page.paper.as_ref().and_then(|p| paper.baselines.get(p));
        if let Some(b) = baseline {
            let _ = writeln!(out, "{}: the baseline, to which the workload was fitted", page.name);
            out += &targets_text(&page.targets(b));
        }
        let _ = writeln!(
            out,
            "{}: {:?} over the baseline's, by micro cores: paper / its system simulated (error); our core",
            page.name, p.unit
        );
        for b in page.bars(p) {
            let who = if b.corunner { "co-runner's time" } else { "target" };
            let ci = b.peer.ci95.map_or(String::new(), |c| format!(" +- {c:.2}"));
            let core = b.core.map_or("-".to_owned(), |o| format!("{:.2}", o.value));
            let _ = writeln!(
                out,
                "  {:<8} {who:<17} {:>6.2} / {:>6.2}{ci} ({:+.0} %); {core:>6}",
                b.cores,
                b.paper,
                b.peer.value,
                b.error() * 100.0
            );
        }
        if let Some((a, b)) = page.best(p) {
            let _ = writeln!(out, "  best number of micro cores: {a} / {b}");
        }
    }
    let gains: Vec<(&Page, Gain, Gain)> =
        pages.iter().filter_map(|p| Some((p, gain(p, &peer("dynamic"))?, best_of_ours(p)?))).collect();
    if !gains.is_empty() {
        out += "target's speed / co-runners' time / weighted speed-up, against credit of 4.7\n";
    }
    for (page, paper, ours) in gains {
        let cell = |g: &Gain| format!("{:>6.2} / {:.2} / {:.2}", g.target, g.corunner, g.weighted);
        let _ = writeln!(
            out,
            "  {:<12} eurosys-dynamic {}   best of ours: {:<12} {}",
            page.name,
            cell(&paper),
            ours.row,
            cell(&ours)
        );
    }
    if let Some(s) = summary(paper, pages) {
        let _ = writeln!(out, "{}", verdict(&s));
    }
    out
}
