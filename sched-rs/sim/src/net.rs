// SPDX-License-Identifier: MIT OR Apache-2.0
//! A NIC and its flow: packets arrive for one VM, its kernel takes them in the interrupt, a thread reads them.
//!
//! UDP-like: packets come at a fixed rate and are lost when the NIC's ring or the socket's buffer is full. TCP-like: the same, but
//! the sender stops and goes on when there is room again; slow start and losses are not modelled. Jitter as in RFC 1889, over
//! the times at which the kernel takes packets.

use crate::agenda::Ns;
use crate::engine::Host;
use crate::sched::Sched;
use serde::{Deserialize, Serialize};

/// A flow as written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowSpec {
    /// Time between packets, microseconds: the link's speed.
    pub gap_us: f64,
    /// Bits in a packet.
    pub bits: u32,
    /// Packets that the NIC holds for the kernel.
    pub ring: u32,
    /// Packets that may be unread: the socket's buffer, or TCP's window.
    pub window: u32,
    /// The sender waits for the receiver.
    pub tcp: bool,
}

/// A flow.
#[derive(Clone, Debug)]
pub struct Flow {
    spec: FlowSpec,
    gap: Ns,
    /// When the next packet comes.
    pub next: Ns,
    /// Sent and not read: in the NIC's ring, in the socket's buffer.
    unread: u32,
    /// In the socket's buffer.
    ready: u32,
    /// The thread that waits for packets.
    reader: Option<u16>,
    /// The sender waits for room.
    stalled: bool,
    /// Packets read.
    pub read: u64,
    /// Packets lost.
    pub lost: u64,
    /// Transit of the last packet.
    transit: Option<Ns>,
    /// When the first packet that the kernel has not taken came; the others came a gap apart.
    first_pending: Ns,
    /// Smoothed jitter, nanoseconds.
    pub jitter: f64,
    /// Sum of the smoothed jitter at each packet, and how many.
    pub jitter_sum: (f64, u64),
}

impl Flow {
    /// A flow that starts at once.
    #[must_use]
    pub fn new(spec: &FlowSpec) -> Self {
        let gap = (spec.gap_us * 1_000.0).max(100.0) as Ns;
        Self {
            spec: spec.clone(),
            gap,
            next: gap,
            unread: 0,
            ready: 0,
            reader: None,
            stalled: false,
            read: 0,
            lost: 0,
            transit: None,
            first_pending: 0,
            jitter: 0.0,
            jitter_sum: (0.0, 0),
        }
    }

    /// Bits read.
    #[must_use]
    pub fn bits(&self) -> u64 {
        self.read * u64::from(self.spec.bits)
    }
}

impl<S: Sched> Host<S> {
    /// A packet reaches the NIC of VM `vm`.
    pub(crate) fn packet(&mut self, vm: usize) {
        let now = self.now;
        let source = self.flow_source(vm);
        let v = self.vms[vm].first;
        let Some(f) = &mut self.vms[vm].flow else { return };
        if f.unread >= f.spec.window || self.vcpus[usize::from(v)].packets >= f.spec.ring {
            if f.spec.tcp {
                f.stalled = true;
                return;
            }
            f.lost += 1;
            self.agenda.set(source, now + f.gap);
            return;
        }
        f.unread += 1;
        self.agenda.set(source, now + f.gap);
        let u = &mut self.vcpus[usize::from(v)];
        if u.packets == 0 {
            f.first_pending = now;
        }
        u.packets += 1;
        self.interrupt(v);
    }

    /// The kernel has taken `n` packets.
    pub(crate) fn arrived(&mut self, vm: usize, n: u32) {
        let now = self.now;
        let source = self.flow_source(vm);
        let Some(f) = &mut self.vms[vm].flow else { return };
        f.ready += n;
        if f.unread < f.spec.window && std::mem::take(&mut f.stalled) {
            self.agenda.set(source, now + f.gap);
        }
        for i in 0..n {
            let sent = f.first_pending + u64::from(i) * f.gap;
            let transit = now.saturating_sub(sent);
            if let Some(last) = f.transit {
                f.jitter += (transit.abs_diff(last) as f64 - f.jitter) / 16.0;
                f.jitter_sum.0 += f.jitter;
                f.jitter_sum.1 += 1;
            }
            f.transit = Some(transit);
        }
        if let Some(t) = f.reader.take() {
            self.wake_thread(vm, usize::from(t), None);
        }
    }

    /// A thread reads its socket, at most 64 packets at once.
    pub(crate) fn receive(&mut self, vm: usize, t: usize, each: Ns) {
        let source = self.flow_source(vm);
        let now = self.now;
        let Some(f) = &mut self.vms[vm].flow else { return };
        let n = f.ready.min(64);
        if n == 0 {
            f.reader = Some(t as u16);
            return self.block_again(vm, t);
        }
        f.ready -= n;
        f.unread -= n;
        f.read += u64::from(n);
        if std::mem::take(&mut f.stalled) {
            self.agenda.set(source, now + f.gap);
        }
        self.work(vm, t, each * u64::from(n));
    }
}
