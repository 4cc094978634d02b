// SPDX-License-Identifier: GPL-3.0-only
//! PID 1 and workloads of the lab's Linux guests, and the words they report in.
//!
//! Owns: the job syntax of the kernel command line ([`job`]), the report lines ([`protocol`]), the
//! latency histogram both sides share ([`histogram`]), and the workloads. The lab links this crate
//! too, so what a guest prints and what the lab reads cannot drift apart.
//!
//! Refuses: files, network, any service. A guest is a kernel, this program and at most `stress-ng`.

pub mod histogram;
pub mod job;
pub mod protocol;
pub mod sys;
pub mod work;
pub mod workload;
