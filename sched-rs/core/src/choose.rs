// SPDX-License-Identifier: MIT OR Apache-2.0
//! The choice: which unit a pCPU that asks for work runs, for how long, and what that is charged.
//!
//! In this order: the rest of a granted micro slice; an urgent unit ([`crate::urgent`]); grace for who runs
//! ([`crate::policy`]); the rest of its slice, unless the unit that this pCPU was poked for is behind by more than the rate
//! limit; on a pCPU that is free, the unit that it was poked for, then the one that was interrupted there; who goes to
//! the front; the least virtual time; who ran before. Nobody gets a slice without budget ([`crate::cap`]).

use crate::class::Class;
use crate::pool::{Decision, Offer, Pool, Refusal, bit};
use crate::state::{DEFAULT_WEIGHT, NIL, NO_CPU, Place, Work};
use crate::time::{Span, Time};

/// A choice for a pCPU that asks for work.
#[derive(Clone, Copy)]
struct Choice {
    unit: u16,
    work: Work,
    span: Span,
    /// The unit keeps its pCPU by grace.
    grace: bool,
}

const IDLE: Choice = Choice { unit: NIL, work: Work::Idle, span: Span(0), grace: false };

const fn normal(unit: u16, span: Span) -> Choice {
    Choice { unit, work: Work::Normal, span, grace: false }
}

const fn micro(unit: u16, span: Span) -> Choice {
    Choice { unit, work: Work::Micro, span, grace: false }
}

/// What [`Event::Schedule`] found about the unit that was current.
#[derive(Clone, Copy)]
struct Prev {
    unit: u16,
    work: Work,
    /// Runnable, and the pCPU may run units.
    able: bool,
    yielding: bool,
    over: bool,
    class: Class,
    /// What is left of its slice.
    left: Span,
    ran: Span,
}

impl Pool<'_> {
    pub(crate) fn schedule(
        &mut self,
        now: Time,
        cpu: u8,
        offer: Offer,
        runnable: bool,
        class: Class,
        d: &mut Decision,
    ) -> Result<(), Refusal> {
        let known = self.shared.online & bit(cpu) != 0;
        if self.cpu(cpu).is_none() {
            return Err(Refusal::Unknown);
        }
        if known != (offer != Offer::Offline) {
            self.shared.online ^= bit(cpu);
            self.reassign_modes(d);
            d.poke &= !bit(cpu);
        }
        self.charge(now, cpu);
        self.release(cpu);
        if let Some(c) = self.cpu_mut(cpu)
            && now >= c.lends_until
        {
            c.lends = NIL;
        }
        let c = *self.cpu(cpu).ok_or(Refusal::Unknown)?;
        let prev = Prev {
            unit: c.unit,
            work: c.work,
            able: c.unit != NIL && runnable && offer == Offer::Run,
            yielding: self.unit(c.unit).is_some_and(|u| u.yielding),
            over: now >= c.ends,
            left: c.ends.since(now),
            class,
            ran: now.since(c.started),
        };
        self.edit(c.unit, |u| {
            u.yielding = false;
            u.runnable = runnable;
        });
        if c.work == Work::Micro && self.first_urgent(cpu) != NIL {
            self.shared.micro_stay_max = self.shared.micro_stay_max.max(prev.ran);
        }
        let choice = if offer == Offer::Run { self.choose(cpu, &prev) } else { IDLE };
        let kept = choice.unit == prev.unit && prev.unit != NIL;
        // The rate limit and grace put off a preemption; it is not forgotten.
        let keep_hint = kept && self.hint(cpu, c.next) && self.leads(prev.unit, c.next);
        self.shared.poked &= !bit(cpu);
        if keep_hint {
            self.shared.poked |= bit(cpu);
        }
        if let Some(c) = self.cpu_mut(cpu) {
            if !keep_hint {
                c.next = NIL;
            }
            if choice.work != Work::Micro {
                c.lends = NIL;
            }
            if !kept || (prev.over && choice.span > Span(0) && !choice.grace) {
                c.graced = false;
            }
        }
        if kept {
            if let Some(c) = self.cpu_mut(cpu) {
                c.ends = now.after(choice.span.max(if keep_hint { prev.left } else { Span(0) }));
                c.reserved = choice.span;
            }
        } else {
            if prev.unit != NIL {
                self.leave(cpu, &prev, class);
            }
            if choice.unit != NIL {
                self.enter(now, cpu, choice);
            }
            if prev.unit != NIL && prev.work == Work::Normal && prev.able && !prev.yielding {
                self.preempted(now, prev.unit, class, d);
            }
        }
        if !keep_hint {
            self.edit(c.next, |u| {
                if u.promised == cpu {
                    u.promised = NO_CPU;
                }
            });
            if self.unit(c.next).is_some_and(|u| u.place == Place::Queued) {
                // Somebody else got this pCPU.
                self.find_cpu(now, c.next, false, d);
                self.find_server(now, c.next, d);
            }
        }
        d.run = choice.unit;
        d.slice = choice.span;
        Ok(())
    }

    /// Whether unit `i`, for which `cpu` was poked, still waits and may run there.
    fn hint(&self, cpu: u8, i: u16) -> bool {
        self.unit(i).is_some_and(|u| u.place == Place::Queued && u.mask & bit(cpu) != 0)
    }

    fn vtime(&self, i: u16) -> u64 {
        self.unit(i).map_or(u64::MAX, |u| u.vtime)
    }

    fn choose(&mut self, cpu: u8, prev: &Prev) -> Choice {
        let p = self.shared.params;
        let here = self.unit(prev.unit).is_some_and(|u| u.hard & bit(cpu) != 0);
        if prev.work == Work::Micro
            && prev.able
            && here
            && !prev.over
            && !prev.yielding
            && let Some(span) = self.grant(prev.unit, prev.left)
        {
            return micro(prev.unit, span);
        }
        let allowed = self.unit(prev.unit).is_some_and(|u| self.mask_of(u) & bit(cpu) != 0);
        let stay = prev.able && prev.work == Work::Normal && allowed;
        let is_micro = self.shared.micro & bit(cpu) != 0;
        // A normal core does not interrupt one critical service for another.
        let busy = stay && !prev.yielding && prev.class.ends_by_running() && !is_micro;
        if (!busy || prev.over)
            && let Some((unit, span)) = self.take_urgent(cpu)
        {
            return micro(unit, span);
        }
        let (next, resume) = self.cpu(cpu).map_or((NIL, NIL), |c| (c.next, c.resume));
        if stay && !prev.yielding {
            let wanted = self.hint(cpu, next) && self.leads(prev.unit, next) && prev.ran >= p.ratelimit;
            if (prev.over || wanted)
                && !is_micro
                && let Some(span) = self.grace(cpu, prev.unit, prev.class)
            {
                return Choice { grace: true, ..normal(prev.unit, span) };
            }
        }
        if stay && !prev.over && !prev.yielding {
            let mut span = prev.left;
            if self.hint(cpu, next) && self.leads(prev.unit, next) {
                if prev.ran < p.ratelimit {
                    span = span.min(p.ratelimit.less(prev.ran));
                } else if let Some(span) = self.grant(next, p.slice) {
                    return normal(next, span);
                }
            }
            if let Some(span) = self.grant(prev.unit, span) {
                return normal(prev.unit, span);
            }
        }
        if !stay {
            if self.hint(cpu, next)
                && let Some(span) = self.grant(next, p.slice)
            {
                return normal(next, span);
            }
            let left = self.unit(resume).map_or(Span(0), |u| u.slice_left);
            if left > Span(0)
                && self.hint(cpu, resume)
                && let Some(span) = self.grant(resume, left)
            {
                return normal(resume, span);
            }
        }
        // A slice is over, the unit yielded, or the pCPU is free.
        let front = self.first_front(cpu);
        if front != NIL
            && let Some(span) = self.grant(front, p.slice)
        {
            return normal(front, span);
        }
        let limit = if stay && !prev.yielding { self.vtime(prev.unit) } else { u64::MAX };
        if let Some((unit, span)) = self.pick(cpu, limit) {
            return normal(unit, span);
        }
        if stay {
            let want = if prev.over { p.slice } else { prev.left };
            if let Some(span) = self.grant(prev.unit, want) {
                return normal(prev.unit, span);
            }
            // It would go on, but its domain is at its cap: whoever waits, however far ahead, is better than nobody.
            if let Some((unit, span)) = self.pick(cpu, u64::MAX) {
                return normal(unit, span);
            }
        }
        IDLE
    }

    /// Whether running unit `a` leads waiting unit `b` by more than the rate limit.
    fn leads(&self, a: u16, b: u16) -> bool {
        self.vtime(b).saturating_add(self.shared.params.ratelimit.0) < self.vtime(a)
    }

    /// The next unit in order for `cpu` with a virtual time of at most `limit`, and its slice.
    fn pick(&mut self, cpu: u8, limit: u64) -> Option<(u16, Span)> {
        let slice = self.shared.params.slice;
        // Each turn takes one unit at its cap out of the running until the next period.
        for _ in 0..=self.units.len() {
            let first = self.queue().first(bit(cpu));
            if first == NIL {
                return None;
            }
            let near = self.queue().first_preferring(bit(cpu));
            let slack = self.vtime(first).saturating_add(slice.0 / 4);
            let unit = if near != NIL && self.vtime(near) <= slack { near } else { first };
            if self.vtime(unit) > limit {
                return None;
            }
            if let Some(span) = self.grant(unit, slice) {
                return Some((unit, span));
            }
            self.park(unit);
        }
        None
    }

    /// The current unit of `cpu` loses it.
    fn leave(&mut self, cpu: u8, prev: &Prev, class: Class) {
        let interrupted = prev.work == Work::Normal && prev.able && !prev.over && !prev.yielding;
        let Some(u) = self.units.get_mut(usize::from(prev.unit)) else {
            return;
        };
        u.place = Place::Leaving;
        u.cpu = cpu;
        u.class = class;
        u.slice_left = if interrupted { prev.left } else { Span(0) };
        let (dom, runnable) = (u.dom, u.runnable);
        if prev.work == Work::Micro {
            self.left_micro(dom);
        }
        if runnable {
            if let Some(d) = self.dom_mut(dom) {
                d.counts.preempted = d.counts.preempted.wrapping_add(1);
                if class.is_critical() {
                    d.counts.preempted_critical = d.counts.preempted_critical.wrapping_add(1);
                }
            }
            self.list_preempted(prev.unit);
        }
        if let Some(c) = self.cpu_mut(cpu) {
            c.unit = NIL;
            c.work = Work::Idle;
            c.reserved = Span(0);
            c.resume = if interrupted { prev.unit } else { c.resume };
        }
        self.shared.busy &= !bit(cpu);
    }

    /// A waiting unit gets `cpu`.
    fn enter(&mut self, now: Time, cpu: u8, choice: Choice) {
        let (unit, work) = (choice.unit, choice.work);
        self.withdraw(unit);
        let first = self.queue().first(!0);
        let lead = self.vtime(first).min(self.vtime(unit));
        if work == Work::Normal {
            self.shared.vclock = self.shared.vclock.max(lead);
        } else {
            self.entered_micro(unit, cpu);
        }
        self.shared.busy |= bit(cpu);
        let Some(u) = self.units.get_mut(usize::from(unit)) else { return };
        u.place = Place::OnCpu;
        u.cpu = cpu;
        u.runnable = true;
        u.slice_left = Span(0);
        if work == Work::Normal {
            u.home = cpu;
        }
        let Some(c) = self.shared.cpus.get_mut(usize::from(cpu)) else { return };
        c.unit = unit;
        c.work = work;
        c.started = now;
        c.charged = now;
        c.vtime = u.vtime;
        c.weight = self.doms.get(usize::from(u.dom)).map_or(DEFAULT_WEIGHT, |d| d.weight);
        c.ends = now.after(choice.span);
        c.reserved = choice.span;
        if c.resume == unit {
            c.resume = NIL;
        }
    }

    /// Charges the current unit of `cpu` for the time since it was last charged, its domain's budget included.
    pub(crate) fn charge(&mut self, now: Time, cpu: u8) {
        let Some(c) = self.shared.cpus.get_mut(usize::from(cpu)) else { return };
        let ran = now.since(c.charged);
        c.charged = now;
        let Some(u) = self.units.get_mut(usize::from(c.unit)) else { return };
        let Some(d) = self.doms.get_mut(usize::from(u.dom)) else { return };
        let weight = u64::from(d.weight.max(1));
        let scaled = ran.0.saturating_mul(256).saturating_add(u.scale_rem);
        u.vtime = u.vtime.saturating_add(scaled / weight);
        u.scale_rem = scaled % weight;
        (c.vtime, c.weight) = (u.vtime, d.weight);
        d.counts.run_ns = d.counts.run_ns.wrapping_add(ran.0);
        if c.work == Work::Micro {
            d.counts.micro_ns = d.counts.micro_ns.wrapping_add(ran.0);
            self.shared.micro_ns = self.shared.micro_ns.wrapping_add(ran.0);
        }
        let used = c.reserved.0.min(ran.0);
        c.reserved = c.reserved.less(ran);
        if d.cap != 0 {
            d.reserved = d.reserved.saturating_sub(used);
            d.budget = d.budget.saturating_sub_unsigned(ran.0);
        }
    }
}
