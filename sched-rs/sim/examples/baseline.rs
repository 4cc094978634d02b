// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far scenarios are from the paper's baseline, also with seeds that they were not fitted to:
//! `cargo run --release -p microslice-sim --example baseline [--from FOLDER] SCENARIO...` prints the error for four seeds from 1,
//! 11, 21, 31, 41 and 51 on. FOLDER has scenarios in the place of tests/scenarios.

use microslice_sim::{calibrate, scenario::Scenario};
use std::path::PathBuf;

const FIRST_SEEDS: [u64; 6] = [1, 11, 21, 31, 41, 51];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let own = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/scenarios"));
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    let from = if names.first().is_some_and(|n| n == "--from") {
        names.drain(..2.min(names.len())).nth(1).ok_or("--from: which folder?")?.into()
    } else {
        own.clone()
    };
    let baselines = calibrate::baselines(&own)?;
    for name in names {
        let scenario = Scenario::read(&from, &name)?;
        let paper = scenario.paper.as_ref().and_then(|p| baselines.get(p));
        let baseline = paper.ok_or_else(|| format!("{name}: the paper has no baseline of it"))?;
        let mut line = name.clone();
        for first in FIRST_SEEDS {
            let mut records = [vec![], vec![]];
            for (runs, records) in calibrate::runs(&scenario, first..first + 4).iter().zip(&mut records) {
                for run in runs {
                    records.push(run.execute()?);
                }
            }
            let [alone, both] = &records;
            line += &format!(" {:.2}", calibrate::error(&calibrate::targets(baseline, alone, both)));
        }
        println!("{line}");
    }
    Ok(())
}
