//! What stresses and runs at the edge have found out, as records.
//!
//! Used by `main`; what every image tells is in `quarry-guest-records`, and rows make their own records.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use quarry_suite::{Edge, EdgeReport, StressReport, Way};
use quarry_unikernel::time;

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
