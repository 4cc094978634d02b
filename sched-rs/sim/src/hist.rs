// SPDX-License-Identifier: MIT OR Apache-2.0
//! A distribution of times in bounded memory: 16 buckets an octave, so quantiles are exact to about 6 %.

use crate::agenda::Ns;

const SUB: u32 = 4;

/// Counts by size, with exact count, sum and extremes.
#[derive(Clone, Debug)]
pub struct Hist {
    counts: Vec<u32>,
    /// Samples.
    pub count: u64,
    /// Their sum.
    pub sum: u128,
    /// The largest.
    pub max: Ns,
    /// The smallest.
    pub min: Ns,
}

impl Default for Hist {
    fn default() -> Self {
        Self { counts: vec![0; 64 << SUB], count: 0, sum: 0, max: 0, min: Ns::MAX }
    }
}

fn bucket(v: Ns) -> usize {
    let v = v.max(1 << SUB);
    let octave = 63 - v.leading_zeros();
    (((octave as usize) << SUB) | ((v >> (octave - SUB)) as usize & ((1 << SUB) - 1))).min((64 << SUB) - 1)
}

impl Hist {
    /// Adds a sample.
    pub fn add(&mut self, v: Ns) {
        self.counts[bucket(v)] += 1;
        self.count += 1;
        self.sum += u128::from(v);
        self.max = self.max.max(v);
        self.min = self.min.min(v);
    }

    /// Mean; `None` without samples.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// The value that a share `q` of the samples does not exceed; `None` without samples.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let want = (q * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (i, n) in self.counts.iter().enumerate() {
            seen += u64::from(*n);
            if seen >= want {
                let (octave, sub) = (i >> SUB, i & ((1 << SUB) - 1));
                let value =
                    (((1 << SUB) + sub) as f64 + 0.5) * (1u64 << octave.saturating_sub(SUB as usize)) as f64;
                return Some(value.min(self.max as f64).max(self.min as f64));
            }
        }
        Some(self.max as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket() {
        let mut h = Hist::default();
        (1..=100_000u64).for_each(|v| h.add(v));
        for q in [0.01, 0.5, 0.99] {
            let got = h.quantile(q).unwrap();
            assert!((got / (q * 100_000.0) - 1.0).abs() < 0.07, "{q}: {got}");
        }
        assert_eq!(h.mean(), Some(50_000.5));
    }
}
