// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the machine asks of a scheduler: the callbacks of Xen's `struct scheduler`, without pointers.

use crate::agenda::{Agenda, Ns};
use microslice_core::Class;
use microslice_core::state::Counts;

/// "No vCPU".
pub const NIL: u16 = u16::MAX;

/// What a vCPU was at when it last lost its pCPU, as the paper's published code reads the saved instruction pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It waited for answers to IPIs.
    Ipi,
    /// It halted in a lock wait. The saved address is that after the hypercall `sched_op`, SCHEDOP_poll; that code expects it of
    /// SCHEDOP_yield only, which Linux issues after IPIs, and takes it for an IPI wait.
    Poll,
    /// It spun for a lock.
    Lock,
    /// It idled.
    Halt,
    /// In user mode, or nothing is known.
    User,
    /// In the kernel, in nothing that is listed.
    Kernel,
    /// In a critical service.
    Critical,
}

/// The vCPU that was current when its pCPU asks for work; of none, what is said of an idle one.
#[derive(Clone, Copy, Debug)]
pub struct Last {
    /// It would run on.
    pub runnable: bool,
    /// What its instruction pointer tells.
    pub class: Class,
    /// What the paper's code will read of it, should it lose the pCPU now.
    pub left: Left,
}

/// For tests of schedulers that go by `left` alone.
#[cfg(test)]
pub(crate) fn last(runnable: bool, left: Left) -> Last {
    Last { runnable, class: Class::None, left }
}

impl Left {
    /// Which of the causes that code counts a yield under: IPI wait, lock wait, halt, other.
    #[must_use]
    pub fn cause(self) -> usize {
        match self {
            Self::Ipi | Self::Poll => 0,
            Self::Lock => 1,
            Self::Halt => 2,
            Self::User | Self::Kernel | Self::Critical => 3,
        }
    }
}

/// Effects of a callback: pCPUs that must ask for work, and the scheduler's own timers.
#[derive(Debug)]
pub struct Out<'a> {
    /// pCPUs on which SCHEDULE_SOFTIRQ is raised, one bit each.
    pub poke: &'a mut u64,
    /// The agenda.
    pub agenda: &'a mut Agenda,
    /// The scheduler's first timer there.
    pub first: usize,
}

impl Out<'_> {
    /// Sets a timer of the scheduler's own.
    pub fn set(&mut self, timer: usize, when: Ns) {
        self.agenda.set(self.first + timer, when);
    }

    /// Stops one.
    pub fn clear(&mut self, timer: usize) {
        self.agenda.clear(self.first + timer);
    }
}

/// A scheduler under test. vCPUs and domains are numbered from 0, without gaps.
pub trait Sched {
    /// Timers of its own.
    fn timers(&self) -> usize;
    /// The machine starts: all pCPUs are idle, all vCPUs asleep.
    fn start(&mut self, now: Ns, out: &mut Out<'_>);
    /// A blocked vCPU became runnable (`vcpu_wake`).
    fn wake(&mut self, now: Ns, v: u16, out: &mut Out<'_>);
    /// A running vCPU offers its pCPU (`vcpu_yield`); `class` is what its live RIP says. The pCPU schedules right after.
    fn offer(&mut self, now: Ns, v: u16, class: Class, out: &mut Out<'_>);
    /// An interrupt or IPI for a vCPU that is runnable but preempted.
    fn kick(&mut self, now: Ns, v: u16, out: &mut Out<'_>);
    /// pCPU `cpu` asks for work; `last` tells of the vCPU that was current. Returns whom to run ([`NIL`]: idle) and for how long.
    fn schedule(&mut self, now: Ns, cpu: u8, last: Last, out: &mut Out<'_>) -> (u16, Ns);
    /// The context of a vCPU that left its pCPU is saved (`context_saved`).
    fn saved(&mut self, now: Ns, v: u16, out: &mut Out<'_>);
    /// One of its timers has fired.
    fn timer(&mut self, now: Ns, which: usize, out: &mut Out<'_>);
    /// The core's counters of a domain, if it has such.
    fn counts(&self, dom: u16) -> Option<Counts>;
    /// Longest stay on a micro core while somebody waited for it.
    fn micro_stay_max(&self) -> Option<Ns> {
        None
    }
    /// Callbacks so far: core events, for those that drive the core.
    fn events(&self) -> u64;
}

/// What a scheduler must know of a domain when the machine is put together.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its vCPUs.
    pub vcpus: std::ops::Range<u16>,
    /// Weight, 1 to 65535; 256 is common.
    pub weight: u32,
    /// Cap in percent of one pCPU; 0 is none.
    pub cap: u32,
    /// pCPUs its vCPUs may run on, one bit each.
    pub hard: u64,
}
