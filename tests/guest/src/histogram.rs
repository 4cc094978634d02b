// SPDX-License-Identifier: GPL-3.0-only
//! A log-linear latency histogram: exact count, sum and extremes, quantiles within 1/64 (1.6 %).
//!
//! Values below 64 ns have a bucket each; above, every power of two is cut into 64 equal buckets.
//! The dense form is a fixed array, so recording allocates nothing; the wire form lists only the
//! buckets that are in use, and histograms of several runs merge without loss.

use serde::{Deserialize, Serialize};

const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;
const BUCKETS: usize = ((64 - SUB_BITS as usize) + 1) << SUB_BITS;

/// Bucket of a value in nanoseconds.
fn bucket(value: u64) -> usize {
    if value < SUB {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros();
    let shift = exponent - SUB_BITS;
    let top = (value >> shift) - SUB;
    (((shift as u64 + 1) << SUB_BITS) + top) as usize
}

/// The middle of a bucket, in nanoseconds.
fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUB {
        return bucket;
    }
    let shift = (bucket >> SUB_BITS) - 1;
    let low = (SUB + (bucket & (SUB - 1))) << shift;
    low + ((1u64 << shift) >> 1)
}

/// Latencies in nanoseconds, dense, for recording.
pub struct Histogram {
    counts: Vec<u64>,
    sum: u64,
    min: u64,
    max: u64,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], sum: 0, min: u64::MAX, max: 0, count: 0 }
    }
}

impl Histogram {
    /// Adds one sample of `value` nanoseconds.
    pub fn record(&mut self, value: u64) {
        if let Some(slot) = self.counts.get_mut(bucket(value)) {
            *slot += 1;
        }
        self.sum = self.sum.saturating_add(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.count += 1;
    }

    /// Adds every sample of `other`.
    pub fn merge(&mut self, other: &Histogram) {
        self.merge_wire(&other.wire());
    }

    /// Adds every sample of a wire form. Buckets that do not exist are ignored.
    pub fn merge_wire(&mut self, wire: &Wire) {
        for &(index, count) in &wire.buckets {
            if let Some(slot) = self.counts.get_mut(index as usize) {
                *slot += count;
            }
        }
        if wire.count > 0 {
            self.sum = self.sum.saturating_add(wire.sum_ns);
            self.min = self.min.min(wire.min_ns);
            self.max = self.max.max(wire.max_ns);
            self.count += wire.count;
        }
    }

    /// The form that crosses the console.
    pub fn wire(&self) -> Wire {
        let used = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        Wire {
            count: self.count,
            sum_ns: self.sum,
            min_ns: if self.count == 0 { 0 } else { self.min },
            max_ns: self.max,
            buckets: used.map(|(index, count)| (index as u32, *count)).collect(),
        }
    }
}

/// A histogram as it is printed and stored: only buckets in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// Number of samples.
    pub count: u64,
    /// Sum of all samples, exact.
    pub sum_ns: u64,
    /// Smallest sample, exact; 0 without samples.
    pub min_ns: u64,
    /// Largest sample, exact.
    pub max_ns: u64,
    /// (bucket, samples in it), ascending.
    pub buckets: Vec<(u32, u64)>,
}

impl Wire {
    /// Mean in nanoseconds, exact; `None` without samples.
    pub fn mean_ns(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_ns as f64 / self.count as f64)
    }

    /// The smallest value with at least `q` (0..=1) of the samples at or below it, within 1/64.
    pub fn quantile_ns(&self, q: f64) -> Option<u64> {
        let wanted = ((self.count as f64 * q).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for &(index, count) in &self.buckets {
            seen += count;
            if seen >= wanted {
                return Some(middle(index as usize).clamp(self.min_ns, self.max_ns));
            }
        }
        None
    }

    /// All samples of `parts` in one.
    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Wire>) -> Wire {
        let mut all = Histogram::default();
        for part in parts {
            all.merge_wire(part);
        }
        all.wire()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_grow_with_the_value_and_hold_it_within_a_64th() {
        let mut last = 0;
        for value in (0..2_000).chain((1..40).map(|shift| (1u64 << shift) + 12_345)).chain([u64::MAX]) {
            let index = bucket(value);
            assert!(index < BUCKETS);
            if value < 2_000 {
                assert!(index >= last, "bucket order at {value}");
                last = index;
            }
            let error = middle(index).abs_diff(value);
            assert!(error <= value / 64, "{value}: middle {} is off by {error}", middle(index));
        }
    }

    #[test]
    fn quantiles_mean_and_extremes_of_known_samples() {
        let mut histogram = Histogram::default();
        for value in 1..=1_000u64 {
            histogram.record(value * 1_000);
        }
        let wire = histogram.wire();
        assert_eq!(wire.mean_ns(), Some(500_500.0));
        assert_eq!((wire.min_ns, wire.max_ns), (1_000, 1_000_000));
        for (q, exact) in [(0.5, 500_000u64), (0.99, 990_000), (1.0, 1_000_000)] {
            let got = wire.quantile_ns(q).unwrap();
            assert!(got.abs_diff(exact) <= exact / 60, "q{q}: {got} for {exact}");
        }
        assert_eq!(Wire::default().quantile_ns(0.5), None);
    }

    #[test]
    fn merging_equals_recording_together() {
        let (mut left, mut right, mut both) =
            (Histogram::default(), Histogram::default(), Histogram::default());
        for value in 0..500u64 {
            let value = value * value * 37;
            if value % 3 == 0 {
                left.record(value)
            } else {
                right.record(value)
            }
            both.record(value);
        }
        assert_eq!(Wire::merged([&left.wire(), &right.wire()]), both.wire());
        left.merge(&right);
        assert_eq!(left.wire(), both.wire());
    }
}
