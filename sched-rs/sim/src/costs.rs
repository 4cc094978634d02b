// SPDX-License-Identifier: MIT OR Apache-2.0
//! What things cost, in nanoseconds. README.md says where each default comes from and how sure it is.

use crate::agenda::Ns;
use serde::{Deserialize, Serialize};

/// Speed of a pCPU at which workloads' times are given: both hardware threads of its core are busy.
pub const FULL: u64 = 1024;

/// Costs of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Costs {
    /// A PAUSE loop exits after so long.
    pub ple_window: Ns,
    /// 0: the CPU filters PAUSE, each wait starts anew. Else every PAUSE exits and takes so long, and a vCPU yields when those of
    /// several waits add up to `ple_window` (the option `ple_sw` of the lab's Xen).
    pub pause_exit: Ns,
    /// A VM exit that ends in a yield, until the guest goes on if nobody takes the pCPU.
    pub yield_exit: Ns,
    /// Switching a pCPU from one vCPU to another.
    pub vcpu_switch: Ns,
    /// From SCHEDULE_SOFTIRQ raised for another pCPU until it schedules.
    pub poke: Ns,
    /// Sending one IPI: a hypercall.
    pub ipi_send: Ns,
    /// From there until the receiver, if it runs, is in its handler, at least.
    pub ipi_deliver: Ns,
    /// What comes on top, mean, exponential: interrupts that are off for a moment, VM exits.
    pub ipi_delay: Ns,
    /// Answering a TLB-shootdown or function-call IPI.
    pub ipi_serve: Ns,
    /// Serving a reschedule IPI.
    pub resched_serve: Ns,
    /// Serving a timer tick.
    pub tick_serve: Ns,
    /// Period of the guest's timer tick.
    pub tick: Ns,
    /// Switching between threads inside a guest.
    pub thread_switch: Ns,
    /// Filling a private cache again after another vCPU has used it for long.
    pub refill: Ns,
    /// A stay of another vCPU spoils an n-th of its length, up to `refill`.
    pub refill_share: u64,
    /// Who waits for a paravirtual lock halts after spinning for so long.
    pub pv_spin: Ns,
    /// A lock passing to a waiter that spins.
    pub handoff: Ns,
    /// Serving one batch of network packets in the interrupt.
    pub net_serve: Ns,
    /// Waking a pCPU that has been idle for at least so long takes so long: [idle, exit]; the last that fits counts.
    pub idle_exit: Vec<[Ns; 2]>,
    /// Speed, percent, of a hardware thread whose sibling idles; 100: no SMT.
    pub smt_alone: u64,
}

impl Costs {
    /// How long a pCPU takes to leave the idle state that it chose for a stay of `idle`.
    #[must_use]
    pub fn idle_exit(&self, idle: Ns) -> Ns {
        self.idle_exit.iter().rfind(|[stay, _]| idle >= *stay).map_or(0, |[_, exit]| *exit)
    }
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            ple_window: 1_707,
            pause_exit: 0,
            yield_exit: 1_500,
            vcpu_switch: 2_000,
            poke: 1_000,
            ipi_send: 1_200,
            ipi_deliver: 1_800,
            ipi_delay: 6_000,
            ipi_serve: 2_000,
            resched_serve: 1_500,
            tick_serve: 3_000,
            tick: 4_000_000,
            thread_switch: 1_500,
            refill: 20_000,
            refill_share: 8,
            pv_spin: 160_000,
            handoff: 100,
            net_serve: 4_000,
            idle_exit: vec![[6_000, 3_000], [20_000, 10_000], [80_000, 20_000], [800_000, 200_000]],
            smt_alone: 160,
        }
    }
}
