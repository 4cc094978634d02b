// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stock Xen's credit2 scheduler, as its behaviour in 4.20 (`xen/common/sched/credit2.c`) can be observed.
//!
//! - One queue for all pCPUs of the socket, highest credit first. Credit starts at 10 ms and is burnt by running, faster for
//!   smaller weights (scaled to the largest).
//! - When the vCPU that would run next has no credit left, everybody gets 10 ms more, up to 10.5 ms (twice as much when it
//!   was at the lower bound of -10 ms).
//! - A vCPU runs until its credit meets that of the next one in the queue, at least the rate limit of 1 ms (0.5 ms without),
//!   at most 10 ms. One that waits for another pCPU needs 0.5 ms more credit to be worth a migration.
//! - A vCPU that becomes runnable tickles an idle pCPU (its last one if it can), else its last pCPU if it has more credit than
//!   who runs there, else the pCPU where it leads most. Rate-limited vCPUs are left alone.
//! - A yield lets the first of the queue go ahead whatever its credit, unless the migration resistance holds.
//!
//! Not modelled: caps, load balancing between several queues, soft affinity, SMT-aware idling.

use crate::agenda::Ns;
use crate::sched::{Domain, Last, NIL, Out, Sched};
use microslice_core::Class;
use microslice_core::state::Counts;

const INIT: i64 = 10_000_000;
const MIN_TIMER: i64 = 500_000;
const MAX_TIMER: i64 = INIT;
const RESIST: i64 = 500_000;

#[derive(Clone, Copy, Debug)]
struct Unit {
    weight: i64,
    credit: i64,
    start: Ns,
    cpu: u8,
    hard: u64,
    yielded: bool,
    queued: bool,
    /// Runs, or has not been saved yet.
    on_cpu: bool,
    /// Back to the queue once saved.
    delayed: bool,
    /// The pCPU that was tickled for it.
    tickled: u8,
}

#[derive(Clone, Copy, Debug)]
struct Cpu {
    cur: u16,
    since: Ns,
}

/// The scheduler's state.
#[derive(Debug)]
pub struct Credit2 {
    ratelimit: i64,
    units: Vec<Unit>,
    cpus: Vec<Cpu>,
    queue: Vec<u16>,
    max_weight: i64,
    idle: u64,
    tickled: u64,
    events: u64,
}

impl Credit2 {
    /// vCPU `v` was on pCPU `place[v]` last.
    #[must_use]
    pub fn new(cpus: u8, ratelimit: Ns, domains: &[Domain], place: &[u8]) -> Self {
        let mut units = vec![];
        for d in domains {
            for v in d.vcpus.clone() {
                let cpu = place[usize::from(v)];
                let cpu = if d.hard & 1 << cpu != 0 { cpu } else { d.hard.trailing_zeros() as u8 };
                units.push(Unit {
                    weight: i64::from(d.weight),
                    credit: INIT,
                    start: 0,
                    cpu,
                    hard: d.hard,
                    yielded: false,
                    queued: false,
                    on_cpu: false,
                    delayed: false,
                    tickled: u8::MAX,
                });
            }
        }
        Self {
            ratelimit: ratelimit as i64,
            max_weight: units.iter().map(|u| u.weight).max().unwrap_or(256),
            units,
            cpus: vec![Cpu { cur: NIL, since: 0 }; usize::from(cpus)],
            queue: vec![],
            idle: !0 >> (64 - cpus),
            tickled: 0,
            events: 0,
        }
    }

    fn burn(&mut self, now: Ns, v: u16) {
        let max = self.max_weight;
        let u = &mut self.units[usize::from(v)];
        u.credit = (u.credit - now.saturating_sub(u.start) as i64 * max / u.weight).max(-INIT);
        u.start = now;
    }

    fn insert(&mut self, v: u16) {
        let credit = self.units[usize::from(v)].credit;
        let at = self.queue.iter().position(|w| self.units[usize::from(*w)].credit < credit);
        self.queue.insert(at.unwrap_or(self.queue.len()), v);
        self.units[usize::from(v)].queued = true;
    }

    fn tickle(&mut self, now: Ns, v: u16, out: &mut Out<'_>) {
        let u = self.units[usize::from(v)];
        let near = |mask: u64| {
            let up = mask & (!0 << u.cpu);
            (mask != 0).then(|| if up != 0 { up } else { mask }.trailing_zeros() as u8)
        };
        let found = near(self.idle & !self.tickled & u.hard).or_else(|| {
            let mut best = (0, None);
            for i in 0..self.cpus.len() as u8 {
                // Its last pCPU first.
                let cpu = (u.cpu + i) % self.cpus.len() as u8;
                let c = self.cpus[usize::from(cpu)];
                let free =
                    c.cur != NIL && (self.tickled | self.idle) & 1 << cpu == 0 && u.hard & 1 << cpu != 0;
                if !free || (now.saturating_sub(c.since) as i64) < self.ratelimit {
                    continue;
                }
                self.burn(now, c.cur);
                let score =
                    u.credit - self.units[usize::from(c.cur)].credit - if cpu == u.cpu { 0 } else { RESIST };
                if score > best.0 {
                    best = (score, Some(cpu));
                    if cpu == u.cpu {
                        break;
                    }
                }
            }
            best.1
        });
        if let Some(cpu) = found {
            self.tickled |= 1 << cpu;
            self.units[usize::from(v)].tickled = cpu;
            *out.poke |= 1 << cpu;
        }
    }

    fn candidate(&mut self, now: Ns, cpu: u8, runnable: bool) -> u16 {
        let c = self.cpus[usize::from(cpu)];
        let mut yielded = false;
        if c.cur != NIL {
            yielded = std::mem::take(&mut self.units[usize::from(c.cur)].yielded);
            if !yielded && runnable && (now.saturating_sub(c.since) as i64) < self.ratelimit {
                return c.cur;
            }
        }
        let next = if runnable { c.cur } else { NIL };
        // The idle vCPU has less credit than anybody.
        let credit = self.units.get(usize::from(next)).map_or(i64::MIN / 2, |u| u.credit);
        for v in &self.queue {
            let u = &self.units[usize::from(*v)];
            if !yielded && u.credit <= credit {
                break;
            }
            let promised = u.tickled != u8::MAX && u.tickled != cpu && self.tickled & 1 << u.tickled != 0;
            let far = u.cpu != cpu && credit + RESIST > u.credit;
            if u.hard & 1 << cpu != 0 && !promised && !far {
                return *v;
            }
        }
        next
    }

    fn reset(&mut self, now: Ns, next: u16) {
        let more = if self.units[usize::from(next)].credit <= -INIT { 2 * INIT } else { INIT };
        for cpu in 0..self.cpus.len() {
            let v = self.cpus[cpu].cur;
            if v != NIL {
                self.burn(now, v);
            }
        }
        for u in &mut self.units {
            u.credit = (u.credit + more).min(INIT + MIN_TIMER);
        }
    }

    fn runtime(&self, now: Ns, cpu: u8, v: u16, same: bool, inflight: i64) -> Ns {
        let mut min = MIN_TIMER.max(self.ratelimit);
        if same {
            let ran = now.saturating_sub(self.cpus[usize::from(cpu)].since) as i64;
            min = MIN_TIMER.max(self.ratelimit - ran);
        }
        let u = &self.units[usize::from(v)];
        let waiting = self.queue.first().map_or(0, |w| self.units[usize::from(*w)].credit).max(inflight);
        let credit = if waiting > 0 { u.credit - waiting } else { u.credit };
        ((credit * u.weight / self.max_weight).max(min)).min(MAX_TIMER.max(min)) as Ns
    }
}

impl Sched for Credit2 {
    fn timers(&self) -> usize {
        0
    }

    fn start(&mut self, _: Ns, _: &mut Out<'_>) {}

    fn wake(&mut self, now: Ns, v: u16, out: &mut Out<'_>) {
        self.events += 1;
        if self.units[usize::from(v)].on_cpu {
            self.units[usize::from(v)].delayed = true;
            return;
        }
        self.insert(v);
        self.tickle(now, v, out);
    }

    fn offer(&mut self, _: Ns, v: u16, _: Class, _: &mut Out<'_>) {
        self.events += 1;
        self.units[usize::from(v)].yielded = true;
    }

    fn kick(&mut self, _: Ns, _: u16, _: &mut Out<'_>) {
        self.events += 1;
    }

    fn schedule(&mut self, now: Ns, cpu: u8, last: Last, _: &mut Out<'_>) -> (u16, Ns) {
        let runnable = last.runnable;
        self.events += 1;
        let c = usize::from(cpu);
        self.tickled &= !(1 << cpu);
        let prev = self.cpus[c].cur;
        if prev != NIL {
            self.burn(now, prev);
        }
        let next = self.candidate(now, cpu, runnable && prev != NIL);
        let mut inflight = 0;
        if next != prev && prev != NIL && runnable {
            self.units[usize::from(prev)].delayed = true;
            inflight = self.units[usize::from(prev)].credit;
        }
        if next == NIL {
            self.idle |= 1 << cpu;
            self.cpus[c].cur = NIL;
            return (NIL, 0);
        }
        self.idle &= !(1 << cpu);
        if next != prev {
            self.queue.retain(|w| *w != next);
            let u = &mut self.units[usize::from(next)];
            (u.queued, u.on_cpu, u.tickled, u.start) = (false, true, u8::MAX, now);
            self.cpus[c] = Cpu { cur: next, since: now };
        }
        if self.units[usize::from(next)].credit <= 0 {
            self.reset(now, next);
            if inflight != 0 {
                inflight = self.units[usize::from(prev)].credit;
            }
        }
        let u = &mut self.units[usize::from(next)];
        if u.cpu != cpu {
            // Xen adds the resistance, so that a migrated vCPU is not migrated again at once.
            u.credit += RESIST;
            u.cpu = cpu;
        }
        (next, self.runtime(now, cpu, next, next == prev, inflight))
    }

    fn saved(&mut self, now: Ns, v: u16, out: &mut Out<'_>) {
        self.events += 1;
        self.units[usize::from(v)].on_cpu = false;
        if std::mem::take(&mut self.units[usize::from(v)].delayed) {
            self.insert(v);
            self.tickle(now, v, out);
        }
    }

    fn timer(&mut self, _: Ns, _: usize, _: &mut Out<'_>) {}

    fn counts(&self, _: u16) -> Option<Counts> {
        None
    }

    fn events(&self) -> u64 {
        self.events
    }
}
