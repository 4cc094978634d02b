// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many micro cores a pool has.
//!
//! - *static*: [`Params::nr_micro`](crate::Params).
//! - *paper*: Algorithm 1 of the EuroSys'18 paper. Measure one step of 10 ms with no micro core. No sign of trouble: none
//!   for an epoch of 1 s. Signs, but IPI waits are not the most frequent: one for an epoch. Else measure a step with each of
//!   1..=`max_micro`, and take the number with the fewest signs for an epoch. Then measure again. A sign is a yield in an IPI
//!   wait, a yield in a lock wait, or an event for a preempted vCPU.
//! - *adaptive*: ours. Objective: an urgent unit finds a free micro core, and no core is set aside for nothing. In each
//!   window `W` of 50 ms it takes the demand `D` = time of micro slices + (requests that found no core, nor one to borrow) * micro slice,
//!   an upper estimate, because such a request may still be served later. The size asked for is `ceil(D / (W / 2))`, i.e.
//!   micro cores are busy half of the time at most; below `W / 64` it is none. Growing takes effect at once, shrinking when
//!   eight windows in a row (0.4 s) asked for less, and then to the most that any of them asked for. So a load that comes and
//!   goes faster than that keeps its cores, a slower one is followed once for each edge, and nothing is ever measured by
//!   taking the cores away. With no request there is no timer.
//!
//! Both stay within `min_micro..=max_micro` and leave at least one normal core.

use crate::pool::{Decision, Pool};
use crate::time::{Span, Time};

/// Who decides how many micro cores there are. The numbers are the hypercall ABI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// The administrator.
    Static = 0,
    /// The paper's Algorithm 1.
    Paper = 1,
    /// Demand.
    Adaptive = 2,
}

impl Mode {
    /// The mode of an ABI number; `None` if there is no such mode.
    #[must_use]
    pub const fn from_abi(n: u32) -> Option<Self> {
        Some(match n {
            0 => Self::Static,
            1 => Self::Paper,
            2 => Self::Adaptive,
            _ => return None,
        })
    }
}

/// The paper's profile step.
pub const STEP: Span = Span(10_000_000);
/// The paper's run epoch.
pub const EPOCH: Span = Span(1_000_000_000);
/// Window over which `adaptive` takes the demand.
pub const WINDOW: Span = Span(50_000_000);
/// Windows that must ask for less before `adaptive` shrinks the pool.
const CALM: u32 = 8;

/// Signs of trouble by cause. Counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Signs {
    /// Yields in an IPI wait.
    pub ipi: u64,
    /// Yields in a lock wait.
    pub lock: u64,
    /// Events for a preempted vCPU.
    pub event: u64,
}

impl Signs {
    const ZERO: Self = Self { ipi: 0, lock: 0, event: 0 };

    fn since(self, earlier: Self) -> Self {
        Self {
            ipi: self.ipi.wrapping_sub(earlier.ipi),
            lock: self.lock.wrapping_sub(earlier.lock),
            event: self.event.wrapping_sub(earlier.event),
        }
    }

    fn total(self) -> u64 {
        self.ipi.saturating_add(self.lock).saturating_add(self.event)
    }
}

/// What the sizing remembers.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Sizing {
    /// When the current step, epoch or window ends; zero: nothing is being measured.
    pub next: Time,
    /// Signs of trouble so far.
    pub signs: Signs,
    /// Nanoseconds asked for by requests that found no free core.
    pub unserved_ns: u64,
    /// [`Sizing::signs`] when it began.
    seen: Signs,
    /// Demand in nanoseconds, served and unserved, when it began.
    seen_ns: u64,
    /// Micro cores that there should be.
    pub size: u32,
    /// paper: the number on trial; zero: an epoch is running.
    trial: u32,
    /// paper: the best number so far, and its signs.
    best: u32,
    best_signs: u64,
    /// adaptive: windows in a row that asked for less, and the most that one of them asked for.
    calm: u32,
    calm_most: u32,
    /// paper: the step without micro cores is running.
    pub(crate) base: bool,
}

impl Sizing {
    /// Nothing measured, no micro core.
    pub const EMPTY: Self = Self {
        next: Time(0),
        signs: Signs::ZERO,
        unserved_ns: 0,
        seen: Signs::ZERO,
        seen_ns: 0,
        size: 0,
        trial: 0,
        best: 0,
        best_signs: 0,
        calm: 0,
        calm_most: 0,
        base: false,
    };
}

impl Pool<'_> {
    fn mode(&self) -> Mode {
        Mode::from_abi(self.shared.params.sizing).unwrap_or(Mode::Static)
    }

    fn demand_ns(&self) -> u64 {
        self.shared.micro_ns.wrapping_add(self.shared.sizing.unserved_ns)
    }

    /// Settings changed: start from the administrator's number.
    pub(crate) fn start_sizing(&mut self, now: Time, d: &mut Decision) {
        let p = self.shared.params;
        let span = match self.mode() {
            Mode::Static => Span(0),
            Mode::Paper => STEP,
            Mode::Adaptive => WINDOW,
        };
        let size = if span.0 == 0 { p.nr_micro } else { p.nr_micro.max(p.min_micro).min(p.max_micro) };
        let (signs, unserved_ns) = (self.shared.sizing.signs, self.shared.sizing.unserved_ns);
        self.shared.sizing = Sizing { size, signs, unserved_ns, ..Sizing::EMPTY };
        if self.mode() == Mode::Paper {
            self.shared.sizing.base = true;
            self.shared.sizing.size = p.min_micro;
        }
        if span.0 != 0 {
            self.measure(now, span, d);
        }
    }

    fn measure(&mut self, now: Time, span: Span, d: &mut Decision) {
        let seen_ns = self.demand_ns();
        let s = &mut self.shared.sizing;
        s.next = now.after(span);
        s.seen = s.signs;
        s.seen_ns = seen_ns;
        self.arm(d);
    }

    /// An urgent unit asked for a core; `found`: and one will serve it now, a micro core or a borrowed one.
    pub(crate) fn asked(&mut self, now: Time, found: bool, d: &mut Decision) {
        if self.mode() == Mode::Adaptive && self.shared.sizing.next == Time(0) {
            self.measure(now, WINDOW, d);
        }
        if !found {
            let want = self.shared.params.micro_slice.0;
            self.shared.sizing.unserved_ns = self.shared.sizing.unserved_ns.wrapping_add(want);
        }
    }

    /// A step, epoch or window may have ended.
    pub(crate) fn resize(&mut self, now: Time, d: &mut Decision) {
        let s = self.shared.sizing;
        if s.next == Time(0) || now < s.next {
            return;
        }
        match self.mode() {
            Mode::Static => self.shared.sizing.next = Time(0),
            Mode::Paper => {
                let span = self.paper_step();
                self.measure(now, span, d);
            }
            Mode::Adaptive => self.adaptive_step(now, d),
        }
        let p = self.shared.params;
        let size = self.shared.sizing.size.max(p.min_micro).min(p.max_micro);
        let size = if self.mode() == Mode::Static { p.nr_micro } else { size };
        if p.reserve == 1 && self.strands(size) {
            // A pinned unit would be left without a normal core: stay.
            self.shared.sizing.size = s.size;
            return;
        }
        self.shared.sizing.size = size;
        if size != s.size {
            self.reassign_modes(d);
        }
    }

    /// One turn of Algorithm 1: sets the number of micro cores for the span that it returns.
    fn paper_step(&mut self) -> Span {
        let limit = self.shared.params.max_micro;
        let s = &mut self.shared.sizing;
        let signs = s.signs.since(s.seen);
        if s.base {
            s.base = false;
            if signs.total() == 0 || limit == 0 {
                s.size = 0;
                return EPOCH;
            }
            s.size = 1;
            if signs.ipi <= signs.lock || signs.ipi <= signs.event {
                return EPOCH;
            }
            (s.trial, s.best, s.best_signs) = (1, 1, u64::MAX);
            return STEP;
        }
        if s.trial == 0 {
            // An epoch is over.
            s.base = true;
            s.size = 0;
            return STEP;
        }
        if signs.total() < s.best_signs {
            (s.best, s.best_signs) = (s.trial, signs.total());
        }
        if s.trial < limit {
            s.trial = s.trial.saturating_add(1);
            s.size = s.trial;
            return STEP;
        }
        s.trial = 0;
        s.size = s.best;
        EPOCH
    }

    fn adaptive_step(&mut self, now: Time, d: &mut Decision) {
        let demand = self.demand_ns().wrapping_sub(self.shared.sizing.seen_ns);
        let p = self.shared.params;
        let s = &mut self.shared.sizing;
        let want = if demand < WINDOW.0 / 64 { 0 } else { demand.div_ceil(WINDOW.0 / 2) };
        let want = u32::try_from(want).unwrap_or(u32::MAX).max(p.min_micro).min(p.max_micro);
        if want >= s.size {
            (s.size, s.calm, s.calm_most) = (want, 0, 0);
        } else {
            s.calm = s.calm.saturating_add(1);
            s.calm_most = s.calm_most.max(want);
            if s.calm >= CALM {
                (s.size, s.calm, s.calm_most) = (s.calm_most, 0, 0);
            }
        }
        if demand == 0 && s.size == p.min_micro {
            s.next = Time(0);
        } else {
            self.measure(now, WINDOW, d);
        }
    }
}
