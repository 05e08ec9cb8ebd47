//! What came of a case, as a record: the same figures as Quarry's own, from the same summary.

use quarry_record::{Measurement, Summary};
use quarry_suite::{Case, Extent, Phase};

use crate::measure::frees_remotely;
use crate::module::Span;

/// One row of results.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) case: Case,
    pub(crate) phase: Phase,
    /// Of one CPU in one sample.
    pub(crate) operations: u64,
    pub(crate) samples: Samples,
    /// What the loop costs by itself.
    pub(crate) empty_ticks: f64,
    /// Allocations that failed, counted with the first row of the case.
    pub(crate) errors: u64,
}

/// The samples of one phase, one after another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Samples {
    /// Ticks an operation took the CPU that did it: the mean over the CPUs.
    pub(crate) costs: Vec<f64>,
    /// Operations a tick, of all CPUs, from the first one's start to the last one's end.
    pub(crate) throughputs: Vec<f64>,
    /// Jain's index of the speeds of the CPUs.
    pub(crate) fairness: Vec<f64>,
}

impl Samples {
    /// The costs, summarised.
    pub(crate) fn cost(&self) -> quarry_suite::Summary {
        summarised(&self.costs)
    }
}

fn summarised(samples: &[f64]) -> quarry_suite::Summary {
    quarry_suite::Summary::of(&mut samples.to_vec()).expect("at least one sample is taken")
}

/// Turns the spans of all CPUs, sample by sample, into figures. With `one_clock` the counter stands for the
/// instructions of all CPUs together, so that only the whole can be divided.
pub(crate) fn gather(samples: &[Vec<Span>], operations: u64, one_clock: bool) -> Samples {
    let mut gathered = Samples { costs: Vec::new(), throughputs: Vec::new(), fairness: Vec::new() };
    for spans in samples {
        let all = (operations * spans.len() as u64) as f64;
        let start = spans.iter().map(|span| span.start).min().unwrap_or(0);
        let whole = spans.iter().map(|span| span.end).max().unwrap_or(0).saturating_sub(start);
        let total = if one_clock { whole } else { spans.iter().map(|span| span.ticks()).sum() };
        gathered.costs.push(total as f64 / all);
        gathered.throughputs.push(all / whole.max(1) as f64);
        gathered.fairness.push(fairness(spans));
    }
    gathered
}

/// Jain's index: 1 when all are equally fast, 1 / CPUs when one does everything.
fn fairness(spans: &[Span]) -> f64 {
    let speeds = spans.iter().map(|span| 1.0 / span.ticks().max(1) as f64);
    let (sum, squares) = speeds.fold((0.0, 0.0), |(sum, squares), speed| (sum + speed, squares + speed * speed));
    sum * sum / (spans.len() as f64 * squares)
}

/// A row as a record. With `counted` a tick is an instruction.
pub(crate) fn measurement(allocator: &str, row: &Row, tsc_hz: u64, counted: bool) -> Measurement {
    let nanoseconds_per_tick = 1e9 / tsc_hz as f64;
    let Row { case, phase, samples, .. } = row;
    let ticks = samples.cost();
    let nanoseconds = summary(ticks.scaled(nanoseconds_per_tick));
    let (size, order) = match case.extent {
        Extent::Size(size) => (Some(size as u64), None),
        Extent::Order(order) => (None, Some(order)),
        Extent::Mixed => (None, None),
    };
    Measurement {
        workload: case.workload.name().to_owned(),
        allocator: allocator.to_owned(),
        size,
        order,
        variant: case.variant.map(|variant| variant.to_string()),
        phase: phase.name().map(str::to_owned),
        cpus: case.cpus as u32,
        ops: row.operations * (case.cpus * samples.costs.len()) as u64,
        ns_per_op: nanoseconds,
        cycles_per_op: summary(ticks),
        instructions_per_op: counted.then_some(nanoseconds),
        empty_ns_per_op: row.empty_ticks * nanoseconds_per_tick,
        empty_cycles_per_op: row.empty_ticks,
        ops_per_second: (!counted).then(|| summary(summarised(&samples.throughputs).scaled(tsc_hz as f64))),
        fairness: (!counted && case.cpus > 1).then(|| summarised(&samples.fairness).median),
        remote_frees: Some(if frees_remotely(case, *phase) { 1.0 } else { 0.0 }),
        samples: samples.costs.clone(),
        errors: row.errors,
        ..Measurement::default()
    }
}

fn summary(summary: quarry_suite::Summary) -> Summary {
    Summary { min: summary.min, median: summary.median, p99: summary.p99, spread: summary.spread }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_suite::Workload;

    fn span(start: u64, end: u64) -> Span {
        Span { start, end }
    }

    #[test]
    fn an_operation_costs_what_it_takes_the_cpu_that_does_it() {
        let samples = gather(&[vec![span(0, 100), span(50, 250)], vec![span(300, 400), span(300, 400)]], 10, false);
        assert_eq!(samples.costs, [15.0, 10.0]);
        assert_eq!(samples.throughputs, [20.0 / 250.0, 20.0 / 100.0]);
        assert!((samples.fairness[0] - 0.9).abs() < 1e-12 && (samples.fairness[1] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn of_one_clock_for_all_only_the_whole_is_divided() {
        assert_eq!(gather(&[vec![span(0, 100), span(50, 250)]], 10, true).costs, [12.5]);
    }

    fn row(cpus: usize) -> Row {
        let case = Case { workload: Workload::Remote, extent: Extent::Size(64), variant: None, cpus };
        let samples = gather(&vec![vec![span(0, 2000); cpus]; 3], 100, false);
        Row { case, phase: Phase::Free, operations: 100, samples, empty_ticks: 4.0, errors: 2 }
    }

    #[test]
    fn a_row_is_told_in_nanoseconds_and_cycles() {
        let record = measurement("linux-6.1-slub", &row(2), 2_000_000_000, false);
        assert_eq!(
            (record.workload.as_str(), record.size, record.phase.as_deref()),
            ("remote", Some(64), Some("free"))
        );
        assert_eq!((record.cpus, record.ops, record.errors), (2, 600, 2));
        assert_eq!((record.cycles_per_op.median, record.ns_per_op.median), (20.0, 10.0));
        assert_eq!((record.empty_cycles_per_op, record.empty_ns_per_op), (4.0, 2.0));
        assert_eq!((record.instructions_per_op, record.remote_frees), (None, Some(1.0)));
        assert_eq!(record.ops_per_second.map(|it| it.median), Some(200_000_000.0));
    }

    #[test]
    fn counted_instructions_have_neither_speed_nor_fairness() {
        let record = measurement("linux-6.1-slub", &row(1), 1_000_000_000, true);
        assert_eq!(record.instructions_per_op.map(|it| it.median), Some(20.0));
        assert_eq!((record.ops_per_second, record.fairness, record.remote_frees), (None, None, Some(0.0)));
    }
}
