// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state machine: what a pool does with each event.
//!
//! A pool is a group of at most 64 pCPUs under one lock that the caller holds; there may be others ([`crate::groups`]). It has one queue of runnable units for its
//! normal cores ([`crate::queue`]) and one list of urgent units for its micro cores ([`crate::urgent`]).
//!
//! # Normal cores: weighted fair by exact virtual time
//! - Running for `t` adds `t * 256 / weight` to a unit's virtual time; the remainder is kept, so nothing is lost.
//! - The unit with the least virtual time among those that may run on a pCPU is next there, for a slice (30 ms). A unit that
//!   prefers the pCPU goes before it if it is at most a quarter of a slice behind. Equal times: first come, first served.
//! - The pool's clock `V` follows the least virtual time of those that wait, and never goes back. A unit that joins the
//!   queue gets `max(own, V - slice)`: sleeping earns at most one slice of lag. Its lead is at most two of its slices
//!   beyond `V`, so that running alone for a while is not held against it.
//! - A waking unit takes an idle pCPU; else it preempts the unit that is furthest ahead, if that one leads by more than
//!   the rate limit (1 ms) and has run for at least that long. The interrupted unit resumes the rest of its slice when the
//!   pCPU is free again.
//! - A yield lets the next unit go first, once. It changes no virtual time.
//!
//! # Micro slices
//! An urgent unit runs for one micro slice (0.1 ms) and then is back in the queue, always. Micro time is charged like any
//! other. Whose slice it interrupts resumes. Micro cores are the pCPUs of the pool with the highest numbers on the host
//! (equal ones: the highest bit of a mask); there is always at least one normal core. A micro core without urgent units does normal work that gives way at once, unless micro cores are
//! reserved ([`Params::reserve`]); then only units whose affinity leaves them nothing else do that there.
//!
//! # Invariants
//! A unit is in one place ([`Place`]). A unit that left a pCPU is not run again before the caller says that its context is
//! saved. Nobody runs outside its hard affinity. Events about units, domains or pCPUs that do not exist change nothing.

use crate::class::Class;
use crate::groups::Siblings;
use crate::policy::Policy;
use crate::queue::Queue;
use crate::state::{Cpu, Dom, MAX_CPUS, NIL, Params, Place, Shared, Unit, Work};
use crate::time::{Span, Time};
use crate::urgent::cpus;

/// What a pCPU that asks for work can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Any unit.
    Run,
    /// Nothing this time: the pCPU has other business (a tasklet).
    IdleOnce,
    /// Nothing: it is leaving the pool, or not yet in it.
    Offline,
}

/// What happened. Every input of the pool is one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant's text names its fields")]
pub enum Event {
    /// pCPU `cpu` joined the pool, idle. `number`: its number on the host.
    CpuUp { cpu: u8, number: u16 },
    /// pCPU `cpu` left the pool, idle.
    CpuDown { cpu: u8 },
    /// Domain `dom` joined with default weight and no cap.
    DomAdd { dom: u16 },
    /// Domain `dom` left; its units have left before.
    DomRemove { dom: u16 },
    /// Domain `dom` gets a weight (1..=65535) and a cap (percent of one pCPU, 0 = none).
    DomSet { dom: u16, weight: u32, cap: u32 },
    /// Domain `dom` gets a row of actions.
    DomPolicy { dom: u16, policy: Policy },
    /// A unit joined, asleep. The masks have a bit for each pCPU. `ahead`: of the pool's clock, in ms of virtual time, as
    /// [`Pool::ahead`] said of it where it left; 0 for a new one.
    UnitAdd { unit: u16, dom: u16, hard: u64, soft: u64, ahead: i16 },
    /// A unit left.
    UnitRemove { unit: u16 },
    /// A unit's affinity, or the set of pCPUs it refers to, changed.
    Affinity { unit: u16, hard: u64, soft: u64 },
    /// A unit became runnable. `saved`: if it left a pCPU, its context is saved by now.
    Wake { unit: u16, saved: bool },
    /// A unit is no longer runnable.
    Sleep { unit: u16 },
    /// A running unit offers its pCPU; `class` is what its live instruction pointer says, `far` what has become of its siblings
    /// in other pools.
    Yield { unit: u16, class: Class, far: Siblings },
    /// An interrupt or IPI arrived for a unit.
    Kick { unit: u16 },
    /// pCPU `cpu` asks for work. `runnable` and `class` tell of the unit that was current, if there is one.
    Schedule { cpu: u8, offer: Offer, runnable: bool, class: Class },
    /// The context of a unit that left its pCPU is saved. Of one that sleeps its next wake-up may say so instead.
    Saved { unit: u16 },
    /// The time of an earlier [`Decision::timer`] has come.
    Timer,
    /// New settings.
    Set { params: Params },
    /// A unit of domain `dom` in another pool yields in a wait of class `class`.
    Awaited { dom: u16, class: Class },
    /// Domain `dom` has so many units in other pools.
    DomElsewhere { dom: u16, units: u16 },
}

/// Why an event was refused; the pool is as before. The numbers are Xen's -ENOENT, -EINVAL and -EBUSY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum Refusal {
    /// There is no such unit, domain or pCPU, or it exists already.
    Unknown = -2,
    /// A value is outside its range.
    Range = -22,
    /// It would leave no normal core, to the pool or to a pinned unit; or what should go is still in use.
    Busy = -16,
}

/// What to do about an event. Layout of the hypervisor's C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Decision {
    /// pCPUs that must ask for work now, one bit each.
    pub poke: u64,
    /// Answer to [`Event::Schedule`]: for how long to run [`Decision::run`]; zero: until poked.
    pub slice: Span,
    /// When to send [`Event::Timer`]; zero: as before.
    pub timer: Time,
    /// Answer to [`Event::Schedule`]: the unit to run, [`NIL`] for none.
    pub run: u16,
    /// Zero, or the [`Refusal`].
    pub error: i16,
    /// Answer to [`Event::Yield`]: the yielder keeps its pCPU. To [`Event::Awaited`]: [`Siblings::helped`].
    pub kept: bool,
    /// Answer to [`Event::Awaited`]: [`Siblings::left`].
    pub left: bool,
    /// Units wait in the queue.
    pub waits: bool,
    /// Zero.
    pub pad: u8,
}

impl Decision {
    /// Nothing to do.
    pub const NOTHING: Self = Self {
        poke: 0,
        slice: Span(0),
        timer: Time(0),
        run: NIL,
        error: 0,
        kept: false,
        left: false,
        waits: false,
        pad: 0,
    };

    /// Why the event was refused, if it was.
    #[must_use]
    pub const fn refused(&self) -> Option<Refusal> {
        match self.error {
            0 => None,
            -2 => Some(Refusal::Unknown),
            -16 => Some(Refusal::Busy),
            _ => Some(Refusal::Range),
        }
    }
}

/// A group of pCPUs with its units and domains, borrowed from the caller for one event.
pub struct Pool<'a> {
    /// What does not grow.
    pub shared: &'a mut Shared,
    /// The units; identities are indices.
    pub units: &'a mut [Unit],
    /// The domains; identities are indices.
    pub doms: &'a mut [Dom],
}

/// Nanoseconds of a millisecond.
pub(crate) const MS: i64 = 1_000_000;

pub(crate) const fn bit(cpu: u8) -> u64 {
    1u64.wrapping_shl(cpu as u32)
}

impl Pool<'_> {
    /// Takes in one event at instant `now` and says what to do about it, in `d`, which is [`Decision::NOTHING`] before.
    // A caller that knows which event it has pays for that one only.
    #[inline(always)]
    pub fn handle(&mut self, now: Time, event: Event, d: &mut Decision) {
        let result = match event {
            Event::CpuUp { cpu, number } => self.cpu_up(cpu, number, d),
            Event::CpuDown { cpu } => self.cpu_down(cpu, d),
            Event::DomAdd { dom } => self.dom_add(dom),
            Event::DomRemove { dom } => self.dom_remove(dom),
            Event::DomSet { dom, weight, cap } => self.dom_set(now, dom, weight, cap, d),
            Event::DomPolicy { dom, policy } => self.dom_policy(dom, policy),
            Event::UnitAdd { unit, dom, hard, soft, ahead } => {
                self.unit_add(now, unit, dom, (hard, soft), ahead, d)
            }
            Event::UnitRemove { unit } => self.unit_remove(now, unit, d),
            Event::Affinity { unit, hard, soft } => self.affinity(now, unit, hard, soft, d),
            Event::Wake { unit, saved } => self.wake(now, unit, saved, d),
            Event::Sleep { unit } => self.sleep(unit, d),
            Event::Yield { unit, class, far } => self.yielded(now, unit, class, far, d),
            Event::Kick { unit } => self.kicked(now, unit, d),
            Event::Schedule { cpu, offer, runnable, class } => {
                self.schedule(now, cpu, offer, runnable, class, d)
            }
            Event::Saved { unit } => self.saved(now, unit, d),
            Event::Timer => {
                self.refill(now, d);
                self.resize(now, d);
                self.arm(d);
                Ok(())
            }
            Event::Set { params } => self.set(now, params, d),
            Event::Awaited { dom, class } => self.awaited(now, dom, class, d),
            Event::DomElsewhere { dom, units } => self.dom_elsewhere(now, dom, units, d),
        };
        d.error = result.map_or_else(|refusal| refusal as i16, |()| 0);
        d.waits = self.waits();
    }

    /// The record of unit `i`, if it is part of the pool.
    #[must_use]
    pub fn unit(&self, i: u16) -> Option<&Unit> {
        self.units.get(usize::from(i)).filter(|u| u.place != Place::Absent)
    }

    pub(crate) fn edit(&mut self, i: u16, f: impl FnOnce(&mut Unit)) {
        if let Some(u) = self.units.get_mut(usize::from(i)) {
            f(u);
        }
    }

    pub(crate) fn dom_mut(&mut self, i: u16) -> Option<&mut Dom> {
        self.doms.get_mut(usize::from(i))
    }

    /// The record of pCPU `cpu`.
    #[must_use]
    pub fn cpu(&self, cpu: u8) -> Option<&Cpu> {
        self.shared.cpus.get(usize::from(cpu))
    }

    pub(crate) fn cpu_mut(&mut self, cpu: u8) -> Option<&mut Cpu> {
        self.shared.cpus.get_mut(usize::from(cpu))
    }

    pub(crate) fn queue(&mut self) -> Queue<'_> {
        Queue::of(self.shared, self.units)
    }

    /// Normal cores.
    #[must_use]
    pub fn normal(&self) -> u64 {
        self.shared.online & !self.shared.micro
    }

    /// Asks for the timer that comes first.
    pub(crate) fn arm(&self, d: &mut Decision) {
        let (a, b) = (self.shared.refill, self.shared.sizing.next);
        d.timer = if a == Time(0) || (b != Time(0) && b < a) { b } else { a };
    }

    // ---- pCPUs and settings -------------------------------------------------------------------------------------

    fn cpu_up(&mut self, cpu: u8, number: u16, d: &mut Decision) -> Result<(), Refusal> {
        let c = self.cpu_mut(cpu).ok_or(Refusal::Unknown)?;
        *c = Cpu { number, ..Cpu::EMPTY };
        self.shared.busy &= !bit(cpu);
        self.shared.poked &= !bit(cpu);
        self.shared.online |= bit(cpu);
        self.reassign_modes(d);
        Ok(())
    }

    fn cpu_down(&mut self, cpu: u8, d: &mut Decision) -> Result<(), Refusal> {
        let c = self.cpu_mut(cpu).ok_or(Refusal::Unknown)?;
        *c = Cpu::EMPTY;
        self.shared.online &= !bit(cpu);
        self.shared.busy &= !bit(cpu);
        self.shared.poked &= !bit(cpu);
        self.reassign_modes(d);
        Ok(())
    }

    /// Whether the pool would take these settings. One without pCPUs takes any number of micro cores.
    ///
    /// # Errors
    /// As [`Event::Set`] would be refused.
    pub fn check(&self, params: &Params) -> Result<(), Refusal> {
        if !params.in_range() {
            return Err(Refusal::Range);
        }
        let (old, cpus) = (self.shared.params, self.shared.online.count_ones());
        let more = params.nr_micro > old.nr_micro;
        if more && cpus != 0 && params.nr_micro >= cpus {
            return Err(Refusal::Busy);
        }
        let reserves = params.reserve == 1 && params.nr_micro != 0;
        if reserves && (more || old.reserve == 0) && self.strands(params.nr_micro) {
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    fn set(&mut self, now: Time, params: Params, d: &mut Decision) -> Result<(), Refusal> {
        self.check(&params)?;
        self.shared.params = params;
        self.start_sizing(now, d);
        self.reassign_modes(d);
        // Running slices end by the new lengths too.
        self.charge_all(now);
        d.poke |= self.shared.online;
        Ok(())
    }

    /// The pCPUs with the highest numbers on the host: `want` of them, or as many as one normal core allows.
    fn highest(&self, want: u32) -> u64 {
        let online = self.shared.online;
        let want = want.min(online.count_ones().saturating_sub(1));
        let mut highest = 0u64;
        for _ in 0..want {
            let next = cpus(online & !highest).max_by_key(|&cpu| self.cpu(cpu).map_or(0, |c| c.number));
            highest |= next.map_or(0, bit);
        }
        highest
    }

    /// Whether `nr_micro` micro cores would leave no normal core to a unit that has one now.
    pub(crate) fn strands(&self, nr_micro: u32) -> bool {
        let normal = self.shared.online & !self.highest(nr_micro);
        self.units
            .iter()
            .any(|u| u.place != Place::Absent && u.hard & self.normal() != 0 && u.hard & normal == 0)
    }

    /// Gives the pCPUs with the highest numbers to the micro pool, as many as the settings ask for.
    pub(crate) fn reassign_modes(&mut self, d: &mut Decision) {
        let online = self.shared.online;
        let micro = self.highest(self.shared.sizing.size);
        d.poke |= online & (micro ^ self.shared.micro);
        self.shared.micro = micro;
        // Every waiting unit may have gained or lost pCPUs.
        for i in 0..self.units.len() as u16 {
            self.requeue(i);
        }
        d.poke |= self.idle_cpus();
    }

    // ---- domains and units --------------------------------------------------------------------------------------

    fn dom_add(&mut self, dom: u16) -> Result<(), Refusal> {
        let d = self.dom_mut(dom).filter(|d| !d.present).ok_or(Refusal::Unknown)?;
        *d = Dom { present: true, ..Dom::ABSENT };
        Ok(())
    }

    fn dom_remove(&mut self, dom: u16) -> Result<(), Refusal> {
        let d = self.dom_mut(dom).filter(|d| d.present).ok_or(Refusal::Unknown)?;
        if d.units != 0 {
            return Err(Refusal::Busy);
        }
        *d = Dom::ABSENT;
        Ok(())
    }

    fn dom_set(
        &mut self,
        now: Time,
        dom: u16,
        weight: u32,
        cap: u32,
        d: &mut Decision,
    ) -> Result<(), Refusal> {
        self.dom_mut(dom).filter(|x| x.present).ok_or(Refusal::Unknown)?;
        if weight == 0 || weight > 65_535 || cap > 100 * MAX_CPUS as u32 {
            return Err(Refusal::Range);
        }
        // What has been run so far counts by the old weight.
        self.charge_all(now);
        if let Some(x) = self.dom_mut(dom) {
            x.weight = weight;
        }
        self.charge_all(now);
        self.set_cap(now, dom, cap, d);
        Ok(())
    }

    fn dom_policy(&mut self, dom: u16, policy: Policy) -> Result<(), Refusal> {
        let d = self.dom_mut(dom).filter(|x| x.present).ok_or(Refusal::Unknown)?;
        if !policy.in_range() {
            return Err(Refusal::Range);
        }
        d.policy = policy;
        Ok(())
    }

    fn unit_add(
        &mut self,
        now: Time,
        unit: u16,
        dom: u16,
        (hard, soft): (u64, u64),
        ahead: i16,
        decision: &mut Decision,
    ) -> Result<(), Refusal> {
        let vtime = self.shared.vclock.saturating_add_signed(i64::from(ahead).saturating_mul(MS));
        let slot = self.units.get_mut(usize::from(unit)).filter(|u| u.place == Place::Absent);
        let known = self.doms.get(usize::from(dom)).is_some_and(|d| d.present);
        let (Some(u), true) = (slot, known) else {
            return Err(Refusal::Unknown);
        };
        *u = Unit { vtime, hard, soft, dom, place: Place::Asleep, ..Unit::ABSENT };
        self.reshare(now, dom, decision, |d| d.units = d.units.saturating_add(1));
        Ok(())
    }

    fn unit_remove(&mut self, now: Time, unit: u16, d: &mut Decision) -> Result<(), Refusal> {
        let u = *self.unit(unit).ok_or(Refusal::Unknown)?;
        self.withdraw(unit);
        if u.place == Place::OnCpu {
            self.release(u.cpu);
            if let Some(c) = self.cpu_mut(u.cpu)
                && c.work == Work::Micro
            {
                self.left_micro(u.dom);
            }
            if let Some(c) = self.cpu_mut(u.cpu) {
                c.unit = NIL;
                c.work = Work::Idle;
            }
            self.shared.busy &= !bit(u.cpu);
        }
        self.reshare(now, u.dom, d, |d| d.units = d.units.saturating_sub(1));
        self.edit(unit, |u| *u = Unit::ABSENT);
        Ok(())
    }

    fn affinity(
        &mut self,
        now: Time,
        unit: u16,
        hard: u64,
        soft: u64,
        d: &mut Decision,
    ) -> Result<(), Refusal> {
        let place = self.unit(unit).ok_or(Refusal::Unknown)?.place;
        self.edit(unit, |u| {
            u.hard = hard;
            u.soft = soft;
        });
        match place {
            Place::Queued => {
                self.requeue(unit);
                self.find_cpu(now, unit, false, d);
                self.find_server(now, unit, d);
            }
            Place::OnCpu => {
                let u = self.unit(unit).copied().unwrap_or(Unit::ABSENT);
                if hard & bit(u.cpu) == 0 {
                    d.poke |= bit(u.cpu);
                }
            }
            Place::Absent | Place::Asleep | Place::Leaving => {}
        }
        Ok(())
    }

    fn wake(&mut self, now: Time, unit: u16, saved: bool, d: &mut Decision) -> Result<(), Refusal> {
        let place = self.unit(unit).ok_or(Refusal::Unknown)?.place;
        match place {
            Place::Leaving if !saved => {
                self.edit(unit, |u| u.runnable = true);
                self.list_preempted(unit);
            }
            Place::Asleep | Place::Leaving => {
                self.edit(unit, |u| {
                    u.runnable = true;
                    u.class = Class::None;
                    u.slice_left = Span(0);
                });
                self.enqueue(unit);
                self.find_cpu(now, unit, true, d);
            }
            Place::OnCpu => self.edit(unit, |u| u.runnable = true),
            Place::Queued | Place::Absent => {}
        }
        Ok(())
    }

    fn sleep(&mut self, unit: u16, d: &mut Decision) -> Result<(), Refusal> {
        let u = *self.unit(unit).ok_or(Refusal::Unknown)?;
        self.edit(unit, |u| u.runnable = false);
        match u.place {
            Place::OnCpu => d.poke |= bit(u.cpu),
            Place::Queued | Place::Leaving => self.withdraw(unit),
            Place::Asleep | Place::Absent => {}
        }
        Ok(())
    }

    fn saved(&mut self, now: Time, unit: u16, d: &mut Decision) -> Result<(), Refusal> {
        let u = *self.unit(unit).ok_or(Refusal::Unknown)?;
        if u.place != Place::Leaving {
            return Ok(());
        }
        if u.runnable {
            self.enqueue(unit);
            self.find_cpu(now, unit, false, d);
            self.find_server(now, unit, d);
        } else {
            self.edit(unit, |u| u.place = Place::Asleep);
        }
        Ok(())
    }
}
