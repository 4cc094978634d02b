// SPDX-License-Identifier: MIT OR Apache-2.0
//! Doing a pool's decisions again, from a copy of its block and the records that followed.

use core::mem::offset_of;

use microslice_core::pool::Decision;
use microslice_core::state::{Cpu, Dom, MAX_CPUS, Shared, Unit};
use microslice_core::{Event, Record, Time};

use crate::{Head, MAGIC, layout, pool};

/// Why a copy of a pool is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadState {
    /// Not the size that a pool of its numbers of units and domains has.
    Size,
    /// It does not begin as a pool does.
    Magic,
    /// A byte, at this offset, has a value that it never has.
    Byte(usize),
}

impl core::fmt::Display for BadState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            BadState::Size => f.write_str("it has not the size that its head says"),
            BadState::Magic => f.write_str("it does not begin as a pool's state does"),
            BadState::Byte(at) => write!(f, "byte {at} has a value that it never has"),
        }
    }
}

impl std::error::Error for BadState {}

/// A pool that lives again.
pub struct Replay {
    mem: Vec<u64>,
}

impl Replay {
    /// The pool whose block was copied to `state`.
    ///
    /// # Errors
    /// See [`BadState`]. Links between units are not checked: a forged state may give nonsense, or take for ever.
    pub fn new(state: &[u8]) -> Result<Self, BadState> {
        let word = |at: usize| state.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        let units = word(offset_of!(Head, units)).ok_or(BadState::Size)?;
        let doms = word(offset_of!(Head, doms)).ok_or(BadState::Size)?;
        if state.get(..8) != Some(&MAGIC.to_ne_bytes()) {
            return Err(BadState::Magic);
        }
        let (units_at, doms_at, end) = layout(units, doms).ok_or(BadState::Size)?;
        if state.len() != end {
            return Err(BadState::Size);
        }
        let shared = offset_of!(Head, shared);
        narrow(state, shared, size_of::<Shared>(), 1, &Shared::NARROW)?;
        narrow(state, shared + offset_of!(Shared, cpus), size_of::<Cpu>(), MAX_CPUS, &Cpu::NARROW)?;
        narrow(state, units_at, size_of::<Unit>(), units as usize, &Unit::NARROW)?;
        narrow(state, doms_at, size_of::<Dom>(), doms as usize, &Dom::NARROW)?;
        let words = state.chunks_exact(8).filter_map(|c| c.try_into().ok());
        Ok(Self { mem: words.map(u64::from_ne_bytes).collect() })
    }

    /// Does what a record says; the event and today's decision. `None` if it says nothing that makes sense.
    pub fn step(&mut self, record: &Record) -> Option<(Time, Event, Decision)> {
        let (now, event) = record.event()?;
        // SAFETY: `mem` holds a block that `new` checked: of the size that its head says, 8-byte aligned as a vector of u64, and
        // no byte of it has a value that its type has not. Nobody else has a reference to it.
        let mut pool = unsafe { pool(self.mem.as_mut_ptr().cast()) }?;
        Some((now, event, pool.handle(now, event)))
    }
}

/// Checks the bytes of `n` structures of `size` bytes from `at` on.
fn narrow(state: &[u8], at: usize, size: usize, n: usize, checks: &[(usize, u8)]) -> Result<(), BadState> {
    for start in (0..n).map(|i| at + i * size) {
        for (offset, most) in checks {
            let place = start + offset;
            if state.get(place).is_none_or(|byte| byte > most) {
                return Err(BadState::Byte(place));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use microslice_core::Params;
    use microslice_core::state::Place;

    fn state() -> Vec<u8> {
        let size = crate::ms_rs_size(8, 4);
        let mut mem = vec![0u64; size / 8];
        let at = mem.as_mut_ptr().cast::<u8>();
        // SAFETY: the vector is 8-byte aligned and `size` bytes long.
        assert_eq!(unsafe { crate::ms_rs_init(at, size, 8, 4, &Params::DEFAULT) }, 0);
        mem.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    fn record(event: &Event, d: &Decision) -> Record {
        Record::of(Time(1_000), event, d)
    }

    #[test]
    fn a_copy_decides_as_the_pool_did() {
        let events = [
            Event::CpuUp { cpu: 0 },
            Event::DomAdd { dom: 1 },
            Event::UnitAdd { unit: 5, dom: 1, hard: !0, soft: !0 },
            Event::Wake { unit: 5 },
            Event::Wake { unit: 99 },
        ];
        let (mut first, mut again) = (Replay::new(&state()).unwrap(), Replay::new(&state()).unwrap());
        for event in &events {
            let (.., d) = first.step(&record(event, &Decision::NOTHING)).unwrap();
            let r = record(event, &d);
            let (now, seen, d) = again.step(&r).unwrap();
            assert_eq!((now, &seen), (Time(1_000), event));
            assert!(r.agrees(&d) && !r.agrees(&Decision { poke: d.poke ^ 2, ..d }));
        }
        assert!(again.step(&Record::default()).is_none(), "a record of nothing was taken for an event");
    }

    #[test]
    fn a_forged_or_damaged_state_is_refused() {
        let good = state();
        assert_eq!(Replay::new(&[]).err(), Some(BadState::Size));
        assert_eq!(Replay::new(&good[..good.len() - 8]).err(), Some(BadState::Size));
        assert_eq!(Replay::new(&vec![0; good.len()]).err(), Some(BadState::Magic));
        let (units_at, ..) = layout(8, 4).unwrap();
        let place = units_at + size_of::<Unit>() + offset_of!(Unit, place);
        let mut bad = good.clone();
        bad[place] = Place::Leaving as u8 + 1;
        assert_eq!(Replay::new(&bad).err(), Some(BadState::Byte(place)));
        let mut bad = good;
        bad[offset_of!(Head, units)] = 9;
        assert_eq!(Replay::new(&bad).err(), Some(BadState::Size));
    }
}
