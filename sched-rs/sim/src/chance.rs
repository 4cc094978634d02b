// SPDX-License-Identifier: MIT OR Apache-2.0
//! Seeded chance. Equal seeds give equal numbers on any host: integer generator, logarithm in plain Rust.

use crate::agenda::Ns;

/// Quantiles of the exponential distribution with mean 1, at the middles of this many equal steps.
const STEPS: usize = 4096;

/// A generator with a table of exponential quantiles.
#[derive(Clone, Debug)]
pub struct Chance {
    rng: fastrand::Rng,
    exponential: Vec<f64>,
}

impl Chance {
    /// A generator that `seed` determines.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let exponential = (0..STEPS).map(|i| -libm::log(1.0 - (i as f64 + 0.5) / STEPS as f64)).collect();
        Self { rng: fastrand::Rng::with_seed(seed ^ 0x6d69_6372_6f73), exponential }
    }

    /// True in `p` of 2^32 cases.
    #[inline]
    pub fn hit(&mut self, p: u32) -> bool {
        p == u32::MAX || self.rng.u32(..) < p
    }

    /// Exponentially distributed with this mean, at most nine times it.
    #[inline]
    pub fn exponential(&mut self, mean: Ns) -> Ns {
        (self.exponential[self.rng.usize(..STEPS)] * mean as f64) as Ns
    }

    /// Evenly distributed within `share` of the mean on either side; `None`: exponentially.
    #[inline]
    pub fn length(&mut self, mean: Ns, share: Option<f32>) -> Ns {
        match share {
            None => self.exponential(mean),
            Some(s) => (mean as f64 * (1.0 + f64::from(s) * (2.0 * self.rng.f64() - 1.0))) as Ns,
        }
    }

    /// Below `n`; 0 if `n` is 0.
    #[inline]
    pub fn below(&mut self, n: usize) -> usize {
        if n < 2 { 0 } else { self.rng.usize(..n) }
    }

    /// Puts a list into random order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        self.rng.shuffle(list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_has_its_mean() {
        let mut c = Chance::new(1);
        let sum: u64 = (0..200_000).map(|_| c.exponential(1_000)).sum();
        assert!((sum as f64 / 200_000.0 - 1_000.0).abs() < 15.0, "{sum}");
    }
}
