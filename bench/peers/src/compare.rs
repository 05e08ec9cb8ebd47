//! All contestants over all cases, in turn, a moment at a time: [`compare`].
//!
//! A machine drifts: its clock boosts and throttles, neighbours come and go. Contestants measured one after another
//! would meet different machines. So a run is made of rounds; in each, every case is measured for some milliseconds
//! over each contestant before the next case comes, and the order rotates, so that none always comes first, or after
//! the same other.

use quarry_suite::{Case, Phase, Row, Settings, Subject as _, Summary};

use crate::contestant::Contestant;
use crate::quarry::Quarry;
use crate::threads::Threads;

/// One row of results: a case, or a phase of one, over every contestant.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What was measured.
    pub case: Case,
    /// Which part of it, where it has parts.
    pub phase: Phase,
    /// In the order of the contestants.
    pub results: Vec<Outcome>,
}

/// What stands for all samples of a contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// The middle one: what to expect.
    Median,
    /// The smallest: what is left when the machine does nothing else. The one to read on a busy machine.
    Minimum,
}

/// What one contestant's rounds came to. Times are in ticks.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The samples of all rounds, as they were taken.
    pub samples: Vec<f64>,
    /// What the loop alone cost, round by round.
    pub empty: Vec<f64>,
    /// Operations of all samples and threads together.
    pub operations: u64,
    /// Failed allocations, and what the checking passes found.
    pub errors: u64,
}

impl Outcome {
    fn add(&mut self, row: &Row) {
        self.samples.extend_from_slice(&row.samples);
        self.empty.push(row.empty_ticks);
        self.operations += row.operations;
        self.errors += row.errors;
    }

    /// Order statistics of the samples of all rounds.
    pub fn summary(&self) -> Summary {
        Summary::of(&mut self.samples.clone()).unwrap_or_default()
    }

    /// What stands for the samples, in ticks per operation.
    pub fn ticks(&self, statistic: Statistic) -> f64 {
        let summary = self.summary();
        match statistic {
            Statistic::Median => summary.median,
            Statistic::Minimum => summary.min,
        }
    }

    /// The median cost of the loop alone.
    pub fn empty(&self) -> f64 {
        Summary::of(&mut self.empty.clone()).unwrap_or_default().median
    }
}

impl Comparison {
    /// The best of the contestants but the first: its index, and how many times its cost the first one's is.
    pub fn best_peer(&self, statistic: Statistic) -> Option<(usize, f64)> {
        let (first, peers) = self.results.split_first()?;
        let costs = peers.iter().map(|outcome| outcome.ticks(statistic)).enumerate();
        let (index, best) = costs.min_by(|one, other| one.1.total_cmp(&other.1))?;
        Some((index + 1, first.ticks(statistic) / best))
    }
}

/// Measures `settings` over the contestants for some rounds. The seed advances with the round. `progress` is told of
/// each round when it begins.
pub fn compare(
    threads: Threads,
    contestants: &[Contestant],
    settings: &Settings,
    rounds: usize,
    progress: &mut dyn FnMut(usize),
) -> Vec<Comparison> {
    let cases = quarry_suite::plan(threads, Quarry::FEATURES, settings);
    let mut rows: Vec<Vec<Comparison>> = cases.iter().map(|case| blank(*case, contestants.len())).collect();
    for round in 0..rounds {
        progress(round);
        for (place, (case, rows)) in cases.iter().zip(&mut rows).enumerate() {
            let settings = Settings { seed: settings.seed.wrapping_add(round as u64), ..settings.clone() };
            for index in rotated(contestants.len(), round + place) {
                contestants[index].run_case(threads, &settings, *case, &mut |row| {
                    if let Some(comparison) = rows.iter_mut().find(|comparison| comparison.phase == row.phase) {
                        comparison.results[index].add(row);
                    }
                });
            }
        }
    }
    rows.into_iter().flatten().collect()
}

/// The rows of a case before anything is known.
fn blank(case: Case, contestants: usize) -> Vec<Comparison> {
    let results = vec![Outcome::default(); contestants];
    case.phases().iter().map(|&phase| Comparison { case, phase, results: results.clone() }).collect()
}

/// The numbers below `count`, beginning with a different one each turn; every other pass through them runs backwards.
fn rotated(count: usize, turn: usize) -> impl Iterator<Item = usize> {
    let backwards = (turn / count.max(1)) % 2 == 1;
    (0..count).map(move |place| {
        let index = (place + turn) % count;
        if backwards { count - 1 - index } else { index }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_suite::{Effort, Extent, Workload};
    use std::collections::BTreeSet;

    #[test]
    fn every_contestant_takes_every_place_and_follows_several_others() {
        let turns: Vec<Vec<usize>> = (0..8).map(|turn| rotated(4, turn).collect()).collect();
        for contestant in 0..4 {
            let places: BTreeSet<_> =
                turns.iter().map(|turn| turn.iter().position(|index| *index == contestant)).collect();
            assert_eq!(places.len(), 4, "contestant {contestant} in {turns:?}");
            let before: BTreeSet<_> = turns
                .iter()
                .flat_map(|turn| turn.windows(2).filter(|pair| pair[1] == contestant).map(|pair| pair[0]))
                .collect();
            assert!(before.len() > 1, "contestant {contestant} follows {before:?}");
        }
    }

    #[test]
    fn every_row_of_every_case_is_of_all_contestants() {
        let threads = Threads::new(1);
        let settings = Settings {
            workloads: vec![Workload::Batch, Workload::PageBulk],
            sizes: vec![64],
            samples: 1,
            effort: Effort::Fixed,
            latencies: false,
            ..Settings::default()
        };
        let cases = quarry_suite::plan(threads, Quarry::FEATURES, &settings);
        let comparisons = compare(threads, &[Contestant::new::<Quarry>(None)], &settings, 2, &mut |_| ());
        assert_eq!(comparisons.len(), quarry_suite::row_count(&cases));
        for comparison in comparisons {
            let samples: Vec<usize> = comparison.results.iter().map(|outcome| outcome.samples.len()).collect();
            assert_eq!(samples, [2], "{}", comparison.case);
        }
    }

    #[test]
    fn the_first_is_compared_with_the_best_of_the_others() {
        let outcome = |samples: &[f64]| Outcome { samples: samples.to_vec(), ..Outcome::default() };
        let comparison = Comparison {
            case: Case { workload: Workload::Mix, extent: Extent::Mixed, variant: None, cpus: 1 },
            phase: Phase::Whole,
            results: vec![outcome(&[6.0]), outcome(&[9.0, 1.0, 5.0]), outcome(&[4.0])],
        };
        assert_eq!(comparison.best_peer(Statistic::Median), Some((2, 1.5)));
        assert_eq!(comparison.best_peer(Statistic::Minimum), Some((1, 6.0)));
    }

    #[test]
    fn alone_there_is_no_best_peer() {
        let case = Case { workload: Workload::Mix, extent: Extent::Mixed, variant: None, cpus: 1 };
        let comparison = Comparison { case, phase: Phase::Whole, results: vec![Outcome::default()] };
        assert_eq!(comparison.best_peer(Statistic::Median), None);
    }
}
