//! [`Histogram`]: how often calls took how long.
//!
//! Log-linear: 32 buckets to each power of two, so a value is known to 3 %, whatever its size, and counting one is a
//! shift and an addition. Used by [`Stamps`](crate::stamped), which counts in one for each CPU and kind of call.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bits of a value that are kept: 32 buckets to each power of two.
const KEPT_BITS: u32 = 5;

/// Values below are told apart exactly.
const EXACT: u64 = 1 << KEPT_BITS;

/// Powers of two there are buckets for; what is larger counts as the largest.
const OCTAVES: usize = 40;

const BUCKETS: usize = (OCTAVES + 1) << KEPT_BITS;

/// Counts of values. One CPU counts, others read when it has finished: the counters are atomic for that alone.
pub(crate) struct Counts {
    buckets: Box<[AtomicU64]>,
    worst: AtomicU64,
}

impl Counts {
    pub(crate) fn new() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), worst: AtomicU64::new(0) }
    }

    /// Counts a value. Only for the CPU the counts are of.
    #[inline]
    pub(crate) fn add(&self, value: u64) {
        let bucket = &self.buckets[bucket_of(value)];
        // Relaxed, and no locked instruction: nobody else writes, and who reads waits for this CPU's thread to end.
        bucket.store(bucket.load(Relaxed) + 1, Relaxed);
        if value > self.worst.load(Relaxed) {
            self.worst.store(value, Relaxed);
        }
    }
}

/// Values counted, by ranges: the sum of some [`Counts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64]>,
    worst: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: (0..BUCKETS).map(|_| 0).collect(), worst: 0 }
    }
}

impl Histogram {
    /// Adds what a CPU counted.
    pub(crate) fn add(&mut self, counts: &Counts) {
        for (sum, count) in self.counts.iter_mut().zip(&counts.buckets) {
            *sum += count.load(Relaxed);
        }
        self.worst = self.worst.max(counts.worst.load(Relaxed));
    }

    /// Of values counted elsewhere, in buckets like these: the largest value of each and how many it has, and the
    /// largest value of all.
    pub fn of_buckets(buckets: impl IntoIterator<Item = (u64, u64)>, worst: u64) -> Self {
        let mut histogram = Self { worst, ..Self::default() };
        for (value, count) in buckets {
            histogram.counts[bucket_of(value)] += count;
        }
        histogram
    }

    /// The values of both.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        let counts = self.counts.iter().zip(&other.counts).map(|(one, other)| one + other).collect();
        Self { counts, worst: self.worst.max(other.worst) }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The largest value.
    pub fn worst(&self) -> u64 {
        self.worst
    }

    /// What `parts` of `whole` values do not exceed, by nearest rank; at most 3 % too much. 0 when there are none.
    pub fn percentile(&self, parts: u64, whole: u64) -> u64 {
        let rank = (u128::from(self.count()) * u128::from(parts)).div_ceil(u128::from(whole)).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return most_of(bucket).min(self.worst);
            }
        }
        0
    }

    /// The largest value of each bucket that has any, and how many it has.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(bucket, count)| (most_of(bucket), *count))
    }
}

fn bucket_of(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    let shift = value.ilog2() - KEPT_BITS;
    let bucket = ((shift as usize + 1) << KEPT_BITS) + ((value >> shift) & (EXACT - 1)) as usize;
    bucket.min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn most_of(bucket: usize) -> u64 {
    let (octave, place) = (bucket >> KEPT_BITS, bucket as u64 & (EXACT - 1));
    if octave == 0 {
        return place;
    }
    let shift = octave - 1;
    ((EXACT + place + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn histogram(values: &[u64]) -> Histogram {
        let counts = Counts::new();
        for value in values {
            counts.add(*value);
        }
        let mut histogram = Histogram::default();
        histogram.add(&counts);
        histogram
    }

    #[test]
    fn of_nothing_all_is_0() {
        let histogram = histogram(&[]);
        assert_eq!((histogram.count(), histogram.percentile(50, 100), histogram.worst()), (0, 0, 0));
    }

    proptest! {
        #[test]
        fn a_bucket_holds_its_values_to_3_percent(value in 0_u64..1 << 44) {
            let most = most_of(bucket_of(value));
            prop_assert!(most >= value && most - value <= value / 32, "{value} is in a bucket up to {most}");
            prop_assert!(bucket_of(most) == bucket_of(value) && bucket_of(most + 1) == bucket_of(value) + 1);
        }

        #[test]
        fn percentiles_are_those_of_the_sorted_values_to_3_percent(
            mut values in proptest::collection::vec(0_u64..1 << 30, 1..200), parts in 1_u64..=10_000
        ) {
            let histogram = histogram(&values);
            values.sort_unstable();
            let rank = (values.len() as u64 * parts).div_ceil(10_000).max(1) as usize;
            let (exact, found) = (values[rank - 1], histogram.percentile(parts, 10_000));
            prop_assert!(found >= exact && found - exact <= exact / 32, "{found} for {exact}");
            prop_assert_eq!(histogram.percentile(10_000, 10_000), histogram.worst());
        }

        #[test]
        fn buckets_have_every_value(values in proptest::collection::vec(any::<u64>(), 0..100)) {
            let buckets: Vec<(u64, u64)> = histogram(&values).buckets().collect();
            prop_assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), values.len() as u64);
            prop_assert!(buckets.is_sorted_by(|one, next| one.0 < next.0));
        }

        #[test]
        fn a_histogram_is_made_again_of_its_buckets(values in proptest::collection::vec(any::<u64>(), 0..100)) {
            let histogram = histogram(&values);
            prop_assert_eq!(Histogram::of_buckets(histogram.buckets(), histogram.worst()), histogram);
        }
    }
}
