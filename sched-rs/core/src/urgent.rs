// SPDX-License-Identifier: MIT OR Apache-2.0
//! Detection and action: which units become urgent, and which pCPU gives them a micro slice.
//!
//! Who is looked at ([`Source`]):
//! - a yield in an IPI wait: every preempted sibling;
//! - a yield in a lock wait: the siblings that were preempted inside a critical service;
//! - an event: its recipient, if that is runnable and preempted;
//! - a preemption inside a critical service that ends by running: that unit itself.
//!
//! What happens to them is the domain's row ([`Policy`](crate::Policy)):
//! - *micro*: a micro slice on a micro core;
//! - *borrow*: a micro slice on a micro core that is free; else on the pCPU of the sibling that yielded, which only spins
//!   there and resumes the rest of its slice afterwards; else on the normal core whose unit is furthest ahead of its share,
//!   belongs to another domain, and is not inside a critical service. Such a core lends once in [`LEND_EVERY`] micro slices;
//! - *grace*: the unit keeps its pCPU for a bounded moment, once a slice, charged like any other time;
//! - *front*: the unit is first in the queue, for a normal slice.
//!
//! Beyond the paper, and measured in the lab:
//! - a yielder keeps its pCPU, to the end of its slice at most and charged, while those it waits for are being helped, and
//!   in an IPI wait also while all of them run: otherwise its yield costs it a whole slice of somebody else;
//! - an urgent unit stays in the normal queue, so a normal core may serve it first.
//!
//! # Bounds
//! - A unit is not made urgent when its virtual time leads the pool's by more than two slices, or when its domain has used
//!   up its cap. Urgency changes when a domain gets its share, never the share: a guest that feigns critical sections gains
//!   nothing.
//! - A normal core loses at most one micro slice in [`LEND_EVERY`] to other domains, and its unit resumes at once. A micro
//!   core that does normal work gives way to every urgent unit: normal work that must not wait has its affinity elsewhere.
//! - After one micro slice a unit is not urgent any more.

use crate::class::Class;
use crate::groups::Siblings;
use crate::policy::{Action, Source};
use crate::pool::{Decision, Pool, Refusal, bit};
use crate::state::{NIL, NO_CPU, Place, Unit, Work};
use crate::time::{Span, Time};

/// Units looked at, at most, for one yield or one free core.
const SCAN: usize = 64;
/// A normal core lends at most one micro slice in so many to other domains.
pub const LEND_EVERY: u64 = 10;

/// The pCPUs of a mask, lowest first.
pub(crate) fn cpus(mut mask: u64) -> impl Iterator<Item = u8> {
    core::iter::from_fn(move || {
        let cpu = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (cpu < u64::BITS).then_some(cpu as u8)
    })
}

impl Pool<'_> {
    pub(crate) fn yielded(
        &mut self,
        now: Time,
        unit: u16,
        class: Class,
        far: Siblings,
        d: &mut Decision,
    ) -> Result<(), Refusal> {
        let u = *self.unit(unit).ok_or(Refusal::Unknown)?;
        let dom = self.dom_mut(u.dom).ok_or(Refusal::Unknown)?;
        let c = &mut dom.counts;
        let source = Source::of_wait(class);
        let count = match source {
            Some(Source::IpiWait) => &mut c.yields_ipi,
            Some(_) => &mut c.yields_lock,
            None => &mut c.yields_other,
        };
        *count = count.wrapping_add(1);
        let action = source.map_or(Action::None, |s| dom.policy.action(s));
        let micro_running = dom.on_micro > 0;
        let here = self.cpu(u.cpu).is_some_and(|c| {
            u.place == Place::OnCpu && c.unit == unit && c.work == Work::Normal && now < c.ends
        });
        let mut siblings = far;
        if let Some(source) = source {
            self.sign(source);
            let own = if here && action == Action::Borrow { u.cpu } else { NO_CPU };
            let near = self.help(now, u.dom, source, own, d);
            siblings.helped |= near.helped;
            siblings.left |= near.left;
        }
        let kept = match source {
            Some(Source::IpiWait) => self.servers(action) != 0 && !siblings.left,
            Some(_) => siblings.helped || (micro_running && action != Action::None),
            None => false,
        };
        if kept && here {
            if let Some(dom) = self.dom_mut(u.dom) {
                dom.counts.yields_kept = dom.counts.yields_kept.wrapping_add(1);
            }
            d.kept = true;
        } else {
            self.edit(unit, |u| u.yielding = true);
        }
        Ok(())
    }

    /// Counts a yield in a wait.
    pub(crate) fn sign(&mut self, source: Source) {
        let signs = &mut self.shared.sizing.signs;
        let sign = if source == Source::IpiWait { &mut signs.ipi } else { &mut signs.lock };
        *sign = sign.wrapping_add(1);
    }

    /// Helps the preempted units of a domain that a wait is for. The first of them gets the pCPU `own`, which is about to ask
    /// for work, if there is one.
    pub(crate) fn help(
        &mut self,
        now: Time,
        dom: u16,
        source: Source,
        mut own: u8,
        d: &mut Decision,
    ) -> Siblings {
        let mut siblings = Siblings::NONE;
        let Some((mut at, action)) = self.dom_mut(dom).map(|x| (x.preempted, x.policy.action(source))) else {
            return siblings;
        };
        if action == Action::None {
            return siblings;
        }
        for _ in 0..SCAN {
            let Some(s) = self.unit(at).copied() else {
                break;
            };
            if source == Source::IpiWait || s.class.is_critical() {
                if own != NO_CPU && s.promised == NO_CPU {
                    self.lend(own, dom);
                    own = NO_CPU;
                }
                let on_its_way = self.make_urgent(now, at, source, action, d);
                siblings.helped |= on_its_way;
                siblings.left |= !on_its_way;
            }
            at = s.sib_next;
        }
        siblings
    }

    /// Until its slice ends, `cpu` serves the urgent units of domain `dom` first.
    fn lend(&mut self, cpu: u8, dom: u16) {
        if let Some(c) = self.cpu_mut(cpu) {
            c.lends = dom;
            c.lends_until = c.ends;
        }
    }

    pub(crate) fn kicked(&mut self, now: Time, unit: u16, d: &mut Decision) -> Result<(), Refusal> {
        let u = *self.unit(unit).ok_or(Refusal::Unknown)?;
        if u.preempted && u.promised == NO_CPU {
            let signs = &mut self.shared.sizing.signs;
            signs.event = signs.event.wrapping_add(1);
            let Some(dom) = self.dom_mut(u.dom) else {
                return Ok(());
            };
            dom.counts.kicks_preempted = dom.counts.kicks_preempted.wrapping_add(1);
            let action = dom.policy.action(Source::Event);
            self.make_urgent(now, unit, Source::Event, action, d);
        }
        Ok(())
    }

    /// A unit lost its pCPU inside what ends by running.
    pub(crate) fn preempted(&mut self, now: Time, unit: u16, d: &mut Decision) {
        let dom = self.unit(unit).map_or(NIL, |u| u.dom);
        let Some(dom) = self.dom_mut(dom) else { return };
        let action = dom.policy.action(Source::Preemption);
        self.make_urgent(now, unit, Source::Preemption, action, d);
    }

    /// How long the current unit of a normal core, about to lose it inside what ends by running, may stay. Once a slice.
    pub(crate) fn grace(&mut self, cpu: u8, unit: u16) -> Option<Span> {
        let grace = self.shared.params.grace;
        let dom = self.unit(unit).map_or(NIL, |u| u.dom);
        let policy = self.dom_mut(dom)?.policy;
        let wanted = policy.action(Source::Preemption) == Action::Grace;
        if !wanted || self.cpu(cpu)?.graced {
            return None;
        }
        let span = self.grant(unit, grace)?;
        self.cpu_mut(cpu)?.graced = true;
        let c = &mut self.dom_mut(dom)?.counts;
        c.graces = c.graces.wrapping_add(1);
        Some(span)
    }

    /// pCPUs that may serve a unit that `action` makes urgent.
    fn servers(&self, action: Action) -> u64 {
        match action {
            Action::Micro => self.shared.micro,
            Action::Borrow | Action::Front => self.shared.online,
            Action::None | Action::Grace => 0,
        }
    }

    /// Asks for help for a unit. True if it is on its way: urgent now, urgent before, or about to run anyway.
    fn make_urgent(
        &mut self,
        now: Time,
        unit: u16,
        source: Source,
        action: Action,
        d: &mut Decision,
    ) -> bool {
        let Some(u) = self.unit(unit).copied() else {
            return false;
        };
        let waiting = u.place == Place::Queued || (u.place == Place::Leaving && u.runnable);
        if !waiting || matches!(action, Action::None | Action::Grace) {
            return false;
        }
        if u.urgent != Action::None || u.promised != NO_CPU {
            return true;
        }
        let servers = self.servers(action);
        if servers == 0 {
            // How many there should be depends on who asks in vain.
            self.asked(now, false, d);
            return false;
        }
        let lead = Span(self.shared.params.slice.0.saturating_mul(2));
        let ahead = u.vtime > self.shared.vclock.saturating_add(lead.0);
        let reachable = u.hard & servers != 0;
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
            match source {
                Source::IpiWait => &mut c.accel_ipi,
                Source::LockWait => &mut c.accel_lock,
                Source::Event => &mut c.accel_irq,
                Source::Preemption => &mut c.accel_preempt,
            }
        };
        *count = count.wrapping_add(1);
        if !reachable || ahead || parked {
            return false;
        }
        self.list_urgent(unit, action);
        if u.place == Place::Queued {
            self.find_server(now, unit, d);
        }
        true
    }

    fn list_urgent(&mut self, unit: u16, action: Action) {
        let tail = self.shared.urgent_tail;
        self.edit(unit, |u| {
            u.urgent = action;
            u.urgent_prev = tail;
            u.urgent_next = NIL;
        });
        if tail == NIL {
            self.shared.urgent_head = unit;
        }
        self.edit(tail, |t| t.urgent_next = unit);
        self.shared.urgent_tail = unit;
    }

    pub(crate) fn unlist_urgent(&mut self, unit: u16) {
        let Some(u) = self.units.get_mut(usize::from(unit)).filter(|u| u.urgent != Action::None) else {
            return;
        };
        u.urgent = Action::None;
        let (prev, next) = (u.urgent_prev, u.urgent_next);
        if self.shared.urgent_head == unit {
            self.shared.urgent_head = next;
        }
        if self.shared.urgent_tail == unit {
            self.shared.urgent_tail = prev;
        }
        self.edit(prev, |x| x.urgent_next = next);
        self.edit(next, |x| x.urgent_prev = prev);
    }

    /// Pokes a pCPU that could give the waiting urgent `unit` its micro slice now.
    #[inline(always)]
    pub(crate) fn find_server(&mut self, now: Time, unit: u16, d: &mut Decision) {
        if let Some(u) = self.unit(unit)
            && matches!(u.urgent, Action::Micro | Action::Borrow)
            && u.promised == NO_CPU
        {
            let u = *u;
            self.ask_server(now, unit, &u, d);
        }
    }

    #[inline(never)]
    fn ask_server(&mut self, now: Time, unit: u16, u: &Unit, d: &mut Decision) {
        let found = self.poke_micro(unit, d) || (u.urgent == Action::Borrow && self.borrow(now, unit, d));
        self.asked(now, found, d);
        if !found && let Some(dom) = self.dom_mut(u.dom) {
            dom.counts.refused_full = dom.counts.refused_full.wrapping_add(1);
        }
    }

    /// Pokes a micro core that could take `unit` now: an idle one, else one that does normal work. False if all are
    /// busy with urgent units or have been poked.
    fn poke_micro(&mut self, unit: u16, d: &mut Decision) -> bool {
        let hard = self.unit(unit).map_or(0, |u| u.hard);
        let mut found = NO_CPU;
        for cpu in cpus(hard & self.shared.micro & self.shared.online & !self.shared.poked) {
            let Some(c) = self.cpu(cpu) else { break };
            if c.work == Work::Micro {
                continue;
            }
            found = cpu;
            if c.work == Work::Idle {
                break;
            }
        }
        if found == NO_CPU {
            return false;
        }
        self.shared.poked |= bit(found);
        d.poke |= bit(found);
        true
    }

    /// Finds a normal core for `unit`: one that a sibling's yield has lent already, else the one of another domain whose unit
    /// is furthest ahead.
    fn borrow(&mut self, now: Time, unit: u16, d: &mut Decision) -> bool {
        let Some(u) = self.unit(unit).copied() else {
            return false;
        };
        let between = Span(self.shared.params.micro_slice.0.saturating_mul(LEND_EVERY));
        let (mut lender, mut most) = (NO_CPU, 0);
        for cpu in cpus(u.mask & self.normal()) {
            let Some(c) = self.cpu(cpu).copied() else { break };
            if c.lends == u.dom && !self.lends_already(cpu, unit) {
                return true;
            }
            let other = self.unit(c.unit).is_some_and(|x| x.dom != u.dom);
            if c.work != Work::Normal || self.shared.poked & bit(cpu) != 0 || !other {
                continue;
            }
            if c.lent != Time(0) && now.since(c.lent) < between {
                continue;
            }
            let ahead = c.vtime_now(now);
            if lender == NO_CPU || ahead > most {
                (lender, most) = (cpu, ahead);
            }
        }
        if lender == NO_CPU {
            return false;
        }
        if let Some(c) = self.cpu_mut(lender) {
            c.lent = now;
        }
        self.promise(lender, unit, d);
        true
    }

    /// Whether `cpu`, lent to the domain of `unit`, has another urgent unit of it to serve first.
    fn lends_already(&self, cpu: u8, unit: u16) -> bool {
        let first = self.first_urgent(cpu);
        first != NIL && first != unit
    }

    /// Whether any unit is urgent.
    pub(crate) const fn urgent(&self) -> bool {
        self.shared.urgent_head != NIL
    }

    /// The urgent unit that has waited longest and that `cpu` may give a micro slice.
    pub(crate) fn first_urgent(&self, cpu: u8) -> u16 {
        if !self.urgent() {
            return NIL;
        }
        let micro = self.shared.micro & bit(cpu) != 0;
        let lends = self.cpu(cpu).map_or(NIL, |c| c.lends);
        self.scan(|u| {
            let here = match u.urgent {
                Action::Micro => micro,
                Action::Borrow => micro || u.promised == cpu || u.dom == lends,
                Action::None | Action::Grace | Action::Front => false,
            };
            here && u.hard & bit(cpu) != 0
        })
    }

    /// The unit that is to go first in the queue of `cpu`.
    #[inline(never)]
    pub(crate) fn first_front(&self, cpu: u8) -> u16 {
        self.scan(|u| u.urgent == Action::Front && u.mask & bit(cpu) != 0)
    }

    /// The first waiting unit of the urgent list that fits.
    fn scan(&self, fits: impl Fn(&Unit) -> bool) -> u16 {
        let mut at = self.shared.urgent_head;
        for _ in 0..SCAN {
            let Some(u) = self.unit(at) else { return NIL };
            if u.place == Place::Queued && fits(u) {
                return at;
            }
            at = u.urgent_next;
        }
        NIL
    }

    /// The urgent unit that `cpu` serves now, and its micro slice. Those at their cap stop being urgent.
    #[inline(never)]
    pub(crate) fn take_urgent(&mut self, cpu: u8) -> Option<(u16, Span)> {
        let slice = self.shared.params.micro_slice;
        for _ in 0..SCAN {
            let unit = self.first_urgent(cpu);
            if unit == NIL {
                return None;
            }
            if let Some(span) = self.grant(unit, slice) {
                return Some((unit, span));
            }
            self.unlist_urgent(unit);
        }
        None
    }

    pub(crate) fn entered_micro(&mut self, unit: u16, cpu: u8) {
        let dom = self.unit(unit).map_or(NIL, |u| u.dom);
        let (micro, lends) = (self.shared.micro & bit(cpu) != 0, self.cpu(cpu).map_or(NIL, |c| c.lends));
        self.shared.micro_runs = self.shared.micro_runs.wrapping_add(1);
        if let Some(d) = self.dom_mut(dom) {
            d.on_micro = d.on_micro.saturating_add(1);
            let c = &mut d.counts;
            c.micro_runs = c.micro_runs.wrapping_add(1);
            if !micro && lends == dom {
                c.lent_runs = c.lent_runs.wrapping_add(1);
            } else if !micro {
                c.borrow_runs = c.borrow_runs.wrapping_add(1);
            }
        }
    }

    pub(crate) fn left_micro(&mut self, dom: u16) {
        if let Some(d) = self.dom_mut(dom) {
            d.on_micro = d.on_micro.saturating_sub(1);
        }
    }
}
