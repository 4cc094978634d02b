// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks: who gets them, and who learns of it when.

use crate::engine::Host;
use crate::guest::{Doing, Irq, Lock, Spins, Thread, VcpuState};
use crate::sched::{NIL, Sched};
use crate::workload::LockKind;
use microslice_core::Class;

/// Whether waiter `w` looks at the lock: of those queued to spin for a mutex, Linux's `osq_lock` lets only the first.
pub(crate) fn looks(lock: &Lock, threads: &[Thread], w: u16) -> bool {
    let queued = |w: u16| threads[usize::from(w)].spins == Spins::Queued;
    !queued(w) || lock.spinners.iter().find(|s| queued(**s)) == Some(&w)
}

impl<S: Sched> Host<S> {
    /// A spinner looks at its lock. True if it got it, or blocked.
    pub(crate) fn take_lock(&mut self, vm: usize, t: usize, v: u16) -> bool {
        let now = self.now;
        let id = t as u16;
        let m = &mut self.vms[vm];
        let wants = usize::from(m.threads[t].wants);
        let lock = &mut m.locks[wants];
        let group = usize::from(lock.group);
        let turn = looks(lock, &m.threads, id);
        if lock.holder == id || (lock.holder == NIL && turn) {
            lock.holder = id;
            lock.spinners.retain(|w| *w != id);
            let thread = &mut m.threads[t];
            thread.doing = Doing::Timed;
            thread.held[usize::from(thread.depth)] = wants as u16;
            thread.depth += 1;
            m.stats.waits[group].add(now - thread.wait_since);
            if m.program.groups[group].kind == LockKind::Pv {
                let thread = m.first_thread + t;
                self.agenda.clear(self.thread_source(thread));
            }
            return true;
        }
        let kind = m.program.groups[group].kind;
        if !kind.is_atomic() && turn {
            let owner = lock.holder;
            let woken = m.threads[t].spins == Spins::Woken;
            let on_cpu = kind == LockKind::Mutex
                && !woken
                && self.vcpus[usize::from(m.first + m.threads[usize::from(owner)].vcpu)].cur == owner;
            if !on_cpu {
                lock.spinners.retain(|w| *w != id);
                if woken {
                    lock.blocked.push_front(id);
                } else {
                    lock.blocked.push_back(id);
                }
                m.threads[t].doing = Doing::Blocked;
                self.vcpus[usize::from(v)].cur = NIL;
                return true;
            }
            m.threads[t].spins = Spins::Queued;
        }
        false
    }

    pub(crate) fn release(&mut self, vm: usize, t: usize) {
        let m = &mut self.vms[vm];
        let thread = &mut m.threads[t];
        thread.depth -= 1;
        let lock = thread.held[usize::from(thread.depth)];
        let l = &mut m.locks[usize::from(lock)];
        let g = &m.program.groups[usize::from(l.group)];
        let kind = g.kind;
        thread.irq_off -= u8::from(g.irq_off);
        thread.atomic -= u8::from(kind.is_atomic());
        l.holder = NIL;
        if kind.is_queued() {
            if l.spinners.is_empty() {
                return;
            }
            let next = l.spinners.remove(0);
            l.holder = next;
            let w = m.first + m.threads[usize::from(next)].vcpu;
            if self.vcpus[usize::from(w)].state == VcpuState::Blocked {
                // It halted: the kick is a hypercall.
                m.threads[t].left += self.costs.ipi_send;
                m.threads[t].class = Class::Resched;
                self.wake_vcpu(w);
            } else {
                self.nudge(vm, usize::from(next));
            }
            return;
        }
        // Those that run and look at it; who gets it is chance.
        let sees = |w: u16| {
            let u = &self.vcpus[usize::from(m.first + m.threads[usize::from(w)].vcpu)];
            u.state == VcpuState::Running && u.cur == w && u.irq == Irq::None && looks(l, &m.threads, w)
        };
        let n = l.spinners.iter().filter(|w| sees(**w)).count();
        if n > 0 {
            let k = self.chance.below(n);
            let next = l.spinners.iter().copied().filter(|w| sees(*w)).nth(k).unwrap_or(NIL);
            l.holder = next;
            self.nudge(vm, usize::from(next));
        } else if let Some(next) = l.blocked.pop_front() {
            l.spinners.push(next);
            m.threads[usize::from(next)].doing = Doing::Spin;
            m.threads[usize::from(next)].spins = Spins::Woken;
            self.wake_thread(vm, usize::from(next), Some(t));
        }
    }

    /// A PAUSE loop of the present thread exits. True if it has waited long for a paravirtual lock, and the vCPU has halted.
    pub(crate) fn halts_in_lock_wait(&mut self, vm: usize, t: usize, v: u16) -> bool {
        let m = &mut self.vms[vm];
        let thread = &mut m.threads[t];
        let lock = m.locks.get(usize::from(thread.wants)).filter(|_| thread.doing == Doing::Spin);
        if lock.is_none_or(|l| m.program.groups[usize::from(l.group)].kind != LockKind::Pv) {
            return false;
        }
        thread.spun += self.costs.ple_window;
        if thread.spun < self.costs.pv_spin {
            return false;
        }
        thread.spun = 0;
        // The guest's tick goes on; one that could not be served is not followed by another.
        let source = m.first_thread + t;
        let (source, next) = (self.thread_source(source), self.next_tick(v));
        let u = &mut self.vcpus[usize::from(v)];
        u.state = VcpuState::Blocked;
        let cpu = u.cpu;
        if !u.tick {
            self.agenda.set(source, next);
        }
        self.agenda.clear(self.guest_source(cpu));
        self.schedule(cpu);
        true
    }

    /// A tick for a vCPU that has halted in a lock wait.
    pub(crate) fn tick_in_lock_wait(&mut self, vm: usize, t: usize) {
        let v = self.vms[vm].first + self.vms[vm].threads[t].vcpu;
        let u = &mut self.vcpus[usize::from(v)];
        if u.state == VcpuState::Blocked {
            u.tick = true;
            u.ticked = self.now;
            self.interrupt(v);
        }
    }

    /// What a thread waits for has happened: if it runs, it goes on at once.
    pub(crate) fn nudge(&mut self, vm: usize, t: usize) {
        let v = self.vms[vm].first + self.vms[vm].threads[t].vcpu;
        let u = &self.vcpus[usize::from(v)];
        if u.state == VcpuState::Running && u.cur == t as u16 && u.irq == Irq::None {
            let source = self.guest_source(u.cpu);
            self.agenda.set(source, u.began.max(self.now) + self.costs.handoff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Vm;
    use crate::workload::Workload;

    #[test]
    fn of_those_that_queue_for_a_mutex_only_the_first_looks_at_it() {
        let text = "about: x\nlocks: {a: {hold_us: 1, kind: mutex}}\nroles: [{threads: 4, steps: [{user_us: 1}, {lock: a}]}]";
        let program = serde_yaml::from_str::<Workload>(text).unwrap().compile().unwrap();
        let mut vm = Vm::new(0, 4, 0, program, None);
        vm.locks[0].spinners = vec![2, 1, 0, 3];
        let all = |vm: &Vm| [0, 1, 2, 3].map(|w| looks(&vm.locks[0], &vm.threads, w));
        assert_eq!(all(&vm), [true; 4]);
        for t in [0, 1, 3] {
            vm.threads[t].spins = Spins::Queued;
        }
        vm.threads[2].spins = Spins::Woken;
        assert_eq!(all(&vm), [false, true, true, false]);
        vm.locks[0].spinners.remove(1);
        assert_eq!(all(&vm), [true, false, true, false]);
    }
}
