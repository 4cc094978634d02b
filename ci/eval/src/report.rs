// SPDX-License-Identifier: GPL-3.0-only
//! target/eval/sim/report.html: everything in one file, nothing loaded from elsewhere.

use crate::paper::{self, Bar, Gain, Ours, Page, Paper, Predicted};
use crate::rows::{BASELINE, peer};
use anyhow::{Context, Result};
use microslice_results::{Results, Row, Stat};
use plotters::prelude::*;
use std::fmt::Write;

const STYLE: &str = "body{font:15px sans-serif;margin:2em auto;max-width:75em}table{border-collapse:collapse}\
    td,th{border:1px solid #bbb;padding:.2em .6em;text-align:right}td:first-child,th:first-child{text-align:left}\
    .bad{color:#b00}.plots{display:flex;flex-wrap:wrap}";
const PAPER: RGBColor = RGBColor(150, 150, 150);
const PEER: RGBColor = RGBColor(20, 90, 200);
const CORE: RGBColor = RGBColor(230, 140, 30);

/// The page.
///
/// # Errors
/// If a plot cannot be drawn.
pub fn html(paper: &Paper, pages: &[Page], lab: Option<&Results>) -> Result<String> {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Microslice: simulation</title><style>{STYLE}</style>\
         <h1>Microslice, simulated</h1><p>Source: simulation. The core that runs in Xen, on a simulated machine with simulated guests; \
         credit and credit2 are models. Bars and ratios are relative to the model of the paper's baseline, credit of Xen 4.7. Workloads \
         were fitted to the paper's numbers <em>without</em> micro-sliced cores only; its figures with them are predictions. What is held \
         against them is a model of the paper's own system, micro cores on top of that credit: its errors are the guests' and that \
         model's. Our core with as many reserved micro cores stands beside it. Whiskers and +-: 95 % confidence.</p>"
    );
    if let Some(s) = paper::summary(paper, pages) {
        let _ = write!(out, "<p><strong>{}.</strong></p>", escape(&paper::verdict(&s)));
    }
    for (page, p) in paper::compared(paper, pages) {
        let name = escape(&page.results.scenario);
        let seeds = &page.results.seeds;
        let _ = write!(out, "<h2>{name}</h2><p>Seeds {seeds:?}.</p>");
        out += &figures(page, p).with_context(|| format!("plotting {}", page.name))?;
        out += &yields(paper, page, p);
        out += &baseline(paper, page);
    }
    out += "<h2>Beyond the paper</h2>";
    out += &gains(pages);
    for page in pages.iter().filter(|p| p.paper.is_none()) {
        out += &others(page);
    }
    if let (Some(page), Some(lab)) = (pages.iter().find(|p| p.name == "shootdown"), lab) {
        out += &beside_lab(&page.results, lab);
    }
    out += "<h2>Costs</h2><pre>";
    if let Some(page) = pages.first() {
        out += &escape(&serde_json::to_string_pretty(&page.results.config).context("configuration to JSON")?);
    }
    Ok(out + "</pre></html>\n")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: Vec<&str>| -> String {
        cells.iter().map(|c| format!("<{tag}>{c}</{tag}>")).collect::<String>()
    };
    let mut out = format!("<table><tr>{}</tr>", cells("th", head.to_vec()));
    for row in rows {
        let _ = write!(out, "<tr>{}</tr>", cells("td", row.iter().map(String::as_str).collect()));
    }
    out + "</table>"
}

/// The paper's bars beside ours, for the target and the co-runner, and their errors.
fn figures(page: &Page, p: &Predicted) -> Result<String> {
    let bars = page.bars(p);
    let mut out = "<div class=\"plots\">".to_owned();
    for (corunner, title) in
        [(false, format!("target: {:?} / baseline", p.unit)), (true, "co-runner: time / baseline".to_owned())]
    {
        let own: Vec<&Bar> = bars.iter().filter(|b| b.corunner == corunner).collect();
        if own.len() > 1 {
            out += &plot(&title, &own)?;
        }
    }
    out += "</div>";
    let rows: Vec<Vec<String>> = bars
        .iter()
        .map(|b| {
            let error = b.error() * 100.0;
            let class = if error.abs() > 15.0 { " class=\"bad\"" } else { "" };
            let with_ci =
                |o: &Ours| number(o.value) + &o.ci95.map_or(String::new(), |c| format!(" +- {c:.2}"));
            vec![
                b.cores.clone(),
                if b.corunner { "co-runner's time" } else { "target" }.to_owned(),
                number(b.paper),
                with_ci(&b.peer),
                format!("<span{class}>{error:+.0} %</span>"),
                b.core.as_ref().map_or("-".to_owned(), with_ci),
            ]
        })
        .collect();
    out += &table(&["micro cores", "of", "paper", "its system, simulated", "error", "our core"], &rows);
    Ok(out)
}

fn number(x: f64) -> String {
    if x != 0.0 && x.abs() < 0.1 { format!("{x:.4}") } else { format!("{x:.2}") }
}

fn plot(title: &str, bars: &[&Bar]) -> Result<String> {
    let names: Vec<&str> = bars.iter().map(|b| b.cores.as_str()).collect();
    let core = |b: &Bar| b.core.map_or(0.0, |o| o.value);
    let top = bars.iter().flat_map(|b| [b.paper, b.peer.value, core(b)]).fold(1.0, f64::max) * 1.2;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (560, 280)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .caption(title, ("sans-serif", 15))
            .x_label_area_size(30)
            .y_label_area_size(40)
            .build_cartesian_2d(0f64..bars.len() as f64, 0f64..top)?;
        let label = |x: &f64| {
            let middle = (x - x.floor() - 0.5).abs() < 0.01;
            names.get(x.floor() as usize).filter(|_| middle).map_or(String::new(), |n| (*n).to_owned())
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(bars.len() * 2 + 1)
            .x_label_formatter(&label)
            .draw()?;
        let kinds = [("paper", PAPER, 0.1), ("its system, simulated", PEER, 0.37), ("our core", CORE, 0.64)];
        for (kind, (name, color, left)) in kinds.into_iter().enumerate() {
            let value = |b: &Bar| [b.paper, b.peer.value, core(b)][kind];
            chart
                .draw_series(bars.iter().enumerate().map(|(i, b)| {
                    let x = i as f64 + left;
                    Rectangle::new([(x, 0.0), (x + 0.26, value(b))], color.filled())
                }))?
                .label(name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled()));
        }
        chart.draw_series(bars.iter().enumerate().filter_map(|(i, b)| {
            let (x, c) = (i as f64 + 0.5, b.peer.ci95?);
            let ends = vec![(x, (b.peer.value - c).max(0.0)), (x, (b.peer.value + c).min(top))];
            Some(PathElement::new(ends, BLACK.stroke_width(2)))
        }))?;
        chart.draw_series([PathElement::new(vec![(0.0, 1.0), (bars.len() as f64, 1.0)], BLACK)])?;
        chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
        area.present()?;
    }
    Ok(svg)
}

/// Yields by cause.
fn yields(paper: &Paper, page: &Page, p: &Predicted) -> String {
    let Some(b) = page.paper.as_ref().and_then(|n| paper.baselines.get(n)) else { return String::new() };
    let Some(best) = page.best(p) else { return String::new() };
    let Some([fixed, dynamic]) = p.yields else { return String::new() };
    let mut rows = vec![];
    for (row, total) in
        [(BASELINE.to_owned(), 1.0), (peer(&best.0.to_string()), fixed), (peer("dynamic"), dynamic)]
    {
        let Some(y) = page.yields(&row, b.per) else { continue };
        let sum: f64 = y.iter().sum();
        let mut cells = vec![row, number(total), number(sum)];
        cells.extend(y.iter().map(|n| number(*n)));
        rows.push(cells);
    }
    let head =
        ["yields / the baseline's", "paper, all", "simulated, all", "IPI wait", "lock wait", "halt", "other"];
    format!("<h3>Yields by what the paper's code takes for their cause</h3>{}", table(&head, &rows))
}

/// What the workload was fitted to.
fn baseline(paper: &Paper, page: &Page) -> String {
    let Some(b) = page.paper.as_ref().and_then(|n| paper.baselines.get(n)) else { return String::new() };
    let rows: Vec<Vec<String>> = page
        .targets(b)
        .iter()
        .map(|t| {
            let ours = t.ours.map_or("-".to_owned(), number);
            let error = t.ours.map_or("-".to_owned(), |o| format!("{:.2} x", o / t.paper));
            vec![t.name.clone(), number(t.paper), ours, error]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = ["baseline (fitted)", "paper", "ours", "ours / paper"];
    format!("<h3>The baseline, to which the workload was fitted</h3>{}", table(&head, &rows))
}

/// The best of ours against the paper's dynamic sizing, both simulated.
fn gains(pages: &[Page]) -> String {
    let cell = |g: &Gain| vec![number(g.target), number(g.corunner), number(g.weighted)];
    let mut rows = vec![];
    for page in pages {
        let (Some(dynamic), Some(best)) = (paper::gain(page, &peer("dynamic")), paper::best_of_ours(page))
        else {
            continue;
        };
        let mut cells = vec![page.name.clone()];
        cells.extend(cell(&dynamic));
        cells.push(best.row.clone());
        cells.extend(cell(&best));
        rows.push(cells);
    }
    let head = [
        "scenario",
        "eurosys-dynamic: target's speed",
        "co-runner's time",
        "weighted",
        "best of ours",
        "target's speed",
        "co-runner's time",
        "weighted",
    ];
    format!(
        "<p>Against credit of 4.7. Weighted speed-up: throughput over that alone, summed over the VMs, where a VM's share of the machine is its \
         vCPUs'. Best of ours is chosen by it, among {} rows, so a little of its lead is luck.</p>{}",
        pages
            .iter()
            .map(|p| p.results.rows.iter().filter(|r| !crate::rows::not_ours(&r.name)).count())
            .max()
            .unwrap_or(0),
        table(&head, &rows)
    )
}

/// All rows of a scenario that the paper has not.
fn others(page: &Page) -> String {
    let rows: Vec<Vec<String>> = page
        .results
        .rows
        .iter()
        .filter(|r| r.consolidated)
        .filter_map(|r| paper::gain(page, &r.name))
        .map(|g| vec![g.row, number(g.target), number(g.corunner), number(g.weighted)])
        .collect();
    let head = ["row", "target's speed", "co-runners' time", "weighted"];
    format!("<h3>{}</h3>{}", escape(&page.results.scenario), table(&head, &rows))
}

/// One metric of both: its name, and how to get it, absolutely or over the credit row's.
type Metric = (&'static str, fn(&Row) -> Option<Stat>, bool);
const METRICS: [Metric; 3] = [
    ("shootdown, mean us", |r| Some(r.tlb_sync_us.as_ref()?.mean), false),
    ("shootdowns a second / credit's", |r| r.target.throughput, true),
    ("co-runner's progress", |r| Some(r.corunner.as_ref()?.progress), false),
];

/// A metric of a row that both have.
pub struct Pair {
    /// The row.
    pub row: String,
    /// The metric.
    pub what: &'static str,
    /// Mean, least and greatest of the simulator's runs.
    pub sim: [f64; 3],
    /// The same of the lab's.
    pub lab: [f64; 3],
}

impl Pair {
    /// How far the means are apart, percent.
    pub fn error(&self) -> f64 {
        (self.sim[0] / self.lab[0] - 1.0) * 100.0
    }
}

/// Rows that both have.
pub fn against_lab(sim: &Results, lab: &Results) -> Vec<Pair> {
    let mut out = vec![];
    for row in &sim.rows {
        // The lab has no Xen 4.7; alone, both are 4.20 in all but name.
        let Some(other) = lab.row(&row.name) else { continue };
        for (name, pick, relative) in METRICS {
            let base = |r: &Results| {
                if relative { r.row("credit").and_then(pick).map(|s| s.mean) } else { Some(1.0) }
            };
            let (Some(a), Some(b)) = (pick(row).zip(base(sim)), pick(other).zip(base(lab))) else { continue };
            let over = |(s, base): (Stat, f64)| [s.mean / base, s.min / base, s.max / base];
            out.push(Pair { row: row.name.clone(), what: name, sim: over(a), lab: over(b) });
        }
    }
    out
}

fn beside_lab(sim: &Results, lab: &Results) -> String {
    let rows: Vec<Vec<String>> = against_lab(sim, lab)
        .into_iter()
        .map(|p| {
            let error = p.error();
            let class = if error.abs() > 25.0 { " class=\"bad\"" } else { "" };
            let range =
                |[mean, min, max]: [f64; 3]| format!("{} ({} to {})", number(mean), number(min), number(max));
            let error = format!("<span{class}>{error:+.0} %</span>");
            vec![p.row, p.what.to_owned(), range(p.sim), range(p.lab), error]
        })
        .collect();
    let head = ["row", "what", "simulator: mean (runs)", "lab: mean (runs)", "simulator against lab"];
    format!(
        "<h2>The shootdown scenario in the lab and here</h2><p>Lab: {} (seeds {:?}).</p>{}",
        escape(&lab.xen),
        lab.seeds,
        table(&head, &rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_both_bars_and_loads_nothing() {
        let ours = Ours { value: 0.6, ci95: Some(0.1) };
        let bar = |cores: &str| Bar {
            cores: cores.into(),
            corunner: false,
            paper: 0.5,
            peer: ours,
            core: Some(ours),
        };
        let (a, b) = (bar("1"), bar("dynamic"));
        let svg = plot("x", &[&a, &b]).unwrap();
        // Three bars for each of two rows.
        assert!(svg.matches("<rect").count() >= 6, "{svg}");
        assert!(svg.contains("dynamic") && !svg.contains("href"));
    }
}
