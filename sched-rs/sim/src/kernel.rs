// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a vCPU does next.
//!
//! It serves pending interrupts if they are on, else runs its present thread, else the next one of its queue, else
//! halts. A thread is in the middle of a timed operation, or spins for a lock, or waits for answers to its IPIs, or is
//! blocked. Time passes only while the vCPU has a pCPU; what a thread waits for may happen at any time.

use crate::agenda::{NEVER, Ns};
use crate::costs::FULL;
use crate::engine::Host;
use crate::guest::{Doing, Irq, Thread, VcpuState};
use crate::locks::looks;
use crate::sched::{Left, NIL, Sched};
use microslice_core::Class;

impl<S: Sched> Host<S> {
    /// The vCPU's thread, if it has one.
    pub(crate) fn thread(&self, v: u16) -> Option<&Thread> {
        let u = &self.vcpus[usize::from(v)];
        self.vms[usize::from(u.vm)].threads.get(usize::from(u.cur))
    }

    /// Work left in the thread's timed operation; `None` if it waits.
    pub(crate) fn thread_left(&self, v: u16) -> Option<Ns> {
        self.thread(v).filter(|t| t.doing == Doing::Timed).map(|t| t.left)
    }

    pub(crate) fn irqs_on(&self, v: u16) -> bool {
        self.thread(v).is_none_or(|t| t.irq_off == 0)
    }

    /// What the vCPU's instruction pointer says.
    pub(crate) fn class_of(&mut self, v: u16) -> Class {
        match self.vcpus[usize::from(v)].irq {
            Irq::Call(_) => return Class::IpiServe,
            Irq::Resched => return Class::Resched,
            Irq::Tick | Irq::Net(_) => return Class::Irq,
            Irq::None => {}
        }
        let u = &self.vcpus[usize::from(v)];
        let vm = &self.vms[usize::from(u.vm)];
        let Some(t) = vm.threads.get(usize::from(u.cur)) else { return Class::None };
        match t.doing {
            Doing::Spin => Class::LockWait,
            Doing::Answers => Class::IpiWait,
            Doing::Blocked => Class::None,
            Doing::Timed if t.feigns => Class::LockHold,
            Doing::Timed if t.class != Class::LockHold => t.class,
            Doing::Timed => {
                let lock = t.held[usize::from(t.depth.saturating_sub(1))];
                let g = &vm.program.groups[usize::from(vm.locks[usize::from(lock)].group)];
                if self.chance.hit(g.seen) { g.class } else { Class::None }
            }
        }
    }

    /// What the vCPU, about to lose its pCPU in `class`, will be known to be at until it loses it again.
    pub(crate) fn left_of(&self, v: u16, runnable: bool, class: Class) -> Left {
        let thread = self.thread(v);
        match class {
            _ if !runnable && thread.is_some() => Left::Poll,
            _ if !runnable => Left::Halt,
            Class::IpiWait => Left::Ipi,
            Class::LockWait => Left::Lock,
            c if c.is_critical() => Left::Critical,
            _ if thread.is_some_and(|t| t.user > 0) => Left::User,
            _ => Left::Kernel,
        }
    }

    /// Takes into account what the present act has done up to now.
    pub(crate) fn progress(&mut self, v: u16) {
        let u = &mut self.vcpus[usize::from(v)];
        if self.now <= u.began {
            return;
        }
        let work = (self.now - u.began) * self.cpus[usize::from(u.cpu)].speed / FULL;
        u.began = self.now;
        if u.irq != Irq::None {
            u.irq_left = u.irq_left.saturating_sub(work);
        } else if let Some(t) = self.vms[usize::from(u.vm)].threads.get_mut(usize::from(u.cur)) {
            t.left = t.left.saturating_sub(work);
        }
    }

    /// The act of the vCPU that runs on `cpu` is over, or a PAUSE loop exits.
    pub(crate) fn guest_event(&mut self, cpu: u8) {
        let v = self.cpus[usize::from(cpu)].cur;
        let now = self.now;
        let u = &mut self.vcpus[usize::from(v)];
        let (vm, t) = (usize::from(u.vm), usize::from(u.cur));
        u.began = now;
        let waits_from = u.waits_from;
        if u.irq != Irq::None {
            u.irq_left = 0;
            self.end_irq(v);
        } else if let Some(thread) = self.vms[vm].threads.get_mut(t) {
            if thread.doing == Doing::Timed {
                thread.left = 0;
                if std::mem::take(&mut thread.feigns) {
                    return self.yields(vm, v, Class::IpiWait);
                }
                if thread.sends {
                    if self.send_ipi(vm, t, v) {
                        return self.plan(v);
                    }
                    let thread = &mut self.vms[vm].threads[t];
                    thread.doing = Doing::Answers;
                    thread.left = 0;
                    if thread.answers > 0 && thread.wide && self.a_target_is_preempted(vm, v) {
                        // Linux offers its pCPU after sending IPIs to several vCPUs of which one is preempted.
                        return self.yields(vm, v, Class::IpiWait);
                    }
                }
            } else {
                let class = if thread.doing == Doing::Spin { Class::LockWait } else { Class::IpiWait };
                let window = self.costs.ple_window.saturating_sub(u.paused);
                let exits = now >= waits_from.saturating_add(window);
                if !exits || self.satisfied(vm, t) {
                    return self.plan(v);
                }
                self.vcpus[usize::from(v)].paused = 0;
                if self.halts_in_lock_wait(vm, t, v) {
                    return;
                }
                return self.yields(vm, v, class);
            }
        }
        self.plan(v);
    }

    /// vCPU `v` yields in a wait.
    pub(crate) fn yields(&mut self, vm: usize, v: u16, class: Class) {
        let stats = &mut self.vms[vm].stats;
        stats.yields[usize::from(class == Class::LockWait)] += 1;
        stats.counted[self.vcpus[usize::from(v)].left.cause()] += 1;
        self.offer(v, class);
    }

    pub(crate) fn satisfied(&self, vm: usize, t: usize) -> bool {
        let (vm, id) = (&self.vms[vm], t as u16);
        let t = &vm.threads[t];
        match t.doing {
            Doing::Spin => {
                let lock = &vm.locks[usize::from(t.wants)];
                lock.holder == id || (lock.holder == NIL && looks(lock, &vm.threads, id))
            }
            Doing::Answers => t.answers == 0,
            Doing::Timed | Doing::Blocked => true,
        }
    }

    pub(crate) fn a_target_is_preempted(&self, vm: usize, sender: u16) -> bool {
        let vm = &self.vms[vm];
        let bit = 1u64 << self.vcpus[usize::from(sender)].local;
        let (a, b) = (usize::from(vm.first), usize::from(vm.first + vm.vcpus));
        self.vcpus[a..b].iter().any(|u| u.calls & bit != 0 && u.state == VcpuState::Runnable)
    }

    /// Decides what running vCPU `v` does from `began` on, and when that ends.
    pub(crate) fn plan(&mut self, v: u16) {
        let outer = std::mem::replace(&mut self.planning, v);
        let halts = self.plan_inner(v);
        self.planning = outer;
        if halts {
            self.halt(v);
        }
    }

    /// True if there is nothing to do.
    fn plan_inner(&mut self, v: u16) -> bool {
        let u = &mut self.vcpus[usize::from(v)];
        u.began = u.began.max(self.now);
        if u.waits_from != NEVER {
            let waited = self.now.saturating_sub(u.waits_from);
            if self.costs.pause_exit > 0 {
                u.paused += waited.max(self.costs.pause_exit);
            }
            u.waits_from = NEVER;
        }
        loop {
            self.take_irq(v);
            let u = &mut self.vcpus[usize::from(v)];
            if u.irq != Irq::None {
                self.set_end(v);
                return false;
            }
            if u.cur == NIL {
                let Some(t) = u.queue.pop_front() else {
                    return true;
                };
                u.cur = t;
                u.mapped = true;
                u.cur_since = self.now;
                u.began += self.costs.thread_switch;
            } else if self.thread_step(v) {
                self.set_end(v);
                return false;
            }
        }
    }

    /// If interrupts are on and one is pending, it is in service from now on.
    fn take_irq(&mut self, v: u16) {
        let u = &self.vcpus[usize::from(v)];
        if !u.pending() || u.irq != Irq::None || !self.irqs_on(v) {
            return;
        }
        let costs = &self.costs;
        let u = &mut self.vcpus[usize::from(v)];
        (u.irq, u.irq_left) = if u.calls != 0 {
            let calls = std::mem::take(&mut u.calls);
            (Irq::Call(calls), costs.ipi_serve + u64::from(calls.count_ones() - 1) * costs.ipi_serve / 4)
        } else if u.packets != 0 {
            let n = std::mem::take(&mut u.packets);
            (Irq::Net(n), costs.net_serve * u64::from(n.div_ceil(16)))
        } else if u.resched {
            u.resched = false;
            (Irq::Resched, costs.resched_serve)
        } else {
            u.tick = false;
            (Irq::Tick, costs.tick_serve)
        };
    }

    pub(crate) fn halt(&mut self, v: u16) {
        let u = &mut self.vcpus[usize::from(v)];
        u.state = VcpuState::Blocked;
        let (vm, cpu) = (usize::from(u.vm), u.cpu);
        self.vms[vm].stats.yields[2] += 1;
        self.agenda.clear(self.guest_source(cpu));
        self.schedule(cpu);
    }

    /// One step of the present thread; true if the vCPU now has an act with an end.
    fn thread_step(&mut self, v: u16) -> bool {
        let u = &mut self.vcpus[usize::from(v)];
        let (vm, t) = (usize::from(u.vm), usize::from(u.cur));
        let m = &mut self.vms[vm];
        let thread = &mut m.threads[t];
        let doing = thread.doing;
        match doing {
            Doing::Timed => thread.left > 0 || self.next_ops(vm, t, v),
            Doing::Blocked => {
                u.cur = NIL;
                false
            }
            Doing::Answers if thread.answers == 0 => {
                m.stats.tlb.add(self.now - thread.wait_since);
                thread.doing = Doing::Timed;
                false
            }
            Doing::Spin if self.take_lock(vm, t, v) => false,
            Doing::Spin | Doing::Answers => {
                let u = &mut self.vcpus[usize::from(v)];
                u.waits_from = u.began;
                true
            }
        }
    }
}
