// SPDX-License-Identifier: MIT OR Apache-2.0
//! A deterministic discrete-event machine that drives the very core that runs in Xen.
//!
//! Owns: pCPUs, guests and their workloads, costs, and models of Xen's credit and credit2 to compare with. Refuses: a
//! second implementation of Microslice's decisions ([`machine`] only translates), and any number that depends on the host.
//!
//! Start in [`run`] (one run, in and out), then [`engine`] (the loop), [`guest`] and `kernel` (vCPUs and threads),
//! [`workload`] (what they do). `sched-rs/sim/README.md` has parameters, sources and results.
#![forbid(unsafe_code)]

pub mod agenda;
pub mod calibrate;
pub mod chance;
pub mod costs;
pub mod credit;
pub mod credit2;
pub mod credit_micro;
pub mod engine;
pub mod groups;
pub mod guest;
pub mod hist;
mod irq;
mod kernel;
mod locks;
pub mod machine;
pub mod net;
mod ops;
pub mod run;
pub mod scenario;
pub mod sched;
pub mod workload;

pub use run::{Kind, Record, Run, SchedSpec, VmRecord, VmSpec};
pub use scenario::Scenario;
pub use workload::Workload;
