// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ends of interrupts, ticks, and the waking of threads.

use crate::engine::Host;
use crate::guest::{Doing, Irq};
use crate::sched::{NIL, Sched};
use microslice_core::Class;

impl<S: Sched> Host<S> {
    pub(crate) fn end_irq(&mut self, v: u16) {
        let u = &mut self.vcpus[usize::from(v)];
        let (vm, cur, first) = (usize::from(u.vm), u.cur, self.vms[usize::from(u.vm)].first);
        match std::mem::replace(&mut u.irq, Irq::None) {
            Irq::Call(mut from) => {
                // Who idles flushes everything and is left alone from then on (Linux: `leave_mm`).
                u.mapped = u.cur != NIL;
                while from != 0 {
                    let sender = first + from.trailing_zeros() as u16;
                    from &= from - 1;
                    let t = usize::from(self.vcpus[usize::from(sender)].cur);
                    // The sender cannot have left its vCPU: it waits with preemption off.
                    let Some(thread) = self.vms[vm].threads.get_mut(t) else { continue };
                    thread.answers = thread.answers.saturating_sub(1);
                    if thread.answers == 0 && thread.doing == Doing::Answers {
                        self.nudge(vm, t);
                    }
                }
            }
            Irq::Tick | Irq::Resched => {
                let quantum = self.costs.tick;
                let free = self.vms[vm]
                    .threads
                    .get(usize::from(cur))
                    .is_some_and(|t| t.atomic == 0 && t.doing == Doing::Timed && !t.sends);
                let u = &mut self.vcpus[usize::from(v)];
                if free && !u.queue.is_empty() && self.now >= u.cur_since + quantum * 3 / 4 {
                    u.queue.push_back(cur);
                    u.cur = NIL;
                }
            }
            Irq::Net(n) => self.arrived(vm, n),
            Irq::None => {}
        }
    }

    pub(crate) fn guest_tick(&mut self, cpu: u8) {
        let v = self.cpus[usize::from(cpu)].cur;
        let source = self.tick_source(cpu);
        self.agenda.set(source, self.now + self.costs.tick);
        if v != NIL {
            let u = &mut self.vcpus[usize::from(v)];
            u.tick = true;
            u.ticked = self.now;
            self.interrupt(v);
        }
    }

    pub(crate) fn thread_timer(&mut self, at: usize) {
        let vm = self.vms.iter().rposition(|m| m.first_thread <= at).unwrap_or(0);
        let t = at - self.vms[vm].first_thread;
        if self.vms[vm].threads[t].doing == Doing::Spin {
            return self.tick_in_lock_wait(vm, t);
        }
        self.vms[vm].threads[t].doing = Doing::Timed;
        self.wake_thread(vm, t, None);
    }

    /// A blocked thread is runnable again: on its vCPU if that idles, else on an idle one, else it queues.
    pub(crate) fn wake_thread(&mut self, vm: usize, t: usize, waker: Option<usize>) {
        let m = &mut self.vms[vm];
        let thread = &mut m.threads[t];
        if thread.doing == Doing::Blocked {
            thread.doing = Doing::Timed;
        }
        let idle = |i: u16| !self.vcpus[usize::from(m.first + i)].has_work();
        let target = if idle(thread.vcpu) {
            thread.vcpu
        } else {
            (0..m.vcpus).find(|i| idle(*i)).unwrap_or(thread.vcpu)
        };
        // The thread may be on its way out of its vCPU still.
        let old = &mut self.vcpus[usize::from(m.first + thread.vcpu)];
        if old.cur == t as u16 {
            return;
        }
        thread.vcpu = target;
        let v = m.first + target;
        if let Some(w) = waker {
            // The waker pays for the reschedule IPI.
            m.threads[w].left += self.costs.ipi_send;
            m.threads[w].class = Class::Resched;
        }
        let u = &mut self.vcpus[usize::from(v)];
        u.queue.push_back(t as u16);
        u.resched = true;
        self.interrupt(v);
    }
}
