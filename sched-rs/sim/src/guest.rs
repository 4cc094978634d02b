// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest is made of: VM, vCPUs, threads, locks, queues. [`crate::kernel`] says what a vCPU does next, [`crate::ops`] what threads'
//! operations are, [`crate::locks`] and [`crate::irq`] what they say.

use crate::agenda::{NEVER, Ns};
use crate::hist::Hist;
use crate::net::Flow;
use crate::sched::{Left, NIL};
use crate::workload::{MAX_HELD, Op, Program};
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
    /// In PAUSE exits since its last yield at one; see [`crate::costs::Costs::pause_exit`].
    pub paused: Ns,
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
            paused: 0,
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

    pub(crate) fn pending(&self) -> bool {
        self.calls != 0 || self.resched || self.tick || self.packets != 0
    }
}

/// What a thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    Timed,
    Spin,
    Answers,
    Blocked,
}

/// What a thread that waits for a mutex may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spins {
    /// It has just come.
    Arrives,
    /// In the queue of those that spin: only the first of them looks at the lock.
    Queued,
    /// It has blocked and was woken.
    Woken,
}

/// A thread of a guest.
#[derive(Clone, Debug)]
pub struct Thread {
    pub(crate) role: u16,
    pub(crate) pc: u16,
    /// Its vCPU, by number in the VM.
    pub vcpu: u16,
    pub(crate) doing: Doing,
    pub(crate) left: Ns,
    /// User work in the present operation.
    pub(crate) user: Ns,
    pub(crate) class: Class,
    /// Spin locks held or waited for with interrupts off.
    pub(crate) irq_off: u8,
    /// Spin locks held or waited for.
    pub(crate) atomic: u8,
    pub(crate) held: [u16; MAX_HELD],
    pub(crate) depth: u8,
    pub(crate) wants: u16,
    pub(crate) wait_since: Ns,
    pub(crate) spins: Spins,
    pub(crate) answers: u8,
    /// The present or last IPI went to more than one vCPU (Linux: `smp_call_function_many`, not `_single`).
    pub(crate) wide: bool,
    /// How long it has spun for a paravirtual lock since it last halted.
    pub(crate) spun: Ns,
    /// The IPIs of the present operation are being sent.
    pub(crate) sends: bool,
    /// vCPUs that are still to get one, one bit each.
    pub(crate) targets: u64,
    /// The present operation is a hostile guest's.
    pub(crate) feigns: bool,
}

/// A lock.
#[derive(Clone, Debug)]
pub struct Lock {
    pub(crate) holder: u16,
    pub(crate) group: u8,
    pub(crate) spinners: Vec<u16>,
    pub(crate) blocked: VecDeque<u16>,
}

/// A bounded queue.
#[derive(Clone, Debug)]
pub struct Fifo {
    pub(crate) items: u32,
    pub(crate) room: u32,
    pub(crate) getters: VecDeque<u16>,
    pub(crate) putters: VecDeque<u16>,
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
    /// The same yields, but no halts, by what the paper's code takes for their cause: [`Left::cause`].
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
    /// A VM of `vcpus` vCPUs from `first` on; its threads have not started.
    #[must_use]
    pub fn new(first: u16, vcpus: u16, first_thread: usize, program: Program, flow: Option<Flow>) -> Self {
        let mut threads = vec![];
        for (role, (count, _)) in program.roles.iter().enumerate() {
            for _ in 0..*count {
                let vcpu = (threads.len() % usize::from(vcpus)) as u16;
                threads.push(Thread {
                    role: role as u16,
                    pc: 0,
                    vcpu,
                    doing: Doing::Blocked,
                    left: 0,
                    user: 0,
                    class: Class::None,
                    irq_off: 0,
                    atomic: 0,
                    held: [NIL; MAX_HELD],
                    depth: 0,
                    wants: NIL,
                    wait_since: 0,
                    spins: Spins::Arrives,
                    answers: 0,
                    wide: false,
                    spun: 0,
                    sends: false,
                    targets: 0,
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
        Self { first, vcpus, first_thread, program, threads, locks, queues, flow, stats }
    }
}
