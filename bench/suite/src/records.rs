//! [`Row::measurement`]: a row as the record of it, whoever measured it.

use alloc::string::ToString;

use quarry_record::{Footprint, Latency, Locks, Measurement, Series, Summary};

use crate::case::Extent;
use crate::suite::Row;

const NANOSECONDS_PER_SECOND: f64 = 1e9;

impl Row {
    /// The record of this row, by a clock that ticks so often in a second. With `counts_instructions` a virtual
    /// nanosecond is an instruction.
    pub fn measurement(&self, allocator: &str, ticks_per_second: u64, counts_instructions: bool) -> Measurement {
        let nanoseconds_per_tick = NANOSECONDS_PER_SECOND / ticks_per_second as f64;
        let nanoseconds = summary(self.ticks.scaled(nanoseconds_per_tick));
        let (size, order) = match self.case.extent {
            Extent::Size(size) => (Some(size as u64), None),
            Extent::Order(order) => (None, Some(order)),
            Extent::Mixed => (None, None),
        };
        Measurement {
            workload: self.case.workload.name().to_string(),
            allocator: allocator.to_string(),
            size,
            order,
            variant: self.case.variant.map(|variant| variant.to_string()),
            phase: self.phase.name().map(ToString::to_string),
            cpus: self.case.cpus as u32,
            ops: self.operations,
            instructions_per_op: counts_instructions.then_some(nanoseconds),
            ns_per_op: nanoseconds,
            cycles_per_op: summary(self.ticks),
            empty_ns_per_op: self.empty_ticks * nanoseconds_per_tick,
            empty_cycles_per_op: self.empty_ticks,
            samples: self.samples.clone(),
            ops_per_second: (!counts_instructions)
                .then(|| summary(self.operations_per_tick.scaled(ticks_per_second as f64))),
            // Of one clock for all CPUs their speeds cannot be told.
            fairness: self.fairness.filter(|_| !counts_instructions),
            remote_frees: self.remote_frees,
            latency: self.latency.as_ref().map(|latency| self::latency(latency, nanoseconds_per_tick)),
            footprint: self.footprint.map(|footprint| Footprint {
                peak_live: footprint.peak_live,
                peak_held: footprint.peak_held,
                end_held: footprint.end_held,
            }),
            locks: self.locks.map(|locks| Locks { zone: locks.zone, depot: locks.depot }),
            hand_overs: self.turns.map(|turns| turns.hand_overs),
            samples_wanted: self.samples_wanted.map(|wanted| wanted as u64),
            refusal: self.refusal.map(|refusal| refusal.to_string()),
            series: self.series.iter().map(series).collect(),
            errors: self.errors,
        }
    }
}

fn series(series: &crate::series::Series) -> Series {
    Series {
        name: series.name.to_string(),
        unit: series.unit.to_string(),
        over: series.over.to_string(),
        points: series.points.clone(),
    }
}

fn latency(latency: &crate::suite::Latency, nanoseconds_per_tick: f64) -> Latency {
    let nanoseconds = |ticks: u64| ticks as f64 * nanoseconds_per_tick;
    let percentile = |parts, whole| nanoseconds(latency.calls.percentile(parts, whole));
    Latency {
        calls: latency.calls.count(),
        p50: percentile(50, 100),
        p90: percentile(90, 100),
        p99: percentile(99, 100),
        p99_9: percentile(999, 1000),
        p99_99: percentile(9999, 10_000),
        worst: nanoseconds(latency.calls.worst()),
        clock: nanoseconds(latency.clock),
        buckets: latency.calls.buckets().map(|(most, calls)| (nanoseconds(most), calls)).collect(),
    }
}

fn summary(summary: crate::statistics::Summary) -> Summary {
    Summary { min: summary.min, median: summary.median, p99: summary.p99, spread: summary.spread }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Case, Phase, Workload};
    use crate::spans::{PhaseSamples, Span};

    fn row(cpus: usize, phase: Phase) -> Row {
        let case = Case { workload: Workload::RemoteZero, extent: Extent::Size(64), variant: None, cpus };
        let mut samples = PhaseSamples::default();
        for _ in 0..3 {
            samples.add(&alloc::vec![Span { start: 0, end: 2000 }; cpus], 100 * cpus as u64, false);
        }
        let row = Row::of_samples(case, phase, 100 * cpus as u64, samples).expect("there are samples");
        Row { empty_ticks: 4.0, remote_frees: Some(0.5), errors: 2, ..row }
    }

    #[test]
    fn a_row_is_told_in_nanoseconds_and_cycles() {
        let record = row(2, Phase::Allocate).measurement("quarry", 2_000_000_000, false);
        let name = (record.workload.as_str(), record.allocator.as_str(), record.size, record.phase.as_deref());
        assert_eq!(name, ("remote-zero", "quarry", Some(64), Some("allocate")));
        assert_eq!((record.cpus, record.ops, record.errors), (2, 600, 2));
        assert_eq!((record.cycles_per_op.median, record.ns_per_op.median), (20.0, 10.0));
        assert_eq!((record.empty_cycles_per_op, record.empty_ns_per_op), (4.0, 2.0));
        assert_eq!((record.instructions_per_op, record.remote_frees), (None, Some(0.5)));
        assert_eq!(record.ops_per_second.map(|it| it.median), Some(200_000_000.0));
        assert!(record.fairness.is_some_and(|fairness| (fairness - 1.0).abs() < 1e-12));
    }

    #[test]
    fn counted_instructions_have_neither_speed_nor_fairness() {
        let record = row(2, Phase::Allocate).measurement("quarry", 1_000_000_000, true);
        assert_eq!(record.instructions_per_op.map(|it| it.median), Some(20.0));
        assert_eq!((record.ops_per_second, record.fairness), (None, None));
    }

    #[test]
    fn where_one_cpu_works_for_all_nobody_is_treated_unfairly() {
        assert_eq!(row(2, Phase::Free).measurement("quarry", 1, false).fairness, None);
        assert_eq!(row(1, Phase::Allocate).measurement("quarry", 1, false).fairness, None);
    }

    #[test]
    fn no_samples_are_no_row() {
        let case = Case { workload: Workload::Mix, extent: Extent::Mixed, variant: None, cpus: 1 };
        assert!(Row::of_samples(case, Phase::Whole, 100, PhaseSamples::default()).is_none());
    }
}
