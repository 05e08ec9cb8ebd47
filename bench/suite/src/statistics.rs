//! What is said of a list of samples: [`Summary`].

/// Order statistics of samples, in the unit of the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// The smallest.
    pub min: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// 99th percentile by nearest rank: at least 99 % of the samples are no larger. The largest when there are fewer
    /// than 100.
    pub p99: f64,
    /// How far the middle 80 % spread: 90th percentile minus 10th, both by nearest rank.
    pub spread: f64,
}

impl Summary {
    /// Sorts and summarises. `None` of no samples.
    pub fn of(samples: &mut [f64]) -> Option<Self> {
        samples.sort_unstable_by(f64::total_cmp);
        let min = *samples.first()?;
        let middle = samples.len() / 2;
        let median =
            if samples.len() % 2 == 1 { samples[middle] } else { f64::midpoint(samples[middle - 1], samples[middle]) };
        Some(Self {
            min,
            median,
            p99: percentile(samples, 99),
            spread: percentile(samples, 90) - percentile(samples, 10),
        })
    }

    /// The same in another unit.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            min: self.min * factor,
            median: self.median * factor,
            p99: self.p99 * factor,
            spread: self.spread * factor,
        }
    }
}

/// Nearest rank: the smallest sample that `percent` of all samples do not exceed. `sorted` is not empty.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_samples_have_no_summary() {
        assert_eq!(Summary::of(&mut []), None);
    }

    #[test]
    fn one_sample_is_everything() {
        assert_eq!(Summary::of(&mut [4.0]), Some(Summary { min: 4.0, median: 4.0, p99: 4.0, spread: 0.0 }));
    }

    #[test]
    fn a_hundred_samples_give_their_ranks() {
        let mut samples: alloc::vec::Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let expected = Summary { min: 1.0, median: 50.5, p99: 99.0, spread: 80.0 };
        assert_eq!(Summary::of(&mut samples), Some(expected));
    }

    proptest! {
        #[test]
        fn percentiles_hold_what_they_promise(mut samples in proptest::collection::vec(0.0_f64..1e9, 1..300)) {
            let summary = Summary::of(&mut samples).expect("there is a sample");
            let count = samples.len();
            let at_most = |bound: f64| samples.iter().filter(|sample| **sample <= bound).count();
            prop_assert!(samples.iter().all(|sample| *sample >= summary.min));
            prop_assert!(2 * at_most(summary.median) >= count);
            prop_assert!(100 * at_most(summary.p99) >= 99 * count);
            prop_assert!(summary.min <= summary.median && summary.median <= summary.p99);
            prop_assert!(summary.spread >= 0.0);
        }
    }
}
