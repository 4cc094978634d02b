// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where waiting units are kept and which pCPU is asked to take one.

use crate::pool::{Decision, Pool, bit};
use crate::state::{Cpu, NIL, NO_CPU, Place, Unit, Work};
use crate::time::Time;
use crate::urgent::cpus;

impl Cpu {
    /// The virtual time of its unit, with what it has run since it was last charged: a slice or little more, so that nothing
    /// overflows.
    pub(crate) const fn vtime_now(&self, now: Time) -> u64 {
        let weight = if self.weight == 0 { 1 } else { self.weight as u64 };
        self.vtime.wrapping_add(now.since(self.charged).0.wrapping_mul(256) / weight)
    }
}

impl Pool<'_> {
    /// The pCPUs that may take `u` from the queue for a normal slice: those of its hard affinity; reserved micro cores only
    /// if that leaves none.
    pub(crate) fn mask_of(&self, u: &Unit) -> u64 {
        let normal = u.hard & self.normal();
        if self.shared.params.reserve != 0 && normal != 0 { normal } else { u.hard & self.shared.online }
    }

    /// Those of `mask` where `u` runs best.
    fn preferred(&self, u: &Unit, mask: u64) -> u64 {
        let normal = mask & self.normal();
        let mask = if normal != 0 { normal } else { mask };
        let soft = if u.soft & mask != 0 { u.soft & mask } else { mask };
        let home = if u.home == NO_CPU { 0 } else { bit(u.home) & soft };
        if home != 0 { home } else { soft }
    }

    /// Puts a runnable unit that is on no pCPU into the queue.
    #[inline(always)]
    pub(crate) fn enqueue(&mut self, unit: u16) {
        let Some(u) = self.units.get(usize::from(unit)) else {
            return;
        };
        let mask = if self.parked(u.dom) { 0 } else { self.mask_of(u) };
        let prefer = self.preferred(u, mask);
        let (slice, vclock) = (self.shared.params.slice.0, self.shared.vclock);
        let mut vtime = u.vtime.max(vclock.saturating_sub(slice));
        if vtime > vclock.saturating_add(slice.wrapping_mul(2)) {
            let weight = self.doms.get(usize::from(u.dom)).map_or(256, |d| u64::from(d.weight.max(1)));
            // A slice is a second at most.
            let lead = (slice.wrapping_mul(512) / weight).max(slice.wrapping_mul(2));
            vtime = vtime.min(vclock.saturating_add(lead));
        }
        let seq = self.shared.seq;
        self.shared.seq = seq.wrapping_add(1);
        self.edit(unit, |u| {
            u.vtime = vtime;
            u.seq = seq;
            u.mask = mask;
            u.prefer = prefer;
            u.place = Place::Queued;
            u.promised = NO_CPU;
        });
        self.queue().insert(unit);
        self.list_preempted(unit);
    }

    /// Brings the masks of a waiting unit up to date. One that nobody could take has earned no more than a slice of lag.
    pub(crate) fn requeue(&mut self, unit: u16) {
        let Some(u) = self.unit(unit).copied() else {
            return;
        };
        if u.place != Place::Queued {
            return;
        }
        let mask = if self.parked(u.dom) { 0 } else { self.mask_of(&u) };
        let prefer = self.preferred(&u, mask);
        let low = self.shared.vclock.saturating_sub(self.shared.params.slice.0);
        self.queue().remove(unit);
        self.edit(unit, |u| {
            u.vtime = u.vtime.max(low);
            u.mask = mask;
            u.prefer = prefer;
        });
        self.queue().insert(unit);
    }

    /// Takes a unit out of every list and out of the queue.
    #[inline(always)]
    pub(crate) fn withdraw(&mut self, unit: u16) {
        if self.unit(unit).is_some_and(|u| u.place == Place::Queued) {
            self.queue().remove(unit);
            self.edit(unit, |u| u.place = Place::Asleep);
        }
        self.unlist_preempted(unit);
        self.unlist_urgent(unit);
        self.edit(unit, |u| u.promised = NO_CPU);
    }

    /// Adds a unit to its domain's list of units that want to run and do not.
    pub(crate) fn list_preempted(&mut self, unit: u16) {
        let Some(u) = self.unit(unit).copied() else {
            return;
        };
        if u.preempted {
            return;
        }
        let Some(d) = self.dom_mut(u.dom) else { return };
        let head = d.preempted;
        d.preempted = unit;
        self.edit(head, |h| h.sib_prev = unit);
        self.edit(unit, |u| {
            u.preempted = true;
            u.sib_prev = NIL;
            u.sib_next = head;
        });
    }

    fn unlist_preempted(&mut self, unit: u16) {
        let Some(u) = self.units.get_mut(usize::from(unit)).filter(|u| u.preempted) else {
            return;
        };
        u.preempted = false;
        let (dom, prev, next) = (u.dom, u.sib_prev, u.sib_next);
        if prev != NIL {
            self.edit(prev, |x| x.sib_next = next);
        } else if let Some(d) = self.dom_mut(dom) {
            d.preempted = next;
        }
        self.edit(next, |x| x.sib_prev = prev);
    }

    /// pCPUs of `mask` that run nothing of ours and have not been poked.
    const fn idle(&self, mask: u64) -> u64 {
        mask & self.shared.online & !self.shared.busy & !self.shared.poked
    }

    /// All that run nothing of ours and have not been poked.
    pub(crate) const fn idle_cpus(&self) -> u64 {
        self.idle(!0)
    }

    /// Finds a pCPU for a waiting unit: an idle one; else, if `preempt`, the one whose unit is furthest ahead of it.
    pub(crate) fn find_cpu(&mut self, now: Time, unit: u16, preempt: bool, d: &mut Decision) {
        let Some(u) = self.unit(unit) else {
            return;
        };
        let (mask, prefer, vtime) = (u.mask, u.prefer, u.vtime);
        let idle = self.idle(mask);
        let best = if idle & prefer != 0 {
            idle & prefer
        } else if idle & self.normal() != 0 {
            idle & self.normal()
        } else {
            idle
        };
        if best != 0 {
            self.promise(best.trailing_zeros() as u8, unit, d);
            return;
        }
        if !preempt {
            return;
        }
        let mut bar = vtime.saturating_add(self.shared.params.ratelimit.0);
        let mut victim = NO_CPU;
        for cpu in cpus(mask & self.shared.busy & !self.shared.poked) {
            let Some(c) = self.cpu(cpu) else { break };
            let ahead = c.vtime_now(now);
            if ahead > bar && c.work == Work::Normal {
                bar = ahead;
                victim = cpu;
            }
        }
        if victim != NO_CPU {
            self.promise(victim, unit, d);
        }
    }

    /// Asks `cpu` to take `unit`.
    pub(crate) fn promise(&mut self, cpu: u8, unit: u16, d: &mut Decision) {
        if let Some(c) = self.cpu_mut(cpu) {
            c.next = unit;
        }
        self.shared.poked |= bit(cpu);
        self.edit(unit, |u| u.promised = cpu);
        d.poke |= bit(cpu);
    }
}
