// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stock Xen's credit scheduler, as its behaviour in 4.20 (`xen/common/sched/credit.c`) can be observed.
//!
//! - One queue a pCPU, in the order BOOST, UNDER, OVER, first come first served within each. Slice 30 ms.
//! - A vCPU burns credit as it runs. Every 30 ms the accounting hands out as much as all pCPUs can burn, by weight, to the
//!   vCPUs that were seen running at a 10 ms tick; who has credit is UNDER, who has none is OVER. Credit is bounded to a
//!   slice either way; who reaches the upper bound leaves the accounting with half of it.
//! - A vCPU that wakes with credit is BOOST until a tick finds it running. A wake-up tickles its last pCPU if that runs
//!   something of lower priority, else an idle one.
//! - The rate limit keeps a vCPU on its pCPU for 1 ms, unless it yields. A yielder goes behind its equals and behind one
//!   vCPU of lower priority; whoever comes next gets a whole slice.
//! - A pCPU whose next vCPU is OVER (or that would idle) looks, at most every 1 ms, for a vCPU of higher priority in
//!   the queues of others, and takes it, yielders excepted. Queues are sorted at the tick after an accounting.
//!
//! [`Settings::XEN_4_7`] is the paper's version (`xen/common/sched_credit.c` of 4.7), which differs in what a yield does: the
//! rate limit holds for a yielder too, so who spins keeps its pCPU for its first millisecond, yielding every few
//! microseconds; a yielder may be stolen; and pCPUs look elsewhere every time, not every millisecond.
//! With [`Settings::micro`] it has micro cores as the paper's own system: see [`crate::credit_micro`].
//!
//! Not modelled: caps (credit parks vCPUs), NUMA, soft affinity, SMT-aware migration of running vCPUs.

use crate::agenda::{NEVER, Ns};
use crate::credit_micro::{Micro, Pool};
use crate::sched::{Domain, Last, Left, NIL, Out, Sched};
use microslice_core::Class;
use microslice_core::state::Counts;
use std::collections::VecDeque;

/// Priorities, in Xen's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pri {
    Idle,
    Over,
    Under,
    Boost,
    /// On its way to a micro core or on one.
    Turbo,
}

/// Time constants; see `sched_credit_tslice_ms`, `sched_ratelimit_us`, `load-balance-ratelimit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Slice and accounting period.
    pub slice: Ns,
    /// How long a vCPU runs before it may be preempted.
    pub ratelimit: Ns,
    /// How often a pCPU looks for work elsewhere; 0: every time.
    pub balance: Ns,
    /// When the first accounting is, from 0 to a slice; the ticks, which Xen aligns when a pCPU leaves idling, are at whole periods.
    pub accounts_at: Ns,
    /// The rate limit holds for yielders too.
    pub limit_yields: bool,
    /// A vCPU that yielded may be taken by another pCPU.
    pub steal_yielders: bool,
    /// The paper's micro cores.
    pub micro: Option<Micro>,
}

impl Settings {
    /// Xen 4.20.
    pub const XEN_4_20: Self = Self {
        slice: 30_000_000,
        ratelimit: 1_000_000,
        balance: 1_000_000,
        accounts_at: 0,
        limit_yields: false,
        steal_yielders: false,
        micro: None,
    };
    /// Xen 4.7.
    pub const XEN_4_7: Self = Self { balance: 0, limit_yields: true, steal_yielders: true, ..Self::XEN_4_20 };
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    pub(crate) dom: u16,
    pub(crate) cpu: u8,
    pub(crate) pri: Pri,
    /// Nanoseconds it may run before it is OVER.
    credit: i64,
    /// Up to when it has burnt credit, while it runs.
    start: Ns,
    pub(crate) yielded: bool,
    active: bool,
    pub(crate) hard: u64,
    /// Runs or wants to.
    pub(crate) awake: bool,
    /// What it was at when it last lost its pCPU.
    pub(crate) left: Left,
    /// It yielded and has not run since.
    pub(crate) gave_way: bool,
    /// It has a micro slice to come, or is in it.
    pub(crate) turbo: bool,
    /// It offered its pCPU and was not taken at its word.
    pub(crate) stays: bool,
    /// pCPU it was moved to a micro core from.
    pub(crate) home: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    pub(crate) cur: u16,
    since: Ns,
    /// When the present slice ends.
    pub(crate) until: Ns,
    pub(crate) queue: VecDeque<u16>,
    balanced: Ns,
    sorted: u64,
}

/// The scheduler's state.
#[derive(Debug)]
pub struct Credit {
    pub(crate) set: Settings,
    pub(crate) units: Vec<Unit>,
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) pool: Pool,
    weights: Vec<u32>,
    pub(crate) idlers: u64,
    /// Sum of the credits at the last accounting, if negative.
    balance: i64,
    epoch: u64,
    bias: u8,
    last_tickled: u8,
    events: u64,
}

/// The first set bit above `from`, or around from the lowest: Xen's `cpumask_cycle`.
pub(crate) fn cycle(from: u8, mask: u64) -> Option<u8> {
    if mask == 0 {
        return None;
    }
    let above = if from >= 63 { 0 } else { mask & (!0 << (from + 1)) };
    Some(if above != 0 { above } else { mask }.trailing_zeros() as u8)
}

impl Credit {
    /// Puts vCPU `v` on pCPU `place[v]`, where it will be found when it wakes.
    #[must_use]
    pub fn new(cpus: u8, set: Settings, domains: &[Domain], place: &[u8]) -> Self {
        let mut units = vec![];
        let pool = Pool::new(cpus, set.micro);
        let normal = cpus - pool.mask.count_ones() as u8;
        // Whoever would be on a micro core is dealt out in turn.
        let mut turn = (0..normal).cycle();
        for (dom, d) in domains.iter().enumerate() {
            for v in d.vcpus.clone() {
                let cpu = place[usize::from(v)];
                let cpu = if cpu < normal { cpu } else { turn.next().unwrap_or(0) };
                let cpu = if d.hard & 1 << cpu != 0 { cpu } else { d.hard.trailing_zeros() as u8 };
                units.push(Unit {
                    dom: dom as u16,
                    cpu,
                    pri: Pri::Under,
                    credit: set.slice as i64 / 2,
                    start: 0,
                    yielded: false,
                    active: false,
                    hard: d.hard,
                    awake: false,
                    left: Left::User,
                    gave_way: false,
                    turbo: false,
                    stays: false,
                    home: cpu,
                });
            }
        }
        let cpu = Cpu { cur: NIL, since: 0, until: 0, queue: VecDeque::new(), balanced: 0, sorted: 0 };
        Self {
            set,
            units,
            cpus: vec![cpu; usize::from(cpus)],
            weights: domains.iter().map(|d| d.weight).collect(),
            idlers: !0 >> (64 - cpus) & !pool.mask,
            pool,
            balance: 0,
            epoch: 0,
            bias: 0,
            last_tickled: 0,
            events: 0,
        }
    }

    pub(crate) fn pri(&self, v: u16) -> Pri {
        self.units.get(usize::from(v)).map_or(Pri::Idle, |u| u.pri)
    }

    fn burn(&mut self, now: Ns, v: u16) {
        let u = &mut self.units[usize::from(v)];
        u.credit -= now.saturating_sub(u.start) as i64;
        u.start = now;
    }

    pub(crate) fn insert(&mut self, v: u16) {
        let u = self.units[usize::from(v)];
        let queue = &self.cpus[usize::from(u.cpu)].queue;
        let mut at =
            queue.iter().position(|w| self.units[usize::from(*w)].pri < u.pri).unwrap_or(queue.len());
        if u.yielded && at < queue.len() {
            at += 1;
        }
        self.cpus[usize::from(u.cpu)].queue.insert(at, v);
    }

    pub(crate) fn tickle(&mut self, v: u16, out: &mut Out<'_>) {
        let u = self.units[usize::from(v)];
        let cur = self.pri(self.cpus[usize::from(u.cpu)].cur);
        if self.pool.has(u.cpu) {
            if cur == Pri::Idle {
                *out.poke |= 1 << u.cpu;
            }
            return;
        }
        if cur == Pri::Idle || (self.idlers == 0 && u.pri > cur) {
            self.wake_cpu(u.cpu, out);
        } else if self.idlers != 0 {
            match cycle(self.last_tickled, self.idlers & u.hard) {
                Some(cpu) => {
                    self.last_tickled = cpu;
                    self.wake_cpu(cpu, out);
                }
                None if u.pri > cur => self.wake_cpu(u.cpu, out),
                None => {}
            }
        }
    }

    fn wake_cpu(&mut self, cpu: u8, out: &mut Out<'_>) {
        self.idlers &= !(1 << cpu);
        *out.poke |= 1 << cpu;
    }

    /// A vCPU of higher priority than `than` in another pCPU's queue.
    fn steal(&mut self, cpu: u8, than: Pri) -> Option<u16> {
        let all = !0u64 >> (64 - self.cpus.len());
        let workers = all & !self.idlers & !self.pool.mask & !(1 << cpu);
        let mut peer = cycle(self.bias, workers)?;
        for _ in 0..workers.count_ones() {
            let p = &self.cpus[usize::from(peer)];
            let busy = p.cur != NIL;
            let found = p.queue.iter().enumerate().find(|(_, v)| {
                let u = &self.units[usize::from(**v)];
                let stays = u.yielded && !self.set.steal_yielders;
                u.pri <= than || (!stays && u.hard & 1 << cpu != 0)
            });
            if let (true, Some((at, v))) = (busy, found.map(|(at, v)| (at, *v)))
                && self.units[usize::from(v)].pri > than
            {
                self.cpus[usize::from(peer)].queue.remove(at);
                self.units[usize::from(v)].cpu = cpu;
                self.bias = peer;
                return Some(v);
            }
            peer = cycle(peer, workers)?;
        }
        None
    }

    fn accounting(&mut self, now: Ns) {
        // Running vCPUs have burnt what their ticks saw; the rest follows at their next tick, as in Xen.
        let slice = self.set.slice as i64;
        let mut total = slice * self.cpus.len() as i64 - self.balance.min(0);
        let active = |units: &[Unit], d: usize| {
            units.iter().filter(|u| u.active && usize::from(u.dom) == d).count() as i64
        };
        let counts: Vec<i64> = (0..self.weights.len()).map(|d| active(&self.units, d)).collect();
        let whole: i64 = counts.iter().zip(&self.weights).map(|(n, w)| n * i64::from(*w)).sum();
        if whole == 0 {
            self.balance = 0;
            return;
        }
        let (mut left, mut balance) = (whole, 0);
        for (d, n) in counts.iter().copied().enumerate().filter(|(_, n)| *n > 0) {
            let weight = i64::from(self.weights[d]) * n;
            left -= weight;
            let peak = n * slice + (-self.balance).max(0) * weight / whole;
            let mut fair = total * weight / whole;
            if fair >= peak {
                if left > 0 {
                    total += (fair - peak) * whole / left;
                }
                fair = peak;
            }
            let each = fair / n;
            for u in self.units.iter_mut().filter(|u| u.active && usize::from(u.dom) == d) {
                u.credit += each;
                if u.credit < 0 {
                    u.pri = Pri::Over;
                    u.credit = u.credit.max(-slice);
                } else {
                    u.pri = Pri::Under;
                    if u.credit > slice {
                        u.active = false;
                        u.credit /= 2;
                    }
                }
                balance += u.credit;
            }
        }
        self.balance = balance;
        self.epoch += 1;
        let _ = now;
    }

    fn tick(&mut self, now: Ns, cpu: usize) {
        let v = self.cpus[cpu].cur;
        if v != NIL {
            self.burn(now, v);
            let u = &mut self.units[usize::from(v)];
            if u.pri == Pri::Boost {
                u.pri = Pri::Under;
            }
            u.active = true;
        }
        if self.cpus[cpu].sorted != self.epoch {
            self.cpus[cpu].sorted = self.epoch;
            let units = &self.units;
            // A stable sort into "not OVER" and OVER.
            self.cpus[cpu].queue.make_contiguous().sort_by_key(|v| units[usize::from(*v)].pri == Pri::Over);
        }
    }

    fn period(&self) -> Ns {
        self.set.slice / 3
    }

    /// The next tick of a pCPU.
    pub(crate) fn set_tick(&self, now: Ns, cpu: usize, out: &mut Out<'_>) {
        let period = self.period();
        out.set(1 + cpu, now + period - now % period);
    }

    /// Queues a vCPU that wakes up or comes home.
    pub(crate) fn wake_up(&mut self, v: u16, out: &mut Out<'_>) {
        let u = &mut self.units[usize::from(v)];
        u.awake = true;
        if u.turbo {
            u.pri = Pri::Turbo;
        } else if u.pri == Pri::Under && !self.pool.has(u.cpu) {
            u.pri = Pri::Boost;
        }
        self.insert(v);
        self.tickle(v, out);
    }
}

impl Sched for Credit {
    fn timers(&self) -> usize {
        2 + self.cpus.len()
    }

    fn start(&mut self, now: Ns, out: &mut Out<'_>) {
        out.set(0, now + self.set.accounts_at);
        for cpu in 0..self.cpus.len() {
            out.set(1 + cpu, NEVER);
        }
        let sizing = self.pool.first_step(now);
        out.set(1 + self.cpus.len(), sizing);
    }

    fn wake(&mut self, _: Ns, v: u16, out: &mut Out<'_>) {
        self.events += 1;
        self.wake_up(v, out);
    }

    fn offer(&mut self, _: Ns, v: u16, _: Class, out: &mut Out<'_>) {
        self.events += 1;
        let yields = self.set.micro.is_none() || self.offload_siblings(v, out);
        let u = &mut self.units[usize::from(v)];
        (u.yielded, u.gave_way, u.stays) = (yields, yields, !yields);
    }

    fn kick(&mut self, _: Ns, v: u16, out: &mut Out<'_>) {
        self.events += 1;
        if self.set.micro.is_some_and(|m| m.relay) {
            self.offload(v, out);
        }
    }

    fn schedule(&mut self, now: Ns, cpu: u8, last: Last, out: &mut Out<'_>) -> (u16, Ns) {
        let Last { runnable, left, .. } = last;
        self.events += 1;
        let c = usize::from(cpu);
        let prev = self.cpus[c].cur;
        let ran = now.saturating_sub(self.cpus[c].since);
        let micro = self.pool.has(cpu);
        if prev != NIL {
            self.burn(now, prev);
            let first = self.cpus[c].queue.front().copied().unwrap_or(NIL);
            let waits = self.pri(first);
            let u = &mut self.units[usize::from(prev)];
            if std::mem::take(&mut u.stays) && runnable && waits <= u.pri && now < self.cpus[c].until {
                return (prev, self.cpus[c].until - now);
            }
            // The paper's code exempts who was last seen idling.
            let woke = self.set.micro.is_some() && u.left == Left::Halt;
            let limited = !micro && !woke && (!u.yielded || self.set.limit_yields);
            if runnable && limited && ran < self.set.ratelimit {
                let rest = (self.set.ratelimit - ran).max(100_000);
                self.cpus[c].until = now + rest;
                return (prev, rest);
            }
            // The tick of a micro core is its slice.
            u.active |= micro;
            u.awake = runnable;
            if runnable {
                self.insert(prev);
            }
            let u = &mut self.units[usize::from(prev)];
            u.yielded &= runnable;
            if std::mem::take(&mut u.turbo) {
                u.pri = Pri::Under;
            }
        }
        let first = self.cpus[c].queue.front().copied().unwrap_or(NIL);
        let pri = self.pri(first);
        let mut next = first;
        let mut stolen = None;
        if !micro && pri <= Pri::Over && now.saturating_sub(self.cpus[c].balanced) >= self.set.balance {
            self.cpus[c].balanced = now;
            stolen = self.steal(cpu, pri);
        }
        if let Some(v) = stolen {
            next = v;
        } else if first != NIL {
            self.cpus[c].queue.pop_front();
        }
        let tick = 1 + c;
        if next == NIL {
            self.idlers |= u64::from(!micro) << cpu;
            out.clear(tick);
        } else {
            self.idlers &= !(1 << cpu);
            let u = &mut self.units[usize::from(next)];
            (u.yielded, u.gave_way) = (false, false);
            u.start = now;
            if prev == NIL && !micro {
                self.set_tick(now, c, out);
            }
        }
        if next != prev {
            self.cpus[c].since = now;
            if let Some(u) = self.units.get_mut(usize::from(prev)) {
                u.left = left;
            }
        }
        self.cpus[c].cur = next;
        let slice = if micro { self.pool.slice } else { self.set.slice };
        self.cpus[c].until = now + slice;
        (next, if next == NIL { 0 } else { slice })
    }

    fn saved(&mut self, _: Ns, v: u16, out: &mut Out<'_>) {
        self.events += 1;
        self.go_home(v, out);
    }

    fn timer(&mut self, now: Ns, which: usize, out: &mut Out<'_>) {
        self.events += 1;
        if which == 0 {
            self.accounting(now);
            out.set(0, now + self.set.slice);
        } else if which == 1 + self.cpus.len() {
            let next = self.resize(now, out);
            out.set(which, next);
        } else {
            self.tick(now, which - 1);
            out.set(which, now + self.period());
        }
    }

    fn counts(&self, _: u16) -> Option<Counts> {
        None
    }

    fn events(&self) -> u64 {
        self.events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agenda::Agenda;
    use crate::sched::last;

    #[test]
    fn a_yield_in_the_first_millisecond_gives_way_in_4_20_and_not_in_4_7() {
        let dom = |first: u16| Domain { vcpus: first..first + 1, weight: 256, cap: 0, hard: 1 };
        for (set, want) in [(Settings::XEN_4_20, 1), (Settings::XEN_4_7, 0)] {
            let mut c = Credit::new(1, set, &[dom(0), dom(1)], &[0, 0]);
            let (mut poke, mut agenda) = (0, Agenda::new(8));
            let mut out = Out { poke: &mut poke, agenda: &mut agenda, first: 0 };
            c.wake(0, 0, &mut out);
            assert_eq!(c.schedule(0, 0, last(false, Left::User), &mut out).0, 0);
            c.wake(10_000, 1, &mut out);
            c.offer(100_000, 0, Class::LockWait, &mut out);
            assert_eq!(c.schedule(100_000, 0, last(true, Left::Lock), &mut out).0, want);
            // When the rate limit is over, the yield counts in 4.7 too; in 4.20 it is the other's turn to give way.
            assert_eq!(c.schedule(1_100_000, 0, last(true, Left::Lock), &mut out).0, 1 - want);
        }
    }
}
