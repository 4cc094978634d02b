// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast the simulator is: `cargo run --release -p microslice-sim --example speed [WORKLOAD]`, one thread, 12 pCPUs,
//! 24 vCPUs, 3 micro cores.

use microslice_sim::{Kind, Run, SchedSpec, VmSpec, Workload};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = std::env::args().nth(1).unwrap_or_else(|| "gmake".to_owned());
    let vm = |name: &str| -> Result<VmSpec, Box<dyn std::error::Error>> {
        let path = format!("{}/../../tests/scenarios/workloads/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let workload: Workload = serde_yaml::from_str(&std::fs::read_to_string(path)?)?;
        Ok(VmSpec { workload, vcpus: 12, weight: 256, cap: 0, cpus: None, flow: None })
    };
    let sched = SchedSpec::new(Kind::Microslice, Some(3));
    let vms = vec![vm(&target)?, vm("swaptions")?];
    let run = Run {
        pcpus: 12,
        groups: 1,
        costs: Default::default(),
        vms,
        sched,
        warm_ms: 1,
        measure_ms: 10_000,
        seed: 1,
    };
    let began = std::time::Instant::now();
    let record = run.execute()?;
    let wall = began.elapsed().as_secs_f64();
    let per_s = |n: u64| n as f64 / wall / 1e6;
    println!(
        "{target}: 10 s simulated in {wall:.2} s; {:.2} million core events/s, {:.2} million machine events/s",
        per_s(record.core_events),
        per_s(record.steps)
    );
    Ok(())
}
