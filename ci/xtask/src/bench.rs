// SPDX-License-Identifier: GPL-3.0-only
//! Counts the instructions of schedulers: Xen's own credit and credit2, and microslice with its library.
//!
//! The objects are those of a release build of the patched Xen (`-O2`, no assertions), linked into a process by
//! sched-rs/bench, which gives them a machine and the same load. callgrind counts, so a result is the same on every run.

use crate::cache::{Cache, Key};
use crate::run;
use crate::rustlib::{self, Object};
use crate::series::{add_sections, for_hypervisor};
use crate::source;
use crate::ui::Step;
use crate::xen::{self, Inputs};
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A release build. Return thunks are off: they would cost the C code, and only it, an instruction more for each return.
const CONFIG: &[&str] = &[
    "CONFIG_EXPERT=y",
    "# CONFIG_DEBUG is not set",
    "CONFIG_SCHED_MICROSLICE=y",
    "# CONFIG_INDIRECT_THUNK is not set",
    "# CONFIG_RETURN_THUNK is not set",
];
/// What sched-rs/bench adds to Xen's tree.
const OWN: &[&str] = &["common/sched/ms-bench.o", "common/sched/ms-credit2.o"];
/// What is linked, from Xen's tree.
const OBJECTS: &[&str] = &[
    "common/sched/credit.o",
    "common/sched/microslice.o",
    "common/bitmap.o",
    "arch/x86/bitops.o",
    "arch/x86/string.o",
    "lib/x86-generic-hweightl.o",
    "lib/strcmp.o",
    "lib/memcmp.o",
];
const UNITS: [u32; 3] = [8, 64, 512];
const CPUS: [u32; 3] = [4, 16, 64];
/// Ranges of a guest kernel: the most that Xen takes.
const RANGES: u32 = 4096;
/// The schedulers, and whether the guests' ranges are known.
const ROWS: [(&str, u32); 4] = [("credit", 0), ("credit2", 0), ("microslice", 0), ("microslice", RANGES)];

/// Arguments of `cargo xtask bench core`.
#[derive(Debug, clap::Args)]
pub struct Core {
    /// Version of Xen: a directory of xen-patches
    #[arg(long, default_value = "4.20", value_name = "VERSION")]
    xen: String,
    /// Calls of schedule() that are counted in each cell
    #[arg(long, default_value_t = 4000)]
    calls: u32,
    /// Of the plans of the units
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only cells of UNITSxCPUS, e.g. 64x16, and keep what callgrind wrote in target/bench
    #[arg(long, value_name = "UNITSxCPUS")]
    cell: Option<String>,
    /// Count in this program, which an earlier run left as target/bench/program, and build nothing
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Calls and instructions of one operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Cost {
    calls: u64,
    instructions: u64,
    /// Of those, in the Rust library.
    library: u64,
}

/// One scheduler under one load.
#[derive(Debug, Serialize)]
struct Run {
    scheduler: String,
    ranges: u32,
    units: u32,
    cpus: u32,
    operations: BTreeMap<String, Cost>,
    /// What the program says of the load.
    load: BTreeMap<String, u64>,
}

impl Run {
    fn cost(&self, name: &str) -> Cost {
        self.operations.get(name).copied().unwrap_or_default()
    }

    /// Instructions of the `names` together, for each call of `per` or each millisecond of the machine's time; and those of them in the library.
    fn each(&self, names: &[&str], per: &str) -> Option<(f64, f64)> {
        let of = match per {
            "millisecond" => self.load.get("ns").copied().unwrap_or_default() as f64 / 1e6,
            operation => self.cost(operation).calls as f64,
        };
        let sum = |f: fn(Cost) -> u64| names.iter().map(|n| f(self.cost(n))).sum::<u64>() as f64 / of;
        (of > 0.0).then(|| (sum(|c| c.instructions), sum(|c| c.library)))
    }
}

/// Runs all cells, prints the tables and writes target/bench/core.json.
///
/// # Errors
/// If something cannot be built or run.
pub fn core(cache: &Cache, root: &Path, args: &Core) -> Result<()> {
    run::output(Command::new("valgrind").arg("--version"))
        .context("instructions are counted by valgrind's callgrind; Debian's package is `valgrind`")?;
    let out = root.join("target/bench");
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => {
            let (built, kept) =
                (build(cache, root, &Inputs::read(root, &args.xen, None)?)?, out.join("program"));
            fs::copy(built, &kept).with_context(|| format!("writing {}", kept.display()))?;
            kept
        }
    };
    let mut step = Step::new("bench: counting instructions");
    let mut runs = Vec::new();
    for (units, cpus) in UNITS.into_iter().flat_map(|u| CPUS.map(|c| (u, c))) {
        if args.cell.as_ref().is_some_and(|c| *c != format!("{units}x{cpus}")) {
            continue;
        }
        for (scheduler, ranges) in ROWS {
            step.tick();
            runs.push(count(&program, &out, scheduler, [units, cpus, ranges], args)?);
        }
    }
    ensure!(!runs.is_empty(), "there is no such cell: units are {UNITS:?}, pCPUs {CPUS:?}");
    let classify = count(&program, &out, "classify", [1, 1, RANGES], args)?;
    step.done();
    println!("{}", tables(&runs, &classify));
    runs.push(classify);
    let file = out.join("core.json");
    fs::write(&file, serde_json::to_string_pretty(&runs)?)
        .with_context(|| format!("writing {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}

fn build(cache: &Cache, root: &Path, inputs: &Inputs) -> Result<PathBuf> {
    let object = rustlib::build(cache, root)?;
    let own = root.join("sched-rs/bench");
    let mut key = Key::new("bench 1").field(inputs.source.key()?.hex()).field(CONFIG.join("\n"));
    key = add_sections(key, &inputs.series.patches, for_hypervisor);
    key = rustlib::add_to(key.field(OBJECTS.join("\n")).tree(&own)?, &object)?;
    let dir = cache.entry("bench", &key, |dir| make(cache, inputs, &object, &own, dir))?;
    Ok(dir.join("bench"))
}

fn make(cache: &Cache, inputs: &Inputs, object: &Object, own: &Path, dir: &Path) -> Result<()> {
    let staged = xen::stage(cache, inputs, &inputs.series.patches)?;
    let work = "work/xen-bench";
    let _lock = cache.lock(work)?;
    let tree = cache.dir(work)?;
    source::lay(staged.path(), &tree)?;
    let log = cache.log("bench");
    xen::make_hypervisor(&tree, CONFIG, Some(object), "bench: building the hypervisor as a release", &log)?;
    let mut step = Step::new("bench: linking the schedulers into a process");
    let xen = tree.join("xen");
    for (from, to) in [("env.c", "ms-bench.c"), ("credit2.c", "ms-credit2.c"), ("host.h", "host.h")] {
        let to = xen.join("common/sched").join(to);
        fs::copy(own.join(from), &to).with_context(|| format!("writing {}", to.display()))?;
    }
    run::logged_in(xen::make(&xen).args(OWN), &log, &mut step)?;
    let mut link = Command::new("gcc");
    link.args(["-std=gnu11", "-O2", "-Wall", "-Werror", "-no-pie", "-pthread", "-o"]).arg(dir.join("bench"));
    link.arg(own.join("host.c")).arg("-T").arg(own.join("bench.ld"));
    link.args(OWN.iter().chain(OBJECTS).map(|o| xen.join(o))).arg(&object.path);
    run::logged_in(&mut link, &log, &mut step)?;
    step.done();
    Ok(())
}

fn count(
    program: &Path,
    out: &Path,
    scheduler: &str,
    [units, cpus, ranges]: [u32; 3],
    args: &Core,
) -> Result<Run> {
    let file = out.join(format!("callgrind.{scheduler}-{ranges}-{units}x{cpus}"));
    let mut cmd = Command::new("valgrind");
    cmd.args(["--tool=callgrind", "--quiet", "--collect-atstart=no", "--toggle-collect=measured_*"]);
    cmd.args(["--compress-strings=no", "--compress-pos=no", "--separate-callers4=ms_rs_handle"]);
    cmd.args(["--separate-callers4=ms_rs_classify"]);
    cmd.arg(format!("--callgrind-out-file={}", file.display())).arg(program).arg(scheduler);
    cmd.args([units, cpus, ranges, args.calls / 2, args.calls].map(|n| n.to_string()));
    cmd.arg(args.seed.to_string());
    let said = run::output(&mut cmd)?;
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    if args.cell.is_none() {
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    }
    let mut load = BTreeMap::new();
    for line in said.lines() {
        let (name, value) = line.split_once(' ').with_context(|| format!("what the program said: {line}"))?;
        load.insert(name.to_owned(), value.parse()?);
    }
    let operations = operations(&text)?;
    for (name, cost) in &operations {
        if let Some(want) = load.get(name) {
            ensure!(
                cost.calls == *want,
                "{scheduler}: callgrind saw {} calls of {name}, not {want}",
                cost.calls
            );
        }
    }
    Ok(Run { scheduler: scheduler.to_owned(), ranges, units, cpus, operations, load })
}

/// The costs of what `measured_*` calls, from callgrind's file.
fn operations(text: &str) -> Result<BTreeMap<String, Cost>> {
    let mut found: BTreeMap<String, Cost> = BTreeMap::new();
    let (mut function, mut callee, mut calls) = ("", "", None);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            function = name;
        } else if let Some(name) = line.strip_prefix("cfn=") {
            callee = name;
        } else if let Some(rest) = line.strip_prefix("calls=") {
            calls = rest.split(' ').next().map(str::parse::<u64>).transpose()?;
        } else if let Some(calls) = calls.take() {
            // The inclusive cost of the calls on the line before.
            let cost = line.rsplit(' ').next().unwrap_or_default().parse::<u64>();
            let cost = cost.with_context(|| format!("callgrind's line after calls=: {line}"))?;
            if let Some(name) = function.strip_prefix("measured_") {
                let own = found.entry(name.to_owned()).or_default();
                own.calls += calls;
                own.instructions += cost;
            }
            // A function of the library has its callers in its name.
            let outermost = callee.split('\'').find_map(|f| f.strip_prefix("measured_"));
            if let (true, Some(name)) =
                (callee.starts_with("ms_rs_") && !function.starts_with("ms_rs_"), outermost)
            {
                found.entry(name.to_owned()).or_default().library += cost;
            }
        }
    }
    if found.is_empty() {
        bail!("callgrind saw no measured call");
    }
    Ok(found)
}

/// What is compared, of which operations, for each call of which.
const TABLES: &[(&str, &[&str], &str)] = &[
    ("`schedule`, with `context_saved` after a switch", &["schedule", "saved"], "schedule"),
    ("`wake`", &["wake"], "wake"),
    ("`yield`", &["yield"], "yield"),
    (
        "all callbacks and timers of a scheduler, for each millisecond of the machine's time",
        ALL,
        "millisecond",
    ),
];
const ALL: &[&str] = &["schedule", "saved", "wake", "yield", "timer", "pick", "migrate"];

fn tables(runs: &[Run], classify: &Run) -> String {
    let mut text = String::new();
    for (title, names, per) in TABLES {
        let _ = writeln!(text, "Instructions of {title}:\n");
        text += "| units | pCPUs | credit | credit2 | microslice (library) | of credit2 | with ranges (library) | of credit2 |\n";
        text += "|---|---|---|---|---|---|---|---|\n";
        for rows in runs.chunks(ROWS.len()) {
            let _ = write!(text, "| {} | {} ", rows[0].units, rows[0].cpus);
            let reference = rows[1].each(names, per);
            for (i, row) in rows.iter().enumerate() {
                match row.each(names, per) {
                    None => text += if i < 2 { "| - " } else { "| - | - " },
                    Some((all, _)) if i < 2 => {
                        let _ = write!(text, "| {all:.0} ");
                    }
                    Some((all, library)) => {
                        let ratio = reference.map_or("-".to_owned(), |r| format!("{:.2}", all / r.0));
                        let _ = write!(text, "| {all:.0} ({library:.0}) | {ratio} ");
                    }
                }
            }
            text += "|\n";
        }
        text.push('\n');
    }
    if let Some((all, _)) = classify.each(&["classify"], "classify") {
        let _ = writeln!(text, "`ms_rs_classify` in {RANGES} ranges: {all:.1} instructions.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_those_of_calls_out_of_measured_functions_and_the_librarys_go_to_the_outermost() {
        let text = "events: Ir\n\nfn=measured_wake\n10 5\ncfn=ms_wake\ncalls=3 0\n10 300\n\nfn=ms_wake\n20 30\n\
            cfn=ms_rs_handle'msp_event'ms_wake'measured_wake\ncalls=3 0\n20 240\n\n\
            fn=ms_rs_handle'msp_event'ms_wake'measured_wake\n1 90\ncfn=handle\ncalls=3 0\n1 150\n";
        let found = operations(text).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found["wake"], Cost { calls: 3, instructions: 300, library: 240 });
        assert!(operations("events: Ir\n").is_err());
    }
}
