// SPDX-License-Identifier: GPL-3.0-only
//! Countable user-mode work: the same loop for spinners and hogs, so their rates compare.
//!
//! No PAUSE and no system call inside: in the emulated machine both would end a CPU's turn.

use crate::sys;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Loop turns of one work unit.
const TURNS: u64 = 1_000;

/// One work unit: a dependent chain of arithmetic of constant length.
#[inline(never)]
pub fn unit(state: u64) -> u64 {
    let mut value = state | 1;
    for _ in 0..TURNS {
        value = black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
    value
}

/// A counter with a cache line of its own. Only its owner adds.
#[repr(align(128))]
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one; the owner only.
    pub fn bump(&self) {
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }

    /// Current value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Sum of all counters.
pub fn total(counters: &[Counter]) -> u64 {
    counters.iter().map(Counter::get).sum()
}

/// Work units between two looks at the clock while calibrating: a few milliseconds.
const BATCH: u64 = 100;

/// Work units a millisecond, batch by batch. The clock is read once a batch, since a workload reads it about
/// as seldom.
pub fn calibrate() -> Vec<f64> {
    let mut state = 1;
    let mut batches = Vec::new();
    for _ in 0..16 {
        let start = sys::monotonic_ns();
        for _ in 0..BATCH {
            state = unit(state);
        }
        batches.push(BATCH as f64 * 1e6 / (sys::monotonic_ns() - start).max(1) as f64);
    }
    black_box(state);
    batches
}

/// The middle of several values; 0 without values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// xorshift64*: small, seeded, the same everywhere.
pub struct Random(u64);

impl Random {
    /// A generator whose stream is fixed by `seed`; neighbouring seeds give unrelated streams.
    pub fn new(seed: u64) -> Random {
        let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Random((mixed ^ (mixed >> 31)) | 1)
    }

    /// A number within both bounds.
    pub fn within(&mut self, (low, high): (u64, u64)) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16;
        low + value % (high - low + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_stays_within_its_bounds_and_repeats() {
        let (mut one, mut two) = (Random::new(5), Random::new(5));
        for _ in 0..1_000 {
            let value = one.within((10, 70));
            assert!((10..=70).contains(&value));
            assert_eq!(value, two.within((10, 70)));
        }
        assert_ne!(Random::new(1).within((0, u64::MAX >> 20)), Random::new(2).within((0, u64::MAX >> 20)));
    }
}
