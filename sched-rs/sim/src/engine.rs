// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine: pCPUs under a scheduler, and the loop that takes events in order.
//!
//! Sources of events, lowest first (which is the order of events of one instant): the scheduler's timers; slice ends;
//! SCHEDULE_SOFTIRQ; guest timer ticks; what the vCPU that runs on a pCPU does next; wake-ups of sleeping threads; packets.

use crate::agenda::{Agenda, NEVER, Ns};
use crate::chance::Chance;
use crate::costs::{Costs, FULL};
use crate::guest::{Irq, Vcpu, VcpuState, Vm};
use crate::sched::{Last, Left, NIL, Out, Sched};
use microslice_core::Class;

/// A hardware thread.
#[derive(Clone, Debug)]
pub struct Pcpu {
    /// vCPU that runs, or [`NIL`].
    pub cur: u16,
    /// vCPU that ran last.
    pub last: u16,
    /// When the present one began.
    pub since: Ns,
    /// Present speed, [`FULL`] is 1024.
    pub speed: u64,
    /// The other hardware thread of its core; itself without SMT.
    pub sibling: u8,
    /// Nanoseconds in which it ran a vCPU.
    pub busy: Ns,
}

impl Pcpu {
    /// How long it takes for so much work, at its present speed.
    #[inline]
    fn takes(&self, work: Ns) -> Ns {
        // Most pCPUs are busy, and a division is slow.
        if self.speed == FULL { work } else { work * FULL / self.speed }
    }
}

/// Where the sources of each kind start.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    slice: usize,
    softirq: usize,
    tick: usize,
    guest: usize,
    thread: usize,
    flow: usize,
    end: usize,
}

/// The machine with its guests, under scheduler `S`.
#[derive(Debug)]
pub struct Host<S> {
    pub(crate) now: Ns,
    pub(crate) agenda: Agenda,
    pub(crate) at: Sources,
    pub(crate) sched: S,
    pub(crate) cpus: Vec<Pcpu>,
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) vms: Vec<Vm>,
    pub(crate) costs: Costs,
    pub(crate) chance: Chance,
    /// pCPUs that have to be told to schedule.
    pub(crate) poke: u64,
    /// Events taken from the agenda.
    pub steps: u64,
    alone: u64,
    /// The vCPU whose next act is being decided.
    pub(crate) planning: u16,
}

impl<S: Sched> Host<S> {
    /// Puts a machine together. Threads start at instants spread evenly over `spread`, as guests and their vCPUs do not come up
    /// all at once.
    pub fn new(
        sched: S,
        cpus: u8,
        costs: Costs,
        seed: u64,
        vms: Vec<Vm>,
        vcpus: Vec<Vcpu>,
        spread: Ns,
    ) -> Self {
        let n = usize::from(cpus);
        let threads = vms.iter().map(|vm| vm.threads.len()).sum::<usize>();
        let slice = sched.timers();
        let at = Sources {
            slice,
            softirq: slice + n,
            tick: slice + 2 * n,
            guest: slice + 3 * n,
            thread: slice + 4 * n,
            flow: slice + 4 * n + threads,
            end: slice + 4 * n + threads + vms.len(),
        };
        let half = cpus / 2;
        let smt = costs.smt_alone > 100 && cpus.is_multiple_of(2);
        let alone = if smt { FULL * costs.smt_alone / 100 } else { FULL };
        let cpus = (0..cpus)
            .map(|c| Pcpu {
                cur: NIL,
                last: NIL,
                since: 0,
                speed: alone,
                sibling: if !smt {
                    c
                } else if c < half {
                    c + half
                } else {
                    c - half
                },
                busy: 0,
            })
            .collect();
        let mut h = Self {
            now: 0,
            agenda: Agenda::new(at.end),
            at,
            sched,
            cpus,
            vcpus,
            vms,
            costs,
            chance: Chance::new(seed),
            poke: 0,
            steps: 0,
            alone,
            planning: NIL,
        };
        h.sched.start(0, &mut Out { poke: &mut h.poke, agenda: &mut h.agenda, first: 0 });
        h.boot(spread);
        h
    }

    fn boot(&mut self, spread: Ns) {
        for t in 0..self.at.flow - self.at.thread {
            let at = self.chance.below(spread as usize) as Ns;
            self.agenda.set(self.at.thread + t, at);
        }
        for vm in 0..self.vms.len() {
            if let Some(first) = self.vms[vm].flow.as_ref().map(|f| f.next) {
                self.agenda.set(self.at.flow + vm, first);
            }
        }
        self.raise();
    }

    /// Runs up to instant `end`, before [`NEVER`].
    pub fn run(&mut self, end: Ns) {
        while let Some((when, source)) = self.agenda.take(end) {
            debug_assert!(when >= self.now, "time goes back");
            self.now = when;
            self.steps += 1;
            let at = self.at;
            if source >= at.guest && source < at.thread {
                self.guest_event((source - at.guest) as u8);
            } else if source < at.slice {
                self.sched.timer(
                    when,
                    source,
                    &mut Out { poke: &mut self.poke, agenda: &mut self.agenda, first: 0 },
                );
            } else if source < at.tick {
                let cpu = if source < at.softirq { source - at.slice } else { source - at.softirq };
                self.schedule(cpu as u8);
            } else if source < at.guest {
                self.guest_tick((source - at.tick) as u8);
            } else if source < at.flow {
                self.thread_timer(source - at.thread);
            } else {
                self.packet(source - at.flow);
            }
            if self.poke != 0 {
                self.raise();
            }
        }
        self.now = end;
        for cpu in 0..self.cpus.len() {
            self.account(cpu);
        }
    }

    /// Raises SCHEDULE_SOFTIRQ where the scheduler asked for it.
    fn raise(&mut self) {
        while self.poke != 0 {
            let cpu = self.poke.trailing_zeros() as usize;
            self.poke &= self.poke - 1;
            let c = &self.cpus[cpu];
            // An idle pCPU wakes up first, and its new slice begins after that.
            let idle = if c.cur == NIL { self.costs.idle_exit(self.now - c.since) } else { 0 };
            self.agenda.no_later(self.at.softirq + cpu, self.now + self.costs.poke + idle);
        }
    }

    fn account(&mut self, cpu: usize) {
        let c = &mut self.cpus[cpu];
        let ran = self.now - c.since;
        c.since = self.now;
        if c.cur != NIL {
            c.busy += ran;
            let vm = self.vcpus[usize::from(c.cur)].vm;
            self.vms[usize::from(vm)].stats.ran += ran;
        }
    }

    /// A pCPU asks for work.
    pub(crate) fn schedule(&mut self, cpu: u8) {
        let c = usize::from(cpu);
        self.agenda.clear(self.at.softirq + c);
        let prev = self.cpus[c].cur;
        let mut last = Last { runnable: false, class: Class::None, left: Left::User };
        if prev != NIL {
            last.runnable = self.vcpus[usize::from(prev)].state == VcpuState::Running;
            self.progress(prev);
            if last.runnable {
                last.class = self.class_of(prev);
            }
            last.left = self.left_of(prev, last.runnable, last.class);
        }
        let mut out = Out { poke: &mut self.poke, agenda: &mut self.agenda, first: 0 };
        let (next, slice) = self.sched.schedule(self.now, cpu, last, &mut out);
        self.agenda.set(self.at.slice + c, if slice == 0 { NEVER } else { self.now + slice });
        if next == prev {
            if prev != NIL {
                self.plan(prev);
            }
            return;
        }
        self.account(c);
        if prev != NIL {
            self.agenda.clear(self.at.guest + c);
            self.agenda.clear(self.at.tick + c);
            let now = self.now;
            let v = &mut self.vcpus[usize::from(prev)];
            v.left_at = now;
            v.left = last.left;
            v.state = if last.runnable { VcpuState::Runnable } else { VcpuState::Blocked };
        }
        self.cpus[c].cur = next;
        if (prev == NIL) != (next == NIL) {
            self.sibling_speed(cpu, next != NIL);
        }
        if next != NIL {
            self.switch_in(cpu, next);
        }
        if prev != NIL {
            self.sched.saved(
                self.now,
                prev,
                &mut Out { poke: &mut self.poke, agenda: &mut self.agenda, first: 0 },
            );
        }
        if next != NIL {
            self.plan(next);
        }
    }

    fn switch_in(&mut self, cpu: u8, v: u16) {
        let c = usize::from(cpu);
        let (refill, share) = (self.costs.refill, self.costs.refill_share.max(1));
        let last = std::mem::replace(&mut self.cpus[c].last, v);
        let now = self.now;
        let u = &mut self.vcpus[usize::from(v)];
        debug_assert!(u.state == VcpuState::Runnable, "vCPU {v} runs in state {:?}", u.state);
        let cold = if u.cpu != cpu {
            refill
        } else if last != v {
            refill.min((now - u.left_at) / share)
        } else {
            0
        };
        u.cold = u.cold.max(cold);
        u.cpu = cpu;
        u.state = VcpuState::Running;
        u.began = now + self.costs.vcpu_switch;
        // Ticks that were missed come as one.
        let ticked = u.ticked;
        let next = self.next_tick(v);
        if next > ticked + self.costs.tick {
            let u = &mut self.vcpus[usize::from(v)];
            u.tick = true;
            u.ticked = now;
        }
        self.agenda.set(self.at.tick + c, next);
    }

    /// When the guest's next tick is due on `v`.
    pub(crate) fn next_tick(&self, v: u16) -> Ns {
        let period = self.costs.tick;
        let phase = u64::from(self.vcpus[usize::from(v)].local) * (period / 64);
        ((self.now + phase) / period + 1) * period - phase
    }

    /// The other hardware thread of a core speeds up or slows down.
    fn sibling_speed(&mut self, cpu: u8, busy: bool) {
        let s = self.cpus[usize::from(cpu)].sibling;
        if s == cpu {
            return;
        }
        let cur = self.cpus[usize::from(s)].cur;
        if cur != NIL {
            self.progress(cur);
        }
        self.cpus[usize::from(s)].speed = if busy { FULL } else { self.alone };
        if cur != NIL {
            self.set_end(cur);
        }
    }

    pub(crate) fn guest_source(&self, cpu: u8) -> usize {
        self.at.guest + usize::from(cpu)
    }

    pub(crate) fn tick_source(&self, cpu: u8) -> usize {
        self.at.tick + usize::from(cpu)
    }

    pub(crate) fn thread_source(&self, t: usize) -> usize {
        self.at.thread + t
    }

    pub(crate) fn flow_source(&self, vm: usize) -> usize {
        self.at.flow + vm
    }

    /// When the present act of running vCPU `v` ends, at the pCPU's speed.
    pub(crate) fn set_end(&mut self, v: u16) {
        let u = &self.vcpus[usize::from(v)];
        let c = usize::from(u.cpu);
        let left = if u.irq != Irq::None { Some(u.irq_left) } else { self.thread_left(v) };
        let when = match left {
            Some(left) => u.began + self.cpus[c].takes(left),
            // A wait: the PAUSE loop's exit.
            None if u.waits_from == NEVER => return,
            None => u.waits_from + self.costs.ple_window.saturating_sub(u.paused),
        };
        self.agenda.set(self.at.guest + c, when.max(self.now));
    }

    /// The vCPU offers its pCPU: PAUSE-loop exit or hypercall.
    pub(crate) fn offer(&mut self, v: u16, class: Class) {
        let u = &mut self.vcpus[usize::from(v)];
        u.began = self.now + self.costs.yield_exit;
        u.waits_from = NEVER;
        let cpu = u.cpu;
        self.sched.offer(
            self.now,
            v,
            class,
            &mut Out { poke: &mut self.poke, agenda: &mut self.agenda, first: 0 },
        );
        self.schedule(cpu);
    }

    /// A blocked vCPU wakes up.
    pub(crate) fn wake_vcpu(&mut self, v: u16) {
        let u = &mut self.vcpus[usize::from(v)];
        debug_assert!(u.state == VcpuState::Blocked);
        // Going to sleep, its pCPU has not scheduled yet: it just stays.
        u.state = VcpuState::Runnable;
        self.sched.wake(self.now, v, &mut Out { poke: &mut self.poke, agenda: &mut self.agenda, first: 0 });
    }

    /// An interrupt is pending for `v`.
    pub(crate) fn interrupt(&mut self, v: u16) {
        match self.vcpus[usize::from(v)].state {
            VcpuState::Running => {
                // A vCPU that is deciding what to do will see it by itself.
                if self.planning != v && self.vcpus[usize::from(v)].irq == Irq::None && self.irqs_on(v) {
                    self.progress(v);
                    let delay = self.chance.exponential(self.costs.ipi_delay);
                    let at = self.now + self.costs.ipi_deliver + delay;
                    let u = &mut self.vcpus[usize::from(v)];
                    u.began = u.began.max(at);
                    self.plan(v);
                }
            }
            VcpuState::Runnable => {
                self.sched.kick(
                    self.now,
                    v,
                    &mut Out { poke: &mut self.poke, agenda: &mut self.agenda, first: 0 },
                );
            }
            VcpuState::Blocked => self.wake_vcpu(v),
        }
    }
}
