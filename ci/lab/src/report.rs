// SPDX-License-Identifier: GPL-3.0-only
//! The table for terminals, the acceptance ratios, and the self-contained HTML report with its plots.

use anyhow::{Context, Result};
use microslice_results::{Latency, Results, Row, Stat};
use plotters::prelude::*;
use std::fmt::Write;

const HEAD: [&str; 9] = [
    "scheduler",
    "policy",
    "micro cores",
    "pure TLB shootdown mean / p99 / max (us)",
    "target elapsed (s)",
    "target user",
    "co-runner progress",
    "yields by cause (ipi/lock/other)",
    "accelerated (ipi/lock/irq)",
];

/// `a`, and the spread when there is one.
fn cell(stat: &Stat, digits: usize) -> String {
    if stat.min == stat.max {
        return format!("{:.digits$}", stat.mean);
    }
    format!("{:.digits$} [{:.digits$}..{:.digits$}]", stat.mean, stat.min, stat.max)
}

fn optional(stat: Option<&Stat>, digits: usize) -> String {
    stat.map_or("-".to_owned(), |stat| cell(stat, digits))
}

fn latency_cell(latency: &Latency) -> String {
    [&latency.mean, &latency.p99, &latency.max].map(|stat| cell(stat, 0)).join(" / ")
}

fn counters(stats: &[Option<Stat>]) -> String {
    stats
        .iter()
        .map(|stat| stat.map_or("-".to_owned(), |stat| format!("{:.0}", stat.mean)))
        .collect::<Vec<_>>()
        .join("/")
}

fn percent(stat: Option<&Stat>) -> String {
    let scaled =
        stat.map(|s| Stat { mean: s.mean * 100.0, min: s.min * 100.0, max: s.max * 100.0, ci95: None });
    scaled.map_or("-".to_owned(), |stat| cell(&stat, 1) + " %")
}

fn cells(row: &Row) -> [String; 9] {
    let alone = if row.consolidated { "" } else { " (alone)" };
    [
        format!("{}{alone}", row.scheduler),
        row.policy.clone().unwrap_or_else(|| "-".to_owned()),
        row.micro_cores.map_or("-".to_owned(), |count| count.to_string()),
        row.tlb_sync_us.as_ref().map_or("-".to_owned(), latency_cell),
        optional(row.target.elapsed_s.as_ref(), 2),
        percent(row.target.user_progress.as_ref()),
        percent(row.corunner.as_ref().map(|corunner| &corunner.progress)),
        row.yields.as_ref().map_or("-".to_owned(), |y| counters(&[y.ipi, y.lock, y.other])),
        row.accelerated.as_ref().map_or("-".to_owned(), |a| counters(&[a.ipi, a.lock, a.irq])),
    ]
}

/// The table, in Markdown's form, columns aligned.
pub fn text(results: &Results) -> String {
    let rows: Vec<[String; 9]> = results.rows.iter().map(cells).collect();
    let mut widths = HEAD.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let line = |cells: Vec<String>| {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let mut out = line(HEAD.map(str::to_owned).to_vec());
    out += &format!("|{}|\n", widths.map(|width| "-".repeat(width + 2)).join("|"));
    for row in rows {
        out += &line(row.to_vec());
    }
    let _ = writeln!(
        out,
        "source {:?}, seeds {:?}, Xen {}; mean of the runs [smallest..largest]; time constants {}",
        results.source, results.seeds, results.xen, results.config["timing"]
    );
    out
}

/// Each row against stock credit beside the same co-runner, with what is wanted of the best micro size.
pub fn ratios(results: &Results) -> String {
    let Some(base) = results.row("credit") else { return "no ratios: row credit was not run\n".to_owned() };
    let mut out = String::from("against credit:\n");
    for row in results.rows.iter().filter(|row| row.consolidated && row.name != base.name) {
        let mut parts = Vec::new();
        if let (Some(ours), Some(theirs)) = (&row.tlb_sync_us, &base.tlb_sync_us) {
            parts.push(format!("shootdown mean {:.1}x lower (10 wanted)", theirs.mean.mean / ours.mean.mean));
            parts.push(format!("p99 {:.1}x lower (5 wanted)", theirs.p99.mean / ours.p99.mean));
        }
        if let (Some(ours), Some(theirs)) = (&row.target.elapsed_s, &base.target.elapsed_s) {
            parts.push(format!("elapsed {:+.0} % (-20 wanted)", (ours.mean / theirs.mean - 1.0) * 100.0));
        }
        if let (Some(ours), Some(theirs)) = (&row.target.user_progress, &base.target.user_progress) {
            parts.push(format!("target user work {:.0} %", ours.mean / theirs.mean * 100.0));
        }
        if let (Some(ours), Some(theirs)) = (&row.corunner, &base.corunner) {
            let kept = ours.progress.mean / theirs.progress.mean * 100.0;
            parts.push(format!("co-runner keeps {kept:.0} % (70 wanted)"));
        }
        let _ = writeln!(out, "  {:<14} {}", row.name, parts.join(", "));
    }
    out
}

/// The report: everything in one file, nothing loaded from elsewhere.
pub fn html(results: &Results) -> Result<String> {
    let mut table = String::from("<table><tr>");
    for head in HEAD {
        let _ = write!(table, "<th>{head}</th>");
    }
    table += "</tr>";
    for row in &results.rows {
        let cells = cells(row).map(|cell| format!("<td>{}</td>", escape(&cell))).concat();
        let _ = write!(table, "<tr>{cells}</tr>");
    }
    table += "</table>";
    let mut plots = String::new();
    if let Some(svg) = latency_plot(results).context("plot latencies")? {
        let _ = write!(
            plots,
            "<h2>Pure TLB shootdown</h2>{svg}<p>Mark: mean of the seeds; bar: smallest to largest.</p>"
        );
    }
    if let Some(svg) = progress_plot(results).context("plot progress")? {
        let _ = write!(plots, "<h2>Progress</h2>{svg}");
    }
    Ok(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Microslice: {title}</title><style>\
         body{{font:15px sans-serif;margin:2em auto;max-width:75em}}table{{border-collapse:collapse}}\
         td,th{{border:1px solid #bbb;padding:.3em .6em;text-align:left}}pre{{background:#f4f4f4;padding:1em;overflow:auto}}\
         </style><h1>{title}</h1><p>Source: {source:?}. Seeds: {seeds:?}. Xen {xen}.</p>{table}<pre>{ratios}</pre>{plots}\
         <h2>Configuration</h2><pre>{config}</pre></html>\n",
        title = escape(&results.scenario),
        source = results.source,
        seeds = results.seeds,
        xen = escape(&results.xen),
        ratios = escape(&ratios(results)),
        config = escape(&serde_json::to_string_pretty(&results.config).context("configuration to JSON")?),
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A kind of mark: its name, colour, place in a row's column, and what it shows.
type Kind<'a, F> = (&'a str, RGBColor, f64, F);
/// One statistic of a distribution.
type PickLatency = fn(&Latency) -> Stat;
/// A value of a row and what it is compared with.
type Pick<'a> = Box<dyn Fn(&Row) -> Option<(Stat, f64)> + 'a>;

/// Latencies on a logarithmic axis: p50, mean and p99 of each row with the spread of the seeds.
fn latency_plot(results: &Results) -> Result<Option<String>> {
    let rows: Vec<(&Row, &Latency)> =
        results.rows.iter().filter_map(|row| Some((row, row.tlb_sync_us.as_ref()?))).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let top = rows.iter().map(|(_, latency)| latency.max.max).fold(1.0, f64::max) * 2.0;
    let bottom = rows.iter().map(|(_, latency)| latency.p50.min).fold(top, f64::min).max(0.1) / 2.0;
    let names: Vec<String> = rows.iter().map(|(row, _)| row.name.clone()).collect();
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (980, 420)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(80)
            .build_cartesian_2d(0f64..rows.len() as f64, (bottom..top).log_scale())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(rows.len() * 2 + 1)
            .x_label_formatter(&|x| between(&names, *x))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .y_desc("microseconds")
            .draw()?;
        let kinds: [Kind<PickLatency>; 3] = [
            ("p50", RGBColor(90, 90, 90), 0.3, |latency| latency.p50),
            ("mean", RGBColor(20, 90, 200), 0.5, |latency| latency.mean),
            ("p99", RGBColor(200, 60, 30), 0.7, |latency| latency.p99),
        ];
        for (name, color, place, pick) in kinds {
            let points: Vec<(f64, Stat)> = rows
                .iter()
                .enumerate()
                .map(|(index, (_, latency))| (index as f64 + place, pick(latency)))
                .collect();
            chart.draw_series(
                points
                    .iter()
                    .map(|(x, s)| PathElement::new(vec![(*x, s.min), (*x, s.max)], color.stroke_width(3))),
            )?;
            chart
                .draw_series(points.iter().map(|(x, s)| Circle::new((*x, s.mean), 5, color.filled())))?
                .label(name)
                .legend(move |(x, y)| Circle::new((x + 8, y), 5, color.filled()));
        }
        chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
        area.present()?;
    }
    Ok(Some(svg))
}

/// A row's name at the middle of its column, nothing elsewhere.
fn between(names: &[String], x: f64) -> String {
    let middle = (x - x.floor() - 0.5).abs() < 0.01;
    names.get(x.floor() as usize).filter(|_| middle).cloned().unwrap_or_default()
}

/// Bars against credit: how long the target takes, how far the co-runner comes.
fn progress_plot(results: &Results) -> Result<Option<String>> {
    let Some(base) = results.row("credit") else { return Ok(None) };
    let share = |own: Option<Stat>, base: Option<Stat>| Some((own?, base?.mean));
    let rows: Vec<&Row> = results.rows.iter().filter(|row| row.consolidated).collect();
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    let progress = |row: &Row| row.corunner.as_ref().map(|corunner| corunner.progress);
    let kinds: [Kind<Pick<'_>>; 2] = [
        (
            "target elapsed / credit",
            RGBColor(20, 90, 200),
            0.2,
            Box::new(|row| share(row.target.elapsed_s, base.target.elapsed_s)),
        ),
        (
            "co-runner progress / credit",
            RGBColor(230, 150, 30),
            0.55,
            Box::new(|row| share(progress(row), progress(base))),
        ),
    ];
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (980, 340)).into_drawing_area();
        let tops = rows.iter().flat_map(|row| kinds.iter().filter_map(|kind| kind.3(row)));
        let top = tops.map(|(stat, base)| stat.max / base).fold(1.2, f64::max) * 1.15;
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(60)
            .build_cartesian_2d(0f64..rows.len() as f64, 0f64..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(rows.len() * 2 + 1)
            .x_label_formatter(&|x| between(&names, *x))
            .draw()?;
        for (name, color, place, pick) in &kinds {
            let bars: Vec<(f64, Stat, f64)> = rows
                .iter()
                .enumerate()
                .filter_map(|(index, row)| pick(row).map(|(stat, base)| (index as f64 + place, stat, base)))
                .collect();
            let (fill, color) = (color.filled(), *color);
            chart
                .draw_series(
                    bars.iter()
                        .map(|(x, s, base)| Rectangle::new([(*x, 0.0), (x + 0.28, s.mean / base)], fill)),
                )?
                .label(*name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled()));
            chart.draw_series(bars.iter().map(|(x, s, base)| {
                PathElement::new(
                    vec![(x + 0.14, s.min / base), (x + 0.14, s.max / base)],
                    BLACK.stroke_width(2),
                )
            }))?;
        }
        chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
        area.present()?;
    }
    Ok(Some(svg))
}

#[cfg(test)]
mod tests {
    use super::*;
    use microslice_results::{Corunner, SCHEMA, Source, Target};

    fn stat(mean: f64) -> Stat {
        Stat { mean, min: mean / 2.0, max: mean * 2.0, ci95: None }
    }

    fn row(name: &str, us: f64) -> Row {
        let latency = Latency {
            mean: stat(us),
            p50: stat(us),
            p99: stat(us * 3.0),
            max: stat(us * 9.0),
            samples: 5,
            pooled_p99: None,
        };
        Row {
            name: name.into(),
            scheduler: name.into(),
            policy: None,
            micro_cores: None,
            consolidated: true,
            runs: 2,
            target: Target { elapsed_s: Some(stat(us / 1e3)), throughput: None, user_progress: None },
            corunner: Some(Corunner { progress: stat(0.5) }),
            tlb_sync_us: Some(latency),
            mprotect_us: None,
            lock_wait_us: None,
            yields: None,
            accelerated: None,
            micro_stay_max_us: None,
            wall_s: None,
        }
    }

    fn results() -> Results {
        Results {
            schema: SCHEMA.into(),
            source: Source::Lab,
            scenario: "a < b".into(),
            seeds: vec![1, 2],
            xen: "4.20".into(),
            config: serde_json::json!({ "timing": { "slice_ms": 150 } }),
            rows: vec![row("credit", 200_000.0), row("microslice", 1_000.0)],
        }
    }

    #[test]
    fn the_ratios_name_what_is_wanted() {
        let text = ratios(&results());
        assert!(
            text.contains("mean 200.0x lower (10 wanted)") && text.contains("co-runner keeps 100 %"),
            "{text}"
        );
    }

    #[test]
    fn the_report_holds_its_plots_and_loads_nothing() {
        let page = html(&results()).unwrap();
        assert_eq!(page.matches("<svg").count(), 2);
        assert!(page.contains("a &lt; b") && page.contains("microslice"));
        assert!(!page.contains("<script") && !page.contains("<link") && !page.contains("src="));
    }

    #[test]
    fn results_survive_the_file() {
        let folder = tempfile::tempdir().unwrap();
        results().write(folder.path()).unwrap();
        assert_eq!(Results::read(&folder.path().join("results.json")).unwrap(), results());
    }
}
