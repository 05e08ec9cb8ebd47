//! What the suite has found out, as records.
//!
//! Used by `main`; what every image tells is in `quarry-guest-records`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use quarry_record::{Footprint, Latency, Measurement, Series, Summary};
use quarry_suite::{Edge, EdgeReport, Extent, Row, StressReport, Way};
use quarry_unikernel::time;

const NANOSECONDS_PER_SECOND: f64 = 1e9;

/// A row of the suite over an allocator. With `counts_instructions` a virtual nanosecond is an instruction.
pub(crate) fn measurement(allocator: &str, row: &Row, counts_instructions: bool) -> Measurement {
    let nanoseconds_per_tick = NANOSECONDS_PER_SECOND / time::ticks_per_second() as f64;
    let nanoseconds = summary(row.ticks.scaled(nanoseconds_per_tick));
    Measurement {
        workload: row.case.workload.name().to_string(),
        allocator: allocator.to_string(),
        size: match row.case.extent {
            Extent::Size(size) => Some(size as u64),
            Extent::Order(_) | Extent::Mixed => None,
        },
        order: match row.case.extent {
            Extent::Order(order) => Some(order),
            Extent::Size(_) | Extent::Mixed => None,
        },
        variant: row.case.variant.map(|variant| variant.to_string()),
        phase: row.phase.name().map(ToString::to_string),
        cpus: row.case.cpus as u32,
        ops: row.operations,
        instructions_per_op: counts_instructions.then_some(nanoseconds),
        ns_per_op: nanoseconds,
        cycles_per_op: summary(row.ticks),
        empty_ns_per_op: row.empty_ticks * nanoseconds_per_tick,
        empty_cycles_per_op: row.empty_ticks,
        samples: row.samples.clone(),
        ops_per_second: (!counts_instructions)
            .then(|| summary(row.operations_per_tick.scaled(time::ticks_per_second() as f64))),
        // Of one clock for all CPUs their speeds cannot be told.
        fairness: row.fairness.filter(|_| !counts_instructions),
        remote_frees: Some(row.remote_frees),
        latency: row.latency.as_ref().map(|latency| self::latency(latency, nanoseconds_per_tick)),
        footprint: row.footprint.map(|footprint| Footprint {
            peak_live: footprint.peak_live,
            peak_held: footprint.peak_held,
            end_held: footprint.end_held,
        }),
        hand_overs: None,
        series: row.series.iter().map(series).collect(),
        errors: row.errors,
    }
}

fn series(series: &quarry_suite::Series) -> Series {
    Series {
        name: series.name.to_string(),
        unit: series.unit.to_string(),
        over: series.over.to_string(),
        points: series.points.clone(),
    }
}

fn latency(latency: &quarry_suite::Latency, nanoseconds_per_tick: f64) -> Latency {
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

/// What came of a stress.
pub(crate) fn stress(report: &StressReport, cpus: u32, seconds: u64) -> quarry_record::Stress {
    quarry_record::Stress {
        seconds,
        cpus,
        operations: report.operations,
        handed_on: report.handed_on,
        errors: report.errors,
        failed_allocations: report.failed_allocations,
        lost_bytes: report.lost_bytes,
        passed: report.passed(),
    }
}

/// What came of a run at the edge.
pub(crate) fn edge(
    report: &EdgeReport,
    edge: &Edge,
    seconds: u64,
    events: Vec<(String, u64)>,
    complaints: Vec<String>,
) -> quarry_record::Edge {
    let calls = Way::ALL.into_iter().zip(report.calls).map(|(way, calls)| quarry_record::EdgeCalls {
        way: way.name().to_string(),
        attempts: calls.attempts,
        failures: calls.failures,
        longest_microseconds: (u128::from(calls.longest_ticks) * 1_000_000 / u128::from(time::ticks_per_second()))
            as u64,
    });
    quarry_record::Edge {
        seconds,
        cpus: edge.cpus as u32,
        threads: edge.threads() as u32,
        calls: calls.collect(),
        in_handlers: report.in_handlers,
        given_up: report.given_up,
        events,
        complaints,
    }
}

fn summary(summary: quarry_suite::Summary) -> Summary {
    Summary { min: summary.min, median: summary.median, p99: summary.p99, spread: summary.spread }
}
