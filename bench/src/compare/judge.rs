//! The verdict on each case: whether the new build differs from the old one there, and by how much.
//!
//! Samples of one boot follow on each other and share where that boot put things and how fast the host was meanwhile,
//! so they are not independent: a rank test over them finds differences between two boots of the same build. What is
//! independent is a boot. Hence:
//!
//! ```text
//! enough boots a side     a figure is the median of a boot; the test is over boots
//! fewer                   a figure is the median of a block of consecutive samples, which no longer tell of each other;
//!                         the test tells whether these boots differ, and only a change beyond what boots of the same
//!                         build differ by (the noise floor) is one of the build
//! instructions            no test: any difference is one
//! ```
//!
//! Over all cases, the rate of false discoveries is held at [`LEVEL`]. Enough boots is when a single case among them
//! could be told from chance: seven a side for a hundred cases. Where no noise floor was measured, it is when enough of
//! them together could: four, for to assume one would be worse.

use super::floor::{NoiseFloor, floor};
use super::many::false_discovery_rates;
use super::rank::{Ratio, median, p_value, smallest_p_value};
use super::side::Side;
use crate::case::{Case, Metric};

/// The part of false ones among all differences found.
pub(crate) const LEVEL: f64 = 0.05;

/// Blocks that the samples of a boot are put into.
const BLOCKS: usize = 8;

/// What to think of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No difference, or one that is noise.
    Unchanged,
    /// It got worse: slower, or more instructions.
    Worse,
    /// It got better.
    Better,
}

/// What the figures of a case were taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// One figure a boot.
    Boots,
    /// Several blocks of samples a boot.
    Blocks,
    /// Counts, which are the same in every boot.
    Counts,
}

/// A case on both sides.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub(crate) case: Case,
    /// The median over boots of the boots' medians, old and new.
    pub(crate) old: f64,
    pub(crate) new: f64,
    /// By which factor the figure grew: estimated over all pairs of old and new.
    pub(crate) ratio: f64,
    /// Holds that factor with a confidence of 95 %.
    pub(crate) interval: Option<(f64, f64)>,
    /// How likely ranks so far apart are without a difference.
    pub(crate) p_value: Option<f64>,
    /// Figures of each side.
    pub(crate) figures: (usize, usize),
    /// What they are.
    pub(crate) basis: Basis,
    /// The smallest change that is not taken for noise whatever the test says.
    pub(crate) floor: f64,
    pub(crate) verdict: Verdict,
}

impl Comparison {
    /// How much worse the new side is, as a part: 0.03 is 3 %; negative where it is better.
    pub(crate) fn worsening(&self, metric: Metric) -> f64 {
        if metric.more_is_better() { 1.0 / self.ratio - 1.0 } else { self.ratio - 1.0 }
    }
}

/// All cases of both sides.
#[derive(Clone, Debug)]
pub(crate) struct Comparisons {
    pub(crate) metric: Metric,
    /// Cases that both sides have, in the old side's order.
    pub(crate) both: Vec<Comparison>,
    /// Cases that only the old side has figures of.
    pub(crate) only_old: Vec<Case>,
    /// Cases that only the new side has figures of.
    pub(crate) only_new: Vec<Case>,
    /// Cases whose counts differ from boot to boot of one side, which counts should not.
    pub(crate) unsteady: Vec<Case>,
}

/// Compares case by case.
pub(crate) fn compare(old: &Side, new: &Side, metric: Metric, noise: Option<&NoiseFloor>) -> Comparisons {
    let mut all =
        Comparisons { metric, both: Vec::new(), only_old: Vec::new(), only_new: Vec::new(), unsteady: Vec::new() };
    let shared = old.cases.iter().filter(|case| new.cases.contains(case)).count();
    let added = new.cases.iter().filter(|case| !old.cases.contains(case));
    for case in old.cases.iter().chain(added) {
        let (of_old, of_new) = (old.figures(case, metric), new.figures(case, metric));
        match (of_old.is_empty(), of_new.is_empty()) {
            (false, false) if metric == Metric::Instructions => {
                if !steady(&of_old) || !steady(&of_new) {
                    all.unsteady.push(case.clone());
                }
                all.both.push(count(case, &of_old, &of_new));
            }
            (false, false) => {
                let basis = basis((of_old.len(), of_new.len()), shared, noise.is_some());
                all.both.push(estimate(case, &of_old, &of_new, basis, noise));
            }
            (false, true) => all.only_old.push(case.clone()),
            (true, false) => all.only_new.push(case.clone()),
            (true, true) => {}
        }
    }
    judge(&mut all);
    all
}

/// Medians of the boots.
fn medians(boots: &[Vec<f64>]) -> Vec<f64> {
    boots.iter().map(|figures| median(figures)).collect()
}

/// Medians of the blocks of all boots.
fn blocks(boots: &[Vec<f64>]) -> Vec<f64> {
    let of_boot = |figures: &Vec<f64>| {
        let length = figures.len().div_ceil(BLOCKS).max(1);
        figures.chunks(length).map(median).collect::<Vec<_>>()
    };
    boots.iter().flat_map(of_boot).collect()
}

fn steady(boots: &[Vec<f64>]) -> bool {
    boots.iter().all(|boot| boot == &boots[0])
}

/// What a comparison of so many cases is over, with so many boots a side.
pub(crate) fn basis(boots: (usize, usize), cases: usize, noise_is_known: bool) -> Basis {
    let smallest = smallest_p_value(boots.0, boots.1);
    let one_case_can_be_told = smallest <= LEVEL / cases.max(1) as f64;
    let boots_suffice = one_case_can_be_told || (!noise_is_known && smallest <= LEVEL);
    if boots_suffice { Basis::Boots } else { Basis::Blocks }
}

fn count(case: &Case, old: &[Vec<f64>], new: &[Vec<f64>]) -> Comparison {
    let figures = (old.len(), new.len());
    let (old, new) = (median(&medians(old)), median(&medians(new)));
    Comparison {
        case: case.clone(),
        old,
        new,
        ratio: new / old,
        interval: None,
        p_value: None,
        figures,
        basis: Basis::Counts,
        floor: 0.0,
        verdict: Verdict::Unchanged,
    }
}

/// A side's figures for the test.
fn independent(boots: &[Vec<f64>], basis: Basis) -> Vec<f64> {
    if basis == Basis::Blocks { blocks(boots) } else { medians(boots) }
}

/// By what part two sides differ, in either direction.
pub(crate) fn change(old: &[Vec<f64>], new: &[Vec<f64>], basis: Basis) -> f64 {
    let ratio = Ratio::of(&independent(old, basis), &independent(new, basis)).estimate;
    ratio.max(1.0 / ratio) - 1.0
}

fn estimate(case: &Case, old: &[Vec<f64>], new: &[Vec<f64>], basis: Basis, noise: Option<&NoiseFloor>) -> Comparison {
    let floor = floor(noise, case, old.len().min(new.len()), basis);
    let (old_figures, new_figures) = (independent(old, basis), independent(new, basis));
    let ratio = Ratio::of(&old_figures, &new_figures);
    // Blocks know nothing of how boots differ: the floor does.
    let widen = |(low, high): (f64, f64)| (low / (1.0 + floor), high * (1.0 + floor));
    Comparison {
        case: case.clone(),
        old: median(&medians(old)),
        new: median(&medians(new)),
        ratio: ratio.estimate,
        interval: if basis == Basis::Blocks { ratio.interval().map(widen) } else { ratio.interval() },
        p_value: Some(p_value(&old_figures, &new_figures)),
        figures: (old_figures.len(), new_figures.len()),
        basis,
        floor,
        verdict: Verdict::Unchanged,
    }
}

/// Gives the verdicts. They depend on each other, for the more cases there are the more differ by chance.
fn judge(all: &mut Comparisons) {
    let p_values: Vec<f64> = all.both.iter().map(|one| one.p_value.unwrap_or(0.0)).collect();
    let rates = false_discovery_rates(&p_values);
    for (one, rate) in all.both.iter_mut().zip(rates) {
        let change = one.ratio.max(1.0 / one.ratio) - 1.0;
        if rate <= LEVEL && change > one.floor {
            let worse = one.worsening(all.metric) > 0.0;
            one.verdict = if worse { Verdict::Worse } else { Verdict::Better };
        }
    }
}

#[cfg(test)]
mod tests;
