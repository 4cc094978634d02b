// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small machine that obeys the caller's side of the protocol: pokes lead to `Schedule`, leaving units are `Saved`
//! before anybody may run them, or their wake-up says that they are, slices end by timer. It checks the pool's promises after every event.
#![allow(dead_code)]

use microslice_core::pool::{Decision, Event, Offer, Pool};
use microslice_core::state::{Dom, NIL, NO_CPU, Place, Shared, Unit, Work};
use microslice_core::urgent::LEND_EVERY;
use microslice_core::{Action, Class, Params, Policy, Record, Time};

pub struct Machine {
    pub shared: Shared,
    pub units: Vec<Unit>,
    pub doms: Vec<Dom>,
    pub now: u64,
    /// pCPUs that have to ask for work.
    pub pending: u64,
    /// When each pCPU's slice ends.
    pub ends: [u64; 64],
    /// Units whose context is not saved yet.
    pub leaving: Vec<u16>,
    /// Who is runnable, as the outside knows it.
    pub runnable: Vec<bool>,
    /// What each unit does now.
    pub class: Vec<Class>,
    pub timer: u64,
    pub online: u64,
    /// Nanoseconds each unit ran, counted independently of the pool.
    pub ran: Vec<u64>,
    pub since: [u64; 64],
    pub last: Decision,
    pub records: Vec<Record>,
    /// Nanoseconds that each domain ran, counted independently of the pool.
    pub dom_ran: Vec<u64>,
    /// When each normal core last lent a micro slice to another domain.
    pub lent: [u64; 64],
    /// The longest slice, the shortest micro slice and each domain's least weight so far: bounds hold for those.
    pub longest: u64,
    pub shortest_micro: u64,
    pub lightest: Vec<u64>,
    /// Slices end in time, so nothing is ever overrun.
    pub punctual: bool,
}

impl Machine {
    pub fn new(cpus: u8, units: usize, doms: usize) -> Self {
        let mut m = Self {
            shared: Shared::EMPTY,
            units: vec![Unit::ABSENT; units],
            doms: vec![Dom::ABSENT; doms],
            now: 1_000,
            pending: 0,
            ends: [u64::MAX; 64],
            leaving: vec![],
            runnable: vec![false; units],
            class: vec![Class::None; units],
            timer: 0,
            online: 0,
            ran: vec![0; units],
            since: [0; 64],
            last: Decision::NOTHING,
            records: vec![],
            dom_ran: vec![0; doms],
            lent: [0; 64],
            longest: Params::DEFAULT.slice.0,
            shortest_micro: Params::DEFAULT.micro_slice.0,
            lightest: vec![256; doms],
            punctual: true,
        };
        for cpu in 0..cpus {
            m.online |= 1 << cpu;
            m.send(Event::CpuUp { cpu, number: cpu.into() });
        }
        m
    }

    pub fn current(&self, cpu: u8) -> u16 {
        self.shared.cpus[usize::from(cpu)].unit
    }

    pub fn send(&mut self, event: Event) -> Decision {
        let mut d = Decision::NOTHING;
        Pool { shared: &mut self.shared, units: &mut self.units, doms: &mut self.doms }.handle(
            Time(self.now),
            event,
            &mut d,
        );
        self.pending |= d.poke;
        if d.timer != Time(0) {
            self.timer = d.timer.0;
        }
        self.last = d;
        self.records.push(Record::of(Time(self.now), &event, &d));
        let p = self.shared.params;
        self.longest = self.longest.max(p.slice.0);
        self.shortest_micro = self.shortest_micro.min(p.micro_slice.0);
        for (least, dom) in self.lightest.iter_mut().zip(&self.doms) {
            *least = (*least).min(u64::from(dom.weight));
        }
        self.check(event);
        d
    }

    fn state(&self) -> String {
        format!("{:?}{:?}{:?}", self.shared, self.units, self.doms)
    }

    /// Says that the context of a unit was saved which leaves no pCPU: nothing may come of it.
    pub fn spurious_save(&mut self, unit: u16) {
        let before = self.state();
        let d = self.send(Event::Saved { unit });
        assert_eq!(d, Decision { waits: d.waits, ..Decision::NOTHING });
        assert_eq!(self.state(), before, "unit {unit} did not leave, and something changed");
    }

    /// Sends what must be refused, and looks whether it changed anything.
    pub fn refuse(&mut self, event: Event) {
        let before = self.state();
        let d = self.send(event);
        assert!(d.refused().is_some(), "{event:?} was not refused");
        assert_eq!(
            d,
            Decision { error: d.error, waits: d.waits, ..Decision::NOTHING },
            "{event:?} was refused and acted upon"
        );
        assert_eq!(self.state(), before, "{event:?} was refused and changed something");
    }

    pub fn domain(&mut self, dom: u16, weight: u32, cap: u32) {
        self.send(Event::DomAdd { dom });
        assert_eq!(self.send(Event::DomSet { dom, weight, cap }).refused(), None);
        self.policy(dom, Policy::PAPER);
    }

    pub fn policy(&mut self, dom: u16, policy: Policy) {
        assert_eq!(self.send(Event::DomPolicy { dom, policy }).refused(), None);
    }

    pub fn unit(&mut self, unit: u16, dom: u16, hard: u64) {
        assert_eq!(self.send(Event::UnitAdd { unit, dom, hard, soft: !0, ahead: 0 }).refused(), None);
    }

    pub fn wake(&mut self, unit: u16) {
        self.runnable[usize::from(unit)] = true;
        let saved = !self.leaving.contains(&unit);
        self.send(Event::Wake { unit, saved });
    }

    pub fn kick(&mut self, unit: u16) {
        self.send(Event::Kick { unit });
    }

    pub fn sleep(&mut self, unit: u16) {
        self.runnable[usize::from(unit)] = false;
        self.send(Event::Sleep { unit });
    }

    /// A unit leaves the pool.
    pub fn remove(&mut self, unit: u16) {
        self.sleep(unit);
        self.settle();
        assert_eq!(self.send(Event::UnitRemove { unit }).refused(), None);
    }

    /// A pCPU leaves the pool, and comes back at once or, if it was out, comes back.
    pub fn replug(&mut self, cpu: u8) {
        let bit = 1 << cpu;
        if self.online == bit {
            return;
        }
        self.online &= !bit;
        self.pending |= bit;
        self.settle();
        self.send(Event::CpuDown { cpu });
        self.online |= bit;
        self.send(Event::CpuUp { cpu, number: cpu.into() });
    }

    pub fn set(&mut self, f: impl FnOnce(&mut Params)) -> Decision {
        let mut params = self.shared.params;
        f(&mut params);
        self.send(Event::Set { params })
    }

    /// One pCPU asks for work.
    pub fn schedule(&mut self, cpu: u8) {
        let prev = self.current(cpu);
        let (runnable, class) = match self.runnable.get(usize::from(prev)) {
            Some(r) => (*r, self.class[usize::from(prev)]),
            None => (false, Class::None),
        };
        let offer = if self.online & 1 << cpu != 0 { Offer::Run } else { Offer::Offline };
        self.pending &= !(1 << cpu);
        if prev != NIL {
            let ran = self.now - self.since[usize::from(cpu)];
            self.ran[usize::from(prev)] += ran;
            self.dom_ran[usize::from(self.units[usize::from(prev)].dom)] += ran;
        }
        self.since[usize::from(cpu)] = self.now;
        let before = self.shared.cpus[usize::from(cpu)];
        let d = self.send(Event::Schedule { cpu, offer, runnable, class });
        self.ends[usize::from(cpu)] = if d.slice.0 == 0 { u64::MAX } else { self.now + d.slice.0 };
        if d.run != prev && prev != NIL {
            self.leaving.push(prev);
        }
        if d.run != NIL {
            let u = &self.units[usize::from(d.run)];
            assert!(u.hard & 1 << cpu != 0, "unit {} runs outside its hard affinity", d.run);
            assert!(self.runnable[usize::from(d.run)], "unit {} runs but sleeps", d.run);
            assert!(!self.leaving.contains(&d.run), "unit {} runs before it is saved", d.run);
            assert!(d.slice.0 > 0, "a unit runs without an end");
        }
        let had = self.now - before.started.0.min(self.now);
        if before.work == Work::Micro && before.ends.0 <= self.now && had >= self.shared.params.micro_slice.0
        {
            assert_ne!(d.run, prev, "a unit stays on a micro core after its micro slice");
        }
        if offer != Offer::Run {
            assert_eq!(d.run, NIL, "an offline pCPU runs a unit");
        }
        self.check_lending(cpu, prev, before.work);
    }

    /// A normal core whose unit is interrupted for another domain's micro slice has not been for some time.
    fn check_lending(&mut self, cpu: u8, prev: u16, before: Work) {
        let (c, at) = (self.shared.cpus[usize::from(cpu)], usize::from(cpu));
        let normal = self.shared.micro & 1 << cpu == 0;
        let dom = |u: u16| self.units.get(usize::from(u)).map(|u| u.dom);
        if c.work != Work::Micro
            || c.unit == prev
            || before != Work::Normal
            || !normal
            || dom(c.unit) == dom(prev)
        {
            return;
        }
        // Its slice may have been over anyway, or it slept: only who could have gone on has lost something.
        if self.units[usize::from(prev)].slice_left.0 == 0 {
            return;
        }
        let between = LEND_EVERY * self.shortest_micro;
        assert!(
            self.lent[at] == 0 || self.now - self.lent[at] >= between,
            "pCPU {cpu} lent two micro slices within {} ns",
            self.now - self.lent[at]
        );
        self.lent[at] = self.now;
    }

    /// Serves pokes and saves until nothing is pending.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if let Some(unit) = self.leaving.pop() {
                // Of those that sleep, every other one is told of when it wakes.
                if self.runnable[usize::from(unit)] || unit % 2 == 0 {
                    self.send(Event::Saved { unit });
                }
            } else if self.pending != 0 {
                self.schedule(self.pending.trailing_zeros() as u8);
            } else {
                self.check_settled();
                return;
            }
        }
        panic!("the pool keeps poking without end");
    }

    /// Lets time pass up to the next slice end or timer, at most `step` nanoseconds.
    pub fn advance(&mut self, step: u64) {
        let until = self.now + step;
        loop {
            self.settle();
            let next = self.ends.iter().copied().min().unwrap_or(u64::MAX);
            let timer = if self.timer == 0 { u64::MAX } else { self.timer };
            let next = next.min(timer).max(self.now);
            if next > until {
                self.now = until;
                return;
            }
            self.now = next;
            if timer <= self.now {
                self.timer = 0;
                self.send(Event::Timer);
            }
            for cpu in 0..64u8 {
                if self.ends[usize::from(cpu)] <= self.now {
                    self.schedule(cpu);
                }
            }
        }
    }

    /// Promises that hold after every event.
    fn check(&mut self, event: Event) {
        let s = &self.shared;
        assert_eq!(s.micro & !s.online, 0, "{event:?}: a micro core is offline");
        assert!(s.online == 0 || s.online != s.micro, "{event:?}: no normal core is left");
        let mut on_cpu = vec![0; self.units.len()];
        let mut promised = [0; 64];
        for (i, c) in s.cpus.iter().enumerate() {
            assert_eq!(s.busy >> i & 1 != 0, c.unit != NIL, "{event:?}: pCPU {i} is busy");
            if c.unit != NIL {
                let u = &self.units[usize::from(c.unit)];
                assert_eq!(u.place, Place::OnCpu, "{event:?}: pCPU {i} runs unit {}", c.unit);
                assert_eq!(usize::from(u.cpu), i);
                on_cpu[usize::from(c.unit)] += 1;
                assert_ne!(c.work, Work::Idle);
                let weight = self.doms[usize::from(u.dom)].weight;
                assert_eq!((c.vtime, c.weight), (u.vtime, weight), "{event:?}: how far pCPU {i} is ahead");
            }
        }
        let queued = walk(&self.units, s.root);
        for (i, u) in self.units.iter().enumerate() {
            assert_eq!(queued[i], u.place == Place::Queued, "{event:?}: unit {i} queue");
            assert_eq!(on_cpu[i], u32::from(u.place == Place::OnCpu), "{event:?}: unit {i}");
            let waits = u.place == Place::Queued || (u.place == Place::Leaving && u.runnable);
            assert_eq!(u.preempted, waits, "{event:?}: unit {i} {:?} in the preempted list", u.place);
            if u.place == Place::Queued {
                self.check_lag(event, i, u);
                if u.promised != NO_CPU {
                    promised[usize::from(u.promised)] += 1;
                    assert_eq!(usize::from(s.cpus[usize::from(u.promised)].next), i, "{event:?}: a promise");
                }
            }
        }
        assert!(promised.iter().all(|n| *n <= 1), "{event:?}: a pCPU is promised to two units");
        for (i, d) in self.doms.iter().enumerate() {
            let list = chain(&self.units, d.preempted, |u| u.sib_next);
            let want = self.units.iter().filter(|u| u.preempted && usize::from(u.dom) == i).count();
            assert_eq!(list.len(), want, "{event:?}: domain {i}'s preempted list");
            let micro = s
                .cpus
                .iter()
                .filter(|c| c.work == Work::Micro)
                .filter(|c| usize::from(self.units[usize::from(c.unit)].dom) == i)
                .count();
            assert_eq!(usize::from(d.on_micro), micro, "{event:?}: domain {i} on micro cores");
            assert!(
                d.cap == 0 || d.reserved as i64 <= d.budget.max(0),
                "{event:?}: domain {i} reserved too much"
            );
            let caps = s.refill != Time(0);
            assert!(caps || (d.cap == 0 && !d.parked), "{event:?}: nobody looks at domain {i}'s cap");
            let kept = d.cap == 0 || d.budget >= 0 || !self.punctual;
            assert!(kept, "{event:?}: domain {i} ran {} ns beyond its cap", -d.budget);
        }
        let urgent = chain(&self.units, s.urgent_head, |u| u.urgent_next);
        assert_eq!(urgent.len(), self.units.iter().filter(|u| u.urgent != Action::None).count(), "{event:?}");
    }

    /// Nobody who may run is further behind the pool's clock than a slice, nor further ahead than two of its own.
    fn check_lag(&self, event: Event, i: usize, u: &Unit) {
        let (clock, slice) = (self.shared.vclock, self.longest);
        let behind = clock.saturating_sub(u.vtime);
        assert!(u.mask == 0 || behind <= slice, "{event:?}: unit {i} is {behind} ns behind");
        let lead = (slice * 512 / self.lightest[usize::from(u.dom)].max(1)).max(2 * slice);
        let ahead = u.vtime.saturating_sub(clock);
        assert!(ahead <= lead, "{event:?}: unit {i} is {ahead} ns ahead");
    }

    /// Promises that hold when no poke is pending.
    fn check_settled(&self) {
        let s = &self.shared;
        let mut ran = self.dom_ran.clone();
        for (c, since) in s.cpus.iter().zip(self.since).filter(|(c, _)| c.unit != NIL) {
            // What the pool has not charged yet is not in its count either.
            ran[usize::from(self.units[usize::from(c.unit)].dom)] += c.charged.0 - since.min(c.charged.0);
        }
        for (i, d) in self.doms.iter().enumerate() {
            assert_eq!(d.counts.run_ns, ran[i], "domain {i} was charged for what it did not run");
        }
        for cpu in 0..64u8 {
            if s.online & 1 << cpu == 0 || self.current(cpu) != NIL {
                continue;
            }
            for (i, u) in self.units.iter().enumerate() {
                let idle_for = u.place == Place::Queued && u.mask & 1 << cpu != 0;
                assert!(!idle_for, "pCPU {cpu} idles while unit {i} waits for it");
                let urgent = u.place == Place::Queued
                    && matches!(u.urgent, Action::Micro | Action::Borrow)
                    && u.hard & 1 << cpu != 0;
                let micro = s.micro & 1 << cpu != 0;
                assert!(!(urgent && micro), "micro core {cpu} idles while unit {i} is urgent");
            }
        }
    }
}

/// Which units are in the queue. It is a search tree by virtual time and arrival, a heap by priority, and each node
/// knows the masks below it.
fn walk(units: &[Unit], root: u16) -> Vec<bool> {
    let (mut queued, mut stack) = (vec![false; units.len()], vec![]);
    let (mut at, mut last) = (root, (0, 0));
    let of = |i: u16| units.get(usize::from(i));
    while at != NIL || !stack.is_empty() {
        while at != NIL {
            assert!(!queued[usize::from(at)], "the queue goes in circles");
            queued[usize::from(at)] = true;
            stack.push(at);
            at = units[usize::from(at)].left;
        }
        let Some(i) = stack.pop() else { break };
        let u = &units[usize::from(i)];
        assert!((u.vtime, u.seq) >= last, "the queue is out of order at unit {i}");
        last = (u.vtime, u.seq);
        let kids = [of(u.left), of(u.right)];
        let union = |f: fn(&Unit) -> u64| kids.iter().flatten().fold(0, |m, k| m | f(k));
        assert_eq!(u.any, u.mask | union(|k| k.any), "unit {i}: pCPUs of those below it in the queue");
        assert_eq!(u.any_prefer, u.prefer | union(|k| k.any_prefer), "unit {i}: preferences below it");
        assert!(
            kids.iter().flatten().all(|k| k.up == i && k.prio <= u.prio),
            "unit {i}: its children in the queue"
        );
        at = u.right;
    }
    queued
}

fn chain(units: &[Unit], head: u16, next: impl Fn(&Unit) -> u16) -> Vec<u16> {
    let (mut out, mut at) = (vec![], head);
    while at != NIL {
        assert!(out.len() < units.len(), "a list goes in circles");
        out.push(at);
        at = next(&units[usize::from(at)]);
    }
    out
}
