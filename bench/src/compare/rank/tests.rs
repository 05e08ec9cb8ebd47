use proptest::prelude::*;

use super::*;

/// The definition: over all ways to deal the figures out, how many ranks are at least as far apart.
fn by_brute_force(old: &[f64], new: &[f64]) -> f64 {
    let all: Vec<f64> = old.iter().chain(new).copied().collect();
    // How many pairs a side wins, in halves; ties are one half each.
    let wins = |dealt: u32| {
        let side = |of: bool| all.iter().enumerate().filter(move |(at, _)| (dealt >> at & 1 == 1) == of);
        let score = |one: &f64, other: &f64| 1 + i64::from(one > other) - i64::from(one < other);
        side(true).map(|(_, one)| side(false).map(|(_, other)| score(one, other)).sum::<i64>()).sum::<i64>()
    };
    let middle = (old.len() * new.len()) as i64;
    let seen = (wins((1 << old.len()) - 1) - middle).abs();
    let deals = (0..1_u32 << all.len()).filter(|deal| deal.count_ones() as usize == old.len());
    let (far, count) =
        deals.fold((0, 0), |(far, count), deal| (far + u32::from((wins(deal) - middle).abs() >= seen), count + 1));
    f64::from(far) / f64::from(count)
}

/// Small whole figures, so that there are ties.
fn figures(most: usize) -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec((1_u32..12).prop_map(f64::from), 1..=most)
}

/// Random figures of a skewed distribution: what waits for others does so at times for long.
struct Skewed(fastrand::Rng);

impl Skewed {
    fn seeded(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    fn take(&mut self, count: usize, factor: f64) -> Vec<f64> {
        (0..count).map(|_| factor * (100.0 - 5.0 * (1.0 - self.0.f64()).ln())).collect()
    }
}

proptest! {
    #[test]
    fn counted_out_it_is_the_definition_with_ties_and_all(old in figures(7), new in figures(7)) {
        let (counted, defined) = (p_value(&old, &new), by_brute_force(&old, &new));
        prop_assert!((counted - defined).abs() < 1e-12, "{counted} is not {defined}");
    }

    #[test]
    fn sides_may_be_swapped(old in figures(30), new in figures(30)) {
        prop_assert!((p_value(&old, &new) - p_value(&new, &old)).abs() < 1e-12);
        let (ratio, inverse) = (Ratio::of(&old, &new), Ratio::of(&new, &old));
        if let (Some((low, high)), Some((inverse_low, inverse_high))) = (ratio.interval(), inverse.interval()) {
            prop_assert!((low * inverse_high - 1.0).abs() < 1e-12 && (high * inverse_low - 1.0).abs() < 1e-12);
            prop_assert!(low <= ratio.estimate && ratio.estimate <= high);
        }
    }

    #[test]
    fn the_normal_distribution_comes_close_to_the_counted_one(old in figures(20), new in figures(20)) {
        prop_assume!(old.len() >= 10 && new.len() >= 10);
        let (few, many) = if old.len() <= new.len() { (&old, &new) } else { (&new, &old) };
        let ranks = DoubledRanks::of(few, many);
        let (counted, normal) = (ranks.exact(few.len()), ranks.normal(few.len()));
        // Closest where it matters.
        prop_assert!((counted - normal).abs() < 0.02 + 0.05 * counted, "{counted} and {normal}");
    }
}

#[test]
fn figures_apart_have_the_smallest_p_value() {
    for (old, new) in [(1, 1), (3, 3), (4, 4), (5, 2), (8, 8)] {
        let low: Vec<f64> = (0..old).map(|at| 1.0 + f64::from(at)).collect();
        let high: Vec<f64> = (0..new).map(|at| 100.0 + f64::from(at)).collect();
        let smallest = smallest_p_value(low.len(), high.len());
        assert!((p_value(&low, &high) - smallest).abs() < 1e-12, "{old} and {new}");
    }
    assert!((smallest_p_value(4, 4) - 2.0 / 70.0).abs() < 1e-12);
}

#[test]
fn equal_figures_and_no_figures_are_no_difference() {
    let p_values = [p_value(&[1.0; 4], &[1.0; 5]), p_value(&[1.0; 40], &[1.0; 50]), p_value(&[], &[1.0])];
    assert!(p_values.iter().all(|&p| p >= 1.0), "{p_values:?}");
}

#[test]
fn the_interval_of_a_textbook() {
    // Pairs left out on either side at 95 %, as tables of the statistic have them (for 20 and 20: 127).
    let table = [(4, 4, 0), (5, 5, 2), (6, 6, 5), (8, 8, 13), (10, 10, 23), (15, 15, 64), (20, 20, 126)];
    for (old, new, outside) in table {
        assert_eq!(ratios_outside(old, new), Some(outside), "{old} and {new}");
    }
    assert_eq!(ratios_outside(3, 3), None);
}

#[test]
fn of_figures_alike_no_more_seem_apart_than_the_level_says() {
    for (seed, old, new) in [(1, 4, 4), (2, 8, 8), (3, 7, 5), (4, 30, 30)] {
        let mut random = Skewed::seeded(seed);
        let rounds = 1000;
        let p_values: Vec<f64> = (0..rounds).map(|_| p_value(&random.take(old, 1.0), &random.take(new, 1.0))).collect();
        for level in [0.01, 0.05, 0.2, 0.5] {
            let below = p_values.iter().filter(|&&p| p <= level).count() as f64 / f64::from(rounds);
            let deviation = (level * (1.0 - level) / f64::from(rounds)).sqrt();
            assert!(below <= level + 3.0 * deviation, "{old} and {new}: {below} at {level}");
        }
        let mean = p_values.iter().sum::<f64>() / f64::from(rounds);
        assert!((0.45..0.62).contains(&mean), "{old} and {new}: p-values are {mean} on the mean");
    }
}

#[test]
fn intervals_hold_the_true_ratio_and_a_difference_is_found() {
    let truth = 1.05;
    for (seed, old, new) in [(5, 5, 5), (6, 8, 8), (7, 25, 30)] {
        let mut random = Skewed::seeded(seed);
        let rounds = 1000;
        let (mut held, mut found) = (0, 0);
        for _ in 0..rounds {
            let (old, new) = (random.take(old, 1.0), random.take(new, truth));
            let (low, high) = Ratio::of(&old, &new).interval().expect("there are enough");
            held += u32::from((low..=high).contains(&truth));
            found += u32::from(p_value(&old, &new) <= 0.05);
        }
        assert!(held >= 930, "{old} and {new}: {held} of {rounds} intervals hold the truth");
        assert!(old < 25 || found >= 900, "{old} and {new}: {found} of {rounds} found");
    }
}
