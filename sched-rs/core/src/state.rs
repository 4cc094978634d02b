// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a pool remembers: plain fixed-size records in memory that the caller provides. Identities are small indices.

use crate::class::Class;
use crate::policy::{Action, Policy};
use crate::sizing::{Mode, Sizing};
use crate::time::{Span, Time};
use core::mem::offset_of;

/// Upper bound on the pCPUs of a pool: one bit each in a mask.
pub const MAX_CPUS: usize = 64;
/// Upper bound on units (vCPUs) of a pool.
pub const MAX_UNITS: usize = 4096;
/// Upper bound on domains of a pool.
pub const MAX_DOMS: usize = 1024;

/// "No unit", "no domain".
pub const NIL: u16 = u16::MAX;
/// "No pCPU".
pub const NO_CPU: u8 = u8::MAX;

/// Where a unit is. It is in exactly one of these places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// Not part of the pool.
    #[default]
    Absent,
    /// Known, not runnable, on no pCPU.
    Asleep,
    /// Runnable and waiting in the pool's queue.
    Queued,
    /// Current on [`Unit::cpu`].
    OnCpu,
    /// Taken off [`Unit::cpu`], its registers not saved yet: nobody may run it.
    Leaving,
}

/// A schedulable unit: a vCPU (or the vCPUs of a core, under core scheduling).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Unit {
    /// Virtual time: nanoseconds run, scaled by 256 / weight. See [`crate::pool`].
    pub vtime: u64,
    /// Order of arrival in the queue; decides between equal virtual times.
    pub seq: u64,
    /// pCPUs of the pool it may run on.
    pub hard: u64,
    /// pCPUs it prefers.
    pub soft: u64,
    /// pCPUs that may take it from the queue for normal work: those of [`Unit::hard`], without reserved micro cores;
    /// nothing while its domain's cap is used up.
    pub mask: u64,
    /// Subset of [`Unit::mask`] where it runs best: [`Unit::home`], else its soft affinity, else normal cores.
    pub prefer: u64,
    /// Union of `mask` over its subtree of the queue.
    pub any: u64,
    /// Union of `prefer` over its subtree of the queue.
    pub any_prefer: u64,
    /// What is left of a slice that was interrupted for somebody else; zero if none.
    pub slice_left: Span,
    /// Remainder of the last scaling, so that virtual time is exact.
    pub scale_rem: u64,
    /// Heap priority in the queue's treap.
    pub prio: u32,
    /// Left child, right child and parent in the queue.
    pub left: u16,
    /// See [`Unit::left`].
    pub right: u16,
    /// See [`Unit::left`].
    pub up: u16,
    /// Its domain.
    pub dom: u16,
    /// Neighbours in its domain's list of preempted units.
    pub sib_next: u16,
    /// See [`Unit::sib_next`].
    pub sib_prev: u16,
    /// Neighbours in the pool's urgent list.
    pub urgent_next: u16,
    /// See [`Unit::urgent_next`].
    pub urgent_prev: u16,
    /// Where it is.
    pub place: Place,
    /// The pCPU of [`Place::OnCpu`] and [`Place::Leaving`]; otherwise the last one.
    pub cpu: u8,
    /// Where it last had a normal slice.
    pub home: u8,
    /// The pCPU that was poked to take it, if any.
    pub promised: u8,
    /// What it was doing when it was last preempted.
    pub class: Class,
    /// Wants to run, as far as the pool knows.
    pub runnable: bool,
    /// Offered its pCPU.
    pub yielding: bool,
    /// How it is being helped; in the urgent list unless [`Action::None`].
    pub urgent: Action,
    /// In its domain's list of preempted units.
    pub preempted: bool,
}

impl Unit {
    /// Where its bytes that do not have every value are, and the largest value of each.
    pub const NARROW: [(usize, u8); 6] = [
        (offset_of!(Self, place), Place::Leaving as u8),
        (offset_of!(Self, class), Class::Hypercall as u8),
        (offset_of!(Self, runnable), 1),
        (offset_of!(Self, yielding), 1),
        (offset_of!(Self, urgent), Action::Front as u8),
        (offset_of!(Self, preempted), 1),
    ];

    /// A unit that is in no pool.
    pub const ABSENT: Self = Self {
        vtime: 0,
        seq: 0,
        hard: 0,
        soft: 0,
        mask: 0,
        prefer: 0,
        any: 0,
        any_prefer: 0,
        slice_left: Span(0),
        scale_rem: 0,
        prio: 0,
        left: NIL,
        right: NIL,
        up: NIL,
        dom: NIL,
        sib_next: NIL,
        sib_prev: NIL,
        urgent_next: NIL,
        urgent_prev: NIL,
        place: Place::Absent,
        cpu: NO_CPU,
        home: NO_CPU,
        promised: NO_CPU,
        class: Class::None,
        runnable: false,
        yielding: false,
        urgent: Action::None,
        preempted: false,
    };
}

/// What a pCPU of the pool does with its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Work {
    /// Idle, or busy with something that is not the pool's.
    #[default]
    Idle,
    /// A normal slice.
    Normal,
    /// A micro slice.
    Micro,
}

/// A pCPU.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Cpu {
    /// When the current unit was put here.
    pub started: Time,
    /// Up to when the current unit has been charged.
    pub charged: Time,
    /// The current unit's virtual time then, and its domain's weight: how far it is ahead, without looking at either.
    pub vtime: u64,
    /// See [`Cpu::vtime`].
    pub weight: u32,
    /// When its slice ends.
    pub ends: Time,
    /// What it may still use of its domain's cap in this dispatch; reserved from the domain's budget.
    pub reserved: Span,
    /// When it last lent a micro slice to another domain.
    pub lent: Time,
    /// Until when it serves the urgent units of domain [`Cpu::lends`], whose vCPU yielded here.
    pub lends_until: Time,
    /// See [`Cpu::lends_until`].
    pub lends: u16,
    /// The current unit.
    pub unit: u16,
    /// The unit for which this pCPU was poked.
    pub next: u16,
    /// The unit whose slice was interrupted here and should resume.
    pub resume: u16,
    /// What the current unit's slice is.
    pub work: Work,
    /// The current unit has had its grace in this slice.
    pub graced: bool,
    /// Its number on the host. A pool's own numbers, which are the bits of its masks, need not be the host's.
    pub number: u16,
}

impl Cpu {
    /// As [`Unit::NARROW`].
    pub const NARROW: [(usize, u8); 2] =
        [(offset_of!(Self, work), Work::Micro as u8), (offset_of!(Self, graced), 1)];

    /// A pCPU that runs nothing.
    pub const EMPTY: Self = Self {
        started: Time(0),
        charged: Time(0),
        vtime: 0,
        weight: DEFAULT_WEIGHT,
        ends: Time(0),
        reserved: Span(0),
        lent: Time(0),
        lends_until: Time(0),
        lends: NIL,
        unit: NIL,
        next: NIL,
        resume: NIL,
        work: Work::Idle,
        graced: false,
        number: 0,
    };
}

/// What has happened to a domain's vCPUs. Counters only grow. Layout of the hypercall ABI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counts {
    /// Yields while waiting for TLB-shootdown or function-call IPIs.
    pub yields_ipi: u64,
    /// Yields while spinning for a lock.
    pub yields_lock: u64,
    /// Other yields.
    pub yields_other: u64,
    /// Yields after which the vCPU kept its pCPU, because siblings were being accelerated.
    pub yields_kept: u64,
    /// Events for a vCPU that was runnable but preempted.
    pub kicks_preempted: u64,
    /// Times a runnable vCPU lost its pCPU.
    pub preempted: u64,
    /// Those inside a critical service.
    pub preempted_critical: u64,
    /// vCPUs made urgent by a sibling's IPI-wait yield.
    pub accel_ipi: u64,
    /// vCPUs made urgent by a sibling's lock-wait yield.
    pub accel_lock: u64,
    /// vCPUs made urgent by an event for them.
    pub accel_irq: u64,
    /// vCPUs made urgent by their preemption inside a critical service.
    pub accel_preempt: u64,
    /// vCPUs that kept their pCPU for a moment instead of being preempted inside a critical service.
    pub graces: u64,
    /// Not made urgent: no pCPU in the vCPU's hard affinity that could serve it.
    pub refused_affinity: u64,
    /// Not made urgent: too far ahead of its fair share, or at its cap.
    pub refused_limit: u64,
    /// Made urgent while every pCPU that could serve it was busy.
    pub refused_full: u64,
    /// Micro slices on the pCPU of a sibling that yielded.
    pub lent_runs: u64,
    /// Micro slices on normal cores that another domain's vCPU had.
    pub borrow_runs: u64,
    /// Micro slices, wherever.
    pub micro_runs: u64,
    /// Nanoseconds of micro slices.
    pub micro_ns: u64,
    /// Nanoseconds run, micro slices included.
    pub run_ns: u64,
}

/// A domain.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Dom {
    /// What has happened.
    pub counts: Counts,
    /// Nanoseconds its units may still run in this cap period; negative when an overrun is being paid back.
    pub budget: i64,
    /// Nanoseconds of that budget handed to running units.
    pub reserved: u64,
    /// Share of the processors, relative to other domains; never zero.
    pub weight: u32,
    /// Upper bound in percent of one pCPU; zero: none.
    pub cap: u32,
    /// What is done for its vCPUs.
    pub policy: Policy,
    /// First of its preempted units.
    pub preempted: u16,
    /// Units in a micro slice now.
    pub on_micro: u16,
    /// Units it has.
    pub units: u16,
    /// Units it has in other pools.
    pub elsewhere: u16,
    /// Part of the pool.
    pub present: bool,
    /// Over its cap until the next period.
    pub parked: bool,
}

impl Dom {
    /// As [`Unit::NARROW`].
    pub const NARROW: [(usize, u8); 6] = [
        (offset_of!(Self, policy.ipi_wait), Action::Front as u8),
        (offset_of!(Self, policy.lock_wait), Action::Front as u8),
        (offset_of!(Self, policy.event), Action::Front as u8),
        (offset_of!(Self, policy.preemption), Action::Front as u8),
        (offset_of!(Self, present), 1),
        (offset_of!(Self, parked), 1),
    ];

    /// A domain that is in no pool.
    pub const ABSENT: Self = Self {
        counts: Counts {
            yields_ipi: 0,
            yields_lock: 0,
            yields_other: 0,
            yields_kept: 0,
            kicks_preempted: 0,
            preempted: 0,
            preempted_critical: 0,
            accel_ipi: 0,
            accel_lock: 0,
            accel_irq: 0,
            accel_preempt: 0,
            graces: 0,
            refused_affinity: 0,
            refused_limit: 0,
            refused_full: 0,
            lent_runs: 0,
            borrow_runs: 0,
            micro_runs: 0,
            micro_ns: 0,
            run_ns: 0,
        },
        budget: 0,
        reserved: 0,
        weight: DEFAULT_WEIGHT,
        cap: 0,
        policy: Policy::DEFAULT,
        preempted: NIL,
        on_micro: 0,
        units: 0,
        elsewhere: 0,
        present: false,
        parked: false,
    };
}

/// Weight of a domain that nobody gave one, as in Xen's credit schedulers.
pub const DEFAULT_WEIGHT: u32 = 256;

/// The settings of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Params {
    /// Normal slice. 1 ms to 1 s.
    pub slice: Span,
    /// Micro slice. 50 us up to the normal slice.
    pub micro_slice: Span,
    /// How long a unit runs before a waking unit may preempt it. Up to 500 ms.
    pub ratelimit: Span,
    /// How long a vCPU inside a critical service keeps its pCPU under [`Action::Grace`]. 10 us up to the normal slice.
    pub grace: Span,
    /// Micro cores: the pCPUs of the pool with the highest numbers on the host. Fewer than it has pCPUs. For [`Mode::Static`]; the other
    /// modes start from it.
    pub nr_micro: u32,
    /// 1: micro cores run nothing but urgent units. 0: while there are none, they do normal work that gives way at once.
    pub reserve: u32,
    /// Who decides how many micro cores there are: a [`Mode`] number.
    pub sizing: u32,
    /// Least number of micro cores for the other modes.
    pub min_micro: u32,
    /// Greatest number of micro cores for the other modes.
    pub max_micro: u32,
    /// Zero.
    pub pad: u32,
}

impl Params {
    /// 30 ms, 100 us, rate limit 1 ms, grace 100 us; no micro core; not reserved; static.
    pub const DEFAULT: Self = Self {
        slice: Span(30_000_000),
        micro_slice: Span(100_000),
        ratelimit: Span(1_000_000),
        grace: Span(100_000),
        nr_micro: 0,
        reserve: 0,
        sizing: Mode::Static as u32,
        min_micro: 0,
        max_micro: 3,
        pad: 0,
    };

    /// Whether every value is in its range.
    #[must_use]
    pub const fn in_range(&self) -> bool {
        self.slice.0 >= 1_000_000
            && self.slice.0 <= 1_000_000_000
            && self.micro_slice.0 >= 50_000
            && self.micro_slice.0 <= self.slice.0
            && self.ratelimit.0 <= 500_000_000
            && self.grace.0 >= 10_000
            && self.grace.0 <= self.slice.0
            && self.nr_micro < MAX_CPUS as u32
            && self.reserve <= 1
            && Mode::from_abi(self.sizing).is_some()
            && self.min_micro <= self.max_micro
            && self.max_micro < MAX_CPUS as u32
            && self.pad == 0
    }
}

/// The part of a pool that does not grow with its units.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Shared {
    /// The pCPUs.
    pub cpus: [Cpu; MAX_CPUS],
    /// Settings.
    pub params: Params,
    /// Virtual time of the pool; never goes back.
    pub vclock: u64,
    /// Next [`Unit::seq`].
    pub seq: u64,
    /// pCPUs that belong to the pool and may run units.
    pub online: u64,
    /// Those of them that are micro cores.
    pub micro: u64,
    /// pCPUs that have a unit.
    pub busy: u64,
    /// pCPUs that were poked and have not scheduled since.
    pub poked: u64,
    /// Next refill of the caps' budgets; zero: no capped domain has run.
    pub refill: Time,
    /// How many micro cores there should be.
    pub sizing: Sizing,
    /// Micro slices, in all.
    pub micro_runs: u64,
    /// Nanoseconds of micro slices, in all.
    pub micro_ns: u64,
    /// Longest micro slice while another urgent unit could have used it.
    pub micro_stay_max: Span,
    /// State of the generator of heap priorities.
    pub rng: u32,
    /// Root of the queue.
    pub root: u16,
    /// First and last of the urgent list.
    pub urgent_head: u16,
    /// See [`Shared::urgent_head`].
    pub urgent_tail: u16,
}

impl Shared {
    /// As [`Unit::NARROW`], besides those of [`Shared::cpus`].
    pub const NARROW: [(usize, u8); 1] = [(offset_of!(Self, sizing.base), 1)];

    /// An empty pool with default settings.
    pub const EMPTY: Self = Self {
        cpus: [Cpu::EMPTY; MAX_CPUS],
        params: Params::DEFAULT,
        // Far from zero, so that subtracting a slice of lag never saturates.
        vclock: 1 << 48,
        seq: 0,
        online: 0,
        micro: 0,
        busy: 0,
        poked: 0,
        refill: Time(0),
        sizing: Sizing::EMPTY,
        micro_runs: 0,
        micro_ns: 0,
        micro_stay_max: Span(0),
        rng: 0x9e37_79b9,
        root: NIL,
        urgent_head: NIL,
        urgent_tail: NIL,
    };

    /// Gives an empty pool its settings, which are in range and have a static size. In place: a pool on the stack is too
    /// large for a hypervisor.
    pub const fn begin(&mut self, params: Params) {
        self.params = params;
        self.sizing.size = params.nr_micro;
    }
}
