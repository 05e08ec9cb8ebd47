//! Mann and Whitney's rank test, and the shift that Hodges and Lehmann estimate from the same ranks.
//!
//! Used by [`judge`](super::judge). Nothing is assumed of how figures are distributed, only that those of a side are
//! independent of each other; which figures are is the caller's business. Up to [`EXACT`] figures in all the
//! distribution is counted out, ties included; beyond, it is taken for normal, with corrections for ties and for
//! continuity.

/// Most figures of both sides together whose distribution is counted out.
const EXACT: usize = 30;

/// One chance in so many is taken that an interval does not hold the truth, on either side of it: 95 % in all.
const TAIL: f64 = 0.025;

/// What a normal figure exceeds in [`TAIL`] of all cases, in standard deviations.
const NORMAL_QUANTILE: f64 = 1.959_963_984_540_054;

/// The probability of ranks at least as far apart as these when both sides are of one distribution. 1 when a side has
/// no figures.
pub(crate) fn p_value(old: &[f64], new: &[f64]) -> f64 {
    if old.is_empty() || new.is_empty() {
        return 1.0;
    }
    let (few, many) = if old.len() <= new.len() { (old, new) } else { (new, old) };
    let ranks = DoubledRanks::of(few, many);
    if few.len() + many.len() <= EXACT { ranks.exact(few.len()) } else { ranks.normal(few.len()) }
}

/// The smallest [`p_value`] that so many figures a side can have: 2 of all ways to deal them out.
pub(crate) fn smallest_p_value(old: usize, new: usize) -> f64 {
    let ways = (1..=old.min(new)).fold(1.0, |ways, at| ways * (old.max(new) + at) as f64 / at as f64);
    (2.0 / ways).min(1.0)
}

/// By which factor `new` is larger than `old`: the median over all pairs of one figure of each. All figures are above 0.
pub(crate) struct Ratio {
    /// Hodges and Lehmann's estimate.
    pub(crate) estimate: f64,
    /// All factors, sorted.
    pairs: Vec<f64>,
    figures: (usize, usize),
}

impl Ratio {
    /// Of two sides, neither of them empty.
    pub(crate) fn of(old: &[f64], new: &[f64]) -> Self {
        let mut ratios: Vec<f64> = new.iter().flat_map(|new| old.iter().map(move |old| new / old)).collect();
        ratios.sort_by(f64::total_cmp);
        Self { estimate: median_of_sorted(&ratios), pairs: ratios, figures: (old.len(), new.len()) }
    }

    /// Holds the true factor in at least 95 of 100 cases. `None` when there are too few figures for that.
    pub(crate) fn interval(&self) -> Option<(f64, f64)> {
        let outside = ratios_outside(self.figures.0, self.figures.1)?;
        Some((self.pairs[outside], self.pairs[self.pairs.len() - 1 - outside]))
    }
}

/// The median. `NaN` of nothing.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    median_of_sorted(&figures)
}

fn median_of_sorted(figures: &[f64]) -> f64 {
    match figures.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => figures[length / 2],
        length => f64::midpoint(figures[length / 2 - 1], figures[length / 2]),
    }
}

/// How many of the sorted ratios lie below the interval, and as many above it; `None` when not even all of them
/// together make one of 95 %.
fn ratios_outside(old: usize, new: usize) -> Option<usize> {
    let (few, many) = (old.min(new), old.max(new));
    if few + many > EXACT {
        let pairs = few as f64 * many as f64;
        let deviation = (pairs * (few + many + 1) as f64 / 12.0).sqrt();
        let outside = (pairs / 2.0 - NORMAL_QUANTILE * deviation).floor();
        return (outside >= 1.0).then(|| outside as usize - 1);
    }
    // Without ties the doubled rank sum of the fewer is `few * (few + 1)` and twice the number of pairs they win.
    let ranks: Vec<usize> = (1..=few + many).map(|rank| 2 * rank).collect();
    let ways = ways(&ranks, few);
    let all: f64 = ways.iter().sum();
    let least = few * (few + 1);
    let mut tail = 0.0;
    let wins = (0..=few * many).take_while(|pairs| {
        tail += ways[least + 2 * pairs];
        tail <= TAIL * all
    });
    wins.count().checked_sub(1)
}

/// Ranks of all figures, doubled so that those of ties are whole, with the sum of the first side's.
struct DoubledRanks {
    ranks: Vec<usize>,
    /// Of the first side.
    sum: usize,
    /// How many figures are equal, for each value.
    ties: Vec<usize>,
}

impl DoubledRanks {
    fn of(first: &[f64], second: &[f64]) -> Self {
        let mut figures: Vec<(f64, bool)> = first.iter().map(|&figure| (figure, true)).collect();
        figures.extend(second.iter().map(|&figure| (figure, false)));
        figures.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut all = Self { ranks: Vec::with_capacity(figures.len()), sum: 0, ties: Vec::new() };
        for equal in figures.chunk_by(|one, other| one.0.total_cmp(&other.0).is_eq()) {
            // Ranks from `before + 1` to `before + equal`; twice their mean.
            let rank = 2 * all.ranks.len() + equal.len() + 1;
            all.ranks.extend(equal.iter().map(|_| rank));
            all.sum += rank * equal.iter().filter(|(_, of_first)| *of_first).count();
            all.ties.push(equal.len());
        }
        all
    }

    /// Twice the sum that the first side's ranks have on the mean.
    fn mean(&self, first: usize) -> usize {
        first * (self.ranks.len() + 1)
    }

    fn exact(&self, first: usize) -> f64 {
        let ways = ways(&self.ranks, first);
        let distance = self.sum.abs_diff(self.mean(first));
        let far = |(sum, _): &(usize, &f64)| sum.abs_diff(self.mean(first)) >= distance;
        let all: f64 = ways.iter().sum();
        ways.iter().enumerate().filter(far).map(|(_, ways)| ways).sum::<f64>() / all
    }

    fn normal(&self, first: usize) -> f64 {
        let all = self.ranks.len() as f64;
        let second = all - first as f64;
        let ties: f64 = self.ties.iter().map(|&equal| (equal as f64).powi(3) - equal as f64).sum();
        let variance = first as f64 * second / 12.0 * (all + 1.0 - ties / (all * (all - 1.0)));
        if variance <= 0.0 {
            return 1.0;
        }
        let distance = (self.sum.abs_diff(self.mean(first)) as f64 / 2.0 - 0.5).max(0.0);
        libm::erfc(distance / variance.sqrt() / std::f64::consts::SQRT_2)
    }
}

/// In how many ways `chosen` of the ranks sum up to each number. Whole numbers below 2^53, so exact.
fn ways(ranks: &[usize], chosen: usize) -> Vec<f64> {
    let most: usize = ranks.iter().sum();
    let mut ways = vec![vec![0.0; most + 1]; chosen + 1];
    ways[0][0] = 1.0;
    let mut reached = 0;
    for &rank in ranks {
        reached += rank;
        for taken in (1..=chosen).rev() {
            let (without, with) = ways.split_at_mut(taken);
            let (without, with) = (&without[taken - 1], &mut with[0]);
            for sum in rank..=reached {
                with[sum] += without[sum - rank];
            }
        }
    }
    ways.pop().unwrap_or_default()
}

#[cfg(test)]
mod tests;
