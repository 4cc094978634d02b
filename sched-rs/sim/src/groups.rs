// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine of several groups of pCPUs (sockets, cpupools), each under a scheduler of its own: nothing moves between them.
//!
//! Group `g` of `n` has pCPUs `g * cpus / n` on and every `n`th VM from VM `g` on.

use crate::agenda::Ns;
use crate::sched::{Domain, Last, NIL, Out, Sched};
use microslice_core::Class;
use microslice_core::state::Counts;

/// Schedulers side by side.
#[derive(Debug)]
pub struct Groups<S> {
    groups: Vec<S>,
    /// pCPUs in each.
    cpus: u8,
    /// Of each vCPU: its group, its number there.
    units: Vec<(usize, u16)>,
    /// Of each group: its vCPUs' numbers outside.
    names: Vec<Vec<u16>>,
    /// First timer of each group.
    timers: Vec<usize>,
}

impl<S: Sched> Groups<S> {
    /// `n` groups of `cpus` pCPUs; `make` makes the scheduler of a group from its domains, numbered from 0.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn new<E>(
        n: usize,
        cpus: u8,
        domains: &[Domain],
        mut make: impl FnMut(&[Domain]) -> Result<S, E>,
    ) -> Result<Self, E> {
        let all = domains.iter().map(|d| usize::from(d.vcpus.end)).max().unwrap_or(0);
        let mut g = Self { groups: vec![], cpus, units: vec![(0, 0); all], names: vec![], timers: vec![] };
        let mut timers = 0;
        for group in 0..n {
            let (mut own, mut names) = (vec![], vec![]);
            for d in domains.iter().skip(group).step_by(n) {
                let first = names.len() as u16;
                for v in d.vcpus.clone() {
                    g.units[usize::from(v)] = (group, names.len() as u16);
                    names.push(v);
                }
                own.push(Domain { vcpus: first..names.len() as u16, hard: !0 >> (64 - cpus), ..d.clone() });
            }
            let sched = make(&own)?;
            g.timers.push(timers);
            timers += sched.timers();
            g.groups.push(sched);
            g.names.push(names);
        }
        g.timers.push(timers);
        Ok(g)
    }

    /// Lets group `g` do something, and passes on which pCPUs it poked.
    fn with<R>(&mut self, g: usize, out: &mut Out<'_>, act: impl FnOnce(&mut S, &mut Out<'_>) -> R) -> R {
        let mut poke = 0;
        let first = out.first + self.timers[g];
        let r = act(&mut self.groups[g], &mut Out { poke: &mut poke, agenda: out.agenda, first });
        *out.poke |= poke << (g * usize::from(self.cpus));
        r
    }
}

impl<S: Sched> Sched for Groups<S> {
    fn timers(&self) -> usize {
        self.timers.last().copied().unwrap_or(0)
    }

    fn start(&mut self, now: Ns, out: &mut Out<'_>) {
        for g in 0..self.groups.len() {
            self.with(g, out, |s, out| s.start(now, out));
        }
    }

    fn wake(&mut self, now: Ns, v: u16, out: &mut Out<'_>) {
        let (g, v) = self.units[usize::from(v)];
        self.with(g, out, |s, out| s.wake(now, v, out));
    }

    fn offer(&mut self, now: Ns, v: u16, class: Class, out: &mut Out<'_>) {
        let (g, v) = self.units[usize::from(v)];
        self.with(g, out, |s, out| s.offer(now, v, class, out));
    }

    fn kick(&mut self, now: Ns, v: u16, out: &mut Out<'_>) {
        let (g, v) = self.units[usize::from(v)];
        self.with(g, out, |s, out| s.kick(now, v, out));
    }

    fn schedule(&mut self, now: Ns, cpu: u8, last: Last, out: &mut Out<'_>) -> (u16, Ns) {
        let g = usize::from(cpu / self.cpus);
        let cpu = cpu % self.cpus;
        let (v, slice) = self.with(g, out, |s, out| s.schedule(now, cpu, last, out));
        (self.names[g].get(usize::from(v)).copied().unwrap_or(NIL), slice)
    }

    fn saved(&mut self, now: Ns, v: u16, out: &mut Out<'_>) {
        let (g, v) = self.units[usize::from(v)];
        self.with(g, out, |s, out| s.saved(now, v, out));
    }

    fn timer(&mut self, now: Ns, which: usize, out: &mut Out<'_>) {
        let g = self.timers.partition_point(|first| *first <= which) - 1;
        let which = which - self.timers[g];
        self.with(g, out, |s, out| s.timer(now, which, out));
    }

    fn counts(&self, dom: u16) -> Option<Counts> {
        let n = self.groups.len();
        self.groups[usize::from(dom) % n].counts((usize::from(dom) / n) as u16)
    }

    fn micro_stay_max(&self) -> Option<Ns> {
        self.groups.iter().filter_map(Sched::micro_stay_max).max()
    }

    fn events(&self) -> u64 {
        self.groups.iter().map(Sched::events).sum()
    }
}
