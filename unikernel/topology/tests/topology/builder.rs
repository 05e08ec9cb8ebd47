//! Simulated machines.

use crate::support::{GIB, KIB, MIB};
use quarry_topology::{
    BuildError, Builder, DistanceSource, MAX_CPUS, MAX_HOLES, MAX_NODES, MAX_RANGES, MemoryRange, NodeId, NodeSource,
    PhysicalRange, Topology,
};

const N0: NodeId = NodeId(0);
const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);

#[track_caller]
fn built(builder: &Builder) -> Topology {
    let topology = builder.build().expect("the description is sound");
    topology.validate().expect("what is built is valid");
    topology
}

fn memory(topology: &Topology) -> Vec<(u64, u64, u8)> {
    topology.memory().iter().map(|memory| (memory.range.start, memory.range.end, memory.node.0)).collect()
}

#[track_caller]
fn refused(builder: &Builder, with: BuildError) {
    assert_eq!(builder.build().err(), Some(with));
    let sentence = with.to_string();
    assert!(sentence.contains(": ") && !sentence.ends_with('.'), "says what is wrong and what to do: {sentence}");
}

#[test]
fn nodes_lie_one_above_the_other_and_cpus_count_through() {
    let topology = built(&Topology::builder().node(GIB, 2).node(2 * GIB, 1));
    assert_eq!(memory(&topology), [(0, GIB, 0), (GIB, 3 * GIB, 1)]);
    let cpus: Vec<_> = topology.cpus().iter().map(|cpu| (cpu.apic_id, cpu.node)).collect();
    assert_eq!(cpus, [(0, N0), (1, N0), (2, N1)]);
    assert_eq!(topology.distance(N0, N1), 20);
    assert_eq!((topology.proximity_domain(N0), topology.proximity_domain(N1)), (0, 1));
    assert_eq!(topology.node_source(), NodeSource::Simulated);
    assert_eq!(topology.distance_source(), DistanceSource::Simulated);
}

#[test]
fn nodes_may_have_no_memory_or_no_cpus() {
    let topology = built(&Topology::builder().node(0, 2).node(GIB, 0).node(0, 1));
    assert_eq!(topology.nodes().map(|node| topology.has_memory(node)).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(topology.nodes().map(|node| topology.has_cpus(node)).collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn memory_goes_round_holes_and_ranges_given_by_hand() {
    let topology = built(
        &Topology::builder()
            .hole(PhysicalRange::new(3 * GIB, 4 * GIB))
            .hole(PhysicalRange::new(640 * KIB, MIB))
            .node(5 * GIB, 1)
            .node(GIB, 1)
            .node(0, 1)
            .range(N2, PhysicalRange::new(2 * GIB, 3 * GIB)),
    );
    assert_eq!(
        memory(&topology),
        [
            (0, 640 * KIB, 0),
            (MIB, 2 * GIB, 0),
            (2 * GIB, 3 * GIB, 2),
            (4 * GIB, 7 * GIB + 384 * KIB, 0),
            (7 * GIB + 384 * KIB, 8 * GIB + 384 * KIB, 1),
        ]
    );
}

#[test]
fn neighbours_are_joined_unless_their_flags_differ() {
    let plugged = MemoryRange { hot_pluggable: true, ..MemoryRange::new(N0, PhysicalRange::new(2 * GIB, 3 * GIB)) };
    let topology =
        built(&Topology::builder().memory_range(plugged).node(GIB, 1).range(N0, PhysicalRange::new(GIB, 2 * GIB)));
    assert_eq!(memory(&topology), [(0, 2 * GIB, 0), (2 * GIB, 3 * GIB, 0)]);
    assert!(topology.memory()[1].hot_pluggable);
}

#[test]
fn distances_and_domains_are_as_given() {
    let topology = built(
        &Topology::builder()
            .distance(N0, N1, 31)
            .distance_one_way(N2, N0, 17)
            .proximity_domain(N1, 8)
            .node(GIB, 1)
            .node(GIB, 1)
            .node(GIB, 1),
    );
    assert_eq!((topology.distance(N0, N1), topology.distance(N1, N0)), (31, 31));
    assert_eq!((topology.distance(N2, N0), topology.distance(N0, N2)), (17, 20));
    assert_eq!(topology.nodes().map(|node| topology.proximity_domain(node)).collect::<Vec<_>>(), [0, 8, 9]);
}

#[test]
fn building_into_a_used_topology_leaves_nothing_of_it() {
    let mut topology = built(&Topology::builder().node(GIB, 2).node(GIB, 3).distance(N0, N1, 99));
    Topology::builder().node(MIB, 1).node(MIB, 1).build_into(&mut topology).expect("sound");
    topology.validate().expect("valid");
    assert_eq!(topology.cpus().len(), 2);
    assert_eq!(topology.distance(N0, N1), 20);
    assert_eq!(memory(&topology), [(0, MIB, 0), (MIB, 2 * MIB, 1)]);
}

#[test]
fn the_largest_machine_can_be_built() {
    let mut builder = Topology::builder();
    for _ in 0..MAX_NODES {
        builder = builder.node(MIB, MAX_CPUS / MAX_NODES);
    }
    let topology = built(&builder);
    assert_eq!((topology.node_count(), topology.cpus().len()), (MAX_NODES, MAX_CPUS));
    refused(&builder.clone().node(MIB, 0), BuildError::TooManyNodes);
}

#[test]
fn impossible_machines_are_refused() {
    let one = || Topology::builder().node(GIB, 1);
    let page = |start| PhysicalRange::new(start, start + 4 * KIB);
    refused(&Topology::builder(), BuildError::NoNodes);
    refused(&Topology::builder().node(GIB, 0), BuildError::NoCpus);
    refused(&Topology::builder().node(0, 1), BuildError::NoMemory);
    refused(&one().node(0, 0), BuildError::EmptyNode(N1));
    refused(&one().node(GIB, MAX_CPUS), BuildError::TooManyCpus);
    refused(&one().node(GIB, usize::MAX), BuildError::TooManyCpus);
    refused(&Topology::builder().node(GIB + 1, 1), BuildError::Unaligned(N0));
    refused(&one().range(N0, PhysicalRange::new(2 * GIB + 1, 3 * GIB)), BuildError::Unaligned(N0));
    refused(&one().range(N0, PhysicalRange::new(3 * GIB, 2 * GIB)), BuildError::EmptyRange(N0));
    refused(&one().range(N1, page(2 * GIB)), BuildError::UnknownNode(N1));
    refused(&one().range(N0, page(GIB)).range(N0, page(GIB)), BuildError::Overlap(N0));
    let half = 1 << 63;
    refused(&Topology::builder().node(half, 1).node(half, 1), BuildError::AddressOverflow(N1));
    refused(&one().distance(N0, N1, 20), BuildError::UnknownNode(N1));
    refused(&one().distance(N0, NodeId(64), 20), BuildError::UnknownNode(NodeId(64)));
    refused(&one().distance(NodeId(255), N0, 20), BuildError::UnknownNode(NodeId(255)));
    refused(&one().node(GIB, 1).distance(N0, N1, 9), BuildError::BadDistance(N0, N1, 9));
    refused(&one().distance(N0, N0, 11), BuildError::BadDistance(N0, N0, 11));
    refused(&one().proximity_domain(N1, 4), BuildError::UnknownNode(N1));
    refused(&one().proximity_domain(NodeId(64), 4), BuildError::UnknownNode(NodeId(64)));
    refused(&one().node(GIB, 1).proximity_domain(N0, 4).proximity_domain(N1, 4), BuildError::DomainOrder(N1));
    refused(&one().node(GIB, 1).proximity_domain(N0, u32::MAX), BuildError::DomainOrder(N1));
    refused(&one().hole(PhysicalRange::new(1, 4096)), BuildError::BadHole(PhysicalRange::new(1, 4096)));
    let crowd = (0..=MAX_HOLES as u64).fold(one(), |builder, hole| builder.hole(page(hole << 20)));
    refused(&crowd, BuildError::TooManyHoles);
    let crowd = (0..=MAX_RANGES as u64).fold(one(), |builder, range| builder.range(N0, page(range << 20)));
    refused(&crowd, BuildError::TooManyRanges);
}

#[test]
fn the_first_mistake_is_the_one_told() {
    refused(&Topology::builder().node(GIB, 1).distance(N0, N0, 3).node(1, 1), BuildError::BadDistance(N0, N0, 3));
}

#[test]
fn a_topology_reads_like_numactl() {
    let builder = Topology::builder().node(512 * MIB, 2).node(0, 2).node(512 * MIB, 0).distance(N0, N2, 120);
    insta::assert_snapshot!(built(&builder), @r"
    available: 3 nodes (0-2)
    node 0 cpus: 0 1
    node 0 size: 512 MB
    node 1 cpus: 2 3
    node 1 size: 0 MB
    node 2 cpus:
    node 2 size: 512 MB
    node distances:
    node   0   1   2
      0:  10  20 120
      1:  20  10  20
      2: 120  20  10
    ");
    insta::assert_snapshot!(Topology::empty(), @"available: 0 nodes");
}

#[test]
fn whoever_knows_what_is_free_gets_all_lines_of_numactl() {
    let topology = built(&Topology::builder().node(512 * MIB, 1).node(0, 1));
    insta::assert_snapshot!(topology.hardware(|node| if node == N0 { 500 * MIB + 1 } else { 0 }), @r"
    available: 2 nodes (0-1)
    node 0 cpus: 0
    node 0 size: 512 MB
    node 0 free: 500 MB
    node 1 cpus: 1
    node 1 size: 0 MB
    node 1 free: 0 MB
    node distances:
    node   0   1
      0:  10  20
      1:  20  10
    ");
}
