// SPDX-License-Identifier: MIT OR Apache-2.0
//! The adapter: what Xen's shim (`xen/common/sched/microslice.c`) does with callbacks, events and decisions. Everything
//! that knows the core's interface is in this file.

use crate::agenda::{NEVER, Ns};
use crate::sched::{Domain, Last, Out, Sched};
use microslice_core::policy::Policy;
use microslice_core::pool::{Decision, Event, Offer, Pool, Refusal};
use microslice_core::state::{Counts, Dom, Shared, Unit};
use microslice_core::{Class, Params, Siblings, Time};

/// A pool of the core, with the memory that the hypervisor would provide.
#[derive(Debug)]
pub struct Machine {
    shared: Box<Shared>,
    units: Vec<Unit>,
    doms: Vec<Dom>,
    events: u64,
    /// The timer that was asked for before the machine started.
    first_timer: Ns,
}

impl Machine {
    /// A pool of `cpus` pCPUs with these settings and domains; every domain gets the same row of actions.
    ///
    /// # Errors
    /// What the core refuses.
    pub fn new(cpus: u8, params: Params, policy: Policy, domains: &[Domain]) -> Result<Self, Refusal> {
        let units = domains.iter().map(|d| usize::from(d.vcpus.end)).max().unwrap_or(0);
        let mut m = Self {
            shared: Box::new(Shared::EMPTY),
            units: vec![Unit::ABSENT; units],
            doms: vec![Dom::ABSENT; domains.len()],
            events: 0,
            first_timer: NEVER,
        };
        for cpu in 0..cpus {
            m.must(Event::CpuUp { cpu, number: u16::from(cpu) })?;
        }
        m.must(Event::Set { params })?;
        for (dom, d) in domains.iter().enumerate() {
            let dom = dom as u16;
            m.must(Event::DomAdd { dom })?;
            m.must(Event::DomSet { dom, weight: d.weight, cap: d.cap })?;
            m.must(Event::DomPolicy { dom, policy })?;
            for unit in d.vcpus.clone() {
                m.must(Event::UnitAdd { unit, dom, hard: d.hard, soft: !0, ahead: 0 })?;
            }
        }
        Ok(m)
    }

    fn must(&mut self, event: Event) -> Result<(), Refusal> {
        let d = self.handle(0, event);
        if d.timer != Time(0) {
            self.first_timer = d.timer.0;
        }
        d.refused().map_or(Ok(()), Err)
    }

    fn handle(&mut self, now: Ns, event: Event) -> Decision {
        self.events += 1;
        let mut d = Decision::NOTHING;
        Pool { shared: &mut self.shared, units: &mut self.units, doms: &mut self.doms }.handle(
            Time(now),
            event,
            &mut d,
        );
        d
    }

    fn send(&mut self, now: Ns, event: Event, out: &mut Out<'_>) -> Decision {
        let d = self.handle(now, event);
        *out.poke |= d.poke;
        if d.timer != Time(0) {
            out.set(0, d.timer.0.max(now));
        }
        d
    }
}

impl Sched for Machine {
    fn timers(&self) -> usize {
        1
    }

    fn start(&mut self, _: Ns, out: &mut Out<'_>) {
        out.set(0, self.first_timer);
    }

    fn wake(&mut self, now: Ns, v: u16, out: &mut Out<'_>) {
        self.send(now, Event::Wake { unit: v, saved: false }, out);
    }

    fn offer(&mut self, now: Ns, v: u16, class: Class, out: &mut Out<'_>) {
        self.send(now, Event::Yield { unit: v, class, far: Siblings::NONE }, out);
    }

    fn kick(&mut self, now: Ns, v: u16, out: &mut Out<'_>) {
        self.send(now, Event::Kick { unit: v }, out);
    }

    fn schedule(&mut self, now: Ns, cpu: u8, last: Last, out: &mut Out<'_>) -> (u16, Ns) {
        let Last { runnable, class, .. } = last;
        let class = if runnable { class } else { Class::None };
        let d = self.send(now, Event::Schedule { cpu, offer: Offer::Run, runnable, class }, out);
        (d.run, d.slice.0)
    }

    fn saved(&mut self, now: Ns, v: u16, out: &mut Out<'_>) {
        self.send(now, Event::Saved { unit: v }, out);
    }

    fn timer(&mut self, now: Ns, _: usize, out: &mut Out<'_>) {
        self.send(now, Event::Timer, out);
    }

    fn counts(&self, dom: u16) -> Option<Counts> {
        self.doms.get(usize::from(dom)).map(|d| d.counts)
    }

    fn micro_stay_max(&self) -> Option<Ns> {
        Some(self.shared.micro_stay_max.0)
    }

    fn events(&self) -> u64 {
        self.events
    }
}
