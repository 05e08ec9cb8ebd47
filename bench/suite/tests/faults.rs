//! Every workload's checking pass, and the stress, find an allocator that misbehaves, and find nothing in one that does
//! not.

mod support;

use quarry_suite::{Effort, Limit, Phase, Row, Settings, Stress, Workload, run, stress};
use support::{Arena, Fault, Threads};

fn rows(workload: Workload, fault: Fault, cpus: usize) -> Vec<Row> {
    let settings = Settings {
        workloads: vec![workload],
        sizes: vec![64, 512],
        orders: vec![0, 2],
        cpus: vec![cpus],
        samples: 1,
        effort: Effort::Microseconds(1),
        checked_bytes: 64 << 10,
        latencies: false,
        ..Settings::default()
    };
    let mut rows = Vec::new();
    run(Threads(2), &Arena::new(fault), &settings, &mut |row| rows.push(row.clone()));
    rows
}

fn every_workload_finds(fault: Fault) {
    for &workload in Workload::ALL {
        for row in rows(workload, fault, 2).iter().filter(|row| row.phase != Phase::Free) {
            assert_ne!(row.errors, 0, "{fault:?} went unnoticed by {}", row.case);
        }
    }
}

#[test]
fn a_sound_allocator_has_no_errors() {
    for &workload in Workload::ALL {
        for cpus in [1, 2] {
            for row in rows(workload, Fault::None, cpus) {
                assert_eq!(row.errors, 0, "{}", row.case);
            }
        }
    }
}

#[test]
fn overlapping_blocks_are_found() {
    every_workload_finds(Fault::Overlap);
}

#[test]
fn blocks_too_short_are_found() {
    every_workload_finds(Fault::Short);
}

#[test]
fn misaligned_blocks_are_found() {
    every_workload_finds(Fault::Misaligned);
}

#[test]
fn failed_allocations_are_found() {
    every_workload_finds(Fault::Null);
}

#[test]
fn blocks_that_do_not_come_back_are_found() {
    every_workload_finds(Fault::Lost);
}

#[test]
fn changed_contents_are_found() {
    every_workload_finds(Fault::Scribble);
}

#[test]
fn blocks_of_the_wrong_node_are_found() {
    for row in rows(Workload::Node, Fault::WrongNode, 2) {
        assert_ne!(row.errors, 0, "{}", row.case);
    }
}

#[test]
fn zeroed_memory_that_is_not_is_found() {
    for row in rows(Workload::PairZeroed, Fault::NotZero, 2) {
        assert_ne!(row.errors, 0, "{}", row.case);
    }
}

#[test]
fn objects_in_use_at_the_end_of_their_cache_are_found() {
    for workload in [Workload::PairCache, Workload::BatchCache, Workload::Bulk] {
        for row in rows(workload, Fault::Remains, 1).iter().filter(|row| row.phase != Phase::Free) {
            assert_ne!(row.errors, 0, "{}", row.case);
        }
    }
}

fn stressed(fault: Fault) -> quarry_suite::StressReport {
    stress(Threads(2), &Arena::new(fault), Stress { cpus: 2, seed: 1, limit: Limit::Operations(3000) })
}

#[test]
fn the_stress_finds_nothing_in_a_sound_allocator() {
    let report = stressed(Fault::None);
    assert!(report.passed(), "{report:?}");
    assert_eq!(report.operations, 6000);
    assert_ne!(report.handed_on, 0);
}

#[test]
fn the_stress_finds_every_fault() {
    for fault in [Fault::Overlap, Fault::Short, Fault::Misaligned, Fault::Null, Fault::Lost, Fault::Scribble] {
        let report = stressed(fault);
        assert!(!report.passed(), "{fault:?} went unnoticed: {report:?}");
    }
}

#[test]
fn a_seed_repeats_the_stress_on_one_cpu() {
    let once =
        || stress(Threads(1), &Arena::new(Fault::None), Stress { cpus: 1, seed: 9, limit: Limit::Operations(2000) });
    assert_eq!(once(), once());
}
