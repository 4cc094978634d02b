// SPDX-License-Identifier: GPL-3.0-only
//! Fairness, and what a scheduler costs when nothing is urgent: CPU hogs of three VMs with weights 128, 256 and 512.
//!
//! Three pCPUs, each VM with as many vCPUs as there are to be for each pCPU. Time constants are the real ones, not
//! stretched: nothing here depends on how long an interrupt takes. A VM's share is its part of the time that all of them ran in
//! a window, by Xen's own accounting; the error is the largest difference of a share from its weight's part, in percent of
//! the machine. Work is counted too, for the sum of all VMs only: emulated pCPUs differ in speed by a fifth, so
//! what a VM does in its time depends on where it runs.

use crate::cpio::Archive;
use crate::images;
use crate::inputs::{LabInputs, file_hash, hash};
use crate::measure::rate;
use crate::qemu::Clock;
use crate::run::{self, Host};
use crate::scenario::{Config, Run, Scheduler, Timing, Workload};
use crate::serial::Transcript;
use anyhow::{Context, Result, ensure};
use microslice_guest::protocol::Event;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Name and weight of each VM.
const VMS: [(&str, u32); 3] = [("light", 128), ("middle", 256), ("heavy", 512)];
const PCPUS: u32 = 3;
/// Virtual seconds: before the windows, and the windows.
const WARM_S: u64 = 2;
const WINDOWS_S: [u64; 2] = [3, 12];

/// What to measure.
#[derive(Clone, Debug)]
pub struct SharesArgs {
    /// Paths of everything built.
    pub inputs: LabInputs,
    /// Where results go.
    pub folder: PathBuf,
    /// Seeds 1..=seeds.
    pub seeds: u64,
    /// vCPUs for each pCPU.
    pub ratios: Vec<u32>,
    /// Wall time that one run may take.
    pub limit: Duration,
}

/// What one window of one run says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Window {
    seconds: u64,
    /// Part of all time that was run, in the order of [`VMS`].
    shares: Vec<f64>,
    /// Largest difference of a share from its weight's part, in percent of the machine.
    error: f64,
    /// Work units a millisecond, of all together.
    work_per_ms: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    scheduler: Scheduler,
    ratio: u32,
    seed: u64,
    windows: Vec<Window>,
    wall_s: f64,
}

/// Runs what has not been run, prints the table and writes results.json.
///
/// # Errors
/// If an image cannot be made or a run fails.
pub fn shares(args: &SharesArgs) -> Result<()> {
    let images = images::prepare(&args.inputs, false)?;
    let hypervisor = file_hash(&args.inputs.hypervisor)?;
    let mut all: Vec<Outcome> = Vec::new();
    for seed in 1..=args.seeds {
        for ratio in args.ratios.iter().copied() {
            for scheduler in [Scheduler::Credit, Scheduler::Credit2, Scheduler::Microslice] {
                let run = run_of(scheduler, ratio, seed);
                let (job, name) = (job(&run), format!("{scheduler}-{ratio}to1-s{seed}"));
                let key =
                    hash(&[images.key.as_bytes(), hypervisor.as_bytes(), &job, run.xen_options().as_bytes()]);
                let path = args.folder.join("runs").join(format!("{name}-{}.json", &key[..16]));
                let before = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
                let outcome = match before {
                    Some(outcome) => outcome,
                    None => {
                        let host = Host {
                            name: &name,
                            xen_options: &run.xen_options(),
                            smp: &(PCPUS + 1).to_string(),
                            clock: Clock::Counted,
                            seed,
                        };
                        let work = args.folder.join("work");
                        let done = run::machine(&args.inputs, &images, &host, &job, &work, args.limit)?;
                        let windows =
                            WINDOWS_S.iter().map(|s| window(&done.transcript, *s)).collect::<Result<_>>();
                        let windows = windows.with_context(|| format!("run {name}"))?;
                        let wall_s = done.wall.as_secs_f64();
                        let outcome = Outcome { scheduler, ratio, seed, windows, wall_s };
                        microslice_results::write_atomically(&path, &serde_json::to_vec_pretty(&outcome)?)?;
                        outcome
                    }
                };
                eprintln!("eval shares: {name}: {:.0} s", outcome.wall_s);
                all.push(outcome);
            }
        }
    }
    microslice_results::write_atomically(
        &args.folder.join("results.json"),
        &serde_json::to_vec_pretty(&all)?,
    )?;
    println!("{}", table(&all));
    Ok(())
}

fn run_of(scheduler: Scheduler, ratio: u32, seed: u64) -> Run {
    let config = match scheduler {
        Scheduler::Microslice => Config::with_policy("microslice", "borrow", 0),
        stock => Config::stock(stock, true),
    };
    let timing = Timing::scaled(1);
    Run { config, seed, timing, workload: Workload::Hog, guest_pcpus: PCPUS, vcpus: ratio }
}

fn job(run: &Run) -> Vec<u8> {
    let names: Vec<&str> = VMS.iter().map(|(name, _)| *name).collect();
    let mut text = format!(
        "SCENARIO=shares\nDOMAINS=\"{}\"\nSCHEDULER={}\nAT=\"{WARM_S} {}\"\n",
        names.join(" "),
        run.config.scheduler,
        WINDOWS_S.map(|s| (WARM_S + s).to_string()).join(" ")
    );
    let mut archive = Archive::default();
    for (name, weight) in VMS {
        let _ = writeln!(text, "WEIGHT_{name}={weight}");
        archive.file(
            &format!("job/{name}.cfg"),
            run.guest_config(name, "plain_hog:every_ms=10", "idle"),
            0o644,
        );
    }
    archive.file("job/job.sh", text, 0o644);
    archive.bytes()
}

fn window(transcript: &Transcript, seconds: u64) -> Result<Window> {
    let (before, after) = (cpu_ns(transcript, WARM_S)?, cpu_ns(transcript, WARM_S + seconds)?);
    let ran: Vec<f64> = after.iter().zip(&before).map(|(b, a)| b.saturating_sub(*a) as f64).collect();
    let (all, weights) = (ran.iter().sum::<f64>(), VMS.iter().map(|(_, w)| f64::from(*w)).sum::<f64>());
    ensure!(all > 0.0, "no VM ran");
    let shares: Vec<f64> = ran.iter().map(|r| r / all).collect();
    let off =
        |(share, (_, weight)): (&f64, &(&str, u32))| (share - f64::from(*weight) / weights).abs() * 100.0;
    let error = shares.iter().zip(&VMS).map(off).fold(0.0, f64::max);
    let mut work = 0.0;
    for (name, _) in VMS {
        let events =
            transcript.guests.get(name).with_context(|| format!("the VM {name} reported nothing"))?;
        let first =
            events.iter().find_map(|e| if let Event::Progress { t_ns, .. } = e { Some(*t_ns) } else { None });
        // Each guest's clock counts from about its own start.
        let from = first.with_context(|| format!("the VM {name} did no work"))? + WARM_S * 1_000_000_000;
        work += rate(events, from, from + seconds * 1_000_000_000)?;
    }
    Ok(Window { seconds, shares, error, work_per_ms: work * 1e6 })
}

/// For how long each of [`VMS`] had run at that second, from `microslice domain list --json`.
fn cpu_ns(transcript: &Transcript, second: u64) -> Result<Vec<u64>> {
    let name = format!("cpu-{second}");
    let text = &transcript.captured.get(&name).with_context(|| format!("no {name} came out"))?.text;
    let domains: Vec<Value> = serde_json::from_str(text).with_context(|| format!("read {name}"))?;
    let of = |vm: &str| domains.iter().find(|d| d["name"] == vm)?["cpu_ns"].as_u64();
    VMS.iter().map(|(vm, _)| of(vm).with_context(|| format!("{name} has no CPU time of {vm}"))).collect()
}

fn table(all: &[Outcome]) -> String {
    let mut text = String::from(
        "| vCPUs for each pCPU | scheduler | window (s) | shares of 128 / 256 / 512 (%) | error (% of the machine) | work, credit2 = 100 % |\n\
         |---|---|---|---|---|---|\n",
    );
    for ratio in all.iter().map(|o| o.ratio).collect::<std::collections::BTreeSet<_>>() {
        for (at, seconds) in WINDOWS_S.iter().enumerate() {
            let of = |s: Scheduler| -> Vec<&Window> {
                all.iter()
                    .filter(|o| o.scheduler == s && o.ratio == ratio)
                    .filter_map(|o| o.windows.get(at))
                    .collect()
            };
            let mean = |w: &[&Window], f: &dyn Fn(&Window) -> f64| {
                w.iter().map(|w| f(w)).sum::<f64>() / w.len() as f64
            };
            let reference = mean(&of(Scheduler::Credit2), &|w| w.work_per_ms);
            for scheduler in [Scheduler::Credit, Scheduler::Credit2, Scheduler::Microslice] {
                let windows = of(scheduler);
                let share =
                    |i: usize| mean(&windows, &|w| w.shares.get(i).copied().unwrap_or(f64::NAN) * 100.0);
                let most = windows.iter().map(|w| w.error).fold(0.0, f64::max);
                let _ = writeln!(
                    text,
                    "| {ratio} | {scheduler} | {seconds} | {:.1} / {:.1} / {:.1} | {:.2}, at most {most:.2} | {:.2} % |",
                    share(0),
                    share(1),
                    share(2),
                    mean(&windows, &|w| w.error),
                    mean(&windows, &|w| w.work_per_ms) / reference * 100.0
                );
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::Captured;

    #[test]
    fn shares_of_time_are_compared_with_weights_in_percent_of_the_machine() {
        let mut transcript = Transcript::default();
        for (name, _) in VMS {
            let events = (0..=300).map(|i| Event::Progress { t_ns: i * 100_000_000, work: i * 20 }).collect();
            transcript.guests.insert(name.to_owned(), events);
        }
        // 1 : 2 : 4 would be exact; the light VM has 1.7.
        for (second, ran) in [(2, 0), (5, 1)] {
            let cpu = |(name, speed): (&str, u64)| {
                format!(r#"{{"name":"{name}","cpu_ns":{}}}"#, 7_000 + ran * speed)
            };
            let all = [("light", 17), ("middle", 20), ("heavy", 40)].map(cpu).join(",");
            let text = format!(r#"[{{"name":"Domain-0","cpu_ns":1}},{all}]"#);
            transcript.captured.insert(format!("cpu-{second}"), Captured { text, status: 0 });
        }
        let window = window(&transcript, 3).unwrap();
        assert!((window.shares[0] - 17.0 / 77.0).abs() < 1e-9);
        assert!((window.error - (17.0 / 77.0 - 1.0 / 7.0) * 100.0).abs() < 1e-9);
        assert!((window.work_per_ms - 0.6).abs() < 1e-9);
    }
}
