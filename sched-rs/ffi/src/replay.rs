// SPDX-License-Identifier: MIT OR Apache-2.0
//! Doing a pool's decisions again, from a copy of its block and the records that followed.

use core::mem::offset_of;

use microslice_core::pool::{Decision, Pool};
use microslice_core::state::{Cpu, Dom, MAX_CPUS, NIL, Place, Shared, Unit};
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
    /// Its queue is no tree of all units that wait.
    Queue,
}

impl core::fmt::Display for BadState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            BadState::Size => f.write_str("it has not the size that its head says"),
            BadState::Magic => f.write_str("it does not begin as a pool's state does"),
            BadState::Byte(at) => write!(f, "byte {at} has a value that it never has"),
            BadState::Queue => f.write_str("its queue is not a tree of all units that wait"),
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
    /// See [`BadState`]. A forged state that passes may give nonsense, in bounded time.
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
        let mut replay = Self { mem: words.map(u64::from_ne_bytes).collect() };
        let whole = replay
            .pool()
            .is_some_and(|p| tree(&p) == Some(p.units.iter().filter(|u| u.place == Place::Queued).count()));
        if whole { Ok(replay) } else { Err(BadState::Queue) }
    }

    fn pool(&mut self) -> Option<Pool<'_>> {
        // SAFETY: `mem` holds a block that `new` checked: of the size that its head says, 8-byte aligned as a vector of u64, and
        // no byte of it has a value that its type has not. Nobody else has a reference to it.
        unsafe { pool(self.mem.as_mut_ptr().cast()) }
    }

    /// Looks at the pool as it is. `None` never, for a state that [`Replay::new`] took.
    pub fn look<R>(&mut self, look: impl FnOnce(&Pool<'_>) -> R) -> Option<R> {
        self.pool().map(|pool| look(&pool))
    }

    /// Does what a record says; the event and today's decision. `None` if it says nothing that makes sense.
    pub fn step(&mut self, record: &Record) -> Option<(Time, Event, Decision)> {
        let (now, event) = record.event()?;
        let mut d = Decision::NOTHING;
        self.pool()?.handle(now, event, &mut d);
        Some((now, event, d))
    }
}

/// How many units the queue has, if each says that it waits there and has one parent. Walks of the core along other links
/// are bounded; this one must end by itself.
fn tree(pool: &Pool<'_>) -> Option<usize> {
    let (mut n, mut todo) = (0, vec![(NIL, pool.shared.root)]);
    while let Some((up, at)) = todo.pop() {
        if at == NIL {
            continue;
        }
        let u = pool.unit(at).filter(|u| u.up == up && u.place == Place::Queued)?;
        if u.left == u.right && u.left != NIL {
            return None;
        }
        n += 1;
        todo.extend([(at, u.left), (at, u.right)]);
    }
    Some(n)
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
            Event::CpuUp { cpu: 0, number: 70 },
            Event::DomAdd { dom: 1 },
            Event::UnitAdd { unit: 5, dom: 1, hard: !0, soft: !0, ahead: 0 },
            Event::Wake { unit: 5, saved: true },
            Event::Wake { unit: 99, saved: false },
        ];
        let (mut first, mut again) = (Replay::new(&state()).unwrap(), Replay::new(&state()).unwrap());
        for event in &events {
            let (.., d) = first.step(&record(event, &Decision::NOTHING)).unwrap();
            let r = record(event, &d);
            let (now, seen, d) = again.step(&r).unwrap();
            assert_eq!((now, &seen), (Time(1_000), event));
            assert!(r.agrees(&d) && !r.agrees(&Decision { poke: d.poke ^ 2, ..d }));
        }
        assert_eq!(again.look(|p| p.shared.cpus[0].number), Some(70), "the pCPU has lost its number");
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
        // Unit 1 as its own parent and child in the queue would never end.
        let put = |bytes: &mut Vec<u8>, at: usize, value: u16| {
            bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes())
        };
        let unit = |field: usize| units_at + size_of::<Unit>() + field;
        let shared = |field: usize| offset_of!(Head, shared) + field;
        let mut bad = good.clone();
        bad[unit(offset_of!(Unit, place))] = Place::Queued as u8;
        put(&mut bad, shared(offset_of!(Shared, root)), 1);
        assert!(Replay::new(&bad).is_ok(), "a queue of one unit");
        put(&mut bad, unit(offset_of!(Unit, left)), 1);
        assert_eq!(Replay::new(&bad).err(), Some(BadState::Queue));
        put(&mut bad, unit(offset_of!(Unit, up)), 1);
        assert_eq!(Replay::new(&bad).err(), Some(BadState::Queue));
        put(&mut bad, shared(offset_of!(Shared, root)), NIL);
        assert_eq!(Replay::new(&bad).err(), Some(BadState::Queue), "in the queue, and not in it");
        let mut bad = good;
        bad[offset_of!(Head, units)] = 9;
        assert_eq!(Replay::new(&bad).err(), Some(BadState::Size));
    }
}
