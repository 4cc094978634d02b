// SPDX-License-Identifier: MIT OR Apache-2.0
//! Caps: a domain with cap `c` runs at most `c` percent of one pCPU in each period of 10 ms.
//!
//! A domain has a budget of `period * c / 100` a period. Whoever runs has its slice reserved from the budget beforehand and
//! gives back what it did not use, so the units of a domain cannot pass the cap together. Running over the end of a slice
//! is paid back from the next period; what is not used is lost. A unit that finds no budget waits, in the queue but out of
//! every pCPU's reach, until the period ends.
//!
//! Of a domain with units in several pools ([`crate::groups`]) each pool has the part of the budget that its units are of all:
//! `period * c / 100 * units / (units + units elsewhere)`. A unit that moves takes its part along at once, and where it leaves
//! what was run beyond the smaller part is paid back; so all pools together never pass the cap in the long run, and in one
//! period by the parts moved in it at most. The price: what the units of one pool do not use those of another cannot have,
//! so a domain of `n` units of which one works has `c / n` at least, and all of `c` only where no sibling is elsewhere.

use crate::pool::{Decision, Pool};
use crate::state::{Dom, MAX_CPUS, NIL, Place};
use crate::time::{Span, Time};

/// Length of a cap period.
pub const PERIOD: Span = Span(10_000_000);
/// The least budget worth a dispatch.
const GRAIN: u64 = 100_000;

/// What the units of a domain in this pool may run in a period.
fn budget(d: &Dom) -> i64 {
    let whole = (PERIOD.0 / 100).saturating_mul(u64::from(d.cap));
    let part = if d.elsewhere == 0 {
        whole
    } else {
        let all = u64::from(d.units).saturating_add(u64::from(d.elsewhere));
        whole.saturating_mul(u64::from(d.units)) / all.max(1)
    };
    part as i64
}

impl Pool<'_> {
    /// Whether any domain may have a cap.
    const fn caps(&self) -> bool {
        self.shared.refill.0 != 0
    }

    pub(crate) fn set_cap(&mut self, now: Time, dom: u16, cap: u32, d: &mut Decision) {
        let Some(x) = self.dom_mut(dom) else { return };
        if x.cap == cap {
            return;
        }
        x.cap = cap;
        x.budget = budget(x);
        self.regrant(now, dom, d);
        self.unpark(now, dom, d);
        if cap != 0 && self.shared.refill == Time(0) {
            self.shared.refill = now.after(PERIOD);
            self.arm(d);
        }
    }

    /// The units of a domain that run now ask again; what they have run is spent.
    fn regrant(&mut self, now: Time, dom: u16, d: &mut Decision) {
        self.charge_all(now);
        if let Some(x) = self.dom_mut(dom) {
            x.reserved = 0;
        }
        for c in 0..MAX_CPUS as u8 {
            let unit = self.cpu(c).map_or(NIL, |c| c.unit);
            if self.unit(unit).is_some_and(|u| u.dom == dom) {
                // Its slice was granted under the old budget.
                if let Some(c) = self.cpu_mut(c) {
                    c.reserved = Span(0);
                    c.ends = now;
                }
                d.poke |= crate::pool::bit(c);
            }
        }
    }

    /// Does what changes a domain's part of its cap.
    pub(crate) fn reshare(&mut self, now: Time, dom: u16, d: &mut Decision, change: impl FnOnce(&mut Dom)) {
        let Some(x) = self.dom_mut(dom) else { return };
        let before = budget(x);
        change(x);
        let more = budget(x).saturating_sub(before);
        if more == 0 {
            return;
        }
        x.budget = x.budget.saturating_add(more);
        if more < 0 {
            self.regrant(now, dom, d);
        }
    }

    /// How much of `want` unit `i` may run; reserved from its domain's budget. `None`: nothing before the next period.
    #[inline(always)]
    pub(crate) fn grant(&mut self, i: u16, want: Span) -> Option<Span> {
        if self.caps() { self.reserve(i, want) } else { Some(want) }
    }

    #[inline(never)]
    fn reserve(&mut self, i: u16, want: Span) -> Option<Span> {
        let dom = self.unit(i)?.dom;
        let d = self.dom_mut(dom)?;
        if d.cap == 0 {
            return Some(want);
        }
        let free = u64::try_from(d.budget).unwrap_or(0).saturating_sub(d.reserved);
        if d.parked || free < GRAIN {
            return None;
        }
        let share = (free / u64::from(d.units.max(1))).max(GRAIN);
        let span = want.0.min(share);
        d.reserved = d.reserved.saturating_add(span);
        Some(Span(span))
    }

    /// Gives back what `cpu` has reserved and not used.
    #[inline(always)]
    pub(crate) fn release(&mut self, cpu: u8) {
        if self.caps() {
            self.give_back(cpu);
        }
    }

    #[inline(never)]
    fn give_back(&mut self, cpu: u8) {
        let Some(c) = self.cpu_mut(cpu) else { return };
        let (unit, held) = (c.unit, c.reserved.0);
        c.reserved = Span(0);
        let dom = self.unit(unit).map_or(NIL, |u| u.dom);
        if let Some(d) = self.dom_mut(dom).filter(|d| d.cap != 0) {
            d.reserved = d.reserved.saturating_sub(held);
        }
    }

    /// Whether the domain is over its cap until the next period.
    #[inline(always)]
    pub(crate) fn parked(&self, dom: u16) -> bool {
        self.caps() && self.doms.get(usize::from(dom)).is_some_and(|d| d.parked)
    }

    /// A waiting unit found no budget: nobody may take it, nor its siblings as they come up, before the next period.
    pub(crate) fn park(&mut self, unit: u16) {
        let dom = self.unit(unit).map_or(NIL, |u| u.dom);
        if let Some(d) = self.dom_mut(dom) {
            d.parked = true;
        }
        self.requeue(unit);
    }

    fn unpark(&mut self, now: Time, dom: u16, d: &mut Decision) {
        let Some(x) = self.dom_mut(dom).filter(|x| x.parked) else {
            return;
        };
        x.parked = false;
        let mut at = x.preempted;
        for _ in 0..self.units.len() {
            let Some(u) = self.unit(at).copied() else {
                break;
            };
            if u.place == Place::Queued {
                self.requeue(at);
                self.find_cpu(now, at, false, d);
            }
            at = u.sib_next;
        }
    }

    pub(crate) fn refill(&mut self, now: Time, d: &mut Decision) {
        if self.shared.refill == Time(0) || now < self.shared.refill {
            return;
        }
        // What has run belongs to the period that ends.
        self.charge_all(now);
        let mut capped = false;
        for i in 0..self.doms.len() as u16 {
            let Some(x) = self.dom_mut(i).filter(|x| x.present && x.cap != 0) else {
                continue;
            };
            capped = true;
            x.budget = x.budget.min(0).saturating_add(budget(x)).min(budget(x));
            self.unpark(now, i, d);
        }
        self.shared.refill = if capped { now.after(PERIOD) } else { Time(0) };
    }
}
