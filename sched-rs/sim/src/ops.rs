// SPDX-License-Identifier: MIT OR Apache-2.0
//! Operations of threads, and TLB shootdowns.

use crate::agenda::Ns;
use crate::engine::Host;
use crate::guest::{Doing, Spins};
use crate::sched::{NIL, Sched};
use crate::workload::Op;
use microslice_core::Class;

impl<S: Sched> Host<S> {
    /// The thread does operations, up to one that takes time (true) or after which the vCPU has to look again at what there is to
    /// do (false): the thread waits, or others were woken, or interrupts may be on again.
    pub(crate) fn next_ops(&mut self, vm: usize, t: usize, v: u16) -> bool {
        let m = &mut self.vms[vm];
        let thread = &mut m.threads[t];
        m.stats.user += std::mem::take(&mut thread.user);
        let ops = &*m.program.roles[usize::from(thread.role)].1;
        loop {
            let Some(op) = ops.get(usize::from(thread.pc)) else {
                thread.pc = 0;
                continue;
            };
            thread.pc += 1;
            match *op {
                Op::User(mean, even) => {
                    let work = self.chance.length(mean, even).max(1);
                    thread.class = Class::None;
                    thread.user = work;
                    thread.left = work + std::mem::take(&mut self.vcpus[usize::from(v)].cold);
                    return true;
                }
                Op::Kernel(mean) | Op::Hold(mean) => {
                    thread.class = if matches!(op, Op::Hold(_)) { Class::LockHold } else { Class::None };
                    thread.left = self.chance.exponential(mean);
                    if thread.left > 0 {
                        return true;
                    }
                }
                Op::Maybe(p, skip) => {
                    if !self.chance.hit(p) {
                        thread.pc += skip;
                    }
                }
                Op::Done(n) => m.stats.done += u64::from(n),
                Op::Acquire { first, count, group } => {
                    let lock = first + self.chance.below(usize::from(count)) as u16;
                    let g = &m.program.groups[usize::from(group)];
                    thread.irq_off += u8::from(g.irq_off);
                    thread.atomic += u8::from(g.kind.is_atomic());
                    let l = &mut m.locks[usize::from(lock)];
                    if l.holder != NIL || !l.spinners.is_empty() {
                        thread.wants = lock;
                        thread.wait_since = self.now;
                        thread.spun = 0;
                        thread.spins = Spins::Arrives;
                        thread.doing = Doing::Spin;
                        l.spinners.push(t as u16);
                        return false;
                    }
                    l.holder = t as u16;
                    thread.held[usize::from(thread.depth)] = lock;
                    thread.depth += 1;
                }
                Op::Feign(mean) => {
                    let work = self.chance.exponential(mean).max(1);
                    (thread.class, thread.user, thread.left, thread.feigns) = (Class::None, work, work, true);
                    return true;
                }
                Op::Release => {
                    self.release(vm, t);
                    return false;
                }
                Op::Shoot(n) => {
                    self.shoot(vm, t, v, n);
                    return false;
                }
                Op::Sleep(mean, even) => {
                    let until = self.now + self.chance.length(mean, even).max(1_000);
                    thread.doing = Doing::Blocked;
                    let first = m.first_thread;
                    let source = self.thread_source(first + t);
                    self.agenda.set(source, until);
                    return false;
                }
                Op::Put(q) => {
                    let f = &mut m.queues[usize::from(q)];
                    if f.items == f.room {
                        f.putters.push_back(t as u16);
                        self.block_again(vm, t);
                    } else {
                        f.items += 1;
                        if let Some(w) = f.getters.pop_front() {
                            self.wake_thread(vm, usize::from(w), Some(t));
                        }
                    }
                    return false;
                }
                Op::Get(q) => {
                    let f = &mut m.queues[usize::from(q)];
                    if f.items == 0 {
                        f.getters.push_back(t as u16);
                        self.block_again(vm, t);
                    } else {
                        f.items -= 1;
                        if let Some(w) = f.putters.pop_front() {
                            self.wake_thread(vm, usize::from(w), Some(t));
                        }
                    }
                    return false;
                }
                Op::Receive(each) => {
                    self.receive(vm, t, each);
                    return false;
                }
            }
        }
    }

    /// A thread starts a timed piece of user work.
    pub(crate) fn work(&mut self, vm: usize, t: usize, work: Ns) {
        let thread = &mut self.vms[vm].threads[t];
        thread.class = Class::None;
        thread.user = work;
        thread.left = work.max(1);
    }

    /// A thread blocks and will do its present operation again.
    pub(crate) fn block_again(&mut self, vm: usize, t: usize) {
        let thread = &mut self.vms[vm].threads[t];
        thread.pc -= 1;
        thread.doing = Doing::Blocked;
    }

    pub(crate) fn shoot(&mut self, vm: usize, t: usize, v: u16, limit: u8) {
        let m = &self.vms[vm];
        let me = self.vcpus[usize::from(v)].local;
        let mut targets = 0u64;
        for i in 0..m.vcpus {
            let u = &self.vcpus[usize::from(m.first + i)];
            let wanted = i != me && (u.cur != NIL || (limit == 0 && u.mapped));
            targets |= u64::from(wanted) << i;
        }
        while limit > 0 && targets.count_ones() > u32::from(limit) {
            let at = self.chance.below(targets.count_ones() as usize);
            let bit = (0..64).filter(|i| targets & 1 << i != 0).nth(at).unwrap_or(0);
            targets &= !(1 << bit);
        }
        let thread = &mut self.vms[vm].threads[t];
        thread.answers = targets.count_ones() as u8;
        thread.wide = targets.count_ones() > 1;
        thread.wait_since = self.now;
        thread.class = Class::IpiWait;
        thread.left = if targets == 0 { 500 } else { self.costs.ipi_send };
        thread.targets = targets;
        thread.sends = true;
    }

    /// One more of the present operation's IPIs has been sent, a hypercall each. False if it was the last.
    pub(crate) fn send_ipi(&mut self, vm: usize, t: usize, v: u16) -> bool {
        let m = &mut self.vms[vm];
        let thread = &mut m.threads[t];
        if thread.targets != 0 {
            let target = m.first + thread.targets.trailing_zeros() as u16;
            thread.targets &= thread.targets - 1;
            thread.left = self.costs.ipi_send;
            self.vcpus[usize::from(target)].calls |= 1 << self.vcpus[usize::from(v)].local;
            self.interrupt(target);
        }
        let thread = &mut self.vms[vm].threads[t];
        thread.sends = thread.targets != 0;
        thread.sends
    }
}
