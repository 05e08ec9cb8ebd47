//! What is expected of machines, and that whatever differs is told.

use super::*;
use quarry_record::StatisticsRow;

const GIB: u64 = 1 << 30;

fn two_nodes() -> Machine {
    Machine::even(Board::Q35, 2, 4, Size(2 * GIB))
}

/// What a guest without fault finds on [`two_nodes`].
fn found() -> (Run, Statistics) {
    let node = |id: u32, memory: &[[u64; 2]]| quarry_record::Node {
        id,
        domain: Some(id),
        memory_bytes: memory.iter().map(|[start, end]| end - start).sum(),
        memory: memory.to_vec(),
        cpus: [2 * id, 2 * id + 1].map(|id| quarry_record::Cpu { id, apic_id: id }).to_vec(),
    };
    let topology = Topology {
        nodes: vec![node(0, &[[0x1000, 0x9f000], [0x10_0000, GIB]]), node(1, &[[GIB, 2 * GIB - 0x2_0000]])],
        distances: even_distances(2),
        source: "SRAT".into(),
        distance_source: "SLIT".into(),
    };
    let total = topology.nodes.iter().map(|node| node.memory_bytes).sum();
    let rows = vec![StatisticsRow { name: "free".into(), bytes: total }];
    (Run { topology, cpus_online: 4, ..Run::default() }, Statistics { total, rows, adds_up: true, approximate: false })
}

fn complaints(change: impl FnOnce(&mut Run, &mut Statistics)) -> String {
    let (mut run, mut statistics) = found();
    change(&mut run, &mut statistics);
    let expectation = Expectation::new(&two_nodes(), &Expect::default());
    expectation.check(&run, Some(&statistics)).err().unwrap_or_default().join("\n")
}

#[test]
fn what_was_asked_for_is_accepted() {
    assert_eq!(complaints(|_, _| {}), "");
}

#[test]
fn everything_that_differs_is_told() {
    let complaints = [
        complaints(|run, _| run.topology.nodes.truncate(1)),
        complaints(|run, _| run.topology.source = "assumed".into()),
        complaints(|run, _| run.warnings = 2),
        complaints(|run, _| run.topology.distances[1][0] = 21),
        complaints(|run, _| run.cpus_online = 3),
        complaints(|run, _| run.topology.nodes[1].cpus.truncate(1)),
        complaints(|run, _| run.topology.nodes[1].cpus[0].apic_id = 0),
        complaints(|run, _| run.topology.nodes[1].memory_bytes -= 4096),
        complaints(|run, _| run.topology.nodes[1].memory = vec![[GIB + (4 << 20), 2 * GIB]]),
        complaints(|run, _| run.topology.nodes[1].memory[0][0] -= 4096),
        complaints(|_, statistics| statistics.rows[0].bytes -= 1),
        complaints(|_, statistics| {
            statistics.rows[0].bytes -= 4096;
            statistics.total -= 4096;
        }),
    ];
    insta::assert_snapshot!(complaints.join("\n--\n"), @"
    nodes: found 1, wanted 2
    CPUs are not numbered from 0 to 3: [0, 1]
    the statistics are of 2146951168 bytes, but the nodes have 1073340416
    --
    nodes come from: found assumed, wanted SRAT
    --
    warnings: found 2, wanted 0
    --
    distances: found 10 20 / 21 10, wanted 10 20 / 20 10
    --
    CPUs that work: found 3, wanted 4
    --
    CPUs of node 1: found 1, wanted 2
    CPUs are not numbered from 0 to 3: [0, 1, 2]
    --
    two CPUs have the APIC id 0
    --
    the ranges of node 1 make 1073610752 bytes, not 1073606656
    the statistics are of 2146951168 bytes, but the nodes have 2146947072
    --
    the ranges of node 1 make 1069547520 bytes, not 1073610752
    node 1 lacks memory in 0x40000000-0x80000000
    --
    the ranges of node 1 make 1073614848 bytes, not 1073610752
    node 1 has 0x3ffff000-0x7ffe0000, which is not its own
    memory at 0x3ffff000 belongs to two
    --
    the statistics make Some(2146951167) bytes, not 2146951168
    --
    the statistics are of 2146947072 bytes, but the nodes have 2146951168
    ");
}

#[test]
fn missing_statistics_are_told() {
    let expectation = Expectation::new(&two_nodes(), &Expect::default());
    assert_eq!(expectation.check(&found().0, None), Err(vec!["no statistics".into()]));
}

#[test]
fn memory_goes_on_above_the_hole() {
    let node = |gib| Node { memory: Size(gib * GIB), cpus: 1 };
    let ranges = node_ranges(Board::Q35, &[node(1), node(3), node(0), node(1)]);
    let expected: [&[[u64; 2]]; 4] = [&[[0, GIB]], &[[GIB, 2 * GIB], [4 * GIB, 6 * GIB]], &[], &[[6 * GIB, 7 * GIB]]];
    assert_eq!(ranges, expected);
    assert_eq!(node_ranges(Board::Pc, &[node(3)]), [[[0, 3 * GIB]]]);
    assert_eq!(node_ranges(Board::Pc, &[node(4)]), [[[0, 3 * GIB], [4 * GIB, 5 * GIB]]]);
}

#[test]
fn a_file_overrides_what_tables_falsify() {
    let expect = Expect {
        nodes: Some(vec![Node { memory: Size(2 * GIB), cpus: 4 }]),
        distances: Some(even_distances(1)),
        source: Some("assumed".into()),
        warnings: Some(1),
    };
    let (mut run, statistics) = found();
    let second = run.topology.nodes.pop().expect("there are two");
    let first = &mut run.topology.nodes[0];
    first.cpus.extend(second.cpus);
    first.memory.extend(second.memory);
    first.memory_bytes += second.memory_bytes;
    run.topology.distances = even_distances(1);
    run.topology.source = "assumed".into();
    run.warnings = 1;
    assert_eq!(Expectation::new(&two_nodes(), &expect).check(&run, Some(&statistics)), Ok(()));
}
