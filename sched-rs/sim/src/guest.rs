// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guest kernels: threads on vCPUs, locks, IPIs, interrupts.
//!
//! A vCPU serves pending interrupts if they are on, else runs its present thread, else the next one of its queue, else
//! halts. A thread is in the middle of a timed operation, or spins for a lock, or waits for answers to its IPIs, or is
//! blocked. Time passes only while the vCPU has a pCPU; what a thread waits for may happen at any time.

use crate::agenda::{NEVER, Ns};
use crate::costs::FULL;
use crate::engine::Host;
use crate::hist::Hist;
use crate::net::Flow;
use crate::sched::{Left, NIL, Sched};
use crate::workload::{LockKind, MAX_HELD, Op, Program};
use microslice_core::Class;
use std::collections::VecDeque;

/// State of a vCPU as the hypervisor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuState {
    /// Has a pCPU.
    Running,
    /// Wants one.
    Runnable,
    /// Halted.
    Blocked,
}

/// Interrupt in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irq {
    /// None.
    None,
    /// Function-call IPIs of the vCPUs in the mask.
    Call(u64),
    /// Reschedule IPI.
    Resched,
    /// Timer tick.
    Tick,
    /// So many packets.
    Net(u32),
}

/// A vCPU.
#[derive(Clone, Debug)]
pub struct Vcpu {
    /// Its VM.
    pub vm: u16,
    /// Its number in the VM.
    pub local: u16,
    /// State.
    pub state: VcpuState,
    /// Present or last pCPU.
    pub cpu: u8,
    /// Present thread, [`NIL`] if the guest idles.
    pub cur: u16,
    /// Threads that wait for it.
    pub queue: VecDeque<u16>,
    /// When its present thread got it.
    pub cur_since: Ns,
    /// Function-call IPIs pending, by sender.
    pub calls: u64,
    /// Reschedule IPI pending.
    pub resched: bool,
    /// Tick pending.
    pub tick: bool,
    /// Packets pending.
    pub packets: u32,
    /// In service.
    pub irq: Irq,
    /// Work left in it.
    pub irq_left: Ns,
    /// When the present act began, or will begin, to make progress.
    pub began: Ns,
    /// Since when a PAUSE loop has been running, [`NEVER`] if none has.
    pub waits_from: Ns,
    /// When it last lost its pCPU.
    pub left_at: Ns,
    /// What it was at then.
    pub left: Left,
    /// When it last had a tick.
    pub ticked: Ns,
    /// Cache refill to come.
    pub cold: Ns,
    /// Threads of this VM have left entries in its TLB; it may idle since.
    pub mapped: bool,
}

impl Vcpu {
    /// vCPU `local` of VM `vm`, halted.
    #[must_use]
    pub fn new(vm: u16, local: u16) -> Self {
        Self {
            vm,
            local,
            state: VcpuState::Blocked,
            cpu: u8::MAX,
            cur: NIL,
            queue: VecDeque::new(),
            cur_since: 0,
            calls: 0,
            resched: false,
            tick: false,
            packets: 0,
            irq: Irq::None,
            irq_left: 0,
            began: 0,
            waits_from: NEVER,
            left_at: 0,
            left: Left::User,
            ticked: 0,
            cold: 0,
            mapped: false,
        }
    }

    /// Has a reason to run.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.cur != NIL || !self.queue.is_empty() || self.pending() || self.irq != Irq::None
    }

    fn pending(&self) -> bool {
        self.calls != 0 || self.resched || self.tick || self.packets != 0
    }
}

/// What a thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Timed,
    Spin,
    Answers,
    Blocked,
}

/// A thread of a guest.
#[derive(Clone, Debug)]
pub struct Thread {
    role: u16,
    pc: u16,
    /// Its vCPU, by number in the VM.
    pub vcpu: u16,
    doing: Doing,
    left: Ns,
    /// User work in the present operation.
    user: Ns,
    class: Class,
    /// Spin locks held or waited for with interrupts off.
    irq_off: u8,
    /// Spin locks held or waited for.
    atomic: u8,
    held: [u16; MAX_HELD],
    depth: u8,
    wants: u16,
    wait_since: Ns,
    answers: u8,
    /// The IPIs of the present operation have just been sent.
    sent: bool,
    /// The present operation is a hostile guest's.
    feigns: bool,
}

/// A lock.
#[derive(Clone, Debug)]
pub struct Lock {
    holder: u16,
    group: u8,
    spinners: Vec<u16>,
    blocked: VecDeque<u16>,
}

/// A bounded queue.
#[derive(Clone, Debug)]
pub struct Fifo {
    items: u32,
    room: u32,
    getters: VecDeque<u16>,
    putters: VecDeque<u16>,
}

/// What happened in a VM.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Units of work.
    pub done: u64,
    /// User work, nanoseconds at full load.
    pub user: u64,
    /// Time on pCPUs.
    pub ran: u64,
    /// Yields in waits for IPIs and for locks; halts.
    pub yields: [u64; 3],
    /// The same yields, but no halts, by what the paper's code takes for their cause: [`Vcpu::left`]. IPI wait, lock wait, halt, other.
    pub counted: [u64; 4],
    /// TLB shootdowns.
    pub tlb: Hist,
    /// Contended waits, by lock group.
    pub waits: Vec<Hist>,
}

/// A VM.
#[derive(Clone, Debug)]
pub struct Vm {
    /// First of its vCPUs.
    pub first: u16,
    /// Its vCPUs.
    pub vcpus: u16,
    /// First of its threads among all.
    pub first_thread: usize,
    /// What it does.
    pub program: Program,
    /// Its threads.
    pub threads: Vec<Thread>,
    /// Its locks.
    pub locks: Vec<Lock>,
    /// Its queues.
    pub queues: Vec<Fifo>,
    /// Its network flow.
    pub flow: Option<Flow>,
    /// What happened.
    pub stats: Stats,
}

impl Vm {
    /// A VM of `n` vCPUs from `first` on; puts its threads onto `vcpus`.
    #[must_use]
    pub fn new(
        first: u16,
        first_thread: usize,
        program: Program,
        vcpus: &mut [Vcpu],
        flow: Option<Flow>,
    ) -> Self {
        let mut threads = vec![];
        for (role, (count, _)) in program.roles.iter().enumerate() {
            for _ in 0..*count {
                let vcpu = (threads.len() % vcpus.len()) as u16;
                vcpus[usize::from(vcpu)].queue.push_back(threads.len() as u16);
                threads.push(Thread {
                    role: role as u16,
                    pc: 0,
                    vcpu,
                    doing: Doing::Timed,
                    left: 0,
                    user: 0,
                    class: Class::None,
                    irq_off: 0,
                    atomic: 0,
                    held: [NIL; MAX_HELD],
                    depth: 0,
                    wants: NIL,
                    wait_since: 0,
                    answers: 0,
                    sent: false,
                    feigns: false,
                });
            }
        }
        let mut locks = vec![];
        for role in &program.roles {
            for op in &role.1 {
                if let Op::Acquire { first, count, group } = *op {
                    let end = usize::from(first + count);
                    let none = Lock { holder: NIL, group: 0, spinners: vec![], blocked: VecDeque::new() };
                    locks.resize(locks.len().max(end), none);
                    locks[usize::from(first)..end].iter_mut().for_each(|l| l.group = group);
                }
            }
        }
        let fifo =
            |room: &u32| Fifo { items: 0, room: *room, getters: VecDeque::new(), putters: VecDeque::new() };
        let queues = program.queues.iter().map(fifo).collect();
        let stats = Stats { waits: vec![Hist::default(); program.groups.len()], ..Stats::default() };
        Self { first, vcpus: vcpus.len() as u16, first_thread, program, threads, locks, queues, flow, stats }
    }
}

impl<S: Sched> Host<S> {
    /// The vCPU's thread, if it has one.
    fn thread(&self, v: u16) -> Option<&Thread> {
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
                if thread.sent {
                    thread.sent = false;
                    thread.doing = Doing::Answers;
                    if thread.answers > 0 && self.a_target_is_preempted(vm, v) {
                        // Linux offers its pCPU after sending IPIs to a preempted vCPU.
                        return self.yields(vm, v, Class::IpiWait);
                    }
                }
            } else {
                let class = if thread.doing == Doing::Spin { Class::LockWait } else { Class::IpiWait };
                let exits = now >= waits_from.saturating_add(self.costs.ple_window);
                if !exits || self.satisfied(vm, t) {
                    return self.plan(v);
                }
                return self.yields(vm, v, class);
            }
        }
        self.plan(v);
    }

    /// vCPU `v` yields in a wait.
    fn yields(&mut self, vm: usize, v: u16, class: Class) {
        let stats = &mut self.vms[vm].stats;
        stats.yields[usize::from(class == Class::LockWait)] += 1;
        stats.counted[(self.vcpus[usize::from(v)].left as usize).min(3)] += 1;
        self.offer(v, class);
    }

    fn satisfied(&self, vm: usize, t: usize) -> bool {
        let (vm, id) = (&self.vms[vm], t as u16);
        let t = &vm.threads[t];
        match t.doing {
            Doing::Spin => {
                let holder = vm.locks[usize::from(t.wants)].holder;
                holder == id || holder == NIL
            }
            Doing::Answers => t.answers == 0,
            Doing::Timed | Doing::Blocked => true,
        }
    }

    fn a_target_is_preempted(&self, vm: usize, sender: u16) -> bool {
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
        loop {
            let irqs_on = self.irqs_on(v);
            let costs = &self.costs;
            let u = &mut self.vcpus[usize::from(v)];
            u.began = u.began.max(self.now);
            u.waits_from = NEVER;
            if u.irq == Irq::None && irqs_on && u.pending() {
                (u.irq, u.irq_left) = if u.calls != 0 {
                    let calls = std::mem::take(&mut u.calls);
                    (
                        Irq::Call(calls),
                        costs.ipi_serve + u64::from(calls.count_ones() - 1) * costs.ipi_serve / 4,
                    )
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
                u.began += costs.thread_switch;
                continue;
            }
            if self.thread_step(v) {
                return false;
            }
        }
    }

    fn halt(&mut self, v: u16) {
        let u = &mut self.vcpus[usize::from(v)];
        u.state = VcpuState::Blocked;
        let (vm, cpu) = (usize::from(u.vm), u.cpu);
        self.vms[vm].stats.yields[2] += 1;
        self.agenda.clear(self.guest_source(cpu));
        self.schedule(cpu);
    }

    /// One step of the present thread; true if the vCPU now has an act with an end.
    fn thread_step(&mut self, v: u16) -> bool {
        let u = &self.vcpus[usize::from(v)];
        let (vm, t) = (usize::from(u.vm), usize::from(u.cur));
        let thread = &self.vms[vm].threads[t];
        let (doing, left, answers) = (thread.doing, thread.left, thread.answers);
        match doing {
            Doing::Timed if left > 0 => {
                self.set_end(v);
                true
            }
            Doing::Timed => {
                self.next_op(vm, t, v);
                false
            }
            Doing::Blocked => {
                self.vcpus[usize::from(v)].cur = NIL;
                false
            }
            Doing::Answers if answers == 0 => {
                let took = self.now - thread.wait_since;
                self.vms[vm].stats.tlb.add(took);
                self.vms[vm].threads[t].doing = Doing::Timed;
                false
            }
            Doing::Spin if self.take_lock(vm, t, v) => false,
            Doing::Spin | Doing::Answers => {
                let u = &mut self.vcpus[usize::from(v)];
                u.waits_from = u.began;
                self.set_end(v);
                true
            }
        }
    }

    /// A spinner looks at its lock. True if it got it, or blocked.
    fn take_lock(&mut self, vm: usize, t: usize, v: u16) -> bool {
        let now = self.now;
        let id = t as u16;
        let m = &mut self.vms[vm];
        let wants = usize::from(m.threads[t].wants);
        let lock = &mut m.locks[wants];
        let group = usize::from(lock.group);
        if lock.holder == id || lock.holder == NIL {
            lock.holder = id;
            lock.spinners.retain(|w| *w != id);
            let thread = &mut m.threads[t];
            thread.doing = Doing::Timed;
            thread.held[usize::from(thread.depth)] = wants as u16;
            thread.depth += 1;
            m.stats.waits[group].add(now - thread.wait_since);
            return true;
        }
        let kind = m.program.groups[group].kind;
        if !kind.is_atomic() {
            let owner = lock.holder;
            let on_cpu = kind == LockKind::Mutex
                && self.vcpus[usize::from(m.first + m.threads[usize::from(owner)].vcpu)].cur == owner;
            if !on_cpu {
                lock.spinners.retain(|w| *w != id);
                lock.blocked.push_back(id);
                m.threads[t].doing = Doing::Blocked;
                self.vcpus[usize::from(v)].cur = NIL;
                return true;
            }
        }
        false
    }

    fn next_op(&mut self, vm: usize, t: usize, v: u16) {
        let m = &mut self.vms[vm];
        let thread = &mut m.threads[t];
        m.stats.user += std::mem::take(&mut thread.user);
        let ops = &m.program.roles[usize::from(thread.role)].1;
        let op = ops[usize::from(thread.pc)];
        thread.pc = if usize::from(thread.pc) + 1 == ops.len() { 0 } else { thread.pc + 1 };
        match op {
            Op::User(mean, even) => {
                let work = self.chance.length(mean, even).max(1);
                thread.class = Class::None;
                thread.user = work;
                thread.left = work + std::mem::take(&mut self.vcpus[usize::from(v)].cold);
            }
            Op::Kernel(mean) => {
                thread.class = Class::None;
                thread.left = self.chance.exponential(mean);
            }
            Op::Hold(mean) => {
                thread.class = Class::LockHold;
                thread.left = self.chance.exponential(mean);
            }
            Op::Maybe(p, skip) => {
                if !self.chance.hit(p) {
                    thread.pc = ((usize::from(thread.pc) + usize::from(skip)) % ops.len()) as u16;
                }
            }
            Op::Done(n) => m.stats.done += u64::from(n),
            Op::Acquire { first, count, group } => {
                let lock = first + self.chance.below(usize::from(count)) as u16;
                let g = &m.program.groups[usize::from(group)];
                thread.irq_off += u8::from(g.irq_off);
                thread.atomic += u8::from(g.kind.is_atomic());
                let l = &mut m.locks[usize::from(lock)];
                if l.holder == NIL && l.spinners.is_empty() {
                    l.holder = t as u16;
                    thread.held[usize::from(thread.depth)] = lock;
                    thread.depth += 1;
                } else {
                    thread.wants = lock;
                    thread.wait_since = self.now;
                    thread.doing = Doing::Spin;
                    l.spinners.push(t as u16);
                }
            }
            Op::Release => self.release(vm, t),
            Op::Shoot(n) => self.shoot(vm, t, v, n),
            Op::Sleep(mean, even) => {
                let until = self.now + self.chance.length(mean, even).max(1_000);
                thread.doing = Doing::Blocked;
                let first = m.first_thread;
                let source = self.thread_source(first + t);
                self.agenda.set(source, until);
            }
            Op::Put(q) => {
                let f = &mut m.queues[usize::from(q)];
                if f.items == f.room {
                    f.putters.push_back(t as u16);
                    thread.pc = if thread.pc == 0 { ops.len() as u16 - 1 } else { thread.pc - 1 };
                    thread.doing = Doing::Blocked;
                } else {
                    f.items += 1;
                    if let Some(w) = f.getters.pop_front() {
                        self.wake_thread(vm, usize::from(w), Some(t));
                    }
                }
            }
            Op::Get(q) => {
                let f = &mut m.queues[usize::from(q)];
                if f.items == 0 {
                    f.getters.push_back(t as u16);
                    thread.pc = if thread.pc == 0 { ops.len() as u16 - 1 } else { thread.pc - 1 };
                    thread.doing = Doing::Blocked;
                } else {
                    f.items -= 1;
                    if let Some(w) = f.putters.pop_front() {
                        self.wake_thread(vm, usize::from(w), Some(t));
                    }
                }
            }
            Op::Feign(mean) => {
                let work = self.chance.exponential(mean).max(1);
                (thread.class, thread.user, thread.left, thread.feigns) = (Class::None, work, work, true);
            }
            Op::Receive(each) => self.receive(vm, t, each),
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
        let m = &mut self.vms[vm];
        let thread = &mut m.threads[t];
        let n = m.program.roles[usize::from(thread.role)].1.len() as u16;
        thread.pc = if thread.pc == 0 { n - 1 } else { thread.pc - 1 };
        thread.doing = Doing::Blocked;
    }

    fn release(&mut self, vm: usize, t: usize) {
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
        if kind == LockKind::Fifo {
            if !l.spinners.is_empty() {
                let next = l.spinners.remove(0);
                l.holder = next;
                self.nudge(vm, usize::from(next));
            }
            return;
        }
        // Those that run and look at it; who gets it is chance.
        let looks = |w: u16| {
            let u = &self.vcpus[usize::from(m.first + m.threads[usize::from(w)].vcpu)];
            u.state == VcpuState::Running && u.cur == w && u.irq == Irq::None
        };
        let n = l.spinners.iter().filter(|w| looks(**w)).count();
        if n > 0 {
            let k = self.chance.below(n);
            let next = l.spinners.iter().copied().filter(|w| looks(*w)).nth(k).unwrap_or(NIL);
            l.holder = next;
            self.nudge(vm, usize::from(next));
        } else if let Some(next) = l.blocked.pop_front() {
            l.spinners.push(next);
            m.threads[usize::from(next)].doing = Doing::Spin;
            self.wake_thread(vm, usize::from(next), Some(t));
        }
    }

    /// What a thread waits for has happened: if it runs, it goes on at once.
    fn nudge(&mut self, vm: usize, t: usize) {
        let v = self.vms[vm].first + self.vms[vm].threads[t].vcpu;
        let u = &self.vcpus[usize::from(v)];
        if u.state == VcpuState::Running && u.cur == t as u16 && u.irq == Irq::None {
            let source = self.guest_source(u.cpu);
            self.agenda.set(source, u.began.max(self.now) + self.costs.handoff);
        }
    }

    fn shoot(&mut self, vm: usize, t: usize, v: u16, limit: u8) {
        let m = &self.vms[vm];
        let me = self.vcpus[usize::from(v)].local;
        let mut targets: Vec<u16> = (0..m.vcpus)
            .filter(|i| {
                let u = &self.vcpus[usize::from(m.first + i)];
                *i != me && (u.cur != NIL || (limit == 0 && u.mapped))
            })
            .map(|i| m.first + i)
            .collect();
        if limit > 0 && usize::from(limit) < targets.len() {
            self.chance.shuffle(&mut targets);
            targets.truncate(usize::from(limit));
        }
        let n = targets.len() as u64;
        let thread = &mut self.vms[vm].threads[t];
        thread.answers = n as u8;
        thread.wait_since = self.now;
        thread.class = Class::IpiWait;
        thread.left = (n * self.costs.ipi_send).max(500);
        thread.sent = true;
        for target in targets {
            self.vcpus[usize::from(target)].calls |= 1 << me;
            self.interrupt(target);
        }
    }

    fn end_irq(&mut self, v: u16) {
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
                    .is_some_and(|t| t.atomic == 0 && t.doing == Doing::Timed && !t.sent);
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
