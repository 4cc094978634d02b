// SPDX-License-Identifier: MIT OR Apache-2.0
//! Detection and action: which units become urgent, and which micro core runs them.
//!
//! The policy is the paper's ("Accelerating Critical OS Services in Virtualized Systems with Flexible Micro-sliced
//! Cores", EuroSys'18):
//! - a yield inside an IPI wait makes every preempted sibling urgent;
//! - a yield inside a lock wait makes those siblings urgent that were preempted inside a critical service;
//! - an interrupt or IPI for a unit that is runnable but preempted makes that unit urgent.
//!
//! Two things go beyond it, both measured in the lab:
//! - a yielder whose siblings are urgent or on a micro core keeps its pCPU, at most to the end of its slice and charged:
//!   otherwise its yield costs it a whole slice of somebody else;
//! - an urgent unit stays in the normal queue, so a normal core may serve it first. A micro core runs at most one unit;
//!   waiting units bind no micro core.
//!
//! A unit is not made urgent when no micro core is in its hard affinity, when its domain has used up its cap, or when its
//! virtual time leads the pool's by more than two slices: urgency changes the order in which a domain gets its share,
//! never the share, so a guest that feigns critical sections gains nothing.

use crate::class::Class;
use crate::pool::{Decision, Pool, Refusal, bit};
use crate::state::{MAX_CPUS, NIL, NO_CPU, Place, Unit, Work};
use crate::time::{Span, Time};

/// Units looked at, at most, for one yield or one free micro core.
const SCAN: usize = 64;

/// Why a unit is to become urgent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Ipi,
    Lock,
    Irq,
}

impl Pool<'_> {
    pub(crate) fn yielded(
        &mut self,
        now: Time,
        unit: u16,
        class: Class,
        d: &mut Decision,
    ) -> Result<(), Refusal> {
        let u = *self.unit(unit).ok_or(Refusal::Unknown)?;
        let dom = self.dom_mut(u.dom).ok_or(Refusal::Unknown)?;
        let first = dom.preempted;
        let mut in_flight = dom.on_micro > 0;
        let c = &mut dom.counts;
        let (cause, count) = match class {
            Class::IpiWait => (Cause::Ipi, &mut c.yields_ipi),
            Class::LockWait => (Cause::Lock, &mut c.yields_lock),
            _ => (Cause::Irq, &mut c.yields_other),
        };
        *count = count.wrapping_add(1);
        if cause == Cause::Irq {
            in_flight = false;
        } else {
            let mut at = first;
            for _ in 0..SCAN {
                let Some(s) = self.unit(at).copied() else {
                    break;
                };
                if cause == Cause::Ipi || s.class.is_critical() {
                    in_flight |= self.make_urgent(at, cause, d);
                }
                at = s.sib_next;
            }
        }
        let normal = self.cpu(u.cpu).is_some_and(|c| {
            u.place == Place::OnCpu && c.unit == unit && c.work == Work::Normal && now < c.ends
        });
        if in_flight && normal {
            if let Some(dom) = self.dom_mut(u.dom) {
                dom.counts.yields_kept = dom.counts.yields_kept.wrapping_add(1);
            }
            d.kept = true;
        } else {
            self.edit(unit, |u| u.yielding = true);
        }
        Ok(())
    }

    pub(crate) fn kicked(&mut self, unit: u16, d: &mut Decision) -> Result<(), Refusal> {
        let u = *self.unit(unit).ok_or(Refusal::Unknown)?;
        if u.preempted && u.promised == NO_CPU {
            if let Some(dom) = self.dom_mut(u.dom) {
                dom.counts.kicks_preempted = dom.counts.kicks_preempted.wrapping_add(1);
            }
            self.make_urgent(unit, Cause::Irq, d);
        }
        Ok(())
    }

    /// Asks for a micro slice for a unit. True if it is on its way: urgent now, urgent before, or about to run anyway.
    fn make_urgent(&mut self, unit: u16, cause: Cause, d: &mut Decision) -> bool {
        let Some(u) = self.unit(unit).copied() else {
            return false;
        };
        let waiting = u.place == Place::Queued || (u.place == Place::Leaving && u.runnable);
        if !waiting {
            return false;
        }
        if u.urgent || u.promised != NO_CPU {
            return true;
        }
        if self.shared.micro == 0 {
            return false;
        }
        let lead = Span(self.shared.params.slice.0.saturating_mul(2));
        let ahead = u.vtime > self.shared.vclock.saturating_add(lead.0);
        let reachable = u.hard & self.shared.micro != 0;
        let Some(dom) = self.dom_mut(u.dom) else {
            return false;
        };
        let parked = dom.parked;
        let c = &mut dom.counts;
        let count = if !reachable {
            &mut c.refused_affinity
        } else if ahead || parked {
            &mut c.refused_limit
        } else {
            match cause {
                Cause::Ipi => &mut c.accel_ipi,
                Cause::Lock => &mut c.accel_lock,
                Cause::Irq => &mut c.accel_irq,
            }
        };
        *count = count.wrapping_add(1);
        if !reachable || ahead || parked {
            return false;
        }
        self.list_urgent(unit);
        if u.place == Place::Queued
            && !self.poke_micro(unit, d)
            && let Some(dom) = self.dom_mut(u.dom)
        {
            dom.counts.refused_full = dom.counts.refused_full.wrapping_add(1);
        }
        true
    }

    fn list_urgent(&mut self, unit: u16) {
        let tail = self.shared.urgent_tail;
        self.edit(unit, |u| {
            u.urgent = true;
            u.urgent_prev = tail;
            u.urgent_next = NIL;
        });
        if tail == NIL {
            self.shared.urgent_head = unit;
        }
        self.edit(tail, |t| t.urgent_next = unit);
        self.shared.urgent_tail = unit;
    }

    pub(crate) fn unlist_urgent(&mut self, u: &Unit, unit: u16) {
        if !u.urgent {
            return;
        }
        if self.shared.urgent_head == unit {
            self.shared.urgent_head = u.urgent_next;
        }
        if self.shared.urgent_tail == unit {
            self.shared.urgent_tail = u.urgent_prev;
        }
        self.edit(u.urgent_prev, |x| x.urgent_next = u.urgent_next);
        self.edit(u.urgent_next, |x| x.urgent_prev = u.urgent_prev);
        self.edit(unit, |u| u.urgent = false);
    }

    /// Pokes a micro core that could take `unit` now: an idle one, else one that does normal work. False if all are
    /// busy with urgent units or have been poked.
    pub(crate) fn poke_micro(&mut self, unit: u16, d: &mut Decision) -> bool {
        let hard = self.unit(unit).map_or(0, |u| u.hard);
        let mine = hard & self.shared.micro & self.shared.online;
        let mut found = NO_CPU;
        for cpu in 0..MAX_CPUS as u8 {
            let Some(c) = self.cpu(cpu) else { break };
            if mine & bit(cpu) == 0 || c.poked || c.work == Work::Micro {
                continue;
            }
            if c.work == Work::Idle {
                found = cpu;
                break;
            }
            found = cpu;
        }
        if found == NO_CPU {
            return false;
        }
        if let Some(c) = self.cpu_mut(found) {
            c.poked = true;
        }
        d.poke |= bit(found);
        true
    }

    /// The urgent unit that has waited longest and may run on `cpu`.
    pub(crate) fn first_urgent(&self, cpu: u8) -> u16 {
        let mut at = self.shared.urgent_head;
        for _ in 0..SCAN {
            let Some(u) = self.unit(at) else { return NIL };
            if u.place == Place::Queued && u.hard & bit(cpu) != 0 {
                return at;
            }
            at = u.urgent_next;
        }
        NIL
    }

    /// The urgent unit to run on micro core `cpu`, and its micro slice. Those at their cap stop being urgent.
    pub(crate) fn take_urgent(&mut self, cpu: u8) -> Option<(u16, Span)> {
        let slice = self.shared.params.micro_slice;
        for _ in 0..SCAN {
            let unit = self.first_urgent(cpu);
            let u = self.unit(unit).copied()?;
            if let Some(span) = self.grant(unit, slice) {
                return Some((unit, span));
            }
            self.unlist_urgent(&u, unit);
        }
        None
    }

    pub(crate) fn entered_micro(&mut self, unit: u16) {
        let dom = self.unit(unit).map_or(NIL, |u| u.dom);
        self.shared.micro_runs = self.shared.micro_runs.wrapping_add(1);
        if let Some(d) = self.dom_mut(dom) {
            d.on_micro = d.on_micro.saturating_add(1);
            d.counts.micro_runs = d.counts.micro_runs.wrapping_add(1);
        }
    }

    pub(crate) fn left_micro(&mut self, dom: u16) {
        if let Some(d) = self.dom_mut(dom) {
            d.on_micro = d.on_micro.saturating_sub(1);
        }
    }
}
