//! [`Spans`]: the readings of the clock that CPUs brought home, as figures ([`PhaseSamples`]).
//!
//! Whoever runs the loops, here or elsewhere, makes its rows of these: [`measure`](crate::measure) for the suite's own,
//! the init program of `quarry linux` for those of a kernel module.

use alloc::vec::Vec;

/// Two readings of the clock: before a loop and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first. Ticks.
    pub start: u64,
    /// The second.
    pub end: u64,
}

impl Span {
    /// Ticks between them; none where the clock went back.
    pub fn ticks(self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// The samples of one phase, one after another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PhaseSamples {
    /// Ticks an operation took the CPU that did it: the mean over the CPUs.
    pub costs: Vec<f64>,
    /// Operations a tick, of all CPUs, from the first one's start to the last one's end.
    pub throughputs: Vec<f64>,
    /// Jain's index of the speeds of the CPUs.
    pub fairness: Vec<f64>,
    /// Of the time from the first CPU's start to the last one's end, what a CPU was at work: the mean over the CPUs.
    pub overlaps: Vec<f64>,
}

impl PhaseSamples {
    /// Adds a sample: the span of each CPU, of which there is one at least, and the operations all did together.
    ///
    /// Where the CPUs have `one_clock`, which stands for the instructions of all of them, only the whole can be divided.
    pub fn add<'a>(
        &mut self,
        spans: impl IntoIterator<Item = &'a Span, IntoIter: Clone>,
        operations: u64,
        one_clock: bool,
    ) {
        let spans = Spans(spans.into_iter());
        let (operations, whole) = (operations as f64, spans.whole());
        let total = if one_clock { whole } else { spans.each().sum() };
        self.costs.push(total as f64 / operations);
        self.throughputs.push(operations / whole.max(1) as f64);
        self.fairness.push(spans.fairness());
        self.overlaps.push(spans.overlap());
    }
}

/// What all CPUs did at once.
#[derive(Clone)]
struct Spans<I>(I);

impl<'a, I: Iterator<Item = &'a Span> + Clone> Spans<I> {
    /// Ticks each took.
    fn each(&self) -> impl Iterator<Item = u64> {
        self.0.clone().map(|span| span.ticks())
    }

    /// Ticks from the first one's start to the last one's end.
    fn whole(&self) -> u64 {
        let start = self.0.clone().map(|span| span.start).min().unwrap_or(0);
        self.0.clone().map(|span| span.end).max().unwrap_or(0).saturating_sub(start)
    }

    /// How much of the whole each was at work, on the mean: 1 if all start and end together, 1 / CPUs if one follows
    /// another.
    fn overlap(&self) -> f64 {
        let (sum, count) = self.each().fold((0, 0), |(sum, count), ticks| (sum + ticks, count + 1));
        sum as f64 / (count * self.whole().max(1)) as f64
    }

    /// Jain's index of their speeds (Jain, Chiu and Hawe, "A quantitative measure of fairness", 1984): 1 when all are
    /// equally fast, 1 / CPUs when one does everything.
    fn fairness(&self) -> f64 {
        let speeds = self.each().map(|ticks| 1.0 / ticks.max(1) as f64);
        let (sum, squares, count) = speeds
            .fold((0.0, 0.0, 0.0), |(sum, squares, count), speed| (sum + speed, squares + speed * speed, count + 1.0));
        sum * sum / (count * squares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(samples: &[&[(u64, u64)]], operations: u64, one_clock: bool) -> PhaseSamples {
        let mut of_phase = PhaseSamples::default();
        for spans in samples {
            let spans: Vec<Span> = spans.iter().map(|&(start, end)| Span { start, end }).collect();
            of_phase.add(&spans, operations, one_clock);
        }
        of_phase
    }

    #[test]
    fn an_operation_costs_what_it_takes_the_cpu_that_does_it() {
        let samples = samples(&[&[(0, 100), (50, 250)], &[(300, 400), (300, 400)]], 20, false);
        assert_eq!(samples.costs, [15.0, 10.0]);
        assert_eq!(samples.throughputs, [20.0 / 250.0, 20.0 / 100.0]);
        assert!((samples.fairness[0] - 0.9).abs() < 1e-12 && (samples.fairness[1] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn of_one_clock_for_all_only_the_whole_is_divided() {
        assert_eq!(samples(&[&[(0, 100), (50, 250)]], 20, true).costs, [12.5]);
    }

    #[test]
    fn equally_fast_cpus_are_treated_fairly_whenever_they_start() {
        assert!((samples(&[&[(0, 10), (5, 15), (7, 17)]], 3, false).fairness[0] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn one_cpu_that_does_next_to_everything_halves_the_fairness_of_two() {
        assert!((samples(&[&[(0, 1), (0, 1_000_000)]], 2, false).fairness[0] - 0.5).abs() < 1e-5);
    }

    #[test]
    fn cpus_that_follow_each_other_do_not_overlap() {
        let overlap = |spans: &[(u64, u64)]| samples(&[spans], 4, true).overlaps[0];
        assert!((overlap(&[(3, 13), (3, 13)]) - 1.0).abs() < 1e-12);
        assert!((overlap(&[(0, 10), (10, 20)]) - 0.5).abs() < 1e-12);
        assert!((overlap(&[(0, 10), (0, 10), (10, 20), (10, 20)]) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_clock_that_went_back_gives_no_ticks() {
        assert_eq!(Span { start: 5, end: 4 }.ticks(), 0);
    }
}
