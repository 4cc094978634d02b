// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several pools side by side: what the pools of one machine (its sockets, say) have to know of each other.
//!
//! A pool never sees another one. Whoever has several of them, each under its own lock, gives each domain the same number and
//! settings in all of them, and each unit to one pool at a time. It then
//! - moves units: [`UnitRemove`](crate::Event::UnitRemove) in one pool, [`UnitAdd`](crate::Event::UnitAdd) in the other, with the lead or lag that
//!   [`Pool::ahead`] says, and [`DomElsewhere`](crate::Event::DomElsewhere) in both, so that a cap stays one cap ([`crate::cap`]);
//! - chooses whom to move from [`Pool::next_waiting`], and whether, from [`Pool::load`];
//! - passes on waits: before a [`Yield`](crate::Event::Yield) in a wait, the other pools get [`Awaited`](crate::Event::Awaited), and help the siblings there
//!   as if one of their own units had yielded. What has become of them comes back with the yield.
//!
//! # Bounds
//! Virtual time is compared within a pool only. A move keeps a unit's distance to the pool's clock to half a millisecond,
//! within the bounds of [`crate::pool`]: a slice of lag, two slices of lead. Between pools, shares are as even as the loads are.

use crate::class::Class;
use crate::policy::Source;
use crate::pool::{Decision, MS, Pool, Refusal};
use crate::state::{NIL, NO_CPU, Place};
use crate::time::Time;

/// What has become of those that a wait is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Siblings {
    /// One at least is being helped.
    pub helped: bool,
    /// One at least waits, and is not.
    pub left: bool,
}

impl Siblings {
    /// There are none, or all of them run.
    pub const NONE: Self = Self { helped: false, left: false };

    /// 1 for helped, 2 for left.
    #[must_use]
    pub const fn to_abi(self) -> u32 {
        self.helped as u32 | (self.left as u32) << 1
    }

    /// The inverse of [`Siblings::to_abi`].
    #[must_use]
    pub const fn from_abi(n: u32) -> Option<Self> {
        if n > 3 { None } else { Some(Self { helped: n & 1 != 0, left: n & 2 != 0 }) }
    }
}

impl Pool<'_> {
    pub(crate) fn awaited(
        &mut self,
        now: Time,
        dom: u16,
        class: Class,
        d: &mut Decision,
    ) -> Result<(), Refusal> {
        let on_micro = self.dom_mut(dom).filter(|x| x.present).ok_or(Refusal::Unknown)?.on_micro;
        let source = Source::of_wait(class).ok_or(Refusal::Range)?;
        let siblings = self.help(now, dom, source, NO_CPU, d);
        if siblings != Siblings::NONE {
            self.sign(source);
        }
        d.kept = siblings.helped || (source == Source::LockWait && on_micro > 0);
        d.left = siblings.left;
        Ok(())
    }

    pub(crate) fn dom_elsewhere(
        &mut self,
        now: Time,
        dom: u16,
        units: u16,
        d: &mut Decision,
    ) -> Result<(), Refusal> {
        self.dom_mut(dom).filter(|x| x.present).ok_or(Refusal::Unknown)?;
        self.reshare(now, dom, d, |x| x.elsewhere = units);
        Ok(())
    }

    /// How far unit `i` is ahead of the pool's clock, in ms of virtual time; negative if it is behind.
    #[must_use]
    pub fn ahead(&self, i: u16) -> i16 {
        let vtime = self.unit(i).map_or(0, |u| u.vtime);
        let ns = vtime.wrapping_sub(self.shared.vclock).cast_signed();
        let ms = ns.saturating_add(if ns < 0 { -MS / 2 } else { MS / 2 }) / MS;
        ms.clamp(i64::from(i16::MIN), i64::from(i16::MAX)) as i16
    }

    /// The weights of all units that run or could run, added up. Who waits at its domain's cap could not.
    #[must_use]
    pub fn load(&self) -> u64 {
        let able = self.units.iter().filter(|u| match u.place {
            Place::Queued => u.mask != 0,
            Place::OnCpu => true,
            Place::Leaving => u.runnable,
            Place::Absent | Place::Asleep => false,
        });
        let weights = able.filter_map(|u| self.doms.get(usize::from(u.dom))).map(|d| u64::from(d.weight));
        weights.fold(0, u64::saturating_add)
    }

    /// The first unit from number `from` on that waits, and that no pCPU was poked for; [`NIL`] if there is none.
    #[must_use]
    pub fn next_waiting(&self, from: u16) -> u16 {
        let units = (0u16..).zip(self.units.iter()).skip(usize::from(from));
        let mut waiting =
            units.filter(|(_, u)| u.place == Place::Queued && u.mask != 0 && u.promised == NO_CPU);
        waiting.next().map_or(NIL, |(i, _)| i)
    }

    /// Whether anybody waits.
    #[must_use]
    pub const fn waits(&self) -> bool {
        self.shared.root != NIL
    }
}
