// SPDX-License-Identifier: GPL-3.0-only
//! One run by hand: `microslice-lab ROW [SEED [SCALE]]`, ROW one of the table (alone, credit, microslice-1, ...), `e2e [RUN]`, `eval [SEEDS]`, or `script FILE [NAME=FILE...]`
//! (run in dom0, with other files there as NAME); inputs from the environment
//! (LAB_HYPERVISOR, LAB_XEN_TREE, LAB_KERNEL, LAB_GUEST, LAB_MICROSLICE, LAB_PACKAGE, LAB_NEWER_KERNEL, LAB_GRUB, LAB_CACHE, LAB_QEMU).
//! LAB_ALONE=1 leaves out the row's co-runner.
//! The table and the tests are `cargo xtask eval lab` and `cargo xtask e2e`.

use anyhow::{Context, Result};
use microslice_lab::measure::{self, Record};
use microslice_lab::qemu::Clock;
use microslice_lab::{E2eArgs, EvalArgs, LabInputs, cpio, e2e, eval_lab, images, report, run, scenario};
use microslice_results::{Results, SCHEMA, Source};
use std::path::PathBuf;
use std::time::Duration;

fn main() -> Result<()> {
    let inputs = inputs()?;
    let mut words = std::env::args().skip(1);
    let row = words.next().context("usage: microslice-lab ROW [SEED [SCALE]]")?;
    if row == "eval" {
        let mut args = EvalArgs::new(inputs.clone(), inputs.cache.join("eval"));
        (args.jobs, args.seeds) =
            (1, words.next().map_or(Ok(1), |word| word.parse()).context("SEEDS is a number")?);
        return eval_lab(&args).map(|_| ());
    }
    if row == "e2e" {
        let folder = inputs.cache.join("e2e");
        return e2e(&E2eArgs {
            inputs,
            folder,
            jobs: 1,
            limit: Duration::from_secs(1_200),
            seed: 1,
            only: words.next(),
            kernel: words.next().map(PathBuf::from),
        });
    }
    if row == "script" {
        let file = words.next().context("usage: microslice-lab script FILE [NAME=FILE...]")?;
        return script(&inputs, &file, words);
    }
    let seed = words.next().map_or(Ok(1), |word| word.parse()).context("SEED is a number")?;
    let scale = words.next().map_or(Ok(10), |word| word.parse()).context("SCALE is a number")?;
    let mut config =
        scenario::Config::table().into_iter().find(|config| config.name == row).context("no such row")?;
    config.push &= inputs.microslice.is_some();
    config.micro_cores = config.micro_cores.filter(|_| inputs.microslice.is_some());
    config.xen_options = std::env::var("LAB_XEN_OPTIONS").unwrap_or_default();
    config.corun &= std::env::var_os("LAB_ALONE").is_none();
    let run = scenario::Run {
        config,
        seed,
        timing: scenario::Timing::scaled(scale),
        workload: match std::env::var("LAB_WORKLOAD").as_deref() {
            Ok("hog") => scenario::Workload::Hog,
            _ => scenario::Workload::Shootdown,
        },
        guest_pcpus: 4,
        vcpus: 4,
    };
    let images = images::prepare(&inputs, false)?;
    let folder = inputs.cache.join("hand");
    let finished = run::execute(&inputs, &images, &run, &folder, Duration::from_secs(900))?;
    println!("wall {:.1} s", finished.wall.as_secs_f64());
    let record = Record::of(&run, &finished.transcript, finished.wall.as_secs_f64())?;
    let results = Results {
        schema: SCHEMA.to_owned(),
        source: Source::Lab,
        scenario: run.name(),
        seeds: vec![seed],
        xen: run.xen_options(),
        config: serde_json::json!({ "timing": run.timing }),
        rows: measure::row(&[record]).into_iter().collect(),
    };
    println!("{}", serde_json::to_string_pretty(&results.rows)?);
    println!("{}", report::text(&results));
    Ok(())
}

/// Runs a shell script in dom0 under the microslice scheduler, as tests/e2e/control.sh is run.
fn script(inputs: &LabInputs, path: &str, others: impl Iterator<Item = String>) -> Result<()> {
    let images = images::prepare(inputs, false)?;
    let config = scenario::Config::microslice(1);
    let run = scenario::Run {
        config,
        seed: 1,
        timing: scenario::Timing::scaled(scenario::Timing::DEFAULT_SCALE),
        workload: scenario::Workload::Shootdown,
        guest_pcpus: 4,
        vcpus: 4,
    };
    let text = std::fs::read(path).with_context(|| format!("read {path}"))?;
    let mut job = run.job_for("custom", "poweroff");
    // A later archive adds to the earlier ones.
    let mut files = cpio::Archive::default();
    files.file("agent/custom.sh", text, 0o755);
    for word in others {
        let (name, path) = word.split_once('=').with_context(|| format!("{word:?}: expected NAME=FILE"))?;
        files.file(name, std::fs::read(path).with_context(|| format!("read {path}"))?, 0o755);
    }
    job.extend(files.bytes());
    let folder = inputs.cache.join("hand");
    let limit = Duration::from_secs(900);
    let options = std::env::var("LAB_XEN_OPTIONS").unwrap_or_else(|_| "sched=microslice".to_owned());
    let host = run::Host { name: "script", xen_options: &options, smp: "5", clock: Clock::Counted, seed: 1 };
    let finished = run::machine(inputs, &images, &host, &job, &folder, limit)?;
    println!("{:#?}\n{:#?}", finished.transcript.checks, finished.transcript.captured);
    Ok(())
}

fn inputs() -> Result<LabInputs> {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let need = |name: &str| path(name).with_context(|| format!("{name} is not set"));
    Ok(LabInputs {
        hypervisor: need("LAB_HYPERVISOR")?,
        xen_tree: need("LAB_XEN_TREE")?,
        kernel_dir: need("LAB_KERNEL")?,
        guest: need("LAB_GUEST")?,
        microslice: path("LAB_MICROSLICE"),
        package: path("LAB_PACKAGE"),
        newer_kernel: path("LAB_NEWER_KERNEL"),
        grub: path("LAB_GRUB"),
        cache: need("LAB_CACHE")?,
        qemu: path("LAB_QEMU").unwrap_or_else(|| "/usr/bin/qemu-system-x86_64".into()),
    })
}
