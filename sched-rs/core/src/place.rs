// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where waiting units are kept and which pCPU is asked to take one.

use crate::pool::{Decision, Pool, bit};
use crate::state::{Cpu, NIL, NO_CPU, Place, Unit, Work};
use crate::time::{Span, Time};

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
    pub(crate) fn enqueue(&mut self, unit: u16) {
        let Some(u) = self.units.get(usize::from(unit)).copied() else {
            return;
        };
        let (weight, parked) = self
            .doms
            .get(usize::from(u.dom))
            .map_or((256, false), |d| (u64::from(d.weight.max(1)), d.parked));
        let slice = self.shared.params.slice.0;
        let vclock = self.shared.vclock;
        let lead = slice.saturating_mul(512) / weight;
        let low = vclock.saturating_sub(slice);
        let high = vclock.saturating_add(lead.max(2 * slice));
        let mask = if parked { 0 } else { self.mask_of(&u) };
        let prefer = self.preferred(&u, mask);
        let seq = self.shared.seq;
        self.shared.seq = seq.wrapping_add(1);
        self.edit(unit, |u| {
            u.vtime = u.vtime.clamp(low, high);
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
        let parked = self.doms.get(usize::from(u.dom)).is_some_and(|d| d.parked);
        let mask = if parked { 0 } else { self.mask_of(&u) };
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
    pub(crate) fn withdraw(&mut self, unit: u16) {
        let Some(u) = self.unit(unit).copied() else {
            return;
        };
        if u.place == Place::Queued {
            self.queue().remove(unit);
            self.edit(unit, |u| u.place = Place::Asleep);
        }
        self.unlist_preempted(&u, unit);
        self.unlist_urgent(&u, unit);
        self.edit(unit, |u| {
            u.promised = NO_CPU;
            u.preempted = false;
        });
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

    fn unlist_preempted(&mut self, u: &Unit, unit: u16) {
        if !u.preempted {
            return;
        }
        if u.sib_prev == NIL
            && let Some(d) = self.dom_mut(u.dom)
            && d.preempted == unit
        {
            d.preempted = u.sib_next;
        }
        self.edit(u.sib_prev, |x| x.sib_next = u.sib_next);
        self.edit(u.sib_next, |x| x.sib_prev = u.sib_prev);
    }

    /// pCPUs that run nothing of ours and have not been poked.
    pub(crate) fn idle_cpus(&self) -> u64 {
        let idle = self.cpus_of(self.shared.online).filter(|(_, c)| c.unit == NIL && !c.poked);
        idle.fold(0, |mask, (cpu, _)| mask | bit(cpu))
    }

    /// The lowest of those in `mask`.
    fn first_idle(&self, mask: u64) -> Option<u8> {
        self.cpus_of(mask).find(|(_, c)| c.unit == NIL && !c.poked).map(|(cpu, _)| cpu)
    }

    /// The pCPUs of `mask`, lowest first.
    fn cpus_of(&self, mask: u64) -> impl Iterator<Item = (u8, &Cpu)> {
        let (first, end) = (mask.trailing_zeros() as usize, (u64::BITS - mask.leading_zeros()) as usize);
        let some = self.shared.cpus.get(first..end).unwrap_or_default();
        (first as u8..).zip(some).filter(move |(cpu, _)| mask & bit(*cpu) != 0)
    }

    /// Finds a pCPU for a waiting unit: an idle one; else, if `preempt`, the one whose unit is furthest ahead of it.
    pub(crate) fn find_cpu(&mut self, now: Time, unit: u16, preempt: bool, d: &mut Decision) {
        let Some(u) = self.unit(unit) else {
            return;
        };
        let (mask, prefer, vtime) = (u.mask, u.prefer, u.vtime);
        let may = mask & self.shared.online;
        let (near, normal) = (may & prefer, may & self.normal());
        let idle = self
            .first_idle(near)
            .or_else(|| self.first_idle(normal))
            .or_else(|| self.first_idle(may & !normal));
        if let Some(cpu) = idle {
            self.promise(cpu, unit, d);
            return;
        }
        if !preempt {
            return;
        }
        let mut bar = vtime.saturating_add(self.shared.params.ratelimit.0);
        let mut victim = NO_CPU;
        for (cpu, c) in self.cpus_of(mask) {
            if c.work != Work::Normal || c.poked {
                continue;
            }
            let ahead = self.vtime_now(c.unit, now.since(c.charged));
            if ahead > bar {
                bar = ahead;
                victim = cpu;
            }
        }
        if victim != NO_CPU {
            self.promise(victim, unit, d);
        }
    }

    /// The virtual time of a unit that has run for `ran` since it was last charged.
    pub(crate) fn vtime_now(&self, unit: u16, ran: Span) -> u64 {
        let Some(u) = self.units.get(usize::from(unit)) else { return 0 };
        let weight = self.doms.get(usize::from(u.dom)).map_or(256, |d| u64::from(d.weight.max(1)));
        u.vtime.saturating_add(ran.0.saturating_mul(256) / weight)
    }

    /// Asks `cpu` to take `unit`.
    pub(crate) fn promise(&mut self, cpu: u8, unit: u16, d: &mut Decision) {
        if let Some(c) = self.cpu_mut(cpu) {
            c.next = unit;
            c.poked = true;
        }
        self.edit(unit, |u| u.promised = cpu);
        d.poke |= bit(cpu);
    }
}
