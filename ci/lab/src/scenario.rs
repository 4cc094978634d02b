// SPDX-License-Identifier: GPL-3.0-only
//! One run: which scheduler, which guests, which time constants, and the job files that say so to dom0.
//!
//! Time constants: an emulated pCPU does about 200 MIPS, a tenth of a real one, so all scheduler constants are
//! stretched by `time_scale` (10: slice 300 ms and micro slice 1 ms stand for 30 ms and 0.1 ms), and so are the co-runner's
//! bursts (10-70 ms) and sleeps (0.1-0.9 ms), which keep it from falling into step with the target.

use crate::cpio::Archive;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A scheduler of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// Xen's credit.
    Credit,
    /// Xen's credit2.
    Credit2,
    /// Ours.
    Microslice,
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheduler::Credit => "credit",
            Scheduler::Credit2 => "credit2",
            Scheduler::Microslice => "microslice",
        })
    }
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Short and unique; also what `--rows` selects by.
    pub name: String,
    /// Scheduler of the whole machine.
    pub scheduler: Scheduler,
    /// Micro cores; microslice only.
    pub micro_cores: Option<u32>,
    /// With the co-runner (2:1) or the target alone.
    pub corun: bool,
    /// Row of actions of every guest, as `microslice domain policy` names it; microslice only.
    pub policy: Option<String>,
    /// Micro cores wait for urgent vCPUs and do nothing else, as in the paper.
    pub reserve: bool,
    /// Record some of the run, replay it in dom0, and bring it out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trace: bool,
    /// Push the guests' ranges; microslice only.
    pub push: bool,
    /// More options for Xen.
    pub xen_options: String,
}

impl Config {
    /// A stock scheduler.
    pub fn stock(scheduler: Scheduler, corun: bool) -> Config {
        let name = if corun { scheduler.to_string() } else { "alone".to_owned() };
        Config {
            name,
            scheduler,
            micro_cores: None,
            corun,
            policy: None,
            reserve: false,
            trace: false,
            push: false,
            xen_options: String::new(),
        }
    }

    /// Microslice beside a co-runner, with the paper's row.
    pub fn microslice(micro_cores: u32) -> Config {
        Config::with_policy(&format!("microslice-{micro_cores}"), "paper", micro_cores)
    }

    /// Microslice beside a co-runner, with a row of actions.
    pub fn with_policy(name: &str, policy: &str, micro_cores: u32) -> Config {
        Config {
            name: name.to_owned(),
            scheduler: Scheduler::Microslice,
            micro_cores: Some(micro_cores),
            corun: true,
            policy: Some(policy.to_owned()),
            reserve: false,
            trace: false,
            push: true,
            xen_options: String::new(),
        }
    }

    /// The rows of the first table, in order.
    pub fn table() -> Vec<Config> {
        let mut rows = vec![
            Config::stock(Scheduler::Credit, false),
            Config::stock(Scheduler::Credit, true),
            Config::stock(Scheduler::Credit2, true),
        ];
        rows.extend((0..=2).map(Config::microslice));
        // The paper itself: the micro core waits.
        rows.push(Config { reserve: true, ..Config::with_policy("paper-1", "paper", 1) });
        rows.push(Config::with_policy("eager-1", "eager", 1));
        rows.push(Config::with_policy("borrow", "borrow", 0));
        rows.push(Config::with_policy("grace", "grace", 0));
        rows
    }
}

/// Time constants and lengths, in guest time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Normal slice.
    pub slice_ms: u64,
    /// Micro slice.
    pub micro_us: u64,
    /// Rate limit: least run time before a preemption.
    pub ratelimit_us: u64,
    /// Co-runner's bursts of work.
    pub burst_ms: (u64, u64),
    /// Co-runner's sleeps.
    pub sleep_us: (u64, u64),
    /// Unmeasured start of the shootdown, slices.
    pub warm_slices: u64,
    /// Measured length of the shootdown, slices.
    pub slices: u64,
    /// Iterations of each thread in the all-threads workload.
    pub iterations: u64,
    /// Work of each thread before each iteration.
    pub think_us: (u64, u64),
    /// Every n-th PAUSE exit is a yield, as a pause filter in hardware would have it, under every scheduler. 0: PAUSE does
    /// not exit, and then ends the CPU's turn in QEMU: the waiting CPU lends its speed to the others.
    pub ple_sw: u32,
}

impl Timing {
    /// Stretches so much when nothing else is said.
    pub const DEFAULT_SCALE: u64 = 5;

    /// Everything that stands for real time constants, stretched by `scale`.
    pub fn scaled(scale: u64) -> Timing {
        Timing {
            slice_ms: 30 * scale,
            micro_us: 100 * scale,
            ratelimit_us: 1_000 * scale,
            burst_ms: (10 * scale, 70 * scale),
            sleep_us: (100 * scale, 900 * scale),
            warm_slices: 3,
            slices: 0,
            iterations: 0,
            think_us: (400 * scale, 1_600 * scale),
            ple_sw: 16,
        }
        .lasting(50)
    }

    /// The same with another length of both workloads.
    pub fn lasting(self, slices: u64) -> Timing {
        Timing { slices, iterations: 5 * slices, ..self }
    }
}

/// A workload of the target instead of the shootdown and all-threads pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Pure shootdown, then all threads.
    Shootdown,
    /// Debian's stress-ng: stressor, operations of each instance, further options (`;` for a blank).
    Stress {
        /// Stressor.
        stressor: String,
        /// Operations.
        ops: u64,
        /// Options.
        extra: String,
    },
    /// A plain hog for some slices; with it the co-runner is plain too: fairness.
    Hog,
}

/// One run, complete: equal values give equal results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Row.
    pub config: Config,
    /// Sample.
    pub seed: u64,
    /// Constants.
    pub timing: Timing,
    /// What the target does.
    pub workload: Workload,
    /// pCPUs for guests; one more is dom0's.
    pub guest_pcpus: u32,
    /// vCPUs of each guest.
    pub vcpus: u32,
}

impl Run {
    /// Name of the run, for people and file names.
    pub fn name(&self) -> String {
        format!("{}-s{}", self.config.name, self.seed)
    }

    /// Xen's command line, the scheduler part.
    pub fn xen_options(&self) -> String {
        let timing = &self.timing;
        let mut options = format!(
            "sched={} sched_ratelimit_us={} ple_sw={}",
            self.config.scheduler, timing.ratelimit_us, timing.ple_sw
        );
        match self.config.scheduler {
            Scheduler::Credit => options += &format!(" sched_credit_tslice_ms={}", timing.slice_ms),
            Scheduler::Credit2 => {}
            Scheduler::Microslice => {
                options += &format!(
                    " microslice_tslice_ms={} microslice_micro_us={}",
                    timing.slice_ms, timing.micro_us
                );
            }
        }
        if !self.config.xen_options.is_empty() {
            options += " ";
            options += &self.config.xen_options;
        }
        options
    }

    fn target_jobs(&self) -> String {
        let timing = &self.timing;
        let slices_s = (timing.slices * timing.slice_ms) as f64 / 1e3;
        match &self.workload {
            Workload::Shootdown => format!(
                "shootdown:secs={slices_s}:warm_ms={}/mprotect:iters={}:think_us={}-{}",
                timing.warm_slices * timing.slice_ms,
                timing.iterations,
                timing.think_us.0,
                timing.think_us.1
            ),
            Workload::Stress { stressor, ops, extra } => {
                format!("stress:stressor={stressor}:ops={ops}:extra={extra}")
            }
            Workload::Hog => format!("plain_hog:secs={slices_s}"),
        }
    }

    fn corunner_jobs(&self) -> String {
        let timing = &self.timing;
        match self.workload {
            Workload::Hog => "plain_hog".to_owned(),
            _ => format!(
                "hog:burst_ms={}-{}:sleep_us={}-{}",
                timing.burst_ms.0, timing.burst_ms.1, timing.sleep_us.0, timing.sleep_us.1
            ),
        }
    }

    /// A guest's configuration for xl.
    pub fn guest_config(&self, name: &str, jobs: &str, end: &str) -> String {
        let memory = if matches!(self.workload, Workload::Stress { .. }) { 768 } else { 128 };
        format!(
            "name = \"{name}\"\ntype = \"pvh\"\nkernel = \"/boot/vmlinux\"\nramdisk = \"/boot/guest.cpio\"\n\
             memory = {memory}\nvcpus = {}\ncpus = \"1-{}\"\ntsc_mode = \"native\"\non_crash = \"preserve\"\n\
             extra = \"console=hvc0 quiet loglevel=1 nokaslr panic=0 nowatchdog cryptomgr.notests clocksource=xen \
             rcupdate.rcu_cpu_stall_suppress=1 ms.wait_ms=500 ms.seed={} ms.jobs={jobs} ms.end={end}\"\n",
            self.vcpus, self.guest_pcpus, self.seed
        )
    }

    /// The job as an archive to append to dom0's initramfs.
    pub fn job(&self) -> Vec<u8> {
        self.job_for("measure", "idle")
    }

    /// The same for an agent script, `agent/SCRIPT.sh` in dom0; `end` is what guests do when they are done.
    pub fn job_for(&self, script: &str, end: &str) -> Vec<u8> {
        let config = &self.config;
        let flag = |on: bool| u8::from(on);
        let micro = config.micro_cores.map(|count| count.to_string()).unwrap_or_default();
        let policy = config.policy.as_deref().unwrap_or_default();
        let job = format!(
            "SCENARIO={script}\nCORUN={}\nPUSH={}\nMICRO={micro}\nPOLICY={policy}\nRESERVE={}\nGRACE={}us\nSTATS={}\nTRACE={}\n\
             LIMIT=600\n",
            flag(config.corun),
            flag(config.push),
            flag(config.reserve),
            self.timing.micro_us,
            flag(config.push || config.micro_cores.is_some()),
            flag(config.trace)
        );
        let mut archive = Archive::default();
        archive.file("job/job.sh", job, 0o644);
        archive.file("job/target.cfg", self.guest_config("target", &self.target_jobs(), end), 0o644);
        archive.file("job/corunner.cfg", self.guest_config("corunner", &self.corunner_jobs(), end), 0o644);
        archive.bytes()
    }
}
