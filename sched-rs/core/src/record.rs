// SPDX-License-Identifier: MIT OR Apache-2.0
//! One event and what was decided about it, in 48 bytes: enough to do it again and see whether the answer is the same.
//!
//! A trace is a copy of a pool and the records of all events since. Layout of the hypercall ABI, little-endian.

use crate::class::Class;
use crate::groups::Siblings;
use crate::policy::Policy;
use crate::pool::{Decision, Event, Offer, Refusal};
use crate::state::Params;
use crate::time::{Span, Time};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// When, ns.
    pub now: u64,
    /// Hard affinity; or slice, and in the upper half micro slice, in us; or what [`Record::rip`] gives.
    pub x: u64,
    /// Soft affinity; or rate limit, and in the upper half grace, in us.
    pub y: u64,
    /// Weight; row of actions; number of micro cores, least, most and whether reserved, one byte each; domain of a new unit,
    /// and in the upper half how far it is ahead; number of a pCPU on the host; units elsewhere.
    pub a: u32,
    /// Cap; sizing mode; or what [`Record::vcpu`] gives.
    pub b: u32,
    /// [`digest`] of the decision.
    pub digest: u32,
    /// What it was about: pCPU, domain or unit.
    pub id: u16,
    /// The unit to run.
    pub run: u16,
    /// Which event; the numbers are those of `MS_EV_*`.
    pub kind: u8,
    /// The [`Class`].
    pub class: u8,
    /// The [`Offer`], and 4 if the unit that was current is runnable. Or of siblings in other pools: 1 for helped, 2 for left.
    /// Or 1 if who wakes is saved.
    pub flags: u8,
    /// Zero.
    pub pad: u8,
    /// Low half of the count of records before this one.
    pub seq: u32,
}

const _: () = assert!(size_of::<Record>() == 48);

/// The part of a decision that a record keeps besides [`Decision::run`]: equal decisions have equal digests, others nearly
/// never.
#[must_use]
pub const fn digest(d: &Decision) -> u32 {
    let refused = match d.refused() {
        None => 0,
        Some(Refusal::Unknown) => 1,
        Some(Refusal::Range) => 2,
        Some(Refusal::Busy) => 3,
    };
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    h = mix(h, d.poke);
    h = mix(h, d.slice.0);
    h = mix(h, d.timer.0);
    h = mix(h, refused | (d.kept as u64) << 2 | (d.run as u64) << 3 | (d.left as u64) << 19);
    (h ^ (h >> 32)) as u32
}

const fn mix(h: u64, word: u64) -> u64 {
    let h = (h ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^ (h >> 29)
}

/// Nanoseconds of a setting, which came as microseconds.
const fn us(span: Span) -> u64 {
    span.0 / 1_000
}

impl Record {
    /// The record of `event`, at `now`, and `d`.
    #[must_use]
    pub fn of(now: Time, event: &Event, d: &Decision) -> Self {
        let mut r = Self { now: now.0, digest: digest(d), run: d.run, ..Self::default() };
        match *event {
            Event::CpuUp { cpu, number } => (r.kind, r.id, r.a) = (1, u16::from(cpu), u32::from(number)),
            Event::CpuDown { cpu } => (r.kind, r.id) = (2, u16::from(cpu)),
            Event::DomAdd { dom } => (r.kind, r.id) = (3, dom),
            Event::DomRemove { dom } => (r.kind, r.id) = (4, dom),
            Event::DomSet { dom, weight, cap } => (r.kind, r.id, r.a, r.b) = (5, dom, weight, cap),
            Event::UnitAdd { unit, dom, hard, soft, ahead } => {
                r.a = u32::from(dom) | u32::from(ahead.cast_unsigned()) << 16;
                (r.kind, r.id, r.x, r.y) = (6, unit, hard, soft);
            }
            Event::UnitRemove { unit } => (r.kind, r.id) = (7, unit),
            Event::Affinity { unit, hard, soft } => (r.kind, r.id, r.x, r.y) = (8, unit, hard, soft),
            Event::Wake { unit, saved } => (r.kind, r.id, r.flags) = (9, unit, saved as u8),
            Event::Sleep { unit } => (r.kind, r.id) = (10, unit),
            Event::Yield { unit, class, far } => {
                (r.kind, r.id, r.class, r.flags) = (11, unit, class as u8, far.to_abi() as u8);
            }
            Event::Kick { unit } => (r.kind, r.id) = (12, unit),
            Event::Schedule { cpu, offer, runnable, class } => {
                let offer = match offer {
                    Offer::Run => 0,
                    Offer::IdleOnce => 1,
                    Offer::Offline => 2,
                };
                (r.kind, r.id, r.class) = (13, u16::from(cpu), class as u8);
                r.flags = offer | if runnable { 4 } else { 0 };
            }
            Event::Saved { unit } => (r.kind, r.id) = (14, unit),
            Event::Timer => r.kind = 15,
            Event::Set { params: p } => {
                r.kind = 16;
                r.x = us(p.slice) | us(p.micro_slice) << 32;
                r.y = us(p.ratelimit) | us(p.grace) << 32;
                let byte = |n: u32| if n < 0xff { n } else { 0xff };
                r.a = byte(p.nr_micro)
                    | byte(p.min_micro) << 8
                    | byte(p.max_micro) << 16
                    | byte(p.reserve) << 24;
                r.b = p.sizing;
            }
            Event::DomPolicy { dom, policy } => (r.kind, r.id, r.a) = (17, dom, policy.to_abi()),
            Event::Awaited { dom, class } => (r.kind, r.id, r.class) = (18, dom, class as u8),
            Event::DomElsewhere { dom, units } => (r.kind, r.id, r.a) = (19, dom, u32::from(units)),
        }
        r
    }

    /// When, and the event. `None` if the record is none that [`Record::of`] makes.
    #[must_use]
    pub fn event(&self) -> Option<(Time, Event)> {
        let (id, cpu) = (self.id, u8::try_from(self.id).unwrap_or(u8::MAX));
        let class = Class::from_abi(u32::from(self.class))?;
        let event = match self.kind {
            1 => Event::CpuUp { cpu, number: u16::try_from(self.a).ok()? },
            2 => Event::CpuDown { cpu },
            3 => Event::DomAdd { dom: id },
            4 => Event::DomRemove { dom: id },
            5 => Event::DomSet { dom: id, weight: self.a, cap: self.b },
            6 => {
                let (dom, ahead) = (self.a as u16, ((self.a >> 16) as u16).cast_signed());
                Event::UnitAdd { unit: id, dom, hard: self.x, soft: self.y, ahead }
            }
            7 => Event::UnitRemove { unit: id },
            8 => Event::Affinity { unit: id, hard: self.x, soft: self.y },
            9 => Event::Wake { unit: id, saved: self.flags == 1 },
            10 => Event::Sleep { unit: id },
            11 => Event::Yield { unit: id, class, far: Siblings::from_abi(u32::from(self.flags))? },
            12 => Event::Kick { unit: id },
            13 => {
                let offer = match self.flags & 3 {
                    0 => Offer::Run,
                    1 => Offer::IdleOnce,
                    _ => Offer::Offline,
                };
                Event::Schedule { cpu, offer, runnable: self.flags & 4 != 0, class }
            }
            14 => Event::Saved { unit: id },
            15 => Event::Timer,
            16 => Event::Set { params: self.params() },
            17 => Event::DomPolicy { dom: id, policy: Policy::from_abi(self.a)? },
            18 => Event::Awaited { dom: id, class },
            19 => Event::DomElsewhere { dom: id, units: u16::try_from(self.a).ok()? },
            _ => return None,
        };
        Some((Time(self.now), event))
    }

    /// The unit that the record is about, or that is to run, with its domain and vCPU. Xen adds that for those who read; no
    /// decision depends on it.
    #[must_use]
    pub const fn vcpu(&self) -> Option<(u16, (u16, u16))> {
        const KNOWN: u32 = 1 << 31;
        let unit = match self.kind {
            13 => self.run,
            6..=12 | 14 => self.id,
            _ => return None,
        };
        if self.b & KNOWN == 0 {
            return None;
        }
        Some((unit, (((self.b & !KNOWN) >> 16) as u16, self.b as u16)))
    }

    /// Where a yielder, or a unit that was current and is runnable, was in its guest's kernel; 0 if it was not there, or of
    /// other events. For those who read, too.
    #[must_use]
    pub const fn rip(&self) -> u64 {
        if matches!(self.kind, 11 | 13) { self.x } else { 0 }
    }

    fn params(&self) -> Params {
        let ns = |us: u64| Span((us & 0xffff_ffff).saturating_mul(1_000));
        let byte = |shift: u32| self.a.wrapping_shr(shift) & 0xff;
        Params {
            slice: ns(self.x),
            micro_slice: ns(self.x >> 32),
            ratelimit: ns(self.y),
            grace: ns(self.y >> 32),
            nr_micro: byte(0),
            min_micro: byte(8),
            max_micro: byte(16),
            reserve: byte(24),
            sizing: self.b,
            pad: 0,
        }
    }

    /// The record as a file has it: [`Record`] in memory, little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 48] {
        let mut out = [0; 48];
        let wide = [self.now, self.x, self.y].into_iter().flat_map(u64::to_le_bytes);
        let words = [self.a, self.b, self.digest].into_iter().flat_map(u32::to_le_bytes);
        let halves = [self.id, self.run].into_iter().flat_map(u16::to_le_bytes);
        let bytes = [self.kind, self.class, self.flags, self.pad];
        let all = wide.chain(words).chain(halves).chain(bytes).chain(self.seq.to_le_bytes());
        out.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        out
    }

    /// The inverse of [`Record::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 48]) -> Self {
        let mut rest = bytes.iter().copied();
        let mut take =
            |n: usize| (0..n).fold(0u64, |v, i| v | u64::from(rest.next().unwrap_or(0)) << (i * 8));
        Self {
            now: take(8),
            x: take(8),
            y: take(8),
            a: take(4) as u32,
            b: take(4) as u32,
            digest: take(4) as u32,
            id: take(2) as u16,
            run: take(2) as u16,
            kind: take(1) as u8,
            class: take(1) as u8,
            flags: take(1) as u8,
            pad: take(1) as u8,
            seq: take(4) as u32,
        }
    }

    /// Whether `d` is what was decided then.
    #[must_use]
    pub fn agrees(&self, d: &Decision) -> bool {
        self.run == d.run && self.digest == digest(d)
    }
}
