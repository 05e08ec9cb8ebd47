//! A case that takes too long has fewer samples, and whoever waits is told where it is. Time is a count of how often the
//! clock is read.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use quarry_suite::{Case, Effort, Empty, Platform, Row, Settings, Workload, run};
use quarry_topology::NodeId;

mod support;
use support::Threads;

static CLOCK: AtomicU64 = AtomicU64::new(0);
static TOLD: AtomicUsize = AtomicUsize::new(0);

/// Three CPUs, and a second passes whenever one reads the clock.
#[derive(Clone, Copy)]
struct Slow;

impl Platform for Slow {
    fn cpu_count(&self) -> usize {
        3
    }

    fn local_node(&self, _cpu: usize) -> NodeId {
        NodeId(0)
    }

    fn remote_node(&self, _cpu: usize) -> Option<NodeId> {
        None
    }

    fn ticks(&self) -> u64 {
        CLOCK.fetch_add(1000, Relaxed)
    }

    fn ticks_per_second(&self) -> u64 {
        1000
    }

    fn relax(&self) {
        std::thread::yield_now();
    }

    fn memory(&self) -> u64 {
        1 << 20
    }

    fn is_at(&self, case: Case, sample: usize, samples: usize) {
        assert!(case.workload == Workload::Batch && sample <= samples);
        TOLD.fetch_add(1, Relaxed);
    }

    fn on_cpus<T, F>(&self, cpus: usize, body: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(usize) -> T + Send + Sync + 'static,
    {
        Threads(cpus).on_cpus(cpus, body)
    }
}

/// The rows of a workload with two phases, on one CPU and on three.
fn rows(patience: Option<u64>, effort: Effort) -> Vec<Row> {
    let settings = Settings {
        workloads: vec![Workload::Batch],
        sizes: vec![64],
        cpus: vec![1, 3],
        samples: 30,
        latencies: false,
        patience,
        effort,
        ..Settings::default()
    };
    let mut rows = Vec::new();
    run(Slow, &Empty, &settings, &mut |row| rows.push(row.clone()));
    rows
}

#[test]
fn a_slow_case_is_cut_and_says_so() {
    let told = TOLD.load(Relaxed);
    let rows = rows(Some(40), Effort::Microseconds(1000));
    assert_eq!(rows.len(), 4, "two phases, twice");
    for row in &rows {
        // Reading the clock takes a sample of n CPUs 4 n seconds, and CPU 0's look before it one.
        let samples = row.samples.len();
        assert!((1..=40).contains(&(samples * row.case.cpus * 4)), "{}: {samples} samples", row.case);
        assert_eq!(row.samples_wanted, Some(30));
        assert!(row.operations.is_multiple_of(samples as u64), "operations are of the samples that were taken");
    }
    assert!(TOLD.load(Relaxed) - told >= rows.iter().map(|row| row.samples.len()).sum::<usize>() / 2);
}

#[test]
fn without_a_limit_and_where_instructions_are_counted_all_samples_are_taken() {
    for (patience, effort) in [(None, Effort::Microseconds(1000)), (Some(1), Effort::Fixed)] {
        for row in rows(patience, effort) {
            assert_eq!((row.samples.len(), row.samples_wanted), (30, None), "{}", row.case);
        }
    }
}
