// SPDX-License-Identifier: MIT OR Apache-2.0
//! The choice: which unit a pCPU that asks for work runs, for how long, and what that is charged.
//!
//! In this order: the rest of a granted micro slice; an urgent unit ([`crate::urgent`]); grace for who runs
//! ([`crate::policy`]); the rest of its slice, unless the unit that this pCPU was poked for is behind by more than the rate
//! limit; on a pCPU that is free, the unit that it was poked for, then the one that was interrupted there; who goes to
//! the front; the least virtual time; who ran before. Nobody gets a slice without budget ([`crate::cap`]).

use crate::class::Class;
use crate::pool::{Decision, Offer, Pool, Refusal, bit};
use crate::state::{DEFAULT_WEIGHT, MAX_CPUS, MAX_UNITS, NIL, NO_CPU, Place, Work};
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

/// What is known of a unit that could go on.
#[derive(Clone, Copy)]
struct Prev {
    unit: u16,
    work: Work,
    yielding: bool,
    over: bool,
    /// What it is inside of ends by running.
    critical: bool,
    vtime: u64,
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
        if usize::from(cpu) >= MAX_CPUS {
            return Err(Refusal::Unknown);
        }
        let known = self.shared.online & bit(cpu) != 0;
        if known != (offer != Offer::Offline) {
            self.shared.online ^= bit(cpu);
            self.reassign_modes(d);
            d.poke &= !bit(cpu);
        }
        let c = self.shared.cpus.get_mut(usize::from(cpu)).ok_or(Refusal::Unknown)?;
        if now >= c.lends_until {
            c.lends = NIL;
        }
        let (unit, next) = (c.unit, c.next);
        if unit != NIL {
            self.stopped(now, cpu);
            if runnable && offer == Offer::Run {
                self.contend(now, cpu, class, d);
                return Ok(());
            }
            self.leave(cpu, runnable, class, Span(0));
        }
        let choice = if offer == Offer::Run { self.choose(cpu, next) } else { IDLE };
        self.turn_to(now, cpu, choice, d);
        self.forget(now, cpu, next, choice.unit, d);
        Ok(())
    }

    /// The current unit of `cpu` has run up to now.
    fn stopped(&mut self, now: Time, cpu: u8) {
        self.charge(now, cpu);
        self.release(cpu);
        if let Some(c) = self.cpu(cpu)
            && c.work == Work::Micro
        {
            let ran = now.since(c.started);
            if self.first_urgent(cpu) != NIL {
                self.shared.micro_stay_max = self.shared.micro_stay_max.max(ran);
            }
        }
    }

    /// The choice for a pCPU whose unit could go on, and what becomes of that.
    #[inline(never)]
    fn contend(&mut self, now: Time, cpu: u8, class: Class, d: &mut Decision) {
        let Some(c) = self.cpu(cpu) else { return };
        let Some(u) = self.units.get(usize::from(c.unit)) else { return };
        let next = c.next;
        let (may_stay, hard) = (self.mask_of(u) & bit(cpu) != 0, u.hard & bit(cpu) != 0);
        let prev = Prev {
            unit: c.unit,
            work: c.work,
            yielding: u.yielding,
            over: now >= c.ends,
            critical: class.ends_by_running(),
            vtime: u.vtime,
            left: c.ends.since(now),
            ran: now.since(c.started),
        };
        let choice = if prev.work == Work::Micro
            && hard
            && !prev.over
            && !prev.yielding
            && let Some(span) = self.grant(prev.unit, prev.left)
        {
            micro(prev.unit, span)
        } else if prev.work == Work::Normal && may_stay {
            self.stay(cpu, next, &prev)
        } else {
            self.choose(cpu, next)
        };
        if choice.unit == prev.unit {
            self.edit(prev.unit, |u| {
                u.yielding = false;
                u.runnable = true;
            });
            // The rate limit and grace put off a preemption; it is not forgotten.
            let keep_hint = self.preempts(cpu, next, prev.vtime);
            if let Some(c) = self.cpu_mut(cpu) {
                if choice.work != Work::Micro {
                    c.lends = NIL;
                }
                if prev.over && choice.span > Span(0) && !choice.grace {
                    c.graced = false;
                }
                c.ends = now.after(choice.span.max(if keep_hint { prev.left } else { Span(0) }));
                c.reserved = choice.span;
            }
            (d.run, d.slice) = (choice.unit, choice.span);
            if keep_hint {
                return;
            }
            self.poke_served(cpu);
        } else {
            let normal = prev.work == Work::Normal && !prev.yielding;
            self.leave(cpu, true, class, if normal && !prev.over { prev.left } else { Span(0) });
            self.turn_to(now, cpu, choice, d);
            if normal && prev.critical {
                self.preempted(now, prev.unit, d);
            }
        }
        self.forget(now, cpu, next, choice.unit, d);
    }

    /// `cpu` has done what it was poked for.
    fn poke_served(&mut self, cpu: u8) {
        self.shared.poked &= !bit(cpu);
        if let Some(c) = self.cpu_mut(cpu) {
            c.next = NIL;
        }
    }

    /// `cpu` was poked for unit `next`, and runs `now_runs`.
    #[inline(always)]
    fn forget(&mut self, now: Time, cpu: u8, next: u16, now_runs: u16, d: &mut Decision) {
        if next != NIL && next != now_runs {
            self.another_got(now, cpu, next, d);
        }
    }

    #[inline(never)]
    fn another_got(&mut self, now: Time, cpu: u8, next: u16, d: &mut Decision) {
        let Some(u) = self.units.get_mut(usize::from(next)) else { return };
        if u.promised == cpu {
            u.promised = NO_CPU;
        }
        if u.place == Place::Queued {
            self.find_cpu(now, next, false, d);
            self.find_server(now, next, d);
        }
    }

    /// Whether unit `i`, for which `cpu` was poked, still waits and may run there.
    fn hint(&self, cpu: u8, i: u16) -> bool {
        self.unit(i).is_some_and(|u| u.place == Place::Queued && u.mask & bit(cpu) != 0)
    }

    fn vtime(&self, i: u16) -> u64 {
        self.units.get(usize::from(i)).map_or(u64::MAX, |u| u.vtime)
    }

    /// The choice for a pCPU that is free, and was poked for unit `next`.
    #[inline(always)]
    fn choose(&mut self, cpu: u8, next: u16) -> Choice {
        if self.urgent()
            && let Some((unit, span)) = self.take_urgent(cpu)
        {
            return micro(unit, span);
        }
        if self.hint(cpu, next)
            && let Some(span) = self.grant(next, self.shared.params.slice)
        {
            return normal(next, span);
        }
        let resume = self.cpu(cpu).map_or(NIL, |c| c.resume);
        let left = self.unit(resume).map_or(Span(0), |u| u.slice_left);
        if left > Span(0)
            && self.hint(cpu, resume)
            && let Some(span) = self.grant(resume, left)
        {
            return normal(resume, span);
        }
        self.first_in_turn(cpu, u64::MAX)
    }

    /// The choice for a pCPU whose unit could go on with its normal work there.
    fn stay(&mut self, cpu: u8, next: u16, prev: &Prev) -> Choice {
        let p = &self.shared.params;
        let (slice, ratelimit) = (p.slice, p.ratelimit);
        // A normal core does not interrupt one critical service for another.
        let careful = prev.critical && self.shared.micro & bit(cpu) == 0;
        let busy = careful && !prev.yielding;
        if (!busy || prev.over)
            && self.urgent()
            && let Some((unit, span)) = self.take_urgent(cpu)
        {
            return micro(unit, span);
        }
        let mut limit = u64::MAX;
        if !prev.yielding {
            limit = prev.vtime;
            let preempts = self.preempts(cpu, next, prev.vtime);
            let wanted = preempts && prev.ran >= ratelimit;
            if careful
                && (prev.over || wanted)
                && let Some(span) = self.grace(cpu, prev.unit)
            {
                return Choice { grace: true, ..normal(prev.unit, span) };
            }
            if !prev.over {
                let mut span = prev.left;
                if wanted {
                    if let Some(span) = self.grant(next, slice) {
                        return normal(next, span);
                    }
                } else if preempts {
                    span = span.min(ratelimit.less(prev.ran));
                }
                if let Some(span) = self.grant(prev.unit, span) {
                    return normal(prev.unit, span);
                }
            }
        }
        // Its slice is over, or it yielded.
        let choice = self.first_in_turn(cpu, limit);
        if choice.unit != NIL {
            return choice;
        }
        let want = if prev.over { slice } else { prev.left };
        if let Some(span) = self.grant(prev.unit, want) {
            return normal(prev.unit, span);
        }
        // It would go on, but its domain is at its cap: whoever waits, however far ahead, is better than nobody.
        self.pick(cpu, u64::MAX)
    }

    /// Who is to go first in the queue, else the next in order of those with a virtual time of at most `limit`.
    #[inline(always)]
    fn first_in_turn(&mut self, cpu: u8, limit: u64) -> Choice {
        if self.urgent()
            && let front = self.first_front(cpu)
            && front != NIL
            && let Some(span) = self.grant(front, self.shared.params.slice)
        {
            return normal(front, span);
        }
        if self.waits() { self.pick(cpu, limit) } else { IDLE }
    }

    /// Whether unit `next`, for which `cpu` was poked, waits and is behind `vtime` by more than the rate limit.
    fn preempts(&self, cpu: u8, next: u16, vtime: u64) -> bool {
        self.hint(cpu, next) && self.vtime(next).saturating_add(self.shared.params.ratelimit.0) < vtime
    }

    /// The next unit in order for `cpu` with a virtual time of at most `limit`.
    fn pick(&mut self, cpu: u8, limit: u64) -> Choice {
        let slice = self.shared.params.slice;
        // Each turn takes one unit at its cap out of the running until the next period.
        for _ in 0..MAX_UNITS {
            let first = self.queue().first(bit(cpu));
            if first == NIL {
                return IDLE;
            }
            let near = self.queue().first_preferring(bit(cpu));
            let slack = self.vtime(first).saturating_add(slice.0 / 4);
            let unit = if near != NIL && self.vtime(near) <= slack { near } else { first };
            if self.vtime(unit) > limit {
                return IDLE;
            }
            if let Some(span) = self.grant(unit, slice) {
                return normal(unit, span);
            }
            self.park(unit);
        }
        IDLE
    }

    /// The current unit of `cpu` loses it, with `left` of its slice to resume.
    #[inline(always)]
    fn leave(&mut self, cpu: u8, runnable: bool, class: Class, left: Span) {
        let Some(c) = self.shared.cpus.get_mut(usize::from(cpu)) else { return };
        let (unit, work) = (c.unit, c.work);
        c.unit = NIL;
        c.work = Work::Idle;
        c.reserved = Span(0);
        if left > Span(0) {
            c.resume = unit;
        }
        self.shared.busy &= !bit(cpu);
        let Some(u) = self.units.get_mut(usize::from(unit)) else { return };
        u.place = Place::Leaving;
        u.cpu = cpu;
        u.class = class;
        u.slice_left = left;
        u.runnable = runnable;
        u.yielding = false;
        let dom = u.dom;
        if work == Work::Micro {
            self.left_micro(dom);
        }
        if runnable {
            if let Some(d) = self.dom_mut(dom) {
                d.counts.preempted = d.counts.preempted.wrapping_add(1);
                if class.is_critical() {
                    d.counts.preempted_critical = d.counts.preempted_critical.wrapping_add(1);
                }
            }
            self.list_preempted(unit);
        }
    }

    /// `cpu`, which runs nothing, turns to what was chosen for it.
    #[inline(always)]
    fn turn_to(&mut self, now: Time, cpu: u8, choice: Choice, d: &mut Decision) {
        self.poke_served(cpu);
        if let Some(c) = self.cpu_mut(cpu) {
            c.graced = false;
            if choice.work != Work::Micro {
                c.lends = NIL;
            }
        }
        if choice.unit != NIL {
            self.enter(now, cpu, choice.unit, choice.work, choice.span);
            (d.run, d.slice) = (choice.unit, choice.span);
        }
    }

    /// A waiting unit gets `cpu`.
    #[inline(never)]
    fn enter(&mut self, now: Time, cpu: u8, unit: u16, work: Work, span: Span) {
        if work == Work::Micro {
            self.entered_micro(unit, cpu);
        } else if self.vtime(unit) > self.shared.vclock {
            // It is one of those that wait itself.
            let first = self.queue().first(!0);
            let lead = self.vtime(first);
            self.shared.vclock = self.shared.vclock.max(lead);
        }
        self.withdraw(unit);
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
        c.ends = now.after(span);
        c.reserved = span;
        if c.resume == unit {
            c.resume = NIL;
        }
    }

    /// Charges all that run for the time since they were last charged.
    #[inline(never)]
    pub(crate) fn charge_all(&mut self, now: Time) {
        for cpu in 0..MAX_CPUS as u8 {
            self.charge(now, cpu);
        }
    }

    /// Charges the current unit of `cpu` for the time since it was last charged, its domain's budget included.
    #[inline(always)]
    fn charge(&mut self, now: Time, cpu: u8) {
        let Some(c) = self.shared.cpus.get_mut(usize::from(cpu)) else { return };
        let ran = now.since(c.charged);
        c.charged = now;
        let Some(u) = self.units.get_mut(usize::from(c.unit)) else { return };
        let Some(d) = self.doms.get_mut(usize::from(u.dom)) else { return };
        let weight = u64::from(d.weight.max(1));
        // Two years without a charge would overflow.
        let scaled = ran.0.wrapping_mul(256).wrapping_add(u.scale_rem);
        u.vtime = u.vtime.wrapping_add(scaled / weight);
        u.scale_rem = scaled % weight;
        (c.vtime, c.weight) = (u.vtime, d.weight);
        d.counts.run_ns = d.counts.run_ns.wrapping_add(ran.0);
        if c.work == Work::Micro {
            d.counts.micro_ns = d.counts.micro_ns.wrapping_add(ran.0);
            self.shared.micro_ns = self.shared.micro_ns.wrapping_add(ran.0);
        }
        if d.cap != 0 {
            d.reserved = d.reserved.saturating_sub(c.reserved.0.min(ran.0));
            c.reserved = c.reserved.less(ran);
            d.budget = d.budget.saturating_sub_unsigned(ran.0);
        }
    }
}
