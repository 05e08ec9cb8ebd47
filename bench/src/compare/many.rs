//! Many cases at once: which of many p-values still count, the mean of many ratios, percentiles.

/// For each p-value the least rate of false discoveries at which it is a discovery (Benjamini and Hochberg). They come
/// in the order of the p-values.
pub(crate) fn false_discovery_rates(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&one, &other| p_values[one].total_cmp(&p_values[other]));
    let mut rates = vec![1.0; p_values.len()];
    let mut least: f64 = 1.0;
    for (rank, &at) in order.iter().enumerate().rev() {
        least = least.min(p_values[at] * p_values.len() as f64 / (rank + 1) as f64);
        rates[at] = least;
    }
    rates
}

/// The geometric mean; `None` of nothing.
pub(crate) fn geometric_mean(ratios: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) = ratios.into_iter().fold((0.0, 0_u32), |(sum, count), ratio| (sum + ratio.ln(), count + 1));
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

/// What a part of the figures (0 to 1) does not exceed; `None` of nothing.
pub(crate) fn percentile(figures: &[f64], part: f64) -> Option<f64> {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    let at = (figures.len() as f64 * part).ceil() as usize;
    figures.get(at.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_those_of_the_textbook() {
        // Benjamini and Hochberg 1995, their example of 15 comparisons: four are discoveries at 5 %.
        let p_values = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
            0.7590, 1.0,
        ];
        let rates = false_discovery_rates(&p_values);
        assert_eq!(rates.iter().filter(|&&rate| rate <= 0.05).count(), 4);
        assert!((rates[3] - 0.0095 * 15.0 / 4.0).abs() < 1e-12, "{rates:?}");
    }

    #[test]
    fn a_doubling_and_a_halving_are_nothing_in_the_mean() {
        assert_eq!(geometric_mean([]), None);
        let mean = geometric_mean([2.0, 0.5, 1.0]).expect("there are some");
        assert!((mean - 1.0).abs() < 1e-12, "{mean}");
    }

    #[test]
    fn percentiles_are_figures_that_are_there() {
        let figures = [3.0, 1.0, 2.0, 4.0];
        let at = |part| percentile(&figures, part);
        assert_eq!([at(0.0), at(0.5), at(0.75), at(0.95), at(1.0)], [1.0, 2.0, 3.0, 4.0, 4.0].map(Some));
        assert_eq!(percentile(&[], 0.5), None);
    }

    proptest! {
        #[test]
        fn rates_keep_the_order_and_never_fall_below_the_p_values(p_values in prop::collection::vec(0.0..1.0, 1..50)) {
            let rates = false_discovery_rates(&p_values);
            for (one, &p) in p_values.iter().enumerate() {
                prop_assert!(rates[one] >= p - 1e-12 && rates[one] <= 1.0);
                for (other, &larger) in p_values.iter().enumerate() {
                    prop_assert!(p > larger || rates[one] <= rates[other], "{one} {other}");
                }
            }
        }
    }
}
