//! The whole suite, the stress and the run at the edge over the memory service, hosted on a simulated machine of two nodes.
//!
//! `QUARRY_STRESS_SECONDS=30` makes the stress last that long instead of a fixed number of steps.

mod machine;
#[path = "../support/mod.rs"]
mod support;

use quarry_memory::NodeId;
use quarry_memory::events::Event;
use quarry_suite::{
    Edge, Effort, Extent, Limit, Platform, Row, Settings, Stress, Subject, Variant, Workload, edge, plan, run,
    run_cases, stress,
};

use machine::{FRAME, MIB, Machine};

#[test]
fn every_workload_runs_without_error() {
    let machine = Machine::new();
    let settings = Settings {
        sizes: vec![8, 4096],
        orders: vec![0, 9],
        cpus: vec![1, 4],
        samples: 2,
        effort: Effort::Microseconds(20),
        checked_bytes: 64 << 10,
        ..Settings::default()
    };
    run(machine, &machine, &settings, &mut |row| {
        assert_eq!(row.errors, 0, "{}", row.case);
        let footprint = row.footprint.expect("the service says what it holds");
        // Where others free meanwhile, what lives and what is held are of different moments.
        assert!(row.case.cpus > 1 || footprint.peak_held >= footprint.peak_live, "{}: {footprint:?}", row.case);
    });
    machine.assert_all_returned();
}

#[test]
fn a_cache_with_objects_in_use_complains_when_it_ends() {
    let machine = Machine::new();
    let objects = machine.objects(64).expect("caches have objects of 64 bytes");
    let object = objects.allocate(64).expect("there is memory");
    drop(objects);
    assert_eq!(machine.complaints(), 1);
    machine.free(object);
}

#[test]
fn the_stress_passes_and_all_memory_returns() {
    let machine = Machine::new();
    let limit = match std::env::var("QUARRY_STRESS_SECONDS") {
        Ok(seconds) => Limit::Seconds(seconds.parse().expect("QUARRY_STRESS_SECONDS is a whole number of seconds")),
        Err(_) => Limit::Operations(50_000),
    };
    let report = stress(machine, &machine, Stress { cpus: 4, seed: 1, limit });
    println!("{report:?}");
    assert!(report.passed(), "{report:?}");
    machine.assert_all_returned();
}

#[test]
fn at_the_edge_of_memory_nobody_is_refused_who_must_not_be() {
    let machine = Machine::with_nodes_of(24 * MIB);
    let service = machine.service();
    let rows = service.statistics();
    let task = Edge { cpus: 4, seed: 1, limit: Limit::Operations(20), memory: rows.free + rows.deferred };
    let report = edge(machine, machine, task, machine.cache());
    // Nobody balances here, so somebody had to make memory free: with so few steps that is edge enough.
    let complaints = report.complaints(machine.ticks_per_second(), service.event_count(Event::DirectReclaim));
    assert!(complaints.is_empty(), "{complaints:?}");
    assert!(report.given_up > 0, "the cache was never asked");
    machine.assert_all_returned();
}

/// Rows of that workload on one CPU and on all.
fn rows_of(machine: Machine, workload: Workload) -> Vec<Row> {
    let settings = Settings {
        workloads: vec![workload],
        cpus: vec![1, 4],
        samples: 5,
        effort: Effort::Fixed,
        ..Settings::default()
    };
    let mut rows = Vec::new();
    run(machine, &machine, &settings, &mut |row| rows.push(row.clone()));
    rows
}

/// The same, over a machine with so little memory that reclaim is soon there.
fn rows_under_pressure(machine: Machine, workload: Workload) -> Vec<Row> {
    let rows = rows_of(machine, workload);
    for row in &rows {
        assert_eq!(row.errors, 0, "{}", row.case);
    }
    machine.assert_all_returned();
    rows
}

#[test]
fn memory_is_reclaimed_where_nearly_all_of_it_is_used_and_nowhere_else() {
    for (percent, reclaims) in [(50, false), (90, false), (99, true)] {
        let machine = Machine::with_nodes_of(128 * MIB);
        let settings = Settings {
            workloads: vec![Workload::Pressure],
            cpus: vec![4],
            samples: 3,
            effort: Effort::Fixed,
            ..Settings::default()
        };
        let cases = plan(machine, Machine::FEATURES, &settings);
        let case = cases.into_iter().find(|case| case.variant == Some(Variant::Used(percent)));
        let cases = [case.expect("it is planned")];
        run_cases(machine, &machine, &settings, &cases, &mut |row| assert_eq!(row.errors, 0, "{}", row.case));
        let reclaimed = machine.service().event_count(Event::DirectReclaim);
        assert_eq!(reclaimed > 0, reclaims, "{percent} %: {reclaimed}");
        machine.assert_all_returned();
    }
}

#[test]
fn ballast_leaves_as_much_of_every_node_as_it_is_to_and_all_of_it_comes_back() {
    let machine = Machine::with_nodes_of(64 * MIB);
    let free = |node| -> u64 {
        let zones = machine.service().zones().filter(|zone| zone.node == node);
        zones.map(|zone| u64::from(zone.free + zone.deferred + zone.per_cpu_lists) * FRAME).sum()
    };
    let ballast = machine.occupy(32 * MIB, 4 * MIB).expect("there is memory");
    for node in [NodeId(0), NodeId(1)] {
        assert!(free(node).abs_diff(16 * MIB) < MIB / 2, "{} bytes are free", free(node));
        // By its size, and one node has less of the service's own.
        assert!((machine.cache().count(node) as u64).abs_diff(2 * MIB / FRAME) < 16);
    }
    let cached = || machine.cache().count(NodeId(0)) + machine.cache().count(NodeId(1));
    let cached_before = cached();
    ballast.cache_page();
    assert_eq!(cached(), cached_before, "the oldest goes");
    drop(ballast);
    machine.assert_all_returned();
}

#[test]
fn ageing_memory_is_watched() {
    for row in rows_under_pressure(Machine::with_nodes_of(128 * MIB), Workload::Fragmentation) {
        let points = |name: &str| {
            let series = row.series.iter().find(|series| series.name == name);
            &series.unwrap_or_else(|| panic!("{}: {name} was not watched", row.case)).points
        };
        let operations: Vec<f64> = points("memory held per live byte").iter().map(|point| point.0).collect();
        let per_sample = row.operations as f64 / 5.0;
        let expected: Vec<f64> = (1..=5).map(|sample| f64::from(sample) * per_sample).collect();
        assert_eq!(operations, expected, "{}", row.case);
        assert!(points("memory held per live byte").iter().all(|point| (1.0..3.0).contains(&point.1)), "{row:#?}");
        let unusable = points("free memory not in blocks of 2 MiB");
        assert!(unusable.iter().all(|point| point.1 > 0.0 && point.1 <= 100.0), "{unusable:?}");
        assert!(points("memory live").len() > 1 && points("memory held").len() > 1);
    }
}

#[test]
fn what_is_held_is_told_when_all_objects_were_replaced() {
    let machine = Machine::new();
    let rows = rows_of(machine, Workload::Footprint);
    let cases: Vec<_> = rows.iter().map(|row| (row.case.variant, row.case.cpus)).collect();
    let live = |mebibytes| Some(Variant::Live(mebibytes));
    // The machine lets workloads have 64 MiB.
    assert_eq!(cases, [(live(1), 1), (live(1), 4), (live(16), 1), (live(16), 4)]);
    for row in &rows {
        assert_eq!(row.errors, 0, "{}", row.case);
        let Some(Variant::Live(mebibytes)) = row.case.variant else { unreachable!("as was just seen") };
        let footprint = row.footprint.expect("all objects were replaced");
        let (live, held) = (footprint.peak_live as f64, footprint.peak_held as f64);
        let named = mebibytes as f64 * MIB as f64;
        assert!((live / named - 1.0).abs() < 0.15, "{}: {footprint:?}", row.case);
        // What CPUs and depots cache is more than all of a little.
        let most = match (mebibytes, row.case.cpus) {
            (16, 1) => 1.3,
            (16, _) => 1.6,
            _ => 9.0,
        };
        assert!((1.0..most).contains(&(held / live)), "{}: {footprint:?}", row.case);
        // Of so little much is cached; lists that were given back themselves are not in it.
        let kept = footprint.end_held as f64;
        assert!(kept > 0.0 && kept < held * 1.1, "{}: {footprint:?}", row.case);
        let watched: Vec<&str> = row.series.iter().map(|series| series.name).collect();
        // Not what was seen of the few blocks that are checked.
        assert_eq!(watched, ["memory held per live byte"], "{}", row.case);
        let points = &row.series[0].points;
        let per_sample = row.operations as f64 / 5.0;
        let looks: Vec<f64> = points.iter().map(|point| point.0).collect();
        let expected: Vec<f64> = (0..=5).map(|sample| f64::from(sample) * per_sample).collect();
        assert_eq!(looks, expected, "{}", row.case);
        assert!((points[5].1 - held / live).abs() < 1e-9, "{points:?}, {footprint:?}");
        // Five times what there is.
        assert!(row.operations as f64 >= 5.0 * live / 690.0, "{}: {}", row.case, row.operations);
    }
    machine.assert_all_returned();
}

#[test]
fn what_is_held_is_not_told_when_there_was_no_time_to_replace_all_objects() {
    let machine = Machine::new();
    let settings = Settings {
        workloads: vec![Workload::Footprint],
        cpus: vec![1],
        samples: 5,
        patience: Some(0),
        ..Settings::default()
    };
    let mut told = Vec::new();
    run(machine, &machine, &settings, &mut |row| {
        assert_eq!((row.errors, row.samples_wanted), (0, Some(5)), "{}", row.case);
        told.push((row.case.variant, row.footprint.is_some()));
    });
    assert_eq!(told.last(), Some(&(Some(Variant::Live(16)), false)));
    machine.assert_all_returned();
}

#[test]
fn huge_pages_are_counted_while_blocks_are_replaced() {
    let machine = Machine::with_nodes_of(128 * MIB);
    let settings = Settings {
        workloads: vec![Workload::LlfreeFrag],
        orders: vec![0, 9],
        cpus: vec![1, 2],
        samples: 2,
        effort: Effort::Fixed,
        ..Settings::default()
    };
    run(machine, &machine, &settings, &mut |row| {
        assert_eq!(row.errors, 0, "{}", row.case);
        let series = row.series.iter().find(|series| series.name == "huge pages (2 MiB) free again");
        let points = &series.expect("the service shows its free blocks").points;
        let per_sample = row.operations as f64 / 2.0;
        let looks: Vec<f64> = points.iter().map(|point| point.0).collect();
        assert_eq!(looks, [0.0, per_sample, 2.0 * per_sample], "{}", row.case);
        // Half of 32 MiB a CPU.
        let freed = 8.0 * row.case.cpus as f64;
        for (_, again) in points {
            match row.case.extent {
                Extent::Order(9) => assert!((again - freed).abs() < 0.5, "{}: {points:?}", row.case),
                _ => assert!(*again < freed / 4.0, "{}: {points:?}", row.case),
            }
        }
    });
    machine.assert_all_returned();
}
